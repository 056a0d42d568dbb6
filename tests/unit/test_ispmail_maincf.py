"""The values of main.cf parameters: which words they have, and which are the same."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

import _ispmail_maincf
from _ispmail_errors import InvalidInput

WORDS = [
    ("", []),
    (" ,\t, ", []),
    ("a", ["a"]),
    ("a b,c ,d,\te", ["a", "b", "c", "d", "e"]),
    ("hash:/etc/aliases, $x ${y?a}", ["hash:/etc/aliases", "$x", "${y?a}"]),
    ("inline:{{a = b}}", ["inline:{{a = b}}"]),
    ("inline:{ {a = b, c} }, d", ["inline:{ {a = b, c} }", "d"]),
    ("check_policy_service {inet:a:1, timeout=10s}", ["check_policy_service", "{inet:a:1, timeout=10s}"]),
    ("pipemap:{mysql:/x, mysql:/y}, z", ["pipemap:{mysql:/x, mysql:/y}", "z"]),
    ("{ a { b, { c d } } } e", ["{ a { b, { c d } } }", "e"]),
    ("{a}{b}", ["{a}{b}"]),
    ("} a, b", ["}", "a", "b"]),
    ("Q~a", ["Q~a"]),
    # Only blank, tab, newline, CR and comma separate: CHARS_COMMA_SP of Postfix.
    ("a\xa0b\u2028c\x1cd", ["a\xa0b\u2028c\x1cd"]),
]


@pytest.mark.parametrize("value, words", WORDS)
def test_words(value, words):
    assert _ispmail_maincf.words(value) == words


@given(st.text("ab:/ ,}\t\r\n", max_size=20), st.sampled_from([",", ", \t", ": \n", _ispmail_maincf.BLANKS]))
def test_words_without_braces_are_those_that_are_split_char_by_char(value, separators):
    """Most values have none, and are split by the interpreter's own means."""
    assert (
        _ispmail_maincf.words(value, separators)
        == _ispmail_maincf.words(f"{value}{separators[0]}{{}}", separators)[:-1]
    )


@given(st.text("ab:/ ,{}", max_size=20))
def test_words_lose_nothing(value):
    """What is lost here is lost from an admin's main.cf when a table gets into that parameter."""
    assert re.sub(r"[ ,]", "", "".join(_ispmail_maincf.words(value))) == re.sub(r"[ ,]", "", value)


SAME = [
    (None, None, True),
    (None, "", False),
    ("", None, False),
    ("", "", True),
    ("a, b", "a,  b", True),
    ("a\tb\n c", "a b c", True),
    (" a ", "a", True),
    ("a, b", "a b", False),
    ("a b", "b a", False),
    ("a", "A", False),
    ("a b", "ab", False),
    ("aQ~b", "a b", False),
    # A blank to Python, a character of the value to Postfix.
    ("a\xa0b", "a b", False),
]


@pytest.mark.parametrize("old, new, same", SAME)
def test_same(old, new, same):
    assert _ispmail_maincf.same(old, new) is same
    assert _ispmail_maincf.same(new, old) is same


@pytest.mark.parametrize("readable", [None, "", "$virtual_alias_maps", "$x, proxy:mysql:/a"])
def test_what_a_change_has_set_for_a_while_does_not_count(readable):
    others = {"virtual_alias_maps": "hash:/x", "proxy_write_maps": "$y"}
    before = others if readable is None else {**others, "proxy_read_maps": readable}
    meanwhile = {"proxy_read_maps": _ispmail_maincf.with_meanwhile(readable), "ispmail_meanwhile": "proxy:mysql:/b"}
    assert _ispmail_maincf.settled({**before, **meanwhile}) == _ispmail_maincf.settled(before) == before
    # Somebody has written proxy_read_maps anew.
    assert _ispmail_maincf.settled({**before, "ispmail_meanwhile": ""}) == before


