"""What the master asks of which server, how long it waits, and what it makes of the answers."""

import types

import pytest

import _ispmail_fleet
from _ispmail_fleet import Servers

SERVERS = Servers(["db", "down"], ["mx1", "mx2"], ["192.0.2.1"])
UP = ["db", "mx1"]
NOBODY = {"unnamed": [], "notes": []}
PRINTS = {"pillar": {"a": "hash"}}
WELL = {
    "test.ping": True,
    "saltutil.refresh_pillar": True,
    "state.apply": {},
    "postfix_map.fingerprints": {**PRINTS, "live": {"a": "hash"}},
    "postfix_database.refused": [],
    "postfix_map.old_processes": [],
    "postfix_database.holders": NOBODY,
    "postfix_database.credential_accepted": {},
    "postfix_database.read": {"refused_logins": 7},
}


class Site:
    """Servers that answer as those that are all well, but for some answers; and what they were asked."""

    def __init__(self, answers=()):
        self.answers = {**WELL, **dict(answers)}
        self.asked = []

    def cmd_iter_no_block(self, servers, function, arguments=(), **options):
        assert options.pop("tgt_type") == "list", "a name of a server is no pattern"
        self.asked.append((list(servers), function, list(arguments), options))
        for server in servers:
            yield {server: {"ret": self.answers.get((server, function), self.answers[function])}}
        raise AssertionError("all have answered, and it is still waited for")

    def of(self, function):
        """Whom a function was asked of, with what."""
        return [(servers, *rest) for servers, name, *rest in self.asked if name == function]


def test_a_server_that_is_down_is_waited_for_five_seconds_and_once():
    """Else Salt would wait for it as long as the master's configuration says, and with each question."""
    site = Site({("mx2", "test.ping"): False, ("mx1", "saltutil.refresh_pillar"): "ERROR: no"})
    assert _ispmail_fleet.present(site, ["mx2", "mx1", "db"]) == ["db"]
    assert site.asked == [
        (["mx2", "mx1", "db"], "test.ping", [], {"timeout": 5, "gather_job_timeout": 5}),
        # It waits until the pillar is there.
        (["db", "mx1"], "saltutil.refresh_pillar", [True, 30], {"timeout": 35}),
    ]


def test_many_servers_have_more_time():
    """Thousands of returns take a master longer than five seconds: servers that were up counted as down."""
    site = Site()
    many = [f"mx{number}" for number in range(2500)]
    assert _ispmail_fleet.present(site, many) == sorted(many)
    assert [(arguments, options) for _, _, arguments, options in site.asked] == [
        ([], {"timeout": 30, "gather_job_timeout": 30}),
        ([True, 55], {"timeout": 60}),
    ]


def test_pillar_is_not_refreshed_again_where_that_has_just_been_done():
    """A rotation did so twice within seconds; each time the master compiled the pillar of every server."""
    site = Site({("mx2", "test.ping"): False})
    assert _ispmail_fleet.present(site, ["mx2", "mx1", "db"], refresh=False) == ["db", "mx1"]
    assert [function for _, function, *_ in site.asked] == ["test.ping"]


def test_nobody_is_asked_where_nobody_is():
    site = Site()
    assert _ispmail_fleet.present(site, []) == []
    assert _ispmail_fleet.holders(site, SERVERS, []) == ([], {})
    assert site.asked == []


def test_who_is_asked_for_holders():
    site = Site({("mx1", "postfix_database.holders"): {"unnamed": [{"text": "x" * 1000}], "notes": []}})
    faults, notes = _ispmail_fleet.holders(site, SERVERS, UP)
    assert notes == {"db": [], "mx1": []} and faults == [f"mx1: {'x' * 495}"]
    options = {"search": "old"}
    assert site.of("postfix_database.holders") == [
        (["db"], [], {"timeout": 60, "kwarg": {"site_hosts": ["192.0.2.1"], **options}}),
        (["mx1"], [], {"timeout": 60, "kwarg": options}),
    ]
    assert site.of("state.apply") == []


