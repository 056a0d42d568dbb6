"""`preset: postfixadmin`: the database that PostfixAdmin's own program makes, and mail as its users expect it."""

import pytest

from lab import HOST
from lab.mariadb import MariaDB
from lab.minion import Minion
from lab.postfix import Postfix
from lab.postfixadmin import create_tables
from lab.postgresql import PostgreSQL
from lab.smtp import rcpt

ROWS = """
INSERT INTO domain (domain, description, transport, backupmx, active) VALUES
  ('example.org', '', 'virtual', '0', '1'), ('also.example.org', '', 'virtual', '0', '1'),
  ('all.example.org', '', 'virtual', '0', '1'), ('also-all.example.org', '', 'virtual', '0', '1'),
  ('backup.example.org', '', 'virtual', '1', '1'), ('off.example.org', '', 'virtual', '0', '0');
INSERT INTO alias_domain (alias_domain, target_domain, active) VALUES
  ('also.example.org', 'example.org', '1'), ('also-all.example.org', 'all.example.org', '1');
INSERT INTO mailbox (username, password, name, maildir, local_part, domain, active) VALUES
  ('john@example.org', '!', '', 'example.org/john/', 'john', 'example.org', '1'),
  ('gone@example.org', '!', '', 'example.org/gone/', 'gone', 'example.org', '0'),
  ('own@all.example.org', '!', '', 'all.example.org/own/', 'own', 'all.example.org', '1');
INSERT INTO alias (address, goto, domain, active) VALUES
  ('john@example.org', 'john@example.org', 'example.org', '1'),
  ('own@all.example.org', 'own@all.example.org', 'all.example.org', '1'),
  ('jack@example.org', 'john@example.org', 'example.org', '1'),
  ('late@example.org', 'john@example.org', 'example.org', '0'),
  ('@all.example.org', 'john@example.org', 'all.example.org', '1');
"""
REPLIES = {
    "john@example.org": 250,
    "jack@example.org": 250,
    "nobody@example.org": 550,
    "gone@example.org": 550,  # an inactive mailbox
    "late@example.org": 550,  # an inactive alias
    "john@also.example.org": 250,
    "jack@also.example.org": 250,
    "nobody@also.example.org": 550,
    "anybody@all.example.org": 250,
    "anybody@also-all.example.org": 250,
    "john@backup.example.org": 554,  # not this server's own domains
    "john@off.example.org": 554,
}
# Where an address goes, by the maps of virtual_alias_maps in their order.
GOES_TO = {
    "jack@example.org": "john@example.org",
    "jack@also.example.org": "john@example.org",
    "own@also-all.example.org": "own@all.example.org",
    "anybody@also-all.example.org": "john@example.org",
}


@pytest.fixture(scope="module")
def mariadb(directory):
    with MariaDB(directory / "mariadb") as server:
        server.sql("CREATE DATABASE postfix")
        server.sql(f"CREATE USER web@{HOST} IDENTIFIED BY 'web'")
        server.sql(f"GRANT ALL ON postfix.* TO web@{HOST}")
        create_tables("mysqli", server.port, "web", "web", "postfix")
        for statement in ROWS.split(";\n")[:-1]:
            server.sql(statement.replace("INSERT INTO ", "INSERT INTO postfix."))
        yield server


@pytest.fixture(scope="module")
def postgresql(directory):
    with PostgreSQL(directory / "postgresql") as server:
        server.sql("CREATE ROLE web LOGIN PASSWORD 'web'")
        server.sql("CREATE DATABASE postfix OWNER web")
        create_tables("pgsql", server.port, "web", "web", "postfix")
        server.sql(ROWS, "postfix")
        yield server


@pytest.fixture(params=[("postfixadmin", "mariadb"), ("postfixadmin-pgsql", "postgresql")], ids=lambda param: param[0])
def site(request, directory):
    """A Postfix and a minion whose pillar has little more than the preset and a password."""
    preset, name = request.param
    server = request.getfixturevalue(name)
    with Postfix(directory / f"mail-{name}") as postfix:
        pillar = {
            "preset": preset,
            "packages": False,
            "database": {"password": "plainSecret7", "hosts": f"{HOST}:{server.port}"},
            "server": {"unix_socket": server.socket},
            "postfix": {"config_directory": str(postfix.config_directory)},
        }
        yield postfix, Minion(directory / f"minion-{name}", {"ispmail": pillar})


def test_postfixadmins_own_tables(site):
    postfix, minion = site
    tables = minion.call("postfix_database.read")["tables"]
    made = minion.apply("ispmail.database")
    assert all(result["result"] for result in made.values()), made
    assert not made["postfix_database.tables"]["changes"] and made["postfix_database.account"]["changes"]
    assert minion.call("postfix_database.read")["tables"] == tables
    done = minion.apply("ispmail")["postfix_map.managed"]
    assert done["result"] and len(done["changes"]) >= 6, done
    assert {address: rcpt(postfix.port, address)[0] for address in REPLIES} == REPLIES
    maps = postfix.command("postconf", "-h", "virtual_alias_maps").replace(",", " ").split()
    for address, goes_to in GOES_TO.items():
        found = postfix.command("postmap", "-q", address, *maps)
        assert found == f"{goes_to}\n", (address, found)
    wrong = {row["check"] for row in minion.call("postfix_doctor.check") if row["result"] == "fault"}
    # PostfixAdmin's tables in a MariaDB are latin1. That is told, with the statement that ends it.
    assert wrong == (set() if "pgsql" in maps[0] else {"the query takes every address"})


def test_a_map_that_pillar_changes_stays_in_its_place(site):
    """Else the catch-all of an alias domain would take the mail of its target's mailboxes."""
    postfix, minion = site
    minion.apply("ispmail.database")
    section = minion.pillar["ispmail"]
    changed = {"alias_domain_aliases": {"expansion_limit": 5}, "alias_domain_mailboxes": None}
    minion.pillar = {"ispmail": {**section, "maps": changed}}
    done = minion.apply("ispmail")["postfix_map.managed"]
    assert done["result"], done
    maps = postfix.command("postconf", "-h", "virtual_alias_maps").replace(",", " ").split()
    assert [one.rpartition("/")[2].partition("-")[2] for one in maps] == [
        "virtual-alias-maps.cf",
        "alias-domain-aliases.cf",
        "alias-domain-catch-all.cf",
    ]
    assert "alias-domain" not in postfix.command("postconf", "-h", "virtual_mailbox_maps")
    assert postfix.command("postmap", "-q", "own@also-all.example.org", *maps) == "own@all.example.org\n"
