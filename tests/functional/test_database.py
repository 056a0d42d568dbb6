"""postfix_database on a real MariaDB with its general log on: tables, account, passwords."""

import contextlib
import itertools
import os
import re
import subprocess
import threading
import time

import pymysql
import pytest
from salt.exceptions import CommandExecutionError, SaltInvocationError

import _ispmail_session
import _ispmail_tablefile
from _ispmail_errors import DatabaseError, InvalidInput
from lab import HOST, scratch, wait_until
from lab.mariadb import native_hash
from lab.minion import Minion

from .database import (
    ACCOUNT,
    NAME,
    NATIVE,
    NEW,
    OLD,
    OTHER,
    PLUGINS,
    ROWS,
    SELECT,
    AskingServer,
    call,
    certificate,
    guide,
    pillar,
    run,
)

INDEXED = {
    "virtual_domains": {"old": None, "new": ["index on name"]},
    "virtual_aliases": {"old": None, "new": ["index on source"]},
}


@pytest.fixture
def minion(server):
    with scratch() as path:
        yield Minion(path, pillar(server))


def login(server, password, **options):
    """Whether this password is accepted over TCP."""
    return server.logs_in(password.encode(), **options)


def indexes(server, table):
    """Column to whether its index is unique."""
    rows = server.sql("SELECT COLUMN_NAME, NON_UNIQUE FROM information_schema.STATISTICS WHERE TABLE_NAME = %s", table)
    return {column: not others for column, others in rows if column not in ("id", "domain_id")}


def priv(server, host=HOST):
    rows = server.sql("SELECT Priv FROM mysql.global_priv WHERE User = 'mailserver' AND Host = %s", host)
    return rows[0][0] if rows else None


def both_ways(minion, function):
    """What a dry run tells is what the real one does and tells; and then there is nothing left to do."""
    would = call(minion, function, test=True)
    done = call(minion, function)
    assert would == done
    assert call(minion, function)["changes"] == {} == call(minion, function, test=True)["changes"]
    return done


def test_tables_from_nothing(minion, server):
    would = call(minion, "tables", test=True)
    assert server.sql("SHOW DATABASES LIKE 'mailserver'") == ()
    assert would == both_ways(minion, "tables")
    assert list(would["changes"]) == ["database", "virtual_domains", "virtual_users", "virtual_aliases"]
    assert would["warnings"] == []
    run(server, ROWS)
    assert indexes(server, "virtual_domains") == {"name": True}
    assert indexes(server, "virtual_users") == {"email": True}
    assert indexes(server, "virtual_aliases") == {"source": False}
    types = server.sql(
        "SELECT CONCAT(TABLE_NAME, '.', COLUMN_NAME), COLUMN_TYPE, CHARACTER_SET_NAME FROM information_schema.COLUMNS"
        " WHERE TABLE_SCHEMA = 'mailserver' AND COLUMN_NAME NOT LIKE '%%id'"
    )
    text = "utf8mb4"
    assert {(name.removeprefix("virtual_"), type_.partition("(11)")[0], charset) for name, type_, charset in types} == {
        ("domains.name", "varchar(50)", text),
        ("users.email", "varchar(100)", text),
        ("users.password", "varchar(150)", text),
        ("users.quota", "bigint(20)", None),
        ("aliases.source", "varchar(100)", text),
        ("aliases.destination", "varchar(100)", text),
    }
    assert server.sql("SELECT quota FROM mailserver.virtual_users") == ((0,),)
    server.sql("DELETE FROM mailserver.virtual_domains")
    assert server.sql("SELECT 1 FROM mailserver.virtual_users UNION SELECT 1 FROM mailserver.virtual_aliases") == ()


def test_tables_of_the_guide_get_the_indexes_that_they_lack(minion, server):
    guide(server)
    before = [server.sql(f"SELECT * FROM mailserver.{table}") for table in INDEXED]
    call(minion, "tables", test=True)
    assert indexes(server, "virtual_domains") == {}
    assert both_ways(minion, "tables") == {"changes": INDEXED, "warnings": []}
    assert indexes(server, "virtual_domains") == {"name": True}
    assert indexes(server, "virtual_users") == {"email": True}
    assert indexes(server, "virtual_aliases") == {"source": False}
    assert [server.sql(f"SELECT * FROM mailserver.{table}") for table in INDEXED] == before


