"""The accounts of the maps' user on the database server: their grants, and the passwords that they accept.

Passwords reach the server as hashes that are computed here: its logs never hold a password.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import ispmail_database
import ispmail_schema
import ispmail_sql
from ispmail_config import DatabaseConfig
from ispmail_database import Server
from ispmail_errors import DatabaseError, listed, plural
from ispmail_sql import NATIVE, Account, Grant

log = logging.getLogger(__name__)

# Have the account accept pillar's password beside the others, or no other than that.
Action = Literal["accept", "sole"]


@dataclass(frozen=True)
class _Change:
    """What is done to one account."""

    statements: tuple[str, ...]
    arguments: Mapping[str, str] = field(repr=False)  # for the statements; it holds hashes
    passwords: tuple[int, int] = (0, 0)  # how many the account accepts, before and after


def read(config: DatabaseConfig) -> dict[str, Any]:
    """Read what there is on the database server, without secrets.

    Returns:
        ``server`` (its version), ``database`` (its name, None where there is none), ``tables`` (table to a list of
        what is missing, ``table`` for all of it), and ``accounts`` (``user@host``, all hosts of the maps' user, to
        ``managed``, ``grants``, ``plugins``, ``passwords``, how many are accepted, and ``locked``), and
        ``refused_logins``, how many the server has refused since its start, None where it does not count them.

    Raises:
        DatabaseError: The server cannot be asked.
    """
    with ispmail_database.admin(config.login) as server:
        needs = ispmail_sql.missing(ispmail_schema.read_tables(server, config.dbname))
        return {
            "server": ispmail_database.shown(server.version),
            "database": config.dbname if ispmail_schema.has_database(server, config.dbname) else None,
            "tables": {table: missing.describe() for table, missing in needs.items()},
            "accounts": {
                f"{config.user}@{ispmail_database.shown(host)}": {
                    "managed": host in config.hosts,
                    "grants": ispmail_database.shown_grants(_grants(server, config.user, host)),
                    "plugins": [ispmail_database.shown(plugin) for plugin in found.plugins],
                    "passwords": len(found.hashes),
                    "locked": found.locked,
                }
                for host, found in read_accounts(server, config.user).items()
            },
            "refused_logins": _refused_logins(server),
        }


def account(config: DatabaseConfig, test: bool) -> dict[str, Any]:
    """Create the maps' accounts with pillar's password, and have them SELECT on the database and do nothing else.

    The password of an account that exists is not changed.

    Returns:
        ``changes`` (``user@host`` to what changed, secrets as ``***``) and ``warnings`` (sentences).

    Raises:
        DatabaseError: The server refuses.
    """
    new = ispmail_sql.native_hash(config.password or "")
    changes: dict[str, Any] = {}
    warnings: list[str] = []
    work: list[_Change] = []
    with ispmail_database.admin(config.login, lock=not test) as server:
        found = read_accounts(server, config.user)
        for host in config.hosts:
            name = f"{config.user}@{host}"
            held = _grants(server, config.user, host) if host in found else []
            privileges = _schema_privileges(server, config.user, host)
            statements = ispmail_sql.regrant(held, config.dbname, privileges)
            change: dict[str, Any] = {}
            if host not in found:
                statements = ispmail_sql.create_account(server.mariadb) + statements
                change = {"account": {"old": None, "new": "made"}, "password": {"old": None, "new": "***"}}
            elif new not in found[host].hashes:
                warnings.append(f"{name} does not accept pillar's password: see credential_accepted")
            if statements:
                granted = [ispmail_sql.select_grant(config.dbname)]
                old, now = ispmail_database.shown_grants(held), ispmail_database.shown_grants(granted)
                changes[name] = {**change, "grants": {"old": old, "new": now}}
                work.append(_Change(tuple(statements), {"user": config.user, "host": host, "new": new}))
        began = time.monotonic()
        if not test:
            _run(server, work)
    if work and not test:
        created = [name for name, change in changes.items() if "account" in change]
        granted_to = [name for name in changes if name not in created]
        for what, names in (("Created the account", created), ("Changed the grants of", granted_to)):
            if names:
                log.info("%s %s in %.1f s", what, ", ".join(names), time.monotonic() - began)
    return {"changes": changes, "warnings": warnings + unmanaged_accounts(config, found)}


def credential(config: DatabaseConfig, action: Action, test: bool) -> dict[str, Any]:
    """Change which passwords the maps' accounts accept.

    Args:
        config: What pillar says; its password is the new one.
        action: ``accept`` pillar's password, as the first one, beside those accepted now, so that nobody who uses an
            old one notices; or have it as the ``sole`` one, which the account has to accept already, as the first one.
        test: Only tell what would be done.

    Returns:
        ``changes`` (``user@host`` to ``password``, ``***``, and ``passwords``, how many are accepted) and
        ``warnings`` (sentences).

    Raises:
        DatabaseError: An account does not exist, logs in by another plugin, or the change would lock somebody out;
            nothing is changed then.
    """
    new = ispmail_sql.native_hash(config.password or "")
    with ispmail_database.admin(config.login, lock=not test) as server:
        found = read_accounts(server, config.user)
        faults = []
        work: dict[str, _Change] = {}
        for host in config.hosts:
            name = f"{config.user}@{host}"
            fault = credential_fault(found.get(host), new, action, server.mariadb)
            if fault:
                faults.append(f"{name} {fault}")
                continue
            change = _password_change(found[host].hashes, new, action, server.mariadb)
            if change:
                work[name] = _Change(
                    change.statements, {**change.arguments, "user": config.user, "host": host}, change.passwords
                )
        if faults:
            raise DatabaseError(listed("Nothing was changed", faults))
        if work and not test:
            began = time.monotonic()
            _run(server, list(work.values()))
            _check(server, config, new, work)
            for name, change in work.items():
                _report(name, action, change.passwords, time.monotonic() - began)
    changes = {
        name: {
            "password": {"old": "***", "new": "***"},
            "passwords": {"old": change.passwords[0], "new": change.passwords[1]},
        }
        for name, change in work.items()
    }
    return {"changes": changes, "warnings": unmanaged_accounts(config, found)}


def read_accounts(server: Server, user: str) -> dict[str, Account]:
    """Read the accounts of a user, by their hosts."""
    if server.mariadb:
        rows = server.ask("SELECT Host AS host, Priv AS priv FROM mysql.global_priv WHERE User = %s", [user])
        accounts = {row["host"]: ispmail_sql.mariadb_account(row["priv"]) for row in rows}
        return {host: found for host, found in accounts.items() if found is not None}
    rows = server.ask(
        "SELECT Host AS host, plugin, CAST(authentication_string AS CHAR) AS hash, account_locked AS locked,"
        " User_attributes->>'$.additional_password' AS second FROM mysql.user WHERE User = %s",
        [user],
    )
    return {
        row["host"]: ispmail_sql.mysql_account(row["plugin"], row["hash"], row["second"], row["locked"] == "Y")
        for row in rows
    }


def credential_fault(found: Account | None, new: str, action: Action, mariadb: bool) -> str | None:
    """Tell why an account's passwords cannot be changed, and what to do.

    Args:
        found: The account, None if it does not exist.
        new: The hash of pillar's password.
        action: As for `credential`.
        mariadb: The server is a MariaDB, not a MySQL.

    Returns:
        A sentence without its subject; None where the passwords can be changed.
    """
    if found is None:
        return "does not exist: run postfix_database.account first"
    others = [ispmail_database.shown(plugin) for plugin in found.plugins if plugin != NATIVE]
    if others:
        return (
            f"logs in by {', '.join(others)}, which smtpd's chroot and PyMySQL do not have: "
            f"give it a password by {NATIVE} alone (ALTER USER … IDENTIFIED VIA {NATIVE} …)"
        )
    if new in found.hashes:
        # The first password is that of the rotation which has begun last: servers may use it.
        overtaken = action == "sole" and found.hashes[0] != new
        return (
            "has accepted another password since then, another rotation has begun: rotate again" if overtaken else None
        )
    if action == "sole":
        return "does not accept pillar's password yet, clients would be locked out: run credential_accepted first"
    if len(found.hashes) > 1 and not mariadb:
        return (
            "accepts two other passwords already, and a MySQL keeps no third: put the newer one of them back into "
            "pillar, rotate, then start again"
        )
    return None


def unmanaged_accounts(config: DatabaseConfig, found: Mapping[str, Account]) -> list[str]:
    """Warn of other accounts of this user: a client that matches one of them keeps that one's password."""
    return [
        f"{config.user}@{ispmail_database.shown(host)} exists too, and was left alone: drop it, or add its host to "
        "server:accounts_host"
        for host in found
        if host not in config.hosts
    ]


