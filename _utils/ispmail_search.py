"""Search configuration files and scripts of this server for a password, in any spelling. Bounded in time and size."""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

import ispmail_spellings
from ispmail_errors import plural

# Where configuration and local scripts live. Home directories and web roots may be huge, and are not ours to read.
TREES = ("/etc", "/usr/local/bin", "/usr/local/sbin", "/usr/local/etc", "/var/spool/cron")
# A shorter password is a part of too many words; so is one that is found in more files than that.
SHORTEST, MOST_FOUND = 6, 50
_SECONDS, _FILES = 20, 50_000
_LARGEST, _ALL_BYTES = 16 * 2**20, 512 * 2**20
# How a compiled program begins, see elf(5): many are large, and a password in one is not one that is configured.
_ELF = b"\x7fELF"
_COMPRESSED = (".gz", ".xz", ".bz2", ".zst", ".zip")
# How many names a note tells.
_SHOWN = 3


@dataclass(frozen=True)
class Searched:
    """What a search has found."""

    found: tuple[str, ...]  # the files that hold one of the passwords
    unsearched: tuple[str, ...]  # sentences, with a path at the beginning: whether these hold it is not known
    notes: tuple[str, ...]  # sentences: what was left out on purpose


@dataclass
class _State:
    until: float
    files: int = 0
    bytes: int = 0
    found: list[str] = field(default_factory=list)
    unsearched: list[str] = field(default_factory=list)
    compressed: list[str] = field(default_factory=list)
    programs: list[str] = field(default_factory=list)


class _Cut(Exception):
    """A limit is reached. Its text is the sentence about it."""


def search(secrets: Collection[str], known: Collection[str], trees: Sequence[str]) -> Searched:
    """Search for passwords in all regular files of some trees. Symbolic links are not followed.

    Args:
        secrets: The passwords.
        known: Files and directories that are left out, symbolic links resolved.
        trees: Where to search.
    """
    state = _State(time.monotonic() + _SECONDS)
    needles = [(_core(secret), ispmail_spellings.spellings(secret)) for secret in secrets]
    left_out = frozenset(known)
    try:
        for tree in dict.fromkeys(map(os.path.realpath, trees)):
            for path in _files(tree, left_out, state):
                if _holds(path, needles, state):
                    state.found.append(path)
    except _Cut as err:
        state.unsearched.append(str(err))
    notes = [
        f"{plural(len(paths), what)} cannot be searched: {_shown(paths)}"
        for what, paths in (("compressed file", state.compressed), ("compiled program", state.programs))
        if paths
    ]
    return Searched(tuple(sorted(state.found)), tuple(state.unsearched), tuple(notes))


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
        state.unsearched.append(f"{_printable(folder)} cannot be read: {err.strerror}")
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _files(entry.path, left_out, state)
        elif entry.is_file(follow_symlinks=False) and entry.path not in left_out:
            if entry.name.endswith(_COMPRESSED):
                state.compressed.append(entry.path)
            else:
                yield entry.path


def _holds(path: str, needles: Sequence[tuple[bytes, tuple[bytes, ...]]], state: _State) -> bool:
    """Whether a file holds one of the passwords.

    Raises:
        _Cut: A limit is reached.
    """
    state.files += 1
    if time.monotonic() > state.until or state.files > _FILES or state.bytes > _ALL_BYTES:
        limits = f"{_SECONDS} s, {_FILES:,} files or {_ALL_BYTES // 2**20} MiB"
        raise _Cut(f"{_printable(os.path.dirname(path))} and what comes after it was not searched: more than {limits}")
    try:
        content = _content(path)
    except FileNotFoundError:
        return False
    except OSError as err:
        state.unsearched.append(f"{_printable(path)} cannot be read: {err.strerror}")
        return False
    if content is not None and content.startswith(_ELF):
        state.programs.append(path)
        return False
    if content is None:
        state.unsearched.append(f"{_printable(path)} is larger than {_LARGEST // 2**20} MiB")
        return False
    state.bytes += len(content)
    # The core first: one pass over the file in place of some twenty.
    return any(core in content and any(each in content for each in spellings) for core, spellings in needles)


def _content(path: str) -> bytes | None:
    """What a regular file holds; None where it is too large. Nothing of anything else, the head of a program only."""
    # It may have become a FIFO since the folder was read.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as stream:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return b""
        head = stream.read(len(_ELF))
        content = head if head == _ELF else head + stream.read(_LARGEST)
    return None if len(content) > _LARGEST else content


def _core(secret: str) -> bytes:
    """The longest part that every spelling has: no format escapes ASCII letters and digits."""
    parts: list[str] = re.findall(r"[A-Za-z0-9]*", secret)
    return max(parts, key=len).encode()


def _shown(paths: Sequence[str]) -> str:
    more = len(paths) - _SHOWN
    return ", ".join(map(_printable, paths[:_SHOWN])) + (f" and {more} more" if more > 0 else "")


def _printable(path: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in path)
