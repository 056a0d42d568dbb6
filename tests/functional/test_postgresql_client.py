"""The client of PostgreSQL on a real server, and on some that are none."""

import base64
import contextlib
import hashlib
import hmac
import os
import shutil
import struct
import threading
import time

import pytest

import _ispmail_peer
import _ispmail_postgresql
import _ispmail_scram
from _ispmail_client import TLS, Login
from _ispmail_errors import DatabaseError
from _ispmail_postgresql_client import Client
from lab import HOST
from lab.postgresql import HBA, PostgreSQL

from .database import Listener, certificate, in_background
from .test_postgresql import PASSWORDS, made

USER, PASSWORD = "mailserver_a", "plainSecret7"


@pytest.fixture(scope="module")
def ca(directory):
    return certificate(directory)


@pytest.fixture(scope="module")
def server(directory, ca):
    pg = PostgreSQL(directory / "db")
    with pg:
        for name in ("server.key", "server.crt"):
            shutil.copy(ca, pg.data / name)
            os.chmod(pg.data / name, 0o600)
            shutil.chown(pg.data / name, pg.data.owner())
        pg.sql("ALTER SYSTEM SET ssl = on; SELECT pg_reload_conf()")
        pg.sql(f"CREATE ROLE {USER} LOGIN")
        yield pg


@pytest.fixture
def account(server):
    server.set_hba("local all all scram-sha-256\nhost all all 127.0.0.1/32 scram-sha-256\n")
    set_password(server, PASSWORD)
    return server


def set_password(server, password):
    server.sql("".join(_ispmail_postgresql.set_password(USER, made(password))))


def login(port, password=PASSWORD, **more):
    return Login(
        **{"user": USER, "password": password.encode(), "host": HOST, "port": port, "database": "postgres", **more}
    )


def ask(where, statement="SELECT 1 AS one", **within):
    with contextlib.closing(Client("the server", where, **within)) as client:
        client.connect()
        return client.ask(statement)


def tls(ca=None, verify_name=True):
    return TLS(str(ca) if ca else None, None, None, None, verify_name)


def refused(where, **within):
    """Why a login fails."""
    with pytest.raises(DatabaseError) as caught:
        ask(where, **within)
    assert str(caught.value).startswith("the server: ")
    assert PASSWORD not in str(caught.value)
    return str(caught.value).removeprefix("the server: ")


# A real server.


def test_rows_and_statements(account):
    statement = "SELECT 'ä' AS text, NULL AS nothing, '' AS empty, 5 AS number; SELECT 1 AS x WHERE false"
    with contextlib.closing(Client("the server", login(account.port))) as client:
        client.connect()
        assert client.ask(statement.partition(";")[0]) == [{"text": "ä", "nothing": None, "empty": "", "number": "5"}]
        assert client.ask(statement) == []
        assert client.ask("SET lock_timeout = 5") == []
        with pytest.raises(DatabaseError, match=r"^the server: error 42P01: a table does not exist") as caught:
            client.ask("SELECT secret FROM nowhere")
        assert caught.value.number == "42P01"
        assert "nowhere" not in str(caught.value)
        assert client.ask("SELECT repeat('x', 100000) AS x")[0]["x"] == "x" * 100000
        account.sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{USER}'")
        with pytest.raises(DatabaseError, match="did not answer in time, or closed the connection"):
            client.ask("SELECT 1")
        with pytest.raises(DatabaseError, match="closed the connection"):
            client.ask("SELECT 1")


@pytest.mark.parametrize("password", PASSWORDS, ids=ascii)
def test_each_password_logs_in(account, password):
    set_password(account, password)
    assert ask(login(account.port, password)) == [{"one": "1"}]
    with pytest.raises(DatabaseError, match="error 28P01: access is denied") as caught:
        ask(login(account.port, password + "x"))
    assert caught.value.number == "28P01"


def test_over_a_unix_socket_and_tls(account, ca, directory):
    statement = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
    assert ask(login(account.port, unix_socket=account.socket, host=None), statement) == [{"ssl": "f"}]
    assert ask(login(account.port, tls=tls(ca)), statement) == [{"ssl": "t"}]
    assert refused(login(account.port, tls=tls(certificate(directory, "127.0.0.9")))).startswith("TLS failed")
    assert refused(login(account.port, host="localhost", tls=tls(ca))).startswith("TLS failed")


@pytest.mark.parametrize(("line", "ssl"), [("host", "t"), ("hostssl", "t"), ("hostnossl", "f")])
def test_without_tls_settings_it_is_as_libpq_has_it(account, line, ssl):
    """Postfix's table files have none: with TLS where the server offers it, and without where it wants none."""
    account.set_hba(f"{line} all all 127.0.0.1/32 scram-sha-256\n")
    assert ask(login(account.port), "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()") == [{"ssl": ssl}]
    assert refused(login(account.port, "wrong")).startswith("error 28P01")
    account.set_hba("host all all 127.0.0.2/32 scram-sha-256\n")
    assert refused(login(account.port)).startswith("error 28000: access is denied: check that the role exists")


