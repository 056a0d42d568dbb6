"""The runner's own decisions: who is who, how many at a time, whose password is another one, why a run failed."""

import pytest
from salt.exceptions import CommandExecutionError, SaltInvocationError

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
@pytest.mark.parametrize("whole", [True, False])
def test_without_sites_the_fix_is_named(configured, monkeypatch, sites, whole):
    configured(sites)
    if whole:
        monkeypatch.setattr(ispmail, "__opts__", {"ispmail": sites})
    with pytest.raises(SaltInvocationError, match=r"has no ispmail:sites: see docs/master\.conf"):
        ispmail._sites()


def test_all_faults_of_sites_are_told_at_once(configured):
    configured({"a": {"mail": "mx*", "cannary": "mx1"}, "b": "mx*", "c d": MAIN, "e": {"database": ""}, "f": MAIN})
    with pytest.raises(SaltInvocationError) as caught:
        ispmail._sites()
    head, *faults = str(caught.value).split("\n- ")
    assert head == "the master's configuration has errors, see docs/master.conf:"
    assert [fault.partition(" ")[0] for fault in faults if not fault.startswith("ispmail:sites:c d ")] == [
        "ispmail:sites:a:database",
        "ispmail:sites:a:cannary",
        "ispmail:sites:b",
        "ispmail:sites:e:database",
        "ispmail:sites:e:mail",
    ]
    assert len(faults) == 6


@pytest.mark.parametrize("without", ["mx4", None, [4]])
def test_who_is_left_out_is_a_list(configured, without):
    """A text became its letters, and nobody was left out."""
    configured({"a": {**MAIN, "without": without}})
    with pytest.raises(SaltInvocationError, match="ispmail:sites:a:without must be a list of servers"):
        ispmail._sites()


def test_a_target_that_is_none(configured):
    configured({"a": {**MAIN, "tgt_type": "compund"}})
    with pytest.raises(SaltInvocationError, match="ispmail:sites:a:tgt_type must be one of glob, list, compound"):
        ispmail._sites()


WHO = {
    # roles, who is there; what the rotation goes to.
    "all there": ({}, "db mx1 mx2 mx3 mx4", (["db"], ["mx1"], [["mx2", "mx3"], ["mx4"]], [], [])),
    "one down": ({}, "db mx1 mx2 mx4", (["db"], ["mx1"], [["mx2", "mx4"]], ["mx3"], [])),
    "no canary named": ({"canary": []}, "db mx2 mx3", (["db"], ["mx2"], [["mx3"]], ["mx1", "mx4"], [])),
    "canary down": ({}, "db mx2", (["db"], [], [["mx2"]], ["mx1", "mx3", "mx4"], ["the canary, x, does not answer"])),
    "canary of no site": (
        {"canary": ["mx9"]},
        "db mx1 mx9",
        (["db"], ["mx9"], [["mx1"]], ["mx2", "mx3", "mx4"], ["the canary mx9 is not one of the servers of mail"]),
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
    found = ispmail._resolve_targets(None, "main", configured, 2)
    reasons = [fault.removeprefix("ispmail:sites:main: ") for fault in found.pop("faults")]
    assert found == {"database": database, "canary": canary, "batches": batches, "down": down}
    assert len(reasons) == len(faults) and all(map(str.startswith, reasons, faults)), reasons


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


NOT_ONE = "db: pillar does not have one password for all maps of the account"
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
            [NOT_ONE],
        ),
        ({"db": {"pillar": {"a": None}}}, used(), [NOT_ONE]),
        ({"db": {"pillar": {}}}, used(), [NOT_ONE]),
        # A server that does not answer is reported elsewhere.
        ({"db": None}, used(), []),
        (DATABASE, "Minion did not return", []),
    ],
)
def test_whose_password_is_another_one(wanted, said, faults):
    assert ispmail._mismatches(wanted, {"mx": said}) == faults


class FakeClient:
    """Answers as servers do that are all well, but for some answers."""

    def __init__(self, answers):
        self.answers = answers

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def cmd(self, servers, functions, arguments=(), **_):
        if isinstance(functions, str):
            return dict.fromkeys(servers, True)
        well = {"postfix_map.fingerprints": used(), "postfix_database.refused": [], "postfix_map.old_processes": []}
        said = {}
        for server in servers:
            job = (server, len(functions))
            if job not in self.answers or self.answers[job] is not None:
                said[server] = {name: self.answers.get((server, name), well[name]) for name in functions}
        return said


