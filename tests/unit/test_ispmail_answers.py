"""Maps that cannot be asked, or do not answer as pillar expects: tables of SQLite, asked by the real postmap."""

import contextlib
import os
import sqlite3
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

import _ispmail_answers
import _ispmail_inventory
from _ispmail_answers import Broken
from _ispmail_config import Answer, CompleteInstance, Instance, Map, complete
from _ispmail_errors import CannotAsk, InvalidInput
from _ispmail_lookup import ANSWER, COULD_NOT_ASK, NO_ANSWER, ROOT, Asker, Group, Lookup, Probed
from lab.postfix import Postfix, write_cold

QUERY = "SELECT v FROM t WHERE k='%s'"
BROKEN = "SELECT v FROM missing WHERE k='%s'"
NO_TABLE = "SQL prepare failed: no such table: missing? (check the query, or create the table)"
ROWS = {"jack@example.org": "john@example.org", "info@example.org": "jane@example.org,john@example.org"}


@pytest.fixture(scope="module")
def postfix(scratch_directory):
    """A Postfix that does not run, beside a database with ROWS."""
    with contextlib.closing(sqlite3.connect(scratch_directory / "mail.db")) as database, database:
        database.execute("CREATE TABLE t (k, v)")
        database.executemany("INSERT INTO t VALUES (?, ?)", ROWS.items())
    return Postfix(scratch_directory / "mail")


@pytest.fixture
def pillar(postfix):
    """A function that gives the instance of these maps and answers, with its table files in their places."""
    postfix.write_main_cf()
    for path in postfix.config_directory.glob("sqlite-*"):
        path.unlink()

    def write(answers=(), **maps):
        dbpath = str(postfix.directory.parent / "mail.db")
        given = dict.fromkeys(("virtual_mailbox_domains", "virtual_alias_maps", "virtual_mailbox_maps"))
        for name, entry in maps.items():
            given[name] = {"type": "sqlite", "dbpath": dbpath, "query": QUERY, **entry}
        section = {
            "maps": given,
            "database": {"password": "x"},
            "postfix": {"config_directory": str(postfix.config_directory)},
            "answers": [dict(zip(("map", "question", "answer"), each)) for each in answers],
        }
        found = complete("ispmail", section)
        for each in found.maps:
            write_cold(postfix.config_directory / each.path, each.text)
        return found

    return write


def wanted(found):
    """The same instance as one whose table keys were not read."""
    return Instance(found.pillar_key, found.config_directory, found.maps)


def table(found, name="virtual_alias_maps"):
    """A map's table."""
    return next(each.table() for each in found.maps if each.name == name)


def test_a_map_is_asked_by_its_name_or_table(pillar):
    found = pillar(virtual_alias_maps={}, relay_domains={"query": "SELECT 'other' WHERE '%s' != ''"})
    for name in ("virtual_alias_maps", table(found), f"proxy:{table(found)}"):
        asked = _ispmail_answers.lookup(wanted(found), name, "jack@example.org")
        assert asked == Lookup(ANSWER, answer="john@example.org")
        assert _ispmail_answers.lookup(wanted(found), name, "nobody@example.org") == Lookup(NO_ANSWER)


def test_a_table_that_main_cf_alone_names_is_asked_too(pillar, postfix):
    found = pillar(virtual_alias_maps={}, relay_domains={"query": "SELECT 'other' WHERE '%s' != ''"})
    ours = wanted(found)._replace(maps=found.maps[:1])
    other = table(found, "relay_domains")
    with pytest.raises(InvalidInput):
        _ispmail_answers.lookup(ours, other, "x")
    postfix.write_main_cf(relay_domains=other)
    try:
        assert _ispmail_answers.lookup(ours, other, "x").answer == "other"
    finally:
        postfix.write_main_cf(relay_domains=None)


@pytest.mark.parametrize("question", ["", "a\nb", "a\0b", "a\ud800"])
def test_what_is_no_question(pillar, question):
    with pytest.raises(InvalidInput, match="the question must be a text of one line"):
        _ispmail_answers.lookup(wanted(pillar(virtual_alias_maps={})), "virtual_alias_maps", question)


