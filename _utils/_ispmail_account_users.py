"""Who else uses the database: connections as the maps' user, and other accounts that may read the maps' tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import _ispmail_database
import _ispmail_server_accounts
import _ispmail_session
import _ispmail_sockets
import _ispmail_sql
from _ispmail_config_database import DatabaseConfig
from _ispmail_connections import STATEMENTS, Listed, read_listed
from _ispmail_database import Server
from _ispmail_errors import CannotAsk

# User and host; the host of a MariaDB's role is empty.
_Account = tuple[str, str]


def connections(server: Server, user: str) -> dict[str, int] | None:
    """Count who is connected as a user now.

    Returns:
        Client host to how many connections it has. None where the admin may not see them.
    """
    if not _ispmail_database.sees_all(server):
        return None
    return dict(
        Counter(_ispmail_session.shown(client.host) for client in listed_by_admin(server, [user], None).clients)
    )


def listed_by_admin(server: Server, users: Collection[str], host: str | None) -> Listed:
    """Ask a server as its admin.

    Args:
        users: Whose connections count.
        host: Where it was asked; None for its unix socket.

    Raises:
        CannotAsk: The admin does not see the connections of others.
        DatabaseError: It cannot be asked.
    """
    if not _ispmail_database.sees_all(server):
        raise CannotAsk(
            "the admin of the database does not see who is connected: run GRANT PROCESS ON *.* TO its account"
        )
    processes, facts = (server.ask(statement) for statement in STATEMENTS)
    return read_listed(processes, facts, users, _ispmail_sockets.addresses(host))


def describe_connections(found: Mapping[str, int] | None) -> str:
    """Write what `connections` found, for people."""
    if found is None:
        return "who is connected cannot be seen without the privilege PROCESS (PostgreSQL: pg_read_all_stats)"
    if not found:
        return "nobody is connected now"
    return f"connected now: {', '.join(f'{number} from {host}' for host, number in sorted(found.items()))}"


def still_connected(user: str, found: Mapping[str, int] | None) -> list[str]:
    """Warn of those who are connected as a user that was locked. It accepts no new login; its connections go on.

    Args:
        found: What `connections` found.
    """
    if not found:
        return []
    return [
        f"{user} keeps the connections that it has until they end ({describe_connections(found)}): no new login is "
        "accepted"
    ]


def stays(config: DatabaseConfig, name: str, why: str, cure: str) -> str:
    """Tell why the other account of a pair is not dropped, although `keep` is over.

    Args:
        name: Of the account.
        why: The reason.
        cure: What to do about that.
    """
    return f"{name} was to be dropped ({config.pillar_key}:rotation:keep), and stays, locked: {why}: {cure}"


def keeps_from_dropping(found: Mapping[str, int] | None) -> tuple[str, str] | None:
    """Tell who would lose rights if an account were dropped: what is not seen is not taken for nobody.

    Args:
        found: What `connections` found.

    Returns:
        The reason and the fix, for `stays`. None where nobody is connected.
    """
    if found == {}:
        return None
    if found is None:
        return describe_connections(found), "give the admin that privilege, or look by hand and drop it by hand"
    return describe_connections(found), "have these programs log in as pillar has it, or end them"


def other_rights(config: DatabaseConfig, name: str, what: str, found: Mapping[str, int] | None) -> str:
    """Warn of rights that another program may need: it fails without them, and nobody knows of it here.

    Args:
        name: Of the account.
        what: Its rights besides those of the maps.
        found: What `connections` found.
    """
    seen = describe_connections(found)
    if config.revoke_other_grants:
        return f"{name} loses {what}: a program that needs that fails from then on ({seen})"
    return (
        f"{name} also has {what}, which was left alone, as another program may need it ({seen}): give that "
        f"program an account of its own, then set {config.pillar_key}:server:revoke_other_grants to true"
    )


def other_readers(server: Server, config: DatabaseConfig) -> dict[str, Any]:
    """Find other users' accounts that may read all that the maps' account reads, such as one that was replaced.

    What an account may read by its roles counts, also where it would have to choose the role first. An account with
    SELECT on all databases is an admin's, and one that may read less than all tables is another program's: they are
    left out, as are the users that pillar names in ``server:known_accounts``.

    Returns:
        ``user@host`` to ``drop`` (a statement), and ``connections`` as `connections` finds them.
    """
    found = {}
    roles = _roles(server)
    for account in _readers_of_all(server, config.dbname, roles):
        user, host = account
        if user in (*config.accounts, *config.known_accounts) or not _may_log_in(server, account, account in roles):
            continue
        drop = f"DROP USER {_ispmail_sql.text_of(user)}@{_ispmail_sql.text_of(host)}"
        found[_ispmail_session.shown(f"{user}@{host}")] = {
            "drop": _ispmail_session.shown(drop),
            "connections": connections(server, user),
        }
    return found


def _roles(server: Server) -> dict[_Account, list[_Account]]:
    """Each role with all to whom it was granted: accounts, and other roles."""
    found: dict[_Account, list[_Account]] = {}
    for row in server.ask(server.dialect.memberships):
        found.setdefault((row["role"], row["role_host"]), []).append((row["user"], row["host"]))
    return found


def _with_members(grantees: Iterable[_Account], roles: Mapping[_Account, Iterable[_Account]]) -> set[_Account]:
    """Grantees with all who have one of them as a role, also by way of other roles."""
    found = set(grantees)
    left = [*found]
    while left:
        new = set(roles.get(left.pop(), ())) - found
        found |= new
        left += new
    return found


def _may_log_in(server: Server, account: _Account, is_role: bool) -> bool:
    """Whether it is an account. A role of a MySQL is one that is locked."""
    user, host = account
    if not host or not is_role:
        return bool(host)
    known = _ispmail_server_accounts.read_accounts(server, user).get(host)
    return known is not None and not known.locked


def _readers_of_all(server: Server, dbname: str, roles: Mapping[_Account, Iterable[_Account]]) -> list[_Account]:
    """Who may SELECT on the database, or on each of the guide's tables that it has, and not on all databases."""
    statement = "SELECT GRANTEE AS grantee FROM information_schema.USER_PRIVILEGES WHERE PRIVILEGE_TYPE = 'SELECT'"
    admins = _with_members(map(_account, server.ask(statement)), roles)
    statement = (
        "SELECT DISTINCT GRANTEE AS grantee FROM information_schema.SCHEMA_PRIVILEGES"
        " WHERE PRIVILEGE_TYPE = 'SELECT' AND %s LIKE TABLE_SCHEMA"
    )
    of_database = _with_members(map(_account, server.ask(statement, [dbname])), roles)
    tables = "SELECT TABLE_NAME AS t FROM information_schema.TABLES WHERE TABLE_SCHEMA = %s"
    guide = {row["t"] for row in server.ask(tables, [dbname]) if _ispmail_sql.is_guide_table(row["t"])}
    granted: dict[_Account, set[str]] = {}
    statement = (
        "SELECT GRANTEE AS grantee, TABLE_NAME AS t FROM information_schema.TABLE_PRIVILEGES"
        " WHERE PRIVILEGE_TYPE = 'SELECT' AND TABLE_SCHEMA = %s"
    )
    for row in server.ask(statement, [dbname]):
        granted.setdefault(_account(row), set()).add(row["t"])
    readable: dict[_Account, set[str]] = {}
    for grantee, names in granted.items():
        for account in _with_members([grantee], roles):
            readable.setdefault(account, set()).update(names)
    # With a schema of the site's own, any table may be one that the maps read.
    of_tables = {account for account, names in readable.items() if guide <= names}
    return sorted((of_database | of_tables) - admins)


def _account(row: Mapping[str, Any]) -> _Account:
    """User and host of a grantee, as the server quotes it: 'user'@'host'."""
    user, _, host = str(row["grantee"])[1:-1].partition("'@'")
    return user, host
