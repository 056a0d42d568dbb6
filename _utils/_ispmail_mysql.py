"""How a MySQL keeps accounts and their passwords, see ALTER USER and caching_sha2_password in its manual. Pure.

caching_sha2_password keeps a salted hash, ``$A$005$`` with 20 bytes of salt and then the digest. ``A`` is sha256-crypt,
``B`` (from 9.6 on) is PBKDF2 with HMAC-SHA-512; the three hexadecimal digits are the rounds in thousands. As each hash
has a salt of its own, whether a password is accepted is computed with the salt of the hash that the server keeps.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from typing import Any

import _ispmail_sql
from _ispmail_plugins import CACHING_SHA2, NATIVE
from _ispmail_sql import Account

# The digits of sha256-crypt's own base64.
_DIGITS = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SHA2_HASH = re.compile(r"\$(?P<kind>[AB])\$(?P<rounds>[0-9A-F]{3})\$(?P<salt>.{20})(?P<digest>.{43}|.{88})", re.DOTALL)
_ROUNDS_UNIT, _MOST_THOUSANDS = 1000, 0xFFF
_FORMAT = "caching_sha2_password_storage_format"
_ROUNDS = "caching_sha2_password_digest_rounds"
# Which bytes of a digest become four of these digits; the last two bytes become three.
_ORDER = ((0, 10, 20), (21, 1, 11), (12, 22, 2), (3, 13, 23), (24, 4, 14), (15, 25, 5), (6, 16, 26), (27, 7, 17),
          (18, 28, 8), (9, 19, 29))  # fmt: skip


class MySQL:
    """A MySQL of one version, as `_ispmail_dialect.Dialect` has it."""

    name = "MySQL"
    most_passwords: int | None = 2
    sql_mode = ""
    # A hash may hold bytes that are no text.
    accounts = (
        "SELECT Host AS host, plugin, HEX(authentication_string) AS hash, account_locked AS locked,"
        " HEX(User_attributes->>'$.additional_password') AS second, password_lifetime AS lifetime,"
        " IF(password_expired = 'Y', 0, UNIX_TIMESTAMP(password_last_changed)) AS changed,"
        " IF(ssl_type = 'ANY', 'SSL', ssl_type) AS tls, CONVERT(ssl_cipher USING utf8mb4) AS ssl_cipher,"
        " CONVERT(x509_issuer USING utf8mb4) AS x509_issuer, CONVERT(x509_subject USING utf8mb4) AS x509_subject,"
        " max_questions, max_updates, max_connections, max_user_connections"
        " FROM mysql.user WHERE User = %s"
    )
    memberships = (
        "SELECT FROM_USER AS role, FROM_HOST AS role_host, TO_USER AS user, TO_HOST AS host FROM mysql.role_edges"
    )
    settings: str | None = "SHOW GLOBAL VARIABLES LIKE 'caching_sha2_password_%'"

    def __init__(self, version: str) -> None:
        """A server that says this of itself in VERSION().

        Raises:
            ValueError: That is no version.
        """
        major, minor = (int(part) for part in version.split(".")[:2])
        # 8.4 has the old plugin only where it is switched on, 9 has none.
        if major >= 9:
            self.plugins: tuple[str, ...] = (CACHING_SHA2,)
        elif (major, minor) >= (8, 4):
            self.plugins = (CACHING_SHA2, NATIVE)
        elif major == 8:
            self.plugins = (NATIVE, CACHING_SHA2)
        else:
            self.plugins = (NATIVE,)

    @property
    def plugin_advice(self) -> str:
        """What to do about an account that logs in by another plugin."""
        return (
            f"whose passwords cannot be rotated there: give it a password by {self.plugins[0]} "
            f"(ALTER USER … IDENTIFIED WITH {self.plugins[0]} …)"
        )

    def read_account(self, row: Mapping[str, Any]) -> Account | None:
        """Read a row of `accounts`: the current password first, then the one that is retained."""
        plugin = row["plugin"]
        first, second = (bytes.fromhex(row[column] or "").decode("latin-1") for column in ("hash", "second"))
        texts = [first, second] if second else [first]
        if plugin == NATIVE:
            hashes = _ispmail_sql.native_hashes(texts)
        elif plugin == CACHING_SHA2:
            hashes = tuple(text for text in texts if not text or _SHA2_HASH.fullmatch(text))
        else:
            hashes = ()
        demands = _ispmail_sql.demands(row, row["tls"])
        return Account((plugin,), hashes, row["locked"] == "Y", row["changed"], row["lifetime"], demands)

    def hash_password(self, plugin: str, password: str, salt: str, settings: Mapping[str, str]) -> str:
        """What the server keeps of a password, in the format that its settings ask for."""
        if plugin == NATIVE:
            return _ispmail_sql.native_hash(password)
        kind = "B" if settings.get(_FORMAT) == "PBKDF2_SHA512" else "A"
        thousands = min(int(settings.get(_ROUNDS, "5000")) // _ROUNDS_UNIT, _MOST_THOUSANDS)
        return _sha2_hash(kind, thousands, salt, password)

    def is_hash_of(self, stored: str, password: str) -> bool:
        """Whether a hash is of this password: computed again with its own salt."""
        found = _SHA2_HASH.fullmatch(stored)
        if not found:
            return stored == _ispmail_sql.native_hash(password)
        return stored == _sha2_hash(found["kind"], int(found["rounds"], 16), found["salt"], password)

    def create(self, plugin: str) -> list[str]:
        """Write the statement that creates an account."""
        # Mail would stop on the day on which it expires: default_password_lifetime is meant for people.
        return [f"CREATE USER %(user)s@%(host)s {_identified(plugin)} PASSWORD EXPIRE NEVER"]

    def set_password(self, plugin: str) -> list[str]:
        """Write the statement by which an account that accepts no password gets one."""
        return [f"ALTER USER %(user)s@%(host)s {_identified(plugin)}"]

    def accept(self, plugin: str, kept: int) -> list[str]:
        """Write the statement by which an account accepts a new password beside its current one."""
        return [f"ALTER USER %(user)s@%(host)s {_identified(plugin)} RETAIN CURRENT PASSWORD"]

    def sole(self, plugin: str) -> list[str]:
        """Write the statement after which an account accepts no other password than its current one."""
        return ["ALTER USER %(user)s@%(host)s DISCARD OLD PASSWORD"]

    def reopen(self, plugin: str) -> list[str]:
        """Write the statements after which a locked account accepts one password, and is locked no more."""
        # A new password alone leaves the retained one as it is.
        return [
            *self.sole(plugin),
            f"ALTER USER %(user)s@%(host)s {_identified(plugin)} ACCOUNT UNLOCK PASSWORD EXPIRE NEVER",
        ]

    def lock(self) -> list[str]:
        """Write the statement after which an account accepts no new login."""
        return ["ALTER USER %(user)s@%(host)s ACCOUNT LOCK"]

    def lock_anew(self, plugin: str, kept: int) -> list[str]:
        """Write the statement that locks an account, and sets the password that it has; a retained one stays."""
        return [f"ALTER USER %(user)s@%(host)s {_identified(plugin)} ACCOUNT LOCK {_ispmail_sql.LOCKED_EXPIRY}"]


def _identified(plugin: str) -> str:
    return f"IDENTIFIED WITH {plugin} AS %(new)s"


def _sha2_hash(kind: str, thousands: int, salt: str, password: str) -> str:
    """What caching_sha2_password keeps of a password."""
    key, salt_bytes, rounds = password.encode(), salt.encode("latin-1"), thousands * _ROUNDS_UNIT
    if kind == "B":
        digest = base64.b64encode(hashlib.pbkdf2_hmac("sha512", key, salt_bytes, rounds)).decode()
    else:
        digest = sha256_crypt(key, salt_bytes, rounds)
    return f"${kind}${thousands:03X}${salt}{digest}"


def sha256_crypt(key: bytes, salt: bytes, rounds: int) -> str:
    """The digest of sha256-crypt, see "Unix crypt using SHA-256 and SHA-512" by Ulrich Drepper; the salt is used whole.

    Args:
        key: The password.
        salt: The salt.
        rounds: How often the digest is computed anew.
    """
    digest = _sha256(key + salt + _repeated(_sha256(key + salt + key), len(key)) + _mixed(key, salt))
    p = _repeated(_sha256(key * len(key)), len(key))
    s = _repeated(_sha256(salt * (16 + digest[0])), len(salt))
    for number in range(rounds):
        odd = number & 1
        third = s if number % 3 else b""
        seventh = p if number % 7 else b""
        digest = _sha256((p if odd else digest) + third + seventh + (digest if odd else p))
    text = "".join(_characters(digest[a] << 16 | digest[b] << 8 | digest[c], 4) for a, b, c in _ORDER)
    return text + _characters(digest[31] << 8 | digest[30], 3)


def _mixed(key: bytes, salt: bytes) -> bytes:
    """For each bit of the key's length, from the lowest, the alternate sum for a one, the key for a zero."""
    alternate = _sha256(key + salt + key)
    parts, length = [], len(key)
    while length:
        parts.append(alternate if length & 1 else key)
        length >>= 1
    return b"".join(parts)


def _repeated(digest: bytes, length: int) -> bytes:
    """A digest as often as it takes to fill a length."""
    return (digest * length)[:length]


def _characters(number: int, count: int) -> str:
    """The lowest bits first, six to a character."""
    return "".join(_DIGITS[number >> 6 * place & 63] for place in range(count))


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
