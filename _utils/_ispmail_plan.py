"""What differs between pillar and one Postfix instance, as a value. Nothing is changed here."""

from __future__ import annotations

import contextlib
import functools
import grp
import itertools
import os
import pwd
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import _ispmail_files
import _ispmail_inventory
import _ispmail_original
import _ispmail_postconf
import _ispmail_release
import _ispmail_tablefile
from _ispmail_config import CompleteInstance, CompleteMap, Map
from _ispmail_errors import CannotAsk, Fault, plural, repr_without
from _ispmail_expand import expand, names_in
from _ispmail_files import File, Replacement
from _ispmail_inventory import Inventory, Settings
from _ispmail_maincf import without_inline
from _ispmail_maincf import words as split_words
from _ispmail_programs import is_check, restriction_fault, restriction_lists, second_table_fault, takes_one_table
from _ispmail_reach import Reference, Wanted, asked_of_proxymap, joined, pointing, references

OPEN_DOMAINS = "without virtual_mailbox_maps every address of the domains is accepted: is that meant?"

# A table file holds a password, and proxymap(8) reads it as main.cf's mail_owner, whose group nobody else has.
_OWNER, _MODE = "root", 0o640


class Difference(NamedTuple):
    """What differs between pillar and the server."""

    settings: Settings  # what main.cf has now
    files: tuple[Replacement, ...]
    parameters: Mapping[str, str]  # what each main.cf parameter becomes
    changes: Mapping[str, Any]  # for people: a map's name, or main.cf, to what differs, secrets as ***
    changed: frozenset[str]  # the names of the maps that Postfix will ask in another way
    faults: tuple[Fault, ...]  # of pillar, beside this main.cf
    unknown: tuple[str, ...]  # parameters that Postfix does not know
    warnings: tuple[str, ...]

    def __repr__(self) -> str:
        return repr_without(self, "parameters")


class Outcome(NamedTuple):
    """What was changed, or would be."""

    changes: Mapping[str, Any] = MappingProxyType({})
    maps: int = 0
    warnings: tuple[str, ...] = ()
    reloaded: bool = False
    consumers: int = 0

    def describe(self, warnings: Iterable[str] = ()) -> dict[str, Any]:
        """For people and programs, with further warnings after its own."""
        return {**self._asdict(), "changes": dict(self.changes), "warnings": [*self.warnings, *warnings]}


def finished(reloaded: bool) -> dict[str, str]:
    """What is told of a change that was cut off before, and that this one finishes, or would."""
    return {"old": "a change was interrupted", "new": "reloaded" if reloaded else "checked"}


def compare(instance: CompleteInstance) -> Difference:
    """Compare pillar with the table files and main.cf, by one postconf.

    Raises:
        CannotAsk: A file or main.cf cannot be read.
    """
    known = _ispmail_inventory.settings(instance.config_directory)
    files, changes = [], {}
    foreign = []
    named = functools.cache(lambda: named_by(known))
    owned = functools.cache(lambda: (_user(_OWNER), mail_group(known)))
    for each in instance.maps:
        keys = _ispmail_release.for_release(each.type, each.canonical, known.version)
        text = _ispmail_tablefile.text_of(keys)
        old, fault = table_file(each, named, text, known.resolve)
        if fault:
            foreign.append(fault)
            continue
        replacements, differences = _compare_file(each.path, old, text, keys, *owned())
        if differences:
            files += replacements
            changes[each.name] = differences
    changed = set(changes)
    shared = _shared_files(instance.maps, known)
    # What is another map's is not said twice.
    foreign = [fault for fault in foreign if fault.key not in {each.key for each in shared}]
    faults = [*shared, *foreign, *restriction_faults(instance.maps, known)]
    parameters, warnings = {}, [*_open_domains(instance.maps, known), *unmanaged_tables(instance.maps, known)]
    ours = {known.real_path(each.path) for each in instance.maps}
    by_parameter: dict[str, list[CompleteMap]] = {}
    for each in instance.maps:
        by_parameter.setdefault(each.parameter, []).append(each)
    for name, maps in by_parameter.items():
        value, wrong = _pointing(known, name, maps, ours)
        faults += wrong
        if value is not None:
            parameters[name] = value
            changed |= {each.name for each in maps}
    inventory = functools.cache(lambda: _ispmail_inventory.read(instance.config_directory, known))
    faults += _second_tables(known, parameters, instance.maps, inventory)
    unknown = _unknown(parameters, known)
    readable = _readable_by_proxymap(known, parameters, instance.maps, inventory)
    if readable is not None:
        parameters["proxy_read_maps"] = readable
    if parameters:
        held = {name: known.set_value(name) for name in parameters}
        changes["main.cf"] = _ispmail_postconf.differences(held, parameters, instance.config_directory)
    return Difference(
        settings=known,
        files=tuple(files),
        parameters=parameters,
        changes=changes,
        changed=frozenset(changed),
        faults=tuple(faults),
        unknown=unknown,
        warnings=tuple(warnings),
    )


