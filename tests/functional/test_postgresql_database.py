"""The PostgreSQL of pgsql maps: tables, account, and what a real Postfix gets by them."""

import subprocess

import pytest
from salt.exceptions import CommandExecutionError, SaltInvocationError

import _ispmail_postgresql_admin
import _ispmail_presets
from lab import HOST, scratch, wait_until
from lab.minion import Minion
from lab.postgresql import HBA
from lab.smtp import rcpt

from ..conftest import only_host
from .database import NEW, OLD, call
from .pgsql import JACK, JOHN, MAPS, NOBODY, ROWS, TABLES, pillar

GRANTS = [
    'CONNECT ON DATABASE "mailserver"',
    'USAGE ON SCHEMA "public"',
    'SELECT ON ALL TABLES IN SCHEMA "public"',
    'SELECT ON TABLES THAT ARE MADE LATER IN SCHEMA "public"',
]


@pytest.fixture
def server(postgresql):
    return postgresql


@pytest.fixture
def minion(server):
    with scratch() as path:
        yield Minion(path, pillar(server))


def both_ways(minion, function):
    """What a dry run tells is what the real one does and tells; and then there is nothing left to do."""
    would = call(minion, function, test=True)
    done = call(minion, function)
    assert would == done
    assert call(minion, function)["changes"] == {} == call(minion, function, test=True)["changes"]
    return done


def refused(minion, function, error=CommandExecutionError):
    with pytest.raises(error) as caught:
        call(minion, function)
    assert OLD not in str(caught.value)
    return str(caught.value)


def indexes(server):
    rows = server.sql("SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1", "mailserver")
    return [text.partition(" ON ")[0].split()[1] + text.partition(" USING")[2] for (text,) in rows]


def test_tables_and_account_from_nothing(minion, server):
    would = call(minion, "tables", test=True)
    assert server.sql("SELECT 1 FROM pg_database WHERE datname = 'mailserver'") == []
    assert would == both_ways(minion, "tables")
    assert would["changes"]["database"] == {"old": None, "new": "mailserver"}
    assert list(would["changes"]) == ["database", *TABLES] and would["warnings"] == []
    server.sql(ROWS, "mailserver")
    assert server.sql("SELECT quota FROM virtual_users", "mailserver") == [("0",)]
    assert server.sql("SELECT pg_encoding_to_char(encoding) FROM pg_database WHERE datname = 'mailserver'") == [
        ("UTF8",)
    ]
    done = both_ways(minion, "account")
    assert done["warnings"] == []
    assert done["changes"]["mailserver"] == {
        "account": {"old": None, "new": "made"},
        "password": {"old": None, "new": "***"},
        "expires": {"old": None, "new": "never"},
        "grants": {"old": [], "new": GRANTS},
    }
    assert server.logs_in("mailserver", OLD, "mailserver") and not server.logs_in("mailserver", NEW, "mailserver")
    assert server.sql_as("mailserver", OLD, "SELECT destination FROM virtual_aliases", "mailserver") == [(JOHN,)]
    # A table that is made later is readable too.
    server.sql("CREATE TABLE later AS SELECT 1 AS a", "mailserver")
    assert server.sql_as("mailserver", OLD, "SELECT a FROM later", "mailserver") == [("1",)]
    read = call(minion, "read")
    assert read["server"].startswith("PostgreSQL 1") and read["login_plugins"] == ["scram-sha-256"]
    assert (read["database"], read["tables"], read["others"], read["refused_logins"]) == ("mailserver", {}, {}, None)
    assert read["accounts"]["mailserver"] == {
        "managed": True,
        "grants": GRANTS,
        "plugins": ["scram-sha-256"],
        "passwords": 1,
        "locked": False,
        "age": None,
        "expires": None,
    }
    server.sql("DELETE FROM virtual_domains", "mailserver")
    left = "SELECT id FROM virtual_users UNION SELECT id FROM virtual_aliases"
    assert server.sql(left, "mailserver") == []


