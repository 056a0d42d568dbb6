"""The client of the database: how it logs in, that it gives no password away, and that no server holds it up."""

import contextlib
import hashlib
import os
import socket
import ssl
import struct
import sys
import threading
import time
from types import SimpleNamespace

import pymysql
import pytest
from pymysql.constants import CLIENT

import _ispmail_client
from _ispmail_bounds import Bounds
from _ispmail_client import TLS, Client, Login
from _ispmail_errors import DatabaseError
from lab import HOST, wait_until

from ..functional.database import OK, Listener, OddServer, Talk, certificate, error, greet, in_background, say_rows

PASSWORD = b"secret"
NONCE = b"saltsaltsaltsaltsalt"
LOST = "error 2013: it did not answer in time, or closed the connection: check that it is well"
NO_TLS = "error 2026: TLS failed: .*"
WITHHELD = "it asks for the clear-text password, which was not given: .*"


def login(server, **more):
    return Login("mailserver", PASSWORD, host=HOST, port=server.port, **more)


@contextlib.contextmanager
def connected(server, client=None):
    """A client of a server, logged in."""
    with contextlib.closing(client or Client("x", login(server))) as client:
        client.connect()
        yield client


def knows(answer, heard=None):
    """Serves a login and SET, and each other statement by a function; `heard` gets all packets."""

    def serve(talk):
        talk.got = heard if heard is not None else []
        greet(talk)
        talk.say(OK)
        while packet := talk.hear():
            if packet[5:8] == b"SET":
                talk.say(OK)
            elif packet[4:] != b"\1":
                answer(talk, packet[5:])

    return serve


def one_row(talk, _):
    say_rows(talk, [b"a", b"b"], [b"1", "é".encode()], [None, b""])


def test_without_pymysql_the_fix_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pymysql", None)
    with pytest.raises(DatabaseError, match=r"has no PyMySQL: apply ispmail\.database, or install python3-pymysql"):
        Client("x", Login("u", b"")).connect()


@pytest.mark.parametrize(
    "name",
    [
        *("_request_authentication", "_get_server_information", "_read_packet", "_read_bytes", "_force_close"),
        *("write_packet", "_auth_plugin_name"),
    ],
)
def test_a_pymysql_without_the_parts_that_are_replaced_is_not_used(monkeypatch, name):
    monkeypatch.delattr(pymysql.connections.Connection, name)
    monkeypatch.setattr(pymysql.connections.Connection, "connect", lambda self: pytest.fail("it has connected"))
    monkeypatch.setattr(pymysql, "VERSION", (1, 9, 12, "final", 7))
    with pytest.raises(DatabaseError, match=r"^PyMySQL 1\.9\.12 cannot be kept from giving passwords away, so no log"):
        Client("x", Login("u", PASSWORD)).connect()


def test_a_pymysql_that_logs_in_by_itself_has_no_password_to_give(monkeypatch):
    """A future one may call what is replaced by another name: then its own login runs."""
    given = []

    def connect(self, sock):
        self._sock = sock
        given.append(dict(vars(self)))

    monkeypatch.setattr(pymysql.connections.Connection, "connect", connect)
    with socket.create_server((HOST, 0)) as listener:
        client = Client("x", Login("u", PASSWORD, host=HOST, port=listener.getsockname()[1]))
        with pytest.raises(DatabaseError, match="cannot be kept from giving"):
            client.connect()
    assert given and given[0]["password"] == b"" and not [value for value in given[0].values() if value == PASSWORD]
    # Nothing is asked by a login that nobody has checked.
    assert given[0]["_sock"].fileno() == -1


def scramble(password, nonce=NONCE):
    """As MySQL's internals manual has it: SHA1(password) XOR SHA1(nonce + SHA1(SHA1(password)))."""
    once = hashlib.sha1(password, usedforsecurity=False).digest()
    other = hashlib.sha1(nonce + hashlib.sha1(once).digest(), usedforsecurity=False).digest()
    return bytes(a ^ b for a, b in zip(once, other)) if password else b""


