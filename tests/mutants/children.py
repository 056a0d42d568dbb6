"""Processes that run tests: pytest in a child, several at a time, with a time limit and another code."""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib.machinery
import os
import resource
import signal
import sys
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from types import CodeType, FunctionType
from typing import Any

import pytest

from . import ROOT

ALIVE, KILLED, BROKEN = 0, 1, 99  # how a child ends; one that was ended by a signal took too long
MEMORY = 4 << 30
EXAMPLES = 25  # of a property
OPTIONS = ["-o", "addopts=", "-p", "no:cacheprovider", "-p", "no:terminal"]
OPTIONS += ["-p", "_hypothesis_pytestplugin", "--hypothesis-seed=0"]


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


def forked(function: Callable[[], int | None], jobs: Jobs | None = None, seconds: float = 0) -> int:
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
    return ended(os.waitpid(pid, 0), pid)


def ended(waited: tuple[int, int], pid: int) -> int:
    """What a child started goes with it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(waited[1])


class Jobs:
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
                then(ended(waited, pid))
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


def caches() -> list[Any]:
    """The functions of the library that remember what they have returned."""
    objects = gc.get_objects()
    found = [each for each in objects if isinstance(each, functools._lru_cache_wrapper)]
    return [each for each in found if each.__module__.lstrip("_").startswith("ispmail")]


class Functions:
    """The functions of a file that this process has, whoever imported them."""

    def __init__(self, path: str):
        """Find them."""
        self._path = path
        self._found: defaultdict[tuple[str, int], list[FunctionType]] = defaultdict(list)
        self._caches = caches()
        for each in gc.get_objects():
            if isinstance(each, FunctionType) and each.__code__.co_filename == path:
                self._found[each.__code__.co_name, each.__code__.co_firstlineno].append(each)

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
