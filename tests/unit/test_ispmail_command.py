"""How a command is run, why it failed, and that nothing which it quotes of a configuration file is shown."""

import inspect
import os
import pwd
import shlex
import subprocess
from types import SimpleNamespace

import pytest

import _ispmail_command
from _ispmail_command import Done
from _ispmail_errors import CannotAsk

# As Postfix 3.7 to 3.11 write them.
SAID = [
    ("/a.cf, line 2: missing '=' after attribute name: \"password SECRET\"", "/a.cf, line 2: missing '=' after"),
    ('/a.cf, line 2: missing attribute name: "= SECRET"', "/a.cf, line 2: missing attribute name"),
    ('/a.cf: logical line must not start with whitespace: " password = SECRET"', "must not start with whitespace"),
    ("/a.cf, line 3: overriding earlier entry: password=SECRET", "/a.cf, line 3: overriding earlier entry: password"),
    ("/a.cf, line 3: overriding earlier entry: pass word=SECRET", "/a.cf, line 3: overriding earlier entry"),
    ("/a.cf: unused parameter: pasword=SECRET", "/a.cf: unused parameter: pasword"),
    ("/a.cf: bad string length 0 < 1: dbname = SECRET", "/a.cf: bad string length 0 < 1: dbname"),
    ("/a.cf: bad numerical configuration: expansion_limit = SECRET", "bad numerical configuration: expansion_limit"),
    ("/a.cf: bad boolean configuration: tls_verify_cert = SECRET", "bad boolean configuration: tls_verify_cert"),
    ("db_common_parse: /a.cf: Invalid query template: SELECT SECRET %q", "/a.cf: Invalid query template"),
    ("connect to pgsql server postgresql://u:SECRET@db/m: no", "connect to pgsql server postgresql://***@db/m: no"),
    ("connect to pgsql server postgresql://u:S/SECRET@db/m: no", "connect to pgsql server postgresql://***@db/m: no"),
    ("(using password: SECRET)", "(using password: ***"),
    ("parameter trigger_timeout: bad time value or unit: SECRET", "parameter trigger_timeout: bad time value or unit"),
    ("file /a/main.cf: parameter mail_owner: unknown user name value: SECRET", "parameter mail_owner: unknown user"),
    ("fatal: config variable inet_interfaces: host not found: SECRET", "config variable inet_interfaces: host not"),
    (
        "config variable inet_interfaces: no local interface found for SECRET",
        "inet_interfaces: no local interface found",
    ),
    ('warning: truncated macro reference: "${SECRET"', "truncated macro reference"),
    ('fatal: malformed compatibility level syntax: "SECRET"', "malformed compatibility level syntax"),
    ('fatal: unknown inet_protocols value "SECRET" in "SECRET"', "unknown inet_protocols value"),
    ("fatal: maillog_file value 'SECRET' does not match any prefix", "maillog_file value"),
    ("warning: valid_hostname: invalid character 33(decimal): SECRET", "valid_hostname: invalid character 33(decimal)"),
    ("""warning: main.cf: missing '}' in "{SECRET\"""", "main.cf: missing '}' in"),
    ('fatal: bad syntax: "inline:{SECRET"; need "inline:{name=value...}"', "bad syntax"),
    ('bad UTF-8 syntax: "inline:{SECRET"', "bad UTF-8 syntax"),
    ("""fatal: bad static:name syntax: missing '}' in "{SECRET\"""", "bad static:name syntax"),
    ('warning: cidr map {{SECRET x}}, line 1: bad address pattern: "SECRET"', "cidr map"),
    ('fatal: invalid type field "foo" in "SECRET foo - - n - - x"', "invalid type field"),
    ('x: ":" expected at: "...SECRET}>>>}"', '":" expected at'),
    ('attribute name syntax error at: "...SECRET>>>"', "attribute name syntax error at"),
    ("a parameter setting must not contain multiple values: SECRET", "a parameter setting must not contain multiple"),
    ("bad bounce_template value: SECRET; specify exactly one value", "bad bounce_template value"),
    ('/a.cf, line 3: unsupported syntax "SECRET"', "/a.cf, line 3: unsupported syntax"),
    ("a password: YES) SECRET", "a password: ***"),
    ("Access denied for user 'mailserver password = SECRET'@'h'", "Access denied for user 'mailserver password = ***'"),
]


@pytest.mark.parametrize(("line", "shown"), SAID)
def test_nothing_of_a_configuration_file_is_shown(line, shown):
    safe = _ispmail_command.safe(line)
    assert "SECRET" not in safe and shown in safe


KEPT = [
    "connect to mysql server 127.0.0.1:3306: Can't connect to server on '127.0.0.1' (115)",
    "table mysql:/etc/postfix/a.cf: query failed: Table 'mailserver.x' doesn't exist",
    "connect to mysql server db: Access denied for user 'mailserver'@'127.0.0.1' (using password: YES)",
    "open /etc/postfix/main.cf: No such file or directory",
    "table mysql:/a.cf: query failed: Incorrect string value: '\\xF0' for column `mailserver`.`x`.`y` at row 1",
    'table pgsql:/a.cf: query failed: ERROR:  syntax error at or near "SELEC"',
]


