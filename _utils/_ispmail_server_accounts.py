"""The accounts of a user as a database server has them: how they log in, and what they may do.

Passwords reach the server as hashes that are computed here: its logs never hold a password.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

import _ispmail_database
import _ispmail_session
import _ispmail_sql
from _ispmail_config_database import DatabaseConfig
from _ispmail_database import Server, Step
from _ispmail_dialect import Dialect
from _ispmail_sql import Account, Grant, select_grant


class Rights(NamedTuple):
    """What an account may do and demands, and what makes that as it should be."""

    held: list[Grant]
    statements: list[str]  # none where nothing is to be changed
    then: list[Grant]  # once they are done
    demands: tuple[str, str] = ("", "")  # before and then

    def describe(self) -> dict[str, list[str]]:
        """For people."""
        old, new = ([_ispmail_session.shown(text)] if text else [] for text in self.demands)
        return {
            "old": _ispmail_database.shown_grants(self.held) + old,
            "new": _ispmail_database.shown_grants(self.then) + new,
        }


def read_accounts(server: Server, user: str) -> dict[str, Account]:
    """Read the accounts of a user, by their hosts."""
    rows = server.ask(server.dialect.accounts, [user])
    accounts = {row["host"]: server.dialect.read_account(row) for row in rows}
    return {host: found for host, found in accounts.items() if found is not None}


def name(user: str, host: str) -> str:
    """An account, for people."""
    return f"{user}@{_ispmail_session.shown(host)}"


def accepted(dialect: Dialect, account: Account, password: str) -> tuple[bool, ...]:
    """For each hash of an account whether it is of a password."""
    return tuple(dialect.is_hash_of(text, password) for text in account.hashes)


def is_open(server: Server, config: DatabaseConfig, account: Account | None) -> bool:
    """Whether an account accepts pillar's password, and no other one."""
    if account is None or account.locked:
        return False
    return accepted(server.dialect, account, config.password or "") == (True,)


def other_plugins(dialect: Dialect, found: Account) -> str:
    """What to do where an account logs in by a plugin that Postfix may not have; empty where it does not."""
    others = [_ispmail_session.shown(plugin) for plugin in found.plugins if plugin not in dialect.plugins]
    if not others:
        return ""
    return (
        f"logs in by {', '.join(others)}, {dialect.plugin_advice}, "
        "or, if the maps do not use it, list the hosts of those that they use in server:accounts_host"
    )


def new_hash(server: Server, plugin: str, password: str) -> str:
    """What the server will keep of a password, with a new salt."""
    dialect = server.dialect
    settings = {}
    if dialect.settings:
        settings = {str(row["Variable_name"]): str(row["Value"]) for row in server.ask(dialect.settings)}
    # 15 bytes are 20 characters.
    return dialect.hash_password(plugin, password, secrets.token_urlsafe(15), settings)


def grants(server: Server, user: str, host: str) -> list[Grant]:
    """Read what an account may do."""
    return _ispmail_database.grants(server.ask("SHOW GRANTS FOR %s@%s", [user, host]))


def rights(server: Server, config: DatabaseConfig, host: str, own: Account | None, other: Account | None) -> Rights:
    """Tell what pillar's user may do, and what makes it SELECT on the database.

    With ``revoke_other_grants`` that is all that it may do then; else also what the other account of a pair may do.
    What that one demands of a connection, it demands too. Nothing of the idle one gets to the one in use: an admin may
    have taken it away there.

    Args:
        own: The account of the user for this host, if there is one.
        other: The same of the other account of the pair.
    """
    held = grants(server, config.user, host) if own else []
    ours = select_grant(config.dbname)
    if config.revoke_other_grants:
        privileges = _schema_privileges(server, config.user, host) if own else []
        statements, then = _ispmail_sql.regrant(held, config.dbname, privileges), [ours]
    else:
        more = []
        if other and not _is_idle(own, other):
            more = _ispmail_sql.grants_missing(held, grants(server, config.pair[1], host))
        select = _ispmail_sql.grant_select([*held, *more], config.dbname)
        statements = [*map(_ispmail_sql.grant_statement, more), *select]
        then = [*held, *more, *([ours] if select else [])]
    old = own.demands if own else ""
    new = _demands(own, other)
    if new != old:
        statements = [_ispmail_sql.demand_statement(new, old), *statements]
    return Rights(held, statements, then, (old, new))


def _demands(own: Account | None, other: Account | None) -> str:
    """What an account is to demand of a connection."""
    old = own.demands if own else ""
    if other is None or _is_idle(own, other):
        return old
    # What only a locked one demands is of an earlier time: a limit would stop mail under load.
    return other.demands if other.demands or (own is not None and own.locked and not other.locked) else old


def _is_idle(own: Account | None, other: Account) -> bool:
    """Whether the other account of a pair is the one that is not in use."""
    return other.locked and own is not None and not own.locked


def creation(
    server: Server, config: DatabaseConfig, host: str, other: Account | None, what: Rights
) -> tuple[Step, dict[str, Any]]:
    """Write how pillar's user gets an account, with pillar's password.

    Args:
        other: The other account of a pair: Postfix has its plugin.
        what: From `rights`.

    Returns:
        What is to be done, and what changes, for people.
    """
    plugin = other.plugins[0] if other and not other_plugins(server.dialect, other) else server.dialect.plugins[0]
    arguments = {"user": config.user, "host": host, "new": new_hash(server, plugin, config.password or "")}
    changes: dict[str, Any] = {
        "account": {"old": None, "new": "made"},
        "password": {"old": None, "new": "***"},
        "expires": {"old": None, "new": "never"},
        "grants": what.describe(),
    }
    step = Step(name(config.user, host), (*server.dialect.create(plugin), *what.statements), arguments)
    return step, changes


def unmanaged_accounts(user: str, found: Iterable[str], managed: Collection[str]) -> list[str]:
    """Warn of other accounts of a user: a client that matches one of them keeps that one's password.

    Args:
        found: The hosts of the accounts that exist.
        managed: Those of the accounts that pillar means.
    """
    return [
        f"{name(user, host)} exists too, and was left alone: drop it, or add its host to server:accounts_host"
        for host in found
        if host not in managed
    ]


def _schema_privileges(server: Server, user: str, host: str) -> list[str]:
    """What ALL PRIVILEGES on a database means to this server, as far as this account has them."""
    statement = "SELECT DISTINCT PRIVILEGE_TYPE AS p FROM information_schema.SCHEMA_PRIVILEGES WHERE GRANTEE = %s"
    return [row["p"] for row in server.ask(statement, [f"'{user}'@'{host}'"])]
