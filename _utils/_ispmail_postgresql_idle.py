"""The other role of a pair on a PostgreSQL: since when it is locked, and its end after ``rotation:keep``.

A server does not keep when a role was locked. So where its end is due one day, the statement that locks it also has its
password expire at that moment: nobody can log in by it from then on, whatever else is changed by hand. A date on which
an admin had it expire has no part of a second: whoever logs in without a password may have done so until the lock.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence

import _ispmail_account_users
import _ispmail_postgresql_roles
import _ispmail_session
from _ispmail_config_database import DatabaseConfig
from _ispmail_credential import Retired, try_to_retire
from _ispmail_database import Step
from _ispmail_errors import DatabaseError
from _ispmail_postgresql import Right, Role, Row
from _ispmail_postgresql_admin import Server, connections
from _ispmail_postgresql_text import literal, quote

log = logging.getLogger(__name__)

# In seconds.
_UNTIL_LISTED = 1

# pg_shdepend is of the whole server: what a role owns, was given and is named in, in each database. Whoever makes a
# role gets to administer it, from PostgreSQL 16 on, and has no rights by that.
_READ_OBSTACLES = """
SELECT d.deptype::text AS kind, coalesce(b.datname, '') AS name FROM pg_shdepend d
  LEFT JOIN pg_database b ON b.oid = d.dbid
  WHERE d.refclassid = 'pg_authid'::regclass AND d.refobjid = (SELECT oid FROM pg_roles WHERE rolname = {who})
UNION SELECT 'member', g.rolname FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.member
  WHERE m.roleid = (SELECT oid FROM pg_roles WHERE rolname = {who}) AND g.rolname <> current_user
  AND 'true' IN (coalesce(to_jsonb(m) ->> 'inherit_option', 'true'), coalesce(to_jsonb(m) ->> 'set_option', 'true'))
