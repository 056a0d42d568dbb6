"""What the pages tell an admin to type, typed: literally, in the pages' order, on a master, a minion and a mail server.

Which commands these are, and what each has to answer, is in tests/pages.py. In a sandbox the checkout is
/srv/salt-ispmail, /etc/salt is what the pages write there, and /etc/postfix is a private Postfix.
"""

import concurrent.futures
import contextlib
import itertools
import json
import os
import re
import shutil
import sqlite3

import pytest
import yaml

from lab import scratch, tail, wait_until
from lab.mariadb import MariaDB, schema
from lab.minion import REPOSITORY
from lab.postfix import Postfix
from lab.sandbox import Sandbox, missing_requirements
from lab.series import INSTALLED, Salt, programs
from lab.smtp import rcpt

from .. import pages
from .conftest import CORE, SDB

HERE = "srv/salt-ispmail"
ROOMS = ("_utils", "_modules", "_states", "_beacons", "_runners", "salt")
# What stands in the pages for something of the reader's, and what it is here. One server is both, mail and database.
PLACEHOLDERS = {
    "'db'": "'mx1'",
    "'db.*'": "'mx1'",
    "database: db": "database: mx1",
    # Half a minute each in which refused logins are counted.
    "ispmail.rotate": "ispmail.rotate watch=1",
    "new_password main": "new_password main watch=1",
}
PILLAR = """\
ispmail:
  database:
    hosts: 127.0.0.1:{port}
    password: {{{{ salt['sdb.get']('sdb://myvault/secret/mail/main') | json }}}}
  server: {{unix_socket: {socket}}}
  packages: false
  maps:
    smtpd_sender_login_maps: {{query: SELECT email FROM virtual_users WHERE email='%s'}}
  answers:
    - {{map: virtual_alias_maps, question: jack@example.org, answer: true}}
"""
# What changes nothing and needs no order: such commands that follow one another are typed at the same time.
LOOK = re.compile(
    r"postfix_map\.(found( config|$)|lookup|read|answers|probe|compare|consumers|old_processes|fingerprints|history)"
    r"|postconf\.get|postfix_database\.(read|refused|holders)|postfix_doctor\.|ispmail\.(version|sites|holders|prove)|sys\.doc"
)
SECOND = "/etc/postfix-submission"


# Else `postfix start` of Debian 14 has systemd start the machine's own one.
BY_SYSTEMD = "export INVOCATION_ID=1"


class Reader:
    """Who has a master, a mail server with a database, and the pages."""

    def __init__(self, sandbox, salt, postfix, database, store):
        self.sandbox, self.salt, self.postfix, self.database, self.store = sandbox, salt, postfix, database, store

    def type(self, text):
        """All that a command prints; the test fails with it if the command fails."""
        for placeholder, here in PLACEHOLDERS.items():
            text = text.replace(placeholder, here)
        done = self.sandbox.run(f"{BY_SYSTEMD}\nexport PATH={programs(INSTALLED)}:$PATH\n{text}", check=False)
        assert done.returncode == 0, f"{text}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def send(self, command):
        """Write a new password, type the command that tells of it, and see that it is the only one soon."""
        new = f"{CORE}-two"
        self.keep(new)
        said = self.type(command.text)
        assert wait_until(lambda: self.database.logs_in(new) and not self.database.logs_in(f"{CORE}-one"), 60)
        return said

    def undo(self, command):
        """Make a change, type the command that goes back to what was before it, and bring pillar about again."""
        self.type("salt mx1 postfix_map.remove '[smtpd_sender_login_maps]'")
        (newest, *_) = json.loads(self.type("salt mx1 postfix_map.history --out=json"))["mx1"]
        said = self.type(re.sub(r"rollback \d+", f"rollback {newest['entry']}", command.text))
        self.type("salt mx1 state.apply ispmail")
        return said

    def keep(self, password):
        """Write a password into the store that pillar looks up."""
        with contextlib.closing(sqlite3.connect(self.store)) as connection, connection:
            connection.execute("CREATE TABLE IF NOT EXISTS sdb (key TEXT PRIMARY KEY, value TEXT)")
            connection.execute("REPLACE INTO sdb VALUES ('secret/mail/main', ?)", [password])


