"""As whom Postfix logs in by a table. tests/functional/test_table_users.py compares it with a real client."""

import pytest

import _ispmail_inventory
import _ispmail_option_users
from _ispmail_inventory import Settings, Table
from _ispmail_table_users import Users, of, of_inventory, together

DEFAULT_FILES = _ispmail_option_users._DEFAULT_FILES


def users(*names):
    return Users(frozenset(names))


class Site:
    """A Postfix with a queue directory, default option files and a table, all below one folder."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "queue").mkdir()

    def file(self, name, content):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        return str(path)

    def jailed(self, name, content):
        """What a program in the chroot sees under the path of `name`."""
        return self.file(f"queue{self.folder}/{name}", content)

    def settings(self, **values):
        known = {"mail_owner": "owner", "queue_directory": f"{self.folder}/queue", **values}
        return Settings("/etc/postfix", known, frozenset(known))

    def of(self, content="", type_="mysql", **values):
        """As whom a table with this content, and what each has that can be asked, logs in."""
        path = self.file("table.cf", f"dbname = x\n{content}")
        return of(Table(type_, path, False, (), ()), self.settings(**values))

    def postgresql(self, content):
        path = self.file("table.cf", f"dbname = x\n{content}")
        return of(Table("pgsql", path, False, (), ()), self.settings(), "pgsql")

    def by_file(self, content, more=""):
        return self.of(f"option_file = {self.file('x.cnf', content)}\n{more}")


@pytest.fixture
def site(tmp_path, monkeypatch):
    files = tuple(str(tmp_path / name) for name in ("etc/my.cnf", "etc/mysql/my.cnf"))
    monkeypatch.setattr(_ispmail_option_users, "_DEFAULT_FILES", files)
    return Site(tmp_path)


BOTH = "[client]\nuser = fileuser\npassword = x\n"


def test_the_user_of_the_table_counts_before_all_others(site):
    """The doctor and the search for other holders each had a rule of their own."""
    site.file("etc/my.cnf", BOTH)
    assert site.of("user = own\n") == users("own")
    assert site.by_file(BOTH, "user = own\n") == site.by_file(BOTH, "user = own\npassword = y\n") == users("own")
    # Then it makes no difference that it cannot be read.
    assert site.of(f"user = own\noption_file = {site.folder}\n") == users("own")


def test_without_a_user_the_option_file_or_the_process_decides(site):
    """The doctor took the process's own, and advised to drop the account of the option file."""
    assert site.of() == site.of("user =\n") == users("owner")
    assert site.by_file(BOTH) == site.by_file(BOTH, "user =\npassword = y\n") == users("owner", "fileuser")
    assert site.of(f"option_file = {site.folder}/none.cnf\n") == users("owner")


@pytest.mark.parametrize("type_", ["sqlite", "pgsql"])
def test_a_table_of_another_database_has_no_user_of_this_one(site, type_):
    """An sqlite table logs in nowhere: the doctor took it for one of the process's own user."""
    assert site.of("user = own\n", type_) == site.of("", type_) == users()
    assert of(Table(type_, "/nowhere/x.cf", False, (), ()), site.settings()) == users()


def test_the_users_of_a_postgresql(site):
    """Its library reads no my.cnf, and takes the name of the process's own user."""
    site.file("etc/my.cnf", BOTH)
    for content, name in (("user = own\n", "own"), ("user =\n", "owner"), (f"option_file = {site.folder}\n", "owner")):
        assert site.postgresql(content) == users(name)
    assert of(Table("mysql", "/none.cf", False, (), ()), site.settings(), "pgsql") == users()


def test_the_users_in_the_uris_of_a_postgresql(site):
    """Postfix hands over no other one then: the doctor advised to drop the role in use, and no rotation stopped."""
    uri = "postgresql://mailserver:x@db/mail"
    assert site.postgresql(f"hosts = {uri}\nuser = other\n") == users("mailserver")
    assert site.postgresql(f"hosts = {uri} db2, postgresql://db3\nuser = other\n") == users(
        *("mailserver", "other", "owner")
    )
    found = site.postgresql("hosts = postgresql:///?service=x\nuser = other\n")
    reason = f"{site.folder}/table.cf has a URI with a service and no user: pg_service.conf says which user it is"
    assert found == Users(frozenset(), (reason,))


@pytest.mark.parametrize(
    ("content", "group", "found"),
    [
        ("[client-server]\nuser = a\n", None, "a"),
        ("[client-mariadb]\nuser = a\n", None, "a"),
        ("[mysql]\nuser = a\n", None, None),
        ("[mail]\nuser = a\n", None, None),
        ("[mail]\nuser = a\n", "mail", "a"),
        # The last one counts, in whichever group.
        ("[client]\nuser = a\n[mail]\nuser = b\n", "mail", "b"),
        ("[mail]\nuser = b\n[client]\nuser = a\n", "mail", "a"),
        ("[client]\nuser = a\n", "", "a"),
        ("user = a\n", "", None),
        ("[client]\nuser = a\nuser =\n", None, None),
        ("[client]\nuser = a\nuser\n", None, "a"),
        ("[client]\nuser = 'a'\nhost = b\n", None, "a"),
    ],
)
def test_which_user_of_an_option_file(site, content, group, found):
    more = "" if group is None else f"option_group = {group}\n"
    assert site.by_file(content, more) == users("owner", *filter(None, [found]))


