"""What a command wrote to stderr is shown without what it quotes of a configuration file."""

import pytest

import ispmail_command

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
    ("db_common_parse: /a.cf: Invalid query template: SELECT SECRET %q", "Invalid query template"),
    ("connect to pgsql server postgresql://u:SECRET@db/m: no", "connect to pgsql server postgresql://***@db/m: no"),
    ("(using password: SECRET)", "(using password: ***"),
    ("a password: YES) SECRET", "a password: ***"),
    ("Access denied for user 'mailserver password = SECRET'@'h'", "Access denied for user 'mailserver password = ***'"),
]


@pytest.mark.parametrize(("line", "shown"), SAID)
def test_nothing_of_a_configuration_file_is_shown(line, shown):
    safe = ispmail_command.safe(line)
    assert "SECRET" not in safe and shown in safe


KEPT = [
    "connect to mysql server 127.0.0.1:3306: Can't connect to server on '127.0.0.1' (115)",
    "table mysql:/etc/postfix/a.cf: query failed: Table 'mailserver.x' doesn't exist",
    "connect to mysql server db: Access denied for user 'mailserver'@'127.0.0.1' (using password: YES)",
    "open /etc/postfix/main.cf: No such file or directory",
]


@pytest.mark.parametrize("line", KEPT)
def test_what_an_admin_needs_is_kept(line):
    assert ispmail_command.safe(line) == line


def test_bytes_that_are_no_utf_8_can_be_sent():
    assert ispmail_command.safe("a\udcffb") == "a\ufffdb"


def test_another_user_gets_nothing_of_ours(monkeypatch):
    """That user's other processes can look into it: environment, working directory, terminal."""
    monkeypatch.setenv("VAULT_TOKEN", "SECRET")
    done = ispmail_command.run("sh", ["-c", "id -un; pwd; env; ps -o sid= -p $$; echo $$"], user="nobody")
    name, directory, *environment, session, process = done.stdout.split("\n")[:-1]
    assert (name, directory) == ("nobody", "/")
    assert {line.partition("=")[0] for line in environment} <= {"PATH", "LC_ALL", "PWD", "SHLVL", "_", "OLDPWD"}
    assert session.strip() == process
