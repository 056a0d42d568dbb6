"""A change of a Postfix: what there is at each step forward and back, with real files and a real postconf.

Whether Postfix runs, and what comes of its reloads, is said here: a real one is changed in tests/functional.
"""

import os
import subprocess
import threading
import time
from types import SimpleNamespace

import pytest

import _ispmail_files
import _ispmail_locks
import _ispmail_obstacles
import _ispmail_postconf
import _ispmail_tablefile
import _ispmail_transaction
from _ispmail_errors import CannotAsk, ChangedMeanwhile, Failed, NotPutBack
from _ispmail_files import File, Replacement, read
from _ispmail_history import History
from _ispmail_journal import Journal
from _ispmail_transaction import Change
from lab.postfix import write_cold

from .configured import Configured

OLD, NEW, THEIRS = "query = old\n", "query = new\n", "query = theirs\n"
MAPS = {"virtual_alias_maps": "mysql:DIR/b.cf"}
DOMAINS = ("mydestination", "relay_domains", "virtual_alias_domains", "virtual_mailbox_domains")
HAD = "another program has had the table files asked by"
PROGRAMS = frozenset(["smtpd", "smtp"])
PUT_BACK = "Everything was put back as it was, and Postfix reloaded."


@pytest.fixture
def server(tmp_path):
    return Configured(tmp_path)


class Postfix:
    """Whether one runs, what its reloads come to, and what each of them finds."""

    def __init__(self, server):
        self.server = server
        self.pid = 4711
        self.errors = []  # of the reloads, None for none
        self.old_processes = []
        self.found = []
        self.followed = []  # whether it was told that another reload follows
        self.waits = []  # for old processes to end: after how many reloads, and how long

    def master(self, queue):
        assert queue == str(self.server.queue)
        return self.pid

    def askers(self, queue):
        """They are other ones after each reload."""
        assert queue == str(self.server.queue)
        return {len(self.found): "smtpd"}

    def let_end(self, processes, queue, seconds):
        assert [*processes] == [len(self.found) - 1] and queue == str(self.server.queue)
        self.waits.append((len(self.found), seconds))
        return []

    def reload(self, directory, queue, once_more, programs):
        assert programs == PROGRAMS
        assert directory == str(self.server.directory) and self.master(queue)
        self.found.append(visible(self.server))
        self.followed.append(once_more)
        error = self.errors.pop(0) if self.errors else None
        if error:
            raise CannotAsk(error)
        return self.old_processes


@pytest.fixture
def postfix(server, monkeypatch):
    found = Postfix(server)
    for name in ("master", "reload", "askers", "let_end"):
        monkeypatch.setattr(f"_ispmail_postfix.{name}", getattr(found, name))
    return found


@pytest.fixture(autouse=True)
def sound(server, monkeypatch):
    """Postfix itself refuses no main.cf; each that it sees, and whether postconf could edit it meanwhile."""
    seen = []

    def refuse_broken(after, parameters, config_directory, workspace=None):
        is_locked = os.path.exists(server.directory / "main.cf.tmp")
        seen.append((values(server, after.new.content), parameters, is_locked))

    monkeypatch.setattr(_ispmail_postconf, "refuse_broken", refuse_broken)
    return seen


def values(server, content):
    """What a main.cf sets, beside where things are."""
    own = ("compatibility_level", "queue_directory", "data_directory", "mail_version")
    return {key: value for key, value in server.short(_ispmail_tablefile.parse(content)).items() if key not in own}


def visible(server):
    """All files that Postfix could read, and what main.cf sets."""
    found = {}
    for path in sorted(server.directory.iterdir()):
        if path.is_file() and not path.name.startswith(".") and path.name != "master.cf":
            content = path.read_bytes()
            found[path.name] = values(server, content) if path.name == "main.cf" else content.decode()
    return found


def change(server, files=(), parameters=None, **options):
    """Of files as a dictionary, None deletes one; in a value DIR is the directory."""
    replacements = []
    for name, text in dict(files).items():
        new = File(server.path(name), None if text is None else text.encode(), 0, 0, 0o640)
        replacements.append(Replacement(new, still=(read(new.path).content,)))
    if parameters:
        parameters = {name: value and value.replace("DIR", str(server.directory)) for name, value in parameters.items()}
    where = {"queue_directory": str(server.queue), "programs": PROGRAMS}
    return Change(str(server.directory), server.cache, tuple(replacements), parameters, **where, **options)


def journal(server):
    return Journal(str(server.directory), server.cache)


def cut_off(server, *names):
    """Leave behind what a change leaves that was cut off."""
    with journal(server).locked():
        journal(server).write([server.path(name) for name in names])


def fails(*acts, error=None):
    """A check that does something, and fails."""

    def check(running):
        for act in acts:
            act()
        raise error or Failed("no")

    return check


def made(server, check, **what):
    """Make a change that fails: its error, with what it says of this directory in short."""
    with pytest.raises(Failed) as caught:
        _ispmail_transaction.make(change(server, **what), check)
    return SimpleNamespace(type=caught.type, text=server.short(str(caught.value)), cause=caught.value.__cause__)


# Forward.


