"""The table file: what is refused and why, and that all else is read as it was meant."""

import datetime
import uuid

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import _ispmail_maincf
import _ispmail_tablefile
from _ispmail_errors import InvalidInput
from tests.unit.table_files import C_BLANKS, GOOD, QUERY, TEXT_KEYS, as_postfix_reads, odd_texts, sound_tables, yaml

BOOKWORM, TRIXIE = "3.7.11", "3.10.13"
TYPES = ("mysql", "pgsql", "sqlite")
WHERE = "SELECT 1 FROM t WHERE "

# What ISPmail's guide has, to the byte.
GUIDE = {
    "domains": "SELECT 1 FROM virtual_domains WHERE name='%s'",
    "aliases": "SELECT destination FROM virtual_aliases WHERE source='%s'",
    "mailboxes": "SELECT 1 FROM virtual_users WHERE email='%s'",
}


def table(type_, changes):
    return {**GOOD[type_], **changes}


def found(kind, type_, changes, **facts):
    """Errors or warnings, as pairs of the key and the whole sentence."""
    faults = getattr(_ispmail_tablefile.validate(type_, table(type_, changes), **facts), kind)
    return [(fault.key, str(fault).removeprefix(f"{fault.key} ")) for fault in faults]


# type, changes to good keys, facts, the one fault: key and words of its sentence. TOKEN
# stands for a random word, which no sentence may hold.
FAULTS = [
    # Texts: what a line of the file cannot carry.
    *(("mysql", {key: "TOKEN\nhosts = evil:1"}, {}, key, "newline") for key in ("user", "password", "query", "hosts")),
    ("sqlite", {"dbpath": "/TOKEN\n"}, {}, "dbpath", "newline"),
    ("mysql", {"password": "TOKEN\0x"}, {}, "password", "NUL"),
    *(("mysql", {"password": blank + "TOKEN"}, {}, "password", "blank") for blank in C_BLANKS if blank != "\n"),
    *(("mysql", {"password": "TOKEN" + blank}, {}, "password", "blank") for blank in C_BLANKS if blank != "\n"),
    ("mysql", {"password": " "}, {}, "password", "blank"),
    ("mysql", {"password": "TOKEN\ud800"}, {}, "password", "UTF-8"),
    ("mysql", {"password": "*" * 10}, {}, "password", "mask"),
    *(
        (type_, {"password": text}, {}, "password", "is a placeholder for a password")
        for type_ in ("mysql", "pgsql")
        for text in (
            "THE PASSWORD OF THE ACCOUNT mailserver",
            "THE PASSWORD OF THE ACCOUNT (without a name) IN /etc/postfix/x.cf",
            "the password of the account mailserver",
            "the password of mailserver@127.0.0.1",
            "the password of that user",
        )
    ),
    ("mysql", {"hosts": ["TOKEN", "*" * 10]}, {}, "hosts", "mask"),
    *(
        ("mysql", {"password": value}, {}, "password", "in quotes")
        for value in (12345, 1.5, True, False, datetime.date(2024, 2, 29), b"TOKEN", ["TOKEN"], {"TOKEN": 1})
    ),
    ("pgsql", {"dbname": 2024}, {}, "dbname", "in quotes"),
    # Keys.
    ("mysql", {"pasword": "TOKEN"}, {}, "pasword", "not a key of mysql_table(5)"),
    ("mysql", {"Password": "TOKEN"}, {}, "Password", "is password meant?"),
    ("mysql", {"tls_cafile": "TOKEN"}, {}, "tls_cafile", "is tls_CAfile meant?"),
    ("mysql", {1: "TOKEN"}, {}, "1", "not a key"),
    ("mysql", {"unknown": None}, {}, "unknown", "not a key"),
    *(
        ("mysql", {key: "TOKEN"}, {}, key, "is ignored beside query: take it out")
        for key in ("table", "select_field", "where_field", "additional_conditions", "select_function")
    ),
    *(
        (
            type_,
            {"query": None, "table": "TOKEN", "select_field": "a", "where_field": "b", **more},
            {},
            "query",
            f"makes it of {', '.join(['table', 'select_field', 'where_field', *more])}, keys of Postfix 2.1: "
            "write what it makes in place of them: "
            "SELECT [select_field] FROM [table] WHERE [where_field]='%s' [additional_conditions]",
        )
        for type_, more in (
            ("mysql", {"additional_conditions": "a"}),
            ("sqlite", {}),
            ("pgsql", {"additional_conditions": "TOKEN"}),
        )
    ),
    ("pgsql", {"query": None, "select_function": "TOKEN"}, {}, "query", "of them: SELECT [select_function]('%s')"),
    *(
        ("mysql", {key: "TOKEN"}, {}, key, words)
        for key, words in (
            ("port", "would ignore it: write it into hosts, as in 127.0.0.1:3307"),
            ("Socket", "write it into hosts, as in unix:/run"),
            ("unix_socket", "write it into hosts, as in unix:/run"),
            ("server", "write hosts"),
            ("Database", "write dbname"),
            ("db", "write dbname"),
            ("username", "write user"),
            ("pass", "write password"),
            ("passwd", "write password"),
        )
    ),
    ("sqlite", {"password": "TOKEN"}, {}, "password", "is a key of mysql and pgsql tables"),
    ("mysql", {"dbpath": "TOKEN"}, {}, "dbpath", "is a key of sqlite tables"),
    ("mysql", {"encoding": "TOKEN"}, {}, "encoding", "is a key of pgsql tables"),
    *(
        ("pgsql", {key: "yes"}, {}, key, "is a key of mysql tables")
        for key in ("charset", "option_file", "option_group", "require_result_set", "tls_CAfile", "tls_verify_cert")
    ),
    ("mysql", {"charset": "TOKEN"}, {"version": BOOKWORM}, "charset", "from Postfix 3.9 on, but 3.7.11"),
    ("pgsql", {"encoding": "TOKEN"}, {"version": BOOKWORM}, "encoding", "from Postfix 3.8 on"),
    ("mysql", {"idle_interval": 9}, {"version": BOOKWORM}, "idle_interval", "3.9"),
    ("pgsql", {"retry_interval": 9}, {"version": "3.8.13"}, "retry_interval", "3.9"),
    ("mysql", {"require_result_set": True}, {"version": "3.1.15"}, "require_result_set", "3.2"),
    ("mysql", {"tls_CAfile": "/TOKEN"}, {"version": "2.10.1"}, "tls_CAfile", "2.11"),
    *(
        (type_, {key: ""}, {}, key, "is empty, which is fatal to Postfix")
        for type_, key in (("mysql", "charset"), ("mysql", "dbname"), ("pgsql", "encoding"), ("sqlite", "dbpath"))
    ),
    ("mysql", {"dbname": None}, {}, "dbname", "is missing"),
    ("sqlite", {"dbpath": None}, {}, "dbpath", "is missing"),
    ("pgsql", {"query": None}, {}, "query", "is missing"),
    # Booleans and numbers.
    *(
        ("mysql", {"require_result_set": value}, {}, "require_result_set", "yes or no")
        for value in ("true", "TOKEN", "1", "", 1, 0, ["yes"], "yes\n", " no")
    ),
    ("mysql", {"tls_verify_cert": "on"}, {}, "tls_verify_cert", "yes or no"),
    *(
        ("mysql", {"expansion_limit": value}, {}, "expansion_limit", "whole number")
        for value in (-1, "-1", 1.5, "1e3", "", "TOKEN", True, "9" * 10, 10**9, "1\n", "٣", [1], {})
    ),
    # The query.
    ("mysql", {"query": ""}, {}, "query", ...),
    ("mysql", {"query": f"{WHERE}n='%s' AND m LIKE '%TOKEN'"}, {}, "query", "fatal to Postfix"),
    ("mysql", {"query": f"{WHERE}n='%s' AND m LIKE 'TOKEN%'"}, {}, "query", "fatal to Postfix"),
    ("mysql", {"query": f"{WHERE}n='%s' -- 5%"}, {}, "query", "fatal to Postfix"),
    ("mysql", {"query": f"{WHERE}n='%s' AND m='%0'"}, {}, "query", "fatal to Postfix"),
    ("mysql", {"query": f"{WHERE}n='%s' AND m='TOKEN\\%x'"}, {}, "query", "fatal to Postfix"),
    ("mysql", {"query": f"{WHERE}n='%s' AND k % 2"}, {}, "query", "fatal to Postfix"),
    ("mysql", {"query": f"{WHERE}n='TOKEN'"}, {}, "query", "no expansion"),
    ("mysql", {"query": f"{WHERE}n='%%s'"}, {}, "query", "no expansion"),
    *(("mysql", {"query": f"{WHERE}n=%{letter}"}, {}, "query", "outside quotes") for letter in "sudSUD19"),
    ("mysql", {"query": f"{WHERE}n='%s' AND m=%u"}, {}, "query", "outside quotes"),
    ("mysql", {"query": f"{WHERE}n='TOKEN''' AND m=%s"}, {}, "query", "outside quotes"),
    ("mysql", {"query": f"{WHERE}n='TOKEN\\\\' AND m=%s"}, {}, "query", "outside quotes"),
    ("mysql", {"query": "SELECT 1 FROM `%s`"}, {}, "query", "outside quotes"),
    ("mysql", {"query": f"{WHERE}n=1 # '%s'"}, {}, "query", "inside an SQL comment"),
    ("mysql", {"query": f"{WHERE}n=1 -- '%s'"}, {}, "query", "inside an SQL comment"),
    ("sqlite", {"query": f"{WHERE}n=1 --'%s'"}, {}, "query", "inside an SQL comment"),
    ("mysql", {"query": f"{WHERE}n=1 /* '%s' */"}, {}, "query", "inside an SQL comment"),
    ("pgsql", {"query": f'{WHERE}n="%s"'}, {}, "query", "name a column"),
    ("pgsql", {"query": f"{WHERE}n=E'%s'"}, {}, "query", "where a sender's backslash escapes"),
    ("pgsql", {"query": f"{WHERE}n=$$%s$$"}, {}, "query", "outside quotes"),
    ("pgsql", {"query": f"{WHERE}n=1 /* /* TOKEN */ '%s' */"}, {}, "query", "inside an SQL comment"),
    ("pgsql", {"query": f"{WHERE}n=U&'%s'"}, {}, "query", "where a sender's backslash escapes"),
    ("pgsql", {"query": f"{WHERE}n=E'x'\r'%s'"}, {}, "query", "has a carriage return"),
    ("sqlite", {"query": f'{WHERE}n="%s"'}, {}, "query", "does not escape"),
    ("sqlite", {"query": "SELECT [a'b] FROM t WHERE n=%s OR [a'b]"}, {}, "query", "outside quotes"),
    ("mysql", {"query": f"{WHERE}n='%s' /*! OR 'TOKEN' */"}, {}, "query", "some servers run"),
    ("mysql", {"query": f"{WHERE}n='\\%s'"}, {}, "query", "backslash"),
    ("mysql", {"query": f"{WHERE}n='TOKEN\\\\\\%s'"}, {}, "query", "backslash"),
    ("mysql", {"query": f"{WHERE}n='%s'; DELETE FROM TOKEN"}, {}, "query", "second statement"),
    ("mysql", {"query": f"{WHERE}n='%s' AND m='TOKEN"}, {}, "query", "does not close"),
    ("mysql", {"query": f"{WHERE}n='%s' AND m='TOKEN\\'"}, {}, "query", "does not close"),
    ("mysql", {"query": f"{WHERE}n='%s' AND `TOKEN"}, {}, "query", "does not close"),
    ("mysql", {"query": f"{WHERE}n='%s' /* TOKEN"}, {}, "query", "does not close"),
    ("pgsql", {"query": f"'{QUERY}'"}, {}, "query", ...),
    ("mysql", {"query": f'"{QUERY}"'}, {}, "query", "without quotes around it"),
    ("mysql", {"query": "DELETE FROM t WHERE n='%s'"}, {}, "query", "beginning with SELECT"),
    ("mysql", {"query": ["SELECT", "TOKEN"]}, {}, "query", "in quotes"),
    # The result format.
    *(
        ("mysql", {"result_format": value}, {}, "result_format", "fatal to Postfix")
        for value in ("%", "%x", "TOKEN%", "%s%", "%%%", "%0")
    ),
    ("mysql", {"result_format": "'%s'"}, {}, "result_format", "quotes around it"),
    ("mysql", {"result_format": '"TOKEN"'}, {}, "result_format", "quotes around it"),
    ("mysql", {"result_format": ""}, {}, "result_format", "is empty"),
    # Hosts.
    *(
        (type_, {"hosts": value}, {}, "hosts", "IPv6")
        for type_ in ("mysql", "pgsql")
        for value in ("[::1]", "[::1]:3306", "::1", "fe80::1", "inet:[::1]:3306", "127.0.0.1 2001:db8::1", "a:b:3306")
    ),
    *(
        (type_, {"hosts": value}, {}, "hosts", "port that is not a number from 1 to 65535")
        for type_ in ("mysql", "pgsql")
        for value in ("db:0", "db:65536", "db:TOK/EN", "db:-1", "inet:db:99999", ["127.0.0.1", "db:33/06"])
    ),
    ("mysql", {"hosts": "db:"}, {}, "hosts", "nor the name of a service"),
    ("pgsql", {"hosts": "db:amqp"}, {}, "hosts", "port that is not a number from 1 to 65535: correct"),
    ("mysql", {"hosts": ":3306"}, {}, "hosts", "without a host"),
    *(
        ("mysql", {"hosts": value}, {}, "hosts", "the port is ignored: write 127.0.0.1")
        for value in ("localhost:13306", "inet:localhost:3306", "LOCALHOST:3306", ["db", "localhost:3306"])
    ),
    *((type_, {"hosts": "unix:TOKEN"}, {}, "hosts", "without an absolute path") for type_ in ("mysql", "pgsql")),
    ("mysql", {"hosts": ""}, {}, "hosts", "no host"),
    ("mysql", {"hosts": []}, {}, "hosts", "empty list"),
    ("mysql", {"hosts": ["a b", "TOKEN"]}, {}, "hosts", "two items"),
    ("mysql", {"hosts": ["a,TOKEN"]}, {}, "hosts", "two items"),
    ("mysql", {"hosts": [1]}, {}, "hosts", "in quotes"),
    ("mysql", {"hosts": {"TOKEN": 1}}, {}, "hosts", "is a mapping: write a text or a list of texts"),
    ("mysql", {"hosts": [{"TOKEN": 1}]}, {}, "hosts", "has an item that is no text: write a text or a list of texts"),
    *(
        ("pgsql", {"hosts": value}, {}, "hosts", "holds a password")
        for value in (
            "postgresql://u:TOKEN@db/mail",
            "postgres://u:TOKEN@db",
            "postgresql://u@db/mail?password=TOKEN",
            "postgresql://u@db/mail?sslmode=require&password=TOKEN",
            ["db", "postgresql://u:TOKEN@db/mail"],
        )
    ),
    ("mysql", {"hosts": "postgresql://u@db/mail"}, {}, "hosts", "is a URI, which Postfix would take for the name"),
    # Across keys.
    *(
        (type_, {"domain": "TOKEN"}, {"parameter": parameter}, "domain", f"stops every question of {parameter}")
        for type_ in TYPES
        for parameter in ("virtual_mailbox_domains", "virtual_alias_domains", "relay_domains", "mydestination")
    ),
    ("mysql", {"domain": []}, {}, "domain", "empty list"),
    ("mysql", {"tls_cert_file": "/TOKEN"}, {}, "tls_key_file", "is missing"),
    ("mysql", {"tls_key_file": "/TOKEN"}, {}, "tls_cert_file", "is missing"),
]

