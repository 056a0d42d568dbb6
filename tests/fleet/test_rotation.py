"""Rotations on a fleet under load: what is lost, what a failure in the middle does, who can read the password."""

import json
import re
import secrets
import subprocess
import time
from collections import Counter
from dataclasses import dataclass, field

import pytest

from .conftest import HISTORY, INTERVAL, MAIL
from .salted import CHECKOUT, EVENT, ROTATE, events, python, wait_until

# Part of every password here: one search finds each trace of any of them.
CORE = "Xk4Wq8" + secrets.token_hex(4)


def password(number):
    return f"{CORE}-{number};%=#"


@pytest.fixture(scope="module")
def current(fleet):
    """A function that rotates to a new password by an event alone, and the password that is in use."""
    state = {"number": 0, "password": "first-Pw1"}

    def rotate(seconds=240):
        old, new = state["password"], password(state["number"] + 1)
        fleet.write_pillar(new)
        fleet.send()
        took = fleet.wait_for_rotation(old, new, seconds)
        state.update(number=state["number"] + 1, password=new)
        return took

    rotate.state = state
    return rotate


@pytest.fixture(autouse=True)
def whole(fleet, current):
    """A test that failed does not make the ones after it fail: whatever it left, all is well before the next."""
    if not fleet.is_well(current.state["password"]):
        current.state["password"] = repaired = password(f"repaired-{secrets.token_hex(2)}")
        fleet.repair(repaired)


def naive(fleet, new):
    """What a script does: the database, five seconds, the files, a reload.

    Open connections outlive the change: only a new smtpd logs in, and on a busy machine none may begin in one second.
    """
    fleet.set_password(new)
    time.sleep(5)
    for mx in fleet.mail:
        mx.run(["sh", "-c", f"sed -i 's/^password = .*/password = {new}/' /etc/postfix/mariadb-*.cf && postfix reload"])


@dataclass
class Rotation:
    """One run of orch.rotate, as the master's bus tells it: its drain steps and their returns."""

    id: str
    asked: list[str] = field(default_factory=list)  # the servers of all steps, one after the other
    returns: Counter = field(default_factory=Counter)  # (job id, server) to how many returns

    @property
    def answered(self):
        return {server for _, server in self.returns}

    def __str__(self):
        returns = [f"  job {job} of {server}: {number} returns" for (job, server), number in self.returns.items()]
        return "\n".join([f"rotation {self.id} asked {', '.join(self.asked)}", *returns])


def rotations(lines):
    """The rotations on the bus in their order, from the `args` events of their steps and the returns of the jobs.

    On a busy machine there are more returns than servers asked, because Salt sends again what is not acknowledged in
    time. The master's own client publishes a job again after 5 s, with a new job id: `pub` in salt/client. (Seen: 44
    returns of five rotations, all with different job ids or servers.) A minion sends its return again after 5 to 10 s,
    with the same job id: `_return_pub` in salt/minion.py. Neither is a rotation of its own. A rotation has its own id,
    and tells the servers of each step only once.
    """
    found, of_job, current = {}, {}, None
    for line in lines:
        tag, _, data = line.partition("\t")
        if "ispmail.drained" not in data:
            continue
        id = tag.split("/")[2]
        if tag.startswith("salt/run/"):
            current = found.setdefault(id, Rotation(id))
            current.asked += json.loads(data)["tgt"]
        elif tag.startswith("salt/job/"):
            rotation = of_job.setdefault(id, current or found.setdefault("unknown", Rotation("unknown")))
            rotation.returns[id, tag.split("/")[4]] += 1
    return list(found.values())


def test_rotations_lose_nothing(fleet, current, times, capsys):
    """Rotations, each started by an event alone, on four servers under load; then the same load and the naive order."""
    took = []
    with events(fleet, "salt/job/.*/ret/|salt/run/.*/args|ispmail/") as seen, fleet.load(rate=40) as load:
        for _ in range(times):
            took.append(current())
        time.sleep(10)
    with fleet.load(rate=40) as other:
        naive(fleet, "naive-Pw1")
        time.sleep(10)
    fleet.write_pillar("naive-Pw1")
    current.state["password"] = "naive-Pw1"
    with capsys.disabled():
        print(f"\n{times} rotations, {min(took):.1f} to {max(took):.1f} s each: {load}\n1 in the naive order: {other}")
        print("\n".join(line for report in load.reports.values() for line in report["slowest"]))
    assert load.failed == 0, load.reports
    assert load.count >= 2_000 * times
    assert other.failed > 0, "the naive order lost nothing: this load would not see a loss"
    # One rotation for each event, and in each rotation every server was asked once and answered.
    found = rotations(seen)
    report = "\n".join(map(str, found))
    assert [sorted(each.asked) for each in found] == [list(MAIL)] * times, report
    assert [sorted(each.answered) for each in found] == [list(MAIL)] * times, report
    assert not failed(line for line in seen if "ispmail.drained" in line), report
    assert not [line for line in seen if line.startswith("ispmail/rotation/failed")]
    # A job that is published again would be answered with "another apply is about to begin".
    said = fleet.salt(",".join(MAIL), "ispmail.reapply", "--timeout=60")
    assert {name: each.get("result") for name, each in said.items()} == dict.fromkeys(MAIL, True), said


