"""The accounts of the maps' user on the database server: their grants, and the passwords that they accept.

Passwords reach the server as hashes that are computed here: its logs never hold a password.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import _ispmail_account_users
import _ispmail_database
import _ispmail_schema
import _ispmail_sql
from _ispmail_config_database import DatabaseConfig
from _ispmail_database import Server, Step
from _ispmail_dialect import Dialect
from _ispmail_errors import DatabaseError, listed, plural
from _ispmail_sql import Account, Grant

log = logging.getLogger(__name__)

# Have the account accept pillar's password beside the others, or no other than that.
Action = Literal["accept", "sole"]


class _PasswordChange(NamedTuple):
    """What is done to the passwords of one account."""

    step: Step
    passwords: tuple[int, int]  # how many the account accepts, before and after


@dataclass(frozen=True)
class _AccountChange:
    """What one account gets, and what an admin should know of it."""

    steps: tuple[Step, ...] = ()
    change: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def read(config: DatabaseConfig) -> dict[str, Any]:
    """Read what there is on the database server, without secrets.

    Returns:
        ``server`` (its version), ``login_plugins`` (those that a rotation can handle; a new account gets the first),
        ``database`` (its name, None where there is none), ``tables`` (table to a list of what is missing, ``table`` for
        all of it), ``accounts`` (``user@host``, all hosts of the maps' user, to ``managed``, ``grants``, ``plugins``,
        ``passwords``, how many are accepted, ``locked``, and ``expires``: None for never, or when its password does,
        ``seconds`` from now and ``date``), ``others``, see `_ispmail_account_users.other_readers`, and
        ``refused_logins``, how many the server has refused since its start, None where it does not count them.

    Raises:
        DatabaseError: The server cannot be asked.
    """
    with _ispmail_database.admin(config.login) as server:
        needs = _ispmail_sql.missing(_ispmail_schema.read_tables(server, config.dbname))
        found = read_accounts(server, config.user)
        managed = config.managed_hosts(found)
        clock = server.ask("SELECT @@global.default_password_lifetime AS days, UNIX_TIMESTAMP() AS now")[0]
        return {
            "server": _ispmail_database.shown(server.version),
            "login_plugins": list(server.dialect.plugins),
            "database": config.dbname if _ispmail_schema.has_database(server, config.dbname) else None,
            "tables": {table: missing.describe() for table, missing in needs.items()},
            "accounts": {
                f"{config.user}@{_ispmail_database.shown(host)}": {
                    "managed": host in managed,
                    "grants": _ispmail_database.shown_grants(_grants(server, config.user, host)),
                    "plugins": [_ispmail_database.shown(plugin) for plugin in account.plugins],
                    "passwords": len(account.hashes),
                    "locked": account.locked,
                    "expires": _expiry(account, int(clock["days"]), int(clock["now"])),
                }
                for host, account in found.items()
            },
            "others": _ispmail_account_users.other_readers(server, config),
            "refused_logins": _refused_logins(server),
        }


def account(config: DatabaseConfig, test: bool) -> dict[str, Any]:
    """Create the maps' accounts with pillar's password, and have them SELECT on the database.

    The password of an account that exists is not changed. What it may do besides is revoked only where pillar says so.

    Returns:
        ``changes`` (``user@host`` to what changed, secrets as ``***``) and ``warnings`` (sentences).

    Raises:
        DatabaseError: The server refuses.
    """
    with _ispmail_database.admin(config.login, lock=not test) as server:
        found = read_accounts(server, config.user)
        work = {
            f"{config.user}@{_ispmail_database.shown(host)}": _account_change(server, config, host, found.get(host))
            for host in config.managed_hosts(found)
        }
        began = time.monotonic()
        steps = [step for change in work.values() for step in change.steps]
        if steps and not test:
            _ispmail_database.run(server, steps, "apply ispmail.database again")
            log.info("Done in %.1f s: %s", time.monotonic() - began, "; ".join(step.name for step in steps))
    return {
        "changes": {name: dict(change.change) for name, change in work.items() if change.steps},
        "warnings": [text for change in work.values() for text in change.warnings] + unmanaged_accounts(config, found),
    }


def _account_change(server: Server, config: DatabaseConfig, host: str, found: Account | None) -> _AccountChange:
    """What is to be done to one account, which may not exist yet."""
    name = f"{config.user}@{_ispmail_database.shown(host)}"
    if found is None:
        plugin = server.dialect.plugins[0]
        statements = server.dialect.create(plugin) + _ispmail_sql.grant_select([], config.dbname)
        arguments = {"user": config.user, "host": host, "new": _hash(server, plugin, config.password or "")}
        made = {"old": None, "new": "made"}
        only = {"old": [], "new": _ispmail_sql.describe_grants([_ispmail_sql.select_grant(config.dbname)])}
        change = {"account": made, "password": {"old": None, "new": "***"}, "expires": {"old": None, "new": "never"}}
        return _AccountChange((Step(f"create {name}", tuple(statements), arguments),), {**change, "grants": only})
    held = _grants(server, config.user, host)
    more = _ispmail_sql.more_than_select(held, config.dbname)
    if config.revoke_other_grants:
        privileges = _schema_privileges(server, config.user, host)
        statements, now = _ispmail_sql.regrant(held, config.dbname, privileges), []
    else:
        statements, now = _ispmail_sql.grant_select(held, config.dbname), held
    warnings = [
        *_login_warnings(server.dialect, name, found, config.password or ""),
        *_grant_warnings(server, config, name, more),
    ]
    if not statements:
        return _AccountChange(warnings=tuple(warnings))
    # Each statement stands for a SELECT that is missing, or for what is more than it.
    then = [*now, _ispmail_sql.select_grant(config.dbname)]
    grants = {"old": _ispmail_database.shown_grants(held), "new": _ispmail_database.shown_grants(then)}
    step = Step(f"change the grants of {name}", tuple(statements), {"user": config.user, "host": host})
    return _AccountChange((step,), {"grants": grants}, tuple(warnings))


def _hash(server: Server, plugin: str, password: str) -> str:
    """What the server will keep of a password, with a new salt."""
    dialect = server.dialect
    settings = {}
    if dialect.settings:
        settings = {str(row["Variable_name"]): str(row["Value"]) for row in server.ask(dialect.settings)}
    # 15 bytes are 20 characters.
    return dialect.hash_password(plugin, password, secrets.token_urlsafe(15), settings)


def _login_warnings(dialect: Dialect, name: str, found: Account, password: str) -> Iterator[str]:
    """What may keep the maps from logging in, and is not changed here."""
    plugins = _other_plugins(dialect, found)
    if plugins:
        yield f"{name} {plugins}"
    elif not any(_accepted(dialect, found, password)):
        yield f"{name} does not accept pillar's password: see credential_accepted"
    if found.expires(0) is not None:
        yield f"the password of {name} expires: ALTER USER … PASSWORD EXPIRE NEVER, see postfix_doctor.report"


def _grant_warnings(server: Server, config: DatabaseConfig, name: str, more: Sequence[Grant]) -> Iterator[str]:
    """Rights that another program may need: it fails without them, and nobody knows of it here."""
    if not more:
        return
    what = "; ".join(_ispmail_database.shown_grants(more))
    seen = _ispmail_account_users.describe_connections(_ispmail_account_users.connections(server, config.user))
    if config.revoke_other_grants:
        yield f"{name} loses {what}: a program that needs that fails from then on ({seen})"
    else:
        yield (
            f"{name} also has {what}, which was left alone, as another program may need it ({seen}): give that "
            f"program an account of its own, then set {config.pillar_key}:server:revoke_other_grants to true"
        )


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
            nothing is changed then. Or the connection was lost; the text says which accounts are done.
    """
    with _ispmail_database.admin(config.login, lock=not test) as server:
        found = read_accounts(server, config.user)
        work = _password_changes(server, config, found, action)
        if work and not test:
            began = time.monotonic()
            again = f"run credential_{'accepted' if action == 'accept' else 'sole'} again"
            _ispmail_database.run(server, [change.step for change in work.values()], again)
            _check(server, config, work, again)
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


