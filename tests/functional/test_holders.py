"""postfix_database.holders: a real client, script and table that nobody has named, beside real Postfix and MariaDB."""

import contextlib
import os
import shutil
import subprocess
import time

import pymysql
import pytest
from salt.exceptions import CommandExecutionError, SaltInvocationError

import _ispmail_connections
import _ispmail_search
from lab import HOST, scratch, wait_until
from lab.mariadb import MariaDB, native_hash, set_password
from lab.minion import FILE_ROOTS, Minion
from lab.postfix import Postfix, write_cold
from lab.smtp import rcpt

from .. import pages
from ..conftest import PASSWORD, pillar_for
from .test_apply import managed

NEW = "newSecretW7q3Z9"
MAPS = ("virtual_mailbox_domains", "virtual_alias_maps", "virtual_mailbox_maps")


@pytest.fixture
def trees(scratch_directory, monkeypatch):
    """An empty folder that is searched in place of /etc and so on."""
    folder = scratch_directory / "trees"
    folder.mkdir()
    monkeypatch.setattr(_ispmail_search, "TREES", [str(folder)])
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def applied(minion, trees):
    """The minion with its maps applied; nobody else holds the password."""
    assert managed(minion)["result"] is True
    return minion


def holders(minion, **options):
    """What is not named: kind to a list of place and sentence. No secret is in it."""
    said = minion.call("postfix_database.holders", **options)
    assert PASSWORD not in str(said)
    found = {}
    for holder in said["unnamed"]:
        found.setdefault(holder["kind"], []).append((holder["where"], holder["text"]))
    return found


def name(minion, **consumers):
    pillar = minion.pillar
    pillar["ispmail"]["consumers"] = consumers
    minion.pillar = pillar


@contextlib.contextmanager
def foreign_client(mariadb, over_socket=False, user="mailserver", program="mariadb", uid=0):
    """A program that nobody knows, connected for as long as this lasts."""
    where = [f"--socket={mariadb.socket}"] if over_socket else [f"--host={HOST}", f"--port={mariadb.port}"]
    command = [program, "--no-defaults", *where, f"--user={user}", "--execute=SELECT SLEEP(60)"]
    environment = {**os.environ, "MYSQL_PWD": PASSWORD}
    client = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, user=uid, cwd="/")
    try:
        sleeping = (
            f"SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE INFO LIKE 'SELECT SL%' AND USER = '{user}'"
        )
        assert wait_until(lambda: mariadb.sql(sleeping) == ((1,),), 10)
        yield client
    finally:
        client.kill()
        client.wait()
        assert wait_until(lambda: mariadb.sql(sleeping) == ((0,),), 10)


def test_postfix_itself_is_nobody_else(applied, postfix):
    assert rcpt(postfix.port, "john@example.org")[0] == 250
    assert applied.call("postfix_database.holders") == {"unnamed": [], "notes": []}


def test_a_foreign_client_is_named_with_its_pid(applied, mariadb):
    with foreign_client(mariadb) as client:
        ((where, text),) = holders(applied)["program"]
        assert where == "mariadb"
        assert text.startswith(f"mariadb (pid {client.pid}, ") and "is connected as mailserver: name it" in text
        assert "programs of one of ispmail:consumers" in text
        name(applied, report={"programs": ["mariadb"], "ignore": True})
        assert holders(applied) == {}
    name(applied)
    assert holders(applied) == {}


def test_a_users_program_of_the_same_name_is_nobody_who_is_named(applied, mariadb, trees):
    """Whoever starts a program chooses its name."""
    script = trees / "report.sh"
    with foreign_client(mariadb, uid=1000):
        name(applied, report={"programs": ["mariadb"], "holds": [str(script)], "ignore": True})
        assert [where for where, _ in holders(applied)["program"]] == ["mariadb"]
        script.write_text("")
        os.chown(script, 1000, 1000)
        assert holders(applied) == {}


