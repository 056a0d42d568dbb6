"""Mutation testing: python -m tests.mutants [--file NAME …] [--jobs N] [--share N] [--seconds N] [--again] [--list]

cosmic-ray starts a new pytest with all tests for each mutant, and mutmut imports copies of the files by dotted names
and adds functions to them, which our flat library and Salt's loader do not take; so this is a driver of our own.

For each file it imports the tests once, then forks for each mutant: the child replaces the code of the one function
that the mutant is in (whoever has imported it), and runs only the tests that execute the line, those of the file's own
name first, then the fastest, until one fails. Mutants outside functions, and functional tests, get a child that imports
the library anew. Which tests execute which line is found once, and kept in ~/.cache/salt-ispmail/mutants until a file
of the library or of the tests changes.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import functools
import gc
import hashlib
import importlib.machinery
import itertools
import json
import os
import random
import resource
import signal
import sys
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, NamedTuple

import psutil
import pytest

from tests.mutations import Mutant, Source

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("_utils", "_modules", "_states", "_runners", "_beacons")
SURVIVORS = ROOT / "tests" / "survivors.txt"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "salt-ispmail" / "mutants"
# What is seen without that a line of the file runs.
ALWAYS_ASKED = "/test_values.py::"
# They look at the files and run none of their code, or they are about this driver.
NOT_ASKED = ("test_lint.py", "test_architecture.py", "test_documentation.py", "test_mutants.py")
ALIVE, KILLED, BROKEN = 0, 1, 99  # how a child ends; one that was ended by a signal took too long
MEMORY = 4 << 30
HOURS = 4 * 3600
PR_SET_CHILD_SUBREAPER = 36  # prctl(2): what a child leaves behind becomes a child of this process
EXAMPLES = 25  # of a property
OPTIONS = ["-o", "addopts=", "-p", "no:cacheprovider", "-p", "no:terminal"]
OPTIONS += ["-p", "_hypothesis_pytestplugin", "--hypothesis-seed=0"]


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
        own = f"/test_{Path(file).stem}.py::"
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


class Runner:
    """A plugin of pytest that does something else in place of running all tests."""

    def __init__(self, loop: Callable[[list[pytest.Item]], None], names: Iterable[str] | None = None):
        """Args: names: the tests, in their order; None for all that were collected."""
        self._loop, self._names = loop, None if names is None else list(names)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Collected is all that is needed."""
        if session.testsfailed:
            raise session.Failed("a test file cannot be imported")
        for item in session.items:
            _shorten(item)
        if self._names is None:
            self._loop(session.items)
        else:
            collected = {item.nodeid: item for item in session.items}
            self._loop([collected[name] for name in self._names if name in collected])
        return True


def _shorten(item: pytest.Item) -> None:
    """Few examples of a property, and where it fails not the smallest one: the mutant is dead."""
    inner = getattr(item, "obj", None)
    if getattr(inner, "is_hypothesis_test", False):
        from hypothesis import Phase, settings  # noqa: PLC0415

        inner = getattr(inner, "__func__", inner)
        chosen = getattr(inner, "_hypothesis_internal_use_settings", settings.default)
        phases = (Phase.explicit, Phase.generate)
        inner._hypothesis_internal_use_settings = settings(
            chosen, phases=phases, report_multiple_bugs=False, max_examples=min(chosen.max_examples, EXAMPLES)
        )


class SharedSetUp:
    """A plugin that tells when what several tests share is being set up, and when no more."""

    def __init__(self, begins: Callable[[], object], ends: Callable[[], object]):
        """Both are called without arguments."""
        self._begins, self._ends = begins, ends

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Iterator[Any]:
        """Around a fixture of a module or session."""
        if fixturedef.scope == "function":
            return (yield)
        self._begins()
        try:
            return (yield)
        finally:
            self._ends()


def run_pytest(arguments: Iterable[str], *plugins: object) -> int:
    """Collect in this process, then do what plugins do. Without other plugins: pytest-salt-factories is slow."""
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    return int(pytest.main([*OPTIONS, f"--rootdir={ROOT}", *arguments], plugins=list(plugins)))


