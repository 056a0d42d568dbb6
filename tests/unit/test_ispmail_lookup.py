"""What postmap's answers mean: tables of SQLite, asked by the real postmap, and what only a fake one says on demand."""

import contextlib
import fcntl
import glob
import os
import pwd
import socket
import sqlite3
import stat
import subprocess
import threading
import time
from types import SimpleNamespace

import pytest

import _ispmail_lookup
from _ispmail_command import Done
from _ispmail_errors import CannotAsk
from _ispmail_lookup import ANSWER, COULD_NOT_ASK, NO_ANSWER, ROOT, Asker, Lookup, Probed
from _ispmail_query import PROBE_DOMAIN
from lab import scratch, wait_until
from lab.postfix import write_cold

QUERY = "SELECT v FROM t WHERE k='%s'"
BROKEN = "SELECT v FROM missing WHERE k='%s'"
ROWS = {"jack@example.org": "john@example.org", "-": "dash", "example.org": "1", "example.com": "1"}


@pytest.fixture(scope="module")
def config(scratch_directory):
    """A configuration directory, beside which a database has ROWS."""
    with contextlib.closing(sqlite3.connect(scratch_directory / "mail.db")) as database, database:
        database.execute("CREATE TABLE t (k, v)")
        database.executemany("INSERT INTO t VALUES (?, ?)", ROWS.items())
    write_cold(scratch_directory / "main.cf", "compatibility_level = 3.6\n")
    return scratch_directory


@pytest.fixture
def table(config):
    """A function that writes a table file, of the database if it is one of SQLite's, and gives the table."""

    def write(name, query=QUERY, table_type="sqlite", **keys):
        dbpath = {"dbpath": config / "mail.db"} if table_type == "sqlite" else {}
        text = "".join(f"{key} = {value}\n" for key, value in {**dbpath, "query": query, **keys}.items())
        write_cold(config / f"{name}.cf", text)
        return f"{table_type}:{config}/{name}.cf"

    return write


@pytest.fixture
def asked(tmp_path, script):
    """A function that gives the arguments of each postmap that was run; the real one answers."""
    script("postmap", f'printf "%s\\n" "$*" >>{tmp_path}/asked; exec /usr/sbin/postmap "$@"')
    (tmp_path / "asked").touch()
    return lambda: (tmp_path / "asked").read_text().splitlines()


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("jack@example.org", Lookup(ANSWER, answer="john@example.org")),
        ("nobody@example.org", Lookup(NO_ANSWER)),
        # postmap takes it for "read questions from stdin", and prints answers to those with their question.
        ("-", Lookup(ANSWER, answer="dash")),
        ("-q", Lookup(NO_ANSWER)),
    ],
)
def test_an_answer_and_none(config, table, question, expected):
    assert _ispmail_lookup.ask(question, [table("a")], str(config)) == expected
    # The first of several tables that answers.
    none = table("none", query="SELECT v FROM t WHERE k='%s' AND 0")
    assert _ispmail_lookup.ask(question, [none], str(config)) == Lookup(NO_ANSWER)
    assert _ispmail_lookup.ask(question, [none, table("a")], str(config)) == expected


@pytest.mark.parametrize(
    ("questions", "expected"),
    [
        (["example.org"], ["example.org"]),
        (["example.net"], []),
        (["example.net", "example.org", "a", "example.com"], ["example.org", "example.com"]),
        (["example.net", "a"], []),
    ],
)
def test_which_questions_have_an_answer(config, table, questions, expected):
    assert _ispmail_lookup.found(questions, table("a"), str(config)) == expected


def test_without_a_question_nothing_is_run(config, table, asked):
    assert _ispmail_lookup.found([], table("a"), str(config)) == [] == asked()
    assert _ispmail_lookup.found(["example.org"], table("a"), str(config)) and len(asked()) == 1


def test_no_question_has_an_answer_in_a_table_that_cannot_be_asked(config, table):
    broken = table("broken", query=BROKEN)
    assert _ispmail_lookup.found(["example.org"], broken, str(config)) == []
    assert _ispmail_lookup.found(["example.org", "example.com"], broken, str(config)) == []


def said(stdout="", stderr="", code=0):
    return f"printf '{stdout}'; printf \"{stderr}\" >&2; exit {code}"


