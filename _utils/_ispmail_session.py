"""Log in to a database server as a table file says, ask it, and read what it answers.

Whoever answers at the database's address may answer anything: what is no answer of such a server is an error of ours.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import _ispmail_hosts
import _ispmail_postgresql_client
from _ispmail_client import TLS, Client, Login
from _ispmail_config_database import MYSQL, PGSQL
from _ispmail_errors import DatabaseError, InvalidInput
from _ispmail_meanings import EXPIRED

# In seconds: connecting, and a login.
_CONNECT, _LOGIN = 5, 10
_READ_ONLY = {
    MYSQL: "SET SESSION TRANSACTION READ ONLY",
    PGSQL: "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
}
# A name that is shown, in characters.
_LONGEST_NAME = 128

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
        tls=tls if any(tls) else None,
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


def shown(name: object) -> str:
    """A name that a server has sent, for people."""
    text = str(name)
    return text if text.isprintable() and len(text) <= _LONGEST_NAME else "(an unreadable name)"


def _rows(client: AnyClient, statement: str) -> Rows:
    try:
        return Rows(client.ask(statement))
    except DatabaseError as err:
        if err.number in EXPIRED:
            # The server let the account in to change its password: it answers nothing else.
            raise
        return Rows([], str(err))
