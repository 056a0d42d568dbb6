"""What a call runs and writes, as Python itself reports it."""

import contextlib
import os
import socket
import sys
from types import SimpleNamespace

import pytest

from lab import scratch
from lab.mariadb import MariaDB
from lab.postgresql import PostgreSQL

from .database import PLUGINS, AskingServer, certificate
from .pgsql import untouched

_listeners = []


def _hook(event, arguments):
    for seen in _listeners:
        if event == "subprocess.Popen":
            seen.commands.append([os.fsdecode(part) for part in arguments[1]])
        elif event == "open":
            path, _, flags = arguments
            if isinstance(path, (str, bytes)) and (flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                seen.written.append(os.fsdecode(path))
        elif event in ("os.rename", "os.remove", "os.mkdir", "os.utime", "os.chmod", "os.chown"):
            seen.written.append(str(arguments[0]))


sys.addaudithook(_hook)


@pytest.fixture
def audit():
    """A context manager: the commands run, and the files written, renamed, removed or changed inside it."""

    @contextlib.contextmanager
    def listen():
        seen = SimpleNamespace(commands=[], written=[])
        _listeners.append(seen)
        try:
            yield seen
        finally:
            _listeners.remove(seen)

    return listen


@pytest.fixture
def silent_port():
    """A server that accepts connections and never speaks."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield server.getsockname()[1]


@pytest.fixture(params=["switch", "greeting", "switch, TLS", "greeting, TLS"])
def asking_server(request, directory):
    """A server that asks for the password itself, by each plugin in turn; its certificate is nobody's."""
    way, _, tls = request.param.partition(", ")
    file = certificate(directory) if tls else None
    with AskingServer(*PLUGINS, greeting=way == "greeting", tls=file, full=True) as server:
        yield server


@pytest.fixture(scope="module")
def directory():
    with scratch() as path:
        yield path


@pytest.fixture(scope="module")
def started(directory):
    with MariaDB(directory / "db", general_log=directory / "general.log") as server:
        yield server


@pytest.fixture
def server(started):
    """A MariaDB as it is before anything of ours; its general log is general.log in `directory`."""
    started.sql("DROP DATABASE IF EXISTS mailserver")
    for user, host in started.sql("SELECT User, Host FROM mysql.global_priv WHERE User IN ('mailserver', 'oldserver')"):
        started.sql("DROP USER %s@%s", user, host)
    return started


@pytest.fixture(scope="module")
def started_postgresql():
    with scratch() as path, PostgreSQL(path / "db", max_connections="900") as server:
        yield server


@pytest.fixture
def postgresql(started_postgresql):
    """A PostgreSQL as it is before anything of ours."""
    untouched(started_postgresql)
    return started_postgresql


@pytest.fixture
def other_account(mariadb):
    """Another account that may read the maps' tables, as pillar names it."""
    mariadb.sql("CREATE OR REPLACE USER other@'127.0.0.1' IDENTIFIED BY 'canary-Old9'")
    mariadb.sql("GRANT SELECT ON mailserver.* TO other@'127.0.0.1'")
    mariadb.sql("CREATE OR REPLACE USER other@localhost IDENTIFIED BY 'canary-Old9'")
    mariadb.sql("GRANT SELECT ON mailserver.* TO other@localhost")
    yield {"user": "other", "password": "canary-Old9"}
    mariadb.sql("DROP USER other@'127.0.0.1', other@localhost")
