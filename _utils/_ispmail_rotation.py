"""A rotation in words. Pure.

While it runs: lines and events, from the events on the master's bus, which any minion can forge. Afterwards: a table of
the servers, whose password was dropped, and why it failed, from what the orchestration has returned.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from _ispmail_errors import printable

# The SLS of the step that each mail server takes on its own.
_DRAINED = "ispmail.drained"
# How salt/orch/rotate.sls names that step, and the last one, at the database.
_TAKES, _DROPPED = "takes the new password", "The old password is dropped"
# The steps that are the runner's own.
_STEPS = {
    "ispmail.holders": "Nobody holds the password unless pillar names it",
    "ispmail.prove": "Every server is seen to use the new password",
}
_WAITED = "One or more requisite failed"
# What Salt says of the servers of a step whose states have changed nothing: it returns none of them.
_UNCHANGED = re.compile(r"(?s) No changes made to (.+)\.\Z")
_HEADER = ("site", "server", "result", "seconds", "what was done")
# How many characters of what a server said are shown.
_LONGEST = 160
_SILENT, _STRANGE = "does not answer", "did not answer what was asked"
# What Salt puts in the place of a return that is larger than max_event_size, and what is said then.
_TRIMMED = "VALUE_TRIMMED"
_TOO_LARGE = "answered more than the master takes (max_event_size): run the same function there with salt-call"
# How many lines are kept of what servers said, how many characters of each, and how many servers of a step.
MOST_LINES, LONGEST_LINE, _MOST_SERVERS = 500, 500, 5000


class Step(NamedTuple):
    """What has ended: a step of the runner, or one server of a step."""

    site: str
    step: str
    result: bool
    seconds: float
    said: str  # what was reported, for people
    server: str = ""  # empty: a step of the runner
    number: int = 0  # which of the servers it is, in the order in which they end
    of: int = 0

    def describe(self) -> str:
        """Write it as one line."""
        who = f": {self.server} ({self.number} of {self.of})" if self.server else ""
        ended = "ok" if self.result else "failed"
        said = f": {self.said}" if self.said else ""
        return f"{self.site}: {self.step}{who}: {ended} after {self.seconds:.1f} s{said}"

    def event(self) -> dict[str, Any]:
        """The data of the event that tells of it."""
        found: dict[str, Any] = {"site": self.site, "step": self.step, "result": self.result}
        found.update(seconds=round(self.seconds, 1), comment=self.said)
        if self.server:
            found.update(server=self.server, number=self.number, of=self.of)
        return found


@dataclass
class _Begun:
    """The step that is under way."""

    site: str = ""
    step: str = ""
    function: str = ""  # of the runner, or the SLS
    servers: Sequence[str] = ()
    began: float = 0.0
    job: str = ""  # the id of its job, once it is known
    ended: dict[str, Step] = field(default_factory=dict)


class Progress:
    """Follows one orchestration from the events on the master's bus.

    An orchestration itself tells only when a step begins. A step ends with the returns of its jobs.
    """

    def __init__(self, job: str, sites: Mapping[str, Sequence[str]]) -> None:
        """Nothing has begun yet.

        Args:
            job: The id of the orchestration's job.
            sites: Site to its mail servers.
        """
        self._job = job
        self._sites = sites
        self._now = _Begun()
        self._taken: dict[str, int] = {}  # site to how many of its servers have taken the password

    def hear(self, tag: str, data: object, now: float) -> list[Step]:
        """Take an event; return what has ended by it.

        Args:
            now: When it came, in seconds.
        """
        if not isinstance(data, Mapping):
            return []
        if tag == f"salt/run/{self._job}/args":
            silent = self.finish(now)
            self._now = _begun(data, now)
            return silent
        begun = self._now
        is_runners = begun.step and not begun.servers
        if is_runners and re.fullmatch(r"salt/run/\d+/ret", tag) and data.get("fun") == f"runner.{begun.function}":
            first = _first(data.get("fun_args"))
            is_own = isinstance(first, Mapping) and first.get("site") == begun.site
            return [self._ended_step(data, now)] if is_own else []
        job = re.fullmatch(r"salt/job/(\d+)/(new|ret/.+)", tag)
        return self._hear_job(job[1], job[2] == "new", data, now) if job else []

    def _hear_job(self, job: str, is_new: bool, data: Mapping[str, Any], now: float) -> list[Step]:
        """Take an event of a job. The first job that may be the step's is it, and no other one."""
        begun = self._now
        if _first(data.get("arg" if is_new else "fun_args")) != begun.function or begun.job not in ("", job):
            return []
        server = str(data.get("id"))
        if is_new:
            begun.job = job if data.get("tgt") == begun.servers else begun.job
        # A minion sends its return again where the master is slow to take it.
        elif server in begun.servers and server not in begun.ended:
            begun.job = job
            return [self._ended_server(server, data.get("return"), now)]
        return []

    def finish(self, now: float) -> list[Step]:
        """End the step that is under way: those that have not returned do not answer."""
        return [self._ended_server(server, [_SILENT], now) for server in self.waiting]

    @property
    def waiting(self) -> list[str]:
        """The servers of the step that is under way that have not returned."""
        return [server for server in self._now.servers if server not in self._now.ended]

    def _ended_step(self, data: Mapping[str, Any], now: float) -> Step:
        returned = data.get("return")
        said = "; ".join(map(str, returned)) if isinstance(returned, list) else ""
        begun = self._now
        self._now = _Begun()
        return Step(begun.site, begun.step, data.get("success") is True, now - begun.began, _cut(said))

    def _ended_server(self, server: str, returned: object, now: float) -> Step:
        begun = self._now
        number, of = len(begun.ended) + 1, len(begun.servers)
        if begun.function == _DRAINED:
            number = self._taken[begun.site] = self._taken.get(begun.site, 0) + 1
            of = len(self._sites.get(begun.site, ()))
        step = Step(begun.site, begun.step, _is_good(returned), now - begun.began, _told(returned), server, number, of)
        begun.ended[server] = step
        return step


