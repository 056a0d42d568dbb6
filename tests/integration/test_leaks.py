"""A share of what leaks.py does, on the oldest Salt series that runs here."""

import ast
import re

import pytest

from lab.minion import REPOSITORY
from lab.series import SERIES, runs_here

from . import leaks


@pytest.fixture(scope="module")
def seen():
    return leaks.run(next(filter(runs_here, SERIES)), leaks.SHARE)


def test_what_was_watched_did_happen(seen):
    assert not seen.wrong
    for what in ("calls", "outputs", "log lines", "events", "files written", "programs started"):
        assert seen.counts[what] > 10, what


def test_the_password_is_where_the_documentation_says(seen):
    """Nowhere else; and each thing that Salt keeps is seen to be kept, or this search would prove nothing."""
    assert leaks.violations(seen, next(filter(runs_here, SERIES)), leaks.SHARE) == []


@pytest.mark.parametrize("series", list(filter(runs_here, SERIES)))
def test_salts_options_that_keep_pillar_in_a_cache(series):
    seen = leaks.run(series, leaks.CACHED, cached=True)
    assert not seen.wrong and leaks.violations(seen, series, leaks.CACHED, leaks.KEPT_CACHED) == []


def test_every_public_function_has_its_turn():
    named = set()
    for file in (REPOSITORY / "_modules").glob("*.py"):
        text = file.read_text()
        module = re.search('^__virtualname__ = "(.+)"$', text, re.MULTILINE)
        functions = [node.name for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
        named |= {
            f"{module[1] if module else file.stem}.{name.rstrip('_')}" for name in functions if not name.startswith("_")
        }
    assert named == set(leaks.FUNCTIONS)
    slses = {file.stem for file in (REPOSITORY / "salt" / "ispmail").glob("*.sls")}
    assert slses == {*leaks.SLS, "init", "clean", "packages"}
