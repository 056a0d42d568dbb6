"""On a fresh machine with only a password in pillar: the set-up of the ISPmail guide, to the byte."""

import json

import pytest

from .. import pages
from .salted import CHECKOUT

PASSWORD = "seed-Pw1"
QUERIES = {
    "virtual_mailbox_domains": "SELECT 1 FROM virtual_domains WHERE name='%s'",
    "virtual_alias_maps": "SELECT destination FROM virtual_aliases WHERE source='%s'",
    "virtual_mailbox_maps": "SELECT 1 FROM virtual_users WHERE email='%s'",
}


@pytest.fixture(scope="module")
def server(machine):
    """The machine with the guide's database, a masterless minion as README has it, and smtpd in its chroot."""
    # Up to Debian 13 it is there anyway.
    machine.run(["sh", "-c", "postconf -F smtp/inet/chroot=y && systemctl restart postfix"])
    script = f"from lab.mariadb import Server, schema; schema(Server('/run/mysqld/mysqld.sock'), {PASSWORD!r})"
    machine.run(["env", f"PYTHONPATH={CHECKOUT}", "/opt/salt/bin/python", "-c", script])
    machine.write("/etc/salt/minion", f"file_client: local\nfile_roots: {{base: [{CHECKOUT}/salt]}}\n")
    machine.write("/srv/pillar/top.sls", "base: {'*': [ispmail]}\n")
    machine.write("/srv/pillar/ispmail.sls", f"ispmail: {{database: {{password: {PASSWORD}}}}}\n", 0o600)
    return machine


def apply(server):
    said = server.run(["salt-call", "--local", "--out=json", "state.apply", "ispmail"]).stdout
    return {
        name.split("_|-")[0] + "." + name.split("_|-")[3]: state for name, state in json.loads(said)["local"].items()
    }


def rcpt(server, address):
    command = ["python3", "-m", "lab.smtp", "127.0.0.1:25", "--seconds=0.1", "--sessions=1", f"{address}=0"]
    report = json.loads(server.run(["env", "-C", CHECKOUT, *command], check=False).stdout)
    return int(report["examples"][0].partition("got ")[2][:3])


def test_the_seed(server):
    states = apply(server)
    assert {state["result"] for state in states.values()} == {True}, states
    assert "postfix_map.managed" in states
    # Postfix 3.7 of Debian 12 asks a host at once again only where it is named twice.
    is_old = server.run(["postconf", "-h", "mail_version"]).stdout.startswith("3.7.")
    hosts = "127.0.0.1 127.0.0.1" if is_old else "127.0.0.1"
    for name, query in QUERIES.items():
        path = f"/etc/postfix/mariadb-{name.replace('_', '-')}.cf"
        assert server.read(path) == (
            f"user = mailserver\npassword = {PASSWORD}\nhosts = {hosts}\ndbname = mailserver\nquery = {query}\n"
        )
        assert server.run(["stat", "-c", "%U:%G %a", path]).stdout == "root:postfix 640\n"
        assert server.run(["postconf", "-n", name]).stdout == f"{name} = mysql:{path}\n"
    codes = {name: rcpt(server, f"{name}@example.org") for name in ("jack", "john", "nobody")}
    assert codes == {"jack": 250, "john": 250, "nobody": 550}


def test_the_second_apply_moves_nothing(server):
    look = [
        "stat",
        "-c",
        "%i %y %n",
        "/etc/postfix",
        "/etc/postfix/main.cf",
        "/etc/postfix/mariadb-virtual-alias-maps.cf",
    ]
    before = server.run(look).stdout
    states = apply(server)
    assert {name: state["changes"] for name, state in states.items() if state["changes"]} == {}
    assert server.run(look).stdout == before


@pytest.mark.parametrize("plugin", ["ed25519", "parsec"])
def test_an_account_that_only_the_chroot_cannot_use_is_refused(server, plugin):
    """postmap loads the plugin, smtpd in its chroot cannot: each RCPT would be a 451."""
    if plugin == "parsec" and server.run(["mariadb", "-Ne", "SELECT VERSION()"]).stdout.startswith("10.11."):
        pytest.skip("MariaDB 10.11 of Debian 12 has no parsec")
    sql = f"INSTALL SONAME 'auth_{plugin}'; CREATE USER {plugin}@127.0.0.1 IDENTIFIED VIA {plugin}"
    sql += f" USING PASSWORD('other'); GRANT SELECT ON mailserver.* TO {plugin}@127.0.0.1"
    server.run(["mariadb", "-e", sql])
    server.write("/srv/pillar/ispmail.sls", f"ispmail: {{database: {{user: {plugin}, password: other}}}}\n", 0o600)
    look = ["sha256sum", "/etc/postfix/main.cf", "/etc/postfix/mariadb-virtual-alias-maps.cf"]
    before = server.run(look).stdout
    said = server.run(["salt-call", "--local", "--out=json", "state.apply", "ispmail.maps"], check=False).stdout
    comment = next(s["comment"] for name, s in json.loads(said)["local"].items() if name.startswith("postfix_map"))
    assert "Nothing was changed" in comment and "could not be loaded" in comment, comment
    assert server.run(look).stdout == before
    assert rcpt(server, "jack@example.org") == 250


def test_a_plugin_that_is_copied_into_the_chroot_is_used(server):
    """It worked in smtpd, and the apply refused: it looked for plugins where there never are any."""
    server.write("/srv/pillar/ispmail.sls", "ispmail: {database: {user: ed25519, password: other}}\n", 0o600)
    copy = pages.block("docs/setup.md", "### MySQL").text
    server.run(["sh", "-c", copy.replace("caching_sha2_password", "client_ed25519")])
    states = apply(server)
    assert states["postfix_map.managed"]["result"] is True, states["postfix_map.managed"]["comment"]
    assert {name: rcpt(server, f"{name}@example.org") for name in ("jack", "nobody")} == {"jack": 250, "nobody": 550}
