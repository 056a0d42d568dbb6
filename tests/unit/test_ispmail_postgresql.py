"""Statements of PostgreSQL, and what its catalogs say. tests/functional/test_postgresql.py has a server run them."""

import dataclasses
import re

import pytest

import _ispmail_sql
from _ispmail_errors import DatabaseError, InvalidInput
from _ispmail_postgresql import (
    GRANTED,
    Held,
    Right,
    Role,
    Self,
    alter_statements,
    copy_settings,
    create_account,
    create_database,
    describe,
    explain,
    forget_settings,
    give,
    grant,
    held,
    lock,
    missing,
    read_capitals,
    read_doubles,
    read_held,
    read_hidden,
    read_may_lock,
    read_orphans,
    read_others,
    read_rights,
    read_roles,
    read_tables,
    revoke,
    rights,
    role,
    self_of,
    set_password,
    tables,
)
from _ispmail_scram import verifier
from _ispmail_sql import Index, Missing, Table

VERIFIER = verifier(b"secret", bytes(16))
WHOLE = Missing(whole_table=True)


@pytest.mark.parametrize("text", ["secret", "", VERIFIER[:-1], "md5secret"])
@pytest.mark.parametrize("write", [set_password, create_account])
def test_a_password_in_clear_never_gets_into_a_statement(write, text):
    """The server takes whatever is no verifier for a password: it would hash it, and log it."""
    with pytest.raises(InvalidInput) as caught:
        write("mailserver_a", text)
    assert "secret" not in str(caught.value)


def test_a_password_that_is_set_does_not_expire():
    assert set_password("m_a", VERIFIER) == [f"ALTER ROLE \"m_a\" LOGIN PASSWORD '{VERIFIER}' VALID UNTIL 'infinity'"]
    assert create_account("m_a", VERIFIER) == [
        f"CREATE ROLE \"m_a\" LOGIN PASSWORD '{VERIFIER}' VALID UNTIL 'infinity'"
    ]


def test_settings_are_written_as_they_were_read():
    settings = (
        'search_path=mail, "a ""B"',
        "statement_timeout=5s",
        "application_name=it's",
        "search_path=",
        'search_path=Mail;drop/**/role/**/x , "$user"',
        "local_preload_libraries=A",
    )
    other = Role("m_a", True, False, None, None, (), settings, 0, -1)
    assert copy_settings("m_b", other) == [
        'ALTER ROLE "m_b" SET "search_path" TO \'mail\', \'a "B\'',
        'ALTER ROLE "m_b" SET "statement_timeout" TO \'5s\'',
        "ALTER ROLE \"m_b\" SET \"application_name\" TO 'it''s'",
        'ALTER ROLE "m_b" SET "search_path" TO \'\'',
        "ALTER ROLE \"m_b\" SET \"search_path\" TO 'mail;drop/**/role/**/x', '$user'",
        'ALTER ROLE "m_b" SET "local_preload_libraries" TO \'A\'',
    ]
    assert copy_settings("m_b", dataclasses.replace(other, settings=(), most=0)) == [
        'ALTER ROLE "m_b" CONNECTION LIMIT 0'
    ]


def test_settings_that_only_one_has_are_forgotten():
    found = Role("m_b", False, False, None, None, (), ("search_path=old",), 0, 3)
    assert forget_settings(found, "mail") == [
        'ALTER ROLE "m_b" RESET ALL',
        'ALTER ROLE "m_b" IN DATABASE "mail" RESET ALL',
        'ALTER ROLE "m_b" CONNECTION LIMIT -1',
    ]
    assert forget_settings(dataclasses.replace(found, settings=(), most=-1), "mail") == []


@pytest.mark.parametrize("value", ["a b", "a,", ",a", '"a', '"a"b', '"a" "b"', " "])
def test_a_setting_that_is_no_list_of_names(value):
    other = Role("m_a", True, False, None, None, (), (f"search_path={value}",), 0, -1)
    with pytest.raises(DatabaseError, match="search_path of the other role is no list of names: set it again"):
        copy_settings("m_b", other)


