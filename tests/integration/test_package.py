"""The wheel: Salt finds its modules by an entry point, and an apply with them needs no synced file."""

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from lab import scratch
from lab.minion import REPOSITORY, Minion
from lab.series import programs
from lab.smtp import rcpt

from .. import pages
from ..conftest import pillar_for
from .conftest import EACH_SERIES, by_function
from .test_upgrade import write_generation

MODULES = ("_utils", "_modules", "_states", "_beacons", "_runners")
# What the wheel has below `salt_ispmail`: the folders as they are, and single files.
FOLDERS = (*MODULES, "salt")
SYNCED = ("_utils", "_modules", "_states", "_beacons")
FILES = {"__init__.py": "src/salt_ispmail/__init__.py", "__main__.py": "src/salt_ispmail/__main__.py"}
FILES["docs/master.conf"] = "docs/master.conf"
LEFT_OUT = shutil.ignore_patterns(".git", "__pycache__", ".*_cache", ".hypothesis")
ASK_BEACON = """
import sys, salt.config, salt.loader
beacons = salt.loader.beacons(salt.config.minion_config(sys.argv[1]), {})
print(beacons["postfix_credential.validate"]([{"interval": 10}]))
"""


def run(*command):
    """What a program prints; the test fails with all that it said if it fails."""
    done = subprocess.run(command, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    return done.stdout


def files_below(folder):
    """The files of a checkout's folder, without what Python has compiled."""
    return {path for path in folder.rglob("*") if path.is_file() and path.parent.name != "__pycache__"}


@pytest.fixture(scope="module")
def wheel():
    """The wheel, built by pip from a copy of the checkout."""
    with scratch("w-") as directory:
        checkout = directory / "checkout"
        shutil.copytree(REPOSITORY, checkout, symlinks=True, ignore=LEFT_OUT)
        before = files_below(checkout)
        run(sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", str(directory), str(checkout))
        assert files_below(checkout) == before
        (built,) = directory.glob("salt_ispmail-*.whl")
        yield built


@pytest.fixture(scope="module", params=EACH_SERIES)
def package(request, wheel):
    """A Python environment with the wheel, and with one series of Salt from an environment that has it."""
    salt = programs(request.param)
    with scratch("v-") as directory:
        run(str(salt / "python"), "-m", "venv", "--without-pip", str(directory / "venv"))
        python = directory / "venv" / "bin" / "python"
        find = "import sysconfig; print(sysconfig.get_path('purelib'))"
        (Path(run(str(python), "-c", find).strip()) / "salt.pth").write_text(run(str(salt / "python"), "-c", find))
        # No index: what the wheel depends on has to be there, Salt of this series too.
        _, install, url = pages.command("docs/setup.md", "pip install").words
        assert url.startswith("git+https://")  # in place of which the wheel is given
        run(sys.executable, "-m", "pip", "--python", str(python), install, "--no-index", str(wheel))
        link = pages.command("docs/setup.md", "ln -sfn").text.replace("/srv/", f"{directory}/")
        run("sh", "-euc", f"PATH={python.parent}:$PATH\n{link}")
        checkout = directory / "salt-ispmail"
        assert checkout.resolve().is_relative_to(directory / "venv")
        yield SimpleNamespace(python=str(python), programs=salt, formula=str(checkout / "salt"))


@pytest.fixture
def minion(package, mariadb, postfix):
    """A masterless minion with Salt and the wheel of `package`, whose file_roots have nothing but the formula."""
    with scratch() as directory:
        made = Minion(directory, pillar_for(postfix, mariadb), file_roots={"base": [package.formula]})
        made.smtp = postfix.port
        yield made


def call(package, minion, *arguments):
    """What a function returned to salt-call."""
    command = [package.python, str(package.programs / "salt-call"), "-c", str(minion.directory), "--local"]
    return json.loads(run(*command, "--out=json", *arguments))["local"]


def synced(minion):
    return sorted(path.stem for path in minion.directory.glob("**/extmods/*/*.py"))


def serve(minion, *folders):
    """Give a minion other file_roots."""
    file = minion.directory / "minion"
    file.write_text(
        json.dumps({**json.loads(file.read_text()), "file_roots": {"base": [str(each) for each in folders]}})
    )


def test_the_wheel_has_each_file_once_and_nothing_else(wheel):
    sources = {f"{path.relative_to(REPOSITORY)}": path for room in FOLDERS for path in files_below(REPOSITORY / room)}
    sources |= {name: REPOSITORY / source for name, source in FILES.items()}
    with zipfile.ZipFile(wheel) as file:
        names = [name for name in file.namelist() if ".dist-info/" not in name]
        assert sorted(names) == sorted(f"salt_ispmail/{name}" for name in sources)
        assert [name for name, path in sources.items() if file.read(f"salt_ispmail/{name}") != path.read_bytes()] == []


def test_an_apply_sets_up_the_maps_and_syncs_nothing(package, minion):
    dry = by_function(call(package, minion, "state.apply", "ispmail", "test=True"))
    assert dry["postfix_map.managed"]["result"] is None and dry["postfix_map.managed"]["changes"], dry
    assert rcpt(minion.smtp, "john@example.org")[0] == 554
    first = by_function(call(package, minion, "state.apply", "ispmail"))
    assert first["postfix_map.managed"]["changes"], first
    assert rcpt(minion.smtp, "john@example.org")[0] == 250
    second = by_function(call(package, minion, "state.apply", "ispmail"))
    assert {name: state["changes"] for name, state in second.items()} == {name: {} for name in second}
    assert "module.run" not in {*dry, *first, *second} and synced(minion) == []


def test_salt_finds_the_runner_and_the_beacon(package, minion):
    """Salt looks for each kind of module by itself."""
    assert "Valid" in run(package.python, "-c", ASK_BEACON, str(minion.directory / "minion"))
    (minion.directory / "master").write_text((minion.directory / "minion").read_text())
    (minion.cache / "proc").mkdir(parents=True)
    command = [package.python, str(package.programs / "salt-run"), "-c", str(minion.directory)]
    done = subprocess.run([*command, "ispmail.sites"], check=False, capture_output=True, text=True)
    assert "the master's configuration has no ispmail:sites" in done.stdout, done


@pytest.fixture
def checkout():
    """A checkout of another version."""
    with scratch("n-") as directory:
        for room in (*FOLDERS, "bin"):
            shutil.copytree(REPOSITORY / room, directory / room, symlinks=True, ignore=LEFT_OUT)
        write_generation(directory, "new")
        yield directory


def test_a_module_never_gets_the_library_of_another_version(package, minion, checkout):
    """Synced files come first, library and modules alike: by the package's library synced modules would not load."""
    serve(minion, checkout / "salt")
    done = by_function(call(package, minion, "state.apply", "ispmail"))
    assert done["module.run"]["changes"] and done["postfix_map.managed"]["changes"], done
    assert synced(minion) != []
    again = by_function(call(package, minion, "state.apply", "ispmail"))
    assert "module.run" not in again and again["postfix_map.managed"]["result"], again
    serve(minion, package.formula)
    call(package, minion, "saltutil.sync_all")
    assert synced(minion) == []
    last = by_function(call(package, minion, "state.apply", "ispmail"))
    assert "module.run" not in last and last["postfix_map.managed"]["result"], last


def test_a_formula_of_another_version_says_a_change_at_each_apply(package, minion, checkout):
    """Its sync finds nothing, and does not end that the versions differ."""
    for link in (checkout / "salt").glob("_*"):
        link.unlink()
    serve(minion, checkout / "salt")
    for _ in range(2):
        done = by_function(call(package, minion, "state.apply", "ispmail"))
        assert done["module.run"]["result"] and done["module.run"]["changes"], done
        assert done["postfix_map.managed"]["result"] and synced(minion) == [], done
    assert rcpt(minion.smtp, "john@example.org")[0] == 250


def test_synced_files_that_are_served_no_more(package, minion, checkout):
    """Without a sync in between: the apply that finds another version deletes them, and works by the package."""
    serve(minion, checkout / "salt")
    call(package, minion, "state.apply", "ispmail")
    assert synced(minion) != []
    serve(minion, package.formula)
    done = by_function(call(package, minion, "state.apply", "ispmail"))
    assert {state["result"] for state in done.values()} == {True} and "module.run" in done, done
    assert synced(minion) == []
    again = by_function(call(package, minion, "state.apply", "ispmail"))
    assert {name: state["changes"] for name, state in again.items()} == {name: {} for name in again}
    assert "module.run" not in again


def test_the_package_in_place_of_a_checkout(package, mariadb, postfix):
    """As a master serves it; the minion's own Python has no package."""
    with scratch() as directory:
        folders = [package.formula, str(Path(package.formula).parent)]
        plain = Minion(directory, pillar_for(postfix, mariadb), file_roots={"base": folders})
        without = SimpleNamespace(python=str(package.programs / "python"), programs=package.programs)
        first = by_function(call(without, plain, "state.apply", "ispmail"))
        assert first["module.run"]["changes"] and first["postfix_map.managed"]["changes"], first
        assert rcpt(postfix.port, "john@example.org")[0] == 250
        ours = {path.stem for room in SYNCED for path in (REPOSITORY / room).glob("*.py")}
        assert set(synced(plain)) == ours
        again = by_function(call(without, plain, "state.apply", "ispmail"))
        assert {name: state["changes"] for name, state in again.items()} == {name: {} for name in again}
