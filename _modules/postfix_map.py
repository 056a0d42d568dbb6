"""Read, ask, apply and remove the SQL lookup maps of one Postfix instance.

A *map* is what a main.cf parameter points at, its *table file* says how to ask the
database. All functions read pillar themselves: no secret is ever an argument.
"""

import contextlib
import grp
import hashlib
import os
import pwd
import re
import time

from salt.exceptions import CommandExecutionError, SaltInvocationError

VERSION = "0.1.0"

# A table file holds a password, and proxymap(8) reads it as user postfix.
_OWNER, _GROUP, _MODE = "root", "postfix", 0o640
# How many new table files are held in memory at once: each takes a descriptor.
_CHUNK = 64
_NONCE = 16
# A guess at the password behind a fingerprint takes 16 MiB and some 50 ms.
_SCRYPT = {"n": 2**14, "r": 8, "p": 1, "dklen": 16}
_JAILED = ("tls_CAfile", "tls_CApath", "tls_cert_file", "tls_key_file")
# How long to go on looking for more that cannot be asked, after the first.
_PROBES_SECONDS = 10


def version():
    """
    Tell the version of these modules, by which the formula knows whether to sync them.

    Returns a text such as ``0.1.0``. Takes no arguments and raises nothing.

    Source: CHANGELOG.md

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_map.version
    """
    return VERSION


def read(pillar="ispmail"):
    """
    Read the maps that pillar names as they are on this server, without secrets.

    pillar : ispmail
        The pillar key that holds the configuration.

    Returns a dict: name of the map to a dict of ``parameter``, ``table`` (``type:path`` as main.cf
    has it), ``in_parameter`` (whether the parameter points at it), ``user``, ``group`` and ``mode`` of
    the table file, and ``keys``, its content with ``***`` for secrets (None: no such file).

    Raises SaltInvocationError for faults in pillar, CommandExecutionError where main.cf
    or a file cannot be read.

    Source: mysql_table(5), postconf(1)

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_map.read
    """
    plan = __salt__["ispmail.places"](pillar)
    maps = [place for place in plan["maps"] if place["wanted"]]
    values = __salt__["postconf.get"](_parameters(maps), plan["config_directory"], defaults=True)
    found = {}
    for place in maps:
        file = __salt__["postfix_files.read"](place["path"])
        found[place["name"]] = {
            "parameter": place["parameter"],
            "table": _table(place),
            "in_parameter": _table(place) in __salt__["postconf.words"](values.get(place["parameter"], "")),
            "keys": None,
        }
        if file["content"] is not None:
            found[place["name"]].update(_ownership(file), keys=__salt__["postfix_table.redact"](_keys(file)))
    return found


def lookup(map, question, pillar="ispmail"):
    """
    Ask one map one question, as Postfix would.

    map
        The name of a map in pillar, or a table, ``type:path``.

    question
        The key to look up, one line.

    pillar : ispmail
        The pillar key that holds the configuration.

    Returns a dict, within 10 seconds: ``result`` is ``answer``, with the text as ``answer``; ``no answer``; or
    ``could not ask``, with ``reason`` and ``table``. ``warnings`` lists what was said beside it.

    Raises SaltInvocationError for a map that pillar does not name, CommandExecutionError
    where there is no postmap.

    Source: postmap(1) -q

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_map.lookup virtual_alias_maps jack@example.org
    """
    question = str(question)
    if not question or re.search(r"[\n\0]", question):
        raise SaltInvocationError("the question must be a text of one line")
    plan = __salt__["ispmail.places"](pillar)
    table = map if ":" in map else _table(_chosen(plan, [map])[0])
    return __salt__["postmap.query"](question, table, plan["config_directory"])


