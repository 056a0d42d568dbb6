"""As its reader asks, and by the way that mail takes: what a question by root to one map does not show."""

import contextlib
import ctypes
import grp
import os
import pwd
import shutil
import smtplib
import socket
import subprocess
import time
from pathlib import Path

import pytest

import _ispmail_inventory
import _ispmail_smtpd
from lab import scratch, wait_until
from lab.mariadb import MariaDB, schema
from lab.minion import Minion
from lab.postfix import Postfix, write_cold
from lab.smtp import Load, rcpt, rcpts

from ..conftest import PASSWORD, pillar_for
from .database import Relay
from .test_apply import ANSWERED, GUIDES, contents, everything, managed, replies
from .test_jail import certificates, openssl  # noqa: F401  a fixture

DOMAIN = {"map": "virtual_mailbox_domains", "question": "example.org", "answer": True}
MAILBOX = {"map": "virtual_mailbox_maps", "question": "john@example.org", "answer": True}


def in_jail(postfix, path):
    return postfix.queue_directory / str(path).lstrip("/")


@pytest.fixture
def client_certificate(certificates):  # noqa: F811
    """A client's key that only root can read, and its certificate."""
    name = (
        "req",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        "client.key",
        "-out",
        "client.csr",
        "-subj",
        "/CN=client",
    )
    openssl(certificates, *name)
    sign = ("x509", "-req", "-in", "client.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "3")
    openssl(certificates, *sign, "-out", "client.pem")
    key = certificates / "client.key"
    key.chmod(0o600)
    os.chown(key, 0, 0)
    return key, certificates / "client.pem"


@pytest.mark.parametrize("running", [True, False])
def test_a_key_that_only_root_can_read_is_refused(certificates, client_certificate, running):  # noqa: F811
    """Postfix was stopped at the apply: True. It was started: 451 for all, and doctor had no fault."""
    key, certificate = client_certificate
    options = [
        f"--ssl-{name}={certificates}/{file}"
        for name, file in (("ca", "ca.pem"), ("cert", "db.pem"), ("key", "db.key"))
    ]
    with (
        scratch() as directory,
        MariaDB(directory / "db", options=options) as server,
        Postfix(directory / "mail", chroot=False) as postfix,
    ):
        schema(server, PASSWORD)
        server.sql("ALTER USER mailserver@'127.0.0.1' REQUIRE X509")
        database = {"tls_key_file": str(key), "tls_cert_file": str(certificate), "tls_CAfile": f"{certificates}/ca.pem"}
        minion = Minion(directory / "minion", pillar_for(postfix, server, database=database))
        if not running:
            postfix.stop()
        before = contents(postfix)
        result = managed(minion)
        assert result["result"] is False
        assert "Nothing was changed" in result["comment"]
        assert contents(postfix) == before
        os.chown(key, 0, 0)
        key.chmod(0o640)
        subprocess.run(["chgrp", "postfix", key], check=True)
        result = managed(minion)
        assert result["result"] is True, result["comment"]
        postfix.start()
        assert replies(postfix) == ANSWERED
        # Somebody takes the right away again: an apply finds all as pillar says, doctor does not.
        key.chmod(0o600)
        report = minion.call("postfix_doctor.check")
        faults = [row for row in report if row["result"] == "fault" and row["check"] == "Postfix can ask the map"]
        assert faults, report


def test_a_socket_that_is_in_the_jail_is_used(minion, postfix, pillar, mariadb, by_socket):
    """It worked in smtpd, was in the correct state, and the first change was refused."""
    inside = in_jail(postfix, mariadb.socket)
    inside.parent.mkdir(parents=True)
    os.link(mariadb.socket, inside)
    minion.pillar = pillar(database={"hosts": by_socket})
    result = managed(minion)
    assert result["result"] is True, result["comment"]
    assert replies(postfix) == ANSWERED
    inside.unlink()
    minion.pillar = pillar(database={"hosts": by_socket}, maps={"virtual_alias_maps": {"expansion_limit": 3}})
    result = managed(minion)
    assert result["result"] is False and f"{inside} is not there" in result["comment"]
    report = minion.call("postfix_doctor.check")
    assert [row for row in report if row["result"] == "fault" and row["check"] == "Postfix can ask the map"]


@pytest.mark.parametrize("parameter", ["virtual_uid_maps", "uid_sql"])
def test_a_program_without_a_jail_reads_by_a_socket(minion, postfix, pillar, by_socket, parameter):
    """virtual(8) has no chroot, so its map may name a socket; by a parameter of the admin's own too."""
    if parameter == "uid_sql":
        postfix.write_main_cf(virtual_uid_maps="$uid_sql")
    minion.pillar = pillar(
        maps={parameter: {"hosts": by_socket, "query": "SELECT 5000 FROM virtual_users WHERE email='%s'"}}
    )
    result = managed(minion)
    assert result["result"] is True, result["comment"]


@pytest.mark.parametrize("transport", ["local_transport", "default_transport", None])
def test_a_map_is_asked_as_virtual_wherever_mail_for_it_comes_from(
    minion, postfix, pillar, mariadb, by_socket, transport
):
    """Where another transport named virtual(8), and where nothing did, a map of its own was asked as root."""
    settings = {"virtual_transport": "lmtp:unix:none", **({transport: "virtual"} if transport else {})}
    postfix.write_main_cf(**settings)
    postfix.reload()
    with scratch() as directory:
        door = directory / "door"
        door.mkdir(mode=0o700)
        (door / "socket").symlink_to(mariadb.socket)
        query = "SELECT 5000 FROM virtual_users WHERE email='%s'"
        minion.pillar = pillar(maps={"virtual_uid_maps": {"hosts": f"unix:{door}/socket", "query": query}})
        result = managed(minion)
        assert result["result"] is False and "Nothing was changed" in result["comment"]
        assert "virtual_uid_maps: " in result["comment"] and "may not use that socket" in result["comment"]
        door.chmod(0o755)
        result = managed(minion)
        assert result["result"] is True, result["comment"]
        said = "no service of master.cf reads virtual_uid_maps, so it was asked as user postfix"
        assert (said in str(result)) is (transport is None)
        rows = {row["check"]: row for row in minion.call("postfix_doctor.check")}
        row = rows["a service reads the map"]
        assert row["result"] == ("ok" if transport else "warning")
        assert (said in row["fix"]) is (transport is None)


@pytest.fixture
def add_line(tmp_path):
    """A function that adds a line to a file of /etc, as seen by this thread and what it starts."""
    libc = ctypes.CDLL(None, use_errno=True)

    def add_line(name, line):
        (tmp_path / name).write_text(f"{Path('/etc', name).read_text().rstrip()}\n{line}\n")
        subprocess.run(["mount", "--bind", tmp_path / name, f"/etc/{name}"], check=True)

    before = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY)
    assert libc.unshare(0x00020000) == 0, os.strerror(ctypes.get_errno())  # CLONE_NEWNS
    try:
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        yield add_line
    finally:
        assert libc.setns(before, 0) == 0, os.strerror(ctypes.get_errno())
        os.close(before)


