"""`ispmail.new_password`: what it returns, which event it sends, and that a rotation begins only behind a new one."""

import fcntl

import pytest
import salt.config
from salt.exceptions import CommandExecutionError, SaltInvocationError

import _ispmail_new_password
from _ispmail_errors import Failed
from _ispmail_events import ROTATION_FAILED
from _ispmail_new_password import GOES_ON, MADE, STAYS, Outcome
from _runners import ispmail_new_password as runner

SITES = {"main": {"database": "db", "mail": "mx*", "sdb_password": "mail/main"}}
ROTATED = {"rotation": "a table", "reasons": [], "refused": {}, "retcode": 0}


class Client:
    """Salt's client; nobody is asked by it."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


@pytest.fixture
def master(monkeypatch, tmp_path):
    """A function that sets what becomes of the password; returns the calls and the events."""
    seen = []
    opts = {"ispmail": {"sites": SITES}, "mail": {"driver": "x"}, "cachedir": str(tmp_path), "conf_file": "/nowhere"}
    salt = {
        "cache.grains": dict,
        "event.send": lambda tag, data: seen.append((tag, data["comment"])),
        "ispmail.rotate": lambda watch, timeout: seen.append((watch, timeout)) or ROTATED,
    }
    for name, value in (("__opts__", opts), ("__salt__", salt), ("__context__", {})):
        monkeypatch.setattr(runner, name, value, raising=False)
    monkeypatch.setattr(runner.salt.client, "get_local_client", lambda path: Client())

    def becomes(outcome):
        def prepare(site, test):
            seen.append((site.name, test))
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        monkeypatch.setattr(_ispmail_new_password, "prepare", prepare)
        return seen

    return becomes


@pytest.mark.parametrize(("what", "said"), [(MADE, "a new one is in sdb and in pillar"), (GOES_ON, "no new one")])
def test_the_rotation_follows(master, what, said):
    seen = master(Outcome(what, [], ["x"]))
    done = runner.new_password("main", watch=7, timeout=8)
    assert done.pop("password").startswith(said) and done == ROTATED
    assert seen == [("main", False), (7, 8)] and runner.__context__ == {}


def test_another_call_rotates(master, monkeypatch):
    master(Outcome(MADE, [], []))
    monkeypatch.setitem(runner.__salt__, "ispmail.rotate", lambda **_: "another rotation is about to start")
    done = runner.new_password("main")
    assert (done["rotation"], done["retcode"]) == ("another rotation is about to start", 0)


def test_what_stops_it_is_told_by_an_event_too(master):
    seen = master(Outcome(STAYS, ["mx1: x", "mx2: y"], []))
    done = runner.new_password("main")
    assert (done["reasons"], done["retcode"], runner.__context__) == (["mx1: x", "mx2: y"], 1, {"retcode": 1})
    tag, comment = seen[1]
    assert tag == "ispmail/rotation/failed" and comment == f"site main: {done['password']}\nmx1: x\nmx2: y"
    assert len(seen) == 2, "no rotation began"


@pytest.mark.parametrize(
    ("outcome", "first", "code"),
    [
        (Outcome(MADE, [], ["x"]), "write a new password to sdb", 0),
        (Outcome(GOES_ON, [], ["x"]), "finish the rotation to the password that is in pillar", 0),
        (Outcome(STAYS, ["y"], ["x"]), None, 1),
    ],
)
def test_a_dry_run(master, outcome, first, code):
    seen = master(outcome)
    done = runner.new_password("main", test=True)
    assert done["would"] == ([first, "x"] if first else []) and done["stops"] == outcome.stops
    assert (done["retcode"], runner.__context__.get("retcode", 0)) == (code, code)
    assert done["password"].startswith("test=True: ") and seen == [("main", True)]


def test_while_a_rotation_waits_none_is_made(master, tmp_path):
    seen = master(Outcome(MADE, [], []))
    (tmp_path / "ispmail").mkdir()
    with (tmp_path / "ispmail" / "rotate.waiting").open("w") as waiting:
        fcntl.flock(waiting, fcntl.LOCK_EX)
        done = runner.new_password("main")
    assert done["retcode"] == 1 and "call this again" in done["reasons"][0] and seen == []


@pytest.mark.parametrize("test", [False, True])
@pytest.mark.parametrize(
    ("raised", "kind", "text"),
    [
        (Failed("sdb cannot be read"), CommandExecutionError, "sdb cannot be read"),
        (OSError(28, "No space left on device", "a secret"), CommandExecutionError, r"it ended with OSError \(No sp"),
    ],
)
def test_an_error_is_one_of_salts_and_an_event(master, raised, kind, text, test):
    seen = master(raised)
    with pytest.raises(kind, match=text) as err:
        runner.new_password("main", test=test)
    assert "secret" not in str(err.value)
    assert seen[1:] == ([] if test else [("ispmail/rotation/failed", str(err.value))])


def test_a_site_that_is_none(master):
    master(Outcome(MADE, [], []))
    with pytest.raises(SaltInvocationError, match="has no site nowhere: it has main"):
        runner.new_password("nowhere")


def test_what_is_no_number_of_seconds_is_refused_before_anything_is_written(master):
    seen = master(Outcome(MADE, [], []))
    text = r"^watch and timeout must be a number of seconds, at most 1,000,000$"
    with pytest.raises(SaltInvocationError, match=text):
        runner.new_password("main", watch="x", timeout=-1)
    assert [tag for tag, _ in seen] == [ROTATION_FAILED.tag]


def test_sdb_that_does_not_answer_does_not_hold_up_other_rotations(monkeypatch, tmp_path):
    """A value of it is waited for in a process of its own, which is stopped."""
    (tmp_path / "waits.py").write_text(
        "import time\ndef get(key, profile=None):\n    return time.sleep(60) if key == 'silent' else f'of {key}'\n"
        "def set_(key, value, profile=None):\n    time.sleep(60)\n__func_alias__ = {'set_': 'set'}\n"
    )
    opts = {**salt.config.DEFAULT_MASTER_OPTS, "sdb_dirs": [str(tmp_path)], "store": {"driver": "waits"}}
    monkeypatch.setattr(runner, "__opts__", {**opts, "extension_modules": str(tmp_path)}, raising=False)
    monkeypatch.setattr(runner, "_SDB_SECONDS", 20)
    assert runner._get("sdb://store/x") == "of x"
    monkeypatch.setattr(runner, "_SDB_SECONDS", 1)
    for ask in (lambda: runner._get("sdb://store/silent"), lambda: runner._put("sdb://store/x", "y")):
        with pytest.raises(TimeoutError):
            ask()
