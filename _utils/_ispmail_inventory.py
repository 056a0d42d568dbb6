"""What one Postfix has, whoever made it: its settings, and every SQL table that main.cf or master.cf reaches."""

from __future__ import annotations

import functools
import os.path
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import _ispmail_files
import _ispmail_postconf
import _ispmail_tablefile
from _ispmail_errors import CannotAsk, repr_without
from _ispmail_expand import OF_A_PROCESS, doubts_of, expand, names_in, referred
from _ispmail_maincf import PERMITS, READABLE, SECRET_PARAMETERS, overrides, settled, without_inline, words
from _ispmail_postconf import Service
from _ispmail_programs import MOST, has_transports, is_match_list, is_transport, programs_of
from _ispmail_reach import Place, Reference, Word, asked_of_proxymap, places, references, tables_in, words_of

# A table, or a reference that stayed as it is because nothing closes it: Postfix refuses that, so anything may follow.
_TYPES = re.compile(r"(mysql|pgsql|sqlite|memcache):|\$[({]")
# A pattern file, as in match lists, and the backup table of a memcache table: they may name tables, and further files.
_PATTERN_FILE = re.compile(r"(?<![^\s,!])/[^\s,]+")
_MEMCACHE = re.compile(r"(?<![^\s,{}!:])(proxy:)*memcache:([^\s,{}]+)")
_MOST_FILES = 50  # of one word


class Settings(NamedTuple):
    """The parameters of one Postfix."""

    config_directory: str
    values: Mapping[str, str]  # as main.cf has them, or their defaults; ``$name`` not expanded
    explicit: frozenset[str]  # those that main.cf sets
    resolve: Callable[[str], str] = os.path.realpath  # where a path leads
    split: dict[str, list[Word]] | None = None  # the words of each parameter that was asked for; None: split each time

    def __repr__(self) -> str:
        return repr_without(self, "values")

    def expanded(self, name: str) -> str:
        """A parameter's value, ``$name`` expanded; empty where there is none."""
        return expand(self.values.get(name, ""), self.values)

    def words(self, name: str) -> list[Word]:
        """The words of a parameter, with the tables that each reaches, their paths resolved.

        Raises:
            CannotAsk: A word names a file, which may name tables and cannot be read. Or its tables are others in each
                process of Postfix.
        """
        known = {} if self.split is None else self.split
        if name not in known:
            _refuse_doubtful(self, name)
            in_files = functools.partial(_in_files, self, name)
            known[name] = words_of(self.values.get(name, ""), self.values, self.real_path, in_files)
        return known[name]

    def having(self, values: Mapping[str, str]) -> Settings:
        """The same Postfix where parameters have these values."""
        return self._replace(values={**self.values, **values}, split=None if self.split is None else {})

    def set_value(self, name: str) -> str | None:
        """What main.cf sets a parameter to; None where it does not."""
        return self.values[name] if name in self.explicit else None

    def relied_on(self, names: Iterable[str]) -> dict[str, str | None]:
        """What main.cf sets that a change of these parameters relies on: they themselves, and where the queue is."""
        return {name: self.set_value(name) for name in (*names, *sorted(referred(["queue_directory"], self.values)))}

    def real_path(self, path: str) -> str:
        """Where a table's path leads: links followed, from the queue directory where it is not absolute.

        A name without a slash is none: main.cf itself holds the keys of that table.
        """
        if not path.startswith(("/", ".")):
            return path
        if not path.startswith("/"):
            path = os.path.join(self.queue_directory, path)
        return self.resolve(path)

    @property
    def version(self) -> str:
        """Postfix's version."""
        return self.values["mail_version"]

    @property
    def queue_directory(self) -> str:
        """Where its queue is, and the chroot of its daemons."""
        return self.expanded("queue_directory")


class Reader(NamedTuple):
    """A service that asks a table, and how."""

    service: str  # such as smtp/inet
    program: str
    user: str  # as whom it logs in to the database
    chroot: str | None


class Table(NamedTuple):
    """An SQL table that Postfix reaches."""

    type: str
    path: str  # real
    proxied: bool
    places: tuple[Place, ...]
    readers: tuple[Reader, ...]

    @property
    def table(self) -> str:
        """How main.cf would write it."""
        return Reference(self.type, self.path, self.proxied).table


