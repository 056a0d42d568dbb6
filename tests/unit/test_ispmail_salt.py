"""The edge: the library's errors become Salt's two, the shape of a state, and pillar with its sdb:// URIs."""

import functools
import inspect
import json

import pytest
import salt.config
from salt.exceptions import CommandExecutionError, SaltInvocationError

import _ispmail_salt
from _ispmail_errors import (
    CannotAsk,
    ChangedMeanwhile,
    DatabaseError,
    Failed,
    Fault,
    InvalidInput,
    NotPutBack,
    PillarFault,
)


@pytest.mark.parametrize(
    ("error", "becomes"),
    [
        (InvalidInput("no"), SaltInvocationError),
        (PillarFault("ispmail", [Fault("database", "no")]), SaltInvocationError),
        (Failed("no"), CommandExecutionError),
        (CannotAsk("no"), CommandExecutionError),
        (ChangedMeanwhile("no"), CommandExecutionError),
        (NotPutBack("no"), CommandExecutionError),
        (DatabaseError("no", 1045), CommandExecutionError),
    ],
)
def test_errors_become_salts_two(error, becomes):
    with pytest.raises(becomes) as caught, _ispmail_salt.salt_errors():
        raise error
    assert str(caught.value) == str(error)
    assert caught.value.__cause__ is None, "the cause's text would be in Salt's traceback"


def test_other_errors_pass():
    with pytest.raises(ZeroDivisionError), _ispmail_salt.salt_errors():
        raise ZeroDivisionError


ODD, SHOWN = "caf\udce9", "caf\ufffd"


def test_what_a_function_returns_and_raises_can_be_sent():
    """A byte that is not UTF-8 is kept as a surrogate: with one in it nothing can be sent to a master, or printed."""

    @_ispmail_salt.for_salt
    def function(value, error=None):
        """Its docstring."""
        if error:
            raise error(value)
        return {value: {"old": [value, 1, None], "new": (value, True)}}

    assert function(ODD) == {SHOWN: {"old": [SHOWN, 1, None], "new": (SHOWN, True)}}
    # JSON in pillar may have any surrogate.
    assert function("\ud800") == function("\ufffd")
    for error, becomes in ((InvalidInput, SaltInvocationError), (Failed, CommandExecutionError)):
        with pytest.raises(becomes, match=SHOWN):
            function(ODD, error)
    # Salt reads its documentation and arguments.
    assert function.__doc__ == "Its docstring." and list(inspect.signature(function).parameters) == ["value", "error"]


def test_what_a_state_tells_can_be_sent():
    done = {"changes": {ODD: {"old": ODD, "new": None}}, "warnings": [ODD]}
    ret = _ispmail_salt.state("x", False, lambda: done, lambda _: ODD)
    assert ret["changes"] == {SHOWN: {"old": SHOWN, "new": None}} and ret["comment"] == f"{SHOWN}\nwarning: {SHOWN}"
    assert _ispmail_salt.check_state("x", "fine", lambda: ODD)["comment"] == SHOWN

    def fail():
        raise CommandExecutionError(ODD)

    assert _ispmail_salt.state("x", False, fail, describe)["comment"] == SHOWN
    assert _ispmail_salt.check_state("x", "fine", fail)["comment"] == SHOWN


def describe(done):
    return f"{len(done['changes'])} changes"


STATES = [
    ({"changes": {}}, False, (True, "0 changes")),
    ({"changes": {}}, True, (True, "0 changes")),
    ({"changes": {"a": 1}}, False, (True, "1 changes")),
    ({"changes": {"a": 1}}, True, (None, "1 changes")),
    ({"changes": {}, "warnings": ["x", "y"]}, False, (True, "0 changes\nwarning: x\nwarning: y")),
]


@pytest.mark.parametrize(("done", "test", "expected"), STATES)
def test_the_shape_of_a_state(done, test, expected):
    ret = _ispmail_salt.state("a sentence", test, lambda: done, describe)
    assert ret == {"name": "a sentence", "changes": done["changes"], "result": expected[0], "comment": expected[1]}


