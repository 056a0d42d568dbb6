"""An apply does nothing that it does not need: what it runs and reads is counted, whatever the time it takes."""

import pytest

import ispmail_plan


def managed(minion):
    """What the state postfix_map.managed returned."""
    return minion.apply()["postfix_map.managed"]


def test_a_converged_apply_does_not_look_who_asks_its_files(minion, monkeypatch):
    """Before Postfix 3.10 a table file is not the text of pillar: each apply walked all of main.cf for that."""
    managed(minion)
    monkeypatch.setattr(ispmail_plan, "named_by", lambda known: pytest.fail("all of main.cf is walked"))
    result = managed(minion)
    assert (result["result"], result["changes"]) == (True, {}), result["comment"]
