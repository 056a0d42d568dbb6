"""Cut off or disturb a change at each system call, and look at what is there: python -m tests.functional.killed

prints a table of scenarios: points, violations. `--every N` takes each N-th point only.
"""

import argparse
import contextlib
import itertools
import math
import os
import shutil
import smtplib
import stat
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import _ispmail_apply
import _ispmail_compare
import _ispmail_config
import _ispmail_config_consumers
import _ispmail_journal
import _ispmail_postfix
import _ispmail_remove
import _ispmail_rollback
import _ispmail_smtpd
from _ispmail_errors import IspmailError
from _ispmail_history import History
from _ispmail_programs import ASKERS
from _ispmail_replaced import Replaced
from _ispmail_smtpd import Reply
from lab import scratch, tail, wait_until
from lab.mariadb import MariaDB, schema
from lab.postfix import Postfix
from lab.smtp import rcpt

from .tracer import traced

PASSWORD = "pw-Zq8#x7%;=$'\"\\w{}-Kv3"
WAYS = ("kill", "cut", "EIO", "ENOSPC", "full")
ADDRESSES = ("jack@example.org", "new@example.org", "nobody@example.org", "joe@elsewhere.test")
NONE = dict.fromkeys(ADDRESSES, 554)
FIRST = {**NONE, "jack@example.org": 250, "new@example.org": 550, "nobody@example.org": 550}
SECOND = {**FIRST, "new@example.org": 250}
MAPS = {
    "virtual_alias_maps": {"query": "SELECT destination FROM virtual_aliases WHERE '%s' = source"},
    "more": {
        "parameter": "virtual_alias_maps",
        "query": "SELECT email FROM virtual_users WHERE '%s' = 'new@example.org' AND email = 'john@example.org'",
    },
}
# It answers as the second one.
THIRD = {**MAPS, "virtual_alias_maps": {**MAPS["virtual_alias_maps"], "expansion_limit": 100}}
PROXIED = {name: {**MAPS.get(name, {}), "proxy": True} for name in ("virtual_mailbox_domains", *MAPS)}
# What a change says where not all is as before.
SAYS_AFTER = "The change is live and checked"
SAYS_NEITHER = "It could not be put back"
CONVERGED = "done"


def _copy(source: Path, target: Path) -> None:
    """Copy a file with its owner and group."""
    shutil.copy2(source, target, follow_symlinks=False)
    status = os.lstat(source)
    os.lchown(target, status.st_uid, status.st_gid)


def _as_kept(replaced: Replaced) -> tuple[object, ...]:
    """What is kept of a file; one that is not there has no owner."""
    before = replaced.before
    was = (before.path, None) if before.content is None else tuple(before)
    return was, replaced.after and replaced.owned, str(replaced.told)


@dataclass(frozen=True)
class Scenario:
    """One kind of change: from which state, what is done, and what the next one is."""

    name: str
    start: str  # a state of the site
    act: str  # "apply first", "apply second", "remove first" …
    before: dict[str, int]
    after: dict[str, int]
    undone: bool = False  # smtpd is made to fail after the change


SCENARIOS = (
    Scenario("first set-up", "nothing", "apply first", NONE, FIRST),
    Scenario("change", "first", "apply second", FIRST, SECOND),
    Scenario("remove", "first", "remove first", FIRST, NONE),
    Scenario("rollback", "second", "rollback second", SECOND, FIRST),
    Scenario("rollback after an interruption", "cut off", "rollback second", SECOND, FIRST),
    Scenario("undo of a rollback", "second", "rollback second", SECOND, FIRST, undone=True),
    Scenario("undo of a first set-up", "nothing", "apply first", NONE, FIRST, undone=True),
    Scenario("undo on a server in use", "first", "apply second", FIRST, SECOND, undone=True),
    Scenario("apply after an interruption", "cut off", "apply third", FIRST, SECOND),
    Scenario("remove after an interruption", "cut off", "remove second", SECOND, NONE),
    Scenario("from proxymap", "proxied", "apply second", SECOND, SECOND),
    Scenario("remove from proxymap", "proxied", "remove proxied", SECOND, NONE),
    Scenario("undo of to proxymap", "second", "apply proxied", SECOND, SECOND, undone=True),
    Scenario("apply after an interruption of from proxymap", "leaving", "apply second", SECOND, SECOND),
)


