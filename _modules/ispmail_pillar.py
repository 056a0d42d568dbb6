"""The pillar of ispmail: what it may hold, its defaults, and the maps that it asks for.

Pure: a dict in, a plan or faults out. What stands inside a table file is left to
``postfix_table``; pillar.example lists every key.
"""

import difflib
import os.path
import re

from salt.exceptions import SaltInvocationError

CONFIG_DIRECTORY = "/etc/postfix"

# The set-up of the ISPmail guide. A password is all that has to be added.
DATABASE = {"user": "mailserver", "hosts": "127.0.0.1", "dbname": "mailserver"}
MAPS = {
    "virtual_mailbox_domains": {"query": "SELECT 1 FROM virtual_domains WHERE name='%s'"},
    "virtual_alias_maps": {"query": "SELECT destination FROM virtual_aliases WHERE source='%s'"},
    "virtual_mailbox_maps": {"query": "SELECT 1 FROM virtual_users WHERE email='%s'"},
}

_SECTIONS = {
    "database": dict,
    "server": dict,
    "maps": dict,
    "answers": list,
    "postfix": dict,
    "packages": bool,
    "instances": list,
    "rotation": dict,
}
_MAP_KEYS = ("parameter", "file", "type", "proxy")
_TYPES = {"mysql": "mariadb", "pgsql": "pgsql", "sqlite": "sqlite"}
# Files in a configuration directory that are Postfix's own.
_POSTFIX_FILES = ("main.cf", "master.cf", "dynamicmaps.cf", "main.cf.proto", "master.cf.proto")


def places(config):
    """
    Tell which maps a pillar asks for, and where each one lives, without reading its
    table keys: enough to read or remove maps, also where the password is gone.

    config
        A dict: what pillar holds under ``ispmail``.

    Returns a dict of ``config_directory``, ``maps`` (a list, in the order in which
    Postfix asks, of dicts of ``name``, ``parameter``, ``type``, ``proxy``, ``path`` and ``wanted``,
    which is False for a map that pillar sets to null), ``instances`` (a list of other pillar
    keys) and ``errors`` (a list of pairs ``[pillar key, sentence]``).

    Raises SaltInvocationError where ``config`` is no dict.

    Source: postconf(5), pillar.example

    CLI Example:

    .. code-block:: bash

        salt '*' ispmail_pillar.places '{maps: {virtual_alias_maps: null}}'
    """
    if not isinstance(config, dict):
        raise SaltInvocationError("must be a mapping: see pillar.example")
    errors = _unknown(config, _SECTIONS, "")
    sections = {}
    for section, kind in _SECTIONS.items():
        value = config.get(section)
        if value is not None and not isinstance(value, kind):
            names = {dict: "a mapping", list: "a list", bool: "true or false"}
            errors.append([section, f"must be {names[kind]}: see pillar.example"])
            value = None
        sections[section] = kind() if value is None else value
    errors += _unknown(sections["postfix"], ("config_directory",), "postfix:")
    errors += _rotation(sections["rotation"])
    instances = [key for key in sections["instances"] if isinstance(key, str) and key]
    if instances != sections["instances"]:
        errors.append(["instances", "must be a list of other pillar keys: see pillar.example"])
    directory = sections["postfix"].get("config_directory", CONFIG_DIRECTORY)
    if not isinstance(directory, str) or not re.fullmatch(r"/[^\s\0,{}$]*", directory):
        errors.append(["postfix:config_directory", "must be an absolute path without blanks"])
        directory = CONFIG_DIRECTORY
    maps = []
    for name, entry in _ordered(sections["maps"]).items():
        place, faults = _place(name, entry, os.path.normpath(directory))
        maps.append(place)
        errors += faults
    errors += _clashes(maps)
    return {
        "config_directory": os.path.normpath(directory),
        "maps": maps,
        "instances": instances,
        "errors": errors,
    }


def canonicalize(config, schemas):
    """
    Turn the pillar of ispmail into the maps and answers that it asks for.

    config
        A dict: what pillar holds under ``ispmail``, ``sdb://`` already resolved.

    schemas
        A dict: table type to the keys that it knows, as ``postfix_table.schema`` gives
        them. A shared key goes to the maps whose type knows it.

    Returns what ``places`` returns, its maps without those set to null, each with
    ``keys`` (a dict, table key to value as pillar has it) and ``sources`` (a dict, table
    key to the pillar key that it comes from), and with ``answers``: a list of dicts
    of ``map``, ``question`` and ``answer`` (a text, True for any, or False for none).

    Raises SaltInvocationError where ``config`` is no dict.

    Source: mysql_table(5), pillar.example

    CLI Example:

    .. code-block:: bash

        salt '*' ispmail_pillar.canonicalize '{answers: []}' '{mysql: [user, password]}'
    """
    plan = places(config)
    errors = plan["errors"]
    shared = config.get("database")
    shared = {**DATABASE, **(shared if isinstance(shared, dict) else {})}
    errors += _unknown(shared, list(dict.fromkeys(key for keys in schemas.values() for key in keys)), "database:")
    plan["maps"] = [place for place in plan["maps"] if place["wanted"]]
    for place in plan["maps"]:
        own = config["maps"].get(place["name"]) if isinstance(config.get("maps"), dict) else None
        own = own if isinstance(own, dict) else {}
        place["keys"], place["sources"] = {}, {}
        inherited = {key: value for key, value in shared.items() if key in schemas[place["type"]]}
        own = {key: value for key, value in own.items() if key not in _MAP_KEYS}
        own = {**MAPS.get(place["name"], {}), **own}
        for source, keys in (("database", inherited), (f"maps:{place['name']}", own)):
            place["keys"].update(keys)
            place["sources"].update({key: f"{source}:{key}" for key in keys})
    if not any(key == "database" for key, _ in errors) and any(
        "password" in schemas[place["type"]]
        and all(place["keys"].get(key) is None for key in ("password", "option_file"))
        for place in plan["maps"]
    ):
        errors.append(["database:password", "is missing: it has no default"])
    plan["answers"] = _answers(config.get("answers"), plan["maps"], errors)
    return plan


