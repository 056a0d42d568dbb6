"""What the doctor says of Postfix's side: of real files, and of what the library's other files found out."""

import dataclasses
import grp
import os
import re
import shutil
from types import SimpleNamespace

import pytest

import _ispmail_doctor_postfix
from _ispmail_answers import Broken
from _ispmail_config import Instance, Map
from _ispmail_doctor_postfix import only_host_is_asked_again
from _ispmail_errors import CannotAsk, Fault, PillarFault
from _ispmail_lookup import Probed
from _ispmail_smtpd import Reply
from lab import scratch
from lab.postfix import write_cold

from .doctor_values import NOTHING, live_map, target

AS_PILLAR_SAYS = "files and main.cf are as pillar says"


def found(version, type_="mysql", **keys):
    live = live_map(type_=type_, **keys)
    known = NOTHING.settings._replace(values={"mail_version": version})
    inventory = NOTHING._replace(settings=known)
    live = dataclasses.replace(live, postfix=live.postfix._replace(inventory=inventory))
    return [(each.result, each.fix) for each in only_host_is_asked_again(live)]


@pytest.mark.parametrize(
    "version, type_, keys, advised",
    [
        ("3.10.13", "mysql", {"hosts": "127.0.0.1"}, True),
        ("3.10.13", "pgsql", {"hosts": "127.0.0.1"}, True),
        ("3.9.0", "mysql", {"hosts": "a a"}, True),
        ("3.10.13", "mysql", {"hosts": "127.0.0.1", "retry_interval": "60"}, True),
        ("3.10.13", "mysql", {"hosts": "127.0.0.1", "retry_interval": "1"}, False),
    ],
)
def test_a_single_host_with_a_long_pause(version, type_, keys, advised):
    ((result, fix),) = found(version, type_, **keys)
    assert result == ("warning" if advised else "ok")
    # Postfix's default is a minute.
    assert ("does not ask its only host for 60 s: set retry_interval: 1" in fix) is advised


@pytest.mark.parametrize(
    "version, type_, keys",
    [
        # Two hosts; a release that does not know the key; no host at all.
        ("3.10.13", "mysql", {"hosts": "a b"}),
        ("3.7.11", "mysql", {"hosts": "a a"}),
        ("3.10.13", "sqlite", {}),
    ],
)
def test_nothing_to_advise(version, type_, keys):
    assert found(version, type_, **keys) == []


MAIN_CF = """\
compatibility_level = 3.6
virtual_alias_maps = mysql:{0}/alias.cf, proxy:mysql:{0}/gone.cf
virtual_mailbox_domains = proxy:mysql:{0}/domains.cf, mysql:{0}/empty.cf
relay_domains = mysql:{0}/foreign.cf, mysql:in_main_cf
in_main_cf_dbname = x
default_process_limit = {1}
mail_owner = nobody
"""
MASTER_CF = "25 inet n - n - - smtpd\ncleanup unix n - y - 0 cleanup\nproxymap unix - - n - - proxymap\n"
MAPS = (
    Map("aliases", "virtual_alias_maps", "mysql", False, "alias.cf"),
    Map("domains", "virtual_mailbox_domains", "mysql", True, "domains.cf"),
    Map("empty", "virtual_mailbox_domains", "mysql", False, "empty.cf"),
    Map("gone", "virtual_alias_maps", "mysql", True, "gone.cf"),
    # A file that is not there, and that main.cf does not name either: the check of the apply says so.
    Map("unnamed", "virtual_mailbox_maps", "mysql", True, "unnamed.cf"),
    Map("null", "virtual_mailbox_maps", "mysql", True, "alias.cf", wanted=False),
)
CONTENT = "user = {}\npassword = SECRET\nhosts = a b\n"


@pytest.fixture
def folder():
    """A configuration directory that every user may enter, in which two of pillar's five table files are in order."""
    with scratch() as path:
        put(path, "50")
        for name, content in {
            "alias.cf": CONTENT.format("mailserver"),
            "domains.cf": CONTENT.format("mailserver"),
            "empty.cf": "",
            "foreign.cf": CONTENT.format("another"),
        }.items():
            (path / name).write_text(content)
            (path / name).chmod(0o640)
            shutil.chown(path / name, "root", "nogroup")
        yield path


def put(path, limit):
    for name, content in {"main.cf": MAIN_CF.format(path, limit), "master.cf": MASTER_CF}.items():
        write_cold(path / name, content)