def test_doubles_get_a_plain_index_and_a_warning(minion, server):
    guide(server)
    server.sql("INSERT INTO mailserver.virtual_domains (name) VALUES ('EXAMPLE.org')")
    done = both_ways(minion, "tables")
    assert done["changes"] == INDEXED
    assert "virtual_domains.name has a value in several rows" in done["warnings"][0]
    assert indexes(server, "virtual_domains") == {"name": False}
    server.sql("DELETE FROM mailserver.virtual_domains WHERE id > 1")
    assert both_ways(minion, "tables") == {
        "changes": {"virtual_domains": {"old": None, "new": ["index on name"]}},
        "warnings": [],
    }
    assert server.sql("SELECT COUNT(*) FROM mailserver.virtual_aliases") == ((2,),)


def test_a_foreign_key_is_added_where_rows_allow(minion, server):
    guide(server)
    server.sql("ALTER TABLE mailserver.virtual_aliases DROP FOREIGN KEY virtual_aliases_ibfk_1")
    server.sql("INSERT INTO mailserver.virtual_aliases (domain_id, source, destination) VALUES (9, 'x@y', 'z@y')")
    done = both_ways(minion, "tables")
    assert done["changes"] == INDEXED
    assert (
        "virtual_aliases.domain_id cannot become a foreign key: some of its rows name a domain" in done["warnings"][0]
    )
    server.sql("DELETE FROM mailserver.virtual_aliases WHERE domain_id = 9")
    new = {"virtual_aliases": {"old": None, "new": ["foreign key domain_id"]}}
    assert both_ways(minion, "tables") == {"changes": new, "warnings": []}


def test_a_column_with_a_default_is_added_others_are_refused(minion, server):
    guide(server)
    server.sql("ALTER TABLE mailserver.virtual_users DROP COLUMN quota")
    assert both_ways(minion, "tables")["changes"]["virtual_users"]["new"] == ["column quota"]
    server.sql("ALTER TABLE mailserver.virtual_users DROP COLUMN email")
    server.sql("ALTER TABLE mailserver.virtual_aliases DROP INDEX source")
    with pytest.raises(
        SaltInvocationError, match=r"virtual_users exists without email, so it is not the guide's table: add"
    ):
        call(minion, "tables")
    assert indexes(server, "virtual_aliases") == {}


@pytest.mark.parametrize("table", ["view", "no wish"])
def test_what_is_not_ours_to_change(minion, server, table):
    guide(server)
    if table == "view":
        run(server, "RENAME TABLE virtual_aliases TO a; CREATE VIEW virtual_aliases AS SELECT id, domain_id FROM a")
        with pytest.raises(
            CommandExecutionError, match="virtual_aliases is a view, nothing was changed: set ispmail:ser"
        ):
            call(minion, "tables")
    else:
        minion.pillar = pillar(server, create_tables=False)
        done = call(minion, "tables")
        said = "mailserver.virtual_domains is missing index on name, and create_tables is false: add it by hand"
        assert done["changes"] == {} and said in done["warnings"]
        # A database with tables of its own lacks none of the guide's.
        run(server, "DROP TABLE virtual_aliases")
        assert not [text for text in call(minion, "tables")["warnings"] if "virtual_aliases" in text]
    assert indexes(server, "virtual_domains") == {}


def test_an_index_does_not_queue_lookups_behind_a_lock(minion, server):
    """An ALTER that waits for a lock stops all SELECTs behind it: a backup's transaction would stop the mail."""
    guide(server)
    connection = server.connect(autocommit=False, database="mailserver")
    with contextlib.closing(connection), connection.cursor() as cursor:
        cursor.execute("SELECT * FROM virtual_domains")
        cursor.execute("SET SESSION idle_transaction_timeout = 30")
        began = time.monotonic()
        with pytest.raises(CommandExecutionError, match="error 1205: another session holds a lock"):
            call(minion, "tables")
        assert time.monotonic() - began < 9
    assert call(minion, "tables")["changes"] == INDEXED


def test_the_account_from_nothing(minion, server):
    call(minion, "tables")
    would = call(minion, "account", test=True)
    assert priv(server) is None
    assert would == both_ways(minion, "account")
    assert would["changes"] == {
        NAME: {
            "account": {"old": None, "new": "made"},
            "password": {"old": None, "new": "***"},
            "expires": {"old": None, "new": "never"},
            "grants": {"old": [], "new": SELECT},
        }
    }
    assert login(server, OLD, database="mailserver") and not login(server, NEW)
    accounts = call(minion, "read")["accounts"]
    assert 0 <= accounts[NAME].pop("age") < 600
    assert accounts == {
        NAME: {
            "managed": True,
            "grants": SELECT,
            "plugins": ["mysql_native_password"],
            "passwords": 1,
            "locked": False,
            "expires": None,
        }
    }


