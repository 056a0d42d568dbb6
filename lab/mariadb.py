"""A private MariaDB on loopback that ends with the process that started it, see mariadbd(8)."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pwd
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pymysql

from lab import HOST, free_port, program
from lab.private import Private

FILES = ("--innodb-log-file-size=8M", "--innodb-data-file-path=ibdata1:12M:autoextend")
SMALL_AND_FAST = (
    "--skip-name-resolve",  # a login from 127.0.0.1 is 'u'@'127.0.0.1', not 'u'@'localhost'
    "--skip-log-bin",
    "--innodb-buffer-pool-size=32M",
    "--innodb-flush-log-at-trx-commit=2",
    "--innodb-fast-shutdown=1",
    "--innodb-buffer-pool-dump-at-shutdown=OFF",
    "--innodb-buffer-pool-load-at-startup=OFF",
    "--aria-pagecache-buffer-size=8M",
    "--key-buffer-size=1M",
    "--performance-schema=OFF",
)


class Server:
    """A running server that our own user can log in to over its socket."""

    def __init__(self, socket: str):
        """`socket`: the path of its unix socket."""
        self.socket = socket

    def sql(self, statement: str, *args: object) -> tuple[tuple, ...]:
        """Run one statement as root over the socket, autocommitted; `args` fill its %s. Its rows, () if it has none."""
        with contextlib.closing(self.connect()) as connection, connection.cursor() as cursor:
            cursor.execute(statement, args or None)
            return tuple(cursor.fetchall())

    def connect(self, **options: Any) -> pymysql.Connection:
        """Log in as our own user, who needs no password on the socket.

        Args:
            options: More for pymysql.connect; without any each statement is committed at once.
        """
        # Without TLS: with it each connection reads all authorities of the system, 20 ms of processor time.
        defaults = {"user": whoami(), "autocommit": True, "charset": "utf8mb4", "ssl_disabled": True}
        return pymysql.connect(unix_socket=self.socket, **{**defaults, **options})


class PrivateServer(Private, Server):
    """A server of one kind, with its data, socket and log in `directory`, on 127.0.0.1:`port` and on `socket`."""

    host = HOST

    def __init__(
        self,
        directory: Path,
        port: int | None = None,
        general_log: Path | None = None,
        options: Sequence[str] = (),
    ):
        """Nothing is started yet. `general_log`: where to log statements. `options`: more for the server, they win."""
        self.directory = Path(directory).absolute()
        self.port = port or free_port()
        Server.__init__(self, str(self.directory / "sock"))
        Private.__init__(self, self.directory / "error.log")
        self.general_log = general_log
        self.options = list(options)
        if len(os.fsencode(self.socket)) >= 100:
            raise RuntimeError(f"the path of the socket is too long, use lab.scratch(): {self.socket}")

    def logs_in(self, password: str | bytes, user: str = "mailserver", **options: Any) -> bool:
        """Whether it lets a user in over TCP; an error is raised, unless access is denied or the account is locked.

        Args:
            options: More for pymysql.connect.
        """
        try:
            pymysql.connect(host=self.host, port=self.port, user=user, password=password, **options).close()
        except Exception as err:  # where Salt 3006 runs too, it has imported PyMySQL anew: its error is another class
            if err.args[0] not in (1045, 3118, 4151):
                raise
            return False
        return True

    @property
    def _data(self) -> Path:
        return self.directory / "data"

    def _answers(self) -> bool:
        """Whether it takes log-ins on the socket, and connections on the port."""
        with contextlib.suppress(Exception):  # of whatever class, see logs_in
            self.sql("SELECT 1")
            socket.create_connection((self.host, self.port), timeout=2).close()
            return True
        return False

    def _prepare(self) -> None:
        if not self._data.exists():
            self.directory.mkdir(parents=True, exist_ok=True)
            subprocess.run(["cp", "-a", self.template(), self._data], check=True)

    def _command(self) -> list[str]:
        command = [*self._program(), f"--user={whoami()}"]
        command += [f"--datadir={self._data}", f"--socket={self.socket}", f"--pid-file={self.directory / 'pid'}"]
        command += [f"--bind-address={self.host}", f"--port={self.port}"]
        if self.general_log:
            command += ["--general-log=ON", f"--general-log-file={Path(self.general_log).absolute()}"]
        return command + self.options

    def _program(self) -> list[str]:
        """The server's program with the options of its kind."""
        raise NotImplementedError

    def template(self) -> Path:
        """An initialised data directory to copy from."""
        raise NotImplementedError


