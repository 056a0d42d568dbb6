"""All instances of Postfix on one server: those of pillar, and those that a main.cf names, see postmulti(1)."""

from __future__ import annotations

import itertools
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import _ispmail_inventory
import _ispmail_postfix
from _ispmail_config import DEFAULT_DIRECTORY, Instance
from _ispmail_errors import CannotAsk, printable
from _ispmail_inventory import Inventory, Settings
from _ispmail_maincf import INSTANCES, words


class Others(NamedTuple):
    """The instances of a server beside given ones."""

    read: tuple[Inventory, ...]
    unread: Mapping[str, str]  # directory to a sentence: why nobody can tell which tables that one asks


def others(own: Sequence[Inventory], named: Collection[str] = ()) -> Others:
    """Read the other instances of this server: the default one, and those that a main.cf of any names.

    Args:
        own: Those that are read already.
        named: The directories of more, such as pillar's.
    """
    found: list[Inventory] = []
    unread: dict[str, str] = {}
    seen = {_real(each) for each in own}
    waiting = [DEFAULT_DIRECTORY, *named, *(folder for each in own for folder in _named(each.settings))]
    for folder in waiting:
        real = os.path.realpath(folder)
        if real in seen or not _ispmail_postfix.is_there(folder):
            continue
        seen.add(real)
        try:
            found.append(_ispmail_inventory.read(folder))
        except CannotAsk as err:
            unread[folder] = (
                f"whether the Postfix in {printable(folder)} asks the table files could not be told: {err}: mend that,"
                f" or take the directory out of {' and '.join(INSTANCES)} of main.cf"
            )
        else:
            waiting += _named(found[-1].settings)
    return Others(tuple(found), unread)


def may_run(inventory: Inventory) -> bool:
    """Whether an instance runs, or will be started with the default one."""
    known = inventory.settings
    if known.expanded("multi_instance_enable").lower() == "yes" or _real(inventory) == os.path.realpath(
        DEFAULT_DIRECTORY
    ):
        return True
    try:
        return _ispmail_postfix.running(known.queue_directory)
    except CannotAsk:
        return True


def old_processes(instances: Iterable[Instance]) -> list[str]:
    """Tell which processes of this server started before the table files of pillar that they ask were replaced.

    Args:
        instances: Those of pillar; the others of this server may ask their table files too.

    Returns:
        A list such as ``smtpd 4711``: they use what they have read before, and end with their sessions.

    Raises:
        CannotAsk: An instance cannot be read.
    """
    some = [each for each in instances if each.wanted or _ispmail_postfix.is_there(each.config_directory)]
    own = [_ispmail_inventory.read(each.config_directory) for each in some]
    beside = others(own)
    if beside.unread:
        raise CannotAsk("; ".join(beside.unread.values()))
    paths = [[one.path for one in each.wanted] for each in some]
    ours = {os.path.realpath(path) for each in paths for path in each}
    found: list[str] = []
    own_first = [*zip(own, paths, itertools.repeat("")), *((each, list[str](), f" {of(each)}") for each in beside.read)]
    for inventory, of_pillar, where in own_first:
        files = list(dict.fromkeys([*of_pillar, *(each.path for each in inventory.tables if each.path in ours)]))
        old = _ispmail_postfix.old_processes(files, inventory.settings.queue_directory, inventory.programs(files))
        found += [f"{process}{where}" for process in old]
    return found


def of(inventory: Inventory) -> str:
    """Which Postfix it is, for people."""
    return f"of the Postfix in {printable(inventory.settings.config_directory)}"


def _real(inventory: Inventory) -> str:
    return os.path.realpath(inventory.settings.config_directory)


def _named(known: Settings) -> list[str]:
    return [word for name in INSTANCES for word in words(known.expanded(name))]
