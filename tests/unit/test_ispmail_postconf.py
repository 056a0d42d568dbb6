"""Reading and editing main.cf by the real postconf, in a folder that no Postfix runs on; what it may print or not."""

import os
import re
import shutil
import tempfile
import time

import pytest

import _ispmail_postconf
from _ispmail_command import output
from _ispmail_errors import CannotAsk, Failed, InvalidInput
from _ispmail_files import File, Replacement
from _ispmail_postconf import Service
from lab.postfix import write_cold

MAIN_CF = "# ours\ncompatibility_level = 3.6\nmyhostname = a.test\nmy_class = check_x\n    y\n"


@pytest.fixture
def folder(tmp_path):
    """A configuration directory."""
    path = tmp_path / "etc"
    path.mkdir()
    write_cold(path / "main.cf", MAIN_CF)
    write_cold(path / "master.cf", "")
    return path


@pytest.fixture
def watched(script, tmp_path):
    """A postconf that first writes down where main.cf is, its mode, its age in seconds, and what is to be done."""
    real = shutil.which("postconf", path="/usr/sbin:/sbin")
    log = tmp_path / "postconf.log"
    note = f'echo "$2 $(stat -c %a main.cf) $(($(date +%s) - $(stat -c %Y main.cf))) $(shift 2; echo "$@")" >>{log}'
    script("postconf", f'cd "$2"; {note}; exec {real} "$@"')
    return lambda: [line.split() for line in log.read_text().splitlines()]


def test_all_that_main_cf_sets(folder):
    """And where main.cf is; not an own parameter that no other one uses."""
    expected = {"compatibility_level": "3.6", "myhostname": "a.test", "config_directory": str(folder)}
    assert _ispmail_postconf.get(None, str(folder)) == expected


@pytest.mark.parametrize(
    ("names", "defaults", "found"),
    [
        ([], False, {}),
        ([], True, {}),
        (["relay_domains", "myhostname"], False, {"myhostname": "a.test"}),
        (["virtual_alias_maps", "myhostname"], True, {"virtual_alias_maps": "$virtual_maps", "myhostname": "a.test"}),
        # postconf is silent on an unused one of the admin's own, so that each apply would set it again.
        (["none", "my_class"], False, {"my_class": "check_x y"}),
        (["none", "my_class"], True, {"my_class": "check_x y"}),
    ],
)
def test_parameters_by_their_names(folder, names, defaults, found):
    assert list(_ispmail_postconf.get(names, str(folder), defaults=defaults).items()) == list(found.items())


def test_all_parameters_with_their_defaults(folder):
    found = _ispmail_postconf.get(None, str(folder), defaults=True)
    assert (found["myhostname"], found["mail_owner"]) == ("a.test", "postfix") and len(found) > 500


def test_what_postconf_did_not_print_is_not_taken_for_unset(folder, script):
    """It exits with 0 also where it could not write, as on a full disk."""
    script("postconf", "echo myhostname = a.test")
    for names in (None, ["myhostname"]):
        with pytest.raises(CannotAsk, match=f"did not print all that it was asked for: run postconf -c {folder} -n$"):
            _ispmail_postconf.get(names, str(folder))
    script("postconf", "echo mail_release_date = 1; echo myhostname = a.test")
    assert _ispmail_postconf.get(["myhostname"], str(folder), defaults=True) == {"myhostname": "a.test"}
    with pytest.raises(CannotAsk, match=f"postconf did not print all parameters: run postconf -c {folder}$"):
        _ispmail_postconf.get(None, str(folder), defaults=True)
    script("postconf", "exit 0")
    with pytest.raises(CannotAsk, match=r"printed no type of table: run postconf -m$"):
        _ispmail_postconf.table_types(str(folder))


def test_where_there_is_no_main_cf():
    with pytest.raises(CannotAsk, match=r"^there is no /nowhere/main\.cf: is Postfix installed"):
        _ispmail_postconf.get(None, "/nowhere")
    with pytest.raises(InvalidInput, match=r"not the name of a parameter: '-e'$"):
        _ispmail_postconf.get(["-e"], "/nowhere")


def test_defaults_are_not_what_main_cf_sets(folder):
    write_cold(folder / "main.cf", "compatibility_level = 3.6\nmail_owner = mail\n")
    assert _ispmail_postconf.defaults(["mail_owner", "none", "mail_owner"], str(folder)) == {"mail_owner": "postfix"}
    assert _ispmail_postconf.defaults([], str(folder)) == {}


