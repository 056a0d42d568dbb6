"""Find the logins in live table files that the database refuses.

A database that is down or silent has not refused. Whatever the servers do, an attempt ends within three seconds.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ispmail_database
import ispmail_files
import ispmail_hosts
import ispmail_tablefile
from ispmail_config import Instance
from ispmail_database import Client, Login
from ispmail_errors import DatabaseError

# ER_ACCESS_DENIED_ERROR, ER_ACCESS_DENIED_NO_PASSWORD_ERROR.
_REFUSALS = (1045, 1698)
# In seconds: each step of one login, and all logins together.
_STEP, _ALL = 2, 2.5


@dataclass(frozen=True)
class LiveLogin:
    """A login in one or more table files, to one host."""

    host: str  # as the table files have it
    login: Login
    maps: tuple[str, ...]  # the maps that log in so; with the pillar key before it, for another instance
    changed: int  # when the newest of their table files did, in ns since 1970

    def describe(self) -> dict[str, Any]:
        """For people, without the password."""
        return {"host": self.host, "user": self.login.user, "maps": list(self.maps), "changed": self.changed}


def refused(instances: Mapping[str, Instance], main_key: str) -> list[dict[str, Any]]:
    """Tell which logins in the live table files the database refuses.

    Args:
        instances: Pillar key to instance.
        main_key: The pillar key that is not named before a map.

    Raises:
        CannotAsk: A table file cannot be read, or there is no PyMySQL.
    """
    return [login.describe() for login in refused_of(read(instances, main_key))]


def read(instances: Mapping[str, Instance], main_key: str) -> list[LiveLogin]:
    """Read the logins in the live table files. Equal logins to the same host are one.

    Raises:
        CannotAsk: A table file cannot be read.
    """
    found: dict[tuple[str, Login], dict[str, int]] = {}
    for key, instance in instances.items():
        for each in instance.wanted:
            if each.type == "mysql":
                name = each.name if key == main_key else f"{key}:{each.name}"
                for host, login, changed in _logins(each.path):
                    found.setdefault((host, login), {})[name] = changed
    return [LiveLogin(host, login, tuple(maps), max(maps.values())) for (host, login), maps in found.items()]


def refused_of(logins: Sequence[LiveLogin]) -> list[LiveLogin]:
    """Try logins side by side, and return those that the database refuses.

    Raises:
        DatabaseError: There is no PyMySQL.
    """
    if not logins:
        return []
    ispmail_database.require_pymysql()
    numbers: dict[LiveLogin, int] = {}

    def attempt(login: LiveLogin, client: Client) -> None:
        try:
            with contextlib.closing(client):
                client.connect()
        except DatabaseError as err:
            numbers[login] = err.number

    clients = [Client(each.host, each.login, _STEP, _STEP) for each in logins]
    # Not a pool of concurrent.futures: Salt would wait at its own end for a login that hangs in a name server.
    threads = [threading.Thread(target=attempt, args=pair, daemon=True) for pair in zip(logins, clients)]
    until = time.monotonic() + _ALL
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0, until - time.monotonic()))
    # A server that sends a byte now and then would hold its thread for ever, and the next attempt one more.
    for client in clients:
        client.abort()
    return [login for login in logins if numbers.get(login) in _REFUSALS]


class Watch:
    """Tries logins in a thread of its own, one attempt at a time, and keeps what the last one has found."""

    THREAD = "ispmail-logins"

    def __init__(self) -> None:
        """Nothing is under way."""
        self._thread: threading.Thread | None = None
        self._found: list[LiveLogin] | None = None

    def take(self) -> list[LiveLogin] | None:
        """Return the refused logins of an attempt that has finished, once; None while there is none."""
        if self._thread is None or self._thread.is_alive():
            return None
        self._thread = None
        found, self._found = self._found, None
        return found

    def start(self, logins: Sequence[LiveLogin]) -> None:
        """Begin an attempt, unless one is under way or its result was not taken. Returns at once."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, args=[logins], name=self.THREAD, daemon=True)
            self._thread.start()

    def _run(self, logins: Sequence[LiveLogin]) -> None:
        with contextlib.suppress(DatabaseError):
            self._found = refused_of(logins)


_watches: dict[str, Watch] = {}


def watch(name: str) -> Watch:
    """Return the watch of this name. It outlives the beacon's module, which Salt loads anew at each refresh."""
    return _watches.setdefault(name, Watch())


def _logins(path: str) -> list[tuple[str, Login, int]]:
    """Each host of a table file, how to log in there, and when the file changed."""
    try:
        # Before the file is read: if it is replaced in between, it is reported once too often, and not once too few.
        changed = os.stat(path).st_ctime_ns
    except OSError:
        return []
    content = ispmail_files.read(path).content
    keys = ispmail_tablefile.parse(content)
    # What is in an option_file is not looked at here; without it no login would be right.
    if content is None or "option_file" in keys:
        return []
    return [(host, ispmail_database.login(host, keys), changed) for host in ispmail_hosts.hosts(keys)]
