"""Ask the maps of an instance: which cannot be asked, which do not answer as pillar expects."""

from __future__ import annotations

import dataclasses
import os
import re
import time
from collections.abc import Collection, Iterable, Mapping, Sequence

import ispmail_lookup
import ispmail_postconf
from ispmail_config import Answer, CompleteInstance, CompleteMap, Instance, Map
from ispmail_errors import InvalidInput
from ispmail_lookup import COULD_NOT_ASK, Lookup, Probe
from ispmail_maincf import SECRET_PARAMETERS, is_sql_table, path_of, words
from ispmail_tablefile import SECRET, shown_key

# How long to go on looking for more that cannot be asked, after the first, in seconds.
PROBE_SECONDS = 10


def lookup(instance: Instance, name: str, question: str) -> Lookup:
    """Ask one map one question, as Postfix would. Passwords that a relay asks for are never an answer.

    Args:
        name: A map of pillar, or a table that pillar or main.cf names, such as ``mysql:/etc/postfix/a.cf``.

    Raises:
        InvalidInput: It is neither, or the question is not a text of one line.
    """
    if not question or re.search(r"[\n\0\ud800-\udfff]", question):
        raise InvalidInput("the question must be a text of one line")
    table = _named_table(instance, name) if ":" in name else choose(instance, [name])[0].table()
    found = ispmail_lookup.ask(question, [table], instance.config_directory)
    hidden = found.answer is not None and os.path.realpath(path_of(table)) in secret_paths(instance)
    return dataclasses.replace(found, answer=SECRET) if hidden else found


def secret_paths(instance: Instance | CompleteInstance) -> set[str]:
    """The real paths of the tables that hold a relay's passwords, however main.cf and master.cf spell them."""
    values = ispmail_postconf.expanded(SECRET_PARAMETERS, instance.config_directory)
    found = {path for value in values for path in re.findall(r"/[^\s,{}]+", value)}
    found |= {each.path for each in instance.maps if each.parameter in SECRET_PARAMETERS}
    return set(map(os.path.realpath, found))


def choose(instance: Instance, names: Sequence[str] | None) -> list[Map]:
    """Pick maps of pillar by name, those that are null too; None for all.

    Raises:
        InvalidInput: `names` is no list, or pillar names no such map.
    """
    known = {each.name: each for each in instance.maps}
    if names is None:
        return list(instance.maps)
    if not isinstance(names, (list, tuple)):
        raise InvalidInput(f"maps must be a list of names, such as [{next(iter(known), '')}]")
    missing = [shown_key(name) for name in names if not isinstance(name, str) or name not in known]
    if missing:
        raise InvalidInput(f"pillar names no map {', '.join(missing)}: it names {', '.join(known)}")
    return [known[name] for name in names]


def unaskable(
    tables: Mapping[str, str], config_directory: str, in_chroot: bool = False, pass_fds: Collection[int] = ()
) -> tuple[list[str], list[str]]:
    """Probe tables, given by the names of their maps.

    Returns:
        Sentences on those that cannot be asked, and warnings; each with the maps that it is about.
    """
    reasons: dict[str, list[str]] = {}
    warnings: dict[str, list[str]] = {}
    for name, found in probe(tables, config_directory, in_chroot, pass_fds).items():
        for sentence in found.warnings if found.reason is None else [found.reason]:
            (warnings if found.reason is None else reasons).setdefault(sentence, []).append(name)
    return _with_maps(reasons), _with_maps(warnings)


def probe(
    tables: Mapping[str, str], config_directory: str, in_chroot: bool = False, pass_fds: Collection[int] = ()
) -> dict[str, Probe]:
    """Probe tables, given by the names of their maps; in what is said of each, its map stands for the table.

    So maps that fail in the same way have the same reason.
    """
    found = ispmail_lookup.probe(list(tables.values()), config_directory, in_chroot=in_chroot, pass_fds=pass_fds)
    named = {}
    for name, table in tables.items():
        reason, warnings = found[table].reason, found[table].warnings
        reason = None if reason is None else reason.replace(table, name)
        named[name] = Probe(reason, tuple(warning.replace(table, name) for warning in warnings))
    return named


def wrong_answers(
    instance: CompleteInstance,
    tables: Mapping[str, str],
    in_chroot: bool = False,
    pass_fds: Collection[int] = (),
) -> list[str]:
    """Compare the answers that pillar expects of these tables, given by the names of their maps.

    Returns:
        Sentences on those that are not as expected.
    """
    wrong: list[tuple[Answer, Lookup, str]] = []
    left_out = []
    silent: set[str] = set()
    until = time.monotonic() + PROBE_SECONDS
    for expected in instance.answers:
        if silent and time.monotonic() > until:
            left_out = ["the other answers were not checked: that took too long already"]
            break
        table = tables.get(expected.map)
        if table is None or table in silent:
            continue
        found = ispmail_lookup.ask(
            expected.question, [table], instance.config_directory, in_chroot=in_chroot, pass_fds=pass_fds
        )
        if found.result == COULD_NOT_ASK:
            silent.add(table)
        elif _is_expected(found.answer, expected.answer):
            continue
        wrong.append((expected, found, table))
    if not wrong:
        return left_out
    secret = secret_paths(instance)
    hidden = {each.name: os.path.realpath(each.path) in secret for each in instance.maps}
    return [_difference(expected, found, table, hidden[expected.map]) for expected, found, table in wrong] + left_out


def live_tables(maps: Iterable[Map | CompleteMap], proxied: bool = True) -> dict[str, str]:
    """Name of a map to its live table. `proxied`: False where no proxymap runs."""
    return {each.name: each.table(proxied) for each in maps}


def _named_table(instance: Instance, name: str) -> str:
    """A table that pillar or main.cf names. Any other would let a job open a file of its choice."""
    values = ispmail_postconf.get(None, instance.config_directory).values()
    known = {word for value in values for word in words(value)}
    known |= {each.table(proxied) for each in instance.maps for proxied in (True, False)}
    if name not in known or not is_sql_table(name):
        raise InvalidInput(
            "that is not the name of a map in pillar, nor an SQL table that pillar or main.cf names: "
            f"known are {', '.join(each.name for each in instance.maps)}"
        )
    return name


def _with_maps(sentences: Mapping[str, Sequence[str]]) -> list[str]:
    return [f"{', '.join(names)}: {sentence}" for sentence, names in sentences.items()]


def _is_expected(found: str | None, expected: str | bool) -> bool:
    if isinstance(expected, bool):
        return (found is not None) == expected
    # The database may give several rows in any order.
    return found is not None and sorted(found.split(",")) == sorted(expected.split(","))


def _difference(expected: Answer, found: Lookup, table: str, hidden: bool) -> str:
    """A sentence on an answer that is not as expected."""

    def shown(answer: str) -> str:
        return SECRET if hidden else repr(answer)

    if isinstance(expected.answer, bool):
        wanted = "any answer" if expected.answer else "no answer"
    else:
        wanted = shown(expected.answer)
    if found.reason is not None:
        got = f"could not ask: {found.reason.replace(table, expected.map)}"
    else:
        got = "no answer" if found.answer is None else shown(found.answer)
    return f"{expected.map}: {expected.question} should give {wanted}, but gives {got}"
