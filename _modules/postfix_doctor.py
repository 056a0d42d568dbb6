"""Look for all that is wrong, or will be, between Postfix on this server and its database. Nothing is changed."""

import os
import pwd
import re
import subprocess
import textwrap

import salt.utils.data
from salt.exceptions import CommandExecutionError, SaltInvocationError

_NATIVE = "mysql_native_password"
# What Postfix does where its configuration says nothing: seconds, and processes of a service.
_IDLE, _PROCESSES = 60, 100
_READ = 10
_LOGIN_KEYS = ("user", "password", "dbname", "tls_CAfile", "tls_CApath", "tls_cert_file", "tls_key_file", "tls_ciphers")
# No address of anybody, with all that an expansion may want.
_QUESTION = "probe@a.b.c.d.e.f.g.h.probe.invalid"
_FACTS = {
    "account": "SELECT CURRENT_USER() AS account",
    "grants": "SHOW GRANTS",
    "limits": "SELECT @@global.wait_timeout AS idle, @@global.max_connections AS most,"
    " @@global.max_user_connections AS mine",
}
_HEADER = ("result", "what should hold", "where", "mend")
_COUNTED = {"fault": ("fault", "faults"), "warning": ("warning", "warnings"), "ok": ("check holds", "checks hold")}
_NARROWEST = 60


def check(pillar="ispmail"):
    """
    Look for all that is wrong, or will be, between Postfix on this server and its database. Nothing is changed.

    pillar : ispmail
        The pillar key that holds the configuration; the ``instances`` that it names are looked at too.

    Returns a list of dicts: ``check`` (what should hold), ``where`` (with the pillar key before it, for another
    instance), ``result`` (``ok``, ``warning`` or ``fault``) and ``mend`` (what was found instead, and what to do). The
    database's admin is asked only where pillar has ``server:host``, or a host of the maps is this machine.

    Raises SaltInvocationError for faults in pillar, CommandExecutionError where Postfix cannot be asked.

    Source: mysql_table(5), proxymap(8), EXPLAIN, SHOW GRANTS

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_doctor.check
    """
    rows, logins, seen = [], {}, []
    for key, plan in __salt__["ispmail.instances"](pillar).items():
        instance = _instance(key, pillar, plan, "" if key == pillar else f"{key}: ")
        rows += _instance_rows(instance, logins)
    answers, possible = {}, {}
    hosts = [host for host, _ in logins]
    for (host, _), maps in logins.items():
        possible.setdefault(host, []).extend(maps)
    for (host, login), maps in logins.items():
        rows += _login_rows(host, dict(login), maps, possible[host], answers)
    rows += _differences(answers)
    for key in __salt__["ispmail.instances"](pillar):
        if key == pillar or "server" in _config(key):
            rows += _admin_rows(key, "" if key == pillar else f"{key}: ", hosts, seen)
    return rows


def report(pillar="ispmail", width=100):
    """
    Write what ``check`` finds as one table for people: faults first, then warnings; of what holds only where.

    pillar : ispmail
        The pillar key that holds the configuration; the ``instances`` that it names are looked at too.

    width : 100
        How many columns the text may take, 60 or more.

    Returns a text; its last line counts.

    Raises what ``check`` raises, and SaltInvocationError for another width.

    Source: mysql_table(5), proxymap(8), EXPLAIN, SHOW GRANTS

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_doctor.report width=160
    """
    if isinstance(width, bool) or not isinstance(width, int) or width < _NARROWEST:
        raise SaltInvocationError(f"width must be a number, {_NARROWEST} or more")
    return _table(check(pillar), width)


