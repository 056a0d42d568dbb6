"""Every way to bring the formula to a server that the documents name, done as they say, on a server that had nothing.

Commands and configurations are read from the documents. They are carried out in a sandbox, in which the checkout is
/srv/salt-ispmail and /etc/salt is nobody's.
"""

import contextlib
import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import yaml

from lab import HOST, scratch, wait_until
from lab.mariadb import native_hash, schema
from lab.minion import REPOSITORY
from lab.postfix import Postfix
from lab.sandbox import Sandbox, missing_requirements
from lab.series import Salt, programs
from lab.smtp import rcpt
from lab.sshd import Sshd, layers

from .. import pages
from ..conftest import PASSWORD, pillar_for
from .conftest import EACH_SERIES

SYNCED = ("_utils", "_modules", "_states", "_beacons")
ROOMS = (*SYNCED, "_runners", "salt", "docs", "bin")
HERE = "/srv/salt-ispmail"
REPLIES = {"jack@example.org": 250, "john@example.org": 250, "nobody@example.org": 550, "jack@example.net": 554}
SECURITY = (REPOSITORY / "docs/security.md").read_text()
NO_REPLIES = dict.fromkeys(REPLIES, 554)
SERVED = "The modules for Postfix maps are synced"

each_series = pytest.mark.parametrize("series", EACH_SERIES)


