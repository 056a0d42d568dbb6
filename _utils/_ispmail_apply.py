"""Bring one Postfix instance to what pillar says: all or nothing, checked, and put back."""

from __future__ import annotations

import functools
import logging
import os
import time
from collections.abc import Sequence

import _ispmail_classes
import _ispmail_config
import _ispmail_files
import _ispmail_inventory
import _ispmail_logins
import _ispmail_postconf
import _ispmail_postfix
import _ispmail_smtpd
import _ispmail_sockets
import _ispmail_transaction
from _ispmail_answers import (
    UNCHECKED,
    Broken,
    answering,
    askers,
    broken_others,
    live,
    staged,
    unaskable,
    unasked_others,
    unread,
    wrong_answers,
)
from _ispmail_compare import Comparison
from _ispmail_config import CompleteInstance, CompleteMap
from _ispmail_errors import CannotAsk, Failed, Fault, PillarFault, below, listed
from _ispmail_hosts import hosts, names, parse_host
from _ispmail_inventory import Inventory, own_parameters
from _ispmail_plan import Difference, Outcome
from _ispmail_programs import command_fault, table_fault
from _ispmail_release import READ_WHEN_CONNECTING
from _ispmail_smtpd import refuse_if_worse
from _ispmail_transaction import Change

log = logging.getLogger(__name__)

_NO_WAY_OUT = "a link does not lead out of the chroot"


def apply(found: Comparison, cache_directory: str, test: bool = False) -> Outcome:
    """Bring the table files, main.cf and the consumers' option files to what pillar says.

    Each new table file is asked before it goes live; the expected answers are compared before and after; main.cf and
    the files are replaced together; Postfix is reloaded if it runs; and if anything fails, everything is put back.

    Args:
        found: What `_ispmail_compare.compare` has just found.
        cache_directory: Where the journal of changes is.
        test: Whether only to tell what would be done. New table files are asked all the same, from memory.

    Raises:
        PillarFault: What pillar asks for cannot work on this server; lists all faults.
        CannotAsk: There are maps and no Postfix; a dry run warns of that.
        Failed: A map could not be asked or gave another answer, a consumer would not use the new password, or a file
            could not be written. Everything is as before then.
    """
    if found.lacks_postfix and not test:
        raise CannotAsk("Postfix is not installed: install the package postfix")
    warnings = _ispmail_logins.probe(found.consumers) if found.option_files.changes else []
    if found.maps and found.concerns_postfix:
        return _apply_to_postfix(found, found.maps, cache_directory, test, warnings)
    if found.is_due:
        _apply_to_consumers(found, cache_directory, test)
    return found.outcome(warnings)


def _apply_to_postfix(
    found: Comparison, difference: Difference, cache_directory: str, test: bool, warnings: list[str]
) -> Outcome:
    instance, directory = found.instance, found.instance.config_directory
    queue_directory = difference.settings.queue_directory
    began = time.monotonic()
    inventory = _ispmail_inventory.read(directory, difference.settings)
    running = _ispmail_postfix.running(queue_directory)
    warnings = [*warnings, *_check(instance, difference, inventory, running)]
    if not running:
        warnings.append("Postfix is not running, so there was nothing to reload")
    warnings += refuse_before_a_reload(broken_others(instance.maps, inventory, running), inventory, running)
    warnings += unasked_others(instance.maps, inventory)
    after = _ispmail_inventory.changed(inventory, difference.parameters)
    if running:
        _ispmail_postfix.refuse_reload(after.settings.expanded)
    files = (*difference.files, *found.option_files.files)
    expected = difference.settings.relied_on(difference.parameters)
    paths = [each.path for each in instance.maps]
    change = Change(
        directory,
        cache_directory,
        files,
        difference.parameters,
        expected,
        queue_directory,
        keep=instance.history,
        pillar_key=instance.pillar_key,
        named=_ispmail_transaction.named((each.path for each in after.tables), files),
        owned=found.owned,
        asked=frozenset(each.path for each in inventory.tables),
        programs=inventory.programs(paths) | after.programs(paths),
    )
    if test:
        _ispmail_transaction.rehearse(change)
    else:
        changed = {each.name for each in instance.maps} if found.interrupted else set(difference.changed)
        warnings += make(instance, change, changed, inventory, after, running)
        shown = ", ".join(sorted({*changed, *found.option_files.changes})) or "nothing but a reload"
        log.info("applied in %s: %s, in %.2f s", directory, shown, time.monotonic() - began)
    return found.outcome(warnings, running)