def test_the_order_of_a_change(server, postfix, sound):
    """New files, main.cf, reload, check, deletions: main.cf never names a table that is not there."""
    server.main_cf("virtual_alias_maps = mysql:DIR/a.cf").table("a", OLD).table("c", OLD)
    postfix.old_processes = ["smtpd 1"]
    seen = []

    def check(running):
        seen.append((running, len(postfix.found), visible(server), journal(server).due()))
        # Whoever edits main.cf need not wait any more.
        assert not os.path.exists(server.directory / "main.cf.tmp")

    made = _ispmail_transaction.make(change(server, {"b": NEW, "c": NEW, "a": None}, MAPS), check)
    assert made == ["busy processes end their sessions with the old maps: smtpd 1"]
    there = {"a.cf": OLD, "b.cf": NEW, "c.cf": NEW, "main.cf": MAPS}
    assert postfix.found == [there]
    due = [server.path(name) for name in "bca"] + [str(server.directory / "main.cf")]
    assert seen == [(True, 1, there, due)]
    assert sound == [(MAPS, {"virtual_alias_maps": f"mysql:{server.directory}/b.cf"}, True)]
    assert sorted(os.listdir(server.directory)) == ["b.cf", "c.cf", "main.cf", "master.cf"]
    assert journal(server).due() is None


@pytest.mark.parametrize(
    ("what", "runs", "due", "reloads"),
    [
        ({"files": {"a": NEW}}, True, False, 1),
        ({"files": {"a": NEW}}, False, False, 0),
        ({"parameters": MAPS}, True, False, 1),
        # main.cf does not name what is only deleted.
        ({"files": {"a": None}}, True, False, 0),
        ({"files": {"a": None}}, True, True, 1),
        ({}, True, True, 1),
        ({}, False, True, 0),
    ],
)
def test_what_needs_a_reload(server, postfix, what, runs, due, reloads):
    """Whatever a change that was cut off may have left undone is done."""
    server.table("a", OLD)
    postfix.pid = 4711 if runs else None
    if due:
        cut_off(server, "a", "b")
        for name in (".a.cf.old", ".b.cf.new"):
            (server.directory / name).write_text("a password")
    checked = []
    assert _ispmail_transaction.make(change(server, **what), checked.append) == []
    assert (len(postfix.found), checked) == (reloads, [runs])
    assert journal(server).due() is None
    assert [name for name in os.listdir(server.directory) if name.startswith(".")] == []


def test_a_change_that_was_cut_off_is_finished_though_the_cache_was_cleared(server, postfix):
    """Also where the first one that finds it fails, after it has taken away what was left."""
    owned = (server.path("a"), server.path("b"))
    (server.directory / ".a.cf.old").write_text("a password")
    main_cf = server.directory / "main.cf"
    wrong = change(server, parameters=DIRECT, expected={"relay_domains": "x"}, owned=owned)
    with pytest.raises(Failed, match=r"relay_domains in .* was changed by somebody else"):
        _ispmail_transaction.make(wrong)
    assert not (server.directory / ".a.cf.old").exists() and postfix.found == [] and main_cf.exists()
    assert _ispmail_transaction.make(change(server, owned=owned)) == []
    assert len(postfix.found) == 1 and journal(server).due() is None


def test_without_a_check(server, postfix):
    assert _ispmail_transaction.make(change(server, {"a": NEW})) == []
    assert visible(server)["a.cf"] == NEW


def test_a_change_that_is_not_postfixs_needs_none(tmp_path):
    """A server that has only other programs with the maps' account."""
    found = Change(str(tmp_path / "none"), str(tmp_path), (Replacement(File(str(tmp_path / "x.cnf"), b"x")),))
    _ispmail_transaction.rehearse(found)
    assert _ispmail_transaction.make(found) == []
    assert (tmp_path / "x.cnf").read_text() == "x"
    with pytest.raises(Failed, match=r"^no\nEverything was put back as it was\.$"):
        _ispmail_transaction.make(found._replace(files=(Replacement(File(str(tmp_path / "x.cnf"), b"y")),)), fails())
    assert (tmp_path / "x.cnf").read_text() == "x"


MAILBOXES = {"virtual_mailbox_maps": "hash:DIR/x"}


@pytest.mark.parametrize("domains", DOMAINS)
def test_domains_come_last_and_go_first(server, postfix, domains):
    """Else each address of such a domain is accepted for a moment; and so it is on the way back."""
    more, less = {domains: "x.test", **MAILBOXES}, dict.fromkeys((domains, *MAILBOXES))
    _ispmail_transaction.make(change(server, parameters=more))
    assert [found["main.cf"] for found in postfix.found] == [MAILBOXES, more] and postfix.followed == [True, False]
    postfix.found.clear()
    postfix.followed.clear()
    made(server, fails(), parameters=less)
    assert [found["main.cf"] for found in postfix.found] == [MAILBOXES, {}, MAILBOXES, more]
    assert postfix.followed == [True, False, True, False]
    postfix.found.clear()
    _ispmail_transaction.make(change(server, parameters=less))
    assert [found["main.cf"] for found in postfix.found] == [MAILBOXES, {}]


@pytest.mark.parametrize(
    ("before", "parameters"),
    [
        ("relay_domains = x.test", {"relay_domains": "y.test", **MAILBOXES}),
        ("", {"relay_domains": "x.test"}),
        ("", {"relay_domains": "x.test", "virtual_mailbox_domains": "y.test"}),
        ("", MAILBOXES),
        ("relay_domains = x.test", {"relay_domains": None, "virtual_mailbox_domains": "x.test", **MAILBOXES}),
    ],
)
def test_one_step_is_enough_where_no_domain_comes_or_goes_with_a_map(server, postfix, before, parameters):
    server.main_cf(before)
    _ispmail_transaction.make(change(server, parameters=parameters))
    assert [found["main.cf"] for found in postfix.found] == [
        {name: value for name, value in parameters.items() if value}
    ]
    assert postfix.followed == [False]


