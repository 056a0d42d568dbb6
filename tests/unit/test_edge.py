"""What Salt calls, without a server: defaults, the beacon's memory, and what a state says of what its function did."""

import importlib
import inspect
import json

import pytest

from _beacons import postfix_credential
from _states import postfix_database

from .test_documentation import FILES

MODULES = [importlib.import_module(f"{file.parent.name}.{file.stem}") for file in FILES]
# The arguments that every function which has them takes alike.
DEFAULTS = {"pillar": "ispmail", "test": False, "config_directory": "/etc/postfix", "search": "all", "width": 100}
LOGIN = {"host": "192.0.2.1", "maps": ["virtual_alias_maps"], "user": "mailserver", "changed": 1.5}


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_an_argument_that_is_left_out_means_the_same_everywhere(module):
    """With test=True as a default nothing would ever be applied; with another pillar key nothing would be found."""
    public = [
        function for name, function in inspect.getmembers(module, inspect.isfunction)
        if not name.startswith("_") and function.__module__ == module.__name__
    ]  # fmt: skip
    assert public
    for function in public:
        for name, parameter in inspect.signature(function).parameters.items():
            if parameter.default is not inspect.Parameter.empty and name in DEFAULTS:
                assert parameter.default == DEFAULTS[name], f"{function.__name__}: {name}"


@pytest.mark.parametrize("test", [False, True])
@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("tables", "The database and its tables"),
        ("account", "The account of the maps"),
        ("credential_accepted", "Pillar's password beside the old one"),
        ("credential_sole", "Pillar's password as the only one"),
    ],
)
def test_a_state_of_the_database(monkeypatch, name, what, test):
    """Each asks its own function, with the pillar key and whether it is a dry run."""
    calls, changes = [], {}

    def function(pillar, test):
        calls.append((pillar, test))
        return {"changes": changes}

    monkeypatch.setattr(postfix_database, "__salt__", {f"postfix_database.{name}": function}, raising=False)
    monkeypatch.setattr(postfix_database, "__opts__", {"test": test}, raising=False)
    state = getattr(postfix_database, name)
    assert state("a name") == {
        **{"name": "a name", "changes": {}, "result": True},
        "comment": f"{what}: in the correct state",
    }
    changes.update(first={"old": None, "new": 1}, second={"old": None, "new": 2})
    assert state("a name", "second_ispmail") == {
        **{"name": "a name", "changes": changes, "result": None if test else True},
        "comment": f"{what}: first, second {'would be' if test else 'has been'} changed",
    }
    assert calls == [("ispmail", test), ("second_ispmail", test)]


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
