"""The SQL that MariaDB and MySQL have in common: tables, grants, and what an account is."""

from dataclasses import replace

import pytest

import _ispmail_sql
from _ispmail_errors import InvalidInput
from _ispmail_sql import Account, Grant, Index, Missing

OLD, NEW = "*" + "A" * 40, "*" + "B" * 40


def indexed(*columns, unique=False):
    return Index(columns, unique)


def innodb(columns, indexes, foreign_keys):
    return _ispmail_sql.Table(columns, indexes, foreign_keys, "InnoDB", is_view=False, collations={})


WHOLE = {
    "virtual_domains": innodb(("id", "name"), (indexed("name", unique=True),), ()),
    "virtual_users": innodb(
        ("id", "domain_id", "email", "password", "quota"), (indexed("email", unique=True),), ("domain_id",)
    ),
    "virtual_aliases": innodb(
        ("id", "domain_id", "source", "destination"), (indexed("source", "destination"),), ("domain_id",)
    ),
}


def test_what_is_whole_is_missing_nothing():
    assert _ispmail_sql.missing(WHOLE) == {}
    assert _ispmail_sql.missing({}) == {table: Missing(whole_table=True) for table in WHOLE}


@pytest.mark.parametrize(
    ("table", "part", "value", "missing"),
    [
        ("virtual_domains", "indexes", (indexed("name"),), Missing(indexes=("name",))),
        ("virtual_domains", "indexes", (indexed("name", "id", unique=True),), Missing(indexes=("name",))),
        ("virtual_users", "indexes", (indexed("domain_id", "email", unique=True),), Missing(indexes=("email",))),
        ("virtual_aliases", "indexes", (indexed("destination", "source"),), Missing(indexes=("source",))),
        ("virtual_aliases", "foreign_keys", (), Missing(foreign_keys=("domain_id",))),
        ("virtual_aliases", "collations", {"source": "utf8_bin", "x": "latin1_bin"}, Missing(utf8mb4=("source",))),
        ("virtual_users", "columns", ("id", "domain_id", "email", "password"), Missing(columns=("quota",))),
    ],
)
def test_what_is_missing(table, part, value, missing):
    found = {**WHOLE, table: replace(WHOLE[table], **{part: value})}
    assert _ispmail_sql.missing(found) == {table: missing}


def test_missing_parts_in_words():
    assert Missing(whole_table=True).describe() == ["table"]
    parts = Missing(columns=("quota",), indexes=("email",), foreign_keys=("domain_id",))
    assert parts.describe() == ["column quota", "index on email", "foreign key domain_id"]


def test_the_statements_that_add_what_is_missing():
    parts = Missing(columns=("quota",), indexes=("email",), foreign_keys=("domain_id",))
    assert _ispmail_sql.alter_statement("a`b", "virtual_users", parts) == (
        "ALTER TABLE `a``b`.`virtual_users` ADD quota BIGINT NOT NULL DEFAULT 0, ADD UNIQUE INDEX (email), "
        "ADD FOREIGN KEY (domain_id) REFERENCES `virtual_domains` (id) ON DELETE CASCADE"
    )
    parts = Missing(indexes=("email",), plain_indexes=("email",))
    assert (
        _ispmail_sql.alter_statement("m", "virtual_users", parts) == "ALTER TABLE `m`.`virtual_users` ADD INDEX (email)"
    )
    parts = Missing(utf8mb4=("source",), collation="utf8mb4_bin")
    assert parts.describe() == ["utf8mb4 for source"]
    assert (
        _ispmail_sql.alter_statement("m", "virtual_aliases", parts)
        == "ALTER TABLE `m`.`virtual_aliases` CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
    )
    with pytest.raises(InvalidInput, match="exists without email, destination"):
        _ispmail_sql.alter_statement("m", "virtual_aliases", Missing(columns=("email", "destination")))


