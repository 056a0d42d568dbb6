"""Our statements and verifiers, on a real PostgreSQL and by Postfix's pgsql tables, see pgsql_table(5)."""

import os
import subprocess
import sys

import pytest

import _ispmail_postgresql
import _ispmail_sql
from _ispmail_scram import SALT_BYTES, belongs, method, verifier
from lab import HOST, wait_until
from lab.postfix import Postfix, write_cold
from lab.postgresql import PostgreSQL, Refused

DBNAME, SCHEMA = "mailserver", "public"
ACCOUNT, OTHER = "mailserver_a", "mailserver_b"
# What pillar may hold, and what SASLprep changes or forbids.
PASSWORDS = (
    "plainSecret7",
    'it\'s a "quoted" back\\slash%s %% ${HOME} $1 #;=',
    "x" * 60,
    "two  blanks and\ta tab",
    "bell\x07secret",
    "grüße-\u20ac-\u65e5\u672c",
    "soft\u00adhyphen",
    "no-break\u00a0space\u3000wide",
    "e\u0301\u2168\uff21\ufb01",
    "\u0627secret\u0628",
    "\u0627\u0628\u0629",
    "emoji-\U0001f600-secret",
    "zero\u200bwidth\u200dsecret",
    "\u00adsecret\ue000",
)


@pytest.fixture(scope="module")
def server(directory):
    with PostgreSQL(directory / "db") as started:
        started.sql(*_ispmail_postgresql.create_database(DBNAME))
        yield started


@pytest.fixture
def roles(server):
    """Two accounts, of which one may log in."""
    run(
        server,
        _ispmail_postgresql.create_account(ACCOUNT, made("plainSecret7"))
        + _ispmail_postgresql.create_account(OTHER, made("otherSecret8"))
        + _ispmail_postgresql.lock(OTHER),
    )
    yield server
    server.sql(f"DROP OWNED BY {ACCOUNT}, {OTHER}; DROP ROLE {ACCOUNT}, {OTHER}", DBNAME)


@pytest.fixture
def schema(server):
    """The guide's tables."""
    add(server, _ispmail_sql.missing({}))
    yield server
    server.sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public; GRANT USAGE ON SCHEMA public TO PUBLIC", DBNAME)


def made(password, iterations=4096):
    return verifier(password.encode(), os.urandom(SALT_BYTES), iterations)


def run(server, statements):
    """In one transaction, as it will be."""
    server.sql(";\n".join(["BEGIN", *statements, "COMMIT"]), DBNAME)


def add(server, needs):
    """Give tables what they are missing."""
    run(server, [text for name in needs for text in _ispmail_postgresql.alter_statements(SCHEMA, name, needs[name])])


def missing(server):
    return _ispmail_sql.missing(read_tables(server))


def read_tables(server):
    return _ispmail_postgresql.tables(server.rows(_ispmail_postgresql.read_tables(SCHEMA), DBNAME))


def read(server, *names, superuser=True):
    found = server.rows(_ispmail_postgresql.read_roles(names, superuser), DBNAME)
    return {role.name: role for role in map(_ispmail_postgresql.role, found)}


def read_held(server, name=ACCOUNT):
    (row,) = server.rows(_ispmail_postgresql.read_held(DBNAME, SCHEMA, name), DBNAME)
    return _ispmail_postgresql.held(row)


@pytest.fixture(scope="module")
def postfix(directory):
    return Postfix(directory / "mail")


def ask(postfix, server, password, user=ACCOUNT, address="john@example.org"):
    """What postmap answers by a table file with that login."""
    path = postfix.config_directory / "pgsql-virtual-mailbox-maps.cf"
    lines = [f"user = {user}", f"password = {password}", f"hosts = {HOST}:{server.port}", f"dbname = {DBNAME}"]
    lines.append("query = SELECT 1 FROM virtual_users WHERE email='%s'")
    write_cold(path, "\n".join(lines) + "\n", 0o640, "postfix")
    return postfix.postmap(address, f"pgsql:{path}")


def fill(server):
    server.sql(
        "INSERT INTO virtual_domains (name) VALUES ('example.org');"
        "INSERT INTO virtual_users (domain_id, email, password) VALUES (1, 'john@example.org', '!');",
        DBNAME,
    )


