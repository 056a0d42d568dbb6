"""A private Postfix on loopback, jailed as by Debian 13, see postfix(1) and master(5). Needs root."""

import atexit
import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from lab import HOST, START_SECONDS, free_port, is_free, program, tail, wait_until

MASTER_CF = ("/usr/share/postfix/master.cf.dist", "/usr/share/postfix/master.cf.proto", "/etc/postfix/master.cf.proto")
POSTFIX_FILES = ("/usr/share/postfix/postfix-files", "/etc/postfix/postfix-files")
# The rest is jailed: in Debian's master.cf up to Debian 13, and by chroot=True.
UNJAILED = ("qmgr", "proxymap", "local", "virtual", "postlogd", "pipe")
JAIL_FILES = ("localtime", "services", "resolv.conf", "hosts", "host.conf", "nsswitch.conf")
JAIL_LIBRARIES = ("libgcc_s*.so*", "libnss*.so*", "libresolv*.so*")

MAIN_CF = {
    "compatibility_level": "3.6",
    # Only loopback, no DNS, and nothing ever leaves.
    "inet_interfaces": HOST,
    "inet_protocols": "ipv4",
    "myhostname": "mail.example.test",
    "myorigin": "$myhostname",
    "mydestination": "",
    "local_recipient_maps": "",
    "alias_maps": "",
    "alias_database": "",
    "smtp_dns_support_level": "disabled",
    "smtp_host_lookup": "native",
    "smtpd_peername_lookup": "no",
    "virtual_transport": "discard:",
    "local_transport": "discard:",
    "relay_transport": "error:no mail leaves the lab",
    "default_transport": "error:no mail leaves the lab",
    "notify_classes": "",
    "biff": "no",
    # Our own clients have no special rights: unknown users get 550, other domains 554.
    "mynetworks": "",
    "smtpd_relay_restrictions": "reject_unauth_destination",
    # Nothing throttles a load.
    "smtpd_client_connection_count_limit": "0",
    "smtpd_client_connection_rate_limit": "0",
    "smtpd_client_message_rate_limit": "0",
    "smtpd_client_recipient_rate_limit": "0",
    "smtpd_soft_error_limit": "100000",
    "smtpd_hard_error_limit": "100000",
    "smtpd_junk_command_limit": "100000",
    "smtpd_error_sleep_time": "0s",
    "in_flow_delay": "0s",
}