@pytest.mark.parametrize("error", [SaltInvocationError("no"), CommandExecutionError("no")])
def test_a_failure_is_in_the_comment_and_nothing_has_changed(error):
    def act():
        raise error

    failed = {"name": "x", "changes": {}, "result": False, "comment": "no"}
    assert _ispmail_salt.state("x", False, act, describe) == failed
    assert _ispmail_salt.check_state("x", "fine", act) == failed


def test_a_state_that_only_looks():
    right = {"name": "x", "changes": {}, "result": True, "comment": "fine"}
    assert _ispmail_salt.check_state("x", "fine", lambda: None) == right
    assert _ispmail_salt.check_state("x", "fine", lambda: "not fine") == {
        "name": "x",
        "changes": {},
        "result": False,
        "comment": "not fine",
    }


@pytest.mark.parametrize(
    ("pillar", "said"),
    [
        ({"other": 1}, "^pillar has no ispmail: at least ispmail:database:password is needed"),
        ({}, r"^pillar is empty \(salt-ssh gives it to states only\): at least ispmail:database:password is needed"),
        ({"_errors": ["x"]}, r"it could not be rendered: see the log of the master"),
    ],
)
def test_pillar_without_our_key(pillar, said):
    with pytest.raises(InvalidInput, match=said):
        _ispmail_salt.section(pillar, "ispmail")


@pytest.mark.parametrize(
    ("pillar", "key"),
    [
        ({"mail": {"mx": {"maps": {}}}}, "mail:mx"),
        # As YAML reads 2025: in an SLS.
        ({2025: {"maps": {}}}, "2025"),
        ({2025: {"mx": {"maps": {}}}}, "2025:mx"),
    ],
)
def test_a_pillar_key_is_found_as_salt_finds_it(pillar, key):
    assert _ispmail_salt.section(pillar, key) == {"maps": {}}


@pytest.mark.parametrize("key", [None, 5, ["ispmail"], {"a": 1}])
def test_the_pillar_key_is_a_text(key):
    with pytest.raises(InvalidInput, match="the name of a pillar key"):
        _ispmail_salt.section({"ispmail": {}}, key)


def test_sdb_is_looked_up_and_its_errors_tell_no_secret(monkeypatch):
    def get(uri, opts, utils, strict):
        if uri == "sdb://a/broken":
            raise RuntimeError("token=SECRET")
        return {"sdb://a/good": "value"}.get(uri)

    monkeypatch.setattr(_ispmail_salt.salt.utils.sdb, "sdb_get", get)
    section = {"database": {"password": "sdb://a/good", "user": "sdb://a/broken", "hosts": ["sdb://a/none"]}}
    with pytest.raises(PillarFault) as caught:
        _ispmail_salt.complete({"ispmail": section}, {}, "ispmail")
    text = str(caught.value)
    assert "ispmail:database:user could not be read from sdb (RuntimeError): check the sdb profile" in text
    assert "ispmail:database:hosts:0 is not there in sdb: store it under that name" in text
    assert "SECRET" not in text and "database:password" not in text


def test_what_sdb_does_not_have_is_told_once():
    """It was told as a missing password, or as an empty name, too."""
    section = {"database": dict.fromkeys(("user", "password", "dbname"), "sdb://none/x")}
    section["database"]["hosts"] = ["sdb://none/x"]
    keys = ["database:user", "database:password", "database:dbname", "database:hosts:0"]
    readers = [_ispmail_salt.complete, lambda *args: _ispmail_salt.database(*args, password_needed=True)]
    for read in readers:
        for more in ({}, {"consumers": {"dovecot": {}}}):
            with pytest.raises(PillarFault) as caught:
                read({"ispmail": {**section, **more}}, {}, "ispmail")
            assert [fault.key for fault in caught.value.faults] == keys


