"""Ask and reload one Postfix instance, see postfix(1) and master(5)."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Sequence

import ispmail_postconf
from ispmail_command import output, run

log = logging.getLogger(__name__)

# The programs that ask lookup tables for every mail.
_READERS = ("smtpd", "cleanup", "trivial-rewrite", "proxymap")


def running(config_directory: str) -> bool:
    """Tell whether an instance runs, see postfix(1) status."""
    return run("postfix", ["-c", config_directory, "status"]).returncode == 0


def reload(config_directory: str, drain: float = 2) -> list[str]:
    """Make a running instance read its configuration again; no mail is refused.

    A busy process ends its session first, an idle one ends within a second.

    Args:
        drain: How many seconds to wait for the processes that have read the old table files.

    Returns:
        Those that are left, such as ``smtpd 4711``: they still use what they have read before.

    Raises:
        CannotAsk: Postfix refused; says what Postfix said.
    """
    began = time.clock_gettime(time.CLOCK_BOOTTIME)
    started = time.monotonic()
    output("postfix", ["-c", config_directory, "reload"])
    queue = _queue_directory(config_directory)
    until = time.monotonic() + drain
    while True:
        old = _started_before(began, queue)
        if not old or time.monotonic() > until:
            log.info("reloaded Postfix in %s in %.2f s", config_directory, time.monotonic() - started)
            return old
        time.sleep(0.02)


def old_processes(files: Sequence[str], config_directory: str) -> list[str]:
    """Tell which processes of an instance started before its table files were replaced.

    Returns:
        A list such as ``smtpd 4711``: they use what they have read before, and end with their sessions.
    """
    # A rename sets the status change time; the modification time is set back.
    changed = [os.stat(path).st_ctime for path in files if os.path.exists(path)]
    if not changed:
        return []
    began = time.clock_gettime(time.CLOCK_BOOTTIME) - (time.time() - max(changed))
    return _started_before(began, _queue_directory(config_directory))


def _queue_directory(config_directory: str) -> str:
    return ispmail_postconf.get(["queue_directory"], config_directory, defaults=True)["queue_directory"]


def _started_before(began: float, queue_directory: str) -> list[str]:
    """The processes of an instance that open table files and started before that second since boot."""
    ticks = os.sysconf("SC_CLK_TCK")
    found = []
    with contextlib.suppress(OSError, ValueError), open(os.path.join(queue_directory, "pid", "master.pid")) as file:
        master = int(file.read())
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as stat:
                name, _, rest = stat.read().partition("(")[2].rpartition(")")
                fields = rest.split()
                # proc(5): ppid is field 4, starttime field 22; rest begins with field 3.
                is_child = int(fields[1]) == master
                if is_child and name in _READERS and int(fields[19]) / ticks < began:
                    found.append(f"{name} {pid}")
    return found
