"""Pillar as values: which maps, answers and database it asks for. Pure; pillar.example lists every key."""

from __future__ import annotations

import functools
import os.path
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeGuard

import _ispmail_config_rotation
import _ispmail_original
import _ispmail_presets
import _ispmail_tablefile
from _ispmail_errors import Fault, PillarFault, below, besides, has_uri, repr_without
from _ispmail_programs import table_fault
from _ispmail_tablefile import shown_key

DEFAULT_DIRECTORY = "/etc/postfix"

# The set-up of the ISPmail guide: a password is all that has to be added.
DATABASE = {"user": "mailserver", "hosts": "127.0.0.1", "dbname": "mailserver"}
MAPS = {
    "virtual_mailbox_domains": {"query": "SELECT 1 FROM virtual_domains WHERE name='%s'"},
    "virtual_alias_maps": {"query": "SELECT destination FROM virtual_aliases WHERE source='%s'"},
    "virtual_mailbox_maps": {"query": "SELECT 1 FROM virtual_users WHERE email='%s'"},
}

_SECTIONS: dict[str, type] = {
    "preset": str,
    "database": dict,
    "server": dict,
    "maps": dict,
    "answers": list,
    "postfix": dict,
    "packages": bool,
    "instances": list,
    "rotation": dict,
    "consumers": dict,
    "watch": dict,
    "history": int,
}
_KINDS: dict[type, str] = {
    dict: "a mapping",
    list: "a list",
    bool: "true or false",
    str: "a text",
    int: "a whole number",
}
# The pillar key of the main instance.
MAIN = "ispmail"
# How many changes can be undone where pillar does not say it, and at the most: each keeps old passwords.
_HISTORY, _LONGEST_HISTORY = 5, 100
_MAP_KEYS = ("parameter", "file", "type", "proxy", "secret")
# The keys of tables of any type.
_OF_TABLES = (*_ispmail_tablefile.SCHEMA, *_ispmail_tablefile.OBSOLETE)
_FILE_PREFIXES = {"mysql": "mariadb", "pgsql": "pgsql", "sqlite": "sqlite"}
# Files in a configuration directory that are Postfix's own.
_POSTFIX_FILES = ("main.cf", "master.cf", "dynamicmaps.cf", "main.cf.proto", "master.cf.proto")
# The files that each change makes for a moment.
_PASSING = re.compile(r"\..*\.(new|old)|(main|master)\.cf\.tmp")
# Names of main.cf parameters; of files, with their directory or without.
_PARAMETER = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_FILE = re.compile(r"[^\s\0,{}$:]*[^\s\0,{}$:/]")
SEE_EXAMPLE = "see pillar.example"
# Room for what is added while a file is replaced, and to the name of its copy.
_LONGEST_NAME = 255 - len(_ispmail_original.SUFFIX)


@dataclass(frozen=True)
class Map:
    """One lookup map, and where it lives."""

    name: str
    parameter: str  # the main.cf parameter that points at it
    type: str  # mysql, pgsql or sqlite
    proxy: bool  # read through proxymap(8)
    path: str  # of the table file
    wanted: bool = True  # False: pillar sets it to null
    secret: bool = False  # its answers are passwords, and never shown

    def table(self, proxied: bool = True) -> str:
        """How main.cf writes it. `proxied`: False where no proxymap runs."""
        return f"proxy:{self.type}:{self.path}" if self.proxy and proxied else f"{self.type}:{self.path}"


@dataclass(frozen=True)
class CompleteMap(Map):
    """A map with the content of its table file."""

    keys: Mapping[str, object] = field(default_factory=dict, repr=False)  # as pillar has them
    sources: Mapping[str, str] = field(default_factory=dict)  # table key to the pillar key that it comes from

    @functools.cached_property
    def canonical(self) -> Mapping[str, str]:
        """The keys as its table file has them. They are known to be valid."""
        return _ispmail_tablefile.canonical(self.keys)

    @property
    def text(self) -> str:
        """The table file."""
        return _ispmail_tablefile.text_of(self.canonical)


