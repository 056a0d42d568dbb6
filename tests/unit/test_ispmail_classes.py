"""Domains that another address class takes, and addresses whose mail goes astray, by what Postfix says of them."""

import contextlib
import sqlite3
from types import SimpleNamespace

import pytest

import _ispmail_classes
import _ispmail_inventory
from _ispmail_config import Answer, CompleteInstance, Map
from _ispmail_errors import CannotAsk
from _ispmail_lookup import ROOT, Group
from _ispmail_route import Route
from _ispmail_smtpd import Reply
from lab.postfix import Postfix, write_cold

CLASSES = ("mydestination", "virtual_alias_domains", "virtual_mailbox_domains", "relay_domains")


@pytest.fixture(scope="module")
def domains(scratch_directory):
    """A table that has the domains a.example, b.example, c.example and m\xfcn.example."""
    with contextlib.closing(sqlite3.connect(scratch_directory / "mail.db")) as database, database:
        database.execute("CREATE TABLE t (k)")
        names = ("a", "b", "c", "m\xfcn")
        database.executemany("INSERT INTO t VALUES (?)", [(f"{name}.example",) for name in names])
    text = f"dbpath = {scratch_directory}/mail.db\nquery = SELECT 1 FROM t WHERE k='%s'\n"
    write_cold(scratch_directory / "domains.cf", text)
    write_cold(scratch_directory / "main.cf", "compatibility_level = 3.6\n")
    return f"sqlite:{scratch_directory}/domains.cf"


def map_of(parameter, name=None):
    return Map(name or parameter, parameter, "sqlite", False, f"/{parameter}.cf")


def sentence(domain, taker, wanted):
    return f"mail for {domain} goes the way of {taker}, not of {wanted}: name the domain in one of them only"


@pytest.mark.parametrize(
    ("parameter", "values", "taken"),
    [
        ("virtual_mailbox_domains", {}, []),
        ("virtual_mailbox_domains", {"mydestination": "a.example"}, [("a.example", "mydestination")]),
        (
            "virtual_mailbox_domains",
            # What is not in the map is not its concern.
            {"mydestination": "$myhostname, a.example, localhost b.example"},
            [(f"{letter}.example", "mydestination") for letter in "cab"],
        ),
        (
            "relay_domains",
            {
                "virtual_mailbox_domains": "c.example",
                "virtual_alias_domains": "a.example",
                "mydestination": "b.example",
            },
            [
                ("b.example", "mydestination"),
                ("a.example", "virtual_alias_domains"),
                ("c.example", "virtual_mailbox_domains"),
            ],
        ),
        # It was never asked for. Its A-label is another domain to Postfix.
        (
            "relay_domains",
            {"mydestination": "m\xfcn.example xn--mn-xka.example"},
            [("m\xfcn.example", "mydestination")],
        ),
        # What Postfix asks later, or the parameter itself, takes nothing away.
        ("virtual_alias_domains", {"relay_domains": "a.example", "virtual_alias_domains": "a.example"}, []),
        ("virtual_mailbox_domains", {"relay_domains": "a.example", "virtual_mailbox_domains": "b.example"}, []),
        ("mydestination", {"mydestination": "a.example", "virtual_alias_domains": "b.example"}, []),
        # A map that is no list of domains.
        ("virtual_mailbox_maps", {"mydestination": "a.example"}, []),
    ],
)
def test_domains_that_an_earlier_class_takes(domains, scratch_directory, parameter, values, taken):
    known = _ispmail_inventory.Settings(str(scratch_directory), {"myhostname": "c.example", **values}, frozenset())
    inventory = _ispmail_inventory.of(known, [])
    found = _ispmail_classes.taken_before(
        # One that this group does not ask, and one of another parameter, come first.
        [map_of(parameter, "other"), map_of("virtual_alias_maps", "x"), map_of(parameter, "ours")],
        Group({"x": domains, "ours": domains}, ROOT),
        inventory,
    )
    assert found == [sentence(domain, taker, parameter) for domain, taker in taken]


def test_tables_files_and_patterns_are_no_domains(scratch_directory, domains):
    """A map may have an answer to anything."""
    path = scratch_directory / "everything.cf"
    write_cold(path, f"dbpath = {scratch_directory}/mail.db\nquery = SELECT 1 WHERE '%s' != ''\n")
    values = {"mydestination": "hash:/x /etc/domains a.example .b.example, !c.example localhost [192.0.2.1] pcre:{x}"}
    inventory = _ispmail_inventory.of(_ispmail_inventory.Settings(str(scratch_directory), values, frozenset()), [])
    group = Group({"relay_domains": f"sqlite:{path}"}, ROOT)
    assert _ispmail_classes.taken_before([map_of("relay_domains")], group, inventory) == [
        sentence(each, "mydestination", "relay_domains") for each in ("a.example", "localhost")
    ]