@pytest.fixture
def read(folder):
    """A function that reads that Postfix."""

    def read(**values):
        maps = tuple(dataclasses.replace(each, path=str(folder / each.path)) for each in MAPS)
        one = target(**values)._replace(instance=Instance("ispmail", str(folder), maps))
        return _ispmail_doctor_postfix.read_postfix(one)

    return read


@pytest.fixture
def neighbours(monkeypatch):
    """What the other files of the library say of a Postfix: all is well, unless a test changes it."""
    said = SimpleNamespace(
        running=True, groups=[], taken={}, others=[], reply=Reply("127.0.0.1:25", 250, "Ok"), old_processes=[]
    )
    said.deprecated = lambda tables: []
    monkeypatch.setattr("_ispmail_sockets.unknown_in_chroot", lambda names, chroot, user: {})
    monkeypatch.setattr("_ispmail_postconf.deprecated", lambda directory, tables: said.deprecated(tables))
    monkeypatch.setattr("_ispmail_postfix.running", lambda directory: said.running)
    monkeypatch.setattr("_ispmail_postfix.old_processes", lambda files, directory, programs: said.old_processes)
    monkeypatch.setattr("_ispmail_answers.live", lambda maps, inventory, running: said.groups if running else [])
    monkeypatch.setattr("_ispmail_answers.probe", lambda group, directory: group)
    monkeypatch.setattr("_ispmail_answers.broken_others", lambda maps, inventory, running: said.others)
    monkeypatch.setattr(
        "_ispmail_classes.taken_before",
        lambda maps, group, inventory: [each for name in group for each in said.taken[name]],
    )
    monkeypatch.setattr("_ispmail_smtpd.ask", lambda inventory: said.reply)
    return said


WELL = {"aliases": Probed(None, ()), "domains": Probed(None, ())}


@pytest.fixture
def findings(read, neighbours):
    """A function that gives what the doctor says, by its check: where, the result and the fix of each."""
    neighbours.groups = [WELL]
    neighbours.taken = {"aliases": [], "domains": []}

    def findings(**values):
        postfix = read(**values)
        said = {}
        for each in _ispmail_doctor_postfix.check(postfix, _ispmail_doctor_postfix.read_maps(postfix)):
            said.setdefault(each.check, []).append((each.where, each.result, each.fix))
        return said

    return findings


def test_what_is_read_of_a_postfix(read, folder):
    postfix = read(prefix="second: ")
    assert (postfix.process_limit, postfix.mail_owner, postfix.config_directory) == (50, "nobody", str(folder))
    assert (postfix.prefix, postfix.where) == ("second: ", "second: this server")
    aliases, domains = _ispmail_doctor_postfix.read_maps(postfix)
    assert [aliases.name, domains.name] == ["second: aliases", "second: domains"]
    assert aliases.keys == {"user": "mailserver", "password": "SECRET", "hosts": "a b"} and aliases.mode == 0o640
    assert aliases.hosts == ["a", "b"]
    # Through proxymap, which asks from outside of the chroot; cleanup from inside, smtpd does not.
    assert (aliases.chroot, domains.chroot) == ("/var/spool/postfix", None)
    assert "SECRET" not in repr(aliases)


def test_a_process_limit_that_is_no_number_is_postfixs_own(read, folder):
    put(folder, "$none")
    assert read().process_limit == 100


def test_a_postfix_that_is_well(findings, folder):
    for name in ("empty.cf", "gone.cf"):
        (folder / name).unlink(missing_ok=True)
    text = (folder / "main.cf").read_text()
    for name in ("empty", "gone"):
        text = re.sub(rf", (proxy:)?mysql:\S*/{name}\.cf", "", text)
    write_cold(folder / "main.cf", text)
    here, both = [("this server", "ok", "")], [("aliases", "ok", ""), ("domains", "ok", "")]
    assert findings() == {
        "files and main.cf are as pillar says": here,
        "the table files are there": here,
        "the table file is private": both,
        "proxymap can read the table file": both[1:],
        # Only this one is asked from inside a chroot.
        "the chroot knows its hosts": both[:1],
        "a service reads the map": here,
        "Postfix can ask the map": [("aliases, domains", "ok", "")],
        "mail goes the way of its map": here,
        "tables of others can be asked": here,
        "smtpd can ask its maps": here,
        "no process uses older table files": here,
        "a later Postfix will have all that is used here": here,
    }


