"""Ask Postfix's lookup tables, see postmap(1): an answer, no answer, or could not ask."""

import concurrent.futures
import contextvars
import re
import socket
import time

ANSWER, NO_ANSWER, COULD_NOT_ASK = "answer", "no answer", "could not ask"

_NO_PLUGINS = {"MARIADB_PLUGIN_DIR": "/nonexistent"}
# A question that fills every expansion (%1 to %9 too) and that nobody has an answer to.
_PROBE = "probe@a.b.c.d.e.f.g.h.probe.invalid"
_PORTS = {"mysql": 3306, "pgsql": 5432}

# What each reason means to an admin, by what Postfix or the server says.
_MENDS = (
    (
        "Access denied .* to database",
        "that database is not there, or not for this account: check dbname and the grants",
    ),
    ("Access denied", "check user and password, and that the account is allowed from this host"),
    ("Unknown database", "check dbname"),
    (r"Table '.*' doesn't exist|no such table|relation .* does not exist", "check the query, or create the table"),
    ("Unknown column|no such column|column .* does not exist", "check the query"),
    ("command denied", "grant SELECT on that table"),
    (
        "Plugin .* could not be loaded",
        "smtpd's chroot has no such plugin: use mysql_native_password, or set proxy: true",
    ),
    ("Can't connect|Connection refused|could not connect", "check hosts, and that the database runs"),
    ("Application error", "proxymap could not ask: the mail log says why; it reads table files as user postfix"),
    ("Too many connections", "raise the server's max_connections, or set proxy: true"),
    (
        "unsupported dictionary type|not supported|is not configured",
        "install the package of this table type, such as postfix-mysql",
    ),
    ("not allowed to open|is not approved|proxy_read_maps", "add the table to proxy_read_maps"),
)


def query(question, tables, config_directory="/etc/postfix", timeout=10, jailed=False, pass_fds=()):
    """
    Ask lookup tables one question, one after the other, until one answers.

    question
        The key to look up, one line.

    tables
        A table or a list of tables, ``type:path``.

    config_directory : /etc/postfix
        The directory of main.cf.

    timeout : 10
        How many seconds to wait for all of it.

    jailed : False
        Whether to see only the client plugins that a chrooted smtpd sees: none.

    pass_fds : ()
        Open files that a table's path ``/proc/self/fd/N`` stands for.

    Returns a dict: ``result``, one of ``answer``, ``no answer``, ``could not ask``; with an answer its
    text as ``answer``; where it could not ask ``reason`` and ``table``, the one that failed (None
    where that is not known); always ``warnings``, a list of what was said beside it.

    Raises CommandExecutionError where there is no postmap.

    Source: postmap(1) -q

    CLI Example:

    .. code-block:: bash

        salt '*' postmap.query jack@example.org mysql:/etc/postfix/mariadb-virtual-alias-maps.cf
    """
    tables = [tables] if isinstance(tables, str) else list(tables)
    done = __salt__["postfix_command.run"](
        "postmap", ["-c", config_directory, "-q", question, *tables], timeout, _NO_PLUGINS if jailed else None, pass_fds
    )
    if done["retcode"] is None:
        table = tables[0] if len(tables) == 1 else None
        return _failure(table, f"{done['stderr'].replace('end', 'answer')}{_silent_hosts(table)}", [])
    said = [
        re.sub(r"^postmap: (fatal|warning|error|panic): ", r"\1: ", line)
        for line in _without_secrets(done["stderr"], tables).splitlines()
    ]
    warnings = [line.removeprefix("warning: ") for line in said if not line.startswith(("fatal: ", "panic: "))]
    fatal = [line.partition(": ")[2] for line in said if line.startswith(("fatal: ", "panic: "))]
    if done["retcode"] == 0:
        answer = _readable(done["stdout"]).removesuffix("\n")
        return {"result": ANSWER, "answer": answer, "warnings": warnings}
    if fatal or done["retcode"] != 1:
        table = next((table for table in tables if any(_names(line, table) for line in fatal)), None)
        # Of each host, in an order that does not change: Postfix takes them at random.
        cause = "; ".join(sorted({line for line in warnings if "connect to" in line or "query failed" in line}))
        return _failure(table, cause or [f"postmap ended with {done['retcode']}", *fatal][-1], warnings)
    return {"result": NO_ANSWER, "warnings": warnings}


