"""What the doctor makes of a database's answers, and the limits that no real server is run into."""

import dataclasses
from pathlib import Path

import pytest
import sqlglot

import _ispmail_lookup
from _ispmail_doctor_login import (
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
from _ispmail_errors import DatabaseError
from _ispmail_session import Asked, Rows
from _ispmail_sql import parse_grants

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
    probes = {"an address with a 4-byte character": Rows([], MIXED), "a long address": NO_ROWS}
    found = not_ok(check_query(MapAnswers(live_map(), "db", NO_ROWS, NO_ROWS, {}, probes, Rows(columns))))
    fix = f"an address with a 4-byte character makes it fail ({MIXED}): {EFFECT}{cure}"
    assert found == {"the query takes every address": ("fault", fix)}


def test_what_any_sender_can_ask_is_asked():
    asked = statements(live_map(query="SELECT 1 FROM t JOIN u WHERE a='%s'"))
    assert "😂@" in asked.probes["an address with a 4-byte character"]
    assert "PROBE@A.B.C" in asked.probes["an address in upper case"]
    assert len(asked.probes["a long address"]) > 500
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
    left_out += [live_map("f", password="p", hosts="db1"), live_map("g", **{**common, "user": ""})]
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

    monkeypatch.setattr("_ispmail_session.ask", answer)
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
    monkeypatch.setattr("_ispmail_session.ask", lambda keys, host, texts: Asked("x", (Rows([], no),) * len(texts)))
    found = not_ok(check_login(ask(Login("db", (live_map(),), ()))))
    assert found == {"the server answers": ("fault", no), "the query works": ("fault", no)}


@pytest.mark.parametrize(
    ("grants", "described"),
    [
        (["GRANT USAGE ON *.* TO `u`@`h`", "GRANT SELECT ON `m`.* TO `u`@`h`"], None),
        (["GRANT SELECT, INSERT ON `m`.* TO `u`@`h`"], "SELECT, INSERT ON `m`.*"),
        (["GRANT SELECT ON `m`.* TO `u`@`h` WITH GRANT OPTION"], "SELECT ON `m`.* WITH GRANT OPTION"),
        (["GRANT SELECT ON *.* TO `u`@`h`"], "SELECT ON *.*"),
        (["GRANT INSERT ON `m`.* TO `u`@`h`", "GRANT DROP ON `n`.* TO `u`@`h`"], "INSERT ON `m`.*; DROP ON `n`.*"),
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

    monkeypatch.setattr("_ispmail_session.ask", answer)
    found = list(check([live_map("a", user="u", hosts="db1 db2"), live_map("b", user="u", hosts="db1")]))
    assert [(finding.result, finding.where, finding.fix) for finding in found] == [
        ("fault", "db1 for a, b", "db1: error 1045: access is denied"),
        ("fault", "db2 for a", "db2: error 1045: access is denied"),
    ]


def test_hosts_that_have_different_rows(monkeypatch):
    """Replication that has stopped: both hosts answer, and half of the mail gets the old answers."""

    def answer(keys, host, texts):
        count = Rows([{"n": 1 if host == "db1" else 2}])
        return Asked("x", tuple(count if "COUNT(*)" in text else Rows([], "no") for text in texts))

    monkeypatch.setattr("_ispmail_session.ask", answer)
    found = list(check([live_map("a", user="u", hosts="db1 db2", query="SELECT x FROM t JOIN u WHERE y='%s'")]))
    assert [(each.result, each.where, each.fix) for each in found if each.check == "the login works"] == [
        ("ok", "db1 for a", ""),
        ("ok", "db2 for a", ""),
    ]
    assert not_ok(found)["all hosts give the same answers"] == (
        "warning",
        "rows of t differ on db1 and db2; rows of u differ on db1 and db2: check that replication works",
    )


@pytest.mark.parametrize(
    "key",
    [
        "user",
        "password",
        "dbname",
        "tls_CAfile",
        "tls_CApath",
        "tls_cert_file",
        "tls_key_file",
        "tls_ciphers",
        "tls_verify_cert",
    ],
)
def test_what_makes_two_logins(key):
    """One of them may work where the other does not, so both are tried."""
    common = {"user": "u", "hosts": "db"}
    one, two, like_one = (live_map("a", **common), live_map("b", **{**common, key: "x"}), live_map("c", **common))
    assert [login.maps for login in logins([one, two, like_one])] == [(one, like_one), (two,)]


@pytest.mark.parametrize(
    ("query", "tables"), [("SELECT a FROM t, u WHERE b='%s'", ["t", "u"]), ("CALL p('%s')", [""]), ("", [""])]
)
def test_the_statement_on_collations_is_one_that_a_server_takes(query, tables):
    """Without a table in the query too."""
    asked = sqlglot.parse_one(statements(live_map(query=query)).collations, dialect="mysql")
    assert asked.named_selects == ["t", "c", "o"]
    assert [each.this for each in asked.find(sqlglot.exp.In).expressions] == tables


def test_all_reasons_of_a_server_that_does_not_tell():
    found = LoginAnswers(Login("db", (live_map(),), ()), "x", None, ("no", "nor that"), ())
    assert not_ok(check_login(found)) == {"the server answers": ("fault", "no; nor that")}


def test_a_plugin_that_some_chroots_have(tmp_path):
    """Each instance of Postfix may have a chroot of its own."""
    chroots = [str(tmp_path / name) for name in ("c", "b", "a")]
    has_it = Path(f"{chroots[0]}{_ispmail_lookup.plugin_directory()}")
    has_it.mkdir(parents=True)
    (has_it / "client_ed25519.so").touch()
    maps = [dataclasses.replace(live_map(chroot=True), chroot=each) for each in chroots]

    def fault(*some, plugin="ed25519"):
        found = not_ok(check_login(LoginAnswers(Login("db", some, ()), plugin, None, ("no",), ())))
        return found.get("smtpd's chroot has the login plugin")

    assert fault(maps[0]) is None
    assert fault(*maps) == (
        "fault",
        f"the account logs in by ed25519, which is missing in smtpd's chroot {chroots[2]}, {chroots[1]}: "
        "set proxy: true for the maps, or use mysql_native_password",
    )
    # MySQL 9 has no other.
    file = f"{_ispmail_lookup.plugin_directory()}/caching_sha2_password.so"
    assert fault(maps[1], plugin="caching_sha2_password") == (
        "fault",
        f"the account logs in by caching_sha2_password, which is missing in smtpd's chroot {chroots[1]}: set proxy: "
        f"true for the maps, or switch the chroot off in master.cf, or copy {file} to the same path below it",
    )
    (has_it / "caching_sha2_password.so").touch()
    assert fault(maps[0], plugin="caching_sha2_password") is None
    assert fault(*maps, plugin="mysql_native_password") is None


@pytest.mark.parametrize("name", ["mailserver@127.0.0.1", "mailserver@%", "other@127.0.0.1", "@127.0.0.1"])
def test_a_login_that_gets_another_account(name):
    """A server takes the account with the most specific host: a rotation would change another one."""
    login = Login("db", (live_map(user="mailserver", of=target(hosts=("127.0.0.1",))),), ())
    found = not_ok(check_login(LoginAnswers(login, "mysql_native_password", account(name=name), (), ())))
    fix = (
        f"logins from here use the account {name}, which a rotation does not change: "
        "drop it, or add its host to server:accounts_host"
    )
    managed = name == "mailserver@127.0.0.1"
    assert found == ({} if managed else {"the login uses the managed account": ("warning", fix)})


def test_connections_are_counted_for_each_instance():
    """Each has a process limit of its own."""
    maps = (live_map("a"), live_map("b"), live_map("c", limit=50, of=target("submission: ")))
    (finding,) = enough_connections(Login("db", maps, maps), account(most=249))
    assert finding.fix == (
        "100 processes with 2 maps each and submission: 50 processes with 1 map each may open 250 connections, "
        "but max_connections is 249: set proxy: true for the maps, or raise max_connections"
    )


def scan(table):
    return {"table": table, "type": "ALL", "possible_keys": None}


@pytest.mark.parametrize(
    ("tables", "fix"),
    [
        (["t"], "reads all of t for each question: ALTER TABLE t ADD INDEX (b)"),
        (
            ["t", "v"],
            "reads all of t for each question: ALTER TABLE t ADD INDEX (b); "
            "reads all of u for each question: ALTER TABLE u ADD INDEX (c)",
        ),
        ([None, "<derived2>"], ""),
        (["x" * 10**5], ""),  # no server has a table of that name
    ],
)
def test_a_query_that_reads_whole_tables(tables, fix):
    live = live_map(query="SELECT a FROM t JOIN u AS v WHERE t.b='%s' AND v.c='%d'")
    *others, found = check_query(MapAnswers(live, "db", NO_ROWS, Rows([scan(each) for each in tables])))
    assert (found.check, found.fix, found.result) == ("the query uses an index", fix, "fault" if fix else "ok")
    assert [(each.result, each.fix) for each in others] == [("ok", "")] * 2


def test_all_addresses_that_fail_and_all_cures_are_told():
    columns = [narrow(table, column, "utf8_bin") for table in ("a", "b") for column in ("x", "y")]
    probes = {"a long address": Rows([], "e1"), "an address in upper case": Rows([], "e2")}
    found = not_ok(check_query(MapAnswers(live_map(), "db", NO_ROWS, NO_ROWS, {}, probes, Rows(columns))))
    convert = "CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
    assert found["the query takes every address"][1] == (
        f"a long address makes it fail (e1); an address in upper case makes it fail (e2): {EFFECT}"
        f"In a, x is utf8_bin, y is utf8_bin: ALTER TABLE a {convert}; "
        f"In b, x is utf8_bin, y is utf8_bin: ALTER TABLE b {convert}"
    )
