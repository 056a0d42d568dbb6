"""postfix_map.found on real servers: the table files of public mail set-ups, as pillar, and back as table files.

tests/adoption has a text for each kind of set-up, its files one after the other, each below a line with its name:
main.cf has the parameters, schema.sql the tables of its database. (One file each: the file server of whoever uses this
checkout lists them all.)
"""

import concurrent.futures
import re
import sqlite3
import subprocess
from pathlib import Path

import pytest
import salt.config
import salt.output
import yaml

import _ispmail_adopt
import _ispmail_apply
import _ispmail_compare
import _ispmail_config
import _ispmail_found
import _ispmail_tablefile
from _ispmail_config_consumers import NONE
from _ispmail_errors import CannotAsk, Failed
from lab import program, scratch
from lab.mariadb import native_hash
from lab.minion import Minion
from lab.postfix import Postfix, write_cold


def files_of(text):
    """Name to content."""
    parts = re.split(r"(?m)^==> (.+) <==\n", text)
    assert not parts[0]
    return dict(zip(parts[1::2], parts[2::2]))


CORPUS = {file.stem: files_of(file.read_text()) for file in (Path(__file__).parents[1] / "adoption").iterdir()}
PROJECTS = sorted(CORPUS)
FILLED = [project for project in PROJECTS if "schema.sql" in CORPUS[project]]
QUESTIONS = (
    "example.org",
    "example.com",
    "also.example.org",
    "jack@example.org",
    "john@example.org",
    "nobody@example.org",
    "john@also.example.org",
    "jack@also.example.org",
    "o'neil@example.org",
    "100%%s@example.org",
)
# Tables in lists of restrictions. They have no rows.
IN_RESTRICTIONS = {"mysql-virtual_sender.cf", "sql-maintain.cf"}
# Of a parameter that only a patched Postfix knows.
NOT_ASKED = {"mysql-virtual_mailbox_limit_maps.cf", "mysql_virtual_mailbox_limit_maps.cf"}
# What an apply may change in a file that somebody else wrote.
REWRITTEN = {"layout", "copy", "comments", "query", "port", "domain", *_ispmail_tablefile.OBSOLETE}


