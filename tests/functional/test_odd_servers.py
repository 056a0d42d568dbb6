"""Servers that answer at the database's address and are none: they hold up nobody, fill nothing and crash nothing."""

import contextlib
import re
import threading
import time
from types import SimpleNamespace

import pymysql
import pytest
from salt.exceptions import CommandExecutionError, SaltInvocationError

import _ispmail_accounts
import _ispmail_bounds
import _ispmail_session
from _ispmail_client import TLS, Client, Login
from _ispmail_config_database import AdminLogin, DatabaseConfig
from _ispmail_doctor_login import ask, check, logins
from _ispmail_errors import DatabaseError
from _ispmail_holders import Holders, _ask_hosts, _LiveLogin
from lab import HOST, wait_until
from lab.postfix import write_cold

from ..unit.doctor_values import live_map
from .database import MORE_RESULTS, OK, OddServer, certificate, error, greet, knows, say_rows

TOO_MUCH = "it sends more than any answer needs: check that it is the right server"
NO_SERVER = "it answers what a MariaDB or MySQL does not: check that it is the right server"
LOST = "error 2013: it did not answer in time, or closed the connection: check that it is well"


def login(server, **more):
    return Login("mailserver", b"secret", host=HOST, port=server.port, **more)


def connect(server, within=10.0):
    with contextlib.closing(Client("x", login(server), within, within)) as client:
        client.connect()


def read(server):
    admin = AdminLogin("root", "secret", None, HOST, server.port)
    return _ispmail_accounts.read(DatabaseConfig("ispmail", "mailserver", None, "mailserver", (HOST,), True, admin))


def keys(server):
    return {"user": "mailserver", "password": "secret", "hosts": server.host, "dbname": "mailserver"}


def statement(server):
    """The reason why a statement fails."""
    (rows,) = _ispmail_session.ask(keys(server), server.host, ["SELECT 1"]).answers
    return rows.reason


def flood(talk):
    """Chained packets are one: the client would keep all of it until the last has come."""
    talk.peer.settimeout(5)
    number = 0
    while True:
        talk.peer.sendall(b"\xff\xff\xff" + bytes([number % 256]) + b"\0" * 0xFFFFFF)
        number += 1


def small_packets(talk):
    greet(talk)
    while True:
        talk.say(b"\xfemysql_native_password\0" + b"x" * 60000)
        talk.hear()


@pytest.mark.parametrize("serve", [flood, small_packets])
def test_a_login_takes_little_memory(serve):
    with OddServer(serve) as server, pytest.raises(DatabaseError, match=f"^x: {TOO_MUCH}$"):
        connect(server)


def endless_rows(talk, _):
    talk.say(b"\1")
    name = b"\7version"
    talk.say(b"\3def\0\0\0" + name + name + b"\x0c\x21\0\xff\0\0\0\xfd\0\0\0\0\0")
    talk.say(b"\xfe\0\0\2\0")
    while True:
        talk.say(b"\xfc\xff\xff" + b"A" * 65535)


def endless_empty_rows(talk, _):
    """Each takes five bytes on the wire, and some hundred here."""
    talk.say(b"\1")
    name = b"\7version"
    talk.say(b"\3def\0\0\0" + name + name + b"\x0c\x21\0\xff\0\0\0\xfd\0\0\0\0\0")
    talk.say(b"\xfe\0\0\2\0")
    while True:
        many = b"".join(b"\1\0\0" + bytes([(talk.number + number) % 256]) + b"\0" for number in range(256))
        talk.peer.sendall(many)


def endless_results(talk, _):
    while True:
        talk.say(MORE_RESULTS)


@pytest.mark.parametrize("answer", [endless_rows, endless_empty_rows, endless_results])
def test_a_statement_takes_bounded_memory(answer, monkeypatch):
    # It is the time of a busy machine that is not to end it.
    monkeypatch.setattr(_ispmail_bounds, "_STATEMENT", 60)
    with OddServer(knows(answer)) as server:
        assert statement(server) == f"{server.host}: {TOO_MUCH}"


def test_a_statement_takes_bounded_memory_of_the_admin():
    with OddServer(knows(endless_rows)) as server, pytest.raises(DatabaseError, match=TOO_MUCH):
        read(server)


def drip(talk, packet):
    for byte in packet:
        talk.peer.sendall(bytes([byte]))
        time.sleep(0.05)