def test_the_files_that_an_option_file_includes(site):
    other = site.file("other-file.cnf", "[client]\nuser = b\n")
    assert site.by_file(f"[client]\nuser = a\n!include {other}\n") == users("owner", "b")
    assert site.by_file(f"!include {other}\n[client]\nuser = a\n") == users("owner", "a")
    assert site.by_file("[client]\nuser = a\n!include /none-there.cnf\n") == users("owner", "a")
    assert site.by_file(f"[client]\nuser = a\n!include {site.folder}/x.cnf\n") == users("owner", "a")


def test_a_directory_of_option_files_may_be_read_or_not(site):
    """libmariadb of Debian 12 reads my.cnf there, that of Debian 13 all of them."""
    for name in ("a.cnf", "b.cnf", "c.txt"):
        site.file(f"more/{name}", f"[client]\nuser = {name[0]}\n")
    folder = f"{site.folder}/more"
    assert site.by_file(f"[client]\nuser = x\n!includedir {folder}\n") == users("owner", "x", "a", "b")
    assert site.by_file(f"!includedir {folder}/\n[client]\nuser = x\n") == users("owner", "x")
    site.file("more/a.cnf", f"!includedir {folder}\n")
    assert site.by_file(f"!includedir {folder}\n!includedir {folder}/none\n") == users("owner", "b")


def test_without_an_option_file_the_library_reads_those_of_the_system(site):
    assert DEFAULT_FILES == ("/etc/my.cnf", "/etc/mysql/my.cnf")
    site.file("etc/my.cnf", "[client]\nuser = a\n[mail]\nuser = m\n")
    assert site.of() == site.of("option_file =\n") == users("owner", "a")
    assert site.of("option_group = mail\n") == users("owner", "m")
    # Postfix reads none of them then, see mysql_table(5).
    assert site.of("option_group =\n") == users("owner")
    site.file("etc/mysql/my.cnf", "[client]\nuser = b\n")
    assert site.of() == users("owner", "b")
    site.file("etc/mysql/my.cnf", "[client]\nport = 1\n")
    assert site.of() == users("owner", "a")
    assert site.by_file(BOTH) == users("owner", "fileuser")


def test_a_program_in_the_chroot_has_files_of_its_own(site):
    file = site.file("x.cnf", BOTH)
    site.jailed("x.cnf", "[client]\nuser = jailed\n")
    assert site.of(f"option_file = {file}\n") == users("owner", "fileuser", "jailed")
    site.jailed("x.cnf", f"!include {site.folder}/y.cnf\n")
    site.jailed("y.cnf", "[client]\nuser = inner\n")
    assert site.of(f"option_file = {file}\n") == users("owner", "fileuser", "inner")
    # No link leads out of the chroot.
    linked = site.file("linked.cnf", BOTH)
    inside = site.folder / "queue" / linked.lstrip("/")
    inside.symlink_to(linked)
    assert site.of(f"option_file = {linked}\n") == users("owner", "fileuser")
    inside.unlink()
    inside.symlink_to(f"{site.folder}/y.cnf")
    assert site.of(f"option_file = {linked}\n") == users("owner", "fileuser", "inner")
    # Postfix's programs run in the queue directory.
    site.file("queue/z.cnf", "[client]\nuser = relative\n")
    assert site.of("option_file = z.cnf\n") == users("owner", "relative")


def test_a_table_in_main_cf(site):
    """A table whose name is no path has its keys there: its account was taken for one that no table uses."""
    table = Table("mysql", "inside", False, (), ())
    known = {"inside_user": "$whose", "whose": "a", "inside_dbname": "x"}
    assert of(table, site.settings(**known)) == users("a")
    assert of(table, site.settings(inside_dbname="x", other_user="a")) == users("owner")
    site.file("etc/my.cnf", "[client]\nuser = b\n")
    assert of(table, site.settings(inside_dbname="x")) == users("owner", "b")
    assert of(table, site.settings(inside_option_group="")) == users("owner")
    assert of(table, site.settings(inside_option_file=site.file("x.cnf", BOTH))) == users("owner", "fileuser")


def test_what_cannot_be_told_is_not_no(site):
    """An account that nobody was found to use is one to drop."""
    for content in (f"option_file = {site.folder}\n", f"option_file = {site.file('x.cnf', f'!include {site.folder}')}"):
        found = site.of(content)
        assert found.names == frozenset()
        assert found.unknown == (f"{site.folder} is no regular file, or larger than 16 MiB",)
    loop = site.folder / "loop"
    loop.symlink_to("loop")
    (reason,) = site.by_file(f"!includedir {loop}\n").unknown
    assert reason == f"{loop} cannot be read: Too many levels of symbolic links"
    gone, empty = (Table("mysql", str(site.folder / name), False, (), ()) for name in ("gone.cf", "empty.cf"))
    site.file("empty.cf", "")
    for table in (gone, empty):
        assert of(table, site.settings()) == Users(frozenset(), (f"{table.path} is missing or empty",))


def test_the_users_of_a_postfix(site):
    paths = [site.file(f"{name}.cf", f"user = {name}\n") for name in "ab"]
    tables = tuple(Table("mysql", path, False, (), ()) for path in (*paths, "/none/x.cf", "/none/x.cf"))
    inventory = _ispmail_inventory.of(site.settings(), [])._replace(tables=tables)
    found = of_inventory(inventory)
    assert found == Users(frozenset("ab"), ("/none/x.cf is missing or empty",))
    assert together([]) == users()
    assert together([found, users("c"), found]) == Users(frozenset("abc"), found.unknown)