def refuse_before_a_reload(broken: Sequence[Broken], inventory: Inventory, running: bool) -> list[str]:
    """Refuse a change where a reload would have Postfix notice that it cannot open a table of somebody else's.

    Returns:
        Warnings of such tables where Postfix knows already, and of those whose question fails.

    Raises:
        Failed: Names the tables.
    """
    unopened = [str(each) for each in broken if not each.opens]
    if unopened and running and not _ispmail_smtpd.ask(inventory).cannot_ask:
        head = "Nothing was changed. Postfix works without these tables until its next reload, which this needs"
        raise Failed(listed(head, [f"{each} (mend it, or take it out)" for each in unopened]))
    return [str(each) for each in broken]


def _check(instance: CompleteInstance, difference: Difference, inventory: Inventory, running: bool) -> list[str]:
    """Refuse what this server cannot do, ask each new table file and all that pillar expects, return the warnings."""
    unknown, warnings = _unknown_in_chroot(instance, inventory)
    faults = [*difference.faults, *_faults_here(instance, difference, inventory), *(unknown if running else [])]
    changed = [each for each in instance.maps if each.name in difference.changed]
    # A table that answers is of a type that Postfix has.
    if faults or {each.type for each in instance.maps} != {each.type for each in changed}:
        faults = [*_unopenable(instance), *faults]
    if faults:
        raise PillarFault(instance.pillar_key, faults)
    # Where Postfix does not run: a start of Debian's copies the files anew.
    warnings += below(instance.pillar_key, unknown)
    warnings += [f"{name} is not a parameter that Postfix knows: is it spelt right?" for name in difference.unknown]
    warnings += unread(changed, inventory)
    failures, doubts = unaskable(staged(changed, inventory), instance.config_directory)
    # Of all maps: what is wrong in one that stays would put the change back.
    failures = failures or wrong_answers(instance, staged(answering(instance, instance.maps), inventory))
    if failures:
        if faults := _unopenable(instance):
            raise PillarFault(instance.pillar_key, faults)
        raise Failed(listed("Nothing was changed, Postfix answers as before", failures))
    of_classes = [each for each in changed if each.parameter in _ispmail_classes.ORDER]
    for group in staged(of_classes, inventory):
        doubts += _ispmail_classes.taken_before(of_classes, group, inventory)
    return [*warnings, *doubts]


