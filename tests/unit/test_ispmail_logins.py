"""How many logins are tried at once, and what becomes of them."""

import os
import re
import sys
import threading
import time

import pytest

import _ispmail_logins
import _ispmail_session
from _ispmail_client import Login
from _ispmail_config import Instance, Map
from _ispmail_config_consumers import Consumers, logins
from _ispmail_errors import CannotAsk, DatabaseError, Failed
from _ispmail_logins import LiveLogin, Tried, Watch, probe, read, try_all
from lab import wait_until

START = threading.Thread.start


@pytest.fixture
def release():
    """An event that the host `held` waits for."""
    return threading.Event()


@pytest.fixture
def tried(monkeypatch, release):
    """The hosts that were tried; each answers by the number that it is named for, 0 for a login that works.

    One that is late answers after a moment, and one that is silent never does.
    """
    hosts = []

    class FakeClient:
        def __init__(self, where, login, *seconds):
            self.where = where
            self.aborted = threading.Event()

        def connect(self):
            hosts.append(self.where)
            if self.where == "silent":
                self.aborted.wait(60)
                raise DatabaseError("no")
            if self.where == "held":
                release.wait(60)
                return
            if self.where == "late":
                self.aborted.wait(0.3)
                return
            self.fail_if(self.where.partition(":")[0])

        def ask(self, statement):
            self.fail_if(self.where.partition(":")[2] or "0")

        def fail_if(self, number):
            if int(number):
                raise DatabaseError("no", int(number))

        def close(self):
            pass

        def abort(self):
            self.aborted.set()

    monkeypatch.setattr(_ispmail_session, "Client", FakeClient)
    return hosts


def live(host):
    return LiveLogin(host, Login("u", b"", host=host), ("a",), 1)


def test_refused_worked_and_neither(tried):
    logins = [live(host) for host in ("1045", "0", "1040", "1698", "2003")]
    assert try_all(logins) == Tried([logins[0], logins[3]], [logins[1]])
    assert try_all([]) == Tried([], [])


@pytest.mark.parametrize("number", [1820, 1862, 3118, 4151])
def test_an_expired_password_and_a_locked_account_are_refusals(tried, number):
    """With an expired password the login itself may work, and every lookup fails: the beacon was silent."""
    login, statement = live(str(number)), live(f"0:{number}")
    assert try_all([login, statement]) == Tried([login, statement], [])
    assert try_all([live("0:1040")]) == Tried([], [])


def test_what_a_login_is_asked_and_how_long_it_may_take(tried, monkeypatch):
    """Of all time, half a second is left for what comes after a connection."""
    fake, seen = _ispmail_session.Client, []
    monkeypatch.setattr(_ispmail_session, "Client", lambda *arguments: seen.append(arguments[2:]) or fake(*arguments))
    monkeypatch.setattr(fake, "ask", lambda self, statement: seen.append(statement))
    try_all([live("0")])
    assert seen == [(2, 2.5), "SELECT 1"]


def test_a_table_file_of_many_hosts_takes_few_threads(tried, monkeypatch):
    """Each host took a thread and two descriptors; then those behind the 64th were not tried, and nobody knew."""
    logins = [live(f"1045:{number}") for number in range(1000)]
    at_once = []
    monkeypatch.setattr(
        threading.Thread, "start", lambda thread: START(thread) or at_once.append(len(threading.enumerate()))
    )
    monkeypatch.setattr(_ispmail_logins, "_ALL", 60)
    others = len(threading.enumerate())
    assert try_all(logins) == Tried(logins, [])
    assert len(tried) == 1000 and max(at_once) <= others + 64 + 1


def test_threads_that_start_slowly_end_in_time(tried, monkeypatch):
    def slowly(thread):
        time.sleep(0.2)
        START(thread)

    monkeypatch.setattr(threading.Thread, "start", slowly)
    began = time.monotonic()
    logins = [live(f"1045:{number}") for number in range(64)]
    found = try_all(logins)
    assert 5 < len(found.refused) < 20 and found.untried == tuple(logins[len(found.refused) :])
    assert time.monotonic() - began < 3.5


def test_a_system_without_threads_is_survived(tried, monkeypatch):
    def fails(thread):
        if len(tried) >= 3:
            raise RuntimeError("can't start new thread")
        START(thread)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fails)
        found = try_all([live(f"1045:{number}") for number in range(64)])
        assert len(found.refused) >= 3 and len(found.refused) + len(found.untried) == 64
        watch = Watch()
        watch.start([])
        assert watch.take() is None
    watch.start([])
    deadline = time.monotonic() + 5
    while (found := watch.take()) is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert found == Tried([], [])


