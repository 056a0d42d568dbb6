"""Rotations by two accounts on a real PostgreSQL: what is done there, and what mail notices of it."""

import contextlib
import os
import subprocess
import time

import pytest
from salt.exceptions import CommandExecutionError, SaltInvocationError

import _ispmail_search
from lab import HOST, scratch, wait_until
from lab.minion import Minion
from lab.postgresql import PostgreSQL

from ..conftest import only_host
from .database import NEW, OLD, OTHER, call, needs_machines
from .pgsql import JOHN, MAPS, ROWS, pillar, untouched

A, B = "mailserver_a", "mailserver_b"


def two(server, user, password, postfix=None, /, **sections):
    """Pillar with one of two accounts: nothing has to be said of rotations."""
    maps = {name: {"type": "pgsql"} for name in MAPS}
    found = pillar(server, password, postfix, maps, {"user": user})
    found["ispmail"].update(sections)
    if postfix:
        found["ispmail"]["database"].update(only_host())
    return found


@pytest.fixture(scope="module")
def newest():
    needs_machines()
    with scratch() as path, PostgreSQL(path / "db", release="forky", max_connections="900") as server:
        yield server


@pytest.fixture(params=["installed", "newest"])
def server(request):
    """This machine's and Debian 14's: from 16 on who makes a role is its member, and CREATEROLE alone is not enough."""
    found = request.getfixturevalue("started_postgresql" if request.param == "installed" else "newest")
    untouched(found)
    return found


@pytest.fixture
def minion(server):
    """One whose pillar has mailserver_a, which is made."""
    with scratch() as path:
        minion = Minion(path, two(server, A, OLD))
        minion.apply("ispmail.database")
        server.sql(ROWS, "mailserver")
        yield minion


@pytest.fixture
def trees(monkeypatch):
    """An empty folder that is searched in place of /etc and so on."""
    with scratch() as path:
        monkeypatch.setattr(_ispmail_search, "TREES", [str(path)])
        yield path


def may_log_in(server):
    return dict(server.sql("SELECT rolname, rolcanlogin FROM pg_roles WHERE rolname LIKE 'mailserver%'"))


def logs_in(server, user, password):
    return server.logs_in(user, password, "mailserver")


def applied(minion):
    return minion.apply()["postfix_map.managed"]


def rotated(minion):
    """The three steps, as an orchestration does them; each has to succeed before the next."""
    call(minion, "credential_accepted")
    done = applied(minion)
    assert done["result"] is True, done["comment"]
    assert {state["result"] for state in minion.apply("ispmail.drained").values()} == {True}
    return call(minion, "credential_sole")


def test_a_rotation_there_and_back(minion, server):
    assert may_log_in(server) == {A: "t"}
    minion.pillar = two(server, B, NEW)
    would = call(minion, "credential_accepted", test=True)
    assert may_log_in(server) == {A: "t"}
    assert call(minion, "credential_accepted") == would
    assert would["changes"][B]["account"] == {"old": None, "new": "made"} and would["warnings"] == []
    assert call(minion, "credential_accepted") == {"changes": {}, "warnings": []}
    assert logs_in(server, A, OLD) and logs_in(server, B, NEW)
    rows = "SELECT destination FROM virtual_aliases"
    assert server.sql_as(B, NEW, rows, "mailserver") == server.sql_as(A, OLD, rows, "mailserver") == [(JOHN,)]
    server.sql("CREATE TABLE later AS SELECT 1 AS a", "mailserver")
    assert server.sql_as(B, NEW, "SELECT a FROM later", "mailserver") == [("1",)]
    assert call(minion, "read")["pair"] == {A: {"locked": False, "connections": {}}}
    would = call(minion, "credential_sole", test=True)
    assert may_log_in(server) == {A: "t", B: "t"}
    assert (
        call(minion, "credential_sole")
        == would
        == {"changes": {A: {"locked": {"old": False, "new": True}}}, "warnings": []}
    )
    assert may_log_in(server) == {A: "f", B: "t"}
    assert call(minion, "credential_sole")["changes"] == {}
    read = call(minion, "read")
    assert (list(read["accounts"]), read["pair"], read["others"]) == ([B], {A: {"locked": True, "connections": {}}}, {})
    minion.pillar = two(server, A, OTHER)
    locked = {"password": {"old": "***", "new": "***"}, "locked": {"old": True, "new": False}}
    assert call(minion, "credential_accepted")["changes"] == {A: locked}
    assert logs_in(server, A, OTHER) and logs_in(server, B, NEW)
    call(minion, "credential_sole")
    assert may_log_in(server) == {A: "t", B: "f"} and logs_in(server, A, OTHER)


def test_the_password_alone_is_not_changed(minion, server):
    minion.pillar = two(server, A, NEW)
    with pytest.raises(CommandExecutionError) as caught:
        call(minion, "credential_accepted")
    assert str(caught.value) == (
        "Nothing was changed: mailserver_a is the account in use, and accepts another password than pillar's: with "
        "two_accounts, user and password change together. Write user: mailserver_b into pillar, beside the new password"
    )
    assert logs_in(server, A, OLD)
    with pytest.raises(CommandExecutionError, match="does not accept pillar's password yet, clients would be locked"):
        call(minion, "credential_sole")


