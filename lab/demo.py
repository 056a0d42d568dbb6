"""The main job on private servers, each step checked, for people to read: run it by bin/demo."""

import contextlib
import itertools
import json
import os
import re
import secrets
import signal
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import pymysql
import salt.version

from lab import is_free, scratch
from lab.mariadb import MariaDB, schema, set_password
from lab.minion import REPOSITORY, Minion
from lab.postfix import Postfix
from lab.smtp import Load, Report, rcpt

WIDTH = 99
INDENT = "   "
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
THE_MACHINES = Path("/etc/postfix")  # what we never touch

# What the ISPmail guide asks for: parameter, table file, query.
MAPS = {
    "virtual_mailbox_domains": ("mariadb-virtual-mailbox-domains.cf", "SELECT 1 FROM virtual_domains WHERE name='%s'"),
    "virtual_alias_maps": (
        "mariadb-virtual-alias-maps.cf",
        "SELECT destination FROM virtual_aliases WHERE source='%s'",
    ),
    "virtual_mailbox_maps": ("mariadb-virtual-mailbox-maps.cf", "SELECT 1 FROM virtual_users WHERE email='%s'"),
}
# Its questions: to the map of which parameter, for what, which key, and the answer.
QUESTIONS = (
    ("virtual_mailbox_domains", "domain", "example.org", "1"),
    ("virtual_mailbox_domains", "domain", "example.com", None),
    ("virtual_alias_maps", "alias", "jack@example.org", "john@example.org"),
    ("virtual_alias_maps", "alias", "john@example.org", None),
    ("virtual_mailbox_maps", "mailbox", "john@example.org", "1"),
    ("virtual_mailbox_maps", "mailbox", "nobody@example.org", None),
)
# Whom a mail client asks for, the code of the reply, and what that address is.
RECIPIENTS = {
    "john@example.org": (250, "a mailbox"),
    "jack@example.org": (250, "an alias"),
    "nobody@example.org": (550, "neither"),
    "john@example.com": (554, "not our domain"),
}
SYNCED = "The modules for Postfix maps are synced"
MANAGED = "Postfix asks the maps that pillar names"
ACCEPTED = "The database accepts the password in pillar"
DRAINED = "No process asks with an older table file"
SOLE = "The database accepts only the password in pillar"
MAX_USE = 10  # clients of one smtpd, then another one logs in to the database


class Failed(Exception):
    """A step gave something else than was expected."""

    def __init__(self, what: str, expected: object, got: object):
        super().__init__(what)
        self.what, self.expected, self.got = what, str(expected), str(got)


class Screen:
    """What people read: headed steps, checks, quotes. Colours and signs only where they can be shown."""

    def __init__(self) -> None:
        tty = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        self._colour = tty and not os.environ.get("NO_COLOR")
        try:
            "✓✗→│…".encode(sys.stdout.encoding)
            self._signs = {}
        except UnicodeEncodeError:
            self._signs = str.maketrans({"✓": "+", "✗": "!", "→": "->", "│": "|", "…": "..."})
            sys.stdout.reconfigure(errors="replace")
        self._steps = itertools.count(1)
        self._label = 0
        self.title = "the start"
        self.checks = 0

    def step(self, title: str, label: int) -> None:
        """Begin a step, in which what is checked takes so many columns."""
        self.title, self._label = title, label
        self._line("\n" + self._in("1", f"{next(self._steps)}. {title}"))

    def command(self, text: str, label: int | None = None) -> None:
        """A command, as an admin would type it. `label`: as for step()."""
        self._label = self._label if label is None else label
        self._line(INDENT + self._in("36", f"$ {text}"))

    def quote(self, text: str) -> None:
        """What a file or a program says."""
        for line in _wrapped(text, WIDTH - 7):
            self._line(INDENT + self._in("2", f"│ {line}"))

    def note(self, text: str) -> None:
        """A remark."""
        for line in text.splitlines():
            self._line(INDENT + line)

    def check(self, what: str, got: object, expected: object, shown: str | None = None) -> None:
        """Compare and show; Failed where it differs. `shown`: how to put what was got."""
        if got != expected:
            raise Failed(what, expected, shown if shown and str(got) in shown else got)
        self.checks += 1
        line = f"{what:{self._label}}  {got if shown is None else shown}"
        self._line(f"{INDENT}{self._in('32', '✓')} {line[: WIDTH - 5].rstrip()}")

    def failed(self, what: str, expected: str, got: str, log: str) -> None:
        """What was expected, what came, and what else was heard."""
        self._line(f"{INDENT}{self._in('31', '✗')} {what}")
        for label, text in (("expected", expected), ("got", got), *([("heard", log)] if log else [])):
            for number, line in enumerate(_wrapped(text.strip() or "nothing", WIDTH - 15)):
                self._line(f"{INDENT}  {label if number == 0 else '':9} {line}")

    def end(self, text: str) -> None:
        """Words after the last step."""
        self._line("\n" + text)

    def _line(self, text: str) -> None:
        print(text.translate(self._signs), flush=True)

    def _in(self, colour: str, text: str) -> str:
        return f"\033[{colour}m{text}\033[0m" if self._colour else text


