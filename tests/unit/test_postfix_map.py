"""What every apply needs of the execution module `postfix_map`: maps as they are, and what differs from pillar."""

import grp

import pytest
from salt.exceptions import CommandExecutionError, SaltInvocationError

import _ispmail_inventory
import _ispmail_optionfile
from _ispmail_errors import CannotAsk
from _ispmail_inventory import Settings
from _modules import postfix_map
from lab.postfix import write_cold

from .postfix_files import postfix
from .test_ispmail_compare import SAME, comparison
from .test_ispmail_reapply import fails

PASSWORD = "new;#pass"
NAMES = ("virtual_mailbox_domains", "virtual_alias_maps", "virtual_mailbox_maps")
NO_MAPS = {"maps": dict.fromkeys(NAMES)}


def section(directory, **more):
    return {"database": {"password": PASSWORD}, "postfix": {"config_directory": str(directory)}, **more}


def table(directory, name):
    return f"mysql:{directory}/mariadb-{name.replace('_', '-')}.cf"


def test_maps_as_they_are_on_this_server(on_minion, tmp_path):
    """Those of pillar, as main.cf spells them, whatever else it names; without the password."""
    main_cf = f"""
        virtual_alias_maps = hash:/x mysql:{tmp_path}/own.cf proxy:{table(tmp_path, "virtual_alias_maps")}
        virtual_mailbox_maps = mysql:{tmp_path}/own.cf
    """.replace("        ", "")
    postfix(tmp_path, main_cf)
    file = tmp_path / "mariadb-virtual-alias-maps.cf"
    write_cold(file, "user = former\npassword = secret\nquery = SELECT 1\n")
    file.chmod(0o640)
    on_minion(postfix_map, ispmail=section(tmp_path), second=section(tmp_path / "none", **NO_MAPS))
    nothing = {"in_parameter": False, "keys": None}
    assert postfix_map.read() == {
        "virtual_mailbox_domains": {
            "parameter": "virtual_mailbox_domains",
            "table": table(tmp_path, "virtual_mailbox_domains"),
            **nothing,
        },
        "virtual_alias_maps": {
            "parameter": "virtual_alias_maps",
            "table": f"proxy:{table(tmp_path, 'virtual_alias_maps')}",
            "in_parameter": True,
            "owner": "root",
            "group": grp.getgrgid(file.stat().st_gid).gr_name,
            "mode": "0640",
            "keys": {"user": "former", "password": "***", "query": "SELECT 1"},
        },
        "virtual_mailbox_maps": {
            "parameter": "virtual_mailbox_maps",
            "table": table(tmp_path, "virtual_mailbox_maps"),
            **nothing,
        },
    }
    assert postfix_map.read("second") == {}, "a server without maps needs no Postfix"


def option_file(path, password):
    path.write_text(_ispmail_optionfile.render("client", "mailserver", password))
    path.chmod(0o640)
    return {"option_file": str(path), "group": "root"}


def test_consumers_that_use_another_password(on_minion, tmp_path):
    old, new = (option_file(tmp_path / f"{password}.cnf", password) for password in ("old", PASSWORD))
    first = section("/etc/postfix", **NO_MAPS, consumers={"webmail": old})
    second = section("/etc/postfix-second", **NO_MAPS, consumers={"webmail": new})
    on_minion(postfix_map, ispmail=first, second=second)
    said = "ispmail:consumers:webmail: its option file is not as pillar says: apply first"
    assert postfix_map.consumers() == [said]
    assert postfix_map.consumers("second") == []


def test_a_server_with_other_programs_only_is_compared_too(on_minion, tmp_path):
    consumers = {"webmail": option_file(tmp_path / "old.cnf", "old")}
    on_minion(postfix_map, ispmail=section(tmp_path / "none", **NO_MAPS, consumers=consumers))
    assert postfix_map.compare() == {
        "changes": {"consumer:webmail": {"password": {"old": "***", "new": "***"}}},
        **{"maps": 0, "consumers": 1, "warnings": [], "reloaded": False, "faults": [], "due": True, "applied": None},
    }


