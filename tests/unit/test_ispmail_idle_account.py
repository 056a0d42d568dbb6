"""The end of the other account of a pair on a MariaDB or MySQL: when, and what keeps it from its end."""

import json
from unittest.mock import create_autospec

import pytest

import _ispmail_account_users
import _ispmail_database
import _ispmail_idle_account
from _ispmail_client import Client
from _ispmail_errors import DatabaseError
from _ispmail_idle_account import lock, retire
from _ispmail_sql import LOCKED_LIFETIME, native_hash

from .database_values import MYSQL_9, NATIVE, SHA2, FakeServer, config, mariadb_row, mysql_row

OLD, NEW, THIRD = "*" + "A" * 40, native_hash("new"), "*" + "C" * 40
B = "mailserver_b@127.0.0.1"
NOW = 1_000_000
LOCKED = {"account_locked": True}
DROP = f"DROP USER {B}"
DROPPED = {B: {"account": {"old": "locked", "new": "dropped"}}}
BEGINS = {B: {"locked since": {"old": None, "new": "now"}}}
EVERYTHING = ("PROCESS", "SELECT", "TRIGGER", "EVENT")


def pair(keep="100s", **server):
    return config(user="mailserver_a", rotation={"method": "two_accounts", "keep": keep}, **server)


def locked(ago, *hashes, **more):
    """The row of an account that we have locked so many seconds ago."""
    kept = {"password_last_changed": NOW - ago, "password_lifetime": LOCKED_LIFETIME}
    return mariadb_row(*(hashes or (OLD,)), **{**LOCKED, **kept, **more})


@pytest.fixture
def server(monkeypatch):
    """A function that makes a server with these rows of mailserver_b, which DROP USER takes away."""

    def made(
        *other,
        own=(NEW,),
        connected=None,
        privileges=EVERYTHING,
        defined=(),
        proxies=(),
        grants_of_admin=(),
        nodes=None,
        drops=True,
        refuses=None,
        **more,
    ):
        class Server(FakeServer):
            def ask(self, statement, arguments=None):
                if statement.startswith("SELECT CONCAT(User, '@', Host) AS name FROM mysql.proxies_priv WHERE"):
                    assert arguments[0] == "mailserver_b"
                    return [{"name": each} for each in proxies]
                found = super().ask(statement, arguments)
                if statement == _ispmail_idle_account._DEFINED:
                    assert self.client.wait_longer.called, "with many tables that takes long"
                if statement.startswith("DROP USER") and drops:
                    self._other = [row for row in self._other if row["host"] != arguments["host"]]
                return found

        answers = {
            "SELECT UNIX_TIMESTAMP()": [{"now": NOW}],
            "SELECT PRIVILEGE_TYPE": [{"p": each} for each in privileges],
            "SHOW GRANTS": [{"Grants": each} for each in grants_of_admin],
            _ispmail_idle_account._DEFINED: [
                {"kind": kind, "place": place, "name": name, "definer": definer}
                for kind, place, name, definer in defined
            ],
            "SELECT CONCAT(TO_USER": [],
            "SHOW GLOBAL STATUS LIKE 'wsrep_cluster_size'": [] if nodes is None else [{"Value": nodes}],
        }
        owns = [mariadb_row(*own)] if own else []
        found = Server(*more.pop("owns", owns), other=other, answers=answers, refuses=refuses, **more)
        found.client, found.looked = create_autospec(Client, instance=True), []

        def connections(server, user):
            found.looked.append(user)
            return {} if connected is None else connected

        monkeypatch.setattr(_ispmail_account_users, "connections", connections)
        return found

    return made


@pytest.mark.parametrize("test", [True, False])
@pytest.mark.parametrize(
    ("row", "done", "changes"),
    [
        (locked(100), [DROP], DROPPED),
        (locked(99), [], {}),
        # A lock of somebody else's: its time begins.
        (mariadb_row(OLD, **LOCKED), None, BEGINS),
        (locked(1000, password_lifetime=0), None, BEGINS),
        (locked(1000, password_last_changed=0), None, BEGINS),
        (locked(1000, password_lifetime=LOCKED_LIFETIME - 1), None, BEGINS),
        # It is in use, or was unlocked.
        (mariadb_row(OLD), [], {}),
        (locked(1000, account_locked=False), [], {}),
    ],
)
def test_when_it_is_dropped(server, row, done, changes, test):
    again = f"ALTER USER {B} IDENTIFIED VIA {NATIVE} USING {OLD} ACCOUNT LOCK PASSWORD EXPIRE INTERVAL 65535 DAY"
    found = server(row)
    assert retire(found, pair(), test) == (changes, [])
    assert found.done == ([] if test else [again] if done is None else done)
    assert found.looked == (["mailserver_b"] if done == [DROP] else [])


@pytest.mark.parametrize("row", [locked(0), mariadb_row(OLD, **LOCKED)])
def test_no_time_at_all(server, row):
    found = server(row)
    assert retire(found, pair(0), False) == (DROPPED, []) and found.done == [DROP]
    found = server(row)
    assert retire(found, pair(None), False) == ({}, []) and found.done == []


