"""Whether Postfix runs, and how it is reloaded: by processes that have the names of Postfix's."""

import contextlib
import locale
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

import _ispmail_postfix
from _ispmail_errors import CannotAsk, Failed
from _ispmail_programs import ASKERS
from lab import wait_until

READERS = ("smtpd", "cleanup", "smtp", "proxymap")
# Like master(8) it starts others. At SIGHUP the first of them ends, as one that is idle does; the others are busy.
MASTER = """
import signal, subprocess, sys

children = [subprocess.Popen([program, "60"], stdin=subprocess.DEVNULL) for program in sys.argv[2:]]


def reload(number, frame):
    with open(sys.argv[1], "a") as stream:
        stream.write("SIGHUP\\n")
    children[0].kill()
    children[0].wait()


signal.signal(signal.SIGHUP, reload)
with open("/proc/self/comm", "w") as stream:
    stream.write("master")
print(*(child.pid for child in children), flush=True)
sys.stdin.read()
for child in children:
    child.kill()
    child.wait()
"""


class Instance:
    """A folder with a queue, and perhaps a master that runs there."""

    def __init__(self, folder):
        self._folder = folder
        self.directory = str(folder / "etc")
        self.queue = str(folder / "spool")
        self.pid_file = folder / "spool" / "pid" / "master.pid"
        self.pid_file.parent.mkdir(parents=True)

    @contextlib.contextmanager
    def running(self, *names):
        """Run a master with a child of each name; yields their ids, its own first."""
        for name in names:
            (self._folder / name).unlink(missing_ok=True)
            (self._folder / name).symlink_to(shutil.which("sleep"))
        command = [sys.executable, "-S", "-c", MASTER, self._folder / "hups", *(self._folder / name for name in names)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as master:
            children = [int(pid) for pid in master.stdout.readline().split()]
            # As master(8) writes it.
            self.pid_file.write_text(f"{master.pid:>10}\n")
            started = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + _ispmail_postfix._started(master.pid)
            os.utime(self.pid_file, (started, started))
            yield [master.pid, *children]

    @property
    def hups(self):
        """How often its master was told to reload."""
        with contextlib.suppress(FileNotFoundError):
            return len((self._folder / "hups").read_text().splitlines())
        return 0

    def command(self, script, monkeypatch):
        """Have `postfix` do no more than this; returns the file into which it writes its arguments."""
        folder = self._folder / "sbin"
        folder.mkdir()
        (folder / "postfix").write_text(f'#!/bin/sh\necho "$@" >>"$0.calls"\n{script}\n')
        (folder / "postfix").chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        return folder / "postfix.calls"


@contextlib.contextmanager
def process(*command, **options):
    """A process that is killed at the end."""
    with subprocess.Popen(command, **options) as child:
        try:
            yield child
        finally:
            child.kill()


@pytest.fixture
def instance(tmp_path):
    return Instance(tmp_path)


@pytest.mark.parametrize("there", [True, False])
def test_postfix_is_installed_wherever_it_is_in_the_path(monkeypatch, tmp_path, there):
    which = shutil.which
    # As on a server without one in the system's own folders.
    monkeypatch.setattr(
        _ispmail_postfix.shutil, "which", lambda name, path: which(name, path=path.removesuffix(":/usr/sbin:/sbin"))
    )
    monkeypatch.setenv("PATH", str(tmp_path))
    if there:
        (tmp_path / "postfix").symlink_to("/bin/true")
    assert _ispmail_postfix.installed() is there


def test_where_there_is_no_instance(tmp_path, monkeypatch):
    """Postfix does not start there, and postmulti refuses it. What is there, and cannot be read, is another thing."""
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "main.cf").write_text("")
    monkeypatch.setattr(_ispmail_postfix, "installed", lambda: True)
    found = {name: _ispmail_postfix.is_there(str(tmp_path / name)) for name in ("none", "file", ".", "loop", "one")}
    assert found == {"none": False, "file": False, ".": False, "loop": True, "one": True}
    monkeypatch.setattr(_ispmail_postfix, "installed", lambda: False)
    assert _ispmail_postfix.is_there(str(tmp_path / "one")) is False, "Debian leaves main.cf until Postfix is purged"


