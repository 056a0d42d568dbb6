"""The runner's own decisions: who is who, whom a rotation goes to, what is proved, and what a dry run tells."""

import contextlib
import fcntl
import functools
import inspect
import json
import multiprocessing
import os
import re
import socket
import threading
import time
from types import SimpleNamespace

import pytest
import salt.config
import salt.transport
import salt.utils.event
import tornado.ioloop
from salt.exceptions import CommandExecutionError, SaltInvocationError

import _ispmail_fleet
from _ispmail_errors import InvalidInput
from _ispmail_master import Master, require_seconds
from _ispmail_rotation import Progress
from _runners import ispmail, ispmail_rotate
from lab import START_SECONDS, is_free, wait_until

from .test_ispmail_rotation import used

MAIN = {"database": "db*", "mail": "mx*"}


@pytest.fixture
def given(monkeypatch):
    """A function that gives all files of the runner one of the names that Salt gives them."""

    def give(name, value):
        for module in (ispmail, ispmail_rotate):
            monkeypatch.setattr(module, name, value, raising=False)

    return give


@pytest.fixture
def configured(given):
    """A function that sets what the master's configuration has as ispmail:sites."""

    def configure(sites):
        given("__opts__", {"ispmail": {"sites": sites}, "conf_file": "/nowhere"})
        given("__context__", {})
        known = {"mx1": {"ipv4": ["192.0.2.1"]}, "mx2": {}}
        # By Salt's default, glob, a list of names matches nobody.
        salt = {"cache.grains": lambda servers, tgt_type: known if tgt_type == "list" else {}}
        given("__salt__", salt)

    return configure


def test_a_wrong_configuration_is_one_of_salts_errors(configured):
    configured({})
    with pytest.raises(SaltInvocationError, match=r"has no ispmail:sites: see docs/master\.conf"):
        ispmail.sites()


@pytest.mark.parametrize("function", [ispmail.prove, ispmail.holders])
def test_a_site_that_is_none(configured, function):
    configured({"main": MAIN})
    with pytest.raises(SaltInvocationError, match="has no site other: it has main"):
        function("other")


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
    "canaries of no site": (
        {"canary": ["mx8", "mx9"]},
        "db mx1 mx8 mx9",
        (["db"], ["mx8", "mx9"], [["mx1"]], ["mx2", "mx3", "mx4"], ["the canary mx8, mx9 is not one"]),
    ),
}


@pytest.mark.parametrize("name", [1, "1"])
def test_a_site_whose_name_is_a_number(name):
    """YAML takes it for one, in the configuration as on the command line."""
    assert Master({"sites": {1: {"database": "db", "mail": "mx"}}}, dict, dict).site(name)["mail"] == "mx"


def test_a_name_that_is_none():
    with pytest.raises(InvalidInput, match=r"has no site \['main'\]: it has main"):
        Master({"sites": {"main": {"database": "db", "mail": "mx"}}}, dict, dict).site(["main"])


@pytest.mark.parametrize("case", WHO)
def test_to_whom_a_rotation_goes(monkeypatch, case):
    changed, there, (database, canary, batches, down, faults) = WHO[case]
    roles = {"database": ["db"], "mail": ["mx1", "mx2", "mx3", "mx4"], "canary": ["mx1"], **changed}
    monkeypatch.setattr(Master, "matching", lambda self, who, role: roles[role])
    monkeypatch.setattr(
        _ispmail_fleet, "present", lambda client, servers: [each for each in servers if each in there.split()]
    )
    configured = {role: "x" for role in roles if roles[role] or role != "canary"}
    found = Master({"sites": {"main": configured}}, dict, dict).targets(None, "main", 2)
    reasons = [fault.removeprefix("ispmail:sites:main: ") for fault in found.pop("faults")]
    assert found == {"database": database, "canary": canary, "batches": batches, "down": down}
    assert len(reasons) == len(faults) and all(map(str.startswith, reasons, faults)), reasons