@pytest.fixture(scope="module")
def reader():
    """Who has done all that the pages say before the first command: a clone, master.conf, pillar."""
    reason = missing_requirements()
    if reason and os.environ.get("CI") != "true":
        pytest.skip(reason)
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(scratch("c-"))
        sandbox = stack.enter_context(Sandbox(directory / "sandbox"))
        database = stack.enter_context(MariaDB(directory / "db"))
        schema(database, f"{CORE}-one")
        postfix = stack.enter_context(Postfix(directory / "mail", alternate_config_directories=SECOND))
        postfix.stop()
        for folder in ("/etc/postfix", SECOND):
            sandbox.run(f"mkdir -p {folder}; cp -p {postfix.config_directory}/* {folder}")
        started = sandbox.run(f"{BY_SYSTEMD}\npostfix start", check=False)
        assert started.returncode == 0, f"{started.stdout}{started.stderr}{tail(postfix.log_file)}"
        for room in ROOMS:
            shutil.copytree(REPOSITORY / room, sandbox.root / HERE / room, symlinks=True)
        store = directory / "sdb.sqlite"
        salt = Salt(INSTALLED, directory / "salt", [], launcher=(sandbox.enter, -1), patience=2, name="mx1")
        found = Reader(sandbox, salt, postfix, database, store)
        found.keep(f"{CORE}-one")
        write(found, directory)
        stack.enter_context(salt)
        found.type(pages.block("README.md", "**One server without a master.**").text)
        yield found
        postfix.stop()


def write(reader, directory):
    """The configuration of the master and the minion, as the pages have it, and pillar."""
    root = reader.sandbox.root
    profile = {"myvault": {"driver": "lab_sqlite", "database": str(reader.store)}, "sdb_dirs": [str(SDB)]}
    of_master = (REPOSITORY / "docs/master.conf").read_text()
    for_vault = yaml.safe_load(pages.block("docs/vault.md", "In the master's configuration:").text)
    for name in ("master.d", "minion.d"):
        (root / "etc/salt" / name).mkdir(parents=True)
    (root / "etc/salt/master").symlink_to(directory / "salt/master/master")
    (directory / "salt/master/master.d").symlink_to("/etc/salt/master.d")
    for placeholder, here in PLACEHOLDERS.items():
        of_master = of_master.replace(placeholder, here)
    (root / "etc/salt/master.d/ispmail.conf").write_text(of_master)
    del for_vault["ispmail"]["sites"]["main"]["database"]
    (root / "etc/salt/master.d/vault.conf").write_text(yaml.safe_dump({**for_vault, **profile}))
    (root / "etc/salt/minion.d/vault.conf").write_text(yaml.safe_dump(profile))
    pillar = PILLAR.format(port=reader.database.port, socket=reader.database.socket)
    for folder in (root / "srv/pillar", reader.salt.pillar):
        folder.mkdir(exist_ok=True)
        (folder / "ispmail.sls").write_text(pillar)
        (folder / "ispmail.sls").chmod(0o600)
        (folder / "top.sls").write_text("base: {'*': [ispmail]}\n")


def test_each_command_does_what_the_page_says(reader):
    wrong = []

    def type_(command):
        special = {"event.send": reader.send, "postfix_map.rollback": reader.undo}
        said = next((way(command) for text, way in special.items() if text in command.key), None)
        said = reader.type(command.text) if said is None else said
        if not re.search(pages.answer(command), said, re.MULTILINE):
            wrong.append(f"{command}\n{said}")

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for only_looks, commands in itertools.groupby(pages.to_type(), lambda command: bool(LOOK.search(command.key))):
            list((pool.map if only_looks else map)(type_, commands))
    assert not wrong, "\n\n".join(wrong)
    assert rcpt(reader.postfix.port, "jack@example.org")[0] == 250


def test_what_was_found_is_in_a_file_as_the_page_says(reader):
    """docs/adoption.md: its first line, and only root may read it."""
    path = reader.sandbox.root / "srv/pillar/mx1.sls"
    assert path.read_text().startswith("#!yaml\n") and path.stat().st_mode & 0o777 == 0o600
    assert (
        "THE PASSWORD OF THE ACCOUNT mailserver" in yaml.safe_load(path.read_text())["ispmail"]["database"]["password"]
    )


@pytest.mark.parametrize(
    "block",
    [
        pages.block("docs/operations.md", "`postconf.managed` takes the parameters:"),
        pages.block("docs/migration.md", "In an SLS of yours"),
    ],
    ids=lambda block: block.where,
)
def test_an_sls_of_the_reader(reader, block):
    (reader.sandbox.root / HERE / "salt/own.sls").write_text(block.text)
    assert re.search(r"Failed: +0$", reader.type("salt mx1 state.apply own"), re.MULTILINE)
    assert reader.type("postconf -h message_size_limit") == "20480000\n"


def test_the_statements_of_the_page_make_an_account(reader):
    """docs/consumers.md: Dovecot's own."""
    for statement in pages.block("docs/consumers.md", "alone. For Dovecot:").text.split(";"):
        if statement.strip():
            reader.database.sql(statement)
    assert reader.database.logs_in("another password", "dovecot")
