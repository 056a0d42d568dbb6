"""The spellings of a password, compared with what the formats' own writers make of it."""

import html
import json
import shlex
import urllib.parse
import xml.sax.saxutils

import pytest
from hypothesis import given
from hypothesis import strategies as st

from _ispmail_spellings import contains_whole, spellings


def contains(content, secret):
    """Whether a search finds it: also where it is a part of another word."""
    return any(spelling in content for spelling in spellings(secret))


def by_number(text, characters):
    """Some characters as JSON may have them."""
    return "".join(f"\\u{ord(each):04x}" if each in characters else each for each in text)


NASTY = [
    "Sup3r&Ge<heim'x",
    "plain1",
    "with blank",
    "#hash",
    "back\\slash",
    'double"quote',
    "single'quote",
    "$var${x}`cmd`",
    "50%off%{x}",
    "a/b+c&d=e;f?g",
    "<tag>&amp;",
    "ümläut€",
    "all\\of\"it'$`!%/ #",
]


@pytest.mark.parametrize("secret", NASTY)
def test_what_other_programs_write_is_found(secret):
    written = {
        "my.cnf": 'password="{}"'.format(secret.replace("\\", "\\\\").replace('"', '\\"')),
        "PHP, single": "$p = '{}';".format(secret.replace("\\", "\\\\").replace("'", "\\'")),
        "PHP, double": '$p = "{}";'.format(secret.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$")),
        "shell": f"PASSWORD={shlex.quote(secret)}\n",
        "shell, by hand": "PASSWORD='{}'\n".format(secret.replace("'", "'\\''")),
        "JSON": json.dumps({"password": secret}),
        "JSON, UTF-8": json.dumps({"password": secret}, ensure_ascii=False),
        "JSON, PHP": json.dumps({"password": secret}).replace("/", "\\/"),
        "DSN": f"mysql://mailserver:{urllib.parse.quote(secret, safe='')}@127.0.0.1/mailserver",
        "URL": f"mysql://mailserver:{urllib.parse.quote(secret)}@127.0.0.1/mailserver",
        "form": urllib.parse.urlencode({"password": secret}),
        "XML": f"<password>{xml.sax.saxutils.escape(secret)}</password>".replace('"', "&quot;"),
        "HTML": f"<p>{html.escape(secret)}</p>",
        "HTML, ASCII": html.escape(secret).encode("ascii", "xmlcharrefreplace").decode(),
        "HTML, PHP": html.escape(secret).replace("&#x27;", "&#039;"),
        "HTML, Go": html.escape(secret).replace("&#x27;", "&#39;").replace("&quot;", "&#34;"),
        "XML, all": html.escape(secret).replace("&#x27;", "&apos;"),
        "JSON, Go": by_number(json.dumps(secret, ensure_ascii=False), "<>&"),
        "JSON, Django": by_number(json.dumps(secret), "<>&")
        .replace("\\u003c", "\\u003C")
        .replace("\\u003e", "\\u003E"),
        "JSON, PHP in HTML": by_number(json.dumps(secret)[1:-1].replace('\\"', "\\u0022").replace("/", "\\/"), "<>&'"),
        "YAML": "password: '{}'".format(secret.replace("'", "''")),
        "crontab": f"* * * * * report -p {secret}".replace("%", "\\%"),
    }
    missed = [form for form, text in written.items() if not contains(text.encode(), secret)]
    assert not missed
    assert not [form for form, text in written.items() if not contains_whole(text.encode(), secret)]
    assert not contains(b"password = another", secret)


def test_a_password_that_is_a_part_of_another_word():
    """A file that still has the old password, which begins with the new one, must not pass for one with the new one."""
    assert contains(b"password=secret12", "secret1") and not contains_whole(b"password=secret12", "secret1")
    assert contains(b"xsecret1", "secret1") and not contains_whole(b"xsecret1", "secret1")
    assert contains_whole(b"xsecret1 secret1", "secret1")


def test_an_empty_password_is_nowhere():
    assert spellings("") == () and not contains(b"anything", "") and not contains_whole(b"anything", "")


def test_a_file_in_latin_1():
    for written in (b"password = geh\xe4im'1\n", b"password = 'geh\xe4im\\'1'\n", b"m://u:geh%E4im%271@h"):
        assert contains_whole(written, "geh\xe4im'1")
    assert not contains_whole(b"password = geh?im1", "geh\u20acim1")


def test_bytes_that_are_no_text():
    secret = b"latin1-\xe4".decode("utf-8", "surrogateescape")
    assert contains(b"password = latin1-\xe4\n", secret)


@given(st.text(st.characters(exclude_categories=[]), min_size=1))
def test_any_text_has_spellings(secret):
    try:
        raw = secret.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return
    found = spellings(secret)
    assert found[0] == raw and len(set(found)) == len(found) and all(found)


@pytest.mark.parametrize(
    ("secret", "written"),
    [
        ('a"b\\c', r"a\"b\\c"),  # my.cnf
        ("a'b\\c", r"a\'b\\c"),  # PHP's single quotes
        ('a"$b', r"a\"\$b"),  # PHP's double quotes
        ('a"$b`', r"a\"\$b\`"),  # a shell's double quotes
        ('a"$b`!', r"a\"\$b\`\!"),
        ('Q~a"b', r"Q~a\"b"),
        ("Q~a'b", r"Q~a\'b"),
        ('Q~a"$b', r"Q~a\"\$b"),
        ('Q~a"$b`', r"Q~a\"\$b\`"),
        ('Q~a"$b`!', r"Q~a\"\$b\`\!"),
        ('Q~a\t"$b', 'Q~a\t\\"$b'),
        ('Q~a"$b`', r"Q~a\"\$b`"),
        ('Q~a"$b`!', r"Q~a\"\$b\`!"),
        ("\xe4/b", '"\xe4\\/b"'),
        ("a b&c", r"a\ b\&c"),  # a shell without quotes
        ("a'b", "a'\"'\"'b"),
        ("\xe4/€", '"\\u00e4/\\u20ac"'),  # JSON
        ("\xe4/€", '"\xe4/€"'),
        ("a/b", r'"a\/b"'),
        ("\xe4/", r'"\u00e4\/"'),
        ("a$b", "a$$b"),  # a compose file
        ("a%b", "a%%b"),  # systemd, configparser
        ("a%b", r"a\%b"),  # crontab
        ('a<b>&"c', "a&lt;b&gt;&amp;&quot;c"),
        ("a<>&b", r"a\u003c\u003e\u0026b"),  # Go, Rails
        ("a<>&b", r"a\u003C\u003E\u0026b"),  # Django, PHP's JSON_HEX_TAG and JSON_HEX_AMP
        ("a<>&'\"/b", r"a\u003C\u003E\u0026\u0027\u0022\/b"),
        ("a<&'\"b", r"a<\u0026'\"b"),
        ("a<&'\"b", r"a\u003C&'\u0022b"),
        ("\xe4\U0001f600", r"\u00E4\uD83D\uDE00"),
        ("a'\"b", "a&#39;&#34;b"),
        ("a'\"b", "a&#039;&quot;b"),
        ("a'\"b", "a&#x27;&#x22;b"),
        ("a'\"b>", 'a&apos;"b>'),
        ("\xe4<", "&#228;&lt;"),
        ("\xe4<", "&#xe4;&lt;"),
        ("\xe4<", "&#xE4;&lt;"),
        ("a/b c?", "a/b%20c%3F"),  # a URL's path
        ("a/b c?", "a%2fb%20c%3f"),
        ("a/b c?", "a%2Fb+c%3F"),  # a form
        ("a!b$c&d'e(f)g*h+i,j;k=l/", "a!b$c&d'e(f)g*h+i,j;k=l%2F"),  # a URL's user and password
    ],
)
def test_each_format_is_found_by_its_own_spelling(secret, written):
    """The whole of it stands between quotes or blanks: one that is found in a part of the word does not count."""
    exactly = written.strip('"') if written.startswith('"') else written
    assert exactly.encode() in spellings(secret)
    assert contains_whole(f"x = {written}\n".encode(), secret)


def test_letters_and_digits_that_a_url_does_not_escape():
    """Each of them stays as it is in all spellings."""
    secret = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
    assert all(b"%" not in spelling for spelling in spellings(secret))
    assert b"a%40b%23" in spellings("a@b#")


def test_bytes_that_are_no_text_are_escaped_byte_by_byte():
    assert b"%E4%2F" in spellings(b"\xe4/".decode("utf-8", "surrogateescape"))