def apply(pillar="ispmail", test=False):
    """
    Bring the table files and main.cf of this server to what pillar says, all or nothing.

    Each new table file is asked before it goes live; the answers that pillar expects are
    compared before and after; main.cf and the files are replaced together; Postfix is
    reloaded if it runs; and if anything fails, everything is put back.

    pillar : ispmail
        The pillar key that holds the configuration.

    test : False
        Whether only to tell what would be done. New table files are asked all the same, from memory.

    Returns a dict: ``changes`` (name of a map, or ``main.cf``, to what changed, secrets as ``***``),
    ``maps`` (how many there are), ``warnings`` (a list of sentences) and ``reloaded``
    (whether Postfix was, or would be, reloaded).

    Raises SaltInvocationError that lists all faults of pillar, CommandExecutionError where
    a map could not be asked or gave another answer, or where a file could not be
    written; everything is as before then.

    Source: mysql_table(5), postmap(1), postconf(1), postfix(1)

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_map.apply test=True
    """
    plan = _plan(pillar)
    directory = plan["config_directory"]
    work = _work(plan)
    if not work["changes"] and not __salt__["postfix_change.interrupted"](directory):
        return _result({}, plan["maps"], plan["warnings"], False)
    result = _checked(pillar, plan, work)
    if not test:
        before = _ask_smtpd(directory) if result["reloaded"] else None

        def check(running):
            _ask_live(plan, work["changed"], running)
            if running:
                _compare(before, _ask_smtpd(directory))

        if before and before["code"] in (None, 421, 530):
            result["warnings"].append(
                f"smtpd itself was not asked ({before['text']}): send a mail to see whether its chroot lacks anything"
            )
        old = __salt__["postfix_change.make"](directory, work["files"], work["parameters"], check, work["explicit"])
        if old:
            result["warnings"].append(f"busy processes end their sessions with the old maps: {', '.join(old)}")
    return result


def remove(maps=None, pillar="ispmail", test=False):
    """
    Take maps out of main.cf, reload Postfix if it runs, then remove their table files.

    maps : None
        A list of names of maps in pillar, null ones too; None for all.

    pillar : ispmail
        The pillar key that holds the configuration.

    test : False
        Whether only to tell what would be done.

    Returns a dict as ``apply`` does.

    Raises SaltInvocationError for a map that pillar does not name, CommandExecutionError
    where main.cf or a file cannot be written; everything is as before then.

    Source: postconf(1), postfix(1)

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_map.remove '[virtual_alias_maps]' test=True
    """
    plan = __salt__["ispmail.places"](pillar)
    chosen = _chosen(plan, maps)
    directory = plan["config_directory"]
    values = __salt__["postconf.get"]([*_parameters(chosen), "proxy_read_maps"], directory)
    paths = {place["path"] for place in chosen}
    parameters = {}
    for name, value in values.items():
        kept = __salt__["postconf.with_tables"](value, [], paths)
        if kept != value:
            whole = name == "proxy_read_maps" and kept == __salt__["postconf.default"](name, directory)
            parameters[name] = None if whole else kept or None
    files = [file for file in map(__salt__["postfix_files.read"], sorted(paths)) if file["content"] is not None]
    changes = {
        place["name"]: {"file": {"old": place["path"], "new": None}}
        for place in chosen
        if any(file["path"] == os.path.realpath(place["path"]) for file in files)
    }
    if parameters:
        changes["main.cf"] = {name: {"old": values[name], "new": new} for name, new in parameters.items()}
    if files:
        _refuse_in_use(directory, paths, values)
    reload = bool(parameters) and __salt__["postfix_instance.running"](directory)
    if parameters and not test:
        expected = {name: values[name] for name in parameters}
        __salt__["postfix_change.make"](directory, [], parameters, expected=expected)
    if files and not test:
        __salt__["postfix_files.replace"]([dict(file, content=None, expected=file["content"]) for file in files])
    return _result(changes, chosen, [], reload)


def _refuse_in_use(directory, paths, ours):
    """A table file that is gone, and still asked for, answers every RCPT with 451."""

    def asks(value):
        return __salt__["postconf.with_tables"](value, [], paths) != value

    users = [
        name
        for name, value in __salt__["postconf.get"](config_directory=directory).items()
        if name not in ours and asks(value)
    ]
    users += [
        f"{service['name']}/{service['type']} in master.cf"
        for service in __salt__["postconf.services"](directory)
        if asks(service["command"])
    ]
    if users:
        raise CommandExecutionError(
            f"Nothing was changed: the table files are asked by {', '.join(users)} too: take them out there first"
        )


def answers(pillar="ispmail"):
    """
    Ask the live maps what ``answers`` in pillar asks, and compare.

    pillar : ispmail
        The pillar key that holds the configuration.

    Returns a list of sentences, one for each answer that is not as pillar expects; empty
    where all are.

    Raises SaltInvocationError for faults in pillar, CommandExecutionError where there is
    no postmap.

    Source: postmap(1) -q

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_map.answers
    """
    plan = _plan(pillar)
    return _wrong_answers(plan, {place["name"]: _table(place) for place in plan["maps"]})


