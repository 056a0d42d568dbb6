"""Real Debian machines: systemd, a Postfix of Debian's own in its chroot, a MariaDB, Salt."""

import contextlib
import json
import os
import re
import time

import pytest

from lab.images import fleet as fleet_root
from lab.images import missing_requirements
from lab.machine import Machine
from lab.mariadb import native_hash
from lab.minion import REPOSITORY
from lab.network import Network

from .salted import CHECKOUT, Lab, Load, wait_until

# What the changes of a Postfix have replaced, for postfix_map.rollback: old passwords, and never one that is new.
HISTORY = "/var/cache/salt/minion/postfix_change/%2Fetc%2Fpostfix.history/"
MAIL = ("mx1", "mx2", "mx3", "mx4")
INTERVAL = 5
ANSWERED = {"jack@example.org": 250, "john@example.org": 250}
ROWS = """
INSERT INTO virtual_domains (name) VALUES ('example.org');
INSERT INTO virtual_users (domain_id, email, password) VALUES (1, 'john@example.org', '!');
INSERT INTO virtual_aliases (domain_id, source, destination) VALUES (1, 'jack@example.org', 'john@example.org');
"""


def pytest_collection_modifyitems(items):
    """Where there can be no machines these tests are left out, with the reason; in CI that is a failure."""
    reason = missing_requirements()
    if reason and os.environ.get("CI") != "true":
        for item in items:
            if item.path.is_relative_to(os.path.dirname(__file__)):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def root_of(pytestconfig):
    """A release to the root of a machine with Postfix, MariaDB and Salt."""
    return lambda release: fleet_root(release, pytestconfig.getoption("series"))


@pytest.fixture(scope="session")
def times(pytestconfig):
    """How many rotations are done under one load."""
    return pytestconfig.getoption("rotations")


@pytest.fixture(scope="session")
def root(root_of, pytestconfig):
    """The root of the machines of Debian 13, or of the release that is asked for."""
    return root_of(pytestconfig.getoption("release") or "trixie")


@pytest.fixture(scope="module")
def network():
    with Network() as lab:
        yield lab


@contextlib.contextmanager
def untouched(root, network):
    """One mail server that Salt has not touched, with this checkout on it."""
    with Machine("mx", root, network) as mx:
        mx.copy_in(REPOSITORY, CHECKOUT)
        yield mx


@pytest.fixture(scope="module")
def machine(root, network):
    """One of them."""
    with untouched(root, network) as mx:
        yield mx


