"""A rotation by two passwords: the account accepts pillar's password beside the others, and then no other one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from _ispmail_config_database import DatabaseConfig
from _ispmail_credential import CredentialChange, Plan
from _ispmail_database import Server, Step
from _ispmail_dialect import Dialect
from _ispmail_errors import DatabaseError, listed, plural
from _ispmail_server_accounts import (
    accepted,
    name,
    new_hash,
    other_plugins,
    read_accounts,
    unmanaged_accounts,
)
from _ispmail_sql import Account

# Tells why an account cannot be changed and what to do, as a sentence without its subject; None where it can be. From
# the server's dialect, the account (None if it does not exist), and for each of its hashes whether it is of pillar's
# password.
FaultOf = Callable[[Dialect, Account | None, Sequence[bool]], str | None]


def accept(server: Server, config: DatabaseConfig) -> Plan:
    """Plan that the accounts accept pillar's password, as the first one, beside those accepted now.

    Raises:
        DatabaseError: One cannot be changed. Lists all.
    """

    def change(host: str, found: Account, known: Sequence[bool]) -> CredentialChange | None:
        if known[:1] == (True,):
            return None
        # An account that accepts no password yet has none to keep.
        kept = [text for text, ours in zip(found.hashes, known) if not ours]
        dialect, plugin = server.dialect, found.plugins[0]
        statements = dialect.accept(plugin, len(kept)) if kept else dialect.set_password(plugin)
        return _change(server, config, host, found, statements, kept)

    return _planned(server, config, accept_fault, change)


def sole(server: Server, config: DatabaseConfig) -> Plan:
    """Plan that the accounts accept pillar's password only, which they have to accept already, as the first one.

    Raises:
        DatabaseError: One cannot be changed. Lists all.
    """

    def change(host: str, found: Account, known: Sequence[bool]) -> CredentialChange | None:
        if len(known) == 1:
            return None
        said = f"accepts only pillar's password, {plural(len(known) - 1, 'old password')} dropped"
        return _change(server, config, host, found, server.dialect.sole(found.plugins[0]), [])._replace(said=said)

    return _planned(server, config, sole_fault, change)


def accept_fault(dialect: Dialect, found: Account | None, known: Sequence[bool]) -> str | None:
    """As `FaultOf`, of an account that is to accept another password."""
    if found is None:
        return (
            "does not exist: run postfix_database.account first; or, to change the user in a rotation, see "
            '"Two accounts" in docs/rotation.md'
        )
    if plugins := other_plugins(dialect, found):
        return plugins
    if not any(known) and len(known) == dialect.most_passwords:
        return (
            f"accepts two other passwords already, and a {dialect.name} keeps no third: put the newer one of them "
            "back into pillar, rotate, then start again"
        )
    return None


def sole_fault(dialect: Dialect, found: Account | None, known: Sequence[bool]) -> str | None:
    """As `FaultOf`, of an account that is to accept pillar's password only."""
    if found is None:
        return "does not exist: run postfix_database.account first"
    if plugins := other_plugins(dialect, found):
        return plugins
    if not any(known):
        return "does not accept pillar's password yet, clients would be locked out: run credential_accepted first"
    if not known[0]:
        # The first password is that of the rotation which has begun last: servers may use it.
        return "has accepted another password since then, another rotation has begun: rotate again"
    return None


def _planned(
    server: Server,
    config: DatabaseConfig,
    fault_of: FaultOf,
    change: Callable[[str, Account, Sequence[bool]], CredentialChange | None],
) -> Plan:
    accounts = read_accounts(server, config.user)
    hosts = config.managed_hosts(accounts)
    faults = []
    work: dict[str, CredentialChange] = {}
    for host in hosts:
        found = accounts.get(host)
        known = accepted(server.dialect, found, config.password or "") if found else ()
        fault = fault_of(server.dialect, found, known)
        if fault:
            faults.append(f"{name(config.user, host)} {fault}")
        elif found and (planned := change(host, found, known)):
            work[name(config.user, host)] = planned
    if faults:
        raise DatabaseError(listed("Nothing was changed", faults))
    return Plan(work, unmanaged_accounts(config.user, accounts, hosts))


def _change(
    server: Server, config: DatabaseConfig, host: str, found: Account, statements: Sequence[str], kept: Sequence[str]
) -> CredentialChange:
    """What is done to the passwords of an account, of which some are kept."""
    arguments = {"user": config.user, "host": host, "new": new_hash(server, found.plugins[0], config.password or "")}
    arguments.update({f"old{number}": text for number, text in enumerate(kept)})
    count = len(kept) + 1

    def is_done() -> bool:
        after = read_accounts(server, config.user).get(host)
        known = accepted(server.dialect, after, config.password or "") if after else ()
        return any(known) and len(known) == count

    changes = {"password": {"old": "***", "new": "***"}, "passwords": {"old": len(found.hashes), "new": count}}
    step = Step(name(config.user, host), tuple(statements), arguments)
    said = f"now accepts {plural(count, 'password')}, pillar's first"
    return CredentialChange(step, changes, is_done, said)
