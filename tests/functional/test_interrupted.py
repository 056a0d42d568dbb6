"""An apply that is cut off, at the worst moments: killed, terminated, out of disk, or beside somebody else."""

import contextlib
import os
import re
import subprocess
import threading

import pytest

from lab import scratch
from lab.minion import Minion
from lab.postfix import write_cold
from lab.smtp import Load

from ..conftest import pillar_for
from .test_apply import ANSWERED, contents, everything, managed, replies

# Runs in the apply's own process: acts at one event of it, see sys.addaudithook.
AT_EVENT = """
import os, signal, subprocess, sys
done = []

def hook(event, arguments):
    if done or not ({condition}):
        return
    done.append(True)
    {act}

sys.addaudithook(hook)
"""
MOMENTS = {
    "a file is ready aside": "event == 'os.rename' and str(arguments[1]).endswith('alias-maps.cf')",
    "the files are live, main.cf not": "event == 'os.rename' and str(arguments[1]).endswith('main.cf')",
    "all is live, Postfix not reloaded": "event == 'subprocess.Popen' and 'reload' in arguments[1]",
}
OTHER = {"virtual_alias_maps": {"query": "SELECT destination FROM virtual_aliases WHERE '%s' = source"}, "more": {}}
OTHER["more"] = {"parameter": "virtual_alias_maps", "query": "SELECT 'x@y.test' FROM virtual_users WHERE email='no%s'"}


def reloads(postfix):
    return postfix.log.count(": reload --")


def apply_with(minion, condition, act):
    """Apply in a process of its own that does `act` at that moment."""
    return command_with(minion, condition, act, "state.apply", "ispmail.maps")


def command_with(minion, condition, act, *arguments):
    """The same of another function."""
    with scratch() as site:
        (site / "sitecustomize.py").write_text(AT_EVENT.format(condition=condition, act=act))
        environment = {**os.environ, "PYTHONPATH": str(site)}
        return minion.command(*arguments, env=environment)


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("number", ["SIGKILL", "SIGTERM"])
def test_the_next_apply_finishes_or_it_was_undone(minion, postfix, pillar, moment, number):
    """Nothing may differ on disk, while Postfix runs on the old tables; and no password may be left aside."""
    managed(minion)
    minion.command("saltutil.sync_all")
    minion.pillar = pillar(maps=OTHER)
    with Load(postfix.port, ANSWERED, rate=50) as load:
        apply_with(minion, MOMENTS[moment], f"os.kill(os.getpid(), signal.{number})")
        before = reloads(postfix)
        result = managed(minion)
        after = reloads(postfix)
    report = load.stop()
    assert result["result"] is True and result["changes"], result
    assert after == before + 1
    assert report.failed == 0, str(report)
    assert replies(postfix) == ANSWERED
    assert managed(minion)["changes"] == {}
    assert not [path for path in postfix.config_directory.iterdir() if path.name.endswith(".new")]


@pytest.mark.parametrize("finish", ["apply", "remove"])
def test_a_cleared_cache_does_not_hide_a_change_that_was_cut_off(minion, postfix, pillar, finish):
    """saltutil.clear_cache takes the journal: all was said to be well, Postfix ran on the old tables."""
    managed(minion)
    minion.command("saltutil.sync_all")
    minion.pillar = pillar(maps=OTHER)
    apply_with(minion, MOMENTS["all is live, Postfix not reloaded"], "os.kill(os.getpid(), signal.SIGKILL)")
    assert any(name.endswith(".old") for name in os.listdir(postfix.config_directory))
    assert minion.call("saltutil.clear_cache")
    before = reloads(postfix)
    interrupted = {"old": "a change was interrupted", "new": "reloaded"}
    assert minion.call("postfix_map.compare")["changes"]["postfix"] == interrupted
    if finish == "apply":
        assert managed(minion)["changes"] == {"postfix": interrupted}
        assert replies(postfix) == ANSWERED and managed(minion)["changes"] == {}
    else:
        assert minion.call("postfix_map.remove", ["more"])["changes"]["postfix"] == interrupted
    assert reloads(postfix) == before + 1
    assert not [name for name in os.listdir(postfix.config_directory) if name.endswith((".old", ".new"))]


