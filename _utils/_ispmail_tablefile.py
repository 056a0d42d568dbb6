"""The format of Postfix's SQL table files, see mysql_table(5), pgsql_table(5), sqlite_table(5)."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, TypeGuard

from _ispmail_errors import Fault, InvalidInput, holds_login, listed, names_password, repr_without
from _ispmail_hosts import BLANKS, host_fault, hosts, is_remote, parse_host, split_list
from _ispmail_query import BARE_DOMAIN_PARAMETERS, Findings, all_of, format_faults, query_findings

TYPES = ("mysql", "pgsql", "sqlite")
SECRET = "***"  # noqa: S105

# What Salt 3008 puts in place of a pillar value that it masks. It is never the value.
_SALT_MASK = "*" * 10


class Key(NamedTuple):
    """What Postfix knows of one key of a table file."""

    kind: str  # text, hosts, query, format, list, integer or boolean
    types: tuple[str, ...]  # the table types that read it
    required: bool = False
    secret: bool = False
    since: str | None = None  # the first Postfix release that reads it; older ones ignore it silently
    default: str | None = None  # what Postfix takes where the key is missing
    least: int = 0  # the least number, or the least length of a text


_SERVERS = ("mysql", "pgsql")
_MYSQL = ("mysql",)
_PGSQL = ("pgsql",)
_SQLITE = ("sqlite",)

# In the order of the file.
SCHEMA: dict[str, Key] = {
    "user": Key("text", _SERVERS),
    "password": Key("text", _SERVERS, secret=True),
    "hosts": Key("hosts", _SERVERS, default="localhost"),
    "dbname": Key("text", _SERVERS, required=True, least=1),
    "dbpath": Key("text", _SQLITE, required=True, least=1),
    "query": Key("query", TYPES, required=True),
    "result_format": Key("format", TYPES, default="%s"),
    "domain": Key("list", TYPES),
    "expansion_limit": Key("integer", TYPES, default="0"),
    "require_result_set": Key("boolean", _MYSQL, since="3.2", default="yes"),
    "charset": Key("text", _MYSQL, since="3.9", default="utf8mb4", least=1),
    "encoding": Key("text", _PGSQL, since="3.8", default="UTF8", least=1),
    "idle_interval": Key("integer", _SERVERS, since="3.9", default="60", least=1),
    "retry_interval": Key("integer", _SERVERS, since="3.9", default="60", least=1),
    "option_file": Key("text", _MYSQL, since="2.11"),
    "option_group": Key("text", _MYSQL, since="2.11", default="client"),
    "tls_cert_file": Key("text", _MYSQL, since="2.11"),
    "tls_key_file": Key("text", _MYSQL, since="2.11"),
    "tls_CAfile": Key("text", _MYSQL, since="2.11"),
    "tls_CApath": Key("text", _MYSQL, since="2.11"),
    "tls_ciphers": Key("text", _MYSQL, since="2.11"),
    "tls_verify_cert": Key("boolean", _MYSQL, since="2.11", default="no"),
}

_SCHEMAS = {
    table_type: MappingProxyType({name: key for name, key in SCHEMA.items() if table_type in key.types})
    for table_type in TYPES
}

# A file that has none of these is no table file, whatever else it has.
_ASKING = ({"query"}, {"table", "select_field"}, {"select_function"})
# The keys of Postfix 2.1's query interface.
OBSOLETE = ("table", "select_field", "where_field", "additional_conditions", "select_function")
# The query that Postfix makes of them, see mysql_table(5) and pgsql_table(5).
_MADE_OF_FIELDS = "SELECT [select_field] FROM [table] WHERE [where_field]='%s' [additional_conditions]"
_MADE_OF_A_FUNCTION = "SELECT [select_function]('%s')"
# Keys that other programs have, and where their value belongs.
MEANT = {
    "port": "write it into hosts, as in 127.0.0.1:3307",
    "server": "write hosts",
    "socket": "write it into hosts, as in unix:/run/mysqld/mysqld.sock",
    "unix_socket": "write it into hosts, as in unix:/run/mysqld/mysqld.sock",
    "database": "write dbname",
    "db": "write dbname",
    "username": "write user",
    "pass": "write password",
    "passwd": "write password",
}
_BLANK = re.compile(f"[{BLANKS}]")
_HIDDEN_KEY = "(a key that is not shown)"


def schema(table_type: str) -> Mapping[str, Key]:
    """Return the keys that a table file of one type can hold, in the order of the file."""
    if table_type not in TYPES:
        raise InvalidInput(f"the table type must be one of {', '.join(TYPES)}")
    return _SCHEMAS[table_type]


def shown_key(key: object) -> str:
    """Return how a message may name a key that we do not know.

    A mistyped key may hold a secret: YAML reads ``{password:SECRET}`` as one key. So only a plain identifier is shown.
    """
    text = str(key) if isinstance(key, str) or (isinstance(key, int) and key.bit_length() <= 64) else ""
    return text if re.fullmatch(r"[A-Za-z0-9_]{1,40}", text) else _HIDDEN_KEY


def shown_name(name: object) -> str:
    """Return how a message may name what stands where a name of a map is expected."""
    return name if is_name(name) else shown_key(name)


def is_name(name: object) -> TypeGuard[str]:
    """Tell whether a map, or a pillar key, may have this name."""
    return isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9_.-]+", name) is not None


def meant(key: object, known: Collection[str]) -> str:
    """Say what may be meant by a key that is not known, as the fix of its fault."""
    text = key if isinstance(key, str) else shown_key(key)
    if "hosts" in known and text.lower() in MEANT:
        return MEANT[text.lower()]
    near = [each for each in known if each.lower() == text.lower()] or difflib.get_close_matches(text, list(known))
    if shown_key(key) == _HIDDEN_KEY and (":" in text or not near):
        return "is a blank missing after a colon?"
    return f"is {near[0]} meant?" if near else f"known are {', '.join(known)}"


def canonicalize(table_type: str, keys: Mapping[str, object]) -> dict[str, str]:
    """Bring the keys of a table into the one form that is compared and rendered, in the order of the file.

    Args:
        keys: The values as pillar has them. None leaves the key out; lists are joined; booleans become ``yes`` and
            ``no``; numbers become text.

    Raises:
        InvalidInput: Lists every key that cannot be represented.
    """
    errors = validate(table_type, keys).errors
    if errors:
        raise InvalidInput(listed("The table file would have errors", map(str, errors)))
    return canonical(keys)


def canonical(keys: Mapping[str, object]) -> dict[str, str]:
    """Bring keys that are known to be valid, see `validate`, into that form."""
    return {name: _text(SCHEMA[name].kind, keys[name]) for name in SCHEMA if keys.get(name) is not None}


def text_of(keys: Mapping[str, str]) -> str:
    """Write keys as the text of a table file: one ``key = value`` a line, nothing else."""
    return "".join(f"{key} = {value}".rstrip(" ") + "\n" for key, value in keys.items())


def parse(content: str | bytes | None) -> dict[str, str]:
    """Read a table file as Postfix does; a line that is fatal to Postfix is passed over. None: there is no file."""
    text = content.decode("utf-8", "surrogateescape") if isinstance(content, bytes) else content or ""
    keys: dict[str, str] = {}
    for _, line in logical_lines(text):
        if found := assignment(line):
            # The last of two wins, and takes its place in the order too.
            keys.pop(found[0], None)
            keys[found[0]] = found[1]
    return keys


def tells_login(keys: Mapping[str, str]) -> bool:
    """Whether a table file itself tells how Postfix logs in.

    Without a user the client library takes that of an option file, or of the process. With one, user and password are
    those of the table, but an option file may still ask for TLS, or name another way to the server.
    """
    return bool(keys.get("user")) and not keys.get("option_file")


def is_table(content: bytes) -> bool:
    """Tell whether a file is a table file by which Postfix can ask, perhaps with faults, by what it says."""
    lines = [line for _, line in logical_lines(content.decode("utf-8", "surrogateescape"))]
    found = [assignment(line) for line in lines]
    keys = {each[0] for each in found if each}
    known = keys & (SCHEMA.keys() | set(OBSOLETE))
    has_sections = any(line.startswith("[") for line in lines)
    asks = any(each <= keys for each in _ASKING)
    return asks and not has_sections and len(known) > len(keys - known) + found.count(None)


def assignment(line: str) -> tuple[str, str] | None:
    """Split a logical line into key and value; None for one that is fatal to Postfix."""
    key, equals, value = line.partition("=")
    key = key.strip(BLANKS)
    return (key, value.strip(BLANKS)) if equals and key and not _BLANK.search(key) else None


def logical_lines(text: str) -> list[tuple[int, str]]:
    """Number each line; join those that begin with a blank to the one before; leave comments and empty ones out.

    What follows a NUL character in such a line is left out, as in Postfix.
    """
    logical: list[tuple[int, str]] = []
    for number, line in enumerate(text.split("\n"), 1):
        bare = line.strip(BLANKS)
        if not bare or bare.startswith("#"):
            continue
        if line[0] not in BLANKS:
            logical.append((number, line))
        elif logical:
            logical[-1] = (logical[-1][0], logical[-1][1] + line)
    return [(number, line.partition("\0")[0]) for number, line in logical]


def redact(keys: Mapping[str, str]) -> dict[str, str]:
    """Put ``***`` in place of each secret. An unknown key may be a misspelt password: its value is a secret too."""
    return {key: SECRET if _is_secret(key, value) else value for key, value in hosts_once(keys).items()}


def hosts_once(keys: Mapping[str, str]) -> dict[str, str]:
    """The keys of a table without what `for_release` adds."""
    given = split_list(keys.get("hosts", ""))
    return {**keys, "hosts": given[0]} if len(given) == 2 and given[0] == given[1] else dict(keys)


def _is_secret(key: str, value: str) -> bool:
    if key in OBSOLETE:
        return holds_login(value) or names_password(value)
    if key not in SCHEMA or SCHEMA[key].secret or holds_login(value):
        return True
    # What is no value of its kind may be anything, a password that was pasted into the wrong line too.
    if SCHEMA[key].kind == "integer" and not value.isdigit():
        return True
    if SCHEMA[key].kind == "boolean" and value.lower() not in ("yes", "no"):
        return True
    # An indented line continues the one before: the password may have become part of another key's value.
    return key != "query" and names_password(value)


def diff(old: Mapping[str, str], new: Mapping[str, str]) -> dict[str, dict[str, str | None]]:
    """Return the keys that differ between two tables, without a secret. None stands for a key that is not there."""
    old, new = hosts_once(old), hosts_once(new)
    shown_old, shown_new = redact(old), redact(new)
    return {
        key: {"old": shown_old.get(key), "new": shown_new.get(key)}
        for key in {**old, **new}
        if old.get(key) != new.get(key)
    }


def _text(kind: str, value: object) -> str:
    """Write a value that has no fault."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if kind in ("hosts", "list"):
        return " ".join(value if isinstance(value, (list, tuple)) else split_list(str(value)))
    return str(value).lower() if kind == "boolean" else str(value)