def test_an_instance_that_pillar_does_not_have_is_told_with_the_key_that_names_it():
    pillar = {"ispmail": mail(instances=["out", "a", "b"]), "out": mail(postfix=OUT)}
    fault = (
        "^Pillar has errors, nothing was changed:\n- {}:instances names what pillar does not have: a, b: write these"
    )
    for read in (
        _ispmail_salt.instance,
        _ispmail_salt.instances,
        lambda *args: _ispmail_salt.wanted(args[0], {}, args[1]),
    ):
        with pytest.raises(PillarFault, match=fault.format("ispmail")):
            read(pillar, "ispmail")
    with pytest.raises(PillarFault, match=fault.format("ispmail")):
        _ispmail_salt.instance(pillar, "out")
    with pytest.raises(
        PillarFault, match=r"does not have \(it could not be rendered: see the log of the master\): a, b"
    ):
        _ispmail_salt.instance({**pillar, "_errors": ["x"]}, "ispmail")


@pytest.mark.parametrize("name", [1, "a b", 1 << 20000], ids=["a number", "a text", "a huge number"])
def test_a_map_without_a_name_has_its_faults_at_its_own_key(name):
    """They were told at a key that pillar does not have, maps:unnamed."""
    shown = "1" if name == 1 else "(a key that is not shown)"
    for entry, keys in (({}, ["", ":query"]), ({"query": "SELECT a FROM b WHERE c='%s'", "user": 5}, ["", ":user"])):
        with pytest.raises(PillarFault) as caught:
            _ispmail_salt.wanted({"ispmail": mail(maps={name: entry})}, {}, "ispmail")
        assert [fault.key for fault in caught.value.faults] == [f"maps:{shown}{key}" for key in keys]
    with pytest.raises(PillarFault) as caught:
        _ispmail_salt.wanted({"ispmail": mail(maps={"x": 5})}, {}, "ispmail")
    assert [fault.key for fault in caught.value.faults] == ["maps:x"]


@pytest.mark.parametrize(
    "found, reason",
    [
        ("SECRET\n", "ends with a newline in sdb: store it as a text of one line"),
        ("SECRET\r", "ends with a newline in sdb"),
        (8101.5, "is no text in sdb, but a number: store it"),
        (8101, "is no text in sdb, but a number: store it"),
        (True, "is no text in sdb, but true or false"),
        ({"SECRET": "SECRET"}, "is no text in sdb, but a mapping"),
        ([5], "is no text in sdb, but a list"),
        (b"SECRET", "is no text in sdb, but something else"),
        ("-----BEGIN PGP MESSAGE----- SECRET", "is an encrypted text, not what it stands for: have pillar decrypt it"),
        ("$ANSIBLE_VAULT;1.1;AES256 SECRET", "is an encrypted text, not what it stands for"),
    ],
)
def test_what_sdb_holds_that_is_no_password(monkeypatch, found, reason):
    """The fault spoke of YAML, or the text became the password."""
    monkeypatch.setattr(_ispmail_salt.salt.utils.sdb, "sdb_get", lambda *_: found)
    with pytest.raises(PillarFault) as caught:
        _ispmail_salt.complete({"ispmail": {"database": {"password": "sdb://a/b"}}}, {}, "ispmail")
    assert f"ispmail:database:password {reason}" in str(caught.value)
    assert "SECRET" not in str(caught.value) and "8101" not in str(caught.value)


def test_the_directories_that_pillar_names():
    pillar = {"ispmail": {"instances": ["other"]}, "other": {"postfix": {"config_directory": "/etc/postfix-x"}}}
    assert list(_ispmail_salt.named_directories(pillar)) == ["/etc/postfix", "/etc/postfix-x"]
    assert list(_ispmail_salt.named_directories({})) == []


def mail(**sections):
    return {"database": {"password": "x"}, **sections}


OUT = {"config_directory": "/etc/postfix-out"}


