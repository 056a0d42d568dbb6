"""Show the main job on private servers, and check each step. bin/demo runs this."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import salt.version

from lab import contents, is_free, scratch
from lab.dovecot import Dovecot, MailLoad
from lab.mariadb import MariaDB, schema, set_password
from lab.minion import REPOSITORY, Minion
from lab.postfix import Postfix
from lab.screen import Failed, Screen
from lab.signals import delayed_signals, exit_on_signals, ignore_signals
from lab.smtp import Load, Report, rcpt

OWN_POSTFIX = Path("/etc/postfix")  # of this machine: the demo must not change it

# What the ISPmail guide asks for: main.cf parameter to query.
MAPS = {
    "virtual_mailbox_domains": "SELECT 1 FROM virtual_domains WHERE name='%s'",
    "virtual_alias_maps": "SELECT destination FROM virtual_aliases WHERE source='%s'",
    "virtual_mailbox_maps": "SELECT 1 FROM virtual_users WHERE email='%s'",
}
# Lookups: the parameter of the map, what the key is, the key, and the answer.
QUESTIONS = (
    ("virtual_mailbox_domains", "domain", "example.org", "1"),
    ("virtual_mailbox_domains", "domain", "example.com", None),
    ("virtual_alias_maps", "alias", "jack@example.org", "john@example.org"),
    ("virtual_alias_maps", "alias", "john@example.org", None),
    ("virtual_mailbox_maps", "mailbox", "john@example.org", "1"),
    ("virtual_mailbox_maps", "mailbox", "nobody@example.org", None),
)
# Recipients of a mail client: address to the code of the reply, and what the address is.
RECIPIENTS = {
    "john@example.org": (250, "a mailbox"),
    "jack@example.org": (250, "an alias"),
    "nobody@example.org": (550, "neither"),
    "john@example.com": (554, "not our domain"),
}
# Who logs in to Dovecot.
MAILBOX, MAIL_PASSWORD = "john@example.org", "mailSecret"
# State IDs of salt/ispmail/*.sls.
SYNCED = "The modules for Postfix maps are synced"
MANAGED = "Postfix asks the maps that pillar names"
ACCEPTED = "The database accepts the password in pillar"
DRAINED = "No process asks with an older table file"
SOLE = "The database accepts only the password in pillar"
CLIENTS_PER_SMTPD = 10  # then a new smtpd process starts, and logs in to the database


class Demo:
    """The private servers, the minion, and the steps in their order. lab.demo_postgresql has those that differ."""

    server = "MariaDB"
    table_type = "mysql"
    user = "mailserver"
    # By which Postfix's client library tells that the database refuses a login.
    refusal = "Access denied for user 'mailserver'"

    def __init__(self, screen: Screen, directory: Path):
        """Start nothing yet."""
        self.screen = screen
        self.directory = directory
        self.token = secrets.token_hex(8)  # a part of each password: finding it is finding a password
        self.password = f"it's 100% {self.token} \\ #1;"
        self.db: Any = self.database(directory / "db")
        self._mail: Postfix | None = None
        self._dovecot: Dovecot | None = None
        self._is_synced = False
        self.minion = Minion(directory / "minion", enable_fqdns_grains=False)

    @staticmethod
    def database(directory: Path) -> Any:
        """The private database server, not started yet."""
        return MariaDB(directory)

    @property
    def mail(self) -> Postfix:
        """The private Postfix."""
        if self._mail is None:
            raise RuntimeError("Postfix was not started")
        return self._mail

    @property
    def dovecot(self) -> Dovecot:
        """The private Dovecot."""
        if self._dovecot is None:
            raise RuntimeError("Dovecot was not started")
        return self._dovecot

    def stop(self) -> None:
        """Stop the servers."""
        if self._dovecot:
            self._dovecot.stop()
        if self._mail:
            self._mail.stop()
        self.db.stop()

    def ports(self) -> list[int]:
        """Those that its servers listen on."""
        ports = [self.db.port, self.mail.port]
        return ports + ([self.dovecot.imap_port, self.dovecot.lmtp_port] if self._dovecot else [])

    def errors(self) -> str:
        """What may explain a failure: whether the database runs, and Postfix's last errors."""
        lines = [] if self.db.running else [f"{self.server} is not running"]
        log = self._mail.log.splitlines() if self._mail else []
        return "\n".join(lines + [line for line in log if re.search("warning|error|fatal|panic", line)][-3:])

    def run(self) -> None:
        """Run all steps. Failed if a check fails."""
        self.servers()
        self.pillar()
        self.main_job()
        self.lookups()
        self.recipients()
        self.second_apply()
        self.wrong_password()
        self.dovecot_joins()
        self.by_hand(self.rotation())

    def servers(self) -> None:
        """Start the servers, without any map."""
        self.screen.step("Start a private MariaDB with the guide's tables, and a private Postfix without maps", 22)
        with delayed_signals():
            self.db.start()
        schema(self.db, self.password)
        version = self.db.sql("SELECT VERSION()")[0][0].partition("-")[0]
        rows = self.db.sql("SELECT source, destination FROM mailserver.virtual_aliases")
        alias = (("jack@example.org", "john@example.org"),)
        self.screen.check(f"MariaDB {version}", rows, alias, f"listens on {address(self.db)}")
        self.start_postfix()

    def start_postfix(self) -> None:
        """Start a Postfix without any map."""
        self._mail = Postfix(self.directory / "mail", max_use=str(CLIENTS_PER_SMTPD))
        with delayed_signals():
            self.mail.start()
        version = self.mail.command("postconf", "-d", "-h", "mail_version").strip()
        where = f"listens on {address(self.mail)}, smtpd runs in Debian's chroot"
        self.screen.check(f"Postfix {version}", sorted(set(self.mail.postconf()) & set(MAPS)), [], where)
        self._check_recipient("john@example.org", 554, "john@example.org")

    def pillar(self) -> None:
        """Show the pillar."""
        self.screen.step("Write the pillar: all that Salt needs to know", 0)
        self._write_pillar(self.password)
        self.screen.quote(
            "ispmail:\n"
            "  database:\n"
            "    password: ********   # random in this demo; it may contain quotes, blanks, %, # and ;\n"
            f"    hosts: {address(self.db)}\n"
            "  postfix:\n"
            f"    config_directory: {self.mail.config_directory}"
        )
        self.screen.note(
            "Your server needs only the password: it uses the defaults for the rest.\n"
            "The output below shows this directory as /etc/postfix."
        )

    def main_job(self) -> None:
        """The first apply, and what it has written."""
        self.screen.step(f"Salt {salt.version.__version__} sets up the three maps", 41)
        code, states = self._apply()
        if not self._is_synced:
            self._check_synced(states)
        self._check_state(states, MANAGED, {"main.cf", *MAPS})
        self._check_exit_code(code, 0)
        self.screen.command("postconf -n", 23)
        live = self.mail.postconf(*MAPS)
        for parameter in MAPS:
            table = f"{self.table_type}:{self._file(parameter)}"
            self.screen.check(parameter, live.get(parameter), table, self._shortened(f"= {table}"))
        self.screen.command(f"cat /etc/postfix/{self._file('virtual_alias_maps').name}")
        self.screen.quote(self._file("virtual_alias_maps").read_text().replace(self.password, "********"))
        for parameter in MAPS:
            text = self._file(parameter).read_text()
            self.screen.check_silently(f"the content of {self._file(parameter)}", text, self._table_file(parameter))
        owned = {f"{path.owner()}:{path.group()} {path.stat().st_mode & 0o7777:04o}" for path in self._files()}
        text = "owner and mode root:postfix 0640, exactly the guide's five lines"
        self.screen.check("the three table files", owned, {"root:postfix 0640"}, text)

    def lookups(self) -> None:
        """Ask each map with postmap."""
        self.screen.step("Ask the maps what Postfix asks them", 26)
        tables = self.mail.postconf(*MAPS)
        parameter, _, key, _ = QUESTIONS[0]
        self.screen.command(self._shortened(f"postmap -q {key} {tables[parameter]}   # and five more"))
        for parameter, kind, key, answer in QUESTIONS:
            got = self.mail.postmap(key, tables[parameter])
            self.screen.check(f"{kind:7} {key}", got, answer, f"→ {got or 'no answer'}")

    def recipients(self) -> None:
        """Ask the server as a mail client does."""
        self.screen.step("Ask Postfix as a mail client does", 31)
        for address, (code, meaning) in RECIPIENTS.items():
            self._check_recipient(address, code, f"RCPT TO:<{address}>", f"  ({meaning})")

    def second_apply(self) -> None:
        """The second apply changes nothing."""
        self.screen.step("Apply again: nothing changes", 41)
        before = self._live_state()
        code, states = self._apply()
        changed = {name for name, state in states.items() if state["changes"]}
        self.screen.check_silently("states with changes", changed, set())
        self._check_state(states, MANAGED, set())
        self._check_exit_code(code, 0)
        self.screen.check("the live Postfix", self._changed_since(before), [], "no file written, no reload")

    def wrong_password(self) -> None:
        """A wrong password does not reach the live server."""
        self.screen.step("Put a wrong password into pillar, while clients ask Postfix for recipients", 22)
        before = self._live_state()
        self._write_pillar(f"wrong {self.token}")
        with self._load() as load:
            code, states = self._apply()
            report = load.stop()
        refused = states[MANAGED]
        self.screen.quote(refused["comment"])
        if self.refusal not in refused["comment"]:
            raise Failed("the comment of the apply", self.refusal, refused["comment"])
        self._check_exit_code(code, 1)
        changed = self._changed_since(before)
        self.screen.check_silently("changed files of Postfix and reloads", changed, [])
        self.screen.check("the apply", refused["result"], False, "is refused: no file written, no reload")
        self._check_load(report)

    def dovecot_joins(self) -> None:
        """A Dovecot on the same account gets its login from an option file that Salt writes."""
        self.screen.step("Add Dovecot, which logs in to the database with the same account", 41)
        self.db.sql("UPDATE mailserver.virtual_users SET password = %s", f"{{PLAIN}}{MAIL_PASSWORD}")
        option_file = self.directory / "dovecot" / "etc" / "ispmail.cnf"
        with delayed_signals():
            self._dovecot = Dovecot(self.directory / "dovecot", self.db.port, option_file=str(option_file))
        self._write_pillar(self.password)
        self.screen.quote("ispmail:\n  consumers:\n    dovecot: {}   # /etc/dovecot/ispmail.cnf, see docs/consumers.md")
        code, states = self._apply()
        self._check_state(states, MANAGED, {"consumer:dovecot"})
        self._check_exit_code(code, 0)
        with delayed_signals():
            self.dovecot.start()
        self.screen.check("Dovecot", self.dovecot.login(MAILBOX, MAIL_PASSWORD), "ok", f"{MAILBOX} logs in by IMAP")

    def rotation(self) -> Report:
        """A new password in the order of salt/orch/rotate.sls, without a failed lookup."""
        self.screen.step("Change the database password with Salt, while clients ask Postfix for recipients", 18)
        self.screen.note(
            f"Each smtpd process ends after {CLIENTS_PER_SMTPD} clients here, so new ones log in to the database all"
            " the time."
        )
        old, self.password = self.password, f"{self.token} is new"
        self.screen.check_silently(
            "whether the database accepts the old and the new password", self._accepted(old), (True, False)
        )
        self._write_pillar(self.password, server={"unix_socket": self.db.socket})
        before = self._smtpd_processes()
        logins = MailLoad(self.dovecot.imap_port, self.dovecot.lmtp_port, MAILBOX, MAIL_PASSWORD)
        with logins, self._load() as load:
            self._credential("accepted", ACCEPTED, old, (True, True), "accepts both the old and the new password")
            code, states = self._apply("ispmail.drained")
            files = {*MAPS, "consumer:dovecot"}
            self._check_state(states, MANAGED, files, "the files")
            secret = {"password": {"old": "***", "new": "***"}}
            changes = states[MANAGED]["changes"]
            self.screen.check_silently("the changes of the files", changes, dict.fromkeys(files, secret))
            self._check_state(states, DRAINED, set(), "Postfix")
            self._check_exit_code(code, 0)
            self._credential("sole", SOLE, old, (False, True), "accepts only the new password")
            time.sleep(1)  # enough to replace each smtpd process that runs now
            report = load.stop()
        enough = len(self._smtpd_processes() - before) >= 5
        self.screen.check_silently("at least 5 new smtpd processes during the rotation", enough, True)
        self._check_load(report)
        counts = logins.counts()
        failed = (counts["failed logins"], counts["failed mails"])
        text = f"{counts['logins']} logins, {counts['mails']} mails delivered by LMTP, {sum(failed)} failed"
        self.screen.check("Dovecot", failed, (0, 0), text)
        with delayed_signals():
            self.dovecot.restart()
        text = "logs in to the database anew after a restart"
        self.screen.check("Dovecot", self.dovecot.login(MAILBOX, MAIL_PASSWORD), "ok", text)
        self.dovecot.stop()
        text = "are in pillar, live files and (old ones) the history; in no output or log"
        self.screen.check("the passwords", self._leaks(), [], text)
        return report

    def by_hand(self, with_salt: Report) -> None:
        """Change the password by hand, as many do it, and count the failures."""
        self.screen.step("For comparison, change it by hand: the database, then the files, then a reload", 18)
        self.screen.command('mariadb -e "ALTER USER …"; sleep 1; sed -i … /etc/postfix/mariadb-*.cf; postfix reload')
        old, self.password = self.password, f"{self.token} is newer"
        with self._load() as load:
            time.sleep(1)
            set_password(self.db, self.password)
            time.sleep(1)
            for path in self._files():
                path.write_text(path.read_text().replace(old, self.password))
            self.mail.reload()
            time.sleep(2)
            report = load.stop()
        self.screen.check_silently(
            "whether the database accepts the old and the new password", self._accepted(old), (False, True)
        )
        self._compare(report, with_salt)

    def _compare(self, report: Report, with_salt: Report) -> None:
        """Show what a change by hand has lost, beside that by Salt."""
        code, _ = rcpt(self.mail.port, "john@example.org")
        self.screen.check_silently("the reply for john@example.org afterwards", code, 250)
        for failure in report.failures[:1]:
            self.screen.quote(f"{failure.code or 'no answer'} {failure.text}")
        self._check_load(report, failed=report.failed)
        text = f"by Salt 0 of {with_salt.count} failed, by hand {report.failed} of {report.count}"
        if not report.failed:
            text += ", by luck"
        self.screen.check("side by side", with_salt.failed, 0, text)

    def _write_pillar(self, password: str, **sections: dict) -> None:
        """Write the pillar for these servers."""
        database = {"password": password, "hosts": address(self.db)}
        postfix = {"config_directory": str(self.mail.config_directory)}
        if self._dovecot:
            files = {"option_file": str(self._option_file()), "config_file": str(self.dovecot.config_file)}
            sections["consumers"] = {"dovecot": files}
        self.minion.pillar = {"ispmail": {"database": database, "postfix": postfix, **sections}}

    def _apply(self, sls: str = "ispmail") -> tuple[int, dict[str, dict[str, Any]]]:
        """Run salt-call. Returns its exit code, and each state's ID with what the state returned."""
        self.screen.command(f"salt-call --local state.apply {sls}")
        done = self.minion.command("--out=json", "state.apply", sls, timeout=120)
        output = done.stdout + done.stderr
        self.screen.check_silently("whether the output of salt-call contains a password", self.token in output, False)
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
            return done.returncode, {state["__id__"]: state for state in json.loads(done.stdout)["local"].values()}
        command = f"salt-call --local state.apply {sls}"
        raise Failed(command, "a result for each state", f"exit code {done.returncode}\n{output}")

    def _check_synced(self, states: dict[str, dict[str, Any]]) -> None:
        """Check that the first apply has synced all files."""
        synced = states.get(SYNCED, {"changes": {}})["changes"].get("saltutil.sync_all", {})
        rooms = ("_modules", "_states", "_utils")
        modules = {f"{room[1:]}.{path.stem}" for room in rooms for path in REPOSITORY.glob(f"{room}/*.py")}
        names = {name for names in synced.values() for name in names}
        self.screen.check(SYNCED, names & modules, modules, f"{len(names)} files")
        self._is_synced = True

    def _check_exit_code(self, got: int, expected: int) -> None:
        self.screen.check_silently("salt-call's exit code", got, expected)

    def _check_state(self, states: dict[str, dict[str, Any]], name: str, changes: set[str], label: str = "") -> None:
        """Check that a state succeeded and made these changes, and show its comment."""
        state = self._succeeded(states, name)
        self.screen.check(label or name, set(state["changes"]), changes, state["comment"].replace("\n", ", "))

    @staticmethod
    def _succeeded(states: dict[str, dict[str, Any]], name: str) -> dict[str, Any]:
        """What a state returned. Failed if it did not run or did not succeed."""
        state = states.get(name, {"result": None, "changes": {}, "comment": f"not run, only {', '.join(states)}"})
        if state["result"] is not True:
            raise Failed(name, "the state succeeds", state["comment"])
        return state

    def _credential(self, sls: str, name: str, old: str, accepted: tuple[bool, bool], text: str) -> None:
        """Apply ispmail.credential_…, and check which of the old and the new password the database then accepts."""
        code, states = self._apply(f"ispmail.credential_{sls}")
        changes = self._succeeded(states, name)["changes"]
        self.screen.check_silently("the accounts that changed", set(changes), {self._account(sls)})
        self._check_exit_code(code, 0)
        self.screen.check("the database", self._accepted(old), accepted, text)

    def _account(self, step: str) -> str:
        """The account that a step of a rotation changes."""
        return "mailserver@127.0.0.1"

    def _check_recipient(self, address: str, code: int, label: str, remark: str = "") -> None:
        """Send one RCPT in a connection of its own, and show the reply."""
        got, text = rcpt(self.mail.port, address)
        text = text.replace(f"<{address}>: ", "").replace("Recipient address rejected: ", "")
        self.screen.check(label, got, code, f"{got} {text}{remark}")

    def _accepted(self, old: str) -> tuple[bool, bool]:
        """Whether the database accepts an old password, and the current one."""
        return self.db.logs_in(old), self.db.logs_in(self.password)

    def _smtpd_processes(self) -> set[str]:
        """The process ids of all smtpd processes that have had a client."""
        return set(re.findall(r"/smtpd\[(\d+)\]: connect from", self.mail.log))

    def _load(self) -> Load:
        """A steady load of RCPTs over many short connections, with the expected replies."""
        expected = {address: code for address, (code, _) in RECIPIENTS.items()}
        return Load(self.mail.port, expected, timeout=10, per_connection=2)

    def _check_load(self, report: Report, failed: int = 0) -> None:
        """Check that exactly so many RCPTs of a load failed, and show the numbers."""
        longest = max(report.longest, report.longest_connect)
        text = f"{report.count} RCPTs in {report.seconds:.1f} s, {report.failed} failed, longest wait {longest:.2f} s"
        if report.failed != failed:
            text = "\n".join([text, *report.examples])
        self.screen.check_silently("at least 20 RCPTs during this step", report.count >= 20, True)
        self.screen.check("the clients", f"{report.failed} failed", f"{failed} failed", text)

    def _file(self, parameter: str) -> Path:
        prefix = "mariadb" if self.table_type == "mysql" else self.table_type
        return self.mail.config_directory / f"{prefix}-{parameter.replace('_', '-')}.cf"

    def _files(self) -> list[Path]:
        return [self._file(parameter) for parameter in MAPS]

    def _option_file(self) -> Path:
        return self.dovecot.config_file.with_name("ispmail.cnf")

    def _table_file(self, parameter: str) -> str:
        """The content of a table file in the guide, with this demo's values."""
        # A Postfix before 3.10 has the host twice, see docs/costs.md.
        release = tuple(int(part) for part in self.mail.command("postconf", "-h", "mail_version").split(".")[:2])
        hosts = " ".join([address(self.db)] * (1 if release >= (3, 10) else 2))
        return (
            f"user = {self.user}\npassword = {self.password}\nhosts = {hosts}\n"
            f"dbname = mailserver\nquery = {MAPS[parameter]}\n"
        )

    def _live_state(self) -> dict[str, object]:
        """The files of the live Postfix, and how often it was reloaded."""
        state: dict[str, object] = {"reloads": self.mail.log.count("reload -- version")}
        return state | _files_in(self.mail.config_directory)

    def _changed_since(self, before: dict[str, object]) -> list[str]:
        """The names of what differs in the live state."""
        now = self._live_state()
        return sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))

    def _leaks(self) -> list[str]:
        """The files that contain a password and should not."""
        allowed = {self.minion.pillar_file, *self._files()}
        if self._dovecot:
            allowed.add(self._option_file())
        # What was replaced is kept there: an old password, and not the one in use.
        history = set(self.minion.cache.glob("postfix_change/*.history/*"))
        return sorted(
            str(path)
            for path, content in contents(self.directory, without=[self.db.directory])
            if path not in allowed and (self.password if path in history else self.token).encode() in content
        )

    def _shortened(self, text: str) -> str:
        """A text with the private configuration directory shown as /etc/postfix."""
        return text.replace(str(self.mail.config_directory), "/etc/postfix")


