"""Rotations by two accounts, on a real MariaDB and a real MySQL: what is done there, and what mail notices of it."""

import contextlib
import os
import re
import time

import pymysql
import pytest
from salt.exceptions import CommandExecutionError

from lab import HOST, scratch
from lab.images import missing_requirements
from lab.minion import Minion
from lab.mysql import MySQL
from lab.postfix import Postfix
from lab.smtp import Load

from ..conftest import release
from .database import NEW, OLD, OTHER, SELECT, call, guide, pillar

A, B = "mailserver_a", "mailserver_b"
ADDRESSES = {"jack@example.org": 250, "john@example.org": 250, "nobody@example.org": 550}


@pytest.fixture(scope="module")
def mysql(directory):
    # As for the tests of tests/fleet: in CI it has to run.
    if (reason := missing_requirements()) and os.environ.get("CI") != "true":
        pytest.skip(reason)
    options = ["--log-raw=ON", "--log-error-verbosity=3"]
    with MySQL(directory / "mysql", general_log=directory / "mysql.log", options=options) as server:
        yield server


@pytest.fixture(params=["mariadb", "mysql"])
def server(request):
    """One of the two, as it is before anything of ours, with the guide's tables."""
    found = request.getfixturevalue("started" if request.param == "mariadb" else "mysql")
    found.kind = request.param
    found.sql("DROP DATABASE IF EXISTS mailserver")
    table = "global_priv" if found.kind == "mariadb" else "user"
    for user, host in found.sql(
        f"SELECT User, Host FROM mysql.{table} WHERE User LIKE 'mailserver%%' OR User = 'boss'"
    ):
        found.sql("DROP USER %s@%s", user, host)
    guide(found)
    return found


@pytest.fixture
def mail(server):
    """A running Postfix: in a chroot where it has the server's login plugin there."""
    with scratch() as path, Postfix(path / "mail", chroot=server.kind == "mariadb") as instance:
        yield instance


def two(server, user, password, postfix=None, rotation=None, **sections):
    """Pillar with both accounts."""
    found = pillar(server, password, **sections)
    found["ispmail"]["database"]["user"] = user
    found["ispmail"]["rotation"] = rotation or {"method": "two_accounts"}
    if postfix:
        found["ispmail"]["postfix"] = {"config_directory": str(postfix.config_directory)}
        if release() >= (3, 10):
            found["ispmail"]["database"]["retry_interval"] = 1
    return found


@pytest.fixture
def minion(server):
    """One whose pillar has mailserver_a, which is made."""
    with scratch() as path:
        minion = Minion(path, two(server, A, OLD))
        minion.apply("ispmail.database")
        yield minion


def accounts(minion):
    """Account to whether it is locked."""
    found = call(minion, "read")
    return {name: account["locked"] for name, account in {**found["accounts"], **found["pair"]}.items()}


def logs_in(server, user, password):
    return server.logs_in(password, user)


# What is done at the server.


def test_a_rotation_there_and_back(minion, server):
    """Both accounts in turn; what test=True tells is what is done, and a second run does nothing."""
    assert accounts(minion) == {f"{A}@{HOST}": False}
    user, password = A, OLD
    for number, (other, new) in enumerate([(B, NEW), (A, OTHER), (B, OLD)]):
        minion.pillar = two(server, other, new)
        would = call(minion, "credential_accepted", test=True)
        assert not logs_in(server, other, new)
        assert call(minion, "credential_accepted") == would
        (change,) = would["changes"].values()
        assert sorted(change) == (["locked", "password"] if number else ["account", "expires", "grants", "password"])
        assert call(minion, "credential_accepted")["changes"] == {}
        assert logs_in(server, user, password) and logs_in(server, other, new)
        assert call(minion, "read")["accounts"][f"{other}@{HOST}"]["grants"] == SELECT
        would = call(minion, "credential_sole", test=True)
        assert logs_in(server, user, password)
        assert call(minion, "credential_sole") == would
        assert would == {"changes": {f"{user}@{HOST}": {"locked": {"old": False, "new": True}}}, "warnings": []}
        assert call(minion, "credential_sole") == call(minion, "credential_accepted") == {"changes": {}, "warnings": []}
        assert logs_in(server, other, new) and not logs_in(server, user, password)
        assert accounts(minion) == {f"{other}@{HOST}": False, f"{user}@{HOST}": True}
        user, password = other, new


def test_the_way_back_is_a_rotation(minion, server):
    """With the old user and the old password in pillar."""
    minion.pillar = two(server, B, NEW)
    call(minion, "credential_accepted")
    call(minion, "credential_sole")
    assert not logs_in(server, A, OLD)
    minion.pillar = two(server, A, OLD)
    call(minion, "credential_accepted")
    assert logs_in(server, A, OLD) and logs_in(server, B, NEW)
    call(minion, "credential_sole")
    assert logs_in(server, A, OLD) and not logs_in(server, B, NEW)


