"""A real master and two real minions, each with a Postfix of its own, over one MariaDB."""

import concurrent.futures
import json
import logging
import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from salt._logging.handlers import DeferredStreamHandler
from saltfactories.daemons.master import SaltMaster
from saltfactories.daemons.minion import SaltMinion

from lab import START_SECONDS, scratch
from lab.mariadb import schema
from lab.minion import FILE_ROOTS, SERVING
from lab.postfix import Postfix
from lab.series import SERIES, runs_here
from lab.smtp import rcpt

from ..conftest import PASSWORD

# Each series, skipped where this machine's Python is too new for it.
EACH_SERIES = [
    pytest.param(each, marks=pytest.mark.skipif(not runs_here(each), reason="not on this Python"), id=each)
    for each in SERIES
]

# Part of every password here, and in no need of quoting anywhere: one search finds each trace of any of them.
CORE = "Kw7Zr4Qn9Tb2"
SECRET = f"{CORE}-one;=%#'\"\\"
OTHER_SECRET = f"{CORE}-two"
WRONG_SECRET = f"{CORE}-no"

MASTER = {
    **SERVING,
    # Its database is on the mail server itself, which has the socket in pillar for the tests of rotations.
    "ispmail": {"sites": {"main": {"database": "m1", "mail": "m1"}}},
}
# A driver of sdb that can write: the master's pillar may look up sdb://mail/…, and so may a minion, in the same store.
SDB = Path(__file__).with_name("sdb")

EVERYONE = ["jack@example.org", "john@example.org", "nobody@example.org", "jack@example.net", "john@example.net"]
NO_MAPS = dict.fromkeys(EVERYONE, 554)
# m1 has the maps of the guide. m2 has another database, one map more, and answers.
CODES = {
    "m1": dict(zip(EVERYONE, [250, 250, 550, 554, 554])),
    "m2": dict(zip(EVERYONE, [554, 554, 554, 250, 250])),
}


@dataclass
class Server:
    """One mail server of the fleet: a minion and its Postfix."""

    minion: SaltMinion
    postfix: Postfix
    pillar_file: Path
    default_pillar: dict
    bare_main_cf: bytes = field(init=False)

    def __post_init__(self):
        self.bare_main_cf = self.postfix.main_cf.read_bytes()

    @property
    def synced(self) -> Path:
        """Where the minion keeps its synced modules."""
        return Path(self.minion.config["extension_modules"])

    def write_pillar(self, **sections: dict) -> None:
        """Write its pillar: the default one, with keys of these sections replaced. The minion does not refresh it."""
        pillar = {
            name: dict(value) if isinstance(value, dict) else value for name, value in self.default_pillar.items()
        }
        for name, section in sections.items():
            pillar[name] = {**pillar.get(name, {}), **section}
        _write(self.pillar_file, pillar)

    def replies(self) -> dict[str, int]:
        """What its Postfix says to a RCPT for each of EVERYONE."""
        return {address: rcpt(self.postfix.port, address)[0] for address in EVERYONE}

    def files(self) -> dict:
        """All that an apply could change: path to inode, modification time, mode, owner and bytes."""
        found = {}
        for path in sorted(self.postfix.config_directory.rglob("*")):
            is_ = path.lstat()
            content = path.read_bytes() if path.is_file() else None
            found[path.name] = (is_.st_ino, is_.st_mtime_ns, is_.st_mode, is_.st_uid, is_.st_gid, content)
        return found

    def wipe(self) -> None:
        """Make it a Postfix without any map again, and pillar the default one."""
        self.write_pillar()
        for table in self.postfix.config_directory.glob("mariadb-*.cf"):
            table.unlink()
        self.postfix.write_main_cf()
        self.postfix.reload()


@dataclass
class Fleet:
    """The master and the mail servers."""

    root: Path
    master: SaltMaster
    servers: dict[str, Server]
    first: dict = field(default_factory=dict)

    def __iter__(self):
        return iter(self.servers.items())

    def __getitem__(self, name: str) -> Server:
        return self.servers[name]

    def run(self, function: str, *arguments: str, target: str = "*", **options: object) -> dict:
        """`salt TARGET FUNCTION …`: minion to what it returned."""
        done = self.master.salt_cli(timeout=60).run(function, *arguments, minion_tgt=target, **options)
        assert done.data is not None, done
        found = done.data if target == "*" else {target: done.data}
        assert set(found) == (set(self.servers) if target == "*" else {target}), done
        return found

    def apply(self, sls: str = "ispmail", target: str = "*", **options: object) -> dict:
        """`salt TARGET state.apply SLS …`: minion to `module.function` to what that state returned."""
        return {
            name: by_function(done) for name, done in self.run("state.apply", sls, target=target, **options).items()
        }


def by_function(done: dict) -> dict:
    """A highstate's return, each state by its `module.function`."""
    assert isinstance(done, dict), done
    found = {}
    for key, result in done.items():
        module, *_, function = key.split("_|-")
        found[f"{module}.{function}"] = result
    return found


def _write(path: Path, pillar: dict) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write("#!json\n" + json.dumps({"ispmail": pillar}))


@pytest.fixture(scope="session")
def salt_root():
    """Short, for the paths of sockets."""
    with scratch("s-") as directory:
        yield directory