class Fleet(Lab):
    """A database server with a replica, and four mail servers."""

    def __init__(self, root, network):
        super().__init__(root, network, ("db", "db2", *MAIL))
        self.db, self.replica = self.machines["db"], self.machines["db2"]
        self.mail = [self.machines[name] for name in MAIL]
        # With its cache a minion that compiles pillar gets an old one, until it refreshes it.
        self.serve("master.conf", pillar_cache=True)
        self.write_pillar("first-Pw1")
        for name in ("db", *MAIL):
            self.enrol(name)
        self.db.copy_in(REPOSITORY, CHECKOUT)
        shared = ("bind-address=0.0.0.0", "skip-name-resolve", "general_log=1", "general_log_file=general.log")
        for machine, own in ((self.db, ("server_id=1", "log_bin")), (self.replica, ("server_id=2", "read_only"))):
            machine.write("/etc/mysql/mariadb.conf.d/99-lab.cnf", "\n".join(["[mysqld]", *shared, *own, ""]))
        self.start()
        self._replicate()

    def logged(self, words):
        """How many statements with these words the database's general log has: it is in the data directory."""
        script = """grep -cF "$1" "$(mariadb -Ne 'SELECT @@datadir')general.log" || test $? = 1"""
        return int(self.db.run(["sh", "-c", script, "sh", words]).stdout)

    def _replicate(self):
        """Have the replica follow, from its first statement on."""
        account = "CREATE USER replica@'198.18.%' IDENTIFIED BY 'replica'; GRANT REPLICATION SLAVE ON *.* TO"
        self.db.run(["mariadb"], input=f"{account} replica@'198.18.%'")
        primary = f"MASTER_HOST='{self.db.address}', MASTER_USER='replica', MASTER_PASSWORD='replica'"
        primary += ", MASTER_USE_GTID=slave_pos, MASTER_CONNECT_RETRY=1"
        self.replica.run(["mariadb"], input=f"CHANGE MASTER TO {primary}; START SLAVE")

    def write_pillar(self, password, hosts=None, others=None, user="mailserver", rotation=None):
        """What pillar has from now on; no event is sent. `others`: minion to more of it, just for that one."""
        database = {"user": user, "password": password, "hosts": hosts or [self.db.address, self.replica.address]}
        beacons = {"postfix_credential": [{"interval": INTERVAL}, {"disable_during_state_run": True}]}
        # What asks here whether the database takes a password is somebody else to a rotation.
        consumers = {"lab": {"programs": ["mariadb"], "ignore": True}}
        ispmail = {
            "database": database,
            "server": {"accounts_host": "198.18.%"},
            "rotation": {"batch": 2, **(rotation or {})},
        }
        ispmail["consumers"] = consumers
        top = {"*": ["ispmail"]}
        for name, pillar in (others or {}).items():
            top[name] = [name]
            self.master.write(f"/srv/pillar/{name}.sls", "#!json\n" + json.dumps({"ispmail": pillar}), 0o600)
        self.master.write("/srv/pillar/top.sls", "#!json\n" + json.dumps({"base": top}))
        pillar = {"ispmail": ispmail, "beacons": beacons}
        self.master.write("/srv/pillar/ispmail.sls", "#!json\n" + json.dumps(pillar), 0o600)

    def logs_in(self, machine, password, host=None, user="mailserver"):
        """Whether the database lets the account in with this password, from that machine, by Postfix's library."""
        command = [
            "mariadb",
            "--skip-ssl",
            f"--host={(host or self.db).address}",
            f"--user={user}",
            "-e",
            "SELECT 1",
        ]
        done = machine.run(command, check=False, env={"MYSQL_PWD": password})
        assert not done.returncode or re.search(r"ERROR (1045|4151) ", done.stderr), done.stderr
        return not done.returncode

    def accepts(self, password):
        """Whether the database takes this password."""
        return self.logs_in(self.mail[0], password)

    def set_password(self, password):
        """Change it at the database, behind everybody's back."""
        how = f"IDENTIFIED VIA mysql_native_password USING '{native_hash(password)}'"
        self.db.run(["mariadb"], input=f"ALTER USER mailserver@'198.18.%' {how}")

    def wait_for_rotation(self, old, new, seconds=240):
        """Until the database takes the new password and no other."""
        began = time.monotonic()
        done = wait_until(lambda: self.accepts(new) and not self.accepts(old), seconds)
        assert done, f"the old password is still accepted after {seconds} s: {self.told()}"
        return time.monotonic() - began

    def is_well(self, password):
        """Whether everything runs, and this password is the one in use, and the only one."""
        if not all(machine.alive for machine in self.machines.values()):
            return False
        with contextlib.suppress(AssertionError):  # a database that is down, or cut off
            logins = [self.logs_in(mx, password, host) for mx in self.mail for host in (self.db, self.replica)]
            return all(logins) and all(self.holds(mx, password) for mx in self.mail) and self.password_count() == 1
        return False

    def password_count(self):
        """How many passwords the account has at the database."""
        shown = self.db.run(["mariadb", "-N", "-e", "SHOW CREATE USER mailserver@'198.18.%'"]).stdout
        return len(re.findall(r"'\*[0-9A-F]{40}'", shown))

    def repair(self, password):
        """Bring everything back, with a new password, whatever was going on."""
        for machine in self.machines.values():
            if not machine.alive:
                machine.start()
            machine.heal()
        for server in (self.db, self.replica):
            server.run(["systemctl", "start", "mariadb"])
        self.replica.run(["mariadb"], input="START SLAVE")
        self.write_pillar(password)
        self.wait_for_minions()
        self.set_password(password)
        self.salt(",".join(MAIL), "saltutil.refresh_pillar", "wait=True")
        # A beacon or an event may have them apply something just now: of two changes at a time, one gives up.
        assert wait_until(self.is_idle, 60), "a job does not end"
        self.succeed("mx.*", "ispmail")
        assert wait_until(lambda: self.is_well(password), 60), "the fleet cannot be repaired"

    def is_idle(self):
        """Whether no mail server has a job at work."""
        jobs = self.salt(",".join(MAIL), "saltutil.running")
        return len(jobs) == len(MAIL) and not any(jobs.values())

    def told(self):
        """What the last rotation has told on the master's bus, where a test listens."""
        found = self.master.run(["sh", "-c", "cat /tmp/events-* | grep ^ispmail/rotation/ | tail -n 12"], check=False)
        return found.stdout

    def load(self, names=MAIL, rate=20):
        """A steady load on some of the mail servers: so many RCPTs a second on each."""
        return Load(self, {(name, 25): ANSWERED for name in names}, rate)

    def files_with(self, text):
        """The files that have a text, by machine."""
        search = f"grep -rlaF '{text}' /var /etc /srv /tmp /root /run 2>/dev/null || true"
        return {name: set(each.run(["sh", "-c", search]).stdout.split()) for name, each in self.machines.items()}

    def kept_by_salt(self, text):
        """What the paths begin with in which Salt's master keeps pillar, and so this text: docs/security.md."""
        kept = ["/var/cache/salt/master/pillar"]
        if self.master.run(["salt", "--version"]).stdout.startswith("salt 3006"):
            kept.append("/var/cache/salt/master/minions/")
            # With pillar_cache, these two at level debug.
            others = (
                r"""grep -aF "$1" /var/log/salt/master | grep -avE '\[salt\.(pillar|utils\.cache) .*\]\[DEBUG ' || :"""
            )
            if not self.master.run(["sh", "-c", others, "sh", text]).stdout:
                kept.append("/var/log/salt/master")
        return tuple(kept)

    def holds(self, machine, password):
        """Whether the table files of a mail server have this password, all three."""
        count = machine.run(["sh", "-c", "cat /etc/postfix/mariadb-virtual-*.cf"]).stdout
        return count.count(f"\npassword = {password}\n") == 3


@pytest.fixture(scope="module")
def fleet(root, network):
    """A fleet whose mail servers answer from the database, by the first password."""
    lab = Fleet(root, network)
    lab.succeed("db", "ispmail.database")
    lab.db.run(["mariadb", "mailserver"], input=ROWS)
    for mx in lab.mail:
        # Nothing throttles a load, and processes come and go as on a busy server: what is measured is lookups. (Not
        # more often: a client of trivial-rewrite that connects in the very moment of a reload sleeps for a second.)
        mx.run(["postconf", "-e", "in_flow_delay=0s", "smtpd_peername_lookup=no", "max_use=10"])
    assert set(lab.succeed("mx.*", "ispmail")) == set(MAIL)
    yield lab