@pytest.mark.parametrize("path", ["postmap", "postfix/sbin/smtpd"])
def test_a_program_that_looks_like_postfixs(applied, mariadb, scratch_directory, path):
    """Any executable of that name, and the child of any program called .../postfix/master, was Postfix."""
    program = scratch_directory / "fake" / path
    program.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(shutil.which("mariadb"), program)
    with foreign_client(mariadb, program=str(program)) as client:
        ((where, text),) = holders(applied)["program"]
        assert where == program.name and f"(pid {client.pid}, " in text


def test_the_client_of_another_account_is_nobody(applied, mariadb):
    """Its ports are not in the list of this account."""
    mariadb.sql("CREATE OR REPLACE USER webmail@'127.0.0.1' IDENTIFIED BY %s", PASSWORD)
    with foreign_client(mariadb, user="webmail"):
        assert holders(applied) == {}


@pytest.fixture
def by_socket(mariadb, trees):
    """A minion whose maps ask through the unix socket, its Postfix without a chroot."""
    mariadb.sql("CREATE OR REPLACE USER mailserver@localhost IDENTIFIED BY %s", PASSWORD)
    mariadb.sql("GRANT SELECT ON mailserver.* TO mailserver@localhost")
    with scratch() as directory, Postfix(directory / "mail", chroot=False) as postfix:
        minion = Minion(directory, pillar_for(postfix, mariadb, database={"hosts": f"unix:{mariadb.socket}"}))
        assert managed(minion)["result"] is True
        yield minion, postfix
    mariadb.sql("DROP USER mailserver@localhost")


def test_a_foreign_client_of_the_unix_socket(by_socket, mariadb):
    """The database's list has no port there: the socket's clients are counted."""
    minion, postfix = by_socket
    assert rcpt(postfix.port, "john@example.org")[0] == 250
    assert holders(minion) == {}
    with foreign_client(mariadb, over_socket=True) as client:
        ((where, text),) = holders(minion)["program"]
        assert where == "mariadb" and f"mariadb (pid {client.pid}, " in text
        assert "uses the database's unix socket, perhaps as mailserver" in text
        name(minion, report={"programs": ["mariadb"], "ignore": True})
        assert holders(minion) == {}


def test_connections_of_known_programs_by_accounts_of_their_own(by_socket, mariadb, scratch_directory):
    """Webmail's own connections hid a foreign program with the maps' account, and nobody told of it."""
    minion, _ = by_socket
    program = scratch_directory / "php-fpm"
    shutil.copy(shutil.which("mariadb"), program)
    mariadb.sql("CREATE OR REPLACE USER webmail@localhost IDENTIFIED BY %s", PASSWORD)
    name(minion, webmail={"programs": ["php-fpm"], "ignore": True})
    with (
        foreign_client(mariadb, over_socket=True, user="webmail", program=str(program)),
        foreign_client(mariadb, over_socket=True) as client,
    ):
        said = minion.call("postfix_database.holders")
        (note,) = said["notes"]
        assert said["unnamed"] == [] and note.startswith(f"mariadb (pid {client.pid}, ")
        assert note.endswith("known programs have as many connections there, so it is taken for another account's")
    mariadb.sql("DROP USER webmail@localhost")


SPELT = {
    "raw": lambda: PASSWORD,
    "my.cnf": lambda: 'password="' + PASSWORD.replace("\\", "\\\\").replace('"', '\\"') + '"',
    "url": lambda: "mysql://mailserver:pw-Zq8%23x7%25%3B%3D%24%27%22%5Cw%7B%7D-Kv3@127.0.0.1/mailserver",
}