@pytest.fixture(scope="session")
def salt_factories_config(request, salt_root):
    """pytest-salt-factories would otherwise put its scripts into /tmp itself, and thousands of lines into a failure."""
    reports = request.config.pluginmanager.get_plugin("logging-plugin")
    for handler in (reports.report_handler, reports.caplog_handler):
        handler.setLevel(logging.ERROR)
    yield {"root_dir": salt_root, "cwd": salt_root, "log_server_level": "error"}
    # Salt's handler that keeps messages until logging is set up would write them at exit, to a stream closed by then.
    for handler in list(logging.root.handlers):
        if isinstance(handler, DeferredStreamHandler):
            logging.root.removeHandler(handler)
            handler.sync_with_handlers()
    for handler in (reports.report_handler, reports.caplog_handler):
        handler.setLevel(logging.NOTSET)


@pytest.fixture(scope="session")
def databases(mariadb):
    """mailserver (example.org, account mailserver) as in the guide, and second (example.net, account second)."""
    schema(mariadb, SECRET, user="first")
    schema(mariadb, OTHER_SECRET, user="second", dbname="second")
    mariadb.sql("UPDATE second.virtual_domains SET name = 'example.net'")
    mariadb.sql("UPDATE second.virtual_users SET email = 'john@example.net'")
    mariadb.sql("UPDATE second.virtual_aliases SET source = 'jack@example.net', destination = 'john@example.net'")
    schema(mariadb, PASSWORD)
    return mariadb


def _pillars(port: int) -> dict[str, dict]:
    """The default pillar of each minion, but for its Postfix."""
    hosts = f"127.0.0.1:{port}"
    return {
        "m1": {"database": {"user": "first", "password": SECRET, "hosts": hosts}},
        "m2": {
            "database": {"user": "second", "password": OTHER_SECRET, "hosts": hosts, "dbname": "second"},
            "maps": {
                "smtpd_sender_login_maps": {
                    "query": "SELECT email FROM virtual_users WHERE email='%s'"
                    " UNION SELECT destination FROM virtual_aliases WHERE source='%s'"
                }
            },
            "answers": [
                {"map": "virtual_alias_maps", "question": "jack@example.net", "answer": "john@example.net"},
                {"map": "virtual_mailbox_domains", "question": "example.org", "answer": False},
            ],
        },
    }


@pytest.fixture(scope="session")
def untouched(request, salt_root, salt_factories):
    """The fleet, up and running: no minion has ever seen a module of ours, no Postfix a map."""
    pillar_root = salt_root / "pillar"
    pillar_root.mkdir()
    (pillar_root / "top.sls").write_text(json.dumps({"base": {"m1": ["m1"], "m2": ["m2"]}}))
    stored = {"sdb_dirs": [str(SDB)], "mail": {"driver": "lab_sqlite", "database": str(salt_root / "sdb.sqlite")}}
    master = salt_factories.salt_master_daemon(
        "master",
        overrides={
            **MASTER,
            **stored,
            "auto_accept": True,
            "file_roots": {"base": FILE_ROOTS},
            "pillar_roots": {"base": [str(pillar_root)]},
            "log_level_logfile": "debug",
            "worker_threads": 2,
        },
        start_timeout=START_SECONDS,
    )
    servers, started = {}, [master]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        try:
            master_is_up = pool.submit(master.start)
            for name, pillar in _pillars(request.getfixturevalue("databases").port).items():
                minion = master.salt_minion_daemon(
                    name,
                    overrides={**stored, "log_level_logfile": "debug", "multiprocessing": name != "m2"},
                    start_timeout=START_SECONDS,
                )
                postfix = Postfix(salt_root / f"postfix-{name}")
                pillar["postfix"] = {"config_directory": str(postfix.config_directory)}
                servers[name] = Server(minion, postfix, pillar_root / f"{name}.sls", pillar)
                servers[name].write_pillar()
                started += [postfix, minion]
            master_is_up.result()
            list(pool.map(lambda what: what.start(), started[1:]))
            yield Fleet(salt_root, master, servers)
        finally:
            list(pool.map(lambda what: what.stop() if isinstance(what, Postfix) else what.terminate(), started[::-1]))


@pytest.fixture(scope="session")
def first_contact(untouched):
    """What the fleet answered at the very first: a dry run, then an apply; and the RCPTs in between and after."""
    fleet = untouched
    fleet.first["synced before"] = [name for name, server in fleet if list(server.synced.glob("*/postfix*"))]
    fleet.first["files before"] = {name: server.files() for name, server in fleet}
    fleet.first["dry run"] = fleet.apply(test=True)
    fleet.first["files after dry run"] = {name: server.files() for name, server in fleet}
    fleet.first["replies before"] = {name: server.replies() for name, server in fleet}
    fleet.first["apply"] = fleet.apply()
    fleet.first["replies"] = {name: server.replies() for name, server in fleet}
    return fleet


@pytest.fixture
def fleet(first_contact):
    """The fleet with modules synced and the default pillars, each Postfix without any map."""
    for _, server in first_contact:
        server.wipe()
    return first_contact


@pytest.fixture
def applied(fleet):
    """The fleet with the default pillars applied."""
    fleet.apply()
    assert {name: server.replies() for name, server in fleet} == CODES
    return fleet
