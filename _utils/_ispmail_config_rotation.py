"""What pillar says of rotations: batch, drain, and which method changes the login. Pure.

This is the one place that decides which method a rotation uses. Two passwords: the account accepts the old password
and the new one for a while. Two accounts: a pair stands for one; one of them is in use, the other one is locked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeGuard

import _ispmail_tablefile
from _ispmail_errors import Fault

KEYS = ("batch", "drain", "method", "accounts", "keep", "max_age")

_TWO_PASSWORDS, _TWO_ACCOUNTS = "two_passwords", "two_accounts"
# Table type of the server to its methods; the first one is the default. A role of PostgreSQL has one password.
_METHODS = {"mysql": (_TWO_PASSWORDS, _TWO_ACCOUNTS), "pgsql": (_TWO_ACCOUNTS,)}
_EXAMPLE = "such as [mailserver_a, mailserver_b]"
_SECONDS = {"": 0, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
# More servers, and more seconds, than a rotation may ask for.
_MOST = 10**6
# No more digits than a date can have.
_TIME = re.compile(r"(?P<number>0|[1-9][0-9]{0,4}(?=[smhdw]))(?P<unit>[smhdw]?)")


def server_type(maps: object) -> tuple[str, list[Fault]]:
    """Read which server the maps log in to with pillar's ``database``, by their table types.

    Args:
        maps: The section ``maps``, with the maps that are there without being listed.

    Returns:
        ``mysql`` or ``pgsql``, and the faults of maps of another server. Where there are none, it is ``mysql``.
    """
    found: dict[str, list[str]] = {}
    for name, entry in maps.items() if isinstance(maps, Mapping) else ():
        if isinstance(entry, Mapping) and "user" not in entry:
            table_type = entry.get("type", "mysql")
            if isinstance(table_type, str) and table_type in _METHODS:
                found.setdefault(table_type, []).append(_ispmail_tablefile.shown_name(name))
    types = list(found)
    if len(types) < 2:
        return (types or ["mysql"])[0], []
    first, second = types
    reason = f"is {second}, but that of {found[first][0]} is {first}, and one account is of one database server"
    fix = "write user and password into the maps of one type, also equal ones, or give those a pillar key (instances)"
    return first, [Fault(f"maps:{name}:type", reason, fix) for name in found[second]]


def faults(rotation: Mapping[str, object], table_type: str) -> list[Fault]:
    """Tell what is wrong with the section ``rotation`` by itself. Unknown keys are not looked for.

    Args:
        rotation: The section.
        table_type: Of the database server, see `server_type`.
    """
    found = []
    batch = rotation.get("batch", "25%")
    is_number = type(batch) is int and 0 < batch < _MOST
    if not is_number and not (isinstance(batch, str) and re.fullmatch(r"[1-9][0-9]{0,5}|[1-9][0-9]?%|100%", batch)):
        found.append(Fault("rotation:batch", "must be a number of servers, or a share such as 25%"))
    drain = rotation.get("drain", 60)
    if isinstance(drain, bool) or not isinstance(drain, int) or not 0 <= drain < _MOST:
        found.append(Fault("rotation:drain", "must be a number of seconds, of six digits at the most"))
    methods = _METHODS[table_type]
    if rotation.get("method", methods[0]) not in methods:
        reason = f"must be one of {', '.join(methods)}"
        if table_type == "pgsql":
            reason = f"must be {methods[0]}: a role of PostgreSQL has one password"
        found.append(Fault("rotation:method", reason))
    accounts = rotation.get("accounts")
    if accounts is not None and not _is_pair(accounts):
        found.append(Fault("rotation:accounts", f"must be a list of two different users, {_EXAMPLE}"))
    if accounts is not None and rotation.get("method", methods[0]) != _TWO_ACCOUNTS:
        found.append(Fault("rotation:accounts", "is only for the method two_accounts", f"add method: {_TWO_ACCOUNTS}"))
    if rotation.get("max_age") is not None and not max_age(rotation):
        fix = "write for example max_age: 90d"
        found.append(Fault("rotation:max_age", "must be a number with s, m, h, d or w", fix))
    return found + _keep_faults(rotation, methods[0])


def _keep_faults(rotation: Mapping[str, object], default_method: str) -> list[Fault]:
    if rotation.get("keep") is None:
        return []
    if rotation.get("method", default_method) != _TWO_ACCOUNTS:
        return [Fault("rotation:keep", "is only for the method two_accounts", f"add method: {_TWO_ACCOUNTS}")]
    if keep(rotation) is None:
        return [Fault("rotation:keep", "must be 0, or a number with s, m, h, d or w", "write for example keep: 7d")]
    return []


def keep(rotation: Mapping[str, object]) -> int | None:
    """Read how long the other account of a pair stays, locked, before it is dropped.

    Args:
        rotation: The section ``rotation``.

    Returns:
        Seconds. None for until the next rotation, and where it is no such time, see `faults`.
    """
    return _seconds(rotation.get("keep"))


def max_age(rotation: Mapping[str, object]) -> int | None:
    """Read how old the password may become.

    Args:
        rotation: The section ``rotation``.

    Returns:
        Seconds. None for as old as it likes, and where it is no such time, see `faults`.
    """
    return _seconds(rotation.get("max_age"))


def _seconds(given: object) -> int | None:
    """A number of seconds, of what pillar has for a time. None where it is none."""
    # The only number without a unit is 0; others may be too long to be written out.
    text = "0" if type(given) is int and not given else given
    found = _TIME.fullmatch(text) if isinstance(text, str) else None
    return int(found["number"]) * _SECONDS[found["unit"]] if found else None


def pair(rotation: Mapping[str, object], user: object, table_type: str) -> tuple[tuple[str, ...], list[Fault]]:
    """Read which two accounts stand for one.

    Args:
        rotation: The section ``rotation``.
        user: The one of ``database``, which is in use, or is to be.
        table_type: Of the database server, see `server_type`.

    Returns:
        That user and the other one, nothing with the method two_passwords; and what keeps them from being a pair.
        Where the method is not named, a user who is none of two is no fault: a rotation tells of it.
    """
    if rotation.get("method", _METHODS[table_type][0]) != _TWO_ACCOUNTS:
        return (), []
    is_named = "method" in rotation or rotation.get("accounts") is not None
    accounts, wrong = _pair(rotation, user if isinstance(user, str) else "")
    return accounts, wrong if is_named else []


def no_pair(user: str) -> list[Fault]:
    """Tell what keeps a user from being one of two, whatever pillar says of rotations."""
    return _pair({}, user)[1]


def _pair(rotation: Mapping[str, object], user: str) -> tuple[tuple[str, ...], list[Fault]]:
    given = rotation.get("accounts")
    accounts = given if _is_pair(given) else []
    if given is None:
        found = re.fullmatch(r"(.+)_[ab]", user)
        if not found:
            reason = "is missing, and has a default only where database:user ends in _a or _b"
            return (), [Fault("rotation:accounts", reason, f"write the user in use and another one, {_EXAMPLE}")]
        accounts = [f"{found[1]}_a", f"{found[1]}_b"]
    if not accounts:
        return (), []
    if user not in accounts:
        fix = f"write {' or '.join(accounts)}, or the user into rotation:accounts"
        return (), [Fault("database:user", "is none of rotation:accounts", fix)]
    return (user, *(each for each in accounts if each != user)), []


def _is_pair(accounts: object) -> TypeGuard[list[str]]:
    return (
        isinstance(accounts, list)
        and len(accounts) == 2
        and accounts[0] != accounts[1]
        and all(map(_is_user, accounts))
    )


def _is_user(name: object) -> bool:
    """Whether a table file can have it as its user."""
    return (
        isinstance(name, str)
        and name != ""
        and all(fault.key != "user" for fault in _ispmail_tablefile.validate("mysql", {"user": name}).errors)
    )
