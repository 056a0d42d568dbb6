"""A rotation as the master's events tell of it: lines, events, a table of servers, and why it failed. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# The SLS of the step that each mail server takes on its own, and of the last one, at the database.
_DRAINED, _SOLE = "ispmail.drained", "ispmail.credential_sole"
# The steps that are the runner's own.
_STEPS = {
    "ispmail.holders": "Nobody holds the password unless pillar names it",
    "ispmail.prove": "Every server is seen to use the new password",
}
_WAITED = "One or more requisite failed"
_HEADER = ("site", "server", "result", "seconds", "what was done")
# How many characters of what a server said are shown.
_LONGEST = 160


@dataclass(frozen=True)
class Step:
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
        self._mail: dict[tuple[str, str], Step] = {}
        self._sole: dict[str, list[bool]] = {}

    def hear(self, tag: str, data: Mapping[str, Any], now: float) -> list[Step]:
        """Take an event; return what has ended by it.

        Args:
            now: When it came, in seconds.
        """
        if tag == f"salt/run/{self._job}/args":
            silent = self.finish(now)
            self._now = _begun(data, now)
            return silent
        arguments = data.get("fun_args") or [None]
        if re.fullmatch(r"salt/run/\d+/ret", tag) and data.get("fun") == f"runner.{self._now.function}":
            is_own = isinstance(arguments[0], Mapping) and arguments[0].get("site") == self._now.site
            return [self._ended_step(data, now)] if is_own else []
        if re.fullmatch(r"salt/job/\d+/ret/.+", tag) and arguments[0] == self._now.function:
            server = str(data.get("id"))
            # A minion sends its return again where the master is slow to take it.
            if server in self._now.servers and server not in self._now.ended:
                return [self._ended_server(server, data.get("return"), now)]
        return []

    def finish(self, now: float) -> list[Step]:
        """End the step that is under way: those that have not returned do not answer."""
        silent = [server for server in self._now.servers if server not in self._now.ended]
        return [self._ended_server(server, ["does not answer"], now) for server in silent]

    def dropped(self) -> list[str]:
        """The sites whose old password was dropped."""
        return [site for site, results in self._sole.items() if all(results)]

    def table(self) -> str:
        """Write all mail servers as a table."""
        rows: list[tuple[str, ...]] = [_HEADER]
        for site, servers in self._sites.items():
            for server in servers:
                step = self._mail.get((site, server))
                if step is None:
                    rows.append((site, server, "not reached", "", ""))
                else:
                    rows.append((site, server, "ok" if step.result else "failed", f"{step.seconds:.1f}", step.said))
        widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
        rows.insert(1, tuple("-" * width for width in widths))
        return "\n".join("  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip() for row in rows)

    def _ended_step(self, data: Mapping[str, Any], now: float) -> Step:
        returned = data.get("return")
        said = "; ".join(map(str, returned)) if isinstance(returned, list) else ""
        begun = self._now
        self._now = _Begun()
        return Step(begun.site, begun.step, data.get("success") is True, now - begun.began, _cut(said))

    def _ended_server(self, server: str, returned: object, now: float) -> Step:
        begun = self._now
        states = returned if isinstance(returned, Mapping) else {}
        result = bool(states) and all(state.get("result") for state in states.values())
        said = "; ".join(_said(states) if states else map(str, returned if isinstance(returned, list) else [returned]))
        number, of = len(begun.ended) + 1, len(begun.servers)
        if begun.function == _DRAINED:
            number = sum(1 for site, _ in self._mail if site == begun.site) + 1
            of = len(self._sites.get(begun.site, ()))
        step = Step(begun.site, begun.step, result, now - begun.began, _cut(said), server, number, of)
        begun.ended[server] = step
        if begun.function == _DRAINED:
            self._mail[begun.site, server] = step
        if begun.function == _SOLE:
            self._sole.setdefault(begun.site, []).append(result)
        return step


def reasons(returned: object) -> list[str]:
    """Tell why states failed, from what a run of them returned: those of an orchestration hold those of its servers."""
    if not isinstance(returned, Mapping):
        return [str(line) for line in returned if line] if isinstance(returned, list) else []
    found: list[str] = []
    for state in returned.values():
        if not isinstance(state, Mapping) or state.get("result") is not False:
            continue
        changes = state.get("changes") or {}
        inner = reasons(changes.get("return"))
        for server, states in (changes.get("ret") or {}).items():
            inner += [f"{server}: {reason}" for reason in reasons(states) or ["does not answer"]]
        # A state that only waited for a failed one has nothing to add.
        outer = [] if _WAITED in state["comment"] else [state["comment"]]
        found += inner or outer
    return found


def mismatches(wanted: Mapping[str, Any], used: Mapping[str, Any], live: bool = True) -> list[str]:
    """Tell whose passwords differ from the one in the database servers' pillar.

    Args:
        wanted: Database server to its fingerprints.
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
                faults.append(f"{server}: {subject} another password for {', '.join(others)}, or none")
        if isinstance(said, dict) and live and not said["live"]:
            faults.append(f"{server}: none of its maps logs in with the account of ispmail:database")
    return faults if answered else []


def unanswered(answers: Mapping[str, object], kind: type) -> list[str]:
    """Tell which servers did not answer, or not what was asked."""
    return [
        f"{server}: {said if isinstance(said, str) else 'does not answer'}"
        for server, said in answers.items()
        if not isinstance(said, kind)
    ]


def unnamed(answers: Mapping[str, object]) -> list[str]:
    """Tell what servers found that nobody has named, from what `postfix_database.holders` returned."""
    return [
        f"{server}: {holder['text']}"
        for server, said in answers.items()
        for holder in (said.get("unnamed", []) if isinstance(said, Mapping) else [])
    ]


def _begun(data: Mapping[str, Any], now: float) -> _Begun:
    """The step that an event of an orchestration tells of."""
    name = str(data.get("name"))
    if data.get("type") == "runner":
        site = str((data.get("kwargs") or {}).get("site"))
        return _Begun(site, _STEPS.get(name, name), name, began=now)
    step, _, site = name.rpartition(" in ")
    sls = ((data.get("args") or {}).get("arg") or [""])[0]
    return _Begun(site, step, str(sls), list(data.get("tgt") or ()), now)


def _said(states: Mapping[str, Any]) -> Iterable[str]:
    """What our own states reported."""
    for key, state in states.items():
        if key.startswith("postfix_") and isinstance(state, Mapping) and _WAITED not in str(state.get("comment")):
            yield from str(state.get("comment", "")).splitlines()


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
