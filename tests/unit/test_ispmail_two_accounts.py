"""A rotation by two accounts, as the database server sees it: what is done to which account, and what is refused."""

import contextlib
from types import SimpleNamespace

import pytest

import _ispmail_accounts
import _ispmail_server_accounts
from _ispmail_dialect import of_version
from _ispmail_errors import DatabaseError
from _ispmail_sql import native_hash

from .database_values import MYSQL_9, NATIVE, SHA2, FakeServer, config, mariadb_row, mysql_row

OLD, NEW = "*" + "A" * 40, native_hash("new")
SALTED = of_version(MYSQL_9).hash_password(SHA2, "new", "t" * 20, {})
SALTED_OLD = of_version(MYSQL_9).hash_password(SHA2, "old", "o" * 20, {})
A, B = "mailserver_a@127.0.0.1", "mailserver_b@127.0.0.1"
LOCKED = {"account_locked": True}
SELECT = "GRANT SELECT ON `mailserver`.* TO `x`@`127.0.0.1`"
MORE = "GRANT SELECT, INSERT ON `mailserver`.* TO `x`@`127.0.0.1`"
SECRET = {"old": "***", "new": "***"}
REOPENED = {"password": SECRET, "locked": {"old": True, "new": False}}
MADE = {"account": {"old": None, "new": "made"}, "password": {"old": None, "new": "***"}}
MADE["expires"] = {"old": None, "new": "never"}
GRANTED = {"old": [], "new": ["SELECT ON `mailserver`.*"]}


def pair(**server):
    """What pillar says: its user is mailserver_a."""
    return config(user="mailserver_a", rotation={"method": "two_accounts"}, **server)


