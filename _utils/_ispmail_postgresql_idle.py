"""The other role of a pair on a PostgreSQL: since when it is locked, and what drops it after its time. Pure.

A server does not keep when a role was locked. So where its end is due one day, the statement that locks it also has its
password expire at that moment: nobody can log in by it from then on, whatever else is changed by hand. A date on which
an admin had it expire has no part of a second: whoever logs in without a password may have done so until the lock.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from _ispmail_postgresql import Right, Role, Row, literal, quote

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


def refused(number: str, name: str) -> tuple[str, str]:
    """Tell what to do where a server refuses to drop a role, which is as it was then: the reason and the fix.

    Args:
        number: The SQLSTATE.
        name: Of the role.
    """
    why = f"the server refused to drop it (error {number})"
    return why, f"run DROP ROLE {quote(name)} by hand to see the reason"


def unmarked(number: str, name: str) -> tuple[str, str]:
    """Tell what to do where a server refuses to keep since when a role is locked: the reason and the fix.

    Args:
        number: The SQLSTATE.
        name: Of the role.
    """
    why = f"the server refused to keep since when it is locked (error {number})"
    return why, f"use an admin who may run ALTER ROLE {quote(name)}, or drop it by hand"
