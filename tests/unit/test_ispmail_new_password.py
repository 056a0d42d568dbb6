"""When a new password is made, when one goes on, and when the old one is put back. Servers as they may answer."""

import pytest

import _ispmail_fleet
import _ispmail_new_password
from _ispmail_errors import Failed
from _ispmail_master import Master
from _ispmail_new_password import GOES_ON, MADE, STAYS, Site
from _ispmail_proof import fingerprint

from .test_ispmail_stored import PASSWORD, USER, Sdb

SITES = {
    "main": {"database": ["db"], "mail": ["mx1", "mx2"], "tgt_type": "list"},
    "other": {"database": ["mx9"], "mail": ["mx9"], "tgt_type": "list"},
}


class Servers:
    """Servers whose pillar looks sdb up, and whose table files have a login."""

    def __init__(self, sdb, user="u_a"):
        self.sdb, self.user = sdb, user
        self.in_use = (sdb.get(USER, user), sdb[PASSWORD])
        self.down = set()
        self.pillars = {}  # server to another password in its pillar
        self.extra = {}  # (server, function) to another answer
        self.passwords = 1
        self.refreshed = []

    def cmd_iter_no_block(self, servers, function, arguments=(), kwarg=None, **_):
        if function == "saltutil.refresh_pillar":
            self.refreshed += servers
        for server in servers:
            if server not in self.down:
                yield {server: {"ret": self.answer(server, function, arguments)}}

    def answer(self, server, function, arguments):
        login = (self.sdb.get(USER, self.user), self.pillars.get(server, self.sdb[PASSWORD]))
        if (server, function) in self.extra:
            return self.extra[server, function]
        if function == "postfix_map.fingerprints":
            nonce, live = arguments
            if server == "mx9":
                login = ("other", self.pillars.get("mx9", "its own"))
            found = {"pillar": {"a": fingerprint(*login, nonce)}}
            return {**found, "live": {"a": fingerprint(*self.in_use, nonce)}} if live else found
        if function == "postfix_database.credential_accepted":
            return {"changes": {} if login == self.in_use else {"u": {}}, "warnings": []}
        if function == "postfix_database.read":
            account = {"managed": True, "passwords": self.passwords, "locked": False}
            return {"accounts": {"u": account, "x": {**account, "managed": False, "passwords": 3}}, "pair": {}}
        return {"unnamed": [], "notes": []} if function == "postfix_database.holders" else True


@pytest.fixture
def sdb():
    return Sdb(main="old")


@pytest.fixture
def servers(sdb):
    return Servers(sdb)


def site(servers, sdb, user=None):
    def match(target, tgt_type):
        return {"minions": target}

    master = Master({"sites": SITES}, match, lambda servers, tgt_type: {})
    return Site(servers, master, "main", sdb.store(user=user))


def prepare(servers, sdb, test=False, user=None):
    return _ispmail_new_password.prepare(site(servers, sdb, user), test)


def test_a_new_one_is_in_pillar(servers, sdb):
    would = prepare(servers, sdb, test=True)
    assert (would.what, would.stops, sdb.written) == (MADE, [], [])
    assert would.would[0].startswith("accept the new password next to the one in use: db")
    done = prepare(servers, sdb)
    assert (done.what, done.stops, sdb.written) == (MADE, [], [PASSWORD]) and len(sdb[PASSWORD]) == 24


def test_the_rotation_to_the_one_in_pillar_goes_on(servers, sdb):
    sdb[PASSWORD] = "new"
    for test in (True, False):
        assert prepare(servers, sdb, test=test).what == GOES_ON
    assert sdb.written == []


def test_so_it_does_where_the_database_still_has_the_old_one_too(servers, sdb):
    servers.passwords = 2
    assert prepare(servers, sdb).what == GOES_ON and sdb.written == []


def test_so_it_does_where_the_other_account_is_open(servers, sdb):
    read = servers.answer("db", "postfix_database.read", [])
    servers.extra["db", "postfix_database.read"] = {**read, "pair": {"u_b": {"locked": False}}}
    assert prepare(servers, sdb).what == GOES_ON
    servers.extra["db", "postfix_database.read"] = {**read, "pair": {"u_b": {"locked": True}}}
    assert prepare(servers, sdb).what == MADE


def test_so_it_does_where_a_table_file_has_another_one(servers, sdb):
    """The database takes pillar's only, and one server was not seen."""
    nonces = []
    real = servers.answer

    def answer(server, function, arguments):
        said = real(server, function, arguments)
        if server == "mx2" and "live" in (said if isinstance(said, dict) else {}):
            nonces.append(arguments[0])
            return {**said, "live": {"a": "another"}}
        return said

    servers.answer = answer
    assert prepare(servers, sdb).what == GOES_ON and nonces


@pytest.mark.parametrize(
    ("server", "reason"), [("db", "the database server db does not answer"), ("mx2", "mx2: does not answer")]
)
def test_a_server_that_is_down(servers, sdb, server, reason):
    servers.down.add(server)
    done = prepare(servers, sdb)
    assert done.what == STAYS and any(reason in each for each in done.stops) and sdb.written == []


