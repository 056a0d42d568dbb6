"""A change that is cut off, or that the system fails, at each of its system calls; and the cases that were found once.

This runs an evenly spread share of the points; `python -m tests.functional.killed` runs all of them.
"""

import os
import subprocess

import pytest

import _ispmail_command
import _ispmail_inventory
import _ispmail_postfix
import _ispmail_smtpd
from _ispmail_errors import CannotAsk
from lab import wait_until
from lab.smtp import rcpt

from .killed import CONVERGED, FIRST, NONE, SCENARIOS, SECOND, WAYS, run_point, site
from .tracer import traced

# For each scenario; all of them take less than a minute.
POINTS = 5


@pytest.fixture(scope="module")
def found():
    with site() as one:
        yield one


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda each: each.name)
def test_a_share_of_all_points(found, scenario):
    """RCPTs are as before or as after, what it said is true, and the next change converges and leaves nothing."""
    found.restore(scenario.start)
    act = found.run_undone if scenario.undone else found.run
    calls = traced(lambda: act(scenario.act)).calls
    # Until the journal is renamed nothing is changed, and many calls are made for the copy that Postfix reads.
    first = next(number for number, call in enumerate(calls, 1) if call.startswith("rename"))
    assert len(calls) - first > 30
    wrong = []
    for point in range(POINTS):
        way = WAYS[(point + SCENARIOS.index(scenario)) % len(WAYS)]
        number = first + point * (len(calls) - first) // POINTS
        wrong += run_point(found, scenario, way, number) or []
    assert wrong == []


def tables_of_main_cf(found):
    return [value for value in found.postfix.postconf().values() if value.startswith("mysql:")]


def reloads(found):
    return found.postfix.log.count(": reload --")


def test_main_cf_never_names_a_missing_table_in_an_undo(found):
    """Undo of a first set-up took the tables away first: 451 for all after a kill there."""
    found.restore("nothing")
    done = traced(lambda: found.run_undone("apply first"), "kill", r"^unlink .*/mariadb-virtual-mailbox-domains\.cf$")
    assert done.hit and done.returned is None
    assert tables_of_main_cf(found) == [] and found.replies() == NONE
    assert found.run("apply first") == CONVERGED and found.replies() == FIRST


def test_an_interrupted_state_is_not_as_it_was(found):
    """The next apply, which fails, said "as it was" and forgot that work was due."""
    found.restore("cut off")
    done = traced(lambda: found.run_undone("apply first"))
    assert "put back as the change that was cut off before had left it" in done.returned
    assert "Apply again" in done.returned and found.interrupted()
    assert found.run("apply second") == CONVERGED
    assert not found.interrupted() and not found.leftovers() and found.replies() == SECOND


def test_a_removal_that_was_cut_off_is_finished_by_the_next(found):
    """The second and third said that all is well, and Postfix was never reloaded."""
    found.restore("first")
    done = traced(lambda: found.run("remove first"), "cut", r"^unlink .*/mariadb-virtual-alias-maps\.cf$")
    assert done.hit and found.interrupted() and tables_of_main_cf(found) == []
    before = reloads(found)
    assert found.run("remove first") == CONVERGED
    assert reloads(found) == before + 1 and found.replies() == NONE
    assert not found.interrupted() and not found.leftovers()


@pytest.mark.parametrize(("start", "act"), [("first", "remove first"), ("nothing", "apply first")])
@pytest.mark.parametrize("step", [r"^unlink .*/main\.cf\.tmp$", r"^unlink .*/mariadb-virtual-mailbox-domains\.cf$"])
def test_domains_come_last_and_go_first(found, start, act, step):
    """An smtpd without the map of mailboxes accepts each address of a domain that trivial-rewrite still knows."""
    found.restore(start)
    run = found.run_undone if act.startswith("apply") else found.run
    done = traced(lambda: run(act), "cut", step)
    assert done.hit and ("nobody@example.org", 250) not in found.all_replies()
    assert found.run(act) == CONVERGED
    assert found.all_replies() == set((FIRST if act == "apply first" else NONE).items())


def test_a_removal_takes_away_what_an_interrupted_apply_has_left(found):
    """It left a temporary file with the password for good."""
    found.restore("nothing")
    done = traced(lambda: found.run("apply first"), "cut", r"^rename .*/\.mariadb-.*\.new$")
    assert done.hit and [name for name in found.leftovers() if name.endswith(".new")]
    assert found.run("remove first") == CONVERGED
    assert found.leftovers() == [] and found.replies() == NONE