def slow_login(talk):
    greet(talk)
    drip(talk, b"\xff\x7f\0\2\xfe" + b"A" * 32766)


def test_a_login_ends_in_time():
    with OddServer(slow_login) as server:
        began = time.monotonic()
        with pytest.raises(DatabaseError, match=f"^x: {LOST}$"):
            connect(server, 0.5)
        assert time.monotonic() - began < 2


def slow_results(talk, _):
    while True:
        talk.say(MORE_RESULTS)
        time.sleep(0.05)


@pytest.mark.parametrize("answer", [slow_results, lambda talk, _: drip(talk, b"\xff\xff\0\1" + b"A" * 65530)])
def test_a_statement_ends_in_time(answer, monkeypatch):
    monkeypatch.setattr(_ispmail_bounds, "_STATEMENT", 0.5)
    with OddServer(knows(answer)) as server:
        began = time.monotonic()
        assert statement(server) == f"{server.host}: {LOST}"
        assert time.monotonic() - began < 2
        with pytest.raises(DatabaseError, match=LOST):
            read(server)
        assert time.monotonic() - began < 4


def test_after_an_answer_that_took_too_long_nothing_is_asked(monkeypatch):
    """What comes then would be taken for the answer to the next statement."""
    monkeypatch.setattr(_ispmail_bounds, "_STATEMENT", 0.3)
    heard = []

    def once(talk, statement):
        heard.append(statement)
        time.sleep(0.5)
        say_rows(talk, [b"a"], [b"1"])

    with OddServer(knows(once)) as server:
        answers = _ispmail_session.ask(keys(server), server.host, ["SELECT 1", "SELECT 2"]).answers
        assert [rows.reason for rows in answers] == [f"{server.host}: {LOST}"] * 2
    assert heard == [b"SELECT 1"]


def test_building_may_take_longer(monkeypatch):
    monkeypatch.setattr(_ispmail_bounds, "_STATEMENT", 0.3)

    def slowly(talk, _):
        time.sleep(0.6)
        say_rows(talk, [b"a"], [b"1"])

    with OddServer(knows(slowly)) as server, contextlib.closing(Client("x", login(server))) as client:
        client.connect()
        client.wait_longer()
        assert client.ask("SELECT 1") == [{"a": "1"}]


def test_a_login_that_is_aborted_while_tls_begins_ends(tmp_path):
    """Its thread and two descriptors were left behind at each interval of the beacon."""
    file = certificate(tmp_path)
    asked, go_on, heard = threading.Event(), threading.Event(), []

    def serve(talk):
        greet(talk, tls=True)
        assert talk.wants_tls()
        talk.hear(exactly=36)
        asked.set()
        go_on.wait(5)
        talk.begin_tls(file)
        heard.append(talk.hear())
        drip(talk, b"\xff\xff\0\3\xfe" + b"A" * 65530)

    with OddServer(serve) as server:
        client = Client("x", login(server, tls=TLS(str(file), None, None, None, False)), 20, 20)
        failed = []

        def attempt():
            try:
                client.connect()
            except DatabaseError as err:
                failed.append(str(err))

        thread = threading.Thread(target=attempt, daemon=True)
        thread.start()
        assert asked.wait(5)
        client.abort()
        go_on.set()
        thread.join(3)
        assert not thread.is_alive()
        assert failed == [f"x: {LOST}"]
    assert not any(heard), "it has logged in all the same"


def test_an_abort_does_not_forget_tls(tmp_path):
    """The TLS socket's own shutdown() does: what the other thread sends meanwhile would be in clear."""
    file = certificate(tmp_path)
    under_tls = threading.Event()

    def serve(talk):
        greet(talk, tls=True)
        assert talk.wants_tls()
        talk.hear(exactly=36)
        talk.begin_tls(file)
        talk.hear()
        talk.say(OK)
        for _ in range(2):
            talk.hear()
            talk.say(OK)
        under_tls.wait(5)

    with OddServer(serve) as server:
        client = Client("x", login(server, tls=TLS(str(file), None, None, None, False)))
        with contextlib.closing(client):
            client.connect()
            sock = client._connection._sock
            client.abort()
            assert sock._sslobj is not None
            with pytest.raises(DatabaseError, match=r"^x: error 20"):
                client.ask("SELECT 1")
        under_tls.set()


