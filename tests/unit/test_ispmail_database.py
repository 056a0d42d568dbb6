"""The session of an admin, and what is made of the answers of a database server."""

import time

import pytest

import _ispmail_database
import _ispmail_session
from _ispmail_client import Login
from _ispmail_config_database import AdminLogin
from _ispmail_errors import DatabaseError
from _ispmail_sql import Grant

from .database_values import FakeClient


@pytest.mark.parametrize("seconds", [10**17, 10**20, -(10**20)])
def test_a_day_that_there_is_not(seconds):
    """The first was an OSError, the others an OverflowError: a traceback."""
    assert _ispmail_database.date(4070908800) == "2099-01-01"
    with pytest.raises(ValueError, match="there is no such day"):
        _ispmail_database.date(seconds)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("mailserver@%", "mailserver@%"), ("é", "é"), ("x" * 128, "x" * 128)]
    + [(text, "(an unreadable name)") for text in ("x" * 129, "a\nb", "\x1b[2J", "\u202e")],
)
def test_grants_are_shown_where_people_can_read_them(name, expected):
    grant = Grant((name,), name, False)
    assert _ispmail_database.shown_grants([grant]) == [f"{expected} ON {expected}"]


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
    began = time.thread_time()
    rows = [{"Grants": line} for line in lines] if lines[0] else [{}]
    with pytest.raises(DatabaseError, match="answers what"), _ispmail_session.understood("x"):
        _ispmail_database.grants(rows)
    assert time.thread_time() - began < 0.5
    assert _ispmail_database.grants([{"x": "GRANT SELECT ON `a`.* TO `b`@`c`"}]) == [Grant(("SELECT",), "`a`.*", False)]


def are_read(*lines):
    """Whether lines of SHOW GRANTS are read."""
    try:
        return len(_ispmail_database.grants([{"Grants": line} for line in lines])) == len(lines)
    except ValueError:
        return False


def test_how_much_of_grants_is_read():
    """256 KiB in lines of 8 KiB: an account has some hundred bytes. A name may have quotes."""
    short = "GRANT SELECT ON `a`.* TO `b`@`c`"
    longest = short.replace("a", "x" * (2**13 - len(short) + 1), 1)
    assert are_read(longest) and not are_read(longest.replace("x", "xx", 1))
    assert are_read(*[longest] * 32) and not are_read(*[longest] * 32, short)
    quotes = "'" * 32
    assert are_read(short.replace("a", quotes, 1)) and not are_read(short.replace("a", f"'{quotes}", 1))


def test_a_role_has_no_object():
    assert _ispmail_database.shown_grants([Grant(("reader",), None, False)]) == ["ROLE reader"]


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
        _ispmail_database.Step("a", ("a1",), {"new": "x"}),
        _ispmail_database.Step("b", ("b1", "b2", "b3")),
        _ispmail_database.Step("c", ("c1",)),
    ]
    with pytest.raises(DatabaseError) as caught:
        _ispmail_database.run(OneFails(), steps, "apply again")
    assert str(caught.value) == f"db: no. apply again, it goes on from there:\n- done: a\n- {state}: b\n- not done: c"
    assert caught.value.number == number
    assert asked == [("a1", {"new": "x"}), ("b1", None), ("b2", None)]
    assert "x" not in repr(steps[0])


@pytest.fixture
def client(monkeypatch):
    """Has another client than the real one be used."""

    def use(**options):
        made = FakeClient(**options)
        monkeypatch.setattr(_ispmail_database, "Client", made)
        return made

    return use


ADMIN = AdminLogin(user="root", password="päss", unix_socket=None, host="db1", port=3307)


@pytest.mark.parametrize(("version", "mode"), [("11.8.3-MariaDB", "NO_AUTO_CREATE_USER"), ("8.4.6", "")])
def test_the_admin_is_in_a_session_of_known_settings(client, version, mode):
    used = client(answers={"SELECT VERSION()": [{"version": version}], "SELECT GET_LOCK": [{"got": 1}]})
    settings = [("SET SESSION sql_mode = %s", [mode]), ("SET SESSION lock_wait_timeout = %s", [5])]
    begun = ["connect", "SELECT VERSION() AS version", *settings]
    with _ispmail_database.admin(ADMIN) as server:
        assert server.version == version and server.dialect.sql_mode == mode and not used.closed
        assert used.said == begun
        used._answers["SELECT 1"] = [{"a": 1}]
        assert server.ask("SELECT 1", ["x"]) == [{"a": 1}] and used.said[-1] == ("SELECT 1", ["x"])
    assert used.closed and used.where == "the database server at db1:3307"
    assert used.login == Login("root", "päss".encode(), host="db1", port=3307)
    used.said.clear()
    with _ispmail_database.admin(ADMIN._replace(unix_socket="/run/x", password=None), lock=True):
        assert used.said == [*begun, ("SELECT GET_LOCK('ispmail', %s) AS got", [5])]
    assert used.where == "the database server at /run/x" and used.login.unix_socket == "/run/x"
    assert used.login.password == b""


def test_an_admins_password_may_be_bytes_that_are_no_text(client):
    used = client(answers={"SELECT VERSION()": [{"version": "8.4.6"}]})
    with _ispmail_database.admin(ADMIN._replace(password="\udce9")):
        assert used.login.password == b"\xe9"


@pytest.mark.parametrize("got", [0, None])
def test_two_runs_do_not_change_a_server_at_the_same_time(client, got):
    used = client(answers={"SELECT VERSION()": [{"version": "8.4.6"}], "SELECT GET_LOCK": [{"got": got}]})
    with (
        pytest.raises(DatabaseError, match=r"^the database server at db1:3307: another run is changing it: wait"),
        _ispmail_database.admin(ADMIN, lock=True),
    ):
        pytest.fail("it has begun")
    assert used.closed


def test_an_admin_whose_password_has_expired_is_told_of_his_own(client):
    client(expired=True)
    with pytest.raises(DatabaseError, match="error 1862: the admin's own password has expired: set a new one") as err:
        _ispmail_database.admin(ADMIN).__enter__()
    assert err.value.number == 1862
    client(answers={"SELECT VERSION()": DatabaseError("x: denied", 1045)})
    with pytest.raises(DatabaseError, match=r"^x: denied$"):
        _ispmail_database.admin(ADMIN).__enter__()


def test_an_admin_sees_the_connections_of_others_by_the_privilege_process(client):
    used = client(answers={"SELECT VERSION()": [{"version": "8.4.6"}]})
    with _ispmail_database.admin(ADMIN) as server:
        assert _ispmail_database.sees_all(server) is False
        used._answers["SELECT PRIVILEGE_TYPE AS p FROM information_schema.USER_PRIVILEGES"] = [{"p": "PROCESS"}]
        assert _ispmail_database.sees_all(server) is True
        assert _ispmail_database.missing_privileges(server, ["EVENT", "PROCESS", "SELECT"]) == ["EVENT", "SELECT"]