def test_tables_get_what_they_are_missing(minion, server):
    call(minion, "tables")
    server.sql(ROWS, "mailserver")
    server.sql(
        """
        ALTER TABLE virtual_users DROP COLUMN quota; DROP INDEX virtual_aliases_source_idx, virtual_domains_name_idx;
        ALTER TABLE virtual_aliases DROP CONSTRAINT virtual_aliases_domain_id_fkey;
        INSERT INTO virtual_domains (id, name) VALUES (2, 'twice.example'), (3, 'twice.example');
        INSERT INTO virtual_aliases (domain_id, source, destination) VALUES (77, 'a@example.org', 'b@example.org')
        """,
        "mailserver",
    )
    done = both_ways(minion, "tables")
    assert {table: change["new"] for table, change in done["changes"].items()} == {
        "virtual_domains": ["index on name"],
        "virtual_users": ["column quota"],
        "virtual_aliases": ["index on source"],
    }
    assert done["warnings"] == [
        "mailserver.virtual_domains.name has a value in several rows, so its index cannot be unique: "
        "remove the duplicates",
        "mailserver.virtual_aliases.domain_id cannot become a foreign key: some of its rows name a domain that does "
        "not exist, remove them",
    ]
    server.sql("DELETE FROM virtual_aliases WHERE domain_id = 77", "mailserver")
    server.sql("DELETE FROM virtual_domains WHERE name = 'twice.example'", "mailserver")
    changes = both_ways(minion, "tables")["changes"]
    assert {table: change["new"] for table, change in changes.items()} == {
        "virtual_domains": ["index on name"],
        "virtual_aliases": ["foreign key domain_id"],
    }


def test_tables_that_are_somebody_elses(minion, server):
    server.sql("CREATE DATABASE mailserver")
    server.sql("CREATE TABLE virtual_users (id integer)", "mailserver")
    assert "it is not the guide's table" in refused(minion, "tables", SaltInvocationError)
    minion.pillar = pillar(server, create_tables=False)
    assert call(minion, "tables")["changes"] == {}
    assert "mailserver.virtual_users is missing column domain_id" in call(minion, "tables")["warnings"][0]
    server.sql("DROP TABLE virtual_users; CREATE VIEW virtual_users AS SELECT 1 AS id", "mailserver")
    minion.pillar = pillar(server)
    assert "is a view, nothing was changed" in refused(minion, "tables")
    assert server.sql("SELECT relname FROM pg_class WHERE relname LIKE 'virtual%'", "mailserver") == [
        ("virtual_users",)
    ]


def test_no_database_no_account(minion, server):
    """A dry run of both, on an empty server, tells both."""
    assert list(call(minion, "account", test=True)["changes"]) == ["mailserver"]
    assert refused(minion, "account").endswith("there is no database mailserver: apply ispmail.database")
    assert server.sql("SELECT 1 FROM pg_roles WHERE rolname = 'mailserver'") == []
    read = call(minion, "read")
    assert (read["database"], read["accounts"], read["others"]) == (None, {}, {})
    assert read["tables"] == {table: ["table"] for table in TABLES}
    # A role may be there already: it gets its grants once there is a database.
    server.sql("CREATE ROLE mailserver LOGIN")
    assert call(minion, "account", test=True)["changes"]["mailserver"] == {"grants": {"old": [], "new": GRANTS}}