@dataclass
class Result:
    """What the points of one scenario gave."""

    points: int = 0
    violations: list[str] = field(default_factory=list)


class Site:
    """One Postfix and its database, whose states are kept and restored."""

    def __init__(self, postfix: Postfix, mariadb: MariaDB, directory: Path) -> None:
        self.postfix, self.directory = postfix, directory
        self.cache = directory / "cache"
        self.temporary = directory / "tmp"
        self.temporary.mkdir()
        section = {
            "database": {"password": PASSWORD, "hosts": f"127.0.0.1:{mariadb.port}"},
            "postfix": {"config_directory": str(postfix.config_directory)},
        }
        maps = {"first": {}, "second": MAPS, "third": THIRD, "proxied": PROXIED}
        self._sections = {name: {**section, "maps": each} for name, each in maps.items()}
        self._states: dict[str, tuple[str, Path]] = {}
        self._start: tuple[str, dict[str, tuple[int, int, int, bytes]]] = ("", {})
        self._wanted: dict[str, dict[str, tuple[int, int, int, bytes]]] = {}
        self._histories: dict[str, list[object]] = {}
        # A scenario, what smtpd answers, and all files, to what is wrong after the next change from there.
        self.seen: dict[object, list[str]] = {}

    def run(self, act: str) -> str:
        """Apply or remove; what it says, or CONVERGED."""
        verb, _, which = act.partition(" ")
        try:
            if verb == "apply":
                instance = _ispmail_config.complete("ispmail", self._sections[which], [])
                _ispmail_apply.apply(
                    _ispmail_compare.compare(instance, _ispmail_config_consumers.NONE, str(self.cache)), str(self.cache)
                )
            elif verb == "remove":
                _ispmail_remove.remove(
                    _ispmail_config.instance("ispmail", self._sections[which]), None, str(self.cache)
                )
            else:
                # The second apply was the second change.
                instance = _ispmail_config.instance("ispmail", self._sections[which])
                _ispmail_rollback.rollback(instance, _ispmail_config_consumers.NONE, (), 2, str(self.cache))
        except IspmailError as err:
            return f"{type(err).__name__}: {err}"
        except Exception as err:  # pylint: disable=broad-except
            return f"unforeseen {type(err).__name__}: {err}"
        return CONVERGED

    def run_undone(self, act: str) -> str:
        """The same, while smtpd cannot ask its maps as soon as anything has changed."""
        start, ask = self.contents(), _ispmail_smtpd.ask

        def ask_a_broken_smtpd(*arguments: object, **options: object) -> Reply:
            reply = ask(*arguments, **options)  # type: ignore[arg-type]
            broken = reply._replace(code=451, text="4.3.0 Temporary lookup failure")
            return reply if self.contents() == start else broken

        _ispmail_smtpd.ask = ask_a_broken_smtpd  # in a forked process only
        return self.run(act)

    def keep(self, name: str, daemons: str = "") -> None:
        """Keep files and journal as they are now. `daemons`: the state that Postfix's processes have read."""
        kept = self.directory / f"state of {name}"
        for source in (self.postfix.config_directory, self.cache):
            if source.exists():
                shutil.copytree(source, kept / source.name, symlinks=True, copy_function=_copy)
        self._states[name] = (daemons or name, kept)

    def restore(self, name: str) -> None:
        """Go back to a state that was kept: files, journal, and what Postfix's processes have read."""
        daemons, kept = self._states[name]
        if daemons != name:
            self.restore(daemons)
            self._restore_files(kept)
        elif any("proxy:" in (folder / "main.cf").read_text() for folder in self._configurations(kept)):
            # Files are not put back here by the steps of a change. A process that starts in this moment may still ask
            # proxymap for a table that it does not know any more: it would die, and no other start for a minute.
            self.postfix.stop()
            self._restore_files(kept)
            self.postfix.start()
        else:
            self._restore_files(kept)
            self._reread()
        self._start = (name, self.everything())

    def _configurations(self, kept: Path) -> tuple[Path, Path]:
        """The configuration directory as it is, and as it was kept."""
        config = self.postfix.config_directory
        return config, kept / config.name

    def is_cut_off(self, name: str) -> bool:
        """Whether Postfix's processes have read something else than what is on disk in a state."""
        return self._states[name][0] != name

    def is_as_restored(self, name: str) -> bool:
        """Whether nothing has changed on disk since this state was restored."""
        return self._start == (name, self.everything())

    def _reread(self) -> None:
        """Do what a reload does in the end, and wait until no process has read anything older."""
        began, queue = time.clock_gettime(time.CLOCK_BOOTTIME), str(self.postfix.queue_directory)
        # Once in many hundred times a process that starts in this moment does not end by the first signal.
        for _ in range(3):
            _ispmail_postfix._signal_master(queue)
            if wait_until(lambda: not _ispmail_postfix._started_before(began, queue, ASKERS), 20):
                return
        left = _ispmail_postfix._started_before(began, queue, ASKERS)
        raise AssertionError(f"Postfix has old processes {left}:\n{self.postfix.log[-2000:]}")

    def _restore_files(self, kept: Path) -> None:
        config, before = self._configurations(kept)
        wanted = {path.name for path in before.iterdir()}
        shutil.rmtree(self.cache, ignore_errors=True)
        if (kept / self.cache.name).exists():
            shutil.copytree(kept / self.cache.name, self.cache, copy_function=_copy)
        for path in [*before.iterdir()]:
            aside = config / f"{path.name}.aside"
            _copy(path, aside)
            aside.rename(config / path.name)
        for path in config.iterdir():
            if path.name not in wanted:
                path.unlink()
        for path in self.temporary.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def everything(self) -> dict[str, tuple[int, int, int, bytes]]:
        """All files that a change may touch, its own included: owner, mode and bytes."""
        found = {}
        for folder in (self.postfix.config_directory, self.cache, self.temporary):
            for path in (path for path in folder.rglob("*") if path.is_file()):
                status = path.stat()
                found[str(path)] = (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode), path.read_bytes())
        return found

    def contents(self) -> dict[str, tuple[int, int, int, bytes]]:
        """The files that Postfix reads: owner, mode and bytes."""
        found = {}
        for path in sorted(self.postfix.config_directory.iterdir()):
            if not path.name.startswith(".") and path.name != "main.cf.tmp":
                status, content = path.stat(), path.read_bytes()
                if path.name == "main.cf":
                    # postconf adds several parameters in random order.
                    content = b"".join(sorted(content.splitlines(keepends=True)))
                found[path.name] = (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode), content)
        return found

    def leftovers(self) -> list[str]:
        """Files that a finished change does not leave."""
        config = self.postfix.config_directory
        found = [path.name for path in config.iterdir() if path.name.startswith(".")]
        # postconf's lock file: empty, and used again.
        found += [path.name for path in config.glob("*.tmp") if path.stat().st_size]
        found += [path.name for path in self.temporary.iterdir()]
        return found + [
            str(path)
            for path in self.cache.rglob("*")
            if path.is_file() and (path.stat().st_size or not path.name.endswith(".new")) and not path.name.isdigit()
        ]

    def history(self) -> list[object]:
        """What was kept of finished changes, but for when they were, and what they had found half-done."""
        journal = _ispmail_journal.Journal(str(self.postfix.config_directory), str(self.cache))
        return [
            (
                *(each.number, each.act, sorted(map(_as_kept, each.files))),
                {name: (value.before, value.after) for name, value in each.parameters.items()},
            )
            for each in History(journal.history).entries(interrupted=False)
        ]

    def wanted_history(self, scenario: Scenario) -> list[object]:
        """The same after the change if nothing disturbs it: one entry more, but for one that went nowhere."""
        self.wanted(scenario)
        return self._histories[scenario.name]

    def interrupted(self) -> bool:
        """Whether the journal says that work is due."""
        return _ispmail_journal.interrupted(str(self.postfix.config_directory), str(self.cache), ())

    def wanted(self, scenario: Scenario) -> dict[str, tuple[int, int, int, bytes]]:
        """What is there after the change if nothing disturbs it."""
        if scenario.name not in self._wanted:
            self.restore(scenario.start)
            assert self.run(scenario.act) == CONVERGED and self.replies() == scenario.after
            assert not self.interrupted() and not self.leftovers()
            self._wanted[scenario.name], self._histories[scenario.name] = self.contents(), self.history()
        return self._wanted[scenario.name]

    def replies(self) -> dict[str, int]:
        """What smtpd says to each address."""
        return {address: rcpt(self.postfix.port, address)[0] for address in ADDRESSES}

    def all_replies(self) -> set[tuple[str, int]]:
        """The same of several smtpd processes at a time: idle ones, with what they have read before, and a new one."""
        found = set()
        try:
            with contextlib.ExitStack() as stack:
                place = ("127.0.0.1", self.postfix.port, "client.test", 10)
                clients = [stack.enter_context(smtplib.SMTP(*place)) for _ in range(4)]
                for client in clients:
                    client.ehlo()
                    for address in ADDRESSES:
                        client.docmd("MAIL FROM:<test@sender.test>")
                        found.add((address, client.docmd(f"RCPT TO:<{address}>")[0]))
                        client.rset()
        except (OSError, smtplib.SMTPException) as err:
            raise AssertionError(f"{err}, and Postfix says:\n{tail(self.postfix.log_file, 40)}") from err
        return found


