"""The tables of projects that have a preset, each with rows that mean the same mail."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import NamedTuple

from lab import iredmail, modoboa, postfixadmin
from lab.mariadb import MariaDB
from lab.postgresql import PostgreSQL

Server = MariaDB | PostgreSQL

# john and own have mailboxes, jack is an alias, all.example.org has a catch-all; also and also-all are alias domains.
REPLIES = {
    "john@example.org": 250,
    "john+tag@example.org": 250,
    "jack@example.org": 250,
    "nobody@example.org": 550,
    "own@example.org": 550,  # a mailbox of another domain only
    "gone@example.org": 550,  # an inactive mailbox
    "late@example.org": 550,  # an inactive alias
    "john@also.example.org": 250,
    "john+tag@also.example.org": 250,
    "jack@also.example.org": 250,
    "nobody@also.example.org": 550,
    "own@also.example.org": 550,
    "gone@also.example.org": 550,
    "late@also.example.org": 550,
    "own@all.example.org": 250,
    "anybody@all.example.org": 250,
    "anybody@also-all.example.org": 250,
    "anybody@quiet.example.org": 550,  # an inactive catch-all
    "anybody@also-quiet.example.org": 550,
    "john@backup.example.org": 554,  # not this server's own domains
    "john@off.example.org": 554,
    "john@nowhere.example.org": 554,
}
# Where an address goes, as Postfix logs it.
GOES_TO = {
    "john@example.org": "john@example.org",
    "john+tag@example.org": "john+tag@example.org",
    "jack@example.org": "john@example.org",
    "jack+tag@example.org": "john+tag@example.org",
    "jack@also.example.org": "john@example.org",
    "john+tag@also.example.org": "john+tag@example.org",
    "own@all.example.org": "own@all.example.org",
    "own+tag@all.example.org": "own+tag@all.example.org",
    "own@also-all.example.org": "own@all.example.org",
    "own+tag@also-all.example.org": "own+tag@all.example.org",
    "anybody@all.example.org": "john@example.org",
    "anybody@also-all.example.org": "john@example.org",
}
# What no map may answer for mail to others: the domain, or the alias domain, is switched off here.
SILENT = ["own@also-off.example.org", "@also-off.example.org"]


class Project(NamedTuple):
    """How its tables are made, the rows, and what it has besides the replies and the silence above."""

    dbname: str
    create_tables: Callable[[Server, str], None]
    rows: tuple[str, ...]
    replies: dict[str, int]
    silent: tuple[str, ...] = ()
    builds_root: bool = True  # in which the project's own program makes the tables

    def fill(self, server: Server) -> None:
        """Create its database with the rows."""
        self.create_tables(server, self.dbname)
        if isinstance(server, PostgreSQL):
            server.sql(";\n".join(["SET TIME ZONE 'UTC'", *self.rows]), self.dbname)
        else:
            for statement in self.rows:
                server.sql(statement.replace("INSERT INTO ", f"INSERT INTO {self.dbname}."))


def insert(table: str, columns: str, *rows: str, **same: str) -> str:
    """One INSERT; `same`: columns with the value that they have in all rows."""
    values = ", ".join(f"({', '.join([row, *same.values()])})" for row in rows)
    return f"INSERT INTO {table} ({', '.join([columns, *same])}) VALUES {values}"


def _utc(hours: int) -> str:
    """The time in some hours, as columns hold it."""
    return f"'{datetime.now(timezone.utc) + timedelta(hours=hours):%Y-%m-%d %H:%M:%S}'"


POSTFIXADMIN = (
    insert(
        "domain", "domain, backupmx, active",
        "'example.org', '0', '1'", "'all.example.org', '0', '1'",
        "'quiet.example.org', '0', '1'",
        "'also.example.org', '0', '1'", "'also-all.example.org', '0', '1'", "'also-off.example.org', '0', '1'",
        "'also-quiet.example.org', '0', '1'",
        "'backup.example.org', '1', '1'", "'off.example.org', '0', '0'",
        description="''", transport="'virtual'",
    ),
    insert(
        "alias_domain", "alias_domain, target_domain, active",
        "'also.example.org', 'example.org', '1'", "'also-all.example.org', 'all.example.org', '1'",
        "'also-off.example.org', 'all.example.org', '0'", "'also-quiet.example.org', 'quiet.example.org', '1'",
    ),
    insert(
        "mailbox", "username, maildir, local_part, domain, active",
        "'john@example.org', 'example.org/john/', 'john', 'example.org', '1'",
        "'gone@example.org', 'example.org/gone/', 'gone', 'example.org', '0'",
        "'plain@example.org', 'example.org/plain/', 'plain', 'example.org', '1'",
        "'own@all.example.org', 'all.example.org/own/', 'own', 'all.example.org', '1'",
        password="'!'", name="''",
    ),
    insert(
        "alias", "address, goto, domain, active",
        "'john@example.org', 'john@example.org', 'example.org', '1'",
        "'gone@example.org', 'gone@example.org', 'example.org', '0'",
        "'own@all.example.org', 'own@all.example.org', 'all.example.org', '1'",
        "'jack@example.org', 'john@example.org', 'example.org', '1'",
        "'late@example.org', 'john@example.org', 'example.org', '0'",
        "'@all.example.org', 'john@example.org', 'all.example.org', '1'",
        "'@quiet.example.org', 'john@example.org', 'quiet.example.org', '0'",
    ),
)  # fmt: skip

_TIMES = {"creation": "CURRENT_TIMESTAMP", "last_modification": "CURRENT_TIMESTAMP"}
MODOBOA = (
    insert(
        "admin_domain", "id, name, type, enabled",
        "1, 'example.org', 'domain', TRUE", "2, 'all.example.org', 'domain', TRUE",
        "3, 'backup.example.org', 'relaydomain', TRUE", "4, 'off.example.org', 'domain', FALSE",
        "5, 'quiet.example.org', 'domain', TRUE",
        default_mailbox_quota="0", quota="0", enable_dns_checks="FALSE", enable_dkim="FALSE", dkim_key_selector="''",
        dkim_private_key_path="''", dkim_public_key="''", **_TIMES,
    ),
    insert(
        "admin_domainalias", "name, target_id, enabled",
        "'also.example.org', 1, TRUE", "'also-all.example.org', 2, TRUE",
        "'also-off.example.org', 2, FALSE", "'also-backup.example.org', 3, TRUE", "'off-too.example.org', 4, TRUE",
        "'also-quiet.example.org', 5, TRUE",
        **_TIMES,
    ),
    insert(
        "core_user", "id, username, email, is_active",
        "1, 'john@example.org', 'john@example.org', TRUE", "2, 'gone@example.org', 'gone@example.org', FALSE",
        "3, 'own@all.example.org', 'own@all.example.org', TRUE", "4, 'out@example.org', 'out@example.org', TRUE",
        "5, 'plain@example.org', 'plain@example.org', TRUE",
        "6, 'john@off.example.org', 'john@off.example.org', TRUE",
        is_superuser="FALSE", is_staff="FALSE", is_local="TRUE", master_user="FALSE", totp_enabled="FALSE",
        webauthn_enabled="FALSE", first_name="''", last_name="''", password="'!'", language="''",
        _parameters="'{}'", date_joined="CURRENT_TIMESTAMP",
    ),
    insert(
        "admin_mailbox", "id, address, domain_id, user_id, is_send_only",
        "1, 'john', 1, 1, FALSE", "2, 'gone', 1, 2, FALSE", "3, 'own', 2, 3, FALSE", "4, 'out', 1, 4, TRUE",
        "5, 'plain', 1, 5, FALSE", "6, 'john', 4, 6, FALSE",
        quota="0", use_domain_quota="FALSE", **_TIMES,
    ),
    insert(
        "admin_alias", "id, address, domain_id, enabled, internal, expire_at",
        # What Modoboa adds itself, for mailboxes and for alias domains.
        "1, 'john@example.org', 1, TRUE, TRUE, NULL", "2, 'gone@example.org', 1, FALSE, TRUE, NULL",
        "3, 'own@all.example.org', 2, TRUE, TRUE, NULL", "4, 'out@example.org', 1, TRUE, TRUE, NULL",
        "5, '@also.example.org', NULL, TRUE, TRUE, NULL", "6, '@also-all.example.org', NULL, TRUE, TRUE, NULL",
        "7, 'jack@example.org', 1, TRUE, FALSE, NULL", "8, 'late@example.org', 1, FALSE, FALSE, NULL",
        "9, '@all.example.org', 2, TRUE, FALSE, NULL", "12, '@quiet.example.org', 5, FALSE, FALSE, NULL",
        f"10, 'valid@example.org', 1, TRUE, FALSE, {_utc(+1)}",
        f"11, 'expired@example.org', 1, TRUE, FALSE, {_utc(-1)}",
        description="''", **_TIMES,
    ),
    insert(
        "modoboa_admin_aliasrecipient", "alias_id, address, r_mailbox_id",
        "1, 'john@example.org', 1", "2, 'gone@example.org', 2", "3, 'own@all.example.org', 3",
        "4, 'out@example.org', 4", "5, '@example.org', NULL", "6, '@all.example.org', NULL",
        "7, 'john@example.org', 1", "8, 'john@example.org', 1", "9, 'john@example.org', 1",
        "10, 'john@example.org', 1", "11, 'john@example.org', 1",
        "12, 'john@example.org', 1",
    ),
)  # fmt: skip

IREDMAIL = (
    insert(
        "domain", "domain, backupmx, active",
        "'example.org', 0, 1", "'all.example.org', 0, 1", "'backup.example.org', 1, 1", "'off.example.org', 0, 0",
        "'quiet.example.org', 0, 1",
    ),
    insert(
        "alias_domain", "alias_domain, target_domain, active",
        "'also.example.org', 'example.org', 1", "'also-all.example.org', 'all.example.org', 1",
        "'also-off.example.org', 'all.example.org', 0", "'also-backup.example.org', 'backup.example.org', 1",
        "'off-too.example.org', 'off.example.org', 1", "'also-quiet.example.org', 'quiet.example.org', 1",
    ),
    insert(
        "mailbox", "username, domain, maildir, active, enabledeliver",
        "'john@example.org', 'example.org', 'example.org/john', 1, 1",
        "'gone@example.org', 'example.org', 'example.org/gone', 0, 1",
        "'mute@example.org', 'example.org', 'example.org/mute', 1, 0",
        "'plain@example.org', 'example.org', 'example.org/plain', 1, 1",
        "'own@all.example.org', 'all.example.org', 'all.example.org/own', 1, 1",
        "'john@off.example.org', 'off.example.org', 'off.example.org/john', 1, 1",
        storagenode="'vmail1'",
    ),
    insert(
        "forwardings", "address, forwarding, domain, active",
        "'john@example.org', 'john@example.org', 'example.org', 1",
        "'gone@example.org', 'gone@example.org', 'example.org', 0",
        "'own@all.example.org', 'own@all.example.org', 'all.example.org', 1",
        "'jack@example.org', 'john@example.org', 'example.org', 1",
        "'late@example.org', 'john@example.org', 'example.org', 0",
        "'all.example.org', 'john@example.org', 'all.example.org', 1",
        "'quiet.example.org', 'john@example.org', 'quiet.example.org', 0",
        "'jack@off.example.org', 'john@example.org', 'off.example.org', 1",
        "'off.example.org', 'john@example.org', 'off.example.org', 1",
        "'jack@backup.example.org', 'john@example.org', 'backup.example.org', 1",
        "'backup.example.org', 'john@example.org', 'backup.example.org', 1",
    ),
)  # fmt: skip

# Alias domains that are switched off, or whose target is no domain of this server's own.
_NOT_ALIASED = {
    "own@also-off.example.org": 554,
    "john@also-backup.example.org": 554,
    "john@off-too.example.org": 554,
}
PROJECTS = {
    "postfixadmin": Project(
        "postfix", postfixadmin.create_tables, POSTFIXADMIN, {
            "own@also-off.example.org": 550,
            "plain@example.org": 250,  # a mailbox without an alias to itself
            "plain@also.example.org": 250,
        }
    ),
    "modoboa": Project(
        "modoboa", modoboa.create_tables, MODOBOA,
        {
            **_NOT_ALIASED,
            "plain@example.org": 250,  # a mailbox without an alias to itself
            "out@example.org": 550,  # it only sends
            "out@also.example.org": 550,
            "valid@example.org": 250,  # an alias that will expire, and one that has
            "valid@also.example.org": 250,
            "expired@example.org": 550,
            "expired@also.example.org": 550,
        },
        ("john@off.example.org",),
    ),
    "iredmail": Project(
        "vmail", iredmail.create_tables, IREDMAIL,
        {**_NOT_ALIASED, "plain@example.org": 250, "mute@example.org": 550},
        (
            "john@off.example.org", "jack@off.example.org", "@off.example.org", "off.example.org",
            "jack@off-too.example.org", "@off-too.example.org",
            "jack@backup.example.org", "@backup.example.org", "jack@also-backup.example.org",
            "@also-backup.example.org",
            "all.example.org",  # the row of a catch-all, asked for as a domain
        ),
        builds_root=False,
    ),
}  # fmt: skip