@pytest.mark.parametrize("name", ["sqlite:/etc/other.cf", "hash:/etc/aliases", "sqlite:", "{0} {0}", "mysql:{1}"])
def test_a_table_that_nobody_names_is_not_opened(pillar, name):
    """Else a job could have any file of root's opened."""
    found = pillar(virtual_alias_maps={}, relay_domains={})
    with pytest.raises(InvalidInput, match=r"known are virtual_alias_maps, relay_domains$"):
        _ispmail_answers.lookup(wanted(found), name.format(table(found), found.maps[1].path), "x")
    with pytest.raises(InvalidInput, match="pillar names no map other: it names virtual_alias_maps, relay_domains"):
        _ispmail_answers.lookup(wanted(found), "other", "x")


def test_a_table_is_asked_as_it_is_spelt(postfix):
    """Pillar or main.cf may read one table in two ways."""
    mine, theirs = "mysql:/a.cf", "proxy:mysql:/a.cf"
    map_ = Map("a", "virtual_alias_maps", "mysql", False, "/a.cf")
    known = _ispmail_inventory.Settings("/x", {"relay_domains": theirs}, frozenset())
    inventory = _ispmail_inventory.of(known, [])
    instance = Instance("ispmail", "/x", (map_,))
    for spelt in (mine, theirs):
        assert _ispmail_answers._named_table(instance, inventory, spelt).table() == spelt
    # Where only one is known, that is asked.
    empty = _ispmail_inventory.of(known._replace(values={}), [])
    assert _ispmail_answers._named_table(instance, empty, theirs).table() == mine
    only_theirs = _ispmail_answers._named_table(instance._replace(maps=()), inventory, theirs)
    assert only_theirs == Map(theirs, "relay_domains", "mysql", True, "/a.cf")


def test_a_map_that_cannot_be_asked_is_named_as_main_cf_does(pillar, monkeypatch):
    """It is asked from memory, as a process that is not root, and that file's path says nothing to anybody."""
    found = pillar(virtual_alias_maps={"query": BROKEN, "proxy": True})
    asked = _ispmail_answers.lookup(wanted(found), "virtual_alias_maps", "x")
    assert asked == Lookup(COULD_NOT_ASK, reason=f"dict_sqlite_lookup: {table(found)}: {NO_TABLE}", table=table(found))
    seen = []

    def ask(question, tables, config_directory, as_):
        seen.append(as_)
        return Lookup(COULD_NOT_ASK, (f"odd {tables[0]}", "x"), reason="no time")

    monkeypatch.setattr("_ispmail_lookup.ask", ask)
    asked = _ispmail_answers.lookup(wanted(found), "virtual_alias_maps", "x")
    assert asked == Lookup(COULD_NOT_ASK, (f"odd {table(found)}", "x"), reason="no time")
    assert seen[0].user == "postfix" and len(seen[0].descriptors) == 1


def test_a_map_whose_file_is_missing(pillar):
    found = pillar(virtual_alias_maps={"proxy": True})
    os.unlink(found.maps[0].path)
    asked = _ispmail_answers.lookup(wanted(found), "virtual_alias_maps", "x")
    assert asked.reason == f"open {found.maps[0].path}: No such file or directory"
    assert asked.table == table(found)


@pytest.mark.parametrize("secret", [True, False])
def test_a_relay_s_passwords_are_not_shown(pillar, secret):
    found = pillar(virtual_alias_maps={"secret": secret}, relay_domains={"secret": not secret})
    asked = _ispmail_answers.lookup(wanted(found), "virtual_alias_maps", "jack@example.org")
    assert asked == Lookup(ANSWER, answer="***" if secret else "john@example.org")
    # That there is none is no secret.
    assert _ispmail_answers.lookup(wanted(found), "virtual_alias_maps", "nobody@example.org") == Lookup(NO_ANSWER)