# Passwords and verifiers.


@pytest.mark.parametrize("password", PASSWORDS, ids=ascii)
def test_a_verifier_made_here_lets_clients_in(server, roles, schema, postfix, password):
    """By libpq, in psql and in Postfix: both prepare the password on their own."""
    text, before = made(password), len(server.log)
    run(server, [*_ispmail_postgresql.set_password(ACCOUNT, text), f"GRANT SELECT ON virtual_users TO {ACCOUNT}"])
    assert read(server, ACCOUNT)[ACCOUNT].verifier == text, "the server has hashed it as if it were a password"
    assert server.logs_in(ACCOUNT, password, DBNAME)
    assert not server.logs_in(ACCOUNT, password + "x", DBNAME)
    # An error would be the login's, or the grant's.
    assert ask(postfix, server, password) is None
    assert password not in server.log[before:]
    assert text in server.log[before:], "the log is not as talkative as it should be"


def test_postfix_reads_by_the_grants(server, roles, schema, postfix):
    run(server, grants(server))
    fill(server)
    assert ask(postfix, server, "plainSecret7") == "1"
    with pytest.raises(RuntimeError, match="password authentication failed"):
        ask(postfix, server, "plainSecret")
    with pytest.raises(RuntimeError, match="is not permitted to log in"):
        ask(postfix, server, "otherSecret8", OTHER)


@pytest.mark.parametrize("way", ["scram-sha-256", "md5"])
def test_a_verifier_that_the_server_made_is_told(server, roles, way):
    statements = ["SET log_statement = none", f"SET password_encryption = '{way}'"]
    for password in PASSWORDS:
        statements.append(f"ALTER ROLE {ACCOUNT} PASSWORD {_ispmail_postgresql.literal(password)}")
        statements.append(f"SELECT rolpassword FROM pg_authid WHERE rolname = '{ACCOUNT}'")
    texts = [text for (text,) in server.sql(";".join(statements)) if text != "rolpassword"]
    assert len(texts) == len(PASSWORDS)
    for password, text in zip(PASSWORDS, texts):
        assert method(text) == way
        assert belongs(text, password.encode(), ACCOUNT), ascii(password)
        assert not belongs(text, password.encode() + b"x", ACCOUNT)


def test_other_iterations(server, roles):
    run(server, _ispmail_postgresql.set_password(ACCOUNT, made("plainSecret7", 10)))
    assert server.logs_in(ACCOUNT, "plainSecret7")


# Roles.


def test_what_is_read_of_a_role(server, roles):
    server.sql(f"ALTER ROLE {OTHER} VALID UNTIL '2001-09-09 01:46:40+00' CONNECTION LIMIT 7; CREATE ROLE old")
    server.sql(f"ALTER ROLE old VALID UNTIL '-infinity'; GRANT old TO {OTHER}")
    found = read(server, "old", ACCOUNT, OTHER, "nobody_a")
    assert set(found) == {"old", ACCOUNT, OTHER}
    assert [found[name].can_login for name in ("old", ACCOUNT, OTHER)] == [False, True, False]
    assert [found[name].expires for name in ("old", ACCOUNT, OTHER)] == [0, None, 1000000000]
    assert [found[name].groups for name in ("old", ACCOUNT, OTHER)] == [(), (), ("old",)]
    assert [found[name].most for name in ("old", ACCOUNT, OTHER)] == [-1, -1, 7]
    assert belongs(found[ACCOUNT].verifier, b"plainSecret7", ACCOUNT)
    assert not any(found[name].is_superuser or found[name].connections for name in found)
    assert read(server, "postgres")["postgres"].is_superuser
    assert read(server, "postgres")["postgres"].connections
    hidden = read(server, ACCOUNT, superuser=False)[ACCOUNT]
    assert (hidden.verifier, hidden.can_login) == (None, True)
    server.sql("DROP ROLE old")


