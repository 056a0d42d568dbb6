"""The roles of a PostgreSQL: what each may do, and whether it accepts pillar's password.

Passwords reach the server as verifiers that are computed here: its logs never hold a password.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Sequence

import _ispmail_postgresql
import _ispmail_postgresql_admin
import _ispmail_scram
from _ispmail_config_database import DatabaseConfig
from _ispmail_errors import DatabaseError
from _ispmail_postgresql import SCHEMA, Held, Right, Role
from _ispmail_postgresql_admin import Server
from _ispmail_postgresql_client import WITHOUT_PASSWORD
from _ispmail_sqlstates import WRONG_PASSWORD


def read_roles(server: Server, names: Sequence[str]) -> dict[str, Role]:
    """Read the roles of these names that there are, by their names."""
    rows = server.ask(_ispmail_postgresql.read_roles(names, server.is_superuser))
    return {role.name: role for role in map(_ispmail_postgresql.role, rows)}


def rights(server: Server, name: str) -> list[Right]:
    """Read what a role was given itself in the maps' database."""
    return _ispmail_postgresql.rights(server.ask(_ispmail_postgresql.read_rights(name)))


def held(server: Server, config: DatabaseConfig, name: str) -> Held:
    """Read what a role may do there."""
    return _ispmail_postgresql.held(server.ask(_ispmail_postgresql.read_held(config.dbname, SCHEMA, name))[0])


def is_open(server: Server, config: DatabaseConfig, role: Role) -> bool:
    """Whether a role accepts pillar's password, for ever: mail would stop on the day on which it expires."""
    return role.can_login and role.expires is None and accepts_password(server, config, role)


def accepts_password(server: Server, config: DatabaseConfig, role: Role) -> bool:
    """Whether a role that may log in has pillar's password."""
    password = (config.password or "").encode("utf-8", "surrogateescape")
    if server.is_superuser:
        return role.verifier is not None and _ispmail_scram.belongs(role.verifier, password, role.name)
    # Nobody else may see verifiers, so it is tried.
    try:
        with contextlib.closing(
            _ispmail_postgresql_admin.client_for(config, role.name, password, config.dbname)
        ) as client:
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


def verifier(server: Server, config: DatabaseConfig) -> str:
    """What the server will keep of pillar's password, with a new salt."""
    password = (config.password or "").encode("utf-8", "surrogateescape")
    rounds = server.ask("SELECT current_setting('scram_iterations', true) AS rounds")[0]["rounds"]
    # Our own client takes no fewer, and no more. Servers before 16 have no such setting.
    iterations = min(max(int(rounds or 0), _ispmail_scram.ITERATIONS), _ispmail_scram.MOST_ITERATIONS)
    return _ispmail_scram.verifier(password, secrets.token_bytes(_ispmail_scram.SALT_BYTES), iterations)