@pytest.mark.parametrize("way", ["EIO", "kill"])
def test_could_not_tell_whether_postfix_runs_is_an_error(found, way):
    """It counted as "does not run": success without a reload, for ever."""
    directory, queue = str(found.postfix.config_directory), str(found.postfix.queue_directory)
    done = traced(lambda: str(_ispmail_inventory.settings(directory)), way, "^execve .*/postconf$", every=True)
    assert done.hit and done.returned.startswith("CannotAsk: postconf")
    pid = found.postfix.queue_directory / "pid" / "master.pid"
    kept = pid.rename(pid.with_name("kept"))
    pid.mkdir()
    try:
        with pytest.raises(CannotAsk, match=r"master\.pid cannot be read: Is a directory"):
            _ispmail_postfix.running(queue)
    finally:
        pid.rmdir()
        kept.rename(pid)


def test_looking_whether_postfix_runs_does_not_disturb_its_start(found):
    """`postfix status` locks master.pid for a moment: a start at that moment failed, as after an upgrade."""
    queue = str(found.postfix.queue_directory)
    assert traced(lambda: str(_ispmail_postfix.running(queue))).calls == []


def test_postfix_that_is_stopped_is_known_to_be(found):
    """The way in which "not running" differs from "could not tell"."""
    queue = str(found.postfix.queue_directory)
    found.restore("first")
    found.postfix.stop()
    try:
        assert _ispmail_postfix.running(queue) is False
        assert found.run("apply second") == CONVERGED
    finally:
        found.postfix.start()
    assert _ispmail_postfix.running(queue) is True
    assert found.replies() == SECOND


def test_an_error_after_the_renames_is_told_as_it_is(found):
    """It was told as "Nothing was changed", while all was new and not reloaded."""
    found.restore("first")
    assert traced(lambda: found.run("apply second"), "EIO", r"^unlink .*/main\.cf\.tmp$").returned == CONVERGED
    assert found.replies() == SECOND and not found.interrupted()
    start = found.restore("first") or found.contents()
    done = traced(lambda: found.run("apply second"), "EIO", rf"^fsync {found.postfix.config_directory}$")
    assert "Input/output error" in done.returned and "Everything was put back as it was" in done.returned
    assert found.contents() == start and found.leftovers() == [] and found.replies() == FIRST


def test_an_error_while_it_is_put_back_is_told_as_it_is(found):
    """The files are back; only that they are on the disk is not known."""
    start = found.restore("first") or found.contents()
    directory = rf"^fsync {found.postfix.config_directory}$"
    done = traced(lambda: found.run_undone("apply second"), "EIO", directory, every=True)
    assert "Everything was put back as it was" in done.returned and "One thing is left to do: " in done.returned
    assert found.contents() == start and found.interrupted() and found.replies() == FIRST
    assert found.run("apply second") == CONVERGED and found.replies() == SECOND and not found.interrupted()


def test_a_disk_that_is_full_from_the_renames_on(found):
    """To put back is a rename, which needs no room: no new file was left aside, and none was half put back."""
    start = found.restore("first") or found.contents()
    done = traced(lambda: found.run_undone("apply second"), "full", r"^rename .*/\.mariadb-.*\.new$")
    assert done.hit and "Everything was put back as it was" in done.returned
    assert found.contents() == start and found.replies() == FIRST
    assert found.run("apply second") == CONVERGED and found.leftovers() == []


@pytest.mark.parametrize("way", ["ENOSPC", "kill"])
@pytest.mark.parametrize("folder", ["postfix_change", "postfix_change/.*[.]history"])
@pytest.mark.parametrize("call", ["^openat .*/{}/[^/]*new$", "^write .*/{}/[^/]*$", "^rename .*/{}/[^/]*new$"])
def test_the_journal_is_never_empty_while_work_is_due(found, way, call, folder):
    """It was truncated and then written: a full disk in between made it forget that a reload is due."""
    start = found.restore("cut off") or found.contents()
    done = traced(lambda: found.run("apply second"), way, call.replace("{}", folder))
    assert done.hit and found.interrupted()
    if way == "ENOSPC":
        assert "Nothing was changed" in done.returned and "No space left" in done.returned
    assert found.contents() == start
    assert found.run("apply second") == CONVERGED and found.replies() == SECOND and not found.interrupted()


