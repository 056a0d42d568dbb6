"""The stamp: current in all synced files, and how a process drops an older library."""

import importlib
import re
import shutil
import subprocess
import sys

import pytest

import ispmail_stamp

from .test_documentation import FILES, ROOT

STAMP = ROOT / "bin" / "stamp"


def run(command, **options):
    return subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, check=False, **options)


def test_the_stamp_is_current():
    """A minion would keep the library of another commit in its process."""
    done = run([STAMP, "--check"])
    assert done.returncode == 0, done.stderr


@pytest.fixture
def checkout(tmp_path):
    """A copy of what the stamp is made of."""
    for folder in ("_utils", "_modules", "_states", "_beacons", "_runners", "salt", "bin"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def stamps(checkout):
    """Every stamp that stands in the checkout."""
    files = [file for room in ("_utils", "_modules", "_states", "_beacons", "_runners", "salt/ispmail") for file in
             (checkout / room).glob("*") if file.is_file()]  # fmt: skip
    pattern = r"(?m)^(?:STAMP = \"|ispmail_stamp\.require\(\"|\{%- set wanted = '[0-9.]+\+)([0-9a-f]{12})"
    return {file: found for file in files if (found := re.findall(pattern, file.read_text()))}


@pytest.mark.parametrize(
    "changed", ["_utils/ispmail_errors.py", "_states/postconf.py", "_beacons/postfix_credential.py"]
)
def test_any_change_of_a_synced_file_makes_another_stamp(checkout, changed):
    (old,) = {stamp for found in stamps(checkout).values() for stamp in found}
    with open(checkout / changed, "a") as file:
        file.write("# changed\n")
    check = run([checkout / "bin" / "stamp", "--check"])
    assert check.returncode == 1 and "the stamp is stale, run bin/stamp" in check.stderr
    assert run([checkout / "bin" / "stamp"]).returncode == 0
    (new,) = {stamp for found in stamps(checkout).values() for stamp in found}
    assert new != old
    assert run([checkout / "bin" / "stamp", "--check"]).returncode == 0
    wanted = {f"{file.parent.name}/{file.name}" for file in stamps(checkout)}
    edge = {f"{room}/{file.name}" for room in ("_modules", "_states", "_beacons", "_runners")
            for file in (ROOT / room).glob("*.py")}  # fmt: skip
    assert wanted == edge | {"_utils/ispmail_stamp.py", "ispmail/modules.sls"}


@pytest.mark.parametrize("name", [f"{file.parent.name}.{file.stem}" for file in FILES])
def test_each_file_that_salt_loads_asks_for_the_library_of_its_own_commit(monkeypatch, name):
    """A minion that runs on would go on with the library that it has imported once."""
    asked = []
    module = importlib.import_module(name)
    monkeypatch.setattr(ispmail_stamp, "require", asked.append)
    importlib.reload(module)
    assert asked == [ispmail_stamp.STAMP]


UPGRADE = """
import sys
sys.path.insert(0, sys.argv[1])
import ispmail_stamp, ispmail_errors
ispmail_stamp.require(ispmail_stamp.STAMP)
assert "ispmail_errors" in sys.modules, "the same library was dropped"
sys.path[0] = sys.argv[2]
try:
    ispmail_stamp.require("ffffffffffff")
except ImportError as err:
    assert "run saltutil.sync_all" in str(err)
else:
    raise SystemExit("new modules would run with an old library")
import ispmail_stamp
ispmail_stamp.require(sys.argv[3])
import ispmail_errors
assert ispmail_errors.__file__.startswith(sys.argv[2]), ispmail_errors.__file__
"""


def test_another_stamp_drops_the_library_from_the_process(checkout):
    with open(checkout / "_utils" / "ispmail_errors.py", "a") as file:
        file.write("# changed\n")
    run([checkout / "bin" / "stamp"])
    (new,) = {stamp for found in stamps(checkout).values() for stamp in found}
    done = run(["-c", UPGRADE, ROOT / "_utils", checkout / "_utils", new])
    assert done.returncode == 0, done.stderr
