"""The version of the synced files, and how a minion's process drops an older library.

Salt replaces synced modules in a running minion, but not what they import: a library that the minion's main process has
imported once (a beacon runs there) would stay in every job that is forked from it. So each module, state, beacon and
runner imports this file before any other of ours, then calls `require`.
"""

from __future__ import annotations

import importlib
import sys
import threading

VERSION = "0.2.0"
# The hash of all synced files, written by bin/stamp.
STAMP = "a425983357b9"

# Nobody who has the lock waits for more than the import of one small file. A process may be forked meanwhile, though.
_LOCK, _SECONDS = threading.Lock(), 10


def require(stamp: str) -> None:
    """Drop the library from this process if it has another stamp, so that the imports below read the synced files.

    Args:
        stamp: The stamp that the importing module was written with.

    Raises:
        ImportError: The files on disk have another one: a sync is under way, or was cut off.
    """
    if stamp == STAMP:
        return
    # Threads of one process come here at the same time: what another one has just imported must not be dropped again.
    held = _LOCK.acquire(timeout=_SECONDS)
    try:
        there = sys.modules.get("_ispmail_stamp")
        if there is None or vars(there) is globals():
            for name in list(sys.modules):
                if name.startswith("_ispmail_"):
                    sys.modules.pop(name, None)
            importlib.invalidate_caches()
        found = importlib.import_module("_ispmail_stamp").STAMP
    finally:
        if held:
            _LOCK.release()
    if stamp != found:
        raise ImportError("the library of these modules is not here yet: run saltutil.sync_all, or try again")


def version() -> str:
    """Return version and stamp as one text, such as ``0.2.0+1f3a5c7e9b02``."""
    return f"{VERSION}+{STAMP}"