def test_an_existing_account_keeps_its_password(minion, server):
    call(minion, "account")
    before = priv(server)
    minion.pillar = pillar(server, NEW)
    done = call(minion, "account")
    assert done == {
        "changes": {},
        "warnings": [f"{NAME} does not accept pillar's password: see credential_accepted"],
    }
    assert priv(server) == before


GRANTS = {
    "none": "REVOKE SELECT ON mailserver.* FROM {}",
    "all here": "GRANT ALL ON mailserver.* TO {} WITH GRANT OPTION",
    "all everywhere": "GRANT ALL ON *.* TO {} WITH GRANT OPTION; REVOKE SELECT ON mailserver.* FROM {}",
    "one more": "GRANT INSERT ON mailserver.* TO {}",
    "may grant": "GRANT SELECT ON mailserver.* TO {} WITH GRANT OPTION",
    "columns": "GRANT SELECT (id), UPDATE (id, name) ON mailserver.virtual_domains TO {}",
    "elsewhere": "GRANT SELECT ON `mail%`.* TO {}; GRANT DELETE ON other.t TO {}",
    "role": "GRANT lab_role TO {}; SET DEFAULT ROLE lab_role FOR {}",
    "others": "GRANT FILE ON *.* TO {}; GRANT PROXY ON 'a'@'%' TO {}; GRANT EXECUTE ON PROCEDURE mailserver.p TO {}",
}


@pytest.mark.parametrize("case", GRANTS)
def test_grants_become_exactly_select(minion, server, case):
    """And no lookup fails meanwhile: SELECT is never taken away, not even to be given back."""
    call(minion, "tables")
    call(minion, "account")
    minion.pillar = pillar(server, revoke_other_grants=True)
    server.sql("CREATE ROLE IF NOT EXISTS lab_role")
    run(server, "CREATE PROCEDURE p() SELECT 1; CREATE TABLE IF NOT EXISTS test_other (a INT)")
    run(server, "CREATE DATABASE IF NOT EXISTS other; CREATE TABLE IF NOT EXISTS other.t (a INT)")
    before = priv(server)
    run(server, GRANTS[case].replace("{}", ACCOUNT))
    would = call(minion, "account", test=True)
    with lookups(server) as failed:
        done = call(minion, "account")
    assert done["changes"] == would["changes"]
    assert [text.partition(" loses ")[0] for text in would["warnings"]] == [NAME] * (case != "none")
    assert call(minion, "account") == call(minion, "account", test=True) == {"changes": {}, "warnings": []}
    assert failed == [] or case == "none"
    assert list(done["changes"][NAME]) == ["grants"]
    assert done["changes"][NAME]["grants"]["new"] == SELECT
    lines = [line for (line,) in server.sql(f"SHOW GRANTS FOR {ACCOUNT}") if not line.startswith("SET DEFAULT")]
    assert [line.partition(" TO ")[0] for line in lines] == ["GRANT USAGE ON *.*", "GRANT SELECT ON `mailserver`.*"]
    assert native_hash(OLD) in priv(server) and native_hash(OLD) in before
    assert login(server, OLD, database="mailserver")


@contextlib.contextmanager
def lookups(server):
    """Ask by a new connection each time, as fast as it goes; collects what fails."""
    failed, on = [], threading.Event()

    def ask():
        while not on.is_set():
            try:
                options = {"host": HOST, "port": server.port, "user": "mailserver", "password": OLD}
                with contextlib.closing(pymysql.connect(database="mailserver", **options)) as connection:
                    connection.cursor().execute("SELECT name FROM virtual_domains")
            except Exception as err:  # of whatever class: see MariaDB.logs_in
                failed.append(err.args[0])

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield failed
    finally:
        on.set()
        thread.join()


def test_an_underscore_in_the_name_is_no_wildcard(minion, server):
    """GRANT reads mail_server as a pattern: the account could read mailXserver too."""
    new = pillar(server)
    new["ispmail"]["database"]["dbname"] = "mail_server"
    minion.pillar = new
    server.sql(f"CREATE USER {ACCOUNT}")
    server.sql(f"GRANT SELECT ON `mail_server`.* TO {ACCOUNT}")
    both_ways(minion, "account")
    assert r"GRANT SELECT ON `mail\_server`.* TO" in server.sql(f"SHOW GRANTS FOR {ACCOUNT}")[1][0]


