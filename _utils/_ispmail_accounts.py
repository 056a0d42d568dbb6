"""The maps' account on the database server: what there is, its grants, and the logins that it accepts."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import _ispmail_account_users
import _ispmail_database
import _ispmail_idle_account
import _ispmail_schema
import _ispmail_session
import _ispmail_sql
import _ispmail_two_accounts
import _ispmail_two_passwords
from _ispmail_config_database import DatabaseConfig
from _ispmail_credential import Action, Retired, carry_out
from _ispmail_database import Server, Step
from _ispmail_dialect import Dialect
from _ispmail_server_accounts import (
    accepted,
    creation,
    grants,
    name,
    other_plugins,
    read_accounts,
    rights,
    unmanaged_accounts,
)
from _ispmail_sql import Account, Grant

log = logging.getLogger(__name__)


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
        ``passwords``, how many are accepted, ``locked``, ``age``, of its password in seconds, None where the server
        does not know it, and ``expires``: None for never, or when its password does, ``seconds`` from now and
        ``date``), ``pair`` (``user@host`` of the pair's other account to ``locked`` and
        ``connections``, see `_ispmail_account_users.connections`), ``others``, see
        `_ispmail_account_users.other_readers`, and ``refused_logins``, how many the server has refused since its
        start, None where it does not count them.

    Raises:
        DatabaseError: The server cannot be asked.
    """
    with _ispmail_database.admin(config.login) as server:
        needs = _ispmail_sql.missing(_ispmail_schema.read_tables(server, config.dbname))
        found, other = read_accounts(server, config.user), _read_other(server, config)
        managed = config.managed_hosts([*other, *found])
        clock = server.ask("SELECT @@global.default_password_lifetime AS days, UNIX_TIMESTAMP() AS now")[0]
        return {
            "server": _ispmail_session.shown(server.version),
            "login_plugins": list(server.dialect.plugins),
            "database": config.dbname if _ispmail_schema.has_database(server, config.dbname) else None,
            "tables": {table: missing.describe() for table, missing in needs.items()},
            "accounts": {
                name(config.user, host): {
                    "managed": host in managed,
                    "grants": _ispmail_database.shown_grants(grants(server, config.user, host)),
                    "plugins": [_ispmail_session.shown(plugin) for plugin in account.plugins],
                    "passwords": len(account.hashes),
                    "locked": account.locked,
                    "age": max(0, int(clock["now"]) - account.changed) if account.changed else None,
                    "expires": _ispmail_database.expiry(account.expires(int(clock["days"])), int(clock["now"])),
                }
                for host, account in found.items()
            },
            "pair": {
                name(user, host): {
                    "locked": account.locked,
                    "connections": _ispmail_account_users.connections(server, user),
                }
                for user in config.pair[1:]
                for host, account in other.items()
            },
            "others": _ispmail_account_users.other_readers(server, config),
            "refused_logins": _refused_logins(server),
        }


def account(config: DatabaseConfig, test: bool) -> dict[str, Any]:
    """Create the maps' accounts with pillar's password, and have them SELECT on the database.

    The password of an account that exists is not changed. What it may do besides is revoked only where pillar says so.
    An account of a pair may do what the other one may.

    Returns:
        ``changes`` (``user@host`` to what changed, secrets as ``***``) and ``warnings`` (sentences).

    Raises:
        DatabaseError: The server refuses.
    """
    with _ispmail_database.admin(config.login, lock=not test) as server:
        found, other = read_accounts(server, config.user), _read_other(server, config)
        hosts = config.managed_hosts([*other, *found])
        work = {
            name(config.user, host): _account_change(server, config, host, found.get(host), other.get(host))
            for host in hosts
        }
        began = time.monotonic()
        steps = [step for change in work.values() for step in change.steps]
        if steps and not test:
            _ispmail_database.run(server, steps, "apply ispmail.database again")
            log.info("Done in %.1f s: %s", time.monotonic() - began, "; ".join(step.name for step in steps))
        retired = _ispmail_idle_account.retire(server, config, test)
    return {
        "changes": {
            **{title: dict(change.change) for title, change in work.items() if change.steps},
            **retired.changes,
        },
        "warnings": [
            *(text for change in work.values() for text in change.warnings),
            *unmanaged_accounts(config.user, found, hosts),
            *retired.warnings,
        ],
    }