# As above, but nothing is wrong with it.
ALLOWED = [
    *((type_, {}, {"version": version}) for type_ in TYPES for version in (BOOKWORM, TRIXIE)),
    ("mysql", {"charset": "utf8mb4", "idle_interval": 60, "retry_interval": "60"}, {"version": TRIXIE}),
    ("mysql", {"charset": "utf8mb4"}, {"version": "3.9"}),
    ("mysql", {"charset": "utf8mb4"}, {"version": "3.11-20250801"}),
    ("mysql", {"charset": "utf8mb4"}, {"version": "4.0.0"}),
    ("mysql", {"charset": "utf8mb4"}, {}),
    ("mysql", {"require_result_set": "NO", "tls_verify_cert": True}, {"version": BOOKWORM}),
    ("pgsql", {"encoding": "UTF8"}, {"version": TRIXIE}),
    *(("mysql", {"password": f"{blank}p{blank}"}, {}) for blank in "\xa0\x85\u2028\x1c\x1d\x1e\x1f\ufeff"),
    *(("mysql", {"password": value}, {}) for value in ("*" * 9, "*" * 11, "%s%", "#;='\"\\{}$$${x}", "a \t b", "yes")),
    *(("mysql", {"hosts": value}, {}) for value in ("localhost", "unix:/x", None)),
    ("mysql", {"option_file": "/x"}, {}),
    ("pgsql", {"hosts": "localhost:5432"}, {}),
    ("pgsql", {"hosts": "postgresql://u@db:5432/mail?sslmode=require"}, {}),
    *(("mysql", {"hosts": value}, {}) for value in ("::1:3307", "127.0.0.1:amqp", "127.0.0.1:a.b-c_1+d")),
    *(("pgsql", {"hosts": value}, {}) for value in ("::1:5433", "127.0.0.1:")),
    *(("mysql", {"hosts": value}, {}) for value in ("db:1", "db:65535", "inet:db", "127.0.0.1, 127.0.0.2", ["a", "b"])),
    *(("mysql", {"query": f"{WHERE}n='%{letter}'"}, {}) for letter in "sudSUD123456789"),
    *(
        (type_, {"query": query}, {})
        for type_ in TYPES
        for query in (
            f"{WHERE}n='%s';",
            f"{WHERE}n LIKE '%%%s%%'",
            f"{WHERE}n='a;--/*#''b' AND m='%s'",
            f"{WHERE}k %% 2 AND m=concat('x','%u')",
            f"{WHERE}n='%s' /* it's why */",
            f"/* of mailboxes */ ( /**/ {WHERE}n='%s')",
            "(select 1 FROM t WHERE n='%s')",
            f"WITH a AS (SELECT 1) {WHERE}n='%s'",
        )
    ),
    *((type_, {"query": f"{WHERE}`a;b`=1 AND m='%s'"}, {}) for type_ in ("mysql", "sqlite")),
    ("mysql", {"query": f"{WHERE}n='%s' AND m='a\\'b\\\\'"}, {}),
    ("mysql", {"query": f"{WHERE}n='\\\\%s'"}, {}),
    ("mysql", {"query": f"{WHERE}n='%s' AND m LIKE '5\\%%'"}, {}),
    ("mysql", {"query": f"{WHERE}`a\\`=1 AND n='%s'"}, {}),
    ("sqlite", {"query": f"{WHERE}m='\\' AND n='%s'"}, {}),
    ("pgsql", {"query": f"{WHERE}m='\\' AND n='%s'"}, {}),
    ("pgsql", {"query": f"{WHERE}a #- '{{1}}' = '%s'"}, {}),
    ("mysql", {"query": f"{WHERE}a--1 AND n='%s'"}, {}),
    *(("mysql", {"result_format": value}, {}) for value in ("%s", "OK", "%%", "%u@%d:[%s]", "'", "%%s")),
    *(("mysql", {"domain": value}, {"parameter": "virtual_alias_maps"}) for value in ("a, b", ["Q~", "b"])),
    ("mysql", {"tls_cert_file": "/c", "tls_key_file": "/k"}, {}),
]

