"""The doctor's checks of Postfix's side: table files, main.cf, and what Postfix's own client can ask."""

from __future__ import annotations

import grp
import os
import pwd
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import _ispmail_answers
import _ispmail_classes
import _ispmail_files
import _ispmail_hosts
import _ispmail_inventory
import _ispmail_postconf
import _ispmail_postfix
import _ispmail_release
import _ispmail_smtpd
import _ispmail_sockets
import _ispmail_tablefile
from _ispmail_config import Instance, Map
from _ispmail_config_database import DatabaseConfig
from _ispmail_errors import CannotAsk, IspmailError
from _ispmail_inventory import Inventory
from _ispmail_report import Finding, fault_if, warning_if

# Postfix's own default for the processes of a service.
_PROCESSES = 100
_BERKELEY_DB = re.compile(r"\b(hash|btree):/[^\s,}]+")


class Target(NamedTuple):
    """One Postfix instance to look at, and what pillar says of it. Findings are named with `prefix` before them."""

    instance: Instance
    prefix: str  # its pillar key; empty for the main one
    database: DatabaseConfig  # without what is in sdb; another instance's where pillar has no server for this one
    own_server: bool  # whether `database` is its own
    names_socket: bool  # whether pillar names the socket of the database server
    hosts: Sequence[str]  # of the maps' database, as pillar has them
    has_consumers: bool  # whether other programs of this server log in there
    answers: Sequence[object]  # as pillar has them
    changes: Callable[[], Mapping[str, object]]  # what an apply would change
    admin_view: Callable[[], Mapping[str, Any]]  # what _ispmail_accounts.read tells of the database server
    password_set: float | None = None  # how many seconds ago this minion gave the account its password, if it did


class Postfix(NamedTuple):
    """How one instance asks its maps."""

    target: Target
    inventory: Inventory
    process_limit: int
    mail_owner: str

    @property
    def prefix(self) -> str:
        """What stands before the names of its maps."""
        return self.target.prefix

    @property
    def where(self) -> str:
        """How findings name it."""
        return f"{self.target.prefix}this server"

    @property
    def config_directory(self) -> str:
        """The directory of its main.cf."""
        return self.target.instance.config_directory


@dataclass(frozen=True)
class LiveMap:
    """A map of pillar with what its live table file holds."""

    name: str  # with the prefix of its instance
    map: Map
    keys: Mapping[str, str] = field(repr=False)
    mode: int  # of the table file
    chroot: str | None  # from inside which a program asks it
    postfix: Postfix

    @property
    def hosts(self) -> list[str]:
        """The hosts that its table file names, each once."""
        return list(dict.fromkeys(_ispmail_hosts.hosts(self.keys)))


def is_elsewhere(target: Target) -> bool:
    """Whether nothing of an instance is on this server: no Postfix with its main.cf, and no map's table file.

    The database's own server may have the pillar of the mail servers. A Postfix that is installed, and lacks the
    main.cf that pillar's maps need, is no such server.
    """
    instance = target.instance
    if _ispmail_postfix.is_there(instance.config_directory):
        return False
    is_here = _ispmail_postfix.installed() or any(os.path.lexists(each.path) for each in instance.wanted)
    return not (instance.wanted and is_here)


def read_postfix(target: Target) -> Postfix:
    """Read how an instance asks its maps.

    Raises:
        CannotAsk: There is no Postfix, or no main.cf.
    """
    directory = target.instance.config_directory
    inventory = _ispmail_inventory.read(directory)
    limit = inventory.settings.expanded("default_process_limit")
    return Postfix(
        target=target,
        inventory=inventory,
        process_limit=int(limit) if limit.isdigit() else _PROCESSES,
        mail_owner=inventory.settings.expanded("mail_owner"),
    )


def read_maps(postfix: Postfix) -> list[LiveMap]:
    """Read the table files of an instance; those that are not there are left out."""
    live = []
    for wanted in postfix.target.instance.wanted:
        file = _ispmail_files.read(wanted.path)
        if file.content:
            name = f"{postfix.prefix}{wanted.name}"
            keys = _ispmail_tablefile.parse(file.content)
            chroots = [as_.chroot for as_ in _ispmail_answers.askers(wanted, postfix.inventory) if as_.chroot]
            live.append(LiveMap(name, wanted, keys, file.mode, chroots[0] if chroots else None, postfix))
    return live


