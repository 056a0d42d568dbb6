"""The search for other holders: real files, and what is made of what a database and /proc say."""

import contextlib
import dataclasses
import math
import os
from types import SimpleNamespace

import pytest

import _ispmail_holders
import _ispmail_inventory
import _ispmail_remembered
import _ispmail_servers
from _ispmail_config import Instance, Map, complete
from _ispmail_config_consumers import Consumers
from _ispmail_config_database import AdminLogin
from _ispmail_connections import Client, Listed, Unknown
from _ispmail_errors import CannotAsk, DatabaseError, Fault, InvalidInput, PillarFault
from _ispmail_holders import FILE, PROGRAM, SERVER, TABLE, Holder, Holders, _LiveLogin, find, left_behind
from _ispmail_scope import Scope
from _ispmail_sockets import Process
from lab.postfix import write_cold

from .consumer_values import consumer
from .doctor_values import database

OLD, NEW = "SECRET-of-old", "SECRET-of-now"
NAME_IT = "name it in ispmail:consumers, or give it an account of its own (docs/consumers.md)"
NAME_PROGRAM = NAME_IT.replace("in ispmail", "in programs of one of ispmail")


def table(user="mailserver", password=OLD, hosts="127.0.0.1", **keys):
    given = {"user": user, "password": password, "hosts": hosts, "dbname": "maildata", **keys}
    return "".join(f"{key} = {value}\n" for key, value in given.items() if value is not None)


