"""Read and replace configuration files, with a way back, and never half-written or readable by others.

Postfix programs pause while a configuration file is less than 2 s old. So a file is written under a temporary name with
its final owner and mode, its modification time is set back, and only then it is renamed. The old file keeps a second
name until the end: to put it back is a rename, which needs no room on the disk.
"""

from __future__ import annotations

import contextlib
import functools
import os
import stat
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import BinaryIO, NamedTuple

from _ispmail_command import as_user
from _ispmail_errors import CannotAsk, ChangedMeanwhile, Failed, IspmailError, repr_without
from _ispmail_locks import postconf_lock

# How far the modification time is set back, in seconds.
BACKDATED = 5
# Of a file that is read, in bytes: Postfix's own are much smaller.
_LARGEST = 16 * 2**20
_PIECE = 2**16
# How many files are written before they are fsynced: each is open until then.
_TOGETHER = 64
# How many links Linux follows in one path, see path_resolution(7).
_MOST_LINKS = 40
# How long a file system may take to say who may open a file, in seconds.
_SECONDS = 10
# How the names end under which a file is prepared, and keeps what it held before.
_SIDES = (".new", ".old")


class File(NamedTuple):
    """A file as it is on disk. `content` is None where there is no such file."""

    path: str  # symbolic links resolved
    content: bytes | None
    uid: int = 0
    gid: int = 0
    mode: int = 0  # permission bits only

    def __repr__(self) -> str:
        return repr_without(self, "content")


class Replacement(NamedTuple):
    """What a file becomes: `new`, or nothing where `new.content` is None.

    Nothing is replaced unless the file still holds one of `still`, where that is given. A main.cf has `lock`: whatever
    is done to it later takes postconf's own lock.
    """

    new: File
    still: tuple[bytes | None, ...] | None = None
    lock: bool = False

    def __repr__(self) -> str:
        return repr_without(self, "still")

    @property
    def path(self) -> str:
        """Which file it is."""
        return self.new.path


def require_root() -> None:
    """Refuse to begin what only root can end: to read table files, and to replace them with their owner and mode.

    Raises:
        CannotAsk: We are not root.
    """
    if os.geteuid():
        raise CannotAsk("only root can read and replace table files: run the minion (or salt-call) as root")


def permits(user: str, access: str, path: str) -> bool:
    """Whether a user, with all groups it is in, may read a file (access r) or enter a directory (x), by test(1).

    Raises:
        CannotAsk: There is no such user, or the file system does not answer.
    """
    try:
        done = subprocess.run(["test", f"-{access}", path], check=False, timeout=_SECONDS, **as_user(user))
    except subprocess.TimeoutExpired:
        raise CannotAsk(f"{path} could not be opened within {_SECONDS} s: check its file system") from None
    return done.returncode == 0


def content(path: str) -> bytes | None:
    """What a file holds, a symbolic link followed; None where there is no such file.

    Raises:
        CannotAsk: The file is there and cannot be read.
    """
    return _at(path).content


def resolver() -> Callable[[str], str]:
    """Make a function that follows links as realpath does, and looks at each path, and at its directory, only once."""
    real_directory = functools.cache(os.path.realpath)

    @functools.cache
    def resolve(path: str) -> str:
        directory, name = os.path.split(path)
        if name in ("", os.curdir, os.pardir):
            return os.path.realpath(path)
        there = os.path.join(real_directory(directory), name)
        return os.path.realpath(there) if os.path.islink(there) else there

    return resolve


def inside(chroot: str, path: str) -> str:
    """Where a path leads for a process in a chroot, as it is seen from outside: there, no link leads out of it.

    What is returned has no links, so whoever opens it meets what that process meets. Where that meets nothing, nothing
    is at what is returned either: links that lead to each other without an end are shown as ``link->target``.

    Args:
        chroot: Its root directory; a relative path begins there too.
        path: As the process spells it.
    """
    root = here = os.path.realpath(chroot)
    waiting, links = path.split("/")[::-1], 0
    while waiting:
        part = waiting.pop()
        if part in ("", os.curdir):
            continue
        if not os.path.isdir(here):
            return "/".join((here, part, *reversed(waiting)))
        if part == os.pardir:
            here = here if here == root else os.path.dirname(here)
            continue
        step = os.path.join(here, part)
        try:
            target = os.readlink(step)
        except OSError:
            here = step
            continue
        links += 1
        if links > _MOST_LINKS:
            return f"{step}->{target}"
        here = root if target.startswith("/") else here
        waiting += target.split("/")[::-1]
    return here


