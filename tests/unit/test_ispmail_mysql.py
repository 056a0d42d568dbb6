"""Accounts and passwords of a MySQL: hashes with a salt, of two formats."""

import pytest

import _ispmail_mysql
from _ispmail_mysql import MySQL
from _ispmail_sql import Account, native_hash

NATIVE, SHA2 = "mysql_native_password", "caching_sha2_password"
USER = "USER %(user)s@%(host)s"
OLD, NEW = native_hash("old"), native_hash("new")
PASSWORD = "pässwört"
# What MySQL 9.7.4 kept of PASSWORD, with digest_rounds 5000 and 12000, as HEX() prints it: sha256-crypt, then PBKDF2.
CRYPT_5 = (
    "2441243030352411542672042D2D37601C1D40617B2A6341470333454C726C786951556151347768574C387A54782E597176"
    "6773664552454551453961786941727533535439"
)
CRYPT_12 = (
    "244124303043243E521A6C36194E4A191D465A7D583C7837193F08717935566A56336672454864457930626A50634A357A57"
    "53795876696663656A707A744F587977656C5344"
)
PBKDF2_5 = (
    "24422430303524326957443B624D1E141453465A4C257D3C4D780A5079594768587A2F526D662F384D4F464E41537150314B"
    "5A654F44586231334A6D796E52684F7553304C7034735941503575507A4749427A4639785A506C37506247667671484C6537"
    "6F6365566E684C4241554542773D3D"
)
PBKDF2_12 = (
    "24422430304324771A55700165332D03686A2D53475D2F0153015937766F546A78314750544A6B6939597645625170313971"
    "492B704A546A3751335A4A4A36764D55465043774C376C3366344B6535452B385576654F55345842545A6174334C70374E57"
    "506E6367386B33725078695A673D3D"
)
REAL = [CRYPT_5, CRYPT_12, PBKDF2_5, PBKDF2_12]


def text(stored):
    return bytes.fromhex(stored).decode("latin-1")


def row(first, second=None, plugin=SHA2, locked="N", tls="", **more):
    known = {"plugin": plugin, "hash": first, "second": second, "locked": locked, "changed": 1000, "lifetime": 5}
    return {**known, "tls": tls, **more}


@pytest.mark.parametrize(
    ("salt", "rounds", "key", "digest"),
    [
        ("saltstring", 5000, "Hello world!", "5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc5"),
        ("saltstringsaltst", 10000, "Hello world!", "3xv.VbSHBb41AL9AvLeujZkZRBAwqFMz2.opqey6IcA"),
        ("toolongsaltstrin", 5000, "This is just a test", "Un/5jzAHMgOGZ5.mWJpuVolil07guHPvOW8mGRcvxa5"),
        (
            "anotherlongsalts",
            1400,
            "a very much longer text to encrypt.  This one even stretches over morethan one line.",
            "Rx.j8H.h8HjEDGomFU8bDkXm3XIUnzyxf12oP84Bnq1",
        ),
        (
            "short",
            77777,
            "we have a short salt string but not a short password",
            "JiO1O3ZpDAxGJeaDIuqCoEFysAe1mZNJRs3pw0KQRd/",
        ),
        ("asaltof16chars..", 123456, "a short string", "gP3VQ/6X7UUEW3HkBn2w1/Ptq2jxPyzV/cZKmF/wJvD"),
        ("roundstoolow", 1000, "the minimum number is still observed", "yfvwcWrQ8l/K0DAWyuPMDNHpIVlTQebY9l/gL972bIC"),
    ],
)
def test_published_vectors_of_sha256_crypt(salt, rounds, key, digest):
    """From "Unix crypt using SHA-256 and SHA-512"."""
    assert _ispmail_mysql.sha256_crypt(key.encode(), salt.encode(), rounds) == digest


@pytest.mark.parametrize("stored", REAL)
def test_hashes_that_a_server_has_made(stored):
    """Their salts hold bytes that are no printable text."""
    server = MySQL("9.7.4")
    assert server.is_hash_of(text(stored), PASSWORD) is True
    assert server.is_hash_of(text(stored), f"{PASSWORD}x") is False
    assert server.is_hash_of(text(stored)[:-1] + "!", PASSWORD) is False


