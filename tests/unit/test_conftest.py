"""How two processes of bin/test share the files of tests: what one leaves out, the other has to run."""

from pathlib import Path
from types import SimpleNamespace

from ..conftest import not_taken

NAMES = [f"unit/test_{name}.py::{number}" for name in "abc" for number in range(3)]
NAMES += [f"functional/test_a.py::{number}" for number in range(2)]
NAMES += ["integration/test_a.py::shared", "integration/test_b.py::0", "integration/test_c.py::shared"]
NAMES += ["unit/test_a.py::again"]


def collected():
    fixtures = {name: ["untouched"] if name.endswith("shared") else [] for name in NAMES}
    return [
        SimpleNamespace(path=Path("/tests", name.partition("::")[0]), name=name, fixturenames=fixtures[name])
        for name in NAMES
    ]


def names(items):
    return [item.name for item in items]


def test_each_test_is_run_by_one_process(tmp_path):
    """Both take the next file, in turn; what shares a master is one, and so is a file whose tests pytest has parted."""
    first, second = (not_taken(collected(), tmp_path) for _ in range(2))
    taken = [next(first).name, next(second).name]
    assert taken == ["unit/test_a.py::0", "unit/test_b.py::0"]
    ours, theirs = [taken[0], *names(first)], [taken[1], *names(second)]
    assert sorted([*ours, *theirs]) == sorted(NAMES)
    for part in (ours, theirs):
        assert part == [name for name in NAMES if name in part]
    assert theirs == [name for name in NAMES if name.startswith("unit/test_b")]
    assert {name for name in NAMES if name.startswith("unit/test_a")} <= set(ours)


def test_what_shares_a_master_is_run_by_one_process(tmp_path):
    first, second = (not_taken(collected(), tmp_path) for _ in range(2))
    while (ours := next(first).name) != "integration/test_a.py::shared":
        pass
    assert [name for name in names(second) if "integration" in name] == ["integration/test_b.py::0"]
    assert [ours, *names(first)] == [ours, "integration/test_c.py::shared", "unit/test_a.py::again"]


def test_one_process_alone_runs_all(tmp_path):
    assert names(not_taken(collected(), tmp_path)) == NAMES
    assert names(not_taken(collected(), tmp_path)) == []