@pytest.mark.parametrize(
    ("user", "password", "database"),
    [("mailserver", PASSWORD, None), ("é\udcff", b"\xff", "mail\udcff"), ("", b"", "d")],
)
def test_the_packet_of_a_login(user, password, database):
    heard = []
    serve = knows(one_row, heard)

    def without_autocommit(talk):
        say = talk.say
        talk.say = lambda payload: say(payload.replace(b"\x21\x02\0", b"\x21\0\0"))
        serve(talk)

    with OddServer(without_autocommit) as server:
        given = Login(user, password, host=HOST, port=server.port, database=database)
        with connected(server, Client("x", given)) as client:
            assert client.plugin == "mysql_native_password"
    flags, most, charset, filler = struct.unpack("<IIB23s", heard[0][4:36])
    name, rest = heard[0][36:].split(b"\0", 1)
    # Not the user that Salt runs as, which is the server's admin by a unix socket.
    assert name == user.encode("utf-8", "surrogateescape")
    length, rest = rest[0], rest[1:]
    assert (rest[:length], length) == (scramble(password), 20 if password else 0)
    named = database.encode("utf-8", "surrogateescape") + b"\0" if database else b""
    assert rest[length:] == named + b"mysql_native_password\0"
    wanted = CLIENT.PROTOCOL_41 | CLIENT.SECURE_CONNECTION | CLIENT.PLUGIN_AUTH | CLIENT.MULTI_RESULTS
    wanted |= CLIENT.CONNECT_WITH_DB if database else 0
    unwanted = CLIENT.SSL | CLIENT.CONNECT_ATTRS | CLIENT.LOCAL_FILES | CLIENT.COMPRESS
    unwanted |= 0 if database else CLIENT.CONNECT_WITH_DB
    assert flags & (wanted | unwanted) == wanted
    # utf8mb4, in packets as large as they may be, and each statement for itself.
    assert (most, charset, filler) == (0xFFFFFF, 45, bytes(23))
    assert [packet[5:] for packet in heard[1:3]] == [b"SET NAMES utf8mb4", b"SET AUTOCOMMIT = 1"]
    # It says goodbye.
    assert wait_until(lambda: heard[3:], 5) and heard[3:] == [b"\1\0\0\0\1"]


def test_rows_by_the_names_of_their_columns():
    heard = []
    with OddServer(knows(one_row, heard)) as server, connected(server) as client:
        assert client.ask("SELECT %(x)s", {"x": "a'b"}) == [{"a": "1", "b": "é"}, {"a": None, "b": ""}]
    assert b"SELECT 'a\\'b'" in [packet[5:] for packet in heard]


@pytest.mark.parametrize(
    ("answer", "reason", "number"),
    [
        (lambda talk, _: talk.say(error(1146)), "error 1146: a table does not exist: .*", 1146),
        (
            lambda talk, _: talk.say(b"\xff\1"),
            "an unreadable answer: check that it is a MariaDB or MySQL server, .*",
            0,
        ),
        (lambda talk, _: talk.peer.shutdown(socket.SHUT_RDWR), LOST, 2013),
    ],
)
def test_a_statement_that_fails(answer, reason, number):
    with OddServer(knows(answer)) as server, connected(server) as client:
        with pytest.raises(DatabaseError, match=f"^x: {reason}$") as raised:
            client.ask("SELECT 1")
        assert raised.value.number == number and raised.value.__suppress_context__


def test_what_is_closed_asks_nothing():
    with OddServer(knows(one_row)) as server, connected(server) as client:
        client.close()
        with pytest.raises(DatabaseError, match=f"^x: {LOST}$"):
            client.ask("SELECT 1")
    # Also where it has never been open.
    Client("x", login(server)).close()


# How a server asks for the password itself; it gets it only if it is known to be the right one.
def wants_password(heard, tls=None):
    def serve(talk):
        packet = greet(talk, tls=bool(tls))
        if tls and talk.wants_tls():
            talk.hear(exactly=36)
            talk.begin_tls(tls)
            packet = talk.hear()
        heard.append(packet)
        talk.say(b"\xfesha256_password\0" + NONCE + b"\0")
        heard.append(talk.hear()[4:])
        if heard[-1]:
            talk.say(OK)
            while talk.hear():
                talk.say(OK)

    return serve


class SocketServer(Listener):
    """Answers each connection to a unix socket by a function."""

    def __init__(self, serve, path):
        self._serve = serve
        super().__init__(path)

    def begin(self, peer):
        """Have the function answer it."""

        def serve():
            with contextlib.suppress(OSError):
                self._serve(Talk(peer))
            peer.close()

        in_background(serve)


