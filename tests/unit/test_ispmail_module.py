"""The execution module `ispmail`: a failed apply is always reported, once as long as it fails in the same way."""

import pytest
from salt.exceptions import CommandExecutionError

from _modules import ispmail

FULL = OSError(28, "No space left on device", "/var/cache/a secret")


@pytest.fixture
def minion(monkeypatch, tmp_path):
    """The events that were sent, and a function that sets what state.apply and the probe do."""
    events = []
    salt = {"event.send": lambda tag, data: events.append((tag, data)), "postfix_map.probe": list}

    def acts(apply, probe=list):
        salt.update({"state.apply": apply, "postfix_map.probe": probe})
        return ispmail.reapply()

    for name, value in {"__salt__": salt, "__opts__": {"cachedir": str(tmp_path)}, "__context__": {}}.items():
        monkeypatch.setattr(ispmail, name, value, raising=False)
    return events, acts


def states(result, comment=""):
    return lambda sls, queue: {"postfix_map_|-x": {"result": result, "comment": comment}}


def fails(error):
    def act(*_, **__):
        raise error

    return act


@pytest.mark.parametrize(
    ("apply", "probe", "comment"),
    [
        (states(False, "Nothing was changed"), list, "Nothing was changed"),
        (lambda sls, queue: ["Rendering failed"], list, "Rendering failed"),
        (states(True), lambda: ["a: Access denied"], "Pillar and the table files agree, but a: Access denied"),
        (states(True), fails(CommandExecutionError("there is no main.cf")), "there is no main.cf"),
        (
            fails(FULL),
            list,
            "It could not be applied: state.apply ispmail ended with OSError (No space left on device)",
        ),
        (fails(CommandExecutionError("no")), list, "It could not be applied: no"),
        (states(True), fails(KeyError("a secret")), "It could not be applied: state.apply ispmail ended with KeyError"),
    ],
)
def test_each_failure_is_an_event(minion, apply, probe, comment):
    """A full /var/cache was a traceback, and no event."""
    events, acts = minion
    for _ in range(2):
        assert acts(apply, probe) == {"applied": True, "result": False, "comment": comment}
        assert events == [("ispmail/apply/failed", {"sls": "ispmail", "comment": comment})]
    assert acts(states(True)) == {"applied": True, "result": True, "comment": ""}
    assert acts(apply, probe)["result"] is False and len(events) == 2


def test_a_cache_that_cannot_be_used_is_an_event(minion, tmp_path):
    events, acts = minion
    (tmp_path / "ispmail").write_text("")
    done = acts(states(True))
    assert done["result"] is False and done["comment"].startswith("It could not be applied: ")
    assert "cannot be written: " in done["comment"] and events[0][1]["comment"] == done["comment"]


def test_a_report_that_cannot_be_remembered_is_sent(minion, tmp_path):
    events, acts = minion
    (tmp_path / "ispmail" / "failed").mkdir(parents=True)
    for count in (1, 2):
        assert acts(states(False, "no"))["comment"] == "no" and len(events) == count
