"""The format of Postfix's SQL table files, see mysql_table(5), pgsql_table(5), sqlite_table(5).

Pure: a dict in, text or faults out, nothing read or written. Other modules call
it through ``__salt__``. Called by hand it is for looking things up: a password
given on a command line stays in the job cache.
"""

import re

from salt.exceptions import SaltInvocationError

TYPES = ("mysql", "pgsql", "sqlite")
SECRET = "***"  # noqa: S105

# What Salt 3008 puts in place of a pillar value that it masks: never a real value.
_SALT_MASK = "*" * 10
# What Postfix strips from the ends of a value: isspace(3) in the C locale.
_BLANKS = " \t\n\v\f\r"
_EXPANSIONS = "sudSUD123456789"
_EMPTY = "is empty, which is fatal to Postfix or no item of a list: take it out"
_NO_EXPANSION = "has a % that is no expansion, which is fatal to Postfix: write %% for a percent sign"
_SOCKET = (
    "is reached by a unix socket, which is not there in the chroot that smtpd runs in: "
    "write 127.0.0.1, or set proxy: true"
)

_PASSWORD_IN_URI = re.compile(r"postgres(ql)?://[^/@\s]*:[^/@\s]*@|[?&](ssl)?password=")
_SERVERS = ("mysql", "pgsql")
_MYSQL = ("mysql",)
_PGSQL = ("pgsql",)
_SQLITE = ("sqlite",)

# In the order of the file. "since" is the Postfix release that first reads the
# key; older ones ignore it without a word.
_SCHEMA = {
    "user": {"kind": "text", "types": _SERVERS},
    "password": {"kind": "text", "types": _SERVERS, "secret": True},
    "hosts": {"kind": "hosts", "types": _SERVERS, "default": "localhost"},
    "dbname": {"kind": "text", "types": _SERVERS, "required": True, "least": 1},
    "dbpath": {"kind": "text", "types": _SQLITE, "required": True, "least": 1},
    "query": {"kind": "query", "types": TYPES, "required": True},
    "result_format": {"kind": "format", "types": TYPES, "default": "%s"},
    "domain": {"kind": "list", "types": TYPES},
    "expansion_limit": {"kind": "integer", "types": TYPES, "default": "0"},
    "require_result_set": {"kind": "boolean", "types": _MYSQL, "since": "3.2", "default": "yes"},
    "charset": {"kind": "text", "types": _MYSQL, "since": "3.9", "default": "utf8mb4", "least": 1},
    "encoding": {"kind": "text", "types": _PGSQL, "since": "3.8", "default": "UTF8", "least": 1},
    "idle_interval": {"kind": "integer", "types": _SERVERS, "since": "3.9", "default": "60", "least": 1},
    "retry_interval": {"kind": "integer", "types": _SERVERS, "since": "3.9", "default": "60", "least": 1},
    "option_file": {"kind": "text", "types": _MYSQL, "since": "2.11"},
    "option_group": {"kind": "text", "types": _MYSQL, "since": "2.11", "default": "client"},
    "tls_cert_file": {"kind": "text", "types": _MYSQL, "since": "2.11"},
    "tls_key_file": {"kind": "text", "types": _MYSQL, "since": "2.11"},
    "tls_CAfile": {"kind": "text", "types": _MYSQL, "since": "2.11"},
    "tls_CApath": {"kind": "text", "types": _MYSQL, "since": "2.11"},
    "tls_ciphers": {"kind": "text", "types": _MYSQL, "since": "2.11"},
    "tls_verify_cert": {"kind": "boolean", "types": _MYSQL, "since": "2.11", "default": "no"},
}

_OBSOLETE = ("table", "select_field", "where_field", "additional_conditions", "select_function")

# Parameters that Postfix asks for bare domains only.
_DOMAIN_PARAMETERS = (
    "virtual_mailbox_domains",
    "virtual_alias_domains",
    "relay_domains",
    "mydestination",
)


