"""What the doctor makes of a database's answers, and the limits that no real server is run into."""

import pytest

from ispmail_database import Asked, Rows
from ispmail_doctor_login import (
    Login,
    LoginAccount,
    LoginAnswers,
    MapAnswers,
    ask,
    check,
    check_login,
    check_query,
    enough_connections,
    idle_connections,
    logins,
    same_answers,
    statements,
)
from ispmail_errors import DatabaseError
from ispmail_sql import parse_grants

from .doctor_values import live_map, target

NO_ROWS = Rows([], None)


def account(idle=28800, most=1000, mine=0, grants=(), name="mailserver@127.0.0.1"):
    return LoginAccount(name, tuple(parse_grants(grants)), idle, most, mine)


def not_ok(findings):
    return {each.check: (each.result, each.fix) for each in findings if each.result != "ok"}


@pytest.mark.parametrize(
    ("limits", "maps", "neighbours", "fixes"),
    [
        ({}, [live_map()], 1, ["", ""]),
        (
            {"idle": 59},
            [live_map()],
            1,
            ["wait_timeout is 59 s, but Postfix keeps idle connections for 60 s: raise wait_timeout", ""],
        ),
        ({"idle": 60}, [live_map()], 1, ["", ""]),
        ({"idle": 59}, [live_map(idle_interval="30")], 1, ["", ""]),
        ({"idle": 99}, [live_map(), live_map(idle_interval="100")], 1, ["wait_timeout is 99 s", ""]),
        (
            {"most": 99},
            [live_map()],
            1,
            ["", "100 processes with 1 map each may open 100 connections, but max_connections is 99: set"],
        ),
        ({"most": 99}, [live_map(proxy=True)], 1, ["", ""]),
        # Another login's connections count for the server, not for the account.
        (
            {"most": 199, "mine": 150},
            [live_map()],
            2,
            ["", "200 connections, but max_connections is 199: set proxy: true for the maps, or raise max_c"],
        ),
        ({"most": 200, "mine": 150}, [live_map()], 2, ["", ""]),
        (
            {"mine": 99},
            [live_map()],
            1,
            ["", "max_user_connections is 99: set proxy: true for the maps, or raise max_user_connections"],
        ),
    ],
)
def test_limits(limits, maps, neighbours, fixes):
    login = Login("db", tuple(maps), tuple(maps * neighbours))
    found = [*idle_connections(login, account(**limits)), *enough_connections(login, account(**limits))]
    assert len(found) == len(fixes)
    for finding, fix in zip(found, fixes):
        assert fix in finding.fix and bool(fix) == bool(finding.fix)


def test_a_query_that_cannot_be_explained_is_no_fault():
    """CALL, and a view whose making the account may not see: Postfix asks them all the same."""
    plan = Rows([], "db: error 1345: grant SHOW VIEW")
    found = list(check_query(MapAnswers(live_map(), "db", NO_ROWS, plan)))
    assert [finding.result for finding in found] == ["ok", "ok", "warning"]
    assert found[2].fix == "EXPLAIN does not work: db: error 1345: grant SHOW VIEW"


def narrow(table, column, collation):
    return {"t": table, "c": column, "o": collation}


MIXED = "error 1267: a column's character set does not hold what it is compared with"
EFFECT = "any sender can use one, and Postfix then ignores this host for a minute. "


@pytest.mark.parametrize(
    ("columns", "cure"),
    [
        (
            [narrow("a", "source", "utf8mb3_general_ci"), narrow("a", "x", "utf8mb4_general_ci")],
            "In a, source is utf8mb3_general_ci: "
            "ALTER TABLE a CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci",
        ),
        (
            [narrow("a", "source", "latin1_swedish_ci"), narrow("b", "x", "utf8mb4_general_ci")],
            "a: convert source (latin1_swedish_ci) to utf8mb4 by hand, see ALTER TABLE … MODIFY, after a look at what "
            "they hold",
        ),
        ([], "Check the query and the character sets"),
    ],
)
def test_a_query_that_fails_for_some_addresses(columns, cure):
    """One RCPT by anybody, and a query of utf8mb3 tables stopped the mail of all for a minute: doctor said ok."""
    probes = {"a key with a 4-byte character": Rows([], MIXED), "a long key": NO_ROWS}
    found = not_ok(check_query(MapAnswers(live_map(), "db", NO_ROWS, NO_ROWS, {}, probes, Rows(columns))))
    fix = f"a key with a 4-byte character makes it fail ({MIXED}): {EFFECT}{cure}"
    assert found == {"the query takes every address": ("fault", fix)}


