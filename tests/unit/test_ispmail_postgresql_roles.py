"""Whether a role of a PostgreSQL accepts pillar's password, and what the server is given of that."""

from types import SimpleNamespace

import pytest

import _ispmail_postgresql_admin
import _ispmail_postgresql_roles
from _ispmail_errors import DatabaseError
from _ispmail_postgresql_admin import Server
from _ispmail_scram import verifier

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