def test_a_second_run_changes_nothing(fleet, current):
    def look():
        files = [mx.run(["sh", "-c", "stat -c '%i %z' /etc/postfix/*.cf"]).stdout for mx in fleet.mail]
        return files, fleet.logged("ALTER USER")

    before = look()
    good, said = fleet.orchestrate()
    assert good, said
    assert fleet.accepts(current.state["password"])
    assert look() == before


def test_a_server_that_refuses_stops_the_rotation(fleet, current):
    """It does not answer as pillar expects: the servers after it are untouched, and all is well once it is repaired."""
    old, new = current.state["password"], password("refused")
    wrong = {"answers": [{"map": "virtual_alias_maps", "question": "jack@example.org", "answer": "ann@example.org"}]}
    fleet.write_pillar(new, others={"mx2": wrong})
    with fleet.load() as load, events(fleet, "ispmail/rotation/failed") as seen:
        fleet.send()
        assert wait_until(lambda: fleet.holds(fleet.mail[2], new), 60), "the rotation did not begin"
        time.sleep(10)
    assert load.failed == 0, load.reports
    assert [fleet.holds(mx, new) for mx in fleet.mail] == [True, False, True, False]
    assert fleet.accepts(old) and fleet.accepts(new)
    (event,) = seen
    assert "mx2: Nothing was changed" in event and "should give 'ann@example.org'" in event
    assert "rotate again, which goes on from there" in event
    fleet.write_pillar(new)
    good, said = fleet.orchestrate()
    assert good, said
    assert [fleet.holds(mx, new) for mx in fleet.mail] == [True] * 4
    assert not fleet.accepts(old)
    current.state["password"] = new


def test_pillar_changes_in_the_middle(fleet, current):
    """The newest one wins, though two others are in use by then."""
    old, second, third = current.state["password"], password("second"), password("third")
    with fleet.load() as load:
        fleet.write_pillar(second)
        fleet.send()
        assert wait_until(lambda: fleet.holds(fleet.mail[0], second), 60)
        fleet.write_pillar(third)
        fleet.send()
        fleet.wait_for_rotation(old, third, 360)
    assert load.failed == 0, load.reports
    assert not fleet.accepts(second)
    assert [fleet.holds(mx, third) for mx in fleet.mail] == [True] * 4
    current.state["password"] = third


def test_a_replica_that_lags_keeps_the_old_password_valid(fleet, current):
    """Postfix takes hosts in random order: one that does not know the new password yet would refuse it later."""
    old, new = current.state["password"], password("lag")
    fleet.replica.run(["mariadb"], input="STOP SLAVE SQL_THREAD")
    fleet.write_pillar(new)
    with fleet.load() as load:
        good, said = fleet.orchestrate()
    assert not good
    assert f"mx1: {fleet.replica.address} refuses the login of virtual_mailbox_domains" in said, said
    assert load.failed == 0, load.reports
    assert fleet.accepts(old) and fleet.accepts(new)
    fleet.replica.run(["mariadb"], input="START SLAVE SQL_THREAD")
    good, said = fleet.orchestrate()
    assert good, said
    assert wait_until(lambda: not fleet.logs_in(fleet.mail[0], old, fleet.replica), 10)
    assert fleet.logs_in(fleet.mail[0], new, fleet.replica)
    current.state["password"] = new


def test_a_stopped_server_keeps_the_old_password_valid(fleet, current, capsys):
    """Named, and finished by a second run when it has come back."""
    old, new = current.state["password"], password("stopped")
    fleet.write_pillar(new)
    fleet.machines["mx4"].stop()
    with fleet.load(MAIL[:3]) as load:
        good, said = fleet.orchestrate()
    assert not good
    assert "mx4: does not answer" in said, said
    assert load.failed == 0, load.reports
    assert fleet.accepts(old) and fleet.accepts(new)
    assert [fleet.holds(mx, new) for mx in fleet.mail[:3]] == [True] * 3
    fleet.machines["mx4"].start()
    fleet.wait_for_minions()
    with fleet.load() as again:
        good, said = fleet.orchestrate()
    with capsys.disabled():
        print(f"\na server stopped: {load}; when it was back: {again}")
    assert good, said
    assert again.failed == 0, again.reports
    assert not fleet.accepts(old) and fleet.accepts(new)
    current.state["password"] = new


