"""The SQL of the database's side: statements for MariaDB and MySQL, grants, plans, and what pillar may say."""

import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from salt.exceptions import CommandExecutionError, SaltInvocationError

from _modules import postfix_database, postfix_sql

OLD, NEW = "*" + "A" * 40, "*" + "B" * 40


def indexed(*columns, unique=False):
    return {"columns": list(columns), "unique": unique}


WHOLE = {
    "virtual_domains": {"columns": ["id", "name"], "indexes": [indexed("name", unique=True)], "foreign": []},
    "virtual_users": {
        "columns": ["id", "domain_id", "email", "password", "quota"],
        "indexes": [indexed("email", unique=True)],
        "foreign": ["domain_id"],
    },
    "virtual_aliases": {
        "columns": ["id", "domain_id", "source", "destination"],
        "indexes": [indexed("source", "destination")],
        "foreign": ["domain_id"],
    },
}


def test_what_is_whole_lacks_nothing():
    assert postfix_sql.lacks(WHOLE) == {}
    assert postfix_sql.lacks({}) == {table: {"table": True} for table in WHOLE}


@pytest.mark.parametrize(
    ("table", "part", "value", "lacking"),
    [
        ("virtual_domains", "indexes", [indexed("name")], {"indexes": ["name"]}),
        ("virtual_domains", "indexes", [indexed("name", "id", unique=True)], {"indexes": ["name"]}),
        ("virtual_users", "indexes", [indexed("domain_id", "email", unique=True)], {"indexes": ["email"]}),
        ("virtual_aliases", "indexes", [indexed("destination", "source")], {"indexes": ["source"]}),
        ("virtual_aliases", "foreign", [], {"foreign": ["domain_id"]}),
        ("virtual_users", "columns", ["id", "domain_id", "email", "password"], {"columns": ["quota"]}),
    ],
)
def test_what_is_lacking(table, part, value, lacking):
    found = {**WHOLE, table: {**WHOLE[table], part: value}}
    assert postfix_sql.lacks(found) == {table: {"columns": [], "indexes": [], "foreign": [], **lacking}}


def test_the_statements_of_a_mend():
    parts = {"columns": ["quota"], "indexes": ["email"], "foreign": ["domain_id"]}
    assert postfix_sql.mend("a`b", "virtual_users", parts) == (
        "ALTER TABLE `a``b`.`virtual_users` ADD quota BIGINT NOT NULL DEFAULT 0, ADD UNIQUE INDEX (email), "
        "ADD FOREIGN KEY (domain_id) REFERENCES `virtual_domains` (id) ON DELETE CASCADE"
    )
    parts = {"columns": [], "indexes": ["email"], "foreign": [], "plain": ["email"]}
    assert postfix_sql.mend("m", "virtual_users", parts) == "ALTER TABLE `m`.`virtual_users` ADD INDEX (email)"
    with pytest.raises(SaltInvocationError, match="is there without email, destination"):
        postfix_sql.mend("m", "virtual_aliases", {"columns": ["email", "destination"], "indexes": [], "foreign": []})


USER = "USER %(user)s@%(host)s"
PASSWORDS = [
    ("create", True, [f"CREATE {USER} IDENTIFIED VIA mysql_native_password USING %(new)s"]),
    (
        "accept",
        True,
        [f"ALTER {USER} IDENTIFIED VIA mysql_native_password USING %(new)s OR mysql_native_password USING %(old0)s"],
    ),
    ("sole", True, [f"ALTER {USER} IDENTIFIED VIA mysql_native_password USING %(new)s"]),
    ("create", False, [f"CREATE {USER} IDENTIFIED WITH mysql_native_password AS %(new)s"]),
    ("accept", False, [f"ALTER {USER} IDENTIFIED WITH mysql_native_password AS %(new)s RETAIN CURRENT PASSWORD"]),
    (
        "sole",
        False,
        [f"ALTER {USER} IDENTIFIED WITH mysql_native_password AS %(new)s", f"ALTER {USER} DISCARD OLD PASSWORD"],
    ),
]


@pytest.mark.parametrize(("action", "mariadb", "statements"), PASSWORDS)
def test_the_statements_of_a_password(action, mariadb, statements):
    assert postfix_sql.password(action, mariadb) == statements


def test_a_third_password_beside_two():
    assert postfix_sql.password("accept", kept=2)[0].endswith(
        " VIA mysql_native_password USING %(new)s OR mysql_native_password USING %(old0)s"
        " OR mysql_native_password USING %(old1)s"
    )


