"""An apply where Postfix does not run, by real postconf and postmap with SQLite; and what it does with what smtpd says.

The maps of a running Postfix are asked in tests/functional.
"""

import contextlib
import os
import shutil
import sqlite3
from types import SimpleNamespace

import pytest

import _ispmail_apply
import _ispmail_compare
import _ispmail_inventory
import _ispmail_plan
import _ispmail_transaction
from _ispmail_answers import UNCHECKED, Broken
from _ispmail_config import complete
from _ispmail_config_consumers import NONE, Consumers
from _ispmail_errors import CannotAsk, Failed, PillarFault
from _ispmail_journal import Journal
from _ispmail_plan import Outcome
from _ispmail_smtpd import Reply
from _ispmail_transaction import Change

from .configured import SERVICES, TEXT, Configured
from .consumer_values import consumer

STOPPED = "Postfix is not running, so there was nothing to reload"


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Whose directory is pytest's, which only root may enter."""
    monkeypatch.setattr("_ispmail_files.permits", lambda user, access, path: True)
    return Configured(tmp_path)


@pytest.fixture
def database(tmp_path):
    """An SQLite database with one name."""
    path = tmp_path / "mail.db"
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE t (n TEXT)")
        connection.execute("INSERT INTO t VALUES ('lite.test')")
    return path


@pytest.fixture
def lite(database):
    """A function that gives a map of that database, for a parameter."""

    def gives(parameter, **keys):
        query = "SELECT n FROM t WHERE n='%s'"
        return {"parameter": parameter, "type": "sqlite", "dbpath": str(database), "query": query, **keys}

    return gives


@pytest.fixture
def consumers(tmp_path, monkeypatch):
    monkeypatch.setattr("_ispmail_logins.probe", lambda _: ["a host was not asked"])
    keys = {"user": "mailserver", "password": "x", "hosts": "127.0.0.1", "dbname": "mailserver"}
    return Consumers("ispmail", (consumer("x", str(tmp_path / "x.cnf")),), keys)


def lite_text(database):
    return f"dbpath = {database}\nquery = SELECT n FROM t WHERE n='%s'\n"


def apply(server, maps, answers=(), consumers=NONE, **options):
    instance = complete("ispmail", server.pillar(maps, answers=list(answers)))
    return _ispmail_apply.apply(_ispmail_compare.compare(instance, consumers, server.cache), server.cache, **options)


def cut_off(server):
    """Leave behind what a change leaves that was cut off."""
    journal = Journal(str(server.directory), server.cache)
    with journal.locked():
        journal.write([])


def names(caplog):
    """What the log says was applied."""
    return [message.partition(": ")[2].rpartition(", in ")[0] for message in caplog.messages if "applied" in message]


# All of it, without a Postfix that runs.


def test_a_map_is_applied_once(server, lite, database, caplog):
    maps = {"b": lite("relocated_maps"), "a": lite("virtual_alias_maps")}
    for options, is_there in (({"test": True}, False), ({}, True)):
        found = apply(server, maps, **options)
        assert list(found.changes) == ["b", "a", "main.cf"] and list(found.changes["a"]) == ["file", "dbpath", "query"]
        assert (found.maps, found.reloaded, found.warnings) == (2, False, (STOPPED,))
        assert os.path.exists(server.path("a")) == is_there
        assert names(caplog) == (["a, b"] if is_there else [])
    with open(server.path("a"), encoding="ascii") as stream:
        assert stream.read() == lite_text(database)
    caplog.clear()
    assert apply(server, maps) == Outcome(maps=2)
    assert caplog.messages == []


@pytest.fixture
def unaskable(monkeypatch):
    """No map can be asked: each that is asked is a reason. And whether special keys are asked for, each time."""
    asked = []

    def reasons(groups, config_directory, special=True):
        asked.append(special)
        return [f"{name}: no" for group in groups for name in group.tables], []

    monkeypatch.setattr(_ispmail_apply, "unaskable", reasons)
    return asked