def schema(type="mysql"):
    """
    Tell which keys a table file of one type can hold.

    type : mysql
        The table type: ``mysql``, ``pgsql`` or ``sqlite``.

    Returns a dict, in the order of the file: key to a dict of ``kind`` (``text``,
    ``hosts``, ``query``, ``format``, ``list``, ``integer`` or ``boolean``), ``required``,
    ``secret``, ``since`` (the Postfix release that first reads it, or None) and
    ``default`` (what Postfix takes where the key is not there, or None).

    Raises SaltInvocationError for another type.

    Source: mysql_table(5), pgsql_table(5), sqlite_table(5)

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_table.schema pgsql
    """
    _check_type(type)
    return {
        key: {
            "kind": entry["kind"],
            "required": entry.get("required", False),
            "secret": entry.get("secret", False),
            "since": entry.get("since"),
            "default": entry.get("default"),
        }
        for key, entry in _SCHEMA.items()
        if type in entry["types"]
    }


def canonicalize(type, keys):
    """
    Bring the keys of a table into the one form that is compared and rendered.

    type
        The table type: ``mysql``, ``pgsql`` or ``sqlite``.

    keys
        A dict: key to value as pillar has it. None leaves the key out; lists are
        joined; booleans become ``yes`` and ``no``; numbers become text.

    Returns a dict of texts in the order of the file.

    Raises SaltInvocationError that names every key that cannot be represented;
    warnings and what depends on the server are left to ``validate``.

    Source: mysql_table(5)

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_table.canonicalize sqlite '{dbpath: /srv/mail.db, query: "SELECT 1 FROM d WHERE n=''%s''"}'
    """
    errors = validate(type, keys)["errors"]
    if errors:
        raise SaltInvocationError("; ".join(f"{key}: {reason}" for key, reason in errors))
    return {key: _text(entry["kind"], keys[key]) for key, entry in _SCHEMA.items() if keys.get(key) is not None}


def validate(type, keys, version=None, chroot=None, proxy=False, parameter=None):
    """
    List all that is wrong, and all that is doubtful, in the keys of a table.

    type
        The table type: ``mysql``, ``pgsql`` or ``sqlite``.

    keys
        A dict: key to value as pillar has it.

    version : None
        The Postfix release that will read the file, such as ``3.7.11``. None: rules
        that depend on it are left out.

    chroot : None
        Whether smtpd, cleanup or trivial-rewrite run in a chroot. None: rules that
        depend on it are left out.

    proxy : False
        Whether the map is read through proxymap(8), which runs outside the chroot.

    parameter : None
        The main.cf parameter that points at the map.

    Returns a dict of two lists, ``errors`` (it can never work) and ``warnings`` (it
    may not be meant), each of pairs ``[key, sentence]``. No sentence holds a value.

    Raises SaltInvocationError for another type, or where ``keys`` is no dict.

    Source: mysql_table(5), pgsql_table(5), sqlite_table(5), DATABASE_README

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_table.validate sqlite '{dbpath: /srv/mail.db, query: "SELECT 1"}'
    """
    _check_type(type)
    if not isinstance(keys, dict):
        raise SaltInvocationError("the keys of a table must be a mapping")
    if version is not None and not isinstance(version, str):
        raise SaltInvocationError("the version must be a text, such as '3.10.13': put it in quotes")
    errors, warnings = [], []
    for key, value in keys.items():
        reason = _key_fault(type, key, version)
        if reason:
            errors.append([key, reason])
        elif value is not None:
            reason = _value_fault(_SCHEMA[key], value)
            if reason:
                errors.append([key, reason])
    broken = {key for key, _ in errors}
    known = schema(type)
    for key, entry in known.items():
        if entry["required"] and keys.get(key) is None and key not in broken:
            errors.append([key, f"is missing: a {type} table does not open without it"])
    texts = {
        key: _text(known[key]["kind"], value) for key, value in keys.items() if key not in broken and value is not None
    }
    for rule in (_query_rules, _format_rules, _hosts_rules, _domain_rules, _doubts):
        found = rule(texts, type=type, jailed=bool(chroot) and not proxy, parameter=parameter)
        errors += found["errors"]
        warnings += found["warnings"]
    return {"errors": errors, "warnings": warnings}


def render(type, keys):
    """
    Write the text of a table file.

    type
        The table type: ``mysql``, ``pgsql`` or ``sqlite``.

    keys
        A dict: key to value as pillar has it.

    Returns the text, one ``key = value`` a line, nothing else.

    Raises SaltInvocationError as ``canonicalize`` does.

    Source: mysql_table(5)

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_table.render sqlite '{dbpath: /srv/mail.db, query: "SELECT 1 FROM d WHERE n=''%s''"}'
    """
    return "".join(f"{key} = {value}".rstrip(" ") + "\n" for key, value in canonicalize(type, keys).items())


