"""What table files say of a login, and what is made of the answers of a database server."""

import time

import pytest

import ispmail_database
from ispmail_client import TLS, Login
from ispmail_errors import DatabaseError
from ispmail_sql import Grant

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