def test_a_unix_socket_is_the_right_server(scratch_directory):
    path, heard = scratch_directory / "db.sock", []
    given = Login("mailserver", PASSWORD, unix_socket=str(path), host="no-such-host.invalid")
    with SocketServer(wants_password(heard), path) as server, connected(server, Client("x", given)) as client:
        assert client.plugin == "sha256_password"
    assert heard[1:] == [PASSWORD + b"\0"]


@pytest.mark.parametrize(
    ("tls", "offered", "reason"),
    [
        (None, False, WITHHELD),
        (None, True, WITHHELD),
        # Encrypted, for whoever it is; for who has a certificate of the CA; for the host that it was issued for.
        ({}, True, WITHHELD),
        ({"ca_file": "127.0.0.1"}, True, WITHHELD),
        ({"ca_file": "127.0.0.1", "verify_name": True}, True, None),
        ({"ca_file": "127.0.0.2", "verify_name": True}, True, NO_TLS),
        ({"ca_path": "", "verify_name": True}, True, NO_TLS),
    ],
)
def test_a_server_gets_the_password_if_its_certificate_is_verified(tmp_path, tls, offered, reason):
    host = (tls or {}).get("ca_file", HOST)
    file, heard = certificate(tmp_path, host), []
    given = {"ca_file": None, "ca_path": None, "certificate": None, "key": None, "verify_name": False, **(tls or {})}
    given = {key: str(file) if key == "ca_file" and value else value for key, value in given.items()}
    if given["ca_path"] is not None:
        given["ca_path"] = str(tmp_path)
    with OddServer(wants_password(heard, offered and file)) as server:
        client = Client("x", login(server, tls=TLS(**given) if tls is not None else None))
        if reason is None:
            with connected(server, client):
                assert client.plugin == "sha256_password" and client._connection._sock.version()
        else:
            with pytest.raises(DatabaseError, match=f"^x: {reason}$"):
                client.connect()
            # The login, and what follows when it is asked for the password.
            assert reason == NO_TLS or wait_until(lambda: len(heard) == 2, 5)
    assert (PASSWORD + b"\0" in heard) is (reason is None)
    for first in heard[:1]:
        wanted = CLIENT.PROTOCOL_41 | (CLIENT.SSL if offered else 0)
        assert struct.unpack("<I", first[4:8])[0] & (CLIENT.SSL | CLIENT.PROTOCOL_41) == wanted


def test_a_server_without_tls_is_refused_by_who_wants_it():
    heard = []
    with OddServer(knows(one_row, heard)) as server:
        client = Client("x", login(server, tls=TLS(None, None, None, None, False)))
        with pytest.raises(DatabaseError, match=f"^x: {NO_TLS}$") as raised:
            client.connect()
    assert raised.value.number == 2026 and heard == []


@pytest.mark.parametrize(("rows", "is_too_much"), [(1200, False), (1400, True)])
def test_values_count_that_have_no_bytes(rows, is_too_much):
    """A NULL has one byte, and takes a hundred in a row by names."""

    def answer(talk, _):
        with contextlib.suppress(OSError):
            say_rows(talk, [b"c%d" % number for number in range(200)], *[[None] * 200] * rows)

    with OddServer(knows(answer)) as server, connected(server) as client:
        if is_too_much:
            with pytest.raises(DatabaseError, match="it sends more than any answer needs"):
                client.ask("SELECT 1")
            # What is left of it is no answer to the next statement.
            with pytest.raises(DatabaseError, match="did not answer in time, or closed the connection"):
                client.ask("SELECT 1")
        else:
            assert len(client.ask("SELECT 1")) == rows
            assert len(client.ask("SELECT 1")) == rows


