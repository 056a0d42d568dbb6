"""Who else uses the database, by what the server lists: connections, and other accounts that may read the tables."""

import pytest

from _ispmail_account_users import connections, describe_connections, listed_by_admin, other_readers
from _ispmail_errors import CannotAsk

from .database_values import FakeServer, config, mysql_row

SEES_ALL = "SELECT PRIVILEGE_TYPE AS p FROM information_schema.USER_PRIVILEGES"
DATABASE = (
    "SELECT DISTINCT GRANTEE AS grantee FROM information_schema.SCHEMA_PRIVILEGES"
    " WHERE PRIVILEGE_TYPE = 'SELECT' AND %s LIKE TABLE_SCHEMA"
)
THERE = "SELECT TABLE_NAME AS t FROM information_schema.TABLES WHERE TABLE_SCHEMA = %s"
TABLE = (
    "SELECT GRANTEE AS grantee, TABLE_NAME AS t FROM information_schema.TABLE_PRIVILEGES"
    " WHERE PRIVILEGE_TYPE = 'SELECT' AND TABLE_SCHEMA = %s"
)


ADMINS = "SELECT GRANTEE AS grantee FROM information_schema.USER_PRIVILEGES WHERE PRIVILEGE_TYPE = 'SELECT'"
ROLES = "SELECT Role AS role, '' AS role_host, User AS user, Host AS host FROM mysql.roles_mapping"
MYSQL_ROLES = "SELECT FROM_USER AS role, FROM_HOST AS role_host, TO_USER AS user, TO_HOST AS host FROM mysql.role_edges"


def server(*clients, sees_all=True, on_database=(), tables=(), on_tables=None, admins=(), roles=(), **more):
    """One that lists these clients, each a user and a host, tables, and who may SELECT on them."""
    rows = [{"Id": number, "User": user, "Host": host} for number, (user, host) in enumerate(clients, 10)]
    answers = {
        SEES_ALL: [{"p": "SELECT"}, *([{"p": "PROCESS"}] if sees_all else [])],
        "SHOW PROCESSLIST": [*rows, {"Id": 9, "User": "mailserver", "Host": "localhost"}],
        "SELECT CONNECTION_ID() AS id": [{"id": 9, "port": 3306, "socket": "/run/mysqld/mysqld.sock"}],
        DATABASE: [{"grantee": f"'{user}'@'%'"} for user in on_database],
        THERE: [{"t": table} for table in tables],
        TABLE: [{"grantee": grantee, "t": table} for grantee, some in (on_tables or {}).items() for table in some],
        ADMINS: [{"grantee": grantee} for grantee in admins],
        ROLES: [dict(zip(("role", "role_host", "user", "host"), row)) for row in roles],
    }
    answers[MYSQL_ROLES] = answers[ROLES]
    return FakeServer(*more.pop("accounts", ()), answers=answers, **more)


CLIENTS = [("mailserver", "127.0.0.1:40000"), ("mailserver", "mx1:40001"), ("mailserver", "127.0.0.1:40002")]


def test_who_is_connected_is_counted_by_host():
    """Without the connection by which the admin asks."""
    assert connections(server(*CLIENTS, ("webmail", "web:1")), "mailserver") == {"127.0.0.1": 2, "mx1": 1}
    assert connections(server(("mailserver", "a\nb:1")), "mailserver") == {"(an unreadable name)": 1}
    assert connections(server(("webmail", "web:1")), "mailserver") == {}


def test_an_admin_who_may_not_see_the_connections_of_others_is_told_of_none():
    assert connections(server(*CLIENTS, sees_all=False), "mailserver") is None


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (None, "who is connected cannot be seen without the privilege PROCESS (PostgreSQL: pg_read_all_stats)"),
        ({}, "nobody is connected now"),
        ({"mx2": 1, "mx1": 3}, "connected now: 3 from mx1, 1 from mx2"),
    ],
)
def test_connections_for_people(found, text):
    assert describe_connections(found) == text


GUIDE = ("virtual_domains", "virtual_users", "virtual_aliases")