NOBODY = {"unnamed": [], "notes": []}
SCRIPT = {"unnamed": [{"kind": "file", "where": "/root/x", "text": "/root/x holds the password in use: name it"}]}
ANSWERS = {
    "test.ping": True,
    "saltutil.refresh_pillar": True,
    "state.apply": True,
    "postfix_map.fingerprints": used(),
    "postfix_database.refused": [],
    "postfix_map.old_processes": [],
    "postfix_database.holders": NOBODY,
    "postfix_database.credential_accepted": {"changes": {}, "warnings": []},
    "postfix_database.read": {"refused_logins": 7},
}


class FakeClient:
    """Answers as servers do that are all well, but for some answers."""

    def __init__(self, answers):
        self.answers = answers
        self.asked = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def cmd_iter_no_block(self, servers, function, arguments=(), kwarg=None, **_):
        yield None
        for server, said in self.cmd(servers, function, arguments, kwarg).items():
            yield {server: {"ret": said}}

    def cmd(self, servers, function, arguments=(), kwarg=None, **_):
        assert isinstance(function, str), "Salt 3008 fails each state.apply while a job of several functions runs"
        self.asked.append((servers, function, kwarg))
        return {server: self._answer(server, function, arguments) for server in servers}

    def _answer(self, server, name, arguments):
        answer = self.answers.get((server, name), ANSWERS[name])
        if name == "postfix_map.fingerprints" and False in arguments:
            answer = {"pillar": answer["pillar"]} if answer else answer
        return answer.pop(0) if isinstance(answer, list) and answer and name == "postfix_database.holders" else answer


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
    "somebody whom pillar does not name": (
        {("mx2", "postfix_database.holders"): {**NOBODY, **SCRIPT}},
        "mx2: /root/x holds the password in use: name it",
    ),
    "no fingerprints": ({("mx2", "postfix_map.fingerprints"): {}}, "mx2: did not answer what was asked"),
    "odd logins": ({("mx2", "postfix_database.refused"): [{}]}, "mx2: did not answer what was asked"),
    "odd holders": ({("mx2", "postfix_database.holders"): {"unnamed": [7]}}, "mx2: did not answer what was asked"),
    "a text that acts on a terminal": ({("mx2", "postfix_map.old_processes"): ["x\n\x1b[2Jy"]}, "mx2: x ?[2Jy still"),
    # The database's server is a mail server too, and its first answer is lost.
    "no answer of the database's server": ({("mx1", "postfix_map.fingerprints"): None}, "mx1: does not answer"),
}


@pytest.mark.parametrize("case", PROOFS)
def test_what_is_proved(configured, monkeypatch, case):
    answers, fault = PROOFS[case]
    configured({"main": {"database": "mx1", "mail": "mx*"}})
    monkeypatch.setattr(Master, "matching", lambda self, who, role: {"database": ["mx1"], "mail": ["mx1", "mx2"]}[role])
    monkeypatch.setattr(ispmail.salt.client, "get_local_client", lambda path: FakeClient(answers))
    said = ispmail.prove("main")
    if fault is None:
        assert said == {"mx1": 1, "mx2": 1} and ispmail.__context__ == {}
    else:
        assert [line for line in said if line.startswith(fault)] and ispmail.__context__ == {"retcode": 1}, said


def test_nobody_is_no_proof(configured, monkeypatch):
    configured({"main": MAIN})
    monkeypatch.setattr(Master, "matching", lambda self, who, role: [])
    monkeypatch.setattr(ispmail.salt.client, "get_local_client", lambda path: FakeClient({}))
    assert ispmail.prove("main")[1:] == [
        "ispmail:sites:main: database, db*, matches no server",
        "ispmail:sites:main: mail, mx*, matches no server",
    ]


@pytest.fixture
def servers(configured, monkeypatch):
    """A function that gives the servers db, mx1 and mx2 some answers; returns the client that asks them."""

    def answer(answers, **changed):
        configured({"main": MAIN})
        client = FakeClient(answers)
        roles = {"database": ["db"], "mail": ["mx1", "mx2"], "canary": [], **changed}
        monkeypatch.setattr(Master, "matching", lambda self, who, role: roles[role])
        monkeypatch.setattr(ispmail.salt.client, "get_local_client", lambda path: client)
        return client

    return answer