@pytest.mark.parametrize("line", KEPT)
def test_what_an_admin_needs_is_kept(line):
    assert _ispmail_command.safe(line) == line


def test_bytes_that_are_no_utf_8_can_be_sent():
    assert _ispmail_command.safe("a\udcffb") == "a\ufffdb"


def test_groups_of_another_user(monkeypatch):
    """smtpd has all groups of mail_owner, virtual(8) only the primary one."""
    first = pwd.getpwnam("nobody").pw_gid
    monkeypatch.setattr(os, "getgrouplist", lambda user, group: [group, 12345])
    for only, expected in ((False, f"{first} 12345"), (True, f"{first}")):
        assert _ispmail_command.run("id", ["-G"], user="nobody", primary_group_only=only).stdout.strip() == expected
    assert _ispmail_command.run("id", ["-G"], user="nobody").stdout.strip() == f"{first} 12345"
    assert _ispmail_command.as_user("nobody")["extra_groups"] == [first, 12345]


def test_another_user_gets_nothing_of_ours(monkeypatch):
    """That user's other processes can look into it: environment, working directory, terminal."""
    monkeypatch.setenv("VAULT_TOKEN", "SECRET")
    done = _ispmail_command.run("sh", ["-c", "id -un; pwd; env; ps -o sid= -p $$; echo $$"], user="nobody")
    name, directory, *environment, session, process = done.stdout.split("\n")[:-1]
    assert (name, directory) == ("nobody", "/")
    assert {line.partition("=")[0] for line in environment} <= {"PATH", "LC_ALL", "PWD", "SHLVL", "_", "OLDPWD"}
    assert session.strip() == process


def test_what_a_command_inherits(monkeypatch):
    """MAIL_CONFIG would change what is asked; a plain user's PATH has no sbin."""
    for name, value in {"MAIL_CONFIG": "/x", "LC_ALL": "de_DE.UTF-8", "EMAIL_": "y", "PATH": "/usr/bin:/bin"}.items():
        monkeypatch.setenv(name, value)
    done = _ispmail_command.run("sh", ["-c", "env"], environment={"MAIL_VERBOSE": "1"})
    found = dict(line.split("=", 1) for line in done.stdout.splitlines())
    expected = {"LC_ALL": "C", "EMAIL_": "y", "PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "MAIL_VERBOSE": "1"}
    assert found.items() >= expected.items() and "MAIL_CONFIG" not in found


def test_what_is_no_utf_8_is_passed_on_as_it_is():
    assert _ispmail_command.run("cat", [], stdin="a\udcff") == (0, "a\udcff", "")
    assert _ispmail_command.run("sh", ["-c", "printf 'b\\377' >&2; exit 3"]) == (3, "", "b\udcff")


def test_a_command_can_write_to_a_file_of_ours():
    ours, theirs = os.pipe()
    with open(ours, encoding="ascii") as file:
        _ispmail_command.run("sh", ["-c", f"echo x > /dev/fd/{theirs}"], pass_fds=[theirs])
        os.close(theirs)
        assert file.read() == "x\n"


def test_a_command_that_does_not_end_is_stopped():
    assert _ispmail_command.run("sleep", ["5"], timeout=0.6) == (None, "", "no end within 1 s")
    default = inspect.signature(_ispmail_command.run).parameters["timeout"].default
    assert f"did not end within {default} seconds" in _ispmail_command.output.__doc__


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("doveconf", {}, "doveconf is not there: install the package dovecot-core"),
        ("postmap", {}, "postmap is not there: install the package postfix"),
        ("postconf", {}, "postconf cannot be run: Permission denied"),
        ("postconf", {"user": "no such user"}, "there is no user no such user: check mail_owner in main.cf"),
    ],
)
def test_why_a_command_cannot_be_run(tmp_path, name, options, reason):
    (tmp_path / "postconf").write_text("#!/bin/sh\n")
    with pytest.raises(CannotAsk) as caught:
        _ispmail_command.run(name, [], environment={"PATH": str(tmp_path)}, **options)
    assert str(caught.value) == reason


def test_a_process_that_cannot_be_started(monkeypatch):
    def run(*_, **__):
        raise subprocess.SubprocessError("Bad exception data from child")

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(CannotAsk, match=r"^postconf cannot be run: its process could not be started$"):
        _ispmail_command.run("postconf", [])


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("postfix", "echo warning >&2; echo 'fatal: x' >&2; exit 1", "postfix status failed: fatal: x"),
        ("postconf", "echo warning >&2; echo 'fatal: x' >&2; exit 1", "postconf failed: fatal: x"),
        (
            "postconf",
            """echo "postconf: fatal: /etc/postfix/a b.cf, line 6: missing '=' after attribute name: x" >&2; exit 1""",
            "postconf failed: postconf: fatal: /etc/postfix/a b.cf, line 6: missing '=' after attribute name: mend that"
            " line; if the file is a map's, it may also be deleted: the next apply writes it anew",
        ),
        ("postmap", "echo 'password=a secret' >&2; exit 2", "postmap failed: password=***"),
        ("postfix", "exit 3", "postfix status failed: it ended with 3, and wrote why into the mail log"),
    ],
)
def test_why_a_command_failed(script, name, text, reason):
    """The last line of stderr says it; `postfix` alone does not say what was tried."""
    script(name, text)
    with pytest.raises(CannotAsk) as caught:
        _ispmail_command.output(name, ["-c", "/x", "status"])
    assert str(caught.value) == reason


