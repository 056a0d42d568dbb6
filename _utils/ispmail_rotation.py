"""A rotation as the master's event bus tells of it: what has ended, how long it took, and a table of servers. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# The SLS of the step that each mail server takes on its own.
_DRAINED = "ispmail.drained"
_WAITED = "One or more requisite failed"
_HEADER = ("site", "server", "result", "seconds", "what was done")
# How many characters of what a server said are shown, in a line and in the table.
_LONGEST = 160


@dataclass(frozen=True)
class Step:
    """What has ended: a step of a rotation, or one server of a step."""

    site: str
    step: str
    result: bool
    seconds: float
    said: str  # what the servers reported, for people
    server: str = ""  # empty: the step as a whole
    number: int = 0  # which of the site's mail servers it is, in the order in which they end
    of: int = 0

    def describe(self) -> str:
        """Write it as one line."""
        ended = "ok" if self.result else "failed"
        what = f"{self.server} ({self.number} of {self.of})" if self.server else self.step
        return f"{self.site}: {what}: {ended} after {self.seconds:.1f} s{f': {self.said}' if self.said else ''}"

    def event(self) -> dict[str, Any]:
        """The data of the event that tells of it."""
        found: dict[str, Any] = {"site": self.site, "step": self.step, "result": self.result}
        found.update(seconds=round(self.seconds, 1), comment=self.said)
        if self.server:
            found.update(server=self.server, number=self.number, of=self.of)
        return found


class Progress:
    """Follows one orchestration from its events."""

    def __init__(self, job: str, sites: Mapping[str, Sequence[str]]) -> None:
        """Nothing has begun yet.

        Args:
            job: The id of the orchestration's job.
            sites: Site to its mail servers.
        """
        self._job = job
        self._sites = sites
        self._asked: list[str] = []
        self._step = ""
        self._began = 0.0
        self._done: dict[tuple[str, str], Step] = {}
        self.steps: list[Step] = []

    def hear(self, tag: str, data: Mapping[str, Any], now: float) -> Step | None:
        """Take an event of the master's bus; return what has ended by it.

        Args:
            now: When the event came, in seconds.
        """
        if tag == f"salt/run/{self._job}/args":
            self._asked, self._step, self._began = list(data.get("tgt") or ()), str(data.get("name")), now
            return None
        if tag.startswith(f"salt/state_result/{self._job}/"):
            return self._kept(_ended_step(data.get("ret") or {}))
        if re.fullmatch(r"salt/job/\d+/ret/.+", tag) and (data.get("fun_args") or [None])[0] == _DRAINED:
            return self._kept(self._ended_server(str(data.get("id")), data.get("return"), now))
        return None

    def dropped(self) -> list[str]:
        """The sites whose old password was dropped."""
        return [step.site for step in self.steps if step.result and not step.server and step.step.startswith("The old")]

    def table(self) -> str:
        """Write all mail servers as a table."""
        rows: list[tuple[str, ...]] = [_HEADER]
        for site, servers in self._sites.items():
            for server in servers:
                step = self._done.get((site, server))
                if step is None:
                    rows.append((site, server, "not reached", "", ""))
                else:
                    rows.append((site, server, "ok" if step.result else "failed", f"{step.seconds:.1f}", step.said))
        widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
        rows.insert(1, tuple("-" * width for width in widths))
        return "\n".join("  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip() for row in rows)

    def _ended_server(self, server: str, returned: object, now: float) -> Step | None:
        site = _site(self._step)
        # A minion sends its return again where the master is slow to take it.
        if server not in self._asked or (site, server) in self._done:
            return None
        states = returned if isinstance(returned, Mapping) else {}
        result = bool(states) and all(state.get("result") for state in states.values())
        servers = self._sites.get(site, ())
        number = sum(1 for known, _ in self._done if known == site) + 1
        said = "; ".join(_said(states)) or "no states: " + str(returned)
        step = Step(site, self._step, result, now - self._began, _cut(said), server, number, len(servers))
        self._done[site, server] = step
        return step

    def _kept(self, step: Step | None) -> Step | None:
        if step:
            self.steps.append(step)
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


def _ended_step(state: Mapping[str, Any]) -> Step | None:
    """A step of the orchestration that has run; None for one that only waited for a failed one."""
    name, comment = str(state.get("__id__", "")), str(state.get("comment", ""))
    if _WAITED in comment or not _site(name):
        return None
    changes = state.get("changes") or {}
    result = state.get("result") is not False
    servers = {server: states for server, states in (changes.get("ret") or {}).items() if isinstance(states, Mapping)}
    said = [f"{server}: {text}" for server, states in servers.items() for text in _said(states)]
    if not result:
        said = reasons({name: state})
    seconds = float(state.get("duration") or 0) / 1000
    return Step(_site(name), name.rpartition(" in ")[0], result, seconds, _cut("; ".join(said)))


def _site(name: str) -> str:
    """The site in the name of a step."""
    return name.rpartition(" in ")[2] if " in " in name else ""


def _said(states: Mapping[str, Any]) -> Iterable[str]:
    """What our own states reported."""
    for key, state in states.items():
        if key.startswith("postfix_") and isinstance(state, Mapping) and _WAITED not in str(state.get("comment")):
            yield from str(state.get("comment", "")).splitlines()


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
