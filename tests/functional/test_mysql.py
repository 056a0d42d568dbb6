"""A real MySQL without mysql_native_password: accounts and rotations by salted hashes, and what Postfix gets by them.

The first run builds a root of Debian sid, see lab/mysql.py.
"""

import re
import shutil
from pathlib import Path

import pytest
from salt.exceptions import CommandExecutionError

import _ispmail_lookup
import _ispmail_session
from _ispmail_errors import DatabaseError
from _ispmail_mysql import MySQL as Dialect
from lab import HOST, scratch
from lab.minion import Minion
from lab.mysql import MySQL
from lab.postfix import Postfix, write_cold
from lab.smtp import rcpt

from ..conftest import only_host
from .database import ACCOUNT, NAME, NEW, OLD, OTHER, ROWS, SELECT, call, guide, needs_machines, pillar, run

SHA2 = "caching_sha2_password"
JACK, NOBODY = "jack@example.org", "nobody@example.org"


@pytest.fixture(scope="module")
def started(directory):
    needs_machines()
    # The log has each statement as it came, without what the server itself hides in it.
    options = ["--log-raw=ON", "--log-error-verbosity=3"]
    with MySQL(directory / "db", general_log=directory / "general.log", options=options) as server:
        yield server


@pytest.fixture
def server(started):
    """A MySQL as it is before anything of ours, with its own defaults."""
    started.sql("DROP DATABASE IF EXISTS mailserver")
    started.sql("SET GLOBAL caching_sha2_password_storage_format = CRYPT5")
    started.sql("SET GLOBAL caching_sha2_password_enforce_storage_format = OFF")
    for user, host in started.sql("SELECT User, Host FROM mysql.user WHERE User = 'mailserver'"):
        started.sql("DROP USER %s@%s", user, host)
    return started


@pytest.fixture
def minion(server):
    guide(server)
    with scratch() as path:
        yield Minion(path, pillar(server))


def passwords(minion):
    return call(minion, "read")["accounts"][NAME]["passwords"]


def stored(server):
    """The hashes of the account: of the current password, and of the retained one."""
    statement = (
        "SELECT HEX(authentication_string), HEX(User_attributes->>'$.additional_password') FROM mysql.user"
        " WHERE User = 'mailserver'"
    )
    return [bytes.fromhex(text).decode("latin-1") for text in server.sql(statement)[0] if text]


def looked_up(postfix, server, directory, password):
    """What Postfix's own client gets with a password: an answer, or the reason why not."""
    table = directory / "lookup.cf"
    query = "SELECT destination FROM virtual_aliases WHERE source='%s'"
    keys = {"user": "mailserver", "password": password, "hosts": f"{HOST}:{server.port}", "dbname": "mailserver"}
    text = "".join(f"{key} = {value}\n" for key, value in {**keys, "query": query}.items())
    write_cold(table, text, mode=0o640, group="postfix")
    found = _ispmail_lookup.ask(JACK, [f"mysql:{table}"], str(postfix.config_directory))
    return found.answer or found.reason


@pytest.fixture
def unjailed():
    """A running Postfix without a chroot."""
    with scratch() as path, Postfix(path / "mail", chroot=False) as instance:
        yield instance


def mail_pillar(server, postfix, password=OLD):
    found = pillar(server, password)
    found["ispmail"]["postfix"] = {"config_directory": str(postfix.config_directory)}
    found["ispmail"]["database"].update(only_host())
    return found


def applied(minion):
    return minion.apply()["postfix_map.managed"]


def test_a_real_mysql_without_the_old_plugin(server):
    """What all of this is for."""
    (version,) = server.sql("SELECT VERSION()")[0]
    assert version.startswith("9.")
    assert server.sql("SELECT 1 FROM information_schema.PLUGINS WHERE PLUGIN_NAME = 'mysql_native_password'") == ()