class Postfix:
    """One instance with its configuration, queue, jail and log in `directory`, its smtpd on 127.0.0.1:`port`.

    `directory` must be one that every user may enter: most daemons are not root. lab.scratch() makes such ones.
    """

    host = HOST

    def __init__(self, directory: Path, chroot: bool = True, port: int | None = None, **main_cf: str | None):
        """Write the configuration, start nothing. `main_cf`: parameters on top of ours, None leaves one out."""
        self.directory = Path(directory).absolute()
        self.port = port or free_port()
        self.config_directory = self.directory / "etc"
        self.main_cf = self.config_directory / "main.cf"
        self.master_cf = self.config_directory / "master.cf"
        self.queue_directory = self.directory / "queue"
        self.data_directory = self.directory / "data"
        self.log_file = self.directory / "log" / "mail.log"
        for path in (self.config_directory, self.queue_directory, self.data_directory, self.log_file.parent):
            path.mkdir(parents=True, exist_ok=True)
            path.chmod(0o755)
        shutil.chown(self.data_directory, "postfix")
        self._check_access()
        self._parameters: dict[str, str | None] = {}
        self.write_main_cf(**main_cf)
        self._write_master_cf(chroot)
        if chroot:
            self._fill_jail()

    def __enter__(self) -> "Postfix":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def log(self) -> str:
        """The text of its mail log so far."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    @property
    def pid(self) -> int | None:
        """The process id of its master(8), None when stopped."""
        with contextlib.suppress(OSError, ValueError):
            pid = int((self.queue_directory / "pid" / "master.pid").read_text())
            return pid if self._is_ours(pid) else None
        return None

    @property
    def running(self) -> bool:
        """Whether its master(8) is alive."""
        return self.pid is not None

    def processes(self) -> list[int]:
        """The process ids of all its daemons, also of those whose master(8) has died."""
        return [int(entry.name) for entry in Path("/proc").glob("[0-9]*") if self._is_ours(int(entry.name))]

    def start(self) -> "Postfix":
        """Start it: its port is open when this returns. RuntimeError with the end of its log if it does not start."""
        if self.running:
            return self
        atexit.register(self.stop)
        try:
            # Postfix would start: it shares ports (SO_REUSEPORT). What has just ended may keep it for a moment.
            if not wait_until(lambda: is_free(self.port), 5):
                raise RuntimeError(f"port {self.port} is taken")
            self._make_directories()
            (self.queue_directory / "quick-start").touch()  # no checks, see postfix-script: most of what a start costs
            self.command("postfix", "start", timeout=START_SECONDS)
        except RuntimeError as error:
            self.stop()
            raise RuntimeError(f"Postfix in {self.directory} does not start: {error}\n{tail(self.log_file)}") from None
        return self

    def stop(self, patience: float = 5) -> None:
        """Terminate master(8) and its children; after `patience` seconds, kill them.

        `postfix stop` does the same, but sleeps for a second.
        """
        atexit.unregister(self.stop)
        if self.pid:
            os.kill(self.pid, signal.SIGTERM)  # master(8) passes it on to its children
            if wait_until(self._has_ended, patience):
                return
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_until(self._has_ended, patience)

    def _has_ended(self) -> bool:
        """Whether it can be started again. A child that master(8) was just making when it died holds its lock, too."""
        if self.processes():
            return False
        with contextlib.suppress(FileNotFoundError), (self.queue_directory / "pid" / "master.pid").open("rb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True

    def restart(self) -> "Postfix":
        """Stop it and start it again."""
        self.stop()
        return self.start()

    def reload(self) -> None:
        """Have it read its configuration again: `postfix reload`."""
        self.command("postfix", "reload", timeout=START_SECONDS)

    def postmap(self, question: str, table: str) -> str | None:
        """A map's answer by postmap(1), None for no answer. RuntimeError if the lookup failed."""
        done = self._run("postmap", "-q", question, table, timeout=15)
        if done.returncode and done.stderr:
            raise RuntimeError(done.stderr.strip())
        return done.stdout.rstrip("\n") if done.returncode == 0 else None

    def postconf(self, *parameters: str) -> dict[str, str]:
        """What main.cf sets explicitly, all of it or these parameters only: `postconf -n`."""
        lines = [line.partition("=") for line in self.command("postconf", "-n", *parameters).splitlines()]
        found = {name.strip(): value.strip() for name, _, value in lines}
        # Postfix 3.11 lists this one for one and the same main.cf at times, and at times not.
        found.pop("config_directory", None)
        return found

    def command(self, name: str, *arguments: str, timeout: float = 15) -> str:
        """Run one of Postfix's commands on this instance: its output, RuntimeError with its complaints if it fails."""
        done = self._run(name, *arguments, timeout=timeout)
        if done.returncode:
            complaints = (done.stdout + done.stderr).strip()
            raise RuntimeError(f"{name} {' '.join(arguments)}: exit code {done.returncode}: {complaints}")
        return done.stdout

    def write_main_cf(self, **main_cf: str | None) -> None:
        """Write main.cf anew: these parameters on top of those given before, None leaves one out. Reloads nothing."""
        self._parameters |= main_cf
        own = {
            "queue_directory": str(self.queue_directory),
            "data_directory": str(self.data_directory),
            "maillog_file": str(self.log_file),
            "maillog_file_prefixes": str(self.log_file.parent),
        }
        parameters = {**own, **MAIN_CF, **self._parameters}
        lines = (f"{name} = {value}".rstrip() for name, value in parameters.items() if value is not None)
        write_cold(self.main_cf, "\n".join(lines) + "\n")

    def _write_master_cf(self, chroot: bool) -> None:
        """Debian's master.cf with smtpd on our port; with all the jails of Debian 13, or without any."""
        lines = []
        for line in _first_existing(MASTER_CF).read_text().splitlines():
            if line.startswith("#") or not line.strip():
                continue
            if line[0].isspace():  # continues the line before
                lines.append(line)
                continue
            columns = line.split(None, 7)
            if columns[:2] == ["smtp", "inet"]:
                columns[0] = f"{HOST}:{self.port}"
            columns[4] = "y" if chroot and columns[7].split()[0] not in UNJAILED else "n"
            lines.append(" ".join(columns))
        write_cold(self.master_cf, "\n".join(lines) + "\n")

    def _make_directories(self) -> None:
        """Make the directories of the queue that are missing, as the checks of `postfix start` would do."""
        own = {"$queue_directory": self.queue_directory, "$data_directory": self.data_directory}
        for line in _first_existing(POSTFIX_FILES).read_text().splitlines():
            above, _, below = line.partition(":")[0].partition("/")
            if above in own and not (directory := own[above] / below).exists():
                _, _, owner, group, mode, *_ = line.split(":")
                directory.mkdir()
                shutil.chown(directory, owner.replace("$mail_owner", "postfix"))
                if group != "-":
                    shutil.chown(directory, group=group.replace("$setgid_group", "postdrop"))
                directory.chmod(int(mode, 8))

    def _fill_jail(self) -> None:
        """Copy what Debian's configure-instance.sh copies into the queue directory, so that name resolving works."""
        sources = [Path("/etc", name) for name in JAIL_FILES]
        for folder in (Path("/lib"), *Path("/lib").glob("*-linux-*")):
            sources += [path for pattern in JAIL_LIBRARIES for path in folder.glob(pattern)]
        for source in sources:
            if source.is_file():
                copy = self.queue_directory / source.relative_to("/")
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, copy)

    def _check_access(self) -> None:
        """RuntimeError if the user postfix cannot enter our directory, or one above it."""
        for path in (self.directory, *self.directory.parents):
            if not path.stat().st_mode & 0o001:
                raise RuntimeError(f"the user postfix cannot enter {path} (use lab.scratch(), or chmod o+x)")

    def _is_ours(self, pid: int) -> bool:
        """Whether this process is a daemon of this Postfix, by its program and its working directory."""
        with contextlib.suppress(OSError):
            home = os.readlink(f"/proc/{pid}/cwd").removesuffix(" (deleted)")
            program_file = os.readlink(f"/proc/{pid}/exe")
            return home == str(self.queue_directory.resolve()) and program_file.startswith("/usr/lib/postfix/")
        return False

    def _run(self, name: str, *arguments: str, timeout: float) -> subprocess.CompletedProcess[str]:
        """Run one of Postfix's commands on this instance, bounded in time."""
        command = [program(name, "postfix"), "-c", str(self.config_directory), *arguments]
        try:
            return subprocess.run(
                command,
                check=False,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout,
            )
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"{name} {' '.join(arguments)}: not finished after {timeout} s") from None


def write_cold(path: Path, text: str, mode: int = 0o644, group: str | None = None) -> None:
    """Write a configuration file with a modification time one minute ago: Postfix pauses for files of the last 2 s.

    Give a table file with a password mode=0o640 and group="postfix".
    """
    aside = path.with_name(f".{path.name}.new")
    aside.unlink(missing_ok=True)
    with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        if group:
            shutil.chown(aside, group=group)
        os.chmod(aside, mode)
        file.write(text)
    ago = time.time() - 60
    os.utime(aside, (ago, ago))
    aside.rename(path)


def _first_existing(candidates: tuple[str, ...]) -> Path:
    """The first of these files that is there."""
    for candidate in candidates:
        if os.path.exists(candidate):
            return Path(candidate)
    raise RuntimeError("Postfix is not installed: bin/setup, or apt-get install postfix")
