"""What pillar says of the database server's side: the maps' account, and how Salt gets in as the admin. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import _ispmail_config
import _ispmail_config_rotation
import _ispmail_tablefile
from _ispmail_config import DATABASE, unknown_keys
from _ispmail_errors import Fault, PillarFault, besides, repr_without
from _ispmail_hosts import MYSQL_SOCKET, POSTGRESQL_SOCKETS, postgresql_socket, split_list

# The table types of the servers: MariaDB or MySQL, and PostgreSQL.
MYSQL, PGSQL = "mysql", "pgsql"
# Of the account that is made where there is none.
DEFAULT_ACCOUNT_HOST = "127.0.0.1"

_LONGEST_NAME = 63  # of PostgreSQL, in bytes
_LOGIN_KEYS = ("unix_socket", "host", "port", "user", "password")
_SWITCHES = {"create_tables": True, "revoke_other_grants": False}  # with their defaults
_SERVER_KEYS = (*_LOGIN_KEYS, "accounts_host", "known_accounts", *_SWITCHES)


class AdminLogin(NamedTuple):
    """How Salt logs in to the database server as its admin: by a socket, or by host and port."""

    user: str
    password: str | None
    unix_socket: str | None
    host: str | None
    port: int = 3306

    def __repr__(self) -> str:
        return repr_without(self, "password")


class DatabaseConfig(NamedTuple):
    """What pillar says of the database server's side."""

    pillar_key: str
    user: str
    password: str | None
    dbname: str
    hosts: tuple[str, ...]  # the host parts of the maps' account; none where those that exist are meant
    create_tables: bool
    login: AdminLogin
    revoke_other_grants: bool = False
    known_accounts: tuple[str, ...] = ()  # users who may read the maps' tables too
    type: str = MYSQL  # the table type of the server: that of the maps which log in with the account
    pair: tuple[str, ...] = ()  # with rotation by two accounts: `user`, and the one that is in use before or after it
    keep: int | None = None  # for how many seconds the other one stays, locked; None for until the next rotation
    max_age: int | None = None  # how many seconds old the password may become; None for as old as it likes

    def __repr__(self) -> str:
        return repr_without(self, "password")

    @property
    def other(self) -> str | None:
        """The other account of the pair; None with rotation by two passwords."""
        return self.pair[1] if self.pair else None

    @property
    def accounts(self) -> tuple[str, ...]:
        """All users that stand for the maps' account."""
        return self.pair or (self.user,)

    def managed_hosts(self, existing: Iterable[str]) -> tuple[str, ...]:
        """The host parts of the accounts that are the maps'.

        Args:
            existing: The host parts of these users' accounts on the server.
        """
        return self.hosts or tuple(dict.fromkeys(existing)) or (DEFAULT_ACCOUNT_HOST,)


def database(
    pillar_key: str,
    section: object,
    faults: Iterable[Fault] = (),
    password_needed: bool = False,
    account_checked: bool = True,
) -> DatabaseConfig:
    """Read what pillar says of the database server's side. What an apply refuses of its sections is refused here too.

    Args:
        pillar_key: The pillar key, such as ``ispmail``.
        section: What pillar holds under it, sdb:// URIs already looked up.
        faults: What was wrong with those.
        password_needed: Whether it is a fault that there is no password.
        account_checked: Whether it is a fault that `database` has an unknown key, that user, password or dbname cannot
            stand in a table file, or that no pair of accounts follows from the user. They may be sdb:// URIs.

    Raises:
        PillarFault: Lists all faults.
    """
    sections, problems = _ispmail_config.sections(pillar_key, section)
    server, account = sections["server"], {**DATABASE, **sections["database"]}
    table_type, mixed = _ispmail_config.server_type(sections["maps"])
    problems += mixed
    problems += unknown_keys(server, _SERVER_KEYS, "server:")
    if account_checked:
        problems += unknown_keys(account, list(_ispmail_tablefile.SCHEMA), "database:")
        problems += _account_faults(account, table_type)
    if password_needed and account.get("password") in (None, ""):
        problems.append(Fault("database:password", "is missing or empty", "write the password of the maps' account"))
    hosts = _names(server, "accounts_host", "such as 127.0.0.1 or 10.0.0.%", problems)
    problems += _host_faults(hosts)
    known = _names(server, "known_accounts", "the names of users", problems)
    switches = {key: server.get(key, default) for key, default in _SWITCHES.items()}
    problems += [
        Fault(f"server:{key}", "must be true or false")
        for key, value in switches.items()
        if not isinstance(value, bool)
    ]
    problems += _login_faults(server, table_type)
    name = user(section)
    pair, wrong = _ispmail_config_rotation.pair(sections["rotation"], name, table_type)
    if account_checked:
        problems += wrong
    if all_faults := besides(faults, problems):
        raise PillarFault(pillar_key, all_faults)
    password = account.get("password")
    return DatabaseConfig(
        pillar_key,
        name,
        password if isinstance(password, str) else None,
        _text(account["dbname"]),
        tuple(dict.fromkeys(host.lower() for host in hosts)),
        switches["create_tables"] is True,
        _postgresql_login(server) if table_type == PGSQL else _login(server),
        switches["revoke_other_grants"] is True,
        known,
        table_type,
        pair,
        _ispmail_config_rotation.keep(sections["rotation"]),
        _ispmail_config_rotation.max_age(sections["rotation"]),
    )