def test_accepted_then_sole(minion, server):
    call(minion, "tables")
    call(minion, "account")
    server.sql(f"ALTER USER {ACCOUNT} WITH MAX_USER_CONNECTIONS 99")
    grants = server.sql(f"SHOW GRANTS FOR {ACCOUNT}")[1:]
    minion.pillar = pillar(server, NEW)
    before = priv(server)
    secret = {"old": "***", "new": "***"}
    accepted = call(minion, "credential_accepted", test=True)
    assert priv(server) == before
    assert accepted == both_ways(minion, "credential_accepted")
    assert accepted == {
        "changes": {NAME: {"password": secret, "passwords": {"old": 1, "new": 2}}},
        "warnings": [],
    }
    assert login(server, OLD, database="mailserver") and login(server, NEW, database="mailserver")
    assert call(minion, "read")["accounts"][NAME]["passwords"] == 2
    before = priv(server)
    sole = call(minion, "credential_sole", test=True)
    assert priv(server) == before
    assert sole == both_ways(minion, "credential_sole")
    assert sole["changes"] == {NAME: {"password": secret, "passwords": {"old": 2, "new": 1}}}
    assert not login(server, OLD) and login(server, NEW, database="mailserver")
    assert server.sql(f"SHOW GRANTS FOR {ACCOUNT}")[1:] == grants
    assert '"max_user_connections":99' in priv(server)


def test_each_change_leaves_a_line_in_the_log(minion, server, caplog):
    def logged(function, test=False):
        caplog.clear()
        call(minion, function, test=test)
        lines = [
            record
            for record in caplog.records
            if record.name in ("_ispmail_accounts", "_ispmail_credential", "_ispmail_schema")
        ]
        assert not [line for line in lines if line.levelname != "INFO" or "*" in line.getMessage()]
        return [re.sub(r"[0-9]+\.[0-9] s\b", "N s", line.getMessage()) for line in lines]

    assert logged("tables", test=True) == [] == logged("account", test=True)
    (tables,) = logged("tables")
    assert tables.startswith(
        "Created or altered in N s: database mailserver; virtual_domains (table); virtual_users (table);"
    )
    assert logged("account") == [f"Done in N s: create {NAME}"]
    minion.pillar = pillar(server, revoke_other_grants=True)
    server.sql(f"GRANT INSERT ON mailserver.* TO {ACCOUNT}")
    assert logged("account") == [f"Done in N s: change the grants of {NAME}"]
    minion.pillar = pillar(server, NEW)
    assert logged("credential_accepted") == [f"{NAME} now accepts 2 passwords, pillar's first, after N s"]
    assert logged("credential_sole", test=True) == []
    assert logged("credential_sole") == [f"{NAME} accepts only pillar's password, 1 old password dropped, after N s"]
    assert logged("credential_sole") == [] == logged("tables")


def test_going_back_while_others_are_accepted(minion, server):
    """To the oldest one: it has to be the first again, or PyMySQL would not get to it; none is dropped meanwhile."""
    call(minion, "account")
    for password in (NEW, OTHER):
        minion.pillar = pillar(server, password)
        call(minion, "credential_accepted")
    minion.pillar = pillar(server, OLD)
    with pytest.raises(CommandExecutionError, match="another rotation has begun: rotate again"):
        call(minion, "credential_sole")
    assert both_ways(minion, "credential_accepted")["changes"][NAME]["passwords"] == {"old": 3, "new": 3}
    assert login(server, OLD) and all(login_by_client(server, each) for each in (OLD, NEW, OTHER))
    assert both_ways(minion, "credential_sole")["changes"]
    assert login(server, OLD) and not login(server, NEW) and not login(server, OTHER)


def login_by_client(server, password):
    """Whether libmariadb gets in over TCP, as Postfix does."""
    command = ["mariadb", f"--host={HOST}", f"--port={server.port}", "--user=mailserver", "--execute=SELECT 1"]
    environment = {**os.environ, "MYSQL_PWD": password}
    return not subprocess.run(command, check=False, capture_output=True, env=environment).returncode