def column(name, *rows):
    return lambda talk, _: say_rows(talk, [name], *rows)


def maria(answer):
    """A MariaDB as far as its version."""

    def serve(talk, statement):
        if b"VERSION" in statement:
            say_rows(talk, [b"version"], [b"10.11-MariaDB"])
        else:
            answer(talk, statement)

    return serve


def bad_account(priv):
    def serve(talk, statement):
        if b"global_priv" in statement:
            say_rows(talk, [b"host", b"priv"], [b"h", priv])
        else:
            say_rows(talk, [b"t", b"c", b"k", b"e", b"a", b"i", b"n"])

    return serve


ODD = {
    "ok": lambda talk, _: talk.say(OK),
    "no rows": column(b"version"),
    "another column": column(b"EVIL", [b"EVIL"]),
    "null": column(b"version", [None]),
    "no columns": lambda talk, _: [talk.say(packet) for packet in (b"\0", b"\xfe\0\0\2\0", b"\0", b"\xfe\0\0\2\0")],
}
ODD_LATER = {**ODD, "json": bad_account(b"{EVIL"), "json of another kind": bad_account(b"[1]")}


@pytest.mark.parametrize(
    "answer", [*ODD.values(), *[maria(each) for name, each in ODD_LATER.items() if name not in ("ok", "no rows")]]
)
def test_the_admin_s_login_understands_that_it_is_no_server(answer):
    with OddServer(knows(answer)) as server, pytest.raises(DatabaseError) as caught:
        read(server)
    assert re.fullmatch(
        rf"the database server at {HOST}:\d+: ({NO_SERVER}|an unreadable answer: .*)", str(caught.value)
    )
    assert "EVIL" not in str(caught.value)


def account_of(name):
    def serve(talk, statement):
        if b"CURRENT_USER" in statement:
            say_rows(talk, [b"account"], [name])
        elif b"@@" in statement:
            names = [b"wait_timeout", b"max_connections", b"max_user_connections"]
            say_rows(talk, names, [b"28800", b"1000", b"0"])
        elif b"GRANTS" in statement:
            say_rows(talk, [b"Grants"], [b"GRANT SELECT ON `mailserver`.* TO `a`@`b`"])
        elif b"EXPLAIN" in statement:
            say_rows(talk, [b"EVIL"], [b"EVIL"])
        else:
            say_rows(talk, [b"a"])

    return serve


@pytest.mark.parametrize("answer", [*ODD.values(), account_of(b"mailserver@127.0.0.1")])
def test_the_doctor_understands_that_it_is_no_server(answer):
    with OddServer(knows(answer)) as server:
        live = live_map(query="SELECT 1 FROM t WHERE a='%s'", **keys(server))
        findings = [each for each in check([live]) if each.result != "ok"]
    assert "EVIL" not in repr(findings)
    assert [each.fix for each in findings] == [f"{server.host}: {NO_SERVER}"] or "unreadable" in findings[0].fix


@pytest.mark.parametrize("name", [b"a\nb@c", b"\x1b[2J", b"x" * 200])
def test_an_account_s_name_is_shown_where_people_can_read_it(name):
    with OddServer(knows(account_of(name))) as server:
        live = live_map(query="SELECT 1 FROM t WHERE a='%s'", **keys(server))
        (one,) = logins([live])
        assert ask(one).account.name == "(an unreadable name)"


@pytest.mark.parametrize(
    ("packet", "text"),
    [
        (error(65535), "error 65535: see that number in the server's manual, and the server's log"),
        (error(1045), "error 1045: access is denied: .*"),
        (error(0), "an unreadable answer: check that it is a MariaDB or MySQL server, and see the server's log"),
        (b"\xff\1", "an unreadable answer: check that it is a MariaDB or MySQL server, and see the server's log"),
        (b"", "an unreadable answer: check that it is a MariaDB or MySQL server, and see the server's log"),
    ],
)
def test_what_is_no_number_of_a_server_is_unreadable(packet, text):
    with OddServer(lambda talk: talk.say(packet)) as server, pytest.raises(DatabaseError) as caught:
        connect(server)
    assert re.fullmatch(f"x: {text}", str(caught.value))


