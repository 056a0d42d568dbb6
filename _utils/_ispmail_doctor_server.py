"""The doctor's checks of the database servers, as their admin."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import _ispmail_account_users
import _ispmail_hosts
import _ispmail_postfix
import _ispmail_sockets
from _ispmail_config_database import MYSQL, PGSQL, DatabaseConfig
from _ispmail_doctor_postfix import Target
from _ispmail_errors import IspmailError
from _ispmail_report import Finding, fault_if, warning_if
from _ispmail_table_users import Users

_DAY = 86400
# Two weeks, in seconds.
_SOON = 14 * _DAY
_PLUGIN_CHECK = "a rotation can change the account's passwords"
_SET_UP = "the database is as ispmail.database sets it up"


class _Advice(NamedTuple):
    """What to do about an account, as its kind of server has it."""

    unlock: str
    never: str  # have its password never expire
    login: str  # why another way to log in is no good; {0}: how it logs in, {1}: how it should
    unseen: str  # why it is not known which passwords it has


_ADVICE = {
    MYSQL: _Advice(
        "ALTER USER … ACCOUNT UNLOCK",
        "ALTER USER … PASSWORD EXPIRE NEVER",
        "it logs in by {0}, which a rotation cannot handle: use {1} alone",
        "",
    ),
    PGSQL: _Advice(
        "ALTER ROLE … LOGIN",
        "ALTER ROLE … VALID UNTIL 'infinity'",
        "its password is kept by {0}, which proves no server, and can be stolen: set it anew, by {1}",
        "it was not looked at: only a superuser may see it",
    ),
}


class Live(NamedTuple):
    """What the tables of these instances say of one kind of server."""

    hosts: Sequence[str]  # those that the live table files name
    users: Users  # those as whom the tables log in


def asked(targets: Sequence[Target], live: Mapping[str, Live], addresses: Sequence[str]) -> list[Target]:
    """Pick the instances whose database server its admin can be asked here, once for those that share it.

    Args:
        targets: The instances.
        live: Table type to what the tables of that type say.
        addresses: The IPv4 addresses of this machine.
    """
    found: dict[DatabaseConfig, Target] = {}
    for target in targets:
        config = target.database
        if target.own_server and _may_be_asked(target, live[config.type].hosts, addresses):
            found.setdefault(config._replace(pillar_key="", password=None, create_tables=False), target)
    return [*found.values()]


def check(targets: Sequence[Target], live: Mapping[str, Live]) -> Iterator[Finding]:
    """Yield what only the admin of a database server can find out.

    Args:
        targets: The instances, as `asked` has picked them.
        live: Table type to what the tables of that type say.
    """
    for target in targets:
        yield from _check_server(target, live[target.database.type].users)


def is_local(host: str, addresses: Collection[str], table_type: str = MYSQL) -> bool:
    """Whether a host of a table file is this machine, by an address of it or by a name."""
    parsed = _ispmail_hosts.parse_host(host, table_type)
    return parsed.socket is not None or parsed.name in addresses or _ispmail_sockets.is_here(parsed.name)


def _may_be_asked(target: Target, hosts: Sequence[str], addresses: Collection[str]) -> bool:
    """Whether pillar names the server by host, or the maps' database is on this machine.

    A server on this machine may also be another one, such as webmail's. So where table files or consumers log in to the
    maps' database, their hosts decide. Else pillar does, by the socket that it names, or by its hosts. Where there is
    no Postfix that could ask those, it is the database's own server that has the pillar.

    Args:
        hosts: Those of the live table files.
    """
    config = target.database
    if config.login.host is not None:
        return True
    if not target.names_socket and not os.path.exists(config.login.unix_socket or ""):
        return False
    known = hosts or (target.hosts if target.has_consumers else ())
    if not known:
        if target.names_socket:
            return True
        types = {each.type for each in target.instance.wanted}
        if types and config.type not in types:
            return False
        if not _ispmail_postfix.is_there(target.instance.config_directory):
            return True
        known = target.hosts
    return any(is_local(host, addresses, config.type) for host in known)


def _check_server(target: Target, users: Users) -> Iterator[Finding]:
    where = f"{target.prefix}the database server"
    try:
        found = target.admin_view()
    except IspmailError as err:
        yield warning_if(f"its admin could not ask it: {err}", _SET_UP, where)
        return
    yield from _set_up(target.database.create_tables, found["tables"], where)
    for name, account in found["accounts"].items():
        if account["managed"]:
            title = f"{target.prefix}{name}"
            yield from check_account(title, account, found["login_plugins"], target.database.type)
            if target.database.max_age is not None:
                yield age(title, password_age(account, target.password_set), target.database.max_age)
    yield from _no_unmanaged_accounts(found["accounts"], where)
    yield from _accounts_exist(target, found["accounts"])
    yield from _idle_account_locked(target.prefix, found["pair"])
    yield from _left_behind(found["others"], users, where)


def _set_up(create_tables: bool, tables: Mapping[str, Sequence[str]], where: str) -> Iterator[Finding]:
    """With create_tables: false, a missing guide table is not an error: the site uses its own schema."""
    missing = [
        f"{table} is missing" if list(parts) == ["table"] else f"{table} is missing {', '.join(parts)}"
        for table, parts in tables.items()
        if create_tables or list(parts) != ["table"]
    ]
    yield warning_if(f"{'; '.join(missing)}: apply ispmail.database" if missing else "", _SET_UP, where)


def check_account(
    name: str, account: Mapping[str, Any], login_plugins: Sequence[str], table_type: str = MYSQL
) -> Iterator[Finding]:
    """Yield what the admin sees of one managed account, whose passwords can be rotated with some login plugins."""
    advice = _ADVICE[table_type]
    others = [plugin for plugin in account["plugins"] if plugin not in login_plugins]
    plugin = advice.login.format(", ".join(others), login_plugins[0])
    yield fault_if(plugin if others else "", _PLUGIN_CHECK, name)
    locked = f"the account is locked: run {advice.unlock}"
    yield fault_if(locked if account["locked"] else "", "the account is not locked", name)
    yield expiry(name, account["expires"], table_type)
    passwords = account["passwords"]
    fix = advice.unseen if passwords is None else _other_passwords(passwords, login_plugins[0])
    yield warning_if(fix, "the account accepts one password", name)


def expiry(name: str, expires: Mapping[str, Any] | None, table_type: str = MYSQL) -> Finding:
    """Tell whether a password expires. All lookups fail from that second on, so it is a fault some days before."""
    check = "the account's password does not expire"
    if expires is None:
        return fault_if("", check, name)
    cure = f"rotate the password, and run {_ADVICE[table_type].never} on the database server"
    if expires["seconds"] <= 0:
        return fault_if(f"it has expired, every lookup fails: {cure}", check, name)
    fix = f"it expires on {expires['date']}, and every lookup fails from then on: {cure}"
    return fault_if(fix, check, name) if expires["seconds"] < _SOON else warning_if(fix, check, name)


def password_age(account: Mapping[str, Any], password_set: float | None) -> float | None:
    """How many seconds old the password of an account is; None where nobody knows.

    Args:
        account: As the admin sees it.
        password_set: How many seconds ago this minion gave the account its password, for a server that does not know.
            Where somebody else has changed it since, it is younger.
    """
    found: float | None = account["age"]
    return password_set if found is None else found


def age(name: str, seconds: float | None, limit: int) -> Finding:
    """Tell whether a password is older than pillar allows. Where nobody knows, that is a warning."""
    check = "the account's password is not too old"
    if seconds is None:
        unknown = "how old it is cannot be told: the server does not keep that, and this minion has not set it yet"
        return warning_if(f"{unknown}: known from the next rotation on", check, name)
    old, allowed = (f"{round(each / _DAY, 2):g} days" for each in (seconds, limit))
    fix = (
        f"it is {old} old, and rotation:max_age is {allowed}: run salt-run ispmail.new_password SITE on the master, "
        "or put a new one into pillar and rotate"
    )
    return fault_if(fix if seconds > limit else "", check, name)


def _other_passwords(number: int, plugin: str) -> str:
    if number == 1:
        return ""
    if number == 0:
        return f"it accepts none: give it a password by {plugin}"
    return f"it accepts {number}: a rotation is under way, or was interrupted and has to be started again"


def _no_unmanaged_accounts(accounts: Mapping[str, Mapping[str, Any]], where: str) -> Iterator[Finding]:
    unmanaged = ", ".join(name for name, account in accounts.items() if not account["managed"])
    fix = ""
    if unmanaged:
        fix = f"a rotation does not change {unmanaged}: drop it, or add its host to server:accounts_host"
    yield warning_if(fix, "all accounts of the user are managed", where)


def _accounts_exist(target: Target, accounts: Mapping[str, object]) -> Iterator[Finding]:
    """Compared by host: the user's name may be in sdb, where it is not looked up here."""
    if target.database.type == PGSQL:
        fix = "" if accounts else "there is no such role: apply ispmail.database"
        yield fault_if(fix, "the account exists", f"{target.prefix}{target.database.user}")
        return
    existing = {name.rpartition("@")[2] for name in accounts}
    for host in target.database.managed_hosts(existing):
        if host not in existing:
            name = f"{target.prefix}{target.database.user}@{host}"
            yield fault_if("there is no such account: apply ispmail.database", "the account exists", name)


