"""The driver of mutation testing: what tests see and what they do not, and a small share of the library's mutants."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutants.__main__ import listed
from tests.mutants.mutations import Source

ROOT = Path(__file__).resolve().parents[2]
TOY = '''"""A toy."""

import functools
import os

LIMIT = 3


def is_many(number):
    """At least the limit."""
    return number >= LIMIT


@functools.lru_cache
def half(number):
    return number // 2


def untested(number):
    return number + 1


def once(text):
    return text[:1]


def waits(number):
    while number > 0:
        number -= 1
    return number


def forks(number):
    child = os.fork()
    if not child:
        os._exit(number + 1)
    return os.waitstatus_to_exitcode(os.wait()[1])
'''
TESTS = """from _ispmail_toy import forks, half, is_many, waits

def test_many():
    assert is_many(4) and not is_many(2)

def test_half_is_remembered_from_here_on():
    half(6)

def test_half():
    assert half(6) == 3

def test_waits():
    assert waits(3) == 0

def test_forks():
    assert forks(3) == 4
"""
FUNCTIONAL = """from pathlib import Path
import pytest
from _ispmail_toy import is_many, once, untested

@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = tmp_path_factory.mktemp("server") / "state"
    server.write_text("up")
    with open("started", "a") as file:
        file.write("x")
    server.with_name("shared").write_text(once("xy"))
    return server

def test_what_was_done_once(server):
    assert server.with_name("shared").read_text() == "x"

def test_server(server):
    assert server.read_text() == "up" and untested(1) == 2

def test_spoils(server):
    assert server.read_text() == "up"
    if not is_many(3):
        server.write_text("down")
        assert False
