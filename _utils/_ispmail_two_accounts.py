"""A rotation by two accounts with equal grants: pillar's user is opened, then the other one is locked.

The idle account of the pair is locked, or not there. One that is open may be somebody's, so its password is never
replaced.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import _ispmail_account_users
import _ispmail_idle_account
import _ispmail_session
from _ispmail_config_database import DatabaseConfig
from _ispmail_credential import CredentialChange, Plan, Standing, accept_fault
from _ispmail_database import Server, Step
from _ispmail_errors import DatabaseError, listed
from _ispmail_server_accounts import (
    Rights,
    creation,
    grants,
    is_open,
    name,
    new_hash,
    other_plugins,
    read_accounts,
    rights,
    unmanaged_accounts,
)
from _ispmail_sql import Account


def accept(server: Server, config: DatabaseConfig) -> Plan:
    """Plan that pillar's user may log in with pillar's password, and do what the other account may do.

    Raises:
        DatabaseError: One account cannot be changed. Lists all.
    """
    found, others = (read_accounts(server, user) for user in config.pair)
    hosts = config.managed_hosts([*others, *found])
    faults: list[str] = []
    work: dict[str, CredentialChange] = {}
    for host in hosts:
        own, other = found.get(host), others.get(host)
        fault = _accept_fault(server, config, own, other)
        if fault:
            faults.append(f"{name(config.user, host)} {fault}")
        elif change := _opened(server, config, host, own, other):
            work[name(config.user, host)] = change
    if faults:
        raise DatabaseError(listed("Nothing was changed", faults))
    return Plan(
        work, [*_unmanaged(config, found, others, hosts), *_roles_left_out(server, config, found, others, hosts)]
    )


def sole(server: Server, config: DatabaseConfig) -> Plan:
    """Plan that the other account is locked. Pillar's user has to accept pillar's password already.

    Raises:
        DatabaseError: One account cannot be locked. Lists all.
    """
    found, others = (read_accounts(server, user) for user in config.pair)
    hosts = config.managed_hosts([*others, *found])
    faults = [
        f"{name(config.user, host)} does not accept pillar's password yet, or no other one, clients would be locked "
        "out: run credential_accepted first"
        for host in hosts
        if not is_open(server, config, found.get(host))
    ]
    if faults:
        raise DatabaseError(listed("Nothing was changed", faults))
    other = config.pair[1]
    work = {
        name(other, host): _locked(server, config, host, others[host])
        for host in hosts
        if host in others and not others[host].locked
    }
    warnings = _ispmail_account_users.still_connected(other, _ispmail_account_users.connections(server, other))
    return Plan(work, [*_unmanaged(config, found, others, hosts), *warnings])


def _accept_fault(server: Server, config: DatabaseConfig, own: Account | None, other: Account | None) -> str | None:
    """Why pillar's user cannot be opened for a host, as a sentence without its subject; None where it can be."""
    if other and (plugins := other_plugins(server.dialect, other)):
        return f"cannot be made like {config.other}, which {plugins}"

    def connections() -> dict[str, int] | None:
        return _ispmail_account_users.connections(server, config.user)

    ours, others = map(_standing, (own, other))
    if ours == "open" and not is_open(server, config, own):
        ours = "open otherwise"
    return accept_fault(config, ours, others, connections, "ALTER USER … ACCOUNT LOCK")


def _standing(found: Account | None) -> Standing:
    if found is None:
        return "missing"
    return "locked" if found.locked else "open"


def _opened(
    server: Server, config: DatabaseConfig, host: str, own: Account | None, other: Account | None
) -> CredentialChange | None:
    """What has pillar's user log in from a host; None where it may do so already."""
    what = rights(server, config, host, own, other)
    ready = is_open(server, config, own)
    if ready and not what.statements:
        return None
    if own is None:
        step, changes = creation(server, config, host, other, what)
    else:
        step, changes = _reopened(server, config, host, other or own, what, ready)

    def is_done() -> bool:
        return is_open(server, config, read_accounts(server, config.user).get(host))

    return CredentialChange(step, changes, is_done, "now accepts pillar's password")


def _reopened(
    server: Server, config: DatabaseConfig, host: str, model: Account, what: Rights, ready: bool
) -> tuple[Step, dict[str, Any]]:
    """What has an account that exists log in by pillar's password, with a plugin that Postfix has."""
    changes: dict[str, Any] = {"grants": what.describe()} if what.statements else {}
    # Whoever logs in has the rights by then.
    statements, arguments = what.statements, {"user": config.user, "host": host}
    if not ready:
        plugin = model.plugins[0]
        statements = [*statements, *server.dialect.reopen(plugin)]
        arguments["new"] = new_hash(server, plugin, config.password or "")
        changes = {"password": {"old": "***", "new": "***"}, "locked": {"old": True, "new": False}, **changes}
    return Step(name(config.user, host), tuple(statements), arguments), changes


def _locked(server: Server, config: DatabaseConfig, host: str, other: Account) -> CredentialChange:
    user = config.pair[1]
    step = _ispmail_idle_account.lock(server, config, host, other)

    def is_done() -> bool:
        after = read_accounts(server, user).get(host)
        return after is not None and after.locked

    return CredentialChange(step, {"locked": {"old": False, "new": True}}, is_done, "is locked")


def _unmanaged(
    config: DatabaseConfig, found: Mapping[str, Account], others: Mapping[str, Account], hosts: Sequence[str]
) -> list[str]:
    users = zip(config.pair, (found, others))
    return [text for user, accounts in users for text in unmanaged_accounts(user, accounts, hosts)]


def _roles_left_out(
    server: Server,
    config: DatabaseConfig,
    found: Mapping[str, Account],
    others: Mapping[str, Account],
    hosts: Sequence[str],
) -> Iterator[str]:
    """What one account has of roles and the other has not: which of them is the default one is not to be seen."""
    for host in hosts if not config.revoke_other_grants else ():
        held = grants(server, config.user, host) if host in found else []
        wanted = grants(server, config.pair[1], host) if host in others else []
        for role in (each.privileges[0] for each in wanted if each.object is None and each not in held):
            yield (
                f"{name(config.pair[1], host)} has the role {_ispmail_session.shown(role)}, which {config.user} was "
                "not given: if a program needs it, grant it by hand"
            )