def _faults_here(instance: CompleteInstance, difference: Difference, inventory: Inventory) -> list[Fault]:
    """What pillar asks for, and this server does not have; see `_unopenable` for types of tables."""
    unsafe = functools.cache(_ispmail_files.unsafe_directory)
    owner = inventory.settings.expanded("mail_owner")
    may_enter = functools.cache(lambda directory: _ispmail_files.permits(owner, "x", directory))
    faults = [
        Fault(f"maps:{each.name}:file", "is in a directory that does not exist", "create it first")
        for each in instance.maps
        if not os.path.isdir(os.path.dirname(each.path))
    ]
    doubtful = [name for name in difference.parameters if table_fault(name, name, is_own=False)]
    own = own_parameters(doubtful, inventory.settings)
    for each in instance.maps:
        for directory in dict.fromkeys(map(os.path.dirname, (each.path, inventory.settings.real_path(each.path)))):
            if os.path.isdir(directory) and (reason := unsafe(directory)):
                faults.append(Fault(f"maps:{each.name}:file", f"is where {reason}", "choose a directory of root's"))
            if each.proxy and os.path.isdir(directory) and not may_enter(directory):
                closed = f"is in {directory}, which user {owner} may not enter, and proxymap opens it as that user"
                fix = "let that user enter it and the directories above it, or choose another file"
                faults.append(Fault(f"maps:{each.name}:file", closed, fix))
        if each.parameter in difference.parameters:
            is_own = each.parameter in own
            key = f"maps:{each.name}:parameter"
            of_commands = command_fault(each.parameter, key, inventory.openers(each.parameter))
            faults += filter(None, [table_fault(each.parameter, key, is_own) or of_commands])
        faults += _unknown_services(each)
        for as_ in askers(each, inventory, staged=True):
            faults += _missing_in_chroot(each, as_.chroot) if as_.chroot else []
        for reader in inventory.readers(each.parameter, each.proxy) if each.type == "sqlite" else ():
            faults += _log_outside_chroot(each, reader.chroot) if reader.chroot else []
    return [*dict.fromkeys(faults), *_ispmail_config.release_faults(instance, inventory.settings.version)]


def _unopenable(instance: CompleteInstance) -> list[Fault]:
    """The types of tables that this Postfix does not have."""
    types = _ispmail_postconf.table_types(instance.config_directory)
    return [
        Fault(f"maps:{each.name}:type", "cannot be opened by this Postfix", f"install postfix-{each.type}")
        for each in instance.maps
        if each.type not in types
    ]


def _unknown_services(each: CompleteMap) -> list[Fault]:
    """Ports that are names which this server does not know: fatal to Postfix."""
    ports = [parse_host(text, each.type).port for text in hosts(each.canonical)]
    return [
        Fault(
            each.sources["hosts"],
            "has the name of a service as port, which /etc/services does not have",
            "write the number",
        )
        for port in ports
        if isinstance(port, str) and not _ispmail_sockets.is_service(port)
    ]


def _missing_in_chroot(each: CompleteMap, chroot: str) -> list[Fault]:
    """What a program opens when it connects to the database, which it does from inside its chroot."""
    faults = [
        Fault(
            each.sources[key],
            f"is read inside the chroot {chroot}, and {where} is not there",
            f"copy it there ({_NO_WAY_OUT}), or set proxy: true",
        )
        for key, value in each.canonical.items()
        if key in READ_WHEN_CONNECTING and value and not os.path.exists(where := _ispmail_files.inside(chroot, value))
    ]
    sockets = [parse_host(text, each.type).socket for text in hosts(each.canonical)]
    faults += [
        Fault(
            each.sources["hosts"],
            f"is a socket, which is looked for inside the chroot {chroot}, and {where} is not there",
            f"write 127.0.0.1, set proxy: true, or mount the socket's directory there ({_NO_WAY_OUT})",
        )
        for socket in sockets
        if socket and not os.path.exists(where := _ispmail_files.inside(chroot, socket))
    ]
    return faults


def _unknown_in_chroot(instance: CompleteInstance, inventory: Inventory) -> tuple[list[Fault], list[str]]:
    """Hosts whose names cannot be resolved in the chroot of a reader, and warnings where that could not be told."""
    faults, doubts = [], []
    found: dict[tuple[str, str], dict[str, list[CompleteMap]]] = {}
    for each in instance.maps:
        for as_ in askers(each, inventory, staged=True):
            if as_.chroot and as_.user:
                for name in names(each.canonical, each.type):
                    found.setdefault((as_.chroot, as_.user), {}).setdefault(name, []).append(each)
    for (chroot, user), by_name in found.items():
        try:
            unknown = _ispmail_sockets.unknown_in_chroot(by_name, chroot, user)
        except CannotAsk as err:
            doubts.append(
                f"whether the hosts of the maps can be resolved inside the chroot {chroot} could not be told: {err}"
            )
            continue
        faults += [
            Fault(
                each.sources["hosts"],
                f"names {name}, which can be resolved on this server, but not inside the chroot {chroot} ({reason})",
                _ispmail_sockets.KNOWN_IN_CHROOT,
            )
            for name, reason in unknown.items()
            for each in by_name[name]
        ]
    return list(dict.fromkeys(faults)), doubts


