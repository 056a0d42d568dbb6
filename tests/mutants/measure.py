"""Which tests execute which lines."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from . import CACHE, ROOMS, ROOT, own_tests
from .children import EXAMPLES, Jobs, Runner, SharedSetUp, caches, run_pytest
from .mutations import Mutant, Source

# They look at the files and run none of their code, or they are about this driver.
NOT_ASKED = ("test_lint.py", "test_architecture.py", "test_documentation.py", "test_mutants.py")
HOURS = 4 * 3600


class Test(NamedTuple):
    """What the first run has found out about a test."""

    name: str
    seconds: float
    lines: dict[str, set[int]]


class Coverage(NamedTuple):
    """All tests, and the lines that run while the library is imported, or what tests share is set up."""

    tests: list[Test]
    at_import: dict[str, set[int]]
    shared: dict[str, dict[str, set[int]]]  # of a test file

    def of(self, file: str, extent: tuple[int, int] | None = None, seconds: float = 0) -> list[Test]:
        """The tests that execute a line of the file, or of a part of it: its own first, then the fastest."""
        wanted = range(extent[0], extent[1] + 1) if extent else None
        found = (each for each in self.tests if each.lines.get(file))
        tests = [each for each in found if wanted is None or not each.lines[file].isdisjoint(wanted)]
        own = f"/{own_tests(Path(file))}::"
        tests.sort(key=lambda test: (own not in test.name, test.seconds))
        sums = itertools.accumulate(test.seconds for test in tests)
        return [test for test, spent in zip(tests, sums) if not seconds or spent <= seconds or test is tests[0]]

    def that_run(self, mutant: Mutant, source: Source, seconds: float = 0) -> list[Test]:
        """The tests that execute the mutant's line."""
        found = self.of(mutant.file, mutant.extent, seconds)
        if found or not mutant.outermost:
            return found
        # What runs in a process that the code forks was not seen: then all that execute its function.
        return self.of(mutant.file, source.extent(mutant.outermost), seconds)


def measured(folder: str, jobs: int = 1) -> Coverage:
    """Run all tests of a folder, or of a file, and see which lines they execute; or take what an earlier run found."""
    place = ROOT / folder
    if not place.exists():
        raise SystemExit(f"there is no {folder}")
    files = [place] if place.suffix else sorted(each for each in place.rglob("test_*.py") if each.name not in NOT_ASKED)
    kept = {file: CACHE / f"{file.parent.name}-{file.stem}-{_state_of(file)}.json" for file in files}
    CACHE.mkdir(parents=True, exist_ok=True)
    pool = Jobs(jobs)
    for file in files:
        if not kept[file].exists():
            print(f"running {file.relative_to(ROOT)} to see which test executes which line", flush=True)
            pool.start(functools.partial(_measure, file, kept[file]), lambda code: None, HOURS)
    pool.finish()
    tests: list[Test] = []
    at_import: defaultdict[str, set[int]] = defaultdict(set)
    shared = {}
    for file in files:
        if not kept[file].exists():
            raise SystemExit(f"{file.relative_to(ROOT)} could not be run")
        found = json.loads(kept[file].read_text())
        for name in found["failed"]:
            print(f"not used, because it fails without a mutant: {name}")
        for name, seconds, lines in found["tests"]:
            tests.append(Test(name, seconds, {path: set(numbers) for path, numbers in lines.items()}))
        for path, numbers in found["import"].items():
            at_import[path].update(numbers)
        shared[str(file.relative_to(ROOT))] = {path: set(numbers) for path, numbers in found["shared"].items()}
    return Coverage(tests, dict(at_import), shared)


def _state_of(file: Path) -> str:
    """Changes with the library, with the test file and what stands beside it to be imported, and with this driver."""
    files = [path for room in (*ROOMS, "tests/mutants") for path in (ROOT / room).glob("*.py")]
    files += [file, *(path for path in file.parent.glob("*.py") if not path.name.startswith("test_"))]
    digest = hashlib.sha256(str(EXAMPLES).encode())
    for path in sorted(set(files)):
        digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _measure(file: Path, kept: Path) -> int:
    import coverage  # noqa: PLC0415

    prefixes = tuple(f"{ROOT / room}/" for room in ROOMS)
    imported: defaultdict[str, set[int]] = defaultdict(set)
    ours = functools.cache(lambda name: name.startswith(prefixes))
    found: dict[str, Any] = {"tests": [], "failed": []}

    def local(frame: Any, event: str, argument: object) -> Any:
        if event == "line":
            imported[str(Path(frame.f_code.co_filename).relative_to(ROOT))].add(frame.f_lineno)
        return local

    def called(frame: Any, event: str, argument: object) -> Any:
        return local if ours(frame.f_code.co_filename) and _is_import(frame, ours) else None

    def loop(items: list[pytest.Item]) -> None:
        from _pytest.runner import runtestprotocol  # noqa: PLC0415

        sys.settrace(None)
        found["import"] = {name: sorted(lines) for name, lines in imported.items()}
        passed: dict[str, float] = {}
        remember = caches()
        watched.start()
        for item, after in zip(items, [*items[1:], None]):
            # Each test that needs what one of them returns is to be seen, not only the first.
            for each in remember:
                each.cache_clear()
            running[:] = [item.nodeid]
            watched.switch_context(item.nodeid)
            began = time.monotonic()
            reports = runtestprotocol(item, log=False, nextitem=after)
            if any(report.failed for report in reports):
                found["failed"].append(item.nodeid)
            elif all(report.passed for report in reports):
                passed[item.nodeid] = round(time.monotonic() - began, 4)
        watched.stop()
        lines: defaultdict[str, defaultdict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        for name in watched.get_data().measured_files():
            short = str(Path(name).relative_to(ROOT))
            for line, contexts in sorted(watched.get_data().contexts_by_lineno(name).items()):
                for context in contexts:
                    lines[context][short].append(line)
        found["tests"] = [(name, seconds, lines[name]) for name, seconds in passed.items()]
        found["shared"] = lines["shared"]

    def begins() -> None:
        running.append("shared")
        watched.switch_context("shared")

    def ends() -> None:
        running.pop()
        watched.switch_context(running[-1])

    running: list[str] = []
    os.environ["COVERAGE_CORE"] = "ctrace"  # sys.monitoring has no contexts
    watched = coverage.Coverage(data_file=None, config_file=False, source=list(prefixes), messages=False)
    sys.settrace(called)
    run_pytest([str(file)], Runner(loop), SharedSetUp(begins, ends))
    kept.with_suffix(".new").write_text(json.dumps(found))
    kept.with_suffix(".new").rename(kept)
    return 0


def _is_import(frame: Any, is_ours: Callable[[str], bool]) -> bool:
    """Whether it runs because a module of ours is imported, not because a test prepares its data."""
    while frame and not (frame.f_code.co_name == "<module>" and is_ours(frame.f_code.co_filename)):
        frame = frame.f_back
    return frame is not None