def table(sites: Mapping[str, Sequence[str]], returned: object) -> str:
    """Write the mail servers of all sites as a table.

    Args:
        sites: Site to its mail servers.
        returned: What the states of the orchestration have returned.
    """
    rows: list[tuple[str, ...]] = [_HEADER]
    for site, servers in sites.items():
        taken: dict[str, object] = {}
        correct: set[str] = set()
        for step, state in _steps(site, returned):
            if step.endswith(f" {_TAKES}"):
                taken.update(_mapping(_mapping(state.get("changes")).get("ret")))
                found = _UNCHANGED.search(str(state.get("comment")))
                correct.update(found[1].split(", ") if found else ())
        for server in servers:
            if server in taken:
                states = taken[server]
                result = "ok" if _is_good(states) else "failed"
                rows.append((site, server, result, f"{_seconds(states):.1f}", _told(states or [_SILENT])))
            elif server in correct:
                rows.append((site, server, "ok", "", "nothing had to be changed"))
            else:
                rows.append((site, server, "not changed", "", ""))
    return columns(rows)


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Write rows as a text, the first one as their head."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = [rows[0], ["-" * width for width in widths], *rows[1:]]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip() for row in lines)


def dropped(sites: Iterable[str], returned: object) -> list[str]:
    """List the sites whose old password was dropped, from what the states of the orchestration have returned."""
    return [
        site
        for site in sites
        if any(step == _DROPPED and state.get("result") is True for step, state in _steps(site, returned))
    ]


def reasons(returned: object) -> list[str]:
    """Tell why an orchestration failed, from what its states have returned: they hold those of the servers."""
    if isinstance(returned, list):
        return few(_lines(*returned))
    found: list[str] = []
    for state in _failed(returned):
        changes = _mapping(state.get("changes"))
        inner = _lines(*changes["return"]) if isinstance(changes.get("return"), list) else []
        for server, states in _mapping(changes.get("ret")).items():
            lines = (
                _lines(*states)
                if isinstance(states, list)
                else [line for each in _failed(states) for line in _comment(each)]
            )
            inner += [f"{server}: {line}" for line in lines or ([] if _is_good(states) else [_SILENT])]
        found += inner or _comment(state)
    return few(found)


