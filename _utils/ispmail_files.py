"""Read and replace configuration files: all of a set or none, and never half-written or readable by others.

Postfix programs pause while a configuration file is less than 2 s old. So a file is written under a temporary name with
its final owner and mode, its modification time is set back, and only then it is renamed.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import fcntl
import os
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from ispmail_errors import CannotAsk, ChangedMeanwhile, Failed

# How far the modification time is set back, in seconds.
BACKDATED = 5
_LOCK_SECONDS = 10
# Of a file that is read, in bytes: Postfix's own are much smaller.
_LARGEST = 16 * 2**20


@dataclass(frozen=True)
class File:
    """A file as it is on disk. `content` is None where there is no such file."""

    path: str  # symbolic links resolved
    content: bytes | None = field(repr=False)
    uid: int = 0
    gid: int = 0
    mode: int = 0  # permission bits only
    mtime_ns: int | None = None


@dataclass(frozen=True)
class Replacement:
    """What a file becomes: `new`, or nothing where `new.content` is None.

    Nothing is replaced unless the file still holds one of `still`, where that is given. With `lock` postconf's own
    lock is held meanwhile.
    """

    new: File
    still: tuple[bytes | None, ...] | None = field(default=None, repr=False)
    lock: bool = False

    @property
    def path(self) -> str:
        """Which file it is."""
        return self.new.path


def read(path: str) -> File:
    """Read a file with its owner, mode and time; a symbolic link is followed.

    Raises:
        CannotAsk: The file is there and cannot be read.
    """
    try:
        # Not to wait for the other end of a FIFO.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as stream:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST:
                raise CannotAsk(f"{path} is not a configuration file: it is no regular file, or too large")
            content = stream.read(_LARGEST)
    except FileNotFoundError:
        return File(os.path.realpath(path), None)
    except OSError as err:
        raise CannotAsk(f"{path} cannot be read: {err.strerror}") from err
    return File(
        os.path.realpath(path), content, status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode), status.st_mtime_ns
    )


def replace(replacements: Sequence[Replacement]) -> list[Replacement]:
    """Replace files, all of them or none.

    Returns:
        The replacements that put everything back as it was.

    Raises:
        ChangedMeanwhile: Somebody else has changed one of the files.
        Failed: A file cannot be written. Nothing is changed in either case.
    """
    before: list[File] = []
    written: list[str] = []
    try:
        with contextlib.ExitStack() as stack:
            for replacement in replacements:
                if replacement.lock:
                    stack.enter_context(_postconf_lock(replacement.path))
            writes = [replacement.new for replacement in replacements if replacement.new.content is not None]
            written = [_temporary(file.path) for file in writes]
            with concurrent.futures.ThreadPoolExecutor(8) as pool:
                list(pool.map(_write_temporary, writes))
            # Read as late as possible: what somebody else writes from here on would be lost.
            before = [read(replacement.path) for replacement in replacements]
            for replacement, old in zip(replacements, before):
                allowed = replacement.still
                if allowed is not None and old.content not in (*allowed, replacement.new.content):
                    raise ChangedMeanwhile(
                        f"{replacement.path} was changed by somebody else meanwhile, nothing was written: try again"
                    )
            _rename_all(replacements, before)
    except OSError as err:
        # write(2) names no file, rename(2) two.
        path = err.filename2 or err.filename or ", ".join(replacement.path for replacement in replacements)
        raise Failed(f"{path} cannot be written: {err.strerror}") from err
    finally:
        for path in written:
            with contextlib.suppress(OSError):
                os.unlink(path)
    return [
        Replacement(old, still=(replacement.new.content,), lock=replacement.lock)
        for replacement, old in zip(replacements, before)
    ]


def remove_leftovers(paths: Iterable[str]) -> None:
    """Remove what a killed `replace` has left beside these files: it may hold a secret.

    Raises:
        Failed: One cannot be removed.
    """
    for path in paths:
        try:
            os.unlink(_temporary(path))
        except FileNotFoundError:
            pass
        except OSError as err:
            raise Failed(f"{err.filename} cannot be removed: {err.strerror}") from err


def _rename_all(replacements: Sequence[Replacement], before: Sequence[File]) -> None:
    done: list[File] = []
    try:
        for replacement, old in zip(replacements, before):
            done.append(old)
            if replacement.new.content is not None:
                os.rename(_temporary(replacement.path), replacement.path)
            elif old.content is not None:
                os.unlink(replacement.path)
        for directory in {os.path.dirname(replacement.path) for replacement in replacements}:
            _fsync(directory)
    except BaseException:
        for old in done:
            if old.content is None:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(old.path)
            else:
                _write_temporary(old)
                os.rename(_temporary(old.path), old.path)
        raise


def _temporary(path: str) -> str:
    """The one name under which a file is prepared, so that none is left for long."""
    return os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.new")


def _write_temporary(file: File) -> None:
    temporary = _temporary(file.path)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "wb") as stream:
        os.fchown(descriptor, file.uid, file.gid)
        os.fchmod(descriptor, file.mode)
        stream.write(file.content or b"")
        stream.flush()
        backdated = time.time_ns() - BACKDATED * 10**9
        when = backdated if file.mtime_ns is None else min(file.mtime_ns, backdated)
        os.utime(descriptor, ns=(when, when))
        os.fsync(descriptor)


def _fsync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _postconf_lock(path: str) -> Iterator[None]:
    """Hold the lock that `postconf -e` takes, so that neither loses the other's edit."""
    lock = f"{path}.tmp"
    until = time.monotonic() + _LOCK_SECONDS
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # postconf renames its lock file away when it has finished.
            if os.path.exists(lock) and os.path.samestat(os.stat(lock), os.fstat(descriptor)):
                break
        except BlockingIOError:
            pass
        os.close(descriptor)
        if time.monotonic() > until:
            raise Failed(
                f"another postconf has held {lock} for {_LOCK_SECONDS} s, nothing was written: look with fuser {lock}"
            )
        time.sleep(0.05)
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(lock)
        os.close(descriptor)
