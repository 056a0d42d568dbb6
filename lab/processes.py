"""Commands with a time limit, systemd-nspawn(1), and control groups that hold the processes of a machine together."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lab import wait_until

# The names of all that the lab creates outside its cache begin with this: folders in /tmp, network namespaces and
# control groups. The id of the Python process that created them follows, see lab/cleanup.py.
PREFIX = "salt-ispmail-lab-"


class CommandFailed(subprocess.CalledProcessError):
    """A command failed; the message includes its output."""

    def __str__(self) -> str:
        output = "\n".join(str(text).strip() for text in (self.stdout, self.stderr) if text)
        return f"exit code {self.returncode} of {' '.join(map(str, self.cmd))}\n{output}".rstrip()


def run(
    command: Sequence[object],
    check: bool = True,
    stdin: str | bytes | None = None,
    timeout: float | None = 120,
    shown: Sequence[object] | None = None,
    **options: Any,
) -> subprocess.CompletedProcess:
    """Run a command as subprocess.run does, and kill its whole process group on a timeout (nsenter forks).

    The output is captured as text. `shown` is the command as an error message shows it.
    """
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
    if isinstance(stdin, bytes):
        options["text"] = False
    words = list(map(str, command))
    pipe = subprocess.DEVNULL if stdin is None else subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, start_new_session=True, **options) as process:
        try:
            out, err = process.communicate(stdin, timeout)
        except BaseException:
            kill_group(process.pid)
            raise
    if check and process.returncode:
        raise CommandFailed(process.returncode, list(map(str, shown or words)), out, err)
    return subprocess.CompletedProcess(words, process.returncode, out, err)


def nspawn(
    root: Path,
    name: str,
    group: Path,
    log: Path,
    options: Sequence[str],
    binds: Mapping[str, Path] | None = None,
    enter: Sequence[str] = (),
) -> subprocess.Popen:
    """Start systemd-nspawn on a root folder, in a control group and a session of its own.

    With --keep-unit systemd-nspawn works below the control group it was started in. In a shared group the systemd of
    one machine would wait for, and kill, processes of the others.

    Args:
        log: Gets the output.
        options: More options of systemd-nspawn, and the command if it does not boot.
        binds: Path inside the machine to the path on the host that is visible there, read-only.
        enter: A command prefix that enters the machine's network, see Network.enter.
    """
    command = ["systemd-nspawn", "-q", "-D", str(root), "-M", name, "--register=no", "--keep-unit"]
    command += [f"--bind-ro={source}:{inside}" for inside, source in (binds or {}).items()]
    env = {**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"}  # needed where the host mounts cgroup v1
    with log.open("ab") as out:
        return subprocess.Popen(
            [*in_control_group(group), *enter, *command, *options],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=env,
            start_new_session=True,
        )


def end(process: subprocess.Popen) -> None:
    """Terminate a process that we started; after 5 s, kill it."""
    for send in (process.terminate, process.kill):
        with contextlib.suppress(subprocess.TimeoutExpired):
            if process.poll() is None:
                send()
                process.wait(5)


def kill_group(group: int) -> None:
    """Kill all processes of a group, and wait until each has let go of its ports and files (a zombie has)."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
        wait_until(lambda: group not in _groups(), 60)


def _groups() -> Iterator[int]:
    """The process group of each process that is no zombie, see proc_pid_stat(5)."""
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _parent, group = file.read_text(errors="replace").rpartition(")")[2].split()[:3]
            if state not in "ZX":
                yield int(group)


def mounts() -> Iterator[list[str]]:
    """The fields of each line of /proc/self/mountinfo, the newest mount first, see proc(5). Field 4 is the path."""
    # A path may hold any byte; the kernel escapes what separates fields and lines.
    text = Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape")
    for line in reversed(text.rstrip("\n").split("\n")):
        yield line.split(" ")


def hierarchies(*types: str) -> list[Path]:
    """Where control groups are mounted: of the types "cgroup" (version 1) and "cgroup2"."""
    return [Path(mount[4]) for mount in mounts() if mount[mount.index("-") + 1] in types]


def control_group(name: str) -> Path:
    """Create a control group (version 2), or take the one that has this name."""
    group = hierarchies("cgroup2")[0] / f"{PREFIX}{name}"
    group.mkdir(exist_ok=True)
    return group


def in_control_group(group: Path) -> list[str]:
    """The command prefix that runs a command in the group."""
    return ["sh", "-c", 'echo $$ >"$0/cgroup.procs" && exec "$@"', str(group)]


def remove_control_group(group: Path) -> None:
    """Kill all processes of a control group, and remove it.

    On a host with cgroup v1, systemd-nspawn has created a group of the same name there, which is removed too.
    """
    for _ in range(100):
        with contextlib.suppress(OSError):
            if (group / "cgroup.kill").exists():  # not in version 1
                (group / "cgroup.kill").write_text("1")
            for each in (group, *(mounted / group.name for mounted in hierarchies("cgroup"))):
                for folder, _dirs, _files in os.walk(each, topdown=False):
                    os.rmdir(folder)
            return
        time.sleep(0.02)  # killed processes take a moment to go
