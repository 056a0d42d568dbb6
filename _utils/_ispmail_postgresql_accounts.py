"""The maps' roles on a PostgreSQL: what there is, their grants, and the logins that it accepts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import _ispmail_account_users
import _ispmail_config_rotation
import _ispmail_database
import _ispmail_postgresql
import _ispmail_postgresql_idle
import _ispmail_postgresql_roles
import _ispmail_postgresql_schema
import _ispmail_scram
import _ispmail_session
import _ispmail_sql
from _ispmail_config_database import DatabaseConfig
from _ispmail_credential import Action, CredentialChange, Plan, Retired, Standing, accept_fault, carry_out
from _ispmail_database import Step
from _ispmail_errors import DatabaseError, PillarFault
from _ispmail_postgresql import METHOD, SCHEMA, Held, Right, Role
from _ispmail_postgresql_admin import Server, admin, connections
from _ispmail_postgresql_text import quote


def read(config: DatabaseConfig) -> dict[str, Any]:
    """Read what there is on the database server, without secrets.

    Returns:
        As _ispmail_accounts.read does; ``accounts`` is by the names of roles.

    Raises:
        DatabaseError: The server cannot be asked.
    """
    with admin(config) as server:
        has_database = server.has_database
        needs = _ispmail_sql.missing(_ispmail_postgresql_schema.read_tables(server))
        roles = _ispmail_postgresql_roles.read_roles(server, config.accounts)
        now = int(server.ask("SELECT floor(extract(epoch FROM now()))::bigint AS now")[0]["now"] or 0)
        return {
            "server": f"PostgreSQL {_ispmail_session.shown(server.version)}",
            "login_plugins": [METHOD],
            "database": config.dbname if has_database else None,
            "tables": {table: missing.describe() for table, missing in needs.items()},
            "accounts": {
                _ispmail_session.shown(role.name): {
                    "managed": True,
                    "grants": _shown_grants(_ispmail_postgresql_roles.held(server, config, role.name), config)
                    if has_database
                    else [],
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
                _ispmail_session.shown(role.name): {
                    "locked": not role.can_login,
                    "connections": connections(server, role.name),
                }
                for role in roles.values()
                if role.name != config.user
            },
            "others": _others(server, config) if has_database else {},
            "refused_logins": None,
        }


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
        roles = _ispmail_postgresql_roles.read_roles(server, config.accounts)
        role = roles.get(config.user)
        if role is None:
            if not test:
                other = roles.get(config.other or "")
                _ispmail_postgresql_schema.run(
                    server, [Step(f"create {config.user}", ("; ".join(_creation(server, config, other)),))]
                )
                _grant(server, config)
            return {"changes": {config.user: _made(config)}, "warnings": []}
        change, warnings = {}, [*_login_warnings(server, role, config)]
        if not server.has_database:
            # A dry run: the database comes before that.
            change = {"grants": {"old": [], "new": _shown_grants(_ispmail_postgresql.GRANTED, config)}}
        else:
            held = _ispmail_postgresql_roles.held(server, config, role.name)
            warnings += _grant_warnings(server, config, held)
            if _grant_statements(held, config):
                then = _ispmail_postgresql.GRANTED._replace(more=() if config.revoke_other_grants else held.more)
                change = {"grants": {"old": _shown_grants(held, config), "new": _shown_grants(then, config)}}
                if not test:
                    _grant(server, config)
        retired = _ispmail_postgresql_idle.retire(server, config, test)
    return {
        "changes": {**({config.user: change} if change else {}), **retired.changes},
        "warnings": [*warnings, *retired.warnings],
    }


def _creation(server: Server, config: DatabaseConfig, other: Role | None) -> list[str]:
    """Write the statements that create pillar's role, with the settings and rights of the other one of the pair."""
    statements = _ispmail_postgresql.create_account(config.user, _ispmail_postgresql_roles.verifier(server, config))
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
        for right in _ispmail_postgresql_roles.rights(server, other.name)
        if not (config.revoke_other_grants and _ispmail_postgresql.is_revoked(right))
    ]