def read(path: str, resolve: Callable[[str], str] = os.path.realpath) -> File:
    """Read a file with its owner and mode; a symbolic link is followed.

    Args:
        resolve: Path to real path, see `resolver`.

    Raises:
        CannotAsk: The file is there and cannot be read.
    """
    # Opened as it is spelled: Python's realpath takes x/ and x/../y, where x is a file, for files too.
    return _at(path)._replace(path=resolve(path))


def on_disk(file: File) -> File:
    """Read what there is now in a file's place.

    Raises:
        CannotAsk: The file is there and cannot be read.
    """
    return _at(file.path)


def _at(path: str) -> File:
    """Read the file of a path that is taken as it is."""
    try:
        # Not to wait for the other end of a FIFO.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST:
                raise CannotAsk(f"{path} is no regular file, or larger than {_LARGEST >> 20} MiB")
            # Most table files are one piece, and a file object costs more than to read it.
            pieces, room = [], _LARGEST
            while piece := os.read(descriptor, min(_PIECE, room)):
                pieces.append(piece)
                room -= len(piece)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        return File(path, None)
    except OSError as err:
        raise CannotAsk(f"{path} cannot be read: {err.strerror}") from err
    return File(path, b"".join(pieces), status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode))


class Exchange:
    """Files that take the place of others: `put`, `go_on`, `delete`, `forget`; or back by `restore` and `drop`.

    `begun` lists the files that may differ from what they were, in the order in which they were changed. Each method
    raises an error of ours and leaves `begun` right, so that what is there can be told.
    """

    def __init__(self, replacements: Sequence[Replacement]) -> None:
        self._replacements = tuple(replacements)
        self._old: dict[str, File] = {}
        self._new = {each.path: each for each in self._replacements}
        # What each file may hold that we have written, the latest last.
        self._written = {each.path: [each.new.content] for each in self._replacements}
        self.begun: list[str] = []
        self.went_on = 0  # times

    @property
    def paths(self) -> list[str]:
        """The files that are replaced or deleted."""
        return list(self._new)

    @property
    def going(self) -> list[str]:
        """The files that `delete` deletes; known once the others are put."""
        return [path for path, each in self._new.items() if each.new.content is None and self._exists_before(path)]

    @property
    def coming(self) -> list[str]:
        """The files that were not there before, and are there now: `drop` removes them."""
        return [path for path in self.begun if not self._exists_before(path)]

    def put(self) -> None:
        """Replace the files that get new content, in the order given; those to be deleted are only looked at.

        The caller holds the `postconf_lock` of a main.cf among them.

        Raises:
            ChangedMeanwhile: Somebody else has changed one of the files.
            Failed: A file cannot be written, or not be kept.
        """
        writes = [each for each in self._replacements if each.new.content is not None]
        with _failures(self.paths):
            _write_temporaries([each.new for each in writes])
            # Read as late as possible: what somebody else writes from here on would be lost.
            for each in self._replacements:
                self._old[each.path] = self._kept(each)
            for each in writes:
                self.begun.append(each.path)
                os.rename(_temporary(each.path), each.path)
            sync_directories(each.path for each in writes)

    def go_on(self, step: Replacement) -> None:
        """Give one of the files that were replaced its next content.

        Raises:
            ChangedMeanwhile: Somebody else has changed it since.
            Failed: It cannot be written.
        """
        path, written = step.path, self._written[step.path]
        with _failures([path]), contextlib.ExitStack() as stack:
            if step.lock:
                stack.enter_context(postconf_lock(path))
            _write_temporaries([step.new])
            # Not what would change nothing either: they wrote that, and it is not ours to take back.
            if content(path) != written[-1]:
                raise _changed_meanwhile(path)
            written.append(step.new.content)
            os.rename(_temporary(path), path)
            self.went_on += 1
            sync_directories([path])

    def delete(self) -> None:
        """Delete the files that are to be deleted.

        Raises:
            ChangedMeanwhile: Somebody else has changed one.
            Failed: One cannot be deleted.
        """
        going = self.going
        with _failures(going):
            for path in going:
                if content(path) not in (None, self._old[path].content):
                    raise _changed_meanwhile(path)
                self.begun.append(path)
                _unlink(path)
            sync_directories(going)

    def forget(self) -> None:
        """Remove what is left beside the files: the temporary ones, and the second names of the old ones.

        Then all renames and deletions are on the disk.

        Raises:
            Failed: One cannot be removed.
        """
        remove_leftovers(self.paths)

    def restore(self, edited: Callable[[], Replacement] | None = None) -> None:
        """Put the old files back, in reverse order; new files stay until `drop`, Postfix may still ask them.

        Args:
            edited: Gives the replacement of main.cf where somebody else has edited it since.

        Raises:
            ChangedMeanwhile: Somebody else has changed a table file.
            Failed: A file cannot be put back. It and those changed before it are left as they are.
        """
        for path in [path for path in reversed(self.begun) if self._exists_before(path)]:
            ours = (self._old[path].content, *self._written[path])
            with _failures([path]), contextlib.ExitStack() as stack:
                if self._new[path].lock:
                    stack.enter_context(postconf_lock(path, required=False))
                unchanged = content(path) in ours
                if unchanged:
                    os.rename(_second_name(path), path)
            if not unchanged:
                if edited is None or not self._new[path].lock:
                    raise ChangedMeanwhile(f"{path} was changed by somebody else meanwhile")
                with postconf_lock(path):
                    replace(edited())
            self.begun.remove(path)

    def drop(self) -> list[str]:
        """Remove the files that were not there before.

        Returns:
            Those that are left, because somebody else has changed them.

        Raises:
            Failed: One cannot be removed.
        """
        coming, left = self.coming, []
        with _failures(coming):
            for path in coming:
                if content(path) in (None, *self._written[path]):
                    _unlink(path)
                else:
                    left.append(path)
                self.begun.remove(path)
        return left

    def _exists_before(self, path: str) -> bool:
        return self._old[path].content is not None

    def _kept(self, replacement: Replacement) -> File:
        """Read an old file, refuse one that somebody else has changed, and give it a second name."""
        path = replacement.path
        old = on_disk(replacement.new)
        _refuse_changed(replacement, old)
        if old.content is not None:
            _unlink(_second_name(path))
            os.link(path, _second_name(path))
        return old