def test_the_hash_of_a_password():
    """As SELECT PASSWORD('password') prints it."""
    assert _ispmail_sql.native_hash("password") == "*2470C0C06DEE42FD1618BB99005ADCA2EC9D1E19"


def test_hashes_of_the_old_plugin():
    """Each once, in capitals, in their order; an empty one is an empty password."""
    assert _ispmail_sql.native_hashes([NEW.lower(), OLD, "invalid", "", NEW, f"{OLD}0"]) == (NEW, OLD, "")


def test_a_hash_is_not_shown():
    assert OLD not in repr(Account(("x",), (OLD,), False))


# A line of SHOW GRANTS for `u`@`h`; what it is read as.
LINES = [
    ("GRANT USAGE ON *.* TO `u`@`h` IDENTIFIED BY PASSWORD '*ABC'", []),
    ("GRANT SELECT ON `m`.* TO `u`@`h`", [(["SELECT"], "`m`.*", False)]),
    ("GRANT ALL PRIVILEGES ON *.* TO `u`@`h` WITH GRANT OPTION", [(["ALL PRIVILEGES"], "*.*", True)]),
    ("GRANT USAGE ON *.* TO `u`@`h` REQUIRE SSL WITH GRANT OPTION", [([], "*.*", True)]),
    ("GRANT SELECT ON `a`` ON b`.* TO `u`@`h`", [(["SELECT"], "`a`` ON b`.*", False)]),
    (
        "GRANT SELECT (`a`, `b`), UPDATE (`c`) ON `m`.`t` TO `u`@`h`",
        [(["SELECT (`a`, `b`)", "UPDATE (`c`)"], "`m`.`t`", False)],
    ),
    ("GRANT EXECUTE ON PROCEDURE `m`.`p` TO `u`@`h`", [(["EXECUTE"], "PROCEDURE `m`.`p`", False)]),
    ("GRANT EXECUTE ON PACKAGE BODY `m`.`p` TO `u`@`h`", [(["EXECUTE"], "PACKAGE BODY `m`.`p`", False)]),
    ("GRANT PROXY ON ''@'%' TO 'u'@'h' WITH GRANT OPTION", [(["PROXY"], "''@'%'", True)]),
    ("GRANT PROXY ON `a`@`b` TO `u`@`h`", [(["PROXY"], "`a`@`b`", False)]),
    ("GRANT `r` TO `u`@`h` WITH ADMIN OPTION", [(["`r`"], None, False)]),
    ("GRANT `r`@`%` TO `u`@`h`", [(["`r`@`%`"], None, False)]),
    ("SET DEFAULT ROLE `r` FOR `u`@`h`", []),
    ("GRANT SELECT ON `m`.* TO PUBLIC", []),
    ("GRANT SELECT ON `m`.* TO `r`", []),
]


@pytest.mark.parametrize(("line", "held"), LINES)
def test_a_line_of_show_grants(line, held):
    assert _ispmail_sql.parse_grants([line]) == [
        Grant(tuple(privileges), on, option) for privileges, on, option in held
    ]


DESCRIBED = [
    (Grant(("SELECT", "INSERT"), "`m`.*", False), "SELECT, INSERT ON `m`.*"),
    (Grant((), "*.*", True), "USAGE ON *.* WITH GRANT OPTION"),
    (Grant(("`r`",), None, False), "ROLE `r`"),
]


@pytest.mark.parametrize(("grant", "text"), DESCRIBED)
def test_grants_in_words(grant, text):
    assert _ispmail_sql.describe_grants([grant]) == [text]


def regrant(*lines, dbname="m", every=("SELECT", "INSERT", "DELETE HISTORY")):
    statements = _ispmail_sql.regrant(_ispmail_sql.parse_grants(lines), dbname, every)
    return [statement % {"user": "u", "host": "h"} for statement in statements]