def forked(function: Callable[[], int | None], jobs: _Jobs | None = None, seconds: float = 0) -> int:
    """Run a function in a child that says nothing; return how it ended, or at once if `jobs` is to hear of that."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        code: int | None = BROKEN
        try:
            os.setpgid(0, 0)
            if not os.environ.get("MUTANTS_VERBOSE"):
                silence = os.open(os.devnull, os.O_RDWR)
                for descriptor in (0, 1, 2):
                    os.dup2(silence, descriptor)
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
            code = function() or 0
        except SystemExit as err:
            code = err.code if isinstance(err.code, int) else BROKEN
        except BaseException:  # pylint: disable=broad-except
            traceback.print_exc()
        finally:
            os._exit(code or 0)
    if jobs is not None:
        jobs.add(pid, seconds)
        return 0
    return _ended(os.waitpid(pid, 0), pid)


def _ended(waited: tuple[int, int], pid: int) -> int:
    """What a child started goes with it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(waited[1])


class _Jobs:
    """Children that run at the same time, at most so many."""

    def __init__(self, most: int):
        self._most = most
        self._running: dict[int, tuple[Callable[[int], None], float]] = {}
        self._then: Callable[[int], None] = lambda code: None

    def start(self, function: Callable[[], int | None], then: Callable[[int], None], seconds: float) -> None:
        """Run it in a child, and call `then` with how it ended. Waits while too many run."""
        self._then = then
        forked(function, self, seconds)
        while len(self._running) >= self._most:
            self._wait()

    def add(self, pid: int, seconds: float) -> None:
        """Called by `forked`."""
        self._running[pid] = self._then, time.monotonic() + seconds

    def finish(self) -> None:
        """Wait for all."""
        while self._running:
            self._wait()

    def _wait(self) -> None:
        for pid, (then, until) in list(self._running.items()):
            waited = os.waitpid(pid, os.WNOHANG)
            if waited[0] == 0 and time.monotonic() > until:
                os.kill(pid, signal.SIGKILL)
                waited = os.waitpid(pid, 0)
            if waited[0]:
                del self._running[pid]
                then(_ended(waited, pid))
                return
        time.sleep(0.002)


def run_items(
    items: list[pytest.Item],
    seconds: dict[str, float],
    last: pytest.Item | None = None,
    told: Callable[[pytest.Item], object] = lambda item: None,
) -> int:
    """Run tests until one fails, each with its time limit: SIGALRM ends the process.

    Args:
        last: What is called the next test at the end: fixtures that it shares stay set up.
        told: Called with each test before it runs.
    """
    from _pytest.runner import runtestprotocol  # noqa: PLC0415

    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    for item, after in zip(items, [*items[1:], last]):
        told(item)
        usual = seconds.get(item.nodeid, 1)
        signal.setitimer(signal.ITIMER_REAL, 5 + min(20 * usual, 20 + 3 * usual))
        if any(report.failed for report in runtestprotocol(item, log=False, nextitem=after)):
            return KILLED
    signal.setitimer(signal.ITIMER_REAL, 0)
    return ALIVE


# Which tests execute which lines.


def measured(folder: str, jobs: int = 1) -> Coverage:
    """Run all tests of a folder, or of a file, and see which lines they execute; or take what an earlier run found."""
    place = ROOT / folder
    if not place.exists():
        raise SystemExit(f"there is no {folder}")
    files = [place] if place.suffix else sorted(each for each in place.rglob("test_*.py") if each.name not in NOT_ASKED)
    kept = {file: CACHE / f"{file.parent.name}-{file.stem}-{_state_of(file)}.json" for file in files}
    CACHE.mkdir(parents=True, exist_ok=True)
    pool = _Jobs(jobs)
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
    """Changes with the library, with the test file and with what stands beside it to be imported."""
    files = [path for room in ROOMS for path in (ROOT / room).glob("*.py")]
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
        watched.start()
        for item, after in zip(items, [*items[1:], None]):
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


