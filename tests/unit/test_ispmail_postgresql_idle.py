"""The other role of a pair on a PostgreSQL: since when it is locked, and what keeps it from being dropped."""

import dataclasses
from types import SimpleNamespace

import pytest

import _ispmail_postgresql_idle
import _ispmail_postgresql_roles
from _ispmail_errors import DatabaseError
from _ispmail_postgresql import Right, Role
from _ispmail_postgresql_idle import drop, lock, locked_since, obstacle, read_obstacles, retire

from .postgresql_values import FakeServer, config, role


@pytest.mark.parametrize(("expires", "since"), [(None, None), (0, None), (99, 99), (100, 100), (101, None)])
def test_since_when_it_is_locked(expires, since):
    """A password that expires later, or was never valid, tells of no lock. Neither does a date of an admin's."""
    role = Role("m_b", False, False, None, expires, (), (), 0, -1, at_moment=True)
    assert locked_since(role, 100) == since
    assert locked_since(dataclasses.replace(role, at_moment=False), 100) is None


def test_the_lock_keeps_its_time():
    assert lock('m"b') == ["""ALTER ROLE "m""b" NOLOGIN VALID UNTIL 'now'"""]


def row(kind, name):
    return {"kind": kind, "name": name}


@pytest.mark.parametrize(
    ("rows", "why", "cure"),
    [
        (
            [row("o", "mail"), row("o", "mail"), row("o", "web"), row("member", "x")],
            'it owns something in the database "mail", in the database "web"',
            'give that to another role (in each of these databases, REASSIGN OWNED BY "m_b" TO …)',
        ),
        ([row("o", "")], "it owns something of the whole server", "give that to another role"),
        (
            [row("r", "mail"), row("member", "x"), row("member", 'y"')],
            'it is the group of "x", "y"""',
            'give them another group, and REVOKE "m_b" from them',
        ),
        (
            [row("a", "web"), row("r", "mail")],
            'policies of row security name it in the database "mail"',
            "take it out of them (ALTER POLICY … TO)",
        ),
        (
            [row("a", "mail"), row("a", ""), row("a", "web"), row("i", "web"), row("i", "x")],
            'it has rights in the database "web", in the database "x"',
            'take them back (in each of these databases, DROP OWNED BY "m_b")',
        ),
    ],
)
def test_what_keeps_it(rows, why, cure):
    found = obstacle(rows, "m_b", "mail")
    assert found[0] == why and found[1].startswith(cure)


def test_rights_in_the_maps_database_and_of_the_server_keep_it_not():
    """They are taken back."""
    assert obstacle([row("a", "mail"), row("a", ""), row("i", "mail")], "m_b", "mail") is None
    assert obstacle([], "m_b", "mail") is None
    assert obstacle([row("a", "web")], "m_b", "mail")[0] == 'it has rights in the database "web"'
    assert read_obstacles("m'b").count("'m''b'") == 2


def test_what_drops_it():
    rights = [
        Right('GRANT SELECT ON TABLE "GRANT "', " WITH GRANT OPTION"),
        Right("GRANT readers", ""),
        Right("ALTER DEFAULT PRIVILEGES FOR ROLE x GRANT SELECT ON TABLES", ""),
    ]
    assert drop("m_b", rights) == [
        'REVOKE SELECT ON TABLE "GRANT " FROM "m_b"',
        'ALTER DEFAULT PRIVILEGES FOR ROLE x REVOKE SELECT ON TABLES FROM "m_b"',
        'DROP ROLE "m_b"',
    ]


NOW = 1000
DROP, LOCK = 'DROP ROLE "m_b"', """ALTER ROLE "m_b" NOLOGIN VALID UNTIL 'now'"""
DROPPED = {"m_b": {"account": {"old": "locked", "new": "dropped"}}}
BEGINS = {"m_b": {"locked since": {"old": None, "new": "now"}}}
NOTHING = ({}, [])
STAYS = "m_b was to be dropped (ispmail:rotation:keep), and stays, locked: "


def locked(ago):
    """The other role, which we have locked so many seconds ago."""
    return role("m_b", can_login=False, expires=NOW - ago, at_moment=True)


