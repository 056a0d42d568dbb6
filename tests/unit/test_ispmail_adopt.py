"""Tables that a server has now, as pillar: where they are named, what pillar holds of them, and what it does not."""

from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

import _ispmail_adopt
import _ispmail_config
import _ispmail_inventory
import _ispmail_tablefile
from _ispmail_adopt import Source
from _ispmail_errors import PillarFault
from _ispmail_inventory import Settings
from _ispmail_postconf import Service

DEFAULTS = {"config_directory": "/etc/postfix", "mydestination": "$myhostname, localhost", "myhostname": "mx1"}
HEAD = "user = mailserver\npassword = geheim\nhosts = 127.0.0.1\ndbname = mailserver\n"
DOMAINS = f"{HEAD}query = SELECT 1 FROM virtual_domains WHERE name='%s'\n"
ALIASES = f"{HEAD}query = SELECT destination FROM virtual_aliases WHERE source='%s'\n"
OWN = f"{HEAD}query = SELECT a FROM b WHERE c='%s'\n"
ACCOUNT = {
    "password": "THE PASSWORD OF THE ACCOUNT mailserver",
    "user": "mailserver",
    "hosts": "127.0.0.1",
    "dbname": "mailserver",
}


def named(values, overrides=None, own=()):
    """The tables that these parameters of main.cf name, and these options of the service submission.

    `own`: the parameters that Postfix does not know, which it would have to be asked for.
    """
    options = "".join(f" -o {{ {name} = {value} }}" for name, value in (overrides or {}).items())
    services = [Service("submission", "inet", "n", f"smtpd{options}")]
    values = {**DEFAULTS, **values}
    inventory = _ispmail_inventory.of(Settings(values["config_directory"], values, frozenset()), services)
    with patch.object(_ispmail_inventory, "own_parameters", lambda names, known: set(own).intersection(names)):
        return _ispmail_adopt.named(inventory.places, inventory.unasked)


def adopt(values, files, overrides=None, version=None):
    """What is adopted of these parameters and files."""
    tables = named(values, overrides)
    sources = {path: Source(text.encode("utf-8", "surrogateescape")) for path, text in files.items()}
    sources = {each.path: sources.get(each.path, Source(None)) for each in tables}
    return _ispmail_adopt.adopt(tables, sources, "/etc/postfix", version)


def one(text, table_type="mysql", parameter="x_maps", **more):
    """What is adopted of one table: its map, the database's section, what is left out."""
    adopted = adopt({parameter: f"{table_type}:/etc/postfix/x.cf"}, {"/etc/postfix/x.cf": text}, **more)
    maps = {name: entry for name, entry in adopted.section["maps"].items() if entry is not None}
    return next(iter(maps.values()), None), adopted.section.get("database"), adopted.left_out


NAMED = {
    "plain": ("mysql:/a.cf", ["mysql:/a.cf"]),
    "several, in their order": ("mysql:/b.cf, proxy:pgsql:/a.cf\n sqlite:/c.cf", None),
    "other tables between": ("$mydestination, proxy:mysql:/a.cf, hash:/etc/aliases", ["proxy:mysql:/a.cf"]),
    "a reference": ("mysql:$config_directory/x.cf", ["mysql:/etc/postfix/x.cf"]),
    "a reference in braces": ("mysql:${config_directory}/x.cf", ["mysql:/etc/postfix/x.cf"]),
    "a reference in parentheses": ("mysql:$(config_directory)/x.cf", ["mysql:/etc/postfix/x.cf"]),
    "a reference to a reference": ("proxy:mysql:${folder}/x.cf", ["proxy:mysql:/etc/postfix/sql/x.cf"]),
    "a doubled slash": ("mysql:/etc/postfix//sql/../x.cf", ["mysql:/etc/postfix/x.cf"]),
    "what is looked up is logged": ("debug:mysql:/a.cf", ["mysql:/a.cf"]),
    "other types": ("hash:/a, ldap:/b.cf, tcp:localhost:1, mysql", []),
}


