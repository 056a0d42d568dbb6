"""`salt-run ispmail.new_password`: a real master, its sdb, a minion and a MariaDB; nobody sees the password."""

import contextlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lab import HOST, contents, wait_until
from lab.mariadb import native_hash

from .conftest import CODES, CORE, SECRET
from .test_secrets import Bus, Sampler

URI, USER_URI = "sdb://mail/main", "sdb://mail/main-user"
SHAPE = re.compile(r"[A-Za-z][A-Za-z0-9]{23}")
ON_MASTER = "#!jinja|json\n{{%- set stored = salt['sdb.get']('sdb://mail/main') %}}\n{}"


@pytest.fixture
def store(applied):
    """A function that reads the values of sdb, and writes those that are given."""
    path = applied.root / "sdb.sqlite"

    def values(**given):
        with contextlib.closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("CREATE TABLE IF NOT EXISTS sdb (key TEXT PRIMARY KEY, value TEXT)")
            connection.executemany("REPLACE INTO sdb VALUES (?, ?)", list(given.items()))
            return dict(connection.execute("SELECT key, value FROM sdb"))

    values(main=SECRET)
    yield values
    path.unlink()


@pytest.fixture
def site(applied, databases, store):
    """m1 as a site of its own; its pillar has the password that is in sdb, which the minion looks up."""
    applied["m1"].write_pillar(database={"password": URI}, server={"unix_socket": databases.socket})
    with configured(applied, sdb_password="mail/main"):
        yield applied
    databases.sql("ALTER USER first@%s IDENTIFIED VIA mysql_native_password USING %s ACCOUNT UNLOCK", HOST, HASH)
    databases.sql("DROP USER IF EXISTS first_b@%s", HOST)


HASH = native_hash(SECRET)


@contextlib.contextmanager
def configured(site, **keys):
    """The master's configuration, with more keys of the site and in place of a profile of sdb."""
    path = Path(site.master.config["conf_file"])
    before = path.read_text()
    found = yaml.safe_load(before)
    found["mail"].update(keys.pop("profile", {}))
    found["ispmail"]["sites"]["main"].update(keys)
    path.write_text(yaml.safe_dump(found))
    try:
        yield
    finally:
        path.write_text(before)


def run(site, *arguments, name="new_password", told=()):
    """What the runner returned; no secret is in any of it, nor in what was printed."""
    sites = () if name == "rotate" else ("main",)
    done = site.master.salt_run_cli(timeout=240).run(f"ispmail.{name}", *sites, *arguments)
    for secret in (CORE, *told):
        assert secret not in done.stdout + done.stderr
    assert done.data and done.data["retcode"] == done.returncode, done
    return done.data


def passwords(databases, user="first"):
    """How many passwords the account accepts."""
    ((priv,),) = databases.sql("SELECT Priv FROM mysql.global_priv WHERE User = %s", user)
    return priv.count("mysql_native_password")


def on_master(site, databases):
    """m1's pillar file has a line that looks the URI up while the master renders it."""
    site["m1"].write_pillar(database={"password": "STORED"}, server={"unix_socket": databases.socket})
    text = site["m1"].pillar_file.read_text().removeprefix("#!json\n")
    site["m1"].pillar_file.write_text(ON_MASTER.format(text.replace('"STORED"', "{{ stored | json }}")))


@pytest.mark.parametrize("where", ["minion", "master"])
def test_a_new_password_that_nobody_sees(site, databases, store, where):
    """A pillar that a minion looks up, and one that the master does."""
    if where == "master":
        on_master(site, databases)
    would = run(site, "test=True")
    assert would["stops"] == [] and would["would"][0] == "write a new password to sdb", would
    assert (store()["main"], passwords(databases)) == (SECRET, 1) and databases.logs_in(SECRET, "first")
    bus, sampler = Bus(site.master.config), Sampler()
    bus.start()
    sampler.start()
    done = run(site, "watch=1")
    seen, events = sampler.stop(), bus.stop()
    new = store()["main"]
    assert SHAPE.fullmatch(new) and new != SECRET
    assert (done["retcode"], done["reasons"], done["refused"]) == (0, [], {"main": 0}), done
    assert done["password"] == "a new one is in sdb and in pillar" and "3 maps have been applied" in done["rotation"]
    assert databases.logs_in(new, "first") and not databases.logs_in(SECRET, "first") and passwords(databases) == 1
    assert site["m1"].replies() == CODES["m1"]
    assert len([tag for tag, _ in events if tag == "ispmail/rotation/step"]) >= 5, "the rotation was not watched"
    assert [tag for tag, data in events if new in repr(data)] == []
    assert seen and [line for line in seen if new.encode() in line] == []
    assert new not in json.dumps(done)
    holding = {path for path, content in contents(site.root) if new.encode() in content}
    # Salt 3006 keeps pillar in its cache of minions too.
    cache = Path(site.master.config["cachedir"])
    master_only = {
        path
        for path in holding
        if path.is_relative_to(cache / "pillar") or (path.is_relative_to(cache / "minions") and path.name == "data.p")
    }
    assert {path.stat().st_mode & 0o077 for path in master_only} <= {0}
    # Not in the history of changes, which has what was replaced.
    assert list(site.root.rglob("*.history/*"))
    assert holding - master_only == {
        site.root / "sdb.sqlite",
        *site["m1"].postfix.config_directory.glob("mariadb-*.cf"),
    }