@pytest.mark.parametrize(
    ("values", "command", "maps", "expected"),
    [
        ({"smtp_sasl_password_maps": "mysql:/a.cf", "relay_domains": "mysql:/b.cf"}, "smtpd", [], {"/a.cf"}),
        ({"smtp_sasl_password_maps": "$own", "own": "mysql:/a.cf"}, "smtpd", [], {"/a.cf"}),
        ({}, "smtp -o smtp_sasl_password_maps=mysql:/a.cf -o relay_domains=mysql:/b.cf", [], {"/a.cf"}),
        ({"own": "mysql:/a.cf"}, "smtp -o lmtp_sasl_password_maps=$own", [], {"/a.cf"}),
        # Maps of pillar that are not live yet.
        ({}, "smtpd", [Map("x", "tls_server_sni_maps", "mysql", False, "/a.cf")], {"/a.cf"}),
        ({}, "smtpd", [Map("x", "relay_domains", "mysql", False, "/a.cf", secret=True)], {"/a.cf"}),
        ({}, "smtpd", [Map("x", "relay_domains", "mysql", False, "/a.cf")], set()),
    ],
)
def test_which_tables_hold_passwords(values, command, maps, expected):
    known = _ispmail_inventory.Settings("/x", values, frozenset())
    inventory = _ispmail_inventory.of(known, [_ispmail_inventory.Service("smtp", "unix", "n", command)])
    assert _ispmail_answers.secret_tables(Instance("ispmail", "/x", tuple(maps)), inventory) == expected


CHOICE = Instance(
    "ispmail",
    "/x",
    (
        Map("a", "virtual_alias_maps", "mysql", False, "/a.cf"),
        Map("b", "relay_domains", "mysql", False, "/b.cf"),
        Map("gone", "transport_maps", "mysql", False, "/gone.cf", wanted=False),
    ),
)


@pytest.mark.parametrize(("names", "chosen"), [(None, "ab"), ([], ""), (["b"], "b"), (("b", "a"), "ba")])
def test_maps_are_chosen_by_name(names, chosen):
    assert [each.name for each in _ispmail_answers.choose(CHOICE, names)] == list(chosen)


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ("a", r"maps must be a list of names, such as \[a\]"),
        (["a", "gone"], "pillar sets gone to null, which leaves it alone: remove a map before that"),
        (["a", "c", "d"], "pillar names no map c, d: it names a, b"),
        ([7], "pillar names no map 7: it names a, b"),
        ([["a"]], "pillar names no map .*: it names a, b"),
    ],
)
def test_maps_that_pillar_does_not_name(names, reason):
    with pytest.raises(InvalidInput, match=f"^{reason}$"):
        _ispmail_answers.choose(CHOICE, names)


def inventory(*services, **values):
    """A Postfix with these services: name, chroot and program."""
    known = {"mail_owner": "postfix", "queue_directory": "/queue", "compatibility_level": "3.6", **values}
    found = [_ispmail_inventory.Service(name, "unix", chroot, program) for name, chroot, program in services]
    return _ispmail_inventory.of(_ispmail_inventory.Settings("/x", known, frozenset()), found)


@pytest.mark.parametrize(
    ("type_", "proxy", "staged", "expected"),
    [
        ("mysql", False, False, [Asker("postfix", "/queue"), Asker("postfix")]),
        ("pgsql", False, True, [Asker("postfix", "/queue"), Asker("postfix")]),
        # Opened before a program gives up its rights.
        ("sqlite", False, False, [ROOT]),
        ("sqlite", False, True, [ROOT]),
        # By proxymap itself, and from memory as it would.
        ("mysql", True, False, [ROOT]),
        ("sqlite", True, False, [ROOT]),
        ("sqlite", True, True, [Asker("postfix")]),
    ],
)
def test_as_whom_a_map_is_asked(type_, proxy, staged, expected):
    services = [("smtp", "y", "smtpd"), ("other", "y", "smtpd"), ("cleanup", "n", "cleanup"), ("p", "n", "proxymap")]
    map_ = Map("a", "virtual_alias_maps", type_, proxy, "/a.cf")
    assert _ispmail_answers.askers(map_, inventory(*services), staged=staged) == expected
    if not staged:
        assert _ispmail_answers.askers(map_, inventory(*services)) == expected
    # Nothing that is known reads it: it was asked as root, whom nothing is closed to.
    reads_itself = type_ == "sqlite" and not proxy
    unread = [ROOT] if reads_itself or (proxy and not staged) else [Asker("postfix")]
    assert _ispmail_answers.askers(map_, inventory(), staged=staged) == unread
    assert bool(_ispmail_answers.unread([map_], inventory())) is not reads_itself
    assert _ispmail_answers.unread([map_], inventory(*services)) == []