@pytest.mark.parametrize("starts", [True, False])
def test_two_steps_of_a_postfix_that_does_not_run(server, postfix, monkeypatch, starts):
    """One that is started in between has read the first step."""
    postfix.pid = None
    go_on = _ispmail_files.Exchange.go_on

    def gone_on(exchange, step):
        postfix.pid = 4711 if starts else None
        go_on(exchange, step)

    monkeypatch.setattr(_ispmail_files.Exchange, "go_on", gone_on)
    more = {"relay_domains": "x.test", **MAILBOXES}
    _ispmail_transaction.make(change(server, parameters=more))
    assert [found["main.cf"] for found in postfix.found] == [more] * starts
    assert visible(server)["main.cf"] == more


PROXIED, DIRECT = {"virtual_alias_maps": "proxy:mysql:DIR/b.cf"}, {"virtual_alias_maps": "mysql:DIR/b.cf"}


def steps(postfix):
    """What each reload has found in main.cf: * in place of what proxymap is told apart."""
    found = []
    for each in (found["main.cf"] for found in postfix.found):
        meanwhile = each.pop("ispmail_meanwhile", None)
        found.append(each)
        if meanwhile:
            assert each["proxy_read_maps"].endswith("$ispmail_meanwhile")
            assert {"proxy:mysql:DIR/b.cf"} <= set(meanwhile.split(", "))
            each["proxy_read_maps"] = each["proxy_read_maps"].replace("$ispmail_meanwhile", "*")
    return found


def test_proxymap_allows_what_old_processes_ask_until_they_end(server, postfix, sound):
    """And the new parameters are checked before they are waited for, and after proxymap allows less."""
    readable = "proxy_read_maps = $virtual_alias_maps,\n    proxy:unix:passwd.byname\n"
    server.main_cf(f"{readable}virtual_alias_maps = {PROXIED['virtual_alias_maps']}").table("a", OLD)
    checked = []

    def check(running):
        checked.append((running, len(postfix.found), len(postfix.waits), "a.cf" in visible(server)))

    _ispmail_transaction.make(change(server, {"a": None}, DIRECT), check)
    kept = "$virtual_alias_maps, proxy:unix:passwd.byname"
    assert [{name: " ".join(value.split()) for name, value in each.items()} for each in steps(postfix)] == [
        {**DIRECT, "proxy_read_maps": f"{kept}, *"},
        {**DIRECT, "proxy_read_maps": kept},
    ]
    assert (postfix.waits, postfix.followed) == ([(1, 10)], [True, False])
    # Postfix itself is asked about what stays.
    assert [main_cf["virtual_alias_maps"] for main_cf, _, _ in sound] == [DIRECT["virtual_alias_maps"]]
    assert "ispmail_meanwhile" not in sound[0][0]
    assert checked == [(True, 1, 0, True), (True, 2, 1, True)] and "a.cf" not in visible(server)
    # As the admin has written it.
    assert readable in (server.directory / "main.cf").read_text()


@pytest.mark.parametrize("others", [{}, {"relay_domains": "x.test"}])
def test_processes_that_have_begun_meanwhile_are_let_end_too(server, postfix, others):
    """On the way back from a table that proxymap is asked for."""
    server.main_cf(f"virtual_alias_maps = {DIRECT['virtual_alias_maps']}")
    before = visible(server)
    assert made(server, fails(), parameters={**PROXIED, **others}).text == f"no\n{PUT_BACK}"
    without = {**DIRECT, "proxy_read_maps": "*"}
    apart = [{**PROXIED, "proxy_read_maps": "*"}] if others else []
    assert steps(postfix) == [without, *apart, {**PROXIED, **others}, *apart, without, DIRECT]
    assert postfix.waits == [(len(postfix.found) - 1, 10)]
    assert visible(server) == before


def test_the_way_back_begins_where_the_way_has_ended(server, postfix):
    """It went forward to the end first: domains without their maps, and a table that nobody had asked."""
    server.main_cf(f"virtual_alias_maps = {PROXIED['virtual_alias_maps']}")
    before, others = visible(server), {"virtual_alias_maps": "proxy:mysql:DIR/c.cf", "relay_domains": "x.test"}
    allowed, there = {**PROXIED, "proxy_read_maps": "*"}, {"proxy_read_maps": "*"}
    apart = {**others, **there}
    del apart["relay_domains"]
    for errors, way in (
        (["no"], [allowed]),
        ([None, "no"], [allowed, apart, allowed]),
        ([None, None, "no"], [allowed, apart, {**others, **there}, apart, allowed]),
    ):
        postfix.found.clear()
        postfix.errors = errors
        assert made(server, None, parameters=others).text == f"no\n{PUT_BACK}"
        assert steps(postfix) == [*way, PROXIED]
        assert visible(server) == before


