"""`salt-run ispmail.rotate`: what stops it before anything is changed, and what it tells while it runs."""

import contextlib
import os
import subprocess
import threading
from pathlib import Path

import pytest

from lab import HOST, wait_until
from lab.mariadb import native_hash

from .conftest import CODES, CORE, SECRET
from .test_secrets import Bus

NEW = f"{CORE}-three"
SCRIPT = Path("/usr/local/sbin/salt-ispmail-test-report")


@pytest.fixture
def site(applied, databases):
    """m1 as a site of its own, with a new password in pillar."""
    applied["m1"].write_pillar(database={"password": NEW}, server={"unix_socket": databases.socket})
    yield applied
    databases.sql("ALTER USER first@%s IDENTIFIED VIA mysql_native_password USING %s", HOST, native_hash(SECRET))


@contextlib.contextmanager
def script():
    """A script that nobody has named, with the password in use."""
    SCRIPT.write_text("#!/bin/sh\nexec mysql -p'" + SECRET.replace("'", "'\\''") + "'\n")
    SCRIPT.chmod(0o700)
    try:
        yield
    finally:
        SCRIPT.unlink()


@contextlib.contextmanager
def client(databases):
    """A program that nobody has named, connected with the account."""
    command = ["mariadb", "--no-defaults", f"--host={HOST}", f"--port={databases.port}", "--user=first"]
    process = subprocess.Popen(
        [*command, "--execute=SELECT SLEEP(120)"], env={**os.environ, "MYSQL_PWD": SECRET}, stdout=subprocess.DEVNULL
    )
    try:
        sleeping = "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE INFO LIKE 'SELECT SLEEP%'"
        assert wait_until(lambda: databases.sql(sleeping) == ((1,),), 10)
        yield process
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def locked_out(databases):
    """Somebody who still has the old password tries to log in, once it is dropped."""

    def try_it():
        assert wait_until(lambda: accepted(databases) == (1, True), 120)
        assert not databases.logs_in(SECRET, "first")

    thread = threading.Thread(target=try_it)
    thread.start()
    yield
    thread.join()


def run(site, *arguments):
    """What `salt-run ispmail.rotate` returned, and the lines that it printed meanwhile; no secret is in any of it."""
    done = site.master.salt_run_cli(timeout=240).run("ispmail.rotate", *arguments)
    assert CORE not in done.stdout + done.stderr
    assert done.data["retcode"] == done.returncode, done
    lines = [line for line in done.stderr.splitlines() if line.startswith(("main: ", "counting "))]
    return done.data, lines


def accepted(databases):
    """How many passwords the account accepts, and whether the new one is one of them."""
    ((priv,),) = databases.sql("SELECT Priv FROM mysql.global_priv WHERE User = 'first'")
    return priv.count("mysql_native_password"), native_hash(NEW) in priv


def test_the_status_of_all_servers(applied, databases):
    """Before and after a new password in pillar that nobody has applied."""
    applied["m1"].write_pillar(server={"unix_socket": databases.socket})
    applied.apply(target="m1")

    def status():
        done = applied.master.salt_run_cli(timeout=120).run("ispmail.status")
        assert CORE not in done.stdout + done.stderr and done.data["retcode"] == done.returncode
        (row,) = [line.split() for line in done.data["status"].splitlines() if line.startswith("main ")]
        return row, done.data["reasons"]

    row, _ = status()
    assert row[:2] == ["main", "m1"] and row[3:7] == ["3", "as", "pillar", "correct"], row
    assert row[8:10] == ["s", "ago"] and int(row[7]) < 60, row
    applied["m1"].write_pillar(database={"password": NEW}, server={"unix_socket": databases.socket})
    row, reasons = status()
    assert row[4:6] == ["another", "differs"], row
    assert "m1: is not as pillar says: apply ispmail there" in reasons
    assert any(reason.startswith("m1: the table file has another user or password for ") for reason in reasons), reasons


def test_what_nobody_has_named_stops_it_before_anything_is_changed(site, databases):
    """Dovecot of the guide: five servers succeeded, and at its next new connection nobody could log in."""
    before = site["m1"].files()
    with script(), client(databases) as process:
        would, lines = run(site, "test=True")
        assert lines == []
        stopped, lines = run(site, "watch=0")
    for reasons in (would["main"]["stops"], stopped["reasons"]):
        text = "\n".join(reasons)
        assert f"m1: {SCRIPT} holds the password in use: name it in ispmail:consumers" in text
        assert f"m1: mariadb (pid {process.pid}, " in text and "is connected as first: name it in programs of" in text
    assert stopped["rotation"].splitlines()[2].split() == ["main", "m1", "not", "changed"]
    assert len(lines) == 1 and lines[0].startswith(
        "main: Nobody holds the password unless pillar names it: failed after"
    )
    assert accepted(databases) == (1, False)
    assert site["m1"].files() == before
    assert site["m1"].replies() == CODES["m1"]