@pytest.mark.parametrize("spelling", SPELT)
def test_a_script_with_the_password_is_named(applied, trees, spelling):
    script = trees / "deeper" / "report.sh"
    script.parent.mkdir()
    script.write_text(f"#!/bin/sh\nDSN={SPELT[spelling]()}\n")
    ((where, text),) = holders(applied)["file"]
    assert where == str(script)
    assert text.startswith(f"{script} holds the password in use: name it in ispmail:consumers")
    name(applied, report={"holds": [str(script)], "ignore": True})
    assert holders(applied) == {}
    name(applied, report={"holds": [str(script.parent)], "ignore": True})
    assert holders(applied) == {}


def test_a_rotation_asks_for_the_old_password_only(applied, trees):
    """One that is interrupted and goes on finds servers with the new one: who holds that keeps its login."""
    (trees / "script").write_text(PASSWORD)
    assert holders(applied, search="old") == {}
    pillar = applied.pillar
    pillar["ispmail"]["database"]["password"] = NEW
    applied.pillar = pillar
    assert set(holders(applied, search="old")) == {"file"}
    with pytest.raises(SaltInvocationError, match="search must be one of all, old, none"):
        applied.call("postfix_database.holders", search="new")


def test_a_name_in_pillar_that_has_become_a_link(applied, trees, scratch_directory):
    """The owner of a file that may break made it a link to /etc: all of /etc was left out."""
    named = scratch_directory / "report.sh"
    (trees / "script").write_text(PASSWORD)
    name(applied, report={"holds": [str(named)], "ignore": True})
    named.symlink_to(trees)
    assert [where for where, _ in holders(applied)["file"]] == [str(trees / "script")]
    named.unlink()
    named.symlink_to(trees / "script")
    assert holders(applied) == {}
    named.unlink()


def test_a_file_name_that_is_no_text(applied, trees):
    """It broke the return of the job, or acted on the admin's terminal."""
    with open(os.fsencode(trees) + b"/x\xff\n\x1b[2J", "w", encoding="utf-8") as file:
        file.write(PASSWORD)
    ((where, text),) = holders(applied)["file"]
    assert where == f"{trees}/x\\udcff\\n\\x1b[2J"
    assert text.startswith(f"{trees}/x? ?[2J holds the password in use: ")


def test_a_password_in_very_many_files_is_one_all_the_same(applied, trees):
    """It was taken for a common word, and that was a note only."""
    for number in range(53):
        (trees / f"{number:02}").write_text(PASSWORD)
    *files, (where, text) = holders(applied)["file"]
    assert [path for path, _ in files] == [str(trees / f"{number:02}") for number in range(50)]
    assert (where, text.partition(":")[0]) == ("", "3 more files hold the password in use")


def test_salts_own_files_are_not_searched(applied, trees, monkeypatch):
    """Configuration, pillar and cache of a server without a master; sdb may keep its file there."""
    (applied.directory / "sdb.yaml").write_text(PASSWORD)
    monkeypatch.setattr(_ispmail_search, "TREES", [str(applied.directory)])
    assert holders(applied) == {}


def test_the_search_waits_for_nothing_and_leaves_the_trees_alone(applied, trees, scratch_directory):
    """FIFOs, devices, links out of the trees."""
    outside = scratch_directory / "outside"
    outside.mkdir()
    (outside / "secret").write_text(PASSWORD)
    os.mkfifo(trees / "fifo")
    os.mknod(trees / "zero", 0o600 | 0o020000, os.makedev(1, 5))
    (trees / "folder").symlink_to(outside)
    (trees / "file").symlink_to(outside / "secret")
    (trees / "loop").symlink_to(trees)
    began = time.monotonic()
    assert holders(applied) == {}
    assert time.monotonic() - began < 5
    shutil.rmtree(outside)


