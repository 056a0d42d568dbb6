"""What differs between pillar and one Postfix instance, as a value. Nothing is changed here."""

from __future__ import annotations

import contextlib
import grp
import pwd
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ispmail_files
import ispmail_postconf
import ispmail_tablefile
from ispmail_config import CompleteInstance, CompleteMap, Map
from ispmail_errors import CannotAsk
from ispmail_files import File, Replacement
from ispmail_maincf import is_sql_table, path_of, shown, with_tables, words

# A table file holds a password, and proxymap(8) reads it as user postfix.
_OWNER, _GROUP, _MODE = "root", "postfix", 0o640


@dataclass(frozen=True)
class Difference:
    """What differs between pillar and the server."""

    files: tuple[Replacement, ...]
    parameters: Mapping[str, str]  # what each main.cf parameter becomes
    explicit: Mapping[str, str | None]  # what main.cf sets each of them to now, None for not set
    changes: Mapping[str, Any]  # for people: a map's name, or main.cf, to what differs, secrets as ***
    changed: frozenset[str]  # the names of the maps that Postfix will ask in another way
    unknown: tuple[str, ...]  # parameters that Postfix does not know
    warnings: tuple[str, ...]


# Of a server that has none of the maps.
NOTHING = Difference((), {}, {}, {}, frozenset(), (), ())


def compare(instance: CompleteInstance) -> Difference:
    """Compare pillar with the table files and main.cf, by one postconf where nothing differs.

    Raises:
        CannotAsk: A file or main.cf cannot be read.
    """
    files, changes = [], {}
    for each in instance.maps:
        replacement, differences = _compare_file(each)
        if differences:
            files.append(replacement)
            changes[each.name] = differences
    changed = set(changes)
    names = parameters_of(instance.maps)
    asked = list(dict.fromkeys([*names, "virtual_mailbox_maps", "proxy_read_maps"]))
    values = ispmail_postconf.get(asked, instance.config_directory, defaults=True)
    by_parameter = {name: [each for each in instance.maps if each.parameter == name] for name in names}
    differing = [name for name in names if _pointing(values.get(name, ""), by_parameter[name]) != values.get(name)]
    changed |= {each.name for name in differing for each in by_parameter[name]}
    explicit = ispmail_postconf.get(differing, instance.config_directory)
    parameters = {name: _pointing(explicit.get(name, ""), by_parameter[name]) for name in differing}
    warnings = [*_open_domains(names, values), *unmanaged_tables(values, instance.maps)]
    warnings += _lost_defaults(differing, explicit, values)
    readable = _readable_by_proxymap(values["proxy_read_maps"], instance.maps)
    if readable is not None:
        parameters["proxy_read_maps"] = readable
        explicit.update(ispmail_postconf.get(["proxy_read_maps"], instance.config_directory))
    if parameters:
        changes["main.cf"] = {
            name: {"old": shown(name, explicit.get(name)), "new": shown(name, new)} for name, new in parameters.items()
        }
    return Difference(
        files=tuple(files),
        parameters=parameters,
        explicit={name: explicit.get(name) for name in parameters},
        changes=changes,
        changed=frozenset(changed),
        unknown=tuple(name for name in differing if name not in values),
        warnings=tuple(warnings),
    )


def parameters_of(maps: Iterable[Map]) -> list[str]:
    """The parameters that maps belong to, each once."""
    return list(dict.fromkeys(each.parameter for each in maps))


def ownership(file: File) -> dict[str, str]:
    """Mode, user and group of a file, as an admin reads them."""
    names = {"mode": f"{file.mode:04o}", "user": str(file.uid), "group": str(file.gid)}
    # An owner without a name keeps the number.
    with contextlib.suppress(KeyError):
        names["user"] = pwd.getpwuid(file.uid).pw_name
    with contextlib.suppress(KeyError):
        names["group"] = grp.getgrgid(file.gid).gr_name
    return names


def unmanaged_tables(values: Mapping[str, str], maps: Sequence[Map]) -> list[str]:
    """Warnings of SQL tables in our parameters that pillar does not name: perhaps left by a change of file or type."""
    paths = {each.path for each in maps}
    return [
        f"{parameter} also asks {word}, which pillar does not name: it is kept, take it out if it is a leftover"
        for parameter in parameters_of(maps)
        for word in words(values.get(parameter, ""))
        if is_sql_table(word) and path_of(word) not in paths
    ]


def _compare_file(each: CompleteMap) -> tuple[Replacement, dict[str, Any]]:
    """A table file as it should be, and how the one on disk differs from that."""
    old = ispmail_files.read(each.path)
    new = File(old.path, each.text.encode(), _user(_OWNER), _group(_GROUP), _MODE)
    replacement = Replacement(new, still=(old.content,))
    if old.content is None:
        return replacement, {"file": {"old": None, "new": each.path}, **_differing_keys(old, new)}
    is_owned = ownership(old)
    changes: dict[str, Any] = {
        name: {"old": is_owned[name], "new": value} for name, value in ownership(new).items() if is_owned[name] != value
    }
    if old.content != new.content:
        # Where no key differs, its layout does.
        changes.update(_differing_keys(old, new) or {"layout": {"old": "another", "new": "canonical"}})
    return replacement, changes


def _differing_keys(old: File, new: File) -> dict[str, Any]:
    return ispmail_tablefile.diff(ispmail_tablefile.parse(old.content), ispmail_tablefile.parse(new.content))


def _user(name: str) -> int:
    return pwd.getpwnam(name).pw_uid


def _group(name: str) -> int:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError as err:
        raise CannotAsk(f"there is no group {name}: install the package postfix") from err


def _pointing(value: str, maps: Sequence[Map]) -> str:
    """A parameter's value with these maps in their order, and all else that it holds."""
    return with_tables(value, [each.table() for each in maps], {each.path for each in maps})


def _open_domains(names: Sequence[str], values: Mapping[str, str]) -> list[str]:
    domains_only = "virtual_mailbox_domains" in names and "virtual_mailbox_maps" not in names
    if domains_only and not values["virtual_mailbox_maps"]:
        return ["without virtual_mailbox_maps every address of the domains is accepted: is that meant?"]
    return []


def _lost_defaults(names: Sequence[str], explicit: Mapping[str, str], values: Mapping[str, str]) -> list[str]:
    return [
        f"{name} had its default, {values[name]}, which is not kept: set it in main.cf first if it is needed"
        for name in names
        if name not in explicit and values.get(name) and not values[name].startswith("$virtual_")
    ]


def _readable_by_proxymap(value: str, maps: Sequence[Map]) -> str | None:
    """proxy_read_maps with the proxied tables that it does not allow yet; None where it allows all."""
    allowed = words(value)
    missing = [
        each for each in maps if each.proxy and f"${each.parameter}" not in allowed and each.table() not in allowed
    ]
    if not missing:
        return None
    return with_tables(value, [each.table() for each in missing], {each.path for each in missing})
