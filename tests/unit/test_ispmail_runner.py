"""The runner's own decisions: who is who, how many at a time, whose password is another one, why a run failed."""

import pytest
from salt.exceptions import SaltInvocationError

from _runners import ispmail

MAIN = {"database": "db*", "mail": "mx*"}


@pytest.fixture
def configured(monkeypatch):
    """A function that sets what the master's configuration has as ispmail:sites."""

    def configure(sites):
        monkeypatch.setattr(ispmail, "__opts__", {"ispmail": {"sites": sites}}, raising=False)

    return configure


def test_a_site_has_its_defaults(configured):
    configured({"main": MAIN, 2: {**MAIN, "tgt_type": "list", "without": ["mx9"]}})
    assert ispmail._sites() == {
        "main": {**MAIN, "tgt_type": "glob", "without": []},
        "2": {**MAIN, "tgt_type": "list", "without": ["mx9"]},
    }


@pytest.mark.parametrize("sites", [None, {}, [], "main"])
def test_without_sites_the_mend_is_named(configured, sites):
    configured(sites)
    with pytest.raises(SaltInvocationError, match=r"lacks ispmail:sites: see docs/master\.conf"):
        ispmail._sites()


def test_all_faults_of_sites_are_told_at_once(configured):
    configured({"a": {"mail": "mx*", "cannary": "mx1"}, "b": "mx*", "c d": MAIN, "e": {"database": ""}, "f": MAIN})
    with pytest.raises(SaltInvocationError) as caught:
        ispmail._sites()
    head, *faults = str(caught.value).split("\n- ")
    assert head == "the master's configuration is at fault, see docs/master.conf:"
    assert [fault.partition(" ")[0] for fault in faults if not fault.startswith("ispmail:sites:c d ")] == [
        "ispmail:sites:a:database",
        "ispmail:sites:a:cannary",
        "ispmail:sites:b",
        "ispmail:sites:e:database",
        "ispmail:sites:e:mail",
    ]
    assert len(faults) == 6


WHO = {
    # roles, who is there; what the rotation goes to.
    "all there": ({}, "db mx1 mx2 mx3 mx4", (["db"], ["mx1"], [["mx2", "mx3"], ["mx4"]], [], [])),
    "one down": ({}, "db mx1 mx2 mx4", (["db"], ["mx1"], [["mx2", "mx4"]], ["mx3"], [])),
    "no canary named": ({"canary": []}, "db mx2 mx3", (["db"], ["mx2"], [["mx3"]], ["mx1", "mx4"], [])),
    "canary down": ({}, "db mx2", (["db"], [], [["mx2"]], ["mx1", "mx3", "mx4"], ["the canary, x, does not answer"])),
    "canary of no site": (
        {"canary": ["mx9"]},
        "db mx1 mx9",
        (["db"], ["mx9"], [["mx1"]], ["mx2", "mx3", "mx4"], ["the canary mx9 is none of the servers of mail"]),
    ),
    "database down": (
        {},
        "mx1 mx2",
        (["db"], ["mx1"], [["mx2"]], ["mx3", "mx4"], ["the database server db does not answer"]),
    ),
    "no database": (
        {"database": []},
        "mx1",
        ([], ["mx1"], [], ["mx2", "mx3", "mx4"], ["database, x, matches no server"]),
    ),
    "no mail": ({"mail": [], "canary": []}, "db", (["db"], [], [], [], ["mail, x, matches no server"])),
    "no mail server up": (
        {"canary": []},
        "db",
        (["db"], [], [], ["mx1", "mx2", "mx3", "mx4"], ["no mail server answers"]),
    ),
}


@pytest.mark.parametrize("case", WHO)
def test_to_whom_a_rotation_goes(monkeypatch, case):
    changed, there, (database, canary, batches, down, faults) = WHO[case]
    roles = {"database": ["db"], "mail": ["mx1", "mx2", "mx3", "mx4"], "canary": ["mx1"], **changed}
    monkeypatch.setattr(ispmail, "_matching", lambda who, role: roles[role])
    monkeypatch.setattr(
        ispmail, "_present", lambda client, servers: [each for each in servers if each in there.split()]
    )
    configured = {role: "x" for role in roles if roles[role] or role != "canary"}
    found = ispmail._who(None, "main", configured, 2)
    told = [fault.removeprefix("ispmail:sites:main: ") for fault in found.pop("faults")]
    assert found == {"database": database, "canary": canary, "batches": batches, "down": down}
    assert len(told) == len(faults) and all(map(str.startswith, told, faults)), told