def test_a_path_without_sbin_does_not_hide_it(monkeypatch):
    """A plain user's has none."""
    monkeypatch.setenv("PATH", "/nonexistent")
    assert _ispmail_postfix.installed() is (shutil.which("postfix", path="/usr/sbin:/sbin") is not None)


def test_it_runs_while_there_is_its_master(instance):
    assert _ispmail_postfix.running(instance.queue) is False
    with instance.running() as (master,):
        assert _ispmail_postfix.running(instance.queue) is True
        assert _ispmail_postfix.master(instance.queue) == master
    assert _ispmail_postfix.running(instance.queue) is False
    assert _ispmail_postfix.master(instance.queue) is None


@pytest.mark.parametrize("content", ["", "\n", "x"])
def test_while_postfix_writes_its_pid_anew_it_does_not_run_yet(instance, content):
    instance.pid_file.write_text(content)
    assert _ispmail_postfix.running(instance.queue) is False


def test_another_process_may_have_got_the_pid_of_a_master_that_was_killed(instance):
    instance.pid_file.write_text(str(os.getpid()))
    assert _ispmail_postfix.running(instance.queue) is False


def test_a_master_that_nobody_has_waited_for_does_not_run(instance):
    """In a container without an init it stays as a zombie."""
    with instance.running() as (master,):
        os.kill(master, 9)
        assert wait_until(lambda: _ispmail_postfix._process(master)[1][0] == "Z", 5)
        assert _ispmail_postfix.running(instance.queue) is False


def test_a_master_that_ends_while_it_is_looked_at(instance, monkeypatch):
    """The file in /proc can be opened then, and not be read."""
    real = open

    def opened(path, *args, **options):
        stream = real(path, *args, **options)
        if path == f"/proc/{ended.pid}/stat":
            ended.kill()
            ended.wait()
        return stream

    with process("sleep", "60") as ended:
        instance.pid_file.write_text(str(ended.pid))
        monkeypatch.setattr("builtins.open", opened)
        assert _ispmail_postfix.running(instance.queue) is False


def test_what_cannot_be_read_is_not_taken_for_a_postfix_that_does_not_run(instance, monkeypatch):
    """It would not be reloaded."""
    instance.pid_file.mkdir()
    with pytest.raises(CannotAsk, match=r"/spool/pid/master\.pid cannot be read: Is a directory$"):
        _ispmail_postfix.running(instance.queue)
    instance.pid_file.rmdir()
    instance.pid_file.write_text("4711")
    real = open

    def opened(path, *args, **options):
        if path == "/proc/4711/stat":
            raise PermissionError(13, "Permission denied")
        return real(path, *args, **options)

    monkeypatch.setattr("builtins.open", opened)
    with pytest.raises(CannotAsk, match=r"/proc/4711/stat cannot be read: Permission denied$"):
        _ispmail_postfix.running(instance.queue)


