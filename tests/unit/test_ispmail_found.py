"""What was found on a server, as YAML that pillar can take. Finding it is tested on real servers, see test_adoption."""

import os
import pwd

import pytest
import yaml

import _ispmail_found
from _ispmail_adopt import Adopted, Source
from _ispmail_errors import CannotAsk
from _ispmail_inventory import Settings

from .postfix_files import postfix

QUERY = "SELECT destination FROM virtual_aliases WHERE source='%s' AND note <> '{{ é }}' " + "AND 1 = 1 " * 20


def adopted(**values):
    return Adopted(**{**dict.fromkeys(Adopted._fields, ()), **values})


def test_what_is_printed_is_pillar():
    """In its order, a query in one line, and nothing in it is Jinja."""
    section = {"maps": {"virtual_mailbox_maps": {"query": QUERY}, "virtual_alias_maps": {"query": QUERY}}}
    text = _ispmail_found.text(adopted(section=section), "/etc/postfix-out")
    assert text.startswith("#!yaml\n# The SQL tables of Postfix in /etc/postfix-out, as pillar.")
    assert yaml.safe_load(text) == {"ispmail": section}
    assert list(yaml.safe_load(text)["ispmail"]["maps"]) == ["virtual_mailbox_maps", "virtual_alias_maps"]
    assert len([line for line in text.splitlines() if "{{ é }}" in line and "AND 1 = 1 " * 19 in line]) == 2
    assert "left_out" not in text and "What pillar does not hold" not in text


def test_what_pillar_cannot_hold_is_told():
    text = _ispmail_found.text(adopted(section={"maps": {}}, left_out=["a", "b"]), "/etc/postfix")
    assert "# What pillar does not hold, and why. Read it, then delete it here.\nleft_out:\n- a\n- b\n" in text
    assert yaml.safe_load(text) == {"ispmail": {"maps": {}}, "left_out": ["a", "b"]}


KNOWN = Settings("/etc/postfix", {"mail_owner": "postfix"}, frozenset())


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "a.cf"
    path.write_text("query = SELECT 1\n")
    path.chmod(0o640)
    return path


def test_an_owner_is_told_where_an_apply_changes_it(table):
    postfix = pwd.getpwnam("postfix")
    os.chown(table, 0, postfix.pw_gid)
    assert _ispmail_found._read(str(table), KNOWN) == Source(b"query = SELECT 1\n", ownership="")
    table.chmod(0o600)
    assert _ispmail_found._read(str(table), KNOWN).ownership == "root:postfix 0600"
    os.chown(table, postfix.pw_uid, 0)
    assert _ispmail_found._read(str(table), KNOWN).ownership == "postfix:root 0600"


def test_a_file_that_is_not_there_has_no_owner(tmp_path):
    assert _ispmail_found._read(str(tmp_path / "none.cf"), KNOWN) == Source(None, ownership="")


def test_why_a_file_cannot_be_read(tmp_path):
    (tmp_path / "a.cf").mkdir()
    found = _ispmail_found._read(str(tmp_path / "a.cf"), KNOWN)
    assert found.content is None and "a.cf" in found.error


ALIASES = "user = mailserver\npassword = {}\nhosts = 127.0.0.1\ndbname = mailserver\nquery = {}\n"


def test_what_main_cf_names_is_found_without_its_password(tmp_path):
    (tmp_path / "a.cf").write_text(ALIASES.format("hunter22", "SELECT destination FROM aliases WHERE source='%s'"))
    found = _ispmail_found.found(postfix(tmp_path, f"virtual_alias_maps = mysql:{tmp_path}/a.cf\n"))
    assert "hunter22" not in _ispmail_found.text(found, str(tmp_path))
    assert found.section["maps"]["virtual_alias_maps"] == {
        "file": "a.cf",
        "query": "SELECT destination FROM aliases WHERE source='%s'",
    }
    assert found.section["database"]["hosts"] == "127.0.0.1" and found.section["database"]["dbname"] == "mailserver"


def test_a_password_of_a_table_that_pillar_cannot_hold_is_not_printed_either(tmp_path):
    """It stood in the query of another table."""
    (tmp_path / "a.cf").write_text(ALIASES.format("", "SELECT 1 FROM aliases WHERE source='%s' AND note='hunter22'"))
    (tmp_path / "b.cf").write_text(ALIASES.format("hunter22", "SELECT 1 FROM aliases WHERE source='%s'"))
    maps = f"mysql:{tmp_path}/a.cf, unionmap:{{mysql:{tmp_path}/b.cf}}"
    text = _ispmail_found.text(_ispmail_found.found(postfix(tmp_path, f"virtual_alias_maps = {maps}\n")), str(tmp_path))
    assert "hunter22" not in text and "the value of query may hold a password" in text
    assert "it is inside braces" in text


def test_where_no_postfix_is_nothing_is_found(tmp_path):
    with pytest.raises(CannotAsk):
        _ispmail_found.found(str(tmp_path))
