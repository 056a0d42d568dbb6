"""The login of a site where the master's sdb stores it: make a new one, write it, put the old one back."""

from __future__ import annotations

import secrets
import string
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import _ispmail_config_rotation
from _ispmail_errors import Failed, InvalidInput, kind_of, printable, repr_without

# Letters and digits only, and a letter first: 142 bits.
_LETTERS, _LENGTH = string.ascii_letters, 24
_ALPHABET = _LETTERS + string.digits

_Put = Callable[[str, str], object]


class Login(NamedTuple):
    """What the URIs of a site stand for. There is no user where only the password is stored."""

    user: str | None
    password: str

    def __repr__(self) -> str:
        return repr_without(self, "password")


class Store(NamedTuple):
    """The URIs of a site, and Salt's functions for them."""

    password_uri: str
    user_uri: str | None  # for a rotation by two accounts
    accounts: list[str] | None  # the two users, where they do not end in _a and _b
    get: Callable[[str], object]
    put: _Put

    def read(self) -> Login:
        """Read the login.

        Raises:
            Failed: A value is not there, is no text, or cannot be read.
        """
        user = None if self.user_uri is None else self._text(self.user_uri)
        return Login(user, self._text(self.password_uri))

    def write(self, login: Login) -> None:
        """Write a login, and see that it is there. What is there already is not written.

        The user goes first. If only that was written, the password is still the one in use, which a later call can
        find out: a new password would be lost beside the user of before.

        Raises:
            Failed: It cannot be written. What was there before may be there or not, see `put_back`.
        """
        for uri, value in ((self.user_uri, login.user), (self.password_uri, login.password)):
            self._write(uri, value)
        if not self._holds(self.user_uri, login.user):
            raise Failed(
                f"{self.user_uri} was dropped by the write of the other value: let each have a secret of its own"
            )

    def put_back(self, login: Login) -> list[str]:
        """Write the login of before, in the other order. Returns what an admin has to know: nothing if it is there.

        The password goes last once more: where each write drops the other value, the user is the one that can be told.
        """
        password = (self.password_uri, login.password)
        faults = []
        for uri, value in (password, (self.user_uri, login.user), password):
            try:
                self._write(uri, value)
            except Failed as err:
                faults.append(str(err))
        if not self._holds(self.user_uri, login.user):
            faults.append(f"{self.user_uri} has to be {printable(str(login.user))}: write that there")
        if not faults:
            return []
        return [
            f"The login of before could not be put back: {'; '.join(dict.fromkeys(faults))}. If pillar has the new "
            "password, that is not lost: start this again, which goes on from there"
        ]

    def other_user(self, user: str) -> str:
        """Find the other one of the two users.

        Raises:
            InvalidInput: The user is none of two.
        """
        rotation = {"method": "two_accounts", "accounts": self.accounts}
        pair, faults = _ispmail_config_rotation.pair(rotation, user, "mysql")
        if len(pair) != 2 or faults:
            text = f"{self.user_uri} holds none of two users: let it end in _a or _b, or write both into accounts"
            raise InvalidInput(text)
        return pair[1]

    def _write(self, uri: str | None, value: str | None) -> None:
        if uri is None or value is None or self._holds(uri, value):
            return
        try:
            self.put(uri, value)
        except Exception as err:  # pylint: disable=broad-except
            # Any driver, any error: its text may hold a secret.
            raise Failed(f"{uri} cannot be written ({kind_of(err)}): {_CANNOT}") from None
        if self._text(uri) != value:
            raise Failed(f"{uri} was not changed by a write: {_CANNOT}")

    def _holds(self, uri: str | None, value: str | None) -> bool:
        """Whether a value is there. What cannot be read is not; nothing is everywhere."""
        try:
            return uri is None or self._text(uri) == value
        except Failed:
            return False

    def _text(self, uri: str) -> str:
        try:
            found = self.get(uri)
        except Exception as err:  # pylint: disable=broad-except
            raise Failed(f"{uri} cannot be read ({kind_of(err)}): check the sdb profile of the master") from None
        if not isinstance(found, str) or not found or found == uri:
            raise Failed(f"{uri} holds no text on the master: store the login in use there first")
        return found


_CANNOT = "the driver of that sdb profile has to be one that can write, as Vault's is; Salt's yaml and env are not"


def store(
    name: str, site: Mapping[str, Any], opts: Mapping[str, Any], get: Callable[[str], object], put: _Put
) -> Store:
    """Find where the login of a site is stored.

    Args:
        name: The site.
        site: Its targets, see `_ispmail_sites.sites`.
        opts: The master's configuration, with the profiles of sdb.
        get: Reads a URI.
        put: Writes a text to one.

    Raises:
        InvalidInput: The master's configuration does not say it.
    """
    if "sdb_password" not in site:
        text = "is missing: name what pillar looks up after sdb://, such as myvault/secret/mail/main, see docs/vault.md"
        raise InvalidInput(f"ispmail:sites:{name}:sdb_password {text}")
    for key in ("sdb_password", "sdb_user"):
        profile = opts.get(str(site.get(key)).partition("/")[0])
        if key not in site:
            continue
        if not isinstance(profile, Mapping) or "driver" not in profile:
            # Where the key has a URI, Salt puts the password itself in its place: it is not shown.
            text = "begins with no sdb profile that the master's configuration has: write profile and key, no sdb://"
            raise InvalidInput(f"ispmail:sites:{name}:{key} {text}")
        if profile["driver"] == "vault" and profile.get("patch") is not True:
            text = "a write would drop all else that its secret in Vault holds: add patch: true to that profile"
            raise InvalidInput(
                f"ispmail:sites:{name}:{key} names the profile {site[key].partition('/')[0]}, and {text}"
            )
    user = f"sdb://{site['sdb_user']}" if "sdb_user" in site else None
    return Store(f"sdb://{site['sdb_password']}", user, site.get("accounts"), get, put)


def new_password() -> str:
    """Make a password that nothing which carries it has to quote: 24 letters and digits, 142 bits.

    Each of these gives some other character a meaning: table files (a blank at the ends), option files (``#``, quotes,
    a backslash), Dovecot's configuration (``%``, ``$``, ``{``), the options of pam-mysql (a blank, brackets), a
    conninfo or URL of PostgreSQL (a blank, quotes, ``@``, ``:``, ``/``), a shell (most of them, and ``-`` at the
    beginning). The first character is a letter: YAML takes no such text for a number.
    """
    first = secrets.choice(_LETTERS)
    return first + "".join(secrets.choice(_ALPHABET) for _ in range(_LENGTH - 1))
