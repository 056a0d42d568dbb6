"""A server without a Postfix: the database's own, or one of consumers only. All that is asked of it works."""

import subprocess

import pytest
from prometheus_client.parser import text_string_to_metric_families
from salt.exceptions import CommandExecutionError

import _ispmail_config_database
import _ispmail_postfix
from _ispmail_journal import Journal
from lab import scratch
from lab.mariadb import schema
from lab.minion import Minion
from lab.postfix import write_cold

from .database import NEW, OLD, pillar
from .test_consumers import NO_MAPS

OF_POSTFIX = ("postconf", "postmap", "postfix")
TOO_OLD, NO_EXPIRY = "the account's password is not too old", "the account's password does not expire"


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


def findings(minion, **options):
    rows = minion.call("postfix_doctor.check", **options)
    return {(row["check"], row["where"]): (row["result"], row["fix"]) for row in rows if row["result"] != "ok"}


def expire(db, days):
    db.sql("ALTER USER mailserver@'127.0.0.1' PASSWORD EXPIRE INTERVAL %s DAY", days)


def make_older(db, days):
    changed = "JSON_SET(Priv, '$.password_last_changed', UNIX_TIMESTAMP() - %s)"
    db.sql(f"UPDATE mysql.global_priv SET Priv = {changed} WHERE User = 'mailserver'", days * 86400)
    db.sql("FLUSH PRIVILEGES")


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


def test_consumers_alone_have_a_doctor(consumers):
    found = findings(consumers)
    assert {key: result for key, (result, _) in found.items() if result == "fault"} == {}


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


# The database's own server.


@pytest.fixture
def database(without, db):
    """A minion on the database's own server, with the pillar of the mail servers."""
    path, _, config = without
    more = {"rotation": {"max_age": "30d"}, "watch": {"textfile": str(path / "ispmail.prom")}}
    minion = Minion(path / "minion", {"ispmail": section(db, config, **more)})
    assert minion.apply("ispmail.database")["postfix_database.account"]["result"] is True
    return minion


def test_the_databases_own_server_has_a_doctor(database, db, without):
    """With the same pillar as the mail servers, or with all maps set to null."""
    if without[1] == "it was never configured":
        database.pillar = {"ispmail": {**database.pillar["ispmail"], "maps": NO_MAPS}}
    assert findings(database) == {}
    make_older(db, 31)
    (key,) = found = findings(database)
    assert key[0] == TOO_OLD and found[key][0] == "fault"
    expire(db, 35)
    found = findings(database)
    assert {check: result for (check, _), (result, _) in found.items()} == {TOO_OLD: "fault", NO_EXPIRY: "fault"}


def test_the_databases_own_server_can_be_asked_all_that_a_rotation_asks(database, without):
    """With another instance of the mail servers in its pillar too."""
    path, way, _ = without
    given = database.pillar["ispmail"]
    second = {"postfix": {"config_directory": str(path / "second")}, "database": given["database"]}
    if way == "it was never configured":
        given, second = {**given, "maps": NO_MAPS}, {**second, "maps": NO_MAPS}
    database.pillar = {"ispmail": {**given, "instances": ["second"]}, "second": second}
    assert database.call("postfix_database.holders", site_hosts=[])["unnamed"] == []
    assert database.call("postfix_database.credential_accepted", test=True)["changes"] == {}
    assert database.call("postfix_map.fingerprints", "0123456789abcdef", False).keys() == {"pillar"}
    assert database.call("postfix_database.refused") == []
    assert findings(database) == {}


def test_nobody_is_told_to_drop_what_a_mail_server_may_use(database, db, without):
    """Which accounts its table files have is not seen from here: here one of pillar's own maps has it."""
    db.sql("CREATE OR REPLACE USER other@'192.0.2.20'")
    db.sql("GRANT SELECT ON mailserver.* TO other@'192.0.2.20'")
    own = {"virtual_alias_maps": {"user": "other", "password": NEW}}
    maps = NO_MAPS if without[1] == "it was never configured" else own
    database.pillar = {"ispmail": {**database.pillar["ispmail"], "maps": maps}}
    try:
        ((check, _),) = found = findings(database)
    finally:
        db.sql("DROP USER other@'192.0.2.20'")
    ((result, fix),) = found.values()
    assert (check, result) == ("no table file's old account is left behind", "warning")
    assert "other@192.0.2.20 may read the maps' tables" in fix and "DROP USER" not in fix
    assert "Drop none yet: Postfix may log in by one of them (no table file of a map is on this server, those" in fix