def test_what_any_sender_can_ask_is_asked():
    asked = statements(live_map(query="SELECT 1 FROM t JOIN u WHERE a='%s'"))
    assert "😂@" in asked.probes["a key with a 4-byte character"]
    assert "@PROBE.INVALID" in asked.probes["a key in upper case"]
    assert len(asked.probes["a long key"]) > 400
    # Postfix never asks a table for a label that the address does not have.
    assert list(statements(live_map(query="SELECT 1 FROM t WHERE a='%9'")).probes) == ["a long key"]
    assert "TABLE_NAME IN ('t', 'u')" in asked.collations


def test_the_plan_is_asked_for_in_columns():
    """MySQL 9 writes a plan as a tree: the doctor ended with a KeyError."""
    asked = statements(live_map(query="SELECT 1 FROM t WHERE a='%s'"))
    assert asked.plan == f"EXPLAIN FORMAT=TRADITIONAL {asked.query}"
    assert asked.query == "SELECT 1 FROM t WHERE a='probe@a.b.c.d.e.f.g.h.probe.invalid'"


QUERY = "SELECT a FROM t JOIN `u` ON t.id = u.id JOIN other.v ON v.id = u.id WHERE b='%u' AND c='%d'"


def test_only_maps_of_several_hosts_are_compared():
    """The same host twice is one host, see mysql_table(5)."""
    answers = [
        {"map": "virtual_alias_maps", "question": "jack@example.org", "answer": True},
        {"map": "virtual_alias_maps", "question": "no domain, so Postfix does not ask", "answer": False},
        {"map": "virtual_mailbox_maps", "question": "john@example.org", "answer": True},
        "not even a mapping",
    ]
    of = target(answers=answers)
    assert statements(live_map(of=of, query=QUERY, hosts="a, a")).compared == {}
    assert statements(live_map(of=of, query=QUERY, hosts="a b")).compared == {
        "rows of t": "SELECT COUNT(*) AS n FROM `t`",
        "rows of u": "SELECT COUNT(*) AS n FROM `u`",
        "answers to jack@example.org": QUERY.replace("%u", "jack").replace("%d", "example.org"),
    }


def test_maps_are_grouped_by_login():
    """Maps of another instance belong to the same login; those whose login is unknown belong to none."""
    common = {"user": "u", "password": "p", "hosts": "db1 db2"}
    other = target(prefix="submission: ")
    one, two = live_map("a", **common), live_map("b", of=other, **{**common, "hosts": "db1", "query": "SELECT 2"})
    mine = live_map("c", **{**common, "password": "q"})
    left_out = [live_map("d", option_file="/x", **common), live_map("e", type_="pgsql", **common)]
    assert logins([one, two, mine, *left_out]) == [
        Login("db1", (one, two), (one, two, mine)),
        Login("db2", (one,), (one, mine)),
        Login("db1", (mine,), (one, two, mine)),
        Login("db2", (mine,), (one, mine)),
    ]


def test_a_server_is_named_with_its_instance():
    """A server that several instances share has no pillar key before it."""
    main, second, third = (live_map(of=target(prefix)) for prefix in ("", "second: ", "third: "))
    assert Login("db", (main,), ()).where == "db"
    assert Login("db", (second, second), ()).where == "second: db"
    assert Login("db", (second, third), ()).where == Login("db", (main, second), ()).where == "db"


def test_each_map_gets_its_own_answers(monkeypatch):
    """All is asked in one session, in one list."""
    grants = ["GRANT SELECT ON `a`.* TO `u`@`127.0.0.1`"]
    rows = {
        "SELECT CURRENT_USER()": {"account": "u@127.0.0.1"},
        "SHOW GRANTS": {"Grants for u@127.0.0.1": grants[0]},
        "SELECT @@global": {"wait_timeout": "60", "max_connections": 151, "max_user_connections": 0},
    }

    def answer(keys, host, texts):
        assert (keys, host) == (first.keys, "db")
        found = [next((row for start, row in rows.items() if text.startswith(start)), {"x": text}) for text in texts]
        return Asked("ed25519", tuple(Rows([row], None) for row in found))

    monkeypatch.setattr("ispmail_database.ask", answer)
    first = live_map("a", query="SELECT 'a'", hosts="db x")
    second = live_map("b", query="SELECT 'b' FROM t", hosts="db x")
    found = ask(Login("db", (first, second), (first, second)))
    assert found.plugin == "ed25519" and found.reasons == ()
    assert found.account == account(60, 151, grants=grants, name="u@127.0.0.1")
    said = [{"query": each.query, "plan": each.plan, **each.compared} for each in found.maps]
    assert [{name: answer.rows[0]["x"] for name, answer in each.items()} for each in said] == [
        {"query": "SELECT 'a'", "plan": "EXPLAIN FORMAT=TRADITIONAL SELECT 'a'"},
        {
            "query": "SELECT 'b' FROM t",
            "plan": "EXPLAIN FORMAT=TRADITIONAL SELECT 'b' FROM t",
            "rows of t": "SELECT COUNT(*) AS n FROM `t`",
        },
    ]


