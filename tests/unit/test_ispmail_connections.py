"""The database's list of connections, and how it is joined with this server's."""

import pytest

import _ispmail_connections
import _ispmail_session
from _ispmail_connections import Client, Listed
from _ispmail_errors import CannotAsk, DatabaseError
from _ispmail_sockets import Connection, Process, is_address

from .database_values import FakeServer

FACTS = [{"id": 9, "port": 3306, "socket": "/run/mysqld/mysqld.sock"}]


def row(number, host, user="mailserver"):
    return {"Id": number, "User": user, "Host": host}


def listed(*hosts):
    return _ispmail_connections.read_listed(
        [row(number, host) for number, host in enumerate(hosts)], FACTS, ["mailserver"]
    )


def test_the_connections_of_the_account_without_the_own():
    rows = [row(1, "127.0.0.1:40000"), row(2, "localhost"), row(9, "127.0.0.1:40001"), row(3, "x:1", "webmail")]
    found = _ispmail_connections.read_listed(rows, FACTS, ["mailserver"])
    assert found == Listed((Client("127.0.0.1", 40000), Client("localhost", None)), 3306, "/run/mysqld/mysqld.sock")


ROWS = [row(1, "127.0.0.1:40000"), row(2, "127.0.0.1:40001", "webmail"), row(9, "127.0.0.1:40002")]
ANSWERS = {"SHOW PROCESSLIST": ROWS, "SELECT CONNECTION_ID() AS id, @@port AS port, @@socket AS socket": FACTS}
FOUND = Listed((Client("127.0.0.1", 40000),), 3306, "/run/mysqld/mysqld.sock", ("127.0.0.1",))
PRIVILEGE = "SELECT PRIVILEGE_TYPE AS p FROM information_schema.USER_PRIVILEGES"


class OneClient(FakeServer):
    """The client of one login."""

    plugin = "mysql_native_password"

    def __init__(self, **answers):
        super().__init__(answers={"SET SESSION": [], **ANSWERS, **answers})

    def __call__(self, where, login, *within):
        self.login = login
        return self

    def connect(self):
        """As `_ispmail_client.Client.connect`."""

    def close(self):
        """As `_ispmail_client.Client.close`."""

    def ask(self, statement, arguments=None):
        """As `_ispmail_client.Client.ask`."""
        rows = super().ask(statement, arguments)
        if isinstance(rows, Exception):
            raise rows
        return rows


KEYS = {"user": "mailserver", "password": "p", "hosts": "localhost 127.0.0.1:3307"}


def test_who_is_connected_as_the_account_itself_sees_it(monkeypatch):
    """By the login of a table file; the list is that of the host that was asked."""
    client = OneClient()
    monkeypatch.setattr(_ispmail_session, "Client", client)
    assert _ispmail_connections.listed_by_account(KEYS, "127.0.0.1:3307") == FOUND._replace(asked=3307)
    assert (client.login.user, client.login.port) == ("mailserver", 3307)
    assert _ispmail_connections.listed_by_account(KEYS, "localhost") == FOUND._replace(addresses=())


@pytest.mark.parametrize("statement", ANSWERS)
def test_what_the_account_cannot_ask_is_not_an_empty_list(monkeypatch, statement):
    monkeypatch.setattr(_ispmail_session, "Client", OneClient(**{statement: DatabaseError("db: lost", 2013)}))
    with pytest.raises(DatabaseError, match=r"^db: lost$"):
        _ispmail_connections.listed_by_account(KEYS, "localhost")


def test_who_is_connected_as_a_postgresql_lists_it():
    listed, port = _ispmail_connections.activity_statements(["a", "it's"])
    assert listed.endswith(" FROM pg_stat_activity WHERE usename IN ('a', 'it''s') AND pid <> pg_backend_pid()")
    assert port == "SELECT current_setting('port') AS port"