WARNINGS = [
    ("mysql", {"query": f'{WHERE}n="%s"'}, {}, "query", "ANSI_QUOTES"),
    ("mysql", {"query": f"{WHERE}n='%s' -- TOKEN"}, {}, "query", "is not read"),
    ("mysql", {"query": f"{WHERE}n='%s' # it's"}, {}, "query", "is not read"),
    ("pgsql", {"query": f"{WHERE}n='%s' --TOKEN"}, {}, "query", "is not read"),
    ("mysql", {"domain": "TOKEN"}, {"parameter": "virtual_alias_maps"}, "domain", "catch-alls"),
    *(
        ("mysql", {"password": "", "hosts": hosts}, {}, "password", "is empty")
        for hosts in ("127.0.0.1", "localhost ::1:1")
    ),
    ("mysql", {"hosts": "TOKEN.example.org"}, {}, "hosts", "without TLS"),
    ("mysql", {"hosts": "127.0.0.1 inet:192.0.2.1:3306"}, {}, "hosts", "without TLS"),
    *(
        ("mysql", {"hosts": "db.example.org", **keys}, {}, "hosts", "without TLS that is verified")
        for keys in (
            {"tls_verify_cert": True},
            {"tls_ciphers": "HIGH"},
            {"tls_CAfile": "/etc/ssl/ca.pem"},
            {"tls_CApath": "/etc/ssl/certs", "tls_verify_cert": False},
            {"tls_CAfile": "", "tls_verify_cert": True},
        )
    ),
    ("mysql", {"hosts": "localhost.example.org"}, {}, "hosts", "without TLS"),
    ("pgsql", {"hosts": "127.0.0.1 TOKEN.example.org"}, {}, "hosts", "where libpq trusts any server"),
    ("mysql", {"hosts": "postgres.example.org"}, {}, "hosts", "without TLS"),
]