def test_in_a_cluster_at_once_is_not_yet(server):
    """A node sees its own connections only. Time that was given is enough for the others."""
    for nodes in (None, "0", "1"):
        assert retire(server(locked(0), nodes=nodes), pair(0), False) == (DROPPED, [])
    for nodes in ("2", "5"):
        found = server(locked(0), nodes=nodes)
        changes, (warning,) = retire(found, pair(0), False)
        assert changes == {} and found.done == []
        why = f"the server is one of {nodes} nodes of a Galera cluster, and connections to the others are not seen"
        assert warning.endswith(f"stays, locked: {why}: give these time to end (second:rotation:keep: 1d)")
    assert retire(server(locked(1), nodes="2"), pair("1s"), False) == (DROPPED, [])


def test_what_a_run_locks_is_locked_from_now_on(server):
    """In a dry run it is still open."""
    for row in (mariadb_row(OLD), locked(1000)):
        assert retire(server(row), pair(), True, locking=[B]) == ({}, [])
        assert retire(server(row), pair(0), True, locking=[B]) == (DROPPED, [])
    assert retire(server(mariadb_row(OLD)), pair(0), True, locking=["mailserver_a@127.0.0.1"]) == ({}, [])


@pytest.mark.parametrize("own", [(OLD,), (NEW, OLD), None])
def test_it_stays_while_pillars_user_is_not_open(server, own):
    found = server(locked(1000), own=own)
    assert retire(found, pair(), False) == ({}, []) and found.done == []


def test_each_host_is_an_account(server):
    hosts = [locked(1000, host="a"), locked(0, host="b"), locked(10, host="c"), locked(1000, host="d")]
    found = server(*hosts, owns=[mariadb_row(NEW, host=host) for host in "abc"])
    changes, warnings = retire(found, pair(accounts_host=["a", "b", "c"]), False)
    assert (list(changes), warnings, found.done) == (["mailserver_b@a"], [], ["DROP USER mailserver_b@a"])


STAYS = f"{B} was to be dropped (second:rotation:keep), and stays, locked: "


@pytest.mark.parametrize("test", [True, False])
@pytest.mark.parametrize(
    ("server_is", "said"),
    [
        (
            {"connected": {"mx1": 2, "a": 1}},
            "connected now: 1 from a, 2 from mx1: have these programs log in as pillar has it, or end them",
        ),
        (
            {"privileges": ["PROCESS", "EVENT"]},
            "what has it as its DEFINER cannot be seen: give the admin SELECT, TRIGGER on *.*, or look by hand and run "
            "DROP USER by hand",
        ),
        (
            {"grants_of_admin": ["GRANT x ON *.* TO y", "REVOKE SELECT, EVENT ON `mail`.* FROM `boss`@`localhost`"]},
            "what has it as its DEFINER cannot be seen in all databases: SELECT, EVENT was revoked from the admin in "
            "some (SHOW GRANTS): give it back, or look by hand and run DROP USER by hand",
        ),
        (
            {"defined": [("view", "x", "v", B), ("event", "y", "e", "mailserver_b@127.0.0.7")]},
            "it is the DEFINER of view x.v, event y.e: give them another one, as they would fail without it",
        ),
        (
            {"proxies": ["x@%", "y@%"]},
            "x@%, y@% may act as it: run REVOKE PROXY ON … FROM … once that is not needed, as it fails without it",
        ),
    ],
)
def test_what_keeps_it(server, server_is, said, test):
    found = server(locked(1000), **server_is)
    assert retire(found, pair(), test) == ({}, [STAYS + said]) and found.done == []
    looked = (_ispmail_idle_account._DEFINED, ["mailserver_b@"] * 2) in found.asked
    assert looked is bool(server_is.keys() & {"defined", "proxies"})


def test_an_open_account_of_the_user(server):
    """By which the old password would be accepted again; one that this run locks is none."""
    hosts = [locked(1000), *[mariadb_row(OLD, host=host) for host in "xy"]]
    said = (
        "mailserver_b@x, mailserver_b@y is not locked, and may stand for the same clients: drop or lock that one, or "
    )
    found = server(*hosts)
    assert retire(found, pair(accounts_host=["127.0.0.1"]), False) == (
        {},
        [f"{STAYS}{said}add its host to server:accounts_host"],
    )
    assert found.done == []
    names = ["mailserver_b@x", "mailserver_b@y"]
    assert retire(found, pair(accounts_host=["127.0.0.1"]), True, locking=names) == (DROPPED, [])


def test_what_another_account_of_the_user_defines_does_not_keep_it(server):
    """A server finds that one first."""
    found = server(locked(1000), locked(0, host="x"), defined=[("view", "x", "v", "mailserver_b@x")])
    assert retire(found, pair(accounts_host=["127.0.0.1"]), False) == (DROPPED, [])


