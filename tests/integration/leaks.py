"""Have a password go through all that a master and a minion do, and look for it everywhere.

`python -m tests.integration.leaks` prints, for each Salt series, what was done and searched, and the violations.

Every public function and SLS, the orchestration, reactor, beacon and runner run with a password that nothing else
has a part of; then they fail: the database is away, the password is wrong, a table file is damaged, a directory is in
the way, a folder is immutable, a job is killed, another program changes main.cf. Master and minion log all (trace). The
password is looked for, plain and in the usual encodings, in what each function returns by each outputter, in what the
programs print, in the logs, on the master's bus, in arguments and environment of each program that is started, and in
each file that any process of this machine writes meanwhile, also one that is gone again.

It may be where KEPT says, which is what docs/security.md says. Each of these places is shown to have it.
"""

import argparse
import base64
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab import HOST, scratch, wait_until
from lab.mariadb import MariaDB, native_hash, schema, set_password
from lab.minion import FILE_ROOTS, SERVING
from lab.postfix import Postfix
from lab.series import SERIES, Salt, runs_here

from .audit import Exec, Execs, Writes

# A part of each password here, in no need of quoting anywhere; no source file and no other run has it.
CORE = f"Qz7Hw4Kd9Rx2p{os.getpid()}"
HOLDER = Path(f"/usr/local/sbin/salt-ispmail-test-leak-{os.getpid()}")
CLIENT = Path(__file__).with_name("salt_client.py")


def password(number: int) -> str:
    """One of those that are tried."""
    return f"{CORE}-{number};=%#'\"\\"


def _needles() -> list[bytes]:
    raw = CORE.encode()
    found = [raw, raw.hex().encode(), raw.hex().upper().encode(), CORE.encode("utf-16-le"), raw[::-1]]
    # Whatever stands before it moves its base64 by up to two characters; the first and last depend on the neighbours.
    for before in range(3):
        found.append(base64.b64encode(b"\0" * before + raw)[4 if before else 0 : -4])
    # An escape leaves letters and digits alone. The hash is all that a server needs to know the password by.
    found += [native_hash(password(number))[1:].encode() for number in range(10)]
    return found


_NEEDLES = _needles()


def holds(data: bytes | str) -> bool:
    """Whether a password is in it, in any encoding."""
    raw = data if isinstance(data, bytes) else data.encode("utf-8", "surrogateescape")
    return any(needle in raw for needle in _NEEDLES)


@dataclass
class Seen:
    """What was done and searched, and where a password was."""

    counts: Counter[str] = field(default_factory=Counter)
    places: dict[str, set[str]] = field(default_factory=dict)  # a place to the steps after which it was found there
    wrong: list[str] = field(default_factory=list)

    def found(self, place: str, step: str) -> None:
        """Take down that a password is there."""
        self.places.setdefault(place, set()).add(step)