def _log_outside_chroot(each: CompleteMap, chroot: str) -> list[Fault]:
    """A database in WAL mode: Postfix opens its file before the chroot, and its log at the first question.

    trivial-rewrite and smtpd end there with "disk I/O error", see https://www.sqlite.org/fileformat.html for the bytes.
    """
    path = each.canonical["dbpath"]
    inside = _ispmail_files.inside(chroot, path)
    try:
        with open(path, "rb") as file:
            header = file.read(20)
        is_inside = os.path.exists(inside) and os.path.samefile(path, inside)
    except OSError:
        # The questions to the table tell why.
        return []
    if header[18:] != b"\2\2" or is_inside:
        return []
    return [
        Fault(
            each.sources["dbpath"],
            f"is a database in WAL mode, whose log is looked for inside the chroot {chroot}, and is not there",
            f"set proxy: true, or run sqlite3 {path} 'PRAGMA journal_mode=delete'",
        )
    ]


def _apply_to_consumers(found: Comparison, cache_directory: str, test: bool) -> None:
    """Replace option files only. What Postfix has read is as before: it need not run, nor be there."""
    began = time.monotonic()
    instance, files = found.instance, found.option_files.files
    change = Change(
        instance.config_directory,
        cache_directory,
        files,
        keep=instance.history,
        pillar_key=instance.pillar_key,
        owned=found.owned,
    )
    if test:
        _ispmail_transaction.rehearse(change)
        return
    _ispmail_transaction.make(change)
    log.info("applied: %s, in %.2f s", ", ".join(found.option_files.changes), time.monotonic() - began)


def make(
    instance: CompleteInstance, change: Change, changed: set[str], inventory: Inventory, after: Inventory, running: bool
) -> list[str]:
    """Make the change, ask the live maps and smtpd itself, and return the warnings.

    Args:
        inventory: Postfix as it is.
        after: Postfix as it will be.

    Raises:
        Failed, NotPutBack: As `_ispmail_transaction.make` does.
    """
    before = _ispmail_smtpd.ask(inventory) if running else None
    astray_before = _ispmail_classes.astray(instance, inventory) if running else []
    warnings = []

    def check(running: bool) -> None:
        _ask_live(instance, changed, running, after)
        if not running:
            return
        warnings.extend(refuse_if_worse(before, after))
        astray = _ispmail_classes.astray(instance, after)
        if caused := [each for each in astray if each not in (*astray_before, UNCHECKED)]:
            raise Failed(listed("Mail would not go the way that pillar expects", caused))
        warnings.extend(astray)

    # One that is silent has to answer after the change.
    if before and before.was_not_asked and not before.is_silent:
        warnings.append(
            f"smtpd itself was not asked ({before.text}): send a mail to see whether its chroot has all that it needs"
        )
    warnings += _ispmail_transaction.make(change, check, lambda: _ispmail_smtpd.describe_now(before, inventory))
    return list(dict.fromkeys(warnings))


def _ask_live(instance: CompleteInstance, changed: set[str], running: bool, inventory: Inventory) -> None:
    """Ask the live tables, through proxymap for maps with ``proxy: true``."""
    asked = [each for each in instance.maps if each.name in changed]
    # Special keys were asked for before the tables went live.
    failures = unaskable(live(asked, inventory, running), instance.config_directory, special=False)[0]
    failures = failures or wrong_answers(instance, live(answering(instance, instance.maps), inventory, running))
    if failures:
        raise Failed(listed("The live maps do not answer as they should", failures))
