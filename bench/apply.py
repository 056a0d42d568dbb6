"""What an apply costs, beside an empty one and beside other tools, and how long it delays mail. Real servers, one run.

    python -m bench.apply [--maps 30 300] [--rounds 5] [--plain] [--ansible] [--beside CHECKOUT]

1. CPU and wall time of `salt-call --local state.apply`: with an empty SLS (empty), for the first set-up of the three
   maps, with them in the correct state (converged), after a change of one query, and the same with many more maps. The
   floor of each is an empty apply and the commands that no apply can do without: postconf for one that changes nothing;
   for others each new table asked twice, before it goes live and after, one `postconf -e` and one `postfix reload`.
2. With --plain the same files and parameters by Salt's own states (file.managed, cmd.run), with --ansible by a playbook
   (copy, command; installs ansible-core in a virtual environment that is deleted afterwards). Neither asks a table.
3. The longest RCPT under a steady load: while applies change a table file and main.cf, and while a script does the same
   by a plain write and `postconf -e` (naive). Both reload Postfix. Each smtpd process ends after ten clients, so many
   processes read their configuration meanwhile.

With --beside another checkout (of an older commit, say) is measured in turn with this one, kind by kind, each with a
Postfix of its own: the ratio is ours to theirs, and 2 and 3 are left out. Run it from an export, beside an export (git
archive): an apply lists all files below file_roots, compiled ones too, and those of .git in an older checkout.
"""

import argparse
import contextlib
import functools
import itertools
import os
import resource
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from bench.others import Ansible, PlainStates, Tool
from lab import scratch
from lab.mariadb import MariaDB, schema
from lab.minion import FILE_ROOTS, Minion
from lab.postfix import Postfix
from lab.smtp import Load

PASSWORD = "bench-secret"
ANSWERED = {"jack@example.org": 250, "john@example.org": 250, "nobody@example.org": 550}
QUERY = "SELECT destination FROM virtual_aliases WHERE source='%s'"
QUIET: dict[str, Any] = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True}
# Of the CPU time of an empty apply.
TARGETS = {
    "converged, 3 maps": 1.05,
    "converged, 303 maps": 1.10,
    "first set-up, 303 maps": 1.5,
    "a change of a query": 1.6,
}
LONGEST_RCPT = 0.1  # seconds


class Cost(NamedTuple):
    """Seconds that a command took."""

    cpu: float
    wall: float


Lines = dict[str, list[Cost]]


def pillar(database: MariaDB, postfix: Postfix, **sections: object) -> dict:
    """The smallest pillar for these two servers."""
    return {
        "ispmail": {
            "packages": False,
            "database": {"password": PASSWORD, "hosts": f"127.0.0.1:{database.port}"},
            "postfix": {"config_directory": str(postfix.config_directory)},
            **sections,
        }
    }


def timed(minion: Minion, sls: str) -> Cost:
    """One apply, its child processes included."""
    return spent(lambda: minion.command("--retcode-passthrough", "state.apply", sls))


