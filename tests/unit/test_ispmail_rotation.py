"""A rotation as the bus tells of it: lines, events, the table; whose password is another one; why a run failed."""

import pytest

from _ispmail_rotation import (
    Progress,
    checked,
    dropped,
    few,
    is_holders,
    is_live_prints,
    is_logins,
    is_prints,
    is_texts,
    mismatches,
    reasons,
    table,
    unanswered,
    unnamed,
)

from .test_documentation import ROOT


def used(live="new", pillar="new"):
    return {"pillar": {"virtual_alias_maps": pillar}, "live": {"virtual_alias_maps": live}}


NOT_ONE = "db: pillar does not have one password for all maps of the account"
DATABASE = {"db": {"pillar": {"virtual_alias_maps": "new", "virtual_mailbox_maps": "new"}}}


@pytest.mark.parametrize(
    ("wanted", "said", "faults"),
    [
        (DATABASE, used(), []),
        (
            DATABASE,
            used(live="old"),
            ["mx: the table file has another user or password for virtual_alias_maps, or none"],
        ),
        (
            DATABASE,
            used(live=None),
            ["mx: the table file has another user or password for virtual_alias_maps, or none"],
        ),
        (DATABASE, used(pillar="old"), ["mx: pillar has another user or password for virtual_alias_maps, or none"]),
        (
            DATABASE,
            {"pillar": {}, "live": {}},
            ["mx: none of its maps logs in with the account of ispmail:database"],
        ),
        (
            DATABASE,
            {"pillar": {"a": "new"}, "live": {"a": "old", "b": None}},
            ["mx: the table file has another user or password for a, b, or none"],
        ),
        (
            {"db1": {"pillar": {"a": "new"}}, "db2": {"pillar": {"a": "old"}}},
            used(),
            ["db1, db2: pillar does not have one password for all maps of the account"],
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


HOSTILE = "fine\n\x1b[2Jmx2: ok\x07"


@pytest.mark.parametrize(
    ("states", "lines"),
    [
        ({"a": {"result": False}}, ["mx1: failed, and does not tell why"]),
        ({"a": {"result": False, "comment": None}}, ["mx1: failed, and does not tell why"]),
        ({"a": {"result": False, "comment": HOSTILE}}, ["mx1: fine", "mx1: ?[2Jmx2: ok?"]),
        ({"a": {"result": False, "comment": "no", "changes": {"ret": {"mx2": False}}}}, ["mx1: no"]),
        ({"a": 7}, ["mx1: does not answer"]),
        ([HOSTILE], ["mx1: fine", "mx1: ?[2Jmx2: ok?"]),
        ([None, "", "a\n \nb"], ["mx1: a", "mx1: b"]),
        # All went well on this server, so the orchestration's own words are what is left.
        ({"a": {"result": True, "comment": "fine"}}, ["Run failed"]),
        (7, ["mx1: does not answer"]),
    ],
)
def test_whatever_a_minion_returns_a_rotation_tells_why(states, lines):
    """A KeyError here ended a rotation after other sites' passwords were dropped."""
    assert reasons({"1": {"result": False, "comment": "Run failed", "changes": {"ret": {"mx1": states}}}}) == lines


@pytest.mark.parametrize("state", [{"changes": 7}, {"changes": {"ret": 7, "return": 7}}, {"comment": 7}])
def test_odd_states_of_the_orchestration_itself(state):
    assert len(reasons({"1": {"result": False, **state}, "2": 7})) == 1


@pytest.mark.parametrize(
    ("is_right", "good", "wrong"),
    [
        (is_prints, DATABASE["db"], [{}, {"pillar": 1}, {"pillar": {}, "live": 1}, {"pillar": {"a": []}}, [], 7]),
        (is_live_prints, used(), [{}, {"pillar": {}}, {"pillar": 1, "live": {}}, {"pillar": {}, "live": 1}, 7]),
        (is_logins, [{"host": "db", "maps": ["a"]}], [[7], [{}], [{"host": "db", "maps": "a"}], {}]),
        (is_texts, ["a"], [[7], {}, 7]),
        (is_holders, {"unnamed": [{"text": "x"}], "notes": []}, [{}, {"unnamed": [{}], "notes": []}, []]),
        (
            *(is_holders, {"unnamed": [], "notes": [], "connections": ["192.0.2.1:40000"]}),
            [{"unnamed": [], "notes": [], "connections": said} for said in (7, [7], "x", None)],
        ),
    ],
)
def test_answers_of_another_shape(is_right, good, wrong):
    answers = {"a": good, "b": None, "c": "ERROR", "d": False}
    assert checked(answers, is_right) == answers
    for said in wrong:
        answers = checked({"mx": said}, is_right)
        assert unanswered(answers, type(good)) == ["mx: did not answer what was asked"]
        if is_right in (is_prints, is_live_prints):
            assert mismatches(DATABASE, answers) == []


@pytest.mark.parametrize("said", ["VALUE_TRIMMED", {"pillar": "VALUE_TRIMMED", "live": {}}])
def test_an_answer_that_is_too_large(said):
    """Salt puts this word in its place; what it says in place of that tells the admin what to do."""
    (reason,) = checked({"mx": said}, is_prints).values()
    assert reason.startswith("answered more than the master takes (max_event_size)")


def test_before_the_change_only_pillar_counts():
    """The table files have the old password then."""
    assert mismatches(DATABASE, {"mx": {"pillar": {"a": "new"}}}, live=False) == []
    assert mismatches(DATABASE, {"mx": used("old", "old")}, live=False) == [
        "mx: pillar has another user or password for virtual_alias_maps, or none"
    ]


def test_what_nobody_has_named():
    answers = {"a": None, "b": {"unnamed": [{"text": "/x holds it"}, {"text": "y uses it"}]}, "c": "ERROR"}
    assert unnamed(answers) == ["b: /x holds it", "b: y uses it"]


JOB = "20261126000000000000"
ARGS = f"salt/run/{JOB}/args"
BATCH = "Batch 1 of 1 takes the new password"
MANAGED = {"result": True, "comment": "3 maps have been applied\nPostfix has been reloaded", "changes": {}}
STATES = {"postfix_map_|-a_|-b_|-managed": MANAGED, "pkg_|-a_|-b_|-installed": {"result": True, "comment": "there"}}
BAD = {"postfix_map_|-a_|-b_|-managed": {"result": False, "comment": "Access denied"}}
DROPPED = {"postfix_database_|-a_|-b_|-credential_sole": {"result": True, "comment": "has been dropped"}}


def begins(step, servers, sls="ispmail.drained"):
    return ARGS, {"type": "state", "name": f"{step} in main", "tgt": servers, "args": {"arg": [sls], "kwarg": {}}}


def begins_runner(name, site="main"):
    return ARGS, {"type": "runner", "name": name, "args": [], "kwargs": {"site": site}}


def returned(server, states, sls="ispmail.drained"):
    return f"salt/job/20261126000000000001/ret/{server}", {"id": server, "fun_args": [sls, {}], "return": states}


def runner_returned(name, returned=None, success=True, site="main"):
    data = {"fun": f"runner.{name}", "fun_args": [{"site": site}], "return": returned, "success": success}
    return "salt/run/20261126000000000002/ret", data


@pytest.fixture
def progress():
    found = Progress(JOB, {"main": ["mx1", "mx2", "mx3"]})
    assert found.hear(*begins(BATCH, ["mx1", "mx2"]), 10.0) == []
    return found


def test_a_server_that_has_ended(progress):
    (step,) = progress.hear(*returned("mx2", STATES), 12.5)
    said = "3 maps have been applied; Postfix has been reloaded"
    assert step.describe() == f"main: {BATCH}: mx2 (1 of 3): ok after 2.5 s: {said}"
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
    (failed,) = progress.hear(*returned("mx1", BAD), 13.0)
    assert failed.describe() == f"main: {BATCH}: mx1 (2 of 3): failed after 3.0 s: Access denied"


def step_returned(name, servers, result=True, site="main"):
    """What an orchestration returns of a step of one of its sites."""
    name = f"{name} in {site}"
    return {f"salt_|-{name}_|-{name}_|-state": {"result": result, "changes": {"ret": servers}}}


def test_the_table_is_of_what_the_orchestration_has_returned():
    slow = {key: {**state, "duration": 125000.0} for key, state in STATES.items()}
    returned = {
        **step_returned("The canary takes the new password", {"mx1": BAD}, False),
        **step_returned(BATCH, {"mx2": slow, "mx4": False}, False),
        **step_returned("The old password is dropped", {"mx3": STATES}),
        **step_returned(BATCH, {"mx3": STATES}, site="other"),
        "odd": 7,
    }
    assert table({"main": ["mx1", "mx2", "mx3", "mx4"]}, returned).splitlines() == [
        "site  server  result       seconds  what was done",
        "----  ------  -----------  -------  ---------------------------------------------------",
        "main  mx1     failed       0.0      Access denied",
        "main  mx2     ok           250.0    3 maps have been applied; Postfix has been reloaded",
        "main  mx3     not changed",
        "main  mx4     failed       0.0      does not answer",
    ]


def test_a_server_that_had_nothing_to_change_was_reached():
    """Salt returns nothing of it. It was "not reached", also in a rotation that went on after a failure."""
    returned = step_returned(BATCH, {"mx1": STATES})
    ((name, step),) = returned.items()
    returned[name] = {**step, "comment": "States ran successfully. Updating mx1. No changes made to mx3, mx2."}
    other = step_returned("The old password is dropped", {})
    ((name, step),) = other.items()
    returned[name] = {**step, "comment": "States ran successfully. No changes made to mx4."}
    assert table({"main": ["mx2", "mx3", "mx4"]}, returned).splitlines()[2:] == [
        "main  mx2     ok                    nothing had to be changed",
        "main  mx3     ok                    nothing had to be changed",
        "main  mx4     not changed",
    ]


def test_a_table_has_one_line_for_each_server():
    states = {"postfix_map_|-a": {"result": True, "comment": HOSTILE, "duration": "x"}}
    lines = table({"main": ["mx1"]}, step_returned(BATCH, {"mx1": states})).splitlines()
    assert len(lines) == 3 and lines[2].endswith("fine; ?[2Jmx2: ok?")


def test_the_steps_have_the_names_that_the_orchestration_gives_them():
    text = (ROOT / "salt" / "orch" / "rotate.sls").read_text(encoding="utf-8")
    assert "those ~ ' the new password in ' ~ site" in text and text.count("takes' %}") == 1
    assert "\nThe old password is dropped in {{ site }}:\n" in text


@pytest.mark.parametrize(
    ("tag", "data"),
    [
        returned("mx3", STATES),  # another batch's, or another run's
        returned("mx1", STATES, sls="ispmail"),
        runner_returned("ispmail.prove"),
        runner_returned("ispmail.drained"),  # forged: the step is one of servers
        ("salt/run/1/args", begins("Other", ["mx3"])[1]),  # of another orchestration
        ("salt/auth", {}),
    ],
)
def test_what_is_none_of_this_step(progress, tag, data):
    assert progress.hear(tag, data, 11.0) == []
    assert progress.hear(*returned("mx1", STATES), 12.0)


def test_a_return_that_is_sent_twice_counts_once(progress):
    assert progress.hear(*returned("mx1", STATES), 11.0)
    assert progress.hear(*returned("mx1", STATES), 12.0) == []


def test_a_return_that_is_no_states(progress):
    (step,) = progress.hear(*returned("mx1", ["Rendering SLS failed"]), 11.0)
    assert (step.result, step.said) == (False, "Rendering SLS failed")


def test_a_server_that_does_not_return(progress):
    """It is told when the step is over, whether by the next one or by the end of all."""
    progress.hear(*returned("mx1", STATES), 11.0)
    (silent,) = progress.hear(*begins("The next", ["mx3"]), 40.0)
    assert (silent.server, silent.step, silent.result, silent.said) == ("mx2", BATCH, False, "does not answer")
    (silent,) = progress.finish(50.0)
    assert (silent.server, silent.number) == ("mx3", 3)
    assert progress.finish(51.0) == []


def test_a_step_of_the_database(progress):
    progress.hear(*begins("The new password is accepted", ["db"], "ispmail.credential_accepted"), 20.0)
    accepted = {"postfix_database_|-a_|-b_|-credential_accepted": {"result": True, "comment": "has been accepted"}}
    (step,) = progress.hear(*returned("db", accepted, "ispmail.credential_accepted"), 21.0)
    assert step.describe() == "main: The new password is accepted: db (1 of 1): ok after 1.0 s: has been accepted"


def test_a_step_of_the_runner(progress):
    for server in ("mx1", "mx2"):
        progress.hear(*returned(server, STATES), 11.0)
    assert progress.hear(*begins_runner("ispmail.prove"), 20.0) == []
    assert progress.hear(*runner_returned("ispmail.prove", site="other"), 21.0) == []
    (step,) = progress.hear(*runner_returned("ispmail.prove", {"mx1": 3}), 21.5)
    assert step.describe() == "main: Every server is seen to use the new password: ok after 1.5 s"
    assert "server" not in step.event()
    assert progress.hear(*runner_returned("ispmail.prove", {"mx1": 3}), 22.0) == []


def test_a_step_of_the_runner_that_has_failed_tells_why():
    progress = Progress(JOB, {"main": ["mx1"]})
    progress.hear(*begins_runner("ispmail.holders"), 20.0)
    lines = ["Nothing was changed:", "mx1: /root/x holds it"]
    (step,) = progress.hear(*runner_returned("ispmail.holders", lines, success=False), 21.0)
    line = "main: Nobody holds the password unless pillar names it: failed after 1.0 s: "
    assert step.describe() == line + "; ".join(lines)


def test_a_state_that_names_no_site_is_no_sites():
    """No password counts as dropped by it, and nothing of another shape ends the report."""
    odd = {"salt_|-The old password is dropped_|-x_|-state": {"result": True}, "salt_|-x in main_|-x_|-state": 7}
    assert dropped(["main"], odd) == []


@pytest.mark.parametrize("result", [True, False])
def test_sites_whose_old_password_is_dropped(result):
    returned = step_returned("The old password is dropped", {"db": DROPPED}, result)
    assert dropped(["main", "other"], returned) == (["main"] if result else [])
    assert dropped(["main"], None) == []


def test_an_event_of_another_job_is_none_of_the_step(progress):
    """Any minion can send an event that looks like another one's return; which job is the step's is told before."""
    tag, data = returned("mx1", BAD)
    forged = tag.replace("20261126000000000001", "1")
    new = {"fun": "state.sls", "arg": ["ispmail.drained", {}], "tgt": ["mx1", "mx2"]}
    assert progress.hear("salt/job/20261126000000000001/new", new, 10.5) == []
    assert progress.hear(forged, data, 11.0) == []
    assert progress.hear(*returned("mx1", STATES), 12.0)[0].result is True


def test_all_returns_of_a_step_are_of_one_job(progress):
    assert progress.hear(*returned("mx1", STATES), 11.0)
    tag, data = returned("mx2", BAD)
    assert progress.hear(tag.replace("20261126000000000001", "1"), data, 12.0) == []
    assert progress.hear(*returned("mx2", STATES), 13.0)


@pytest.mark.parametrize("odd", [{"a": 1}, 7, None, [], "text", [None]])
def test_odd_events_are_left_out(progress, odd):
    """One of them ended the listener, and all lines after it."""
    for tag in (returned("mx1", None)[0], "salt/run/1/ret", "salt/job/1/new"):
        data = {"fun": "runner.ispmail.drained", "fun_args": odd, "arg": odd, "id": "mx1", "return": STATES}
        assert progress.hear(tag, data, 11.0) == []
        assert progress.hear(tag, odd, 11.0) == []
    assert progress.hear(*returned("mx1", STATES), 12.0)


@pytest.mark.parametrize("odd", [{"x": 1}, 7, None, [], [{}], {7: {}}])
def test_odd_returns_have_failed(progress, odd):
    (step,) = progress.hear(*returned("mx1", odd), 11.0)
    assert step.result is False


@pytest.mark.parametrize("data", [{"name": 7, "args": 7, "tgt": 7}, {"type": "runner", "kwargs": 7}, {}])
def test_odd_steps(progress, data):
    progress.hear(ARGS, data, 11.0)
    assert progress.finish(12.0) == []


def test_a_server_cannot_add_a_line(progress):
    (step,) = progress.hear(*returned("mx1", {"postfix_map_|-a": {"result": True, "comment": HOSTILE}}), 11.0)
    assert step.said == "fine; ?[2Jmx2: ok?"


@pytest.mark.parametrize("site", ["", "main"])
def test_before_the_first_step_nothing_has_ended(site):
    """A forged event without the name of a function was shown as the end of a step without a name."""
    progress = Progress(JOB, {"main": ["mx1"]})
    assert progress.hear(*runner_returned("", site=site), 1.0) == []


def test_a_job_for_other_servers_is_not_the_steps(progress):
    """An apply that somebody else begins meanwhile would hide the end of the step."""
    other = {"fun": "state.sls", "arg": ["ispmail.drained", {}], "tgt": ["mx9"]}
    assert progress.hear("salt/job/1/new", other, 10.5) == []
    assert progress.hear(*returned("mx1", STATES), 12.0)


def test_a_target_has_names_of_servers_only_and_not_too_many(progress):
    progress.hear(*begins("Next", [{}, 7, "mx1"]), 20.0)
    assert progress.waiting == ["mx1"]
    progress.hear(*begins("Next", [f"mx{number}" for number in range(6000)]), 20.0)
    assert len(progress.waiting) == 5000


def test_what_is_told_of_a_server(progress):
    """In the event: a tenth of a second. In the text: all sentences, but those of states that only waited."""
    waited = {"postfix_map_|-b": {"result": False, "comment": "One or more requisite failed: a"}}
    (step,) = progress.hear(*returned("mx1", {**BAD, **waited}), 12.54)
    assert (step.event()["seconds"], step.said) == (2.5, "Access denied")
    (step,) = progress.hear(*returned("mx2", ["Rendering failed", "in line 3"]), 12.0)
    assert step.said == "Rendering failed; in line 3"


@pytest.mark.parametrize(
    ("text", "shown"),
    [("x" * 160, "x" * 160), ("x" * 161, "x" * 159 + "…"), ("a\r\n" + "x" * 158, "a " + "x" * 156 + "…")],
)
def test_that_a_text_is_cut_is_shown(progress, text, shown):
    """A line break of two characters hid it."""
    (step,) = progress.hear(*returned("mx1", [text]), 11.0)
    assert step.said == shown


def test_an_event_can_carry_what_servers_say():
    """500 lines of 500 characters at the most, and the number of those that are left out."""
    assert few(["x"] * 500) == ["x"] * 500
    assert few(["x"] * 501) == ["x"] * 500 + ["... and 1 more"]
    assert few(["x"] * 503)[-1] == "... and 3 more"
    text = "x" * 600
    assert checked({"mx1": text}, is_texts) == {"mx1": "x" * 500}
    assert unnamed({"mx1": {"unnamed": [{"text": text}]}}) == ["mx1: " + "x" * 500]
    assert reasons([text]) == ["x" * 500]


def test_a_long_text_is_cut(progress):
    (step,) = progress.hear(*returned("mx1", {"postfix_map_|-a": {"result": False, "comment": "x" * 500}}), 11.0)
    assert len(step.said) == 160 and step.said.endswith("…")