def test_an_account_that_somebody_may_use_keeps_its_password(minion, server):
    server.sql(f"CREATE ROLE {B} LOGIN PASSWORD '{OTHER}'")
    minion.pillar = two(server, B, NEW)
    with pytest.raises(CommandExecutionError, match=r"somebody may use it \(nobody is connected now\): if a rotation"):
        call(minion, "credential_accepted")
    assert logs_in(server, B, OTHER)
    server.sql(f"ALTER ROLE {B} NOLOGIN")
    assert list(call(minion, "credential_accepted")["changes"]) == [B]
    assert logs_in(server, B, NEW)


def test_a_user_who_is_none_of_two_is_told_what_to_do(minion, server):
    """One account is enough until the password is to be changed. It can be one of the two."""
    minion.pillar = two(server, "mailserver", OLD)
    minion.apply("ispmail.database")
    for function in ("credential_accepted", "credential_sole"):
        with pytest.raises(SaltInvocationError) as caught:
            call(minion, function)
        assert "ispmail:rotation:accounts is missing, and has a default only where database:user ends in" in str(
            caught.value
        )
    minion.pillar = two(server, A, NEW, rotation={"accounts": ["mailserver", "x"]})
    with pytest.raises(SaltInvocationError, match="ispmail:database:user is none of rotation:accounts"):
        call(minion, "credential_accepted")
    minion.pillar = two(server, "mail2", NEW, rotation={"accounts": ["mailserver", "mail2"]})
    call(minion, "credential_accepted")
    assert logs_in(server, "mail2", NEW) and logs_in(server, "mailserver", OLD)


def test_both_may_do_the_same(minion, server):
    """A site's own schema, found by search_path, a column, a function and a role."""
    server.sql(
        f"""
        CREATE SCHEMA mail; CREATE TABLE mail.here (a int, b int); CREATE ROLE readers;
        GRANT USAGE ON SCHEMA mail TO {A}; GRANT SELECT (a) ON mail.here TO {A}; GRANT readers TO {A};
        CREATE FUNCTION mail.one() RETURNS int LANGUAGE sql AS 'SELECT 1';
        REVOKE EXECUTE ON FUNCTION mail.one() FROM PUBLIC; GRANT EXECUTE ON FUNCTION mail.one() TO {A};
        GRANT INSERT ON virtual_users TO {A} WITH GRANT OPTION; ALTER ROLE {A} SET search_path = mail, public
        """,
        "mailserver",
    )
    minion.pillar = two(server, B, NEW)
    call(minion, "credential_accepted")
    asked = "SELECT a FROM here; SELECT mail.one(), pg_has_role('readers', 'MEMBER'),"
    asked += " has_table_privilege('virtual_users', 'INSERT WITH GRANT OPTION')"
    for user, password in ((A, OLD), (B, NEW)):
        assert server.sql_as(user, password, asked, "mailserver")[-1] == ("1", "t", "t")
    # What one was given meanwhile, the other one gets when it is opened.
    call(minion, "credential_sole")
    server.sql(f"CREATE TABLE mail.more (c int); GRANT SELECT ON mail.more TO {B}", "mailserver")
    minion.pillar = two(server, A, OTHER)
    assert call(minion, "credential_accepted")["changes"][A]["grants"] == {
        "old": [],
        "new": ["SELECT ON TABLE mail.more"],
    }
    assert server.sql_as(A, OTHER, "SELECT c FROM more", "mailserver") == []


@pytest.fixture
def dba(minion, server):
    """Pillar's login of an admin who is no superuser. The tables are his own, as with servers that others run."""
    server.sql("CREATE ROLE dba LOGIN CREATEROLE PASSWORD 'dbaSecret5'; GRANT pg_read_all_stats TO dba")
    server.sql(f"DROP OWNED BY {A}; DROP ROLE {A}", "mailserver")
    for table in ("virtual_domains", "virtual_users", "virtual_aliases"):
        server.sql(f"ALTER TABLE {table} OWNER TO dba", "mailserver")
    server.sql("ALTER DATABASE mailserver OWNER TO dba; ALTER SCHEMA public OWNER TO dba", "mailserver")
    return {"host": HOST, "port": server.port, "user": "dba", "password": "dbaSecret5"}


def test_an_admin_who_is_no_superuser(minion, server, dba):
    """He sees no verifiers: whether pillar's password is accepted is tried."""
    minion.pillar = two(server, A, OLD, server=dba)
    call(minion, "account")
    minion.pillar = two(server, B, NEW, server=dba)
    call(minion, "credential_accepted")
    assert logs_in(server, B, NEW) and call(minion, "credential_accepted")["changes"] == {}
    call(minion, "credential_sole")
    assert may_log_in(server) == {A: "f", B: "t"}