@pytest.mark.parametrize("stored", REAL)
def test_a_hash_is_made_as_the_server_makes_it(stored):
    """In the format that its variables ask for; one that has no such variable takes sha256-crypt of 5000 rounds."""
    found = text(stored)
    kind, rounds, salt = found[1], found[3:6], found[7:27]
    settings = {
        "caching_sha2_password_storage_format": {"A": "CRYPT5", "B": "PBKDF2_SHA512"}[kind],
        "caching_sha2_password_digest_rounds": str(int(rounds, 16) * 1000),
    }
    server = MySQL("9.7.4")
    assert server.hash_password(SHA2, PASSWORD, salt, settings) == found
    if stored == CRYPT_5:
        assert server.hash_password(SHA2, PASSWORD, salt, {}) == found


@pytest.mark.parametrize(("wanted", "rounds"), [("7777", "007"), ("4095999", "FFF"), ("99999999", "FFF")])
def test_rounds_are_whole_thousands_and_bounded(monkeypatch, wanted, rounds):
    monkeypatch.setattr(_ispmail_mysql, "sha256_crypt", lambda key, salt, rounds: str(rounds))
    found = MySQL("9.7.4").hash_password(SHA2, "x", "s" * 20, {"caching_sha2_password_digest_rounds": wanted})
    assert found == f"$A${rounds}${'s' * 20}{int(rounds, 16) * 1000}"


def test_the_rounds_of_a_hash_are_hexadecimal(monkeypatch):
    monkeypatch.setattr(_ispmail_mysql, "sha256_crypt", lambda key, salt, rounds: f"{rounds:043}")
    server, head = MySQL("9.7.4"), f"$A$01F${'s' * 20}"
    assert (
        server.is_hash_of(f"{head}{31000:043}", "x") is True and server.is_hash_of(f"{head}{32000:043}", "x") is False
    )


def test_the_old_plugin_has_its_own_hash():
    server = MySQL("8.4.6")
    assert server.hash_password(NATIVE, "old", "s" * 20, {}) == OLD
    assert server.is_hash_of(OLD, "old") is True and server.is_hash_of(OLD, "new") is False


@pytest.mark.parametrize(
    ("first", "second", "plugin", "hashes"),
    [
        (OLD, None, NATIVE, (OLD,)),
        (OLD, "", NATIVE, (OLD,)),
        (NEW.lower(), OLD, NATIVE, (NEW, OLD)),
        (OLD, OLD, NATIVE, (OLD,)),
        (None, None, NATIVE, ("",)),
        (None, None, SHA2, ("",)),
        ("invalid", None, SHA2, ()),
        (OLD, None, SHA2, ()),
        (OLD, None, "sha256_password", ()),
        (text(CRYPT_12), None, "sha256_password", ()),
    ],
)
def test_accounts(first, second, plugin, hashes):
    """The current password first, then the one that is retained. None and an empty text are an empty password."""
    known = [each and each.encode().hex() for each in (first, second)]
    assert MySQL("8.4.6").read_account(row(*known, plugin)) == Account((plugin,), hashes, False, 1000, 5)


def test_an_account_with_salted_hashes():
    found = MySQL("9.7.4").read_account(row(CRYPT_5, PBKDF2_12, locked="Y"))
    assert found == Account((SHA2,), (text(CRYPT_5), text(PBKDF2_12)), True, 1000, 5)
    assert "$A$" not in repr(found)


@pytest.mark.parametrize("plugin", [NATIVE, SHA2])
def test_the_statements_of_a_password(plugin):
    server, one = MySQL("8.4.6"), f"IDENTIFIED WITH {plugin} AS %(new)s"
    assert server.create(plugin) == [f"CREATE {USER} {one} PASSWORD EXPIRE NEVER"]
    assert server.set_password(plugin) == [f"ALTER {USER} {one}"]
    assert server.accept(plugin, 1) == [f"ALTER {USER} {one} RETAIN CURRENT PASSWORD"]
    assert server.sole(plugin) == [f"ALTER {USER} DISCARD OLD PASSWORD"]
    assert server.most_passwords == 2


def test_hashes_are_read_as_bytes():
    """A salt may hold bytes that are no text, or that end one."""
    assert "HEX(authentication_string)" in MySQL("9.7.4").accounts
    assert "HEX(User_attributes->>'$.additional_password')" in MySQL("9.7.4").accounts


@pytest.mark.parametrize(("tls", "text"), [("", ""), ("SSL", "REQUIRE SSL"), ("SPECIFIED", "REQUIRE CIPHER 'AES'")])
def test_what_an_account_demands(tls, text):
    found = MySQL("9.7.4").read_account(row(CRYPT_5, tls=tls, ssl_cipher="AES", max_questions=0))
    assert found.demands == text
