"""Which tables a value of main.cf reaches, and how ours get into it and out of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import _ispmail_maincf
import _ispmail_reach
from _ispmail_reach import Reference, Wanted

VALUES = {"dir": "/etc/postfix", "own": "mysql:/etc/postfix/a.cf", "both": "mysql:/etc/postfix/a.cf, hash:/x", "no": ""}
VALUES["mail_version"] = "3.11.2"
A, B, C = (f"mysql:/etc/postfix/{name}.cf" for name in "abc")


def real_path(path):
    """Where paths lead: /link is a symbolic link to /etc/postfix."""
    return path.replace("//", "/").replace("/link/", "/etc/postfix/")


def wanted(*tables):
    found = []
    for table in tables:
        reference = _ispmail_reach.references(table, {})[0]
        found.append(Wanted(f"maps:{reference.path[-4]}", table, reference))
    return found


def pointing(value, tables, values=VALUES):
    words = _ispmail_reach.words_of(value, values, real_path)
    return _ispmail_reach.pointing(value, words, wanted(*tables))


def without(value, paths, own=(), values=VALUES):
    values = {**values, "maps": value}
    return _ispmail_reach.without(["maps"], own, {f"/etc/postfix/{name}.cf" for name in paths}, values, real_path)


REFERENCES = [
    ("", []),
    ("hash:/x, ldap:/y", []),
    (A, [("mysql", "/etc/postfix/a.cf", False)]),
    ("proxy:pgsql:$dir/a.cf", [("pgsql", "/etc/postfix/a.cf", True)]),
    ("debug:proxy:mysql:${dir}/a.cf", [("mysql", "/etc/postfix/a.cf", True)]),
    ("unionmap:{mysql:/a, proxy:sqlite:/b}, hash:/c", [("mysql", "/a", False), ("sqlite", "/b", True)]),
    ("pipemap:{unionmap:{mysql:/a,hash:/c}\n mysql:/b}", [("mysql", "/a", False), ("mysql", "/b", False)]),
    ("debug:unionmap:{debug:mysql:/a}", [("mysql", "/a", False)]),
    # Proxymap opens them itself.
    (
        "proxy:unionmap:{mysql:/a, hash:/x, proxy:sqlite:/b} mysql:/a",
        [("mysql", "/a", False, True), ("sqlite", "/b", False, True), ("mysql", "/a", False)],
    ),
    ("unionmap:{proxy:pipemap:{unionmap:{mysql:/a}}}", [("mysql", "/a", False, True)]),
    # Braces that smtpd takes, see check_ccert_access in postconf(5).
    ("permit, Check_ccert_access {mysql:/a,search_order=x} {mysql:/b}", [("mysql", "/a", False)]),
    ("check_ccert_access { proxy:mysql:/a, { search_order = x, y } }, {}", [("mysql", "/a", True)]),
    ("check_ccert_access {unionmap:{mysql:/a}}, check_ccert_access {}", [("mysql", "/a", False)]),
    # Postfix takes none of these: each question is an error.
    (f"{{{A}}}, {{ {A} }}, unionmap:{{{{{A}}}}}, unionmap:{{!{A}}}, UNIONMAP:{{{A}}}, unionmap:{A}, mysql:{{/a}}", []),
    ("check_sender_access mysql:/a, reject, !mysql:/b", [("mysql", "/a", False), ("mysql", "/b", False)]),
    ("${no?{mysql:/a}:{mysql:/b}}", [("mysql", "/b", False)]),
    ("$own $(own)", [("mysql", "/etc/postfix/a.cf", False)] * 2),
    # The obsolete way: the keys of the table stand in main.cf itself.
    ("mysql:alias", [("mysql", "alias", False)]),
    ("xmysql:/a mysql-x:/b", []),
]


@pytest.mark.parametrize("value, found", REFERENCES)
def test_references(value, found):
    assert _ispmail_reach.references(value, VALUES) == [Reference(*each) for each in found]


@pytest.mark.parametrize(
    "value, asked",
    [
        ("mysql:/a, unionmap:{mysql:/b}, proxy:hash:/c, proxy:unionmap:{hash:/x}, $no", []),
        ("proxy:mysql:$dir/a.cf !proxy:proxy:pgsql:/b", ["proxy:mysql:/etc/postfix/a.cf", "proxy:pgsql:/b"]),
        ("proxy:unionmap:{mysql:/a, proxy:mysql:/b}", ["proxy:unionmap:{mysql:/a, proxy:mysql:/b}"]),
        ("unionmap:{proxy:mysql:/a, pipemap:{proxy:mysql:/b}}", ["proxy:mysql:/a", "proxy:mysql:/b"]),
        ("debug:proxy:mysql:/a, proxy:debug:mysql:/b", ["proxy:mysql:/a", "proxy:debug:mysql:/b"]),
        ("check_ccert_access {proxy:mysql:/a, search_order=x}", ["proxy:mysql:/a"]),
    ],
)
def test_what_is_asked_of_proxymap(value, asked):
    """Of braces it was taken that smtpd opens them, and that proxymap has to allow each table in them."""
    assert _ispmail_reach.asked_of_proxymap(value, VALUES) == asked


@pytest.mark.parametrize(
    "release, is_known", [("3.7.11", False), ("3.10.13", False), ("3.11.0", True), ("3.12-20260821", True)]
)
def test_debug_is_a_table_from_the_release_on_that_has_it(release, is_known):
    """Before, it is an unsupported type, and each question an error: it was "in the correct state"."""
    values = {**VALUES, "mail_version": release}
    for value in (f"debug:{A}", f"unionmap:{{debug:{A}}}", f"debug:unionmap:{{{A}}}"):
        assert bool(_ispmail_reach.references(value, values)) is is_known
        assert pointing(value, [A], values) == (value if is_known else f"{value}, {A}", [])
    (proxied, *_) = _ispmail_reach.references(f"proxy:debug:{A}, {A}", values)
    assert proxied.proxied is is_known


# The value, the tables that shall be in it, what it is then.
POINTING = [
    ("", [A], A),
    ("", [A, B], f"{A}, {B}"),
    ("hash:/x", [A], f"hash:/x, {A}"),
    # As it is already: not a byte of it changes.
    (f" hash:/x   {A},{B}", [A, B], f" hash:/x   {A},{B}"),
    (f"{A} hash:/x {B}", [A, B], f"{A} hash:/x {B}"),
    (f"mysql:/etc/postfix/other.cf,{A}", [A], f"mysql:/etc/postfix/other.cf,{A}"),
    # With blanks, where there are no commas.
    ("hash:/x hash:/y", [A], f"hash:/x hash:/y {A}"),
    # In another order, twice, too few, too many.
    (f"{B}, {A}", [A, B], f"{A}, {B}"),
    (f"{A}, {A}", [A], A),
    (f"hash:/x, {A}, hash:/y", [A, B], f"hash:/x, {A}, {B}, hash:/y"),
    (f"hash:/x, {A}, hash:/y, {B}, hash:/z", [B, A], f"hash:/x, {B}, {A}, hash:/y, hash:/z"),
    # The same path by another way.
    (f"hash:/x, proxy:{A}, hash:/y", [A], f"hash:/x, {A}, hash:/y"),
    (f"hash:/x, {A}, hash:/y", [f"proxy:{A}"], f"hash:/x, proxy:{A}, hash:/y"),
    ("pgsql:/etc/postfix/a.cf", [A], A),
    # What is not ours stays, braces and all.
    ("mysql:/etc/postfix/other.cf", [A], f"mysql:/etc/postfix/other.cf, {A}"),
    ("inline:{ {a = b, c} }", [A], f"inline:{{ {{a = b, c}} }}, {A}"),
    ("$alias_maps", [A], f"$alias_maps, {A}"),
    # Another spelling of ours is ours, and stays.
    *(
        (spelling, [A], spelling)
        for spelling in (
            "mysql:$dir/a.cf",
            "mysql:${dir}/a.cf",
            "mysql:$(dir)//a.cf",
            "mysql:/link/a.cf",
            "debug:mysql:$dir/a.cf",
            "$own",
            "${own}",
            "unionmap:{hash:/x, mysql:$dir/a.cf}",
            "${no?{hash:/x}:{mysql:/link/a.cf}}",
        )
    ),
    ("mysql:$dir/a.cf", [A, B], f"mysql:$dir/a.cf, {B}"),
    ("mysql:$dir/a.cf hash:/x", [f"proxy:{A}"], f"proxy:{A}, hash:/x"),
    # Twice by two spellings: one of them is left.
    (f"mysql:$dir/a.cf, {A}", [A], "mysql:$dir/a.cf"),
    ("$own, mysql:$dir/b.cf", [B, A], "$own, mysql:$dir/b.cf"),
    (f"$own, hash:/x, {A}", [A], "$own, hash:/x"),
]


@pytest.mark.parametrize("value, tables, after", POINTING)
def test_pointing(value, tables, after):
    assert pointing(value, tables) == (after, [])


def test_a_negated_table_is_not_ours():
    """It counted as in the correct state, while it says the contrary."""
    _, faults = pointing(f"!{A}", [A])
    assert faults and f"is read as {A} by !{A}" in str(faults[0])


@pytest.mark.parametrize(
    "value, fix",
    [
        ("$own", "give the map parameter: own"),
        ("${own}", "give the map parameter: own"),
        ("unionmap:{mysql:$dir/a.cf, hash:/x}", f"write proxy:{A} there"),
    ],
)
def test_what_another_parameter_or_braces_hold_is_not_changed(value, fix):
    """proxy: true once changed only one of two, and both were asked."""
    _, faults = pointing(value, [f"proxy:{A}"])
    assert [str(fault) for fault in faults] == [f"maps:a is read as {A} by {value} in main.cf: {fix}"]


@pytest.mark.parametrize("table", [A, f"proxy:{A}"])
def test_a_table_inside_of_what_proxymap_opens_is_not_changed(table):
    """It was "in the correct state" as one that smtpd itself opens."""
    value = "proxy:unionmap:{mysql:$dir/a.cf, hash:/x}"
    _, faults = pointing(value, [table])
    assert [str(fault) for fault in faults] == [f"maps:a is read as {A} inside {value} in main.cf: write {table} there"]


_words = st.lists(
    st.sampled_from([A, B, C, f"proxy:{A}", "mysql:$dir/a.cf", "hash:/x", "inline:{ {a = b} }", "$own", "$no"]),
    max_size=6,
)


@given(_words, st.sampled_from([", ", " ", ","]), st.permutations([A, B]))
def test_a_second_apply_finds_nothing_to_do(words, separator, tables):
    """And what is not ours is there, in its order."""
    after, faults = pointing(separator.join(words), tables)
    assert not faults
    assert pointing(after, tables) == (after, [])
    reached = [each.path for each in _ispmail_reach.references(after, VALUES)]
    assert "/etc/postfix/a.cf" in reached and "/etc/postfix/b.cf" in reached
    others = [word for word in words if word in (C, "hash:/x", "inline:{ {a = b} }", "$no")]
    assert [word for word in _ispmail_maincf.words(after) if word in others] == others


WITHOUT = [
    (A, "a", [], {"maps": ""}),
    (f"proxy:{A} hash:/x", "a", [], {"maps": "hash:/x"}),
    (f"hash:/x, {A}, {B}, hash:/y", "ab", [], {"maps": "hash:/x, hash:/y"}),
    (f"{B}, hash:/x", "a", [], {}),
    ("mysql:$dir/a.cf, mysql:/link/a.cf", "a", [], {"maps": ""}),
    ("unionmap:{mysql:$dir/a.cf}", "a", [], {"maps": ""}),
    ("pipemap:{mysql:$dir/a.cf, mysql:/link/b.cf}", "ab", [], {"maps": ""}),
    ("unionmap:{unionmap:{mysql:$dir/a.cf}, mysql:/link/b.cf}", "ab", [], {"maps": ""}),
    ("debug:mysql:$dir/a.cf, proxy:unionmap:{mysql:$dir/a.cf}", "a", [], {"maps": ""}),
    ("check_ccert_access {mysql:$dir/a.cf}", "a", [], {}),
    # Empty braces, and what Postfix does not take: not ours.
    ("unionmap:{}, {mysql:$dir/a.cf}", "a", [], {}),
    # Other tables in the braces: not ours to change.
    ("unionmap:{mysql:$dir/a.cf, hash:/x}", "a", [], {}),
    ("pipemap:{mysql:$dir/a.cf, mysql:/link/b.cf}", "a", [], {}),
    # A parameter of the admin's own goes too, if nothing else refers to it.
    ("$own, hash:/x", "a", ["own"], {"own": "", "maps": "hash:/x"}),
    ("$own", "a", [], {}),
    ("$both", "a", ["both"], {"both": "hash:/x"}),
]


@pytest.mark.parametrize("value, paths, own, after", WITHOUT)
def test_without(value, paths, own, after):
    assert without(value, paths, own) == after


def test_without_by_two_parameters_of_the_admins_own():
    values = {**VALUES, "nest": "$own"}
    assert without("$nest hash:/x", "a", ["own", "nest"], values) == {"own": "", "nest": "", "maps": "hash:/x"}


def test_how_main_cf_writes_a_table():
    assert Reference("mysql", "/a.cf", proxied=False).table == "mysql:/a.cf"
    assert Reference("sqlite", "/a.cf", proxied=True).table == "proxy:sqlite:/a.cf"


def test_a_parameter_that_becomes_empty_late_goes_from_those_before_it():
    """One that refers to it may be looked at first."""
    values = {**VALUES, "nest": "$own"}
    assert without("$nest hash:/x", "a", ["nest", "own"], values) == {"own": "", "nest": "", "maps": "hash:/x"}


def test_a_table_in_braces_behind_a_check_is_named():
    """It is asked, so its file is not removed; but it is not ours to change."""
    values = {**VALUES, "cert": "{mysql:$dir/a.cf, search_order = subject}"}
    for text in ("$cert", values["cert"]):
        _, word = _ispmail_reach.words_of(f"check_ccert_access {text}", values, real_path)
        assert word == (text, (Reference("mysql", "/etc/postfix/a.cf", False),), False, False)


def test_where_tables_are_named():
    """With the word before each, which may be a restriction that the table belongs to."""
    words = _ispmail_reach.words_of(f"check_sender_access {A}, $both", VALUES, real_path)
    places = _ispmail_reach.places("maps", words)
    assert [(place.name, place.word.text, place.before, place.reference.table) for place in places] == [
        ("maps", A, "check_sender_access", A),
        ("maps", "$both", A, A),
    ]