def probe(tables, config_directory="/etc/postfix", timeout=8, jailed=False, pass_fds=()):
    """
    Find out which tables can be asked, by a question that runs each one's query.

    One postmap asks them all, with one database connection at a time; only where that
    fails is each asked for itself.

    tables
        A list of tables, ``type:path``.

    config_directory : /etc/postfix
        The directory of main.cf.

    timeout : 8
        How many seconds to wait for all tables together. Where that is not enough, half as
        long again for finding out which of them, and which host, does not speak.

    jailed : False
        As for ``query``.

    pass_fds : ()
        As for ``query``.

    Returns a dict: table to a dict of ``reason`` (None: it can be asked) and ``warnings``.

    Raises CommandExecutionError where there is no postmap.

    Source: postmap(1) -q, mysql_table(5) "domain"

    CLI Example:

    .. code-block:: bash

        salt '*' postmap.probe '[mysql:/etc/postfix/mariadb-virtual-alias-maps.cf]'
    """
    until = time.monotonic() + timeout * 1.5
    results = {}
    by_question = {}
    for table in tables:
        by_question.setdefault(_probe_question(table), []).append(table)

    def ask(question, some):
        left = min(timeout if len(some) > 1 else timeout / 2, until - time.monotonic())
        if left <= 0:
            return _failure(None, "not asked, the time for probes was used up by other tables", [])
        return query(question, some, config_directory, left, jailed, pass_fds)

    for question, some in by_question.items():
        together = ask(question, some)
        if together["result"] == NO_ANSWER or len(some) == 1:
            results.update(dict.fromkeys(some, together))
            continue
        # An answer ended it early, or one failed: which, only each one's own can tell.
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            contexts = [contextvars.copy_context() for _ in some]
            asked = pool.map(contextvars.Context.run, contexts, [ask] * len(some), [question] * len(some), zip(some))
            results.update(zip(some, asked))
    return {table: {"reason": results[table].get("reason"), "warnings": results[table]["warnings"]} for table in tables}


def _probe_question(table):
    """A domain list stops all other questions: take a domain that is in it."""
    items = re.split(r"[,\s]+", _keys(table).get("domain", ""))
    plain = [item for item in items if item and not re.search(r"[:/!]", item)]
    return f"probe@{plain[0]}" if plain else _PROBE


def _keys(table):
    """What the file of a table holds. It may hold secrets."""
    file = __salt__["postfix_files.read"](table.rpartition(":")[2])
    return __salt__["postfix_table.parse"]((file["content"] or b"").decode("utf-8", "surrogateescape"))


def _silent_hosts(table):
    """Which of a table's hosts do not speak, as the end of a sentence."""
    if table is None:
        return ""
    type_ = table.split(":")[-2]
    hosts = re.split(r"[,\s]+", _keys(table).get("hosts", ""))
    hosts = [host for host in hosts if type_ in _PORTS and host and not host.startswith("unix:")]
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        found = list(filter(None, pool.map(_silence, hosts, [type_] * len(hosts))))
    return f": {', '.join(found)} (check hosts, and the database there)" if found else ""


def _silence(host, type_):
    """Why a host does not speak, None where it does."""
    name, _, port = host.removeprefix("inet:").partition(":")
    port = int(port or _PORTS[type_])
    try:
        with socket.create_connection((name, port), timeout=2) as connection:
            if type_ == "mysql" and not connection.recv(1):
                return f"{name}:{port} closes the connection"
    except TimeoutError:
        return f"{name}:{port} does not speak"
    except OSError as err:
        return f"{name}:{port}: {err.strerror}"
    return None


def _names(line, table):
    path = re.escape(table.rpartition(":")[2])
    return re.search(rf"{path}(?![0-9])", line) is not None


def _without_secrets(said, tables):
    """What postmap said, without a secret that a table file holds."""
    if not said:
        return ""
    for table in tables:
        keys = _keys(table)
        shown = __salt__["postfix_table.redact"](keys)
        for key, value in keys.items():
            if value and shown[key] != value:
                said = said.replace(value, shown[key])
    return _readable(said)


def _readable(text):
    """A text that can be shown and sent: what was no UTF-8 in it is replaced."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _failure(table, reason, warnings):
    mend = next((mend for pattern, mend in _MENDS if re.search(pattern, reason)), None)
    return {
        "result": COULD_NOT_ASK,
        "table": table,
        "reason": f"{reason} ({mend})" if mend else reason,
        "warnings": warnings,
    }