@pytest.mark.parametrize(("verify", "checked"), [(True, True), (False, False)])
def test_a_host_name_is_checked_where_the_table_file_says_so(tmp_path, verify, checked):
    file = str(certificate(tmp_path))
    context = _ispmail_client.tls_context(TLS(file, None, None, None, verify))
    assert (context.check_hostname, context.verify_mode) == (checked, ssl.CERT_REQUIRED)
    assert [each["subject"] for each in context.get_ca_certs()] == [((("commonName", HOST),),)]
    assert _ispmail_client.tls_context(TLS(None, "", None, None, True)).verify_mode == ssl.CERT_NONE
    # None of the system's own CAs.
    context = _ispmail_client.tls_context(TLS(None, str(tmp_path), None, None, verify))
    assert (context.check_hostname, context.verify_mode) == (checked, ssl.CERT_REQUIRED)
    assert context.cert_store_stats()["x509"] == 0
    context = _ispmail_client.tls_context(None)
    assert (context.check_hostname, context.verify_mode) == (False, ssl.CERT_NONE)
    assert context.cert_store_stats()["x509"] == 0


def test_a_client_s_own_certificate(tmp_path):
    file = str(certificate(tmp_path))
    for certificate_, key in ((file, None), (file, file)):
        _ispmail_client.tls_context(TLS(None, None, certificate_, key, False))
    for certificate_, key in (("/nowhere", None), (None, file), (file, "/nowhere")):
        with pytest.raises(DatabaseError, match=f"^{NO_TLS}$"):
            _ispmail_client.tls_context(TLS(None, None, certificate_, key, False))


def test_certificates_that_mysql_generates_for_itself_are_taken(monkeypatch):
    """They do not keep to what Python asks for from 3.13 on."""

    def strict(**_):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    default = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).verify_flags & ~ssl.VERIFY_X509_STRICT
    monkeypatch.setattr(ssl, "create_default_context", strict)
    assert _ispmail_client.tls_context(TLS(None, None, None, None, False)).verify_flags == default


def test_a_ca_that_cannot_be_read_is_named_by_its_keys():
    given = Login("u", b"", host="127.0.0.1", tls=TLS("/nowhere", None, None, None, True))
    with pytest.raises(DatabaseError, match="x: error 2026: TLS failed") as caught:
        Client("x", given).connect()
    assert caught.value.number == 2026


def test_a_server_that_never_has_enough():
    heard = []

    def serve(talk):
        greet(talk)
        while True:
            talk.say(b"\xfemysql_native_password\0" + NONCE + b"\0")
            if not (packet := talk.hear()):
                return
            heard.append(packet)

    with OddServer(serve) as server, pytest.raises(DatabaseError) as raised:
        Client("x", login(server)).connect()
    assert str(raised.value) == "x: it has asked 32 times for the login: check that it is the right server"
    assert {packet[4:] for packet in heard} == {scramble(PASSWORD)}


def test_a_login_that_takes_several_replies(scratch_directory):
    """The password is asked for where the server has not cached it; where it has, nothing is sent in between."""
    path, heard = scratch_directory / "sha2.sock", []

    def serve(talk):
        talk.got = heard
        greet(talk)
        talk.say(b"\xfecaching_sha2_password\0" + NONCE + b"\0")
        talk.hear()
        if len(heard) > 3:
            talk.say(b"\1\4")
            talk.hear()
        else:
            talk.say(b"\1\3")
        talk.say(OK)
        while talk.hear():
            talk.say(OK)

    given = Login("mailserver", PASSWORD, unix_socket=str(path))
    with SocketServer(serve, path) as server:
        with connected(server, Client("x", given)) as client:
            assert client.plugin == "caching_sha2_password"
        assert heard[2][5:8] == b"SET"
        with connected(server, Client("x", given)):
            pass
    assert PASSWORD + b"\0" in [packet[4:] for packet in heard]


def test_what_a_server_may_take_and_send(monkeypatch):
    """The limits of _ispmail_bounds, for a login and for each statement."""
    within, begun = [], []
    for name in ("begin_login", "begin_statement", "wait_longer"):
        inner = getattr(Bounds, name)
        monkeypatch.setattr(Bounds, name, lambda self, name=name, inner=inner: begun.append(name) or inner(self))
    connect = _ispmail_client._connected
    monkeypatch.setattr(_ispmail_client, "_connected", lambda *given: within.append(given[2]) or connect(*given))
    with OddServer(knows(one_row)) as server:
        with connected(server) as client:
            client.ask("SELECT 1")
            # Building an index takes longer.
            client.wait_longer()
            client.ask("ALTER TABLE a")
        with connected(server, Client("x", login(server), 20, 3)):
            pass
    assert begun == ["begin_login", "begin_statement", "wait_longer", "begin_statement", "begin_login"]
    assert within[0] == 5 and 2 < within[1] <= 3