@pytest.mark.parametrize(
    ("pillar", "fault"),
    [
        (
            {"ispmail": mail(consumers={"a": {"option_file": "/etc/../etc/postfix/mariadb-virtual-alias-maps.cf"}})},
            "consumers:a:option_file is the file of ispmail:maps:virtual_alias_maps too: choose another file",
        ),
        (
            {
                "ispmail": mail(instances=["out"], consumers={"dovecot": {}}),
                "out": mail(postfix=OUT, consumers={"dovecot": {}}),
            },
            "consumers:dovecot:option_file is the file of out:consumers:dovecot too: a program that serves all",
        ),
        (
            {
                "ispmail": mail(instances=["out"], consumers={"a": {"option_file": "LINK/a.cnf"}}),
                "out": mail(postfix=OUT, consumers={"b": {"option_file": "FOLDER/a.cnf"}}),
            },
            "consumers:a:option_file is the file of out:consumers:b too",
        ),
        (
            {"ispmail": mail(consumers={"a": {"option_file": "LINK/a.cnf"}, "b": {"option_file": "FOLDER/a.cnf"}})},
            "consumers:b:option_file is the file of ispmail:consumers:a too: choose another file",
        ),
    ],
    ids=["a map and a consumer", "Dovecot in two instances", "consumers of two instances", "of one instance"],
)
def test_two_owners_of_one_option_file_are_refused(pillar, fault, tmp_path):
    """Each apply would undo what the other one wrote. Asking and removing go on."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    text = json.dumps(pillar).replace("LINK", f"{tmp_path}/link").replace("FOLDER", f"{tmp_path}/folder")
    pillar = json.loads(text)
    with pytest.raises(PillarFault, match=f"- ispmail:{fault}"):
        _ispmail_salt.wanted(pillar, {}, "ispmail")
    assert _ispmail_salt.instance(pillar, "ispmail").wanted


def test_what_is_wrong_with_another_instances_consumers_is_told_there():
    pillar = {
        "ispmail": mail(instances=["out"], consumers={"dovecot": {}}),
        "out": mail(postfix=OUT, consumers={"dovecot": {"mode": "0777"}}),
    }
    assert _ispmail_salt.wanted(pillar, {}, "ispmail")[1].with_option_file
    with pytest.raises(PillarFault, match="out:consumers:dovecot:mode"):
        _ispmail_salt.wanted(pillar, {}, "out")


NAMES = ("virtual_mailbox_domains", "virtual_alias_maps", "virtual_mailbox_maps", "relay_domains")


@pytest.mark.parametrize(("key", "other"), [("ispmail", "out"), ("out", "ispmail")])
def test_two_instances_of_one_directory_are_refused(key, other, tmp_path):
    """Each apply would undo what the other one wrote."""
    (tmp_path / "link").symlink_to(tmp_path)
    pillar = {
        "ispmail": mail(
            instances=["out"],
            postfix={"config_directory": str(tmp_path)},
            maps={"relay_domains": {"query": "SELECT 1 FROM a WHERE b='%s'"}},
        ),
        "out": mail(
            postfix={"config_directory": f"{tmp_path}/link"},
            maps={"relay_domains": {"query": "SELECT 1 FROM a WHERE b='%s'"}},
        ),
    }
    with pytest.raises(PillarFault) as caught:
        _ispmail_salt.instance(pillar, key)
    with pytest.raises(PillarFault) as caught_by_an_apply:
        _ispmail_salt.wanted(pillar, {}, key)
    assert str(caught_by_an_apply.value) == str(caught.value)
    assert str(caught.value).splitlines() == [
        "Pillar has errors, nothing was changed:",
        f"- {key}:postfix:config_directory is the one of {other} too: each instance needs its own",
        *(f"- {key}:maps:{name}:file is the file of {other}:{name} too: each map needs its own" for name in NAMES),
    ]
    pillar["out"]["postfix"] = OUT
    assert list(_ispmail_salt.instances(pillar, "ispmail")) == ["ispmail", "out"]


@pytest.mark.parametrize("pillar", [{"mail": mail()}, {"ispmail": mail(), "mail": mail()}])
def test_keys_that_do_not_name_each_other_are_of_different_servers(pillar):
    assert list(_ispmail_salt.instances(pillar, "mail")) == ["mail"]
    assert all(_ispmail_salt.wanted(pillar, {}, key)[0].maps for key in pillar)


@pytest.mark.parametrize("section", ["a text", 5, ["x"]])
@pytest.mark.parametrize("read", [_ispmail_salt.wanted, _ispmail_salt.database])
def test_a_section_that_is_no_mapping_is_a_fault(section, read):
    with pytest.raises(PillarFault, match=r"^Pillar has errors, nothing was changed:\n- ispmail: must be a mapping"):
        read({"ispmail": section}, {}, "ispmail")


@pytest.mark.parametrize(
    ("section", "found", "key"),
    [
        ({"preset": "sdb://a/b"}, "postfixadmin", "preset"),
        ({"instances": "sdb://a/b"}, ["out"], "instances"),
        ({"instances": ["sdb://a/b"]}, "out", "instances"),
        ({"watch": {"textfile": "sdb://a/b"}}, "/var/lib/x.prom", "watch:textfile"),
        ({"postfix": {"config_directory": "sdb://a/b"}}, "/etc/postfix-x", "postfix:config_directory"),
        (
            {"maps": {"x": {"parameter": "sdb://a/b", "query": "SELECT a FROM b WHERE c='%s'"}}},
            "virtual_alias_maps",
            "maps:x:parameter",
        ),
        ({"maps": {"x": {"type": "sdb://a/b", "query": "SELECT a FROM b WHERE c='%s'"}}}, "pgsql", "maps:x:type"),
        ({"maps": {"x": {"file": "sdb://a/b", "query": "SELECT a FROM b WHERE c='%s'"}}}, "x.cf", "maps:x:file"),
        ({"maps": {"x": {"proxy": "sdb://a/b", "query": "SELECT a FROM b WHERE c='%s'"}}}, True, "maps:x:proxy"),
        ({"maps": {"x": "sdb://a/b"}}, {}, "maps:x"),
        ({"maps": "sdb://a/b"}, {}, "maps"),
        ({"database": "sdb://a/b"}, {}, "database"),
        ({"history": "sdb://a/b"}, 5, "history"),
        *(
            ({"rotation": {key: "sdb://a/b"}}, "25%", f"rotation:{key}")
            for key in ("batch", "drain", "method", "max_age")
        ),
    ],
)
def test_which_maps_there_are_is_not_in_sdb(monkeypatch, section, found, key):
    """Else an apply would take what a removal, a status and another instance refuse, as they do not look it up."""
    monkeypatch.setattr(_ispmail_salt.salt.utils.sdb, "sdb_get", lambda *_: found)
    # Nor is it looked up: what is not there in sdb, or of another kind, is told as the same.
    for function in (_ispmail_salt.instance, lambda pillar, key: _ispmail_salt.wanted(pillar, {}, key)):
        with pytest.raises(
            PillarFault, match=f"^[^-]*- ispmail:{key} is a URI of sdb, and is not looked up here[^-]*$"
        ):
            function({"ispmail": {"database": {"password": "x"}, **section}, "out": mail()}, "ispmail")


NO_KEY = "sdb://none/of_the_admin"


def test_a_mail_server_needs_no_key_to_the_admins_login():
    """What it cannot look up is a fault where it is needed, and only there. A wrong kind is one everywhere."""
    pillar = {"ispmail": mail(server={"password": NO_KEY})}
    assert _ispmail_salt.complete(pillar, {}, "ispmail").maps
    assert _ispmail_salt.scope(pillar, OPTS, "ispmail", as_admin=False).database.password == "x"
    for read in (_ispmail_salt.database, functools.partial(_ispmail_salt.scope, as_admin=True)):
        with pytest.raises(PillarFault, match="ispmail:server:password could not be read from sdb"):
            read(pillar, OPTS, "ispmail")
    with pytest.raises(PillarFault) as caught:
        _ispmail_salt.wanted({"ispmail": mail(server=5, answers=5)}, {}, "ispmail")
    assert {fault.key for fault in caught.value.faults} == {"server", "answers"}


OPTS = {"cachedir": "/c", "conf_file": "/etc/salt/minion", "pillar_roots": {"base": ["/p"], "dev": ["/d", "/e"]}}


def test_the_database_servers_side():
    """Whatever else is wrong with pillar; whether the password is needed is the caller's to say."""
    pillar = {
        "ispmail": {"database": {"user": "u"}, "server": {"known_accounts": ["k"]}, "maps": {"a": {"user": NO_KEY}}}
    }
    found = _ispmail_salt.database(pillar, {}, "ispmail")
    assert (found.user, found.password, found.known_accounts) == ("u", None, ("k",))
    with pytest.raises(PillarFault, match="ispmail:database:password is missing or empty"):
        _ispmail_salt.database(pillar, {}, "ispmail", password_needed=True)
    assert _ispmail_salt.accounts(pillar, {}, "ispmail") == ("u",)