class Site:
    """A server with a Postfix and a tree to search, whose pillar may name consumers."""

    def __init__(self, folder):
        self.folder = folder
        for name in ("etc", "tree", "cache"):
            (folder / name).mkdir()
        write_cold(folder / "etc" / "master.cf", "25 inet n - y - - smtpd\n")
        self.maps = [self.map("a.cf", table())]
        self.main_cf(f"virtual_alias_maps = mysql:{folder}/etc/a.cf\n")

    def main_cf(self, text):
        write_cold(self.folder / "etc" / "main.cf", f"compatibility_level = 3.6\n{text}")

    def map(self, name, content=None, type_="mysql", **values):
        path = self.folder / "etc" / name
        if content is not None:
            path.write_text(content)
        return Map(name, "virtual_alias_maps", type_, False, str(path), **values)

    def file(self, name, content=OLD):
        path = self.folder / "tree" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
        return str(path)

    def scope(self, *consumers, password=NEW, left_out=(), keys=()):
        """What pillar says."""
        instances = {"ispmail": Instance("ispmail", str(self.folder / "etc"), tuple(self.maps))}
        known = database()._replace(password=password)
        cache = str(self.folder / "cache")
        return Scope(instances, known, (Consumers("ispmail", consumers, dict(keys)),), tuple(left_out), cache)


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Nobody is connected to its database unless a test says so."""
    monkeypatch.setattr("_ispmail_search.TREES", (str(tmp_path / "tree"),))
    monkeypatch.setattr("_ispmail_connections.listed_by_account", lambda keys, host, type_: Listed((), 3306, ""))
    return Site(tmp_path)


def paths(found):
    return [holder.where for holder in found.unnamed]


# What is asked


@pytest.mark.parametrize("hosts", ["mx1", ("mx1",), ["mx1", 1], {}])
def test_the_hosts_of_a_site_are_a_list_of_texts(hosts):
    with pytest.raises(InvalidInput, match=r"^site_hosts must be a list of names and addresses$"):
        find(None, _ispmail_holders.Site(hosts, None))


def test_which_passwords_are_searched_for(site):
    """Of a rotation that another server has applied already, only the old one counts."""
    site.maps.append(site.map("b.cf", table(password=NEW)))
    old, new = site.file("old"), site.file("new", NEW)
    site.file("old.gz")
    assert sorted(paths(find(site.scope()))) == [new, old]
    assert paths(find(site.scope(), search="old")) == [old]
    assert sorted(paths(find(site.scope(password=None), search="old"))) == [new, old]
    nothing = find(site.scope(), search="none")
    assert nothing.describe() == {"unnamed": [], "notes": []} and nothing.files == {}
    with pytest.raises(InvalidInput, match=r"^search must be one of all, old, none$"):
        find(site.scope(), search="new")


def test_a_server_that_does_not_know_the_password_says_so(site):
    site.maps = [site.map("none.cf")]
    site.main_cf("")
    site.file("old")
    for search in ("all", "old"):
        assert find(site.scope(), search=search).describe() == {
            "unnamed": [],
            "notes": ["files were not searched: no table file or option file here has the password in use"],
        }
    assert find(site.scope(), search="none").notes == []


def test_what_is_told(site):
    one = Holder(FILE, "/a", "a holds it")
    found = Holders(unnamed=[one], unsearchable=["x", "x"], notes=["y", "x", "y"])
    unnamed = [{"kind": "file", "where": "/a", "text": "a holds it"}]
    assert found.describe() == {"unnamed": unnamed, "notes": ["x", "y"]}
    assert (PROGRAM, TABLE, SERVER) == ("program", "table", "server")


# Logins and tables


def test_the_logins_of_table_files_and_option_files(site, tmp_path):
    """Those with the account: in MySQL tables that are there, and in what consumers read."""
    for name in ("real.cf", "client.cnf"):
        (tmp_path / name).write_text(table() if name == "real.cf" else f"[x]\nuser=mailserver\npassword={NEW}\n")
    (tmp_path / "etc" / "link.cf").symlink_to("../real.cf")
    (tmp_path / "link.cnf").symlink_to("client.cnf")
    site.maps += [
        *(site.map("link.cf"), site.map("none.cf"), site.map("other.cf", table(user="another"))),
        *(site.map("b.cf", table(), "pgsql"), site.map("null.cf", table(), wanted=False)),
    ]
    consumers = [
        consumer("webmail", str(tmp_path / "link.cnf"), option_group="x"),
        consumer("report", str(tmp_path / "none.cnf")),
        consumer("cron", holds=(str(tmp_path / "x"),)),
    ]
    found = _ispmail_holders._all_logins(site.scope(*consumers, keys={"hosts": "db"}))
    assert [(login.path, login.user, login.password) for login in found] == [
        (str(tmp_path / "etc" / "a.cf"), "mailserver", OLD),
        (str(tmp_path / "real.cf"), "mailserver", OLD),
        (str(tmp_path / "etc" / "other.cf"), "another", OLD),
        (str(tmp_path / "client.cnf"), "mailserver", NEW),
    ]
    assert found[-1].keys["hosts"] == "db"
    assert "SECRET" not in repr(found)


def test_tables_that_are_not_pillars(site, tmp_path):
    """Whatever else Postfix asks with the account: a rotation would lock it out. Each is told once."""
    tree = tmp_path / "tree"
    by_file = {"user": None, "password": None, "option_file": f"{tree}/x.cnf"}
    for name, content in {
        "foreign": table(),
        "named": table(),
        "null": table(),
        "by_file": table(**by_file),
        "by_group": table(**{**by_file, "option_group": "mail"}),
        "by_both": table(**{**by_file, "user": "another"}),
        "by_none": table(**{**by_file, "option_file": f"{tree}/none.cnf"}),
        "other": table(user="another", password=None),
        "of_nobody": table(user=None, password=None),
        "postgres": table(password=None),
    }.items():
        site.file(f"{name}.cf", content)
    site.file("x.cnf", "[client]\nuser=mailserver\n[mail]\nuser=another\n")
    names = ("other", "named", "null", "by_file", "by_group", "by_both", "by_none", "of_nobody", "foreign", "foreign")
    tables = " ".join(f"mysql:{tree}/{name}.cf" for name in names)
    site.main_cf(
        f"canonical_maps = pgsql:{tree}/foreign.cf {site.maps[0].table()} {tables} mysql:inside\n"
        f"relay_domains = pgsql:{tree}/postgres.cf\nrelocated_maps = proxy:mysql:{tree}/foreign.cf\ninside_dbname = x\n"
    )
    site.maps.append(Map("null", "virtual_alias_maps", "mysql", False, f"{tree}/null.cf", wanted=False))
    found = find(site.scope(consumer("own", holds=(f"{tree}/named.cf",))))
    assert [(holder.kind, holder.where) for holder in sorted(found.unnamed)] == [
        (TABLE, f"{tree}/{name}.cf") for name in ("by_file", "foreign", "null")
    ]
    said = f"the table {tree}/foreign.cf, which canonical_maps, relocated_maps asks, logs in as mailserver and is not"
    how = "make it a map of pillar, or name it in ispmail:consumers (docs/consumers.md)"
    assert (TABLE, f"{tree}/foreign.cf", f"{said} a map of pillar: {how}") in found.unnamed


def test_a_table_without_a_user_logs_in_by_the_name_of_postfixs_own(site, tmp_path):
    """The client takes it from the process, also where the option file names none, or is not there in the chroot."""
    site.file("x.cnf", "[client]\nuser=another\n[mail]\nuser=\n")
    by_file = f"{tmp_path}/tree/x.cnf"
    tables = {
        "without": table(user=None),
        "empty": table(user=""),
        "by_group": table(user=None, option_file=by_file, option_group="mail"),
        "by_file": table(user=None, option_file=by_file),
    }
    names = " ".join(f"mysql:{site.file(f'{name}.cf', content)}" for name, content in tables.items())
    site.main_cf(f"mail_owner = mailserver\ncanonical_maps = {names}\n")
    found = {holder.where: holder.text for holder in find(site.scope()).unnamed if holder.kind == TABLE}
    assert list(found) == [f"{tmp_path}/tree/{name}.cf" for name in tables]
    *sure, perhaps = found.values()
    assert all("which canonical_maps asks, logs in as mailserver and is not" in text for text in sure)
    assert "asks, may log in as mailserver and is not a map of pillar" in perhaps
    site.main_cf(f"mail_owner = another\ncanonical_maps = {names}\n")
    assert [holder for holder in find(site.scope()).unnamed if holder.kind == TABLE] == []


def test_a_table_of_which_cannot_be_told_who_logs_in(site, tmp_path):
    """It may be the account: a rotation would lock it out."""
    path = site.file("x.cf", table(user=None, option_file=tmp_path))
    site.main_cf(f"canonical_maps = mysql:{path} mysql:{tmp_path}/gone.cf\n")
    reasons = {
        path: f"{tmp_path} is no regular file, or larger than 16 MiB",
        f"{tmp_path}/gone.cf": f"{tmp_path}/gone.cf is missing or empty",
    }
    how = "make it a map of pillar, or name it in ispmail:consumers (docs/consumers.md)"
    assert {holder[:2]: holder.text for holder in find(site.scope()).unnamed} == {
        (TABLE, where): f"the table {where}, which canonical_maps asks, may log in as mailserver ({reason}) and is not "
        f"a map of pillar: {how}"
        for where, reason in reasons.items()
    }
    assert find(site.scope(consumer("own", holds=tuple(reasons)))).unnamed == []


def test_a_table_in_main_cf(site, tmp_path):
    """Its keys are parameters there."""
    site.main_cf(f"canonical_maps = mysql:inside\ninside_user = mailserver\ninside_password = {OLD}\n")
    where = f"{tmp_path}/etc/main.cf"
    (found,) = find(site.scope()).unnamed
    assert found[:2] == (TABLE, where)
    assert found.text.startswith(f"the table mysql:inside in {where}, which canonical_maps asks, logs in as mailserver")
    assert find(site.scope(consumer("own", holds=(where,)))).unnamed == []


class Second:
    """Another instance of the site's server, which the main.cf of the first one names."""

    def __init__(self, site, name, **main_cf):
        self.folder = site.folder / name
        for each in (self.folder, self.folder / "queue" / "pid"):
            each.mkdir(parents=True)
        self.main_cf(**main_cf)
        write_cold(self.folder / "master.cf", "25 inet n - y - - smtpd\n")
        site.main_cf(f"virtual_alias_maps = mysql:{site.folder}/etc/a.cf\nmulti_instance_directories = {self.folder}\n")

    def main_cf(self, **parameters):
        known = {"compatibility_level": "3.6", "queue_directory": f"{self.folder}/queue", **parameters}
        write_cold(self.folder / "main.cf", "".join(f"{name} = {value}\n" for name, value in known.items()))