def test_the_services_of_master_cf(folder):
    """A name may be a path; an option is as it stands there: postconf cuts -oproxy=x at each o."""
    lines = [
        "smtp inet n - y - - smtpd -o syslog_name=x -o y=z",
        "/run/x\tunix - - n - - \tlocal\r",
        "# -o a=b",
        "old unix - - - - - pipe a",
        "  # -o c=d",
        "  -oproxy=x\t{ -o y =  z }",
        "old inet - - - - - smtp",
        "old inet - - - - - smtpd",
    ]
    write_cold(folder / "master.cf", "\n".join(lines) + "\n")
    found = _ispmail_postconf.services(str(folder))
    assert found == [
        Service("smtp", "inet", "y", "smtpd -o syslog_name=x -o y=z"),
        Service("/run/x", "unix", "n", "local"),
        Service("old", "unix", "-", "pipe a -oproxy=x { -o y =  z }"),
        Service("old", "inet", "-", "smtpd"),
    ]
    assert [service.program for service in found] == ["smtpd", "local", "pipe", "smtpd"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, r"^there is no {}: is Postfix installed"),
        ("# nothing\n", r"^{} has no service$"),
        ("smtp inet n - y - - smtpd\nold unix - -\n  - - SECRET\n", "^{} has a line without a command: line 2$"),
    ],
)
def test_a_master_cf_that_tells_no_services(folder, text, said):
    path = folder / "master.cf"
    path.unlink() if text is None else write_cold(path, text)
    with pytest.raises(CannotAsk, match=said.format(path)):
        _ispmail_postconf.services(str(folder))


def test_the_types_of_table(folder):
    assert {"inline", "static", "unionmap"} <= set(_ispmail_postconf.table_types(str(folder)))


# As Postfix 3.11 of Debian 14 prints it.
POSTCONF_SAYS = """\
postconf: warning: /etc/main.cf: unused parameter: deprecated_b=will be removed
postconf: warning: /etc/main.cf: unused parameter: b=main.cf: support for parameter "x" will be removed; x: hash/btree \
support is deprecated.
postconf: warning: /etc/main.cf: support for parameter "smtpd_use_tls" will be removed; instead, specify \
"smtpd_tls_security_level"
postconf: warning: /etc/master.cf: unused parameter: deprecated_c=1
postconf: warning: /etc/master.cf: support for parameter "smtp_use_tls" will be removed; instead, specify \
"smtp_tls_security_level"
postconf: warning: See https://www.postfix.org/DEPRECATION_README.html for details
postconf: warning: /etc/main.cf: support for parameter "x" will be removed; password = SECRET
/etc/main.cf: support for parameter "not_a_warning" will be removed; instead, specify "x"
"""
POSTMAP_SAYS = """\
postmap: warning: ${4#*:}: hash/btree support is deprecated.  Please switch to cdb or lmdb.
postmap: warning: See /usr/share/doc/postfix/NON_BERKELEYDB_README.gz for more info.
postmap: warning: /a, line 1: record is in "key: value" format; is this a deprecated file?
"""


def test_what_a_later_release_will_not_have(folder, script):
    """Debian 12's Postfix tells of nothing; newer ones do. A parameter's own name or value is no warning of Postfix's:
    one whose name has "deprecated" in it was reported."""
    script("postconf", f"[ \"$*\" = '-c {folder} -n' ] && cat >&2 <<'END'\n{POSTCONF_SAYS}END")
    script(
        "postmap", f'[ "$1 $2 $3 $4" = "-c {folder} -q postmaster" ] || exit 1\nshift\ncat >&2 <<END\n{POSTMAP_SAYS}END'
    )
    with_secret = '/etc/main.cf: support for parameter "x" will be removed; password = ***'
    removed = 'support for parameter "{}_use_tls" will be removed; instead, specify "{}_tls_security_level"'
    assert _ispmail_postconf.deprecated(str(folder), ["hash:/a", "btree:/b", "btree:/b"]) == [
        *(f"/etc/main.cf: {removed.format('smtpd', 'smtpd')}", f"/etc/master.cf: {removed.format('smtp', 'smtp')}"),
        with_secret,
        *(f"{path}: hash/btree support is deprecated.  Please switch to cdb or lmdb." for path in ("/a", "/b")),
    ]


