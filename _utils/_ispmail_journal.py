"""The journal of changes of one Postfix instance: tells the next change that one was cut off (power cut, kill).

It is there from before the first write of a change until all of its work is done, the reload of Postfix included. It is
written aside and renamed, so it is never empty or half-written while work is due. It is in the minion's cache, which
may be cleared: then what a change has left beside the files tells the same.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import urllib.parse
from collections.abc import Iterable, Iterator, Sequence

import _ispmail_files
from _ispmail_errors import Failed
from _ispmail_locks import alone

_HEAD = "work is due"
_FOLDER, _HISTORY = "postfix_change", ".history"


def interrupted(config_directory: str, cache_directory: str, files: Iterable[str]) -> bool:
    """Tell whether a change was cut off between its first write and its end (power cut, kill).

    Postfix may not have been reloaded then.

    Args:
        files: Those of the instance that changes replace, beside main.cf.

    Raises:
        Failed: That cannot be read.
    """
    return Journal(config_directory, cache_directory, files).due() is not None


def with_history(cache_directory: str) -> list[str]:
    """The configuration directories of all instances that a history is kept of.

    Raises:
        Failed: That cannot be read.
    """
    folder = os.path.join(cache_directory, _FOLDER)
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    except OSError as err:
        raise Failed(f"{folder} cannot be read: {err.strerror}") from err
    return sorted(urllib.parse.unquote(name.removesuffix(_HISTORY)) for name in names if name.endswith(_HISTORY))


class Journal:
    """The journal of one instance, in a directory of its own that only root may enter.

    `files` are those of the instance that changes replace, beside main.cf.
    """

    def __init__(self, config_directory: str, cache_directory: str, files: Iterable[str] = ()) -> None:
        self._config_directory = config_directory
        self._files = (os.path.join(config_directory, "main.cf"), *files)
        name = urllib.parse.quote(os.path.realpath(config_directory), safe="")
        self._path = os.path.join(cache_directory, _FOLDER, name)

    @property
    def workspace(self) -> str:
        """A directory for what a change needs for a moment; emptied by the next change."""
        return f"{self._path}.work"

    @property
    def history(self) -> str:
        """The directory of what earlier changes replaced."""
        return f"{self._path}{_HISTORY}"

    def due(self) -> list[str] | None:
        """The files of a change that was cut off; None where none was. Postfix may not have been reloaded then.

        Raises:
            Failed: That cannot be read.
        """
        written = self._written()
        return (_ispmail_files.with_side_names(self._files) or None) if written is None else written

    def keep(self, due: list[str] | None) -> None:
        """Write down what is due where that was lost: it is to be known when nothing is left beside the files.

        Raises:
            Failed: It cannot be written.
        """
        if due is not None and self._written() is None:
            self.write(due)

    def _written(self) -> list[str] | None:
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
        text = "\n".join([_HEAD, *paths, ""])
        try:
            _ispmail_files.write_aside(self._path, text.encode("utf-8", "surrogateescape"))
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
        directory = os.path.dirname(self._path)
        try:
            if not os.path.isdir(directory):
                os.makedirs(directory, mode=0o700, exist_ok=True)
                _ispmail_files.sync_directories([directory])
        except OSError as err:
            raise Failed(f"Nothing was changed: {directory} cannot be written: {err.strerror}") from err
        with alone(self._config_directory):
            try:
                if os.path.isdir(self.workspace):
                    shutil.rmtree(self.workspace)
                os.mkdir(self.workspace, 0o700)
            except OSError as err:
                raise Failed(f"Nothing was changed: {self.workspace} cannot be written: {err.strerror}") from err
            yield