def test_a_change_that_was_cut_off_while_proxymap_allowed_more(server, postfix):
    """The next one takes that away, whatever else it has to do; but not at once."""
    entries = []
    for text, kept in (("$ispmail_meanwhile", {}), ("$x, $ispmail_meanwhile", {"proxy_read_maps": "$x"})):
        left = f"proxy_read_maps = {text}\nispmail_meanwhile = $virtual_alias_maps, proxy:mysql:DIR/b.cf\n"
        for parameters in ({}, {"relocated_maps": "hash:DIR/r"}):
            server.main_cf(f"virtual_alias_maps = mysql:DIR/b.cf\n{left}")
            cut_off(server)
            postfix.found.clear()
            _ispmail_transaction.make(change(server, parameters=parameters, keep=9))
            entries = [*entries, parameters] if parameters else entries
            wanted = {**DIRECT, **parameters}
            assert steps(postfix) == [
                {**wanted, "proxy_read_maps": text.replace("$ispmail_meanwhile", "*")},
                {**wanted, **kept},
            ]
            assert visible(server)["main.cf"] == {**wanted, **kept} and journal(server).due() is None
    found = History(journal(server).history).entries(interrupted=False)
    assert [each.parameters.keys() for each in found] == [each.keys() for each in entries]


def test_what_another_program_writes_while_old_processes_are_waited_for_is_kept(server, postfix, monkeypatch):
    """And nothing of ours is left in it."""
    main_cf = server.directory / "main.cf"
    server.main_cf(f"virtual_alias_maps = {PROXIED['virtual_alias_maps']}")

    def let_end(*_):
        write_cold(main_cf, f"{main_cf.read_text()}biff = no\n")
        return []

    monkeypatch.setattr("_ispmail_postfix.let_end", let_end)
    error = made(server, None, parameters=DIRECT)
    assert error.type is Failed and f"was changed by somebody else meanwhile: try again\n{PUT_BACK}" in error.text
    assert visible(server)["main.cf"] == {**PROXIED, "biff": "no"}


def test_processes_that_do_not_end_are_told(server, postfix, monkeypatch, caplog):
    server.main_cf(f"virtual_alias_maps = {PROXIED['virtual_alias_maps']}")
    monkeypatch.setattr("_ispmail_postfix.let_end", lambda *_: ["smtpd 4", "cleanup 7"])
    postfix.old_processes = ["smtpd 4", "smtpd 9"]
    assert _ispmail_transaction.make(change(server, parameters=DIRECT)) == [
        "busy processes were waited for, and end without an answer when they ask what proxymap allows no more: "
        "smtpd 4, cleanup 7",
        "busy processes end their sessions with the old maps: smtpd 9",
    ]
    assert server.short(caplog.messages) == ["not waited for any longer in DIR: smtpd 4, cleanup 7"]


# Nothing is changed.


def test_how_much_room_a_change_needs(server, monkeypatch):
    """That of two copies of each file, in whole blocks: of none that is deleted, or was only left behind."""
    cut_off(server, "d")
    server.table("a", OLD)
    rooms = []
    monkeypatch.setattr(_ispmail_obstacles, "obstacles", lambda needed: rooms.append(needed) or [])
    _ispmail_transaction.rehearse(change(server, {"a": None, "b": "x" * 5000}, MAPS))
    main_cf = server.directory / "main.cf"
    assert rooms[0] == {
        server.path("d"): 0,
        server.path("a"): 0,
        server.path("b"): 10_000 + 8192,
        str(main_cf): 2 * main_cf.stat().st_size + 8192,
        journal(server).workspace: 8192,
    }


@pytest.mark.parametrize("due", [(), ("d",)])
def test_what_cannot_be_written_is_told_before_anything_is_done(server, postfix, due):
    """All of it at once, by a dry run too; and what an interrupted change left, which is to be removed."""
    if due:
        cut_off(server, *due)
    for name in (".a.cf.new", ".b.cf.old", ".d.cf.new"):
        (server.directory / name).mkdir()
    before = visible(server)
    what = change(server, {"a": NEW, "b": NEW}, MAPS)
    for act in (_ispmail_transaction.make, _ispmail_transaction.rehearse):
        with pytest.raises(Failed) as caught:
            act(what)
        head, *told = server.short(str(caught.value)).split("\n- ")
        assert head == "Nothing was changed, these cannot be written:"
        assert sorted(line.split()[0] for line in told) == [
            *("DIR/.a.cf.new", "DIR/.b.cf.old"),
            *(f"DIR/.{name}.cf.new" for name in due),
        ]
    assert (visible(server), postfix.found) == (before, [])


def test_leftovers_that_cannot_be_removed_stop_the_next_change(server, postfix, monkeypatch):
    def stays(paths):
        raise Failed("x, which may hold a password, cannot be removed")

    monkeypatch.setattr(_ispmail_files, "remove_leftovers", stays)
    error = made(server, None, files={"a": NEW})
    assert error.text == (
        "Nothing was changed, an interrupted change is still to be finished: "
        "x, which may hold a password, cannot be removed"
    )
    assert (error.type, "a.cf" in visible(server)) == (Failed, False)


@pytest.mark.parametrize(
    ("expected", "is_refused"),
    [
        (None, False),
        ({"virtual_alias_maps": "hash:/x,  hash:/y"}, False),
        ({"virtual_alias_maps": "hash:/x"}, True),
        ({"virtual_alias_maps": None}, True),
        # Whether Postfix runs was seen in another queue, so there would be no reload.
        ({"queue_directory": "/other"}, True),
    ],
)
def test_a_parameter_that_somebody_else_has_set_meanwhile(server, postfix, expected, is_refused):
    server.main_cf("virtual_alias_maps = hash:/x, hash:/y")
    what = change(server, parameters={"virtual_alias_maps": "hash:/z"}, expected=expected)
    if is_refused:
        (name,) = expected
        with pytest.raises(ChangedMeanwhile, match=rf"^{name} in .* was changed by somebody else meanwhile"):
            _ispmail_transaction.make(what)
    else:
        _ispmail_transaction.make(what)
    new = "hash:/x, hash:/y" if is_refused else "hash:/z"
    assert visible(server)["main.cf"] == {"virtual_alias_maps": new}