def test_a_directory_that_belongs_to_nobody_is_refused(folder, tmp_path, monkeypatch):
    """A caller could have any file edited else."""
    monkeypatch.setattr(_ispmail_postconf, "DEFAULT_DIRECTORY", str(folder))
    write_cold(
        folder / "main.cf",
        f"compatibility_level = 3.6\nmulti_instance_directories = {tmp_path}/b/, {tmp_path}/c\n"
        f"alternate_config_directories = {tmp_path}/d\n",
    )
    for name in ("etc", "etc/", "a", "a/./", "b", "c/", "d"):
        given = f"{tmp_path}/{name}"
        assert _ispmail_postconf.known_directory(given, [f"{tmp_path}/a"]) == os.path.normpath(given)
    for given in (f"{tmp_path}/e", f"{tmp_path}/b/x", f"{tmp_path}", "", None, 5, ["x"]):
        with pytest.raises(InvalidInput, match=f"^config_directory must be {folder}, one that pillar names"):
            _ispmail_postconf.known_directory(given, [f"{tmp_path}/a"])


def test_without_a_postfix_only_what_pillar_names_is_known(monkeypatch):
    monkeypatch.setattr(_ispmail_postconf, "DEFAULT_DIRECTORY", "/nowhere")
    assert _ispmail_postconf.known_directory("/nowhere") == "/nowhere"
    with pytest.raises(InvalidInput):
        _ispmail_postconf.known_directory("/a")


def test_passwords_are_not_shown(folder):
    """Neither those that stand in main.cf itself, nor where a parameter with passwords refers to another."""
    text = (
        "compatibility_level = 3.6\nsmtp_sasl_password_maps = $one\none = $two\ntwo = inline:{a=SECRET} $myhostname\n"
    )
    write_cold(folder / "main.cf", text)
    values = {"one": "static:SECRET", "two": "inline:{a=SECRET}", "three": "static:x", "four": None, "x_password": "S"}
    assert _ispmail_postconf.shown(values, str(folder)) == {
        "one": "static:***",
        "two": "inline:***",
        "three": "static:x",
        "four": None,
        "x_password": "***",
    }


@pytest.mark.parametrize("option", ["-o smtp_sasl_password_maps=$x", "-vosmtp_sasl_password_maps=$x"])
def test_passwords_that_an_option_or_a_new_value_leads_to_are_not_shown(folder, option):
    """A service may ask for a relay's password by an option, and a parameter may become one that holds passwords."""
    write_cold(folder / "master.cf", f"smtp unix - - n - - smtp\n  {option.replace('$x', '$of_service')}\n")
    values = {"of_service": "static:SECRET", "new": "static:SECRET", "lmtp_sasl_password_maps": "$new", "x": "static:x"}
    told = {**values, "of_service": "static:***", "new": "static:***"}
    assert _ispmail_postconf.shown(values, str(folder)) == told
    assert _ispmail_postconf.differences(values, {**dict.fromkeys(values), "new": "static:SECRET"}, str(folder)) == {
        **{name: {"old": told[name], "new": None} for name in values},
        "new": {"old": "static:***", "new": "static:***"},
    }
    # The history tells of a Postfix that is no longer there, too.
    (folder / "main.cf").unlink()
    (folder / "master.cf").unlink()
    assert _ispmail_postconf.shown(values, str(folder))["new"] == "static:***"


# Values that postconf might read in another way than as a text.
ODD = [
    "",
    "#x",
    "a  b",
    "{ x }",
    "= x",
    "$$x ${a?{b}}",
    "\u00e9",
    "\udce9",
    "\\",
    "'\"",
    "a\tb",
    "\x01",
    "-e",
    "static:u:p",
]


@pytest.mark.parametrize("name", ["myhostname", "my_class", "continued", "twice", "new"])
def test_an_edit_is_that_of_postconf(folder, tmp_path, name):
    """It sees a word in place of the value; all else in main.cf is as it leaves it."""
    before = f"{MAIN_CF}# comment\ncontinued = x\n  y\n# inside\n  z\ntwice = 1\ntwice = 2\n"
    own = tmp_path / "own"
    own.mkdir()
    for value in ODD:
        for directory in (folder, own):
            write_cold(directory / "main.cf", before)
        ours = _ispmail_postconf.edited({name: value}, str(folder)).new.content
        output("postconf", ["-c", str(own), "-e", f"{name}={value}"])
        assert ours == (own / "main.cf").read_bytes(), value


