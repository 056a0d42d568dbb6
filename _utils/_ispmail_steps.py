"""By which steps main.cf changes where one alone would mislead a process of Postfix for a while. Pure.

Each step is followed by a reload. The programs of Postfix read main.cf at different times all the same, and a process
that has a session keeps what it has read until that ends. There are two rules, and no step where neither has a reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from _ispmail_errors import repr_without
from _ispmail_maincf import MEANWHILE, PERMITS, READABLE, same, with_meanwhile, words

# Parameters that decide which domains are ours, see trivial-rewrite(8).
_DOMAINS = ("mydestination", "relay_domains", "virtual_alias_domains", "virtual_mailbox_domains")


class Step(NamedTuple):
    """What main.cf sets for a while; None: not set."""

    parameters: dict[str, str | None]
    is_complete: bool  # all is as it will be, but that proxymap allows more, until the processes of before have ended

    def __repr__(self) -> str:
        return repr_without(self, "parameters")


def between(now: Mapping[str, str | None], then: Mapping[str, str | None], defaults: Mapping[str, str]) -> list[Step]:
    """The steps before the last one, which sets `then`; mostly there are none.

    Args:
        now: The parameters that change, and proxy_read_maps, as main.cf sets them; None: not set.
        then: The same as they will be.
        defaults: Their defaults, of those that have one.
    """
    # An effective value may be that of the default.
    old, new = ({**defaults, **_set(values)} for values in (now, then))
    asked, to_be_asked = _proxied(old), _proxied(new)
    steps = []
    if to_be_asked - asked:
        # Nothing but that proxymap allows more.
        steps.append(Step({**now}, is_complete=False))
    if first := _domains_apart(now, then):
        steps.append(Step(first, is_complete=False))
    if asked - to_be_asked:
        steps.append(Step({**then}, is_complete=True))
    if not asked | to_be_asked:
        return steps
    allowed = dict.fromkeys([*_allowed(old), *_allowed(new)])
    return [step._replace(parameters=_with_meanwhile(step.parameters, allowed)) for step in steps]


def _domains_apart(now: Mapping[str, str | None], then: Mapping[str, str | None]) -> dict[str, str | None] | None:
    """The first of two steps, where domains come or go together with the maps of their addresses: they come last.

    Where trivial-rewrite knows a domain, and smtpd not the map of its mailboxes, each address of that domain is
    accepted.
    """
    changed = {name: value for name, value in then.items() if not same(value, now[name])}
    domains = {name: value for name, value in changed.items() if name in _DOMAINS}
    others = {name: value for name, value in changed.items() if name not in _DOMAINS}
    more = sum(len(words(value or "")) - len(words(now[name] or "")) for name, value in domains.items())
    if not more or not others:
        return None
    return {**now, **(others if more > 0 else domains)}


def _with_meanwhile(values: Mapping[str, str | None], allowed: Iterable[str]) -> dict[str, str | None]:
    readable = values[READABLE]
    texts = ", ".join(each for each in allowed if each != readable)
    return {**values, READABLE: with_meanwhile(readable), MEANWHILE: texts}


def _allowed(values: Mapping[str, str]) -> list[str]:
    """What proxymap allows, and the words that are asked through it, or refer to others that may be.

    No more of a value: it may hold a password, or what is not to stand in two places.
    """
    asked = [each for each in _asked(values) if each[0] == "$" or "proxy:" in each]
    return [*filter(None, [values.get(READABLE)]), *asked]


def _set(values: Mapping[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in values.items() if value is not None}


def _proxied(values: Mapping[str, str]) -> set[str]:
    """The words by which tables are asked through proxymap: it has to allow each of them before and while it is asked.

    A process that asks it for another one ends, with its session; and if that is a new one, master(8) does not start
    its program again for a minute.
    """
    return {each for each in _asked(values) if "proxy:" in each}


def _asked(values: Mapping[str, str]) -> list[str]:
    """The words of all values but of those that only permit."""
    return [word for name, value in values.items() if name not in PERMITS for word in words(value)]
