"""The SQL of the database that Postfix's maps read: tables, account, grants, plans of queries.

Pure: texts in, texts and findings out, nothing read or written. Other modules call it
through ``__salt__``. Passwords and their hashes are placeholders in all statements.
"""

import re

from salt.exceptions import SaltInvocationError

_LOGIN = {"unix_socket": "/run/mysqld/mysqld.sock", "user": "root"}
_SERVER = ("unix_socket", "host", "port", "user", "password", "accounts_host", "create_tables")
_MAPS_NEED = ("user", "password", "dbname")

# What the ISPmail guide has, and the two indexes that it lacks. Of the columns only the
# last can be added to a table with rows: it has a default.
_TABLES = {
    "virtual_domains": {
        "columns": {"id": "INT NOT NULL AUTO_INCREMENT PRIMARY KEY", "name": "VARCHAR(50) NOT NULL"},
        "indexes": {"name": True},
        "parent": None,
    },
    "virtual_users": {
        "columns": {
            "id": "INT NOT NULL AUTO_INCREMENT PRIMARY KEY",
            "domain_id": "INT NOT NULL",
            "email": "VARCHAR(100) NOT NULL",
            "password": "VARCHAR(150) NOT NULL",
            "quota": "BIGINT NOT NULL DEFAULT 0",
        },
        "indexes": {"email": True},
        "parent": "virtual_domains",
    },
    "virtual_aliases": {
        "columns": {
            "id": "INT NOT NULL AUTO_INCREMENT PRIMARY KEY",
            "domain_id": "INT NOT NULL",
            "source": "VARCHAR(100) NOT NULL",
            "destination": "VARCHAR(100) NOT NULL",
        },
        "indexes": {"source": False},
        "parent": "virtual_domains",
    },
}
_ADDABLE = ("quota",)

_NAME = r"`(?:[^`]|``)*`"
_ACCOUNT = rf"{_NAME}@{_NAME}"
_GRANT = re.compile(
    rf"GRANT (?P<privileges>.+?) ON (?P<object>(?:[A-Z]+ )*(?:(?:{_NAME}|\*)\.(?:{_NAME}|\*)|{_ACCOUNT}|'.*?'@'.*?'))"
    rf" TO (?P<to>{_ACCOUNT}|'.*?'@'.*?')(?P<rest>.*)"
)
_ROLE = re.compile(rf"GRANT (?P<role>{_NAME}(?:@{_NAME})?) TO (?P<to>{_ACCOUNT})")

_NATIVE = "mysql_native_password"
_EXPANDED = "[^'\"]*%[sudSUD1-9]"


def canonicalize(config):
    """
    Turn the pillar of ispmail into what the database's side of it asks for.

    config
        A dict: what pillar holds under ``ispmail``, ``sdb://`` already resolved.

    Returns a dict of ``user``, ``password`` (None: there is none) and ``dbname`` of the maps, ``hosts`` (a list, the
    host parts of the account), ``create_tables``, ``login`` (how the admin gets in: ``unix_socket`` or ``host`` and
    ``port``, ``user``, ``password``) and ``errors`` (a list of pairs ``[pillar key, sentence]``, none with a value).

    Raises SaltInvocationError where ``config`` is no dict.

    Source: pillar.example

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_sql.canonicalize '{server: {host: 192.0.2.5}}'
    """
    if not isinstance(config, dict):
        raise SaltInvocationError("must be a mapping: see pillar.example")
    errors, sections = [], {}
    for name in ("database", "server"):
        section = config.get(name)
        if section is not None and not isinstance(section, dict):
            errors.append([name, "must be a mapping: see pillar.example"])
        sections[name] = section if isinstance(section, dict) else {}
    server, given = sections["server"], {"user": "mailserver", "dbname": "mailserver", **sections["database"]}
    plan = {key: given.get(key) for key in _MAPS_NEED}
    unknown = [key for key in server if key not in _SERVER]
    errors += [[f"server:{key}", f"is not a key: known are {', '.join(_SERVER)}"] for key in unknown]
    for key in ("user", "dbname"):
        if plan[key] == "":
            errors.append([f"database:{key}", "is empty"])
    hosts = server.get("accounts_host", "127.0.0.1")
    hosts = [hosts] if isinstance(hosts, str) else hosts
    if not isinstance(hosts, list) or not hosts or not all(map(_is_name, hosts)):
        errors.append(["server:accounts_host", "must be a text or a list of texts, such as 127.0.0.1 or 10.0.0.%"])
        hosts = []
    plan["hosts"] = list(dict.fromkeys(host.lower() for host in hosts))
    plan["create_tables"] = server.get("create_tables", True)
    if not isinstance(plan["create_tables"], bool):
        errors.append(["server:create_tables", "must be true or false"])
    login = {key: server[key] for key in _SERVER[:5] if server.get(key) is not None}
    plan["login"] = {"user": _LOGIN["user"], **login}
    if "host" not in login:
        plan["login"] = {**_LOGIN, **login}
    elif "unix_socket" in login:
        errors.append(["server:host", "is there beside unix_socket: take one of them out"])
    for key, value in login.items():
        if key == "port":
            if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 65536:
                errors.append(["server:port", "must be a number from 1 to 65535"])
        elif not isinstance(value, str) or (key != "password" and not _is_name(value)):
            errors.append([f"server:{key}", "must be a text: put it in quotes"])
    return {**plan, "errors": errors}