# A mutant in a child.


class Functions:
    """The functions of a file that this process has, whoever imported them."""

    def __init__(self, path: str):
        """Find them."""
        self._path = path
        self._found: defaultdict[tuple[str, int], list[FunctionType]] = defaultdict(list)
        self._caches: list[Any] = []
        for each in gc.get_objects():
            if isinstance(each, FunctionType) and each.__code__.co_filename == path:
                self._found[each.__code__.co_name, each.__code__.co_firstlineno].append(each)
            elif isinstance(each, functools._lru_cache_wrapper) and each.__module__.startswith("ispmail"):
                self._caches.append(each)

    @property
    def found(self) -> bool:
        """Whether the file has been imported at all."""
        return bool(self._found)

    def replace(self, code: CodeType, outermost: tuple[str, int]) -> bool:
        """Give one of them the code that it has in a module; False where that is not possible."""
        where = (self._path, *outermost)
        for new in _codes(code):
            if (new.co_filename, new.co_name, new.co_firstlineno) == where:
                found = self._found[outermost]
                if not found or any(each.__code__.co_freevars != new.co_freevars for each in found):
                    return False
                for each in found:
                    each.__code__ = new
                for cache in self._caches:
                    cache.cache_clear()
                return True
        return False


def _codes(code: CodeType) -> Iterator[CodeType]:
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield each
            yield from _codes(each)


def replace_file(code: CodeType, path: str) -> None:
    """Whoever imports or loads the file from now on, Salt's loader too, gets this code."""
    original = importlib.machinery.SourceFileLoader.get_code

    def get_code(self: Any, name: str) -> Any:
        return code if os.path.realpath(self.path) == path else original(self, name)

    importlib.machinery.SourceFileLoader.get_code = get_code  # type: ignore[method-assign]


# All mutants of a file.


class Result(NamedTuple):
    """What became of the mutants of a file."""

    killed: list[Mutant]
    alive: list[Mutant]


