"""Ask a MariaDB or MySQL, with the login of a table file or as its admin, and read what it answers.

Whoever answers at the database's address may answer anything: what is no answer of such a server is an error of ours.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import _ispmail_dialect
import _ispmail_hosts
import _ispmail_postgresql_client
import _ispmail_sql
from _ispmail_client import TLS, Client, Login
from _ispmail_config_database import MYSQL, PGSQL, AdminLogin
from _ispmail_dialect import Dialect
from _ispmail_errors import DatabaseError, InvalidInput, listed
from _ispmail_meanings import EXPIRED, LOST_NUMBERS
from _ispmail_sql import Grant

# In seconds: connecting, a login, and how long a statement may wait for a lock.
_CONNECT, _LOGIN, _LOCK = 5, 10, 5
_READ_ONLY = {
    MYSQL: "SET SESSION TRANSACTION READ ONLY",
    PGSQL: "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
}
# All that SHOW GRANTS gives, a line of it, and a name that is shown, in characters; and the quotes in a line. Reading a
# line takes far longer with each quote.
_LONGEST_GRANTS, _LONGEST_GRANT, _LONGEST_NAME, _MOST_QUOTES = 2**18, 2**13, 128, 32


AnyClient = Client | _ispmail_postgresql_client.Client


class Rows(NamedTuple):
    """What a statement gave, or the reason why it failed."""

    rows: list[dict[str, Any]]
    reason: str | None = None


class Asked(NamedTuple):
    """What a server said after one login."""

    plugin: str  # the login plugin that the server asked for last
    answers: tuple[Rows, ...]  # one for each statement


def login(host_text: str, keys: Mapping[str, str], table_type: str = MYSQL) -> Login:
    """How Postfix logs in to one host of a table file.

    Args:
        host_text: The host as `hosts` has it; none that only libpq reads, see `_ispmail_hosts.is_read_by_libpq`.
        keys: The table file's keys.
        table_type: ``mysql`` or ``pgsql``.
    """
    host = _ispmail_hosts.parse_host(host_text, table_type)
    if table_type == PGSQL:
        return Login(
            user=keys.get("user", ""),
            password=keys.get("password", "").encode("utf-8", "surrogateescape"),
            unix_socket=_ispmail_hosts.postgresql_socket(host.socket) if host.socket else None,
            host=host.name,
            port=host.port or 5432,
            database=keys.get("dbname"),
            type=PGSQL,
        )
    tls = TLS(
        ca_file=keys.get("tls_CAfile") or None,
        ca_path=keys.get("tls_CApath") or None,
        certificate=keys.get("tls_cert_file") or None,
        key=keys.get("tls_key_file") or None,
        verify_name=keys.get("tls_verify_cert") == "yes",
    )
    return Login(
        user=keys.get("user", ""),
        password=keys.get("password", "").encode("utf-8", "surrogateescape"),
        unix_socket=host.socket,
        host=None if host.socket else host.name,
        port=host.port or 3306,
        database=keys.get("dbname"),
        tls=tls if tls.ca_file or tls.ca_path or tls.certificate or tls.key else None,
    )


def connection(where: str, login: Login, connect_within: float = _CONNECT, login_within: float = _LOGIN) -> AnyClient:
    """A client of the server that a login is for; it connects to nothing yet.

    Args:
        where: The server, in messages.
        login: How to log in.
        connect_within: Seconds for each of its addresses.
        login_within: Seconds for all of the login.
    """
    kind = _ispmail_postgresql_client.Client if login.type == PGSQL else Client
    return kind(where, login, connect_within, login_within)


def ask(keys: Mapping[str, str], host_text: str, statements: Sequence[str], table_type: str = MYSQL) -> Asked:
    """Log in as Postfix does with a table file, and run statements, which may only read.

    Raises:
        DatabaseError: The login fails. A statement that fails is reported in its place.
        InvalidInput: The table file does not name that host, which must not get its password.
    """
    hosts = _ispmail_hosts.hosts(keys)
    if host_text not in hosts:
        raise InvalidInput(f"the table file does not name that host: use one of {', '.join(hosts)}")
    with contextlib.closing(connection(host_text, login(host_text, keys, table_type))) as client:
        client.connect()
        client.ask(_READ_ONLY[table_type])
        if keys.get("charset") and table_type == MYSQL:
            # Only what the server takes statements for: it answers in our own character set.
            client.ask("SET character_set_client = %s, character_set_connection = %s", [keys["charset"]] * 2)
        return Asked(client.plugin, tuple(_rows(client, statement) for statement in statements))


@contextlib.contextmanager
def admin(config: AdminLogin, lock: bool = False) -> Iterator[Server]:
    """Log in to the database server as its admin.

    Args:
        config: The admin's login.
        lock: Hold a lock against other runs that change the server.
    """
    where = config.unix_socket or f"{config.host}:{config.port}"
    credentials = Login(
        user=config.user,
        password=(config.password or "").encode("utf-8", "surrogateescape"),
        unix_socket=config.unix_socket,
        host=config.host,
        port=config.port,
    )
    name = f"the database server at {where}"
    with contextlib.closing(Client(name, credentials)) as client, understood(name):
        server = Server(client, _log_in_as_admin(client))
        server.ask("SET SESSION sql_mode = %s", [server.dialect.sql_mode])
        # Postfix's lookups would queue behind an ALTER that waits for a lock.
        server.ask("SET SESSION lock_wait_timeout = %s", [_LOCK])
        if lock and server.ask("SELECT GET_LOCK('ispmail', %s) AS got", [_LOCK])[0]["got"] != 1:
            raise DatabaseError(f"{client.where}: another run is changing it: wait for its end, and try again")
        yield server


def _log_in_as_admin(client: Client) -> str:
    """Log in, and ask for the server's version."""
    try:
        client.connect()
        return str(client.ask("SELECT VERSION() AS version")[0]["version"])
    except DatabaseError as err:
        if err.number in EXPIRED:
            text = f"{client.where}: error {err.number}: the admin's own password has expired: set a new one"
            raise DatabaseError(text, err.number) from None
        raise