def parse(text):
    """
    Read the text of a table file as Postfix does: comments and blank lines passed
    over, lines that start with a blank continue the one before, the last of two wins.

    text
        The text of a table file.

    Returns a dict, key to text.

    Raises nothing: a line that Postfix could not read is passed over.

    Source: mysql_table(5), postconf(5) "main.cf file format"

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_table.parse 'dbpath = /srv/mail.db'
    """
    logical = []
    for line in text.split("\n"):
        if not line.strip(_BLANKS) or line.lstrip(_BLANKS).startswith("#"):
            continue
        if line[0] not in _BLANKS:
            logical.append(line)
        elif logical:
            logical[-1] += line
    keys = {}
    for line in logical:
        key, equals, value = line.partition("=")
        key = key.strip(_BLANKS)
        if equals and re.fullmatch(rf"[^{_BLANKS}]+", key):
            keys.pop(key, None)
            keys[key] = value.strip(_BLANKS)
    return keys


def redact(keys):
    """
    Hide the secrets among the keys of a table.

    keys
        A dict: key to value.

    Returns the same dict with ``***`` in place of each secret. A key that Postfix
    does not know is a secret too: it may be a misspelt one.

    Raises nothing.

    Source: mysql_table(5)

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_table.redact '{dbpath: /srv/mail.db}'
    """
    return {
        key: SECRET if _is_secret(key) or _PASSWORD_IN_URI.search(str(value)) else value for key, value in keys.items()
    }


def diff(old, new):
    """
    Tell how two tables differ, without a secret.

    old, new
        Dicts of canonical texts, key to text.

    Returns a dict, key to ``{"old": …, "new": …}``, of the keys that differ; None
    stands for a key that is not there, ``***`` for a secret.

    Raises nothing.

    Source: mysql_table(5)

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_table.diff '{dbname: a}' '{dbname: b}'
    """
    shown = {"old": redact(old), "new": redact(new)}
    return {
        key: {side: shown[side].get(key) for side in ("old", "new")}
        for key in {**old, **new}
        if old.get(key) != new.get(key)
    }


def _check_type(type_):
    if type_ not in TYPES:
        raise SaltInvocationError(f"the table type must be one of {', '.join(TYPES)}")


def _is_secret(key):
    return _SCHEMA.get(key, {"secret": True}).get("secret", False)


def _key_fault(type_, key, version):
    if key in _OBSOLETE:
        return "is of Postfix 2.1's query interface and is ignored beside query: write it as query"
    if key not in _SCHEMA:
        near = [known for known in _SCHEMA if known.lower() == str(key).lower()]
        mend = f"write {near[0]}" if near else "see the man page for its spelling"
        return f"is not a key of {type_}_table(5), Postfix would ignore it: {mend}"
    entry = _SCHEMA[key]
    if type_ not in entry["types"]:
        owners = " and ".join(entry["types"])
        return f"is a key of {owners} tables, Postfix ignores it in a {type_} table: take it out"
    since = entry.get("since")
    if version and since and _release(version) < _release(since):
        return f"is read from Postfix {since} on, but {version} is installed and ignores it: take it out or upgrade"
    return None


def _release(version):
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])


def _value_fault(entry, value):
    """Why this value cannot stand in a table file, or None."""
    kind, least = entry["kind"], entry.get("least", 0)
    if kind in ("hosts", "list") and isinstance(value, (list, tuple)):
        if not value:
            return "is an empty list: give at least one, or null to leave the line out"
        faults = [_text_fault(item) or _EMPTY * (not item) for item in value]
        faults += ["holds a blank or comma inside a list item: make it two items"] * any(
            isinstance(item, str) and re.search(rf"[,{_BLANKS}]", item) for item in value
        )
        return next(filter(None, faults), None)
    if kind == "boolean" and not isinstance(value, bool):
        if not isinstance(value, str) or value.lower() not in ("yes", "no"):
            return "must be yes or no: anything else is fatal to Postfix"
    elif kind == "integer":
        if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 10**9:
            return f"must be a whole number, {least} or more, of nine digits at the most"
    elif kind != "boolean":
        return _text_fault(value) or _EMPTY * (value == "" and least)
    return None