def test_an_account_that_exists_keeps_its_password(minion, server):
    call(minion, "tables")
    server.sql("CREATE ROLE mailserver LOGIN PASSWORD 'ownSecret1' VALID UNTIL '2030-01-01'", "mailserver")
    server.sql("GRANT INSERT ON virtual_users TO mailserver; CREATE ROLE reader LOGIN", "mailserver")
    server.sql("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader", "mailserver")
    done = both_ways(minion, "account")
    assert done["changes"] == {
        "mailserver": {
            "grants": {
                "old": [*GRANTS[:2], "INSERT ON public.virtual_users"],
                "new": [*GRANTS, "INSERT ON public.virtual_users"],
            }
        }
    }
    expires, password, more = done["warnings"]
    assert expires.startswith("the password of mailserver expires")
    assert password == "mailserver does not accept pillar's password: see credential_accepted"
    assert more.startswith("mailserver also has INSERT ON public.virtual_users, which was left alone")
    assert "(nobody is connected now)" in more
    assert server.logs_in("mailserver", "ownSecret1")
    read = call(minion, "read")
    assert read["accounts"]["mailserver"]["expires"]["date"] in ("2029-12-31", "2030-01-01")
    assert read["others"] == {"reader": {"drop": 'DROP OWNED BY "reader"; DROP ROLE "reader"', "connections": {}}}
    minion.pillar = pillar(server, revoke_other_grants=True, known_accounts="reader")
    assert both_ways(minion, "account")["changes"]["mailserver"]["grants"]["new"] == GRANTS
    assert call(minion, "read")["others"] == {}


def test_other_roles_that_read_the_maps_tables_by_memberships(minion, server):
    """Also one that would have to choose the role first: it counted as one that may not."""
    call(minion, "tables")
    call(minion, "account")
    roles = ["webread", "staff", "inherits", "chooses", "partly", "boss"]
    statements = [
        *(
            "CREATE ROLE webread",
            "CREATE ROLE staff",
            "CREATE ROLE inherits LOGIN",
            "CREATE ROLE chooses LOGIN NOINHERIT",
        ),
        *("CREATE ROLE partly LOGIN", "CREATE ROLE boss LOGIN SUPERUSER"),
        *("GRANT SELECT ON ALL TABLES IN SCHEMA public TO webread", "GRANT webread TO staff"),
        *("GRANT staff TO inherits", "GRANT staff TO chooses", "GRANT staff TO boss"),
        "GRANT SELECT ON virtual_users TO partly",
    ]
    try:
        server.sql("; ".join(statements), "mailserver")
        others = call(minion, "read")["others"]
        assert sorted(others) == ["chooses", "inherits"]
        assert others["chooses"] == {"drop": 'DROP OWNED BY "chooses"; DROP ROLE "chooses"', "connections": {}}
    finally:
        for role in roles:
            server.sql(f"DROP OWNED BY {role}", "mailserver")
            server.sql(f"DROP ROLE {role}")


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("ALTER ROLE mailserver NOLOGIN", "mailserver may not log in: run ALTER ROLE … LOGIN"),
        ("ALTER ROLE mailserver SUPERUSER", "mailserver is a superuser, who may do anything"),
        ("ALTER TABLE virtual_users OWNER TO mailserver", "mailserver owns virtual_users, and may do anything"),
        ("ALTER ROLE mailserver PASSWORD NULL", "mailserver has no password: see credential_accepted"),
        (
            f"SET password_encryption = md5; ALTER ROLE mailserver PASSWORD '{OLD}'",
            "mailserver has its password by md5, which proves no server",
        ),
    ],
)
def test_what_an_admin_should_know_of_an_account(minion, server, statement, said):
    call(minion, "tables")
    assert call(minion, "account")["warnings"] == []
    server.sql(statement, "mailserver")
    assert [warning for warning in call(minion, "account")["warnings"] if warning.startswith(said)]


def test_the_admin_by_host_and_password(minion, server):
    """As with a database that somebody else runs; one who is no superuser sees no verifiers."""
    server.sql("CREATE ROLE dba LOGIN CREATEDB CREATEROLE PASSWORD 'dbaSecret5'")

    def with_password(password):
        found = pillar(server, unix_socket=None, host=HOST, port=server.port, user="dba")
        found["ispmail"]["server"]["password"] = password
        minion.pillar = found

    with_password("dbaSecret5")
    both_ways(minion, "tables")
    call(minion, "account")
    assert call(minion, "account") == {
        "changes": {},
        "warnings": ["whether mailserver has pillar's password was not looked at: only a superuser may see that"],
    }
    assert server.logs_in("mailserver", OLD, "mailserver")
    with_password("wrong")
    assert "error 28P01: access is denied" in refused(minion, "read")


