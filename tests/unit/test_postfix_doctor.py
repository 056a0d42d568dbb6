"""The execution module `postfix_doctor`: which instances are checked, and what pillar says of each."""

import os
import shutil
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families
from salt.exceptions import CommandExecutionError, SaltInvocationError

import _ispmail_applied
from _ispmail_config_consumers import NONE
from _ispmail_errors import CannotAsk, Failed, PillarFault
from _ispmail_plan import Outcome
from _ispmail_report import FAULT, OK, Finding, table
from _modules import postfix_doctor

from .test_ispmail_reapply import fails

METRICS = "the metrics for Prometheus can be written"
FINDINGS = [Finding("a login", "this server", OK, ""), Finding("a query", "x", FAULT, "write it anew")]
ANSWERS = [{"map": "virtual_alias_maps", "question": "jack@example.org", "answer": "john@example.org"}]
PILLAR = {
    "ispmail": {
        "database": {"password": "first"},
        "server": {"unix_socket": "/run/db.sock"},
        "instances": ["second", "third"],
        "answers": ANSWERS,
    },
    "second": {
        "database": {"password": "other", "hosts": ["a", "b:3307"]},
        "consumers": {"webmail": {"holds": ["/x"]}},
        "postfix": {"config_directory": "/etc/postfix-second"},
    },
    "third": {
        "database": {"password": "a password\nof two lines"},
        "postfix": {"config_directory": "/etc/postfix-third"},
        "server": {"host": "db"},
    },
}


@pytest.fixture
def checked(on_minion, monkeypatch):
    """The targets, addresses and scope that were looked at, of each check: it finds FINDINGS."""
    on_minion(postfix_doctor, **PILLAR)
    calls = []

    def check(targets, addresses, scope):
        calls.append((targets, addresses, scope))
        return iter(FINDINGS)

    monkeypatch.setattr("_ispmail_doctor.check", check)
    return calls


def test_findings_for_programs(checked):
    assert postfix_doctor.check() == [finding._asdict() for finding in FINDINGS]
    assert postfix_doctor.check("second") and checked[0][1] == ["127.0.0.1", "192.0.2.1"]
    assert [[target.instance.pillar_key for target in targets] for targets, _, _ in checked] == [
        ["ispmail", "second", "third"],
        ["second"],
    ]


def test_findings_for_people(checked):
    assert postfix_doctor.check(width=100) == table(FINDINGS, 100) != table(FINDINGS, 60)
    assert postfix_doctor.check("second", width=60) == table(FINDINGS, 60)
    assert [targets[0].instance.pillar_key for targets, _, _ in checked] == ["ispmail", "second"]


def test_a_width_that_is_none_is_refused_before_anything_is_asked(checked):
    with pytest.raises(SaltInvocationError, match="width"):
        postfix_doctor.check(width=10)
    assert checked == []


def test_a_postfix_that_cannot_be_asked_is_an_error_of_salts(on_minion, monkeypatch):
    on_minion(postfix_doctor, **PILLAR)
    monkeypatch.setattr("_ispmail_doctor.check", fails(CannotAsk("there is no main.cf")))
    for width in (None, 100):
        with pytest.raises(CommandExecutionError, match=r"there is no main\.cf"):
            postfix_doctor.check(width=width)


def test_what_pillar_says_of_each_instance(checked):
    """One without a server of its own shares the main one's. A password that cannot be one is the apply's finding."""
    postfix_doctor.check()
    main, second, third = checked[0][0]
    assert [target.prefix for target in (main, second, third)] == ["", "second: ", "third: "]
    assert [target.own_server for target in (main, second, third)] == [True, False, True]
    assert [target.names_socket for target in (main, second, third)] == [True, False, False]
    assert [target.hosts for target in (main, second, third)] == [("127.0.0.1",), ("a", "b:3307"), ("127.0.0.1",)]
    assert [target.has_consumers for target in (main, second, third)] == [False, True, False]
    assert [target.answers for target in (main, second, third)] == [ANSWERS, (), ()]
    assert [target.database.pillar_key for target in (main, second, third)] == ["ispmail", "ispmail", "third"]
    assert third.database.login.host == "db" and main.instance.config_directory == "/etc/postfix"


def test_secrets_are_read_only_when_a_check_asks_for_them(checked, monkeypatch, tmp_path):
    """Each for its own instance; what an apply would change is asked for by a dry run."""
    postfix_doctor.check()
    (_, second, third), _, scope = checked[0]
    with pytest.raises(PillarFault, match="third:database:password"):
        third.changes()
    calls = []

    def compare(instance, consumers, cache):
        assert (consumers, cache) == (NONE, str(tmp_path / "cache"))
        return SimpleNamespace(instance=instance)

    def apply(found, cache, test=False):
        calls.append((found.instance.pillar_key, cache, test))
        return Outcome({"virtual_alias_maps": {}})

    monkeypatch.setattr("_ispmail_compare.compare", compare)
    monkeypatch.setattr("_ispmail_apply.apply", apply)
    monkeypatch.setattr("_ispmail_accounts.read", lambda config: {"of": config.pillar_key})
    assert second.changes() == {"virtual_alias_maps": {}} and calls == [("second", str(tmp_path / "cache"), True)]
    assert second.admin_view() == {"of": "second"}
    assert list(scope().instances) == ["ispmail", "second", "third"]