@pytest.mark.parametrize("test", [True, False])
def test_a_map_that_cannot_be_asked_does_not_go_live(server, lite, database, unaskable, test):
    """What does not change is not asked: that its database is down is not this change's fault."""
    server.main_cf("relocated_maps = sqlite:DIR/b.cf").table("b", lite_text(database))
    with pytest.raises(Failed, match=r"^Nothing was changed, Postfix answers as before:\n- a: no$"):
        apply(server, {"a": lite("virtual_alias_maps"), "b": lite("relocated_maps")}, test=test)
    assert not os.path.exists(server.path("a")) and unaskable == [True]


WRONG = "lite.test should give 'other', but gives 'lite.test'"


def answers(**expected):
    return [{"map": name, "question": "lite.test", "answer": answer} for name, answer in expected.items()]


@pytest.mark.parametrize("test", [True, False])
def test_a_map_that_gives_another_answer_does_not_go_live(server, lite, test):
    with pytest.raises(Failed, match=f"^Nothing was changed, Postfix answers as before:\n- a: {WRONG}$"):
        apply(server, {"a": lite("virtual_alias_maps")}, answers(a="other"), test=test)
    assert not os.path.exists(server.path("a"))


@pytest.mark.parametrize("test", [True, False])
def test_a_map_that_stays_and_gives_another_answer_ends_a_change_before_it_goes_live(server, lite, test):
    """Else it would be put back, and a dry run would have said yes."""
    apply(server, {"a": lite("virtual_alias_maps")})
    maps = {"a": lite("virtual_alias_maps"), "b": lite("relocated_maps"), "c": lite("transport_maps")}
    with pytest.raises(Failed, match=f"^Nothing was changed, Postfix answers as before:\n- a: {WRONG}$"):
        apply(server, maps, answers(a="other", b="lite.test"), test=test)
    assert os.path.exists(server.path("a")) and not os.path.exists(server.path("b"))


@pytest.fixture
def ask_live(server, lite, database):
    """A function that asks the live maps a and b after a change of some."""
    server.main_cf("").table("a", lite_text(database)).table("b", lite_text(database))
    inventory = _ispmail_inventory.read(str(server.directory))

    def ask(changed, **expected):
        maps = {"a": lite("virtual_alias_maps"), "b": lite("relocated_maps")}
        instance = complete("ispmail", server.pillar(maps, answers=answers(**expected)))
        _ispmail_apply._ask_live(instance, changed, False, inventory)

    return ask


def test_live_maps_that_answer(ask_live):
    ask_live({"a"}, a="lite.test", b=True)


def test_what_is_expected_is_asked_of_all_live_maps(ask_live):
    with pytest.raises(Failed, match=f"^The live maps do not answer as they should:\n- b: {WRONG}$"):
        ask_live({"a"}, a="lite.test", b="other")


def test_a_live_map_that_cannot_be_asked_ends_a_change(ask_live, unaskable):
    with pytest.raises(Failed, match=r"^The live maps do not answer as they should:\n- a: no$"):
        ask_live({"a"}, b="other")
    # For those a live table was asked in memory already.
    assert unaskable == [False]


def test_a_map_that_is_as_it_should_be_is_not_named(server, lite, database, caplog):
    server.main_cf("relocated_maps = sqlite:DIR/b.cf").table("b", lite_text(database))
    found = apply(server, {"a": lite("virtual_alias_maps"), "b": lite("relocated_maps")})
    assert (list(found.changes), found.maps, names(caplog)) == (["a", "main.cf"], 2, ["a"])


