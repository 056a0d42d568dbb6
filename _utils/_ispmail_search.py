"""Search configuration files and scripts of this server for a password, in any spelling. Bounded in time and size."""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import _ispmail_spellings
from _ispmail_errors import plural, printable, repr_without

# Where configuration and local scripts live. Home directories and web roots may be huge, and are not ours to read.
TREES = ("/etc", "/usr/local/bin", "/usr/local/sbin", "/usr/local/etc", "/var/spool/cron")
# Where any local user can have files, by crontab(1) and at(1).
JOBS = ("/var/spool/cron",)
# A shorter password is a part of too many words.
SHORTEST = 6
_SECONDS, _FILES = 20, 50_000
_LARGEST, _ALL_BYTES = 16 * 2**20, 512 * 2**20
# The same for all jobs of users together, so that they cannot use up what is for the server's own files.
_JOB_FILES, _JOB_BYTES = 2_000, 64 * 2**20
# How a compiled program begins, see elf(5): many are large, and a password in one is not one that is configured.
_ELF = b"\x7fELF"
_COMPRESSED = (".gz", ".xz", ".bz2", ".zst", ".zip")
# How many names a note tells.
_SHOWN = 3


class Searched(NamedTuple):
    """What a search has found."""

    found: tuple[str, ...]  # the files that hold one of the passwords, those of root first
    unsearched: Mapping[str, str]  # path to a sentence: whether these hold it is not known
    notes: tuple[str, ...]  # sentences: what was left out on purpose


class _Read:
    """How much was read."""

    def __init__(self) -> None:
        self.files = self.bytes = 0


class _State:
    def __init__(self, until: float) -> None:
        self.until = until
        self.read, self.jobs = _Read(), _Read()  # jobs: of users
        self.found: list[tuple[bool, str]] = []  # whether it is not root's, and its path
        self.unsearched: dict[str, str] = {}
        self.compressed: list[str] = []
        self.programs: list[str] = []
        self.left_jobs: list[str] = []


class _File(NamedTuple):
    content: bytes | None  # None where it is too large, or one job of a user too many
    uid: int
    is_users_job: bool

    def __repr__(self) -> str:
        return repr_without(self, "content")


class _Cut(Exception):
    """A limit is reached. Its text is the sentence about it."""

    def __init__(self, folder: str, text: str) -> None:
        super().__init__(text)
        self.folder = folder


def search(secrets: Collection[str], known: Collection[str], trees: Sequence[str]) -> Searched:
    """Search for passwords in all regular files of some trees. Symbolic links are not followed.

    Args:
        secrets: The passwords.
        known: Files and directories that are left out.
        trees: Where to search.
    """
    state = _State(time.monotonic() + _SECONDS)
    needles = [(_core(secret), _ispmail_spellings.spellings(secret)) for secret in secrets]
    left_out = frozenset(known)
    try:
        for tree in dict.fromkeys(map(os.path.realpath, trees)):
            for path in _files(tree, left_out, state):
                _look(path, needles, state)
    except _Cut as err:
        state.unsearched[err.folder] = str(err)
    notes = [
        f"{plural(len(paths), what)} cannot be searched: {_shown(paths)}"
        for what, paths in (
            ("compressed file", state.compressed),
            ("compiled program", state.programs),
        )
        if paths
    ]
    if state.left_jobs:
        notes.append(
            f"{plural(len(state.left_jobs), 'job')} of users too large, or too many: {_shown(state.left_jobs)}"
        )
    return Searched(tuple(path for _, path in sorted(state.found)), state.unsearched, tuple(notes))


def unsearchable(secret: str, words: Collection[str]) -> str:
    """Tell why a password cannot be searched for; empty where it can.

    Args:
        words: The account's own names, which stand in many files.
    """
    if len(secret) < SHORTEST:
        return f"it has less than {SHORTEST} characters, and so is a part of many words"
    if secret in words:
        return "it is the name of the account or of the database"
    return ""


def _files(folder: str, left_out: Collection[str], state: _State) -> Iterator[str]:
    """The regular files below a folder that are to be searched."""
    if folder in left_out:
        return
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as err:
        state.unsearched[folder] = f"{printable(folder)} cannot be read: {err.strerror}"
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _files(entry.path, left_out, state)
        elif entry.is_file(follow_symlinks=False) and entry.path not in left_out:
            if entry.name.endswith(_COMPRESSED):
                state.compressed.append(entry.path)
            else:
                yield entry.path


def _look(path: str, needles: Sequence[tuple[bytes, tuple[bytes, ...]]], state: _State) -> None:
    """Take down whether a file holds one of the passwords.

    Raises:
        _Cut: A limit is reached.
    """
    if time.monotonic() > state.until or state.read.files >= _FILES or state.read.bytes > _ALL_BYTES:
        limits = f"{_SECONDS} s, {_FILES:,} files or {_ALL_BYTES // 2**20} MiB"
        folder = os.path.dirname(path)
        raise _Cut(folder, f"{printable(folder)} and what comes after it was not searched: more than {limits}")
    try:
        file = _read(path, state)
    except FileNotFoundError:
        return
    except OSError as err:
        state.unsearched[path] = f"{printable(path)} cannot be read: {err.strerror}"
        return
    read = state.jobs if file.is_users_job else state.read
    read.files += 1
    read.bytes += len(file.content or b"")
    if file.content is None and file.is_users_job:
        state.left_jobs.append(path)
    elif file.content is None:
        state.unsearched[path] = f"{printable(path)} is larger than {_LARGEST // 2**20} MiB"
    elif file.content.startswith(_ELF):
        state.programs.append(path)
    # The core first: one pass over the file in place of some twenty.
    elif any(core in file.content and any(map(file.content.__contains__, each)) for core, each in needles):
        state.found.append((file.uid != 0, path))


def _read(path: str, state: _State) -> _File:
    """What a regular file holds. Nothing of anything else, the head of a program only."""
    # It may have become a FIFO since the folder was read.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as stream:
        status = os.fstat(descriptor)
        is_users_job = status.st_uid != 0 and any(path.startswith(f"{folder}/") for folder in JOBS)
        if not stat.S_ISREG(status.st_mode):
            content: bytes | None = b""
        elif is_users_job and (state.jobs.files >= _JOB_FILES or state.jobs.bytes > _JOB_BYTES):
            content = None
        else:
            head = stream.read(len(_ELF))
            content = head if head == _ELF else head + stream.read(_LARGEST)
    if content is not None and len(content) > _LARGEST:
        content = None
    return _File(content, status.st_uid, is_users_job)


def _core(secret: str) -> bytes:
    """The longest part that every spelling has: no format escapes ASCII letters and digits."""
    parts: list[str] = re.findall(r"[A-Za-z0-9]*", secret)
    return max(parts, key=len).encode()


def _shown(paths: Sequence[str]) -> str:
    more = len(paths) - _SHOWN
    return ", ".join(map(printable, paths[:_SHOWN])) + (f" and {more} more" if more > 0 else "")