@pytest.mark.parametrize("value, tables", NAMED.values(), ids=NAMED)
def test_named(value, tables):
    values = {"folder": "$config_directory/sql", "x_maps": value, "mail_version": "3.11.0"}
    found = named(values)
    expected = ["mysql:/b.cf", "proxy:pgsql:/a.cf", "sqlite:/c.cf"] if tables is None else tables
    assert [str(each).removeprefix("x_maps: ") for each in found] == expected
    assert {each.obstacle for each in found} <= {""}


OBSTACLES = {
    "unionmap": ("x_maps", "unionmap:{mysql:/a.cf, static:b}", "inside braces"),
    "pipemap": ("x_maps", "hash:/b, pipemap:{proxy:mysql:/a.cf,mysql:/b.cf}", "inside braces"),
    "a condition": ("x_maps", "${y?{mysql:/a.cf}:{mysql:/b.cf}}", "inside braces"),
    "a pair": ("smtpd_sender_restrictions", "check_sender_access mysql:/a.cf, reject", "$my_senders in its place"),
    "a pair in other letters": ("greylist", "Check_Client_Access mysql:/a.cf", "$my_senders in its place"),
    "a restriction class": ("greylist", "check_client_access mysql:/a.cf", "$my_senders in its place"),
    "a restriction by its table": ("smtpd_helo_restrictions", "mysql:/a.cf", "$my_senders in its place"),
    "what a command reads": ("authorized_mailq_users", "mysql:/a.cf", "is read by postqueue(1), as the local user"),
    "settings in main.cf": ("x_maps", "mysql:aliases", "no table file"),
    "a reference to itself": ("x_maps", "mysql:$loop/x.cf", "no table file"),
    "a colon in the path": ("x_maps", "mysql:/a:b.cf", "a character that pillar cannot hold"),
    "a parameter that pillar cannot name": ("x-maps", "mysql:/a.cf", "the name of this parameter"),
}


@pytest.mark.parametrize("parameter, value, reason", OBSTACLES.values(), ids=OBSTACLES)
def test_what_pillar_cannot_name(parameter, value, reason):
    adopted = adopt({parameter: value, "loop": "$loop"}, {"/a.cf": OWN, "/b.cf": OWN})
    assert adopted.section == {"maps": dict.fromkeys(_ispmail_config.MAPS)}
    assert adopted.left_out and all(reason in text and text.startswith(f"{parameter}: ") for text in adopted.left_out)


def test_a_parameter_of_its_own_behind_a_restriction_is_a_map():
    values = {"my_senders": "mysql:/s.cf", "smtpd_sender_restrictions": "check_sender_access $my_senders, reject"}
    adopted = adopt(values, {"/s.cf": OWN})
    assert adopted.section["maps"]["my_senders"] == {"file": "/s.cf", "query": "SELECT a FROM b WHERE c='%s'"}
    assert adopted.left_out == ()


def test_a_parameter_that_nothing_asks_is_left_out():
    values = {"my_maps": "mysql:/a.cf", "limit_maps": "mysql:/b.cf", "x_maps": "$my_maps, mysql:/c.cf"}
    permitted = {**values, "proxy_read_maps": "$limit_maps", "braced_maps": "unionmap:{mysql:/d.cf}"}
    found = named(permitted, own=("my_maps", "limit_maps", "braced_maps"))
    assert {each.place: each.obstacle.partition(" ")[0] for each in found} == {
        "my_maps": "",
        "limit_maps": "Postfix",
        "x_maps": "",
        "braced_maps": "it",
    }


def test_services_of_master_cf_are_told():
    overrides = {
        "virtual_alias_maps": "mysql:/s.cf",
        "proxy_read_maps": "proxy:mysql:/t.cf",
    }
    adopted = adopt({}, {"/s.cf": OWN}, overrides)
    (text,) = adopted.left_out
    assert text.startswith("submission/inet/virtual_alias_maps: mysql:/s.cf: ") and "master.cf" in text


