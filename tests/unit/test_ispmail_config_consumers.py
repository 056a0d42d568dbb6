"""What pillar may say of the consumers of the maps' account."""

import os
from pathlib import Path

import pytest
import yaml

import _ispmail_sockets
from _ispmail_config_consumers import Consumer, Consumers, assemble, consumers, logins
from _ispmail_errors import PillarFault

from .test_documentation import ROOT


def read(**entries):
    return consumers("ispmail", {"consumers": entries})


def test_without_consumers():
    assert consumers("ispmail", {}) == consumers("ispmail", {"consumers": None}) == read() == read(dovecot=None) == ()


def test_dovecot_is_built_in():
    expected = Consumer(
        name="dovecot",
        option_file="/etc/dovecot/ispmail.cnf",
        option_group="client",
        user="root",
        group="dovecot",
        mode=0o640,
        sls=None,
        holds=(),
        programs=("auth",),
        ignore=False,
        config_file="/etc/dovecot/dovecot.conf",
    )
    assert read(dovecot={}) == (expected,)
    (changed,) = read(dovecot={"option_file": "/etc/dovecot//db.cnf", "option_group": "mail", "programs": ["dict"]})
    assert (changed.option_file, changed.option_group, changed.programs) == ("/etc/dovecot/db.cnf", "mail", ("dict",))


def test_dovecot_whose_password_is_written_by_an_sls():
    # One whose name only begins like the formula's is the admin's own.
    assert read(x={"sls": "ispmail-webmail.a", "holds": ["/a"]})[0].sls == "ispmail-webmail.a"
    (found,) = read(dovecot={"sls": "dovecot.sql", "holds": ["/etc/dovecot/dovecot-sql.conf.ext"]})
    assert (found.option_file, found.sls, found.programs) == (None, "dovecot.sql", ("auth",))


def test_a_dovecot_that_may_break_gets_no_file():
    (found,) = read(dovecot={"ignore": True})
    assert (found.option_file, found.config_file, found.programs, found.ignore) == (None, None, ("auth",), True)
    assert found.holds == ("/etc/dovecot/ispmail.cnf",), "an earlier apply may have written it"


def test_other_consumers():
    backup, webmail, script = read(
        backup={"option_file": "/etc/backup/db.cnf", "group": "backup", "mode": "0440", "programs": ["mysqldump"]},
        webmail={"sls": "webmail.config", "holds": ["/etc/webmail/db.php"], "programs": ["php-fpm8.2-pool-webmail"]},
        script={"holds": ["/root/report.sh"], "programs": ["report"], "ignore": True},
    )
    assert (backup.user, backup.group, backup.mode) == ("root", "backup", 0o440)
    assert (webmail.option_file, webmail.holds) == (None, ("/etc/webmail/db.php",))
    assert webmail.programs == ("php-fpm8.2-pool",), "as the kernel cuts it"
    assert script.ignore and not webmail.ignore


def test_the_example_has_every_key():
    text = (ROOT / "pillar.example").read_text(encoding="utf-8")
    commented = text[text.index("  # consumers:\n") :].partition("\n\n")[0]
    example = yaml.safe_load(commented.replace("  # ", "", 1).replace("\n  # ", "\n"))
    dovecot, *_ = consumers("ispmail", example)
    assert (dovecot,) == read(dovecot={}), "the example has the defaults"
    with pytest.raises(PillarFault, match="known are") as caught:
        read(x={"zzzzzz": 1, "ignore": True})
    known = str(caught.value).partition("known are ")[2].split(", ")
    assert set(known) == {key for entry in example["consumers"].values() for key in entry}


