"""The execution module `ispmail`: a failed apply is always reported, once as long as it fails in the same way."""

import fcntl
import locale

import pytest
from salt.exceptions import CommandExecutionError, SaltInvocationError

import _ispmail_stamp
from _modules import ispmail, ispmail_reapply

FULL = OSError(28, "No space left on device", "/var/cache/a secret")


@pytest.fixture
def minion(monkeypatch, tmp_path):
    """The events that were sent, and a function that sets what state.apply and the probe do."""
    events = []
    salt = {"event.send": lambda tag, data: events.append((tag, data)), "postfix_map.probe": list}

    def acts(apply, probe=list, **options):
        salt.update({"state.apply": apply, "postfix_map.probe": probe})
        return ispmail_reapply.reapply(**options)

    for name, value in {"__salt__": salt, "__opts__": {"cachedir": str(tmp_path)}, "__context__": {}}.items():
        monkeypatch.setattr(ispmail_reapply, name, value, raising=False)
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
        (fails(SaltInvocationError("no such SLS")), list, "It could not be applied: no such SLS"),
        (states(True), fails(SaltInvocationError("pillar has errors")), "pillar has errors"),
        (lambda sls, queue: ["Rendering failed", "line 3"], list, "Rendering failed\nline 3"),
        (states(True), fails(KeyError("a secret")), "It could not be applied: state.apply ispmail ended with KeyError"),
    ],
)
def test_each_failure_is_an_event(minion, apply, probe, comment):
    """A full /var/cache was a traceback, and no event."""
    events, acts = minion
    for _ in range(2):
        assert acts(apply, probe) == {"applied": True, "result": False, "comment": comment}
        assert events == [("ispmail/apply/failed", {"sls": "ispmail", "comment": comment})]
        assert ispmail_reapply.__context__.pop("retcode") == 2
    assert acts(states(True)) == {"applied": True, "result": True, "comment": ""}
    assert ispmail_reapply.__context__ == {}
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


def test_what_was_reported_last_and_cannot_be_read_is_written_anew(minion, tmp_path, caplog):
    """A file that a full disk has cut off within a character."""
    events, acts = minion
    path = tmp_path / "ispmail" / "failed"
    # At the first apply there is none, which is nothing to warn of.
    acts(states(True))
    assert caplog.messages == []
    acts(states(False, "é"))
    path.write_bytes(path.read_bytes()[:1])
    assert acts(states(True))["result"] is True
    assert len(caplog.messages) == 1 and "cannot be read, a failure may be reported twice" in caplog.messages[0]
    assert path.read_bytes() == b"" and len(events) == 1


def test_a_minion_without_a_locale_reports_each_text_once(minion):
    """Where systemd starts it without LANG, files are written as ASCII by default."""
    events, acts = minion
    before = locale.setlocale(locale.LC_CTYPE)
    try:
        locale.setlocale(locale.LC_CTYPE, "C")
        for _ in range(2):
            assert acts(states(False, "é"))["comment"] == "é"
    finally:
        locale.setlocale(locale.LC_CTYPE, before)
    assert len(events) == 1


def test_another_call_that_waits_does_it(minion, tmp_path):
    events, acts = minion
    (tmp_path / "ispmail").mkdir()
    with (tmp_path / "ispmail" / "apply.waiting").open("w") as waiting:
        fcntl.flock(waiting, fcntl.LOCK_EX)
        done = acts(fails(AssertionError("it was applied")))
    assert done == {"applied": False, "comment": "another apply is about to start"}
    assert events == [] and ispmail_reapply.__context__ == {}


@pytest.mark.parametrize(
    ("file_client", "options", "expected"),
    [
        ("remote", {}, [{"wait": True}, ("ispmail", 100)]),
        # Where the master compiles it anew for the apply, the next jobs get it too.
        ("remote", {"refresh": False}, [("ispmail", 100), {"wait": False}]),
        ("local", {}, [("ispmail", 100)]),
        ("local", {"refresh": False}, [("ispmail", 100)]),
    ],
)
def test_pillar_is_fresh_before_the_apply(minion, file_client, options, expected):
    """Without a master each job reads pillar anew. At most 100 state runs wait: each one is a process."""
    _, acts = minion
    calls = []
    ispmail_reapply.__opts__["file_client"] = file_client
    ispmail_reapply.__salt__["saltutil.refresh_pillar"] = lambda **options: calls.append(options)
    acts(lambda sls, queue: calls.append((sls, queue)) or {}, **options)
    assert calls == expected


def test_the_version_is_that_of_the_library():
    assert ispmail.version() == _ispmail_stamp.version()
