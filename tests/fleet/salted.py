"""A master and its minions as Debian machines, a load on their mail servers, and what goes over the bus."""

import contextlib
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time

import yaml

from lab import wait_until as look_often
from lab.machine import Machine, start_all
from lab.minion import REPOSITORY
from lab.smtp import SLOW

CHECKOUT = "/srv/salt-ispmail"
EVENT = "ispmail/credentials/changed"
ROTATE = ["salt-run", "state.orchestrate", "orch.rotate"]
# All machines share the cores of one host. Salt leaves them to mail: what a load waits for is its lookups then.
UNIT = """[Unit]
After=network.target lab-network.service
[Service]
ExecStart=/usr/local/bin/salt-{0}
Restart=on-failure
CPUSchedulingPolicy=idle
[Install]
WantedBy=multi-user.target
"""


def wait_until(condition, seconds):
    """Wait until the condition holds, which runs commands on machines.

    A look costs 30 to 200 ms of processor time, and Salt gets only what is left: one after the other they took it
    almost one core of two, and it was late by that.
    """
    return look_often(condition, seconds, pause=0.5)


class Lab:
    """A master and other machines, in one network without a way out."""

    def __init__(self, root, network, names):
        """Nothing is started yet."""
        self.network = network
        self.machines = {name: Machine(name.replace(".", "-"), root, network) for name in ("master", *names)}
        self.master = self.machines["master"]
        self.minions = set()

    def serve(self, *files, **settings):
        """Write the master's configuration, of files in docs/ and more, while it is off."""
        config = {"auto_accept": True, "pillar_roots": {"base": ["/srv/pillar"]}, "log_level_logfile": "debug"}
        # How long Salt waits for a server that is down: a minute of each outage otherwise.
        config["gather_job_timeout"] = 4
        config["worker_threads"] = 2  # of the five that it has by default each takes seconds to start
        for file in files:
            config.update(yaml.safe_load((REPOSITORY / "docs" / file).read_text()))
        self.master.copy_in(REPOSITORY, CHECKOUT)
        self.master.write("/etc/salt/master", yaml.safe_dump({**config, **settings}))
        self.master.unit("salt-master", UNIT.format("master"))

    def enrol(self, name, **settings):
        """Make a machine a minion, while it is off."""
        config = {"master": self.master.address, "id": name, "log_level_logfile": "debug"}
        # A machine that comes back has to be heard of soon.
        config.update(acceptance_wait_time=1, auth_timeout=5, recon_max=2000)
        config.update(tcp_keepalive_idle=5, tcp_keepalive_intvl=5, tcp_keepalive_cnt=2)
        config.update(enable_fqdns_grains=False, enable_gpu_grains=False)
        self.machines[name].write("/etc/salt/minion", yaml.safe_dump({**config, **settings}))
        self.machines[name].unit("salt-minion", UNIT.format("minion"))
        self.minions.add(name)

    def start(self):
        """Start all machines, and wait for the minions."""
        start_all(*self.machines.values())
        self.wait_for_minions()

    def wait_for_minions(self, seconds=120):
        assert wait_until(lambda: set(self.salt("*", "test.ping")) == self.minions, seconds), "not all minions came"

    def salt(self, target, function, *arguments, timeout=90):
        """What `salt TARGET FUNCTION` returned: minion to result."""
        command = ["salt", "--out=json", "--static", "-L" if "," in target else "-E"]
        pattern = target if target != "*" else ".*"
        said = self.master.run([*command, pattern, function, *arguments], check=False, timeout=timeout).stdout
        try:
            return json.loads(said)
        except ValueError:
            return {}

    def orchestrate(self):
        """The rotation by hand: whether it succeeded, and all that it said."""
        done = self.master.run(ROTATE, check=False, timeout=300)
        return done.returncode == 0, done.stdout + done.stderr

    def send(self):
        """Say that the credentials have changed."""
        self.master.run(["salt-run", "event.send", EVENT])

    def succeed(self, target, sls):
        """Apply an SLS: what each server returned, all of it well."""
        # Else what a busy host does slowly is given up.
        said = self.salt(target, "state.apply", sls, "--timeout=60", timeout=180)
        assert said and all(isinstance(states, dict) for states in said.values()), said
        assert all(state["result"] for states in said.values() for state in states.values()), said
        return said


def python(machine, code):
    """Run Python of the checkout on a machine, as root, with Salt's own interpreter."""
    return machine.run(["env", f"PYTHONPATH={CHECKOUT}", "/opt/salt/bin/python", "-c", code]).stdout


class Load:
    """A steady load on mail servers, each by a process of its own."""

    def __init__(self, lab, replies, rate):
        """`replies`: a machine's name and a port, to what is asked there and the code of the reply."""
        self.lab, self.replies, self.rate = lab, replies, rate
        self.reports = {}

    def __enter__(self):
        command = [sys.executable, "-m", "lab.smtp", "--seconds=600", f"--rate={self.rate}", "--per-connection=5"]
        self._processes = {}
        for (name, port), replies in self.replies.items():
            asked = [f"{self.lab.machines[name].address}:{port}", *(f"{who}={code}" for who, code in replies.items())]
            self._processes[name, port] = self.lab.network.popen(
                [*command, *asked], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
            )
        time.sleep(1)
        return self

    def __exit__(self, *_):
        for process in self._processes.values():
            process.send_signal(signal.SIGTERM)
        for at, process in self._processes.items():
            try:
                self.reports[at] = json.loads(process.communicate(timeout=60)[0])
            except (ValueError, subprocess.TimeoutExpired):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                self.reports[at] = {"count": 0, "failed": -1, "longest": -1, "slow": -1}

    @property
    def count(self):
        return sum(report["count"] for report in self.reports.values())

    @property
    def failed(self):
        return sum(report["failed"] for report in self.reports.values())

    def __str__(self):
        reports = self.reports.values()
        longest, slow = max(each["longest"] for each in reports), sum(each["slow"] for each in reports)
        return f"{self.count:,} RCPTs, {self.failed} failed, longest {longest:.3f} s, {slow} over {SLOW} s"


@contextlib.contextmanager
def events(lab, pattern):
    """The events on the master's bus meanwhile whose tag matches. All that is heard stays in a file there."""
    path = f"/tmp/events-{secrets.token_hex(4)}"
    script = f"PYTHONUNBUFFERED=1 salt-run state.event pretty=False > {path}"
    listener = lab.master.popen(["sh", "-c", script], stderr=subprocess.DEVNULL)
    time.sleep(4)
    seen = []
    try:
        yield seen
        time.sleep(2)
    finally:
        os.killpg(listener.pid, signal.SIGTERM)
        seen += [line for line in lab.master.read(path).splitlines() if re.match(pattern, line)]
