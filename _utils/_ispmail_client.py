"""The client of MariaDB and MySQL: log in and run statements, bounded in time and bytes.

PyMySQL carries the packets, but never has the password: the login is done here, with what _ispmail_plugins allows.
"""

from __future__ import annotations

import contextlib
import functools
import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import _ispmail_plugins
from _ispmail_bounds import CONNECT, LOGIN, Bounds
from _ispmail_errors import DatabaseError, repr_without
from _ispmail_meanings import LOST, NO_TLS, UNREACHABLE, numbered

# How often a server may ask for more during one login: once for each alternative of the account, and a few times more.
_MOST_QUESTIONS = 32
_MAX_PACKET = 2**24 - 1
# The internals of PyMySQL that the login replaces or uses.
_INNER = (
    "_request_authentication",
    "_get_server_information",
    "_read_packet",
    "_read_bytes",
    "_force_close",
    "write_packet",
    "_auth_plugin_name",
)
_NO_DATABASE = "check that it is a MariaDB or MySQL server, and see the server's log"


class TLS(NamedTuple):
    """The TLS settings of a table file. With them a server without TLS is refused."""

    ca_file: str | None
    ca_path: str | None
    certificate: str | None
    key: str | None
    verify_name: bool  # the certificate must be one of the CA's for the host; without a CA only TLS is asked for


class Login(NamedTuple):
    """Where and how a client logs in."""

    user: str
    password: bytes
    unix_socket: str | None = None
    host: str | None = None
    port: int | str = 3306  # or the name of a service
    database: str | None = None
    tls: TLS | None = None
    type: str = "mysql"  # of the tables that log in so: pgsql for a PostgreSQL

    def __repr__(self) -> str:
        return repr_without(self, "password")


class Client:
    """One connection. What fails on it is reported by number and in our own words, never in the server's."""

    def __init__(self, where: str, login: Login, connect_within: float = CONNECT, login_within: float = LOGIN) -> None:
        """Connect to nothing yet.

        Args:
            where: The server, in messages.
            login: How to log in.
            connect_within: Seconds for each of its addresses.
            login_within: Seconds for all of the login, but for the system's resolver.
        """
        self.where = where
        self.plugin = _ispmail_plugins.NATIVE
        self._login = login
        self._connect_within, self._login_within = connect_within, login_within
        self._bounds = Bounds(login_within, lambda: numbered(LOST))
        self._columns = 0
        self._connection: Any = None

    def connect(self) -> None:
        """Log in.

        Raises:
            DatabaseError: The server cannot be reached, refuses, or asks for what it must not get.
        """
        pymysql = require_pymysql()
        login = self._login
        self._bounds.begin_login()
        answered: list[str] = []
        try:
            connection = self._connection = pymysql.connect(
                password=b"",
                host=login.host,
                database=login.database,
                ssl=tls_context(login.tls),
                charset="utf8mb4",
                autocommit=True,
                cursorclass=pymysql.cursors.DictCursor,
                defer_connect=True,
                write_timeout=self._login_within,
            )
            connection._read_bytes = functools.partial(self._read_bytes, connection)
            connection._read_packet = functools.partial(self._read_packet, connection, connection._read_packet)
            connection._request_authentication = lambda: answered.append(_log_in(connection, login, self._bounds))
            connection.connect(self._open())
        except Exception as err:
            # An arbitrary server may send packets that make PyMySQL raise any exception.
            raise self._failure(err) from None
        if not answered:
            self.close()
            raise _unknown_pymysql(pymysql)
        self.plugin = answered[-1]

    def ask(self, statement: str, arguments: object = None) -> list[dict[str, Any]]:
        """Run a statement. Its rows by the names of their columns.

        Raises:
            DatabaseError: It fails.
        """
        try:
            if not self._connection.open:
                raise numbered(LOST)
            self._bounds.begin_statement()
            self._columns = 0
            with self._connection.cursor() as cursor:
                cursor.execute(statement, arguments)
                return list(cursor.fetchall())
        except Exception as err:
            raise self._failure(err) from None

    def wait_longer(self) -> None:
        """Give statements the time that building an index takes."""
        self._bounds.wait_longer()

    def abort(self) -> None:
        """End the connection under another thread that waits on it."""
        self._bounds.abort()
        sock = getattr(self._connection, "_sock", None)
        if sock is not None:
            # The shutdown() of TLS itself would have the other thread go on without TLS.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def close(self) -> None:
        """Log out."""
        if self._connection is not None and self._connection.open:
            self._connection.close()

    def _open(self) -> socket.socket:
        """Connect to the first of the server's addresses that takes it."""
        for family, address in _addresses(self._login):
            within = min(self._connect_within, self._bounds.left())
            with contextlib.suppress(OSError, ValueError, OverflowError):
                return _connected(family, address, within)
        raise numbered(UNREACHABLE)

    def _read_packet(self, connection: Any, read: Callable[..., Any], *kind: Any) -> Any:
        """In place of PyMySQL's own, which gets a kind for the description of a column only."""
        packet = read(*kind)
        if kind:
            self._columns += 1
            return packet
        with _closing(connection):
            self._bounds.take_values(self._columns)
        return packet

    def _read_bytes(self, connection: Any, count: int) -> bytes:
        """In place of PyMySQL's own, which waits and reads without end."""
        with _closing(connection):
            try:
                return self._bounds.receive(connection._sock, count)
            except OSError:
                raise numbered(LOST) from None

    def _failure(self, err: Exception) -> DatabaseError:
        from pymysql.err import MySQLError  # noqa: PLC0415

        if isinstance(err, DatabaseError):
            return DatabaseError(f"{self.where}: {err}", err.number)
        number = 0
        if isinstance(getattr(err, "original_exception", err), ssl.SSLError):
            number = NO_TLS
        elif isinstance(err, MySQLError) and err.args and isinstance(err.args[0], int):
            # PyMySQL takes the two bytes for a signed number.
            number = err.args[0] % 2**16
        if not number:
            return DatabaseError(f"{self.where}: an unreadable answer: {_NO_DATABASE}")
        return DatabaseError(f"{self.where}: {numbered(number)}", number)


