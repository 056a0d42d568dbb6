"""The copy of a table file that somebody else wrote: what is one, and that no secret gets into it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import _ispmail_original
import _ispmail_tablefile

OURS = {"user": "u", "password": "geheim-Hx7", "hosts": "h", "dbname": "d", "query": "SELECT '%s'"}
OUR_TEXT = _ispmail_tablefile.text_of(_ispmail_tablefile.canonicalize("mysql", OURS))

HANDMADE = {
    "a comment": f"# by hand\n{OUR_TEXT}",
    "an empty line": f"{OUR_TEXT}\n",
    "no blanks": OUR_TEXT.replace("user = ", "user="),
    "another order": "dbname = d\nuser = u\n",
    "an unknown key": f"{OUR_TEXT}port = 3306\n",
    "a continuation line": OUR_TEXT.replace("SELECT ", "SELECT\n "),
    "a key twice": f"user = x\n{OUR_TEXT}",
    "no newline at the end": OUR_TEXT.rstrip("\n"),
    "a damaged line": f"{OUR_TEXT}nonsense\n",
}


@pytest.mark.parametrize("text", HANDMADE.values(), ids=HANDMADE)
def test_is_handmade(text):
    assert _ispmail_original.is_handmade(text.encode())


@pytest.mark.parametrize("text", [OUR_TEXT, "", "password =\n", "password = Q~\n"])
def test_what_an_apply_writes_is_not(text):
    assert not _ispmail_original.is_handmade(text.encode())


# What stands in the file, what stands in the copy.
COPIES = {
    "the password": ("password = Hx7", "# password was left out of this copy"),
    "its other spelling": ("Password=Hx7", "# Password was left out of this copy"),
    "a continuation line": ("password =\n  Hx7\n\n\tHx7\nuser = u", "# password was left out of this copy\n\nuser = u"),
    "a comment between": ("password = a\n# hint\n Hx7", "# password was left out of this copy\n# hint"),
    "an older password": ("#password = Hx7", "# a comment that may hold a password was left out of this copy"),
    "another word for it": ("# db-PW: Hx7", "# a comment that may hold a password was left out of this copy"),
    "the password without a word": (
        "password = Hx7\n# was Hx7 before",
        "# password was left out of this copy\n# a comment that may hold a password was left out of this copy",
    ),
    "a password in a URI": ("hosts = postgres://u:Hx7@db", "# hosts was left out of this copy"),
    "a login in a URI of another program": ("hosts = mysql://u:Hx7@db", "# hosts was left out of this copy"),
    "a password in another value": ("dbname = d\n password = Hx7", "# dbname was left out of this copy"),
    "an unknown key": ("port = Hx7", "# port was left out of this copy"),
    "a key that is not shown": ("p:Hx7 = x", "# (a key that is not shown) was left out of this copy"),
    "a damaged line": ("Hx7", "# a line was left out of this copy"),
    "the password in another value": (
        "password = Hx7\nuser = u\n Hx7",
        "# password was left out of this copy\n# user was left out of this copy",
    ),
    "an indented beginning": (" Hx7\nuser = u", "user = u"),
    "the rest": ("# hello\nuser=u\n\nquery = a\n  b\ntable = t\n", "# hello\nuser=u\n\nquery = a\n  b\ntable = t\n"),
}


@pytest.mark.parametrize("text, copy", COPIES.values(), ids=COPIES)
def test_without_secrets(text, copy):
    assert _ispmail_original.without_secrets(text.encode()) == copy.encode()
    assert b"Hx7" not in _ispmail_original.without_secrets(text.encode())


@pytest.mark.parametrize(
    ("content", "number"),
    [(b"", 0), (b"user = u\n", 0), (b"# a\nuser = u\n \t# b\n#c", 3), (b"user = u # no comment\n\n", 0)],
)
def test_how_many_comments_there_are(content, number):
    assert _ispmail_original.comments(content) == number


LINES = st.sampled_from(
    ["password = Hx7", "password=", "  Hx7", "# Hx7", "user = u", "", "Hx7", "password =a", "\tb", "x"]
)


@given(st.lists(LINES, max_size=8))
def test_no_password_gets_into_a_copy(lines):
    text = "\n".join(["password = Hx7", *lines, "password = Hx7"])
    copy = _ispmail_original.without_secrets(text.encode())
    assert b"Hx7" not in copy
    # What is left is a table file still, or a comment.
    assert set(_ispmail_tablefile.parse(copy)) <= set(_ispmail_tablefile.parse(text))


def test_bytes_that_are_no_text_stay_as_they_are():
    text = OUR_TEXT.replace("dbname = d", "dbname = \udce4").encode("utf-8", "surrogateescape")
    assert not _ispmail_original.is_handmade(text)
    assert _ispmail_original.is_handmade(b"# \xe4\n" + text)
    assert _ispmail_original.without_secrets(b"# \xe4\nuser = u\n") == b"# \xe4\nuser = u\n"


def test_the_name_of_a_copy():
    """It is in the documentation, and ends in nothing that Postfix reads."""
    assert _ispmail_original.SUFFIX == ".before-ispmail"


def test_an_empty_password_is_in_no_line():
    """Each line has nothing in it somewhere: all of them would be left out."""
    text = b"password =\n# hello\nuser = u\n"
    assert _ispmail_original.without_secrets(text).splitlines()[1:] == [b"# hello", b"user = u"]


def test_an_obsolete_key_is_kept_unless_its_value_tells_a_secret():
    kept, left_out = b"table = t\n", b"additional_conditions = and pw = 'x'\n"
    assert _ispmail_original.without_secrets(kept) == kept
    assert _ispmail_original.without_secrets(left_out) == b"# additional_conditions was left out of this copy\n"
    assert _ispmail_original.without_secrets(b"table = Hx7\npassword = Hx7\n").startswith(b"# table was left out")