def test_locked_unlocked_and_with_another_password(server, roles):
    run(server, _ispmail_postgresql.lock(ACCOUNT))
    with pytest.raises(Refused, match="is not permitted to log in"):
        server.logs_in(ACCOUNT, "plainSecret7")
    server.sql(f"ALTER ROLE {ACCOUNT} LOGIN")
    assert server.logs_in(ACCOUNT, "plainSecret7")
    server.sql(f"ALTER ROLE {OTHER} VALID UNTIL '2001-01-01'")
    run(server, _ispmail_postgresql.set_password(OTHER, made("thirdSecret9")))
    assert server.logs_in(OTHER, "thirdSecret9")
    assert not server.logs_in(OTHER, "otherSecret8")


def test_names_that_need_quotes(server):
    account = 'm"x; DROP ROLE postgres; --\\ \u00e4_a'
    run(server, _ispmail_postgresql.create_account(account, made("plainSecret7")))
    assert read(server, account)[account].can_login
    assert server.logs_in(account, "plainSecret7")
    run(server, [f"DROP ROLE {_ispmail_postgresql.quote(account)}"])
    assert read(server, account) == {}


def test_settings_of_a_role_are_copied(server, roles):
    """A site may have a schema of its own, which the role finds by its search_path."""
    server.sql('CREATE SCHEMA mail; CREATE TABLE mail.here (a int); CREATE SCHEMA "it\'s"', DBNAME)
    server.sql(f"GRANT USAGE ON SCHEMA mail TO {ACCOUNT}; GRANT SELECT ON mail.here TO {ACCOUNT}", DBNAME)
    server.sql(f"ALTER ROLE {OTHER} SET search_path = public; ALTER ROLE {OTHER} SET application_name = 'it''s'")
    server.sql(f'ALTER ROLE {OTHER} IN DATABASE {DBNAME} SET search_path = mail, "it\'s"', DBNAME)
    server.sql(f"ALTER ROLE {OTHER} CONNECTION LIMIT 7")
    other = read(server, OTHER)[OTHER]
    with pytest.raises(Refused, match='"here" does not exist'):
        server.sql_as(ACCOUNT, "plainSecret7", "SELECT * FROM here", DBNAME)
    run(server, _ispmail_postgresql.copy_settings(ACCOUNT, other))
    assert server.sql_as(ACCOUNT, "plainSecret7", "SELECT * FROM here", DBNAME) == []
    shown = server.sql_as(ACCOUNT, "plainSecret7", "SHOW search_path; SHOW application_name", DBNAME)
    assert shown[0] == ('mail, "it\'s"',)
    assert read(server, ACCOUNT)[ACCOUNT].most == 7
    server.sql('DROP SCHEMA mail CASCADE; DROP SCHEMA "it\'s"', DBNAME)


# Tables and grants.


def grants(server, name=ACCOUNT):
    return _ispmail_postgresql.grant(read_held(server, name), DBNAME, SCHEMA, name)


def test_the_guide_s_tables(server, schema):
    assert missing(server) == {}
    fill(server)
    with pytest.raises(Refused, match="duplicate key"):
        server.sql("INSERT INTO virtual_domains (name) VALUES ('example.org')", DBNAME)
    server.sql("DELETE FROM virtual_domains", DBNAME)
    assert server.sql("SELECT * FROM virtual_users", DBNAME) == []
    plan = "SET enable_seqscan = off; EXPLAIN SELECT destination FROM virtual_aliases WHERE source = 'a@example.org'"
    assert "Index" in str(server.sql(plan, DBNAME))


def test_what_a_schema_is_missing_is_found_and_added(server, schema):
    server.sql(
        "ALTER TABLE virtual_users DROP COLUMN quota, DROP CONSTRAINT virtual_users_domain_id_fkey;"
        "DROP INDEX virtual_users_email_idx; CREATE INDEX ON virtual_users (lower(email));"
        "CREATE UNIQUE INDEX ON virtual_users (email) WHERE id > 1;"
        "CREATE UNIQUE INDEX ON virtual_users (email, id); DROP TABLE virtual_aliases;"
        "DROP INDEX virtual_domains_name_idx; CREATE UNIQUE INDEX ON virtual_domains (name) INCLUDE (id)",
        DBNAME,
    )
    assert read_tables(server)["virtual_users"].columns == ("id", "domain_id", "email", "password")
    needs = missing(server)
    assert {table: needed.describe() for table, needed in needs.items()} == {
        "virtual_users": ["column quota", "index on email", "foreign key domain_id"],
        "virtual_aliases": ["table"],
    }
    add(server, needs)
    assert missing(server) == {}