@contextlib.contextmanager
def site() -> Iterator[Site]:
    """A site with all states that scenarios start from."""
    with scratch() as directory, MariaDB(directory / "db") as mariadb, Postfix(directory / "mail") as postfix:
        schema(mariadb, PASSWORD)
        found = Site(postfix, mariadb, directory)
        # Each directory of PATH is one execve more for each command.
        path, os.environ["PATH"] = os.environ["PATH"], "/usr/sbin:/usr/bin:/bin"
        # Copies of main.cf must not be left there.
        temporary, tempfile.tempdir = tempfile.tempdir, str(found.temporary)
        try:
            found.keep("nothing")
            for name in ("first", "second", "proxied"):
                assert found.run(f"apply {name}") == CONVERGED
                found.keep(name)
            for name, daemons in (("cut off", "first"), ("leaving", "proxied")):
                found.restore(daemons)
                _cut_before_reload(found)
                found.keep(name, daemons)
            yield found
        finally:
            os.environ["PATH"], tempfile.tempdir = path, temporary


def _cut_before_reload(found: Site) -> None:
    """Leave the second state on disk, or the first step to it, unloaded, with the journal of its change."""

    def act() -> str:
        def end(*_: object, **__: object) -> None:
            os._exit(1)

        _ispmail_postfix.reload = end  # in a forked process only
        return found.run("apply second")

    assert traced(act).returned is None
    assert found.interrupted() and found.leftovers()


