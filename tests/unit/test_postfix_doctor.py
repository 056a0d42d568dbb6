"""The table that postfix_doctor.report makes, and the limits that no real server is run into."""

import pytest

from _modules import postfix_doctor


def row(result, check="the table file is private", where="virtual_alias_maps", mend="chmod"):
    return {"result": result, "check": check, "where": where, "mend": "" if result == "ok" else mend}


def test_faults_come_first_and_what_holds_is_short():
    rows = [row("ok"), row("warning", "b"), row("ok", where="x"), row("fault", "c"), row("warning", "a")]
    assert postfix_doctor._table(rows, 100).split("\n") == [
        "result   what should hold           where               mend",
        f"-------  -------------------------  ------------------  {'-' * 44}",
        "fault    c                          virtual_alias_maps  chmod",
        "warning  b                          virtual_alias_maps  chmod",
        "warning  a                          virtual_alias_maps  chmod",
        "ok       the table file is private  virtual_alias_maps; x",
        "",
        "1 fault, 2 warnings, 2 checks hold",
    ]


@pytest.mark.parametrize("width", [60, 100, 200])
def test_no_line_is_wider_and_nothing_is_lost(width):
    """Also a path that is longer than its column, and sentences that are lines of their own."""
    path = "/etc/postfix/" + "x" * 150
    rows = [row("fault", "all " * 20, f"{path} here", f"first:\n- chmod 0640 {path}\n- more"), row("ok")]
    text = postfix_doctor._table(rows, width)
    assert max(map(len, text.split("\n"))) <= width
    assert text.count("x") >= 2 * 150 and text.count("all") == 20
    assert any(line.endswith("  - more") for line in text.split("\n"))
    assert text.endswith("\n1 fault, 0 warnings, 1 check holds")


def test_nothing_to_tell():
    assert postfix_doctor._table([], 80).endswith("\n\n0 faults, 0 warnings, 0 checks hold")


def place(limit=100, proxy=False, **keys):
    return {"instance": {"prefix": "", "limit": limit}, "proxy": proxy, "keys": keys}


@pytest.mark.parametrize(
    ("limits", "maps", "neighbours", "mends"),
    [
        ({}, [place()], 1, ["", ""]),
        ({"idle": 59}, [place()], 1, ["wait_timeout is 59 s, Postfix keeps connections for 60 s: raise it", ""]),
        ({"idle": 59}, [place(idle_interval="30")], 1, ["", ""]),
        ({"idle": 99}, [place(), place(idle_interval="100")], 1, ["wait_timeout is 99 s", ""]),
        ({"most": 99}, [place()], 1, ["", "100 processes with 1 map each may make 100 connections, it takes 99: set"]),
        ({"most": 99}, [place(proxy=True)], 1, ["", ""]),
        # Another login's connections count for the server, not for the account.
        (
            {"most": 199, "mine": 150},
            [place()],
            2,
            ["", "200 connections, it takes 199: set proxy: true, or raise max_c"],
        ),
        ({"most": 200, "mine": 150}, [place()], 2, ["", ""]),
        ({"mine": 99}, [place()], 1, ["", "takes 99: set proxy: true, or raise max_user_connections"]),
    ],
)
def test_limits(limits, maps, neighbours, mends):
    limits = {"idle": 28800, "most": 1000, "mine": 0, **limits}
    rows = postfix_doctor._limit_rows("db", limits, maps, maps * neighbours)
    for row, mend in zip(rows, mends):
        assert mend in row["mend"] and bool(mend) == bool(row["mend"])


def test_a_query_that_cannot_be_explained_is_no_fault():
    """CALL, and a view whose making the account may not see: Postfix asks them all the same."""
    own = {"query": {"rows": [], "reason": None}, "plan": {"rows": [], "reason": "db: error 1345: grant SHOW VIEW"}}
    rows = postfix_doctor._query_rows({"keys": {}}, "m on db", own)
    assert [row["result"] for row in rows] == ["ok", "warning"]
    assert rows[1]["mend"] == "EXPLAIN cannot tell: db: error 1345: grant SHOW VIEW"


ADDRESSES = ["127.0.0.1", "198.51.100.7"]


@pytest.mark.parametrize(
    ("host", "here"),
    [
        ("127.0.0.1", True),
        ("127.0.0.1:3307", True),
        ("inet:198.51.100.7:3306", True),
        ("localhost", True),
        ("unix:/run/mysqld/mysqld.sock", True),
        ("198.51.100.70", False),
        ("db.example.org:3306", False),
    ],
)
def test_another_database_here_is_not_asked_for_the_maps(monkeypatch, host, here):
    """A mail server with a MariaDB for webmail was told that the maps' account is not there."""
    asked = []
    monkeypatch.setattr(postfix_doctor, "__grains__", {"ipv4": ADDRESSES}, raising=False)
    monkeypatch.setattr(postfix_doctor, "__pillar__", {}, raising=False)
    monkeypatch.setattr(
        postfix_doctor, "_database", lambda key: {"login": {"unix_socket": "/"}, "create_tables": True, "hosts": []}
    )

    def read(key):
        asked.append(key)
        return {"tables": {}, "accounts": {}}

    monkeypatch.setattr(postfix_doctor, "__salt__", {"postfix_database.read": read}, raising=False)
    rows = postfix_doctor._admin_rows("ispmail", "", [host], [])
    assert (asked == ["ispmail"]) == here == bool(rows)


@pytest.mark.parametrize(("create_tables", "result"), [(True, "warning"), (False, "ok")])
def test_tables_of_ones_own_lack_none_of_the_guides(monkeypatch, create_tables, result):
    plan = {"login": {"host": "db"}, "create_tables": create_tables, "hosts": []}
    found = {"tables": {"virtual_domains": ["table"]}, "accounts": {}}
    monkeypatch.setattr(postfix_doctor, "__pillar__", {}, raising=False)
    monkeypatch.setattr(postfix_doctor, "_database", lambda key: plan)
    monkeypatch.setattr(postfix_doctor, "__salt__", {"postfix_database.read": lambda key: found}, raising=False)
    assert [row["result"] for row in postfix_doctor._admin_rows("ispmail", "", [], [])] == [result, "ok"]
