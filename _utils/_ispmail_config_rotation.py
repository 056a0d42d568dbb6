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

KEYS = ("batch", "drain", "method", "accounts")

_TWO_PASSWORDS, _TWO_ACCOUNTS = "two_passwords", "two_accounts"
# The first one is the default.
_METHODS = (_TWO_PASSWORDS, _TWO_ACCOUNTS)
# How the names of a pair end that pillar does not name.
_ENDINGS = ("_a", "_b")
_EXAMPLE = "such as [mailserver_a, mailserver_b]"


def faults(rotation: Mapping[str, object]) -> list[Fault]:
    """Tell what is wrong with the section ``rotation`` by itself. Unknown keys are not looked for."""
    found = []
    if not re.fullmatch(r"[1-9][0-9]*|[1-9][0-9]?%|100%", str(rotation.get("batch", "25%"))):
        found.append(Fault("rotation:batch", "must be a number of servers, or a share such as 25%"))
    drain = rotation.get("drain", 60)
    if isinstance(drain, bool) or not isinstance(drain, int) or drain < 0:
        found.append(Fault("rotation:drain", "must be a number of seconds"))
    if rotation.get("method", _METHODS[0]) not in _METHODS:
        found.append(Fault("rotation:method", f"must be one of {', '.join(_METHODS)}"))
    accounts = rotation.get("accounts")
    if accounts is not None and not _is_pair(accounts):
        found.append(Fault("rotation:accounts", f"must be a list of two different users, {_EXAMPLE}"))
    if accounts is not None and rotation.get("method") != _TWO_ACCOUNTS:
        found.append(Fault("rotation:accounts", "is only for the method two_accounts", f"add method: {_TWO_ACCOUNTS}"))
    return found


def pair(rotation: Mapping[str, object], user: str) -> tuple[tuple[str, ...], list[Fault]]:
    """Read which two accounts stand for one.

    Args:
        rotation: The section ``rotation``.
        user: The one of ``database``, which is in use, or is to be.

    Returns:
        That user and the other one, nothing with the method two_passwords; and what keeps them from being a pair.
    """
    if rotation.get("method") != _TWO_ACCOUNTS:
        return (), []
    given = rotation.get("accounts")
    accounts = given if _is_pair(given) else []
    if given is None:
        stem, ending = user[: -len(_ENDINGS[0])], user[-len(_ENDINGS[0]) :]
        if not stem or ending not in _ENDINGS:
            endings = " or ".join(_ENDINGS)
            reason = f"is missing, and has a default only where database:user ends in {endings}"
            return (), [Fault("rotation:accounts", reason, f"write the user in use and another one, {_EXAMPLE}")]
        accounts = [f"{stem}{each}" for each in _ENDINGS]
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
    if not isinstance(name, str) or not name:
        return False
    return not any(fault.key == "user" for fault in _ispmail_tablefile.validate("mysql", {"user": name}).errors)
