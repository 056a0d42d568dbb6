"""What differs between the database servers, as one interface, and which server has which.

Pure. PostgreSQL is no server of accounts yet: it would be a third file beside _ispmail_mariadb and _ispmail_mysql.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from _ispmail_mariadb import MariaDB
from _ispmail_mysql import MySQL
from _ispmail_sql import Account


class Dialect(Protocol):
    """How one kind of server keeps accounts and their passwords.

    Statements have the placeholders ``%(user)s``, ``%(host)s``, ``%(new)s`` and, from 0, ``%(old0)s`` for hashes.
    """

    @property
    def name(self) -> str:
        """The server, for people."""

    @property
    def plugins(self) -> tuple[str, ...]:
        """The login plugins that a rotation can handle. The first one is what a new account gets."""

    @property
    def most_passwords(self) -> int | None:
        """How many passwords an account accepts at most; None where there is no such limit."""

    @property
    def sql_mode(self) -> str:
        """The mode in which our own statements mean what they say."""

    @property
    def accounts(self) -> str:
        """The statement that reads the accounts of a user, ``%s``: rows for `read_account`, each with a ``host``."""

    @property
    def memberships(self) -> str:
        """The statement that reads who has which role: rows of ``role``, ``role_host``, ``user`` and ``host``.

        A role may have roles. The host of a MariaDB's roles is empty; a MySQL's are accounts.
        """

    @property
    def settings(self) -> str | None:
        """The statement that reads what `hash_password` needs to know (names and values); None for nothing."""

    @property
    def plugin_advice(self) -> str:
        """What to do about an account that logs in by another plugin, as the end of a sentence."""

    def read_account(self, row: Mapping[str, Any]) -> Account | None:
        """Read a row of `accounts`. None where it is no account."""

    def hash_password(self, plugin: str, password: str, salt: str, settings: Mapping[str, str]) -> str:
        """What the server keeps of a password. Computed here, so that no log of the server has the password.

        Args:
            plugin: The login plugin of the account.
            password: The password.
            salt: 20 random characters of base64; a byte 0 or a dollar sign would end it for a MySQL.
            settings: What `settings` gave.
        """

    def is_hash_of(self, stored: str, password: str) -> bool:
        """Whether a hash that the server keeps is of this password."""

    def create(self, plugin: str) -> list[str]:
        """Write the statement that creates an account."""

    def set_password(self, plugin: str) -> list[str]:
        """Write the statement by which an account that accepts no password gets one."""

    def accept(self, plugin: str, kept: int) -> list[str]:
        """Write the statement by which an account accepts a new password, as its first, beside so many old ones."""

    def sole(self, plugin: str) -> list[str]:
        """Write the statement after which an account accepts no other password than its first."""

    def reopen(self, plugin: str) -> list[str]:
        """Write the statements after which a locked account accepts one password, a new one, and is locked no more."""

    def lock(self) -> list[str]:
        """Write the statement after which an account accepts no new login. Its open connections go on."""

    def lock_anew(self, plugin: str, kept: int) -> list[str]:
        """Write the same, for a server that is to remember when: it sets the passwords that the account has anyhow.

        Args:
            plugin: The login plugin of the account.
            kept: How many passwords it has besides its first.
        """


def of_version(version: str) -> Dialect:
    """Choose by what a server says of itself in VERSION()."""
    return MariaDB() if "MariaDB" in version else MySQL(version)