CONNECT = "connect to mysql server 127.0.0.1:1: Can't connect to server (111)"
CONNECT_TOO = "connect to mysql server 127.0.0.2:1: Can't connect to server (111)"
CHECK_HOSTS = "(check hosts, and that the database runs)"


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        (said("x\\n"), Lookup(ANSWER, answer="x")),
        # What is no UTF-8 can be shown and sent all the same.
        (said("x\\377\\n"), Lookup(ANSWER, answer="x\ufffd")),
        (said("x\\n", "postmap: warning: odd\\n"), Lookup(ANSWER, ("odd",), "x")),
        (said("x\\n", "postmap: error: odd\\nno name: x\\n"), Lookup(ANSWER, ("odd", "no name: x"), "x")),
        (said(code=1), Lookup(NO_ANSWER)),
        (said(stderr="postmap: warning: odd\\n", code=1), Lookup(NO_ANSWER, ("odd",))),
        # It could not print its answer, or was killed.
        (said(), Lookup(COULD_NOT_ASK, reason="postmap ended with 0")),
        (said("x\\n", code=2), Lookup(COULD_NOT_ASK, reason="postmap ended with 2")),
        ("kill -9 $$", Lookup(COULD_NOT_ASK, reason="postmap ended with -9")),
        # The last reason counts, and the table is the one that it names.
        (
            said(stderr="postmap: fatal: a\\npostmap: panic: open /b.cf: no\\n", code=1),
            Lookup(COULD_NOT_ASK, reason="open /b.cf: no", table="sqlite:/b.cf"),
        ),
        (said(stderr="postmap: fatal: open /b.cf2: no\\n", code=1), Lookup(COULD_NOT_ASK, reason="open /b.cf2: no")),
        # What it said before says more: each host once, and always in the same order.
        (
            said(
                stderr=f"postmap: warning: {CONNECT_TOO}\\npostmap: warning: {CONNECT}\\npostmap: warning: {CONNECT}\\n"
                "postmap: warning: odd\\npostmap: fatal: table mysql:/b.cf: query error: Operation now in progress\\n",
                code=1,
            ),
            Lookup(
                COULD_NOT_ASK,
                (CONNECT_TOO, CONNECT, CONNECT, "odd"),
                reason=f"{CONNECT}; {CONNECT_TOO} {CHECK_HOSTS}",
                table="sqlite:/b.cf",
            ),
        ),
        (
            said(stderr="postmap: warning: query failed: odd\\npostmap: fatal: no\\n", code=1),
            Lookup(COULD_NOT_ASK, ("query failed: odd",), reason="query failed: odd"),
        ),
        # Part of a line of the table file, which may be the password's.
        (
            said(stderr="postmap: fatal: /a.cf, line 1: missing '=' after attribute name: SECRET\\n", code=1),
            Lookup(
                COULD_NOT_ASK,
                reason="/a.cf, line 1: missing '=' after attribute name (the table file is damaged: write it anew, by "
                "hand or, after moving it away, by state.apply ispmail)",
                table="sqlite:/a.cf",
            ),
        ),
        (
            said("x\\n", "postmap: warning: /a.cf: unused parameter: pass=SECRET\\n"),
            Lookup(ANSWER, ("/a.cf: unused parameter: pass",), "x"),
        ),
    ],
)
def test_what_postmap_says(script, what, expected):
    script("postmap", what)
    assert _ispmail_lookup.ask("x", ["sqlite:/a.cf", "sqlite:/b.cf"], "/x") == expected


