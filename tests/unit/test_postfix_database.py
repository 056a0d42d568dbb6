"""The execution module `postfix_database`: whose server each function asks, and what it needs for that."""

import pytest
from salt.exceptions import CommandExecutionError, SaltInvocationError

import _ispmail_servers
from _ispmail_errors import DatabaseError
from _ispmail_holders import Holders, Site
from _modules import postfix_database

from .test_ispmail_reapply import fails

# A function, what it calls in the library, what that gets beside what pillar says, and whether a dry run is another.
CALLS = [
    ("read", "_ispmail_accounts.read", [], False),
    ("tables", "_ispmail_schema.create", [], True),
    ("account", "_ispmail_accounts.account", [], True),
    ("credential_accepted", "_ispmail_accounts.credential", ["accept"], True),
    ("credential_sole", "_ispmail_accounts.credential", ["sole"], True),
]
PILLAR = {"ispmail": {"database": {"password": "first"}}, "second": {"database": {"password": "other"}}}


@pytest.mark.parametrize(("name", "callee", "arguments", "has_test"), CALLS)
def test_a_function_asks_the_server_that_pillar_names(on_minion, monkeypatch, name, callee, arguments, has_test):
    """That of ispmail by default, and really; a dry run has to be asked for."""
    on_minion(postfix_database, **PILLAR)
    made = {"changes": {}}
    monkeypatch.setattr(callee, lambda config, *given: {**made, "given": [config.pillar_key, config.password, *given]})
    function = getattr(postfix_database, name)
    dry, real = ([True], [False]) if has_test else ([], [])
    assert function()["given"] == ["ispmail", "first", *arguments, *real]
    given = function(pillar="second", **({"test": True} if has_test else {}))["given"]
    assert given == ["second", "other", *arguments, *dry]


@pytest.mark.parametrize(("name", "callee", "arguments", "has_test"), CALLS)
def test_only_what_sets_a_password_needs_one(on_minion, monkeypatch, name, callee, arguments, has_test):
    """Else the account would get an empty one."""
    on_minion(postfix_database, ispmail={"server": {"host": "db"}})
    monkeypatch.setattr(callee, lambda *_: {"changes": {}})
    function = getattr(postfix_database, name)
    if name in ("read", "tables"):
        assert function() == {"changes": {}}
    else:
        with pytest.raises(SaltInvocationError, match="ispmail:database:password is missing or empty"):
            function()


@pytest.mark.parametrize(("name", "callee", "arguments", "has_test"), CALLS)
def test_a_server_that_refuses_is_an_error_of_salts(on_minion, monkeypatch, name, callee, arguments, has_test):
    on_minion(postfix_database, **PILLAR)
    monkeypatch.setattr(callee, fails(DatabaseError("error 1045", 1045)))
    with pytest.raises(CommandExecutionError, match="error 1045"):
        getattr(postfix_database, name)()


SECTIONS = {
    "ispmail": {"instances": ["second"], "consumers": {"dovecot": {}}},
    "second": {"postfix": {"config_directory": "/etc/postfix-second"}},
}


def test_refused_logins_are_those_of_all_instances_and_their_consumers(on_minion, monkeypatch):
    """It needs no password: those in the files are tried."""
    on_minion(postfix_database, **SECTIONS)
    asked = []
    monkeypatch.setattr("_ispmail_logins.refused", lambda *given: asked.append(given) or ["said"])
    assert postfix_database.refused() == ["said"]
    found, main, consumers = asked[0]
    assert list(found) == ["ispmail", "second"] and main == "ispmail"
    assert [[one.name for one in each.consumers] for each in consumers] == [["dovecot"], []]
    postfix_database.refused("second")
    assert asked[1][1] == "second"


def test_holders_are_looked_for_in_the_scope_of_pillar(on_minion, monkeypatch):
    on_minion(postfix_database, **SECTIONS)
    calls = []

    def find(scope, *given):
        calls.append((list(scope.instances), *given))
        return Holders(notes=["found"])

    monkeypatch.setattr("_ispmail_holders.find", find)
    assert postfix_database.holders() == {"unnamed": [], "notes": ["found"]}
    postfix_database.holders(["192.0.2.1"], "old", "second", ["192.0.2.2:40000"])
    assert calls == [
        (["ispmail", "second"], None, "all", ()),
        (["second"], Site(["192.0.2.1"], _ispmail_servers._listed), "old", ["192.0.2.2:40000"]),
    ]


@pytest.mark.parametrize(("name", "callee"), [("account", "account"), ("credential_accepted", "credential")])
def test_when_the_account_got_a_password_is_written_down(on_minion, monkeypatch, tmp_path, name, callee, caplog):
    """A PostgreSQL does not keep it. Other changes, and dry runs, are no new password."""
    on_minion(postfix_database, **PILLAR)
    change = {"grants": {"old": [], "new": []}}
    monkeypatch.setattr(f"_ispmail_accounts.{callee}", lambda *_: {"changes": {"u": change}, "warnings": []})
    function, noted = getattr(postfix_database, name), tmp_path / "cache" / "ispmail" / "password-second"
    function("second")
    change["password"] = {"old": "***", "new": "***"}
    function("second", test=True)
    assert not noted.exists()
    assert function("second")["warnings"] == [] and noted.exists()
    noted.unlink()
    noted.parent.rmdir()
    noted.parent.write_text("")
    assert function("second")["changes"] and "how old the password is may not be known" in caplog.text