class Driver:
    """The mutants of one file, against the tests of one folder."""

    def __init__(self, path: Path, coverage: Coverage, jobs: int = 1, seconds: float = 0, root: Path = ROOT):
        """Args: root: what names in the coverage are relative to."""
        self.path = path.resolve()
        self.source = Source(str(self.path.relative_to(root)), self.path.read_text())
        self._coverage = coverage
        self._jobs = jobs
        self._most = seconds
        self._seconds = {test.name: test.seconds for test in coverage.tests}

    def run(self, mutants: list[Mutant], warm: bool = True) -> Result:
        """Try these mutants.

        Args:
            warm: Whether the code may be replaced where the tests are imported already.
        """
        ended: dict[int, int] = {}
        tests = {mutant.number: self._tests(mutant) for mutant in mutants}
        at_import = self._coverage.at_import.get(self.source.file, set())
        quick = [
            mutant
            for mutant in mutants
            if warm
            and mutant.outermost
            and tests[mutant.number]
            and at_import.isdisjoint(range(mutant.extent[0], mutant.extent[1] + 1))
        ]
        if quick:
            ended = self._warm(quick, tests)
        for mutant in mutants:
            if mutant.number not in ended:
                ended[mutant.number] = self._cold(mutant, tests[mutant.number])
        alive = [mutant for mutant in mutants if ended[mutant.number] == ALIVE]
        return Result([mutant for mutant in mutants if ended[mutant.number] != ALIVE], alive)

    def _tests(self, mutant: Mutant) -> list[Test]:
        return self._coverage.that_run(mutant, self.source, self._most)

    def _warm(self, mutants: list[Mutant], tests: dict[int, list[Test]]) -> dict[int, int]:
        """Import the tests in a child, which forks once for each mutant."""
        kept = CACHE / f"result-{os.getpid()}.json"
        CACHE.mkdir(parents=True, exist_ok=True)
        every = sorted(self._coverage.tests, key=lambda test: test.seconds)
        names = {test.name for mutant in mutants for test in tests[mutant.number]}

        def loop(items: list[pytest.Item]) -> None:
            collected = {item.nodeid: item for item in items}
            ended: dict[int, int] = {}
            jobs = _Jobs(self._jobs)
            functions = Functions(str(self.path))
            gc.collect()
            gc.freeze()
            untouched = next(each for each in self.source.mutants if each.outermost)._replace(number=0)
            # Number 0 is the file as it is: what fails with it says nothing of any mutant.
            for mutant in [untouched._replace(outermost=mutants[0].outermost), *mutants]:
                wanted = tests[mutant.number] if mutant.number else [each for each in every if each.name in names][:200]
                code = self.compiled(mutant)
                if code is None:
                    ended[mutant.number] = KILLED
                    continue
                chosen = [collected[test.name] for test in wanted if test.name in collected]
                act = functools.partial(self._replaced_and_run, functions, code, mutant, chosen)
                limit = 60 + 20 * sum(test.seconds for test in wanted)
                jobs.start(act, functools.partial(ended.__setitem__, mutant.number), limit)
            jobs.finish()
            kept.write_text(json.dumps(ended))

        files = sorted({name.partition("::")[0] for name in names})
        code = forked(lambda: run_pytest([str(ROOT / file) for file in files], Runner(loop)))
        if not kept.exists():
            raise SystemExit(f"{self.source.file}: the tests could not be run: {code}")
        ended = {int(number): code for number, code in json.loads(kept.read_text()).items()}
        kept.unlink()
        if ended.pop(0) not in (ALIVE, BROKEN):
            raise SystemExit(f"{self.source.file}: tests fail without a mutant")
        return {number: code for number, code in ended.items() if code != BROKEN}

    def _replaced_and_run(self, functions: Functions, code: CodeType, mutant: Mutant, items: list[pytest.Item]) -> int:
        assert mutant.outermost
        if not functions.replace(code, mutant.outermost):
            return BROKEN
        return run_items(items, self._seconds)

    def compiled(self, mutant: Mutant) -> CodeType | None:
        """The file's code with the mutant in it, None if there can be none."""
        try:
            return self.source.code(mutant if mutant.number else None, str(self.path))
        except SyntaxError:
            return None

    def _cold(self, mutant: Mutant, tests: list[Test]) -> int:
        """Import the library anew in a child, with the mutant in it."""
        code = self.compiled(mutant)
        if code is None:
            return KILLED
        if mutant.outermost is None:
            names = (ALWAYS_ASKED, f"/test_{self.path.stem}.py::")
            tests = [each for each in self._coverage.tests if any(name in each.name for name in names)]
            tests += [each for each in self._coverage.of(self.source.file, seconds=self._most) if each not in tests]
        for group in self._groups(tests):
            ended = self._cold_group(code, group)
            if ended != ALIVE:
                return ended
        return ALIVE

    def alone(self, mutant: Mutant, tests: list[Test], seconds: float) -> int:
        """Run tests of one file, no longer than so many seconds, with the library imported anew."""
        code = self.compiled(mutant)
        sums = itertools.accumulate(test.seconds for test in tests)
        chosen = [test for test, spent in zip(tests, sums) if spent <= seconds]
        return KILLED if code is None else self._cold_group(code, chosen) if chosen else ALIVE

    def _groups(self, tests: list[Test]) -> list[list[Test]]:
        """The tests by file: this file's own ones first, then the fastest ones."""
        groups: defaultdict[str, list[Test]] = defaultdict(list)
        for test in tests:
            groups[test.name.partition("::")[0]].append(test)
        own = f"test_{self.path.stem}.py"
        ordered = sorted(groups, key=lambda file: (not file.endswith(own), sum(test.seconds for test in groups[file])))
        first, rest = ordered[:1], ordered[1:]
        return [[test for file in part for test in groups[file]] for part in (first, rest) if part]

    def _cold_group(self, code: CodeType, tests: list[Test]) -> int:
        ended = [BROKEN]

        def loop(items: list[pytest.Item]) -> None:
            ended[0] = run_items(items, self._seconds)

        def act() -> int:
            signal.alarm(120)
            replace_file(code, str(self.path))
            files = sorted({test.name.partition("::")[0] for test in tests})
            status = run_pytest([str(ROOT / file) for file in files], Runner(loop, [test.name for test in tests]))
            return ended[0] if ended[0] != BROKEN else KILLED if status else ALIVE  # it could not be imported

        return forked(act)


