"""The other role of a pair on a PostgreSQL: since when it is locked, and what keeps it from being dropped."""

import dataclasses

import pytest

from _ispmail_postgresql import Right, Role
from _ispmail_postgresql_idle import drop, lock, locked_since, obstacle, read_obstacles


@pytest.mark.parametrize(("expires", "since"), [(None, None), (0, None), (99, 99), (100, 100), (101, None)])
def test_since_when_it_is_locked(expires, since):
    """A password that expires later, or was never valid, tells of no lock. Neither does a date of an admin's."""
    role = Role("m_b", False, False, None, expires, (), (), 0, -1, at_moment=True)
    assert locked_since(role, 100) == since
    assert locked_since(dataclasses.replace(role, at_moment=False), 100) is None


def test_the_lock_keeps_its_time():
    assert lock('m"b') == ["""ALTER ROLE "m""b" NOLOGIN VALID UNTIL 'now'"""]


def row(kind, name):
    return {"kind": kind, "name": name}


@pytest.mark.parametrize(
    ("rows", "why", "cure"),
    [
        (
            [row("o", "mail"), row("o", "mail"), row("o", "web"), row("member", "x")],
            'it owns something in the database "mail", in the database "web"',
            'give that to another role (in each of these databases, REASSIGN OWNED BY "m_b" TO …)',
        ),
        ([row("o", "")], "it owns something of the whole server", "give that to another role"),
        (
            [row("r", "mail"), row("member", "x"), row("member", 'y"')],
            'it is the group of "x", "y"""',
            'give them another group, and REVOKE "m_b" from them',
        ),
        (
            [row("a", "web"), row("r", "mail")],
            'policies of row security name it in the database "mail"',
            "take it out of them (ALTER POLICY … TO)",
        ),
        (
            [row("a", "mail"), row("a", ""), row("a", "web"), row("i", "web"), row("i", "x")],
            'it has rights in the database "web", in the database "x"',
            'take them back (in each of these databases, DROP OWNED BY "m_b")',
        ),
    ],
)
def test_what_keeps_it(rows, why, cure):
    found = obstacle(rows, "m_b", "mail")
    assert found[0] == why and found[1].startswith(cure)


def test_rights_in_the_maps_database_and_of_the_server_keep_it_not():
    """They are taken back."""
    assert obstacle([row("a", "mail"), row("a", ""), row("i", "mail")], "m_b", "mail") is None
    assert obstacle([], "m_b", "mail") is None
    assert read_obstacles("m'b").count("'m''b'") == 2


def test_what_drops_it():
    rights = [
        Right('GRANT SELECT ON TABLE "GRANT "', " WITH GRANT OPTION"),
        Right("GRANT readers", ""),
        Right("ALTER DEFAULT PRIVILEGES FOR ROLE x GRANT SELECT ON TABLES", ""),
    ]
    assert drop("m_b", rights) == [
        'REVOKE SELECT ON TABLE "GRANT " FROM "m_b"',
        'ALTER DEFAULT PRIVILEGES FOR ROLE x REVOKE SELECT ON TABLES FROM "m_b"',
        'DROP ROLE "m_b"',
    ]
