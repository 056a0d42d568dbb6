"""Option files of consumers and files of others, as they are on this disk; no Dovecot, see tests/functional."""

import grp
import os
import pwd

import pytest

import _ispmail_consumers
import _ispmail_option_users
import _ispmail_optionfile
from _ispmail_config_consumers import Consumers
from _ispmail_errors import CannotAsk, Failed

from .consumer_values import consumer

KEYS = {"user": "mailserver", "password": "new;#pass", "hosts": "127.0.0.1", "dbname": "mailserver"}
NOBODY = pwd.getpwnam("nobody")


def program(name, folder, **values):
    """A consumer with an option file of ours in the folder."""
    return consumer(name, **{"option_file": str(folder / f"{name}.cnf"), **values})


def of(*consumers, **keys):
    return Consumers("second", consumers, {**KEYS, **keys}, ("mailserver", "mailserver_b"))


def written(path, user="mailserver", password="new;#pass", mode=0o640):
    path.write_text(_ispmail_optionfile.render("client", user, password))
    path.chmod(mode)


def test_the_first_option_file(tmp_path):
    due = _ispmail_consumers.compare(of(program("a", tmp_path)))
    path = str(tmp_path / "a.cnf")
    assert due.changes == {
        "consumer:a": {
            "file": {"old": None, "new": path},
            "user": {"old": None, "new": "mailserver"},
            "password": {"old": None, "new": "***"},
        }
    }
    (replacement,) = due.files
    new = replacement.new
    assert replacement.still == (None,), "what somebody else writes there meanwhile would be lost"
    assert (new.path, new.uid, new.gid, new.mode) == (path, 0, 0, 0o640)
    assert _ispmail_optionfile.parse(new.content)["client"] == {"user": "mailserver", "password": "new;#pass"}


def test_an_option_file_as_it_should_be(tmp_path):
    written(tmp_path / "a.cnf")
    assert _ispmail_consumers.compare(of(program("a", tmp_path))) == ((), {})


@pytest.mark.parametrize(
    ("user", "password", "changes"),
    [
        ("mailserver", "old", {"password": {"old": "***", "new": "***"}}),
        ("former", "new;#pass", {"user": {"old": "former", "new": "mailserver"}}),
        (
            "former",
            "old",
            {"user": {"old": "former", "new": "mailserver"}, "password": {"old": "***", "new": "***"}},
        ),
    ],
)
def test_only_what_differs_is_told(tmp_path, user, password, changes):
    written(tmp_path / "a.cnf", user, password)
    assert _ispmail_consumers.compare(of(program("a", tmp_path))).changes == {"consumer:a": changes}


def test_another_layout_is_a_change_too(tmp_path):
    written(tmp_path / "a.cnf")
    (tmp_path / "a.cnf").write_text((tmp_path / "a.cnf").read_text() + "\n")
    layout = {"layout": {"old": "another", "new": "canonical"}}
    assert _ispmail_consumers.compare(of(program("a", tmp_path))).changes == {"consumer:a": layout}


def test_owner_group_and_mode_have_the_names_that_pillar_gives_them(tmp_path):
    written(tmp_path / "a.cnf", mode=0o604)
    os.chown(tmp_path / "a.cnf", NOBODY.pw_uid, NOBODY.pw_gid)
    assert _ispmail_consumers.compare(of(program("a", tmp_path))).changes == {
        "consumer:a": {
            "owner": {"old": "nobody", "new": "root"},
            "group": {"old": grp.getgrgid(NOBODY.pw_gid).gr_name, "new": "root"},
            "mode": {"old": "0604", "new": "0640"},
        }
    }


def test_a_password_of_bytes_that_are_no_utf8(tmp_path):
    due = _ispmail_consumers.compare(of(program("a", tmp_path), password="\udcff"))
    assert b"\xff" in due.files[0].new.content


def refused(*consumers):
    """Why the option files of these consumers are not written, a line each."""
    with pytest.raises(Failed) as raised:
        _ispmail_consumers.compare(of(*consumers))
    head, *reasons = str(raised.value).splitlines()
    assert head == "Nothing was changed:"
    return [reason.removeprefix("- ") for reason in reasons]