def test_connections_are_read():
    rows = [
        {"host": "10.0.0.5", "port": "40000"},
        {"host": None, "port": "-1"},
        {"host": None, "port": None},
        {"host": "::1", "port": "1"},
    ]
    local = ("localhost", None)
    assert _ispmail_connections.activity(rows) == [("10.0.0.5", 40000), local, local, ("::1", 1)]


@pytest.mark.parametrize("text", ["192.0.2.1:40000", "::1:40000", "mx1.example.org:1", "localhost"])
def test_a_connection_is_described_as_it_is_read(text):
    client = _ispmail_connections.read_client(text)
    assert client.describe() == text and client.over_socket is (text == "localhost")


@pytest.mark.parametrize(("length", "end"), [(57, ":40000"), (58, ":"), (62, ":"), (63, "")])
def test_a_long_name_whose_port_is_cut_off_is_no_client_of_the_socket(length, end):
    """As MariaDB 10.11 cuts it: whoever had such a name was counted for the unix socket, and for no server."""
    name = "m" * length
    client = _ispmail_connections.read_client(name + end)
    assert client == Client(name, 40000 if length == 57 else None) and not client.over_socket
    assert _ispmail_connections.strangers(listed(name + end), ["192.0.2.1"]) == [name]
    assert _ispmail_connections.strangers(listed(name + end), [name]) == []


@pytest.mark.parametrize("host", ["::1:40000", "::ffff:127.0.0.1:40000", "mx1.example.org:40000"])
def test_hosts_as_servers_list_them(host):
    (client,) = listed(host).clients
    assert (client.host, client.port) == (host.rpartition(":")[0], 40000)


DATABASE = "192.0.2.5"
CONNECTIONS = [
    Connection("127.0.0.1", 40000, DATABASE, 3306, 1),
    Connection("192.0.2.1", 40000, DATABASE, 3306, 2),
    Connection("192.0.2.1", 40000, DATABASE, 443, 3),
    Connection("::1", 40001, DATABASE, 3306, 4),
    # A local user's: between the same ports, to an own program.
    Connection("127.0.0.2", 40000, "127.0.0.2", 3306, 5),
    Connection("192.0.2.1", 40000, "203.0.113.1", 3306, 6),
    Connection("192.0.2.1", 40002, "203.0.113.1", 3306, 7),
]


@pytest.mark.parametrize(
    ("client", "inodes"),
    [
        (Client("127.0.0.1", 40000), [1]),
        (Client("::ffff:127.0.0.1", 40000), [1]),
        (Client("192.0.2.9", 40000), []),  # another server's connection from the same port
        (Client("192.0.2.1", 40000), [2]),
        (Client("192.0.2.1", 40002), [7]),  # the database may have an address that we do not know
        (Client("mx1.example.org", 40000), [1, 2]),  # a name: then ports and the database's address have to do
        (Client("localhost", 40001), [4]),
        (Client("localhost", 40002), []),
        (Client("localhost", None), []),
    ],
)
def test_connections_are_joined_by_ports_and_addresses(client, inodes):
    asked = Listed((), 3306, "", (DATABASE,))
    assert [one.inode for one in _ispmail_connections.joined(client, CONNECTIONS, asked)] == inodes


@pytest.mark.parametrize("addresses", [("127.0.0.1",), ()])
def test_a_local_user_cannot_pass_for_a_connection_to_localhost(addresses):
    """With two ports alone, any user could have one of Postfix's, and stop every rotation."""
    found = [
        Connection("127.0.0.1", 40000, "127.0.0.1", 3306, 1),
        Connection("127.0.0.2", 40000, "127.0.0.2", 3306, 2),
        Connection("127.0.0.1", 40000, "127.0.0.2", 3306, 3),
    ]
    for host in ("localhost", "127.0.0.1"):
        (one,) = _ispmail_connections.joined(Client(host, 40000), found, Listed((), 3306, "", addresses))
        assert one.inode == 1


