"""A private view of this machine's files: what is written there stays in memory, see mount_namespaces(7)."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from lab import tail
from lab.processes import run

# /usr first: its other layer may lie in /root, and of overlays on overlays Linux takes two.
FOLDERS = ("usr", "etc", "srv", "var", "root", "run")
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


def missing_requirements() -> str:
    """Why there can be no sandbox here, as a sentence for the user; empty if there can."""
    done = subprocess.run(["unshare", "--mount", "true"], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    return "" if done.returncode == 0 else "a sandbox needs root, and a machine or container that may mount"


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
        become = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--reset-env"] if user else []
        return run([*self.enter, *become, *words], check=check, timeout=timeout)

    def own_tmp(self, keep: Path) -> None:
        """Give it a /tmp of its own, which has one folder of the machine's."""
        aside = "/run/lab-kept"
        self.run(f"mkdir {aside}; mount -n --rbind {keep} {aside}; mount -n -t tmpfs -o mode=1777 own /tmp")
        self.run(f"mkdir {keep}; mount -n --move {aside} {keep}; rmdir {aside}")

    def written(self) -> Iterator[tuple[str, Path]]:
        """All but folders that was written, or deleted, in it and in a /tmp of its own: its path there, and here."""
        uppers = {f"/{name}": self.root / f"{self.directory}/{name}/upper"[1:] for name in FOLDERS}
        own = {"/tmp": self.root / "tmp"} if _device(self.root / "tmp") != _device(Path("/tmp")) else {}
        for seen_as, top in {**uppers, **own}.items():
            for folder, folders, names in os.walk(top):
                # A folder of the machine's is none of it.
                folders[:] = [name for name in folders if _device(Path(folder, name)) == _device(top)]
                for path in (Path(folder, name) for name in names):
                    yield f"{seen_as}/{path.relative_to(top)}", path

    def add_user(self, name: str, home: str, may_enter: Path | None = None) -> None:
        """Create a user and a group of that name in it, who own `home` and may enter the folders above a path."""
        line = f"{name}:x:{_NUMBER}:"
        self.run(f"echo {line}{_NUMBER}::{home}:/bin/sh >>/etc/passwd; echo {line} >>/etc/group")
        self.run(["install", "--directory", f"--owner={name}", f"--group={name}", home])
        folders = [folder for folder in may_enter.parents if folder.parts[1:2]] if may_enter else []
        self.run(["chmod", "o+x", *(folder for folder in folders if folder.parts[1] in FOLDERS)])


def _device(path: Path) -> int:
    return path.lstat().st_dev


# Of a user and group that no system has.
_NUMBER = 61987