FAULTS = [
    ({"x": "TOKEN"}, "consumers:x", "must be a mapping"),
    ({"x:y": {"ignore": True}}, "consumers:(a key that is not shown)", "letters"),
    ({"x": {"ignore": True, "programmes": []}}, "consumers:x:programmes", "is programs meant"),
    ({"old-x.1": {}}, "consumers:old-x.1", "does not say where its password is"),
    ({"x": {"ignore": "yes", "holds": ["/a"]}}, "consumers:x:ignore", "true or false"),
    *(({name: {"sls": "a.b"}}, f"consumers:{name}:holds", "is missing") for name in ("x", "dovecot")),
    ({"x": {"sls": 1, "holds": ["/a"]}}, "consumers:x:sls", "name of an SLS"),
    *(
        ({"x": {"sls": name, "holds": ["/a"]}}, "consumers:x:sls", "is an SLS of this formula")
        for name in ("ispmail", "ispmail.maps", "ispmail/maps", ".maps", "/ispmail/maps")
    ),
    *(({"x": {"holds": holds}}, "consumers:x:holds", "absolute paths") for holds in ("/a", ["a"], [1], ["/a b"])),
    *(
        ({"dovecot": {"programs": names}}, "consumers:dovecot:programs", "names")
        for names in ("a", [1], ["/bin/a"], ["\ud800"], ["a\0"])
    ),
    ({"dovecot": {"option_file": "db.cnf"}}, "consumers:dovecot:option_file", "absolute path"),
    ({"dovecot": {"option_file": "/etc/\u202e.cnf"}}, "consumers:dovecot:option_file", "absolute path"),
    ({"dovecot": {"option_file": "/etc/.a.cnf.new"}}, "consumers:dovecot:option_file", "each change's own"),
    ({"dovecot": {"option_file": 1 << 20000}}, "consumers:dovecot:option_file", "absolute path"),
    ({"x": "sdb://TOKEN/x"}, "consumers:x", "is a URI of sdb"),
    *(
        (
            {"dovecot": {key: "sdb://a/b"}},
            f"consumers:dovecot:{key}",
            "is a URI of sdb, and is not looked up here: write",
        )
        for key in ("option_file", "config_file", "option_group", "user", "group", "mode")
    ),
    *(({"x": {"holds": uris}}, "consumers:x:holds", "is a URI of sdb") for uris in ("sdb://a/b", ["/a", "sdb://a/b"])),
    ({"x": {"programs": ["sdb://a/b"], "holds": ["/a"]}}, "consumers:x:programs", "is a URI of sdb"),
    ({"x": {"sls": "sdb://a/b", "holds": ["/a"]}}, "consumers:x:sls", "is a URI of sdb"),
    ({"x": {"slss": "sdb://a/b", "holds": ["/a"]}}, "consumers:x:slss", "is sls meant?"),
    ({"dovecot": {"option_file": "/etc/postfix/main.cf"}}, "consumers:dovecot:option_file", "Postfix's own"),
    ({"x": {"option_file": "/a", "holds": ["/b"]}}, "consumers:x:option_file", "beside sls or holds"),
    ({"x": {"option_file": "/a", "ignore": True}}, "consumers:x:option_file", "gets no password"),
    ({"x": {"sls": "a.b", "holds": ["/b"], "ignore": True}}, "consumers:x:sls", "gets no password"),
    ({"dovecot": {"ignore": True, "group": "mail"}}, "consumers:dovecot:group", "belongs to an option_file"),
    ({"x": {"holds": ["/b"], "mode": "0600"}}, "consumers:x:mode", "belongs to an option_file"),
    *(({"dovecot": {"mode": mode}}, "consumers:dovecot:mode", "0640") for mode in ("0644", 640, "640", "0660")),
    *(({"dovecot": {key: "a]"}}, f"consumers:dovecot:{key}", "a name") for key in ("user", "group", "option_group")),
    (
        {"dovecot": {}, "x": {"option_file": "/etc/dovecot/./ispmail.cnf"}},
        "consumers:x:option_file",
        "file of dovecot too: choose",
    ),
]


@pytest.mark.parametrize(("entries", "key", "said"), FAULTS)
def test_faults_of_pillar(entries, key, said):
    with pytest.raises(PillarFault) as caught:
        consumers("ispmail", {"consumers": entries})
    assert [fault.key for fault in caught.value.faults] == [key]
    assert said in str(caught.value.faults[0]) and "TOKEN" not in str(caught.value)


def test_all_faults_at_once():
    _, faults = assemble("ispmail", {"consumers": {"x": {}, "y": {"ignore": 1}}, "database": {"hosts": []}})
    keys = [fault.key for fault in faults]
    assert keys == ["consumers:x", "consumers:y", "consumers:y:ignore", "database:hosts", "database:password"]
    with pytest.raises(PillarFault) as caught:
        consumers("ispmail", {"consumers": ["dovecot"]})
    assert str(caught.value).endswith("\n- ispmail:consumers must be a mapping: see pillar.example")
    with pytest.raises(PillarFault) as caught:
        read(x={"option_file": "/a", "sls": "a.b"})
    assert [fault.key for fault in caught.value.faults] == ["consumers:x:option_file", "consumers:x:holds"]


def test_how_consumers_log_in():
    database = {"password": "x", "hosts": ["db1", "db2"], "charset": "utf8mb4"}
    found, faults = assemble("ispmail", {"consumers": {"dovecot": {}}, "database": database})
    assert not faults and "x" not in repr(found.keys.get("user")) and "password" not in repr(found)
    assert found.keys == {"user": "mailserver", "password": "x", "hosts": "db1 db2", "dbname": "mailserver"}
    assert [each.name for each in found.with_option_file] == ["dovecot"]
    assert [each.name for each in Consumers("x", read(x={"holds": ["/a"]}, dovecot={})).with_option_file] == ["dovecot"]
    tls = {f"tls_{name}": f"/{name}" for name in ("cert_file", "key_file", "CAfile", "CApath")}
    tls["tls_verify_cert"] = "yes"
    assert logins("ispmail", {"database": {**database, **tls}}).keys.items() >= tls.items()
    bare = logins("ispmail", {"consumers": {"dovecot": {}}, "database": {**database, "hosts": "sdb://x/y"}})
    assert bare.keys == {"dbname": "mailserver"}
    assert assemble("ispmail", {"database": {}}) == (Consumers("ispmail", ()), [])