def test_two_accounts_stand_for_one():
    """Their names may be in sdb; and where they cannot be a pair, pillar's own is left."""
    pair = {"database": {"user": "u_b"}, "rotation": {"method": "two_accounts"}}
    assert _ispmail_salt.accounts({"ispmail": pair}, {}, "ispmail") == ("u_b", "u_a")
    assert _ispmail_salt.database({"ispmail": pair}, {}, "ispmail").other == "u_a"
    pair["database"]["user"] = "u"
    assert _ispmail_salt.accounts({"ispmail": pair}, {}, "ispmail") == ("u",)
    assert _ispmail_salt.accounts({"ispmail": [pair]}, {}, "ispmail") == ("mailserver",)
    with pytest.raises(PillarFault, match="ispmail:rotation:accounts is missing"):
        _ispmail_salt.scope({"ispmail": {**mail(), **pair}}, OPTS, "ispmail", as_admin=False)


@pytest.mark.parametrize("found", [None, "u\n", 5, RuntimeError("SECRET"), "u"])
def test_a_user_that_cannot_be_looked_up_is_nobody(monkeypatch, found):
    def get(*_):
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(_ispmail_salt.salt.utils.sdb, "sdb_get", get)
    pillar = {"ispmail": {"database": {"user": "sdb://a/user"}}}
    assert _ispmail_salt.accounts(pillar, {}, "ispmail") == ("u" if found == "u" else "",)