def groups_of(postfix, program):
    """The groups of the processes of a program."""
    running = [pid for pid in postfix.processes() if os.readlink(f"/proc/{pid}/exe").endswith(f"/{program}")]
    status = "".join(Path(f"/proc/{pid}/status").read_text() for pid in running)
    return {tuple(map(int, line.split()[1:])) for line in status.splitlines() if line.startswith("Groups:")}


def test_what_delivers_has_no_supplementary_groups(add_line, mariadb, by_socket):
    """The tables were asked with all groups of user postfix: True, the doctor had no fault, and mail was deferred."""
    add_line("group", "sqlgroup:x:64321:postfix")
    with scratch() as directory:
        transports = {"virtual_transport": "virtual", "local_transport": "local", "mydestination": "local.test"}
        settings = {"virtual_gid_maps": "static:5000", "virtual_mailbox_base": str(directory / "boxes"), **transports}
        (directory / "boxes").mkdir()
        os.chown(directory / "boxes", 5000, 5000)
        door = directory / "door"
        door.mkdir(mode=0o750)
        os.chown(door, 0, 64321)
        (door / "socket").symlink_to(mariadb.socket)
        through = {"hosts": f"unix:{door}/socket"}
        maps = {
            "virtual_uid_maps": {**through, "query": "SELECT 5000 FROM virtual_users WHERE email='%s'"},
            "virtual_mailbox_maps": {"query": "SELECT CONCAT(email, '/') FROM virtual_users WHERE email='%s'"},
            "mailbox_transport_maps": {**through, "query": "SELECT 'discard' FROM virtual_users WHERE email='%s'"},
        }
        with Postfix(directory / "mail", **settings) as postfix:
            minion = Minion(directory / "minion", pillar_for(postfix, mariadb, maps=maps))
            result = managed(minion)
            assert result["result"] is False and "Nothing was changed" in result["comment"]
            assert "virtual_uid_maps, mailbox_transport_maps: " in result["comment"], result["comment"]
            assert "virtual(8) and local(8) enter without the user's supplementary groups" in result["comment"]
            door.chmod(0o755)
            result = managed(minion)
            assert result["result"] is True, result["comment"]
            with smtplib.SMTP("127.0.0.1", postfix.port) as client:
                client.sendmail("a@sender.test", ["john@example.org", "x@local.test"], "Subject: x\r\n\r\nx")
            assert wait_until(lambda: "status=sent (delivered to maildir)" in postfix.log, 10), postfix.log
            (own,) = groups_of(postfix, "virtual")
            assert groups_of(postfix, "local") == {own} and 64321 not in own
            assert groups_of(postfix, "smtpd") == {(*own, 64321)}
            # The doctor sees a directory that is closed again.
            door.chmod(0o750)
            report = minion.call("postfix_doctor.check")
            faults = [row for row in report if row["result"] == "fault" and row["check"] == "Postfix can ask the map"]
            assert [row["where"] for row in faults] == ["virtual_uid_maps, mailbox_transport_maps"], report


