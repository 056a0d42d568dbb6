"""bin/demo as a newcomer runs it, on a server that nothing else changes meanwhile."""

import fnmatch
import os
import re
import shutil
import subprocess
import sys

import pytest

from lab import scratch
from lab.minion import REPOSITORY
from lab.sandbox import Sandbox, missing_requirements
from lab.series import INSTALLED

from .. import pages

LEFT_OUT = shutil.ignore_patterns(".git", "__pycache__", ".*_cache", ".hypothesis")
HERE = "/srv/salt-ispmail"
# What bin/setup keeps, and what Python does.
KEPT = ("*/.cache/salt-ispmail/setup.lock", "*/__pycache__/*")
# Orphans of the program become children of this one, which reaps them; those that run at its end are told.
LAUNCHER = """
import ctypes, os, subprocess, sys
ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER
program = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
ended = None
while ended != program.pid:
    ended, status = os.wait()
try:
    while os.waitpid(-1, os.WNOHANG)[0]:
        pass
    print("processes are left")
except ChildProcessError:
    pass
sys.exit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.skipif(INSTALLED != "3008", reason="the demo takes Salt 3008")
@pytest.mark.parametrize("options", [(), ("--postgresql",)], ids=["MariaDB", "PostgreSQL"])
def test_the_demo_shows_what_it_says_and_leaves_nothing(options):
    """No test ran it, and it was broken by a change of the formula."""
    reason = missing_requirements()
    if reason and os.environ.get("CI") != "true":
        pytest.skip(reason)
    environment = {name: os.environ[name] for name in ("HOME", "PATH", "XDG_CACHE_HOME") if name in os.environ}
    (demo,) = pages.command("README.md", "bin/demo").words
    with scratch("d-") as directory, Sandbox(directory / "sandbox") as sandbox:
        sandbox.own_tmp(directory)
        shutil.copytree(REPOSITORY, sandbox.root / HERE[1:], symlinks=True, ignore=LEFT_OUT)
        done = subprocess.run(
            [sys.executable, "-c", LAUNCHER, *sandbox.enter, f"{HERE}/{demo}", *options],
            check=False,
            capture_output=True,
            text=True,
            timeout=600,
            cwd="/",
            env={**environment, "LC_ALL": "C.UTF-8"},
        )
        assert (done.returncode, done.stderr) == (0, ""), f"{done.stdout}{done.stderr}"
        *_, summary, last = done.stdout.splitlines()
        assert re.fullmatch(r"All \d+ checks passed in \d+ seconds\.", summary), done.stdout
        assert last == "Next: README.md explains how to use this on your mail server."
        assert re.search(r"(?m)^\d+\. Remove everything$", done.stdout) and "✗" not in done.stdout
        written = [path for path, _ in sandbox.written() if not path.startswith(f"{HERE}/")]
        assert [path for path in written if not any(fnmatch.fnmatch(path, kept) for kept in KEPT)] == []
