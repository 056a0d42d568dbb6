"""The linters have nothing to say: ruff, yamllint, salt-lint, and the shells' own syntax check."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
TOOLS = Path(sys.executable).parent


def run(*command):
    """Run a program in the checkout's root; what it says is what the test fails with."""
    done = subprocess.run(
        command, check=False, cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if done.returncode:
        said = f"{' '.join(map(str, command))}: exit code {done.returncode}\n{done.stdout.decode()}"
        pytest.fail(said.replace(f"{TOOLS}/", "").replace(f"{REPOSITORY}/", ""), pytrace=False)


def scripts():
    """The executable files without a suffix: path to the program that its first line names."""
    found = {}
    for path in [*REPOSITORY.glob("bin/*"), *REPOSITORY.glob(".ci/*")]:
        with path.open("rb") as file:
            first = file.readline().decode(errors="replace").split()
        assert first and first[0].startswith("#!"), f"{path} has no #! line"
        found[str(path.relative_to(REPOSITORY))] = Path(first[-1]).name
    return found


def with_shebang(*programs):
    return [path for path, program in scripts().items() if program in programs]


def sls_files():
    return sorted(REPOSITORY.glob("salt/**/*.sls"))


def yaml_files():
    """All that is YAML and nothing else: no Jinja."""
    names = ("pillar.example", ".yamllint", ".salt-lint", "*.yml", "*.yaml", ".github/**/*.yml", ".github/**/*.yaml")
    found = [path for name in names for path in REPOSITORY.glob(name)]
    pure = [path for path in sls_files() if not re.search(r"\{[%{#]", path.read_text())]
    return sorted({*found, *pure})


def test_ruff_check():
    run(TOOLS / "ruff", "check", "--no-cache", ".", *with_shebang("python3", "python"))


def test_ruff_format():
    run(TOOLS / "ruff", "format", "--no-cache", "--diff", ".", *with_shebang("python3", "python"))


def test_types_of_the_library():
    run(TOOLS / "mypy", "--strict", "--no-incremental", "_utils", "src")


def test_types_of_the_rest():
    run(TOOLS / "mypy", "--no-incremental", "_modules", "_states", "_beacons", "_runners", "lab", "bench")
    run(TOOLS / "mypy", "--no-incremental", *with_shebang("python3"))


def test_yamllint():
    files = yaml_files()
    assert REPOSITORY / "salt" / "reactor" / "rotate.sls" in files
    run(TOOLS / "yamllint", "--strict", *files)


def test_salt_lint():
    files = sls_files()
    assert REPOSITORY / "salt" / "ispmail" / "init.sls" in files
    run(TOOLS / "salt-lint", *files)


@pytest.mark.parametrize("path", with_shebang("sh", "bash"))
def test_shell_syntax(path):
    run(scripts()[path], "-n", path)


def test_every_script_is_executable_and_of_a_known_language():
    assert {"bin/setup", "bin/test", ".ci/run"} <= set(scripts())
    for path, program in scripts().items():
        assert (REPOSITORY / path).stat().st_mode & 0o111 == 0o111, path
        assert program in ("sh", "bash", "python3"), path
        if program == "python3":
            ast.parse((REPOSITORY / path).read_text())