def test_maps_that_no_service_reads():
    maps = [Map(name, "own", "mysql", name == "c", f"/{name}.cf") for name in ("a", "b", "c")]
    asked = "so it was asked as user postfix from outside of any chroot, which may not be how Postfix will ask"
    assert _ispmail_answers.unread(maps, inventory()) == [
        f"a, b: no service of master.cf reads own, {asked}",
        f"c: no service of master.cf has a proxymap, {asked}",
    ]


@pytest.mark.parametrize("program", ["virtual", "local"])
def test_what_delivers_has_the_primary_group_only(program):
    """It was asked with all groups of mail_owner, so a socket that only a supplementary group may use was in order."""
    services = [("smtp", "n", "smtpd"), ("d", "n", program)]
    parameter = {"virtual": "virtual_mailbox_maps", "local": "alias_maps"}[program]
    found = _ispmail_answers.askers(
        Map("a", parameter, "mysql", False, "/a.cf"), inventory(*services, transport_maps="static:d")
    )
    assert found == [Asker("postfix"), Asker("postfix", primary_group_only=True)]


def content(table):
    """What is in the table file of a group, which may be one in memory."""
    with open(table.rpartition(":")[2], encoding="utf-8") as file:
        return file.read()


def test_new_table_files_are_asked_from_memory(pillar):
    """As each of their readers, and not more of them at once than there are descriptors for."""
    found = pillar(virtual_alias_maps={"proxy": True}, relay_domains={})
    readers = inventory(("p", "n", "proxymap"))
    seen = []
    for group in _ispmail_answers.staged(found.maps, readers):
        seen.append((group.as_._replace(descriptors=()), {name: content(each) for name, each in group.tables.items()}))
        assert len(group.as_.descriptors) == 1
    texts = {each.name: each.text for each in found.maps}
    assert len(seen) == 2
    assert (Asker("postfix"), {"virtual_alias_maps": texts["virtual_alias_maps"]}) in seen
    assert (ROOT, {"relay_domains": texts["relay_domains"]}) in seen


def test_many_table_files_are_asked_in_groups(pillar):
    (one,) = pillar(virtual_alias_maps={}).maps
    many = [Map(f"m{number}", one.parameter, one.type, False, one.path) for number in range(130)]
    with contextlib.closing(_ispmail_answers.live(many, inventory())) as groups:
        names = [list(group.tables) for group in groups]
    assert [len(each) for each in names] == [64, 64, 2]
    assert [name for some in names for name in some] == [each.name for each in many]


@pytest.mark.parametrize("running", [True, False])
def test_live_maps_are_asked_by_proxymap_itself_if_it_runs(pillar, running):
    """It is asked as main.cf spells its table: proxymap allows no other. A file that is missing is named by postmap."""
    proxied = {"virtual_alias_maps": {"proxy": True}, "transport_maps": {"proxy": True}}
    found = pillar(**proxied, virtual_mailbox_maps={"proxy": True}, relay_domains={}, canonical_maps={})
    paths = {each.name: each.path for each in found.maps}
    os.unlink(paths["virtual_mailbox_maps"])
    os.unlink(paths["canonical_maps"])
    spelt = f"proxy:sqlite:{found.config_directory}/../etc/{os.path.basename(paths['virtual_alias_maps'])}"
    readers = inventory(("p", "n", "proxymap"), virtual_alias_maps=spelt)
    groups = list(_ispmail_answers.live(found.maps, readers, running))
    by_path = {name: each for group in groups if not group.as_.descriptors for name, each in group.tables.items()}
    in_memory = {name: group.as_.user for group in groups if group.as_.descriptors for name in group.tables}
    missing = {"canonical_maps": f"sqlite:{paths['canonical_maps']}"}
    if running:
        assert in_memory == {"relay_domains": None}
        names = ("transport_maps", "virtual_mailbox_maps")
        by_proxymap = {"virtual_alias_maps": spelt, **{name: f"proxy:sqlite:{paths[name]}" for name in names}}
        assert by_path == {**missing, **by_proxymap}
        assert [list(each.tables) for each in _ispmail_answers.live(found.maps, readers)] == [
            list(each.tables) for each in groups
        ]
    else:
        assert in_memory == {"relay_domains": None, "virtual_alias_maps": "postfix", "transport_maps": "postfix"}
        assert by_path == {**missing, "virtual_mailbox_maps": f"sqlite:{paths['virtual_mailbox_maps']}"}
    # No group is without a map.
    assert all(group.tables for group in groups)


