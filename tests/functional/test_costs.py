"""An apply does nothing that it does not need: what it runs and reads is counted, whatever the time it takes."""

import pytest

import _ispmail_plan

ONE = {"query": "SELECT destination FROM virtual_aliases WHERE source='%s'"}


def managed(minion):
    """What the state postfix_map.managed returned."""
    return minion.apply()["postfix_map.managed"]


def test_a_converged_apply_does_not_look_who_asks_its_files(minion, monkeypatch):
    """Before Postfix 3.10 a table file is not the text of pillar: each apply walked all of main.cf for that."""
    managed(minion)
    monkeypatch.setattr(_ispmail_plan, "named_by", lambda known: pytest.fail("all of main.cf is walked"))
    result = managed(minion)
    assert (result["result"], result["changes"]) == (True, {}), result["comment"]


def test_more_maps_are_no_more_commands(minion, pillar, audit):
    """Each parameter was a postconf of its own: 300 maps took three seconds more."""
    managed(minion)
    counted = {}
    for number in (1, 6):
        maps = {f"more_{number}_{each}": ONE for each in range(number)}
        minion.pillar = pillar(maps=maps)
        with audit() as seen:
            assert len(managed(minion)["changes"]) == number + 1
        with audit() as seen_removing:
            assert minion.call("postfix_map.remove", list(maps))["maps"] == number
        counted[number] = len(seen.commands), len(seen_removing.commands)
    assert counted[1] == counted[6]