def test_what_was_not_tried_is_told(tried, table, monkeypatch):
    """Of 65 logins the last one was not tried, and a rotation took that for a login that works."""
    monkeypatch.setattr(_ispmail_logins, "_ALL", 0.3)
    monkeypatch.setattr(_ispmail_logins, "_MOST", 2)
    silent, last = [live("silent")._replace(changed=number) for number in range(2)], live("1045")
    found = try_all([*silent, last])
    assert found == Tried([], [], (last,))
    said = "1 login could not be tried within 0.3 s: see which hosts in the table files do not answer"
    assert (found.left_out(), Tried([], []).left_out()) == (said, "")
    monkeypatch.setattr(_ispmail_logins, "read", lambda *_: [*silent, last])
    with pytest.raises(CannotAsk, match=f"^{re.escape(said)}$"):
        _ispmail_logins.refused({}, "ispmail")


def test_what_does_not_answer_is_waited_for_and_ended_all_together(tried, monkeypatch):
    """A thread for each of them would be left, and be waited for at the end of the process."""
    before = set(threading.enumerate())
    daemons = []

    def start(thread):
        daemons.append(thread.daemon)
        START(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    assert try_all([live("late")]) == Tried([], [live("late")])
    monkeypatch.setattr(_ispmail_logins, "_ALL", 0.3)
    began = time.monotonic()
    assert try_all([live("silent")._replace(changed=number) for number in range(30)]) == Tried([], [])
    assert time.monotonic() - began < 15
    assert wait_until(lambda: set(threading.enumerate()) <= before, 10)
    assert set(daemons) == {True}


def test_without_pymysql(monkeypatch):
    """Where no login is to be tried, it is not needed. A watch goes on: it may be installed later."""
    watch = Watch()
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "pymysql", None)
        assert try_all([]) == Tried([], [])
        with pytest.raises(DatabaseError, match="has no PyMySQL"):
            try_all([live("0")])
        watch.start([live("0")])
        assert wait_until(lambda: not watching(), 5)
        assert watch.take() is None
    # At each interval; the thread before may just be ending.
    assert wait_until(lambda: watch.start([]) or watch.take() == Tried([], []), 5)


def watching():
    return [thread for thread in threading.enumerate() if thread.name == Watch.THREAD]


def test_a_watch_has_one_attempt_at_a_time(tried, release, monkeypatch):
    monkeypatch.setattr(_ispmail_logins, "_ALL", 60)
    watch = Watch()
    for _ in range(3):
        watch.start([live("held")])
        (thread,) = watching()
        # Salt's process does not wait for it at its end, and its name is in what a debugger shows.
        assert thread.daemon and thread.name == "ispmail-logins"
        assert watch.take() is None
    release.set()
    assert wait_until(lambda: not watching(), 10)
    watch.start([live("0")])
    assert watch.take() == Tried([], [live("held")]) and tried == ["held"]
    assert watch.take() is None
    watch.start([live("0")])
    assert wait_until(lambda: watch.take() == Tried([], [live("0")]), 10)


def test_a_watch_is_found_again_by_its_name(monkeypatch):
    monkeypatch.setattr(_ispmail_logins, "_watches", {})
    assert _ispmail_logins.watch("a") is _ispmail_logins.watch("a") is not _ispmail_logins.watch("b")


@pytest.fixture
def table(tmp_path):
    """Write a table file and return its map."""

    def write(name, table_type="mysql", **keys):
        path = tmp_path / f"{name}.cf"
        path.write_text("".join(f"{key} = {value}\n" for key, value in keys.items()))
        return Map(name, name, table_type, False, str(path))

    return write


def of(key, *maps):
    return {key: Instance(key, "/etc/postfix", maps)}


def test_equal_logins_of_all_instances_are_one(table):
    """Whichever database they ask: with the password, user and host of another file a login is the same."""
    shared = {"hosts": "db1 db2", "user": "u", "password": "p"}
    old, new = table("a", dbname="x", **shared), table("b", dbname="y", **shared)
    while os.stat(new.path).st_ctime_ns == os.stat(old.path).st_ctime_ns:
        os.chmod(new.path, 0o600)
    others = table("c", user="other", password="p"), table("d", "sqlite", dbpath="/x")
    instances = {**of("ispmail", old, others[0]), **of("out", new, *others[1:])}
    found = read(instances, "ispmail")
    newest = os.stat(new.path).st_ctime_ns
    assert [login.describe() for login in found] == [
        {"host": "db1", "user": "u", "maps": ["a", "out:b"], "changed": newest},
        {"host": "db2", "user": "u", "maps": ["a", "out:b"], "changed": newest},
        {"host": "localhost", "user": "other", "maps": ["c"], "changed": os.stat(others[0].path).st_ctime_ns},
    ]
    assert [login.login.password for login in found] == [b"p"] * 3


def test_logins_of_a_postgresql(table):
    """Which database they ask counts there. A URI is for libpq, and without a password it asks who the process is."""
    hosts = "db1:5433 unix:/run/pg postgresql://db2/mail /tmp"
    one, other = (table(name, "pgsql", dbname=name, user="u", password="p", hosts=hosts) for name in "ab")
    rest = table("c", "pgsql", user="u", hosts="db1"), table("d", "pgsql", password="p", hosts="db1")
    found = read(of("ispmail", one, other, *rest), "ispmail")
    assert [(each.host, each.maps) for each in found] == [
        (host, (name,)) for name in "ab" for host in ("db1:5433", "unix:/run/pg", "/tmp")
    ]
    over_tcp, over_socket, other_socket = (each.login for each in found[:3])
    assert over_tcp == Login("u", b"p", None, "db1", 5433, "a", None, "pgsql")
    assert over_socket == Login("u", b"p", "/run/pg/.s.PGSQL.5432", None, 5432, "a", None, "pgsql")
    assert other_socket.unix_socket == "/tmp/.s.PGSQL.5432"


