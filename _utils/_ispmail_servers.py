"""The database server of the maps, whichever it is: one interface, and which file has it for which server.

MariaDB and MySQL are in _ispmail_schema and _ispmail_accounts, PostgreSQL in _ispmail_postgresql_server.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import _ispmail_accounts
import _ispmail_connections
import _ispmail_database
import _ispmail_postgresql_server
import _ispmail_schema
from _ispmail_accounts import Action
from _ispmail_config_database import PGSQL, DatabaseConfig
from _ispmail_connections import Listed


def read(config: DatabaseConfig) -> dict[str, Any]:
    """As _ispmail_accounts.read."""
    if config.type == PGSQL:
        return _ispmail_postgresql_server.read(config)
    return _ispmail_accounts.read(config)


def tables(config: DatabaseConfig, test: bool) -> dict[str, Any]:
    """As _ispmail_schema.create."""
    if config.type == PGSQL:
        return _ispmail_postgresql_server.tables(config, test)
    return _ispmail_schema.create(config, test)


def account(config: DatabaseConfig, test: bool) -> dict[str, Any]:
    """As _ispmail_accounts.account."""
    if config.type == PGSQL:
        return _ispmail_postgresql_server.account(config, test)
    return _ispmail_accounts.account(config, test)


def credential(config: DatabaseConfig, action: Action, test: bool) -> dict[str, Any]:
    """As _ispmail_accounts.credential."""
    if config.type == PGSQL:
        return _ispmail_postgresql_server.credential(config, action, test)
    return _ispmail_accounts.credential(config, action, test)


def listed(config: DatabaseConfig, users: Sequence[Collection[str]]) -> list[Listed]:
    """Ask the server as its admin who is connected as users; once for each group of them.

    Raises:
        CannotAsk: The admin does not see the connections of others.
        DatabaseError: It cannot be asked.
    """
    if config.type == PGSQL:
        return _ispmail_postgresql_server.listed(config, users)
    with _ispmail_database.admin(config.login) as server:
        return [_ispmail_connections.listed_by_admin(server, some, config.login.host) for some in users]