class MariaDB(PrivateServer):
    """A MariaDB, as this machine has it."""

    def _program(self) -> list[str]:
        return [program("mariadbd", "mariadb-server-core"), "--no-defaults", *FILES, *SMALL_AND_FAST]

    def template(self) -> Path:
        version = version_of([program("mariadbd", "mariadb-server-core"), "--no-defaults"])
        return template(f"mariadb-{version}", _initialise)


def native_hash(password: str) -> str:
    """The hash of mysql_native_password: '*' and SHA1(SHA1(password)). Made here, so that no log has the password."""
    return "*" + hashlib.sha1(hashlib.sha1(password.encode()).digest()).hexdigest().upper()


def schema(
    server: Server, password: str, user: str = "mailserver", dbname: str = "mailserver", host: str = HOST
) -> None:
    """Create the ISPmail database with a domain, an alias and a mailbox, and the account that reads it from `host`.

    Existing tables and rows are kept. jack@example.org is an alias of the mailbox john@example.org.
    """
    db = _identifier(dbname)
    for statement in (
        f"CREATE DATABASE IF NOT EXISTS {db} CHARACTER SET utf8mb4",
        f"""CREATE TABLE IF NOT EXISTS {db}.virtual_domains (
            id INT NOT NULL AUTO_INCREMENT PRIMARY KEY,
            name VARCHAR(255) NOT NULL UNIQUE)""",
        f"""CREATE TABLE IF NOT EXISTS {db}.virtual_users (
            id INT NOT NULL AUTO_INCREMENT PRIMARY KEY,
            domain_id INT NOT NULL,
            email VARCHAR(255) NOT NULL UNIQUE,
            password VARCHAR(150) NOT NULL,
            quota BIGINT NOT NULL DEFAULT 0,
            FOREIGN KEY (domain_id) REFERENCES virtual_domains (id) ON DELETE CASCADE)""",
        f"""CREATE TABLE IF NOT EXISTS {db}.virtual_aliases (
            id INT NOT NULL AUTO_INCREMENT PRIMARY KEY,
            domain_id INT NOT NULL,
            source VARCHAR(255) NOT NULL,
            destination VARCHAR(255) NOT NULL,
            INDEX (source),
            UNIQUE (source, destination),
            FOREIGN KEY (domain_id) REFERENCES virtual_domains (id) ON DELETE CASCADE)""",
        f"INSERT IGNORE INTO {db}.virtual_domains (name) VALUES ('example.org')",
        f"""INSERT IGNORE INTO {db}.virtual_users (domain_id, email, password)
            SELECT id, 'john@example.org', '!' FROM {db}.virtual_domains WHERE name = 'example.org'""",
        f"""INSERT IGNORE INTO {db}.virtual_aliases (domain_id, source, destination)
            SELECT id, 'jack@example.org', 'john@example.org' FROM {db}.virtual_domains WHERE name = 'example.org'""",
    ):
        server.sql(statement)
    identified = "IDENTIFIED VIA mysql_native_password USING %s"
    server.sql(f"CREATE OR REPLACE USER %s@%s {identified}", user, host, native_hash(password))
    server.sql(f"GRANT SELECT ON {db}.* TO %s@%s", user, host)


def set_password(server: Server, password: str, user: str = "mailserver") -> None:
    """Give the account this password; older ones are no longer accepted."""
    statement = "ALTER USER %s@'127.0.0.1' IDENTIFIED VIA mysql_native_password USING %s"
    server.sql(statement, user, native_hash(password))


def _identifier(name: str) -> str:
    """A name quoted for SQL."""
    return "`" + name.replace("`", "``") + "`"


def whoami() -> str:
    """The name of the user we run as."""
    return pwd.getpwuid(os.geteuid()).pw_name


def version_of(command: Sequence[str]) -> str:
    """The version that a server's program prints."""
    text = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True).stdout
    version = re.search(r"Ver (\S+)", text)
    return version[1] if version else "unknown"


def template(name: str, initialise: Callable[[Path], None]) -> Path:
    """A data directory that `initialise` has made, once per name and user, in the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "salt-ispmail"
    made = cache / f"{name}-{whoami()}"
    if made.is_dir():
        return made
    cache.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f"{name}-new-", dir=cache))
    try:
        initialise(aside / "data")
        with contextlib.suppress(OSError):  # another process was first: use its template
            (aside / "data").rename(made)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return made


def _initialise(data: Path) -> None:
    """Create a data directory with one account: our own user, who logs in over the socket."""
    me = whoami()
    command = [program("mariadb-install-db", "mariadb-server-core"), "--no-defaults", "--skip-test-db", *FILES]
    command += [f"--datadir={data}", f"--user={me}"]
    command += ["--auth-root-authentication-method=socket", f"--auth-root-socket-user={me}"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise RuntimeError(f"mariadb-install-db failed:\n{(done.stdout + done.stderr)[-3000:]}")
