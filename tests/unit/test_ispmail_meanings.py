"""The numbers of errors: each one is the error that is meant, by the names that PyMySQL and the servers' lists have."""

import pytest
from pymysql.constants import CR, ER

import _ispmail_meanings

# MariaDB's and MySQL's own lists name those that PyMySQL does not.
NAMES = {
    **{number: f"ER_{name}" for name, number in vars(ER).items() if isinstance(number, int)},
    **{number: name for name, number in vars(CR).items() if isinstance(number, int)},
    1524: "ER_PLUGIN_IS_NOT_LOADED",
    1698: "ER_ACCESS_DENIED_NO_PASSWORD_ERROR",
    1709: "ER_INDEX_COLUMN_TOO_LONG",
    1792: "ER_CANT_EXECUTE_IN_READ_ONLY_TRANSACTION",
    1820: "ER_MUST_CHANGE_PASSWORD",
    1832: "ER_FK_COLUMN_CANNOT_CHANGE",
    1833: "ER_FK_COLUMN_CANNOT_CHANGE_CHILD",
    1836: "ER_READ_ONLY_MODE",
    1862: "ER_MUST_CHANGE_PASSWORD_LOGIN",
    2055: "CR_SERVER_LOST_EXTENDED",
    3118: "ER_ACCOUNT_HAS_BEEN_LOCKED of MySQL",
    3780: "ER_FK_INCOMPATIBLE_COLUMNS",
    3878: "ER_EMPTY_PASSWORD_CANNOT_BE_RETAINED",
    4151: "ER_ACCOUNT_HAS_BEEN_LOCKED of MariaDB",
}
MEANINGS = {
    "ER_CANT_CREATE_TABLE": "the tables do not fit together",
    "ER_CON_COUNT_ERROR": "too many connections",
    "ER_DBACCESS_DENIED_ERROR": "access to that database is denied",
    "ER_ACCESS_DENIED_ERROR": "access is denied: check user and password",
    "ER_UNKNOWN_COM_ERROR": "it does not take that command, as a node of a Galera cluster",
    "ER_BAD_DB_ERROR": "there is no such database",
    "ER_BAD_FIELD_ERROR": "a column of the query does not exist",
    "ER_PARSE_ERROR": "it does not understand the statement",
    "ER_TOO_LONG_KEY": "an index is too long",
    "ER_UNKNOWN_CHARACTER_SET": "it does not know that character set",
    "ER_HOST_IS_BLOCKED": "it blocks this host",
    "ER_TABLEACCESS_DENIED_ERROR": "access to that table is denied",
    "ER_NO_SUCH_TABLE": "a table does not exist",
    "ER_TOO_MANY_USER_CONNECTIONS": "the account has too many connections",
    "ER_LOCK_WAIT_TIMEOUT": "another session holds a lock",
    "ER_USER_LIMIT_REACHED": "the account has reached one of its limits",
    "ER_SPECIFIC_ACCESS_DENIED_ERROR": "the admin's account is not allowed to do that",
    "ER_CANT_AGGREGATE_2COLLATIONS": "a column's character set does not hold",
    "ER_CANT_AGGREGATE_3COLLATIONS": "a column's character set does not hold",
    "ER_CANT_AGGREGATE_NCOLLATIONS": "a column's character set does not hold",
    "ER_OPTION_PREVENTS_STATEMENT": "it runs with read_only",
    "ER_VIEW_NO_EXPLAIN": "the account may not read a view's definition",
    "ER_PLUGIN_IS_NOT_LOADED": "it has not loaded the account's login plugin",
    "ER_ACCESS_DENIED_NO_PASSWORD_ERROR": "access is denied: run Salt as root",
    "ER_INDEX_COLUMN_TOO_LONG": "an index is too long",
    "ER_CANT_EXECUTE_IN_READ_ONLY_TRANSACTION": "this session may only read",
    "ER_MUST_CHANGE_PASSWORD": "the account's password has expired",
    "ER_FK_COLUMN_CANNOT_CHANGE": "a foreign key of texts refers to the table",
    "ER_FK_COLUMN_CANNOT_CHANGE_CHILD": "a foreign key of texts refers to the table",
    "ER_READ_ONLY_MODE": "it is a read-only replica",
    "ER_MUST_CHANGE_PASSWORD_LOGIN": "the account's password has expired",
    "CR_CONNECTION_ERROR": "it cannot be reached",
    "CR_CONN_HOST_ERROR": "it cannot be reached",
    "CR_SERVER_GONE_ERROR": "the connection was closed",
    "CR_SERVER_LOST": "it did not answer in time",
    "CR_SSL_CONNECTION_ERROR": "TLS failed",
    "ER_ACCOUNT_HAS_BEEN_LOCKED of MySQL": "the account is locked",
    "ER_FK_INCOMPATIBLE_COLUMNS": "the tables do not fit together",
    "ER_ACCOUNT_HAS_BEEN_LOCKED of MariaDB": "the account is locked",
    "ER_EMPTY_PASSWORD_CANNOT_BE_RETAINED": "an account with an empty password cannot accept a second one",
}


def test_each_number_is_the_error_that_is_meant():
    found = {}
    for number in range(1000, 5000):
        error = _ispmail_meanings.numbered(number)
        assert error.number == number
        if "see that number in the server's manual" not in str(error):
            found[NAMES[number]] = str(error).removeprefix(f"error {number}: ")
    assert set(found) == set(MEANINGS)
    assert [name for name, text in MEANINGS.items() if not found[name].startswith(text)] == []


@pytest.mark.parametrize(
    ("numbers", "names"),
    [
        (
            _ispmail_meanings.REFUSALS,
            {
                *("ER_ACCESS_DENIED_ERROR", "ER_ACCESS_DENIED_NO_PASSWORD_ERROR"),
                *("ER_MUST_CHANGE_PASSWORD", "ER_MUST_CHANGE_PASSWORD_LOGIN"),
                *("ER_ACCOUNT_HAS_BEEN_LOCKED of MySQL", "ER_ACCOUNT_HAS_BEEN_LOCKED of MariaDB"),
            },
        ),
        (_ispmail_meanings.EXPIRED, {"ER_MUST_CHANGE_PASSWORD", "ER_MUST_CHANGE_PASSWORD_LOGIN"}),
        (_ispmail_meanings.LOST_NUMBERS, {"CR_SERVER_GONE_ERROR", "CR_SERVER_LOST", "CR_SERVER_LOST_EXTENDED"}),
    ],
)
def test_a_refusal_is_told_from_a_server_that_is_away(numbers, names):
    """A refused login starts a new apply, a server that is down does not."""
    assert {NAMES[number] for number in numbers} == names and len(numbers) == len(names)