@pytest.mark.parametrize("queue", ["/other", None])
def test_where_the_queue_is_matters_to_a_change_of_files_too(server, postfix, queue):
    expected = {"queue_directory": queue or str(server.queue)}
    what = change(server, {"a": NEW}, expected=expected)
    if queue:
        with pytest.raises(ChangedMeanwhile, match=r"^queue_directory in .* was changed by somebody else meanwhile"):
            _ispmail_transaction.make(what)
    else:
        _ispmail_transaction.make(what)
    assert ("a.cf" in visible(server)) is not bool(queue)


def test_a_main_cf_that_another_program_is_writing_is_read_when_it_is_done(server, postfix, monkeypatch):
    """As Postfix's programs do: what is there now may be half of it."""
    waited = []
    what = change(server, {"a": NEW}, expected={"queue_directory": str(server.queue)})
    monkeypatch.setattr(_ispmail_transaction, "_gets_cold", lambda path: waited.append(path) or len(waited) > 1)
    with pytest.raises(
        CannotAsk, match=r"^Nothing was changed: .*/main\.cf is changed again and again by another prog"
    ):
        _ispmail_transaction.make(what)
    assert "a.cf" not in visible(server)
    _ispmail_transaction.make(what)
    assert waited == [str(server.directory / "main.cf")] * 2 and "a.cf" in visible(server)


def test_what_is_there_already_is_no_obstacle(server, postfix):
    server.main_cf("virtual_alias_maps = mysql:DIR/b.cf")
    _ispmail_transaction.make(change(server, parameters=MAPS, expected={"virtual_alias_maps": None}))
    assert visible(server)["main.cf"] == MAPS


def test_a_file_that_somebody_else_has_changed_meanwhile(server, postfix):
    server.table("a", OLD)
    what = change(server, {"b": NEW, "a": NEW})
    server.table("a", THEIRS)
    asked = []
    with pytest.raises(Failed) as caught:
        _ispmail_transaction.make(what, answers=lambda: asked.append(True) or "It answers.")
    reason, outcome = str(caught.value).split("\n")
    assert reason.startswith(f"{server.path('a')} was changed by somebody else") and not asked
    assert outcome == "Nothing was changed, Postfix answers as before."
    assert visible(server) == {"a.cf": THEIRS, "main.cf": {}}
    assert sorted(os.listdir(server.directory)) == ["a.cf", "main.cf", "master.cf"]
    assert (postfix.found, journal(server).due()) == ([], None)


@pytest.mark.parametrize("parameters", [MAPS, None])
def test_a_rehearsal_changes_nothing(server, postfix, sound, parameters):
    before = visible(server)
    _ispmail_transaction.rehearse(change(server, {"a": NEW}, parameters))
    assert visible(server) == before
    wanted = [MAPS] if parameters else []
    assert [main_cf for main_cf, _, _ in sound] == wanted
    assert [server.short(asked) for _, asked, _ in sound] == wanted


# Back.


@pytest.mark.parametrize("runs", [True, False])
def test_the_order_of_the_way_back(server, postfix, caplog, runs):
    """main.cf and old files, reload, and then the new files, which no process asks any more."""
    server.main_cf("virtual_alias_maps = mysql:DIR/a.cf").table("a", OLD).table("c", OLD)
    before = visible(server)
    postfix.pid = 4711 if runs else None
    error = made(server, fails(), files={"b": NEW, "c": NEW, "a": None}, parameters=MAPS)
    assert error.text == f"no\n{PUT_BACK if runs else 'Everything was put back as it was.'}"
    assert (error.type, type(error.cause)) == (Failed, Failed)
    assert postfix.found[1:] == [{**before, "b.cf": NEW}] * runs
    assert visible(server) == before
    assert sorted(os.listdir(server.directory)) == ["a.cf", "c.cf", "main.cf", "master.cf"]
    assert journal(server).due() is None
    (told,) = server.short(caplog.messages)
    assert told.startswith("put back in DIR: DIR/b.cf, DIR/c.cf, DIR/main.cf, in ")


def test_what_smtpd_says_after_the_way_back(server, postfix):
    """It was said to answer as before, unasked. It is asked at the very end: that may take a while."""
    before, asked = visible(server), []

    def answers():
        asked.append((visible(server), journal(server).due(), len(postfix.found)))
        return "It does not answer."

    for pid in (4711, None):
        postfix.pid = pid
        with pytest.raises(Failed) as caught:
            _ispmail_transaction.make(change(server, {"a": NEW}, MAPS), fails(), answers)
        said = f"{PUT_BACK} It does not answer." if pid else "Everything was put back as it was."
        assert str(caught.value) == f"no\n{said}"
    with pytest.raises(KeyboardInterrupt):
        _ispmail_transaction.make(change(server, {"a": NEW}, MAPS), fails(error=KeyboardInterrupt()), answers)
    assert asked == [(before, None, 2)]


