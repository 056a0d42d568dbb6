"""Turn the SQL tables that a Postfix has now into the pillar that describes them. Pure."""

from __future__ import annotations

import difflib
import os.path
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import _ispmail_tablefile
from _ispmail_config import DATABASE, DEFAULT_DIRECTORY, MAPS, default_file, is_file_name
from _ispmail_expand import sole_name
from _ispmail_hosts import split_list
from _ispmail_programs import command_fault, is_check, programs_of, table_fault
from _ispmail_reach import Place
from _ispmail_tablefile import OBSOLETE, SCHEMA, SECRET, shown_key

# A shorter password is a part of many values.
_LEAST_PASSWORD = 4

_NOT_ASKED = "Postfix does not know this parameter and no other refers to it, so nothing asks the table"
# What one map asks for stays with the map, also where all maps have the same.
_OF_ONE_MAP = ("query", "result_format", "domain", "expansion_limit", "require_result_set")
_LOGIN = ("user", "password")


class Named(NamedTuple):
    """An SQL table, as one parameter names it."""

    place: str  # virtual_alias_maps, or submission/inet/virtual_alias_maps for a -o in master.cf
    type: str
    path: str  # of the table file
    proxied: bool
    obstacle: str = ""  # why pillar cannot name it there

    def __str__(self) -> str:
        return f"{self.place}: {'proxy:' if self.proxied else ''}{self.type}:{self.path}"


@dataclass(frozen=True)
class Source:
    """What was read of a table file."""

    content: bytes | None = field(repr=False)  # None: there is no such file
    ownership: str = ""  # of the file, where it is not the one that an apply gives it
    error: str = ""  # why the file cannot be read


class Adopted(NamedTuple):
    """What pillar can hold, and what it cannot."""

    section: Mapping[str, object]  # what belongs under the pillar key; placeholders for passwords
    left_out: tuple[str, ...]  # a table or a key each, with the reason


@dataclass(frozen=True)
class _Found:
    """A table that pillar can hold."""

    named: Named
    keys: Mapping[str, str] = field(repr=False)
    name: str = ""  # of the map


def named(places: Iterable[Place], unasked: Callable[[Iterable[str]], Collection[str]]) -> list[Named]:
    """Turn the places of an inventory into what pillar may name, in their order.

    Args:
        unasked: Tells of parameters whose tables nothing asks.
    """
    found = [
        Named(each.name, each.reference.type, each.reference.path, each.reference.proxied, _obstacle(each))
        for each in places
        # What another parameter holds belongs to that one.
        if sole_name(each.word.text) is None
    ]
    idle = unasked(each.place for each in found if not each.obstacle)
    return [each._replace(obstacle=_NOT_ASKED) if each.place in idle else each for each in found]


def _obstacle(named_at: Place) -> str:
    """Say why pillar cannot name a table at this place, or nothing."""
    place, path = named_at.name, named_at.reference.path
    if "/" in place:
        return "a service of master.cf has it (-o), and pillar sets parameters of main.cf: move it to main.cf first"
    if not named_at.word.is_table:
        return "it is inside braces (unionmap:, pipemap:, a condition) or in a file: it stays as it is"
    if fault := command_fault(place, "", programs_of(place)):
        return f"{fault.reason}: it stays as it is"
    fault = table_fault(place, "", is_own=True)
    if is_check(named_at.before) or fault:
        fix = "give it a parameter of its own, such as my_senders, and write $my_senders in its place"
        return f"{place} is no plain list of tables: {fix}"
    if not path.startswith("/"):
        return "it has no table file, main.cf holds its settings: write them to a file first, see mysql_table(5)"
    if not is_file_name(path):
        return "its path has a character that pillar cannot hold: rename the file first"
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", place):
        return "pillar cannot hold the name of this parameter: rename the parameter first"
    return ""


def adopt(
    tables: Sequence[Named], sources: Mapping[str, Source], config_directory: str, version: str | None = None
) -> Adopted:
    """Describe tables as pillar does, without a password.

    Args:
        tables: As `named` returns them.
        sources: What was read of each path.
        config_directory: Where main.cf is.
        version: The Postfix release that reads the files. None: rules that depend on it are left out.
    """
    left_out: list[str] = []
    found: list[_Found] = []
    passwords = _passwords(sources.values())
    for each in _default_places_first(tables):
        reason = each.obstacle or _same_file(each, found)
        if not reason:
            keys, notes, reason = _keys(each, sources[each.path], version, passwords)
            if not reason:
                found.append(_Found(each, keys))
                left_out += [f"{each}: {note}" for note in notes]
        if reason:
            left_out.append(f"{each}: {reason}")
    maps = _with_names(found, config_directory)
    shared = _shared(maps)
    section: dict[str, object] = {}
    if maps:
        section["database"] = {key: _value(key, value) for key, value in _without_password(shared).items()}
    entries: dict[str, object] = {each.name: _entry(each, shared, maps, config_directory) for each in maps}
    section["maps"] = entries | {name: None for name in MAPS if name not in entries}
    if config_directory != DEFAULT_DIRECTORY:
        section["postfix"] = {"config_directory": config_directory}
    return Adopted(section, (*left_out, *_different_passwords(maps)))


