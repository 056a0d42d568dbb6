"""The table of all servers, and what is said to be wrong."""

import pytest

from _ispmail_status import Answers, is_compared, is_found, reasons, table

GOOD = {"due": False, "faults": [], "applied": 130.0}
WANTED = {"db": {"pillar": {"a": "hash"}}}
USED = {"pillar": {"a": "hash"}, "live": {"a": "hash", "b": "hash"}}
FAULT = {"check": "the login works", "where": "virtual_alias_maps", "result": "fault", "fix": "Access denied"}


def answers(used=USED, compared=GOOD, found=(), wanted=WANTED, version="0.2.0+1f3a5c7e9b02"):
    """Of a database server that is well, and of one mail server."""
    return Answers(
        version={"db": "0.2.0+1f3a5c7e9b02", "mx1": version},
        wanted=wanted,
        used={"mx1": used},
        compared={"mx1": compared},
        found={"db": [], "mx1": list(found)},
    )


def cells(site, server="mx1"):
    """A row of the table, by its head."""
    head, _, *rows = table({"main": site}).splitlines()
    starts = [
        head.index(name) for name in ("site", "server", "version", "maps", "password", "state", "last", "faults", "war")
    ]
    (row,) = [row for row in rows if f" {server} " in f" {row} "]
    return [row[start:end].strip() for start, end in zip(starts, [*starts[1:], None])][2:]


def test_all_is_well():
    site = answers()
    assert cells(site) == ["0.2.0+1f3a5c7e9b02", "2", "as pillar", "correct", "2 min ago", "0", "0"]
    assert cells(site, "db") == ["0.2.0+1f3a5c7e9b02", "", "", "", "", "0", "0"]
    assert reasons({"main": site}) == []


@pytest.mark.parametrize(
    "seconds, shown",
    [
        (None, "not known"),
        (0.4, "0 s ago"),
        (119, "119 s ago"),
        (120, "2 min ago"),
        (7200, "2 h ago"),
        (172_799, "48 h ago"),
        (172_800, "2 d ago"),
    ],
)
def test_when_the_last_apply_was(seconds, shown):
    assert cells(answers(compared={**GOOD, "applied": seconds}))[4] == shown


def test_a_server_that_does_not_answer():
    site = answers(version=None)
    assert cells(site) == ["does not answer", "", "", "", "", "", ""]
    assert reasons({"main": site}) == ["mx1: does not answer"]


def test_a_server_that_answers_no_more_is_told_of_once():
    site = answers(version=None, used=None, compared=None)._replace(found={"db": [], "mx1": None})
    assert reasons({"main": site}) == ["mx1: does not answer"]


def test_the_head():
    head = "site server version maps password state last apply faults warnings"
    assert table({"main": answers()}).splitlines()[0].split() == head.split()


def test_what_a_server_says_is_cut():
    site = answers(version="v" * 5000, found=[{**FAULT, "fix": "x" * 5000}])
    assert len(table({"main": site})) < 5000 and [len(text) for text in reasons({"main": site})] < [2000]


def test_another_password_is_told_of_and_none_is_shown():
    site = answers(used={**USED, "live": {"a": "other"}})
    assert cells(site)[1:3] == ["1", "another"]
    assert reasons({"main": site}) == ["mx1: the table file has another user or password for a, or none"]


@pytest.mark.parametrize("wanted", [{}, {"db": None}, {"db": "pillar is empty"}])
def test_a_password_that_cannot_be_compared_is_neither(wanted):
    assert cells(answers(wanted=wanted))[2] == "not known"


def test_what_a_server_says_in_place_of_an_answer():
    site = answers(used="Pillar has errors", compared=None)
    assert cells(site)[1:5] == ["not known"] * 4
    assert reasons({"main": site}) == ["mx1: Pillar has errors", "mx1: did not answer in time"]


def test_what_an_apply_would_do():
    site = answers(compared={**GOOD, "due": True})
    assert cells(site)[3] == "differs"
    assert reasons({"main": site}) == ["mx1: is not as pillar says: apply ispmail there"]
    site = answers(compared={**GOOD, "due": True, "faults": ["x is wrong"]})
    assert cells(site)[3] == "refused"
    assert reasons({"main": site}) == ["mx1: an apply would be refused: x is wrong"]


def test_what_the_doctor_finds_is_counted_and_its_faults_are_told():
    site = answers(found=[FAULT, {**FAULT, "result": "warning", "fix": "soon"}, {**FAULT, "result": "ok", "fix": ""}])
    assert cells(site)[5:] == ["1", "1"]
    assert reasons({"main": site}) == ["mx1: the login works (virtual_alias_maps): Access denied"]
    site = site._replace(found={"db": [], "mx1": "no"})
    assert cells(site)[5:] == ["not known", "not known"] and reasons({"main": site}) == ["mx1: no"]


@pytest.mark.parametrize("said", [None, [], {}, {**GOOD, "due": 1}, {**GOOD, "faults": "x"}, {**GOOD, "applied": "x"}])
def test_what_is_no_comparison(said):
    assert is_compared(GOOD) and not is_compared(said)


@pytest.mark.parametrize("said", [None, {}, "x", [{}], [{**FAULT, "fix": None}], [FAULT, 1]])
def test_what_is_no_list_of_findings(said):
    assert is_found([FAULT]) and is_found([]) and not is_found(said)
