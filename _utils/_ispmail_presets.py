"""What pillar's `preset` stands for: the maps of another project's tables. Pure.

The maps of PostfixAdmin (tried with 3.3) ask its tables as its own documents tell, but that domains for which the
server is only a backup MX are no virtual mailbox domains.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Without `preset`: the tables of the ISPmail guide, whose maps are in _ispmail_config.
DEFAULT = "ispmail"

_POSTFIXADMIN: dict[str, dict[str, str]] = {
    "virtual_mailbox_domains": {
        "query": "SELECT domain FROM domain WHERE domain = '%s' AND backupmx = '0' AND active = '1'",
    },
    "virtual_alias_maps": {
        "query": "SELECT goto FROM alias WHERE address = '%s' AND active = '1'",
    },
    # Each address of an alias domain stands for that of its target domain; then come the target's catch-alls.
    "alias_domain_aliases": {
        "parameter": "virtual_alias_maps",
        "query": (
            "SELECT alias.goto FROM alias_domain"
            " JOIN alias ON alias.address = CONCAT('%u', '@', alias_domain.target_domain)"
            " WHERE alias_domain.alias_domain = '%d' AND alias_domain.active = '1' AND alias.active = '1'"
        ),
    },
    "alias_domain_catch_all": {
        "parameter": "virtual_alias_maps",
        "query": (
            "SELECT alias.goto FROM alias_domain"
            " JOIN alias ON alias.address = CONCAT('@', alias_domain.target_domain)"
            " WHERE alias_domain.alias_domain = '%d' AND alias_domain.active = '1' AND alias.active = '1'"
        ),
    },
    "virtual_mailbox_maps": {
        "query": "SELECT maildir FROM mailbox WHERE username = '%s' AND active = '1'",
    },
    "alias_domain_mailboxes": {
        "parameter": "virtual_mailbox_maps",
        "query": (
            "SELECT mailbox.maildir FROM alias_domain"
            " JOIN mailbox ON mailbox.username = CONCAT('%u', '@', alias_domain.target_domain)"
            " WHERE alias_domain.alias_domain = '%d' AND alias_domain.active = '1' AND mailbox.active = '1'"
        ),
    },
}


def _postfixadmin(table_type: str) -> dict[str, dict[str, Any]]:
    return {
        "database": {"dbname": "postfix"},
        "server": {"create_tables": False},
        "maps": {name: {"type": table_type, **fields} for name, fields in _POSTFIXADMIN.items()},
    }


_PRESETS = {"postfixadmin": _postfixadmin("mysql"), "postfixadmin-pgsql": _postfixadmin("pgsql")}
NAMES = (DEFAULT, *_PRESETS)


def expanded(section: Any) -> Any:
    """Write out what `preset` stands for, as if pillar had it; what pillar says itself stays.

    Args:
        section: What pillar holds under the key. What is wrong with it is left as it is, for _ispmail_config to tell.

    Returns:
        The section. The preset's maps come first, in its own order: it decides which answer wins.
    """
    name = section.get("preset") if isinstance(section, Mapping) else None
    preset = _PRESETS.get(name) if isinstance(name, str) else None
    if preset is None:
        return section
    found = {**section}
    for key, values in preset.items():
        given = section.get(key)
        if given is None:
            found[key] = values
        elif isinstance(given, Mapping):
            found[key] = _maps(values, given) if key == "maps" else {**values, **given}
    return found


def _maps(preset: Mapping[str, Any], given: Mapping[Any, Any]) -> dict[Any, Any]:
    """The preset's maps as pillar changes them, and then pillar's own, of the same type unless they say another."""
    merged = {name: _merged(fields, given.get(name, {})) for name, fields in preset.items()}
    of_type = {"type": next(iter(preset.values()))["type"]}
    return {**merged, **{name: _merged(of_type, fields) for name, fields in given.items() if name not in preset}}


def _merged(preset: Mapping[str, Any], given: Any) -> Any:
    """A map that pillar changes; null, and what is no map, stay."""
    return {**preset, **given} if isinstance(given, Mapping) else given