def _default_places_first(tables: Iterable[Named]) -> list[Named]:
    """The order of pillar. Where two parameters name one file, the file belongs to the guide's parameter."""
    return sorted(tables, key=lambda each: each.place not in MAPS)


def _same_file(table: Named, found: Iterable[_Found]) -> str:
    owners = [each.named.place for each in found if each.named.path == table.path]
    if not owners:
        return ""
    return f"its file is already the one of {owners[0]}, and pillar has one map for one file: it stays as it is"


def _passwords(sources: Iterable[Source]) -> set[str]:
    """The passwords in table files. Very short ones are a part of anything."""
    found = {_ispmail_tablefile.parse(source.content).get("password", "") for source in sources}
    return {password for password in found if len(password) >= _LEAST_PASSWORD}


def _keys(
    table: Named, source: Source, version: str | None, passwords: Collection[str]
) -> tuple[dict[str, str], list[str], str]:
    """The keys of a table as its file will have them, notes, and why pillar cannot hold the table."""
    if source.error:
        return {}, [], source.error
    if source.content is None:
        return {}, [], "there is no such file, so Postfix cannot ask it: correct the parameter first"
    if lines := damaged_lines(source.content):
        return {}, [], f"the file is damaged (line {', '.join(map(str, lines))}), which is fatal to Postfix: correct it"
    keys = with_query(table.type, _ispmail_tablefile.hosts_once(_ispmail_tablefile.parse(source.content)))
    notes = [f"its file is {source.ownership}, an apply changes that"] if source.ownership else []
    for key in list(keys):
        if fault := _ispmail_tablefile.key_fault(table.type, key, version):
            if key not in (*SCHEMA, *OBSOLETE) and not difflib.get_close_matches(key, SCHEMA):
                # It may be anything, a password too.
                fault = fault.at("a key that is not shown")
            notes.append(f"{fault.key} {fault.reason}, an apply takes it out of the file")
            del keys[key]
    if "password" in _ispmail_tablefile.schema(table.type):
        # Postfix reads a missing password as an empty one, with an option file too; pillar asks for one of the two.
        keys.setdefault("password", "")
    faults = _ispmail_tablefile.validate(table.type, keys, version, parameter=table.place).errors
    hidden = [
        key
        for key, value in _ispmail_tablefile.redact(keys).items()
        if key != "password" and (value == SECRET or any(password in value for password in passwords))
    ]
    reasons = [*map(str, faults), *(f"the value of {shown_key(key)} may hold a password" for key in hidden)]
    reasons += [f"pillar takes the value of {key} for a URI" for key in keys if keys[key].startswith("sdb://")]
    if reasons:
        return {}, [], "; ".join(dict.fromkeys(reasons))
    return _ispmail_tablefile.canonicalize(table.type, keys), notes, ""


def damaged_lines(content: bytes) -> list[int]:
    """The numbers of the lines of a table file that are fatal to Postfix."""
    lines = _ispmail_tablefile.logical_lines(content.decode("utf-8", "surrogateescape"))
    return [number for number, line in lines if not _ispmail_tablefile.assignment(line)]


def with_query(table_type: str, keys: Mapping[str, str]) -> dict[str, str]:
    """Write Postfix 2.1's query interface as the query that Postfix makes of it, see mysql_table(5).

    A table that has a query, or lacks a part of the old interface, is returned as it is.
    """
    field, table, where = (keys.get(key) for key in ("select_field", "table", "where_field"))
    if "query" in keys:
        return dict(keys)
    if table_type == "pgsql" and "select_function" in keys:
        query = f"SELECT {keys['select_function']}('%s')"
    elif field and table and where:
        query = f"SELECT {field} FROM {table} WHERE {where}='%s' {keys.get('additional_conditions', '')}"  # noqa: S608
    else:
        return dict(keys)
    return {**{key: value for key, value in keys.items() if key not in OBSOLETE}, "query": query.rstrip()}


def _with_names(found: Sequence[_Found], config_directory: str) -> list[_Found]:
    """Give each map a name: its parameter's, for the only or first one of a parameter; else one after its file."""
    places = Counter(each.named.place for each in found)
    reserved = {*MAPS, *places}
    taken: set[str] = set()
    named_maps = []
    for place in places:
        group = [each for each in found if each.named.place == place]
        by_default_file = [each for each in group if each.named.path == _default_path(each, place, config_directory)]
        heads = by_default_file or group
        for each in group:
            name = place if each is heads[0] else _after_its_file(each.named.path, reserved | taken)
            taken.add(name)
            named_maps.append(replace(each, name=name))
    return named_maps