@contextlib.contextmanager
def understood(where: str, table_type: str = MYSQL) -> Iterator[None]:
    """Read a server's answers: one that no such server gives is the server's fault, in our words.

    Args:
        where: The server, in messages.
        table_type: ``mysql`` or ``pgsql``.

    Raises:
        DatabaseError: There was such an answer.
    """
    try:
        yield
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, StopIteration, RecursionError):
        kind = "PostgreSQL" if table_type == PGSQL else "MariaDB or MySQL"
        raise DatabaseError(f"{where}: it answers what a {kind} does not: check that it is the right server") from None


@dataclass(frozen=True)
class Step:
    """Statements that belong together, and what they change, for people."""

    name: str
    statements: tuple[str, ...] = field(repr=False)  # those of a PostgreSQL hold verifiers
    arguments: Mapping[str, str] | None = field(default=None, repr=False)  # for the statements; it holds hashes


class Asker(Protocol):
    """A server of any kind."""

    def ask(self, statement: str, arguments: object = None) -> Sequence[Mapping[str, Any]]:
        """Run a statement. Its rows by the names of their columns."""


def run(server: Asker, steps: Sequence[Step], again: str) -> None:
    """Run statements one step after the other.

    Args:
        server: Where.
        steps: What to do.
        again: What the admin does to go on after a failure.

    Raises:
        DatabaseError: One fails; the text says which steps are done.
    """
    for number, step in enumerate(steps):
        try:
            for statement in step.statements:
                server.ask(statement, step.arguments)
        except DatabaseError as err:
            # Of a statement that was sent nobody knows whether the server has run it.
            state = "may be done" if not err.number or err.number in LOST_NUMBERS else "failed"
            parts = [f"done: {done.name}" for done in steps[:number]]
            parts.append(f"{state}: {step.name}")
            parts += [f"not done: {rest.name}" for rest in steps[number + 1 :]]
            raise DatabaseError(listed(f"{err}. {again}, it goes on from there", parts), err.number) from None