@pytest.mark.parametrize("server", ["newest"], indirect=True)
def test_a_rotation_that_could_not_be_ended_is_not_begun(minion, server, dba):
    """All servers had the new account when the server refused to lock the old one, which a superuser had made."""
    server.sql(f"CREATE ROLE {A} LOGIN PASSWORD '{OLD}'")
    minion.pillar = two(server, A, OLD, server=dba)
    call(minion, "account")
    minion.pillar = keeping(server, 0, server=dba)
    with pytest.raises(CommandExecutionError) as caught:
        call(minion, "credential_accepted")
    assert str(caught.value) == (
        f"Nothing was changed: {B} cannot take the place of {A}, which the admin may not lock: have a superuser run "
        f'GRANT "{A}" TO "dba" WITH ADMIN OPTION'
    )
    assert may_log_in(server) == {A: "t"}
    server.sql(f"GRANT {A} TO dba WITH ADMIN OPTION")
    call(minion, "credential_accepted")
    assert call(minion, "credential_sole") == {"changes": {A: {**LOCKED, **DROPPED[A]}}, "warnings": []}
    assert may_log_in(server) == {B: "t"}


@pytest.mark.parametrize("server", ["newest"], indirect=True)
def test_a_membership_is_given_as_it_is(minion, server):
    """One by which a role has not the group's rights was given as one by which it has them."""
    server.sql(
        f"""
        CREATE ROLE quiet; CREATE ROLE fixed; CREATE ROLE boss; GRANT quiet TO {A} WITH INHERIT FALSE;
        GRANT fixed TO {A} WITH SET FALSE; GRANT boss TO {A} WITH ADMIN OPTION, INHERIT FALSE, SET FALSE
        """
    )
    minion.pillar = keeping(server, "1h")
    call(minion, "credential_accepted")
    options = "SELECT roleid::regrole, admin_option, inherit_option, set_option FROM pg_auth_members"
    of_a, of_b = (sorted(server.sql(f"{options} WHERE member = '{name}'::regrole")) for name in (A, B))
    assert of_a == of_b == [("boss", "t", "f", "f"), ("fixed", "f", "t", "f"), ("quiet", "f", "f", "t")]
    assert call(minion, "credential_accepted") == NOTHING
    server.sql(f"GRANT fixed TO {A} WITH SET TRUE; GRANT boss TO {A} WITH SET TRUE")
    more = ["boss WITH ADMIN OPTION, INHERIT FALSE, SET TRUE", "fixed WITH INHERIT TRUE, SET TRUE"]
    server.sql(f"ALTER ROLE {B} NOLOGIN")
    assert call(minion, "credential_accepted")["changes"][B]["grants"]["new"] == more
    assert call(minion, "credential_accepted") == NOTHING


def test_open_connections_of_a_locked_account_go_on(minion, server):
    minion.pillar = two(server, B, NEW)
    call(minion, "credential_accepted")
    with foreign_client(server, A, OLD) as client:
        assert "connected now: 1 from 127.0.0.1" in str(call(minion, "credential_sole")["warnings"])
        assert client.poll() is None


DROPPED = {A: {"account": {"old": "locked", "new": "dropped"}}}
BEGINS = {A: {"locked since": {"old": None, "new": "now"}}}
LOCKED = {"locked": {"old": False, "new": True}}
NOTHING = {"changes": {}, "warnings": []}


def keeping(server, keep, user=B, password=NEW, /, **sections):
    return two(server, user, password, rotation={"keep": keep}, **sections)


def test_the_locked_role_is_dropped_after_its_time(minion, server):
    """Not before; by the step that locks it and by ispmail.database; the next rotation makes it again."""
    minion.pillar = keeping(server, "1h")
    call(minion, "credential_accepted")
    would = call(minion, "credential_sole", test=True)
    assert call(minion, "credential_sole") == would == {"changes": {A: LOCKED}, "warnings": []}
    time.sleep(2.1)
    assert call(minion, "credential_sole") == call(minion, "account") == NOTHING
    minion.pillar = keeping(server, "2s")
    for function in ("account", "credential_sole"):
        assert call(minion, function, test=True) == {"changes": DROPPED, "warnings": []}
    assert may_log_in(server) == {A: "f", B: "t"}
    assert call(minion, "credential_sole") == {"changes": DROPPED, "warnings": []}
    assert may_log_in(server) == {B: "t"}
    assert call(minion, "credential_sole") == call(minion, "account") == NOTHING
    read = call(minion, "read")
    assert (list(read["accounts"]), read["pair"], read["others"]) == ([B], {}, {})
    server.sql(f"GRANT INSERT ON virtual_users TO {B}; ALTER ROLE {B} CONNECTION LIMIT 50", "mailserver")
    minion.pillar = keeping(server, "2s", A, OTHER)
    call(minion, "credential_accepted")
    asked = "SELECT rolconnlimit, has_table_privilege('virtual_users', 'INSERT') FROM pg_roles WHERE rolname = user"
    assert server.sql_as(A, OTHER, asked, "mailserver") == [("50", "t")]
    call(minion, "credential_sole")
    assert may_log_in(server) == {A: "t", B: "f"} and logs_in(server, A, OTHER)
    time.sleep(2.1)
    done = minion.apply("ispmail.database")["postfix_database.account"]
    assert done["result"] is True and list(done["changes"]) == [B] and may_log_in(server) == {A: "t"}


