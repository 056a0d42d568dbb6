"""The maps' account is not always ours alone, nor at 127.0.0.1; what a server that others have made must not lose."""

import contextlib
import socket
import struct

import pymysql
import pytest
from salt.exceptions import CommandExecutionError

import _ispmail_session
from _ispmail_errors import DatabaseError
from lab import HOST, free_port, scratch
from lab.mariadb import MariaDB, native_hash
from lab.minion import Minion

from .database import ACCOUNT, NAME, NATIVE, NEW, OLD, OTHER, SELECT, Listener, call, guide, in_background, pillar, run


@pytest.fixture
def minion(server):
    guide(server)
    with scratch() as path:
        yield Minion(path, pillar(server))


def account(server, host, password=OLD, grants="SELECT"):
    server.sql(f"CREATE USER mailserver@%s {NATIVE} %s", host, native_hash(password))
    server.sql(f"GRANT {grants} ON mailserver.* TO mailserver@%s", host)


def passwords(minion):
    return {name: found["passwords"] for name, found in call(minion, "read")["accounts"].items()}


# Another program's rights.


@pytest.mark.parametrize("test", [True, False], ids=["dry run", "real"])
def test_rights_that_a_program_may_need_are_kept(minion, server, test):
    """They were revoked without a word: Roundcube's password plugin could no longer write."""
    account(server, HOST, grants="SELECT, INSERT, UPDATE")
    before = server.sql(f"SHOW GRANTS FOR {ACCOUNT}")
    with contextlib.closing(pymysql.connect(host=HOST, port=server.port, user="mailserver", password=OLD)):
        done = call(minion, "account", test=test)
    assert done["changes"] == {}
    assert done["warnings"] == [
        f"{NAME} also has INSERT, UPDATE ON `mailserver`.*, which was left alone, as another program may need it "
        "(connected now: 1 from 127.0.0.1): give that program an account of its own, then set "
        "ispmail:server:revoke_other_grants to true"
    ]
    assert server.sql(f"SHOW GRANTS FOR {ACCOUNT}") == before


@pytest.mark.parametrize("test", [True, False], ids=["dry run", "real"])
def test_rights_are_revoked_where_pillar_says_so_and_said_before(minion, server, test):
    account(server, HOST, grants="SELECT, INSERT, UPDATE")
    minion.pillar = pillar(server, revoke_other_grants=True)
    state = minion.apply("ispmail.database", test=test)["postfix_database.account"]
    assert state["changes"] == {NAME: {"grants": {"old": ["SELECT, INSERT, UPDATE ON `mailserver`.*"], "new": SELECT}}}
    assert (
        f"warning: {NAME} loses INSERT, UPDATE ON `mailserver`.*: a program that needs that fails" in state["comment"]
    )
    assert "(nobody is connected now)" in state["comment"]
    grants = server.sql(f"SHOW GRANTS FOR {ACCOUNT}")[1][0]
    assert grants.startswith("GRANT SELECT, INSERT" if test else "GRANT SELECT ON")


def test_select_is_added_beside_other_rights(minion, server):
    account(server, HOST, grants="INSERT")
    change = call(minion, "account")["changes"][NAME]
    assert change == {"grants": {"old": ["INSERT ON `mailserver`.*"], "new": ["INSERT ON `mailserver`.*", *SELECT]}}
    assert "SELECT, INSERT" in server.sql(f"SHOW GRANTS FOR {ACCOUNT}")[1][0]


def test_an_admin_who_cannot_see_connections_does_not_say_nobody(minion, server):
    account(server, HOST, grants="SELECT, INSERT")
    server.sql(f"CREATE OR REPLACE USER boss@'127.0.0.1' {NATIVE} %s", native_hash(NEW))
    server.sql("GRANT SELECT, CREATE USER ON *.* TO boss@'127.0.0.1' WITH GRANT OPTION")
    config = pillar(server)
    config["ispmail"]["server"] = {"host": HOST, "port": server.port, "user": "boss", "password": NEW}
    minion.pillar = config
    (warning,) = call(minion, "account", test=True)["warnings"]
    assert "(who is connected cannot be seen without the privilege PROCESS" in warning


# The accounts that exist.