def test_hosts_that_the_chroot_does_not_know(findings, monkeypatch, folder):
    given = []
    unknown = {"a": "no", "b": "none"}
    monkeypatch.setattr("_ispmail_sockets.unknown_in_chroot", lambda *asked: given.append(asked) or unknown)
    (found,) = findings()["the chroot knows its hosts"]
    assert given == [(["a", "b"], "/var/spool/postfix", "nobody")]
    assert found[:2] == ("aliases", "fault")
    assert found[2].startswith(
        "a (no), b (none) cannot be resolved inside /var/spool/postfix: restart Postfix, by which"
    )

    def cannot(*_):
        raise CannotAsk("no answer")

    monkeypatch.setattr("_ispmail_sockets.unknown_in_chroot", cannot)
    assert findings()["the chroot knows its hosts"] == [("aliases", "warning", "that could not be told: no answer")]
    (folder / "alias.cf").write_text("user = x\nhosts = 127.0.0.1\n")
    assert "the chroot knows its hosts" not in findings()


def test_what_an_apply_would_change(findings):
    def refuse():
        raise PillarFault("ispmail", [Fault("maps:x", "is no mapping")])

    (found,) = findings(prefix="second: ", changes=lambda: {"aliases": {}, "domains": {}})[AS_PILLAR_SAYS]
    assert found == ("second: this server", "warning", "aliases, domains would change: apply ispmail")
    (found,) = findings(changes=refuse)[AS_PILLAR_SAYS]
    assert found[:2] == ("this server", "fault") and "maps:x" in found[2]


def test_table_files_that_are_missing_or_empty(findings, folder):
    """Postfix's programs end where they meet one."""
    (found,) = findings(prefix="second: ")["the table files are there"]
    said = f"main.cf names {folder}/empty.cf, {folder}/gone.cf, missing or empty: apply ispmail"
    assert found == ("second: this server", "fault", said)


@pytest.mark.parametrize("mode", [0o644, 0o641, 0o642])
def test_a_table_file_that_every_user_can_read(findings, folder, mode):
    (folder / "alias.cf").chmod(mode)
    aliases, domains = findings()["the table file is private"]
    said = f"every local user can read the password in it: run chmod 0640 {folder}/alias.cf"
    assert aliases == ("aliases", "fault", said) and domains[1] == "ok"


@pytest.mark.parametrize(
    ("group", "mode", "groups", "result"),
    [
        ("nogroup", 0o640, None, "ok"),
        ("nogroup", 0o600, None, "fault"),
        ("root", 0o640, None, "fault"),
        ("root", 0o644, None, "ok"),
        # The owner of the mail system may be in further groups.
        ("mail", 0o640, ["nogroup", "mail"], "ok"),
    ],
)
def test_whether_proxymap_can_read_a_table_file(findings, folder, monkeypatch, group, mode, groups, result):
    if groups:
        monkeypatch.setattr(os, "getgrouplist", lambda *_: [grp.getgrnam(name).gr_gid for name in groups])
    shutil.chown(folder / "domains.cf", "root", group)
    (folder / "domains.cf").chmod(mode)
    (found,) = findings()["proxymap can read the table file"]
    assert found[:2] == ("domains", result)
    assert found[2].startswith(
        f"proxymap cannot read {folder}/domains.cf: run chgrp nogroup and chmod 0640 on it, "
    ) is (result == "fault")


def test_a_group_as_an_admin_reads_it(monkeypatch):
    assert _ispmail_doctor_postfix._group_of("nobody") == "nogroup"
    monkeypatch.setattr("pwd.getpwnam", lambda _: SimpleNamespace(pw_gid=54321))
    assert _ispmail_doctor_postfix._group_of("nobody") == "54321"


def test_a_login_that_stands_elsewhere_is_not_looked_at(findings, folder):
    (folder / "alias.cf").write_text("option_file = /etc/mysql/x.cnf\nhosts = a b\n")
    (found,) = findings()["the login works"]
    assert found[:2] == ("aliases", "warning") and found[2].startswith("the table file has an option_file, which may")
    for line in ("", "user =\n", "option_file =\n"):
        (folder / "alias.cf").write_text(f"{line}password = SECRET\nhosts = a b\n")
        (found,) = findings()["the login works"]
        assert found[:2] == ("aliases", "warning") and found[2].startswith("the table file has no user, so Postfix's")
        assert "SECRET" not in found[2]


@pytest.mark.parametrize("user", ["", "user = mailserver\n", "user = mailserver\npassword = SECRET\n"])
def test_who_follows_the_advice_has_no_warning_any_more(findings, folder, user):
    """With user, password and an option_file, it was to put user and password into the table: they were there."""
    (folder / "alias.cf").write_text(f"{user}option_file = /etc/mysql/x.cnf\nhosts = a b\n")
    ((_, result, fix),) = findings()["the login works"]
    assert result == "warning" and fix.endswith("and take option_file out")
    assert "write user, password and, for TLS, the keys tls_… into the map" in fix
    (folder / "alias.cf").write_text("user = mailserver\npassword = SECRET\ntls_CAfile = /x\nhosts = a b\n")
    assert "the login works" not in findings()
    # No password at all is one too: Postfix takes none from elsewhere.
    (folder / "alias.cf").write_text("user = mailserver\nhosts = a b\n")
    assert "the login works" not in findings()