def test_keep_nothing_drops_in_the_same_step(minion, server):
    """With all that a role of a pair may have."""
    server.sql(
        f"""
        CREATE SCHEMA mail; CREATE TABLE mail.here (a int, b int); CREATE ROLE readers; CREATE SEQUENCE mail.numbers;
        GRANT USAGE ON SCHEMA mail TO {A}; GRANT SELECT (a) ON mail.here TO {A}; GRANT readers TO {A};
        CREATE FUNCTION mail.one(int) RETURNS int LANGUAGE sql AS 'SELECT 1'; GRANT EXECUTE ON FUNCTION mail.one TO {A};
        GRANT INSERT ON virtual_users TO {A} WITH GRANT OPTION; ALTER ROLE {A} SET search_path = mail, public;
        GRANT USAGE ON SEQUENCE mail.numbers TO {A}; GRANT CONNECT ON DATABASE postgres TO {A};
        ALTER DEFAULT PRIVILEGES IN SCHEMA mail GRANT SELECT ON TABLES TO {A}
        """,
        "mailserver",
    )
    minion.pillar = keeping(server, 0)
    call(minion, "credential_accepted")
    assert call(minion, "account")["changes"] == {} and logs_in(server, A, OLD)
    would = call(minion, "credential_sole", test=True)
    assert logs_in(server, A, OLD)
    changes = {A: {**LOCKED, **DROPPED[A]}}
    assert call(minion, "credential_sole") == would == {"changes": changes, "warnings": []}
    assert may_log_in(server) == {B: "t"}
    assert server.sql_as(B, NEW, "SELECT a FROM here; SELECT count(*) FROM virtual_users", "mailserver")[-1] == ("1",)


def test_the_time_begins_with_a_lock_of_ours(minion, server):
    """A role that was locked without keep, or by hand, had been dropped at once: no server knows when that was."""
    minion.pillar = two(server, B, NEW)
    call(minion, "credential_accepted")
    call(minion, "credential_sole")
    server.sql(f"ALTER ROLE {A} VALID UNTIL 'tomorrow'")
    time.sleep(1.1)
    assert call(minion, "credential_sole") == call(minion, "account") == NOTHING
    minion.pillar = keeping(server, "1s")
    assert call(minion, "account", test=True)["changes"] == call(minion, "account")["changes"] == BEGINS
    assert may_log_in(server)[A] == "f" and call(minion, "read")["pair"][A]["locked"] is True
    time.sleep(1.1)
    assert call(minion, "account")["changes"] == DROPPED
    # The way back by hand, and the one by pillar.
    minion.pillar = keeping(server, "1h", A, OTHER)
    call(minion, "credential_accepted")
    call(minion, "credential_sole")
    minion.pillar = keeping(server, "1h")
    (warning,) = call(minion, "account")["warnings"]
    assert warning == f"{B} is locked, as the idle account of the pair is: see credential_accepted"
    server.sql(f"ALTER ROLE {B} LOGIN VALID UNTIL 'infinity'")
    assert logs_in(server, B, NEW)


def test_a_role_that_is_connected_is_not_dropped(minion, server):
    """Its queries would fail."""
    minion.pillar = keeping(server, 0)
    call(minion, "credential_accepted")
    with foreign_client(server, A, OLD) as client:
        assert call(minion, "credential_sole")["changes"] == {A: LOCKED}
        for function in ("credential_sole", "account"):
            found = call(minion, function)
            assert found["changes"] == {} and found["warnings"][-1] == (
                f"{A} was to be dropped (ispmail:rotation:keep), and stays, locked: connected now: 1 from {HOST}: have "
                "these programs log in as pillar has it, or end them"
            )
        assert client.poll() is None and may_log_in(server) == {A: "f", B: "t"}
    assert call(minion, "credential_sole")["changes"] == DROPPED


@pytest.mark.parametrize(
    ("before", "said", "after"),
    [
        (
            f"CREATE TABLE own (a int); ALTER TABLE own OWNER TO {A}",
            'it owns something in the database "mailserver": give that to another role',
            f"REASSIGN OWNED BY {A} TO postgres",
        ),
        (
            f"CREATE ROLE webmail; GRANT {A} TO webmail",
            'it is the group of "webmail": give them another group, and REVOKE "mailserver_a" from them',
            f"REVOKE {A} FROM webmail",
        ),
        (
            f"CREATE POLICY seen ON virtual_users TO {A}, {B} USING (true)",
            'policies of row security name it in the database "mailserver": take it out of them (ALTER POLICY … TO)',
            f"ALTER POLICY seen ON virtual_users TO {B}",
        ),
        # What nobody has looked for: the server refuses.
        (
            f"CREATE TYPE kind AS ENUM ('a'); REVOKE ALL ON TYPE kind FROM PUBLIC; GRANT USAGE ON TYPE kind TO {A}",
            'the server refused to drop it (error 2BP01): run DROP ROLE "mailserver_a" by hand to see the reason',
            f"REVOKE ALL ON TYPE kind FROM {A}",
        ),
    ],
)
def test_what_is_needed_is_not_dropped(minion, server, before, said, after):
    """A rotation does not fail by it, and the role keeps all that it has."""
    minion.pillar = keeping(server, 0)
    call(minion, "credential_accepted")
    server.sql(before, "mailserver")
    found = call(minion, "credential_sole")
    assert found["changes"] == {A: LOCKED}
    (warning,) = found["warnings"]
    assert warning.startswith(f"{A} was to be dropped (ispmail:rotation:keep), and stays, locked: {said}")
    assert server.sql(f"SELECT has_table_privilege('{A}', 'virtual_users', 'SELECT')", "mailserver") == [("t",)]
    server.sql(after, "mailserver")
    assert call(minion, "credential_sole") == {"changes": DROPPED, "warnings": []}