def test_the_guides_files_need_nothing_but_the_password():
    values = {
        "proxy_read_maps": "$virtual_alias_maps proxy:mysql:/etc/postfix/z.cf",
        "virtual_alias_maps": "mysql:/etc/postfix/mariadb-virtual-alias-maps.cf",
        "virtual_mailbox_domains": "proxy:mysql:$config_directory/mariadb-virtual-mailbox-domains.cf",
        "virtual_mailbox_maps": "hash:/etc/postfix/mailboxes",
    }
    files = {
        "/etc/postfix/mariadb-virtual-alias-maps.cf": ALIASES,
        "/etc/postfix/mariadb-virtual-mailbox-domains.cf": DOMAINS,
    }
    adopted = adopt(values, files)
    assert adopted.section == {
        "database": ACCOUNT,
        "maps": {"virtual_alias_maps": {}, "virtual_mailbox_domains": {"proxy": True}, "virtual_mailbox_maps": None},
    }
    assert adopted.left_out == ()


def test_several_tables_of_a_parameter_keep_their_order():
    """Postfix asks them in that order, and pillar's order is the one of an apply."""
    tables = (
        "mysql:/etc/postfix/mysql-first.cf, mysql:/etc/postfix/mariadb-virtual-alias-maps.cf, mysql:/x/mysql-first.cf"
    )
    paths = [word.partition(":")[2] for word in tables.split(", ")]
    adopted = adopt({"virtual_alias_maps": tables}, dict.fromkeys(paths, OWN))
    maps = {name: entry for name, entry in adopted.section["maps"].items() if entry is not None}
    query = {"query": "SELECT a FROM b WHERE c='%s'"}
    assert list(maps.items()) == [
        ("first", {"parameter": "virtual_alias_maps", "file": "mysql-first.cf", **query}),
        ("virtual_alias_maps", query),
        ("first_2", {"parameter": "virtual_alias_maps", "file": "/x/mysql-first.cf", **query}),
    ]
    pillar = _ispmail_config.instance("ispmail", adopted.section)
    assert [each.path for each in pillar.wanted] == paths


def test_no_map_takes_the_name_of_another_parameter():
    values = {"a_maps": "mysql:/a.cf, mysql:/b_maps.cf, mysql:/virtual_mailbox_maps.cf", "b_maps": "mysql:/c.cf"}
    adopted = adopt(values, dict.fromkeys(["/a.cf", "/b_maps.cf", "/virtual_mailbox_maps.cf", "/c.cf"], OWN))
    names = {name: entry["file"] for name, entry in adopted.section["maps"].items() if entry}
    assert names == {
        "a_maps": "/a.cf",
        "b_maps_2": "/b_maps.cf",
        "virtual_mailbox_maps_2": "/virtual_mailbox_maps.cf",
        "b_maps": "/c.cf",
    }


def test_one_file_in_two_parameters_is_one_map():
    values = {"smtpd_sender_login_maps": "mysql:/a.cf", "virtual_alias_maps": "mysql:/a.cf, mysql:/a.cf"}
    adopted = adopt(values, {"/a.cf": ALIASES})
    assert adopted.section["maps"]["virtual_alias_maps"] == {"file": "/a.cf"}
    assert "smtpd_sender_login_maps" not in adopted.section["maps"]
    assert len(adopted.left_out) == 2
    assert all("its file is already the one of virtual_alias_maps" in text for text in adopted.left_out)


def test_what_most_have_is_shared_and_the_others_keep_their_own():
    other = "user = reader\npassword = s2\nhosts = db1 db2:3307\ndbname = mailserver\nidle_interval = 9\n"
    query = "query = SELECT a FROM b WHERE c='%s'\n"
    without_user = f"hosts = 127.0.0.1\ndbname = mailserver\noption_file = /etc/my.cnf\n{query}"
    files = {"/a.cf": OWN, "/b.cf": OWN, "/c.cf": other + query, "/d.cf": without_user}
    adopted = adopt({f"{name}_maps": f"mysql:/{name}.cf" for name in "abcd"}, files)
    text = {"query": "SELECT a FROM b WHERE c='%s'"}
    assert adopted.section["database"] == ACCOUNT
    assert adopted.section["maps"]["a_maps"] == {"file": "/a.cf", **text}
    assert adopted.section["maps"]["c_maps"] == {
        "file": "/c.cf",
        "user": "reader",
        "password": "THE PASSWORD OF THE ACCOUNT reader",
        "hosts": ["db1", "db2:3307"],
        "idle_interval": 9,
        **text,
    }
    assert adopted.section["maps"]["d_maps"] == {
        "file": "/d.cf",
        "user": None,
        "password": "",
        "option_file": "/etc/my.cnf",
        **text,
    }