def test_no_other_action():
    with pytest.raises(SaltInvocationError, match="create, accept, sole"):
        postfix_sql.password("drop")


class FakeServer:
    """Answers every statement with the same rows."""

    def __init__(self, mariadb, *rows):
        self.mariadb, self.rows = mariadb, rows

    def ask(self, statement, arguments=None):
        return list(self.rows)


def mysql_row(plugin="mysql_native_password", hash=OLD, second=None, locked="N"):
    return {"host": "%", "plugin": plugin, "hash": hash, "second": second, "locked": locked}


@pytest.mark.parametrize(
    ("row", "plugins", "hashes", "locked"),
    [
        (mysql_row(), ["mysql_native_password"], [OLD], False),
        (mysql_row(second=NEW), ["mysql_native_password"], [OLD, NEW], False),
        (mysql_row(second=OLD), ["mysql_native_password"], [OLD], False),
        (mysql_row(hash=None, locked="Y"), ["mysql_native_password"], [""], True),
        (mysql_row("caching_sha2_password", "$A$005$x"), ["caching_sha2_password"], [], False),
    ],
)
def test_accounts_of_mysql(row, plugins, hashes, locked):
    found = postfix_database._accounts(FakeServer(False, row), "u")
    assert found == {"%": {"plugins": plugins, "hashes": hashes, "locked": locked}}


def test_a_mysql_keeps_no_third_password():
    account = {"plugins": ["mysql_native_password"], "hashes": [OLD, NEW], "locked": False}
    third = "*" + "3" * 40
    said = postfix_database._credential_fault(account, third, "accept", mariadb=False)
    assert "accepts two other passwords already" in said and "put the newer one of them back into pillar" in said
    assert postfix_database._credential_fault(account, third, "accept", mariadb=True) is None


NATIVE = '"plugin":"mysql_native_password","authentication_string"'


@pytest.mark.parametrize(
    ("priv", "plugins", "hashes"),
    [
        (f'{{{NATIVE}:"{OLD}"}}', ["mysql_native_password"], [OLD]),
        (f'{{{NATIVE}:"{OLD.lower()}"}}', ["mysql_native_password"], [OLD]),
        (f'{{{NATIVE}:"{OLD}","auth_or":[{{}}]}}', ["mysql_native_password"], [OLD]),
        (f'{{{NATIVE}:"{OLD}","auth_or":[{{}},{{{NATIVE}:"{NEW}"}}]}}', ["mysql_native_password"], [OLD, NEW]),
        (f'{{{NATIVE}:"{OLD}","auth_or":[{{{NATIVE}:"{NEW}"}},{{}}]}}', ["mysql_native_password"], [NEW, OLD]),
        (f'{{{NATIVE}:"{OLD}","auth_or":[{{}},{{"plugin":"ed25519"}}]}}', ["mysql_native_password", "ed25519"], [OLD]),
        # What the server writes of OR … USING ''.
        (
            f'{{{NATIVE}:"{OLD}","auth_or":[{{}},{{"plugin":"mysql_native_password"}}]}}',
            ["mysql_native_password"],
            [OLD, ""],
        ),
        (f'{{{NATIVE}:"invalid"}}', ["mysql_native_password"], []),
        ("{}", ["mysql_native_password"], [""]),
    ],
)
def test_accounts_of_mariadb(priv, plugins, hashes):
    found = postfix_database._accounts(FakeServer(True, {"host": "h", "priv": priv}), "u")
    assert found == {"h": {"plugins": plugins, "hashes": hashes, "locked": False}}


def test_without_pymysql_the_mend_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pymysql", None)
    with pytest.raises(
        CommandExecutionError, match=r"has no PyMySQL: apply ispmail\.database, or install python3-pymysql"
    ):
        postfix_database._Server("x", {})


def test_a_role_is_no_account():
    assert postfix_database._accounts(FakeServer(True, {"host": "", "priv": '{"is_role":true}'}), "u") == {}


