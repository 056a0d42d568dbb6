"""A change of which logins a server accepts, as it is carried out on each kind of server."""

import itertools
from types import SimpleNamespace

import pytest

import _ispmail_credential
from _ispmail_credential import CredentialChange, Plan, Retired, accept_fault, carry_out, try_to_retire
from _ispmail_database import Step
from _ispmail_errors import DatabaseError

from .postgresql_values import config


class Server:
    """Takes statements, or refuses them all."""

    def __init__(self, refuses=None):
        self.told, self._refuses = [], refuses

    def ask(self, statement, arguments=None):
        if self._refuses:
            raise self._refuses
        self.told.append(statement)
        return []


def plan(*done):
    """A change of `a`, `b` and so on; `done`: whether each is as it should be afterwards, or the error then."""

    def ask(answer):
        if isinstance(answer, Exception):
            raise answer
        return answer

    work = {
        name: CredentialChange(Step(name, (f"SET {name}",)), {"old": 1}, lambda answer=answer: ask(answer), "is set")
        for name, answer in zip("abc", done)
    }
    return Plan(work, ["planned"])


def retired(changes=None, *warnings):
    return lambda: Retired(changes or {}, list(warnings))


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    ticks = itertools.count(100.0)
    monkeypatch.setattr(_ispmail_credential, "time", SimpleNamespace(monotonic=lambda: next(ticks)))


@pytest.mark.parametrize("test", [True, False])
def test_what_is_planned_is_done_and_the_other_account_seen_to(caplog, test):
    caplog.set_level("INFO")
    server, todo = Server(), plan(True, True)
    end = retired({"a": {"account": "dropped"}, "x": {"account": "dropped"}}, "stays")
    assert carry_out(server, todo, "sole", test, end) == {
        "changes": {"a": {"old": 1, "account": "dropped"}, "b": {"old": 1}, "x": {"account": "dropped"}},
        "warnings": ["planned", "stays"],
    }
    assert server.told == ([] if test else ["SET a", "SET b"])
    assert caplog.messages == ([] if test else ["a is set, after 1.0 s", "b is set, after 2.0 s"])
    assert todo.warnings == ["planned"]


def test_a_login_that_is_accepted_beside_another_ends_none():
    def end():
        raise AssertionError("the old one is in use")

    assert carry_out(Server(), plan(True), "accept", False, end)["changes"] == {"a": {"old": 1}}
    assert carry_out(Server(), plan(), "sole", False, retired()) == {"changes": {}, "warnings": ["planned"]}


@pytest.mark.parametrize(("action", "again"), [("accept", "accepted"), ("sole", "sole")])
def test_what_is_not_done_is_told(action, again):
    lost = DatabaseError("gone", 2013)
    for todo, server, text in (
        (plan(True, False), Server(), f"b is not as it was set: run credential_{again} again"),
        (
            plan(True, lost),
            Server(),
            f"gone. a, b were changed, but could not be read back: run credential_{again} again",
        ),
        (plan(True), Server(lost), f"gone. run credential_{again} again, it goes on from there:\n- may be done: a"),
    ):
        with pytest.raises(DatabaseError) as caught:
            carry_out(server, todo, action, False, retired())
        assert str(caught.value) == text and caught.value.number == (2013 if "gone" in text else 0)


def test_who_cannot_be_opened():
    def fault(own, other):
        return accept_fault(config(), own, other, lambda: {"h": 1}, "LOCK IT")

    standings = ("missing", "locked", "open")
    for own, other in itertools.product(standings, standings):
        nobody = own == other == "missing"
        said = "does not exist, and neither does m_b: run postfix_database.account first"
        assert fault(own, other) == (said if nobody else None)
    for other in ("missing", "locked"):
        assert fault("open otherwise", other).startswith("is the account in use")
        assert fault("open otherwise", other).endswith("Write user: m_b into pillar, beside the new password")
    said = fault("open otherwise", "open")
    assert "(connected now: 1 from h)" in said and "if nobody uses it, run LOCK IT and rotate again" in said


def test_what_a_server_refuses_at_the_end_of_an_account_is_a_warning():
    step, said = Step("x", ("DROP x",)), ("m_b", "it refused", "do it by hand")

    def tried(server):
        name, why, cure = said
        return try_to_retire(server, config(), name, step, why, cure)

    server = Server()
    assert tried(server) is None and server.told == ["DROP x"]
    for number in (1227, "2BP01"):
        assert tried(Server(DatabaseError("no", number))).endswith(
            f"locked: it refused (error {number}): do it by hand"
        )
    for number in (0, 2006, 2013, 2055):
        with pytest.raises(DatabaseError, match=r"^no\. run credential_sole again, it goes on from there"):
            tried(Server(DatabaseError("no", number)))
