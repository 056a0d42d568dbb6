"""The sites in the master's configuration: their faults, their hosts, and how many servers go at a time."""

import pytest

from _ispmail_errors import InvalidInput
from _ispmail_sites import batch_size, hosts, sites

MAIN = {"database": "db*", "mail": "mx*"}


def test_a_site_has_its_defaults():
    given = {"main": MAIN, 2: {**MAIN, "tgt_type": "list", "without": ["mx9"], "addresses": ["192.0.2.9"]}}
    assert sites({"sites": given}) == {
        "main": {**MAIN, "tgt_type": "glob", "without": [], "addresses": []},
        "2": {**MAIN, "tgt_type": "list", "without": ["mx9"], "addresses": ["192.0.2.9"]},
    }


@pytest.mark.parametrize("given", [None, {}, [], "main"])
@pytest.mark.parametrize("whole", [True, False])
def test_without_sites_the_fix_is_named(given, whole):
    with pytest.raises(InvalidInput, match=r"has no ispmail:sites: see docs/master\.conf"):
        sites(given if whole else {"sites": given})


def test_all_faults_of_sites_are_told_at_once():
    given = {
        "a": {"mail": "mx*", "cannary": "mx1"},
        "b": "mx*",
        "c d": MAIN,
        "e": {"database": ""},
        "f": MAIN,
        "g": {**MAIN, "database": None},
    }
    with pytest.raises(InvalidInput) as caught:
        sites({"sites": given})
    head, *faults = str(caught.value).split("\n- ")
    assert head == "the master's configuration has errors, see docs/master.conf:"
    assert [fault.partition(" ")[0] for fault in faults if not fault.startswith("ispmail:sites:c d ")] == [
        "ispmail:sites:a:cannary",
        "ispmail:sites:b",
        "ispmail:sites:e:mail",
        "ispmail:sites:e:database",
        "ispmail:sites:g:database",
    ]
    assert len(faults) == 6


@pytest.mark.parametrize(("key", "what"), [("without", "servers"), ("addresses", "addresses or names of hosts")])
@pytest.mark.parametrize("value", ["mx4", None, [4]])
def test_who_is_left_out_is_a_list(key, what, value):
    """A text became its letters, and nobody was left out."""
    with pytest.raises(InvalidInput, match=rf"\n- ispmail:sites:a:{key} must be a list of {what}$"):
        sites({"sites": {"a": {**MAIN, key: value}}})


@pytest.mark.parametrize("key", ["database", "mail", "canary"])
def test_a_target_is_a_text_or_a_list_of_texts(key):
    given = {**MAIN, "tgt_type": "list", key: ["mx1", "mx2"]}
    assert sites({"sites": {"a": given}})["a"][key] == ["mx1", "mx2"]
    for value in (7, {"mx1": None}, ["mx1", 7]):
        with pytest.raises(InvalidInput, match=rf"\n- ispmail:sites:a:{key} must be a text, or a list of texts, see"):
            sites({"sites": {"a": {**given, key: value}}})


def test_a_long_name_is_cut_in_a_message():
    with pytest.raises(InvalidInput, match=r"a:x{255} is not a key"):
        sites({"sites": {"a": {**MAIN, "x" * 300: 1}}})


def test_a_target_that_is_none():
    with pytest.raises(InvalidInput, match="ispmail:sites:a:tgt_type must be one of glob, list, compound"):
        sites({"sites": {"a": {**MAIN, "tgt_type": "compund"}}})


SIZES = [("25%", 3, 1), ("25%", 100, 25), ("25%", 101, 26), ("100%", 7, 7), ("1%", 7, 1), (2, 7, 2), ("3", 7, 3)]
SIZES += [(100, 7, 100), (999999, 7, 999999)]


@pytest.mark.parametrize(("batch", "number", "size"), SIZES)
def test_how_many_at_a_time(batch, number, size):
    assert batch_size(batch, number) == size