def test_a_login_is_ended_from_another_thread(account):
    with contextlib.closing(Client("the server", login(account.port))) as client:
        client.connect()
        began = time.monotonic()
        ended = threading.Timer(0.3, client.abort)
        ended.start()
        with pytest.raises(DatabaseError, match="it did not answer in time"):
            client.ask("SELECT pg_sleep(5)")
        assert time.monotonic() - began < 2
        ended.join()


@pytest.mark.parametrize("way", ["password", "md5", "trust"])
def test_a_login_that_proves_nothing_is_for_verified_servers_only(account, ca, way):
    account.set_hba(f"local all all {way}\nhost all all 127.0.0.1/32 {way}\n")
    if way == "md5":
        account.sql(f"SET password_encryption = md5; ALTER ROLE {USER} PASSWORD '{PASSWORD}'")
    assert "does not log in by scram-sha-256" in refused(login(account.port))
    assert "does not log in by scram-sha-256" in refused(login(account.port, tls=tls()))
    assert "does not log in by scram-sha-256" in refused(login(account.port, tls=tls(ca, verify_name=False)))
    assert ask(login(account.port, tls=tls(ca))) == [{"one": "1"}]
    assert ask(login(account.port, unix_socket=account.socket, host=None)) == [{"one": "1"}]
    if way == "trust":
        assert ask(login(account.port, "")) == [{"one": "1"}]


@pytest.mark.parametrize(
    ("statement", "state"),
    [
        (f"ALTER ROLE {USER} NOLOGIN", "28000"),
        (f"ALTER ROLE {USER} VALID UNTIL '2001-01-01'", "28P01"),
        (f"ALTER ROLE {USER} CONNECTION LIMIT 0", "53300"),
        ("REVOKE CONNECT ON DATABASE postgres FROM PUBLIC", "42501"),
    ],
)
def test_what_a_refusal_means(account, statement, state):
    account.sql(statement)
    assert refused(login(account.port)).startswith(f"error {state}: ")
    account.sql(f"ALTER ROLE {USER} LOGIN VALID UNTIL 'infinity' CONNECTION LIMIT -1")
    account.sql("GRANT CONNECT ON DATABASE postgres TO PUBLIC")


# By peer, as Debian has it for the superuser.


def as_admin(server, user, path=None):
    admin = login(server.port, "", user="postgres", unix_socket=path or server.socket, host=None)
    with contextlib.closing(Client("the server", admin, system_user=user)) as client:
        client.connect()
        return os.geteuid(), client.ask("SELECT current_user AS me")


def test_root_logs_in_as_the_superuser_by_peer(account):
    account.set_hba("local all all peer\n", own=False)
    try:
        assert as_admin(account, "postgres") == (0, [{"me": "postgres"}])
        for user in (None, "nobody"):
            with pytest.raises(DatabaseError, match="error 28000"):
                as_admin(account, user)
    finally:
        account.hba.write_text(HBA)
        account.restart()


@pytest.mark.parametrize(("user", "path"), [("no-such-user", None), ("postgres", "/nowhere/.s.PGSQL.5432")])
def test_nobody_can_connect(server, user, path):
    with pytest.raises(DatabaseError, match="it cannot be reached"):
        as_admin(server, user, path)


def test_the_connection_is_not_left_to_programs_that_are_started(server):
    with _ispmail_peer.connect(server.socket, "postgres", 5) as connection:
        assert not connection.get_inheritable()
        assert connection.getpeername() == server.socket


# Others.


def message(kind, body):
    return kind + struct.pack("!i", len(body) + 4) + body


def question(way, more=b""):
    return message(b"R", struct.pack("!i", way) + more)


READY = message(b"Z", b"I")
SASL = question(10, b"SCRAM-SHA-256\0\0")


class Odd(Listener):
    """Answers each connection by a function, which gets a socket that has read the client's first message."""

    def __init__(self, serve):
        self.got = b""
        self._serve = serve
        super().__init__()

    def begin(self, peer):
        in_background(self._one, peer)

    def _one(self, peer):
        peer.settimeout(5)
        with contextlib.suppress(OSError):
            # It has no TLS.
            assert peer.recv(4096) == struct.pack("!ii", 8, 80877103)
            peer.sendall(b"N")
            self.got += peer.recv(4096)
            self._serve(peer)
            while data := peer.recv(4096):
                self.got += data
        peer.close()


def says(*parts):
    return lambda peer: [peer.sendall(part) for part in parts]


def challenges(text):
    """Begins SCRAM, and sends a challenge with the client's nonce in place of %s."""

    def serve(peer):
        peer.sendall(SASL)
        nonce = peer.recv(4096).partition(b"r=")[2].decode()
        peer.sendall(question(11, text.replace("%s", nonce).encode()))

    return serve


SALT = base64.b64encode(bytes(16)).decode()


