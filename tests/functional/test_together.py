"""A change while another one, or another program, works on the same Postfix.

This runs a share of the rounds; `python -m tests.functional.together` runs all of them.
"""

import contextlib
import os
import signal
import subprocess
import threading
import urllib.parse
from pathlib import Path

import pytest

import _ispmail_command
import _ispmail_files
import _ispmail_locks
import _ispmail_postconf
import _ispmail_postfix
import _ispmail_transaction
from _ispmail_errors import CannotAsk, Failed
from _ispmail_journal import Journal
from lab.smtp import rcpt

from .killed import CONVERGED, FIRST, NONE, SECOND
from .together import SCENARIOS, Result, run_round, sites

# Those that take a few seconds, one round each.
SHARE = (
    "apply second and apply second, 2 minions",
    "apply second and dpkg-reconfigure, begun in its middle",
)


@pytest.fixture(scope="module")
def found():
    with sites() as one:
        yield one


@pytest.mark.parametrize("name", SHARE)
def test_a_share_of_all_rounds(found, name):
    """No update is lost, RCPTs are answered as before or as after, and who cannot go on says why."""
    result = Result()
    (scenario,) = [each for each in SCENARIOS if each.name == name]
    run_round(found, scenario, result, delay=0.3)
    assert result.violations == [] and result.rounds == 1 and result.answered > 10


@contextlib.contextmanager
def again_and_again(path):
    """Another program that changes a file again and again."""
    stop = threading.Event()

    def touch():
        while not stop.wait(0.1):
            os.utime(path)

    os.utime(path)
    thread = threading.Thread(target=touch)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        subprocess.run(["touch", "-d", "1 minute ago", path], check=True)


def test_a_main_cf_that_is_changed_again_and_again_is_told(found, monkeypatch):
    """It was "postconf failed: no end within 10 s": Postfix's programs wait until main.cf is two seconds old."""
    found.restore("first")
    run, main_cf = subprocess.run, str(found.postfix.main_cf)
    with monkeypatch.context() as patched, again_and_again(main_cf):
        patched.setattr(subprocess, "run", lambda command, **options: run(command, **{**options, "timeout": 2}))
        for act in ("apply second", "remove first"):
            said = found.run(act)
            assert said.startswith(
                f"CannotAsk: postconf failed: {main_cf} is changed again and again by another program"
            )
            assert "stop that program" in said and "ausearch" in said
    assert found.run("apply second") == CONVERGED


def test_a_table_file_that_is_changed_again_and_again_is_told(found):
    found.restore("first")
    table = found.postfix.config_directory / "mariadb-virtual-alias-maps.cf"
    arguments = ["-c", str(found.postfix.config_directory), "-q", "a@b.test", f"mysql:{table}"]
    with again_and_again(table):
        assert f"{table} is changed again and again" in _ispmail_command.run("postmap", arguments, 1).stderr
    done = _ispmail_command.run("postmap", arguments, 0.001)
    assert done.returncode is None and done.stderr == "no end within 0 s"


def test_another_minions_change_is_waited_for(found, monkeypatch, tmp_path):
    """Two minions have their own cache directories: what they wrote aside had the same names, and got mixed up."""
    found.restore("first")
    directory = str(found.postfix.config_directory)
    other = Journal(directory, str(tmp_path))
    with other.locked():
        monkeypatch.setattr(_ispmail_locks, "_CHANGE_SECONDS", 0.3)
        start = found.contents()
        said = found.run("apply second")
        assert "another apply has been at work for 0.3 s, nothing was changed" in said and "fuser -v" in said
        assert found.contents() == start
        with pytest.raises(Failed, match="another apply has been at work"):
            _ispmail_postconf.change({"biff": "yes"}, directory, test=False)
        # A dry run changes nothing, and need not wait.
        assert _ispmail_postconf.change({"biff": "yes"}, directory, test=True)
    assert found.run("apply second") == CONVERGED


def test_no_user_of_the_server_can_stop_changes(found, monkeypatch, tmp_path):
    """Anybody can lock what he can open: the configuration directory, main.cf, a directory of Postfix."""
    found.restore("first")
    monkeypatch.setattr(_ispmail_locks, "_CHANGE_SECONDS", 0.3)
    directory = found.postfix.config_directory
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    others = []
    with Journal(str(directory), str(tmp_path)).locked():
        lock = next(Path("/run/ispmail").glob(f"*{urllib.parse.quote(str(directory), safe='')}"))
        done = subprocess.run([*nobody, "flock", "-n", str(lock), "true"], check=False, capture_output=True, text=True)
        assert done.returncode and "Permission denied" in done.stderr, done
    try:
        for path in (directory, directory / "main.cf", directory / "master.cf", "/run/ispmail", "/run"):
            command = [*nobody, "flock", "-x", str(path), "sh", "-c", "echo locked; exec sleep 60"]
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
            others.append(subprocess.Popen(command, start_new_session=True, **pipes))
        said = [each.stdout.readline() for each in others]
        assert said == ["locked\n"] * 3 + ["", "locked\n"]
        assert found.run("apply second") == CONVERGED
    finally:
        for each in others:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(each.pid, signal.SIGKILL)
            each.communicate()


