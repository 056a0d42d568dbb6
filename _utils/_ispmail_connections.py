"""The database's list of an account's connections, and the programs of this server that own them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import _ispmail_hosts
import _ispmail_session
import _ispmail_sockets
import _ispmail_unix
from _ispmail_config_database import MYSQL, PGSQL
from _ispmail_errors import DatabaseError
from _ispmail_postgresql_text import literal
from _ispmail_sockets import Connection, Process

# An account needs no privilege to see its own connections.
STATEMENTS = ("SHOW PROCESSLIST", "SELECT CONNECTION_ID() AS id, @@port AS port, @@socket AS socket")
_LOOPBACK = ("127.0.0.1", "::1")
# How many connections of one program are told.
_TOLD = 3
_HIDDEN = "a program that /proc does not show, such as one of a container"


class Client(NamedTuple):
    """One connection, as the database lists it."""

    host: str  # an IP address or a name
    port: int | None  # None: through the unix socket

    def describe(self) -> str:
        """As the list has it; `read_client` reads it."""
        return self.host if self.port is None else f"{self.host}:{self.port}"


class Listed(NamedTuple):
    """The connections of accounts that a server lists, without the one that asked."""

    clients: tuple[Client, ...]
    port: int  # of the server
    socket: str  # of the server; the path is one of the server's machine
    addresses: tuple[str, ...] = ()  # of the server, as far as they are known


class Unknown(NamedTuple):
    """What nobody has named: a program, and how sure it is that it is the account's."""

    program: str  # the name of its processes, empty where /proc does not show it
    shown: str  # its processes, for people
    only_maybe: bool = False  # it uses the unix socket, where the database does not tell whose connection is whose


def read_listed(
    rows: Sequence[Mapping[str, Any]],
    facts: Sequence[Mapping[str, Any]],
    users: Collection[str],
    addresses: tuple[str, ...] = (),
) -> Listed:
    """Read what a server answered to `STATEMENTS`.

    Args:
        users: Whose connections count.
        addresses: Of that server; none where it was asked through its unix socket.

    Raises:
        LookupError, TypeError, ValueError: No MariaDB or MySQL answers that, see `_ispmail_session.understood`.
    """
    own = int(facts[0]["id"])
    listed = [row for row in rows if str(row["User"]) in users and int(row["Id"]) != own]
    clients = tuple(read_client(str(row["Host"])) for row in listed)
    return Listed(clients, int(facts[0]["port"]), str(facts[0]["socket"]), addresses)


def read_client(text: str) -> Client:
    """Read what stands for a connection in the list, such as ``192.0.2.1:40000``."""
    host, _, port = text.rpartition(":")
    return Client(host, int(port)) if port.isdigit() else Client(text, None)


def listed_by_account(keys: Mapping[str, str], host: str, table_type: str = MYSQL) -> Listed:
    """Ask a host of a table file, with the login of that file.

    Args:
        table_type: ``mysql`` or ``pgsql``.

    Raises:
        DatabaseError: It cannot be asked.
    """
    user = keys.get("user", "")
    statements = activity_statements([user]) if table_type == PGSQL else STATEMENTS
    with _ispmail_session.understood(host, table_type):
        listed, facts = _ispmail_session.ask(keys, host, statements, table_type).answers
        for answer in (listed, facts):
            if answer.reason:
                raise DatabaseError(answer.reason)
        login = _ispmail_session.login(host, keys, table_type)
        addresses = _ispmail_sockets.addresses(login.host)
        if table_type == PGSQL:
            return read_activity(listed.rows, facts.rows, login.unix_socket, addresses)
        return read_listed(listed.rows, facts.rows, [user], addresses)


def activity_statements(users: Sequence[str]) -> tuple[str, str]:
    """Write the statements that list the connections of users, but for the one that asks, and the server's port.

    A role sees those of its own; all others only where it has pg_read_all_stats.
    """
    names = ", ".join(map(literal, users))
    return (
        "SELECT host(client_addr) AS host, client_port AS port FROM pg_stat_activity"  # noqa: S608
        f" WHERE usename IN ({names}) AND pid <> pg_backend_pid()",
        "SELECT current_setting('port') AS port",
    )


def activity(rows: Iterable[Mapping[str, Any]]) -> list[tuple[str, int | None]]:
    """Read the rows of the first of `activity_statements`: address and port of each; no port for the unix socket."""
    found: list[tuple[str, int | None]] = []
    for row in rows:
        port = int(row["port"] or -1)
        found.append((row["host"] or "localhost", port if port > 0 else None))
    return found


def read_activity(
    rows: Sequence[Mapping[str, Any]],
    facts: Sequence[Mapping[str, Any]],
    socket: str | None,
    addresses: tuple[str, ...] = (),
) -> Listed:
    """Read what a PostgreSQL answered to `activity_statements`.

    Args:
        socket: Where it was asked; None for a host: then its socket is where Debian's is.
        addresses: Of that server; none where it was asked through its unix socket.

    Raises:
        LookupError, TypeError, ValueError: No PostgreSQL answers that, see `_ispmail_session.understood`.
    """
    port = int(facts[0]["port"])
    path = socket or _ispmail_hosts.postgresql_socket(_ispmail_hosts.POSTGRESQL_SOCKETS, port)
    return Listed(tuple(Client(*each) for each in activity(rows)), port, path, addresses)


