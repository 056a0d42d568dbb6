"""Rotations by two accounts, on a real MariaDB and a real MySQL: what is done there, and what mail notices of it."""

import contextlib
import os
import re
import subprocess
import time

import pymysql
import pytest
from salt.exceptions import CommandExecutionError, SaltInvocationError

import _ispmail_search
from lab import HOST, scratch, wait_until
from lab.dovecot import Dovecot, MailLoad
from lab.galera import galera
from lab.mariadb import native_hash
from lab.minion import Minion
from lab.mysql import MySQL
from lab.postfix import Postfix, write_cold
from lab.smtp import Load

from ..conftest import only_host
from .database import NEW, OLD, OTHER, SELECT, call, guide, needs_machines, pillar
from .test_accounts import CutProxy

A, B = "mailserver_a", "mailserver_b"
ADDRESSES = {"jack@example.org": 250, "john@example.org": 250, "nobody@example.org": 550}


@pytest.fixture(scope="module")
def mysql(directory):
    needs_machines()
    options = ["--log-raw=ON", "--log-error-verbosity=3"]
    with MySQL(directory / "mysql", general_log=directory / "mysql.log", options=options) as server:
        yield server


@pytest.fixture(scope="module")
def nodes(directory):
    with galera(directory / "galera") as found:
        yield found


@pytest.fixture
def node(nodes):
    return nodes[0]


in_a_cluster_too = pytest.mark.parametrize("server", ["mariadb", "mysql", "galera"], indirect=True)


@pytest.fixture(params=["mariadb", "mysql"])
def server(request):
    """One of the two, or a node of Galera, as it is before anything of ours, with the guide's tables."""
    found = request.getfixturevalue({"mariadb": "started", "mysql": "mysql", "galera": "node"}[request.param])
    found.kind = request.param
    found.sql("DROP DATABASE IF EXISTS mailserver")
    table = "user" if found.kind == "mysql" else "global_priv"
    for user, host in found.sql(
        f"SELECT User, Host FROM mysql.{table} WHERE User LIKE 'mailserver%%' OR User = 'boss'"
    ):
        found.sql("DROP USER %s@%s", user, host)
    guide(found)
    return found


@pytest.fixture
def mail(server):
    """A running Postfix: in a chroot where it has the server's login plugin there."""
    with scratch() as path, Postfix(path / "mail", chroot=server.kind != "mysql") as instance:
        yield instance


def two(server, user, password, postfix=None, rotation=None, **sections):
    """Pillar with both accounts."""
    found = pillar(server, password)
    found["ispmail"].update(sections)
    found["ispmail"]["database"]["user"] = user
    found["ispmail"]["rotation"] = {"method": "two_accounts"} if rotation is None else rotation
    if postfix:
        found["ispmail"]["postfix"] = {"config_directory": str(postfix.config_directory)}
        found["ispmail"]["database"].update(only_host())
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
    certificate = r"ISSUER '/CN=a''b\\c' AND SUBJECT '/CN=50%%' AND CIPHER 'AES'"
    server.sql(f"ALTER USER {A}@'{HOST}' REQUIRE {certificate} WITH MAX_USER_CONNECTIONS 500", *())
    minion.pillar = two(server, B, NEW)
    call(minion, "credential_accepted")
    grants = {user: [row[0] for row in server.sql(f"SHOW GRANTS FOR {user}@'{HOST}'")] for user in (A, B)}
    shown = {
        user: sorted(re.sub(r" IDENTIFIED BY PASSWORD '\S+'", "", one).replace(A, B) for one in lines)
        for user, lines in grants.items()
    }
    assert shown[A] == shown[B] and len(shown[B]) == 4
    columns = "Host, ssl_type, ssl_cipher, x509_issuer, x509_subject, max_questions, max_user_connections"
    (first,), (second,) = (server.sql(f"SELECT {columns} FROM mysql.user WHERE User = '{user}'") for user in (A, B))
    assert first == second and str(first[-1]) == "500" and b"b" in bytes(str(first[3]), "utf-8")
    for user in (A, B):
        server.sql(f"ALTER USER {user}@'{HOST}' REQUIRE NONE")
    call(minion, "credential_sole")
    # A grant that is new on the one is given to the other at its turn; one of its own it keeps.
    server.sql(f"GRANT DELETE ON mailserver.more TO {B}@'{HOST}'")
    minion.pillar = two(server, A, OTHER)
    (change,) = call(minion, "credential_accepted")["changes"].values()
    assert change["grants"]["new"][-2] == "DELETE ON `mailserver`.`more`"