def test_a_user_and_its_password_are_shared_together():
    """Else a placeholder would name another account than the one whose password belongs there."""
    logins = {"/a.cf": ("u1", "p1"), "/b.cf": ("u1", "p2"), "/c.cf": ("u2", "p3"), "/d.cf": ("u3", "p1")}
    texts = {
        path: OWN.replace("mailserver\npass", f"{user}\npass").replace("geheim", p)
        for path, (user, p) in logins.items()
    }
    adopted = adopt({f"{path[1]}_maps": f"mysql:{path}" for path in texts}, texts)
    account = "THE PASSWORD OF THE ACCOUNT"
    assert adopted.section["database"]["user"] == "u1"
    assert adopted.section["database"]["password"] == f"{account} u1"
    passwords = {
        name: entry["password"] for name, entry in adopted.section["maps"].items() if entry and "password" in entry
    }
    assert passwords == {"b_maps": f"{account} u1 IN /b.cf", "c_maps": f"{account} u2", "d_maps": f"{account} u3"}


def test_an_account_with_two_passwords_is_told_without_them():
    files = {"/a.cf": OWN, "/b.cf": OWN, "/c.cf": OWN.replace("geheim", "old-one")}
    adopted = adopt({f"{name}_maps": f"mysql:/{name}.cf" for name in "abc"}, files)
    assert adopted.section["database"] == ACCOUNT
    assert adopted.section["maps"]["c_maps"]["password"] == "THE PASSWORD OF THE ACCOUNT mailserver IN /c.cf"
    (text,) = adopted.left_out
    assert text.endswith("a_maps, b_maps; c_maps")
    assert "geheim" not in repr(adopted) and "old-one" not in repr(adopted)


def test_mysql_tables_decide_what_is_shared():
    """The database of a rotation is MySQL's: two tables of PostgreSQL must not take its place."""
    other = OWN.replace("mailserver", "pg").replace("geheim", "pg-secret")
    values = {"a_maps": "pgsql:/a.cf", "b_maps": "pgsql:/b.cf", "c_maps": "mysql:/c.cf", "d_maps": "sqlite:/d.cf"}
    lite = "dbpath = /var/mail.db\nquery = SELECT a FROM b WHERE c='%s'\n"
    adopted = adopt(values, {"/a.cf": other, "/b.cf": other, "/c.cf": OWN, "/d.cf": lite})
    assert adopted.section["database"] == {**ACCOUNT, "dbpath": "/var/mail.db"}
    assert adopted.section["maps"]["a_maps"]["dbname"] == "pg"
    assert adopted.section["maps"]["d_maps"] == {
        "type": "sqlite",
        "file": "/d.cf",
        "query": "SELECT a FROM b WHERE c='%s'",
    }


@pytest.mark.parametrize("other", [OWN, OWN.replace("geheim", "pg-secret")], ids=["the same login", "another password"])
def test_a_table_of_another_database_server_has_a_login_of_its_own(other):
    """An apply refuses one account for two servers: a rotation would change the password of one of them only."""
    adopted = adopt({"a_maps": "pgsql:/a.cf", "b_maps": "mysql:/b.cf"}, {"/a.cf": other, "/b.cf": OWN})
    entry = adopted.section["maps"]["a_maps"]
    assert entry["user"] == "mailserver" and entry["password"].startswith("THE PASSWORD OF THE ACCOUNT mailserver")
    assert _ispmail_config.server_type(adopted.section["maps"]) == ("mysql", [])
    assert "user" not in adopted.section["maps"]["b_maps"]