def test_the_databases_own_server_has_metrics(database, db, without):
    make_older(db, 31)
    database.pillar = {"ispmail": {**database.pillar["ispmail"], "maps": NO_MAPS}}
    database.call("postfix_doctor.check", notify=True)
    text = (without[0] / "ispmail.prom").read_text()
    found = {each.name: each.value for family in text_string_to_metric_families(text) for each in family.samples}
    assert found["ispmail_password_age_seconds"] == pytest.approx(31 * 86400, abs=120)
    assert (found["ispmail_doctor_faults"], found["ispmail_refused_logins"]) == (1, 0)


def test_a_postfix_that_is_missed_is_an_error(database, without, monkeypatch):
    """Where it is installed, or table files are there, or no database is: maps of pillar need it."""
    _, way, config = without
    missed = pytest.raises(CommandExecutionError, match=r"there is no .*main\.cf|postconf is not there")
    monkeypatch.setattr(_ispmail_config_database, "MYSQL_SOCKET", str(config / "none.sock"))
    given = database.pillar["ispmail"]
    database.pillar = {"ispmail": {**given, "server": {}}}
    with missed:
        database.call("postfix_doctor.check")
    database.pillar = {"ispmail": given}
    if way != "it was never configured":
        config.mkdir(exist_ok=True)
        (config / "mariadb-virtual-alias-maps.cf").write_text("hosts = 127.0.0.1\n")
    with missed:
        database.call("postfix_doctor.check")
    with missed:
        database.call("postfix_map.probe")


# Which server is the database's.

HERE, ELSEWHERE = "127.0.0.1", "db.invalid"
CONSUMERS = {"webmail": {"holds": ["/nonexistent"]}}


@pytest.mark.parametrize(
    ("has_postfix", "live", "hosts", "names_socket", "more", "is_asked"),
    [
        pytest.param(False, None, ELSEWHERE, False, {}, True, id="the database's, behind a translated address"),
        pytest.param(False, None, ELSEWHERE, False, {"maps": NO_MAPS}, True, id="the same, without maps"),
        pytest.param(True, None, HERE, False, {}, True, id="the database's, with a Postfix of no use"),
        pytest.param(True, None, ELSEWHERE, True, {}, True, id="the same, behind a translated address"),
        pytest.param(True, HERE, HERE, False, {}, True, id="a mail server with its own"),
        pytest.param(True, HERE, ELSEWHERE, False, {}, True, id="the same, after a change of pillar"),
        pytest.param(False, None, HERE, False, {"maps": NO_MAPS, "consumers": CONSUMERS}, True, id="a webmail with it"),
        pytest.param(
            False, None, ELSEWHERE, True, {"maps": NO_MAPS, "consumers": CONSUMERS}, False, id="the same, not with it"
        ),
        pytest.param(True, None, ELSEWHERE, False, {}, False, id="a mail server before its first apply"),
        pytest.param(True, ELSEWHERE, ELSEWHERE, False, {}, False, id="a mail server with a webmail's"),
        pytest.param(True, ELSEWHERE, HERE, True, {}, False, id="the same, with the database's pillar"),
        pytest.param(False, None, ELSEWHERE, False, {"maps": NO_MAPS, "consumers": CONSUMERS}, False, id="a webmail's"),
    ],
)
def test_the_admin_is_asked_only_where_the_maps_database_is(
    db, monkeypatch, has_postfix, live, hosts, names_socket, more, is_asked
):
    """A MariaDB listens at the place where Debian's does: it is the maps', or another one."""
    monkeypatch.setattr(_ispmail_config_database, "MYSQL_SOCKET", db.socket)
    with scratch() as path:
        config = path / "postfix"
        if has_postfix:
            config.mkdir()
            reached = f"virtual_alias_maps = mysql:{config}/mariadb-virtual-alias-maps.cf\n" if live else ""
            write_cold(config / "main.cf", f"compatibility_level = 3.6\nqueue_directory = {path}\n{reached}")
            write_cold(config / "master.cf", "smtp inet n - n - - smtpd\n")
        else:
            take_away(monkeypatch)
        if live:
            login = f"user = mailserver\npassword = {OLD}\nhosts = {live}:{db.port}\ndbname = mailserver\n"
            file = config / "mariadb-virtual-alias-maps.cf"
            file.write_text(f"{login}query = SELECT destination FROM virtual_aliases WHERE source='%s'\n")
        given = section(db, config, **more)
        given["database"]["hosts"] = f"{hosts}:{db.port}"
        if not names_socket:
            del given["server"]
        rows = Minion(path / "minion", {"ispmail": given}).call("postfix_doctor.check")
    assert ("all accounts of the user are managed" in {row["check"] for row in rows}) is is_asked
