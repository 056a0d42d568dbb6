"""Take maps out of one Postfix instance: main.cf first, then their table files, and put back if mail suffers."""

from __future__ import annotations

import functools
import itertools
import logging
import os
import re
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import _ispmail_files
import _ispmail_instances
import _ispmail_inventory
import _ispmail_journal
import _ispmail_postconf
import _ispmail_postfix
import _ispmail_smtpd
import _ispmail_transaction
from _ispmail_answers import choose
from _ispmail_config import Instance, Map
from _ispmail_errors import CannotAsk, Failed, PillarFault
from _ispmail_expand import expand, names_in, sole_name
from _ispmail_files import Replacement
from _ispmail_inventory import Inventory, Settings, own_parameters
from _ispmail_maincf import PERMITS, without_inline, words
from _ispmail_plan import OPEN_DOMAINS, Outcome, finished, named_by, parameters_of, restriction_faults, table_file
from _ispmail_programs import is_check
from _ispmail_reach import without
from _ispmail_smtpd import refuse_if_worse
from _ispmail_transaction import Change

log = logging.getLogger(__name__)

_EMPTY_BRACES = re.compile(r"(?:unionmap|pipemap):\{[\s,]*\}")


def remove(
    instance: Instance,
    names: Sequence[str] | None,
    cache_directory: str,
    test: bool = False,
    directories: Collection[str] = (),
) -> Outcome:
    """Take maps out of main.cf, reload Postfix if it runs, ask smtpd, then remove their table files.

    A change that was cut off before is finished by it.

    Args:
        names: Maps in pillar; None for all. Those that it sets to null are not ours.
        cache_directory: Where the journal of changes is.
        test: Whether only to tell what would be done.
        directories: Those of all instances of pillar: another one may ask the table files too.

    Raises:
        InvalidInput: Pillar names no such map.
        CannotAsk: We are not root, or another Postfix of this server could not be read.
        Failed: A table file is still asked elsewhere, or main.cf or a file cannot be written. Everything is as
            before then.
    """
    began = time.monotonic()
    _ispmail_files.require_root()
    chosen = choose(instance, names)
    directory = instance.config_directory
    if not instance.wanted and not _ispmail_postfix.is_there(directory):
        # A server that has only other programs with the maps' account.
        return Outcome()
    inventory = _ispmail_inventory.read(directory)
    known = inventory.settings
    named = functools.cache(lambda: named_by(known))
    foreign = [fault for each in chosen if (fault := table_file(each, named)[1])]
    if faults := [*foreign, *restriction_faults(chosen, known)]:
        raise PillarFault(instance.pillar_key, faults)
    paths = {known.real_path(each.path) for each in chosen}
    parameters = _without(parameters_of(chosen), paths, inventory)
    files = [file for file in map(_ispmail_files.read, sorted(paths)) if file.content is not None]
    there = {file.path for file in files}
    changes: dict[str, Any] = {
        each.name: {"file": {"old": each.path, "new": None}} for each in chosen if known.real_path(each.path) in there
    }
    if parameters:
        old = {name: known.set_value(name) for name in parameters}
        changes["main.cf"] = _ispmail_postconf.differences(old, parameters, directory)
    after = _ispmail_inventory.changed(inventory, parameters)
    refuse_in_use(inventory, after, parameters, paths, there, directories)
    warnings = _doubts(chosen, after.settings)
    owned = tuple(each.path for each in instance.wanted)
    interrupted = _ispmail_journal.interrupted(directory, cache_directory, owned)
    running = (bool(parameters) or interrupted) and _ispmail_postfix.running(known.queue_directory)
    if interrupted:
        changes["postfix"] = finished(running)
    deletions = [Replacement(file._replace(content=None), still=(file.content,)) for file in files]
    if running:
        _ispmail_postfix.refuse_reload(after.settings.expanded)
    expected = known.relied_on(parameters)
    change = Change(
        directory,
        cache_directory,
        tuple(deletions),
        parameters,
        expected,
        known.queue_directory,
        act="remove",
        keep=instance.history,
        pillar_key=instance.pillar_key,
        owned=owned,
        programs=inventory.programs(paths),
    )
    if changes and test:
        _ispmail_transaction.rehearse(change)
    elif changes:
        before = _ispmail_smtpd.ask(inventory) if running else None

        def check(running: bool) -> None:
            if running and before:
                warnings.extend(refuse_if_worse(before, inventory))

        warnings += _ispmail_transaction.make(change, check, lambda: _ispmail_smtpd.describe_now(before, inventory))
        log.info("removed in %s: %s, in %.2f s", directory, ", ".join(changes), time.monotonic() - began)
    return Outcome(changes, len(chosen), tuple(dict.fromkeys(warnings)), running)


