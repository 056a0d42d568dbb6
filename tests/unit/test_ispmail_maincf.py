"""The values of main.cf parameters: which words they have, and how tables get into them."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ispmail_maincf

A, B, C = (f"mysql:/etc/postfix/{name}.cf" for name in "abc")
PATHS = {f"/etc/postfix/{name}.cf" for name in "abc"}

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


# The value, the tables that shall be in it, what it is then.
WITH_TABLES = [
    ("", [A], A),
    ("", [A, B], f"{A}, {B}"),
    ("", [], ""),
    ("hash:/x", [A], f"hash:/x, {A}"),
    ("hash:/x", [], "hash:/x"),
    # As it is already: not a byte of it changes.
    (f" hash:/x   {A},{B}", [A, B], f" hash:/x   {A},{B}"),
    (f"{A} hash:/x {B}", [A, B], f"{A} hash:/x {B}"),
    # In another order, twice, too few, too many.
    (f"{B}, {A}", [A, B], f"{A}, {B}"),
    (f"{A}, {A}", [A], A),
    (f"hash:/x, {A}, hash:/y", [A, B], f"hash:/x, {A}, {B}, hash:/y"),
    (f"hash:/x, {A}, hash:/y, {B}, hash:/z", [B, A], f"hash:/x, {B}, {A}, hash:/y, hash:/z"),
    (f"hash:/x, {A}, {C}, hash:/y", [C], f"hash:/x, {C}, hash:/y"),
    # The same path by another way.
    (f"hash:/x, proxy:{A}, hash:/y", [A], f"hash:/x, {A}, hash:/y"),
    (f"hash:/x, {A}, hash:/y", [f"proxy:{A}"], f"hash:/x, proxy:{A}, hash:/y"),
    ("pgsql:/etc/postfix/a.cf", [A], A),
    # Removal.
    (A, [], ""),
    (f"proxy:{A} hash:/x", [], "hash:/x"),
    (f"hash:/x, {A}, {B}, hash:/y", [], "hash:/x, hash:/y"),
    # What is not ours stays, braces and all.
    ("mysql:/etc/postfix/other.cf", [A], f"mysql:/etc/postfix/other.cf, {A}"),
    ("mysql:/srv/a.cf", [A], f"mysql:/srv/a.cf, {A}"),
    ("inline:{ {a = b, c} }", [A], f"inline:{{ {{a = b, c}} }}, {A}"),
    (f"pipemap:{{{A}, {B}}}", [A], f"pipemap:{{{A}, {B}}}, {A}"),
    (f"{{ x {{ y {{ z }} }} }} {A}", [], "{ x { y { z } } }"),
    ("$alias_maps", [A], f"$alias_maps, {A}"),
]


@pytest.mark.parametrize("value, tables, after", WITH_TABLES)
def test_with_tables(value, tables, after):
    assert ispmail_maincf.with_tables(value, tables, PATHS) == after


_words = st.lists(st.sampled_from([A, B, C, f"proxy:{A}", "hash:/x", "hash:/y", "inline:{ {a = b} }"]), max_size=6)


@given(_words, st.sampled_from([", ", " ", ","]), st.permutations([A, f"proxy:{B}"]), st.booleans())
def test_with_tables_is_right_after_once(words, separator, tables, remove):
    """A second apply finds nothing to do; the others are there, in their order."""
    tables = [] if remove else tables
    after = ispmail_maincf.with_tables(separator.join(words), tables, PATHS)
    ours = [word for word in ispmail_maincf.words(after) if ispmail_maincf.path_of(word) in PATHS]
    others = [word for word in words if ispmail_maincf.path_of(word) not in PATHS]
    assert ours == tables
    assert [word for word in ispmail_maincf.words(after) if word not in ours] == others
    assert ispmail_maincf.with_tables(after, tables, PATHS) == after


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
