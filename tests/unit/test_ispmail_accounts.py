"""The accounts of the maps' user: how MariaDB and MySQL keep them, and what must not be done to them."""

import pytest

from ispmail_accounts import credential_fault, read_accounts
from ispmail_sql import Account

OLD, NEW = "*" + "A" * 40, "*" + "B" * 40


class FakeServer:
    """Answers every statement with the same rows."""

    def __init__(self, mariadb, *rows):
        self.mariadb, self.rows = mariadb, rows

    def ask(self, statement, arguments=None):
        return list(self.rows)


def mysql_row(plugin="mysql_native_password", hash=OLD, second=None, locked="N"):
    known = {"host": "%", "plugin": plugin, "hash": hash, "second": second, "locked": locked}
    return {**known, "changed": 1700000000, "lifetime": None}


@pytest.mark.parametrize(
    ("row", "plugins", "hashes", "locked"),
    [
        (mysql_row(), ["mysql_native_password"], [OLD], False),
        (mysql_row(second=NEW), ["mysql_native_password"], [OLD, NEW], False),
        (mysql_row(second=OLD), ["mysql_native_password"], [OLD], False),
        (mysql_row(hash=None, locked="Y"), ["mysql_native_password"], [""], True),
        (mysql_row("caching_sha2_password", "$A$005$x"), ["caching_sha2_password"], [], False),
    ],
)
def test_accounts_of_mysql(row, plugins, hashes, locked):
    found = read_accounts(FakeServer(False, row), "u")
    assert found == {"%": Account(tuple(plugins), tuple(hashes), locked, 1700000000)}


def test_a_mysql_keeps_no_third_password():
    account = Account(("mysql_native_password",), (OLD, NEW), False)
    third = "*" + "3" * 40
    said = credential_fault(account, third, "accept", mariadb=False)
    assert "accepts two other passwords already" in said and "put the newer one of them back into pillar" in said
    assert credential_fault(account, third, "accept", mariadb=True) is None


def test_an_account_of_mariadb():
    priv = f'{{"plugin":"mysql_native_password","authentication_string":"{OLD}"}}'
    found = read_accounts(FakeServer(True, {"host": "h", "priv": priv}), "u")
    assert found == {"h": Account(("mysql_native_password",), (OLD,), False)}


def test_a_role_is_no_account():
    assert read_accounts(FakeServer(True, {"host": "", "priv": '{"is_role":true}'}), "u") == {}