class Answer(NamedTuple):
    """What a map must answer: a text, True for any answer, False for none."""

    map: str
    question: str
    answer: str | bool

    def __repr__(self) -> str:
        return repr_without(self, "answer")


class Instance(NamedTuple):
    """One Postfix instance and the maps that pillar names for it. Needs no password and no sdb."""

    pillar_key: str
    config_directory: str
    maps: tuple[Map, ...]  # in the order in which Postfix asks; those set to null too
    others: tuple[str, ...] = ()  # pillar keys of other instances
    history: int = _HISTORY  # how many changes can be undone

    @property
    def wanted(self) -> tuple[Map, ...]:
        """The maps that are not set to null."""
        return tuple(each for each in self.maps if each.wanted)


def qualified(name: str, pillar_key: str, main_key: str) -> str:
    """A map's name, with its pillar key before it where it is one of another instance."""
    return name if pillar_key == main_key else f"{pillar_key}:{name}"


class CompleteInstance(NamedTuple):
    """One Postfix instance, its maps with their table files, valid as far as pillar alone can tell."""

    pillar_key: str
    config_directory: str
    maps: tuple[CompleteMap, ...]  # none that is set to null
    answers: tuple[Answer, ...]
    warnings: tuple[str, ...]
    history: int = _HISTORY  # how many changes can be undone


def instance(pillar_key: str, section: object) -> Instance:
    """Read which maps pillar asks for, and where each one lives.

    Table keys are not read: that is enough to read or remove maps, also where the password is gone.

    Args:
        pillar_key: The pillar key, such as ``ispmail``.
        section: What pillar holds under it.

    Raises:
        PillarFault: Lists all faults.
    """
    found, faults = _instance(pillar_key, _ours(pillar_key, section))
    if faults:
        raise PillarFault(pillar_key, faults)
    return found


def legible(pillar_key: str, section: object, known: Callable[[], Sequence[str]]) -> Instance:
    """Read the same as far as it can be read: enough to undo what pillar asked for.

    Args:
        pillar_key: The pillar key, such as ``ispmail``.
        section: What pillar holds under it; None where it could not be rendered.
        known: Gives the directories of the Postfix instances that were changed by this pillar key: asked where pillar
            does not tell which one it is.

    Raises:
        PillarFault: Which Postfix it is cannot be told.
    """
    config = {} if section is None else _ours(pillar_key, section)
    found, faults = _instance(pillar_key, config)
    doubts = [fault for fault in faults if fault.key.partition(":")[0] == "postfix"]
    # A misspelt section may be the one that tells it.
    is_misspelt = any(":" not in fault.key for fault in faults) and "postfix" not in config
    if section is None or doubts or is_misspelt:
        directories = known()
        if len(directories) != 1:
            last = ", ".join(directories) or "none"
            reason = f"cannot be read, and the history does not tell which Postfix it is: it knows {last}"
            fault = Fault("postfix:config_directory", reason, "correct pillar")
            raise PillarFault(pillar_key, [*(doubts or faults), fault])
        found, _ = _instance(pillar_key, {**config, "postfix": {"config_directory": directories[0]}})
    return found


def complete(pillar_key: str, section: object, faults: Iterable[Fault] = ()) -> CompleteInstance:
    """Read the maps and answers that pillar asks for, with the keys of each table file.

    Args:
        pillar_key: The pillar key, such as ``ispmail``.
        section: What pillar holds under it, sdb:// URIs already looked up.
        faults: What was wrong with those.

    Raises:
        PillarFault: Lists all faults, those of all table keys too.
    """
    unchecked, own = assemble(pillar_key, section)
    warnings = check(unchecked, besides(faults, own))
    return unchecked._replace(warnings=tuple(warnings))