def test_what_else_is_in_the_file_stops_the_change_and_all_of_it_is_named(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.cnf").write_text("[client]\nuser=mailserver\nport=3307\nsocket=/x\n")
    assert refused(program("a", tmp_path), program("b", tmp_path)) == [
        f"{tmp_path}/{name}.cnf holds [client] port, [client] socket too, which would be lost: move that to another "
        f"file, or name another file in second:consumers:{name}:option_file"
        for name in "ab"
    ]


def test_a_file_of_somebody_else_is_not_replaced(tmp_path):
    """One without the group is none of ours, and nothing is told of what it holds."""
    (tmp_path / "a.cnf").write_text("[mysqld]\nport=3307\n")
    (tmp_path / "b.cnf").write_text("")
    assert refused(program("a", tmp_path), program("b", tmp_path)) == [
        f"{tmp_path}/{name}.cnf is there and has no group [client]: move it away, or name another file" for name in "ab"
    ]


def test_where_others_could_put_a_file_of_theirs_none_is_written(tmp_path):
    """Those that could be written are not, either."""
    written(tmp_path / "a.cnf", password="old")
    (tmp_path / "theirs.cnf").write_text("[mysqld]\nport=3307\n")
    (tmp_path / "b.cnf").symlink_to(tmp_path / "theirs.cnf")
    folder = tmp_path / "theirs"
    folder.mkdir()
    folder.chmod(0o777)
    fix = "name a file in a directory of root's"
    assert refused(program("a", tmp_path), program("b", tmp_path), program("c", folder)) == [
        f"{tmp_path}/b.cnf cannot be written safely by root, it is a link: {fix}",
        f"{folder}/c.cnf cannot be written safely by root, others than root may write in {folder}: {fix}",
    ]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"user": "no-such"}, "there is no user no-such, who is to own .*a.cnf: create it first"),
        ({"group": "no-such"}, "there is no group no-such, which is to read .*a.cnf: create it first"),
        ({"option_file": "/no-such/a.cnf"}, "the directory of /no-such/a.cnf does not exist: install a first"),
    ],
)
def test_what_has_to_be_there_first(tmp_path, values, reason):
    with pytest.raises(CannotAsk, match=reason):
        _ispmail_consumers.compare(of(program("a", tmp_path, **values)))


def test_who_does_not_use_the_password_that_pillar_has(tmp_path):
    written(tmp_path / "a.cnf")
    written(tmp_path / "b:c.cnf", password="old")
    (tmp_path / "has").write_text('$password = "new;#pass";')
    (tmp_path / "has not").write_text('$password = "old";')
    files = tuple(str(tmp_path / name) for name in ("has", "has not", "is missing"))
    of_another = program("web", tmp_path, option_file=None, holds=files, sls="webmail.config")
    by_hand = program("hand", tmp_path, option_file=None, holds=(files[1],))
    ignored = program("known", tmp_path, option_file=None, holds=(files[1],), ignore=True)
    found = of(program("a", tmp_path), program("b:c", tmp_path), of_another, by_hand, ignored)
    no = "does not hold the password that pillar has"
    assert _ispmail_consumers.unready(found) == [
        "second:consumers:b:c: its option file is not as pillar says: apply first",
        f"second:consumers:web:holds: {files[1]} {no}: see what webmail.config writes",
        f"second:consumers:web:holds: {files[2]} is not there: see what webmail.config writes",
        f"second:consumers:hand:holds: {files[1]} {no}: write it there",
    ]


def test_the_logins_that_are_live(tmp_path):
    """An ignored one is nobody's business, whatever comes after it."""
    written(tmp_path / "a.cnf", "former", "old")
    (tmp_path / "has").write_text("new;#pass")
    (tmp_path / "has not").write_text("old")
    assert _ispmail_consumers.live_logins(
        of(
            program("ignored", tmp_path, ignore=True),
            program("a", tmp_path),
            program("none", tmp_path),
            program("has", tmp_path, option_file=None, holds=(str(tmp_path / "has"),)),
            program("not", tmp_path, option_file=None, holds=(str(tmp_path / "has"), str(tmp_path / "has not"))),
        )
    ) == {
        "consumer:a": ("former", "old"),
        "consumer:none": (None, None),
        "consumer:has": ("mailserver", "new;#pass"),
        "consumer:not": ("mailserver", None),
    }


def test_what_a_removal_leaves(tmp_path):
    written(tmp_path / "a.cnf")
    other = program("c", tmp_path, option_file=None)
    assert _ispmail_consumers.left_behind(of(program("a", tmp_path), program("b", tmp_path), other)) == [
        f"{tmp_path}/a.cnf was left, because a logs in by it: delete it when nothing names it any more"
    ]


def test_a_program_without_a_configuration_to_look_at_is_not_misconfigured(tmp_path):
    consumers = of(program("a", tmp_path))
    assert _ispmail_consumers.misconfigured(consumers) == []
    _ispmail_consumers.check(consumers)