def validate(
    table_type: str,
    keys: Mapping[str, object],
    version: str | None = None,
    parameter: str | None = None,
) -> Findings:
    """List all that is wrong, and all that is doubtful, in the keys of a table. No text holds a value.

    Args:
        keys: The values as pillar has them.
        version: The Postfix release that will read the file. None: rules that depend on it are left out.
        parameter: The main.cf parameter that points at the map.

    Raises:
        InvalidInput: The type is unknown, `keys` is not a mapping, or the version is not a text.
    """
    known = schema(table_type)
    if not isinstance(keys, Mapping):
        raise InvalidInput("the keys of a table must be a mapping")
    if version is not None and not isinstance(version, str):
        raise InvalidInput("the version must be a text, such as '3.10.13': put it in quotes")
    faults = {key: key_fault(table_type, key, version) or _value_fault(key, keys[key]) for key in keys}
    if old_interface := _old_interface(table_type, keys):
        faults = {**faults, **dict.fromkeys(old_interface), "query": _written_as_query(old_interface)}
    missing = [
        Fault(name, f"is missing, and a {table_type} table does not open without it", "add it")
        for name, key in known.items()
        if key.required and keys.get(name) is None and not faults.get(name)
    ]
    given = [key for key in keys if not faults[key] and keys[key] is not None and key not in old_interface]
    texts = {key: _text(known[key].kind, keys[key]) for key in given}
    table = _Table(table_type, texts, parameter)
    by_keys = Findings((*filter(None, faults.values()), *missing))
    return all_of([by_keys, *(rule(table) for rule in _RULES)])