def test_an_empty_table_file_is_one_that_cannot_be_asked(pillar):
    found = pillar(virtual_alias_maps={})
    write_cold(Path(found.maps[0].path), "")
    (sentence,) = _ispmail_answers.unaskable_live(wanted(found))
    assert sentence.startswith("virtual_alias_maps: ")


def test_live_maps_that_cannot_be_asked(pillar):
    broken = {"query": BROKEN}
    found = pillar(virtual_alias_maps=broken, relay_domains=broken, transport_maps={})
    assert _ispmail_answers.unaskable_live(wanted(found)) == [
        f"{name}: dict_sqlite_lookup: {name}: {NO_TABLE}" for name in ("virtual_alias_maps", "relay_domains")
    ]
    assert _ispmail_answers.unaskable_live(wanted(pillar(virtual_alias_maps={}))) == []


def test_where_pillar_asks_for_no_map_there_need_be_no_postfix():
    assert _ispmail_answers.unaskable_live(Instance("ispmail", "/nowhere", ())) == []
    null = Map("a", "virtual_alias_maps", "mysql", False, "/nowhere/a.cf", wanted=False)
    assert _ispmail_answers.unaskable_live(Instance("ispmail", "/nowhere", (null,))) == []
    with pytest.raises(CannotAsk, match=r"^there is no /nowhere/main\.cf"):
        _ispmail_answers.unaskable_live(Instance("ispmail", "/nowhere", (null, replace(null, wanted=True))))


def test_live_maps_are_not_asked_for_special_keys(pillar, monkeypatch):
    """What fails for those only is a warning, which is not wanted here."""
    asked = []
    monkeypatch.setattr(
        _ispmail_answers, "probe", lambda group, directory, special: asked.append(special) or {"x": Probed("no", ())}
    )
    assert _ispmail_answers.unaskable_live(wanted(pillar(virtual_alias_maps={}))) == ["x: no"]
    assert asked == [False]


@pytest.fixture
def probed(monkeypatch):
    """A function that sets what a probe of each table finds; and how it was asked."""
    asked = []

    def set_found(**found):
        def probe(tables, config_directory, **options):
            asked.append((tables, config_directory, options))
            return {each: found[each.partition(":")[2]] for each in tables}

        monkeypatch.setattr("_ispmail_lookup.probe", probe)
        return asked

    return set_found


def test_in_what_a_probe_says_a_map_stands_for_its_table(probed):
    asked = probed(x=Probed("open mysql:x: no", ("mysql:x is odd",)), y=Probed(None, ("mysql:y is odd",)))
    as_ = Asker("postfix")
    domains = {"mysql:x": "example.org"}
    found = _ispmail_answers.probe(Group({"a": "mysql:x", "b": "mysql:y"}, as_, domains), "/etc/x")
    assert found == {"a": Probed("open a: no", ("a is odd",)), "b": Probed(None, ("b is odd",))}
    options = {"as_": as_, "domains": domains}
    assert asked == [(["mysql:x", "mysql:y"], "/etc/x", {**options, "special": True})]
    _ispmail_answers.probe(Group({"a": "mysql:x"}, ROOT), "/etc/x", special=False)
    assert asked[1][2] == {"as_": ROOT, "domains": {}, "special": False}


def test_maps_that_fail_in_the_same_way_share_a_sentence(probed):
    asked = probed(x=Probed("the server is away", ()), y=Probed(None, ("odd", "odder")), z=Probed(None, ()))
    groups = [
        Group({"a": "mysql:x", "b": "mysql:x", "c": "mysql:y", "d": "mysql:z"}, ROOT),
        # The same maps, asked as somebody else.
        Group({"b": "mysql:x", "c": "mysql:y"}, Asker("postfix")),
    ]
    assert _ispmail_answers.unaskable(groups, "/x") == (["a, b: the server is away"], ["c: odd", "c: odder"])
    _ispmail_answers.unaskable(groups, "/x", special=False)
    assert [options["special"] for *_, options in asked] == [True, True, False, False]


