"""What a database server may take and send, for the clients of MariaDB, MySQL and PostgreSQL alike."""

import socket
import time
from types import SimpleNamespace

import pytest

import _ispmail_bounds
from _ispmail_bounds import Bounds
from _ispmail_errors import DatabaseError

LOST = "it is lost"
TOO_MUCH = r"^it sends more than any answer needs: check that it is the right server$"


def bounds(login_within=10.0):
    return Bounds(login_within, lambda: DatabaseError(LOST, 2013))


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(_ispmail_bounds, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def longer(found):
    """Building an index takes longer."""
    found.wait_longer()
    found.begin_statement()


@pytest.mark.parametrize(
    ("begin", "seconds", "size"),
    [
        (Bounds.begin_login, 3, 2**16),
        (Bounds.begin_statement, 10, 2**24),
        (longer, 300, 2**24),
    ],
)
def test_what_a_server_may_take_and_send(clock, begin, seconds, size):
    """A job of Salt waits for it: ten seconds and 64 KiB for a login, ten and 16 MiB for a statement."""
    found = bounds(3)
    begin(found)
    assert found.left() == seconds
    # Each value of a row counts 64 bytes.
    found.take_values(size // 64)
    with pytest.raises(DatabaseError, match=TOO_MUCH):
        found.take_values(1)
    begin(found)
    found.take_values(1)


@pytest.mark.parametrize(("now", "left"), [(1000, 10), (1009.5, 0.5), (1010, None), (1011, None)])
def test_how_much_time_is_left(clock, now, left):
    found = bounds()
    found.begin_login()
    clock.now = now
    if left is not None:
        assert found.left() == left
        found.abort()
    with pytest.raises(DatabaseError, match=f"^{LOST}$"):
        found.left()


def test_what_has_not_begun_reads_nothing():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        with pytest.raises(DatabaseError, match=f"^{LOST}$"):
            bounds().left()
        with pytest.raises(DatabaseError, match=TOO_MUCH):
            bounds().receive(ours, 1)


def test_how_much_is_read():
    """Each read counts 64 bytes more: a short row takes far more memory than it has bytes."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        found = bounds()
        found.begin_login()
        found.take_values((2**16 - 256) // 64)
        theirs.sendall(b"a" * 10 + b"b" * 54 + b"c")
        assert [found.receive(ours, count) for count in (10, 0, 54)] == [b"a" * 10, b"", b"b" * 54]
        with pytest.raises(DatabaseError, match=TOO_MUCH):
            found.receive(ours, 0)


def test_it_is_read_in_pieces():
    """Memory is taken for what has come, not for what a server says will come."""
    wanted = []

    class Socket:
        def settimeout(self, seconds):
            assert 9 < seconds <= 10

        def recv(self, count):
            wanted.append(count)
            return b"x" * min(count, 40_000)

    found = bounds()
    found.begin_statement()
    assert found.receive(Socket(), 120_000) == b"x" * 120_000
    assert wanted == [65536, 65536, 40_000]


@pytest.mark.parametrize("hangs_up", [True, False])
def test_a_server_that_hangs_up_or_stays_silent(hangs_up):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        found = bounds(0.2)
        found.begin_login()
        theirs.sendall(b"abc")
        if hangs_up:
            theirs.shutdown(socket.SHUT_RDWR)
        began = time.monotonic()
        with pytest.raises((DatabaseError, TimeoutError)) as raised:
            found.receive(ours, 4)
        assert time.monotonic() - began < 2
        assert hangs_up == (str(raised.value) == LOST)
