"""What the doctor says of those that hold the password and that pillar does not name."""

import pytest

import _ispmail_doctor_holders
from _ispmail_errors import CannotAsk, Fault, PillarFault
from _ispmail_holders import FILE, PROGRAM, TABLE, Holder, Holders

FILES = "pillar names all files with the password"
PROGRAMS = "pillar names all programs that are connected"
TABLES = "pillar names all tables of the account"
SEARCHABLE = "files can be searched for the password"


@pytest.fixture
def findings(monkeypatch):
    """A function that gives what the doctor makes of what a search has found."""

    def findings(found):
        monkeypatch.setattr("_ispmail_holders.find", lambda scope: found)
        return [tuple(each) for each in _ispmail_doctor_holders.check(lambda: None)]

    return findings


def test_nobody_holds_it_who_is_not_named(findings):
    here = ("this server", "ok", "")
    assert findings(Holders()) == [(FILES, *here), (PROGRAMS, *here), (TABLES, *here), (SEARCHABLE, *here)]


def test_each_holder_is_a_warning(findings):
    unnamed = [Holder(TABLE, "/t.cf", "the table"), Holder(FILE, "/a", "a holds it"), Holder(FILE, "/b", "b holds it")]
    assert findings(Holders(unnamed=unnamed)) == [
        (FILES, "/a", "warning", "a holds it"),
        (FILES, "/b", "warning", "b holds it"),
        (PROGRAMS, "this server", "ok", ""),
        (TABLES, "/t.cf", "warning", "the table"),
        (SEARCHABLE, "this server", "ok", ""),
    ]
    assert findings(Holders(unnamed=[Holder(PROGRAM, "php", "php is connected")]))[1] == (
        *(PROGRAMS, "php"),
        *("warning", "php is connected"),
    )


def test_passwords_that_cannot_be_searched_for(findings):
    found = findings(Holders(unsearchable=["one is too short", "one is a name"], notes=["x"]))
    assert found[-1] == (SEARCHABLE, "this server", "warning", "one is too short; one is a name")


def test_who_is_connected_could_not_be_told(findings):
    """It was "ok" then."""
    unseen = ["who is connected to db is not known: no answer"] * 2
    assert findings(Holders(unseen=unseen, notes=["x"]))[1] == (PROGRAMS, "this server", "warning", unseen[0])
    both = findings(Holders(unseen=unseen, unnamed=[Holder(PROGRAM, "php", "php is connected")]))
    assert [found[2:] for found in both if found[0] == PROGRAMS] == [
        ("warning", unseen[0]),
        ("warning", "php is connected"),
    ]


def test_what_could_not_be_found_out():
    """That is no reason to say nothing: nobody else reads all that this check needs of pillar."""

    def fail(error):
        raise error

    for error in (PillarFault("ispmail", [Fault("x", "is wrong")]), CannotAsk("no main.cf")):
        (found,) = _ispmail_doctor_holders.check(lambda error=error: fail(error))
        said = f"who else holds the password could not be found out: {error}"
        assert found == (PROGRAMS, "this server", "warning", said)
