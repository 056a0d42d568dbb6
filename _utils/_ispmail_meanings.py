"""What each error number of MariaDB and MySQL means to an admin. Pure."""

from __future__ import annotations

from _ispmail_errors import DatabaseError

# CR_CONN_HOST_ERROR, CR_SERVERLOST, CR_SSL_CONNECTION_ERROR.
UNREACHABLE, LOST, NO_TLS = 2003, 2013, 2026
# The connection has ended: CR_SERVER_GONE_ERROR, CR_SERVER_LOST, CR_SERVER_LOST_EXTENDED.
LOST_NUMBERS = (2006, LOST, 2055)
# The account's password has expired: ER_MUST_CHANGE_PASSWORD, ER_MUST_CHANGE_PASSWORD_LOGIN.
EXPIRED = (1820, 1862)
# ER_ACCOUNT_HAS_BEEN_LOCKED of MySQL and MariaDB.
_LOCKED = (3118, 4151)
# The server refuses the login, whatever is asked; with ER_ACCESS_DENIED_ERROR, ER_ACCESS_DENIED_NO_PASSWORD_ERROR.
REFUSALS = (1045, 1698, *EXPIRED, *_LOCKED)

_LONG_INDEX = "an index is too long for the table's row format: run ALTER TABLE … ROW_FORMAT=DYNAMIC, and try again"
_COLLATION = "a column's character set does not hold what it is compared with: convert the table to utf8mb4"
_TEXT_KEY = "a foreign key of texts refers to the table: convert both tables by hand, with foreign_key_checks off"
# What each of the server's errors means to an admin.
_MEANINGS = {
    1005: "the tables do not fit together: virtual_domains needs InnoDB and an INT id",
    1040: "too many connections: raise its max_connections, or set proxy: true for the maps",
    1044: "access to that database is denied: check dbname, and the account's grants",
    1045: "access is denied: check user and password, and that the account is allowed from this host",
    1047: "it does not take that command, as a node of a Galera cluster that has lost most of the others: see SHOW "
    "STATUS LIKE 'wsrep_cluster_status' there",
    1049: "there is no such database: check dbname, or apply ispmail.database on the database server",
    1054: "a column of the query does not exist: check the query",
    1064: "it does not understand the statement: check the query, and the server's version",
    1071: _LONG_INDEX,
    1115: "it does not know that character set: check charset",
    1129: "it blocks this host after too many errors: run FLUSH HOSTS there",
    1142: "access to that table is denied: check the account's grants",
    1146: "a table does not exist: check the query, or apply ispmail.database on the database server",
    1203: "the account has too many connections: raise max_user_connections, or set proxy: true for the maps",
    1205: "another session holds a lock: see SHOW PROCESSLIST there, and try again",
    1226: "the account has reached one of its limits: raise its MAX_… limits, see ALTER USER",
    1227: "the admin's account is not allowed to do that: use one with all privileges",
    1267: _COLLATION,
    1270: _COLLATION,
    1271: _COLLATION,
    1290: "it runs with read_only or strict_password_validation: use the primary, or switch that off meanwhile",
    1345: "the account may not read a view's definition: grant SHOW VIEW, and SELECT on the view's tables, or use the "
    "admin's account",
    1524: "it has not loaded the account's login plugin: load it, or give the account a password by another one",
    1698: "access is denied: run Salt as root on the database server, or give server:user and server:password; "
    "a map's account needs a password",
    1792: "this session may only read: use a statement that only reads",
    1709: _LONG_INDEX,
    1832: _TEXT_KEY,
    1833: _TEXT_KEY,
    1836: "it is a read-only replica: use the primary",
    **dict.fromkeys(
        EXPIRED, "the account's password has expired: change the password, or run ALTER USER … PASSWORD EXPIRE NEVER"
    ),
    2002: "it cannot be reached: check the address, and that it runs",
    2006: "the connection was closed: check that it runs",
    UNREACHABLE: "it cannot be reached: check the address, and that it runs",
    LOST: "it did not answer in time, or closed the connection: check that it is well",
    NO_TLS: "TLS failed: check that the server offers it, its certificate, and the tls_… keys of the table file",
    3878: "an account with an empty password cannot accept a second one: give it another password by hand first",
    3780: "the tables do not fit together: virtual_domains needs InnoDB and an INT id",
    **dict.fromkeys(_LOCKED, "the account is locked: ALTER USER … ACCOUNT UNLOCK"),
}


def numbered(number: int) -> DatabaseError:
    """An error by its number, and what that means."""
    meaning = _MEANINGS.get(number, "see that number in the server's manual, and the server's log")
    return DatabaseError(f"error {number}: {meaning}", number)