class Demo:
    """The servers, the minion, and the steps in their order."""

    def __init__(self, screen: Screen, directory: Path):
        """Nothing is started yet."""
        self.screen = screen
        self.directory = directory
        self.token = secrets.token_hex(8)  # in each password, and so in each trace of one
        self.password = f"it's 100% {self.token} \\ #1;"
        self.db = MariaDB(directory / "db")
        self.mail: Postfix | None = None
        self.minion = Minion(directory / "minion", enable_fqdns_grains=False)

    def stop(self) -> None:
        """End the servers."""
        if self.mail:
            self.mail.stop()
        self.db.stop()

    def complaints(self) -> str:
        """What may explain a failure: is the database there, what does Postfix log."""
        lines = [] if self.db.running else ["MariaDB does not run"]
        log = self.mail.log.splitlines() if self.mail else []
        return "\n".join(lines + [line for line in log if re.search("warning|error|fatal|panic", line)][-3:])

    def run(self) -> None:
        """All steps; Failed at the first that does not give what it should."""
        self.servers()
        self.pillar()
        self.main_job()
        self.questions()
        self.recipients()
        self.again()
        self.wrong_password()
        self.naive(self.rotation())

    def servers(self) -> None:
        """Start them, without any map."""
        self.screen.step("A private MariaDB with the tables of the ISPmail guide, a private Postfix without maps", 22)
        with _undisturbed():
            self.db.start()
        schema(self.db, self.password)
        version = self.db.sql("SELECT VERSION()")[0][0].partition("-")[0]
        rows = self.db.sql("SELECT source, destination FROM mailserver.virtual_aliases")
        self.screen.check(f"MariaDB {version}", rows, (("jack@example.org", "john@example.org"),), self._at(self.db))
        self.mail = Postfix(self.directory / "mail", max_use=str(MAX_USE))
        with _undisturbed():
            self.mail.start()
        version = self.mail.command("postconf", "-d", "-h", "mail_version").strip()
        where = f"{self._at(self.mail)}, smtpd in Debian's chroot"
        self.screen.check(f"Postfix {version}", sorted(set(self.mail.postconf()) & set(MAPS)), [], where)
        self._ask_for("john@example.org", 554, "john@example.org")

    def pillar(self) -> None:
        """Show what Salt is told."""
        self.screen.step("What Salt is told: the pillar", 0)
        self._tell(self.password)
        self.screen.quote(
            "ispmail:\n"
            "  database:\n"
            "    password: ********   # random here; quotes, blanks, %, # and ; are fine\n"
            f"    hosts: {self._at(self.db)}\n"
            "  postfix:\n"
            f"    config_directory: {self.mail.config_directory}"
        )
        self.screen.note(
            "Yours needs only the password. Below, that directory is written /etc/postfix, as on your server."
        )

    def main_job(self) -> None:
        """The first apply, and what it has made."""
        self.screen.step(f"The main job, with Salt {salt.version.__version__}", 41)
        code, states = self._apply()
        synced = states.get(SYNCED, {"changes": {}})["changes"]
        modules = {f"{path.parent.name[1:]}.{path.stem}" for path in REPOSITORY.glob("_[ms][ot]*/*.py")}
        names = {name for names in synced.values() for name in names}
        self.screen.check(SYNCED, names & modules, modules, f"{len(names)} of them")
        self._check_state(states, MANAGED, {"main.cf", *MAPS})
        self._check(code, 0)
        self.screen.command("postconf -n", 23)
        live = self.mail.postconf(*MAPS)
        for parameter in MAPS:
            table = f"mysql:{self._file(parameter)}"
            self.screen.check(parameter, live.get(parameter), table, self._as_yours(f"= {table}"))
        self.screen.command("cat /etc/postfix/mariadb-virtual-alias-maps.cf")
        self.screen.quote(self._file("virtual_alias_maps").read_text().replace(self.password, "********"))
        for parameter in MAPS:
            text = self._file(parameter).read_text()
            self._check(text, self._table_file(parameter), f"what is in {self._file(parameter)}")
        owned = {f"{path.owner()}:{path.group()} {path.stat().st_mode & 0o7777:04o}" for path in self._files()}
        self.screen.check(
            "the three table files", owned, {"root:postfix 0640"}, "root:postfix 0640, to the byte as above"
        )

    def questions(self) -> None:
        """Ask each map, by postmap."""
        self.screen.step("The questions Postfix asks its maps", 26)
        tables = self.mail.postconf(*MAPS)
        parameter, kind, key, _ = QUESTIONS[0]
        self.screen.command(self._as_yours(f"postmap -q {key} {tables[parameter]}   # and so on"))
        for parameter, kind, key, answer in QUESTIONS:
            got = self.mail.postmap(key, tables[parameter])
            self.screen.check(f"{kind:7} {key}", got, answer, f"→ {got or 'no answer'}")

    def recipients(self) -> None:
        """Ask the server, as a mail client does."""
        self.screen.step("The answers a mail client gets", 31)
        for address, (code, why) in RECIPIENTS.items():
            self._ask_for(address, code, f"RCPT TO:<{address}>", why)

    def again(self) -> None:
        """The second apply changes nothing."""
        self.screen.step("The same again: nothing changes", 41)
        before = self._state()
        code, states = self._apply()
        self._check({name for name, state in states.items() if state["changes"]}, set(), "states with changes")
        self._check_state(states, MANAGED, set())
        self._check(code, 0)
        self.screen.check("What is on disk", self._differences(before), [], "no file written, Postfix not reloaded")

    def wrong_password(self) -> None:
        """A wrong password does not get to the live server."""
        self.screen.step("A wrong password in pillar, while mail comes in", 22)
        before = self._state()
        self._tell(f"wrong {self.token}")
        with self._load() as load:
            code, states = self._apply()
            report = load.stop()
        refused = states[MANAGED]
        self.screen.quote(refused["comment"])
        if "Access denied for user 'mailserver'" not in refused["comment"]:
            raise Failed("the comment of the apply", "Access denied for user 'mailserver'", refused["comment"])
        self._check(code, 1)
        self._check(self._differences(before), [], "what was touched in Postfix's directory, or reloaded")
        self.screen.check("the apply", refused["result"], False, "refused, no file touched, Postfix not reloaded")
        self._check_load(report)

    def rotation(self) -> Report:
        """A new password in the order of salt/orch/rotate.sls, without a failed answer."""
        self.screen.step("A new password, while mail comes in", 18)
        self.screen.note(f"Each smtpd ends after {MAX_USE} clients here, so that new ones log in all the time.")
        old, self.password = self.password, f"{self.token} is new"
        self._check(self._logins(old), (True, False), "which passwords the database accepts, the old and the new one")
        self._tell(self.password, server={"unix_socket": self.db.socket})
        before = self._smtpds()
        with self._load() as load:
            self._credential("accepted", ACCEPTED, old, (True, True), "accepts the old password and the new one")
            code, states = self._apply("ispmail.drained")
            self._check_state(states, MANAGED, set(MAPS), "the table files")
            secret = {"password": {"old": "***", "new": "***"}}
            self._check(states[MANAGED]["changes"], dict.fromkeys(MAPS, secret), "what changed in the table files")
            self._check_state(states, DRAINED, set(), "Postfix")
            self._check(code, 0)
            self._credential("sole", SOLE, old, (False, True), "refuses the old password, accepts the new one")
            time.sleep(1)  # until each smtpd of now has been replaced
            report = load.stop()
        self._check(len(self._smtpds() - before) >= 5, True, "at least 5 new smtpd processes meanwhile")
        self._check_load(report)
        self.screen.check(
            "the passwords", self._traces(), [], "in pillar and the table files only: in no output, log or cache"
        )
        return report

    def naive(self, ours: Report) -> None:
        """The same by hand, as many do it, and what that costs."""
        self.screen.step("The same by hand, to compare: the database, a second, the files, a reload", 18)
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
        self._check(self._logins(old), (False, True), "which passwords the database accepts, the old and the new one")
        self._check(rcpt(self.mail.port, "john@example.org")[0], 250, "john@example.org afterwards")
        for failure in report.failures[:1]:
            self.screen.quote(f"{failure.code or 'no answer'} {failure.text}")
        self._check_load(report, failed=report.failed)
        lost = f"by Salt 0 failed of {ours.count}, by hand {report.failed} of {report.count}"
        luck = "" if report.failed else " this time, by luck"
        self.screen.check("side by side", ours.failed, 0, lost + luck)

    def _tell(self, password: str, **sections: dict) -> None:
        """Put into pillar what these servers need."""
        database = {"password": password, "hosts": self._at(self.db)}
        postfix = {"config_directory": str(self.mail.config_directory)}
        self.minion.pillar = {"ispmail": {"database": database, "postfix": postfix, **sections}}

    def _apply(self, sls: str = "ispmail") -> tuple[int, dict[str, dict]]:
        """The exit code of a real salt-call, and what each state returned."""
        self.screen.command(f"salt-call --local state.apply {sls}")
        done = self.minion.command("--out=json", "state.apply", sls, timeout=120)
        said = done.stdout + done.stderr
        self._check(self.token in said, False, "a password is in the output of salt-call")
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
            return done.returncode, {state["__id__"]: state for state in json.loads(done.stdout)["local"].values()}
        raise Failed(
            f"salt-call --local state.apply {sls}", "a result for each state", f"exit code {done.returncode}\n{said}"
        )

    def _check(self, got: object, expected: object, what: str = "salt-call's exit code") -> None:
        """A check that is not shown where it holds."""
        if got != expected:
            raise Failed(what, expected, got)
        self.screen.checks += 1

    def _check_state(self, states: dict[str, dict], name: str, changes: set[str], what: str = "") -> None:
        """A state went well, and changed what it should."""
        state = self._succeeded(states, name)
        self.screen.check(what or name, set(state["changes"]), changes, state["comment"].replace("\n", ", "))

    @staticmethod
    def _succeeded(states: dict[str, dict], name: str) -> dict:
        """What a state returned, if it went well."""
        state = states.get(name, {"result": None, "changes": {}, "comment": f"not run, only {', '.join(states)}"})
        if state["result"] is not True:
            raise Failed(name, "the state to succeed", state["comment"])
        return state

    def _credential(self, sls: str, name: str, old: str, accepted: tuple[bool, bool], shown: str) -> None:
        """Apply ispmail.credential_…: which of the old password and the new one the database accepts then."""
        code, states = self._apply(f"ispmail.credential_{sls}")
        changes = self._succeeded(states, name)["changes"]
        self._check(set(changes), {"mailserver@127.0.0.1"}, "the accounts that changed")
        self._check(code, 0)
        self.screen.check("the database", self._logins(old), accepted, shown)

    def _ask_for(self, address: str, code: int, what: str, why: str = "") -> None:
        """One RCPT in a connection of its own."""
        got, text = rcpt(self.mail.port, address)
        text = text.replace(f"<{address}>: ", "").replace("Recipient address rejected: ", "")
        self.screen.check(what, got, code, f"{got} {text}" + f"  ({why})" * bool(why))

    def _logins(self, old: str) -> tuple[bool, bool]:
        """Whether the database lets the account in with an old password, and with that of now."""
        return self._accepts(old), self._accepts(self.password)

    def _accepts(self, password: str) -> bool:
        try:
            pymysql.connect(host=self.db.host, port=self.db.port, user="mailserver", password=password).close()
        except pymysql.OperationalError as error:
            if error.args[0] != 1045:  # access denied
                raise
            return False
        return True

    def _smtpds(self) -> set[str]:
        """The process ids of all smtpd that have had a client."""
        return set(re.findall(r"/smtpd\[(\d+)\]: connect from", self.mail.log))

    def _load(self) -> Load:
        """A steady load of RCPTs in many short connections, with what each has to be answered."""
        expected = {address: code for address, (code, _) in RECIPIENTS.items()}
        return Load(self.mail.port, expected, timeout=10, per_connection=2)

    def _check_load(self, report: Report, failed: int = 0) -> None:
        """Not one of its answers was another; `failed`: so many were."""
        longest = max(report.longest, report.longest_connect)
        said = f"{report.count} RCPTs in {report.seconds:.1f} s, {report.failed} failed, longest wait {longest:.2f} s"
        shown = "\n".join([said, *report.examples * (report.failed != failed)])
        self._check(report.count >= 20, True, "at least 20 RCPTs were answered meanwhile")
        self.screen.check("mail meanwhile", f"{report.failed} failed", f"{failed} failed", shown)

    def _file(self, parameter: str) -> Path:
        return self.mail.config_directory / MAPS[parameter][0]

    def _files(self) -> list[Path]:
        return [self._file(parameter) for parameter in MAPS]

    def _table_file(self, parameter: str) -> str:
        """What the guide has in it, to the byte."""
        return (
            f"user = mailserver\npassword = {self.password}\nhosts = {self._at(self.db)}\n"
            f"dbname = mailserver\nquery = {MAPS[parameter][1]}\n"
        )

    def _state(self) -> dict[str, object]:
        """All that tells whether the live Postfix was touched."""
        state: dict[str, object] = {"reloads": self.mail.log.count("reload -- version")}
        return state | _files_in(self.mail.config_directory)

    def _differences(self, before: dict[str, object]) -> list[str]:
        """Names of what is another than before."""
        now = self._state()
        return sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))

    def _traces(self) -> list[str]:
        """Files with a password in them, of those where none belongs."""
        belongs = {self.minion.pillar_file, *self._files()}
        files = (path for path in self.directory.rglob("*") if path.is_file() and not path.is_symlink())
        some = (path for path in files if path not in belongs and self.db.directory not in path.parents)
        return sorted(str(path) for path in some if self.token.encode() in path.read_bytes())

    def _as_yours(self, text: str) -> str:
        return text.replace(str(self.mail.config_directory), "/etc/postfix")

    @staticmethod
    def _at(server: MariaDB | Postfix) -> str:
        return f"{server.host}:{server.port}"


