"""Prepare and check the MariaDB or MySQL that Postfix's maps read, and change its password, see mysql_table(5).

Passwords reach the server as hashes that are computed here: its logs never hold one.
"""

import contextlib
import hashlib
import json
import os
import re
import socket
import threading
import time

from salt.exceptions import CommandExecutionError, SaltInvocationError

# All in seconds. Building an index takes longer than any question.
_CONNECT, _READ, _BUILD, _LOCK = 5, 10, 300, 5
_NATIVE = "mysql_native_password"
_SOCKET = "/run/mysqld/mysqld.sock"
# ER_ACCESS_DENIED_ERROR, ER_ACCESS_DENIED_NO_PASSWORD_ERROR.
_REFUSALS = (1045, 1698)
# A login that is only tried, its every step; and all of them together, in seconds: a beacon waits for it.
_TRY, _TRIES = 2, 2.5
_NO_CLEAR_TEXT = f"check that it is the right server, and give the account a password by {_NATIVE}"

# What each of the server's errors means to an admin.
_MENDS = {
    1005: "the tables do not fit together: virtual_domains needs InnoDB and an INT id",
    1040: "too many connections: raise its max_connections, or set proxy: true for the maps",
    1044: "access to that database is denied: check dbname, and the account's grants",
    1045: "access is denied: check user and password, and that the account is allowed from this host",
    1049: "there is no such database: check dbname, or apply ispmail.database on the database server",
    1054: "a column of the query is not there: check the query",
    1064: "it does not understand the statement: check the query, and the server's version",
    1129: "it blocks this host after too many errors: run FLUSH HOSTS there",
    1142: "access to that table is denied: check the account's grants",
    1146: "a table is not there: check the query, or apply ispmail.database on the database server",
    1203: "the account has too many connections: raise max_user_connections, or set proxy: true for the maps",
    1205: "somebody holds a lock on it: see SHOW PROCESSLIST there, and try again",
    1227: "the admin's account may not do that: use one with all privileges",
    1226: "the account has used up what it may: raise its MAX_… limits, see ALTER USER",
    1290: "it runs with read_only or strict_password_validation: use the primary, or switch that off meanwhile",
    1345: "the account may not see how a view is made: grant SHOW VIEW and SELECT on what is in it, or ask as admin",
    1524: "it has not loaded mysql_native_password: load that plugin, Postfix's chroot has no other",
    1698: "access is denied: run Salt as root on the database server, or give server:user and server:password; "
    "a map's account needs a password",
    1792: "it was asked to read only: ask what only reads",
    1820: "the admin's password has expired: set a new one",
    1836: "it is a read-only replica: use the primary",
    2002: "it cannot be reached: check the address, and that it runs",
    2003: "it cannot be reached: check the address, and that it runs",
    2013: "it did not answer in time, or closed the connection: check that it is well",
    2059: "it wants a login plugin that is not there: use mysql_native_password",
    3118: "the account is locked: ALTER USER … ACCOUNT UNLOCK",
    3780: "the tables do not fit together: virtual_domains needs InnoDB and an INT id",
    4151: "the account is locked: ALTER USER … ACCOUNT UNLOCK",
}


def read(pillar="ispmail"):
    """
    Read what there is on the database server, without secrets.

    pillar : ispmail
        The pillar key that holds the configuration.

    Returns a dict: ``server`` (its version), ``database`` (its name, None where there is none), ``tables`` (table to a
    list of what it lacks, ``table`` for all of it), and ``accounts`` (``user@host``, all hosts of the maps' user, to a
    dict of ``managed``, ``grants``, ``plugins``, ``passwords``, how many are accepted, and ``locked``).

    Raises SaltInvocationError for faults in pillar, CommandExecutionError where the server cannot be asked.

    Source: SHOW GRANTS, information_schema, mysql.global_priv

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_database.read
    """
    plan = _plan(pillar)
    with _admin(plan) as server:
        lacking = __salt__["postfix_sql.lacks"](_tables(server, plan["dbname"]))
        return {
            "server": server.version,
            "database": plan["dbname"] if _has_database(server, plan["dbname"]) else None,
            "tables": {table: _told(parts) for table, parts in lacking.items()},
            "accounts": {
                f"{plan['user']}@{host}": {
                    "managed": host in plan["hosts"],
                    "grants": __salt__["postfix_sql.shown"](_grants(server, plan["user"], host)),
                    "plugins": account["plugins"],
                    "passwords": len(account["hashes"]),
                    "locked": account["locked"],
                }
                for host, account in _accounts(server, plan["user"]).items()
            },
        }


