"""What tables get that lack something of the guide's, by what the server says of them, and what they cannot get."""

import contextlib
import sqlite3

import pytest

import _ispmail_database
import _ispmail_schema
from _ispmail_errors import DatabaseError, InvalidInput
from _ispmail_sql import Table

from .database_values import FakeServer, config

COLUMNS = {
    "virtual_domains": ["id", "name"],
    "virtual_users": ["id", "domain_id", "email", "password", "quota"],
    "virtual_aliases": ["id", "domain_id", "source", "destination"],
}
UNIQUE = {"virtual_domains": "name", "virtual_users": "email", "virtual_aliases": "source"}
COLLATIONS = "SELECT TABLE_NAME AS t, COLUMN_NAME AS c, COLLATION_NAME AS o"
KEYS = (
    "SELECT TABLE_NAME AS t, COLUMN_NAME AS c FROM information_schema.KEY_COLUMN_USAGE"
    " WHERE TABLE_SCHEMA = %s AND REFERENCED_TABLE_NAME IS NOT NULL"
)
INDEXES = (
    "SELECT TABLE_NAME AS t, INDEX_NAME AS i, COLUMN_NAME AS c, NON_UNIQUE AS n FROM information_schema.STATISTICS"
    " WHERE TABLE_SCHEMA = %s AND INDEX_TYPE IN ('BTREE', 'HASH') ORDER BY"
)
DOUBLES, ORPHANS = "SELECT 1 AS a FROM `mailserver`.`{}` GROUP BY", "SELECT 1 AS a FROM `mailserver`.`{}` c"
LEFT_JOIN = " LEFT JOIN `mailserver`.virtual_domains p ON p.id = c.domain_id WHERE p.id IS NULL"


class Tables(FakeServer):
    """A server with the guide's tables, but for what a test takes out."""

    client = None

    def __init__(self, *without, kinds=None, collations=None, more_indexes=(), found=(), there=True, refuses=None):
        """What it has.

        Args:
            without: Tables, columns (virtual_users.email), indexes and keys (index virtual_users.email, key …).
            kinds: Table to its type and engine.
            collations: Column to another one than utf8mb4_general_ci.
            more_indexes: Rows of tables, names, columns and whether they are unique.
            found: The beginnings of questions for rows that are in the way, to which there is an answer.
            there: Whether there is the database.
            refuses: What is in the statements that fail.
        """
        self.held, self.waits, self._refused = None, 0, refuses
        tables = [table for table in COLUMNS if table not in without]
        columns = [(t, c) for t in tables for c in COLUMNS[t] if f"{t}.{c}" not in without]
        indexes = [(t, "u", UNIQUE[t], t != "virtual_aliases") for t in tables]
        indexes = [each for each in indexes if f"index {each[0]}.{each[2]}" not in without]
        texts = {f"{t}.{c}": "utf8mb4_general_ci" for t, c in columns if c not in ("id", "domain_id", "quota")}
        texts |= collations or {}
        keys = [t for t in tables if t != "virtual_domains" and f"key {t}" not in without]
        answers = {
            "SELECT 1 AS a FROM information_schema.SCHEMATA": [{"a": 1}] if there else [],
            COLLATIONS: [{"t": t, "c": c, "o": texts.get(f"{t}.{c}")} for t, c in columns],
            KEYS: [{"t": t, "c": "domain_id"} for t in keys],
            INDEXES: [{"t": t, "i": i, "c": c, "n": str(int(not u))} for t, i, c, u in [*indexes, *more_indexes]],
            "SELECT TABLE_NAME AS t, TABLE_TYPE AS k, ENGINE AS e": [
                {"t": t, "k": kind, "e": engine}
                for t in tables
                for kind, engine in [(kinds or {}).get(t, ("BASE TABLE", "InnoDB"))]
            ],
            **{text: [{"a": 1}] for text in found},
            "SELECT 1 AS a FROM `mailserver`": [],
        }
        super().__init__(answers=answers)
        self.client = self

    def ask(self, statement, arguments=None):
        """What changes tables, too."""
        if self._refused and self._refused in statement:
            raise DatabaseError("db: no", 1205)
        if statement.startswith(("ALTER TABLE ", "CREATE ")):
            self.done.append(statement)
            return []
        return super().ask(statement, arguments)

    def wait_longer(self):
        """As that of a Client."""
        self.waits += 1


@pytest.fixture
def create(monkeypatch):
    """Call `create` with a server: its changes and warnings."""

    def call(server, test=False, **sections):
        @contextlib.contextmanager
        def admin(login, lock=False):
            server.held = lock
            yield server

        monkeypatch.setattr(_ispmail_database, "admin", admin)
        found = _ispmail_schema.create(config(**sections), test)
        assert set(found) == {"changes", "warnings"}
        return found["changes"], found["warnings"]

    return call