def test_who_is_connected_may_not_be_seen(server, monkeypatch):
    """That is not nobody."""
    found = server(locked(1000))
    monkeypatch.setattr(_ispmail_account_users, "connections", lambda server, user: None)
    (warning,) = retire(found, pair(), False).warnings
    assert warning == (
        f"{STAYS}who is connected cannot be seen without the privilege PROCESS (PostgreSQL: pg_read_all_stats): give "
        "the admin that privilege, or look by hand and drop it by hand"
    )
    assert found.done == []


def test_a_server_that_refuses_fails_no_rotation(server):
    found = server(locked(1000), refuses=DatabaseError("db: error 1227: no", 1227))
    said = "the server refused to drop it (error 1227): run DROP USER by hand to see the reason"
    assert retire(found, pair(), False) == ({}, [STAYS + said])


def test_a_mark_that_is_refused_fails_no_rotation(server):
    hosts = [mariadb_row(OLD, host=host, **LOCKED) for host in "ab"]
    found = server(*hosts, owns=[mariadb_row(NEW, host=host) for host in "ab"], refuses=DatabaseError("db: no", 1227))
    said = "the server refused to keep since when it is locked (error 1227): use an admin who may run ALTER USER for it"
    changes, warnings = retire(found, pair(accounts_host=["a", "b"]), False)
    assert changes == {} and [said in text for text in warnings] == [True, True]


@pytest.mark.parametrize("number", [0, 2013])
def test_a_connection_that_is_lost_is_a_failure(server, number):
    with pytest.raises(DatabaseError, match="run credential_sole again, it goes on from there") as caught:
        retire(server(locked(1000), refuses=DatabaseError("db: lost", number)), pair(), False)
    assert f"may be done: drop {B}" in str(caught.value)


def test_a_server_that_does_not_do_it(server):
    hosts = [locked(1000, host=host) for host in "ab"]
    names = "mailserver_b@a, mailserver_b@b"
    with pytest.raises(DatabaseError, match=rf"^{names} is not as it was set: run credential_sole again$"):
        retire(server(*hosts, drops=False, owns=[mariadb_row(NEW, host=host) for host in "ab"]), pair(), False)


MIXED = json.dumps({"auth_or": [{"plugin": "ed25519"}, {"plugin": NATIVE, "authentication_string": OLD}], **LOCKED})


@pytest.mark.parametrize(
    "row",
    [
        mariadb_row(OLD, plugin="ed25519", **LOCKED),
        {"host": "127.0.0.1", "priv": MIXED},
        mysql_row(None, locked="Y", plugin="x"),
    ],
)
def test_passwords_that_cannot_be_set_again(server, row):
    """By another plugin: since when it is locked stays unknown."""
    mysql = {"version": "8.4.6", "owns": [mysql_row(NEW)]} if "locked" in row else {}
    found = server(row, **mysql)
    assert retire(found, pair(), False) == (
        {},
        [
            f"{STAYS}since when it is locked cannot be kept, as its passwords cannot be set again here: run DROP USER "
            "by hand, once nobody needs it"
        ],
    )
    assert found.done == []


def done_by_lock(row, keep, **more):
    server = FakeServer(**more)
    _ispmail_database.run(server, [lock(server, pair(keep), "h", server.dialect.read_account(row))], "")
    return server.done


def test_the_lock_sets_the_passwords_that_there_are():
    head = "ALTER USER mailserver_b@h"
    again = "ACCOUNT LOCK PASSWORD EXPIRE INTERVAL 65535 DAY"
    two = f"IDENTIFIED VIA {NATIVE} USING {OLD} OR {NATIVE} USING {THIRD}"
    assert done_by_lock(mariadb_row(OLD, THIRD), "1d") == [f"{head} {two} {again}"]
    for keep in (None, 0):
        assert done_by_lock(mariadb_row(OLD), keep) == [f"{head} ACCOUNT LOCK"]
    assert done_by_lock(mariadb_row(OLD, plugin="ed25519"), "1d") == [f"{head} ACCOUNT LOCK"]
    # On a MySQL the retained one stays by itself.
    salted = FakeServer(version=MYSQL_9).dialect.hash_password(SHA2, "old", "o" * 20, {})
    row = mysql_row(salted, salted, plugin=SHA2)
    assert done_by_lock(row, "1d", version=MYSQL_9) == [f"{head} IDENTIFIED WITH {SHA2} AS {salted} {again}"]


def test_who_has_it_as_a_role(server):
    found = server(
        mysql_row(OLD, locked="Y"),
        version="8.4.6",
        owns=[mysql_row(NEW)],
    )
    edge = {"role": "mailserver_b", "role_host": "127.0.0.1", "user": "x", "host": "%"}
    others = [{**edge, "role": "mailserver"}, {**edge, "role_host": "%"}]
    found._answers[found.dialect.memberships] = [edge, *others, {**edge, "user": "y"}]
    said = "x@%, y@% has it as a role: give what is needed of it to a role of its own, and revoke this one"
    assert retire(found, pair(0), False) == ({}, [STAYS + said]) and found.done == []
