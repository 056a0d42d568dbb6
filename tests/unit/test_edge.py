"""What Salt calls, without a server: defaults, and what a state says of what its function did."""

import importlib
import inspect
import itertools
from types import SimpleNamespace

import pytest
from salt.config import DEFAULT_MINION_OPTS
from salt.loader import LazyLoader

from _ispmail_errors import Failed, InvalidInput
from _ispmail_plan import Outcome
from _states import postconf, postfix_database, postfix_map

from .test_documentation import FILES, ROOT, called, public_functions
from .test_ispmail_compare import SAME, comparison, instance
from .test_ispmail_reapply import fails

MODULES = [importlib.import_module(f"{file.parent.name}.{file.stem}") for file in FILES]
# The arguments that every function which has them takes alike.
DEFAULTS = {"pillar": "ispmail", "test": False, "config_directory": "/etc/postfix", "search": "all", "width": None}


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


def test_salt_knows_each_function_by_its_documented_name(tmp_path):
    """The three files of postfix_map are one module, and `set` is no name for a function of Python."""
    opts = {**DEFAULT_MINION_OPTS, "cachedir": str(tmp_path), "grains": {}}
    pack = {"__pillar__": {}, "__salt__": {}, "__context__": {}}
    loader = LazyLoader([str(ROOT / "_modules")], opts, tag="module", pack=pack)
    documented = [parameter.values for parameter in public_functions()]
    assert set(loader) == {f"{called(file)}.{name}" for file, name, _ in documented if file.parent.name == "_modules"}


def test_what_each_function_returns_can_be_sent():
    """Each one may quote what is on the server, where any byte may stand. Those of `ispmail` tell what states told."""
    public = [
        function
        for module in MODULES if module.__name__.startswith("_modules.") and ".ispmail" not in module.__name__
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if not name.startswith("_") and function.__module__ == module.__name__
    ]  # fmt: skip
    assert len(public) > 20
    assert [function.__name__ for function in public if function.__code__.co_name != "called"] == []


@pytest.fixture
def salt(monkeypatch, tmp_path):
    """A function that gives a state module its execution functions, and tells whether it is a dry run."""

    def gives(module, test=False, **functions):
        named = {name.replace("__", "."): function for name, function in functions.items()}
        monkeypatch.setattr(module, "__salt__", named, raising=False)
        monkeypatch.setattr(module, "__opts__", {"test": test, "cachedir": str(tmp_path)}, raising=False)

    return gives


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
def test_a_state_of_the_database(salt, name, what, test):
    """Each asks its own function, with the pillar key and whether it is a dry run."""
    calls, changes = [], {}

    def function(pillar, test):
        calls.append((pillar, test))
        return {"changes": changes}

    salt(postfix_database, test, **{f"postfix_database__{name}": function})
    state = getattr(postfix_database, name)
    assert state("a name") == {
        **{"name": "a name", "changes": {}, "result": True},
        "comment": f"{what}: in the correct state",
    }
    changes.update(first={"old": None, "new": 1}, second={"old": None, "new": 2})
    assert state("a name", "second_ispmail") == {
        **{"name": "a name", "changes": changes, "result": None if test else True},
        "comment": f"{what}: first, second {'would be' if test else 'have been'} changed",
    }
    assert calls == [("ispmail", test), ("second_ispmail", test)]


@pytest.mark.parametrize("test", [False, True])
@pytest.mark.parametrize(
    ("name", "given", "asked", "done"),
    [
        ("managed", {"x": "1"}, {"x": "1"}, "set"),
        ("absent", ["x", "y"], {"x": None, "y": None}, "removed"),
        ("absent", "x", {"x": None}, "removed"),
        ("absent", {"x": "1"}, {"{'x': '1'}": None}, "removed"),
    ],
)
def test_a_state_of_main_cf(salt, name, given, asked, done, test):
    """What has to be absent is set to nothing, and to no value that stands there by mistake."""
    calls, changes = [], {}

    def change(*arguments, test):
        calls.append((*arguments, test))
        return changes

    salt(postconf, test, postconf__set=change)
    state = getattr(postconf, name)
    assert state("a name", given) == {
        **{"name": "a name", "changes": {}, "result": True},
        "comment": "The parameters are in the correct state",
    }
    changes.update(biff={"old": "yes", "new": "no"}, relayhost={"old": "", "new": "x"})
    assert state("a name", given, "/etc/postfix-out") == {
        **{"name": "a name", "changes": changes, "result": None if test else True},
        "comment": f"biff, relayhost {'would be' if test else 'have been'} {done}",
    }
    assert calls == [(asked, "/etc/postfix", test), (asked, "/etc/postfix-out", test)]