def _old_interface(table_type: str, keys: Mapping[str, object]) -> list[str]:
    """The keys of Postfix 2.1's query interface, where they stand in place of a query."""
    read = OBSOLETE if table_type == "pgsql" else OBSOLETE[:-1]
    return [key for key in read if keys.get(key) is not None and keys.get("query") is None]


def _written_as_query(old_interface: Sequence[str]) -> Fault:
    made = _MADE_OF_A_FUNCTION if "select_function" in old_interface else _MADE_OF_FIELDS
    reason = f"is missing; Postfix makes it of {', '.join(old_interface)}, keys of Postfix 2.1"
    return Fault("query", reason, f"write what it makes in place of them: {made}")


def key_fault(table_type: str, key: str, version: str | None) -> Fault | None:
    """Say why a table file cannot hold this key, which Postfix ignores, or None."""
    if key in OBSOLETE:
        return Fault(key, "belongs to Postfix 2.1's query interface and is ignored beside query", "take it out")
    if key not in SCHEMA:
        return _unknown_key(table_type, key)
    types, since = SCHEMA[key].types, SCHEMA[key].since
    if table_type not in types:
        owners = " and ".join(types)
        return Fault(key, f"is a key of {owners} tables, Postfix ignores it in a {table_type} table", "take it out")
    if version and since and release_of(version) < release_of(since):
        reason = f"is read from Postfix {since} on, but {version} is installed and ignores it"
        return Fault(key, reason, "take it out or upgrade")
    return None


