"""`salt-run ispmail.rotate` where the maps are in a PostgreSQL: from one account to the other, and back."""

import pytest

from lab import HOST, scratch
from lab.postgresql import PostgreSQL

from .conftest import CODES, CORE, SECRET
from .test_rotation import run

NEW = f"{CORE}-three"
MAPS = ("virtual_mailbox_domains", "virtual_alias_maps", "virtual_mailbox_maps")
ROWS = """
INSERT INTO virtual_domains (id, name) VALUES (1, 'example.org');
INSERT INTO virtual_users (domain_id, email, password) VALUES (1, 'john@example.org', '!');
INSERT INTO virtual_aliases (domain_id, source, destination) VALUES (1, 'jack@example.org', 'john@example.org');
"""


@pytest.fixture(scope="module")
def postgresql():
    with scratch() as path, PostgreSQL(path / "db") as server:
        yield server


@pytest.fixture
def site(fleet, postgresql):
    """m1, whose maps are in a PostgreSQL that Salt has filled; and a function that writes its pillar."""

    def write(user, password, **sections):
        fleet["m1"].write_pillar(
            database={"user": user, "password": password, "hosts": f"{HOST}:{postgresql.port}"},
            server={"unix_socket": postgresql.socket},
            maps={name: {"type": "pgsql"} for name in MAPS},
            **sections,
        )

    write("mail_a", SECRET)
    fleet.apply("ispmail.database", target="m1")
    postgresql.sql(ROWS, "mailserver")
    fleet.apply(target="m1")
    assert fleet["m1"].replies() == CODES["m1"]
    yield fleet, write
    for table in fleet["m1"].postfix.config_directory.glob("pgsql-*.cf"):
        table.unlink()


def may_log_in(postgresql):
    return dict(postgresql.sql("SELECT rolname, rolcanlogin FROM pg_roles WHERE rolname LIKE 'mail%'"))


def test_a_rotation_there_and_back(site, postgresql):
    fleet, write = site
    # The password alone: what stops it is said before anything is changed.
    write("mail_a", NEW)
    would, _ = run(fleet, "test=True")
    stopped, _ = run(fleet, "watch=0")
    for reasons in (would["main"]["stops"], stopped["reasons"]):
        assert "mail_a is the account in use, and accepts another password than pillar's" in str(reasons)
    assert may_log_in(postgresql) == {"mail_a": "t"} and fleet["m1"].replies() == CODES["m1"]
    write("mail_b", NEW)
    would, _ = run(fleet, "test=True")
    assert would["main"]["stops"] == []
    done, lines = run(fleet, "watch=1")
    assert (done["retcode"], done["reasons"]) == (0, [])
    assert "The old password is dropped: m1 (1 of 1): ok" in str(lines) and "mail_a has been changed" in str(lines)
    assert may_log_in(postgresql) == {"mail_a": "f", "mail_b": "t"} and fleet["m1"].replies() == CODES["m1"]
    write("mail_a", SECRET)
    done, _ = run(fleet, "watch=0")
    assert (done["retcode"], done["reasons"]) == (0, [])
    assert may_log_in(postgresql) == {"mail_a": "t", "mail_b": "f"} and fleet["m1"].replies() == CODES["m1"]
    assert CORE not in postgresql.log
