"""The pillar of ispmail: the guide's set-up by default, every fault with its key."""

import contextlib
import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

import _ispmail_config
import _ispmail_config_consumers
import _ispmail_config_database
import _ispmail_errors
import _ispmail_tablefile
from _ispmail_config import Answer
from _ispmail_errors import InvalidInput, PillarFault
from tests.unit.table_files import yaml

PASSWORD = {"database": {"password": "pw"}}
SENDERS = {"parameter": "smtpd_sender_login_maps", "query": "SELECT email FROM virtual_users WHERE email='%s'"}


def assembled(config):
    """What pillar asks for, and its faults; values of table keys are not looked at."""
    return _ispmail_config.assemble("ispmail", {**PASSWORD, **config})


def maps(config):
    return assembled(config)[0].maps


def faults(config):
    return [(fault.key, str(fault).removeprefix(f"{fault.key} ")) for fault in assembled(config)[1]]


def only(config):
    (found,) = maps(config)
    return found


# The guide's three maps, none of which is wanted: what else is there stands alone.
NO_DEFAULTS = dict.fromkeys(_ispmail_config.MAPS)


def test_a_password_is_all_that_the_guides_set_up_needs():
    """To the byte: order, names of files, keys in their order."""
    result = _ispmail_config.complete("ispmail", PASSWORD)
    assert result.answers == ()
    assert result.config_directory == "/etc/postfix"
    assert [(each.name, each.parameter, each.type, each.proxy, each.path, each.wanted) for each in result.maps] == [
        (name, name, "mysql", False, f"/etc/postfix/mariadb-{file}.cf", True)
        for name, file in (
            ("virtual_mailbox_domains", "virtual-mailbox-domains"),
            ("virtual_alias_maps", "virtual-alias-maps"),
            ("virtual_mailbox_maps", "virtual-mailbox-maps"),
        )
    ]
    assert [each.text for each in result.maps] == [
        f"user = mailserver\npassword = pw\nhosts = 127.0.0.1\ndbname = mailserver\nquery = {query}\n"
        for query in (
            "SELECT 1 FROM virtual_domains WHERE name='%s'",
            "SELECT destination FROM virtual_aliases WHERE source='%s'",
            "SELECT 1 FROM virtual_users WHERE email='%s'",
        )
    ]


def test_the_source_of_each_key_is_the_one_to_fix():
    found = maps({"maps": {"virtual_alias_maps": {"hosts": "10.0.0.1", "charset": "x"}}})[-1]
    assert found.sources == {
        "user": "database:user",
        "password": "database:password",
        "dbname": "database:dbname",
        "hosts": "maps:virtual_alias_maps:hosts",
        "charset": "maps:virtual_alias_maps:charset",
        "query": "maps:virtual_alias_maps:query",
    }
    assert found.keys["hosts"] == "10.0.0.1"


def test_null_leaves_a_default_map_out_but_tells_where_it_lives():
    """remove needs the path also of a map that pillar no longer wants."""
    config = {**PASSWORD, "maps": {"virtual_alias_maps": None}}
    assert [(each.name, each.wanted) for each in _ispmail_config.instance("ispmail", config).maps] == [
        ("virtual_mailbox_domains", True),
        ("virtual_mailbox_maps", True),
        ("virtual_alias_maps", False),
    ]
    assert [each.name for each in maps(config)] == ["virtual_mailbox_domains", "virtual_mailbox_maps"]


ORDERS = [
    ({"a": SENDERS, "b": SENDERS}, [*_ispmail_config.MAPS, "a", "b"]),
    ({"b": SENDERS, "a": SENDERS}, [*_ispmail_config.MAPS, "b", "a"]),
    (
        {"z": SENDERS, "virtual_mailbox_maps": {}},
        ["virtual_mailbox_domains", "virtual_alias_maps", "z", "virtual_mailbox_maps"],
    ),
]


@pytest.mark.parametrize("given, names", ORDERS)
def test_maps_keep_pillars_order_behind_the_defaults(given, names):
    assert [each.name for each in maps({"maps": given})] == names


PLACES = [
    ({"parameter": "relay_domains"}, {"parameter": "relay_domains", "path": "/etc/postfix/mariadb-x-y.cf"}),
    ({"type": "pgsql"}, {"type": "pgsql", "path": "/etc/postfix/pgsql-x-y.cf"}),
    ({"type": "sqlite"}, {"type": "sqlite", "path": "/etc/postfix/sqlite-x-y.cf"}),
    ({"proxy": True}, {"proxy": True, "secret": False}),
    ({"secret": True}, {"secret": True}),
    ({"file": "x.cf"}, {"path": "/etc/postfix/x.cf"}),
    ({"file": "sub/../x.cf"}, {"path": "/etc/postfix/x.cf"}),
    ({"file": "/srv//x.cf"}, {"path": "/srv/x.cf"}),
]