def test_the_idle_account_s_demands_are_of_an_earlier_time(minion, server):
    """The account in use got a limit back that it had been freed of; and an old one stayed with the account opened."""
    limit = "WITH MAX_USER_CONNECTIONS 3 MAX_QUERIES_PER_HOUR 7"
    server.sql(f"ALTER USER {A}@'{HOST}' REQUIRE SSL {limit}")
    minion.pillar = two(server, B, NEW)
    call(minion, "credential_accepted")
    server.sql(f"ALTER USER {A}@'{HOST}' ACCOUNT LOCK")
    freed = "REQUIRE NONE WITH MAX_USER_CONNECTIONS 0 MAX_QUERIES_PER_HOUR 0"
    server.sql(f"ALTER USER {B}@'{HOST}' {freed}")
    server.sql(f"GRANT INSERT ON mailserver.virtual_users TO {A}@'{HOST}'")
    assert call(minion, "account")["changes"] == {} == call(minion, "credential_accepted")["changes"]
    # A part that the other one does not demand goes too, and then nothing is left to do.
    server.sql(f"ALTER USER {B}@'{HOST}' REQUIRE NONE WITH MAX_QUERIES_PER_HOUR 9")
    minion.pillar = two(server, A, OTHER)
    call(minion, "credential_accepted")
    columns = "ssl_type, max_questions, max_user_connections"
    (first,), (second,) = (server.sql(f"SELECT {columns} FROM mysql.user WHERE User = '{user}'") for user in (A, B))
    assert first == second
    assert call(minion, "credential_accepted")["changes"] == {} == call(minion, "account")["changes"]


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
            with pytest.raises(open_.OperationalError, match="1142"):
                cursor.execute("SELECT COUNT(*) FROM virtual_users")


def test_no_log_of_the_server_holds_a_password(minion, server, directory):
    """At its most talkative it has hashes only."""
    logs = [directory / ("general.log" if server.kind == "mariadb" else "mysql.log"), server.log_file]
    begin = [log.stat().st_size for log in logs]
    for user, password in ((B, NEW), (A, OTHER)):
        minion.pillar = two(server, user, password)
        call(minion, "credential_accepted")
        call(minion, "credential_sole")
    logged = b"".join(log.read_bytes()[start:] for log, start in zip(logs, begin))
    assert logged.count(b"ACCOUNT LOCK") == 2 and logged.count(b"ACCOUNT UNLOCK") == 1
    assert not [secret for secret in (OLD, NEW, OTHER) if secret.encode() in logged]


HOSTS = ["127.0.0.1", "127.0.0.2"]


@pytest.mark.parametrize("server", ["mariadb"], indirect=True)
@pytest.mark.parametrize(
    ("function", "statement", "number", "left"),
    [
        # Between the account and its rights; at the second account; at the second lock.
        ("credential_accepted", b"GRANT", 1, [f"{B}@127.0.0.1", f"{B}@127.0.0.2"]),
        ("credential_accepted", b"CREATE USER", 2, [f"{B}@127.0.0.2"]),
        ("credential_sole", b"ALTER USER", 2, [f"{A}@127.0.0.2"]),
    ],
)
def test_a_connection_that_is_lost_is_gone_on_from(server, directory, function, statement, number, left):
    def at(user, password, socket=server.socket):
        found = two(server, user, password)
        found["ispmail"]["server"] = {"unix_socket": str(socket), "accounts_host": HOSTS}
        return found

    path = directory / f"{function}-{number}.sock"
    new, cut = at(B, NEW), at(B, NEW, path)
    with scratch() as folder:
        minion = Minion(folder, at(A, OLD))
        call(minion, "account")
        if function == "credential_sole":
            minion.pillar = new
            call(minion, "credential_accepted")
        minion.pillar = cut
        with CutProxy(path, server.socket, statement, number), pytest.raises(CommandExecutionError) as caught:
            call(minion, function)
        assert f"run {function} again, it goes on from there" in str(caught.value)
        assert logs_in(server, A, OLD) or function == "credential_sole"
        minion.pillar = new
        assert sorted(call(minion, function)["changes"]) == left
        assert call(minion, function)["changes"] == {}
        found = call(minion, "read")
        assert [account["grants"] for account in found["accounts"].values()] == [SELECT] * 2
        assert [account["locked"] for account in found["pair"].values()] == [function == "credential_sole"] * 2


# The end of the other account, `rotation:keep`.

DROPPED = {f"{A}@{HOST}": {"account": {"old": "locked", "new": "dropped"}}}
BEGINS = {f"{A}@{HOST}": {"locked since": {"old": None, "new": "now"}}}
LOCKED = {"locked": {"old": False, "new": True}}


def keeping(server, keep, user=B, password=NEW):
    return two(server, user, password, rotation={"method": "two_accounts", "keep": keep})


def hosts_of(server, user):
    table = "user" if server.kind == "mysql" else "global_priv"
    return sorted(host for (host,) in server.sql(f"SELECT Host FROM mysql.{table} WHERE User = %s", user))