class Inventory(NamedTuple):
    """One Postfix, read once."""

    settings: Settings
    services: tuple[Service, ...]
    places: tuple[Place, ...]  # in the order in which Postfix asks them
    tables: tuple[Table, ...]
    users: Mapping[str, Sequence[str]]  # a parameter to those that refer to it, of master.cf too
    by_programs: dict[tuple[str, ...], tuple[Reader, ...]] | None = None  # of the readers, those that were asked for

    def options(self) -> list[tuple[str, dict[str, str]]]:
        """What services set: each one, such as submission/inet, with its options in master.cf, and its names."""
        return [
            (
                f"{service.name}/{service.type}",
                {"process_name": service.program, **overrides(service.command), "service_name": service.name},
            )
            for service in self.services
        ]

    def overrides(self) -> dict[str, str]:
        """The options alone, as one: such as submission/inet/virtual_alias_maps to the value."""
        return {
            f"{service.name}/{service.type}/{name}": value
            for service in self.services
            for name, value in overrides(service.command).items()
        }

    def secret_parameters(self) -> set[str]:
        """The parameters whose tables answer with passwords, or hold them: a relay's, however it is spelt."""
        return referred(SECRET_PARAMETERS, {**self.settings.values, **self.overrides()})

    def unasked(self, names: Iterable[str]) -> set[str]:
        """Those of these parameters whose tables nothing asks: the admin's own, to which no other one refers."""
        return own_parameters((name for name in names if name not in self.users), self.settings)

    def spelling(self, parameter: str, path: str, table: str) -> str:
        """How a parameter spells a proxied table: proxymap has to be asked so. `table` where it does not name it."""
        known = self.settings
        for each in references(known.values.get(parameter, ""), known.values):
            if each.proxied and known.real_path(each.path) == known.real_path(path):
                return each.table
        return table

    def proxied(self) -> set[str]:
        """What parameters and options of master.cf ask proxymap for, as they spell it."""
        known = self.settings.values
        found: set[str] = set()
        for own in (known, *(own for _, own in self.options())):
            values = {**known, **own}
            for name, value in own.items():
                if name not in PERMITS and _may_name_table(name, value, values):
                    found.update(asked_of_proxymap(value, values))
        return found

    def openers(self, parameter: str) -> tuple[str, ...]:
        """The programs that open the tables of a parameter or of what refers to it; services that do by an option."""
        return _programs(parameter, self)

    def readers(self, parameter: str, proxied: bool = False) -> tuple[Reader, ...]:
        """The services that open the tables of a parameter, or of what refers to it."""
        programs = ("proxymap",) if proxied else self.openers(parameter)
        known = {} if self.by_programs is None else self.by_programs
        if programs not in known:
            known[programs] = self._readers(programs)
        return known[programs]

    def asking(self, paths: Collection[str]) -> list[str]:
        """What leads to one of these table files, such as ``relay_domains (mysql:/etc/postfix/x.cf)``; for people."""
        places = [place for place in self.places if place.reference.path in paths]
        return list(dict.fromkeys(f"{place.name} ({without_inline(place.word.text)})" for place in places))

    def programs(self, paths: Iterable[str]) -> frozenset[str]:
        """The programs whose processes may hold what was in one of these table files: what is asked for each mail, and
        what reads a parameter that reaches one. The others, such as an smtp(8) with a slow server, hold none.
        """
        real = set(map(self.settings.real_path, paths))
        names = {place.name.rpartition("/")[2] for each in self.tables if each.path in real for place in each.places}
        found = {"proxymap", *MOST, *(each for name in names for each in _programs(name, self))}
        # An option of master.cf stands for its service.
        return frozenset(found.union(each.program for each in self.services if f"{each.name}/{each.type}" in found))

    def _readers(self, programs: Collection[str]) -> tuple[Reader, ...]:
        owner = self.settings.expanded("mail_owner")
        old_defaults = self.settings.expanded("compatibility_level").split(".")[0] == "0"
        in_chroot = ("y", "-") if old_defaults else ("y",)
        return tuple(
            Reader(
                f"{service.name}/{service.type}",
                service.program,
                owner,
                self.settings.queue_directory if service.chroot in in_chroot else None,
            )
            for service in self.services
            if (service.program in programs or f"{service.name}/{service.type}" in programs) and self._is_used(service)
        )

    def _is_used(self, service: Service) -> bool:
        """Whether mail may go to a service: virtual(8) does not run where no transport names it, and no table may.

        (A FILTER of an access table is not looked for: it would be there to filter, which virtual does not.)
        """
        if service.program != "virtual":
            return True
        for own in (self.settings.values, *(own for _, own in self.options())):
            known = self.settings.having(own)
            if any(has_transports(name) and known.expanded(name) for name in own):
                return True
            if any(known.expanded(name).partition(":")[0] == service.name for name in own if is_transport(name)):
                return True
        return False


