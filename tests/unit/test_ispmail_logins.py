"""How many logins are tried at once, and what becomes of them."""

import threading
import time

import pytest

import ispmail_logins
from ispmail_client import Login
from ispmail_errors import DatabaseError
from ispmail_logins import LiveLogin, Tried, Watch, try_all

START = threading.Thread.start


@pytest.fixture
def tried(monkeypatch):
    """The hosts that were tried; each answers by the number that it is named for, 0 for a login that works."""
    hosts = []

    class FakeClient:
        def __init__(self, where, login, *seconds):
            self.where = where

        def connect(self):
            hosts.append(self.where)
            self.fail_if(self.where.partition(":")[0])

        def ask(self, statement):
            self.fail_if(self.where.partition(":")[2] or "0")

        def fail_if(self, number):
            if int(number):
                raise DatabaseError("no", int(number))

        def close(self):
            pass

        abort = close

    monkeypatch.setattr(ispmail_logins, "Client", FakeClient)
    return hosts


def live(host):
    return LiveLogin(host, Login("u", b"", host=host), ("a",), 1)


def test_refused_worked_and_neither(tried):
    logins = [live(host) for host in ("1045", "0", "1040", "1698", "2003")]
    assert try_all(logins) == Tried([logins[0], logins[3]], [logins[1]])
    assert try_all([]) == Tried([], [])


@pytest.mark.parametrize("number", [1820, 1862, 3118, 4151])
def test_an_expired_password_and_a_locked_account_are_refusals(tried, number):
    """With an expired password the login itself may work, and every lookup fails: the beacon was silent."""
    login, statement = live(str(number)), live(f"0:{number}")
    assert try_all([login, statement]) == Tried([login, statement], [])
    assert try_all([live("0:1040")]) == Tried([], [])


def test_a_table_file_of_many_hosts_takes_few_threads(tried):
    """Each host took a thread and two descriptors, and the last were started minutes later."""
    logins = [live(f"1045:{number}") for number in range(3000)]
    assert try_all(logins).refused == logins[:64]
    assert len(tried) == 64


def test_threads_that_start_slowly_end_in_time(tried, monkeypatch):
    def slowly(thread):
        time.sleep(0.2)
        START(thread)

    monkeypatch.setattr(threading.Thread, "start", slowly)
    began = time.monotonic()
    found = try_all([live(f"1045:{number}") for number in range(64)]).refused
    assert 5 < len(found) < 20
    assert time.monotonic() - began < 3.5


def test_a_system_without_threads_is_survived(tried, monkeypatch):
    def fails(thread):
        if len(tried) >= 3:
            raise RuntimeError("can't start new thread")
        START(thread)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fails)
        assert len(try_all([live(f"1045:{number}") for number in range(64)]).refused) >= 3
        watch = Watch()
        watch.start([])
        assert watch.take() is None
    watch.start([])
    deadline = time.monotonic() + 5
    while (found := watch.take()) is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert found == Tried([], [])