def test_a_dry_run_sees_what_cannot_be_written(server, lite, consumers, tmp_path):
    (server.directory / ".a.cf.new").mkdir()
    (tmp_path / ".x.cnf.new").mkdir()
    for maps, path in (({"a": lite("virtual_alias_maps")}, "etc/.a.cf.new"), ({}, ".x.cnf.new")):
        with pytest.raises(Failed, match=rf"these cannot be written:\n- (.|\n)*{path} is a directory"):
            apply(server, maps, consumers=consumers, test=True)


@pytest.mark.parametrize("test", [True, False])
def test_what_a_reload_needs_is_looked_at_where_postfix_runs(server, lite, monkeypatch, test):
    """Of main.cf as it will be."""

    def refuse(expanded):
        raise Failed(f"no {expanded('virtual_alias_maps')}")

    monkeypatch.setattr("_ispmail_postfix.refuse_reload", refuse)
    assert apply(server, {"a": lite("virtual_alias_maps")}, test=True).warnings == (STOPPED,)
    monkeypatch.setattr("_ispmail_postfix.running", lambda _: True)
    with pytest.raises(Failed) as caught:
        apply(server, {"a": lite("virtual_alias_maps")}, test=test)
    assert server.short(str(caught.value)) == "no sqlite:DIR/a.cf"
    assert not os.path.exists(server.path("a"))


@pytest.mark.parametrize(("runs", "proxymap"), [(True, "n"), (False, "y")])
def test_hosts_that_a_chroot_does_not_know(server, monkeypatch, runs, proxymap):
    """Each name is asked for once in a chroot. Where Postfix does not run, its start may bring the files."""
    server.master_cf(f"{SERVICES}proxymap unix - - {proxymap} - - proxymap\n")
    asked = []

    def unknown(names, chroot, user):
        asked.append((list(names), chroot, user))
        return {"db1": "no"}

    maps = {
        "a": {"parameter": "virtual_alias_maps", "hosts": "db1"},
        "b": {"parameter": "relay_domains", "hosts": "db1 db2"},
        "c": {"parameter": "relay_domains", "hosts": "127.0.0.1"},
        "d": {"parameter": "relay_domains", "hosts": "db3", "proxy": True},
    }
    monkeypatch.setattr("_ispmail_sockets.unknown_in_chroot", unknown)
    monkeypatch.setattr("_ispmail_postfix.running", lambda _: runs)
    monkeypatch.setattr("_ispmail_postfix.refuse_reload", lambda _: None)
    monkeypatch.setattr(_ispmail_apply, "unaskable", lambda *_: ([], ["a doubt"]))
    monkeypatch.setattr(_ispmail_apply, "refuse_before_a_reload", lambda *_: [])
    said = [
        f"ispmail:maps:{name}:hosts names db1, which can be resolved on this server, but not inside the chroot "
        f"{server.queue} (no): restart Postfix, by which"
        for name in "ab"
    ]
    if runs:
        with pytest.raises(PillarFault) as caught:
            apply(server, maps, test=True)
        found = str(caught.value).split("\n- ")[1:]
    else:
        *found, doubt, stopped = [each for each in apply(server, maps, test=True).warnings if "TLS" not in each]
        assert (doubt, stopped) == ("a doubt", STOPPED)
    assert [text[: len(start)] for text, start in zip(found, said)] == said and len(found) == 2
    in_chroot = ["db1", "db2", "db3"] if proxymap == "y" else ["db1", "db2"]
    assert asked == [(in_chroot, str(server.queue), "postfix")]


def test_could_not_tell_whether_a_chroot_knows_a_host(server, monkeypatch):
    def cannot(*_):
        raise CannotAsk("no answer")

    monkeypatch.setattr("_ispmail_sockets.unknown_in_chroot", cannot)
    monkeypatch.setattr(_ispmail_apply, "unaskable", lambda *_: ([], []))
    warnings = apply(server, {"a": {"parameter": "virtual_alias_maps", "hosts": "db1"}}, test=True).warnings
    told = f"can be resolved inside the chroot {server.queue} could not be told: no answer"
    assert [each for each in warnings if "chroot" in each] == [f"whether the hosts of the maps {told}"]


