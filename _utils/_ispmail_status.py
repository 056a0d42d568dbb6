"""One table of all servers of the sites: version, maps, password, state, last apply, faults. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from _ispmail_errors import printable
from _ispmail_rotation import LONGEST_LINE, columns, few, is_texts, mismatches

_HEADER = ("site", "server", "version", "maps", "password", "state", "last apply", "faults", "warnings")
_UNKNOWN = "not known"
_UNITS = ((86400, "d"), (3600, "h"), (60, "min"))


class Answers(NamedTuple):
    """What the servers of a site have said: server to its answer, `checked`; a text or None in place of an answer."""

    version: Mapping[str, Any]
    wanted: Mapping[str, Any]  # fingerprints of the database servers' pillar
    used: Mapping[str, Any]  # fingerprints of the mail servers
    compared: Mapping[str, Any]  # of the mail servers
    found: Mapping[str, Any]  # by the doctor


def is_compared(said: object) -> bool:
    """Whether an answer has the shape of that of `postfix_map.compare`."""
    return (
        isinstance(said, Mapping)
        and isinstance(said.get("due"), bool)
        and is_texts(said.get("faults"))
        and isinstance(said.get("applied"), (int, float, type(None)))
    )


def is_found(said: object) -> bool:
    """Whether an answer has the shape of that of `postfix_doctor.check`."""
    return isinstance(said, list) and all(
        isinstance(each, Mapping) and all(isinstance(each.get(key), str) for key in ("check", "where", "result", "fix"))
        for each in said
    )


def table(sites: Mapping[str, Answers]) -> str:
    """Write the servers of all sites as a table."""
    return columns([_HEADER, *(row for site, answers in sites.items() for row in _rows(site, answers))])


def reasons(sites: Mapping[str, Answers]) -> list[str]:
    """Tell what is wrong, each a sentence; none where all is well. Warnings are only counted in the table."""
    found = [text for answers in sites.values() for text in _faults(answers)]
    return few(dict.fromkeys(printable(text[:LONGEST_LINE]) for text in found))


def _rows(site: str, answers: Answers) -> Iterator[tuple[str, ...]]:
    for server, version in answers.version.items():
        if not isinstance(version, str):
            yield (site, server, "does not answer", *[""] * (len(_HEADER) - 3))
            continue
        counts = [_count(answers.found.get(server), result) for result in ("fault", "warning")]
        maps, password, state, applied = "", "", "", ""
        if server in answers.used:
            used = answers.used[server]
            maps = str(len(used["live"])) if isinstance(used, Mapping) else _UNKNOWN
            password = _password(answers, server)
            state, applied = _state(answers.compared.get(server))
        yield (site, server, printable(version[:LONGEST_LINE]), maps, password, state, applied, *counts)


def _password(answers: Answers, server: str) -> str:
    used = answers.used[server]
    if not isinstance(used, Mapping) or not any(isinstance(said, Mapping) for said in answers.wanted.values()):
        return _UNKNOWN
    return "another" if mismatches(answers.wanted, {server: used}) else "as pillar"


def _state(compared: object) -> tuple[str, str]:
    """Whether an apply would change anything, and when the last good one was."""
    if not isinstance(compared, Mapping):
        return _UNKNOWN, _UNKNOWN
    state = "refused" if compared["faults"] else "differs" if compared["due"] else "correct"
    return state, _ago(compared["applied"])


def _ago(seconds: float | None) -> str:
    if seconds is None:
        return _UNKNOWN
    for size, unit in _UNITS:
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def _count(found: object, result: str) -> str:
    if not isinstance(found, Sequence) or isinstance(found, str):
        return _UNKNOWN
    return str(sum(each["result"] == result for each in found))


def _faults(answers: Answers) -> Iterator[str]:
    for server, version in answers.version.items():
        if not isinstance(version, str):
            yield f"{server}: does not answer"
            continue
        for said in (answers.wanted, answers.used, answers.compared, answers.found):
            if server in said and not isinstance(said[server], (Mapping, list)):
                yield f"{server}: {said[server] or 'did not answer in time'}"
        compared = answers.compared.get(server)
        if isinstance(compared, Mapping):
            yield from (f"{server}: an apply would be refused: {text}" for text in compared["faults"])
            if compared["due"] and not compared["faults"]:
                yield f"{server}: is not as pillar says: apply ispmail there"
        found = answers.found.get(server)
        for each in found if isinstance(found, list) else []:
            if each["result"] == "fault":
                yield f"{server}: {each['check']} ({each['where']}): {each['fix']}"
    yield from mismatches(answers.wanted, answers.used)