def test_nobody_else_holds_the_password(servers):
    client = servers({("mx2", "postfix_database.holders"): {**NOBODY, "notes": ["a", "a"]}})
    assert ispmail.holders("main") == {"db": [], "mx1": [], "mx2": ["a"]}
    assert ispmail.__context__ == {}
    asked = {tuple(to): kwarg for to, name, kwarg in client.asked if name == "postfix_database.holders"}
    # The database server is told who belongs to the site, by what the master knows of it.
    hosts = ["192.0.2.1", "mx1", "mx2"]
    assert asked == {("mx1", "mx2"): {"search": "old"}, ("db",): {"search": "old", "site_hosts": hosts}}


@pytest.mark.parametrize(("options", "times"), [({}, 1), ({"refresh": False}, 0)])
def test_who_holds_the_password_is_asked_with_fresh_pillar_or_with_that_of_the_rotation(servers, options, times):
    client = servers({})
    ispmail.holders("main", **options)
    assert [name for _, name, _ in client.asked].count("saltutil.refresh_pillar") == times


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        ({**NOBODY, **SCRIPT}, "mx1: /root/x holds the password in use: name it"),
        (None, "mx1: does not answer"),
        ("ERROR: x is not there", "mx1: ERROR: x is not there"),
    ],
)
def test_somebody_else_or_no_answer_stops_a_rotation(servers, answer, line):
    servers({("mx1", "postfix_database.holders"): answer})
    head, *lines = ispmail.holders("main")
    assert head.startswith("Nothing was changed") and lines == [line]
    assert ispmail.__context__ == {"retcode": 1}


def test_older_modules_are_synced_before_they_are_asked(servers):
    """Salt syncs with an apply only: the first rotation after an upgrade would stop here."""
    answers = ["'postfix_database.holders' is not available.", {**NOBODY, **SCRIPT}]
    client = servers({("mx1", "postfix_database.holders"): answers})
    assert ispmail.holders("main")[1:] == ["mx1: /root/x holds the password in use: name it"]
    assert (["mx1"], "state.apply", {"queue": 100}) in client.asked


def test_a_dry_run_tells_what_would_be_done(servers):
    client = servers({})
    assert ispmail_rotate.rotate(test=True) == {
        "main": {
            "would": [
                "accept the new password next to the one in use: db",
                "apply it, and wait for old processes: mx1",
                "apply it, and wait for old processes: mx2",
                "prove that all use it, then drop the old one: db",
            ],
            "stops": [],
        },
        "retcode": 0,
    }
    assert ispmail.__context__ == {}
    jobs = {name: kwarg for _, name, kwarg in client.asked}
    assert jobs["postfix_database.credential_accepted"] == {"test": True}
    assert not {"state.apply", "state.sls"} & set(jobs)


def test_a_dry_run_names_all_servers_of_a_step(servers):
    servers({}, database=["db1", "db2"], mail=["mx1", "mx2", "mx3"])
    assert ispmail_rotate.rotate(test=True)["main"]["would"] == [
        "accept the new password next to the one in use: db1, db2",
        "apply it, and wait for old processes: mx1",
        "apply it, and wait for old processes: mx2, mx3",
        "prove that all use it, then drop the old one: db1, db2",
    ]


def test_a_dry_run_has_no_step_for_no_server(servers):
    servers({}, mail=["mx1"])
    would = ispmail_rotate.rotate(test=True)["main"]["would"]
    assert [line for line in would if line.startswith("apply it")] == ["apply it, and wait for old processes: mx1"]


def test_a_dry_run_searches_no_server_where_a_rotation_cannot_start(servers):
    """A search takes minutes on a large server."""
    client = servers({("db", "test.ping"): False})
    assert ispmail_rotate.rotate(test=True)["retcode"] == 1
    assert {name for _, name, _ in client.asked} == {"test.ping", "saltutil.refresh_pillar"}


