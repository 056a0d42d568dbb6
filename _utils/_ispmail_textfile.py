"""Write the file that Prometheus' node_exporter reads as textfile: never half-written, never elsewhere."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator

from _ispmail_errors import CannotAsk, Failed

_ABOUT = "others than root could put a file of theirs in its place"


def obstacle(path: str) -> str:
    """Say why the file cannot be written; empty where it can."""
    try:
        with _directory(path) as directory:
            _refuse_other(path, directory)
    except CannotAsk as err:
        return str(err)
    return ""


def write(path: str, content: str) -> None:
    """Replace the file, readable for all.

    Raises:
        Failed: It cannot be written; it is as before.
    """
    name, aside = os.path.basename(path), f".{os.path.basename(path)}.new"
    with _directory(path) as directory:
        _refuse_other(path, directory)
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(aside, dir_fd=directory)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(aside, flags, 0o600, dir_fd=directory)
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(content)
                file.flush()
                os.fsync(descriptor)
                os.fchmod(descriptor, 0o644)
            os.rename(aside, name, src_dir_fd=directory, dst_dir_fd=directory)
        except OSError as err:
            with contextlib.suppress(OSError):
                os.unlink(aside, dir_fd=directory)
            raise Failed(f"{path} cannot be written: {err.strerror}") from err


@contextlib.contextmanager
def _directory(path: str) -> Iterator[int]:
    """Open the directory, from the root on and through no link: who owns a part of the path could turn it elsewhere.

    Debian's /var/lib/prometheus belongs to the user of that name, what is in it to root.

    Raises:
        CannotAsk: It is not there, or others may write in it.
    """
    folder = os.path.dirname(path)
    descriptor = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in filter(None, folder.split("/")):
            try:
                flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                below = os.open(part, flags, dir_fd=descriptor)
            except OSError as err:
                raise CannotAsk(
                    f"{folder} is no directory that can be used ({err.strerror}): install prometheus-node-exporter, or "
                    "name one that is there, without a symbolic link in its path"
                ) from err
            os.close(descriptor)
            descriptor = below
        status = os.fstat(descriptor)
        if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise CannotAsk(f"{folder} must be root's, and writable for nobody else: {_ABOUT}")
        yield descriptor
    finally:
        os.close(descriptor)


def _refuse_other(path: str, directory: int) -> None:
    """Refuse to replace what is no file.

    Raises:
        CannotAsk: It is a link, a directory or a device.
    """
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(os.stat(os.path.basename(path), dir_fd=directory, follow_symlinks=False).st_mode):
            raise CannotAsk(f"{path} is no regular file: remove it, or name another one")