MAPS = (
    "virtual_mailbox_domains",
    "virtual_mailbox_maps",
    "virtual_alias_maps",
    "relay_recipient_maps",
    "relay_domains",
)


def instance(*answers, config_directory="/x"):
    maps = [map_of(each) for each in (*MAPS, "mydestination", "virtual_alias_domains", "canonical_maps")]
    return CompleteInstance("ispmail", str(config_directory), tuple(maps), tuple(answers), ())


INVENTORY = _ispmail_inventory.of(_ispmail_inventory.Settings("/x", {"queue_directory": "/queue"}, frozenset()), [])
OK = Reply("a:25", 250, "2.1.5 Ok")


@pytest.fixture
def running(monkeypatch):
    """A function that sets the address class of domains and smtpd's replies, and gives what both were asked."""

    def set_running(classes=(), replies=(), seconds=0):
        clock = SimpleNamespace(now=1000.0)
        asked = []

        def resolve(recipient, queue_directory):
            asked.append((recipient, queue_directory))
            clock.now += seconds
            found = dict(classes).get(recipient.partition("@")[2], "virtual_mailbox_domains")
            if isinstance(found, Exception):
                raise found
            return Route(found, "virtual")

        def ask(inventory, recipient):
            assert inventory is INVENTORY
            asked.append(recipient)
            return dict(replies).get(recipient, OK)

        monkeypatch.setattr("_ispmail_route.resolve", resolve)
        monkeypatch.setattr("_ispmail_smtpd.ask", ask)
        monkeypatch.setattr(_ispmail_classes, "time", SimpleNamespace(monotonic=lambda: clock.now))
        return asked

    return set_running


@pytest.mark.parametrize(
    ("map_", "question", "answer", "asked"),
    [
        ("virtual_mailbox_maps", "a@x.example", True, ["a@x.example"]),
        ("virtual_mailbox_maps", "a@x.example", "text", ["a@x.example"]),
        ("virtual_mailbox_domains", "x.example", True, []),
        ("virtual_mailbox_domains", "x", "1", []),
        ("virtual_mailbox_domains", "m\xfcnchen.example", "1", []),
        # An alias may be in any class.
        ("virtual_alias_maps", "a@x.example", "b@y.example", ["a@x.example"]),
        # Nobody has to get mail by these.
        ("virtual_mailbox_maps", "a@x.example", False, None),
        ("virtual_mailbox_maps", "x.example", True, None),
        ("virtual_mailbox_maps", "@x.example", True, None),
        ("virtual_mailbox_maps", "a b@x.example", True, None),
        ("virtual_mailbox_domains", ".x.example", True, None),
        ("virtual_alias_maps", "x.example", True, None),
        ("canonical_maps", "a@x.example", True, None),
        ("no such map", "a@x.example", True, None),
    ],
)
def test_which_expected_answers_are_addresses_that_get_mail(running, map_, question, answer, asked):
    found = running()
    assert _ispmail_classes.astray(instance(Answer(map_, question, answer)), INVENTORY) == []
    domain = question.rpartition("@")[2]
    assert found == ([] if asked is None else [(f"probe@{domain}", "/queue"), *asked])


@pytest.mark.parametrize(
    ("map_", "wanted"),
    [
        *((each, each) for each in CLASSES),
        ("virtual_mailbox_maps", "virtual_mailbox_domains"),
        ("relay_recipient_maps", "relay_domains"),
    ],
)
@pytest.mark.parametrize("taker", [*CLASSES, None])
def test_a_domain_in_another_address_class(running, map_, wanted, taker):
    """Whatever the maps answer, its mail goes elsewhere; smtpd's own answer for it then says nothing."""
    asked = running({"x.example": taker})
    question = "a@x.example" if map_.endswith("_maps") else "x.example"
    found = _ispmail_classes.astray(instance(Answer(map_, question, True)), INVENTORY)
    if taker == wanted:
        assert found == []
    else:
        assert found == [sentence("x.example", taker or "no address class", wanted)]
        assert question not in asked