@pytest.mark.parametrize("test", [True, False], ids=["dry run", "real"])
def test_database_and_account_are_made(server, directory, test):
    with scratch() as path:
        minion = Minion(path, pillar(server))
        done = minion.apply("ispmail.database", test=test)
        assert {name: state["result"] for name, state in done.items() if name.startswith("postfix_database")} == (
            dict.fromkeys(["postfix_database.tables", "postfix_database.account"], None if test else True)
        )
        account = server.sql("SELECT plugin, password_lifetime FROM mysql.user WHERE User = 'mailserver'")
        assert account == (() if test else ((SHA2, 0),))
        if not test:
            run(server, ROWS)
            assert call(minion, "read")["accounts"][NAME]["grants"] == SELECT
            assert server.logs_in(OLD) and not server.logs_in(NEW)
            assert call(minion, "account") == {"changes": {}, "warnings": []}
            assert minion.apply("ispmail.database")["postfix_database.account"]["changes"] == {}


def test_other_rights_are_named_and_revoked_where_pillar_says_so(minion, server):
    call(minion, "account")
    server.sql(f"GRANT INSERT, UPDATE ON mailserver.* TO {ACCOUNT}")
    server.sql(f"GRANT BACKUP_ADMIN ON *.* TO {ACCOUNT}")
    done = call(minion, "account")
    assert done["changes"] == {}
    (warning,) = done["warnings"]
    assert warning.startswith(f"{NAME} also has BACKUP_ADMIN ON *.*; INSERT, UPDATE ON `mailserver`.*, which was left")
    assert "(nobody is connected now)" in warning
    minion.pillar = pillar(server, revoke_other_grants=True)
    (change,) = call(minion, "account")["changes"].values()
    assert change["grants"]["new"] == SELECT == call(minion, "read")["accounts"][NAME]["grants"]
    assert call(minion, "account") == {"changes": {}, "warnings": []}
    assert server.logs_in(OLD)


@pytest.mark.parametrize("storage_format", ["CRYPT5", "PBKDF2_SHA512"])
def test_rotations_with_postfix_s_own_client(minion, server, unjailed, directory, storage_format):
    """Accept and sole several times: Postfix's library gets answers with each password that is accepted."""
    server.sql(f"SET GLOBAL caching_sha2_password_storage_format = {storage_format}")
    server.sql("SET GLOBAL caching_sha2_password_enforce_storage_format = ON")
    call(minion, "account")
    old = OLD
    for new in (NEW, OTHER):
        minion.pillar = pillar(server, new)
        would = call(minion, "credential_accepted", test=True)
        assert (passwords(minion), server.logs_in(new)) == (1, False)
        assert call(minion, "credential_accepted") == would
        assert would["changes"][NAME]["passwords"] == {"old": 1, "new": 2}
        before = stored(server)
        assert [text[:3] for text in before] == [{"CRYPT5": "$A$", "PBKDF2_SHA512": "$B$"}[storage_format]] * 2
        # An accepted password is recognised by its hash's own salt: nothing is set again.
        assert call(minion, "credential_accepted")["changes"] == {}
        assert stored(server) == before
        for password in (old, new):
            assert "john@example.org" in looked_up(unjailed, server, directory, password)
        would = call(minion, "credential_sole", test=True)
        assert passwords(minion) == 2
        assert call(minion, "credential_sole") == would
        assert call(minion, "credential_sole")["changes"] == {}
        assert stored(server) == before[:1]
        assert "Access denied" in looked_up(unjailed, server, directory, old)
        assert "john@example.org" in looked_up(unjailed, server, directory, new)
        old = new


@pytest.mark.parametrize("storage_format", ["CRYPT5", "PBKDF2_SHA512"])
def test_a_password_that_somebody_has_set_by_hand_is_recognised(minion, server, storage_format):
    """The server's own salts hold bytes that are no text."""
    call(minion, "account")
    server.sql(f"SET GLOBAL caching_sha2_password_storage_format = {storage_format}")
    for _ in range(5):
        server.sql(f"ALTER USER {ACCOUNT} IDENTIFIED BY %s RETAIN CURRENT PASSWORD", NEW)
    minion.pillar = pillar(server, NEW)
    for function in ("account", "credential_accepted"):
        assert call(minion, function)["changes"] == {}
    assert call(minion, "credential_sole")["changes"][NAME]["passwords"] == {"old": 2, "new": 1}
    assert server.logs_in(NEW) and not server.logs_in(OLD)


