"""The runner's own decisions: who is who, whom a rotation goes to, what is proved, and what a dry run tells."""

import pytest
from salt.exceptions import CommandExecutionError, SaltInvocationError

from _runners import ispmail

MAIN = {"database": "db*", "mail": "mx*"}


@pytest.fixture
def configured(monkeypatch):
    """A function that sets what the master's configuration has as ispmail:sites."""

    def configure(sites):
        monkeypatch.setattr(ispmail, "__opts__", {"ispmail": {"sites": sites}, "conf_file": "/nowhere"}, raising=False)
        monkeypatch.setattr(ispmail, "__context__", {}, raising=False)
        known = {"mx1": {"ipv4": ["192.0.2.1"]}, "mx2": {}}
        monkeypatch.setattr(ispmail, "__salt__", {"cache.grains": lambda servers, tgt_type: known}, raising=False)

    return configure


def test_a_wrong_configuration_is_one_of_salts_errors(configured):
    configured({})
    with pytest.raises(SaltInvocationError, match=r"has no ispmail:sites: see docs/master\.conf"):
        ispmail._sites()


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
}


@pytest.mark.parametrize("case", WHO)
def test_to_whom_a_rotation_goes(monkeypatch, case):
    changed, there, (database, canary, batches, down, faults) = WHO[case]
    roles = {"database": ["db"], "mail": ["mx1", "mx2", "mx3", "mx4"], "canary": ["mx1"], **changed}
    monkeypatch.setattr(ispmail, "_matching", lambda who, role: roles[role])
    monkeypatch.setattr(
        ispmail.ispmail_fleet, "present", lambda client, servers: [each for each in servers if each in there.split()]
    )
    configured = {role: "x" for role in roles if roles[role] or role != "canary"}
    found = ispmail._resolve_targets(None, "main", configured, 2)
    reasons = [fault.removeprefix("ispmail:sites:main: ") for fault in found.pop("faults")]
    assert found == {"database": database, "canary": canary, "batches": batches, "down": down}
    assert len(reasons) == len(faults) and all(map(str.startswith, reasons, faults)), reasons


def used(live="new", pillar="new"):
    return {"pillar": {"virtual_alias_maps": pillar}, "live": {"virtual_alias_maps": live}}


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
    monkeypatch.setattr(ispmail, "_matching", lambda who, role: {"database": ["mx1"], "mail": ["mx1", "mx2"]}[role])
    monkeypatch.setattr(ispmail.salt.client, "get_local_client", lambda path: FakeClient(answers))
    said = ispmail.prove("main")
    if fault is None:
        assert said == {"mx1": 1, "mx2": 1} and ispmail.__context__ == {}
    else:
        assert [line for line in said if line.startswith(fault)] and ispmail.__context__ == {"retcode": 1}, said


def test_nobody_is_no_proof(configured, monkeypatch):
    configured({"main": MAIN})
    monkeypatch.setattr(ispmail, "_matching", lambda who, role: [])
    monkeypatch.setattr(ispmail.salt.client, "get_local_client", lambda path: FakeClient({}))
    assert "ispmail:sites:main:mail matches no server" in ispmail.prove("main")


@pytest.fixture
def servers(configured, monkeypatch):
    """A function that gives the servers db, mx1 and mx2 some answers; returns the client that asks them."""

    def answer(answers):
        configured({"main": MAIN})
        client = FakeClient(answers)
        roles = {"database": ["db"], "mail": ["mx1", "mx2"], "canary": []}
        monkeypatch.setattr(ispmail, "_matching", lambda who, role: roles[role])
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


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        ({**NOBODY, **SCRIPT}, "mx1: /root/x holds the password in use: name it"),
        (None, "mx1: does not answer"),
        ("ERROR: ss is not there", "mx1: ERROR: ss is not there"),
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
    assert ispmail.rotate(test=True) == {
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
    jobs = {name: kwarg for _, name, kwarg in client.asked}
    assert jobs["postfix_database.credential_accepted"] == {"test": True}
    assert not {"state.apply", "state.sls"} & set(jobs)


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
    found = ispmail.rotate(test=True)
    assert any(each.startswith(line) for each in found["main"]["stops"]), found
    assert found["retcode"] == 1 and ispmail.__context__ == {"retcode": 1}


@pytest.fixture
def sent(servers, monkeypatch):
    """The events that the runner sends; the servers are all well."""
    servers({})
    events = []
    ispmail.__salt__["event.send"] = lambda tag, data: events.append((tag, data))
    monkeypatch.setattr(ispmail, "_print", lambda line: None)
    return events


@pytest.mark.parametrize(("before", "refused"), [(7, 0), (5, 2), (9, -2)])
def test_refused_logins_after_the_drop(sent, before, refused):
    """A count that has fallen is that of a server that was restarted."""
    assert ispmail._report_refused(["main"], {"main": {"db": before}}) == {"main": max(refused, 0)}
    if refused > 0:
        ((tag, data),) = sent
        assert tag == "ispmail/rotation/refused"
        assert (data["site"], data["server"], data["refused"]) == ("main", "db", 2)
        assert data["comment"].startswith("db has refused 2 logins since the rotation began")
    else:
        assert sent == []


def test_nothing_is_counted_without_a_drop(sent):
    assert ispmail._report_refused([], {}) == {}


@pytest.mark.parametrize("broken", ["the cache", "Salt"])
def test_a_rotation_that_cannot_start_is_reported(configured, monkeypatch, tmp_path, broken):
    """A full /var/cache was a traceback, and no event."""
    configured({"main": MAIN})
    events = []

    def orchestrate(timeout):
        raise OSError(28, "No space left on device", "/var/cache/a secret")

    salt = {"event.send": lambda tag, data: events.append((tag, data))}
    monkeypatch.setattr(ispmail, "_orchestrate", orchestrate)
    monkeypatch.setattr(ispmail, "__salt__", salt, raising=False)
    monkeypatch.setitem(ispmail.__opts__, "cachedir", str(tmp_path))
    if broken == "the cache":
        (tmp_path / "ispmail").write_text("")
    with pytest.raises(CommandExecutionError) as caught:
        ispmail.rotate()
    assert events == [("ispmail/rotation/failed", {"comment": str(caught.value)})]
    wanted = "cannot be written: " if broken == "the cache" else "the rotation ended with OSError (No space left"
    assert wanted in str(caught.value) and "secret" not in str(caught.value)


def test_an_event_that_cannot_be_read_does_not_end_the_rest(configured):
    class Progress:
        def hear(self, tag, data, now):
            raise KeyError("x")

    assert ispmail._heard(Progress(), {"tag": "a", "data": {}}, 1.0) == []
    assert ispmail._heard(Progress(), {}, 1.0) == []


def test_what_is_printed_is_one_line(configured, capsys):
    configured({"main": MAIN})
    ispmail._print("a\n\x1b[2Jb")
    assert capsys.readouterr().err == "a ?[2Jb\n"
