"""Bring one Postfix instance to what pillar says, or take the maps out: all or nothing, checked, and put back."""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ispmail_config
import ispmail_consumers
import ispmail_files
import ispmail_lookup
import ispmail_plan
import ispmail_postconf
import ispmail_postfix
import ispmail_transaction
from ispmail_answers import PROBE_SECONDS, choose, live_tables, unaskable, wrong_answers
from ispmail_config import CompleteInstance, CompleteMap, Instance
from ispmail_config_consumers import NONE, Consumers
from ispmail_errors import Failed, Fault, listed
from ispmail_files import Replacement
from ispmail_maincf import shown, with_tables
from ispmail_plan import Difference, parameters_of
from ispmail_postfix import Facts, Reply
from ispmail_transaction import Change

log = logging.getLogger(__name__)

# How many new table files are held in memory at once: each takes a descriptor.
_CHUNK = 64
# The keys of a table that name files which are read when a process connects: inside its chroot.
_READ_IN_CHROOT = ("tls_CAfile", "tls_CApath", "tls_cert_file", "tls_key_file")
# A recipient of a domain that nobody has: smtpd and its helpers ask the maps for it.
_RECIPIENT = "probe@probe.invalid"


@dataclass(frozen=True)
class Outcome:
    """What was changed, or would be."""

    changes: Mapping[str, Any] = field(default_factory=dict)
    maps: int = 0
    warnings: tuple[str, ...] = ()
    reloaded: bool = False
    consumers: int = 0


def apply(instance: CompleteInstance, cache_directory: str, test: bool = False, consumers: Consumers = NONE) -> Outcome:
    """Bring the table files, main.cf and the consumers' option files to what pillar says.

    Each new table file is asked before it goes live; the expected answers are compared before and after; main.cf and
    the files are replaced together; Postfix is reloaded if it runs; and if anything fails, everything is put back.

    Args:
        cache_directory: Where the journal of changes is.
        test: Whether only to tell what would be done. New table files are asked all the same, from memory.
        consumers: Other programs that log in with the same account.

    Raises:
        PillarFault: What pillar asks for cannot work on this server; lists all faults.
        Failed: A map could not be asked or gave another answer, a consumer would not use the new password, or a file
            could not be written. Everything is as before then.
    """
    directory = instance.config_directory
    began = time.monotonic()
    # A server without maps needs no Postfix.
    difference = ispmail_plan.compare(instance) if instance.maps else ispmail_plan.NOTHING
    others = ispmail_consumers.compare(consumers)
    ispmail_consumers.check(consumers)
    interrupted = ispmail_transaction.interrupted(directory, cache_directory)
    number = len(consumers.consumers)
    if not difference.changes and not others.changes and not interrupted:
        known = (*instance.warnings, *difference.warnings)
        return Outcome(maps=len(instance.maps), warnings=known, consumers=number)
    warnings = ispmail_consumers.probe(consumers) if others.changes else []
    if not difference.changes and not (interrupted and ispmail_postfix.installed()):
        if not test:
            # What Postfix has read is as before: it need not run, nor be there.
            ispmail_transaction.make(Change(directory, cache_directory, others.files, reload=False))
            log.info("applied: %s, in %.2f s", ", ".join(others.changes), time.monotonic() - began)
        warnings += [*instance.warnings, *difference.warnings]
        return Outcome(others.changes, len(instance.maps), tuple(warnings), consumers=number)
    facts = ispmail_postfix.facts(directory)
    warnings += _check(instance, difference, facts)
    running = ispmail_postfix.running(directory)
    changes = {**difference.changes, **others.changes}
    changed = set(difference.changed)
    if interrupted:
        changed = {each.name for each in instance.maps}
        changes["postfix"] = {"old": "an apply was interrupted", "new": "reloaded" if running else "checked"}
    if not running:
        warnings.append("Postfix is not running, so there was nothing to reload")
    if not test:
        before = ispmail_postfix.rcpt(_RECIPIENT, facts.smtpd) if running else None
        files = (*difference.files, *others.files)
        change = Change(directory, cache_directory, files, difference.parameters, difference.explicit)
        warnings += _make(instance, change, changed, before)
        shown = ", ".join(sorted({*changed, *others.changes})) or "nothing but a reload"
        log.info("applied in %s: %s, in %.2f s", directory, shown, time.monotonic() - began)
    return Outcome(changes, len(instance.maps), tuple(warnings), running, number)