def _idle_account_locked(prefix: str, pair: Mapping[str, Mapping[str, Any]]) -> Iterator[Finding]:
    """The other account of a pair is locked except in a rotation."""
    for name, account in pair.items():
        fix = ""
        if not account["locked"]:
            seen = _ispmail_account_users.describe_connections(account["connections"])
            fix = f"it is not ({seen}): a rotation is under way, or was interrupted and has to be started again"
        yield warning_if(fix, "the idle account of the pair is locked", f"{prefix}{name}")


def _left_behind(others: Mapping[str, Mapping[str, Any]], users: Users, where: str) -> Iterator[Finding]:
    """An account that was replaced by another one keeps its password and its rights until somebody drops it."""
    left = []
    for name, other in others.items():
        # A role of PostgreSQL has no host.
        if (name.rpartition("@")[0] or name) not in users.names:
            seen = _ispmail_account_users.describe_connections(other["connections"])
            what = f"{name} may read the maps' tables ({seen})"
            left.append(what if users.unknown else f"{what}: {other['drop']}")
    advice = "If a program needs one, add its user to server:known_accounts"
    if users.unknown:
        reasons = "; ".join(users.unknown)
        advice = f"Drop none yet: Postfix may log in by one of them ({reasons}). Settle that first. {advice}"
    fix = f"{'; '.join(left)}. {advice}" if left else ""
    yield warning_if(fix, "no table file's old account is left behind", where)