def _password_change(hashes: tuple[str, ...], new: str, action: Action, mariadb: bool) -> _Change | None:
    """What is to be done to an account with these passwords; None where it has what it should have."""
    if hashes[:1] == (new,) and (action == "accept" or len(hashes) == 1):
        return None
    # An account that accepts no password yet has none to keep.
    kept = [text for text in hashes if text != new] if action == "accept" else []
    statements = ispmail_sql.accept_password(mariadb, len(kept)) if kept else ispmail_sql.set_only_password(mariadb)
    arguments = {"new": new, **{f"old{number}": text for number, text in enumerate(kept)}}
    return _Change(tuple(statements), arguments, (len(hashes), len(kept) + 1))


def _run(server: Server, work: list[_Change]) -> None:
    for change in work:
        for statement in change.statements:
            server.ask(statement, change.arguments)


def _check(server: Server, config: DatabaseConfig, new: str, work: Mapping[str, _Change]) -> None:
    """See that the server has done what it was asked for."""
    after = {f"{config.user}@{host}": found for host, found in read_accounts(server, config.user).items()}
    for name, change in work.items():
        if name not in after or new not in after[name].hashes or len(after[name].hashes) != change.passwords[1]:
            raise DatabaseError(f"{name} does not accept the passwords that were set: run it again")


def _report(name: str, action: Action, passwords: tuple[int, int], seconds: float) -> None:
    if action == "accept":
        count = plural(passwords[1], "password")
        log.info("%s now accepts %s, pillar's first, after %.1f s", name, count, seconds)
    else:
        count = plural(passwords[0] - 1, "old password")
        log.info("%s accepts only pillar's password, %s dropped, after %.1f s", name, count, seconds)


def _grants(server: Server, user: str, host: str) -> list[Grant]:
    return ispmail_database.grants(server.ask("SHOW GRANTS FOR %s@%s", [user, host]))


def _refused_logins(server: Server) -> int | None:
    """How many logins, of all accounts, a MariaDB has refused since its start; a MySQL does not count them."""
    rows = server.ask("SHOW GLOBAL STATUS LIKE 'Access_denied_errors'")
    return int(rows[0]["Value"]) if rows else None


def _schema_privileges(server: Server, user: str, host: str) -> list[str]:
    """What ALL PRIVILEGES on a database means to this server, as far as this account has them."""
    statement = "SELECT DISTINCT PRIVILEGE_TYPE AS p FROM information_schema.SCHEMA_PRIVILEGES WHERE GRANTEE = %s"
    return [row["p"] for row in server.ask(statement, [f"'{user}'@'{host}'"])]
