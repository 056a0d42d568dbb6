"""What reactor and beacon call on a mail server: apply once for many, notice a refused login, tell once."""

import fcntl
import json
import threading

import pytest
import salt.beacons
import salt.config

from lab import wait_until
from lab.mariadb import set_password
from lab.minion import REPOSITORY

from ..conftest import PASSWORD
from .test_apply import managed


@pytest.fixture
def other_password(mariadb):
    """The account has another password than pillar and the table files."""
    set_password(mariadb, "behind-our-back")
    yield "behind-our-back"
    set_password(mariadb, PASSWORD)


def beacon(minion):
    """A minion's beacon as Salt runs it: a function that gives its events."""
    opts = salt.config.minion_config(str(minion.directory / "minion"))
    opts.update(beacons_dirs=[str(REPOSITORY / "_beacons")], module_dirs=[str(REPOSITORY / "_modules")])
    opts["pillar"] = minion.pillar
    config = {"postfix_credential": [{"pillar": ["ispmail"]}]}
    return lambda: salt.beacons.Beacon(opts, salt.loader.minion_mods(opts)).process(config, opts["grains"])


def test_the_beacon_tells_once_until_it_is_well_again(minion, mariadb, pillar):
    managed(minion)
    assert beacon(minion)() == []
    set_password(mariadb, "behind-our-back")
    try:
        (event,) = beacon(minion)()
        assert event["tag"].endswith("/postfix_credential/refused")
        assert sorted(event["data"]["maps"]) == [
            "virtual_alias_maps",
            "virtual_mailbox_domains",
            "virtual_mailbox_maps",
        ]
        assert PASSWORD not in repr(event)
        # A beacon forgets its own memory at each refresh of pillar, which a re-apply causes.
        assert beacon(minion)() == []
    finally:
        set_password(mariadb, PASSWORD)
    assert beacon(minion)() == []
    set_password(mariadb, "behind-our-back")
    try:
        assert len(beacon(minion)()) == 1
    finally:
        set_password(mariadb, PASSWORD)


def test_a_database_that_is_down_is_no_refusal(minion, pillar, silent_port):
    managed(minion)
    path = minion.call("postfix_map.read")["virtual_alias_maps"]["table"].partition(":")[2]
    with open(path) as file:
        text = file.read().replace(
            minion.pillar["ispmail"]["database"]["hosts"], f"127.0.0.1:9, 127.0.0.1:{silent_port}"
        )
    with open(path, "w") as file:
        file.write(text)
    assert beacon(minion)() == []


def test_a_stale_pillar_is_told_of(minion, other_password):
    """Nothing differs between pillar and the table files: an apply alone would say that all is well."""
    result = minion.call("ispmail.reapply", "ispmail.maps")
    assert result["applied"] is True and result["result"] is False
    assert "Access denied" in result["comment"]


def test_a_stale_pillar_is_told_of_where_it_is_applied_already(minion, mariadb):
    managed(minion)
    set_password(mariadb, "behind-our-back")
    try:
        result = minion.call("ispmail.reapply", "ispmail.maps")
    finally:
        set_password(mariadb, PASSWORD)
    assert result["result"] is False
    assert "Pillar has what the table files have, and " in result["comment"] and "Access denied" in result["comment"]
    assert minion.call("ispmail.reapply", "ispmail.maps") == {"applied": True, "result": True, "comment": ""}
    assert minion.call("postfix_map.probe") == []


def test_one_waits_and_the_others_return(minion):
    """However many ask: one is under way, one waits, and that one reads pillar after the others have asked."""
    folder = minion.cache / "ispmail"
    folder.mkdir(parents=True)
    results = []

    def ask():
        done = minion.command("--out=json", "ispmail.reapply", "ispmail.maps")
        results.append(json.loads(done.stdout)["local"])

    minion.command("saltutil.sync_all")
    with open(folder / "running", "a") as running:
        fcntl.flock(running, fcntl.LOCK_EX)
        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        assert wait_until(lambda: len(results) == 3, 60)
    for thread in threads:
        thread.join()
    assert [result["applied"] for result in results] == [False, False, False, True]
    assert results[3]["result"] is True, results[3]