def test_the_accounts_that_exist_are_the_managed_ones(minion, server):
    """The guide for trixie makes mailserver@localhost: a rotation said that mailserver@127.0.0.1 is not there."""
    account(server, "localhost")
    account(server, "10.0.0.%")
    assert call(minion, "account") == {"changes": {}, "warnings": []}
    minion.pillar = pillar(server, NEW)
    names = ["mailserver@10.0.0.%", "mailserver@localhost"]
    assert sorted(call(minion, "credential_accepted")["changes"]) == names
    assert passwords(minion) == dict.fromkeys(names, 2)
    assert sorted(call(minion, "credential_sole")["changes"]) == names
    assert passwords(minion) == dict.fromkeys(names, 1)
    assert {found["managed"] for found in call(minion, "read")["accounts"].values()} == {True}


def test_one_of_them_with_another_plugin_is_an_error_and_nothing_is_changed(minion, server):
    account(server, "localhost")
    server.sql("CREATE USER mailserver@'%' IDENTIFIED VIA unix_socket")
    minion.pillar = pillar(server, NEW)
    with pytest.raises(CommandExecutionError, match="Nothing was changed") as caught:
        call(minion, "credential_accepted")
    assert "mailserver@% logs in by unix_socket" in str(caught.value)
    assert "list the hosts of those that they use in server:accounts_host" in str(caught.value)
    assert passwords(minion)["mailserver@localhost"] == 1
    minion.pillar = pillar(server, NEW, accounts_host="localhost")
    done = call(minion, "credential_accepted")
    assert list(done["changes"]) == ["mailserver@localhost"]
    assert done["warnings"][0].startswith("mailserver@% exists too, and was left alone")


def test_with_name_resolving_the_account_of_the_guide_is_rotated(directory):
    """hosts: 127.0.0.1 logs in as mailserver@localhost there."""
    with MariaDB(directory / "resolving", free_port(), options=["--skip-name-resolve=OFF"]) as server:
        guide(server)
        account(server, "localhost")
        with scratch() as path:
            minion = Minion(path, pillar(server, NEW))
            call(minion, "credential_accepted")
            keys = {"user": "mailserver", "password": NEW, "hosts": f"{HOST}:{server.port}"}
            asked = _ispmail_session.ask(keys, keys["hosts"], ["SELECT CURRENT_USER() AS a"])
            assert asked.answers[0].rows == [{"a": "mailserver@localhost"}]
            assert server.logs_in(OLD)
            call(minion, "credential_sole")
            assert server.logs_in(NEW) and not server.logs_in(OLD)


# A connection that is lost in the middle.


def without_tls(greeting):
    """A server's greeting without the flag CLIENT_SSL (0x800)."""
    # Header, protocol, version, thread, half of the nonce, zero; then the flags.
    at = greeting.index(b"\0", 5) + 1 + 4 + 8 + 1
    (flags,) = struct.unpack_from("<H", greeting, at)
    return greeting[:at] + struct.pack("<H", flags & ~0x800) + greeting[at + 2 :]


class CutProxy(Listener):
    """Passes a unix socket on to the server's, and cuts the connection at the n-th statement that begins so.

    It reads the statements, so it does not let the client know that the server takes TLS, as MariaDB does from 11.4 on.
    """

    def __init__(self, path, server, statement, number):
        super().__init__(path)
        self._server, self._statement, self._left = server, statement, number

    def begin(self, peer):
        """Pass on, both ways."""
        upstream = socket.socket(socket.AF_UNIX)
        upstream.connect(self._server)
        peer.sendall(without_tls(upstream.recv(65536)))
        in_background(self._pass, peer, upstream, True)
        in_background(self._pass, upstream, peer, False)

    def _pass(self, source, target, asks):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if asks and data[5:].startswith(self._statement):
                    self._left -= 1
                if not self._left:
                    break
                target.sendall(data)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


HOSTS = ["127.0.0.1", "127.0.0.2", "127.0.0.3"]