def test_a_role_is_read_without_showing_its_verifier():
    row = {
        "name": "m_a",
        "can_login": "t",
        "is_superuser": "f",
        "verifier": VERIFIER,
        "expires": "1700000000",
        "at_moment": "f",
        "groups": '["m"]',
        "settings": '["search_path=mail, public"]',
        "connections": "3",
        "most": "-1",
    }
    found = role(row)
    assert found == Role("m_a", True, False, VERIFIER, 1700000000, ("m",), ("search_path=mail, public",), 3, -1)
    assert VERIFIER not in repr(found)
    empty = role({**row, "can_login": "f", "verifier": None, "expires": None, "groups": None, "settings": None})
    assert empty == Role("m_a", False, False, None, None, (), (), 3, -1)
    assert role({**row, "at_moment": "t"}) == dataclasses.replace(found, at_moment=True)


@pytest.mark.parametrize("column", ["name", "connections", "most"])
def test_a_row_that_no_server_sends(column):
    row = dict.fromkeys(("name", "can_login", "is_superuser", "verifier", "expires", "at_moment", "groups", "settings"))
    with pytest.raises(ValueError):
        role({**row, "name": "m_a", "connections": "0", "most": "-1", column: None})


def test_only_a_superuser_s_statement_asks_for_verifiers():
    assert "rolpassword" in read_roles(["m_a", "it's"], superuser=True)
    assert "rolpassword" not in read_roles(["m_a"], superuser=False)
    assert "IN ('m_a', 'it''s')" in read_roles(["m_a", "it's"], superuser=True)


@pytest.mark.parametrize(
    "statement",
    [
        read_held("it's", "it's", "it's"),
        read_tables("it's"),
        read_roles(["it's"], True),
        read_rights("it's"),
        read_hidden("it's", "it's"),
        read_others("it's"),
    ],
)
def test_names_in_questions_are_quoted(statement):
    assert "'it''s'" in statement
    assert "'it's" not in statement
    assert not {"{", "}"} & set(statement)


NOTHING = {"connect": "f", "usage": "f", "unreadable": '["d", "u"]', "readable": None, "undefaulted": '["o"]'}
NOTHING = {**NOTHING, "more": None, "owned": None}


def test_questions_about_rows():
    place = '"it\'s"."virtual_aliases"'
    assert read_doubles("it's", "virtual_aliases", "source") == (
        f'SELECT 1 AS a FROM {place} GROUP BY "source" HAVING count("source") > 1 LIMIT 1'
    )
    assert read_capitals("it's", "a") == 'SELECT count(*) AS n FROM "it\'s" WHERE "a" <> lower("a")'
    assert read_orphans("it's", "virtual_aliases", False) == f"SELECT 1 AS a FROM {place} c LIMIT 1"
    assert read_orphans("it's", "virtual_aliases", True) == (
        f'SELECT 1 AS a FROM {place} c LEFT JOIN "it\'s"."virtual_domains" p ON p.id = c.domain_id'
        " WHERE p.id IS NULL AND c.domain_id IS NOT NULL LIMIT 1"
    )
    assert explain("SELECT 1") == "SELECT set_config('enable_seqscan', 'off', true); EXPLAIN (FORMAT JSON) SELECT 1"
    assert "IN ('virtual_domains', 'virtual_users', 'virtual_aliases')" in read_others("public")


def test_a_table_of_the_guide():
    parent = '"m"."virtual_domains" (id) ON DELETE CASCADE'
    key = "integer GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY"
    assert alter_statements("m", "virtual_domains", WHOLE) == [
        f'CREATE TABLE "m"."virtual_domains" (id {key}, name varchar(50) NOT NULL)',
        'CREATE UNIQUE INDEX ON "m"."virtual_domains" (name)',
    ]
    assert alter_statements("m", "virtual_aliases", WHOLE)[1:] == [
        'CREATE INDEX ON "m"."virtual_aliases" (source)',
        f'ALTER TABLE "m"."virtual_aliases" ADD FOREIGN KEY (domain_id) REFERENCES {parent}',
    ]