REGRANTS = [
    ([], ["GRANT SELECT ON `m`.* TO u@h"]),
    (["GRANT SELECT ON `m`.* TO `u`@`h`"], []),
    (
        ["GRANT ALL PRIVILEGES ON `m`.* TO `u`@`h` WITH GRANT OPTION"],
        ["REVOKE INSERT, DELETE HISTORY ON `m`.* FROM u@h", "REVOKE GRANT OPTION ON `m`.* FROM u@h"],
    ),
    (["GRANT SELECT ON *.* TO `u`@`h`"], ["GRANT SELECT ON `m`.* TO u@h", "REVOKE SELECT ON *.* FROM u@h"]),
    (
        ["GRANT SELECT ON `m`.* TO `u`@`h`", "GRANT SELECT ON `x%`.* TO `u`@`h`", "GRANT `r` TO `u`@`h`"],
        ["REVOKE SELECT ON `x%`.* FROM u@h", "REVOKE `r` FROM u@h"],
    ),
    (
        ["GRANT SELECT ON `m`.* TO `u`@`h`", "GRANT PROXY ON ''@'%' TO 'u'@'h' WITH GRANT OPTION"],
        ["REVOKE PROXY ON ''@'%' FROM u@h"],
    ),
]


@pytest.mark.parametrize(("lines", "statements"), REGRANTS)
def test_the_statements_of_grants(lines, statements):
    assert regrant(*lines) == statements


def test_usage_is_not_revoked():
    """It is no privilege, but information_schema lists it for a database on which an account may only grant."""
    statements = regrant("GRANT ALL PRIVILEGES ON `m`.* TO `u`@`h`", every=("SELECT", "USAGE", "INSERT"))
    assert statements == ["REVOKE INSERT ON `m`.* FROM u@h"]


def test_a_database_name_is_no_pattern():
    assert regrant(dbname="a_b%c") == [r"GRANT SELECT ON `a\_b\%c`.* TO u@h"]
    assert regrant(r"GRANT SELECT ON `a\_b`.* TO `u`@`h`", dbname="a_b") == []
    assert regrant("GRANT SELECT ON `a_b`.* TO `u`@`h`", dbname="a_b") == [
        r"GRANT SELECT ON `a\_b`.* TO u@h",
        "REVOKE SELECT ON `a_b`.* FROM u@h",
    ]


CERTIFICATE = {"x509_issuer": "b'c\\", "x509_subject": "/CN=50%", "ssl_cipher": ""}
LIMITS = {"max_questions": 7, "max_updates": 0, "max_connections": 9, "max_user_connections": 50}


@pytest.mark.parametrize(
    ("row", "tls", "text"),
    [
        ({}, "", ""),
        ({}, "SSL", "REQUIRE SSL"),
        ({**CERTIFICATE, **dict.fromkeys(LIMITS, 0)}, "X509", "REQUIRE X509"),
        (CERTIFICATE, "SPECIFIED", r"REQUIRE ISSUER 'b''c\\' AND SUBJECT '/CN=50%'"),
        ({"ssl_cipher": "AES"}, "SPECIFIED", "REQUIRE CIPHER 'AES'"),
        (LIMITS, "", "WITH MAX_QUERIES_PER_HOUR 7 MAX_CONNECTIONS_PER_HOUR 9 MAX_USER_CONNECTIONS 50"),
        ({"max_updates": 1}, "SSL", "REQUIRE SSL WITH MAX_UPDATES_PER_HOUR 1"),
    ],
)
def test_what_an_account_demands_and_its_limits(row, tls, text):
    assert _ispmail_sql.demands(row, tls) == text
    statement = _ispmail_sql.demand_statement(text)
    assert statement % {"user": "u", "host": "h"} == f"ALTER USER u@h {text}"


