"""postfix_map beside the apply: read, lookup, remove, answers, and maps of other kinds."""

import contextlib
import json
import os
import sqlite3
from pathlib import Path

import pytest
import salt.payload
import yaml
from salt.exceptions import CommandExecutionError

import _ispmail_tablefile
from lab import scratch
from lab.minion import REPOSITORY, Minion
from lab.postfix import Postfix, write_cold

from ..conftest import PASSWORD
from .test_apply import ANSWERED, GUIDES, contents, managed, replies


def test_lookup_tells_three_results_apart(minion, pillar):
    managed(minion)

    def ask(question):
        return minion.call("postfix_map.lookup", "virtual_alias_maps", question)

    assert ask("jack@example.org") == {"result": "answer", "answer": "john@example.org", "warnings": []}
    assert ask("nobody@example.org") == {"result": "no answer", "warnings": []}
    table = minion.call("postfix_map.read")["virtual_alias_maps"]["table"]
    path = table.partition(":")[2]
    with open(path) as file:
        broken = file.read().replace("virtual_aliases", "no_such_table")
    with open(path, "w") as file:
        file.write(broken)
    result = ask("jack@example.org")
    assert result["result"] == "could not ask"
    assert result["table"] == table
    assert "no_such_table" in result["reason"]


def test_lookup_is_bounded_in_time(minion, pillar, silent_port):
    managed(minion)
    path = minion.call("postfix_map.read")["virtual_alias_maps"]["table"].partition(":")[2]
    with open(path) as file:
        lines = [f"hosts = 127.0.0.1:{silent_port}\n" if line.startswith("hosts") else line for line in file]
    with open(path, "w") as file:
        file.writelines(lines)
    result = minion.call("postfix_map.lookup", "virtual_alias_maps", "jack@example.org")
    assert result["result"] == "could not ask"
    assert f"no answer within 10 s: 127.0.0.1:{silent_port} does not speak" in result["reason"]


def test_read_hides_the_password(minion, postfix):
    managed(minion)
    found = minion.call("postfix_map.read")
    assert found["virtual_mailbox_maps"] == {
        "parameter": "virtual_mailbox_maps",
        "table": f"mysql:{postfix.config_directory}/mariadb-virtual-mailbox-maps.cf",
        "in_parameter": True,
        "owner": "root",
        "group": "postfix",
        "mode": "0640",
        "keys": {
            "user": "mailserver",
            "password": "***",
            "hosts": minion.pillar["ispmail"]["database"]["hosts"],
            "dbname": "mailserver",
            "query": "SELECT 1 FROM virtual_users WHERE email='%s'",
        },
    }
    assert PASSWORD not in repr(found)


@pytest.mark.parametrize("test", [True, False])
def test_bytes_that_are_not_utf8_can_be_told_to_a_master(minion, postfix, test):
    """A comment in a query, the name of a file: the apply ended with a traceback after it had changed the server."""
    managed(minion)
    directory = str(postfix.config_directory)
    table = Path(directory, "mariadb-virtual-alias-maps.cf")
    others = os.fsencode(directory) + b"/al\xef"

    def write(path, content):
        with open(path, "wb") as file:
            file.write(content)
        os.utime(path, (1, 1))

    query = table.read_bytes().rstrip() + b" /* f\xfcr alle */\n"
    write(table, query)
    write(others, b"a@example.org b@example.org\n")
    ours = b"virtual_alias_maps = "
    main_cf = postfix.main_cf.read_bytes().replace(ours, ours + b"texthash:%s, " % others) + b"my_note = caf\xe9\n"
    write(postfix.main_cf, main_cf)
    minion.command("saltutil.sync_all")
    command = minion.command("state.apply", "ispmail.maps", f"test={test}", "--out=json")
    (changes,) = filter(None, (each["changes"] for each in json.loads(command.stdout)["local"].values()))
    assert changes["virtual_alias_maps"]["query"]["old"].endswith("/* f\ufffdr alle */")
    assert (table.read_bytes() == query) == test
    # What is not ours stays as it is, byte for byte.
    assert postfix.main_cf.read_bytes() == main_cf
    write(table, query)
    note = {"virtual_alias_maps": "", "my_note": "x"}
    for function, options in {
        "postfix_map.read": {},
        "postfix_map.compare": {},
        "postfix_map.found": {"config_directory": directory},
        "postfix_map.history": {},
        "postfix_map.remove": {"test": True},
        "postfix_map.fingerprints": {"nonce": "0123456789abcdef"},
        "postconf.get": {"config_directory": directory},
        "postconf.set": {"parameters": note, "config_directory": directory, "test": True},
        "postfix_doctor.check": {},
    }.items():
        salt.payload.dumps(minion.call(function, **options))