class Sampler(threading.Thread):
    """Looks at the arguments and environment of each process of this machine, over and over: they can be changed."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.seen: set[str] = set()
        self.looks = 0
        self._done = threading.Event()

    def run(self) -> None:
        while not self._done.wait(0.1):
            self.looks += 1
            for entry in Path("/proc").glob("[0-9]*"):
                for name in ("cmdline", "environ"):
                    with contextlib.suppress(OSError):
                        if holds((entry / name).read_bytes()):
                            self.seen.add(f"{name} of {(entry / 'comm').read_text().strip()}")

    def stop(self) -> None:
        self._done.set()
        self.join()


class Site:
    """A master and a minion of one series, beside a Postfix and a database, all watched."""

    def __init__(
        self, series: str, directory: Path, mariadb: MariaDB, postfix: Postfix, seen: Seen, cached: bool = False
    ) -> None:
        self.series, self.directory, self.mariadb, self.postfix, self.seen = series, directory, mariadb, postfix, seen
        self.config = postfix.config_directory
        self.option_file = directory / "program.cnf"
        self.step = "start"
        self.number = 1
        self.execs, self.sampler = Execs(), Sampler()
        self.writes = Writes(holds)
        self._read: dict[Path, int] = {}
        self._last: dict[Path, str] = {}
        sites = {"main": {"database": "lab", "mail": "lab"}}
        reactor = {"ispmail/credentials/changed": "rotate", "salt/beacon/*/postfix_credential/refused": "reapply"}
        self.salt = Salt(
            series,
            directory / "salt",
            FILE_ROOTS,
            more_of_master={
                "log_level_logfile": "trace",
                **SERVING,
                "ispmail": {"sites": sites},
                "reactor": [{tag: [f"salt://reactor/{name}.sls"]} for tag, name in reactor.items()],
                "pillar_cache": cached,
            },
            launcher=self.execs.launcher(),
            log_level_logfile="trace",
            loop_interval=1,
            beacons={"postfix_credential": [{"interval": 3}, {"disable_during_state_run": True}]},
            minion_pillar_cache=cached,
        )
        (self.salt.pillar / "top.sls").write_text("base: {'*': [ispmail]}\n")
        self.events = directory / "events"
        self.write_pillar()

    @contextlib.contextmanager
    def running(self) -> Iterator["Site"]:
        """All of it, up and watched."""
        self.execs.start()
        try:
            with self.writes, self.salt, contextlib.ExitStack() as stack:
                self.sampler.start()
                stack.callback(self.sampler.stop)
                self._client = self._python(stack, "client")
                self._python(stack, "listen", str(self.events))
                yield self
        finally:
            self.execs.stop()

    def _python(self, stack: contextlib.ExitStack, *arguments: str) -> "subprocess.Popen[str]":
        command = [str(self.salt.programs / "python"), str(CLIENT), str(self.salt.directory / "master"), *arguments]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
        stack.callback(process.wait)
        stack.callback(process.kill)
        assert process.stdout and process.stdout.readline() == "ready\n"
        return process

    def pillar(self, number: int | None = None) -> dict[str, Any]:
        """What pillar has, with one of the passwords."""
        return {
            "packages": False,
            "database": {
                "password": password(self.number if number is None else number),
                "hosts": f"{HOST}:{self.mariadb.port}",
            },
            "server": {"unix_socket": self.mariadb.socket},
            "postfix": {"config_directory": str(self.config)},
            "answers": [{"map": "virtual_alias_maps", "question": "jack@example.org", "answer": "john@example.org"}],
            "consumers": {
                "program": {"option_file": str(self.option_file), "programs": ["nobody"]},
            },
            "rotation": {"drain": 20},
        }

    def write_pillar(self, text: str | None = None, **sections: Any) -> None:
        """Write pillar as an admin does, in YAML; or another text."""
        if text is None:
            pillar = self.pillar()
            for name, section in sections.items():
                pillar[name] = {**pillar[name], **section} if isinstance(section, dict) else section
            text = "ispmail:\n" + "".join(f"  {name}: {json.dumps(value)}\n" for name, value in pillar.items())
        path = self.salt.pillar / "ispmail.sls"
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)

    def ask(self, name: str, *arguments: Any, kind: str = "local", **options: Any) -> Any:
        """What a function returned; all that is shown of it is searched."""
        assert self._client.stdin and self._client.stdout
        self._client.stdin.write(json.dumps([kind, name, arguments, options]) + "\n")
        self._client.stdin.flush()
        found = json.loads(self._client.stdout.readline())
        self.seen.counts["calls"] += 1
        for what, text in {"whole": found["whole"], **found["shown"]}.items():
            self.seen.counts["outputs"] += 1
            if holds(text):
                self.seen.found(f"what {name} returns", f"{self.step} ({what})")
        return found["returned"]

    def apply(self, sls: str = "ispmail", **options: Any) -> dict[str, Any]:
        """Apply an SLS: function of each state to its result and comment."""
        done = self.ask("state.apply", sls, **options)
        if not isinstance(done, dict):
            return {"none": (False, str(done))}
        return {
            "{}.{}".format(*re.split(r"_\|-", key)[::3]): (each["result"], each["comment"])
            for key, each in done.items()
        }

    def command(self, program: str, *arguments: str) -> str:
        """What a program of Salt printed, as an admin runs it; with all that it can log."""
        command = [str(self.salt.programs / program), "-c", str(self.salt.directory / "master"), *arguments]
        done = subprocess.run(command, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        self.seen.counts["programs"] += 1
        if holds(done.stdout + done.stderr):
            self.seen.found(f"what {program} prints", self.step)
        return done.stdout + done.stderr

    def look(self) -> None:
        """Look at all that has been logged and sent since the last look."""
        for name in ("master", "minion"):
            for what, path in (("log", f"{name}/log"), ("console", f"{name}.out")):
                for header in self._new(self.salt.directory / path):
                    self.seen.found(f"{name} {what}: {header}", self.step)
        for header in self._new(self.events):
            self.seen.found(f"bus: {header}", self.step)
        if self._new(self.postfix.log_file):
            self.seen.found("mail log", self.step)

    def _new(self, path: Path) -> list[str]:
        """Where in the new lines of a log a password is: level and logger, or tag of an event."""
        found = []
        with path.open("rb") as file:
            file.seek(self._read.get(path, 0))
            data = file.read()
        end = data.rfind(b"\n") + 1
        self._read[path] = self._read.get(path, 0) + end
        for line in data[:end].decode(errors="replace").split("\n"):
            self.seen.counts["events" if path == self.events else "log lines"] += 1
            if header := re.match(r".{19,25}\[([\w.]+)\s*:\d+\s*\]\[(\w+)\s*\]", line):
                self._last[path] = f"{header[2]} {header[1]}"
            elif header := re.match(r"\[(\w+)\s*\] ", line):
                self._last[path] = f"{header[1]} salt"
            elif path == self.events:
                self._last[path] = re.sub(r"\d{10,}|[0-9a-f]{20,}", "N", line.partition(" ")[0])
            if holds(line):
                found.append(self._last.get(path, ""))
                if "VERBOSE" in os.environ:
                    print(f"    {path.name}: {line[:200]}")
        return found

    def finish(self) -> None:
        """Look at all that has been written and started."""
        self.seen.counts["programs started"] = len(self.execs.seen)
        self.seen.counts["looks at all processes"] = self.sampler.looks
        self.seen.counts["files written"] = self.writes.count
        for place in self.sampler.seen:
            self.seen.found(place, "")
        for each in self.execs.seen:
            if any(map(holds, (*each.argv, *each.environment))):
                self.seen.found(f"arguments or environment of {each.argv[0]!r}", "")
        for written in self.writes.found:
            self.seen.found(self.file(written.path, written.mode, written.owner), "written")
        for folder in (self.directory, Path("/tmp"), Path("/var/tmp"), Path("/dev/shm")):
            for path in folder.rglob("*") if folder == self.directory else folder.glob("*"):
                with contextlib.suppress(OSError):
                    status = path.stat()
                    if path.is_file() and not path.is_symlink() and status.st_size < 2**26 and holds(path.read_bytes()):
                        owner = (status.st_uid, status.st_gid)
                        self.seen.found(self.file(str(path), status.st_mode & 0o7777, owner), "left")

    def file(self, path: str, mode: int, owner: tuple[int, int]) -> str:
        """A file as KEPT names it: without what is another one each time."""
        name = path.removesuffix(" (deleted)").replace(str(self.directory), "")
        name = re.sub(r"/jobs/../[0-9a-f]+/", "/jobs/…/", name)
        name = re.sub(r"/tmp[a-z0-9_]{6,8}$", "/tmp…", name)
        return f"file: {name} {mode:04o} {owner[0]}:{owner[1]}"


def at_exec(site: Site, name: bytes, word: bytes, act: Callable[[Exec], None]) -> None:
    """Do something once, before a program with this argument starts."""
    done = []

    def on_exec(found: Exec) -> None:
        if not done and os.path.basename(found.argv[0]) == name and word in found.argv:
            done.append(act(found))

    site.execs.on_exec = on_exec


def parent(pid: int) -> int:
    """The process that has started this one."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


