"""The accounts of the maps' user: how MariaDB and MySQL keep them, what is done to them, and what must not be."""

import contextlib
import itertools
import time
from types import SimpleNamespace

import pytest

import _ispmail_accounts
import _ispmail_credential
import _ispmail_server_accounts
from _ispmail_dialect import of_version
from _ispmail_errors import DatabaseError
from _ispmail_server_accounts import read_accounts
from _ispmail_sql import Account, native_hash
from _ispmail_two_passwords import accept_fault, sole_fault

from .database_values import MARIADB, MYSQL, MYSQL_9, NATIVE, SELECT, SHA2, FakeServer, config, mariadb_row, mysql_row

OLD, NEW, THIRD = "*" + "A" * 40, native_hash("new"), "*" + "3" * 40
# Salted: no two hashes of a password are the same.
SALTED = {salt: of_version(MYSQL_9).hash_password(SHA2, "new", salt * 20, {}) for salt in "sty"}
SALTED_OLD, SALTED_THIRD = (of_version(MYSQL_9).hash_password(SHA2, text, "o" * 20, {}) for text in ("old", "third"))
NAME = "mailserver@127.0.0.1"
SELECTS = ["SELECT ON `mailserver`.*"]
LOCKED = {"account_locked": True}
FAILED = DatabaseError("the server: error 2013: the connection was lost", 2013)


@pytest.mark.parametrize(
    ("row", "plugins", "hashes", "locked"),
    [
        (mysql_row(OLD), [NATIVE], [OLD], False),
        (mysql_row(OLD, second=NEW), [NATIVE], [OLD, NEW], False),
        (mysql_row(OLD, second=OLD), [NATIVE], [OLD], False),
        (mysql_row(None, locked="Y"), [NATIVE], [""], True),
        (mysql_row(SALTED["s"], SALTED_OLD, plugin=SHA2), [SHA2], [SALTED["s"], SALTED_OLD], False),
        (mysql_row("$A$005$x", plugin=SHA2), [SHA2], [], False),
    ],
)
def test_accounts_of_mysql(row, plugins, hashes, locked):
    found = read_accounts(FakeServer(row, version=MYSQL), "mailserver")
    assert found == {"127.0.0.1": Account(tuple(plugins), tuple(hashes), locked, 1700000000, 0)}


def test_accounts_of_mariadb():
    """A role is none."""
    role = {"host": "", "priv": '{"is_role":true}'}
    server = FakeServer(mariadb_row(OLD), role, mariadb_row(OLD, NEW, host="%", **LOCKED))
    assert read_accounts(server, "mailserver") == {
        "127.0.0.1": Account((NATIVE,), (OLD,), False),
        "%": Account((NATIVE,), (OLD, NEW), True),
    }
    assert server.asked[0][1] == ["mailserver"]