def test_whose_a_parameter_is_is_asked_only_where_its_name_does_not_tell(server, lite, monkeypatch):
    """That takes a postconf."""
    asked = []
    monkeypatch.setattr(_ispmail_apply, "own_parameters", lambda names, _: asked.append(list(names)) or set(names))
    apply(server, {"a": lite("virtual_alias_maps"), "own": lite("own_words")}, test=True)
    assert asked == [["own_words"]]


def test_a_dry_run_tells_of_the_reload(server, lite, monkeypatch):
    monkeypatch.setattr("_ispmail_postfix.running", lambda _: True)
    found = apply(server, {"a": lite("virtual_alias_maps")}, test=True)
    assert (found.warnings, found.reloaded) == ((), True)


@pytest.mark.parametrize("has_maps", [True, False])
def test_a_change_that_was_cut_off_is_finished(server, lite, database, caplog, has_maps):
    """All maps are asked again: which of them it had changed is not known."""
    server.main_cf("virtual_alias_maps = sqlite:DIR/a.cf").table("a", lite_text(database))
    cut_off(server)
    found = apply(server, {"a": lite("virtual_alias_maps")} if has_maps else {})
    assert found.changes == {"postfix": _ispmail_plan.finished(reloaded=False)}
    assert names(caplog) == ["a" if has_maps else "nothing but a reload"]


BROKEN = Broken("relocated_maps", "hash:/none", "open /none: no such file", opens=False)
DOWN = Broken("relocated_maps", "tcp:127.0.0.1:1", "connection refused", opens=True)


def test_what_an_admin_should_know(server, lite, monkeypatch):
    """A parameter that may be misspelt, a domain that another class has, a table that cannot be asked anyway."""
    monkeypatch.setattr(_ispmail_apply, "broken_others", lambda *_: [BROKEN])
    server.main_cf("mydestination = x.test, lite.test")
    maps = {"own_maps": lite("own_maps"), "a": lite("virtual_mailbox_domains")}
    found = [warning for warning in apply(server, maps, test=True).warnings if warning != _ispmail_plan.OPEN_DOMAINS]
    unknown, taken, stopped, broken = server.short(found)
    assert unknown == "own_maps is not a parameter that Postfix knows: is it spelt right?"
    assert "lite.test" in taken and "mydestination" in taken and "x.test" not in taken
    assert stopped == STOPPED
    assert broken == str(BROKEN)


# What pillar asks for, and this server does not have.


def faults(server, maps):
    with pytest.raises(PillarFault) as caught:
        apply(server, maps, test=True)
    return {each.key: each.reason for each in caught.value.faults}


def test_a_type_that_is_not_installed(server, lite, database, tmp_path):
    """It is found where a new table cannot be asked, and where a table of it is not asked."""
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "dynamicmaps.cf").write_text("")
    server.main_cf(f"relocated_maps = sqlite:DIR/b.cf\nmeta_directory = {tmp_path}/meta")
    maps = {"a": lite("virtual_alias_maps"), "b": lite("relocated_maps")}
    wanted = dict.fromkeys(["maps:a:type", "maps:b:type"], "cannot be opened by this Postfix")
    assert faults(server, maps) == wanted
    server.table("b", lite_text(database))
    assert faults(server, maps) == wanted
    # Not copied from the server: Debian 14 has it elsewhere.
    (tmp_path / "meta" / "dynamicmaps.cf").write_text("sqlite postfix-sqlite.so dict_sqlite_open\n")
    server.main_cf(f"relocated_maps = mysql:DIR/c.cf\nmeta_directory = {tmp_path}/meta").table("c", TEXT)
    maps = {"a": lite("virtual_alias_maps"), "c": {"parameter": "relocated_maps"}}
    assert faults(server, maps) == {"maps:c:type": "cannot be opened by this Postfix"}
    assert not os.path.exists(server.path("a"))


