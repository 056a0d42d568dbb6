"""What each SQLSTATE of PostgreSQL means to an admin, see "PostgreSQL Error Codes" in its manual. Pure."""

from __future__ import annotations

import re

from _ispmail_errors import DatabaseError

# invalid_password; with invalid_authorization_specification: the server refuses the login, whatever is asked.
WRONG_PASSWORD = "28P01"  # noqa: S105
REFUSALS = (WRONG_PASSWORD, "28000")
LOCK_NOT_AVAILABLE = "55P03"
# No SQLSTATE: our own client has not sent the login, as the server does not prove that it is the right one.
UNPROVEN = "unproven"

LOST = "it did not answer in time, or closed the connection: check that it is well"
UNREACHABLE = "it cannot be reached: check the address, and that it runs"
UNREADABLE = "an unreadable answer: check that it is a PostgreSQL server, and see the server's log"
NO_TLS = "TLS failed: check that the server offers it, its certificate, and the CA"

_CONNECTIONS = "raise max_connections, or set proxy: true for the maps"
_STOPPED = "it is starting up or shutting down: try again"
_MEANINGS = {
    "28P01": "access is denied: check user and password, and that VALID UNTIL of the role has not passed",
    "28000": "access is denied: check that the role exists and has LOGIN, and that pg_hba.conf has a line for it, this "
    "database and this address",
    "3D000": "there is no such database: check dbname, or apply ispmail.database on the database server",
    "3F000": "there is no such schema: check the query, and search_path of the role",
    "42501": "access is denied: check the grants of the role; an admin who is to change another role needs CREATEROLE, "
    "and from PostgreSQL 16 on ADMIN OPTION on that one too",
    "42P01": "a table does not exist: check the query, search_path of the role, or apply ispmail.database on the "
    "database server",
    "42703": "a column of the query does not exist: check the query",
    "42601": "it does not understand the statement: check the query, and the server's version",
    "42883": "it has no such function, or none for these types: check the query",
    "22021": "a text has bytes that are none of its encoding: check encoding of the map",
    "22P05": "a character is not in the database's encoding: create the database with encoding UTF8",
    "21000": "a subquery gives more than one row: check the query",
    "53300": f"too many connections: {_CONNECTIONS}, or raise CONNECTION LIMIT of the role or database",
    "53100": "its disk is full",
    "53200": "it is out of memory",
    "55P03": "another session holds a lock: see pg_locks there, and try again",
    "55006": "it is in use: try again",
    "57014": "the statement took longer than statement_timeout, or was cancelled: check the query and its index",
    "2BP01": "something depends on it: see DROP OWNED",
    "42710": "it exists already: try again",
    "42P04": "the database exists already: try again",
    "23505": "a value is in several rows: remove the duplicates",
    "23503": "a row names a domain that does not exist: remove it",
    "57P01": f"an admin has ended the connection, or {_STOPPED}",
    "57P02": f"another process of it has crashed, {_STOPPED}",
    "57P03": _STOPPED,
    "57P05": "it has closed an idle connection: raise idle_session_timeout",
    "25006": "it is a read-only replica, or the session may only read: use the primary, and a statement that reads",
    "0LP01": "the admin may not grant that: use a role that owns the database and its tables",
}


def stated(state: str) -> DatabaseError:
    """An error by its SQLSTATE, and what that means."""
    if not re.fullmatch("[0-9A-Z]{5}", state):
        return DatabaseError(UNREADABLE)
    meaning = _MEANINGS.get(state, "see that SQLSTATE in the server's manual, and the server's log")
    return DatabaseError(f"error {state}: {meaning}", state)
