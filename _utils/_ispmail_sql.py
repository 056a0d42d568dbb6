"""Write and read the SQL that MariaDB and MySQL have in common: tables and grants. And what an account is.

Pure: it writes statements and reads what the server says, see the manuals of MariaDB and MySQL. Users and hosts are
placeholders in all statements. How accounts and their passwords are kept differs, see _ispmail_dialect.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import _ispmail_collations
from _ispmail_errors import InvalidInput

_NAME = r"`(?:[^`]|``)*`"
_ACCOUNT = rf"{_NAME}@{_NAME}"
_GRANT = re.compile(
    rf"GRANT (?P<privileges>.+?) ON (?P<object>(?:[A-Z]+ )*(?:(?:{_NAME}|\*)\.(?:{_NAME}|\*)|{_ACCOUNT}|'.*?'@'.*?'))"
    rf" TO (?P<to>{_ACCOUNT}|'.*?'@'.*?')(?P<rest>.*)"
)
_ROLE = re.compile(rf"GRANT (?P<role>{_NAME}(?:@{_NAME})?) TO (?P<to>{_ACCOUNT})")
_DAY = 86400
# Of the password of an account that we have locked, in days: the longest that there is. It tells our locks from others.
LOCKED_LIFETIME = 65535
LOCKED_EXPIRY = f"PASSWORD EXPIRE INTERVAL {LOCKED_LIFETIME} DAY"
# Columns of mysql.user to the words of CREATE USER.
_OF_CERTIFICATE = {"x509_issuer": "ISSUER", "x509_subject": "SUBJECT", "ssl_cipher": "CIPHER"}
_LIMITS = {
    "max_questions": "MAX_QUERIES_PER_HOUR",
    "max_updates": "MAX_UPDATES_PER_HOUR",
    "max_connections": "MAX_CONNECTIONS_PER_HOUR",
    "max_user_connections": "MAX_USER_CONNECTIONS",
}
_NATIVE_HASH = re.compile(r"(\*[0-9A-F]{40})?")


class Index(NamedTuple):
    """An index of a table."""

    columns: tuple[str, ...]
    unique: bool


@dataclass(frozen=True)
class Table:
    """A table as it is on the server."""

    columns: tuple[str, ...]
    indexes: tuple[Index, ...]
    foreign_keys: tuple[str, ...]  # the columns that are foreign keys
    engine: str | None
    is_view: bool
    collations: Mapping[str, str]  # of its columns that have one


class Missing(NamedTuple):
    """What a table of the guide is missing."""

    whole_table: bool = False
    columns: tuple[str, ...] = ()
    indexes: tuple[str, ...] = ()  # columns that need an index
    plain_indexes: tuple[str, ...] = ()  # those of `indexes` that cannot be unique
    foreign_keys: tuple[str, ...] = ()
    utf8mb4: tuple[str, ...] = ()  # columns that cannot hold 4-byte characters
    collation: str = ""  # that all columns get, with utf8mb4

    def describe(self) -> list[str]:
        """What is missing, in words: ``table`` for all of it."""
        if self.whole_table:
            return ["table"]
        return [
            *[f"column {column}" for column in self.columns],
            *[f"index on {column}" for column in self.indexes],
            *[f"foreign key {column}" for column in self.foreign_keys],
            *[f"utf8mb4 for {column}" for column in self.utf8mb4],
        ]


class Grant(NamedTuple):
    """One line of SHOW GRANTS. USAGE is no privilege, so it is not among them."""

    privileges: tuple[str, ...]
    object: str | None  # as SQL has it; None for a role
    option: bool  # the account may grant them to others


@dataclass(frozen=True)
class Account:
    """How an account logs in."""

    plugins: tuple[str, ...]
    hashes: tuple[str, ...] = field(repr=False)  # of the passwords that it accepts, in their order
    locked: bool
    changed: int | None = None  # when its password was set, in seconds since 1970; 0: it was made to expire
    lifetime: int | None = None  # of its password, in days; 0: for ever, None: the server's default
    demands: str = ""  # of TLS, and its limits, as CREATE USER has them

    def expires(self, default_lifetime: int) -> int | None:
        """When its password expires, in seconds since 1970; 0 if it was made to expire, None for never.

        Args:
            default_lifetime: The server's default_password_lifetime, in days.
        """
        if self.changed == 0:
            return 0
        days = default_lifetime if self.lifetime is None else self.lifetime
        return self.changed + days * _DAY if self.changed and days > 0 else None


class _GuideTable(NamedTuple):
    columns: Mapping[str, str]
    unique: Mapping[str, bool]  # a column that has an index, to whether that is unique
    parent: str | None  # the table that domain_id refers to


# The tables of the ISPmail guide, with two indexes that it does not have: virtual_domains.name, virtual_aliases.source.
_TABLES = {
    "virtual_domains": _GuideTable(
        {"id": "INT NOT NULL AUTO_INCREMENT PRIMARY KEY", "name": "VARCHAR(50) NOT NULL"}, {"name": True}, None
    ),
    "virtual_users": _GuideTable(
        {
            "id": "INT NOT NULL AUTO_INCREMENT PRIMARY KEY",
            "domain_id": "INT NOT NULL",
            "email": "VARCHAR(100) NOT NULL",
            "password": "VARCHAR(150) NOT NULL",
            "quota": "BIGINT NOT NULL DEFAULT 0",
        },
        {"email": True},
        "virtual_domains",
    ),
    "virtual_aliases": _GuideTable(
        {
            "id": "INT NOT NULL AUTO_INCREMENT PRIMARY KEY",
            "domain_id": "INT NOT NULL",
            "source": "VARCHAR(100) NOT NULL",
            "destination": "VARCHAR(100) NOT NULL",
        },
        {"source": False},
        "virtual_domains",
    ),
}
# Only a column with a default can be added to a table that has rows.
_ADDABLE_COLUMNS = ("quota",)


def missing(tables: Mapping[str, Table]) -> dict[str, Missing]:
    """Tell what a database is missing of the guide's tables. Tables that are complete are left out."""
    found = {}
    for name, wanted in _TABLES.items():
        table = tables.get(name)
        if table is None:
            found[name] = Missing(whole_table=True)
            continue
        needs = Missing(
            columns=tuple(column for column in wanted.columns if column not in table.columns),
            indexes=tuple(column for column, unique in wanted.unique.items() if not _has_index(table, column, unique)),
            foreign_keys=("domain_id",) if wanted.parent and "domain_id" not in table.foreign_keys else (),
            utf8mb4=_ispmail_collations.narrow(
                {column: text for column, text in table.collations.items() if column in wanted.columns}
            ),
        )
        if needs != Missing():
            found[name] = needs
    return found