def _table(rows, width):
    bad = [row for result in ("fault", "warning") for row in rows if row["result"] == result]
    well = {}
    for row in rows:
        if row["result"] == "ok":
            well.setdefault(row["check"], []).append(row["where"])
    first = max(len(row["result"]) for row in [*rows, {"result": _HEADER[0]}])
    # Two blanks before each column but the first. The mend, which tells most, gets what the others do not need.
    rest = width - first - 6
    second = min(max(len(row["check"]) for row in [*rows, {"check": _HEADER[1]}]), rest * 3 // 10)
    third = min(max(len(word) for row in [*bad, {"where": _HEADER[2]}] for word in row["where"].split()), rest // 3)
    third = max(third, rest // 5)
    widths = (first, second, third, rest - second - third)
    lines = [*_line(_HEADER, widths), "  ".join("-" * column for column in widths)]
    for row in bad:
        lines += _line((row["result"], row["check"], row["where"], row["mend"]), widths)
    for name, places in well.items():
        lines += _line(("ok", name, "; ".join(dict.fromkeys(places))), (first, second, sum(widths[2:]) + 2))
    counts = {result: len([row for row in rows if row["result"] == result]) for result in _COUNTED}
    told = [f"{number} {_COUNTED[result][number != 1]}" for result, number in counts.items()]
    return "\n".join([*lines, "", ", ".join(told)])


def _line(cells, widths):
    """One row of a table, in as many lines as its longest cell takes."""
    columns = [
        [line for part in text.split("\n") for line in textwrap.wrap(part, width, break_on_hyphens=False) or [""]]
        for text, width in zip(cells, widths)
    ]
    return [
        "  ".join(
            (column[number] if number < len(column) else "").ljust(width) for column, width in zip(columns, widths)
        ).rstrip()
        for number in range(max(map(len, columns)))
    ]


def _row(check, where, mend="", result=None):
    return {"check": check, "where": where, "result": result or ("fault" if mend else "ok"), "mend": mend}


def _doubt(check, where, mend):
    return _row(check, where, mend, "warning" if mend else "ok")


def _config(pillar):
    return salt.utils.data.traverse_dict_and_list(__pillar__, pillar, {})


def _database(pillar):
    """What pillar says of the database's side; only what no table file holds is looked at."""
    config = _config(pillar)
    found = __salt__["postfix_sql.canonicalize"]({name: config.get(name) for name in ("database", "server")})
    if found["errors"]:
        faults = [f"{pillar}:{key} {sentence}" for key, sentence in found["errors"]]
        raise SaltInvocationError("\n- ".join(["Pillar is at fault, nothing was changed:", *faults]))
    return found


def _instance(key, main, plan, prefix):
    """One Postfix, and what decides how it asks."""
    directory = plan["config_directory"]
    names = ["default_process_limit", "mail_owner"]
    values = __salt__["postconf.get"](names, directory, defaults=True)
    limit = values["default_process_limit"]
    return {
        "key": key,
        "prefix": prefix,
        "where": f"{prefix}this server",
        "directory": directory,
        "maps": [place for place in plan["maps"] if place["wanted"]],
        "chroot": __salt__["postfix_instance.facts"](directory)["chroot"],
        "limit": int(limit) if limit.isdigit() else _PROCESSES,
        "owner": values["mail_owner"],
        # What shares the login of the first instance need not say again where it comes from.
        "hosts": _database(key if "server" in _config(key) else main)["hosts"],
        "answers": [entry for entry in _config(key).get("answers") or () if isinstance(entry, dict)],
    }


def _instance_rows(instance, logins):
    """What this server itself can tell; notes who logs in where."""
    rows, live = [_agreement(instance)], []
    for wanted in instance["maps"]:
        file = __salt__["postfix_files.read"](wanted["path"])
        if not file["content"]:
            continue
        keys = __salt__["postfix_table.parse"](file["content"].decode("utf-8", "surrogateescape"))
        hosts = list(filter(None, re.split(r"[,\s]+", keys.get("hosts", "localhost"))))
        name = f"{instance['prefix']}{wanted['name']}"
        place = {**wanted, "name": name, "keys": keys, "hosts": hosts, "instance": instance}
        live.append(place)
        rows += _file_rows(place, file)
        if "option_file" in keys:
            doubt = "it is in an option_file, which is not looked at here: put user and password into the table file"
            rows.append(_doubt("the login works", place["name"], doubt))
        elif place["type"] == "mysql":
            login = tuple((key, keys[key]) for key in _LOGIN_KEYS if key in keys)
            for host in dict.fromkeys(hosts):
                logins.setdefault((host, login), []).append(place)
    rows += _postfix_rows(live, instance)
    old = __salt__["postfix_instance.old_processes"]([place["path"] for place in live], instance["directory"])
    stale = f"{', '.join(old)} read them before they changed: postfix -c {instance['directory']} reload" if old else ""
    return [*rows, _doubt("no process uses older table files", instance["where"], stale)]


def _agreement(instance):
    check = "files and main.cf are as pillar says"
    try:
        changes = __salt__["postfix_map.apply"](instance["key"], test=True)["changes"]
    except (CommandExecutionError, SaltInvocationError) as err:
        return _row(check, instance["where"], str(err))
    return _doubt(check, instance["where"], f"{', '.join(changes)} would change: apply ispmail" if changes else "")


def _file_rows(place, file):
    """Who can read a table file."""
    path = place["path"]
    others = f"everybody can read the password in it: chmod 0640 {path}" if file["mode"] & 0o007 else ""
    rows = [_row("the table file is private", place["name"], others)]
    if place["proxy"]:
        # proxymap(8) opens it as this user. Others open it as root.
        owner = place["instance"]["owner"]
        reader = {"user": owner, "group": pwd.getpwnam(owner).pw_gid}
        reader["extra_groups"] = os.getgrouplist(owner, reader["group"])
        done = subprocess.run(["test", "-r", path], check=False, timeout=_READ, **reader)
        closed = f"proxymap cannot read {path}: chgrp postfix, chmod 0640, and let it enter the directories above"
        rows.append(_row("its reader can read it", place["name"], closed if done.returncode else ""))
    return rows


def _postfix_rows(live, instance):
    """Whether Postfix's own client can ask the live table files, with the plugins that each reader has."""
    told = {}
    for jailed in (False, True):
        some = {
            f"{place['type']}:{place['path']}": place["name"]
            for place in live
            if (instance["chroot"] and not place["proxy"]) == jailed
        }
        found = __salt__["postmap.probe"](list(some), instance["directory"], jailed=jailed) if some else {}
        for table, name in some.items():
            told.setdefault((found[table]["reason"] or "").replace(table, name), []).append(name)
    return [_row("Postfix can ask it", ", ".join(names), reason) for reason, names in told.items()]


def _login_rows(host, keys, maps, neighbours, answers):
    """All that one login with what table files hold can tell."""
    where = f"{host} for {', '.join(place['name'] for place in maps)}"
    asked = {**_FACTS, **{(place["name"], what): text for place in maps for what, text in _questions(place).items()}}
    try:
        found = __salt__["postfix_database.ask"](maps[0]["path"], host, list(asked.values()))
    except (CommandExecutionError, SaltInvocationError) as err:
        return [_row("the login works", where, str(err))]
    got = dict(zip(asked, found["answers"]))
    prefixes = {place["instance"]["prefix"] for place in maps}
    place_of_host = f"{prefixes.pop() if len(prefixes) == 1 else ''}{host}"
    silent = {got[fact]["reason"] for fact in _FACTS} - {None}
    rows = [_row("the login works", where), _plugin_row(place_of_host, found["plugin"], maps)]
    if silent:
        rows.append(_row("the server answers", place_of_host, "; ".join(sorted(silent))))
    else:
        facts = {fact: got[fact]["rows"] for fact in _FACTS}
        rows += _account_rows(place_of_host, facts, keys, maps)
        rows += _limit_rows(place_of_host, facts["limits"][0], maps, neighbours)
    for place in maps:
        own = {what: got[place["name"], what] for what in _questions(place)}
        rows += _query_rows(place, f"{place['name']} on {host}", own)
        # Several rows come in any order.
        answers.setdefault(place["name"], {})[host] = {
            what: sorted(str(list(row.values())) for row in answer["rows"])
            for what, answer in own.items()
            if what not in ("query", "plan") and not answer["reason"]
        }
    return rows


def _questions(place):
    """What is asked of a map: its query, how it is looked up, and what hosts are compared by."""
    query = place["keys"].get("query", "")
    statement = __salt__["postfix_sql.fill"](query, _QUESTION)
    asked = {"query": statement, "plan": f"EXPLAIN {statement}"}
    if len(place["hosts"]) == 1:
        return asked
    for table in dict.fromkeys(re.findall(r"\b(?:FROM|JOIN)\s+`?(\w+)`?(?![\w`]*\s*\.)", query, re.IGNORECASE)):
        asked[f"rows of {table}"] = f"SELECT COUNT(*) AS n FROM `{table}`"  # noqa: S608
    for entry in place["instance"]["answers"]:
        if f"{place['instance']['prefix']}{entry.get('map')}" == place["name"]:
            text = __salt__["postfix_sql.fill"](query, str(entry.get("question")))
            asked.update({f"the answer to {entry.get('question')}": text} if text else {})
    return asked


def _plugin_row(where, plugin, maps):
    jailed = any(place["instance"]["chroot"] and not place["proxy"] for place in maps)
    missing = f"it logs in by {plugin}, which smtpd's chroot has not: use {_NATIVE}, or set proxy: true for the maps"
    return _row("smtpd's chroot has the login plugin", where, missing if jailed and plugin != _NATIVE else "")


def _account_rows(where, facts, keys, maps):
    """Which account it is that the server matches with a login from here, and what it may do."""
    seen = facts["account"][0]["account"]
    user, _, from_host = seen.rpartition("@")
    hosts = {host for place in maps for host in place["instance"]["hosts"]}
    other = (
        f"it is {seen} that logs in from here, which a rotation does not change: drop that account, or add it to "
        "server:accounts_host"
    )
    other = other if user != keys.get("user") or from_host.lower() not in hosts else ""
    held = __salt__["postfix_sql.grants"]([next(iter(row.values())) for row in facts["grants"]])
    texts = __salt__["postfix_sql.shown"](held)
    more = [
        text
        for grant, text in zip(held, texts)
        if grant["privileges"] != ["SELECT"] or grant["option"] or grant["object"] == "*.*"
    ]
    more = f"{seen} has {'; '.join(more)}: revoke that, or apply ispmail.database" if more else ""
    where = f"{seen} on {where}"
    return [_doubt("the account is the managed one", where, other), _doubt("the account may only read", where, more)]


def _limit_rows(where, limits, maps, neighbours):
    limits = {key: int(value) for key, value in limits.items()}
    kept = [place["keys"].get("idle_interval", "") for place in maps]
    kept = max(int(text) if text.isdigit() else _IDLE for text in kept)
    idle = f"wait_timeout is {limits['idle']} s, Postfix keeps connections for {kept} s: raise it"
    few = ""
    # One limit is the server's, whoever logs in; the other is each account's.
    for some, most, name in (
        (neighbours, limits["most"], "max_connections"),
        (maps, limits["mine"], "max_user_connections"),
    ):
        told, possible = _connections(some)
        if most and possible > most and not few:
            few = f"{told} may make {possible} connections, it takes {most}: set proxy: true, or raise {name}"
    return [
        _row("idle connections are kept", where, idle if limits["idle"] < kept else ""),
        _doubt("there are connections enough", where, few),
    ]


def _connections(maps):
    """How many connections Postfix here may make: a sentence's subject, and the number."""
    direct = {}
    for place in maps:
        if not place["proxy"]:
            direct.setdefault((place["instance"]["prefix"], place["instance"]["limit"]), []).append(place)
    told = [
        f"{prefix}{limit} processes with {len(some)} map{'s' * (len(some) > 1)} each"
        for (prefix, limit), some in direct.items()
    ]
    return " and ".join(told), sum(limit * len(some) for (_, limit), some in direct.items())


def _query_rows(place, where, own):
    """Whether a map's query can be asked, and has its index."""
    works, indexed = "the query works", "the query has an index"
    if own["query"]["reason"]:
        return [_row(works, where, own["query"]["reason"])]
    if own["plan"]["reason"]:
        return [_row(works, where), _doubt(indexed, where, f"EXPLAIN cannot tell: {own['plan']['reason']}")]
    mends = __salt__["postfix_sql.scans"](place["keys"].get("query", ""), own["plan"]["rows"])
    return [_row(works, where), _row(indexed, where, "; ".join(mends))]


def _differences(answers):
    """Hosts of one map that do not hold the same."""
    rows = []
    for name, hosts in answers.items():
        if len(hosts) > 1:
            first, *others = hosts
            differ = [
                f"{what} differ on {first} and {host}"
                for host in others
                for what in dict.fromkeys([*hosts[first], *hosts[host]])
                if hosts[first].get(what) != hosts[host].get(what)
            ]
            mend = f"{'; '.join(differ)}: see whether replication works" if differ else ""
            rows.append(_doubt("all hosts say the same", name, mend))
    return rows


def _is_here(host):
    """Whether a host of a table file is this machine."""
    name = host.removeprefix("inet:").partition(":")[0]
    return host.startswith("unix:") or name in ("localhost", *__grains__["ipv4"])


def _admin_rows(pillar, prefix, hosts, seen):
    """What only the admin of the database sees, once for instances that share it."""
    plan = _database(pillar)
    identity = {**plan, "password": None, "create_tables": None}
    # Another database may well be here, for webmail, say.
    named = "unix_socket" in (_config(pillar).get("server") or {})
    here = (named or os.path.exists(plan["login"].get("unix_socket", ""))) and any(map(_is_here, hosts))
    if identity in seen or not ("host" in plan["login"] or here):
        return []
    seen.append(identity)
    where, check = f"{prefix}the database server", "the database is as ispmail.database makes it"
    try:
        found = __salt__["postfix_database.read"](pillar)
    except (CommandExecutionError, SaltInvocationError) as err:
        return [_doubt(check, where, f"could not be asked as its admin: {err}")]
    lacks = [
        f"{table} lacks {', '.join(parts)}"
        for table, parts in found["tables"].items()
        if plan["create_tables"] or parts != ["table"]
    ]
    rows = [_doubt(check, where, f"{'; '.join(lacks)}: apply ispmail.database" if lacks else "")]
    for name, account in found["accounts"].items():
        rows += _managed_rows(f"{prefix}{name}", account) if account["managed"] else []
    strangers = [name for name, account in found["accounts"].items() if not account["managed"]]
    told = (
        f"{', '.join(strangers)} is there too, a rotation leaves it alone: drop it, or add it to server:accounts_host"
    )
    rows.append(_doubt("all accounts of the user are managed", where, told if strangers else ""))
    missing = [host for host in plan["hosts"] if f"{plan['user']}@{host}" not in found["accounts"]]
    return rows + [
        _row("the account is there", f"{prefix}{plan['user']}@{host}", "it is not: apply ispmail.database")
        for host in missing
    ]


def _managed_rows(name, account):
    others = [plugin for plugin in account["plugins"] if plugin != _NATIVE]
    plugins = f"it logs in by {', '.join(others)}, which smtpd's chroot has not: use {_NATIVE} alone"
    number = f"{account['passwords']} are: a rotation is under way, or has to be started again to end it"
    locked = "it is: ALTER USER … ACCOUNT UNLOCK"
    return [
        _row("smtpd's chroot has the login plugin", name, plugins if others else ""),
        _row("the account is not locked", name, locked if account["locked"] else ""),
        _doubt("one password is accepted", name, number if account["passwords"] != 1 else ""),
    ]