def probe(pillar="ispmail"):
    """
    Ask each live map a question that runs its query, whatever the answer.

    pillar : ispmail
        The pillar key that holds the configuration; the ``instances`` that it names are asked too.

    Returns a list of sentences, one for each reason why maps cannot be asked; empty where all can.

    Raises SaltInvocationError for faults in pillar, CommandExecutionError where there is
    no postmap.

    Source: postmap(1) -q

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_map.probe
    """
    failures = []
    for plan in __salt__["ispmail.instances"](pillar).values():
        tables = {place["name"]: _table(place) for place in plan["maps"] if place["wanted"]}
        failures += _ask(tables, plan["config_directory"])[0]
    return failures


def fingerprints(nonce, live=True, pillar="ispmail"):
    """
    Tell which password pillar and each live table file hold, without telling it: equal
    fingerprints are equal passwords. A nonce is used once, so that none can be looked up.

    nonce
        A text of 16 characters or more, drawn at random by who compares.

    live : True
        Whether to read the live table files too; a database server has none.

    pillar : ispmail
        The pillar key that holds the configuration; the ``instances`` that it names are told too.

    Returns a dict: ``pillar`` and, where asked for, ``live``, each name of a map (with the pillar key before it, for
    another instance) that logs in to MySQL or MariaDB as the ``user`` of ``database`` to a fingerprint, None where
    there is no password, or no table file. Maps of other accounts are left out.

    Raises SaltInvocationError for a short nonce or faults in pillar, CommandExecutionError
    where a table file cannot be read.

    Source: RFC 7914 (scrypt)

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_map.fingerprints 7f3a9c41d6e25b08
    """
    if not isinstance(nonce, str) or len(nonce) < _NONCE:
        raise SaltInvocationError(f"nonce must be a text of {_NONCE} characters or more, in quotes")
    known = {None: None}

    def fingerprint(password):
        if password not in known:
            text = password.encode("utf-8", "surrogateescape")
            known[password] = hashlib.scrypt(text, salt=nonce.encode(), **_SCRYPT).hex()
        return known[password]

    account = __salt__["postfix_sql.canonicalize"](__salt__["ispmail.config"](pillar)[0])["user"]
    found = {"pillar": {}, "live": {}}
    for key in __salt__["ispmail.instances"](pillar):
        for place in _plan(key)["maps"]:
            if place["type"] != "mysql" or place["keys"].get("user") != account:
                continue
            name = place["name"] if key == pillar else f"{key}:{place['name']}"
            found["pillar"][name] = fingerprint(place["keys"].get("password"))
            if live:
                file = __salt__["postfix_files.read"](place["path"])
                password = None if file["content"] is None else _keys(file).get("password")
                found["live"][name] = fingerprint(password)
    if not live:
        del found["live"]
    return found


def old_processes(pillar="ispmail"):
    """
    Tell which processes of Postfix ask with older table files than the live ones.

    pillar : ispmail
        The pillar key that holds the configuration; the ``instances`` that it names are told too.

    Returns a list such as ``smtpd 4711``; empty where all have read the live ones.

    Raises SaltInvocationError for faults in pillar, CommandExecutionError where postconf
    cannot tell the queue directory.

    Source: master(8), proc(5)

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_map.old_processes
    """
    found = []
    for plan in __salt__["ispmail.instances"](pillar).values():
        paths = [place["path"] for place in plan["maps"] if place["wanted"]]
        found += __salt__["postfix_instance.old_processes"](paths, plan["config_directory"])
    return found


def _chosen(plan, names):
    known = {place["name"]: place for place in plan["maps"]}
    names = [place["name"] for place in plan["maps"]] if names is None else names
    missing = [str(name) for name in names if name not in known]
    if missing:
        raise SaltInvocationError(f"pillar names no map {', '.join(missing)}: it names {', '.join(known)}")
    return [known[name] for name in names]


def _plan(pillar):
    """What pillar asks for, valid as far as its text can tell; each map with its text."""
    config, errors = __salt__["ispmail.config"](pillar)
    schemas = {type_: list(__salt__["postfix_table.schema"](type_)) for type_ in ("mysql", "pgsql", "sqlite")}
    try:
        plan = __salt__["ispmail_pillar.canonicalize"](config, schemas)
    except SaltInvocationError as err:
        raise SaltInvocationError(f"{pillar}: {err}") from err
    plan["warnings"] = _validate(pillar, plan, errors + plan.pop("errors"))
    for place in plan["maps"]:
        place["text"] = __salt__["postfix_table.render"](place["type"], place["keys"])
    return plan


