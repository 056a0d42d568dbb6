"""Debian's own Dovecot on the maps' account: rotations under IMAP, LMTP and SMTP, a restart of the database."""

import contextlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from lab.dovecot import configuration

from .conftest import untouched
from .salted import CHECKOUT, python, wait_until

FIRST = "dovecot-Pw0"
LOGIN = ("john@example.org", "mailSecret")
PORTS = {"host": "127.0.0.1", "imap_port": 143, "lmtp_port": 24, "port": 3306}
DIRECTORY = Path("/srv/dovecot")
# What to write in place of a login of Dovecot's own: 2.3 of Debian 12, 2.4 of newer ones.
OLD_LINES = "    connect = host=127.0.0.1 port=3306 dbname=mailserver option_file=/etc/dovecot/ispmail.cnf"
LINES = """\
    mysql 127.0.0.1 {
      dbname = mailserver
      port = 3306
      option_file = /etc/dovecot/ispmail.cnf
    }"""


def pytest_generate_tests(metafunc):
    """Both releases of Dovecot, or the one of the release that is asked for."""
    if "release" in metafunc.fixturenames:
        asked = metafunc.config.getoption("release")
        metafunc.parametrize("release", [asked] if asked else ["bookworm", "trixie"], scope="module")


@pytest.fixture(scope="module")
def server(release, root_of, network):
    """The guide's mail server: Dovecot logs in as the maps do, by a password in its own configuration."""
    with untouched(root_of(release), network) as machine:
        prepare(machine, release)
        yield machine


def prepare(machine, release):
    """Put in order what the tests need before Salt comes."""
    script = f"from lab.mariadb import Server, schema; schema(Server('/run/mysqld/mysqld.sock'), {FIRST!r})"
    python(machine, script)
    set_password = f"UPDATE mailserver.virtual_users SET password = '{{PLAIN}}{LOGIN[1]}'"
    machine.run(["mariadb", "-e", set_password])
    machine.write("/etc/salt/minion", f"file_client: local\nfile_roots: {{base: [{CHECKOUT}/salt]}}\n")
    machine.write("/srv/pillar/top.sls", "base: {'*': [ispmail]}\n")
    machine.run(["install", "-d", "-o", "mail", "-g", "mail", f"{DIRECTORY}/mail"])
    machine.run(["install", "-d", f"{DIRECTORY}/run", f"{DIRECTORY}/state"])
    machine.run(["ln", "-s", "/etc/dovecot", f"{DIRECTORY}/etc"])
    machine.run(["postconf", "-e", "in_flow_delay=0s", "smtpd_peername_lookup=no"])
    configure(machine, release, user="mailserver", password=FIRST)
    machine.run(["systemctl", "restart", "dovecot"])


def configure(server, release, **login):
    """Write Dovecot's configuration."""
    for name, text in configuration(release != "bookworm", DIRECTORY, login, **PORTS).items():
        server.write(f"/etc/dovecot/{name}", text, 0o640)


def write_pillar(server, password, **more):
    pillar = {"ispmail": {"database": {"password": password}, **more}}
    server.write("/srv/pillar/ispmail.sls", "#!json\n" + json.dumps(pillar), 0o600)


def apply(server, sls="ispmail"):
    """Each state's result and comment, by module and function."""
    said = server.run(["salt-call", "--local", "--out=json", "state.apply", sls], check=False).stdout
    states = json.loads(said)["local"]
    assert isinstance(states, dict), states
    return {
        f"{name.split('_|-')[0]}.{name.split('_|-')[3]}": (state["result"], state["comment"])
        for name, state in states.items()
    }


@contextlib.contextmanager
def load(server):
    """Logins, deliveries and RCPTs meanwhile; a dict that gets what became of them."""
    found = {}
    smtp = ["127.0.0.1:25", "--seconds=900", "--rate=30", "jack@example.org=250", "john@example.org=250"]
    commands = [["lab.dovecot", PORTS["host"], "143", "24", *LOGIN], ["lab.smtp", *smtp]]
    # The shell leaves its process id for the end.
    script = 'echo $$ >"/run/$3.pid"; exec "$@"'
    started = [
        server.popen(
            ["env", "-C", CHECKOUT, "sh", "-c", script, "load", "python3", "-m", *command],
            stdout=subprocess.PIPE,
            text=True,
        )
        for command in commands
    ]
    time.sleep(2)
    try:
        yield found
    finally:
        for command in commands:
            server.run(["sh", "-c", f"kill -TERM $(cat /run/{command[0]}.pid)"], check=False)
        for process, command in zip(started, commands):
            try:
                found[command[0]] = json.loads(process.communicate(timeout=90)[0])
            except (ValueError, subprocess.TimeoutExpired):
                os.killpg(process.pid, signal.SIGKILL)