def _unknown(names: Iterable[str], known: Settings) -> tuple[str, ...]:
    """Those of these parameters that Postfix does not know, and no other one refers to."""
    unset = [name for name in names if name not in known.values]
    values = [value for value in known.values.values() if "$" in value] if unset else []
    referred = {found for value in values for found in names_in(value)}
    return tuple(name for name in unset if name not in referred)


def parameters_of(maps: Iterable[Map]) -> list[str]:
    """The parameters that maps belong to, each once."""
    return list(dict.fromkeys(each.parameter for each in maps))


def ownership(file: File) -> dict[str, str]:
    """Mode, owner and group of a file, as an admin reads them."""
    names = {"mode": f"{file.mode:04o}", "owner": str(file.uid), "group": str(file.gid)}
    # An owner without a name keeps the number.
    with contextlib.suppress(KeyError):
        names["owner"] = pwd.getpwuid(file.uid).pw_name
    with contextlib.suppress(KeyError):
        names["group"] = grp.getgrgid(file.gid).gr_name
    return names


def ownership_changes(old: File, new: File) -> dict[str, dict[str, str]]:
    """What of mode, owner and group differs: each with ``old`` and ``new``."""
    if (old.mode, old.uid, old.gid) == (new.mode, new.uid, new.gid):
        return {}
    before = ownership(old)
    return {
        name: {"old": before[name], "new": value} for name, value in ownership(new).items() if before[name] != value
    }


def is_as_written(file: File, known: Settings) -> bool:
    """Whether a table file has the mode, owner and group that an apply gives it."""
    return (file.mode, file.uid, file.gid) == (_MODE, _user(_OWNER), mail_group(known))


def restriction_faults(maps: Sequence[Map], known: Settings) -> list[Fault]:
    """Faults of maps whose parameter is a list of restrictions in this main.cf: a class, or by what it holds.

    Without its table a ``check_…_access`` stands alone, and smtpd answers with 451 to each recipient.
    """
    classes = split_words(known.expanded("smtpd_restriction_classes"))

    @functools.cache
    def behind_a_check(parameter: str) -> set[str]:
        pairs = itertools.pairwise(known.words(parameter))
        return {one.path for before, word in pairs if is_check(before.text) for one in word.references}

    return [
        restriction_fault(each.parameter, f"maps:{each.name}:parameter")
        for each in maps
        if each.parameter in classes or known.real_path(each.path) in behind_a_check(each.parameter)
    ]


def unmanaged_tables(maps: Sequence[Map], known: Settings) -> list[str]:
    """Warnings of SQL tables in our parameters that pillar does not name: perhaps left by a change of file or type."""
    paths = {known.real_path(each.path) for each in maps}
    return [
        f"{parameter} also asks {without_inline(word.text)}, which pillar does not name: "
        "it is kept, take it out if it is a leftover"
        for parameter in parameters_of(maps)
        for word in known.words(parameter)
        if any(each.path not in paths for each in word.references)
    ]


def named_by(known: Settings) -> dict[str, list[str]]:
    """The table files that main.cf leads to, each with the parameters that do."""
    found: dict[str, list[str]] = {}
    for place in _ispmail_inventory.in_main_cf(known):
        found.setdefault(place.reference.path, []).append(place.name)
    return found