@in_a_cluster_too
def test_the_locked_account_is_dropped_after_its_time(minion, server):
    """Not before; by the step that locks it; the next rotation makes it again, equal to the one in use."""
    minion.pillar = keeping(server, "1h")
    call(minion, "credential_accepted")
    would = call(minion, "credential_sole", test=True)
    assert call(minion, "credential_sole") == would == {"changes": {f"{A}@{HOST}": LOCKED}, "warnings": []}
    time.sleep(2.1)
    nothing = {"changes": {}, "warnings": []}
    assert call(minion, "credential_sole") == call(minion, "account") == nothing
    assert not logs_in(server, A, OLD)
    minion.pillar = keeping(server, "2s")
    would = call(minion, "credential_sole", test=True)
    assert accounts(minion) == {f"{B}@{HOST}": False, f"{A}@{HOST}": True}
    assert call(minion, "credential_sole") == would == {"changes": DROPPED, "warnings": []}
    assert hosts_of(server, A) == [] and logs_in(server, B, NEW)
    assert call(minion, "credential_sole") == call(minion, "account") == nothing
    read = call(minion, "read")
    assert (list(read["accounts"]), read["pair"], read["others"]) == ([f"{B}@{HOST}"], {}, {})
    server.sql(f"GRANT INSERT ON mailserver.virtual_users TO {B}@'{HOST}'")
    server.sql(f"ALTER USER {B}@'{HOST}' REQUIRE SSL WITH MAX_USER_CONNECTIONS 7")
    minion.pillar = keeping(server, "2s", A, OTHER)
    call(minion, "credential_accepted")
    columns = "ssl_type, max_user_connections, plugin"
    first, second = (server.sql(f"SELECT {columns} FROM mysql.user WHERE User = '{user}'") for user in (A, B))
    assert first == second
    assert call(minion, "read")["accounts"][f"{A}@{HOST}"]["grants"][1] == "INSERT ON `mailserver`.`virtual_users`"
    server.sql(f"ALTER USER {A}@'{HOST}' REQUIRE NONE")
    call(minion, "credential_sole")
    assert logs_in(server, A, OTHER) and accounts(minion) == {f"{A}@{HOST}": False, f"{B}@{HOST}": True}


def test_ispmail_database_drops_it_too(minion, server):
    minion.pillar = keeping(server, "1s")
    call(minion, "credential_accepted")
    call(minion, "credential_sole")
    time.sleep(1.1)
    (would,) = (state for name, state in minion.apply("ispmail.database", test=True).items() if "account" in name)
    assert would["result"] is None and would["changes"] == DROPPED and hosts_of(server, A) == [HOST]
    (done,) = (state for name, state in minion.apply("ispmail.database").items() if "account" in name)
    assert done["result"] is True and done["changes"] == DROPPED and hosts_of(server, A) == []


@in_a_cluster_too
def test_the_time_begins_with_a_lock_of_ours(minion, server):
    """An account that was locked before keep was in pillar, or by hand, had been dropped at once: no server knows when
    that was. So has one whose rotation was cut off between its two steps, and resumed a long time later."""
    minion.pillar = two(server, B, NEW)
    call(minion, "credential_accepted")
    time.sleep(1.1)
    call(minion, "credential_sole")
    time.sleep(1.1)
    minion.pillar = keeping(server, "1s")
    for function in ("account", "credential_sole"):
        assert call(minion, function, test=True)["changes"] == BEGINS
    assert call(minion, "account") == {"changes": BEGINS, "warnings": []}
    assert accounts(minion)[f"{A}@{HOST}"] is True
    time.sleep(1.1)
    assert call(minion, "account")["changes"] == DROPPED


@in_a_cluster_too
def test_the_way_back_by_hand_keeps_the_password(minion, server):
    """The lock that is remembered sets the password that the account has; on a MySQL, a retained one stays too."""
    minion.pillar = keeping(server, "1w")
    call(minion, "credential_accepted")
    call(minion, "credential_sole")
    server.sql(f"ALTER USER {A}@'{HOST}' ACCOUNT UNLOCK")
    assert logs_in(server, A, OLD) and logs_in(server, B, NEW)


@in_a_cluster_too
def test_all_passwords_of_a_locked_account_stay(minion, server):
    second = f"IDENTIFIED BY '{OTHER}' RETAIN CURRENT PASSWORD"
    if server.kind != "mysql":
        second = " OR ".join(f"mysql_native_password USING '{native_hash(text)}'" for text in (OTHER, OLD))
        second = f"IDENTIFIED VIA {second}"
    server.sql(f"ALTER USER {A}@'{HOST}' {second}")
    minion.pillar = keeping(server, "1w")
    call(minion, "credential_accepted")
    call(minion, "credential_sole")
    server.sql(f"ALTER USER {A}@'{HOST}' ACCOUNT UNLOCK")
    assert logs_in(server, A, OLD) and logs_in(server, A, OTHER)


