"""What is made of a PostgreSQL's answers, and of a server that does not do what it was told."""

import contextlib
from types import SimpleNamespace

import pytest

import _ispmail_postgresql_server
from _ispmail_config_database import database
from _ispmail_errors import DatabaseError
from _ispmail_postgresql import Role
from _ispmail_postgresql_server import Server
from _ispmail_scram import verifier

PGSQL = {name: {"type": "pgsql"} for name in ("virtual_mailbox_domains", "virtual_alias_maps", "virtual_mailbox_maps")}
VERIFIER = verifier(b"new", bytes(16))


def config(password="new", user="m_a"):
    return database("ispmail", {"database": {"user": user, "password": password}, "maps": PGSQL})


def role(name="m_a", **more):
    known = {"can_login": True, "is_superuser": False, "verifier": VERIFIER, "expires": None, "groups": ()}
    return Role(name, **{**known, "settings": (), "connections": 0, "most": -1, **more})


class FakeServer:
    """Says which roles there are, and takes all statements without doing anything."""

    has_database, is_superuser = True, True

    def __init__(self, *roles):
        self.roles = {each.name: each for each in roles}
        self.told = []

    def ask(self, statement, arguments=None):
        if statement.startswith(("ALTER", "CREATE", "GRANT")):
            self.told.append(statement)
        return [{"rounds": "5000"}] if "scram_iterations" in statement else []


@pytest.fixture
def served(monkeypatch):
    def serve(*roles):
        server = FakeServer(*roles)

        @contextlib.contextmanager
        def admin(config, lock=False):
            server.lock = lock
            yield server

        monkeypatch.setattr(_ispmail_postgresql_server, "admin", admin)
        monkeypatch.setattr(_ispmail_postgresql_server, "_roles", lambda server, names: server.roles)
        monkeypatch.setattr(_ispmail_postgresql_server, "sees_all", lambda server: True)
        return server

    return serve


@pytest.mark.parametrize(
    ("account", "is_open"),
    [
        (role(), True),
        (role(can_login=False), False),
        (role(verifier=None), False),
        (role(verifier=verifier(b"old", bytes(16))), False),
        # Mail would stop with it.
        (role(expires=0), False),
        (role(expires=4000000000), False),
    ],
)
def test_who_is_open_to_pillars_password(account, is_open):
    assert _ispmail_postgresql_server._is_open(Server(None, "15", True, True), config(), account) is is_open


@pytest.mark.parametrize("action", ["accept", "sole"])
@pytest.mark.parametrize("test", [True, False])
def test_a_server_that_does_not_do_what_it_was_told(served, action, test):
    own = role() if action == "sole" else role(can_login=False)
    server = served(own, role("m_b"))
    if test:
        assert _ispmail_postgresql_server.credential(config(), action, test=True)["changes"]
        assert (server.told, server.lock) == ([], False)
        return
    with pytest.raises(DatabaseError) as caught:
        _ispmail_postgresql_server.credential(config(), action, test=False)
    again = {"accept": "accepted", "sole": "sole"}[action]
    assert str(caught.value) == f"m_a is not as it was set: run credential_{again} again"
    assert server.lock is True
    assert server.told[0].startswith(
        'ALTER ROLE "m_b" NOLOGIN' if action == "sole" else 'ALTER ROLE "m_a" LOGIN PASSWORD'
    )


def test_the_rounds_are_the_servers(served):
    """Those of a server before 16, which has no such setting, are the least that our own client takes."""
    server = served(role(can_login=False))
    with contextlib.suppress(DatabaseError):
        _ispmail_postgresql_server.credential(config(), "accept", test=False)
    assert "'SCRAM-SHA-256$5000:" in server.told[0]


@pytest.mark.parametrize(("rounds", "taken"), [("1", 4096), ("-5", 4096), ("2147483647", 10**6), ("9" * 30, 10**6)])
def test_the_rounds_are_bounded(served, monkeypatch, rounds, taken):
    """The last ones were a traceback, and half an hour of hashing."""
    server = served(role(can_login=False))
    monkeypatch.setattr(server, "ask", lambda statement, arguments=None: [{"rounds": rounds}])
    assert f"SCRAM-SHA-256${taken}:" in _ispmail_postgresql_server._verifier(server, config())


def test_a_login_without_a_password_proves_none(monkeypatch):
    """With trust any password was taken for pillar's, and the account in use could be locked."""
    client = SimpleNamespace(plugin="trust or peer", where="db", connect=lambda: None, close=lambda: None)
    monkeypatch.setattr(_ispmail_postgresql_server, "_client", lambda *_: client)
    server = Server(client, "17", False, True)
    with pytest.raises(DatabaseError, match=r"^db: it lets m_a in without asking for a password, so whether"):
        _ispmail_postgresql_server._is_open(server, config(), role(verifier=None))
    client.plugin = "scram-sha-256"
    assert _ispmail_postgresql_server._is_open(server, config(), role(verifier=None))


def test_without_the_maps_database_nothing_is_changed(served):
    server = served(role(), role("m_b"))
    server.has_database, server.client = False, type("Client", (), {"where": "db"})
    for action in ("accept", "sole"):
        with pytest.raises(DatabaseError, match=r"^db: there is no database mailserver: apply ispmail\.database$"):
            _ispmail_postgresql_server.credential(config(), action, test=False)