def few(lines: Iterable[str]) -> list[str]:
    """Keep so many lines that a person may read them, and an event may carry them."""
    found = list(lines)
    more = len(found) - MOST_LINES
    return found if more <= 0 else [*found[:MOST_LINES], f"... and {more} more"]


def checked(answers: Mapping[str, object], is_right: Callable[[object], bool]) -> dict[str, object]:
    """Replace answers of a wrong shape by a sentence. What a server cannot be asked it says in a text of its own."""
    return {server: _checked(said, is_right) for server, said in answers.items()}


def _checked(said: object, is_right: Callable[[object], bool]) -> object:
    parts = said.values() if isinstance(said, Mapping) else [said]
    if _TRIMMED in parts:
        return _TOO_LARGE
    if isinstance(said, str):
        return said[:LONGEST_LINE]
    return said if said is None or said is False or is_right(said) else _STRANGE


def is_prints(said: object) -> bool:
    """Whether an answer has the shape of that of `postfix_map.fingerprints`, with the table files or without."""
    return isinstance(said, Mapping) and all(
        isinstance(found, Mapping)
        and all(isinstance(key, str) and isinstance(value, (str, type(None))) for key, value in found.items())
        for found in (said.get("pillar"), said.get("live", {}))
    )


def is_live_prints(said: object) -> bool:
    """The same, with the table files."""
    return is_prints(said) and "live" in _mapping(said)


def is_logins(said: object) -> bool:
    """Whether an answer has the shape of that of `postfix_database.refused`."""
    return isinstance(said, list) and all(
        isinstance(login, Mapping) and isinstance(login.get("host"), str) and is_texts(login.get("maps"))
        for login in said
    )


def is_texts(said: object) -> bool:
    """Whether an answer is a list of texts."""
    return isinstance(said, list) and all(isinstance(each, str) for each in said)


def is_holders(said: object) -> bool:
    """Whether an answer has the shape of that of `postfix_database.holders`."""
    return (
        isinstance(said, Mapping)
        and isinstance(said.get("unnamed"), list)
        and all(isinstance(each, Mapping) and isinstance(each.get("text"), str) for each in said["unnamed"])
        and is_texts(said.get("notes"))
        and is_texts(said.get("connections", []))
    )


def is_change(said: object) -> bool:
    """Whether an answer has the shape of that of `postfix_database.credential_accepted`."""
    return isinstance(said, Mapping) and isinstance(said.get("changes"), Mapping)


def is_server(said: object) -> bool:
    """Whether an answer has what is read here of that of `postfix_database.read`: passwords and locks of accounts."""
    return isinstance(said, Mapping) and all(
        isinstance(said.get(key), Mapping)
        and all(isinstance(each, Mapping) and needed <= set(each) for each in said[key].values())
        for key, needed in (("accounts", {"managed", "passwords", "locked"}), ("pair", {"locked"}))
    )


def mismatches(wanted: Mapping[str, Any], used: Mapping[str, Any], live: bool = True) -> list[str]:
    """Tell whose passwords differ from the one in the database servers' pillar.

    Args:
        wanted: Database server to its fingerprints, `checked`.
        used: Mail server to its fingerprints, or what it said in place of them.
        live: Whether the table files count too.
    """
    answered = [said for said in wanted.values() if isinstance(said, dict)]
    passwords = {value for said in answered for value in said["pillar"].values()}
    if answered and (len(passwords) != 1 or None in passwords):
        return [f"{', '.join(wanted)}: pillar does not have one password for all maps of the account"]
    faults = []
    for server, said in used.items():
        for where, subject in (("pillar", "pillar has"), ("live", "the table file has")):
            values = said[where].items() if isinstance(said, dict) and (live or where == "pillar") else []
            others = [name for name, value in values if value not in passwords]
            if others:
                faults.append(f"{server}: {subject} another user or password for {', '.join(others)}, or none")
        if isinstance(said, dict) and live and not said["live"]:
            faults.append(f"{server}: none of its maps logs in with the account of ispmail:database")
    return faults if answered else []


