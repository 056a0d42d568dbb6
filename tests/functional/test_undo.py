"""postfix_map.history and rollback on a real Postfix and a real MariaDB: what is kept, and the way back."""

import contextlib
import os
import re
import shutil
import stat
import time
from pathlib import Path
from urllib.parse import quote

import pytest
from salt.exceptions import CommandExecutionError, SaltInvocationError

import _ispmail_apply
import _ispmail_journal
import _ispmail_postfix
from _ispmail_errors import Failed
from _ispmail_maincf import MEANWHILE
from lab.postfix import write_cold
from lab.smtp import Load

from ..conftest import PASSWORD
from .test_apply import ANSWERED, GUIDES, contents, everything, managed, replies

UNKNOWN = dict.fromkeys(ANSWERED, 554)
OTHER = {"virtual_alias_maps": {"query": "SELECT destination FROM virtual_aliases WHERE '%s' = source"}}
MORE = {
    **OTHER,
    "more": {"parameter": "virtual_alias_maps", "query": "SELECT 'x@y.test' FROM virtual_users WHERE email='no%s'"},
}


def history(minion):
    return minion.call("postfix_map.history")


def rollback(minion, *arguments, **options):
    return minion.call("postfix_map.rollback", *arguments, **options)


def folder(minion, postfix):
    return minion.cache / "postfix_change" / (quote(str(postfix.config_directory), safe="") + ".history")


def state(postfix):
    """What Postfix reads: each file as it is, main.cf by its values."""
    files = {path: facts for path, facts in contents(postfix).items() if not path.endswith("/main.cf")}
    return files, postfix.postconf()


def applied(minion, pillar, **sections):
    minion.pillar = pillar(**sections)
    result = managed(minion)
    assert result["result"] is True, result["comment"]
    return result


def test_a_change_is_undone_and_done_again(minion, postfix, pillar):
    """The newest by default; a rollback is a change too, so that it can be undone."""
    assert history(minion) == []
    first = applied(minion, pillar)
    before = state(postfix)
    second = applied(minion, pillar, maps=MORE)
    after = state(postfix)
    newest, oldest = history(minion)
    assert (newest["entry"], oldest["entry"], newest["act"]) == ("2", "1", "apply")
    assert newest["changes"]["main.cf"] == second["changes"]["main.cf"]
    assert newest["changes"]["virtual_alias_maps"] == second["changes"]["virtual_alias_maps"]
    assert oldest["changes"].keys() == first["changes"].keys()
    would = rollback(minion, test=True)
    assert state(postfix) == after and len(history(minion)) == 2
    done = rollback(minion)
    assert done["changes"] == would["changes"] and done["reloaded"] is True
    assert done["changes"]["more"] == {"file": {"old": f"{postfix.config_directory}/mariadb-more.cf", "new": None}}
    assert any("pillar was not changed" in each for each in done["warnings"])
    assert state(postfix) == before and replies(postfix) == ANSWERED
    assert history(minion)[0]["act"] == "rollback to 2"
    rollback(minion)
    assert state(postfix) == after and replies(postfix) == ANSWERED
    assert managed(minion)["changes"] == {}


def test_back_to_an_older_entry(minion, postfix, pillar):
    """All that came after it is undone too: here everything, then all of that again."""
    start = state(postfix)
    applied(minion, pillar)
    applied(minion, pillar, maps=OTHER)
    applied(minion, pillar, maps=MORE)
    after = state(postfix)
    assert rollback(minion, 1)["changes"].keys() == {*GUIDES, "more", "main.cf"}
    assert state(postfix) == start and replies(postfix) == UNKNOWN
    again = rollback(minion, "1")
    assert again["changes"] == {} and "as it was before change 1" in again["warnings"][0]
    rollback(minion)
    assert state(postfix) == after and replies(postfix) == ANSWERED


def test_a_removal_is_undone(minion, postfix, pillar):
    """Deleted table files come back, with the owner and mode that they had."""
    applied(minion, pillar)
    before = state(postfix)
    minion.call("postfix_map.remove")
    assert replies(postfix) == UNKNOWN and history(minion)[0]["act"] == "remove"
    with Load(postfix.port, {"joe@elsewhere.test": 554}, rate=50) as load:
        rollback(minion)
    assert load.stop().failed == 0
    assert state(postfix) == before and replies(postfix) == ANSWERED