def _read_other(server: Server, config: DatabaseConfig) -> dict[str, Account]:
    """The other account of the pair, by its hosts; none where there is no pair."""
    return read_accounts(server, config.other) if config.other else {}


def _account_change(
    server: Server, config: DatabaseConfig, host: str, found: Account | None, other: Account | None
) -> _AccountChange:
    """What is to be done to one account, which may not exist yet."""
    title = name(config.user, host)
    what = rights(server, config, host, found, other)
    if found is None:
        step, changes = creation(server, config, host, other, what)
        return _AccountChange((replace(step, name=f"create {title}"),), changes)
    warnings = (
        *_login_warnings(server.dialect, config, title, found),
        *_grant_warnings(server, config, title, _ispmail_sql.more_than_select(what.held, config.dbname)),
    )
    if not what.statements:
        return _AccountChange(warnings=warnings)
    step = Step(f"change the grants of {title}", tuple(what.statements), {"user": config.user, "host": host})
    return _AccountChange((step,), {"grants": what.describe()}, warnings)


def _login_warnings(dialect: Dialect, config: DatabaseConfig, title: str, found: Account) -> Iterator[str]:
    """What may keep the maps from logging in, and is not changed here."""
    plugins = other_plugins(dialect, found)
    if plugins:
        yield f"{title} {plugins}"
    elif config.pair and found.locked:
        yield f"{title} is locked, as the idle account of the pair is: see credential_accepted"
    elif not any(accepted(dialect, found, config.password or "")):
        yield f"{title} does not accept pillar's password: see credential_accepted"
    if found.expires(0) is not None and not (config.pair and found.locked):
        yield f"the password of {title} expires: ALTER USER … PASSWORD EXPIRE NEVER, see postfix_doctor.check"


def _grant_warnings(server: Server, config: DatabaseConfig, title: str, more: Sequence[Grant]) -> Iterator[str]:
    """Rights that another program may need: it fails without them, and nobody knows of it here."""
    if not more:
        return
    what = "; ".join(_ispmail_database.shown_grants(more))
    seen = _ispmail_account_users.connections(server, config.user)
    yield _ispmail_account_users.other_rights(config, title, what, seen)


def credential(config: DatabaseConfig, action: Action, test: bool) -> dict[str, Any]:
    """Change which logins the server accepts, by pillar's method of rotation.

    Args:
        config: What pillar says; its user and password are the new ones.
        action: ``accept`` them beside those in use, so that nobody who uses an old one notices; or have them as the
            ``sole`` ones, which the server has to accept already.
        test: Only tell what would be done.

    Returns:
        ``changes`` (``user@host`` to what changed, secrets as ``***``) and ``warnings`` (sentences).

    Raises:
        DatabaseError: An account does not exist, logs in by another plugin, or the change would lock somebody out;
            nothing is changed then. Or the connection was lost; the text says which accounts are done.
    """
    method = _ispmail_two_accounts if config.pair else _ispmail_two_passwords
    with _ispmail_database.admin(config.login, lock=not test) as server:
        plan = method.accept(server, config) if action == "accept" else method.sole(server, config)

        def retire() -> Retired:
            return _ispmail_idle_account.retire(server, config, test, locking=[*plan.work])

        return carry_out(server, plan, action, test, retire)


def _refused_logins(server: Server) -> int | None:
    """How many logins, of all accounts, a MariaDB has refused since its start; a MySQL does not count them."""
    rows = server.ask("SHOW GLOBAL STATUS LIKE 'Access_denied_errors'")
    return int(rows[0]["Value"]) if rows else None
