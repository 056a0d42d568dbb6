"""The doctor's checks of those who hold the password of the account and that pillar does not name."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import _ispmail_holders
from _ispmail_errors import CannotAsk, InvalidInput
from _ispmail_holders import Holders
from _ispmail_report import Finding, warning_if
from _ispmail_scope import Scope

_CHECKS = {
    _ispmail_holders.FILE: "pillar names all files with the password",
    _ispmail_holders.PROGRAM: "pillar names all programs that are connected",
    _ispmail_holders.TABLE: "pillar names all tables of the account",
}
_WHERE = "this server"
_SEARCHABLE = "files can be searched for the password"


def check(scope: Callable[[], Scope]) -> Iterator[Finding]:
    """Yield one finding for each that a rotation would lock out, or one for each check that holds.

    Args:
        scope: Reads what pillar says of the account, secrets too.
    """
    try:
        found = _ispmail_holders.find(scope())
    except (CannotAsk, InvalidInput) as err:
        yield warning_if(f"who else holds the password could not be found out: {err}", _CHECKS["program"], _WHERE)
        return
    for kind, name in _CHECKS.items():
        yield from _check_kind(found, kind, name)
    yield warning_if("; ".join(found.unsearchable), _SEARCHABLE, _WHERE)


def _check_kind(found: Holders, kind: str, name: str) -> Iterator[Finding]:
    holders = [holder for holder in found.unnamed if holder.kind == kind]
    unseen = "; ".join(dict.fromkeys(found.unseen)) if kind == _ispmail_holders.PROGRAM else ""
    if unseen or not holders:
        yield warning_if(unseen, name, _WHERE)
    for holder in holders:
        yield warning_if(holder.text, name, holder.where)