def spent(run: Callable[[], subprocess.CompletedProcess[str]]) -> Cost:
    """CPU and wall seconds of a command, its child processes included; it has to succeed."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = run()
    wall, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{done.args} failed:\n{done.stdout}{done.stderr}")
    return Cost(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall)


def fresh(postfix: Postfix) -> None:
    """Reset Postfix to its state before the first set-up."""
    for file in postfix.config_directory.glob("*.cf"):
        if file.name not in ("main.cf", "master.cf"):
            file.unlink()
    postfix.write_main_cf()
    postfix.reload()


@dataclass(frozen=True)
class Side:
    """What is measured: a minion that serves a checkout, and a Postfix."""

    minion: Minion
    postfix: Postfix
    lines: Lines = field(default_factory=dict)
    floors: Lines = field(default_factory=dict)

    def measure(self, name: str, sls: str) -> None:
        """Add one measurement."""
        self.lines.setdefault(name, []).append(timed(self.minion, sls))

    def floor(self, name: str, tables: int, changes: bool = True) -> None:
        """Add what no apply can do without: an empty one, and commands of Postfix for so many new tables."""
        directory = str(self.postfix.config_directory)
        commands = [["postconf", "-c", directory]]
        if changes:
            found = [f"mysql:{path}" for path in sorted(self.postfix.config_directory.glob("*.cf"))]
            asked = [table for table in found if not table.endswith(("/main.cf", "/master.cf"))][:tables]
            # As many at a time as an apply probes, and as it asks when they are live.
            chunks = [asked[start : start + size] for size in (16, 64) for start in range(0, len(asked), size)]
            commands += [["postmap", "-c", directory, "-q", "none@example.org", *some] for some in chunks]
            commands += [["postconf", "-c", directory, "-e", "biff = no"], ["postfix", "-c", directory, "reload"]]
        total = self.lines["empty"][-1]
        for command in commands:
            # postmap ends with 1 where no table has the key.
            words = ["sh", "-c", '"$@" || test $? = 1', "sh", *command]
            more = spent(functools.partial(subprocess.run, words, check=False, **QUIET))
            total = Cost(total.cpu + more.cpu, total.wall + more.wall)
        self.floors.setdefault(name, []).append(total)


def measure_round(database: MariaDB, sides: list[Side], sizes: list[int]) -> None:
    """Measure each kind once, one side right after the other: the speed of a machine changes within seconds."""
    for side in sides:
        fresh(side.postfix)
        side.minion.pillar = pillar(database, side.postfix)
        side.measure("empty", "empty")
    for side in sides:
        side.measure("first set-up, 3 maps", "ispmail")
        side.floor("first set-up, 3 maps", 3)
    for side in sides:
        side.measure("converged, 3 maps", "ispmail")
        side.floor("converged, 3 maps", 0, changes=False)
    for side in sides:
        side.minion.pillar = pillar(database, side.postfix, maps={"virtual_alias_maps": {"query": query(1)}})
        side.measure("a change of a query", "ispmail")
        side.floor("a change of a query", 1)
    for many in sizes:
        maps = {f"bench_{number}": {"parameter": f"bench_{number}_maps", "query": QUERY} for number in range(many)}
        for side in sides:
            fresh(side.postfix)
            side.minion.pillar = pillar(database, side.postfix, maps=maps)
            side.measure(f"first set-up, {many + 3} maps", "ispmail")
            side.floor(f"first set-up, {many + 3} maps", many + 3)
        for side in sides:
            side.measure(f"converged, {many + 3} maps", "ispmail")
            side.floor(f"converged, {many + 3} maps", 0, changes=False)


@contextlib.contextmanager
def servers(beside: Path | None = None) -> Iterator[tuple[Path, MariaDB, list[Side]]]:
    """A folder, a database with the guide's tables, and a side for this checkout and for each other one."""
    # As on a mail server, where Salt's Python keeps what it has compiled.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(scratch())
        database = stack.enter_context(MariaDB(directory / "db"))
        schema(database, PASSWORD)
        (directory / "sls").mkdir()
        (directory / "sls" / "empty.sls").write_text("nothing: test.nop\n")
        served = [FILE_ROOTS]
        if beside:
            theirs = beside.resolve()
            formula = theirs / "salt"  # with links to the modules, or an older checkout's without
            served.append([str(formula)] if (formula / "_modules").exists() else [str(formula), str(theirs)])
        yield (
            directory,
            database,
            [
                Side(
                    Minion(directory / f"minion{number}", file_roots={"base": [str(directory / "sls"), *roots]}),
                    stack.enter_context(Postfix(directory / f"mail{number}", max_use="10")),
                )
                for number, roots in enumerate(served)
            ],
        )


def measure(database: MariaDB, sides: list[Side], sizes: list[int], rounds: int) -> None:
    """Measure so many rounds."""
    for side in sides:
        side.minion.command("saltutil.sync_all")
    for number in range(rounds):
        # Each is first every second time.
        measure_round(database, sides[:: -1 if number % 2 else 1], sizes)


def medians(lines: Lines) -> dict[str, Cost]:
    """Name to the medians of CPU and wall seconds."""
    return {
        name: Cost(*(statistics.median(value[kind] for value in values) for kind in (0, 1)))
        for name, values in lines.items()
    }


def ratios(lines: Lines, name: str, base: list[Cost]) -> Cost:
    """The medians over the rounds of a line's CPU and wall seconds, each divided by those of the same round."""
    pairs = list(zip(lines[name], base))
    return Cost(*(statistics.median(ours[kind] / theirs[kind] for ours, theirs in pairs) for kind in (0, 1)))


def show(side: Side, head: str) -> None:
    """Print a table. Ratios are to the empty apply of the same round; the floor and the target are of CPU."""
    print(f"{head:28}{'CPU s':>8}{'ratio':>8}{'floor':>8}{'target':>8}{'wall s':>8}{'ratio':>8}")
    empty = side.lines["empty"]
    for name, found in medians(side.lines).items():
        ratio = ratios(side.lines, name, empty)
        floor = f"{ratios(side.floors, name, empty).cpu:8.3f}" if name in side.floors else f"{'':8}"
        target = f"{TARGETS[name]:8.2f}" if name in TARGETS else f"{'':8}"
        print(f"{name:28}{found.cpu:8.2f}{ratio.cpu:8.3f}{floor}{target}{found.wall:8.2f}{ratio.wall:8.3f}")