@pytest.fixture
def served(monkeypatch):
    """A function that makes a server with these roles; m_a is pillar's user."""

    def serve(*roles, connected=None, rows=(), refuses=None):
        class Server(FakeServer):
            def ask(self, statement, arguments=None):
                if statement.startswith("SELECT floor"):
                    return [{"now": str(NOW)}]
                if "pg_shdepend" in statement:
                    return rows
                if "aclexplode" in statement:
                    return [{"statement": "GRANT SELECT ON TABLE t", "ending": ""}]
                assert statement in (f'REVOKE SELECT ON TABLE t FROM "m_b"; {DROP}', LOCK)
                if refuses:
                    raise refuses
                self.told.append(statement)
                return []

        server, server.waited = Server(*roles), []
        monkeypatch.setattr(_ispmail_postgresql_roles, "read_roles", lambda server, names: server.roles)
        monkeypatch.setattr(
            _ispmail_postgresql_idle, "connections", lambda server, user: (connected or {}) if user == "m_b" else None
        )
        monkeypatch.setattr(_ispmail_postgresql_idle, "time", SimpleNamespace(sleep=server.waited.append))
        return server

    return serve


@pytest.mark.parametrize("test", [True, False])
@pytest.mark.parametrize(
    ("other", "changes", "told"),
    [
        (locked(100), DROPPED, DROP),
        (locked(99), {}, None),
        (dataclasses.replace(locked(100), at_moment=False), BEGINS, LOCK),
        (role("m_b", can_login=False), BEGINS, LOCK),
        (dataclasses.replace(locked(100), can_login=True), {}, None),
    ],
)
def test_when_it_is_dropped(served, other, changes, told, test):
    server = served(role(), other)
    assert retire(server, config(keep="100s"), test) == (changes, [])
    assert [statement.endswith(told) for statement in server.told] == ([] if test or told is None else [True])
    assert server.waited == []


@pytest.mark.parametrize("test", [True, False])
def test_what_a_run_locks_is_locked_from_now_on(served, test):
    """In a dry run it is still open. Whoever has just logged in is listed a second later."""
    server = served(role(), role("m_b"))
    assert retire(server, config(keep="1s"), test, locking=True) == NOTHING
    assert retire(server, config(keep=0), test, locking=True) == (DROPPED, [])
    assert (server.waited, len(server.told)) == (([], 0) if test else ([1], 1))


def test_where_there_is_nothing_to_drop(served):
    for server, keep in (
        (served(role(), locked(100)), None),
        (served(role()), 0),
        (served(locked(100)), 0),
        (served(role(can_login=False), locked(100)), 0),
        (served(role(expires=4000000000), locked(100)), 0),
    ):
        assert retire(server, config(keep=keep), False) == NOTHING and server.told == []
    assert retire(served(role("x"), locked(100)), config(user="x", keep=None), False) == NOTHING
    server = served(role(), locked(100))
    server.has_database = False
    assert retire(server, config(keep=0), False) == NOTHING and server.told == []
    # With no time at all nothing has to be known of the time of the lock.
    assert retire(served(role(), role("m_b", can_login=False)), config(keep=0), False) == (DROPPED, [])


def test_it_stays_while_somebody_would_miss_it(served):
    server = served(role(), locked(100), connected={"127.0.0.1": 2})
    changes, (warning,) = retire(server, config(keep=0), False)
    assert changes == {} and server.told == []
    assert warning.startswith(f"{STAYS}connected now: 2 from 127.0.0.1: have these programs")
    for test in (True, False):
        server = served(role(), locked(100), rows=[row("o", "mail")])
        changes, (warning,) = retire(server, config(keep=0), test)
        assert changes == {} and server.told == []
        assert warning.startswith(f'{STAYS}it owns something in the database "mail": give that')


def test_what_the_server_refuses_fails_nothing(served):
    """The role is locked."""
    server = served(role(), locked(100), refuses=DatabaseError("no", "2BP01"))
    why = 'the server refused to drop it (error 2BP01): run DROP ROLE "m_b" by hand to see the reason'
    assert retire(server, config(keep=0), False) == ({}, [STAYS + why])
    server = served(role(), role("m_b", can_login=False), refuses=DatabaseError("no", "42501"))
    why = (
        "the server refused to keep since when it is locked (error 42501): use an admin who may run ALTER ROLE "
        '"m_b", or drop it by hand'
    )
    assert retire(server, config(keep="1s"), False) == ({}, [STAYS + why])
    server = served(role(), locked(100), refuses=DatabaseError("gone"))
    with pytest.raises(DatabaseError, match=r"^gone\. run credential_sole again, it goes on from there"):
        retire(server, config(keep=0), False)


def test_what_cannot_be_told_drops_nothing(served, monkeypatch):
    def is_open(*_):
        raise DatabaseError("db: error 53300")

    monkeypatch.setattr(_ispmail_postgresql_roles, "is_open", is_open)
    why = "whether m_a accepts pillar's password cannot be told: db: error 53300: see to that, or drop it by hand"
    server = served(role(), locked(100))
    assert retire(server, config(keep=0), False) == ({}, [STAYS + why]) and server.told == []