# A line of SHOW GRANTS for `u`@`h`; what it is read as.
LINES = [
    ("GRANT USAGE ON *.* TO `u`@`h` IDENTIFIED BY PASSWORD '*ABC'", []),
    ("GRANT SELECT ON `m`.* TO `u`@`h`", [(["SELECT"], "`m`.*", False)]),
    ("GRANT ALL PRIVILEGES ON *.* TO `u`@`h` WITH GRANT OPTION", [(["ALL PRIVILEGES"], "*.*", True)]),
    ("GRANT USAGE ON *.* TO `u`@`h` REQUIRE SSL WITH GRANT OPTION", [([], "*.*", True)]),
    ("GRANT SELECT ON `a`` ON b`.* TO `u`@`h`", [(["SELECT"], "`a`` ON b`.*", False)]),
    (
        "GRANT SELECT (`a`, `b`), UPDATE (`c`) ON `m`.`t` TO `u`@`h`",
        [(["SELECT (`a`, `b`)", "UPDATE (`c`)"], "`m`.`t`", False)],
    ),
    ("GRANT EXECUTE ON PROCEDURE `m`.`p` TO `u`@`h`", [(["EXECUTE"], "PROCEDURE `m`.`p`", False)]),
    ("GRANT EXECUTE ON PACKAGE BODY `m`.`p` TO `u`@`h`", [(["EXECUTE"], "PACKAGE BODY `m`.`p`", False)]),
    ("GRANT PROXY ON ''@'%' TO 'u'@'h' WITH GRANT OPTION", [(["PROXY"], "''@'%'", True)]),
    ("GRANT PROXY ON `a`@`b` TO `u`@`h`", [(["PROXY"], "`a`@`b`", False)]),
    ("GRANT `r` TO `u`@`h` WITH ADMIN OPTION", [(["`r`"], None, False)]),
    ("GRANT `r`@`%` TO `u`@`h`", [(["`r`@`%`"], None, False)]),
    ("SET DEFAULT ROLE `r` FOR `u`@`h`", []),
    ("GRANT SELECT ON `m`.* TO PUBLIC", []),
    ("GRANT SELECT ON `m`.* TO `r`", []),
]


@pytest.mark.parametrize(("line", "held"), LINES)
def test_a_line_of_show_grants(line, held):
    keys = ("privileges", "object", "option")
    assert postfix_sql.grants([line]) == [dict(zip(keys, grant)) for grant in held]


def regrant(*lines, dbname="m", every=("SELECT", "INSERT", "DELETE HISTORY")):
    statements = postfix_sql.regrant(postfix_sql.grants(lines), dbname, every)
    return [statement % {"user": "u", "host": "h"} for statement in statements]


REGRANTS = [
    ([], ["GRANT SELECT ON `m`.* TO u@h"]),
    (["GRANT SELECT ON `m`.* TO `u`@`h`"], []),
    (
        ["GRANT ALL PRIVILEGES ON `m`.* TO `u`@`h` WITH GRANT OPTION"],
        ["REVOKE INSERT, DELETE HISTORY ON `m`.* FROM u@h", "REVOKE GRANT OPTION ON `m`.* FROM u@h"],
    ),
    (["GRANT SELECT ON *.* TO `u`@`h`"], ["GRANT SELECT ON `m`.* TO u@h", "REVOKE SELECT ON *.* FROM u@h"]),
    (
        ["GRANT SELECT ON `m`.* TO `u`@`h`", "GRANT SELECT ON `x%`.* TO `u`@`h`", "GRANT `r` TO `u`@`h`"],
        ["REVOKE SELECT ON `x%`.* FROM u@h", "REVOKE `r` FROM u@h"],
    ),
    (
        ["GRANT SELECT ON `m`.* TO `u`@`h`", "GRANT PROXY ON ''@'%' TO 'u'@'h' WITH GRANT OPTION"],
        ["REVOKE PROXY ON ''@'%' FROM u@h"],
    ),
]


@pytest.mark.parametrize(("lines", "statements"), REGRANTS)
def test_the_statements_of_grants(lines, statements):
    assert regrant(*lines) == statements


def test_a_database_name_is_no_pattern():
    assert regrant(dbname="a_b%c") == [r"GRANT SELECT ON `a\_b\%c`.* TO u@h"]
    assert regrant(r"GRANT SELECT ON `a\_b`.* TO `u`@`h`", dbname="a_b") == []
    assert regrant("GRANT SELECT ON `a_b`.* TO `u`@`h`", dbname="a_b") == [
        r"GRANT SELECT ON `a\_b`.* TO u@h",
        "REVOKE SELECT ON `a_b`.* FROM u@h",
    ]


FILLED = [
    ("a='%s'", "j@x.org", "a='j@x.org'"),
    ("a='%u' AND b='%d'", "j@x.org", "a='j' AND b='x.org'"),
    ("a='%U' AND b='%S'", "j", "a='j' AND b='j'"),
    ("a='@%d'", "x.org", None),
    ("a='%1.%2'", "j@a.x.org", "a='org.x'"),
    ("a='%3'", "j@x.org", None),
    ("a LIKE '%%%u'", "j@x.org", "a LIKE '%j'"),
    ("a='%s'", "o'h\"m\\", "a='o\\'h\\\"m\\\\'"),
]