@pytest.mark.parametrize(
    ("readable", "before"),
    [
        ("$ispmail_meanwhile, proxy:x", "$default proxy:mysql:/b, proxy:x"),
        ("proxy:x $ispmail_meanwhile", "proxy:x $default proxy:mysql:/b"),
        ("$y, $ispmail_meanwhile, proxy:x", "$y, $default proxy:mysql:/b, proxy:x"),
        ("proxy:x, $y, $ispmail_meanwhile", "proxy:x, $y"),
    ],
)
def test_what_somebody_has_put_around_it_keeps_what_it_stood_for(readable, before):
    """Else proxymap would allow less than it did, and Postfix end with a name that refers to itself."""
    left = {"proxy_read_maps": readable, "ispmail_meanwhile": "$default proxy:mysql:/b"}
    assert _ispmail_maincf.settled(left) == {"proxy_read_maps": before}
    assert "$ispmail_meanwhile" not in _ispmail_maincf.settled({"proxy_read_maps": readable})["proxy_read_maps"]


def test_which_parameters_differ():
    held = {"a": "x,  y", "b": "x", "c": "", "e": "x"}
    wanted = {"a": "x, y", "b": "y", "c": None, "d": "x", "e": None, "f": None}
    assert _ispmail_maincf.differing(held, wanted) == ["b", "c", "d", "e"]


@pytest.mark.parametrize(
    "command, found",
    [
        ("smtpd", {}),
        ("smtpd -v -o a=b -o c=$d,e", {"a": "b", "c": "$d,e"}),
        ("smtpd -o { a = b, c d } -o x={y z}", {"a": "b, c d", "x": "{y z}"}),
        ("pipe -o a=b flags=F argv=/bin/x -o c=d", {"a": "b"}),
        ("smtpd -o {a=b} -o {c=}", {"a": "b", "c": ""}),
        ("smtpd -o", {}),
        (
            "smtpd -oa=b -vod=$e {-of = g h} {-vS} { -o } { i = j } -Do{k=l}",
            {"a": "b", "d": "$e", "f": "g h", "i": "j"} | {"{k": "l}"},
        ),
        ("smtpd -n -oa=b -voc=d -soo=1 -s 2 -oe=f", {"c": "d", "e": "f"}),
        ("smtpd -oa=b -- -oc=d", {"a": "b"}),
        ("smtpd -oa=b -voa=c", {"a": "c"}),
    ],
)
def test_overrides(command, found):
    assert _ispmail_maincf.overrides(command) == found


@pytest.mark.parametrize(
    ("word", "path"), [("proxy:mysql:/etc/postfix/a.cf", "/etc/postfix/a.cf"), ("mysql:alias", "alias"), ("$x", "$x")]
)
def test_the_path_of_a_table(word, path):
    assert _ispmail_maincf.path_of(word) == path


SECRETS = [
    "smtp_tls_password",
    "my_pass",
    "relay_pass_word",
    "db_pwd",
    "pw",
    "pw_of_x",
    "x_pw",
    "client_secret",
    "PASSWD",
]


@pytest.mark.parametrize("name", SECRETS)
def test_a_parameter_whose_name_tells_a_secret_is_not_shown(name):
    assert _ispmail_maincf.shown(name, "geheim", ()) == "***"
    assert _ispmail_maincf.shown(name, None, ()) is None


@pytest.mark.parametrize("name", ["relay_domains", "passing", "pwx", "xpw", "virtual_mailbox_maps"])
def test_other_parameters_are_shown(name):
    """A change that names only *** tells an admin nothing."""
    assert _ispmail_maincf.shown(name, "inline:{a=b} x", ["own"]) == "inline:{a=b} x"


