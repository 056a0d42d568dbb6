"""The questions of the execution module `postfix_map`: whose maps are asked, and how an answer is told."""

import pytest
from salt.exceptions import CommandExecutionError, SaltInvocationError

from _ispmail_errors import CannotAsk
from _ispmail_lookup import ANSWER, COULD_NOT_ASK, NO_ANSWER, Lookup
from _modules import postfix_map_ask

from .test_ispmail_proof import NONCE, PASSWORD, scrypt
from .test_ispmail_reapply import fails

SECTIONS = {
    "ispmail": {"database": {"password": PASSWORD}, "instances": ["second"]},
    "second": {"database": {"password": "other"}, "postfix": {"config_directory": "/etc/postfix-second"}},
}
NAMES = ("virtual_mailbox_domains", "virtual_alias_maps", "virtual_mailbox_maps")


def test_it_is_a_part_of_postfix_map():
    assert postfix_map_ask.__virtual__() == "postfix_map"


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (Lookup(ANSWER, ("a", "b"), "john@example.org"), {"answer": "john@example.org", "warnings": ["a", "b"]}),
        (Lookup(ANSWER, answer=""), {"answer": "", "warnings": []}),
        (Lookup(NO_ANSWER), {"warnings": []}),
        (
            Lookup(COULD_NOT_ASK, reason="Access denied", table="mysql:/x.cf"),
            {"reason": "Access denied", "table": "mysql:/x.cf", "warnings": []},
        ),
        (Lookup(COULD_NOT_ASK, reason="no end"), {"reason": "no end", "table": None, "warnings": []}),
    ],
)
def test_how_an_answer_is_told(on_minion, monkeypatch, found, told):
    on_minion(postfix_map_ask, **SECTIONS)
    monkeypatch.setattr("_ispmail_answers.lookup", lambda *_: found)
    assert postfix_map_ask.lookup("virtual_alias_maps", "jack@example.org") == {"result": found.result, **told}


def test_what_is_asked(on_minion, monkeypatch):
    """A number on the command line is a text."""
    on_minion(postfix_map_ask, **SECTIONS)
    asked = []

    def lookup(instance, *question):
        asked.append((instance.pillar_key, *question))
        return Lookup(NO_ANSWER)

    monkeypatch.setattr("_ispmail_answers.lookup", lookup)
    postfix_map_ask.lookup("virtual_alias_maps", 5)
    postfix_map_ask.lookup("x", "y", "second")
    assert asked == [("ispmail", "virtual_alias_maps", "5"), ("second", "x", "y")]


def test_answers_are_compared_with_those_of_pillar(on_minion, monkeypatch):
    on_minion(postfix_map_ask, **SECTIONS)
    monkeypatch.setattr("_ispmail_classes.wrong_answers", lambda instance: [f"{instance.pillar_key}: no"])
    assert postfix_map_ask.answers() == ["ispmail: no"] and postfix_map_ask.answers("second") == ["second: no"]


def test_the_maps_of_all_instances_are_probed(on_minion, monkeypatch):
    on_minion(postfix_map_ask, **SECTIONS)
    monkeypatch.setattr("_ispmail_answers.unaskable_live", lambda instance: [f"{instance.pillar_key}: no"])
    assert postfix_map_ask.probe() == ["ispmail: no", "second: no"]
    assert postfix_map_ask.probe("second") == ["second: no"]


def test_the_fingerprints_of_all_instances(on_minion, tmp_path):
    """Live ones too, unless they are not wanted; consumers are among them, and other accounts are not."""
    (tmp_path / "has").write_text(PASSWORD)
    (tmp_path / "second").mkdir()
    first = {"consumers": {"webmail": {"holds": [str(tmp_path / "has")]}}, "instances": ["second"]}
    sections = {
        "ispmail": {**first, "database": {"password": PASSWORD}, "postfix": {"config_directory": str(tmp_path)}},
        "second": {
            "database": {"password": "other", "user": "another"},
            "postfix": {"config_directory": str(tmp_path / "second")},
        },
    }
    on_minion(postfix_map_ask, **sections)
    new, consumer = scrypt("mailserver", PASSWORD), {"consumer:webmail": scrypt("mailserver", PASSWORD)}
    pillar = {**dict.fromkeys(NAMES, new), **consumer}
    live = {**dict.fromkeys(NAMES), **consumer}
    assert postfix_map_ask.fingerprints(NONCE) == {"pillar": pillar, "live": live}
    assert postfix_map_ask.fingerprints(NONCE, live=False) == {"pillar": pillar}
    # The account is that of the pillar key that is asked for.
    other = dict.fromkeys(NAMES, scrypt("another", "other"))
    assert postfix_map_ask.fingerprints(NONCE, False, "second") == {"pillar": other}


FUNCTIONS = [("lookup", ["virtual_alias_maps", "x"]), ("answers", []), ("probe", []), ("fingerprints", [NONCE])]


@pytest.mark.parametrize(("name", "arguments"), FUNCTIONS)
def test_errors_are_salts(on_minion, monkeypatch, name, arguments):
    function = getattr(postfix_map_ask, name)
    on_minion(postfix_map_ask)
    with pytest.raises(SaltInvocationError, match="pillar is empty"):
        function(*arguments)
    on_minion(postfix_map_ask, **SECTIONS)
    for callee in ("answers.lookup", "answers.unaskable_live", "classes.wrong_answers", "proof.fingerprints"):
        monkeypatch.setattr(f"_ispmail_{callee}", fails(CannotAsk("Postfix is not there")))
    with pytest.raises(CommandExecutionError, match="Postfix is not there"):
        function(*arguments)
