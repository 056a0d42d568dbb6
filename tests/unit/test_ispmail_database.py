"""The client of the database: how it logs in, and that it does not without its guard."""

import ssl
import sys

import pymysql
import pytest

import ispmail_database
from ispmail_database import TLS, Client, Login
from ispmail_errors import DatabaseError


def test_without_pymysql_the_fix_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pymysql", None)
    with pytest.raises(DatabaseError, match=r"has no PyMySQL: apply ispmail\.database, or install python3-pymysql"):
        Client("x", Login("u", b"")).connect()


@pytest.mark.parametrize("name", ispmail_database._INNER)
def test_a_pymysql_without_the_parts_that_are_replaced_is_not_used(monkeypatch, name):
    monkeypatch.delattr(pymysql.connections.Connection, name)
    monkeypatch.setattr(pymysql.connections.Connection, "connect", lambda self: pytest.fail("it has connected"))
    with pytest.raises(DatabaseError, match=r"PyMySQL [0-9.]+ cannot be kept from giving passwords away, so no login"):
        Client("x", Login("u", b"secret")).connect()


def test_a_pymysql_that_logs_in_by_itself_has_no_password_to_give(monkeypatch):
    """A future one may call what is replaced by another name: then its own login runs."""
    given = []
    monkeypatch.setattr(pymysql.connections.Connection, "connect", lambda self: given.append(dict(vars(self))))
    with pytest.raises(DatabaseError, match="cannot be kept from giving passwords away"):
        Client("x", Login("u", b"secret")).connect()
    assert given and given[0]["password"] == b"" and not [value for value in given[0].values() if value == b"secret"]


FILES = [
    ({}, Login("", b"", unix_socket="/run/mysqld/mysqld.sock")),
    ({"hosts": "localhost:13306", "user": "u"}, Login("u", b"", unix_socket="/run/mysqld/mysqld.sock")),
    ({"hosts": "unix:/a/b", "dbname": "d"}, Login("", b"", unix_socket="/a/b", database="d")),
    ({"hosts": "inet:db:3307", "password": "\udce9"}, Login("", b"\xe9", host="db", port=3307)),
    ({"hosts": "db:mysql"}, Login("", b"", host="db", port=3306)),
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
    context = ispmail_database._tls_context(TLS(file, None, None, None, verify))
    assert (context.check_hostname, context.verify_mode) == (checked, ssl.CERT_REQUIRED)
    assert ispmail_database._tls_context(TLS(None, "", None, None, True)).verify_mode == ssl.CERT_NONE


def test_a_ca_that_cannot_be_read_is_named_by_its_keys():
    login = Login("u", b"", host="127.0.0.1", tls=TLS("/nowhere", None, None, None, True))
    with pytest.raises(DatabaseError, match="x: error 2026: TLS failed") as caught:
        Client("x", login).connect()
    assert caught.value.number == 2026
