"""`preset`: the tables of the projects, which their own programs make, and mail as their users expect it."""

import re
import smtplib

import pytest

from _ispmail_presets import NAMES, expanded
from lab import HOST, iredmail, wait_until
from lab.mariadb import MariaDB
from lab.minion import Minion
from lab.postfix import Postfix
from lab.postgresql import PostgreSQL
from lab.smtp import rcpt
from lab.web import USER

from ..conftest import only_host
from .database import needs_machines
from .projects import GOES_TO, PROJECTS, REPLIES, SILENT

PRESETS = [name for name in NAMES if name != "ispmail"]


@pytest.fixture(scope="module")
def mariadb(directory):
    """Its own time is not UTC, in which Modoboa's tables hold theirs."""
    with MariaDB(directory / "mariadb", options=["--default-time-zone=+05:00", "--max-connections=1000"]) as server:
        yield server


@pytest.fixture(scope="module")
def postgresql(directory):
    with PostgreSQL(directory / "postgresql", max_connections="1000") as server:
        yield server


@pytest.fixture(scope="module", params=PRESETS)
def database(request):
    """A preset, with the tables of its project and their server."""
    name, _, table_type = request.param.partition("-")
    server = request.getfixturevalue("postgresql" if table_type == "pgsql" else "mariadb")
    project = PROJECTS[name]
    if project.builds_root:
        needs_machines()
    project.fill(server)
    return request.param, project, server


@pytest.fixture
def site(database, directory):
    """A Postfix and a minion whose pillar has little more than the preset and a password."""
    preset, _, server = database
    with Postfix(directory / f"mail-{preset}", recipient_delimiter="+") as postfix:
        pillar = {
            "preset": preset,
            "packages": False,
            "database": {"password": "plainSecret7", "hosts": f"{HOST}:{server.port}", **only_host()},
            "server": {"unix_socket": server.socket, "known_accounts": [USER]},
            "postfix": {"config_directory": str(postfix.config_directory)},
        }
        yield postfix, Minion(directory / f"minion-{preset}", {"ispmail": pillar})


def deliver(postfix, addresses):
    """Send one mail to all: where Postfix has delivered each of them."""
    before = len(postfix.log)
    with smtplib.SMTP(HOST, postfix.port) as client:
        client.sendmail("test@sender.test", addresses, "Subject: where to\n\n")
    line = r"to=<([^>]+)>,(?: orig_to=<([^>]+)>,)? relay=.*status=sent"
    assert wait_until(lambda: len(re.findall(line, postfix.log[before:])) == len(addresses), 30), postfix.log[before:]
    return {address or to: to for to, address in re.findall(line, postfix.log[before:])}


def test_the_projects_own_tables(database, site):
    preset, project, _ = database
    postfix, minion = site
    schema = minion.call("postfix_database.read")["tables"]
    made = minion.apply("ispmail.database")
    assert all(result["result"] for result in made.values()), made
    assert not made["postfix_database.tables"]["changes"] and made["postfix_database.account"]["changes"]
    assert minion.call("postfix_database.read")["tables"] == schema
    done = minion.apply("ispmail")["postfix_map.managed"]
    assert done["result"] and len(done["changes"]) >= 6, done
    replies = {**REPLIES, **project.replies}
    assert {address: rcpt(postfix.port, address)[0] for address in replies} == replies
    assert deliver(postfix, list(GOES_TO)) == GOES_TO
    tables = postfix.command("postconf", "-h", "virtual_alias_maps", "virtual_mailbox_maps").replace(",", " ").split()
    for address in (*SILENT, *project.silent):
        with pytest.raises(RuntimeError, match=r"exit code 1: $"):
            postfix.command("postmap", "-q", address, *tables)
    found = {row["check"] for row in minion.call("postfix_doctor.check") if row["result"] != "ok"}
    # PostfixAdmin's tables in a MariaDB are latin1. That is told, with the statement that ends it.
    assert found == ({"the query takes every address"} if preset == "postfixadmin" else set())


def test_a_map_that_pillar_changes_stays_in_its_place(site):
    postfix, minion = site
    minion.apply("ispmail.database")
    section = minion.pillar["ispmail"]
    changed = {"alias_domain_aliases": {"expansion_limit": 5}, "alias_domain_catch_all": None}
    minion.pillar = {"ispmail": {**section, "maps": changed}}
    done = minion.apply("ispmail")["postfix_map.managed"]
    assert done["result"], done
    tables = postfix.command("postconf", "-h", "virtual_alias_maps").replace(",", " ").split()
    names = [table.rpartition("/")[2].removesuffix(".cf").partition("-")[2].replace("-", "_") for table in tables]
    maps = expanded(section)["maps"]
    assert names == [
        name
        for name, fields in maps.items()
        if fields.get("parameter", name) == "virtual_alias_maps" and name != "alias_domain_catch_all"
    ]
    assert rcpt(postfix.port, "anybody@also-all.example.org")[0] == 550
    assert deliver(postfix, ["own@also-all.example.org"]) == {"own@also-all.example.org": "own@all.example.org"}


@pytest.mark.parametrize(("kind", "suffix"), [(MariaDB, "mysql"), (PostgreSQL, "pgsql")])
def test_a_published_schema_of_iredmail_that_differs_is_told(kind, suffix, tmp_path, capsys):
    same, other = tmp_path / f"same.{suffix}", tmp_path / f"other.{suffix}"
    same.write_text(iredmail.statements(kind))
    changed = [
        ("target_domain VARCHAR(255)", "target_domain VARCHAR(100)"),
        ("backupmx", "backup"),
        ("address, forwarding)", "forwarding, address)"),
    ]
    text = same.read_text()
    for old, new in changed:
        assert old in text
        text = text.replace(old, new)
    other.write_text(text)
    assert iredmail.main([str(same)]) == 0
    assert capsys.readouterr().out == f"{same}: all tables and columns here are as published\n"
    assert iredmail.main([str(same), str(other)]) == 1
    told = capsys.readouterr().out.splitlines()[1]
    parts = ["alias_domain.target_domain is ", "domain.backupmx is ", "domain.backupmx has the default 0"]
    assert all(part in told for part in parts) and re.search(r"forwardings has the unique .*address, ?forwarding", told)
    assert told.count(";") == 3