@pytest.mark.parametrize("ends", ["it hangs up", "it stays silent", "it sends too much"])
def test_a_connection_on_which_reading_fails_is_closed(ends):
    ours, theirs = socket.socketpair()
    closed = []
    connection = SimpleNamespace(_sock=ours, _force_close=lambda: closed.append(True))
    with ours, theirs:
        client = Client("x", Login("u", b""), login_within=0.2)
        client._bounds.begin_login()
        theirs.sendall(b"abcd")
        assert client._read_bytes(connection, 4) == b"abcd" and not closed
        if ends == "it hangs up":
            theirs.shutdown(socket.SHUT_RDWR)
        with pytest.raises(DatabaseError) as raised:
            client._read_bytes(connection, 2**17 if ends == "it sends too much" else 1)
    assert closed and raised.value.number == (0 if ends == "it sends too much" else 2013)


def test_tls_that_does_not_begin_takes_the_time_of_the_login_only():
    def serve(talk):
        time.sleep(1)
        greet(talk, tls=True)
        while talk.hear():
            pass

    with OddServer(serve) as server:
        client = Client("x", login(server, tls=TLS(None, None, None, None, False)), login_within=1.5)
        began = time.monotonic()
        with pytest.raises(DatabaseError, match=f"^x: {NO_TLS}$|^x: error 20"):
            client.connect()
        assert time.monotonic() - began < 2.3


def test_a_login_that_is_aborted_while_tls_begins_ends(tmp_path):
    """Its socket is one that abort() does not reach: the login went on, on a connection that nobody closed."""
    file, heard = certificate(tmp_path), []

    def serve(talk):
        greet(talk, tls=True)
        talk.hear(exactly=36)
        time.sleep(0.1)
        client.abort()
        try:
            talk.begin_tls(file)
            heard.append(talk.hear())
        except OSError:  # on Python 3.13 it is gone before TLS has begun
            heard.append(b"")

    with OddServer(serve) as server:
        client = Client("x", login(server, tls=TLS(None, None, None, None, False)))
        with pytest.raises(DatabaseError, match=f"^x: {LOST}$"):
            client.connect()
        assert wait_until(lambda: heard, 5) and not any(heard), "it has logged in all the same"


def test_an_abort_ends_another_thread_s_statement():
    asked, failed = threading.Event(), []
    with OddServer(knows(lambda *_: asked.set())) as server, connected(server) as client:

        def ask():
            try:
                client.ask("SELECT 1")
            except DatabaseError as err:
                failed.append(str(err))

        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        assert asked.wait(5)
        # It waits for the answer by now.
        time.sleep(0.1)
        client.abort()
        thread.join(3)
        assert failed == [f"x: {LOST}"]


def test_an_abort_before_the_login_ends_it():
    """As while the system's resolver looks up the name."""
    client = Client("x", Login("u", b"", host=HOST, port=1))
    client.abort()
    with pytest.raises(DatabaseError, match=f"^x: {LOST}$"):
        client.connect()


def test_a_long_statement_has_the_time_of_a_statement():
    """Reading the answer before it leaves the socket with the little time that was left then."""
    statement = f"SELECT '{'x' * 12_000_000}'"

    def serve(talk):
        greet(talk)
        talk.say(OK)
        while (packet := talk.hear())[5:8] == b"SET":
            talk.say(OK)
        time.sleep(0.4)
        missing = 5 + len(statement) - len(packet)
        while missing:
            missing -= len(talk.peer.recv(2**20))
        talk.number = 1
        say_rows(talk, [b"a"], [b"1"])
        talk.hear()

    with OddServer(serve) as server, connected(server) as client:
        client._connection._sock.settimeout(0.05)
        assert client.ask(statement) == [{"a": "1"}]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (Login("u", b"", unix_socket="/a", host="b"), [(socket.AF_UNIX, "/a")]),
        (Login("u", b"", host=HOST, port=3307), [(socket.AF_INET, (HOST, 3307))]),
        (Login("u", b"", host="::1"), [(socket.AF_INET6, ("::1", 3306, 0, 0))]),
        (Login("u", b"", host=HOST, port="smtp"), [(socket.AF_INET, (HOST, 25))]),
        (Login("u", b"", host="no-such-name.invalid"), []),
        (Login("u", b"", host="a" * 70), []),
        (Login("u", b"", host=HOST, port=2**70), []),
    ],
)
def test_where_a_server_is(given, expected):
    assert _ispmail_client._addresses(given) == expected
    if not expected:
        with pytest.raises(DatabaseError, match=r"^x: error 2003: it cannot be reached: ") as raised:
            Client("x", given).connect()
        assert raised.value.number == 2003


