"""The database's list of an account's connections, and the programs of this server that own them."""

from __future__ import annotations

import functools
import time
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
# How the database lists a client of its unix socket.
_LOCAL = "localhost"
# Where the database does not tell whose connection is whose.
_SOCKET, _PORTLESS = "the database's unix socket", "the database, which lists no port of so long a name"
# As many characters of a host and its port a MariaDB lists.
_CUT = 63
# What is not seen at once is looked for again after so long: a connection that has just ended is listed for a moment.
# How often: Postfix's own connections may end by the dozen in a second.
_SETTLE_SECONDS, _MORE_LOOKS = 0.25, 7
_EXCUSE = "known programs have as many connections there, so it is taken for another account's"
# What this server does not see is told, and stops nothing: busy servers end connections faster than one looks.
_NOT_HERE = "no program of this server has it, one of a container may, or only the database still lists it"
_TOO_MANY = "the database lists more connections there than this server has, or has its socket on another one"


class Client(NamedTuple):
    """One connection, as the database lists it."""

    host: str  # an IP address or a name
    port: int | None  # None: through the unix socket, or it was cut off

    @property
    def over_socket(self) -> bool:
        """Whether it is through the unix socket."""
        return self.port is None and self.host == _LOCAL

    def describe(self) -> str:
        """As the list has it; `read_client` reads it."""
        return self.host if self.port is None else f"{self.host}:{self.port}"


class Listed(NamedTuple):
    """The connections of accounts that a server lists, without the one that asked."""

    clients: tuple[Client, ...]
    port: int  # of the server
    socket: str  # of the server; the path is one of the server's machine
    addresses: tuple[str, ...] = ()  # of the server, as far as they are known
    asked: int | str | None = None  # the port by which it was asked: another one, where ports are translated


class Unknown(NamedTuple):
    """What nobody has named: a program, and how sure it is that it is the account's."""

    program: str  # the name of its processes, empty where /proc does not show it
    shown: str  # its processes, for people
    perhaps: str = ""  # where it is connected, if it is not sure by which account
    excuse: str = ""  # why it is taken for none of the account's


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
    """Read what stands for a connection in the list, such as ``192.0.2.1:40000``.

    MariaDB, and MySQL before 8.0, cut it after 63 characters: first the port is left out, then the colon too.
    """
    host, _, port = text.rpartition(":")
    return Client(host, int(port)) if port.isdigit() else Client(text.removesuffix(":"), None)


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
            found = read_activity(listed.rows, facts.rows, login.unix_socket, addresses)
        else:
            found = read_listed(listed.rows, facts.rows, [user], addresses)
        return found._replace(asked=None if login.unix_socket else login.port)


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
        found.append((row["host"] or _LOCAL, port if port > 0 else None))
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


class _Look(NamedTuple):
    """What was seen at one time."""

    unknown: list[Unknown]
    missing: frozenset[Client]  # those that begin on this server, where no such connection is
    excess: frozenset[str]  # where the database lists more connections than there are on this server
    ends: frozenset[int]  # clients of the unix socket


def unknown_programs(
    listed: Listed, here: bool, is_known: Callable[[Process], bool], again: Callable[[], Listed] | None = None
) -> list[Unknown]:
    """Find the programs of this server that own connections and are not known.

    What is not sure is looked at again, and told where it is seen each time.

    Args:
        listed: What the database lists.
        here: Whether the database runs on this machine.
        is_known: Whether a process is Postfix's or a consumer's.
        again: Lists anew; None where the database cannot be asked for these connections.

    Raises:
        CannotAsk: This server cannot tell who owns its connections.
        DatabaseError: The database cannot be asked again.
    """
    look = _look(listed, here, is_known)
    missing, excess, certain = look.missing, look.excess, list[Unknown]()
    # Of the first look nobody knows who was connected before the database listed.
    perhaps = {(one.program, one.perhaps) for one in look.unknown if one.perhaps}
    for _ in range(_MORE_LOOKS):
        if not (missing or excess or perhaps):
            break
        certain += [one for one in look.unknown if not one.perhaps]
        time.sleep(_SETTLE_SECONDS)
        earlier = frozenset(_ispmail_unix.clients(listed.socket) if look.ends else ())
        look = _look(again() if again else listed, here, is_known, earlier)
        missing &= look.missing
        excess &= look.excess
        perhaps &= {(one.program, one.perhaps) for one in look.unknown if not one.excuse}
    shown = ", ".join(sorted(f"{_ispmail_session.shown(client.host)}:{client.port}" for client in missing)[:_TOLD])
    found = [Unknown("", shown, excuse=_NOT_HERE)] if missing else []
    found += [Unknown("", _HIDDEN, where, excuse=_TOO_MANY) for where in sorted(excess)]
    found += [*certain, *(one for one in look.unknown if not one.perhaps)]
    for one in look.unknown:
        if one.perhaps:
            found.append(one if (one.program, one.perhaps) in perhaps else one._replace(excuse=_EXCUSE))
    return list({(one.program, one.perhaps, one.shown if one.excuse else ""): one for one in found}.values())