def test_the_placeholder_is_no_password():
    """It was written into the table files, and made the account's."""
    section = adopt({"virtual_alias_maps": "mysql:/a.cf"}, {"/a.cf": OWN}).section
    with pytest.raises(PillarFault) as caught:
        _ispmail_config.complete("ispmail", section)
    assert [fault.key for fault in caught.value.faults] == ["database:password"]
    assert "is a placeholder for a password" in str(caught.value)


OLD = "user = u\npassword = p\nhosts = 127.0.0.1\ndbname = d\ntable = t\nselect_field = f\nwhere_field = w\n"
QUERIES = {
    "without conditions": ("mysql", OLD, "SELECT f FROM t WHERE w='%s'"),
    "with conditions": (
        "pgsql",
        f"{OLD}additional_conditions = and a = 'x%%'\n  and b",
        "SELECT f FROM t WHERE w='%s' and a = 'x%%'  and b",
    ),
    "a function": ("pgsql", f"{OLD}select_function = lookup", "SELECT lookup('%s')"),
    "no function in MySQL": ("mysql", f"{OLD}select_function = lookup", "SELECT f FROM t WHERE w='%s'"),
    "beside a query": ("mysql", f"{OLD}query = SELECT 1 FROM x WHERE y='%s'", "SELECT 1 FROM x WHERE y='%s'"),
}


@pytest.mark.parametrize("table_type, text, query", QUERIES.values(), ids=QUERIES)
def test_the_old_interface_becomes_a_query(table_type, text, query):
    """dict_mysql(3) and its sisters join the parts just so: see db_common_sql_build_query()."""
    entry, _, left_out = one(text, table_type)
    assert entry["query"] == query
    assert bool(left_out) == ("query = " in text), "beside a query they are ignored, and that is told"
    assert not set(entry) & set(_ispmail_tablefile.OBSOLETE)


def test_values_are_written_as_pillar_has_them():
    keys = "expansion_limit = 007\nrequire_result_set = NO\ndomain = a.test,b.test\nretry_interval = 5\n"
    entry, database, _ = one(f"{OWN}{keys}result_format = %s@x")
    assert database["retry_interval"] == 5
    assert entry["require_result_set"] is False
    assert entry["expansion_limit"] == "007"
    assert entry["domain"] == ["a.test", "b.test"]
    assert entry["result_format"] == "%s@x"


# The file, the version, what is said of it, whether there is a map all the same.
LEFT_OUT = {
    "a misspelt key": (f"{OWN}host = h\n", None, "Postfix would ignore it, an apply takes it out of the file", True),
    "a misspelt key, by its name": (f"{OWN}host = h\n", None, "host is not a key of mysql_table(5)", True),
    "an unknown key": (f"{OWN}SEKRET6 = 1\n", None, "a key that is not shown is not a key of mysql_table(5)", True),
    "the password in a query": (
        f"{OWN}password = Hx7y\ntls_CAfile = Hx7y\n",
        None,
        "tls_CAfile may hold a pass",
        False,
    ),
    "a key that may be a password": (f"{OWN}pässword = Hx7\n", None, "(a key that is not shown)", True),
    "a key of another type": (f"{OWN}encoding = UTF8\n", None, "encoding is a key of pgsql tables", True),
    "a key that is too new": (f"{OWN}charset = utf8mb4\n", "3.7.11", "charset is read from Postfix 3.9 on", True),
    "the old interface beside a query": (f"{OWN}table = t\n", None, "table belongs to Postfix 2.1's", True),
    "a query without an expansion": (f"{HEAD}query = SELECT 1\n", None, "query has no expansion", False),
    "an expansion without quotes": (f"{HEAD}query = SELECT 1 FROM a WHERE b=%s\n", None, "outside quotes", False),
    "no query": (HEAD, None, "query is missing", False),
    "half of the old interface": (f"{HEAD}table = t\nselect_field = f\n", None, "query is missing", False),
    "a line without =": (f"{OWN}\n# c\nHx7\n", None, "damaged (line 8)", False),
    "a value that is not UTF-8": (f"{HEAD}query = SELECT '\udce9' FROM a WHERE b='%s'\n", None, "as UTF-8", False),
    "two lines without =": (f"{OWN}Hx7\nHx7 Hx7\n", None, "damaged (line 6, 7)", False),
    "two reasons": (f"{HEAD}expansion_limit = Hx7\n", None, "at the most; query is missing", False),
    "a boolean": (f"{OWN}require_result_set = Hx7\n", None, "require_result_set must be yes or no", False),
    "a number": (f"{OWN}expansion_limit = Hx7\n", None, "expansion_limit must be a whole number", False),
    "a password in another line": (
        OWN.replace("mailserver\nquery", "mailserver\n password = Hx7\nquery"),
        None,
        "the value of dbname may hold a password",
        False,
    ),
    "a URI of sdb": (OWN.replace("geheim", "sdb://vault/Hx7"), None, "the value of password for a URI", False),
}