def _refuse_changed(replacement: Replacement, found: File) -> None:
    allowed = replacement.still
    if allowed is not None and found.content not in (*allowed, replacement.new.content):
        raise _changed_meanwhile(found.path)


def _changed_meanwhile(path: str) -> ChangedMeanwhile:
    return ChangedMeanwhile(f"{path} was changed by somebody else meanwhile: try again")


def replace(replacement: Replacement) -> None:
    """Replace one file; the caller holds the `postconf_lock` of a main.cf.

    Raises:
        ChangedMeanwhile: Somebody else has changed it.
        Failed: It cannot be written. It is as before in either case, or the error names a second failure.
    """
    exchange = Exchange([replacement])
    try:
        exchange.put()
    except IspmailError as err:
        try:
            exchange.restore()
            exchange.drop()
            exchange.forget()
        except IspmailError as second:
            raise Failed(f"{err}; {second}") from err
        raise
    exchange.forget()


def unsafe_directory(directory: str) -> str | None:
    """Say where others than root could put a link or a file of theirs in place of root's; None where nobody can."""
    first = directory = os.path.realpath(directory)
    while True:
        try:
            status = os.stat(directory)
        except OSError as err:
            return f"{directory} cannot be read: {err.strerror}"
        by_group = status.st_mode & stat.S_IWGRP and status.st_gid != 0
        # In a directory like /tmp nobody can replace what is root's, but anybody can make a new file.
        sticky = status.st_mode & stat.S_ISVTX and directory != first
        if status.st_uid != 0 or ((by_group or status.st_mode & stat.S_IWOTH) and not sticky):
            return f"others than root may write in {directory}"
        if directory == "/":
            return None
        directory = os.path.dirname(directory)