# ---- What is done. Each step's name is what a violation is told with.


def first_apply(site: Site) -> None:
    """A dry run, the apply that syncs the modules, and the one that does it."""
    site.apply(test=True)
    done = site.apply()
    expect(site, done.get("postfix_map.managed", (None,))[0] is True, done)
    table = site.config / "mariadb-virtual-alias-maps.cf"
    expect(site, table.exists() and password(site.number) in table.read_text(), "not applied")


# All public functions: arguments and named arguments.
FUNCTIONS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "ispmail.version": ((), {}),
    "ispmail.reapply": ((), {}),
    "postconf.get": (("virtual_alias_maps",), {"config_directory": "CONFIG"}),
    "postconf.set": (({"biff": "no"},), {"config_directory": "CONFIG"}),
    "postfix_database.read": ((), {}),
    "postfix_database.tables": ((), {}),
    "postfix_database.account": ((), {}),
    "postfix_database.credential_accepted": ((), {}),
    "postfix_database.credential_sole": ((), {}),
    "postfix_database.refused": ((), {}),
    "postfix_database.holders": ((), {"site_hosts": [HOST]}),
    "postfix_doctor.check": ((), {"width": 200}),
    "postfix_map.read": ((), {}),
    "postfix_map.compare": ((), {}),
    "postfix_map.consumers": ((), {}),
    "postfix_map.old_processes": ((), {}),
    "postfix_map.lookup": (("virtual_alias_maps", "jack@example.org"), {}),
    "postfix_map.answers": ((), {}),
    "postfix_map.probe": ((), {}),
    "postfix_map.fingerprints": (("0123456789abcdef",), {}),
    "postfix_map.found": ((), {"config_directory": "CONFIG"}),
    "postfix_map.apply": ((), {"test": True}),
    "postfix_map.remove": ((), {"test": True}),
    "postfix_map.history": ((), {}),
    "postfix_map.rollback": ((), {"test": True}),
}
RUNNERS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "ispmail.sites": ((), {}),
    "ispmail.holders": ((), {"site": "main"}),
    "ispmail.prove": ((), {"site": "main"}),
    "ispmail.reapply": ((), {}),
    "ispmail.rotate": ((), {"test": True}),
}
SLS = ("answers", "consumers", "credential_accepted", "credential_sole", "database", "drained", "maps", "modules")