def test_without_keep_the_locked_account_stays(minion, server):
    minion.pillar = two(server, B, NEW)
    call(minion, "credential_accepted")
    call(minion, "credential_sole")
    time.sleep(1.1)
    assert call(minion, "credential_sole") == call(minion, "account") == {"changes": {}, "warnings": []}
    assert hosts_of(server, A) == [HOST]


def test_keep_nothing_drops_in_the_same_step(minion, server):
    minion.pillar = keeping(server, 0)
    call(minion, "credential_accepted")
    assert call(minion, "account")["changes"] == {} and logs_in(server, A, OLD)
    would = call(minion, "credential_sole", test=True)
    assert logs_in(server, A, OLD)
    changes = {f"{A}@{HOST}": {**LOCKED, **DROPPED[f"{A}@{HOST}"]}}
    assert call(minion, "credential_sole") == would == {"changes": changes, "warnings": []}
    assert hosts_of(server, A) == []


@pytest.mark.parametrize("server", ["galera"], indirect=True)
def test_in_a_cluster_nothing_is_dropped_at_once(minion, server, nodes):
    """A node does not see who is connected to another one, whose queries failed (error 1142). They are given time."""
    other = nodes[1]
    for statement in ("REVOKE SELECT ON mailserver.* FROM", "GRANT SELECT ON mailserver.virtual_users TO"):
        server.sql(f"{statement} {A}@'{HOST}'")
    minion.pillar = keeping(server, 0)
    call(minion, "credential_accepted")
    asked = "SELECT email FROM virtual_users"
    with (
        contextlib.closing(pymysql.connect(host=HOST, port=other.port, user=A, password=OLD, db="mailserver")) as there,
        there.cursor() as cursor,
    ):
        for changes in ({f"{A}@{HOST}": LOCKED}, {}):
            assert call(minion, "credential_sole") == {
                "changes": changes,
                "warnings": [
                    f"{A}@{HOST} was to be dropped (ispmail:rotation:keep), and stays, locked: the server is one of 2 "
                    "nodes of a Galera cluster, and connections to the others are not seen: give these time to end "
                    "(ispmail:rotation:keep: 1d)"
                ],
            }
        assert cursor.execute(asked) == 1 and not logs_in(other, A, OLD)
    # Each node knows since when it is locked, and can end it.
    minion.pillar = keeping(server, "1s")
    assert call(minion, "credential_sole")["changes"] == BEGINS
    time.sleep(1.1)
    minion.pillar = keeping(other, "1s")
    assert call(minion, "credential_sole") == {"changes": DROPPED, "warnings": []}
    assert hosts_of(server, A) == [] and logs_in(server, B, NEW) and logs_in(other, B, NEW)


def test_an_account_that_is_connected_is_not_dropped(minion, server):
    """Its queries would fail, see test_open_connections_of_a_locked_account_go_on."""
    minion.pillar = keeping(server, 0)
    call(minion, "credential_accepted")
    with contextlib.closing(pymysql.connect(host=HOST, port=server.port, user=A, password=OLD, db="mailserver")):
        for changes in ({f"{A}@{HOST}": LOCKED}, {}):
            found = call(minion, "credential_sole")
            assert found["changes"] == changes
            assert found["warnings"][-1] == (
                f"{A}@{HOST} was to be dropped (ispmail:rotation:keep), and stays, locked: connected now: 1 from "
                f"{HOST}: have these programs log in as pillar has it, or end them"
            )
        (warning,) = call(minion, "account")["warnings"]
        assert "connected now: 1 from" in warning and hosts_of(server, A) == [HOST]
        assert len(call(minion, "credential_sole", test=True)["warnings"]) == 2
    assert wait_until(lambda: call(minion, "account", test=True)["changes"] == DROPPED, 10)
    assert call(minion, "account") == {"changes": DROPPED, "warnings": []}


def test_what_is_needed_is_not_dropped(minion, server):
    """A view or trigger fails without its DEFINER (error 1449), whether or not that is locked."""
    minion.pillar = keeping(server, 0)
    call(minion, "credential_accepted")
    server.sql(f"CREATE DEFINER={A}@'{HOST}' VIEW mailserver.users AS SELECT email FROM mailserver.virtual_users")
    server.sql(
        f"CREATE DEFINER={A}@'{HOST}' TRIGGER mailserver.low BEFORE INSERT ON mailserver.virtual_users FOR EACH ROW "
        "SET NEW.email = LOWER(NEW.email)"
    )
    found = call(minion, "credential_sole")
    assert found["changes"] == {f"{A}@{HOST}": LOCKED}
    (warning,) = found["warnings"]
    for part in ("it is the DEFINER of ", "view mailserver.users", "trigger mailserver.low", ": give them another one"):
        assert part in warning
    server.sql("DROP VIEW mailserver.users")
    server.sql("DROP TRIGGER mailserver.low")
    if server.kind == "mysql":
        server.sql(f"CREATE USER mailserver_c@'{HOST}'")
        server.sql(f"GRANT {A}@'{HOST}' TO mailserver_c@'{HOST}'")
        (warning,) = call(minion, "credential_sole")["warnings"]
        assert f"mailserver_c@{HOST} has it as a role: give what is needed of it" in warning
        server.sql(f"REVOKE {A}@'{HOST}' FROM mailserver_c@'{HOST}'")
    assert call(minion, "credential_sole")["changes"] == DROPPED


