"""Verifiers of passwords: published vectors, and those that real servers made."""

import base64
import hashlib
import hmac
import time

import pytest

from _ispmail_scram import ITERATIONS, SALT_BYTES, Keys, belongs, keys, method, prepare, verifier

SALT = bytes(range(SALT_BYTES))
KEY = base64.b64encode(bytes(32)).decode()
# Made by PostgreSQL 15.18, see pg_authid.rolpassword: of each password the salt, and the two keys.
BY_A_SERVER = {
    "secret": (
        "GUJHF0VSLFZ3+wLH8k0ddQ==",
        "pprd4WYBRfDFu6Jk0C9pKMOmuXrL0BdFaMc1lrQPzps=:IOPw4sVPLyjsAX9QK/6I2Te75PXlpzt8390X+YUfMFo=",
    ),
    "it's %100 $ecret": (
        "R/9nX0x93FxAoXPKT7Nqjg==",
        "pVyYWVNJ99//GHXK05ONMZBnOIbvFGN3X7crnrLC7j8=:qSRTY9t6TSeeYUIDycorgyu8LT620eaos4NAbvJB3gM=",
    ),
    'back\\slash "quoted"': (
        "eHfUlo/fT0Cm4J63JLX1nA==",
        "v9NByiYMTr3tOAo9eaUrTzmpvqabs7CKNJXtkZfyrBo=:S13RPVZB+KYrghKVyAHXpFGMrnF6w0UMnWJJPrw1GH0=",
    ),
    "a\xadb": (
        "mf8/RKyrdl0xoIfgPnQwAg==",
        "TKgW2iHpS/15fbIvKjOoWQjXDm/lTJG2MqEKO/+bpkA=:ONHmMdSYlAdwSm58vZ3uZ6q0nzN8dUOY0VDWRoVhTRw=",
    ),
    "\u2168 e\u0301": (
        "7Rx5/P/YqJNGnKAcAcbfVA==",
        "rCckteBOEEtPmJpvP2E5e5h3ZHiNeB3/xu87CVCrb7o=:GVlnSNCEkuRwnByh0T71JnS4YPtkBdOQpE5uwGNvRCA=",
    ),
    "\u06271": (
        "ZbhEsfZCkg467M5KVd97OQ==",
        "SApQHonWKPPyUCajC7mZTNahCOWoBe+3+7snhZiNyvQ=:ycQt3DvrFtGOM8fPyVXI6+GrD0cDb33wDmYricl3+jw=",
    ),
    "\U0001f600": (
        "SZV68xG3KwVUkFYmq0JlOw==",
        "g72gQmJ02UDb75e0tBbQehZ5MGl3ZBs5Uv6PLiDqboU=:uTYcIcG8ToQtrDNgjSU9t0zJu7bybfLhMXvMwOVRHf4=",
    ),
    "\xad": (
        "hwdOKNRBSzK3TX073TSo+w==",
        "hZbNgwhVPIc58QsfXfetr8Rg13dxRNiVRDM75TM/iX0=:j2eLGj4ym5smEmibV8ixSD202Y4aS0QDQfQasa4rco4=",
    ),
    "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx": (
        "o6tYIH9x/O4O2ku6tZoeYw==",
        "74vuxo80tSaDB0ILq0omuIebYoX+S6WwCZ44f3HdDco=:jyPqYRmysiocClunwGkoHQIgaytRS8oXvd/X4bBrqEM=",
    ),
    " blanks at both ends ": (
        "1auK7LUVrp7c0JyZYgA7wA==",
        "rzstqgQyuewys22gV6OsNgCkaeBMOH7X5YXKZKV0664=:u38zHxeH2TVu6/78fOJxHCYzIONKKhYohbpa3/5lmng=",
    ),
    "tab\tand\x07bell": (
        "PK5Kf4ZLjiKoV/OftKBGTw==",
        "6fzVHYgB1JLwnS6sBBKtqbhFWXG/p8t7QTtJltRFEKM=:fYNIyEkvxQJWjuSuehYwtd0V6EsWfr56srtBNS1qEDA=",
    ),
    "a\xa0b\u3000c": (
        "JB1qw1Sepbt7yJfF9bPAfQ==",
        "I/in+U6zXoajWpzGfFd9kTBDKToUdv4EmiKO02pHu4s=:YDYEPeUFI9Yp3KBeCiakYRp/EtxRBjW7tBvLDgahdE4=",
    ),
}
MD5_BY_A_SERVER = ("mailserver_a", "it's %100 $ecret", "md5e69a3bc2e63cd037801b40ec11849e3f")


