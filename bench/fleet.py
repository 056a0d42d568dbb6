"""How long a fleet takes: applies, an event until the last server, a rotation. A real master and minions, ratios.

    python -m bench.fleet [--servers 1,4,10] [--rounds 3]

Each fleet is one master, so many minions with a Postfix each, and one MariaDB. In each round, one after the other:

1. `salt '*' state.apply` of an SLS with one test.nop (empty), of one with a cmd.run, and of ispmail, where nothing
   differs (converged) and where all table files get a new password (changed), which the database accepts already.
2. Another new password: from the event on the master's bus, through the reactor, until the last minion has applied it.
3. A rotation to another password by `salt-run ispmail.rotate`, under a load on one of the servers.

"waited" is the time of a command from its start to its end, and of the event from the bus to the last return. "on the
bus" is the time from the job's first event (or the credential event) to the last return: without the start of the
command, which takes a second of Python. Ratios are medians over the rounds, each to the empty apply of its round.
"""

import argparse
import contextlib
import json
import math
import os
import statistics
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import salt.config
import salt.utils.event

from bench.apply import ANSWERED
from lab import HOST, scratch
from lab.mariadb import MariaDB, native_hash, schema
from lab.minion import FILE_ROOTS, SERVING
from lab.postfix import Postfix
from lab.series import INSTALLED, Salt
from lab.smtp import Load, Report

CHANGED = "ispmail/credentials/changed"
TARGET = 1.3
# A credential event within so many seconds of another one waits.
APART = 5.0
MASTER = {
    **SERVING,
    "ispmail": {"sites": {"main": {"database": "lab", "mail": "*"}}},
    "reactor": [{CHANGED: ["salt://reactor/reapply.sls"]}],
    "log_level_logfile": "warning",
}


class Times(NamedTuple):
    """Seconds."""

    waited: float
    on_the_bus: float = math.nan


class Fleet:
    """One master, its minions with a Postfix each, and one MariaDB; the minion `lab` is on the database's server."""

    def __init__(self, directory: Path, servers: int, stack: contextlib.ExitStack) -> None:
        """Start them all."""
        self.number = 0
        self.database = stack.enter_context(MariaDB(directory / "db"))
        schema(self.database, self.password)
        sls = directory / "sls"
        sls.mkdir()
        (sls / "empty.sls").write_text("nothing: test.nop\n")
        (sls / "command.sls").write_text("'true': cmd.run\n")
        others = [f"mx{number}" for number in range(2, servers + 1)]
        roots = [str(sls), *FILE_ROOTS]
        self.salt = Salt(INSTALLED, directory / "salt", roots, MASTER, others=others, log_level_logfile="info")
        self.names = [*self.salt.minions.values()]
        self.mail = {name: stack.enter_context(Postfix(directory / name)) for name in self.names}
        self.write_pillar()
        stack.enter_context(self.salt)
        config = salt.config.master_config(str(self.salt.directory / "master" / "master"))
        self.bus = stack.enter_context(
            salt.utils.event.get_event("master", sock_dir=config["sock_dir"], opts=config, listen=True)
        )
        self.bus.connect_pub()

    @property
    def password(self) -> str:
        """The newest password."""
        return f"bench-secret-{self.number}"

    def write_pillar(self) -> None:
        """Write each minion's pillar, with the newest password."""
        for name, postfix in self.mail.items():
            database = {"password": self.password, "hosts": f"{HOST}:{self.database.port}"}
            section = {"packages": False, "database": database}
            section["postfix"] = {"config_directory": str(postfix.config_directory)}
            if name == "lab":
                section["server"] = {"unix_socket": self.database.socket}
            (self.salt.pillar / f"{name}.sls").write_text("#!json\n" + json.dumps({"ispmail": section}))
        (self.salt.pillar / "top.sls").write_text(json.dumps({"base": {name: [name] for name in self.names}}))

    def heard(self, wait: float = 0.5) -> Iterator[dict[str, Any]]:
        """The events of the bus until it is silent for so many seconds."""
        while event := self.bus.get_event(wait=wait, full=True):
            yield event

    def apply(self, sls: str) -> Times:
        """Apply an SLS everywhere."""
        list(self.heard(0.1))
        began = time.monotonic()
        answers = self.salt.ask("*", "state.apply", sls, timeout=120, static=False)
        wall = time.monotonic() - began
        if set(answers) != set(self.names) or not all(map(succeeded, answers.values())):
            raise SystemExit(f"state.apply {sls} failed: {answers}")
        stamps = [
            stamp(each["data"])
            for each in self.heard()
            if each["tag"].endswith("/new") or each["data"].get("fun") == "state.apply"
        ]
        return Times(wall, max(stamps) - min(stamps))

    def accept_another(self) -> None:
        """Put a new password into pillar, which the database accepts next to the one in use."""
        hashes = [native_hash(self.password)]
        self.number += 1
        hashes.append(native_hash(self.password))
        either = " OR ".join(["mysql_native_password USING %s"] * 2)
        self.database.sql(f"ALTER USER mailserver@%s IDENTIFIED VIA {either}", HOST, *hashes)
        self.write_pillar()

    def change(self) -> Times:
        """Apply a new password by a command."""
        self.accept_another()
        times = self.apply("ispmail")
        self.check()
        return times

    def event(self) -> Times:
        """Apply a new password by an event."""
        self.accept_another()
        list(self.heard(0.1))
        self.bus.fire_event({}, CHANGED)
        began, returned = 0.0, {}
        for each in self.heard(60):
            data = each["data"]
            if each["tag"] == CHANGED:
                began = stamp(data)
            if data.get("fun") == "ispmail.reapply" and "/ret/" in each["tag"]:
                if not (data["return"].get("applied") and data["return"]["result"]):
                    raise SystemExit(f"{data['id']} has not applied it: {data['return']}")
                returned[data["id"]] = stamp(data)
            if len(returned) == len(self.names):
                break
        self.check()
        took = max(returned.values()) - began
        return Times(took, took)

    def rotate(self) -> tuple[Times, Report]:
        """Rotate to a new password under load on one server."""
        self.number += 1
        self.write_pillar()
        with Load(self.mail[self.names[-1]].port, ANSWERED, rate=40) as load:
            time.sleep(1)
            began = time.monotonic()
            done = self.salt.run("ispmail.rotate", "watch=0")
            took = time.monotonic() - began
            time.sleep(1)
        if not isinstance(done, dict) or done["retcode"]:
            raise SystemExit(f"the rotation failed: {done}")
        self.check()
        return Times(took), load.stop()

    def check(self) -> None:
        """See that all table files have the newest password."""
        for postfix in self.mail.values():
            for file in postfix.config_directory.glob("mariadb-*.cf"):
                if f"password = {self.password}\n" not in file.read_text():
                    raise SystemExit(f"{file} has not the newest password")


