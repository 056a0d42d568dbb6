"""The events of this project: their tags, and what they tell. Pure.

Those who send one take its tag from here, and so does the reference of the documentation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Event(NamedTuple):
    """One kind of event on the master's bus."""

    tag: str
    sender: str  # who sends it
    meaning: str  # when, a sentence
    holds: Mapping[str, str]  # the keys of its data, to what each is


CREDENTIALS_CHANGED = Event(
    "ispmail/credentials/changed",
    "whoever has put a new login into pillar: an admin, a git hook, Vault",
    "Pillar has a new login: the reactor rotates to it, or has all mail servers apply it. Nothing in it is used.",
    {},
)
ROTATION_LISTENING = Event(
    "ispmail/rotation/listening",
    "the runner ispmail.rotate",
    "The runner has begun to listen to the bus: what it hears of its own, so that it misses no step. Nothing is in it.",
    {},
)
ROTATION_STEP = Event(
    "ispmail/rotation/step",
    "the runner ispmail.rotate",
    "A step of a rotation has ended.",
    {
        "site": "the site",
        "step": "what was done, a sentence",
        "result": "whether it is well, true or false",
        "seconds": "how long it took",
        "comment": "what it said",
        "server": "the minion, where the step is that of one",
        "number": "which one of the servers that is",
        "of": "how many there are",
    },
)
ROTATION_FAILED = Event(
    "ispmail/rotation/failed",
    "the runner ispmail.rotate, or ispmail.new_password",
    "A rotation has failed, or could not begin. The password in use before is still accepted, unless its last step had "
    "begun.",
    {"comment": "the reasons, each a line"},
)
ROTATION_REFUSED = Event(
    "ispmail/rotation/refused",
    "the runner ispmail.rotate",
    "The database has refused logins after the old password was dropped: somebody still has it.",
    {
        "site": "the site",
        "server": "the minion on the database server",
        "refused": "how many logins",
        "comment": "the same, a sentence",
    },
)
APPLY_FAILED = Event(
    "ispmail/apply/failed",
    "ispmail.reapply on a minion, as the reactor calls it",
    "An apply has failed. It is told once as long as it fails in the same way.",
    {"sls": "what was applied", "comment": "what the failed states said"},
)
CREDENTIAL_REFUSED = Event(
    "salt/beacon/*/postfix_credential/refused",
    "the beacon postfix_credential on a minion, whose id stands in place of the star",
    "The database refuses a login of a live table file or option file. It is told once, until the login works again or "
    "the file has another one. A database that is down is no refusal.",
    {"maps": "who logs in so, a list: maps, consumer:dovecot", "host": "the server", "user": "the user"},
)

DOCTOR_FAULT = Event(
    "ispmail/doctor/fault",
    "postfix_doctor.check with notify=True on a minion, by its schedule",
    "The doctor has found other faults than the last time, or none any more.",
    {
        "faults": "all faults that there are now, a list: check, where and fix of each",
        "comment": "the same, each a line",
    },
)

ALL = (
    CREDENTIALS_CHANGED,
    ROTATION_LISTENING,
    ROTATION_STEP,
    ROTATION_FAILED,
    ROTATION_REFUSED,
    APPLY_FAILED,
    CREDENTIAL_REFUSED,
    DOCTOR_FAULT,
)
