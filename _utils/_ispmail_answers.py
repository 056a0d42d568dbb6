"""Ask the maps of an instance: which cannot be asked, which do not answer as pillar expects."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import _ispmail_files
import _ispmail_inventory
import _ispmail_lookup
import _ispmail_route
from _ispmail_config import Answer, CompleteInstance, CompleteMap, Instance, Map
from _ispmail_errors import InvalidInput, repr_without
from _ispmail_expand import expand, referred
from _ispmail_inventory import Inventory
from _ispmail_lookup import COULD_NOT_ASK, ROOT, Asker, Group, Lookup, Probed, renamed
from _ispmail_maincf import BLANKS, without_holders, without_inline, words
from _ispmail_query import probes
from _ispmail_reach import words_of
from _ispmail_tablefile import SECRET, shown_key

# How many table files are held in memory at once: each takes a descriptor.
_CHUNK = 64
# How long to go on looking for more that cannot be asked, after the first, in seconds.
PROBE_SECONDS = 10
UNCHECKED = "the other answers were not checked: that took too long already"
# These stay root to deliver, and take mail_owner's rights by set_eugid, without its supplementary groups.
_PRIMARY_GROUP_ONLY = ("virtual", "local")
# Braces around a table are not Postfix's: it takes them for a type that it does not have.
_TABLE = re.compile(r"(?s)(?!(static|inline|fail):)[a-z][a-z0-9_]*:|\{.*:")


def lookup(instance: Instance, name: str, question: str) -> Lookup:
    """Ask one map one question, as Postfix would. Passwords that a relay asks for are never an answer.

    Args:
        name: A map of pillar, or a table that pillar or main.cf names, such as ``mysql:/etc/postfix/a.cf``.

    Raises:
        InvalidInput: It is neither, or the question is not a text of one line.
    """
    if not question or re.search(r"[\n\0\ud800-\udfff]", question):
        raise InvalidInput("the question must be a text of one line")
    inventory = _ispmail_inventory.read(instance.config_directory)
    chosen = _named_table(instance, inventory, name) if ":" in name else choose(instance, [name])[0]
    running = _ispmail_route.is_there(inventory.settings.queue_directory)
    with contextlib.closing(live([chosen], inventory, running)) as groups:
        group = next(groups)
        asked = group.tables[chosen.name]
        found = _ispmail_lookup.ask(question, [asked], instance.config_directory, as_=group.as_)
    table = chosen.table()
    found = found._replace(
        table=table if found.table else None,
        reason=found.reason and renamed(found.reason, asked, table),
        warnings=tuple(renamed(warning, asked, table) for warning in found.warnings),
    )
    is_secret = inventory.settings.real_path(chosen.path) in secret_tables(instance, inventory)
    return found._replace(answer=SECRET) if found.answer is not None and is_secret else found


def secret_tables(instance: Instance | CompleteInstance, inventory: Inventory) -> set[str]:
    """The paths of tables whose answers are passwords: a relay's, however it is spelt, and those that pillar says."""
    known = inventory.settings
    secret = inventory.secret_parameters()
    found = {
        table.path
        for table in inventory.tables
        if any(place.name.rpartition("/")[2] in secret for place in table.places)
    }
    # A map that is not live yet too.
    return found | {known.real_path(each.path) for each in instance.maps if each.secret or each.parameter in secret}


def choose(instance: Instance, names: Sequence[str] | None) -> list[Map]:
    """Pick maps of pillar by name; None for all. Those that pillar sets to null are not ours.

    Raises:
        InvalidInput: `names` is no list, or pillar names no such map.
    """
    known = {each.name: each for each in instance.wanted}
    if names is None:
        return list(instance.wanted)
    if not isinstance(names, (list, tuple)):
        raise InvalidInput(f"maps must be a list of names, such as [{next(iter(known), '')}]")
    nulls = [each.name for each in instance.maps if not each.wanted and each.name in names]
    if nulls:
        raise InvalidInput(f"pillar sets {', '.join(nulls)} to null, which leaves it alone: remove a map before that")
    missing = [shown_key(name) for name in names if not isinstance(name, str) or name not in known]
    if missing:
        raise InvalidInput(f"pillar names no map {', '.join(missing)}: it names {', '.join(known)}")
    return [known[name] for name in names]