def unanswered(answers: Mapping[str, object], kind: type) -> list[str]:
    """Tell which servers did not answer, or not what was asked."""
    return [
        f"{server}: {said if isinstance(said, str) else _SILENT}"
        for server, said in answers.items()
        if not isinstance(said, kind)
    ]


def unnamed(answers: Mapping[str, object]) -> list[str]:
    """Tell what servers found that nobody has named, from what `postfix_database.holders` returned, `checked`."""
    return [
        f"{server}: {holder['text'][:LONGEST_LINE]}"
        for server, said in answers.items()
        for holder in (said.get("unnamed", []) if isinstance(said, Mapping) else [])
    ]


def _begun(data: Mapping[str, Any], now: float) -> _Begun:
    """The step that an event of an orchestration tells of."""
    name = str(data.get("name"))
    if data.get("type") == "runner":
        site = str(_mapping(data.get("kwargs")).get("site"))
        return _Begun(site, _STEPS.get(name, name), name, began=now)
    step, _, site = name.rpartition(" in ")
    sls = _first(_mapping(data.get("args")).get("arg"))
    servers = data.get("tgt")
    known = servers[:_MOST_SERVERS] if isinstance(servers, list) else []
    return _Begun(site, step, str(sls), [server for server in known if isinstance(server, str)], now)


def _steps(site: str, returned: object) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The steps of a site, and what the state of each has returned."""
    for key, state in _mapping(returned).items():
        # The module, the ID, the name and the function.
        name = (*str(key).split("_|-"), "")[1]
        if name.endswith(f" in {site}") and isinstance(state, Mapping):
            yield name.removesuffix(f" in {site}"), state


def _is_good(returned: object) -> bool:
    """Whether states were run, and all were good."""
    states = _mapping(returned)
    return bool(states) and all(isinstance(state, Mapping) and state.get("result") for state in states.values())


def _failed(returned: object) -> list[Mapping[str, Any]]:
    """The states that failed."""
    states = _mapping(returned).values()
    return [state for state in states if isinstance(state, Mapping) and state.get("result") is False]


def _comment(state: Mapping[str, Any]) -> list[str]:
    """Why a state failed. One that only waited for a failed one has nothing to add."""
    comment = str(state.get("comment") or "failed, and does not tell why")
    return [] if _WAITED in comment else _lines(comment)


def _lines(*texts: object) -> list[str]:
    """The lines of texts that servers wrote, without what a terminal would act on."""
    return [printable(line[:LONGEST_LINE]) for text in texts if text for line in str(text).splitlines() if line.strip()]


def _seconds(returned: object) -> float:
    """How long states took."""
    times = [_mapping(state).get("duration") for state in _mapping(returned).values()]
    return sum(time for time in times if isinstance(time, (int, float))) / 1000


def _told(returned: object) -> str:
    """What states, or a list of sentences in place of them, tell; for one line."""
    if isinstance(returned, Mapping):
        return _cut("; ".join(_said(returned)))
    return _cut("; ".join(map(str, returned if isinstance(returned, list) else [returned])))


def _said(states: Mapping[str, Any]) -> Iterable[str]:
    """What our own states reported."""
    for key, state in states.items():
        if str(key).startswith("postfix_") and isinstance(state, Mapping) and _WAITED not in str(state.get("comment")):
            yield from str(state.get("comment", "")).splitlines()


def _mapping(value: object) -> Mapping[Any, Any]:
    """A mapping; an empty one in place of what is none."""
    return value if isinstance(value, Mapping) else {}


def _first(value: object) -> object:
    """The first of a list; None where there is none."""
    return value[0] if isinstance(value, (list, tuple)) and value else None


def _cut(text: str) -> str:
    return printable(text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…")