def table_file(
    each: Map,
    named: Callable[[], Mapping[str, Sequence[str]]],
    text: str | None = None,
    resolve: Callable[[str], str] = os.path.realpath,
) -> tuple[File, Fault | None]:
    """The table file of a map as it is now, and a fault where something else is there.

    What main.cf leads to is a table file, whatever is in it; anything else has to look like one.

    Args:
        named: Gives the table files that main.cf leads to, with their parameters.
        text: What will be written to it, if anything.
        resolve: Path to real path.
    """
    key, other = f"maps:{each.name}:file", "choose another name, or move it away"
    try:
        file = _ispmail_files.read(each.path, resolve)
    except CannotAsk as err:
        return File(each.path, None), Fault(key, f"cannot be used: {err}", other)
    if file.content is None and os.path.islink(each.path):
        return file, Fault(key, f"names {each.path}, a link to {file.path}, which is not there", "remove the link")
    if file.content is None or (text is not None and file.content == text.encode()):
        return file, None
    parameters = named().get(file.path, ())
    if not parameters and not _ispmail_tablefile.is_table(file.content):
        return file, Fault(key, f"names {file.path}, which is there and is no table file", other)
    if parameters and each.parameter not in parameters and text is not None:
        names = ", ".join(dict.fromkeys(parameters))
        return file, Fault(key, f"names {file.path}, which is asked by {names} and not by {each.parameter}", other)
    return file, None


def _compare_file(
    path: str, old: File, text: str, keys: Mapping[str, str], owner: int, group: int
) -> tuple[list[Replacement], dict[str, Any]]:
    """A table file as it should be, with a copy of one that somebody else wrote, and how the one on disk differs."""
    new = File(old.path, text.encode(), owner, group, _MODE)
    replacements = [Replacement(new, still=(old.content,))]
    if old.content is None:
        return replacements, {"file": {"old": None, "new": path}, **_ispmail_tablefile.diff({}, keys)}
    changes: dict[str, Any] = {**ownership_changes(old, new)}
    if old.content != new.content:
        differing = _ispmail_tablefile.diff(_ispmail_tablefile.parse(old.content), keys)
        changes.update(differing)
        if not differing or _ispmail_original.is_handmade(old.content):
            changes["layout"] = {"old": "another", "new": "canonical"}
        if comments := _ispmail_original.comments(old.content):
            changes["comments"] = {"old": plural(comments, "line"), "new": None}
        copy = _first_copy(old)
        if copy:
            replacements.append(copy)
            changes["copy"] = {"old": None, "new": copy.path}
    return replacements, changes


def _first_copy(old: File) -> Replacement | None:
    """A copy of a table file that somebody else wrote, kept when it is first replaced, without its passwords."""
    if not old.content or not _ispmail_original.is_handmade(old.content):
        return None
    path = old.path + _ispmail_original.SUFFIX
    if os.path.islink(path):
        raise CannotAsk(f"{path} is a link: remove it, a copy of {old.path} is to be kept there")
    there = _ispmail_files.read(path)
    if there.content is not None:
        return None
    content = _ispmail_original.without_secrets(old.content)
    return Replacement(File(there.path, content, _user(_OWNER), grp.getgrnam(_OWNER).gr_gid, 0o600), still=(None,))


def _user(name: str) -> int:
    return pwd.getpwnam(name).pw_uid


def mail_group(known: Settings) -> int:
    """The group of mail_owner, by which proxymap(8) reads table files.

    Raises:
        CannotAsk: There is no such user.
    """
    owner = known.expanded("mail_owner")
    try:
        return pwd.getpwnam(owner).pw_gid
    except KeyError as err:
        raise CannotAsk(
            f"there is no user {owner}: install the package postfix, or check mail_owner in main.cf"
        ) from err


def _shared_files(maps: Sequence[CompleteMap], known: Settings) -> list[Fault]:
    """Faults of maps whose file is another map's, perhaps by a link."""
    owners: dict[str, str] = {}
    return [
        Fault(f"maps:{each.name}:file", f"is the file of {owner} too", "each map needs its own")
        for each in maps
        if (owner := owners.setdefault(known.real_path(each.path), each.name)) != each.name
    ]


def _pointing(
    known: Settings, name: str, maps: Sequence[CompleteMap], ours: Collection[str]
) -> tuple[str | None, list[Fault]]:
    """What a parameter becomes, so that it points at these maps in their order; None where it does.

    Args:
        ours: The paths of all our tables.
    """
    wanted = [
        Wanted(f"maps:{each.name}", each.table(), Reference(each.type, known.real_path(each.path), each.proxy))
        for each in maps
    ]
    current = known.values.get(name, "")
    value, faults = pointing(current, known.words(name), wanted)
    if value == current:
        return None, faults
    kept = name in known.explicit or _default_counts(known, name, ours)
    return (value if kept else pointing("", [], wanted)[0]), faults