@pytest.mark.parametrize(
    ("host", "names", "found"),
    [
        ("192.0.2.9:1", ["192.0.2.1"], ["192.0.2.9"]),
        ("192.0.2.1:1", ["192.0.2.1"], []),
        ("::ffff:192.0.2.1:1", ["192.0.2.1"], []),
        ("2001:db8::1:1", ["2001:0db8::1"], []),
        ("mx1.example.org:1", ["192.0.2.1", "MX1.example.org"], []),
        # A short name stands for whatever the database server takes it for.
        ("mx1:1", ["mx1"], []),
        ("mx1:1", ["mx1.example.org"], ["mx1"]),
        ("mx1.staging.example.com:1", ["192.0.2.1", "mx1", "mx1.example.org"], ["mx1.staging.example.com"]),
        ("mx9.example.org:1", ["mx1.example.org"], ["mx9.example.org"]),
        ("127.0.0.1:1", ["192.0.2.1"], []),
        ("localhost:1", ["192.0.2.1"], []),
        ("localhost", ["192.0.2.1"], []),
        ("evil\x1b[2J:1", ["192.0.2.1"], ["(an unreadable name)"]),
    ],
)
def test_hosts_that_are_none_of_the_sites(host, names, found, monkeypatch):
    """A server of another domain with the same first label counted as the site's."""
    looked_up = _ispmail_connections._ispmail_sockets.addresses
    monkeypatch.setattr(
        _ispmail_connections._ispmail_sockets, "addresses", lambda name: () if "example" in name else looked_up(name)
    )
    assert _ispmail_connections.strangers(listed(host, host), names) == found


@pytest.mark.parametrize(
    ("addresses", "found"),
    [
        (("192.0.2.1",), []),
        (("192.0.2.1", "2001:db8::1"), []),
        (("127.0.0.1",), []),
        (("192.0.2.1", "192.0.2.9"), ["a.example.net"]),
        ((), ["a.example.net"]),
    ],
)
def test_a_name_is_the_sites_by_its_addresses(monkeypatch, addresses, found):
    monkeypatch.setattr(_ispmail_connections._ispmail_sockets, "addresses", lambda name: addresses)
    assert _ispmail_connections.strangers(listed("a.example.net:1"), ["192.0.2.1", "2001:db8::1", "mx1"]) == found


def process(pid, name):
    return Process(pid, name, 1, f"/usr/bin/{name}", 0.0, "", 0)


SMTPD, DUMP, SALT, AUTH = process(1, "smtpd"), process(2, "mysqldump"), process(3, "salt-minion"), process(4, "auth")


@pytest.fixture
def server(monkeypatch):
    """This server: inode to the processes that hold it. smtpd is Postfix's, and salt-minion is ours."""
    held = {11: [SMTPD], 12: [DUMP], 13: [SALT], 14: [AUTH], 21: [SMTPD], 22: [DUMP], 23: [SALT]}
    tcp = [Connection("127.0.0.1", 40000 + inode, "127.0.0.1", 3306, inode) for inode in range(11, 20)]
    sockets = _ispmail_connections._ispmail_sockets
    monkeypatch.setattr(sockets, "tcp_connections", lambda: tcp)
    monkeypatch.setattr("_ispmail_unix.clients", lambda path: [21, 22, 23])
    monkeypatch.setattr(sockets, "owners", lambda inodes: {inode: held[inode] for inode in inodes if inode in held})
    monkeypatch.setattr(sockets, "own_processes", dict)
    monkeypatch.setattr(sockets, "is_own", lambda one, own: one is SALT)
    names = {"mx1.example.org": (OWN,), LONG: (OWN,), "mail.example.org": (OWN, "192.0.2.9")}
    monkeypatch.setattr(sockets, "addresses", lambda host: names.get(host, (host,) if is_address(host) else ()))
    monkeypatch.setattr(sockets, "is_own_address", lambda text: sockets.same_address(text, OWN))
    monkeypatch.setattr(_ispmail_connections.time, "sleep", lambda seconds: None)
    return held


OWN, LONG = "192.0.2.1", "m" * 58


