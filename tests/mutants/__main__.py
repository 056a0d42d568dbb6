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
import functools
import hashlib
import json
import random
import sys
from pathlib import Path

from . import CACHE, ROOMS, ROOT, SURVIVORS, own_tests
from .driver import Driver
from .measure import measured
from .mutations import Mutant, Source
from .servers import Servers


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


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("--file", action="append", help="such as _ispmail_query or _states/postfix_map; else all")
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
        found = [path for path in files if short in (path.stem, path.stem[9:], str(path.relative_to(ROOT))[:-3])]
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
        coverage = unit or measured(f"tests/unit/{own_tests(path)}")
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