@pytest.mark.parametrize("entry, expected", PLACES)
def test_where_a_map_lives(entry, expected):
    found = only({"maps": {**NO_DEFAULTS, "x_y": entry}})
    expected = {"name": "x_y", "parameter": "x_y", "proxy": False, **expected}
    assert {key: getattr(found, key) for key in expected} == expected
    assert set(found.keys).isdisjoint(entry)


@pytest.mark.parametrize("directory", ["/etc/postfix-out", "/etc/postfix-out/", "/etc//postfix/../postfix-out"])
def test_another_instance(directory):
    result, _ = assembled({"postfix": {"config_directory": directory}})
    assert result.config_directory == "/etc/postfix-out"
    assert result.maps[0].path == "/etc/postfix-out/mariadb-virtual-mailbox-domains.cf"


@pytest.mark.parametrize(
    "type_, keys",
    [
        ("mysql", {"user", "password", "hosts", "dbname", "charset", "tls_CAfile"}),
        ("pgsql", {"user", "password", "hosts", "dbname", "encoding"}),
        ("sqlite", {"dbpath"}),
    ],
)
def test_a_shared_key_goes_only_to_types_that_know_it(type_, keys):
    """A password in a sqlite table is a fault that nobody wrote."""
    shared = {"password": "pw", "charset": "utf8mb4", "encoding": "UTF8", "tls_CAfile": "/ca", "dbpath": "/srv/m.db"}
    found = only({"database": shared, "maps": {**NO_DEFAULTS, "x": {"type": type_}}})
    assert set(found.keys) == keys
    assert faults({"database": shared}) == []


def test_a_maps_own_key_wins():
    shared = {"password": "pw", "user": "shared"}
    config = {"database": shared, "maps": {"virtual_alias_maps": {"query": "SELECT own", "user": "own"}}}
    keys = {each.name: each.keys for each in maps(config)}
    assert (keys["virtual_alias_maps"]["query"], keys["virtual_alias_maps"]["user"]) == ("SELECT own", "own")
    assert keys["virtual_mailbox_maps"]["user"] == "shared"


def test_a_maps_own_key_is_kept_although_its_type_does_not_know_it():
    """So that it can be reported: left out in silence, nobody would know."""
    found = only({"maps": {**NO_DEFAULTS, "x": {"type": "sqlite", "password": "x"}}})
    assert found.keys == {"password": "x"}