def test_all_faults_of_this_server_at_once(server, lite, monkeypatch, tmp_path):
    """A type that is not installed, directories that are not there or not root's, parameters without tables."""
    monkeypatch.setattr("_ispmail_postconf.table_types", lambda _: ["mysql"])
    server.main_cf("", release="3.7.1")
    (tmp_path / "anybodys").mkdir()
    (tmp_path / "anybodys").chmod(0o777)
    (tmp_path / "anybodys" / "l.cf").write_text(TEXT)
    os.symlink(tmp_path / "anybodys" / "l.cf", server.path("l"))
    maps = {
        "a": {"parameter": "virtual_alias_maps", "charset": "latin1"},
        "b": lite("relocated_maps"),
        "c": {"parameter": "transport_maps", "file": "none/c.cf"},
        "d": {"parameter": "sender_bcc_maps", "file": str(tmp_path / "anybodys" / "d.cf")},
        "l": {"parameter": "recipient_bcc_maps"},
        "e": {"parameter": "mail_name"},
        "f": {"parameter": "own_words"},
        "h": {"parameter": "canonical_maps", "hosts": "127.0.0.1:3306 127.0.0.1:no-such-service"},
        "i": {"parameter": "sender_canonical_maps", "hosts": "127.0.0.1:smtp"},
        # Nothing in a chroot reads it.
        "j": {"parameter": "virtual_uid_maps", "hosts": "unix:/nowhere/x.sock"},
    }
    found = faults(server, maps)
    unsafe = f"is where others than root may write in {tmp_path}/anybodys"
    assert found == {
        "maps:a:charset": "is read from Postfix 3.9 on, but 3.7.1 is installed and ignores it",
        "maps:b:type": "cannot be opened by this Postfix",
        "maps:c:file": "is in a directory that does not exist",
        "maps:d:file": unsafe,
        "maps:l:file": unsafe,
        "maps:e:parameter": "mail_name does not take lookup tables",
        "maps:h:hosts": "has the name of a service as port, which /etc/services does not have",
    }


def test_a_parameter_that_names_its_map_already_is_not_looked_at(server, lite, database):
    """Whatever it is: Postfix has it so."""
    server.main_cf("mail_name = sqlite:DIR/a.cf").table("a", "dbpath = /x\nquery = SELECT '%s'\n")
    assert list(apply(server, {"a": lite("mail_name")}, test=True).changes) == ["a"]


def test_a_parameter_that_a_command_reads_by_another_one(server, lite):
    server.main_cf("authorized_submit_users = $own")
    reason = (
        "own is read by sendmail(1) and postdrop(1), as the local user who runs it, and a map's table file is for root"
    )
    assert faults(server, {"own": lite("own")}) == {
        "maps:own:parameter": f"{reason} and Postfix alone, for the password in it"
    }
    # Postfix has it so.
    server.main_cf("authorized_submit_users = $own\nown = sqlite:DIR/own.cf")
    assert _ispmail_apply._faults_here(*_of(server, {"own": lite("own")})) == []


def test_a_map_that_no_service_reads_is_a_warning(server, lite):
    server.master_cf("cleanup unix n - y - 0 cleanup\n")
    maps = {"a": lite("relocated_maps", proxy=True), "b": lite("virtual_alias_maps")}
    said = [each for each in apply(server, maps, test=True).warnings if "no service" in each]
    assert len(said) == 1 and said[0].startswith(
        "a: no service of master.cf has a proxymap, so it was asked as user postfix"
    )


