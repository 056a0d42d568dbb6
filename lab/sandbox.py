"""A private copy of /etc, /srv, /var and more in memory, for commands that write where they would on a machine of
their own, see mount_namespaces(7). Needs root."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from lab import tail
from lab.processes import run

FOLDERS = ("etc", "srv", "var", "root", "run", "usr")
# Over each folder a layer of its own: what is written goes there, what is read comes from the folder below.
_SCRIPT = """
set -e
mount -t tmpfs -o mode=755 sandbox "$0"
for each in "$@"; do
    name=${each%%=*} lower=${each#*=}
    mkdir -p "$0/$name/upper" "$0/$name/work"
    chmod --reference="/$name" "$0/$name/upper"
    mount -t overlay -o "lowerdir=$lower,upperdir=$0/$name/upper,workdir=$0/$name/work" sandbox "/$name"
done
echo ready
exec cat
"""


class Sandbox:
    """What commands write below FOLDERS is seen by them alone, and gone at the end. They have the machine's own /tmp.

    Also ends when the process that made it has died. Commands that run in it are ended by those who started them.
    """

    def __init__(self, directory: Path, layers: Mapping[str, Path] | None = None) -> None:
        """Start nothing yet.

        Args:
            directory: An empty folder that stays empty.
            layers: Folder to one whose files are seen in it, too, such as {"usr": Path(…)}.
        """
        self.directory = directory
        self._layers = layers or {}
        self._holder: subprocess.Popen[str] | None = None

    def __enter__(self) -> Sandbox:
        self.directory.mkdir(parents=True, exist_ok=True)
        folders = [
            f"{name}={self._layers[name]}:/{name}" if name in self._layers else f"{name}=/{name}" for name in FOLDERS
        ]
        log = self.directory.with_suffix(".log")
        with log.open("wb") as err:
            self._holder = subprocess.Popen(
                ["unshare", "--mount", "--propagation", "private", "sh", "-c", _SCRIPT, str(self.directory), *folders],
                stdin=subprocess.PIPE,  # at our end, whatever ends us, cat ends too
                stdout=subprocess.PIPE,
                stderr=err,
                text=True,
                start_new_session=True,
            )
        assert self._holder.stdout
        if self._holder.stdout.readline() != "ready\n":
            self.__exit__(None, None, None)
            raise RuntimeError(f"no sandbox: {tail(log)}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        holder, self._holder = self._holder, None
        if holder:
            holder.kill()
            holder.communicate()

    @property
    def enter(self) -> list[str]:
        """The command prefix that runs a command in it."""
        assert self._holder, "the sandbox is not entered"
        return ["nsenter", f"--target={self._holder.pid}", "--mount", "--"]

    @property
    def root(self) -> Path:
        """Where its files are for those outside."""
        assert self._holder, "the sandbox is not entered"
        return Path(f"/proc/{self._holder.pid}/root")

    def run(
        self, command: Sequence[object] | str, check: bool = True, timeout: float | None = 120, user: str = ""
    ) -> subprocess.CompletedProcess:
        """Run a command in it, or the lines of a shell script; as another user, if one is named."""
        words = ["sh", "-euc", command] if isinstance(command, str) else [*command]
        return run([*self.enter, *(as_user(user) if user else ()), *words], check=check, timeout=timeout)

    def open_to_all(self, path: Path) -> None:
        """Let every user in it enter the folders above `path`, such as root's home with a Python environment in it."""
        folders = [folder for folder in path.parents if folder.parts[1:2] and folder.parts[1] in FOLDERS]
        self.run(["chmod", "o+x", *folders])


def as_user(name: str) -> list[str]:
    """The command prefix that runs a command as an unprivileged user."""
    return ["setpriv", f"--reuid={name}", f"--regid={name}", "--init-groups", "--reset-env", "--"]


def python_programs() -> Path:
    """The folder of this Python's programs."""
    return Path(sys.executable).parent


def quoted(*words: object) -> str:
    """A command as a shell reads it."""
    return shlex.join(map(str, words))
