"""References in main.cf values. tests/functional/test_inventory.py asks postconf itself about the same values."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import _ispmail_expand

VALUES = {"own": "mysql:/a.cf", "compatibility_level": "3.6", "empty": "", "chain": "x $own", "circle": "a$circle"}
# A hundred names inside each other, as many as Postfix takes.
VALUES |= {f"deep{number}": f"$deep{number + 1}" for number in range(99)} | {"deep99": "mysql:/deep.cf"}
EXPANDED = [
    ("plain, text", "plain, text"),
    ("$own", "mysql:/a.cf"),
    ("${own}", "mysql:/a.cf"),
    ("$(own)", "mysql:/a.cf"),
    ("${ own }", "mysql:/a.cf"),
    ("$own.cf $own-x", "mysql:/a.cf.cf mysql:/a.cf-x"),
    ("$chain", "x mysql:/a.cf"),
    ("x$$y $$own", "x$y $own"),
    ("\\$own", "\\mysql:/a.cf"),
    ("${own?yes}", "yes"),
    ("${nope?yes}", ""),
    ("${empty:no}", "no"),
    ("${nope:{$own}}", "mysql:/a.cf"),
    ("${own?{y es}:{n o}}", "y es"),
    ("${nope?{y es}:{n o}}", "n o"),
    ("${own ? {x} : {y}}", "x"),
    ("${own?a:b}", "a:b"),
    ("${{ a } == {a} ? {y} : {n}}", "n"),
    ("${{$own } != {$own}?{y}:{n}}", "y"),
    ("${{ 10 } > {9} ? {y}:{n}}", "n"),
    ("${{ 3.6} ==level {3.6} ? {y}:{n}}", "y"),
    ("x${own ? { y }: {n}}z", "x y z"),
    ("x${own ? y}z", "x yz"),
    ("x${empty ? {y}: n}z", "x nz"),
    ("${ { a } == { a } ? {y} : {n} }", "y"),
    ("${own?{${empty:deep}}}", "deep"),
    ("${{$compatibility_level} <level {3.6} ? {lt} : {ge}}", "ge"),
    ("${{2.10} >level {2.9} ? {y}:{n}}", "y"),
    ("${{abc} == {abc} ? {same}:{diff}}", "same"),
    ("${{10} < {9} ? {lt}:{ge}}", "ge"),
    ("${{1} == {01} ? {same}:{diff}}", "same"),
    ("${{b} > {a} ? {y}:{n}}", "y"),
    ("${{$own} != {} ? {set} : {unset}}", "set"),
    ("${{a} == {a}}|${{a} == {b}}", "true|"),
    ("unionmap:{$own, hash:/b}", "unionmap:{mysql:/a.cf, hash:/b}"),
    *(
        (f"${{{{{left}}} {operator} {{{right}}} ? {{y}}:{{n}}}}", "y" if holds else "n")
        for left, right, holding in (
            ("1", "2", ("!=", "<", "<=")),
            ("2", "2", ("==", "<=", ">=")),
            ("3", "2", ("!=", ">", ">=")),
            ("b", "a", ("!=", ">", ">=")),
        )
        for operator in ("==", "!=", "<", "<=", ">", ">=")
        for holds in (operator in holding,)
    ),
    ("${{3} ==level {3.0} ? {y}:{n}}", "y"),
    ("${{3.1} >level {3} ? {y}:{n}}", "y"),
    ("${{3.6.1} >level {3.6.0} ? {y}:{n}}", "y"),
    ("${{3} ==level {3.0.0} ? {y}:{n}}", "y"),
    ("x${own:no}", "x"),
    ("${{10} < {9a} ? {lt}:{ge}}", "lt"),
    ("${{9a} > {10} ? {gt}:{le}}", "gt"),
    ("${{\u00b2} < {1} ? {lt}:{ge}}", "ge"),
    ("$deep0", "mysql:/deep.cf"),
]
REFERRED = {"a": "x $b", "b": "${c?y}", "c": "$a", "submission/inet/a": "$d", "e": "$f"}


@pytest.mark.parametrize("names, found", [("a", "abcd"), ("b", "abcd"), ("e", "ef"), ("d", "d"), ("", "")])
def test_what_parameters_refer_to(names, found):
    """At any depth, in a circle, and in options of master.cf."""
    assert _ispmail_expand.referred(names, REFERRED) == set(found)


# What Postfix refuses; nothing is known of it.
REFUSED = ["${own", "$", "a $ b", "$ own", "$\u00e9"]


@pytest.mark.parametrize("text, expanded", EXPANDED)
def test_expand(text, expanded):
    assert _ispmail_expand.expand(text, VALUES) == expanded


@pytest.mark.parametrize("text", REFUSED)
def test_what_postfix_refuses_stays(text):
    assert _ispmail_expand.expand(text, VALUES) == text


@given(st.text("$({?:})own=<level 1", max_size=30))
def test_no_text_breaks_it(text):
    _ispmail_expand.expand(text, VALUES)


def test_a_function_of_postfix_3_11():
    values = {"a": "example.org", "b": "$a"}
    assert _ispmail_expand.expand("mysql:/etc/${domain_to_ascii{$b}}.cf", values) == "mysql:/etc/example.org.cf"
    assert _ispmail_expand.expand("${domain_to_utf8{x.$a}} $a", values) == "x.example.org example.org"


def test_a_circle_ends():
    """And so does what Postfix refuses for its depth, or an admin for its length: what is left stays as it is."""
    assert _ispmail_expand.expand("$circle", VALUES) == "a" * 100 + "$circle"
    assert _ispmail_expand.expand("$more", {**VALUES, "more": "$deep0"}) == "$deep99"
    assert _ispmail_expand.expand("$$" * 10_001, {}) == "$" * 10_000 + "$$"


@pytest.mark.parametrize("text", ["$({own)", "${{a} ~ {a}}", "${{a}}", "${nope?{a} {b}}"])
def test_a_reference_that_postfix_refuses_for_what_is_in_it_has_no_value(text):
    assert _ispmail_expand.expand(f"x{text}y", VALUES) == "xy"


def test_a_number_that_postfix_refuses_breaks_nothing():
    """Python reads no number of so many digits."""
    number = "9" * 5000
    assert _ispmail_expand.expand(f"${{{{{number}}} == {{1}} ? {{y}}:{{n}}}}", {}) == "n"
    assert _ispmail_expand.expand(f"${{{{{number}}} >level {{1}} ? {{y}}:{{n}}}}", {}) == "y"


@pytest.mark.parametrize(
    "text, names",
    [("$a ${b} $(c) ${d?{$e}}", ["a", "b", "c", "d", "e"]), ("x", []), ("${ f }", ["f"]), ("$~x ${~x}", [])],
)
def test_names_in(text, names):
    assert _ispmail_expand.names_in(text) == names


@pytest.mark.parametrize("word, name", [("$a", "a"), ("${a}", "a"), ("$(a)", "a"), ("x$a", None), ("${a?b}", None)])
def test_sole_name(word, name):
    assert _ispmail_expand.sole_name(word) == name


@pytest.mark.parametrize(
    "values", [{"a": "$a$a"}, {f"a{n}": f"$a{n + 1}$a{n + 1}" for n in range(40)}, {"a": "$b$b", "b": "${a?{$a$a}}"}]
)
def test_values_that_double_end(values):
    """Each value twice, thirty values deep, was a thousand million values."""
    assert set(_ispmail_expand.expand(f"${min(values)}", values)) <= set("$ab{}?0123456789")