OWN_KEY = "give that Postfix a pillar key of its own (ispmail:instances)"


def test_a_table_of_an_instance_that_pillar_does_not_name(site, tmp_path):
    """A rotation locked it out; whether it runs or not: what is started later has the old password."""
    path, named = (site.file(name, table()) for name in ("own.cf", "named.cf"))
    site.file("other.cf", table(user="another", password=None))
    tables = f"mysql:{tmp_path}/tree/other.cf mysql:{path} mysql:{named}"
    second = Second(site, "second", relocated_maps=tables)
    (found,) = find(site.scope(consumer("own", holds=(named,)))).unnamed
    who = f"which relocated_maps of the Postfix in {second.folder} asks, logs in as mailserver"
    how = f"{OWN_KEY} with that map, or name the table in ispmail:consumers (docs/sites.md, docs/consumers.md)"
    assert found == (TABLE, path, f"the table {path}, {who} and is not a map of pillar: {how}")


@pytest.mark.parametrize("enabled", [True, False])
def test_pillars_own_table_that_another_instance_asks(site, tmp_path, enabled):
    """Nobody reloads that one: it kept the old password. One that does not run will read what is there then."""
    path = f"{tmp_path}/etc/a.cf"
    options = {"multi_instance_enable": "yes" if enabled else "no"}
    second = Second(site, "second", relocated_maps=f"mysql:{path}", **options)
    who = f"which relocated_maps of the Postfix in {second.folder} asks, logs in as mailserver"
    what = f"and is a map of {tmp_path}/etc, whose changes do not reload that Postfix"
    how = (
        "with a table file of its own, or name the file in holds of a consumer that reloads that Postfix "
        "(docs/sites.md)"
    )
    told = Holder(TABLE, path, f"the table {path}, {who} {what}: {OWN_KEY} {how}")
    assert find(site.scope()).unnamed == ([told] if enabled else [])
    assert find(site.scope(consumer("own", holds=(path,)))).unnamed == []
    # Pillar that sets its maps to null, or has others, says nothing of the file.
    scope = site.scope()
    null = site.map("a.cf", wanted=False)
    for maps in ((null,), (null, site.map("b.cf", table()))):
        instances = {**scope.instances, "out": Instance("out", str(second.folder), maps)}
        text = told.text.replace(OWN_KEY, "give its pillar key that map")
        assert find(scope._replace(instances=instances)).unnamed == [told._replace(text=text)]
    site.maps[0] = site.map("a.cf", table(user="another"))
    assert find(site.scope()).unnamed == []


