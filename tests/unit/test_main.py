"""How a process of bin/test ends: by the tests' code, by a signal, and in spite of a thread that does not end."""

import os
import signal
import subprocess
import sys
import time

import pytest

from lab import wait_until
from lab.minion import REPOSITORY

TESTS = """
import atexit, threading, time
from pathlib import Path
import pytest

HERE = Path(__file__).parent
atexit.register((HERE / "ended").touch)

@pytest.fixture
def server():
    yield
    (HERE / "stopped").touch()

def test_that_passes(server):
    {body}

def test_that_fails():
    assert {second}
"""
FOREVER = "threading.Thread(target=time.sleep, args=[60], name='a plugin').start()"
LATE = "threading.Thread(target=time.sleep, args=[0.5], name='a plugin').start()"


@pytest.fixture
def started(tmp_path):
    """A function that starts such a process, with little patience."""

    def start(body="pass", second=True):
        (tmp_path / "test_a.py").write_text(TESTS.format(body=body, second=second))
        code = "import sys, tests.__main__ as it; it._SECONDS = 3; it.main(sys.argv[1:])"
        command = [sys.executable, "-c", code, str(tmp_path / "test_a.py"), "-p", "no:saltfactories"]
        options = [f"--rootdir={tmp_path}", "-p", "no:cacheprovider", "-c", os.devnull]
        return subprocess.Popen([*command, *options], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)

    return start


@pytest.mark.parametrize(
    ("body", "second", "code", "is_told"),
    [
        ("pass", True, 0, False),
        ("pass", False, 1, False),
        (LATE, True, 0, False),
        (FOREVER, True, 0, True),
        (FOREVER, False, 1, True),
    ],
    ids=["well", "a failure", "a thread that ends late", "one that never ends", "and a failure"],
)
def test_it_ends_with_its_tests(started, tmp_path, body, second, code, is_told):
    """Whatever thread there is, the servers of fixtures and of atexit are stopped first."""
    with started(body, second) as process:
        said = process.communicate(timeout=50)[0]
    assert process.returncode == code
    assert ("not waited for any longer: a plugin" in said) is is_told
    assert (tmp_path / "stopped").exists() and (tmp_path / "ended").exists()
    assert f"{1 if code else 2} passed" in said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_the_servers(started, tmp_path, number):
    with started("(HERE / 'begun').touch(); time.sleep(60)") as process:
        assert wait_until((tmp_path / "begun").exists, 50)
        began = time.monotonic()
        process.send_signal(number)
        process.communicate(timeout=50)
    assert process.returncode == 128 + number and time.monotonic() - began < 30
    assert (tmp_path / "stopped").exists() and (tmp_path / "ended").exists()