def test_a_definer_that_only_matches_the_account_is_needed(minion, server):
    """A view failed (error 1449) whose DEFINER had another host than the account that stands for it."""
    server.sql(f"RENAME USER {A}@'{HOST}' TO {A}@'127.0.0.%'")
    minion.pillar = keeping(server, 0)
    call(minion, "credential_accepted")
    server.sql(f"CREATE DEFINER={A}@'127.0.0.7' VIEW mailserver.users AS SELECT email FROM mailserver.virtual_users")
    (warning,) = call(minion, "credential_sole")["warnings"]
    assert "it is the DEFINER of view mailserver.users: give them another one" in warning
    assert server.sql("SELECT email FROM mailserver.users") == (("john@example.org",),)
    server.sql("DROP VIEW mailserver.users")
    assert list(call(minion, "credential_sole")["changes"]) == [f"{A}@127.0.0.%"]


def test_an_account_that_another_one_may_act_as_is_needed(minion, server):
    """A lock does not keep proxies from it, and the server lists their connections by their own names."""
    minion.pillar = keeping(server, 0)
    call(minion, "credential_accepted")
    server.sql(f"CREATE USER mailserver_c@'{HOST}'")
    server.sql(f"GRANT PROXY ON {A}@'{HOST}' TO mailserver_c@'{HOST}'")
    (warning,) = call(minion, "credential_sole")["warnings"]
    assert f"mailserver_c@{HOST} may act as it: run REVOKE PROXY" in warning
    server.sql(f"REVOKE PROXY ON {A}@'{HOST}' FROM mailserver_c@'{HOST}'")
    assert call(minion, "credential_sole")["changes"] == DROPPED


def test_an_account_that_hides_an_open_one_is_not_dropped(minion, server):
    """Whoever had the old password could log in again: a server asks the next account of the user that matches."""
    server.sql(f"CREATE USER {A}@'127.0.0.%' IDENTIFIED BY '{OLD}'")
    found = keeping(server, 0)
    found["ispmail"]["server"]["accounts_host"] = HOST
    minion.pillar = found
    call(minion, "credential_accepted")
    warning = call(minion, "credential_sole")["warnings"][-1]
    assert warning == (
        f"{A}@{HOST} was to be dropped (ispmail:rotation:keep), and stays, locked: {A}@127.0.0.% is not locked, and "
        "may stand for the same clients: drop or lock that one, or add its host to server:accounts_host"
    )
    assert hosts_of(server, A) == ["127.0.0.%", HOST] and not logs_in(server, A, OLD)
    server.sql(f"DROP USER {A}@'127.0.0.%'")
    assert call(minion, "credential_sole")["changes"] == DROPPED


def as_boss(server, keep):
    """Pillar with an admin who may do less."""
    found = keeping(server, keep)
    found["ispmail"]["server"] = {"unix_socket": str(server.socket), "user": "boss", "password": OTHER}
    return found


@pytest.mark.parametrize("server", ["mysql"], indirect=True)
def test_a_database_that_the_admin_does_not_see_may_need_it(minion, server):
    """partial_revokes: he has SELECT on *.*, but not there."""
    minion.pillar = keeping(server, 0)
    call(minion, "credential_accepted")
    server.sql(f"ALTER USER {A}@'{HOST}' ACCOUNT LOCK")
    server.sql("CREATE USER boss@localhost IDENTIFIED BY %s", OTHER)
    server.sql("SET GLOBAL partial_revokes = ON")
    try:
        server.sql(
            "GRANT SELECT, RELOAD, PROCESS, TRIGGER, EVENT, CREATE USER, SET_ANY_DEFINER, ALLOW_NONEXISTENT_DEFINER "
            "ON *.* TO boss@localhost"
        )
        server.sql("REVOKE SELECT, TRIGGER, EVENT ON mailserver.* FROM boss@localhost")
        server.sql(f"CREATE DEFINER={A}@'{HOST}' VIEW mailserver.users AS SELECT email FROM mailserver.virtual_users")
        minion.pillar = as_boss(server, 0)
        (warning,) = call(minion, "credential_sole")["warnings"]
        assert "cannot be seen in all databases: SELECT, TRIGGER, EVENT was revoked from the admin in some" in warning
    finally:
        server.sql("DROP USER boss@localhost")
        server.sql("SET GLOBAL partial_revokes = OFF")
    assert hosts_of(server, A) == [HOST]