def test_an_instance_of_which_cannot_be_told_what_it_asks(site):
    """The rest is found all the same. Where there is no main.cf, there is no instance."""
    second = Second(site, "second")
    path = site.file("x")
    (second.folder / "master.cf").unlink()
    unknown, found = find(site.scope(consumer("own", holds=(str(second.folder),)))).unnamed
    assert unknown[:2] == (TABLE, str(second.folder)) and found[:2] == (FILE, path)
    said = f"whether the Postfix in {second.folder} asks the table files could not be told: "
    assert unknown.text.startswith(said) and "mend that, or take the directory out of multi_instance_d" in unknown.text
    (second.folder / "main.cf").unlink()
    assert find(site.scope()).unnamed == [found]


def test_a_server_without_a_postfix_has_no_tables(site, tmp_path):
    """One with other programs only."""
    (tmp_path / "etc" / "main.cf").unlink()
    assert _ispmail_holders._inventories(site.scope()) == []
    assert find(site.scope()).unnamed == []


# Files


def test_what_is_named_is_not_searched(site, tmp_path):
    """A user can make a link of a file that is named: it leads to one file, and to no folder."""
    real, folder = site.file("real"), site.file("folder/x")
    (tmp_path / "tree" / "link").symlink_to("real")
    (tmp_path / "tree" / "whole").symlink_to("folder")
    (tmp_path / "left").symlink_to("tree/left")
    named = [site.file("named"), str(tmp_path / "tree" / "link"), str(tmp_path / "tree" / "whole")]
    site.file("left/y")
    # What a change of a table file that was cut off has left is ours.
    site.maps.append(Map("own", "x", "mysql", False, site.file("own.cf", table())))
    site.file(".own.cf.old")
    site.file(".own.cf.new")
    other = site.file("other")
    scope = site.scope(consumer("own", holds=(*named, "/nowhere/x")), left_out=[str(tmp_path / "left")])
    assert real not in paths(find(scope)) and sorted(paths(find(scope))) == sorted([folder, other])


def test_a_file_with_the_password(site):
    path, large = site.file("script"), site.file("large")
    os.truncate(large, 2**24 + 4096)
    site.file("a.gz")
    found = find(site.scope())
    unknown = f"whether it holds the password in use is not known: {large} is larger than 16 MiB: name it in holds of"
    assert found.files.keys() == {path, large} and found.files[large].startswith(unknown)
    assert found.unnamed == [
        (FILE, path, f"{path} holds the password in use: {NAME_IT}"),
        (FILE, large, found.files[large]),
    ]
    (note,) = found.notes
    assert "a.gz" in note


@pytest.mark.parametrize(("number", "last"), [(50, None), (51, "1 more file"), (52, "2 more files")])
def test_a_password_in_very_many_files(site, number, last):
    for each in range(number):
        site.file(f"{each}")
    found = find(site.scope())
    assert len(found.files) == number and len([path for path in paths(found) if path]) == 50
    more = [holder.text for holder in found.unnamed if not holder.where]
    assert more == ([f"{last} hold the password in use: {NAME_IT}"] if last else [])


@pytest.mark.parametrize(
    ("password", "reason"),
    [
        ("short", "it has less than 6 characters, and so is a part of many words"),
        ("mailserver", "it is the name of the account or of the database"),
        ("maildata", "it is the name of the account or of the database"),
    ],
)
def test_a_password_that_cannot_be_searched_for(site, password, reason):
    """Another one in use is searched for all the same."""
    site.maps[0] = site.map("a.cf", table(password=password))
    site.file("x", password)
    said = f"files cannot be searched for the password in use: {reason}"
    found = find(site.scope())
    assert (found.unsearchable, found.unnamed, found.files) == ([said], [], {})
    site.maps.append(site.map("b.cf", table()))
    path = site.file("y")
    found = find(site.scope())
    assert (found.unsearchable, paths(found)) == ([said], [path])


def test_what_an_earlier_apply_left(site, tmp_path):
    """Nobody can search for that password any more."""
    folder = tmp_path / "tree" / "named"
    left = [site.file(name, "older") for name in ("x", "named/y", "named2")]
    again = site.file("again")
    scope = site.scope(consumer("own", holds=(str(folder),)))
    with _ispmail_remembered.added(scope.cache, [*left, str(folder), again]):
        pass
    found = find(scope)
    assert sorted(paths(found)) == sorted([left[0], left[2], again])
    text = f"{left[0]} was left by an apply with an older password, or perhaps with one, and has not changed since"
    assert Holder(FILE, left[0], f"{text}: correct or delete it, or {NAME_IT}") in found.unnamed


# Programs


def process(name, uid, executable="/usr/bin/x", parent=1):
    return Process(4711, name, parent, executable, 0.0, "", uid)