def _look(
    listed: Listed, here: bool, is_known: Callable[[Process], bool], earlier: frozenset[int] | None = None
) -> _Look:
    """Join what the database lists with what there is on this server now.

    Args:
        earlier: Clients of the unix socket right before it was listed; None where nobody has looked.
    """
    over_socket = [client for client in listed.clients if client.over_socket]
    by_tcp = [client for client in listed.clients if not client.over_socket]
    begins_here = functools.cache(_begins_here)
    connections = _ispmail_sockets.tcp_connections() if by_tcp else []
    ends = {client: _ends(client, connections, listed, begins_here) for client in by_tcp if client.port is not None}
    inodes = [one.inode for some in ends.values() for one in some]
    missing = frozenset(client for client, some in ends.items() if not some and begins_here(client.host))
    # The database does not tell which of these connections are the account's. A name that was cut may be any.
    portless = [one for one in by_tcp if one.port is None and (len(one.host) >= _CUT or begins_here(one.host))]
    to_it = [one.inode for one in connections if portless and _is_to(one, listed) and one.inode not in inodes]
    unix_inodes = _ispmail_unix.clients(listed.socket) if here and over_socket else []
    owners = _Owners([*inodes, *to_it, *unix_inodes], is_known)
    unknown = owners.unknown(inodes)
    if owners.hides(inodes, "", listed):
        unknown.append(Unknown("", _HIDDEN))
    excess: set[str] = set()
    if portless:
        unknown += owners.counted(_PORTLESS, len(portless), to_it, None, listed)
        if len(portless) > len(to_it):
            excess.add(_PORTLESS)
    if here and over_socket:
        unknown += owners.counted(_SOCKET, len(over_socket), unix_inodes, earlier, listed)
        if len(over_socket) > len({*unix_inodes, *(earlier or ())}):
            excess.add(_SOCKET)
    return _Look(unknown, missing, frozenset(excess), frozenset(unix_inodes))


class _Owners:
    """The processes of this server that own sockets."""

    def __init__(self, inodes: Collection[int], is_known: Callable[[Process], bool]) -> None:
        self._owned = _ispmail_sockets.owners(inodes)
        self._own = _ispmail_sockets.own_processes()
        self._is_known = is_known

    def unknown(self, inodes: Iterable[int], perhaps: str = "") -> list[Unknown]:
        """The programs that are neither known nor ours."""
        processes = [one for inode in inodes for one in self._owned.get(inode, [])]
        found = _grouped(
            one for one in processes if not (_ispmail_sockets.is_own(one, self._own) or self._is_known(one))
        )
        return [_unknown(some, perhaps) for some in found.values()]

    def hides(self, inodes: Iterable[int], perhaps: str, listed: Listed) -> bool:
        """Whether sockets are open that nobody has; those that just ended are none."""
        unowned = {inode for inode in inodes if inode not in self._owned}
        if not unowned:
            return False
        if perhaps == _SOCKET:
            return not unowned.isdisjoint(_ispmail_unix.clients(listed.socket))
        return any(one.inode in unowned and one.inode for one in _ispmail_sockets.tcp_connections())

    def counted(
        self, perhaps: str, number: int, inodes: Sequence[int], earlier: frozenset[int] | None, listed: Listed
    ) -> list[Unknown]:
        """Compare how many of the account's connections there are with how many known programs hold.

        Where these hold as many, those of others are most likely by other accounts: that is no fault, and told. Those
        of known programs count that were there before it was listed, and are still: so none hides one that stays.
        """
        known = [inode for inode in inodes if any(map(self._is_known, self._owned.get(inode, [])))]
        found = self.unknown((inode for inode in inodes if inode not in known), perhaps)
        if self.hides(inodes, perhaps, listed):
            found.append(Unknown("", _HIDDEN, perhaps))
        lasting = [inode for inode in known if earlier is None or inode in earlier]
        return [one._replace(excuse=_EXCUSE) for one in found] if number <= len(lasting) else found