def functions(site: Site) -> None:
    """Every public function of modules and runner, on a site that is in order; one file has the password unnamed."""
    HOLDER.write_text(f"#!/bin/sh\n# {password(site.number)}\n")
    for name, (arguments, options) in FUNCTIONS.items():
        here = {"config_directory": str(site.config)} if "config_directory" in options else {}
        site.ask(name, *arguments, **{**options, **here})
    for name, (arguments, options) in RUNNERS.items():
        site.ask(name, *arguments, kind="runner", **options)
    HOLDER.unlink(missing_ok=True)


def every_sls(site: Site) -> None:
    """Every SLS, as a dry run and really; what Salt tells of them."""
    for name in SLS:
        site.apply(f"ispmail.{name}", test=True)
        site.apply(f"ispmail.{name}")
    for function in ("state.show_sls", "state.show_low_sls", "state.sls_exists"):
        site.ask(function, "ispmail")
    site.apply("ispmail.clean", test=True)
    site.apply("ispmail.clean")
    site.apply()


def rotation(site: Site) -> None:
    """A new password by `salt-run ispmail.rotate`, as an admin runs it with all that it can log."""
    site.number += 1
    site.write_pillar()
    printed = site.command("salt-run", "-l", "trace", "ispmail.rotate", "watch=1")
    live = (site.config / "mariadb-virtual-alias-maps.cf").read_text()
    expect(site, password(site.number) in live, f"not rotated: {printed[-1500:]}")