def test_whose_programs_are_known(site, tmp_path):
    """A name alone is not enough: any user can give an own program one."""
    for name, uid in (("held", 2001), ("file.cnf", 2002)):
        (tmp_path / name).write_text("")
        os.chown(tmp_path / name, uid, uid)
    consumers = [
        consumer("a", holds=(str(tmp_path / "none"), str(tmp_path / "held")), programs=("php", "cron")),
        consumer("b", str(tmp_path / "file.cnf"), programs=("php",)),
    ]
    is_known = _ispmail_holders._known_programs(site.scope(*consumers), [])
    known = [("php", 0), ("php", 999), ("php", 2001), ("php", 2002), ("cron", 2001)]
    unknown = [("php", 2003), ("cron", 2002), ("x", 0), ("x", 2001)]
    assert {each: is_known(process(*each)) for each in (*known, *unknown)} == {
        **dict.fromkeys(known, True),
        **dict.fromkeys(unknown, False),
    }


def test_postfixs_own_programs_are_known(site, tmp_path, monkeypatch):
    """Wherever they are installed, links resolved."""
    (tmp_path / "link").symlink_to("opt")
    site.main_cf(f"command_directory = {tmp_path}/link/bin\ndaemon_directory = {tmp_path}/link/libexec\n")
    is_known = _ispmail_holders._known_programs(site.scope(), [_ispmail_inventory.read(str(tmp_path / "etc"))])
    monkeypatch.setattr(
        "_ispmail_sockets.read_process", lambda pid: process("master", 0, f"{tmp_path}/opt/libexec/master", pid)
    )
    assert is_known(process("postmap", 0, f"{tmp_path}/opt/bin/postmap")) is True
    assert is_known(process("smtpd", 105, f"{tmp_path}/opt/libexec/smtpd")) is True
    assert is_known(process("smtpd", 105, f"{tmp_path}/opt/bin/smtpd")) is False


def test_what_is_said_of_programs(site, monkeypatch):
    """Each once, however many hosts name it."""
    unknown = [Unknown("php", "php (pid 1)"), Unknown("", "a program of a container", "a socket")]
    unknown.append(Unknown("auth", "auth (pid 2)", "a socket", "it is another account's"))
    monkeypatch.setattr("_ispmail_connections.unknown_programs", lambda *_: unknown)
    site.maps[0] = site.map("a.cf", table(hosts="127.0.0.1, 127.0.0.2"))
    maybe = "a program of a container uses a socket, perhaps as mailserver"
    found = find(site.scope())
    assert set(found.notes) >= {"auth (pid 2) uses a socket, perhaps as mailserver: it is another account's"}
    assert found.unnamed == [
        (PROGRAM, "php", f"php (pid 1) is connected as mailserver: {NAME_PROGRAM}"),
        (PROGRAM, "unknown", f"{maybe}: {NAME_PROGRAM}"),
    ]


@pytest.mark.parametrize(("within", "asked"), [(math.inf, ["192.0.2.1", "192.0.2.2"]), (-1, [])])
def test_an_apply_asks_hosts_for_a_limited_time(monkeypatch, within, asked):
    """Each silent host takes seconds, and pillar may name many."""
    found, called = Holders(), []

    def listed(keys, host, type_):
        called.append(host)
        return Listed((), 3306, "")

    monkeypatch.setattr(_ispmail_holders._ispmail_connections, "listed_by_account", listed)
    live = [_LiveLogin("/x.cf", {"user": "mailserver", "hosts": "192.0.2.1, 192.0.2.2"})] * 2
    scope = SimpleNamespace(database=database())
    _ispmail_holders._ask_hosts(scope, live, [], lambda process: True, found, within)
    assert called == asked
    said = "is not known: other hosts took more than -1 s"
    assert found.unseen == [
        f"who is connected to {host} {said}" for host in ("192.0.2.1", "192.0.2.2") if host not in asked
    ]


def test_programs_are_looked_for_where_the_database_is(site, monkeypatch):
    """Each host in its turn, also where one does not answer."""

    def listed(keys, host, type_):
        if host == "192.0.2.9":
            raise DatabaseError("it is down")
        return host

    seen = []
    monkeypatch.setattr("_ispmail_connections.listed_by_account", listed)
    monkeypatch.setattr(
        "_ispmail_connections.unknown_programs", lambda listed, here, is_known, again: seen.append((listed, here)) or []
    )
    site.maps[0] = site.map("a.cf", table(hosts="192.0.2.9 localhost 192.0.2.1 127.0.0.1 unix:/run/x.sock"))
    found = find(site.scope())
    assert seen == [("localhost", True), ("192.0.2.1", False), ("127.0.0.1", True), ("unix:/run/x.sock", True)]
    assert found.unseen == ["who is connected to 192.0.2.9 is not known: it is down"]