def _begins_here(host: str) -> bool:
    """Whether a connection that the database lists as one from a host begins on this machine, for sure.

    Loopback is that of the database's machine, or of where a tunnel to it ends. Several servers may share a name.
    """
    if host == _LOCAL or _ispmail_sockets.is_loopback(host):
        return False
    addresses = _ispmail_sockets.addresses(host)
    return bool(addresses) and all(map(_ispmail_sockets.is_own_address, addresses))


def _ends(
    client: Client, connections: Sequence[Connection], listed: Listed, begins_here: Callable[[str], bool]
) -> list[Connection]:
    """As `joined`; where the address of a connection from this machine is translated, the ports have to do."""
    return joined(client, connections, listed) or [
        one for one in connections if _has_ports(one, client, listed) and begins_here(client.host)
    ]


def joined(client: Client, connections: Iterable[Connection], listed: Listed) -> list[Connection]:
    """This server's end of a connection that the database lists; none where it is another server's.

    Any local user can have a connection between the same two ports, to an own program on another address. So those to
    an address of the database go before all others. (It may have more addresses than we know.)
    """
    found = [one for one in connections if _has_ports(one, client, listed) and _may_be(client.host, one.address)]
    addresses = listed.addresses or (*_LOOPBACK, client.host)
    sure = [one for one in found if any(_ispmail_sockets.same_address(one.peer, each) for each in addresses)]
    return sure or found


def _has_ports(one: Connection, client: Client, listed: Listed) -> bool:
    return one.port == client.port and one.peer_port in (listed.port, listed.asked)


def _is_to(one: Connection, listed: Listed) -> bool:
    """Whether a connection is one to the database."""
    addresses = listed.addresses or (one.peer,)
    return one.peer_port in (listed.port, listed.asked) and any(
        _ispmail_sockets.same_address(one.peer, each) for each in addresses
    )


def _may_be(host: str, address: str) -> bool:
    """Whether a host of the database's list may be an address. A database that resolves names lists a name."""
    if host == _LOCAL:
        return any(_ispmail_sockets.same_address(address, each) for each in _LOOPBACK)
    return not _ispmail_sockets.is_address(host) or _ispmail_sockets.same_address(address, host)


def strangers(listed: Listed, site_hosts: Collection[str]) -> list[str]:
    """The hosts in the database's list that are none of the site's, nor the database's own machine.

    Args:
        site_hosts: IP addresses and names of the site's servers.
    """
    names = {name.lower() for name in site_hosts}
    hosts = dict.fromkeys(client.host for client in listed.clients if not client.over_socket)
    return list(dict.fromkeys(_ispmail_session.shown(host) for host in hosts if not _is_of_site(host.lower(), names)))


def _is_of_site(host: str, names: Collection[str]) -> bool:
    """Whether a host is one of the site's or this machine: by its whole name, or by all addresses that it stands for.

    A server of another domain may have the same first label, and several servers the same name.
    """
    if host in names or host == _LOCAL:
        return True
    addresses = _ispmail_sockets.addresses(host)
    return bool(addresses) and all(
        _ispmail_sockets.is_own_address(address) or any(_ispmail_sockets.same_address(address, name) for name in names)
        for address in addresses
    )


def _grouped(processes: Iterable[Process]) -> dict[str, list[Process]]:
    """Processes by their names."""
    found: dict[str, list[Process]] = {}
    for process in processes:
        if process not in found.setdefault(process.name, []):
            found[process.name].append(process)
    return found


def _unknown(processes: Sequence[Process], perhaps: str = "") -> Unknown:
    more = len(processes) - _TOLD
    shown = ", ".join(process.describe() for process in processes[:_TOLD])
    return Unknown(processes[0].name, shown + (f" and {more} more" if more > 0 else ""), perhaps)
