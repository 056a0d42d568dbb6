"""What the tests of the table format share: good keys, odd texts, and another reader."""

import re

from hypothesis import strategies as st

C_BLANKS = " \t\n\v\f\r"
QUERY = "SELECT 1 FROM t WHERE n='%s'"
GOOD = {
    "mysql": {"user": "u", "password": "p", "hosts": "127.0.0.1", "dbname": "d", "query": QUERY},
    "pgsql": {"user": "u", "password": "p", "hosts": "127.0.0.1", "dbname": "d", "query": QUERY},
    "sqlite": {"dbpath": "/srv/mail.db", "query": QUERY},
}
TEXT_KEYS = {
    "mysql": ("user", "password", "option_file", "option_group", "tls_CAfile", "tls_CApath", "tls_ciphers"),
    "pgsql": ("user", "password"),
    "sqlite": (),
}


def as_postfix_reads(data):
    """
    Read a table file as Postfix's readllf() and split_nameval() do, without our parser.

    Measured with postmap 3.7: a line that begins with a blank and continues nothing is
    passed over; a line without a name or without = is fatal, here a ValueError.
    """
    blanks = C_BLANKS.encode()
    logical = []
    for line in data.split(b"\n"):
        bare = line.strip(blanks)
        if not bare or bare.startswith(b"#"):
            continue
        if line[0] not in blanks:
            logical.append(line)
        elif logical:
            logical[-1] += line
    keys = {}
    for line in logical:
        # A C string ends at NUL.
        match = re.fullmatch(rb"([^ \t\v\f\r=]+)[ \t\v\f\r]*=(.*)", line.split(b"\0")[0], re.DOTALL)
        if match is None:
            raise ValueError("fatal to Postfix")
        keys[match[1]] = match[2].strip(blanks)
    return keys


# Texts of what has been misread somewhere once, mixed with any character there is.
_ODD = st.sampled_from("'\"\\#;=%$*{},: \t\v\f\r\n\0\x01\x1b\x1c\x1f\x85\xa0\u2028\ufeff\ud800aé☃")
odd_texts = st.text(_ODD, max_size=6) | st.text(_ODD | st.characters(), max_size=12) | st.just("*" * 10)
sound_texts = odd_texts.map(lambda text: re.sub(r"[\n\0]|[\ud800-\udfff]|\*{10}", "", text).strip(C_BLANKS))
plain_words = st.text("abcXYZ019.-_", min_size=1, max_size=8)


def _literal(text):
    """A text as it stands in quotes in a query: the same on all three servers."""
    return text.translate({ord(char): char * 2 for char in "'%\\"})


queries = st.tuples(sound_texts.map(_literal), st.sampled_from("sudSUD123456789")).map(
    lambda parts: f"SELECT a, '{parts[0]}' FROM t WHERE n = '%{parts[1]}'"
)
domains = st.lists(plain_words, min_size=1, max_size=3)
hosts = st.lists(plain_words.map("h{}".format) | st.just("127.0.0.1:3307"), min_size=1, max_size=3)
booleans = st.booleans() | st.sampled_from(["yes", "no", "YES", "No"])
integers = st.integers(1, 10**9 - 1) | st.integers(1, 99).map(str)


def _joined(lists):
    """A list, and the ways in which it may be written as one text."""
    return lists | st.tuples(st.sampled_from([" ", ",", ", ", "  "]), lists).map(lambda pair: pair[0].join(pair[1]))


_SOUND = {
    "user": sound_texts,
    "password": sound_texts,
    "hosts": _joined(hosts),
    "dbname": sound_texts.filter(bool),
    "dbpath": sound_texts.filter(bool),
    "query": queries,
    "result_format": sound_texts.map(lambda text: "x" + text.replace("%", "%%") + "%s"),
    "domain": _joined(domains),
    "expansion_limit": integers,
    "require_result_set": booleans,
    "charset": plain_words,
    "encoding": plain_words,
    "idle_interval": integers,
    "retry_interval": integers,
    "option_file": sound_texts,
    "option_group": sound_texts,
    "tls_cert_file": plain_words,
    "tls_key_file": plain_words,
    "tls_CAfile": sound_texts,
    "tls_CApath": sound_texts,
    "tls_ciphers": sound_texts,
    "tls_verify_cert": booleans,
}
_REQUIRED = {"mysql": ("dbname", "query"), "pgsql": ("dbname", "query"), "sqlite": ("dbpath", "query")}


def sound_tables(type_, schema):
    """Keys of one type that should all validate; any of them but the required may be None."""
    values = {key: _SOUND[key] for key in schema}
    if type_ == "pgsql":
        # There a carriage return makes two strings one: it is refused.
        values["query"] = queries.filter(lambda query: "\r" not in query)
    return st.fixed_dictionaries(
        {key: values.pop(key) for key in _REQUIRED[type_]},
        optional={key: value | st.none() for key, value in values.items()},
    ).map(_with_both_of_a_certificate)


def _with_both_of_a_certificate(keys):
    pair = ("tls_cert_file", "tls_key_file")
    return keys if all(keys.get(key) for key in pair) else {key: keys[key] for key in keys if key not in pair}


_scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | odd_texts
    | st.dates()
    | st.datetimes()
    | st.binary(max_size=5)
)


def yaml(keys=()):
    """Anything that YAML can hold, with these keys more often than others."""
    names = st.sampled_from(list(keys)) | odd_texts | st.integers() | st.booleans() | st.none() | st.dates()
    return st.recursive(
        _scalars,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=5),
        max_leaves=12,
    )