def test_two_runs_do_not_change_it_at_the_same_time(minion, server):
    """Nor does one wait for long. A question needs no lock."""
    call(minion, "tables")
    command = ["psql", "--no-psqlrc", f"--host={server.directory}", f"--port={server.port}", "--username=postgres"]
    statement = f"SELECT pg_advisory_lock({_ispmail_postgresql_admin._OUR_LOCK}); SELECT pg_sleep(60)"
    other = subprocess.Popen([*command, f"--command={statement}", "mailserver"], stdout=subprocess.DEVNULL)
    try:
        held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
        assert wait_until(lambda: server.sql(held) == [("1",)], 10)
        assert refused(minion, "account").endswith("another run is changing it: wait for its end, and try again")
        assert call(minion, "read")["accounts"] == {} and call(minion, "account", test=True)["changes"]
    finally:
        other.kill()
        other.wait()


def test_an_admin_who_is_not_let_in(minion, server):
    minion.pillar = pillar(server, user="no-such-role")
    server.set_hba("local all all reject\n", own=False)
    try:
        said = refused(minion, "read")
    finally:
        server.hba.write_text(HBA)
        server.restart()
    assert "error 28000: access is denied: run Salt as root on the database server" in said


def test_a_mixture_of_servers_is_refused(minion, server):
    minion.pillar = pillar(server, maps={"virtual_alias_maps": {"type": "pgsql"}})
    for function in ("read", "tables", "account", "credential_accepted", "holders"):
        said = refused(minion, function, SaltInvocationError)
        assert "ispmail:maps:virtual_alias_maps:type is pgsql, but that of virtual_mailbox_domains is mysql" in said
    server.restart()


def test_no_log_holds_the_password(minion, server):
    """At its most talkative the server's has verifiers only."""
    begin = len(server.log)
    minion.apply("ispmail.database")
    assert server.logs_in("mailserver", OLD, "mailserver")
    logged = server.log[begin:]
    assert "SCRAM-SHA-256$4096:" in logged and "CREATE ROLE" in logged
    assert OLD not in logged


def test_the_main_job(minion, server, postfix):
    """From an empty server to mail that is taken: the database, the account, the maps; smtpd is in its jail."""
    minion.pillar = pillar(server, postfix=postfix)
    would = minion.apply("ispmail.database", test=True)
    assert {state["result"] for name, state in would.items() if name.startswith("postfix_database")} == {None}
    done = minion.apply("ispmail.database")
    assert {name: state["result"] for name, state in done.items() if name.startswith("postfix_database")} == {
        "postfix_database.tables": True,
        "postfix_database.account": True,
    }
    server.sql(ROWS, "mailserver")
    assert minion.apply("ispmail.maps", test=True)["postfix_map.managed"]["result"] is None
    applied = minion.apply("ispmail.maps")["postfix_map.managed"]
    assert applied["result"] is True, applied["comment"]
    assert [rcpt(postfix.port, address)[0] for address in (JACK, JOHN, NOBODY)] == [250, 250, 550]
    assert "postgresql" not in postfix.log
    table = (postfix.config_directory / "pgsql-virtual-alias-maps.cf").read_text()
    assert table.startswith(f"user = mailserver\npassword = {OLD}\nhosts = {HOST}:{server.port}")
    again = minion.apply("ispmail.maps")["postfix_map.managed"]
    assert (again["result"], again["changes"]) == (True, {})
    assert minion.call("postfix_map.lookup", "virtual_alias_maps", JACK)["answer"] == JOHN
    # What cannot work does not go live.
    minion.pillar = pillar(server, NEW, postfix=postfix)
    applied = minion.apply("ispmail.maps")["postfix_map.managed"]
    assert applied["result"] is False and "Nothing was changed" in applied["comment"]
    assert rcpt(postfix.port, JACK)[0] == 250