@pytest.fixture
def admin(monkeypatch):
    """A function that lets the admin in to a server, and tells what is connected; it returns whether it was locked.

    All that is done there takes a second, and the salt of a new hash is all of the letter t.
    """
    monkeypatch.setattr(
        _ispmail_server_accounts, "secrets", SimpleNamespace(token_urlsafe=lambda size: "t" * (size * 4 // 3))
    )
    clock = itertools.count(100.0)
    mocked = {"monotonic": lambda: next(clock), "strftime": time.strftime, "gmtime": time.gmtime}
    for module in (_ispmail_accounts, _ispmail_credential):
        monkeypatch.setattr(module, "time", SimpleNamespace(**mocked))

    def lets_in(server):
        locks = []

        @contextlib.contextmanager
        def logs_in(login, lock=False):
            locks.append(lock)
            yield server

        monkeypatch.setattr("_ispmail_database.admin", logs_in)
        monkeypatch.setattr("_ispmail_account_users.connections", lambda server, user: {f"192.0.2.1 as {user}": 2})
        return locks

    return lets_in


def test_what_there_is_on_the_server(admin, monkeypatch):
    monkeypatch.setattr("_ispmail_schema.read_tables", lambda server, dbname: {})
    monkeypatch.setattr("_ispmail_account_users.other_readers", lambda server, config: {"former@%": {}})
    answers = {
        "SELECT @@global.default_password_lifetime AS days, UNIX_TIMESTAMP() AS now": [{"days": "10", "now": "86500"}],
        "SELECT 1 AS a FROM information_schema.SCHEMATA": [{"a": 1}],
        "SHOW GLOBAL STATUS LIKE 'Access_denied_errors'": [{"Variable_name": "Access_denied_errors", "Value": "7"}],
    }
    server = FakeServer(
        mariadb_row(OLD, NEW, password_last_changed=0),
        mariadb_row(OLD, host="%", password_last_changed=86400, password_lifetime=5),
        mariadb_row(host="10.%", plugin="ed25519", password_lifetime=0, **LOCKED),
        answers=answers,
    )
    assert admin(server) == []
    account = {"managed": True, "grants": SELECTS, "plugins": [NATIVE], "passwords": 1, "locked": False, "age": None}
    assert _ispmail_accounts.read(config(accounts_host=["127.0.0.1", "%"])) == {
        "server": MARIADB,
        "login_plugins": [NATIVE],
        "database": "mailserver",
        "tables": {f"virtual_{name}": ["table"] for name in ("domains", "users", "aliases")},
        "accounts": {
            NAME: {**account, "passwords": 2, "expires": {"seconds": -86500, "date": "now"}},
            "mailserver@%": {**account, "age": 100, "expires": {"seconds": 5 * 86400 - 100, "date": "1970-01-07"}},
            "mailserver@10.%": {
                **{**account, "managed": False, "plugins": ["ed25519"], "passwords": 0, "locked": True},
                "expires": None,
            },
        },
        "pair": {},
        "others": {"former@%": {}},
        "refused_logins": 7,
    }
    # A MySQL counts no refused logins, and there may be no database yet.
    admin(
        FakeServer(version=MYSQL, answers={**dict.fromkeys(answers, ()), next(iter(answers)): [{"days": 0, "now": 0}]})
    )
    found = _ispmail_accounts.read(config())
    assert (found["database"], found["accounts"], found["refused_logins"]) == (None, {}, None)


@pytest.mark.parametrize("test", [True, False])
@pytest.mark.parametrize(
    ("version", "made"),
    [
        (MARIADB, f"CREATE USER mailserver@127.0.0.1 IDENTIFIED VIA {NATIVE} USING {NEW} PASSWORD EXPIRE NEVER"),
        ("8.0.36", f"CREATE USER mailserver@127.0.0.1 IDENTIFIED WITH {NATIVE} AS {NEW} PASSWORD EXPIRE NEVER"),
        (MYSQL, f"CREATE USER mailserver@127.0.0.1 IDENTIFIED WITH {SHA2} AS {SALTED['t']} PASSWORD EXPIRE NEVER"),
        (MYSQL_9, f"CREATE USER mailserver@127.0.0.1 IDENTIFIED WITH {SHA2} AS {SALTED['t']} PASSWORD EXPIRE NEVER"),
    ],
)
def test_an_account_is_made_where_there_is_none(admin, caplog, version, made, test):
    server = FakeServer(version=version)
    locks = admin(server)
    new = {"account": "made", "password": "***", "expires": "never"}
    changes = {
        **{key: {"old": None, "new": value} for key, value in new.items()},
        "grants": {"old": [], "new": SELECTS},
    }
    assert _ispmail_accounts.account(config(), test) == {"changes": {NAME: changes}, "warnings": []}
    assert server.done == ([] if test else [made, "GRANT SELECT ON `mailserver`.* TO mailserver@127.0.0.1"])
    assert locks == [not test] and caplog.messages == ([] if test else [f"Done in 1.0 s: create {NAME}"])


def test_an_account_as_it_should_be_is_left_alone(admin, caplog):
    server = FakeServer(mariadb_row(NEW, OLD))
    admin(server)
    assert _ispmail_accounts.account(config(), False) == {"changes": {}, "warnings": []}
    assert server.done == caplog.messages == []


SEEN = "(connected now: 2 from 192.0.2.1 as mailserver)"
INSERT = "GRANT INSERT ON `mailserver`.* TO `mailserver`@`127.0.0.1`"
ALL = "GRANT ALL PRIVILEGES ON `mailserver`.* TO `mailserver`@`127.0.0.1`"
OTHER = "GRANT UPDATE ON `other`.* TO `mailserver`@`127.0.0.1`"
LOSES = f"{NAME} loses {{}}: a program that needs that fails from then on {SEEN}"
ALSO = (
    f"{NAME} also has {{}}, which was left alone, as another program may need it {SEEN}: give that program an account "
    "of its own, then set second:server:revoke_other_grants to true"
)


@pytest.mark.parametrize(
    ("grants", "revoke", "done", "old", "new", "warning"),
    [
        ([], False, ["GRANT SELECT ON `mailserver`.* TO"], [], SELECTS, None),
        ([], True, ["GRANT SELECT ON `mailserver`.* TO"], [], SELECTS, None),
        ([SELECT], True, [], None, None, None),
        (
            [INSERT],
            False,
            ["GRANT SELECT ON `mailserver`.* TO"],
            ["INSERT ON `mailserver`.*"],
            ["INSERT ON `mailserver`.*", *SELECTS],
            ALSO.format("INSERT ON `mailserver`.*"),
        ),
        (
            [SELECT, OTHER, INSERT],
            True,
            ["REVOKE UPDATE ON `other`.* FROM", "REVOKE INSERT ON `mailserver`.* FROM"],
            [*SELECTS, "UPDATE ON `other`.*", "INSERT ON `mailserver`.*"],
            SELECTS,
            LOSES.format("UPDATE ON `other`.*; INSERT ON `mailserver`.*"),
        ),
        ([ALL], False, [], None, None, ALSO.format("ALL PRIVILEGES ON `mailserver`.*")),
        # SELECT is never revoked, not for a moment.
        (
            [ALL],
            True,
            ["REVOKE DROP, EVENT ON `mailserver`.* FROM"],
            ["ALL PRIVILEGES ON `mailserver`.*"],
            SELECTS,
            LOSES.format("ALL PRIVILEGES ON `mailserver`.*"),
        ),
    ],
)
def test_rights(admin, caplog, grants, revoke, done, old, new, warning):
    """SELECT is granted where it is missing; others are revoked only where pillar says so, and are told either way."""
    all_privileges = [{"p": "SELECT"}, {"p": "DROP"}, {"p": "EVENT"}]
    statement = "SELECT DISTINCT PRIVILEGE_TYPE AS p FROM information_schema.SCHEMA_PRIVILEGES WHERE GRANTEE = %s"
    server = FakeServer(mariadb_row(NEW), grants=grants, answers={statement: all_privileges})
    admin(server)
    told = _ispmail_accounts.account(config(revoke_other_grants=revoke), False)
    assert told["changes"] == ({NAME: {"grants": {"old": old, "new": new}}} if done else {})
    assert told["warnings"] == ([warning] if warning else [])
    assert server.done == [f"{each} {NAME}" for each in done]
    assert caplog.messages == ([f"Done in 1.0 s: change the grants of {NAME}"] if done else [])
    assert (statement, ["'mailserver'@'127.0.0.1'"]) in server.asked or not revoke


OTHER_PLUGINS = (
    "logs in by {}, which smtpd's chroot and PyMySQL do not have: give it a password by mysql_native_password alone "
    "(ALTER USER … IDENTIFIED VIA mysql_native_password …), or, if the maps do not use it, list the hosts of those "
    "that they use in server:accounts_host"
)
TWO_PLUGINS = {
    "host": "127.0.0.1",
    "priv": '{"auth_or": [{"plugin": "ed25519"}, {"plugin": "mysql_native_password"}, {"plugin": "gssapi"}]}',
}


@pytest.mark.parametrize(
    ("row", "warnings"),
    [
        (mariadb_row(OLD), [f"{NAME} does not accept pillar's password: see credential_accepted"]),
        (mariadb_row(plugin="ed25519"), [f"{NAME} {OTHER_PLUGINS.format('ed25519')}"]),
        (TWO_PLUGINS, [f"{NAME} {OTHER_PLUGINS.format('ed25519, gssapi')}"]),
        (
            mariadb_row(NEW, password_last_changed=1, password_lifetime=5),
            [f"the password of {NAME} expires: ALTER USER … PASSWORD EXPIRE NEVER, see postfix_doctor.check"],
        ),
        # The server's default may be for ever.
        (mariadb_row(NEW, password_last_changed=1), []),
    ],
)
def test_what_may_keep_the_maps_from_logging_in_is_told(admin, row, warnings):
    admin(FakeServer(row))
    assert _ispmail_accounts.account(config(), False) == {"changes": {}, "warnings": warnings}


def test_an_account_from_another_host_is_told(admin):
    """A client that matches it keeps its password."""
    admin(FakeServer(mariadb_row(NEW, OLD), mariadb_row(OLD, host="%")))
    unmanaged = ["mailserver@% exists too, and was left alone: drop it, or add its host to server:accounts_host"]
    assert _ispmail_accounts.account(config(accounts_host="127.0.0.1"), False)["warnings"] == unmanaged
    assert _ispmail_accounts.credential(config(accounts_host="127.0.0.1"), "accept", False)["warnings"] == unmanaged


def way(*hashes):
    """The statement by which an account of MariaDB accepts these passwords."""
    return f"ALTER USER {NAME} IDENTIFIED VIA " + " OR ".join(f"{NATIVE} USING {text}" for text in hashes)


SOLE = [f"ALTER USER {NAME} DISCARD OLD PASSWORD"]
RETAINED = [f"ALTER USER {NAME} IDENTIFIED WITH {NATIVE} AS {NEW} RETAIN CURRENT PASSWORD"]
SALTED_RETAINED = [f"ALTER USER {NAME} IDENTIFIED WITH {SHA2} AS {SALTED['t']} RETAIN CURRENT PASSWORD"]


def salted(*names):
    """An account of a MySQL with these hashes: letters stand for those of the new password, by their salt."""
    return mysql_row(*[SALTED.get(name, name) for name in names], plugin=SHA2)


ACCEPTED = f"{NAME} now accepts {{}}, pillar's first, after 1.0 s"
DROPPED = f"{NAME} accepts only pillar's password, {{}} dropped, after 1.0 s"


@pytest.mark.parametrize("test", [True, False])
@pytest.mark.parametrize(
    ("action", "before", "done", "after", "log"),
    [
        ("accept", mariadb_row("invalid"), [way(NEW)], mariadb_row(NEW), ACCEPTED.format("1 password")),
        ("accept", mariadb_row(OLD), [way(NEW, OLD)], mariadb_row(NEW, OLD), ACCEPTED.format("2 passwords")),
        (
            "accept",
            mariadb_row(OLD, THIRD),
            [way(NEW, OLD, THIRD)],
            mariadb_row(NEW, OLD, THIRD),
            ACCEPTED.format("3 passwords"),
        ),
        # It becomes the first one: that of the rotation which has begun last.
        ("accept", mariadb_row(OLD, NEW), [way(NEW, OLD)], mariadb_row(NEW, OLD), ACCEPTED.format("2 passwords")),
        ("accept", mariadb_row(NEW, OLD), [], None, None),
        ("accept", mariadb_row(NEW), [], None, None),
        ("accept", mysql_row(OLD), RETAINED, mysql_row(NEW, OLD), ACCEPTED.format("2 passwords")),
        ("accept", mysql_row(NEW, OLD), [], None, None),
        ("sole", mariadb_row(NEW, OLD), [way(NEW)], mariadb_row(NEW), DROPPED.format("1 old password")),
        ("sole", mariadb_row(NEW, OLD, THIRD), [way(NEW)], mariadb_row(NEW), DROPPED.format("2 old passwords")),
        ("sole", mariadb_row(NEW), [], None, None),
        ("sole", mysql_row(NEW, OLD), SOLE, mysql_row(NEW), DROPPED.format("1 old password")),
        ("accept", salted(SALTED_OLD), SALTED_RETAINED, salted("t", SALTED_OLD), ACCEPTED.format("2 passwords")),
        (
            "accept",
            salted("invalid"),
            [f"ALTER USER {NAME} IDENTIFIED WITH {SHA2} AS {SALTED['t']}"],
            salted("t"),
            ACCEPTED.format("1 password"),
        ),
        # It becomes the first one again.
        ("accept", salted(SALTED_OLD, "s"), SALTED_RETAINED, salted("t", SALTED_OLD), ACCEPTED.format("2 passwords")),
        # A password that is accepted is recognised whatever its salt, and is not set again.
        ("accept", salted("s"), [], None, None),
        ("accept", salted("y", SALTED_OLD), [], None, None),
        ("sole", salted("s", SALTED_OLD), SOLE, salted("s"), DROPPED.format("1 old password")),
        ("sole", salted("s", "y"), SOLE, salted("s"), DROPPED.format("1 old password")),
        ("sole", salted("s"), [], None, None),
    ],
)
def test_the_passwords_that_an_account_accepts(admin, caplog, action, before, done, after, log, test):
    server = FakeServer(before, version=MARIADB if "priv" in before else MYSQL, after=[after])
    locks = admin(server)
    numbers = [
        len(account.hashes)
        for row in (before, after or before)
        for account in read_accounts(FakeServer(row, version=server.version), "mailserver").values()
    ]
    told = {"password": {"old": "***", "new": "***"}, "passwords": dict(zip(("old", "new"), numbers))}
    assert _ispmail_accounts.credential(config(), action, test) == {
        "changes": {NAME: told} if done else {},
        "warnings": [],
    }
    assert server.done == ([] if test else done)
    assert locks == [not test] and caplog.messages == ([log] if done and not test else [])


def test_each_account_is_changed_and_those_that_need_nothing_are_not(admin):
    rows = [mariadb_row(NEW, OLD, host="a"), mariadb_row(OLD, host="b"), mariadb_row(OLD, host="c")]
    server = FakeServer(*rows, after=[rows[0], mariadb_row(NEW, OLD, host="b"), mariadb_row(NEW, OLD, host="c")])
    admin(server)
    assert list(_ispmail_accounts.credential(config(), "accept", False)["changes"]) == ["mailserver@b", "mailserver@c"]
    assert [statement.split()[2] for statement in server.done] == ["mailserver@b", "mailserver@c"]


LOCKED_OUT = "does not accept pillar's password yet, clients would be locked out: run credential_accepted first"
OVERTAKEN = "has accepted another password since then, another rotation has begun: rotate again"
THREE = (
    "accepts two other passwords already, and a MySQL keeps no third: put the newer one of them back into pillar, "
    "rotate, then start again"
)


MISSING, TWO_ACCOUNTS = "does not exist: run postfix_database.account first", '"Two accounts" in docs/rotation.md'
OTHER_PLUGINS_MYSQL = (
    f"logs in by {{}}, whose passwords cannot be rotated there: give it a password by {SHA2} (ALTER USER … IDENTIFIED "
    f"WITH {SHA2} …), or, if the maps do not use it, list the hosts of those that they use in server:accounts_host"
)


@pytest.mark.parametrize(
    ("version", "plugin", "accepted", "action", "fault"),
    [
        (MARIADB, None, (), "accept", f"{MISSING}; or, to change the user in a rotation, see {TWO_ACCOUNTS}"),
        (MARIADB, None, (), "sole", MISSING),
        (MARIADB, "ed25519", (), "sole", OTHER_PLUGINS.format("ed25519")),
        (MARIADB, SHA2, (), "accept", OTHER_PLUGINS.format(SHA2)),
        (MYSQL_9, NATIVE, (True,), "accept", OTHER_PLUGINS_MYSQL.format(NATIVE)),
        (MYSQL, "sha256_password", (), "accept", OTHER_PLUGINS_MYSQL.format("sha256_password")),
        (MARIADB, NATIVE, (False,), "accept", None),
        (MYSQL, NATIVE, (False,), "accept", None),
        (MYSQL_9, SHA2, (False,), "accept", None),
        (MARIADB, NATIVE, (False,), "sole", LOCKED_OUT),
        (MYSQL_9, SHA2, (False,), "sole", LOCKED_OUT),
        (MARIADB, NATIVE, (True, False), "sole", None),
        (MARIADB, NATIVE, (False, True), "sole", OVERTAKEN),
        (MYSQL_9, SHA2, (False, True), "sole", OVERTAKEN),
        (MYSQL, NATIVE, (False, True), "accept", None),
        (MYSQL, NATIVE, (False, False), "accept", THREE),
        (MYSQL_9, SHA2, (False, False), "accept", THREE),
        (MARIADB, NATIVE, (False, False), "accept", None),
    ],
)
def test_why_the_passwords_of_an_account_cannot_be_changed(version, plugin, accepted, action, fault):
    found = Account((plugin,), tuple(map(str, accepted)), False) if plugin else None
    fault_of = accept_fault if action == "accept" else sole_fault
    assert fault_of(of_version(version), found, accepted) == fault


def test_a_third_password_of_somebody_else_is_refused_before_anything_is_changed(admin):
    server = FakeServer(mysql_row(SALTED_OLD, SALTED_THIRD, plugin=SHA2), version=MYSQL_9)
    admin(server)
    with pytest.raises(DatabaseError, match="accepts two other passwords already, and a MySQL keeps no third"):
        _ispmail_accounts.credential(config(), "accept", False)
    assert server.done == []


def test_the_format_of_a_new_hash_is_the_one_that_the_server_asks_for(admin):
    """With enforce_storage_format another one would have the password expired."""
    wanted = [("storage_format", "PBKDF2_SHA512"), ("digest_rounds", "12000")]
    rows = [{"Variable_name": f"caching_sha2_password_{name}", "Value": value} for name, value in wanted]
    server = FakeServer(version=MYSQL_9, answers={"SHOW GLOBAL VARIABLES LIKE 'caching_sha2": rows})
    admin(server)
    _ispmail_accounts.account(config(), False)
    assert f"AS $B$00C${'t' * 20}" in server.done[0]


def test_where_one_account_cannot_be_changed_none_is(admin):
    """And all reasons are told at once."""
    server = FakeServer(mariadb_row(NEW, OLD, host="a"), mariadb_row(OLD, host="b"), mariadb_row(OLD, NEW, host="c"))
    admin(server)
    with pytest.raises(DatabaseError) as raised:
        _ispmail_accounts.credential(config(accounts_host=["a", "b", "c", "d"]), "sole", False)
    assert str(raised.value).splitlines() == [
        "Nothing was changed:",
        f"- mailserver@b {LOCKED_OUT}",
        f"- mailserver@c {OVERTAKEN}",
        f"- mailserver@d {MISSING}",
    ]
    assert server.done == []


# The other of two accounts has what it should have.
B = [mariadb_row(NEW, OLD, host="b")]
PARTS = f"\n- may be done: {NAME}\n- not done: mailserver@b"


@pytest.mark.parametrize(
    ("action", "before", "refuses", "after", "said"),
    [
        ("accept", [OLD], None, [], f"{NAME} is not as it was set: run credential_accepted again"),
        ("accept", [OLD], None, [mariadb_row(OLD, THIRD), *B], "is not as it was set"),
        ("accept", [OLD], None, [mariadb_row(NEW), *B], "is not as it was set"),
        ("sole", [NEW, OLD], None, [mariadb_row(NEW, OLD)], "is not as it was set"),
        (
            *("accept", [OLD], None, FAILED),
            f"{FAILED}. {NAME}, mailserver@b were changed, but could not be read back: run credential_accepted again",
        ),
        ("accept", [OLD], FAILED, None, f"{FAILED}. run credential_accepted again, it goes on from there:{PARTS}"),
        ("sole", [NEW, OLD], FAILED, None, f"{FAILED}. run credential_sole again, it goes on from there:{PARTS}"),
    ],
)
def test_a_server_that_does_not_do_it(admin, caplog, action, before, refuses, after, said):
    """Another admin may have been at it, or the connection was lost: it is said what to do next."""
    rows = [mariadb_row(*before), mariadb_row(*before, host="b")]
    admin(FakeServer(*rows, after=after, refuses=refuses))
    with pytest.raises(DatabaseError) as raised:
        _ispmail_accounts.credential(config(), action, False)
    assert said in str(raised.value) and caplog.messages == []
    assert raised.value.number == (2013 if str(FAILED) in said else 0)


def test_an_account_that_the_server_refuses_to_make(admin):
    admin(FakeServer(refuses=FAILED))
    with pytest.raises(DatabaseError, match=r"apply ispmail\.database again, it goes on from there"):
        _ispmail_accounts.account(config(), False)