def _without(names: Sequence[str], paths: set[str], inventory: Inventory) -> dict[str, str | None]:
    """What the parameters become without these tables; None takes a parameter out."""
    known = inventory.settings
    own = _own_parameters(names, inventory)
    parameters: dict[str, str | None] = {}
    for name, value in without([*names, "proxy_read_maps"], own, paths, known.values, known.real_path).items():
        defaults = _ispmail_postconf.defaults([name], known.config_directory) if name == "proxy_read_maps" else {}
        parameters[name] = value if value and value != defaults.get(name) else None
    return parameters


def _own_parameters(names: Sequence[str], inventory: Inventory) -> list[str]:
    """The parameters of the admin's own that only these refer to, directly or by each other."""
    known = inventory.settings
    own: list[str] = []
    new = list(names)
    while new:
        referred = (sole_name(word) for name in new for word in words(known.values.get(name, "")))
        explicit = known.explicit.difference(own)
        candidates = [name for name in dict.fromkeys(filter(None, referred)) if name in explicit]
        found = own_parameters(candidates, known)
        new = [name for name in candidates if name in found]
        own += new
    users = _referred_by_others([*names, *own, "proxy_read_maps"], inventory)
    return [name for name in own if name not in users]


def _referred_by_others(ours: Sequence[str], inventory: Inventory) -> set[str]:
    """The parameters that something beside these refers to."""
    values = [value for name, value in inventory.settings.values.items() if "$" in value and name not in ours]
    values += [service.command for service in inventory.services]
    return {name for value in values for name in names_in(value)}


def refuse_in_use(
    inventory: Inventory,
    after: Inventory,
    parameters: Mapping[str, str | None],
    paths: set[str],
    there: set[str],
    directories: Collection[str] = (),
) -> None:
    """Refuse to remove a table file while anything leads to it: each RCPT would be answered by 451.

    Args:
        there: Those of the paths where there is a file: another instance may ask it too.
        directories: Those of all instances of pillar.

    Raises:
        Failed: Names what leads to it.
        CannotAsk: Another Postfix of this server could not be read.
    """
    users = after.asking(paths)
    users += [f"{name} ({word})" for name, word in _left_alone(inventory, after, parameters)]
    if there:
        others = _ispmail_instances.others([inventory], directories)
        if others.unread:
            raise CannotAsk(f"Nothing was changed: {'; '.join(others.unread.values())}")
        users += [f"{each} {_ispmail_instances.of(other)}" for other in others.read for each in other.asking(there)]
    if users:
        users = list(dict.fromkeys(users))
        log.warning("refused to remove table files that are still asked by %s", ", ".join(users))
        raise Failed(
            f"Nothing was changed: the table files are asked by {', '.join(users)} too: take them out there first"
        )


def _left_alone(
    inventory: Inventory, after: Inventory, parameters: Mapping[str, str | None]
) -> Iterator[tuple[str, str]]:
    """Where a parameter that has nothing left is named by something that needs a table, such as check_…_access."""
    known, changed = inventory.settings.values, after.settings.values
    own = own_parameters((name for name, value in parameters.items() if not value), inventory.settings)
    options = [(f"{where}/", own, own) for where, own in inventory.options()]
    for prefix, given, values in [("", changed, {}), *options]:
        old, new = {**known, **values}, {**changed, **values}
        for name, value in given.items():
            # A permission needs no table.
            is_broken = name not in PERMITS and _lacking(expand(value, new)) > _lacking(expand(value, old))
            for before, word in itertools.pairwise(["", *words(value)]):
                if not own.isdisjoint(names_in(word)) or (is_broken and expand(word, new) != expand(word, old)):
                    shown = without_inline(word)
                    # What is not shown may name it.
                    shown += "".join(f", ${each}" for each in names_in(word) if each in own.difference(names_in(shown)))
                    yield f"{prefix}{name}", f"{before} {shown}" if is_check(before) else shown


def _lacking(expanded: str) -> int:
    """How often a table is missing that Postfix needs: behind ``check_…``, or in the braces of unionmap, pipemap."""
    found = words(expanded)
    alone = [
        word for word, table in itertools.zip_longest(found, found[1:]) if is_check(word) and ":" not in (table or "")
    ]
    return len(alone) + len(_EMPTY_BRACES.findall(expanded))


def _doubts(chosen: Sequence[Map], after: Settings) -> list[str]:
    """What is to be said of a removal, though it is possible."""
    found = [
        f"{each.path} is a link: the file that it leads to is removed, the link is left"
        for each in chosen
        if os.path.islink(each.path)
    ]
    if after.expanded("virtual_mailbox_domains") and not after.expanded("virtual_mailbox_maps"):
        found.append(OPEN_DOMAINS)
    return found
