"""Rotations by two accounts on a fleet under load: what is lost, what a failure does, who can read the password."""

import secrets
import time

import pytest

from .conftest import HISTORY, MAIL
from .salted import events, wait_until

# Part of every password here: one search finds each trace of any of them.
CORE = "Xk4Wq8" + secrets.token_hex(4)
A, B = "mailserver", "mailserver_b"
TWO = {"method": "two_accounts", "accounts": [A, B]}


class Pair:
    """The account in use, and what becomes of it."""

    def __init__(self, fleet):
        self.fleet, self.number, self.user, self.password = fleet, 0, A, "first-Pw1"

    def next(self, **more):
        """Write the other user and a new password into pillar."""
        self.number += 1
        user, password = B if self.user == A else A, f"{CORE}-{self.number};%=#"
        self.fleet.write_pillar(password, user=user, rotation=TWO, **more)
        return user, password

    def accepts(self, user, password, host=None):
        return self.fleet.logs_in(self.fleet.mail[0], password, host, user=user)

    def take(self, user, password, seconds=10):
        """Wait until this login is the only one, at the database and at its replica, and in all table files."""
        hosts = (self.fleet.db, self.fleet.replica)

        def is_in_use():
            return (
                all(self.accepts(user, password, host) for host in hosts)
                and not any(self.accepts(self.user, self.password, host) for host in hosts)
                and all(self.holds(mx, user, password) for mx in self.fleet.mail)
            )

        assert wait_until(is_in_use, seconds), self.fleet.told()
        self.user, self.password = user, password

    def holds(self, mx, user, password):
        text = mx.run(["sh", "-c", "cat /etc/postfix/mariadb-virtual-*.cf"]).stdout
        return text.count(f"user = {user}\npassword = {password}\n") == 3


@pytest.fixture(scope="module")
def pair(fleet):
    return Pair(fleet)


def test_rotations_lose_nothing(fleet, pair, times, capsys):
    """Rotations, each started by an event alone, the first one from the account that was the only one."""
    took = []
    with events(fleet, "ispmail/") as seen, fleet.load(rate=40) as load:
        for _ in range(times):
            user, password = pair.next()
            began = time.monotonic()
            fleet.send()
            pair.take(user, password, 240)
            took.append(time.monotonic() - began)
        time.sleep(10)
    assert not [line for line in seen if line.startswith("ispmail/rotation/failed")]
    # What a script does: the other account opened and this one locked, five seconds, the files, a reload. Open
    # connections outlive the lock: only a new smtpd sees it, and in one second none may begin.
    user, password = pair.next()
    fleet.salt("db", "saltutil.refresh_pillar", "wait=True")
    with fleet.load(rate=40) as other:
        fleet.succeed("db", "ispmail.credential_accepted")
        fleet.db.run(["mariadb"], input=f"ALTER USER {pair.user}@'198.18.%' ACCOUNT LOCK")
        time.sleep(5)
        change = f"s/^user = .*/user = {user}/; s/^password = .*/password = {password}/"
        for mx in fleet.mail:
            mx.run(["sh", "-c", f"sed -i '{change}' /etc/postfix/mariadb-*.cf && postfix reload"])
        time.sleep(10)
    pair.take(user, password)
    with capsys.disabled():
        print(f"\n{times} rotations by two accounts, {min(took):.1f} to {max(took):.1f} s each: {load}")
        print(f"1 in the naive order: {other}")
    assert load.failed == 0, load.reports
    assert load.count >= 1_250 * times
    assert other.failed > 0, "the naive order lost nothing: this load would not see a loss"


def test_the_password_alone_is_refused_before_anything_is_changed(fleet, pair):
    fleet.write_pillar(f"{CORE}-alone", user=pair.user, rotation=TWO)
    good, said = fleet.orchestrate()
    assert not good and "user and password change together" in said, said
    assert pair.accepts(pair.user, pair.password) and not pair.accepts(pair.user, f"{CORE}-alone")
    assert all(pair.holds(mx, pair.user, pair.password) for mx in fleet.mail)


def test_a_server_that_refuses_and_one_that_is_down_keep_the_old_account_open(fleet, pair, capsys):
    """What is named is repaired, and the next run goes on from there."""
    wrong = {"answers": [{"map": "virtual_alias_maps", "question": "jack@example.org", "answer": "ann@example.org"}]}
    user, password = pair.next(others={"mx2": wrong})
    fleet.machines["mx4"].stop()
    with fleet.load(MAIL[:3]) as load:
        good, said = fleet.orchestrate()
        assert not good and "should give 'ann@example.org'" in said and "did not answer: mx4" in said, said
        assert pair.accepts(pair.user, pair.password) and pair.accepts(user, password)
        fleet.write_pillar(password, user=user, rotation=TWO)
        good, said = fleet.orchestrate()
        assert not good and "mx4: does not answer" in said, said
        assert pair.accepts(pair.user, pair.password)
        assert [pair.holds(mx, user, password) for mx in fleet.mail[:3]] == [True] * 3
    fleet.machines["mx4"].start()
    fleet.wait_for_minions()
    with fleet.load() as again:
        good, said = fleet.orchestrate()
    with capsys.disabled():
        print(f"\na server that refuses, and one that is down: {load}; when all was well: {again}")
    assert good, said
    assert load.failed == again.failed == 0, (load.reports, again.reports)
    pair.take(user, password)


def test_no_password_in_any_log(fleet, pair):
    """General log, binlog, job cache, bus, logs: only pillar and table files hold one; the history old ones."""
    assert fleet.logged("ACCOUNT LOCK")
    for text, more in ((CORE, (HISTORY,)), (pair.password, ())):
        for name, found in fleet.files_with(text).items():
            allowed = ("/etc/postfix/mariadb-", *more)
            if name == "master":
                allowed = ("/srv/pillar/", *fleet.kept_by_salt(text))
            assert not [path for path in found if not path.startswith(allowed)], name