@pytest.mark.parametrize(
    ("held", "wanted", "statements"),
    [
        ([], [], []),
        (["SELECT ON `m`.*"], ["SELECT ON `m`.*"], []),
        ([], ["SELECT ON `m`.*"], ["GRANT SELECT ON `m`.* TO u@h"]),
        (["SELECT ON `x`.*"], ["SELECT ON `m`.*"], ["GRANT SELECT ON `m`.* TO u@h"]),
        (["SELECT ON `m`.*"], ["INSERT, SELECT, UPDATE ON `m`.*"], ["GRANT INSERT, UPDATE ON `m`.* TO u@h"]),
        (["SELECT (a) ON `m`.`t`"], ["SELECT (a, b) ON `m`.`t`"], ["GRANT SELECT (a, b) ON `m`.`t` TO u@h"]),
        (["ALL PRIVILEGES ON `m`.*"], ["SELECT ON `m`.*"], []),
        (["SELECT ON `m`.*"], ["ALL PRIVILEGES ON `m`.*"], ["GRANT ALL PRIVILEGES ON `m`.* TO u@h"]),
        # A server may write two lines for one object.
        (["SELECT ON `m`.*", "INSERT ON `m`.*"], ["SELECT, INSERT ON `m`.*"], []),
        (["SELECT ON `m`.*"], ["SELECT ON `m`.* +"], ["GRANT USAGE ON `m`.* TO u@h WITH GRANT OPTION"]),
        (["SELECT ON `m`.* +"], ["SELECT ON `m`.* +"], []),
        ([], ["SELECT ON `m`.* +"], ["GRANT SELECT ON `m`.* TO u@h WITH GRANT OPTION"]),
        ([], [r"SELECT ON `a\_%`.*"], [r"GRANT SELECT ON `a\_%`.* TO u@h"]),
    ],
)
def test_what_one_account_may_do_and_another_may_not(held, wanted, statements):
    """A plus stands for WITH GRANT OPTION."""

    def grants(lines):
        options = [("x`@`y` WITH GRANT OPTION" if line.endswith(" +") else "x`@`y`") for line in lines]
        return _ispmail_sql.parse_grants(
            f"GRANT {line.removesuffix(' +')} TO `{option}" for line, option in zip(lines, options)
        )

    missing = _ispmail_sql.grants_missing(grants(held), grants(wanted))
    arguments = {"user": "u", "host": "h"}
    assert [_ispmail_sql.grant_statement(grant) % arguments for grant in missing] == statements
    assert _ispmail_sql.grants_missing([], _ispmail_sql.parse_grants(["GRANT `r` TO `u`@`h`"])) == []


@pytest.mark.parametrize(
    ("lines", "select", "more"),
    [
        ([], True, []),
        (["GRANT SELECT ON `m`.* TO `u`@`h`"], False, []),
        (["GRANT SELECT, INSERT ON `m`.* TO `u`@`h`"], False, ["INSERT ON `m`.*"]),
        (["GRANT ALL PRIVILEGES ON `m`.* TO `u`@`h`"], False, ["ALL PRIVILEGES ON `m`.*"]),
        (["GRANT SELECT ON `m`.* TO `u`@`h` WITH GRANT OPTION"], False, ["USAGE ON `m`.* WITH GRANT OPTION"]),
        (["GRANT SELECT ON *.* TO `u`@`h`", "GRANT `r` TO `u`@`h`"], True, ["SELECT ON *.*", "ROLE `r`"]),
    ],
)
def test_what_an_account_may_do_besides(lines, select, more):
    grants = _ispmail_sql.parse_grants(lines)
    statement = ["GRANT SELECT ON `m`.* TO %(user)s@%(host)s"]
    assert _ispmail_sql.grant_select(grants, "m") == (statement if select else [])
    assert _ispmail_sql.describe_grants(_ispmail_sql.more_than_select(grants, "m")) == more


@pytest.mark.parametrize(
    ("changed", "lifetime", "default", "expires"),
    [
        (1000, 1, 0, 1000 + 86400),
        (1000, 0, 5, None),
        (1000, None, 5, 1000 + 5 * 86400),
        (1000, None, 0, None),
        (0, 0, 0, 0),
        (None, None, 5, None),
    ],
)
def test_when_a_password_expires(changed, lifetime, default, expires):
    assert Account(("x",), (), False, changed, lifetime).expires(default) == expires


