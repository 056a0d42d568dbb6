"""The tables and columns of iRedMail that the maps of `preset: iredmail` ask, compared with published ones.

    python -m lab.iredmail samples/iredmail/iredmail.mysql samples/iredmail/iredmail.pgsql

iRedMail comes neither by apt nor by pip. So its tables are described here as they are in iRedMail 1.8.1 (these two
files of https://github.com/iredmail/iRedMail at the tag 1.8.1). The command loads a published file, and what is here,
into a private server, and prints what is said here and not so there. If there is such a thing, the exit code is 1.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from lab import program, scratch
from lab.mariadb import MariaDB
from lab.postgresql import PostgreSQL
from lab.web import create_database

_NAME, _FLAG = "VARCHAR(255) NOT NULL", "{flag} NOT NULL"
_TABLES = {
    "domain": [
        f"domain {_NAME} DEFAULT '' PRIMARY KEY",
        f"backupmx {_FLAG} DEFAULT 0",
        f"active {_FLAG} DEFAULT 1",
    ],
    "alias_domain": [
        f"alias_domain {_NAME} PRIMARY KEY",
        f"target_domain {_NAME}",
        f"active {_FLAG} DEFAULT 1",
    ],
    "mailbox": [
        f"username {_NAME} PRIMARY KEY",
        f"storagenode {_NAME} DEFAULT ''",
        f"maildir {_NAME} DEFAULT ''",
        f"domain {_NAME} DEFAULT ''",
        f"enabledeliver {_FLAG} DEFAULT 1",
        f"active {_FLAG} DEFAULT 1",
    ],
    "forwardings": [
        f"address {_NAME} DEFAULT ''",
        f"forwarding {_NAME} DEFAULT ''",
        f"domain {_NAME} DEFAULT ''",
        f"active {_FLAG} DEFAULT 1",
        "UNIQUE (address, forwarding)",
    ],
}

# Each row of an answer is a sentence about a table, in the words of its server.
_FACTS_MYSQL = """
SELECT CONCAT(TABLE_NAME, '.', COLUMN_NAME, ' is ', COLUMN_TYPE, IF(IS_NULLABLE = 'YES', '', ' NOT NULL'),
  COALESCE(CONCAT(' ', COLLATION_NAME), '')) FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = '{0}'
UNION SELECT CONCAT(TABLE_NAME, '.', COLUMN_NAME, ' has the default ', COLUMN_DEFAULT)
  FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = '{0}' AND COLUMN_DEFAULT IS NOT NULL
UNION SELECT CONCAT(TABLE_NAME, ' has the ', IF(NON_UNIQUE, '', 'unique '), 'index ',
  GROUP_CONCAT(COLUMN_NAME ORDER BY SEQ_IN_INDEX)) FROM information_schema.STATISTICS
  WHERE TABLE_SCHEMA = '{0}' GROUP BY TABLE_NAME, INDEX_NAME, NON_UNIQUE
"""
_FACTS_PGSQL = """
SELECT concat(table_name, '.', column_name, ' is ', data_type, ' ', character_maximum_length,
  CASE is_nullable WHEN 'NO' THEN ' NOT NULL' END) FROM information_schema.columns WHERE table_schema = 'public'
UNION SELECT concat(table_name, '.', column_name, ' has the default ', column_default)
  FROM information_schema.columns WHERE table_schema = 'public' AND column_default IS NOT NULL
UNION SELECT concat(tablename, ' has the ', lower(regexp_replace(indexdef, 'CREATE | INDEX .* USING', '', 'g')))
  FROM pg_indexes WHERE schemaname = 'public'
"""


def create_tables(server: MariaDB | PostgreSQL, dbname: str) -> None:
    """Create a database with these tables."""
    create_database(server, dbname)
    _run(server, dbname, statements(type(server)))


def statements(kind: type[MariaDB | PostgreSQL]) -> str:
    """The statements that create these tables, for one kind of server."""
    flag, options = "SMALLINT", ""
    if kind is MariaDB:
        flag, options = "TINYINT(1)", " CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci"
    tables = (f"CREATE TABLE {name} ({', '.join(columns)}){options};\n" for name, columns in _TABLES.items())
    return "".join(tables).replace("{flag}", flag)


def differences(published: str, kind: type[MariaDB | PostgreSQL]) -> list[str]:
    """Find what is said here and not so in the text of a published schema, which is for one kind of server."""
    with scratch() as directory, kind(directory / "db") as server:
        create_tables(server, "ours")
        create_database(server, "published")
        _run(server, "published", published)
        return sorted(_facts(server, "ours") - _facts(server, "published"))


def _facts(server: MariaDB | PostgreSQL, dbname: str) -> set[str]:
    if isinstance(server, PostgreSQL):
        return {str(fact) for (fact,) in server.sql(_FACTS_PGSQL, dbname)}
    return {str(fact) for (fact,) in server.sql(_FACTS_MYSQL.format(dbname))}


def _run(server: MariaDB | PostgreSQL, dbname: str, text: str) -> None:
    """Run the statements of a file as the server's admin. MariaDB's own client knows DELIMITER."""
    if isinstance(server, PostgreSQL):
        server.sql(text, dbname)
        return
    client = [program("mariadb", "mariadb-client"), "--no-defaults", f"--socket={server.socket}", dbname]
    done = subprocess.run(client, check=False, input=text, capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise RuntimeError(f"the schema cannot be loaded: {done.stderr.strip()}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare each file. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m lab.iredmail", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("files", metavar="FILE", nargs="+", type=Path, help="its name ends with .mysql or .pgsql")
    found = []
    for path in parser.parse_args(arguments).files:
        kind = PostgreSQL if path.suffix == ".pgsql" else MariaDB
        wrong = differences(path.read_text(), kind)
        print(f"{path}: {'; '.join(wrong) or 'all tables and columns here are as published'}")
        found += wrong
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