STOPS = {
    "a holder": ({("mx1", "postfix_database.holders"): {**NOBODY, **SCRIPT}}, "mx1: /root/x holds the password in use"),
    "a server that is down": ({("mx2", "test.ping"): False}, "mx2: does not answer"),
    "the database": ({("db", "postfix_database.credential_accepted"): "ERROR: two others"}, "db: ERROR: two others"),
    "another pillar": (
        {("mx2", "postfix_map.fingerprints"): used(pillar="other")},
        "mx2: pillar has another user or password",
    ),
    "the database server is down": ({("db", "test.ping"): False}, "ispmail:sites:main: the database server db does"),
}


@pytest.mark.parametrize("case", STOPS)
def test_a_dry_run_tells_what_would_stop_it(servers, case):
    answers, line = STOPS[case]
    servers(answers)
    found = ispmail_rotate.rotate(test=True)
    assert any(each.startswith(line) for each in found["main"]["stops"]), found
    assert found["retcode"] == 1 and ispmail.__context__ == {"retcode": 1}


@pytest.fixture
def sent(servers, monkeypatch):
    """The events that the runner sends; the servers are all well."""
    servers({})
    events = []
    ispmail.__salt__["event.send"] = lambda tag, data: events.append((tag, data))
    monkeypatch.setattr(ispmail_rotate, "_print", lambda line: None)
    return events


UNKNOWN = "main: how many logins db has refused is not known: it does not tell, or was restarted"


@pytest.mark.parametrize(("before", "refused"), [(7, 0), (6, 1), (5, 2)])
def test_refused_logins_after_the_drop(sent, monkeypatch, before, refused):
    printed = []
    monkeypatch.setattr(ispmail_rotate, "_print", printed.append)
    assert ispmail_rotate._report_refused(["main"], {"main": {"db": before}}) == {"main": refused}
    if refused > 0:
        ((tag, data),) = sent
        assert tag == "ispmail/rotation/refused"
        assert (data["site"], data["server"], data["refused"]) == ("main", "db", refused)
        logins = "1 login" if refused == 1 else f"{refused} logins"
        assert data["comment"].startswith(f"db has refused {logins} since the rotation began")
        assert printed == [f"main: {data['comment']}"]
    else:
        assert sent == printed == []


@pytest.mark.parametrize(
    ("before", "said"),
    [
        ({}, {"refused_logins": 7}),  # its old refusals would be reported as new ones
        ({"db": None}, {"refused_logins": None}),  # a MySQL, a PostgreSQL
        ({"db": 7}, {}),
        ({"db": 500}, {"refused_logins": 2}),  # it was restarted
    ],
)
def test_a_count_that_is_not_known_is_none(servers, capsys, before, said):
    """It was 0, as if no login had been refused."""
    events = []
    servers({("db", "postfix_database.read"): said})
    ispmail.__salt__["event.send"] = lambda *event: events.append(event)
    assert ispmail_rotate._report_refused(["main"], {"main": before}) == {"main": None}
    assert (events, capsys.readouterr().err) == ([], f"{UNKNOWN}\n")


def test_a_server_that_does_not_count_hides_none_that_does(servers, monkeypatch, capsys):
    events = []
    servers({})
    monkeypatch.setattr(_ispmail_fleet, "refused_logins", lambda client, servers: {"db2": 3})
    monkeypatch.setattr(Master, "matching", lambda self, who, role: ["db", "db2"])
    ispmail.__salt__["event.send"] = lambda tag, data: events.append((data["server"], data["refused"]))
    assert ispmail_rotate._report_refused(["main"], {"main": {"db": 1, "db2": 1}}) == {"main": None}
    assert events == [("db2", 2)] and capsys.readouterr().err.startswith(f"{UNKNOWN}\nmain: db2 has refused 2 logins")


def test_nothing_is_counted_without_a_drop(servers):
    client = servers({})
    assert ispmail_rotate._report_refused([], {}) == {}
    assert client.asked == []


