"""docs/pillar on real machines: each site has its own, one event rotates both, and one's failure is not the other's."""

import json
import secrets
import sys
import time

import pytest
import yaml

from lab.minion import REPOSITORY

from .salted import Lab, Load, events, wait_until

MAIL = ("mx1.berlin", "mx2.berlin", "mx1.oslo")
MINIONS = ("db.berlin", "db.oslo", *MAIL)
USERS = {"berlin": "mailserver", "oslo": "postfix"}
# Part of every password here: one search finds each trace of any of them.
CORE = "Jw5Tn9" + secrets.token_hex(4)
STORE = "/etc/salt/mail.yaml"
CA = "/etc/ssl/certs/mail-db.pem"
TABLE_FILES = {"mx1.berlin": 3, "mx2.berlin": 3, "mx1.oslo": 6}
# Of a server, or of another instance on it: the port, and what it replies. 454: not a domain of this server.
ANSWERED = {
    "anna@berlin.example": 250,
    "post@berlin.example": 250,
    "nobody@berlin.example": 550,
    "post@oslo.example": 454,
}
REPLIES = {
    ("mx1.berlin", 25): ANSWERED,
    ("mx2.berlin", 25): ANSWERED,
    ("mx1.oslo", 25): {
        "kari@oslo.example": 250,
        "post@oslo.example": 250,
        "anybody@oslo.example": 250,
        "post@closed.example": 454,
        "post@berlin.example": 454,
    },
    ("mx1.oslo", 587): {"post@oslo.example": 250, "anybody@elsewhere.example": 250},
}

BERLIN_ROWS = """
INSERT INTO virtual_domains (name) VALUES ('berlin.example');
INSERT INTO virtual_users (domain_id, email, password) VALUES (1, 'anna@berlin.example', '!');
INSERT INTO virtual_aliases (domain_id, source, destination) VALUES (1, 'post@berlin.example', 'anna@berlin.example');
"""
OSLO_TABLES = """
CREATE DATABASE mail;
USE mail;
CREATE TABLE domains (domain VARCHAR(100) PRIMARY KEY, active INT);
CREATE TABLE mailboxes (address VARCHAR(100) PRIMARY KEY, active INT);
CREATE TABLE aliases (address VARCHAR(100) PRIMARY KEY, goto VARCHAR(100));
INSERT INTO domains VALUES ('oslo.example', 1), ('closed.example', 0);
INSERT INTO mailboxes VALUES ('kari@oslo.example', 1), ('ola@oslo.example', 1);
INSERT INTO aliases VALUES ('post@oslo.example', 'kari@oslo.example'), ('@oslo.example', 'kari@oslo.example');
"""
# The database server of Berlin takes no other connections than by TLS, and none of another authority is trusted.
CERTIFICATES = """
cd /etc/mysql
new="openssl req -x509 -nodes -newkey ec -pkeyopt ec_paramgen_curve:P-256 -days 2"
$new -keyout ca.key -out ca.pem -subj '/CN=The CA'
$new -keyout other.key -out other.pem -subj '/CN=Another CA'
$new -CA ca.pem -CAkey ca.key -keyout server.key -out server.pem -subj /CN=db.berlin \
    -addext "subjectAltName=IP:$1" -addext basicConstraints=critical,CA:FALSE
chgrp mysql server.key
chmod 640 server.key
printf '%s\n' '[mysqld]' ssl_cert=/etc/mysql/server.pem ssl_key=/etc/mysql/server.key require_secure_transport=on \
    >mariadb.conf.d/99-tls.cnf
systemctl restart mariadb
"""
# See MULTI_INSTANCE_README of Postfix. Users may send as themselves only, once they have logged in.
SECOND_INSTANCE = """
postmulti -e init
postmulti -I postfix-submission -e create
postconf() { command postconf -c /etc/postfix-submission "$@"; }
postconf -e master_service_disable= inet_interfaces=all inet_protocols=ipv4 mynetworks=198.18.0.0/15 mydestination= \
    smtpd_sasl_auth_enable=yes smtpd_sender_restrictions=reject_sender_login_mismatch
postconf -MX smtp/inet
postconf -M 'submission/inet=submission inet n - y - - smtpd'
unit=postfix@submission
# On Debian 12 it has the whole name, and starts no instance that is not enabled.
if grep -q 'postmulti -i %i' /usr/lib/systemd/system/postfix@.service; then
    unit=postfix@postfix-submission
    postmulti -i postfix-submission -e enable
fi
systemctl enable -q --now $unit
"""
# Nothing throttles a load, and processes come and go faster than anywhere: each new one asks for a login of its own.
BUSY = ("in_flow_delay=0s", "smtpd_peername_lookup=no", "max_use=2")