def test_the_exchange_that_rfc_7677_has():
    """Section 3: user "user", password "pencil"."""
    derived = keys(b"pencil", base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ=="), 4096)
    nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    message = f"n=user,r=rOprNGfwEbeRWgbNEkqO,r={nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r={nonce}".encode()
    signature = hmac.digest(derived.stored, message, "sha256")
    proof = bytes(a ^ b for a, b in zip(derived.client, signature))
    assert base64.b64encode(proof) == b"dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
    signed = hmac.digest(derived.server, message, "sha256")
    assert base64.b64encode(signed) == b"6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


@pytest.mark.parametrize("password", BY_A_SERVER)
def test_a_verifier_is_the_one_that_a_server_makes(password):
    salt, hashed = BY_A_SERVER[password]
    text = f"SCRAM-SHA-256$4096:{salt}${hashed}"
    assert verifier(password.encode(), base64.b64decode(salt)) == text
    assert belongs(text, password.encode(), "mailserver_a")
    assert not belongs(text, password.encode() + b"x", "mailserver_a")
    assert method(text) == "scram-sha-256"


def test_a_role_has_nobody_wait_for_its_verifier():
    """It chooses the number of iterations itself: a billion took ten minutes, in each apply."""
    text = verifier(b"x", bytes(16)).replace("$4096:", "$999999999:")
    began = time.monotonic()
    assert not belongs(text, b"x", "m")
    assert time.monotonic() - began < 5


def test_an_md5_verifier_has_the_name_of_the_role_in_it():
    user, password, text = MD5_BY_A_SERVER
    assert method(text) == "md5"
    assert belongs(text, password.encode(), user)
    assert not belongs(text, password.encode(), "mailserver_b")
    assert not belongs(text, b"other", user)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "secret",
        "md5",
        "md5" + "A" * 32,
        "md5" + "0" * 31,
        "SCRAM-SHA-256$4096:AAAA$AAAA",
        f"SCRAM-SHA-256$4096:AAAA${KEY[4:]}:{KEY}",  # 29 bytes
        f"SCRAM-SHA-256$4096:AAAA${KEY}:{KEY[4:]}",
        f"SCRAM-SHA-256$4096:AAAA${KEY}:{KEY[1:]}",  # no base64
        f"SCRAM-SHA-256$4096:AAAA${KEY}:{KEY}:",
        f"SCRAM-SHA-256$0:AAAA${KEY}:{KEY}",
        f"SCRAM-SHA-256$x:AAAA${KEY}:{KEY}",
        f"SCRAM-SHA-256$4096:AAAA${KEY}:{KEY} ",
        f"SCRAM-SHA-256$4096:AA'A${KEY}:{KEY}",
        "sch\u00f6n",
    ],
)
def test_what_a_server_would_take_for_a_password_is_no_verifier(text):
    assert method(text) is None
    assert not belongs(text, b"secret", "mailserver_a")


@pytest.mark.parametrize(
    ("password", "expected"),
    [
        ("I\u00adX", "IX"),  # RFC 4013, section 3, as are the four below
        ("user", "user"),
        ("USER", "USER"),
        ("\u00aa", "a"),
        ("\u2168", "IX"),
        ("a\u00a0b", "a b"),
        ("a\u200bb", "a b"),
        ("e\u0301", "\u00e9"),
        ("\u0627\u0031\u0628", "\u0627\u0031\u0628"),
        ("\U0002f868", "\u36fc"),  # of a newer Unicode than that of stringprep
    ],
)
def test_saslprep(password, expected):
    assert prepare(password.encode()) == expected.encode()


@pytest.mark.parametrize(
    "password",
    [
        b"a\x07b",  # ASCII is never looked at
        b"a\x7f ",
        "\u00ad".encode(),  # nothing would be left
        "\u00adb\x07".encode(),
        "\u00ad\u0080".encode(),
        "\u00ad\ue000".encode(),
        "\u00ad\ufffe".encode(),
        "\u00ad\ufffd".encode(),
        "\u00ad\u2ff0".encode(),
        "\u00ad\u200f".encode(),
        "\u00ad\U000e0001".encode(),
        "\u00ad\u0221".encode(),
        "\u00ad\U0001f600".encode(),
        "\u00ad\u0627\u0031".encode(),
        "\u00ad\u0031\u0627".encode(),
        "\u00ad\u0627a\u0628".encode(),
        "\u00ad".encode() + b"\xff",
        "\u00e4".encode("latin-1"),
    ],
)
def test_a_password_that_saslprep_forbids_is_taken_as_it_is(password):
    assert prepare(password) == password


def test_no_repr_has_a_key():
    derived = Keys(hashlib.sha256(b"canary").digest(), b"canary")
    assert repr(derived) == "Keys()"
    assert verifier(b"a", SALT).startswith(f"SCRAM-SHA-256${ITERATIONS}:AAECAwQFBgcICQoLDA0ODw==$")