@pytest.fixture
def sent(checked, monkeypatch):
    """The events that were sent."""
    events = []
    salt = {"event.send": lambda tag, data: events.append((tag, data))}
    monkeypatch.setattr(postfix_doctor, "__salt__", salt, raising=False)
    return events


def test_faults_are_told_of_once_and_when_they_are_gone(sent, monkeypatch):
    assert postfix_doctor.check() and sent == [], "nobody has asked for it"
    for _ in range(2):
        assert postfix_doctor.check(notify=True) == [finding._asdict() for finding in FINDINGS]
    fault = {"check": "a query", "where": "x", "fix": "write it anew"}
    assert sent == [("ispmail/doctor/fault", {"faults": [fault], "comment": "a query (x): write it anew"})]
    # A number in it, such as that of days, is no other fault.
    monkeypatch.setattr("_ispmail_doctor.check", lambda *_: iter([FINDINGS[1]._replace(fix="write it anew in 3 days")]))
    postfix_doctor.check(notify=True)
    assert len(sent) == 1
    for findings, faults in (([FINDINGS[1]._replace(where="y")], ["y"]), ([FINDINGS[0]], []), (FINDINGS, ["x"])):
        monkeypatch.setattr("_ispmail_doctor.check", lambda *_, found=findings: iter(found))
        postfix_doctor.check(notify=True)
        assert [each["where"] for each in sent[-1][1]["faults"]] == faults
    assert len(sent) == 4


def test_what_an_event_quotes_can_be_sent(sent, monkeypatch):
    """Nor could it be remembered that it was: bytes that are not UTF-8 are in no file of texts."""
    fault = FINDINGS[1]._replace(where="caf\udce9", fix="mend caf\udce9")
    monkeypatch.setattr("_ispmail_doctor.check", lambda *_: iter([fault]))
    for _ in range(2):
        assert postfix_doctor.check(notify=True)[0]["where"] == "caf\ufffd"
    ((_, data),) = sent
    assert data["comment"] == "a query (caf\ufffd): mend caf\ufffd" and data["faults"][0]["where"] == "caf\ufffd"


def test_each_pillar_key_is_told_of_by_itself(sent):
    for key in ("ispmail", "second", "ispmail", "second"):
        postfix_doctor.check(key, notify=True)
    assert len(sent) == 2


def test_that_nothing_could_be_looked_at_is_a_fault(sent, monkeypatch):
    def check(*_):
        raise CannotAsk("there is no main.cf")

    monkeypatch.setattr("_ispmail_doctor.check", check)
    for _ in range(2):
        with pytest.raises(CommandExecutionError, match=r"there is no main\.cf"):
            postfix_doctor.check(notify=True)
    assert [data["comment"] for _, data in sent] == ["the doctor can look (ispmail): there is no main.cf"]
    with pytest.raises(SaltInvocationError):
        postfix_doctor.check("nowhere", notify=True)
    assert len(sent) == 1, "a key that is not there would be a file of any name"


# The metrics.