FILE_SECRET = "file-secret-Wz8Kq3"
# All that logs in to a database: by our own client, and by Postfix's.
LOGGING_IN = (
    ("postfix_database.refused", {}),
    ("postfix_database.read", {}),
    ("postfix_database.tables", {}),
    ("postfix_database.account", {}),
    ("postfix_database.credential_accepted", {}),
    ("postfix_database.credential_sole", {}),
    ("postfix_database.holders", {"site_hosts": []}),
    ("postfix_doctor.check", {}),
    ("postfix_map.apply", {"test": True}),
    ("postfix_map.lookup", {"map": "virtual_alias_maps", "question": "jack@example.org"}),
)


@pytest.fixture
def wants_files(tmp_path):
    """A server that wants a file in place of each answer: to LOAD DATA LOCAL INFILE, which nobody has sent."""
    path = tmp_path / "secret"
    path.write_text(FILE_SECRET)
    path.chmod(0o644)
    talks, phase = [], ["statement"]

    def serve(talk):
        talks.append(talk)
        greet(talk)
        if phase[0] == "statement":
            talk.say(OK)
            while packet := talk.hear():
                if packet[5:8] != b"SET":
                    break
                talk.say(OK)
        talk.say(b"\xfb" + bytes(path))
        talk.peer.settimeout(3)
        if talk.hear():
            # The file, or the empty packet of a client that does not give it.
            talk.say(error(1045))

    with OddServer(serve) as server:
        server.talks, server.phase, server.path = talks, phase, path
        yield server


@pytest.mark.parametrize("phase", ["statement", "login"])
def test_a_server_that_wants_a_file_gets_none(minion, postfix, wants_files, tmp_path, phase):
    """With LOCAL INFILE a server reads any file of its client's, as the user that the client runs as: root."""
    wants_files.phase[0] = phase
    section = minion.pillar["ispmail"]
    section["database"]["hosts"] = wants_files.host
    host, port = wants_files.host.split(":")
    section["server"] = {"host": host, "port": int(port), "user": "root", "password": "x"}
    section["consumers"] = {"program": {"option_file": str(tmp_path / "program.cnf")}}
    minion.pillar = {"ispmail": section}
    for name in ("alias-maps", "mailbox-maps", "mailbox-domains"):
        path = postfix.config_directory / f"mariadb-virtual-{name}.cf"
        query = "SELECT 1 FROM t WHERE a='%s'"
        write_cold(path, f"user = x\npassword = y\nhosts = {wants_files.host}\ndbname = z\nquery = {query}\n", 0o644)
        postfix.command("postconf", "-e", f"virtual_{name.replace('-', '_')} = mysql:{path}")
    call = minion.caller()
    # A login is the same code for all of them.
    for function, options in LOGGING_IN if phase == "statement" else (LOGGING_IN[0], LOGGING_IN[1], LOGGING_IN[-1]):
        before = len(wants_files.talks)
        with contextlib.suppress(CommandExecutionError, SaltInvocationError):
            call(function, **options)
        assert len(wants_files.talks) > before, f"{function} has not logged in"
    heard = [packet for talk in wants_files.talks for packet in talk.got]
    assert not [packet for packet in heard if FILE_SECRET.encode() in packet]


def test_this_server_does_get_files(wants_files):
    """A test that cannot fail proves nothing: PyMySQL itself sends the file, if it may."""
    host, port = wants_files.host.split(":")
    connection = pymysql.connect(host=host, port=int(port), user="x", password="y", local_infile=True)
    with contextlib.closing(connection), contextlib.suppress(Exception):
        connection.query("SELECT 1")
    assert wait_until(lambda: [p for t in wants_files.talks for p in t.got if FILE_SECRET.encode() in p], 5)


@pytest.mark.parametrize("refused", [b"PROCESSLIST", b"CONNECTION_ID"])
def test_a_host_that_lists_no_connections_is_a_note(refused):
    """As one that cannot be logged in to, see find(). A proxy may refuse it; the search for holders ended there."""

    def answer(talk, statement):
        if refused in statement:
            talk.say(error(1235))
        else:
            say_rows(talk, [b"Id"])

    found = Holders()
    with OddServer(knows(answer)) as server:
        live = [_LiveLogin("/x.cf", keys(server))]
        scope = SimpleNamespace(accounts=("mailserver",), database=SimpleNamespace(type="mysql"))
        _ask_hosts(scope, live, [], lambda process: False, found, 60)
    (note,) = found.unseen
    assert note.startswith(f"who is connected to {server.host} is not known: {server.host}: error 1235")
    assert found.unnamed == []