def tables(pillar="ispmail", test=False):
    """
    Make the database and the guide's tables, with the indexes that the maps need. What is there
    gets only what it lacks, and keeps its data.

    pillar : ispmail
        The pillar key that holds the configuration.

    test : False
        Whether only to tell what would be done.

    Returns a dict: ``changes`` (``database``, or a table, to what is new) and ``warnings`` (a list of sentences).

    Raises SaltInvocationError for faults in pillar, CommandExecutionError where the server refuses.

    Source: CREATE TABLE, ALTER TABLE, the ISPmail guide

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_database.tables test=True
    """
    plan = _plan(pillar)
    dbname = plan["dbname"]
    changes, warnings, statements = {}, [], []
    with _admin(plan, lock=not test) as server:
        if not _has_database(server, dbname):
            changes["database"] = {"old": None, "new": dbname}
            statements.append(f"CREATE DATABASE {_quoted(dbname)} CHARACTER SET utf8mb4")
        found = _tables(server, dbname)
        lacks = __salt__["postfix_sql.lacks"](found)
        if not plan["create_tables"]:
            # Of tables that are not there others take the place.
            told = [
                f"{dbname}.{table} lacks {', '.join(_told(parts))}"
                for table, parts in lacks.items()
                if "table" not in parts
            ]
            return {"changes": {}, "warnings": [f"{text}, and create_tables is false: add it by hand" for text in told]}
        for table, lacking in lacks.items():
            parts, told = _possible(server, dbname, table, lacking, found)
            warnings += told
            for some in parts:
                statements.append(__salt__["postfix_sql.mend"](dbname, table, some))
                changes.setdefault(table, {"old": None, "new": []})["new"] += _told(some)
        server.be_patient()
        for statement in [] if test else statements:
            server.ask(statement)
    return {"changes": changes, "warnings": warnings}


def account(pillar="ispmail", test=False):
    """
    Make the maps' account, with pillar's password, and have it SELECT on the database and
    do nothing else. The password of an account that is there is not changed.

    pillar : ispmail
        The pillar key that holds the configuration.

    test : False
        Whether only to tell what would be done.

    Returns a dict: ``changes`` (``user@host`` to what changed, secrets as ``***``) and ``warnings`` (a list of
    sentences).

    Raises SaltInvocationError for faults in pillar, CommandExecutionError where the server refuses.

    Source: CREATE USER, GRANT, REVOKE

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_database.account test=True
    """
    plan = _plan(pillar, password=True)
    user, new = plan["user"], _hash(plan["password"])
    changes, warnings, work = {}, [], []
    with _admin(plan, lock=not test) as server:
        found = _accounts(server, user)
        for host in plan["hosts"]:
            held = _grants(server, user, host) if host in found else []
            every = _schema_privileges(server, user, host)
            statements = __salt__["postfix_sql.regrant"](held, plan["dbname"], every)
            change = {}
            if host not in found:
                statements = __salt__["postfix_sql.password"]("create", server.mariadb) + statements
                change = {"account": {"old": None, "new": "made"}, "password": {"old": None, "new": "***"}}
            elif new not in found[host]["hashes"]:
                warnings.append(f"{user}@{host} does not accept pillar's password: see credential_accepted")
            if statements:
                select = [{"privileges": ["SELECT"], "object": _on(plan["dbname"]), "option": False}]
                changes[f"{user}@{host}"] = {
                    **change,
                    "grants": {
                        "old": __salt__["postfix_sql.shown"](held),
                        "new": __salt__["postfix_sql.shown"](select),
                    },
                }
                work += [(statement, {"user": user, "host": host, "new": new}) for statement in statements]
        for statement, arguments in [] if test else work:
            server.ask(statement, arguments)
    return {"changes": changes, "warnings": warnings + _strangers(plan, found)}


