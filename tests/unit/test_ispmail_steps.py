"""By which steps main.cf changes: domains apart from their maps, and proxymap allows what is asked still."""

import re

import pytest

import _ispmail_steps
from _ispmail_maincf import MEANWHILE
from _ispmail_steps import Step

DEFAULTS = {"proxy_read_maps": "$local_recipient_maps $alias_maps", "local_recipient_maps": "proxy:unix:passwd.byname"}
DOMAINS = ("mydestination", "relay_domains", "virtual_alias_domains", "virtual_mailbox_domains")
ALLOWED = f"${MEANWHILE}"


def between(now, then):
    """The steps of parameters; what is not named is not set."""
    names = {"proxy_read_maps", MEANWHILE, *now, *then}
    defaults = {name: value for name, value in DEFAULTS.items() if name in names}
    now, then = ({name: values.get(name) for name in names} for values in (now, then))
    return _ispmail_steps.between(now, then, defaults)


def shown(steps):
    """Each step: what it sets, the texts that proxymap is told apart, and whether it is complete."""
    found = []
    for step in steps:
        values = {name: value for name, value in step.parameters.items() if value is not None}
        texts = values.pop(MEANWHILE, "")
        found.append((values, set(re.split(", (?![^{]*})", texts)) - {""}, step.is_complete))
    return found


def asked(values):
    """The words by which tables are asked through proxymap."""
    texts = [text for name, text in values.items() if name != "proxy_read_maps"]
    return {word for text in texts for word in re.split("[, ]+(?![^{]*})", text) if "proxy:" in word}


@pytest.mark.parametrize("domains", DOMAINS)
def test_domains_come_last_and_go_first(domains):
    more, maps = {domains: "x.test", "alias_maps": "hash:/x"}, {"alias_maps": "hash:/x"}
    assert shown(between({}, more)) == [(maps, set(), False)]
    assert shown(between(more, {})) == [(maps, set(), False)]


@pytest.mark.parametrize(
    ("now", "then"),
    [
        ({"relay_domains": "x.test"}, {"relay_domains": "y.test", "alias_maps": "hash:/x"}),
        ({}, {"relay_domains": "x.test"}),
        ({}, {"relay_domains": "x.test", "virtual_mailbox_domains": "y.test"}),
        ({}, {"alias_maps": "hash:/x"}),
        ({"relay_domains": "x.test"}, {"virtual_mailbox_domains": "x.test", "alias_maps": "hash:/x"}),
        ({"alias_maps": "hash:/x"}, {"relay_domains": "x.test", "alias_maps": "hash:/x"}),
        ({"alias_maps": "proxy:mysql:/a"}, {"alias_maps": "mysql:/b, proxy:mysql:/a"}),
        ({"alias_maps": "proxy:mysql:/a", "x": None}, {"x": "proxy:mysql:/a"}),
        # Nobody asks what is allowed.
        ({"proxy_read_maps": "proxy:mysql:/a", "x": "hash:/y"}, {"proxy_read_maps": "proxy:mysql:/b"}),
        # The default has it too.
        ({"local_recipient_maps": "mysql:/a proxy:unix:passwd.byname"}, {}),
    ],
)
def test_one_step_is_enough_without_a_reason(now, then):
    assert between(now, then) == []


GOES = [
    ({"alias_maps": "proxy:mysql:/a"}, {"alias_maps": "mysql:/a"}),
    ({"alias_maps": "proxy:mysql:/a, proxy:mysql:/b"}, {"alias_maps": "proxy:mysql:/a"}),
    ({"alias_maps": "proxy:mysql:/a"}, {}),
    ({"ours": "check_sender_access proxy:mysql:/a, permit"}, {"ours": "check_sender_access mysql:/a, permit"}),
    ({"alias_maps": "unionmap:{proxy:mysql:/a, mysql:/b}"}, {"alias_maps": "mysql:/b"}),
    ({"alias_maps": "proxy:mysql:$config_directory/a"}, {"alias_maps": "hash:/x"}),
    ({}, {"local_recipient_maps": "mysql:/a"}),
]