def check(postfix: Postfix, maps: Sequence[LiveMap]) -> Iterator[Finding]:
    """Yield what can be found out on this server alone."""
    yield from _as_pillar_says(postfix)
    yield from _table_files_are_there(postfix, maps)
    for live in maps:
        yield from _private(live)
        yield from _readable_for_proxymap(live)
        yield from _credentials_are_in_the_file(live)
        yield from only_host_is_asked_again(live)
    yield from _hosts_are_known_in_chroot(postfix, maps)
    running = _ispmail_postfix.running(postfix.inventory.settings.queue_directory)
    yield from _can_be_asked(postfix, maps, running)
    yield from _others_can_be_asked(postfix, running)
    yield from _smtpd_can_ask(postfix, running)
    yield from _no_old_processes(postfix, maps)
    yield from _nothing_goes(postfix)


def _as_pillar_says(postfix: Postfix) -> Iterator[Finding]:
    name = "files and main.cf are as pillar says"
    try:
        changes = postfix.target.changes()
    except IspmailError as err:
        yield fault_if(str(err), name, postfix.where)
        return
    fix = f"{', '.join(changes)} would change: apply ispmail" if changes else ""
    yield warning_if(fix, name, postfix.where)


def _table_files_are_there(postfix: Postfix, maps: Sequence[LiveMap]) -> Iterator[Finding]:
    """Postfix opens every table that main.cf leads to: one that is missing or empty ends its programs."""
    there = {live.map.path for live in maps}
    reached = {table.path for table in postfix.inventory.tables}
    gone = [
        each.path
        for each in postfix.target.instance.wanted
        if each.path not in there and postfix.inventory.settings.real_path(each.path) in reached
    ]
    fix = f"main.cf names {', '.join(gone)}, missing or empty: apply ispmail" if gone else ""
    yield fault_if(fix, "the table files are there", postfix.where)


def _private(live: LiveMap) -> Iterator[Finding]:
    fix = f"every local user can read the password in it: run chmod 0640 {live.map.path}" if live.mode & 0o007 else ""
    yield fault_if(fix, "the table file is private", live.name)


def _readable_for_proxymap(live: LiveMap) -> Iterator[Finding]:
    """Only proxymap(8) opens table files as mail_owner; other programs open them as root."""
    if not live.map.proxy:
        return
    path, owner = live.map.path, live.postfix.mail_owner
    fix = ""
    if not _ispmail_files.permits(owner, "r", path):
        fix = (
            f"proxymap cannot read {path}: run chgrp {_group_of(owner)} and chmod 0640 on it, "
            f"and let user {owner} enter the directories above it"
        )
    yield fault_if(fix, "proxymap can read the table file", live.name)


def _group_of(user: str) -> str:
    number = pwd.getpwnam(user).pw_gid
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


def _credentials_are_in_the_file(live: LiveMap) -> Iterator[Finding]:
    if live.map.type != "mysql" or _ispmail_tablefile.tells_login(live.keys):
        return
    fix = (
        "the table file has no user, so Postfix's client takes that of an option file or of its process, which is not "
        "tried here: write user and password into the map"
    )
    if live.keys.get("option_file"):
        fix = (
            "the table file has an option_file, which may decide how Postfix logs in, so that is not tried here: write "
            "user, password and, for TLS, the keys tls_… into the map (they count before an option file, and its "
            "password is never used), and take option_file out"
        )
    yield warning_if(fix, "the login works", live.name)


def _hosts_are_known_in_chroot(postfix: Postfix, maps: Sequence[LiveMap]) -> Iterator[Finding]:
    """A question from outside of the chroot does not show it: names are resolved by other files there."""
    check = "the chroot knows its hosts"
    named = {live.name: _ispmail_hosts.names(live.keys, live.map.type) for live in maps}
    for chroot in dict.fromkeys(live.chroot for live in maps if live.chroot is not None and named[live.name]):
        inside = [live for live in maps if live.chroot == chroot and named[live.name]]
        names = list(dict.fromkeys(name for live in inside for name in named[live.name]))
        try:
            unknown = _ispmail_sockets.unknown_in_chroot(names, chroot, postfix.mail_owner)
        except CannotAsk as err:
            yield from (warning_if(f"that could not be told: {err}", check, live.name) for live in inside)
            continue
        for live in inside:
            said = ", ".join(f"{name} ({unknown[name]})" for name in named[live.name] if name in unknown)
            fix = f"{said} cannot be resolved inside {chroot}: {_ispmail_sockets.KNOWN_IN_CHROOT}" if said else ""
            yield fault_if(fix, check, live.name)


