"""The PostgreSQL that pgsql maps read, as its admin: tables and indexes, roles, their grants and their passwords.

Passwords reach the server as verifiers that are computed here: its logs never hold a password.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pwd
import secrets
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import _ispmail_account_users
import _ispmail_config_rotation
import _ispmail_connections
import _ispmail_database
import _ispmail_postgresql
import _ispmail_postgresql_idle
import _ispmail_scram
import _ispmail_sockets
import _ispmail_sql
from _ispmail_accounts import Action
from _ispmail_client import Login
from _ispmail_config_database import PGSQL, DatabaseConfig
from _ispmail_connections import Listed
from _ispmail_database import Step
from _ispmail_errors import CannotAsk, DatabaseError, PillarFault
from _ispmail_postgresql import METHOD, SCHEMA, Held, Right, Role
from _ispmail_postgresql_client import WITHOUT_PASSWORD, Client
from _ispmail_sql import Missing, Table
from _ispmail_sqlstates import LOCK_NOT_AVAILABLE, WRONG_PASSWORD

log = logging.getLogger(__name__)

# How long a statement may wait for a lock, and whose lock it is that two runs do not take at the same time.
_LOCK_SECONDS, _OUR_LOCK = 5, int.from_bytes(b"ispmail", "big")
# Each server has it, for programs that look for others.
_MAINTENANCE = "postgres"
_AGAIN = "apply ispmail.database again"
# In seconds.
_UNTIL_LISTED = 1


class Server(NamedTuple):
    """The database server, as its admin sees it."""

    client: Client
    version: str
    is_superuser: bool  # whether he may see verifiers
    has_database: bool  # whether this is the maps' database, or another one as there is none

    def ask(self, statement: str, arguments: object = None) -> list[dict[str, str | None]]:
        """As Client.ask."""
        return self.client.ask(statement)


@contextlib.contextmanager
def admin(config: DatabaseConfig, lock: bool = False) -> Iterator[Server]:
    """Log in to the maps' database as the server's admin.

    Args:
        config: What pillar says.
        lock: Hold a lock against other runs that change the server.

    Raises:
        DatabaseError: He cannot log in, or another run holds the lock.
    """
    with contextlib.ExitStack() as stack:
        try:
            client = _connected(config, config.dbname)
        except DatabaseError as err:
            if err.number != "3D000":
                raise
            client = _connected(config, _MAINTENANCE)
        stack.enter_context(contextlib.closing(client))
        stack.enter_context(_ispmail_database.understood(client.where, PGSQL))
        # Postfix's lookups would queue behind an ALTER that waits for a lock. Whoever may create in a schema of
        # search_path could have an operator of his own run by the admin, who may be a superuser: see CVE-2018-1058.
        client.ask(
            f"SET search_path = pg_catalog; SET lock_timeout = '{_LOCK_SECONDS}s'; SET client_min_messages = warning"
        )
        facts = client.ask(
            "SELECT current_setting('server_version') AS version, current_setting('is_superuser') AS super,"
            " current_database() AS name"
        )[0]
        if lock:
            _take_lock(client)
        yield Server(client, str(facts["version"]), facts["super"] == "on", facts["name"] == config.dbname)


def _client(config: DatabaseConfig, user: str, password: bytes, dbname: str) -> Client:
    """A client of the server, by the way that its admin takes."""
    login = config.login
    where = login.unix_socket or f"{login.host}:{login.port}"
    credentials = Login(user, password, login.unix_socket, login.host, login.port, dbname)
    return Client(f"the database server at {where}", credentials, system_user=_system_user(credentials))


def _connected(config: DatabaseConfig, dbname: str) -> Client:
    login = config.login
    client = _client(config, login.user, (login.password or "").encode("utf-8", "surrogateescape"), dbname)
    try:
        client.connect()
    except DatabaseError as err:
        client.close()
        if err.number == "28000" and login.unix_socket and not login.password:
            advice = (
                f"run Salt as root on the database server, whose pg_hba.conf lets the system's user {login.user} in by "
                "peer (local all postgres peer), or give server:host, server:user and server:password"
            )
            raise DatabaseError(f"{client.where}: error 28000: access is denied: {advice}", err.number) from None
        raise
    return client


def _system_user(login: Login) -> str | None:
    """As which user of this system to connect: by peer a server asks who that is, and root is nobody there."""
    if not login.unix_socket or login.password or os.geteuid():
        return None
    with contextlib.suppress(KeyError):
        return pwd.getpwnam(login.user).pw_name
    return None


def _take_lock(client: Client) -> None:
    try:
        client.ask(f"SELECT pg_advisory_lock({_OUR_LOCK})")
    except DatabaseError as err:
        if err.number != LOCK_NOT_AVAILABLE:
            raise
        text = f"{client.where}: another run is changing it: wait for its end, and try again"
        raise DatabaseError(text, err.number) from None


def read(config: DatabaseConfig) -> dict[str, Any]:
    """Read what there is on the database server, without secrets.

    Returns:
        As _ispmail_accounts.read does; ``accounts`` is by the names of roles.

    Raises:
        DatabaseError: The server cannot be asked.
    """
    with admin(config) as server:
        has_database = server.has_database
        needs = _ispmail_sql.missing(_tables(server))
        roles = _roles(server, config.accounts)
        now = int(server.ask("SELECT floor(extract(epoch FROM now()))::bigint AS now")[0]["now"] or 0)
        return {
            "server": f"PostgreSQL {_ispmail_database.shown(server.version)}",
            "login_plugins": [METHOD],
            "database": config.dbname if has_database else None,
            "tables": {table: missing.describe() for table, missing in needs.items()},
            "accounts": {
                _ispmail_database.shown(role.name): {
                    "managed": True,
                    "grants": _shown_grants(_held(server, config, role.name), config) if has_database else [],
                    "plugins": _methods(role),
                    "passwords": len(_methods(role)) if server.is_superuser else None,
                    "locked": not role.can_login,
                    "age": None,  # a PostgreSQL keeps no such time
                    "expires": _ispmail_database.expiry(role.expires, now),
                }
                for role in roles.values()
                if role.name == config.user
            },
            "pair": {
                _ispmail_database.shown(role.name): {
                    "locked": not role.can_login,
                    "connections": connections(server, role.name),
                }
                for role in roles.values()
                if role.name != config.user
            },
            "others": _others(server, config) if has_database else {},
            "refused_logins": None,
        }


def tables(config: DatabaseConfig, test: bool) -> dict[str, Any]:
    """Create the database and the guide's tables, and add what is missing to those that exist. Data are kept.

    Returns:
        As _ispmail_schema.create does.

    Raises:
        DatabaseError: The server refuses.
        InvalidInput: A table is not the guide's.
    """
    changes: dict[str, Any] = {}
    with admin(config, lock=not test) as server:
        found = _tables(server)
        needs = _ispmail_sql.missing(found)
        if not config.create_tables:
            return {"changes": {}, "warnings": _ispmail_sql.missing_parts_warnings(config.dbname, needs)}
        if not server.has_database:
            changes["database"] = {"old": None, "new": config.dbname}
            if not test:
                made = Step(f"database {config.dbname}", (*_ispmail_postgresql.create_database(config.dbname),))
                _ispmail_database.run(server, [made], _AGAIN)
        work, warnings = _work(server, config.dbname, needs, found)
        for table, step, _ in work:
            changes.setdefault(table, {"old": None, "new": []})["new"] += step.describe()
        if not test:
            steps = [
                Step(f"{table} ({', '.join(step.describe())})", ("; ".join(statements),))
                for table, step, statements in work
            ]
            if server.has_database:
                _run(server, steps)
            else:
                with admin(config, lock=True) as inside:
                    _run(inside, steps)
    return {"changes": changes, "warnings": warnings}


def _run(server: Server, steps: Sequence[Step]) -> None:
    if not steps:
        return
    server.client.wait_longer()
    began = time.monotonic()
    _ispmail_database.run(server, steps, _AGAIN)
    log.info("Done in %.1f s: %s", time.monotonic() - began, "; ".join(step.name for step in steps))


def _tables(server: Server) -> dict[str, Table]:
    if not server.has_database:
        return {}
    return _ispmail_postgresql.tables(server.ask(_ispmail_postgresql.read_tables(SCHEMA)))


def _work(
    server: Server, dbname: str, needs: Mapping[str, Missing], found: Mapping[str, Table]
) -> tuple[list[tuple[str, Missing, list[str]]], list[str]]:
    """What tables get, each with its statements; and warnings of what they cannot get."""
    work: list[tuple[str, Missing, list[str]]] = []
    warnings: list[str] = []
    for table, missing in needs.items():
        possible = missing
        if not missing.whole_table:
            possible, doubts = _possible(server, dbname, table, missing, found)
            warnings += doubts
        if possible != Missing():
            work.append((table, possible, _ispmail_postgresql.alter_statements(SCHEMA, table, possible)))
    return work, warnings


def _possible(
    server: Server, dbname: str, table: str, missing: Missing, found: Mapping[str, Table]
) -> tuple[Missing, list[str]]:
    """What a table that exists can get of what it is missing, and warnings of the rest."""
    name = f"{dbname}.{table}"
    if found[table].is_view:
        raise DatabaseError(f"{name} is a view, nothing was changed: set ispmail:server:create_tables to false")
    plain = [
        column
        for column in missing.indexes
        if _ispmail_sql.wants_unique(table, column)
        and column in found[table].columns
        and server.ask(_ispmail_postgresql.read_doubles(SCHEMA, table, column))
    ]
    warnings = [
        f"{name}.{column} has a value in several rows, so its index cannot be unique: remove the duplicates"
        for column in plain
    ]
    indexed = [index.columns[0] for index in found[table].indexes if index.columns]
    indexes = tuple(column for column in missing.indexes if column not in plain or column not in indexed)
    keys = missing.foreign_keys if "domain_id" not in missing.columns else ()
    if keys and server.ask(_ispmail_postgresql.read_orphans(SCHEMA, table, "virtual_domains" in found)):
        keys = ()
        warnings.append(
            f"{name}.domain_id cannot become a foreign key: some of its rows name a domain that does not exist, "
            "remove them"
        )
    possible = missing._replace(indexes=indexes, plain_indexes=tuple(plain), foreign_keys=keys)
    nothing = not (possible.columns or possible.indexes or possible.foreign_keys)
    return Missing() if nothing else possible, warnings


def account(config: DatabaseConfig, test: bool) -> dict[str, Any]:
    """Create the maps' role with pillar's password, and have it SELECT on the tables.

    The password of a role that exists is not changed. What it may do besides is revoked only where pillar says so.
    A new role of a pair may do what the other one may.

    Returns:
        As _ispmail_accounts.account does, by the name of the role.

    Raises:
        DatabaseError: The server refuses.
    """
    with admin(config, lock=not test) as server:
        if not server.has_database and not test:
            raise DatabaseError(f"{server.client.where}: there is no database {config.dbname}: apply ispmail.database")
        roles = _roles(server, config.accounts)
        role = roles.get(config.user)
        if role is None:
            if not test:
                other = roles.get(config.other or "")
                _run(server, [Step(f"create {config.user}", ("; ".join(_creation(server, config, other)),))])
                _grant(server, config)
            return {"changes": {config.user: _made(config)}, "warnings": []}
        change, warnings = {}, [*_login_warnings(server, role, config)]
        if not server.has_database:
            # A dry run: the database comes before that.
            change = {"grants": {"old": [], "new": _shown_grants(_ispmail_postgresql.GRANTED, config)}}
        else:
            held = _held(server, config, role.name)
            warnings += _grant_warnings(server, config, held)
            if _grant_statements(held, config):
                then = _ispmail_postgresql.GRANTED._replace(more=() if config.revoke_other_grants else held.more)
                change = {"grants": {"old": _shown_grants(held, config), "new": _shown_grants(then, config)}}
                if not test:
                    _grant(server, config)
        retired, reasons = _retire(server, config, test)
    return {
        "changes": {**({config.user: change} if change else {}), **retired},
        "warnings": [*warnings, *reasons],
    }


def _creation(server: Server, config: DatabaseConfig, other: Role | None) -> list[str]:
    """Write the statements that create pillar's role, with the settings and rights of the other one of the pair."""
    statements = _ispmail_postgresql.create_account(config.user, _verifier(server, config))
    if other is None:
        return statements
    return [
        *statements,
        *_ispmail_postgresql.copy_settings(config.user, other),
        *_ispmail_postgresql.give(_rights_of_other(server, config, other), config.user),
    ]