@pytest.mark.parametrize(("proxy", "in_chroot"), [(False, "smtpd"), (True, "proxymap")])
def test_what_a_chroot_lacks(server, proxy, in_chroot):
    """Who asks a map connects from inside of it: each thing that is missing is told once."""
    programs = ("smtpd", "cleanup") if in_chroot == "smtpd" else (in_chroot,)
    server.master_cf(
        "".join(
            f"{program} unix n - {'y' if program in programs else 'n'} - - {program}\n"
            for program in ("smtpd", "cleanup", "proxymap")
        )
    )
    for path in ("etc/my.cnf", "run/y.sock"):
        (server.queue / path).parent.mkdir()
        (server.queue / path).touch()
    keys = {"tls_CAfile": "/etc/ssl/ca.pem", "tls_ciphers": "HIGH", "option_file": "/etc/my.cnf", "tls_CApath": ""}
    hosts = "unix:/run/x.sock unix:/run/y.sock 127.0.0.1"
    maps = {
        "a": {"parameter": "virtual_alias_maps", "hosts": hosts, "proxy": proxy, **keys},
        # Its file is opened outside.
        "b": {"parameter": "relocated_maps", "type": "sqlite", "dbpath": "/x.db", "proxy": True},
    }
    inside = f"inside the chroot {server.queue}, and {server.queue}"
    assert faults(server, maps) == {
        "maps:a:tls_CAfile": f"is read {inside}/etc/ssl/ca.pem is not there",
        "maps:a:hosts": f"is a socket, which is looked for {inside}/run/x.sock is not there",
    }


def test_directories_that_proxymap_may_not_enter(server, monkeypatch):
    """That of the file, and that of what it links to; each is looked at once, and only for proxymap."""
    asked, hidden = [], server.directory / "hidden"
    hidden.mkdir()
    (hidden / "b.cf").touch()
    os.symlink(hidden / "b.cf", server.path("b"))

    def permits(user, access, path):
        asked.append((user, access, server.short(path)))
        return path != str(hidden)

    monkeypatch.setattr("_ispmail_files.permits", permits)
    server.main_cf("mail_owner = games\nalias_maps = mysql:DIR/b.cf")
    maps = {
        "a": {"parameter": "virtual_alias_maps", "proxy": True},
        "b": {"parameter": "alias_maps", "proxy": True},
        "c": {"parameter": "relocated_maps", "file": "hidden/c.cf"},
        "d": {"parameter": "virtual_mailbox_maps", "file": "none/d.cf", "proxy": True},
    }
    found = server.short(faults(server, maps))
    closed = "is in DIR/hidden, which user games may not enter, and proxymap opens it as that user"
    assert found == {"maps:b:file": closed, "maps:d:file": "is in a directory that does not exist"}
    assert asked == [("games", "x", "DIR"), ("games", "x", "DIR/hidden")]


@pytest.mark.parametrize(
    ("mode", "proxy", "in_jail", "is_fault"),
    [
        ("wal", False, None, True),
        # A copy in the jail is another database; the very file is there where its directory is mounted.
        ("wal", False, "copy", True),
        ("wal", False, "mounted", False),
        ("wal", True, None, False),
        ("delete", False, None, False),
    ],
)
def test_a_database_whose_log_a_chroot_lacks(server, lite, database, mode, proxy, in_jail, is_fault):
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute(f"PRAGMA journal_mode={mode}")
    inside = server.queue / str(database).lstrip("/")
    inside.parent.mkdir(parents=True)
    if in_jail == "copy":
        shutil.copy(database, inside)
    elif in_jail:
        os.link(database, inside)
    services = "proxymap unix n - n - - proxymap\n"
    server.master_cf(f"{SERVICES}{services}")
    maps = {"a": lite("virtual_alias_maps", proxy=proxy)}
    if is_fault:
        assert faults(server, maps) == {
            "maps:a:dbpath": f"is a database in WAL mode, whose log is looked for inside the chroot {server.queue}, "
            "and is not there"
        }
    else:
        assert _ispmail_apply._faults_here(*_of(server, maps)) == []


