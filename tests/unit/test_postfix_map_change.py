"""The changes of the execution module `postfix_map`: what they are given, and what is told beside them."""

import contextlib

import pytest
from salt.exceptions import CommandExecutionError, SaltInvocationError

from _ispmail_compare import Comparison
from _ispmail_consumers import Difference
from _ispmail_errors import Failed
from _ispmail_plan import Outcome
from _modules import postfix_map_change

from .test_ispmail_reapply import fails

CHANGES = {"virtual_alias_maps": {"file": {"old": None, "new": "/x.cf"}}}
DONE = Outcome(CHANGES, maps=3, warnings=("first",), reloaded=True, consumers=1)
QUERY = "SELECT 1 FROM x WHERE y='%s'"
TOLD = {"changes": CHANGES, "maps": 3, "reloaded": True, "consumers": 1}


@pytest.fixture
def files(tmp_path):
    """A pillar with two instances, one of them with a consumer and its option file."""
    (tmp_path / "web.cnf").write_text("[client]\n")
    consumers = {"webmail": {"option_file": str(tmp_path / "web.cnf")}}
    second = {"database": {"password": "other"}, "postfix": {"config_directory": "/etc/postfix-second"}}
    return {"ispmail": {"database": {"password": "x"}, "consumers": consumers}, "second": second}


def test_it_is_a_part_of_postfix_map():
    assert postfix_map_change.__virtual__() == "postfix_map"


def test_an_apply(on_minion, monkeypatch, tmp_path, files):
    """A dry run has to be asked for. Who is left with the old password is told, without the admin's login."""
    files["ispmail"]["server"] = {"host": "sdb://only/the/database/server/has/this"}
    on_minion(postfix_map_change, **files)
    calls = []

    @contextlib.contextmanager
    def left_behind(maps, consumers, scope, test):
        config = scope().database
        calls.append((maps.pillar_key, consumers.pillar_key, config.pillar_key, config.login.host, test))
        yield ["second"]

    def compare(maps, consumers, cache):
        compared.append(Comparison(maps, consumers, None, Difference((), {}), interrupted=False))
        return compared[-1]

    def apply(found, cache, test):
        assert found is compared[-1]
        calls.append((found.instance.pillar_key, cache, test, [each.name for each in found.consumers.consumers]))
        return DONE

    compared = []
    monkeypatch.setattr("_ispmail_compare.compare", compare)
    monkeypatch.setattr("_ispmail_holders.left_behind", left_behind)
    monkeypatch.setattr("_ispmail_apply.apply", apply)
    assert postfix_map_change.apply() == {**TOLD, "warnings": ["first", "second"]}
    postfix_map_change.apply("second", test=True)
    cache = str(tmp_path / "cache")
    assert calls == [
        ("ispmail", "ispmail", "ispmail", None, False),
        ("ispmail", cache, False, ["webmail"]),
        ("second", "second", "second", None, True),
        ("second", cache, True, []),
    ]
    # A state has compared already.
    monkeypatch.setattr("_ispmail_compare.compare", lambda *_: pytest.fail("it is compared again"))
    calls.clear()
    postfix_map_change.apply(compared=compared[-1])
    assert [each[:1] for each in calls] == [("second",), ("second",)]
    # But by a library that a sync has replaced since then: its class is another one.
    monkeypatch.setattr("_ispmail_compare.compare", compare)
    postfix_map_change.apply("second", compared=type("Comparison", (), {})())
    assert len(compared) == 3 and [each[:1] for each in calls[2:]] == [("second",), ("second",)]
    for given in ("x", {}, 1):
        with pytest.raises(
            SaltInvocationError, match=r"^compared is for the state postfix_map\.managed: leave it out$"
        ):
            postfix_map_change.apply(compared=given)


@pytest.mark.parametrize(
    ("arguments", "given", "left"),
    [
        ({}, ("ispmail", None, False), True),
        ({"test": True}, ("ispmail", None, True), True),
        # Some maps are left, and the account is in use: nothing is left behind.
        ({"maps": ["virtual_alias_maps"]}, ("ispmail", ["virtual_alias_maps"], False), False),
        ({"pillar": "second"}, ("second", None, False), False),
    ],
)
def test_a_removal(on_minion, monkeypatch, tmp_path, files, arguments, given, left):
    """Of all maps leaves the option files: what logs in by them is told."""
    on_minion(postfix_map_change, **files)
    calls = []

    def remove(instance, maps, cache, test, directories):
        calls.append((instance.pillar_key, maps, cache, test, directories))
        return DONE

    monkeypatch.setattr("_ispmail_remove.remove", remove)
    told = postfix_map_change.remove(**arguments)
    more = [f"{tmp_path}/web.cnf was left, because webmail logs in by it: delete it when nothing names it any more"]
    assert told == {**TOLD, "warnings": ["first", *(more if left else [])]}
    assert calls == [(*given[:2], str(tmp_path / "cache"), given[2], ["/etc/postfix"])]


def test_errors_are_salts(on_minion, monkeypatch, files):
    on_minion(postfix_map_change)
    for function in (postfix_map_change.apply, postfix_map_change.remove):
        with pytest.raises(SaltInvocationError, match="pillar is empty"):
            function()
    on_minion(postfix_map_change, **files)
    for callee in ("_ispmail_compare.compare", "_ispmail_remove.remove"):
        monkeypatch.setattr(callee, fails(Failed("Nothing was changed")))
    for function in (postfix_map_change.apply, postfix_map_change.remove):
        with pytest.raises(CommandExecutionError, match="Nothing was changed"):
            function()