@pytest.mark.parametrize("text, version, reason, is_held", LEFT_OUT.values(), ids=LEFT_OUT)
def test_what_pillar_cannot_hold(text, version, reason, is_held):
    entry, _, left_out = one(text, version=version)
    assert any(reason in told for told in left_out), left_out
    assert bool(entry) == is_held
    assert "Hx7" not in repr((entry, left_out))


def test_a_password_in_a_uri_is_not_shown():
    uri = OWN.replace("hosts = 127.0.0.1", "hosts = postgresql://u:Hx7@db/mail")
    entry, _, left_out = one(uri, "pgsql")
    assert entry is None and "holds a password in a URI" in left_out[0] and "Hx7" not in repr(left_out)


@pytest.mark.parametrize(
    "source, reason, is_held",
    [
        (Source(None), "there is no such file", False),
        (Source(None, error="/a.cf cannot be read: Input/output error"), "Input/output error", False),
        (Source(OWN.encode(), ownership="mail:mail 0644"), "its file is mail:mail 0644, an apply changes that", True),
    ],
    ids=["missing", "unreadable", "another owner"],
)
def test_what_is_wrong_with_the_file(source, reason, is_held):
    tables = named({"x_maps": "mysql:/a.cf"})
    adopted = _ispmail_adopt.adopt(tables, {"/a.cf": source}, "/etc/postfix")
    assert ("x_maps" in adopted.section["maps"]) == is_held
    (text,) = adopted.left_out
    assert text.startswith("x_maps: mysql:/a.cf: ") and reason in text


def test_a_table_without_a_password_has_an_empty_one():
    """Pillar asks for a password; to Postfix a missing one is an empty one."""
    entry, database, _ = one("dbname = m\nhosts = unix:/run/x\nquery = SELECT a FROM b WHERE c='%s'\n", "pgsql")
    assert database == {"user": None, "password": "", "hosts": "unix:/run/x", "dbname": "m"} and "password" not in entry


def test_the_directory_is_named_where_it_is_not_the_default():
    tables = named({"config_directory": "/etc/postfix-out", "a_maps": "mysql:$config_directory/a.cf"})
    adopted = _ispmail_adopt.adopt(tables, {"/etc/postfix-out/a.cf": Source(OWN.encode())}, "/etc/postfix-out")
    assert adopted.section["postfix"] == {"config_directory": "/etc/postfix-out"}
    assert adopted.section["maps"]["a_maps"]["file"] == "a.cf"


def test_a_server_without_sql_tables():
    assert adopt({"virtual_alias_maps": "hash:/etc/aliases"}, {}) == _ispmail_adopt.Adopted(
        {"maps": dict.fromkeys(_ispmail_config.MAPS)}, ()
    )


VALUES = st.sampled_from(["a", "b", "c d", "x'y", "1", "yes", "null", "a: b", "#c"])
HOSTS = st.sampled_from(["h1", "h1 h2:3307", "127.0.0.1"])
FILES = st.lists(
    st.fixed_dictionaries(
        {"dbname": VALUES},
        optional={
            "user": VALUES,
            "password": st.sampled_from(["p1-long", "p2-long"]),
            "tls_CAfile": VALUES,
            "option_file": VALUES,
            "hosts": HOSTS,
        },
    ),
    min_size=1,
    max_size=5,
)