def test_an_error_that_nobody_foresaw(server, postfix):
    """Its text may hold anything, and is not shown."""
    server.table("a", OLD)
    error = made(server, fails(error=ValueError("a password")), files={"a": NEW})
    assert (error.text, error.cause) == (f"unforeseen ValueError\n{PUT_BACK}", None)
    assert visible(server)["a.cf"] == OLD


def test_a_change_that_is_stopped_is_put_back(server, postfix):
    with pytest.raises(KeyboardInterrupt):
        _ispmail_transaction.make(change(server, {"a": NEW}, MAPS), fails(error=KeyboardInterrupt()))
    assert visible(server) == {"main.cf": {}}
    assert len(postfix.found) == 2


def test_the_change_that_was_cut_off_before_stays_due(server, postfix):
    cut_off(server, "d")
    due = [server.path("d")]
    error = made(server, fails(), files={"a": NEW})
    state = "Everything was put back as the change that was cut off before had left it, and Postfix reloaded"
    assert error.text == f"no\n{state}. Apply again to finish that change."
    assert journal(server).due() == due


@pytest.mark.parametrize("parameters", [None, MAPS])
def test_a_disk_that_fails_in_the_last_moment(server, postfix, monkeypatch, parameters):
    """All is renamed by then. main.cf is put back without a wait for the lock that this change has itself."""
    monkeypatch.setattr(_ispmail_locks, "_POSTCONF_SECONDS", 0.3)
    sync_directories, calls = _ispmail_files.sync_directories, []

    def fails_first(paths):
        paths = list(paths)
        calls.append(paths)
        if server.path("b") in paths and sum(server.path("b") in call for call in calls) == 1:
            raise OSError(5, "Input/output error", str(server.directory))
        sync_directories(paths)

    monkeypatch.setattr(_ispmail_files, "sync_directories", fails_first)
    before = visible(server)
    error = made(server, None, files={"b": NEW}, parameters=parameters)
    assert error.text == f"DIR cannot be written: Input/output error\n{PUT_BACK}"
    assert visible(server) == before


@pytest.mark.parametrize(
    ("runs", "pid", "is_told"), [(True, 4711, False), (True, None, True), (True, 4712, True), (False, None, False)]
)
def test_a_postfix_that_is_restarted_meanwhile(server, postfix, runs, pid, is_told):
    """That is why it did not answer: an upgrade of its package."""
    postfix.pid = 4711 if runs else None
    reason = made(server, fails(lambda: setattr(postfix, "pid", pid)), files={"a": NEW}).text.split("\n")[0]
    restarted = "Postfix was stopped or restarted by another program meanwhile, such as an upgrade of its package"
    assert reason == (f"{restarted}: try again when that has ended (no)" if is_told else "no")


@pytest.mark.parametrize("fails_too", [True, False])
def test_what_is_left_beside_the_files_is_told(server, postfix, fails_too):
    """It may hold a password. The next apply removes it, so the change stays due."""

    def check(running):
        (server.directory / ".a.cf.new").mkdir()
        if fails_too:
            raise Failed("no")

    error = made(server, check, files={"a": NEW})
    left = "DIR/.a.cf.new, which may hold a password, cannot be removed: Is a directory"
    if fails_too:
        assert error.text == f"no\n{PUT_BACK} One thing is left to do: {left}. Apply again to have it done."
    else:
        assert error.text == f"The change is live and checked, but not finished: {left}. Apply again to finish it"
    assert error.type is Failed
    assert journal(server).due() == [server.path("a")]


# Another program writes main.cf meanwhile.


def test_another_programs_edit_stays(server, postfix):
    """Of an older main.cf: what is lost is told; what it has set itself is not put back, the rest is."""
    server.main_cf("relocated_maps = hash:/r").table("a", OLD)
    theirs = "virtual_alias_maps = mysql:DIR/b.cf\nrelocated_maps = hash:/theirs\nbiff = no"
    parameters = {**MAPS, "relocated_maps": "hash:/new"}
    error = made(server, lambda _: server.main_cf(theirs), files={"a": None}, parameters=parameters)
    assert error.text == (
        "another program has rewritten DIR/main.cf meanwhile, without postconf's lock, and with other values of "
        f"relocated_maps: try again when it has ended\n{PUT_BACK}"
    )
    assert visible(server) == {"a.cf": OLD, "main.cf": {"relocated_maps": "hash:/theirs", "biff": "no"}}


THEIRS_IN = {
    "main.cf": "relocated_maps (mysql:DIR/a.cf)",
    "master.cf": "smtp/inet/relocated_maps (mysql:DIR/a.cf)",
    "by a parameter of their own": "theirs (mysql:DIR/a.cf)",
}