def _rights_of_other(server: Server, config: DatabaseConfig, other: Role) -> list[Right]:
    """What the other role of the pair has, without what `account` takes away again where pillar says so."""
    return [
        right
        for right in _rights(server, other.name)
        if not (config.revoke_other_grants and _ispmail_postgresql.is_revoked(right))
    ]


def _rights(server: Server, name: str) -> list[Right]:
    return _ispmail_postgresql.rights(server.ask(_ispmail_postgresql.read_rights(name)))


def _grant(server: Server, config: DatabaseConfig) -> None:
    """Give the maps' role what it needs, and take what it must not have."""
    statements = _grant_statements(_held(server, config, config.user), config)
    if statements:
        _run(server, [Step(f"change the grants of {config.user}", ("; ".join(statements),))])


def _grant_statements(held: Held, config: DatabaseConfig) -> list[str]:
    statements = _ispmail_postgresql.grant(held, config.dbname, SCHEMA, config.user)
    return statements + (_ispmail_postgresql.revoke(held, config.user) if config.revoke_other_grants else [])


def _made(config: DatabaseConfig) -> dict[str, Any]:
    return {
        "account": {"old": None, "new": "made"},
        "password": {"old": None, "new": "***"},
        "expires": {"old": None, "new": "never"},
        "grants": {"old": [], "new": _shown_grants(_ispmail_postgresql.GRANTED, config)},
    }


