"""The format of option files."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ispmail_optionfile import faults, other_settings, parse, render


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
    assert [fault.key for fault in faults("u", '"' * 2001)] == ["database:password"]