@pytest.fixture
def compared(monkeypatch, tmp_path):
    """A function that sets what a comparison finds."""

    def finds(outcome, is_due):
        found = SimpleNamespace(is_due=is_due, outcome=lambda: outcome)
        monkeypatch.setattr(postfix_map, "wanted", lambda pillar, opts, key: (f"maps of {key}", f"consumers of {key}"))

        def compare(maps, consumers, cache):
            assert maps.removeprefix("maps") == consumers.removeprefix("consumers") and cache == str(tmp_path)
            found.of = maps.removeprefix("maps of ")
            return found

        monkeypatch.setattr("_ispmail_compare.compare", compare)
        return found

    monkeypatch.setattr(postfix_map, "__pillar__", {}, raising=False)
    return finds


def outcome(maps=0, consumers=0, changes=(), reloaded=False):
    """What apply and remove return."""
    return {"maps": maps, "consumers": consumers, "changes": {key: {} for key in changes}, "reloaded": reloaded}


@pytest.mark.parametrize(
    ("done", "comment", "dry"),
    [
        (outcome(maps=3), "3 maps: in the correct state", None),
        (outcome(), "0 maps: in the correct state", None),
        (outcome(consumers=1), "1 consumer: in the correct state", None),
        (outcome(maps=1, consumers=2), "1 map and 2 consumers: in the correct state", None),
        (outcome(maps=1, changes="a"), "1 map has been applied", "1 map would be applied"),
        (outcome(consumers=1, changes="a"), "1 consumer has been applied", "1 consumer would be applied"),
        (
            outcome(maps=1, consumers=1, changes="a", reloaded=True),
            "1 map and 1 consumer have been applied\nPostfix has been reloaded",
            "1 map and 1 consumer would be applied\nPostfix would be reloaded",
        ),
        (outcome(maps=2, changes="a"), "2 maps have been applied", "2 maps would be applied"),
        # After a change that was cut off nothing differs, and Postfix is reloaded all the same.
        (
            outcome(maps=2, reloaded=True),
            "2 maps: in the correct state\nPostfix has been reloaded",
            "2 maps: in the correct state\nPostfix would be reloaded",
        ),
    ],
)
@pytest.mark.parametrize("test", [False, True])
def test_what_a_change_of_maps_says(salt, done, comment, dry, test):
    calls = []

    def removed(**options):
        calls.append(options)
        return done

    salt(postfix_map, test, postfix_map__remove=removed)
    said = postfix_map.absent("a name", maps=["x"], pillar="second")
    wanted = dry if test and dry else comment
    assert said["comment"] == wanted.replace("applied", "removed")
    assert said["result"] is (None if test and done["changes"] else True)
    postfix_map.absent("a name")
    assert calls == [
        {"maps": ["x"], "pillar": "second", "test": test},
        {"maps": None, "pillar": "ispmail", "test": test},
    ]


@pytest.mark.parametrize("test", [False, True])
def test_an_apply_is_called_only_where_something_is_due(salt, compared, test):
    """It gets what was found: to compare twice takes twice as long."""
    calls = []

    def applied(**options):
        calls.append(options)
        return outcome(maps=3, changes="a")

    salt(postfix_map, test, postfix_map__apply=applied)
    found = compared(Outcome(maps=3), is_due=False)
    assert postfix_map.managed("a name")["comment"] == "3 maps: in the correct state" and calls == []
    assert found.of == "ispmail"
    found = compared(Outcome(maps=3), is_due=True)
    done = "would be" if test else "have been"
    assert postfix_map.managed("a name", "second")["comment"] == f"3 maps {done} applied"
    assert calls == [{"pillar": "second", "test": test, "compared": found}] and found.of == "second"
    salt(postfix_map, test)
    failed = postfix_map.managed("a name")
    assert failed["result"] is False and "perhaps a sync is under way: apply again" in failed["comment"]