def test_a_database_that_is_none_or_is_not_there_has_no_log(server, lite, database):
    maps = {"a": lite("virtual_alias_maps")}
    database.unlink()
    assert _ispmail_apply._faults_here(*_of(server, maps)) == []
    database.write_bytes(b"SQLite format 3")
    assert _ispmail_apply._faults_here(*_of(server, maps)) == []


def _of(server, maps):
    instance = complete("ispmail", server.pillar(maps))
    return instance, _ispmail_plan.compare(instance), _ispmail_inventory.read(str(server.directory))


# Other programs that log in with the account.


@pytest.mark.parametrize("has_postfix", [True, False])
def test_option_files_alone(server, consumers, tmp_path, caplog, monkeypatch, has_postfix):
    """What Postfix has read is as before: it need not be there."""
    monkeypatch.setattr("_ispmail_postfix.installed", lambda: has_postfix)
    monkeypatch.setattr("_ispmail_postfix.master", lambda _: pytest.fail("it is asked whether Postfix runs"))
    for test in (True, False):
        found = apply(server, {}, consumers=consumers, test=test)
        assert (list(found.changes), found.warnings, found.consumers) == (["consumer:x"], ("a host was not asked",), 1)
        assert (tmp_path / "x.cnf").exists() == (not test)
        assert names(caplog) == ([] if test else ["consumer:x"])
    caplog.clear()
    assert apply(server, {}, consumers=consumers) == Outcome(consumers=1)
    assert caplog.messages == []


def test_option_files_and_maps_in_one_change(server, lite, consumers, tmp_path, caplog):
    found = apply(server, {"a": lite("virtual_alias_maps")}, consumers=consumers)
    assert list(found.changes) == ["a", "main.cf", "consumer:x"]
    assert found.warnings == ("a host was not asked", STOPPED)
    assert (tmp_path / "x.cnf").exists() and os.path.exists(server.path("a"))
    assert names(caplog) == ["a, consumer:x"]
    assert apply(server, {"a": lite("virtual_alias_maps")}, consumers=consumers).warnings == ()


def test_without_postfix_maps_can_only_be_rehearsed(server, lite, monkeypatch):
    monkeypatch.setattr("_ispmail_postfix.installed", lambda: False)
    maps = {"a": lite("virtual_alias_maps")}
    with pytest.raises(CannotAsk, match="Postfix is not installed: install the package postfix"):
        apply(server, maps)
    found = apply(server, maps, test=True)
    assert (list(found.changes), found.warnings) == (
        ["a"],
        ("Postfix is not installed: maps can be applied once it is",),
    )
    assert not os.path.exists(server.path("a"))


# A Postfix that runs: what is done with what smtpd and its neighbours say.

OK, NOT, NOBODY = (
    Reply("s:25", 250, "Ok"),
    Reply("s:25", 451, "Temporary lookup failure"),
    Reply(None, None, "no smtpd"),
)


@pytest.fixture
def running(server, monkeypatch):
    """A function that makes a change of a Postfix that runs, with what smtpd and others say."""

    def makes(replies, astray=((), ()), runs=True, runs_after=True, old=()):
        said, ways, live = list(replies), list(astray), []
        monkeypatch.setattr("_ispmail_smtpd.ask", lambda inventory, **_: said.pop(0))
        monkeypatch.setattr("_ispmail_classes.astray", lambda instance, inventory: list(ways.pop(0)))
        monkeypatch.setattr(_ispmail_apply, "_ask_live", lambda *arguments: live.append(arguments))

        def make(change, check, answers):
            assert callable(answers)
            check(runs_after)
            return list(old)

        monkeypatch.setattr(_ispmail_transaction, "make", make)
        instance = server.complete(a={"parameter": "virtual_alias_maps"})
        inventory = _ispmail_inventory.read(str(server.directory))
        change = Change(str(server.directory), server.cache, (), {"virtual_alias_maps": "hash:/x"})
        after = _ispmail_inventory.changed(inventory, change.parameters)
        warnings = _ispmail_apply.make(instance, change, {"a"}, inventory, after, runs)
        ((_, changed, is_running, asked),) = live
        assert (changed, is_running) == ({"a"}, runs_after)
        assert asked is after
        return SimpleNamespace(warnings=warnings, left=(said, ways))

    return makes


