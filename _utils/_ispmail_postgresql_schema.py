"""Tables and indexes on a PostgreSQL."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

import _ispmail_database
import _ispmail_postgresql
import _ispmail_sql
from _ispmail_config_database import DatabaseConfig
from _ispmail_database import Step
from _ispmail_errors import DatabaseError
from _ispmail_postgresql import SCHEMA
from _ispmail_postgresql_admin import Server, admin
from _ispmail_sql import Missing, Table

log = logging.getLogger(__name__)

_AGAIN = "apply ispmail.database again"


def create(config: DatabaseConfig, test: bool) -> dict[str, Any]:
    """Create the database and the guide's tables, and add what is missing to those that exist. Data are kept.

    Returns:
        As _ispmail_schema.create does.

    Raises:
        DatabaseError: The server refuses.
        InvalidInput: A table is not the guide's.
    """
    changes: dict[str, Any] = {}
    with admin(config, lock=not test) as server:
        found = read_tables(server)
        needs = _ispmail_sql.missing(found)
        if not config.create_tables:
            return {"changes": {}, "warnings": _ispmail_sql.missing_parts_warnings(config.dbname, needs)}
        if not server.has_database:
            changes["database"] = {"old": None, "new": config.dbname}
            if not test:
                made = Step(f"database {config.dbname}", (*_ispmail_postgresql.create_database(config.dbname),))
                _ispmail_database.run(server, [made], _AGAIN)
        work, warnings = _work(server, config.dbname, needs, found)
        for table, step, _ in work:
            changes.setdefault(table, {"old": None, "new": []})["new"] += step.describe()
        if not test:
            steps = [
                Step(f"{table} ({', '.join(step.describe())})", ("; ".join(statements),))
                for table, step, statements in work
            ]
            if server.has_database:
                run(server, steps)
            else:
                with admin(config, lock=True) as inside:
                    run(inside, steps)
    return {"changes": changes, "warnings": warnings}


def run(server: Server, steps: Sequence[Step]) -> None:
    """Run the statements of ispmail.database, however long they take, and log them."""
    if not steps:
        return
    server.client.wait_longer()
    began = time.monotonic()
    _ispmail_database.run(server, steps, _AGAIN)
    log.info("Done in %.1f s: %s", time.monotonic() - began, "; ".join(step.name for step in steps))


def read_tables(server: Server) -> dict[str, Table]:
    """Read the tables of the maps' database, by their names; none where there is no database."""
    if not server.has_database:
        return {}
    return _ispmail_postgresql.tables(server.ask(_ispmail_postgresql.read_tables(SCHEMA)))


def _work(
    server: Server, dbname: str, needs: Mapping[str, Missing], found: Mapping[str, Table]
) -> tuple[list[tuple[str, Missing, list[str]]], list[str]]:
    """What tables get, each with its statements; and warnings of what they cannot get."""
    work: list[tuple[str, Missing, list[str]]] = []
    warnings: list[str] = []
    for table, missing in needs.items():
        possible = missing
        if not missing.whole_table:
            possible, doubts = _possible(server, dbname, table, missing, found)
            warnings += doubts
        if possible != Missing():
            work.append((table, possible, _ispmail_postgresql.alter_statements(SCHEMA, table, possible)))
    return work, warnings


def _possible(
    server: Server, dbname: str, table: str, missing: Missing, found: Mapping[str, Table]
) -> tuple[Missing, list[str]]:
    """What a table that exists can get of what it is missing, and warnings of the rest."""
    name = f"{dbname}.{table}"
    if found[table].is_view:
        raise DatabaseError(f"{name} is a view, nothing was changed: set ispmail:server:create_tables to false")
    plain = [
        column
        for column in missing.indexes
        if _ispmail_sql.wants_unique(table, column)
        and column in found[table].columns
        and server.ask(_ispmail_postgresql.read_doubles(SCHEMA, table, column))
    ]
    warnings = [
        f"{name}.{column} has a value in several rows, so its index cannot be unique: remove the duplicates"
        for column in plain
    ]
    indexed = [index.columns[0] for index in found[table].indexes if index.columns]
    indexes = tuple(column for column in missing.indexes if column not in plain or column not in indexed)
    keys = missing.foreign_keys if "domain_id" not in missing.columns else ()
    if keys and server.ask(_ispmail_postgresql.read_orphans(SCHEMA, table, "virtual_domains" in found)):
        keys = ()
        warnings.append(
            f"{name}.domain_id cannot become a foreign key: some of its rows name a domain that does not exist, "
            "remove them"
        )
    possible = missing._replace(indexes=indexes, plain_indexes=tuple(plain), foreign_keys=keys)
    nothing = not (possible.columns or possible.indexes or possible.foreign_keys)
    return Missing() if nothing else possible, warnings
