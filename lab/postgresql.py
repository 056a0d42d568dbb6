"""A private PostgreSQL on loopback that ends with the process that started it, see postgres(1)."""

import contextlib
import csv
import io
import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lab import HOST, free_port, program
from lab.images import with_packages
from lab.private import Private

SUPERUSER = "postgres"
_NULL = "(null)"  # as psql prints it
BIN = "usr/lib/postgresql"  # Debian has a folder in it for each major version, none is in PATH
SMALL_AND_FAST = {
    "fsync": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "shared_buffers": "16MB",
    "max_connections": "60",
    "autovacuum": "off",
    "jit": "off",
}
# All by which a password could get into the log, such as the trees of statements that have no plan (ALTER ROLE).
TALKATIVE = {
    "log_min_messages": "debug5",
    "log_min_error_statement": "debug5",
    "log_error_verbosity": "verbose",
    "log_statement": "all",
    "log_duration": "on",
    "log_connections": "on",
    "log_disconnections": "on",
    "log_parameter_max_length_on_error": "-1",
    "debug_print_parse": "on",
    "debug_print_rewritten": "on",
    "debug_print_plan": "on",
}
# As which directory a server of another release sees its own; the users are this machine's. Others see no mounts.
_INSIDE = Path("/mnt")
_ENTER = """
root=$1 directory=$2; shift 2
mount --bind "$directory" "$root/mnt"
mount --bind /etc/passwd "$root/etc/passwd"
exec /usr/sbin/chroot "$root" "$@"
"""
# Our own user is the superuser on the socket, without a password; everybody else needs a password, over TCP.
HBA = "local all postgres peer map=lab\nlocal all all scram-sha-256\nhost all all 127.0.0.1/32 scram-sha-256\n"


class Refused(Exception):
    """The server refuses a statement or a login; the text is psql's."""