@pytest.mark.parametrize(("query", "question", "statement"), FILLED)
def test_expansions(query, question, statement):
    assert postfix_sql.fill(query, question) == statement


@given(st.text("a'\"\\@.%s", max_size=12))
def test_no_question_leaves_its_quotes(question):
    statement = postfix_sql.fill("'%s'", question)
    assert re.fullmatch(r"'(?:[^'\\]|\\.)*'", statement)


def row(table, type_="ALL", possible=None):
    return {"table": table, "type": type_, "possible_keys": possible}


SCANS = [
    ("SELECT 1 FROM t WHERE a='%s'", [row("t")], ["reads all of t for each question: ALTER TABLE t ADD INDEX (a)"]),
    ("SELECT 1 FROM t WHERE '%s' = `a`", [row("t", "index")], ["ADD INDEX (a)"]),
    ("SELECT 1 FROM t WHERE `a` like '%u@%%'", [row("t")], ["ADD INDEX (a)"]),
    ("SELECT 1 FROM t AS x WHERE x.a='%s'", [row("x")], ["ALTER TABLE t ADD INDEX (a)"]),
    ("SELECT 1 FROM t x JOIN v ON x.i=v.i WHERE v.a='%u'", [row("x")], ["reads all of t", "has an index"]),
    ("SELECT 1 FROM t JOIN v ON t.i=v.i WHERE v.b='%s' AND t.a='%u'", [row("t"), row("v", "ref", "b")], ["INDEX (a)"]),
    ("SELECT 1 FROM t WHERE lower(a)='%s'", [row("t")], ["compare a column that has an index"]),
    ("SELECT 1 FROM t WHERE a='%s'", [row("t", "ALL", "a")], []),
    ("SELECT 1 FROM t WHERE a='%s'", [row("t", "ref", "a")], []),
    ("SELECT 1 FROM t WHERE a='%s'", [row(None, None)], []),
    ("SELECT 1 FROM t WHERE a='%s'", [row("<derived2>")], []),
]


@pytest.mark.parametrize(("query", "plan", "said"), SCANS)
def test_scans(query, plan, said):
    found = postfix_sql.scans(query, plan)
    assert bool(found) == bool(said) and len(found) <= 1
    assert all(text in found[0] for text in said)


def test_the_least_pillar():
    assert postfix_sql.canonicalize({"database": {"password": "x"}}) == {
        "user": "mailserver",
        "password": "x",
        "dbname": "mailserver",
        "hosts": ["127.0.0.1"],
        "create_tables": True,
        "login": {"unix_socket": "/run/mysqld/mysqld.sock", "user": "root"},
        "errors": [],
    }
    server = {"host": "db", "port": 3307, "user": "a", "password": "b", "accounts_host": ["A.test", "a.test", "10.%"]}
    plan = postfix_sql.canonicalize({"server": server})
    assert plan["login"] == {"host": "db", "port": 3307, "user": "a", "password": "b"}
    assert (plan["hosts"], plan["errors"]) == (["a.test", "10.%"], [])


FAULTS = [
    ({"server": []}, "server", "must be a mapping"),
    ({"database": "TOKEN"}, "database", "must be a mapping"),
    *(({"server": {"port": port}}, "server:port", "a number") for port in (0, 65536, True, "3306")),
    *(({"server": {key: 1}}, f"server:{key}", "a text") for key in ("unix_socket", "host", "user", "password")),
    ({"server": {"host": ""}}, "server:host", "a text"),
    ({"server": {"user": "TOKEN\n"}}, "server:user", "a text"),
    ({"server": {"unix_socket": "/a", "host": "b"}}, "server:host", "beside unix_socket"),
    *(({"server": {"accounts_host": hosts}}, "server:accounts_host", "a list of texts") for hosts in ([], [1], "", {})),
    ({"server": {"create_tables": "yes"}}, "server:create_tables", "true or false"),
    ({"server": {"acounts_host": "x"}}, "server:acounts_host", "is not a key"),
    ({"database": {"user": ""}}, "database:user", "is empty"),
    ({"database": {"dbname": ""}}, "database:dbname", "is empty"),
]


@pytest.mark.parametrize(("config", "key", "said"), FAULTS)
def test_faults_of_pillar(config, key, said):
    errors = postfix_sql.canonicalize(config)["errors"]
    assert [fault for fault, _ in errors] == [key]
    assert said in errors[0][1] and "TOKEN" not in errors[0][1]
    with pytest.raises(SaltInvocationError, match="must be a mapping"):
        postfix_sql.canonicalize("TOKEN")