@pytest.fixture
def admin(monkeypatch):
    """A function that lets the admin in to a server. The salt of a new hash is all of the letter t."""
    letters = SimpleNamespace(token_urlsafe=lambda size: "t" * (size * 4 // 3))
    monkeypatch.setattr(_ispmail_server_accounts, "secrets", letters)

    def lets_in(server, connections=None):
        @contextlib.contextmanager
        def logs_in(login, lock=False):
            yield server

        monkeypatch.setattr("_ispmail_database.admin", logs_in)
        monkeypatch.setattr("_ispmail_account_users.connections", lambda server, user: connections or {})

    return lets_in


CREATE = f"CREATE USER {A} IDENTIFIED VIA {NATIVE} USING {NEW} PASSWORD EXPIRE NEVER"
REOPEN = f"ALTER USER {A} IDENTIFIED VIA {NATIVE} USING {NEW} ACCOUNT UNLOCK PASSWORD EXPIRE NEVER"
LIMITED = "REQUIRE SSL WITH MAX_QUERIES_PER_HOUR 7"
GRANT = f"GRANT SELECT ON `mailserver`.* TO {A}"


@pytest.mark.parametrize("test", [True, False])
@pytest.mark.parametrize(
    ("own", "grants", "others", "done", "changes"),
    [
        # It is not there.
        ([], [], [SELECT], [CREATE, GRANT], {**MADE, "grants": GRANTED}),
        (
            *([], [], [MORE], [CREATE, f"GRANT SELECT, INSERT ON `mailserver`.* TO {A}"]),
            {**MADE, "grants": {"old": [], "new": ["SELECT, INSERT ON `mailserver`.*"]}},
        ),
        # It is locked: whoever logs in has the rights by then.
        ([mariadb_row(OLD, **LOCKED)], [SELECT], [SELECT], [REOPEN], REOPENED),
        ([mariadb_row(NEW, **LOCKED)], [SELECT], [SELECT], [REOPEN], REOPENED),
        ([mariadb_row(OLD, **LOCKED)], [], [SELECT], [GRANT, REOPEN], {**REOPENED, "grants": GRANTED}),
        # Its demands are the other one's.
        (
            *([mariadb_row(OLD, **LOCKED)], [SELECT], [SELECT], [f"ALTER USER {A} {LIMITED}", REOPEN]),
            {**REOPENED, "grants": {"old": GRANTED["new"], "new": [*GRANTED["new"], LIMITED]}},
        ),
        (
            *([], [], [SELECT], [CREATE, f"ALTER USER {A} {LIMITED}", GRANT]),
            {**MADE, "grants": {"old": [], "new": [*GRANTED["new"], LIMITED]}},
        ),
        ([mariadb_row(NEW, ssl_type=1, max_questions=7)], [SELECT], [SELECT], [], None),
        (
            *([mariadb_row(NEW, ssl_type=2)], [SELECT], [SELECT], [f"ALTER USER {A} {LIMITED}"]),
            {"grants": {"old": [*GRANTED["new"], "REQUIRE X509"], "new": [*GRANTED["new"], LIMITED]}},
        ),
        # It is as it should be, or only its rights are not.
        ([mariadb_row(NEW)], [SELECT], [SELECT], [], None),
        ([mariadb_row(NEW)], [MORE], [SELECT], [], None),
        (
            *([mariadb_row(NEW)], [SELECT], [MORE], [f"GRANT INSERT ON `mailserver`.* TO {A}"]),
            {"grants": {"old": GRANTED["new"], "new": ["SELECT ON `mailserver`.*", "INSERT ON `mailserver`.*"]}},
        ),
    ],
)
def test_pillars_account_is_opened(admin, own, grants, others, done, changes, test):
    more = {"ssl_type": 1, "max_questions": 7} if LIMITED in str(changes) else {}
    other = [mariadb_row(OLD, **more)]
    server = FakeServer(*own, grants=grants, other=other, others=others, after=[mariadb_row(NEW)])
    admin(server)
    found = _ispmail_accounts.credential(pair(), "accept", test)
    assert found == {"changes": {A: changes} if changes else {}, "warnings": []}
    assert server.done == ([] if test else done)


def test_on_a_mysql_the_retained_password_goes_too(admin):
    """A new password alone leaves it accepted."""
    own = mysql_row(SALTED_OLD, SALTED_OLD, plugin=SHA2, locked="Y")
    server = FakeServer(
        own,
        version=MYSQL_9,
        other=[mysql_row(SALTED_OLD, plugin=SHA2)],
        others=[SELECT],
        grants=[SELECT],
        after=[mysql_row(SALTED, plugin=SHA2)],
    )
    admin(server)
    _ispmail_accounts.credential(pair(), "accept", False)
    assert server.done == [
        f"ALTER USER {A} DISCARD OLD PASSWORD",
        f"ALTER USER {A} IDENTIFIED WITH {SHA2} AS {SALTED} ACCOUNT UNLOCK PASSWORD EXPIRE NEVER",
    ]


def test_it_gets_the_login_plugin_of_the_other_one(admin):
    """smtpd's jail may have that one only."""
    own = mysql_row(SALTED_OLD, plugin=SHA2, locked="Y")
    after = [mysql_row(NEW)]
    server = FakeServer(own, version="8.4.6", other=[mysql_row(OLD)], others=[SELECT], grants=[SELECT], after=after)
    admin(server)
    _ispmail_accounts.credential(pair(), "accept", False)
    assert server.done[-1] == f"ALTER USER {A} IDENTIFIED WITH {NATIVE} AS {NEW} ACCOUNT UNLOCK PASSWORD EXPIRE NEVER"
    server = FakeServer(own, version="8.4.6", grants=[SELECT], after=[mysql_row(SALTED, plugin=SHA2)])
    admin(server)
    _ispmail_accounts.credential(pair(), "accept", False)
    assert server.done[-1].startswith(f"ALTER USER {A} IDENTIFIED WITH {SHA2} AS ")


def test_with_revoked_grants_the_other_ones_are_not_copied(admin):
    others = [MORE, "GRANT `reports` TO `mailserver_b`@`127.0.0.1`"]
    server = FakeServer(other=[mariadb_row(OLD)], others=others, after=[mariadb_row(NEW)])
    admin(server)
    found = _ispmail_accounts.credential(pair(revoke_other_grants=True), "accept", False)
    assert server.done == [CREATE, GRANT]
    assert found == {"changes": {A: {**MADE, "grants": GRANTED}}, "warnings": []}


def test_each_host_of_one_account_is_one_of_the_other(admin):
    """Else those from one of them would be locked out."""
    hosts = [mariadb_row(OLD, host=host) for host in ("a", "b")]
    server = FakeServer(mariadb_row(NEW, host="c"), other=hosts, others=[SELECT], grants=[SELECT])
    admin(server)
    assert list(_ispmail_accounts.credential(pair(), "accept", True)["changes"]) == ["mailserver_a@a", "mailserver_a@b"]
    found = _ispmail_accounts.credential(pair(accounts_host=["a"]), "accept", True)
    assert list(found["changes"]) == ["mailserver_a@a"]
    assert [text.partition(" exists too")[0] for text in found["warnings"]] == ["mailserver_a@c", "mailserver_b@b"]
    with pytest.raises(DatabaseError) as raised:
        _ispmail_accounts.credential(pair(), "sole", True)
    assert [line.split()[1] for line in str(raised.value).splitlines()[1:]] == ["mailserver_a@a", "mailserver_a@b"]


ROLE = "GRANT `reports` TO `x`@`127.0.0.1`"


@pytest.mark.parametrize(
    ("own", "grants", "other", "told"),
    [
        ([mariadb_row(NEW)], [SELECT], [mariadb_row(OLD)], True),
        ([mariadb_row(NEW)], [SELECT, ROLE], [mariadb_row(OLD)], False),
        # What SHOW GRANTS would say of an account that is not there.
        ([], [ROLE], [mariadb_row(OLD)], True),
        ([mariadb_row(NEW)], [SELECT], [], False),
    ],
)
def test_a_role_is_told_as_nobody_sees_whether_it_is_the_default_one(admin, own, grants, other, told):
    admin(FakeServer(*own, grants=grants, other=other, others=[SELECT, ROLE]))
    assert (
        _ispmail_accounts.credential(pair(), "accept", True)["warnings"]
        == [f"{B} has the role `reports`, which mailserver_a was not given: if a program needs it, grant it by hand"]
        * told
    )


IN_USE = (
    "is the account in use, and accepts another password than pillar's: with two_accounts, user and password change "
    "together. Write user: mailserver_b into pillar, beside the new password"
)
SOMEBODYS = (
    "accepts another password than pillar's, and is not locked, so somebody may use it (connected now: 2 from mx1): if "
    "a rotation to that password has begun, put it back into pillar and rotate; if nobody uses it, run ALTER USER … "
    "ACCOUNT LOCK and rotate again"
)


@pytest.mark.parametrize(
    ("own", "other", "fault"),
    [
        ([], [], "does not exist, and neither does mailserver_b: run postfix_database.account first"),
        # Only the password was changed in pillar.
        ([mariadb_row(OLD)], [], IN_USE),
        ([mariadb_row(OLD)], [mariadb_row(OLD, **LOCKED)], IN_USE),
        ([mariadb_row(NEW, OLD)], [mariadb_row(OLD, **LOCKED)], IN_USE),
        # Somebody else's, or of a rotation to yet another password.
        ([mariadb_row(OLD)], [mariadb_row(OLD)], SOMEBODYS),
        (
            [mariadb_row(OLD)],
            [mariadb_row(OLD, plugin="ed25519")],
            "cannot be made like mailserver_b, which logs in by",
        ),
        ([], [mariadb_row(OLD, plugin="ed25519")], "cannot be made like mailserver_b, which logs in by ed25519"),
    ],
)
def test_what_is_refused_before_anything_is_changed(admin, own, other, fault):
    server = FakeServer(*own, other=other, others=[SELECT])
    admin(server, {"mx1": 2})
    with pytest.raises(DatabaseError) as raised:
        _ispmail_accounts.credential(pair(accounts_host="127.0.0.1"), "accept", False)
    head, line = str(raised.value).splitlines()
    assert head == "Nothing was changed:" and line.startswith(f"- {A} {fault}")
    assert server.done == []


LOCK = "ALTER USER mailserver_b@127.0.0.1 ACCOUNT LOCK"
LEFT = (
    "mailserver_b keeps the connections that it has until they end (connected now: 1 from mx1): no new login is "
    "accepted"
)


@pytest.mark.parametrize("test", [True, False])
@pytest.mark.parametrize(
    ("other", "done"), [([mariadb_row(OLD)], [LOCK]), ([mariadb_row(OLD, **LOCKED)], []), ([], [])]
)
def test_the_other_account_is_locked(admin, monkeypatch, other, done, test):
    server = FakeServer(mariadb_row(NEW), other=other, grants=[SELECT])
    # What the server has after the change.
    monkeypatch.setattr(server, "done", Noted(lambda: setattr(server, "_other", [mariadb_row(OLD, **LOCKED)])))
    admin(server, {"mx1": 1})
    changes = {B: {"locked": {"old": False, "new": True}}} if done else {}
    assert _ispmail_accounts.credential(pair(), "sole", test) == {"changes": changes, "warnings": [LEFT]}
    assert server.done == ([] if test else done)


def test_nothing_is_said_of_connections_where_there_are_none(admin):
    admin(FakeServer(mariadb_row(NEW), other=[mariadb_row(OLD)]))
    assert _ispmail_accounts.credential(pair(), "sole", True)["warnings"] == []


class Noted(list):
    """A list that tells when something is added."""

    def __init__(self, tell):
        super().__init__()
        self._tell = tell

    def append(self, item):
        """As `list.append`."""
        super().append(item)
        self._tell()


@pytest.mark.parametrize("own", [[], [mariadb_row(OLD)], [mariadb_row(NEW, **LOCKED)], [mariadb_row(NEW, OLD)]])
def test_the_other_account_is_not_locked_before_pillars_is_open(admin, own):
    server = FakeServer(*own, other=[mariadb_row(OLD)])
    admin(server)
    with pytest.raises(DatabaseError, match="clients would be locked out: run credential_accepted first"):
        _ispmail_accounts.credential(pair(), "sole", False)
    assert server.done == []


def test_a_mysql_is_locked_alike(admin):
    server = FakeServer(mysql_row(NEW), version="8.4.6", other=[mysql_row(OLD)])
    admin(server)
    with pytest.raises(DatabaseError, match="is not as it was set"):
        _ispmail_accounts.credential(pair(), "sole", False)
    assert server.done == [LOCK]


def test_what_there_is_of_the_other_account(admin, monkeypatch):
    monkeypatch.setattr("_ispmail_schema.read_tables", lambda server, dbname: {})
    monkeypatch.setattr("_ispmail_schema.has_database", lambda server, dbname: True)
    monkeypatch.setattr("_ispmail_account_users.other_readers", lambda server, config: {})
    answers = {"SELECT @@global.default": [{"days": 0, "now": 0}], "SHOW GLOBAL STATUS": []}
    others = [mariadb_row(OLD, **LOCKED), mariadb_row(OLD, host="b")]
    admin(FakeServer(mariadb_row(NEW), other=others, answers=answers), {"mx1": 1})
    found = _ispmail_accounts.read(pair())
    assert list(found["accounts"]) == [A] and found["accounts"][A]["managed"] is True
    assert found["pair"] == {
        B: {"locked": True, "connections": {"mx1": 1}},
        "mailserver_b@b": {"locked": False, "connections": {"mx1": 1}},
    }


def test_a_locked_account_that_is_no_pairs_keeps_its_own_warning(admin):
    """The doctor tells that it is locked."""
    admin(FakeServer(mariadb_row(OLD, **LOCKED), grants=[SELECT]))
    (warning,) = _ispmail_accounts.account(config(user="mailserver_a"), True)["warnings"]
    assert warning == f"{A} does not accept pillar's password: see credential_accepted"
    admin(FakeServer(mariadb_row(OLD), grants=[SELECT], other=[mariadb_row(OLD)], others=[SELECT]))
    (warning,) = _ispmail_accounts.account(pair(), True)["warnings"]
    assert warning == f"{A} does not accept pillar's password: see credential_accepted"


def test_a_server_that_does_not_lock_it(admin):
    admin(FakeServer(mariadb_row(NEW), other=[mariadb_row(OLD)]))
    with pytest.raises(DatabaseError, match=f"{B} is not as it was set: run credential_sole again"):
        _ispmail_accounts.credential(pair(), "sole", False)


def test_the_state_makes_pillars_account_like_the_other_one(admin):
    """And tells of an idle one, which it does not open."""
    server = FakeServer(other=[mysql_row(OLD)], others=[MORE], version="8.4.6", after=[])
    admin(server)
    (change,) = _ispmail_accounts.account(pair(), False)["changes"].values()
    assert change["grants"] == {"old": [], "new": ["SELECT, INSERT ON `mailserver`.*"]}
    assert f"IDENTIFIED WITH {NATIVE} AS {NEW}" in server.done[0], "smtpd's jail may have that plugin only"
    server = FakeServer(mariadb_row(OLD, **LOCKED), grants=[SELECT], other=[mariadb_row(OLD)], others=[SELECT])
    admin(server)
    found = _ispmail_accounts.account(pair(), False)
    assert found == {
        "changes": {},
        "warnings": [f"{A} is locked, as the idle account of the pair is: see credential_accepted"],
    }
    assert server.done == []