def test_a_server_without_a_name_is_this_host():
    found = _ispmail_client._addresses(Login("u", b""))
    assert {address[0] for _, address in found} <= {HOST, "::1"} and found


def test_the_first_address_that_takes_it(monkeypatch):
    with OddServer(knows(one_row)) as server, socket.create_server((HOST, 0)) as closed:
        places = [closed.getsockname(), (HOST, server.port)]
        closed.close()
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", each) for each in places]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        with connected(server) as client:
            assert client._connection._sock.getpeername() == places[1]


def test_all_addresses_of_a_name_share_the_time_of_a_login(monkeypatch):
    """A name server may give a thousand."""
    with socket.create_server((HOST, 0), backlog=1) as listener:
        place = (socket.AF_INET, socket.SOCK_STREAM, 6, "", listener.getsockname())
        monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **options: [place] * 1000)
        monkeypatch.setattr(_ispmail_client, "_connected", lambda *arguments: slow_refusal())
        began = time.monotonic()
        with pytest.raises(DatabaseError, match="error 2013"):
            Client("x", Login("u", b"", host="many"), 0.1, 0.5).connect()
        assert time.monotonic() - began < 2


def slow_refusal():
    time.sleep(0.1)
    raise OSError("refused")


def test_a_socket_notices_that_the_other_end_is_gone():
    """Packets are sent at once, and a server without power is noticed while a statement takes its time."""
    with socket.create_server((HOST, 0)) as server:
        with _ispmail_client._connected(socket.AF_INET, server.getsockname(), 7) as sock:
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert sock.gettimeout() == 7
        place = server.getsockname()
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ConnectionRefusedError) as raised:
        _ispmail_client._connected(socket.AF_INET, place, 7)
    # Though what was raised still holds it.
    assert raised.traceback and len(os.listdir("/proc/self/fd")) == before


def with_original(err, original):
    err.original_exception = original
    return err


@pytest.mark.parametrize(
    ("err", "number"),
    [
        (DatabaseError("ours", 1045), 1045),
        (DatabaseError("ours"), 0),
        (ssl.SSLError("EVIL"), 2026),
        (with_original(pymysql.err.OperationalError(2003, "EVIL"), ssl.SSLError("EVIL")), 2026),
        (with_original(pymysql.err.OperationalError(2003, "EVIL"), OSError("EVIL")), 2003),
        (pymysql.err.OperationalError(1045, "EVIL"), 1045),
        # PyMySQL takes the two bytes for a signed number.
        (pymysql.err.OperationalError(-1, "EVIL"), 65535),
        (pymysql.err.OperationalError(0, "EVIL"), 0),
        (pymysql.err.OperationalError("EVIL"), 0),
        (pymysql.err.OperationalError("EVIL", 1045), 0),
        (pymysql.err.OperationalError(), 0),
        (KeyError(1045), 0),
        (OSError(111, "EVIL"), 0),
    ],
)
def test_failures_are_told_by_number(err, number):
    """Never in the server's words: they may be anybody's."""
    failure = Client("x", Login("u", b""))._failure(err)
    assert failure.number == number and "EVIL" not in str(failure)
    if isinstance(err, DatabaseError):
        assert str(failure) == "x: ours"
    else:
        assert str(failure).startswith(f"x: error {number}: " if number else "x: an unreadable answer: check")


def test_a_login_is_a_value_that_shows_no_password():
    given = Login("u", PASSWORD)
    assert "secret" not in repr(given) and given.port == 3306
    assert len({given, Login("u", PASSWORD)}) == 1
    with pytest.raises(AttributeError):
        given.password = b"other"
    # Until the server has asked for another one.
    assert Client("x", given).plugin == "mysql_native_password"
