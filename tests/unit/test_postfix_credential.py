"""The beacon, without a server: what it asks, what it reports, what it remembers."""

import json
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest

from _beacons import postfix_credential
from _ispmail_client import Login
from _ispmail_errors import DatabaseError
from _ispmail_logins import LiveLogin, Tried

from .test_documentation import ROOT

LOGIN = {"host": "192.0.2.1", "maps": ["virtual_alias_maps"], "user": "mailserver", "changed": 1.5}


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ([], None),
        ([{"interval": 10}, {"pillar": "second"}, {"disable_during_state_run": True}, {"enabled": False}], None),
        ({"interval": 10}, "postfix_credential must be a list of mappings"),
        (["interval"], "postfix_credential must be a list of mappings"),
        (
            [{"intervall": 10, "interval": 1}, {"pilar": "x"}],
            "postfix_credential does not know intervall, pilar: "
            "known are interval, pillar, disable_during_state_run, enabled",
        ),
        (
            [{"pillar": "first"}, {"pillar": ["first", "second"]}],
            "pillar must be a text, one pillar key: the instances that it names are watched too",
        ),
    ],
)
def test_the_beacon_checks_its_configuration(config, fault):
    assert postfix_credential.validate(config) == ((False, fault) if fault else (True, "Valid"))


@pytest.fixture
def memory(monkeypatch, tmp_path):
    """The file in which the beacon remembers what it has reported."""
    monkeypatch.setattr(postfix_credential, "__opts__", {"cachedir": str(tmp_path)}, raising=False)
    return tmp_path / "ispmail" / "refused.json"


def news(*refused, working=()):
    """The hosts that are reported where these logins are refused and those work no more, nor are refused."""
    logins = {login["host"]: login for login in refused}
    remembered = {login["host"]: login["changed"] for login in (*refused, *working)}
    return [event["host"] for event in postfix_credential._news(logins, remembered)]


def test_a_refused_login_is_reported_once_until_it_works_or_its_file_has_changed(memory):
    second = {**LOGIN, "host": "192.0.2.2"}
    assert news(LOGIN) == ["192.0.2.1"]
    assert news(LOGIN) == [] and news(LOGIN, second) == ["192.0.2.2"] and news(LOGIN, second) == []
    # The server is away meanwhile: neither refused nor working. That does not end it.
    assert news(second, working=[LOGIN]) == [] and news(LOGIN, second) == []
    # It has worked meanwhile.
    assert news(second) == [] and news(LOGIN, second) == ["192.0.2.1"]
    # The file has another login.
    assert news({**LOGIN, "changed": 2.5}, second) == ["192.0.2.1"]
    # A login that has never been refused is not remembered as one.
    assert news() == [] and news(working=[LOGIN]) == [] and news(LOGIN) == ["192.0.2.1"]


def test_an_event_can_be_sent_whatever_is_in_a_table_file(memory):
    (event,) = postfix_credential._news({"x": {**LOGIN, "user": "caf\udce9"}}, {})
    assert event["user"] == "caf\ufffd"


def test_what_an_event_says(memory):
    event = {"tag": "refused", "maps": ["virtual_alias_maps"], "host": "192.0.2.1", "user": "mailserver"}
    assert postfix_credential._news({"x": LOGIN}, {"x": 1.5}) == [event]
    assert json.loads(memory.read_text()) == {"x": 1.5} and memory.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", '{"é": 1}'.encode("latin-1")])
def test_a_memory_that_cannot_be_read_is_none(memory, content):
    memory.parent.mkdir()
    memory.write_bytes(content)
    assert news(LOGIN) == ["192.0.2.1"] and news(LOGIN) == []


def test_without_a_memory_it_reports_again(memory):
    """On a full disk: better than not at all."""
    memory.mkdir(parents=True)
    assert news(LOGIN) == ["192.0.2.1"] and news(LOGIN) == ["192.0.2.1"]


@pytest.mark.parametrize("config", [[{"pillar": ["ispmail"]}], [{"interval": 10}]])
def test_where_nothing_can_be_asked_nothing_is_reported(memory, monkeypatch, config):
    """A pillar key that is none, which Salt's own check has told already; and a pillar without ours."""
    monkeypatch.setattr(postfix_credential, "__pillar__", {}, raising=False)
    assert postfix_credential.beacon(config) == []


def live(host, *maps, changed=1):
    return LiveLogin(host, Login("mailserver", b"secret", host=host), maps, changed)


