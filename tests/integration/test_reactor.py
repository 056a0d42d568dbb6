"""What a minion and a master do by themselves: the beacon and the reactor, on each server, and the doctor's schedule.

Somebody else changes the password, and nobody tells.

`python -m tests.functional.outsiders` has all orders, without a master.
"""

import contextlib
import json
import re
import time

import pytest
import salt.config
import yaml

from lab import scratch, wait_until
from lab.minion import FILE_ROOTS, REPOSITORY, SERVING
from lab.postfix import Postfix
from lab.series import INSTALLED, Salt
from lab.smtp import Load

from ..functional.database import needs_machines
from ..functional.outsiders import WATCHED
from ..functional.servers import ADDRESSES, DATABASES, RATE, READERS, pillar
from .conftest import CORE
from .test_secrets import Bus

REACTOR = {"salt/beacon/*/postfix_credential/refused": ["salt://reactor/reapply.sls"]}
OLD, NEW = f"{CORE}-old", f"{CORE}-new"
# How long a busy machine may take for what a minion does by itself within seconds.
_PATIENCE = 240
# What pillar has for a minion to do by itself. A minion that has to do it before it has the modules loads all of Salt's
# for each attempt, to look for them.
BEACON = {"beacons": {"postfix_credential": [{"interval": 1}, {"disable_during_state_run": True}]}}


@pytest.fixture(scope="module")
def running():
    """A master with the reactor, and a minion that has the modules."""
    with scratch("r-") as directory:
        sites = {"main": {"database": "lab", "mail": "lab"}}
        master = {**SERVING, "ispmail": {"sites": sites}, "reactor": [REACTOR]}
        with Salt(INSTALLED, directory, FILE_ROOTS, master, loop_interval=1) as running:
            assert "beacons.postfix_credential" in running.call("saltutil.sync_all")["beacons"]
            (running.pillar / "top.sls").write_text("base: {'*': [ispmail]}\n")
            yield running


def write(running, content):
    (running.pillar / "ispmail.sls").write_text(f"#!json\n{json.dumps(content)}")


def applied(running, content):
    """Have the minion apply this pillar, and do by itself what it says."""
    write(running, content)
    # The beacon asks by the pillar that the minion has had when it started, or since: on 3006 the one before the last.
    for _ in range(2 if INSTALLED == "3006" else 1):
        assert running.call("saltutil.refresh_pillar", "wait=True") is True
    states = running.call("state.apply", "ispmail")
    assert states and all(state["result"] for state in states.values()), states


@pytest.mark.parametrize("name", WATCHED)
def test_the_beacon_heals_what_somebody_else_has_changed(running, name, capsys):
    """Lookups fail until it has, and none after: docs/rotation.md says so of this order."""
    if "mysql" in name:
        needs_machines()
    with contextlib.ExitStack() as stack:
        path = stack.enter_context(scratch())
        database = stack.enter_context(DATABASES[name](path / "db"))
        postfix = stack.enter_context(Postfix(path / "mail", chroot=False, max_use="5"))
        database.begin()

        def content(password):
            return pillar(database, postfix, READERS[1], "mailserver", password) | BEACON

        def tables_have(password):
            tables = [table.read_text() for table in postfix.config_directory.glob("*-virtual-*.cf")]
            return len(tables) == 3 and all(password in text for text in tables)

        database.give("mailserver", OLD)
        applied(running, content(OLD))
        with Load(postfix.port, ADDRESSES, rate=RATE, per_connection=5) as load:
            time.sleep(1)
            write(running, content(NEW))
            database.give("mailserver", NEW)
            assert wait_until(lambda: tables_have(NEW), _PATIENCE), "the reactor has not applied the new password"
            # The files are there before Postfix is told.
            time.sleep(3)
            began = time.monotonic()
            time.sleep(3)
            report = load.stop()
    with capsys.disabled():
        print(
            f"\n{name}: {report.count:,} RCPTs, {report.failed} failed until the beacon and the reactor had healed it"
        )
    assert report.failed > 0 and [each for each in report.failures if each.at > began] == [], report.examples


def test_a_fault_is_in_an_event_once_in_the_metrics_and_in_the_status_until_it_is_gone(running):
    """By the schedule that docs/pillar/watch.sls has: within an interval of it."""
    check = "the table file is private"
    schedule = yaml.safe_load((REPOSITORY / "docs/pillar/watch.sls").read_text())["schedule"]
    del schedule["postfix_doctor"]["minutes"], schedule["postfix_doctor"]["splay"]
    schedule["postfix_doctor"]["seconds"] = 4
    with scratch() as path, DATABASES["mariadb"](path / "db") as database, Postfix(path / "mail") as postfix:
        database.begin()
        database.give("mailserver", OLD)
        content = pillar(database, postfix, READERS[1], "mailserver", OLD) | {"schedule": schedule}
        metrics = path / "metrics" / "ispmail.prom"
        metrics.parent.mkdir()
        content["ispmail"]["watch"] = {"textfile": str(metrics)}
        applied(running, content)
        bus = Bus(salt.config.master_config(str(running.directory / "master" / "master")))
        bus.start()

        def told():
            return [data["data"] for tag, data in bus.events if tag == "ispmail/doctor/fault"]

        def counted():
            (line,) = re.findall("^ispmail_doctor_faults.* ([0-9.]+)$", metrics.read_text(), re.MULTILINE)
            return float(line)

        def is_in_status():
            return any(check in reason for reason in running.run("ispmail.status")["reasons"])

        (table,) = postfix.config_directory.glob("*-virtual-alias-maps.cf")
        time.sleep(12)
        before, others = len(told()), counted()
        assert not is_in_status()
        table.chmod(0o644)
        assert wait_until(lambda: len(told()) > before, _PATIENCE), "the doctor's schedule has told of nothing"
        (found,) = [each for each in told()[-1]["faults"] if each["check"] == check]
        assert found["where"] == "virtual_alias_maps", found
        # The file is written right after the event.
        assert wait_until(lambda: counted() == others + 1, _PATIENCE)
        assert is_in_status()
        time.sleep(12)
        assert len(told()) == before + 1, "it was told of twice"
        table.chmod(0o640)
        assert wait_until(lambda: len(told()) == before + 2, _PATIENCE)
        assert check not in str(told()[-1])
        assert wait_until(lambda: counted() == others, _PATIENCE) and not is_in_status()
        assert CORE not in str(bus.stop())