def test_no_login_of_postgresql_is_tried_at_all(findings, folder, monkeypatch):
    """So that it names no user, as for its login by the name of the process's, is nothing to tell."""
    monkeypatch.setattr(f"{__name__}.MAPS", tuple(dataclasses.replace(each, type="pgsql") for each in MAPS))
    (folder / "alias.cf").write_text("password = SECRET\nhosts = a b\n")
    assert "the login works" not in findings()


def test_maps_that_fail_in_the_same_way_are_one_finding(findings, neighbours):
    """Each as all its readers ask it."""
    neighbours.groups = [{"aliases": Probed("b", ()), "domains": Probed("a", ())}, {"aliases": Probed("a", ())}]
    assert findings(prefix="second: ")["Postfix can ask the map"] == [
        ("second: aliases", "fault", "a; b"),
        ("second: domains", "fault", "a"),
    ]
    neighbours.groups = [{"aliases": Probed("a", ()), "domains": Probed("a", ())}]
    assert findings()["Postfix can ask the map"] == [("aliases, domains", "fault", "a")]


def test_mail_that_goes_another_way(findings, neighbours):
    neighbours.taken = {"aliases": ["x is taken", "y is taken"], "domains": ["x is taken"]}
    assert findings()["mail goes the way of its map"] == [("this server", "fault", "x is taken; y is taken")]


def test_tables_of_others(findings, neighbours):
    neighbours.others = [
        Broken("virtual_alias_maps", "hash:/a", "no", True),
        Broken("virtual_alias_maps", "b:/b", "not", True),
    ]
    ((_, result, fix),) = findings()["tables of others can be asked"]
    said = "virtual_alias_maps also asks {}, which is not pillar's and cannot be asked: {}"
    assert result == "fault"
    assert fix == f"{said.format('hash:/a', 'no')}; {said.format('b:/b', 'not')}: mend it, or take it out"


@pytest.mark.parametrize(
    ("reply", "running", "result", "fix"),
    [
        (("a:25", 250, "Ok"), True, "ok", ""),
        (("a:25", 451, "4.3.0 lookup failure"), True, "fault", "smtpd says 451 4.3.0 lookup failure: see the mail log"),
        (("a:25", None, "gone"), True, "fault", "smtpd on a:25 does not answer (gone): see the mail log"),
        (
            ("a:25", None, "gone"),
            False,
            "fault",
            "smtpd on a:25 does not answer (gone): Postfix does not run: postfix -c {} start",
        ),
        ((None, None, "no smtpd"), True, "warning", "smtpd was not asked (no smtpd): send a mail to see"),
        (("a:25", 421, "later"), True, "warning", "smtpd was not asked (421 later): send a mail to see"),
    ],
)
def test_what_smtpd_says(read, neighbours, folder, reply, running, result, fix):
    neighbours.reply = Reply(*reply)
    (found,) = _ispmail_doctor_postfix._smtpd_can_ask(read(prefix="second: "), running)
    assert found == ("smtpd can ask its maps", "second: this server", result, fix.format(folder))


def test_processes_that_use_older_table_files(findings, neighbours, folder):
    neighbours.old_processes = ["smtpd 1", "cleanup 2"]
    ((_, result, fix),) = findings()["no process uses older table files"]
    said = "smtpd 1, cleanup 2 started before the table files changed and use the old ones: run postfix -c"
    assert (result, fix) == ("warning", f"{said} {folder} reload")


def test_what_a_later_postfix_will_not_have(findings, neighbours, folder):
    """One table of each type that main.cf names is opened: Postfix tells of it then."""
    text = (
        "alias_maps = hash:/a\ncanonical_maps = unionmap:{hash:/b,btree:/c}\nlast = hash:/d\nrelocated_maps = $last\n"
    )
    write_cold(folder / "main.cf", (folder / "main.cf").read_text() + text)
    neighbours.deprecated = lambda tables: [f"{table} will be removed" for table in sorted(tables)]
    (found,) = findings(prefix="second: ")["a later Postfix will have all that is used here"]
    assert found == ("second: this server", "warning", "btree:/c will be removed; hash:/d will be removed")
