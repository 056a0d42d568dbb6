"""Which database servers the doctor asks as their admin, and what it makes of what they say."""

import pytest

import _ispmail_doctor_server
from _ispmail_config import Map
from _ispmail_doctor_server import Live, check_account, is_local
from _ispmail_errors import CannotAsk
from _ispmail_table_users import Users

from .doctor_values import target

NOBODY = Users(frozenset())

DAY = 86400
NATIVE, SHA2 = "mysql_native_password", "caching_sha2_password"
PLUGIN = "a rotation can change the account's passwords"
EXPIRY = "the account's password does not expire"
ADDRESSES = ["127.0.0.1", "198.51.100.7"]


def check(targets, hosts, users, addresses):
    live = {"mysql": Live(hosts, users)}
    return _ispmail_doctor_server.check(_ispmail_doctor_server.asked(targets, live, addresses), live)


@pytest.mark.parametrize(
    ("host", "here"),
    [
        ("127.0.0.1", True),
        ("127.0.0.1:3307", True),
        ("inet:198.51.100.7:3306", True),
        ("localhost", True),
        ("::1:3306", True),
        ("127.0.1.1", True),
        ("vm.example.org:3306", True),
        ("unix:/run/mysqld/mysqld.sock", True),
        ("198.51.100.70", False),
        ("db.example.org:3306", False),
    ],
)
def test_another_database_here_is_not_asked_for_the_maps(host, here, monkeypatch):
    """On a mail server with a MariaDB for webmail the doctor said that the maps' account is missing.

    This machine by its own name, or by ::1, was another one, and its database was not looked at.
    """
    looked_up = _ispmail_doctor_server._ispmail_sockets.addresses
    names = {"vm.example.org": ("127.0.1.1",), "db.example.org": ("198.51.100.70",)}
    monkeypatch.setattr(
        _ispmail_doctor_server._ispmail_sockets, "addresses", lambda name: names.get(name) or looked_up(name)
    )
    assert is_local(host, ADDRESSES) == here
    assert bool(list(check([target()], [host], NOBODY, ADDRESSES))) == here


MAPS = {kind: Map(kind, "virtual_alias_maps", kind, False, f"/etc/postfix/{kind}.cf") for kind in ("mysql", "sqlite")}


POSTFIX, CONSUMERS, SOCKET, NAMED = "a Postfix", "consumers", "the socket", "pillar names it"


@pytest.mark.parametrize(
    ("live", "pillars", "kinds", "there", "asked"),
    [
        # Where somebody logs in from here, that tells where it is.
        (["198.51.100.7"], ["db"], ["mysql"], [POSTFIX, SOCKET], True),
        (["db", "127.0.0.1"], ["db"], ["mysql"], [POSTFIX, SOCKET], True),
        (["127.0.0.1"], ["127.0.0.1"], ["mysql"], [POSTFIX], False),
        (["127.0.0.1"], ["127.0.0.1"], ["mysql"], [POSTFIX, NAMED], True),
        (["db"], ["127.0.0.1"], ["mysql"], [POSTFIX, CONSUMERS, SOCKET, NAMED], False),
        ([], ["db", "198.51.100.7:3306"], [], [CONSUMERS, SOCKET], True),
        ([], ["db"], [], [CONSUMERS, SOCKET, NAMED], False),
        ([], ["127.0.0.1"], [], [CONSUMERS], False),
        # Else pillar does: by the socket that it names, or by its hosts.
        ([], ["db"], ["mysql"], [POSTFIX, NAMED], True),
        ([], ["127.0.0.1"], ["mysql"], [POSTFIX, SOCKET], True),
        ([], ["127.0.0.1"], [], [POSTFIX, SOCKET], True),
        ([], ["127.0.0.1"], ["mysql"], [POSTFIX], False),
        ([], ["db"], ["mysql"], [POSTFIX, SOCKET], False),
        # Nothing here asks anything: the database's own server.
        ([], ["db"], ["mysql", "sqlite"], [SOCKET], True),
        ([], ["db"], [], [SOCKET], True),
        ([], ["db"], [], [], False),
        # No map of pillar's asks such a server.
        ([], ["127.0.0.1"], ["sqlite"], [POSTFIX, SOCKET], False),
        ([], ["127.0.0.1"], ["sqlite"], [POSTFIX, NAMED], True),
    ],
)
def test_where_the_maps_database_is(live, pillars, kinds, there, asked, tmp_path, monkeypatch):
    monkeypatch.setattr("_ispmail_postfix.is_there", lambda _: POSTFIX in there)
    one = target()
    login = one.database.login._replace(unix_socket=str(tmp_path if SOCKET in there else tmp_path / "none"))
    one = one._replace(
        database=one.database._replace(login=login),
        names_socket=NAMED in there,
        hosts=pillars,
        has_consumers=CONSUMERS in there,
        instance=one.instance._replace(maps=tuple(MAPS[kind] for kind in kinds)),
    )
    found = _ispmail_doctor_server.asked([one], {"mysql": Live(live, NOBODY)}, ADDRESSES)
    assert found == ([one] if asked else [])