def assemble(pillar_key: str, section: object) -> tuple[CompleteInstance, list[Fault]]:
    """Put together what pillar asks for, without a look at the values of table keys; and tell the faults.

    Raises:
        PillarFault: `section` is no mapping.
    """
    config = _ours(pillar_key, section)
    bare, faults = _instance(pillar_key, config)
    given = config.get("database")
    shared = {**DATABASE, **(given if isinstance(given, Mapping) else {})}
    faults += unknown_keys(shared, list(_ispmail_tablefile.SCHEMA), "database:")
    rotation = config.get("rotation")
    table_type, mixed = server_type(config.get("maps"))
    faults += mixed
    if isinstance(rotation, Mapping):
        faults += _ispmail_config_rotation.pair(rotation, shared["user"], table_type)[1]
    given_maps = config.get("maps")
    named = given_maps.items() if isinstance(given_maps, Mapping) else ()
    entries = {_ispmail_tablefile.shown_name(name): entry for name, entry in named}
    # An entry that is no mapping is told already.
    fields = {each: entries.get(each.name, {}) for each in bare.wanted}
    maps = [_with_keys(each, own, shared) for each, own in fields.items() if isinstance(own, Mapping)]
    if given is None or isinstance(given, Mapping):
        faults += _missing_passwords(maps)
    answers, wrong_answers = _answers(config.get("answers"), [each.name for each in bare.wanted])
    faults += wrong_answers
    return CompleteInstance(pillar_key, bare.config_directory, tuple(maps), answers, (), bare.history), faults


def check(instance: CompleteInstance, faults: Iterable[Fault] = ()) -> list[str]:
    """Check the table keys of all maps, and return the warnings.

    Args:
        instance: What pillar asks for.
        faults: What is already known to be wrong.

    Raises:
        PillarFault: Lists all faults at once.
    """
    errors, warnings = [], []
    for each in instance.maps:
        found = _ispmail_tablefile.validate(each.type, each.keys, parameter=each.parameter)
        errors += [_at_its_source(each, fault) for fault in found.errors]
        warnings += [_at_its_source(each, fault) for fault in found.warnings]
    if all_errors := besides(faults, errors):
        raise PillarFault(instance.pillar_key, all_errors)
    return list(dict.fromkeys(below(instance.pillar_key, warnings)))


def server_type(maps: object) -> tuple[str, list[Fault]]:
    """Read which server pillar's `database` logs in to, see `_ispmail_config_rotation.server_type`.

    Args:
        maps: What pillar has as ``maps``; the guide's three are there without being listed.
    """
    return _ispmail_config_rotation.server_type({**MAPS, **(maps if isinstance(maps, Mapping) else {})})


def sections(pillar_key: str, section: object) -> tuple[dict[str, Any], list[Fault]]:
    """Read pillar's sections, and tell what is wrong with them as far as no key of a table or of a login is concerned.

    Args:
        pillar_key: The pillar key, such as ``ispmail``.
        section: What pillar holds under it.

    Returns:
        Each section, empty where it is missing or of a wrong kind; and the faults.

    Raises:
        PillarFault: `section` is not ours.
    """
    config = _ours(pillar_key, section)
    return _sections(config)[0], _instance(pillar_key, config)[1]


def takes_uri(path: Sequence[object]) -> bool:
    """Tell whether a value at this place of pillar may be a URI of sdb: of a table file, of a login, of an answer.

    All else says which maps, files and programs there are: that is read where nothing is looked up, too.

    Args:
        path: The keys that lead to it, below the pillar key.
    """
    first, *rest = path
    if first == "maps":
        return len(rest) > 1 and rest[1] not in _MAP_KEYS
    return (first in ("database", "server", "answers") and rest != []) or list(path[:2]) == ["rotation", "accounts"]


def told_as_uris(section: object, faults: Iterable[Fault]) -> list[Fault]:
    """The faults of values; where one is a URI of sdb, that is what is wrong with it."""
    return [
        Fault(fault.key, "is a URI of sdb, and is not looked up here", "write what it stands for")
        if _has_uri(section, fault.key.split(":")) and not takes_uri(fault.key.split(":"))
        else fault
        for fault in faults
    ]


def _has_uri(value: object, path: Iterable[str]) -> bool:
    for part in path:
        value = value.get(part) if isinstance(value, Mapping) else None
    return has_uri(value)