@contextlib.contextmanager
def _closing(connection: Any) -> Iterator[None]:
    """Close the connection where something fails, without a word to the server."""
    try:
        yield
    except BaseException:
        connection._force_close()
        raise


def require_pymysql() -> Any:
    """Import PyMySQL: only who uses the database needs it.

    Raises:
        DatabaseError: It is not installed, or not one that the login of this file fits.
    """
    try:
        import pymysql  # noqa: PLC0415
        import pymysql.connections  # noqa: PLC0415
        import pymysql.cursors  # noqa: PLC0415
    except ImportError:
        raise DatabaseError(
            "Salt's Python has no PyMySQL: apply ispmail.database, or install python3-pymysql (salt-pip for onedir)"
        ) from None
    if not all(hasattr(pymysql.connections.Connection, name) for name in _INNER):
        raise _unknown_pymysql(pymysql)
    return pymysql


def _unknown_pymysql(pymysql: Any) -> DatabaseError:
    version = ".".join(str(part) for part in pymysql.VERSION[:3])
    return DatabaseError(
        f"PyMySQL {version} cannot be kept from giving passwords away, so no login was made: "
        "install a version from 1.0 to 1.2"
    )


def _addresses(login: Login) -> list[tuple[int, Any]]:
    """The family and address of each socket of a server; none for a name that does not exist."""
    if login.unix_socket:
        return [(socket.AF_UNIX, login.unix_socket)]
    try:
        found = socket.getaddrinfo(login.host or "localhost", login.port, type=socket.SOCK_STREAM)
    except (OSError, ValueError, OverflowError):
        return []
    return [(family, address) for family, _, _, _, address in found]


def _connected(family: int, address: Any, within: float) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.settimeout(within)
        sock.connect(address)
        if family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    except BaseException:
        sock.close()
        raise
    return sock


def _log_in(connection: Any, login: Login, bounds: Bounds) -> str:
    """Log in after the server's greeting, in place of PyMySQL's own _request_authentication.

    Returns:
        The login plugin that the server asked for last.
    """
    from pymysql.charset import charset_by_name  # noqa: PLC0415
    from pymysql.constants import CLIENT  # noqa: PLC0415

    offered = connection.server_capabilities
    use_tls = bool(connection.ssl and offered & CLIENT.SSL)
    if login.tls and not use_tls:
        raise numbered(NO_TLS)
    flags = (connection.client_flag | CLIENT.MULTI_RESULTS) & ~CLIENT.CONNECT_ATTRS & ~CLIENT.SSL
    if use_tls:
        flags |= CLIENT.SSL
    charset: Any = charset_by_name(connection.charset)
    head = struct.pack("<IIB23s", flags, _MAX_PACKET, charset.id, b"")
    if use_tls:
        connection.write_packet(head)
        connection._sock.settimeout(bounds.left())
        connection._sock = connection.ctx.wrap_socket(connection._sock, server_hostname=connection.host)
        # abort() does not reach a socket on which TLS begins.
        bounds.left()
    reply = _ispmail_plugins.first_reply(connection._auth_plugin_name, login.password, connection.salt)
    data = reply.data or b""
    # Where there is none, PyMySQL's own is root, and root is the admin.
    user = login.user.encode("utf-8", "surrogateescape")
    database = (login.database or "").encode("utf-8", "surrogateescape")
    packet = head + user + b"\0" + bytes([len(data)]) + data
    if database:
        packet += database + b"\0"
    connection.write_packet(packet + reply.plugin.encode() + b"\0")
    verified = _is_verified(connection)
    for _ in range(_MOST_QUESTIONS):
        answer = connection._read_packet()
        if answer.is_ok_packet():
            return reply.plugin
        reply = _ispmail_plugins.next_reply(answer.get_all_data(), reply.plugin, login.password, verified)
        if reply.data is not None:
            connection.write_packet(reply.data)
    raise DatabaseError(f"it has asked {_MOST_QUESTIONS} times for the login: check that it is the right server")


def _is_verified(connection: Any) -> bool:
    """Whether the server is known to be the right one: by its unix socket, or by certificate and host name."""
    sock = connection._sock
    if sock.family == socket.AF_UNIX:
        return True
    # PyMySQL itself takes any TLS for safe.
    return (
        isinstance(sock, ssl.SSLSocket)
        and sock.context.verify_mode == ssl.CERT_REQUIRED
        and sock.context.check_hostname
    )


def tls_context(tls: TLS | None) -> ssl.SSLContext:
    """How the server is verified: its certificate where there is a CA, its name too where the table file says so.

    Without settings there is TLS where the server offers it. The system's authorities are not read, which would take
    20 ms: only those that the settings name count.
    """
    # By this name, and not by create_default_context, MySQL's own certificates are taken from Python 3.13 on too.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    has_ca = bool(tls and (tls.ca_file or tls.ca_path))
    context.check_hostname = bool(tls and has_ca and tls.verify_name)
    context.verify_mode = ssl.CERT_REQUIRED if has_ca else ssl.CERT_NONE
    try:
        if tls and has_ca:
            context.load_verify_locations(tls.ca_file, tls.ca_path)
        if tls and (tls.certificate or tls.key):
            context.load_cert_chain(tls.certificate or "", tls.key)
    except OSError:
        raise numbered(NO_TLS) from None
    return context
