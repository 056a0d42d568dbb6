"""What the doctor finds: a finding as a value, and the table for people. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import NamedTuple

from _ispmail_errors import InvalidInput, plural

OK, WARNING, FAULT = "ok", "warning", "fault"
_HEADER = ("result", "check", "where", "fix")
_NARROWEST = 60
_WIDEST = 1000


class Finding(NamedTuple):
    """What one check found in one place."""

    check: str  # what should hold
    where: str
    result: str  # ok, warning or fault
    fix: str  # what was found instead, and what to do; empty where the check holds


def fault_if(fix: str, check: str, where: str) -> Finding:
    """A fault where there is something to fix; else the check holds."""
    return Finding(check, where, FAULT if fix else OK, fix)


def warning_if(fix: str, check: str, where: str) -> Finding:
    """A warning where there is something to fix; else the check holds."""
    return Finding(check, where, WARNING if fix else OK, fix)


def check_width(width: object) -> None:
    """Refuse a width in which the table cannot be written.

    Raises:
        InvalidInput: It is no number from 60 to 1000.
    """
    if not isinstance(width, int) or not _NARROWEST <= width <= _WIDEST:
        raise InvalidInput(f"width must be a number, {_NARROWEST} or more and {_WIDEST} at the most")


def table(findings: Sequence[Finding], width: int) -> str:
    """Write findings as one table: faults first, then warnings, then one line for each check that holds.

    Args:
        width: How many columns the text may take, see `check_width`.

    Returns:
        A text; its last line has the counts.
    """
    bad = [each for result in (FAULT, WARNING) for each in findings if each.result == result]
    holds: dict[str, list[str]] = {}
    for each in findings:
        if each.result == OK:
            holds.setdefault(each.check, []).append(each.where)
    widths = _widths(findings, bad, width)
    lines = [*_row(_HEADER, widths), "  ".join("-" * column for column in widths)]
    for each in bad:
        lines += _row((each.result, each.check, each.where, each.fix), widths)
    for check, places in holds.items():
        # There is nothing to fix, so the places take that column too.
        lines += _row((OK, check, "; ".join(dict.fromkeys(places))), (*widths[:2], widths[2] + 2 + widths[3]))
    return "\n".join([*lines, "", _counts(findings)])


def _widths(findings: Sequence[Finding], bad: Sequence[Finding], width: int) -> tuple[int, int, int, int]:
    """How wide each column is. There are two blanks between columns; the fix gets what the others do not need."""
    result = max(len(text) for text in (_HEADER[0], *(each.result for each in findings)))
    rest = width - result - 6
    check = max(len(text) for text in (_HEADER[1], *(each.check for each in findings)))
    check = min(check, rest * 3 // 10)
    where = max([rest // 5, *(min(len(word), rest // 3) for each in bad for word in each.where.split())])
    return result, check, where, rest - check - where


def _row(cells: Sequence[str], widths: Sequence[int]) -> list[str]:
    """One row of the table, in as many lines as its longest cell takes."""
    columns = [_wrapped(text, width) for text, width in zip(cells, widths)]
    return [
        "  ".join(_line(column, number).ljust(width) for column, width in zip(columns, widths)).rstrip()
        for number in range(max(map(len, columns)))
    ]


def _wrapped(text: str, width: int) -> list[str]:
    return [line for part in text.split("\n") for line in textwrap.wrap(part, width, break_on_hyphens=False) or [""]]


def _line(lines: Sequence[str], number: int) -> str:
    return lines[number] if number < len(lines) else ""


def _counts(findings: Sequence[Finding]) -> str:
    faults, warnings, holds = (len([each for each in findings if each.result == one]) for one in (FAULT, WARNING, OK))
    return f"{plural(faults, 'fault')}, {plural(warnings, 'warning')}, {plural(holds, 'check')} ok"
