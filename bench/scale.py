"""What a fleet costs its master: CPU, memory, bytes and events per server, and connections to the database.

    python -m bench.scale [--callers 200] [--rounds 3]

1. One real minion applies ispmail, and each request that it sends to the master is written down. Then so many callers
   connect, each with an id and a key of its own. They take each job from the master's bus, send the same requests, and
   return: to the master they are minions. The CPU time and the memory are those of all processes of the master, from
   /proc; memory is PSS, which counts what processes share once.
2. One real Postfix under a load: its connections to the database before and after a reload, with `mysql:` and with
   `proxy:mysql:`.
"""

import argparse
import asyncio
import contextlib
import copy
import json
import os
import resource
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import salt.channel.client
import salt.client
import salt.config
import salt.payload

from bench.apply import ANSWERED, PASSWORD, pillar
from bench.fleet import Fleet
from lab import scratch
from lab.mariadb import MariaDB, schema
from lab.minion import Minion
from lab.postfix import Postfix
from lab.smtp import Load

# The method of a channel, what it sends, and options.
Request = tuple[str, dict[str, Any], dict[str, Any]]
_WIDTHS = (8, 9, 9, 6, 8, 8)


@contextlib.contextmanager
def recorded() -> Iterator[list[Request]]:
    """The requests that this process sends to the master meanwhile: method, load and options."""
    channel, requests = salt.channel.client.AsyncReqChannel, []
    names = ("send", "crypted_transfer_decode_dictentry")
    originals = {name: getattr(channel, name) for name in names}

    def replaced(name: str) -> Any:
        async def method(self: Any, load: Any, *arguments: Any, **options: Any) -> Any:
            if self.crypt == "aes":
                requests.append((name, copy.deepcopy(load), options))
            return await originals[name](self, load, *arguments, **options)

        return method

    for name in names:
        setattr(channel, name, replaced(name))
    try:
        yield requests
    finally:
        for name, original in originals.items():
            setattr(channel, name, original)


class Caller:
    """To the master it is a minion: it connects, takes jobs, sends the requests of a minion, and returns."""

    def __init__(self, config: dict[str, Any], folder: Path, jobs: dict[str, tuple[list[Request], Any]]) -> None:
        """`jobs`: function to the requests that it sends to the master, and what it returns."""
        folder.mkdir()
        self.opts = {**config, "id": folder.name, "pki_dir": str(folder)}
        self.jobs = jobs
        self.published: Any = None

    async def connect(self) -> None:
        """Make a key, authenticate, and listen."""
        self.published = salt.channel.client.AsyncPubChannel.factory(self.opts)
        self.published.event = None  # it has no bus of its own to tell that it is connected
        await self.published.connect()
        self.published.on_recv(self.take)

    async def take(self, payload: dict[str, Any]) -> None:
        """Begin a job."""
        if payload["load"]["fun"] in self.jobs:
            self.job = asyncio.create_task(self.work(payload["load"]))

    async def work(self, job: dict[str, Any]) -> None:
        """Send the requests, one after the other, and return."""
        requests, answer = self.jobs[job["fun"]]
        returned = {"cmd": "_return", "id": self.opts["id"], "jid": job["jid"], "fun": job["fun"]}
        returned |= {"fun_args": job["arg"], "return": answer, "retcode": 0, "success": True}
        channel = salt.channel.client.AsyncReqChannel.factory(self.opts)
        try:
            for name, load, options in [*requests, ("send", returned, {})]:
                # The channel adds the id where the load has none.
                own = {**load, **({"id": self.opts["id"]} if "id" in load else {})}
                await getattr(channel, name)(own, **{**options, "timeout": 300})
        finally:
            channel.close()


class Used(NamedTuple):
    """What the processes of a master use, and have used so far."""

    cpu: dict[int, float]  # process to seconds
    workers: frozenset[int]  # the processes of which worker_threads says how many there are
    memory: float  # MiB

    def since(self, before: "Used") -> list[float]:
        """CPU seconds since then: of all, of the workers, of the busiest of the others."""
        spent = {process: seconds - before.cpu.get(process, 0.0) for process, seconds in self.cpu.items()}
        workers = sum(spent[process] for process in self.workers)
        return [sum(spent.values()), workers, max(spent[process] for process in spent if process not in self.workers)]


def used(leader: int) -> Used:
    """What the processes of a session use."""
    cpu, workers, memory = {}, set(), 0
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == leader:
                process = int(folder.name)
                cpu[process] = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
                if b"MWorker-" in (folder / "cmdline").read_bytes():
                    workers.add(process)
                rollup = (folder / "smaps_rollup").read_text().splitlines()
                memory += sum(int(line.split()[1]) for line in rollup if line.startswith("Pss:"))
    return Used(cpu, frozenset(workers), memory / 1024)


async def connect(callers: list[Caller]) -> None:
    """Connect them, some at a time."""
    for start in range(0, len(callers), 20):
        await asyncio.gather(*(caller.connect() for caller in callers[start : start + 20]))