def _default_counts(known: Settings, name: str, ours: Collection[str]) -> bool:
    """Whether the default of a parameter leads to more than our own tables: that is kept, else mail for it is lost."""
    return any(
        expand(word.text, known.values).strip()
        and not (word.only_tables and all(each.path in ours for each in word.references))
        for word in known.words(name)
    )


def _open_domains(maps: Sequence[Map], known: Settings) -> list[str]:
    names = parameters_of(maps)
    domains_only = "virtual_mailbox_domains" in names and "virtual_mailbox_maps" not in names
    return [OPEN_DOMAINS] if domains_only and not known.expanded("virtual_mailbox_maps") else []


def _second_tables(
    known: Settings, parameters: Mapping[str, str], maps: Sequence[Map], inventory: Callable[[], Inventory]
) -> list[Fault]:
    """Faults of maps that would not be alone in a parameter, where a ``check_…_access`` before it takes one table.

    Options in master.cf are looked at where such a parameter changes.
    """
    values = {**known.values, **parameters}
    several = [name for name in parameters_of(maps) if len(split_words(expand(values.get(name, ""), values))) > 1]
    changing = any(name in parameters for name in several)
    options = inventory().options() if changing else []
    # In a list that is expanded, these parameters stand as $name still.
    values.update({name: f"$${name}" for name in several})
    last_maps = {f"${each.parameter}": each for each in maps}
    found: dict[str, Fault] = {}
    for there in (values, *({**values, **own} for _, own in options)):
        classes = split_words(expand(there.get("smtpd_restriction_classes", ""), there))
        lists = {
            name: split_words(expand(there.get(name, ""), there)) for name in (*restriction_lists(there), *classes)
        }
        for restrictions, words in lists.items():
            judges = _judges(restrictions, lists, classes)
            for before, word in itertools.pairwise(words):
                if word in last_maps and any(takes_one_table(each, before) for each in judges):
                    last = last_maps[word]
                    key = f"maps:{last.name}:parameter"
                    found.setdefault(word, second_table_fault(last.parameter, key, before, restrictions))
    return list(found.values())


def _judges(
    name: str, lists: Mapping[str, Sequence[str]], classes: Collection[str], seen: tuple[str, ...] = ()
) -> list[str]:
    """The lists of smtpd by which the words of a list are judged: itself, or those that lead to a restriction class."""
    if name not in classes:
        return [name]
    users = [other for other, words in lists.items() if name in words and other not in seen]
    return [each for other in users for each in _judges(other, lists, classes, (*seen, name))]


def _readable_by_proxymap(
    known: Settings, parameters: Mapping[str, str], maps: Sequence[Map], inventory: Callable[[], Inventory]
) -> str | None:
    """proxy_read_maps with the proxied tables that it would not allow after this change; None where it allows all.

    proxymap compares texts: a table is allowed by the spelling that its reader uses. What the list allows stays, for
    the readers of other parameters, of options in master.cf, and of programs that are not Postfix's.
    """
    if not parameters and not any(each.proxy for each in maps):
        return None
    values = {**known.values, **parameters}
    paths = {known.real_path(each.path) for each in maps if each.proxy}
    used = [
        each.table
        for name in parameters_of(maps)
        for each in references(values.get(name, ""), values)
        if each.proxied and known.real_path(each.path) in paths
    ]
    allowed = _allowed(values)
    # The list may name a parameter that is changed here, such as $virtual_alias_maps.
    lost = [table for table in _allowed(known.values) if table not in allowed]
    if lost:
        asked = _ispmail_inventory.changed(inventory(), parameters).proxied()
        used += [table for table in lost if table in asked]
    missing = [table for table in dict.fromkeys(used) if table not in allowed]
    if not missing:
        return None
    return joined(values["proxy_read_maps"], known.words("proxy_read_maps"), [], missing)


def _allowed(values: Mapping[str, str]) -> list[str]:
    """What proxy_read_maps allows, of what reaches SQL tables."""
    return asked_of_proxymap(values["proxy_read_maps"], values)