def test_no_value_is_in_an_argument(folder, watched):
    """They may be passwords, such as a relay's, which stands beside a table of ours; anybody can read arguments."""
    after = _ispmail_postconf.edited({"own": "static:SECRET", "myhostname": None, "x": "S2"}, str(folder)).new.content
    assert b"\nown = static:SECRET\n" in after and b"\nx = S2\n" in after and b"ispmail-" not in after
    (_, _, _, flag, *edits), (*_, removal) = watched()
    assert flag == "-e" and removal == "myhostname"
    assert [re.fullmatch("(own|x)=ispmail-[0-9a-f]{32}", each)[1] for each in edits] == ["own", "x"]


@pytest.mark.parametrize(
    ("before", "parameters", "after"),
    [
        (MAIN_CF, {"myhostname": "b.test"}, MAIN_CF.replace("a.test", "b.test")),
        (MAIN_CF, {"myhostname": None}, MAIN_CF.replace("myhostname = a.test\n", "")),
        (MAIN_CF, {"biff": False, "my_class": None}, MAIN_CF.partition("my_class")[0] + "biff = no\n"),
        # postconf 3.7 would glue the new parameter to the last line.
        ("myhostname = a.test", {"biff": True}, "myhostname = a.test\nbiff = yes\n"),
        ("", {"biff": True}, "biff = yes\n"),
        (MAIN_CF, {}, MAIN_CF),
    ],
)
def test_an_edit_is_made_on_a_copy(folder, before, parameters, after):
    write_cold(folder / "main.cf", before)
    replacement = _ispmail_postconf.edited(parameters, str(folder))
    assert replacement.new.path == str(folder / "main.cf") and replacement.new.content == after.encode()
    assert replacement.still == (before.encode(),) and replacement.lock is True
    assert (folder / "main.cf").read_text() == before


def test_the_copy_is_private_and_no_program_waits_for_it(folder, tmp_path, watched):
    """main.cf may hold passwords, and Postfix's programs pause while it is less than two seconds old."""
    workspace = tmp_path / "work"
    workspace.mkdir()
    _ispmail_postconf.edited({"myhostname": None, "biff": "no"}, str(folder), str(workspace))
    (where, mode, *first), (again, _, *second) = watched()
    assert where == again and where.startswith(f"{workspace}/postconf-") and mode == "600"
    assert [action for _, action, _ in (first, second)] == ["-e", "-X"]
    assert all(2 < int(age) < 60 for age, _, _ in (first, second))
    assert list(workspace.iterdir()) == []


def test_nowhere_to_copy_it(folder, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/no/temporary")
    after = Replacement(File("/x", b""))
    for workspace, named in (("/nowhere", "/nowhere"), (None, "/no/temporary")):
        said = f"^{named} cannot hold a copy of main.cf: No such file or directory$"
        with pytest.raises(Failed, match=said):
            _ispmail_postconf.edited({"biff": "no"}, str(folder), workspace)
        with pytest.raises(Failed, match=said):
            _ispmail_postconf.refuse_broken(after, {}, str(folder), workspace)


def refuse_broken(folder, text, parameters, workspace=None):
    after = Replacement(File(str(folder / "main.cf"), text.encode()))
    return _ispmail_postconf.refuse_broken(after, parameters, str(folder), workspace)


def test_postfix_reads_a_copy_that_nobody_else_can(folder, tmp_path, script):
    """As of a while ago: else Postfix's programs wait."""
    seen, where = tmp_path / "seen", tmp_path / "where"
    script("postmap", f'cp -a "$2" {seen}; echo "$2" >{where}')
    began = time.time()
    refuse_broken(folder, "biff = no\n", {"biff": "no", "myhostname": None}, str(tmp_path))
    (path,) = seen.iterdir()
    status = path.stat()
    assert path.name == "main.cf" and path.read_text() == "biff = no\n"
    assert status.st_mode & 0o777 == 0o600 and began - 60 < status.st_mtime < began - 1
    copy = where.read_text().strip()
    assert copy.startswith(f"{tmp_path}/postconf-") and not os.path.exists(copy)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("soft_bounce = perhaps", "bad boolean configuration: soft_bounce"),
        ("default_process_limit = abc", "bad numerical configuration: default_process_limit"),
        ("myhostname =", "bad string length 0 < 1: myhostname"),
        ("mail_owner = root", "{folder}/main.cf: parameter mail_owner: user root has privileged user ID"),
        ("setgid_group = nobody_s", "parameter setgid_group: unknown group name"),
        ("inet_protocols = ipv9", "inet_proto"),
        ("compatibility_level = x", "malformed compatibility level"),
        ("biff", "{folder}/main.cf, line 2: missing '='"),
        ("relay_domains = $relay_domains", "macro processing error"),
    ],
)
def test_what_postfix_would_not_work_with_does_not_go_live(folder, line, reason):
    with pytest.raises(Failed) as caught:
        refuse_broken(folder, f"biff = no\n{line}\n", {"biff": "no", "relayhost": None})
    said = str(caught.value)
    assert said.startswith("Nothing was changed: Postfix refuses main.cf as it would be: ")
    assert reason.format(folder=folder) in said
    assert said.endswith(". These parameters would change: biff, relayhost")