def _text_fault(value):
    if not isinstance(value, str):
        return "is not a text in YAML (a number, a date, yes and no are not): put it in quotes"
    if "\n" in value:
        return (
            "has a newline, which would start a line of its own in the table file: take it out (in YAML, >- folds text)"
        )
    if "\0" in value:
        return "has a NUL character, Postfix would read only what is before it: take it out"
    if value != value.strip(_BLANKS):
        return "has a blank at its beginning or end, which Postfix strips: take it out"
    if value == _SALT_MASK:
        return "is Salt's mask for a secret, not the secret: read it from pillar without masking"
    try:
        value.encode()
    except UnicodeEncodeError:
        return "has a character that cannot be written as UTF-8: take it out"
    return None


def _text(kind, value):
    if isinstance(value, bool):
        return "yes" if value else "no"
    if kind in ("hosts", "list"):
        items = value if isinstance(value, (list, tuple)) else re.split(rf"[,{_BLANKS}]+", value)
        return " ".join(filter(None, items))
    return value.lower() if kind == "boolean" else str(value)


def _found(errors=(), warnings=()):
    return {"errors": list(errors), "warnings": list(warnings)}


def _scan(query, type_):
    """
    Read an SQL query with Postfix's expansions in it.

    Returns a list of ``(what, where)``: what is ``%s`` and the like, ``%`` for one that is
    none, ``;``, ``--`` for a line comment or ``open`` for what never closes; where is
    ``code``, ``comment`` or the quote that it stands in.
    """
    found, where, at = [], "code", 0
    while at < len(query):
        char, pair = query[at], query[at : at + 2]
        step = 1
        if char == "%":
            valid = len(pair) == 2 and pair[1] in _EXPANSIONS
            step = 2 if valid or pair == "%%" else 1
            if pair != "%%":
                found.append((pair if valid else "%", where))
        elif where == "code":
            if char in "'\"`":
                where = char
            elif pair == "/*":
                where, step = "comment", 2
            elif _line_comment(query, at, type_):
                found.append(("--", where))
                where = "line"
            elif char == ";" and query[at + 1 :].strip(_BLANKS):
                found.append((";", where))
        elif where == "comment":
            if pair == "*/":
                where, step = "code", 2
        elif where in "'\"`":
            if char == "\\" and where != "`" and type_ == "mysql":
                # Postfix expands first: a % behind it is read on its own.
                step = 1 if pair[1:] == "%" else 2
                if re.match(f"%[{_EXPANSIONS}]", query[at + 1 :]):
                    found.append(("\\", where))
            elif char == where:
                step = 2 if pair == where * 2 else 1
                where = where if step == 2 else "code"
        at += step
    if where not in ("code", "line"):
        found.append(("open", where))
    return found


def _line_comment(query, at, type_):
    if type_ == "mysql":
        return query[at] == "#" or re.match(rf"--([{_BLANKS}]|$)", query[at:]) is not None
    return query.startswith("--", at)


def _query_rules(texts, type, parameter, **_):
    query = texts.get("query")
    if query is None:
        return _found()
    errors, warnings = [], []
    if not re.match(r"\(*\s*(select|with|call|values|table)\b", query, re.IGNORECASE):
        errors.append("must be a query that reads, beginning with SELECT, without quotes around it")
    scanned = _scan(query, type)
    places = {where for what, where in scanned if len(what) == 2 and what[0] == "%"}
    parts = sorted({what for what, _ in scanned if re.fullmatch("%[dD1-9]", what)})
    if parts and parameter in _DOMAIN_PARAMETERS:
        errors.append(f"has {', '.join(parts)}, for which Postfix never asks {parameter}'s bare domains: write '%s'")
    if any(what == "%" for what, _ in scanned):
        errors.append(_NO_EXPANSION)
    if not places:
        errors.append("has no expansion, so it answers every question alike: use '%s'")
    if places & {"code", "`"}:
        errors.append(
            "has an expansion outside quotes, by which a sender could inject SQL: write '%s', with the quotes"
        )
    if places & {"comment", "line"}:
        errors.append("has an expansion inside an SQL comment: take the comment out")
    if '"' in places and type == "pgsql":
        errors.append("has an expansion in double quotes, which name a column: write '%s'")
    if '"' in places and type != "pgsql":
        warnings.append("has an expansion in double quotes, which fails where ANSI_QUOTES is set: write '%s'")
    reasons = {
        "\\": "has a backslash before an expansion, which undoes its quoting: take it out",
        ";": "has a second statement after a semicolon, which the server rejects: take it out",
        "open": "has a quote or comment that does not close",
    }
    errors += [reasons[what] for what in reasons if any(what == seen for seen, _ in scanned)]
    if any(what == "--" for what, _ in scanned):
        warnings.append("has a -- or # comment, all after it is not read: is that meant?")
    return _found((["query", text] for text in errors), (["query", text] for text in warnings))