def asked(hosts, here=True, programs=(), again=None):
    """What is found where the database lists hosts, and then others; None: it cannot be asked once more."""
    now = listed(*hosts)
    then = None if again is None else lambda: listed(*again)
    return _ispmail_connections.unknown_programs(now, here, lambda one: one is SMTPD or one.name in programs, then)


def unknown(hosts, here=True, programs=(), again=None):
    """The names of what is a fault, and whether it is only perhaps one."""
    found = asked(hosts, here, programs, hosts if again is None else again)
    return [(one.program, bool(one.perhaps)) for one in found if not one.excuse]


def unseen(hosts, here=True, programs=(), again=None):
    """What is told, and stops nothing, because nobody sees whose it is."""
    found = asked(hosts, here, programs, hosts if again is None else again)
    return [(one.shown, one.perhaps) for one in found if one.excuse and not one.program]


def test_programs_that_nobody_has_named(server):
    hosts = [f"127.0.0.1:{port}" for port in (40011, 40012, 40013, 40014)]
    assert unknown(hosts) == [("mysqldump", False), ("auth", False)]
    assert unknown(hosts, programs=["auth", "mysqldump"]) == []


def test_a_connection_whose_program_is_hidden(server):
    """A container's: nobody here has it open, and it is there all the same."""
    assert unknown(["127.0.0.1:40019"]) == [("", False)]
    server[19] = [SMTPD]
    assert unknown(["127.0.0.1:40019"]) == []


def test_of_programs_of_one_name_only_the_unknown_are_told(server):
    """With all of them, the admin looked for what is wrong with Postfix's own."""
    server[12] = [process(9, "smtpd")]
    listed_here = listed("127.0.0.1:40011", "127.0.0.1:40012")
    (found,) = _ispmail_connections.unknown_programs(listed_here, True, lambda one: one is SMTPD)
    assert "pid 9" in found.shown and "pid 1" not in found.shown


def test_a_client_of_the_unix_socket_that_is_hidden(server):
    """Nobody here has it open, and it is there all the same."""
    del server[22]
    assert unknown(["localhost"]) == []
    assert unknown(["localhost"] * 2) == [("", True)]


@pytest.mark.parametrize(("number", "found"), [(0, []), (1, []), (2, [("mysqldump", True)])])
def test_the_unix_socket_counts(server, number, found):
    """One of its three clients is Postfix's: with one connection of the account, that is it, most likely."""
    assert unknown(["localhost"] * number) == found
    assert unknown(["localhost"] * number, here=False) == []


@pytest.mark.parametrize("hidden", [True, False])
def test_whom_known_programs_may_explain_is_told(server, hidden):
    """Known programs that were connected by accounts of their own hid a program with the account: nobody told of it."""
    if hidden:
        del server[22]
    (found,) = asked(["localhost"])
    assert found.program == ("" if hidden else "mysqldump")
    assert found.perhaps == "the database's unix socket"
    assert found.excuse == "known programs have as many connections there, so it is taken for another account's"
    assert asked([]) == asked(["localhost"], here=False) == []
    assert hidden or asked(["localhost"], programs=["mysqldump"]) == []


def test_more_connections_by_the_unix_socket_than_it_has_clients(server):
    """A database whose socket is not where we look, or a program of a container: it was nobody."""
    told = [("a program that /proc does not show, such as one of a container", "the database's unix socket")]
    assert unknown(["localhost"] * 4) == [("mysqldump", True)] and unseen(["localhost"] * 4) == told
    known = ["mysqldump", "salt-minion"]
    assert unknown(["localhost"] * 4, programs=known) == [] and unseen(["localhost"] * 4, programs=known) == told
    assert unknown(["localhost"] * 4, again=["localhost"] * 3) == [("mysqldump", True)]
    assert unseen(["localhost"] * 4, again=["localhost"] * 3) == unseen(["localhost"] * 4, here=False) == []
    assert unknown(["localhost"] * 4, again=["localhost"]) == unknown(["localhost"] * 4, here=False) == []


