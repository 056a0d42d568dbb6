"""The consumers of the maps' account on this server: their option files, and what their configuration lacks."""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import _ispmail_dovecot
import _ispmail_files
import _ispmail_option_users
import _ispmail_optionfile
import _ispmail_plan
import _ispmail_spellings
import _ispmail_tablefile
from _ispmail_command import output
from _ispmail_config_consumers import Consumer, Consumers
from _ispmail_dovecot import Connection
from _ispmail_errors import CannotAsk, Failed, listed
from _ispmail_files import File, Replacement


class Difference(NamedTuple):
    """What differs between pillar and the option files on this server."""

    files: tuple[Replacement, ...]
    changes: Mapping[str, Any]  # for people: ``consumer:dovecot`` to what differs, secrets as ***


def compare(consumers: Consumers) -> Difference:
    """Compare pillar with the option files.

    Raises:
        CannotAsk: A file cannot be read, or its owner does not exist.
        Failed: An option file has settings that are not ours: writing it would lose them.
    """
    files, changes, foreign = [], {}, []
    for each in consumers.with_option_file:
        path = each.option_file or ""
        directory = os.path.dirname(path)
        if not os.path.isdir(directory):
            raise CannotAsk(f"the directory of {path} does not exist: install {each.name} first, or create it")
        reason = "it is a link" if os.path.islink(path) else _ispmail_files.unsafe_directory(directory)
        if reason:
            foreign.append(f"{path} cannot be written safely by root, {reason}: name a file in a directory of root's")
            continue
        replacement, differences, other = _compare_file(each, consumers.keys)
        (there,) = replacement.still or (None,)
        if there is not None and each.option_group not in _ispmail_optionfile.parse(there):
            foreign.append(
                f"{path} is there and has no group [{each.option_group}]: move it away, or name another file"
            )
        elif other:
            foreign.append(
                f"{each.option_file} holds {', '.join(other)} too, which would be lost: move that to another file, "
                f"or name another file in {consumers.pillar_key}:consumers:{each.name}:option_file"
            )
        if differences:
            files.append(replacement)
            changes[f"consumer:{each.name}"] = differences
    if foreign:
        raise Failed(listed("Nothing was changed", foreign))
    return Difference(tuple(files), changes)


def check(consumers: Consumers) -> None:
    """See that the consumers' own configuration names their option files.

    Raises:
        CannotAsk: It cannot be read.
        Failed: It does not; says which lines to write.
    """
    wrong = misconfigured(consumers)
    if wrong:
        raise Failed(listed("Nothing was changed, a consumer would not use the password", wrong))


def misconfigured(consumers: Consumers) -> list[str]:
    """Say which consumers' own configuration does not name their option file, with the lines to write.

    Raises:
        CannotAsk: It cannot be read.
    """
    return [
        f"{consumers.pillar_key}:consumers:{each.name}: {fault}"
        for each in consumers.with_option_file
        if each.config_file
        for fault in _dovecot_faults(each, consumers.accounts)
    ]


def unready(consumers: Consumers) -> list[str]:
    """Say which consumers do not use the password that pillar has.

    Raises:
        CannotAsk: A file or a consumer's configuration cannot be read.
    """
    differing = [
        f"{consumers.pillar_key}:consumers:{name.partition(':')[2]}: its option file is not as pillar says: apply first"
        for name in compare(consumers).changes
    ]
    return [*differing, *misconfigured(consumers), *missing_passwords(consumers)]


def missing_passwords(consumers: Consumers) -> list[str]:
    """Say which files that have to hold the password do not.

    Raises:
        CannotAsk: A file is there and cannot be read.
    """
    wrong = []
    for each in consumers.consumers:
        for path in () if each.ignore else each.holds:
            content = _ispmail_files.content(path)
            if content is None:
                reason = "is not there"
            elif not _ispmail_spellings.contains_whole(content, consumers.keys["password"]):
                reason = "does not hold the password that pillar has"
            else:
                continue
            fix = f"see what {each.sls} writes" if each.sls else "write it there"
            wrong.append(f"{consumers.pillar_key}:consumers:{each.name}:holds: {path} {reason}: {fix}")
    return wrong


def live_logins(consumers: Consumers) -> dict[str, tuple[str | None, str | None]]:
    """Read the login of each consumer as it is now: ``consumer:dovecot`` to user and password, None where it has none.

    Of a file that somebody else writes only this can be told: whether it holds the password that pillar has.

    Raises:
        CannotAsk: A file is there and cannot be read.
    """
    found: dict[str, tuple[str | None, str | None]] = {}
    for each in consumers.consumers:
        if each.ignore:
            continue
        if each.option_file:
            login = login_in(each)
            found[f"consumer:{each.name}"] = login.get("user"), login.get("password")
        else:
            missing = missing_passwords(Consumers(consumers.pillar_key, (each,), consumers.keys))
            found[f"consumer:{each.name}"] = consumers.keys["user"], None if missing else consumers.keys["password"]
    return found


