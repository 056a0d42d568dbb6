"""What SQLSTATEs mean to an admin."""

import pytest

from _ispmail_sqlstates import LOCK_NOT_AVAILABLE, REFUSALS, stated


@pytest.mark.parametrize("state", [*REFUSALS, "42501", "3D000", LOCK_NOT_AVAILABLE, "53300", "57P03", "25006"])
def test_each_is_told_with_what_to_do(state):
    error = stated(state)
    assert error.number == state
    assert str(error).startswith(f"error {state}: ")
    assert ":" in str(error).partition(": ")[2] and "see that SQLSTATE" not in str(error)


def test_one_that_nobody_knows():
    assert str(stated("XX000")).startswith("error XX000: see that SQLSTATE in the server's manual")


@pytest.mark.parametrize("state", ["", "28p01", "28P0", "28P01\n", "28P011"])
def test_what_is_none(state):
    """The server may have sent anything."""
    error = stated(state)
    assert (str(error).partition(":")[0], error.number) == ("an unreadable answer", 0)
