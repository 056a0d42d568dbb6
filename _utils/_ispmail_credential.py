"""A change of which logins a database server accepts, whichever server it is: planned, carried out, looked at."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import _ispmail_account_users
import _ispmail_database
from _ispmail_config_database import DatabaseConfig
from _ispmail_database import Asker, Step
from _ispmail_errors import DatabaseError
from _ispmail_meanings import LOST_NUMBERS

log = logging.getLogger(__name__)

# Have pillar's login accepted beside the one in use, or no other than that.
Action = Literal["accept", "sole"]
# What an account of a pair is; pillar's user may be open by another password than pillar's.
Standing = Literal["missing", "locked", "open", "open otherwise"]


class CredentialChange(NamedTuple):
    """What a rotation does to one account."""

    step: Step
    changes: Mapping[str, Any]  # for people, secrets as ***
    is_done: Callable[[], bool]  # asks the server whether the account is as it should be afterwards
    said: str  # what it does then, for the log


class Plan(NamedTuple):
    """What a rotation does at the database server."""

    work: dict[str, CredentialChange]  # by the names of the accounts
    warnings: list[str]  # sentences


class Retired(NamedTuple):
    """What became of the other account of a pair."""

    changes: dict[str, dict[str, Any]]  # by the names of accounts, for people
    warnings: list[str]  # sentences


def carry_out(server: Asker, plan: Plan, action: Action, test: bool, retire: Callable[[], Retired]) -> dict[str, Any]:
    """Do what is planned, see that it is done, and then see to the other account of a pair.

    Args:
        server: Where.
        plan: What to do.
        action: What for.
        test: Only tell what would be done.
        retire: Ends the other account, where the action is ``sole``.

    Returns:
        ``changes`` and ``warnings``, see _ispmail_accounts.credential.

    Raises:
        DatabaseError: A step fails, or an account is not as it was set.
    """
    if plan.work and not test:
        began = time.monotonic()
        again = f"run credential_{'accepted' if action == 'accept' else 'sole'} again"
        _ispmail_database.run(server, [change.step for change in plan.work.values()], again)
        _check(plan, again)
        for title, change in plan.work.items():
            log.info("%s %s, after %.1f s", title, change.said, time.monotonic() - began)
    changes = {title: dict(change.changes) for title, change in plan.work.items()}
    warnings = [*plan.warnings]
    if action == "sole":
        retired = retire()
        for title, more in retired.changes.items():
            changes.setdefault(title, {}).update(more)
        warnings += retired.warnings
    return {"changes": changes, "warnings": warnings}


def _check(plan: Plan, again: str) -> None:
    """See that the server has done what it was asked for."""
    try:
        undone = [title for title, change in plan.work.items() if not change.is_done()]
    except DatabaseError as err:
        text = f"{err}. {', '.join(plan.work)} were changed, but could not be read back: {again}"
        raise DatabaseError(text, err.number) from None
    if undone:
        raise DatabaseError(f"{undone[0]} is not as it was set: {again}")


def accept_fault(
    config: DatabaseConfig,
    own: Standing,
    other: Standing,
    connections: Callable[[], Mapping[str, int] | None],
    lock: str,
) -> str | None:
    """Tell why pillar's user of a pair cannot be opened.

    Args:
        config: What pillar says.
        own: What its account is.
        other: What the other one is.
        connections: Asks who is connected as pillar's user.
        lock: The statement that locks it, for people.

    Returns:
        A sentence without its subject; None where it can be opened.
    """
    if own == other == "missing":
        return f"does not exist, and neither does {config.other}: run postfix_database.account first"
    if own != "open otherwise":
        return None
    if other != "open":
        return (
            "is the account in use, and accepts another password than pillar's: with two_accounts, user and password "
            f"change together. Write user: {config.other} into pillar, beside the new password"
        )
    seen = _ispmail_account_users.describe_connections(connections())
    return (
        f"accepts another password than pillar's, and is not locked, so somebody may use it ({seen}): if a rotation to "
        f"that password has begun, put it back into pillar and rotate; if nobody uses it, run {lock} and rotate again"
    )


def try_to_retire(server: Asker, config: DatabaseConfig, name: str, step: Step, refused: str, cure: str) -> str | None:
    """Run a step of the end of an account, which is locked: so what a server refuses fails no rotation.

    Args:
        server: Where.
        config: What pillar says.
        name: Of the account.
        step: What to run.
        refused: What the server has done if it does not do that, as a sentence.
        cure: What to do then.

    Returns:
        A warning; None where it is done.

    Raises:
        DatabaseError: The connection was lost.
    """
    try:
        _ispmail_database.run(server, [step], "run credential_sole again")
    except DatabaseError as err:
        if not err.number or err.number in LOST_NUMBERS:
            raise
        return _ispmail_account_users.stays(config, name, f"{refused} (error {err.number})", cure)
    return None
