"""What a job can call: no function gives out a secret, reads a file of the caller's choice, or writes to one."""

import os

import pytest

from lab.minion import Minion

from ..conftest import PASSWORD
from .test_apply import managed

MODULES = ("postfix_map", "postconf", "postfix_database", "postfix_doctor", "ispmail")
# In files and rows that are not the table files' password.
CANARY = "canary-Tq8Zk3"
SECRETS = (PASSWORD, PASSWORD.replace("\\", "\\\\"), CANARY)
RELAY = "[relay.example]"
# What an admin would give for the arguments that are not the hostile one.
USUAL = {"map": "virtual_alias_maps", "question": "jack@example.org", "nonce": "0123456789abcdef", "parameters": {}}


@pytest.fixture
def doors(minion: Minion, postfix, pillar, mariadb):
    """A server with a relay's password in a file, and another in the database; and paths that a caller might name."""
    mariadb.sql(
        "INSERT INTO mailserver.virtual_aliases (domain_id, source, destination) VALUES (1, %s, %s)", RELAY, CANARY
    )
    relay = {
        "parameter": "smtp_sasl_password_maps",
        "query": "SELECT destination FROM virtual_aliases WHERE source='%s'",
    }
    sasl = postfix.config_directory / "sasl_passwd"
    sasl.write_text(f"{RELAY} user:{CANARY}\n")
    postfix.write_main_cf(smtp_sasl_password_maps=f"texthash:{sasl}")
    minion.pillar = pillar(maps={"relay": relay})
    assert managed(minion)["result"] is True
    evil = postfix.directory / "evil"
    evil.mkdir()
    victim = postfix.directory / "victim"
    victim.write_text(f"password = {CANARY}\n")
    (evil / "main.cf").symlink_to(victim)
    (evil / "master.cf").write_text("")
    yield {
        "table": str(postfix.config_directory / "mariadb-virtual-alias-maps.cf"),
        "relay": str(postfix.config_directory / "mariadb-relay.cf"),
        "sasl": str(sasl),
        "victim": str(victim),
        "evil": str(evil),
    }
    mariadb.sql("DELETE FROM mailserver.virtual_aliases WHERE source = %s", RELAY)


def hostile(doors):
    """Each path, alone and as a table; other tables that postmap would open; texts and structures of all kinds."""
    paths = [doors["table"], doors["relay"], doors["sasl"], doors["victim"], doors["evil"]]
    found = [*paths, *(f"{kind}:{path}" for kind in ("texthash", "proxy:texthash", "regexp") for path in paths)]
    found += [f"mysql:{doors['victim']}", f"mysql:{os.path.dirname(doors['table'])}/./mariadb-virtual-alias-maps.cf"]
    found += ["unionmap:{texthash:" + doors["sasl"] + "}", "inline:{{a=b}}", "../victim", "-e", "", "a\nb", "ispmail:x"]
    return [*found, *([path] for path in paths), {doors["table"]: doors["table"]}, 5]


def watched(postfix):
    """Every file of the instance's directory, but for its queue: path to mode, owner and content."""
    found = {}
    for path in postfix.directory.rglob("*"):
        if path.is_file() and postfix.queue_directory not in path.parents and not path.name.endswith((".log", ".lock")):
            status = path.stat()
            found[str(path)] = (status.st_mode, status.st_uid, status.st_gid, path.read_bytes())
    return found


def returned(call, function, **arguments):
    """What a function returned, or what it raised, as a text."""
    try:
        return repr(call(function, **arguments))
    except Exception as err:  # whatever it is: its text is looked at
        return f"{type(err).__name__}: {err}"


# Whether it is a dry run is no door; a width is of no meaning to a server.
HARMLESS = ("test", "width", "live", "defaults")


@pytest.mark.parametrize("module", MODULES)
def test_no_hostile_argument_opens_a_door(minion, postfix, doors, module):
    """Every argument of every function, each with every hostile value; none is a dry run."""
    call = minion.caller()
    before = watched(postfix)
    specs = call("sys.argspec", module)
    assert specs
    for function, spec in specs.items():
        names = [name for name in spec["args"] or [] if name not in HARMLESS]
        usual = {name: USUAL[name] for name in names if name in USUAL}
        for name in names:
            for value in hostile(doors):
                said = returned(call, function, **{**usual, name: value})
                assert not [secret for secret in SECRETS if secret in said], (function, name, value)
                assert watched(postfix) == before, (function, name, value)


def test_lookup_opens_only_what_pillar_or_main_cf_names(minion, doors):
    """`postfix_map.lookup texthash:… password` gave out the database's password."""

    def ask(table, question="password"):
        return returned(minion.call, "postfix_map.lookup", map=table, question=question)

    refused = "that is not the name of a map in pillar, nor an SQL table"
    assert refused in ask(f"texthash:{doors['table']}")
    # main.cf names this one; it is no SQL table.
    assert refused in ask(f"texthash:{doors['sasl']}", RELAY)
    assert "'answer': 'john@example.org'" in ask(f"mysql:{doors['table']}", "jack@example.org")


def test_passwords_of_a_relay_are_never_an_answer(minion, doors):
    for table in ("relay", f"mysql:{doors['relay']}"):
        said = minion.call("postfix_map.lookup", table, RELAY)
        assert said == {"result": "answer", "answer": "***", "warnings": []}
    wrong = minion.pillar
    wrong["ispmail"]["answers"] = [{"map": "relay", "question": RELAY, "answer": "other-Secret1"}]
    minion.pillar = wrong
    (said,) = minion.call("postfix_map.answers")
    assert said == f"relay: {RELAY} should give ***, but gives ***"


def test_a_directory_of_the_callers_choice_is_no_instance(minion, postfix, doors):
    """postconf.set edited any file that a main.cf there was a link to."""
    for function, parameters in (("set", {"a": "b"}), ("unset", ["a"]), ("get", ["password"])):
        said = returned(minion.call, f"postconf.{function}", parameters=parameters, config_directory=doors["evil"])
        assert "config_directory must be /etc/postfix, one that pillar names" in said
    assert minion.call("postconf.get", "smtp_sasl_password_maps", str(postfix.config_directory))


def test_there_are_few_functions(minion):
    """Whatever is a function here is a job that a narrow ACL may reach."""
    found = [function for module in MODULES for function in minion.call("sys.list_functions", module)]
    assert len(found) <= 25, found
    assert {function.partition(".")[0] for function in found} == set(MODULES)