def test_rights_in_another_database_are_named(minion, server):
    server.sql("CREATE TABLE here (a int)")
    server.sql(f"GRANT SELECT ON here TO {A}")
    try:
        minion.pillar = keeping(server, 0)
        call(minion, "credential_accepted")
        (warning,) = call(minion, "credential_sole")["warnings"]
        assert (
            'it has rights in the database "postgres": take them back (in each of these databases, DROP OWNED BY '
            '"mailserver_a")'
        ) in warning
    finally:
        server.sql("DROP TABLE here")
    assert call(minion, "credential_sole") == {"changes": DROPPED, "warnings": []}


def test_an_admin_who_does_not_see_drops_nothing(minion, server, dba):
    """Who is connected. One who is no superuser can drop it, by what he has granted himself."""
    server.sql("REVOKE pg_read_all_stats FROM dba")
    minion.pillar = two(server, A, OLD, server=dba)
    call(minion, "account")
    minion.pillar = keeping(server, 0, server=dba)
    call(minion, "credential_accepted")
    found = call(minion, "credential_sole")
    assert found["changes"] == {A: LOCKED} and "who is connected cannot be seen" in found["warnings"][-1]
    server.sql("GRANT pg_read_all_stats TO dba")
    assert call(minion, "credential_sole") == {"changes": DROPPED, "warnings": []}
    assert may_log_in(server) == {B: "t"}


def test_a_date_of_an_admins_is_no_lock_of_ours(minion, server):
    """A role whose password had expired long ago was dropped at once. Some log in without one, until the lock."""
    server.sql(f"ALTER ROLE {A} VALID UNTIL '2020-01-01'")
    minion.pillar = two(server, B, NEW)
    call(minion, "credential_accepted")
    call(minion, "credential_sole")
    minion.pillar = keeping(server, "7d")
    assert (
        call(minion, "account")["changes"] == call(minion, "credential_sole", test=True)["changes"] | BEGINS == BEGINS
    )
    assert call(minion, "credential_sole") == NOTHING and may_log_in(server)[A] == "f"


def test_what_cannot_be_told_or_marked_fails_nothing(minion, server):
    """The role is locked. An admin who is no superuser has to try pillar's login, and may not change all roles."""
    server.sql("CREATE ROLE dba LOGIN PASSWORD 'dbaSecret5'; GRANT pg_read_all_stats TO dba")
    for table in ("virtual_domains", "virtual_users", "virtual_aliases"):
        server.sql(f"ALTER TABLE {table} OWNER TO dba", "mailserver")
    server.sql("ALTER DATABASE mailserver OWNER TO dba; ALTER SCHEMA public OWNER TO dba", "mailserver")
    minion.pillar = two(server, B, NEW)
    call(minion, "credential_accepted")
    call(minion, "credential_sole")
    login = {"host": HOST, "port": server.port, "user": "dba", "password": "dbaSecret5"}
    minion.pillar = keeping(server, "7d", server=login)
    call(minion, "account")
    for function in ("account", "credential_sole"):
        found = call(minion, function)
        assert found["changes"] == {} and found["warnings"][-1] == (
            f"{A} was to be dropped (ispmail:rotation:keep), and stays, locked: the server refused to keep since when "
            f'it is locked (error 42501): use an admin who may run ALTER ROLE "{A}", or drop it by hand'
        )
    server.sql(f"ALTER ROLE {B} CONNECTION LIMIT 0")
    found = call(minion, "account")
    assert found["changes"] == {} and "accepts pillar's password cannot be told: the database" in found["warnings"][-1]
    assert "error 53300" in found["warnings"][-1] and NEW not in str(found)


def test_the_role_in_use_is_never_dropped(minion, server):
    """While pillar's user is not open, the other one is in use, locked or not."""
    minion.pillar = two(server, B, NEW)
    call(minion, "account")
    server.sql(f"ALTER ROLE {A} NOLOGIN; ALTER ROLE {B} NOLOGIN")
    minion.pillar = keeping(server, 0)
    assert call(minion, "account")["changes"] == {}
    server.sql(f"ALTER ROLE {B} LOGIN PASSWORD '{OTHER}'")
    assert call(minion, "account")["changes"] == {}
    assert may_log_in(server) == {A: "f", B: "t"}