def test_an_admin_says_that_a_server_is_gone(fleet, current):
    """Its key is still accepted, but no proof is asked of it."""
    old, new = current.state["password"], password("gone")
    config = fleet.master.read("/etc/salt/master")
    fleet.write_pillar(new)
    fleet.machines["mx4"].stop()
    try:
        fleet.master.write("/etc/salt/master", config.replace("without: []", "without: [mx4]"))
        good, said = fleet.orchestrate()
    finally:
        fleet.master.write("/etc/salt/master", config)
        fleet.machines["mx4"].start()
    assert good, said
    assert not fleet.accepts(old) and fleet.accepts(new)
    current.state["password"] = new
    fleet.wait_for_minions()
    # It comes back with the old one after all: its beacon, or the next apply, repairs that.
    assert wait_until(lambda: fleet.holds(fleet.machines["mx4"], new), 60)


def test_a_server_cut_off_in_the_middle(fleet, current, capsys):
    """It is named, and has its turn when it can be reached again."""
    old, new = current.state["password"], password("cut")
    fleet.write_pillar(new)
    with fleet.load(MAIL[:3]) as load:
        run = fleet.master.popen(ROTATE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert wait_until(lambda: fleet.accepts(new), 60)
        fleet.machines["mx4"].partition()
        said = run.communicate(timeout=300)[0]
    assert run.returncode and "mx4" in said and "rotate again" in said, said
    assert fleet.accepts(old) and fleet.accepts(new)
    fleet.machines["mx4"].heal()
    fleet.wait_for_minions()
    good, again = fleet.orchestrate()
    with capsys.disabled():
        print(f"\na server cut off, on the others: {load}")
    assert load.failed == 0, load.reports
    assert good, again
    assert not fleet.logs_in(fleet.machines["mx4"], old) and fleet.logs_in(fleet.machines["mx4"], new)
    current.state["password"] = new


def test_the_database_restarted_in_the_middle(fleet, current, capsys):
    """Where there is a replica no lookup is lost, whatever the run that was under way came to."""
    old, new = current.state["password"], password("restarted")
    fleet.write_pillar(new)
    with fleet.load() as load:
        run = fleet.master.popen(ROTATE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        assert wait_until(lambda: fleet.accepts(new), 60)
        fleet.db.run(["systemctl", "restart", "mariadb"])
        run.wait(300)
        for mx in fleet.mail:
            assert any(fleet.holds(mx, each) and fleet.logs_in(mx, each) for each in (old, new)), mx.name
        good, said = fleet.orchestrate()
    with capsys.disabled():
        print(f"\nthe database restarted: {load}")
    assert load.failed == 0, load.reports
    assert good, said
    assert not fleet.accepts(old) and fleet.accepts(new)
    current.state["password"] = new


def test_a_master_killed_in_the_middle(fleet, current, capsys):
    old, new = current.state["password"], password("killed")
    fleet.write_pillar(new)
    with fleet.load() as load:
        run = fleet.master.popen(ROTATE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        assert wait_until(lambda: fleet.accepts(new), 60)
        fleet.master.kill()
        run.wait(60)
        time.sleep(3)
        for mx in fleet.mail:
            assert any(fleet.holds(mx, each) and fleet.logs_in(mx, each) for each in (old, new)), mx.name
        fleet.master.start()
        fleet.wait_for_minions()
        good, said = fleet.orchestrate()
    with capsys.disabled():
        print(f"\nthe master killed: {load}")
    assert good, said
    assert load.failed == 0, load.reports
    assert not fleet.accepts(old) and fleet.accepts(new)
    current.state["password"] = new


def applies(fleet):
    """How many applies each mail server has had so far."""
    begun = "Running state .Postfix asks the maps that pillar names. at"
    return [int(mx.run(["sh", "-c", f"grep -c '{begun}' /var/log/salt/minion || true"]).stdout) for mx in fleet.mail]


def fire(fleet, tag, times=20):
    code = f"""
import salt.config, salt.utils.event
opts = salt.config.master_config('/etc/salt/master')
with salt.utils.event.get_event('master', opts=opts, sock_dir=opts['sock_dir'], listen=False) as bus:
    for _ in range({times}):
        bus.fire_event({{}}, {tag!r})
"""
    python(fleet.master, code)


def failed(lines):
    return [line for line in lines if re.search(r"""["']success["']: [Ff]alse""", line)]


def test_a_burst_of_events_rotates_once_or_twice(fleet, current, capsys):
    """Twenty events in a second, one of them by a minion that asks for more than that; the newest pillar wins."""
    old, new = current.state["password"], password("burst")
    fleet.write_pillar(new)
    fleet.master.write(f"{CHECKOUT}/salt/hostile.sls", "touch /tmp/hostile: cmd.run\n")
    hostile = {"tgt": "*", "mods": "hostile", "sls": "hostile", "fun": "state.apply"}
    before = applies(fleet)
    with events(fleet, "salt/(job|run)/.*/ret") as seen:
        fleet.mail[0].run(
            ["salt-call", "event.send", EVENT, json.dumps(hostile), *[f"{k}={v}" for k, v in hostile.items()]]
        )
        fire(fleet, EVENT, 19)
        fleet.wait_for_rotation(old, new)
        time.sleep(15)
    counts = [now - then for then, now in zip(before, applies(fleet))]
    current.state["password"] = new
    with capsys.disabled():
        print(f"\n20 events, rotation: applies per server {counts}, {len(seen)} jobs returned")
    assert all(1 <= number <= 3 for number in counts), counts
    assert seen and not failed(seen)
    for machine in fleet.machines.values():
        assert machine.run(["test", "-e", "/tmp/hostile"], check=False).returncode == 1


def test_a_burst_of_events_reapplies_at_most_three_times(fleet, current, capsys):
    """Where Salt does not manage the database. Any minion can send this tag: it is all that it can cause."""
    before = applies(fleet)
    with events(fleet, "salt/job/.*/ret/") as seen:
        fire(fleet, "salt/beacon/mx1/postfix_credential/refused")
        time.sleep(20)
    counts = [now - then for then, now in zip(before, applies(fleet))]
    with capsys.disabled():
        print(f"\n20 events, re-apply: applies per server {counts}, {len(seen)} jobs returned")
    assert all(1 <= number <= 3 for number in counts), counts
    # The runner merges the events too. A busy master publishes a job again: another job id, for the same event.
    ours = [one for one in seen if '"fun": "ispmail.reapply"' in one]
    assert 2 * len(MAIL) <= len(ours) < 20 * len(MAIL) and not failed(seen)


def test_the_beacon_heals_a_change_behind_our_back(fleet, current, capsys):
    """Somebody changed the password at the database and in pillar, and sent no event."""
    new = password("behind")
    fleet.write_pillar(new)
    fleet.set_password(new)
    began = time.monotonic()
    healed = wait_until(lambda: all(fleet.holds(mx, new) for mx in fleet.mail), INTERVAL + 30)
    took = time.monotonic() - began
    assert healed, f"not healed in {took:.1f} s"
    with capsys.disabled():
        print(f"\nhealed by the beacon in {took:.1f} s, its interval being {INTERVAL} s")
    current.state["password"] = new
    time.sleep(2)
    with fleet.load() as load:
        time.sleep(3)
    assert load.failed == 0, load.reports


def test_a_stale_pillar_is_told_of_once(fleet, current):
    """The database has another password than pillar: one clear event from each server, and no loop."""
    current.state["password"] = stale = password("stale")
    with events(fleet, "ispmail/apply/failed|salt/beacon/") as seen:
        fleet.set_password(stale)
        time.sleep(INTERVAL * 6)
    failed = [line for line in seen if line.startswith("ispmail/apply/failed")]
    beacons = [line for line in seen if line.startswith("salt/beacon/")]
    assert len(failed) == len(MAIL) and all("Access denied" in line for line in failed), failed
    assert len(beacons) <= len(MAIL) * 2, beacons
    fleet.write_pillar(stale)
    fleet.master.run(["salt-run", "ispmail.reapply"])
    assert wait_until(lambda: fleet.is_well(stale) and fleet.is_idle(), 60)
    assert fleet.salt("mx1", "postfix_map.answers") == {"mx1": []}


def test_no_password_in_any_log(fleet, current):
    """General log, binlog, job cache, bus, logs at debug: only pillar and table files hold one; the history old."""
    current()
    found, of_now = fleet.files_with(CORE), fleet.files_with(current.state["password"])
    assert "/srv/pillar/ispmail.sls" in found["master"], "the search finds nothing at all"
    tables = {f"/etc/postfix/mariadb-virtual-{name}.cf" for name in ("mailbox-domains", "alias-maps", "mailbox-maps")}
    for name in MAIL:
        history = {path for path in found[name] if path.startswith(HISTORY)}
        assert found.pop(name) - history == tables == of_now[name]
        modes = fleet.machines[name].run(["stat", "-c", "%a %u", *history]).stdout.splitlines()
        assert modes and set(modes) == {"600 0"}
    assert not found["db"] and not found["db2"]
    assert found["master"] - {"/srv/pillar/ispmail.sls"} <= {
        path for path in found["master"] if path.startswith(fleet.kept_by_salt(CORE))
    }
    assert fleet.logged("ALTER USER")
    assert fleet.master.run(["sh", "-c", "grep -c ispmail.drained /tmp/events-*"]).stdout