@pytest.mark.parametrize(
    ("resolved", "here"),
    [
        (["127.0.0.1"], True),
        (["192.0.2.1", "127.0.1.1"], True),
        (["::1"], True),
        (["192.0.2.1"], False),
        ([], False),
    ],
)
def test_a_host_is_here_by_its_name_too(monkeypatch, resolved, here):
    """Debian has the machine's own name at 127.0.1.1."""
    monkeypatch.setattr("_ispmail_sockets.addresses", {"db.example.org": resolved, None: []}.__getitem__)
    assert is_local("db.example.org:3306", ADDRESSES) == is_local("db.example.org", ADDRESSES, "pgsql") == here
    assert not is_local("postgresql://db.example.org", ADDRESSES, "pgsql")


@pytest.mark.parametrize(("create_tables", "result"), [(True, "warning"), (False, "ok")])
def test_a_schema_of_the_sites_own_needs_none_of_the_guides_tables(create_tables, result):
    one = target(host="db", create_tables=create_tables, tables={"virtual_domains": ["table"]})
    found = list(check([one], [], NOBODY, []))
    assert found[0].result == result
    assert found[0].fix == ("virtual_domains is missing: apply ispmail.database" if create_tables else "")


def test_what_a_table_is_missing_counts_also_in_a_schema_of_the_sites_own():
    one = target(host="db", create_tables=False, tables={"virtual_aliases": ["index on source"]})
    finding = next(check([one], [], NOBODY, []))
    assert finding.fix == "virtual_aliases is missing index on source: apply ispmail.database"


def test_instances_that_share_a_server_are_one():
    """The same login is the same server, whichever pillar key names it."""
    shared = [target(host="db"), target("second: ", host="db"), target("third: ", host="db2")]
    findings = check([*shared, target("fourth: ", host="x", own_server=False)], [], NOBODY, [])
    found = {finding.where for finding in findings if finding.check == "all accounts of the user are managed"}
    assert found == {"the database server", "third: the database server"}


def test_an_admin_that_cannot_log_in_is_a_warning():
    """The mail server itself needs no admin."""

    def fail():
        raise CannotAsk("the database server at db:3306: error 2003: it cannot be reached")

    (finding,) = check([target(host="db")._replace(admin_view=fail)], [], NOBODY, [])
    assert finding.result == "warning"
    assert finding.fix == "its admin could not ask it: the database server at db:3306: error 2003: it cannot be reached"


def account(managed=True, plugins=("mysql_native_password",), passwords=1, locked=False, expires=None, age=None):
    known = {"managed": managed, "plugins": list(plugins), "passwords": passwords}
    return {**known, "locked": locked, "expires": expires, "age": age}


def test_accounts_are_found_by_host():
    """With database:user in sdb, whose value is not looked up for this, each account seemed to be missing."""
    accounts = {"mailserver@127.0.0.1": account(), "mailserver@10.0.0.1": account(managed=False)}
    one = target(host="db", user="sdb://x/user", hosts=("127.0.0.1", "10.0.0.2"), accounts=accounts)
    found = [finding for finding in check([one], [], NOBODY, []) if finding.result != "ok"]
    assert [(finding.check, finding.where) for finding in found] == [
        ("all accounts of the user are managed", "the database server"),
        ("the account exists", "sdb://x/user@10.0.0.2"),
    ]
    fix = "a rotation does not change mailserver@10.0.0.1: drop it, or add its host to server:accounts_host"
    assert found[0].fix == fix


