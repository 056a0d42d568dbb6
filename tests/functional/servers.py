"""Rotations under load, by server, method and reader of the maps: python -m tests.functional.servers

prints a table: rotations and RCPTs of ours, then of the naive order, in which the database gets the new password first.
`--rcpts N`: at least so many for each row. Exit code 1 if one of ours failed.
"""

import argparse
import contextlib
import dataclasses
import itertools
import re
import select
import shutil
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import _ispmail_lookup
from lab import HOST, scratch
from lab.galera import galera
from lab.mariadb import MariaDB, PrivateServer
from lab.minion import Minion
from lab.mysql import MySQL
from lab.postfix import Postfix
from lab.postgresql import PostgreSQL
from lab.smtp import Load, Report

from ..conftest import only_host
from . import pgsql
from .database import Relay, call, guide

ADDRESSES = {"jack@example.org": 250, "john@example.org": 250, "nobody@example.org": 550}
RATE = 150
METHODS = ("two_passwords", "two_accounts")
READERS = ("smtpd in its chroot", "smtpd without a chroot", "proxymap")
ROTATIONS = 2  # at least


class ClosingRelay(Relay):
    """As a proxy between Postfix and its database does: it closes each connection that is quiet after two seconds."""

    _LIFE, _QUIET = 2, 0.1

    def begin(self, peer):
        """Pass on until then."""
        super().begin(peer)
        threading.Timer(self._LIFE, self._end, [peer]).start()

    def _end(self, peer):
        with contextlib.suppress(OSError):
            waiting, tries = select.poll(), 50
            waiting.register(peer, select.POLLIN)
            # It stays readable where the other side has closed it.
            while tries and waiting.poll(self._QUIET * 1000):
                tries -= 1
                time.sleep(self._QUIET)
            peer.shutdown(socket.SHUT_RDWR)


@dataclasses.dataclass(frozen=True)
class Database:
    """A database server as a row needs it: MariaDB or MySQL."""

    name: str
    server: Any  # what the admin logs in to, see lab
    hosts: tuple[str, ...]  # what the maps ask
    account_host: str = HOST  # from where the account may log in
    type: str = "mysql"  # of the maps
    readers: tuple[str, ...] = READERS
    plugin: str = ""  # a login plugin that the chroot is given, as the doctor advises

    def equip(self, postfix: Postfix) -> None:
        """Copy the plugin to the same path below the queue directory."""
        if self.plugin:
            source, target = (
                Path(f"{root}{_ispmail_lookup.plugin_directory()}") / f"{self.plugin}.so"
                for root in ("", str(postfix.queue_directory))
            )
            target.parent.mkdir(parents=True)
            shutil.copy(source, target)

    def begin(self) -> None:
        """Make the guide's tables, and no account, whatever was there."""
        self.server.sql("DROP DATABASE IF EXISTS mailserver")
        for (user,) in self.server.sql("SELECT User FROM mysql.user WHERE User LIKE 'mailserver%%'"):
            self.drop(user)
        guide(self.server)

    def give(self, user: str, password: str) -> None:
        """Give an account this password, as its only one; make it if it is not there. By hand, as a DBA would."""
        self.server.sql("CREATE USER IF NOT EXISTS %s@%s IDENTIFIED BY %s", user, self.account_host, password)
        self.server.sql("ALTER USER %s@%s IDENTIFIED BY %s", user, self.account_host, password)
        self.server.sql("GRANT SELECT ON mailserver.* TO %s@%s", user, self.account_host)

    def drop(self, user: str) -> None:
        """Drop an account."""
        self.server.sql("DROP USER %s@%s", user, self.account_host)


