"""Which SQL tables a value of main.cf reaches, however it spells them, and how to change it. Pure.

A value is a list of *words*. A word may be a table (``proxy:mysql:$config_directory/a.cf``), a reference to another
parameter (``$alias_maps``), or tables in braces (``unionmap:{…}``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from _ispmail_errors import Fault, repr_without
from _ispmail_expand import expand, sole_name
from _ispmail_maincf import without_inline, words
from _ispmail_programs import is_check
from _ispmail_tablefile import release_of

_WRITTEN_AS_TABLE = re.compile(r"((proxy|debug):)*(mysql|pgsql|sqlite):")
_ASKED = re.compile(r"(?s)(?:debug:)*(?:proxy:)+(.*)")
# The first release with debug:, which logs what is asked.
_LOGS = (3, 11)


class _Syntax(NamedTuple):
    """What a word is: an SQL table, or several."""

    table: re.Pattern[str]
    tables: re.Pattern[str]


# Whether debug: is one of the prefixes, to how a release takes tables.
_SYNTAX = {
    logs: _Syntax(
        re.compile(rf"((?:{prefix}:)*)(mysql|pgsql|sqlite):([^\s,{{}}]+)"),
        re.compile(rf"((?:{prefix}:)*)(?:unionmap|pipemap):\{{(.*)\}}", re.DOTALL),
    )
    for logs, prefix in ((False, "proxy"), (True, "(?:proxy|debug)"))
}


class Reference(NamedTuple):
    """An SQL table that a value reaches."""

    type: str  # mysql, pgsql or sqlite
    path: str  # of the table file; a name without / where main.cf itself holds its keys, see mysql_table(5)
    proxied: bool  # read through proxymap(8)
    inside: bool = False  # what is read through proxymap is the braces, or the memcache table, around it

    @property
    def by_proxymap(self) -> bool:
        """Whether proxymap(8) opens it."""
        return self.proxied or self.inside

    def inside_proxymap(self) -> Reference:
        """The same where proxymap opens what it stands in: proxymap asks itself through no other one."""
        return self._replace(proxied=False, inside=True)

    @property
    def table(self) -> str:
        """How main.cf writes it."""
        return f"proxy:{self.type}:{self.path}" if self.proxied else f"{self.type}:{self.path}"


class Word(NamedTuple):
    """One word of a value, and the tables that it reaches."""

    text: str
    references: tuple[Reference, ...]
    is_table: bool  # it is written as one SQL table; False for $name, unionmap:{…}
    only_tables: bool  # it is SQL tables and nothing else, unionmap:{…} of such too

    def __repr__(self) -> str:
        # static:… and inline:… hold what they answer.
        return repr_without(self, "text")


class Place(NamedTuple):
    """Where a table is named."""

    name: str  # virtual_alias_maps, or submission/inet/virtual_alias_maps for an option of master.cf
    word: Word  # that reaches it
    before: str  # the word before that one; empty for the first
    reference: Reference

    def __repr__(self) -> str:
        return repr_without(self, "before")


class Wanted(NamedTuple):
    """A table that is to stand in a parameter; `key` is the pillar key that asks for it."""

    key: str
    table: str  # how we write it, such as proxy:mysql:/etc/postfix/a.cf
    reference: Reference


def references(value: str, values: Mapping[str, str]) -> list[Reference]:
    """The SQL tables that a value reaches, in its order.

    Args:
        value: As main.cf has it.
        values: Name to value of all parameters.
    """
    return tables_in(expand(value, values), values)


def tables_in(expanded: str, values: Mapping[str, str]) -> list[Reference]:
    """List the tables that a text reaches in which nothing is expanded any more."""
    return _reached(words(expanded), "", _syntax(values))


def asked_of_proxymap(value: str, values: Mapping[str, str]) -> list[str]:
    """What a value asks proxymap for, such as ``proxy:mysql:/etc/postfix/a.cf``, of what reaches SQL tables.

    Proxymap compares texts: braces that are asked as a whole are allowed as a whole.
    """
    syntax = _syntax(values)
    found = words(expand(value, values))
    bare = (_without_options(word, last) for last, word in zip(["", *found], found))
    return [asked for word in bare for asked in _asked_of_proxymap(word, syntax)]


def _asked_of_proxymap(word: str, syntax: _Syntax) -> list[str]:
    if found := _ASKED.fullmatch(word):
        return [f"proxy:{found[1]}"] if any(_tables(word, syntax)) else []
    braces = syntax.tables.fullmatch(word)
    return [asked for each in words(braces[2]) for asked in _asked_of_proxymap(each, syntax)] if braces else []


def _reached(expanded: Sequence[str], previous: str, syntax: _Syntax) -> list[Reference]:
    """The tables of words that are expanded; `previous` stands before the first."""
    found = (_tables(_without_options(word, last), syntax) for last, word in zip([previous, *expanded], expanded))
    return [each for tables in found for each in tables if each]


def _without_options(word: str, previous: str) -> str:
    """The table in a word such as !mysql:…, or in braces as check_ccert_access takes it: {mysql:…, search_order=…}."""
    if word.startswith("{") and is_check(previous):
        return next(iter(words(word[1:].removesuffix("}"))), "")
    return word.lstrip("!")


def _syntax(values: Mapping[str, str]) -> _Syntax:
    """How this release of Postfix takes tables in a word."""
    return _SYNTAX[release_of(values.get("mail_version", "")) >= _LOGS]


def _tables(word: str, syntax: _Syntax) -> list[Reference | None]:
    """The tables that a word is; None for one that is not SQL, or that Postfix does not take, such as {mysql:…}."""
    if ":" not in word:
        return [None]
    if found := syntax.table.fullmatch(word):
        return [Reference(found[2], found[3], "proxy:" in found[1])]
    if found := syntax.tables.fullmatch(word):
        tables = [table for each in words(found[2]) for table in _tables(each, syntax)]
        return [each and each.inside_proxymap() for each in tables] if "proxy:" in found[1] else tables
    return [None]


def words_of(
    value: str,
    values: Mapping[str, str],
    resolve: Callable[[str], str],
    in_files: Callable[[str], Iterable[Reference]] = lambda _: (),
) -> list[Word]:
    """Split a value into its words, each with the tables that it reaches.

    Args:
        resolve: Path to real path.
        in_files: Gives the tables, resolved, in the files that an expanded word names.
    """
    syntax = _syntax(values)
    found = []
    texts = words(value)
    for previous, text in zip(["", *texts], texts):
        expanded = expand(text, values)
        parts = words(expanded) if expanded != text else [text]
        named = [each._replace(path=resolve(each.path)) for each in _reached(parts, previous, syntax)]
        reached = (*named, *in_files(expanded))
        tables = _tables(parts[0], syntax) if len(parts) == 1 else []
        only_tables = bool(tables) and None not in tables
        is_table = only_tables and _WRITTEN_AS_TABLE.match(text) is not None
        found.append(Word(text, reached, is_table, only_tables))
    return found


def places(name: str, found: Sequence[Word]) -> list[Place]:
    """Where a parameter's words name tables, in the order in which Postfix asks them."""
    return [
        Place(name, word, before, each)
        for before, word in zip(["", *(word.text for word in found)], found)
        for each in word.references
    ]


