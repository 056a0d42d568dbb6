"""When the state of the maps was good last: a file whose modification time says it, for each pillar key."""

from __future__ import annotations

import os
import time
import urllib.parse

from _ispmail_errors import Failed


def note(folder: str, key: str) -> None:
    """Write down that an apply has succeeded now.

    Args:
        folder: Where it is written; made if it is not there.
        key: The pillar key of the configuration that was applied.

    Raises:
        Failed: It cannot be written.
    """
    path = _path(folder, key)
    try:
        try:
            os.utime(path)
        except FileNotFoundError:
            os.makedirs(folder, mode=0o700, exist_ok=True)
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600))
    except OSError as err:
        raise Failed(f"{path} cannot be written: {err.strerror}") from err


def ago(folder: str, key: str) -> float | None:
    """How many seconds ago an apply has succeeded last; None where that is not known.

    Args:
        folder: Where it is written.
        key: The pillar key of the configuration.
    """
    try:
        return max(0.0, time.time() - os.stat(_path(folder, key)).st_mtime)
    except OSError:
        return None


def _path(folder: str, key: str) -> str:
    return os.path.join(folder, f"applied-{urllib.parse.quote(key, safe='')}")