# Pillar beside a password; the one fault: its key, words of its sentence.
FAULTS = [
    ({"databse": {}}, "databse", "is database meant?"),
    ({"zzz": 1}, "zzz", "known are preset, database, server, maps"),
    ({5: 1}, "5", "not a key of ispmail"),
    ({"database": "x"}, "database", "must be a mapping: see pillar.example"),
    ({"database": ["password"]}, "database", "must be a mapping: see pillar.example"),
    ({"maps": []}, "maps", "must be a mapping: see pillar.example"),
    ({"maps": ["virtual_alias_maps"]}, "maps", "must be a mapping: see pillar.example"),
    ({"maps": "virtual_alias_maps"}, "maps", "must be a mapping: see pillar.example"),
    ({"answers": {"map": "x"}}, "answers", "must be a list: see pillar.example"),
    ({"answers": "x"}, "answers", "must be a list: see pillar.example"),
    ({"postfix": "/etc/postfix"}, "postfix", "must be a mapping: see pillar.example"),
    ({"packages": "yes"}, "packages", "must be true or false: see pillar.example"),
    ({"packages": 1}, "packages", "must be true or false: see pillar.example"),
    ({"database": {"password": "x", "passwort": "y"}}, "database:passwort", "is password meant?"),
    ({"database": {"password": "x", "pasword": "y"}}, "database:pasword", "is password meant?"),
    ({"database": {"password": "x", "port": 3307}}, "database:port", "write it into hosts, as in 127.0.0.1:3307"),
    ({"postfix": {"server": "x"}}, "postfix:server", "known are config_directory"),
    ({"database": {"password": "x", 5: "y"}}, "database:5", "not a key"),
    ({"database": {"password": "x", True: "y"}}, "database:True", "not a key"),
    ({"database": {}}, "database:password", "is missing"),
    ({"database": None}, "database:password", "is missing: it has no default"),
    (
        {"database": {"option_file": "/x.cnf"}},
        "database:password",
        "is missing: write it, or '' for an account that has",
    ),
    (
        {"database": {}, "maps": {"x": {**SENDERS, "option_file": "/x"}}},
        "database:password",
        "none from an option_file",
    ),
    ({"database": {"password": None}}, "database:password", "is missing"),
    (
        {"maps": {"x": {**SENDERS, "password": None}}},
        "maps:x:password",
        "is null: write it, or take the line out: then that of database is taken",
    ),
    (
        {"maps": {"x": {**SENDERS, "password": None, "option_file": "/x"}}},
        "maps:x:password",
        "none from an option_file",
    ),
    ({"maps": {"x": {**SENDERS, "prox": True}}}, "maps:x:prox", "is not a key of ispmail: is proxy meant?"),
    ({"maps": {"x": {**SENDERS, "typ": "pgsql"}}}, "maps:x:typ", "is type meant?"),
    ({"maps": {"x": {**SENDERS, "parametr": "y"}}}, "maps:x:parametr", "is parameter meant?"),
    ({"maps": {"x": {**SENDERS, "querry": "y"}}}, "maps:x:querry", "is query meant?"),
    ({"maps": {"x": {**SENDERS, "port": 3307}}}, "maps:x:port", "write it into hosts, as in"),
    ({"maps": {"x": {**SENDERS, "timeout": 5}}}, "maps:x:timeout", "known are user, password"),
    ({"maps": {"x": {**SENDERS, "password:TOKEN": 1}}}, "maps:x:(a key that is not shown)", "is a blank missing"),
    ({"maps": {"x": {**SENDERS, 1 << 20000: 1}}}, "maps:x:(a key that is not shown)", "is a blank missing"),
    ({1 << 20000: 1}, "(a key that is not shown)", "is not a key of ispmail"),
    ({"maps": {1 << 20000: SENDERS}}, "maps:(a key that is not shown)", "put it in quotes"),
    ({"maps": {"x": {**SENDERS, "type": 1 << 20000}}}, "maps:x:type", "must be one of mysql"),
    (
        {"maps": {"x": {**SENDERS, "type": "pgsql"}}},
        "maps:x:type",
        "is pgsql, but that of virtual_mailbox_domains is mysql, and one account is of one database server",
    ),
    (
        {"maps": NO_DEFAULTS, "answers": [{"map": "x", "question": "q", "answer": True}]},
        "answers:0:map",
        "names a map, and pillar has none: take it out, or add the map to maps",
    ),
    *(({"history": value}, "history", "a whole number from 0 to 100") for value in (1 << 20000, -1)),
    ({"database": {}, "maps": {**NO_DEFAULTS, "x": {"type": "pgsql"}}}, "database:password", "is missing"),
    ({"postfix": {"config_dir": "/x"}}, "postfix:config_dir", "is config_directory meant?"),
    ({"rotation": {"bach": 1}}, "rotation:bach", "is batch meant?"),
    *(
        ({"rotation": {"batch": value}}, "rotation:batch", "a number of servers, or a share")
        for value in (0, "0%", "101%", -1, "some", None, True, "25 %", 1.5, 1 << 20000, "1" * 5000, float("inf"))
    ),
    *(
        ({"rotation": {"drain": value}}, "rotation:drain", "a number of seconds")
        for value in (-1, "60", True, None, 1 << 20000)
    ),
    *(({"instances": value}, "instances", "a list of other pillar keys") for value in ([5], [""], ["ispmail", None])),
    *(
        ({"instances": [value]}, "instances", "a list of other pillar keys")
        for value in ("a b", "a:b", "a\n", "pass:word")
    ),
    *(
        ({"maps": {"x": {**SENDERS, "file": value}}}, "maps:x:file", "a file of each change's own")
        for value in (
            ".a.cf.new",
            ".a.cf.old",
            ".main.cf.new",
            "main.cf.tmp",
            "/x/master.cf.tmp",
            "a.cf.before-ispmail",
        )
    ),
    *(
        ({"maps": {"x": {**SENDERS, "file": value}}}, "maps:x:file", "at most 240 bytes")
        for value in ("x" * 241, "ü" * 121, "\ud800", "\u202e", "a\x7f")
    ),
    *(
        ({"postfix": {"config_directory": value}}, "postfix:config_directory", "absolute path")
        for value in ("etc/postfix", "", "/a b", "/a,b", "/$x", "/{x}", "/a\n", "/a\0b", 5, ["/x"])
    ),
    *(({"maps": {"x": value}}, "maps:x", "must be a mapping, or null") for value in ("y", [], False, 0, ["y"], 5, "")),
    *(
        ({"maps": {value: SENDERS}}, f"maps:{_ispmail_tablefile.shown_key(value)}", "letters, digits")
        for value in ("a b", "", "a/b", "a:b", "ä", "a\n")
    ),
    ({"maps": {1: SENDERS}}, "maps:1", "must be"),
    ({"maps": {"a b": {"query": "SELECT 1"}}}, "maps:(a key that is not shown)", "letters, digits"),
    (
        {"maps": {"x": {**SENDERS, "parameter": "smtpd_sender_restrictions"}}},
        "maps:x:parameter",
        "is a list of restrictions, no list of tables",
    ),
    *(
        ({"maps": {"x": {**SENDERS, "parameter": value}}}, "maps:x:parameter", "name of a main.cf parameter")
        for value in ("", "a b", "$a", "a=b", "-x", "1a", "a\n", None, 5, ["a"], {})
    ),
    ({"maps": {"a-b": {}}}, "maps:a-b:parameter", "name of a main.cf parameter"),
    *(
        ({"maps": {"x": {**SENDERS, "type": value}}}, "maps:x:type", "must be one of mysql, pgsql, sqlite")
        for value in ("MySQL", "ldap", "", None, 5, ["mysql"], {"mysql": 1})
    ),
    *(
        ({"maps": {"x": {**SENDERS, key: value}}}, f"maps:x:{key}", "must be true or false")
        for key in ("proxy", "secret")
        for value in ("true", "yes", None, 1, 0, [])
    ),
    *(
        ({"maps": {"x": {**SENDERS, "file": value}}}, "maps:x:file", "must be a file name")
        for value in ("", "a b", "a,b", "a:b", "$a", "{a}", "a\n", "a\0b", None, 5, ["a"], "..", ".", "/", "a/")
    ),
    *(
        ({"maps": {"x": {**SENDERS, "file": value}}}, "maps:x:file", "Postfix's own")
        for value in ("main.cf", "master.cf", "/etc/postfix/main.cf", "a/../main.cf", "dynamicmaps.cf", "main.cf.proto")
    ),
    (
        {"maps": {"x": {**SENDERS, "file": "mariadb-virtual-alias-maps.cf"}}},
        "maps:x:file",
        "is the file of virtual_alias_maps too",
    ),
    ({"maps": {"a": {**SENDERS, "file": "x"}, "b": {**SENDERS, "file": "./x"}}}, "maps:b:file", "is the file of a too"),
    ({"maps": {"a_b": SENDERS, "a-b": SENDERS}}, "maps:a-b:file", "is the file of a_b too"),
    *(({"answers": [value]}, "answers:0", "mapping of map") for value in (None, "x", [], 5)),
    *(
        ({"answers": [{"map": value, "question": "q", "answer": True}]}, "answers:0:map", "must be one of the maps")
        for value in ("x", None, 5, ["virtual_alias_maps"], {})
    ),
    *(
        (
            {"answers": [{"map": "virtual_alias_maps", "question": value, "answer": True}]},
            "answers:0:question",
            "one line",
        )
        for value in ("", "-", "a\nb", "a\0", None, 5, True, ["q"])
    ),
    *(
        (
            {"answers": [{"map": "virtual_alias_maps", "question": "q", "answer": value}]},
            "answers:0:answer",
            "must be a text",
        )
        for value in ("", None, [], 1.5, {}, [None], [{}], [["a"]], [""], 1 << 20000, [1 << 20000], [True])
    ),
    *(
        (
            {"answers": [{key: value for key, value in {**at, "answer": True}.items() if key != gone}]},
            f"answers:0:{gone}",
            "missing",
        )
        for at in [{"map": "virtual_alias_maps", "question": "q"}]
        for gone in ("map", "question", "answer")
    ),
    (
        {"answers": [{"map": "virtual_alias_maps", "question": "q", "answer": True, "anwser": 1}]},
        "answers:0:anwser",
        "is answer meant?",
    ),
    (
        {
            "maps": {"virtual_alias_maps": None},
            "answers": [{"map": "virtual_alias_maps", "question": "q", "answer": False}],
        },
        "answers:0:map",
        "must be one of the maps: virtual_mailbox_domains, virtual_mailbox_maps",
    ),
]


