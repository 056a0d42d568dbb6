"""`salt '*' state.apply ispmail`: a master, two minions, their Postfixes and the database, all of it real."""

import re

import pytest

from lab.minion import REPOSITORY

from .conftest import CODES, NO_MAPS, OTHER_SECRET, SECRET, WRONG_SECRET

MAPS_OF_THE_GUIDE = {"virtual_mailbox_domains", "virtual_alias_maps", "virtual_mailbox_maps"}
MAPS = {"m1": MAPS_OF_THE_GUIDE, "m2": MAPS_OF_THE_GUIDE | {"smtpd_sender_login_maps"}}
SYNC, MANAGED, ANSWERS = "module.run", "postfix_map.managed", "postfix_map.answers"


def results(states):
    return {name: state["result"] for name, state in states.items()}


def changed(states):
    return {name: state["changes"] for name, state in states.items() if state["changes"]}


def test_the_first_apply_of_all_does_it_all(first_contact):
    """A named SLS does not sync modules by itself: a fresh minion would say that there is no such state."""
    first = first_contact.first
    assert first["synced before"] == []
    assert all((server.synced / "modules" / "postfix_map.py").is_file() for _, server in first_contact)
    assert first["replies before"] == {"m1": NO_MAPS, "m2": NO_MAPS}
    for name, states in first["apply"].items():
        assert set(results(states).values()) == {True}, states
        assert {SYNC, "pkg.installed", MANAGED} <= set(states)
        assert (ANSWERS in states) == (name == "m2")
        synced = states[SYNC]["changes"]["saltutil.sync_all"]
        assert "modules.postfix_map" in synced["modules"] and "states.postfix_map" in synced["states"]
        assert set(states[MANAGED]["changes"]) == MAPS[name] | {"main.cf"}
    assert first["replies"] == CODES


def test_a_dry_run_on_a_new_minion_says_that_modules_will_be_synced(first_contact):
    first = first_contact.first
    assert set(first["dry run"]) == {"m1", "m2"}
    for states in first["dry run"].values():
        assert states[SYNC]["result"] is None
        assert states[SYNC]["comment"] == "Function saltutil.sync_all to be executed."
        assert states[MANAGED]["result"] is False
        assert "was not found" in states[MANAGED]["comment"]
    assert first["files after dry run"] == first["files before"]


def test_each_minion_has_its_own_tables(applied):
    for name, server in applied:
        tables = {path.name for path in server.postfix.config_directory.glob("mariadb-*")}
        assert tables == {f"mariadb-{map_.replace('_', '-')}.cf" for map_ in MAPS[name]}
        for table in server.postfix.config_directory.glob("mariadb-*"):
            assert (table.owner(), table.group(), table.stat().st_mode & 0o7777) == ("root", "postfix", 0o640)
            password = {"m1": SECRET, "m2": OTHER_SECRET}[name]
            assert f"\npassword = {password}\n" in table.read_text()
            assert "**********" not in table.read_text()


def test_a_dry_run_tells_what_the_apply_does_and_writes_nothing(fleet):
    before = {name: server.files() for name, server in fleet}
    would = fleet.apply(test=True)
    assert {name: server.files() for name, server in fleet} == before
    assert {name: states[MANAGED]["result"] for name, states in would.items()} == {"m1": None, "m2": None}
    for name, states in would.items():
        assert SYNC not in states
        assert f"{len(MAPS[name])} maps would be applied" in states[MANAGED]["comment"]
        assert "would be reloaded" in states[MANAGED]["comment"]
        assert set(states[MANAGED]["changes"]) == MAPS[name] | {"main.cf"}
    assert {name: changed(states) for name, states in fleet.apply().items()} == {
        name: changed(states) for name, states in would.items()
    }
    assert {name: server.replies() for name, server in fleet} == CODES


def test_the_second_apply_changes_nothing(applied):
    before = {name: server.files() for name, server in applied}
    for states in applied.apply().values():
        assert set(results(states).values()) == {True}
        assert changed(states) == {}
        assert SYNC not in states
        assert "in the correct state" in states[MANAGED]["comment"]
    assert {name: server.files() for name, server in applied} == before


def test_a_changed_pillar_is_applied_without_a_refresh(applied):
    """A new map on one server, another query on the other."""
    applied["m1"].write_pillar(
        maps={"smtpd_sender_login_maps": {"query": "SELECT email FROM virtual_users WHERE email='%s'"}}
    )
    query = "SELECT destination FROM virtual_aliases WHERE source='%s' AND destination='none'"
    # The answer that m2's pillar expects would refuse this query: it is another one now.
    applied["m2"].write_pillar(maps={"virtual_alias_maps": {"query": query}})
    pillar = applied["m2"].default_pillar
    refused = applied.apply()["m2"][MANAGED]
    assert refused["result"] is False
    assert "jack@example.net should give 'john@example.net', but gives no answer" in refused["comment"]
    assert {name: server.replies() for name, server in applied} == CODES
    table = applied["m1"].postfix.config_directory / "mariadb-smtpd-sender-login-maps.cf"
    assert applied["m1"].postfix.postconf("smtpd_sender_login_maps") == {"smtpd_sender_login_maps": f"mysql:{table}"}
    assert applied["m1"].postfix.postmap("john@example.org", f"mysql:{table}") == "john@example.org"

    applied["m2"].default_pillar = {key: value for key, value in pillar.items() if key != "answers"}
    try:
        applied["m2"].write_pillar(maps={"virtual_alias_maps": {"query": query}})
        states = applied.apply()
    finally:
        applied["m2"].default_pillar = pillar
    assert changed(states["m1"]) == {}
    old = "SELECT destination FROM virtual_aliases WHERE source='%s'"
    assert changed(states["m2"])[MANAGED]["virtual_alias_maps"] == {"query": {"old": old, "new": query}}
    # Without its alias jack is a mailbox that does not exist: the running Postfix has the new table.
    assert applied["m2"].replies() == {**CODES["m2"], "jack@example.net": 550}
    assert applied["m1"].replies() == CODES["m1"]