def test_what_is_not_searched_is_told(applied, trees):
    """That nobody could look is not that there is nothing."""
    (trees / "old.gz").write_bytes(b"\x1f\x8b")
    with open(trees / "program", "wb") as file:
        file.write(b"\x7fELF")
        file.truncate(17 * 2**20)
    with open(trees / "huge", "wb") as file:
        file.truncate(17 * 2**20)
    said = applied.call("postfix_database.holders")
    (unnamed,) = said["unnamed"]
    assert unnamed["where"] == str(trees / "huge") and "is larger than 16 MiB" in unnamed["text"]
    assert said["notes"] == [
        f"1 compressed file cannot be searched: {trees / 'old.gz'}",
        f"1 compiled program cannot be searched: {trees / 'program'}",
    ]
    name(applied, archive={"holds": [str(trees / "huge")], "ignore": True})
    assert holders(applied) == {}


def test_a_password_that_cannot_be_searched_for(applied, mariadb, postfix, trees):
    """A short one would be found everywhere: that is told, and no file is named for it."""
    set_password(mariadb, "abc12")
    try:
        pillar = applied.pillar
        pillar["ispmail"]["database"]["password"] = "abc12"
        applied.pillar = pillar
        assert managed(applied)["result"] is True
        (trees / "words").write_text("xabc123")
        said = applied.call("postfix_database.holders")
        assert said["unnamed"] == []
        assert "it has less than 6 characters" in said["notes"][0]
    finally:
        set_password(mariadb, PASSWORD)


def test_a_table_that_is_not_pillars(applied, postfix, trees):
    """A hand-made table with the same account beside ours: after the drop it answered 451 for every address."""
    table = postfix.config_directory / "by-hand.cf"
    ours = (postfix.config_directory / "mariadb-virtual-alias-maps.cf").read_text()
    write_cold(table, ours)
    table.chmod(0o640)
    parameters = {"hand": "mysql:$config_directory/by-hand.cf"}
    for key, value in {**parameters, "relocated_maps": "$hand"}.items():
        subprocess.run(["postconf", "-c", postfix.config_directory, f"{key}={value}"], check=True)
    ((where, text),) = holders(applied)["table"]
    assert where == str(table)
    assert "relocated_maps" in text and "logs in as mailserver and is not a map of pillar" in text
    name(applied, byhand={"holds": [str(table)], "sls": "by.hand"})
    assert holders(applied) == {}
    write_cold(table, ours.replace("user = mailserver", "user = other"))
    name(applied)
    assert holders(applied) == {}
    option_file = postfix.config_directory / "by-hand.cnf"
    option_file.write_text("[client]\nuser = mailserver\n")
    write_cold(table, ours.replace("user = mailserver", f"option_file = {option_file}"))
    assert [where for where, _ in holders(applied)["table"]] == [str(table)]


@pytest.fixture
def second(applied, postfix):
    """Another Postfix of this server, which asks pillar's table files. Pillar does not name it; main.cf does."""
    tables = postfix.postconf(*MAPS)
    with Postfix(postfix.directory / "second", **tables) as second:
        postfix.write_main_cf(**tables, multi_instance_directories=second.config_directory)
        assert rcpt(second.port, "john@example.org")[0] == 250
        yield second


def test_a_postfix_that_pillar_does_not_name_asks_pillars_tables(applied, postfix, second, mariadb):
    """Nobody reloaded it: after a rotation it answered 451 for every address, and nobody had told of it."""
    shared = [str(postfix.config_directory / f"mariadb-{name.replace('_', '-')}.cf") for name in MAPS]
    for search in ("all", "old", "none"):
        found = holders(applied, search=search)
        assert set(found) == {"table"} and sorted(where for where, _ in found["table"]) == sorted(shared)
        who = f"of the Postfix in {second.config_directory} asks, logs in as mailserver and is a map of"
        assert all(who in text and "pillar key of its own" in text for _, text in found["table"])
    pillar = applied.pillar
    pillar["ispmail"]["database"]["password"] = NEW
    applied.pillar = pillar
    old, new = native_hash(PASSWORD), native_hash(NEW)
    both = "ALTER USER mailserver@'127.0.0.1' IDENTIFIED VIA mysql_native_password USING %s"
    mariadb.sql(f"{both} OR mysql_native_password USING %s", old, new)
    try:
        state = managed(applied)
        assert state["result"] is True
        assert all(f"warning: the password changes: the table {path}, which " in state["comment"] for path in shared)
        # The proof names its processes until they have ended, and the old password stays until then.
        left = applied.call("postfix_map.old_processes")
        assert left and all(f" of the Postfix in {second.config_directory}" in process for process in left)
        (drained,) = applied.call("state.single", "postfix_map.drained", "no old processes", timeout=1).values()
        assert drained["result"] is False and left[0] in drained["comment"]
        second.reload()
        assert wait_until(lambda: applied.call("postfix_map.old_processes") == [], 20)
        set_password(mariadb, NEW)
        assert [rcpt(each.port, "john@example.org")[0] for each in (postfix, second)] == [250, 250]
    finally:
        set_password(mariadb, PASSWORD)