def new(*names):
    return {"old": None, "new": list(names)}


def test_from_nothing(create):
    """A dry run says the same, does nothing, and takes no lock. ALTER TABLE takes its time."""
    whole = {"database": {"old": None, "new": "mailserver"}, **{table: new("table") for table in COLUMNS}}
    dry, real = Tables(*COLUMNS, there=False), Tables(*COLUMNS, there=False)
    assert create(dry, test=True) == (whole, []) and dry.done == [] and (dry.held, dry.waits) == (False, 0)
    assert create(real) == (whole, []) and (real.held, real.waits) == (True, 1)
    assert real.done[0] == "CREATE DATABASE `mailserver` CHARACTER SET utf8mb4"
    assert [statement.split(" (")[0] for statement in real.done[1:]] == [
        f"CREATE TABLE `mailserver`.`{table}`" for table in COLUMNS
    ]
    assert all(arguments == ["mailserver"] for _, arguments in real.asked)


def test_where_all_is_there_nothing_is_done(create):
    server = Tables()
    assert create(server) == ({}, []) and server.done == [] and server.waits == 0


def test_a_table_of_their_own_is_not_missing_where_none_is_to_be_created(create):
    server = Tables("virtual_users", "virtual_domains", "index virtual_aliases.source", "key virtual_aliases")
    text = "mailserver.virtual_aliases is missing index on source, foreign key domain_id, and create_tables is false"
    assert create(server, create_tables=False) == ({}, [f"{text}: add it by hand"]) and server.done == []


def test_what_is_missing_is_added_in_steps(create):
    """One fails without the others: each index and each key is a statement of its own."""
    server = Tables("virtual_users.quota", "index virtual_users.email", "key virtual_users")
    names = ("column quota", "index on email", "foreign key domain_id")
    assert create(server) == ({"virtual_users": new(*names)}, [])
    first, second = server.done
    assert "ADD quota BIGINT" in first and "ADD UNIQUE" in first and "FOREIGN KEY" not in first
    assert "FOREIGN KEY" in second and "UNIQUE" not in second


def test_after_a_failure_it_is_told_which_parts_of_a_table_are_done(create):
    """An ALTER TABLE of many rows takes its time: nobody repeats one that is done already."""
    server = Tables("virtual_users.quota", "index virtual_users.email", "key virtual_users", refuses="FOREIGN KEY")
    with pytest.raises(DatabaseError) as caught:
        create(server)
    assert str(caught.value) == (
        "db: no. apply ispmail.database again, it goes on from there:\n"
        "- done: virtual_users (column quota, index on email)\n- failed: virtual_users (foreign key domain_id)"
    )


def test_each_part_is_added_once(create):
    """A column in one step and its character set in the next."""
    narrow = {f"virtual_users.{column}": "utf8mb3_bin" for column in ("email", "password")}
    server = Tables("virtual_users.quota", collations=narrow)
    names = ("column quota", "utf8mb4 for email", "utf8mb4 for password")
    assert create(server) == ({"virtual_users": new(*names)}, []) and len(server.done) == 2


def test_a_column_that_is_missing_is_no_foreign_key_yet(create):
    """The question for its rows would fail: it has to be said that the table is not the guide's."""
    server = Tables("virtual_users.domain_id", "key virtual_users")
    with pytest.raises(InvalidInput, match=r"^mailserver\.virtual_users exists without domain_id, so it is not"):
        create(server)
    assert not [statement for statement, _ in server.asked if "c.domain_id" in statement]


def test_a_table_that_is_not_the_guides_is_left_alone(create):
    server = Tables("virtual_users.password")
    with pytest.raises(InvalidInput, match=r"^mailserver\.virtual_users exists without password, so it is not"):
        create(server)
    assert server.done == []


def test_a_view_is_not_altered(create):
    server = Tables("index virtual_users.email", kinds={"virtual_users": ("VIEW", None)})
    with pytest.raises(DatabaseError, match=r"^mailserver\.virtual_users is a view, nothing was changed: set ispmail"):
        create(server)
    assert server.done == []


def test_doubles_get_a_plain_index_once(create):
    """A column that has one already gets none."""
    doubles = [DOUBLES.format("virtual_users")]
    warning = (
        "mailserver.virtual_users.email has a value in several rows, so its index cannot be unique: "
        "remove the duplicates"
    )
    server = Tables("index virtual_users.email", found=doubles)
    assert create(server) == ({"virtual_users": new("index on email")}, [warning])
    assert "UNIQUE" not in server.done[0]
    server = Tables("index virtual_users.email", found=doubles, more_indexes=[("virtual_users", "p", "email", False)])
    assert create(server) == ({}, [warning]) and server.done == []
    more = {"more_indexes": [("virtual_users", "p", "email", False)]}
    server = Tables("virtual_users.quota", "index virtual_users.email", found=doubles, **more)
    assert create(server) == ({"virtual_users": new("column quota")}, [warning])
    # Of several columns only the first can be searched for.
    wide = [("virtual_users", "p", "domain_id", True), ("virtual_users", "p", "email", True)]
    server = Tables("index virtual_users.email", more_indexes=wide)
    assert create(server) == ({"virtual_users": new("index on email")}, []) and "UNIQUE" in server.done[0]