def test_what_a_command_printed(script):
    script("postconf", "echo warning >&2; echo a = b")
    assert _ispmail_command.output("postconf", ["-n"]) == "a = b\n"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["-q", "x", "mysql:DIRECTORY/a.cf"], "a.cf"),
        (["-c", "DIRECTORY", "-n"], "main.cf"),
        (["-c", "DIRECTORY"], "main.cf"),
        (["-c", "DIRECTORY", "-q", "x", "mysql:DIRECTORY/a.cf"], "main.cf"),
        (["-c", "/nonexistent", "-q", "x", "mysql:DIRECTORY/a.cf"], "a.cf"),
        # A question, or the last argument, that looks like something else.
        (["-q", "x:a.cf"], None),
        (["-q", "-c"], None),
        (["-n"], None),
    ],
)
def test_a_file_that_is_changed_again_and_again_is_named(tmp_path, monkeypatch, arguments, named):
    """All programs of Postfix wait while one is written more often than every two seconds."""
    monkeypatch.chdir(tmp_path)
    for name in ("main.cf", "a.cf"):
        (tmp_path / name).touch()
    reason = _ispmail_command._why_no_end([each.replace("DIRECTORY", str(tmp_path)) for each in arguments], 10)
    if named:
        assert reason.startswith(f"{tmp_path / named} is changed again and again by another program, ")
        assert f"(auditctl -w {tmp_path / named} -p wa, then ausearch -f {tmp_path / named}, tells" in reason
    else:
        assert reason == "no end within 10 s"


@pytest.mark.parametrize(("age", "is_new"), [(-3, False), (-2.5, True), (2.5, True), (3, False), (3.5, False)])
def test_how_new_a_file_is_for_which_postfix_waits(tmp_path, monkeypatch, age, is_new):
    """Two seconds, which Postfix counts in whole ones; one dated far into the future is not being written."""
    path = tmp_path / "a.cf"
    path.touch()
    os.utime(path, (1000, 1000))
    monkeypatch.setattr(_ispmail_command, "time", SimpleNamespace(time=lambda: 1000 + age))
    assert _ispmail_command._why_no_end([f"mysql:{path}"], 10).startswith(str(path)) is is_new


@pytest.mark.parametrize(
    ("text", "lines"),
    [("", []), ("\n", [""]), ("a", ["a"]), ("a\n\nb\n", ["a", "", "b"]), ("a\u2028b\n", ["a\u2028b"])],
)
def test_the_lines_of_an_output(text, lines):
    assert _ispmail_command.lines(text) == lines


def test_what_was_printed_is_not_in_a_traceback():
    assert repr(Done(1, "SECRET", "SECRET")) == "Done(returncode=1)"


WHERE = "Error in configuration file /etc/dovecot/d.conf"
OF_DOVECONF = [
    (f"Fatal: {WHERE} line 1: Invalid number SECRET: Not a valid number", f"{WHERE} line 1: Invalid number: "),
    (f"Fatal: {WHERE} line 1: Invalid value: SECRET", f"{WHERE} line 1: Invalid value: "),
    (f"Fatal: {WHERE} line 1: Unknown setting: SECRET {{ x", f"{WHERE} line 1: Unknown setting: "),
    (f"Fatal: {WHERE} line 1: Expecting '{{'", f"{WHERE} line 1: Expecting '{{': "),
    (f"Fatal: {WHERE} line 2: gethostbyname(SECRET) failed: Name or service not known", f"{WHERE} line 2: "),
    (f"Fatal: {WHERE}: protocols: Unknown protocol: SECRET", f"{WHERE}: protocols: Unknown protocol: "),
    (f"Fatal: {WHERE}: ssl_min_protocol: SECRET", f"{WHERE}: ssl_min_protocol: "),
    (f"Fatal: {WHERE}: SECRET: x", f"{WHERE}: "),
    (f"Fatal: {WHERE}: sesame: SECRET", f"{WHERE}: "),
    ("Fatal: open(/d.conf) failed: No such file or directory", "open(/d.conf) failed: No such file or directory: "),
    ("Panic: SECRET", ""),
]


@pytest.mark.parametrize(("line", "shown"), OF_DOVECONF)
def test_what_doveconf_quotes_is_not_shown(script, line, shown):
    script("doveconf", f"printf '%s\\n' {shlex.quote(f'doveconf: {line}')} >&2; exit 89")
    with pytest.raises(CannotAsk) as caught:
        _ispmail_command.output("doveconf", ["-n", "-c", "/d.conf"])
    fix = "run doveconf -n -c /d.conf on this server to see what it quotes"
    assert str(caught.value) == f"doveconf failed: {shown}{fix}"