def at_reload(found, monkeypatch, act, number=1):
    """Have the next change call `act` just before its reload of that number; main.cf is not new then."""
    reload, calls = _ispmail_postfix.reload, []

    def acting(*arguments, **options):
        calls.append(True)
        if len(calls) == number:
            act()
            os.utime(found.postfix.main_cf, (1, 1))
        return reload(*arguments, **options)

    monkeypatch.setattr(_ispmail_postfix, "reload", acting)
    return calls


def test_an_older_main_cf_that_is_renamed_over_ours_is_seen(found, monkeypatch):
    """As sed -i does in the postinst of Debian's package: a removal then deleted the files that main.cf named again."""
    found.restore("first")
    older, start = found.postfix.main_cf.read_text(), found.contents()

    def act():
        aside = found.postfix.main_cf.with_name("aside")
        aside.write_text(f"{older}zz_theirs = 1\n")
        aside.rename(found.postfix.main_cf)

    with monkeypatch.context() as patched:
        at_reload(found, patched, act, number=2)
        said = found.run("remove first")
    assert "another program has rewritten" in said and "without postconf's lock" in said, said
    assert "Everything was put back" in said
    assert "zz_theirs = 1" in found.postfix.main_cf.read_text() and found.replies() == FIRST
    assert set(found.contents()) == set(start)
    assert found.run("remove first") == CONVERGED and found.replies() == NONE
    assert "zz_theirs = 1" in found.postfix.main_cf.read_text()


def test_the_admins_own_value_is_not_put_back(found, monkeypatch):
    """What another program sets after ours stays: only what is still ours gets its old value."""
    found.restore("first")
    theirs = "inline:{{a@b.test=c@d.test}}"

    def act():
        found.postfix.command("postconf", "-e", f"virtual_alias_maps={theirs}", "zz_theirs=1")

    with monkeypatch.context() as patched:
        at_reload(found, patched, act)
        said = found.run("apply second")
    assert "with other values of virtual_alias_maps" in said, said
    assert found.postfix.postconf("virtual_alias_maps") == {"virtual_alias_maps": theirs}
    assert "zz_theirs = 1" in found.postfix.main_cf.read_text()
    assert not (found.postfix.config_directory / "mariadb-more.cf").exists()


def test_new_files_that_another_program_uses_are_not_deleted(found, monkeypatch):
    """Main.cf would name a table that is not there: 451 for all."""
    found.restore("first")
    table = f"mysql:{found.postfix.config_directory}/mariadb-more.cf"

    def act():
        found.postfix.command("postconf", "-e", f"virtual_alias_maps={table}")

    with monkeypatch.context() as patched:
        at_reload(found, patched, act)
        said = found.run("apply second")
    users = f"virtual_alias_maps ({table})"
    assert said.startswith("NotPutBack") and f"has had the table files asked by {users}" in said, said
    assert (found.postfix.config_directory / "mariadb-more.cf").exists() and found.interrupted()
    assert found.run("apply second") == CONVERGED and not found.interrupted()


def test_postfix_that_is_started_between_two_steps_is_reloaded(found, monkeypatch):
    """It had read the first of two steps, and nobody told it of the second."""
    found.restore("nothing")
    found.postfix.stop()
    go_on = _ispmail_files.Exchange.go_on

    def start_first(exchange, step):
        found.postfix.start()
        assert rcpt(found.postfix.port, "jack@example.org")[0] == 554
        go_on(exchange, step)

    with monkeypatch.context() as patched:
        patched.setattr(_ispmail_files.Exchange, "go_on", start_first)
        assert found.run("apply first") == CONVERGED
    assert found.replies() == FIRST


def test_postfix_that_is_restarted_in_the_middle_is_told(found, monkeypatch):
    """It was "postfix reload failed: 1", or smtpd that "can no longer ask its maps"."""
    found.restore("first")

    def act():
        found.postfix.restart()
        raise CannotAsk("postfix reload failed")

    with monkeypatch.context() as patched:
        at_reload(found, patched, act)
        said = found.run("apply second")
    assert "Postfix was stopped or restarted by another program meanwhile, such as an upgrade of its package" in said
    assert "Everything was put back as it was" in said and found.replies() == FIRST
    assert found.run("apply second") == CONVERGED and found.replies() == SECOND


def test_an_in_place_writer_is_waited_for(tmp_path, monkeypatch):
    path = tmp_path / "main.cf"
    path.write_text("half")
    waits = []
    monkeypatch.setattr(
        _ispmail_transaction.time, "sleep", lambda seconds: (waits.append(seconds), os.utime(path, (1, 1)))
    )
    assert _ispmail_transaction._gets_cold(str(path))
    assert _ispmail_transaction._gets_cold(str(path))
    assert len(waits) == 1
