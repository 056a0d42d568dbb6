"""What pillar may say of the database's side."""

import pytest

import _ispmail_config
from _ispmail_config_database import AdminLogin, database, servers, user
from _ispmail_errors import PillarFault


def test_the_least_pillar():
    config = database("ispmail", {"database": {"password": "x"}})
    assert (config.user, config.password, config.dbname) == ("mailserver", "x", "mailserver")
    assert (config.hosts, config.create_tables, config.revoke_other_grants, config.known_accounts) == (
        (),
        True,
        False,
        (),
    )
    assert config.managed_hosts([]) == ("127.0.0.1",)
    assert config.managed_hosts(["localhost", "10.%"]) == ("localhost", "10.%")
    assert config.login == AdminLogin("root", None, "/run/mysqld/mysqld.sock", None)
    server = {"host": "db", "port": 3307, "user": "a", "password": "b", "accounts_host": ["A.test", "a.test", "10.%"]}
    config = database("ispmail", {"server": server})
    assert config.login == AdminLogin("a", "b", None, "db", 3307)
    assert config.hosts == config.managed_hosts(["localhost"]) == ("a.test", "10.%")
    server = {"accounts_host": None, "known_accounts": "dovecot", "revoke_other_grants": True}
    config = database("ispmail", {"server": server})
    assert (config.hosts, config.known_accounts, config.revoke_other_grants) == ((), ("dovecot",), True)


FAULTS = [
    ({"server": []}, "server", "must be a mapping"),
    ({"database": "TOKEN"}, "database", "must be a mapping"),
    *(({"server": {"port": port}}, "server:port", "a number") for port in (0, 65536, True, "3306")),
    *(({"server": {key: 1}}, f"server:{key}", "a text") for key in ("unix_socket", "host", "user", "password")),
    ({"server": {"host": ""}}, "server:host", "is empty: write it, or take the line out"),
    ({"server": {"user": "TOKEN\n"}}, "server:user", "a text of one line"),
    ({"server": {"accounts_host": "TOKEN@10.0.0.1"}}, "server:accounts_host", "has an @: it is the host of an account"),
    ({"server": {"accounts_host": ["a", "b, c"]}}, "server:accounts_host", "make several hosts a list"),
    ({"server": {"password": "the password of that user"}}, "server:password", "is a placeholder for a password"),
    ({"server": {"password": "*" * 10}}, "server:password", "is Salt's mask"),
    ({"database": {"user": 1 << 20000}}, "database:user", "is not a text in YAML"),
    ({"database": {"dbname": 1 << 20000}}, "database:dbname", "is not a text in YAML"),
    ({"server": {"unix_socket": "/a", "host": "b"}}, "server:host", "beside unix_socket"),
    *(({"server": {"accounts_host": hosts}}, "server:accounts_host", "a list of texts") for hosts in ([], [1], "", {})),
    *(({"server": {key: "yes"}}, f"server:{key}", "true or false") for key in ("create_tables", "revoke_other_grants")),
    ({"server": {"known_accounts": [1]}}, "server:known_accounts", "a list of texts, the names of users"),
    ({"server": {"acounts_host": "x"}}, "server:acounts_host", "is not a key"),
    ({"database": {"user": ""}}, "database:user", "is empty"),
    ({"database": {"dbname": ""}}, "database:dbname", "is empty, which is fatal to Postfix"),
    ({"database": {"password": "TOKEN\n"}}, "database:password", "has a newline"),
    *(({"database": {key: None}}, f"database:{key}", "must not be null") for key in ("user", "dbname")),
]


@pytest.mark.parametrize(("config", "key", "said"), FAULTS)
def test_faults_of_pillar(config, key, said):
    with pytest.raises(PillarFault) as caught:
        database("ispmail", config)
    assert [fault.key for fault in caught.value.faults] == [key]
    assert said in str(caught.value.faults[0]) and "TOKEN" not in str(caught.value)
    with pytest.raises(PillarFault, match="must be a mapping"):
        database("ispmail", "TOKEN")