@pytest.mark.parametrize(
    ("reason", "fix"),
    [
        ("Access denied for user 'x'@'%' to database 'y'", "check dbname and the grants"),
        ("Access denied for user 'x'@'h' (using password: YES)", "check user and password"),
        ("Unknown database 'y'", "check dbname"),
        ("Table 'y.t' doesn't exist", "create the table"),
        ("SQL prepare failed: no such table: t", "create the table"),
        ('relation "t" does not exist', "create the table"),
        ("Unknown column 'a' in 'field list'", "check the query"),
        ("SELECT command denied to user", "grant SELECT"),
        ("Plugin client_ed25519 could not be loaded", "set proxy: true"),
        ("Can't connect to server on '127.0.0.1' (115)", "check hosts"),
        ("Can't connect to server on '127.0.0.1' (13)", "check hosts"),
        ("Can't connect to local server through socket '/s' (2)", "check hosts"),
        ("Can't connect to local server through socket '/s' (13)", "virtual(8) and local(8) enter without"),
        ("Can't connect to local server through socket '/a->/a' (2)", "a link that leads to itself"),
        ('connection to server on socket "/a->/a/.s.PGSQL.5432" failed: No such', "a link that leads to itself"),
        ("TLS/SSL error: self-signed certificate in certificate chain", "no link leads out of a chroot"),
        ("Can't connect to local MySQL server through socket '/s' (13 \"x\")", "may not use that socket"),
        ("table proxy:mysql:/a.cf: query error: Application error", "the mail log says why"),
        ("Too many connections", "max_connections"),
        ("unsupported dictionary type: mysql", "install the package"),
        ("bad numerical configuration: expansion_limit", "the table file is damaged"),
        ("request for unapproved table: proxy_read_maps", "add the table to proxy_read_maps"),
        ("who knows", None),
    ],
)
def test_what_to_do_about_it(script, reason, fix):
    script("postmap", f'cat >&2 <<"END"\npostmap: fatal: {reason}\nEND\nexit 1')
    found = _ispmail_lookup.ask("x", ["mysql:/a.cf"], "/x").reason
    assert found == reason if fix is None else found.startswith(f"{reason} (") and fix in found and found[-1] == ")"


def test_what_a_job_returns():
    """Documented: states and scripts compare it with these texts."""
    assert (ANSWER, NO_ANSWER, COULD_NOT_ASK) == ("answer", "no answer", "could not ask")


def test_a_table_is_asked_as_the_process_that_will_ask_it(config, script, table):
    """postmap looks for the plugins of a login where smtpd would: in its chroot."""
    script("postmap", 'echo "$MARIADB_PLUGIN_DIR"')
    with _ispmail_lookup.in_memory({"a": ("mysql", b"hosts = h\n")}, Asker(chroot="/jail")) as (tables, as_, _):
        inside = _ispmail_lookup.ask("x", [tables["a"]], "/x", as_=as_).answer
    installed = [f"/jail{each}" for each in glob.glob("/usr/lib/*/libmariadb3/plugin")]
    assert inside in (installed or ["/jail/nonexistent"])
    assert _ispmail_lookup.ask("x", ["mysql:/a.cf"], "/x").reason is None
    script("postmap", "id -un")
    assert _ispmail_lookup.ask("x", ["mysql:/a.cf"], "/x").answer == pwd.getpwuid(os.getuid()).pw_name
    # For another user there is nothing of our environment, so that is the real one.
    assert _ispmail_lookup.ask("example.org", [table("a")], str(config), as_=Asker("nobody")).answer == "1"
    (config / "a.cf").chmod(0o600)
    refused = _ispmail_lookup.ask("example.org", ["sqlite:" + str(config / "a.cf")], str(config), as_=Asker("nobody"))
    assert (refused.result, refused.warnings) == (COULD_NOT_ASK, ())
    assert refused.reason == f"open {config}/a.cf: Permission denied"


@pytest.mark.parametrize("only", [True, False])
def test_groups_of_the_process_that_will_ask(monkeypatch, only):
    given = []
    done = Done(0, "x", "")
    monkeypatch.setattr(_ispmail_lookup, "run", lambda *_, **options: given.append(options) or done)
    _ispmail_lookup.ask("x", ["mysql:/a.cf"], "/x", as_=Asker("nobody", primary_group_only=only))
    assert [(options["user"], options["primary_group_only"]) for options in given] == [("nobody", only)]


def test_a_main_cf_that_only_root_may_read(config, table):
    """Daemons of Postfix read it before they give up root's rights, so the question is worth an answer."""
    one = table("a")
    (config / "main.cf").chmod(0o600)
    try:
        found = _ispmail_lookup.ask("jack@example.org", [one], str(config), as_=Asker("nobody"))
        assert _ispmail_lookup.ask("jack@example.org", [one], str(config)).warnings == ()
    finally:
        (config / "main.cf").chmod(0o644)
    warning = "asked as root, because user nobody cannot read main.cf: whether it can read TLS keys is not known"
    assert found == Lookup(ANSWER, (warning,), "john@example.org")