class Sites(Lab):
    """The servers of two sites: minions by the names that docs/pillar has for them, and pillar but for addresses."""

    def __init__(self, root, network):
        super().__init__(root, network, MINIONS)
        self.serve("master.conf", "pillar/sites.conf")
        addresses = {"192.0.2.%": "198.18.%"}
        addresses |= {"192.0.2.10": self.machines["db.berlin"].address, "192.0.2.20": self.machines["db.oslo"].address}
        for file in (REPOSITORY / "docs" / "pillar").glob("*.sls"):
            text = file.read_text()
            for there, here in addresses.items():
                text = text.replace(there, here)
            if file.stem in USERS:
                # What asks here whether the database takes a password is somebody else to a rotation.
                text += "  consumers:\n    lab: {programs: [python], ignore: true}\n"
            self.master.write(f"/srv/pillar/{file.name}", text)
        for name in MINIONS:
            grains = {"roles": ["mail"]} if name in MAIL else {}
            self.enrol(name, mail={"driver": "yaml", "files": [STORE]}, grains=grains)
        self.passwords = self.store("first")
        for site in USERS:
            listen = "[mysqld]\nbind-address=0.0.0.0\nskip-name-resolve\n"
            self.machines[f"db.{site}"].write("/etc/mysql/mariadb.conf.d/99-lab.cnf", listen)
        self.start()

    def store(self, name):
        """A new password for each site, in the sdb of all its minions, database server included; no event is sent."""
        passwords = {site: f"{CORE}-{site}-{name};%=#" for site in USERS}
        for minion in MINIONS:
            site = minion.partition(".")[2]
            self.machines[minion].write(STORE, json.dumps({site: passwords[site]}), 0o600)
        return passwords

    def accepts(self, site, password):
        """Whether the database of a site lets its account in with this password, from a mail server there."""
        login = {"host": self.machines[f"db.{site}"].address, "user": USERS[site], "password": password}
        code = f"import pymysql\ntry: pymysql.connect(**{login!r})\nexcept pymysql.err.OperationalError as err: "
        code += "print(err.args[0])"
        said = self.machines[f"mx1.{site}"].run(["/opt/salt/bin/python", "-c", code]).stdout.strip()
        assert said in ("", "1045"), f"the database of {site} says {said}"
        return not said

    def wait_for_rotation(self, site, old, new, seconds=240):
        """Until the database of a site takes the new password and no other."""
        done = wait_until(lambda: self.accepts(site, new[site]) and not self.accepts(site, old[site]), seconds)
        assert done, f"{site} still accepts the old password after {seconds} s"

    def holding(self, password):
        """Mail server to how many of its table files, in all instances, have this password."""
        command = ["sh", "-c", "cat /etc/postfix*/mariadb-*.cf"]
        lines = {name: self.machines[name].run(command).stdout.splitlines() for name in MAIL}
        return {name: said.count(f"password = {password}") for name, said in lines.items()}

    def rcpt(self, name, port, address, sender="test@sender.test"):
        code = "import sys; from lab import smtp; host, port, address, smtp.SENDER = sys.argv[1:]; "
        code += "print(smtp.rcpt(int(port), address, host)[0])"
        command = [sys.executable, "-c", code, self.machines[name].address, port, address, sender]
        return int(self.network.run(command, cwd=REPOSITORY).stdout)

    def replies(self):
        return {at: {address: self.rcpt(*at, address) for address in asked} for at, asked in REPLIES.items()}


@pytest.fixture(scope="module")
def sites(root, network):
    """Two sites whose mail servers answer from their databases, by the first passwords."""
    lab = Sites(root, network)
    berlin, oslo = lab.machines["db.berlin"], lab.machines["db.oslo"]
    berlin.run(["bash", "-euc", CERTIFICATES, "bash", berlin.address])
    for name in MAIL[:2]:
        lab.machines[name].write(CA, berlin.read("/etc/mysql/ca.pem"))
    oslo.run(["mariadb"], input=OSLO_TABLES)
    lab.succeed("db.*", "ispmail.database")
    berlin.run(["mariadb", "--skip-ssl", "mailserver"], input=BERLIN_ROWS)
    for name in MAIL:
        lab.machines[name].run(["postconf", "-e", *BUSY])
    lab.machines["mx1.oslo"].run(["bash", "-euc", SECOND_INSTANCE])
    lab.machines["mx1.oslo"].run(["postconf", "-c", "/etc/postfix-submission", "-e", *BUSY])
    assert set(lab.succeed("mx.*", "ispmail")) == set(MAIL)
    return lab


def test_pillar_goes_by_name_and_grain(sites):
    mail = {"ispmail", *yaml.safe_load((REPOSITORY / "docs/pillar/watch.sls").read_text())}
    keys = {"db.berlin": {"ispmail"}, "db.oslo": {"ispmail"}, "mx1.berlin": mail, "mx2.berlin": mail}
    keys["mx1.oslo"] = mail | {"ispmail_submission"}
    assert {name: set(said) for name, said in sites.salt("*", "pillar.ls").items()} == keys