def reactor(site: Site) -> None:
    """A new password by the event, as anybody may send it."""
    site.number += 1
    site.write_pillar()
    site.ask("ispmail/credentials/changed", kind="event")
    table = site.config / "mariadb-virtual-alias-maps.cf"
    expect(site, wait_until(lambda: password(site.number) in table.read_text(), 90), "the event rotated nothing")
    wait_until(lambda: b"ispmail/rotation/failed" in site.events.read_bytes() or accepted(site) == 1, 60)
    expect(site, accepted(site) == 1, "the old password is still accepted")


def accepted(site: Site) -> int:
    """How many passwords the account accepts."""
    ((priv,),) = site.mariadb.sql("SELECT Priv FROM mysql.global_priv WHERE User = 'mailserver'")
    return str(priv).count("mysql_native_password")


def beacon(site: Site) -> None:
    """The database refuses the login: the beacon sends an event, and each server applies what pillar has."""
    site.number += 1
    site.write_pillar()
    set_password(site.mariadb, password(site.number))
    table = site.config / "mariadb-virtual-alias-maps.cf"
    expect(site, wait_until(lambda: password(site.number) in table.read_text(), 60), "the beacon has not seen it")


def look_around(site: Site) -> None:
    """What an admin asks where something is wrong."""
    for name in ("postfix_map.lookup", "postfix_doctor.check", "postfix_database.refused", "postfix_map.read"):
        arguments, options = FUNCTIONS[name]
        site.ask(name, *arguments, **options)


def wrong_password(site: Site) -> None:
    """Pillar has another password than the account."""
    with_pillar(site, database={"password": password(9)})


def with_pillar(site: Site, **sections: Any) -> None:
    """An apply with something else in pillar, which it refuses."""
    site.write_pillar(**sections)
    for options in ({"test": True}, {}):
        done = site.apply(**options)
        expect(site, done.get("postfix_map.managed", (None,))[0] is False, done)
    site.ask("postfix_doctor.check")
    site.write_pillar()


def faults_in_pillar(site: Site) -> None:
    """A password with a newline, a key without its blank, a password as another type or in another place."""
    secret = password(site.number)
    with_pillar(site, database={"password": f"{secret}\nhosts = evil.example"})
    with_pillar(site, database={f"password:{secret}": None, "hosts": secret})
    with_pillar(site, database={"password": [secret], "passwort": secret, "port": {secret: secret}})
    with_pillar(site, answers=[secret], consumers={secret: secret}, server=[secret])


def database_away(site: Site) -> None:
    """The database does not run."""
    site.mariadb.stop()
    try:
        with_pillar(site, database={"password": password(9)})
        look_around(site)
        site.ask("ispmail.rotate", kind="runner", watch=0)
    finally:
        site.mariadb.start()
    site.postfix.reload()


def damaged_table_file(site: Site) -> None:
    """Somebody has made the live table file unreadable."""
    path = site.config / "mariadb-virtual-alias-maps.cf"
    text = path.read_text()
    for damage in ("password {}\n", "password = a\u2028{0}\npassword = {0}2\n", "\ufeffpasswort = {}\n = {}\n"):
        path.write_text(damage.replace("{}", "{0}").format(password(site.number)) + text)
        os.utime(path, (1, 1))
        look_around(site)
        site.apply(test=True)
        site.ask("postfix_map.found", config_directory=str(site.config))
    path.write_text(text)
    os.utime(path, (1, 1))