def test_somebodys_own_third_password_is_refused(minion, server):
    call(minion, "account")
    server.sql(f"ALTER USER {ACCOUNT} IDENTIFIED BY %s RETAIN CURRENT PASSWORD", OTHER)
    before = stored(server)
    minion.pillar = pillar(server, NEW)
    with pytest.raises(CommandExecutionError, match="accepts two other passwords already, and a MySQL keeps no third"):
        call(minion, "credential_accepted")
    assert stored(server) == before
    # The older one is accepted, and not the first: a rotation with it goes on from there.
    minion.pillar = pillar(server, OLD)
    with pytest.raises(CommandExecutionError, match="another rotation has begun"):
        call(minion, "credential_sole")
    assert call(minion, "credential_accepted")["changes"][NAME]["passwords"] == {"old": 2, "new": 2}
    assert server.logs_in(OLD) and server.logs_in(OTHER)


@pytest.mark.parametrize(
    ("identified", "said"),
    [
        ("IDENTIFIED WITH sha256_password BY 'x'", f"IDENTIFIED WITH {SHA2} …), or, if the maps do not use it"),
        ("IDENTIFIED BY ''", "error 3878: an account with an empty password cannot accept a second one"),
    ],
)
def test_an_account_that_cannot_be_rotated(minion, server, identified, said):
    server.sql(f"CREATE USER {ACCOUNT} {identified}")
    before = server.sql("SELECT plugin, authentication_string FROM mysql.user WHERE User = 'mailserver'")
    with pytest.raises(CommandExecutionError, match=re.escape(said)):
        call(minion, "credential_accepted")
    assert server.sql("SELECT plugin, authentication_string FROM mysql.user WHERE User = 'mailserver'") == before


def test_the_server_keeps_no_password_across_plugins(server):
    """Why an account keeps its plugin."""
    server.sql(f"CREATE USER {ACCOUNT} IDENTIFIED WITH sha256_password BY 'x'")
    new = Dialect("9.7").hash_password(SHA2, NEW, "s" * 20, {})
    with pytest.raises(Exception, match="3894"):
        server.sql(f"ALTER USER {ACCOUNT} IDENTIFIED WITH {SHA2} AS %s RETAIN CURRENT PASSWORD", new)


def test_the_doctor_on_a_mysql(minion, server, unjailed):
    """Nothing in it ends on what MySQL 9 answers otherwise than a MariaDB."""
    server.sql("SET GLOBAL max_connections = 1000")
    minion.pillar = mail_pillar(server, unjailed)
    minion.apply("ispmail.database")
    assert applied(minion)["result"] is True
    found = [row for row in minion.call("postfix_doctor.check") if row["result"] != "ok"]
    assert found == []
    minion.pillar = mail_pillar(server, unjailed, NEW)
    call(minion, "credential_accepted")
    found = {row["check"]: row["fix"] for row in minion.call("postfix_doctor.check") if row["result"] != "ok"}
    assert found["the account accepts one password"].startswith("it accepts 2: a rotation is under way")


def test_a_chroot_without_the_login_plugin(minion, server, postfix):
    """smtpd could not log in there: the apply says so, and what helps; it does."""
    minion.pillar = mail_pillar(server, postfix)
    minion.apply("ispmail.database")
    refused = applied(minion)
    assert refused["result"] is False
    assert "smtpd's chroot has no such plugin: set proxy: true, or switch the chroot off" in refused["comment"]
    plugin = Path(_ispmail_lookup.plugin_directory()) / f"{SHA2}.so"
    inside = Path(f"{postfix.queue_directory}{plugin}")
    inside.parent.mkdir(parents=True)
    shutil.copy(plugin, inside)
    assert applied(minion)["result"] is True
    assert (rcpt(postfix.port, JACK)[0], rcpt(postfix.port, NOBODY)[0]) == (250, 550)
    inside.unlink()
    rows = {row["check"]: row["fix"] for row in minion.call("postfix_doctor.check") if row["result"] != "ok"}
    assert f"copy {plugin} to the same path below it" in rows["smtpd's chroot has the login plugin"]


