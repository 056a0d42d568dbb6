"""The hosts of a table file: the one place that takes them apart, and what is wrong with them. Pure.

See mysql_table(5), pgsql_table(5), and host_init() in Postfix's dict_mysql.c and dict_pgsql.c.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from _ispmail_errors import Fault, holds_login, repr_without

# What Postfix strips from the ends of a value: isspace(3) in the C locale.
BLANKS = " \t\n\v\f\r"
# What Postfix hands over to libpq from 3.10 on. Before, it was all that begins with postgresql: and nothing else.
_URIS = ("postgresql://", "postgres://")
# Where Debian's MariaDB and MySQL listen.
MYSQL_SOCKET = "/run/mysqld/mysqld.sock"
# Where Debian's PostgreSQL has its sockets: clients name the directory.
POSTGRESQL_SOCKETS = "/run/postgresql"
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_DEFAULT_PORTS = {"mysql": 3306, "pgsql": 5432}
_BETWEEN = re.compile(rf"[,{BLANKS}]+")
_LOOPBACK = re.compile(r"127\.[0-9.]+|::1")


class Host(NamedTuple):
    """One of a table's hosts, as Postfix and its client library read it."""

    text: str  # as the table file has it; a URI may hold a password
    name: str | None  # None for a path of a socket, and for a URI, which libpq reads by itself
    port: int | str | None  # a text for the name of a service, see services(5); None for a socket and a URI
    socket: str | None  # the path of the socket (pgsql: of its directory)

    def __repr__(self) -> str:
        return repr_without(self, "text")


def hosts(keys: Mapping[str, str]) -> list[str]:
    """Return the hosts of a table, as its file spells them. Without any, Postfix takes localhost."""
    return split_list(keys.get("hosts", "")) or ["localhost"]


def parse_host(text: str, table_type: str = "mysql") -> Host:
    """Take a host apart, see host_init() in Postfix's dict_mysql.c and dict_pgsql.c."""
    if is_read_by_libpq(text, table_type):
        return Host(text, name=None, port=None, socket=None)
    return _host(text, table_type)


# All tables of a server have the same hosts, as a rule. Without a URI there is no password in what is kept.
@functools.lru_cache
def _host(text: str, table_type: str) -> Host:
    name, port = _split_port(text)
    if table_type == "mysql" and name.lower() == "localhost":
        return Host(text, name="localhost", port=None, socket=MYSQL_SOCKET)
    if text.startswith("unix:") or (table_type == "pgsql" and name.startswith("/")):
        return Host(text, name=None, port=None, socket=name)
    return Host(text, name=name, port=_port(port, table_type), socket=None)


def postgresql_socket(path: str, port: int = 5432) -> str:
    """The path of a PostgreSQL's socket, where its directory may be named, as libpq has it; else the path itself."""
    return path if path.rpartition("/")[2].startswith(".s.PGSQL.") else f"{path.rstrip('/')}/.s.PGSQL.{port}"


def is_read_by_libpq(text: str, table_type: str) -> bool:
    """Whether a host is a URI, which PostgreSQL's client library takes apart itself."""
    return table_type == "pgsql" and text.startswith(_URIS)


def uri_user(uri: str) -> str | None:
    """The user that a URI names, as libpq reads it. Postfix hands over no other one then, see pgsql_table(5).

    Returns:
        Empty: the user that the process runs as. None: a file of libpq's decides, see pg_service.conf.
    """
    rest = uri.partition("://")[2]
    login, at, behind = rest.partition("@")
    # A slash ends what may be the login.
    has_login = bool(at) and "/" not in login
    given = {"user": _decoded(login.partition(":")[0])} if has_login else {}
    for parameter in (behind if has_login else rest).partition("?")[2].split("&"):
        key, _, value = parameter.partition("=")
        given[_decoded(key)] = _decoded(value)
    return given.get("user") or (None if given.get("service") else "")


def names(keys: Mapping[str, str], table_type: str) -> list[str]:
    """The names that a process resolves when it connects: those of hosts, neither addresses nor localhost."""
    if table_type == "sqlite":
        return []
    found = [parse_host(text, table_type).name for text in hosts(keys)]
    return [name for name in dict.fromkeys(found) if name and name.lower() != "localhost" and not _is_address(name)]


def split_list(text: str) -> list[str]:
    """Split at commas and blanks, as Postfix does with `hosts` and `domain`."""
    return [item for item in _BETWEEN.split(text) if item]