def test_what_was_cut_off_after_the_write_goes_on(site, databases, store):
    """Killed between the write and the rotation: another password would be one more that nobody has taken."""
    new = "Xb" * 12
    store(main=new)
    would = run(site, "test=True", told=[new])
    assert would["would"][0] == "finish the rotation to the password that is in pillar" and would["stops"] == []
    done = run(site, "watch=0", told=[new])
    assert done["password"].startswith("no new one: the rotation to the one that is in pillar has not ended")
    assert (done["retcode"], store()["main"]) == (0, new)
    assert databases.logs_in(new, "first") and not databases.logs_in(SECRET, "first")
    done = run(site, "watch=0", told=[new])
    assert done["password"] == "a new one is in sdb and in pillar" and store()["main"] != new
    assert databases.logs_in(store()["main"], "first")


def test_what_is_killed_while_it_looks_at_the_new_one_goes_on(site, databases, store):
    """The process itself, by the one signal that lets it put nothing back."""
    command = [str(Path(sys.executable).parent / "salt-run"), "-c", site.master.config_dir, "ispmail.new_password"]
    process = subprocess.Popen([*command, "main"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert wait_until(lambda: store()["main"] != SECRET, 60)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for each in (process.pid, *map(int, children)):
        os.kill(each, signal.SIGKILL)
    process.wait()
    killed = store()["main"]
    assert SHAPE.fullmatch(killed) and databases.logs_in(SECRET, "first") and passwords(databases) == 1
    done = run(site, "watch=0", told=[killed])
    assert done["password"].startswith("no new one: the rotation to the one") and done["retcode"] == 0, done
    assert store()["main"] == killed and databases.logs_in(killed, "first")


@pytest.mark.parametrize("driver", ["broken", "env", "yaml"])
def test_a_driver_that_cannot_write(site, databases, store, monkeypatch, driver, tmp_path):
    """One that fails and tells the password in its error; one that writes nothing; one that cannot."""
    (tmp_path / "x.yaml").write_text(yaml.safe_dump({"main": SECRET}))
    profile = {"broken": True} if driver == "broken" else {"driver": driver, "files": [str(tmp_path / "x.yaml")]}
    bus = Bus(site.master.config)
    bus.start()
    monkeypatch.setenv("main", SECRET)
    with configured(site, profile=profile):
        done = site.master.salt_run_cli(timeout=240).run("ispmail.new_password", "main")
    events = bus.stop()
    assert done.returncode == 1 and CORE not in done.stdout + done.stderr, done
    (reason,) = done.data["reasons"]
    assert reason.startswith(f"{URI} ") and "has to be one that can write" in reason
    assert done.data["password"].startswith("no new one: the login in use stays")
    ((comment,),) = [[data["comment"]] for tag, data in events if tag == "ispmail/rotation/failed"]
    assert reason in comment
    assert store()["main"] == SECRET and databases.logs_in(SECRET, "first")


def test_a_pillar_that_uses_another_place(site, databases, store):
    """It has the password in itself; so the value on the master is put back."""
    site["m1"].write_pillar(database={"password": SECRET}, server={"unix_socket": databases.socket})
    done = run(site, "watch=0")
    assert done["retcode"] == 1 and done["reasons"][0].startswith("m1: its pillar has not changed with the value on")
    assert store()["main"] == SECRET and databases.logs_in(SECRET, "first") and passwords(databases) == 1


def test_what_would_stop_the_rotation_leaves_the_old_one(site, databases, store):
    """By two accounts, of which only the password is stored: the database refuses, and all is as before."""
    two = {"method": "two_accounts", "accounts": ["first", "first_b"]}
    site["m1"].write_pillar(database={"password": URI}, server={"unix_socket": databases.socket}, rotation=two)
    before = site["m1"].files()
    done = run(site, "watch=0")
    assert done["retcode"] == 1 and "Write user: first_b into pillar" in "\n".join(done["reasons"]), done
    assert store()["main"] == SECRET and databases.logs_in(SECRET, "first") and site["m1"].files() == before
    assert run(site, "test=True", name="rotate")["main"]["stops"] == []


def test_by_two_accounts_both_values_are_written(site, databases, store):
    """There, back, and from where a call was cut off between the two values."""
    two = {"method": "two_accounts", "accounts": ["first", "first_b"]}
    store(**{"main-user": "first"})
    site["m1"].write_pillar(
        database={"user": USER_URI, "password": URI}, server={"unix_socket": databases.socket}, rotation=two
    )
    with configured(site, sdb_password="mail/main", sdb_user="mail/main-user", accounts=two["accounts"]):
        done = run(site, "watch=0")
        assert done["retcode"] == 0, done
        first = store()
        assert first["main-user"] == "first_b" and databases.logs_in(first["main"], "first_b")
        assert not databases.logs_in(SECRET, "first")
        store(**{"main-user": "first"})
        done = run(site, "watch=0", told=[first["main"]])
        assert done["password"] == "a new one is in sdb and in pillar" and done["retcode"] == 0, done
    second = store()
    assert second["main-user"] == "first" and second["main"] != first["main"]
    assert databases.logs_in(second["main"], "first") and not databases.logs_in(first["main"], "first_b")
    assert site["m1"].replies() == CODES["m1"]


def test_a_uri_in_the_masters_configuration(site):
    """Salt replaces it by the password, which must not be shown."""
    with configured(site, sdb_password=URI):
        done = site.master.salt_run_cli(timeout=60).run("ispmail.new_password", "main")
    assert "ispmail:sites:main:sdb_password must be profile and key" in done.stdout
    assert CORE not in done.stdout + done.stderr