def test_no_log_holds_a_password(minion, server):
    begin = len(server.log)
    minion.pillar = two(server, B, NEW)
    call(minion, "credential_accepted")
    call(minion, "credential_sole")
    minion.pillar = two(server, A, OTHER)
    call(minion, "credential_accepted")
    logged = server.log[begin:]
    assert logged.count("SCRAM-SHA-256$4096:") > 1
    assert not [secret for secret in (OLD, NEW, OTHER) if secret in logged]


@contextlib.contextmanager
def foreign_client(server, user, password, host=HOST):
    """A program that nobody has named, connected for as long as this lasts, to an address or a socket's directory."""
    command = [
        "psql",
        "-X",
        "-q",
        "-h",
        host,
        "-p",
        str(server.port),
        "-U",
        user,
        "-c",
        "SELECT pg_sleep(60)",
        "mailserver",
    ]
    client = subprocess.Popen(command, env={**os.environ, "PGPASSWORD": password}, stdout=subprocess.DEVNULL)
    try:
        sleeping = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)'"
        assert wait_until(lambda: server.sql(sleeping) == [("1",)], 10)
        yield client
    finally:
        client.kill()
        client.wait()
        server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)'")


def unnamed(minion, **options):
    found = call(minion, "holders", **options)
    assert not [secret for secret in (OLD, NEW, OTHER) if secret in str(found)]
    return [holder["text"] for holder in found["unnamed"]]


def test_who_else_uses_the_account(minion, server, postfix, trees):
    """Programs by their connections, files by the password, tables of Postfix, and hosts of others."""
    minion.pillar = two(server, A, OLD, postfix)
    assert applied(minion)["result"] is True
    assert unnamed(minion) == unnamed(minion, site_hosts=["127.0.0.1"]) == []
    with foreign_client(server, A, OLD):
        for options in ({}, {"site_hosts": ["127.0.0.1"]}):
            found = unnamed(minion, **options)
            assert found and all(text.startswith("psql (pid ") and f"is connected as {A}" in text for text in found)
        # A rotation that has begun: by the login of pillar alone the other account's connections are not seen.
        minion.pillar = two(server, B, NEW, postfix)
        call(minion, "credential_accepted")
        assert applied(minion)["result"] is True
        found = call(minion, "holders", site_hosts=["127.0.0.1"])
        assert {holder["where"] for holder in found["unnamed"]} == {"psql"}
        assert {text.partition(":")[0] for text in found["connections"]} == {"127.0.0.1"}
    (trees / "backup.conf").write_text(f"password={NEW}\n")
    (text,) = unnamed(minion)
    assert text.startswith(f"{trees}/backup.conf holds the password in use")
    (trees / "backup.conf").unlink()
    own = postfix.config_directory / "own.cf"
    own.write_text(
        f"user = {B}\npassword = x\nhosts = {HOST}\ndbname = mailserver\nquery = SELECT 1 FROM x WHERE y='%s'\n"
    )
    postfix.command("postconf", "-e", f"transport_maps = pgsql:{own}")
    (text,) = unnamed(minion)
    assert f"the table {own}, which transport_maps" in text
    assert "logs in as mailserver_b and is not a map of pillar" in text


class Linked(PostgreSQL):
    """As Debian's: its socket is bound below /var/run, which is a link to /run, and another one elsewhere."""

    def _command(self):
        own, other = f"{self.directory.parent}/link", f"{self.directory.parent}/other"
        return [word.replace(f"={self.directory}", f"={own}, {other}") for word in super()._command()]


def test_clients_of_a_socket_that_is_bound_by_a_link(trees):
    """Its path was compared as a text: nobody was connected, and a rotation locked the program out."""
    with scratch() as path:
        (path / "link").symlink_to("db")
        (path / "other").mkdir(mode=0o777)
        (path / "other").chmod(0o777)
        with Linked(path / "db") as server:
            minion = Minion(path, two(server, A, OLD))
            minion.apply("ispmail.database")
            assert unnamed(minion, site_hosts=[]) == []
            for folder in ("db", "link", "other"):
                with foreign_client(server, A, OLD, str(path / folder)) as client:
                    (text,) = unnamed(minion, site_hosts=[])
                    assert text.startswith(f"psql (pid {client.pid}, ")
                    assert f"uses the database's unix socket, perhaps as {A}" in text


def test_the_proof_and_the_beacons_question(minion, server, postfix, trees):
    """A login is a user and a password; a locked one is refused."""
    nonce = "0123456789abcdef"
    minion.pillar = two(server, A, OLD, postfix)
    assert applied(minion)["result"] is True
    minion.pillar = two(server, B, OLD, postfix)
    prints = minion.call("postfix_map.fingerprints", nonce)
    assert len(prints["live"]) == 3 and not set(prints["live"].values()) & set(prints["pillar"].values())
    rotated(minion)
    prints = minion.call("postfix_map.fingerprints", nonce)
    assert prints["live"] == prints["pillar"] and call(minion, "refused") == []
    server.sql(f"ALTER ROLE {B} NOLOGIN")
    (refused,) = call(minion, "refused")
    assert refused["user"] == B and len(refused["maps"]) == 3