def _rotation(rotation):
    faults = _unknown(rotation, ("batch", "drain"), "rotation:")
    if not re.fullmatch(r"[1-9][0-9]*|[1-9][0-9]?%|100%", str(rotation.get("batch", "25%"))):
        faults.append(["rotation:batch", "must be a number of servers, or a share such as 25%"])
    drain = rotation.get("drain", 60)
    if isinstance(drain, bool) or not isinstance(drain, int) or drain < 0:
        faults.append(["rotation:drain", "must be a number of seconds"])
    return faults


def _ordered(maps):
    """Pillar's own order, behind the default maps that it does not mention."""
    ordered = {name: {} for name in MAPS if name not in maps}
    ordered.update(maps)
    return ordered


def _place(name, entry, directory):
    """Where one map lives, and what is wrong with what pillar says of that."""
    key = f"maps:{name}"
    faults = []
    if entry is not None and not isinstance(entry, dict):
        faults.append([key, "must be a mapping, or null to leave the map out"])
    fields = entry if isinstance(entry, dict) else {}
    stem = name
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
        faults.append([key, "must be a text of letters, digits, _, . and -"])
        stem = "unnamed"
    parameter = fields.get("parameter", stem)
    if not isinstance(parameter, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", parameter):
        faults.append([f"{key}:parameter", "must be the name of a main.cf parameter"])
        parameter = str(parameter)
    type_ = fields.get("type", "mysql")
    if type_ not in list(_TYPES):
        faults.append([f"{key}:type", f"must be one of {', '.join(_TYPES)}"])
        type_ = "mysql"
    proxy = fields.get("proxy", False)
    if not isinstance(proxy, bool):
        faults.append([f"{key}:proxy", "must be true or false"])
    file = fields.get("file", f"{_TYPES[type_]}-{stem.replace('_', '-')}.cf")
    if (
        not isinstance(file, str)
        or not re.fullmatch(r"[^\s\0,{}$:]*[^\s\0,{}$:/]", file)
        or os.path.basename(file) in (".", "..")
    ):
        faults.append([f"{key}:file", "must be a file name or an absolute path, without blanks or any of , : $ { }"])
        file = f"none-{stem}"
    path = os.path.normpath(os.path.join(directory, file))
    if os.path.basename(path) in _POSTFIX_FILES:
        faults.append([f"{key}:file", "is a file of Postfix's own: choose another name"])
    place = {
        "name": str(name),
        "parameter": parameter,
        "type": type_,
        "proxy": proxy is True,
        "path": path,
        "wanted": entry is not None,
    }
    return place, faults


def _clashes(maps):
    seen, faults = {}, []
    for place in maps:
        if place["wanted"] and seen.setdefault(place["path"], place["name"]) != place["name"]:
            faults.append(
                [f"maps:{place['name']}:file", f"is the file of {seen[place['path']]} too: each map needs its own"]
            )
    return faults


def _answers(answers, maps, errors):
    if not isinstance(answers, list):
        return []
    names = [place["name"] for place in maps]
    good = []
    for number, entry in enumerate(answers):
        key = f"answers:{number}"
        if not isinstance(entry, dict):
            errors.append([key, "must be a mapping of map, question and answer"])
            continue
        before = len(errors)
        errors += _unknown(entry, ("map", "question", "answer"), f"{key}:")
        errors += [[f"{key}:{name}", "is missing"] for name in ("map", "question", "answer") if name not in entry]
        if "map" in entry and entry["map"] not in names:
            errors.append([f"{key}:map", f"must be one of the maps: {', '.join(names)}"])
        question = entry.get("question", "x")
        if not isinstance(question, str) or not question or re.search(r"[\n\0]", question) or question == "-":
            errors.append([f"{key}:question", "must be a text of one line"])
        answer = entry.get("answer", True)
        if isinstance(answer, list) and all(type(item) in (str, int) and item != "" for item in answer):
            answer = ",".join(map(str, answer))
        elif isinstance(answer, int) and not isinstance(answer, bool):
            answer = str(answer)
        if not isinstance(answer, (str, bool)) or answer == "":
            errors.append([f"{key}:answer", "must be a text, true (any answer) or false (no answer)"])
        if len(errors) == before:
            good.append({"map": entry["map"], "question": question, "answer": answer})
    return good


def _unknown(given, known, prefix):
    faults = []
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(str(key), list(known), 1)
            mend = f"is {near[0]} meant?" if near else f"known are {', '.join(known)}"
            faults.append([f"{prefix}{key}", f"is not a key of ispmail: {mend}"])
    return faults
