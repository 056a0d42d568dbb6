"""What a job can call: no function gives out a secret, reads a file of the caller's choice, or writes to one."""

import json
import os
import time
from pathlib import Path

import pytest

from lab.minion import Minion
from lab.postfix import write_cold

from ..conftest import PASSWORD
from .test_apply import managed

MODULES = ("postfix_map", "postconf", "postfix_database", "postfix_doctor", "ispmail")
# In files and rows that are not the table files' password.
CANARY = "canary-Tq8Zk3"
SECRETS = (PASSWORD, PASSWORD.replace("\\", "\\\\"), CANARY)
RELAY = "[relay.example]"
# What is given for the arguments that are not the hostile one: what would open the door, were it not closed.
USUAL = {"map": "virtual_alias_maps", "nonce": "0123456789abcdef"}
QUESTIONS = ("password", RELAY)
PARAMETERS = {"get": ["password"], "set": {"password": "x"}}


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
    found += [f"mysql:{doors['victim']}", f"mysql:{os.path.dirname(doors['relay'])}/./mariadb-relay.cf"]
    found += ["unionmap:{texthash:" + doors["sasl"] + "}", "inline:{{a=b}}", "../victim", "-e", "", "a\nb", "ispmail:x"]
    return [*found, *([path] for path in paths), {doors["table"]: doors["table"]}, 5]


def watched(postfix, minion):
    """Every file that a call might change, but for queue and logs: path to mode, owner and content."""
    found = {}
    roots = (postfix.directory, minion.cache / "postfix_change", minion.cache / "ispmail", Path("/etc/postfix"))
    for path in (path for root in roots for path in root.rglob("*")):
        if path.is_file() and postfix.queue_directory not in path.parents and path.suffix != ".log":
            status = path.stat()
            found[str(path)] = (status.st_mode, status.st_uid, status.st_gid, path.read_bytes())
    return found


@pytest.fixture(scope="module")
def functions(scratch_directory):
    """Name of each public function to the names of its arguments."""
    # In processes of their own: they load all modules of Salt, and some of them leave other modules behind.
    minion = Minion(scratch_directory / "list")
    minion.command("saltutil.sync_all")
    done = [minion.command("--out=json", "sys.argspec", module) for module in MODULES]
    specs = {name: spec for one in done for name, spec in json.loads(one.stdout)["local"].items()}
    assert {name.partition(".")[0] for name in specs} == set(MODULES)
    return {name: spec["args"] or [] for name, spec in specs.items()}


def other_arguments(function, hostile_name, names):
    """The arguments beside the hostile one, in each way that matters."""
    given = {name: USUAL[name] for name in names if name in USUAL and name != hostile_name}
    if "parameters" in names and hostile_name != "parameters":
        given["parameters"] = PARAMETERS[function.partition(".")[2]]
    if "question" not in names or hostile_name == "question":
        return [given]
    return [{**given, "question": question} for question in QUESTIONS]


def returned(call, function, **arguments):
    """What a function returned, or what it raised, as a text."""
    try:
        return repr(call(function, **arguments))
    except Exception as err:  # whatever it is: its text is looked at
        return f"{type(err).__name__}: {err}"


# These arguments open no file: what they are is a truth value or a number.
HARMLESS = ("test", "width", "live", "defaults", "refresh", "notify")


def test_no_hostile_argument_opens_a_door(minion, postfix, doors, functions):
    """Every argument of every function, each with every hostile value; none is a dry run."""
    call = minion.caller()
    before = watched(postfix, minion)
    calls = 0
    for function, names in functions.items():
        for name in set(names) - set(HARMLESS):
            for value in hostile(doors):
                for others in other_arguments(function, name, names):
                    said = returned(call, function, **{**others, name: value})
                    assert not [secret for secret in SECRETS if secret in said], (function, name, value)
                    calls += 1
            assert watched(postfix, minion) == before, (function, name)
    assert calls > 1000


