"""An smtpd that does not answer: a program of Postfix has died, and master(8) does not start it again for a while."""

import sqlite3

import pytest

import _ispmail_smtpd
from lab import scratch
from lab.postfix import Postfix
from lab.smtp import rcpt

from .test_apply import ANSWERED, contents, managed, replies

# As short as it may be for a second apply to begin meanwhile. Postfix's own default is 60.
THROTTLED = 12
NOBODY = "nobody@nowhere.test"


@pytest.fixture
def postfix():
    with scratch() as directory, Postfix(directory / "mail", service_throttle_time=f"{THROTTLED}s") as instance:
        yield instance


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """What is not waited for on purpose is given up after 2 seconds, not 10: the throttle is shorter here too."""
    ask = _ispmail_smtpd.ask
    monkeypatch.setattr(_ispmail_smtpd, "ask", lambda *args, **options: ask(*args, **{"timeout": 2, **options}))


def kill_smtpd(postfix):
    """Have Postfix use an empty table file, which ends each smtpd."""
    empty = postfix.config_directory / "empty.cf"
    empty.touch()
    postfix.write_main_cf(relocated_maps=f"mysql:{empty}")
    postfix.reload()
    with pytest.raises(OSError):
        rcpt(postfix.port, NOBODY, timeout=1)


def table_that_kills(postfix):
    """A map that root can ask, and trivial-rewrite cannot: sqlite finds a journal in its jail, and dies of it."""
    path = postfix.directory / "mail.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE d (name TEXT)")
    path.chmod(0o644)
    journal = postfix.queue_directory / f"{path}-journal".lstrip("/")
    journal.parent.mkdir(parents=True)
    journal.write_bytes(b"x" * 1024)
    journal.chmod(0o600)
    return {"type": "sqlite", "dbpath": str(path), "query": "SELECT 1 FROM d WHERE name='%s'"}


def test_an_smtpd_that_is_silent_before_and_after_is_no_success(minion, postfix):
    kill_smtpd(postfix)
    start = contents(postfix)
    result = managed(minion)
    assert result["result"] is False
    assert "did not answer before this change, and not within 22 s after it either" in result["comment"]
    assert "Everything was put back as it was, and Postfix reloaded. smtpd on" in result["comment"]
    assert "nor did it before the change" in result["comment"]
    assert contents(postfix) == start


def test_an_smtpd_that_is_silent_for_a_while_is_waited_for(minion, postfix):
    """The fault is mended, and master(8) starts the next smtpd only later."""
    kill_smtpd(postfix)
    postfix.write_main_cf(relocated_maps=None)
    postfix.reload()
    result = managed(minion)
    assert result["result"] is True and "not asked" not in result["comment"], result["comment"]
    assert replies(postfix) == ANSWERED


def test_a_change_that_kills_is_put_back_each_time(minion, postfix, pillar):
    """The second apply found smtpd silent, as the first had left it, and took that for a yes: no mail came in."""
    assert managed(minion)["result"] is True and replies(postfix) == ANSWERED
    start = contents(postfix)
    minion.pillar = pillar(maps={"transport_maps": table_that_kills(postfix)})
    first = managed(minion)
    assert first["result"] is False and "can no longer ask its maps" in first["comment"], first["comment"]
    assert "does not answer yet (SMTPServerDisconnected): master(8) starts a program" in first["comment"]
    assert contents(postfix) == start
    second = managed(minion)
    assert second["result"] is False and "did not answer before this change" in second["comment"], second["comment"]
    assert contents(postfix) == start
    assert rcpt(postfix.port, "john@example.org", timeout=THROTTLED + 5)[0] == 250