def login_in(consumer: Consumer) -> dict[str, str]:
    """Read user and password in an option file; empty where there is no file.

    Raises:
        CannotAsk: The file is there and cannot be read.
    """
    content = _ispmail_files.content(consumer.option_file or "")
    return _ispmail_optionfile.parse(content).get(consumer.option_group, {})


def left_behind(consumers: Consumers) -> list[str]:
    """Say which option files a removal of the maps leaves where they are."""
    return [
        f"{each.option_file} was left, because {each.name} logs in by it: delete it when nothing names it any more"
        for each in consumers.with_option_file
        if os.path.exists(each.option_file or "")
    ]


def _compare_file(each: Consumer, keys: Mapping[str, str]) -> tuple[Replacement, dict[str, Any], list[str]]:
    """An option file as it should be, how the one on disk differs, and what else that one holds."""
    path = each.option_file or ""
    old = _ispmail_files.read(path)
    text = _ispmail_optionfile.render(each.option_group, keys["user"], keys["password"])
    content = text.encode("utf-8", "surrogateescape")
    new = File(old.path, content, _user(each), _group(each), each.mode)
    replacement = Replacement(new, still=(old.content,))
    if old.content is None:
        return replacement, {"file": {"old": None, "new": path}, **_differing_keys({}, keys)}, []
    changes: dict[str, Any] = {**_ispmail_plan.ownership_changes(old, new)}
    if old.content != content:
        is_now = login_in(each)
        changes.update(_differing_keys(is_now, keys) or {"layout": {"old": "another", "new": "canonical"}})
    return replacement, changes, _ispmail_optionfile.other_settings(old.content, each.option_group)


def _differing_keys(old: Mapping[str, str], new: Mapping[str, str]) -> dict[str, Any]:
    names = ("user", "password")
    return _ispmail_tablefile.diff(
        {name: old[name] for name in names if name in old}, {name: new[name] for name in names}
    )


def _dovecot_faults(consumer: Consumer, accounts: Collection[str]) -> list[str]:
    """What is wrong with a Dovecot's logins for the accounts, with the lines to write.

    Raises:
        CannotAsk: doveconf is not there or fails, or as whom Dovecot logs in cannot be told.
    """
    # doveconf hides passwords.
    settings = output("doveconf", ["-n", "-c", consumer.config_file or ""])
    old = _ispmail_dovecot.is_old(settings)
    where = f"{consumer.config_file}"
    try:
        connections = [] if old else _ispmail_dovecot.new_connections(settings)
        for where in _ispmail_dovecot.sql_files(settings) if old else ():
            content = _ispmail_files.content(where)
            if content is None:
                raise CannotAsk(
                    f"{where}, which {consumer.config_file} names, is not there: see what doveconf -n prints"
                )
            connections += _ispmail_dovecot.old_connections(where, content.decode("utf-8", "surrogateescape"))
    except ValueError as err:
        raise CannotAsk(f"{where}: as whom Dovecot logs in cannot be told: {err}") from None
    known = [_with_user(each, consumer, accounts) for each in connections]
    return _ispmail_dovecot.faults(consumer, accounts, known, old)


def _with_user(each: Connection, consumer: Consumer, accounts: Collection[str]) -> Connection:
    """A login of Dovecot with one of the accounts as its user, where another option file than ours has that.

    Raises:
        CannotAsk: The option file cannot be read, or by its path nobody can tell which one it is.
    """
    if each.user or each.option_file == consumer.option_file:
        return each
    if each.option_file and not os.path.isabs(each.option_file):
        raise CannotAsk(f"{each.where} names an option file by no absolute path: write its whole path")
    ours = _ispmail_option_users.users(each.option_file, each.option_group).intersection(accounts)
    return each._replace(user=min(ours)) if ours else each


def _user(each: Consumer) -> int:
    try:
        return pwd.getpwnam(each.user).pw_uid
    except KeyError as err:
        raise CannotAsk(f"there is no user {each.user}, who is to own {each.option_file}: create it first") from err


def _group(each: Consumer) -> int:
    try:
        return grp.getgrnam(each.group).gr_gid
    except KeyError as err:
        raise CannotAsk(
            f"there is no group {each.group}, which is to read {each.option_file}: create it first"
        ) from err