def test_absent_takes_parameters_out_and_keeps_the_rest(minion, postfix, pillar):
    postfix.write_main_cf(virtual_alias_maps="inline:{{a@example.org = john@example.org}}")
    before = postfix.postconf()
    minion.pillar = pillar(maps={"bench": {"parameter": "bench_maps", "proxy": True, "query": "SELECT '%s'"}})
    assert managed(minion)["result"] is True
    assert "bench.cf" in postfix.postconf()["proxy_read_maps"]
    would = minion.apply("ispmail.clean", test=True)["postfix_map.absent"]
    assert would["result"] is None and "would be removed" in would["comment"]
    # Removing needs no database, and no valid password.
    minion.pillar = pillar(database={"password": None}, maps=minion.pillar["ispmail"]["maps"])
    result = minion.apply("ispmail.clean")["postfix_map.absent"]
    assert result["result"] is True, result["comment"]
    assert result["changes"] == would["changes"]
    assert postfix.postconf() == before
    assert "bench" not in postfix.main_cf.read_text()
    assert sorted(path.name for path in postfix.config_directory.iterdir()) == ["main.cf", "master.cf"]
    assert minion.apply("ispmail.clean")["postfix_map.absent"]["changes"] == {}


def test_a_default_map_can_be_left_out(minion, postfix, pillar):
    minion.pillar = pillar(maps={"virtual_alias_maps": None})
    assert managed(minion)["result"] is True
    assert "virtual_alias_maps" not in postfix.postconf()
    assert not (postfix.config_directory / "mariadb-virtual-alias-maps.cf").exists()


def test_proxied_maps_answer_and_are_allowed(minion, postfix, pillar):
    """proxymap opens the file as user postfix, and only what proxy_read_maps names."""
    maps = {name: {"proxy": True} for name in ("virtual_mailbox_domains", "virtual_alias_maps", "virtual_mailbox_maps")}
    minion.pillar = pillar(maps={**maps, "my_class": {"proxy": True, "query": "SELECT 'OK' FROM dual WHERE '%s'='a'"}})
    result = managed(minion)
    assert result["result"] is True, result["comment"]
    assert "my_class is not a parameter that Postfix knows" in result["comment"]
    assert replies(postfix) == ANSWERED
    table = f"proxy:mysql:{postfix.config_directory}/mariadb-my-class.cf"
    assert f"my_class = {table}\n" in postfix.main_cf.read_text()
    assert minion.call("postfix_map.lookup", "my_class", "a")["answer"] == "OK"
    assert managed(minion)["changes"] == {}
    # The three are in Postfix's own list of what may be read, by the names of their parameters.
    assert postfix.postconf("proxy_read_maps")["proxy_read_maps"].count("proxy:mysql:") == 1


def test_an_sqlite_map_needs_no_server(minion, postfix, pillar):
    path = postfix.directory / "mail.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE d (name TEXT)")
        connection.execute("INSERT INTO d VALUES ('lite.test')")
    path.chmod(0o644)
    query = {"type": "sqlite", "dbpath": str(path), "query": "SELECT 1 FROM d WHERE name='%s'"}
    minion.pillar = pillar(maps={"virtual_alias_domains": query})
    result = managed(minion)
    assert result["result"] is True, result["comment"]
    assert minion.call("postfix_map.lookup", "virtual_alias_domains", "lite.test")["answer"] == "1"
    assert (postfix.config_directory / "sqlite-virtual-alias-domains.cf").read_text() == (
        f"dbpath = {path}\nquery = {query['query']}\n"
    )