def test_the_proof_has_mail_servers_look_for_the_other_account_of_a_pair():
    """The database server lists its connections; only the servers where they come from know the programs."""
    listed = [f"192.0.2.1:{port}" for port in range(5001)]
    site = Site({("db", "postfix_database.holders"): {**NOBODY, "connections": listed}})
    # Those behind it were left out without a word.
    assert (
        "db: 5001 connections of the other account of the pair: whose they are is not known, as only 5000 are looked at"
        in _ispmail_fleet.proof(site, SERVERS, UP, timeout=9)[0]
    )
    asked = [(servers, options["kwarg"]) for servers, _, options in site.of("postfix_database.holders")]
    assert asked == [
        (["db"], {"site_hosts": ["192.0.2.1"], "search": "none"}),
        (["mx1"], {"connections": listed[:5000], "search": "none"}),
    ]
    # Before a rotation that account is the one in use.
    site.asked.clear()
    _ispmail_fleet.holders(site, SERVERS, UP)
    assert not [each for each in site.of("postfix_database.holders") if "connections" in each[-1]["kwarg"]]


def test_older_modules_are_synced_and_asked_again():
    site = Site({("mx1", "postfix_database.holders"): "'postfix_database.holders' is not available."})
    assert _ispmail_fleet.holders(site, SERVERS, ["mx1", "mx2"])[0][0].startswith("mx1: 'postfix_database.holders' is")
    question = {"timeout": 60, "kwarg": {"search": "old"}}
    assert site.asked == [
        (["mx1", "mx2"], "postfix_database.holders", [], question),
        (["mx1"], "state.apply", ["ispmail.modules"], {"timeout": 60, "kwarg": {"queue": 100}}),
        (["mx1"], "postfix_database.holders", [], question),
    ]


def test_what_a_proof_asks():
    """The nonce, 128 bits, is the same for all servers: only then their answers can be compared."""
    site = Site()
    faults, maps = _ispmail_fleet.proof(site, SERVERS, UP, timeout=9)
    assert faults == ["down: does not answer", "mx2: does not answer"] and maps == {"mx1": 1}
    (_, (nonce, live), _), (_, (again,), _) = site.of("postfix_map.fingerprints")
    assert nonce == again and len(bytes.fromhex(nonce)) == 16 and live is False
    wait = {"timeout": 9}
    assert [each[::2] for each in site.of("postfix_map.fingerprints")] == [(["db"], wait), (["mx1"], wait)]
    assert site.of("postfix_database.refused") == site.of("postfix_map.old_processes") == [(["mx1"], [], wait)]
    # A file that holds pillar's own password is no holder of another one.
    assert [options["kwarg"]["search"] for *_, options in site.of("postfix_database.holders")] == ["none"] * 2


def test_an_error_in_place_of_old_processes_is_one_line():
    site = Site({("mx1", "postfix_map.old_processes"): "ERROR: no"})
    assert _ispmail_fleet.proof(site, Servers(["db"], ["mx1"], []), UP, timeout=9)[0] == ["mx1: ERROR: no"]


def test_what_a_dry_run_of_a_rotation_asks():
    """Nothing is changed, and table files do not count: they have the old password until the rotation."""
    site = Site()
    assert _ispmail_fleet.would_stop(site, SERVERS, UP) == []
    assert site.of("postfix_database.credential_accepted") == [
        (["db"], [], {"timeout": 60, "kwarg": {"test": True}}),
    ]
    ((servers, (nonce, live), options),) = site.of("postfix_map.fingerprints")
    assert (servers, live, options) == (["db", "mx1"], False, {"timeout": 60}) and len(bytes.fromhex(nonce)) == 16


def test_refused_logins_of_a_server_that_is_down_are_not_waited_for():
    site = Site()
    assert _ispmail_fleet.refused_logins(site, ["db"]) == {"db": 7}
    assert site.asked == [(["db"], "postfix_database.read", [], {"timeout": 5, "gather_job_timeout": 5})]


@pytest.mark.parametrize(("clock", "found"), [([300, 301], {"mx1": 5, "mx2": 6}), ([300.5], {"mx1": 5})])
def test_five_minutes_are_the_longest(monkeypatch, clock, found):
    """A server may say for ever that it is at work. What has come is looked at without a pause."""
    slept = []
    readings = iter([0, 0, *clock])
    monkeypatch.setattr(
        _ispmail_fleet, "time", types.SimpleNamespace(monotonic=lambda: next(readings), sleep=slept.append)
    )
    returns = [{"mx1": {"ret": 5}}, None, {"mx2": {"ret": 6}}, None]
    client = types.SimpleNamespace(cmd_iter_no_block=lambda *_, **__: (each for each in returns))
    assert _ispmail_fleet._ask(client, ["mx1", "mx2", "mx3"], "test.ping") == found
    assert slept == [0.02] * (len(found) - 1)