@pytest.mark.parametrize("function", ["credential_accepted", "credential_sole", "account"])
def test_a_lost_connection_is_told_with_what_is_done(minion, server, directory, function):
    """It was: error 2006, see that number in the manual. One account had both passwords, two had not."""
    statement = b"ALTER USER"
    if function == "account":
        statement = b"CREATE USER"
    else:
        for host in HOSTS:
            account(server, host)
        if function == "credential_sole":
            minion.pillar = pillar(server, NEW, accounts_host=HOSTS)
            call(minion, "credential_accepted")
    path = directory / f"{function}.sock"
    config = pillar(server, NEW, accounts_host=HOSTS)
    config["ispmail"]["server"]["unix_socket"] = str(path)
    minion.pillar = config
    with CutProxy(path, server.socket, statement, 2), pytest.raises(CommandExecutionError) as caught:
        call(minion, function)
    verb = "create " if function == "account" else ""
    again = "apply ispmail.database again" if function == "account" else f"run {function} again"
    head, *parts = str(caught.value).split("\n- ")
    assert head.endswith(f"{again}, it goes on from there:") and "error 20" in head and "manual" not in head
    assert parts == [
        f"done: {verb}mailserver@127.0.0.1",
        f"may be done: {verb}mailserver@127.0.0.2",
        f"not done: {verb}mailserver@127.0.0.3",
    ]
    minion.pillar = pillar(server, NEW, accounts_host=HOSTS)
    assert sorted(call(minion, function)["changes"]) == ["mailserver@127.0.0.2", "mailserver@127.0.0.3"]
    assert call(minion, function)["changes"] == {}


def test_a_lost_connection_names_the_tables_that_are_done(minion, server, directory):
    config = pillar(server)
    config["ispmail"]["server"]["unix_socket"] = str(directory / "tables.sock")
    minion.pillar = config
    proxy = CutProxy(directory / "tables.sock", server.socket, b"ALTER TABLE", 2)
    with proxy, pytest.raises(CommandExecutionError) as caught:
        call(minion, "tables")
    assert str(caught.value).split("\n- ")[1:] == [
        "done: virtual_domains (index on name)",
        "may be done: virtual_aliases (index on source)",
    ]
    minion.pillar = pillar(server)
    assert list(call(minion, "tables")["changes"]) == ["virtual_aliases"]


# Tables that some addresses stop.

UTF8MB3 = """
ALTER TABLE virtual_domains CONVERT TO CHARACTER SET utf8mb3 COLLATE utf8mb3_general_ci;
ALTER TABLE virtual_users CONVERT TO CHARACTER SET utf8mb3 COLLATE utf8mb3_unicode_ci;
ALTER TABLE virtual_aliases CONVERT TO CHARACTER SET utf8mb3 COLLATE utf8mb3_bin
"""


def collations(server):
    rows = server.sql(
        "SELECT DISTINCT COLLATION_NAME FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = 'mailserver'"
    )
    return {name for (name,) in rows if name}


def test_tables_in_utf8mb3_are_converted(minion, server):
    """Any sender could make each query fail with one 4-byte character. Order, indexes, keys and rows stay."""
    call(minion, "tables")
    run(server, UTF8MB3)
    server.sql(
        "INSERT INTO mailserver.virtual_aliases (domain_id, source, destination) VALUES (1, 'ü@example.org', 'ä@x')"
    )
    before = [server.sql(f"SELECT * FROM mailserver.{table} ORDER BY id") for table in TABLES]
    shape = [structure(server, table) for table in TABLES]
    would = call(minion, "tables", test=True)
    assert collations(server) == {"utf8mb3_general_ci", "utf8mb3_unicode_ci", "utf8mb3_bin"}
    assert would["changes"] == {
        "virtual_domains": {"old": None, "new": ["utf8mb4 for name"]},
        "virtual_users": {"old": None, "new": ["utf8mb4 for email", "utf8mb4 for password"]},
        "virtual_aliases": {"old": None, "new": ["utf8mb4 for source", "utf8mb4 for destination"]},
    }
    with pytest.raises(Exception, match="Illegal mix of collations"):
        server.sql("SELECT 1 FROM mailserver.virtual_aliases WHERE source = %s", "j😂@example.org")
    assert call(minion, "tables") == would
    assert collations(server) == {"utf8mb4_general_ci", "utf8mb4_unicode_ci", "utf8mb4_bin"}
    assert server.sql("SELECT 1 FROM mailserver.virtual_aliases WHERE source = %s", "j😂@example.org") == ()
    assert [server.sql(f"SELECT * FROM mailserver.{table} ORDER BY id") for table in TABLES] == before
    assert [structure(server, table) for table in TABLES] == shape
    assert call(minion, "tables") == {"changes": {}, "warnings": []}


TABLES = ("virtual_domains", "virtual_users", "virtual_aliases")


def structure(server, table):
    """All of SHOW CREATE TABLE but for character sets."""
    text = server.sql(f"SHOW CREATE TABLE mailserver.{table}")[0][1]
    words = [word for word in text.split() if "utf8mb" not in word]
    return [word for word in words if word not in ("CHARACTER", "SET", "COLLATE")]


