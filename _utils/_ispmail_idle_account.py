"""The other account of a pair on a MariaDB or MySQL: since when it is locked, and its end after ``rotation:keep``.

No server keeps when an account was locked, but all keep when its password was set. So where its end is due one day, the
statement that locks it also sets the passwords that it has, with a lifetime that nobody else gives them. An account
that was locked in another way does not have that, and is locked again so: its time begins then.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import _ispmail_account_users
import _ispmail_database
import _ispmail_session
from _ispmail_config_database import DatabaseConfig
from _ispmail_credential import Retired, try_to_retire
from _ispmail_database import Server, Step
from _ispmail_errors import DatabaseError
from _ispmail_server_accounts import is_open, name, other_plugins, read_accounts
from _ispmail_sql import LOCKED_LIFETIME, Account

log = logging.getLogger(__name__)

# Without one of these the admin does not see all that has an account as its DEFINER.
_TO_SEE_DEFINERS = ("SELECT", "TRIGGER", "EVENT")
# A server looks for the account of a DEFINER as for that of a client: u@10.0.0.% stands for one of u@10.0.0.7 too.
_DEFINED = """
SELECT kind, place, name, definer FROM (
  SELECT 'view' AS kind, TABLE_SCHEMA AS place, TABLE_NAME AS name, DEFINER AS definer FROM information_schema.VIEWS
  UNION ALL SELECT 'routine', ROUTINE_SCHEMA, ROUTINE_NAME, DEFINER FROM information_schema.ROUTINES
  UNION ALL SELECT 'trigger', TRIGGER_SCHEMA, TRIGGER_NAME, DEFINER FROM information_schema.TRIGGERS
  UNION ALL SELECT 'event', EVENT_SCHEMA, EVENT_NAME, DEFINER FROM information_schema.EVENTS
) AS defined WHERE LEFT(definer, CHAR_LENGTH(%s)) = %s
"""
# How many nodes the server's Galera cluster has; 0 or no row where it is in none.
_NODES = "SHOW GLOBAL STATUS LIKE 'wsrep_cluster_size'"
# The lock of an account does not keep them from it, and the list of connections has them by their own names.
_PROXIES = (
    "SELECT CONCAT(User, '@', Host) AS name FROM mysql.proxies_priv WHERE Proxied_user = %s AND Proxied_host = %s"
)


def lock(server: Server, config: DatabaseConfig, host: str, other: Account) -> Step:
    """Write what locks the other account of the pair and, if it is to be dropped one day, sets its password again.

    Args:
        host: The host of the account.
        other: The account.
    """
    user = config.pair[1]
    title, arguments = name(user, host), {"user": user, "host": host}
    if not config.keep or not _can_be_set_again(server, other):
        return Step(title, tuple(server.dialect.lock()), arguments)
    first, *more = other.hashes
    arguments |= {"new": first, **{f"old{number}": text for number, text in enumerate(more)}}
    return Step(title, tuple(server.dialect.lock_anew(other.plugins[0], len(more))), arguments)


def retire(server: Server, config: DatabaseConfig, test: bool, locking: Collection[str] = ()) -> Retired:
    """Drop the other account of the pair once it has been locked for as long as ``rotation:keep`` says.

    It stays where pillar's user is not open, where somebody is connected by it or would miss it, where nobody can tell,
    and where the server refuses: a warning has the reason.

    Args:
        server: Where.
        config: What pillar says.
        test: Only tell what would be done.
        locking: The names of accounts that this run locks.

    Raises:
        DatabaseError: The connection was lost, or an account is not as it was set.
    """
    if config.keep is None or not config.other:
        return Retired({}, [])
    found, others = (read_accounts(server, user) for user in config.pair)
    idle = {
        host: account
        for host, account in others.items()
        if host in config.managed_hosts([*others, *found])
        and (account.locked or name(config.other, host) in locking)
        and is_open(server, config, found.get(host))
    }
    due, unmarked, warnings = _sort(server, config, config.keep, idle, locking)
    still_open = [host for host, each in others.items() if not (each.locked or name(config.other, host) in locking)]
    kept = list(_kept_from_dropping(server, config, due, others, still_open))
    warnings += [text for _, text in kept]
    due = [host for host in due if host not in [each for each, _ in kept]]
    if not test:
        refused = {**_mark(server, config, {host: idle[host] for host in unmarked}), **_drop(server, config, due)}
        warnings += refused.values()
        due, unmarked = ([host for host in hosts if host not in refused] for hosts in (due, unmarked))
    changes: dict[str, dict[str, Any]] = {
        name(config.other, host): {"locked since": {"old": None, "new": "now"}} for host in unmarked
    }
    for host in due:
        changes[name(config.other, host)] = {"account": {"old": "locked", "new": "dropped"}}
    return Retired(changes, warnings)


def _can_be_set_again(server: Server, account: Account) -> bool:
    return bool(account.hashes) and not other_plugins(server.dialect, account)


def _sort(
    server: Server, config: DatabaseConfig, keep: int, idle: Mapping[str, Account], locking: Collection[str]
) -> tuple[list[str], list[str], list[str]]:
    """Hosts of locked accounts: those whose time is over, and those whose time begins now; and warnings of the rest."""
    if keep == 0 or not idle:
        return [*idle], [], []
    due, unmarked, warnings = [], [], []
    now = int(server.ask("SELECT UNIX_TIMESTAMP() AS now")[0]["now"])
    for host, account in idle.items():
        title = name(config.pair[1], host)
        if title in locking:
            continue
        if account.changed and account.lifetime == LOCKED_LIFETIME:
            if now - account.changed >= keep:
                due.append(host)
        elif _can_be_set_again(server, account):
            unmarked.append(host)
        else:
            why = "since when it is locked cannot be kept, as its passwords cannot be set again here"
            cure = "run DROP USER by hand, once nobody needs it"
            warnings.append(_ispmail_account_users.stays(config, title, why, cure))
    return due, unmarked, warnings


def _kept_from_dropping(
    server: Server, config: DatabaseConfig, due: Sequence[str], hosts: Collection[str], still_open: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """Hosts of accounts that must not be dropped, each with its warning.

    Args:
        server: Where.
        config: What pillar says.
        due: The hosts of those whose time is over.
        hosts: Those of all accounts of the user.
        still_open: Those of them that are not locked.
    """
    if not due:
        return
    user = config.pair[1]
    for_all = _unseen(server, config) or _ispmail_account_users.keeps_from_dropping(
        _ispmail_account_users.connections(server, user)
    )
    for_all = for_all or _hides(user, still_open)
    for host in due:
        found = for_all or _needed(server, user, host, hosts)
        if found:
            yield host, _ispmail_account_users.stays(config, name(user, host), *found)


def _unseen(server: Server, config: DatabaseConfig) -> tuple[str, str] | None:
    """Who may be connected elsewhere: a node lists its own connections only. Time that was given is enough for them."""
    nodes = sum(int(row["Value"]) for row in server.ask(_NODES)) if config.keep == 0 else 0
    if nodes < 2:
        return None
    why = f"the server is one of {nodes} nodes of a Galera cluster, and connections to the others are not seen"
    return why, f"give these time to end ({config.pillar_key}:rotation:keep: 1d)"


def _hides(user: str, still_open: Sequence[str]) -> tuple[str, str] | None:
    """Whom a server would let in without a locked account: a client gets the first account of its user that matches."""
    if not still_open:
        return None
    names = ", ".join(name(user, host) for host in still_open)
    why = f"{names} is not locked, and may stand for the same clients"
    return why, "drop or lock that one, or add its host to server:accounts_host"


def _needed(server: Server, user: str, host: str, hosts: Collection[str]) -> tuple[str, str] | None:
    """What would fail without an account, although nobody is connected by it: the reason and the fix.

    Args:
        server: Where.
        user: Of the account.
        host: Of the account.
        hosts: Of all accounts of the user.
    """
    if lacking := _ispmail_database.missing_privileges(server, _TO_SEE_DEFINERS):
        return (
            "what has it as its DEFINER cannot be seen",
            f"give the admin {', '.join(lacking)} on *.*, or look by hand and run DROP USER by hand",
        )
    if revoked := _ispmail_database.partly_revoked(server, _TO_SEE_DEFINERS):
        return (
            "what has it as its DEFINER cannot be seen in all databases",
            f"{', '.join(revoked)} was revoked from the admin in some (SHOW GRANTS): give it back, or look by hand and "
            "run DROP USER by hand",
        )
    elsewhere = [f"{user}@{each}" for each in hosts if each != host]
    # It opens the files of all tables of the server.
    server.client.wait_longer()
    rows = [row for row in server.ask(_DEFINED, [f"{user}@"] * 2) if row["definer"] not in elsewhere]
    if rows:
        names = ", ".join(_ispmail_session.shown(f"{row['kind']} {row['place']}.{row['name']}") for row in rows)
        return f"it is the DEFINER of {names}", "give them another one, as they would fail without it"
    proxies = server.ask(_PROXIES, [user, host])
    if proxies:
        names = ", ".join(_ispmail_session.shown(row["name"]) for row in proxies)
        return f"{names} may act as it", "run REVOKE PROXY ON … FROM … once that is not needed, as it fails without it"
    edges = server.ask(server.dialect.memberships)
    members = [f"{row['user']}@{row['host']}" for row in edges if (row["role"], row["role_host"]) == (user, host)]
    if members:
        names = ", ".join(map(_ispmail_session.shown, members))
        return f"{names} has it as a role", "give what is needed of it to a role of its own, and revoke this one"
    return None


def _mark(server: Server, config: DatabaseConfig, accounts: Mapping[str, Account]) -> dict[str, str]:
    """Lock accounts again, by their hosts, so that the server keeps when that was: hosts to warnings of the rest."""
    steps = {host: lock(server, config, host, account) for host, account in accounts.items()}
    why = "the server refused to keep since when it is locked"
    return _run_each(server, config, steps, why, "use an admin who may run ALTER USER for it, or drop it by hand")


def _drop(server: Server, config: DatabaseConfig, hosts: Sequence[str]) -> dict[str, str]:
    """Drop accounts: hosts to warnings of those that the server refuses to drop."""
    user = config.pair[1]
    steps = {
        host: Step(f"drop {name(user, host)}", ("DROP USER %(user)s@%(host)s",), {"user": user, "host": host})
        for host in hosts
    }
    why = "the server refused to drop it"
    refused = _run_each(server, config, steps, why, "run DROP USER by hand to see the reason")
    for host in steps.keys() - refused.keys():
        log.info("%s was dropped: it had been locked for longer than rotation:keep", name(user, host))
    if left := [host for host in hosts if host not in refused and host in read_accounts(server, user)]:
        names = ", ".join(name(user, host) for host in left)
        raise DatabaseError(f"{names} is not as it was set: run credential_sole again")
    return refused


def _run_each(server: Server, config: DatabaseConfig, steps: Mapping[str, Step], why: str, cure: str) -> dict[str, str]:
    """Run steps, by hosts: hosts to warnings of those that the server refuses."""
    user = config.pair[1]
    tried = {host: try_to_retire(server, config, name(user, host), step, why, cure) for host, step in steps.items()}
    return {host: warning for host, warning in tried.items() if warning}
