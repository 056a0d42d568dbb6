"""As whom Postfix's client logs in by a table: what the library says of it, and what the database is told."""

import re
import shutil
import subprocess

import pytest

import _ispmail_hosts
import _ispmail_inventory
import _ispmail_option_users
import _ispmail_table_users
from _ispmail_inventory import Table
from _ispmail_tablefile import parse, tells_login
from lab.postfix import write_cold
from lab.postgresql import PostgreSQL

FILE = "[client]\nuser = fileuser\npassword = of-the-file\n"
USERS = ("tableuser", "fileuser")


@pytest.fixture(scope="module")
def accounts(mariadb):
    """Two accounts that may log in, and see no database."""
    for user in USERS:
        mariadb.sql("CREATE OR REPLACE USER %s@'127.0.0.1' IDENTIFIED BY 'of-the-file'", user)
    yield mariadb
    for user in USERS:
        mariadb.sql("DROP USER %s@'127.0.0.1'", user)


@pytest.fixture(scope="module")
def refusing_postgresql(scratch_directory):
    """A PostgreSQL that lets nobody in over TCP."""
    with PostgreSQL(scratch_directory / "pg") as server:
        server.set_hba("host all all 127.0.0.1/32 reject\n")
        yield server


class Client:
    """Postfix's client with a table and an option file, run as mail_owner."""

    def __init__(self, folder, server):
        self.folder = folder
        self._head = f"hosts = 127.0.0.1:{server.port}\ndbname = mailserver\nquery = SELECT 1\n"
        write_cold(folder / "main.cf", "compatibility_level = 3.6\n")
        (folder / "master.cf").write_text("")
        self.table, self.option_file = folder / "a.cf", folder / "x.cnf"

    def write(self, keys, content):
        """`FILE` in either stands for the option file, `FOLDER` for the folder that it is in."""
        for path, text in ((self.option_file, content), (self.table, f"{self._head}{keys}")):
            write_cold(path, text.replace("FILE", str(self.option_file)).replace("FOLDER", str(self.folder)))

    def logs_in(self, *before):
        """The user that the server is told, and whether it took the password."""
        command = [*before, "postmap", "-c", self.folder, "-q", "x", f"mysql:{self.table}"]
        # Only root may mount.
        user = "root" if before else "postfix"
        said = subprocess.run(command, check=False, capture_output=True, text=True, user=user).stderr
        user, reason = re.search(r"Access denied for user '(\w+)'@'127\.0\.0\.1' (.+)", said).groups()
        return user, "to database" in reason, "using password: YES" in reason

    def expected(self):
        """As whom it logs in, as the library says."""
        known = _ispmail_inventory.settings(str(self.folder))
        return _ispmail_table_users.of(Table("mysql", str(self.table), False, (), ()), known)


@pytest.fixture
def client(accounts, scratch_directory):
    folder = scratch_directory / "client"
    folder.mkdir()
    yield Client(folder, accounts)
    shutil.rmtree(folder)


BY_FILE = "password = of-the-file\noption_file = FILE\n"


@pytest.mark.parametrize(
    ("keys", "content", "user"),
    [
        (f"user = tableuser\n{BY_FILE}", FILE, "tableuser"),
        (BY_FILE, FILE, "fileuser"),
        (f"user =\n{BY_FILE}", FILE, "fileuser"),
        (f"{BY_FILE}option_group = mail\n", f"{FILE}[mail]\nuser = tableuser\n", "tableuser"),
        (f"{BY_FILE}option_group = mail\n", f"[mail]\nuser = tableuser\n{FILE}", "fileuser"),
        (f"{BY_FILE}option_group =\n", FILE, "fileuser"),
        (BY_FILE, "[client-server]\nuser = 'fileuser'\n", "fileuser"),
        (BY_FILE, "[client-mariadb]\nuser = fileuser\n", "fileuser"),
        (BY_FILE, f"{FILE}!include FOLDER/y.cnf\n", "tableuser"),
        (BY_FILE, f"!include FOLDER/y.cnf\n{FILE}", "fileuser"),
        (BY_FILE, "!includedir FOLDER/more\n", "tableuser"),
        (BY_FILE, f"{FILE}user\n", "fileuser"),
        # None: the process's own.
        (BY_FILE, f"{FILE}user =\n", None),
        (BY_FILE, "[mysql]\nuser = fileuser\n", None),
        ("password = of-the-file\n", FILE, None),
        ("password = of-the-file\noption_file =\n", FILE, None),
        ("password = of-the-file\noption_file = FILE.none\n", FILE, None),
    ],
)
def test_as_whom_postfixs_client_logs_in(client, keys, content, user):
    client.write(keys, content)
    for path in (client.folder / "y.cnf", client.folder / "more" / "my.cnf"):
        path.parent.mkdir(exist_ok=True)
        path.write_text("[client]\nuser = tableuser\n")
    told, accepted, _ = client.logs_in()
    assert told == (user or "postfix") and accepted is (user is not None)
    expected = client.expected()
    # A program that cannot see an option file takes its own.
    own = set() if "user = tableuser" in keys else {"postfix"}
    assert (expected.names, expected.unknown) == ({told} | own, ())