class Site:
    """A Postfix that has the table files of one project, and the database that they ask."""

    def __init__(self, project, directory, server=None):
        self.project = project
        self.server = server
        main_cf = CORPUS[project]["main.cf"]
        own = dict.fromkeys(re.findall(r"(?m)^(\w+) *=", main_cf))
        self.postfix = Postfix(directory / "mail", **own)
        self.database = directory / "mail.sqlite"
        self.tables = {}
        for name, text in sorted(CORPUS[project].items()):
            if name not in ("main.cf", "schema.sql"):
                self._write(name, text)
        main_cf = main_cf.replace("/etc/postfix/", f"{self.postfix.config_directory}/")
        write_cold(self.postfix.main_cf, self.postfix.main_cf.read_text() + main_cf)
        self.main_cf = re.sub(r"\$config_directory|\$\{config_directory\}", str(self.postfix.config_directory), main_cf)
        self.types = {path: kind for kind, path in re.findall(r"(mysql|pgsql|sqlite):(/[^\s,]+)", self.main_cf)}
        self.minion = Minion(
            directory / "minion", {"ispmail": {"postfix": {"config_directory": str(self.postfix.config_directory)}}}
        )

    def _write(self, name, text):
        """A table file as the project has it, but for where the database is."""
        if self.server:
            by_socket = f"unix:{self.server.socket}"
            line = re.search(r"(?m)^hosts.*$", text)[0]
            here = line.replace("unix:/var/run/mysqld/mysqld.sock", by_socket).replace("localhost", by_socket)
            text = text.replace(line, here.replace("127.0.0.1", f"127.0.0.1:{self.server.port}"))
        else:
            # Nobody listens there, whatever runs on this machine.
            text = re.sub(r"(?m)^(hosts\s*=).*", r"\1 127.0.0.1:9", text)
        text = re.sub(r"(?m)^(dbpath\s*=\s*).*", rf"\g<1>{self.database}", text)
        path = self.postfix.config_directory / name
        path.parent.mkdir(exist_ok=True)
        write_cold(path, text, mode=0o640, group="postfix")
        self.tables[str(path)] = text

    def fill(self):
        """Make the database and the accounts of the table files."""
        statements = CORPUS[self.project]["schema.sql"].split(";\n")
        if not self.server:
            with sqlite3.connect(self.database) as connection:
                for statement in statements:
                    connection.execute(statement)
            self.database.chmod(0o644)
            return
        logins = [_ispmail_tablefile.parse(text) for text in self.tables.values()]
        (name,) = {keys["dbname"] for keys in logins}
        self.server.sql(f"CREATE OR REPLACE DATABASE {name} CHARACTER SET utf8mb4")
        for statement in statements:
            self.server.sql(re.sub(r"^(CREATE TABLE|INSERT INTO) ", rf"\1 {name}.", statement.strip()))
        for user, password in {(keys["user"], keys["password"]) for keys in logins}:
            for host in ("127.0.0.1", "localhost"):
                identified = "IDENTIFIED VIA mysql_native_password USING %s"
                self.server.sql(f"CREATE OR REPLACE USER %s@%s {identified}", user, host, native_hash(password))
                self.server.sql(f"GRANT SELECT ON {name}.* TO %s@%s", user, host)

    def ask(self, path):
        """The answers of a table to all questions, and what postmap complains of."""
        command = [program("postmap", "postfix"), "-c", str(self.postfix.config_directory), "-q", "-"]
        done = subprocess.run(
            [*command, f"{self.types[path]}:{path}"],
            check=False,
            input="\n".join(QUESTIONS),
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done.stdout, done.stderr

    def ask_all(self):
        """The same of each table. postmap waits for a second before it fails: so all at once."""
        with concurrent.futures.ThreadPoolExecutor() as pool:
            return dict(zip(self.tables, pool.map(self.ask, self.tables)))

    def found(self):
        """The text of postfix_map.found, without Salt's loader around it."""
        directory = str(self.postfix.config_directory)
        return _ispmail_found.text(_ispmail_found.found(directory), directory)

    def passwords(self):
        return {
            keys["user"]: keys["password"]
            for keys in map(_ispmail_tablefile.parse, self.tables.values())
            if "password" in keys
        }

    def adopted(self, text=None):
        """The pillar that was found, with the passwords written in it."""
        section = yaml.safe_load(text or self.found())["ispmail"]
        for entry in [section.get("database"), *section["maps"].values()]:
            if entry and entry.get("password"):
                entry["password"] = self.passwords()[entry["password"].removeprefix("THE PASSWORD OF THE ACCOUNT ")]
        return {"ispmail": section}


@pytest.fixture
def site(request):
    """The Site of a project, its database running and filled."""

    def make(project):
        server = request.getfixturevalue("started") if "mysql:" in CORPUS[project]["main.cf"] else None
        made = Site(project, request.getfixturevalue("base"), server)
        if project in FILLED:
            made.fill()
        return made

    return make


@pytest.fixture
def base():
    with scratch() as directory:
        yield directory


def meaning(table_type, text):
    """The keys that Postfix reads of a table file, the old query interface as the query it stands for."""
    keys = _ispmail_adopt.with_query(table_type, _ispmail_tablefile.parse(text))
    known = {key: value for key, value in keys.items() if key in _ispmail_tablefile.schema(table_type)}
    return _ispmail_tablefile.canonicalize(table_type, known)


def test_the_corpus_is_as_large_as_it_should_be():
    tables = [name for files in CORPUS.values() for name in files if name not in ("main.cf", "schema.sql")]
    assert len(tables) >= 40 and len(PROJECTS) >= 12


@pytest.mark.parametrize("project", PROJECTS)
def test_what_is_found_means_the_same(project, site):
    """found, the password, and rendered: each table file says the same to Postfix as the one that was there."""
    this = site(project)
    text = this.found()
    assert not [password for password in this.passwords().values() if password in text]
    instance = _ispmail_config.complete("ispmail", this.adopted(text)["ispmail"])
    left_out = {Path(path).name for path in this.tables.keys() - {each.path for each in instance.maps}}
    assert left_out <= IN_RESTRICTIONS | NOT_ASKED
    assert all(name in text for name in left_out)
    for each in instance.maps:
        assert meaning(each.type, this.tables[each.path]) == _ispmail_tablefile.parse(each.text), each.name
        assert each.table() in this.main_cf


@pytest.mark.parametrize("project", FILLED)
def test_an_adopted_server_answers_as_before(project, site):
    this = site(project)
    before = this.ask_all()
    assert not {path: errors for path, (_, errors) in before.items() if errors}
    silent = {Path(path).name for path, (answers, _) in before.items() if not answers}
    assert silent <= IN_RESTRICTIONS, "a table has no answer to compare"
    parameters = this.postfix.postconf()
    this.minion.pillar = this.adopted()
    call = this.minion.caller()
    would = call("postfix_map.apply", test=True)
    done = call("postfix_map.apply")
    assert would["changes"] == done["changes"]
    for name, change in done["changes"].items():
        assert set(change) <= REWRITTEN, name
        # The query is only written where the old interface stood.
        assert change.get("query", {"old": None})["old"] is None
    assert call("postfix_map.apply", test=True)["changes"] == {}
    assert this.ask_all() == before
    assert this.postfix.postconf() == parameters
    copies = {change["copy"]["new"] for change in done["changes"].values() if "copy" in change}
    assert copies == {str(path) for path in this.postfix.config_directory.rglob("*.before-ispmail")}
    for copy in map(Path, copies):
        assert (copy.owner(), copy.stat().st_mode & 0o7777) == ("root", 0o600)
        assert not [password for password in this.passwords().values() if password in copy.read_text()]


def test_what_an_apply_has_written_is_in_the_correct_state(site):
    """The guide's files differ from what an apply writes at most by a single host, written twice before 3.10."""
    this = site("ispmail-trixie")
    text = this.minion.call("postfix_map.found", str(this.postfix.config_directory))
    assert text == this.found()
    # As docs/adoption.md makes a file of what Salt prints.
    opts = salt.config.minion_config(str(this.minion.directory / "minion"))
    printed = salt.output.string_format({"local": text}, "nested", {**opts, "color": False})
    assert printed.startswith("local:\n    #!yaml\n")
    assert re.sub("(?m)^ {4}", "", printed.partition("\n")[2]).strip() == text.strip()
    this.minion.pillar = this.adopted(text)
    changes = this.minion.call("postfix_map.apply")["changes"]
    assert all(change == {"layout": {"old": "another", "new": "canonical"}} for change in changes.values())
    assert not list(this.postfix.config_directory.rglob("*.before-ispmail"))
    assert this.found() == text
    result = this.minion.apply("ispmail.maps", test=True)["postfix_map.managed"]
    assert (result["result"], result["changes"]) == (True, {})
    assert "correct state" in result["comment"]
    assert this.adopted(text)["ispmail"]["maps"] == {
        "virtual_mailbox_domains": {},
        "virtual_mailbox_maps": {},
        "virtual_alias_maps": {},
        "email2email": {
            "parameter": "virtual_alias_maps",
            "query": "SELECT email FROM virtual_users WHERE email='%s'",
        },
    }


@pytest.mark.parametrize("project", sorted(set(PROJECTS) - set(FILLED)))
def test_postmap_reads_both_alike_where_no_server_runs(project, site):
    """Of pgsql: postmap opens the file and fails at the connection, not at the file, before and after."""
    this = site(project)
    before = this.ask_all()
    for _, errors in before.values():
        assert "connect to pgsql server" in errors and errors.count("fatal:") == 1 and "query error" in errors
    for each in _ispmail_config.complete("ispmail", this.adopted()["ispmail"]).maps:
        write_cold(Path(each.path), each.text, mode=0o640, group="postfix")
    assert this.ask_all() == before
    path = next(iter(this.tables))
    write_cold(Path(path), this.tables[path].replace("%s", "%x").replace("%u", "%x"), mode=0o640, group="postfix")
    assert "connect to pgsql server" not in this.ask(path)[1], "a damaged file is not told from a server that is down"


def test_the_copy_of_a_replaced_file(site):
    """Comments and layout are kept once, a password never: not in a comment either."""
    this = site("web-cyradm")
    this.minion.pillar = this.adopted()
    call = this.minion.caller()
    path = this.postfix.config_directory / "mysql-canonical.cf"
    changes = call("postfix_map.apply")["changes"]["sender_canonical_maps"]
    assert changes["copy"] == {"old": None, "new": f"{path}.before-ispmail"}
    assert changes["comments"] == {"old": "4 lines", "new": None}
    copy = Path(f"{path}.before-ispmail")
    assert copy.read_text().splitlines() == [
        "#",
        "# a comment that may hold a password was left out of this copy",
        "#",
        f"hosts=127.0.0.1:{this.server.port}",
        "user=mail",
        "# password was left out of this copy",
        "dbname=mail",
        "table=virtual",
        "select_field=alias",
        "where_field=username",
        "# Return the first match only",
        "additional_conditions=and status = '1' limit 1",
    ]
    # A comment that is written later is told, and does not replace the first copy.
    first = copy.read_bytes()
    write_cold(path, f"# later\n{path.read_text()}", mode=0o640, group="postfix")
    assert call("postfix_map.apply")["changes"] == {
        "sender_canonical_maps": {
            "layout": {"old": "another", "new": "canonical"},
            "comments": {"old": "1 line", "new": None},
        }
    }
    assert copy.read_bytes() == first


def test_no_copy_is_left_of_an_apply_that_fails(site, monkeypatch):
    this = site("postfixadmin-mysql")
    instance = _ispmail_config.complete("ispmail", this.adopted()["ispmail"])
    folder = this.postfix.config_directory
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def refuse(*_):
        assert list(folder.rglob("*.before-ispmail")), "the apply did not get so far"
        raise Failed("the live maps were asked in vain")

    monkeypatch.setattr(_ispmail_apply, "_ask_live", refuse)
    with pytest.raises(Failed, match="Everything was put back as it was"):
        _ispmail_apply.apply(_ispmail_compare.compare(instance, NONE, str(this.minion.cache)), str(this.minion.cache))
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_another_owner_is_told(site):
    this = site("ispmail-trixie")
    this.minion.pillar = this.adopted()
    this.minion.call("postfix_map.apply")
    path = this.postfix.config_directory / "mariadb-virtual-alias-maps.cf"
    path.chmod(0o644)
    (told,) = [text for text in yaml.safe_load(this.found())["left_out"] if str(path) in text]
    assert told.endswith("its file is root:postfix 0644, an apply changes that")
    changes = this.minion.call("postfix_map.apply", test=True)["changes"]
    assert changes == {"virtual_alias_maps": {"mode": {"old": "0644", "new": "0640"}}}


def test_what_cannot_be_read_is_left_out(site):
    this = site("froxlor")
    domains, aliases = (
        this.postfix.config_directory / f"mysql-virtual_{name}.cf" for name in ("mailbox_domains", "alias_maps")
    )
    for path in (domains, aliases):
        path.unlink()
    domains.mkdir()
    found = yaml.safe_load(this.found())
    maps = [name for name, entry in found["ispmail"]["maps"].items() if entry is not None]
    assert maps == ["virtual_mailbox_maps", "smtpd_sender_login_maps"]
    told = "\n".join(found["left_out"])
    assert f"mysql:{domains}: {domains} is no regular file" in told
    assert f"mysql:{aliases}: there is no such file" in told


def test_a_file_that_stops_postconf_is_named(site):
    """postconf opens the tables of main.cf too, and ends at a damaged one: nothing can be told then."""
    this = site("froxlor")
    path = this.postfix.config_directory / "mysql-virtual_mailbox_maps.cf"
    write_cold(path, f"{path.read_text()}geheim-Hx7\n", mode=0o640, group="postfix")
    with pytest.raises(CannotAsk) as raised:
        this.found()
    assert f"{path}, line 7: missing '='" in str(raised.value) and "Hx7" not in str(raised.value)