def show_beside(ours: Lines, theirs: Lines) -> None:
    """Print a table of ratios to another checkout, or another tool, by medians over the rounds."""
    print(f"{'beside the other checkout':28}{'CPU s':>8}{'ratio':>8}{'wall s':>8}{'ratio':>8}")
    for name, found in medians(ours).items():
        ratio = ratios(ours, name, theirs[name])
        print(f"{name:28}{found.cpu:8.2f}{ratio.cpu:8.3f}{found.wall:8.2f}{ratio.wall:8.3f}")


def costs(database: MariaDB, sides: list[Side], sizes: list[int], rounds: int) -> None:
    """Print the tables of costs."""
    measure(database, sides, sizes, rounds)
    show(sides[0], f"median of {rounds}")
    for other in sides[1:]:
        show_beside(sides[0].lines, other.lines)


def naive(postfix: Postfix, number: int) -> None:
    """What a script does: write the table file, set the parameter, reload."""
    file = postfix.config_directory / "mariadb-virtual-alias-maps.cf"
    text = file.read_text().splitlines()[:-1]
    file.write_text("\n".join([*text, f"query = {query(number)}", ""]))
    postfix.command("postconf", "-e", f"virtual_alias_maps=mysql:{file}")
    postfix.reload()


def query(number: int) -> str:
    """A query with another text and the same answers, so that an apply changes the table file."""
    return f"{QUERY} AND {number} = {number}"


def stalls(database: MariaDB, postfix: Postfix, minion: Minion, rounds: int) -> None:
    """Print how long RCPTs took during applies, and during the changes of a script."""
    fresh(postfix)
    minion.pillar = pillar(database, postfix)
    timed(minion, "ispmail")
    minion.call("test.ping")

    def apply(number: int) -> None:
        maps = {"virtual_alias_maps": {"query": query(number)}, f"more_{number}": {"query": QUERY}}
        minion.pillar = pillar(database, postfix, maps=maps)
        result = minion.apply()["postfix_map.managed"]
        if not result["result"] or "main.cf" not in result["changes"]:
            raise SystemExit(f"the apply failed or changed nothing: {result['comment']}")

    for name, change in (("apply", apply), ("naive", lambda number: naive(postfix, number))):
        with Load(postfix.port, ANSWERED, rate=100) as load:
            for number in range(rounds):
                time.sleep(1.5)
                change(number)
            time.sleep(1.5)
        report = load.stop()
        connect = f"longest connect {report.longest_connect:.3f} s"
        print(f"{name}: {rounds} changes of table file and main.cf; {report}; {connect} (target {LONGEST_RCPT} s)")


def others(directory: Path, tools: list[Tool], sizes: list[int], rounds: int) -> None:
    """Print what other tools take for the same table files and parameters."""
    lines: dict[str, Lines] = {tool.name: {} for tool in tools}
    with Postfix(directory / "mailx") as postfix:
        tables = 3, *(many + 3 for many in sizes)
        for _, count, tool in itertools.product(range(rounds), tables, tools):
            fresh(postfix)
            tool.prepare({f"bench_{number}_maps": QUERY for number in range(count)}, postfix)
            for kind in ("first set-up", "converged"):
                lines[tool.name].setdefault(f"{kind}, {count} maps", []).append(spent(tool.run))
    for title, found in lines.items():
        print(f"{title:28}{'CPU s':>8}{'wall s':>8}")
        for name, cost in medians(found).items():
            print(f"{name:28}{cost.cpu:8.2f}{cost.wall:8.2f}")


def main() -> None:
    """Run all parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--maps", type=int, nargs="+", default=[30, 300], help="how many more than the three")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--ansible", action="store_true")
    parser.add_argument("--beside", metavar="CHECKOUT", type=Path)
    options = parser.parse_args()
    with servers(options.beside) as (directory, database, sides):
        costs(database, sides, options.maps, options.rounds)
        if options.beside:
            return
        tools: list[Tool] = [PlainStates(directory / "plain")] if options.plain else []
        if options.ansible:
            tools.append(Ansible(directory / "ansible"))
        others(directory, tools, options.maps, max(1, options.rounds // 3))
        stalls(database, sides[0].postfix, sides[0].minion, options.rounds)


if __name__ == "__main__":
    main()