@contextlib.contextmanager
def host(serve, greeting=b"x"):
    """The address of a host that greets, hangs up, stays silent, or is not there."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        kept = []

        def answer():
            with contextlib.suppress(OSError):
                while True:
                    kept.append(server.accept()[0])
                    if serve == "greets":
                        kept[-1].sendall(greeting)
                    if serve == "hangs up":
                        kept.pop().close()

        thread = threading.Thread(target=answer, daemon=True)
        if serve != "is not there":
            thread.start()
        else:
            server.close()
        yield "{}:{}".format(*(server.getsockname() if serve != "is not there" else ("127.0.0.1", 1)))
        if serve != "is not there":
            server.shutdown(socket.SHUT_RDWR)
            thread.join(5)
        for each in kept:
            each.close()


def test_hosts_that_do_not_answer_are_named(config, script, table):
    """Where postmap gets no answer in time it says nothing, and any of the hosts may be the one."""
    script("postmap", "exec sleep 9")
    with host("greets") as good, host("hangs up") as closes, host("is not there") as away, host("silent") as silent:
        hosts = f"{good}, {closes} unix:/nowhere, localhost {away} {silent} no-such-name.invalid"
        began = time.monotonic()
        asked = [table("x", table_type="mysql", hosts=hosts)]
        found = _ispmail_lookup.ask("x", asked, str(config), timeout=0.1)
        assert time.monotonic() - began < 2.95
        assert found.reason.startswith(
            f"no answer within 0 s: {closes} closes the connection, {away}: Connection refused, {silent} does not speak"
        )
        assert found.reason.endswith("(check hosts, and the database there)")
        assert len(found.reason.split(",")) == 5 and ", no-such-name.invalid:3306: " in found.reason
        assert (found.result, found.table, found.warnings) == (COULD_NOT_ASK, asked[0], ())
        # PostgreSQL's server does not speak first.
        asked = table("x", table_type="pgsql", hosts=f"{silent} {away} postgresql://x")
        found = _ispmail_lookup.ask("x", [asked.replace("pgsql", "proxy:pgsql")], str(config), timeout=0.1)
        assert found.reason == (
            f"no answer within 0 s: {away}: Connection refused (check hosts, and the database there)"
        )


@pytest.mark.parametrize(
    ("table_type", "keys", "count"),
    [
        ("mysql", {}, 1),
        ("mysql", {"hosts": "unix:/nowhere"}, 1),
        ("mysql", {"hosts": "localhost"}, 1),
        # A file has no hosts, whatever it says.
        ("sqlite", {"hosts": "127.0.0.1:1"}, 1),
        # Which of two tables it is, is not known.
        ("mysql", {"hosts": "127.0.0.1:1"}, 2),
    ],
)
def test_no_host_is_to_blame(config, script, table, table_type, keys, count):
    script("postmap", "exec sleep 9")
    tables = [table(f"x{number}", table_type=table_type, **keys) for number in range(count)]
    assert _ispmail_lookup.ask("x", tables, str(config), timeout=0.1) == Lookup(
        COULD_NOT_ASK, reason="no answer within 0 s", table=tables[0] if count == 1 else None
    )


def test_how_long_postmap_may_take(monkeypatch):
    """A job of Salt that asks one question is not to wait for longer."""
    given = []
    done = SimpleNamespace(returncode=1, stdout="", stderr="")
    monkeypatch.setattr(
        _ispmail_lookup, "run", lambda name, arguments, timeout, *_, **__: given.append(timeout) or done
    )
    _ispmail_lookup.ask("x", ["sqlite:/a.cf"], "/x")
    _ispmail_lookup.found(["x", "y"], "sqlite:/a.cf", "/x")
    assert given == [10, 10]


def test_tables_that_can_be_asked_take_one_postmap(config, table, asked):
    tables = [table("a"), table("b")]
    assert _ispmail_lookup.probe(tables, str(config)) == dict.fromkeys(tables, Probed(None, ()))
    assert asked() == [f"-c {config} -q - {tables[0]} {tables[1]}"]


DOMAIN_LISTS = {
    ", example.org": "example.org",
    "example.org other": "example.org",
    "!example.net, /x/ hash:/y example.org": "example.org",
    "/etc/list sqlite:/x": PROBE_DOMAIN,
}


@pytest.mark.parametrize(("domains", "expected"), DOMAIN_LISTS.items())
def test_the_domain_that_a_table_is_asked_for(domains, expected):
    """Patterns and tables are no domain."""
    assert _ispmail_lookup.probe_domain({"domain": domains}) == expected


def test_a_table_is_asked_with_a_domain_that_is_in_its_list(config, table, asked):
    """It passes over questions with another one, so nothing would be asked."""
    tables = [table(f"domain{number}", domain=each) for number, each in enumerate(DOMAIN_LISTS)]
    broken = table("broken", query=BROKEN, domain="example.org")
    (found,) = _ispmail_lookup.probe([broken], str(config)).values()
    assert "no such table: missing" in found.reason
    _ispmail_lookup.probe([tables[0], table("a"), tables[1]], str(config))
    assert asked()[-2:] == [f"-c {config} -q - {tables[0]} {tables[1]}", f"-c {config} -q - {table('a')}"]


def test_a_domain_that_is_known_is_not_read(monkeypatch):
    """And where special keys have been asked for already, there is one question."""
    monkeypatch.setattr(_ispmail_lookup, "_keys", lambda _: pytest.fail("a file is read"))
    seen = []

    def asked(questions, *_):
        seen.append(questions)
        return Lookup(NO_ANSWER)

    monkeypatch.setattr(_ispmail_lookup, "_asked", asked)
    for special, count in ((True, 5), (False, 1)):
        found = _ispmail_lookup.probe(["mysql:x"], "/x", domains={"mysql:x": "example.org"}, special=special)
        assert found == {"mysql:x": Probed(None, ())}
        assert len(seen[-1]) == count and seen[-1][0] == "probe@example.org"


def test_a_warning_is_on_the_table_that_it_names(monkeypatch):
    """Asked together, each of them had the warnings of all: of a query that it does not have, of hosts of another."""
    tables = ["mysql:/a.cf", "pgsql:/b.cf", "mysql:/c.cf", "proxy:mysql:/d.cf"]
    hosts = {"mysql:/a.cf": "db1:3307, db1", "pgsql:/b.cf": "db10 unix:/run/x", "mysql:/c.cf": "db1 db2", tables[3]: ""}
    monkeypatch.setattr(_ispmail_lookup, "_keys", lambda table: {"hosts": hosts[table]})
    said = {
        "mysql:/a.cf: query failed: no such table": [0],
        "connect to mysql server db1: Can't connect (115)": [0, 2],
        "connect to pgsql server db10: no": [1],
        "connect to mysql server db2: no": [2],
        "pgsql query failed: protocol error, host /run/x": [1],
        "connect to mysql server localhost: no": [3],
        "connect to mysql server db": [0, 1, 2, 3],
        "asked as root": [0, 1, 2, 3],
    }
    monkeypatch.setattr(_ispmail_lookup, "_asked", lambda *_: Lookup(NO_ANSWER, tuple(said)))
    found = _ispmail_lookup.probe(tables, "/x", domains=dict.fromkeys(tables, "example.org"))
    assert found == {
        table: Probed(None, tuple(line for line, on in said.items() if number in on))
        for number, table in enumerate(tables)
    }


def test_where_one_fails_each_is_asked_by_itself(config, table):
    """One that answers everything stops the others from being asked; one that fails does too."""
    fails_for_some = "SELECT CASE WHEN length('%s') > 200 THEN json('no JSON') END"
    names = {
        "fine": table("a"),
        "answers": table("answers", query="SELECT 1 WHERE '%s' != ''"),
        "some": table("some", query=fails_for_some),
        "broken": table("broken", query=BROKEN),
    }
    began = time.monotonic()
    found = _ispmail_lookup.probe(list(names.values()), str(config))
    assert time.monotonic() - began < 8
    assert list(found) == list(names.values())
    assert found[names["fine"]] == found[names["answers"]] == Probed(None, ())
    assert found[names["broken"]].reason.startswith(f"dict_sqlite_lookup: {config}/broken.cf: SQL prepare failed")
    assert found[names["broken"]].reason.endswith("(check the query, or create the table)")
    assert found[names["some"]] == Probed(
        None,
        (
            f"{names['some']} cannot be asked for a long address: anybody can send mail to such an address, and after "
            "a failed query Postfix does not ask that database for a minute",
        ),
    )


class Slow:
    """In place of postmap and the clock: no table can be asked, and the first question takes all of its time."""

    def __init__(self, monkeypatch, slow=lambda tables: len(tables) > 1):
        self.now, self.asked = 100.0, []
        self._slow = slow
        self._lock = threading.Lock()
        monkeypatch.setattr(_ispmail_lookup, "_asked", self._asked)
        monkeypatch.setattr(_ispmail_lookup, "_keys", lambda table: {"domain": table[0]})
        monkeypatch.setattr(_ispmail_lookup, "time", SimpleNamespace(monotonic=lambda: self.now))

    def _asked(self, questions, tables, config_directory, timeout, as_):
        with self._lock:
            self.asked.append(("".join(tables), timeout))
            if self._slow(tables):
                self.now += timeout
        return Lookup(COULD_NOT_ASK, reason="no answer")


def test_how_long_a_probe_may_take(monkeypatch):
    """Eight seconds for all tables, and four more to find out which of them it is."""
    slow = Slow(monkeypatch)
    assert _ispmail_lookup.probe(["a1", "a2"], "/x") == dict.fromkeys(["a1", "a2"], Probed("no answer", ()))
    assert sorted(slow.asked) == [("a1", 4), ("a1a2", 8), ("a2", 4)]
    # Other tables, with another domain, are asked as those are.
    slow = Slow(monkeypatch)
    _ispmail_lookup.probe(["a1", "b1", "a2", "c1", "b2"], "/x", timeout=10)
    assert slow.asked[0] == ("a1a2", 10)
    assert sorted(slow.asked[1:]) == [("a1", 5), ("a2", 5), ("b1", 5), ("b2", 5), ("c1", 5)]


def test_a_slow_table_takes_no_time_of_those_in_other_batches(monkeypatch):
    """One silent host, or a database far away, had all tables but the first 16 not asked, and the apply refused."""
    slow = Slow(monkeypatch)
    tables = [f"a{number}" for number in range(40)]
    found = _ispmail_lookup.probe(tables, "/x")
    assert found == dict.fromkeys(tables, Probed("no answer", ()))
    assert slow.asked[0] == ("".join(tables[:16]), 8)
    assert sorted(slow.asked[1:]) == sorted((table, 4) for table in tables)


@pytest.mark.parametrize(("used", "is_asked"), [(12, False), (13, False), (11.5, True)])
def test_tables_for_which_no_time_is_left_are_not_asked(monkeypatch, used, is_asked):
    slow = Slow(monkeypatch, slow=lambda tables: False)
    asked = slow._asked

    def first_is_slow(questions, tables, config_directory, timeout, as_):
        found = asked(questions, tables, config_directory, timeout, as_)
        slow.now = 100.0 + used
        return found

    monkeypatch.setattr(_ispmail_lookup, "_asked", first_is_slow)
    found = _ispmail_lookup.probe(["b1"], "/x")
    not_asked = "not asked, the time for probes was used up by other tables"
    assert found["b1"].reason == ("no answer" if is_asked else not_asked)
    assert [timeout for _, timeout in slow.asked] == ([4, 0.5] if is_asked else [4])


@pytest.fixture
def together():
    """A function that ends once so many of it run at the same time, or does not wait any longer; and how many ran."""
    running, counts = [], []

    def work(wanted):
        running.append(1)
        counts.append(len(running))
        wait_until(lambda: max(counts) >= wanted, 5)
        time.sleep(0.1)  # one too many would come now
        running.pop()

    return work, counts


def test_at_most_so_many_tables_are_asked_at_the_same_time(monkeypatch, together):
    """Each is a process, and a connection of the database."""
    work, counts = together

    def asked(questions, tables, *_):
        if len(tables) == 1:
            work(16)
        return Lookup(COULD_NOT_ASK, reason="no")

    monkeypatch.setattr(_ispmail_lookup, "_asked", asked)
    monkeypatch.setattr(_ispmail_lookup, "_keys", lambda table: {"domain": "x"})
    _ispmail_lookup.probe([str(number) for number in range(20)], "/x")
    assert max(counts) == 16


def test_at_most_so_many_hosts_are_tried_at_the_same_time(monkeypatch, together, table):
    work, counts = together
    monkeypatch.setattr(_ispmail_lookup, "_silence", lambda *_: work(32))
    hosts = " ".join(f"host{number}" for number in range(36))
    assert _ispmail_lookup._silent_hosts(table("x", table_type="mysql", hosts=hosts)) == ""
    assert max(counts) == 32


CONTENT = b"# ours\nuser = u\npassword = \xff\nhosts = unix:/run/db.sock\ntls_CAfile = /ca.pem\n"
INSIDE = b"user = u\npassword = \xff\nhosts = unix:/jail/run/db.sock\ntls_CAfile = /jail/ca.pem\n"
SAME_INSIDE = b"# ours\nuser = u\npassword = \xff\nhosts = 127.0.0.1\n"


def test_a_new_table_file_in_memory():
    """Nobody but its reader can see it, nobody can change it, Postfix does not wait for it, and it does not stay."""
    uid = pwd.getpwnam("nobody").pw_uid
    texts = {"x": ("mysql", CONTENT), "y": ("pgsql", b"domain = example.org")}
    with _ispmail_lookup.in_memory(texts, Asker("nobody")) as (tables, as_, domains):
        first, second = as_.descriptors
        assert tables == {"x": f"mysql:/proc/self/fd/{first}", "y": f"pgsql:/proc/self/fd/{second}"}
        assert as_ == Asker("nobody", descriptors=(first, second))
        assert domains == {tables["x"]: PROBE_DOMAIN, tables["y"]: "example.org"}
        status = os.fstat(first)
        assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (uid, os.getgid(), 0o600)
        assert 4 < time.time() - status.st_mtime < 60
        with open(f"/proc/self/fd/{first}", "rb") as file:
            assert file.read() == CONTENT
        with pytest.raises(PermissionError), open(f"/proc/self/fd/{first}", "r+b", buffering=0) as file:
            file.write(b"other")
        seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
        assert fcntl.fcntl(first, fcntl.F_GET_SEALS) == seals
        assert not os.get_inheritable(first)
    for each in (first, second):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(each)


@pytest.mark.parametrize(
    ("as_", "content", "expected"),
    [
        (ROOT, CONTENT, CONTENT),
        (Asker(chroot="/jail"), CONTENT, INSIDE),
        # Nothing in it is another path from there: not a byte is changed.
        (Asker(chroot="/jail"), SAME_INSIDE, SAME_INSIDE),
    ],
)
def test_a_reader_in_a_chroot_opens_other_files(as_, content, expected):
    with _ispmail_lookup.in_memory({"x": ("mysql", content)}, as_) as (_, with_descriptors, _):
        (descriptor,) = with_descriptors.descriptors
        assert os.fstat(descriptor).st_uid == os.getuid()
        with open(f"/proc/self/fd/{descriptor}", "rb") as file:
            assert file.read() == expected


def test_a_table_in_memory_is_asked_and_named_by_its_map(config, table):
    path = config / "a.cf"
    table("a", query=BROKEN)
    with _ispmail_lookup.in_memory({"ours": ("sqlite", path.read_bytes())}, Asker("nobody")) as (tables, as_, _):
        found = _ispmail_lookup.ask("x", [tables["ours"]], str(config), as_=as_)
        assert found.table == tables["ours"]
        assert _ispmail_lookup.renamed(found.reason, tables["ours"], "ours").startswith("dict_sqlite_lookup: ours: SQL")
    table("a")
    with _ispmail_lookup.in_memory({"ours": ("sqlite", path.read_bytes())}, Asker("nobody")) as (tables, as_, _):
        assert _ispmail_lookup.ask("example.org", [tables["ours"]], str(config), as_=as_).answer == "1"


def test_no_descriptor_is_left_for_a_table_in_memory(monkeypatch):
    def fails(*_):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "memfd_create", fails)
    with pytest.raises(CannotAsk) as raised, _ispmail_lookup.in_memory({"ours": ("mysql", b"")}, ROOT):
        pytest.fail("it goes on")
    assert str(raised.value) == "no memory to ask the new table file of ours from: Too many open files"


@pytest.mark.parametrize(
    ("text", "table", "expected"),
    [
        ("table mysql:/a.cf: no", "mysql:/a.cf", "table NAME: no"),
        # A live file's own path stays, for people to open.
        ("open /a.cf: no", "mysql:/a.cf", "open /a.cf: no"),
        ("open /proc/self/fd/7: no", "mysql:/proc/self/fd/7", "open NAME: no"),
        ("mysql:/proc/self/fd/7, /proc/self/fd/7", "mysql:/proc/self/fd/7", "NAME, NAME"),
        ("open /proc/self/fd/71: no", "mysql:/proc/self/fd/7", "open /proc/self/fd/71: no"),
        ("axb", "a.b", "axb"),
    ],
)
def test_a_map_s_name_stands_for_its_table(text, table, expected):
    assert _ispmail_lookup.renamed(text, table, "NAME") == expected
    assert _ispmail_lookup.renamed(text, table, r"\1") == expected.replace("NAME", r"\1")


def test_a_chroot_that_has_a_login_plugin(tmp_path):
    folder = tmp_path / "[jail]"
    plugins = folder / _ispmail_lookup.plugin_directory().lstrip("/")
    assert not _ispmail_lookup.has_plugin(str(folder), "ed25519")
    plugins.mkdir(parents=True)
    for name in ("client_ed25519.txt", "dialog.so"):
        (plugins / name).touch()
    assert not _ispmail_lookup.has_plugin(str(folder), "ed25519")
    (plugins / "client_ed25519.so").touch()
    assert _ispmail_lookup.has_plugin(str(folder), "ed25519") is True
    assert not _ispmail_lookup.has_plugin(str(folder), "ed*")


@pytest.mark.parametrize("leads_to", ["/own", "nowhere"])
def test_a_directory_with_links_is_as_a_chroot_sees_it(script, leads_to):
    """Certificates and plugins: followed from outside, links in it led out of the chroot."""
    with scratch() as folder:
        jail, outside = folder / "jail", folder / "outside"
        inside = jail / str(outside).lstrip("/")
        for directory in (outside, inside, jail / "own"):
            directory.mkdir(parents=True)
        (outside / "x.pem").write_text("outside\n")
        (jail / "own" / "x.pem").write_text("inside\n")
        (inside / "plain.pem").write_text("plain\n")
        content = f"hosts = h\ntls_CApath = {outside}\n".encode()

        def seen():
            with _ispmail_lookup.in_memory({"a": ("mysql", content)}, Asker("nobody", str(jail))) as (_, as_, _):
                with open(f"/proc/self/fd/{as_.descriptors[0]}", encoding="ascii") as file:
                    path = file.read().split()[-1]
                command = ["setpriv", "--reuid=nobody", "--clear-groups", "sh", "-c", 'cat "$0"/* 2>&- || :', path]
                return path, sorted(subprocess.check_output(command, text=True).split())

        assert seen() == (str(inside), ["plain"])
        (inside / "link.pem").symlink_to("plain.pem")
        assert seen() == (str(inside), ["plain", "plain"])
        (inside / "x.pem").symlink_to(f"{leads_to}/x.pem" if leads_to == "/own" else outside / "x.pem")
        path, texts = seen()
        assert texts == (["inside", "plain", "plain"] if leads_to == "/own" else ["plain", "plain"])
        assert path != str(inside) and not os.path.exists(path), "it does not stay"


def test_a_plugin_that_is_a_link_is_where_it_leads_inside_the_chroot(tmp_path):
    folder = tmp_path / "jail"
    outside = tmp_path / "client_x.so"
    outside.touch()
    plugins = folder / _ispmail_lookup.plugin_directory().lstrip("/")
    plugins.mkdir(parents=True)
    (plugins / "client_x.so").symlink_to(outside)
    assert not _ispmail_lookup.has_plugin(str(folder), "x")
    with _ispmail_lookup.in_memory({"a": ("mysql", b"hosts = h\n")}, Asker(chroot=str(folder))) as (_, as_, _):
        assert os.listdir(as_.plugins) == ["client_x.so"] and not os.path.exists(f"{as_.plugins}/client_x.so")
    (folder / "client_x.so").touch()
    (plugins / "client_x.so").unlink()
    (plugins / "client_x.so").symlink_to("/client_x.so")
    assert _ispmail_lookup.has_plugin(str(folder), "x")