class PostgreSQLDatabase(Database):
    """A PostgreSQL as a row needs it. Its accounts have no host, and its tables are made by ours."""

    def begin(self):
        """As for the others."""
        pgsql.untouched(self.server)
        self.server.sql("CREATE DATABASE mailserver")
        self.server.sql(pgsql.BY_HAND + pgsql.ROWS, "mailserver")

    def give(self, user, password):
        """As for the others."""
        if not self.server.sql(f"SELECT 1 FROM pg_roles WHERE rolname = '{user}'"):
            self.server.sql(f"CREATE ROLE {user} LOGIN")
        self.server.sql(f"ALTER ROLE {user} PASSWORD '{password}'")
        self.server.sql(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {user}", "mailserver")

    def drop(self, user):
        """As for the others. What it may do has to go first."""
        self.server.sql(f"DROP OWNED BY {user}", "mailserver")
        self.server.sql(f"DROP ROLE {user}")


class Row(NamedTuple):
    """What was seen of one server, one method, one reader."""

    database: str
    method: str
    reader: str
    refused: str = ""  # what an apply said where the two do not go together
    rotations: int = 0
    ours: Report | None = None
    naive: Report | None = None

    def __str__(self) -> str:
        if not self.ours or not self.naive:
            return f"| {self.database} | {self.method} | {self.reader} | refused: {self.refused} | | | | |"
        cells = [self.database, self.method, self.reader, self.rotations]
        cells += [f"{self.ours.count:,}", self.ours.failed, f"{self.ours.longest:.2f} s"]
        return f"| {' | '.join(map(str, cells))} | {self.naive.failed:,} of {self.naive.count:,} |"


HEAD = (
    "| server | method | reader | rotations | RCPTs | failed | longest | the naive order |\n"
    "|---|---|---|---|---|---|---|---|"
)


@contextlib.contextmanager
def _mariadb(directory: Path) -> Iterator[Database]:
    with MariaDB(directory / "db") as server:
        yield Database(f"MariaDB {_version(server)}", server, (f"{HOST}:{server.port}",))


@contextlib.contextmanager
def _mysql(directory: Path) -> Iterator[Database]:
    with MySQL(directory / "db") as server:
        server.sql("SET GLOBAL max_connections = 1000")
        yield Database(f"MySQL {_version(server)}", server, (f"{HOST}:{server.port}",))


@contextlib.contextmanager
def _behind_a_proxy(directory: Path) -> Iterator[Database]:
    with MariaDB(directory / "db") as server, ClosingRelay(server.port, (HOST, 0)) as relay:
        yield Database("MariaDB behind a proxy that closes connections", server, (f"{HOST}:{relay.port}",))


@contextlib.contextmanager
def _galera(directory: Path) -> Iterator[Database]:
    with galera(directory) as nodes:
        hosts = tuple(f"{HOST}:{node.port}" for node in nodes)
        yield Database("Galera, two nodes", nodes[0], hosts)


@contextlib.contextmanager
def _mysql_socket(directory: Path) -> Iterator[Database]:
    """By its socket: over TCP a MySQL does not tell a refused login from one that it wants in clear."""
    with _mysql(directory) as found:
        hosts = (f"unix:{found.server.socket}",)
        yield dataclasses.replace(found, name=f"{found.name} by its socket", hosts=hosts, account_host="localhost")


@contextlib.contextmanager
def _mysql_plugin(directory: Path) -> Iterator[Database]:
    with _mysql(directory) as found:
        name = f"{found.name}, its plugin copied into the chroot"
        yield dataclasses.replace(found, name=name, readers=READERS[:1], plugin="caching_sha2_password")


@contextlib.contextmanager
def _postgresql(directory: Path) -> Iterator[Database]:
    with PostgreSQL(directory / "db", max_connections="900") as server:
        (version,) = server.sql("SHOW server_version")[0]
        name = f"PostgreSQL {str(version).partition(' ')[0]}"
        yield PostgreSQLDatabase(name, server, (f"{HOST}:{server.port}",), type="pgsql")


DATABASES = {
    "mariadb": _mariadb,
    "mysql": _mysql,
    "mysql-plugin": _mysql_plugin,
    "mysql-socket": _mysql_socket,
    "proxy": _behind_a_proxy,
    "galera": _galera,
    "postgresql": _postgresql,
}


def row(database: Database, method: str, reader: str, rcpts: int) -> Row:
    """Rotate by one reader until so many RCPTs were sent; then once in the naive order."""
    with contextlib.ExitStack() as stack:
        path = stack.enter_context(scratch())
        in_chroot = reader != "smtpd without a chroot"
        postfix = stack.enter_context(Postfix(path / "mail", chroot=in_chroot, max_use="5"))
        database.equip(postfix)

        def wanted(number: int) -> dict:
            user = f"mailserver_{'ab'[number % 2]}" if method == "two_accounts" else "mailserver"
            found = pillar(database, postfix, reader, user, f"password-{number}")
            found["ispmail"]["rotation"] = {"method": method}
            return found

        minion = Minion(path / "minion", wanted(0))
        database.begin()
        made = minion.apply("ispmail.database")
        first = minion.apply()["postfix_map.managed"] if succeeded(made) else next(iter(made.values()))
        if first["result"] is not True:
            assert "Traceback" not in first["comment"], first["comment"]
            return Row(database.name, method, reader, refused=re.sub(r"\s+", " ", first["comment"]))
        number = 0
        with Load(postfix.port, ADDRESSES, rate=RATE, per_connection=5) as load:
            while number < ROTATIONS or load.count < rcpts:
                number += 1
                minion.pillar = wanted(number)
                rotate(minion)
            ours = load.stop()
        with Load(postfix.port, ADDRESSES, rate=RATE, per_connection=5) as load:
            user = minion.pillar["ispmail"]["database"]["user"]
            database.give(user, "naive")
            # What it takes until a server has it.
            time.sleep(3)
            minion.pillar = pillar(database, postfix, reader, user, "naive")
            assert_done(minion.apply())
            naive = load.stop()
        return Row(database.name, method, reader, "", number, ours, naive)


def pillar(database: Database, postfix: Postfix, reader: str, user: str, password: str) -> dict:
    """Pillar of a row, with this login."""
    login: dict[str, object] = {"user": user, "password": password, "hosts": list(database.hosts), **only_host()}
    accounts = {"accounts_host": database.account_host} if database.type == "mysql" else {}
    maps = ("virtual_mailbox_domains", "virtual_alias_maps", "virtual_mailbox_maps")
    section = {
        "database": login,
        "server": {"unix_socket": database.server.socket, **accounts},
        "postfix": {"config_directory": str(postfix.config_directory)},
        "maps": {name: {"type": database.type, "proxy": reader == "proxymap"} for name in maps},
        "packages": False,
    }
    return {"ispmail": section}


def rotate(minion: Minion) -> None:
    """What salt-run ispmail.rotate has the servers do."""
    call(minion, "credential_accepted")
    assert_done(minion.apply())
    assert_done(minion.apply("ispmail.drained"))
    call(minion, "credential_sole")


def succeeded(states: dict) -> bool:
    """Whether each state is well."""
    return all(state["result"] is True for state in states.values())


def assert_done(states: dict) -> None:
    """See that each state is well."""
    assert succeeded(states), [state["comment"] for state in states.values() if state["result"] is not True]


def _version(server: PrivateServer) -> str:
    return str(server.sql("SELECT VERSION()")[0][0]).partition("-")[0]


def rows(names: list[str], rcpts: int) -> Iterator[Row]:
    """A row for each of these databases, each method and each of its readers."""
    for name in names:
        with scratch() as directory, DATABASES[name](directory) as database:
            for method, reader in itertools.product(METHODS, database.readers):
                yield row(database, method, reader, rcpts)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.functional.servers", description=__doc__.partition("\n")[0])
    parser.add_argument("--rcpts", type=int, default=1000, help="at least so many for each row (default: 1000)")
    parser.add_argument("--database", choices=DATABASES, action="append", help="only this one; may be repeated")
    options = parser.parse_args()
    print(HEAD)
    code = 0
    for each in rows(options.database or list(DATABASES), options.rcpts):
        print(each, flush=True)
        if each.ours and each.ours.failed:
            print(*each.ours.examples, sep="\n", file=sys.stderr)
            code = 1
    return code


if __name__ == "__main__":
    sys.exit(main())
