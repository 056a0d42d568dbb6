"""The database server of the maps, whichever it is: one interface, and which file has it for which server.

MariaDB and MySQL are in _ispmail_schema and _ispmail_accounts, PostgreSQL in _ispmail_postgresql_schema and
_ispmail_postgresql_accounts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import _ispmail_account_users
import _ispmail_accounts
import _ispmail_database
import _ispmail_postgresql_accounts
import _ispmail_postgresql_admin
import _ispmail_postgresql_schema
import _ispmail_schema
from _ispmail_config_database import PGSQL, DatabaseConfig
from _ispmail_connections import Listed
from _ispmail_credential import Action


class Kind(NamedTuple):
    """What is asked of a server, and told it."""

    read: Callable[[DatabaseConfig], dict[str, Any]]  # as _ispmail_accounts.read
    tables: Callable[[DatabaseConfig, bool], dict[str, Any]]  # as _ispmail_schema.create
    account: Callable[[DatabaseConfig, bool], dict[str, Any]]  # as _ispmail_accounts.account
    credential: Callable[[DatabaseConfig, Action, bool], dict[str, Any]]  # as _ispmail_accounts.credential
    # As its admin, who is connected as users, once for each group of them; an error where he may not see that.
    listed: Callable[[DatabaseConfig, Sequence[Collection[str]]], list[Listed]]


def of(config: DatabaseConfig) -> Kind:
    """Tell what is to be called for the server that pillar means."""
    if config.type == PGSQL:
        return Kind(
            _ispmail_postgresql_accounts.read,
            _ispmail_postgresql_schema.create,
            _ispmail_postgresql_accounts.account,
            _ispmail_postgresql_accounts.credential,
            _ispmail_postgresql_admin.listed,
        )
    return Kind(
        _ispmail_accounts.read,
        _ispmail_schema.create,
        _ispmail_accounts.account,
        _ispmail_accounts.credential,
        _listed,
    )


def _listed(config: DatabaseConfig, users: Sequence[Collection[str]]) -> list[Listed]:
    with _ispmail_database.admin(config.login) as server:
        return [_ispmail_account_users.listed_by_admin(server, some, config.login.host) for some in users]