@pytest.mark.parametrize(
    ("user", "password", "said"),
    [
        (A, NEW, f"{A}@{HOST} is the account in use, and accepts another password than pillar's: with two_accounts, "),
        (B, NEW, None),
    ],
)
def test_the_password_alone_is_not_changed(minion, server, user, password, said):
    minion.pillar = two(server, user, password)
    if said:
        for test in (True, False):
            with pytest.raises(CommandExecutionError, match=re.escape(said)) as caught:
                call(minion, "credential_accepted", test=test)
            assert "Nothing was changed" in str(caught.value) and f"Write user: {B} into pillar" in str(caught.value)
        assert logs_in(server, A, OLD) and not logs_in(server, A, NEW)
    else:
        assert call(minion, "credential_accepted", test=True)["changes"]


def test_an_account_that_somebody_may_use_keeps_its_password(minion, server):
    """Whether or not somebody is connected."""
    minion.pillar = two(server, B, OTHER)
    call(minion, "account")
    minion.pillar = two(server, B, NEW)
    with pytest.raises(CommandExecutionError, match=r"somebody may use it \(nobody is connected now\)"):
        call(minion, "credential_accepted")
    refused = pytest.raises(CommandExecutionError, match=r"somebody may use it \(connected now: 1 from 127\.0\.0\.1\)")
    with contextlib.closing(pymysql.connect(host=HOST, port=server.port, user=B, password=OTHER)), refused:
        call(minion, "credential_accepted")
    assert logs_in(server, B, OTHER)
    server.sql(f"ALTER USER {B}@'{HOST}' ACCOUNT LOCK")
    call(minion, "credential_accepted")
    assert logs_in(server, B, NEW)


def test_an_account_that_is_in_use_already_can_be_one_of_the_two(server):
    """The guide's mailserver."""
    with scratch() as path:
        minion = Minion(path, pillar(server))
        call(minion, "account")
        minion.pillar = two(
            server, "second", NEW, rotation={"method": "two_accounts", "accounts": ["mailserver", "second"]}
        )
        try:
            call(minion, "credential_accepted")
            call(minion, "credential_sole")
            assert logs_in(server, "second", NEW) and not logs_in(server, "mailserver", OLD)
        finally:
            server.sql(f"DROP USER second@'{HOST}'")


def test_grants_are_equal(minion, server):
    """What another program may need of the account that is replaced, it has afterwards."""
    server.sql("CREATE TABLE mailserver.more (a INT, b INT)")
    server.sql(f"GRANT INSERT ON mailserver.virtual_users TO {A}@'{HOST}'")
    server.sql(f"GRANT SELECT (a), UPDATE (a, b) ON mailserver.more TO {A}@'{HOST}' WITH GRANT OPTION")
    server.sql(f"GRANT PROCESS ON *.* TO {A}@'{HOST}'")
    minion.pillar = two(server, B, NEW)
    call(minion, "credential_accepted")
    grants = {user: [row[0] for row in server.sql(f"SHOW GRANTS FOR {user}@'{HOST}'")] for user in (A, B)}
    shown = {
        user: sorted(re.sub(r" IDENTIFIED BY PASSWORD '\S+'", "", one).replace(A, B) for one in lines)
        for user, lines in grants.items()
    }
    assert shown[A] == shown[B] and len(shown[B]) == 4
    call(minion, "credential_sole")
    # A grant that is new on the one is given to the other at its turn; one of its own it keeps.
    server.sql(f"GRANT DELETE ON mailserver.more TO {B}@'{HOST}'")
    minion.pillar = two(server, A, OTHER)
    (change,) = call(minion, "credential_accepted")["changes"].values()
    assert change["grants"]["new"][-1] == "DELETE ON `mailserver`.`more`"


def test_open_connections_of_a_locked_account_go_on(minion, server):
    """Those of a consumer, which reads its option file at the next login. A dropped account would end some."""
    with contextlib.closing(
        pymysql.connect(host=HOST, port=server.port, user=A, password=OLD, db="mailserver")
    ) as open_:
        minion.pillar = two(server, B, NEW)
        call(minion, "credential_accepted")
        (warning,) = call(minion, "credential_sole")["warnings"]
        assert warning.startswith(
            f"{A} keeps the connections that it has until they end (connected now: 1 from {HOST})"
        )
        assert not logs_in(server, A, OLD)
        with open_.cursor() as cursor:
            cursor.execute("SELECT COUNT(*) FROM virtual_users")
            assert cursor.fetchall() == ((1,),)
            server.sql(f"REVOKE SELECT ON mailserver.* FROM {A}@'{HOST}'")
            server.sql(f"GRANT SELECT ON mailserver.virtual_users TO {A}@'{HOST}'")
            cursor.execute("USE mailserver")
            cursor.execute("SELECT COUNT(*) FROM virtual_users")
            server.sql(f"DROP USER {A}@'{HOST}'")
            with pytest.raises(pymysql.err.OperationalError, match="1142"):
                cursor.execute("SELECT COUNT(*) FROM virtual_users")