class PostgreSQL(Private):
    """One server with its data, socket and log in `directory`, listening on 127.0.0.1:`port` and on a socket.

    `directory` must be one that every user may enter: the server does not run as root. lab.scratch() makes such ones.
    The server is killed when the thread that started it ends: start it in the main thread.
    """

    host = HOST
    # It ends all connections; the other also where one of its processes hangs.
    ends, kills = signal.SIGINT, signal.SIGQUIT

    def __init__(self, directory: Path, port: int | None = None, release: str | None = None, **options: str):
        """Nothing is started yet.

        Args:
            directory: See above.
            port: A free one by default.
            release: Of Debian, whose server it is to be; this machine's by default. The first call builds a root, in
                one or two minutes. Needs root.
            options: Parameters on top of ours, see postgresql.conf.
        """
        self.directory = Path(directory).absolute()
        self.root = with_packages("postgresql", release, "postgresql") if release else None
        self.port = port or free_port()
        self.data = self.directory / "data"
        self.hba = self.data / "pg_hba.conf"
        self.options = {**SMALL_AND_FAST, **TALKATIVE, **options}
        super().__init__(self.directory / "server.log")

    @property
    def socket(self) -> str:
        """The path of its socket; clients want the directory that it is in, and the port."""
        return str(self.directory / f".s.PGSQL.{self.port}")

    def set_hba(self, text: str, own: bool = True) -> None:
        """Write pg_hba.conf, and have the server read it.

        Args:
            text: Its lines.
            own: Whether our own line for the superuser stands above them: without it `sql` may fail from then on.
        """
        self.hba.write_text(HBA.splitlines(keepends=True)[0] + text if own else text)
        self.sql("SELECT pg_reload_conf()")
        # The postmaster does so when it gets to it, and does not say when.
        time.sleep(0.2)

    def sql(self, statement: str, dbname: str = "postgres") -> list[tuple[str | None, ...]]:
        """Run statements as the superuser over the socket: the rows as texts. Raises Refused."""
        return _psql(self._as_superuser(dbname), statement)[1:]

    def rows(self, statement: str, dbname: str = "postgres") -> list[dict[str, str | None]]:
        """As `sql`, for one statement: its rows by the names of their columns."""
        names, *rows = _psql(self._as_superuser(dbname), statement)
        return [dict(zip(map(str, names), row)) for row in rows]

    def sql_as(
        self, user: str, password: str, statement: str = "SELECT 1", dbname: str = "postgres"
    ) -> list[tuple[str | None, ...]]:
        """Log in over TCP with a password and run statements: the rows as texts. Raises Refused."""
        where = ["--host", HOST, "--port", str(self.port), "--username", user, "--dbname", dbname]
        return _psql(where, statement, PGPASSWORD=password)[1:]

    def logs_in(self, user: str, password: str, dbname: str = "postgres") -> bool:
        """Whether it lets a user in over TCP; another failure than that the password is wrong is raised."""
        try:
            self.sql_as(user, password, dbname=dbname)
        except Refused as error:
            if "password authentication failed" not in str(error):
                raise
            return False
        return True

    def _as_superuser(self, dbname: str) -> list[str]:
        return ["--host", str(self.directory), "--port", str(self.port), "--username", SUPERUSER, "--dbname", dbname]

    def _answers(self) -> bool:
        with contextlib.suppress(Refused):
            self.sql("SELECT 1")
            return True
        return False

    def _prepare(self) -> None:
        if not self.data.exists():
            self._initialise()

    def _command(self) -> list[str]:
        options = {
            **self.options,
            "listen_addresses": HOST,
            "port": str(self.port),
            "unix_socket_directories": str(self._seen(self.directory)),
        }
        command = [self._program("postgres"), "-D", str(self._seen(self.data))]
        command += [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        return self._as_server_user(command, "--pdeathsig", "QUIT")

    def _options(self) -> dict[str, Any]:
        # It logs all of its environment.
        return {"cwd": self.directory, "env": {"PATH": os.defpath, "LC_ALL": "C.UTF-8"}}

    def _seen(self, path: Path) -> Path:
        """What a path in its directory is for the server."""
        return _INSIDE / path.relative_to(self.directory) if self.root else path

    def _program(self, name: str) -> str:
        """Where a program of the newest installed server is, for the server."""
        root = self.root or Path("/")
        found = sorted(root.glob(f"{BIN}/*/bin/{name}"), key=lambda path: float(path.parts[-3]))
        return f"/{found[-1].relative_to(root)}" if found else program(name, "postgresql")

    def _as_server_user(self, command: Sequence[str], *options: str) -> list[str]:
        """The command as the server's user, with more options of setpriv(1)."""
        if os.geteuid() == 0:
            user = _server_user()
            options = (f"--reuid={user}", f"--regid={pwd.getpwnam(user).pw_gid}", "--clear-groups", *options)
        command = [program("setpriv", "util-linux"), *options, "--", *command]
        if self.root:
            enter = ["unshare", "--mount", "sh", "-euc", _ENTER, "sh", str(self.root), str(self.directory)]
            command = [*enter, *command]
        return command

    def _initialise(self) -> None:
        """Create the data directory."""
        self.directory.mkdir(parents=True, exist_ok=True)
        if os.geteuid() == 0:
            shutil.chown(self.directory, _server_user())
        command = [self._program("initdb"), "--no-sync", "--no-instructions", "--encoding=UTF8", "--locale=C.UTF-8"]
        command += ["--auth=reject", f"--username={SUPERUSER}", "-D", str(self._seen(self.data))]
        done = subprocess.run(
            self._as_server_user(command), check=False, capture_output=True, text=True, timeout=300, cwd=self.directory
        )
        if done.returncode:
            raise RuntimeError(f"initdb failed:\n{(done.stdout + done.stderr)[-3000:]}")
        self.hba.write_text(HBA)
        me = pwd.getpwuid(os.geteuid()).pw_name
        (self.data / "pg_ident.conf").write_text(f"lab {me} {SUPERUSER}\nlab {_server_user()} {SUPERUSER}\n")


def _psql(where: Sequence[str], statement: str, **environment: str) -> list[tuple[str | None, ...]]:
    """Run statements by psql: the names of the columns and the rows of those that have some.

    It reads them from standard input, so no password is in its arguments.
    """
    command = [program("psql", "postgresql-client"), "--no-psqlrc", "--no-password", "--quiet", "--csv"]
    command += ["--set=ON_ERROR_STOP=1", f"--pset=null={_NULL}", *where]
    done = subprocess.run(
        command,
        input=statement,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PGCLIENTENCODING": "UTF8", "PGOPTIONS": "-c client_min_messages=warning", **environment},
    )
    if done.returncode:
        raise Refused(done.stderr.strip())
    return [tuple(None if text == _NULL else text for text in row) for row in csv.reader(io.StringIO(done.stdout))]


def _server_user() -> str:
    """As whom the server runs: it refuses root."""
    if os.geteuid():
        return pwd.getpwuid(os.geteuid()).pw_name
    with contextlib.suppress(KeyError):
        return pwd.getpwnam("postgres").pw_name
    return "nobody"