def test_clients_of_the_unix_socket_that_end_while_they_are_listed(server, monkeypatch):
    """They were there right before."""
    answers = iter([[21], [21, 24, 25], [21], [21], *[[21, 24], [21]] * 7])
    monkeypatch.setattr("_ispmail_unix.clients", lambda path: next(answers))
    assert unknown(["localhost"] * 2, again=["localhost"] * 3) == []
    assert [where for _, where in unseen(["localhost"] * 2, again=["localhost"] * 3)] == ["the database's unix socket"]
    assert not list(answers)


def test_connections_of_known_programs_that_begin_while_it_is_listed(server, monkeypatch):
    """On a busy server, they were taken for the one of a program that stays, which was told at times only."""
    server[24] = server[25] = [SMTPD]
    looks = [[21, 22, 24], *[[21, 22, 25], [21, 22, 24]] * 7]
    answers = iter(looks)
    monkeypatch.setattr("_ispmail_unix.clients", lambda path: next(answers))
    assert unknown(["localhost"] * 2) == [("mysqldump", True)]
    # Seen each time but once: that one was taken while Postfix's ended.
    looks[5] = [21, 22, 24]
    answers = iter(looks)
    (found,) = asked(["localhost"] * 2, again=["localhost"] * 2)
    assert (found.program, bool(found.excuse)) == ("mysqldump", True)


@pytest.mark.parametrize("host", [OWN, "mx1.example.org", f"::ffff:{OWN}"])
def test_a_connection_of_this_server_that_it_does_not_have(server, host):
    """A container's, masqueraded: by its address it was another server's, and by the site's list it was ours.

    Or one that only the database still lists: so it stops nothing.
    """
    client = f"{host}:41234"
    assert unseen([client], here=False) == unseen([client]) == [(client, "")] and unknown([client]) == []
    # What has ended when the database lists once more was never a container's.
    assert asked([client], again=[]) == asked([client], again=[f"{host}:41235"]) == []
    # Several servers may share a name, and one that has a port was not cut.
    for other in ("192.0.2.9", "localhost", "127.0.0.1", "mail.example.org", "m" * 64):
        assert asked([f"{other}:41234"]) == []


def test_connections_that_cannot_be_listed_once_more(server):
    """Those of the pair's other account, as the database server has told them: they may have ended since."""
    (found,) = asked([f"{OWN}:41234"])
    assert (found.shown, found.excuse) == (f"{OWN}:41234", _ispmail_connections._NOT_HERE)
    assert [one.program for one in asked([f"{OWN}:41234", "127.0.0.1:40012"])] == ["", "mysqldump"]
    # What is sure is told for sure.
    found = asked([f"{OWN}:41234", "127.0.0.1:40019"])
    assert [bool(one.excuse) for one in found] == [True, False]


@pytest.mark.parametrize(("port", "found"), [(3306, ["mysqldump"]), (3307, ["mysqldump"]), (3308, [""])])
def test_translated_addresses_and_ports(server, monkeypatch, port, found):
    """A database in a container of this machine: by its published port, with the address of a bridge."""
    tcp = [Connection("127.0.0.1", 40012, "127.0.0.1", port, 12)]
    monkeypatch.setattr(_ispmail_connections._ispmail_sockets, "tcp_connections", lambda: tcp)
    now = listed(f"{OWN}:40012")._replace(asked=3307)
    got = _ispmail_connections.unknown_programs(now, False, lambda one: False, lambda: now)
    assert [one.program for one in got] == found