def credential(config: DatabaseConfig, action: Action, test: bool) -> dict[str, Any]:
    """Change which logins the server accepts, by two accounts: a role of PostgreSQL has one password.

    Args:
        config: What pillar says; its user and password are the new ones.
        action: ``accept`` them beside those in use, so that nobody who uses an old one notices; or have them as the
            ``sole`` ones, which the server has to accept already.
        test: Only tell what would be done.

    Returns:
        As _ispmail_accounts.credential does.

    Raises:
        PillarFault: Pillar's user is none of two.
        DatabaseError: The change would lock somebody out; nothing is changed then.
    """
    if not config.other:
        raise PillarFault(config.pillar_key, _ispmail_config_rotation.no_pair(config.user))
    with admin(config, lock=not test) as server:
        if not server.has_database:
            raise DatabaseError(f"{server.client.where}: there is no database {config.dbname}: apply ispmail.database")
        roles = _roles(server, config.accounts)
        own, other = roles.get(config.user), roles.get(config.other)
        if action == "accept":
            name, change, statements = _accept(server, config, own, other)
        else:
            name, change, statements = _sole(server, config, own, other)
        if statements and not test:
            again = f"run credential_{'accepted' if action == 'accept' else 'sole'} again"
            began = time.monotonic()
            # All statements are one transaction: whoever can log in has all rights.
            _ispmail_database.run(server, [Step(name, ("; ".join(statements),))], again)
            _check(server, config, action, again)
            log.info(
                "%s %s, after %.1f s", name, "is open" if action == "accept" else "is locked", time.monotonic() - began
            )
        changes, warnings = {name: change} if statements else {}, []
        if action == "sole":
            warnings = _ispmail_account_users.still_connected(config.other, connections(server, config.other))
            retired, reasons = _retire(server, config, test, locking=bool(statements))
            for title, more in retired.items():
                changes.setdefault(title, {}).update(more)
            warnings += reasons
    return {"changes": changes, "warnings": warnings}