@pytest.mark.parametrize(
    ("state", "is_refused"), [("28P01", True), ("28000", True), ("53300", False), ("3D000", False)]
)
def test_what_a_postgresql_refuses(monkeypatch, state, is_refused):
    class Refusing:
        def __init__(self, *arguments):
            seen.append(arguments)

        def connect(self):
            raise DatabaseError("no", state)

        def abort(self):
            pass

        close = abort

    seen = []
    monkeypatch.setattr("_ispmail_postgresql_client.Client", Refusing)
    monkeypatch.setattr("_ispmail_client.require_pymysql", lambda: pytest.fail("it is not needed"))
    login = LiveLogin("db1", Login("u", b"p", host="db1", type="pgsql"), ("a",), 1)
    assert try_all([login]) == Tried([login] if is_refused else [], [])
    assert seen == [("db1", login.login, 2, 2.5)]


def test_files_that_say_no_login_are_passed_over(table, monkeypatch):
    """One that is not there, one whose folder is a file, one that leaves the login to an option file, and those without
    a user: Postfix's client takes the name of the process's own."""
    there = table("a", user="u", password="p", option_file="/etc/my.cnf")
    gone = there.__class__("b", "b", "mysql", False, f"{there.path}.gone")
    in_none = there.__class__("c", "c", "mysql", False, f"{there.path}/c.cf")
    without_user = table("d", password="p", hosts="db1"), table("e", user="", password="p", hosts="db1")
    assert read(of("ispmail", there, gone, in_none, *without_user), "ispmail") == []
    # It goes after it was looked at.
    monkeypatch.setattr(_ispmail_logins, "_changed", lambda path: 1)
    assert read(of("ispmail", gone), "ispmail") == []


def test_a_file_that_cannot_be_looked_at_is_none_without_a_login(tmp_path, table):
    """The proof of a rotation took it for one that is not there."""
    there = table("a", user="u", password="p")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(CannotAsk, match=f"^{tmp_path}/loop cannot be read: Too many levels of symbolic links$"):
        read(of("ispmail", there, there.__class__("b", "b", "mysql", False, f"{tmp_path}/loop")), "ispmail")


@pytest.mark.parametrize("hosts", ["db1", "sdb://where/hosts"])
def test_the_logins_of_consumers(tmp_path, hosts):
    """They are in the option file; the hosts are pillar's, and where this server cannot know them, none is tried."""
    path = tmp_path / "a.cnf"
    path.write_text("[client]\nuser = u\npassword = p\n")
    names = {"there": {"option_file": str(path)}, "gone": {"option_file": str(tmp_path / "gone.cnf")}}
    section = {"database": {"hosts": hosts, "user": "new", "password": "new"}, "consumers": names}
    found = read({}, "ispmail", [logins("ispmail", section), logins("out", section)])
    if hosts != "db1":
        assert found == []
        return
    (one,) = found
    names = ["consumer:there", "out:consumer:there"]
    assert one.describe() == {"host": "db1", "user": "u", "maps": names, "changed": os.stat(path).st_ctime_ns}
    assert (one.login.password, one.login.database) == (b"p", None)


def test_refused_tells_no_password(tried, table):
    with_secret = table("a", hosts="1045", user="u", password="SECRET")
    (found,) = _ispmail_logins.refused(of("ispmail", with_secret, table("b", hosts="0", user="u")), "ispmail")
    assert found == {"host": "1045", "user": "u", "maps": ["a"], "changed": os.stat(with_secret.path).st_ctime_ns}


@pytest.mark.parametrize(
    ("hosts", "warnings"),
    [("0", 0), ("0 0 0", 0), ("0 2003", 1), ("2003 0 1040", 2)],
)
def test_a_new_login_works_where_one_host_takes_it_and_none_refuses(tried, hosts, warnings):
    assert probe(Consumers("ispmail", (), {"hosts": hosts})) == ["the login of the consumers: no"] * warnings
    assert tried == hosts.split()


@pytest.mark.parametrize(
    ("hosts", "lines"),
    [("2003", 1), ("2003 1040", 2), ("0 1045", 1), ("1045 0 1698 2003", 2), ("0 1044", 1), ("1049 0", 1)],
)
def test_a_new_login_that_is_refused_or_cannot_be_tried_does_not_go_live(tried, hosts, lines):
    """An account that may not use its database is refused too."""
    with pytest.raises(Failed) as caught:
        probe(Consumers("ispmail", (), {"hosts": hosts}))
    assert str(caught.value) == (
        "Nothing was changed, all programs log in as before:" + lines * "\n- the login of the consumers: no"
    )
