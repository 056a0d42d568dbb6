"""A server without a Postfix: the database's own, or one of consumers only. All that is asked of it works."""

import subprocess

import pytest

import _ispmail_postfix
from _ispmail_journal import Journal
from lab import scratch
from lab.mariadb import schema
from lab.minion import Minion

from .database import NEW, OLD, pillar
from .test_consumers import NO_MAPS

OF_POSTFIX = ("postconf", "postmap", "postfix")


@pytest.fixture(params=["there never was one", "it was removed", "it was never configured"])
def without(request, monkeypatch):
    """A directory, the way in which there is no Postfix, and the directory of its main.cf."""
    with scratch() as path:
        config = path / "postfix"
        if request.param == "it was removed":
            # As Debian leaves it until somebody purges it.
            config.mkdir()
            (config / "main.cf").write_text("compatibility_level = 3.6\n")
            (config / "master.cf").write_text("smtp inet n - y - - smtpd\n")
        if request.param != "it was never configured":
            take_away(monkeypatch)
        yield path, request.param, config


def take_away(monkeypatch):
    """Postfix's programs are not there."""
    real = subprocess.run

    def run(command, *args, **options):
        if command[0] in OF_POSTFIX:
            raise FileNotFoundError(command[0])
        return real(command, *args, **options)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(_ispmail_postfix, "installed", lambda: False)


@pytest.fixture
def db(started):
    """A MariaDB with the guide's tables and the maps' account."""
    schema(started, OLD)
    return started


def section(db, config, **more):
    found = pillar(db)["ispmail"]
    return {**found, "packages": False, "postfix": {"config_directory": str(config)}, **more}


# A server of consumers only.


@pytest.fixture
def consumers(without, db):
    """A minion that has set all maps to null, and gives the account's password to another program."""
    path, _, config = without
    webmail = {"webmail": {"option_file": str(path / "webmail.cnf")}}
    minion = Minion(path / "minion", {"ispmail": section(db, config, maps=NO_MAPS, consumers=webmail)})
    assert minion.apply("ispmail.maps")["postfix_map.managed"]["result"] is True
    return minion


def test_consumers_alone_take_part_in_each_credential_event(consumers):
    assert consumers.call("postfix_map.probe") == []
    assert consumers.call("ispmail.reapply") == {"applied": True, "result": True, "comment": ""}


def test_consumers_alone_can_be_asked_all_that_a_rotation_asks(consumers):
    nonce = "0123456789abcdef"
    said = consumers.call("postfix_map.fingerprints", nonce)
    assert said["live"] == said["pillar"] and len(said["live"]) == 1
    assert consumers.call("postfix_database.holders")["unnamed"] == []
    for function in ("postfix_database.refused", "postfix_map.old_processes", "postfix_map.answers"):
        assert consumers.call(function) == []
    assert (consumers.call("postfix_map.compare")["due"], consumers.call("postfix_map.read")) == (False, {})
    done = consumers.apply("ispmail.drained")
    assert all(state["result"] for state in done.values()), done


def test_of_consumers_alone_a_change_can_be_undone_or_finished(consumers, without):
    path, _, config = without
    file = path / "webmail.cnf"
    before = file.read_text()
    consumers.pillar = {"ispmail": {**consumers.pillar["ispmail"], "history": 5}}
    file.write_text(before.replace(OLD, NEW))
    done = consumers.apply("ispmail.maps")["postfix_map.managed"]
    assert done["result"] is True and file.read_text() == before, done
    journal = Journal(str(config), str(consumers.cache), [str(file)])
    for finish in ("postfix_map.apply", "postfix_map.remove", "postfix_map.rollback"):
        with journal.locked():
            journal.write([str(file)])
        options = {"entry": "1"} if finish.endswith("rollback") else {}
        consumers.call(finish, **options)
        assert journal.due() is None or finish.endswith("remove"), finish
        file.write_text(before)


def test_of_consumers_alone_nothing_is_taken_out(consumers, without):
    done = consumers.apply("ispmail.clean")["postfix_map.absent"]
    assert done["result"] is True and f"{without[0] / 'webmail.cnf'} was left" in done["comment"], done["comment"]