def test_a_consumer_whose_sls_reloads_the_other_postfix(applied, postfix, second, mariadb, scratch_directory):
    """As docs/sites.md has it."""
    shared = [str(postfix.config_directory / f"mariadb-{name.replace('_', '-')}.cf") for name in MAPS]
    tree = scratch_directory / "salt"
    tree.mkdir()
    reloads = pages.block("docs/sites.md", "whose `sls` reloads it:").text
    (tree / "out.sls").write_text(reloads.replace("/etc/postfix-out", str(second.config_directory)))
    name(applied, out={"holds": shared, "sls": "out"})
    assert holders(applied) == {}
    pillar = applied.pillar
    pillar["ispmail"]["database"]["password"] = NEW
    minion = Minion(scratch_directory / "minion", pillar, file_roots={"base": [*FILE_ROOTS, str(tree)]})
    set_password(mariadb, NEW)
    try:
        done = minion.apply("ispmail")
        assert all(state["result"] for state in done.values()), done
        assert wait_until(lambda: minion.call("postfix_map.old_processes") == [], 20)
        assert [rcpt(each.port, "john@example.org")[0] for each in (postfix, second)] == [250, 250]
    finally:
        set_password(mariadb, PASSWORD)


def test_ways_out_of_a_shared_table(applied, postfix, second, pillar):
    """Named in holds, or tables of its own under a pillar key; one that does not run reads the file as it is then."""
    shared = [str(postfix.config_directory / f"mariadb-{name.replace('_', '-')}.cf") for name in MAPS]
    name(applied, out={"holds": shared, "sls": "reload.out"})
    assert holders(applied) == {}
    name(applied)
    own = {"postfix": {"config_directory": str(second.config_directory)}, "maps": dict.fromkeys(MAPS)}
    given = applied.pillar
    given["ispmail"]["instances"] = ["out"]
    given["out"] = {**given["ispmail"], "instances": [], **own}
    applied.pillar = given
    # To name it, and no map of it, changes nothing.
    assert set(holders(applied)) == {"table"}
    second.stop()
    assert set(holders(applied)) == {"table"}
    del given["out"], given["ispmail"]["instances"]
    applied.pillar = given
    assert holders(applied) == {}
    second.write_main_cf(multi_instance_enable="yes")
    assert set(holders(applied)) == {"table"}
    own["maps"] = {}
    given["ispmail"]["instances"] = ["out"]
    given["out"] = {**given["ispmail"], "instances": [], **own}
    applied.pillar = given
    second.write_main_cf(**dict.fromkeys(MAPS))
    second.start()
    assert managed(applied)["result"] is True and holders(applied) == {}
    assert rcpt(second.port, "john@example.org")[0] == 250