@pytest.fixture
def dovecot(tmp_path, monkeypatch):
    """A function that makes what doveconf prints: there are two kinds of Dovecot, and one at most is installed."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    script = tmp_path / "doveconf"

    def prints(text):
        script.write_text(
            f"#!/bin/sh\n[ \"$*\" = '-n -c /etc/dovecot/dovecot.conf' ] || exit 1\ncat <<'X'\n{text}\nX\n"
        )
        script.chmod(0o755)
        return of(program("dovecot", tmp_path, config_file="/etc/dovecot/dovecot.conf"))

    return prints


NEW = "# 2.4.1-4 (7d8c0e5759): /etc/dovecot/dovecot.conf\nmysql db {{\n{}}}"
OLD = "# 2.3.19.1 (9b53102964): /etc/dovecot/dovecot.conf\n" + "passdb {{\n  args = {}\n  driver = sql\n}}\n" * 2


def test_a_new_dovecot_has_to_name_the_option_file(dovecot, tmp_path):
    named = f"  option_file = {tmp_path}/dovecot.cnf\n"
    consumers = dovecot(NEW.format(named))
    _ispmail_consumers.check(consumers)
    assert _ispmail_consumers.misconfigured(consumers) == []
    consumers = dovecot(NEW.format("  user = mailserver\n"))
    (fault,) = _ispmail_consumers.misconfigured(consumers)
    assert fault.startswith(f"second:consumers:dovecot: the block mysql db does not log in by {tmp_path}/dovecot.cnf. ")
    with pytest.raises(Failed) as raised:
        _ispmail_consumers.check(consumers)
    assert str(raised.value) == f"Nothing was changed, a consumer would not use the password:\n- {fault}"
    assert _ispmail_consumers.misconfigured(dovecot(NEW.format("  user = mailserver_b\n"))) == [fault]
    written(tmp_path / "dovecot.cnf")
    assert _ispmail_consumers.unready(consumers) == [fault]
    with pytest.raises(CannotAsk, match="as whom Dovecot logs in cannot be told: the block mysql db takes a value"):
        _ispmail_consumers.misconfigured(dovecot(NEW.format("  user = $ENV:X\n")))


def test_an_old_dovecot_has_to_name_it_in_each_file_with_sql_settings(dovecot, tmp_path):
    """They may hold passwords of bytes that are no UTF-8."""
    names = [tmp_path / name for name in ("a.ext", "b.ext")]
    consumers = dovecot(OLD.format(*names))
    names[0].write_bytes(b"connect = host=db user=mailserver password=\xff\n")
    names[1].write_text("connect = host=db user=mailserver\n")
    found = _ispmail_consumers.misconfigured(consumers)
    assert [line.split(" does not log in by ")[0] for line in found] == [
        f"second:consumers:dovecot: {name}" for name in names
    ]
    for name in names:
        name.write_text(f"connect = host=db option_file={tmp_path}/dovecot.cnf\n")
    assert _ispmail_consumers.misconfigured(consumers) == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "{path}, which /etc/dovecot/dovecot.conf names, is not there: see what doveconf -n prints"),
        (
            "!include more\n",
            "{path}: as whom Dovecot logs in cannot be told: line 1 includes another file: write what that says in "
            "this one",
        ),
        (
            "connect = host=a option_file=old.cnf\n",
            "{path} names an option file by no absolute path: write its whole path",
        ),
    ],
)
def test_a_file_with_sql_settings_that_cannot_be_looked_at(dovecot, tmp_path, content, reason):
    path = tmp_path / "a.ext"
    if content:
        path.write_text(content)
    with pytest.raises(CannotAsk) as raised:
        _ispmail_consumers.misconfigured(dovecot(OLD.format(path, path)))
    assert str(raised.value) == reason.format(path=path)


def test_an_sql_file_without_an_absolute_path(dovecot):
    with pytest.raises(CannotAsk) as raised:
        _ispmail_consumers.misconfigured(dovecot(OLD.format("/x", "y")))
    reason = (
        "/etc/dovecot/dovecot.conf: as whom Dovecot logs in cannot be told: args in a block passdb has no absolute path"
    )
    assert str(raised.value) == reason


@pytest.mark.parametrize("content", ["[client]\nuser = mailserver\n", "!include {more}\n"])
def test_a_login_by_another_option_file_with_the_account(dovecot, tmp_path, monkeypatch, content):
    """It was taken for another account's, and passed over beside a file that names ours."""
    good, bad, own, more = [tmp_path / name for name in ("good.ext", "bad.ext", "own.cnf", "more.cnf")]
    consumers = dovecot(OLD.format(good, bad))
    good.write_text(f"connect = host=a option_file={tmp_path}/dovecot.cnf\n")
    bad.write_text(f"connect = host=a option_file={own}\n")
    more.write_text("[client]\nuser = mailserver\n")
    own.write_text(content.format(more=more))
    (fault,) = _ispmail_consumers.misconfigured(consumers)
    assert f"{bad} does not log in by {tmp_path}/dovecot.cnf" in fault
    own.write_text("[client]\nuser = other\n")
    assert _ispmail_consumers.misconfigured(consumers) == []
    # Without any the client library reads those of the system.
    monkeypatch.setattr(_ispmail_option_users, "_DEFAULT_FILES", (str(more),))
    bad.write_text("connect = host=a\n")
    assert len(_ispmail_consumers.misconfigured(consumers)) == 1
    bad.write_text("connect = host=a user=other\n")
    assert _ispmail_consumers.misconfigured(consumers) == []
