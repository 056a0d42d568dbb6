"""Private, throw-away real servers on loopback, for the demo, the tests and the benchmarks.

The machine's own Postfix and MariaDB are not touched: each server has its own directory and its own free port on
127.0.0.1, and ends with the process that started it.

    with lab.scratch() as base, MariaDB(base / "db") as db, Postfix(base / "mail") as mail: …
"""

import contextlib
import os
import random
import shutil
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

HOST = "127.0.0.1"
START_SECONDS = 120  # for a server's start: on a busy machine it may take more than 30 s


@contextlib.contextmanager
def scratch(prefix: str = "lab-") -> Iterator[Path]:
    """An empty directory with a short path that every user may enter, removed at the end.

    pytest's tmp_path has neither property: a socket's path must be shorter than 100 characters, and Postfix's daemons
    do not run as root.
    """
    path = Path(tempfile.mkdtemp(prefix=prefix, dir="/tmp"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def small_disk(path: Path, options: str) -> Iterator[Path]:
    """A directory that is made there, with a file system of its own.

    Args:
        path: The directory.
        options: How that file system is mounted, see tmpfs(5).
    """
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)
        path.rmdir()


def free_port() -> int:
    """A TCP port that nothing on this machine uses.

    The kernel takes ports for outgoing connections from a range above it. Otherwise a client could get a server's port
    while that server restarts.
    """
    for port in random.SystemRandom().sample(range(20000, 32000), 200):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            return port
    raise RuntimeError("no free TCP port between 20000 and 32000")


def is_free(port: int) -> bool:
    """Whether no server listens on this TCP port; old connections may still be closing."""
    with socket.socket() as probe, contextlib.suppress(OSError):
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((HOST, port))
        return True
    return False


def wait_until(condition: Callable[[], object], seconds: float, pause: float = 0.02) -> bool:
    """Wait until the condition holds, `pause` seconds from look to look; False if it does not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
    return True


def tail(path: Path, lines: int = 20) -> str:
    """The last lines of a log, for an error message; empty if there is none."""
    with contextlib.suppress(OSError):
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
    return ""


def contents(directory: Path, without: Collection[Path] = ()) -> Iterator[tuple[Path, bytes]]:
    """Each regular file below a directory that others work in, and what it holds; not one that goes meanwhile.

    Args:
        without: Directories that are left out.
    """
    for folder, folders, names in os.walk(directory):
        folders[:] = [name for name in folders if Path(folder, name) not in without]
        for path in (Path(folder, name) for name in names):
            with contextlib.suppress(FileNotFoundError):
                if stat.S_ISREG(path.lstat().st_mode):
                    yield path, path.read_bytes()


def program(name: str, package: str) -> str:
    """Where a program is, also if /usr/sbin is not in PATH; RuntimeError naming the Debian package to install."""
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/bin:/sbin:/bin")
    if not found:
        raise RuntimeError(f"{name} is not installed: bin/setup, or apt-get install {package}")
    return found