def credential_accepted(pillar="ispmail", test=False):
    """
    Have the account accept pillar's password, as the first one, beside those that it accepts now. Who
    uses an old one notices nothing, and the old one itself need not be known.

    pillar : ispmail
        The pillar key that holds the configuration.

    test : False
        Whether only to tell what would be done.

    Returns a dict: ``changes`` (``user@host`` to ``password``, ``***``, and ``passwords``, how many are accepted) and
    ``warnings`` (a list of sentences).

    Raises SaltInvocationError for faults in pillar, CommandExecutionError where the account is not there, logs in by a
    plugin that smtpd's chroot lacks, or, on a MySQL, which keeps one old password, accepts two others already; nothing
    is changed then.

    Source: ALTER USER … IDENTIFIED VIA … OR … (MariaDB), … RETAIN CURRENT PASSWORD (MySQL)

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_database.credential_accepted test=True
    """
    return _credential(pillar, "accept", test)


def credential_sole(pillar="ispmail", test=False):
    """
    Have the account accept pillar's password only, which it has to accept already, as the first one.

    pillar : ispmail
        The pillar key that holds the configuration.

    test : False
        Whether only to tell what would be done.

    Returns a dict as ``credential_accepted`` does.

    Raises SaltInvocationError for faults in pillar, CommandExecutionError where the account is not there, or does not
    accept pillar's password: who uses the other one would be locked out.

    Source: ALTER USER … IDENTIFIED VIA (MariaDB), … DISCARD OLD PASSWORD (MySQL)

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_database.credential_sole test=True
    """
    return _credential(pillar, "sole", test)


def ask(path, host, statements, **kwargs):
    """
    Log in with what a live table file holds, as Postfix would, and run statements, which may read only.

    path
        The path of the table file.

    host
        One of its ``hosts``, as it spells it.

    statements
        A list of texts.

    Returns a dict: ``plugin``, the login plugin that the server asked for last, and ``answers``, a list of dicts, one
    for each statement: ``rows``, a list of dicts, or ``reason``, a sentence on why there are none.

    Raises CommandExecutionError where there is no such file or the login fails, SaltInvocationError for a host that the
    file does not name, and where it is called as a job: what a job returns is kept, and SHOW GRANTS shows hashes.

    Source: mysql_table(5)

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_database.ask /etc/postfix/a.cf 127.0.0.1 '[SELECT 1]'    # refused: for other modules only
    """
    if kwargs:
        raise SaltInvocationError("this is not for the command line, as it would show secrets: use postfix_doctor")
    content = __salt__["postfix_files.read"](path)["content"]
    if content is None:
        raise CommandExecutionError(f"{path} is not there: apply ispmail")
    keys = _keys(content)
    if host not in _hosts(keys):
        raise SaltInvocationError(f"{path} does not name that host: {', '.join(_hosts(keys))}")
    server = _Server(host, {**_login(host, keys), "database": keys.get("dbname")})
    with contextlib.closing(server.connection):
        server.ask("SET SESSION TRANSACTION READ ONLY")
        answers = []
        for statement in statements:
            try:
                answers.append({"rows": server.ask(statement), "reason": None})
            except CommandExecutionError as err:
                answers.append({"rows": [], "reason": str(err)})
        return {"plugin": server.plugin, "answers": answers}


def refused(pillar="ispmail"):
    """
    Tell which logins in the live table files the database refuses. One that is down or silent has not refused, and
    whatever the servers do, the answer is there within three seconds.

    pillar : ispmail
        The pillar key that holds the configuration; the ``instances`` that it names are looked at too.

    Returns a list of dicts: ``host`` and ``user``; ``maps``, the names of those that log in so (with the pillar key
    before it, for another instance); and ``changed``, when the newest of their table files did, in ns since 1970.

    Raises SaltInvocationError for faults in pillar, CommandExecutionError where a table file cannot be read, or Salt's
    Python has no PyMySQL.

    Source: mysql_table(5)

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_database.refused
    """
    tries = {}
    for key, plan in __salt__["ispmail.instances"](pillar).items():
        for place in plan["maps"]:
            if place["type"] == "mysql" and place["wanted"]:
                name = place["name"] if key == pillar else f"{key}:{place['name']}"
                for host, login, changed in _live_logins(place["path"]):
                    one = tries.setdefault((host, repr(login)), {"host": host, "login": login, "maps": {}})
                    one["maps"][name] = changed
    _try_all(list(tries.values()))
    return [
        {
            "host": one["host"],
            "user": one["login"]["user"],
            "maps": list(one["maps"]),
            "changed": max(one["maps"].values()),
        }
        for one in tries.values()
        if one.get("number") in _REFUSALS
    ]


class _Failure(CommandExecutionError):
    """What the server, or the way to it, said no with."""

    number = 0


class _ClearText(Exception):
    """A server asks for the password itself."""