def textfile(section: object) -> str | None:
    """Read which file gets the metrics for Prometheus, whatever else is wrong; None where there is none.

    Args:
        section: What pillar holds under the key.
    """
    watch = section.get("watch") if isinstance(section, Mapping) else None
    path = watch.get("textfile") if isinstance(watch, Mapping) else None
    if not isinstance(path, str) or not path.isprintable() or not re.fullmatch(r"/(?!/)\S*[^/\s]\.prom", path):
        return None
    return path if os.path.normpath(path) == path and len(os.path.basename(path).encode()) <= _LONGEST_NAME else None


def release_faults(instance: CompleteInstance, version: str) -> list[Fault]:
    """Faults of table keys that this release of Postfix does not read."""
    found = (
        (each, _ispmail_tablefile.key_fault(each.type, key, version)) for each in instance.maps for key in each.keys
    )
    return [_at_its_source(each, fault) for each, fault in found if fault]


def unknown_keys(given: Iterable[object], known: Collection[str], prefix: str) -> list[Fault]:
    """Faults of the keys that pillar may not have there, with the one that may be meant."""
    faults = []
    for key in given:
        if key not in known:
            fix = _ispmail_tablefile.meant(key, known)
            faults.append(Fault(f"{prefix}{shown_key(key)}", "is not a key of ispmail", fix))
    return faults


def _ours(pillar_key: str, section: object) -> Mapping[object, object]:
    """What pillar holds under the key; PillarFault where that is not ours."""
    if not isinstance(section, Mapping):
        raise PillarFault(pillar_key, [Fault("", "must be a mapping", SEE_EXAMPLE)])
    if section and not any(name in section for name in _SECTIONS):
        # Somebody else's pillar: its keys are not ours to show.
        raise PillarFault(pillar_key, [Fault("", "holds nothing of ispmail", SEE_EXAMPLE)])
    return section


def _instance(pillar_key: str, section: Mapping[object, object]) -> tuple[Instance, list[Fault]]:
    sections, faults = _sections(section)
    unknown = unknown_keys(section, _SECTIONS, "")
    unknown += unknown_keys(sections["postfix"], ("config_directory",), "postfix:")
    unknown += unknown_keys(sections["rotation"], _ispmail_config_rotation.KEYS, "rotation:")
    unknown += unknown_keys(sections["watch"], ("textfile",), "watch:")
    if sections["preset"] and sections["preset"] not in _ispmail_presets.NAMES:
        faults.append(Fault("preset", f"must be one of {', '.join(_ispmail_presets.NAMES)}"))
    path = sections["watch"].get("textfile")
    if path is not None and textfile(section) is None:
        fix = "such as /var/lib/prometheus/node-exporter/ispmail.prom"
        faults.append(Fault("watch:textfile", "must be the absolute path of a file that ends in .prom", fix))
    faults += _ispmail_config_rotation.faults(sections["rotation"], server_type(sections["maps"])[0])
    others = [key for key in sections["instances"] if _ispmail_tablefile.is_name(key)]
    if others != sections["instances"]:
        faults.append(Fault("instances", "must be a list of other pillar keys", "of letters, digits, _, . and -"))
    directory = sections["postfix"].get("config_directory", DEFAULT_DIRECTORY)
    if not isinstance(directory, str) or not re.fullmatch(r"/[^\s\0,{}$]*", directory) or not directory.isprintable():
        faults.append(Fault("postfix:config_directory", "must be an absolute path without blanks"))
        directory = DEFAULT_DIRECTORY
    directory = os.path.normpath(directory)
    maps = []
    for name, entry in _ordered(sections["maps"]).items():
        each, wrong = _map(name, entry, directory)
        maps.append(each)
        faults += wrong
    faults += _shared_files(maps)
    # One of another kind is a fault already, and no reason to forget what is kept.
    history = sections["history"] if isinstance(section.get("history"), int) else _HISTORY
    if isinstance(history, bool) or not 0 <= history <= _LONGEST_HISTORY:
        faults.append(Fault("history", f"must be a whole number from 0 to {_LONGEST_HISTORY}", "0 keeps nothing"))
        history = _HISTORY
    faults = [*unknown, *told_as_uris(section, faults)]
    return Instance(pillar_key, directory, tuple(maps), tuple(others), history), faults