@pytest.mark.parametrize("running", [True, False])
def test_an_sqlite_database_in_wal_mode_is_not_read_from_the_chroot(minion, postfix, pillar, running):
    """trivial-rewrite died of it. Postfix stopped at the apply: True, and after its start no mail came in."""
    folder = postfix.directory / "sqlite"
    folder.mkdir()
    path = folder / "mail.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=wal")
        connection.execute("CREATE TABLE d (name TEXT)")
        connection.commit()
    path.chmod(0o644)
    if not running:
        postfix.stop()
    query = {"type": "sqlite", "dbpath": str(path), "query": "SELECT 1 FROM d WHERE name='%s'"}
    minion.pillar = pillar(maps={"virtual_alias_domains": query})
    before = contents(postfix)
    result = managed(minion)
    assert result["result"] is False and contents(postfix) == before, result["comment"]
    assert "ispmail:maps:virtual_alias_domains:dbpath is a database in WAL mode" in result["comment"]
    assert f"set proxy: true, or run sqlite3 {path} 'PRAGMA journal_mode=delete'" in result["comment"]
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=delete")
    result = managed(minion)
    assert result["result"] is True, result["comment"]
    postfix.start()
    assert replies(postfix) == ANSWERED


def test_answers_are_asked_on_every_apply(minion, mariadb, pillar):
    """A database changes by itself: the state says so, also when no file differs."""
    minion.pillar = pillar(answers=[{"map": "virtual_mailbox_maps", "question": "new@example.org", "answer": False}])
    states = minion.apply("ispmail")
    assert states["postfix_map.answers"]["result"] is True, states["postfix_map.answers"]["comment"]
    mariadb.sql("INSERT INTO mailserver.virtual_users (domain_id, email, password) VALUES (1, 'new@example.org', '!')")
    try:
        states = minion.apply("ispmail")
    finally:
        mariadb.sql("DELETE FROM mailserver.virtual_users WHERE email = 'new@example.org'")
    assert states["postfix_map.managed"]["changes"] == {}
    assert states["postfix_map.answers"]["result"] is False
    assert (
        "virtual_mailbox_maps: new@example.org should give no answer, but gives '1'"
        in (states["postfix_map.answers"]["comment"])
    )


@pytest.mark.parametrize("rows", [("b@example.org", "a@example.org"), ("b@example.org, a@example.org",)])
def test_several_rows_are_several_destinations(minion, postfix, pillar, mariadb, rows):
    """One row with a blank behind its comma too: to Postfix it is the same."""
    for destination in rows:
        mariadb.sql(
            "INSERT INTO mailserver.virtual_aliases (domain_id, source, destination) VALUES (1, 'all@example.org', %s)",
            destination,
        )
    question = {
        "map": "virtual_alias_maps",
        "question": "all@example.org",
        "answer": ["a@example.org", "b@example.org"],
    }
    minion.pillar = pillar(answers=[question])
    try:
        assert managed(minion)["result"] is True
    finally:
        mariadb.sql("DELETE FROM mailserver.virtual_aliases WHERE source = 'all@example.org'")


def test_the_password_may_be_in_sdb(postfix, pillar):
    with scratch() as directory:
        (directory / "secrets.yaml").write_text(yaml.safe_dump({"mail": PASSWORD}))
        profile = {"driver": "yaml", "files": [str(directory / "secrets.yaml")]}
        minion = Minion(directory / "m", pillar(database={"password": "sdb://store/mail"}), store=profile)
        assert managed(minion)["result"] is True
        assert replies(postfix) == ANSWERED
        minion.pillar = pillar(database={"password": "sdb://store/nothing", "user": "sdb://nowhere/user"})
        result = managed(minion)
    assert result["result"] is False
    assert "ispmail:database:password is not there in sdb" in result["comment"]
    assert "ispmail:database:user could not be read from sdb" in result["comment"]


def test_pillar_example_is_valid_as_it_is(minion, postfix, mariadb, pillar):
    """The reference must not rot: it is applied, with nothing changed but where the servers are."""
    example = yaml.safe_load((REPOSITORY / "pillar.example").read_text())
    servers = pillar()["ispmail"]
    example["ispmail"]["database"].update(servers["database"])
    example["ispmail"]["postfix"] = servers["postfix"]
    minion.pillar = example
    states = minion.apply("ispmail")
    failed = {name: state["comment"] for name, state in states.items() if state["result"] is not True}
    assert not failed
    assert replies(postfix) == ANSWERED
    minion.pillar = pillar()
    assert managed(minion)["changes"] == {}, "an example's value that is marked as default is not"


