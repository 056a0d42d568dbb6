"""All that differs between pillar and one server, as a value. Each apply begins with it, and mostly ends there."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import _ispmail_consumers
import _ispmail_files
import _ispmail_journal
import _ispmail_plan
import _ispmail_postfix
from _ispmail_config import CompleteInstance
from _ispmail_config_consumers import Consumers
from _ispmail_errors import below
from _ispmail_maincf import READABLE
from _ispmail_plan import Outcome


class Comparison(NamedTuple):
    """What differs between pillar and the server."""

    instance: CompleteInstance
    consumers: Consumers
    maps: _ispmail_plan.Difference | None  # None: nothing that needs a Postfix
    option_files: _ispmail_consumers.Difference
    interrupted: bool  # a change was cut off, and Postfix may not have been reloaded
    lacks_postfix: bool = False  # there are maps, and Postfix is not installed

    @property
    def owned(self) -> tuple[str, ...]:
        """The files that applies replace, beside main.cf."""
        return _owned(self.instance, self.consumers)

    @property
    def concerns_postfix(self) -> bool:
        """Whether there is anything to do beside option files."""
        return self.maps is not None and bool(self.maps.changes or self.maps.faults or self.interrupted)

    @property
    def is_due(self) -> bool:
        """Whether there is anything to do, or a fault to tell."""
        return self.concerns_postfix or bool(self.option_files.changes) or self.interrupted or self.lacks_postfix

    @property
    def settled(self) -> list[str]:
        """The maps whose live answers an apply would leave as they are."""
        if self.maps is None or self.interrupted:
            return []
        anew = READABLE in self.maps.parameters
        return [
            each.name for each in self.instance.maps if each.name not in self.maps.changed and not (anew and each.proxy)
        ]

    @property
    def faults(self) -> list[str]:
        """What an apply would refuse, as sentences: faults of pillar, beside this main.cf."""
        return below(self.instance.pillar_key, self.maps.faults if self.maps else ())

    @property
    def warnings(self) -> list[str]:
        """What an admin should know, though nothing is due."""
        return [*self.instance.warnings, *(self.maps.warnings if self.maps else ())]

    def outcome(self, warnings: Iterable[str] = (), reloaded: bool = False) -> Outcome:
        """What an apply tells: it has made these changes, or would.

        Args:
            warnings: Further ones, told before those of the comparison.
            reloaded: Whether Postfix was, or would be, reloaded.
        """
        changes = {**(self.maps.changes if self.maps else {}), **self.option_files.changes}
        if self.lacks_postfix:
            changes |= {each.name: {"file": {"old": None, "new": each.path}} for each in self.instance.maps}
            warnings = [*warnings, "Postfix is not installed: maps can be applied once it is"]
        if self.maps and self.interrupted:
            changes["postfix"] = _ispmail_plan.finished(reloaded)
        told = tuple(dict.fromkeys([*warnings, *self.warnings]))
        return Outcome(changes, len(self.instance.maps), told, reloaded, len(self.consumers.consumers))


def compare(instance: CompleteInstance, consumers: Consumers, cache_directory: str) -> Comparison:
    """Compare pillar with the table files, main.cf and the consumers' option files; nothing is asked.

    Args:
        consumers: Other programs that log in with the same account.
        cache_directory: Where the journal of changes is.

    Raises:
        CannotAsk: A file or main.cf cannot be read, or we are not root.
        Failed: A consumer would not use its option file, or that has settings which are not ours.
    """
    _ispmail_files.require_root()
    option_files = _ispmail_consumers.compare(consumers)
    _ispmail_consumers.check(consumers)
    owned = _owned(instance, consumers)
    interrupted = _ispmail_journal.interrupted(instance.config_directory, cache_directory, owned)
    # A server that has only other programs with the maps' account needs no Postfix.
    installed = _ispmail_postfix.installed()
    concerned = installed if instance.maps else interrupted and _ispmail_postfix.is_there(instance.config_directory)
    maps = _ispmail_plan.compare(instance) if concerned else None
    return Comparison(instance, consumers, maps, option_files, interrupted, bool(instance.maps) and not installed)


def _owned(instance: CompleteInstance, consumers: Consumers) -> tuple[str, ...]:
    return (*(each.path for each in instance.maps), *(each.option_file or "" for each in consumers.with_option_file))