"""
LISTED = (
    "_utils/_ispmail_toy.py | untested | return number + 1 | number + 1 → Sub | because nobody calls it",
    "_utils/_ispmail_toy.py | is_many | return number >= LIMIT | number >= LIMIT → LtE | because this one is not alive",
)


def run(root, *arguments):
    """Run the driver in a checkout, with a cache of its own; its exit code, and what it printed."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(root / "cache")}
    command = [sys.executable, "-m", "tests.mutants", *arguments]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode in (0, 1), done.stderr
    return done.returncode, done.stdout


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A checkout with one file, whose tests leave some mutants alive."""
    root = tmp_path_factory.mktemp("toy")
    for folder in ("_utils", "tests/unit"):
        (root / folder).mkdir(parents=True)
    shutil.copytree(ROOT / "tests" / "mutants", root / "tests" / "mutants")
    (root / "tests" / "__init__.py").touch()
    (root / "pyproject.toml").write_text('[tool.pytest.ini_options]\npythonpath = [".", "_utils"]\n')
    (root / "_utils" / "_ispmail_toy.py").write_text(TOY)
    (root / "tests" / "unit" / "test_ispmail_toy.py").write_text(TESTS)
    (root / "tests" / "survivors.txt").write_text("# why\n" + "\n".join(LISTED) + "\n")
    return root


def test_it_tells_what_the_tests_do_not_see(toy):
    """A driver that finds everything dead would praise any tests. The second time only what was alive is tried."""
    code, printed = run(toy)
    assert run(toy, "--again")[1].splitlines()[-6:] == printed.splitlines()[-6:]
    alive = set(re.findall(r"^ +\d+: _utils/_ispmail_toy.py \| (.*)$", printed, re.MULTILINE))
    assert code == 1
    assert alive == {
        "is_many | return number >= LIMIT | number >= LIMIT → Gt",
        " | LIMIT = 3 | 3 → 4",
        "untested | return number + 1 | return number + 1 → None",
        "untested | return number + 1 | 1 → 2",
        *(f"once | return text[:1] | {name}" for name in ("return text[:1] → None", "1 → 2")),
        "once | return text[:1] | slice :1 without upper bound",
    }
    # One is listed. A loop that never ends is dead, and so is one that a cache could hide, or that is in a child.
    row = re.search(r"^\| _utils/_ispmail_toy.py \| (\d+) \| (\d+) \| (\d+) \| (\d+) \|", printed, re.MULTILINE)
    count, killed, known, left = map(int, row.groups())
    assert (known, left) == (1, 7) and count == killed + known + left and killed >= 9


def test_what_is_alive_is_tried_by_functional_tests_with_one_server_for_all(toy):
    """None is dead because an earlier one, or its test, has left the server in another state; nor is that one."""
    (toy / "tests" / "functional").mkdir()
    (toy / "tests" / "functional" / "test_toy.py").write_text(FUNCTIONAL)
    code, printed = run(toy, "--functional")
    assert code == 1 and "tests/functional/test_toy.py: killed 3 of 4 in " in printed
    assert re.findall(r"^ +\d+: (.*)$", printed, re.MULTILINE) == [
        "_utils/_ispmail_toy.py | is_many | return number >= LIMIT | number >= LIMIT → Gt"
    ]
    # To see which lines run, three that end with a spoilt server, one for all others, one outside of functions, and one
    # for each mutant of what is done before all tests.
    assert (toy / "started").read_text() == "x" * 9


def test_what_only_people_read_is_left_alone():
    text = '''"""Docstring."""
import logging
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    import x
log = logging.getLogger("name")
def f(a: "annotation" = 1) -> "text":
    """Docstring."""
    log.info("said %s", a)
    message = "is not readable"
    if a:
        raise ValueError(f"bad {a}")
    return Fault("key", "reason", "fix")
'''
    mutations = " ".join(mutant.mutation for mutant in Source("x.py", text).mutants)
    assert "'name'" in mutations and "'key'" in mutations and "raise ValueError → Exception" in mutations
    for unseen in (
        "Docstring",
        "TYPE_CHECKING",
        "'annotation'",
        "log.info",
        "'is not readable' →",
        "bad",
        "'reason' →",
    ):
        assert unseen not in mutations.replace("remove: message = 'is not readable'", "").replace(
            "remove: raise ValueError(f'bad {a}')", ""
        ).replace("return Fault('key', 'reason', 'fix') → None", ""), unseen


@pytest.mark.parametrize(
    ("text", "mutation", "value"),
    [
        ("x = 1 < 1", "1 < 1 → LtE", True),
        ("x = 1 in [1]", "1 in [1] → NotIn", False),
        ("x = True and False", "True and False → Or", True),
        ("x = not 0", "not 0 → without not", 0),
        ("x = 7 - 3", "7 - 3 → Add", 10),
        ("x = 'ab'", "'ab' → 'Q~ab'", "Q~ab"),
        ("x = [1, 2, 3][1:]", "slice 1: without lower bound", [1, 2, 3]),
        ("x = int('11', base=2)", "without base=2", 11),
        ("x = 1 if 0 else 2", "if 0 → True", 1),
        ("x = [y for y in (1, 2) if y > 1]", "for … if y > 1 → True", [1, 2]),
        ("def f():\n    return 1\nx = f()", "return 1 → None", None),
        ("def f():\n    y = 1\n    y = 2\n    return y\nx = f()", "remove: y = 2", 1),
        ("x = 0\nfor y in (1, 2):\n    x += y", "x += y → Sub", -3),
        ("try:\n    x = {}['a']\nexcept (OSError, KeyError):\n    x = 1", "except without OSError", 1),
    ],
)
def test_each_kind_of_fault_does_what_it_says(text, mutation, value):
    source = Source("x.py", text)
    names = {}
    exec(source.code(next(each for each in source.mutants if each.mutation == mutation), "x.py"), names)
    assert names["x"] == value
    before = {}
    exec(source.code(None, "x.py"), before)
    assert before["x"] != value or mutation == "except without OSError"


def test_a_mutant_has_the_same_name_when_lines_are_added_above_it():
    first, second = (Source("x.py", text).mutants[-1] for text in ("x = 1 < 2", "# more\n\nx = 1 < 2"))
    assert first.key == second.key and first.line != second.line


def test_a_reason_is_given_for_each_survivor_and_each_is_a_mutant():
    """A line that fits no mutant any more excuses nothing, and hides that the code has changed."""
    found = listed()
    files = {key.split(" | ")[0] for key in found}
    known = {mutant.key for file in files for mutant in Source(file, (ROOT / file).read_text()).mutants}
    assert set(found) <= known
    assert all(len(reason) > 10 for reason in found.values())


def test_a_share_of_the_librarys_mutants(tmp_path):
    """Nearly all are killed by the unit tests of their own file. The driver by itself tries all of them."""
    files = [argument for name in ("optionfile", "spellings", "reach", "sites") for argument in ("--file", name)]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "tests.mutants", *files, "--own", "--share", "5"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=300)
    together = re.search(r"^\| together \| 20 \| (\d+) \| (\d+) \|", done.stdout, re.MULTILINE)
    assert together and sum(map(int, together.groups())) >= 18, done.stdout + done.stderr