def test_a_rollback_under_load_loses_nothing(minion, postfix, pillar):
    applied(minion, pillar)
    applied(minion, pillar, maps=MORE)
    with Load(postfix.port, ANSWERED, rate=100) as load:
        for _ in range(4):
            rollback(minion)
    report = load.stop()
    assert report.failed == 0 and report.count > 100, str(report)


def test_what_is_kept_is_for_root_only_and_the_last_five(minion, postfix, pillar):
    for number in range(7):
        applied(
            minion,
            pillar,
            database={"hosts": pillar()["ispmail"]["database"]["hosts"]},
            maps={"virtual_alias_maps": {"expansion_limit": 100 + number}},
        )
    assert managed(minion)["changes"] == {}
    found = folder(minion, postfix)
    assert sorted(path.name for path in found.iterdir()) == list("34567")
    modes = {path: (stat.S_IMODE(path.stat().st_mode), path.stat().st_uid) for path in [found, *found.iterdir()]}
    assert modes == {path: (0o700 if path == found else 0o600, 0) for path in modes}
    assert [each["entry"] for each in history(minion)] == list("76543")
    with pytest.raises(SaltInvocationError, match=r"has no such entry, .*: it has 7 \(apply, .*\), 6 "):
        rollback(minion, "2")
    applied(minion, pillar, maps=OTHER, history=1)
    assert [path.name for path in found.iterdir()] == ["8"]
    applied(minion, pillar, history=0)
    assert list(found.iterdir()) == [] and history(minion) == []
    with pytest.raises(SaltInvocationError, match="there is nothing to go back to"):
        rollback(minion)


def test_an_old_password_is_refused_before_it_goes_live(minion, postfix, pillar, mariadb, other_account):
    """And no secret is in what is told, or logged."""
    applied(minion, pillar, database=other_account)
    applied(minion, pillar)
    done = rollback(minion)
    assert done["changes"]["virtual_alias_maps"]["password"] == {"old": "***", "new": "***"}
    assert replies(postfix) == ANSWERED
    said = [done, history(minion), rollback(minion)]
    for host in ("127.0.0.1", "localhost"):
        mariadb.sql("ALTER USER other@%s IDENTIFIED BY 'canary-New9'", host)
    before, kept = everything(postfix), history(minion)
    for test in (True, False):
        with Load(postfix.port, ANSWERED, rate=50) as load, pytest.raises(CommandExecutionError) as raised:
            rollback(minion, test=test)
        assert load.stop().failed == 0
        said.append(str(raised.value))
        assert (
            "Nothing was changed, Postfix answers as before" in said[-1]
            and "Access denied for user 'other'" in said[-1]
        )
    assert everything(postfix) == before and history(minion) == kept
    log = minion.log_file.read_text() if minion.log_file.exists() else ""
    assert not [secret for secret in (PASSWORD, "canary-") if secret in str(said) + log]


def test_what_somebody_else_has_changed_since_is_not_overwritten(minion, postfix, pillar):
    applied(minion, pillar)
    applied(minion, pillar, maps=MORE)
    file = postfix.config_directory / "mariadb-virtual-alias-maps.cf"
    kept = file.read_text()
    write_cold(file, kept + "expansion_limit = 7\n", 0o640, "postfix")
    held = postfix.postconf("virtual_alias_maps")["virtual_alias_maps"]
    postfix.command("postconf", "-e", f"virtual_alias_maps={held}, inline:{{{{a@x.test = b@x.test}}}}")
    before = everything(postfix)
    for test in (True, False):
        with pytest.raises(CommandExecutionError, match=r"virtual_alias_maps in .* was changed by somebody else since"):
            rollback(minion, test=test)
    assert everything(postfix) == before
    postfix.command("postconf", "-e", f"virtual_alias_maps={held}")
    before = everything(postfix)
    with pytest.raises(CommandExecutionError, match=f"{file} was changed or deleted by somebody else since"):
        rollback(minion)
    assert everything(postfix) == before
    assert managed(minion)["result"] is True
    rollback(minion, 2)
    assert replies(postfix) == ANSWERED and not (postfix.config_directory / "mariadb-more.cf").exists()


