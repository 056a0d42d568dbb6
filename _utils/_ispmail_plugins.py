"""Answer the login plugins of a database server; only a verified server gets the clear password.

The server chooses the plugin by which a client logs in. Some plugins have the client prove that it knows the password
(a scramble). Others have it send the password, in clear or encrypted with a key that the server itself sends, and any
program that answers at the database's address can ask for that. So this file lists what is allowed. Every other plugin,
also one that does not exist yet, gets no answer.

- mysql_native_password: a scramble, for every server.
- caching_sha2_password: a scramble, for every server; the password itself, for a verified one.
- sha256_password: the password itself, for a verified server.

A server is verified by its unix socket, or by TLS with a certificate that was issued for its host name.

Pure, see "Connection Phase" in MySQL's internals manual.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from _ispmail_errors import DatabaseError, repr_without

NATIVE = "mysql_native_password"
CACHING_SHA2 = "caching_sha2_password"
SHA256 = "sha256_password"
# Only for the message: no plugin but those above is answered.
_CLEAR = ("mysql_clear_password", "dialog")
# The number of a plugin that a client cannot use, CR_AUTH_PLUGIN_CANNOT_LOAD.
NO_PLUGIN = 2059

_NONCE_LENGTH = 20
_SWITCH, _MORE = b"\xfe", b"\1"
_LOGGED_IN, _WANTS_PASSWORD = b"\3", b"\4"


class Reply(NamedTuple):
    """What a server gets: data by a plugin. No data: nothing is sent, and the server speaks next."""

    plugin: str
    data: bytes | None

    def __repr__(self) -> str:
        return repr_without(self, "data")


def first_reply(offered: str, password: bytes, nonce: bytes) -> Reply:
    """The reply to a server's greeting.

    Args:
        offered: The plugin that the greeting names. The server asks for another one if the account needs it, so one
            that is not answered at once is no fault yet.
        password: The account's password.
        nonce: The random bytes of the greeting.
    """
    if offered == CACHING_SHA2:
        return Reply(CACHING_SHA2, _scramble_sha2(password, nonce))
    return Reply(NATIVE, _scramble_native(password, nonce))


def next_reply(packet: bytes, plugin: str, password: bytes, verified: bool) -> Reply:
    """The reply to a packet in which the server asks for more.

    Args:
        packet: An auth switch request or extra auth data.
        plugin: The plugin in use.
        password: The account's password.
        verified: The server is known to be the right one: by its unix socket, or by its certificate and host name.

    Raises:
        DatabaseError: The server asks for what it must not get, or for a plugin that is not supported.
    """
    kind, rest = packet[:1], packet[1:]
    if kind == _SWITCH:
        # A packet without a name is how servers of old asked for mysql_old_password.
        name, _, nonce = (rest or b"mysql_old_password").partition(b"\0")
        return _switched(name.decode("ascii", "replace"), nonce[:_NONCE_LENGTH], password, verified)
    if kind == _MORE and plugin == CACHING_SHA2:
        if rest[:1] == _LOGGED_IN:
            return Reply(plugin, None)
        if rest[:1] == _WANTS_PASSWORD:
            return Reply(plugin, _clear(password, verified))
    raise DatabaseError("it does not keep to the login protocol: check that it is a MariaDB or MySQL server")


def _switched(plugin: str, nonce: bytes, password: bytes, verified: bool) -> Reply:
    if plugin == NATIVE:
        return Reply(plugin, _scramble_native(password, nonce))
    if plugin == CACHING_SHA2:
        return Reply(plugin, _scramble_sha2(password, nonce))
    if plugin == SHA256:
        return Reply(plugin, _clear(password, verified))
    if plugin in _CLEAR:
        raise _withheld()
    raise DatabaseError(
        f"error {NO_PLUGIN}: it asks for a login plugin that is not supported: "
        f"give the account a password by {NATIVE}, or on a MySQL without that by {CACHING_SHA2}",
        NO_PLUGIN,
    )


def _clear(password: bytes, verified: bool) -> bytes:
    """The password itself, for a server that is known to be the right one."""
    if password and not verified:
        raise _withheld()
    return password + b"\0"


def _withheld() -> DatabaseError:
    return DatabaseError(
        "it asks for the clear-text password, which was not given: check that it is the right server, "
        f"and give the account a password by {NATIVE}, or have the server verified: by its unix socket, or by TLS with "
        "tls_CAfile and tls_verify_cert"
    )


def _scramble_native(password: bytes, nonce: bytes) -> bytes:
    if not password:
        return b""
    once = _sha1(password)
    return _xor(once, _sha1(nonce + _sha1(once)))


def _scramble_sha2(password: bytes, nonce: bytes) -> bytes:
    if not password:
        return b""
    once = hashlib.sha256(password).digest()
    twice = hashlib.sha256(once).digest()
    return _xor(once, hashlib.sha256(twice + nonce).digest())


def _sha1(data: bytes) -> bytes:
    return hashlib.sha1(data, usedforsecurity=False).digest()


def _xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other))