@pytest.mark.parametrize(("name", "shown"), [(b"a) R 1 (b", "a) R 1 (b"), (b"caf\xc3\xa9\xff", "caf\xe9\ufffd")])
def test_any_user_can_give_a_process_any_name(name, shown):
    """What follows the name is read all the same, whatever the locale is."""
    script = f"open('/proc/self/comm', 'wb').write({name!r}); print(flush=True); input()"
    with process(sys.executable, "-c", script, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        before = locale.setlocale(locale.LC_CTYPE)
        try:
            locale.setlocale(locale.LC_CTYPE, "C")
            found, fields = _ispmail_postfix._process(child.pid)
        finally:
            locale.setlocale(locale.LC_CTYPE, before)
    assert (found, int(fields[1])) == (shown, os.getpid())


def test_the_processes_that_are_older_than_a_table_file(instance, tmp_path):
    """They keep what they have read: the programs that read it, of this instance alone."""
    old, new = tmp_path / "a.cf", tmp_path / "b.cf"
    for path in (old, new):
        path.write_text("")
    time.sleep(0.1)

    def found(*paths):
        return _ispmail_postfix.old_processes([str(path) for path in paths], instance.queue, READERS)

    with instance.running(*READERS, "local", "qmgr") as (_, *children):
        readers = [f"{name} {pid}" for name, pid in zip(READERS, children)]
        with process(tmp_path / "smtpd", "60"):
            assert found(old, new) == found(tmp_path / "none") == found() == []
            time.sleep(0.1)
            # A rename sets no other time than this one.
            os.utime(new, (0, 0))
            assert sorted(found(old, new, tmp_path / "none")) == sorted(found(new)) == sorted(readers)
            assert found(old) == []
    assert found(new) == []


@pytest.fixture
def reloaded(instance, tmp_path, monkeypatch):
    """A table file, and what started 10 s before and 5 s after it changed; its Postfix was reloaded when it is told."""
    table = tmp_path / "a.cf"
    table.write_text("")
    changed = os.stat(table).st_ctime - time.time() + time.clock_gettime(time.CLOCK_BOOTTIME)
    real = _ispmail_postfix._process
    with instance.running("smtpd", "qmgr", "cleanup") as (master, old, manager, new):
        after = {master: -100, old: -10, new: 5}

        def process(pid):
            name, fields = real(pid)
            if pid in after:
                fields[19] = str(int((changed + after[pid]) * os.sysconf("SC_CLK_TCK")))
            return name, fields

        def found(reload, started_by=0):
            """The old processes; by how much the clock was off when master(8) started."""
            after[manager] = reload
            began = os.stat(table).st_ctime - 100 + started_by
            os.utime(instance.pid_file, (began, began))
            return _ispmail_postfix.old_processes([str(table)], instance.queue, READERS)

        monkeypatch.setattr(_ispmail_postfix, "_process", process)
        yield found, [f"smtpd {old}"]


def test_a_clock_that_is_set_after_the_change(reloaded, monkeypatch):
    """A machine that was paused, then NTP: an hour of processes with the old password was not counted."""
    (found, old), real = reloaded, time.time
    assert found(1) == found(-50) == old
    for step in (3600, -3600, 5, -5):
        monkeypatch.setattr(time, "time", lambda step=step: real() + step)
        assert found(1) == old
        # Without a reload nobody knows, but for what is older by either clock.
        assert found(-50) == (old if step < 10 else [])
    # What takes that long to start, or NTP changes little by little, is no other clock.
    monkeypatch.setattr(time, "time", lambda: real() - 1)
    assert found(1, 0.5) == found(-50, 0.5) == old


def test_a_clock_that_is_set_before_the_change(reloaded):
    """It was right when the file was written: nothing that is newer is old, which would stop each rotation."""
    found, old = reloaded
    for step in (3600, -3600):
        assert found(1, -step) == old
        assert found(-50, -step) == (old if step > 0 else [])


def test_a_postfix_that_ends_while_its_clock_is_looked_at(reloaded, instance, monkeypatch):
    found, old = reloaded

    def ended(pid):
        raise ProcessLookupError

    monkeypatch.setattr(_ispmail_postfix, "_started", ended)
    assert found(1) == old


def test_which_programs_may_ask_a_table(instance):
    with instance.running(*ASKERS, "qmgr"):
        time.sleep(0.1)
        assert sorted(_ispmail_postfix.askers(instance.queue).values()) == sorted(ASKERS)


@pytest.mark.parametrize("ends", [True, False])
def test_processes_that_may_ask_a_table_are_let_end(instance, monkeypatch, ends):
    """Not those that ask none, such as qmgr, nor those that begin later. It uses no processor while it waits."""
    sleep, slept = time.sleep, set()
    with instance.running("smtp", "qmgr") as (master, asker, _):
        time.sleep(0.1)
        monkeypatch.setattr(time, "sleep", lambda seconds: slept.add(seconds) or sleep(seconds))
        found = _ispmail_postfix.askers(instance.queue)
        assert found == {asker: "smtp"}
        if ends:
            threading.Timer(0.4, os.kill, [master, signal.SIGHUP]).start()
        began = time.monotonic()
        left = _ispmail_postfix.let_end(found, instance.queue, 20 if ends else 0.5)
        assert left == ([] if ends else [f"smtp {asker}"]) and slept == {0.1}
        assert 0.3 < time.monotonic() - began < 10
    assert _ispmail_postfix.askers(instance.queue) == {}
    assert _ispmail_postfix.let_end(found, instance.queue, 20) == []


def test_where_no_postfix_runs_other_processes_are_not_looked_at(instance, monkeypatch, tmp_path):
    """Each program of a server would be opened, at each look: one that cannot be read is an error."""
    monkeypatch.setattr("os.listdir", lambda path: pytest.fail(f"{path} is listed"))
    assert _ispmail_postfix.old_processes([str(tmp_path)], instance.queue, READERS) == []


def test_after_a_reload_the_processes_that_are_busy_are_left(instance, monkeypatch, tmp_path):
    monkeypatch.setattr(_ispmail_postfix, "_SIGNALLED_SECONDS", 60)
    calls = instance.command(f"kill -HUP $(cat {instance.pid_file})", monkeypatch)
    with instance.running("smtpd", "cleanup") as (_, _, busy):
        time.sleep(0.1)
        assert _ispmail_postfix.reload(instance.directory, instance.queue, drain=0.8) == [f"cleanup {busy}"]
        assert instance.hups == 1
    assert calls.read_text() == f"-c {instance.directory} reload\n"


def test_a_reload_does_not_wait_for_what_reads_no_table_file(instance, monkeypatch):
    """An smtp(8) with a slow server may take ten minutes."""
    instance.command("exit 0", monkeypatch)
    with instance.running("qmgr", "smtp") as (_, _, busy):
        time.sleep(0.1)
        began = time.monotonic()
        assert _ispmail_postfix.reload(instance.directory, instance.queue, drain=30, programs=["smtpd"]) == []
        assert time.monotonic() - began < 10
        left = _ispmail_postfix.reload(instance.directory, instance.queue, drain=0.3, programs=["smtpd", "smtp"])
        assert left == [f"smtp {busy}"]


def test_a_reload_ends_once_no_process_is_left(instance, monkeypatch):
    monkeypatch.setattr(_ispmail_postfix, "_SIGNALLED_SECONDS", 60)
    instance.command(f"(sleep 0.2; kill -HUP $(cat {instance.pid_file})) >/dev/null 2>&1 &", monkeypatch)
    with instance.running("smtpd"):
        time.sleep(0.1)
        began = time.monotonic()
        assert _ispmail_postfix.reload(instance.directory, instance.queue, drain=30) == []
        assert time.monotonic() - began < 10 and instance.hups == 1


def test_a_reload_that_reached_nobody_is_done_again(instance, monkeypatch):
    """`postfix reload` exits with 0 where it could not signal master(8), and all old processes would stay."""
    instance.command("exit 0", monkeypatch)
    with instance.running("smtpd"):
        time.sleep(0.1)
        assert _ispmail_postfix.reload(instance.directory, instance.queue, drain=10) == []
        assert instance.hups == 1


def test_of_two_reloads_the_first_is_a_signal_to_master(instance, monkeypatch):
    """What `postfix reload` does before that, the second does."""
    instance.command("echo 'postfix: fatal: no' >&2; exit 1", monkeypatch)
    with instance.running("smtpd"):
        time.sleep(0.1)
        monkeypatch.setattr(_ispmail_postfix, "_SIGNALLED_SECONDS", 60)  # it is not signalled again
        assert _ispmail_postfix.reload(instance.directory, instance.queue, drain=10, once_more=True) == []
        assert instance.hups == 1


def test_how_long_a_reload_waits(instance, monkeypatch):
    """Two seconds, unless it is told otherwise; master(8) is signalled once, and not before it had its time."""
    clock, signalled = [0.0], []

    def sleep(seconds):
        clock[0] += seconds

    fake = {"monotonic": lambda: clock[0], "sleep": sleep}
    kept = {name: getattr(time, name) for name in ("time", "clock_gettime", "CLOCK_BOOTTIME")}
    monkeypatch.setattr(_ispmail_postfix, "time", SimpleNamespace(**fake, **kept))
    monkeypatch.setattr(_ispmail_postfix, "_started_before", lambda *_: {4711: "smtpd"})
    monkeypatch.setattr(_ispmail_postfix, "_signal_master", lambda queue: signalled.append((queue, clock[0])))
    instance.command("exit 0", monkeypatch)
    assert _ispmail_postfix.reload(instance.directory, instance.queue) == ["smtpd 4711"]
    assert clock[0] == pytest.approx(2, abs=0.1)
    ((queue, when),) = signalled
    assert (queue, when) == (instance.queue, pytest.approx(0.5, abs=0.1))


def test_a_reload_that_postfix_refuses(instance, monkeypatch):
    instance.command("echo 'postfix: fatal: no' >&2; exit 1", monkeypatch)
    with pytest.raises(CannotAsk, match=r"^postfix reload failed: postfix: fatal: no$"):
        _ispmail_postfix.reload(instance.directory, instance.queue)


def test_a_master_that_cannot_be_signalled(instance, monkeypatch):
    _ispmail_postfix._signal_master(instance.queue)
    with subprocess.Popen(["true"]) as ended:
        pass
    monkeypatch.setattr(_ispmail_postfix, "master", lambda queue: ended.pid)
    with pytest.raises(CannotAsk, match=f"process {ended.pid}, cannot be signalled: No such process$"):
        _ispmail_postfix._signal_master("/nowhere")


@pytest.mark.parametrize(
    ("changed", "missing"),
    [
        ({}, []),
        ({"daemon_directory": "/nowhere"}, ["/nowhere/postfix-script", "/nowhere/master"]),
        ({"daemon_directory": "half"}, ["half/master"]),
        ({"command_directory": "half", "queue_directory": "/nowhere"}, ["half/postsuper", "/nowhere/"]),
    ],
)
def test_a_change_that_could_not_be_reloaded_is_refused(tmp_path, changed, missing):
    """Else it would be made, and put back."""
    for name, mode in (("postfix-script", 0o755), ("master", 0o755), ("postsuper", 0o755)):
        (tmp_path / name).touch(mode)
    half = tmp_path / "half"
    half.mkdir()
    (half / "postfix-script").touch(0o755)
    (half / "master").touch(0o644)
    named = {name: value.replace("half", str(half)) for name, value in changed.items()}
    values = {**dict.fromkeys(("daemon_directory", "command_directory", "queue_directory"), str(tmp_path)), **named}
    if not missing:
        _ispmail_postfix.refuse_reload(values.__getitem__)
        return
    with pytest.raises(Failed) as caught:
        _ispmail_postfix.refuse_reload(values.__getitem__)
    head, *said = str(caught.value).split("\n- ")
    assert head == "Nothing was changed, because Postfix cannot be reloaded:"
    paths = [path.replace("half", str(half)) for path in missing]
    assert [each.partition(", and ")[2] for each in said] == [
        f"{path} is not there, or cannot be run" for path in paths
    ]
    assert {each.partition(" is ")[0] for each in said} == set(changed)