def test_pillar_changes_in_the_middle_of_a_rotation(minion, server):
    """Some servers use the first password then, some the second, and the third has to go to all: none is locked out."""
    call(minion, "account")
    passwords = [OLD, NEW, OTHER, "a fourth"]
    for number, password in enumerate(passwords[1:], 1):
        minion.pillar = pillar(server, password)
        done = both_ways(minion, "credential_accepted")
        assert done["changes"][NAME]["passwords"] == {"old": number, "new": number + 1}
        assert all(login_by_client(server, each) for each in passwords[: number + 1])
        assert login(server, password)
    assert both_ways(minion, "credential_sole")["changes"][NAME]["passwords"] == {"old": 4, "new": 1}
    assert [login(server, password) for password in passwords] == [False, False, False, True]


def test_all_accounts_of_pillar_change_others_are_told_of(minion, server):
    hosts = [HOST, "10.0.0.%"]
    minion.pillar = pillar(server, accounts_host=hosts)
    assert len(call(minion, "account")["changes"]) == 2
    server.sql(
        "CREATE USER mailserver@'198.51.100.7' IDENTIFIED VIA mysql_native_password USING %s", native_hash(OTHER)
    )
    stranger = priv(server, "198.51.100.7")
    minion.pillar = pillar(server, NEW, accounts_host=hosts)
    done = both_ways(minion, "credential_accepted")
    assert list(done["changes"]) == [f"mailserver@{host}" for host in hosts]
    assert "mailserver@198.51.100.7 exists too, and was left alone" in done["warnings"][0]
    for host in hosts:
        assert native_hash(OLD) in priv(server, host) and native_hash(NEW) in priv(server, host)
    assert priv(server, "198.51.100.7") == stranger


@pytest.mark.parametrize("password", ["", "gr\u00fc\u00dfe-\u20ac'\"\\%s"])
def test_any_password_can_be_the_old_one_and_the_new_one(minion, server, password):
    """PyMySQL encodes a text as latin1, Postfix sends what the file holds: UTF-8. And none at all is one, too."""
    server.sql(
        f"CREATE USER {ACCOUNT} IDENTIFIED VIA mysql_native_password USING %s", password and native_hash(password)
    )
    minion.pillar = pillar(server, NEW)
    both_ways(minion, "credential_accepted")
    assert login(server, password) and login(server, NEW)
    both_ways(minion, "credential_sole")
    assert not login(server, password) and login(server, NEW)
    if password:
        minion.pillar = pillar(server, password)
        both_ways(minion, "credential_accepted")
        assert login(server, password) and login(server, NEW)


def test_an_empty_password_beside_ours_is_seen_and_dropped(minion, server):
    """MariaDB leaves it out of its own notes; overlooked, everybody could go on logging in without one."""
    beside = f"{NATIVE} '{native_hash(OLD)}' OR mysql_native_password USING ''"
    server.sql(f"CREATE USER {ACCOUNT} {beside}")
    assert login(server, "")
    assert call(minion, "read")["accounts"][NAME]["passwords"] == 2
    assert both_ways(minion, "credential_sole")["changes"]
    assert login(server, OLD) and not login(server, "")


def test_an_account_that_accepts_nothing_gets_the_new_one(minion, server):
    server.sql(f"CREATE USER {ACCOUNT} IDENTIFIED VIA mysql_native_password USING 'invalid'")
    assert both_ways(minion, "credential_accepted")["changes"][NAME]["passwords"] == {"old": 0, "new": 1}
    assert login(server, OLD)


