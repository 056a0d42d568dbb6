"""A commit between two releases reaches a running minion whole: state, module, beacon and the next job, no restart.

And which modules of Salt a minion needs for it.
"""

import json
import re
import shutil
import subprocess
import sys

import pytest
from salt.version import __version_info__

from lab import scratch
from lab.minion import REPOSITORY, Minion
from lab.series import Salt
from lab.smtp import rcpt

from ..conftest import pillar_for
from .conftest import EACH_SERIES, by_function

# Each begins as our own modules do; bin/stamp writes the stamp of the checkout into them.
HEAD = """import _ispmail_stamp

_ispmail_stamp.require("000000000000")

from _ispmail_errors import GENERATION
"""
BEACON_FILE = "_beacons/postfix_credential.py"
MODULE = f"""{HEAD}

def generation():
    return GENERATION
"""
STATE = f"""{HEAD}

def seen(name):
    module = __salt__["probe.generation"]()
    return {{"name": name, "changes": {{}}, "result": True, "comment": f"state {{GENERATION}}, module {{module}}"}}
"""
BEACON = """
from _ispmail_errors import GENERATION


def validate(config):
    return True, "fine"


def beacon(config):
    with open("PATH", "a") as file:
        file.write(f"{GENERATION} {os.getpid()}\\n")
    return []
"""


def write_generation(checkout, name):
    """Change the library: one line of one file, and the stamp."""
    errors = checkout / "_utils" / "_ispmail_errors.py"
    text = (REPOSITORY / "_utils" / "_ispmail_errors.py").read_text()
    errors.write_text(f'{text}\nGENERATION = "{name}"\n')
    subprocess.run([sys.executable, str(checkout / "bin" / "stamp")], check=True)


@pytest.fixture(params=[*EACH_SERIES, pytest.param("3008 threads", id="3008, multiprocessing: False")])
def salt(request):
    """A running master and minion whose main process has the library of the first generation, by a beacon."""
    with scratch("u-") as directory:
        checkout = directory / "checkout"
        for room in ("_utils", "_modules", "_states", "_beacons", "_runners", "salt", "bin"):
            shutil.copytree(
                REPOSITORY / room, checkout / room, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
            )
        (checkout / "_modules" / "probe.py").write_text(MODULE)
        (checkout / "_states" / "probe.py").write_text(STATE)
        # All that a beacon of ours does before its other imports: here the path to the library, too.
        head = re.match(r"(?s).*\n_ispmail_stamp\.require\(.+?\)\n", (REPOSITORY / BEACON_FILE).read_text())[0]
        (checkout / "_beacons" / "probe.py").write_text(head + BEACON.replace("PATH", str(directory / "beacon")))
        (checkout / "salt" / "probe.sls").write_text("include: [ispmail.modules]\nlook:\n  probe.seen\n")
        write_generation(checkout, "one")
        beacons = {"probe": [{"interval": 1}], "postfix_credential": [{"interval": 1}]}
        roots = [str(checkout / "salt"), str(checkout)]
        series, _, threads = request.param.partition(" ")  # jobs are threads of the minion, or processes
        options = {"beacons": beacons, "loop_interval": 1, "multiprocessing": not threads}
        with Salt(series, directory / "salt", roots, patience=2, **options) as running:
            running.checkout, running.beacon = checkout, directory / "beacon"
            running.processes = not threads
            yield running


def last_beat(salt):
    """The library that the beacon ran with last, and the process that it ran in."""
    return salt.beacon.read_text().split("\n")[-2].split() if salt.beacon.exists() else [None, None]


def test_a_changed_library_reaches_a_running_minion_whole(salt):
    """Salt replaces modules in a running minion, but not what they import: its jobs ran the old library."""
    first = salt.call("state.apply", "probe")
    if not salt.processes and "No module named '_ispmail_" in str(first):
        # One thread of Salt takes the library's folder off the path while another imports from it.
        first = salt.call("state.apply", "probe")
    assert "state one, module one" in [state["comment"] for state in first.values()], first
    old_version = salt.call("ispmail.version")
    salt.wait_until(lambda: last_beat(salt)[0] == "one", "the beacon has loaded the library", 60)
    _, main_process = last_beat(salt)
    write_generation(salt.checkout, "two")
    second = salt.call("state.apply", "probe")
    assert "state two, module two" in [state["comment"] for state in second.values()], second
    # The very next jobs, forked from the process that had the old library.
    assert salt.call("probe.generation") == "two"
    assert salt.call("ispmail.version") not in (old_version, None)
    salt.wait_until(lambda: last_beat(salt)[0] == "two", "the beacon runs with the new library", 30)
    assert last_beat(salt)[1] == main_process, "the minion was restarted"
    third = salt.call("state.apply", "probe")
    assert not [name for name in third if name.startswith("module_")], "what is current was synced again"


@pytest.mark.parametrize(
    ("names", "syncs"),
    [
        (["state", "pillar", "file", "saltutil", "ispmail"], ["works", "none"]),
        (["state", "pillar", "file", "saltutil"], ["works"] * 2),
        (["state", "pillar", "file"], ["fails"]),
    ],
)
def test_what_a_whitelist_has_to_name(mariadb, postfix, names, syncs):
    """What the SLS themselves call; 3008 applies it to module.run too. docs/setup.md has the names."""
    # Before 3008 it decides too what a state may call.
    more = [] if __version_info__[0] >= 3008 else ["config", "pkg", "postfix_map"]
    with scratch() as directory:
        minion = Minion(directory, pillar_for(postfix, mariadb), whitelist_modules=[*names, *more])
        for expected in syncs:
            done = by_function(json.loads(minion.command("state.apply", "ispmail", "--out=json").stdout)["local"])
            sync = done.pop("module.run", None)
            assert ("none" if sync is None else "works" if sync["result"] else "fails") == expected
            if expected != "fails":
                assert {state["result"] for state in done.values()} == {True}, done
                assert rcpt(postfix.port, "john@example.org")[0] == 250
