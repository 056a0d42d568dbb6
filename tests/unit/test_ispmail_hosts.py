"""The hosts of a table file are read as Postfix reads them."""

import pytest

import _ispmail_hosts


@pytest.mark.parametrize(
    "text, items",
    [("", []), (" ,", []), ("a", ["a"]), ("a,b", ["a", "b"]), ("\ta ,\r b\n", ["a", "b"]), ("Q~", ["Q~"])],
)
def test_lists_are_split_at_commas_and_blanks(text, items):
    assert _ispmail_hosts.split_list(text) == items
    assert _ispmail_hosts.hosts({"hosts": text}) == (items or ["localhost"])


def test_without_hosts_postfix_takes_localhost():
    assert _ispmail_hosts.hosts({}) == ["localhost"]


SOCKET = "/run/mysqld/mysqld.sock"
# type and text; name, port and socket.
HOSTS = [
    *(
        ("mysql", text, "localhost", None, SOCKET)
        for text in ("localhost", "LocalHost", "localhost:13306", "inet:localhost", "inet:LOCALHOST:3306")
    ),
    ("pgsql", "localhost", "localhost", 5432, None),
    ("pgsql", "localhost:5433", "localhost", 5433, None),
    ("pgsql", "inet:LOCALHOST:5433", "LOCALHOST", 5433, None),
    ("mysql", "unix:/tmp/db.sock", None, None, "/tmp/db.sock"),
    ("pgsql", "unix:/run/postgresql", None, None, "/run/postgresql"),
    ("pgsql", "/run/postgresql", None, None, "/run/postgresql"),
    ("mysql", "/run/x", "/run/x", 3306, None),
    ("mysql", "127.0.0.1", "127.0.0.1", 3306, None),
    ("pgsql", "192.0.2.1", "192.0.2.1", 5432, None),
    ("mysql", "192.0.2.1:3307", "192.0.2.1", 3307, None),
    ("mysql", "inet:db.example.org", "db.example.org", 3306, None),
    ("mysql", "inet:DB.example.org:3307", "DB.example.org", 3307, None),
    ("mysql", "INET:db", "INET", "db", None),
    *(("mysql", f"db:{port}", "db", 3306, None) for port in ("", "0", "65536", "9" * 5000, "²", "٣", "a/b")),
    ("mysql", "db:amqp", "db", "amqp", None),
    ("pgsql", "db:postgresql", "db", 5432, None),
    ("pgsql", "db:", "db", 5432, None),
    # Postfix splits at the last colon.
    ("mysql", "::1:3307", "::1", 3307, None),
    ("mysql", "localhost.example.org", "localhost.example.org", 3306, None),
    ("pgsql", "postgresql://u@db:5433/mail", None, None, None),
    ("pgsql", "postgres://u@db:5433/mail", None, None, None),
    ("pgsql", "postgresql:5433", "postgresql", 5433, None),
    ("pgsql", "postgres:5433", "postgres", 5433, None),
    ("pgsql", "inet:postgresql:5433", "postgresql", 5433, None),
]


@pytest.mark.parametrize("type_, text, name, port, socket", HOSTS)
def test_a_host_is_read_as_postfix_reads_it(type_, text, name, port, socket):
    host = _ispmail_hosts.parse_host(text, type_)
    assert host == _ispmail_hosts.Host(text, name, port, socket)


def test_the_password_of_a_uri_is_not_in_the_repr_of_a_host():
    assert "TOKEN" not in repr(_ispmail_hosts.parse_host("postgresql://u:TOKEN@db/mail", "pgsql"))


def test_a_host_is_of_a_mysql_table_unless_said():
    assert _ispmail_hosts.parse_host("db").port == 3306


PATHS = [
    ("mysql", "/run/mysqld/mysqld.sock", "is a path"),
    ("mysql", "unix:/run/mysqld/mysqld.sock", None),
    ("mysql", "unix:run/mysqld.sock", "has a unix: without an absolute path"),
    ("mysql", "unix:", "has a unix: without an absolute path"),
    ("pgsql", "/run/postgresql", None),
    ("pgsql", "unix:/run/postgresql", None),
    ("pgsql", "unix:run", "has a unix: without an absolute path"),
    # Not a path, although its name has the same letters: Postfix takes it for a host.
    ("mysql", "unix", None),
]