# Of a value, what people are told: paths, addresses, names, and which types there are.
SHOWN = [
    ("hash:/a, inline:{a=b}\n c", "hash:/a, inline:***\n ***"),
    ("static:user:pass,word static:/x", "static:***,*** static:***"),
    ("regexp:{{/./ user:S}}, pcre:{ {/a/ b} }", "regexp:***, pcre:***"),
    ("cidr:{{0/0 S}} randmap:{S,T}", "cidr:*** randmap:***"),
    ("proxy:regexp:{{/./ S}} !debug:static:S", "proxy:regexp:*** !debug:static:***"),
    ("pipemap:{hash:/x, unionmap:{regexp:{{/./ S}},$own}}", "pipemap:{hash:/x, unionmap:{regexp:***,$own}}"),
    ("{static:S} { mysql:/a.cf }", "{static:***} { mysql:/a.cf }"),
    ("newtype:{S} newtype:S user:S S", "*** *** *** ***"),
    ("regexp:/a $own ${own} $(own) !/b ./c", "regexp:/a $own ${own} $(own) !/b ./c"),
    ("proxy:mysql:$config_directory/a.cf mysql:${dir}b.cf", "proxy:mysql:$config_directory/a.cf mysql:${dir}b.cf"),
    ("mysql:name tcp:127.0.0.1:10 socketmap:unix:/s:n", "mysql:name tcp:127.0.0.1:10 socketmap:unix:/s:n"),
    (
        "check_x_access $own, ${own?{check_y,$own}}, ${ own :$own}",
        "check_x_access $own, ${own?{check_y,$own}}, ${ own :$own}",
    ),
    ("${own?{static:S}} ${own:S} ${own?{S}:{T}}", "${own?{static:***}} ${own:***} ${own?{***}}"),
    ("${{$own} == {S} ? {T}} mysql:${own?{S}}", "*** ***"),
    ("inline:{a=S", "inline:***"),
    ("hash:/a}S", "***"),
    ("x$own user$own", "*** ***"),
    ("", ""),
]


@pytest.mark.parametrize(
    "value, told",
    [
        ("postgresql://u:SECRET@h/db", "postgresql://***@h/db"),
        ("db, postgresql://u:S/EC@R:ET@h/db unix:/s", "db, postgresql://***@h/db unix:/s"),
        ("postgresql://h/db?user=u&password=SECRET&x=y", "postgresql://h/db?user=u&password=***&x=y"),
        ("host=h user=u password=SECRET x=y", "host=h user=u password=*** x=y"),
        ("mongodb://u:SECRET@h", "mongodb://***@h"),
        ("ldap://h:389/ jack@example.org", "ldap://h:389/ jack@example.org"),
        ("pgsql:postgresql://u:SECRET@h", "pgsql:postgresql://***@h"),
        ("https://SECRET@h", "https://***@h"),
        ("https://u@h,https://h2", "https://***@h,https://h2"),
        ("https://u@h,https://SECRET@h2", "https://***@h,https://***@h2"),
        ("https://u@v:SEC/RET,@h", "https://***@h"),
        ("postgresql://u@h:5432/d?x=a@b", "postgresql://***@h:5432/d?x=a@b"),
        ("host=db password='SECRET SECRET' dbname=x", "host=db password=*** dbname=x"),
        ("password='SEC\\'SECRET SECRET' dbname=x", "password=*** dbname=x"),
        ('password="SEC SECRET" dbname=x', "password=*** dbname=x"),
        ("password='SEC SECRET", "password=***"),
        ("password=SEC\\ SECRET x", "password=*** x"),
        ("password=SEC&SECRET x", "password=*** x"),
        ("password = SECRET x", "password = *** x"),
        ("passwd=SECRET pwd=SECRET", "passwd=*** pwd=***"),
        ("sslpassword =\tSECRET DB_PWD= SECRET", "sslpassword =\t*** DB_PWD= ***"),
    ],
)
def test_a_login_in_a_uri_is_not_shown(value, told):
    """A table may have its keys in main.cf, see mysql_table(5): the password in its hosts was shown."""
    assert _ispmail_maincf.shown("mytable_hosts", value, {"other"}) == told
    assert "SECRET" not in _ispmail_maincf.without_inline(value)


@pytest.mark.parametrize(
    "value",
    [
        "http://host/@x",
        "http://h.example/a,b@example.org",
        "https://x.example/@me",
        "ldap://host/ou=@x",
        "ldap://h,jack@example.org",
        "postgresql://h:5432/d?user=a@b",
        "postgresql://h:5432,h2:5433/d?user=a@b",
        "CONCAT('smtp://',h,':',p,'@x')",
        "lmtp://%s:x@y",
        "proxy:unix:passwd.byname $smtp_sasl_password_maps",
    ],
)
def test_what_is_no_login_is_shown(value):
    """It was taken for one wherever an @ stood behind a ://."""
    assert _ispmail_maincf.shown("own", value, {"other"}) == value


