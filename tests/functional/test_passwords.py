"""Passwords of every kind, end to end: they work through smtpd, or are refused with the reason."""

import random
import string

import pytest

from lab.mariadb import MariaDB, set_password
from lab.smtp import rcpt

from ..conftest import PASSWORD
from .test_apply import everything, managed

_BLANKS = " \t\n\v\f\r"
# What guide and man pages warn of, each a class of its own.
_CLASSES = {
    "plain": string.ascii_letters + string.digits,
    "punctuation": string.punctuation,
    "hash and semicolon": "#;a",
    "equals and percent": "=%sud1",
    "dollar": "${}()ax",
    "quotes and backslash": "'\"\\`n",
    "inner blanks": " \ta",
    "utf-8": "äß€漢\U0001f512\xa0\x85\u2028",
    "control characters": "\x01\x02\x07\x1b\x7f\x0b\x0c\x1c",
    "newline": "a\n",
    "carriage return": "a\r",
    "nul": "a\0",
    "outer blanks": _BLANKS.replace("\n", "") + "a",
}


def passwords(number):
    """As many from each class, always the same ones."""
    chance = random.Random(20)
    names = list(_CLASSES)
    for at in range(number):
        name = names[at % len(names)]
        yield name, "".join(chance.choices(_CLASSES[name], k=chance.randint(1, 24)))


def refused(password):
    return "\n" in password or "\0" in password or password != password.strip(_BLANKS)


def test_a_hundred_passwords(minion, postfix, mariadb: MariaDB, pillar):
    """None is misread: the account has exactly this password, so that only the right one gets a 250."""
    accepted = 0
    try:
        for name, password in passwords(104):
            minion.pillar = pillar(database={"password": password})
            if refused(password):
                before = everything(postfix)
                result = managed(minion)
                assert result["result"] is False, name
                assert "ispmail:database:password has a" in result["comment"], name
                assert everything(postfix) == before
            else:
                set_password(mariadb, password)
                result = managed(minion)
                assert result["result"] is True, (name, password, result["comment"])
                assert rcpt(postfix.port, "jack@example.org")[0] == 250, (name, password)
                accepted += 1
    finally:
        set_password(mariadb, PASSWORD)
    assert accepted > 50


@pytest.mark.parametrize("password", [123456, 1.5, True, None, ["a"], "*" * 10], ids=str)
def test_what_is_no_text_is_refused(minion, postfix, pillar, password):
    """YAML reads 0123 as 83 and yes as True; Salt 3008 hands ********** to a module that asks in the wrong way."""
    before = everything(postfix)
    minion.pillar = pillar(database={"password": password})
    result = managed(minion)
    assert "ispmail:database:password is " in result["comment"]
    assert password is None or str(password) not in result["comment"].replace("database:password", "")
    assert result["result"] is False
    assert everything(postfix) == before
