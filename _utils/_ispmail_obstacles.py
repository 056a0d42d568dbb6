"""What keeps files from being written or deleted, as far as that can be seen before it is tried."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import struct
from collections.abc import Mapping

from _ispmail_files import side_names

_GET_FLAGS, _IMMUTABLE, _APPEND_ONLY = 0x80086601, 0x10, 0x20  # FS_IOC_GETFLAGS, FS_IMMUTABLE_FL, FS_APPEND_FL
_FIXED = "is immutable or append-only: see lsattr -d"


def obstacles(rooms: Mapping[str, int]) -> list[str]:
    """Say why files cannot be replaced or deleted, as far as that can be seen; empty where they can be.

    Args:
        rooms: Each file to how many bytes are to be written beside it.
    """
    by_directory: dict[str, list[str]] = {}
    for path in rooms:
        by_directory.setdefault(_nearest(os.path.dirname(path)), []).append(path)
    mounted = _mount_points()
    found: list[str | None] = []
    by_disk: dict[int, list[str]] = {}
    for directory, paths in by_directory.items():
        if closed := _closed(directory):
            found.append(closed)
            continue
        found += [_in_the_way(path, mounted) for path in paths]
        by_disk.setdefault(os.stat(directory).st_dev, []).append(directory)
    for directories in by_disk.values():
        room = sum(rooms[path] for directory in directories for path in by_directory[directory])
        found.append(_full(directories[0], room))
    return list(dict.fromkeys(filter(None, found)))


def _nearest(directory: str) -> str:
    """A directory, or the next one above it that is there."""
    while not os.path.lexists(directory):
        directory = os.path.dirname(directory)
    return directory


def _closed(directory: str) -> str | None:
    if not os.access(directory, os.W_OK):
        return f"{directory} is immutable, or on a read-only file system: see lsattr -d and findmnt -T"
    return f"{directory} {_FIXED}" if _is_fixed(directory) else None


def _in_the_way(path: str, mounted: set[str]) -> str | None:
    for each in (path, *side_names(path)):
        # A file that is only renamed over need not be writable itself.
        if _is_fixed(each):
            return f"{each} {_FIXED}"
    for each in side_names(path):
        if os.path.isdir(each):
            return f"{each} is a directory, and needed for a moment: move it away"
    if mounted and os.path.realpath(path) in mounted:
        return f"{path} is a mount point: mount its directory instead"
    return None


def _full(directory: str, room: int) -> str | None:
    status = os.statvfs(directory)
    # Without f_blocks (and f_files) there is no limit.
    full = status.f_blocks and status.f_bfree * status.f_frsize < room
    if room and (full or (status.f_files and not status.f_ffree)):
        return f"{directory} is on a full file system: see df and df -i"
    return None


def _is_fixed(path: str) -> bool:
    return bool(_flags(path) & (_IMMUTABLE | _APPEND_ONLY))


def _flags(path: str) -> int:
    """The flags that lsattr(1) shows, see ioctl_iflags(2); none where the file system has none."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            # The kernel writes an int, although the request's number says a long.
            return int(struct.unpack_from("i", fcntl.ioctl(descriptor, _GET_FLAGS, bytes(8)))[0])
        finally:
            os.close(descriptor)
    return 0


def _mount_points() -> set[str]:
    """Every path that something is mounted on, see proc_pid_mountinfo(5)."""
    found: set[str] = set()
    with (
        contextlib.suppress(OSError),
        open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as stream,
    ):
        found.update(re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), line.split()[4]) for line in stream)
    return found