@pytest.mark.parametrize("running", [True, False])
def test_a_name_that_the_jail_does_not_know_is_refused(add_line, mariadb, running):
    """The host's name was in /etc/hosts, and not in the jail's copy: True, no fault, and 451 for each recipient."""
    with scratch() as directory, Postfix(directory / "mail") as postfix:
        add_line("hosts", "127.0.0.1 db.ispmail.test")
        named = {"virtual_mailbox_maps": {"hosts": f"db.ispmail.test:{mariadb.port}"}}
        minion = Minion(directory / "minion", pillar_for(postfix, mariadb, maps=named))
        said = "names db.ispmail.test, which can be resolved on this server, but not inside the chroot"
        if running:
            before = everything(postfix)
            for test in (True, False):
                result = managed(minion, test=test)
                assert result["result"] is False and result["comment"].count(said) == 1, result["comment"]
            assert everything(postfix) == before
        else:
            # A start may copy the files anew, so this is a warning.
            postfix.stop()
            result = managed(minion)
            assert result["result"] is True and result["comment"].count(said) == 1, result["comment"]
            postfix.start()
            assert rcpt(postfix.port, "john@example.org")[0] == 451
            report = minion.call("postfix_doctor.check")
            (row,) = [row for row in report if row["check"] == "the chroot knows its hosts"]
            assert (row["where"], row["result"]) == ("virtual_mailbox_maps", "fault"), report
        shutil.copy("/etc/hosts", in_jail(postfix, "/etc/hosts"))
        postfix.reload()
        result = managed(minion)
        assert result["result"] is True and said not in result["comment"], result["comment"]
        assert replies(postfix) == ANSWERED
        (row,) = [row for row in minion.call("postfix_doctor.check") if row["check"] == "the chroot knows its hosts"]
        assert row["result"] == "ok", row


@pytest.mark.parametrize("spelling", ["mysql", "proxy:mysql"])
def test_a_table_is_asked_as_its_reader_however_the_caller_spells_it(minion, postfix, pillar, by_socket, spelling):
    """proxymap has no chroot; asked without it, as smtpd would, the table could not be asked."""
    minion.pillar = pillar(database={"hosts": by_socket}, maps={name: {"proxy": True} for name in GUIDES})
    result = managed(minion)
    assert result["result"] is True, result["comment"]
    table = f"{spelling}:{postfix.config_directory}/mariadb-virtual-alias-maps.cf"
    found = minion.call("postfix_map.lookup", table, "jack@example.org")
    assert found == {"result": "answer", "answer": "john@example.org", "warnings": []}