@pytest.mark.parametrize(
    "line", ["virtual_alias_maps = mysql:/nowhere", "mynetworks = bogus", "data_directory = /nowhere"]
)
def test_what_postfix_starts_with_goes_live(folder, line):
    """A table or a network that is wrong is told of by other checks, or by mail."""
    refuse_broken(folder, f"biff = no\n{line}\n", {"biff": "no"})


def test_what_was_not_set_as_asked_does_not_go_live(folder):
    with pytest.raises(Failed, match=r"postconf did not set biff, myhostname in main\.cf as asked: edit it by hand$"):
        refuse_broken(folder, "mail_name = x\nmyhostname = y\n", {"biff": "no", "mail_name": "x", "myhostname": None})


def test_a_postmap_that_says_nothing(folder, script):
    script("postmap", "exit 3")
    with pytest.raises(Failed, match=r"refuses main\.cf as it would be: postmap ended with 3\. These .*: biff$"):
        refuse_broken(folder, "biff = no\n", {"biff": "no"})


def test_a_postmap_that_cannot_tell_is_no_refusal(folder, script, monkeypatch):
    script("postmap", "kill -9 $$")
    with pytest.raises(CannotAsk, match=r"^Nothing was changed: postmap could not read .*: it was ended by signal 9$"):
        refuse_broken(folder, "biff = no\n", {"biff": "no"})
    script("postmap", "sleep 5")
    run = _ispmail_postconf.run
    monkeypatch.setattr(_ispmail_postconf, "run", lambda *arguments: run(*arguments, timeout=0.2))
    with pytest.raises(CannotAsk, match=r"^Nothing was changed: postmap could not read .*: no end"):
        refuse_broken(folder, "biff = no\n", {"biff": "no"})


@pytest.mark.parametrize("test", [True, False])
def test_a_change_is_told_before_and_after_it_is_made(folder, caplog, test):
    caplog.set_level("INFO")
    real = folder / "real.cf"
    (folder / "main.cf").rename(real)
    (folder / "main.cf").symlink_to("real.cf")
    wanted = {"myhostname": None, "biff": False, "x_password": "SECRET", "my_class": "check_x   y", "relayhost": None}
    assert _ispmail_postconf.change(wanted, str(folder), test) == {
        "myhostname": {"old": "a.test", "new": None},
        "biff": {"old": None, "new": "no"},
        "x_password": {"old": None, "new": "***"},
    }
    text = real.read_text()
    assert ("\nbiff = no\n" in text, "\nx_password = SECRET\n" in text, "myhostname" in text) == (
        not test,
        not test,
        test,
    )
    assert (text == MAIN_CF) is test and (folder / "main.cf").is_symlink()
    assert caplog.messages == ([] if test else [f"set in {real}: myhostname, biff, x_password"])


def test_what_is_set_already_is_not_written_again(folder):
    before = (folder / "main.cf").stat().st_ino
    assert _ispmail_postconf.change({"myhostname": "a.test", "biff": None}, str(folder), test=False) == {}
    assert (folder / "main.cf").stat().st_ino == before


def test_what_a_change_that_was_cut_off_has_set_is_told_apart(folder):
    """It does not count, wherever what main.cf sets is read."""
    assert _ispmail_postconf.unsettled(str(folder)) == {}
    before = _ispmail_postconf.explicit(str(folder))
    left = {"proxy_read_maps": "$ispmail_meanwhile", "ispmail_meanwhile": "$virtual_alias_maps, proxy:mysql:/a"}
    write_cold(folder / "main.cf", MAIN_CF + "".join(f"{name} = {value}\n" for name, value in left.items()))
    assert _ispmail_postconf.explicit(str(folder)) == before
    assert _ispmail_postconf.unsettled(str(folder)) == left