def lacks(found):
    """
    Tell what the tables of a database lack.

    found
        A dict: table to None (there is none) or a dict of ``columns`` (a list), ``indexes`` (a list of dicts of
        ``columns`` and ``unique``) and ``foreign`` (a list of the columns that are foreign keys).

    Returns a dict, of the tables that lack something: ``table`` True, or ``columns``, ``indexes`` and ``foreign``,
    lists of columns.

    Raises nothing.

    Source: the ISPmail guide

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_sql.lacks '{virtual_domains: null}'
    """
    lacking = {}
    for table, wanted in _TABLES.items():
        there = found.get(table)
        if there is None:
            lacking[table] = {"table": True}
            continue
        parts = {
            "columns": [column for column in wanted["columns"] if column not in there["columns"]],
            "indexes": [
                column
                for column, unique in wanted["indexes"].items()
                if not any(
                    index["columns"][0] == column and (not unique or (index["unique"] and len(index["columns"]) == 1))
                    for index in there["indexes"]
                )
            ],
            "foreign": ["domain_id"] * (bool(wanted["parent"]) and "domain_id" not in there["foreign"]),
        }
        if any(parts.values()):
            lacking[table] = parts
    return lacking


def mend(dbname, table, parts):
    """
    Write the statement that gives a table what it lacks.

    dbname, table
        Names.

    parts
        ``{table: True}`` for the whole of it, or what ``lacks`` tells of it, with one list more: ``plain``, the columns
        whose index cannot be unique.

    Returns a text.

    Raises SaltInvocationError for a column that cannot be added to a table with rows.

    Source: the ISPmail guide

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_sql.mend mailserver virtual_domains '{table: true}'
    """
    wanted = _TABLES[table]
    whole = parts.get("table")
    columns, indexes = (wanted["columns"], wanted["indexes"]) if whole else (parts["columns"], parts["indexes"])
    foreign = bool(wanted["parent"]) if whole else parts["foreign"]
    strange = [] if whole else [column for column in columns if column not in _ADDABLE]
    if strange:
        raise SaltInvocationError(
            f"{dbname}.{table} is there without {', '.join(strange)}, so it is not the guide's: "
            "add what it lacks by hand, or set ispmail:server:create_tables to false"
        )
    lines = [f"{column} {wanted['columns'][column]}" for column in columns]
    for column in indexes:
        unique = wanted["indexes"][column] and column not in parts.get("plain", ())
        lines.append(f"{'UNIQUE ' * unique}INDEX ({column})")
    if foreign:
        lines.append(f"FOREIGN KEY (domain_id) REFERENCES {_quoted(wanted['parent'])} (id) ON DELETE CASCADE")
    place = f"{_quoted(dbname)}.{_quoted(table)}"
    if whole:
        return f"CREATE TABLE {place} ({', '.join(lines)}) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4"
    return f"ALTER TABLE {place} {', '.join(f'ADD {line}' for line in lines)}"


