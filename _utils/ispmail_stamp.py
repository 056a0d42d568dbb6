"""The version of the synced files, and how a minion's process drops an older library.

Salt replaces synced modules in a running minion, but not what they import: a library that the minion's main process has
imported once (a beacon runs there) would stay in every job that is forked from it. So the first import of each
module, state and beacon is this file, and the second line is `ispmail_stamp.require("…")`.
"""

from __future__ import annotations

import sys

VERSION = "0.1.0"
# The hash of all synced files, written by bin/stamp.
STAMP = "efc97bf4fa92"


def require(stamp: str) -> None:
    """Drop the library from this process if it has another stamp, so that the imports below read the synced files.

    Args:
        stamp: The stamp that the importing module was written with.
    """
    if stamp != STAMP:
        for name in [name for name in sys.modules if name.startswith("ispmail_")]:
            del sys.modules[name]


def version() -> str:
    """Return version and stamp as one text, such as ``0.1.0+1f3a5c7e9b02``."""
    return f"{VERSION}+{STAMP}"