def test_grants_that_are_missing():
    nothing = held(NOTHING)
    assert nothing == Held(False, False, ("d", "u"), (), ("o",), ())
    assert describe(nothing, "db", "mail") == []
    assert grant(nothing, "db", "mail", "m") == [
        'GRANT CONNECT ON DATABASE "db" TO "m"',
        'GRANT USAGE ON SCHEMA "mail" TO "m"',
        'GRANT SELECT ON "mail"."d", "mail"."u" TO "m"',
        'ALTER DEFAULT PRIVILEGES FOR ROLE "o" IN SCHEMA "mail" GRANT SELECT ON TABLES TO "m"',
    ]
    more = {"unreadable": None, "readable": '["d"]', "undefaulted": None, "more": '["INSERT ON d"]'}
    everything = held({**NOTHING, "connect": "t", "usage": "t", **more})
    assert everything == GRANTED._replace(readable=("d",), more=("INSERT ON d",))
    assert grant(everything, "db", "mail", "m") == []
    assert revoke(everything, "m") == ['REVOKE INSERT ON d FROM "m"']
    assert describe(everything, "db", "mail") == [
        'CONNECT ON DATABASE "db"',
        'USAGE ON SCHEMA "mail"',
        'SELECT ON ALL TABLES IN SCHEMA "mail"',
        'SELECT ON TABLES THAT ARE MADE LATER IN SCHEMA "mail"',
        "INSERT ON d",
    ]
    assert describe(held({**NOTHING, "readable": '["a", "b"]'}), "db", "mail") == ['SELECT ON "a", "b"']


def test_tables_are_read_as_ispmail_sql_has_them():
    row = {
        "name": "virtual_users",
        "is_view": "f",
        "columns": '["id", "email"]',
        "indexes": '[[true, ["id"]], [false, ["email", "id"]]]',
        "foreign_keys": None,
    }
    indexes = (Index(("id",), True), Index(("email", "id"), False))
    expected = Table(("id", "email"), indexes, (), None, False, {})
    assert tables([row]) == {"virtual_users": expected}
    assert tables([{**row, "indexes": None, "is_view": "t"}])["virtual_users"] == Table(
        ("id", "email"), (), (), None, True, {}
    )


def columns(statement):
    """Name, type and whether it may be null, of each column."""
    found = re.findall(r"[(,] ?(\w+) ((?:big)?int(?:eger)?|varchar\(\d+\)) ([^,]*)", statement, re.IGNORECASE)
    return [
        (name, kind.lower(), re.findall("NOT NULL(?! AUTO)|DEFAULT 0|PRIMARY KEY", more)) for name, kind, more in found
    ]


@pytest.mark.parametrize("table", _ispmail_sql.missing({}))
def test_the_guide_s_tables_have_the_same_columns_and_indexes(table):
    statements = alter_statements("public", table, WHOLE)
    mariadb = _ispmail_sql.alter_statement("mailserver", table, WHOLE)
    assert columns(statements[0]) == columns(mariadb.replace("INT ", "INTEGER ").replace("BIGINTEGER", "BIGINT"))
    indexes = [statement for statement in statements if " INDEX " in statement]
    assert len(indexes) == mariadb.count("INDEX (")
    assert ("UNIQUE INDEX" in mariadb) == ("UNIQUE INDEX" in indexes[0])
    assert ("FOREIGN KEY" in mariadb) == ("FOREIGN KEY" in statements[-1])