def remove_leftovers(paths: Iterable[str]) -> None:
    """Remove what a change that was cut off has left beside these files: it may hold a password.

    Raises:
        Failed: One cannot be removed; the others are.
    """
    failures, there = [], []
    for path in paths:
        if os.path.isdir(os.path.dirname(path)):
            there.append(path)
        for leftover in side_names(path):
            try:
                os.unlink(leftover)
            except FileNotFoundError:
                pass
            except OSError as err:
                failures.append(f"{leftover}, which may hold a password, cannot be removed: {err.strerror}")
    if failures:
        raise Failed("; ".join(failures))
    with _failures(there):
        sync_directories(there)


@contextlib.contextmanager
def _failures(paths: Sequence[str]) -> Iterator[None]:
    """Turn an error of the system into one of ours, with the file that it is about."""
    try:
        yield
    except OSError as err:
        # write(2) names no file, rename(2) and link(2) two.
        path = err.filename2 or err.filename or ", ".join(paths)
        raise Failed(f"{path} cannot be written: {err.strerror}") from err


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def side_names(path: str) -> tuple[str, str]:
    """The other names that a file has while it is replaced, and after a change of it that was cut off."""
    return _temporary(path), _second_name(path)


def with_side_names(paths: Iterable[str]) -> list[str]:
    """Those files that have another name beside them, by one listing of each directory; symbolic links are resolved.

    Raises:
        CannotAsk: A directory cannot be read.
    """
    names: dict[str, set[str]] = {}
    for path in paths:
        directory, _, name = path.rpartition("/")
        names.setdefault(directory, set()).add(name)
    found = []
    for directory, ours in names.items():
        there = os.path.realpath(directory)
        try:
            with os.scandir(there) as entries:
                for entry in entries:
                    if entry.name[0] == "." and entry.name[-4:] in _SIDES and entry.name[1:-4] in ours:
                        found.append(os.path.join(there, entry.name[1:-4]))
                    elif entry.name in ours and entry.is_symlink():
                        real = os.path.realpath(entry.path)
                        found += [real for side in side_names(real) if os.path.lexists(side)]
        except FileNotFoundError:
            continue
        except OSError as err:
            raise CannotAsk(f"{there} cannot be read: {err.strerror}") from err
    return list(dict.fromkeys(found))


def _second_name(path: str) -> str:
    """Where the old file stays until the end of a change."""
    return os.path.join(os.path.dirname(path), f".{os.path.basename(path)}{_SIDES[1]}")


def _temporary(path: str) -> str:
    """The one name under which a file is prepared, so that none is left for long."""
    return os.path.join(os.path.dirname(path), f".{os.path.basename(path)}{_SIDES[0]}")


def _write_temporaries(files: Sequence[File]) -> None:
    """Write the temporary files, and fsync them after up to `_TOGETHER` are written: that is faster than one by one."""
    for start in range(0, len(files), _TOGETHER):
        with contextlib.ExitStack() as stack:
            streams = [stack.enter_context(_written_temporary(each)) for each in files[start : start + _TOGETHER]]
            for stream in streams:
                os.fsync(stream.fileno())


def _written_temporary(file: File) -> BinaryIO:
    temporary = _temporary(file.path)
    _unlink(temporary)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(open(descriptor, "wb"))
        os.fchown(descriptor, file.uid, file.gid)
        os.fchmod(descriptor, file.mode)
        stream.write(file.content or b"")
        stream.flush()
        os.utime(descriptor, (time.time() - BACKDATED,) * 2)
        stack.pop_all()
        return stream


def write_aside(path: str, content: bytes) -> None:
    """Write a file of our own, which only root may read: aside, and renamed, so that it is never half-written.

    Raises:
        OSError: It cannot be written. It is as before then.
    """
    # One that is there may be open to others, or be somebody else's.
    _unlink(aside(path))
    descriptor = os.open(aside(path), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(descriptor)
    os.rename(aside(path), path)
    sync_directories([path])


def aside(path: str) -> str:
    """The name under which `write_aside` prepares a file."""
    return f"{path}.new"


def sync_directories(paths: Iterable[str]) -> None:
    """Have the names of these files on the disk.

    Raises:
        OSError: Names the directory.
    """
    for directory in {os.path.dirname(path) for path in paths}:
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as err:
            # fsync(2) names no file.
            raise OSError(err.errno, err.strerror, directory) from err
        finally:
            os.close(descriptor)