@pytest.mark.parametrize(("as_admin", "known"), [(True, ("k",)), (False, ())])
def test_the_account_and_all_that_may_use_it(as_admin, known):
    pillar = {
        "ispmail": {
            **mail(instances=["out"], server={"known_accounts": ["k"]}, consumers={"a": {"ignore": True}}),
            "database": {"user": "u"},
        },
        "out": mail(postfix=OUT, consumers={"b": {"option_file": "/b"}}),
    }
    found = _ispmail_salt.scope(pillar, OPTS, "ispmail", as_admin=as_admin)
    assert list(found.instances) == ["ispmail", "out"]
    assert (*found.accounts, found.database.password, found.database.known_accounts) == ("u", None, known)
    assert [each.name for each in found.each_consumer] == ["a", "b"] and found.names("/b")
    assert found.left_out == ("/c", "/etc/salt", "/p", "/d", "/e")
    assert found.cache == "/c/ispmail"
    without = {name: value for name, value in OPTS.items() if name != "pillar_roots"}
    assert _ispmail_salt.scope(pillar, without, "ispmail", as_admin=False).left_out == ("/c", "/etc/salt")


def test_sdb_itself(monkeypatch):
    """A profile that is not there is no missing entry: the fix is another one. A list of texts is a value too."""
    opts = {**salt.config.DEFAULT_MINION_OPTS, "environment": {"driver": "env"}}
    monkeypatch.setenv("ISPMAIL_PASSWORD", "from-sdb")
    section = {"database": {"password": "sdb://environment/ISPMAIL_PASSWORD", "hosts": "127.0.0.1"}}
    assert "password = from-sdb\n" in _ispmail_salt.complete({"ispmail": section}, opts, "ispmail").maps[0].text
    section["database"]["password"] = NO_KEY
    fault = r"ispmail:database:password could not be read from sdb \(SaltInvocationError\): check the sdb profile"
    with pytest.raises(PillarFault, match=fault):
        _ispmail_salt.complete({"ispmail": section}, opts, "ispmail")
    monkeypatch.setattr(_ispmail_salt.salt.utils.sdb, "sdb_get", lambda *_: ["db1", "db2"])
    section["database"] = {"password": "x", "hosts": "sdb://a/hosts"}
    assert "hosts = db1 db2\n" in _ispmail_salt.complete({"ispmail": section}, opts, "ispmail").maps[0].text