@pytest.mark.parametrize(
    ("login", "here"),
    [
        (AdminLogin("root", None, "/run/mysqld/mysqld.sock", None), True),
        (AdminLogin("root", None, None, "127.0.0.1"), True),
        (AdminLogin("root", None, None, "192.0.2.1"), False),
    ],
)
def test_the_database_server_names_servers_that_are_none_of_the_sites(site, monkeypatch, login, here):
    site.maps = []
    site.main_cf("")
    listed = Listed((Client("192.0.2.7", 40000), Client("192.0.2.8", 40001), Client("localhost", None)), 3306, "")
    seen = []

    @contextlib.contextmanager
    def admin(of):
        yield of

    monkeypatch.setattr("_ispmail_database.admin", admin)
    monkeypatch.setattr(
        "_ispmail_account_users.listed_by_admin",
        lambda server, users, host: seen.append((server, *users, host)) or listed,
    )
    monkeypatch.setattr(
        "_ispmail_connections.unknown_programs",
        lambda listed, here, is_known, again: [Unknown("php", f"php, {listed.port}, {here}")],
    )
    scope = site.scope()
    scope = scope._replace(database=scope.database._replace(login=login))
    found = find(scope, _ispmail_holders.Site(["192.0.2.7"], _ispmail_servers.of(scope.database).listed))
    assert seen == [(login, "mailserver", login.host)]
    program, server = found.unnamed
    assert program == (PROGRAM, "php", f"php, 3306, {here} is connected as mailserver: {NAME_PROGRAM}")
    assert server == (
        SERVER,
        "192.0.2.8",
        "192.0.2.8 is connected as mailserver and is none of the site's servers: give what runs there an account of "
        "its own, or name the server in mail or addresses of the site (docs/master.conf)",
    )
    assert find(scope).unnamed == []


# Two accounts


def test_a_pair_is_asked_for_as_one(site, monkeypatch):
    """Its database lists both, and hands on where the other one is connected."""
    site.maps = []
    site.main_cf("")
    clients = {
        "mailserver": (Client("192.0.2.7", 40000),),
        "second": (Client("192.0.2.8", 40001), Client("localhost", None)),
    }
    seen = []

    def by_admin(server, users, host):
        return Listed(tuple(client for user in users for client in clients[user]), 3306, "")

    def unknown(listed, here, is_known, again):
        seen.append(listed.clients)
        return [Unknown("php", "php")]

    monkeypatch.setattr("_ispmail_database.admin", contextlib.nullcontext)
    monkeypatch.setattr("_ispmail_account_users.listed_by_admin", by_admin)
    monkeypatch.setattr("_ispmail_connections.unknown_programs", unknown)
    scope = site.scope()
    scope = scope._replace(database=scope.database._replace(pair=("mailserver", "second")))
    found = find(scope, _ispmail_holders.Site([], _ispmail_servers.of(scope.database).listed), search="none")
    assert seen == [(*clients["mailserver"], *clients["second"])]
    assert [holder.text.partition(" as ")[2][:21] for holder in found.unnamed] == ["mailserver or second:"] + [
        "mailserver or second "
    ] * 2
    assert found.describe()["connections"] == ["192.0.2.8:40001"]


def test_programs_of_the_other_account_are_looked_for_by_what_the_database_lists(site, monkeypatch):
    seen = []
    listed = Listed((Client("127.0.0.1", 40000),), 3306, "/x.sock", ("127.0.0.1",))
    monkeypatch.setattr("_ispmail_connections.listed_by_account", lambda keys, host, type_: listed)
    monkeypatch.setattr(
        "_ispmail_connections.unknown_programs",
        lambda listed, here, is_known, again: seen.append(listed) or [Unknown("php", f"php {len(listed.clients)}")],
    )
    scope = site.scope()
    for pair, others in (((), []), (("mailserver", "second"), [listed._replace(clients=(Client("::1", 1),) * 2)])):
        seen.clear()
        paired = scope._replace(database=scope.database._replace(pair=pair))
        found = find(paired, search="none", connections=["::1:1", "::1:1"])
        assert seen == [listed, *others]
        assert [holder.text.partition(": ")[0] for holder in found.unnamed] == [
            "php 1 is connected as mailserver",
            *("php 2 is connected as second" for _ in others),
        ]


def test_what_is_not_sure_is_listed_once_more(site, monkeypatch):
    """By the same account or admin; a server without the other account's password cannot ask for that one's."""
    asked, said = [], []

    def by_account(keys, host, type_):
        asked.append((keys["user"], host, type_))
        return Listed((Client(str(len(asked)), 1),), 3306, "")

    def by_admin(config, users):
        asked.append(tuple(map(tuple, users)))
        return [Listed((Client(str(len(asked)), 1),), 3306, "") for _ in users]

    def unknown(listed, here, is_known, again):
        said.append((listed.clients[0].host, again and again().clients[0].host))
        return []

    monkeypatch.setattr("_ispmail_connections.listed_by_account", by_account)
    monkeypatch.setattr("_ispmail_connections.unknown_programs", unknown)
    monkeypatch.setattr("_ispmail_connections.strangers", lambda listed, hosts: [])
    scope = site.scope()
    scope = scope._replace(database=scope.database._replace(pair=("mailserver", "second")))
    find(scope, _ispmail_holders.Site([], by_admin), search="none", connections=["192.0.2.1:1"])
    assert asked[:2] == [("mailserver", "127.0.0.1", "mysql")] * 2
    assert asked[2:] == [(("mailserver", "second"), ("second",)), (("mailserver", "second"),)]
    assert said == [("1", "2"), ("192.0.2.1", None), ("3", "4")]