def _password_changes(
    server: Server, config: DatabaseConfig, found: Mapping[str, Account], action: Action
) -> dict[str, _PasswordChange]:
    """What is to be done to each account, by its name.

    Raises:
        DatabaseError: The passwords of one cannot be changed.
    """
    faults = []
    work: dict[str, _PasswordChange] = {}
    for host in config.managed_hosts(found):
        name = f"{config.user}@{_ispmail_database.shown(host)}"
        account = found.get(host)
        accepted = _accepted(server.dialect, account, config.password or "") if account else ()
        fault = credential_fault(server.dialect, account, accepted, action)
        if fault:
            faults.append(f"{name} {fault}")
        elif account and (accepted[:1] != (True,) or (action == "sole" and len(accepted) > 1)):
            work[name] = _password_change(server, config, host, account, accepted, action)
    if faults:
        raise DatabaseError(listed("Nothing was changed", faults))
    return work


def read_accounts(server: Server, user: str) -> dict[str, Account]:
    """Read the accounts of a user, by their hosts."""
    rows = server.ask(server.dialect.accounts, [user])
    accounts = {row["host"]: server.dialect.read_account(row) for row in rows}
    return {host: found for host, found in accounts.items() if found is not None}


def credential_fault(dialect: Dialect, found: Account | None, accepted: Sequence[bool], action: Action) -> str | None:
    """Tell why an account's passwords cannot be changed, and what to do.

    Args:
        dialect: Of the server.
        found: The account, None if it does not exist.
        accepted: For each of the account's hashes whether it is of pillar's password.
        action: As for `credential`.

    Returns:
        A sentence without its subject; None where the passwords can be changed.
    """
    if found is None:
        return "does not exist: run postfix_database.account first"
    plugins = _other_plugins(dialect, found)
    if plugins:
        return plugins
    if any(accepted):
        # The first password is that of the rotation which has begun last: servers may use it.
        overtaken = action == "sole" and not accepted[0]
        return (
            "has accepted another password since then, another rotation has begun: rotate again" if overtaken else None
        )
    if action == "sole":
        return "does not accept pillar's password yet, clients would be locked out: run credential_accepted first"
    if len(accepted) == dialect.most_passwords:
        return (
            f"accepts two other passwords already, and a {dialect.name} keeps no third: put the newer one of them "
            "back into pillar, rotate, then start again"
        )
    return None


