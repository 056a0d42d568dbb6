"""Expand ``$name`` in main.cf values, as Postfix does, see postconf(5). Pure.

`postconf -x` does the same, but only for whole parameters: not for one word of a value, and not for a value that is
about to be written.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from _ispmail_errors import repr_without
from _ispmail_maincf import BLANKS

# Values that refer to each other in a circle are fatal to Postfix: here, an expansion ends somewhere.
_DEEPEST, _MOST = 100, 10_000  # names inside each other, as in Postfix; names and $$ together
_CLOSING = {"{": "}", "(": ")"}
_OPERATORS = ("==", "!=", "<=", ">=", "<", ">")
# What each process of Postfix sets for itself, whatever main.cf says: its name, its service's, and by master(8) whether
# there are too many clients, see STRESS_README. What postconf prints of them is its own.
OF_A_PROCESS = frozenset(["process_id", "process_name", "service_name", "stress"])
# What Postfix 3.11 makes of a domain: itself, where it is of ASCII. To older ones they are fatal.
_FUNCTIONS = frozenset(["domain_to_ascii", "domain_to_utf8"])
_NUMBER = re.compile("[0-9]{1,18}")  # longer ones are fatal to Postfix


class _Values(NamedTuple):
    """What names stand for, and how much more may be expanded."""

    values: Mapping[str, str]
    depth: int
    left: list[int]  # one number, that of all values of an expansion
    doubts: list[str]  # the names so far of which only a process of Postfix knows the value

    def __repr__(self) -> str:
        return repr_without(self, "values")

    def inside(self) -> _Values:
        """The same, for the value of a name."""
        return self._replace(depth=self.depth - 1)


def expand(text: str, values: Mapping[str, str]) -> str:
    """Put values in place of ``$name``, ``${name}``, ``$(name)``, ``${name?…}``, ``${name:…}`` and ``${{…} == {…}?…}``.

    Args:
        values: Name to value, not expanded; a name that is not there has an empty value.

    Returns:
        The text; what Postfix would refuse is left as it is, or out. Both texts of a choice by what only a process of
        Postfix knows, see `doubts_of`.
    """
    return _expanded(text, _values(values)) if "$" in text else text


def doubts_of(text: str, values: Mapping[str, str]) -> list[str]:
    """The names by which a text is another one in each process of Postfix: OF_A_PROCESS without a known value."""
    known = _values(values)
    _expanded(text, known)
    return list(dict.fromkeys(known.doubts))


def _values(values: Mapping[str, str]) -> _Values:
    return _Values(values, _DEEPEST, [_MOST], [])


def _expanded(text: str, values: _Values) -> str:
    found, position = [], 0
    while values.depth and values.left[0] and (dollar := text.find("$", position)) >= 0:
        values.left[0] -= 1
        found.append(text[position:dollar])
        if text.startswith("$$", dollar):
            found.append("$")
            position = dollar + 2
            continue
        body, position = _reference(text, dollar + 1)
        found.append(text[dollar:position] if body is None else _value(body, values.inside()))
    return "".join(found) + text[position:]


def names_in(text: str) -> list[str]:
    """The names that a value refers to, at any depth of its braces."""
    return re.findall(rf"\$[({{]?[{BLANKS}]*(\w+)", text)


def referred(names: Iterable[str], values: Mapping[str, str]) -> set[str]:
    """These parameters, and all that their values refer to, directly or by each other.

    Args:
        values: Of main.cf, and of options in master.cf, as ``submission/inet/virtual_alias_maps``.
    """
    found: set[str] = set()
    new = set(names)
    while new:
        found |= new
        given = (value for name, value in values.items() if name.rpartition("/")[2] in new)
        new = {name for value in given for name in names_in(value)} - found
    return found


def sole_name(word: str) -> str | None:
    """The name in a word that is one reference and nothing else, such as ``$name`` or ``${name}``."""
    found = re.fullmatch(r"\$(?:(\w+)|\{(\w+)\}|\((\w+)\))", word)
    return next(filter(None, found.groups())) if found else None


def _reference(text: str, start: int) -> tuple[str | None, int]:
    """What a ``$`` refers to, and where that ends; None where there is nothing that Postfix would take."""
    if start < len(text) and text[start] in _CLOSING:
        end = _end_of_group(text, start)
        return (None, len(text)) if end is None else (text[start + 1 : end], end + 1)
    name = re.compile(r"[A-Za-z0-9_]+").match(text, start)
    return (name[0], name.end()) if name else (None, start)


def _end_of_group(text: str, start: int) -> int | None:
    """Where the group that opens there is closed; None if it is not."""
    opening, level = text[start], 0
    for position in range(start, len(text)):
        if text[position] == opening:
            level += 1
        elif text[position] == _CLOSING[opening]:
            level -= 1
            if level == 0:
                return position
    return None


def _value(body: str, values: _Values) -> str:
    body = body.lstrip(BLANKS)
    if body.startswith("{"):
        return _compared(body, values)
    name = re.split(r"\W", body)[0]
    rest = body[len(name) :].lstrip(BLANKS)
    if name in _FUNCTIONS and rest.startswith("{"):
        return _expanded(_argument(rest)[0], values)
    earlier = len(values.doubts)
    if name in OF_A_PROCESS and name not in values.values:
        values.doubts.append(name)
    value = _expanded(values.values.get(name, ""), values)
    return _chosen(rest, bool(value), len(values.doubts) > earlier, values) if rest else value


def _compared(body: str, values: _Values) -> str:
    """The value of ``{a} == {b} ? {x} : {y}``."""
    left, rest = _argument(body)
    operator = next((each for each in _OPERATORS if rest.startswith(each)), "")
    rest = rest[len(operator) :]
    by_level = rest.startswith("level")
    right, rest = _argument(rest.removeprefix("level"))
    earlier = len(values.doubts)
    sides = (_expanded(left, values), _expanded(right, values))
    holds = _holds(operator, *sides, by_level=by_level)
    return _chosen(rest, holds, len(values.doubts) > earlier, values) if rest else ("true" if holds else "")


def _holds(operator: str, left: str, right: str, by_level: bool) -> bool:
    if by_level:
        order = _order(_level(left), _level(right))
    elif _NUMBER.fullmatch(left) and _NUMBER.fullmatch(right):
        order = _order(int(left), int(right))
    else:
        order = _order(left, right)
    return {"==": order == 0, "!=": order != 0, "<": order < 0, "<=": order <= 0, ">": order > 0, ">=": order >= 0}.get(
        operator, False
    )


def _order(left: Any, right: Any) -> int:
    return int(left > right) - int(left < right)


def _level(text: str) -> tuple[int, ...]:
    """A compatibility level, major.minor.patch, as numbers."""
    numbers = map(int, _NUMBER.findall(text))
    return tuple([*numbers, 0, 0][:3])


def _chosen(rest: str, condition: bool, is_doubtful: bool, values: _Values) -> str:
    """What stands behind ``?`` and ``:``, as the condition chooses; both where nobody knows whether it holds."""
    if rest.startswith(":"):
        first, others = "", rest
    else:
        first, others = _argument(rest[1:])
    second = _argument(others[1:])[0] if others.startswith(":") else ""
    chosen = [first, second] if is_doubtful else [first if condition else second]
    return " ".join(_expanded(each, values) for each in chosen)


def _argument(text: str) -> tuple[str, str]:
    """A text in braces, or all of a text without, and what follows it. Blanks count, but for those round the braces."""
    found = text.lstrip(BLANKS)
    end = _end_of_group(found, 0) if found.startswith("{") else None
    return (text, "") if end is None else (found[1:end], found[end + 1 :].lstrip(BLANKS))