@pytest.mark.parametrize(
    ("change", "column"),
    [
        ("CONVERT TO CHARACTER SET latin1", "source (latin1_swedish_ci), destination (latin1_swedish_ci)"),
        ("MODIFY source VARCHAR(100) CHARACTER SET utf8mb3 COLLATE utf8mb3_bin NOT NULL", "source (utf8mb3_bin)"),
    ],
)
def test_what_only_a_human_can_convert_is_named(minion, server, change, column):
    call(minion, "tables")
    server.sql(f"ALTER TABLE mailserver.virtual_aliases {change}")
    before = collations(server)
    done = call(minion, "tables")
    assert done["changes"] == {} and collations(server) == before
    assert done["warnings"] == [
        f"mailserver.virtual_aliases: convert {column} to utf8mb4 by hand, see ALTER TABLE … MODIFY, after a look at "
        "what they hold"
    ]


def test_a_conversion_does_not_queue_lookups_behind_a_lock(minion, server):
    call(minion, "tables")
    run(server, UTF8MB3)
    connection = server.connect(autocommit=False, database="mailserver")
    with contextlib.closing(connection), connection.cursor() as cursor:
        cursor.execute("SELECT * FROM virtual_users")
        with pytest.raises(CommandExecutionError, match="error 1205: another session holds a lock") as caught:
            call(minion, "tables")
    assert "\n- done: virtual_domains (utf8mb4 for name)\n- failed: virtual_users (" in str(caught.value)
    assert list(call(minion, "tables")["changes"]) == ["virtual_users", "virtual_aliases"]


def test_an_index_too_long_for_its_row_format_is_named(minion, server):
    call(minion, "tables")
    run(server, "ALTER TABLE virtual_aliases ROW_FORMAT=COMPACT, MODIFY source VARCHAR(191) NOT NULL")
    for column in ("source", "destination"):
        run(server, f"ALTER TABLE virtual_aliases MODIFY {column} VARCHAR(255) CHARACTER SET utf8mb3 NOT NULL")
    with pytest.raises(CommandExecutionError, match="error 1709: an index is too long for the table's row format"):
        call(minion, "tables")
    run(server, "ALTER TABLE virtual_aliases ROW_FORMAT=DYNAMIC")
    assert list(call(minion, "tables")["changes"]) == ["virtual_aliases"]


# A password that expires.


def test_the_account_that_is_made_does_not_expire(minion, server):
    server.sql("SET GLOBAL default_password_lifetime = 1")
    try:
        assert call(minion, "account")["changes"][NAME]["expires"] == {"old": None, "new": "never"}
        assert call(minion, "read")["accounts"][NAME]["expires"] is None
        server.sql(f"ALTER USER {ACCOUNT} PASSWORD EXPIRE DEFAULT")
        expires = call(minion, "read")["accounts"][NAME]["expires"]
        assert 86400 - 60 < expires["seconds"] <= 86400
    finally:
        server.sql("SET GLOBAL default_password_lifetime = 0")


@pytest.mark.parametrize("disconnect", ["ON", "OFF"])
def test_an_expired_password_is_the_accounts_and_a_rotation_cures_it(minion, server, disconnect):
    """It was told as the admin's."""
    account(server, HOST)
    server.sql(f"SET GLOBAL disconnect_on_expired_password = {disconnect}")
    try:
        server.sql(f"ALTER USER {ACCOUNT} PASSWORD EXPIRE")
        keys = {"user": "mailserver", "password": OLD, "hosts": f"{HOST}:{server.port}"}
        number = 1862 if disconnect == "ON" else 1820
        with pytest.raises(DatabaseError, match=f"error {number}: the account's password has expired"):
            _ispmail_session.ask(keys, keys["hosts"], ["SELECT 1"])
        assert call(minion, "account")["warnings"][0].startswith(f"the password of {NAME} expires")
        minion.pillar = pillar(server, NEW)
        call(minion, "credential_accepted")
        assert _ispmail_session.ask(keys, keys["hosts"], ["SELECT 1 AS a"]).answers[0].rows == [{"a": 1}]
    finally:
        server.sql("SET GLOBAL disconnect_on_expired_password = OFF")


def test_an_admin_whose_password_has_expired_is_told_so(minion, server):
    server.sql(f"CREATE OR REPLACE USER boss@'127.0.0.1' {NATIVE} %s PASSWORD EXPIRE", native_hash(NEW))
    config = pillar(server)
    config["ispmail"]["server"] = {"host": HOST, "port": server.port, "user": "boss", "password": NEW}
    minion.pillar = config
    with pytest.raises(CommandExecutionError, match="error 1820: the admin's own password has expired: set a new one"):
        call(minion, "account")


