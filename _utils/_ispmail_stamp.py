"""The version of the synced files, and how a minion's process drops an older library.

Salt replaces synced modules in a running minion, but not what they import: a library that the minion's main process has
imported once (a beacon runs there) would stay in every job that is forked from it. So each module, state, beacon and
runner imports this file before any other of ours, then calls `require`.
"""

from __future__ import annotations

import importlib
import sys

VERSION = "0.2.0"
# The hash of all synced files, written by bin/stamp.
STAMP = "3358a110dda1"


def require(stamp: str) -> None:
    """Drop the library from this process if it has another stamp, so that the imports below read the synced files.

    Args:
        stamp: The stamp that the importing module was written with.

    Raises:
        ImportError: The files on disk have another one: a sync is under way, or was cut off.
    """
    if stamp == STAMP:
        return
    # Another thread may be at the same.
    for name in list(sys.modules):
        if name.startswith("_ispmail_"):
            sys.modules.pop(name, None)
    importlib.invalidate_caches()
    if stamp != importlib.import_module("_ispmail_stamp").STAMP:
        raise ImportError("the library of these modules is not here yet: run saltutil.sync_all, or try again")


def version() -> str:
    """Return version and stamp as one text, such as ``0.2.0+1f3a5c7e9b02``."""
    return f"{VERSION}+{STAMP}"