def answering(instance: CompleteInstance, maps: Iterable[CompleteMap]) -> list[CompleteMap]:
    """Those of these maps of which pillar expects an answer."""
    names = {each.map for each in instance.answers}
    return [each for each in maps if each.name in names]


def staged(maps: Sequence[CompleteMap], inventory: Inventory) -> Generator[Group]:
    """New table files in memory, as each process that will read them is going to ask."""
    contents = {each.name: (each.type, each.text.encode("utf-8", "surrogateescape")) for each in maps}
    for as_, some in _by_asker(maps, inventory, staged=True).items():
        yield from _in_memory({each.name: contents[each.name] for each in some}, as_)


def live(maps: Sequence[Map | CompleteMap], inventory: Inventory, running: bool = True) -> Generator[Group]:
    """Live table files, as each process that reads them asks: through proxymap itself for maps with ``proxy: true``.

    Args:
        running: Whether a proxymap can be asked.
    """
    for as_, some in _by_asker(maps, inventory, staged=not running).items():
        # One that is not there is asked by its path, so that postmap says so.
        by_path = {each.name: each.table(running) for each in some if not os.path.exists(each.path)}
        if running:
            by_path |= {
                each.name: inventory.spelling(each.parameter, each.path, each.table()) for each in some if each.proxy
            }
        if by_path:
            yield Group(by_path, ROOT)
        contents = {
            each.name: (each.type, _ispmail_files.content(each.path) or b"")
            for each in some
            if each.name not in by_path
        }
        yield from _in_memory(contents, as_)


def unaskable(groups: Iterable[Group], config_directory: str, special: bool = True) -> tuple[list[str], list[str]]:
    """Probe tables. Once some cannot be asked, no further group is asked after PROBE_SECONDS.

    Args:
        special: Whether to ask for special keys too: what fails for one of them only is a warning.

    Returns:
        Sentences on those that cannot be asked, and warnings; each with the maps that it is about.
    """
    reasons: dict[str, list[str]] = {}
    warnings: dict[str, list[str]] = {}
    until = time.monotonic() + PROBE_SECONDS
    for group in groups:
        if reasons and time.monotonic() > until:
            break
        for name, found in probe(group, config_directory, special).items():
            for sentence in found.warnings if found.reason is None else [found.reason]:
                names = (warnings if found.reason is None else reasons).setdefault(sentence, [])
                names += [] if name in names else [name]
    return _with_maps(reasons), _with_maps(warnings)


class Broken(NamedTuple):
    """A table of somebody else's that cannot be asked."""

    parameter: str
    table: str
    reason: str
    opens: bool  # False: Postfix cannot open it, so that each process that starts anew fails

    def __str__(self) -> str:
        return f"{self.parameter} also asks {self.table}, which is not pillar's and cannot be asked: {self.reason}"


class _Other(NamedTuple):
    """A table of somebody else's, or another word."""

    parameter: str
    text: str
    is_secret: bool  # it holds its answers itself, and they may be passwords

    def __repr__(self) -> str:
        return repr_without(self, "text")


def broken_others(
    maps: Sequence[Map], inventory: Inventory, running: bool, parameters: Iterable[str] = ()
) -> list[Broken]:
    """The tables of any type that stand beside these maps in their parameters, and cannot be asked.

    Once one cannot be asked, no further one is asked after PROBE_SECONDS.

    Args:
        running: Whether a proxymap can be asked.
        parameters: Further ones, which may have none of these maps.
    """
    known = inventory.settings
    found: list[Broken] = []
    until = time.monotonic() + PROBE_SECONDS
    for other in _others(maps, inventory, parameters):
        parameter, table = other.parameter, other.text
        # A list in a file, which only lists may have: Postfix opens it at the first look.
        if table.startswith("/") and not os.path.exists(table):
            found.append(Broken(parameter, table, "there is no such file", opens=False))
        if not _TABLE.match(table) or other.is_secret or (table.startswith("proxy:") and not running):
            continue
        if found and time.monotonic() > until:
            return found
        asked = _ispmail_lookup.ask(probes()[0].question, [table], known.config_directory)
        if asked.result == COULD_NOT_ASK:
            shown = without_inline(table)
            reason = renamed(asked.reason or "", table, shown)
            found.append(Broken(parameter, shown, reason, opens=not re.search("open |supported", reason)))
    return found