def in_the_way(site: Site) -> None:
    """A directory has the name of a work file; then the folder is immutable."""
    path = site.config / ".mariadb-virtual-alias-maps.cf.new"
    path.mkdir()
    differing(site)
    path.rmdir()
    subprocess.run(["chattr", "+i", str(site.config)], check=True)
    try:
        differing(site)
    finally:
        subprocess.run(["chattr", "-i", str(site.config)], check=True)


def differing(site: Site) -> None:
    """An apply that would change each table file, and cannot."""
    with_pillar(site, database={"hosts": [f"{HOST}:{site.mariadb.port}"] * 3})


def killed(site: Site) -> None:
    """The job is killed after the renames; the next apply goes on from there."""
    site.number += 1
    set_password(site.mariadb, password(site.number))
    site.write_pillar()
    at_exec(site, b"postfix", b"reload", lambda found: os.kill(parent(found.pid), signal.SIGKILL))
    site.apply()
    expect(site, password(site.number) in (site.config / "mariadb-virtual-alias-maps.cf").read_text(), "killed early")
    look_around(site)
    done = site.apply()
    expect(site, done.get("postfix_map.managed", (None,))[0] is True, done)


def another_program(site: Site) -> None:
    """Another program changes main.cf while an apply does."""
    site.ask("postfix_map.remove")

    def change(_: Exec) -> None:
        with site.postfix.main_cf.open("a") as file:
            file.write("# meanwhile\n")

    at_exec(site, b"postconf", b"-e", change)
    site.apply()
    site.apply()


def silent_smtpd(site: Site) -> None:
    """smtpd does not answer: everything is put back."""
    expect(site, site.postfix.pid, "Postfix does not run")
    os.kill(site.postfix.pid or 0, signal.SIGSTOP)
    try:
        site.write_pillar(database={"hosts": [f"{HOST}:{site.mariadb.port}"] * 3})
        site.apply()
    finally:
        os.kill(site.postfix.pid or 0, signal.SIGCONT)
    site.write_pillar()
    site.apply()


def expect(site: Site, is_so: object, text: object) -> None:
    """A step that did not do what it is for proves nothing."""
    if not is_so:
        site.seen.wrong.append(f"{site.series}, {site.step}: {text!s:.1500}")


# ---- What Salt itself keeps: shown, so that docs/security.md is right.


def pillar_items(site: Site) -> None:
    """A command of Salt's that returns pillar."""
    site.ask("pillar.items")
    site.ask("pillar.get", "ispmail:database:password")


def highstate(site: Site) -> None:
    """An apply of what the top file says, and a sync that looks there for environments."""
    done = site.ask("state.apply")
    expect(site, isinstance(done, dict) and all(each["result"] for each in done.values()), done)
    site.ask("saltutil.sync_all")


def pillar_on_the_command_line(site: Site) -> None:
    """`salt … pillar='{…}'`."""
    site.ask("state.apply", "ispmail.modules", pillar={"ispmail": site.pillar()})


def broken_pillar(site: Site) -> None:
    """A line that is no YAML; a Jinja error; a Jinja expression that fails."""
    for text in (
        f"ispmail:\n  database:\n    password: !{CORE}\n",
        f"ispmail:\n  database:\n    password: '{CORE}' {{{{ 1 | nothing }}}}\n",
        f"ispmail:\n  database:\n    password: {CORE} {{% if %}}\n",
        f"#!py\ndef run():\n    raise ValueError('{CORE}')\n",
    ):
        site.write_pillar(text)
        site.apply(test=True)
        site.look()
    site.write_pillar()