@pytest.mark.parametrize(("now", "then"), GOES)
@pytest.mark.parametrize("readable", [None, "", "$alias_maps, proxy:pgsql:/z"])
def test_what_is_asked_through_proxymap_is_allowed_until_nobody_asks_it(now, then, readable):
    """As main.cf spells it: proxymap compares texts. What else it allows stays."""
    now, then = {**now, "proxy_read_maps": readable}, {**then, "proxy_read_maps": readable}
    ((values, texts, is_complete),) = shown(between(now, then))
    allowed = ALLOWED if readable is None else f"{readable}, {ALLOWED}"
    assert values == {**{name: value for name, value in then.items() if value}, "proxy_read_maps": allowed}
    assert is_complete and asked(now) <= texts
    assert (DEFAULTS["proxy_read_maps"] in texts) is (readable is None)
    assert (DEFAULTS["local_recipient_maps"] in texts) is ("local_recipient_maps" in then)


@pytest.mark.parametrize(("then", "now"), GOES)
def test_what_is_to_be_asked_through_proxymap_is_allowed_first(now, then):
    ((values, texts, is_complete),) = shown(between(now, then))
    assert values == {**now, "proxy_read_maps": ALLOWED} and not is_complete
    assert asked(then) <= texts


def test_one_table_goes_and_another_one_comes():
    now, then = {"alias_maps": "proxy:mysql:/a"}, {"alias_maps": "proxy:mysql:/b"}
    texts = {"proxy:mysql:/a", "proxy:mysql:/b", DEFAULTS["proxy_read_maps"]}
    allowed = {"proxy_read_maps": ALLOWED}
    assert shown(between(now, then)) == [({**now, **allowed}, texts, False), ({**then, **allowed}, texts, True)]


def test_both_rules_at_once():
    """Domains go first, and proxymap is asked for their table as long as for the others."""
    now = {"virtual_mailbox_domains": "proxy:mysql:/d", "alias_maps": "proxy:mysql:/a", "proxy_read_maps": "$x"}
    texts, default = asked(now), DEFAULTS["proxy_read_maps"]
    maps, none = {"alias_maps": "proxy:mysql:/a", "proxy_read_maps": f"$x, {ALLOWED}"}, {"proxy_read_maps": ALLOWED}
    # What the list allowed before counts until the end too.
    first, second = (maps, {*texts, default}, False), (none, {*texts, default, "$x"})
    assert shown(between(now, {})) == [first, (*second, True)]
    assert shown(between({}, now)) == [(*second, False), first]


def test_what_a_change_that_was_cut_off_had_allowed_is_asked_still():
    now = {MEANWHILE: "$virtual_alias_maps, proxy:mysql:/a", "proxy_read_maps": "$x"}
    ((values, texts, is_complete),) = shown(between(now, {"proxy_read_maps": "$x"}))
    assert values == {"proxy_read_maps": f"$x, {ALLOWED}"} and is_complete
    assert texts == {"$virtual_alias_maps", "proxy:mysql:/a"}


def test_nothing_but_what_may_be_asked_is_allowed_apart():
    """What a value holds itself may be a password, and a long list would not fit in twice."""
    now = {"alias_maps": "inline:{a=secret}, check_x mysql:/b, $x, proxy:mysql:/a", "proxy_read_maps": "$alias_maps"}
    ((_, texts, _),) = shown(between(now, {"proxy_read_maps": "$alias_maps"}))
    assert texts == {"$x", "proxy:mysql:/a"}


def test_no_value_is_in_a_traceback():
    """main.cf may hold passwords."""
    assert "secret" not in repr(Step({"a": "inline:{a=secret}"}, True)) and "is_complete=True" in repr(Step({}, True))