@pytest.mark.parametrize("config, key, words", FAULTS)
def test_each_fault_is_reported_with_its_key(config, key, words):
    found = faults(config)
    assert [(at, words in sentence) for at, sentence in found] == [(key, True)], found


ALLOWED = [
    dict.fromkeys(("maps", "answers", "postfix", "packages")),
    {"packages": False},
    {"packages": True},
    {"instances": ["ispmail_submission"]},
    *({"rotation": {"batch": value}} for value in (1, "1", "100%", "25%", 10)),
    {"rotation": {"drain": 0}},
    {"consumers": {}},
    {"maps": {"x": {**SENDERS, "file": "x" * 240}}},
    {"answers": []},
    {"postfix": {}},
    {"maps": {"virtual_alias_maps": {}}},
    {"maps": NO_DEFAULTS, "database": {}},
    {"maps": {**NO_DEFAULTS, "x": {"type": "sqlite"}}, "database": {}},
    {"database": {"option_file": "/etc/mysql/my.cnf", "password": ""}},
    {"database": {}, "maps": {name: {"password": "x"} for name in _ispmail_config.MAPS}},
    {"database": {"password": ""}},
    {"maps": {"virtual_alias_maps": None, "x": {**SENDERS, "file": "mariadb-virtual-alias-maps.cf"}}},
    {"maps": {"x": {**SENDERS, "file": "my-main.cf"}}},
]