def test_each_server_answers_from_its_own_database(sites):
    assert sites.replies() == REPLIES
    aliases = {"post@oslo.example": "kari", "anybody@oslo.example": "kari", "ola@oslo.example": "ola"}
    for address, goes_to in aliases.items():
        ask = f"postmap -q {address} $(postconf -h virtual_alias_maps | tr -d ,)"
        assert sites.machines["mx1.oslo"].run(["sh", "-c", ask]).stdout == f"{goes_to}@oslo.example\n"
    assert sites.holding(sites.passwords["berlin"]) == {**TABLE_FILES, "mx1.oslo": 0}
    assert sites.holding(sites.passwords["oslo"]) == {"mx1.berlin": 0, "mx2.berlin": 0, "mx1.oslo": 6}


def test_the_second_instance_asks_who_may_send_as_whom(sites):
    codes = [sites.rcpt("mx1.oslo", 587, "post@oslo.example", sender) for sender in ("kari@oslo.example", "x@y.test")]
    assert codes == [553, 250]
    # The first instance does not ask.
    assert sites.rcpt("mx1.oslo", 25, "post@oslo.example", "kari@oslo.example") == 250


def test_berlin_trusts_its_own_authority_only(sites):
    """What pillar says of TLS is in use: another server at that address would not get the login."""
    machine = sites.machines["mx2.berlin"]

    def ask():
        # Anew, by no connection that a proxymap has open.
        table = "mysql:/etc/postfix/mariadb-virtual-mailbox-domains.cf"
        return machine.run(["postmap", "-q", "berlin.example", table], check=False)

    authority = machine.read(CA)
    assert ask().stdout.strip()
    machine.write(CA, sites.machines["db.berlin"].read("/etc/mysql/other.pem"))
    said = ask()
    machine.write(CA, authority)
    assert said.returncode == 1 and "TLS/SSL error" in said.stderr and "certificate" in said.stderr, said


def test_one_event_rotates_both_sites(sites, capsys):
    old, new = sites.passwords, sites.store("second")
    began = time.monotonic()
    with events(sites, "ispmail/rotation/failed") as failed, Load(sites, REPLIES, rate=15) as load:
        sites.send()
        for site in USERS:
            sites.wait_for_rotation(site, old, new)
        took = time.monotonic() - began
    with capsys.disabled():
        print(f"\n2 sites, {took:.1f} s: {load}")
    assert load.failed == 0, load.reports
    assert not failed
    assert sites.holding(new["berlin"]) == {**TABLE_FILES, "mx1.oslo": 0}
    assert sites.holding(new["oslo"]) == {"mx1.berlin": 0, "mx2.berlin": 0, "mx1.oslo": 6}
    sites.passwords = new


def test_a_site_whose_database_server_is_away_keeps_its_password(sites, capsys):
    """It is named; the other site does not wait for it, and a second run finishes it."""
    old, new = sites.passwords, sites.store("third")
    database = sites.machines["db.oslo"]
    database.run(["systemctl", "stop", "salt-minion"])
    with events(sites, "ispmail/rotation/failed") as failed, Load(sites, REPLIES, rate=15) as load:
        sites.send()
        sites.wait_for_rotation("berlin", old, new)
        reported = ["sh", "-c", "grep -h ^ispmail/rotation/failed /tmp/events-*"]
        assert wait_until(lambda: sites.master.run(reported, check=False).stdout, 60), "the failure was not reported"
    assert load.failed == 0, load.reports
    (event,) = failed
    assert "the database server db.oslo does not answer" in event and "berlin" not in event, event
    assert sites.accepts("oslo", old["oslo"]) and not sites.accepts("oslo", new["oslo"])
    assert sites.holding(new["berlin"]) == {**TABLE_FILES, "mx1.oslo": 0}
    assert sites.holding(old["oslo"])["mx1.oslo"] == 6
    assert sites.replies() == REPLIES
    database.run(["systemctl", "start", "salt-minion"])
    sites.wait_for_minions()
    with Load(sites, REPLIES, rate=15) as again:
        good, said = sites.orchestrate()
    with capsys.disabled():
        print(f"\n1 of 2 away: {load}; when it was back: {again}")
    assert good, said
    assert again.failed == 0, again.reports
    assert sites.accepts("oslo", new["oslo"]) and not sites.accepts("oslo", old["oslo"])
    assert sites.holding(new["oslo"])["mx1.oslo"] == 6
    sites.passwords = new


def test_no_server_has_the_other_sites_password(sites):
    """The master has none at all: with sdb pillar is without."""
    for name, machine in sites.machines.items():
        command = f"grep -rahoE '{CORE}-[a-z]+' /etc /var /srv /tmp /root /run 2>/dev/null | sort -u || true"
        found = machine.run(["sh", "-c", command]).stdout.split()
        assert found == ([f"{CORE}-{name.partition('.')[2]}"] if name != "master" else []), name
