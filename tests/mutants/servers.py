"""What is alive, by functional tests."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import itertools
import json
import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple

import psutil
import pytest

from . import CACHE, ROOT
from .children import ALIVE, BROKEN, KILLED, Functions, Runner, forked, replace_file, run_items, run_pytest
from .driver import Driver
from .measure import Coverage, Test
from .mutations import Mutant

PR_SET_CHILD_SUBREAPER = 36  # prctl(2): what a child leaves behind becomes a child of this process


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