def _validate(pillar, plan, errors, **facts):
    """All faults of all maps at once. Returns the warnings."""
    warnings = []
    for place in plan["maps"]:
        found = __salt__["postfix_table.validate"](
            place["type"], place["keys"], proxy=place["proxy"], parameter=place["parameter"], **facts
        )
        for kind, sentences in (("errors", errors), ("warnings", warnings)):
            for key, sentence in found[kind]:
                sentences.append([place["sources"].get(key, f"maps:{place['name']}:{key}"), sentence])
    _refuse(pillar, errors)
    return list(dict.fromkeys(f"{pillar}:{key} {sentence}" for key, sentence in warnings))


def _refuse(pillar, errors):
    lines = []
    seen = set()
    for key, sentence in errors:
        # One fault of one key is told once, however many maps share it.
        if key not in seen or not key.startswith("database:"):
            lines.append(f"{pillar}:{key} {sentence}")
        seen.add(key)
    if lines:
        raise SaltInvocationError(_listed("Pillar is at fault, nothing was changed", dict.fromkeys(lines)))


def _listed(head, lines):
    return "\n- ".join([f"{head}:", *lines])


def _work(plan):
    """What differs between the plan and this server."""
    directory = plan["config_directory"]
    work = {"files": [], "changes": {}, "changed": set()}
    for place in plan["maps"]:
        file, changes = _file_work(place)
        if changes:
            work["files"].append(file)
            work["changes"][place["name"]] = changes
            work["changed"].add(place["name"])
    asked = dict.fromkeys([*_parameters(plan["maps"]), "virtual_mailbox_maps", "proxy_read_maps"])
    values = __salt__["postconf.get"](list(asked), directory, defaults=True)
    parameters = {}
    for parameter in _parameters(plan["maps"]):
        ours = [place for place in plan["maps"] if place["parameter"] == parameter]
        if _pointing(values.get(parameter, ""), ours) != values.get(parameter):
            parameters[parameter] = ours
    explicit = __salt__["postconf.get"](list(parameters), directory)
    named = _parameters(plan["maps"])
    if (
        "virtual_mailbox_domains" in named
        and "virtual_mailbox_maps" not in named
        and not values["virtual_mailbox_maps"]
    ):
        plan["warnings"].append("without virtual_mailbox_maps every address of the domains is taken: is that meant?")
    plan["warnings"] += _strangers(values, plan["maps"])
    plan["warnings"] += [
        f"{name} had its default, {values[name]}, which is not kept: set it in main.cf first if it is needed"
        for name in parameters
        if name not in explicit and values.get(name) and not values[name].startswith("$virtual_")
    ]
    work["unknown"] = [name for name in parameters if name not in values]
    work["parameters"] = {name: _pointing(explicit.get(name, ""), ours) for name, ours in parameters.items()}
    work["changed"] |= {place["name"] for ours in parameters.values() for place in ours}
    readable = __salt__["postconf.words"](values["proxy_read_maps"])
    missing = [
        _table(place)
        for place in plan["maps"]
        if place["proxy"] and f"${place['parameter']}" not in readable and _table(place) not in readable
    ]
    if missing:
        work["parameters"]["proxy_read_maps"] = __salt__["postconf.with_tables"](
            values["proxy_read_maps"], missing, {place["path"] for place in plan["maps"] if _table(place) in missing}
        )
        explicit.update(__salt__["postconf.get"]("proxy_read_maps", directory))
    work["explicit"] = {name: explicit.get(name) for name in work["parameters"]}
    if work["parameters"]:
        work["changes"]["main.cf"] = {
            name: {"old": work["explicit"][name], "new": new} for name, new in work["parameters"].items()
        }
    return work


def _strangers(values, maps):
    """SQL tables in our parameters that pillar does not name: perhaps left by a change of file or type."""
    paths = {place["path"] for place in maps}
    return [
        f"{parameter} also asks {word}, which pillar does not name: it is kept, take it out if it is a leftover"
        for parameter in _parameters(maps)
        for word in __salt__["postconf.words"](values.get(parameter, ""))
        if re.match("(proxy:)?(mysql|pgsql|sqlite):/", word) and word.rpartition(":")[2] not in paths
    ]