UNWARNED = [
    *((type_, {}) for type_ in TYPES),
    *(
        ("mysql", {"hosts": value})
        for value in ("127.0.0.1:3307", "localhost", "LOCALHOST", "unix:/x", "inet:127.1.2.3")
    ),
    *(
        ("mysql", {"hosts": "db.example.org", "tls_verify_cert": True, key: "/etc/ssl/ca"})
        for key in ("tls_CAfile", "tls_CApath")
    ),
    # A login by the name of the process, or without any check.
    ("pgsql", {"password": ""}),
    ("pgsql", {"hosts": "127.0.0.1 postgresql://db.example.org/?sslmode=verify-full"}),
    *(("mysql", {"password": "", "hosts": value}) for value in ("localhost", "unix:/x", "unix:/x, localhost")),
]


def with_token(value, token):
    if isinstance(value, str):
        return value.replace("TOKEN", token)
    if isinstance(value, bytes):
        return value.replace(b"TOKEN", token.encode())
    if isinstance(value, list):
        return [with_token(item, token) for item in value]
    if isinstance(value, dict):
        return {with_token(key, token): with_token(item, token) for key, item in value.items()}
    return value


@pytest.mark.parametrize("type_, changes, facts, key, words", FAULTS)
def test_each_fault_is_reported_once_and_alone(type_, changes, facts, key, words):
    """A second, untrue sentence sends an admin the wrong way."""
    errors = found("errors", type_, changes, **facts)
    assert {at for at, _ in errors} == {key}
    if words is not ...:
        assert [words in sentence for _, sentence in errors] == [True], errors


@pytest.mark.parametrize("type_, changes, facts", ALLOWED)
def test_what_postfix_reads_as_it_was_meant_is_no_fault(type_, changes, facts):
    assert found("errors", type_, changes, **facts) == []


@pytest.mark.parametrize("type_, changes, facts, key, words", WARNINGS)
def test_doubts_are_warnings(type_, changes, facts, key, words):
    assert found("errors", type_, changes, **facts) == []
    warnings = found("warnings", type_, changes, **facts)
    assert [(at, words in sentence) for at, sentence in warnings] == [(key, True)], warnings


@pytest.mark.parametrize("type_, changes", UNWARNED)
def test_no_warning_without_a_doubt(type_, changes):
    assert found("warnings", type_, changes) == []


@pytest.mark.parametrize("type_, changes, facts, key, words", [*FAULTS, *WARNINGS])
def test_no_sentence_holds_a_value(type_, changes, facts, key, words):
    """A sentence ends up in the job cache and in the master's log."""
    token = f"q{uuid.uuid4().hex}"
    keys = table(type_, {at: with_token(value, token) for at, value in changes.items()})
    findings = _ispmail_tablefile.validate(type_, keys, **facts)
    assert findings.errors or findings.warnings
    assert token not in repr(findings)
    if found("errors", type_, changes):
        with pytest.raises(InvalidInput) as error:
            _ispmail_tablefile.canonicalize(type_, keys)
        assert token not in str(error.value)


def test_all_faults_are_reported_at_once():
    keys = {
        "user": 5,
        "password": "a\nb",
        "hosts": "db:0 [::1]",
        "query": "SELECT 1 FROM t WHERE n=%s AND m='%x",
        "result_format": "%",
        "expansion_limit": -1,
        "require_result_set": "maybe",
        "charset": "x",
        "dbpath": "/x",
        "Table": "x",
        "table": "x",
        "tls_key_file": "/k",
        "domain": "x",
    }
    errors = _ispmail_tablefile.validate("mysql", keys, version=BOOKWORM, parameter="relay_domains").errors
    at = [fault.key for fault in errors]
    assert set(at) == {*keys, "dbname", "tls_cert_file"} - {"tls_key_file"}
    assert at.count("hosts") == 2
    assert at.count("query") == 3
    with pytest.raises(InvalidInput) as error:
        _ispmail_tablefile.canonicalize("mysql", keys)
    lines = str(error.value).splitlines()[1:]
    assert {line.removeprefix("- ").split(" ")[0] for line in lines} == set(at) - {"charset", "domain"}


@pytest.mark.parametrize(
    "type_, key", [("mysql", "dbname"), ("pgsql", "dbname"), ("sqlite", "dbpath"), ("pgsql", "encoding")]
)
def test_a_key_that_must_not_be_empty(type_, key):
    """Measured: "fatal: bad string length 0 < 1: dbname", which kills smtpd; it was let through."""
    assert [at for at, _ in found("errors", type_, {key: ""})] == [key]


@pytest.mark.parametrize("key", ["idle_interval", "retry_interval"])
@pytest.mark.parametrize("type_", ["mysql", "pgsql"])
def test_an_interval_is_one_second_or_more(type_, key):
    """dict_pgsql.c and dict_mysql.c read them with a minimum of 1: 0 is fatal; it was let through."""
    assert [at for at, _ in found("errors", type_, {key: 0})] == [key]
    assert found("errors", type_, {key: 1}) == []


def test_the_expansion_limit_may_be_0():
    assert found("errors", "mysql", {"expansion_limit": 0}) == []


def test_a_password_in_a_uri_goes_where_postfix_reads_it():
    """Postfix hands a URI to PQconnectdb() and ignores user and password then: they do not fix it."""
    keys = table("pgsql", {"hosts": "postgresql://u:x@db/mail"})
    (fault,) = _ispmail_tablefile.validate("pgsql", keys).errors
    assert (fault.key, "URI" in fault.fix) == ("hosts", True)