def run_point(found: Site, scenario: Scenario, way: str, number: int) -> list[str] | None:
    """Cut off or disturb one change at one call: what is wrong then. None where it has fewer calls."""
    wanted = found.wanted(scenario)
    # Where Postfix has read something else than what is on disk, nothing but a reload brings it back.
    if found.is_cut_off(scenario.start) or not found.is_as_restored(scenario.start):
        found.restore(scenario.start)
    start = found.contents()
    act = found.run_undone if scenario.undone else found.run
    done = traced(lambda: act(scenario.act), way, number)
    if not done.hit:
        return None
    replies = found.all_replies()
    wrong = [
        f"{address} gets {code}"
        for address, code in replies
        if code not in (scenario.before[address], scenario.after[address])
    ]
    if done.returned is not None:
        wrong += _untrue(found, done.returned, start, wanted)
    # From the very state of the start the next one does what `wanted` has seen, and from equal states the same.
    if not found.is_as_restored(scenario.start):
        state = (scenario.name, frozenset(replies), frozenset(found.everything().items()))
        if state not in found.seen:
            found.seen[state] = _after_the_next(found, scenario, wanted)
        wrong += found.seen[state]
    said = f" (it said: {done.returned})" if done.returned else ""
    return [f"{scenario.name}, {way} at call {number}, {done.hit}: {each}{said}" for each in wrong]