@pytest.mark.parametrize("config", ALLOWED)
def test_what_is_no_fault(config):
    assert faults(config) == []


def test_a_bad_file_name_is_no_clash():
    """Two of them became one name of ours, and each other's clash."""
    found = faults({"maps": {"a": {**SENDERS, "file": "a b"}, "b": {**SENDERS, "file": "c d"}}})
    assert [(key, "file name" in sentence) for key, sentence in found] == [("maps:a:file", True), ("maps:b:file", True)]
    assert only({"maps": {**NO_DEFAULTS, "a": {**SENDERS, "file": "a b"}}}).path == "/etc/postfix/none-a"


def test_every_fault_is_reported_at_once():
    config = {
        "zzz": 1,
        "packages": "x",
        "database": {"passwort": "x"},
        "postfix": {"config_directory": "x"},
        "maps": {"a": {"type": "x", "proxy": "x", "parameter": "-", "file": " "}, "b": 5},
        "answers": [{"map": "x", "question": "", "answer": ""}, 5],
    }
    assert [fault.key for fault in _ispmail_config.assemble("ispmail", config)[1]] == [
        "zzz",
        "packages",
        "postfix:config_directory",
        "maps:a:parameter",
        "maps:a:type",
        "maps:a:proxy",
        "maps:a:file",
        "maps:b",
        "database:passwort",
        "database:password",
        "answers:0:map",
        "answers:0:question",
        "answers:0:answer",
        "answers:1",
    ]


ANSWERS = [
    ("a@example.org", "a@example.org"),
    (True, True),
    (False, False),
    (1, "1"),
    (0, "0"),
    (["a", "b"], "a,b"),
    (["a"], "a"),
    ([1, 2], "1,2"),
]


@pytest.mark.parametrize("answer, expected", ANSWERS)
def test_answers_of_all_kinds(answer, expected):
    result, wrong = assembled({"answers": [{"map": "virtual_alias_maps", "question": "q", "answer": answer}]})
    assert wrong == []
    assert result.answers == (Answer("virtual_alias_maps", "q", expected),)
    assert type(result.answers[0].answer) is type(expected)


def test_a_good_answer_beside_a_bad_one_is_kept():
    good = {"map": "virtual_alias_maps", "question": "q", "answer": True}
    result, wrong = assembled({"answers": [{**good, "question": ""}, good]})
    assert result.answers == (Answer(**good),)
    assert [fault.key for fault in wrong] == ["answers:0:question"]


@pytest.mark.parametrize("config", [None, [], "text", 5, True])
@pytest.mark.parametrize(
    "function",
    [_ispmail_config.instance, _ispmail_config.assemble, _ispmail_config.complete, _ispmail_config_database.database],
)
def test_the_pillar_must_be_a_mapping(function, config):
    with pytest.raises(InvalidInput, match="mapping"):
        function("ispmail", config)


def test_where_maps_live_needs_no_password():
    """Maps can be read and removed also where the password is gone."""
    assert len(_ispmail_config.instance("ispmail", {"database": None}).maps) == 3


def test_faults_of_pillar_and_of_table_keys_are_listed_together():
    config = {
        "database": {"password": "a\nb", "hosts": "x"},
        "zzz": 1,
        "maps": {"virtual_alias_maps": {"query": "DROP"}},
    }
    with pytest.raises(InvalidInput) as caught:
        _ispmail_config.complete("other", config)
    head, *lines = str(caught.value).split("\n- ")
    assert head == "Pillar has errors, nothing was changed:"
    # A shared key's fault once, though three maps have it.
    assert [line.partition(" ")[0] for line in lines] == [
        "other:zzz",
        "other:database:password",
        "other:maps:virtual_alias_maps:query",
        "other:maps:virtual_alias_maps:query",
    ]
    assert "a\nb" not in str(caught.value)