def test_the_statements_that_create_the_guides_tables():
    """As the guide has them, and with the two indexes that it lacks."""
    statements = [
        _ispmail_sql.alter_statement("mail", table, _ispmail_sql.Missing(whole_table=True))
        for table in ("virtual_domains", "virtual_users", "virtual_aliases")
    ]
    key, engine = "id INT NOT NULL AUTO_INCREMENT PRIMARY KEY", "ENGINE=InnoDB DEFAULT CHARSET=utf8mb4"
    assert all(key in each and each.endswith(engine) for each in statements)
    domains, users, aliases = statements
    assert domains == (
        "CREATE TABLE `mail`.`virtual_domains` (id INT NOT NULL AUTO_INCREMENT PRIMARY KEY, name VARCHAR(50) NOT NULL, "
        "UNIQUE INDEX (name)) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4"
    )
    assert domains.startswith("CREATE TABLE `mail`.`virtual_domains` (") and "name VARCHAR(50) NOT NULL" in domains
    assert "FOREIGN KEY" not in domains and "UNIQUE" in domains
    id_columns = "id INT NOT NULL AUTO_INCREMENT PRIMARY KEY, domain_id INT NOT NULL"
    foreign_key = "FOREIGN KEY (domain_id) REFERENCES `virtual_domains` (id) ON DELETE CASCADE"
    assert users == (
        f"CREATE TABLE `mail`.`virtual_users` ({id_columns}, email VARCHAR(100) NOT NULL, "
        "password VARCHAR(150) NOT NULL, quota BIGINT NOT NULL DEFAULT 0, "
        f"UNIQUE INDEX (email), {foreign_key}) {engine}"
    )
    assert aliases == (
        f"CREATE TABLE `mail`.`virtual_aliases` ({id_columns}, source VARCHAR(100) NOT NULL, "
        f"destination VARCHAR(100) NOT NULL, INDEX (source), {foreign_key}) {engine}"
    )


def test_which_tables_are_the_guides():
    assert _ispmail_sql.is_guide_table("virtual_users") and not _ispmail_sql.is_guide_table("users")
    assert _ispmail_sql.wants_unique("virtual_users", "email")
    assert not _ispmail_sql.wants_unique("virtual_aliases", "source")


def test_the_grant_that_the_maps_need_in_words():
    assert _ispmail_sql.describe_grants([_ispmail_sql.select_grant("mail")]) == ["SELECT ON `mail`.*"]


@pytest.mark.parametrize(
    ("text", "old", "statement"),
    [
        ("REQUIRE SSL", "", "REQUIRE SSL"),
        ("WITH MAX_USER_CONNECTIONS 3", "", "WITH MAX_USER_CONNECTIONS 3"),
        ("", "REQUIRE X509 WITH MAX_USER_CONNECTIONS 3", "REQUIRE NONE WITH MAX_USER_CONNECTIONS 0"),
        ("REQUIRE SSL", "WITH MAX_USER_CONNECTIONS 3", "REQUIRE SSL WITH MAX_USER_CONNECTIONS 0"),
        ("WITH MAX_USER_CONNECTIONS 3", "REQUIRE SSL", "REQUIRE NONE WITH MAX_USER_CONNECTIONS 3"),
        (
            *("REQUIRE SUBJECT '/CN=a WITH MAX_USER_CONNECTIONS 5%'", "REQUIRE SSL"),
            "REQUIRE SUBJECT '/CN=a WITH MAX_USER_CONNECTIONS 5%%'",
        ),
    ],
)
def test_what_an_account_does_not_demand_any_more(text, old, statement):
    assert _ispmail_sql.demand_statement(text, old) == f"ALTER USER %(user)s@%(host)s {statement}"