def _format_rules(texts, **_):
    value = texts.get("result_format", "%s")
    errors = []
    if re.sub(f"%[%{_EXPANSIONS}]", "", value).count("%"):
        errors.append(_NO_EXPANSION)
    if not value:
        errors.append("is empty, so every answer is empty, which means not found: take it out")
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        errors.append("has quotes around it, which would be part of the answer: take them out")
    return _found(["result_format", text] for text in errors)


def _hosts_rules(texts, type, jailed, **_):
    if type == "sqlite":
        return _found()
    errors, warnings = [], []
    hosts = texts.get("hosts", "localhost").split(" ")
    for host in hosts:
        reason = _host_fault(host, type)
        if reason:
            errors.append(reason)
        elif jailed and (host.startswith(("unix:", "/")) or (type == "mysql" and _name(host) == "localhost")):
            errors.append(_SOCKET)
    remote = [
        host for host in hosts if not re.match(r"unix:|(inet:)?(127\.[0-9.]+|localhost)(:|$)", host, re.IGNORECASE)
    ]
    if type == "mysql" and remote and not any(key.startswith("tls_") for key in texts):
        warnings.append("goes over the network without TLS: set tls_CAfile, or be sure of that network")
    return _found((["hosts", text] for text in dict.fromkeys(errors)), (["hosts", text] for text in warnings))


def _name(host):
    return host.removeprefix("inet:").partition(":")[0].lower()


def _host_fault(host, type_):
    if not host:
        return "names no host: give at least one, or null to leave the line out"
    if re.match(r"postgres(ql)?://", host) and type_ == "pgsql":
        if _PASSWORD_IN_URI.search(host):
            return "holds a password in a URI: write host:port in place of the URI, and the keys user and password"
        return None
    if host.startswith("/"):
        return None if type_ == "pgsql" else "is a path: write unix: before it"
    if host.startswith("unix:"):
        return None if host.startswith("unix:/") else "has a unix: without an absolute path"
    name, colon, port = host.removeprefix("inet:").partition(":")
    if "[" in host or ":" in port:
        return "has an IPv6 address, which Postfix cannot split from a port here: use a name or an IPv4 address"
    if not name:
        return "has a port without a host"
    if colon and not (re.fullmatch(r"[0-9]{1,5}", port) and 0 < int(port) < 65536):
        return "has a port that is not a number from 1 to 65535"
    if colon and name.lower() == "localhost" and type_ == "mysql":
        return "has localhost with a port, but localhost is the unix socket and the port is ignored: write 127.0.0.1"
    return None


def _domain_rules(texts, parameter, **_):
    if "domain" not in texts:
        return _found()
    if parameter in _DOMAIN_PARAMETERS:
        return _found([["domain", f"stops every question of {parameter}, which are bare domains: take it out"]])
    return _found(
        warnings=[["domain", "means that bare domains and @domain catch-alls are never asked: is that meant?"]]
    )


def _doubts(texts, jailed, **_):
    errors, warnings = [], []
    if jailed and "option_file" in texts:
        errors.append(
            [
                "option_file",
                "is not there in the chroot that smtpd runs in, and ignored without a word: "
                "use the table's own keys, or set proxy: true",
            ]
        )
    if texts.get("password") == "":
        warnings.append(["password", "is empty: is that meant?"])
    if bool(texts.get("tls_cert_file")) != bool(texts.get("tls_key_file")):
        missing = "tls_key_file" if "tls_cert_file" in texts else "tls_cert_file"
        errors.append([missing, "is missing: a client certificate needs both tls_cert_file and tls_key_file"])
    return _found(errors, warnings)