def password(action, mariadb=True, kept=1):
    """
    Write the statements that decide which passwords an account accepts.

    action
        ``create`` the account with the new one, ``accept`` the new one beside the old ones, or have the new one as the
        ``sole``.

    mariadb : True
        Whether the server is a MariaDB, not a MySQL.

    kept : 1
        How many old ones there are. A MySQL keeps one.

    Returns a list of texts with the placeholders ``%(user)s``, ``%(host)s``, and for hashes ``%(new)s`` and, counted
    from 0, ``%(old0)s``.

    Raises SaltInvocationError for another action.

    Source: ALTER USER in the manuals of MariaDB and MySQL

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_sql.password accept mariadb=False
    """
    account = "USER %(user)s@%(host)s"
    new = f"IDENTIFIED VIA {_NATIVE} USING %(new)s" if mariadb else f"IDENTIFIED WITH {_NATIVE} AS %(new)s"
    # The new one first: libmariadb, and so Postfix, tries any number, but PyMySQL two.
    all_of_them = ["%(new)s", *[f"%(old{number})s" for number in range(kept)]]
    beside = f"IDENTIFIED VIA {' OR '.join(f'{_NATIVE} USING {text}' for text in all_of_them)}" if mariadb else None
    statements = {
        "create": [f"CREATE {account} {new}"],
        "accept": [f"ALTER {account} {beside or new + ' RETAIN CURRENT PASSWORD'}"],
        # Without RETAIN MySQL keeps a second password as it is.
        "sole": [f"ALTER {account} {new}", *[f"ALTER {account} DISCARD OLD PASSWORD"] * (not mariadb)],
    }
    if action not in statements:
        raise SaltInvocationError(f"the action must be one of {', '.join(statements)}")
    return statements[action]


def grants(lines):
    """
    Read what SHOW GRANTS says, without the hashes in it.

    lines
        A list of texts.

    Returns a list of dicts: ``privileges`` (a list), ``object`` (as SQL has it; None for a role) and ``option``
    (whether they may be granted on). What is no privilege, such as USAGE, is left out.

    Raises nothing.

    Source: SHOW GRANTS in the manuals of MariaDB and MySQL

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_sql.grants '["GRANT SELECT ON `a`.* TO `b`@`%`"]'
    """
    held = []
    for line in lines:
        role, found = _ROLE.match(line), _GRANT.match(line)
        if role:
            held.append({"privileges": [role["role"]], "object": None, "option": False})
        elif found:
            # A comma inside brackets is between columns.
            names = [name for name in re.split(r", (?![^(]*\))", found["privileges"]) if name != "USAGE"]
            option = "GRANT OPTION" in found["rest"]
            if names or option:
                held.append({"privileges": names, "object": found["object"], "option": option})
    return held


def shown(held):
    """
    Write grants for people.

    held
        What ``grants`` tells of an account.

    Returns a list of texts.

    Raises nothing.

    Source: SHOW GRANTS in the manuals of MariaDB and MySQL

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_sql.shown '[{privileges: [SELECT], object: "*.*", option: false}]'
    """
    return [
        f"{', '.join(grant['privileges']) or 'USAGE'} ON {grant['object']}{' WITH GRANT OPTION' * grant['option']}"
        if grant["object"]
        else f"ROLE {grant['privileges'][0]}"
        for grant in held
    ]