@pytest.mark.parametrize("running", [True, False])
def test_proxymap_runs_as_mail_owner(mariadb, running):
    """Its table files had the group postfix. Postfix stopped: True, then 451 for all; else put back each time."""
    with scratch() as directory, scratch() as other:
        postfix = Postfix(directory / "mail", mail_owner="games")
        postfix._make_directories()
        for path in (postfix.data_directory, *postfix.data_directory.iterdir(), *postfix.queue_directory.iterdir()):
            if path.owner() == "postfix":
                shutil.chown(path, "games")
        if running:
            postfix.start()
        try:
            proxied = pillar_for(postfix, mariadb, maps={name: {"proxy": True} for name in GUIDES})
            minion = Minion(other, proxied)
            result = managed(minion)
            assert result["result"] is True, result["comment"]
            group = (postfix.config_directory / "mariadb-virtual-alias-maps.cf").group()
            assert group == grp.getgrgid(pwd.getpwnam("games").pw_gid).gr_name
            postfix.start()
            assert replies(postfix) == ANSWERED
            assert managed(minion)["changes"] == {}
            rows = minion.call("postfix_doctor.check")
            assert [row["result"] for row in rows if row["check"] == "proxymap can read the table file"] == ["ok"] * 3
        finally:
            postfix.stop()


@pytest.mark.parametrize("running", [True, False])
def test_a_directory_that_proxymap_may_not_enter_is_refused(minion, postfix, pillar, running):
    """Postfix stopped at the apply: True, also in the dry run, and after its start 451 for all."""
    hidden = postfix.directory / "hidden"
    hidden.mkdir(mode=0o700)
    (hidden / "inside").mkdir()
    if not running:
        postfix.stop()
    file = str(hidden / "inside" / "a.cf")
    minion.pillar = pillar(maps={"virtual_alias_maps": {"proxy": True, "file": file}})
    before = contents(postfix)
    for test in (True, False):
        result = managed(minion, test=test)
        assert result["result"] is False, result["comment"]
        assert f"virtual_alias_maps:file is in {hidden}/inside, which user postfix may not enter" in result["comment"]
    assert contents(postfix) == before
    # Opened as root, as long as proxymap does not read it.
    minion.pillar = pillar(maps={"virtual_alias_maps": {"file": file}})
    assert managed(minion)["result"] is True
    minion.pillar = pillar(maps={"virtual_alias_maps": {"proxy": True, "file": file}})
    hidden.chmod(0o711)
    result = managed(minion)
    assert result["result"] is True, result["comment"]
    postfix.start()
    assert replies(postfix) == ANSWERED


def listening_at(mariadb, spelling):
    """A relay to the database, and its host as hosts spells it."""
    if spelling == "IPv6":
        relay = Relay(mariadb.port, ("::1", 0))
        return relay, f"::1:{relay.port}"
    for name in ("amqp", "xmpp-client", "postgresql", "svn"):
        with contextlib.suppress(OSError):
            return Relay(mariadb.port, ("127.0.0.1", socket.getservbyname(name, "tcp"))), f"127.0.0.1:{name}"
    raise RuntimeError("no port with a name is free")


@pytest.mark.parametrize("spelling", ["IPv6", "service"])
def test_hosts_as_postfix_splits_them(minion, postfix, pillar, mariadb, spelling):
    """An IPv6 address with a port, and a service's name as port, were refused; another port would have been asked."""
    relay, hosts = listening_at(mariadb, spelling)
    with relay:
        minion.pillar = pillar(database={"hosts": hosts})
        result = managed(minion)
        assert result["result"] is True and not result["comment"].count("warning"), result["comment"]
        assert replies(postfix) == ANSWERED
        assert minion.call("postfix_database.refused") == []
        report = minion.call("postfix_doctor.check")
        assert not [row for row in report if row["result"] == "fault"], report


def test_a_service_that_nobody_knows_is_refused(minion, postfix, pillar):
    before = everything(postfix)
    minion.pillar = pillar(database={"hosts": "127.0.0.1:no-such-service"})
    for test in (True, False):
        result = managed(minion, test=test)
        assert result["result"] is False and result["comment"].count("ispmail:database:hosts has the name of a") == 1
    assert everything(postfix) == before