def can_log_in(server):
    return (
        python(server, f"from lab.dovecot import imap_login; print(imap_login('127.0.0.1', 143, *{LOGIN!r}))") == "ok\n"
    )


def holders(server):
    """Those who hold the password and whom nobody has named: files, then programs."""
    said = server.run(["salt-call", "--local", "--out=json", "postfix_database.holders"]).stdout
    return sorted(json.loads(said)["local"]["unnamed"], key=lambda each: each["kind"])


def test_a_dovecot_with_a_password_of_its_own_stops_the_apply(server, release):
    assert can_log_in(server)
    write_pillar(server, FIRST, consumers={"dovecot": {}})
    result, comment = apply(server)["postfix_map.managed"]
    assert result is False and comment.endswith(OLD_LINES if release == "bookworm" else LINES), comment
    assert FIRST not in comment
    assert not server.run(["postconf", "-n", "virtual_alias_maps"]).stdout


def test_rotations_and_a_restart_of_the_database(server, release, times, capsys):
    configure(server, release, option_file="/etc/dovecot/ispmail.cnf")
    states = apply(server)
    assert {result for result, _ in states.values()} == {True}, states
    assert server.run(["stat", "-c", "%U:%G %a", "/etc/dovecot/ispmail.cnf"]).stdout == "root:dovecot 640\n"
    server.run(["systemctl", "restart", "dovecot"])
    assert wait_until(lambda: can_log_in(server), 30)
    with load(server) as found:
        for number in range(times):
            write_pillar(server, f'{FIRST}#"\\ {number}', consumers={"dovecot": {}})
            for step in ("credential_accepted", "drained", "credential_sole"):
                states = apply(server, f"ispmail.{step}")
                assert {result for result, _ in states.values()} == {True}, states
    with capsys.disabled():
        print(f"\n{release}, {times} rotations: {found}")
    check(found)
    server.run(["systemctl", "restart", "mariadb"])
    assert wait_until(lambda: can_log_in(server), 60), "Dovecot cannot log in with the new password"
    # Postfix ignores a database host for a minute after an error.
    server.run(["postfix", "reload"])
    time.sleep(3)
    with load(server) as found:
        time.sleep(10)
    check(found)


def check(found):
    mail, rcpts = found["lab.dovecot"], found["lab.smtp"]
    assert mail["failed logins"] == mail["failed mails"] == rcpts["failed"] == 0, found
    assert mail["logins"] > 20 and mail["mails"] > 20 and rcpts["count"] > 100, found


def test_what_a_rotation_did_before(server, release, capsys):
    """The guide's set-up: Dovecot has the password in its own configuration, and nobody has named it."""
    server.run(["rm", "/etc/dovecot/ispmail.cnf"])
    raw = f"{FIRST}-raw"
    configure(server, release, user="mailserver", password=raw if release == "bookworm" else f'"{raw}"')
    python(server, f"from lab.mariadb import *; set_password(Server('/run/mysqld/mysqld.sock'), '{raw}')")
    write_pillar(server, raw)
    assert apply(server)["postfix_map.managed"][0] is True
    server.run(["systemctl", "restart", "dovecot"])
    assert wait_until(lambda: can_log_in(server), 30)
    # What stops a rotation now, before anything is changed.
    found = holders(server)
    assert [each["kind"] for each in found] == ["file", "program"], found
    file, program = found
    assert file["where"] == f"/etc/dovecot/{'dovecot-sql.conf.ext' if release == 'bookworm' else 'dovecot.conf'}"
    assert program["where"] == "auth" and "auth (pid " in program["text"] and "dovecot.service" in program["text"]
    write_pillar(server, f"{FIRST}-new")
    for step in ("credential_accepted", "drained", "credential_sole"):
        assert {result for result, _ in apply(server, f"ispmail.{step}").values()} == {True}
    server.run(["systemctl", "restart", "mariadb"])
    time.sleep(3)
    server.run(["postfix", "reload"])
    with load(server) as found:
        time.sleep(10)
    with capsys.disabled():
        print(f"\n{release}, as it was before: {found}")
    assert found["lab.dovecot"]["failed logins"] == found["lab.dovecot"]["logins"] > 0, found