@pytest.mark.parametrize(
    ("serve", "reason"),
    [
        (says(question(3)), "it does not log in by scram-sha-256"),
        (says(question(5, b"salt")), "it does not log in by scram-sha-256"),
        (says(question(0) + READY), "it does not log in by scram-sha-256"),
        (says(question(7)), "it does not log in by scram-sha-256"),
        (says(SASL, question(0) + READY), "an unreadable answer"),
        (says(question(10, b"SCRAM-SHA-1\0\0")), "an unreadable answer"),
        (challenges(f"r=%sx,s={SALT},i=4095"), "its verifier has 4095 iterations"),
        (challenges(f"r=%sx,s={SALT},i=100000000"), "its verifier has 100000000 iterations"),
        (challenges(f"r=other,s={SALT},i=4096"), "an unreadable answer"),
        (challenges("r=%sx,s=A,i=4096"), "an unreadable answer"),
        (says(message(b"E", b"SFATAL\0C28P01\0Mit's %s\0\0")), "error 28P01: access is denied"),
        (says(message(b"E", b"SFATAL\0Cno\nno\0\0")), "an unreadable answer"),
        (says(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "it sends more than any answer needs"),
        (says(b"R\0\0\0\0"), "an unreadable answer"),
        (says(question(0)[:-2]), "it did not answer in time"),
        (says(message(b"N", b"x" * 2**17)), "it sends more than any answer needs"),
        (says(*[message(b"N", b"")] * 2000), "it sends more than any answer needs"),
        (says(), "it did not answer in time"),
    ],
)
def test_a_server_that_is_not_the_right_one(serve, reason):
    began = time.monotonic()
    with Odd(serve) as odd:
        assert refused(login(odd.port), login_within=1.0).startswith(reason)
    assert time.monotonic() - began < 4
    assert PASSWORD.encode() not in odd.got
    assert hashlib.md5(PASSWORD.encode() + USER.encode()).hexdigest().encode() not in odd.got


def test_rows_of_very_many_nulls_are_left():
    """16 MiB of them took 120 MiB of memory, and 64 logins are tried at the same time."""
    columns = 32000
    names = b"".join(b"%x\0" % number + bytes(18) for number in range(columns))
    head = message(b"T", struct.pack("!h", columns) + names)
    row = message(b"D", struct.pack("!h", columns) + b"\xff" * 4 * columns)

    def serve(peer):
        peer.sendall(SASL)
        first = peer.recv(4096).partition(b"n,,")[2].decode()
        challenge = f"r={first.partition('r=')[2]}x,s={SALT},i=4096"
        peer.sendall(question(11, challenge.encode()))
        last = peer.recv(4096)[5:].decode().partition(",p=")[0]
        keys = _ispmail_scram.keys(PASSWORD.encode(), bytes(16), 4096)
        signature = hmac.digest(keys.server, f"{first},{challenge},{last}".encode(), "sha256")
        peer.sendall(question(12, b"v=" + base64.b64encode(signature)) + question(0) + READY)
        peer.recv(4096)
        peer.sendall(head + row * 20 + READY)

    with Odd(serve) as odd, contextlib.closing(Client("x", login(odd.port))) as client:
        client.connect()
        with pytest.raises(DatabaseError, match="it sends more than any answer needs"):
            client.ask("SELECT 1")


def test_a_server_that_drips_is_left():
    """With a time limit for each read only it would be waited for without end."""

    def serve(peer):
        for _ in range(50):
            peer.sendall(b"N\0\0\0\4")
            time.sleep(0.1)

    began = time.monotonic()
    with Odd(serve) as odd:
        assert refused(login(odd.port), login_within=0.5).startswith("it did not answer in time")
    assert time.monotonic() - began < 2


def test_a_server_that_does_not_know_the_verifier():
    """It lets everybody in, whatever the proof."""

    def serve(peer):
        challenges(f"r=%sx,s={SALT},i=4096")(peer)
        peer.recv(4096)
        peer.sendall(question(12, b"v=" + base64.b64encode(bytes(32))) + question(0) + READY)

    with Odd(serve) as odd:
        assert refused(login(odd.port)).startswith("it does not know the password's verifier")


def test_a_server_that_knows_it():
    """So that the one above is refused for its signature, and nothing else."""

    def serve(peer):
        peer.sendall(SASL)
        first = peer.recv(4096).partition(b"n,,")[2].decode()
        challenge = f"r={first.partition('r=')[2]}x,s={SALT},i=4096"
        peer.sendall(question(11, challenge.encode()))
        last = peer.recv(4096)[5:].decode().partition(",p=")[0]
        keys = _ispmail_scram.keys(PASSWORD.encode(), bytes(16), 4096)
        signature = hmac.digest(keys.server, f"{first},{challenge},{last}".encode(), "sha256")
        peer.sendall(question(12, b"v=" + base64.b64encode(signature)) + question(0) + READY)
        peer.recv(4096)
        peer.sendall(message(b"C", b"SET\0") + READY)

    with Odd(serve) as odd:
        assert ask(login(odd.port)) == []


def test_no_server():
    with Odd(says()) as odd:
        port = odd.port
    assert refused(login(port)) == "it cannot be reached: check the address, and that it runs"
