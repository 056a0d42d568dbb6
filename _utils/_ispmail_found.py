"""Read the SQL tables that a Postfix has now, and print the pillar that describes them."""

from __future__ import annotations

import yaml

import _ispmail_adopt
import _ispmail_files
import _ispmail_inventory
import _ispmail_plan
from _ispmail_adopt import Adopted, Source
from _ispmail_errors import CannotAsk
from _ispmail_inventory import Settings

# The first line keeps Salt from reading {{ and {% in a query as Jinja.
_HEAD = """\
#!yaml
# The SQL tables of Postfix in {directory}, as pillar. Write the passwords in place of the placeholders.
"""
_LEFT_OUT = """\
# What pillar does not hold, and why. Read it, then delete it here.
"""


def found(config_directory: str) -> Adopted:
    """Describe the SQL tables of one Postfix as pillar does, without a password.

    Raises:
        CannotAsk: There is no Postfix, or no main.cf.
    """
    inventory = _ispmail_inventory.read(config_directory)
    tables = _ispmail_adopt.named(inventory.places, inventory.unasked)
    # Those that pillar cannot hold too: their passwords are in no value that is printed.
    sources = {each.path: _read(each.path, inventory.settings) for each in tables}
    return _ispmail_adopt.adopt(tables, sources, config_directory, inventory.settings.version)


def text(adopted: Adopted, config_directory: str) -> str:
    """Write what was found as YAML: `ispmail`, and `left_out` where there is something."""
    pillar = _HEAD.format(directory=config_directory) + _yaml({"ispmail": dict(adopted.section)})
    return pillar + _LEFT_OUT + _yaml({"left_out": list(adopted.left_out)}) if adopted.left_out else pillar


def _yaml(value: object) -> str:
    # Postfix asks maps in the order of pillar: it has to be kept.
    dumped: str = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=float("inf"))
    return dumped


def _read(path: str, known: Settings) -> Source:
    try:
        file = _ispmail_files.read(path)
    except CannotAsk as err:
        return Source(None, error=str(err))
    differs = file.content is not None and not _ispmail_plan.is_as_written(file, known)
    owned = "{owner}:{group} {mode}".format(**_ispmail_plan.ownership(file)) if differs else ""
    return Source(file.content, ownership=owned)