def _grant(server: Server, config: DatabaseConfig) -> None:
    """Give the maps' role what it needs, and take what it must not have."""
    statements = _grant_statements(_ispmail_postgresql_roles.held(server, config, config.user), config)
    if statements:
        _ispmail_postgresql_schema.run(server, [Step(f"change the grants of {config.user}", ("; ".join(statements),))])


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

    Arguments and what it returns are as of _ispmail_accounts.credential.

    Raises:
        PillarFault: Pillar's user is none of two.
        DatabaseError: The change would lock somebody out; nothing is changed then.
    """
    if not config.other:
        raise PillarFault(config.pillar_key, _ispmail_config_rotation.no_pair(config.user))
    with admin(config, lock=not test) as server:
        if not server.has_database:
            raise DatabaseError(f"{server.client.where}: there is no database {config.dbname}: apply ispmail.database")
        roles = _ispmail_postgresql_roles.read_roles(server, config.accounts)
        own, other = roles.get(config.user), roles.get(config.other)
        plan = (_accept if action == "accept" else _sole)(server, config, own, other)

        def retire() -> Retired:
            return _ispmail_postgresql_idle.retire(server, config, test, locking=bool(plan.work))

        return carry_out(server, plan, action, test, retire)


def _accept(server: Server, config: DatabaseConfig, own: Role | None, other: Role | None) -> Plan:
    """Plan that pillar's user may log in by pillar's password, and do what the other one may.

    Raises:
        DatabaseError: It must not be changed, as somebody may use it.
    """

    def seen() -> dict[str, int] | None:
        return connections(server, config.user)

    ours, others = map(_standing, (own, other))
    if own and ours == "open" and not _ispmail_postgresql_roles.accepts_password(server, config, own):
        ours = "open otherwise"
    fault = accept_fault(config, ours, others, seen, "ALTER ROLE … NOLOGIN") or _lock_fault(server, config, other)
    if fault := fault or _hidden_fault(server, config, other):
        raise DatabaseError(f"Nothing was changed: {config.user} {fault}")
    if own is None:
        change, statements = _made(config), _creation(server, config, other)
    else:
        change, statements = _reopened(server, config, own, other)

    def is_done() -> bool:
        after = _ispmail_postgresql_roles.read_roles(server, [config.user]).get(config.user)
        return after is not None and _ispmail_postgresql_roles.is_open(server, config, after)

    return _plan(config.user, change, statements, is_done, "is open", [])


def _plan(
    name: str,
    change: Mapping[str, Any],
    statements: Sequence[str],
    is_done: Callable[[], bool],
    said: str,
    warnings: list[str],
) -> Plan:
    """Plan one change, or none where there are no statements."""
    # All statements are one transaction: whoever can log in has all rights.
    step = Step(name, ("; ".join(statements),))
    return Plan({name: CredentialChange(step, change, is_done, said)} if statements else {}, warnings)


def _standing(found: Role | None) -> Standing:
    if found is None:
        return "missing"
    return "open" if found.can_login else "locked"


def _reopened(
    server: Server, config: DatabaseConfig, own: Role, other: Role | None
) -> tuple[dict[str, Any], list[str]]:
    """What has a role that exists log in by pillar's password: the change and its statements; none if it does so."""
    held = _ispmail_postgresql_roles.rights(server, own.name)
    more = []
    # Nothing of the idle one gets to the one in use: an admin may have taken it away there.
    if other and (other.can_login or not own.can_login):
        more = _ispmail_postgresql.missing(held, _rights_of_other(server, config, other))
    change: dict[str, Any] = {}
    statements = _ispmail_postgresql.give(more, own.name)
    if more:
        texts = [_ispmail_session.shown(right.describe()) for right in more]
        change = {"grants": {"old": [], "new": texts}}
    if not _ispmail_postgresql_roles.is_open(server, config, own):
        if other and not own.can_login:
            # Those that only this one has are of an earlier time: an old search_path would have it ask old tables.
            statements += _ispmail_postgresql.forget_settings(own, config.dbname) if other.can_login else []
            statements += _ispmail_postgresql.copy_settings(own.name, other)
        statements += _ispmail_postgresql.set_password(own.name, _ispmail_postgresql_roles.verifier(server, config))
        change = {**_opened(own), **change}
    return change, statements