NO_PORT = "has an IPv6 address in brackets or without a port, but Postfix splits at the last colon"
COLONS = "has more than one colon, and is no IPv6 address with a port"
URI = "is a URI, which Postfix would take for the name of a host"
NO_SERVICE = "has a port that is not a number from 1 to 65535, nor the name of a service"
NAMES = [
    ("mysql", "db:3306", None),
    ("mysql", "db:0", NO_SERVICE),
    ("mysql", "db:1", None),
    ("mysql", "db:65535", None),
    ("mysql", "db:65536", NO_SERVICE),
    ("mysql", ":3306", "has a port without a host"),
    (
        "mysql",
        "[2001:db8::1]",
        NO_PORT,
    ),
    ("mysql", "[db]", NO_PORT),
    ("mysql", "::1", NO_PORT),
    ("mysql", "::1:3307", None),
    ("mysql", "a:b:3307", COLONS),
    ("mysql", "127.0.0.1:3306:4", COLONS),
    ("mysql", "inet:::1", NO_PORT),
    ("mysql", "2001:db8::1:3306", None),
    ("mysql", "mysql://u:SECRET@db/mail", URI),
    ("pgsql", "mysql://u:SECRET@db/mail", URI),
    ("mysql", "postgresql://u@db/mail", URI),
    ("mysql", "db:amqp", None),
    ("mysql", "db:", NO_SERVICE),
    ("pgsql", "db:amqp", "has a port that is not a number from 1 to 65535"),
    ("pgsql", "db:", None),
    ("mysql", "LocalHost:3306", "has localhost with a port, but localhost is the unix socket and the port is ignored"),
    ("mysql", "localhost", None),
    ("pgsql", "localhost:5432", None),
    ("pgsql", "postgresql://u:p@db/mail", "holds a password in a URI"),
    ("pgsql", "postgres://db/mail?password=x", "holds a password in a URI"),
    ("pgsql", "postgres://db/mail?user=u&sslpassword=x", "holds a password in a URI"),
    ("pgsql", "postgresql://u@db/mail", None),
    ("pgsql", "postgres://db/mail", "is a URI to some releases of Postfix and a host to others"),
    ("pgsql", "postgresql:5433", "is a URI to some releases of Postfix and a host to others"),
    *(("pgsql", text, None) for text in ("postgres:5433", "inet:postgresql:5433")),
]


@pytest.mark.parametrize("type_, text, reason", [*PATHS, *NAMES])
def test_what_postfix_cannot_use_as_a_host(type_, text, reason):
    fault = _ispmail_hosts.host_fault(text, type_)
    assert (fault and (fault.key, fault.reason)) == (reason and ("hosts", reason))


@pytest.mark.parametrize(
    ("text", "remote"),
    [
        ("localhost", False),
        ("127.0.0.1", False),
        ("127.1", False),
        ("127.0.0.1.example.org", True),
        ("unix:/x", False),
        ("192.0.2.1", True),
        ("db", True),
    ],
)
def test_which_hosts_are_reached_over_a_network(text, remote):
    assert _ispmail_hosts.is_remote(text) is remote


@pytest.mark.parametrize(
    ("text", "remote"),
    [
        ("127.0.0.1:5433", False),
        ("localhost:5432", False),
        ("localhost", False),
        ("/run/postgresql", False),
        ("unix:/run/postgresql", False),
        ("192.0.2.1", True),
        ("postgresql://db1/x", True),
        ("postgresql://db1/x?sslmode=verify-full", False),
    ],
)
def test_which_hosts_of_a_postgresql_are_reached_over_a_network(text, remote):
    assert _ispmail_hosts.is_remote(text, "pgsql") is remote


@pytest.mark.parametrize(
    ("uri", "user"),
    [
        ("u@db/mail", "u"),
        ("u:p%40x@db:5433/mail?sslmode=require", "u"),
        ("db/mail", ""),
        ("db/mail?user=v", "v"),
        ("u@db/mail?user=v&user=w", "w"),
        ("u@?us%65r=%C3%BC%2b+", "ü++"),
        ("u@db?user=", ""),
        ("u:p/w@db", ""),
        ("db/a@b", ""),
        (":p@db", ""),
        ("a?user=b@db", "a?user=b"),
        ("u@db?service=s", "u"),
        ("db?service=s", None),
        ("db?service=s&user=v", "v"),
    ],
)
def test_the_user_in_a_uri(uri, user):
    """tests/functional/test_table_users.py compares it with what the server is told."""
    assert _ispmail_hosts.uri_user(f"postgresql://{uri}") == _ispmail_hosts.uri_user(f"postgres://{uri}") == user


def test_the_socket_of_a_postgresql():
    """Clients name the directory; whoever names the socket itself means that one."""
    socket = _ispmail_hosts.postgresql_socket
    assert socket("/run/postgresql") == socket("/run/postgresql/") == "/run/postgresql/.s.PGSQL.5432"
    assert socket("/x", 5433) == "/x/.s.PGSQL.5433"
    assert socket("/x/.s.PGSQL.1", 2) == "/x/.s.PGSQL.1"


@pytest.mark.parametrize(
    ("type_", "hosts", "expected"),
    [
        ("mysql", "db1:3306, db1 db2 192.0.2.1:3306 2001:db8::1:3306 unix:/x localhost LOCALHOST:3307", ["db1", "db2"]),
        ("pgsql", "db1 LocalHost:5432 /run/x postgresql://db2/x inet:db3:5432", ["db1", "db3"]),
        ("mysql", "", []),
        ("sqlite", "db1", []),
    ],
)
def test_the_names_that_are_resolved(type_, hosts, expected):
    assert _ispmail_hosts.names({"hosts": hosts}, type_) == expected