def missing_parts_warnings(dbname: str, needs: Mapping[str, Missing]) -> list[str]:
    """With create_tables: false a missing guide table is not reported: the site uses its own schema."""
    return [
        f"{dbname}.{table} is missing {', '.join(missing.describe())}, and create_tables is false: add it by hand"
        for table, missing in needs.items()
        if not missing.whole_table
    ]


def is_guide_table(name: str) -> bool:
    """Whether the guide has a table of that name."""
    return name in _TABLES


def wants_unique(table: str, column: str) -> bool:
    """Whether the guide's index on a column is unique."""
    return _TABLES[table].unique[column]


def alter_statement(dbname: str, table: str, needs: Missing) -> str:
    """Write the statement that gives a table what it is missing: CREATE TABLE or ALTER TABLE.

    Raises:
        InvalidInput: A missing column cannot be added to a table with rows.
    """
    wanted = _TABLES[table]
    name = f"{quote(dbname)}.{quote(table)}"
    if needs.whole_table:
        needs = Missing(
            columns=tuple(wanted.columns),
            indexes=tuple(wanted.unique),
            foreign_keys=("domain_id",),
        )
        return f"CREATE TABLE {name} ({', '.join(_parts(wanted, needs))}) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4"
    unknown = [column for column in needs.columns if column not in _ADDABLE_COLUMNS]
    if unknown:
        raise InvalidInput(
            f"{dbname}.{table} exists without {', '.join(unknown)}, so it is not the guide's table: "
            "add what is missing by hand, or set ispmail:server:create_tables to false"
        )
    parts = [f"ADD {part}" for part in _parts(wanted, needs)]
    if needs.collation:
        parts.append(_ispmail_collations.convert_clause(needs.collation))
    return f"ALTER TABLE {name} {', '.join(parts)}"