def grants(rows: Sequence[Mapping[str, Any]]) -> list[Grant]:
    """Read what SHOW GRANTS gave.

    Raises:
        ValueError: It is nothing that a server gives, see `understood`.
    """
    lines = [str(next(iter(row.values()))) for row in rows]
    if sum(len(line) for line in lines) > _LONGEST_GRANTS or any(
        len(line) > _LONGEST_GRANT or line.count("'") > _MOST_QUOTES for line in lines
    ):
        raise ValueError("SHOW GRANTS gave what takes too long to read")
    return _ispmail_sql.parse_grants(lines)


def expiry(expires: int | None, now: int) -> dict[str, Any] | None:
    """When a password expires: how many seconds from now, and its date. None for never."""
    if expires is None:
        return None
    return {"seconds": expires - now, "date": date(expires) if expires else "now"}


def date(seconds: int) -> str:
    """The day of a number of seconds since 1970, for people.

    Raises:
        ValueError: It is nothing that a server gives, see `understood`.
    """
    try:
        return time.strftime("%Y-%m-%d", time.gmtime(seconds))
    except (OSError, OverflowError):
        raise ValueError("there is no such day") from None


def shown(name: object) -> str:
    """A name that a server has sent, for people."""
    text = str(name)
    return text if text.isprintable() and len(text) <= _LONGEST_NAME else "(an unreadable name)"


def shown_grants(found: Sequence[Grant]) -> list[str]:
    """Grants that a server has sent, for people."""
    return _ispmail_sql.describe_grants(
        grant._replace(
            privileges=tuple(shown(name) for name in grant.privileges),
            object=None if grant.object is None else shown(grant.object),
        )
        for grant in found
    )


class Server(NamedTuple):
    """The database server, as its admin sees it."""

    client: Client
    version: str

    @property
    def dialect(self) -> Dialect:
        """How it keeps accounts and their passwords."""
        return _ispmail_dialect.of_version(self.version)

    def ask(self, statement: str, arguments: object = None) -> list[dict[str, Any]]:
        """As Client.ask."""
        return self.client.ask(statement, arguments)


def _rows(client: AnyClient, statement: str) -> Rows:
    try:
        return Rows(client.ask(statement))
    except DatabaseError as err:
        if err.number in EXPIRED:
            # The server let the account in to change its password: it answers nothing else.
            raise
        return Rows([], str(err))


def sees_all(server: Server) -> bool:
    """Tell whether the admin sees the connections of all accounts: else he sees his own only."""
    return not missing_privileges(server, ["PROCESS"])


def missing_privileges(server: Server, wanted: Sequence[str]) -> list[str]:
    """Tell which privileges on everything the admin does not have himself.

    Args:
        server: Where.
        wanted: The names of privileges.
    """
    statement = (
        "SELECT PRIVILEGE_TYPE AS p FROM information_schema.USER_PRIVILEGES WHERE"
        " GRANTEE = CONCAT('''', SUBSTRING_INDEX(CURRENT_USER(), '@', 1), '''@''',"
        " SUBSTRING_INDEX(CURRENT_USER(), '@', -1), '''')"
    )
    held = {row["p"] for row in server.ask(statement)}
    return [name for name in wanted if name not in held]


def partly_revoked(server: Server, wanted: Sequence[str]) -> list[str]:
    """Tell which privileges on everything the admin does not have in some database, see partial_revokes of MySQL.

    Args:
        server: Where.
        wanted: The names of privileges.
    """
    lines = [str(next(iter(row.values()))) for row in server.ask("SHOW GRANTS")]
    revoked = {name for line in lines for name in _ispmail_sql.revoked(line)}
    return [name for name in wanted if name in revoked]