def test_lookup_opens_only_what_pillar_or_main_cf_names(minion, doors):
    """`postfix_map.lookup texthash:… password` gave out the database's password."""

    def ask(table, question="password"):
        return returned(minion.call, "postfix_map.lookup", map=table, question=question)

    refused = "that is not the name of a map in pillar, nor an SQL table"
    assert refused in ask(f"texthash:{doors['table']}")
    # main.cf names this one; it is no SQL table.
    assert refused in ask(f"texthash:{doors['sasl']}", RELAY)
    assert "'answer': 'john@example.org'" in ask(f"mysql:{doors['table']}", "jack@example.org")


SPELLINGS = {
    "plainly": {"smtp_sasl_password_maps": "mysql:{}"},
    "by another parameter too": {"smtp_sasl_password_maps": "mysql:{}", "zz_copy": "mysql:{}"},
    "by a parameter of its own": {"smtp_sasl_password_maps": "$relay_passwords", "relay_passwords": "mysql:{}"},
    "in braces": {"smtp_sasl_password_maps": "unionmap:{{mysql:{}}}", "zz_copy": "mysql:{}"},
    "through proxymap": {"lmtp_sasl_password_maps": "proxy:mysql:{}", "zz_copy": "mysql:{}"},
    "in master.cf": {"zz_copy": "mysql:{}"},
    "private keys": {"tls_server_sni_maps": "mysql:{}", "zz_copy": "mysql:{}"},
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_passwords_of_a_relay_are_never_an_answer(minion, postfix, doors, spelling):
    """However main.cf or master.cf name the table, and whatever pillar says that its parameter is."""
    parameters = {name: value.format(doors["relay"]) for name, value in SPELLINGS[spelling].items()}
    pillar = minion.pillar
    pillar["ispmail"]["maps"]["relay"]["parameter"] = "zz_copy"
    pillar["ispmail"]["answers"] = [{"map": "relay", "question": RELAY, "answer": "other-Secret1"}]
    minion.pillar = pillar
    postfix.write_main_cf(**parameters)
    if spelling == "in master.cf":
        option = f"smtp/unix/smtp_sasl_password_maps=mysql:{doors['relay']}"
        postfix.command("postconf", "-P", option)
    for table in ("relay", f"mysql:{doors['relay']}"):
        if table == "relay" or table in parameters.values():
            said = minion.call("postfix_map.lookup", table, RELAY)
            assert said == {"result": "answer", "answer": "***", "warnings": []}
    (said,) = minion.call("postfix_map.answers")
    assert said == f"relay: {RELAY} should give ***, but gives ***"


def test_answers_that_pillar_calls_secret_are_not_told(minion, postfix, doors):
    """Nobody but the admin knows that a map of a parameter of one's own gives passwords."""
    pillar = minion.pillar
    relay = {**pillar["ispmail"]["maps"]["relay"], "parameter": "zz_own", "file": "own.cf", "secret": True}
    pillar["ispmail"]["maps"] = {"own": relay}
    pillar["ispmail"]["answers"] = [{"map": "own", "question": RELAY, "answer": "other-Secret1"}]
    minion.pillar = pillar
    result = managed(minion)
    assert result["result"] is False and f"own: {RELAY} should give ***, but gives ***" in result["comment"]
    del pillar["ispmail"]["answers"]
    minion.pillar = pillar
    assert managed(minion)["result"] is True
    for table in ("own", f"mysql:{postfix.config_directory}/own.cf"):
        said = minion.call("postfix_map.lookup", table, RELAY)
        assert said == {"result": "answer", "answer": "***", "warnings": []}


def test_a_relays_password_is_not_told_before_the_first_apply(minion, postfix, doors):
    """main.cf refers to a parameter that is set with the map only: the comment of the first apply showed the answer."""
    pillar = minion.pillar
    pillar["ispmail"]["maps"]["relay"].update(parameter="relay_passwords", file="relay-passwords.cf")
    pillar["ispmail"]["answers"] = [{"map": "relay", "question": RELAY, "answer": "other-Secret1"}]
    minion.pillar = pillar
    postfix.write_main_cf(smtp_sasl_password_maps="$relay_passwords")
    result = managed(minion)
    assert result["result"] is False
    assert f"relay: {RELAY} should give ***, but gives ***" in result["comment"]


DAMAGED = {
    "no equals sign": "password {}",
    "a colon": "password: {}",
    "two words": "pass word = {}",
    "no name": "= {}",
    "twice": "password = {}\npassword = other",
    "continues a line": "  password = {}",
    "misspelt": "pasword = {}",
    "a number": "expansion_limit = {}",
}
LOOKING = {
    "postfix_map.read": {},
    "postfix_map.lookup": {"map": "virtual_alias_maps", "question": "jack@example.org"},
    "postfix_map.probe": {},
    "postfix_map.remove": {"test": True},
    "postfix_database.refused": {},
    "postconf.get": {"parameters": ["myhostname"]},
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_table_file_is_not_quoted(minion, postfix, damage):
    """Postfix quotes the line that it cannot read: the password was in every answer, and in the state's comment."""
    assert managed(minion)["result"] is True
    file = postfix.config_directory / "mariadb-virtual-alias-maps.cf"
    lines = [DAMAGED[damage].format(CANARY) if line.startswith("password") else line for line in
             file.read_text().splitlines()]  # fmt: skip
    write_cold(file, "\n".join([*lines, ""]), 0o640, "postfix")
    call = minion.caller()
    for function, arguments in LOOKING.items():
        place = {"config_directory": str(postfix.config_directory)} if function == "postconf.get" else {}
        assert CANARY not in returned(call, function, **arguments, **place), function
    if damage == "twice":
        assert CANARY not in returned(call, "postfix_doctor.check")
    assert CANARY not in managed(minion)["comment"]


@pytest.mark.parametrize("password", ["fatal", "postmap", "a", "1", ":", "t"])
def test_a_wrong_password_is_never_no_answer(minion, postfix, password):
    """What postmap said was redacted before it was read: the password "fatal" hid that it was refused."""
    assert managed(minion)["result"] is True
    file = postfix.config_directory / "mariadb-virtual-alias-maps.cf"
    lines = [f"password = {password}" if line.startswith("password") else line for line in file.read_text().split("\n")]
    write_cold(file, "\n".join(lines), 0o640, "postfix")
    said = minion.call("postfix_map.lookup", "virtual_alias_maps", "jack@example.org")
    assert said["result"] == "could not ask" and "Access denied" in said["reason"]
    # A mask in place of each "1" of an address would tell the password.
    assert "127.0.0.1" in said["reason"] and "***" not in said["reason"]
    assert minion.call("postfix_map.probe")


def test_passwords_in_main_cf_are_not_shown(minion, postfix):
    """Postfix lets a relay's password stand in main.cf itself, and the login of a table too."""
    inline = f"inline:{{{{{RELAY}=user:{CANARY}}}}}"
    postfix.write_main_cf(
        smtp_sasl_password_maps="static:x, $relay_passwords",
        relay_passwords=inline,
        mydb_password=CANARY,
        lmtp_sasl_password_maps=f"static:user:{CANARY}",
        virtual_alias_maps="pgsql:mytable",
        mytable_hosts=f"db, postgresql://u:{CANARY}@h/db",
    )
    directory = str(postfix.config_directory)
    for parameters in (None, ["mydb_password"], ["mytable_hosts"], ["relay_passwords", "smtp_sasl_password_maps"]):
        shown = minion.call("postconf.get", parameters, directory)
        assert CANARY not in repr(shown) and "***" in repr(shown)
    nothing = dict.fromkeys(["mydb_password", "lmtp_sasl_password_maps"])
    would = minion.call("postconf.set", nothing, directory, test=True)
    assert would == {
        "mydb_password": {"old": "***", "new": None},
        "lmtp_sasl_password_maps": {"old": "static:***", "new": None},
    }
    assert minion.call("postconf.get", "virtual_transport", directory) == {"virtual_transport": "discard:"}


@pytest.mark.parametrize(
    "holder, told, doubts",
    [
        ("static:user:CANARY", "static:***", ["randmap:***"]),
        ("regexp:{{/./ user:CANARY}}", "regexp:***", ["regexp:***", "randmap:***"]),
        (
            "pipemap:{static:x, pcre:{{/./ user:CANARY}}}",
            "pipemap:{static:***, pcre:***}",
            ["pcre:***", "randmap:***"],
        ),
    ],
)
def test_a_relays_password_in_main_cf_is_in_no_argument_and_not_shown(
    minion, postfix, pillar, audit, holder, told, doubts
):
    """Only static: and inline: were known, and postmap and postconf had the whole value as an argument."""
    held = f"{holder.replace('CANARY', CANARY)}, $relay_logins"
    postfix.write_main_cf(smtp_sasl_password_maps=held, relay_logins=f"randmap:{{user:{CANARY}}}")
    relay = {"parameter": "smtp_sasl_password_maps", "query": "SELECT '%s' FROM virtual_aliases"}
    minion.pillar = pillar(maps={"relay": relay})
    directory = str(postfix.config_directory)
    with audit() as seen:
        done = [managed(minion, test=True), managed(minion)]
        done += [minion.call("postconf.get", None, directory), minion.call("postfix_doctor.check")]
        done += [minion.call("postfix_map.history"), minion.call("postfix_map.remove", ["relay"], test=True)]
        done += [minion.call("postconf.set", {"relay_logins": f"static:{CANARY}"}, directory)]
        done += [minion.call("postfix_map.rollback", test=True)]
        done += [minion.call("postfix_map.remove", ["relay"])]
    changed = done[0]["changes"]["main.cf"]["smtp_sasl_password_maps"]
    assert changed["old"] == f"{told}, $relay_logins" and changed["new"].startswith(f"{told}, $relay_logins, mysql:")
    assert done[1]["result"] is True and CANARY not in repr(done)
    assert CANARY not in repr(seen.commands) and len(seen.commands) > 10
    main_cf = postfix.main_cf.read_text()
    assert f"smtp_sasl_password_maps = {held}\n" in main_cf and f"relay_logins = static:{CANARY}\n" in main_cf
    rows = [row for row in done[3] if row["check"] == "tables of others can be asked"]
    assert [row["result"] for row in rows] == ["ok", *["warning"] * len(doubts)]
    for row, doubt in zip(rows[1:], doubts):
        assert f"whether Postfix can ask {doubt} in smtp_sasl_password_maps could not be told" in row["fix"]
        assert row["fix"].partition(":")[0] in " ".join(done[1]["comment"].split())


def test_a_fifo_in_place_of_a_table_file_holds_nobody_up(minion, postfix):
    path = postfix.config_directory / "mariadb-virtual-alias-maps.cf"
    os.mkfifo(path)
    began = time.monotonic()
    for function in ("postfix_map.read", "postfix_map.apply", "postfix_database.refused"):
        assert "is no regular file" in returned(minion.call, function)
    assert time.monotonic() - began < 10


def test_the_keys_of_other_pillars_are_not_shown(minion):
    pillar = minion.pillar
    pillar["tokens"] = {"ghp4411AAbbCC": 1}
    minion.pillar = pillar
    said = returned(minion.call, "postfix_map.read", pillar="tokens")
    assert "tokens: holds nothing of ispmail" in said and "ghp4411AAbbCC" not in said


def test_a_directory_of_the_callers_choice_is_no_instance(minion, postfix, doors):
    """postconf.set edited any file that a main.cf there was a link to."""
    for function, parameters in (("set", {"a": "b"}), ("set", {"a": None}), ("get", ["password"])):
        said = returned(minion.call, f"postconf.{function}", parameters=parameters, config_directory=doors["evil"])
        assert "config_directory must be /etc/postfix, one that pillar names" in said
    assert minion.call("postconf.get", "smtp_sasl_password_maps", str(postfix.config_directory))


def test_there_are_few_functions(functions):
    """Whatever is a function here is a job that a narrow ACL may reach."""
    assert len(functions) <= 25
