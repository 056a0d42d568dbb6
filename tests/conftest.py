"""Real servers for the tests: a private MariaDB and Postfix on loopback, see lab/."""

import contextlib
import functools
import itertools
import logging
import os
from pathlib import Path

import pytest
from salt.loader.lazy import LazyLoader

from _ispmail_command import output
from lab import scratch
from lab.mariadb import MariaDB, schema
from lab.minion import REPOSITORY, Minion
from lab.postfix import Postfix

# Looks like nothing else: a search for it anywhere finds nothing but the password.
PASSWORD = "pw-Zq8#x7%;=$'\"\\w{}-Kv3"


def pytest_addoption(parser):
    """What tests/fleet runs on."""
    group = parser.getgroup("fleet")
    group.addoption("--release", help="Debian's release on each machine, such as forky")
    group.addoption("--series", default="3008", help="Salt's series on each machine (default: 3008)")
    group.addoption("--rotations", type=int, default=2, help="how many under one load (default: 2)")
    taken = "a folder where this process takes what it runs, file by file: what it has not, another one has"
    parser.getgroup("general").addoption("--taken", type=Path, help=taken)


def pytest_collection_modifyitems(items):
    """The file of unit tests that takes longest comes first: all parts end at about the same time."""
    items.sort(key=lambda item: item.path.name != "test_mutants.py")


def not_taken(items, folder):
    """Of these tests those that no other process with this folder has taken, file by file, each as late as possible.

    Those that share a master and minions, which take long to start, are one.
    """

    def together(item):
        return "a-master" if "untouched" in item.fixturenames else f"{item.path.parent.name}-{item.path.name}"

    ours = set()
    for name, tests in itertools.groupby(items, together):
        with contextlib.suppress(FileExistsError):
            if name not in ours:  # pytest may part the tests of a file
                (folder / name).touch(exist_ok=False)
                ours.add(name)
            yield from tests


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session):
    """With --taken: as pytest does it itself, but for which tests."""
    folder = session.config.getoption("taken")
    if not folder or session.testsfailed or session.config.option.collectonly:
        return None
    items = not_taken(session.items, folder)
    item = next(items, None)
    while item:
        following = next(items, None)
        session.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.shouldfail or session.shouldstop:
            raise session.Failed(session.shouldfail) if session.shouldfail else session.Interrupted(session.shouldstop)
        item = following
    return True


def remember_listings():
    """Have Salt list its folders of modules once in this process, and again only when one of them has changed.

    A call makes some twenty loaders, and each lists hundreds of files: a third of what the functional tests cost.
    """
    attributes = ("file_mapping", "suffix_map", "suffix_order")
    scan, remembered = LazyLoader._refresh_file_mapping, {}

    def look(loader):
        folders = ((folder, os.stat(folder).st_mtime_ns) for folder in loader.module_dirs if os.path.isdir(folder))
        key = (*folders, frozenset(loader.disabled), *loader.static_modules)
        if key not in remembered:
            scan(loader)
            remembered[key] = [getattr(loader, name).copy() for name in attributes]
        for name, value in zip(attributes, remembered[key]):
            setattr(loader, name, value.copy())

    LazyLoader._refresh_file_mapping = look


remember_listings()
# Each apply lists the files that it may serve: thousands of traces, kept by pytest until the test's end.
logging.getLogger("salt.loaded.int.fileserver.roots").setLevel(logging.DEBUG)


def pytest_unconfigure():
    """At exit Salt logs to a console that is closed by then, and logging complains of that at length."""
    logging.raiseExceptions = False


@pytest.fixture
def caplog(caplog):
    """What our own files log, at info and above: Salt, in this process too, logs as well and changes the levels."""

    def ours(record):
        return record.pathname.startswith(f"{REPOSITORY}/")

    caplog.set_level(logging.INFO)
    caplog.handler.addFilter(ours)
    yield caplog
    caplog.handler.removeFilter(ours)


@pytest.fixture(scope="session")
def mariadb():
    """A MariaDB with the tables and a few rows; the account mailserver has PASSWORD."""
    with scratch() as directory, MariaDB(directory / "db") as server:
        schema(server, PASSWORD)
        yield server


@pytest.fixture(scope="module")
def scratch_directory():
    """A short, empty directory that every user may enter."""
    with scratch() as directory:
        yield directory


@pytest.fixture
def by_socket(mariadb):
    """The hosts of a database that is asked by its socket, and lets the account in there."""
    mariadb.sql("CREATE USER IF NOT EXISTS mailserver@localhost IDENTIFIED BY %s", PASSWORD)
    mariadb.sql("GRANT SELECT ON mailserver.* TO mailserver@localhost")
    yield f"unix:{mariadb.socket}"
    mariadb.sql("DROP USER mailserver@localhost")


@pytest.fixture
def postfix():
    """A running Postfix in Debian's chroot, without any map."""
    with scratch() as directory, Postfix(directory / "mail") as instance:
        yield instance


@functools.cache
def release():
    """The release of the installed Postfix, such as (3, 10)."""
    return tuple(int(part) for part in output("postconf", ["-d", "-h", "mail_version"]).split(".")[:2])


def only_host():
    """What the doctor advises for a login with a single host, for the installed Postfix."""
    return {"retry_interval": 1} if release() >= (3, 10) else {}


def pillar_for(postfix, mariadb, **sections):
    """The least pillar for these two servers, and more sections, those of the database merged."""
    database = {"password": PASSWORD, "hosts": f"127.0.0.1:{mariadb.port}", **sections.pop("database", {})}
    return {
        "ispmail": {"database": database, "postfix": {"config_directory": str(postfix.config_directory)}, **sections}
    }


@pytest.fixture
def pillar(postfix, mariadb):
    """A function that gives the pillar for these servers, with more sections."""
    return lambda **sections: pillar_for(postfix, mariadb, **sections)


@pytest.fixture
def minion(pillar):
    """A masterless minion whose pillar is the least one for the servers."""
    with scratch() as directory:
        yield Minion(directory, pillar())