def test_a_table_of_a_postfix_that_pillar_does_not_name(applied, postfix, second, scratch_directory):
    """It lies outside of all that is searched."""
    table = scratch_directory / "own.cf"
    write_cold(table, (postfix.config_directory / "mariadb-virtual-alias-maps.cf").read_text())
    second.write_main_cf(**dict.fromkeys(MAPS), relocated_maps=f"mysql:{table}")
    ((where, text),) = holders(applied)["table"]
    assert where == str(table)
    assert f"relocated_maps of the Postfix in {second.config_directory} asks, logs in as mailserver and is not" in text
    (row,) = [each for each in applied.call("postfix_doctor.check") if each["where"] == str(table)]
    assert (row["result"], row["fix"]) == ("warning", text)
    name(applied, own={"holds": [str(table)], "sls": "own"})
    assert holders(applied) == {}
    second.master_cf.unlink()
    ((where, text),) = holders(applied)["table"]
    assert where == str(second.config_directory)
    assert text.startswith(f"whether the Postfix in {where} asks the table files could not be told: ")


def test_a_stranger_in_the_databases_list(applied, mariadb):
    """Asked as the admin: the addresses of the site's servers are the runner's."""
    pillar = applied.pillar
    pillar["ispmail"]["server"] = {"unix_socket": mariadb.socket}
    applied.pillar = pillar
    mariadb.sql("CREATE OR REPLACE USER mailserver@'127.0.0.2' IDENTIFIED BY %s", PASSWORD)
    assert holders(applied, site_hosts=["192.0.2.1"]) == {}
    with pytest.raises(SaltInvocationError, match="site_hosts must be a list"):
        applied.call("postfix_database.holders", site_hosts="192.0.2.1")
    mariadb.sql("DROP USER mailserver@'127.0.0.2'")


class Naming(MariaDB):
    """A MariaDB that resolves names, by a hosts file of its own."""

    def _command(self):
        mount = f'mount --bind {self.directory / "hosts"} /etc/hosts && exec "$@"'
        return ["unshare", "--mount", "sh", "-c", mount, "sh", *super()._command(), "--skip-name-resolve=OFF"]


def listed_by_name(directory, names):
    """What a MariaDB lists that knows a client by names."""
    server = Naming(directory)
    server.directory.mkdir(parents=True, exist_ok=True)
    (server.directory / "hosts").write_text(f"127.0.0.1 localhost\n127.0.0.7 {names}\n")
    with server:
        server.sql("CREATE USER mailserver IDENTIFIED BY %s", PASSWORD)
        login = {"user": "mailserver", "password": PASSWORD, "port": server.port}
        with contextlib.closing(pymysql.connect(host=HOST, bind_address="127.0.0.7", **login)):
            rows = [dict(zip(("Id", "User", "Host"), row)) for row in server.sql("SHOW PROCESSLIST")]
    return _ispmail_connections.read_listed(rows, [{"id": 0, "port": 0, "socket": ""}], ["mailserver"])


def test_a_stranger_with_the_first_label_of_a_server(scratch_directory):
    """A MariaDB lists full names: a server of another domain was passed over."""
    found = listed_by_name(scratch_directory / "naming", "mx1.staging.example.com mx1")
    assert [client.host for client in found.clients] == ["mx1.staging.example.com"]
    names = ["192.0.2.1", "mx1", "mx1.example.org"]
    assert _ispmail_connections.strangers(found, names) == ["mx1.staging.example.com"]
    assert _ispmail_connections.strangers(found, [*names, "mx1.staging.example.com"]) == []


@pytest.mark.parametrize("length", [57, 58, 59, 60])
def test_a_long_name_of_a_server(scratch_directory, length):
    """A MariaDB lists 63 characters: who had a name of 58 was counted for the unix socket, and was no stranger."""
    name = f"mx1.{'a' * 40}.{'b' * 40}"[:length]
    found = listed_by_name(scratch_directory / f"long{length}", name)
    (client,) = found.clients
    assert (client.host, client.port is None, client.over_socket) == (name, length > 57, False)
    assert _ispmail_connections.strangers(found, ["192.0.2.1"]) == [name]