def test_mail_goes_as_before(running):
    assert running([OK, OK], old=["smtpd 1 is busy"]) == SimpleNamespace(warnings=["smtpd 1 is busy"], left=([], []))
    assert running([OK, OK]).warnings == []


@pytest.mark.parametrize("replies", [[OK, NOT], [NOBODY, NOT]])
def test_smtpd_that_cannot_ask_any_more_ends_a_change(running, replies):
    with pytest.raises(Failed, match="smtpd on s:25 can no longer ask its maps"):
        running(replies)


def test_smtpd_that_could_not_ask_before_does_not(running):
    (warning,) = running([NOT, NOT]).warnings
    assert warning.startswith("smtpd on s:25 could not ask its maps before this change")


def test_smtpd_that_was_not_asked_is_told(running):
    assert running([NOBODY, NOBODY]).warnings == [
        "smtpd itself was not asked (no smtpd): send a mail to see whether its chroot has all that it needs"
    ]


def test_smtpd_that_was_silent_has_to_answer(running):
    """It was silent after the change too, and that was no more than this warning."""
    silent = Reply("s:25", None, "timed out")
    assert running([silent, OK]).warnings == []
    with pytest.raises(Failed, match="did not answer before this change, and cannot ask its maps now"):
        running([silent, NOT])


def test_mail_that_would_go_astray_ends_a_change(running):
    with pytest.raises(Failed, match=r"Mail would not go the way that pillar expects:\n- b$"):
        running([OK, OK], astray=(["a"], ["a", "b"]))
    assert running([OK, OK], astray=(["a", "b"], ["a"])).warnings == ["a"]
    # What took too long this time says nothing of the change.
    assert running([OK, OK], astray=([], [UNCHECKED])).warnings == [UNCHECKED]


@pytest.mark.parametrize(
    ("runs", "runs_after", "replies", "astray"),
    [(False, False, [], []), (True, False, [OK], [["a"]]), (False, True, [OK], [[]])],
)
def test_a_postfix_that_does_not_run_is_not_asked(running, runs, runs_after, replies, astray):
    """It may be stopped, or started, meanwhile."""
    assert running(replies, astray, runs, runs_after) == SimpleNamespace(warnings=[], left=([], []))


def test_a_postfix_that_was_started_meanwhile_has_to_answer(running):
    with pytest.raises(Failed, match="smtpd on s:25 does not answer, or cannot ask its maps"):
        running([NOT], astray=[], runs=False)


@pytest.mark.parametrize(
    ("broken", "is_running", "reply", "ends"),
    [
        # It cannot be opened: Postfix works until it looks again.
        ([BROKEN], True, OK, True),
        ([DOWN, BROKEN], True, OK, True),
        # It has noticed.
        ([BROKEN], True, NOT, False),
        ([BROKEN], False, None, False),
        # It can be opened, and its server is down: a reload changes nothing.
        ([DOWN], True, None, False),
        ([], True, None, False),
    ],
)
def test_tables_of_others_that_a_reload_would_break(monkeypatch, broken, is_running, reply, ends):
    monkeypatch.setattr("_ispmail_smtpd.ask", lambda _: reply or pytest.fail("smtpd is asked"))
    arguments = broken, None, is_running
    if ends:
        with pytest.raises(Failed) as caught:
            _ispmail_apply.refuse_before_a_reload(*arguments)
        head = "Nothing was changed. Postfix works without these tables until its next reload, which this needs"
        assert str(caught.value) == f"{head}:\n- {BROKEN} (mend it, or take it out)"
    else:
        assert _ispmail_apply.refuse_before_a_reload(*arguments) == list(map(str, broken))