def test_pillar_example_names_every_key():
    text = (REPOSITORY / "pillar.example").read_text()
    missing = [key for key in _ispmail_tablefile.SCHEMA if f"{key}:" not in text and f"{key}]" not in text]
    assert not missing


def test_a_second_instance_has_its_own_pillar_key(minion):
    """One server, two instances: the functions and states take the pillar key."""
    with scratch() as directory, Postfix(directory / "mail") as second:
        both = minion.pillar
        both["second"] = {**both["ispmail"], "postfix": {"config_directory": str(second.config_directory)}}
        minion.pillar = both
        assert minion.call("postfix_map.apply", "second")["reloaded"] is True
        assert replies(second) == ANSWERED


def test_maps_of_a_stopped_postfix_are_asked_without_proxymap(minion, postfix, pillar):
    """Nobody answers for proxymap then: it took ten seconds, and said "no answer"."""
    minion.pillar = pillar(
        maps={name: {"proxy": True} for name in GUIDES},
        answers=[{"map": "virtual_alias_maps", "question": "jack@example.org", "answer": True}],
    )
    assert managed(minion)["result"] is True
    path = postfix.config_directory / "mariadb-virtual-alias-maps.cf"
    postfix.stop()
    try:
        for name in ("virtual_alias_maps", f"proxy:mysql:{path}", f"mysql:{path}"):
            found = minion.call("postfix_map.lookup", name, "jack@example.org")
            assert found == {"result": "answer", "answer": "john@example.org", "warnings": []}, name
        assert minion.call("postfix_map.probe") == minion.call("postfix_map.answers") == []
    finally:
        postfix.start()


@pytest.mark.parametrize("name", ["virtual_alias_maps", "the table"])
@pytest.mark.parametrize(
    ("line", "reason"),
    [("dbname =", "bad string length 0 < 1: dbname"), ("expansion_limit = x", "bad numerical configuration")],
)
def test_a_reason_names_the_table_and_not_where_it_is_held(minion, postfix, name, line, reason):
    """It was /proc/self/fd/4: the number says nothing to an admin."""
    assert managed(minion)["result"] is True
    path = postfix.config_directory / "mariadb-virtual-alias-maps.cf"
    kept = [each for each in path.read_text().splitlines() if not each.startswith(line.partition(" ")[0])]
    write_cold(path, "\n".join([*kept, line, ""]), 0o640, "postfix")
    table = f"mysql:{path}"
    found = minion.call("postfix_map.lookup", table if name == "the table" else name, "jack@example.org")
    assert found["result"] == "could not ask" and found["reason"].startswith(f"{table}: {reason}")
    said = minion.call("postfix_map.probe")
    assert len(said) == 1 and said[0].startswith(f"virtual_alias_maps: virtual_alias_maps: {reason}")


def test_a_question_that_is_too_long_is_a_sentence(minion, pillar):
    managed(minion)
    with pytest.raises(CommandExecutionError, match=r"^postmap cannot be run: Argument list too long$"):
        minion.call("postfix_map.lookup", "virtual_alias_maps", "a" * 200_000)
    minion.pillar = pillar(answers=[{"map": "virtual_alias_maps", "question": "a" * 200_000, "answer": "b" * 200_000}])
    with pytest.raises(CommandExecutionError, match=r"^postmap cannot be run: Argument list too long$"):
        minion.call("postfix_map.answers")


def test_a_table_file_that_postconf_cannot_read_says_what_to_do(minion, postfix):
    """postconf reads the table files too, and gives up: an apply could not say more than that."""
    assert managed(minion)["result"] is True
    path = postfix.config_directory / "mariadb-virtual-alias-maps.cf"
    secret = PASSWORD.replace("=", "")
    path.write_text(f"{path.read_text()}{secret}\n")
    os.utime(path, (1, 1))
    for test in (True, False):
        failed = managed(minion, test=test)
        assert failed["result"] is False and secret not in failed["comment"]
        assert failed["comment"].endswith(
            "mend that line; if the file is a map's, it may also be deleted: the next apply writes it anew"
        )
    path.unlink()
    assert managed(minion)["result"] is True
    assert replies(postfix) == ANSWERED