def test_an_option_file_of_the_system_counts_where_the_table_has_none(client, monkeypatch):
    client.write("password = of-the-file\n", FILE)
    place = "/etc/mysql/my.cnf"
    mounted = ["unshare", "--mount", "sh", "-c", f'mount --bind "$0" {place} && exec "$@"', client.option_file]
    assert client.logs_in(*mounted)[:2] == ("fileuser", True)
    assert place in _ispmail_option_users._DEFAULT_FILES
    monkeypatch.setattr(_ispmail_option_users, "_DEFAULT_FILES", (str(client.option_file),))
    assert client.expected().names == {"postfix", "fileuser"}


@pytest.mark.parametrize("keys", ["user = tableuser\n", "user = tableuser\npassword =\n", ""])
@pytest.mark.parametrize("group", ["", "option_group = mail\n"])
def test_the_password_of_an_option_file_is_never_used(client, keys, group):
    """Where a table has none, Postfix hands over an empty one: it is a login without a password, not one that stands
    elsewhere."""
    content = f"{FILE}[mail]\npassword = of-the-file\n"
    client.write(f"{keys}{group}option_file = FILE\n", content)
    assert client.logs_in() == ("tableuser" if keys else "fileuser", False, False)


def test_a_table_that_tells_its_login_logs_in_so(client):
    """What the doctor and the beacon may try in Postfix's place."""
    for keys in ("user = tableuser\npassword = of-the-file\n", "user = tableuser\n"):
        client.write(keys, FILE)
        assert tells_login(parse(client.table.read_bytes()))
        assert client.logs_in()[:2] == ("tableuser", "password" in keys)


# H: the address of the server with its port.
URIS = [
    *("postgresql://u1@H", "postgresql://u1:pw@H/d", "postgresql://H?user=u2", "postgresql://u1@H/x?user=u2&user=u3"),
    *("postgresql://H", "postgresql://:pw@H", "postgresql://u%31:@H", "postgresql://a?b@H", "postgresql://u1@H?user="),
    *(
        "postgresql://u1@H?us%65r=%C3%BC",
        "postgresql://u1+x@H",
        "postgresql://u1@/x?host=HOST&port=PORT",
        "H",
        "inet:H",
    ),
    # None that libpq or Postfix can use.
    *(
        "postgresql://u:p/w@H",
        "postgresql://u@v@H",
        "postgresql://u1@H#user=x",
        "postgresql://%zz@H",
        "postgresql:5432",
    ),
    *("postgresql:user=x", "postgres://u1@H", "postgres://u1@H/x", "POSTGRESQL://u1@H"),
]


@pytest.mark.parametrize("host", URIS)
def test_as_whom_postfixs_client_of_postgresql_logs_in(refusing_postgresql, scratch_directory, host):
    """The server refuses everybody, and says whom."""
    server, folder = refusing_postgresql, scratch_directory
    host = (
        host.replace("HOST", server.host).replace("PORT", str(server.port)).replace("H", f"{server.host}:{server.port}")
    )
    write_cold(folder / "main.cf", "compatibility_level = 3.6\n")
    (folder / "master.cf").write_text("")
    table = folder / "pg.cf"
    write_cold(table, f"hosts = {host}\nuser = other\npassword = x\ndbname = x\nquery = SELECT 1\n")
    command = ["postmap", "-c", folder, "-q", "x", f"pgsql:{table}"]
    said = subprocess.run(command, check=False, capture_output=True, text=True, user="postfix").stderr
    told = re.search(r'rejects connection for host "127\.0\.0\.1", user "(.*?)"', said)
    known = _ispmail_inventory.settings(str(folder))
    found = _ispmail_table_users.of(Table("pgsql", str(table), False, (), ()), known, "pgsql")
    if told:
        assert (found.names, found.unknown) == ({told[1]}, ())
        # Only from 3.10 on Postfix knows postgres://: a pillar is for servers of all releases.
        fault = _ispmail_hosts.host_fault(host.replace(":pw", "").replace(":@", "@"), "pgsql")
        assert (fault is None) == (not host.startswith("postgres://"))
    else:
        assert "connect to pgsql server" in said
        assert host.startswith("postgresql://") or _ispmail_hosts.host_fault(host, "pgsql")