@pytest.mark.parametrize(
    "call",
    [
        _ispmail_tablefile.schema,
        *(
            lambda type_, function=function: function(type_, {})
            for function in (_ispmail_tablefile.validate, _ispmail_tablefile.canonicalize)
        ),
    ],
)
@pytest.mark.parametrize("type_", ["MySQL", "ldap", "", None, 1, ["mysql"], {}])
def test_another_type_is_refused(call, type_):
    with pytest.raises(InvalidInput, match="mysql, pgsql, sqlite"):
        call(type_)


@pytest.mark.parametrize("keys", [None, [], "text", 1, [["user", "u"]]])
def test_keys_must_be_a_mapping(keys):
    with pytest.raises(InvalidInput, match="mapping"):
        _ispmail_tablefile.validate("mysql", keys)


@pytest.mark.parametrize("version", [3.1, 3, ["3.10"]])
def test_a_version_that_is_no_text_is_refused(version):
    """On a command line version=3.10 is the number 3.1: re.findall broke with a TypeError."""
    with pytest.raises(InvalidInput, match="version"):
        _ispmail_tablefile.validate("mysql", {**GOOD["mysql"], "charset": "x"}, version=version)


def test_a_number_of_too_many_digits_is_a_fault():
    """YAML reads 0xfff… of any length; str() of it broke with a ValueError."""
    assert [key for key, _ in found("errors", "mysql", {"expansion_limit": 16**5000})] == ["expansion_limit"]


@given(st.sampled_from(TYPES), st.data())
def test_no_structure_breaks_it(type_, data):
    """Pillar may hold anything: it is refused in a sentence, never with a traceback."""
    known = list(_ispmail_tablefile.schema(type_))
    keys = data.draw(st.dictionaries(st.sampled_from(known), yaml(known)) | yaml([*known, "table", "Password"]))
    facts = {
        "version": data.draw(st.sampled_from([None, "", "x", BOOKWORM, TRIXIE])),
        "parameter": data.draw(st.none() | odd_texts | st.just("relay_domains")),
    }
    if not isinstance(keys, dict):
        with pytest.raises(InvalidInput):
            _ispmail_tablefile.validate(type_, keys, **facts)
        return
    result = _ispmail_tablefile.validate(type_, keys, **facts)
    faults = [*result.errors, *result.warnings]
    assert {type(text) for fault in faults for text in (fault.key, fault.reason, fault.fix)} <= {str}
    if _ispmail_tablefile.validate(type_, keys).errors:
        with pytest.raises(InvalidInput):
            _ispmail_tablefile.canonicalize(type_, keys)
    else:
        assert {type(value) for value in _ispmail_tablefile.canonicalize(type_, keys).values()} <= {str}


CANONICAL = [
    ("mysql", {"hosts": ["a", "b:1"]}, "hosts", "a b:1"),
    ("mysql", {"hosts": ("a", "b")}, "hosts", "a b"),
    ("mysql", {"hosts": "a,b,\tc  d"}, "hosts", "a b c d"),
    ("mysql", {"domain": "a, b"}, "domain", "a b"),
    ("mysql", {"domain": ["a", "b"]}, "domain", "a b"),
    ("mysql", {"require_result_set": True}, "require_result_set", "yes"),
    ("mysql", {"require_result_set": False}, "require_result_set", "no"),
    ("mysql", {"tls_verify_cert": "YES"}, "tls_verify_cert", "yes"),
    ("mysql", {"expansion_limit": 5}, "expansion_limit", "5"),
    ("mysql", {"expansion_limit": "5"}, "expansion_limit", "5"),
    ("mysql", {"password": "No"}, "password", "No"),
    ("mysql", {"password": ""}, "password", ""),
    ("mysql", {"password": "a,  b"}, "password", "a,  b"),
    ("mysql", {"password": None}, "password", None),
    ("mysql", {"hosts": None}, "hosts", None),
]


@pytest.mark.parametrize("type_, changes, key, value", CANONICAL)
def test_one_form_of_each_value(type_, changes, key, value):
    assert _ispmail_tablefile.canonicalize(type_, table(type_, changes)).get(key) == value


@pytest.mark.parametrize("value", ["a,", "a, ", ",a", ["a", ""], ["", "a"], [""], ",", ", ,", ""])
@pytest.mark.parametrize("key", ["hosts", "domain"])
def test_an_empty_item_of_a_list_is_refused_or_left_out(key, value):
    """`domain: [a, ""]` became "a ", which Postfix reads as "a": a change at every apply."""
    keys = table("mysql", {key: value})
    if not _ispmail_tablefile.validate("mysql", keys).errors:
        assert _ispmail_tablefile.canonicalize("mysql", keys)[key] in ("a", "")


def rendered(table_type, keys):
    return _ispmail_tablefile.text_of(_ispmail_tablefile.canonicalize(table_type, keys))


@pytest.mark.parametrize("type_", TYPES)
def test_keys_come_in_the_order_of_the_file(type_):
    keys = dict(reversed(GOOD[type_].items()))
    assert list(_ispmail_tablefile.canonicalize(type_, keys)) == list(GOOD[type_])
    assert [line.split(" ")[0] for line in rendered(type_, keys).splitlines()] == list(GOOD[type_])


@pytest.mark.parametrize("query", GUIDE.values(), ids=GUIDE)
def test_the_files_of_the_guide_to_the_byte(query):
    keys = {"query": query, "dbname": "mailserver", "hosts": "127.0.0.1", "password": "pw", "user": "mailserver"}
    assert rendered("mysql", keys) == (
        f"user = mailserver\npassword = pw\nhosts = 127.0.0.1\ndbname = mailserver\nquery = {query}\n"
    )


@pytest.mark.parametrize(("password", "line"), [("", "password ="), ("a~Q", "password = a~Q"), ("~", "password = ~")])
def test_only_blanks_are_taken_from_the_end_of_a_line(password, line):
    assert f"\n{line}\n" in rendered("mysql", table("mysql", {"password": password}))


@pytest.mark.parametrize(
    "type_, only",
    [("mysql", {"charset", "option_file", "tls_verify_cert"}), ("pgsql", {"encoding"}), ("sqlite", {"dbpath"})],
)
def test_the_schema_knows_the_keys_of_its_type(type_, only):
    others = [_ispmail_tablefile.schema(other) for other in TYPES if other != type_]
    schema = _ispmail_tablefile.schema(type_)
    assert only <= set(schema)
    assert not any(only & set(other) for other in others)
    assert [key for key in schema if schema[key].secret] == ([] if type_ == "sqlite" else ["password"])
    assert [key for key in schema if schema[key].required] == ["dbpath" if type_ == "sqlite" else "dbname", "query"]


SINCE = {
    "3.9": {"charset", "idle_interval", "retry_interval"},
    "3.2": {"require_result_set"},
    "2.11": {
        "option_file",
        "option_group",
        "tls_cert_file",
        "tls_key_file",
        "tls_CAfile",
        "tls_CApath",
        "tls_ciphers",
        "tls_verify_cert",
    },
}


