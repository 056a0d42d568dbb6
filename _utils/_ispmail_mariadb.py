"""How a MariaDB keeps accounts and their passwords, see CREATE USER and mysql.global_priv in its manual. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import _ispmail_sql
from _ispmail_plugins import NATIVE
from _ispmail_sql import Account

# What `ssl_type` stands for; any other one is none.
_TLS = {1: "SSL", 2: "X509", 3: "SPECIFIED"}


class MariaDB:
    """A MariaDB, as `_ispmail_dialect.Dialect` has it."""

    name = "MariaDB"
    # It has caching_sha2_password from 12.1 on, but smtpd's chroot does not.
    plugins = (NATIVE,)
    most_passwords: int | None = None
    # SHOW GRANTS then has names in backticks, and GRANT creates no account.
    sql_mode = "NO_AUTO_CREATE_USER"
    accounts = "SELECT Host AS host, Priv AS priv FROM mysql.global_priv WHERE User = %s"
    memberships = "SELECT Role AS role, '' AS role_host, User AS user, Host AS host FROM mysql.roles_mapping"
    settings: str | None = None
    plugin_advice = (
        f"which smtpd's chroot and PyMySQL do not have: give it a password by {NATIVE} alone "
        f"(ALTER USER … IDENTIFIED VIA {NATIVE} …)"
    )

    def read_account(self, row: Mapping[str, Any]) -> Account | None:
        """Read a row of `accounts`. None for a role."""
        found = json.loads(row["priv"])
        if found.get("is_role"):
            return None
        # An empty entry among the alternatives stands for the account's own. An empty password is left out.
        methods = [entry or found for entry in found.get("auth_or") or [{}]]
        pairs = [(entry.get("plugin") or NATIVE, entry.get("authentication_string", "")) for entry in methods]
        plugins = dict.fromkeys(plugin for plugin, _ in pairs)
        hashes = _ispmail_sql.native_hashes(text for plugin, text in pairs if plugin == NATIVE)
        account = Account(tuple(plugins), hashes, bool(found.get("account_locked", False)))
        lifetime = found.get("password_lifetime", -1)
        return replace(
            account,
            changed=found.get("password_last_changed"),
            lifetime=None if lifetime < 0 else lifetime,
            demands=_ispmail_sql.demands(found, _TLS.get(found.get("ssl_type"), "")),
        )

    def hash_password(self, plugin: str, password: str, salt: str, settings: Mapping[str, str]) -> str:
        """What mysql_native_password keeps of a password; it has no salt."""
        return _ispmail_sql.native_hash(password)

    def is_hash_of(self, stored: str, password: str) -> bool:
        """Whether a hash is of this password."""
        return stored == _ispmail_sql.native_hash(password)

    def create(self, plugin: str) -> list[str]:
        """Write the statement that creates an account."""
        # Mail would stop on the day on which it expires: default_password_lifetime is meant for people.
        return [f"CREATE USER %(user)s@%(host)s {_identified(0)} PASSWORD EXPIRE NEVER"]

    def set_password(self, plugin: str) -> list[str]:
        """Write the statement after which an account accepts one password."""
        return self.accept(plugin, 0)

    def accept(self, plugin: str, kept: int) -> list[str]:
        """Write the statement by which an account accepts a new password beside old ones."""
        return [f"ALTER USER %(user)s@%(host)s {_identified(kept)}"]

    def sole(self, plugin: str) -> list[str]:
        """Write the statement after which an account accepts one password."""
        return self.accept(plugin, 0)

    def reopen(self, plugin: str) -> list[str]:
        """Write the statement after which a locked account accepts one password, and is locked no more."""
        return [f"ALTER USER %(user)s@%(host)s {_identified(0)} ACCOUNT UNLOCK PASSWORD EXPIRE NEVER"]

    def lock(self) -> list[str]:
        """Write the statement after which an account accepts no new login."""
        return ["ALTER USER %(user)s@%(host)s ACCOUNT LOCK"]

    def lock_anew(self, plugin: str, kept: int) -> list[str]:
        """Write the statement that locks an account, and sets the passwords that it has."""
        return [f"ALTER USER %(user)s@%(host)s {_identified(kept)} ACCOUNT LOCK {_ispmail_sql.LOCKED_EXPIRY}"]


def _identified(kept: int) -> str:
    """The new password first: Postfix's client library tries all of them, but other clients (PyMySQL) only two."""
    hashes = ["%(new)s", *[f"%(old{number})s" for number in range(kept)]]
    return f"IDENTIFIED VIA {' OR '.join(f'{NATIVE} USING {text}' for text in hashes)}"
