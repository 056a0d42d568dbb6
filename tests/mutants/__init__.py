"""Mutation testing: where the driver finds and keeps what. `python -m tests.mutants` runs it."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
ROOMS = ("_utils", "_modules", "_states", "_runners", "_beacons")
SURVIVORS = ROOT / "tests" / "survivors.txt"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "salt-ispmail" / "mutants"


def own_tests(path: Path) -> str:
    """The name of the file of unit tests that a file has for itself."""
    return f"test_{path.stem.lstrip('_')}.py"
