"""What a comparison says is due, and what an apply tells of it."""

import os
import pwd

import pytest

import _ispmail_plan
from _ispmail_compare import Comparison, compare
from _ispmail_config import complete
from _ispmail_config_consumers import NONE, Consumers
from _ispmail_consumers import Difference
from _ispmail_errors import CannotAsk, Failed, Fault
from _ispmail_inventory import Settings

from .consumer_values import consumer

SETTINGS = Settings("/etc/postfix", {}, frozenset())
SAME = _ispmail_plan.Difference(SETTINGS, (), {}, {}, frozenset(), (), (), ())
CHANGE = {"virtual_alias_maps": {"password": {"old": "***", "new": "***"}}}
FILES = {"consumer:dovecot": {"password": {"old": "***", "new": "***"}}}
DOVECOT = consumer("dovecot", "/x.cnf")


def instance(maps=(), **section):
    return complete("second", {"database": {"password": "x", **section}, "maps": dict(maps)})


def comparison(maps=SAME, files=(), **values):
    given = {"instance": instance(), "consumers": NONE, "interrupted": False, **values}
    return Comparison(maps=maps, option_files=Difference((), dict(files)), **given)


@pytest.mark.parametrize(
    ("found", "concerns_postfix", "is_due"),
    [
        (comparison(), False, False),
        (comparison(maps=None), False, False),
        (comparison(SAME._replace(changes=CHANGE)), True, True),
        (comparison(SAME._replace(faults=(Fault("x", "y"),))), True, True),
        (comparison(interrupted=True), True, True),
        (comparison(maps=None, interrupted=True), False, True),
        (comparison(files=FILES), False, True),
        (comparison(maps=None, files=FILES), False, True),
        (comparison(maps=None, lacks_postfix=True), False, True),
    ],
)
def test_what_is_due(found, concerns_postfix, is_due):
    assert (found.concerns_postfix, found.is_due) == (concerns_postfix, is_due)


PROXIED = instance(maps={"virtual_alias_maps": {"proxy": True}})


@pytest.mark.parametrize(
    ("found", "settled"),
    [
        (comparison(), "dam"),
        (comparison(files=FILES), "dam"),
        (comparison(SAME._replace(changed=frozenset(["virtual_alias_maps"]))), "dm"),
        # proxymap does not allow it now.
        (comparison(SAME._replace(parameters={"proxy_read_maps": "x"}), instance=PROXIED), "dm"),
        (comparison(SAME._replace(parameters={"virtual_mailbox_maps": "x"}), instance=PROXIED), "dam"),
        (comparison(interrupted=True), ""),
        (comparison(maps=None, lacks_postfix=True), ""),
    ],
)
def test_which_live_answers_an_apply_leaves_as_they_are(found, settled):
    names = {"d": "virtual_mailbox_domains", "a": "virtual_alias_maps", "m": "virtual_mailbox_maps"}
    assert sorted(found.settled) == sorted(names[each] for each in settled)


def test_faults_and_warnings_are_those_of_both_sides():
    fault = Fault("maps:a:parameter", "is of no use", "choose another")
    found = comparison(SAME._replace(faults=(fault,), warnings=("of main.cf",)))
    assert found.faults == ["second:maps:a:parameter is of no use: choose another"]
    assert found.warnings == [*found.instance.warnings, "of main.cf"]
    assert comparison(maps=None).faults == [] and comparison(maps=None).warnings == list(found.instance.warnings)
    told = found.outcome(["first", "of main.cf"]).warnings
    assert told == ("first", "of main.cf", *found.instance.warnings)


def test_what_an_apply_tells():
    consumers = Consumers("second", (DOVECOT,), {})
    found = comparison(SAME._replace(changes=CHANGE), files=FILES, consumers=consumers).outcome(reloaded=True)
    assert (found.changes, found.maps, found.reloaded, found.consumers) == ({**CHANGE, **FILES}, 3, True, 1)
    found = comparison().outcome()
    assert (found.changes, found.maps, found.reloaded, found.consumers) == ({}, 3, False, 0)
    found = comparison(maps=None, files=FILES).outcome()
    assert found.changes == FILES


@pytest.mark.parametrize("reloaded", [True, False])
def test_a_change_that_was_cut_off_is_finished(reloaded):
    assert comparison(interrupted=True).outcome(reloaded=reloaded).changes == {
        "postfix": _ispmail_plan.finished(reloaded)
    }
    assert comparison(maps=None, interrupted=True).outcome(reloaded=reloaded).changes == {}


def test_maps_without_a_postfix_would_be_applied_once_there_is_one():
    found = comparison(maps=None, lacks_postfix=True).outcome(["first"])
    assert found.changes == {
        f"virtual_{name}": {"file": {"old": None, "new": f"/etc/postfix/mariadb-virtual-{name.replace('_', '-')}.cf"}}
        for name in ("mailbox_domains", "alias_maps", "mailbox_maps")
    }
    assert found.warnings[:2] == ("first", "Postfix is not installed: maps can be applied once it is")


@pytest.mark.parametrize(
    ("installed", "is_there", "maps", "interrupted", "reads", "lacks"),
    [
        (True, True, True, False, True, False),
        (True, False, True, False, True, False),
        (True, True, False, False, False, False),
        (True, True, False, True, True, False),
        (True, False, False, True, False, False),
        (False, False, True, True, False, True),
        (False, False, False, True, False, False),
    ],
)
def test_main_cf_is_read_only_where_it_matters(monkeypatch, installed, is_there, maps, interrupted, reads, lacks):
    """A server with nothing but other programs of the account needs no Postfix."""
    monkeypatch.setattr("_ispmail_postfix.installed", lambda: installed)
    monkeypatch.setattr("_ispmail_postfix.is_there", lambda _: is_there)
    monkeypatch.setattr("_ispmail_journal.interrupted", lambda *_: interrupted)
    monkeypatch.setattr("_ispmail_plan.compare", lambda _: SAME)
    wanted = instance() if maps else instance()._replace(maps=())
    found = compare(wanted, NONE, "/var/cache/salt/minion")
    assert (found.maps is SAME, found.lacks_postfix, found.interrupted) == (reads, lacks, interrupted)


def test_only_root_compares(tmp_path):
    """Who cannot read all of it would be told that all of it differs."""
    os.seteuid(pwd.getpwnam("nobody").pw_uid)
    try:
        with pytest.raises(CannotAsk, match=r"^only root can read and replace table files"):
            compare(instance()._replace(maps=()), NONE, str(tmp_path))
    finally:
        os.seteuid(0)


def test_a_consumer_that_would_not_use_its_option_file_is_told(tmp_path, script):
    """Else an apply would end well, and Dovecot would go on with the old password."""
    script("doveconf", "echo 'dovecot_config_version = 2.4.0'")
    config_file = tmp_path / "dovecot.conf"
    config_file.write_text("")
    dovecot = consumer("dovecot", str(tmp_path / "x.cnf"), config_file=str(config_file))
    keys = {"user": "mailserver", "password": "x", "hosts": "127.0.0.1", "dbname": "mailserver"}
    with pytest.raises(
        Failed, match=r"^Nothing was changed, a consumer would not use the password:\n- second:consumers:"
    ):
        compare(instance()._replace(maps=()), Consumers("second", (dovecot,), keys), str(tmp_path))