@pytest.mark.parametrize(
    ("change", "check_name", "result", "fix"),
    [
        ({"plugins": ["ed25519"]}, PLUGIN, "fault", "it logs in by ed25519, which a rotation cannot handle: use"),
        ({"locked": True}, "the account is not locked", "fault", "run ALTER USER … ACCOUNT UNLOCK"),
        ({"passwords": 2}, "the account accepts one password", "warning", "it accepts 2: a rotation is under way"),
        (
            {"expires": {"seconds": 14 * DAY, "date": "2027-01-31"}},
            EXPIRY,
            "warning",
            "it expires on 2027-01-31, and every lookup fails from then on: rotate the password, and run ALTER USER",
        ),
        ({"expires": {"seconds": 14 * DAY - 1, "date": "2027-01-31"}}, EXPIRY, "fault", "it expires on 2027-01-31"),
        ({"expires": {"seconds": 1, "date": "2027-01-31"}}, EXPIRY, "fault", "it expires on 2027-01-31, and every"),
        ({"expires": {"seconds": 0, "date": "now"}}, EXPIRY, "fault", "it has expired, every lookup fails: rotate"),
        ({"passwords": 0}, "the account accepts one password", "warning", "it accepts none: give it a password"),
    ],
)
def test_one_account(change, check_name, result, fix):
    assert {finding.result for finding in check_account("a", account(), [NATIVE])} == {"ok"}
    (finding,) = (finding for finding in check_account("a", account(**change), [NATIVE]) if finding.result != "ok")
    assert (finding.check, finding.result) == (check_name, result) and fix in finding.fix


def test_without_accounts_host_the_accounts_that_exist_are_the_managed_ones():
    accounts = {"mailserver@localhost": account(), "mailserver@10.0.0.%": account()}
    assert {finding.result for finding in check([target(host="db", accounts=accounts)], [], NOBODY, [])} == {"ok"}
    (missing,) = (finding for finding in check([target(host="db")], [], NOBODY, []) if finding.result != "ok")
    assert (missing.check, missing.where) == ("the account exists", "mailserver@127.0.0.1")


def left_behind(one, users):
    (finding,) = (each for each in check([one], [], users, []) if "left behind" in each.check)
    return finding


def test_an_account_that_no_table_file_uses_is_left_behind():
    def other(**connections):
        return {"drop": "DROP USER 'x'", "connections": connections}

    one = target(host="db", others={"old@127.0.0.1": other(), "used@%": other(), "dovecot@%": other(mx1=2, mx2=1)})
    finding = left_behind(one, Users(frozenset(["used"])))
    assert (finding.result, finding.fix) == (
        "warning",
        "old@127.0.0.1 may read the maps' tables (nobody is connected now): DROP USER 'x'; "
        "dovecot@% may read the maps' tables (connected now: 2 from mx1, 1 from mx2): DROP USER 'x'. "
        "If a program needs one, add its user to server:known_accounts",
    )


def test_no_account_is_to_be_dropped_while_a_tables_is_not_known():
    """The table's option file could not be read, and its account was one that no table uses."""
    others = {name: {"drop": "DROP USER 'x'", "connections": None} for name in ("old@%", "used@%")}
    users = Users(frozenset(["used"]), ("/a.cf is missing or empty", "/x.cnf cannot be read: y"))
    finding = left_behind(target(host="db", others=others), users)
    assert (finding.result, finding.fix) == (
        "warning",
        "old@% may read the maps' tables (who is connected cannot be seen without the privilege PROCESS "
        "(PostgreSQL: pg_read_all_stats)). Drop none "
        "yet: Postfix may log in by one of them (/a.cf is missing or empty; /x.cnf cannot be read: y). Settle that "
        "first. If a program needs one, add its user to server:known_accounts",
    )
    assert left_behind(target(host="db"), users).result == "ok"


def test_instances_that_log_in_as_the_same_admin_share_a_server():
    """Whatever else their pillar says: its admin sees the same accounts, and each finding would come twice."""
    one = target(host="db")
    others = [{"pillar_key": "second"}, {"password": "p"}, {"create_tables": False}]
    same = [one._replace(database=one.database._replace(**each)) for each in others]
    assert len(list(check([one, *same], [], NOBODY, []))) == len(list(check([one], [], NOBODY, [])))


def test_all_that_the_tables_are_missing_is_one_warning():
    tables = {"virtual_domains": ["table"], "virtual_aliases": ["index on source", "column id"], "virtual_users": ["x"]}
    assert next(check([target(host="db", tables=tables)], [], NOBODY, [])).fix == (
        "virtual_domains is missing; virtual_aliases is missing index on source, column id; virtual_users is missing x:"
        " apply ispmail.database"
    )