@pytest.fixture
def live(minion, server, postfix):
    """Postfix asks the maps."""
    minion.pillar = pillar(server, postfix=postfix, database=only_host())
    minion.apply("ispmail.database")
    server.sql(ROWS, "mailserver")
    applied = minion.apply("ispmail.maps")["postfix_map.managed"]
    assert applied["result"] is True, applied["comment"]
    return minion


@pytest.mark.parametrize(
    "statement",
    [
        f"ALTER ROLE mailserver PASSWORD '{NEW}'",
        "ALTER ROLE mailserver NOLOGIN",
        "ALTER ROLE mailserver VALID UNTIL '2001-01-01'",
        f"SET password_encryption = md5; ALTER ROLE mailserver PASSWORD '{NEW}'",
        None,
    ],
)
def test_refused_logins_are_told(live, server, postfix, statement):
    """By the login of the live table files, whatever the database refuses it for."""
    assert call(live, "refused") == []
    if statement:
        server.sql(statement)
    else:
        server.set_hba("host all postgres 127.0.0.1/32 scram-sha-256\n")
    (found,) = call(live, "refused")
    assert (found["host"], found["user"], found["maps"]) == (f"{HOST}:{server.port}", "mailserver", list(MAPS))
    assert postfix.running and OLD not in str(found)


def test_a_server_that_is_down_or_full_has_not_refused(live, server):
    server.sql("ALTER ROLE mailserver CONNECTION LIMIT 0")
    assert call(live, "refused") == []
    server.stop()
    assert call(live, "refused") == []
    server.start()


# The doctor.


def found(minion):
    """Each check that does not hold, to where it does not, the result, and what to do."""
    rows = minion.call("postfix_doctor.check")
    assert OLD not in str(rows)
    return {row["check"]: (row["where"], row["result"], row["fix"]) for row in rows if row["result"] != "ok"}


@pytest.fixture
def healthy(live):
    """A set-up of which the doctor finds nothing to say."""
    assert found(live) == {}
    return live


def test_the_doctor_looks_at_all_of_it(healthy, server):
    rows = healthy.call("postfix_doctor.check")
    checks = {row["check"]: row["where"] for row in rows}
    host = f"{HOST}:{server.port}"
    assert checks["the query uses an index"] == f"virtual_mailbox_maps on {host}"
    for check in ("the account may only read", "the map's rows are in lower case", "the query takes every address"):
        assert host in checks[check]
    assert checks["the account is not locked"] == "mailserver"
    assert checks["the login works"] == f"{host} for {', '.join(MAPS)}"
    assert healthy.call("postfix_doctor.check", width=100).rpartition("\n")[2].startswith("0 faults, 0 warnings, ")


