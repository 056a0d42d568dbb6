"""The journal of changes of one Postfix instance: tells the next change that one was cut off (power cut, kill).

It is there from before the first write of a change until all of its work is done, the reload of Postfix included. It is
written aside and renamed, so it is never empty or half-written while work is due.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
import urllib.parse
from collections.abc import Iterator, Sequence

from ispmail_errors import Failed

_LOCK_SECONDS = 60
_HEAD = "work is due"


def interrupted(config_directory: str, cache_directory: str) -> bool:
    """Tell whether a change was cut off between its first write and its end (power cut, kill).

    Postfix may not have been reloaded then.

    Raises:
        Failed: That cannot be read.
    """
    return Journal(config_directory, cache_directory).due() is not None


class Journal:
    """The journal of one instance, in a directory of its own that only root may enter."""

    def __init__(self, config_directory: str, cache_directory: str) -> None:
        name = urllib.parse.quote(os.path.realpath(config_directory), safe="")
        self._path = os.path.join(cache_directory, "postfix_change", name)

    @property
    def workspace(self) -> str:
        """A directory for what a change needs for a moment; emptied by the next change."""
        return f"{self._path}.work"

    def due(self) -> list[str] | None:
        """The files of a change that was cut off; None where none was. Postfix may not have been reloaded then.

        Raises:
            Failed: That cannot be read.
        """
        try:
            with open(self._path, encoding="utf-8", errors="surrogateescape") as stream:
                lines = stream.read().splitlines()
        except FileNotFoundError:
            return None
        except OSError as err:
            raise Failed(f"Nothing was changed: {self._path} cannot be read: {err.strerror}") from err
        # Version 0.1.0 left an empty file where no work was due.
        return [line for line in lines if os.path.isabs(line)] if lines else None

    def write(self, paths: Sequence[str]) -> None:
        """Write down that work is due on these files, in place of what was written before.

        Raises:
            Failed: It cannot be written. It is as before then.
        """
        aside = f"{self._path}.new"
        try:
            with open(aside, "w", encoding="utf-8", errors="surrogateescape") as stream:
                stream.write("\n".join([_HEAD, *paths, ""]))
                stream.flush()
                os.fsync(stream.fileno())
            os.rename(aside, self._path)
            _sync(os.path.dirname(self._path))
        except OSError as err:
            raise Failed(f"Nothing was changed: {self._path} cannot be written: {err.strerror}") from err

    def clear(self) -> None:
        """Write down that nothing is due any more.

        Raises:
            Failed: It cannot be removed.
        """
        try:
            os.unlink(self._path)
        except FileNotFoundError:
            pass
        except OSError as err:
            raise Failed(f"{self._path} cannot be removed: {err.strerror}") from err

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Let one change at a time go on, with an empty workspace.

        Raises:
            Failed: Another one takes too long, or the directory cannot be written.
        """
        lock = f"{self._path}.lock"
        try:
            os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
            stream = open(lock, "a", encoding="ascii")  # noqa: SIM115  closed below
        except OSError as err:
            raise Failed(f"Nothing was changed: {lock} cannot be written: {err.strerror}") from err
        with stream:
            _wait_for(stream.fileno(), lock)
            try:
                if os.path.isdir(self.workspace):
                    shutil.rmtree(self.workspace)
                os.mkdir(self.workspace, 0o700)
            except OSError as err:
                raise Failed(f"Nothing was changed: {self.workspace} cannot be written: {err.strerror}") from err
            yield


def _wait_for(descriptor: int, lock: str) -> None:
    until = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as err:
            if time.monotonic() > until:
                raise Failed(
                    f"another apply has been at work for {_LOCK_SECONDS} s, nothing was changed: "
                    f"see who holds it with fuser {lock}"
                ) from err
        except OSError as err:
            raise Failed(f"Nothing was changed: {lock} cannot be locked: {err.strerror}") from err
        time.sleep(0.1)


def _sync(directory: str) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