def _file_work(place):
    """The table file as it should be, and how the one on disk differs from that."""
    try:
        group = grp.getgrnam(_GROUP).gr_gid
    except KeyError as err:
        raise CommandExecutionError(f"there is no group {_GROUP}: install the package postfix") from err
    old = __salt__["postfix_files.read"](place["path"])
    new = {
        "path": old["path"],
        "content": place["text"].encode(),
        "expected": old["content"],
        "uid": pwd.getpwnam(_OWNER).pw_uid,
        "gid": group,
        "mode": _MODE,
    }
    if old["content"] is None:
        keys = __salt__["postfix_table.diff"]({}, _keys(new))
        return new, {"file": {"old": None, "new": place["path"]}, **keys}
    changes = {
        name: {"old": _ownership(old)[name], "new": value}
        for name, value in _ownership(new).items()
        if _ownership(old)[name] != value
    }
    if old["content"] != new["content"]:
        # Where no key differs, its layout does.
        changes.update(
            __salt__["postfix_table.diff"](_keys(old), _keys(new)) or {"layout": {"old": "another", "new": "canonical"}}
        )
    return new, changes


def _keys(file):
    return __salt__["postfix_table.parse"](file["content"].decode("utf-8", "surrogateescape"))


def _ownership(file):
    names = {"mode": f"{file['mode']:04o}"}
    for name, number, get in (("user", file["uid"], pwd.getpwuid), ("group", file["gid"], grp.getgrgid)):
        try:
            names[name] = get(number)[0]
        except KeyError:
            names[name] = str(number)
    return names


def _parameters(maps):
    return list(dict.fromkeys(place["parameter"] for place in maps))


def _table(place, proxied=True):
    """How main.cf writes a map; without proxymap where none runs."""
    return f"{'proxy:' * (place['proxy'] and proxied)}{place['type']}:{place['path']}"


def _pointing(value, ours):
    """A parameter's value with our maps in their order, and all else that it holds."""
    return __salt__["postconf.with_tables"](value, [_table(place) for place in ours], {place["path"] for place in ours})


def _checked(pillar, plan, work):
    """Refuse what this server cannot do, ask each new table file, and say what would be done."""
    directory = plan["config_directory"]
    facts = __salt__["postfix_instance.facts"](directory)
    types = __salt__["postconf.types"](directory)
    errors = [
        [f"maps:{place['name']}:type", f"cannot be opened by this Postfix: install postfix-{place['type']}"]
        for place in plan["maps"]
        if place["type"] not in types
    ]
    errors += [
        [f"maps:{place['name']}:file", "is in a directory that is not there: make it first"]
        for place in plan["maps"]
        if not os.path.isdir(os.path.dirname(place["path"]))
    ]
    for place in plan["maps"]:
        if facts["chroot"] and not place["proxy"]:
            errors += _not_in_jail(place, facts["queue_directory"])
    warnings = _validate(pillar, plan, errors, version=facts["version"], chroot=facts["chroot"])
    warnings += [warning for warning in plan["warnings"] if warning not in warnings]
    warnings += [f"{name} is not a parameter that Postfix knows: is it spelt right?" for name in work["unknown"]]
    changed = [place for place in plan["maps"] if place["name"] in work["changed"]]
    failures = []
    until = time.monotonic() + _PROBES_SECONDS
    for jailed in (False, True):
        some = [place for place in changed if (facts["chroot"] and not place["proxy"]) == jailed]
        for start in range(0, len(some), _CHUNK):
            if failures and time.monotonic() > until:
                break
            with _in_memory(some[start : start + _CHUNK]) as (tables, descriptors):
                asked = _ask(tables, directory, jailed, descriptors)
                failures += asked[0] or _wrong_answers(plan, tables, jailed, descriptors)
                warnings += asked[1]
    if failures:
        raise CommandExecutionError(_listed("Nothing was changed, Postfix answers as before", failures))
    running = __salt__["postfix_instance.running"](directory)
    changes = dict(work["changes"])
    if __salt__["postfix_change.interrupted"](directory):
        work["changed"] |= {place["name"] for place in plan["maps"]}
        changes["postfix"] = {"old": "an apply was interrupted", "new": "reloaded" if running else "checked"}
    if not running:
        warnings.append("Postfix does not run there, so there was nothing to reload")
    return _result(changes, plan["maps"], warnings, running)