def _wrapped(text: str, width: int) -> list[str]:
    """The lines of a text, none longer than this."""
    return [
        part
        for line in text.splitlines()
        for part in textwrap.wrap(line, width, subsequent_indent="  ", break_on_hyphens=False) or [""]
    ]


def _files_in(directory: Path) -> dict[str, object]:
    """All that tells whether a file in a directory was touched."""
    state: dict[str, object] = {}
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            status = path.stat()
            owned = (status.st_mode, status.st_uid, status.st_gid)
            state[str(path.relative_to(directory))] = (path.read_bytes(), status.st_ino, status.st_mtime_ns, owned)
    return state


def _deaf() -> None:
    """From here on no signal stops us: what was started is being ended."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _interrupted(number: int, _frame: FrameType | None) -> None:
    _deaf()
    raise SystemExit(128 + number)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """A signal takes effect only after the block: a server that has just been started is known then."""
    came: list[int] = []
    for number in SIGNALS:
        signal.signal(number, lambda number, _frame: came.append(number))
    try:
        yield
    finally:
        for number in SIGNALS:
            signal.signal(number, _interrupted)
        if came:
            _interrupted(came[0], None)


def _try(screen: Screen, steps: Callable[[], None], log: Callable[[], str]) -> bool:
    """Whether these steps gave what was expected; if not, say so."""
    try:
        steps()
    except Failed as failed:
        screen.failed(failed.what, failed.expected, failed.got, log())
    except BrokenPipeError:  # nobody reads what we say
        raise
    except Exception as error:  # of whatever kind: the newcomer gets a sentence, not a traceback
        screen.failed(screen.title, "this step to go through", f"{type(error).__name__}: {error}", log())
    else:
        return True
    return False


def _show(screen: Screen) -> bool:
    """Run the demo and leave nothing; whether all of it gave what was expected."""
    machines = _files_in(THE_MACHINES)
    with contextlib.ExitStack() as stack:
        demo = Demo(screen, stack.enter_context(scratch("demo-")))
        stack.callback(demo.stop)
        stack.callback(_deaf)
        good = _try(screen, demo.run, demo.complaints)

    def nothing_left() -> None:
        screen.step("Nothing is left", 26)
        left = [*demo.mail.processes(), *demo.db.running * ["MariaDB"], *demo.directory.glob("*")]
        left += [f"port {server.port}" for server in (demo.db, demo.mail) if not is_free(server.port)]
        screen.check("/etc/postfix", _files_in(THE_MACHINES) == machines, True, "as it was before")
        screen.check("processes, ports and files", left, [], "gone")

    return good and _try(screen, nothing_left, str)


def main() -> int:
    """The exit code: 0 where every step gave what was expected."""
    for number in SIGNALS:
        signal.signal(number, _interrupted)
    began = time.monotonic()
    screen = Screen()
    try:
        if not _show(screen):
            screen.end("The demo failed, see above. What it had started is gone.")
            return 1
        screen.end(
            f"All {screen.checks} checks held, in {time.monotonic() - began:.0f} seconds.\n"
            "Next: README.md tells how to use this on a mail server of yours."
        )
    except SystemExit:
        with contextlib.suppress(OSError):
            screen.end("Stopped. What it had started is gone.")
        raise
    except BrokenPipeError:  # nobody reads on: nor shall Python's own last flush
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
