"""What an apply costs, compared with an empty one, and how long it delays mail. Real servers, one run, ratios.

    python -m bench.apply [--maps 300] [--rounds 5] [--beside CHECKOUT]

1. CPU and wall time of `salt-call --local state.apply`: with an empty SLS (empty), with the three maps in the correct
   state (converged), and for the first set-up of three and of many maps.
2. The longest RCPT under a steady load: while applies change a table file and main.cf, and while a script does the same
   by a plain write and `postconf -e` (naive). Both reload Postfix. Each smtpd process ends after ten clients, so many
   processes read their configuration meanwhile.

With --beside another checkout (of an older commit, say) is measured in turn with this one, kind by kind, each with a
Postfix of its own: the ratio is ours to theirs, and 2 is left out. Run it from an export, beside an export (git
archive): an apply lists all files below file_roots, those of .git and of caches too.
"""

import argparse
import contextlib
import os
import resource
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path

from lab import scratch
from lab.mariadb import MariaDB, schema
from lab.minion import FILE_ROOTS, Minion
from lab.postfix import Postfix
from lab.smtp import Load

PASSWORD = "bench-secret"
ANSWERED = {"jack@example.org": 250, "john@example.org": 250, "nobody@example.org": 550}
QUERY = "SELECT destination FROM virtual_aliases WHERE source='%s'"


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


def timed(minion: Minion, sls: str) -> tuple[float, float]:
    """CPU and wall seconds of one apply, its child processes included."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = minion.command("--retcode-passthrough", "state.apply", sls)
    wall, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"state.apply {sls} failed:\n{done.stdout}{done.stderr}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def fresh(postfix: Postfix) -> None:
    """Reset Postfix to its state before the first set-up."""
    for file in postfix.config_directory.glob("*.cf"):
        if file.name not in ("main.cf", "master.cf"):
            file.unlink()
    postfix.write_main_cf()
    postfix.reload()


Lines = dict[str, list[tuple[float, float]]]


@dataclass(frozen=True)
class Side:
    """A checkout that is measured: a minion that serves it, and a Postfix."""

    minion: Minion
    postfix: Postfix
    lines: Lines = field(default_factory=dict)

    def measure(self, name: str, sls: str) -> None:
        """Add one measurement."""
        self.lines.setdefault(name, []).append(timed(self.minion, sls))


def measure_round(database: MariaDB, sides: list[Side], many: int) -> None:
    """Measure each kind once, one side right after the other: the speed of a machine changes within seconds."""
    maps = {f"bench_{number}": {"parameter": f"bench_{number}_maps", "query": QUERY} for number in range(many)}
    for side in sides:
        fresh(side.postfix)
        side.minion.pillar = pillar(database, side.postfix)
    for name, sls in (("empty", "empty"), ("first set-up, 3 maps", "ispmail"), ("converged, 3 maps", "ispmail")):
        for side in sides:
            side.measure(name, sls)
    for side in sides:
        side.minion.pillar = pillar(database, side.postfix, maps=maps)
    for name in (f"first set-up, {many} more maps", f"converged, {many + 3} maps"):
        for side in sides:
            side.measure(name, "ispmail")


def medians(lines: Lines) -> dict[str, tuple[float, float]]:
    """Name to the medians of CPU and wall seconds."""
    return {
        name: (statistics.median(value[0] for value in values), statistics.median(value[1] for value in values))
        for name, values in lines.items()
    }


def show(head: str, lines: Lines, base: Lines | None = None) -> None:
    """Print a table. Ratios are medians over the rounds, each to the same round of `base`, or to its empty apply."""
    print(f"{head:28}{'CPU s':>8}{'ratio':>8}{'wall s':>8}{'ratio':>8}")
    for name, (cpu, wall) in medians(lines).items():
        pairs = list(zip(lines[name], base[name] if base else lines["empty"]))
        ratios = [statistics.median(ours[kind] / theirs[kind] for ours, theirs in pairs) for kind in (0, 1)]
        print(f"{name:28}{cpu:8.2f}{ratios[0]:8.3f}{wall:8.2f}{ratios[1]:8.3f}")


def costs(database: MariaDB, sides: list[Side], many: int, rounds: int) -> None:
    """Print the tables of costs."""
    for side in sides:
        side.minion.command("saltutil.sync_all")
    for number in range(rounds):
        # Each is first every second time.
        measure_round(database, sides[:: -1 if number % 2 else 1], many)
    show(f"median of {rounds}", sides[0].lines)
    for other in sides[1:]:
        show("beside the other checkout", sides[0].lines, other.lines)


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
        print(f"{name}: {rounds} changes of table file and main.cf; {report}; {connect}")


def main() -> None:
    """Run both parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--maps", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--beside", metavar="CHECKOUT", type=Path)
    options = parser.parse_args()
    # As on a mail server, where Salt's Python keeps what it has compiled.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(scratch())
        database = stack.enter_context(MariaDB(directory / "db"))
        schema(database, PASSWORD)
        (directory / "sls").mkdir()
        (directory / "sls" / "empty.sls").write_text("nothing: test.nop\n")
        served = [FILE_ROOTS]
        if options.beside:
            served.append([str(options.beside.resolve() / "salt"), str(options.beside.resolve())])
        sides = [
            Side(
                Minion(directory / f"minion{number}", file_roots={"base": [str(directory / "sls"), *roots]}),
                stack.enter_context(Postfix(directory / f"mail{number}", max_use="10")),
            )
            for number, roots in enumerate(served)
        ]
        costs(database, sides, options.maps, options.rounds)
        if not options.beside:
            stalls(database, sides[0].postfix, sides[0].minion, options.rounds)


if __name__ == "__main__":
    main()
