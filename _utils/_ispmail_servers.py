"""The database server of the maps, whichever it is: one interface, and which file has it for which server.

MariaDB and MySQL are in _ispmail_schema and _ispmail_accounts, PostgreSQL in _ispmail_postgresql_server.
"""

from __future__ import annotations

from typing import Any

import _ispmail_accounts
import _ispmail_postgresql_server
import _ispmail_schema
from _ispmail_accounts import Action
from _ispmail_config_database import PGSQL, DatabaseConfig


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