@pytest.mark.parametrize("batch", [0, "0%", "", "some", None, -1, "25 %", 10**6, pytest.param(10**5000, id="huge")])
def test_a_batch_that_is_none(batch):
    with pytest.raises(InvalidInput, match="ispmail:rotation:batch must be"):
        batch_size(batch, 4)


def test_the_hosts_of_a_site():
    """By whatever name or address the database lists their connections; of a server that nobody knows, its name."""
    grains = {"mx1": {"ipv4": ["192.0.2.1", "127.0.0.1"], "ipv6": [], "fqdn": "mx1.example.org", "host": ""}, "mx2": {}}
    assert hosts(grains, ["203.0.113.1"]) == ["127.0.0.1", "192.0.2.1", "203.0.113.1", "mx1", "mx1.example.org", "mx2"]
    assert hosts({"mx1": None}, []) == ["mx1"]


def test_each_grain_that_names_a_server_is_read():
    """By one that is left out a database may list the server's connections: they would be a stranger's."""
    grains = {"ipv4": ["192.0.2.1"], "ipv6": ["2001:db8::1"], "fqdn": "a.example.org", "host": "a", "fqdns": ["b.c"]}
    assert hosts({"mx1": grains}, []) == ["192.0.2.1", "2001:db8::1", "a", "a.example.org", "b.c", "mx1"]


def test_a_server_chooses_its_grains_within_limits():
    grains = {"mx1": {"ipv4": [f"a{number}" for number in range(200)], "host": "x" * 255, "fqdn": "x" * 256}}
    assert len(hosts(grains, [])) == 1 + 100 + 1 and "x" * 255 in hosts(grains, [])


@pytest.mark.parametrize(
    "kind",
    ["glob", "list", "compound", "grain", "grain_pcre", "pcre", "pillar", "pillar_pcre", "nodegroup", "ipcidr"],
)
def test_each_kind_of_target_that_salt_knows(kind):
    """See `salt --help`."""
    assert sites({"sites": {"x": {**MAIN, "tgt_type": kind}}})["x"]["tgt_type"] == kind


def test_an_unknown_key_is_told_with_those_that_are_known():
    with pytest.raises(InvalidInput, match="known are database, mail, canary, tgt_type, without, addresses"):
        sites({"sites": {"x": {**MAIN, "tgt": "a"}}})


LOGINS = {
    # What is wrong with where the login is, and the fault of it.
    "a URI": (
        {"sdb_password": "sdb://mail/Zx9"},
        "sdb_password must be profile and key, such as myvault/secret/mail/main",
    ),
    "what Salt puts there": ({"sdb_password": "Zx9"}, "sdb_password must be profile and key"),
    "no text": ({"sdb_password": None}, "sdb_password must be profile and key"),
    "a blank": ({"sdb_password": "mail/Zx9 y"}, "sdb_password must be profile and key"),
    "a user's": ({"sdb_password": "a/b", "sdb_user": "Zx9"}, "sdb_user must be profile and key"),
    "a user alone": ({"sdb_user": "a/b"}, "sdb_user is of no use without sdb_password"),
    "accounts alone": ({"accounts": ["a", "b"]}, "accounts is of no use without sdb_user"),
    "one account": ({"accounts": ["a"]}, "accounts must be a list of two different users"),
    "the same account": ({"accounts": ["a", "a"]}, "accounts must be a list of two different users"),
    "accounts as a text": ({"accounts": "ab"}, "accounts must be a list of two different users"),
}


@pytest.mark.parametrize("case", LOGINS)
def test_where_the_login_is(case):
    given, fault = LOGINS[case]
    with pytest.raises(InvalidInput) as caught:
        sites({"sites": {"x": {**MAIN, **given}}})
    assert f"ispmail:sites:x:{fault}" in str(caught.value) and "Zx9" not in str(caught.value)
    whole = {"sdb_password": "myvault/secret/mail/main", "sdb_user": "myvault/secret/mail/user", "accounts": ["a", "b"]}
    assert whole.items() <= sites({"sites": {"x": {**MAIN, **whole}}})["x"].items()
