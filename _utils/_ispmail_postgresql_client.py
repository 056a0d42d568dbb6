"""The client of PostgreSQL: log in and run statements, bounded in time and bytes.

It speaks version 3.0 of the protocol itself, see "Frontend/Backend Protocol" in PostgreSQL's manual. libpq before 16
and pg8000 give the password in clear text to any server that asks for it, and run statements on one that asks for
nothing.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import os
import re
import socket
import ssl
import struct
from collections.abc import Iterator

import _ispmail_peer
import _ispmail_scram
from _ispmail_bounds import CONNECT, LOGIN, Bounds
from _ispmail_client import TLS, Login, tls_context
from _ispmail_errors import DatabaseError
from _ispmail_sqlstates import LOST, NO_TLS, UNPROVEN, UNREACHABLE, UNREADABLE, stated

# What libpq does without any settings: TLS where the server offers it, whoever it is.
_PREFERRED = TLS(None, None, None, None, verify_name=False)
_PROTOCOL, _TLS_REQUEST = 196608, 80877103
_OK, _CLEAR, _MD5, _SASL, _SASL_CONTINUE, _SASL_FINAL = 0, 3, 5, 10, 11, 12
_SCRAM = "SCRAM-SHA-256"
# The ways to log in, as pg_hba.conf names them. A login by peer looks like one by trust.
WITHOUT_PASSWORD = "trust or peer"  # noqa: S105
_NAMES = {_OK: WITHOUT_PASSWORD, _CLEAR: "password", _MD5: "md5", _SASL: "scram-sha-256"}
# A server that is not known to be the right one could have a password hashed less, to try passwords faster; any could
# have it hashed for hours.
_LEAST_ITERATIONS, _MOST_ITERATIONS = _ispmail_scram.ITERATIONS, _ispmail_scram.MOST_ITERATIONS
_CHALLENGE = re.compile(r"r=(?P<nonce>[!-+\--~]+),s=(?P<salt>[A-Za-z0-9+/]+={0,2}),i=(?P<iterations>[1-9][0-9]{0,8})")


class Client:
    """One connection. What fails on it is reported by SQLSTATE and in our own words, never in the server's."""

    def __init__(
        self,
        where: str,
        login: Login,
        connect_within: float = CONNECT,
        login_within: float = LOGIN,
        system_user: str | None = None,
    ) -> None:
        """Connect to nothing yet.

        Args:
            where: The server, in messages.
            login: How to log in. Without TLS settings it is as libpq has it (sslmode=prefer): TLS where the server
                offers it, without a look at its certificate.
            connect_within: Seconds for each of its addresses.
            login_within: Seconds for all of the login, but for the system's resolver.
            system_user: As which user of this system to connect to a unix socket, for a login by peer; None as we are.
        """
        self.where = where
        self.plugin = ""
        self._login = login
        self._connect_within = connect_within
        self._bounds = Bounds(login_within, lambda: DatabaseError(LOST))
        self._system_user = system_user
        self._sock: socket.socket | None = None

    def connect(self) -> None:
        """Log in.

        Raises:
            DatabaseError: The server cannot be reached, refuses, or asks for what it must not get.
        """
        self._bounds.begin_login()
        try:
            self._connect(self._login.tls or _PREFERRED)
        except DatabaseError as err:
            # As libpq does: pg_hba.conf may have a line for connections without TLS only.
            if err.number != "28000" or self._login.tls or not isinstance(self._sock, ssl.SSLSocket):
                raise
            self.close()
            self._connect(None)

    def _connect(self, tls: TLS | None) -> None:
        with self._failing():
            self._sock = self._opened(tls)
            names = {"user": self._login.user, "database": self._login.database or self._login.user}
            body = b"".join(_c(text) for pair in {**names, "client_encoding": "UTF8"}.items() for text in pair)
            self._write(b"", struct.pack("!i", _PROTOCOL) + body + b"\0")
            self._authenticate()
            for kind, _ in self._messages():
                if kind == b"Z":
                    return

    def ask(self, statement: str, arguments: object = None) -> list[dict[str, str | None]]:
        """Run statements in one transaction. The rows of the last one that has some, as texts.

        Args:
            statement: One or more; they have no placeholders.
            arguments: None: those of other servers fill placeholders.

        Raises:
            DatabaseError: One fails.
        """
        self._bounds.begin_statement()
        names: list[str] = []
        rows: list[dict[str, str | None]] = []
        with self._failing():
            self._write(b"Q", _c(statement))
            error = None
            for kind, body in self._messages(raising=False):
                if kind == b"T":
                    names, rows = _names(body), []
                elif kind == b"D":
                    self._bounds.take_values(len(names))
                    rows.append(dict(zip(names, _values(body))))
                elif kind == b"E":
                    error = _error(body)
                elif kind == b"Z":
                    break
                elif kind not in b"CIn":
                    raise DatabaseError(UNREADABLE)
            if error:
                raise error
        return rows

    def wait_longer(self) -> None:
        """Give statements the time that building an index takes."""
        self._bounds.wait_longer()

    def abort(self) -> None:
        """End the connection under another thread that waits on it."""
        self._bounds.abort()
        sock = self._sock
        if sock is not None:
            # The shutdown() of TLS itself would have the other thread go on without TLS.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def close(self) -> None:
        """Log out."""
        sock, self._sock = self._sock, None
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.sendall(b"X" + struct.pack("!i", 4))
            sock.close()

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        """Raise errors in our words, and close the connection, unless the server has refused what it was asked."""
        try:
            yield
        except DatabaseError as err:
            if not err.number:
                self.close()
            raise DatabaseError(f"{self.where}: {err}", err.number) from None
        except ssl.SSLError:
            self.close()
            raise DatabaseError(f"{self.where}: {NO_TLS}") from None
        except OSError:
            self.close()
            raise DatabaseError(f"{self.where}: {LOST}") from None
        except (ValueError, LookupError, struct.error):
            self.close()
            raise DatabaseError(f"{self.where}: {UNREADABLE}") from None

    def _opened(self, tls: TLS | None) -> socket.socket:
        login = self._login
        if login.unix_socket:
            return self._opened_locally(login.unix_socket)
        sock = self._opened_remotely()
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if tls is None:
                return sock
            sock.settimeout(self._bounds.left())
            sock.sendall(struct.pack("!ii", 8, _TLS_REQUEST))
            # One byte only: what follows it in clear could have been put there by somebody else.
            answer = sock.recv(1)
            if answer == b"N" and tls is _PREFERRED:
                return sock
            if answer != b"S":
                raise DatabaseError(LOST if not answer else NO_TLS)
            sock.settimeout(self._bounds.left())
            wrapped = tls_context(tls).wrap_socket(sock, server_hostname=login.host)
            # abort() does not reach a socket on which TLS begins.
            self._bounds.left()
        except BaseException:
            sock.close()
            raise
        return wrapped

    def _opened_locally(self, path: str) -> socket.socket:
        try:
            if self._system_user:
                return _ispmail_peer.connect(path, self._system_user, self._bounds.left())
            sock = socket.socket(socket.AF_UNIX)
            sock.settimeout(self._bounds.left())
            sock.connect(path)
        except OSError:
            raise DatabaseError(UNREACHABLE) from None
        return sock

    def _opened_remotely(self) -> socket.socket:
        login = self._login
        within = min(self._connect_within, self._bounds.left())
        try:
            return socket.create_connection((login.host or "localhost", int(login.port)), within)
        except (OSError, OverflowError):
            raise DatabaseError(UNREACHABLE) from None

    def _is_verified(self) -> bool:
        """Whether the server is known to be the right one: by its unix socket, or by certificate and host name."""
        sock = self._sock
        if isinstance(sock, ssl.SSLSocket):
            return sock.context.verify_mode == ssl.CERT_REQUIRED and sock.context.check_hostname
        return bool(self._login.unix_socket)

    def _authenticate(self) -> None:
        """Answer what the server asks for, if it may have it."""
        login = self._login
        way, body = self._question()
        self.plugin = _NAMES.get(way, "")
        if way == _SASL:
            self._scram(body)
            way, body = self._question()
        elif way != _OK or login.password:
            if not self._is_verified():
                raise DatabaseError(
                    "it does not log in by scram-sha-256, which proves that it is the right server: give the role a "
                    "password by scram-sha-256, and pg_hba.conf that method; or use a unix socket, or TLS with a CA",
                    UNPROVEN,
                )
            if way == _CLEAR:
                self._write(b"p", login.password + b"\0")
            elif way == _MD5:
                user = login.user.encode("utf-8", "surrogateescape")
                once = hashlib.md5(login.password + user, usedforsecurity=False).hexdigest().encode()
                again = hashlib.md5(once + body[:4], usedforsecurity=False).hexdigest()
                self._write(b"p", _c(f"md5{again}"))
            if way in (_CLEAR, _MD5):
                way, body = self._question()
        if way != _OK:
            raise DatabaseError("it asks for a login that is neither scram-sha-256 nor a password: see pg_hba.conf")

    def _scram(self, body: bytes) -> None:
        """Log in by RFC 5802, and see that the server knows the password's verifier."""
        if _SCRAM.encode() not in body.split(b"\0"):
            raise DatabaseError(UNREADABLE)
        first = f"n=,r={base64.b64encode(os.urandom(18)).decode()}"
        message = f"n,,{first}".encode()
        self._write(b"p", _c(_SCRAM) + struct.pack("!i", len(message)) + message)
        challenge = self._sasl(_SASL_CONTINUE)
        found = _CHALLENGE.fullmatch(challenge)
        if not found or not found["nonce"].startswith(first.partition("r=")[2]):
            raise DatabaseError(UNREADABLE)
        iterations = int(found["iterations"])
        least = 1 if self._is_verified() else _LEAST_ITERATIONS
        if not least <= iterations <= _MOST_ITERATIONS:
            raise DatabaseError(f"its verifier has {iterations} iterations, use {least} to {_MOST_ITERATIONS}")
        keys = _ispmail_scram.keys(self._login.password, base64.b64decode(found["salt"], validate=True), iterations)
        last = f"c=biws,r={found['nonce']}"
        signed = f"{first},{challenge},{last}".encode()
        signature = hmac.digest(keys.stored, signed, "sha256")
        proof = bytes(one ^ other for one, other in zip(keys.client, signature))
        self._write(b"p", f"{last},p={base64.b64encode(proof).decode()}".encode())
        expected = f"v={base64.b64encode(hmac.digest(keys.server, signed, 'sha256')).decode()}"
        if not hmac.compare_digest(self._sasl(_SASL_FINAL).encode(), expected.encode()):
            raise DatabaseError("it does not know the password's verifier: check that it is the right server")

    def _sasl(self, way: int) -> str:
        found, body = self._question()
        if found != way:
            raise DatabaseError(UNREADABLE)
        return body.decode("ascii")

    def _question(self) -> tuple[int, bytes]:
        """The next message of the login: its code, and what is behind that."""
        for kind, body in self._messages():
            if kind != b"R":
                break
            return struct.unpack_from("!i", body)[0], body[4:]
        raise DatabaseError(UNREADABLE)

    def _messages(self, raising: bool = True) -> Iterator[tuple[bytes, bytes]]:
        """What the server sends, without what may come at any time.

        Args:
            raising: Whether an error is raised.
        """
        while True:
            head = self._read(5)
            kind, size = head[:1], struct.unpack("!i", head[1:])[0] - 4
            body = self._read(size)
            if kind == b"E" and raising:
                raise _error(body)
            if kind not in b"NSAK":
                yield kind, body

    def _read(self, count: int) -> bytes:
        return self._bounds.receive(self._open_socket(), count)

    def _write(self, kind: bytes, body: bytes) -> None:
        sock = self._open_socket()
        sock.settimeout(self._bounds.left())
        sock.sendall(kind + struct.pack("!i", len(body) + 4) + body)

    def _open_socket(self) -> socket.socket:
        if self._sock is None:
            raise DatabaseError(LOST)
        return self._sock


def _c(text: str) -> bytes:
    """A text as the protocol has it."""
    data = text.encode("utf-8", "surrogateescape")
    if b"\0" in data:
        raise ValueError("a text in PostgreSQL cannot have a NUL")
    return data + b"\0"


def _error(body: bytes) -> DatabaseError:
    fields = {part[:1]: part[1:] for part in body.split(b"\0")}
    return stated(fields.get(b"C", b"").decode("ascii"))


def _names(body: bytes) -> list[str]:
    (count,) = struct.unpack_from("!h", body)
    names, at = [], 2
    for _ in range(count):
        end = body.index(b"\0", at)
        names.append(body[at:end].decode())
        at = end + 1 + 18
    return names


def _values(body: bytes) -> Iterator[str | None]:
    (count,) = struct.unpack_from("!h", body)
    at = 2
    for _ in range(count):
        (size,) = struct.unpack_from("!i", body, at)
        at += 4
        if size < 0:
            yield None
            continue
        yield body[at : at + size].decode()
        at += size