def _sections(config: Mapping[object, object]) -> tuple[dict[str, Any], list[Fault]]:
    """The sections of pillar; an empty one for each that is missing or of a wrong kind."""
    sections, faults = {}, []
    for name, kind in _SECTIONS.items():
        value = config.get(name)
        if value is not None and not isinstance(value, kind):
            faults.append(Fault(name, f"must be {_KINDS[kind]}", SEE_EXAMPLE))
            value = None
        sections[name] = kind() if value is None else value
    return sections, faults


def _ordered(maps: Mapping[object, object]) -> dict[object, object]:
    """Pillar's own order, behind the default maps that it does not mention."""
    ordered: dict[object, object] = {name: {} for name in MAPS if name not in maps}
    ordered.update(maps)
    return ordered


def _map(name: object, entry: object, directory: str) -> tuple[Map, list[Fault]]:
    """Where one map lives, and what is wrong with what pillar says of that."""
    faults = []
    own_name = _ispmail_tablefile.shown_name(name)
    stem, shown = own_name, f"maps:{own_name}"
    if not _ispmail_tablefile.is_name(name):
        stem, fix = "unnamed", "" if isinstance(name, str) else "put it in quotes"
        faults.append(Fault(shown, "must be a text of letters, digits, _, . and -", fix))
    if entry is not None and not isinstance(entry, Mapping):
        faults.append(Fault(shown, "must be a mapping, or null to leave the map out"))
    fields = entry if isinstance(entry, Mapping) else {}
    parameter = fields.get("parameter", stem)
    if not isinstance(parameter, str) or not _PARAMETER.fullmatch(parameter):
        faults.append(Fault(f"{shown}:parameter", "must be the name of a main.cf parameter"))
        parameter = stem
    elif fault := table_fault(parameter, f"{shown}:parameter", is_own=True):
        faults.append(fault)
    table_type = fields.get("type", "mysql")
    if table_type not in _ispmail_tablefile.TYPES:
        faults.append(Fault(f"{shown}:type", f"must be one of {', '.join(_ispmail_tablefile.TYPES)}"))
        table_type = "mysql"
    # A key of another type of table is told with what is wrong with the table.
    unknown = [key for key in fields if key not in _OF_TABLES and key not in _MAP_KEYS]
    faults += unknown_keys(unknown, [*_ispmail_tablefile.schema(table_type), *_MAP_KEYS], f"{shown}:")
    switches = {key: fields.get(key, False) for key in ("proxy", "secret")}
    faults += [
        Fault(f"{shown}:{key}", "must be true or false") for key, on in switches.items() if not isinstance(on, bool)
    ]
    file = fields.get("file", default_file(stem, table_type))
    if not is_file_name(file):
        reason = (
            "must be a file name or an absolute path, without blanks or any of , : $ { }, "
            f"the name of at most {_LONGEST_NAME} bytes"
        )
        faults.append(Fault(f"{shown}:file", reason))
        file = f"none-{stem}"
    path = os.path.normpath(os.path.join(directory, file))
    if whose := owner_of(os.path.basename(path)):
        faults.append(Fault(f"{shown}:file", f"is a file of {whose}", "choose another name"))
    proxy, secret = (on is True for on in switches.values())
    return Map(own_name, parameter, table_type, proxy, path, entry is not None, secret), faults


def default_file(name: str, table_type: str) -> str:
    """The file of a map whose pillar does not name one."""
    return f"{_FILE_PREFIXES[table_type]}-{name.replace('_', '-')}.cf"


def owner_of(name: str) -> str:
    """Whose file this is, by its name, whatever is there now; empty where it may be a map's."""
    if name in _POSTFIX_FILES:
        return "Postfix's own"
    if _PASSING.fullmatch(name) or name.endswith(_ispmail_original.SUFFIX):
        return "each change's own: it would be replaced or deleted"
    return ""


def is_file_name(file: object) -> TypeGuard[str]:
    """Tell whether pillar may name this file."""
    if not isinstance(file, str) or not _FILE.fullmatch(file) or not file.isprintable():
        return False
    name = os.path.basename(file)
    return name not in (".", "..") and len(name.encode()) <= _LONGEST_NAME