def is_remote(text: str, table_type: str = "mysql") -> bool:
    """Tell whether a host is reached over a network, where nothing verifies that it is the right one."""
    host = parse_host(text, table_type)
    if is_read_by_libpq(text, table_type):
        return "sslmode=verify-full" not in text
    return host.name is not None and host.name != "localhost" and not _LOOPBACK.fullmatch(host.name)


def host_fault(text: str, table_type: str) -> Fault | None:
    """Say why Postfix cannot use a host, or None."""
    if table_type == "pgsql" and text.startswith(("postgresql:", *_URIS)):
        return _uri_fault(text)
    return _path_fault(text, table_type) if text.startswith(("/", "unix:")) else _name_fault(text, table_type)


def _split_port(text: str) -> tuple[str, str | None]:
    """Take the prefix off, and split name and port at the last colon, as Postfix does. None: there is no colon."""
    rest = re.sub("^(inet|unix):", "", text)
    name, colon, port = rest.rpartition(":")
    return (name, port) if colon else (rest, None)


def _port(text: str | None, table_type: str) -> int | str | None:
    if text and _is_service(text, table_type):
        return text
    return int(text) if text and _is_port(text) else _DEFAULT_PORTS.get(table_type)


def _is_port(text: str) -> bool:
    return re.fullmatch(r"[0-9]{1,5}", text) is not None and 0 < int(text) < 65536


def _is_service(text: str, table_type: str) -> bool:
    """Whether a port is the name of a service. libpq takes numbers only."""
    return table_type == "mysql" and re.fullmatch(r"[A-Za-z0-9]*[A-Za-z][A-Za-z0-9._+-]*", text) is not None


def _is_address(text: str, parsed: Callable[[str], object] = ipaddress.ip_address) -> bool:
    try:
        parsed(text)
    except ValueError:
        return False
    return True


def _uri_fault(uri: str) -> Fault | None:
    if holds_login(uri):
        fix = "write host:port in place of the URI, and the keys user and password"
        return Fault("hosts", "holds a password in a URI", fix)
    if not uri.startswith(_URIS[0]):
        fix = f"begin it with {_URIS[0]}, or write inet: before it if it is the name of a host"
        return Fault("hosts", "is a URI to some releases of Postfix and a host to others", fix)
    return None


def _decoded(text: str) -> str:
    """A part of a URI: %41 stands for A."""
    encoded = text.encode("utf-8", "surrogateescape")
    decoded = re.sub(rb"%([0-9A-Fa-f]{2})", lambda found: bytes.fromhex(found[1].decode()), encoded)
    return decoded.decode("utf-8", "surrogateescape")


def _path_fault(text: str, table_type: str) -> Fault | None:
    if text.startswith("/") and table_type == "mysql":
        return Fault("hosts", "is a path", "write unix: before it")
    if not text.startswith(("/", "unix:/")):
        return Fault("hosts", "has a unix: without an absolute path", "write unix: and the path of the socket")
    return None


def _name_fault(text: str, table_type: str) -> Fault | None:
    name, port = _split_port(text)
    if _URI.match(text):
        fix = "write host:port in place of it, and the keys user, password and dbname"
        return Fault("hosts", "is a URI, which Postfix would take for the name of a host", fix)
    has_ipv6 = any(_is_address(each, ipaddress.IPv6Address) for each in (name, f"{name}:{port}"))
    if ":" in name and "[" not in text and not has_ipv6:
        return Fault("hosts", "has more than one colon, and is no IPv6 address with a port", "write host:port")
    if "[" in text or (":" in name and not _is_address(name, ipaddress.IPv6Address)):
        reason = "has an IPv6 address in brackets or without a port, but Postfix splits at the last colon"
        return Fault("hosts", reason, f"write such as ::1:{_DEFAULT_PORTS[table_type]}")
    if not name:
        return Fault("hosts", "has a port without a host", "write host:port")
    is_default = port is None or (port == "" and table_type == "pgsql")
    if not is_default and not (_is_port(port or "") or _is_service(port or "", table_type)):
        reason = "has a port that is not a number from 1 to 65535"
        reason += "" if table_type == "pgsql" else ", nor the name of a service"
        return Fault("hosts", reason, "correct it or take it out")
    if port is not None and table_type == "mysql" and name.lower() == "localhost":
        reason = "has localhost with a port, but localhost is the unix socket and the port is ignored"
        return Fault("hosts", reason, "write 127.0.0.1")
    return None