def on_the_server(site: Site) -> None:
    """An apply by `salt-call`, on the mail server itself."""
    configuration = str(site.salt.directory / "minion")
    command = [str(site.salt.programs / "salt-call"), "-c", configuration, "state.apply", "ispmail"]
    done = subprocess.run(command, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    expect(site, done.returncode == 0 and not holds(done.stdout + done.stderr), done)


OURS = (first_apply, functions, every_sls, rotation, reactor, beacon, wrong_password, faults_in_pillar, database_away)
OURS += (damaged_table_file, in_the_way, killed, another_program, silent_smtpd)
SALTS = (highstate, pillar_items, pillar_on_the_command_line, broken_pillar)
# Once more, with the options that keep pillar in a cache.
CACHED = (first_apply, on_the_server)
# What bin/test does.
SHARE = (first_apply, highstate, wrong_password, look_around, pillar_items, broken_pillar)


@dataclass(frozen=True)
class Kept:
    """A place where a password may be.

    With `after` it must be there after this step, and may not where that is no step; with `own` after no other one.
    """

    place: str  # a regular expression
    series: str = ""  # of one series only
    after: Callable[[Site], None] | None = None
    own: bool = False


def replaced(directory: str, name: str) -> str:
    """A file that Salt writes beside its place, makes readable for all there and then renames.

    What a writer has closed is asked for its mode and then for its name: each of the two changes may be in between.
    """
    return rf"file: {directory}/({name}|\.___atomic_write\w+) 06(00|44) 0:0"


# What docs/security.md lists, in its order. `own`: nothing else that is done here may cause it.
KEPT = (
    # Ours: table files and option files, and their work files.
    Kept(r"file: /mail/etc/mariadb-[a-z-]+\.cf 0640 0:\d+", after=first_apply),
    Kept(r"file: /mail/etc/\.mariadb-[a-z-]+\.cf\.(new|old) 0640 0:\d+"),
    Kept(r"file: /program\.cnf 0640 0:0", after=first_apply),
    Kept(r"file: /\.program\.cnf\.(new|old) 0640 0:0"),
    # What the last changes replaced, for a rollback: a folder of root's own, 0700. Nothing after a first apply.
    Kept(r"file: /salt/minion/cache/postfix_change/\S+\.history/(\d|pending(\.new)?) 0600 0:0", after=rotation),
    # The database server has the hash. The unnamed holder is a test's.
    Kept(r"file: /db/data/\S+ \d+ \d+:\d+"),
    # Postfix itself logs a line of a table file that it cannot read.
    Kept(r"mail log", after=damaged_table_file, own=True),
    # Salt: the source of pillar, and its caches.
    Kept(r"file: /salt/pillar/ispmail\.sls 0600 0:0", after=first_apply),
    Kept(r"file: /salt/pillar/__pycache__/ispmail\.\S+ 0600 0:0"),
    Kept(r"file: /salt/master/cache/pillar/(\w+\.p|tmp…) 0600 0:0", "3008", first_apply),
    Kept(r"file: /salt/master/cache/minions/\w+/(data\.p|tmp…) 0600 0:0", "3006", first_apply),
    # To ask for the top file the minion of 3006 sends its whole configuration to the master, pillar included.
    Kept(r"minion log: TRACE salt\.channel\.client", "3006", first_apply),
    Kept(r"minion log: TRACE salt\.channel\.client", "3006", highstate),
    # Commands that return pillar: on 3006 in all that has an output of a job.
    Kept(r"what pillar\.(items|get) returns", "3006", pillar_items, own=True),
    Kept(r"bus: salt/job/N/ret/lab", "3006", pillar_items, own=True),
    Kept(replaced("/salt/master/cache/jobs/…/lab", r"return\.p"), "3006", pillar_items, own=True),
    Kept(r"(master|minion) log: (INFO|DEBUG|TRACE) salt\.\S+", "3006", pillar_items, own=True),
    # Pillar on the command line is an argument of the job.
    Kept(r"bus: salt/job/N/(new|publish|ret/lab)", after=pillar_on_the_command_line, own=True),
    Kept(replaced("/salt/master/cache/jobs/…", r"\.load\.p"), after=pillar_on_the_command_line, own=True),
    Kept(r"file: /salt/minion/cache/proc/\d+ 0644 0:0", after=pillar_on_the_command_line, own=True),
    Kept(r"(master|minion) log: (DEBUG|TRACE) salt\.\S+", after=pillar_on_the_command_line, own=True),
    # The log of the one that renders pillar.
    Kept(r"master (log|console): (CRITICAL|ERROR) salt(\.pillar|\.utils\.templates|)", after=broken_pillar, own=True),
)
# With the options of master and minion that keep pillar in a cache. The two folders are root's own, 0700.
KEPT_CACHED = (
    *KEPT,
    Kept(r"file: /salt/minion/cache/pillar/cache\.sls 06(00|44) 0:0", after=on_the_server, own=True),
    Kept(replaced("/salt/master/cache/pillar_cache", "lab"), "3006", first_apply),
    Kept(r"master log: DEBUG salt\.(pillar|utils\.cache)", "3006", first_apply),
)
# The logs, which are looked at after each step, and what is the test's own.
_LOOKED_AT = r"file: (/salt/(master|minion)(/log|\.out)|/mail/log/mail\.log|/events|/usr/local/sbin/\S+) \d+ 0:0"


def violations(
    seen: Seen, series: str, steps: Collection[Callable[[Site], None]], kept: tuple[Kept, ...] = KEPT
) -> list[str]:
    """Where a password is and may not be, and where one should be, and is not."""
    found = []
    mine = [each for each in kept if each.series in ("", series) and (not each.after or each.after in steps)]
    for place, names in seen.places.items():
        may_be = [each for each in mine if re.fullmatch(each.place, place)]
        causes = {name.partition(" ")[0] for name in names} - {"written", "left"}
        odd = causes - {each.after.__name__ for each in may_be if each.after}
        if not re.fullmatch(_LOOKED_AT, place) and (not may_be or (odd and all(each.own for each in may_be))):
            found.append(f"{series}: a password is in {place}, after {', '.join(sorted(names))}")
    for each in mine:
        if each.after and not any(re.fullmatch(each.place, place) for place in seen.places):
            found.append(f"{series}: no password is in {each.place}: docs/security.md says so")
    return found


def run(series: str, steps: tuple[Callable[[Site], None], ...], cached: bool = False) -> Seen:
    """All of it, on one series; cached: with the options of master and minion that keep pillar in a cache."""
    seen = Seen()
    with scratch("k-") as directory, MariaDB(directory / "db") as mariadb, Postfix(directory / "mail") as postfix:
        schema(mariadb, password(1))
        site = Site(series, directory, mariadb, postfix, seen, cached)
        with site.running():
            for step in steps:
                site.step = step.__name__
                began = time.monotonic()
                site.execs.on_exec = lambda _: None
                step(site)
                site.look()
                if "VERBOSE" in os.environ:
                    print(f"{site.step}: {time.monotonic() - began:.1f} s", file=sys.stderr)
        site.look()
        site.finish()
    return seen


def main() -> int:
    """Run it, and print the figures."""
    parser = argparse.ArgumentParser(prog="python -m tests.integration.leaks", description=__doc__)
    parser.add_argument("--series", default=",".join(SERIES))
    parser.add_argument("--share", action="store_true", help="only what bin/test does")
    options = parser.parse_args()
    steps = SHARE if options.share else (*OURS, *SALTS)
    bad = 0
    for series in filter(runs_here, options.series.split(",")):
        for name, cached, these, kept in (("", False, steps, KEPT), (", with caches", True, CACHED, KEPT_CACHED)):
            seen = run(series, these, cached)
            if "VERBOSE" in os.environ:
                for place, names in sorted(seen.places.items()):
                    print(f"  {place}  <- {', '.join(sorted(names))[:150]}")
            found = violations(seen, series, these, kept)
            for each in (*seen.wrong, *found):
                print(each)
            counts = ", ".join(f"{count} {what}" for what, count in seen.counts.items())
            print(f"Salt {series}{name}: {len(these)} steps, {counts}; {len(found)} violations")
            bad += len(found) + len(seen.wrong)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
