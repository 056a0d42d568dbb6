"""Somebody else changes the credentials, and no rotation of ours does: python -m tests.functional.outsiders

prints a table: what lookups that costs, by who does it and in which order. Exit code 1 if an order that loses nothing
has lost one. Vault and AWS are stand-ins that do what the documentation of each says, on a real database.
"""

import argparse
import contextlib
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from lab import scratch
from lab.minion import Minion
from lab.postfix import Postfix
from lab.smtp import Load, Report

from .servers import ADDRESSES, DATABASES, RATE, READERS, Database, assert_done, pillar
from .test_credentials import beacon

WATCHED = ["mariadb", "mysql-socket", "postgresql"]  # where a refused login can be seen
INTERVAL = 1  # of the beacon; 10 s is its default
_MOST_INTERVALS = 15


class Secrets:
    """What pillar reads by sdb:// URIs: a user and a password."""

    def __init__(self, path: Path):
        self._path = path
        self.profile = {"driver": "yaml", "files": [str(path)]}

    def write(self, user: str, password: str) -> None:
        """From now on a reader gets these."""
        self._path.write_text(json.dumps({"user": user, "password": password}))


class Vault:
    """Vault's database secrets engine, see developer.hashicorp.com/vault/docs/secrets/databases."""

    def __init__(self, database: Database, secrets: Secrets):
        self._database, self._secrets, self._number = database, secrets, 0

    def rotate_static_role(self) -> None:
        """A static role has one account: its password is changed at the database, then readers get the new one."""
        self._number += 1
        self._database.give("mailserver", f"static-{self._number}")
        self._secrets.write("mailserver", f"static-{self._number}")

    def lease(self) -> str:
        """A dynamic role has a new account for each lease. The user of this one."""
        self._number += 1
        user = f"mailserver_v{self._number}"
        self._database.give(user, f"dynamic-{self._number}")
        self._secrets.write(user, f"dynamic-{self._number}")
        return user

    def revoke(self, user: str) -> None:
        """A lease ends: its account is dropped."""
        self._database.drop(user)


class AlternatingUsers:
    """AWS Secrets Manager, two users in turn: the one that is not in use gets a new password, and is named then."""

    def __init__(self, database: Database, secrets: Secrets):
        self._database, self._secrets, self._number = database, secrets, 0

    def rotate(self) -> None:
        """Once: the other user is in use from now on, and the one before keeps its password until the next time."""
        self._number += 1
        user = ("mailserver", "mailserver_clone")[self._number % 2]
        self._database.give(user, f"alternating-{self._number}")
        self._secrets.write(user, f"alternating-{self._number}")


class Row(NamedTuple):
    """What one order has cost."""

    database: str
    who: str
    report: Report
    may_lose: bool

    def __str__(self) -> str:
        failures = self.report.failures
        spread = failures[-1].at - failures[0].at if failures else 0
        cells = [self.database, self.who, f"{self.report.count:,}", self.report.failed, f"{spread:.1f} s"]
        return f"| {' | '.join(map(str, cells))} |"


HEAD = "| server | who, and in which order | RCPTs | failed | for |\n|---|---|---|---|---|"


class Server:
    """A mail server whose pillar holds sdb:// URIs, with its beacon, and what the master's reactor has it do."""

    def __init__(self, minion: Minion):
        self._minion, self._beacon = minion, beacon(minion)

    def reapply(self) -> None:
        """What an event has each mail server do."""
        said = self._minion.call("ispmail.reapply")
        assert said["result"] is True, said

    def drain(self) -> None:
        """Wait until no process of Postfix uses an older table file."""
        assert_done(self._minion.apply("ispmail.drained"))

    def watch(self) -> None:
        """Run the beacon at each interval, until it sends an event, and do what the reactor does at it."""
        intervals = itertools.count()
        while not self._beacon():
            assert next(intervals) < _MOST_INTERVALS, "the beacon has not noticed a refused login"
            time.sleep(INTERVAL)
        self.reapply()
        time.sleep(1)