@pytest.mark.parametrize("where", THEIRS_IN)
@pytest.mark.parametrize("parameters", [{"virtual_alias_maps": None}, None])
def test_a_table_file_that_another_program_has_put_to_use_is_not_deleted(server, postfix, where, parameters):
    """Whether main.cf has named it before or not. It would be a 451 for every RCPT."""
    ours = "virtual_alias_maps = mysql:DIR/a.cf\n" if parameters else ""
    server.main_cf(ours).table("a", OLD)
    directory = str(server.directory)

    def check(running):
        if where == "master.cf":
            command = ["postconf", "-c", directory, "-P", f"smtp/inet/relocated_maps=mysql:{directory}/a.cf"]
        else:
            theirs = {"relocated_maps": f"mysql:{directory}/a.cf"}
            if where != "main.cf":
                theirs = {"theirs": theirs["relocated_maps"], "relocated_maps": "$theirs"}
            command = ["postconf", "-c", directory, "-e", *(f"{name}={value}" for name, value in theirs.items())]
        subprocess.run(command, check=True)

    error = made(server, check, files={"a": None}, parameters=parameters)
    back = PUT_BACK if parameters else "Nothing was changed, Postfix answers as before."
    assert error.text.startswith(f"{HAD} ") and THEIRS_IN[where] in error.text
    assert error.text.endswith(f"meanwhile: take them out there first\n{back}")
    found = visible(server)
    assert found["a.cf"] == OLD and (found["main.cf"].get("virtual_alias_maps") is not None) is bool(parameters)


def test_a_table_file_that_somebody_else_replaces_meanwhile_is_not_deleted(server, postfix):
    """They say so, and what was to go with it is as it was."""
    server.main_cf("virtual_alias_maps = mysql:DIR/a.cf").table("a", OLD).table("c", OLD)
    error = made(
        server,
        lambda _: server.table("a", THEIRS),
        files={"c": None, "a": None},
        parameters={"virtual_alias_maps": None},
    )
    assert error.text == f"DIR/a.cf was changed by somebody else meanwhile: try again\n{PUT_BACK}"
    aliases = {"virtual_alias_maps": "mysql:DIR/a.cf"}
    assert visible(server) == {"a.cf": THEIRS, "c.cf": OLD, "main.cf": aliases}
    assert sorted(os.listdir(server.directory)) == ["a.cf", "c.cf", "main.cf", "master.cf"]


def test_a_new_file_that_somebody_else_replaces_meanwhile_is_left_and_told(server, postfix):
    error = made(server, fails(lambda: server.table("b", THEIRS)), files={"b": NEW, "c": NEW}, parameters=MAPS)
    assert (error.type, error.text) == (
        Failed,
        "no\nEverything was put back as it was except DIR/b.cf, which somebody else has written meanwhile, "
        "and Postfix reloaded.",
    )
    assert visible(server) == {"b.cf": THEIRS, "main.cf": {}} and journal(server).due() is None


def test_postconf_waits_while_table_files_are_deleted(server, postfix, monkeypatch):
    """What it writes afterwards names a file that its admin sees to be gone."""
    server.table("a", OLD)
    held = []
    delete = _ispmail_files.Exchange.delete
    lock = str(server.directory / "main.cf.tmp")
    monkeypatch.setattr(
        _ispmail_files.Exchange, "delete", lambda each: held.append(os.path.exists(lock)) or delete(each)
    )
    _ispmail_transaction.make(change(server, {"a": None}))
    assert held == [True] and not os.path.exists(lock) and "a.cf" not in visible(server)


def test_nothing_is_read_where_no_file_goes(server, postfix, monkeypatch):
    """An apply of 300 maps would read all of main.cf once more."""
    monkeypatch.setattr("_ispmail_inventory.read", lambda directory: pytest.fail("it is read"))
    server.table("c", OLD)
    _ispmail_transaction.make(change(server, {"b": NEW, "c": NEW, "none": None}, MAPS))
    assert made(server, fails(), files={"b": OLD, "c": OLD}).text == f"no\n{PUT_BACK}"
    assert visible(server) == {"b.cf": NEW, "c.cf": NEW, "main.cf": MAPS}


def test_another_programs_edit_of_something_else_is_kept(server, postfix):
    """Also where two steps are due: what was written meanwhile cannot be undone step by step."""
    parameters = {"relay_domains": "x.test", **MAILBOXES}
    ours = "".join(f"{name} = {value}\n" for name, value in parameters.items())
    error = made(server, fails(lambda: server.main_cf(f"{ours}biff = no")), parameters=parameters)
    assert error.text == f"no\n{PUT_BACK}"
    assert visible(server)["main.cf"] == {"biff": "no"}


def test_another_program_that_is_about_to_finish_is_waited_for(server, postfix):
    """It writes main.cf anew, in two moments: at first there is nothing in it."""
    main_cf = server.directory / "main.cf"

    def finish(content):
        time.sleep(0.3)
        write_cold(main_cf, content)

    def check(running):
        content = main_cf.read_text()
        main_cf.write_text("")
        thread = threading.Thread(target=finish, args=[content])
        thread.start()
        threads.append(thread)

    threads = []
    _ispmail_transaction.make(change(server, parameters=MAPS), check)
    threads[0].join()
    assert visible(server)["main.cf"] == MAPS


def test_on_the_way_back_too(server, postfix):
    main_cf = server.directory / "main.cf"
    threads = []

    def half_written():
        content = main_cf.read_text()
        main_cf.write_text("relocated_maps = half")

        def finish():
            time.sleep(0.3)
            write_cold(main_cf, f"{content}biff = no\n")

        threads.append(threading.Thread(target=finish))
        threads[0].start()

    made(server, fails(half_written), parameters=MAPS)
    threads[0].join()
    assert visible(server)["main.cf"] == {"biff": "no"}


class Clock:
    """Time that passes in sleep() alone."""

    def __init__(self, path, rewritten):
        self.now, self.slept, self.path, self.rewritten = time.time(), 0, path, rewritten

    def time(self):
        return self.now

    monotonic = time

    def sleep(self, seconds):
        self.now += seconds
        self.slept += seconds
        assert self.slept < 20
        if self.rewritten:
            os.utime(self.path, (self.now, self.now))