def unasked_others(maps: Sequence[Map], inventory: Inventory, parameters: Iterable[str] = ()) -> list[str]:
    """Sentences on the tables beside these maps of which `broken_others` cannot tell anything: each is said once."""
    return [
        f"whether Postfix can ask {without_inline(each.text)} in {each.parameter} could not be told: it holds its "
        "answers itself, which may be passwords, and anybody can read the arguments of postmap"
        for each in _others(maps, inventory, parameters)
        if _TABLE.match(each.text) and each.is_secret
    ]


def _others(maps: Sequence[Map], inventory: Inventory, parameters: Iterable[str]) -> Iterator[_Other]:
    """What stands beside these maps in their parameters, and in further ones."""
    known = inventory.settings
    ours = {known.real_path(each.path) for each in maps}
    secret = inventory.secret_parameters()
    for parameter in dict.fromkeys([*(each.parameter for each in maps), *parameters]):
        others = [word for word in known.words(parameter) if not any(each.path in ours for each in word.references)]
        is_secret = not secret.isdisjoint(referred([parameter], known.values))
        for text in (text for word in others for text in words(expand(word.text, known.values))):
            table = text.lstrip("!")
            for each in without_holders(table) if is_secret else [table]:
                yield _Other(parameter, each, is_secret and without_inline(each) != each)


def unaskable_live(instance: Instance) -> list[str]:
    """Sentences on the live maps of an instance that cannot be asked."""
    if not instance.wanted:
        # A server that has only other programs with the maps' account, or the database, needs no Postfix.
        return []
    inventory = _ispmail_inventory.read(instance.config_directory)
    running = _ispmail_route.is_there(inventory.settings.queue_directory)
    return unaskable(live(instance.wanted, inventory, running), instance.config_directory, special=False)[0]


def probe(group: Group, config_directory: str, special: bool = True) -> dict[str, Probed]:
    """Probe tables; in what is said of each, its map stands for the table.

    So maps that fail in the same way have the same reason.
    """
    tables = list(group.tables.values())
    found = _ispmail_lookup.probe(tables, config_directory, as_=group.as_, domains=group.domains, special=special)
    named = {}
    for name, table in group.tables.items():
        reason, warnings = found[table].reason, found[table].warnings
        reason = None if reason is None else renamed(reason, table, name)
        named[name] = Probed(reason, tuple(renamed(warning, table, name) for warning in warnings))
    return named


def wrong_answers(instance: CompleteInstance, groups: Iterable[Group]) -> list[str]:
    """Compare the answers that pillar expects of these tables.

    Returns:
        Sentences on those that are not as expected.
    """
    wrong: dict[tuple[Answer, str], Lookup] = {}
    left_out = []
    silent: set[str] = set()
    until = time.monotonic() + PROBE_SECONDS
    for group in groups:
        for expected in instance.answers:
            if silent and time.monotonic() > until:
                left_out = [UNCHECKED]
                break
            table = group.tables.get(expected.map)
            if table is None or table in silent:
                continue
            found = _ispmail_lookup.ask(expected.question, [table], instance.config_directory, as_=group.as_)
            if found.result == COULD_NOT_ASK:
                silent.add(table)
            elif _is_expected(found.answer, expected.answer):
                continue
            wrong[expected, table] = found
    if not wrong:
        return left_out
    inventory = _ispmail_inventory.read(instance.config_directory)
    secret = secret_tables(instance, inventory)
    hidden = {each.name: inventory.settings.real_path(each.path) in secret for each in instance.maps}
    sentences = [
        _difference(expected, found, table, hidden[expected.map]) for (expected, table), found in wrong.items()
    ]
    return [*dict.fromkeys(sentences), *left_out]