def _not_in_jail(place, jail):
    """TLS files are read when a process connects, which is inside its chroot: postmap finds them, smtpd does not."""
    return [
        [place["sources"][key], f"is read inside smtpd's chroot: copy it to {jail}{value}, or set proxy: true"]
        for key, value in place["keys"].items()
        if key in _JAILED and value and not os.path.exists(f"{jail}{value}")
    ]


def _result(changes, maps, warnings, reloaded):
    return {"changes": changes, "maps": len(maps), "warnings": warnings, "reloaded": reloaded}


@contextlib.contextmanager
def _in_memory(places):
    """New table files that postmap can read, without anything on disk."""
    with contextlib.ExitStack() as stack:
        tables, descriptors = {}, []
        for place in places:
            descriptor = os.memfd_create(os.path.basename(place["path"]))
            stack.callback(os.close, descriptor)
            os.fchmod(descriptor, 0o600)
            with open(descriptor, "wb", closefd=False) as stream:
                stream.write(place["text"].encode())
            # Postfix waits on a file younger than two seconds.
            os.utime(descriptor, (time.time() - 5,) * 2)
            descriptors.append(descriptor)
            tables[place["name"]] = f"{place['type']}:/proc/self/fd/{descriptor}"
        yield tables, descriptors


def _ask(tables, directory, jailed=False, descriptors=()):
    """Which of the tables, by the names of their maps, cannot be asked, and the warnings."""
    found = __salt__["postmap.probe"](list(tables.values()), directory, jailed=jailed, pass_fds=descriptors)
    reasons, warnings = {}, {}
    for name, table in tables.items():
        if found[table]["reason"]:
            reason = found[table]["reason"].replace(table, name)
            reasons.setdefault(reason, []).append(name)
        else:
            for warning in found[table]["warnings"]:
                warnings.setdefault(warning.replace(table, name), []).append(name)
    return [[f"{', '.join(names)}: {sentence}" for sentence, names in kind.items()] for kind in (reasons, warnings)]


def _wrong_answers(plan, tables, jailed=False, descriptors=()):
    """Sentences on the answers that are not as pillar expects, of the maps in tables."""
    wrong = []
    silent = set()
    until = time.monotonic() + _PROBES_SECONDS
    for expected in plan["answers"]:
        if silent and time.monotonic() > until:
            wrong.append("the other answers were not asked for: that took too long already")
            break
        table = tables.get(expected["map"])
        if table is None or table in silent:
            continue
        got = __salt__["postmap.query"](
            expected["question"], table, plan["config_directory"], jailed=jailed, pass_fds=descriptors
        )
        wanted = {True: "any answer", False: "no answer"}.get(expected["answer"], repr(expected["answer"]))
        if got["result"] == "could not ask":
            told = f"could not ask: {got['reason'].replace(table, expected['map'])}"
            silent.add(table)
        elif _as_expected(got.get("answer"), expected["answer"]):
            continue
        else:
            told = repr(got["answer"]) if "answer" in got else "no answer"
        wrong.append(f"{expected['map']}: {expected['question']} should give {wanted}, but gives {told}")
    return wrong


def _as_expected(got, expected):
    if isinstance(expected, bool):
        return (got is not None) == expected
    # The database may give several rows in any order.
    return got is not None and sorted(got.split(",")) == sorted(expected.split(","))


def _ask_smtpd(directory):
    """One recipient of a domain that nobody has: smtpd and its helpers, in their chroot, ask the maps for it."""
    return __salt__["postfix_instance.rcpt"]("probe@probe.invalid", directory)


def _compare(before, after):
    """Refuse what postmap cannot see: smtpd answered, and now it does not, or cannot ask its maps."""
    text = after["text"]
    broken = after["code"] == 451 and ("lookup failure" in text or "configuration error" in text)
    if broken or (after["code"] is None and before["code"] is not None):
        said = f"{after['code'] or ''} {text}".strip()
        cannot = (
            "could not ask its maps before, and cannot now" if before["text"] == text else "can no longer ask its maps"
        )
        raise CommandExecutionError(
            f"smtpd on {after['server']} {cannot}, though postmap can ({said}): see the mail log"
        )


def _ask_live(plan, changed, running):
    """Ask what Postfix now asks, through proxymap where that is how."""
    tables = {place["name"]: _table(place, running) for place in plan["maps"]}
    asked = {name: table for name, table in tables.items() if name in changed}
    failures = _ask(asked, plan["config_directory"])[0] or _wrong_answers(plan, tables)
    if failures:
        raise CommandExecutionError(_listed("The live maps do not answer as they should", failures))