class _Withheld:
    """What such a server gets: nothing."""

    def __init__(self, connection):
        pass

    def authenticate(self, packet):
        raise _ClearText

    def prompt(self, echo, prompt):
        raise _ClearText


class _Plugins(dict):
    """How to log in by which plugin, as PyMySQL asks for it; remembers which the server wanted last."""

    wanted = None

    def get(self, name, default=None):
        self.wanted = (name.decode(errors="replace") if isinstance(name, bytes) else name) or self.wanted
        return super().get(self.wanted, default)


def _pymysql():
    try:
        import pymysql  # noqa: PLC0415  only who uses the database needs it
        import pymysql.cursors  # noqa: PLC0415
    except ImportError:
        raise CommandExecutionError(
            "Salt's Python has no PyMySQL: apply ispmail.database, or install python3-pymysql (salt-pip for onedir)"
        ) from None
    return pymysql


class _Server:
    """One connection; what fails on it is told by number and in words of our own, never the server's."""

    def __init__(self, where, login, connect=_CONNECT, read=_READ, begun=lambda connection: None):
        pymysql = _pymysql()
        self.where = where
        self._errors = (pymysql.Error, OSError, RuntimeError, _ClearText)
        plugins = _Plugins(mysql_clear_password=_Withheld, dialog=_Withheld)
        try:
            self.connection = pymysql.connect(
                charset="utf8mb4",
                autocommit=True,
                connect_timeout=connect,
                read_timeout=read,
                write_timeout=read,
                cursorclass=pymysql.cursors.DictCursor,
                auth_plugin_map=plugins,
                defer_connect=True,
                # PyMySQL would encode a text as latin1.
                **{**login, "password": (login.get("password") or "").encode("utf-8", "surrogateescape")},
            )
            begun(self.connection)
            self.connection.connect()
        except self._errors as err:
            raise self._failure(err) from None
        self.plugin = plugins.wanted or _NATIVE

    def ask(self, statement, arguments=None):
        """The rows, as dicts."""
        try:
            with self.connection.cursor() as cursor:
                cursor.execute(statement, arguments)
                return list(cursor.fetchall())
        except self._errors as err:
            raise self._failure(err) from None

    def be_patient(self):
        """Wait for what takes longer than a question. PyMySQL sets this only when it connects."""
        self.connection._read_timeout = _BUILD

    def _failure(self, err):
        number = err.args[0] if err.args and isinstance(err.args[0], int) else 0
        # PyMySQL lacks a library for that plugin.
        number = 2059 if isinstance(err, RuntimeError) and not number else number
        reason = _MENDS.get(number, "see that number in the server's manual, and the server's log")
        text = f"{self.where}: error {number or type(err).__name__}: {reason}"
        if isinstance(err, _ClearText):
            text = f"{self.where}: it asks for the clear-text password, which was not given: {_NO_CLEAR_TEXT}"
        failure = _Failure(text)
        failure.number = number
        return failure


@contextlib.contextmanager
def _admin(plan, lock=False):
    """The database server as its admin; locked against others of us who change it."""
    login = plan["login"]
    where = login.get("unix_socket") or f"{login['host']}:{login.get('port', 3306)}"
    server = _Server(f"the database server at {where}", login)
    with contextlib.closing(server.connection):
        server.version = server.ask("SELECT VERSION() AS version")[0]["version"]
        server.mariadb = "MariaDB" in server.version
        # Names in backticks, and no account made by GRANT; MySQL never makes one.
        server.ask("SET SESSION sql_mode = %s", ["NO_AUTO_CREATE_USER" if server.mariadb else ""])
        # Lookups would queue behind an ALTER that waits for a lock.
        server.ask("SET SESSION lock_wait_timeout = %s", [_LOCK])
        if lock and server.ask("SELECT GET_LOCK('ispmail', %s) AS got", [_LOCK])[0]["got"] != 1:
            raise CommandExecutionError(f"{server.where}: another run is changing it: wait for its end, and try again")
        yield server


def _plan(pillar, password=False):
    """What pillar says of the database's side, valid; its sdb:// URIs looked up."""
    config, errors = __salt__["ispmail.config"](pillar, ["database", "server"])
    plan = __salt__["postfix_sql.canonicalize"](config)
    errors += plan.pop("errors")
    # What a table file cannot hold must not become the password.
    keys = {key: plan[key] for key in ("user", "password", "dbname") if plan[key] is not None}
    faults = __salt__["postfix_table.validate"]("mysql", keys)["errors"]
    errors += [[f"database:{key}", reason] for key, reason in faults if key in keys]
    if password and not plan["password"]:
        errors.append(["database:password", "is missing or empty"])
    _refuse(pillar, errors)
    return plan