def test_what_a_table_is_missing_is_added():
    needs = Missing(columns=("quota",), indexes=("email",), plain_indexes=("email",), foreign_keys=("domain_id",))
    assert alter_statements("mail", "virtual_users", needs) == [
        'ALTER TABLE "mail"."virtual_users" ADD COLUMN quota bigint NOT NULL DEFAULT 0',
        'CREATE INDEX ON "mail"."virtual_users" (email)',
        'ALTER TABLE "mail"."virtual_users" ADD FOREIGN KEY (domain_id) REFERENCES "mail"."virtual_domains" (id)'
        " ON DELETE CASCADE",
    ]
    unique = alter_statements("mail", "virtual_users", Missing(indexes=("email",)))
    assert unique == ['CREATE UNIQUE INDEX ON "mail"."virtual_users" (email)']
    with pytest.raises(InvalidInput, match="exists without email, so it is not the guide's"):
        alter_statements("mail", "virtual_users", Missing(columns=("email", "quota")))


def test_a_database_holds_every_address():
    assert create_database("mail") == ["CREATE DATABASE \"mail\" TEMPLATE template0 ENCODING 'UTF8'"]


def test_what_a_role_sees_of_itself():
    row = {"name": "m", "is_superuser": "f", "expires": "-3", "date": "2001-01-01", "of_role": "5", "of_database": "0"}
    found = self_of({**row, "of_server": "97", "idle": "30", "writable": '["a"]'})
    limits = {"max_connections": 97, "CONNECTION LIMIT of the database": 0, "CONNECTION LIMIT of the role": 5}
    assert found == Self("m", False, -3, "2001-01-01", limits, 30, ("a",))
    found = self_of({**row, "is_superuser": "t", "expires": None, "of_server": "1", "idle": "0", "writable": None})
    assert (found.is_superuser, found.expires, found.writable) == (True, None, ())
    for date in ("\x1b[2J", "2001-01-01\n", "x" * 10):
        with pytest.raises(ValueError, match="this is no date"):
            self_of({**row, "of_server": "1", "idle": "0", "writable": None, "date": date})


def test_who_may_lock_a_role():
    assert "(SELECT oid FROM pg_roles WHERE rolname = 'm''a')" in read_may_lock("m'a")


def test_a_right_covers_what_is_less():
    """What a role has beyond that is no reason to give it again: it would be given anew in each rotation."""
    endings = [
        "",
        " WITH ADMIN OPTION",
        " WITH INHERIT FALSE, SET TRUE",
        " WITH ADMIN OPTION, INHERIT FALSE, SET FALSE",
    ]
    plain, admin, quiet, least = (Right("GRANT readers", ending) for ending in endings)
    every = [plain, admin, quiet, least]
    assert missing([plain], every) == [admin, least]
    assert missing([admin], every) == []
    assert missing([quiet], every) == [plain, admin, least]
    assert missing([least], every) == [plain, admin, quiet]
    assert missing([quiet, least], every) == [plain, admin]
    select = Right("GRANT SELECT ON TABLE t", " WITH GRANT OPTION")
    assert missing([select], [select._replace(ending=""), select, plain]) == [plain]
    assert missing([select._replace(ending="")], [select]) == [select]


def test_rights_are_given_as_they_were():
    rows = [
        {"statement": "GRANT SELECT ON TABLE a", "ending": " WITH GRANT OPTION"},
        {"statement": "ALTER DEFAULT PRIVILEGES FOR ROLE o GRANT SELECT ON TABLES", "ending": ""},
    ]
    found = rights(rows)
    assert give(found, "m") == [
        'GRANT SELECT ON TABLE a TO "m" WITH GRANT OPTION',
        'ALTER DEFAULT PRIVILEGES FOR ROLE o GRANT SELECT ON TABLES TO "m"',
    ]
    assert [right.describe() for right in found] == [
        "SELECT ON TABLE a WITH GRANT OPTION",
        "ALTER DEFAULT PRIVILEGES FOR ROLE o SELECT ON TABLES",
    ]


def test_a_locked_account():
    assert lock("m_a") == ['ALTER ROLE "m_a" NOLOGIN']
