"""Queries: how expansions are filled in, what the scanner finds, and which tables a query reads in full."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ispmail_query
from ispmail_errors import Fault
from ispmail_query import Findings

FILLED = [
    ("a='%s'", "j@x.org", "a='j@x.org'"),
    ("a='%u' AND b='%d'", "j@x.org", "a='j' AND b='x.org'"),
    ("a='%U' AND b='%S'", "j", "a='j' AND b='j'"),
    ("a='@%d'", "x.org", None),
    ("a='%1.%2'", "j@a.x.org", "a='org.x'"),
    ("a='%3'", "j@x.org", None),
    ("a LIKE '%%%u'", "j@x.org", "a LIKE '%j'"),
    ("a='%s'", "o'h\"m\\", "a='o\\'h\\\"m\\\\'"),
]


@pytest.mark.parametrize(("query", "question", "statement"), FILLED)
def test_expansions(query, question, statement):
    assert ispmail_query.fill(query, question) == statement


@given(st.text("a'\"\\@.%s", max_size=12))
def test_no_question_leaves_its_quotes(question):
    statement = ispmail_query.fill("'%s'", question)
    assert re.fullmatch(r"'(?:[^'\\]|\\.)*'", statement)


def row(table, type_="ALL", possible=None):
    return {"table": table, "type": type_, "possible_keys": possible}


SCANS = [
    ("SELECT 1 FROM t WHERE a='%s'", [row("t")], ["reads all of t for each question: ALTER TABLE t ADD INDEX (a)"]),
    ("SELECT 1 FROM t WHERE '%s' = `a`", [row("t", "index")], ["ADD INDEX (a)"]),
    ("SELECT 1 FROM t WHERE `a` like '%u@%%'", [row("t")], ["ADD INDEX (a)"]),
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
    found = ispmail_query.full_scans(query, plan)
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
    errors = ispmail_query.query_findings(query, "mysql", parameter).errors
    assert bool(errors) == bool(begins) and len(errors) <= 1
    assert all(error.reason.startswith(begins) and error.key == "query" for error in errors)


@given(st.text("%sx'\"`\\;-#/* \n", max_size=14), st.sampled_from(["mysql", "pgsql", "sqlite"]))
def test_no_text_hides_an_expansion(text, table_type):
    """Postfix fills in expansions wherever they stand, whatever is around them."""
    reasons = [error.reason for error in ispmail_query.query_findings(text + "'%s'", table_type).errors]
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
    faults = ispmail_query.format_faults(value)
    assert {fault.key for fault in faults} <= {"result_format"}
    assert all(fault.reason.startswith(reason) for fault, reason in zip(faults, reasons))
    assert len(faults) == len(reasons)


def test_findings_are_put_together():
    one, two = Fault("a", "is wrong"), Fault("b", "is odd")
    assert ispmail_query.all_of([Findings((one,)), Findings((two,), (two,))]) == Findings((one, two), (two,))


def test_probes_are_special_each_in_its_way():
    plain, wide, upper, long = (probe.question for probe in ispmail_query.probes())
    assert plain == ispmail_query.PROBE
    assert max(map(ord, wide)) > 0xFFFF and upper == upper.upper() and len(long) > 500
    for question in (plain, wide, upper, long):
        assert ispmail_query.fill("%s %u %d %1 %9", question) is not None
    assert {probe.question.rpartition("@")[2].lower() for probe in ispmail_query.probes("x.org")} == {"x.org"}


@pytest.mark.parametrize(
    ("query", "tables"),
    [
        ("SELECT a FROM t JOIN `u` ON t.id = u.id JOIN other.v ON v.id = u.id WHERE b='%u'", ["t", "u"]),
        ("SELECT a FROM t WHERE b='%s' UNION SELECT c FROM t WHERE d='%s'", ["t"]),
        ("CALL p('%s')", []),
    ],
)
def test_tables_of_a_query(query, tables):
    assert ispmail_query.tables(query) == tables
