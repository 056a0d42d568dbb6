"""docs/pillar: two sites, a server with two instances, as Salt compiles it and as it is applied."""

from pathlib import Path

import pytest
import salt.config
import salt.pillar

import _ispmail_config
from lab import scratch
from lab.minion import REPOSITORY, Minion
from lab.postfix import Postfix, write_cold

from .. import pages
from ..conftest import PASSWORD
from .test_apply import managed

OLD_TABLES = """
CREATE DATABASE mail;
CREATE TABLE mail.domains (domain VARCHAR(100) PRIMARY KEY, active INT);
CREATE TABLE mail.mailboxes (address VARCHAR(100) PRIMARY KEY, active INT);
CREATE TABLE mail.aliases (address VARCHAR(100) PRIMARY KEY, goto VARCHAR(100));
INSERT INTO mail.domains VALUES ('oslo.example', 1);
INSERT INTO mail.mailboxes VALUES ('kari@oslo.example', 1);
INSERT INTO mail.aliases VALUES ('post@oslo.example', 'kari@oslo.example');
INSERT INTO mail.aliases VALUES ('@oslo.example', 'kari@oslo.example');
CREATE OR REPLACE USER postfix@127.0.0.1;
GRANT SELECT ON mail.* TO postfix@127.0.0.1
"""


def compiled(minion_id, **grains):
    """The pillar of a minion, as a master compiles it."""
    opts = salt.config.master_config(None)
    opts.update(pillar_roots={"base": [str(REPOSITORY / "docs" / "pillar")]}, file_client="local", id=minion_id)
    with scratch() as cache:
        opts["cachedir"] = str(cache)
        pillar = salt.pillar.Pillar(opts, grains, minion_id, "base").compile_pillar()
    assert "_errors" not in pillar, pillar["_errors"]
    return dict(pillar)


def maps_of(config):
    """The maps that a pillar asks for, by name; valid, also for what the installed Postfix and its chroot decide."""
    found = _ispmail_config.complete("ispmail", config)
    _ispmail_config.check(found)
    assert _ispmail_config.release_faults(found, "3.10.13") == []
    return {each.name: each for each in found.maps}


@pytest.mark.parametrize(
    ("minion_id", "hosts", "user", "maps"),
    [
        ("mx1.berlin", ["192.0.2.10"], "mailserver", 3),
        ("mx2.berlin", ["192.0.2.10"], "mailserver", 3),
        ("mx1.oslo", "192.0.2.20", "postfix", 5),
    ],
)
def test_each_server_has_its_own(minion_id, hosts, user, maps):
    pillar = compiled(minion_id, roles=["mail"])
    found = maps_of(pillar["ispmail"])
    assert len(found) == maps
    assert {str(each.keys["hosts"]) for each in found.values()} == {str(hosts)}
    assert {each.keys["user"] for each in found.values()} == {user}
    assert "postfix_credential" in pillar["beacons"]
    assert ("ispmail_submission" in pillar) == (minion_id == "mx1.oslo")
    assert "beacons" not in compiled(minion_id)


def test_the_master_has_what_is_its_own():
    assert compiled("master_master") == {"ispmail": {"rotation": {"batch": 1}}}


def test_the_server_with_two_instances_is_applied(postfix, mariadb):
    for statement in OLD_TABLES.strip().split(";\n"):
        mariadb.sql(statement)
    pillar = compiled("mx1.oslo", roles=["mail"])
    with scratch() as directory, Postfix(directory / "submission") as second:
        for key, instance in (("ispmail", postfix), ("ispmail_submission", second)):
            pillar[key]["database"].update(hosts=f"127.0.0.1:{mariadb.port}", password="")
            pillar[key].setdefault("postfix", {})["config_directory"] = str(instance.config_directory)
        minion = Minion(directory / "minion", {key: pillar[key] for key in ("ispmail", "ispmail_submission")})
        done = minion.call("state.apply", "ispmail")
        results = {name.split("_|-")[1]: (state["result"], state["comment"]) for name, state in done.items()}
        assert all(result for result, _ in results.values()), results
        assert "Postfix asks the maps that pillar names in ispmail_submission" in results
        ask = minion.call
        assert ask("postfix_map.lookup", "virtual_alias_maps", "post@oslo.example")["answer"] == "kari@oslo.example"
        _, _, function, *asked, key = pages.command("docs/sites.md", "salt mx1.oslo postfix_map.lookup").words
        login = ask(function, *asked, **dict([key.split("=")]))
        assert login["answer"] == "kari@oslo.example"
        assert "virtual_alias_maps" not in second.postconf()
        fingerprints = ask("postfix_map.fingerprints", "0123456789abcdef")
        assert len(fingerprints["live"]) == 6 and len(set(fingerprints["live"].values())) == 1
        assert set(minion.call("state.apply", "ispmail.clean"))
        assert "virtual_alias_maps" not in postfix.postconf() and "smtpd_sender_login_maps" not in second.postconf()


def test_another_user_is_another_fingerprint(minion, pillar):
    """The proof of a rotation took a table file of another account with the same password for the right one."""
    assert managed(minion)["result"] is True
    path = minion.call("postfix_map.read")["virtual_alias_maps"]["table"].partition(":")[2]
    text = Path(path).read_text()
    write_cold(Path(path), text.replace("user = mailserver\n", "user = another\n"))
    found = minion.call("postfix_map.fingerprints", "0123456789abcdef")
    assert found["live"]["virtual_alias_maps"] not in (None, found["pillar"]["virtual_alias_maps"])
    assert found["live"]["virtual_mailbox_maps"] == found["pillar"]["virtual_mailbox_maps"]


def test_fingerprints_tell_equal_from_other(minion, pillar):
    managed(minion)
    first = minion.call("postfix_map.fingerprints", "0123456789abcdef")
    assert len(set(first["pillar"].values()) | set(first["live"].values())) == 1
    assert PASSWORD not in repr(first)
    assert minion.call("postfix_map.fingerprints", "fedcba9876543210") != first
    minion.pillar = pillar(database={"password": "another"})
    second = minion.call("postfix_map.fingerprints", "0123456789abcdef")
    assert second["live"] == first["live"] and second["pillar"] != first["pillar"]
