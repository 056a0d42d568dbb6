"""The client of the database: how it logs in, and that it does not without its guard."""

import socket
import ssl
import sys
import time

import pymysql
import pytest

import ispmail_client
import ispmail_database
from ispmail_client import TLS, Client, Login
from ispmail_errors import DatabaseError
from ispmail_sql import Grant
from lab import HOST


def test_without_pymysql_the_fix_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pymysql", None)
    with pytest.raises(DatabaseError, match=r"has no PyMySQL: apply ispmail\.database, or install python3-pymysql"):
        Client("x", Login("u", b"")).connect()


@pytest.mark.parametrize("name", ispmail_client._INNER)
def test_a_pymysql_without_the_parts_that_are_replaced_is_not_used(monkeypatch, name):
    monkeypatch.delattr(pymysql.connections.Connection, name)
    monkeypatch.setattr(pymysql.connections.Connection, "connect", lambda self: pytest.fail("it has connected"))
    with pytest.raises(DatabaseError, match=r"PyMySQL [0-9.]+ cannot be kept from giving passwords away, so no login"):
        Client("x", Login("u", b"secret")).connect()


def test_a_pymysql_that_logs_in_by_itself_has_no_password_to_give(monkeypatch):
    """A future one may call what is replaced by another name: then its own login runs."""
    given = []
    monkeypatch.setattr(pymysql.connections.Connection, "connect", lambda self, sock: given.append(dict(vars(self))))
    with socket.create_server((HOST, 0)) as listener, pytest.raises(DatabaseError, match="cannot be kept from giving"):
        Client("x", Login("u", b"secret", host=HOST, port=listener.getsockname()[1])).connect()
    assert given and given[0]["password"] == b"" and not [value for value in given[0].values() if value == b"secret"]


FILES = [
    ({}, Login("", b"", unix_socket="/run/mysqld/mysqld.sock")),
    ({"hosts": "localhost:13306", "user": "u"}, Login("u", b"", unix_socket="/run/mysqld/mysqld.sock")),
    ({"hosts": "unix:/a/b", "dbname": "d"}, Login("", b"", unix_socket="/a/b", database="d")),
    ({"hosts": "inet:db:3307", "password": "\udce9"}, Login("", b"\xe9", host="db", port=3307)),
    ({"hosts": "db:mysql"}, Login("", b"", host="db", port="mysql")),
    (
        {"hosts": "db", "tls_CAfile": "/ca", "tls_verify_cert": "yes"},
        Login("", b"", host="db", tls=TLS("/ca", None, None, None, True)),
    ),
    ({"hosts": "db", "tls_cert_file": "/c"}, Login("", b"", host="db", tls=TLS(None, None, "/c", None, False))),
    ({"hosts": "db", "tls_verify_cert": "yes"}, Login("", b"", host="db")),
]


@pytest.mark.parametrize(("keys", "expected"), FILES)
def test_logins_of_table_files(keys, expected):
    found = ispmail_database.login(keys.get("hosts", "localhost"), keys)
    assert found == expected
    assert not found.password or repr(found.password) not in repr(found)


@pytest.mark.parametrize(("verify", "checked"), [(True, True), (False, False)])
def test_a_host_name_is_checked_where_the_table_file_says_so(verify, checked):
    file = ssl.get_default_verify_paths().cafile or ssl.get_default_verify_paths().openssl_cafile
    context = ispmail_client.tls_context(TLS(file, None, None, None, verify))
    assert (context.check_hostname, context.verify_mode) == (checked, ssl.CERT_REQUIRED)
    assert ispmail_client.tls_context(TLS(None, "", None, None, True)).verify_mode == ssl.CERT_NONE


def test_a_ca_that_cannot_be_read_is_named_by_its_keys():
    login = Login("u", b"", host="127.0.0.1", tls=TLS("/nowhere", None, None, None, True))
    with pytest.raises(DatabaseError, match="x: error 2026: TLS failed") as caught:
        Client("x", login).connect()
    assert caught.value.number == 2026