def test_what_the_server_does_not_tell_is_one_fault(monkeypatch):
    """Neither the account nor its limits can be judged then; the queries can."""
    no = "db: error 1064: it does not understand the statement"
    monkeypatch.setattr("ispmail_database.ask", lambda keys, host, texts: Asked("x", (Rows([], no),) * len(texts)))
    found = not_ok(check_login(ask(Login("db", (live_map(),), ()))))
    assert found == {"the server answers": ("fault", no), "the query works": ("fault", no)}


@pytest.mark.parametrize(
    ("grants", "described"),
    [
        (["GRANT USAGE ON *.* TO `u`@`h`", "GRANT SELECT ON `m`.* TO `u`@`h`"], None),
        (["GRANT SELECT, INSERT ON `m`.* TO `u`@`h`"], "SELECT, INSERT ON `m`.*"),
        (["GRANT SELECT ON `m`.* TO `u`@`h` WITH GRANT OPTION"], "SELECT ON `m`.* WITH GRANT OPTION"),
        (["GRANT SELECT ON *.* TO `u`@`h`"], "SELECT ON *.*"),
    ],
)
def test_the_account_may_only_read(grants, described):
    login = Login("db", (live_map(user="mailserver", of=target(hosts=("127.0.0.1",))),), ())
    found = not_ok(check_login(LoginAnswers(login, "mysql_native_password", account(grants=grants), (), ())))
    fix = (
        f"mailserver@127.0.0.1 has {described}: give the program that needs it an account of its own, then revoke it, "
        "or set server:revoke_other_grants and apply ispmail.database"
    )
    assert found == ({"the account may only read": ("warning", fix)} if described else {})


def test_a_plugin_matters_only_in_a_chroot():
    for chroot, proxy, fault in ((True, False, True), (True, True, False), (False, False, False)):
        login = Login(
            "db", (live_map(user="mailserver", chroot=chroot, proxy=proxy, of=target(hosts=("127.0.0.1",))),), ()
        )
        found = not_ok(check_login(LoginAnswers(login, "ed25519", account(), (), ())))
        assert list(found) == (["smtpd's chroot has the login plugin"] if fault else [])


def test_hosts_are_compared_by_what_they_could_tell():
    """Rows come in any order; what one host refuses is a finding of its query, and differs from an answer."""
    live = live_map()
    ours = {"rows of t": Rows([{"n": 1}], None), "answers to x": Rows([{"a": "b"}, {"a": "c"}], None)}
    theirs = {"rows of t": Rows([{"n": 1}], None), "answers to x": Rows([{"a": "c"}, {"a": "b"}], None)}
    one, two = MapAnswers(live, "db1", NO_ROWS, NO_ROWS, ours), MapAnswers(live, "db2", NO_ROWS, NO_ROWS, theirs)
    assert [finding.result for finding in same_answers([one, two])] == ["ok"]
    assert list(same_answers([one])) == []
    refused = MapAnswers(live, "db3", NO_ROWS, NO_ROWS, {**theirs, "rows of t": Rows([], "no")})
    (finding,) = same_answers([one, two, refused])
    assert finding.fix == "rows of t differ on db1 and db3: check that replication works"
    empty = MapAnswers(live, "db4", NO_ROWS, NO_ROWS, {**theirs, "rows of t": NO_ROWS})
    assert "rows of t differ on db4 and db3" in next(same_answers([empty, refused])).fix


def test_a_login_that_fails_is_one_fault(monkeypatch):
    """No other check is made of it, and the others go on."""

    def answer(keys, host, texts):
        raise DatabaseError(f"{host}: error 1045: access is denied", 1045)

    monkeypatch.setattr("ispmail_database.ask", answer)
    found = list(check([live_map(hosts="db1 db2")]))
    assert [(finding.result, finding.fix) for finding in found] == [
        ("fault", "db1: error 1045: access is denied"),
        ("fault", "db2: error 1045: access is denied"),
    ]