def test_a_table_that_somebody_wrote_by_hand_comes_back_as_it_was(minion, postfix, pillar, mariadb):
    """Also what no pillar has: comments, another layout, keys of an old interface, mode and owner."""
    file = postfix.config_directory / "mariadb-virtual-alias-maps.cf"
    text = (
        f"# by hand\nhosts=127.0.0.1:{mariadb.port}\nuser =mailserver\npassword = {PASSWORD}\ndbname=mailserver\n"
        "table = virtual_aliases\nselect_field = destination\nwhere_field = source\n"
    )
    write_cold(file, text, 0o600)
    postfix.write_main_cf(virtual_alias_maps=f"mysql:{file}")
    before = state(postfix)
    applied(minion, pillar)
    assert file.read_text() != text
    rollback(minion)
    assert state(postfix) == before
    # The copy that the apply had made is its own.
    assert not Path(f"{file}.before-ispmail").exists()


def test_a_table_of_others_that_is_gone_is_not_asked_again(minion, postfix, pillar):
    """What else the parameters name is as important as our own tables: 451 for all."""
    table = postfix.config_directory / "virtual"
    write_cold(table, "a@x.test b@x.test\n")
    postfix.command("postconf", "-e", f"virtual_alias_maps=texthash:{table}")
    applied(minion, pillar)
    minion.call("postfix_map.remove")
    table.rename(f"{table}.away")
    with pytest.raises(CommandExecutionError, match=f"virtual_alias_maps also asks texthash:{table}, which is not"):
        rollback(minion)
    assert replies(postfix) == UNKNOWN
    Path(f"{table}.away").rename(table)
    rollback(minion)
    assert replies(postfix) == ANSWERED
    rollback(minion, 1)
    assert postfix.postconf("virtual_alias_maps")["virtual_alias_maps"] == f"texthash:{table}"


def test_an_apply_that_was_put_back_leaves_no_entry(minion, postfix, pillar):
    applied(minion, pillar)
    minion.pillar = pillar(maps={"virtual_alias_maps": {"query": "SELECT 1 FROM no_such_table WHERE a='%s'"}})
    assert managed(minion)["result"] is False
    assert [each["entry"] for each in history(minion)] == ["1"]
    assert [path.name for path in folder(minion, postfix).iterdir()] == ["1"]
    assert os.listdir(minion.cache / "postfix_change")


def test_no_argument_names_anything_but_an_entry(minion, pillar):
    applied(minion, pillar)
    for entry in ("../1", "/etc/passwd", [1], {"1": 1}, b"1", "", " 1", "01", "x" * 100_000, True, 0, -1, 10**5000):
        with pytest.raises(SaltInvocationError, match=r"has no such entry, nothing was changed: it has 1 \(apply, "):
            rollback(minion, entry)


BROKEN = {
    "a key": {"mapz": {}},
    "maps": {"maps": [1]},
    "a map": {"maps": {"virtual_alias_maps": {"parameter": "no name"}, 5: {}}},
    "consumers": {"consumers": 5},
    "history": {"history": "five"},
    "preset": {"preset": "nonsense"},
    "answers": {"answers": [{"map": "none"}]},
    "sdb": {"database": {"password": "sdb://none/x", "hosts": "sdb://none/y"}},
}


@pytest.mark.parametrize("sections", BROKEN.values(), ids=BROKEN)
def test_pillar_that_is_broken_by_now_is_no_obstacle(minion, postfix, pillar, sections):
    """It may have been broken by whoever tried to mend what is to be undone."""
    applied(minion, pillar)
    before = state(postfix)
    applied(minion, pillar, maps=MORE)
    minion.pillar = pillar(**sections)
    assert len(history(minion)) == 2
    rollback(minion)
    assert state(postfix) == before and replies(postfix) == ANSWERED and len(history(minion)) == 3


def test_a_link_in_place_of_a_table_file_is_somebody_elses(minion, postfix, pillar):
    applied(minion, pillar)
    applied(minion, pillar, maps=OTHER)
    file = postfix.config_directory / "mariadb-virtual-alias-maps.cf"
    elsewhere = file.rename(postfix.config_directory / "elsewhere.cf")
    file.symlink_to(elsewhere)
    before = everything(postfix)
    with pytest.raises(CommandExecutionError, match=f"{file} leads to {elsewhere} since: put a file in place of that"):
        rollback(minion)
    assert everything(postfix) == before


@contextlib.contextmanager
def no_session_is_lost(postfix):
    """Of many short ones, and of some that go on for seven seconds, with a RCPT every half second."""
    with (
        Load(postfix.port, ANSWERED, rate=50) as load,
        Load(postfix.port, ANSWERED, sessions=3, rate=6, per_connection=14) as long,
    ):
        time.sleep(1)
        yield
        time.sleep(1)
    for report in (load.stop(), long.stop()):
        assert report.failed == 0 and report.count > 5, str(report)