def test_named_holders_let_it_pass_and_each_step_is_told(site, databases):
    site["m1"].write_pillar(
        database={"password": NEW},
        server={"unix_socket": databases.socket},
        consumers={"report": {"holds": [str(SCRIPT)], "programs": ["mariadb"], "ignore": True}},
    )
    with script(), client(databases):
        would, _ = run(site, "test=True")
        assert would["main"]["stops"] == []
        assert accepted(databases) == (1, False)
        bus = Bus(site.master.config)
        bus.start()
        with locked_out(databases):
            done, lines = run(site, "watch=8")
    heard = bus.stop()
    events = [data for tag, data in heard if tag == "ispmail/rotation/step"]
    (refused,) = [data for tag, data in heard if tag == "ispmail/rotation/refused"]
    assert (refused["site"], refused["server"], refused["refused"]) == ("main", "m1", 1)
    assert accepted(databases) == (1, True)
    assert site["m1"].replies() == CODES["m1"]
    assert (done["retcode"], done["reasons"], done["refused"]) == (0, [], {"main": 1})
    header, _, row = done["rotation"].splitlines()
    assert header.split()[:4] == ["site", "server", "result", "seconds"]
    assert row.split()[:3] == ["main", "m1", "ok"] and "3 maps and 1 consumer have been applied" in row
    steps = [line.removeprefix("main: ").partition(": ok after ")[0] for line in lines]
    assert steps == [
        "Nobody holds the password unless pillar names it",
        "The new password is accepted next to the old one: m1 (1 of 1)",
        "The canary takes the new password: m1 (1 of 1)",
        "Every server is seen to use the new password",
        "The old password is dropped: m1 (1 of 1)",
        "counting refused logins for 8 s",
        "m1 has refused 1 login since the rotation began: see the log of the database",
    ]
    assert [event["step"] for event in events] == [step.removesuffix(": m1 (1 of 1)") for step in steps[:-2]]
    assert [(event["server"], event["result"]) for event in events if "server" in event] == [("m1", True)] * 3


# By two accounts.

TWO = {"method": "two_accounts", "accounts": ["first", "first_b"]}


@pytest.fixture
def pair(site, databases):
    """A function that writes pillar with one of two accounts for one."""

    def write(user, password, **sections):
        site["m1"].write_pillar(
            database={"user": user, "password": password},
            server={"unix_socket": databases.socket},
            rotation=TWO,
            **sections,
        )

    yield write
    databases.sql("ALTER USER first@%s ACCOUNT UNLOCK", HOST)
    databases.sql("DROP USER IF EXISTS first_b@%s", HOST)


def test_by_two_accounts_user_and_password_change_together(site, databases, pair):
    """What stops it is said before anything is changed; then each step is told; at last the old account is locked."""
    pair("first", NEW)
    would, _ = run(site, "test=True")
    stopped, _ = run(site, "watch=0")
    for reasons in (would["main"]["stops"], stopped["reasons"]):
        text = "\n".join(reasons)
        assert f"first@{HOST} is the account in use, and accepts another password than pillar's" in text
        assert "Write user: first_b into pillar, beside the new password" in text
    assert stopped["rotation"].splitlines()[2].split() == ["main", "m1", "not", "changed"]
    assert accepted(databases) == (1, False)
    named = {"report": {"programs": ["mariadb"], "holds": ["/etc/passwd"], "ignore": True}}
    pair("first_b", NEW, consumers=named)
    with client(databases) as process:
        would, _ = run(site, "test=True")
        assert would["main"]["stops"] == []
        done, lines = run(site, "watch=1")
        assert (done["retcode"], done["reasons"]) == (0, [])
        assert "The old password is dropped: m1 (1 of 1): ok" in lines[-2]
        assert f"first@{HOST} has been changed" in lines[-2] and "first keeps the connections" in lines[-2]
        assert databases.logs_in(NEW, "first_b") and not databases.logs_in(SECRET, "first")
        assert site["m1"].replies() == CODES["m1"]
        # Had nobody named that program, which is connected by the old account, it would have stayed open.
        pair("first_b", NEW)
        proof = site.master.salt_run_cli(timeout=60).run("ispmail.prove", "main")
        assert f"m1: mariadb (pid {process.pid}, " in str(proof.data) and "is connected as first: name it" in str(
            proof.data
        )
    done, _ = run(site, "watch=0")
    assert (done["retcode"], done["reasons"]) == (0, [])
    # And back.
    pair("first", SECRET)
    done, _ = run(site, "watch=0")
    assert (done["retcode"], done["reasons"]) == (0, [])
    assert databases.logs_in(SECRET, "first") and not databases.logs_in(NEW, "first_b")
    assert site["m1"].replies() == CODES["m1"]


def test_a_new_user_by_two_passwords_is_refused(site, databases):
    site["m1"].write_pillar(database={"user": "first_b", "password": NEW}, server={"unix_socket": databases.socket})
    would, _ = run(site, "test=True")
    stopped, _ = run(site, "watch=0")
    assert "changes the user only from one of two accounts to the other" in str(would["main"]["stops"])
    assert "changes the user only from one of two accounts to the other" in str(stopped["reasons"])
    assert accepted(databases) == (1, False)