def test_a_key_of_four_bytes_is_asked(postfix):
    """One RCPT by a stranger failed the query, and Postfix did not ask the database for a minute."""
    with scratch() as directory, MariaDB(directory / "db") as server:
        schema(server, PASSWORD)
        minion = Minion(directory / "minion", pillar_for(postfix, server))
        assert "4-byte" not in str(managed(minion))
        server.sql("ALTER TABLE mailserver.virtual_users CONVERT TO CHARACTER SET utf8mb3")
        minion.pillar = pillar_for(postfix, server, maps={"virtual_mailbox_maps": {"expansion_limit": 9}})
        result = managed(minion)
        assert result["result"] is True
        assert "virtual_mailbox_maps cannot be asked for an address with a 4-byte character" in result["comment"]
        rows = [row for row in minion.call("postfix_doctor.check") if row["check"] == "the query takes every address"]
        assert [row["result"] for row in rows if row["where"].startswith("virtual_mailbox_maps on")] == ["fault"], rows


@pytest.mark.parametrize(
    "asks", ["SELECT destination FROM virtual_aliases WHERE source REGEXP '^%s$'", "CALL search('%s')"]
)
def test_a_regular_expression_is_asked_for_its_special_characters(postfix, asks):
    """One RCPT by a stranger failed the query, and nobody was told. Postfix asks for "("@… and for (@…"""
    with scratch() as directory, MariaDB(directory / "db") as server:
        schema(server, PASSWORD)
        server.sql(
            "CREATE PROCEDURE mailserver.search(a TEXT) READS SQL DATA "
            "SELECT destination FROM virtual_aliases WHERE source RLIKE a"
        )
        server.sql("GRANT EXECUTE ON mailserver.* TO mailserver@'127.0.0.1'")
        minion = Minion(directory / "minion", pillar_for(postfix, server, maps={"virtual_alias_maps": {"query": asks}}))
        result = managed(minion)
        assert result["result"] is True
        assert "virtual_alias_maps cannot be asked for an address with special characters" in result["comment"]
        assert result["comment"].count("has an expansion in a regular expression") == asks.count("REGEXP")
        # Of one smtpd: another process still has its own connection, and takes jack.
        replies = rcpts(postfix.port, ["jack@example.org", '"(["@example.org', "jack@example.org"])
        assert [code for code, _ in replies] == [250, 451, 451]
        rows = [row for row in minion.call("postfix_doctor.check") if row["check"] == "the query takes every address"]
        assert [row["result"] for row in rows if row["where"].startswith("virtual_alias_maps on")] == ["fault"], rows


def test_a_warning_is_on_its_own_map(postfix, pillar, minion):
    """One of two hosts lacks a table: the warning was on the two maps that do not use it."""
    with scratch() as directory, MariaDB(directory / "db") as whole, MariaDB(directory / "db2") as lacks:
        for server in (whole, lacks):
            schema(server, PASSWORD)
        lacks.sql("DROP TABLE mailserver.virtual_aliases")
        database = {"hosts": [f"127.0.0.1:{whole.port}", f"127.0.0.1:{lacks.port}"]}
        # Postfix takes the hosts in random order.
        for limit in range(1, 13):
            minion.pillar = pillar(database=database, maps={name: {"expansion_limit": limit} for name in GUIDES})
            comment = managed(minion, test=True)["comment"]
            if "virtual_aliases" in comment:
                break
        (line,) = [line for line in comment.splitlines() if "virtual_aliases" in line]
        assert "virtual_alias_maps: " in line and "virtual_mailbox" not in line and "/proc/" not in line, comment


def test_a_probe_of_many_maps_leaves_connections_to_mail(minion, postfix, pillar, mariadb):
    """postmap keeps the connection of each table to its end where it has several questions."""
    many = {
        f"some_{number}": {
            "parameter": f"some_{number}_maps",
            "query": "SELECT 1 FROM virtual_aliases WHERE source='%s'",
        }
        for number in range(60)
    }
    minion.pillar = pillar(maps=many)
    mariadb.sql("FLUSH /*M!110500 GLOBAL */ STATUS")
    found = managed(minion)
    assert found["result"] is True and len(found["changes"]) == 64, found["comment"]
    ((_, most),) = mariadb.sql("SHOW GLOBAL STATUS LIKE 'Max_used_connections'")
    # The tests' own, and smtpd's for the maps of the guide.
    assert 16 <= int(most) <= 16 + 1 + 3


