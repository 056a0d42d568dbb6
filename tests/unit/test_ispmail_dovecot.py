"""What doveconf and files of Dovecot say of its logins."""

import pytest

from _ispmail_config_consumers import consumers
from _ispmail_dovecot import faults, is_old, new_connections, old_connections, sql_files

(DOVECOT,) = consumers("ispmail", {"consumers": {"dovecot": {}}})
(OTHER_GROUP,) = consumers("ispmail", {"consumers": {"dovecot": {"option_group": "mail"}}})

# To the letter what doveconf -n of Dovecot 2.3.19 prints.
OLD = """# 2.3.19.1 (9b53102964): /etc/dovecot/dovecot.conf
dict {
  quota = mysql:/etc/dovecot/dict-sql.conf.ext
}
passdb {
  args = /etc/dovecot/dovecot-sql.conf.ext
  driver = sql
}
passdb {
  driver = pam
}
userdb {
  args = /etc/dovecot/users.conf.ext
  driver = sql
}
userdb {
  args = /etc/dovecot/not-sql
  driver = passwd-file
}
"""

# What doveconf -n of Dovecot 2.4.1 prints.
NEW = """# 2.4.1-4 (7d8c0e5759): /etc/dovecot/dovecot.conf
sql_driver = mysql
mysql 127.0.0.1 {
  dbname = mailserver
  option_file = /etc/dovecot/ispmail.cnf
}
passdb sql {
  query = SELECT email as user, password FROM virtual_users WHERE email='%{user}'
}
"""


def of_old(line, consumer=DOVECOT):
    return faults(consumer, ["mailserver"], old_connections("/f", f"driver = mysql\n{line}\n"), old=True)


def of_new(text, consumer=DOVECOT):
    return faults(consumer, ["mailserver"], new_connections(text), old=False)


def test_which_files_dovecot_reads():
    assert is_old(OLD) and not is_old(NEW)
    names = ["dict-sql.conf.ext", "dovecot-sql.conf.ext", "users.conf.ext"]
    assert sql_files(OLD) == [f"/etc/dovecot/{name}" for name in names]


def test_the_option_file_is_named():
    named = "connect = host=127.0.0.1 dbname=mailserver option_file=/etc/dovecot/ispmail.cnf"
    assert (
        of_old(named)
        == of_old(f"{named} # as the manual says")
        == of_old(named.replace(" dbname", " \\\n dbname"))
        == []
    )
    assert of_old(f"{named} option_group=mail", OTHER_GROUP) == of_new(NEW) == []
    grouped = NEW.replace("ispmail.cnf\n", "ispmail.cnf\n  option_group = mail\n")
    assert of_new(grouped, OTHER_GROUP) == []


@pytest.mark.parametrize(
    "line",
    [
        "connect = host=db1 port=3307 dbname=mailserver user=mailserver password=hunter2",
        "connect = host=db1 port=3307 dbname=mailserver user=mailserver password=hun ter2",
        "connect = 'host=db1 port=3307 dbname=mailserver option_file=/etc/dovecot/ispmail.cnf password=hunter2'",
        "connect = host=db1 port=3307 dbname=mailserver option_file=/etc/dovecot/ispmail.cnf user=mailserver",
    ],
)
def test_the_line_to_write_for_2_3(line):
    (fault,) = of_old(line)
    assert fault.startswith("/f ") and "ter2" not in fault
    right = "    connect = host=db1 port=3307 dbname=mailserver option_file=/etc/dovecot/ispmail.cnf"
    assert fault.splitlines()[1:] == [right]
    assert of_old(fault.splitlines()[1]) == []