def parse_grants(lines: Iterable[str]) -> list[Grant]:
    """Read the lines of SHOW GRANTS, without the hashes in them. A line without any privilege is left out."""
    grants = []
    for line in lines:
        role, found = _ROLE.match(line), _GRANT.match(line)
        if role:
            grants.append(Grant((role["role"],), None, False))
        elif found:
            # A comma inside brackets is between columns.
            names = tuple(name for name in re.split(r", (?![^(]*\))", found["privileges"]) if name != "USAGE")
            option = "GRANT OPTION" in found["rest"]
            if names or option:
                grants.append(Grant(names, found["object"], option))
    return grants


def revoked(line: str) -> tuple[str, ...]:
    """Read what a line of SHOW GRANTS takes from an account in one database; nothing for a line that grants."""
    found = re.match("REVOKE (?P<privileges>[A-Z, ]+) ON ", line)
    return tuple(found["privileges"].split(", ")) if found else ()


def describe_grants(grants: Iterable[Grant]) -> list[str]:
    """Write grants for people, such as ``SELECT ON `mailserver`.*``."""
    texts = []
    for grant in grants:
        if grant.object is None:
            texts.append(f"ROLE {grant.privileges[0]}")
            continue
        text = f"{', '.join(grant.privileges) or 'USAGE'} ON {grant.object}"
        texts.append(f"{text} WITH GRANT OPTION" if grant.option else text)
    return texts


def select_grant(dbname: str) -> Grant:
    """The one grant that the maps' account needs, as people write it."""
    return Grant(("SELECT",), f"{quote(dbname)}.*", False)


def grant_select(grants: Iterable[Grant], dbname: str) -> list[str]:
    """Write the statement after which an account may SELECT on one database, besides what it may do anyhow.

    Returns:
        Texts with the placeholders ``%(user)s`` and ``%(host)s``; none where nothing is to be changed.
    """
    if any(grant.object == _all_tables(dbname) and _may_select(grant) for grant in grants):
        return []
    return [f"GRANT SELECT ON {_literal(_all_tables(dbname))} TO %(user)s@%(host)s"]


def grants_missing(grants: Sequence[Grant], wanted: Iterable[Grant]) -> list[Grant]:
    """What an account may not do of what another one may. Roles are left out."""
    found = []
    for grant in wanted:
        held = [each for each in grants if each.object == grant.object]
        names = {name for each in held for name in each.privileges}
        more = () if "ALL PRIVILEGES" in names else tuple(name for name in grant.privileges if name not in names)
        option = grant.option and not any(each.option for each in held)
        if grant.object is not None and (more or option):
            found.append(Grant(more, grant.object, option))
    return found


def grant_statement(grant: Grant) -> str:
    """Write the statement that grants what is no role.

    Returns:
        A text with the placeholders ``%(user)s`` and ``%(host)s``.
    """
    statement = f"GRANT {_literal(', '.join(grant.privileges) or 'USAGE')} ON {_literal(str(grant.object))}"
    return f"{statement} TO %(user)s@%(host)s{' WITH GRANT OPTION' if grant.option else ''}"


def demands(row: Mapping[str, object], tls: str) -> str:
    """Write what an account demands of TLS, and its limits, as CREATE USER has them; empty for nothing.

    Args:
        row: The account, by columns of mysql.user.
        tls: ``SSL``, ``X509``, ``SPECIFIED`` for what the row has of the certificate, or nothing.
    """
    texts = [f"{word} {text_of(row[column])}" for column, word in _OF_CERTIFICATE.items() if row.get(column)]
    limits = [f"{word} {row[column]}" for column, word in _LIMITS.items() if row.get(column)]
    parts = [f"REQUIRE {' AND '.join(texts) if tls == 'SPECIFIED' else tls}"] if tls else []
    return " ".join([*parts, *(["WITH", *limits] if limits else [])])


def demand_statement(text: str, old: str = "") -> str:
    """Write the statement that gives an account what `demands` found of another one.

    Args:
        text: What is to be.
        old: What `demands` found of the account itself: a part that is not named would stay.

    Returns:
        A text with the placeholders ``%(user)s`` and ``%(host)s``.
    """
    (tls, limits), (old_tls, old_limits) = _taken_apart(text), _taken_apart(old)
    tls = tls or ("REQUIRE NONE" if old_tls else "")
    limits = {**limits, **dict.fromkeys(old_limits.keys() - limits.keys(), "0")}
    words = [f"{word} {limits[word]}" for word in _LIMITS.values() if word in limits]
    parts = [*filter(None, [_literal(tls)]), *(["WITH", *words] if words else [])]
    return f"ALTER USER %(user)s@%(host)s {' '.join(parts)}"