REFUSED = {
    "no account": (None, "credential_accepted", r"does not exist: run postfix_database\.account first"),
    "socket beside": (
        f"{NATIVE} '{native_hash(OLD)}' OR unix_socket",
        "credential_accepted",
        "logs in by unix_socket,",
    ),
    "socket": ("IDENTIFIED VIA unix_socket", "credential_sole", "logs in by unix_socket, .* give it a password"),
    "ed25519": ("ed25519", "credential_accepted", "logs in by ed25519, which smtpd's chroot and PyMySQL do not have"),
    "not accepted": (f"{NATIVE} '{native_hash(OLD)}'", "credential_sole", "run credential_accepted first"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("test", [False, True], ids=["real", "dry run"])
def test_what_would_lock_somebody_out_is_refused(minion, server, case, test):
    how, function, said = REFUSED[case]
    minion.pillar = pillar(server, NEW, accounts_host=["198.51.100.7", HOST])
    server.sql(f"CREATE USER mailserver@'198.51.100.7' {NATIVE} %s", native_hash(OLD))
    if how == "ed25519":
        # Debian's core package lacks the plugin itself: as where it was uninstalled.
        server.sql(f"CREATE USER {ACCOUNT}")
        server.sql("UPDATE mysql.global_priv SET Priv = JSON_SET(Priv, '$.plugin', 'ed25519') WHERE Host = %s", HOST)
    elif how:
        server.sql(f"CREATE USER {ACCOUNT} {how}")
    before = priv(server), priv(server, "198.51.100.7")
    with pytest.raises(CommandExecutionError, match=said) as caught:
        call(minion, function, test=test)
    assert "Nothing was changed" in str(caught.value)
    assert (priv(server), priv(server, "198.51.100.7")) == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"password": "a\nb"}, "ispmail:database:password has a newline"),
        ({"password": ""}, "ispmail:database:password is missing or empty"),
        ({"password": None}, "ispmail:database:password is missing or empty"),
        ({"password": "*" * 10}, "ispmail:database:password is Salt's mask"),
        ({"accounts_host": []}, "ispmail:server:accounts_host must be a text or a list"),
        ({"port": "x"}, "ispmail:server:port must be a number"),
        ({"unixsocket": "x"}, "ispmail:server:unixsocket is not a key"),
        ({"host": "192.0.2.1"}, "ispmail:server:host is there beside unix_socket"),
    ],
)
def test_faults_of_pillar_are_refused_before_anybody_is_asked(minion, server, change, said):
    password = change.pop("password", OLD)
    minion.pillar = pillar(server, password, **change)
    for function in ("account", "credential_accepted", "credential_sole"):
        with pytest.raises(SaltInvocationError, match="Pillar has errors, nothing was changed") as caught:
            call(minion, function)
        assert said in str(caught.value)


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"database": {"dbnam": "vmail"}}, "ispmail:database:dbnam is not a key of ispmail: is dbname meant?"),
        ({"srever": {"accounts_host": "10.0.0.1"}}, "ispmail:srever is not a key of ispmail: is server meant?"),
        ({"preset": "postfix-admin"}, "ispmail:preset must be one of ispmail, postfixadmin"),
        ({"server": {"accounts_host": "mailserver@127.0.0.1"}}, "ispmail:server:accounts_host has an @"),
    ],
)
def test_misspelt_pillar_makes_nothing(minion, server, section, said):
    """It acted on the defaults: the database mailserver, and an account at 127.0.0.1."""
    found = pillar(server)["ispmail"]
    for key, value in section.items():
        found[key] = {**found.get(key, {}), **value} if isinstance(value, dict) else value
    minion.pillar = {"ispmail": found}
    for function in ("tables", "account"):
        with pytest.raises(SaltInvocationError) as caught:
            call(minion, function)
        assert said in str(caught.value)
    assert server.sql("SHOW DATABASES LIKE 'mailserver'") == () and priv(server) is None


def test_a_server_that_cannot_be_asked(minion, server, silent_port):
    """Bounded in time, and told in words of ours: the server's own may hold anything."""
    for section, said in (
        ({"unix_socket": "/nowhere"}, "the database server at /nowhere: error 2003: it cannot be reached"),
        ({"user": "nobody"}, "error 1698: access is denied: run Salt as root on the database server"),
        (
            {"unix_socket": None, "host": HOST, "port": silent_port},
            f"at {HOST}:{silent_port}: error 2013: it did not ans",
        ),
    ):
        minion.pillar = pillar(server, **section)
        began = time.monotonic()
        with pytest.raises(CommandExecutionError) as caught:
            call(minion, "tables")
        assert said in str(caught.value)
        assert time.monotonic() - began < 12


NOT_GIVEN = "the clear-text password, which was not given|asks for a login plugin that is not supported|login protocol"


ADMIN = ["read", "tables", "account", "credential_accepted", "credential_sole"]


def test_a_server_that_asks_for_the_password_itself_gets_nothing(minion, server, asking_server):
    """PyMySQL would send it to whoever answers at that address, in clear or encrypted with that one's own key."""
    config = pillar(server)
    config["ispmail"]["server"] = {"host": HOST, "port": asking_server.port, "user": "admin", "password": OTHER}
    minion.pillar = config
    for _, function in zip(asking_server.plugins, itertools.cycle(ADMIN)):
        with pytest.raises(CommandExecutionError, match=NOT_GIVEN):
            call(minion, function)
    asking_server.check("admin", OTHER)


def ask(keys, host):
    return _ispmail_session.ask({**keys, "hosts": host}, host, ["SELECT 1 AS a"])