FOUND = {"second": {"database": {"hosts": "db.example"}, "postfix": {"config_directory": "/etc/postfix-out"}}}


@pytest.mark.parametrize(
    ("pillar", "key", "directory"),
    [
        (FOUND, "second", "/etc/postfix-out"),
        ({"second": {**FOUND["second"], "mapz": {}, "consumers": 5}}, "second", "/etc/postfix-out"),
        # Where pillar does not tell it, the history does. A misspelt key may be the one that tells it.
        ({"ispmail": {}}, "ispmail", "/etc/postfix"),
        ({"ispmail": {"mapz": {}, "maps": 5}}, "ispmail", "/etc/of-ispmail"),
        ({"ispmail": {"maps": {}, "posfix": FOUND["second"]["postfix"]}}, "ispmail", "/etc/of-ispmail"),
        ({"ispmail": {"maps": 5, "postfix": {"config_directory": "etc"}}}, "ispmail", "/etc/of-ispmail"),
        ({"ispmail": {"postfix": 5}}, "ispmail", "/etc/of-ispmail"),
        ({"_errors": ["Rendering SLS 'mail' failed"]}, "ispmail", "/etc/of-ispmail"),
        ({"_errors": ["Rendering SLS 'mail' failed"]}, "third", "/etc/of-third"),
    ],
)
def test_what_a_rollback_needs_is_read_whatever_else_is_wrong(pillar, key, directory):
    def known(pillar_key, cache_directory):
        assert cache_directory == "/cache"
        return [f"/etc/of-{pillar_key}"]

    instance, consumers, answers = _ispmail_salt.undoable(pillar, {"cachedir": "/cache"}, key, known)
    assert (instance.config_directory, instance.history, consumers.consumers, answers) == (directory, 5, (), ())
    assert consumers.keys["hosts"] == ("db.example" if key == "second" else "127.0.0.1")


@pytest.mark.parametrize("known", [[], ["/etc/a", "/etc/b"]], ids=len)
@pytest.mark.parametrize(
    ("pillar", "key", "reason"),
    [
        # The history of another Postfix would be undone.
        ({"ispmail": {"maps": 5, "postfix": {"config_directory": "etc"}}}, "ispmail", "config_directory must be an"),
        ({"ispmail": {"maps": 5, "postfix": {"config_dir": "/etc/x"}}}, "ispmail", "config_dir is not a key"),
        ({"ispmail": {"postfix": 5}}, "ispmail", "postfix must be a mapping"),
        ({"second": {"maps": {}, "posfix": FOUND["second"]["postfix"]}}, "second", "posfix is not a key"),
        ({"_errors": ["Rendering SLS 'mail' failed"]}, "second", "Pillar has errors"),
    ],
)
def test_which_postfix_is_rolled_back_is_not_guessed(pillar, key, reason, known):
    """Where neither pillar nor the history tells."""
    with pytest.raises(InvalidInput, match=reason) as raised:
        _ispmail_salt.undoable(pillar, {"cachedir": ""}, key, lambda *_: known)
    end = f"which Postfix it is: it knows {', '.join(known) or 'none'}: correct pillar"
    assert str(raised.value).endswith(end)


@pytest.mark.parametrize(
    ("pillar", "key", "reason"),
    [
        ({"second": 5}, "second", "must be a mapping"),
        ({"other": {}}, "ispmail", "pillar has no ispmail: "),
        ({"_errors": ["x"]}, 5, "must be the name of a pillar key"),
    ],
)
def test_pillar_of_nobody_is_not_rolled_back(pillar, key, reason):
    with pytest.raises(InvalidInput, match=reason):
        _ispmail_salt.undoable(pillar, {}, key, lambda *_: ["/etc/postfix"])