def test_many_rows_with_one_source_are_no_doubles(create):
    server = Tables("index virtual_aliases.source", found=[DOUBLES.format("virtual_aliases")])
    assert create(server) == ({"virtual_aliases": new("index on source")}, [])


@pytest.mark.parametrize(
    ("server", "reason"),
    [
        (
            {"kinds": {"virtual_users": ("BASE TABLE", "MyISAM")}},
            "both tables need InnoDB, see ALTER TABLE … ENGINE",
        ),
        (
            {"kinds": {"virtual_domains": ("BASE TABLE", "MyISAM")}},
            "both tables need InnoDB, see ALTER TABLE … ENGINE",
        ),
        (
            {"found": [ORPHANS.format("virtual_users") + LEFT_JOIN]},
            "some of its rows name a domain that does not exist, remove them",
        ),
    ],
)
def test_what_keeps_a_column_from_being_a_foreign_key(create, server, reason):
    text = f"mailserver.virtual_users.domain_id cannot become a foreign key: {reason}"
    assert create(Tables("key virtual_users", **server)) == ({}, [text])


def test_where_domains_are_missing_each_row_names_one_that_does_not_exist(create):
    server = Tables("virtual_domains", "key virtual_users", found=[ORPHANS.format("virtual_users") + " LIMIT 1"])
    changes, (warning,) = create(server)
    assert changes == {"virtual_domains": new("table")} and warning.endswith("does not exist, remove them")


def test_narrow_columns_are_converted_where_that_is_sure(create):
    narrow = {f"virtual_users.{column}": "utf8mb3_bin" for column in ("email", "password")}
    server = Tables(collations=narrow)
    assert create(server) == ({"virtual_users": new("utf8mb4 for email", "utf8mb4 for password")}, [])
    assert server.done == [
        "ALTER TABLE `mailserver`.`virtual_users` CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
    ]
    server = Tables(collations={"virtual_users.email": "latin1_bin"})
    text = "mailserver.virtual_users: convert email (latin1_bin) to utf8mb4 by hand, see ALTER TABLE … MODIFY"
    assert create(server) == ({}, [f"{text}, after a look at what they hold"])


def guide_table(*columns):
    return Table(columns, indexes=(), foreign_keys=(), engine="InnoDB", is_view=False, collations={})


class Rows:
    """A server with a table of real rows: of an SQLite, to which such statements mean what they mean to a MariaDB."""

    def __init__(self, *rows, domains=()):
        self._rows = sqlite3.connect(":memory:")
        self._rows.execute("ATTACH ':memory:' AS mailserver")
        self._rows.execute("CREATE TABLE mailserver.virtual_users (domain_id, email)")
        self._rows.execute("CREATE TABLE mailserver.virtual_domains (id)")
        self._rows.executemany("INSERT INTO mailserver.virtual_users VALUES (?, ?)", rows)
        self._rows.executemany("INSERT INTO mailserver.virtual_domains VALUES (?)", [(each,) for each in domains])

    def ask(self, statement):
        """As `_ispmail_database.Server.ask`."""
        cursor = self._rows.execute(statement)
        return [dict(zip([column[0] for column in cursor.description], row)) for row in cursor]


@pytest.mark.parametrize(
    ("emails", "has_doubles"),
    [(["a"], False), (["a", "b"], False), (["a", "b", "a"], True), ([None, None], False), ([], False)],
)
def test_which_rows_keep_an_index_from_being_unique(emails, has_doubles):
    """A unique index may have many NULLs."""
    users = guide_table("domain_id", "email")
    server = Rows(*((1, email) for email in emails))
    assert _ispmail_schema._has_doubles(server, "mailserver", "virtual_users", "email", users) is has_doubles


@pytest.mark.parametrize(
    ("ids", "domains", "is_possible"),
    [([1, 2, 1], [1, 2], True), ([1, 3], [1, 2], False), ([None], [1], True), ([], [], True), ([1], [], False)],
)
def test_which_rows_keep_a_column_from_being_a_foreign_key(ids, domains, is_possible):
    tables = {"virtual_users": guide_table("domain_id", "email"), "virtual_domains": guide_table("id")}
    server = Rows(*((each, "a") for each in ids), domains=domains)
    reason = _ispmail_schema._no_foreign_key(server, "mailserver", "virtual_users", tables)
    assert reason == (None if is_possible else "some of its rows name a domain that does not exist, remove them")