def _refuse(pillar, errors):
    lines = [f"{pillar}:{key} {reason}" for key, reason in errors]
    if lines:
        raise SaltInvocationError(_listed("Pillar is at fault, nothing was changed", lines))


def _listed(head, lines):
    return "\n- ".join([f"{head}:", *dict.fromkeys(lines)])


def _hash(password):
    """What mysql_native_password keeps of a password."""
    once = hashlib.sha1(password.encode(), usedforsecurity=False).digest()
    return "*" + hashlib.sha1(once, usedforsecurity=False).hexdigest().upper()


def _quoted(name):
    return "`" + name.replace("`", "``") + "`"


def _on(dbname):
    return f"{_quoted(dbname)}.*"


def _has_database(server, dbname):
    return bool(server.ask("SELECT 1 AS a FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = %s", [dbname]))


def _tables(server, dbname):
    """What the tables of a database have, as postfix_sql.lacks takes it."""
    found = {}
    kinds = (
        "SELECT TABLE_NAME AS t, TABLE_TYPE AS k, ENGINE AS e FROM information_schema.TABLES WHERE TABLE_SCHEMA = %s"
    )
    for row in server.ask(kinds, [dbname]):
        found[row["t"]] = {"view": row["k"] == "VIEW", "engine": row["e"], "columns": [], "indexes": [], "foreign": []}
    columns = "SELECT TABLE_NAME AS t, COLUMN_NAME AS c FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = %s"
    for row in server.ask(columns, [dbname]):
        found[row["t"]]["columns"].append(row["c"])
    indexes = (
        "SELECT TABLE_NAME AS t, INDEX_NAME AS i, COLUMN_NAME AS c, NON_UNIQUE AS n FROM information_schema.STATISTICS"
        " WHERE TABLE_SCHEMA = %s AND INDEX_TYPE IN ('BTREE', 'HASH') ORDER BY TABLE_NAME, INDEX_NAME, SEQ_IN_INDEX"
    )
    names = {}
    for row in server.ask(indexes, [dbname]):
        key = (row["t"], row["i"])
        if key not in names:
            names[key] = {"columns": [], "unique": not int(row["n"])}
            found[row["t"]]["indexes"].append(names[key])
        names[key]["columns"].append(row["c"])
    foreign = (
        "SELECT TABLE_NAME AS t, COLUMN_NAME AS c FROM information_schema.KEY_COLUMN_USAGE"
        " WHERE TABLE_SCHEMA = %s AND REFERENCED_TABLE_NAME IS NOT NULL"
    )
    for row in server.ask(foreign, [dbname]):
        found[row["t"]]["foreign"].append(row["c"])
    return found


def _possible(server, dbname, table, lacking, found):
    """What a table lacks, in the steps in which it can be given, and warnings of what it cannot."""
    if "table" in lacking:
        return [lacking], []
    name = f"{dbname}.{table}"
    if found[table]["view"]:
        raise CommandExecutionError(f"{name} is a view, nothing was changed: set ispmail:server:create_tables to false")
    place, parts, warnings = f"{_quoted(dbname)}.{_quoted(table)}", {**lacking, "foreign": [], "plain": []}, []
    for column in lacking["indexes"]:
        double = f"SELECT 1 AS a FROM {place} GROUP BY {column} HAVING COUNT({column}) > 1 LIMIT 1"  # noqa: S608
        if column != "source" and column in found[table]["columns"] and server.ask(double):
            warnings.append(
                f"{name}.{column} has a value in several rows, so its index cannot be unique: remove doubles"
            )
            parts["plain"].append(column)
    indexed = [index["columns"][0] for index in found[table]["indexes"]]
    parts["indexes"] = [name for name in lacking["indexes"] if name not in parts["plain"] or name not in indexed]
    steps = [parts] * bool(parts["columns"] or parts["indexes"])
    if lacking["foreign"] and "domain_id" not in lacking["columns"]:
        reason = _not_foreign(server, dbname, place, found.get("virtual_domains"), found[table])
        if reason:
            warnings.append(f"{name}.domain_id cannot become a foreign key: {reason}")
        else:
            steps.append({"columns": [], "indexes": [], "foreign": ["domain_id"]})
    return steps, warnings