@given(FILES)
def test_pillar_with_the_passwords_gives_the_same_tables(files):
    """Whatever is shared and whatever is not: each table file has the keys that it had."""
    texts = {
        f"/{number}.cf": "".join(f"{key} = {value}\n" for key, value in keys.items()) + "query = SELECT '%s'\n"
        for number, keys in enumerate(files)
    }
    adopted = adopt({f"p{path[1]}": f"mysql:{path}" for path in texts}, texts)
    section = dict(adopted.section)
    for entry in [section["database"], *filter(None, section["maps"].values())]:
        if str(entry.get("password")).startswith("THE PASSWORD"):
            entry["password"] = "filled-in"
    for each in _ispmail_config.complete("ispmail", section).maps:
        keys = _ispmail_tablefile.parse(texts[each.path])
        if keys.get("password"):
            keys["password"] = "filled-in"
        keys.setdefault("password", "")
        assert _ispmail_tablefile.parse(each.text) == _ispmail_tablefile.canonicalize("mysql", keys)


def test_values_are_those_of_pillar():
    """Lists, numbers and booleans are written as such, and a number that Postfix reads otherwise as a text."""
    text = f"{OWN}tls_verify_cert = yes\nexpansion_limit = 7\ndomain = a.test, b.test\nretry_interval = 007\n"
    own, shared, _ = one(text)
    entry = {**shared, **own}
    assert entry["tls_verify_cert"] is True and entry["expansion_limit"] == 7
    assert entry["domain"] == ["a.test", "b.test"] and entry["retry_interval"] == "007"


def test_a_table_without_a_login_has_no_password():
    entry, database, _ = one("dbpath = /x.db\nquery = SELECT a FROM b WHERE c='%s'\n", "sqlite")
    assert "password" not in entry and "password" not in (database or {})


def test_what_depends_on_the_parameter_is_checked():
    entry, _, (text,) = one(f"{DOMAINS}domain = a.test\n", parameter="virtual_mailbox_domains")
    assert entry is None and "domain stops every question of virtual_mailbox_domains" in text


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("mysql-first-one.cf", "first_one"),
        ("mariadb.a+b.c", "a_b.c"),
        ("pgsql_ä.cf", "_"),
        ("sqlite-.cf", "map"),
        ("x.cf.cf", "x.cf"),
    ],
)
def test_a_second_map_of_a_parameter_is_named_after_its_file(file, name):
    """In characters that pillar takes for the name of a map."""
    adopted = adopt({"x_maps": f"mysql:/a.cf, mysql:/b/{file}"}, {"/a.cf": OWN, f"/b/{file}": OWN})
    assert adopted.section["maps"][name]["file"] == f"/b/{file}"
    assert _ispmail_config.instance("ispmail", adopted.section)


def test_the_login_that_most_have_is_shared_not_the_most_frequent_user():
    """Three passwords of one user are three logins, and the one that two maps have goes before them."""
    logins = ["u1 p1-long", "u1 p2-long", "u1 p3-long", "u2 p4-long", "u2 p4-long"]
    files = {}
    for number, login in enumerate(logins):
        user, password = login.split()
        files[f"/{number}.cf"] = OWN.replace("mailserver\npass", f"{user}\npass").replace("geheim", password)
    adopted = adopt({f"p{path[1]}": f"mysql:{path}" for path in files}, files)
    account = "THE PASSWORD OF THE ACCOUNT"
    assert (adopted.section["database"]["user"], adopted.section["database"]["password"]) == ("u2", f"{account} u2")
    assert adopted.section["maps"]["p0"]["password"] == f"{account} u1 IN /0.cf"
    assert not {"user", "password"} & set(adopted.section["maps"]["p4"])


def test_the_placeholder_of_a_password_without_a_user():
    _, database, _ = one(OWN.replace("user = mailserver\n", ""))
    assert database["password"] == "THE PASSWORD OF THE ACCOUNT (without a name)"