@pytest.fixture
def beacon(memory, monkeypatch):
    """A function that lets an interval pass: the live logins, and what was found of those of the interval before."""
    seen = SimpleNamespace(asked=[], started=[], watches=[])

    def passes(logins, tried, config=()):
        def read(instances, pillar, consumers):
            seen.asked.append((sorted(instances), pillar, [each.pillar_key for each in consumers]))
            return logins

        watch = SimpleNamespace(take=lambda: tried, start=seen.started.append)
        monkeypatch.setattr("_ispmail_logins.read", read)
        monkeypatch.setattr("_ispmail_logins.watch", lambda name: seen.watches.append(name) or watch)
        return postfix_credential.beacon(list(config))

    section = {"database": {"password": "x"}}
    pillar = {"ispmail": {**section, "instances": ["second"]}, "second": {"postfix": {"config_directory": "/x"}}}
    monkeypatch.setattr(postfix_credential, "__pillar__", pillar, raising=False)
    passes.seen = seen
    return passes


def test_an_interval_reports_what_was_found_in_the_one_before(beacon, memory):
    first, second = live("192.0.2.1", "a", "b"), live("192.0.2.2", "c", changed=2)
    assert beacon([first, second], None) == []
    # What has been replaced since then is not reported, but tried again.
    other = live("192.0.2.3", "d")
    (event,) = beacon([first, second], Tried([first, other], [second]))
    assert event == {"tag": "refused", "maps": ["a", "b"], "host": "192.0.2.1", "user": "mailserver"}
    assert beacon([first, second], Tried([first], [])) == []
    # One login works, and is forgotten; one is down, and is not.
    assert beacon([first, second], Tried([second], [first])) == [
        {"tag": "refused", "maps": ["c"], "host": "192.0.2.2", "user": "mailserver"}
    ]
    assert len(beacon([first, second], Tried([first], []))) == 1
    assert json.loads(memory.read_text()) == {"192.0.2.1 ['a', 'b']": 1, "192.0.2.2 ['c']": 2}
    assert beacon.seen.started == [[first, second]] * 5


def test_what_was_not_tried_is_logged(beacon, caplog):
    login = live("192.0.2.1", "a")
    with caplog.at_level("INFO"):
        assert beacon([login], Tried([], [])) == [] and not caplog.records
        assert beacon([login], Tried([], [], (login,))) == []
    (record,) = caplog.records
    assert record.getMessage().startswith(
        "postfix_credential: 1 login could not be tried within 2.5 s: see which hosts"
    )


def test_it_watches_all_instances_of_its_pillar_key(beacon, memory):
    beacon([], None)
    beacon([], None, [{"interval": 5}, {"pillar": "second"}])
    assert beacon.seen.asked == [
        (["ispmail", "second"], "ispmail", ["ispmail", "second"]),
        (["second"], "second", ["second"]),
    ]
    assert beacon.seen.watches == [f"{memory} ispmail", f"{memory} second"]


def test_without_a_client_nothing_is_tried(beacon, monkeypatch):
    def missing():
        raise DatabaseError("PyMySQL is missing")

    monkeypatch.setattr("_ispmail_client.require_pymysql", missing)
    assert beacon([live("192.0.2.1", "a")], Tried([live("192.0.2.1", "a")], [])) == []
    assert beacon.seen.started == []


def test_what_is_the_same_is_not_written_again(beacon, memory):
    """A disk is spared a write at each interval."""
    login = live("192.0.2.1", "a")
    beacon([login], Tried([login], []))
    memory.chmod(0o400)
    before = memory.stat()
    beacon([login], Tried([login], []))
    assert memory.stat().st_mtime_ns == before.st_mtime_ns


@pytest.mark.parametrize("known", [True, False])
def test_it_finds_the_library_that_came_after_the_minion_had_started(tmp_path, known):
    """Salt gives a beacon its path only where the folder was there by then."""
    for room, name in (("_beacons", "beacons"), ("_utils", "utils")):
        shutil.copytree(ROOT / room, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    code = f"""
import importlib.util, sys
library = {str(tmp_path / "utils")!r}
sys.path += [library] if {known} else []
spec = importlib.util.spec_from_file_location("beacon", {str(tmp_path / "beacons" / "postfix_credential.py")!r})
spec.loader.exec_module(importlib.util.module_from_spec(spec))
print(sys.path.count(library))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd="/")
    assert (done.stdout, done.returncode) == ("1\n", 0), done.stderr