@pytest.mark.parametrize(
    "inside",
    [
        "  user = mailserver\n  password = # hidden, use -P to show it\n",
        "  option_file = /etc/dovecot/ispmail.cnf\n  password = # hidden, use -P to show it\n",
        "  option_file = /etc/dovecot/ispmail.cnf\n  user = mailserver\n",
    ],
)
def test_the_block_to_write_for_2_4(inside):
    (fault,) = of_new(f"# 2.4.1 (x)\nmysql db1 {{\n  dbname = mailserver\n  port = 3307\n{inside}}}\n")
    block = fault.split("\n", 1)[1]
    inner = ["dbname = mailserver", "port = 3307", "option_file = /etc/dovecot/ispmail.cnf"]
    assert block.splitlines() == ["    mysql db1 {", *(f"      {line}" for line in inner), "    }"]
    assert of_new(f"# 2.4.1 (x)\n{block}\n") == []


def test_a_password_that_all_blocks_of_2_4_share():
    (fault,) = of_new(NEW.replace("sql_driver", "mysql_password = # hidden, use -P to show it\nsql_driver"))
    assert "of its own" in fault


def test_dovecot_without_a_database():
    assert "option_file=/etc/dovecot/ispmail.cnf" in faults(DOVECOT, ["mailserver"], [], old=True)[0]
    assert "Write in /etc/dovecot/dovecot.conf" in faults(DOVECOT, ["mailserver"], [], old=False)[0]
    assert "option_group = mail" in faults(OTHER_GROUP, ["mailserver"], [], old=False)[0]


def test_another_group_of_the_option_file():
    (fault,) = of_old("connect = host=db1 option_file=/etc/dovecot/ispmail.cnf", OTHER_GROUP)
    assert fault.endswith("connect = host=db1 option_file=/etc/dovecot/ispmail.cnf option_group=mail")


def test_logins_of_others_are_left_alone():
    named = old_connections("/f", "connect = host=127.0.0.1 option_file=/etc/dovecot/ispmail.cnf")
    other = old_connections("/g", "connect = host=127.0.0.1 user=quota password=x")
    assert faults(DOVECOT, ["mailserver"], [*named, *other], old=True) == []
    assert len(faults(DOVECOT, ["mailserver"], other, old=True)) == 1, "nothing names the option file"
    assert "/g does not log in by" in faults(DOVECOT, ["mailserver", "quota"], [*named, *other], old=True)[0]
    assert old_connections("/h", "driver = pgsql\nconnect = host=127.0.0.1 user=mailserver password=x") == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("!include /etc/dovecot/secret.ext\n", "line 1 includes another file"),
        ("\n\n!include_try\tmore\n", "line 3 includes another file"),
        ("!inc\\\nlude_try x\nlude=1\n", "line 2 is no setting"),
        ("connect\n", "line 1 is no setting, and neither begins nor ends a block"),
        ("connect = a\n}\n", "line 2 is no setting"),
        ("map {\n}\n}\n", "line 3 is no setting"),
        ("map{\n", "line 1 is no setting"),
        ("map x y {\n", "line 1 is no setting"),
        ("map {\n} # the end\n} x\n", "line 3 is no setting"),
        (" \\\nconnect host=a\n", "line 2 is no setting"),
        ("connect = host=a $ENV:LOGIN\n", "line 1 takes a value from Dovecot's environment"),
        ("connect = $ENV:LOGIN\n", "line 1 takes a value from Dovecot's environment"),
    ],
)
def test_a_login_that_cannot_be_told(content, reason):
    """ "Could not tell" is not "no": the attempt that a rotation makes with the login would not be stopped."""
    with pytest.raises(ValueError, match=reason):
        old_connections("/f", content)