# What is alive, by functional tests.


class Trial(NamedTuple):
    """A mutant, and the tests of one file that execute its line."""

    driver: Driver
    mutant: Mutant
    tests: list[Test]


class Ended(NamedTuple):
    """What became of a trial."""

    number: int  # of the trial
    killed: bool
    test: str  # the last one that ran
    seconds: float


class Servers:
    """Functional tests, file by file: the servers of a file are started once, then each mutant gets a fork."""

    FIRST = 4  # seconds for a mutant in each test file, before any gets more
    BATCH = 20  # after so many killed ones it is seen whether the servers are still as they were

    def __init__(self, coverage: Coverage, most: float):
        """Args: most: seconds of tests for a mutant, all test files together."""
        self._coverage = coverage
        self._most = most
        self._seconds = {test.name: test.seconds for test in coverage.tests}
        self._tests: dict[str, dict[str, list[Test]]] = {}
        self._tried: defaultdict[str, set[str]] = defaultdict(set)
        self._spent: defaultdict[str, float] = defaultdict(float)
        self._kills: Counter[tuple[str, ...]] = Counter()

    def run(self, alive: dict[Driver, list[Mutant]], after: Callable[[Driver, list[Mutant]], None]) -> None:
        """Take the mutants that a test kills out of `alive`; `after` is called after each test file."""
        for most in (self.FIRST, self._most):
            files = {test.name.partition("::")[0] for test in self._coverage.tests}
            while files:
                due = {file: self._due(alive, file, most) for file in files}
                file = max(files, key=lambda each: (len(due[each]) / self._mean(each), each))
                files.remove(file)
                began, killed = time.monotonic(), self._killed(file, due[file])
                for driver, mutants in alive.items():
                    alive[driver] = [mutant for mutant in mutants if mutant.key not in killed]
                    after(driver, alive[driver])
                seconds = time.monotonic() - began
                print(f"{file}: killed {len(killed)} of {len(due[file])} in {seconds:.0f} s", flush=True)

    def run_alone(self, driver: Driver, mutants: list[Mutant]) -> list[Mutant]:
        """Those that a test kills for which all is set up anew: what tests share was set up without the mutant."""
        killed = []
        for mutant in mutants:
            lines = range(mutant.extent[0], mutant.extent[1] + 1)
            for file, seen in self._coverage.shared.items():
                if mutant.outermost and not seen.get(mutant.file, set()).isdisjoint(lines):
                    tests = [test for test in self._coverage.tests if test.name.startswith(f"{file}::")]
                    if driver.alone(mutant, self._ordered(mutant, tests), self._most) != ALIVE:
                        killed.append(mutant)
                        break
        return killed

    def _mean(self, file: str) -> float:
        """How long a test of this file takes."""
        seconds = [test.seconds for test in self._coverage.tests if test.name.startswith(f"{file}::")]
        return sum(seconds) / len(seconds)

    def _due(self, alive: dict[Driver, list[Mutant]], file: str, most: float) -> list[Trial]:
        """The mutants that tests of this file may kill, with as many of those as there is time for."""
        found = []
        for driver, mutants in alive.items():
            for mutant in mutants:
                if not mutant.outermost:
                    continue
                tried = self._tried[mutant.key]
                untried = [each for each in self._of_file(driver, mutant).get(file, []) if each.name not in tried]
                tests = self._ordered(mutant, untried)
                sums = itertools.accumulate(test.seconds for test in tests)
                left = min(most, self._most - self._spent[mutant.key])
                chosen = [test for test, seconds in zip(tests, sums) if seconds <= left]
                if chosen:
                    found.append(Trial(driver, mutant, chosen))
        return found

    def _of_file(self, driver: Driver, mutant: Mutant) -> dict[str, list[Test]]:
        if mutant.key not in self._tests:
            found: defaultdict[str, list[Test]] = defaultdict(list)
            for test in self._coverage.that_run(mutant, driver.source):
                found[test.name.partition("::")[0]].append(test)
            self._tests[mutant.key] = dict(found)
        return self._tests[mutant.key]

    def _killed(self, file: str, due: list[Trial]) -> set[str]:
        killed, batch = set(), self.BATCH
        while due:
            ended = self._in_one_process(file, due, batch)
            for each in ended:
                trial = due[each.number]
                self._spent[trial.mutant.key] += each.seconds
                self._tried[trial.mutant.key].update(test.name for test in trial.tests)
                if each.killed:
                    killed.add(trial.mutant.key)
                    self._kills.update(self._names(trial.mutant, each.test))
            done = {each.number for each in ended}
            rest = [trial for number, trial in enumerate(due) if number not in done]
            if not ended and batch == 1:
                # It spoils the servers for whoever comes next, also when it is tried alone: left to other tests.
                spoiler = rest.pop(0)
                self._tried[spoiler.mutant.key].update(test.name for test in spoiler.tests)
            due = rest
            batch = self.BATCH if ended else max(1, batch // 4)
        return killed

    @staticmethod
    def _names(mutant: Mutant, test: str) -> list[tuple[str, ...]]:
        return [(mutant.file, test), (mutant.file, mutant.function, test)]

    def _in_one_process(self, file: str, due: list[Trial], batch: int) -> list[Ended]:
        kept = CACHE / f"trials-{os.getpid()}.json"
        kept.write_text("[]")
        forked(lambda: run_pytest([str(ROOT / file)], Runner(functools.partial(self._loop, due, batch, kept))))
        ended = [Ended(*each) for each in json.loads(kept.read_text())]
        kept.unlink()
        return ended

    def _loop(self, due: list[Trial], batch: int, kept: Path, items: list[pytest.Item]) -> None:
        collected = {item.nodeid: item for item in items}
        names = dict.fromkeys(test.name for trial in due for test in trial.tests)
        usual = self._prepared([collected[name] for name in names if name in collected])
        functions = {driver: Functions(str(driver.path)) for driver in {trial.driver for trial in due}}
        said = kept.with_suffix(".test")
        good: list[Ended] = []
        new: list[Ended] = []
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
        gc.collect()
        gc.freeze()
        for number, trial in enumerate(due):
            began = time.monotonic()
            ordered = self._ordered(trial.mutant, trial.tests)
            tests = [collected[test.name] for test in ordered if test.name in collected]
            code = trial.driver.compiled(trial.mutant)
            said.write_text("")
            result = KILLED
            if code:
                act = functools.partial(self._act, trial, code, tests, functions[trial.driver], said)
                result = self._fork(act)
            one = Ended(number, result not in (ALIVE, BROKEN), said.read_text(), time.monotonic() - began)
            new.append(one)
            if one.killed:
                self._kills.update(self._names(trial.mutant, one.test))
            if sum(each.killed for each in new) >= batch or number == len(due) - 1:
                killers = {each.test: None for each in new if each.killed and each.test in collected}
                again = sorted((collected[name] for name in killers), key=lambda item: self._seconds[item.nodeid])[:2]
                if self._fork(functools.partial(self._run, list(dict.fromkeys(again + usual)), said)) != ALIVE:
                    break
                good, new = good + new, []
                kept.write_text(json.dumps(good))
        said.unlink()

    def _prepared(self, items: list[pytest.Item]) -> list[pytest.Item]:
        """Run tests until all that they share is set up; the tests that ran."""
        from _pytest.runner import runtestprotocol  # noqa: PLC0415

        items = sorted(items, key=lambda item: self._seconds[item.nodeid])
        there: set[str] = set()
        ran: list[pytest.Item] = []
        for item in items:
            fixtures: dict[str, Any] = item._fixtureinfo.name2fixturedefs  # type: ignore[attr-defined]
            shared = {name for name, definitions in fixtures.items() if definitions[-1].scope != "function"}
            if not ran or shared - there:
                there |= shared
                ran.append(item)
                runtestprotocol(item, log=False, nextitem=self._other(item))
        return ran

    def _ordered(self, mutant: Mutant, tests: list[Test]) -> list[Test]:
        """First who killed mutants of the same function, then of the same file, then the fastest."""

        def place(test: Test) -> tuple[float, ...]:
            of_file, of_function = (-self._kills[name] for name in self._names(mutant, test.name))
            return of_function, of_file, test.seconds

        return sorted(tests, key=place)

    @staticmethod
    def _other(item: pytest.Item) -> pytest.Item | None:
        return next((each for each in item.session.items if each is not item), None)

    def _run(self, items: list[pytest.Item], said: Path) -> int:
        return run_items(items, self._seconds, self._other(items[-1]), lambda item: said.write_text(item.nodeid))

    def _act(self, trial: Trial, code: CodeType, items: list[pytest.Item], functions: Functions, said: Path) -> int:
        assert trial.mutant.outermost
        replace_file(code, str(trial.driver.path))
        if functions.found and not functions.replace(code, trial.mutant.outermost):
            return BROKEN
        return self._run(items, said)

    @staticmethod
    def _fork(act: Callable[[], int]) -> int:
        """Whatever it has started ends with it."""
        before = set(psutil.Process().children(recursive=True))
        code = forked(act)
        for each in psutil.Process().children(recursive=True):
            if each not in before:
                with contextlib.suppress(psutil.Error):
                    each.kill()
                    each.wait(10)
        return code


def listed() -> dict[str, str]:
    """The mutants that change nothing: each one's key, and the reason."""
    found = {}
    for number, line in enumerate(SURVIVORS.read_text().splitlines() if SURVIVORS.exists() else [], 1):
        if line.strip() and not line.startswith("#"):
            key, separator, reason = line.rpartition(" | because ")
            if not separator or not reason.strip():
                raise SystemExit(f"{SURVIVORS.name}, line {number}: has no reason")
            found[key.strip()] = reason.strip()
    return found


# What is printed.


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("--file", action="append", help="such as ispmail_query or _states/postfix_map; else all")
    parser.add_argument("--jobs", type=int, default=1, help="how many mutants are tried at the same time")
    parser.add_argument(
        "--functional",
        nargs="?",
        const="tests/functional",
        metavar="PATH",
        help="try what unit tests leave alive by functional ones: all, or those of one file",
    )
    parser.add_argument(
        "--functional-seconds", type=float, default=30, help="so many seconds of functional tests for a mutant"
    )
    parser.add_argument("--own", action="store_true", help="use only the unit tests in the file of the same name")
    parser.add_argument("--again", action="store_true", help="only those that were alive in the last run")
    parser.add_argument("--share", type=int, default=0, help="so many of a file, the same ones each time")
    parser.add_argument(
        "--seconds", type=float, default=0, help="tests of a mutant are left out beyond so many seconds"
    )
    parser.add_argument("--list", action="store_true", help="print the mutants and run nothing")
    parser.add_argument("--quiet", action="store_true", help="print the figures without the survivors")
    return parser.parse_args()


def chosen_files(names: list[str] | None) -> list[Path]:
    """The files to change; SystemExit if a name is none of them."""
    files = [path for room in ROOMS for path in sorted((ROOT / room).glob("*.py"))]
    if not names:
        return files
    chosen = []
    for name in names:
        short = name.removesuffix(".py")
        found = [path for path in files if short in (path.stem, path.stem[8:], str(path.relative_to(ROOT))[:-3])]
        if not found:
            raise SystemExit(f"no such file: {name}")
        chosen += found
    return chosen


def _preload() -> None:
    """Import what is not ours and takes its time, before the first fork."""
    import hypothesis  # noqa: F401, PLC0415
    import pymysql  # noqa: F401, PLC0415
    import salt.client  # noqa: PLC0415
    import salt.config  # noqa: PLC0415
    import salt.minion  # noqa: PLC0415
    import salt.state  # noqa: F401, PLC0415


def main() -> int:
    """Run the mutants and print the figures."""
    options = _arguments()
    files = chosen_files(options.file)
    if options.list:
        for path in files:
            for mutant in Source(str(path.relative_to(ROOT)), path.read_text()).mutants:
                print(f"{mutant.number:4} {mutant.key}")
        return 0
    _preload()
    unit = None if options.own else measured("tests/unit", options.jobs)
    functional = measured(options.functional, options.jobs) if options.functional else None
    tried: dict[Driver, list[Mutant]] = {}
    alive: dict[Driver, list[Mutant]] = {}
    table = _Table(listed(), options.quiet)
    for path in files:
        coverage = unit or measured(f"tests/unit/test_{path.stem}.py")
        driver = Driver(path, coverage, options.jobs, options.seconds)
        tried[driver] = driver.source.mutants
        if options.share:
            count = min(options.share, len(tried[driver]))
            tried[driver] = sorted(random.Random(path.stem).sample(tried[driver], count))
        due = _due(driver, tried[driver], options)
        alive[driver] = driver.run(due).alive if due else []
        _keep(options, driver, alive[driver])
        if not functional:
            table.row(driver, tried[driver], alive[driver])
    if functional:
        servers = Servers(functional, options.functional_seconds)
        servers.run(alive, functools.partial(_keep, options))
        for driver, mutants in alive.items():
            outside = [mutant for mutant in mutants if not mutant.outermost]
            again = Driver(driver.path, functional, options.jobs, options.functional_seconds)
            killed = [*again.run(outside, warm=False).killed, *servers.run_alone(again, mutants)]
            alive[driver] = [mutant for mutant in mutants if mutant not in killed]
            _keep(options, driver, alive[driver])
            table.row(driver, tried[driver], alive[driver])
    if len(files) > 1:
        table.sum()
    return 1 if table.sums[3] else 0


def _kept(options: argparse.Namespace, driver: Driver) -> Path:
    return CACHE / f"alive-{driver.path.parent.name}-{driver.path.stem}-{options.share or 'all'}.json"


def _due(driver: Driver, mutants: list[Mutant], options: argparse.Namespace) -> list[Mutant]:
    """With --again not those that tests have killed already."""
    kept = _kept(options, driver)
    if options.again and kept.exists():
        digest, before = json.loads(kept.read_text())
        if digest == _digest(driver.path):
            return [mutant for mutant in mutants if mutant.key in before]
    return mutants


def _keep(options: argparse.Namespace, driver: Driver, alive: list[Mutant]) -> None:
    _kept(options, driver).write_text(json.dumps([_digest(driver.path), [mutant.key for mutant in alive]]))


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class _Table:
    """A row for each file, and one for all of them together."""

    def __init__(self, equivalent: dict[str, str], quiet: bool):
        self._equivalent, self._quiet = equivalent, quiet
        self.sums = [0, 0, 0, 0]
        print("| file | mutants | killed | equivalent | alive | killed of those that change something |")
        print("| --- | --- | --- | --- | --- | --- |")

    def row(self, driver: Driver, tried: list[Mutant], alive: list[Mutant]) -> None:
        """Print what became of the mutants of a file, and which ones nobody has killed."""
        left = [mutant for mutant in alive if mutant.key not in self._equivalent]
        numbers = [len(tried), len(tried) - len(alive), len(alive) - len(left), len(left)]
        self.sums = [sum(pair) for pair in zip(self.sums, numbers)]
        self._print(driver.source.file, numbers)
        if not self._quiet:
            for mutant in left:
                print(f"    {mutant.line}: {mutant.key}")

    def sum(self) -> None:
        """Print the last row."""
        self._print("together", self.sums)

    @staticmethod
    def _print(name: str, numbers: list[int]) -> None:
        count, killed, known, alive = numbers
        share = f"{100 * killed / (killed + alive):.1f} %" if killed + alive else ""
        print(f"| {name} | {count:,} | {killed:,} | {known:,} | {alive:,} | {share} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