class Mail:
    """A Postfix that has no map, and what pillar has to say of it."""

    def __init__(self, postfix, mariadb):
        self.postfix = postfix
        self.pillar = pillar_for(postfix, mariadb, packages=False)

    def wipe(self):
        for table in self.postfix.config_directory.glob("mariadb-*.cf"):
            table.unlink()
        self.postfix.write_main_cf()
        self.postfix.reload()
        # A process that had the maps takes one more client now and then.
        assert wait_until(lambda: self.replies() == NO_REPLIES, 10), self.replies()

    def replies(self):
        return {address: rcpt(self.postfix.port, address)[0] for address in REPLIES}

    def write_pillar(self, folder, **sections):
        """As README says: a file that only its owner may read, and a top file."""
        pillar = {"ispmail": {**self.pillar["ispmail"], **sections}}
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "top.sls").write_text("base: {'*': [ispmail]}\n")
        with open(os.open(folder / "ispmail.sls", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write("#!json\n" + json.dumps(pillar))


@pytest.fixture(scope="module")
def directory():
    """Where there can be no sandbox these tests are left out, with the reason; in CI that is a failure."""
    reason = missing_requirements()
    if reason and os.environ.get("CI") != "true":
        pytest.skip(reason)
    with scratch("d-") as path:
        yield path


@pytest.fixture(scope="module")
def running(directory, mariadb):
    with Postfix(directory / "mail") as postfix:
        yield Mail(postfix, mariadb)


@pytest.fixture
def mail(running):
    running.wipe()
    return running


@pytest.fixture(scope="module")
def checkout(directory):
    """A git repository with the checkout's files as they are now. No test changes it."""
    path = directory / "checkout"
    for room in ROOMS:
        shutil.copytree(REPOSITORY / room, path / room, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    git(path, "init", "--quiet", "--initial-branch=main")
    commit(path)
    before = files_of(path)
    yield path
    assert files_of(path) == before


def files_of(path):
    return {file: file.read_bytes() for file in path.rglob("*") if file.is_file() and ".git" not in file.parts}


def git(path, *arguments):
    identity = ["-c", "user.name=lab", "-c", "user.email=lab@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *identity, *arguments], cwd=path, check=True, stdin=subprocess.DEVNULL)


def commit(path):
    git(path, "add", "--all")
    git(path, "commit", "--quiet", "--message=one")


def change(path):
    """A change of the library, as between two releases."""
    with (path / "_utils" / "_ispmail_errors.py").open("a") as file:
        file.write("# changed\n")
    subprocess.run([sys.executable, str(path / "bin" / "stamp")], check=True)


def version(path):
    """What ispmail.version says of a checkout."""
    return re.search(r"set wanted = '(.+?)'", (path / "salt/ispmail/modules.sls").read_text())[1]


@pytest.fixture
def sandbox(directory, checkout):
    with Sandbox(directory / "sandbox") as found:
        shutil.copytree(checkout, found.root / HERE[1:], symlinks=True)
        yield found


@contextlib.contextmanager
def served(series, directory, sandbox, mail, conf, master=None, **minion):
    """A master with this configuration in master.d, and a minion that has never seen a module of ours."""
    path = directory / f"salt-{series}"
    try:
        salt = Salt(series, path, [], master, launcher=(sandbox.enter, -1), patience=2, **minion)
        (path / "master" / "master.d").mkdir()
        (path / "master" / "master.d" / "ispmail.conf").write_text(conf)
        mail.write_pillar(salt.pillar)
        with salt:
            yield salt
    finally:
        shutil.rmtree(path, ignore_errors=True)


def states(done):
    """What each state of an apply returned, by its ID."""
    assert isinstance(done, dict), done
    return {key.split("_|-")[1]: state for key, state in done.items()}


def check_first(mail, done):
    """A first apply brings the modules and the maps."""
    first = states(done)
    assert {state["result"] for state in first.values()} == {True}, str(first)
    assert SERVED in first
    assert mail.replies() == REPLIES


def check_next(done):
    """The next one has nothing to do, and nothing to sync."""
    assert {(state["result"], str(state["changes"])) for state in states(done).values()} == {(True, "{}")}, str(done)


def check_synced(directory, checkout):
    """All of our files, or a remote or a root is missing in the document."""
    cached = next(directory.glob("minion/**/extmods"))
    for room in SYNCED:
        ours = {file.name for file in (checkout / room).glob("*.py")}
        assert ours <= {file.name for file in (cached / room[1:]).glob("*.py")}, room


@each_series
def test_file_roots(series, directory, sandbox, checkout, mail):
    """docs/master.conf, as it is."""
    with served(series, directory, sandbox, mail, (REPOSITORY / "docs/master.conf").read_text()) as salt:
        check_first(mail, salt.call("state.apply", "ispmail"))
        check_synced(salt.directory, checkout)
        check_next(salt.call("state.apply", "ispmail"))


@each_series
def test_gitfs(series, directory, sandbox, checkout, mail):
    """docs/setup.md, but for the URL; a commit that is no release is served."""
    conf = pages.block("docs/setup.md", "## From gitfs").text
    url = "https://git.example.org/salt-ispmail.git"
    assert conf.count(url) == len(yaml.safe_load(conf)["gitfs_remotes"]) == 5
    clone = directory / f"clone-{series}"
    git(directory, "clone", "--quiet", checkout, clone)
    with served(series, directory, sandbox, mail, conf.replace(url, f"file://{clone}")) as salt:
        check_first(mail, salt.call("state.apply", "ispmail"))
        check_synced(salt.directory, clone)
        change(clone)
        commit(clone)
        salt.run("fileserver.update")
        assert SERVED in states(salt.call("state.apply", "ispmail"))
        assert salt.call("ispmail.version") == version(clone) != version(checkout)


@each_series
def test_masterless(series, sandbox, mail):
    """README's commands, as they are; docs/setup.md has the same configuration."""
    commands = pages.block("README.md", "**One server without a master.**").text
    assert "salt-call --local state.apply ispmail" in commands
    mail.write_pillar(sandbox.root / "srv/pillar")
    (sandbox.root / "etc/salt/minion.d").mkdir(parents=True)  # Salt's packages have it
    done = {}

    def apply():
        script = f"export PATH={programs(series)}:$PATH\n{commands} --out=json"
        done["local"] = json.loads(sandbox.run(script).stdout)["local"]
        return done["local"]

    check_first(mail, apply())
    check_next(apply())
    written = (sandbox.root / "etc/salt/minion.d/ispmail.conf").read_text()
    assert yaml.safe_load(written) == yaml.safe_load(pages.block("docs/setup.md", "## Without a master").text)
    assert PASSWORD not in str(done)


def test_a_formula_without_its_modules(sandbox, mail):
    """As a copy of the checkout without its links: the error says what is missing and what to do."""
    shutil.rmtree(sandbox.root / "etc/salt/minion.d", ignore_errors=True)
    (sandbox.root / "etc/salt/minion.d").mkdir(parents=True)
    for link in (sandbox.root / HERE[1:] / "salt").glob("_*"):
        link.unlink()
    mail.write_pillar(sandbox.root / "srv/pillar")
    commands = pages.block("README.md", "**One server without a master.**").text
    done = sandbox.run(f"export PATH={programs('3008')}:$PATH\n{commands} --out=json", check=False)
    ((name, state),) = json.loads(done.stdout)["local"].items()
    assert "test_|-The modules for Postfix maps are served" in name and not state["result"], done
    for part in ("no salt://_modules/ispmail.py", "hide its .git (file_ignore_regex): see docs/setup.md"):
        assert part in state["comment"], done
    assert mail.replies() == NO_REPLIES


def test_an_environment_of_its_own(directory, sandbox, checkout, mail):
    """The formula is served by another environment than base only. It was synced from base: there was nothing."""
    conf = yaml.safe_load((REPOSITORY / "docs/master.conf").read_text())
    conf["file_roots"] = {"base": ["/srv/salt"], "next": conf["file_roots"]["base"]}
    theirs = sandbox.root / "srv/salt/_modules/theirs.py"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("def ping():\n    return 'theirs'\n")
    with served("3008", directory, sandbox, mail, yaml.safe_dump(conf)) as salt:
        salt.call("saltutil.sync_all")
        assert salt.call("theirs.ping") == "theirs"
        _, target, *apply = pages.command("docs/setup.md", "salt 'mx*' state.apply ispmail saltenv").words
        assert target == "'mx*'"
        check_first(mail, salt.call(*apply))
        assert salt.call("theirs.ping") == "theirs", "what base has is deleted"
        check_synced(salt.directory, checkout)
        check_next(salt.call("state.apply", "saltenv=next"))


def test_modules_of_base(directory, sandbox, checkout, mail):
    """Another environment has the formula alone. A minion that had never had the modules was refused."""
    for link in (sandbox.root / HERE[1:] / "salt").glob("_*"):
        link.unlink()
    conf = yaml.safe_load((REPOSITORY / "docs/master.conf").read_text())
    conf["file_roots"] = {"base": [HERE], "next": [f"{HERE}/salt"]}
    with served("3008", directory, sandbox, mail, yaml.safe_dump(conf)) as salt:
        check_first(mail, salt.call("state.apply", "ispmail", "saltenv=next"))
        check_synced(salt.directory, checkout)


class OverSsh:
    """salt-ssh and a server that has nothing but an sshd, with the roster of the document."""

    def __init__(self, master, server, sshd, mail):
        self.master, self.server, self.mail = master, server, mail
        roster = yaml.safe_load(pages.block("docs/setup.md", "## With salt-ssh").text)
        roster["mx1"] |= {"host": HOST, "port": sshd.port, "priv": str(sshd.client)}
        conf = {"known_hosts_file": str(sshd.known_hosts), "pillar_roots": {"base": [f"{HERE}-pillar"]}}
        conf |= yaml.safe_load((REPOSITORY / "docs/master.conf").read_text())
        (master.root / "etc/salt").mkdir()
        (master.root / "etc/salt/master").write_text(yaml.safe_dump(conf))
        (master.root / "etc/salt/roster").write_text(yaml.safe_dump(roster))
        mail.write_pillar(master.root / f"{HERE}-pillar"[1:])
        self.said = []

    def run(self, words, *options):
        """A command that the document has, or that it says does not work."""
        _, *arguments = words
        done = self.master.run([programs("3008") / "salt-ssh", *options, *arguments], check=False)
        self.said.append(done.stdout + done.stderr)
        return done.stdout

    def apply(self, *options):
        command = pages.command("docs/setup.md", "salt-ssh mx1 state.apply")
        return json.loads(self.run(command.words, "--out=json", *options))["mx1"]


@pytest.fixture(scope="module")
def over_ssh(directory, checkout, running):
    """After a first apply."""
    with contextlib.ExitStack() as stack:
        master = stack.enter_context(Sandbox(directory / "master"))
        server = stack.enter_context(Sandbox(directory / "server", layers()))
        for each in (master, server):
            each.own_tmp(directory)
        sshd = stack.enter_context(Sshd(server, directory / "sshd"))
        shutil.copytree(checkout, master.root / HERE[1:], symlinks=True)
        running.wipe()
        found = OverSsh(master, server, sshd, running)
        found.first = found.apply()
        yield found


def test_salt_ssh(over_ssh):
    assert {state["result"] for state in states(over_ssh.first).values()} == {True}, over_ssh.first
    assert over_ssh.mail.replies() == REPLIES


def test_salt_ssh_gives_pillar_to_states_only(over_ssh):
    """The function says so, and the document has what works."""
    works = pages.command("docs/setup.md", "salt-ssh mx1 state.single")
    assert "john@example.org" in over_ssh.run(works.words)
    by_hand = "salt-ssh mx1 postfix_map.lookup virtual_alias_maps jack@example.org"
    assert "pillar is empty (salt-ssh gives it to states only)" in over_ssh.run(by_hand.split())


def where(sandbox, text):
    """The files written in a sandbox, archives unpacked, that have a text: path to mode."""
    return {
        seen_as: path.stat().st_mode & 0o777
        for seen_as, path in sandbox.written()
        if path.is_file() and not path.is_symlink() and text.encode() in content_of(path)
    }


def content_of(path):
    if path.suffix == ".tgz":
        return subprocess.run(["tar", "-xzOf", path], capture_output=True, check=True).stdout
    return path.read_bytes()


def test_each_file_that_has_a_text_is_found(directory):
    """Also where another one has its name, and in /tmp, where Salt's programs write first."""
    with Sandbox(directory / "searched") as searched:
        searched.own_tmp(directory)
        script = (
            "cd /; echo x-secret >/tmp/a; mkdir /var/tmp/b /tmp/c; cp tmp/a var/tmp/b; cp tmp/a tmp/c/; echo x >/tmp/d"
        )
        searched.run(f"{script}; tar -C / -czf /srv/b.tgz tmp/a; ln -s /tmp/a /srv/link; chmod 600 /tmp/c/a")
        found = {"/tmp/a": 0o644, "/tmp/c/a": 0o600, "/var/tmp/b/a": 0o644, "/srv/b.tgz": 0o644}
        assert where(searched, "secret") == found
        assert os.path.exists(directory) and not os.path.exists("/tmp/c/a")


def test_what_salt_ssh_keeps(over_ssh):
    """docs/security.md says which file has pillar, with which mode, and what removes it."""
    kept = re.search(
        r"(?m)^- with salt-ssh, `(\S+)` on the server \(mode (\d+)\), in a folder of root's \((\d+)\)", SECURITY
    )
    core = PASSWORD[:8]  # no quotes
    ((path, mode),) = where(over_ssh.server, core).items()
    # All that it has on the server is in that folder, so the history of changes too.
    history = [each for each, _ in over_ssh.server.written() if "/postfix_change/" in each]
    assert history and all(each.startswith(kept[1].partition("*")[0]) for each in history)
    assert fnmatch.fnmatch(path, kept[1]) and mode == int(kept[2], 8)
    folder = (over_ssh.server.root / path[1:]).parent.stat()
    assert (folder.st_uid, folder.st_mode & 0o777) == (0, int(kept[3], 8))
    assert where(over_ssh.master, core) == {f"{HERE}-pillar/ispmail.sls": 0o600}
    assert [text for text in over_ssh.said if core in text] == []
    check_next(over_ssh.apply(*pages.command("docs/security.md", "salt-ssh --wipe").words[1:]))
    assert where(over_ssh.server, core) == {}


def test_a_minion_that_is_not_root(sandbox, mail):
    """It was "no memory to ask the new table file from: Operation not permitted"."""
    home = "/var/lib/lab"
    sandbox.add_user("lab", home, may_enter=programs("3008") / "python")
    (sandbox.root / f"{home}/pillar"[1:]).mkdir()
    mail.write_pillar(sandbox.root / f"{home}/pillar"[1:])
    conf = yaml.safe_load(pages.block("docs/setup.md", "## Without a master").text)
    conf |= {"root_dir": home, "pillar_roots": {"base": [f"{home}/pillar"]}, "log_file": "log"}
    (sandbox.root / f"{home}/minion"[1:]).write_text(yaml.safe_dump(conf))
    sandbox.run(["chown", "-R", "lab", home])
    before = files(mail.postfix)
    for sls, state in (("ispmail", "Postfix asks the maps that pillar names"), ("ispmail.clean", "Postfix asks none")):
        command = [programs("3008") / "salt-call", "--local", "-c", home, "state.apply", sls, "--out=json"]
        done = sandbox.run(command, check=False, user="lab")
        (told,) = [each for name, each in states(json.loads(done.stdout)["local"]).items() if name.startswith(state)]
        assert told["comment"].startswith("only root can read and replace table files: run the minion"), told
        assert (done.returncode, told["result"], told["changes"]) == (1, False, {})
    assert files(mail.postfix) == before


def files(postfix):
    """All that an apply could change."""
    found = sorted(postfix.config_directory.iterdir())
    return [(path.name, path.read_bytes(), path.stat().st_mode, path.stat().st_ino) for path in found]


@pytest.fixture
def account(mariadb):
    """An account for a rotation: its user and password."""
    schema(mariadb, PASSWORD, user="delivered")
    yield "delivered", PASSWORD
    mariadb.sql("DROP USER delivered@%s", HOST)


def test_a_master_that_is_not_root(directory, sandbox, mail, mariadb, account):
    """As in Salt's own packages: runner, reactor and orchestration have what they need, whoever calls them."""
    user, old = account
    new = f"{old}-new"
    database = {**mail.pillar["ispmail"]["database"], "user": user}
    conf = yaml.safe_load((REPOSITORY / "docs/master.conf").read_text())
    conf["ispmail"]["sites"] = {"main": {"database": "lab", "mail": "lab"}}
    sandbox.add_user("salt", "/var/lib/salt", may_enter=programs("3008") / "python")
    with served("3008", directory, sandbox, mail, yaml.safe_dump(conf), {"user": "salt"}) as salt:

        def write_pillar(password):
            server = {"unix_socket": mariadb.socket}
            mail.write_pillar(salt.pillar, database={**database, "password": password}, server=server)
            sandbox.run(["chown", "-R", "salt", salt.pillar])

        def accepted():
            ((priv,),) = mariadb.sql("SELECT Priv FROM mysql.global_priv WHERE User = %s", user)
            return [native_hash(each) in priv for each in (old, new)]

        write_pillar(old)
        check_first(mail, salt.call("state.apply", "ispmail"))
        write_pillar(new)
        assert accepted() == [True, False]
        assert salt.run("event.send", "ispmail/credentials/changed") is True
        salt.wait_until(lambda: accepted() == [False, True], "the reactor has rotated", 90)
        assert mail.replies() == REPLIES
        assert set(salt.run("ispmail.reapply")) == {"main"}
        kept = list((salt.directory / "master/cache/ispmail").iterdir())
        assert kept and 0 not in {path.stat().st_uid for path in kept}, "salt-run as root locks the master out"