def unknown_programs(listed: Listed, here: bool, is_known: Callable[[Process], bool]) -> list[Unknown]:
    """Find the programs of this server that own connections and are not known.

    Args:
        listed: What the database lists.
        here: Whether the database runs on this machine.
        is_known: Whether a process is Postfix's or a consumer's.

    Raises:
        CannotAsk: This server cannot tell who owns its connections.
    """
    connections = _ispmail_sockets.tcp_connections() if any(client.port for client in listed.clients) else []
    inodes = [one.inode for client in listed.clients for one in joined(client, connections, listed)]
    over_socket = [client for client in listed.clients if client.port is None] if here else []
    unix_inodes = _ispmail_unix.clients(listed.socket) if over_socket else []
    owned = _ispmail_sockets.owners([*inodes, *unix_inodes])
    own = _ispmail_sockets.own_processes()

    def is_own(process: Process) -> bool:
        return _ispmail_sockets.is_own(process, own)

    holders = [process for inode in inodes for process in owned.get(inode, [])]
    found = _grouped(process for process in holders if not (is_own(process) or is_known(process)))
    certain = [_unknown(processes) for processes in found.values()]
    hidden = [inode for inode in inodes if inode not in owned]
    if hidden and _still_there(hidden):
        certain.append(Unknown("", _HIDDEN))
    unowned = {inode for inode in unix_inodes if inode not in owned}
    is_hidden = bool(unowned) and not unowned.isdisjoint(_ispmail_unix.clients(listed.socket))
    over = [owned.get(inode, []) for inode in unix_inodes]
    return certain + _over_socket(len(over_socket), over, is_hidden, is_known, is_own)


def joined(client: Client, connections: Iterable[Connection], listed: Listed) -> list[Connection]:
    """This server's end of a connection that the database lists; none where it is another server's.

    Any local user can have a connection between the same two ports, to an own program on another address. So those to
    an address of the database go before all others. (It may have more addresses than we know.)
    """
    found = [
        one
        for one in connections
        if one.port == client.port and one.peer_port == listed.port and _may_be(client.host, one.address)
    ]
    addresses = listed.addresses or (*_LOOPBACK, client.host)
    sure = [one for one in found if any(_ispmail_sockets.same_address(one.peer, each) for each in addresses)]
    return sure or found


def _may_be(host: str, address: str) -> bool:
    """Whether a host of the database's list may be an address. A database that resolves names lists a name."""
    if host == "localhost":
        return any(_ispmail_sockets.same_address(address, each) for each in _LOOPBACK)
    return not _ispmail_sockets.is_address(host) or _ispmail_sockets.same_address(address, host)


def strangers(listed: Listed, site_hosts: Collection[str]) -> list[str]:
    """The hosts in the database's list that are none of the site's, nor the database's own machine.

    Args:
        site_hosts: IP addresses and names of the site's servers.
    """
    names = {name.lower() for name in site_hosts}
    hosts = dict.fromkeys(client.host for client in listed.clients if client.port is not None)
    return list(dict.fromkeys(_ispmail_session.shown(host) for host in hosts if not _is_of_site(host.lower(), names)))


def _is_of_site(host: str, names: Collection[str]) -> bool:
    """Whether a host is one of the site's or this machine: by its whole name, or by all addresses that it stands for.

    A server of another domain may have the same first label, and several servers the same name.
    """
    if host in names or host == "localhost":
        return True
    addresses = _ispmail_sockets.addresses(host)
    return bool(addresses) and all(
        _ispmail_sockets.is_own_address(address) or any(_ispmail_sockets.same_address(address, name) for name in names)
        for address in addresses
    )


def _over_socket(
    number: int,
    owners: Sequence[Sequence[Process]],
    is_hidden: bool,
    is_known: Callable[[Process], bool],
    is_own: Callable[[Process], bool],
) -> list[Unknown]:
    """Compare how many of the account's connections there are with how many known programs hold.

    The database does not tell which of the clients of its unix socket uses which account.

    Args:
        owners: The processes of each client of the socket.
        is_hidden: Whether one of them is not shown by /proc.
    """
    known = [processes for processes in owners if any(map(is_known, processes))]
    others = [one for processes in owners if processes not in known for one in processes if not is_own(one)]
    if number <= len(known):
        return []
    found = [_unknown(processes, only_maybe=True) for processes in _grouped(others).values()]
    return [*found, Unknown("", _HIDDEN, only_maybe=True)] if is_hidden else found


def _grouped(processes: Iterable[Process]) -> dict[str, list[Process]]:
    """Processes by their names."""
    found: dict[str, list[Process]] = {}
    for process in processes:
        if process not in found.setdefault(process.name, []):
            found[process.name].append(process)
    return found


def _unknown(processes: Sequence[Process], only_maybe: bool = False) -> Unknown:
    more = len(processes) - _TOLD
    shown = ", ".join(process.describe() for process in processes[:_TOLD])
    return Unknown(processes[0].name, shown + (f" and {more} more" if more > 0 else ""), only_maybe)


def _still_there(inodes: Collection[int]) -> bool:
    """Whether sockets without an owner are open after all, and did not just end."""
    return any(one.inode in inodes and one.inode for one in _ispmail_sockets.tcp_connections())
