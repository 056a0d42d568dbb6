"""Locks: one change of an instance at a time, and none of main.cf while postconf edits it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
import urllib.parse
from collections.abc import Iterator

from _ispmail_errors import Failed

# How long to wait for another postconf, and for another change of the same instance, in seconds.
_POSTCONF_SECONDS, _CHANGE_SECONDS = 10, 60
# What anybody can open, anybody can lock: /etc/postfix and main.cf too.
_FOLDER = "/run/ispmail"


@contextlib.contextmanager
def alone(config_directory: str) -> Iterator[None]:
    """Let one change at a time of a Postfix instance go on, whichever minion or command makes it.

    The lock is a file that only root can open. It is not in the cache, as each minion has its own, nor on a disk that
    may be full.

    Raises:
        Failed: Another change takes too long, or the lock file cannot be written.
    """
    lock = os.path.join(_FOLDER, urllib.parse.quote(os.path.realpath(config_directory), safe=""))
    with contextlib.ExitStack() as stack:
        try:
            os.makedirs(_FOLDER, mode=0o700, exist_ok=True)
            busy = (
                f"another apply has been at work for {_CHANGE_SECONDS} s, nothing was changed: "
                f"see who holds it with fuser -v {lock}"
            )
            descriptor = _waited_for(lock, _CHANGE_SECONDS, busy)
            stack.callback(_unlock, lock, descriptor)
        except OSError as err:
            raise Failed(f"Nothing was changed: {lock} cannot be locked: {err.strerror}") from err
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
    with contextlib.ExitStack() as stack:
        try:
            busy = (
                f"another postconf has held {lock} for {_POSTCONF_SECONDS} s, nothing was written: "
                f"look with fuser {lock}"
            )
            descriptor = _waited_for(lock, _POSTCONF_SECONDS, busy)
            stack.callback(_unlock, lock, descriptor)
        except OSError as err:
            if required:
                raise Failed(f"{lock} cannot be written: {err.strerror}") from err
        yield


def _waited_for(lock: str, seconds: float, busy: str) -> int:
    """Open and lock a lock file, for some seconds at most.

    Raises:
        Failed: Somebody else has it all that time.
        OSError: It cannot be opened.
    """
    until = time.monotonic() + seconds
    while (descriptor := _opened_and_locked(lock)) is None:
        if time.monotonic() > until:
            raise Failed(busy)
        time.sleep(0.05)
    return descriptor


def _opened_and_locked(lock: str) -> int | None:
    """Open and lock a lock file; None where another process has it, or has just finished."""
    with contextlib.ExitStack() as stack:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        stack.callback(os.close, descriptor)
        # postconf renames its lock file away when it has finished, and we remove ours.
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
    """Lock an open file; False where somebody else has locked it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