PROXIED = {"virtual_alias_maps": {"proxy": True}}


def test_a_table_that_is_asked_through_proxymap_again(minion, postfix, pillar):
    """There and back. Its file has not changed, and the proxymap that runs does not know it any more."""
    applied(minion, pillar)
    direct = state(postfix)
    applied(minion, pillar, maps=PROXIED)
    proxied = state(postfix)
    with no_session_is_lost(postfix):
        applied(minion, pillar)
    assert state(postfix) == direct
    for wanted in (proxied, direct):
        with no_session_is_lost(postfix):
            rollback(minion)
        assert state(postfix) == wanted and replies(postfix) == ANSWERED
    assert managed(minion)["changes"] == {}


def test_a_table_that_is_asked_through_proxymap_is_removed(minion, postfix, pillar):
    """What an admin has written over two lines is as it was."""
    readable = "proxy_read_maps = $virtual_alias_maps,\n    proxy:unix:passwd.byname\n"
    write_cold(postfix.main_cf, f"{postfix.main_cf.read_text()}{readable}")
    applied(minion, pillar, maps={**PROXIED, "more": {**MORE["more"], "proxy": True}})
    with no_session_is_lost(postfix):
        minion.call("postfix_map.remove", ["more"])
    assert readable in postfix.main_cf.read_text()
    assert not (postfix.config_directory / "mariadb-more.cf").exists()


def test_a_table_behind_a_check_is_asked_through_proxymap_no_more(minion, postfix, pillar):
    access = {"parameter": "access_maps", "proxy": True, "query": "SELECT 'DUNNO' WHERE '%s' = 'x'"}
    applied(minion, pillar, maps={"access": access})
    # Where the default of proxy_read_maps has it, nothing else allows it.
    postfix.command("postconf", "-X", "proxy_read_maps")
    postfix.command("postconf", "-e", "smtpd_sender_restrictions=check_sender_access $access_maps")
    postfix.reload()
    with no_session_is_lost(postfix):
        applied(minion, pillar, maps={"access": {**access, "proxy": False}})
    assert replies(postfix) == ANSWERED


def test_a_table_more_that_is_asked_through_proxymap(minion, postfix, pillar):
    """The proxymap that runs did not know it: each new smtpd died, and for a minute no other one was started."""
    services = postfix.master_cf.read_text()
    write_cold(postfix.master_cf, re.sub(r"(?m)^(\S+\s+inet\s.*smtpd)$", r"\1 -o max_use=1", services, count=1))
    postfix.reload()
    applied(minion, pillar, maps=PROXIED)
    with Load(postfix.port, ANSWERED, rate=100, per_connection=2) as load:
        applied(minion, pillar, maps={name: {"proxy": True} for name in GUIDES})
    report = load.stop()
    assert report.failed == 0 and report.count > 50, str(report)


def test_a_change_to_proxymap_that_is_put_back(minion, postfix, pillar, monkeypatch):
    """Sessions that had begun meanwhile ended without an answer."""
    applied(minion, pillar)
    before = state(postfix)
    minion.pillar = pillar(maps=PROXIED)

    def refuse(*_):
        # So that sessions begin.
        time.sleep(2)
        raise Failed("no")

    monkeypatch.setattr(_ispmail_apply, "refuse_if_worse", refuse)
    with no_session_is_lost(postfix):
        result = managed(minion)
    assert result["result"] is False and "no\nEverything was put back as it was" in result["comment"]
    assert state(postfix) == before and replies(postfix) == ANSWERED


def test_what_somebody_adds_to_what_proxymap_allows_meanwhile_stays(minion, postfix, pillar, monkeypatch):
    """They read what is set for that while. Without it proxymap allowed nothing but their table: smtpd died."""
    applied(minion, pillar, maps=PROXIED)
    before = state(postfix)
    default = postfix.command("postconf", "-dh", "proxy_read_maps").strip()
    reload = _ispmail_postfix.reload

    def add(*arguments, **options):
        monkeypatch.setattr(_ispmail_postfix, "reload", reload)
        allowed = postfix.command("postconf", "-h", "proxy_read_maps").strip()
        assert MEANWHILE in allowed
        postfix.command("postconf", "-e", f"proxy_read_maps={allowed}, proxy:unix:passwd.byname")
        return reload(*arguments, **options)

    monkeypatch.setattr(_ispmail_postfix, "reload", add)
    minion.pillar = pillar()
    with no_session_is_lost(postfix):
        result = managed(minion)
    assert result["result"] is False and "was changed by somebody else meanwhile" in result["comment"]
    allowed = postfix.command("postconf", "-h", "proxy_read_maps").strip()
    assert allowed.startswith(default) and allowed.endswith(", proxy:unix:passwd.byname")
    assert MEANWHILE not in postfix.main_cf.read_text()
    postfix.command("postconf", "-X", "proxy_read_maps")
    assert state(postfix) == before and replies(postfix) == ANSWERED


