"""A rotation as the bus tells of it: lines, events, the table; whose password is another one; why a run failed."""

import pytest

from ispmail_rotation import Progress, mismatches, reasons, unanswered, unnamed


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
    assert mismatches(wanted, {"mx": said}) == faults


def test_without_answers_nothing_is_proved():
    assert unanswered({"a": None, "b": False, "c": "no such function", "d": {}}, dict) == [
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
    assert reasons(returned) == [
        "mx1: Nothing was changed: Access denied",
        "mx2: does not answer",
        "mx3: no",
        "mx4: no",
        "Fix that",
    ]
    assert reasons(["Rendering SLS failed"]) == ["Rendering SLS failed"]


def test_what_nobody_has_named():
    answers = {"a": None, "b": {"unnamed": [{"text": "/x holds it"}, {"text": "y uses it"}]}, "c": "ERROR"}
    assert unnamed(answers) == ["b: /x holds it", "b: y uses it"]


JOB = "20261126000000000000"
ARGS = f"salt/run/{JOB}/args"
BATCH = "Batch 1 of 1 takes the new password in main"
MANAGED = {"result": True, "comment": "3 maps have been applied\nPostfix has been reloaded", "changes": {}}
STATES = {"postfix_map_|-a_|-b_|-managed": MANAGED, "pkg_|-a_|-b_|-installed": {"result": True, "comment": "there"}}
BAD = {"postfix_map_|-a_|-b_|-managed": {"result": False, "comment": "Access denied"}}


def returned(server, states, sls="ispmail.drained"):
    return f"salt/job/20261126000000000001/ret/{server}", {"id": server, "fun_args": [sls, {}], "return": states}


def ended(name, result=True, job=JOB, **state):
    data = {"ret": {"__id__": name, "result": result, "comment": "", "duration": 1234.5, **state}}
    return f"salt/state_result/{job}/master/{name}", data


@pytest.fixture
def progress():
    found = Progress(JOB, {"main": ["mx1", "mx2", "mx3"]})
    assert found.hear(ARGS, {"tgt": ["mx1", "mx2"], "name": BATCH}, 10.0) is None
    return found


def test_a_server_that_has_ended(progress):
    step = progress.hear(*returned("mx2", STATES), 12.5)
    said = "3 maps have been applied; Postfix has been reloaded"
    assert step.describe() == f"main: mx2 (1 of 3): ok after 2.5 s: {said}"
    assert step.event() == {
        "site": "main",
        "step": BATCH,
        "server": "mx2",
        "number": 1,
        "of": 3,
        "result": True,
        "seconds": 2.5,
        "comment": said,
    }
    assert (
        progress.hear(*returned("mx1", BAD), 13.0).describe() == "main: mx1 (2 of 3): failed after 3.0 s: Access denied"
    )
    assert progress.table().splitlines() == [
        "site  server  result       seconds  what was done",
        "----  ------  -----------  -------  ---------------------------------------------------",
        "main  mx1     failed       3.0      Access denied",
        "main  mx2     ok           2.5      3 maps have been applied; Postfix has been reloaded",
        "main  mx3     not reached",
    ]


@pytest.mark.parametrize(
    ("tag", "data"),
    [
        returned("mx3", STATES),  # another batch's, or another run's
        returned("mx1", STATES, sls="ispmail"),
        ended("How to go on"),  # of no site
        ended("x in main", job="1"),  # of another orchestration
        ended("x in main", result=False, comment="One or more requisite failed: y"),
        ("salt/auth", {}),
    ],
)
def test_what_is_none_of_this_rotation(progress, tag, data):
    assert progress.hear(tag, data, 11.0) is None and progress.steps == []


def test_a_return_that_is_sent_twice_counts_once(progress):
    assert progress.hear(*returned("mx1", STATES), 11.0)
    assert progress.hear(*returned("mx1", STATES), 12.0) is None


def test_a_return_that_is_no_states(progress):
    step = progress.hear(*returned("mx1", ["Rendering SLS failed"]), 11.0)
    assert step.result is False and "Rendering SLS failed" in step.said


def test_a_step_that_has_ended(progress):
    accepted = {"postfix_database_|-a_|-b_|-credential_accepted": {"result": True, "comment": "has been accepted"}}
    step = progress.hear(*ended("The new password is accepted in main", changes={"ret": {"db": accepted}}), 20.0)
    line = "main: The new password is accepted: ok after 1.2 s: db: has been accepted"
    assert step.describe() == line
    assert "server" not in step.event()


def test_a_step_that_has_failed_tells_why(progress):
    lines = ["Nothing was changed:", "mx1: /root/x holds it"]
    step = progress.hear(*ended("Nobody holds it in main", result=False, changes={"return": lines}), 20.0)
    assert step.describe() == f"main: Nobody holds it: failed after 1.2 s: {'; '.join(lines)}"


def test_sites_whose_old_password_is_dropped(progress):
    assert progress.dropped() == []
    progress.hear(*ended("The old password is dropped in other", result=False, comment="no"), 20.0)
    progress.hear(*ended("The old password is dropped in main"), 21.0)
    assert progress.dropped() == ["main"]


def test_a_long_text_is_cut(progress):
    step = progress.hear(*returned("mx1", {"postfix_map_|-a": {"result": False, "comment": "x" * 500}}), 11.0)
    assert len(step.said) == 160 and step.said.endswith("…")