@pytest.mark.parametrize(
    "content",
    [
        "# the old way: \\\nconnect = host=a user=mailserver",
        "connect = host=a\\\nuser=mailserver",
        "connect = host=a \\ \t\n\tuser=mailserver",
        "connect = host=a \\\n# a comment \\\n\n  user=mailserver",
        "connect = host=a \\ # a comment\n  user=mailserver",
        "connect = host=a \\\r\nuser=mailserver\r\n",
        "con\\\n = 1\nconnect = host=a user=mailserver#x\n",
        "connect = host=a user=mailserver\n# user=x \\",
        "connect = host=a user=mailserver\nmap x {\n connect = user=y\n fields {\n  connect = z\n }\n}\n",
        "connect = host=a user=x\nconnect = user=y host=a user=mailserver",
        "connect = 'host=a # user=mailserver'",
        "connect = 'host=a \\\nuser=mailserver'",
        'connect = "host=a us\\er=\\mailserver" # it\'s so',
        "connect = host=a user=mailserver # it's so",
        "connect = host=a password=it's#x user=mailserver",
        "connect = host=a password='#x' user=mailserver",
        "connect = host=a password='it\\'s#x' user=mailserver",
        "connect=host=a user=mailserver\0 user=x",
        "connect = host=a x=$ENV:HOME $HOME user=mailserver",
        "connect = 'host=a $ENV:HOME user=mailserver'",
    ],
)
def test_lines_as_dovecot_reads_them(content):
    """A comment that ended in a backslash took the next line with it, which was the login."""
    (found,) = old_connections("/f", content)
    assert (found.user, found.option_file) == ("mailserver", None)


def test_words_are_between_blanks_alone():
    (found,) = old_connections("/f", "connect = host=a\tpassword=hunter2 user= option_file= port=1")
    # An empty user is none, an empty password is one.
    assert (found.user, found.has_password, found.option_file) == (None, False, None)
    # What is between is not shown: it may be a secret.
    assert found.lines == "connect = port=1 %s"
    (found,) = old_connections("/f", "connect = host=a password=")
    assert found.has_password


def test_settings_and_blocks_that_name_no_file():
    text = """# 2.3.19.1 (9b53102964): /etc/dovecot/dovecot.conf
auth_mechanisms = plain
plugin {
  quota = mysql:/etc/dovecot/not-a-dict
}
dict {
  quota = redis:/host=127.0.0.1
  # quota = mysql:/etc/dovecot/commented-out
}
service auth {
  unix_listener auth {
    mode = 0600
  }
}
passdb {
  driver = sql
  args = /etc/dovecot/sql.ext
}
driver = sql
args = /etc/dovecot/outside
"""
    assert sql_files(text) == ["/etc/dovecot/sql.ext"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dict {\n  expire = mysql:sql.ext\n}\n", "expire in a block dict has no absolute path"),
        ("passdb {\n  driver = sql\n  args = SECRET\n}\n", "args in a block passdb has no absolute path"),
        ("userdb {\n  driver = sql\n}\n", "args in a block userdb has no absolute path"),
        ("passdb {\n  driver = $ENV:X\n}\n", "driver in a block passdb takes its value from elsewhere: write it there"),
        ("passdb {\n  driver = sql\n  args = </f\n}\n", "args in a block passdb takes its value from elsewhere"),
        ("dict {\n  expire = </f\n}\n", "expire in a block dict takes its value from elsewhere: write it there"),
    ],
)
def test_a_file_that_is_not_named_there_cannot_be_looked_at(text, said):
    """It was passed over; and what stands there in place of a path may be a password."""
    with pytest.raises(ValueError, match=f"^{said}"):
        sql_files(text)


def test_doveconf_puts_some_values_into_quotes():
    """It printed a name with # in quotes, and the file was passed over."""
    (path,) = sql_files('passdb {\n  driver = sql\n  args = "/etc/a#\\"b.ext"\n}\n')
    assert path == '/etc/a#"b.ext'


def test_a_file_with_a_blank_in_its_name():
    """Dovecot takes the whole text of args as the name; we looked for "sql.ext", and then at no file."""
    assert sql_files(OLD.replace("dovecot-sql.conf.ext", "my sql.ext"))[1] == "/etc/dovecot/my sql.ext"