def settings(config_directory: str) -> Settings:
    """Read all parameters, by one postconf.

    Raises:
        CannotAsk: There is no Postfix, or no main.cf.
    """
    values = settled(_ispmail_postconf.get(None, config_directory, defaults=True))
    if READABLE not in values:
        # Only a change that was cut off has set it.
        values.update(_ispmail_postconf.defaults([READABLE], config_directory))
    # postconf does not print a parameter of the admin's own until another one uses it.
    explicit = _ispmail_postconf.explicit(config_directory)
    known = {**explicit, **values, "config_directory": config_directory}
    for name in OF_A_PROCESS:
        known.pop(name, None)
    is_set = frozenset(explicit).intersection(known)
    return Settings(config_directory, known, is_set, _ispmail_files.resolver(), split={})


def read(config_directory: str, known: Settings | None = None) -> Inventory:
    """Read an instance, by one postconf.

    Args:
        known: Its settings, where they are known already; then it is none.

    Raises:
        CannotAsk: There is no Postfix, no main.cf, or no master.cf.
    """
    known = known or settings(config_directory)
    return of(known, _ispmail_postconf.services(config_directory))


def own_parameters(names: Iterable[str], known: Settings) -> set[str]:
    """Those of these parameters that are the admin's own, none of Postfix's; one postconf tells."""
    names = set(names)
    return names - set(_ispmail_postconf.defaults(sorted(names), known.config_directory))


def changed(inventory: Inventory, parameters: Mapping[str, str | None]) -> Inventory:
    """The inventory as it is once parameters have other values; None takes one out of main.cf."""
    known = inventory.settings
    return of(known.having({name: value or "" for name, value in parameters.items()}), inventory.services)


def of(known: Settings, services: Sequence[Service]) -> Inventory:
    """Put together what was read."""
    bare = Inventory(known, tuple(services), (), (), {}, {})
    bare = bare._replace(users=_users({**known.values, **bare.overrides()}))
    everywhere = []
    found: dict[Reference, tuple[list[Place], list[Reader]]] = {}
    for place, readers in (*_in_main_cf(bare), *_in_master_cf(bare)):
        everywhere.append(place)
        named, all_readers = found.setdefault(place.reference, ([], []))
        named.append(place)
        all_readers += [reader for reader in readers if reader not in all_readers]
    tables = tuple(
        Table(each.type, each.path, each.proxied, tuple(named), tuple(readers))
        for each, (named, readers) in found.items()
    )
    return bare._replace(places=tuple(everywhere), tables=tables)


_Found = tuple[Place, tuple[Reader, ...]]


def in_main_cf(known: Settings) -> Iterator[Place]:
    """Every place where a parameter of main.cf leads to a table."""
    for name, value in known.values.items():
        if name not in PERMITS and _may_name_table(name, value, known.values):
            yield from places(name, known.words(name))


def _may_name_table(name: str, value: str, values: Mapping[str, str]) -> bool:
    """Whether it is worth while to look for tables in each word of a value: most refer to others, and name none."""
    expanded = expand(value, values)
    return _TYPES.search(expanded) is not None or (is_match_list(name) and _PATTERN_FILE.search(expanded) is not None)


def _refuse_doubtful(known: Settings, parameter: str) -> None:
    """Refuse a value whose tables nobody can tell who is not the process that reads it: one in use may be among them.

    Raises:
        CannotAsk: Names the parameter, and what its tables depend on.
    """
    for word in words(known.values.get(parameter, "")):
        doubts = doubts_of(word, known.values)
        if doubts and _may_name_table(parameter, word, known.values):
            names = " and ".join(f"${name}" for name in doubts)
            raise CannotAsk(
                f"{_untold(parameter)}: that depends on {names}, which each process of Postfix sets for itself: "
                f"write the tables there without {names}"
            )


def _untold(parameter: str) -> str:
    return f"whether {parameter} leads to SQL tables cannot be told"


def _in_files(known: Settings, parameter: str, word: str) -> list[Reference]:
    """The tables in the files that an expanded word of a parameter names, or in files that those name.

    Raises:
        CannotAsk: A file cannot be read, or there are too many.
    """
    waiting = [*_files(word, is_match_list(parameter))]
    found: list[Reference] = []
    seen = set()
    for path, is_pattern, by_proxymap in waiting:
        # A directory is no file of patterns: this is a path of the admin's own, by a name that looks like such a list.
        if (path, is_pattern, by_proxymap) in seen or (is_pattern and os.path.isdir(path)):
            continue
        seen.add((path, is_pattern, by_proxymap))
        if len(seen) > _MOST_FILES:
            raise CannotAsk(f"{_untold(parameter)}: it names more than {_MOST_FILES} files, some of them inside others")
        try:
            inside = _patterns(path) if is_pattern else _backup(path, known)
        except CannotAsk as err:
            raise CannotAsk(f"{_untold(parameter)}: {err}") from err
        tables = [each._replace(path=known.real_path(each.path)) for each in tables_in(inside, known.values)]
        found += [each.inside_proxymap() for each in tables] if by_proxymap else tables
        waiting += _files(inside, is_pattern, by_proxymap)
    return found