def only_host_is_asked_again(live: LiveMap) -> Iterator[Finding]:
    """After an error Postfix leaves a host alone. Where that is the only one, no mail is accepted meanwhile."""
    version = live.postfix.inventory.settings.version
    if live.map.type == "sqlite" or len(live.hosts) > 1 or not _ispmail_release.knows("retry_interval", version):
        return
    seconds = live.keys.get("retry_interval", "60")
    fix = (
        f"after an error Postfix does not ask its only host for {seconds} s: set retry_interval: 1 "
        "(measured with a restart of the database: 52 of 6,001 RCPTs failed, not 2,146), or add a second host"
    )
    yield warning_if("" if seconds == "1" else fix, "the only host is asked again soon", live.name)


def _can_be_asked(postfix: Postfix, maps: Sequence[LiveMap], running: bool) -> Iterator[Finding]:
    """Postfix's own client asks, as each process that reads the map."""
    reasons: dict[str, set[str]] = {}
    ways: list[str] = []
    unread = _ispmail_answers.unread([live.map for live in maps], postfix.inventory)
    yield warning_if("; ".join(unread), "a service reads the map", postfix.where)
    for group in _ispmail_answers.live([live.map for live in maps], postfix.inventory, running):
        for name, found in _ispmail_answers.probe(group, postfix.config_directory).items():
            reasons.setdefault(name, set()).update([found.reason] if found.reason else [])
        ways += _ispmail_classes.taken_before([live.map for live in maps], group, postfix.inventory)
    names_by_reason: dict[str, list[str]] = {}
    for live in maps:
        names_by_reason.setdefault("; ".join(sorted(reasons[live.map.name])), []).append(live.name)
    for reason, some in names_by_reason.items():
        yield fault_if(reason, "Postfix can ask the map", ", ".join(some))
    yield fault_if("; ".join(dict.fromkeys(ways)), "mail goes the way of its map", postfix.where)


def _others_can_be_asked(postfix: Postfix, running: bool) -> Iterator[Finding]:
    """Postfix asks a parameter's tables in turn: one that fails fails the lookup, whosever it is."""
    maps, check = postfix.target.instance.wanted, "tables of others can be asked"
    broken = _ispmail_answers.broken_others(maps, postfix.inventory, running)
    fix = "; ".join(map(str, broken))
    yield fault_if(f"{fix}: mend it, or take it out" if fix else "", check, postfix.where)
    for doubt in _ispmail_answers.unasked_others(maps, postfix.inventory):
        yield warning_if(doubt, check, postfix.where)


def _smtpd_can_ask(postfix: Postfix, running: bool) -> Iterator[Finding]:
    """What no lookup shows: smtpd itself, with all that it has open, and its chroot as it is."""
    said, name = _ispmail_smtpd.ask(postfix.inventory), "smtpd can ask its maps"
    fix = ""
    if said.cannot_ask:
        fix = f"smtpd says {said}: see the mail log"
    elif said.server and said.code is None:
        why = "see the mail log" if running else f"Postfix does not run: postfix -c {postfix.config_directory} start"
        fix = f"smtpd on {said.server} does not answer ({said}): {why}"
    elif said.was_not_asked:
        yield warning_if(f"smtpd was not asked ({said}): send a mail to see", name, postfix.where)
        return
    yield fault_if(fix, name, postfix.where)


def _no_old_processes(postfix: Postfix, maps: Sequence[LiveMap]) -> Iterator[Finding]:
    queue_directory = postfix.inventory.settings.queue_directory
    paths = [live.map.path for live in maps]
    old = _ispmail_postfix.old_processes(paths, queue_directory, postfix.inventory.programs(paths))
    fix = ""
    if old:
        command = f"postfix -c {postfix.config_directory} reload"
        fix = f"{', '.join(old)} started before the table files changed and use the old ones: run {command}"
    yield warning_if(fix, "no process uses older table files", postfix.where)


def _nothing_goes(postfix: Postfix) -> Iterator[Finding]:
    """Postfix tells of what a later release will not have."""
    known = postfix.inventory.settings
    found = [table for name in sorted(known.explicit) for table in _BERKELEY_DB.finditer(known.expanded(name))]
    one_of_each = {table[1]: table[0] for table in found}
    said = _ispmail_postconf.deprecated(postfix.config_directory, one_of_each.values())
    yield warning_if("; ".join(said), "a later Postfix will have all that is used here", postfix.where)