MISSPELT = [
    ({"srever": {"accounts_host": "10.0.0.1"}}, ["srever"]),
    ({"database": {"usr": "postfix", "dbnam": "vmail"}}, ["database:usr", "database:dbnam"]),
    ({"database": {"password:TOKEN": None}}, ["database:(a key that is not shown)"]),
    ({"rotation": {"methode": "two_accounts", "kep": "7d"}}, ["rotation:methode", "rotation:kep"]),
    ({"preset": "postfix-admin"}, ["preset"]),
    ({"preset": ["postfixadmin"]}, ["preset"]),
    ({"maps": ["virtual_alias_maps"]}, ["maps"]),
    ({"maps": {"virtual_alias_maps": {"typ": "pgsql"}}}, ["maps:virtual_alias_maps:typ"]),
    ({"maps": {"virtual_alias_maps": {"type": "pqsql"}}}, ["maps:virtual_alias_maps:type"]),
    ({"maps": {"virtual_alias_maps": {"type": "pgsql"}}}, ["maps:virtual_alias_maps:type"]),
    ({"maps": {"my-map": {"type": "pgsql", "parameter": "x", "query": "Q"}}}, ["maps:my-map:type"]),
]


@pytest.mark.parametrize(("section", "keys"), MISSPELT)
def test_what_an_apply_refuses_is_refused_with_the_same_words(section, keys):
    """It acted on the defaults: another database was made than the one that pillar names."""
    section = {**section, "database": {"password": "x", **section.get("database", {})}}
    with pytest.raises(PillarFault) as caught:
        database("ispmail", section)
    assert [fault.key for fault in caught.value.faults] == keys
    with pytest.raises(PillarFault) as of_an_apply:
        _ispmail_config.complete("ispmail", section)
    assert set(caught.value.faults) <= set(of_an_apply.value.faults)
    assert "TOKEN" not in str(caught.value)


def test_a_database_server_may_have_the_sections_of_others_or_none():
    others = {"answers": [], "consumers": {}, "history": 3, "watch": {}, "postfix": {}, "instances": ["out"]}
    assert database("ispmail", {**others, "packages": False}).user == database("ispmail", {}).user == "mailserver"


def test_the_doctor_looks_although_the_account_has_a_misspelt_key():
    section = {"database": {"usr": "x", "password": 1 << 20000}}
    assert database("ispmail", section, account_checked=False).password is None


def test_a_password_that_is_needed():
    for section in ({}, {"database": {"password": ""}}, {"database": {"password": None}}):
        with pytest.raises(PillarFault) as caught:
            database("ispmail", section, password_needed=True)
        assert [str(fault) for fault in caught.value.faults] == [
            "database:password is missing or empty: write the password of the maps' account"
        ]
        assert not database("ispmail", section).password


@pytest.mark.parametrize(
    ("section", "name"),
    [({"database": {"user": "a"}}, "a"), ({}, "mailserver"), (None, "mailserver"), ({"database": []}, "mailserver")],
)
def test_the_user_alone(section, name):
    assert user(section) == name


@pytest.mark.parametrize(
    ("section", "hosts"),
    [
        ({"database": {"hosts": "a, b:3307"}}, ("a", "b:3307")),
        ({"database": {"hosts": ["a", 1]}}, ("a", "1")),
        ({}, ("127.0.0.1",)),
        (None, ("127.0.0.1",)),
    ],
)
def test_the_hosts_alone(section, hosts):
    assert servers(section) == hosts


def test_a_password_that_is_there_is_taken():
    assert database("ispmail", {"database": {"password": "x"}}, password_needed=True).password == "x"


def test_the_account_may_be_one_that_no_table_file_can_hold():
    """The doctor looks at what there is, and apply has refused it."""
    section = {"database": {"user": "", "password": "a\nb", "dbname": ""}}
    with pytest.raises(PillarFault) as caught:
        database("ispmail", section)
    keys = [fault.key for fault in caught.value.faults]
    assert keys == ["database:user", "database:password", "database:dbname"]
    found = database("ispmail", section, account_checked=False)
    assert (found.user, found.password, found.dbname) == ("", "a\nb", "")