def address(server: Any) -> str:
    """Where a server of the lab listens."""
    return f"{server.host}:{server.port}"


def _files_in(directory: Path) -> dict[str, object]:
    """Name to content, inode, time, mode and owner of each file: equal only if no file was written."""
    state: dict[str, object] = {}
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            status = path.stat()
            owned = (status.st_mode, status.st_uid, status.st_gid)
            state[str(path.relative_to(directory))] = (path.read_bytes(), status.st_ino, status.st_mtime_ns, owned)
    return state


def _try(screen: Screen, steps: Callable[[], None], errors: Callable[[], str]) -> bool:
    """Run steps, and show the first failure. Returns whether all succeeded."""
    try:
        steps()
    except Failed as failed:
        screen.failed(failed.what, failed.expected, failed.got, errors())
    except BrokenPipeError:  # nobody reads the output
        raise
    except Exception as error:  # any error: a newcomer needs a sentence, not a traceback
        screen.failed(screen.title, "this step succeeds", f"{type(error).__name__}: {error}", errors())
    else:
        return True
    return False


def _show(screen: Screen, kind: type[Demo]) -> bool:
    """Run the demo and remove all that it started. Returns whether every check passed."""
    before = _files_in(OWN_POSTFIX)
    with contextlib.ExitStack() as stack:
        demo = kind(screen, stack.enter_context(scratch("demo-")))
        stack.callback(demo.stop)
        stack.callback(ignore_signals)
        good = _try(screen, demo.run, demo.errors)

    def check_removal() -> None:
        screen.step("Remove everything", 26)
        left: list[object] = [*demo.mail.processes(), *demo.directory.glob("*")]
        left += [demo.server] if demo.db.running else []
        left += [f"port {port}" for port in demo.ports() if not is_free(port)]
        screen.check("/etc/postfix", _files_in(OWN_POSTFIX) == before, True, "unchanged")
        screen.check("processes, ports and files", left, [], "gone")

    return good and _try(screen, check_removal, str)


def main(kind: type[Demo] = Demo) -> int:
    """The exit code: 0 if every check passed."""
    exit_on_signals()
    began = time.monotonic()
    screen = Screen()
    try:
        if not _show(screen, kind):
            screen.end("The demo failed, see above. Everything that it started has been removed.")
            return 1
        screen.end(
            f"All {screen.checks} checks passed in {time.monotonic() - began:.0f} seconds.\n"
            "Next: README.md explains how to use this on your mail server."
        )
    except SystemExit:
        with contextlib.suppress(OSError):
            screen.end("Stopped. Everything that was started has been removed.")
        raise
    except BrokenPipeError:  # nobody reads the output: keep Python from flushing the rest of it at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