@pytest.mark.parametrize("broken", ["the cache", "Salt"])
def test_a_rotation_that_cannot_start_is_reported(configured, monkeypatch, given, tmp_path, broken):
    """A full /var/cache was a traceback, and no event."""
    configured({"main": MAIN})
    events = []

    def orchestrate(timeout):
        raise OSError(28, "No space left on device", "/var/cache/a secret")

    salt = {**ispmail.__salt__, "event.send": lambda tag, data: events.append((tag, data))}
    monkeypatch.setattr(ispmail_rotate, "_orchestrate", orchestrate)
    given("__salt__", salt)
    monkeypatch.setitem(ispmail.__opts__, "cachedir", str(tmp_path))
    if broken == "the cache":
        (tmp_path / "ispmail").write_text("")
    with pytest.raises(CommandExecutionError) as caught:
        ispmail_rotate.rotate()
    assert events == [("ispmail/rotation/failed", {"comment": str(caught.value)})]
    wanted = "cannot be written: " if broken == "the cache" else "the rotation ended with OSError (No space left"
    assert wanted in str(caught.value) and "secret" not in str(caught.value)


def test_an_event_that_cannot_be_read_does_not_end_the_rest(configured, caplog):
    class Progress:
        def hear(self, tag, data, now):
            raise KeyError("x")

    assert ispmail_rotate._heard(Progress(), {"tag": "a", "data": {}}, 1.0) == []
    assert len(caplog.messages) == 1
    assert ispmail_rotate._heard(Progress(), None, 1.0) == []
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("seconds", ["x", True, None, -1, float("nan"), 10**6 + 1])
@pytest.mark.parametrize("call", [lambda value: ispmail.prove("main", value), ispmail.status])
def test_what_is_no_number_of_seconds(configured, monkeypatch, call, seconds):
    configured({"main": MAIN})
    monkeypatch.setattr(ispmail.salt.client, "get_local_client", lambda _: contextlib.nullcontext())
    with pytest.raises(SaltInvocationError, match=r"^timeout must be a number of seconds, at most 1,000,000$"):
        call(seconds)
    require_seconds(timeout=0, watch=10**6)


def test_what_is_printed_is_one_line(configured, capsys):
    configured({"main": MAIN})
    ispmail_rotate._print("a\n\x1b[2Jb")
    assert capsys.readouterr().err == "a ?[2Jb\n"


def test_nothing_is_printed_where_salt_is_told_to_be_quiet(configured, capsys):
    configured({"main": MAIN})
    ispmail.__opts__["quiet"] = True
    ispmail_rotate._print("a")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["rotate", "reapply", "sites", "holders", "prove"])
def test_the_documented_defaults_are_those_that_are_used(name):
    function = getattr(ispmail_rotate if name == "rotate" else ispmail, name)
    documented = dict(re.findall(r"^(\w+) : (.+)$", inspect.getdoc(function), re.MULTILINE))
    parameters = inspect.signature(function).parameters.values()
    assert documented == {each.name: str(each.default) for each in parameters if each.default is not each.empty}


# The configuration of a master, with keys of servers and, where it is wanted, an event bus of its own.


def serve(path):
    """Salt's own event bus, as a master has it."""
    opts = salt.config.master_config(path)
    if hasattr(salt.utils.event, "EventPublisher"):  # 3006
        salt.utils.event.EventPublisher(opts).run()
        return
    loop = tornado.ioloop.IOLoop(make_current=True)
    server = salt.transport.ipc_publish_server("master", opts)
    loop.add_callback(server.publisher, server.publish_payload, io_loop=loop)
    loop.start()


def free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@pytest.fixture(scope="module")
def master_directory(tmp_path_factory):
    """A directory with the configuration of a master, and the keys of db, mx1 and mx2."""
    root = tmp_path_factory.mktemp("master")
    publish, pull = free_ports(2)
    configuration = {"root_dir": str(root), "pki_dir": "/pki", "cachedir": "/cache", "sock_dir": "/run"}
    configuration.update(ipc_mode="tcp", tcp_master_pub_port=publish, tcp_master_pull_port=pull)
    (root / "master").write_text(json.dumps({**configuration, "ispmail": {"sites": {"main": MAIN}}}))
    (root / "pki" / "minions").mkdir(parents=True)
    for server in ("db", "mx1", "mx2"):
        (root / "pki" / "minions" / server).write_text("a key")
    return root