def test_the_database_as_its_admin_that_cannot_be_asked(applied, scratch_directory):
    """That nobody could look is an error, not an empty list."""
    pillar = applied.pillar
    pillar["ispmail"]["server"] = {"unix_socket": str(scratch_directory / "none")}
    applied.pillar = pillar
    with pytest.raises(CommandExecutionError, match="the database server at"):
        applied.call("postfix_database.holders", site_hosts=["192.0.2.1"])


def test_what_a_change_that_was_cut_off_has_left_is_ours(applied, trees):
    """The next apply removes it; a rotation said that pillar has to name it."""
    pillar = applied.pillar
    query = "SELECT destination FROM virtual_aliases WHERE source='%s'"
    more = {"parameter": "virtual_alias_maps", "file": str(trees / "a.cf"), "query": query}
    pillar["ispmail"]["maps"] = {"more": more}
    applied.pillar = pillar
    assert managed(applied)["result"] is True
    for name in (".a.cf.old", ".a.cf.new"):
        (trees / name).write_text((trees / "a.cf").read_text())
    assert holders(applied) == {}


def test_a_server_that_does_not_know_the_password_says_so(minion, trees):
    """A database server without table files: nobody can search for a password that nobody there has."""
    pillar = minion.pillar
    pillar["ispmail"]["maps"] = dict.fromkeys(MAPS)
    minion.pillar = pillar
    said = minion.call("postfix_database.holders", search="old")
    assert said["unnamed"] == []
    assert any("files were not searched" in note for note in said["notes"]), said


def test_an_admin_who_does_not_see_connections_is_an_error(applied, mariadb):
    """It counted as nobody: a rotation then dropped the password under programs that were connected."""
    mariadb.sql("CREATE USER boss@localhost IDENTIFIED BY 'boss-secret-1'")
    mariadb.sql("GRANT SELECT, CREATE USER, RELOAD, GRANT OPTION ON *.* TO boss@localhost")
    try:
        pillar = applied.pillar
        pillar["ispmail"]["server"] = {"unix_socket": mariadb.socket, "user": "boss", "password": "boss-secret-1"}
        applied.pillar = pillar
        with foreign_client(mariadb), pytest.raises(CommandExecutionError, match="GRANT PROCESS ON"):
            applied.call("postfix_database.holders", site_hosts=["192.0.2.1"])
    finally:
        mariadb.sql("DROP USER boss@localhost")


def test_a_consumers_option_file_counts_as_a_login(minion, mariadb, trees):
    """A server without maps knows the password in use by its consumers alone."""
    option_file = trees / "backup.cnf"
    pillar = minion.pillar
    pillar["ispmail"]["maps"] = dict.fromkeys(MAPS)
    pillar["ispmail"]["consumers"] = {"backup": {"option_file": str(option_file)}}
    minion.pillar = pillar
    assert managed(minion)["result"] is True
    assert holders(minion) == {}
    (trees / "script").write_text(PASSWORD)
    with foreign_client(mariadb):
        assert {kind: where for kind, ((where, _),) in holders(minion).items()} == {
            "file": str(trees / "script"),
            "program": "mariadb",
        }
        assert set(holders(minion, search="none")) == {"program"}


def test_an_apply_without_a_rotation_warns_of_them(applied, mariadb, trees):
    """Afterwards nobody knows the old password: what holds it is told before."""
    (trees / "script").write_text(PASSWORD)
    pillar = applied.pillar
    pillar["ispmail"]["database"]["password"] = NEW
    applied.pillar = pillar
    set_password(mariadb, NEW)
    try:
        for options in ({"test": True}, {}):
            state = managed(applied, **options)
            assert f"warning: the password changes: {trees / 'script'} holds the password in use" in state["comment"]
            assert PASSWORD not in state["comment"]
        assert state["result"] is True
        assert "the password changes" not in managed(applied)["comment"]
    finally:
        set_password(mariadb, PASSWORD)


