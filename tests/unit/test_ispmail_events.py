"""The events that the library describes are those that are sent, and those that the reactor waits for."""

import re

import yaml

import _ispmail_events
from _ispmail_rotation import Step
from lab.minion import REPOSITORY

TAGS = {event.tag for event in _ispmail_events.ALL}


def test_each_is_there_once():
    assert len(TAGS) == len(_ispmail_events.ALL) == 8
    assert all(event.meaning.endswith(".") and event.sender for event in _ispmail_events.ALL)


def test_a_step_has_these_keys():
    step = Step("main", "a step", True, 1.0, "well", "mx1", 1, 2)
    assert list(step.event()) == list(_ispmail_events.ROTATION_STEP.holds)


def test_the_reactor_of_the_documentation_waits_for_these():
    reactor = yaml.safe_load((REPOSITORY / "docs/master.conf").read_text())["reactor"]
    assert {tag for each in reactor for tag in each} <= TAGS


def test_no_file_of_ours_has_a_tag_of_its_own():
    """But for comments of state files, and docstrings."""
    files = [
        path for room in ("_modules", "_runners", "_beacons", "_utils") for path in (REPOSITORY / room).glob("*.py")
    ]
    found = [path.name for path in files if re.search(r'"(ispmail/\w+/|salt/beacon)', path.read_text())]
    assert found == ["_ispmail_events.py"]