@pytest.mark.parametrize(
    ("version", "old"), [("2.3.21", True), ("2.4.0", False), ("2.10", False), ("3.0", False), ("1.9", True)]
)
def test_which_releases_are_old(version, old):
    assert is_old(f"# {version} (x): /etc\n") is old
    assert not is_old(f"dovecot {version}")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("connect = host=a # host=b", ["host=a"]),
        ("# connect = host=b\nconnect = host=a", ["host=a"]),
        ("connect = 'host=a # dbname=b'", ["host=a", "dbname=b"]),
        ('connect = "host=a"', ["host=a"]),
        ("connect = host=a dbname=b#c", ["host=a", "dbname=b"]),
        ("connect = user=x", []),
        (
            "connect = host=a hostaddr=b port=1 dbname=c client_flags=2 connect_timeout=3 read_timeout=4 secret=s "
            "write_timeout=5 maxconns=6 "
            "ssl_ca=d ssl_ca_path=e ssl_cert=f ssl_key=g ssl_cipher=h ssl_verify_server_cert=yes",
            [
                "host=a",
                "hostaddr=b",
                "port=1",
                "dbname=c",
                "client_flags=2",
                "connect_timeout=3",
                "read_timeout=4",
                "write_timeout=5",
                "maxconns=6",
                "ssl_ca=d",
                "ssl_ca_path=e",
                "ssl_cert=f",
                "ssl_key=g",
                "ssl_cipher=h",
                "ssl_verify_server_cert=yes",
            ],
        ),
    ],
)
def test_what_is_repeated_of_a_connect_string(line, words):
    """What holds no secret, in its order: an admin copies the line."""
    (found,) = old_connections("/f", line)
    assert found.lines == " ".join(["connect =", *words, "%s"])


def test_blocks_end_where_they_are_closed():
    """A setting behind a block belongs to all of them."""
    text = "mysql a {\n  user = u\n}\nmysql_option_file = /x\nmysql b {\n  option_group = g\n}\n"
    first, second = new_connections(text)
    assert (first.where, first.user, first.option_file, first.option_group) == (
        "the block mysql a",
        "u",
        "/x",
        "client",
    )
    assert (second.user, second.option_file, second.option_group) == (None, "/x", "g")


def test_what_to_write_where_dovecot_has_no_database():
    (old,) = faults(DOVECOT, ["mailserver"], [], old=True)
    assert old.splitlines()[1:] == [
        "    connect = host=127.0.0.1 dbname=mailserver option_file=/etc/dovecot/ispmail.cnf"
    ]
    assert "Write in the file with its SQL settings:" in old
    (new,) = faults(DOVECOT, ["mailserver"], [], old=False)
    assert new.splitlines()[1:] == [
        "    mysql 127.0.0.1 {",
        "      dbname = mailserver",
        "      option_file = /etc/dovecot/ispmail.cnf",
        "    }",
    ]


def test_the_reason_tells_a_password_of_its_own_from_another_file():
    (own,) = of_old("connect = host=a option_file=/etc/dovecot/ispmail.cnf user=mailserver")
    (other,) = of_old("connect = host=a option_file=/etc/other.cnf user=mailserver")
    assert "has a user or password of its own, which goes before the option file" in own
    assert "does not log in by /etc/dovecot/ispmail.cnf" in other


@pytest.mark.parametrize(
    ("others", "users"),
    [
        ("service auth {\n  unix_listener x {\n    mode = 0600\n  }\n  user = root\n}\n", [None]),
        ("user = root\n", [None]),
        ("mysql db9 {\n  ssl {\n  }\n  user = root\n}\n", ["root", None]),
    ],
)
def test_a_setting_belongs_to_its_block(others, users):
    """doveconf prints a block's own settings after the blocks in it. No other block's user is the database's."""
    assert [each.user for each in new_connections(others + NEW)] == users


def test_a_block_may_write_its_settings_in_full():
    (found,) = new_connections("mysql db1 {\n  mysql_dbname = m\n  mysql_user = u\n}\n")
    assert (found.user, found.lines) == ("u", "mysql db1 {\n  dbname = m\n%s}")


BLOCK = "mysql db {\n  dbname = x\n}\n"