def _files(text: str, of_match_list: bool, by_proxymap: bool = False) -> Iterator[tuple[str, bool, bool]]:
    """The files that a text names which may name tables: each path, whether it is a pattern file, who opens it."""
    yield from ((path, True, False) for path in (_PATTERN_FILE.findall(text) if of_match_list else ()))
    for word in words(text) if "memcache:" in text else ():
        is_asked = by_proxymap or word.lstrip("!").startswith("proxy:")
        yield from ((path, False, is_asked or bool(proxied)) for proxied, path in _MEMCACHE.findall(word))


def _patterns(path: str) -> str:
    """What a pattern file says."""
    content = _ispmail_files.content(path) or b""
    lines = _ispmail_tablefile.logical_lines(content.decode("utf-8", "surrogateescape"))
    return "\n".join(line for _, line in lines)


def _backup(path: str, known: Settings) -> str:
    """The backup table of a memcache table, see memcache_table(5)."""
    if not path.startswith(("/", ".")):
        # main.cf itself holds its keys.
        return known.expanded(f"{path}_backup")
    return _ispmail_tablefile.parse(_ispmail_files.content(known.real_path(path))).get("backup", "")


def _in_main_cf(inventory: Inventory) -> Iterator[_Found]:
    for place in in_main_cf(inventory.settings):
        yield place, inventory.readers(place.name, place.reference.by_proxymap)


def _in_master_cf(inventory: Inventory) -> Iterator[_Found]:
    """Tables in the options of a service, and those that only these make of main.cf's parameters.

    A table may be an argument of its command too, as for postmulti's own.
    """
    known = inventory.settings
    for where, own in inventory.options():
        of_service = known.having(own)
        for name in (*own, *_referring(own, inventory)):
            if name in PERMITS or not _may_name_table(name, of_service.values[name], of_service.values):
                continue
            of_main_cf = () if name in own else [each.reference for each in places(name, known.words(name))]
            for place in places(f"{where}/{name}", of_service.words(name)):
                if place.reference in of_main_cf:
                    continue
                proxied = place.reference.by_proxymap
                readers = inventory.readers(name, proxied)
                yield place, tuple(one for one in readers if proxied or one.service == where)


def _referring(names: Collection[str], inventory: Inventory) -> list[str]:
    """Main.cf's other parameters that refer to some, directly or by way of each other."""
    found: dict[str, None] = {}
    left = [*names]
    while left:
        users = [each for each in inventory.users.get(left.pop(), ()) if "/" not in each]
        left += [each for each in users if each not in found]
        found.update(dict.fromkeys(users))
    return [each for each in found if each not in names]


def _programs(parameter: str, inventory: Inventory) -> tuple[str, ...]:
    """The programs that read a parameter, and the services of master.cf that do so by an option.

    One of the admin's own is read by what reads the parameters that refer to it. Where none does, anything may.
    """
    classes = words(inventory.settings.expanded("smtpd_restriction_classes"))
    found: list[str] = []
    seen: set[str] = set()
    new = [parameter]
    while new:
        seen.update(new)
        for name in new:
            users = inventory.users.get(name, ())
            if service := name.rpartition("/")[0]:
                found.append(service)
            elif name in classes:
                found.append("smtpd")
            elif not users or programs_of(name) is not MOST:
                found += programs_of(name)
        new = [user for name in new for user in inventory.users.get(name, ()) if user not in seen]
    # Parameters that refer to each other in a circle are fatal to Postfix.
    return tuple(dict.fromkeys(found)) or programs_of(parameter)


def _users(values: Mapping[str, str]) -> dict[str, list[str]]:
    """The parameters that refer to others: each of those to them."""
    found: dict[str, list[str]] = {}
    for name, value in values.items():
        bare = name.rpartition("/")[2]
        referred = dict.fromkeys(names_in(value)) if "$" in value and bare not in PERMITS else ()
        for each in referred:
            if each != bare:
                found.setdefault(each, []).append(name)
    return found