def stamp(data: dict[str, Any]) -> float:
    """When an event was sent, in seconds."""
    return datetime.fromisoformat(data["_stamp"]).timestamp()


def succeeded(answer: object) -> bool:
    """Whether all states of an apply succeeded."""
    return isinstance(answer, dict) and all(state["result"] is True for state in answer.values())


def measure(servers: int, rounds: int) -> None:
    """Start a fleet, measure each kind in turn, and print the medians."""
    lines: dict[str, list[Times]] = {}
    loads = []
    with contextlib.ExitStack() as stack:
        fleet = Fleet(stack.enter_context(scratch()), servers, stack)
        fleet.apply("ispmail")
        for _ in range(rounds):
            for name, sls in (("empty", "empty"), ("cmd.run", "command"), ("converged", "ispmail")):
                lines.setdefault(name, []).append(fleet.apply(sls))
            lines.setdefault("changed", []).append(fleet.change())
            time.sleep(APART)
            lines.setdefault("event", []).append(fleet.event())
            times, load = fleet.rotate()
            lines.setdefault("rotation", []).append(times)
            loads.append(load)
    show(servers, lines)
    count, failed = sum(load.count for load in loads), sum(load.failed for load in loads)
    print(f"during rotations {count:,} RCPTs, {failed} failed, longest {max(load.longest for load in loads):.3f} s\n")


def show(servers: int, lines: dict[str, list[Times]]) -> None:
    """Print the table of one fleet."""
    rounds = len(lines["empty"])
    head = f"{servers} server{'s' if servers > 1 else ''}, median of {rounds}"
    print(f"{head:28}{'waited s':>10}{'ratio':>8}{'on the bus s':>14}{'ratio':>8}")
    for name, values in lines.items():
        line = f"{name:28}"
        for kind, width in ((0, 10), (1, 14)):
            pairs = [(one[kind], empty[kind]) for one, empty in zip(values, lines["empty"])]
            if not math.isnan(pairs[0][0]):
                ratio = statistics.median(one / empty for one, empty in pairs)
                line += f"{statistics.median(one for one, _ in pairs):{width}.2f}{ratio:8.2f}"
        print(line, flush=True)
    ratio = statistics.median(one.waited / empty.waited for one, empty in zip(lines["event"], lines["empty"]))
    print(f"event until the last server, beside the empty apply: {ratio:.2f}, target {TARGET}")


def main() -> None:
    """Measure each fleet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", default="1,4,10")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    # As on a mail server, where Salt's Python keeps what it has compiled.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    for servers in map(int, options.servers.split(",")):
        measure(servers, options.rounds)


if __name__ == "__main__":
    main()
