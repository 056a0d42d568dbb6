"""What the doctor's checks are given, and in which order they come."""

from pathlib import Path

import pytest

import _ispmail_doctor
import _ispmail_doctor_postfix
from _ispmail_config import Instance, Map
from _ispmail_doctor_server import Live
from _ispmail_errors import CannotAsk
from _ispmail_table_users import Users
from lab import scratch
from lab.postfix import write_cold

from .doctor_values import target


@pytest.fixture
def two():
    """Two instances of Postfix, each with a map of pillar's and a table of its admin's own."""
    with scratch() as path:
        targets = []
        for prefix in ("", "second: "):
            folder = path / (prefix.strip(": ") or "main")
            folder.mkdir()
            user, port = f"own{len(targets)}", 3306 + len(targets)
            (folder / "a.cf").write_text(f"user = mailserver\nhosts = 127.0.0.1:{port}\n")
            (folder / "own.cf").write_text(f"user = {user}\n")
            tables = f"mysql:{folder}/a.cf mysql:{folder}/own.cf"
            main_cf = f"compatibility_level = 3.6\nvirtual_alias_maps = {tables}\n"
            write_cold(folder / "main.cf", f"{main_cf}multi_instance_directories = {path}/third\n")
            write_cold(folder / "master.cf", "25 inet n - y - - smtpd\n")
            maps = (Map("aliases", "virtual_alias_maps", "mysql", False, str(folder / "a.cf")),)
            targets.append(target(prefix)._replace(instance=Instance("ispmail", str(folder), maps)))
        yield targets


def test_each_postfix_then_the_logins_the_servers_and_who_else_holds_the_password(two, monkeypatch):
    """The account's server is asked once, about the users of all instances."""

    def of_postfix(postfix, maps):
        yield f"{postfix.where}: {[live.name for live in maps]}"

    def of_logins(maps):
        yield [live.name for live in maps]

    def asked(targets, live, addresses):
        return [*targets, addresses]

    monkeypatch.setattr("_ispmail_doctor_postfix.check", of_postfix)
    monkeypatch.setattr("_ispmail_doctor_login.check", of_logins)
    monkeypatch.setattr("_ispmail_doctor_server.asked", asked)
    monkeypatch.setattr("_ispmail_doctor_server.check", lambda targets, live: iter([(targets, live)]))
    monkeypatch.setattr("_ispmail_doctor_holders.check", lambda scope: iter([scope()]))
    monkeypatch.setattr("_ispmail_doctor_postgresql.check", lambda maps: iter([len(maps)]))
    mysql = Live(["127.0.0.1:3306", "127.0.0.1:3307"], Users(frozenset(["mailserver", "own0", "own1"])))
    # Where no map has a table file here, those of other servers count.
    live = {"mysql": mysql, "pgsql": Live([], _ispmail_doctor._OF_OTHERS)}
    assert list(_ispmail_doctor.check(two, ["192.0.2.1"], lambda: "the holders")) == [
        "this server: ['aliases']",
        "second: this server: ['second: aliases']",
        ["aliases", "second: aliases"],
        2,
        ([*two, ["192.0.2.1"]], live),
        "the holders",
    ]


def test_accounts_of_instances_that_pillar_does_not_name_are_not_left_behind(two, monkeypatch):
    """The doctor advised to drop an account by which another Postfix of this server logs in."""
    third = Path(two[0].instance.config_directory).parent / "third"
    third.mkdir()
    (third / "own.cf").write_text("user = third\n")
    write_cold(third / "main.cf", f"compatibility_level = 3.6\nrelocated_maps = mysql:{third}/own.cf\n")
    for name in ("postfix", "login", "postgresql", "holders"):
        monkeypatch.setattr(f"_ispmail_doctor_{name}.check", lambda *_: iter(()))
    monkeypatch.setattr("_ispmail_doctor_server.check", lambda targets, live: iter([live["mysql"].users]))
    (users,) = _ispmail_doctor.check(two, [], None)
    (unknown,) = users.unknown
    assert unknown.startswith(f"whether the Postfix in {third} asks the table files could not be told: ")
    write_cold(third / "master.cf", "25 inet n - y - - smtpd\n")
    (users,) = _ispmail_doctor.check(two, [], None)
    assert users == Users(frozenset(["mailserver", "own0", "own1", "third"]))


NOWHERE = Instance("ispmail", "/nowhere", ())
MAP = Map("a", "virtual_alias_maps", "mysql", False, "/nowhere/a.cf")


@pytest.mark.parametrize(
    ("maps", "has_server", "is_missed"), [((), False, False), ((MAP,), True, False), ((MAP,), False, True)]
)
def test_a_server_without_a_postfix_is_consumers_or_the_databases(monkeypatch, maps, has_server, is_missed):
    """All of pillar's maps need one, unless pillar is that of the mail servers, on the database's own server."""
    monkeypatch.setattr("_ispmail_postfix.installed", lambda: False)
    one = target(host="db" if has_server else None)._replace(instance=NOWHERE._replace(maps=maps))
    monkeypatch.setattr("_ispmail_doctor_server.asked", lambda targets, *_: targets if has_server else [])
    monkeypatch.setattr("_ispmail_doctor_server.check", lambda targets, live: iter([targets]))
    monkeypatch.setattr("_ispmail_doctor_holders.check", lambda scope: iter(["holders"]))
    if is_missed:
        with pytest.raises(CannotAsk, match=r"^there is no /nowhere/main\.cf"):
            list(_ispmail_doctor.check([one], [], None))
    else:
        assert list(_ispmail_doctor.check([one], [], None)) == [[one] if has_server else [], "holders"]


@pytest.mark.parametrize(
    ("is_there", "installed", "has_map", "has_file", "elsewhere"),
    [
        (False, False, False, False, True),
        (False, True, False, False, True),
        (False, False, True, False, True),
        (False, True, True, False, False),
        (False, False, True, True, False),
        (True, True, True, False, False),
        (True, True, False, False, False),
    ],
)
def test_an_instance_is_elsewhere(monkeypatch, tmp_path, is_there, installed, has_map, has_file, elsewhere):
    monkeypatch.setattr("_ispmail_postfix.is_there", lambda _: is_there)
    monkeypatch.setattr("_ispmail_postfix.installed", lambda: installed)
    one = Map("a", "virtual_alias_maps", "mysql", False, str(tmp_path / "a.cf"))
    if has_file:
        (tmp_path / "a.cf").symlink_to("gone")
    found = target()._replace(instance=Instance("ispmail", str(tmp_path), (one,) if has_map else ()))
    assert _ispmail_doctor_postfix.is_elsewhere(found) is elsewhere