def test_the_doctor(minion, server, postfix, trees):
    """It warns of an idle account that is open, and not of one that is locked."""
    minion.pillar = two(server, A, OLD, postfix)
    assert applied(minion)["result"] is True

    def rows():
        return {row["check"]: row for row in minion.call("postfix_doctor.check") if row["result"] != "ok"}

    assert rows() == {}
    minion.pillar = two(server, B, NEW, postfix)
    call(minion, "credential_accepted")
    assert applied(minion)["result"] is True
    (row,) = rows().values()
    assert (row["check"], row["where"]) == ("the idle account of the pair is locked", A)
    assert "a rotation is under way, or was interrupted and has to be started again" in row["fix"]
    call(minion, "credential_sole")
    assert rows() == {}


def test_how_old_the_password_is(minion, server, postfix, trees):
    """The server does not know it. This minion does, from the time at which it made the account or opened it."""
    given = two(server, A, OLD, postfix)
    given["ispmail"].setdefault("rotation", {})["max_age"] = "30d"
    minion.pillar = given
    assert applied(minion)["result"] is True
    noted = minion.cache / "ispmail" / "password-ispmail"

    def row():
        (found,) = (row for row in minion.call("postfix_doctor.check") if "too old" in row["check"])
        return found["where"], found["result"], found["fix"]

    assert row() == (A, "ok", "") and call(minion, "read")["accounts"][A]["age"] is None
    os.utime(noted, (1, time.time() - 31 * 86400))
    where, result, fix = row()
    assert (where, result) == (A, "fault") and fix.startswith("it is 31 days old, and rotation:max_age is 30 days")
    noted.unlink()
    assert row()[1] == "warning" and row()[2].startswith("how old it is cannot be told")
    given["ispmail"]["database"].update(user=B, password=NEW)
    minion.pillar = given
    call(minion, "credential_accepted", test=True)
    assert not noted.exists(), "a dry run sets no password"
    rotated(minion)
    assert row() == (B, "ok", "")


def test_a_role_s_own_settings_run_no_statement_of_its_own(minion, server):
    """A role chooses its own search_path, and FROM CURRENT keeps that as it was written: it became a superuser."""
    server.sql_as(
        A,
        OLD,
        "SELECT set_config('search_path', 'public;alter/**/role/**/mailserver_a/**/superuser', false);"
        "ALTER ROLE mailserver_a SET search_path FROM CURRENT",
        "mailserver",
    )
    minion.pillar = two(server, B, NEW)
    call(minion, "credential_accepted")
    assert server.sql("SELECT rolname FROM pg_roles WHERE rolsuper AND rolname LIKE 'mailserver%'") == []
    found = server.sql(f"SELECT unnest(setconfig) FROM pg_db_role_setting WHERE setrole = '{B}'::regrole")
    assert found == [('search_path="public;alter/**/role/**/mailserver_a/**/superuser"',)]


def test_the_admin_runs_no_operator_of_others(minion, server):
    """Whoever may make an operator in public had it run by the superuser that Salt is there (CVE-2018-1058)."""
    server.sql(f"GRANT CREATE ON SCHEMA public TO {A}; GRANT INSERT ON public.virtual_users TO {A}", "mailserver")
    server.sql_as(
        A,
        OLD,
        "CREATE FUNCTION public.evil(text, regclass) RETURNS text LANGUAGE plpgsql AS $$BEGIN"
        " EXECUTE 'ALTER ROLE mailserver_a SUPERUSER'; RETURN $1 || $2::text; END$$;"
        "CREATE OPERATOR public.|| (FUNCTION = public.evil, LEFTARG = text, RIGHTARG = regclass)",
        "mailserver",
    )
    call(minion, "account")
    minion.pillar = two(server, B, NEW)
    call(minion, "credential_accepted")
    assert server.sql("SELECT rolname FROM pg_roles WHERE rolsuper AND rolname LIKE 'mailserver%'") == []


def test_an_idle_role_keeps_no_limit_of_its_own(minion, server):
    """A limit that the account in use has no more would stop mail under load, and an old search_path ask old tables."""
    server.sql(f"ALTER ROLE {A} CONNECTION LIMIT 3; ALTER ROLE {A} SET search_path TO old")
    minion.pillar = two(server, B, NEW)
    call(minion, "credential_accepted")
    call(minion, "credential_sole")
    server.sql(f"ALTER ROLE {B} CONNECTION LIMIT -1; ALTER ROLE {B} RESET search_path")
    minion.pillar = two(server, A, OTHER)
    call(minion, "credential_accepted")
    assert server.sql("SELECT rolconnlimit FROM pg_roles WHERE rolname LIKE 'mailserver%'") == [("-1",), ("-1",)]
    assert server.sql("SELECT setconfig FROM pg_db_role_setting WHERE setrole <> 0") == []


