"""The errors of the library, and how faults of pillar are written."""

from typing import NamedTuple

import pytest

import _ispmail_errors
from _ispmail_errors import DatabaseError, Fault, PillarFault, escaped, printable, repr_without

FAULTS = [
    (Fault("database:password", "is missing"), "ispmail:database:password is missing"),
    (Fault("maps", "must be a mapping", "see x"), "ispmail:maps must be a mapping: see x"),
    (Fault("", "must be a mapping", "see x"), "ispmail: must be a mapping: see x"),
]


@pytest.mark.parametrize(("fault", "line"), FAULTS)
def test_a_fault_names_key_reason_and_fix(fault, line):
    assert _ispmail_errors.below("ispmail", [fault]) == [line]


def test_a_fault_of_a_table_is_told_by_the_pillar_key_that_the_value_comes_from():
    fault = Fault("hosts", "is empty", "name one")
    assert fault.at("database:hosts") == Fault("database:hosts", "is empty", "name one")


def test_all_faults_are_listed_once():
    error = PillarFault("x", [Fault("a", "is bad"), Fault("b", "is bad"), Fault("a", "is bad")])
    assert str(error) == "Pillar has errors, nothing was changed:\n- x:a is bad\n- x:b is bad"
    assert [fault.key for fault in error.faults] == ["a", "b"]


def test_a_value_that_is_told_already_is_not_told_again():
    known = [Fault("database:password", "is not in sdb"), Fault("database:hosts:0", "is not in sdb")]
    more = [
        Fault(key, "is missing") for key in ("database:password", "database:hosts", "database:pass", "database:hosts:1")
    ]
    assert [fault.key for fault in _ispmail_errors.besides(known, more)] == [
        "database:password",
        "database:hosts:0",
        "database:pass",
        "database:hosts:1",
    ]


def test_one_tree():
    """The edge turns two branches into Salt's two errors: bad input, and the world said no."""
    assert issubclass(PillarFault, _ispmail_errors.InvalidInput)
    for kind in ("CannotAsk", "ChangedMeanwhile", "NotPutBack", "DatabaseError"):
        assert issubclass(getattr(_ispmail_errors, kind), _ispmail_errors.Failed)
    assert not issubclass(_ispmail_errors.InvalidInput, _ispmail_errors.Failed)


def test_an_error_of_the_database_keeps_the_server_s_number():
    """What to do about it is looked up by that; one that is not the server's has none."""
    error, lost = DatabaseError("access denied", 1045), DatabaseError("no route")
    assert (str(error), error.number) == ("access denied", 1045)
    assert (str(lost), lost.number) == ("no route", 0)


def test_numbers_of_things():
    assert [_ispmail_errors.plural(number, "map") for number in (0, 1, 2)] == ["0 maps", "1 map", "2 maps"]


def test_what_was_done_with_a_number_of_things():
    said = [_ispmail_errors.has_been(number, "set", test=False) for number in (0, 1, 2)]
    assert said == ["have been set", "has been set", "have been set"]
    assert _ispmail_errors.has_been(1, "set", test=True) == "would be set"


def test_an_unforeseen_error_is_named_without_its_text():
    assert _ispmail_errors.kind_of(ValueError("a secret")) == "ValueError"
    assert _ispmail_errors.kind_of(OSError(28, "No space left on device", "/a secret")) == (
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


class Login(NamedTuple):
    user: str
    password: str
    hosts: list[str]


def test_a_value_is_shown_as_python_writes_it_but_for_its_secrets():
    one = Login("mailserver", "hunter2", ["db1"])
    assert repr_without(one, "password") == "Login(user='mailserver', hosts=['db1'])"
    assert repr_without(one, "user", "password") == "Login(hosts=['db1'])"
    assert repr_without(one) == repr(one)