def _shared_files(maps: Iterable[Map]) -> list[Fault]:
    """Faults of maps that name a file which another map has."""
    owners: dict[str, str] = {}
    faults = []
    for each in maps:
        if each.wanted and owners.setdefault(each.path, each.name) != each.name:
            reason = f"is the file of {owners[each.path]} too"
            faults.append(Fault(f"maps:{each.name}:file", reason, "each map needs its own"))
    return faults


def _with_keys(each: Map, fields: Mapping[str, object], shared: Mapping[str, object]) -> CompleteMap:
    """A map with its table's keys, and where each of them stands in pillar. One of another type is kept, to be told."""
    known = _ispmail_tablefile.schema(each.type)
    inherited = {key: value for key, value in shared.items() if key in known}
    own = {**MAPS.get(each.name, {}), **{key: value for key, value in fields.items() if key in _OF_TABLES}}
    sources = {key: f"database:{key}" for key in inherited} | {key: f"maps:{each.name}:{key}" for key in own}
    return CompleteMap(**vars(each), keys={**inherited, **own}, sources=sources)


def _missing_passwords(maps: Iterable[CompleteMap]) -> list[Fault]:
    """Faults of the keys that should hold a password, and are not there or null."""
    without = [
        each
        for each in maps
        if "password" in _ispmail_tablefile.schema(each.type) and each.keys.get("password") is None
    ]
    faults = []
    for key in dict.fromkeys(each.sources.get("password", "database:password") for each in without):
        with_option_file = any(each.keys.get("option_file") for each in without)
        fix = "write it, or '' for an account that has none: Postfix takes none from an option_file"
        if key == "database:password":
            faults.append(Fault(key, "is missing", fix if with_option_file else "it has no default"))
        else:
            fix = fix if with_option_file else "write it, or take the line out: then that of database is taken"
            faults.append(Fault(key, "is null", fix))
    return faults


def _at_its_source(each: CompleteMap, fault: Fault) -> Fault:
    """A fault of a table key, as one of the pillar key that it comes from."""
    # The key of a fault may be one that is not shown.
    return fault.at(each.sources.get(fault.key, f"maps:{each.name}:{fault.key}"))


def _answers(answers: object, maps: Sequence[str]) -> tuple[tuple[Answer, ...], list[Fault]]:
    found, faults = [], []
    for number, entry in enumerate(answers if isinstance(answers, list) else []):
        answer, wrong = _answer(f"answers:{number}", entry, maps)
        faults += wrong
        if answer:
            found.append(answer)
    return tuple(found), faults


def _answer(key: str, entry: object, maps: Sequence[str]) -> tuple[Answer | None, list[Fault]]:
    if not isinstance(entry, Mapping):
        return None, [Fault(key, "must be a mapping of map, question and answer")]
    names = ("map", "question", "answer")
    faults = unknown_keys(entry, names, f"{key}:")
    faults += [Fault(f"{key}:{name}", "is missing") for name in names if name not in entry]
    if "map" in entry and entry["map"] not in maps:
        if maps:
            faults.append(Fault(f"{key}:map", f"must be one of the maps: {', '.join(maps)}"))
        else:
            faults.append(
                Fault(f"{key}:map", "names a map, and pillar has none", "take it out, or add the map to maps")
            )
    question = entry.get("question", "x")
    if not isinstance(question, str) or not question or re.search(r"[\n\0]", question) or question == "-":
        faults.append(Fault(f"{key}:question", "must be a text of one line"))
    answer = entry.get("answer", True)
    if isinstance(answer, list) and all(_is_short(item) and item != "" for item in answer):
        answer = ",".join(map(str, answer))
    elif _is_short(answer):
        answer = str(answer)
    if not isinstance(answer, (str, bool)) or answer == "":
        faults.append(Fault(f"{key}:answer", "must be a text, true (any answer) or false (no answer)"))
        return None, faults
    return (None if faults else Answer(entry["map"], question, answer)), faults


def _is_short(value: object) -> TypeGuard[str | int]:
    """Whether it is a text, or a number that Python writes as one: it refuses thousands of digits."""
    return isinstance(value, str) or (type(value) is int and value.bit_length() <= 64)
