"""Fingerprints of logins, by the files on this disk: what a rotation takes for the proof that a server has changed."""

import hashlib

import pytest

import _ispmail_config
import _ispmail_optionfile
from _ispmail_config_consumers import Consumers
from _ispmail_errors import CannotAsk, InvalidInput
from _ispmail_proof import fingerprints

from .consumer_values import consumer

NONCE = "0123456789abcdef"
PASSWORD = "new;#pass"


def scrypt(user, password, nonce=NONCE):
    """As docs/security.md says: scrypt with 16 MiB of memory."""
    text = f"{user}\0{password}".encode("utf-8", "surrogateescape")
    return hashlib.scrypt(text, salt=nonce.encode(), n=16384, r=8, p=1, dklen=16).hex()


def instance(key, folder, maps=(), **database):
    """An instance of the three default maps and more, with its files in a folder."""
    section = {
        "database": {"password": PASSWORD, **database},
        "maps": dict(maps),
        "postfix": {"config_directory": str(folder)},
    }
    return _ispmail_config.complete(key, section)


def write(instance, password=PASSWORD):
    for each in instance.maps:
        text = each.text.replace(PASSWORD, password)
        with open(each.path, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)


@pytest.mark.parametrize("nonce", [None, 1234567890123456, "", "0123456789abcde", "0123456789abcdé0"])
def test_a_nonce_by_which_fingerprints_could_be_looked_up(nonce):
    with pytest.raises(InvalidInput, match="nonce must be a text of 16 ASCII characters or more, in quotes"):
        fingerprints([], "mailserver", nonce)


def test_a_server_that_has_changed_and_one_that_has_not(tmp_path):
    found = instance("ispmail", tmp_path)
    names = ("virtual_mailbox_domains", "virtual_alias_maps", "virtual_mailbox_maps")
    new = dict.fromkeys(names, scrypt("mailserver", PASSWORD))
    assert fingerprints([found], "mailserver", NONCE) == {"pillar": new, "live": dict.fromkeys(names)}
    write(found)
    assert fingerprints([found], "mailserver", NONCE) == {"pillar": new, "live": new}
    # Also with a password that pillar cannot have.
    write(found, "\udcff")
    assert set(fingerprints([found], "mailserver", NONCE)["live"].values()) == {scrypt("mailserver", "\udcff")}
    write(found, "old")
    old = dict.fromkeys(names, scrypt("mailserver", "old"))
    assert fingerprints([found], "mailserver", NONCE) == {"pillar": new, "live": old}
    assert fingerprints([found], "mailserver", NONCE, live=False) == {"pillar": new}
    assert fingerprints([found], "mailserver", f"{NONCE}g")["live"]["virtual_alias_maps"] == scrypt(
        "mailserver", "old", f"{NONCE}g"
    )


def test_a_live_file_with_another_user_is_another_login(tmp_path):
    found = instance("ispmail", tmp_path)
    write(found)
    path = tmp_path / "mariadb-virtual-alias-maps.cf"
    path.write_bytes(path.read_bytes().replace(b"mailserver", b"former", 1))
    live = fingerprints([found], "mailserver", NONCE)["live"]
    assert live["virtual_alias_maps"] == scrypt("former", PASSWORD)
    assert live["virtual_mailbox_maps"] == scrypt("mailserver", PASSWORD)


def test_only_the_logins_of_the_account_have_one(tmp_path):
    """Other users, other servers and files without a login; a second instance's maps have its key before them."""
    (tmp_path / "second").mkdir()
    others = {
        "relay_domains": {"query": "SELECT 1 FROM x WHERE a='%s'", "user": "another", "password": "x"},
        "transport_maps": {
            "query": "SELECT 1 FROM x WHERE a='%s'",
            "type": "pgsql",
            "user": "another",
            "password": "x",
        },
        "canonical_maps": {"query": "SELECT 1 FROM x WHERE a='%s'", "type": "sqlite", "dbpath": "/x"},
        "relocated_maps": {"query": "SELECT 1 FROM x WHERE a='%s'", "password": "", "option_file": "/etc/my.cnf"},
    }
    first, second = instance("ispmail", tmp_path, others), instance("second", tmp_path / "second")
    found = fingerprints([first, second], "mailserver", NONCE, live=False)["pillar"]
    names = ("virtual_mailbox_domains", "virtual_alias_maps", "virtual_mailbox_maps")
    assert set(found) == {*names, "relocated_maps", *(f"second:{name}" for name in names)}
    assert found["relocated_maps"] == scrypt("mailserver", "")
    assert found["second:virtual_alias_maps"] == scrypt("mailserver", PASSWORD)
    assert fingerprints([second, first], "another", NONCE, live=False)["pillar"] == {
        "ispmail:relay_domains": scrypt("another", "x")
    }


def test_consumers_count_too(tmp_path):
    """Those that may break do not, nor those of another account; whatever comes after them does."""
    content = _ispmail_optionfile.render("client", "mailserver", "old")
    (tmp_path / "dovecot.cnf").write_text(content)
    keys = {"user": "mailserver", "password": PASSWORD}
    known = consumer("known", f"{tmp_path}/known.cnf", ignore=True)
    ours = Consumers("ispmail", (known, consumer("dovecot", f"{tmp_path}/dovecot.cnf")), keys)
    another = Consumers("third", (consumer("web", f"{tmp_path}/web.cnf"),), {**keys, "user": "another"})
    second = Consumers("second", (consumer("none", f"{tmp_path}/none.cnf"),), keys)
    main = instance("ispmail", tmp_path)._replace(maps=())
    new = scrypt("mailserver", PASSWORD)
    found = fingerprints([main], "mailserver", NONCE, consumers=[another, ours, second])
    assert found["pillar"] == {"consumer:dovecot": new, "second:consumer:none": new}
    assert found["live"] == {"consumer:dovecot": scrypt("mailserver", "old"), "second:consumer:none": None}
    assert fingerprints([main], "mailserver", NONCE, False, [ours]) == {"pillar": {"consumer:dovecot": new}}


def test_without_the_live_files_none_is_read(tmp_path):
    """Of what is wrong with one of them nothing is told where only pillar was asked for."""
    (tmp_path / "dovecot.cnf").mkdir()
    main = instance("ispmail", tmp_path)
    for each in main.maps:
        (tmp_path / each.path).mkdir()
    ours = Consumers(
        "ispmail", (consumer("dovecot", f"{tmp_path}/dovecot.cnf"),), {"user": "mailserver", "password": "x"}
    )
    with pytest.raises(CannotAsk):
        fingerprints([main], "mailserver", NONCE, consumers=[ours])
    with pytest.raises(CannotAsk):
        fingerprints([main._replace(maps=())], "mailserver", NONCE, consumers=[ours])
    assert fingerprints([main], "mailserver", NONCE, False, [ours])["pillar"]["consumer:dovecot"] == scrypt(
        "mailserver", "x"
    )
