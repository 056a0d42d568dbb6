"""Throw-away Debian machines with systemd as PID 1, by systemd-nspawn(1). No container engine is needed.

    with Network() as network, Machine("mx1", fleet(), network) as mx1:
        mx1.run(["postfix", "status"])

This needs root and `apt-get install debootstrap systemd-container iproute2`; an Outlet also needs slirp4netns.

A machine is an overlay over a root that is never written to (lab/images.py). Closing the machine removes the overlay:
at the end of its `with` block, or when Python exits. After a SIGKILL of Python, `python -m lab clean` does that.
"""

from __future__ import annotations

import atexit
import concurrent.futures
import contextlib
import os
import re
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lab import tail
from lab.cleanup import remove
from lab.network import Network
from lab.processes import PREFIX, control_group, end, nspawn, remove_control_group, run
from lab.registries import Registries

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
UP = ("running", "degraded")
MASKED = ("apt-daily.timer", "apt-daily-upgrade.timer", "console-getty.service")  # no use in a short-lived machine


def start_all(*machines: Machine) -> None:
    """Boot several machines at the same time. If one fails, its RuntimeError comes once all have been tried."""
    with concurrent.futures.ThreadPoolExecutor(len(machines)) as pool:
        list(pool.map(Machine.start, machines))


class Machine:
    """One Debian machine over a root that several machines may share. Its `with` block boots it.

    Args:
        name: Its host name, at most 12 characters: the name of its network link contains it.
        root: What lab.images.base or lab.images.image returned.
        network: A Network, an Outlet, or None to share the host's network with its ports.
        registries: Whether apt and pip inside get the host's settings for package registries.
    """

    def __init__(self, name: str, root: Path, network: Network | None = None, registries: bool = False) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9-]{0,11}", name):
            raise ValueError(f"{name!r} cannot be a machine's name: use up to 12 of a-z, 0-9 and -, a letter first")
        self.name, self.network, self.address = name, network, ""
        self._registries: Registries | None = None
        self._process: subprocess.Popen | None = None
        self._leader: int | None = None
        self.folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-{name}-"))
        self.root, self.log = self.folder / "root", self.folder / "console.log"
        self._group = control_group(self.folder.name.removeprefix(PREFIX))
        atexit.register(self.close)
        for part in ("root", "upper", "work"):
            (self.folder / part).mkdir()
        layers = f"lowerdir={root},upperdir={self.folder / 'upper'},workdir={self.folder / 'work'}"
        subprocess.run(["mount", "-t", "overlay", self.folder.name, "-o", layers, str(self.root)], check=True)
        self._registries = Registries() if registries else None
        self._first_settings()

    def _first_settings(self) -> None:
        """Write the files that differ between machines, and switch off what needs a longer life or a screen."""
        self.write("/etc/hostname", f"{self.name}\n")
        self.write("/etc/machine-id", f"{uuid.uuid4().hex}\n", 0o444)
        self.write("/etc/hosts", f"127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {self.name}\n")
        resolver = self.network.resolver if self.network else Path("/etc/resolv.conf").read_text()
        self.write("/etc/resolv.conf", resolver)
        self._run_on_or_off(["systemctl", "mask", "-q", *MASKED])
        if self.network:
            self.network.join(self)

    def unit(self, name: str, text: str) -> None:
        """Add a systemd service and enable it, before `start`."""
        self.write(f"/etc/systemd/system/{name}.service", text)
        self._run_on_or_off(["systemctl", "enable", "-q", name])

    # Start and stop

    def __enter__(self) -> Machine:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self, timeout: float = 60) -> Machine:
        """Boot, and wait until systemd has started everything. RuntimeError with the end of the console if it fails."""
        if self.alive:
            raise RuntimeError(f"{self.name} is running already")
        options = ["--boot", "--resolv-conf=off", "--link-journal=no", f"--hostname={self.name}"]
        options += self.network.options if self.network else []
        enter = self.network.enter if self.network else []
        binds = self._registries.binds if self._registries else {}
        process = self._process = nspawn(self.root, self.name, self._group, self.log, options, binds, enter)
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline and process.poll() is None:
            if self._find_leader(process) and self.state(deadline - time.monotonic()) in UP:
                return self
            time.sleep(0.05)
        state = "it ended" if process.poll() is not None else f"state after {timeout} s: {self.state(5)}"
        self.kill()
        raise RuntimeError(f"{self.name} did not boot, {state}\n{tail(self.log, 30)}")

    @property
    def alive(self) -> bool:
        """Whether it is switched on."""
        return self._process is not None and self._process.poll() is None

    def state(self, timeout: float) -> str:
        """systemd's state once it has started everything: running, degraded (a unit failed), …; or '' until then."""
        try:
            asked = self.run(["systemctl", "is-system-running", "--wait"], check=False, timeout=max(timeout, 0.1))
            return asked.stdout.strip()
        except (RuntimeError, subprocess.TimeoutExpired):
            return ""

    def stop(self, timeout: float = 30) -> None:
        """Shut down cleanly; after `timeout` seconds, cut the power. The disk is kept."""
        if self._process is not None and self.alive:
            self._process.terminate()  # systemd-nspawn asks systemd to power off
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout)
        self.kill()

    def kill(self) -> None:
        """Cut the power: all processes end at once. The disk is kept, as the machine last wrote it."""
        leader, self._leader = self._leader, None
        if self._process is None:
            return
        if self.alive and leader:
            with contextlib.suppress(ProcessLookupError):
                os.kill(leader, signal.SIGKILL)  # the kernel ends PID 1's whole PID namespace
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(10)  # systemd-nspawn removes its network links and ends
        end(self._process)

    def close(self) -> None:
        """Cut the power and remove the disk."""
        self.kill()
        if self.network:
            self.network.leave(self)
        if self._registries:
            self._registries.close()
        remove_control_group(self._group)
        remove(self.folder)
        atexit.unregister(self.close)

    def partition(self) -> None:
        """Pull the network plug: all packets from and to the machine are dropped silently."""
        self._set_link("down")

    def heal(self) -> None:
        """Plug the network in again."""
        self._set_link("up")

    def _set_link(self, state: str) -> None:
        if self.network is None:
            raise RuntimeError(f"{self.name} shares the host's network: it has no link of its own")
        self.network.run(["ip", "link", "set", f"vb-{self.name}", state])

    # Commands and files

    def run(
        self,
        command: Sequence[object],
        check: bool = True,
        input: str | bytes | None = None,
        timeout: float | None = 120,
        env: Mapping[str, str] | None = None,
        **options: Any,
    ) -> subprocess.CompletedProcess:
        """Run a command on it as root. The environment is empty but for `env` and PATH; output is captured as text.

        Args:
            timeout: After so many seconds the command is killed and subprocess.TimeoutExpired raised. None: no limit.
            options: More for subprocess.Popen, such as `text=False`, or `stdout=None` to let the output through.
        """
        words = list(map(str, command))
        return run(self._inside(words, env), check, input, timeout, shown=[f"{self.name}:", *words], **options)

    def popen(
        self, command: Sequence[object], env: Mapping[str, str] | None = None, **options: Any
    ) -> subprocess.Popen:
        """Start a command on it and do not wait. To end it: os.killpg(process.pid, …)."""
        return subprocess.Popen(self._inside(command, env), start_new_session=True, **options)

    def read(self, path: str) -> str:
        """A file's text. The machine may be off."""
        return self._run_on_or_off(["cat", path]).stdout.decode()

    def write(self, path: str, data: str | bytes, mode: int = 0o644) -> None:
        """Write a file and create its folders. The machine may be off."""
        script = 'umask 077 && mkdir -p "${1%/*}" && cat >"$1" && chmod "$2" "$1"'
        content = data.encode() if isinstance(data, str) else data
        self._run_on_or_off(["sh", "-c", script, "sh", path, f"{mode:o}"], content)

    def copy_in(self, local: str | Path, inside: str) -> None:
        """Copy a file, or a folder's contents, to the path `inside`.

        Of a git checkout it copies .git and all files that git does not ignore, changed and new ones included.
        """
        local = Path(local)
        if local.is_file():
            self.write(inside, local.read_bytes(), local.stat().st_mode & 0o7777)
            return
        names = _checkout_files(local) if (local / ".git").exists() else ["."]
        pack = ["tar", "-C", str(local), "--owner=0", "--group=0", "--null", "-T", "-", "-cf", "-"]
        packed = subprocess.run(pack, input="\0".join(names).encode(), stdout=subprocess.PIPE)
        if packed.returncode > 1:  # 1: a file changed while tar read it
            raise RuntimeError(f"{local} could not be read: tar ended with exit code {packed.returncode}")
        self._run_on_or_off(["mkdir", "-p", inside])
        self._run_on_or_off(["tar", "-C", inside, "-xf", "-"], packed.stdout)

    def _inside(self, command: Sequence[object], env: Mapping[str, str] | None = None) -> list[str]:
        """The host's command that runs a command on the machine."""
        if not self.alive or not self._leader:
            raise RuntimeError(f"{self.name} is not running")
        return ["nsenter", "-t", str(self._leader), "-a", "--", *self._environment(env), *map(str, command)]

    def _run_on_or_off(self, command: Sequence[str], data: bytes | None = None) -> subprocess.CompletedProcess:
        """Run a short command on it, or on its disk while it is off."""
        on_disk = ["chroot", str(self.root), *self._environment(None), *command]
        return run(self._inside(command) if self.alive else on_disk, True, data, 60, command, text=False)

    def _environment(self, env: Mapping[str, str] | None) -> list[str]:
        """The command prefix that sets the environment."""
        settings = {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8"}
        if self._registries:
            settings.update(self._registries.env)
        settings.update(env or {})
        return ["env", "-i", *(f"{key}={value}" for key, value in settings.items())]

    def _find_leader(self, process: subprocess.Popen) -> int | None:
        """The host's process id of its PID 1: the child of systemd-nspawn that is systemd in a PID namespace."""
        with contextlib.suppress(OSError):
            for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
                numbers = re.search(r"^NSpid:(.*)$", Path(f"/proc/{child}/status").read_text(), re.M)
                in_namespace = numbers is not None and len(numbers[1].split()) > 1
                if in_namespace and Path(f"/proc/{child}/comm").read_text() == "systemd\n":
                    self._leader = int(child)
        return self._leader


def _checkout_files(folder: Path) -> list[str]:
    """The names of what a clone of a checkout would hold if all work in it were committed."""
    listing = ["git", "-c", "safe.directory=*", "-C", str(folder)]
    listing += ["ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(listing, stdout=subprocess.PIPE, check=True, text=True).stdout.split("\0")
    return [".git", *(name for name in dict.fromkeys(listed) if name and os.path.lexists(folder / name))]