def test_an_owner_s_rights_are_given_too(minion, server):
    """An owner's rights are in no list of PostgreSQL until somebody changes them: the other account could not read."""
    server.sql(f"CREATE SCHEMA mail AUTHORIZATION {A}", "mailserver")
    server.sql_as(
        A, OLD, "CREATE TABLE mail.own (id serial, a text); INSERT INTO mail.own (a) VALUES ('x')", "mailserver"
    )
    minion.pillar = two(server, B, NEW)
    call(minion, "credential_accepted")
    rows = "SELECT a FROM mail.own"
    assert server.sql_as(B, NEW, rows, "mailserver") == server.sql_as(A, OLD, rows, "mailserver") == [("x",)]
    server.sql_as(B, NEW, "INSERT INTO mail.own (a) VALUES ('y')", "mailserver")
    assert call(minion, "credential_accepted")["changes"] == {}
    # The owner has them by itself.
    call(minion, "credential_sole")
    minion.pillar = two(server, A, OTHER)
    assert "grants" not in call(minion, "credential_accepted")["changes"][A]


def test_a_password_that_expires_is_no_other_password(minion, server):
    """The advice was to change the user, with pillar's own password in place."""
    server.sql(f"ALTER ROLE {A} VALID UNTIL '2099-01-01' CONNECTION LIMIT 90; CREATE ROLE {B} LOGIN")
    would = call(minion, "credential_accepted", test=True)
    assert would == call(minion, "credential_accepted")
    assert would == {"changes": {A: {"expires": {"old": "2099-01-01", "new": "never"}}}, "warnings": []}
    assert server.sql(f"SELECT rolconnlimit FROM pg_roles WHERE rolname = '{A}'") == [("90",)]
    assert call(minion, "credential_accepted")["changes"] == {}
    assert server.sql(f"SELECT rolvaliduntil FROM pg_roles WHERE rolname = '{A}'") == [("infinity",)]
    assert logs_in(server, A, OLD)


def test_a_right_that_was_taken_away_does_not_come_back(minion, server):
    """The idle account still has it. And a right that one may pass on is no other one than the same without that."""
    minion.pillar = two(server, B, NEW)
    server.sql(f"GRANT INSERT ON virtual_users TO {A}", "mailserver")
    call(minion, "credential_accepted")
    server.sql(f"GRANT INSERT ON virtual_users TO {B} WITH GRANT OPTION", "mailserver")
    assert call(minion, "credential_accepted")["changes"] == {}
    call(minion, "credential_sole")
    server.sql(f"REVOKE INSERT ON virtual_users FROM {B}", "mailserver")
    assert call(minion, "credential_accepted")["changes"] == {} == call(minion, "account")["changes"]


def test_what_is_revoked_is_not_given_first(minion, server):
    """With revoke_other_grants each rotation gave it, and each apply took it."""
    server.sql(f"GRANT INSERT, UPDATE (email) ON virtual_users TO {A}", "mailserver")
    minion.pillar = two(server, B, NEW, server={"unix_socket": server.socket, "revoke_other_grants": True})
    call(minion, "credential_accepted")
    assert call(minion, "account")["changes"] == {}
    asked = (
        "SELECT has_table_privilege('virtual_users', 'INSERT'), has_column_privilege('virtual_users','email','UPDATE')"
    )
    assert server.sql_as(B, NEW, asked, "mailserver") == [("f", "t")]


@pytest.mark.parametrize(
    "statement",
    [
        f"CREATE POLICY mail ON virtual_aliases FOR SELECT TO {A} USING (true)",
        f"ALTER ROLE {A} BYPASSRLS",
        f"ALTER TABLE virtual_aliases OWNER TO {A}",
    ],
)
def test_an_account_that_would_see_no_rows_is_not_opened(minion, server, statement):
    """No probe sees it: a lookup without rows is an answer, and Postfix refuses the mail of all addresses for good."""
    server.sql(f"ALTER TABLE virtual_aliases ENABLE ROW LEVEL SECURITY; {statement}", "mailserver")
    rows = "SELECT destination FROM virtual_aliases"
    assert server.sql_as(A, OLD, rows, "mailserver") == [(JOHN,)]
    minion.pillar = two(server, B, NEW)
    with pytest.raises(CommandExecutionError) as caught:
        call(minion, "credential_accepted")
    assert str(caught.value) == (
        "Nothing was changed: mailserver_b would not see the rows that mailserver_a sees, because of the row security "
        "of public.virtual_aliases: name both in its policies (ALTER POLICY … TO), or give both BYPASSRLS"
    )
    assert may_log_in(server) == {A: "t"}
    # So is one that an apply of ispmail.database has made.
    call(minion, "account")
    with pytest.raises(CommandExecutionError, match="row security"):
        call(minion, "credential_accepted")
    cure = f"ALTER POLICY mail ON virtual_aliases TO {A}, {B}" if "POLICY" in statement else f"ALTER ROLE {B} BYPASSRLS"
    server.sql(cure, "mailserver")
    call(minion, "credential_accepted")
    assert server.sql_as(B, NEW, rows, "mailserver") == [(JOHN,)]
