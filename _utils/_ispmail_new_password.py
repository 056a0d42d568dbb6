"""Give pillar a new password by the master's sdb, if a rotation to it can begin; else the old one stays.

What is known of pillar is known by fingerprints: no server tells a password. So it does not matter whether a pillar
file looks the URI up on the master, or each minion does: what counts is that the fingerprints change.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any, NamedTuple

import _ispmail_fleet
import _ispmail_master
import _ispmail_proof
import _ispmail_stored
from _ispmail_errors import IspmailError, kind_of
from _ispmail_fleet import Servers
from _ispmail_master import Master
from _ispmail_rotation import mismatches, unanswered
from _ispmail_stored import Login, Store

MADE, GOES_ON, STAYS = "made", "goes on", "stays"

_UNCHANGED = (
    "its pillar has not changed with the value on the master: it has to look up the same URI, on the master, or on the "
    "minion in the same store"
)


class Outcome(NamedTuple):
    """What became of it."""

    what: str  # a new one was made, a rotation to the one in pillar goes on, or the one in use stays
    stops: list[str]  # why it stays, sentences
    would: list[str]  # what a rotation would do, sentences


class Site(NamedTuple):
    """The site that gets a new password, and how its servers are asked."""

    client: Any  # Salt's LocalClient
    master: Master
    name: str
    store: Store

    @property
    def servers(self) -> Servers:
        """Its servers."""
        return self.master.servers(self.master.site(self.name))

    @property
    def strangers(self) -> list[str]:
        """The servers that only other sites have."""
        sites = self.master.sites()
        servers = {server for other in sites for server in self.master.servers(sites[other]).all}
        return sorted(servers - set(self.servers.all))


class _Asked(NamedTuple):
    """What the servers say of pillar and table files before anything is written."""

    nonce: str
    pillar: Mapping[str, Any]  # of all servers of all sites: server to its fingerprints
    wanted: set[str | None]  # those of the database server's pillar
    live: set[str | None]  # those of the site's table files
    faults: list[str]


def prepare(site: Site, test: bool) -> Outcome:
    """Have pillar give a site a new password. No rotation may run meanwhile, and it starts none.

    Args:
        site: The site.
        test: Whether only to tell what would be done.

    Raises:
        InvalidInput: The configuration is wrong.
        Failed: sdb cannot be read.
    """
    before = site.store.read()
    stops = _ispmail_master.absent(site.master.targets(site.client, site.name, 1))
    if stops:
        return Outcome(STAYS, stops, [])
    asked = _ask(site)
    if asked.faults:
        return Outcome(STAYS, asked.faults, [])
    other = None if before.user is None else site.store.other_user(before.user)
    # An earlier call was cut off between the two values: the password is still the one in use.
    half = other is not None and asked.live == {_ispmail_proof.fingerprint(other, before.password, asked.nonce)}
    under_way, faults = _ispmail_fleet.under_way(site.client, site.servers.database)
    preview = site.master.preview(site.client, site.name)
    if not half and (under_way or asked.live - asked.wanted):
        return Outcome(GOES_ON, [], preview["would"])
    stops = list(dict.fromkeys([*faults, *preview["stops"]]))
    if stops or test:
        return Outcome(STAYS if stops else MADE, stops, preview["would"])
    return _change(site, before, Login(before.user if half else other, _ispmail_stored.new_password()), asked)


def _change(site: Site, before: Login, after: Login, asked: _Asked) -> Outcome:
    """Write a login, and leave it there if a rotation to it can begin."""
    stops: list[str] = ["it was cut off"]
    would: list[str] = []
    try:
        site.store.write(after)
        preview = site.master.preview(site.client, site.name)
        would = preview["would"]
        stops = list(dict.fromkeys([*_wrong_pillars(site, asked), *preview["stops"]]))
    except IspmailError as err:
        stops = [str(err)]
    except Exception as err:  # pylint: disable=broad-except
        # Salt's own work may raise anything, with any text.
        stops = [f"Salt has failed: {kind_of(err)}"]
    finally:
        if stops:
            stops += [*site.store.put_back(before), *_refresh(site)]
    return Outcome(STAYS if stops else MADE, stops, would)


def _refresh(site: Site) -> list[str]:
    """Nobody should go on with the pillar in which the new one was. Returns why somebody may."""
    try:
        _ispmail_fleet.present(site.client, [*site.servers.all, *site.strangers])
    except Exception as err:  # pylint: disable=broad-except
        text = "the servers may still have the new password in pillar: run saltutil.refresh_pillar on them"
        return [f"Salt has failed: {kind_of(err)}: {text}"]
    return []


def _ask(site: Site) -> _Asked:
    """Ask all servers of all sites, those of the others only to see later that nothing has changed there."""
    servers, nonce = site.servers, secrets.token_hex(16)
    wanted = _ispmail_fleet.prints(site.client, servers.database, nonce)
    used = _ispmail_fleet.prints(site.client, servers.mail, nonce, live=True)
    faults = [*unanswered(wanted, dict), *unanswered(used, dict), *mismatches(wanted, used, live=False)]
    values = {value for said in wanted.values() if isinstance(said, dict) for value in said["pillar"].values()}
    live = {value for said in used.values() if isinstance(said, dict) for value in said["live"].values()}
    return _Asked(nonce, {**_strangers(site, nonce), **wanted, **used}, values, live, faults)


def _strangers(site: Site, nonce: str) -> dict[str, Any]:
    return _ispmail_fleet.prints(site.client, _ispmail_fleet.present(site.client, site.strangers), nonce)


def _wrong_pillars(site: Site, asked: _Asked) -> list[str]:
    """Tell whose pillar has not the new password, and who has it although he should not.

    The preview, which comes first, has the site's servers refresh their pillar.
    """
    now = _ispmail_fleet.prints(site.client, site.servers.all, asked.nonce)
    faults = unanswered(now, dict)
    for server, said in now.items():
        if isinstance(said, dict):
            old = asked.pillar[server]["pillar"]
            same = [each for each, value in said["pillar"].items() if value == old.get(each)]
            if same:
                faults.append(f"{server}: {_UNCHANGED} ({', '.join(same)})")
    for server, said in _strangers(site, asked.nonce).items():
        before = asked.pillar.get(server)
        if isinstance(said, dict) and isinstance(before, dict) and said["pillar"] != before["pillar"]:
            faults.append(f"{server}: is of another site, and its pillar has changed too: each site needs its own URI")
    return faults