@pytest.mark.parametrize(
    ("statement", "check", "result", "fix"),
    [
        (
            "DROP INDEX virtual_aliases_source_idx",
            "the query uses an index",
            "fault",
            "CREATE INDEX ON virtual_aliases (source)",
        ),
        (
            "GRANT INSERT ON virtual_users TO mailserver",
            "the account may only read",
            "warning",
            "mailserver may change virtual_users: give",
        ),
        ("ALTER ROLE mailserver SUPERUSER", "the account may only read", "warning", "mailserver is a superuser"),
        (
            "ALTER TABLE virtual_users OWNER TO mailserver",
            "the account may only read",
            "warning",
            "mailserver may change virtual_users",
        ),
        (
            "ALTER ROLE mailserver CONNECTION LIMIT 50",
            "the server takes enough connections",
            "warning",
            "CONNECTION LIMIT of the role is 50",
        ),
        (
            "ALTER DATABASE mailserver CONNECTION LIMIT 51",
            "the server takes enough connections",
            "warning",
            "CONNECTION LIMIT of the database is 51",
        ),
        (
            "ALTER ROLE mailserver SET idle_session_timeout = '30s'",
            "the server keeps idle connections",
            "fault",
            "idle_session_timeout is 30 s, but Postfix keeps",
        ),
        (
            "ALTER ROLE mailserver VALID UNTIL '2100-01-01'",
            "the account's password does not expire",
            "warning",
            "VALID UNTIL 'infinity'",
        ),
        (
            "ALTER ROLE mailserver VALID UNTIL 'tomorrow'",
            "the account's password does not expire",
            "fault",
            "every lookup fails from then on",
        ),
        ("ALTER ROLE mailserver NOLOGIN", "the account is not locked", "fault", "ALTER ROLE … LOGIN"),
        ("ALTER ROLE mailserver NOLOGIN", "the login works", "fault", "error 28000"),
        (
            "ALTER ROLE mailserver VALID UNTIL '2001-01-01'",
            "the login works",
            "fault",
            "VALID UNTIL of the role has not passed",
        ),
        (
            "UPDATE virtual_aliases SET source = 'Jack@example.org'",
            "the map's rows are in lower case",
            "warning",
            "virtual_aliases.source has capital letters in 1 row, which are never",
        ),
        ("REVOKE SELECT ON virtual_aliases FROM mailserver", "the query works", "fault", "error 42501"),
        ("DROP TABLE virtual_aliases", "the query works", "fault", "error 42P01: a table does not exist"),
        (
            "CREATE ROLE old LOGIN; GRANT pg_read_all_data TO old",
            "no table file's old account is left behind",
            "warning",
            'old may read the maps\' tables (nobody is connected now): DROP OWNED BY "old"; DROP ROLE "old"',
        ),
        (
            f"SET password_encryption = md5; ALTER ROLE mailserver PASSWORD '{OLD}'",
            "a rotation can change the account's passwords",
            "fault",
            "its password is kept by md5, which proves no server",
        ),
    ],
)
def test_what_the_doctor_finds(healthy, server, statement, check, result, fix):
    server.sql(statement, "mailserver")
    where, seen, text = found(healthy)[check]
    assert seen == result and fix in text, (where, text)


def test_the_doctor_says_what_it_did_not_look_at(healthy, server, postfix):
    """By md5 our own client logs in to no server that is not verified: Postfix's does."""
    server.sql(f"SET password_encryption = md5; ALTER ROLE mailserver PASSWORD '{OLD}'")
    server.set_hba("host all all 127.0.0.1/32 md5\n")
    assert rcpt(postfix.port, JACK)[0] == 250
    where, result, fix = found(healthy)["the login works"]
    assert (where, result) == (f"{HOST}:{server.port} for {', '.join(MAPS)}", "warning")
    assert fix.startswith("it was not tried, and nothing behind it was looked at: ")
    server.set_hba("host all all 127.0.0.2/32 scram-sha-256\n")
    assert (
        "error 28000: access is denied: check that the role exists and has LOGIN, and that pg_hba.conf"
        in (found(healthy)["the login works"][2])
    )
    for hosts, said in ((None, "no password"), (f"postgresql://{HOST}:{server.port}", "a URI, which only libpq reads")):
        for name in MAPS:
            table = postfix.config_directory / f"pgsql-{name.replace('_', '-')}.cf"
            kept = [
                line for line in table.read_text().splitlines() if not line.startswith("hosts" if hosts else "password")
            ]
            table.write_text("\n".join([*kept, f"hosts = {hosts}"] if hosts else kept) + "\n")
        where, result, fix = found(healthy)["the login works"]
        assert (where, result) == (", ".join(MAPS), "warning") and said in fix