def regrant(held, dbname, schema_privileges):
    """
    Write the statements after which an account may SELECT on one database, and nothing else.

    held
        What ``grants`` tells of it.

    dbname
        The name of the database.

    schema_privileges
        A list of the names behind ALL PRIVILEGES on that database, as the server spells them.

    Returns a list of texts, with the placeholders ``%(user)s`` and ``%(host)s``; empty where all is well. SELECT is
    granted before anything is revoked, and never revoked: no question fails meanwhile.

    Raises nothing.

    Source: GRANT and REVOKE in the manuals of MariaDB and MySQL

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_sql.regrant '[]' mailserver '[]'
    """
    ours, account = _all_of(dbname), "%(user)s@%(host)s"
    has, revokes = False, []
    for grant in held:
        names, on = list(grant["privileges"]), (grant["object"] or "").replace("%", "%%")
        if grant["object"] is None:
            revokes.append(f"REVOKE {names[0].replace('%', '%%')} FROM {account}")
            continue
        if grant["object"] == ours:
            names = list(schema_privileges) if "ALL PRIVILEGES" in names else names
            has = has or "SELECT" in names
            names = [name for name in names if name not in ("SELECT", "USAGE")]
        if names:
            revokes.append(f"REVOKE {', '.join(names).replace('%', '%%')} ON {on} FROM {account}")
        if grant["option"] and names != ["PROXY"]:
            revokes.append(f"REVOKE GRANT OPTION ON {on} FROM {account}")
    return [*[f"GRANT SELECT ON {ours.replace('%', '%%')} TO {account}"] * (not has), *revokes]


def fill(query, question):
    """
    Fill in the expansions of a map's query, as Postfix does for one question.

    query
        A text, as a table file has it.

    question
        The key that is looked up.

    Returns the statement; None where Postfix does not ask (``%d`` of a key without a domain).

    Raises nothing.

    Source: mysql_table(5)

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_sql.fill "SELECT 1 FROM virtual_domains WHERE name='%s'" example.org
    """
    local, at, domain = question.rpartition("@")
    labels = (domain if at else question).split(".")[::-1]
    parts = {"s": question, "u": local if at else question, "d": domain if at else None}
    parts.update({str(number): label for number, label in enumerate(labels[:9], 1)})

    def part(match):
        if match[0] == "%%":
            return "%"
        value = parts.get(match[0][1].lower())
        missing.extend([match[0]] * (value is None))
        return re.sub(r"(['\"\\])", r"\\\1", value or "")

    missing = []
    statement = re.sub("%[%sudSUD1-9]", part, query)
    return None if missing else statement


def scans(query, plan):
    """
    Find the tables that a query reads in full.

    query
        A text, as a table file has it.

    plan
        What EXPLAIN says of it: a list of dicts, by the names of its columns.

    Returns a list of sentences, each with the index that is missing; empty where there is none.

    Raises nothing.

    Source: EXPLAIN in the manuals of MariaDB and MySQL

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_sql.scans "SELECT 1 FROM t WHERE a='%s'" '[{table: t, type: ALL, possible_keys: null}]'
    """
    compared = re.findall(rf"(?:`?(\w+)`?\s*\.\s*)?`?(\w+)`?\s*(?:=|<=>|\blike\b)\s*(['\"]){_EXPANDED}", query, re.I)
    turned = re.findall(rf"(['\"]){_EXPANDED}[^'\"]*\1\s*=\s*(?:`?(\w+)`?\.)?`?(\w+)`?", query)
    compared += [(owner, column, "") for _, owner, column in turned]
    sentences = []
    for row in plan:
        # A small table may be read in full by choice: then an index is possible all the same.
        if row["type"] not in ("ALL", "index") or row["possible_keys"] or not re.fullmatch(r"\w+", row["table"] or ""):
            continue
        alias = row["table"]
        renamed = re.search(rf"\b(?:FROM|JOIN)\s+`?(\w+)`?\s+(?:AS\s+)?`?{alias}\b", query, re.I)
        table = renamed[1] if renamed else alias
        columns = list(dict.fromkeys(column for owner, column, _ in compared if owner in ("", alias)))
        advice = f"ALTER TABLE {table} ADD INDEX ({columns[0]})" if columns else "compare a column that has an index"
        sentences.append(f"reads all of {table} for each question: {advice}")
    return sentences


def _is_name(value):
    return isinstance(value, str) and bool(value) and not re.search(r"[\0\n]", value)


def _quoted(name):
    return "`" + name.replace("`", "``") + "`"


def _all_of(dbname):
    """All tables of a database as GRANT has it, where _ and % stand for others."""
    return _quoted(re.sub(r"([_%\\])", r"\\\1", dbname)) + ".*"