class Clock:
    """A clock on which each question takes so many seconds."""

    def __init__(self, monkeypatch, seconds):
        self.now = 1000.0
        self._seconds = seconds
        monkeypatch.setattr(_ispmail_answers, "time", SimpleNamespace(monotonic=lambda: self.now))

    def tick(self):
        self.now += self._seconds


@pytest.mark.parametrize(("seconds", "reason", "asked"), [(5, "no", 3), (5.1, "no", 2), (10.5, "no", 1), (60, None, 4)])
def test_how_long_it_goes_on_after_the_first_that_cannot_be_asked(monkeypatch, seconds, reason, asked):
    """A change waits for it, and each group may take another twelve seconds. What answers is asked to the end."""
    clock, seen = Clock(monkeypatch, seconds), []

    def probe(group, config_directory, special):
        seen.append(group)
        clock.tick()
        return {"a": Probed(reason, ())}

    monkeypatch.setattr(_ispmail_answers, "probe", probe)
    _ispmail_answers.unaskable([Group({"a": "mysql:x"}, ROOT)] * 4, "/x")
    assert len(seen) == asked


@pytest.fixture
def answering(monkeypatch):
    """A function that sets what tables answer, and gives what was asked."""

    def set_found(found, tick=lambda: None):
        asked = []

        def ask(question, tables, config_directory, as_=ROOT):
            asked.append((question, *tables))
            tick()
            return found.get(tables[0], Lookup(NO_ANSWER))

        monkeypatch.setattr("_ispmail_lookup.ask", ask)
        return asked

    return set_found


def test_maps_of_which_an_answer_is_expected():
    maps = [Map(name, "virtual_alias_maps", "mysql", True, f"/{name}.cf") for name in "ab"]
    instance = SimpleNamespace(answers=[Answer("b", "x", "y"), Answer("c", "x", "y")])
    assert _ispmail_answers.answering(instance, maps) == maps[1:]


OURS = Map("a", "virtual_alias_maps", "mysql", True, "/a.cf")
AWAY = Lookup(COULD_NOT_ASK, reason="away")


def test_tables_of_others_that_cannot_be_asked(answering):
    """Postfix asks them too: one that cannot be opened stops smtpd, whatever the map of ours answers."""
    asked = answering(
        {
            "hash:/b": Lookup(COULD_NOT_ASK, reason="open hash:/b: No such file or directory"),
            "odd:/c": Lookup(COULD_NOT_ASK, reason="unsupported dictionary type: odd"),
            "pipemap:{static:SECRET}": Lookup(COULD_NOT_ASK, reason="pipemap:{static:SECRET} is odd"),
            "mysql:/own.cf": AWAY,
            "regexp:/e": Lookup(COULD_NOT_ASK),
            "{ mysql:/f.cf }": Lookup(COULD_NOT_ASK, reason="unsupported dictionary type: { mysql"),
        }
    )
    values = {
        "virtual_alias_maps": "proxy:mysql:/a.cf, hash:/b !odd:/c static:x inline:{a=b} fail:x example.org $own "
        "pipemap:{static:SECRET} hash:/fine proxy:mysql:/d.cf regexp:/e { mysql:/f.cf }",
        "own": "mysql:/own.cf /a/file /dev/null",
        "relay_domains": "hash:/not-asked",
    }
    found = _ispmail_answers.broken_others([OURS, OURS], inventory(**values), running=False)
    assert [(each.table, each.opens) for each in found] == [
        ("hash:/b", False),
        ("odd:/c", False),
        ("mysql:/own.cf", True),
        ("/a/file", False),
        ("pipemap:{static:***}", True),
        ("regexp:/e", True),
        ("{ mysql:/f.cf }", False),
    ]
    assert [each.reason for each in found][2:6] == ["away", "there is no such file", "pipemap:{static:***} is odd", ""]
    assert {question for question, _ in asked} == {"probe@a.b.c.d.e.f.g.h.probe.invalid"}
    assert [table for _, table in asked] == [
        *("hash:/b", "odd:/c", "mysql:/own.cf", "pipemap:{static:SECRET}", "hash:/fine", "regexp:/e"),
        "{ mysql:/f.cf }",
    ]
    assert str(found[2]) == (
        "virtual_alias_maps also asks mysql:/own.cf, which is not pillar's and cannot be asked: away"
    )
    asked = answering({})
    assert [each.table for each in _ispmail_answers.broken_others([OURS], inventory(**values), True)] == ["/a/file"]
    assert ("probe@a.b.c.d.e.f.g.h.probe.invalid", "proxy:mysql:/d.cf") in asked and len(asked) == 8