def test_another_programs_edit_of_something_else_is_not_waited_for(server, postfix, monkeypatch):
    main_cf = server.directory / "main.cf"
    clock = Clock(main_cf, rewritten=False)
    monkeypatch.setattr(_ispmail_transaction, "time", clock)
    _ispmail_transaction.make(change(server, parameters=MAPS), lambda _: os.utime(main_cf))
    assert clock.slept == 0


@pytest.mark.parametrize(
    ("age", "rewritten", "seconds"),
    [(None, False, 0), (10, False, 0), (2.05, False, 0), (0.95, False, 1.1), (0, True, 5)],
)
def test_how_long_a_file_is_waited_for(tmp_path, monkeypatch, age, rewritten, seconds):
    """Postfix takes it for half-written until it is two seconds old. One that is written all the time is left alone."""
    path = tmp_path / "main.cf"
    clock = Clock(path, rewritten)
    if age is not None:
        path.touch()
        os.utime(path, (clock.now - age, clock.now - age))
    monkeypatch.setattr(_ispmail_transaction, "time", clock)
    assert _ispmail_transaction._gets_cold(str(path)) is not rewritten
    assert clock.slept == pytest.approx(seconds, abs=0.11)


# Where the way back fails.


@pytest.mark.parametrize(("errors", "works"), [(["x"], True), (["x", "y"], False)])
@pytest.mark.parametrize("name", ["a", "b"])
def test_a_reload_on_the_way_back_is_tried_twice(server, postfix, caplog, errors, works, name):
    """Processes with different configurations may accept what they should not."""
    server.table("a", OLD)
    postfix.errors = [None, *errors]
    before = visible(server)
    error = made(server, fails(), files={name: NEW})
    assert len(postfix.found) == 3
    if works:
        assert error.text == f"no\n{PUT_BACK}"
    else:
        new = " except DIR/b.cf, which were not there before" if name == "b" else ""
        assert error.text == (
            f"no\nAll files are as before{new}. The rest could not be done (y): processes of Postfix may still use the "
            "new files. Run postfix -c DIR reload, or apply again"
        )
        assert server.short(caplog.messages) == ["files are put back in DIR, the rest is not done"]
    assert error.type is (Failed if works else NotPutBack)
    assert visible(server) == ({**before, "b.cf": NEW} if name == "b" and not works else before)
    assert (journal(server).due() is None) == works


def test_several_new_files_that_have_to_stay(server, postfix):
    postfix.errors = [None, "x", "x"]
    error = made(server, fails(), files={"a": NEW, "b": NEW})
    assert "except DIR/a.cf, DIR/b.cf, which were not there before" in error.text


def test_a_new_file_that_another_program_has_put_to_use_stays(server, postfix):
    theirs = "virtual_alias_maps = mysql:DIR/b.cf\nrelocated_maps = mysql:DIR/b.cf\n"
    error = made(server, fails(lambda: server.main_cf(theirs)), files={"b": NEW, "c": NEW}, parameters=MAPS)
    assert error.type is NotPutBack
    users = "relocated_maps (mysql:DIR/b.cf)"
    assert f"({HAD} {users} meanwhile: take them out there first): processes of Postfix may still use" in error.text
    assert visible(server)["b.cf"] == NEW and visible(server)["main.cf"] == {"relocated_maps": "mysql:DIR/b.cf"}


def test_a_new_file_that_main_cf_has_named_all_the_time_goes_again(server, postfix):
    """As it was."""
    server.main_cf("virtual_alias_maps = mysql:DIR/b.cf")
    asked = frozenset([server.path("b")])
    assert made(server, fails(), files={"b": NEW}, asked=asked).text == f"no\n{PUT_BACK}"
    assert visible(server) == {"main.cf": MAPS}


@pytest.mark.parametrize("errors", [[], ["x"]])
def test_a_file_that_somebody_else_writes_meanwhile_cannot_be_put_back(server, postfix, caplog, errors):
    """What runs is reloaded all the same: it is to agree with what is on disk."""
    server.table("a", OLD).table("c", OLD)
    postfix.errors = [None, *errors]
    error = made(
        server, fails(lambda: server.table("a", THEIRS)), files={"c": NEW, "a": NEW, "b": NEW}, parameters=MAPS
    )
    assert error.text == (
        "no\nIt could not be put back (DIR/a.cf was changed by somebody else meanwhile): mail may be affected, "
        "look at DIR/c.cf, DIR/a.cf, DIR/b.cf now"
    )
    assert error.type is NotPutBack
    assert server.short(caplog.messages) == ["could not put back in DIR: DIR/c.cf, DIR/a.cf, DIR/b.cf"]
    assert len(postfix.found) == 2 and postfix.found[1]["main.cf"] == {}
    assert journal(server).due() is not None


def test_the_way_back_is_one_step_where_two_fail(server, postfix):
    """A reload between them that fails is no reason to leave main.cf as it is."""
    postfix.errors = [None, None, "x"]
    parameters = {"relay_domains": "x.test", **MAILBOXES}
    assert made(server, fails(), parameters=parameters).text == f"no\n{PUT_BACK}"
    assert [found["main.cf"] for found in postfix.found] == [MAILBOXES, parameters, MAILBOXES, {}]
