"""Where a database password is, and that it is nowhere else, while and after a fleet is applied."""

import contextlib
import json
import shutil
import threading
import time
from pathlib import Path

import pytest
import salt.utils.event

from lab import contents

from .conftest import CODES, CORE, OTHER_SECRET, WRONG_SECRET

NEEDLE = CORE.encode()


class Sampler(threading.Thread):
    """Reads the command line of every process on this machine, over and over."""

    def __init__(self):
        super().__init__(daemon=True)
        self.seen: set[bytes] = set()
        self._done = threading.Event()

    def run(self):
        while not self._done.wait(0.03):
            for entry in Path("/proc").glob("[0-9]*"):
                with contextlib.suppress(OSError):
                    self.seen.add((entry / "cmdline").read_bytes())

    def stop(self) -> set[bytes]:
        self._done.set()
        self.join()
        return self.seen


class Bus(threading.Thread):
    """Takes down every event on the master's bus."""

    def __init__(self, config):
        super().__init__(daemon=True)
        self.events: list[tuple[str, dict]] = []
        self._done = threading.Event()
        self._listening = threading.Event()
        self._config = config

    def start(self):
        super().start()
        assert self._listening.wait(10)

    def run(self):
        opts = dict(self._config)
        with salt.utils.event.get_event("master", opts=opts, sock_dir=opts["sock_dir"], listen=True) as bus:
            bus.connect_pub()
            self._listening.set()
            while not self._done.is_set():
                event = bus.get_event(wait=0.2, full=True)
                if event:
                    self.events.append((event["tag"], event["data"]))

    def stop(self) -> list[tuple[str, dict]]:
        time.sleep(0.3)
        self._done.set()
        self.join()
        return self.events


@pytest.fixture(scope="module")
def watched(first_contact):
    """Everything that can happen to a password, watched: dry run, apply, a new, a wrong and a faulty one, reports."""
    fleet = first_contact
    for _, server in fleet:
        server.wipe()
        for history in Path(server.minion.config["cachedir"]).glob("postfix_change/*.history"):
            shutil.rmtree(history)
    sampler, bus = Sampler(), Bus(fleet.master.config)
    sampler.start()
    bus.start()
    results = []
    try:
        results.append(fleet.apply(test=True))
        results.append(fleet.apply())
        fleet["m1"].write_pillar(database={"user": "second", "password": OTHER_SECRET, "dbname": "second"})
        fleet["m2"].write_pillar(database={"password": WRONG_SECRET})
        results.append(fleet.apply())
        fleet["m1"].write_pillar(database={"password": f"{WRONG_SECRET}\nhosts = evil.example"})
        fleet["m2"].write_pillar(database={"pasword": WRONG_SECRET})
        results.append(fleet.apply())
        results.append(fleet.run("postfix_map.read"))
        results.append(fleet.run("postfix_map.lookup", "virtual_alias_maps", "jack@example.org"))
        results.append(fleet.run("state.show_sls", "ispmail"))
        results.append({name: server.replies() for name, server in fleet})
    finally:
        seen, events = sampler.stop(), bus.stop()
    return fleet, results, seen, events


def test_what_was_watched_did_happen(watched):
    """Nothing found means something only where there was something to find."""
    _, (would, done, new, faulty, *_, replies), _, _ = watched

    def result(results):
        return {name: states["postfix_map.managed"]["result"] for name, states in results.items()}

    assert [result(results) for results in (would, done, new, faulty)] == [
        {"m1": None, "m2": None},
        {"m1": True, "m2": True},
        {"m1": True, "m2": False},
        {"m1": False, "m2": False},
    ]
    changes = new["m1"]["postfix_map.managed"]["changes"]
    assert changes["virtual_alias_maps"]["password"] == {"old": "***", "new": "***"}
    assert replies == {"m1": CODES["m2"], "m2": CODES["m2"]}


def test_no_password_in_what_salt_returns(watched):
    _, results, _, _ = watched
    assert CORE not in json.dumps(results)


def test_no_password_on_the_event_bus(watched):
    _, _, _, events = watched
    returns = [data["return"] for tag, data in events if "/ret/" in tag and data["fun"] == "state.apply"]
    assert len(returns) == 8
    assert all("virtual_alias_maps" in repr(returned) for returned in returns[:4])
    assert [tag for tag, data in events if CORE in repr(data)] == []


def test_no_password_on_a_command_line(watched):
    _, _, seen, _ = watched
    assert any(line.startswith(b"postmap\0") for line in seen), "nothing was sampled"
    assert [line for line in seen if NEEDLE in line] == []


def test_no_password_in_any_file_of_salt(watched):
    """Logs at level debug, job cache, caches: pillar's source and the master's cache of pillar have it.

    The history has the one that was replaced: none after the first apply, as on m2, which has refused all others.
    """
    fleet, *_ = watched
    allowed = {fleet["m1"].pillar_file, fleet["m2"].pillar_file}
    postfixes = [server.postfix.directory for _, server in fleet]
    cache = Path(fleet.master.config["cachedir"])
    # On 3006 it is in each minion's data.
    caches = (cache / "pillar", *(cache / "minions" / name / "data.p" for name in ("m1", "m2")))
    holding, cached = set(), set()
    for path, content in contents(fleet.root, without=postfixes):
        if NEEDLE in content:
            (cached if any(map(path.is_relative_to, caches)) else holding).add(path)
    histories = {name: Path(server.minion.config["cachedir"]) / "postfix_change" for name, server in fleet}
    assert list(histories["m2"].glob("*.history/*"))
    (replaced,) = histories["m1"].glob("*.history/2")
    assert holding == allowed | {replaced}
    assert OTHER_SECRET.encode() not in replaced.read_bytes()
    assert {path.stat().st_mode & 0o077 for path in cached | {replaced}} <= {0}, cached


def test_no_password_in_postfix_but_in_the_tables(watched):
    fleet, *_ = watched
    for _, server in fleet:
        holding = [path for path, content in contents(server.postfix.directory) if NEEDLE in content]
        assert sorted(holding) == sorted(server.postfix.config_directory.glob("mariadb-*.cf"))


def test_the_logs_and_the_job_cache_were_there_to_be_searched(watched):
    fleet, *_ = watched
    for _, server in fleet:
        log = Path(server.minion.config["log_file"]).read_text()
        assert "[DEBUG" in log and "postfix_map.managed" in log
    assert "[DEBUG" in Path(fleet.master.config["log_file"]).read_text()
    jobs = (Path(fleet.master.config["cachedir"]) / "jobs").rglob("return.p")
    assert any(b"virtual_alias_maps" in path.read_bytes() for path in jobs)