@pytest.mark.parametrize(
    ("rotation", "accounts"),
    [
        (None, ("x_b",)),
        ({"batch": 2}, ("x_b",)),
        ({"method": "two_passwords"}, ("x_b",)),
        ({"method": "two_accounts"}, ("x_b", "x_a")),
        ({"method": "two_accounts", "accounts": ["other", "x_b"]}, ("x_b", "other")),
    ],
)
def test_the_users_that_stand_for_the_account(rotation, accounts):
    section = {"consumers": {"dovecot": {}}, "database": {"user": "x_b", "password": "x", "hosts": "db"}}
    found, faults = assemble("ispmail", {**section, "rotation": rotation})
    assert (found.accounts, faults) == (accounts, [])


@pytest.mark.parametrize(
    ("database", "told"),
    [
        ({"password": "x" * 5000}, ["password is too long"]),
        ({"password": "x", "user": "x" * 5000}, ["user is too long"]),
        ({"password": "x" * 5000, "hosts": []}, ["hosts is an empty list", "password is too long"]),
        *(
            ({"password": "x", key: "\ud800"}, [f"{key} has a character that cannot be written as UTF-8"])
            for key in ("user", "password")
        ),
    ],
)
def test_a_login_that_an_option_file_cannot_hold(database, told):
    _, faults = assemble("ispmail", {"consumers": {"dovecot": {}}, "database": database})
    assert [str(fault).partition(" for ")[0].partition(":")[2].partition(":")[0] for fault in faults] == told


def test_what_stands_in_sdb_is_no_login():
    """Asked with the URI as its host, the database would be one that does not exist."""
    database = {"password": "pw", "hosts": "db", "dbname": "sdb://x/dbname"}
    found = logins("ispmail", {"consumers": {"dovecot": {}}, "database": database})
    assert "sdb://" not in str(found.keys) and found.keys["hosts"] == "db"


def test_a_consumer_that_only_holds_the_password_gets_no_option_file():
    (found,) = read(dovecot={"holds": ["/etc/dovecot//x.conf"], "ignore": True})
    assert (found.option_file, found.config_file, found.holds) == (None, None, ("/etc/dovecot/x.conf",))


@pytest.mark.parametrize("key", ["option_file", "config_file"])
@pytest.mark.parametrize("path", ["x.cnf", "/etc/", "/a b", '/a"b', "/a{b}", 5])
def test_a_file_of_a_consumer_is_an_absolute_path(key, path):
    with pytest.raises(PillarFault) as caught:
        read(dovecot={key: path})
    assert [fault.key for fault in caught.value.faults] == [f"consumers:dovecot:{key}"]


@pytest.mark.parametrize("section", [None, [], "text", 5, {"database": ["hosts"]}, {"database": {"hosts": []}}])
def test_what_is_no_mapping_has_no_consumers(section):
    """Nor does a fault of the shared keys, which is told elsewhere, keep anybody from the rest."""
    found = logins("ispmail", section)
    assert consumers("ispmail", section) == found.consumers == ()
    assert found.keys["dbname"] == "mailserver"


@pytest.mark.parametrize("mode", ["0400", "0440", "0600", "0640"])
def test_the_modes_and_the_owner_of_an_option_file(mode):
    (found,) = read(x={"option_file": "/a", "mode": mode})
    assert (found.user, found.group, f"{found.mode:04o}") == ("root", "root", mode)
    (found,) = read(x={"option_file": "/a", "user": "webmail"})
    assert (found.user, found.group) == ("webmail", "root")


@pytest.mark.parametrize("name", ["php-fpm8.2-pool-webmail", "x" * 14 + "\u00fc", "x" * 13 + "\u20ac", "\u00fcber"])
def test_a_program_has_the_name_that_the_kernel_gives_it(name):
    """It cuts a name inside a character, and no process had the name in which the half was left out."""
    comm = Path("/proc/self/comm")
    before = comm.read_bytes()
    comm.write_bytes(name.encode())
    try:
        process = _ispmail_sockets.read_process(os.getpid())
    finally:
        comm.write_bytes(before)
    (found,) = read(x={"holds": ["/a"], "programs": [name]})
    assert found.programs == (process.name,)


def test_an_option_file_is_no_way_to_a_postgresql():
    names = ("virtual_mailbox_domains", "virtual_alias_maps", "virtual_mailbox_maps")
    maps = {name: {"type": "pgsql"} for name in names}
    section = {"database": {"password": "x"}, "consumers": {"dovecot": {}, "web": {"sls": "web", "holds": ["/etc/a"]}}}
    assert assemble("ispmail", section)[1] == []
    (fault,) = assemble("ispmail", {**section, "maps": maps})[1]
    assert str(fault) == (
        "consumers:dovecot:option_file is a file of MariaDB's and MySQL's clients, and pillar's database is a "
        "PostgreSQL: set sls and holds, which name the SLS that writes the password and the files that hold it"
    )