@pytest.mark.parametrize("error", [LookupError, KeyError, IndexError, TypeError, ValueError, StopIteration])
def test_an_answer_that_no_server_gives_is_the_server_s_fault(error):
    with pytest.raises(DatabaseError) as caught, ispmail_database.understood("x"):
        raise error("EVIL")
    assert str(caught.value) == ("x: it answers what a MariaDB or MySQL does not: check that it is the right server")
    assert caught.value.__suppress_context__


def test_our_own_errors_stay_what_they_are():
    with pytest.raises(DatabaseError, match=r"^ours$") as caught, ispmail_database.understood("x"):
        raise DatabaseError("ours", 1045)
    assert caught.value.number == 1045


@pytest.mark.parametrize(
    ("name", "expected"),
    [("mailserver@%", "mailserver@%"), ("é", "é"), ("x" * 128, "x" * 128)]
    + [(text, "(an unreadable name)") for text in ("x" * 129, "a\nb", "\x1b[2J", "\u202e")],
)
def test_a_server_s_names_are_shown_where_people_can_read_them(name, expected):
    assert ispmail_database.shown(name) == expected
    grant = Grant((name,), name, False)
    assert ispmail_database.shown_grants([grant]) == [f"{expected} ON {expected}"]


@pytest.mark.parametrize(
    "lines",
    [
        ["GRANT x" + " ON '@'" * 1000 + "x"],
        ["GRANT x" + " ON '@'" * 15 + " " * 8192],
        ["GRANT SELECT ON `a`.* TO `b`@`c`" + " " * 8000] * 33,
        [None],
    ],
)
def test_grants_that_take_too_long_are_not_read(lines):
    began = time.monotonic()
    rows = [{"Grants": line} for line in lines] if lines[0] else [{}]
    with pytest.raises(DatabaseError, match="answers what"), ispmail_database.understood("x"):
        ispmail_database.grants(rows)
    assert time.monotonic() - began < 0.5
    assert ispmail_database.grants([{"x": "GRANT SELECT ON `a`.* TO `b`@`c`"}]) == [Grant(("SELECT",), "`a`.*", False)]


def test_all_addresses_of_a_name_share_the_time_of_a_login(monkeypatch):
    """A name server may give a thousand."""
    with socket.create_server((HOST, 0), backlog=1) as listener:
        place = (socket.AF_INET, socket.SOCK_STREAM, 6, "", listener.getsockname())
        monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **options: [place] * 1000)
        monkeypatch.setattr(ispmail_client, "_connected", lambda *arguments: slow_refusal())
        began = time.monotonic()
        with pytest.raises(DatabaseError, match="error 2013"):
            Client("x", Login("u", b"", host="many"), 0.1, 0.5).connect()
        assert time.monotonic() - began < 2


def slow_refusal():
    time.sleep(0.1)
    raise OSError("refused")


def test_an_exception_that_is_none_of_the_server_s_has_no_number():
    failure = Client("x", Login("u", b""))._failure(KeyError(1045))
    assert str(failure).startswith("x: an unreadable answer: check") and failure.number == 0


@pytest.mark.parametrize(("number", "state"), [(1205, "failed"), (2013, "may be done"), (2006, "may be done")])
def test_a_failure_in_the_middle_names_what_is_done(number, state):
    """Of three accounts two were left as they were, and the error did not say which."""

    asked = []

    class OneFails:
        def ask(self, statement, arguments=None):
            asked.append((statement, arguments))
            if statement == "b2":
                raise DatabaseError("db: no", number)

    steps = [
        ispmail_database.Step("a", ("a1",), {"new": "x"}),
        ispmail_database.Step("b", ("b1", "b2", "b3")),
        ispmail_database.Step("c", ("c1",)),
    ]
    with pytest.raises(DatabaseError) as caught:
        ispmail_database.run(OneFails(), steps, "apply again")
    assert str(caught.value) == f"db: no. apply again, it goes on from there:\n- done: a\n- {state}: b\n- not done: c"
    assert caught.value.number == number
    assert asked == [("a1", {"new": "x"}), ("b1", None), ("b2", None)]
    assert "x" not in repr(steps[0])
