"""Remember the files that a new password left behind: nobody can search for the old one any more.

A server that was down when a rotation asked, and takes the new password by itself later, would hide them for ever.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from _ispmail_errors import CannotAsk, Failed, IspmailError, NotPutBack

_NAME = "left_with_an_older_password"


class _Entry(NamedTuple):
    """A file, or folder, as it was then."""

    path: str
    mtime: int  # in ns since 1970
    size: int
    inode: int


def paths(folder: str) -> list[str]:
    """List the files, or folders, that are remembered and have neither gone nor changed since.

    Args:
        folder: Where it is written.

    Raises:
        CannotAsk: It cannot be read.
    """
    return [entry.path for entry in _read(folder)]


@contextlib.contextmanager
def added(folder: str, found: Collection[str]) -> Iterator[None]:
    """Remember files, or folders, beside those that are remembered already.

    If what follows fails and has put the server back, all is as before. After any other end the new password may be
    there.

    Args:
        folder: Where it is written.
        found: Their paths.

    Raises:
        CannotAsk, Failed: It cannot be read or written.
    """
    if not found:
        yield
        return
    before = _read(folder)
    _write(folder, list(dict.fromkeys([*before, *filter(None, map(_entry, found))])))
    try:
        yield
    except IspmailError as err:
        if not isinstance(err, NotPutBack):
            _write(folder, before)
        raise


def _entry(path: str) -> _Entry | None:
    """A file as it is now; None where it is not there."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return _Entry(path, status.st_mtime_ns, status.st_size, status.st_ino)


def _read(folder: str) -> list[_Entry]:
    path = os.path.join(folder, _NAME)
    try:
        with open(path, encoding="ascii") as stream:
            entries = [_Entry(**each) for each in json.load(stream)]
            return [entry for entry in entries if _entry(entry.path) == entry]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError) as err:
        reason = err.strerror if isinstance(err, OSError) else "it is damaged"
        raise CannotAsk(
            f"which files were left with an older password is not known: {path} cannot be read: {reason}: "
            "correct the files of this server that hold one, then delete it"
        ) from err


def _write(folder: str, entries: Sequence[_Entry]) -> None:
    """Write all aside, and rename it: a cut leaves the old ones or the new ones."""
    path = os.path.join(folder, _NAME)
    aside = f"{path}.new"
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(aside)
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "w", encoding="ascii") as stream:
            json.dump([each._asdict() for each in entries], stream)
            stream.flush()
            os.fsync(descriptor)
        os.rename(aside, path)
    except OSError as err:
        raise Failed(f"Nothing was changed: {path} cannot be written: {err.strerror}") from err