PROOFS = {
    "all is well": ({}, None),
    "no answer to one question": (
        {("mx2", "postfix_database.refused"): "'postfix_database.refused' is not available."},
        "mx2: 'postfix_database.refused' is not available.",
    ),
    "an error of one function": ({("mx2", "postfix_map.old_processes"): "ERROR: no"}, "mx2: ERROR: no"),
    "refused": (
        {("mx1", "postfix_database.refused"): [{"host": "db2", "user": "u", "maps": ["a", "b"], "changed": 1}]},
        "mx1: db2 refuses the login of a, b",
    ),
    "an old process": ({("mx1", "postfix_map.old_processes"): ["smtpd 5"]}, "mx1: smtpd 5 still uses"),
    "another password": ({("mx2", "postfix_map.fingerprints"): used(live="old")}, "mx2: the table file has another"),
    # The database's server is a mail server too, and its first answer is lost.
    "no answer of the database's server": ({("mx1", 1): None}, "mx1: does not answer"),
}


@pytest.mark.parametrize("case", PROOFS)
def test_what_is_proved(configured, monkeypatch, case):
    answers, fault = PROOFS[case]
    configured({"main": {"database": "mx1", "mail": "mx*"}})
    monkeypatch.setitem(ispmail.__opts__, "conf_file", "/nowhere")
    monkeypatch.setattr(ispmail, "__context__", {}, raising=False)
    monkeypatch.setattr(ispmail, "_matching", lambda who, role: {"database": ["mx1"], "mail": ["mx1", "mx2"]}[role])
    monkeypatch.setattr(ispmail.salt.client, "get_local_client", lambda path: FakeClient(answers))
    said = ispmail.prove("main")
    if fault is None:
        assert said == {"mx1": 1, "mx2": 1} and ispmail.__context__ == {}
    else:
        assert [line for line in said if line.startswith(fault)] and ispmail.__context__ == {"retcode": 1}, said


def test_nobody_is_no_proof(configured, monkeypatch):
    configured({"main": MAIN})
    monkeypatch.setitem(ispmail.__opts__, "conf_file", "/nowhere")
    monkeypatch.setattr(ispmail, "__context__", {}, raising=False)
    monkeypatch.setattr(ispmail, "_matching", lambda who, role: [])
    monkeypatch.setattr(ispmail.salt.client, "get_local_client", lambda path: FakeClient({}))
    assert "ispmail:sites:main:mail matches no server" in ispmail.prove("main")


def test_without_answers_nothing_is_proved():
    assert ispmail._unanswered({"a": None, "b": False, "c": "no such function", "d": {}}, dict) == [
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
        "5": {"result": False, "comment": "Fix that", "changes": {}},
    }
    assert ispmail._reasons(returned) == [
        "mx1: Nothing was changed: Access denied",
        "mx2: does not answer",
        "mx3: no",
        "mx4: no",
        "Fix that",
    ]
    assert ispmail._reasons(["Rendering SLS failed"]) == ["Rendering SLS failed"]


@pytest.mark.parametrize("broken", ["the cache", "Salt"])
def test_a_rotation_that_cannot_start_is_reported(configured, monkeypatch, tmp_path, broken):
    """A full /var/cache was a traceback, and no event."""
    configured({"main": MAIN})
    events = []

    def orchestrate(sls):
        raise OSError(28, "No space left on device", "/var/cache/a secret")

    salt = {"event.send": lambda tag, data: events.append((tag, data)), "state.orchestrate": orchestrate}
    monkeypatch.setattr(ispmail, "__salt__", salt, raising=False)
    monkeypatch.setitem(ispmail.__opts__, "cachedir", str(tmp_path))
    if broken == "the cache":
        (tmp_path / "ispmail").write_text("")
    with pytest.raises(CommandExecutionError) as caught:
        ispmail.rotate()
    assert events == [("ispmail/rotation/failed", {"comment": str(caught.value)})]
    wanted = "cannot be written: " if broken == "the cache" else "the rotation ended with OSError (No space left"
    assert wanted in str(caught.value) and "secret" not in str(caught.value)
