"""What trivial-rewrite's answers mean: a socket that says what it says, and what it never should."""

import contextlib
import os
import socket
import threading

import pytest

import _ispmail_route
from _ispmail_errors import CannotAsk

REQUEST = b"request\0resolve\0sender\0\0address\0jack@example.org\0\0"


def answer(flags, transport="virtual", protocol=True):
    """As Postfix 3.10 (3.7: without its protocol) sends it."""
    parts = ["protocol", "resolve_clnt_proto", ""] if protocol else []
    parts += ["flags", "0", "transport", transport, "nexthop", "x", "recipient", "y", "flags", str(flags), "", ""]
    return "\0".join(parts).encode("utf-8", "surrogateescape")


@contextlib.contextmanager
def rewrite(scratch_directory, *parts, listens=True):
    """A queue directory whose trivial-rewrite sends these parts, one after the other, and what it was asked."""
    queue = scratch_directory / os.urandom(4).hex()
    (queue / "private").mkdir(parents=True)
    asked = []
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(queue / "private" / "rewrite"))
        if listens:
            server.listen()

        def serve():
            with contextlib.suppress(OSError), server.accept()[0] as client:
                asked.append(client.recv(4096))
                for part in parts:
                    client.sendall(part)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield str(queue), asked
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
    thread.join(5)


@pytest.mark.parametrize("protocol", [True, False])
@pytest.mark.parametrize(
    ("flags", "address_class"),
    [
        # RESOLVE_CLASS_LOCAL, _ALIAS, _VIRTUAL, _RELAY and _DEFAULT of resolve_clnt.h, with RESOLVE_FLAG_FINAL.
        (256 | 1, "mydestination"),
        (512 | 1, "virtual_alias_domains"),
        (1024 | 1, "virtual_mailbox_domains"),
        (2048 | 1, "relay_domains"),
        (4096, None),
    ],
)
def test_each_address_class(scratch_directory, flags, address_class, protocol):
    with rewrite(scratch_directory, answer(flags, "lmtp:unix:x", protocol)) as (queue, asked):
        assert _ispmail_route.resolve("jack@example.org", queue) == (address_class, "lmtp:unix:x")
    assert asked == [REQUEST]


def test_an_answer_may_come_in_pieces(scratch_directory):
    whole = answer(1024)
    with rewrite(scratch_directory, whole[:9], whole[9:40], whole[40:]) as (queue, _):
        assert _ispmail_route.resolve("jack@example.org", queue).address_class == "virtual_mailbox_domains"


def test_a_recipient_and_a_transport_that_are_no_utf_8(scratch_directory):
    """Postfix takes any bytes but NUL: they arrive, and come back, as they are."""
    with rewrite(scratch_directory, answer(1024, "lmtp:unix:\udcff")) as (queue, asked):
        assert _ispmail_route.resolve("caf\xe9\udcff@example.org", queue).transport == "lmtp:unix:\udcff"
    assert asked == [REQUEST.replace(b"jack", "caf\xe9".encode() + b"\xff")]


@pytest.fixture
def hangs(scratch_directory, monkeypatch):
    """The queue directory and the socket of a trivial-rewrite that accepts nobody; one client is let in to wait."""
    monkeypatch.setattr(_ispmail_route, "_SECONDS", 0.2)
    queue = scratch_directory / os.urandom(4).hex()
    (queue / "private").mkdir(parents=True)
    path = str(queue / "private" / "rewrite")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen(0)
        yield str(queue), path


def test_one_that_never_answers_holds_no_change_up(hangs):
    queue, path = hangs
    with pytest.raises(CannotAsk, match=f"^trivial-rewrite cannot be asked by {path}: no answer that can be read$"):
        _ispmail_route.resolve("jack@example.org", queue)


@pytest.mark.parametrize("ask", [_ispmail_route.is_there, lambda queue: _ispmail_route.resolve("a@example.org", queue)])
def test_one_that_lets_nobody_in_any_more_holds_no_change_up(hangs, ask):
    queue, path = hangs
    with socket.socket(socket.AF_UNIX) as earlier:
        earlier.connect(path)
        with pytest.raises(CannotAsk, match=f"^trivial-rewrite cannot be asked by {path}: "):
            ask(queue)


def test_it_could_not_ask_its_tables(scratch_directory):
    """RESOLVE_FLAG_FAIL: the database is away."""
    with rewrite(scratch_directory, answer(1024 | 8)) as (queue, _), pytest.raises(CannotAsk) as raised:
        _ispmail_route.resolve("jack@example.org", queue)
    assert str(raised.value) == "trivial-rewrite could not find out the way of jack@example.org: see the mail log"


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"\0" * 30,
        answer("many"),
        answer(1024)[:-4],
        answer(1024).replace(b"nexthop", b"another"),
        answer(1024).replace(b"flags", b"other", 1),
        b"x" * 70_000,
    ],
)
def test_what_is_no_answer(scratch_directory, said):
    with rewrite(scratch_directory, said) as (queue, _), pytest.raises(CannotAsk) as raised:
        _ispmail_route.resolve("jack@example.org", queue)
    # Where more is said than is read, the connection ends with an error.
    reasons = ("no answer that can be read", "Connection reset by peer", "Broken pipe")
    assert str(raised.value) in [
        f"trivial-rewrite cannot be asked by {queue}/private/rewrite: {why}" for why in reasons
    ]


def test_no_trivial_rewrite(scratch_directory):
    with pytest.raises(CannotAsk, match=r"cannot be asked by /nowhere/private/rewrite: No such file or directory"):
        _ispmail_route.resolve("jack@example.org", "/nowhere")
    assert _ispmail_route.is_there("/nowhere") is False
    with rewrite(scratch_directory, listens=False) as (queue, _):
        assert _ispmail_route.is_there(queue) is False
    with rewrite(scratch_directory) as (queue, _):
        assert _ispmail_route.is_there(queue) is True


def test_could_not_tell_is_not_no(scratch_directory):
    (scratch_directory / "private").write_text("a file in place of the directory")
    path = scratch_directory / "private" / "rewrite"
    with pytest.raises(CannotAsk, match=f"cannot be asked by {path}: Not a directory"):
        _ispmail_route.is_there(str(scratch_directory))
