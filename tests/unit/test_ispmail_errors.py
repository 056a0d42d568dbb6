"""The errors of the library, and how faults of pillar are written."""

import pytest

import ispmail_errors
from ispmail_errors import Fault, PillarFault, escaped, printable

FAULTS = [
    (Fault("database:password", "is missing"), "ispmail:database:password is missing"),
    (Fault("maps", "must be a mapping", "see x"), "ispmail:maps must be a mapping: see x"),
    (Fault("", "must be a mapping", "see x"), "ispmail: must be a mapping: see x"),
    (Fault("hosts", "is empty").at("database:hosts"), "ispmail:database:hosts is empty"),
]


@pytest.mark.parametrize(("fault", "line"), FAULTS)
def test_a_fault_names_key_reason_and_fix(fault, line):
    assert ispmail_errors.below("ispmail", [fault]) == [line]


def test_all_faults_are_listed_once():
    error = PillarFault("x", [Fault("a", "is bad"), Fault("b", "is bad"), Fault("a", "is bad")])
    assert str(error) == "Pillar has errors, nothing was changed:\n- x:a is bad\n- x:b is bad"
    assert [fault.key for fault in error.faults] == ["a", "b"]


def test_one_tree():
    """The edge turns two branches into Salt's two errors: bad input, and the world said no."""
    assert issubclass(PillarFault, ispmail_errors.InvalidInput)
    for kind in ("CannotAsk", "ChangedMeanwhile", "NotPutBack", "DatabaseError"):
        assert issubclass(getattr(ispmail_errors, kind), ispmail_errors.Failed)
    assert not issubclass(ispmail_errors.InvalidInput, ispmail_errors.Failed)
    assert ispmail_errors.DatabaseError("no", 1045).number == 1045


def test_numbers_of_things():
    assert [ispmail_errors.plural(number, "map") for number in (0, 1, 2)] == ["0 maps", "1 map", "2 maps"]


def test_an_unforeseen_error_is_named_without_its_text():
    assert ispmail_errors.kind_of(ValueError("a secret")) == "ValueError"
    assert ispmail_errors.kind_of(OSError(28, "No space left on device", "/a secret")) == (
        "OSError (No space left on device)"
    )


HOSTILE = "a\nb\x1b[2J\udcff\u202e\x85ü"


def test_what_others_wrote_is_one_line_that_a_terminal_shows():
    assert printable(HOSTILE) == "a b?[2J?? ü"
    assert printable(HOSTILE).encode()


def test_a_path_with_odd_bytes_can_be_told():
    """A file name that is no UTF-8 broke the return of the job."""
    assert escaped(HOSTILE) == "a\\nb\\x1b[2J\\udcff\\u202e\\x85ü"


def test_a_fault_without_a_key_begins_with_its_reason():
    """The pillar key stands before it, without a colon."""
    assert str(Fault("", "is wrong")) == " is wrong" and str(Fault("a", "is wrong", "mend it")) == "a is wrong: mend it"