def test_an_account_that_cannot_be_marked_fails_nothing(minion, server):
    """It is locked. With keep, each rotation and each ispmail.database had failed."""
    minion.pillar = keeping(server, 0)
    call(minion, "credential_accepted")
    server.sql(f"ALTER USER {A}@'{HOST}' ACCOUNT LOCK")
    server.sql("CREATE USER boss@localhost IDENTIFIED BY %s", OTHER)
    server.sql("GRANT SELECT, RELOAD, PROCESS ON *.* TO boss@localhost")
    minion.pillar = as_boss(server, "7d")
    for function in ("credential_sole", "account"):
        found = call(minion, function)
        assert found["changes"] == {}
        assert found["warnings"][-1] == (
            f"{A}@{HOST} was to be dropped (ispmail:rotation:keep), and stays, locked: the server refused to keep "
            "since when it is locked (error 1227): use an admin who may run ALTER USER for it, or drop it by hand"
        )


@pytest.mark.parametrize("server", ["mariadb"], indirect=True)
def test_an_admin_who_does_not_see_drops_nothing(minion, server):
    """Who is connected, or what has the account as its DEFINER. A refusal fails no rotation: the account is locked."""
    minion.pillar = keeping(server, 0)
    call(minion, "credential_accepted")
    server.sql(f"CREATE USER boss@'{HOST}' IDENTIFIED BY %s", OTHER)
    server.sql(f"GRANT SELECT, RELOAD ON *.* TO boss@'{HOST}'")
    server.sql(f"GRANT UPDATE ON mysql.* TO boss@'{HOST}'")
    poor = {"host": HOST, "port": server.port, "user": "boss", "password": OTHER}
    server.sql(f"ALTER USER {A}@'{HOST}' ACCOUNT LOCK")
    minion.pillar = {"ispmail": {**keeping(server, 0)["ispmail"], "server": poor}}
    (warning,) = call(minion, "credential_sole")["warnings"]
    assert "who is connected cannot be seen without the privilege PROCESS" in warning
    assert "give the admin that privilege" in warning
    server.sql(f"GRANT PROCESS ON *.* TO boss@'{HOST}'")
    (warning,) = call(minion, "credential_sole")["warnings"]
    assert "what has it as its DEFINER cannot be seen: give the admin TRIGGER, EVENT on *.*, or look by hand" in warning
    server.sql(f"GRANT TRIGGER, EVENT ON *.* TO boss@'{HOST}'")
    (warning,) = call(minion, "credential_sole")["warnings"]
    assert "the server refused to drop it (error 1227): run DROP USER by hand to see the reason" in warning
    assert hosts_of(server, A) == [HOST]
    server.sql(f"GRANT CREATE USER ON *.* TO boss@'{HOST}'")
    assert call(minion, "credential_sole") == {"changes": DROPPED, "warnings": []}


@pytest.mark.parametrize("server", ["mariadb"], indirect=True)
def test_a_drop_that_is_cut_off_is_gone_on_from(server, directory):
    """Each host is an account of its own; one that pillar does not mean is left alone."""

    def at(user, password, socket=server.socket):
        found = keeping(server, 0, user, password)
        found["ispmail"]["server"] = {"unix_socket": str(socket), "accounts_host": HOSTS}
        return found

    path = directory / "drop.sock"
    with scratch() as folder:
        minion = Minion(folder, at(A, OLD))
        call(minion, "account")
        server.sql(f"CREATE USER {A}@'127.0.0.3' ACCOUNT LOCK")
        minion.pillar = at(B, NEW)
        call(minion, "credential_accepted")
        minion.pillar = at(B, NEW, path)
        with CutProxy(path, server.socket, b"DROP USER", 2), pytest.raises(CommandExecutionError) as caught:
            call(minion, "credential_sole")
        assert "run credential_sole again, it goes on from there" in str(caught.value)
        minion.pillar = at(B, NEW)
        assert list(call(minion, "credential_sole")["changes"]) == [f"{A}@127.0.0.2"]
        assert hosts_of(server, A) == ["127.0.0.3"]


def test_the_account_in_use_is_never_dropped(minion, server):
    """While pillar's user is not open, the other one is in use, locked or not."""
    minion.pillar = two(server, B, NEW)
    call(minion, "account")
    for user in (A, B):
        server.sql(f"ALTER USER {user}@'{HOST}' ACCOUNT LOCK")
    minion.pillar = keeping(server, 0)
    assert call(minion, "account")["changes"] == {}
    with pytest.raises(CommandExecutionError, match="clients would be locked out"):
        call(minion, "credential_sole")
    assert hosts_of(server, A) == [HOST]


