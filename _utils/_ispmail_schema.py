"""The tables and indexes that the maps read: what is missing on the database server, and how it gets there."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import _ispmail_collations
import _ispmail_database
import _ispmail_sql
from _ispmail_config_database import DatabaseConfig
from _ispmail_database import Server, Step
from _ispmail_errors import DatabaseError
from _ispmail_sql import Index, Missing, Table

log = logging.getLogger(__name__)


class _Work(NamedTuple):
    """What one table gets, in the order of the steps, and what it cannot get."""

    steps: tuple[Missing, ...]
    warnings: tuple[str, ...] = ()


def create(config: DatabaseConfig, test: bool) -> dict[str, Any]:
    """Create the database and the guide's tables, and add what is missing to those that exist. Data are kept.

    Returns:
        ``changes`` (``database`` or a table, to what is new) and ``warnings`` (sentences).

    Raises:
        DatabaseError: The server refuses.
        InvalidInput: A table is not the guide's.
    """
    dbname = config.dbname
    changes: dict[str, Any] = {}
    warnings: list[str] = []
    work: list[Step] = []
    with _ispmail_database.admin(config.login, lock=not test) as server:
        found = read_tables(server, dbname)
        needs = _ispmail_sql.missing(found)
        if not config.create_tables:
            return {"changes": {}, "warnings": _ispmail_sql.missing_parts_warnings(dbname, needs)}
        if not has_database(server, dbname):
            changes["database"] = {"old": None, "new": dbname}
            statement = f"CREATE DATABASE {_ispmail_sql.quote(dbname)} CHARACTER SET utf8mb4"
            work.append(Step(f"database {dbname}", (statement,)))
        for table, missing in needs.items():
            possible = _possible(server, dbname, table, missing, found)
            warnings += possible.warnings
            for step in possible.steps:
                new = step.describe()
                statement = _ispmail_sql.alter_statement(dbname, table, step)
                work.append(Step(f"{table} ({', '.join(new)})", (statement,)))
                changes.setdefault(table, {"old": None, "new": []})["new"] += new
        if work and not test:
            _run(server, work)
    return {"changes": changes, "warnings": warnings}


def has_database(server: Server, dbname: str) -> bool:
    """Whether there is a database of that name."""
    statement = "SELECT 1 AS a FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = %s"
    return bool(server.ask(statement, [dbname]))


def read_tables(server: Server, dbname: str) -> dict[str, Table]:
    """Read the tables of a database, by their names."""
    columns: dict[str, dict[str, str | None]] = {}
    statement = (
        "SELECT TABLE_NAME AS t, COLUMN_NAME AS c, COLLATION_NAME AS o FROM information_schema.COLUMNS"
        " WHERE TABLE_SCHEMA = %s"
    )
    for row in server.ask(statement, [dbname]):
        columns.setdefault(row["t"], {})[row["c"]] = row["o"]
    foreign_keys = _grouped(
        server,
        "SELECT TABLE_NAME AS t, COLUMN_NAME AS c FROM information_schema.KEY_COLUMN_USAGE"
        " WHERE TABLE_SCHEMA = %s AND REFERENCED_TABLE_NAME IS NOT NULL",
        dbname,
    )
    indexes = _read_indexes(server, dbname)
    statement = (
        "SELECT TABLE_NAME AS t, TABLE_TYPE AS k, ENGINE AS e FROM information_schema.TABLES WHERE TABLE_SCHEMA = %s"
    )
    return {
        row["t"]: Table(
            columns=tuple(columns.get(row["t"], ())),
            indexes=tuple(indexes.get(row["t"], ())),
            foreign_keys=tuple(foreign_keys.get(row["t"], ())),
            engine=row["e"],
            is_view=row["k"] == "VIEW",
            collations={column: text for column, text in columns.get(row["t"], {}).items() if text},
        )
        for row in server.ask(statement, [dbname])
    }


def _run(server: Server, work: Sequence[Step]) -> None:
    server.client.wait_longer()
    began = time.monotonic()
    _ispmail_database.run(server, work, "apply ispmail.database again")
    log.info("Created or altered in %.1f s: %s", time.monotonic() - began, "; ".join(step.name for step in work))


def _grouped(server: Server, statement: str, dbname: str) -> dict[str, list[str]]:
    """Table to its columns that a statement finds."""
    found: dict[str, list[str]] = {}
    for row in server.ask(statement, [dbname]):
        found.setdefault(row["t"], []).append(row["c"])
    return found


def _read_indexes(server: Server, dbname: str) -> dict[str, list[Index]]:
    statement = (
        "SELECT TABLE_NAME AS t, INDEX_NAME AS i, COLUMN_NAME AS c, NON_UNIQUE AS n FROM information_schema.STATISTICS"
        " WHERE TABLE_SCHEMA = %s AND INDEX_TYPE IN ('BTREE', 'HASH') ORDER BY TABLE_NAME, INDEX_NAME, SEQ_IN_INDEX"
    )
    columns: dict[tuple[str, str, bool], list[str]] = {}
    for row in server.ask(statement, [dbname]):
        columns.setdefault((row["t"], row["i"], not int(row["n"])), []).append(row["c"])
    found: dict[str, list[Index]] = {}
    for (table, _, unique), names in columns.items():
        found.setdefault(table, []).append(Index(tuple(names), unique))
    return found


def _possible(server: Server, dbname: str, table: str, missing: Missing, found: Mapping[str, Table]) -> _Work:
    """Tell in which steps a table can get what it is missing, and warn of what it cannot get."""
    if missing.whole_table:
        return _Work((missing,))
    name = f"{dbname}.{table}"
    if found[table].is_view:
        raise DatabaseError(f"{name} is a view, nothing was changed: set ispmail:server:create_tables to false")
    plain = [column for column in missing.indexes if _has_doubles(server, dbname, table, column, found[table])]
    warnings = [
        f"{name}.{column} has a value in several rows, so its index cannot be unique: remove the duplicates"
        for column in plain
    ]
    steps = []
    indexed = [index.columns[0] for index in found[table].indexes]
    indexes = tuple(column for column in missing.indexes if column not in plain or column not in indexed)
    if missing.columns or indexes:
        steps.append(missing._replace(indexes=indexes, plain_indexes=tuple(plain), foreign_keys=(), utf8mb4=()))
    if missing.foreign_keys and "domain_id" not in missing.columns:
        reason = _no_foreign_key(server, dbname, table, found)
        if reason:
            warnings.append(f"{name}.domain_id cannot become a foreign key: {reason}")
        else:
            steps.append(Missing(foreign_keys=missing.foreign_keys))
    if missing.utf8mb4:
        collation = _ispmail_collations.conversion(found[table].collations)
        if collation:
            steps.append(Missing(utf8mb4=missing.utf8mb4, collation=collation))
        else:
            warnings.append(f"{name}: {_ispmail_collations.by_hand(found[table].collations)}")
    return _Work(tuple(steps), tuple(warnings))


def _has_doubles(server: Server, dbname: str, table: str, column: str, found: Table) -> bool:
    """Whether rows keep an index from being unique that should be."""
    if not _ispmail_sql.wants_unique(table, column) or column not in found.columns:
        return False
    place = f"{_ispmail_sql.quote(dbname)}.{_ispmail_sql.quote(table)}"
    statement = f"SELECT 1 AS a FROM {place} GROUP BY {column} HAVING COUNT({column}) > 1 LIMIT 1"  # noqa: S608
    return bool(server.ask(statement))


def _no_foreign_key(server: Server, dbname: str, table: str, found: Mapping[str, Table]) -> str | None:
    """Why domain_id cannot become a foreign key, and what to do; None if it can."""
    parent = found.get("virtual_domains")
    if found[table].engine != "InnoDB" or (parent and parent.engine != "InnoDB"):
        return "both tables need InnoDB, see ALTER TABLE … ENGINE"
    orphans = f"SELECT 1 AS a FROM {_ispmail_sql.quote(dbname)}.{_ispmail_sql.quote(table)} c"  # noqa: S608
    if parent:
        domains = f"{_ispmail_sql.quote(dbname)}.virtual_domains"
        orphans += f" LEFT JOIN {domains} p ON p.id = c.domain_id WHERE p.id IS NULL AND c.domain_id IS NOT NULL"
    return (
        "some of its rows name a domain that does not exist, remove them" if server.ask(f"{orphans} LIMIT 1") else None
    )