def _not_foreign(server, dbname, place, parent, child):
    if child["engine"] != "InnoDB" or (parent and parent["engine"] != "InnoDB"):
        return "it needs InnoDB on both sides, see ALTER TABLE … ENGINE"
    orphans = f"SELECT 1 AS a FROM {place} c"  # noqa: S608
    if parent:
        domains = f"{_quoted(dbname)}.virtual_domains"
        orphans += f" LEFT JOIN {domains} p ON p.id = c.domain_id WHERE p.id IS NULL AND c.domain_id IS NOT NULL"
    return "rows of it name a domain that is not there, remove them" if server.ask(f"{orphans} LIMIT 1") else None


def _told(parts):
    if "table" in parts:
        return ["table"]
    told = [f"column {column}" for column in parts["columns"]]
    told += [f"index on {column}" for column in parts["indexes"]]
    return told + [f"foreign key {column}" for column in parts["foreign"]]


def _accounts(server, user):
    """Host to how an account of this user logs in. It holds hashes."""
    found = {}
    if server.mariadb:
        rows = server.ask("SELECT Host AS host, Priv AS priv FROM mysql.global_priv WHERE User = %s", [user])
        for row in rows:
            priv = json.loads(row["priv"])
            if not priv.get("is_role"):
                # An empty entry among the alternatives stands for the account's own; an empty password is left out.
                methods = [entry or priv for entry in priv.get("auth_or") or [{}]]
                pairs = [(entry.get("plugin"), entry.get("authentication_string", "")) for entry in methods]
                found[row["host"]] = _account(pairs, priv.get("account_locked", False))
        return found
    rows = server.ask(
        "SELECT Host AS host, plugin, CAST(authentication_string AS CHAR) AS hash, account_locked AS locked,"
        " User_attributes->>'$.additional_password' AS second FROM mysql.user WHERE User = %s",
        [user],
    )
    for row in rows:
        hashes = [row["hash"] or "", *[row["second"]] * bool(row["second"])]
        found[row["host"]] = _account([(row["plugin"], text) for text in hashes], row["locked"] == "Y")
    return found


def _account(methods, locked):
    plugins = list(dict.fromkeys(plugin or _NATIVE for plugin, _ in methods))
    hashes = [text.upper() for plugin, text in methods if (plugin or _NATIVE) == _NATIVE]
    valid = [text for text in dict.fromkeys(hashes) if re.fullmatch(r"(\*[0-9A-F]{40})?", text)]
    return {"plugins": plugins, "hashes": valid, "locked": bool(locked)}


def _grants(server, user, host):
    lines = [next(iter(row.values())) for row in server.ask("SHOW GRANTS FOR %s@%s", [user, host])]
    return __salt__["postfix_sql.grants"](lines)


def _schema_privileges(server, user, host):
    """What ALL PRIVILEGES on a database means to this server, as far as this account holds them."""
    statement = "SELECT DISTINCT PRIVILEGE_TYPE AS p FROM information_schema.SCHEMA_PRIVILEGES WHERE GRANTEE = %s"
    return [row["p"] for row in server.ask(statement, [f"'{user}'@'{host}'"])]


def _strangers(plan, found):
    """Other accounts of this user: who logs in by one of them keeps its password."""
    return [
        f"{plan['user']}@{host} is there too, and left alone: drop it, or add it to server:accounts_host"
        for host in found
        if host not in plan["hosts"]
    ]


def _credential(pillar, action, test):
    plan = _plan(pillar, password=True)
    user, new = plan["user"], _hash(plan["password"])
    faults, changes, work = [], {}, []
    with _admin(plan, lock=not test) as server:
        found = _accounts(server, user)
        for host in plan["hosts"]:
            hashes = found[host]["hashes"] if host in found else []
            fault = _credential_fault(found.get(host), new, action, server.mariadb)
            if fault:
                faults.append(f"{user}@{host} {fault}")
            elif (hashes[:1] != [new]) if action == "accept" else (hashes != [new]):
                # Nothing is accepted by it yet: there is nothing to keep.
                how = action if hashes else "sole"
                kept = [text for text in hashes if text != new] if how == "accept" else []
                numbers = {"old": len(hashes), "new": len(kept) + 1}
                changes[f"{user}@{host}"] = {"password": {"old": "***", "new": "***"}, "passwords": numbers}
                arguments = {"user": user, "host": host, "new": new}
                arguments.update({f"old{number}": text for number, text in enumerate(kept)})
                statements = __salt__["postfix_sql.password"](how, server.mariadb, len(kept))
                work += [(text, arguments) for text in statements]
        if faults:
            raise CommandExecutionError(_listed("Nothing was changed", faults))
        for statement, arguments in [] if test else work:
            server.ask(statement, arguments)
        if work and not test:
            after = _accounts(server, user)
            for name, change in changes.items():
                hashes = after[name.removeprefix(f"{user}@")]["hashes"]
                if new not in hashes or len(hashes) != change["passwords"]["new"]:
                    raise CommandExecutionError(f"{name} does not accept what it was told to: run it again")
    return {"changes": changes, "warnings": _strangers(plan, found)}


