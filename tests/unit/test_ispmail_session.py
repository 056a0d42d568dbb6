"""What table files say of a login, and what a server may answer to it."""

import pytest

import _ispmail_session
from _ispmail_client import TLS, Login
from _ispmail_errors import DatabaseError, InvalidInput

from .database_values import FakeClient

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
    ({"hosts": "db", "tls_CApath": "/certs"}, Login("", b"", host="db", tls=TLS(None, "/certs", None, None, False))),
    (
        {"hosts": "db", "tls_CAfile": "", "tls_CApath": "", "tls_cert_file": "/c", "tls_key_file": "/k"},
        Login("", b"", host="db", tls=TLS(None, None, "/c", "/k", False)),
    ),
    (
        {"hosts": "db", "tls_CAfile": "", "tls_CApath": "", "tls_cert_file": "", "tls_key_file": ""},
        Login("", b"", host="db"),
    ),
    # Postfix's client goes on without TLS by none of the others, and by this one never.
    ({"hosts": "db", "tls_verify_cert": "yes"}, Login("", b"", host="db", tls=TLS(None, None, None, None, True))),
    ({"hosts": "db", "tls_verify_cert": "no", "tls_ciphers": "HIGH"}, Login("", b"", host="db")),
]


@pytest.mark.parametrize(("keys", "expected"), FILES)
def test_logins_of_table_files(keys, expected):
    found = _ispmail_session.login(keys.get("hosts", "localhost"), keys)
    assert found == expected
    assert not found.password or repr(found.password) not in repr(found)


PGSQL_FILES = [
    ({}, Login("", b"", host="localhost", port=5432, type="pgsql")),
    (
        {"hosts": "db:5433", "user": "u", "password": "\udce9", "dbname": "d"},
        Login("u", b"\xe9", host="db", port=5433, database="d", type="pgsql"),
    ),
    ({"hosts": "unix:/a/b"}, Login("", b"", unix_socket="/a/b/.s.PGSQL.5432", port=5432, type="pgsql")),
]


@pytest.mark.parametrize(("keys", "expected"), PGSQL_FILES)
def test_logins_of_table_files_of_postgresql(keys, expected):
    assert _ispmail_session.login(keys.get("hosts", "localhost"), keys, "pgsql") == expected


@pytest.mark.parametrize(
    ("table_type", "client", "read_only"),
    [
        ("mysql", "_ispmail_client", "SET SESSION TRANSACTION READ ONLY"),
        ("pgsql", "_ispmail_postgresql_client", "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"),
    ],
)
def test_each_kind_of_server_has_its_client_and_its_words(table_type, client, read_only):
    login = _ispmail_session.login("db", {"user": "u"}, table_type)
    assert type(_ispmail_session.connection("db", login)).__module__ == client
    assert _ispmail_session._READ_ONLY[table_type] == read_only


ODD = [
    OverflowError,
    LookupError,
    KeyError,
    IndexError,
    TypeError,
    ValueError,
    AttributeError,
    StopIteration,
    RecursionError,
]


@pytest.mark.parametrize("error", ODD)
def test_an_answer_that_no_server_gives_is_the_server_s_fault(error):
    with pytest.raises(DatabaseError) as caught, _ispmail_session.understood("x"):
        raise error("EVIL")
    assert str(caught.value) == ("x: it answers what a MariaDB or MySQL does not: check that it is the right server")
    assert caught.value.__suppress_context__


def test_what_no_postgresql_answers():
    with pytest.raises(DatabaseError) as caught, _ispmail_session.understood("x", "pgsql"):
        raise ValueError("EVIL")
    assert str(caught.value) == "x: it answers what a PostgreSQL does not: check that it is the right server"


def test_our_own_errors_stay_what_they_are():
    with pytest.raises(DatabaseError, match=r"^ours$") as caught, _ispmail_session.understood("x"):
        raise DatabaseError("ours", 1045)
    assert caught.value.number == 1045


@pytest.mark.parametrize(
    ("name", "expected"),
    [("mailserver@%", "mailserver@%"), ("é", "é"), ("x" * 128, "x" * 128)]
    + [(text, "(an unreadable name)") for text in ("x" * 129, "a\nb", "\x1b[2J", "\u202e")],
)
def test_a_server_s_names_are_shown_where_people_can_read_them(name, expected):
    assert _ispmail_session.shown(name) == expected


@pytest.fixture
def client(monkeypatch):
    """Has another client than the real one be used."""

    def use(**options):
        made = FakeClient(**options)
        monkeypatch.setattr(_ispmail_session, "Client", made)
        return made

    return use


KEYS = {"hosts": "db1 db2:3307", "user": "u", "password": "p"}
READ_ONLY = "SET SESSION TRANSACTION READ ONLY"


def test_statements_with_a_table_file_s_login_may_only_read(client):
    """One that fails is told in its place; the character set is that of the file."""
    used = client(answers={"one": [{"a": 1}], "two": DatabaseError("db2: no", 1146)})
    asked = _ispmail_session.ask(KEYS, "db2:3307", ["one", "two", "three"])
    assert asked == ("mysql_native_password", (([{"a": 1}], None), ([], "db2: no"), ([], None)))
    assert used.said == ["connect", READ_ONLY, "one", "two", "three"] and used.closed
    assert used.where == "db2:3307" and used.login == _ispmail_session.login("db2:3307", KEYS)
    used = client()
    _ispmail_session.ask({**KEYS, "charset": "latin1"}, "db1", ["one"])
    charset = ("SET character_set_client = %s, character_set_connection = %s", ["latin1", "latin1"])
    assert used.said == ["connect", READ_ONLY, charset, "one"]


def test_a_host_that_the_file_does_not_name_gets_no_password(client):
    used = client()
    with pytest.raises(InvalidInput, match=r"does not name that host: use one of db1, db2:3307$"):
        _ispmail_session.ask(KEYS, "evil.example", ["one"])
    assert used.said == [] and used.where is None


def test_an_account_that_may_only_change_its_password_answers_nothing(client):
    used = client(answers={"one": DatabaseError("expired", 1820)})
    with pytest.raises(DatabaseError, match=r"^expired$"):
        _ispmail_session.ask(KEYS, "db1", ["one", "two"])
    assert used.said[-1] == "one" and used.closed