def _after_the_next(found: Site, scenario: Scenario, wanted: dict[str, tuple[int, int, int, bytes]]) -> list[str]:
    """Do it once more: what is wrong then."""
    wrong = []
    again = found.run(scenario.act)
    if "has no such entry" in again:
        # A change that was cut off is no entry any more once it is undone: an apply ends what is left to do.
        again = found.run("apply first")
    if again != CONVERGED:
        wrong.append(f"the next one fails: {again}")
    if found.contents() != wanted or found.replies() != scenario.after:
        wrong.append(f"the next one did not converge: {found.replies()}")
    if found.interrupted() or found.leftovers():
        wrong.append(f"left after the next one: {found.leftovers()}")
    if found.history() != found.wanted_history(scenario):
        wrong.append(f"the history differs: {found.history()}, not {found.wanted_history(scenario)}")
    return wrong


def _untrue(
    found: Site,
    said: str,
    start: dict[str, tuple[int, int, int, bytes]],
    wanted: dict[str, tuple[int, int, int, bytes]],
) -> list[str]:
    """Compare what a change said with what is there."""
    now = found.contents()
    unfinished = found.interrupted() or bool(found.leftovers())
    if said.startswith("unforeseen"):
        return ["a traceback"]
    if PASSWORD in said:
        return ["it shows the password"]
    if said == CONVERGED:
        return ["it is not done"] if now != wanted or unfinished else []
    if SAYS_AFTER in said:
        return ["it is not live"] if now != wanted else []
    if SAYS_NEITHER in said:
        others = {name: file for name, file in now.items() if name not in said.partition("look at")[2]}
        if any(start.get(name) != file for name, file in others.items()):
            return ["it does not name all files that are new"]
        return [] if found.interrupted() else ["nothing tells the next one"]
    if "except" in said:
        now = {name: file for name, file in now.items() if name in start or name not in said}
    return ["it is not as before"] if now != start else []


def run_scenario(found: Site, scenario: Scenario, way: str, numbers: Iterable[int], seconds: float) -> Result:
    """Run the points of a scenario until its calls, or the time, are at an end."""
    result = Result()
    until = time.monotonic() + seconds
    for number in numbers:
        if time.monotonic() > until:
            break
        wrong = run_point(found, scenario, way, number)
        if wrong is None:
            break
        result.points += 1
        result.violations += wrong
    return result


def main() -> int:
    """Run all scenarios in all ways, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m tests.functional.killed", description=__doc__)
    parser.add_argument("--every", type=int, default=1, help="take each N-th call only")
    parser.add_argument("--way", choices=WAYS, action="append", help="only these")
    parser.add_argument("--scenario", action="append", help="only these")
    options = parser.parse_args()
    failed = False
    with site() as found:
        for scenario in SCENARIOS:
            for way in options.way or WAYS:
                if options.scenario and scenario.name not in options.scenario:
                    continue
                began = time.monotonic()
                result = run_scenario(found, scenario, way, itertools.count(1, options.every), math.inf)
                spent = time.monotonic() - began
                print(
                    f"| {scenario.name} | {way} | {result.points} | {len(result.violations)} | {spent:.0f} s",
                    flush=True,
                )
                for line in result.violations:
                    print(f"    {line}", flush=True)
                failed |= bool(result.violations)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