def test_an_edit_of_the_same_parameter_meanwhile_is_not_lost(minion, postfix, pillar):
    """An admin writes into main.cf while the new tables are being asked."""
    managed(minion)
    minion.command("saltutil.sync_all")
    minion.pillar = pillar(maps=OTHER)
    edit = ["postconf", "-c", str(postfix.config_directory), "-e", "virtual_alias_maps=inline:{{a@b.test=c@d.test}}"]
    done = apply_with(minion, "event == 'subprocess.Popen' and 'postmap' in arguments[1]", f"subprocess.run({edit!r})")
    assert "virtual_alias_maps in " in done.stdout and "was changed by somebody else meanwhile" in done.stdout
    assert postfix.postconf("virtual_alias_maps") == {"virtual_alias_maps": "inline:{{a@b.test=c@d.test}}"}
    assert managed(minion)["result"] is True
    assert postfix.postconf("virtual_alias_maps")["virtual_alias_maps"].startswith(
        "inline:{{a@b.test=c@d.test}}, mysql:"
    )


def test_two_applies_at_once_both_succeed(minion, postfix):
    results = []
    threads = [
        threading.Thread(
            target=lambda: results.append(minion.command("state.apply", "ispmail.maps", "concurrent=True"))
        )
        for _ in range(2)
    ]
    minion.command("saltutil.sync_all")
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ["Failed:    0" in done.stdout for done in results] == [True, True], [done.stdout for done in results]
    assert replies(postfix) == ANSWERED


@pytest.fixture
def full_disk(postfix):
    """The configuration directory on a file system that has no room left."""
    kept = {path.name: path.read_bytes() for path in postfix.config_directory.iterdir()}
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k,mode=755", "tmpfs", str(postfix.config_directory)]
    subprocess.run(mount, check=True)
    try:
        for name, data in kept.items():
            (postfix.config_directory / name).write_bytes(data)
            os.utime(postfix.config_directory / name, (1, 1))
        with open(postfix.config_directory / "ballast", "wb", buffering=0) as ballast, contextlib.suppress(OSError):
            while True:
                ballast.write(b"x" * 1024)
        yield
    finally:
        subprocess.run(["umount", "-l", str(postfix.config_directory)], check=True)


@pytest.mark.parametrize("test", [True, False], ids=["dry run", "real"])
def test_a_full_disk_changes_nothing(minion, postfix, full_disk, test):
    before = contents(postfix)
    result = managed(minion, test=test)
    assert result["result"] is False
    assert f"{postfix.config_directory} is on a full file system" in result["comment"]
    assert "Nothing was changed" in result["comment"]
    assert contents(postfix) == before


def test_many_silent_hosts_are_told_of_in_time(postfix, pillar, silent_port, mariadb):
    """Each host for itself would take 36 s."""
    hosts = [f"127.0.0.{number}:{silent_port}" for number in range(1, 13)]
    with scratch() as directory:
        minion = Minion(directory, pillar_for(postfix, mariadb, database={"hosts": hosts}))
        before = everything(postfix)
        result = managed(minion)
    assert result["result"] is False
    assert result["duration"] < 30_000
    assert everything(postfix) == before


def test_a_table_file_that_is_asked_elsewhere_is_not_removed(minion, postfix):
    """It would be a 451 for every RCPT."""
    managed(minion)
    table = f"mysql:{postfix.config_directory}/mariadb-virtual-alias-maps.cf"
    postfix.command("postconf", "-e", f"smtpd_recipient_restrictions=check_recipient_access {table}")
    before = contents(postfix)
    result = minion.apply("ispmail.clean")["postfix_map.absent"]
    assert result["result"] is False
    assert f"the table files are asked by smtpd_recipient_restrictions ({table}) too" in result["comment"]
    assert contents(postfix) == before