def test_no_log_of_the_server_holds_a_password(minion, server, directory):
    """At its most talkative it has hashes only."""
    logs = [directory / ("general.log" if server.kind == "mariadb" else "mysql.log"), server.error_log]
    begin = [log.stat().st_size for log in logs]
    for user, password in ((B, NEW), (A, OTHER)):
        minion.pillar = two(server, user, password)
        call(minion, "credential_accepted")
        call(minion, "credential_sole")
    logged = b"".join(log.read_bytes()[start:] for log, start in zip(logs, begin))
    assert logged.count(b"ACCOUNT LOCK") == 2 and logged.count(b"ACCOUNT UNLOCK") == 1
    assert not [secret for secret in (OLD, NEW, OTHER) if secret.encode() in logged]


# What mail sees.


def applied(minion):
    return minion.apply()["postfix_map.managed"]


def rotated(minion):
    """The three steps, as an orchestration does them; each has to succeed before the next."""
    call(minion, "credential_accepted")
    assert applied(minion)["result"] is True
    assert {state["result"] for state in minion.apply("ispmail.drained").values()} == {True}
    return call(minion, "credential_sole")


def test_no_mail_is_lost_in_rotations_under_load(minion, server, mail, capsys):
    """Four rotations; then the order of a script: the files and a reload, three seconds later the accounts."""
    server.sql("SET GLOBAL max_connections = 1000")
    minion.pillar = two(server, A, OLD, mail)
    assert applied(minion)["result"] is True
    with Load(mail.port, ADDRESSES, rate=200) as load:
        for user, password in ((B, NEW), (A, OTHER), (B, OLD), (A, NEW)):
            minion.pillar = two(server, user, password, mail)
            assert rotated(minion)["changes"]
            time.sleep(1)
    report = load.stop()
    with Load(mail.port, ADDRESSES, rate=100) as load:
        minion.pillar = two(server, B, OTHER, mail)
        for path in mail.config_directory.glob("mariadb-*.cf"):
            path.write_text(path.read_text().replace(f"user = {A}", f"user = {B}").replace(NEW, OTHER))
        mail.reload()
        time.sleep(3)
        call(minion, "credential_accepted")
        call(minion, "credential_sole")
        time.sleep(3)
    naive = load.stop()
    with capsys.disabled():
        print(f"\n4 rotations by two accounts, {server.kind}: {report}\n1 in the naive order: {naive}")
    assert report.count >= 1000 and report.failed == 0, report.examples
    assert naive.failed > 0, "the naive order lost nothing: this load would not see a loss"


def test_a_failure_at_each_step_is_gone_on_from(minion, server, mail):
    """Each step fails once, mail is answered meanwhile, and the same step succeeds afterwards."""
    minion.pillar = two(server, A, OLD, mail)
    assert applied(minion)["result"] is True
    new = two(server, B, NEW, mail)
    server.sql(f"CREATE USER boss@'{HOST}' IDENTIFIED BY %s", OTHER)
    server.sql(f"GRANT SELECT, PROCESS ON *.* TO boss@'{HOST}'")
    poor = {**new["ispmail"], "server": {"host": HOST, "port": server.port, "user": "boss", "password": OTHER}}
    wrong = [{"map": "virtual_alias_maps", "question": "jack@example.org", "answer": "ann@example.org"}]
    with Load(mail.port, ADDRESSES, rate=50) as load:
        if server.kind == "mariadb":  # by TCP a MySQL asks for the password in clear
            minion.pillar = {"ispmail": poor}
            with pytest.raises(CommandExecutionError, match="run credential_accepted again, it goes on from there"):
                call(minion, "credential_accepted")
        # An apply before its time, and one that does not give the answers that pillar expects.
        minion.pillar = new
        assert applied(minion)["comment"].startswith("Nothing was changed")
        call(minion, "credential_accepted")
        minion.pillar = {"ispmail": {**new["ispmail"], "answers": wrong}}
        assert applied(minion)["comment"].startswith("Nothing was changed")
        minion.pillar = new
        assert rotated(minion)["changes"]
    report = load.stop()
    assert report.count > 50 and report.failed == 0, report.examples
    assert logs_in(server, B, NEW) and not logs_in(server, A, OLD)