def _static_role(database: Database, secrets: Secrets, server: Server) -> None:
    Vault(database, secrets).rotate_static_role()
    server.watch()


def _dynamic_role(database: Database, secrets: Secrets, server: Server) -> None:
    vault, before = Vault(database, secrets), ""
    for _ in range(3):
        lease = vault.lease()
        server.reapply()
        server.drain()
        if before:
            vault.revoke(before)
        before = lease
        time.sleep(1)


def _lease_that_ends_at_once(database: Database, secrets: Secrets, server: Server) -> None:
    vault = Vault(database, secrets)
    first = vault.lease()
    server.reapply()
    vault.lease()
    vault.revoke(first)
    server.watch()


def _alternating_users(database: Database, secrets: Secrets, server: Server) -> None:
    aws = AlternatingUsers(database, secrets)
    for _ in range(3):
        aws.rotate()
        server.reapply()
        server.drain()


def _alternating_users_at_once(database: Database, secrets: Secrets, server: Server) -> None:
    aws = AlternatingUsers(database, secrets)
    aws.rotate()
    server.reapply()
    aws.rotate()
    aws.rotate()
    server.watch()


def _second_account(database: Database, secrets: Secrets, server: Server) -> None:
    database.give("mailserver_2", "by-hand")
    secrets.write("mailserver_2", "by-hand")
    server.reapply()
    server.drain()
    database.drop("mailserver")
    time.sleep(2)


def _password_first(database: Database, secrets: Secrets, server: Server) -> None:
    database.give("mailserver", "by-hand")
    time.sleep(3)
    secrets.write("mailserver", "by-hand")
    server.reapply()
    time.sleep(1)


# Who does what, and whether it may lose lookups.
WAYS: dict[str, tuple[Callable[[Database, Secrets, Server], None], bool]] = {
    "Vault, static role: the password changes at the database first; the beacon": (_static_role, True),
    "Vault, dynamic role: a lease, the event, drained, the older lease ends": (_dynamic_role, False),
    "Vault, dynamic role: the older lease ends before the event": (_lease_that_ends_at_once, True),
    "AWS, two users in turn: the event after each": (_alternating_users, False),
    "AWS, two users in turn: two rotations before the event": (_alternating_users_at_once, True),
    "An admin: a second account, the event, drained, the older one is dropped": (_second_account, False),
    "An admin: the password at the database first, three seconds later pillar and the event": (_password_first, True),
}


def row(database: Database, who: str) -> Row:
    """Have somebody rotate, under load."""
    act, may_lose = WAYS[who]
    with contextlib.ExitStack() as stack:
        path = stack.enter_context(scratch())
        postfix = stack.enter_context(Postfix(path / "mail", chroot=False, max_use="5"))
        secrets = Secrets(path / "secrets.yaml")
        section = pillar(database, postfix, READERS[1], "sdb://secrets/user", "sdb://secrets/password")
        minion = Minion(path / "minion", section, secrets=secrets.profile)
        database.begin()
        database.give("mailserver", "first")
        secrets.write("mailserver", "first")
        assert_done(minion.apply())
        server = Server(minion)
        with Load(postfix.port, ADDRESSES, rate=RATE, per_connection=5) as load:
            act(database, secrets, server)
            report = load.stop()
        # Whatever it has cost, it is over.
        left = minion.call("postfix_map.probe")
        assert left == [], left
        return Row(database.name, who, report, may_lose)


def rows(names: list[str]) -> Iterator[Row]:
    """A row for each of these databases and each way."""
    for name in names:
        with scratch() as directory, DATABASES[name](directory) as database:
            for who in WAYS:
                yield row(database, who)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.functional.outsiders", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--database", choices=DATABASES, action="append", help="only this one; may be repeated")
    options = parser.parse_args()
    print(HEAD)
    code = 0
    for each in rows(options.database or WATCHED):
        print(each, flush=True)
        if each.report.failed and not each.may_lose:
            print(*each.report.examples, sep="\n", file=sys.stderr)
            code = 1
    return code


if __name__ == "__main__":
    sys.exit(main())
