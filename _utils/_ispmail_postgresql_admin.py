"""Log in to the PostgreSQL that pgsql maps read, as its admin, and ask it who is connected."""

from __future__ import annotations

import contextlib
import os
import pwd
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import _ispmail_connections
import _ispmail_session
import _ispmail_sockets
from _ispmail_client import Login
from _ispmail_config_database import PGSQL, DatabaseConfig
from _ispmail_connections import Listed
from _ispmail_errors import CannotAsk, DatabaseError
from _ispmail_postgresql_client import Client
from _ispmail_sqlstates import LOCK_NOT_AVAILABLE

# How long a statement may wait for a lock, and whose lock it is that two runs do not take at the same time.
_LOCK_SECONDS, _OUR_LOCK = 5, int.from_bytes(b"ispmail", "big")
# Each server has it, for programs that look for others.
_MAINTENANCE = "postgres"


class Server(NamedTuple):
    """The database server, as its admin sees it."""

    client: Client
    version: str
    is_superuser: bool  # whether he may see verifiers
    has_database: bool  # whether this is the maps' database, or another one as there is none

    def ask(self, statement: str, arguments: object = None) -> list[dict[str, str | None]]:
        """As Client.ask."""
        return self.client.ask(statement)


@contextlib.contextmanager
def admin(config: DatabaseConfig, lock: bool = False) -> Iterator[Server]:
    """Log in to the maps' database as the server's admin.

    Args:
        config: What pillar says.
        lock: Hold a lock against other runs that change the server.

    Raises:
        DatabaseError: He cannot log in, or another run holds the lock.
    """
    with contextlib.ExitStack() as stack:
        try:
            client = _connected(config, config.dbname)
        except DatabaseError as err:
            if err.number != "3D000":
                raise
            client = _connected(config, _MAINTENANCE)
        stack.enter_context(contextlib.closing(client))
        stack.enter_context(_ispmail_session.understood(client.where, PGSQL))
        # Postfix's lookups would queue behind an ALTER that waits for a lock. Whoever may create in a schema of
        # search_path could have an operator of his own run by the admin, who may be a superuser: see CVE-2018-1058.
        client.ask(
            f"SET search_path = pg_catalog; SET lock_timeout = '{_LOCK_SECONDS}s'; SET client_min_messages = warning"
        )
        facts = client.ask(
            "SELECT current_setting('server_version') AS version, current_setting('is_superuser') AS super,"
            " current_database() AS name"
        )[0]
        if lock:
            _take_lock(client)
        yield Server(client, str(facts["version"]), facts["super"] == "on", facts["name"] == config.dbname)


def client_for(config: DatabaseConfig, user: str, password: bytes, dbname: str) -> Client:
    """A client of the server, by the way that its admin takes."""
    login = config.login
    where = login.unix_socket or f"{login.host}:{login.port}"
    credentials = Login(user, password, login.unix_socket, login.host, login.port, dbname)
    return Client(f"the database server at {where}", credentials, system_user=_system_user(credentials))


def _connected(config: DatabaseConfig, dbname: str) -> Client:
    login = config.login
    client = client_for(config, login.user, (login.password or "").encode("utf-8", "surrogateescape"), dbname)
    try:
        client.connect()
    except DatabaseError as err:
        client.close()
        if err.number == "28000" and login.unix_socket and not login.password:
            advice = (
                f"run Salt as root on the database server, whose pg_hba.conf lets the system's user {login.user} in by "
                "peer (local all postgres peer), or give server:host, server:user and server:password"
            )
            raise DatabaseError(f"{client.where}: error 28000: access is denied: {advice}", err.number) from None
        raise
    return client


def _system_user(login: Login) -> str | None:
    """As which user of this system to connect: by peer a server asks who that is, and root is nobody there."""
    if not login.unix_socket or login.password or os.geteuid():
        return None
    with contextlib.suppress(KeyError):
        return pwd.getpwnam(login.user).pw_name
    return None


def _take_lock(client: Client) -> None:
    try:
        client.ask(f"SELECT pg_advisory_lock({_OUR_LOCK})")
    except DatabaseError as err:
        if err.number != LOCK_NOT_AVAILABLE:
            raise
        text = f"{client.where}: another run is changing it: wait for its end, and try again"
        raise DatabaseError(text, err.number) from None


def listed(config: DatabaseConfig, users: Sequence[Collection[str]]) -> list[Listed]:
    """Ask who is connected as users, see `_ispmail_servers.Kind`."""
    login = config.login
    with admin(config) as server:
        if not sees_all(server):
            raise CannotAsk(
                "the admin of the database does not see who is connected: run GRANT pg_read_all_stats TO its role"
            )
        found = []
        for some in users:
            rows, facts = map(server.ask, _ispmail_connections.activity_statements([*some]))
            addresses = _ispmail_sockets.addresses(login.host)
            found.append(_ispmail_connections.read_activity(rows, facts, login.unix_socket, addresses))
    return found


def connections(server: Server, user: str) -> dict[str, int] | None:
    """Count who is connected as a user now.

    Returns:
        Client host to how many connections it has. None where the admin may not see them.
    """
    if not sees_all(server):
        return None
    rows = server.ask(_ispmail_connections.activity_statements([user])[0])
    return dict(Counter(_ispmail_session.shown(host) for host, _ in _ispmail_connections.activity(rows)))


def sees_all(server: Server) -> bool:
    """Tell whether the admin sees the connections of all roles: else he sees his own only."""
    statement = "SELECT pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') AS may"
    return server.is_superuser or server.ask(statement)[0]["may"] == "t"