def test_pillar_is_not_changed():
    """__pillar__ lives as long as the minion."""
    config = {**PASSWORD, "maps": {"x": {**SENDERS, "hosts": ["a"]}, "virtual_alias_maps": {"hosts": "b"}}}
    before = copy.deepcopy([config, _ispmail_config.MAPS, _ispmail_config.DATABASE])
    maps(config)[0].keys["user"] = "other"
    assert [config, _ispmail_config.MAPS, _ispmail_config.DATABASE] == before


_NAMES = ["database", "maps", "answers", "postfix", "packages", "virtual_alias_maps", "x"]
_KEYS = ["type", "file", "proxy", "parameter", "password", "map", "question", "answer", "config_directory"]
_deep = st.recursive(
    yaml(_KEYS), lambda inner: st.dictionaries(st.sampled_from(_NAMES + _KEYS), inner, max_size=5), max_leaves=6
)


@given(st.dictionaries(st.sampled_from(_NAMES[:5]), _deep | st.lists(_deep, max_size=3)))
def test_no_structure_breaks_it(config):
    """Pillar may hold anything: it is refused in a sentence, never with a traceback."""
    result, wrong = _ispmail_config.assemble("ispmail", config)
    assert {(type(fault.key), type(str(fault))) for fault in wrong} <= {(str, str)}
    assert all(each.path.startswith("/") for each in result.maps)
    assert {each.type for each in result.maps} <= set(_ispmail_tablefile.TYPES)
    for function in (_ispmail_config.instance, _ispmail_config.complete, _ispmail_config_database.database):
        with contextlib.suppress(InvalidInput):
            function("ispmail", config)


# Each section, with a list and a mapping in it.
WHOLE = {
    "database": {"password": "pw", "hosts": ["127.0.0.1"]},
    "server": {"host": "db", "accounts_host": ["%"], "known_accounts": ["webmail"]},
    "maps": {"virtual_alias_maps": {"domain": ["example.org"]}},
    "answers": [{"map": "virtual_alias_maps", "question": "a", "answer": ["b"]}],
    "postfix": {"config_directory": "/etc/postfix"},
    "instances": ["other"],
    "consumers": {"dovecot": {"option_file": "/etc/dovecot/a.cnf"}, "webmail": {"holds": ["/etc/x"]}},
    "rotation": {"batch": 1},
}
READERS = (
    lambda section: _ispmail_config.complete("ispmail", section),
    lambda section: _ispmail_config.instance("ispmail", section),
    lambda section: _ispmail_config_consumers.logins("ispmail", section),
    lambda section: _ispmail_config_database.database("ispmail", section),
)


# Sections whose keys are known.
FIXED = [
    *((), ("database",), ("server",), ("maps", "virtual_alias_maps"), ("answers", 0), ("postfix",), ("rotation",)),
    *(("consumers", name) for name in ("dovecot", "webmail")),
]


def places(value, path=()):
    """The path of each mapping and list in it."""
    if isinstance(value, (dict, list)):
        yield path
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(item, (*path, key))


@pytest.mark.parametrize(
    "key", ["password:SECRET-1", "password SECRET-1", "SECRET 1", "- SECRET", "SECRET" * 9, "Ü-SECRET"]
)
@pytest.mark.parametrize("place", list(places(WHOLE)), ids=lambda place: ":".join(map(str, place)))
def test_a_blank_that_was_forgotten_behind_a_colon_tells_nothing(place, key):
    """YAML reads {password:SECRET, hosts: x} as a key that holds the password, in any section."""
    section = copy.deepcopy(WHOLE)
    target = section
    for step in place:
        target = target[step]
    if isinstance(target, dict):
        target[key] = None
    else:
        target.append(key)
    said = []
    for reader in READERS:
        try:
            reader(section)
        except InvalidInput as err:
            said.append(str(err))
    assert said or place not in FIXED
    assert "SECRET" not in repr(said)


def test_each_map_is_validated_once(monkeypatch):
    """It was validated once more when its text was written: a third of what pillar costs an apply."""
    validated = []
    validate = _ispmail_tablefile.validate
    monkeypatch.setattr(
        _ispmail_tablefile, "validate", lambda *args, **options: validated.append(args) or validate(*args, **options)
    )
    found = _ispmail_config.complete("ispmail", {"database": {"password": "x"}})
    assert len(validated) == len(found.maps) == 3
    assert [each.text for each in found.maps] == [
        _ispmail_tablefile.text_of(_ispmail_tablefile.canonicalize(each.type, each.keys)) for each in found.maps
    ]