def unmanaged_accounts(config: DatabaseConfig, found: Mapping[str, Account]) -> list[str]:
    """Warn of other accounts of this user: a client that matches one of them keeps that one's password."""
    managed = config.managed_hosts(found)
    return [
        f"{config.user}@{_ispmail_database.shown(host)} exists too, and was left alone: drop it, or add its host to "
        "server:accounts_host"
        for host in found
        if host not in managed
    ]


def _accepted(dialect: Dialect, account: Account, password: str) -> tuple[bool, ...]:
    """For each hash of an account whether it is of a password."""
    return tuple(dialect.is_hash_of(text, password) for text in account.hashes)


def _other_plugins(dialect: Dialect, found: Account) -> str:
    """What to do where an account logs in by a plugin that Postfix may not have; empty where it does not."""
    others = [_ispmail_database.shown(plugin) for plugin in found.plugins if plugin not in dialect.plugins]
    if not others:
        return ""
    return (
        f"logs in by {', '.join(others)}, {dialect.plugin_advice}, "
        "or, if the maps do not use it, list the hosts of those that they use in server:accounts_host"
    )


def _expiry(account: Account, default_lifetime: int, now: int) -> dict[str, Any] | None:
    """When the password of an account expires: how many seconds from now, and its date."""
    expires = account.expires(default_lifetime)
    if expires is None:
        return None
    return {"seconds": expires - now, "date": time.strftime("%Y-%m-%d", time.gmtime(expires)) if expires else "now"}


def _password_change(
    server: Server, config: DatabaseConfig, host: str, found: Account, accepted: Sequence[bool], action: Action
) -> _PasswordChange:
    """What is done to the passwords of an account that has not what it should have."""
    dialect, plugin = server.dialect, found.plugins[0]
    kept: list[str] = []
    if action == "sole":
        statements = dialect.sole(plugin)
    else:
        # An account that accepts no password yet has none to keep.
        kept = [text for text, ours in zip(found.hashes, accepted) if not ours]
        statements = dialect.accept(plugin, len(kept)) if kept else dialect.set_password(plugin)
    arguments = {"user": config.user, "host": host, "new": _hash(server, plugin, config.password or "")}
    arguments.update({f"old{number}": text for number, text in enumerate(kept)})
    step = Step(f"{config.user}@{_ispmail_database.shown(host)}", tuple(statements), arguments)
    return _PasswordChange(step, (len(found.hashes), len(kept) + 1))


def _check(server: Server, config: DatabaseConfig, work: Mapping[str, _PasswordChange], again: str) -> None:
    """See that the server has done what it was asked for."""
    try:
        accounts = read_accounts(server, config.user)
    except DatabaseError as err:
        text = f"{err}. {', '.join(work)} were changed, but could not be read back: {again}"
        raise DatabaseError(text, err.number) from None
    after = {f"{config.user}@{_ispmail_database.shown(host)}": found for host, found in accounts.items()}
    for name, change in work.items():
        accepted = _accepted(server.dialect, after[name], config.password or "") if name in after else ()
        if not any(accepted) or len(accepted) != change.passwords[1]:
            raise DatabaseError(f"{name} does not accept the passwords that were set: run it again")


def _report(name: str, action: Action, passwords: tuple[int, int], seconds: float) -> None:
    if action == "accept":
        count = plural(passwords[1], "password")
        log.info("%s now accepts %s, pillar's first, after %.1f s", name, count, seconds)
    else:
        count = plural(passwords[0] - 1, "old password")
        log.info("%s accepts only pillar's password, %s dropped, after %.1f s", name, count, seconds)


def _grants(server: Server, user: str, host: str) -> list[Grant]:
    return _ispmail_database.grants(server.ask("SHOW GRANTS FOR %s@%s", [user, host]))


def _refused_logins(server: Server) -> int | None:
    """How many logins, of all accounts, a MariaDB has refused since its start; a MySQL does not count them."""
    rows = server.ask("SHOW GLOBAL STATUS LIKE 'Access_denied_errors'")
    return int(rows[0]["Value"]) if rows else None


def _schema_privileges(server: Server, user: str, host: str) -> list[str]:
    """What ALL PRIVILEGES on a database means to this server, as far as this account has them."""
    statement = "SELECT DISTINCT PRIVILEGE_TYPE AS p FROM information_schema.SCHEMA_PRIVILEGES WHERE GRANTEE = %s"
    return [row["p"] for row in server.ask(statement, [f"'{user}'@'{host}'"])]
