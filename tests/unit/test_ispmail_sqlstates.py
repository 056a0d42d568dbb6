"""What SQLSTATEs mean to an admin."""

import pytest

from _ispmail_sqlstates import LOCK_NOT_AVAILABLE, REFUSALS, UNPROVEN, WRONG_PASSWORD, stated

# See "PostgreSQL Error Codes" in its manual: each to a word of what it means.
KNOWN = {
    "28P01": "user and password",
    "28000": "pg_hba.conf",
    "3D000": "dbname",
    "3F000": "search_path",
    "42501": "ADMIN OPTION",
    "42P01": "table does not exist",
    "42703": "column of the query does not exist",
    "42601": "does not understand the statement",
    "42883": "no such function",
    "22021": "encoding of the map",
    "22P05": "encoding UTF8",
    "21000": "more than one row",
    "53300": "CONNECTION LIMIT",
    "53100": "disk is full",
    "53200": "out of memory",
    "55P03": "pg_locks",
    "55006": "in use",
    "57014": "statement_timeout",
    "2BP01": "DROP OWNED",
    "42710": "exists already",
    "42P04": "database exists already",
    "23505": "duplicates",
    "23503": "domain that does not exist",
    "57P01": "ended the connection",
    "57P02": "crashed",
    "57P03": "starting up or shutting down",
    "57P05": "idle_session_timeout",
    "25006": "read-only replica",
    "0LP01": "may not grant that",
}


@pytest.mark.parametrize("state", KNOWN)
def test_each_is_told_with_what_it_means(state):
    error = stated(state)
    assert error.number == state
    assert str(error).startswith(f"error {state}: ") and KNOWN[state] in str(error)


def test_those_that_others_tell_apart():
    assert (WRONG_PASSWORD, REFUSALS, LOCK_NOT_AVAILABLE) == ("28P01", ("28P01", "28000"), "55P03")
    # What our own client says is no SQLSTATE, which have five characters.
    assert len(UNPROVEN) > 5


def test_one_that_nobody_knows():
    assert str(stated("XX000")).startswith("error XX000: see that SQLSTATE in the server's manual")


@pytest.mark.parametrize("state", ["", "28p01", "28P0", "28P01\n", "28P011"])
def test_what_is_none(state):
    """The server may have sent anything."""
    error = stated(state)
    assert (str(error).partition(":")[0], error.number) == ("an unreadable answer", 0)