@pytest.mark.parametrize(
    ("text", "users"),
    [
        ("mysql_user = top\nmysql db {\n}\n", ["top"]),
        ("mysql_user = top\nmysql db {\n  user = own\n}\n", ["own"]),
        (f"passdb sql {{\n  mysql_user = scoped\n}}\n{BLOCK}", [None, "scoped"]),
        (f"passdb sql {{\n  mysql_user = a\n  {BLOCK}}}\nuserdb sql {{\n  mysql_user = b\n  {BLOCK}}}\n", ["a", "b"]),
        (f"protocol imap {{\n  mysql_user = p\n  passdb sql {{\n    {BLOCK}  }}\n}}\n", ["p"]),
        (
            f"protocol imap {{\n  mysql_user = p\n  passdb sql {{\n    mysql_port = 1\n  }}\n}}\n{BLOCK}",
            [None, "p"],
        ),
        (f"protocol imap {{\n  mysql_user = p\n}}\nprotocol lmtp {{\n  {BLOCK}}}\n", [None]),
    ],
)
def test_the_users_of_dovecot_2_4(text, users):
    """tests/functional/test_consumers.py compares it with what the database is told."""
    assert [each.user for each in new_connections(f"# 2.4.1 (x)\n{text}")] == users


def test_a_login_beside_the_one_that_names_the_file():
    """The passdb has no option file because the userdb has one."""
    named = f"userdb sql {{\n  mysql_option_file = /etc/dovecot/ispmail.cnf\n  {BLOCK}}}\n"
    text = f"# 2.4.1 (x)\npassdb sql {{\n  mysql_user = mailserver\n  mysql_password = # hidden\n  {BLOCK}}}\n{named}"
    (fault,) = of_new(text)
    assert fault.startswith(
        "the block mysql db in passdb sql does not log in by /etc/dovecot/ispmail.cnf. Write there:"
    )
    assert fault.endswith(
        "\nTake out mysql_user in the block passdb sql.\nTake out mysql_password in the block passdb sql."
    )
    assert of_new(f"# 2.4.1 (x)\n{named}") == []
    (fault,) = of_new(f"# 2.4.1 (x)\nmysql_user = mailserver\n{BLOCK}")
    assert fault.endswith("\nTake out mysql_user outside of all blocks.")


@pytest.mark.parametrize("value", ["$ENV:HOME", "$SET:mail_uid", "%{system:hostname}", "</etc/name"])
@pytest.mark.parametrize("name", ["user", "option_file", "option_group"])
def test_what_dovecot_2_4_takes_from_elsewhere(name, value):
    with pytest.raises(ValueError, match="the block mysql db takes a value from elsewhere: write it there"):
        new_connections(f"# 2.4.1 (x)\nmysql db {{\n  {name} = {value}\n}}\n")


# As doveconf -n of Dovecot 2.4.1 prints them.
GROUP = "group @own prod {\n  mysql_password = # hidden, use -P to show it\n  mysql_user = mailserver\n}\n"
OF_GROUP = "group @mysql prod {\n  mysql 127.0.0.1 {\n    user = mailserver\n  }\n}\n"


@pytest.mark.parametrize(
    "text",
    [
        f"{GROUP}passdb sql {{\n  mysql 127.0.0.1 {{\n    @own = prod\n  }}\n}}\n",
        f"{GROUP}mysql 127.0.0.1 {{\n}}\n@own = prod\n",
        f"{GROUP}mysql 127.0.0.1 {{\n}}\npassdb sql {{\n  @own = prod\n}}\n",
        f"{OF_GROUP}passdb sql {{\n  @mysql = prod\n}}\n",
    ],
)
def test_a_login_in_a_group_cannot_be_told(text):
    """Dovecot 2.4 reads the group where it is used: a rotation dropped the password of its user."""
    with pytest.raises(
        ValueError, match=r"^the block group @\w+ prod has settings of a login: write them where it is used$"
    ):
        new_connections(f"# 2.4.1 (x)\n{text}")


def test_groups_that_are_not_used_or_have_no_login():
    text = (
        f"{GROUP}{OF_GROUP}group @own other {{\n  sql_driver = mysql\n}}\n@own = other\n@mailbox_defaults = english\n"
    )
    assert new_connections(f"# 2.4.1 (x)\n{text}") == []
    assert [each.user for each in new_connections(f"# 2.4.1 (x)\n{text}mysql h {{\n  user = a\n}}\n")] == ["a"]