def master_costs(fleet: Fleet, folder: Path, count: int, rounds: int) -> None:
    """Print what the callers cost the master."""
    folder.mkdir()
    config = salt.config.minion_config(str(fleet.salt.directory / "minion" / "minion"))
    with recorded() as all_requests:
        apply = salt.client.Caller(mopts=config).cmd
        all_requests.clear()
        answer = apply("state.apply", "ispmail")
    requests = list(all_requests)
    for_pillar = [each for each in requests if each[1]["cmd"] == "_pillar"]
    kinds = Counter(load["cmd"] for _, load, _ in requests)
    print("an apply asks the master for", ", ".join(f"{number} {name}" for name, number in kinds.items()))
    # By a function that is as small: a caller sends what a minion would send for that job.
    jobs = {"test.ping": ([], True), "test.true": (for_pillar, True), "state.apply": (requests, answer)}
    (fleet.salt.pillar / "top.sls").write_text(json.dumps({"base": {"*": ["lab"]}}))
    leader = fleet.salt.master
    loop = asyncio.new_event_loop()
    before = used(leader)
    callers = [Caller(dict(config), folder / f"caller{number}", jobs) for number in range(count)]
    loop.run_until_complete(connect(callers))
    after = used(leader)
    each = after.since(before)[0] / count * 1000
    print(f"{count} callers have connected: {each:.0f} ms of CPU each")
    print(f"memory of the master: {before.memory:.0f} MiB without them, {after.memory:.0f} MiB with them")
    heads = zip(("master", "workers", "busiest", "salt", "events", "bytes"), _WIDTHS)
    print(f"{'for each server, ms of CPU':28}" + "".join(f"{head:>{width}}" for head, width in heads))
    for name, function, arguments in (
        ("a job, no request", "test.ping", []),
        ("a job, its pillar", "test.true", []),
        ("state.apply ispmail", "state.apply", ["ispmail"]),
    ):
        lines = [measure(fleet, loop, count, function, *arguments) for _ in range(rounds)]
        middle = [statistics.median(values) for values in zip(*lines)]
        print(f"{name:28}" + "".join(f"{value:{width}.1f}" for value, width in zip(middle, _WIDTHS)))
    print(f"memory of the master after that: {used(leader).memory:.0f} MiB")


def measure(fleet: Fleet, loop: asyncio.AbstractEventLoop, count: int, *job: str) -> list[float]:
    """Have all callers do a job. Returns what it cost for each of them: ms of CPU, events, and bytes of events."""
    list(fleet.heard(0.1))
    before, ours = used(fleet.salt.master), resource.getrusage(resource.RUSAGE_CHILDREN)
    answers = loop.run_until_complete(asyncio.to_thread(fleet.salt.ask, "caller*", *job, timeout=300, static=False))
    after, children = used(fleet.salt.master), resource.getrusage(resource.RUSAGE_CHILDREN)
    if len(answers) != count:
        raise SystemExit(f"{job}: {len(answers)} of {count} have answered")
    client = children.ru_utime + children.ru_stime - ours.ru_utime - ours.ru_stime
    spent = [*after.since(before), client]
    sizes, returns = [], 0
    for each in fleet.heard(10):
        sizes.append(len(salt.payload.dumps(each["data"])))
        returns += "/ret/caller" in each["tag"]
        if returns == count:
            break
    return [*(seconds * 1000 / count for seconds in spent), len(sizes) / count, sum(sizes) / count]


def connections(directory: Path, sessions: int, proxy: bool) -> str:
    """Reload a Postfix under load. Returns a line on its connections to the database."""
    options = ["--max-connections=2000"]
    with MariaDB(directory / "db", options=options) as database, Postfix(directory / "mail") as postfix:
        schema(database, PASSWORD)
        maps = {f"virtual_{name}": {"proxy": proxy} for name in ("mailbox_domains", "mailbox_maps", "alias_maps")}
        minion = Minion(directory / "minion", pillar(database, postfix, maps=maps))
        if not minion.apply()["postfix_map.managed"]["result"]:
            raise SystemExit("the apply failed")

        def peak(seconds: float) -> tuple[int, int]:
            """The most connections at a time, and how many are new."""
            most, until, old = 0, time.monotonic() + seconds, status("Connections")
            own = 0
            while time.monotonic() < until:
                most = max(most, status("Threads_connected") - 1)
                own += 1
                time.sleep(0.02)
            return most, status("Connections") - old - own - 1

        def status(name: str) -> int:
            return int(database.sql("SHOW GLOBAL STATUS LIKE %s", name)[0][1])

        with Load(postfix.port, ANSWERED, rate=2.0 * sessions, sessions=sessions) as load:
            time.sleep(5)
            before = peak(5)
            postfix.reload()
            after = peak(12)
        report = load.stop()
    kind = "proxy:mysql:" if proxy else "mysql:"
    return f"{kind:16}{before[0]:8}{before[1]:8}{after[0]:10}{after[1]:8}{report.failed:10}"


def main() -> None:
    """Measure both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--callers", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sessions", type=int, default=50, help="SMTP sessions at the same time")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(scratch())
        fleet = Fleet(directory, 1, stack)
        fleet.apply("ispmail")
        master_costs(fleet, directory / "callers", options.callers, options.rounds)
    print(f"\n{options.sessions} sessions, 5 s before and 12 s after a reload")
    print(f"{'connections':16}{'most':>8}{'new':>8}{'most':>10}{'new':>8}{'failed':>10}")
    for proxy in (False, True):
        with scratch() as directory:
            print(connections(directory, options.sessions, proxy), flush=True)


if __name__ == "__main__":
    main()