@pytest.mark.parametrize(
    ("found", "running", "reloaded", "due"),
    [
        (comparison(), True, False, False),
        (comparison(interrupted=True), True, True, True),
        (comparison(interrupted=True), False, False, True),
        # Nothing of a Postfix is compared, and there may be none to ask.
        (comparison(maps=None, interrupted=True), None, False, True),
        (comparison(SAME._replace(changes={"virtual_alias_maps": {}})), None, False, True),
    ],
)
def test_only_a_change_that_was_cut_off_is_a_reason_for_a_reload(
    on_minion, monkeypatch, tmp_path, found, running, reloaded, due
):
    on_minion(postfix_map, ispmail=section("/etc/postfix"), second=section("/etc/postfix-second"))
    calls = []
    monkeypatch.setattr("_ispmail_compare.compare", lambda *given: calls.append(given) or found)
    is_running = fails(AssertionError("it was asked")) if running is None else lambda queue: running
    monkeypatch.setattr("_ispmail_postfix.running", is_running)
    told = postfix_map.compare()
    assert (told["reloaded"], told["due"], told["faults"]) == (reloaded, due, [])
    postfix_map.compare("second")
    assert [(maps.pillar_key, cache, others.pillar_key) for maps, others, cache in calls] == [
        ("ispmail", str(tmp_path / "cache"), "ispmail"),
        ("second", str(tmp_path / "cache"), "second"),
    ]


def test_old_processes_are_those_of_all_instances(on_minion, monkeypatch):
    second = section("/etc/postfix-second")
    on_minion(postfix_map, ispmail=section("/etc/postfix", instances=["second"]), second=second)
    seen = []

    def old_processes(files, queue, programs):
        seen.append((files, "smtp" in programs))
        return [f"smtpd of {queue}"]

    def read(directory):
        values = {"queue_directory": f"$own{directory}", "own": "/queue", "mail_owner": "postfix"}
        # The other one has none of its tables in a parameter of smtp(8).
        tables = table("/etc/postfix", NAMES[0]) if directory == "/etc/postfix" else "mysql:/another.cf"
        known = Settings(directory, {**values, "smtp_generic_maps": tables}, frozenset())
        return _ispmail_inventory.of(known, [])

    monkeypatch.setattr("_ispmail_postfix.old_processes", old_processes)
    monkeypatch.setattr("_ispmail_inventory.read", read)
    assert postfix_map.old_processes() == ["smtpd of /queue/etc/postfix", "smtpd of /queue/etc/postfix-second"]
    assert postfix_map.old_processes("second") == ["smtpd of /queue/etc/postfix-second"]
    assert seen[0] == ([table("/etc/postfix", name).removeprefix("mysql:") for name in NAMES], True)
    assert [is_smtp for _, is_smtp in seen] == [True, False, False]
    # Where pillar names no map there may be no Postfix.
    on_minion(postfix_map, ispmail=section("/nowhere", **NO_MAPS))
    monkeypatch.setattr("_ispmail_inventory.read", fails(CannotAsk("Postfix is not there")))
    assert postfix_map.old_processes() == []


@pytest.mark.parametrize("name", ["read", "compare", "consumers", "old_processes"])
def test_errors_are_salts(on_minion, monkeypatch, name):
    function = getattr(postfix_map, name)
    on_minion(postfix_map, ispmail={"maps": {"virtual_alias_maps": {"type": "none"}}})
    with pytest.raises(SaltInvocationError, match="ispmail:maps:virtual_alias_maps:type"):
        function()
    on_minion(postfix_map, ispmail=section("/etc/postfix"))
    for callee in ("inventory.settings", "compare.compare", "consumers.unready", "instances.old_processes"):
        monkeypatch.setattr(f"_ispmail_{callee}", fails(CannotAsk("Postfix is not there")))
    with pytest.raises(CommandExecutionError, match="Postfix is not there"):
        function()
