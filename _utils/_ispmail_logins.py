"""Try logins: those in live table files and option files, and one that is to go live.

A database that is down or silent has not refused. Whatever the servers do, `try_all` ends within three seconds.
"""

from __future__ import annotations

import contextlib
import encodings.idna  # noqa: F401  not in the thread that looks a host up: the minion forks meanwhile
import os
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import _ispmail_client
import _ispmail_consumers
import _ispmail_files
import _ispmail_hosts
import _ispmail_meanings
import _ispmail_session
import _ispmail_sqlstates
import _ispmail_tablefile
from _ispmail_client import Login
from _ispmail_config import Instance, qualified
from _ispmail_config_consumers import Consumer, Consumers
from _ispmail_config_database import MYSQL, PGSQL
from _ispmail_errors import CannotAsk, DatabaseError, Failed, listed, plural
from _ispmail_session import AnyClient

# The server refuses a login for its account, whatever is asked.
_REFUSALS = (*_ispmail_meanings.REFUSALS, *_ispmail_sqlstates.REFUSALS)
# A login that is refused for its account, or for its database: ER_DBACCESS_DENIED_ERROR, ER_BAD_DB_ERROR.
_WRONG = (*_ispmail_meanings.REFUSALS, 1044, 1049)
# In seconds: connecting to one address, and all logins together.
_CONNECT, _ALL = 2, 2.5
# Each takes a thread: how many at a time.
_MOST = 64


class LiveLogin(NamedTuple):
    """A login in one or more files, to one host."""

    host: str  # as the files have it
    login: Login
    maps: tuple[str, ...]  # who logs in so: maps, consumer:dovecot; with the pillar key before it, for another instance
    changed: int  # when the newest of their table files did, in ns since 1970

    def describe(self) -> dict[str, Any]:
        """For people, without the password."""
        shown = _ispmail_tablefile.redact({"user": self.login.user})
        return {"host": self.host, **shown, "maps": list(self.maps), "changed": self.changed}


class Tried(NamedTuple):
    """What became of logins. One whose server is down, silent or at its limits is in none of these."""

    refused: list[LiveLogin]
    worked: list[LiveLogin]
    untried: tuple[LiveLogin, ...] = ()  # for which there was no time, or no thread

    def left_out(self) -> str:
        """Say how many were not tried; nothing where all were."""
        if not self.untried:
            return ""
        count = plural(len(self.untried), "login")
        return f"{count} could not be tried within {_ALL} s: see which hosts in the table files do not answer"


def refused(
    instances: Mapping[str, Instance], main_key: str, consumers: Iterable[Consumers] = ()
) -> list[dict[str, Any]]:
    """Tell which logins in the live table files and option files the database refuses.

    Args:
        instances: Pillar key to instance.
        main_key: The pillar key that is not named before a map.
        consumers: Those of each pillar key.

    Raises:
        CannotAsk: A table file cannot be read, not all logins could be tried, or there is no PyMySQL for one that needs
            it.
    """
    tried = try_all(read(instances, main_key, consumers))
    if tried.untried:
        raise CannotAsk(tried.left_out())
    return [login.describe() for login in tried.refused]


def read(instances: Mapping[str, Instance], main_key: str, consumers: Iterable[Consumers] = ()) -> list[LiveLogin]:
    """Read the logins in the live table files and option files. Equal logins to the same host are one.

    Raises:
        CannotAsk: A table file cannot be read.
    """
    found: dict[tuple[str, Login], dict[str, int]] = {}
    for key, instance in instances.items():
        for each in instance.wanted:
            if each.type in (MYSQL, PGSQL):
                name = qualified(each.name, key, main_key)
                for host, login, changed in _logins(each.path, each.type):
                    found.setdefault((host, login), {})[name] = changed
    for some in consumers:
        for consumer in some.with_option_file:
            name = qualified(f"consumer:{consumer.name}", some.pillar_key, main_key)
            for host, login, changed in _consumer_logins(consumer, some.keys):
                found.setdefault((host, login), {})[name] = changed
    return [LiveLogin(host, login, tuple(maps), max(maps.values())) for (host, login), maps in found.items()]


def require_client(logins: Sequence[LiveLogin]) -> None:
    """See that there is a client for all logins.

    Raises:
        DatabaseError: There is no PyMySQL.
    """
    if any(login.login.type == MYSQL for login in logins):
        _ispmail_client.require_pymysql()