OWN = {"parameter": "virtual_alias_maps", "query": "SELECT '%s'"}
DUE = SAME._replace(changes={"main.cf": {}}, changed=frozenset(["virtual_alias_maps"]))
NOT_YET = [
    # In a dry run, what an apply would mend is no failure.
    (comparison(DUE), True, None),
    (comparison(maps=None, lacks_postfix=True), True, None),
    (comparison(DUE, interrupted=True), True, None),
    (comparison(), True, False),
    # An apply would not change that map, or no map at all.
    (comparison(DUE, instance=instance(maps={"ispmail": OWN, "second": OWN})), True, False),
    (comparison(files={"consumer:dovecot": {}}), True, False),
    (comparison(DUE), False, False),
    (Failed("no"), True, False),
    (InvalidInput("no"), True, False),
]


@pytest.mark.parametrize(("found", "test", "result"), NOT_YET)
def test_answers_that_are_wrong(salt, compared, monkeypatch, found, test, result):
    compared(Outcome(), is_due=False)
    compare = fails(found) if isinstance(found, Exception) else lambda *_: found
    monkeypatch.setattr("_ispmail_compare.compare", compare)
    salt(postfix_map, test, postfix_map__answers=lambda pillar: [f"{pillar}: no"])
    for pillar, said in (({}, "ispmail"), ({"pillar": "second"}, "second")):
        assert postfix_map.answers("a name", **pillar) == {
            **{"name": "a name", "changes": {}, "result": result},
            "comment": f"The live maps do not answer as expected:\n- {said}: no",
        }
    salt(postfix_map, test, postfix_map__answers=lambda pillar: [])
    right = {"name": "a name", "changes": {}, "result": True, "comment": "The live maps answer as expected"}
    assert postfix_map.answers("a name") == right


@pytest.mark.parametrize("test", [False, True])
def test_consumers_that_have_another_password(salt, test):
    salt(postfix_map, test, postfix_map__consumers=lambda pillar: [f"{pillar}: old"])
    assert postfix_map.consumers("a name", "second") == {
        **{"name": "a name", "changes": {}, "result": None if test else False},
        "comment": "Not every program uses the password that pillar has:\n- second: old",
    }
    asked = []
    salt(postfix_map, test, postfix_map__consumers=lambda pillar: asked.append(pillar) or [])
    right = {"name": "a name", "changes": {}, "result": True}
    comment = "The other programs use the password that pillar has"
    assert postfix_map.consumers("a name") == {**right, "comment": comment} and asked == ["ispmail"]


@pytest.mark.parametrize("timeout", ["5", None, True, -1, float("inf"), float("nan")])
def test_a_timeout_that_is_none(salt, timeout):
    salt(postfix_map, postfix_map__old_processes=fails(AssertionError("is not asked")))
    said = postfix_map.drained("a name", timeout=timeout)
    assert said["result"] is False and said["comment"].startswith("timeout must be a number of seconds")


@pytest.mark.parametrize(
    ("test", "timeout", "answers", "asked", "result"),
    [
        (False, 60, [["smtpd (7)"], ["smtpd (7)"], []], 3, True),
        # A dry run waits for nobody.
        (True, 60, [["smtpd (7)", "cleanup (8)"]] * 3, 1, False),
        (False, 0, [["smtpd (7)", "cleanup (8)"]] * 3, 1, False),
        (False, 0.5, [["smtpd (7)", "cleanup (8)"]] * 9, 4, False),
    ],
)
def test_how_long_processes_with_an_older_file_are_waited_for(salt, monkeypatch, test, timeout, answers, asked, result):
    clock, calls = [100.0], []

    def old(pillar):
        calls.append(pillar)
        clock[0] += 0.001
        return answers[len(calls) - 1]

    def sleep(seconds):
        clock[0] += seconds

    salt(postfix_map, test, postfix_map__old_processes=old)
    monkeypatch.setattr(postfix_map, "time", SimpleNamespace(monotonic=lambda: clock[0], sleep=sleep))
    said = postfix_map.drained("a name", timeout=timeout)
    assert said["result"] is result and calls == ["ispmail"] * asked
    assert said["comment"] == (
        "No process uses an older table file"
        if result
        else f"After {timeout} s these processes still use an older table file: smtpd (7), cleanup (8). "
        "They end with their sessions: try again"
    )


def test_they_are_waited_for_a_minute_by_default(salt, monkeypatch):
    clock = itertools.count(100)
    salt(postfix_map, postfix_map__old_processes=lambda pillar: ["smtpd (7)"])
    monkeypatch.setattr(postfix_map, "time", SimpleNamespace(monotonic=lambda: next(clock), sleep=lambda _: None))
    assert postfix_map.drained("a name")["comment"].startswith("After 60 s these processes")
    assert next(clock) == 162
