"""Rotations on a fleet under load: what is lost, what a failure in the middle does, who can read the password."""

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time

import pytest

from lab import wait_until
from lab.minion import REPOSITORY

from .conftest import ANSWERED, CHECKOUT, EVENT, GENERAL_LOG, MAIL, python

# Part of every password here: one search finds each trace of any of them.
CORE = "Xk4Wq8" + secrets.token_hex(4)


def password(number):
    return f"{CORE}-{number};%=#"


class FleetLoad:
    """A steady load on some of the mail servers, each by a process of its own."""

    def __init__(self, fleet, names=MAIL, rate=30):
        self.fleet, self.names, self.rate = fleet, names, rate
        self.reports = {}

    def __enter__(self):
        addresses = [f"{address}={code}" for address, code in ANSWERED.items()]
        self._processes = {
            name: self.fleet.network.popen(
                [
                    *(sys.executable, "-m", "lab.smtp", f"{self.fleet.machines[name].address}:25"),
                    *("--seconds=600", f"--rate={self.rate}", "--per-connection=5", *addresses),
                ],
                stdout=subprocess.PIPE,
                text=True,
                cwd=REPOSITORY,
            )
            for name in self.names
        }
        time.sleep(1)
        return self

    def __exit__(self, *_):
        for process in self._processes.values():
            process.send_signal(signal.SIGTERM)
        for name, process in self._processes.items():
            try:
                self.reports[name] = json.loads(process.communicate(timeout=60)[0])
            except (ValueError, subprocess.TimeoutExpired):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                self.reports[name] = {"count": 0, "failed": -1, "longest": -1, "examples": ["the load did not report"]}

    @property
    def count(self):
        return sum(report["count"] for report in self.reports.values())

    @property
    def failed(self):
        return sum(report["failed"] for report in self.reports.values())

    @property
    def longest(self):
        return max(report["longest"] for report in self.reports.values())


@pytest.fixture(scope="module")
def current(fleet):
    """A function that rotates to a new password by an event alone, and the password that is in use."""
    state = {"number": 0, "password": "first-Pw1"}

    def rotate(seconds=90):
        old, new = state["password"], password(state["number"] + 1)
        fleet.write_pillar(new)
        fleet.send()
        took = fleet.wait_for_rotation(old, new, seconds)
        state.update(number=state["number"] + 1, password=new)
        return took

    rotate.state = state
    return rotate


def naive(fleet, old, new):
    """What a script does: the database, a second, the files, a reload."""
    sql = f"ALTER USER mailserver@'198.18.%' IDENTIFIED BY '{new}'"
    fleet.db.run(["mariadb"], input=sql)
    time.sleep(1)
    for mx in fleet.mail:
        mx.run(["sh", "-c", f"sed -i 's/^password = .*/password = {new}/' /etc/postfix/mariadb-*.cf && postfix reload"])


def test_rotations_lose_nothing(fleet, current, capsys):
    """Five rotations, started by an event alone, on four servers under load; then the same load and the naive order."""
    took = []
    with FleetLoad(fleet) as load:
        for _ in range(5):
            took.append(current())
        began = time.monotonic()
        # As many RCPTs as a rotation by rotation comparison needs.
        while time.monotonic() - began < 10:
            time.sleep(1)
    with FleetLoad(fleet) as other:
        naive(fleet, current.state["password"], "naive-Pw1")
        time.sleep(10)
    fleet.write_pillar("naive-Pw1")
    current.state["password"] = "naive-Pw1"
    with capsys.disabled():
        print(
            f"\n5 rotations: {load.count:,} RCPTs, {load.failed} failed, longest {load.longest:.3f} s, "
            f"{min(took):.1f} to {max(took):.1f} s each; "
            f"1 naive: {other.count:,} RCPTs, {other.failed} failed, longest {other.longest:.3f} s"
        )
    assert load.failed == 0, load.reports
    assert load.count > 2000
    assert other.failed > 0, "the naive order lost nothing: this load would not see a loss"
    assert set(fleet.salt(",".join(MAIL), "ispmail.reapply")) == set(MAIL)


def orchestrate(fleet):
    """The rotation by hand: whether it succeeded, and all that it said."""
    done = fleet.master.run(["salt-run", "state.orchestrate", "orch.rotate"], check=False, timeout=300)
    return done.returncode == 0, done.stdout + done.stderr