def try_all(logins: Sequence[LiveLogin]) -> Tried:
    """Try logins side by side, 64 at a time, as many as there is time for.

    Raises:
        DatabaseError: There is no PyMySQL for one that needs it.
    """
    require_client(logins)
    until = time.monotonic() + _ALL
    results: dict[LiveLogin, bool] = {}
    free = threading.Semaphore(_MOST)

    def attempt(login: LiveLogin, client: AnyClient) -> None:
        try:
            with contextlib.closing(client):
                client.connect()
                # With an expired password a login may work, and every statement fails.
                client.ask("SELECT 1")
            results[login] = True
        except DatabaseError as err:
            if err.number in _REFUSALS:
                results[login] = False
        finally:
            free.release()

    clients: list[AnyClient] = []
    threads: list[threading.Thread] = []
    for login in logins:
        if not free.acquire(timeout=max(0, until - time.monotonic())) or time.monotonic() > until:
            break
        client = _ispmail_session.connection(login.host, login.login, _CONNECT, _ALL)
        # Not a pool of concurrent.futures: Salt would wait at its own end for a login that hangs in a name server.
        thread = threading.Thread(target=attempt, args=(login, client), daemon=True)
        if not _started(thread):
            break
        clients.append(client)
        threads.append(thread)
    for thread in threads:
        thread.join(max(0, until - time.monotonic()))
    for client in clients:
        client.abort()
    found = dict(results)
    return Tried(
        refused=[login for login in logins if found.get(login) is False],
        worked=[login for login in logins if found.get(login) is True],
        untried=tuple(logins[len(threads) :]),
    )


def probe(consumers: Consumers) -> list[str]:
    """Log in with what is to be written, before it goes live.

    Returns:
        Warnings: a host that could not be asked, where another one let us in.

    Raises:
        Failed: A host refuses the login, or none could be asked.
    """
    refused: list[str] = []
    unanswered: list[str] = []
    worked = False
    for host in _ispmail_hosts.hosts(consumers.keys):
        try:
            login = _ispmail_session.login(host, consumers.keys)
            with contextlib.closing(_ispmail_session.connection(host, login)) as client:
                client.connect()
            worked = True
        except DatabaseError as err:
            (refused if err.number in _WRONG else unanswered).append(f"the login of the consumers: {err}")
    if refused or not worked:
        raise Failed(listed("Nothing was changed, all programs log in as before", refused or unanswered))
    return unanswered


def _started(thread: threading.Thread) -> bool:
    """Start a thread, unless the system has no more of them."""
    try:
        thread.start()
    except RuntimeError:
        return False
    return True


class Watch:
    """Tries logins in a thread of its own, one attempt at a time, and keeps what the last one has found."""

    THREAD = "ispmail-logins"

    def __init__(self) -> None:
        """Nothing is under way."""
        self._thread: threading.Thread | None = None
        self._found: Tried | None = None

    def take(self) -> Tried | None:
        """Return what an attempt that has finished has found, once; None while there is none."""
        if self._thread is None or self._thread.is_alive():
            return None
        self._thread = None
        found, self._found = self._found, None
        return found

    def start(self, logins: Sequence[LiveLogin]) -> None:
        """Begin an attempt, unless one is under way or its result was not taken. Returns at once."""
        if self._thread is None:
            thread = threading.Thread(target=self._run, args=[logins], name=self.THREAD, daemon=True)
            if _started(thread):
                self._thread = thread

    def _run(self, logins: Sequence[LiveLogin]) -> None:
        with contextlib.suppress(DatabaseError):
            self._found = try_all(logins)


_watches: dict[str, Watch] = {}


def watch(name: str) -> Watch:
    """Return the watch of this name. It outlives the beacon's module, which Salt loads anew at each refresh."""
    return _watches.setdefault(name, Watch())


def _logins(path: str, table_type: str) -> list[tuple[str, Login, int]]:
    """Each host of a table file, how to log in there, and when the file changed; nothing where it tells no login."""
    changed = _changed(path)
    if changed is None:
        return []
    return _at_each_host(_ispmail_tablefile.parse(_ispmail_files.content(path)), changed, table_type)


def _consumer_logins(consumer: Consumer, keys: Mapping[str, str]) -> list[tuple[str, Login, int]]:
    """The same of an option file; the hosts are those that the maps share in pillar."""
    changed = _changed(consumer.option_file or "")
    if changed is None or "hosts" not in keys:
        return []
    return _at_each_host({**keys, **_ispmail_consumers.login_in(consumer)}, changed, MYSQL)


def _changed(path: str) -> int | None:
    """When a file changed; None where it is not there.

    Asked before the file is read: if it is replaced in between, it is reported once too often, and not once too few.

    Raises:
        CannotAsk: It is there, and cannot be looked at.
    """
    try:
        return os.stat(path).st_ctime_ns
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as err:
        raise CannotAsk(f"{path} cannot be read: {err.strerror}") from err


def _at_each_host(keys: Mapping[str, str], changed: int, table_type: str) -> list[tuple[str, Login, int]]:
    # Any other login than Postfix's may be refused where mail works.
    if not _ispmail_tablefile.tells_login(keys):
        return []
    # Without a password PostgreSQL may ask who the process is (peer), and we are another one than Postfix.
    if table_type == PGSQL and not keys.get("password"):
        return []
    logins = [
        (host, _ispmail_session.login(host, keys, table_type))
        for host in _ispmail_hosts.hosts(keys)
        # Only libpq itself can read a URI.
        if not _ispmail_hosts.is_read_by_libpq(host, table_type)
    ]
    if table_type == PGSQL:
        # There which database is asked decides which line of pg_hba.conf counts.
        return [(host, login, changed) for host, login in logins]
    # Which database is asked makes no difference to whether the login is refused.
    return [(host, login._replace(database=None), changed) for host, login in logins]