def _credential_fault(account, new, action, mariadb):
    """Why an account's passwords cannot be changed, and what to do; None if they can."""
    if account is None:
        return "is not there: run postfix_database.account first"
    others = [plugin for plugin in account["plugins"] if plugin != _NATIVE]
    if others:
        return (
            f"logs in by {', '.join(others)}, which smtpd's chroot and PyMySQL have not: "
            f"give it a password by {_NATIVE} alone (ALTER USER … IDENTIFIED VIA {_NATIVE} …)"
        )
    if new in account["hashes"]:
        # The first one is whose rotation has begun last: servers may use it.
        begun = action == "sole" and account["hashes"][0] != new
        return "accepts another password since then, another rotation has begun: rotate again" if begun else None
    if action == "sole":
        return "does not accept pillar's password yet, others would be locked out: run credential_accepted first"
    if len(account["hashes"]) > 1 and not mariadb:
        return (
            "accepts two other passwords already, and a MySQL keeps no third: put the newer one of them back into "
            "pillar, rotate, then start again"
        )
    return None


def _keys(content):
    return __salt__["postfix_table.parse"](content.decode("utf-8", "surrogateescape"))


def _hosts(keys):
    return [host for host in re.split(r"[,\s]+", keys.get("hosts", "localhost")) if host]


def _login(host, keys):
    """How PyMySQL logs in as Postfix does with this table file."""
    login = {"user": keys.get("user", ""), "password": keys.get("password", "")}
    name, _, port = host.removeprefix("inet:").partition(":")
    if host.startswith("unix:") or name == "localhost":
        login["unix_socket"] = host[5:] if host.startswith("unix:") else _SOCKET
    else:
        login.update(host=name, port=int(port) if port.isdigit() else 3306)
    names = {"tls_CAfile": "ca", "tls_CApath": "capath", "tls_cert_file": "cert", "tls_key_file": "key"}
    tls = {ours: keys[name] for name, ours in names.items() if keys.get(name)}
    if tls:
        login["ssl"] = {**tls, "check_hostname": False}
    return login


def _live_logins(path):
    """Each host of a table file, how to log in there, and when the file changed."""
    try:
        # Before it is read: one that is replaced in between is then told of once more, and not once too few.
        changed = os.stat(path).st_ctime_ns
    except OSError:
        return []
    content = __salt__["postfix_files.read"](path)["content"]
    keys = {} if content is None else _keys(content)
    # What is in an option_file is not looked at here; without it no login would be right.
    if content is None or "option_file" in keys:
        return []
    return [(host, _login(host, keys), changed) for host in _hosts(keys)]


def _try_all(tries):
    """Try logins side by side, and give each that failed in time the ``number`` of its failure."""

    def attempt(one):
        try:
            _Server(one["host"], one["login"], _TRY, _TRY, begun.append).connection.close()
        except _Failure as err:
            one["number"] = err.number
        except Exception:  # pylint: disable=broad-except
            # A table file may hold anything: what cannot be tried was not refused.
            one["number"] = 0

    begun = []
    if tries:
        _pymysql()
    # Not a pool of concurrent.futures: Salt would wait at its own end for a login that hangs in a name server.
    threads = [threading.Thread(target=attempt, args=[one], daemon=True) for one in tries]
    until = time.monotonic() + _TRIES
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0, until - time.monotonic()))
    # Who sends a byte now and then would hold its thread for ever, and the next one ten seconds later.
    for connection in begun:
        with contextlib.suppress(AttributeError, OSError):
            connection._sock.shutdown(socket.SHUT_RDWR)