@pytest.mark.parametrize(
    ("reply", "is_told"),
    [
        (OK, False),
        (Reply("a:25", 550, "5.1.1 <a@x.example>: User unknown in virtual mailbox table"), True),
        (Reply("a:25", 451, "4.3.0 <a@x.example>: Temporary lookup failure"), True),
        # Other restrictions than the maps.
        (Reply("a:25", 550, "5.7.1 Relay access denied"), False),
        (Reply("a:25", 450, "4.1.1 User unknown in virtual mailbox table"), False),
        (Reply("a:25", 554, "5.7.1 Access denied"), False),
        (Reply("a:25", None, "Connection refused"), False),
    ],
)
def test_what_smtpd_says_of_an_address_that_the_maps_have(running, reply, is_told):
    running(replies={"a@x.example": reply})
    # Told once, though two maps have it.
    answers = [Answer(each, "a@x.example", True) for each in ("virtual_mailbox_maps", "virtual_alias_maps")]
    found = _ispmail_classes.astray(instance(*answers), INVENTORY)
    assert found == ([f"a@x.example is in the maps, but smtpd says: {reply}"] if is_told else [])


def test_smtpd_is_asked_for_each_address(running):
    """Behind the tenth none was, and nothing said so."""
    answers = [Answer("virtual_mailbox_maps", f"{number}@x.example", True) for number in range(15)]
    last = answers[-1].question
    reply = Reply("a:25", 550, "5.1.1 User unknown in virtual mailbox table")
    asked = running(replies={last: reply})
    assert _ispmail_classes.astray(instance(*answers), INVENTORY) == [f"{last} is in the maps, but smtpd says: {reply}"]
    assert [each for each in asked if isinstance(each, str)] == [each.question for each in answers]


def test_a_route_that_cannot_be_asked_ends_it(running):
    """The next one would wait as long."""
    asked = running({"y.example": CannotAsk("trivial-rewrite is away"), "x.example": "relay_domains"})
    names = ("x.example", "y.example", "z.example")
    found = _ispmail_classes.astray(instance(*(Answer(CLASSES[2], each, True) for each in names)), INVENTORY)
    assert found == [sentence("x.example", "relay_domains", "virtual_mailbox_domains"), "trivial-rewrite is away"]
    assert len(asked) == 2


@pytest.mark.parametrize(("seconds", "count"), [(1, 5), (5, 3), (5.1, 2), (10.5, 1)])
def test_how_long_routes_are_asked(running, seconds, count):
    asked = running(seconds=seconds)
    answers = [Answer("virtual_mailbox_domains", f"{number}.example", True) for number in range(5)]
    said = [] if count == 5 else ["the other answers were not checked: that took too long already"]
    assert _ispmail_classes.astray(instance(*answers), INVENTORY) == said
    assert len(asked) == count


@pytest.fixture
def compared(monkeypatch, scratch_directory):
    """A Postfix, and a function that sets what its maps' answers and its routes are found to be."""
    postfix = Postfix(scratch_directory / "mail", chroot=False)
    seen = []

    def set_found(wrong, astray, is_there):
        def wrong_answers(instance, groups):
            seen.extend(groups)
            return wrong

        monkeypatch.setattr("_ispmail_answers.wrong_answers", wrong_answers)
        monkeypatch.setattr(_ispmail_classes, "astray", lambda instance, inventory: astray)
        monkeypatch.setattr("_ispmail_route.is_there", lambda queue: queue == str(postfix.queue_directory) and is_there)
        found = instance(Answer("x", "a", True), config_directory=postfix.config_directory)
        maps = tuple(Map(name, "relay_domains", "mysql", True, f"/{name}.cf") for name in ("x", "y"))
        return _ispmail_classes.wrong_answers(found._replace(maps=maps))

    return set_found, seen


@pytest.mark.parametrize("is_there", [True, False])
def test_answers_come_first_and_then_where_mail_goes(compared, is_there):
    """Where the maps are wrong already, mail goes astray for that reason; without a running Postfix it goes nowhere."""
    set_found, seen = compared
    assert set_found(["wrong"], ["astray"], is_there) == ["wrong"]
    assert set_found([], ["astray"], is_there) == (["astray"] if is_there else [])
    assert set_found([], [], is_there) == []
    # Maps of proxymap are asked through it if it runs, those without an expected answer not at all.
    assert [dict(each.tables) for each in seen] == [{"x": "proxy:mysql:/x.cf" if is_there else "mysql:/x.cf"}] * 3


def test_without_expected_answers_nothing_is_asked():
    assert _ispmail_classes.wrong_answers(instance(config_directory="/nonexistent")) == []