@pytest.fixture
def changes(applied, mariadb):
    """A minion whose pillar has another password than its table files; the database has pillar's."""
    pillar = applied.pillar
    pillar["ispmail"]["database"]["password"] = NEW
    applied.pillar = pillar
    set_password(mariadb, NEW)
    yield applied
    set_password(mariadb, PASSWORD)


def test_what_an_apply_left_with_the_old_password_is_not_forgotten(changes, trees):
    """A server that was down when a rotation looked took the password by itself; the next rotation found nobody."""
    script = trees / "script"
    script.write_text(PASSWORD)
    managed(changes, test=True)
    remembered = changes.cache / "ispmail" / "left_with_an_older_password"
    assert not remembered.exists()
    assert managed(changes)["result"] is True
    for search in ("all", "old", "none"):
        ((where, text),) = holders(changes, search=search)["file"]
        assert where == str(script)
        assert text.startswith(f"{script} was left by an apply with an older password")
    assert PASSWORD not in remembered.read_text()
    name(changes, report={"holds": [str(script)], "ignore": True})
    assert holders(changes, search="old") == {}
    name(changes)
    assert set(holders(changes, search="old")) == {"file"}
    script.write_text("its own account")
    assert holders(changes, search="old") == {}


@pytest.mark.parametrize("server", [{"password": "sdb://none/x"}, {"none": 1}])
def test_an_apply_needs_no_admin(changes, trees, server):
    """What is wrong with the admin's login failed the apply of a mail server that never uses it."""
    pillar = changes.pillar
    pillar["ispmail"]["server"] = server
    changes.pillar = pillar
    (trees / "script").write_text(PASSWORD)
    state = managed(changes)
    assert state["result"] is True and f"the password changes: {trees / 'script'} holds" in state["comment"]


def test_who_holds_the_password_is_found_without_the_admin(applied, trees):
    """The doctor said nothing of it then, and a rotation was stopped."""
    pillar = applied.pillar
    pillar["ispmail"]["server"] = {"password": "sdb://none/x"}
    applied.pillar = pillar
    (trees / "script").write_text(PASSWORD)
    assert [where for where, _ in holders(applied)["file"]] == [str(trees / "script")]
    (told,) = [
        each for each in applied.call("postfix_doctor.check") if each["check"].endswith("files with the password")
    ]
    assert (told["where"], told["result"]) == (str(trees / "script"), "warning")


def test_doctor_has_a_row_for_each(applied, mariadb, postfix, trees):
    """None of them is wrong today: a rotation would stop, and a change without one would lock them out."""
    checks = ("files with the password", "programs that are connected", "tables of the account")
    rows = {f"pillar names all {check}": check for check in checks}

    def found():
        said = [each for each in applied.call("postfix_doctor.check") if each["check"] in rows]
        return {rows[each["check"]]: (each["result"], each["where"], each["fix"]) for each in said}

    assert found() == dict.fromkeys(checks, ("ok", "this server", ""))
    table = postfix.config_directory / "by-hand.cf"
    write_cold(table, (postfix.config_directory / "mariadb-virtual-alias-maps.cf").read_text())
    subprocess.run(["postconf", "-c", postfix.config_directory, f"relocated_maps=mysql:{table}"], check=True)
    (trees / "script").write_text(PASSWORD)
    with foreign_client(mariadb):
        said = found()
    assert {result for result, _, _ in said.values()} == {"warning"}
    assert [where for _, where, _ in said.values()] == [str(trees / "script"), "mariadb", str(table)]
    assert PASSWORD not in str(said)


def test_refused_logins_are_counted(applied, mariadb):
    """By the server, of all accounts: a rotation compares them before and after the drop."""
    pillar = applied.pillar
    pillar["ispmail"]["server"] = {"unix_socket": mariadb.socket}
    applied.pillar = pillar
    before = applied.call("postfix_database.read")["refused_logins"]
    assert not mariadb.logs_in("an-older-one")
    assert applied.call("postfix_database.read")["refused_logins"] == before + 1