@pytest.mark.parametrize(
    ("name", "whose"),
    [
        *((name, "Postfix's own") for name in ("main.cf", "master.cf", "dynamicmaps.cf")),
        *((name, "Postfix's own") for name in ("main.cf.proto", "master.cf.proto")),
        *(
            (name, "each change's own: it would be replaced or deleted")
            for name in (".x.cf.new", ".x.cf.old", "main.cf.tmp", "master.cf.tmp", "x.cf.before-ispmail")
        ),
        *((name, "") for name in ("x.cf", "x.cf.new", ".x.cf", "main.cf.old", "x.tmp", "before-ispmail", ".newer")),
    ],
)
def test_whose_file_a_name_is(name, whose):
    assert _ispmail_config.owner_of(name) == whose


@pytest.mark.parametrize(
    ("proxy", "proxied", "table"),
    [
        (True, True, "proxy:mysql:/etc/postfix/x.cf"),
        (True, False, "mysql:/etc/postfix/x.cf"),
        (False, True, "mysql:/etc/postfix/x.cf"),
        (False, False, "mysql:/etc/postfix/x.cf"),
    ],
)
def test_how_main_cf_writes_a_map(proxy, proxied, table):
    one = only({"maps": {**NO_DEFAULTS, "x": {"proxy": proxy, "file": "x.cf"}}})
    assert one.table(proxied) == table and one.table() == one.table(True)


def test_what_is_doubtful_is_in_the_result():
    section = {**PASSWORD, "maps": {"x": {"parameter": "virtual_alias_maps", "query": "SELECT '%s' -- y"}}}
    assert any("has a -- or # comment" in warning for warning in _ispmail_config.complete("ispmail", section).warnings)


def test_a_bad_parameter_is_told_and_the_rest_of_the_map_is_read():
    for bad in (5, "a b", None, "-x"):
        found, wrong = assembled({"maps": {**NO_DEFAULTS, "x": {"parameter": bad, "file": "y.cf"}}})
        assert [(each.parameter, each.path) for each in found.maps] == [("x", "/etc/postfix/y.cf")]
        assert "maps:x:parameter" in [fault.key for fault in wrong]


def test_a_fault_of_a_shared_key_is_told_once_and_one_of_each_maps_own_as_often():
    shared = {"database": {"password": "pw", "hosts": "[::1]"}}
    with pytest.raises(_ispmail_errors.PillarFault) as caught:
        _ispmail_config.complete("ispmail", shared)
    assert str(caught.value).count("database:hosts has an IPv6 address") == 1
    own = {name: {"query": "SELECT 1"} for name in _ispmail_config.MAPS}
    with pytest.raises(_ispmail_errors.PillarFault) as caught:
        _ispmail_config.complete("ispmail", {**PASSWORD, "maps": own})
    assert [name for name in own if f"maps:{name}:query has no expansion" in str(caught.value)] == list(own)


def test_a_fault_of_a_shared_key_is_told_where_one_map_alone_has_it():
    section = {"database": {"password": "pw", "hosts": "[::1]"}, "maps": {**NO_DEFAULTS, "x": {"query": "SELECT '%s'"}}}
    with pytest.raises(_ispmail_errors.PillarFault) as caught:
        _ispmail_config.complete("ispmail", section)
    assert "database:hosts" in [fault.key for fault in caught.value.faults]


def test_a_fault_of_a_key_that_is_missing_or_not_shown_is_the_maps():
    for entry, key in (({}, "query"), ({"query": "SELECT '%s'", "a:b": 1}, "(a key that is not shown)")):
        section = {**PASSWORD, "maps": {**NO_DEFAULTS, "x": {"parameter": "virtual_alias_maps", **entry}}}
        with pytest.raises(_ispmail_errors.PillarFault) as caught:
            _ispmail_config.complete("ispmail", section)
        assert [fault.key for fault in caught.value.faults] == [f"maps:x:{key}"]


def test_where_the_guides_account_logs_in_from():
    assert _ispmail_config_database.DEFAULT_ACCOUNT_HOST == "127.0.0.1"


def test_all_faults_of_a_shared_key_are_told():
    """Of two bad hosts the first alone was told, of the three maps that have them."""
    with pytest.raises(_ispmail_errors.PillarFault) as caught:
        _ispmail_config.complete("ispmail", {"database": {"password": "pw", "hosts": ["[::1]", "/run/x"]}})
    assert [fault.key for fault in caught.value.faults] == ["database:hosts", "database:hosts"]
    assert "IPv6" in str(caught.value) and "unix:" in str(caught.value)