def test_a_stopped_server_keeps_the_old_password_valid(fleet, current):
    """Named, and finished by a second run when it has come back."""
    current()
    old, new = current.state["password"], password("stopped")
    fleet.write_pillar(new)
    fleet.machines["mx4"].stop()
    with FleetLoad(fleet, MAIL[:3]) as load:
        good, said = orchestrate(fleet)
    assert not good
    assert "mx4" in said
    assert load.failed == 0, load.reports
    assert fleet.logs_in(fleet.mail[0], old) and fleet.logs_in(fleet.mail[0], new)
    fleet.machines["mx4"].start()
    assert wait_until(lambda: fleet.salt("mx4", "test.ping"), 90)
    with FleetLoad(fleet) as load:
        good, said = orchestrate(fleet)
    assert good, said
    assert load.failed == 0, load.reports
    assert not fleet.logs_in(fleet.mail[0], old) and fleet.logs_in(fleet.mail[0], new)
    current.state["password"] = new


def test_a_second_run_changes_nothing(fleet, current):
    good, said = orchestrate(fleet)
    assert good, said
    assert fleet.logs_in(fleet.mail[0], current.state["password"])


def test_a_master_killed_in_the_middle(fleet, current):
    old, new = current.state["password"], password("killed")
    fleet.write_pillar(new)
    with FleetLoad(fleet) as load:
        run = fleet.master.popen(["salt-run", "state.orchestrate", "orch.rotate"], stdout=subprocess.DEVNULL)
        assert wait_until(lambda: fleet.logs_in(fleet.mail[0], new), 60)
        fleet.master.kill()
        run.wait(60)
        time.sleep(3)
        assert fleet.logs_in(fleet.mail[0], old) or fleet.logs_in(fleet.mail[0], new)
        fleet.master.start()
        assert wait_until(lambda: set(fleet.salt("*", "test.ping")) == {"db", *MAIL}, 120)
        good, said = orchestrate(fleet)
    assert good, said
    assert load.failed == 0, load.reports
    assert not fleet.logs_in(fleet.mail[0], old) and fleet.logs_in(fleet.mail[0], new)
    current.state["password"] = new


def test_a_burst_of_events(fleet, current):
    """Twenty events in a second: no failed job, at most three applies on a server, the newest pillar wins."""
    new = password("burst")
    old = current.state["password"]
    fleet.write_pillar(new)
    code = f"""
import salt.config, salt.utils.event
opts = salt.config.master_config('/etc/salt/master')
with salt.utils.event.get_event('master', opts=opts, sock_dir=opts['sock_dir'], listen=False) as bus:
    for _ in range(20):
        bus.fire_event({{}}, {EVENT!r})
"""
    count = [
        "sh",
        "-c",
        "grep -c 'Running state .Postfix asks the maps that pillar names. at' /var/log/salt/minion || true",
    ]
    before = [int(mx.run(count).stdout) for mx in fleet.mail]
    python(fleet.master, code)
    fleet.wait_for_rotation(old, new, 120)
    time.sleep(15)
    after = [int(mx.run(count).stdout) for mx in fleet.mail]
    applies = [now - then for then, now in zip(before, after)]
    current.state["password"] = new
    # A rotation applies twice on the canary: it goes first, and is one of all.
    assert all(1 <= number <= 6 for number in applies), applies


def test_no_password_in_any_log(fleet, current):
    """General log, job cache, logs at debug on all machines: only pillar and the table files hold one."""
    found = {}
    for name, machine in fleet.machines.items():
        command = f"grep -rlaF {CORE} /var /etc /srv /tmp /root /run 2>/dev/null || true"
        found[name] = set(machine.run(["sh", "-c", command]).stdout.split())
    assert "/srv/pillar/ispmail.sls" in found["master"], "the search finds nothing at all"
    tables = {f"/etc/postfix/mariadb-virtual-{name}.cf" for name in ("mailbox-domains", "alias-maps", "mailbox-maps")}
    for name in MAIL:
        assert found.pop(name) == tables
    assert not [path for path in found["db"] if not path.startswith("/var/lib/mysql/")], found["db"]
    assert found["master"] - {"/srv/pillar/ispmail.sls"} <= {
        path for path in found["master"] if path.startswith("/var/cache/salt/master/pillar/")
    }
    assert fleet.db.run(["grep", "-c", "ALTER USER", GENERAL_LOG]).stdout.strip() != "0"
    assert CHECKOUT