# An account that is left behind.


def test_other_accounts_that_read_the_maps_tables(minion, server):
    """After a change of user in pillar the old account kept its password and its rights, and nobody said so."""
    call(minion, "account")
    tables = ["virtual_domains", "virtual_users", "virtual_aliases"]
    wanted = {
        "oldserver@127.0.0.1": ["SELECT ON mailserver.*"],
        "oldserver@10.0.0.%": [f"SELECT ON mailserver.{table}" for table in tables],
        "oldserver@10.0.1.%": ["SELECT, INSERT ON `mail%`.*"],
        # An admin, and a program that has an account of its own.
        "oldserver@10.0.2.%": ["SELECT ON *.*"],
        "oldserver@10.0.3.%": ["SELECT (email, password), UPDATE ON mailserver.virtual_users"],
        "oldserver@10.0.4.%": ["SELECT ON mailserver.virtual_users"],
    }
    # Whoever reads all of the guide's tables need not read another program's.
    server.sql("CREATE TABLE mailserver.notes (id INT PRIMARY KEY)")
    for name, grants in wanted.items():
        user, _, host = name.partition("@")
        server.sql(f"CREATE USER %s@%s {NATIVE} %s", user, host, native_hash(OTHER))
        for grant in grants:
            server.sql(f"GRANT {grant.replace('%', '%%')} TO %s@%s", user, host)
    others = call(minion, "read")["others"]
    assert sorted(others) == ["oldserver@10.0.0.%", "oldserver@10.0.1.%", "oldserver@127.0.0.1"]
    assert others["oldserver@127.0.0.1"] == {"drop": "DROP USER 'oldserver'@'127.0.0.1'", "connections": {}}
    with contextlib.closing(pymysql.connect(host=HOST, port=server.port, user="oldserver", password=OTHER)):
        assert call(minion, "read")["others"]["oldserver@127.0.0.1"]["connections"] == {HOST: 1}
    server.sql(others["oldserver@10.0.0.%"]["drop"])
    minion.pillar = pillar(server, known_accounts=["oldserver"])
    assert call(minion, "read")["others"] == {}


def test_other_accounts_that_read_the_maps_tables_by_roles(minion, server):
    """Their rights counted as none. The roles of a MariaDB themselves are no accounts."""
    call(minion, "account")
    user = f"IDENTIFIED VIA mysql_native_password USING '{native_hash(OTHER)}'"
    statements = [
        *("CREATE ROLE webread", "CREATE ROLE staff"),
        *("GRANT SELECT ON mailserver.virtual_users TO webread", "GRANT webread TO staff"),
        *(f"GRANT SELECT ON mailserver.virtual_{table} TO staff" for table in ("domains", "aliases")),
        *(f"CREATE USER {name}@'127.0.0.1' {user}" for name in ("oldmail", "chooser", "partly", "overseer")),
        *("GRANT staff TO oldmail@'127.0.0.1'", "SET DEFAULT ROLE staff FOR oldmail@'127.0.0.1'"),
        *("GRANT staff TO chooser@'127.0.0.1'", "GRANT webread TO partly@'127.0.0.1'"),
        *("GRANT staff TO overseer@'127.0.0.1'", "GRANT SELECT ON *.* TO overseer@'127.0.0.1'"),
    ]
    for statement in statements:
        server.sql(statement)
    try:
        with contextlib.closing(pymysql.connect(host=HOST, port=server.port, user="oldmail", password=OTHER)) as client:
            with client.cursor() as cursor:
                for table in ("users", "domains", "aliases"):
                    cursor.execute(f"SELECT COUNT(*) FROM mailserver.virtual_{table}")
            others = call(minion, "read")["others"]
        assert others.pop("oldmail@127.0.0.1") == {"drop": "DROP USER 'oldmail'@'127.0.0.1'", "connections": {HOST: 1}}
        # The test above leaves its own.
        assert [name for name in others if not name.startswith("oldserver@")] == ["chooser@127.0.0.1"]
    finally:
        for name in ("webread", "staff"):
            server.sql(f"DROP ROLE {name}")
        for name in ("oldmail", "chooser", "partly", "overseer"):
            server.sql(f"DROP USER {name}@'127.0.0.1'")