def test_a_fault_stops_those_too_who_need_no_table_keys():
    with pytest.raises(_ispmail_errors.PillarFault) as caught:
        _ispmail_config.instance("other", {**PASSWORD, "packages": "yes", "rotation": {"drain": -1}})
    assert [fault.key for fault in caught.value.faults] == ["packages", "rotation:drain"]
    assert "other:packages must be true or false" in str(caught.value)


@pytest.mark.parametrize("function", [_ispmail_config.instance, _ispmail_config.assemble])
def test_somebody_elses_pillar_is_not_shown(function):
    with pytest.raises(_ispmail_errors.PillarFault) as caught:
        function("users", {"alice": {"maps": 1}, "bob": 2})
    assert str(caught.value).endswith("\n- users: holds nothing of ispmail: see pillar.example")


def test_what_depends_on_the_release_and_on_the_parameter_is_checked():
    entry = {"charset": "utf8mb4", "domain": "example.org"}
    found, wrong = assembled({"maps": {"virtual_mailbox_domains": entry}})
    assert [(fault.key, fault.reason) for fault in _ispmail_config.release_faults(found, "3.7.11")] == [
        ("maps:virtual_mailbox_domains:charset", "is read from Postfix 3.9 on, but 3.7.11 is installed and ignores it"),
    ]
    assert _ispmail_config.release_faults(found, "3.10.1") == []
    with pytest.raises(_ispmail_errors.PillarFault) as caught:
        _ispmail_config.check(found, wrong)
    assert [(fault.key, fault.reason) for fault in caught.value.faults] == [
        (
            "maps:virtual_mailbox_domains:domain",
            "stops every question of virtual_mailbox_domains, which are bare domains",
        ),
    ]


def test_the_name_of_a_map_in_a_report():
    """Two instances may have a map of one name."""
    assert _ispmail_config.qualified("virtual_alias_maps", "ispmail", "ispmail") == "virtual_alias_maps"
    assert _ispmail_config.qualified("virtual_alias_maps", "out", "ispmail") == "out:virtual_alias_maps"


def test_a_table_that_pillar_does_not_name_is_no_secret():
    found = _ispmail_config.Map("x", "x", "mysql", False, "/x.cf")
    assert found.wanted and not found.secret


@pytest.mark.parametrize("path", ["/var/lib/prometheus/node-exporter/ispmail.prom", "/x.prom", "/a.b/c-d_1.prom"])
def test_where_the_metrics_go(path):
    section = {"database": {"password": "x"}, "watch": {"textfile": path}}
    assert _ispmail_config.textfile(section) == path and _ispmail_config.instance("ispmail", section)


@pytest.mark.parametrize(
    "path",
    [
        "",
        7,
        "x.prom",
        "/x.txt",
        "/.prom",
        "/a/../x.prom",
        "//x.prom",
        "/a b.prom",
        "/a/.prom",
        "/x\n.prom",
        "/" + "x" * 250 + ".prom",
        True,
    ],
)
def test_where_the_metrics_cannot_go(path):
    section = {"database": {"password": "x"}, "watch": {"textfile": path}}
    assert _ispmail_config.textfile(section) is None
    with pytest.raises(PillarFault, match="ispmail:watch:textfile must be the absolute path of a file that ends in"):
        _ispmail_config.instance("ispmail", section)


def test_without_a_file_there_are_no_metrics():
    for section in ({}, {"watch": None}, {"watch": {}}, {"watch": {"textfile": None}}, {"watch": 7}, None, 7):
        assert _ispmail_config.textfile(section) is None
    with pytest.raises(PillarFault, match="ispmail:watch:file is not a key of ispmail: is textfile meant"):
        _ispmail_config.instance("ispmail", {"watch": {"file": "/x.prom"}})


@pytest.mark.parametrize("given", [{}, {"history": None}, *({"history": number} for number in (0, 1, 100))])
def test_how_many_changes_can_be_undone(given):
    section = {"database": {"password": "x"}, **given}
    wanted = 5 if given.get("history") is None else given["history"]
    found = _ispmail_config.instance("ispmail", section), _ispmail_config.complete("ispmail", section)
    assert [each.history for each in found] == [wanted, wanted]


@pytest.mark.parametrize("number", [-1, 101, True, False, "5", 2.0, [], {}])
def test_a_number_of_changes_that_is_none(number):
    with pytest.raises(PillarFault, match=r"- ispmail:history must be a whole number[^\n]*$"):
        _ispmail_config.instance("ispmail", {"database": {"password": "x"}, "history": number})