def test_a_closed_connection_costs_nothing(minion, postfix, mariadb):
    """With one host Postfix before 3.10 did not ask it for a minute after a connection was closed."""
    managed(minion)
    with Load(postfix.port, ANSWERED, rate=40) as load:
        time.sleep(1)
        numbers = mariadb.sql("SELECT ID FROM information_schema.PROCESSLIST WHERE USER = 'mailserver'")
        for (number,) in numbers:
            mariadb.sql(f"KILL {number}")
        time.sleep(3)
    report = load.stop()
    assert numbers and report.count > 100
    assert report.failed == 0, report


@pytest.mark.parametrize("taker", ["mydestination", "virtual_alias_domains"])
def test_a_domain_that_another_class_takes_is_named(minion, postfix, pillar, taker):
    """All was green, and mailboxes bounced."""
    minion.pillar = pillar(answers=[DOMAIN, MAILBOX])
    assert managed(minion)["result"] is True
    assert minion.apply("ispmail.answers")["postfix_map.answers"]["result"] is True
    postfix.write_main_cf(**{**postfix.postconf(), taker: "example.org, other.example"})
    postfix.reload()
    said = f"mail for example.org goes the way of {taker}, not of virtual_mailbox_domains"
    state = minion.apply("ispmail.answers")["postfix_map.answers"]
    assert state["result"] is False and said in state["comment"]
    rows = [row for row in minion.call("postfix_doctor.check") if row["check"] == "mail goes the way of its map"]
    assert [row["result"] for row in rows] == ["fault"] and said in rows[0]["fix"]
    # A change says it too, by what main.cf lists alone.
    minion.pillar = pillar(maps={"virtual_mailbox_domains": {"expansion_limit": 9}})
    assert said in managed(minion)["comment"]


def test_a_domain_of_other_letters_that_another_class_takes_is_named(minion, postfix, pillar):
    """It was never compared. Its A-label is another domain to Postfix."""
    query = "SELECT 1 FROM virtual_domains WHERE name='%s' OR '%s' LIKE 'm_nchen.example' LIMIT 1"
    minion.pillar = pillar(
        answers=[{"map": "virtual_mailbox_domains", "question": "münchen.example", "answer": True}],
        maps={"virtual_mailbox_domains": {"query": query}},
    )
    postfix.write_main_cf(mydestination="xn--mnchen-3ya.example")
    assert managed(minion)["result"] is True
    assert minion.apply("ispmail.answers")["postfix_map.answers"]["result"] is True
    postfix.write_main_cf(**{**postfix.postconf(), "mydestination": "münchen.example"})
    postfix.reload()
    said = "mail for münchen.example goes the way of mydestination, not of virtual_mailbox_domains"
    state = minion.apply("ispmail.answers")["postfix_map.answers"]
    assert state["result"] is False and said in state["comment"]
    rows = [row for row in minion.call("postfix_doctor.check") if row["check"] == "mail goes the way of its map"]
    assert [row["result"] for row in rows] == ["fault"] and said in rows[0]["fix"]


def test_an_address_behind_the_tenth_that_smtpd_does_not_know_is_named(minion, postfix, pillar):
    """Ten were asked of smtpd, and of the others nothing was said."""
    names = [f"user{number}@example.org" for number in range(12)]
    query = "SELECT 1 FROM virtual_domains WHERE '%s' LIKE 'user%%@example.org' LIMIT 1"
    answers = [{"map": "virtual_mailbox_maps", "question": name, "answer": True} for name in names]
    minion.pillar = pillar(answers=answers, maps={"virtual_mailbox_maps": {"query": query}})
    assert managed(minion)["result"] is True
    assert minion.apply("ispmail.answers")["postfix_map.answers"]["result"] is True
    known = " ".join(f"{{{name}=1}}" for name in names[:-1])
    option = f" smtpd\n  -o {{ virtual_mailbox_maps = inline:{{ {known} }} }}\n"
    before = postfix.master_cf.read_text()
    write_cold(postfix.master_cf, before.replace(" smtpd\n", option))
    try:
        postfix.reload()
        state = minion.apply("ispmail.answers")["postfix_map.answers"]
        assert state["result"] is False and f"{names[-1]} is in the maps, but smtpd says: 550" in state["comment"]
    finally:
        write_cold(postfix.master_cf, before)
        postfix.reload()


