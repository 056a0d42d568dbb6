"""What a preset stands for, and what pillar changes in it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import _ispmail_config
from _ispmail_errors import PillarFault
from _ispmail_presets import NAMES, expanded

PRESETS = {
    "postfixadmin": ("mysql", "postfix"),
    "postfixadmin-pgsql": ("pgsql", "postfix"),
    "modoboa": ("mysql", "modoboa"),
    "modoboa-pgsql": ("pgsql", "modoboa"),
    "iredmail": ("mysql", "vmail"),
    "iredmail-pgsql": ("pgsql", "vmail"),
}
ORDER = [
    "virtual_mailbox_domains",
    "virtual_alias_maps",
    "alias_domain_aliases",
    "alias_domain_catch_all",
    "virtual_mailbox_maps",
    "alias_domain_mailboxes",
]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def complete(**section):
    return _ispmail_config.complete("ispmail", expanded({"database": {"password": "x"}, **section}))


@pytest.mark.parametrize("preset", PRESETS)
def test_the_maps_of_a_preset_are_valid(preset):
    found = complete(preset=preset)
    table_type, dbname = PRESETS[preset]
    assert found.warnings == ()
    assert {each.parameter for each in found.maps} == {
        "virtual_mailbox_domains",
        "virtual_alias_maps",
        "virtual_mailbox_maps",
    }
    assert {each.type for each in found.maps} == {table_type}
    assert {each.keys["dbname"] for each in found.maps} == {dbname}
    assert {each.keys["user"] for each in found.maps} == {"mailserver"}
    assert not any("{" in each.keys["query"] for each in found.maps)


def test_the_presets_are_these():
    assert ("ispmail", *PRESETS) == NAMES
    assert [each.name for each in complete(preset="postfixadmin").maps] == ORDER


def test_the_presets_of_a_project_differ_in_the_type_and_in_what_the_time_is_called():
    """UTC: Modoboa writes it whatever the server's time zone is."""
    for name in PRESETS:
        mysql, pgsql = (expanded({"preset": f"{name.partition('-')[0]}{suffix}"})["maps"] for suffix in ("", "-pgsql"))
        assert "NOW()" not in str(mysql) and "UTC_TIMESTAMP()" not in str(pgsql)
        assert str(mysql).replace("'mysql'", "'pgsql'").replace("UTC_TIMESTAMP()", "NOW()") == str(pgsql)


def test_without_a_preset_or_with_the_default_one_it_is_the_guide():
    section = {"database": {"password": "x"}}
    assert expanded(section) is section
    named = {"preset": "ispmail", **section}
    assert expanded(named) is named
    assert complete(preset="ispmail") == complete() == complete(preset=None)


def test_what_pillar_says_itself_stays_and_maps_keep_the_presets_order():
    section = {
        "preset": "postfixadmin",
        "database": {"password": "x", "dbname": "mail", "user": "reader"},
        "server": {"create_tables": True},
        "maps": {
            "own": {"parameter": "virtual_alias_maps", "query": "SELECT 1 FROM own WHERE a = '%s'"},
            "alias_domain_mailboxes": None,
            "virtual_alias_maps": {"proxy": True},
        },
    }
    before = repr(section)
    found = expanded(section)
    assert repr(section) == before
    assert found["server"] == {"create_tables": True}
    assert found["database"] == section["database"]
    maps = _ispmail_config.complete("ispmail", found).maps
    assert [each.name for each in maps] == [*ORDER[:-1], "own"]
    assert [each.name for each in maps if each.proxy] == ["virtual_alias_maps"]


def test_a_map_of_pillars_own_is_of_the_presets_type():
    own = {"parameter": "own_maps", "query": "SELECT 1 FROM own WHERE a = '%s'"}
    found = complete(preset="postfixadmin-pgsql", maps={"own": own, "file": {**own, "type": "sqlite", "dbpath": "/x"}})
    assert {each.name: each.type for each in found.maps if each.name in ("own", "file")} == {
        "own": "pgsql",
        "file": "sqlite",
    }


@pytest.mark.parametrize("wrong", ["postfixadmins", "", 5, ["postfixadmin"], {}])
def test_another_name_is_a_fault_that_names_those_there_are(wrong):
    if wrong == "":
        assert complete(preset=wrong) == complete()
        return
    with pytest.raises(PillarFault) as caught:
        complete(preset=wrong)
    reason = f"must be one of {', '.join(NAMES)}" if isinstance(wrong, str) else "must be a text"
    assert [(fault.key, fault.reason) for fault in caught.value.faults] == [("preset", reason)]


@given(
    st.dictionaries(st.sampled_from(["database", "server", "maps", "answers"]), VALUES), st.sampled_from(list(PRESETS))
)
def test_a_section_that_is_wrong_is_left_for_the_checks(section, preset):
    """It never fails, and changes nothing that is no mapping."""
    found = expanded({"preset": preset, **section})
    for name, value in section.items():
        if value is not None and not isinstance(value, dict):
            assert found[name] == value
    try:
        _ispmail_config.complete("ispmail", found)
    except PillarFault as err:
        assert err.faults


@given(VALUES)
def test_what_is_no_mapping_stays(section):
    if not isinstance(section, dict):
        assert expanded(section) is section or expanded(section) == section
