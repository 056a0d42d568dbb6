"""The format of option files."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from _ispmail_optionfile import faults, login_steps, logins, other_settings, parse, render


def test_a_login():
    text = render("client", "mailserver", 'a"b\\c#d')
    assert text == '[client]\nuser="mailserver"\npassword="a\\"b\\\\c#d"\n'
    assert parse(text.encode()) == {"client": {"user": "mailserver", "password": 'a"b\\c#d'}}


@given(st.text(st.characters(exclude_characters="\n\0", exclude_categories=["Cs"])))
def test_any_password_is_read_back(password):
    text = render("client", "u", password)
    assert parse(text.encode("utf-8"))["client"] == {"user": "u", "password": password}


def test_bytes_that_are_no_utf8():
    password = b"\xe4".decode("utf-8", "surrogateescape")
    content = render("client", "u", password).encode("utf-8", "surrogateescape")
    assert content.endswith(b'"\xe4"\n') and parse(content)["client"]["password"] == password


def test_files_of_people():
    content = b"""
# a comment
; another
[client]
  user = old
user=mailserver
password = 'it''s'
[mysqldump]
single-transaction
host=127.0.0.1
!include /etc/mysql/more.cnf
"""
    assert parse(content)["client"] == {"user": "mailserver", "password": "it''s"}
    # A line without a value may be anything.
    others = ["[mysqldump] a line", "[mysqldump] host", "!include"]
    assert other_settings(content, "client") == others
    assert other_settings(content, "mysqldump")[:2] == ["[client] user", "[client] password"]
    assert parse(None) == {} and other_settings(None, "client") == []


def test_the_value_of_another_setting_is_never_shown():
    assert other_settings(b"[client]\nhost=SECRET\n!include SECRET\n", "client") == ["[client] host", "!include"]


@pytest.mark.parametrize(
    "content", [b"SECRET\n", b"[SECRET SECRET]\nx=1\n", b"mailserver:{PLAIN}SECRET\n", b"SECRET SECRET=1\n"]
)
def test_what_is_no_option_file_is_not_shown(content):
    """All lines of a file that the path led to were in the error."""
    assert "SECRET" not in str(other_settings(content, "client"))


def test_what_is_too_long():
    assert faults("u", "x" * 4000) == []
    assert [fault.key for fault in faults("x" * 4001, "x" * 4001)] == ["database:user", "database:password"]
    assert [fault.key for fault in faults("u", '"' * 2001)] == ["database:password"]


@pytest.mark.parametrize(
    ("written", "value"),
    [
        # As mysql(1) reads them; `my_print_defaults` prints the same.
        (rb"a\nb\tc\rd\be\sf", "a\nb\tc\rd\be f"),
        (rb"\"a\'b\\c", "\"a'b\\c"),
        (rb"a\qb\#", r"a\qb\#"),
        (b"a\\", "a\\"),
        (b"'a b'", "a b"),
        (b"'a", "a"),
        (b"'aQ", "aQ"),
        (b"'ab\"", "ab"),
        (b'"', ""),
        (b"a'b'", "a'b'"),
        (b"", ""),
    ],
)
def test_what_a_value_stands_for(written, value):
    assert parse(b"[client]\npassword=" + written + b"\n")["client"]["password"] == value


def test_names_are_spelt_with_a_hyphen_or_an_underscore():
    """MariaDB takes them for one: both are the same option, and the last one wins."""
    assert parse(b"[client]\nssl-ca=a\nssl_ca=b\n") == {"client": {"ssl_ca": "b"}}
    assert other_settings(b"[client]\nssl-ca=a\n", "client") == ["[client] ssl_ca"]


@pytest.mark.parametrize("blank", ["\xa0", "\x85", "\u2028", "\x1c", "\x1f"])
def test_what_is_a_blank_to_python_alone_is_kept(blank):
    """libmariadb keeps it: the user was another one."""
    text = f"[client]\nuser = {blank}a{blank}\npassword{blank} = x\n[client{blank}]\nuser = b\n"
    text += "[ client]\nuser = c\n"
    found = parse(text.encode())
    assert found["client"] == {"user": f"{blank}a{blank}", f"password{blank}": "x"}
    assert list(login_steps(text.encode(), "client")) == [("user", f"{blank}a{blank}")]
    assert parse(b"\v [client] x\n\f\ruser\t=\v a\r\n") == {"client": {"user": "a"}}


def test_a_line_ends_at_nul():
    assert parse(b"[client]\nuser = a\0b\npassword=x\0\n\0y = z\n") == {"client": {"user": "a", "password": "x"}}


def test_what_is_behind_a_comments_sign_is_no_line():
    assert parse(b"#[client]\n;user=a\n # b=c\n\n[client]\nuser=u # no comment\n") == {
        "client": {"user": "u # no comment"}
    }


def test_a_line_may_begin_with_any_letter():
    assert parse(b"[client]\nQuick=1\n~x=2\n") == {"client": {"Quick": "1", "~x": "2"}}


def test_a_group_with_an_odd_name_is_not_shown():
    assert other_settings(b"[a b]\nx=1\n", "client") == ["[***] x"]


def test_an_option_before_any_group_is_of_none():
    assert parse(b"user=u\n") == {"": {"user": "u"}} and other_settings(b"user=u\n", "client") == ["user"]


def test_what_includes_ends_no_group():
    content = b"[client]\n!includedir /etc/my.d\nuser=u\n"
    assert other_settings(content, "client") == ["!includedir"] and parse(content)["client"] == {"user": "u"}


def test_the_length_is_that_of_the_escaped_bytes():
    assert faults("u", "\xe4" * 2000) == [] and [fault.key for fault in faults("\xe4" * 2001, "p")] == ["database:user"]
    assert faults("u", "\udce4" * 4000) == []


def test_what_decides_the_user_in_the_order_of_the_file():
    """Of all groups of clients, and of the one that is named; what a file includes is read where it is named."""
    content = (
        b"user=none\n[mysqld]\nuser=mysql\n[client]\nuser = 'a b'\npassword=x\nuser\n!include  /etc/my.cnf\n"
        b"[client-server]\nuser=c\n[client-mariadb]\nuser=d\n[postfix]\nuser=e\n!includedir /etc/my.d\n!included /x\n"
    )
    steps = [("user", "a b"), ("include", "/etc/my.cnf"), ("user", "c"), ("user", "d")]
    assert list(login_steps(content, "postfix")) == [*steps, ("user", "e"), ("includedir", "/etc/my.d")]
    assert list(login_steps(content, "client")) == [*steps, ("includedir", "/etc/my.d")]
    assert list(login_steps(None, "client")) == []


def test_the_logins_of_all_groups():
    """Both of user and password make one; a table file, which has no groups, has none."""
    text = (
        b'user=a\npassword=b\n[client]\npassword="x\\"y"\nuser=z\nport=1\n[mysqldump]\nuser=q\n[o]\nuser\npassword=p\n'
    )
    assert logins(text) == [{"user": "z", "password": 'x"y'}, {"user": "", "password": "p"}]
    assert logins(b"user = a\npassword = b\n") == logins(None) == []