@pytest.mark.parametrize("by", ["port", "socket"])
def test_consumers(minion, server, unjailed, by):
    """A new password is tried before it goes live, and a MySQL that has not seen it yet asks for it in clear."""
    option_file = minion.directory / "script.cnf"
    for password in (OLD, NEW):
        found = mail_pillar(server, unjailed, password)
        found["ispmail"]["consumers"] = {"script": {"option_file": str(option_file)}}
        if by == "socket":
            found["ispmail"]["database"]["hosts"] = f"unix:{server.socket}"
            found["ispmail"]["server"]["accounts_host"] = "localhost"
        minion.pillar = found
        if password == OLD:
            minion.apply("ispmail.database")
        else:
            call(minion, "credential_accepted")
        states = minion.apply("ispmail.consumers")
        if by == "port":
            assert states["postfix_map.managed"]["result"] is False and not option_file.exists()
            said = "have the server verified: by its unix socket, or by TLS with tls_CAfile and tls_verify_cert"
            assert said in states["postfix_map.managed"]["comment"]
            return
        assert {state["result"] for state in states.values()} == {True}
        assert password in option_file.read_text()
    call(minion, "credential_sole")
    assert rcpt(unjailed.port, JACK)[0] == 250


def test_a_refused_login_is_told_only_over_a_verified_connection(minion, server):
    """To a wrong password this plugin has no answer: the server asks for the password itself."""
    minion.pillar = pillar(server, accounts_host=[HOST, "localhost"])
    call(minion, "account")
    keys = {"user": "mailserver", "password": NEW, "dbname": "mailserver"}
    for host, number in ((f"{HOST}:{server.port}", 0), (f"unix:{server.socket}", 1045)):
        with pytest.raises(DatabaseError) as caught:
            _ispmail_session.ask({**keys, "hosts": host}, host, [])
        assert caught.value.number == number


def test_no_log_of_the_server_holds_a_password(minion, server, directory):
    """At its most talkative it has hashes only."""
    logs = [directory / "general.log", server.log_file]
    # Other tests set passwords by hand.
    begin = [log.stat().st_size for log in logs]
    call(minion, "account")
    for new in (NEW, OTHER):
        minion.pillar = pillar(server, new)
        call(minion, "credential_accepted")
        call(minion, "credential_sole")
    assert server.logs_in(OTHER)
    logged = b"".join(log.read_bytes()[start:] for log, start in zip(logs, begin))
    assert logged.count(b"IDENTIFIED WITH caching_sha2_password AS '$A$00A$") == 3
    assert not [secret for secret in (OLD, NEW, OTHER) if secret.encode() in logged]


def test_other_accounts_that_read_the_maps_tables_by_roles(minion, server):
    """A role of a MySQL is a locked account: it was told as one to drop, and those who have it were not told."""
    call(minion, "account")
    names = [f"{name}@'127.0.0.1'" for name in ("oldmail", "granted")]
    statements = [
        *(
            "CREATE ROLE webread",
            "CREATE ROLE staff",
            "GRANT SELECT ON mailserver.* TO webread",
            "GRANT webread TO staff",
        ),
        *(f"CREATE USER {name} IDENTIFIED BY '{OTHER}'" for name in names),
        *(f"GRANT staff TO {names[0]}", f"SET DEFAULT ROLE staff TO {names[0]}"),
        # An account that others have as a role may log in all the same.
        *(f"GRANT SELECT ON mailserver.* TO {names[1]}", f"GRANT {names[1]} TO {names[0]}"),
    ]
    try:
        for statement in statements:
            server.sql(statement)
        others = call(minion, "read")["others"]
        assert sorted(others) == ["granted@127.0.0.1", "oldmail@127.0.0.1"]
        assert others["oldmail@127.0.0.1"] == {"drop": "DROP USER 'oldmail'@'127.0.0.1'", "connections": {}}
    finally:
        server.sql(f"DROP USER IF EXISTS {', '.join(names)}")
        server.sql("DROP ROLE IF EXISTS webread, staff")