@pytest.fixture(scope="module")
def bus(master_directory):
    """The event bus of that master, in a process of its own."""
    configuration = json.loads((master_directory / "master").read_text())
    ports = [configuration["tcp_master_pub_port"], configuration["tcp_master_pull_port"]]
    process = multiprocessing.get_context("fork").Process(target=serve, args=[str(master_directory / "master")])
    process.start()
    assert wait_until(lambda: not any(map(is_free, ports)), START_SECONDS)
    yield
    process.kill()
    process.join()


@pytest.fixture
def master(master_directory, monkeypatch, given, tmp_path):
    """The runner as it is on a master whose servers are all well; the client, which keeps what they were asked."""
    client = FakeClient({})
    opts = salt.config.master_config(str(master_directory / "master"))
    given("__opts__", {**opts, "cachedir": str(tmp_path)})
    given("__context__", {})
    given("__salt__", {"cache.grains": lambda *_, **__: {}})
    monkeypatch.setattr(ispmail.salt.client, "get_local_client", {opts["conf_file"]: client}.__getitem__)
    return client


def test_who_is_a_server_of_a_site(master):
    """One in a list counts although its key is not there: it is down, not forgotten."""
    site = {"mail": "mx*", "database": ["db", "gone"], "tgt_type": "glob", "without": []}
    assert ispmail._master().matching(site, "mail") == ["mx1", "mx2"]
    assert ispmail._master().matching(site, "canary") == []
    assert ispmail._master().matching({**site, "without": ["mx1"]}, "mail") == ["mx2"]
    assert ispmail._master().matching({**site, "tgt_type": "list", "without": ["db"]}, "database") == ["gone"]


def test_the_servers_of_a_rotation(master):
    expected = {"database": ["db"], "canary": ["mx1"], "batches": [["mx2"]], "down": [], "faults": []}
    assert ispmail.sites() == {"main": expected}


def test_a_site_whose_database_salt_does_not_manage(master):
    """Its servers apply what pillar has; nothing is rotated there, and that stops no other site."""
    ispmail.__opts__["ispmail"] = {"sites": {"main": MAIN, "elsewhere": {"mail": "mx2"}}}
    assert list(ispmail.sites()) == ["main"]
    assert set(ispmail_rotate.rotate(test=True)) == {"main", "retcode"}
    assert ispmail.prove("elsewhere")[1].startswith(
        "ispmail:sites:elsewhere: it has no database, so nothing is rotated"
    )
    assert ispmail.holders("elsewhere") == {"mx2": []}
    ispmail.__opts__["ispmail"]["sites"].pop("main")
    master.cmd_async = lambda target, *_, **__: target
    assert ispmail.reapply() == {"elsewhere": "mx2"}
    for call in (ispmail.sites, functools.partial(ispmail_rotate.rotate, test=True)):
        with pytest.raises(SaltInvocationError, match="has no site with a database"):
            call()


@pytest.mark.parametrize("test", [False, True])
def test_a_rotation_with_a_wrong_configuration(master, test):
    """The event tells of it; a dry run has somebody who reads the error."""
    events = []
    ispmail.__salt__["event.send"] = lambda tag, data: events.append((tag, data))
    ispmail.__opts__["ispmail"] = {}
    with pytest.raises(SaltInvocationError, match="has no ispmail:sites") as caught:
        ispmail_rotate.rotate(test=test)
    assert events == ([] if test else [("ispmail/rotation/failed", {"comment": str(caught.value)})])
    with pytest.raises(SaltInvocationError, match="has no ispmail:sites"):
        ispmail.reapply()
    assert not os.path.exists(os.path.join(ispmail.__opts__["cachedir"], "ispmail"))