@pytest.mark.parametrize("verify", [None, "no"])
def test_ask_gives_it_to_no_server_whose_name_was_not_verified(asking_server, directory, verify):
    """With the table file's TLS keys its certificate is a good one; but for which host?"""
    host = f"{HOST}:{asking_server.port}"
    keys = {"user": "mailserver", "password": OTHER, "hosts": host}
    if asking_server.certificate:
        keys["tls_CAfile"] = str(asking_server.certificate)
    if verify:
        keys["tls_verify_cert"] = verify
    for _ in asking_server.plugins:
        with pytest.raises(DatabaseError, match=NOT_GIVEN):
            _ispmail_session.ask(keys, host, ["SELECT 1"])
    asking_server.check("mailserver", OTHER)


@pytest.mark.parametrize("plugin", ["sha256_password", "caching_sha2_password"])
@pytest.mark.parametrize("name", [HOST, "127.0.0.2"])
def test_ask_gives_it_to_a_server_whose_certificate_has_its_name(directory, plugin, name):
    file = certificate(directory, name)
    keys = {"user": "mailserver", "password": OTHER, "tls_CAfile": str(file), "tls_verify_cert": "yes"}
    with AskingServer(plugin, tls=file, full=True) as other:
        with pytest.raises(DatabaseError, match="error 2013" if name == HOST else "error 2026: TLS failed"):
            ask(keys, f"{HOST}:{other.port}")
        assert wait_until(lambda: other.got, 10)
        given = [text for text in other.heard() if OTHER.encode() in text]
        assert len(given) == (name == HOST)


@pytest.mark.parametrize("plugin", PLUGINS)
def test_over_a_unix_socket_it_goes_only_where_its_plugin_needs_it(directory, plugin):
    path = directory / f"{plugin}.sock"
    keys = {"user": "mailserver", "password": OTHER}
    with AskingServer(plugin, path=path, full=True) as other:
        with pytest.raises(DatabaseError):
            ask(keys, f"unix:{path}")
        assert wait_until(lambda: other.got, 10)
        given = [text for text in other.heard() if OTHER.encode() in text]
        assert bool(given) == (plugin in ("sha256_password", "caching_sha2_password"))


def test_without_tls_a_table_file_that_asks_for_it_does_not_log_in(directory):
    """Whoever sits between could take the offer out of the server's greeting."""
    keys = {"user": "mailserver", "password": OTHER, "tls_CAfile": str(certificate(directory))}
    with AskingServer("mysql_native_password") as other:
        with pytest.raises(DatabaseError, match="error 2026: TLS failed"):
            ask(keys, f"{HOST}:{other.port}")
        assert wait_until(lambda: other.got, 10)
        assert other.got == [("mysql_native_password", [])]


@pytest.fixture
def table_file(minion, server):
    call(minion, "tables")
    call(minion, "account")
    path = minion.directory / "a.cf"
    path.write_text(f"user = mailserver\npassword = {OLD}\nhosts = {HOST}:{server.port}\ndbname = mailserver\n")
    return path


def test_ask_reads_and_does_nothing_else(minion, server, table_file):
    """As the account, and read only whatever that may do; one statement that fails is told of in its place."""
    host = f"{HOST}:{server.port}"
    server.sql(f"GRANT INSERT ON mailserver.* TO {ACCOUNT}")
    insert = "INSERT INTO virtual_domains (name) VALUES ('x')"
    keys = _ispmail_tablefile.parse(table_file.read_bytes())
    asked = _ispmail_session.ask(keys, host, ["SELECT CURRENT_USER() AS a", "SELECT x", insert, "SELECT 1 AS b"])
    assert asked.plugin == "mysql_native_password"
    assert [answer.rows for answer in asked.answers] == [[{"a": NAME}], [], [], [{"b": 1}]]
    reasons = [answer.reason for answer in asked.answers]
    assert reasons[0] is None is reasons[3] and "error 1054: a column" in reasons[1] and "error 1792" in reasons[2]
    assert server.sql("SELECT 1 FROM mailserver.virtual_domains") == ()


def test_ask_takes_the_password_to_no_other_host(table_file):
    keys = _ispmail_tablefile.parse(table_file.read_bytes())
    with AskingServer("dialog") as other:
        with pytest.raises(InvalidInput, match="does not name that host"):
            _ispmail_session.ask(keys, f"{HOST}:{other.port}", ["SELECT 1"])
        assert other.got == []