@pytest.mark.parametrize(("seconds", "found", "asked"), [(5, AWAY, 3), (5.1, AWAY, 2), (10.5, AWAY, 1), (60, None, 4)])
def test_how_long_tables_of_others_are_asked(monkeypatch, answering, seconds, found, asked):
    clock = Clock(monkeypatch, seconds)
    names = [f"hash:/{number}" for number in range(4)]
    seen = answering(dict.fromkeys(names, found) if found else {}, clock.tick)
    broken = _ispmail_answers.broken_others([OURS], inventory(virtual_alias_maps=", ".join(names)), running=False)
    assert broken == [Broken("virtual_alias_maps", each, "away", opens=True) for each in names[: len(seen)] if found]
    assert len(seen) == asked


@pytest.mark.parametrize(
    ("expected", "got"),
    [
        ("john@example.org", None),
        # The database may give several rows in any order.
        ("john@example.org, jane@example.org", None),
        (True, None),
        ("jane@example.org", "should give 'jane@example.org', but gives '{}'"),
        (False, "should give no answer, but gives '{}'"),
    ],
)
def test_an_answer_that_pillar_expects(pillar, expected, got):
    question = "info@example.org" if isinstance(expected, str) and "," in expected else "jack@example.org"
    found = pillar([("virtual_alias_maps", question, expected)], virtual_alias_maps={})
    groups = _ispmail_answers.live(found.maps, inventory())
    sentence = f"virtual_alias_maps: {question} {got}".format(ROWS[question])
    assert _ispmail_answers.wrong_answers(found, groups) == ([sentence] if got else [])


@pytest.mark.parametrize(
    ("expected", "said"), [("x", "should give 'x', but gives no answer"), (True, "should give any answer, but gives")]
)
def test_an_answer_that_is_missing(pillar, expected, said):
    answers = [("virtual_alias_maps", "nobody@example.org", each) for each in (expected, False)]
    found = pillar(answers, virtual_alias_maps={})
    (sentence,) = _ispmail_answers.wrong_answers(found, _ispmail_answers.live(found.maps, inventory()))
    assert sentence.startswith(f"virtual_alias_maps: nobody@example.org {said}") and sentence.endswith("no answer")


def test_postfix_is_read_only_where_an_answer_is_wrong(answering):
    """To know which answers are passwords: each reading is two more processes."""
    asked = answering({})
    found = CompleteInstance("ispmail", "/nonexistent", (OURS,), (Answer("a", "1@x", False),), ())
    assert _ispmail_answers.wrong_answers(found, [Group({"a": "mysql:x"}, ROOT)]) == []
    assert asked == [("1@x", "mysql:x")]


def test_an_expected_password_is_not_shown(pillar):
    answers = [("virtual_alias_maps", "jack@example.org", "x"), ("relay_domains", "jack@example.org", "y")]
    found = pillar(answers, virtual_alias_maps={"secret": True}, relay_domains={})
    assert _ispmail_answers.wrong_answers(found, _ispmail_answers.live(found.maps, inventory())) == [
        "virtual_alias_maps: jack@example.org should give ***, but gives ***",
        "relay_domains: jack@example.org should give 'y', but gives 'john@example.org'",
    ]


def test_a_map_that_cannot_be_asked_is_asked_once(pillar, answering):
    """Each further answer that pillar expects of it would cost ten seconds more."""
    answers = [(name, f"{number}@x", "y") for name in ("virtual_alias_maps", "relay_domains") for number in (1, 2)]
    found = pillar(answers, virtual_alias_maps={}, relay_domains={})
    asked = answering({"mysql:x": Lookup(COULD_NOT_ASK, reason="mysql:x: away"), "mysql:y": Lookup(ANSWER, answer="y")})
    groups = [Group({"virtual_alias_maps": "mysql:x"}, ROOT), Group({"relay_domains": "mysql:y"}, ROOT)]
    assert _ispmail_answers.wrong_answers(found, [*groups, *groups]) == [
        "virtual_alias_maps: 1@x should give 'y', but gives could not ask: virtual_alias_maps: away"
    ]
    assert asked == [("1@x", "mysql:x"), ("1@x", "mysql:y"), ("2@x", "mysql:y"), ("1@x", "mysql:y"), ("2@x", "mysql:y")]


