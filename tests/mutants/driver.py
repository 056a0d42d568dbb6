"""All mutants of one file, against the tests of one folder."""

from __future__ import annotations

import functools
import gc
import itertools
import json
import os
import signal
from collections import defaultdict
from pathlib import Path
from types import CodeType
from typing import NamedTuple

import pytest

from . import CACHE, ROOT, own_tests
from .children import ALIVE, BROKEN, KILLED, Functions, Jobs, Runner, forked, replace_file, run_items, run_pytest
from .measure import Coverage, Test
from .mutations import Mutant, Source

# What is seen without that a line of the file runs.
ALWAYS_ASKED = "/test_values.py::"


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
            jobs = Jobs(self._jobs)
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
            names = (ALWAYS_ASKED, f"/{own_tests(self.path)}::")
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
        own = own_tests(self.path)
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