def test_a_database_that_does_not_list_once_more(site, monkeypatch):
    def unknown(*_):
        raise DatabaseError("it is down")

    monkeypatch.setattr("_ispmail_connections.listed_by_account", lambda *_: Listed((), 3306, ""))
    monkeypatch.setattr("_ispmail_connections.unknown_programs", unknown)
    assert "who is connected to 127.0.0.1 is not known: it is down" in find(site.scope()).unseen


def test_connections_of_the_other_account_without_a_port_are_told(site, monkeypatch):
    """The servers cannot be asked about them."""
    clients = [(), (Client("m" * 58, None), Client("m" * 58, None), Client("localhost", None), Client("192.0.2.1", 1))]
    monkeypatch.setattr("_ispmail_connections.unknown_programs", lambda *_: [])
    scope = site.scope()
    scope = scope._replace(database=scope.database._replace(pair=("mailserver", "second")))
    found = find(scope, _ispmail_holders.Site([], lambda *_: [Listed(each, 3306, "") for each in clients]), "none")
    assert found.connections == ["192.0.2.1:1"]
    assert [note for note in found.unseen if "second" in note] == [
        f"{'m' * 58} is connected as second, and by which program is not known: the database lists no port of so long a"
        " name"
    ]


@pytest.mark.parametrize("connections", [None, "192.0.2.1:1", {}, [1], ["192.0.2.1"], ["192.0.2.1:"], ["a b:1"]])
def test_connections_are_a_list_of_texts(connections):
    with pytest.raises(InvalidInput, match=r"^connections must be a list of texts such as 192\.0\.2\.1:40000$"):
        find(None, connections=connections)


def test_an_old_login_is_a_user_and_a_password(site):
    """With the password unchanged, whoever has it loses his login all the same: the account is locked."""
    held = site.file("held", NEW)
    site.maps = [site.map("a.cf", table(user="second", password=NEW))]
    scope = site.scope()
    scope = scope._replace(database=scope.database._replace(pair=("mailserver", "second")))
    assert paths(find(scope, search="old")) == [held]
    site.map("a.cf", table(password=NEW))
    assert paths(find(scope, search="old")) == []


def test_a_new_user_that_is_no_pair_with_the_old_one(site):
    """Told before a rotation, and in nothing else: an apply may change it, and the doctor tells that it is due."""
    site.maps = [site.map("a.cf", table(user="former")), site.map("b.cf", table(user="else"))]
    (found,) = find(site.scope(), search="old").unnamed
    where = f"{site.folder}/etc/a.cf"
    assert found == (
        TABLE,
        where,
        f"{where} logs in as else and former, and pillar has mailserver: a rotation changes the user only from one of "
        "two accounts to the other: set rotation:method to two_accounts, and name both in rotation:accounts "
        "(docs/rotation.md)",
    )
    assert [find(site.scope(), search=search).unnamed for search in ("all", "none")] == [[], []]
    scope = site.scope()
    (found,) = find(
        scope._replace(database=scope.database._replace(pair=("mailserver", "second"))), search="old"
    ).unnamed
    assert "logs in as else and former, and pillar has mailserver or second: a rotation" in found.text
    site.maps.append(site.map("c.cf", table()))
    assert paths(find(site.scope(), search="old")) == []


def test_tables_of_either_account(site, tmp_path):
    path = site.file("x.cf", table(user="second"))
    site.main_cf(f"canonical_maps = mysql:{path} mysql:{tmp_path}/gone.cf\n")
    scope = site.scope()
    paired = scope._replace(database=scope.database._replace(pair=("mailserver", "second")))
    texts = {holder.where: holder.text for holder in find(paired).unnamed if holder.kind == TABLE}
    assert "asks, logs in as second and is not a map of pillar" in texts[path]
    assert "asks, may log in as mailserver or second (" in texts[f"{tmp_path}/gone.cf"]


# An apply


def wanted(*maps):
    """Maps as pillar has them, each a path, a type and a user; with the new password."""
    one = complete("ispmail", {"database": {"password": NEW}})
    each = one.maps[0]
    made = [
        dataclasses.replace(each, path=path, type=type_, keys={"user": user, "password": NEW} if user else {})
        for path, type_, user in maps
    ]
    return one._replace(maps=tuple(made))


