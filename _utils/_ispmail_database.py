"""Log in to a MariaDB or MySQL as its admin, run statements, and read what it answers."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import _ispmail_dialect
import _ispmail_sql
from _ispmail_client import Client, Login
from _ispmail_config_database import AdminLogin
from _ispmail_dialect import Dialect
from _ispmail_errors import DatabaseError, listed
from _ispmail_meanings import EXPIRED, LOST_NUMBERS
from _ispmail_session import shown, understood
from _ispmail_sql import Grant

# How many seconds a statement may wait for a lock.
_LOCK = 5
# All that SHOW GRANTS gives, and a line of it, in characters; and the quotes in a line. Reading a line takes far longer
# with each quote.
_LONGEST_GRANTS, _LONGEST_GRANT, _MOST_QUOTES = 2**18, 2**13, 32


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