# What mail sees.


def applied(minion):
    return minion.apply()["postfix_map.managed"]


def rotated(minion):
    """The three steps, as an orchestration does them; each has to succeed before the next."""
    call(minion, "credential_accepted")
    assert applied(minion)["result"] is True
    assert {state["result"] for state in minion.apply("ispmail.drained").values()} == {True}
    return call(minion, "credential_sole")


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


# Who else uses them, before a rotation and in its proof.


@pytest.fixture
def trees(monkeypatch):
    """An empty folder that is searched in place of /etc and so on."""
    with scratch() as path:
        monkeypatch.setattr(_ispmail_search, "TREES", [str(path)])
        yield path


@contextlib.contextmanager
def foreign_client(server, user, password):
    """A program that nobody has named, connected for as long as this lasts."""
    command = ["mariadb", "--no-defaults", f"--host={HOST}", f"--port={server.port}", f"--user={user}"]
    environment = {**os.environ, "MYSQL_PWD": password}
    client = subprocess.Popen([*command, "--execute=SELECT SLEEP(60)"], env=environment, stdout=subprocess.DEVNULL)
    try:
        sleeping = "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE INFO = 'SELECT SLEEP(60)'"
        assert wait_until(lambda: server.sql(sleeping) == ((1,),), 10)
        yield client
    finally:
        client.kill()
        client.wait()


def unnamed(minion, **options):
    found = call(minion, "holders", **options)
    assert not [secret for secret in (OLD, NEW, OTHER) if secret in str(found)]
    return [holder["text"] for holder in found["unnamed"]]


@pytest.mark.parametrize("server", ["mariadb"], indirect=True)
def test_who_else_uses_the_account_that_is_to_be_locked(minion, server, mail, trees):
    """Files and programs as for two passwords; when the servers have the new account, programs of the old one too."""
    minion.pillar = two(server, A, OLD, mail)
    assert applied(minion)["result"] is True
    (trees / "script").write_text(f"mysql -u {A} -p{OLD}\n")
    minion.pillar = two(server, B, NEW, mail)
    with foreign_client(server, A, OLD) as client:
        files, programs = sorted(unnamed(minion, search="old"), key=lambda text: f"mariadb (pid {client.pid}" in text)
        assert f"{trees}/script holds the password in use" in files
        assert f"mariadb (pid {client.pid}, " in programs and f"is connected as {A}: name it in programs" in programs
        (trees / "script").unlink()
        call(minion, "credential_accepted")
        assert applied(minion)["result"] is True
        assert {state["result"] for state in minion.apply("ispmail.drained").values()} == {True}
        # The mail server cannot list its connections any more. The database server can.
        assert unnamed(minion, search="none") == []
        found = call(minion, "holders", search="none", site_hosts=[])
        (connection,) = found["connections"]
        assert connection.startswith(f"{HOST}:") and len(found["unnamed"]) == 1
        (program,) = unnamed(minion, search="none", connections=[connection])
        assert f"mariadb (pid {client.pid}, " in program and f"is connected as {A}: " in program
    assert wait_until(lambda: "connections" not in call(minion, "holders", search="none", site_hosts=[]), 10)
    for wrong in (None, "127.0.0.1:1", ["127.0.0.1"], [1], ["127.0.0.1:²"]):
        with pytest.raises(
            SaltInvocationError, match=r"connections must be a list of texts such as 192\.0\.2\.1:40000"
        ):
            call(minion, "holders", connections=wrong)


@pytest.mark.parametrize("server", ["mariadb"], indirect=True)
def test_a_table_that_names_either_account(minion, server, mail, trees):
    minion.pillar = two(server, A, OLD, mail)
    assert applied(minion)["result"] is True
    for user in (A, B):
        table = trees / f"{user}.cf"
        write_cold(
            table, f"user = {user}\npassword = x\nhosts = {HOST}:{server.port}\ndbname = mailserver\nquery = x\n"
        )
        subprocess.run(["postconf", "-c", mail.config_directory, f"relocated_maps=mysql:{table}"], check=True)
        (text,) = unnamed(minion)
        assert text.startswith(
            f"the table {table}, which relocated_maps asks, logs in as {user} and is not a map of pillar"
        )


@pytest.mark.parametrize("server", ["mariadb"], indirect=True)
@pytest.mark.parametrize("rotation", [{}, {"method": "two_accounts", "accounts": [B, "third"]}])
def test_a_new_user_without_a_pair_that_has_the_old_one_is_told_what_to_do(minion, server, mail, trees, rotation):
    """By two passwords the old account stayed open, with its password, and nobody was told."""
    minion.pillar = two(server, A, OLD, mail)
    assert applied(minion)["result"] is True
    minion.pillar = two(server, B, NEW, mail, rotation=rotation)
    (text,) = unnamed(minion, search="old")
    names = f"{B} or third" if rotation else B
    assert text == (
        f"{mail.config_directory}/mariadb-virtual-mailbox-domains.cf logs in as {A}, and pillar has {names}: a "
        "rotation changes the user only from one of two accounts to the other: set rotation:method to two_accounts, "
        "and name both in rotation:accounts (docs/rotation.md)"
    )
    with pytest.raises(CommandExecutionError, match="does not exist"):
        call(minion, "credential_accepted")