SIZES = [("25%", 3, 1), ("25%", 100, 25), ("25%", 101, 26), ("100%", 7, 7), ("1%", 7, 1), (2, 7, 2), ("3", 7, 3)]


@pytest.mark.parametrize(("batch", "number", "size"), SIZES)
def test_how_many_at_a_time(batch, number, size):
    assert ispmail._size(batch, number) == size


@pytest.mark.parametrize("batch", [0, "0%", "", "some", None, -1, "25 %"])
def test_a_batch_that_is_none(batch):
    with pytest.raises(SaltInvocationError, match="ispmail:rotation:batch must be"):
        ispmail._size(batch, 4)


def used(live="new", pillar="new"):
    return {"pillar": {"virtual_alias_maps": pillar}, "live": {"virtual_alias_maps": live}}


DATABASE = {"db": {"pillar": {"virtual_alias_maps": "new", "virtual_mailbox_maps": "new"}}}


@pytest.mark.parametrize(
    ("wanted", "said", "faults"),
    [
        (DATABASE, used(), []),
        (DATABASE, used(live="old"), ["mx: the table file has another password for virtual_alias_maps, or none"]),
        (DATABASE, used(live=None), ["mx: the table file has another password for virtual_alias_maps, or none"]),
        (DATABASE, used(pillar="old"), ["mx: pillar has another password for virtual_alias_maps, or none"]),
        (
            DATABASE,
            {"pillar": {}, "live": {}},
            ["mx: none of its maps logs in with the account of ispmail:database"],
        ),
        (
            {"db": {"pillar": {"a": "new", "b": "old"}}},
            used(),
            ["db: pillar has not one password for all maps of the account"],
        ),
        ({"db": {"pillar": {"a": None}}}, used(), ["db: pillar has not one password for all maps of the account"]),
        ({"db": {"pillar": {}}}, used(), ["db: pillar has not one password for all maps of the account"]),
        # Who does not answer is told of elsewhere.
        ({"db": None}, used(), []),
        (DATABASE, "Minion did not return", []),
    ],
)
def test_whose_password_is_another_one(wanted, said, faults):
    assert ispmail._others(wanted, {"mx": said}) == faults


def test_without_answers_nothing_is_proved():
    assert ispmail._silent({"a": None, "b": False, "c": "no such function", "d": {}}, dict) == [
        "a: does not answer",
        "b: does not answer",
        "c: no such function",
    ]


def test_the_reasons_of_a_failed_orchestration():
    """What an admin wants to read of it, and nothing of what went well or only waited."""
    inner = {
        "postfix_map_|-x": {"result": False, "comment": "Nothing was changed: Access denied", "changes": {}},
        "postfix_map_|-y": {"result": False, "comment": "One or more requisite failed: x", "changes": {}},
        "postfix_map_|-z": {"result": True, "comment": "fine", "changes": {"a": "b"}},
    }
    returned = {
        "1": {"result": True, "comment": "States ran successfully.", "changes": {"ret": {"db": inner}}},
        "2": {
            "result": False,
            "comment": "Run failed on minions: mx1",
            "changes": {"ret": {"mx1": inner, "mx2": False}},
        },
        "3": {"result": False, "comment": "One or more requisite failed: 2", "changes": {}},
        "4": {"result": False, "comment": "Runner function failed.", "changes": {"return": ["mx3: no", "mx4: no"]}},
        "5": {"result": False, "comment": "Mend that", "changes": {}},
    }
    assert ispmail._reasons(returned) == [
        "mx1: Nothing was changed: Access denied",
        "mx2: does not answer",
        "mx3: no",
        "mx4: no",
        "Mend that",
    ]
    assert ispmail._reasons(["Rendering SLS failed"]) == ["Rendering SLS failed"]