@pytest.mark.parametrize("value, told", SHOWN)
def test_what_a_value_holds_itself_is_not_shown(value, told):
    """Only static: and inline: were known: a relay's password in regexp:{…} was shown."""
    assert _ispmail_maincf.without_inline(value) == told
    assert _ispmail_maincf.shown("own", value, {"own"}) == told
    assert _ispmail_maincf.shown("own", value, {"other"}) == value


@pytest.mark.parametrize(
    "table, tables",
    [
        ("pipemap:{hash:/x, inline:{a=b}}", ["hash:/x", "inline:{a=b}"]),
        ("unionmap:{pipemap:{regexp:{{/x/ y}}, $a}, hash:/b}", ["regexp:{{/x/ y}}", "$a", "hash:/b"]),
        ("pipemap:{hash:/x, hash:/y}", ["pipemap:{hash:/x, hash:/y}"]),
        ("proxy:pipemap:{hash:/x, inline:{a=b}}", ["proxy:pipemap:{hash:/x, inline:{a=b}}"]),
        ("regexp:{{/x/ y}}", ["regexp:{{/x/ y}}"]),
        ("x", ["x"]),
    ],
)
def test_tables_in_braces_with_some_that_hold_answers(table, tables):
    assert _ispmail_maincf.without_holders(table) == tables


def test_what_postconf_printed():
    printed = "a = b = c\nempty =\n no equals sign\nx=y/unix/command = smtpd -o a=b\n"
    assert _ispmail_maincf.values_of(printed) == {"a": "b = c", "empty": "", "x=y/unix/command": "smtpd -o a=b"}


@pytest.mark.parametrize("name", ["a", "smtpd_x-y.z", "_x", ".a", "9"])
def test_what_can_be_the_name_of_a_parameter(name):
    assert _ispmail_maincf.checked_names([name, "7"]) == [name, "7"]


@pytest.mark.parametrize("name", ["", "-e", "a b", "a=b", "a\n", "$a", "é", "#a"])
def test_what_cannot_be_the_name_of_a_parameter(name):
    """It would be an option or another parameter to postconf(1)."""
    with pytest.raises(InvalidInput) as caught:
        _ispmail_maincf.checked_names(["good", name, "x y"])
    assert str(caught.value) == f"not the name of a parameter: {name!r}, 'x y'"


@pytest.mark.parametrize(
    ("given_", "value"),
    [
        (["a", 1, "b"], "a, 1, b"),
        (("a",), "a"),
        ([], ""),
        (True, "yes"),
        (False, "no"),
        (0, "0"),
        (1.5, "1.5"),
        (" a b\t", "a b"),
        ("", ""),
        (None, None),
        ("a\xa0", "a\xa0"),
    ],
)
def test_values_as_main_cf_has_them(given_, value):
    assert _ispmail_maincf.checked_values({"x": given_}) == {"x": value}


def test_values_that_main_cf_cannot_hold_are_all_named():
    with pytest.raises(InvalidInput) as caught:
        _ispmail_maincf.checked_values({"a": {"b": 1}, "c": "x\ny", "good": "x", "d": ["\0"], "e": b"x"})
    assert [text.partition(":")[0] for text in str(caught.value).split("; ")] == ["a", "c", "d", "e"]
    assert "must be a text, a number, a list, true or false" in str(caught.value)
    assert "has a newline or NUL character" in str(caught.value) and "x\ny" not in str(caught.value)


def test_a_name_that_is_no_text_in_yaml():
    """It was a KeyError, and the state ended with a traceback."""
    with pytest.raises(InvalidInput) as caught:
        _ispmail_maincf.checked_values({5: 6, "x": "y", "a b": "c", False: "y", None: "z"})
    first, second = str(caught.value).split("; ")
    assert first == "not the name of a parameter: 'a b'"
    assert second.startswith("not a text in YAML") and second.endswith(": 5, False, None")
