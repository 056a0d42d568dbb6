"""When something succeeded last: a file whose modification time says it, for each pillar key."""

from __future__ import annotations

import os
import time
import urllib.parse

from _ispmail_errors import Failed

# What is written down: an apply has succeeded, and the account on the database server got a password from here.
APPLIED, PASSWORD = "applied", "password"


def note(folder: str, key: str, what: str = APPLIED) -> None:
    """Write down that something has succeeded now.

    Args:
        folder: Where it is written; made if it is not there.
        key: The pillar key of the configuration.
        what: What has succeeded.

    Raises:
        Failed: It cannot be written.
    """
    path = _path(folder, key, what)
    try:
        try:
            os.utime(path)
        except FileNotFoundError:
            os.makedirs(folder, mode=0o700, exist_ok=True)
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600))
    except OSError as err:
        raise Failed(f"{path} cannot be written: {err.strerror}") from err


def when(folder: str, key: str, what: str = APPLIED) -> float | None:
    """When it has succeeded last, in seconds since 1970; None where that is not known.

    Args:
        folder: Where it is written.
        key: The pillar key of the configuration.
        what: What has succeeded.
    """
    try:
        return os.stat(_path(folder, key, what)).st_mtime
    except OSError:
        return None


def ago(folder: str, key: str, what: str = APPLIED) -> float | None:
    """How many seconds ago that was, as `when`."""
    found = when(folder, key, what)
    return None if found is None else max(0.0, time.time() - found)


def _path(folder: str, key: str, what: str) -> str:
    return os.path.join(folder, f"{what}-{urllib.parse.quote(key, safe='')}")