@pytest.mark.parametrize(
    ("function", "said"),
    [("rotate", "another rotation is about to start"), ("reapply", "another call is about to do it")],
)
def test_a_call_that_another_one_does(master, tmp_path, function, said):
    (tmp_path / "ispmail").mkdir()
    with (tmp_path / "ispmail" / f"{function}.waiting").open("w") as waiting:
        fcntl.flock(waiting, fcntl.LOCK_EX)
        assert getattr(ispmail_rotate if function == "rotate" else ispmail, function)() == said
    assert master.asked == []


@pytest.mark.parametrize(("now", "waited"), [(999.0, []), (1000.0, [5.0]), (1004.5, [0.5]), (1005.5, [])])
def test_calls_are_five_seconds_apart(monkeypatch, tmp_path, now, waited):
    """Any minion can cause very many; a clock that was set back delays nothing."""
    slept = []
    path = tmp_path / "reapplied"
    path.touch()
    os.utime(path, (1000, 1000))
    monkeypatch.setattr(ispmail, "time", SimpleNamespace(sleep=slept.append, time=lambda: now))
    ispmail._wait_since_the_last(path)
    assert slept == waited and path.stat().st_mtime > 2000


@pytest.mark.parametrize(("lost", "sent"), [(0, 1), (2, 3), (99, 50)])
def test_a_bus_that_takes_a_listener_late(lost, sent):
    """What is sent before that is lost: a rotation begins when the listener has heard itself, or after five seconds."""
    sends = []

    class Bus:
        def fire_event(self, data, tag):
            sends.append((data, tag))

        def get_event(self, wait, tag):
            assert (wait, tag) == (0.1, "ispmail/rotation/listening")
            return {} if len(sends) <= lost else {"_stamp": "now"}

    ispmail_rotate._hear_oneself(Bus(), Bus())
    assert sends == [({}, "ispmail/rotation/listening")] * sent


def test_each_step_is_printed_and_sent_as_it_ends(master, bus, monkeypatch, capsys):
    """On a bus of Salt's own; what is sent at once is heard, and what has not ended at the end does not answer."""
    idle = threading.Event()
    heard = ispmail_rotate._heard

    def hear(progress, event, now):
        if event is None:
            idle.set()
        return heard(progress, event, now)

    monkeypatch.setattr(ispmail_rotate, "_heard", hear)
    monkeypatch.setattr(ispmail_rotate, "_READY_SECONDS", 60)
    opts = ispmail.__opts__
    with (
        salt.utils.event.get_event("master", sock_dir=opts["sock_dir"], opts=opts, listen=True) as ear,
        salt.utils.event.get_event("master", sock_dir=opts["sock_dir"], opts=opts, listen=False) as mouth,
    ):
        mouth.fire_event({}, "the connection is open")
        # The listener is slow to connect: what is sent first must wait for it.
        connect, sent = salt.utils.event.get_event, threading.Event()
        slow = lambda *arguments, **options: (sent.wait(0.2), connect(*arguments, **options))[1]  # noqa: E731
        monkeypatch.setattr(salt.utils.event, "get_event", slow)
        with ispmail_rotate._listening(Progress("1", {"main": ["mx1", "mx2"]})):
            begun = {"type": "runner", "name": "ispmail.holders", "kwargs": {"site": "main"}}
            mouth.fire_event(begun, "salt/run/1/args")
            ended = {"fun": "runner.ispmail.holders", "fun_args": [{"site": "main"}], "success": True, "return": {}}
            mouth.fire_event(ended, "salt/run/2/ret")
            sent.set()
            first = ear.get_event(wait=5, tag="ispmail/rotation/step")
            assert idle.wait(5)
            assert [each.daemon for each in threading.enumerate() if each.name == "ispmail-rotation"] == [True]
            begun = {"name": "Mail takes the new password in main", "args": {"arg": ["ispmail.drained"]}}
            mouth.fire_event({**begun, "type": "state", "tgt": ["mx1", "mx2"]}, "salt/run/1/args")
            returned = {"a_|-b_|-c_|-d": {"result": True}}
            data = {"id": "mx1", "fun": "state.sls", "fun_args": ["ispmail.drained"], "return": returned}
            mouth.fire_event(data, "salt/job/3/ret/mx1")
            second = ear.get_event(wait=5, tag="ispmail/rotation/step")
            idle.clear()
            assert idle.wait(5)
        assert not [each for each in threading.enumerate() if each.name == "ispmail-rotation"]
        third = ear.get_event(wait=5, tag="ispmail/rotation/step")
    lines = [re.sub(r"[0-9.]+ s\b", "N s", line) for line in capsys.readouterr().err.splitlines()]
    assert lines == [
        "main: Nobody holds the password unless pillar names it: ok after N s",
        "main: Mail takes the new password: mx1 (1 of 2): ok after N s",
        "main: Mail takes the new password: mx2 (2 of 2): failed after N s: does not answer",
    ]
    assert [(each["site"], each["result"], each.get("server")) for each in (first, second, third)] == [
        ("main", True, None),
        ("main", True, "mx1"),
        ("main", False, "mx2"),
    ]