@pytest.mark.parametrize(
    ("content", "type_", "user", "changes"),
    [
        (table(), "mysql", "mailserver", {"mailserver"}),
        (table(password=NEW), "mysql", "mailserver", set()),
        (table(password=None), "mysql", "mailserver", {"mailserver"}),
        # Whether that user is one of ours is asked afterwards.
        (table(), "mysql", "another", {"mailserver"}),
        (table(password=NEW), "mysql", "another", {"mailserver"}),
        # Nobody has a login that is not there yet.
        (table(user=None), "mysql", "mailserver", set()),
        (None, "mysql", "mailserver", set()),
        (None, "sqlite", None, set()),
        (table(), "pgsql", "mailserver", {"mailserver"}),
        (table(password=NEW), "pgsql", "mailserver", set()),
        # What is no file is refused by the apply.
        ("folder", "mysql", "mailserver", set()),
    ],
)
def test_whose_login_an_apply_replaces(tmp_path, content, type_, user, changes):
    path = tmp_path / "a.cf"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_text(content)
    maps = wanted((str(path), type_, user))
    assert _ispmail_holders._replaced_users(maps, Consumers("ispmail", ())) == changes


@pytest.mark.parametrize(
    ("user", "password", "changes"),
    [
        ("mailserver", OLD, {"mailserver"}),
        ("mailserver", NEW, set()),
        ("another", OLD, {"another"}),
        (None, None, set()),
    ],
)
def test_whose_login_of_a_consumer_an_apply_replaces(tmp_path, user, password, changes):
    path = tmp_path / "x.cnf"
    if user:
        path.write_text(f"[client]\nuser={user}\npassword={password}\n")
    keys = {"user": "mailserver", "password": NEW}
    consumers = Consumers("ispmail", (consumer("x", str(path)),), keys)
    assert _ispmail_holders._replaced_users(wanted(), consumers) == changes


@pytest.fixture
def apply(site):
    """A function that applies a new password, and gives what is said before."""

    def apply(scope=None, test=False, **values):
        maps = wanted((site.maps[0].path, "mysql", "mailserver"))
        with left_behind(maps, Consumers("ispmail", ()), scope or site.scope, test, **values) as said:
            return said

    return apply


@pytest.mark.parametrize("test", [True, False])
def test_who_is_left_with_the_old_password_is_told_and_remembered(site, apply, test):
    path = site.file("script")
    site.file("new", NEW)
    assert apply(test=test) == [f"the password changes: {path} holds the password in use: {NAME_IT}"]
    assert _ispmail_remembered.paths(site.scope().cache) == ([] if test else [path])


@pytest.mark.parametrize("case", ["told", "cannot be found out", "somebody else's account", "nothing changes"])
def test_a_fault_of_the_apply_itself_comes_out_as_it_is(site, case):
    """It comes in where warnings were given, and was taken for one of finding them: a traceback hid it."""

    def scope():
        if case == "cannot be found out":
            raise CannotAsk("no")
        found = site.scope()
        own = found.database._replace(user="another") if case == "somebody else's account" else found.database
        return found._replace(database=own)

    password = NEW if case == "nothing changes" else OLD
    site.map("a.cf", table(password=password))
    maps = wanted((site.maps[0].path, "mysql", "mailserver"))
    fault = PillarFault("ispmail", [Fault("x", "is wrong")])
    with pytest.raises(PillarFault) as caught, left_behind(maps, Consumers("ispmail", ()), scope, False):
        raise fault
    assert caught.value is fault


def test_nothing_is_said_where_no_password_changes(site, apply):
    site.map("a.cf", table(password=NEW))
    site.file("script")
    assert apply(lambda: pytest.fail("nobody is asked")) == []


def test_nothing_is_said_where_the_user_becomes_another_one_that_is_no_pair(site, apply):
    site.map("a.cf", table(user="former"))
    site.file("script")
    assert apply() == []


def test_an_apply_of_the_other_account_tells_who_is_left(site, apply):
    site.map("a.cf", table(user="second"))
    path = site.file("script")
    scope = site.scope()
    paired = scope._replace(database=scope.database._replace(pair=("mailserver", "second")))
    assert apply(lambda: paired) == [f"the password changes: {path} holds the password in use: {NAME_IT}"]


def test_an_apply_asks_no_longer_than_ten_seconds(apply, monkeypatch):
    asked = []
    monkeypatch.setattr(_ispmail_holders, "find", lambda scope, **values: asked.append(values) or Holders())
    assert apply() == [] and asked == [{"search": "old", "within": 10}]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (CannotAsk("no main.cf"), "no main.cf"),
        (InvalidInput("pillar is wrong"), "pillar is wrong"),
        (
            PillarFault("second", [Fault("x", "is wrong"), Fault("y", "is missing", "give one")]),
            "x is wrong; y is missing: give one",
        ),
    ],
)
def test_an_apply_goes_on_where_that_cannot_be_found_out(apply, error, reason):
    """It says so, and says why."""

    def fail():
        raise error

    (said,) = apply(fail)
    assert said == f"the password changes, and whether others hold it could not be found out: {reason}"