def remove(instance: Instance, names: Sequence[str] | None, cache_directory: str, test: bool = False) -> Outcome:
    """Take maps out of main.cf, reload Postfix if it runs, then remove their table files.

    Args:
        names: Maps in pillar, null ones too; None for all.
        cache_directory: Where the journal of changes is.
        test: Whether only to tell what would be done.

    Raises:
        InvalidInput: Pillar names no such map.
        Failed: A table file is still asked elsewhere, or main.cf or a file cannot be written. Everything is as
            before then.
    """
    began = time.monotonic()
    chosen = choose(instance, names)
    directory = instance.config_directory
    if not instance.wanted and not ispmail_postfix.installed():
        # A server that has only other programs with the maps' account.
        return Outcome()
    values = ispmail_postconf.get([*parameters_of(chosen), "proxy_read_maps"], directory)
    paths = {each.path for each in chosen}
    parameters = _without(paths, values, directory)
    files = [file for file in map(ispmail_files.read, sorted(paths)) if file.content is not None]
    there = {file.path for file in files}
    changes: dict[str, Any] = {
        each.name: {"file": {"old": each.path, "new": None}} for each in chosen if os.path.realpath(each.path) in there
    }
    if parameters:
        changes["main.cf"] = {
            name: {"old": shown(name, values[name]), "new": shown(name, new)} for name, new in parameters.items()
        }
    if files:
        _refuse_in_use(directory, paths, values)
    running = bool(parameters) and ispmail_postfix.running(directory)
    if parameters and not test:
        expected = {name: values[name] for name in parameters}
        ispmail_transaction.make(Change(directory, cache_directory, (), parameters, expected))
    if files and not test:
        ispmail_files.replace(
            [Replacement(dataclasses.replace(file, content=None), still=(file.content,)) for file in files]
        )
    if changes and not test:
        log.info("removed in %s: %s, in %.2f s", directory, ", ".join(changes), time.monotonic() - began)
    return Outcome(changes, len(chosen), (), running)


def _check(instance: CompleteInstance, difference: Difference, facts: Facts) -> list[str]:
    """Refuse what this server cannot do, ask each new table file, and return the warnings."""
    directory = instance.config_directory
    faults = _faults_here(instance, facts)
    warnings = ispmail_config.check(instance, faults, version=facts.version, chroot=facts.chroot)
    known = (*instance.warnings, *difference.warnings)
    warnings += [warning for warning in known if warning not in warnings]
    warnings += [f"{name} is not a parameter that Postfix knows: is it spelt right?" for name in difference.unknown]
    changed = [each for each in instance.maps if each.name in difference.changed]
    failures: list[str] = []
    until = time.monotonic() + PROBE_SECONDS
    for in_chroot in (False, True):
        some = [each for each in changed if (facts.chroot and not each.proxy) == in_chroot]
        for start in range(0, len(some), _CHUNK):
            if failures and time.monotonic() > until:
                break
            with ispmail_lookup.in_memory(some[start : start + _CHUNK]) as (tables, descriptors):
                reasons, doubts = unaskable(tables, directory, in_chroot, descriptors)
                failures += reasons or wrong_answers(instance, tables, in_chroot, descriptors)
                warnings += doubts
    if failures:
        raise Failed(listed("Nothing was changed, Postfix answers as before", failures))
    return warnings