ORDER BY 1, 2
"""


def retire(server: Server, config: DatabaseConfig, test: bool, locking: bool = False) -> Retired:
    """Drop the other role of the pair once it has been locked for as long as ``rotation:keep`` says.

    As _ispmail_idle_account.retire, by names of roles.

    Args:
        locking: Whether this run locks it.
    """
    nothing = Retired({}, [])
    if config.keep is None or not config.other or not server.has_database:
        return nothing
    roles = _ispmail_postgresql_roles.read_roles(server, config.accounts)
    own, other = roles.get(config.user), roles.get(config.other)
    if own is None or other is None or (other.can_login and not locking):
        return nothing
    now = int(server.ask("SELECT floor(extract(epoch FROM now()))::bigint AS now")[0]["now"] or 0)
    since = now if locking else locked_since(other, now)
    if since is not None and now - since < config.keep:
        return nothing
    try:
        if not _ispmail_postgresql_roles.is_open(server, config, own):
            return nothing
    except DatabaseError as err:
        # That was a login of its own.
        why = f"whether {config.user} accepts pillar's password cannot be told: {err}"
        return _stays(config, other, why, "see to that, or drop it by hand")
    if since is None and config.keep:
        return _marked(server, config, other, test)
    return _dropped(server, config, other, test, locking)


def _marked(server: Server, config: DatabaseConfig, other: Role, test: bool) -> Retired:
    """Lock it again, so that the server keeps when that was."""
    why = "the server refused to keep since when it is locked"
    cure = f"use an admin who may run ALTER ROLE {quote(other.name)}, or drop it by hand"
    warning = None if test else _tried(server, config, other, lock(other.name), why, cure)
    if warning:
        return Retired({}, [warning])
    return Retired({other.name: {"locked since": {"old": None, "new": "now"}}}, [])


def _dropped(server: Server, config: DatabaseConfig, other: Role, test: bool, locking: bool) -> Retired:
    """Drop it with what it was given, unless somebody would miss it."""
    if locking and not test:
        # Who has logged in just before the lock is not listed yet.
        time.sleep(_UNTIL_LISTED)
    reason = _ispmail_account_users.keeps_from_dropping(connections(server, other.name))
    reason = reason or obstacle(server.ask(read_obstacles(other.name)), other.name, config.dbname)
    if reason:
        return _stays(config, other, *reason)
    if not test:
        statements = drop(other.name, _ispmail_postgresql_roles.rights(server, other.name))
        cure = f"run DROP ROLE {quote(other.name)} by hand to see the reason"
        if warning := _tried(server, config, other, statements, "the server refused to drop it", cure):
            return Retired({}, [warning])
        log.info("%s was dropped: it had been locked for longer than rotation:keep", other.name)
    return Retired({other.name: {"account": {"old": "locked", "new": "dropped"}}}, [])


def _tried(
    server: Server, config: DatabaseConfig, other: Role, statements: Sequence[str], why: str, cure: str
) -> str | None:
    # All statements are one transaction: all is done, or nothing.
    step = Step(f"the end of {other.name}", ("; ".join(statements),))
    return try_to_retire(server, config, _ispmail_session.shown(other.name), step, why, cure)


def _stays(config: DatabaseConfig, other: Role, why: str, cure: str) -> Retired:
    return Retired({}, [_ispmail_account_users.stays(config, _ispmail_session.shown(other.name), why, cure)])


def lock(name: str) -> list[str]:
    """Write the statement that locks a role, and keeps when that was."""
    return [f"ALTER ROLE {quote(name)} NOLOGIN VALID UNTIL 'now'"]


def locked_since(role: Role, now: int) -> int | None:
    """Tell when a role was locked by `lock`, in seconds since 1970; None where it was not, or that is not known.

    Args:
        role: The role, which is locked.
        now: The server's time.
    """
    return role.expires if role.expires and role.at_moment and role.expires <= now else None


def read_obstacles(name: str) -> str:
    """Write the statement that finds what keeps a role from being dropped, for `obstacle`."""
    return _READ_OBSTACLES.format(who=literal(name))


def obstacle(rows: Sequence[Row], name: str, dbname: str) -> tuple[str, str] | None:
    """Read the rows of `read_obstacles`.

    Args:
        rows: The rows.
        name: Of the role.
        dbname: The maps' database: what the role was given there is taken back, see `drop`.

    Returns:
        The reason and the fix; None where nothing keeps it.
    """
    role = quote(name)
    if owns := _names(rows, "o"):
        return (
            f"it owns something {owns}",
            f"give that to another role (in each of these databases, REASSIGN OWNED BY {role} TO …)",
        )
    if members := ", ".join(quote(str(row["name"])) for row in rows if row["kind"] == "member"):
        return f"it is the group of {members}", f"give them another group, and REVOKE {role} from them"
    if named := _names(rows, "r"):
        return f"policies of row security name it {named}", "take it out of them (ALTER POLICY … TO)"
    elsewhere = [row for row in rows if row["kind"] in ("a", "i") and row["name"] not in ("", dbname)]
    if given := _names(elsewhere, "a", "i"):
        return f"it has rights {given}", f"take them back (in each of these databases, DROP OWNED BY {role})"
    return None


def _names(rows: Iterable[Row], *kinds: str) -> str:
    names = dict.fromkeys(str(row["name"]) for row in rows if row["kind"] in kinds)
    texts = [f"in the database {quote(name)}" if name else "of the whole server" for name in names]
    return ", ".join(texts)


def drop(name: str, rights: Iterable[Right]) -> list[str]:
    """Write the statements that take back what a role was given in a database, and drop it.

    DROP OWNED would also drop what it owns.

    Args:
        name: Of the role.
        rights: What it was given there. Its memberships end with it.
    """
    revokes = [
        f"{right.statement.replace('GRANT ', 'REVOKE ', 1)} FROM {quote(name)}"
        for right in rights
        if " ON " in right.statement
    ]
    return [*revokes, f"DROP ROLE {quote(name)}"]
