"""Ask and reload one Postfix instance, see postfix(1) and master(5)."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import shutil
import signal
import time
from collections.abc import Callable, Collection, Iterable, Mapping

from _ispmail_command import output
from _ispmail_errors import CannotAsk, Failed, listed
from _ispmail_programs import ASKERS

log = logging.getLogger(__name__)

# What `postfix reload` runs and enters, by the parameter that says where it is.
_RELOAD_NEEDS = {
    "daemon_directory": ("postfix-script", "master"),
    "command_directory": ("postsuper",),
    "queue_directory": ("",),
}
# How long after a reload at least one of the old processes has ended, on a server that is not busy.
_SIGNALLED_SECONDS = 0.5
# A clock that is off by more since Postfix was started has been set; master(8) writes its pid within that time.
_SET_SECONDS = 2


def installed() -> bool:
    """Tell whether there is a Postfix. A server that has only other programs with the maps' account needs none."""
    return shutil.which("postfix", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin") is not None


def is_there(config_directory: str) -> bool:
    """Whether there is an instance with that main.cf. Postfix does not start without, and postmulti refuses that too.

    Debian leaves the main.cf of a Postfix that was removed and not purged: nothing can read it.
    """
    try:
        os.stat(os.path.join(config_directory, "main.cf"))
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        pass  # there is one, and whoever reads it is told why that fails
    return installed()


def running(queue_directory: str) -> bool:
    """Tell whether the instance with that queue runs: whether there is its master(8).

    Not by `postfix status`: that locks master.pid for a moment, and a `postfix start` at that moment fails.

    Raises:
        CannotAsk: That could not be told.
    """
    return master(queue_directory) is not None


def master(queue_directory: str) -> int | None:
    """The process id of an instance's master(8); None where it does not run.

    Raises:
        CannotAsk: That cannot be read.
    """
    path = os.path.join(queue_directory, "pid", "master.pid")
    try:
        with open(path, encoding="ascii") as file:
            pid = int(file.read())
        name, fields = _process(pid)
        # Z: it has ended, and in a container nobody may ask how.
        return pid if name == "master" and fields[0] != "Z" else None
    except (FileNotFoundError, ProcessLookupError, ValueError):
        # It holds no number while Postfix starts and writes it anew.
        return None
    except OSError as err:
        raise CannotAsk(f"{path} cannot be read: {err.strerror}") from err


def reload(
    config_directory: str,
    queue_directory: str,
    drain: float = 2,
    once_more: bool = False,
    programs: Collection[str] = ASKERS,
) -> list[str]:
    """Make a running instance read its configuration again; no mail is refused.

    A busy process ends its session first, an idle one ends within a second.

    Args:
        drain: How many seconds to wait for the processes that have read the old table files.
        programs: Those that read them, see `_ispmail_inventory.Inventory.programs`.
        once_more: Another reload follows at once: signal master(8) alone, and leave it to that one to go through
            the queue first.

    Returns:
        Those that are left, such as ``smtpd 4711``: they still use what they have read before.

    Raises:
        CannotAsk: Postfix refused, and says what Postfix said, or master(8) cannot be signalled.
    """
    began = time.clock_gettime(time.CLOCK_BOOTTIME)
    started = time.monotonic()
    before = old = _started_before(began, queue_directory, programs)
    if once_more:
        _signal_master(queue_directory)
    else:
        output("postfix", ["-c", config_directory, "reload"])
    again = time.monotonic() + _SIGNALLED_SECONDS
    until = time.monotonic() + drain
    while True:
        old = _started_before(began, queue_directory, programs, old)
        if not old or time.monotonic() > until:
            log.info("reloaded Postfix in %s in %.2f s", config_directory, time.monotonic() - started)
            return _named(old)
        if time.monotonic() > again and old == before:
            _signal_master(queue_directory)
            again = until
        time.sleep(0.02)


def refuse_reload(expanded: Callable[[str], str]) -> None:
    """Refuse a change that needs a reload where that would not find what it runs.

    Args:
        expanded: Gives the value of a parameter of main.cf, ``$name`` expanded.

    Raises:
        Failed: Names all that is missing.
    """
    needed = ((name, os.path.join(expanded(name), each)) for name, some in _RELOAD_NEEDS.items() for each in some)
    missing = [
        f"{name} is {expanded(name)}, and {path} is not there, or cannot be run"
        for name, path in needed
        if not os.access(path, os.X_OK)
    ]
    if missing:
        raise Failed(listed("Nothing was changed, because Postfix cannot be reloaded", missing))


def old_processes(files: Collection[str], queue_directory: str, programs: Collection[str]) -> list[str]:
    """Tell which processes of an instance started before its table files were replaced.

    Args:
        programs: Those that read them, see `_ispmail_inventory.Inventory.programs`.

    Returns:
        A list such as ``smtpd 4711``: they use what they have read before, and end with their sessions.
    """
    # A rename sets the status change time; the modification time is set back.
    changed = [os.stat(path).st_ctime for path in files if os.path.exists(path)]
    pid = master(queue_directory)
    if not changed or pid is None:
        return []
    return _named(_started_before(_since_boot(max(changed), pid, queue_directory), queue_directory, programs))


def askers(queue_directory: str) -> dict[int, str]:
    """The processes of an instance that may ask a table now, with their names."""
    return _started_before(time.clock_gettime(time.CLOCK_BOOTTIME), queue_directory, ASKERS)


def let_end(processes: Iterable[int], queue_directory: str, seconds: float) -> list[str]:
    """Wait for `askers` of an instance to end, once it is reloaded.

    Returns:
        Those that are left after so many seconds, such as ``smtpd 4711``.
    """
    began = time.clock_gettime(time.CLOCK_BOOTTIME)
    until = time.monotonic() + seconds
    while (left := _started_before(began, queue_directory, ASKERS, processes)) and time.monotonic() < until:
        time.sleep(0.1)
    return _named(left)


def _named(processes: Mapping[int, str]) -> list[str]:
    return [f"{name} {pid}" for pid, name in processes.items()]


def _started_before(
    began: float, queue_directory: str, programs: Collection[str], among: Iterable[int] | None = None
) -> dict[int, str]:
    """The processes of an instance that started before that second since boot, with their names.

    Args:
        programs: Which programs they run.
        among: Only these are looked at: those of an earlier answer, to which nothing can be added.
    """
    parent = master(queue_directory)
    if parent is None:
        return {}
    ticks = os.sysconf("SC_CLK_TCK")
    found = {}
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if among is None else among:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            name, fields = _process(pid)
            # proc(5): ppid is field 4, starttime field 22; these begin with field 3.
            is_child = int(fields[1]) == parent
            if is_child and name in programs and int(fields[19]) / ticks < began:
                found[pid] = name
    return found


def _since_boot(when: float, pid: int, queue_directory: str) -> float:
    """The second since boot at which a file changed, by its time; processes have no other time than that.

    Where the clock was set since Postfix was started (a machine that was paused, then NTP), nobody knows by which clock
    the file has its time. The earlier second is taken then, or the last reload if that is later: qmgr(8) is started
    anew by each.

    Args:
        when: In seconds since 1970.
        pid: The process of master(8), which writes its file when it starts.
    """
    now = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    try:
        then = os.stat(os.path.join(queue_directory, "pid", "master.pid")).st_mtime - _started(pid)
    except (FileNotFoundError, ProcessLookupError):
        then = now
    if abs(now - then) < _SET_SECONDS:
        return when - now
    reloaded = 0.0
    for manager in _started_before(math.inf, queue_directory, ("qmgr", "oqmgr")):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            reloaded = _started(manager)
    return max(when - max(now, then), reloaded)


def _started(pid: int) -> float:
    """When a process started, in seconds since boot.

    Raises:
        FileNotFoundError, ProcessLookupError, CannotAsk: As `_process`.
    """
    # proc(5): starttime is field 22; these begin with field 3.
    return int(_process(pid)[1][19]) / os.sysconf("SC_CLK_TCK")


def _signal_master(queue_directory: str) -> None:
    """Do what `postfix reload` does last. It exits with 0 where it could not do that, and all old processes stay."""
    pid = master(queue_directory)
    try:
        if pid is not None:
            os.kill(pid, signal.SIGHUP)
    except OSError as err:
        raise CannotAsk(f"master(8), process {pid}, cannot be signalled: {err.strerror}") from err


def _process(pid: int) -> tuple[str, list[str]]:
    """The name of a process, and the fields of its proc(5) stat from the third on.

    Raises:
        FileNotFoundError, ProcessLookupError: There is no such process any more.
        CannotAsk: It cannot be read.
    """
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stat:
            name, _, rest = stat.read().partition("(")[2].rpartition(")")
    except (FileNotFoundError, ProcessLookupError):
        raise
    except OSError as err:
        raise CannotAsk(f"/proc/{pid}/stat cannot be read: {err.strerror}") from err
    return name, rest.split()