def test_a_view_is_told_from_a_table(server, schema):
    server.sql("CREATE VIEW seen AS SELECT * FROM virtual_users", DBNAME)
    found = read_tables(server)
    assert found["seen"].is_view
    assert not found["virtual_users"].is_view
    assert found["virtual_users"].columns == ("id", "domain_id", "email", "password", "quota")
    assert [found[name].foreign_keys for name in ("virtual_domains", "virtual_users")] == [(), ("domain_id",)]


def test_what_a_role_may_do_is_read_and_granted(server, roles, schema):
    server.sql(f"REVOKE CONNECT ON DATABASE {DBNAME} FROM PUBLIC; REVOKE USAGE ON SCHEMA public FROM PUBLIC", DBNAME)
    assert read_held(server).undefaulted == ("postgres",)
    server.sql("CREATE ROLE maker", DBNAME)
    for table in ("virtual_domains", "virtual_users", "virtual_aliases"):
        server.sql(f"ALTER TABLE {table} OWNER TO maker", DBNAME)
    server.sql(f"ALTER DEFAULT PRIVILEGES GRANT INSERT ON TABLES TO {ACCOUNT}", DBNAME)
    server.sql("GRANT CREATE, USAGE ON SCHEMA public TO maker", DBNAME)
    server.sql(f"GRANT SELECT ON virtual_domains TO {ACCOUNT}; GRANT INSERT ON virtual_users TO {ACCOUNT}", DBNAME)
    held = read_held(server)
    assert (held.connect, held.usage, held.unreadable) == (False, False, ("virtual_aliases", "virtual_users"))
    assert (held.undefaulted, held.more) == (("maker", "postgres"), ("INSERT ON virtual_users",))
    assert (held.readable, held.owned, read_held(server, "maker").owned) == (
        ("virtual_domains",),
        (),
        ("virtual_aliases", "virtual_domains", "virtual_users"),
    )
    run(server, grants(server))
    assert grants(server) == []
    server.sql("CREATE TABLE later (a int); SET ROLE maker; CREATE TABLE later_too (a int)", DBNAME)
    for table in ("virtual_domains", "virtual_users", "virtual_aliases", "later", "later_too"):
        server.sql_as(ACCOUNT, "plainSecret7", f"SELECT * FROM {table}", DBNAME)
    with pytest.raises(Refused, match="permission denied"):
        server.sql_as(ACCOUNT, "plainSecret7", "DELETE FROM virtual_domains", DBNAME)
    server.sql(f"GRANT CONNECT ON DATABASE {DBNAME} TO PUBLIC; DROP OWNED BY maker; DROP ROLE maker", DBNAME)


def test_the_log_has_no_password(server, roles):
    """The test above looks for each of its own; here a login fails, and a statement."""
    text = made("neverLogged1")
    with pytest.raises(Refused):
        run(server, [*_ispmail_postgresql.set_password(ACCOUNT, text), "SELECT no_such_column"])
    assert not server.logs_in(ACCOUNT, "neverLogged1")
    assert "neverLogged1" not in server.log
    assert text in server.log


# The server of the lab itself.


def test_rules_of_who_may_log_in_are_read_at_once(server, roles):
    server.set_hba(f"host all {ACCOUNT} 127.0.0.1/32 scram-sha-256\n")
    assert server.logs_in(ACCOUNT, "plainSecret7")
    server.set_hba(f"host all {OTHER} 127.0.0.1/32 scram-sha-256\n")
    with pytest.raises(Refused, match=r"no pg_hba.conf entry"):
        server.logs_in(ACCOUNT, "plainSecret7")
    server.set_hba("host all all 127.0.0.1/32 scram-sha-256\n")


def test_it_ends_with_the_process_that_started_it(directory):
    code = (
        "import os, sys; from lab.postgresql import PostgreSQL\n"
        "started = PostgreSQL(sys.argv[1]).start(); print(started._process.pid, flush=True); os._exit(0)"
    )
    done = subprocess.run([sys.executable, "-c", code, directory / "ended"], capture_output=True, text=True, check=True)
    assert wait_until(lambda: not os.path.exists(f"/proc/{int(done.stdout)}"), 10)