def test_only_managed_accounts_are_checked():
    """A locked account that is not the maps' is nobody's fault; pillar's key stands before the account's name."""
    accounts = {
        "mailserver@127.0.0.1": account(locked=True),
        "mailserver@10.0.0.1": account(managed=False, locked=True),
        "mailserver@10.0.0.2": account(managed=False),
    }
    one = target("second: ", host="db", hosts=("127.0.0.1",), accounts=accounts)
    locked, unmanaged = (finding for finding in check([one], [], NOBODY, []) if finding.result != "ok")
    assert (locked.check, locked.where) == ("the account is not locked", "second: mailserver@127.0.0.1")
    assert unmanaged.fix.startswith("a rotation does not change mailserver@10.0.0.1, mailserver@10.0.0.2: drop it")


def test_the_idle_account_of_a_pair_is_locked_but_in_a_rotation():
    pair = {
        "mailserver_b@a": {"locked": True, "connections": {"mx1": 1}},
        "mailserver_b@b": {"locked": False, "connections": {"mx1": 1}},
    }
    one = target("second: ", host="db", accounts={"mailserver@127.0.0.1": account()}, pair=pair)
    found = {
        finding.where: (finding.result, finding.fix)
        for finding in check([one], [], NOBODY, [])
        if finding.check == "the idle account of the pair is locked"
    }
    under_way = "a rotation is under way, or was interrupted and has to be started again"
    assert found == {
        "second: mailserver_b@a": ("ok", ""),
        "second: mailserver_b@b": ("warning", f"it is not (connected now: 1 from mx1): {under_way}"),
    }


def test_what_holds_needs_no_fix():
    assert {finding.fix for finding in check_account("a", account(expires=None), [NATIVE])} == {""}


@pytest.mark.parametrize(
    ("plugins", "passwords", "login_plugins", "fixes"),
    [
        (
            ["ed25519", NATIVE, "gssapi"],
            1,
            [NATIVE],
            [f"it logs in by ed25519, gssapi, which a rotation cannot handle: use {NATIVE} alone"],
        ),
        ([SHA2], 1, [SHA2, NATIVE], []),
        ([NATIVE], 1, [SHA2, NATIVE], []),
        (
            [NATIVE],
            0,
            [SHA2],
            [
                f"it logs in by {NATIVE}, which a rotation cannot handle: use {SHA2} alone",
                f"it accepts none: give it a password by {SHA2}",
            ],
        ),
    ],
)
def test_which_login_plugin_is_right_is_the_servers(plugins, passwords, login_plugins, fixes):
    found = check_account("a", account(plugins=plugins, passwords=passwords), login_plugins)
    assert [finding.fix for finding in found if finding.result != "ok"] == fixes


AGES = {
    # The age that the server knows and the one that this minion knows, and what is found for a limit of 90 days.
    "young": (89 * DAY, None, "ok", ""),
    "at the limit": (90 * DAY, None, "ok", ""),
    "too old": (90 * DAY + 1, 1, "fault", "it is 90 days old, and rotation:max_age is 90 days: run salt-run"),
    "the server knows it better": (0, 91 * DAY, "ok", ""),
    "only this minion knows it": (None, 91.5 * DAY, "fault", "it is 91.5 days old, and rotation:max_age is 90 days"),
    "nobody knows it": (None, None, "warning", "how old it is cannot be told: the server does not keep that, and this"),
}


@pytest.mark.parametrize("case", AGES)
def test_how_old_the_password_is(case):
    server, minion, result, fix = AGES[case]
    accounts = {"mailserver@127.0.0.1": account(age=server), "mailserver@x": account(managed=False, age=server)}
    one = target(host="db", accounts=accounts, max_age=90 * DAY)._replace(password_set=minion)
    (found,) = (each for each in check([one], [], NOBODY, []) if each.check == "the account's password is not too old")
    assert (found.result, found.where) == (result, "mailserver@127.0.0.1") and found.fix.startswith(fix)


def test_a_limit_of_hours_is_not_told_as_no_days():
    found = _ispmail_doctor_server.age("a", DAY / 2 + 7, DAY // 2)
    assert found.fix.startswith("it is 0.5 days old, and rotation:max_age is 0.5 days: ")


def test_without_a_limit_no_age_is_looked_at():
    """Nobody has asked for it, and where it is not known the warning would be there for ever."""
    one = target(host="db", accounts={"mailserver@127.0.0.1": account()})
    assert not [each for each in check([one], [], NOBODY, []) if "too old" in each.check]
