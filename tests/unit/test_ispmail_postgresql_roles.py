"""Whether a role of a PostgreSQL accepts pillar's password, and what the server is given of that."""

from types import SimpleNamespace

import pytest

import _ispmail_postgresql_admin
import _ispmail_postgresql_roles
from _ispmail_errors import DatabaseError
from _ispmail_postgresql_admin import Server
from _ispmail_scram import belongs, verifier

from .postgresql_values import FakeServer, config, role


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
    assert _ispmail_postgresql_roles.is_open(Server(None, "15", True, True), config(), account) is is_open


@pytest.mark.parametrize(("rounds", "taken"), [("1", 4096), ("-5", 4096), ("2147483647", 10**6), ("9" * 30, 10**6)])
def test_the_rounds_are_bounded(monkeypatch, rounds, taken):
    """The last ones were a traceback, and half an hour of hashing."""
    server = FakeServer()
    monkeypatch.setattr(server, "ask", lambda statement, arguments=None: [{"rounds": rounds}])
    assert f"SCRAM-SHA-256${taken}:" in _ispmail_postgresql_roles.verifier(server, config())


def test_a_login_without_a_password_proves_none(monkeypatch):
    """With trust any password was taken for pillar's, and the account in use could be locked."""
    client = SimpleNamespace(plugin="trust or peer", where="db", connect=lambda: None, close=lambda: None)
    monkeypatch.setattr(_ispmail_postgresql_admin, "client_for", lambda *_: client)
    server = Server(client, "17", False, True)
    with pytest.raises(DatabaseError, match=r"^db: it lets m_a in without asking for a password, so whether"):
        _ispmail_postgresql_roles.is_open(server, config(), role(verifier=None))
    client.plugin = "scram-sha-256"
    assert _ispmail_postgresql_roles.is_open(server, config(), role(verifier=None))


# As pillar would have it if it let such a password pass.
BYTES = config()._replace(password="\udcff")


def asked(is_superuser, *answers):
    """A server that gives these rows, one set for each statement; and the statements."""
    told, left = [], list(answers)

    def ask(statement, arguments=None):
        told.append(statement)
        return left.pop(0)

    return SimpleNamespace(ask=ask, is_superuser=is_superuser), told


def test_a_login_is_tried_where_verifiers_cannot_be_seen(monkeypatch):
    """Only a refused password is another password: what else goes wrong is told."""
    calls = []

    def connect():
        calls.append("connect")
        if errors:
            raise errors.pop()

    client = SimpleNamespace(plugin="scram-sha-256", where="db", connect=connect, close=lambda: calls.append("close"))

    def client_for(config, user, password, dbname):
        calls.append((user, password, dbname))
        return client

    monkeypatch.setattr(_ispmail_postgresql_admin, "client_for", client_for)
    server, errors = Server(client, "17", False, True), []
    known = role(verifier=None)
    assert _ispmail_postgresql_roles.accepts_password(server, BYTES, known) is True
    assert calls == [("m_a", b"\xff", "mailserver"), "connect", "close"]
    errors[:] = [DatabaseError("no", "28P01")]
    assert _ispmail_postgresql_roles.accepts_password(server, config(), known) is False
    errors[:] = [DatabaseError("full", "53300")]
    with pytest.raises(DatabaseError, match=r"^full$"):
        _ispmail_postgresql_roles.accepts_password(server, config(), known)


def test_a_password_that_is_no_text_has_a_verifier():
    server, told = asked(True, [{"rounds": None}])
    made = _ispmail_postgresql_roles.verifier(server, BYTES)
    assert belongs(made, b"\xff", "m_a") and made.startswith("SCRAM-SHA-256$4096:")
    assert told == ["SELECT current_setting('scram_iterations', true) AS rounds"]


def test_what_there_is_of_a_role():
    row = {"name": "m_a", "can_login": "t", "is_superuser": "f", "verifier": None, "expires": None, "groups": None}
    row |= {"settings": None, "connections": "0", "most": "-1", "at_moment": "f"}
    for is_superuser, table in ((True, "pg_authid"), (False, "pg_roles")):
        server, told = asked(is_superuser, [row])
        found = _ispmail_postgresql_roles.read_roles(server, ["m_a", "m_b"])
        assert found == {"m_a": role(verifier=None)} and f"FROM {table} r WHERE" in told[0]
        assert "IN ('m_a', 'm_b')" in told[0]
    server, told = asked(True, [{"statement": "GRANT x", "ending": ""}])
    assert _ispmail_postgresql_roles.rights(server, "m_a") == [("GRANT x", "")] and "'m_a'" in told[0]
    names = ("unreadable", "readable", "undefaulted", "more", "owned")
    server, told = asked(True, [{"connect": "t", "usage": "f", **dict.fromkeys(names)}])
    held = _ispmail_postgresql_roles.held(server, config(), "m_a")
    assert (held.connect, held.usage, held.owned) == (True, False, ()) and "'mailserver'" in told[0]