def test_a_change_that_sends_mail_another_way_is_put_back(minion, postfix, pillar):
    """An alias table that answers for bare domains makes each an alias domain: mailboxes are unknown then."""
    minion.pillar = pillar(answers=[DOMAIN, MAILBOX])
    assert managed(minion)["result"] is True
    before = contents(postfix)
    query = "SELECT name FROM virtual_domains WHERE name='%s' OR CONCAT('john@', name) = '%s' AND 1 = 0"
    minion.pillar = pillar(
        answers=[DOMAIN, MAILBOX], maps={"domains_as_aliases": {"parameter": "virtual_alias_maps", "query": query}}
    )
    result = managed(minion)
    assert result["result"] is False
    assert "mail for example.org goes the way of virtual_alias_domains" in result["comment"]
    assert "put back as it was" in result["comment"]
    assert contents(postfix) == before
    assert rcpt(postfix.port, "john@example.org")[0] == 250


@pytest.mark.parametrize("strict", ["no", "yes"])
def test_an_expected_answer_may_have_any_letter(minion, postfix, pillar, mariadb, strict):
    """The question for such a mailbox ended in a UnicodeEncodeError, and with it each apply."""
    mariadb.sql(
        "INSERT INTO mailserver.virtual_users (domain_id, email, password) VALUES (1, %s, '!')", "jürgen@example.org"
    )
    postfix.write_main_cf(strict_smtputf8=strict)
    try:
        minion.pillar = pillar(answers=[DOMAIN, {**MAILBOX, "question": "jürgen@example.org"}])
        result = managed(minion)
        assert result["result"] is True, result["comment"]
        assert minion.apply("ispmail.answers")["postfix_map.answers"]["result"] is True
        known = _ispmail_inventory.read(str(postfix.config_directory))
        assert _ispmail_smtpd.ask(known, "jürgen@example.org").code == 250
        assert _ispmail_smtpd.ask(known, "jörg@example.org").code == 550
    finally:
        postfix.write_main_cf(strict_smtputf8=None)
        mariadb.sql("DELETE FROM mailserver.virtual_users WHERE email = %s", "jürgen@example.org")


@pytest.mark.parametrize("closed", ["main.cf", "the directory"])
def test_a_configuration_that_only_root_can_read_is_right(minion, postfix, closed):
    """Postfix reads it before it gives up its rights; the probe, as user postfix, could not start."""
    postfix.main_cf.chmod(0o600) if closed == "main.cf" else postfix.config_directory.chmod(0o700)
    result = managed(minion)
    assert result["result"] is True, result["comment"]
    assert "asked as root, because user postfix cannot read main.cf" in result["comment"]
    assert replies(postfix) == ANSWERED


@pytest.mark.parametrize("where", ["main.cf", "master.cf"])
def test_smtpd_behind_a_balancer_is_asked(minion, postfix, pillar, where):
    """It waits for the line of the balancer: it was not asked, after 12 seconds, and nobody saw what a change broke."""
    protocol = {"smtpd_upstream_proxy_protocol": "haproxy"}
    service = f"127.0.0.1:{postfix.port}/inet"
    if where == "main.cf":
        postfix.write_main_cf(**protocol)
    else:
        postfix.command("postconf", "-P", f"{service}/smtpd_upstream_proxy_protocol=haproxy")
    try:
        postfix.reload()
        result = managed(minion)
        assert result["result"] is True and "was not asked" not in result["comment"], result["comment"]
        rows = [row for row in minion.call("postfix_doctor.check") if row["check"] == "smtpd can ask its maps"]
        assert [row["result"] for row in rows] == ["ok"]
        known = _ispmail_inventory.read(str(postfix.config_directory))
        assert _ispmail_smtpd.ask(known, "jack@example.org").code == 250
        assert _ispmail_smtpd.ask(known, "nobody@example.org").code == 550
    finally:
        postfix.write_main_cf(smtpd_upstream_proxy_protocol=None)
        if where == "master.cf":
            postfix.command("postconf", "-PX", f"{service}/smtpd_upstream_proxy_protocol")
        postfix.reload()
