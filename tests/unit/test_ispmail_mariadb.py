"""Accounts and passwords of a MariaDB."""

import pytest

from _ispmail_mariadb import MariaDB
from _ispmail_sql import Account, native_hash

OLD, NEW = "*" + "A" * 40, "*" + "B" * 40
PLUGIN = "mysql_native_password"
NATIVE = f'"plugin":"{PLUGIN}","authentication_string"'
USER = "USER %(user)s@%(host)s"


def read(priv):
    return MariaDB().read_account({"priv": priv})


@pytest.mark.parametrize(
    ("priv", "plugins", "hashes"),
    [
        (f'{{{NATIVE}:"{OLD}"}}', [PLUGIN], [OLD]),
        (f'{{{NATIVE}:"{OLD.lower()}"}}', [PLUGIN], [OLD]),
        (f'{{{NATIVE}:"{OLD}","auth_or":[{{}}]}}', [PLUGIN], [OLD]),
        (f'{{{NATIVE}:"{OLD}","auth_or":[{{}},{{{NATIVE}:"{NEW}"}}]}}', [PLUGIN], [OLD, NEW]),
        (f'{{{NATIVE}:"{OLD}","auth_or":[{{{NATIVE}:"{NEW}"}},{{}}]}}', [PLUGIN], [NEW, OLD]),
        (f'{{{NATIVE}:"{OLD}","auth_or":[{{}},{{"plugin":"ed25519"}}]}}', [PLUGIN, "ed25519"], [OLD]),
        # What the server writes of OR … USING ''.
        (f'{{{NATIVE}:"{OLD}","auth_or":[{{}},{{"plugin":"{PLUGIN}"}}]}}', [PLUGIN], [OLD, ""]),
        (f'{{{NATIVE}:"invalid"}}', [PLUGIN], []),
        (f'{{"plugin":"ed25519","authentication_string":"{OLD}"}}', ["ed25519"], []),
        ("{}", [PLUGIN], [""]),
    ],
)
def test_accounts(priv, plugins, hashes):
    assert read(priv) == Account(tuple(plugins), tuple(hashes), False)


@pytest.mark.parametrize(("priv", "locked"), [("{}", False), ('{"account_locked": true}', True)])
def test_a_locked_account(priv, locked):
    assert read(priv).locked is locked


def test_a_role_is_no_account():
    assert read('{"is_role": true}') is None


@pytest.mark.parametrize(("lifetime", "read_as"), [("1", 1), ("0", 0), ("-1", None)])
def test_when_a_password_was_set(lifetime, read_as):
    """Below 0 stands for the server's default."""
    found = read(f'{{"password_last_changed": 1000, "password_lifetime": {lifetime}}}')
    assert (found.changed, found.lifetime) == (1000, read_as)
    assert (read("{}").changed, read("{}").lifetime) == (None, None)


def test_a_hash_is_not_shown():
    assert OLD not in repr(read(f'{{{NATIVE}:"{OLD}"}}'))


def test_hashes():
    server = MariaDB()
    stored = server.hash_password(PLUGIN, "password", "salt", {})
    assert stored == native_hash("password")
    assert server.is_hash_of(stored, "password") is True and server.is_hash_of(stored, "other") is False
    assert (server.name, server.sql_mode) == ("MariaDB", "NO_AUTO_CREATE_USER")
    assert server.settings is None and server.plugins == (PLUGIN,) and server.most_passwords is None


def test_the_statements_of_a_password():
    server, one = MariaDB(), f"IDENTIFIED VIA {PLUGIN} USING %(new)s"
    assert server.create(PLUGIN) == [f"CREATE {USER} {one} PASSWORD EXPIRE NEVER"]
    assert server.set_password(PLUGIN) == server.sole(PLUGIN) == [f"ALTER {USER} {one}"]
    assert server.accept(PLUGIN, 1) == [f"ALTER {USER} {one} OR {PLUGIN} USING %(old0)s"]
    assert server.accept(PLUGIN, 2) == [f"ALTER {USER} {one} OR {PLUGIN} USING %(old0)s OR {PLUGIN} USING %(old1)s"]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ('{"ssl_type": 0}', ""),
        ('{"ssl_type": 1}', "REQUIRE SSL"),
        ('{"ssl_type": 2}', "REQUIRE X509"),
        ('{"ssl_type": 3, "ssl_cipher": "AES", "x509_issuer": ""}', "REQUIRE CIPHER 'AES'"),
        ('{"max_user_connections": 5}', "WITH MAX_USER_CONNECTIONS 5"),
    ],
)
def test_what_an_account_demands(given, text):
    assert read(given).demands == text
