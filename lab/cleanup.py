"""Remove the lab's folders with their mounts, and what a killed Python process has left behind."""

from __future__ import annotations

import re
import subprocess
import tempfile
import time
from pathlib import Path

from lab.processes import PREFIX, hierarchies, mounts, remove_control_group

TMP = Path(tempfile.gettempdir())
NAMESPACES = Path("/var/run/netns")


def remove(folder: Path) -> None:
    """Unmount everything below a folder of ours, then delete it. What stays mounted is not touched."""
    for point in [Path(mount[4]) for mount in mounts()]:
        if folder in (point, *point.parents):
            _unmount(point)
    if folder.exists():
        subprocess.run(["rm", "-rf", "--one-file-system", str(folder)], check=True)


def clean() -> None:
    """Remove the machines, mounts, network namespaces and control groups of Python processes that no longer exist."""
    for mounted in hierarchies("cgroup2", "cgroup"):
        for group in _orphans(mounted):
            remove_control_group(group)
    for folder in _orphans(TMP):
        remove(folder)
    for namespace in _orphans(NAMESPACES):
        subprocess.run(["ip", "netns", "delete", namespace.name], check=False)


def _orphans(folder: Path) -> list[Path]:
    """What is in the folder and was created by a process that no longer exists."""
    found = [(path, re.match(PREFIX + r"(\d+)-", path.name)) for path in folder.glob(PREFIX + "*")]
    return [path for path, match in found if match and not Path("/proc", match[1]).exists()]


def _unmount(point: Path) -> None:
    for _ in range(50):  # a mount stays busy until the last process has gone
        if subprocess.run(["umount", str(point)], stderr=subprocess.DEVNULL).returncode == 0:
            return
        time.sleep(0.1)