def user(section: object) -> str:
    """Read the user of the maps' account, and nothing else; empty where it is no text."""
    return _text({**DATABASE, **_section(section, "database")}["user"])


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def servers(section: object) -> tuple[str, ...]:
    """Read the hosts at which the maps' account logs in, and nothing else."""
    given = {**DATABASE, **_section(section, "database")}["hosts"]
    return tuple(map(str, given)) if isinstance(given, list) else tuple(split_list(str(given)))


def accounts(section: object) -> tuple[str, ...]:
    """Read the users that stand for the maps' account, whatever else is wrong: pillar's, and the other of a pair."""
    name = user(section)
    return _ispmail_config_rotation.pair(_section(section, "rotation"), name, server_type(section))[0] or (name,)


def _section(section: object, name: str) -> Mapping[str, object]:
    found = section.get(name) if isinstance(section, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def server_type(section: object) -> str:
    """The table type of the database server that pillar's `database` logs in to; that of the first map, if in doubt."""
    return _ispmail_config.server_type(section.get("maps") if isinstance(section, Mapping) else None)[0]


def _account_faults(account: Mapping[str, object], table_type: str) -> list[Fault]:
    """What cannot be the login of a table file must not become the account's."""
    keys = {key: account[key] for key in ("user", "password", "dbname") if account.get(key) is not None}
    faults = [Fault(f"database:{key}", "must not be null") for key in ("user", "dbname") if account.get(key) is None]
    if keys.get("user") == "":
        faults.append(Fault("database:user", "is empty"))
    wrong = [fault for fault in _ispmail_tablefile.validate(table_type, keys).errors if fault.key in keys]
    faults += _name_faults(keys) if table_type == PGSQL else []
    return faults + [fault.at(f"database:{fault.key}") for fault in wrong]


def _name_faults(keys: Mapping[str, object]) -> list[Fault]:
    """PostgreSQL cuts longer names off, with a notice only."""
    too_long = [
        key for key in ("user", "dbname") if len(_text(keys.get(key)).encode("utf-8", "replace")) > _LONGEST_NAME
    ]
    return [Fault(f"database:{key}", f"has more than {_LONGEST_NAME} bytes, as a PostgreSQL has") for key in too_long]


def _names(server: Mapping[str, object], key: str, example: str, faults: list[Fault]) -> tuple[str, ...]:
    """A key that holds a text or a list of texts; none where pillar does not have it."""
    given = server.get(key)
    names = [given] if isinstance(given, str) else given
    if names is None:
        return ()
    if not isinstance(names, list) or not names or not all(map(_is_name, names)):
        faults.append(Fault(f"server:{key}", f"must be a text or a list of texts, {example}"))
        return ()
    return tuple(names)


def _host_faults(hosts: Iterable[str]) -> list[Fault]:
    """What cannot be the host part of an account: it would be made, and nobody could log in."""
    if any("@" in host for host in hosts):
        return [Fault("server:accounts_host", "has an @: it is the host of an account", "write what is behind the @")]
    if any(re.search(r"[\s,]", host) for host in hosts):
        return [Fault("server:accounts_host", "has a blank or a comma in a host", "make several hosts a list")]
    return []


def _login_faults(server: Mapping[str, object], table_type: str) -> list[Fault]:
    given = {key: server[key] for key in _LOGIN_KEYS if server.get(key) is not None}
    faults = []
    if table_type == PGSQL and server.get("accounts_host") is not None:
        reason = "is for MariaDB and MySQL: a role of PostgreSQL has no host"
        faults.append(Fault("server:accounts_host", reason, "take it out, and name the hosts in its pg_hba.conf"))
    if "host" in given and "unix_socket" in given:
        faults.append(Fault("server:host", "is there beside unix_socket", "take one of them out"))
    for key, value in given.items():
        if key == "port":
            if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 65536:
                faults.append(Fault("server:port", "must be a number from 1 to 65535"))
        elif not isinstance(value, str):
            faults.append(Fault(f"server:{key}", "must be a text", "put it in quotes"))
        elif key != "password" and not value:
            faults.append(Fault(f"server:{key}", "is empty", "write it, or take the line out"))
        elif key != "password" and not _is_name(value):
            faults.append(Fault(f"server:{key}", "must be a text of one line"))
        elif key == "password" and (fault := _ispmail_tablefile.stand_in(f"server:{key}", value)):
            faults.append(fault)
    return faults


def _login(server: Mapping[str, Any]) -> AdminLogin:
    host = server.get("host")
    return AdminLogin(
        user=server.get("user") or "root",
        password=server.get("password"),
        unix_socket=None if host else server.get("unix_socket") or MYSQL_SOCKET,
        host=host,
        port=server.get("port") or 3306,
    )


def _postgresql_login(server: Mapping[str, Any]) -> AdminLogin:
    host, port = server.get("host"), server.get("port") or 5432
    socket = None if host else postgresql_socket(server.get("unix_socket") or POSTGRESQL_SOCKETS, port)
    return AdminLogin(server.get("user") or "postgres", server.get("password"), socket, host, port)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value) and not re.search(r"[\0\n]", value)