def _default_path(each: _Found, name: str, config_directory: str) -> str:
    return os.path.join(config_directory, default_file(name, each.named.type))


def _after_its_file(path: str, taken: set[str]) -> str:
    stem = re.sub(r"\.cf$", "", os.path.basename(path))
    stem = re.sub(r"^(mariadb|mysql|pgsql|sqlite)[-_.]", "", stem)
    stem = re.sub(r"[^A-Za-z0-9_.]", "_", stem) or "map"
    numbered = (f"{stem}_{number}" for number in range(2, len(taken) + 3))
    return next(name for name in (stem, *numbered) if name not in taken)


def _shared(maps: Sequence[_Found]) -> dict[str, str | None]:
    """The value that most maps have of each key; None for no value, against pillar's default."""
    # The account of a rotation is MySQL's: where there are MySQL tables, they decide.
    shared: dict[str, str | None] = {}
    for key in SCHEMA:
        owners = [each for each in maps if key in _ispmail_tablefile.schema(each.named.type)]
        deciding = [each for each in owners if each.named.type == "mysql"] or owners
        if key in _OF_ONE_MAP or not deciding:
            continue
        # A user and its password stay together.
        group = _LOGIN if key in _LOGIN else (key,)
        found = Counter(tuple(each.keys.get(one) for one in group) for each in deciding)
        value = found.most_common()[0][0][group.index(key)]
        if value is not None or key in DATABASE:
            shared[key] = value
    return shared


def _entry(
    each: _Found, shared: Mapping[str, str | None], maps: Sequence[_Found], config_directory: str
) -> dict[str, object]:
    """What pillar holds of one map: what differs from its defaults."""
    table = each.named
    entry: dict[str, object] = {}
    if table.place != each.name:
        entry["parameter"] = table.place
    if table.type != "mysql":
        entry["type"] = table.type
    if table.path != _default_path(each, each.name, config_directory):
        below = table.path.startswith(f"{config_directory}/")
        entry["file"] = os.path.relpath(table.path, config_directory) if below else table.path
    if table.proxied:
        entry["proxy"] = True
    inherited = {**shared, **MAPS.get(each.name, {})}
    # One account is of one database server: see _shared.
    is_elsewhere = table.type == "pgsql" and any(other.named.type == "mysql" for other in maps)
    has_own_login = is_elsewhere or each.keys.get("user") != shared.get("user")
    for key in _ispmail_tablefile.schema(table.type):
        value = each.keys.get(key)
        if key == "password" and value and (has_own_login or value != inherited.get(key)):
            entry[key] = _placeholder(each, maps)
        elif value != inherited.get(key) or (key == "user" and is_elsewhere):
            entry[key] = _value(key, value)
    return entry


def _value(key: str, text: str | None) -> object:
    """A value as pillar writes it: lists, numbers and booleans as such."""
    if text is None:
        return None
    kind = SCHEMA[key].kind
    if kind in ("hosts", "list"):
        items = split_list(text)
        return items if len(items) > 1 else text
    if kind == "boolean":
        return text == "yes"
    return int(text) if kind == "integer" and str(int(text)) == text else text


def placeholder(user: str | None, file: str = "") -> str:
    """What stands in place of a password; `file` where the account has several passwords."""
    account = f"{_ispmail_tablefile.PLACEHOLDER}{user or '(without a name)'}"
    return f"{account} IN {file}" if file else account


def _placeholder(each: _Found, maps: Sequence[_Found]) -> str:
    """The placeholder of a map whose password is not the shared one."""
    user = each.keys.get("user")
    passwords = {other.keys.get("password") for other in maps if other.keys.get("user") == user}
    return placeholder(user, each.named.path if len(passwords) > 1 else "")


def _without_password(shared: Mapping[str, str | None]) -> dict[str, str | None]:
    """The shared keys; the password first, as a placeholder."""
    keys = dict(shared)
    password = keys.pop("password", None)
    if password is None:
        return keys
    return {"password": placeholder(keys.get("user")) if password else "", **keys}


def _different_passwords(maps: Iterable[_Found]) -> list[str]:
    passwords: dict[str, list[str]] = {}
    for each in maps:
        if password := each.keys.get("password"):
            passwords.setdefault(password, []).append(each.name)
    if len(passwords) < 2:
        return []
    groups = "; ".join(", ".join(names) for names in passwords.values())
    return [f"the passwords are not all the same, each map with another one has a placeholder of its own: {groups}"]