@pytest.mark.parametrize("release, keys", SINCE.items())
def test_the_schema_knows_since_when(release, keys):
    schema = _ispmail_tablefile.schema("mysql")
    assert {key for key in schema if schema[key].since == release} == keys


SHOWN_KEYS = [
    ("pasword", "pasword"),
    ("tls_cafile", "tls_cafile"),
    (1, "1"),
    (True, "True"),
    ("x" * 40, "x" * 40),
    # The greatest number that Salt's msgpack can send.
    (2**64 - 1, "18446744073709551615"),
    (2**64, "(a key that is not shown)"),
    *(
        (key, "(a key that is not shown)")
        for key in (
            "password:TOKEN",
            "TOKEN ",
            "TOKEN\n",
            "TOKEN-x",
            "TOKENé",
            "٣",
            "",
            "x" * 41,
            -1,
            1.5,
            None,
            b"TOKEN",
            ("TOKEN",),
            datetime.date(2024, 2, 29),
        )
    ),
    # str() of it fails.
    pytest.param(16**5000, "(a key that is not shown)", id="6021 digits"),
]


@pytest.mark.parametrize("key, shown", SHOWN_KEYS)
def test_an_unknown_key_is_shown_only_where_it_is_a_plain_identifier(key, shown):
    """`{password:SECRET, hosts: x}`, a blank forgotten, is one key: the message printed the password."""
    assert _ispmail_tablefile.shown_key(key) == shown
    (fault,) = _ispmail_tablefile.validate("mysql", table("mysql", {key: None})).errors
    assert fault.key == shown
    assert ("is a blank missing after a colon?" in fault.fix) == shown.startswith("(")
    assert "TOKEN" not in str(fault)


PARSED = [
    ("", {}),
    ("a = b\n", {"a": "b"}),
    ("a=b", {"a": "b"}),
    ("a =\n", {"a": ""}),
    ("a = b = c # d\n", {"a": "b = c # d"}),
    ("# a = b\n  # c = d\n\n \t\v\n#\n", {}),
    ("a = b\n  c\n", {"a": "b  c"}),
    ("a = b\n\n# comment\n \n  c\nd = e\n", {"a": "b  c", "d": "e"}),
    ("a = b\n\tc = d\n", {"a": "b\tc = d"}),
    ("a = 1\na = 2\n", {"a": "2"}),
    ("Q~ = a\n", {"Q~": "a"}),
    ("a = \t b \v\f\r\n", {"a": "b"}),
    ("a = \x85b\xa0\u2028\x1c\n", {"a": "\x85b\xa0\u2028\x1c"}),
    ("a = b\x0cc\x1dd\x85e\u2028f\n", {"a": "b\x0cc\x1dd\x85e\u2028f"}),
    ("\ufeffa = b\n", {"\ufeffa": "b"}),
    ("a = 'b'\n", {"a": "'b'"}),
    # Measured with postmap 3.7: "logical line must not start with whitespace", and passed over.
    ("  a = b\nc = d\n", {"c": "d"}),
    ("  a = b\n  c = d\n", {}),
]


@pytest.mark.parametrize("text, keys", PARSED)
def test_parse_reads_as_postfix_does(text, keys):
    assert _ispmail_tablefile.parse(text) == keys
    assert as_postfix_reads(text.encode()) == {key.encode(): value.encode() for key, value in keys.items()}


@pytest.mark.parametrize(
    "content, is_table",
    [
        (b"", False),
        (b"\0\0 \n", False),
        (b"hosts = a\nuser = b\ndbname = c\nselect_function = d\n", True),
        (b"[global]\nhostname=a\nport=1\ndbname=b\npassword=c\nuser=d\nquery=cdr\n", False),
        (b"user = a\npassword = b\ndbname = c\ntable = d\n", False),
        (b"hosts = a\ndbname = b\nquery = SELECT 1\n", True),
        (b"# a comment\nhosts = a\ntable = b\nselect_field = c\nwhere_field = d\n", True),
        (b"hosts = a\nuser = b\nmisspelt = c\nquery = SELECT 1\nno line\n", True),
        (b"# a comment\n", False),
        (b"root:*:19000:0:99999:7:::\n", False),
        (b"127.0.0.1 localhost\n", False),
        (b"[client]\nuser = a\npassword = b\n", False),
        (b"user = a\npassword = b\nhosts = c\n", False),
        (b"DB_HOST=a\nDB_USER=b\nDB_PASSWORD=c\nquery=d\n", False),
        (b"server_host = a\nsearch_base = b\nquery_filter = c\nquery = d\n", False),
        (b"\xff\xfe\0query", False),
    ],
)
def test_what_is_a_table_file(content, is_table):
    """Anything else is another program's: an apply would destroy it."""
    assert _ispmail_tablefile.is_table(content) is is_table


@pytest.mark.parametrize(
    ("content", "tells"),
    [
        ("user = u\n", True),
        ("user = u\noption_file = /etc/my.cnf\n", False),
        ("user = u\noption_file =\n", True),
        ("password = p\n", False),
        ("user =\npassword = p\n", False),
        (None, False),
    ],
)
def test_whether_a_file_tells_who_logs_in(content, tells):
    """The clients of both kinds of server take the name of the process's user where they are given none."""
    assert _ispmail_tablefile.tells_login(_ispmail_tablefile.parse(content)) is tells


def test_parse_takes_what_a_file_holds():
    assert _ispmail_tablefile.parse(None) == _ispmail_tablefile.parse(b"") == {}
    assert _ispmail_tablefile.parse("password = é\n".encode()) == {"password": "é"}
    assert _ispmail_tablefile.parse(b"password = \xe9\n") == {"password": "\udce9"}


@pytest.mark.parametrize("line", ["a", "a b = c", "= c", "="])
def test_parse_passes_over_what_is_fatal_to_postfix(line):
    """It is said in parse's docstring; "a b = c" was read as a key "a b"."""
    assert _ispmail_tablefile.parse(f"x = 1\n{line}\ny = 2\n") == {"x": "1", "y": "2"}


@given(st.text(st.sampled_from("ab=# \t\v\r\n\x1c\x85\u2028"), max_size=30))
def test_parse_agrees_with_the_other_reader(text):
    try:
        expected = as_postfix_reads(text.encode())
    except ValueError:
        assume(False)
    assert {key.encode(): value.encode() for key, value in _ispmail_tablefile.parse(text).items()} == expected