def _retire(
    server: Server, config: DatabaseConfig, test: bool, locking: bool = False
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Drop the other role of the pair once it has been locked for as long as ``rotation:keep`` says.

    As _ispmail_idle_account.retire, by names of roles.
    """
    roles = _roles(server, config.accounts) if config.keep is not None and server.has_database else {}
    own, other = roles.get(config.user), roles.get(config.other or "")
    if config.keep is None or own is None or other is None or (other.can_login and not locking):
        return {}, []
    now = int(server.ask("SELECT floor(extract(epoch FROM now()))::bigint AS now")[0]["now"] or 0)
    since = now if locking else _ispmail_postgresql_idle.locked_since(other, now)
    if since is not None and now - since < config.keep:
        return {}, []
    title = _ispmail_database.shown(other.name)
    try:
        if not _is_open(server, config, own):
            return {}, []
    except DatabaseError as err:
        # That was a login of its own.
        why = (
            f"whether {config.user} accepts pillar's password cannot be told: {err}",
            "see to that, or drop it by hand",
        )
        return {}, [_ispmail_account_users.stays(config, title, *why)]
    if since is None and config.keep:
        step = Step(f"lock {other.name}", ("; ".join(_ispmail_postgresql_idle.lock(other.name)),))
        refused = None if test else _refused(server, step)
        if refused:
            why = _ispmail_postgresql_idle.unmarked(refused, other.name)
            return {}, [_ispmail_account_users.stays(config, title, *why)]
        return {other.name: {"locked since": {"old": None, "new": "now"}}}, []
    if locking and not test:
        # Who has logged in just before the lock is not listed yet.
        time.sleep(_UNTIL_LISTED)
    reason = _ispmail_account_users.keeps_from_dropping(connections(server, other.name))
    reason = reason or _needed(server, config, other)
    if reason is None and not test:
        reason = _dropped(server, other)
    if reason:
        return {}, [_ispmail_account_users.stays(config, title, *reason)]
    return {other.name: {"account": {"old": "locked", "new": "dropped"}}}, []


def _needed(server: Server, config: DatabaseConfig, other: Role) -> tuple[str, str] | None:
    """What would fail without a role, or keeps it from being dropped: the reason and the fix."""
    rows = server.ask(_ispmail_postgresql_idle.read_obstacles(other.name))
    return _ispmail_postgresql_idle.obstacle(rows, other.name, config.dbname)


def _dropped(server: Server, other: Role) -> tuple[str, str] | None:
    """Drop a role with what it was given.

    Returns:
        The reason and the fix where the server refuses.
    """
    statements = _ispmail_postgresql_idle.drop(other.name, _rights(server, other.name))
    refused = _refused(server, Step(f"drop {other.name}", ("; ".join(statements),)))
    if refused:
        return _ispmail_postgresql_idle.refused(refused, other.name)
    log.info("%s was dropped: it had been locked for longer than rotation:keep", other.name)
    return None


def _refused(server: Server, step: Step) -> str | None:
    """Change the other role. What a server refuses fails no rotation, as the role is locked: the SQLSTATE of that."""
    try:
        # All statements are one transaction: all is done, or nothing.
        _ispmail_database.run(server, [step], _AGAIN)
    except DatabaseError as err:
        if not err.number:
            raise
        return str(err.number)
    return None


def _accept(
    server: Server, config: DatabaseConfig, own: Role | None, other: Role | None
) -> tuple[str, dict[str, Any], list[str]]:
    """What has pillar's user log in by pillar's password, and do what the other one may: its name, change, statements.

    Raises:
        DatabaseError: It must not be changed, as somebody may use it.
    """
    if fault := _accept_fault(server, config, own, other) or _hidden_fault(server, config, other):
        raise DatabaseError(f"Nothing was changed: {config.user} {fault}")
    if own is None:
        return config.user, _made(config), _creation(server, config, other)
    held = _rights(server, own.name)
    more = []
    # Nothing of the idle one gets to the one in use: an admin may have taken it away there.
    if other and (other.can_login or not own.can_login):
        # One that it may pass on it has as well.
        known = {each for right in held for each in (right, right._replace(ending=""))}
        more = [right for right in _rights_of_other(server, config, other) if right not in known]
    change: dict[str, Any] = {}
    statements = _ispmail_postgresql.give(more, own.name)
    if more:
        texts = [_ispmail_database.shown(right.describe()) for right in more]
        change = {"grants": {"old": [], "new": texts}}
    if not _is_open(server, config, own):
        if other and not own.can_login:
            # Those that only this one has are of an earlier time: an old search_path would have it ask old tables.
            statements += _ispmail_postgresql.forget_settings(own, config.dbname) if other.can_login else []
            statements += _ispmail_postgresql.copy_settings(own.name, other)
        statements += _ispmail_postgresql.set_password(own.name, _verifier(server, config))
        change = {**_opened(own), **change}
    return config.user, change, statements


def _accept_fault(server: Server, config: DatabaseConfig, own: Role | None, other: Role | None) -> str | None:
    """Why pillar's user cannot be opened, as a sentence without its subject; None where it can be."""
    if own is None and other is None:
        return f"does not exist, and neither does {config.other}: run postfix_database.account first"
    if own is None or not own.can_login or _accepts_password(server, config, own):
        return None
    if other is None or not other.can_login:
        return (
            "is the account in use, and accepts another password than pillar's: with two_accounts, user and password "
            f"change together. Write user: {config.other} into pillar, beside the new password"
        )
    seen = _ispmail_account_users.describe_connections(connections(server, config.user))
    return (
        f"accepts another password than pillar's, and is not locked, so somebody may use it ({seen}): if a rotation to "
        "that password has begun, put it back into pillar and rotate; if nobody uses it, run ALTER ROLE … NOLOGIN and "
        "rotate again"
    )


def _hidden_fault(server: Server, config: DatabaseConfig, other: Role | None) -> str | None:
    """Why pillar's user would see other rows than the one in use; None where it would not.

    A lookup without rows is no error: Postfix would refuse the mail of all addresses for good.
    """
    if other is None or not other.can_login:
        return None
    names = [str(row["name"]) for row in server.ask(_ispmail_postgresql.read_hidden(config.user, other.name))]
    if not names:
        return None
    return (
        f"would not see the rows that {config.other} sees, because of the row security of "
        f"{', '.join(map(_ispmail_database.shown, names))}: name both in its policies (ALTER POLICY … TO), or give "
        "both BYPASSRLS"
    )


def _sole(
    server: Server, config: DatabaseConfig, own: Role | None, other: Role | None
) -> tuple[str, dict[str, Any], list[str]]:
    """What locks the other account: its name, change and statements.

    Raises:
        DatabaseError: Pillar's user does not accept pillar's password yet.
    """
    if own is None or not _is_open(server, config, own):
        raise DatabaseError(
            f"Nothing was changed: {config.user} does not accept pillar's password yet, clients would be locked out: "
            "run credential_accepted first"
        )
    if other is None or not other.can_login:
        return config.user, {}, []
    lock = _ispmail_postgresql_idle.lock if config.keep else _ispmail_postgresql.lock
    return other.name, {"locked": {"old": False, "new": True}}, lock(other.name)


def _opened(own: Role) -> dict[str, Any]:
    """What changes where a role gets a password; one that is not locked has it already, but for some time only."""
    if not own.can_login:
        return {"password": {"old": "***", "new": "***"}, "locked": {"old": True, "new": False}}
    return {"expires": {"old": _ispmail_database.date(own.expires or 0), "new": "never"}}


def _is_open(server: Server, config: DatabaseConfig, role: Role) -> bool:
    """Whether a role accepts pillar's password, for ever: mail would stop on the day on which it expires."""
    return role.can_login and role.expires is None and _accepts_password(server, config, role)


def _accepts_password(server: Server, config: DatabaseConfig, role: Role) -> bool:
    """Whether a role that may log in has pillar's password."""
    password = (config.password or "").encode("utf-8", "surrogateescape")
    if server.is_superuser:
        return role.verifier is not None and _ispmail_scram.belongs(role.verifier, password, role.name)
    # Nobody else may see verifiers, so it is tried.
    try:
        with contextlib.closing(_client(config, role.name, password, config.dbname)) as client:
            client.connect()
    except DatabaseError as err:
        if err.number != WRONG_PASSWORD:
            raise
        return False
    if client.plugin == WITHOUT_PASSWORD:
        raise DatabaseError(
            f"{client.where}: it lets {role.name} in without asking for a password, so whether that is pillar's cannot "
            "be tried: have pg_hba.conf ask for it by scram-sha-256, or give server:user a superuser"
        )
    return True


def _check(server: Server, config: DatabaseConfig, action: Action, again: str) -> None:
    """See that the server has done what it was asked for."""
    roles = _roles(server, config.accounts)
    own, other = roles.get(config.user), roles.get(config.other or "")
    is_done = own is not None and _is_open(server, config, own)
    if action == "sole":
        is_done = is_done and (other is None or not other.can_login)
    if not is_done:
        raise DatabaseError(f"{config.user} is not as it was set: {again}")


def _verifier(server: Server, config: DatabaseConfig) -> str:
    """What the server will keep of pillar's password, with a new salt."""
    password = (config.password or "").encode("utf-8", "surrogateescape")
    rounds = server.ask("SELECT current_setting('scram_iterations', true) AS rounds")[0]["rounds"]
    # Our own client takes no fewer, and no more. Servers before 16 have no such setting.
    iterations = min(max(int(rounds or 0), _ispmail_scram.ITERATIONS), _ispmail_scram.MOST_ITERATIONS)
    return _ispmail_scram.verifier(password, secrets.token_bytes(_ispmail_scram.SALT_BYTES), iterations)


def _roles(server: Server, names: Sequence[str]) -> dict[str, Role]:
    rows = server.ask(_ispmail_postgresql.read_roles(names, server.is_superuser))
    return {role.name: role for role in map(_ispmail_postgresql.role, rows)}


def _held(server: Server, config: DatabaseConfig, name: str) -> Held:
    return _ispmail_postgresql.held(server.ask(_ispmail_postgresql.read_held(config.dbname, SCHEMA, name))[0])


def _shown_grants(held: Held, config: DatabaseConfig) -> list[str]:
    return [_ispmail_database.shown(text) for text in _ispmail_postgresql.describe(held, config.dbname, SCHEMA)]


def _methods(role: Role) -> list[str]:
    """By which way a role logs in, for the list of login plugins."""
    if role.verifier is None:
        return []
    return [_ispmail_scram.method(role.verifier) or "an unknown method"]


def _login_warnings(server: Server, role: Role, config: DatabaseConfig) -> Iterator[str]:
    """What may keep the maps from logging in, or lets them do too much, and is not changed here."""
    name = _ispmail_database.shown(role.name)
    if role.is_superuser:
        yield f"{name} is a superuser, who may do anything: give the maps a role of their own"
    if not role.can_login and config.pair:
        yield f"{name} is locked, as the idle account of the pair is: see credential_accepted"
    elif not role.can_login:
        yield f"{name} may not log in: run ALTER ROLE … LOGIN"
    if role.expires is not None and (role.can_login or not config.pair):
        yield f"the password of {name} expires: ALTER ROLE … VALID UNTIL 'infinity', see postfix_doctor.report"
    password = (config.password or "").encode("utf-8", "surrogateescape")
    if not server.is_superuser:
        yield f"whether {name} has pillar's password was not looked at: only a superuser may see that"
    elif role.verifier is None:
        yield f"{name} has no password: see credential_accepted"
    elif not _ispmail_scram.belongs(role.verifier, password, role.name):
        yield f"{name} does not accept pillar's password: see credential_accepted"
    elif _ispmail_scram.method(role.verifier) == "md5":
        yield f"{name} has its password by md5, which proves no server and can be stolen: set it again by {METHOD}"


def _grant_warnings(server: Server, config: DatabaseConfig, held: Held) -> Iterator[str]:
    """Rights that another program may need: it fails without them, and nobody knows of it here."""
    name = _ispmail_database.shown(config.user)
    if held.owned:
        owned = ", ".join(map(_ispmail_database.shown, held.owned))
        yield f"{name} owns {owned}, and may do anything with that: give it to another role (ALTER TABLE … OWNER TO)"
    if not held.more:
        return
    what = "; ".join(map(_ispmail_database.shown, held.more))
    yield _ispmail_account_users.other_rights(config, name, what, connections(server, config.user))


def listed(config: DatabaseConfig, users: Sequence[Collection[str]]) -> list[Listed]:
    """Ask who is connected as users, see `_ispmail_servers.listed`."""
    login = config.login
    with admin(config) as server:
        if not sees_all(server):
            raise CannotAsk(
                "the admin of the database does not see who is connected: run GRANT pg_read_all_stats TO its role"
            )
        found = []
        for some in users:
            rows, facts = map(server.ask, _ispmail_postgresql.activity_statements([*some]))
            addresses = _ispmail_sockets.addresses(login.host)
            found.append(_ispmail_connections.read_activity(rows, facts, login.unix_socket, addresses))
    return found


def connections(server: Server, user: str) -> dict[str, int] | None:
    """Count who is connected as a user now.

    Returns:
        Client host to how many connections it has. None where the admin may not see them.
    """
    if not sees_all(server):
        return None
    rows = server.ask(_ispmail_postgresql.activity_statements([user])[0])
    return dict(Counter(_ispmail_database.shown(host) for host, _ in _ispmail_postgresql.activity(rows)))


def sees_all(server: Server) -> bool:
    """Tell whether the admin sees the connections of all roles: else he sees his own only."""
    statement = "SELECT pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') AS may"
    return server.is_superuser or server.ask(statement)[0]["may"] == "t"


def _others(server: Server, config: DatabaseConfig) -> dict[str, Any]:
    """Other roles that may read all that the maps' role reads, such as one that was replaced."""
    names = [str(row["name"]) for row in server.ask(_ispmail_postgresql.read_others(SCHEMA))]
    known = (*config.accounts, config.login.user, *config.known_accounts)
    return {
        _ispmail_database.shown(name): {
            "drop": _ispmail_database.shown(
                f"DROP OWNED BY {_ispmail_postgresql.quote(name)}; DROP ROLE {_ispmail_postgresql.quote(name)}"
            ),
            "connections": connections(server, name),
        }
        for name in names
        if name not in known
    }
