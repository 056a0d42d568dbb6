"""The checkout as a Python package: Salt finds its modules by the entry point `salt.loader`, see pyproject.toml.

Only a wheel has the folders `_modules`, `_utils`, … beside this file: the same tree as the checkout.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

FOLDER = Path(__file__).resolve().parent
_LIBRARY = str(FOLDER / "_utils")


def folders() -> dict[str, list[str]]:
    """Return the folders of each kind of module, as Salt's loader wants them."""
    return {kind: [str(FOLDER / f"_{kind}")] for kind in ("modules", "states", "beacons", "runners")}


class _LastFinder:
    """Finds the library where nothing on sys.path has it.

    Salt's loader puts the folder of a synced library at the end of sys.path while it loads a module, but no folder of a
    package. As Salt prefers synced modules to a package's, their library must come first too: so the package's folder
    cannot be on sys.path.
    """

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        return PathFinder.find_spec(name, [_LIBRARY]) if name.startswith("_ispmail_") else None


sys.meta_path.append(_LastFinder)
