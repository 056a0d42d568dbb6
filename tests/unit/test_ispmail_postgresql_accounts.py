"""What is made of a PostgreSQL's answers, and of a server that does not do what it was told."""

import contextlib

import pytest

import _ispmail_postgresql_accounts
import _ispmail_postgresql_admin
import _ispmail_postgresql_roles
from _ispmail_errors import DatabaseError

from .postgresql_values import FakeServer, config, role


@pytest.fixture
def served(monkeypatch):
    def serve(*roles):
        server = FakeServer(*roles)

        @contextlib.contextmanager
        def admin(config, lock=False):
            server.lock = lock
            yield server

        monkeypatch.setattr(_ispmail_postgresql_accounts, "admin", admin)
        monkeypatch.setattr(_ispmail_postgresql_roles, "read_roles", lambda server, names: server.roles)
        monkeypatch.setattr(_ispmail_postgresql_admin, "sees_all", lambda server: True)
        return server

    return serve


@pytest.mark.parametrize("action", ["accept", "sole"])
@pytest.mark.parametrize("test", [True, False])
def test_a_server_that_does_not_do_what_it_was_told(served, action, test):
    own = role() if action == "sole" else role(can_login=False)
    server = served(own, role("m_b"))
    if test:
        assert _ispmail_postgresql_accounts.credential(config(), action, test=True)["changes"]
        assert (server.told, server.lock) == ([], False)
        return
    with pytest.raises(DatabaseError) as caught:
        _ispmail_postgresql_accounts.credential(config(), action, test=False)
    again = {"accept": "accepted", "sole": "sole"}[action]
    changed = {"accept": "m_a", "sole": "m_b"}[action]
    assert str(caught.value) == f"{changed} is not as it was set: run credential_{again} again"
    assert server.lock is True
    assert server.told[0].startswith(
        'ALTER ROLE "m_b" NOLOGIN' if action == "sole" else 'ALTER ROLE "m_a" LOGIN PASSWORD'
    )


def test_the_rounds_are_the_servers(served):
    """Those of a server before 16, which has no such setting, are the least that our own client takes."""
    server = served(role(can_login=False))
    with contextlib.suppress(DatabaseError):
        _ispmail_postgresql_accounts.credential(config(), "accept", test=False)
    assert "'SCRAM-SHA-256$5000:" in server.told[0]


def test_without_the_maps_database_nothing_is_changed(served):
    server = served(role(), role("m_b"))
    server.has_database, server.client = False, type("Client", (), {"where": "db"})
    for action in ("accept", "sole"):
        with pytest.raises(DatabaseError, match=r"^db: there is no database mailserver: apply ispmail\.database$"):
            _ispmail_postgresql_accounts.credential(config(), action, test=False)