@pytest.mark.parametrize(
    ("found", "readers"),
    [
        ({}, []),
        # Accounts of the maps' own user, and those that pillar names, are known.
        ({"on_database": ["mailserver", "former", "webmail", "backup"]}, ["former@%", "webmail@%"]),
        # One that may read less than all of the guide's tables is another program's.
        (
            {"tables": [*GUIDE, "more"], "on_tables": {"'former'@'%'": [*GUIDE, "x"], "'webmail'@'%'": GUIDE[:2]}},
            ["former@%"],
        ),
        ({"tables": GUIDE[:1], "on_tables": {"'former'@'%'": ["x"], "'webmail'@'%'": GUIDE[:1]}}, ["webmail@%"]),
        # With a schema of the site's own, any table may be one that the maps read.
        ({"tables": ["own"], "on_tables": {"'former'@'10.%'": ["own"]}}, ["former@10.%"]),
        ({"on_database": ["b", "c"], "on_tables": {"'c'@'%'": ["own"], "'a'@'%'": ["own"]}}, ["a@%", "b@%", "c@%"]),
        # No account: a role, and what a server may make up.
        ({"on_tables": {"'role'@''": ["own"], "''@''": ["own"]}}, []),
        ({"on_database": ["a", "boss"], "admins": ["'boss'@'%'", "'root'@'localhost'"]}, ["a@%"]),
    ],
)
def test_who_else_may_read_all_that_the_maps_read(found, readers):
    asked = server(**found)
    told = other_readers(asked, config(known_accounts=["backup"]))
    assert list(told) == readers
    # The name of the database is no part of a statement.
    assert [arguments for _, arguments in asked.asked[:5] if arguments] == [["mailserver"]] * 3


MEMBER = ("former", "10.%")
NESTED = [("reader", "", "staff", ""), ("staff", "", *MEMBER), ("staff", "", "root", "localhost")]


@pytest.mark.parametrize(
    ("found", "readers"),
    [
        ({"on_tables": {"'reader'@''": ["own"]}, "roles": [("reader", "", *MEMBER)]}, ["former@10.%"]),
        ({"on_tables": {"'reader'@''": ["own"]}, "roles": NESTED, "admins": ["'root'@'localhost'"]}, ["former@10.%"]),
        # An admin by a role is one too.
        ({"on_tables": {"'reader'@''": ["own"]}, "roles": NESTED, "admins": ["'staff'@''"]}, []),
        # All of it together is all.
        (
            {
                "tables": GUIDE,
                "on_tables": {"'reader'@''": GUIDE[:2], "'former'@'10.%'": GUIDE[2:], "'x'@'%'": GUIDE[:1]},
                "roles": NESTED,
                "admins": ["'root'@'localhost'"],
            },
            ["former@10.%"],
        ),
        # Roles that have each other, which no server allows.
        ({"on_tables": {"'a'@''": ["own"]}, "roles": [("a", "", "b", ""), ("b", "", "a", "")]}, []),
        (
            {
                "on_tables": {"'reader'@''": ["own"]},
                "roles": [("other", "", *MEMBER), ("reader", "", "mailserver", "%")],
            },
            [],
        ),
    ],
)
def test_who_may_read_by_a_role(found, readers):
    """Rights by a role counted as none: nobody was told of the account."""
    assert list(other_readers(server(**found), config())) == readers


@pytest.mark.parametrize(("locked", "readers"), [("Y", ["former@%"]), ("N", ["former@%", "reader@%"])])
def test_a_role_of_a_mysql_is_an_account_that_is_locked(locked, readers):
    """DROP USER would take the rights of all who have it."""
    roles = [("reader", "%", "former", "%")]
    asked = server(
        version="8.4.6", roles=roles, on_database=["reader"], accounts=[mysql_row(None, host="%", locked=locked)]
    )
    assert list(other_readers(asked, config())) == readers
    gone = server(version="8.4.6", roles=roles, on_database=["reader"])
    assert list(other_readers(gone, config())) == ["former@%"]


def test_the_other_account_of_a_pair_is_no_other_one():
    pair = config(rotation={"method": "two_accounts", "accounts": ["mailserver", "second"]})
    assert list(other_readers(server(on_database=["mailserver", "second", "third"]), pair)) == ["third@%"]


def test_how_such_an_account_is_dropped_and_who_uses_it():
    found = server(("former", "web:1"), ("mailserver", "mx1:1"), on_database=["former"])
    assert other_readers(found, config()) == {"former@%": {"drop": "DROP USER 'former'@'%'", "connections": {"web": 1}}}
    odd = server(on_tables={"'a'@'%'": ["own"], "'it's'@'%'": ["own"]})
    assert other_readers(odd, config())["it's@%"]["drop"] == "DROP USER 'it''s'@'%'"


def test_whose_connections_an_admin_asks_for():
    """Each with its port; none where the admin sees only his own: nobody else would seem to be connected."""
    there = [("mailserver", "127.0.0.1:40000"), ("webmail", "127.0.0.1:40001"), ("other", "127.0.0.1:40002")]
    for users, ports in ((["mailserver"], [40000]), (["webmail", "mailserver"], [40000, 40001])):
        found = listed_by_admin(server(*there), users, "127.0.0.1")
        assert [client.port for client in found.clients] == ports
        assert (found.port, found.socket, found.addresses) == (3306, "/run/mysqld/mysqld.sock", ("127.0.0.1",))
    assert listed_by_admin(server(*there), ["webmail"], None).addresses == ()
    with pytest.raises(CannotAsk, match=r"does not see who is connected: run GRANT PROCESS ON \*\.\* TO its account$"):
        listed_by_admin(server(*there, sees_all=False), ["mailserver"], "127.0.0.1")