def test_a_list_of_others_that_is_gone_is_not_named_again(minion, postfix, pillar):
    """trivial-rewrite could not open it: 451 for all, until everything is put back."""
    domains = postfix.config_directory / "domains"
    write_cold(domains, "other.test\n")
    postfix.command("postconf", "-e", f"virtual_mailbox_domains={domains}")
    applied(minion, pillar)
    minion.call("postfix_map.remove")
    postfix.command("postconf", "-X", "virtual_mailbox_domains")
    applied(minion, pillar)
    domains.unlink()
    postfix.command("postfix", "reload")
    before = state(postfix)
    with Load(postfix.port, ANSWERED, rate=50) as load:
        for test in (True, False):
            with pytest.raises(CommandExecutionError, match=f"virtual_mailbox_domains also asks {domains}, .* no such"):
                rollback(minion, 2, test=test)
    assert load.stop().failed == 0 and state(postfix) == before


def test_an_apply_beside_a_rollback_never_names_what_that_deletes(minion, postfix, pillar, monkeypatch):
    """Table files that are right already are looked at again once no other change can go on."""
    applied(minion, pillar)
    applied(minion, pillar, maps=MORE)
    more = postfix.config_directory / "mariadb-more.cf"
    kept = more.read_text()
    minion.call("postfix_map.rollback")
    write_cold(more, kept, 0o640, "postfix")
    locked = _ispmail_journal.Journal.locked

    def then_deleted(journal):
        more.unlink(missing_ok=True)
        return locked(journal)

    monkeypatch.setattr(_ispmail_journal.Journal, "locked", then_deleted)
    with Load(postfix.port, ANSWERED, rate=50) as load:
        result = managed(minion)
    assert load.stop().failed == 0
    assert result["result"] is False and f"{more} was deleted by somebody else meanwhile" in result["comment"]


@pytest.mark.parametrize("broken", ["lost", "a fault beside it", "a fault in it"])
def test_where_pillar_does_not_tell_which_postfix_it_is_the_history_does(minion, postfix, pillar, broken):
    """The main instance was taken for the one in /etc/postfix."""
    before = state(postfix)
    applied(minion, pillar)
    text = {
        "lost": "#!json\n{",
        "a fault beside it": '#!json\n{"ispmail": {"maps": 5}}',
        "a fault in it": '#!json\n{"ispmail": {"postfix": {"config_dir": "/etc/postfix"}}}',
    }
    minion.pillar_file.write_text(text[broken])
    assert [each["entry"] for each in history(minion)] == ["1"]
    assert rollback(minion)["changes"].keys() >= {"main.cf"}
    assert state(postfix) == before
    # Another one has been changed by this pillar key too.
    kept = folder(minion, postfix)
    shutil.copytree(kept, kept.with_name(f"{quote('/etc/postfix-out', safe='')}.history"))
    known = f"it knows /etc/postfix-out, {postfix.config_directory}: correct pillar"
    with pytest.raises(SaltInvocationError, match=f"the history does not tell which Postfix it is: {known}"):
        rollback(minion)


def test_what_is_no_file_in_the_history_stops_no_change(minion, postfix, pillar):
    """A directory with the name of an entry, or of what is written before a change; a damaged entry."""
    applied(minion, pillar)
    kept = folder(minion, postfix)
    (kept / "1").write_text('{"made": 1' + "0" * 30 + "}")
    (kept / "2").mkdir()
    (kept / "pending").mkdir()
    applied(minion, pillar, maps=MORE, history=1)
    assert [each["entry"] for each in history(minion)] == ["3"] and not (kept / "1").exists()
    rollback(minion)
    assert replies(postfix) == ANSWERED and (kept / "2").is_dir()
    (kept / "5").write_text('{"made": 1' + "0" * 30 + "}")
    for act in (history, rollback):
        with pytest.raises(CommandExecutionError, match="history/5 is not as this version writes it: move it away"):
            act(minion)
