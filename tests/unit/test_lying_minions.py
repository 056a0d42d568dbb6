"""Whatever minions return, and whatever is on the master's bus: nothing raises, all is small, no lie is a proof."""

import concurrent.futures
import contextlib
import itertools
import json
import os
import time
from pathlib import Path

import jinja2
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from salt.exceptions import CommandExecutionError

import _ispmail_fleet
import _ispmail_queue
import _ispmail_rotation
import _ispmail_sites
from _ispmail_errors import Failed, InvalidInput
from _ispmail_master import Master
from _runners import ispmail, ispmail_rotate

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.binary(max_size=5), st.just("***")
)
# What msgpack can carry, and its keys may be anything that can be hashed.
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(SCALARS.filter(lambda x: x == x), inner, max_size=4),
    max_leaves=12,
)
NAMES = st.sampled_from(["a", "virtual_alias_maps"])
# What is nearly right is more dangerous than what is not.
PRINTS = st.fixed_dictionaries({}, optional={"pillar": st.dictionaries(NAMES, SCALARS), "live": ANYTHING})
HOLDERS = st.fixed_dictionaries({}, optional={"unnamed": st.lists(ANYTHING, max_size=3), "notes": ANYTHING})
STATES = st.dictionaries(
    st.sampled_from(["postfix_map_|-a_|-b_|-managed", "salt_|-The old password is dropped in main_|-x_|-state", "x"]),
    st.fixed_dictionaries(
        {}, optional={"result": SCALARS, "comment": ANYTHING, "duration": SCALARS, "changes": ANYTHING}
    ),
)
RETURNS = st.one_of(ANYTHING, PRINTS, HOLDERS, STATES, st.just("VALUE_TRIMMED"), st.just("x" * 10**5))
SETTINGS = settings(
    max_examples=int(os.environ.get("EXAMPLES", "40")),
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
ROOT = Path(__file__).resolve().parent.parent.parent
SITE = {"database": "db", "mail": "mx*"}
SERVERS = {"database": ["db"], "mail": ["mx1", "mx2"], "canary": []}
LARGEST = _ispmail_rotation.MOST_LINES * (_ispmail_rotation.LONGEST_LINE + 100)


# What a server is asked first: whether it is there.
PRESENT = ("test.ping", "saltutil.refresh_pillar")


class Liars:
    """Servers that answer anything, some of them twice, and for others."""

    def __init__(self, answers):
        self.answers = answers
        self.asked = set()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def cmd_iter_no_block(self, servers, function, *_, **__):
        self.asked |= set(servers)
        for server in ("stranger", *(each for each in servers for _ in range(2))):
            said = self.answers(function)
            yield {server: {"ret": said}}
            yield None


@contextlib.contextmanager
def master(client):
    """The runner, with such servers."""
    patch = pytest.MonkeyPatch()
    with patch.context() as patched:
        opts = {"ispmail": {"sites": {"main": SITE}}, "conf_file": "/x"}
        names = {"__opts__": opts, "__context__": {}, "__salt__": {"cache.grains": lambda *_, **__: {}}}
        for module, name in itertools.product((ispmail, ispmail_rotate), names):
            patched.setattr(module, name, names[name], raising=False)
        patched.setattr(Master, "matching", lambda self, site, role: SERVERS[role])
        patched.setattr(ispmail.salt.client, "get_local_client", lambda path: client)
        patched.setattr(_ispmail_fleet, "_POLL_SECONDS", 0)
        yield


def size(value):
    """How large a value is, in characters."""
    return len(repr(value))


@SETTINGS
@given(st.lists(RETURNS, min_size=1, max_size=5), st.booleans())
def test_whatever_servers_return_it_is_no_proof(answers, is_there):
    """Nobody but those that were asked is asked again, and what is kept is small."""
    turn = iter(answers * 1000)
    client = Liars(lambda function: True if is_there and function in PRESENT else next(turn))
    with master(client):
        proved = ispmail.prove("main")
        assert isinstance(proved, list) and ispmail.__context__ == {"retcode": 1}
        held = ispmail.holders("main")
        would = ispmail_rotate.rotate(test=True)
        assert would["retcode"] == 1 and would["main"]["stops"]
    assert client.asked <= {"db", "mx1", "mx2"}
    for said in (proved, held, would):
        assert size(said) < LARGEST


COMPARED = st.fixed_dictionaries(
    {"due": SCALARS}, optional={"faults": st.lists(SCALARS, max_size=3), "applied": SCALARS}
)
FOUND = st.lists(st.fixed_dictionaries({"check": SCALARS, "where": SCALARS, "result": SCALARS, "fix": SCALARS}))


@SETTINGS
@given(st.lists(RETURNS | COMPARED | FOUND, min_size=1, max_size=5))
def test_whatever_servers_return_the_status_is_small(answers):
    turn = iter(answers * 1000)
    client = Liars(lambda function: True if function in PRESENT else next(turn))
    with master(client):
        found = ispmail.status()
        assert ispmail.__context__ == {"retcode": found["retcode"]} and isinstance(found["reasons"], list)
    assert client.asked <= {"db", "mx1", "mx2"} and size(found) < LARGEST
    assert len(found["status"].splitlines()) == 5 or "\n" in str(answers)


@SETTINGS
@given(RETURNS)
@example({"refused_logins": True})
@example({"refused_logins": "7"})
def test_whatever_servers_count(answer):
    """After the drop nothing may raise: the rotation has succeeded."""
    events = []
    with master(Liars(lambda function: answer)):
        ispmail.__salt__["event.send"] = lambda tag, data: events.append(data)
        ispmail.__opts__["quiet"] = True
        found = ispmail_rotate._report_refused(["main"], {"main": {"db": 1}})
    assert type(found["main"]) in (int, type(None)) and size(events) < 1000


EVENTS = st.fixed_dictionaries(
    {},
    optional={
        "fun": st.sampled_from(["runner.ispmail.prove", "state.sls", 7]),
        "fun_args": ANYTHING | st.just(["ispmail.drained"]) | st.just([{"site": "main"}]),
        "arg": ANYTHING | st.just(["ispmail.drained"]),
        "args": ANYTHING | st.just({"arg": ["ispmail.drained"]}),
        "kwargs": ANYTHING,
        "tgt": ANYTHING | st.just(["mx1"]),
        "id": SCALARS | st.just("mx1"),
        "name": ANYTHING | st.just("The canary takes the new password in main"),
        "type": SCALARS | st.just("runner"),
        "return": RETURNS,
        "success": SCALARS,
    },
)
TAGS = st.sampled_from(["salt/run/1/args", "salt/run/2/ret", "salt/job/1/new", "salt/job/1/ret/mx1", "x"]) | st.text()


@SETTINGS
@given(st.lists(st.tuples(TAGS, EVENTS | ANYTHING), max_size=8))
def test_whatever_is_on_the_bus(events):
    """A step is told in one line of bounded length; at the end nothing raises, which would end all that is told."""
    progress = _ispmail_rotation.Progress("1", {"main": ["mx1"]})
    told = []
    for number, (tag, data) in enumerate(events):
        told += ispmail_rotate._heard(progress, {"tag": tag, "data": data}, float(number))
    told += progress.finish(99.0)
    for step in told:
        assert len(step.said) <= 160 and step.said.isprintable()
        assert isinstance(step.event(), dict) and step.describe()
    assert all(isinstance(server, str) for server in progress.waiting)


@SETTINGS
@given(RETURNS)
def test_whatever_an_orchestration_returns(returned):
    for inner in (returned, {"salt_|-x in main_|-x_|-state": {"result": False, "changes": {"ret": {"mx1": returned}}}}):
        assert _ispmail_rotation.table({"main": ["mx1"]}, inner).count("\n") == 2
        assert size(_ispmail_rotation.reasons(inner)) < LARGEST
        assert _ispmail_rotation.dropped(["main"], inner) in ([], ["main"])


def test_what_a_server_says_is_kept_in_part():
    """A rotation that fails sends its reasons as one event, which Salt cuts off beyond a megabyte."""
    many = {"unnamed": [{"text": "y" * 10**4}] * 1000, "notes": []}
    lines = _ispmail_fleet._lines(_ispmail_rotation.unnamed({"mx1": many}))
    assert len(lines) == 1 and len(lines[0]) == _ispmail_rotation.LONGEST_LINE
    lines = _ispmail_fleet._lines(f"mx1: {number}" for number in range(10**4))
    assert len(lines) == _ispmail_rotation.MOST_LINES + 1 and lines[-1] == "... and 9500 more"
    states = {f"postfix_map_|-{n}": {"result": False, "comment": "z" * 1000} for n in range(1500)}
    returned = {"salt_|-x in main_|-x_|-state": {"result": False, "changes": {"ret": {"mx1": states}}}}
    assert size(_ispmail_rotation.reasons(returned)) < 10**6


def test_a_return_that_salt_has_cut_off_is_told_as_that():
    """It cuts off a whole return, or a value in it."""
    said = {"mx1": "VALUE_TRIMMED", "mx2": {"unnamed": "VALUE_TRIMMED", "notes": []}}
    answers = _ispmail_rotation.checked(said, _ispmail_rotation.is_holders)
    for server in said:
        assert answers[server].startswith("answered more than the master takes (max_event_size)")


def test_a_server_that_is_at_work_for_ever(monkeypatch):
    """Salt waits for as long as a minion says so; the others' answers are kept."""
    monkeypatch.setattr(_ispmail_fleet, "_LONGEST_SECONDS", 0.2)
    closed = []

    class Client:
        def cmd_iter_no_block(self, servers, *_, **__):
            try:
                yield {"mx1": {"ret": 5}}
                while True:
                    yield None
            finally:
                closed.append(True)

    began = time.monotonic()
    assert _ispmail_fleet._ask(Client(), ["mx1", "mx2"], "test.ping") == {"mx1": 5}
    assert time.monotonic() - began < 5 and closed == [True]


def test_the_first_answer_counts_and_nobody_answers_for_a_stranger():
    numbers = iter(range(9))
    assert _ispmail_fleet._ask(Liars(lambda function: next(numbers)), ["mx1", "mx2"], "x") == {"mx1": 1, "mx2": 3}
    assert _ispmail_fleet.refused_logins(Liars(lambda function: {"refused_logins": 1}), ["db"]) == {"db": 1}


@SETTINGS
@given(ANYTHING | st.fixed_dictionaries({"main": st.dictionaries(st.sampled_from(_ispmail_sites._KEYS), ANYTHING)}))
@example({"main": {"database": 5, "mail": {"a": 1}, "canary": [None]}})
@example({"a\n\x1b[2J": {}})
def test_whatever_the_sites_are(sites):
    with contextlib.suppress(InvalidInput):
        found = _ispmail_sites.sites({"sites": sites})
        for targets in found.values():
            assert all(isinstance(targets[key], (str, list)) for key in ("database", "mail", "tgt_type", "without"))
    with pytest.raises(InvalidInput) as caught:
        _ispmail_sites.sites({"sites": {"other": {}, **(sites if isinstance(sites, dict) else {})}})
    assert all(line.isprintable() for line in str(caught.value).splitlines())


@SETTINGS
@given(ANYTHING)
@example(10**5000)
@example("9" * 5000 + "%")
@example("٣")
def test_whatever_the_batch_is(batch):
    try:
        assert _ispmail_sites.batch_size(batch, 7) >= 1
    except InvalidInput as err:
        assert "ispmail:rotation:batch must be" in str(err)


@SETTINGS
@given(
    st.dictionaries(st.just("mx1"), ANYTHING | st.dictionaries(st.sampled_from(_ispmail_sites._ADDRESSES), ANYTHING))
)
@example({"mx1": {"ipv4": [f"192.0.2.{n}" for n in range(10**5)], "fqdn": "x" * 10**6}})
def test_whatever_grains_a_server_has(grains):
    """They go to the database server with each question."""
    found = _ispmail_sites.hosts(grains, ["a"])
    assert all(isinstance(host, str) and len(host) <= 255 for host in found) and len(found) < 600


def test_a_function_is_stopped_at_the_end_of_its_time():
    began = time.monotonic()
    assert _ispmail_queue.bounded(lambda: time.sleep(60), 0.3) is None
    assert time.monotonic() - began < 10


def test_a_function_that_ends_in_time():
    assert _ispmail_queue.bounded(lambda: {"a": [1]}, 30) == {"a": [1]}
    with pytest.raises(ZeroDivisionError):
        _ispmail_queue.bounded(lambda: 1 / 0, 30)
    with pytest.raises(Failed, match="ended without a result"):
        _ispmail_queue.bounded(lambda: os._exit(3), 30)


def test_a_rotation_that_does_not_end_is_stopped(monkeypatch, tmp_path):
    """A server that says for ever that it is at work kept each later rotation waiting."""
    events = []
    with master(Liars(lambda function: None)):
        ispmail.__opts__.update(cachedir=str(tmp_path), quiet=True)
        salt = {"event.send": lambda tag, data: events.append((tag, data))}
        salt["state.orchestrate"] = lambda *_, **__: time.sleep(60)
        ispmail.__salt__.update(salt)
        monkeypatch.setattr(ispmail_rotate, "_listening", lambda progress: contextlib.nullcontext())
        monkeypatch.setattr(ispmail_rotate.salt.utils.jid, "gen_jid", lambda opts: "1")
        done = ispmail_rotate.rotate(timeout=0.3)
        assert ispmail.__context__ == {"retcode": 1}
    assert done["retcode"] == 1 and done["refused"] == {} and "not changed" in done["rotation"]
    (reason,) = done["reasons"]
    assert reason.startswith("the rotation has not ended within 0.3 s and was stopped")
    assert events == [("ispmail/rotation/failed", {"comment": reason})]


class Publisher:
    """Counts the jobs that are published."""

    def __init__(self):
        self.jobs = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def cmd_async(self, target, function, tgt_type, kwarg):
        self.jobs.append((target, function, tgt_type, kwarg))
        return "1"


@pytest.fixture
def publisher(monkeypatch, tmp_path):
    client = Publisher()
    with master(client):
        ispmail.__opts__["cachedir"] = str(tmp_path)
        yield client


def test_a_flood_of_events_is_a_few_jobs(publisher, monkeypatch):
    """Each event of any minion was a job on every mail server: thousands of processes there."""
    slept = []
    monkeypatch.setattr(ispmail.time, "sleep", slept.append)
    assert ispmail.reapply() == {"main": "1"}
    assert slept == []
    assert ispmail.reapply() == {"main": "1"}
    assert len(slept) == 1 and 0 < slept[0] <= ispmail._REAPPLY_SECONDS
    assert publisher.jobs == [("mx*", "ispmail.reapply", "glob", {"refresh": False})] * 2
    # An apply would get the pillar of before from its cache.
    ispmail.__opts__["pillar_cache"] = True
    assert ispmail.reapply() == {"main": "1"}
    assert publisher.jobs[2][3] == {"refresh": True}
    monkeypatch.setattr(ispmail, "merged", lambda *_: None)
    assert ispmail.reapply() == "another call is about to do it"


def test_a_flood_of_events_at_the_same_time(publisher, monkeypatch):
    """As the reactor does, which has ten threads: one is done, one waits, the others return."""
    monkeypatch.setattr(ispmail, "_REAPPLY_SECONDS", 0.5)
    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        done = list(pool.map(lambda number: ispmail.reapply(), range(200)))
    assert {str(each) for each in done} == {"{'main': '1'}", "another call is about to do it"}
    assert 2 <= len(publisher.jobs) <= 4


def test_a_cache_that_cannot_be_written_is_told(publisher, tmp_path):
    folder = tmp_path / "ispmail" / "reapplied"
    folder.mkdir(parents=True)
    os.utime(folder, (1, 1))
    with pytest.raises(CommandExecutionError, match=r"reapplied cannot be written: Is a directory"):
        ispmail.reapply()
    assert publisher.jobs == []


def rendered(sites):
    """What the orchestration is for such sites, as Salt reads it."""
    runner = {"ispmail.sites": sites}
    functions = {"pillar.get": lambda key, default: default, "saltutil.runner": lambda name, kwarg: runner[name]}
    environment = jinja2.Environment(extensions=["jinja2.ext.do"])  # the text of an SLS, not of a page
    environment.filters["json"] = json.dumps
    text = (ROOT / "salt" / "orch" / "rotate.sls").read_text(encoding="utf-8")
    return yaml.safe_load(environment.from_string(text).render(salt=functions))


def test_only_the_first_site_has_just_refreshed_its_pillar():
    """What the others have may be as old as the first one's rotation took."""
    who = {"database": ["db"], "canary": ["mx1"], "batches": [], "down": [], "faults": []}
    found = rendered({"a": who, "b": {**who, "faults": ["none is there"]}, "c": who})
    refreshes = {
        argument["refresh"]
        for site in "ac"
        for argument in found[f"Nobody holds the password unless pillar names it in {site}"]["salt.runner"]
        if "refresh" in argument and (site == "c") is argument["refresh"]
    }
    assert refreshes == {False, True}


@pytest.mark.parametrize("name", ["mx9\nevil:\n  cmd.run: []", "{{ 7 * 7 }}", "'\"", "- a: &b *c", "\u2028x", "%"])
def test_the_name_of_a_server_is_no_yaml(name):
    """Any key that was accepted may have such a name, and a new line in it ended the comment."""
    who = {"database": ["db"], "canary": [name], "batches": [[name]], "down": [name], "faults": []}
    plain = {**who, "canary": ["mx1"], "batches": [["mx1"]], "down": ["mx1"]}
    found = rendered({"main": who})
    assert found.keys() == rendered({"main": plain}).keys()
    (comment,) = [
        each["comment"] for each in found["How to go on in main"]["test.fail_without_changes"] if "comment" in each
    ]
    assert f"did not answer: {name}. A server" in comment
    assert found["The canary takes the new password in main"]["salt.state"][0] == {"tgt": [name]}
    faults = rendered({"main": {**who, "faults": [name]}})
    assert faults == {"A rotation can begin in main": {"test.fail_without_changes": [{"comment": name}]}}
    assert list(rendered(f"SaltInvocationError: {name}")) == ["A rotation can begin"]