@pytest.fixture
def textfile(on_minion, sent):
    """The file that pillar names."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    path = folder / "ispmail.prom"
    on_minion(postfix_doctor, **{**PILLAR, "ispmail": {**PILLAR["ispmail"], "watch": {"textfile": str(path)}}})
    yield path
    shutil.rmtree(folder)


def metrics(path):
    """Name and pillar key to the number."""
    found = text_string_to_metric_families(path.read_text())
    return {(each.name, each.labels["pillar"]): each.value for family in found for each in family.samples}


def test_the_metrics_are_written_where_the_schedule_asks_for_it(textfile, tmp_path, monkeypatch):
    folder = str(tmp_path / "cache" / "ispmail")
    _ispmail_applied.note(folder, "second")
    _ispmail_applied.note(folder, "third", _ispmail_applied.PASSWORD)
    os.utime(f"{folder}/applied-second", (1000, 1000))
    os.utime(f"{folder}/password-third", (time.time() - 500,) * 2)
    refused = []
    monkeypatch.setattr("_ispmail_logins.refused", lambda *given: refused.append(given) or [{}, {}])
    managed = {"managed": True, "age": 100}
    accounts = {"a": managed, "b": {**managed, "age": 70}, "c": {"managed": False, "age": 900}}
    views = {"ispmail": {"accounts": accounts}, "third": {"accounts": {"a": {**managed, "age": None}}}}
    monkeypatch.setattr("_ispmail_accounts.read", lambda config: views[config.pillar_key])

    def check(targets, *_):
        for target in targets:
            if target.own_server and target.instance.pillar_key == "ispmail":
                target.admin_view()
        return iter([*FINDINGS, *FINDINGS, FINDINGS[0]._replace(result="warning")])

    monkeypatch.setattr("_ispmail_doctor.check", check)
    postfix_doctor.check()
    assert not textfile.exists() and refused == [], "nobody has asked for it"
    found = postfix_doctor.check(notify=True)
    assert (found[-1]["check"], found[-1]["where"], found[-1]["result"]) == (METRICS, str(textfile), "ok")
    seen = metrics(textfile)
    assert time.time() - 60 < seen.pop(("ispmail_doctor_timestamp_seconds", "ispmail")) <= time.time()
    assert seen == {
        ("ispmail_doctor_faults", "ispmail"): 2,
        ("ispmail_doctor_warnings", "ispmail"): 1,
        ("ispmail_last_apply_timestamp_seconds", "second"): 1000,
        ("ispmail_password_age_seconds", "ispmail"): 100,
        ("ispmail_refused_logins", "ispmail"): 2,
    }
    ((instances, main, consumers),) = refused
    assert (list(instances), main, len(consumers)) == (["ispmail", "second", "third"], "ispmail", 3)


def test_a_password_whose_age_this_minion_alone_knows(textfile, on_minion, tmp_path, monkeypatch):
    main = {**PILLAR["ispmail"], "watch": {"textfile": str(textfile)}}
    on_minion(postfix_doctor, **{**PILLAR, "ispmail": main, "third": {**PILLAR["third"], "database": {}}})
    folder = str(tmp_path / "cache" / "ispmail")
    _ispmail_applied.note(folder, "third", _ispmail_applied.PASSWORD)
    os.utime(f"{folder}/password-third", (time.time() - 500,) * 2)
    view = {"accounts": {"a": {"managed": True, "age": None}}}
    monkeypatch.setattr("_ispmail_accounts.read", lambda config: view)

    def check(targets, *_):
        for target in targets:
            target.admin_view()
        return iter(())

    monkeypatch.setattr("_ispmail_doctor.check", check)
    postfix_doctor.check(notify=True)
    ages = {key: age for (name, key), age in metrics(textfile).items() if name == "ispmail_password_age_seconds"}
    assert list(ages) == ["third"] and 499 < ages["third"] < 600


def test_a_preset_gives_no_instance_a_server_of_its_own(checked, on_minion):
    """What it says of the database's tables is no login to another server."""
    preset = {name: {**section, "preset": "postfixadmin"} for name, section in PILLAR.items()}
    on_minion(postfix_doctor, **preset)
    postfix_doctor.check()
    assert [target.own_server for target in checked[0][0]] == [True, False, True]


def test_what_cannot_be_looked_at_is_a_fault_in_the_metrics(textfile, monkeypatch):
    def fail(*_):
        raise CannotAsk("there is no main.cf")

    monkeypatch.setattr("_ispmail_doctor.check", fail)
    monkeypatch.setattr("_ispmail_logins.refused", fail)
    with pytest.raises(CommandExecutionError, match=r"there is no main\.cf"):
        postfix_doctor.check(notify=True)
    names = {name for name, _ in metrics(textfile)}
    assert metrics(textfile)["ispmail_doctor_faults", "ispmail"] == 1 and "ispmail_refused_logins" not in names


def test_faults_of_pillar_are_in_the_metrics_too(textfile, on_minion):
    on_minion(postfix_doctor, ispmail={"maps": 7, "watch": {"textfile": str(textfile)}})
    with pytest.raises(SaltInvocationError):
        postfix_doctor.check(notify=True)
    assert metrics(textfile)["ispmail_doctor_faults", "ispmail"] == 1


def test_a_file_that_cannot_be_written_is_a_fault_and_an_event(textfile, sent, monkeypatch):
    """A directory that is not there is seen by everybody, a full disk by the schedule."""
    monkeypatch.setattr("_ispmail_doctor.check", lambda *_: iter(()))
    monkeypatch.setattr("_ispmail_textfile.write", fails(Failed("No space left on device")))
    (found,) = postfix_doctor.check(notify=True)
    assert (found["result"], found["fix"]) == ("fault", "No space left on device")
    assert [each["check"] for each in sent[-1][1]["faults"]] == [METRICS]
    textfile.parent.chmod(0o777)
    (found,) = postfix_doctor.check()
    assert found["result"] == "fault" and "writable for nobody else" in found["fix"]
    assert [each["check"] for each in sent[-1][1]["faults"]] == [METRICS] and len(sent) == 1
    assert METRICS in postfix_doctor.check(width=300)
