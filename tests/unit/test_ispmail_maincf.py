"""The values of main.cf parameters: which words they have, and which are the same."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ispmail_maincf

WORDS = [
    ("", []),
    (" ,\t, ", []),
    ("a", ["a"]),
    ("a b,c ,d,\te", ["a", "b", "c", "d", "e"]),
    ("hash:/etc/aliases, $x ${y?a}", ["hash:/etc/aliases", "$x", "${y?a}"]),
    ("inline:{{a = b}}", ["inline:{{a = b}}"]),
    ("inline:{ {a = b, c} }, d", ["inline:{ {a = b, c} }", "d"]),
    ("check_policy_service {inet:a:1, timeout=10s}", ["check_policy_service", "{inet:a:1, timeout=10s}"]),
    ("pipemap:{mysql:/x, mysql:/y}, z", ["pipemap:{mysql:/x, mysql:/y}", "z"]),
    ("{ a { b, { c d } } } e", ["{ a { b, { c d } } }", "e"]),
    ("{a}{b}", ["{a}{b}"]),
    ("} a, b", ["}", "a", "b"]),
    # Only blank, tab, newline, CR and comma separate: CHARS_COMMA_SP of Postfix.
    ("a\xa0b\u2028c\x1cd", ["a\xa0b\u2028c\x1cd"]),
]


@pytest.mark.parametrize("value, words", WORDS)
def test_words(value, words):
    assert ispmail_maincf.words(value) == words


@given(st.text("ab:/ ,{}", max_size=20))
def test_words_lose_nothing(value):
    """What is lost here is lost from an admin's main.cf when a table gets into that parameter."""
    assert re.sub(r"[ ,]", "", "".join(ispmail_maincf.words(value))) == re.sub(r"[ ,]", "", value)


SAME = [
    (None, None, True),
    (None, "", False),
    ("", None, False),
    ("", "", True),
    ("a, b", "a,  b", True),
    ("a\tb\n c", "a b c", True),
    (" a ", "a", True),
    ("a, b", "a b", False),
    ("a b", "b a", False),
    ("a", "A", False),
    ("a b", "ab", False),
    # A blank to Python, a character of the value to Postfix.
    ("a\xa0b", "a b", False),
]


@pytest.mark.parametrize("old, new, same", SAME)
def test_same(old, new, same):
    assert ispmail_maincf.same(old, new) is same
    assert ispmail_maincf.same(new, old) is same


@pytest.mark.parametrize(
    "command, found",
    [
        ("smtpd", {}),
        ("smtpd -v -o a=b -o c=$d,e", {"a": "b", "c": "$d,e"}),
        ("smtpd -o { a = b, c d } -o x={y z}", {"a": "b, c d", "x": "{y z}"}),
        ("pipe flags=F argv=/bin/x -o a=b", {"a": "b"}),
        ("smtpd -o", {}),
    ],
)
def test_overrides(command, found):
    assert ispmail_maincf.overrides(command) == found