def test_a_wrong_password_stops_at_its_own_server(applied):
    before = {name: server.files() for name, server in applied}
    applied["m1"].write_pillar(
        maps={"smtpd_sender_login_maps": {"query": "SELECT email FROM virtual_users WHERE email='%s'"}}
    )
    applied["m2"].write_pillar(database={"password": WRONG_SECRET})
    states = applied.apply()
    assert set(results(states["m1"]).values()) == {True}
    assert set(changed(states["m1"])[MANAGED]) == {"smtpd_sender_login_maps", "main.cf"}
    failed = states["m2"][MANAGED]
    assert (failed["result"], failed["changes"]) == (False, {})
    assert "Nothing was changed" in failed["comment"]
    assert "Access denied for user 'second'" in failed["comment"]
    assert states["m2"][ANSWERS]["result"] is False
    assert applied["m2"].files() == before["m2"]
    assert {name: server.replies() for name, server in applied} == CODES


def test_clean_takes_everything_back(applied):
    would = applied.apply("ispmail.clean", test=True)
    assert {name: server.replies() for name, server in applied} == CODES
    states = applied.apply("ispmail.clean")
    for name, server in applied:
        assert states[name]["postfix_map.absent"]["result"] is True
        assert set(states[name]["postfix_map.absent"]["changes"]) == MAPS[name] | {"main.cf"}
        assert changed(states[name]) == changed(would[name])
        assert server.postfix.main_cf.read_bytes() == server.bare_main_cf
        assert {path.name for path in server.postfix.config_directory.iterdir()} == {"main.cf", "master.cf"}
        assert server.replies() == NO_MAPS
    assert [changed(again) for again in applied.apply("ispmail.clean").values()] == [{}, {}]


@pytest.fixture(params=["m1", "m2"])
def outdated(request, fleet):
    """A minion whose modules and library are of an older version, in which postfix_map.apply is missing."""
    server = fleet[request.param]
    ours = {
        path: path.read_text() for room in ("modules", "states", "utils") for path in server.synced.glob(f"{room}/*.py")
    }
    stamp = re.search(r'^STAMP = "(.+)"$', ours[server.synced / "utils" / "_ispmail_stamp.py"], re.MULTILINE)[1]
    for path, text in ours.items():
        old = text.replace(stamp, "1" * len(stamp)).replace('VERSION = "', 'VERSION = "0.0.1-before-')
        path.write_text(old.replace("def apply(pillar", "def apply_of_old(pillar"))
    assert "def apply_of_old(" in (server.synced / "modules" / "postfix_map_change.py").read_text()
    fleet.run("saltutil.refresh_modules", "async=False", target=request.param)
    yield request.param
    for path, text in ours.items():
        path.write_text(text)
    fleet.run("saltutil.refresh_modules", "async=False", target=request.param)


def test_modules_of_another_version_are_replaced_and_used_at_once(fleet, outdated):
    """m2 keeps its modules in memory (multiprocessing: False): there, too, the new ones do the work of this apply."""
    server = fleet[outdated]
    assert fleet.run("ispmail.version", target=outdated)[outdated].startswith("0.0.1-before-")
    states = fleet.apply(target=outdated)[outdated]
    assert set(results(states).values()) == {True}, states
    synced = states[SYNC]["changes"]["saltutil.sync_all"]
    assert "modules.postfix_map" in synced["modules"] and "utils._ispmail_stamp" in synced["utils"]
    assert server.replies() == CODES[outdated]
    assert SYNC not in fleet.apply(target=outdated)[outdated]
    assert not fleet.run("ispmail.version", target=outdated)[outdated].startswith("0.0.1")


def test_a_minion_can_fetch_the_formula_and_its_modules_only(fleet):
    """Nothing else of a checkout: .git/config may hold a token. No path leads out of a linked folder."""
    path = "pyproject.toml"
    assert (REPOSITORY / path).is_file()
    for way in (path, f"../{path}", f"_modules/../{path}", f"_modules/../../{path}", f"ispmail/../../{path}"):
        assert not fleet.run("cp.get_file_str", f"salt://{way}", target="m1")["m1"], way
    assert "def version" in fleet.run("cp.get_file_str", "salt://_modules/ispmail.py", target="m1")["m1"]
    served = fleet.run("cp.list_master", target="m1")["m1"]
    rooms = {"_modules", "_states", "_beacons", "_utils", "ispmail", "orch", "reactor", "top.sls"}
    assert {path.partition("/")[0] for path in served} == rooms