@pytest.mark.parametrize(
    ("server", "function"),
    [
        ("db", "postfix_database.read"),
        ("db", "postfix_database.credential_accepted"),
        ("mx1", "postfix_map.fingerprints"),
    ],
)
@pytest.mark.parametrize("answer", ["ERROR: no", None, {"accounts": {"u": {}}, "pair": {}}])
def test_what_is_not_known_stops_it(servers, sdb, server, function, answer):
    servers.extra[server, function] = answer
    done = prepare(servers, sdb)
    assert done.what == STAYS and any(each.startswith(f"{server}: ") for each in done.stops) and sdb.written == []


def test_a_holder_stops_it_before_anything_is_written(servers, sdb):
    found = {"unnamed": [{"text": "/root/x holds it"}], "notes": []}
    servers.extra["mx1", "postfix_database.holders"] = found
    assert prepare(servers, sdb).stops == ["mx1: /root/x holds it"] and sdb.written == []


def test_a_pillar_that_does_not_change(servers, sdb):
    servers.pillars["mx2"] = "old"
    done = prepare(servers, sdb)
    assert done.what == STAYS and sdb[PASSWORD] == "old"
    assert any(each.startswith("mx2: its pillar has not changed with the value on the master") for each in done.stops)
    assert servers.refreshed[-4:] == ["db", "mx1", "mx2", "mx9"], "nobody keeps a pillar with the new one"


def test_a_pillar_of_another_site_that_changes_too(servers, sdb):
    put = sdb.put

    def shared(uri, value):
        put(uri, value)
        servers.pillars["mx9"] = value

    done = _ispmail_new_password.prepare(
        site(servers, sdb)._replace(store=sdb.store(user=None)._replace(put=shared)), False
    )
    assert done.what == STAYS and sdb[PASSWORD] == "old"
    assert done.stops == ["mx9: is of another site, and its pillar has changed too: each site needs its own URI"]


def test_a_write_that_fails(servers, sdb):
    sdb.fails_at = PASSWORD
    done = prepare(servers, sdb)
    assert done.what == STAYS and done.stops[0].startswith(f"{PASSWORD} cannot be written")
    assert len(done.stops) == 1, "there was nothing to put back"


def test_what_is_cut_off_is_put_back(servers, sdb, monkeypatch):
    """By an admin's Ctrl-C, or an error of Salt's."""
    calls = []

    def would_stop(*_):
        calls.append(1)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return []

    monkeypatch.setattr(_ispmail_fleet, "would_stop", would_stop)
    with pytest.raises(KeyboardInterrupt):
        prepare(servers, sdb)
    assert sdb.written == [PASSWORD] * 2 and sdb[PASSWORD] == "old"


@pytest.mark.parametrize("can_be_put_back", [True, False])
def test_an_error_of_salts_hides_no_reason(servers, sdb, monkeypatch, can_be_put_back):
    """Whether the old password is back in sdb is told, whatever came between."""
    before = sdb[PASSWORD]

    def preview(*_):
        if sdb[PASSWORD] == before:
            return {"would": [], "stops": []}
        sdb.fails_at = None if can_be_put_back else PASSWORD
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Master, "preview", preview)
    done = prepare(servers, sdb)
    assert done.what == STAYS and done.stops[0] == "Salt has failed: OSError (No space left on device)"
    assert (sdb[PASSWORD] == before) == can_be_put_back
    assert [each[:41] for each in done.stops[1:]] == ["The login of before could not be put back"] * (
        not can_be_put_back
    )


def test_servers_that_cannot_be_asked_any_more_hide_no_reason(servers, sdb, monkeypatch):
    servers.pillars["mx2"] = "old"
    real = _ispmail_fleet.present

    def present(client, asked, refresh=True):
        if sdb.written == [PASSWORD] * 2:
            raise OSError
        return real(client, asked, refresh)

    monkeypatch.setattr(_ispmail_fleet, "present", present)
    done = prepare(servers, sdb)
    assert done.what == STAYS and sdb[PASSWORD] == "old"
    assert any(each.startswith("mx2: its pillar has not changed") for each in done.stops)
    assert done.stops[-1].startswith("Salt has failed: OSError: the servers may still have the new password in pillar")


def test_by_two_accounts():
    sdb = Sdb(main="old", main_user="u_a")
    done = prepare(Servers(sdb), sdb, user=USER)
    assert (done.what, sdb.written, sdb[USER]) == (MADE, [USER, PASSWORD], "u_b")


def test_by_two_accounts_what_was_cut_off_between_the_two():
    """The user is the new one already, the password is the one in use."""
    sdb = Sdb(main="old", main_user="u_a")
    servers = Servers(sdb)
    sdb[USER] = "u_b"
    done = prepare(servers, sdb, user=USER)
    assert (done.what, sdb.written, sdb[USER]) == (MADE, [PASSWORD], "u_b") and sdb[PASSWORD] != "old"
    done = prepare(servers, sdb, user=USER)
    assert done.what == GOES_ON and len(sdb.written) == 1


def test_an_sdb_that_cannot_be_read(servers):
    with pytest.raises(Failed, match="holds no text"):
        prepare(servers, Sdb(main=None))
