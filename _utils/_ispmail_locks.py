"""Locks: one change of an instance at a time, and none of main.cf while postconf edits it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator

from _ispmail_errors import Failed

# How long to wait for another postconf, and for another change of the same instance, in seconds.
_POSTCONF_SECONDS, _CHANGE_SECONDS = 10, 60


@contextlib.contextmanager
def alone(directory: str) -> Iterator[None]:
    """Let one change at a time go on that locks this directory, whichever minion or command makes it.

    Raises:
        Failed: Another change takes too long, or the directory cannot be locked.
    """
    until = time.monotonic() + _CHANGE_SECONDS
    with contextlib.ExitStack() as stack:
        try:
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
            stack.callback(os.close, descriptor)
            while not _locked(descriptor):
                if time.monotonic() > until:
                    raise Failed(
                        f"another apply has been at work for {_CHANGE_SECONDS} s, nothing was changed: "
                        f"see who holds it with fuser -v {directory}"
                    )
                time.sleep(0.1)
        except OSError as err:
            raise Failed(f"Nothing was changed: {directory} cannot be locked: {err.strerror}") from err
        yield


@contextlib.contextmanager
def postconf_lock(path: str, required: bool = True) -> Iterator[None]:
    """Hold the lock that `postconf -e` takes for a main.cf, so that neither loses the other's edit.

    Args:
        required: False: where the lock file cannot be written go on without it. On a full disk no postconf can write
            its own edit either.

    Raises:
        Failed: Another postconf holds it for too long, or the lock file cannot be written.
    """
    lock = f"{path}.tmp"
    until = time.monotonic() + _POSTCONF_SECONDS
    with contextlib.ExitStack() as stack:
        try:
            while (descriptor := _opened_and_locked(lock)) is None:
                if time.monotonic() > until:
                    raise Failed(
                        f"another postconf has held {lock} for {_POSTCONF_SECONDS} s, nothing was written: "
                        f"look with fuser {lock}"
                    )
                time.sleep(0.05)
            stack.callback(_unlock, lock, descriptor)
        except OSError as err:
            if required:
                raise Failed(f"{lock} cannot be written: {err.strerror}") from err
        yield


def _opened_and_locked(lock: str) -> int | None:
    """Open and lock a lock file; None where another postconf has it, or has just finished."""
    with contextlib.ExitStack() as stack:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        stack.callback(os.close, descriptor)
        # postconf renames its lock file away when it has finished.
        with contextlib.suppress(FileNotFoundError):
            if _locked(descriptor) and os.path.samestat(os.stat(lock), os.fstat(descriptor)):
                stack.pop_all()
                return descriptor
    return None


def _unlock(lock: str, descriptor: int) -> None:
    """Remove and close a lock file."""
    # One that is left harms nobody: postconf opens it again.
    with contextlib.suppress(OSError):
        os.unlink(lock)
    os.close(descriptor)


def _locked(descriptor: int) -> bool:
    """Lock an open file or directory; False where somebody else has locked it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
