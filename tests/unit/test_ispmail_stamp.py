"""The stamp: current in all synced files, and how a process drops an older library."""

import importlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys

import pytest

import _ispmail_stamp

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
    pattern = r"(?m)^(?:STAMP = \"|_ispmail_stamp\.require\(\"|\{%- set wanted = '[0-9.]+\+)([0-9a-f]{12})"
    return {file: found for file in files if (found := re.findall(pattern, file.read_text()))}


@pytest.mark.parametrize(
    "changed", ["_utils/_ispmail_errors.py", "_states/postconf.py", "_beacons/postfix_credential.py"]
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
    assert wanted == edge | {"_utils/_ispmail_stamp.py", "ispmail/modules.sls"}


@pytest.mark.parametrize("name", [f"{file.parent.name}.{file.stem}" for file in FILES])
def test_each_file_that_salt_loads_asks_for_the_library_of_its_own_commit(monkeypatch, name):
    """A minion that runs on would go on with the library that it has imported once."""
    asked = []
    module = importlib.import_module(name)
    monkeypatch.setattr(_ispmail_stamp, "require", asked.append)
    importlib.reload(module)
    assert asked == [_ispmail_stamp.STAMP]


UPGRADE = """
import sys
sys.path.insert(0, sys.argv[1])
import _ispmail_stamp, _ispmail_errors
_ispmail_stamp.require(_ispmail_stamp.STAMP)
assert "_ispmail_errors" in sys.modules, "the same library was dropped"
sys.path[0] = sys.argv[2]
try:
    _ispmail_stamp.require("ffffffffffff")
except ImportError as err:
    assert "run saltutil.sync_all" in str(err)
else:
    raise SystemExit("new modules would run with an old library")
import _ispmail_stamp
_ispmail_stamp.require(sys.argv[3])
import _ispmail_errors
assert _ispmail_errors.__file__.startswith(sys.argv[2]), _ispmail_errors.__file__
"""


def test_another_stamp_drops_the_library_from_the_process(checkout):
    with open(checkout / "_utils" / "_ispmail_errors.py", "a") as file:
        file.write("# changed\n")
    run([checkout / "bin" / "stamp"])
    (new,) = {stamp for found in stamps(checkout).values() for stamp in found}
    done = run(["-c", UPGRADE, ROOT / "_utils", checkout / "_utils", new])
    assert done.returncode == 0, done.stderr


THREADS = """
import importlib, sys, threading, time
sys.path.insert(0, sys.argv[1])
import _ispmail_stamp as old
found, failed = set(), []

def load(number):
    # What each file of ours begins with: all have imported the old library when the first one drops it.
    begin.wait()
    time.sleep(number / 50)
    try:
        old.require(sys.argv[3])
        import _ispmail_slow
        found.add(id(_ispmail_slow.VALUE))
    except BaseException as err:
        failed.append(repr(err))

import _ispmail_slow
first = _ispmail_slow.VALUE
sys.path[0] = sys.argv[2]
begin = threading.Barrier(8)
threads = [threading.Thread(target=load, args=[number]) for number in range(8)]
[each.start() for each in threads]
[each.join() for each in threads]
assert not failed, failed
assert len(found) == 1 and found != {id(first)}, found
"""


def test_what_one_thread_has_just_imported_is_not_dropped_by_another_one(tmp_path):
    """With multiprocessing: False Salt loads modules in several threads: one failed, or had classes of its own."""
    text = (ROOT / "_utils" / "_ispmail_stamp.py").read_text()
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "_ispmail_stamp.py").write_text(text.replace(_ispmail_stamp.STAMP, name))
        (tmp_path / name / "_ispmail_slow.py").write_text("import time\ntime.sleep(0.1)\nVALUE = object()\n")
    done = run(["-c", THREADS, tmp_path / "old", tmp_path / "new", "new"])
    assert done.returncode == 0, done.stderr


@pytest.fixture
def library():
    """The library as this process has it; afterwards it is again as it was."""
    before = {name: module for name, module in sys.modules.items() if name.startswith("_ispmail_")}
    path = list(sys.path)
    yield before
    sys.path[:] = path
    for name in [name for name in sys.modules if name.startswith("_ispmail_")]:
        del sys.modules[name]
    sys.modules.update(before)
    importlib.invalidate_caches()


def test_only_the_library_is_dropped_and_only_for_another_stamp(library, tmp_path):
    """Salt and what else the process has stay."""
    others = {name: module for name, module in sys.modules.items() if name not in library}
    _ispmail_stamp.require(_ispmail_stamp.STAMP)
    assert sys.modules == {**others, **library}
    (tmp_path / "_ispmail_stamp.py").write_text('STAMP = "another"\n')
    sys.path.insert(0, str(tmp_path))
    _ispmail_stamp.require("another")
    new = sys.modules["_ispmail_stamp"]
    assert new.STAMP == "another" and {**sys.modules} == {**others, "_ispmail_stamp": new}
    with pytest.raises(ImportError, match=r"^the library of these modules is not here yet: run saltutil\.sync_all"):
        _ispmail_stamp.require("a third one")


def test_a_library_that_was_synced_a_moment_ago_is_found(library, tmp_path):
    """Python remembers what is in a directory as long as the directory's time is the same: that has a grain."""
    sys.path.insert(0, str(tmp_path))
    assert importlib.util.find_spec("ispmail_nothing") is None
    before = tmp_path.stat()
    (tmp_path / "_ispmail_stamp.py").write_text('STAMP = "another"\n')
    os.utime(tmp_path, ns=(before.st_atime_ns, before.st_mtime_ns))
    _ispmail_stamp.require("another")
    assert sys.modules["_ispmail_stamp"].STAMP == "another"


def test_the_version_is_that_of_the_package():
    (version,) = re.findall(r'(?m)^version = "(.*)"$', (ROOT / "pyproject.toml").read_text())
    assert _ispmail_stamp.version() == f"{version}+{_ispmail_stamp.STAMP}"