@pytest.mark.parametrize("host", [LONG + ":", "m" * 63])
@pytest.mark.parametrize(
    ("number", "programs", "found", "noted"),
    [
        (1, ["mysqldump", "auth"], [], []),
        (1, [], [], ["mysqldump", "auth"]),
        (2, [], ["mysqldump", "auth"], []),
        (2, ["mysqldump"], [], ["auth"]),
        (9, [], ["mysqldump", "auth"], [""]),
    ],
)
def test_connections_without_a_port_are_counted(server, monkeypatch, host, number, programs, found, noted):
    """All connections of this server to the database are candidates."""
    tcp = [Connection("192.0.2.1", 40000 + inode, "192.0.2.5", 3306, inode) for inode in range(11, 15)]
    tcp += [Connection("192.0.2.1", 50000, "192.0.2.6", 3306, 22), Connection("192.0.2.1", 50001, "192.0.2.5", 80, 22)]
    monkeypatch.setattr(_ispmail_connections._ispmail_sockets, "tcp_connections", lambda: tcp)
    now = listed(*[host] * number)._replace(addresses=("192.0.2.5",))
    got = _ispmail_connections.unknown_programs(
        now, False, lambda one: one is SMTPD or one.name in programs, lambda: now
    )
    assert {one.perhaps for one in got} <= {"the database, which lists no port of so long a name"}
    assert [one.program for one in got if not one.excuse] == found
    assert [one.program for one in got if one.excuse] == noted
    elsewhere = listed("n" * 58 + ":")
    assert _ispmail_connections.unknown_programs(elsewhere, False, lambda one: False, lambda: elsewhere) == []


def test_only_what_is_not_sure_is_looked_at_again(server, monkeypatch):
    """And all that is sure is told, also where it has ended by then."""
    slept = []
    monkeypatch.setattr(_ispmail_connections.time, "sleep", slept.append)
    assert unknown(["127.0.0.1:40012", "192.0.2.9:1"]) == [("mysqldump", False)] and slept == []
    assert unknown(["127.0.0.1:40012", *["localhost"] * 2], again=["127.0.0.1:40014"]) == [
        ("mysqldump", False),
        ("auth", False),
    ]
    assert slept == [0.25]
    assert unknown(["localhost"] * 2) == [("mysqldump", True)] and slept == [0.25] * 8
    # Who uses the socket by an account of its own is looked at once more.
    assert unknown(["localhost"]) == [] and len(slept) == 9


@pytest.mark.parametrize(("number", "more"), [(1, ""), (3, ""), (4, " and 1 more"), (9, " and 6 more")])
def test_three_processes_of_a_program_are_named(server, number, more):
    """A program that forks may have hundreds."""
    server[12] = [process(pid, "mysqldump") for pid in range(101, 101 + number)]
    (found,) = _ispmail_connections.unknown_programs(listed("127.0.0.1:40012"), True, lambda one: False)
    shown = ", ".join(one.describe() for one in server[12] if one.pid <= 103)
    assert (found.program, found.shown) == ("mysqldump", shown + more)


def refuse(*_):
    raise CannotAsk("this server cannot tell")


@pytest.mark.parametrize(
    ("hosts", "not_needed"),
    [(["127.0.0.1:40012"], "_ispmail_unix.clients"), (["localhost"] * 2, "_ispmail_sockets.tcp_connections")],
)
def test_a_server_that_cannot_tell_who_uses_sockets_can_tell_who_uses_tcp(server, monkeypatch, hosts, not_needed):
    """And one whose /proc/net/tcp cannot be read can tell who uses the unix socket."""
    monkeypatch.setattr(not_needed, refuse)
    assert [name for name, _ in unknown(hosts)] == ["mysqldump"]


@pytest.mark.parametrize("inode", [19, 0])
def test_a_connection_that_ends_meanwhile_belongs_to_no_hidden_program(server, monkeypatch, inode):
    """It would stop a rotation. A socket that is closing has no inode any more."""
    ends, stays = (Connection("127.0.0.1", 40000 + each, "127.0.0.1", 3306, each) for each in (inode, 11))
    answers = iter([[ends, stays], [stays._replace(inode=0), stays]])
    monkeypatch.setattr(_ispmail_connections._ispmail_sockets, "tcp_connections", lambda: next(answers))
    assert unknown([f"127.0.0.1:{ends.port}"]) == []


def test_a_client_of_the_unix_socket_that_ends_meanwhile(server, monkeypatch):
    del server[22]
    answers = iter([[21, 22, 23], [21, 23]])
    monkeypatch.setattr("_ispmail_unix.clients", lambda path: next(answers))
    assert unknown(["localhost"] * 2) == []