def _taken_apart(text: str) -> tuple[str, dict[str, str]]:
    """What `demands` wrote of TLS, and its limits."""
    found = re.search(r"(?:^| )WITH((?: MAX_[A-Z_]+ [0-9]+)+)\Z", text)
    return (text[: found.start()], dict(re.findall("([A-Z_]+) ([0-9]+)", found[1]))) if found else (text, {})


def more_than_select(grants: Iterable[Grant], dbname: str) -> list[Grant]:
    """What an account may do besides SELECT on one database."""
    more = []
    for grant in grants:
        names = grant.privileges
        if grant.object == _all_tables(dbname):
            names = tuple(name for name in names if name != "SELECT")
        if names or grant.option:
            more.append(grant._replace(privileges=names))
    return more


def regrant(grants: Sequence[Grant], dbname: str, schema_privileges: Sequence[str]) -> list[str]:
    """Write the statements after which an account may SELECT on one database, and nothing else.

    SELECT is granted before anything is revoked, and is never revoked on that database: no lookup fails meanwhile.

    Args:
        grants: What the account has.
        dbname: The name of the database.
        schema_privileges: What ALL PRIVILEGES on that database stands for, as the server spells it.

    Returns:
        Texts with the placeholders ``%(user)s`` and ``%(host)s``; none where nothing is to be changed.
    """
    ours = _all_tables(dbname)
    revokes = []
    for grant in grants:
        if grant.object is None:
            revokes.append(f"REVOKE {_literal(grant.privileges[0])} FROM %(user)s@%(host)s")
            continue
        names = list(grant.privileges)
        if grant.object == ours:
            if "ALL PRIVILEGES" in names:
                names = list(schema_privileges)
            names = [name for name in names if name not in ("SELECT", "USAGE")]
        if names:
            revokes.append(f"REVOKE {_literal(', '.join(names))} ON {_literal(grant.object)} FROM %(user)s@%(host)s")
        if grant.option and names != ["PROXY"]:
            revokes.append(f"REVOKE GRANT OPTION ON {_literal(grant.object)} FROM %(user)s@%(host)s")
    return [*grant_select(grants, dbname), *revokes]


def native_hash(password: str) -> str:
    """What mysql_native_password keeps of a password. Computed here, so that no log of the server has the password."""
    once = hashlib.sha1(password.encode(), usedforsecurity=False).digest()
    return "*" + hashlib.sha1(once, usedforsecurity=False).hexdigest().upper()


def native_hashes(texts: Iterable[str]) -> tuple[str, ...]:
    """Those of the texts that are hashes of mysql_native_password, each once; an empty one is an empty password."""
    return tuple(text for text in dict.fromkeys(text.upper() for text in texts) if _NATIVE_HASH.fullmatch(text))


def quote(name: str) -> str:
    """Write a name as SQL has it."""
    return "`" + name.replace("`", "``") + "`"


def _has_index(table: Table, column: str, unique: bool) -> bool:
    """Whether an index begins with the column and, for a unique one, has no other."""
    for index in table.indexes:
        if index.columns[0] == column and (not unique or (index.unique and len(index.columns) == 1)):
            return True
    return False


def _parts(wanted: _GuideTable, needs: Missing) -> list[str]:
    parts = [f"{column} {wanted.columns[column]}" for column in needs.columns]
    for column in needs.indexes:
        unique = wanted.unique[column] and column not in needs.plain_indexes
        parts.append(f"UNIQUE INDEX ({column})" if unique else f"INDEX ({column})")
    if wanted.parent:
        key = f"REFERENCES {quote(wanted.parent)} (id) ON DELETE CASCADE"
        parts += [f"FOREIGN KEY ({column}) {key}" for column in needs.foreign_keys]
    return parts


def _may_select(grant: Grant) -> bool:
    return "SELECT" in grant.privileges or "ALL PRIVILEGES" in grant.privileges


def _all_tables(dbname: str) -> str:
    """All tables of a database as GRANT has it, where _ and % in a name would stand for other characters."""
    return quote(re.sub(r"([_%\\])", r"\\\1", dbname)) + ".*"


def text_of(value: object) -> str:
    """A text as SQL has it, in the modes that our own sessions have."""
    return "'" + str(value).replace("\\", "\\\\").replace("'", "''") + "'"


def _literal(text: str) -> str:
    """Text in a statement that is filled in by Python's %."""
    return text.replace("%", "%%")