def _lock_fault(server: Server, config: DatabaseConfig, other: Role | None) -> str | None:
    """Why the rotation could not be ended, although it can be begun; None where it could be."""
    if server.is_superuser or other is None or not other.can_login:
        return None
    if server.ask(_ispmail_postgresql.read_may_lock(other.name))[0]["may"] == "t":
        return None
    return (
        f"cannot take the place of {config.other}, which the admin may not lock: have a superuser run GRANT "
        f"{quote(other.name)} TO {quote(config.login.user)} WITH ADMIN OPTION"
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
        f"{', '.join(map(_ispmail_session.shown, names))}: name both in its policies (ALTER POLICY … TO), or give "
        "both BYPASSRLS"
    )


def _sole(server: Server, config: DatabaseConfig, own: Role | None, other: Role | None) -> Plan:
    """Plan that the other account is locked.

    Raises:
        DatabaseError: Pillar's user does not accept pillar's password yet.
    """
    if own is None or not _ispmail_postgresql_roles.is_open(server, config, own):
        raise DatabaseError(
            f"Nothing was changed: {config.user} does not accept pillar's password yet, clients would be locked out: "
            "run credential_accepted first"
        )
    if other is None:
        return Plan({}, [])
    name = other.name
    lock = _ispmail_postgresql_idle.lock if config.keep else _ispmail_postgresql.lock

    def is_done() -> bool:
        after = _ispmail_postgresql_roles.read_roles(server, [name]).get(name)
        return after is not None and not after.can_login

    change = {"locked": {"old": False, "new": True}}
    warnings = _ispmail_account_users.still_connected(name, connections(server, name))
    return _plan(name, change, lock(name) if other.can_login else [], is_done, "is locked", warnings)


def _opened(own: Role) -> dict[str, Any]:
    """What changes where a role gets a password; one that is not locked has it already, but for some time only."""
    if not own.can_login:
        return {"password": {"old": "***", "new": "***"}, "locked": {"old": True, "new": False}}
    return {"expires": {"old": _ispmail_database.date(own.expires or 0), "new": "never"}}


def _shown_grants(held: Held, config: DatabaseConfig) -> list[str]:
    return [_ispmail_session.shown(text) for text in _ispmail_postgresql.describe(held, config.dbname, SCHEMA)]


def _methods(role: Role) -> list[str]:
    """By which way a role logs in, for the list of login plugins."""
    if role.verifier is None:
        return []
    return [_ispmail_scram.method(role.verifier) or "an unknown method"]


def _login_warnings(server: Server, role: Role, config: DatabaseConfig) -> Iterator[str]:
    """What may keep the maps from logging in, or lets them do too much, and is not changed here."""
    name = _ispmail_session.shown(role.name)
    if role.is_superuser:
        yield f"{name} is a superuser, who may do anything: give the maps a role of their own"
    if not role.can_login and config.pair:
        yield f"{name} is locked, as the idle account of the pair is: see credential_accepted"
    elif not role.can_login:
        yield f"{name} may not log in: run ALTER ROLE … LOGIN"
    if role.expires is not None and (role.can_login or not config.pair):
        yield f"the password of {name} expires: ALTER ROLE … VALID UNTIL 'infinity', see postfix_doctor.check"
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
    name = _ispmail_session.shown(config.user)
    if held.owned:
        owned = ", ".join(map(_ispmail_session.shown, held.owned))
        yield f"{name} owns {owned}, and may do anything with that: give it to another role (ALTER TABLE … OWNER TO)"
    if not held.more:
        return
    what = "; ".join(map(_ispmail_session.shown, held.more))
    yield _ispmail_account_users.other_rights(config, name, what, connections(server, config.user))


def _others(server: Server, config: DatabaseConfig) -> dict[str, Any]:
    """Other roles that may read all that the maps' role reads, such as one that was replaced."""
    names = [str(row["name"]) for row in server.ask(_ispmail_postgresql.read_others(SCHEMA))]
    known = (*config.accounts, config.login.user, *config.known_accounts)
    return {
        _ispmail_session.shown(name): {
            "drop": _ispmail_session.shown(f"DROP OWNED BY {quote(name)}; DROP ROLE {quote(name)}"),
            "connections": connections(server, name),
        }
        for name in names
        if name not in known
    }