def _unknown_key(table_type: str, key: object) -> Fault:
    reason = f"is not a key of {table_type}_table(5), Postfix would ignore it"
    return Fault(shown_key(key), reason, meant(key, _SCHEMAS[table_type]))


@functools.lru_cache
def release_of(version: str) -> tuple[int, ...]:
    """The major and minor number of a release of Postfix: (3, 10) for 3.10.13."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])


def _value_fault(key: str, value: object) -> Fault | None:
    """Say why a table file cannot hold this value, or None."""
    if value is None:
        return None
    kind = SCHEMA[key].kind
    if kind in ("hosts", "list") and isinstance(value, (list, tuple)):
        return _list_fault(key, list(value))
    if kind == "boolean":
        return _boolean_fault(key, value)
    return _integer_fault(key, value) if kind == "integer" else _text_fault(key, value)


def _list_fault(key: str, items: list[object]) -> Fault | None:
    if not items:
        return Fault(key, "is an empty list", "give at least one item, or null to leave the line out")
    for item in items:
        if isinstance(item, (Mapping, list, tuple)):
            return Fault(key, "has an item that is no text", "write a text or a list of texts")
        if fault := _text_fault(key, item):
            return fault
        if item == "":
            return Fault(key, "has an empty item", "take it out")
    if any(re.search(rf"[,{BLANKS}]", str(item)) for item in items):
        return Fault(key, "holds a blank or comma inside a list item", "make it two items")
    return None


def _boolean_fault(key: str, value: object) -> Fault | None:
    if isinstance(value, bool) or (isinstance(value, str) and value.lower() in ("yes", "no")):
        return None
    return Fault(key, "must be yes or no, anything else is fatal to Postfix", "write one of the two")


def _integer_fault(key: str, value: object) -> Fault | None:
    least = SCHEMA[key].least
    number = int(value) if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value) else value
    if isinstance(number, int) and not isinstance(number, bool) and least <= number < 10**9:
        return None
    return Fault(key, f"must be a whole number, {least} or more, of nine digits at the most")


class _TextRule(NamedTuple):
    breaks: Callable[[str], bool]
    reason: str
    fix: str


# How what postfix_map.found prints begins.
PLACEHOLDER = "THE PASSWORD OF THE ACCOUNT "
# What stands in README.md, docs/setup.md and pillar.example.
_EXAMPLES = tuple(f"the password of {each}" for each in ("the account mailserver", "mailserver@127.0.0.1", "that user"))


def _cannot_be_encoded(text: str) -> bool:
    return re.search("[\ud800-\udfff]", text) is not None


# What stands in place of a secret.
_STAND_INS = (
    _TextRule(
        lambda text: text.lstrip().startswith(("-----BEGIN", "$ANSIBLE_VAULT")),
        "is an encrypted text, not what it stands for",
        "have pillar decrypt it, for PGP with the renderer gpg",
    ),
    _TextRule(
        lambda text: text == _SALT_MASK,
        "is Salt's mask for a secret, not the secret",
        "read it from pillar without masking",
    ),
)
_PLACEHOLDERS = _TextRule(
    lambda text: text.startswith(PLACEHOLDER) or text in _EXAMPLES,
    "is a placeholder for a password, as postfix_map.found and pillar.example have it, not the password",
    "write the password of that account",
)
_TEXT_RULES = (
    *_STAND_INS,
    _TextRule(
        lambda text: "\n" in text,
        "has a newline, which would start a line of its own in the table file",
        "take it out (in YAML, >- folds lines that are indented alike)",
    ),
    _TextRule(
        lambda text: "\0" in text, "has a NUL character, Postfix would read only what is before it", "take it out"
    ),
    _TextRule(
        lambda text: text != text.strip(BLANKS),
        "has a blank at its beginning or end, which Postfix strips",
        "take it out",
    ),
    _TextRule(_cannot_be_encoded, "has a character that cannot be written as UTF-8", "take it out"),
)


# What breaks none of them: visible ASCII, blanks within it, and a first character by which no other rule begins.
_PLAIN = re.compile(r"[!-#%-)+,.-~](?:[ -~]*[!-~])?")


def _text_fault(key: str, value: object) -> Fault | None:
    if isinstance(value, Mapping) and SCHEMA[key].kind in ("hosts", "list"):
        return Fault(key, "is a mapping", "write a text or a list of texts")
    if not isinstance(value, str):
        return Fault(key, "is not a text in YAML (a number, a date, yes and no are not)", "put it in quotes")
    if not value and SCHEMA[key].least:
        return Fault(key, "is empty, which is fatal to Postfix", "write a value")
    # Most texts are seen to break none of them at once.
    for rule in () if _PLAIN.fullmatch(value) else _TEXT_RULES:
        if rule.breaks(value):
            return Fault(key, rule.reason, rule.fix)
    return stand_in(key, value) if SCHEMA[key].secret else None


def stand_in(key: str, text: str) -> Fault | None:
    """Say why a password cannot be the one that is meant, or None: a mask, an encrypted text, a placeholder."""
    return next((Fault(key, rule.reason, rule.fix) for rule in (*_STAND_INS, _PLACEHOLDERS) if rule.breaks(text)), None)


class _Table(NamedTuple):
    """The values of a table that are good by themselves."""

    type: str
    texts: Mapping[str, str]
    parameter: str | None

    def __repr__(self) -> str:
        return repr_without(self, "texts")


def _query_rules(table: _Table) -> Findings:
    query = table.texts.get("query")
    return Findings() if query is None else query_findings(query, table.type, table.parameter)


def _format_rules(table: _Table) -> Findings:
    return Findings(tuple(format_faults(table.texts.get("result_format", "%s"))))


def _hosts_rules(table: _Table) -> Findings:
    if table.type == "sqlite":
        return Findings()
    if table.texts.get("hosts") == "":
        return Findings((Fault("hosts", "names no host", "give at least one, or null to leave the line out"),))
    texts = hosts(table.texts)
    faults = [host_fault(text, table.type) for text in texts]
    errors = tuple(dict.fromkeys(fault for fault in faults if fault))
    has_ca = any(table.texts.get(key) for key in ("tls_CAfile", "tls_CApath"))
    verified = has_ca and table.texts.get("tls_verify_cert") == "yes"
    if table.type == "mysql" and not verified and any(is_remote(text) for text in texts):
        fix = "set tls_CAfile and tls_verify_cert: true, or be sure of that network"
        return Findings(errors, (Fault("hosts", "goes over the network without TLS that is verified", fix),))
    if table.type == "pgsql" and not errors and any(is_remote(text, "pgsql") for text in texts):
        fix = "be sure of that network, or have a tunnel to it that ends on 127.0.0.1"
        return Findings(warnings=(Fault("hosts", "goes over the network, where libpq trusts any server", fix),))
    return Findings(errors)


def _domain_rules(table: _Table) -> Findings:
    if "domain" not in table.texts:
        return Findings()
    if table.parameter in BARE_DOMAIN_PARAMETERS:
        reason = f"stops every question of {table.parameter}, which are bare domains"
        return Findings((Fault("domain", reason, "take it out"),))
    reason = "means that bare domains and @domain catch-alls are never asked"
    return Findings(warnings=(Fault("domain", reason, "take it out, unless that is meant"),))


def _password_rules(table: _Table) -> Findings:
    # Logins by the name of the process, or without any check, are PostgreSQL's own; over MariaDB's socket too.
    by_socket = table.type == "mysql" and all(parse_host(text).socket for text in hosts(table.texts))
    if table.texts.get("password") != "" or table.type == "pgsql" or by_socket:
        return Findings()
    return Findings(warnings=(Fault("password", "is empty", "write it, unless that is meant"),))


def _tls_rules(table: _Table) -> Findings:
    pair = ("tls_cert_file", "tls_key_file")
    given = [key for key in pair if table.texts.get(key)]
    if len(given) != 1:
        return Findings()
    other = pair[1] if given == [pair[0]] else pair[0]
    return Findings((Fault(other, f"is missing, and {given[0]} is of no use without it", "add it"),))


_RULES: tuple[Callable[[_Table], Findings], ...] = (
    _query_rules,
    _format_rules,
    _hosts_rules,
    _domain_rules,
    _password_rules,
    _tls_rules,
)