def test_how_the_admin_may_log_in():
    found = database("ispmail", {"server": {"unix_socket": "/tmp/s", "password": ""}}).login
    assert found == AdminLogin("root", "", "/tmp/s", None)
    ports = [database("ispmail", {"server": {"host": "db", "port": port}}).login.port for port in (1, 65535)]
    assert ports == [1, 65535]


PGSQL = {"type": "pgsql"}
ALL_PGSQL = dict.fromkeys(("virtual_mailbox_domains", "virtual_alias_maps", "virtual_mailbox_maps"), PGSQL)


@pytest.mark.parametrize(
    ("maps", "type_"),
    [
        (None, "mysql"),
        ({}, "mysql"),
        (ALL_PGSQL, "pgsql"),
        ({**ALL_PGSQL, "more": {"type": "sqlite"}}, "pgsql"),
        # They log in with a user of their own.
        ({**ALL_PGSQL, "more": {"user": "other"}}, "pgsql"),
        ({"more": {**PGSQL, "user": "other"}}, "mysql"),
        (dict.fromkeys(ALL_PGSQL), "mysql"),
        ({**dict.fromkeys(ALL_PGSQL), "more": PGSQL}, "pgsql"),
        ({name: {"type": "sqlite"} for name in ALL_PGSQL}, "mysql"),
    ],
)
def test_the_maps_tell_which_server_it_is(maps, type_):
    assert database("ispmail", {"maps": maps}).type == type_


def test_a_mixture_of_servers():
    maps = {"virtual_alias_maps": PGSQL, "more": PGSQL}
    with pytest.raises(PillarFault) as caught:
        database("ispmail", {"maps": maps})
    assert [fault.key for fault in caught.value.faults] == ["maps:virtual_alias_maps:type", "maps:more:type"]
    assert str(caught.value.faults[0]).endswith(
        "is pgsql, but that of virtual_mailbox_domains is mysql, and one account is of one database server: "
        "write user and password into the maps of one type, also equal ones, or give those a pillar key (instances)"
    )


@pytest.mark.parametrize(
    ("server", "login"),
    [
        ({}, AdminLogin("postgres", None, "/run/postgresql/.s.PGSQL.5432", None, 5432)),
        ({"port": 5433}, AdminLogin("postgres", None, "/run/postgresql/.s.PGSQL.5433", None, 5433)),
        ({"unix_socket": "/tmp/x/"}, AdminLogin("postgres", None, "/tmp/x/.s.PGSQL.5432", None, 5432)),
        ({"unix_socket": "/tmp/.s.PGSQL.7", "user": "a"}, AdminLogin("a", None, "/tmp/.s.PGSQL.7", None, 5432)),
        ({"host": "db", "password": "b"}, AdminLogin("postgres", "b", None, "db", 5432)),
    ],
)
def test_the_admin_of_a_postgresql(server, login):
    assert database("ispmail", {"maps": ALL_PGSQL, "server": server}).login == login


@pytest.mark.parametrize(
    ("section", "key", "said"),
    [
        ({"server": {"accounts_host": "10.%"}}, "server:accounts_host", "a role of PostgreSQL has no host"),
        ({"database": {"user": "ä" * 32}}, "database:user", "has more than 63 bytes"),
        ({"database": {"dbname": "x" * 64}}, "database:dbname", "has more than 63 bytes"),
    ],
)
def test_what_a_postgresql_cannot_have(section, key, said):
    database("ispmail", section)
    with pytest.raises(PillarFault) as caught:
        database("ispmail", {"maps": ALL_PGSQL, **section})
    assert [fault.key for fault in caught.value.faults] == [key]
    assert said in str(caught.value)
    assert database("ispmail", {"maps": ALL_PGSQL, "database": {"user": "x" * 63}}).user == "x" * 63
