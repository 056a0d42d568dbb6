"""Queries: how expansions are filled in, what the scanner finds, and which tables a query reads in full."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

import _ispmail_query
from _ispmail_errors import Fault
from _ispmail_query import Findings

FILLED = [
    ("a='%s'", "j@x.org", "a='j@x.org'"),
    ("a='%u' AND b='%d'", "j@x.org", "a='j' AND b='x.org'"),
    ("a='%U' AND b='%S'", "j", "a='j' AND b='j'"),
    ("a='@%d'", "x.org", None),
    ("a='%1.%2'", "j@a.x.org", "a='org.x'"),
    ("a='%3'", "j@x.org", None),
    ("a='%3.%2'", "a.x.org", "a='a.x'"),
    ("a='%3'", "j.h@x.org", None),
    ("a LIKE '%%%u'", "j@x.org", "a LIKE '%j'"),
    # In every sql_mode a doubled quote is one: a backslash before it would end the string in NO_BACKSLASH_ESCAPES.
    ("a='%s'", "o'h\"m\\", "a='o''h\\\"m\\\\'"),
]


@pytest.mark.parametrize(("query", "question", "statement"), FILLED)
def test_expansions(query, question, statement):
    assert _ispmail_query.fill(query, question) == statement


def test_what_is_no_expansion_stays_as_it_is():
    """Live files may have one, although it is fatal to Postfix: the doctor reads them too."""
    for letter in map(chr, range(0x20, 0x7F)):
        if letter not in "sudSUD123456789%":
            assert _ispmail_query.fill(f"a='%{letter}%s'", "j@x.org") == f"a='%{letter}j@x.org'"


@given(st.text("a'\"\\@.%s", max_size=12))
def test_no_question_leaves_its_quotes(question):
    statement = _ispmail_query.fill("'%s'", question)
    assert re.fullmatch(r"'(?:[^'\\]|\\.|'')*'", statement)


def row(table, type_="ALL", possible=None):
    return {"table": table, "type": type_, "possible_keys": possible}


SCANS = [
    ("SELECT 1 FROM t WHERE a='%s'", [row("t")], ["reads all of t for each question: ALTER TABLE t ADD INDEX (a)"]),
    ("SELECT 1 FROM t WHERE '%s' = `a`", [row("t", "index")], ["ADD INDEX (a)"]),
    ("SELECT 1 FROM t WHERE `a` like '%u@%%'", [row("t")], ["ADD INDEX (a)"]),
    # A percent sign is no expansion, whatever follows it.
    *(
        (f"SELECT 1 FROM t WHERE b LIKE '{text}' AND a='%%%s'", [row("t")], ["ADD INDEX (a)"])
        for text in ("%%s", "x%%~", "%%%%u", "%~")
    ),
    ("SELECT 1 FROM t AS x WHERE x.a='%s'", [row("x")], ["ALTER TABLE t ADD INDEX (a)"]),
    ("SELECT 1 FROM t x JOIN v ON x.i=v.i WHERE v.a='%u'", [row("x")], ["reads all of t", "has an index"]),
    ("SELECT 1 FROM t JOIN v ON t.i=v.i WHERE v.b='%s' AND t.a='%u'", [row("t"), row("v", "ref", "b")], ["INDEX (a)"]),
    ("SELECT 1 FROM t WHERE lower(a)='%s'", [row("t")], ["compare a column that has an index"]),
    ("SELECT 1 FROM t WHERE a='%s'", [row("t", "ALL", "a")], []),
    ("SELECT 1 FROM t WHERE a='%s'", [row("t", "ref", "a")], []),
    ("SELECT 1 FROM t WHERE a='%s'", [row(None, None)], []),
    ("SELECT 1 FROM t WHERE a='%s'", [row("<derived2>")], []),
]


@pytest.mark.parametrize(("query", "plan", "said"), SCANS)
def test_full_scans(query, plan, said):
    found = _ispmail_query.full_scans(query, plan)
    assert bool(found) == bool(said) and len(found) <= 1
    assert all(text in found[0] for text in said)


# A parameter, a query, and the expansions for which Postfix asks no bare domain. Queries of all kinds are in
# test_ispmail_tablefile.py, which finds their faults through validate().
BARE = [
    *(
        (parameter, "SELECT 1 FROM t WHERE a='%d' AND b='%1%1'", "has %1, %d,")
        for parameter in ("virtual_mailbox_domains", "virtual_alias_domains", "relay_domains", "mydestination")
    ),
    ("relay_domains", "SELECT 1 FROM t WHERE a='%u' AND b='%S'", None),
    ("virtual_alias_maps", "SELECT 1 FROM t WHERE a='%d'", None),
    (None, "SELECT 1 FROM t WHERE a='%d'", None),
]


@pytest.mark.parametrize(("parameter", "query", "begins"), BARE)
def test_a_bare_domain_has_no_domain_part(parameter, query, begins):
    errors = _ispmail_query.query_findings(query, "mysql", parameter).errors
    assert bool(errors) == bool(begins) and len(errors) <= 1
    assert all(error.reason.startswith(begins) and error.key == "query" for error in errors)


@given(st.text("%sx'\"`\\;-#/* \n", max_size=14), st.sampled_from(["mysql", "pgsql", "sqlite"]))
def test_no_text_hides_an_expansion(text, table_type):
    """Postfix fills in expansions wherever they stand, whatever is around them."""
    reasons = [error.reason for error in _ispmail_query.query_findings(text + "'%s'", table_type).errors]
    assert not any(reason.startswith("has no expansion") for reason in reasons)


FORMATS = [
    ("%s", []),
    ("%u@%d:%%", []),
    ("", ["is empty, so every answer is empty, which means not found"]),
    ("'%s'", ["has quotes around it, which would be part of the answer"]),
    ("'a\n'", ["has quotes around it, which would be part of the answer"]),
    ("'%x'", ["has a % that is no expansion, which is fatal to Postfix", "has quotes around it, which would be"]),
]


@pytest.mark.parametrize(("value", "reasons"), FORMATS)
def test_formats(value, reasons):
    faults = _ispmail_query.format_faults(value)
    assert {fault.key for fault in faults} <= {"result_format"}
    assert all(fault.reason.startswith(reason) for fault, reason in zip(faults, reasons))
    assert len(faults) == len(reasons)


def test_findings_are_put_together():
    one, two = Fault("a", "is wrong"), Fault("b", "is odd")
    assert _ispmail_query.all_of([Findings((one,)), Findings((two,), (two,))]) == Findings((one, two), (two,))


def test_probes_are_special_each_in_its_way():
    plain, wide, upper, long, special = (probe.question for probe in _ispmail_query.probes())
    assert plain == _ispmail_query.PROBE
    # A name that a mail may come from, in a domain that RFC 2606 gives to nobody.
    assert re.fullmatch(r"([a-z]+\.)+invalid", plain.rpartition("@")[2])
    assert max(map(ord, wide)) > 0xFFFF and upper == upper.upper() and len(long) > 500
    assert set("'\"([*?{\\") < set(special)
    for question in (plain, wide, upper, long, special):
        assert _ispmail_query.fill("%s %u %d %1 %9", question) is not None
    assert {probe.question.rpartition("@")[2].lower() for probe in _ispmail_query.probes("x.org")} == {"x.org"}


@pytest.mark.parametrize(
    ("query", "tables"),
    [
        ("SELECT a FROM t JOIN `u` ON t.id = u.id JOIN other.v ON v.id = u.id WHERE b='%u'", ["t", "u"]),
        ("SELECT a FROM t WHERE b='%s' UNION SELECT c FROM t WHERE d='%s'", ["t"]),
        ("SELECT a FROM t AS x, u y , `v`, other.w WHERE x.id = y.id AND b='%s' ORDER BY a, c", ["t", "u", "v"]),
        ("SELECT a FROM (SELECT b FROM u, v) AS w WHERE a IN (SELECT c FROM t) LIMIT 1, 2", ["u", "v", "t"]),
        ("SELECT a FROM t\nLEFT JOIN u USING (id) WHERE b='%s'", ["t", "u"]),
        ("CALL p('%s')", []),
    ],
)
def test_tables_of_a_query(query, tables):
    assert _ispmail_query.tables(query) == tables


OUTSIDE, COMMENT, TWO = (
    "has an expansion outside quotes",
    "has an expansion inside an SQL comment",
    "has a second state",
)
OPEN, AMBIGUOUS, E_STRING = (
    "has a quote or comment that",
    "has a quote or a comment inside",
    "has an expansion in an E'",
)
NO_QUERY, BACKSLASH, CARRIAGE = "is not a query that reads", "has a backslash before an", "has a carriage return"
DOUBLE = "has an expansion in double quotes, which "
# Database, what stands behind `SELECT `, and the beginnings of all errors, in their order.
ERRORS = [
    ("mysql", "a FROM t WHERE b='%s'", []),
    ("mysql", "a FROM t WHERE b=%s", [OUTSIDE]),
    ("mysql", "a FROM t WHERE b=`%s`", [OUTSIDE]),
    ("sqlite", "a FROM t WHERE b=[%s]", [OUTSIDE]),
    ("sqlite", "a FROM [t'] WHERE b='%s'", []),
    ("pgsql", "a FROM t WHERE b=$$%s$$", [OUTSIDE]),
    ("pgsql", "a FROM t WHERE b=$x$'%s'$x$", [OUTSIDE]),
    ("mysql", "a /* %s */", [COMMENT]),
    ("mysql", "a -- %s\n", [COMMENT]),
    ("mysql", "a # %s\n", [COMMENT]),
    ("mysql", "a /*! '%s' */", [COMMENT, AMBIGUOUS]),
    ("mysql", "a /*!50000 %s */", [COMMENT]),
    ("mysql", "a /*M! %s */", [COMMENT]),
    ("sqlite", "a /*! ' */ WHERE b='%s'", []),
    # Behind the comment all is as before it.
    *((kind, "a -- '\n WHERE b='%s'", []) for kind in ("mysql", "pgsql", "sqlite")),
    *((kind, "a /* ' */ WHERE b='%s'", []) for kind in ("mysql", "pgsql", "sqlite")),
    ("mysql", "a # '\n WHERE b='%s'", []),
    ("pgsql", "a # b WHERE b='%s'", []),
    # MySQL wants a blank behind the two hyphens.
    ("mysql", "a --'%s'", []),
    ("sqlite", "a --'%s'\n", [COMMENT]),
    ("pgsql", "a /* /* */ %s */", [COMMENT]),
    ("mysql", "a /* /* */ = '%s'", []),
    ("pgsql", "a /* /* */ = '%s'", [COMMENT, OPEN]),
    ("pgsql", 'a FROM t WHERE b="%s"', [f"{DOUBLE}name a column"]),
    ("sqlite", 'a FROM t WHERE b="%s"', [f"{DOUBLE}Postfix does not escape"]),
    ("mysql", 'a FROM t WHERE b="%s"', []),
    *(("pgsql", f"a FROM t WHERE b={mark}%s'", [E_STRING]) for mark in ("E'", "e'", "U&'", "u&'")),
    ("pgsql", "a FROM t WHERE b=E'\\'' AND c='%s'", []),
    ("pgsql", "a FROM t WHERE b=nameE'%s'", []),
    # Behind each character of an operator, E'…' is a string with escapes.
    *(("pgsql", f"a FROM t WHERE b {mark}E'%s'", [E_STRING]) for mark in "+-*/<>=~!@#^&|?(,"),
    ("pgsql", "a FROM U&\"t\" WHERE b='%s'", []),
    ("pgsql", "a FROM u&\"t'\" WHERE b='%s'", []),
    ("mysql", "a FROM t WHERE b='\\%s'", [BACKSLASH]),
    ("pgsql", "a FROM t WHERE b=E'\\%s'", [E_STRING, BACKSLASH]),
    ("mysql", "a FROM t WHERE b='\\'%s'", []),
    ("mysql", 'a FROM t WHERE b="\\"%s"', []),
    ("mysql", "a FROM t WHERE b='\\\\%s'", []),
    ("sqlite", "a FROM t WHERE b='\\%s'", []),
    ("mysql", "a FROM t WHERE b='%s'; ", []),
    ("mysql", "a FROM t WHERE b='%s'; -- x\n /* y */ ;", []),
    ("mysql", "a FROM t WHERE b='%s'; DROP TABLE t", [TWO]),
    ("mysql", "a FROM t WHERE b='%s'; SELECT '%u'", [TWO]),
    ("mysql", "a FROM t WHERE b='%s", [OPEN]),
    ("mysql", "a FROM t WHERE b='%s' /* x", [OPEN]),
    ("mysql", "a FROM t WHERE b='%s' -- x", []),
    ("pgsql", "a FROM t\r WHERE b='%s'", [CARRIAGE]),
    ("pgsql", "a -- b\r WHERE b='%s'", [CARRIAGE]),
    ("mysql", "a FROM t\r WHERE b='%s'", []),
    ("mysql", "a FROM t WHERE b='x'", ["has no expansion"]),
    ("mysql", "a FROM t WHERE b='%s%%%x'", ["has a % that is no expansion"]),
]


@pytest.mark.parametrize(("kind", "query", "begins"), ERRORS)
def test_all_errors_of_a_query(kind, query, begins):
    """Each is told, and none that is not there."""
    errors = _ispmail_query.query_findings(f"SELECT {query}", kind).errors
    reasons = [error.reason for error in errors]
    assert len(reasons) == len(begins), reasons
    assert all(reason.startswith(begin) for reason, begin in zip(reasons, begins)), reasons
    assert {error.key for error in errors} <= {"query"}


# All characters of ASCII but NUL, and two that are none.
CHARACTERS = [*map(chr, range(1, 0x80)), "\x80", "é"]


@pytest.mark.parametrize("kind", ["mysql", "pgsql", "sqlite"])
def test_a_comment_ends_at_the_end_of_its_line_only(kind):
    line_ends = "\n\r" if kind == "pgsql" else "\n"
    for letter in CHARACTERS:
        errors = _ispmail_query.query_findings(f"SELECT a -- {letter} '%s'\n = '%s'", kind).errors
        assert any(error.reason == COMMENT for error in errors) is (letter not in line_ends), ascii(letter)


@pytest.mark.parametrize("kind", ["mysql", "pgsql", "sqlite"])
def test_all_but_blanks_and_comments_is_a_second_statement(kind):
    for letter in CHARACTERS:
        errors = _ispmail_query.query_findings(f"SELECT '%s';{letter}", kind).errors
        harmless = " \t\n\v\f\r;#" if kind == "mysql" else " \t\n\v\f\r;"
        assert any(error.reason.startswith(TWO) for error in errors) is (letter not in harmless), ascii(letter)


# What may stand around a part of a query, for a database.
AROUND = [
    *((kind, left, right) for kind in ("mysql", "pgsql", "sqlite") for left, right in ("''", '""', ("/*", "*/"))),
    *((kind, "", "") for kind in ("mysql", "pgsql", "sqlite")),
    *((kind, "-- ", "\n") for kind in ("mysql", "pgsql", "sqlite")),
    *(("pgsql", left, left[-1]) for left in ("E'", "e'", "U&'", "u&'", 'U&"', 'u&"')),
    *(("pgsql", "$$", "$$"), ("pgsql", "$x$", "$x$"), ("sqlite", "[", "]")),
    *(
        ("mysql", "`", "`"),
        ("sqlite", "`", "`"),
        ("mysql", "# ", "\n"),
        ("mysql", "/*!", "*/"),
        ("mysql", "/*M!", "*/"),
    ),
]


@pytest.mark.parametrize(("kind", "left", "right"), AROUND)
def test_a_percent_sign_counts_wherever_it_stands(kind, left, right):
    """Postfix fills in a query before any server sees a quote or a comment of it, and one such sign is fatal to it."""
    for text, fatal in (("x% y", True), ("x%% y", False), ("x%%% y", True)):
        errors = _ispmail_query.query_findings(f"SELECT a {left}{text}{right} = '%s'", kind).errors
        assert any(error.reason == _ispmail_query._NO_EXPANSION for error in errors) is fatal, text


@pytest.mark.parametrize(
    ("kind", "before", "reads"),
    [
        ("mysql", "", True),
        ("mysql", " \n((", True),
        ("mysql", "/* a */", True),
        ("mysql", "/**/", True),
        ("mysql", "/* /* */", True),
        ("pgsql", "/* /* */", False),
        ("pgsql", "/* /* */ */ ", True),
        ("sqlite", "/* /* */", True),
        ("mysql", "/*! a */", False),
        ("mysql", "/*M! a */", False),
        ("mysql", "/* a", False),
        ("mysql", "x", False),
        ("mysql", "'", False),
    ],
)
def test_a_query_that_reads(kind, before, reads):
    for verb in ("SELECT", "select", "WITH", "CALL", "VALUES", "TABLE"):
        errors = _ispmail_query.query_findings(f"{before}{verb} '%s'", kind).errors
        assert any(error.reason.startswith(NO_QUERY) for error in errors) is not reads
    assert any(error.reason.startswith(NO_QUERY) for error in _ispmail_query.query_findings(before, kind).errors)
    for verb in ("INSERT", "SELECTED", ""):
        errors = _ispmail_query.query_findings(f"{before}{verb} '%s'", kind).errors
        assert any(error.reason.startswith(NO_QUERY) for error in errors)


def test_which_letters_are_expansions():
    """See mysql_table(5): any other one behind a % is fatal to Postfix."""
    for number in range(0x20, 0x7F):
        letter = chr(number)
        errors = _ispmail_query.query_findings(f"SELECT '%s%{letter}'", "mysql").errors
        fatal = any(error.reason.startswith("has a % that is no expansion") for error in errors)
        assert fatal is (letter not in "sudSUD123456789%"), letter
        assert bool(_ispmail_query.format_faults(f"%{letter}")) is fatal, letter
        # A backslash escapes what an expansion begins with, and is nothing before another percent sign.
        errors = _ispmail_query.query_findings(f"SELECT '%s\\%{letter}'", "mysql").errors
        assert any(error.reason.startswith(BACKSLASH) for error in errors) is (not fatal and letter != "%"), letter


WARNINGS = [
    ("mysql", "SELECT '%s'", []),
    ("mysql", 'SELECT "%s"', ["has an expansion in double quotes, which fails"]),
    ("mysql", "SELECT \"x\" = '%s'", []),
    ("mysql", "SELECT '%s' -- x", ["has a -- or # comment"]),
    ("mysql", "SELECT '%s' # x", ["has a -- or # comment"]),
    ("pgsql", "SELECT '%s' # x", []),
    ("mysql", "SELECT '%s' /* x */", []),
    *(
        ("mysql", f"SELECT a FROM t WHERE {condition}", ["has an expansion in a regular expression"])
        for condition in (
            "b REGEXP '^%s$'",
            "b NOT regexp '%u'",
            "b RLIKE CONCAT('^', '%u', '(x|y)?@', CONCAT('', '%d'))",
            "b\nREGEXP\n\n'%s'",
            "(b REGEXP ('%s')) AND c=1",
            "REGEXP_LIKE(b, '%s')",
            "REGEXP_REPLACE (b, CONCAT('%u', 'x'), 'c') = 1",
            "b REGEXP 'x' AND b REGEXP '%s'",
            "b IN (SELECT c FROM u WHERE d REGEXP '%s')",
            "b REGEXP /* ' */ '%s'",
            "b REGEXP /*! '%s' */",
        )
    ),
    *(
        ("mysql", f"SELECT a FROM t WHERE {condition}", [])
        for condition in (
            # The address is compared with an expression of the table's own.
            "'%s' REGEXP b",
            "b REGEXP 'x' && c='%s'",
            "'%s' REGEXP CONCAT('^', b) AND c=1",
            "REGEXP_LIKE('%s', b)",
            "REGEXP_REPLACE(b, 'x', '%s') = c",
            "b REGEXP '^x' AND c='%s'",
            "b REGEXP '^x' OR c='%s'",
            "(b REGEXP '^x') = '%s'",
            "b='%s' ORDER BY c REGEXP 'x', d",
            "b='REGEXP' AND c='%s'",
            "`regexp` = '%s'",
            "b=~c AND d='%s'",
            "b=~'%s'",
            "regexp_c = '%s'",
            "b='%s' /* c REGEXP ' */ /* ' */",
            "b REGEXP 'x', '%s'",
            "b='%s' /* REGEXP '%s' */",
        )
    ),
    *(
        ("pgsql", f"SELECT a FROM t WHERE {condition}", ["has an expansion in a regular expression"])
        for condition in ("b ~ '%s'", "b ~* '%s'", "b !~ '%s'", "b !~* ('^' || '%u')", "b SIMILAR  TO '%s'")
    ),
    *(
        ("pgsql", f"SELECT a FROM t WHERE {condition}", [])
        for condition in (
            "b ~~ '%s'",
            "b ~~* '%s'",
            "'%s' ~ b",
            "similar = '%s'",
            "b LIKE '%s'",
            "/* /* ~ */ */ '%s'",
            "/* ~ /* x */ */ '%s'",
            "b = 'x~' || '%s'",
        )
    ),
    ("mysql", "(SELECT b REGEXP 'x') = '%s'", []),
    ("sqlite", "SELECT a FROM t WHERE b REGEXP '%s'", ["has an expansion in a regular expression"]),
    ("sqlite", "SELECT ~a FROM t WHERE b='%s'", []),
]


@pytest.mark.parametrize(("kind", "query", "begins"), WARNINGS)
def test_what_is_doubtful_in_a_query(kind, query, begins):
    warnings = _ispmail_query.query_findings(query, kind).warnings
    reasons = [warning.reason for warning in warnings]
    assert {warning.key for warning in warnings} <= {"query"}
    assert len(reasons) == len(begins) and all(map(str.startswith, reasons, begins))


def test_the_questions_of_a_probe():
    """Nobody has them, and each is what it says."""
    questions = {probe.kind: probe.question for probe in _ispmail_query.probes("x.org")}
    assert questions == {
        "a plain address": "probe@x.org",
        "an address with a 4-byte character": "probe\U0001f602@x.org",
        "an address in upper case": "PROBE@X.ORG",
        "a long address": f"{'probe' * 100}@x.org",
        "an address with special characters": "probe'\"([*?{\\@x.org",
    }


def test_what_stands_before_a_query_is_read_from_its_first_character():
    assert _ispmail_query.query_findings("/* ' */ SELECT '%s'", "mysql").errors == ()
    assert [error.reason[:7] for error in _ispmail_query.query_findings("'%s'", "mysql").errors] == ["is not "]


ALIASES = "SELECT destination FROM virtual_aliases WHERE source='%s'"


def test_the_plan_of_a_postgresql_is_searched_in_full():
    scan = {"Node Type": "Seq Scan", "Relation Name": "virtual_aliases"}
    by_index = {"Node Type": "Index Scan", "Relation Name": "virtual_aliases"}
    sentence = "reads all of virtual_aliases for each question: CREATE INDEX ON virtual_aliases (source)"
    assert _ispmail_query.sequential_scans(ALIASES, [{"Plan": by_index}]) == []
    assert _ispmail_query.sequential_scans(ALIASES, [{"Plan": scan}]) == [sentence]
    assert _ispmail_query.sequential_scans(ALIASES, [{"Plan": {**by_index, "Plans": [by_index, scan, scan]}}]) == [
        sentence
    ]
    other = "SELECT 1 FROM a WHERE lower(b)='%s'"
    assert _ispmail_query.sequential_scans(other, [{"Plan": {**scan, "Relation Name": "a"}}]) == [
        "reads all of a for each question: compare a column that has an index"
    ]


@pytest.mark.parametrize(
    ("query", "columns"),
    [
        (ALIASES, ["source"]),
        ("SELECT 1 FROM a WHERE b='%s' OR a.c='%d' OR b='%u'", ["b", "c"]),
        ("SELECT 1 FROM a WHERE lower(b)='%s'", []),
        ("SELECT 1 FROM a JOIN b ON a.c=b.c WHERE d='%s'", []),
        ("SELECT 1 FROM a, b WHERE d='%s'", []),
        ("SELECT 1 FROM a WHERE b='%s' UNION SELECT 1 FROM a WHERE c='%s'", []),
    ],
)
def test_columns_that_are_compared_as_they_are(query, columns):
    assert _ispmail_query.compared_columns(query) == columns
