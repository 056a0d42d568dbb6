"""Fingerprints of logins: equal ones are equal logins, and the password never leaves the server."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Collection, Sequence

import _ispmail_consumers
import _ispmail_files
import _ispmail_tablefile
from _ispmail_config import CompleteInstance, qualified
from _ispmail_config_consumers import Consumers
from _ispmail_errors import InvalidInput

_NONCE_LENGTH = 16
# A guess at the password behind a fingerprint takes 16 MiB and some 50 ms.
_SCRYPT = {"n": 2**14, "r": 8, "p": 1, "dklen": 16}


def fingerprints(
    instances: Sequence[CompleteInstance],
    accounts: Collection[str],
    nonce: object,
    live: bool = True,
    consumers: Sequence[Consumers] = (),
    table_type: str = "mysql",
) -> dict[str, dict[str, str | None]]:
    """Return scrypt(user and password, nonce) of the maps that log in to the database by the account, see RFC 7914.

    Args:
        instances: The main one first: the maps of others get their pillar key before the name.
        accounts: The users that stand for the account; maps of others are left out.
        nonce: A text of 16 characters or more, used once, so that no fingerprint can be looked up.
        live: Whether to read the live table files too.
        consumers: Other programs that log in with the account, and those of the other instances.
        table_type: Of the account's database server; maps of others are left out.

    Returns:
        ``pillar`` and, where asked for, ``live``: each the name of a map, or such as ``consumer:dovecot``, to its
        fingerprint, None where there is no password, or no table file.

    Raises:
        InvalidInput: The nonce is too short.
        CannotAsk: A table file cannot be read.
    """
    if not isinstance(nonce, str) or len(nonce) < _NONCE_LENGTH or not nonce.isascii():
        raise InvalidInput(f"nonce must be a text of {_NONCE_LENGTH} ASCII characters or more, in quotes")

    @functools.cache
    def of_login(user: object, password: object) -> str | None:
        return None if password is None else fingerprint(user, password, nonce)

    found: dict[str, dict[str, str | None]] = {"pillar": {}}
    if live:
        found["live"] = {}
    for instance in instances:
        for each in instance.maps:
            if each.type != table_type or each.keys.get("user") not in accounts:
                continue
            name = qualified(each.name, instance.pillar_key, instances[0].pillar_key)
            found["pillar"][name] = of_login(each.keys["user"], each.keys.get("password"))
            if live:
                keys = _ispmail_tablefile.parse(_ispmail_files.content(each.path))
                found["live"][name] = of_login(keys.get("user"), keys.get("password"))
    for some in consumers:
        if some.keys.get("user") not in accounts:
            continue
        logins = _ispmail_consumers.live_logins(some) if live else {}
        for consumer in some.consumers:
            if not consumer.ignore:
                short = f"consumer:{consumer.name}"
                name = qualified(short, some.pillar_key, instances[0].pillar_key)
                found["pillar"][name] = of_login(some.keys["user"], some.keys["password"])
                if live:
                    found["live"][name] = of_login(*logins[short])
    return found


def fingerprint(user: object, password: object, nonce: str) -> str:
    """Return scrypt(user and password, nonce) of one login."""
    text = f"{user}\0{password}".encode("utf-8", "surrogateescape")
    return hashlib.scrypt(text, salt=nonce.encode(), **_SCRYPT).hex()