STATE = {"salt_|-The old password is dropped in main_|-x_|-state": {"result": True, "changes": {}}}
DROPPED = {"data": {"master": STATE}}
ROTATIONS = {
    # What the orchestration does and returns: whether the database dropped the old password, and why it failed.
    "succeeds": (lambda sls, orchestration_jid: DROPPED, True, []),
    "does not start": (
        lambda sls, orchestration_jid: {"data": {"master": [f"no {sls}", f"job of {len(orchestration_jid)} digits"]}},
        False,
        ["no orch.rotate", "job of 20 digits"],
    ),
    "returns nothing": (lambda sls, orchestration_jid: {}, False, ["the orchestration has returned nothing"]),
    "returns no data": (lambda sls, orchestration_jid: {"data": {}}, False, ["the orchestration has returned nothing"]),
    "returns no state": (
        lambda sls, orchestration_jid: {"data": {"master": {}}},
        False,
        ["the orchestration has returned nothing"],
    ),
    "does not end": (
        lambda sls, orchestration_jid: threading.Event().wait(),
        False,
        ["the rotation has not ended within 0.1 s and was stopped; still at work: nobody known. The old password"],
    ),
}


@pytest.mark.parametrize("case", ROTATIONS)
def test_how_a_rotation_ends(master, monkeypatch, caplog, capsys, case):
    """Without the listener, which the test above has."""
    orchestrate, has_dropped, reasons = ROTATIONS[case]
    events, slept = [], []
    monkeypatch.setattr(ispmail_rotate, "_listening", contextlib.nullcontext)
    monkeypatch.setattr(ispmail_rotate, "time", SimpleNamespace(sleep=slept.append, monotonic=time.monotonic))
    ispmail.__salt__.update({"state.orchestrate": orchestrate, "event.send": lambda *event: events.append(event)})
    done = ispmail_rotate.rotate(timeout=0.1 if case == "does not end" else 60)
    assert len(done["reasons"]) == len(reasons) and all(map(str.startswith, done["reasons"], reasons))
    assert done["retcode"] == ispmail.__context__.get("retcode", 0) == (1 if reasons else 0)
    assert events == ([("ispmail/rotation/failed", {"comment": "\n".join(done["reasons"])})] if reasons else [])
    level, how = ("WARNING", "failed") if reasons else ("INFO", "succeeded")
    assert [each.levelname for each in caplog.records if each.message.startswith(f"rotation {how} in ")] == [level]
    assert done["refused"] == ({"main": 0} if has_dropped else {})
    assert (slept, capsys.readouterr().err) == (
        ([30], "counting refused logins for 30 s\n") if has_dropped else ([], "")
    )


def test_why_a_rotation_was_stopped_names_ten_servers():
    progress = Progress("1", {})
    servers = [f"mx{number}" for number in range(11)]
    progress.hear("salt/run/1/args", {"name": "a in main", "tgt": servers}, 0.0)
    reason = ispmail_rotate._unended(progress, 60)
    assert reason.startswith(
        "the rotation has not ended within 60 s and was stopped; still at work: "
        "mx0, mx1, mx2, mx3, mx4, mx5, mx6, mx7, mx8, mx9. The old password is still accepted, unless"
    )
