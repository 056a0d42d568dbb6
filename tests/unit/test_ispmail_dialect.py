"""Which database server keeps accounts in which way."""

import pytest

import _ispmail_dialect

NATIVE, SHA2 = "mysql_native_password", "caching_sha2_password"


@pytest.mark.parametrize(
    ("version", "name", "plugins"),
    [
        ("11.8.3-MariaDB-0+deb13u1", "MariaDB", (NATIVE,)),
        ("10.11.19-MariaDB", "MariaDB", (NATIVE,)),
        ("5.7.44-log", "MySQL", (NATIVE,)),
        ("8.0.36-0ubuntu0.22.04.1", "MySQL", (NATIVE, SHA2)),
        ("8.3.0", "MySQL", (NATIVE, SHA2)),
        ("8.4.6", "MySQL", (SHA2, NATIVE)),
        ("9.0.1", "MySQL", (SHA2,)),
        ("9.7.4-2", "MySQL", (SHA2,)),
        ("10.0.0", "MySQL", (SHA2,)),
    ],
)
def test_each_server_has_its_dialect(version, name, plugins):
    """MySQL 8.4 has the old plugin only where it is switched on, 9 has none."""
    dialect = _ispmail_dialect.of_version(version)
    assert (dialect.name, dialect.plugins) == (name, plugins)


@pytest.mark.parametrize("version", ["", "9", "x.y"])
def test_a_version_that_no_server_has(version):
    """Whoever asks takes a ValueError for a server that is none, see _ispmail_session.understood."""
    with pytest.raises(ValueError, match=r"invalid literal|not enough values"):
        _ispmail_dialect.of_version(version)


def test_what_to_do_about_another_plugin_is_in_the_servers_own_words():
    """MySQL has no IDENTIFIED VIA."""
    mariadb, mysql = (_ispmail_dialect.of_version(version).plugin_advice for version in ("11.8.3-MariaDB", "9.7.4"))
    assert mariadb == (
        f"which smtpd's chroot and PyMySQL do not have: give it a password by {NATIVE} alone "
        f"(ALTER USER … IDENTIFIED VIA {NATIVE} …)"
    )
    assert mysql == (
        f"whose passwords cannot be rotated there: give it a password by {SHA2} (ALTER USER … IDENTIFIED WITH {SHA2} …)"
    )