def pointing(value: str, found: Sequence[Word], maps: Sequence[Wanted]) -> tuple[str, list[Fault]]:
    """Have a parameter's value point at our tables, and keep all else that it holds.

    A word that means one of our tables keeps its spelling. One that holds it among others, or as another parameter,
    keeps its place too.

    Args:
        value: The value, as main.cf has it.
        found: Its words.
        maps: Our tables in their order.

    Returns:
        The value: as it is where it reaches these tables already; else with them where the first of them stood, or at
        the end. And the faults of tables that cannot be put right, because another parameter or braces hold them.
    """
    paths = {each.reference.path for each in maps}
    seen = [each for word in found for each in word.references if each.path in paths]
    held = [word for word in found if not word.is_table and _reaches(word, paths)]
    wanted = [each.reference for each in maps]
    negated = any(word.text.startswith("!") for word in held)
    if (seen == wanted and not negated) or (
        held and not negated and len(seen) == len(wanted) and set(seen) == set(wanted)
    ):
        return value, []
    by_path = {each.reference.path: each for each in maps}
    faults = [
        _is_held(by_path[each.path], word, each)
        for word in held
        for each in word.references
        if each.path in paths and (each != by_path[each.path].reference or word.text.startswith("!"))
    ]
    in_held = {each.path for word in held for each in word.references}
    spelling = {word.references[0]: word.text for word in reversed(found) if word.is_table and word.references}
    ours = [spelling.get(each.reference, each.table) for each in maps if each.reference.path not in in_held]
    return joined(value, found, [word for word in found if word.is_table and _reaches(word, paths)], ours), faults


def joined(value: str, found: Sequence[Word], taken_out: Collection[Word], put_in: Sequence[str]) -> str:
    """A value without some of its words, and with others where the first of those stood, or at the end."""
    kept = [word.text for word in found if word not in taken_out]
    start = next((number for number, word in enumerate(found) if word in taken_out), len(kept))
    separator = " " if len(kept) > 1 and "," not in value else ", "
    return separator.join([*kept[:start], *put_in, *kept[start:]])


def without(
    names: Iterable[str],
    own: Collection[str],
    paths: Collection[str],
    values: Mapping[str, str],
    resolve: Callable[[str], str],
) -> dict[str, str]:
    """What parameters become without these tables.

    Args:
        names: The parameters that may be changed.
        own: Parameters of the admin's own that nothing but these refers to: they may be changed too, and are not
            referred to any more once they are empty.
        paths: The real paths of the table files.
        values: Name to value of all parameters.

    Returns:
        Name to new value, of those that change. Braces that hold other tables too stay as they are.
    """
    changed: dict[str, str] = {}
    candidates = dict.fromkeys([*own, *names])
    while True:
        before = dict(changed)
        for name in candidates:
            current = {**values, **changed}
            found = words_of(current.get(name, ""), values, resolve)
            empty = {each for each in own if changed.get(each) == ""}
            gone = [word for word in found if _is_gone(word, paths) or sole_name(word.text) in empty]
            if gone:
                changed[name] = joined(current[name], found, gone, [])
        if changed == before:
            return changed


def _is_gone(word: Word, paths: Collection[str]) -> bool:
    """Whether a word is one of these tables, or braces with no other."""
    if sole_name(word.text) is not None or not word.only_tables:
        return False
    return all(each.path in paths for each in word.references)


def _reaches(word: Word, paths: Collection[str]) -> bool:
    return any(each.path in paths for each in word.references)


def _is_held(wanted: Wanted, word: Word, found: Reference) -> Fault:
    """The fault of a table that is read in another way than pillar says, by a word that is not ours to change."""
    own = sole_name(word.text)
    fix = f"give the map parameter: {own}" if own else f"write {wanted.table} there"
    where = f"{'inside' if found.inside else 'by'} {without_inline(word.text)}"
    return Fault(wanted.key, f"is read as {found.table} {where} in main.cf", fix)