def askers(each: Map, inventory: Inventory, staged: bool = False) -> list[Asker]:
    """As whom a map is asked: as each of its readers; where it has none, as the user that nearly all of them are.

    Args:
        staged: Whether its table file is not live yet, so that proxymap itself cannot be asked.
    """
    if each.type == "sqlite" and not each.proxy:
        # Opened before a program gives up its rights.
        return [ROOT]
    if each.proxy and not staged:
        return [ROOT]
    readers = inventory.readers(each.parameter, each.proxy)
    found = [
        Asker(reader.user, reader.chroot, primary_group_only=reader.program in _PRIMARY_GROUP_ONLY)
        for reader in readers
    ]
    return list(dict.fromkeys(found)) or [Asker(inventory.settings.expanded("mail_owner"))]


def unread(maps: Iterable[Map], inventory: Inventory) -> list[str]:
    """Warnings of maps that no service of master.cf reads, as far as can be told; see `askers`."""
    found: dict[str, list[str]] = {}
    for each in maps:
        opened_by_root = each.type == "sqlite" and not each.proxy
        if not opened_by_root and not inventory.readers(each.parameter, each.proxy):
            reader = "has a proxymap" if each.proxy else f"reads {each.parameter}"
            found.setdefault(f"no service of master.cf {reader}", []).append(each.name)
    owner = inventory.settings.expanded("mail_owner")
    asked = f"asked as user {owner} from outside of any chroot, which may not be how Postfix will ask"
    return _with_maps({f"{reason}, so it was {asked}": names for reason, names in found.items()})


def _by_asker(maps: Sequence[Map], inventory: Inventory, staged: bool) -> dict[Asker, list[Any]]:
    found: dict[Asker, list[Any]] = {}
    for each in maps:
        for as_ in askers(each, inventory, staged):
            found.setdefault(as_, []).append(each)
    return found


def _in_memory(contents: Mapping[str, tuple[str, bytes]], as_: Asker) -> Generator[Group]:
    names = list(contents)
    for start in range(0, len(names), _CHUNK):
        some = {name: contents[name] for name in names[start : start + _CHUNK]}
        with _ispmail_lookup.in_memory(some, as_) as group:
            yield group


def _named_table(instance: Instance, inventory: Inventory, name: str) -> Map:
    """A table that pillar or main.cf names, as a map.

    Any other would let a job open a file of its choice. So nothing of the caller's own path is used: it may be a link
    that leads elsewhere a moment later.
    """
    known = inventory.settings
    found = words_of(name, known.values, known.real_path)
    if len(found) == 1 and found[0].is_table:
        (asked,) = found[0].references
        tables = [Map(name, each.places[0].name, each.type, each.proxied, each.path) for each in inventory.tables]
        tables += [
            Map(name, each.parameter, each.type, each.proxy, known.real_path(each.path)) for each in instance.maps
        ]
        same = [each for each in tables if (each.type, each.path) == (asked.type, asked.path)]
        if same:
            # Read with and without proxymap, it is asked as the caller spells it.
            return next((each for each in same if each.proxy == asked.proxied), same[0])
    raise InvalidInput(
        "that is not the name of a map in pillar, nor an SQL table that pillar or main.cf names: "
        f"known are {', '.join(each.name for each in instance.maps)}"
    )


def _with_maps(sentences: Mapping[str, Sequence[str]]) -> list[str]:
    return [f"{', '.join(names)}: {sentence}" for sentence, names in sentences.items()]


def _is_expected(found: str | None, expected: str | bool) -> bool:
    if isinstance(expected, bool):
        return (found is not None) == expected
    # The database may give several rows in any order, and Postfix passes over blanks beside a comma.
    return found is not None and _parts(found) == _parts(expected)


def _parts(answer: str) -> list[str]:
    return sorted(part.strip(BLANKS) for part in answer.split(","))


def _difference(expected: Answer, found: Lookup, table: str, hidden: bool) -> str:
    """A sentence on an answer that is not as expected."""

    def shown(answer: str) -> str:
        return SECRET if hidden else repr(answer)

    if isinstance(expected.answer, bool):
        wanted = "any answer" if expected.answer else "no answer"
    else:
        wanted = shown(expected.answer)
    if found.reason is not None:
        got = f"could not ask: {renamed(found.reason, table, expected.map)}"
    else:
        got = "no answer" if found.answer is None else shown(found.answer)
    return f"{expected.map}: {expected.question} should give {wanted}, but gives {got}"
