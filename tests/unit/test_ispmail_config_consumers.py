"""What pillar may say of the consumers of the maps' account."""

import pytest

from ispmail_config_consumers import Consumer, consumers
from ispmail_errors import Fault, PillarFault


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
    )
    assert read(dovecot={}) == (expected,)
    (changed,) = read(dovecot={"option_file": "/etc/dovecot//db.cnf", "option_group": "mail", "programs": ["dict"]})
    assert (changed.option_file, changed.option_group, changed.programs) == ("/etc/dovecot/db.cnf", "mail", ("dict",))


def test_dovecot_whose_password_is_written_by_an_sls():
    (found,) = read(dovecot={"sls": "dovecot.sql", "holds": ["/etc/dovecot/dovecot-sql.conf.ext"]})
    assert (found.option_file, found.sls, found.programs) == (None, "dovecot.sql", ("auth",))


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


FAULTS = [
    ({"x": "TOKEN"}, "consumers:x", "must be a mapping"),
    ({"x:y": {"ignore": True}}, "consumers:(a key that is not shown)", "letters"),
    ({"x": {"ignore": True, "programmes": []}}, "consumers:x:programmes", "is programs meant"),
    ({"old-x.1": {}}, "consumers:old-x.1", "does not say where its password is"),
    ({"x": {"ignore": "yes", "holds": ["/a"]}}, "consumers:x:ignore", "true or false"),
    ({"x": {"sls": "a.b"}}, "consumers:x:holds", "is missing"),
    ({"x": {"sls": 1, "holds": ["/a"]}}, "consumers:x:sls", "name of an SLS"),
    *(({"x": {"holds": holds}}, "consumers:x:holds", "absolute paths") for holds in ("/a", ["a"], [1], ["/a b"])),
    *(({"dovecot": {"programs": names}}, "consumers:dovecot:programs", "names") for names in ("a", [1], ["/bin/a"])),
    ({"dovecot": {"option_file": "db.cnf"}}, "consumers:dovecot:option_file", "absolute path"),
    ({"x": {"option_file": "/a", "holds": ["/b"]}}, "consumers:x:option_file", "beside sls or holds"),
    ({"x": {"holds": ["/b"], "mode": "0600"}}, "consumers:x:mode", "belongs to an option_file"),
    *(({"dovecot": {"mode": mode}}, "consumers:dovecot:mode", "0640") for mode in ("0644", 640, "640", "0660")),
    *(({"dovecot": {key: "a]"}}, f"consumers:dovecot:{key}", "a name") for key in ("user", "group", "option_group")),
    ({"dovecot": {}, "x": {"option_file": "/etc/dovecot/./ispmail.cnf"}}, "consumers:x:option_file", "file of dovecot"),
]


@pytest.mark.parametrize(("entries", "key", "said"), FAULTS)
def test_faults_of_pillar(entries, key, said):
    with pytest.raises(PillarFault) as caught:
        consumers("ispmail", {"consumers": entries})
    assert [fault.key for fault in caught.value.faults] == [key]
    assert said in str(caught.value.faults[0]) and "TOKEN" not in str(caught.value)


def test_all_faults_at_once():
    with pytest.raises(PillarFault) as caught:
        consumers("ispmail", {"consumers": {"x": {}, "y": {"ignore": 1}}}, [Fault("database:password", "is missing")])
    keys = [fault.key for fault in caught.value.faults]
    assert keys == ["database:password", "consumers:x", "consumers:y", "consumers:y:ignore"]
    with pytest.raises(PillarFault, match="must be a mapping"):
        consumers("ispmail", {"consumers": ["dovecot"]})