def _faults_here(instance: CompleteInstance, facts: Facts) -> list[Fault]:
    """What pillar asks for, and this server does not have."""
    types = ispmail_postconf.table_types(instance.config_directory)
    faults = [
        Fault(f"maps:{each.name}:type", "cannot be opened by this Postfix", f"install postfix-{each.type}")
        for each in instance.maps
        if each.type not in types
    ]
    faults += [
        Fault(f"maps:{each.name}:file", "is in a directory that does not exist", "create it first")
        for each in instance.maps
        if not os.path.isdir(os.path.dirname(each.path))
    ]
    for each in instance.maps:
        if facts.chroot and not each.proxy:
            faults += _missing_in_chroot(each, facts.queue_directory)
    return faults


def _missing_in_chroot(each: CompleteMap, chroot: str) -> list[Fault]:
    """TLS files are read when a process connects, which is inside its chroot: postmap finds them, smtpd does not."""
    return [
        Fault(each.sources[key], "is read inside smtpd's chroot", f"copy it to {chroot}{value}, or set proxy: true")
        for key, value in each.keys.items()
        if key in _READ_IN_CHROOT and value and not os.path.exists(f"{chroot}{value}")
    ]


def _make(instance: CompleteInstance, change: Change, changed: set[str], before: Reply | None) -> list[str]:
    """Make the change, ask the live maps and smtpd itself, and return the warnings.

    Args:
        before: What smtpd said before; None where Postfix does not run.
    """

    def check(running: bool) -> None:
        _ask_live(instance, changed, running)
        if running and before:
            _compare_replies(before, ispmail_postfix.rcpt(_RECIPIENT, before.server))

    warnings = []
    if before and before.code in (None, 421, 530):
        warnings.append(
            f"smtpd itself was not asked ({before.text}): send a mail to see whether its chroot has all that it needs"
        )
    old = ispmail_transaction.make(change, check)
    if old:
        warnings.append(f"busy processes end their sessions with the old maps: {', '.join(old)}")
    return warnings


def _ask_live(instance: CompleteInstance, changed: set[str], running: bool) -> None:
    """Ask the live tables as main.cf has them, through proxymap for maps with ``proxy: true``."""
    tables = live_tables(instance.maps, running)
    asked = {name: table for name, table in tables.items() if name in changed}
    failures = unaskable(asked, instance.config_directory)[0] or wrong_answers(instance, tables)
    if failures:
        raise Failed(listed("The live maps do not answer as they should", failures))


def _compare_replies(before: Reply, after: Reply) -> None:
    """Refuse what postmap cannot see: smtpd answered before, and now it does not, or cannot ask its maps."""
    text = after.text
    broken = after.code == 451 and ("lookup failure" in text or "configuration error" in text)
    if not broken and (after.code is not None or before.code is None):
        return
    said = f"{after.code or ''} {text}".strip()
    cannot = "could not ask its maps before, and cannot now" if before.text == text else "can no longer ask its maps"
    raise Failed(f"smtpd on {after.server} {cannot}, though postmap can ({said}): see the mail log")


def _without(paths: set[str], values: Mapping[str, str], directory: str) -> dict[str, str | None]:
    """What the parameters become without these tables; None takes a parameter out."""
    parameters: dict[str, str | None] = {}
    for name, value in values.items():
        kept = with_tables(value, [], paths)
        if kept == value:
            continue
        is_default = name == "proxy_read_maps" and kept == ispmail_postconf.default(name, directory)
        parameters[name] = None if is_default or not kept else kept
    return parameters


def _refuse_in_use(directory: str, paths: set[str], ours: Mapping[str, str]) -> None:
    """Refuse to remove a table file that is still asked: each RCPT would be answered by 451."""

    def asks(value: str) -> bool:
        return with_tables(value, [], paths) != value

    values = ispmail_postconf.get(None, directory)
    users = [name for name, value in values.items() if name not in ours and asks(value)]
    users += [
        f"{service.name}/{service.type} in master.cf"
        for service in ispmail_postconf.services(directory)
        if asks(service.command)
    ]
    if users:
        log.warning("refused to remove table files that are still asked by %s", ", ".join(users))
        raise Failed(
            f"Nothing was changed: the table files are asked by {', '.join(users)} too: take them out there first"
        )