@pytest.mark.parametrize("type_", TYPES)
@given(data=st.data())
def test_what_is_rendered_is_read_as_it_was_meant(type_, data):
    """The property that pins the format."""
    keys = data.draw(sound_tables(type_, _ispmail_tablefile.schema(type_)))
    assert _ispmail_tablefile.validate(type_, keys).errors == ()
    canonical = _ispmail_tablefile.canonicalize(type_, keys)
    text = _ispmail_tablefile.text_of(canonical)
    assert _ispmail_tablefile.canonical(keys) == canonical
    assert _ispmail_tablefile.parse(text) == canonical
    assert list(_ispmail_tablefile.parse(text)) == list(canonical)
    assert as_postfix_reads(text.encode()) == {key.encode(): value.encode() for key, value in canonical.items()}
    assert _ispmail_tablefile.canonicalize(type_, canonical) == canonical
    for key, value in keys.items():
        if isinstance(value, str) and _ispmail_tablefile.schema(type_)[key].kind in ("text", "query", "format"):
            assert canonical[key] == value


@settings(max_examples=500)
@given(st.sampled_from(["mysql", "pgsql"]), st.data(), odd_texts)
def test_refused_is_exactly_what_would_be_misread(type_, data, value):
    """Neither may a good password be refused, nor one be written that Postfix reads as another."""
    key = data.draw(st.sampled_from(TEXT_KEYS[type_]))
    try:
        misread = as_postfix_reads(f"{key} = {value}\n".encode()) != {key.encode(): value.encode()}
    except ValueError:
        # Postfix would die of it, or (UnicodeEncodeError) it cannot be written at all.
        misread = True
    refused = [at for at, _ in found("errors", type_, {key: value})]
    # Salt's mask, and what nobody has decrypted, stand for another text.
    stands_for_another = value == "*" * 10 or value.lstrip().startswith(("-----BEGIN", "$ANSIBLE_VAULT"))
    assert refused == ([key] if misread or stands_for_another else [])


@pytest.mark.parametrize(
    "hosts",
    [
        "postgresql://u:TOKEN@db/mail",
        "db postgres://u:TOKEN@db/mail?sslmode=require",
        "postgresql://u@db/mail?password=TOKEN",
        "postgresql://u@db/mail?sslkey=/k&sslpassword=TOKEN",
    ],
)
def test_a_password_in_a_uri_is_a_secret(hosts):
    """An old file may hold one, by hand: read, and the diff with the new file, showed it."""
    old, new = table("pgsql", {"hosts": hosts}), GOOD["pgsql"]
    assert "TOKEN" not in repr(_ispmail_tablefile.redact(old))
    assert "TOKEN" not in repr([_ispmail_tablefile.diff(old, new), _ispmail_tablefile.diff(new, old)])
    assert "hosts" in _ispmail_tablefile.diff(old, new)


_keys = st.dictionaries(
    st.sampled_from(["password", "pasword", "Password", "PASSWORD", "", "user", "query", "dbpath"]), st.booleans()
)


@given(_keys, _keys)
def test_neither_diff_nor_redact_shows_a_secret(old, new):
    """Also a misspelt key may hold a password."""
    public = ("user", "query", "dbpath")
    old, new = (
        {key: f"{'shown' if key in public else 'SECRET'}{flag}" for key, flag in keys.items()} for keys in (old, new)
    )
    assert "SECRET" not in repr([_ispmail_tablefile.redact(old), _ispmail_tablefile.diff(old, new)])
    assert list(_ispmail_tablefile.redact(old)) == list(old)
    assert set(_ispmail_tablefile.diff(old, new)) == {key for key in {*old, *new} if old.get(key) != new.get(key)}


DIFFS = [
    ({}, {}, {}),
    ({"user": "a"}, {"user": "a"}, {}),
    ({"user": "a", "dbname": "d"}, {"user": "b", "dbname": "d"}, {"user": {"old": "a", "new": "b"}}),
    ({"user": "a"}, {}, {"user": {"old": "a", "new": None}}),
    ({}, {"user": "a"}, {"user": {"old": None, "new": "a"}}),
    ({"password": "a"}, {"password": "a"}, {}),
    ({"password": "a"}, {"password": "b"}, {"password": {"old": "***", "new": "***"}}),
    ({"password": "a"}, {}, {"password": {"old": "***", "new": None}}),
    ({}, {"password": ""}, {"password": {"old": None, "new": "***"}}),
    ({"passwd": "a"}, {}, {"passwd": {"old": "***", "new": None}}),
    # It is written twice for Postfix before 3.10.
    ({"hosts": "a a"}, {"hosts": "a"}, {}),
    ({"hosts": "a"}, {"hosts": "b b"}, {"hosts": {"old": "a", "new": "b"}}),
]


@pytest.mark.parametrize("old, new, changes", DIFFS)
def test_diff(old, new, changes):
    assert _ispmail_tablefile.diff(old, new) == changes


def test_the_old_query_interface_is_no_secret():
    """A lost "and enabled = 1" was invisible in a dry run."""
    old = {"table": "users", "select_field": "1", "where_field": "email", "additional_conditions": "and enabled = 1"}
    assert _ispmail_tablefile.redact(old) == old
    assert _ispmail_tablefile.redact({"additional_conditions": "password = x"}) == {"additional_conditions": "***"}


@pytest.mark.parametrize(
    ("content", "keys"),
    [
        (b"dbname = mail\0 x\nuser = u\n", {"dbname": "mail", "user": "u"}),
        (b"dbname = a\0b\n c\nuser = u\n", {"dbname": "a", "user": "u"}),
        (b"db\0name = a\nuser = u\n", {"user": "u"}),
        (b"dbname = a\n \0 b\n", {"dbname": "a"}),
    ],
)
def test_a_line_ends_at_nul_as_in_postfix(content, keys):
    assert _ispmail_tablefile.parse(content) == keys


def test_redact_leaves_what_is_no_secret():
    keys = GOOD["mysql"]
    assert _ispmail_tablefile.redact(keys) == {**keys, "password": "***"}
    assert keys["password"] == "p"


@pytest.mark.parametrize(
    ("text", "is_table"),
    [
        ("query = x\n", True),
        ("table = t\nselect_field = f\n", True),
        ("table = t\n", False),
        ("select_field = f\n", False),
        ("select_function = f\n", True),
        ("additional_conditions = a\nwhere_field = b\nselect_function = f\nx = y\nz = y\n", True),
        ("user = u\npassword = p\n", False),
        # A section is of another format, and more lines of another kind than of ours are another program's.
        ("[client]\nquery = x\n", False),
        ("query = x\n[client]\n", False),
        ("query = x\na = b\n", False),
        ("query = x\nuser = u\na = b\n", True),
        ("query = x\nnonsense\n", False),
        ("query = x\nuser = u\nnonsense\n", True),
        ("", False),
    ],
)
def test_which_keys_make_a_table_file(text, is_table):
    """Nothing else may be replaced or deleted."""
    assert _ispmail_tablefile.is_table(text.encode()) is is_table