@pytest.mark.parametrize("function", ["postfix_database.ask", "_ispmail_session.ask"])
def test_ask_is_no_job(minion, server, table_file, function):
    """SHOW GRANTS shows hashes, and what a job returns is kept."""
    minion.command("saltutil.sync_all")
    arguments = [str(table_file), f"{HOST}:{server.port}", "[SHOW GRANTS]"]
    done = minion.command(function, *arguments)
    assert "is not available" in done.stderr and native_hash(OLD) not in done.stdout + done.stderr


def test_ask_gets_in_by_any_of_many_passwords(minion, server):
    """The server asks again for each alternative; PyMySQL by itself answers two."""
    ways = " OR ".join(f"mysql_native_password USING '{native_hash(text)}'" for text in (NEW, OTHER, "a third", OLD))
    server.sql(f"CREATE USER {ACCOUNT} IDENTIFIED VIA {ways}")
    for password in (NEW, OTHER, "a third", OLD):
        keys = {"user": "mailserver", "password": password}
        assert ask(keys, f"{HOST}:{server.port}").answers[0].rows == [{"a": 1}]
    with pytest.raises(DatabaseError, match="error 1045") as caught:
        ask({"user": "mailserver", "password": "a fifth"}, f"{HOST}:{server.port}")
    assert caught.value.number == 1045


def test_two_at_once_do_not_mix(minion, server):
    """Each reads the hashes, then writes them: in between the other's would be lost."""
    connection = server.connect(autocommit=False)
    with contextlib.closing(connection), connection.cursor() as cursor:
        cursor.execute("SELECT GET_LOCK('ispmail', 1)")
        assert call(minion, "account", test=True)["changes"]
        with pytest.raises(CommandExecutionError, match="another run is changing it"):
            call(minion, "account")
    assert call(minion, "account")["changes"]


def test_no_password_is_in_any_log_or_return(minion, server, directory):
    """As an admin runs it, with all that -l debug tells, refusals included."""
    said = []
    minion.command("saltutil.sync_all")
    for password, states in (
        (OLD, ("tables", "account")),
        (NEW, ("credential_sole", "credential_accepted", "account", "credential_sole")),
        (OTHER, ("credential_accepted", "credential_sole")),
    ):
        minion.pillar = pillar(server, password)
        for state in states:
            done = minion.command("state.single", f"postfix_database.{state}", "x", "-l", "debug")
            said.append(done.stdout + done.stderr)
            assert "Completed state [x]" in said[-1]
    minion.pillar = pillar(server, OTHER)
    said.append(minion.command("postfix_database.read", "-l", "debug").stdout)
    assert login(server, OTHER) and not login(server, NEW)
    log = (directory / "general.log").read_text(errors="replace")
    assert "ALTER USER" in log and native_hash(OTHER) in log, "the log is not that of this test"
    hashes = [native_hash(password) for password in (OLD, NEW, OTHER)]
    for text in [*said, *[path.read_text(errors="replace") for path in files(minion)]]:
        assert not [secret for secret in (OLD, NEW, OTHER, *hashes) if secret in text]
    for path in (directory / "general.log", server.log_file):
        assert not [secret for secret in (OLD, NEW, OTHER) if secret in path.read_text(errors="replace")], path


def files(minion):
    return [path for path in minion.directory.rglob("*") if path.is_file() and path != minion.pillar_file]


def test_the_states_tell_what_the_modules_do(minion, server):
    would = minion.apply("ispmail.database", test=True)
    assert {name: state["result"] for name, state in would.items()} == {
        "postfix_database.tables": None,
        "postfix_database.account": None,
    }
    assert "would be changed" in would["postfix_database.tables"]["comment"]
    done = minion.apply("ispmail.database")
    assert {state["result"] for state in done.values()} == {True}
    assert {name: state["changes"] for name, state in done.items()} == {
        name: state["changes"] for name, state in would.items()
    }
    assert login(server, OLD, database="mailserver")
    again = minion.apply("ispmail.database")
    assert {state["comment"] for state in again.values()} == {
        "The database and its tables: in the correct state",
        "The account of the maps: in the correct state",
    }
    minion.pillar = pillar(server, NEW)
    state = minion.apply("ispmail.credential_sole")["postfix_database.credential_sole"]
    assert (state["result"], state["changes"]) == (False, {})
    assert "run credential_accepted first" in state["comment"]
    for name in ("credential_accepted", "credential_sole"):
        state = minion.apply(f"ispmail.{name}")[f"postfix_database.{name}"]
        assert state["result"] is True and NAME in state["changes"]
    assert login(server, NEW) and not login(server, OLD)