PACKAGES, PYMYSQL = "Postfix and its table types are installed", "PyMySQL is installed for Salt's Python"
PGSQL = {name: {"type": "pgsql"} for name in MAPS}


@pytest.mark.parametrize(
    ("maps", "types", "needs_pymysql"),
    [
        (PGSQL, ["pgsql"], False),
        ({**PGSQL, "virtual_alias_maps": None}, ["pgsql"], False),
        ({**PGSQL, "more": {"type": "sqlite"}}, ["pgsql", "sqlite"], False),
        ({**PGSQL, "more": {}}, ["pgsql", "mysql"], True),
        ({**PGSQL, "more": "odd"}, ["pgsql"], False),
        ({**PGSQL, "more": {"type": ["odd"]}}, ["pgsql", "mysql"], True),
        ({}, ["mysql"], True),
        ("odd", ["mysql"], True),
        (dict.fromkeys(MAPS), [], True),
    ],
)
@pytest.mark.parametrize("executable", ["/usr/bin/python3", "/opt/salt/bin/python3"])
def test_pymysql_is_installed_where_a_mysql_map_needs_it(maps, types, needs_pymysql, executable):
    with scratch() as path:
        minion = Minion(path, {"ispmail": {"maps": maps}}, grains={"pythonexecutable": executable, "pythonpath": []})
        shown = minion.call("state.show_sls", "ispmail.packages")
        database = minion.call("state.show_sls", "ispmail.database")
    packages = ["postfix", *(f"postfix-{name}" for name in types)] if types else []
    own = executable == "/usr/bin/python3"
    packages += ["python3-pymysql"] if needs_pymysql and own else []
    pkgs = [part["pkgs"] for part in shown[PACKAGES]["pkg"] if "pkgs" in part] if PACKAGES in shown else [[]]
    assert pkgs == [packages]
    assert (PYMYSQL in shown) == (needs_pymysql and not own)
    assert ("Salt can ask the database server" in database) == needs_pymysql


def _types(preset):
    """The table types of what a preset stands for."""
    return sorted({fields["type"] for fields in _ispmail_presets.expanded({"preset": preset})["maps"].values()})


@pytest.mark.parametrize(
    ("section", "types"),
    [
        *(({"preset": name}, _types(name)) for name in _ispmail_presets.NAMES[1:]),
        ({"preset": "postfixadmin-pgsql", "maps": {"virtual_alias_maps": {"proxy": True}, "own": {}}}, ["pgsql"]),
        ({"preset": "postfixadmin-pgsql", "maps": dict.fromkeys(MAPS)}, ["pgsql"]),
        ({"preset": "postfixadmin-pgsql", "maps": {"own": {"type": "sqlite"}}}, ["pgsql", "sqlite"]),
        ({"preset": "ispmail", "maps": PGSQL}, ["pgsql"]),
        ({"preset": ["odd"]}, ["mysql"]),
    ],
)
def test_the_maps_of_a_preset_count(section, types):
    with scratch() as path:
        minion = Minion(path, {"ispmail": section}, grains={"pythonexecutable": "/opt/salt/bin/python3"})
        shown = minion.call("state.show_sls", "ispmail.packages")[PACKAGES]["pkg"]
    (pkgs,) = [part["pkgs"] for part in shown if "pkgs" in part]
    assert pkgs == ["postfix", *(f"postfix-{name}" for name in types)]


def test_the_maps_of_other_instances_count_too():
    with scratch() as path:
        found = {"ispmail": {"maps": PGSQL, "instances": ["second", 5]}, "second": {"maps": {}}}
        minion = Minion(path, found, grains={"pythonexecutable": "/usr/bin/python3", "pythonpath": []})
        pkgs = [
            part["pkgs"]
            for part in minion.call("state.show_sls", "ispmail.packages")[PACKAGES]["pkg"]
            if "pkgs" in part
        ]
    assert pkgs == [["postfix", "postfix-pgsql", "postfix-mysql", "python3-pymysql"]]