REDACTED = [
    ("expansion_limit", "7", False),
    ("expansion_limit", "geheim", True),
    ("require_result_set", "No", False),
    ("tls_verify_cert", "Yes", False),
    ("tls_verify_cert", "maybe", True),
    ("require_result_set", "geheim", True),
    ("query", "SELECT 1 WHERE password = 'x'", False),
    ("dbname", "d password = geheim", True),
    ("dbname", "d PassWd: geheim", True),
    ("dbname", "compass", False),
    ("hosts", "postgresql://u:geheim@db", True),
    ("hosts", "mysql://u:geheim@db/mail", True),
    ("hosts", "postgresql://u:ge/heim@db/mail", True),
    ("hosts", "a postgresql://u:ge:h?e@im@db/mail", True),
    ("hosts", "postgresql://u@db:5432/mail", False),
    ("hosts", "postgresql://h:5432/d?user=a@b", False),
    ("hosts", "postgresql://h/d?user=a:b@c", False),
    ("query", "SELECT CONCAT('smtp://',h,':',p,'@x') FROM t", False),
    ("query", "SELECT 1 hosts = postgresql://u:geheim@db", True),
    ("query", "SELECT 1 hosts = postgresql://db?password=geheim", True),
    ("result_format", "lmtp://%s:x@y", False),
    ("result_format", "lmtp://u:geheim@y", True),
    ("table", "postgresql://u:geheim@db", True),
    ("dbname", "d pwd = geheim", True),
    ("hosts", "db", False),
    ("password", "geheim", True),
    ("passwort", "geheim", True),
]


@pytest.mark.parametrize(
    "changes",
    [
        {"query": "THE PASSWORD OF THE ACCOUNT mailserver"},
        {"user": "the password of that user"},
        {"dbname": "the password of the account mailserver"},
        {"password": "the password of the account mailserver2"},
        {"password": "The password of the account mailserver"},
        {"password": "tHE PASSWORD OF THE ACCOUNT"},
    ],
)
def test_what_is_no_placeholder(changes):
    """Any text of any key that began so, in any case, was refused."""
    assert not [said for _, said in found("errors", "mysql", changes) if "placeholder" in said]


@pytest.mark.parametrize(("key", "value", "secret"), REDACTED)
def test_which_values_are_shown(key, value, secret):
    assert _ispmail_tablefile.redact({key: value})[key] == ("***" if secret else value)


@pytest.mark.parametrize(
    "unit", ["://:", "://h:1/", "://a@", "://", "pass", "a?pwd ", "password='", "\\", " ", "x", "@"]
)
@pytest.mark.parametrize("begin", ["", "://u:", "password=", "pass"])
def test_a_long_value_is_searched_at_once(begin, unit):
    """Three thousand of ://: took nine minutes."""
    value = begin + unit * (200_000 // len(unit))
    _ispmail_tablefile.redact({"password": value, "query": value, "hosts": value, "table": value})
    _ispmail_maincf.shown("own", value, set())


def test_a_host_that_is_written_twice_is_one():
    """It is written twice for Postfix before 3.10: that is no difference."""
    assert _ispmail_tablefile.hosts_once({"hosts": "a, a", "user": "u"}) == {"hosts": "a", "user": "u"}
    for hosts in ("a", "a, b", "a, a, a", ""):
        assert _ispmail_tablefile.hosts_once({"hosts": hosts}) == {"hosts": hosts}


def test_what_postfix_takes_where_a_key_is_missing():
    """As mysql_table(5) and pgsql_table(5) have it."""
    defaults = {key: kind.default for key, kind in _ispmail_tablefile.SCHEMA.items() if kind.default is not None}
    assert defaults == {
        "hosts": "localhost",
        "result_format": "%s",
        "expansion_limit": "0",
        "require_result_set": "yes",
        "charset": "utf8mb4",
        "encoding": "UTF8",
        "idle_interval": "60",
        "retry_interval": "60",
        "option_group": "client",
        "tls_verify_cert": "no",
    }


LINES_OF_TEXT = [
    (table_type, key)
    for table_type in _ispmail_tablefile.TYPES
    for key in ("user", "password", "dbname", "dbpath", "charset", "encoding", "option_file", "option_group")
    if key in _ispmail_tablefile.schema(table_type)
]


@pytest.mark.parametrize(("table_type", "key"), LINES_OF_TEXT)
def test_no_text_holds_a_newline(table_type, key):
    """It would be a line of its own: another key."""
    errors = _ispmail_tablefile.validate(table_type, {key: "a\nuser = b"}).errors
    assert [error for error in errors if error.key == key]
    assert not [error for error in _ispmail_tablefile.validate(table_type, {key: "a"}).errors if error.key == key]


@pytest.mark.parametrize("password", ["-----BEGIN PGP MESSAGE-----", " $ANSIBLE_VAULT;1.1;AES256"])
def test_an_encrypted_text_is_no_password(password):
    """It would be written to the file as it is, and the login fails."""
    errors = _ispmail_tablefile.validate("mysql", {"password": password}).errors
    assert any(error.key == "password" and "encrypted" in error.reason for error in errors)


@given(
    st.from_regex(_ispmail_tablefile._PLAIN, fullmatch=True)
    | st.sampled_from(["*" * 10, "$ANSIBLE_VAULT", "-----BEGIN"])
)
def test_what_is_seen_at_once_breaks_no_rule(text):
    """The one look stands in place of all the rules, so it may pass nothing that one of them refuses."""
    is_plain = _ispmail_tablefile._PLAIN.fullmatch(text)
    assert not is_plain or not [rule.reason for rule in _ispmail_tablefile._TEXT_RULES if rule.breaks(text)]


def test_a_line_has_the_number_that_an_editor_shows():
    """A fault in a live file names it. What continues a line belongs to the line that it continues."""
    text = "  # no line\n\nuser = a\n  b\n# a comment\n\tc\nhosts = d\0e\n"
    assert _ispmail_tablefile.logical_lines(text) == [(3, "user = a  b\tc"), (7, "hosts = d")]


def test_the_last_of_two_lines_wins_and_takes_its_place():
    """The diff with a rendered file shows the lines in the order in which Postfix reads them."""
    assert list(_ispmail_tablefile.parse("user = a\nhosts = b\nuser = c\n").items()) == [("hosts", "b"), ("user", "c")]


@pytest.mark.parametrize("table_type", ["mysql", "sqlite"])
def test_only_pgsql_has_a_function_in_place_of_a_query(table_type):
    """See mysql_table(5): that Postfix makes a query of it would be untrue."""
    keys = {**GOOD[table_type], "query": None, "select_function": "f"}
    errors = {error.key: str(error) for error in _ispmail_tablefile.validate(table_type, keys).errors}
    assert errors.keys() == {"select_function", "query"}
    assert f"a {table_type} table does not open without it" in errors["query"]


def test_a_release_is_its_first_two_numbers():
    """Patch levels and the dates of snapshots do not decide what Postfix can read."""
    for version, release in (("3.10.13", (3, 10)), ("3.11-20250801", (3, 11)), ("3.9", (3, 9)), ("", ())):
        assert _ispmail_tablefile.release_of(version) == release