@pytest.mark.parametrize("call", [r"^unlink .*etc/mariadb-.*domains\.cf$", r"^unlink .*etc/mariadb-.*boxes\.cf$"])
def test_a_table_file_that_cannot_be_deleted_is_put_back(found, call):
    """main.cf had lost its maps (554 for all), and nothing said so."""
    start = found.restore("first") or found.contents()
    call = call.replace("boxes", "mailbox-maps")
    done = traced(lambda: found.run("remove first"), "EIO", call)
    assert done.hit and "cannot be written: Input/output error" in done.returned
    assert "Everything was put back as it was, and Postfix reloaded" in done.returned
    assert found.contents() == start and found.replies() == FIRST
    assert found.run("remove first") == CONVERGED and found.replies() == NONE


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("^memfd_create", "no memory to ask the new table file of"),
        ("^fchmod /memfd", "no memory to ask the new table file of"),
        ("^execve .*/postmap", "postmap cannot be run: "),
        ("^execve .*/postconf", "postconf cannot be run: "),
        ("^flock /run/ispmail/", "cannot be locked: "),
        ("^mkdir .*/postfix_change/.*work$", "cannot be written: "),
        ("^fsync .*/postfix_change$", "cannot be written: "),
    ],
)
def test_an_error_of_the_system_is_a_sentence(found, call, said):
    """It came as a traceback."""
    start = found.restore("first") or found.contents()
    done = traced(lambda: found.run("apply second"), "EIO", call, every=True)
    assert done.hit and said in done.returned and "Input/output error" in done.returned
    assert found.contents() == start and found.replies() == FIRST


def test_postfix_starts_in_the_middle_and_smtpd_is_silent(found):
    """It was an unforeseen TypeError."""
    start = found.restore("first") or found.contents()

    def act():
        runs, answers = _ispmail_postfix.running, [False]
        _ispmail_postfix.running = lambda queue: answers.pop() if answers else runs(queue)
        _ispmail_smtpd.ask = lambda *_, **__: _ispmail_smtpd.Reply("127.0.0.1:9", None, "timed out")
        return found.run("apply second")

    done = traced(act)
    assert "does not answer, or cannot ask its maps" in done.returned and "TypeError" not in done.returned
    assert "Everything was put back as it was" in done.returned
    assert found.contents() == start and found.replies() == FIRST


@pytest.mark.parametrize(
    ("does", "reason"),
    [
        ("exit 1", "it ended with 1, and wrote why into the mail log"),
        ("exec sleep 30", "no end within 10 s"),
        ("sleep 30", "no end within 10 s"),
    ],
)
def test_a_reload_that_fails_or_hangs_is_told_as_that(found, monkeypatch, does, reason):
    """It was told as "could not be put back", though all files were as before."""
    start = found.restore("first") or found.contents()
    fake = found.temporary / "postfix"
    fake.write_text(f'#!/bin/sh\ncase "$*" in *reload*) {does} ;; esac\nexec /usr/sbin/postfix "$@"\n')
    fake.chmod(0o755)
    run = subprocess.run

    def impatient(command, **options):
        return run(command, **{**options, "timeout": 1 if "reload" in command else options["timeout"]})

    with monkeypatch.context() as patched:
        patched.setenv("PATH", f"{found.temporary}:{os.environ['PATH']}")
        patched.setattr(_ispmail_command.subprocess, "run", impatient)
        said = found.run("apply second")
    assert said.startswith(f"NotPutBack: postfix reload failed: {reason}\nAll files are as before except ")
    assert "mariadb-more.cf, which were not there before" in said and " reload, or apply again" in said
    assert {name: file for name, file in found.contents().items() if name in start} == start
    assert found.interrupted() and found.replies() == FIRST
    assert found.run("apply second") == CONVERGED and found.replies() == SECOND and not found.interrupted()


def test_a_reload_that_reached_nobody_is_repeated(found):
    """`postfix reload` exits with 0 where its own `kill -HUP` failed; then Postfix went on with the old maps."""
    found.restore("nothing")
    wait_until(lambda: rcpt(found.postfix.port, "jack@example.org")[0] == 554, 5)
    done = traced(lambda: found.run("apply first"), "kill", r"^execve .*/sed$", every=True)
    assert done.hit and done.returned == CONVERGED
    assert found.replies() == FIRST
