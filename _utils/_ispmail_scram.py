"""Verifiers of passwords as PostgreSQL keeps them, see RFC 5802, RFC 7677, RFC 4013 and PostgreSQL's saslprep.c.

They are computed here, so that no log of the server has the password.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import stringprep
import unicodedata
from typing import Literal, NamedTuple

from _ispmail_errors import repr_without

ITERATIONS = 4096  # the server's default of scram_iterations
MOST_ITERATIONS = 10**6  # half a second; each role chooses its own number, and could have an admin wait for hours
SALT_BYTES = 16  # as many as the server takes for its own

Method = Literal["scram-sha-256", "md5"]

_KEY_BYTES = hashlib.sha256().digest_size
_BASE64 = "[A-Za-z0-9+/]+={0,2}"
_SCRAM = re.compile(
    rf"SCRAM-SHA-256\$(?P<iterations>[1-9][0-9]{{0,8}}):(?P<salt>{_BASE64})\$(?P<stored>{_BASE64}):(?P<server>{_BASE64})"
)
_MD5 = re.compile("md5[0-9a-f]{32}")
# Code points that a prepared password must not have, see RFC 4013, 2.3. Spaces other than ASCII's are mapped before.
# UTF-8 has no surrogates.
_PROHIBITED = (
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
    stringprep.in_table_a1,
)


class Keys(NamedTuple):
    """What is derived from a password, a salt and a number of iterations."""

    client: bytes
    server: bytes

    @property
    def stored(self) -> bytes:
        """What the server keeps of the client's key."""
        return hashlib.sha256(self.client).digest()

    def __repr__(self) -> str:
        return repr_without(self, "client", "server")


class _Verifier(NamedTuple):
    """A verifier by SCRAM-SHA-256, as far as it is needed here."""

    iterations: int
    salt: bytes
    stored: bytes

    def __repr__(self) -> str:
        return repr_without(self, "salt", "stored")


def keys(password: bytes, salt: bytes, iterations: int) -> Keys:
    """Derive the keys of a password.

    Args:
        password: Its bytes, as a client has them.
        salt: Random bytes that the server keeps.
        iterations: How often it is hashed.
    """
    salted = hashlib.pbkdf2_hmac("sha256", prepare(password), salt, iterations)
    return Keys(hmac.digest(salted, b"Client Key", "sha256"), hmac.digest(salted, b"Server Key", "sha256"))


def verifier(password: bytes, salt: bytes, iterations: int = ITERATIONS) -> str:
    """Write the verifier that a server keeps of a password for scram-sha-256.

    Args:
        password: Its bytes, as a client has them.
        salt: SALT_BYTES random bytes, used for this verifier only.
        iterations: How often it is hashed: the server's scram_iterations.

    Returns:
        ASCII without quotes and backslashes. Who reads it can try passwords, and can pretend to be the server.
    """
    made = keys(password, salt, iterations)
    return f"SCRAM-SHA-256${iterations}:{_base64(salt)}${_base64(made.stored)}:{_base64(made.server)}"


def method(text: str) -> Method | None:
    """Tell what kind of verifier it is; None if a server would take it for a password in clear text."""
    if _read(text):
        return "scram-sha-256"
    return "md5" if _MD5.fullmatch(text) else None


def belongs(text: str, password: bytes, user: str) -> bool:
    """Tell whether a server's verifier is that of a password; with more iterations than we compute it is not.

    Args:
        text: The verifier.
        password: The password's bytes.
        user: The name of the role: a verifier by md5 is salted with it.
    """
    found = _read(text)
    if found and found.iterations > MOST_ITERATIONS:
        return False
    if found:
        return hmac.compare_digest(keys(password, found.salt, found.iterations).stored, found.stored)
    once = hashlib.md5(password + user.encode("utf-8", "surrogateescape"), usedforsecurity=False)
    return hmac.compare_digest(text.encode("utf-8", "surrogateescape"), f"md5{once.hexdigest()}".encode())


def prepare(password: bytes) -> bytes:
    """Prepare a password as PostgreSQL's server and libpq do it: by SASLprep where it can be, else as it is.

    A password that is no UTF-8, or that SASLprep forbids (it has control characters, for example), is taken as it is.
    """
    try:
        text = password.decode()
    except ValueError:
        return password
    mapped = "".join(_mapped(character) for character in text)
    prepared = unicodedata.normalize("NFKC", mapped)
    return prepared.encode() if prepared and _is_allowed(prepared) else password


def _read(text: str) -> _Verifier | None:
    """Take a verifier by SCRAM-SHA-256 apart as the server does it, see parse_scram_secret() in its auth-scram.c."""
    found = _SCRAM.fullmatch(text)
    if not found:
        return None
    try:
        salt, stored, server = (base64.b64decode(found[part], validate=True) for part in ("salt", "stored", "server"))
    except ValueError:
        return None
    if len(stored) != _KEY_BYTES or len(server) != _KEY_BYTES:
        return None
    return _Verifier(int(found["iterations"]), salt, stored)


def _mapped(character: str) -> str:
    """See RFC 4013, 2.1. U+200B is in both tables, and PostgreSQL makes it a space."""
    if stringprep.in_table_c12(character):
        return " "
    return "" if stringprep.in_table_b1(character) else character


def _is_allowed(text: str) -> bool:
    """See RFC 4013, 2.3 to 2.5."""
    if any(is_in_table(character) for character in text for is_in_table in _PROHIBITED):
        return False
    right_to_left = [stringprep.in_table_d1(character) for character in text]
    if not any(right_to_left):
        return True
    return right_to_left[0] and right_to_left[-1] and not any(map(stringprep.in_table_d2, text))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