@pytest.mark.parametrize("server", ["mariadb"], indirect=True)
def test_the_proof_and_the_beacons_question(minion, server, mail):
    """A login is a user and a password; a locked one is refused."""
    nonce = "0123456789abcdef"
    minion.pillar = two(server, A, OLD, mail)
    assert applied(minion)["result"] is True
    # The same password: only the user differs.
    minion.pillar = two(server, B, OLD, mail)
    prints = minion.call("postfix_map.fingerprints", nonce)
    assert len(prints["live"]) == 3 and not set(prints["live"].values()) & set(prints["pillar"].values())
    rotated(minion)
    prints = minion.call("postfix_map.fingerprints", nonce)
    assert prints["live"] == prints["pillar"] and call(minion, "refused") == []
    # A map that pillar keeps on the other account is no proof.
    kept = two(server, B, OLD, mail, maps={"virtual_alias_maps": {"user": A}})
    minion.pillar = kept
    assert len(set(minion.call("postfix_map.fingerprints", nonce)["pillar"].values())) == 2
    server.sql(f"ALTER USER {B}@'{HOST}' ACCOUNT LOCK")
    (refused,) = call(minion, "refused")
    assert refused["user"] == B and len(refused["maps"]) == 3


def test_the_doctor(minion, server, mail, trees):
    """It warns of an idle account that is open, and not of one that is locked."""
    server.sql("SET GLOBAL max_connections = 1000")
    minion.pillar = two(server, A, OLD, mail)
    assert applied(minion)["result"] is True

    def rows():
        return {row["check"]: row for row in minion.call("postfix_doctor.check") if row["result"] != "ok"}

    assert rows() == {}
    minion.pillar = two(server, B, NEW, mail)
    call(minion, "credential_accepted")
    assert applied(minion)["result"] is True
    (row,) = rows().values()
    assert (row["check"], row["where"]) == ("the idle account of the pair is locked", f"{A}@{HOST}")
    assert "a rotation is under way, or was interrupted and has to be started again" in row["fix"]
    call(minion, "credential_sole")
    assert rows() == {}


# A consumer.


@pytest.mark.parametrize("server", ["mariadb"], indirect=True)
def test_dovecot_in_rotations_under_load(minion, server, mail, trees, capsys):
    """It reads its option file at each new login. A connection that it has open by the old account hinders nothing."""
    server.sql("UPDATE mailserver.virtual_users SET password = '{PLAIN}mailPw'")
    with scratch() as path:
        file = path / "dovecot" / "etc" / "ispmail.cnf"
        instance = Dovecot(path / "dovecot", server.port, option_file=str(file))
        file.write_text(f'[client]\nuser="{A}"\npassword="{OLD}"\n')
        consumers = {"dovecot": {"option_file": str(file), "config_file": str(instance.config_file)}}

        def take(user, password):
            minion.pillar = two(server, user, password, mail, consumers=consumers)

        take(A, OLD)
        with instance:
            assert all(state["result"] for state in minion.apply("ispmail").values())
            rcpts = Load(mail.port, ADDRESSES, rate=100)
            with rcpts, MailLoad(instance.imap_port, instance.lmtp_port, "john@example.org", "mailPw") as load:
                kept = []
                for user, password in ((B, NEW), (A, OTHER), (B, OLD)):
                    take(user, password)
                    assert unnamed(minion, search="old", site_hosts=[]) == []
                    call(minion, "credential_accepted")
                    assert {state["result"] for state in minion.apply("ispmail.drained").values()} == {True}
                    found = call(minion, "holders", search="none", site_hosts=[])
                    assert found["unnamed"] == []
                    assert unnamed(minion, search="none", connections=found.get("connections", [])) == []
                    kept += found.get("connections", [])
                    call(minion, "credential_sole")
                    time.sleep(1)
                report, counts = rcpts.stop(), load.counts()
            with capsys.disabled():
                print(f"\n3 rotations by two accounts with Dovecot: {report}; {dict(counts)}")
            assert counts["failed logins"] == counts["failed mails"] == report.failed == 0, (counts, report.examples)
            assert counts["logins"] > 50 and counts["mails"] > 20 and report.count > 500
            assert kept, "nothing was open by the old account: nothing is shown here"
            assert instance.restart().login("john@example.org", "mailPw") == "ok"