def test_one_that_is_wrong_for_two_readers_is_told_once(pillar, monkeypatch):
    found = pillar([("virtual_alias_maps", "1@x", "y")], virtual_alias_maps={})
    seen = []

    def ask(question, tables, config_directory, as_):
        seen.append(as_)
        return Lookup(NO_ANSWER)

    monkeypatch.setattr("_ispmail_lookup.ask", ask)
    groups = [Group({"virtual_alias_maps": f"mysql:{user}"}, Asker(user)) for user in ("a", "b")]
    assert _ispmail_answers.wrong_answers(found, groups) == [
        "virtual_alias_maps: 1@x should give 'y', but gives no answer"
    ]
    assert seen == [Asker("a"), Asker("b")]


@pytest.mark.parametrize(("seconds", "first", "asked"), [(10, AWAY, 2), (10.5, AWAY, 1), (60, None, 3)])
def test_how_long_answers_are_compared(pillar, monkeypatch, answering, seconds, first, asked):
    """Once a map cannot be asked, which takes its time."""
    names = ("virtual_alias_maps", "relay_domains", "transport_maps")
    found = pillar([(name, "1@x", False) for name in names], **{name: {} for name in names})
    groups = [Group({name: name}, ROOT) for name in names]
    seen = answering({names[0]: first} if first else {}, Clock(monkeypatch, seconds).tick)
    sentences = _ispmail_answers.wrong_answers(found, groups)
    assert len(seen) == asked
    left_out = "the other answers were not checked: that took too long already"
    assert (sentences[-1:] == [left_out]) is (asked < 3)
    assert sentences.count(left_out) <= 1
    if first:
        assert sentences[0].endswith("should give no answer, but gives could not ask: away")


def test_passwords_that_stand_in_main_cf_are_no_argument(answering):
    """postmap was run with a relay's password. What is beside it, in the same braces too, is asked."""
    asked = answering({"hash:/b": Lookup(COULD_NOT_ASK, reason="open hash:/b: No such file or directory")})
    values = {
        "smtp_sasl_password_maps": "mysql:/a.cf regexp:{{/./ SECRET}} $own static:SECRET",
        "own": "!pipemap:{hash:/b, pcre:{{/./ SECRET}}, hash:/fine} proxy:pipemap:{hash:/c, inline:{a=SECRET}}",
        "virtual_alias_maps": "$own",
        "relay_domains": "regexp:{{/./ x}}",
    }
    known = inventory(**values)
    for parameter in ("smtp_sasl_password_maps", "virtual_alias_maps"):
        del asked[:]
        maps = [Map("a", parameter, "mysql", False, "/a.cf")]
        (broken,) = _ispmail_answers.broken_others(maps, known, True)
        assert (broken.table, [table for _, table in asked]) == ("hash:/b", ["hash:/b", "hash:/fine"])
        shown = ["pcre:***", "proxy:pipemap:{hash:/c, inline:***}"]
        shown = ["regexp:***", *shown] if parameter == "smtp_sasl_password_maps" else shown
        doubts = _ispmail_answers.unasked_others(maps, known)
        assert doubts == [
            f"whether Postfix can ask {each} in {parameter} could not be told: it holds its answers itself, which may "
            "be passwords, and anybody can read the arguments of postmap"
            for each in shown
        ]
    assert "SECRET" not in repr(list(_ispmail_answers._others(maps, known, [])))
    # Another parameter's are no passwords.
    del asked[:]
    maps = [Map("a", "relay_domains", "mysql", False, "/a.cf")]
    assert _ispmail_answers.broken_others(maps, known, True) == _ispmail_answers.unasked_others(maps, known) == []
    assert [table for _, table in asked] == ["regexp:{{/./ x}}"]