MEANWHILE = {
    "before it locks main.cf": "event == 'os.mkdir' and str(arguments[0]).endswith('.work')",
    "during its reload": "event == 'subprocess.Popen' and 'reload' in arguments[1]",
}


@pytest.mark.parametrize("moment", MEANWHILE)
@pytest.mark.parametrize("change", ["removal", "rollback"])
def test_a_table_file_that_is_asked_elsewhere_meanwhile_is_not_removed(minion, postfix, moment, change):
    """Somebody sets another parameter to our table, and reloads Postfix: 451 for every RCPT, and success was said."""
    managed(minion)
    minion.command("saltutil.sync_all")
    directory = str(postfix.config_directory)
    table = f"mysql:{directory}/mariadb-virtual-alias-maps.cf"
    edit = ["postconf", "-c", directory, "-e", f"recipient_canonical_maps={table}"]
    act = f"subprocess.run({edit!r}); subprocess.run(['postfix', '-c', {directory!r}, 'reload'], stderr=-3)"
    arguments = {"removal": ["postfix_map.remove", "[virtual_alias_maps]"], "rollback": ["postfix_map.rollback"]}
    with Load(postfix.port, ANSWERED, rate=50) as load:
        done = command_with(minion, MEANWHILE[moment], act, *arguments[change])
    report = load.stop()
    assert done.returncode and f"asked by recipient_canonical_maps ({table}) meanwhile" in done.stdout + done.stderr
    assert "Everything was put back as it was, and Postfix reloaded" in done.stdout + done.stderr
    assert replies(postfix) == ANSWERED
    assert not {record.code for record in report.records} & {451}
    assert managed(minion)["changes"] == {}


def test_a_file_that_somebody_else_replaces_during_the_reload_is_not_deleted(minion, postfix, pillar):
    """Neither by a removal, nor where an apply is put back: it may be the only copy."""
    managed(minion)
    minion.command("saltutil.sync_all")
    theirs = "# what somebody else has written meanwhile\n"
    file, new = (postfix.config_directory / f"mariadb-{name}.cf" for name in ("virtual-alias-maps", "more"))
    text = file.read_text()

    def replace(path, written):
        return f"open({str(path)!r} + '.x', 'w').write({written!r}); os.rename({str(path)!r} + '.x', {str(path)!r})"

    moment = MEANWHILE["during its reload"]
    done = command_with(minion, moment, replace(file, theirs + text), "postfix_map.remove", "[virtual_alias_maps]")
    said = done.stdout + done.stderr
    assert done.returncode and f"{file} was changed by somebody else meanwhile: try again" in said
    assert "Everything was put back as it was, and Postfix reloaded" in said
    assert file.read_text() == theirs + text and replies(postfix) == ANSWERED
    # A proxymap in a chroot cannot open it: seen only once it is live.
    services = postfix.master_cf.read_text()
    write_cold(postfix.master_cf, re.sub(r"(?m)^(proxymap\s+unix\s+\S+\s+\S+\s+)n", r"\1y", services))
    minion.pillar = pillar(maps={"more": {**OTHER["more"], "proxy": True}})
    said = apply_with(minion, moment, replace(new, theirs)).stdout
    assert "The live maps do not answer as they should" in said
    assert f"put back as it was except {new}, which somebody else has written meanwhile, and Postfix reloaded" in said
    assert new.read_text() == theirs and replies(postfix) == ANSWERED
    assert str(new) not in postfix.main_cf.read_text()


def test_domains_alone_are_warned_of(minion, pillar):
    """Without mailboxes every address of the domains is accepted."""
    minion.pillar = pillar(maps={"virtual_mailbox_maps": None})
    assert "without virtual_mailbox_maps every address of the domains is accepted" in managed(minion)["comment"]
