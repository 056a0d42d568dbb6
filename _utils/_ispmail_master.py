"""The sites as the master knows them: which servers each one has, whom a rotation goes to, and what would stop it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import _ispmail_fleet
import _ispmail_sites
from _ispmail_errors import InvalidInput
from _ispmail_fleet import Servers

_ELSEWHERE = "so nothing is rotated there: whoever changes its password runs salt-run ispmail.reapply after that"
# What poll(2) can still wait.
_MOST_SECONDS = 1_000_000


def require_seconds(**given: object) -> None:
    """See that arguments are numbers of seconds, before anything is done.

    Raises:
        InvalidInput: Names each that is none.
    """
    wrong = [
        name
        for name, value in given.items()
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= _MOST_SECONDS
    ]
    if wrong:
        raise InvalidInput(f"{' and '.join(wrong)} must be a number of seconds, at most {_MOST_SECONDS:,}")


class Master(NamedTuple):
    """What the runner's files share. Salt's own functions come as arguments."""

    configuration: object  # what the master's configuration has as ispmail
    match: Callable[[Any, str], Mapping[str, Any]]  # CkMinions.check_minions: target and its type
    cached_grains: Callable[..., Mapping[str, object]]  # the runner cache.grains

    def sites(self) -> dict[str, dict[str, Any]]:
        """Read the sites, as `_ispmail_sites.sites` does.

        Raises:
            InvalidInput: Lists all faults.
        """
        return _ispmail_sites.sites(self.configuration)

    def rotated(self) -> dict[str, dict[str, Any]]:
        """Read the sites whose database Salt manages: in the others somebody else changes the password.

        Raises:
            InvalidInput: There is none, or the configuration is wrong.
        """
        found = {name: site for name, site in self.sites().items() if site.get("database")}
        if not found:
            raise InvalidInput(f"ispmail:sites has no site with a database, {_ELSEWHERE}")
        return found

    def site(self, name: str) -> dict[str, Any]:
        """Read the targets of one site.

        Raises:
            InvalidInput: There is no such site, or the configuration is wrong.
        """
        known = self.sites()
        # The command line makes a number of a name that looks like one.
        found = known.get(str(name))
        if found is None:
            raise InvalidInput(f"the master's configuration has no site {name}: it has {', '.join(known)}")
        return found

    def matching(self, site: Mapping[str, Any], role: str) -> list[str]:
        """List the servers of a site in a role, whether they answer or not, but not those that are gone for good."""
        if not site.get(role):
            return []
        found = self.match(site[role], site["tgt_type"])
        # Names in a list whose keys are missing count too: those servers are down, not forgotten.
        return sorted({*found["minions"], *found.get("missing", [])} - set(site["without"]))

    def servers(self, site: Mapping[str, Any]) -> Servers:
        """List the servers of a site, and the names by which its database may list their connections."""
        database, mail = (self.matching(site, role) for role in ("database", "mail"))
        # From the master's cache: a server that is down is one of the site's too.
        grains = self.cached_grains(sorted({*database, *mail}), tgt_type="list")
        return Servers(database, mail, _ispmail_sites.hosts(grains, site["addresses"]))

    def targets(self, client: Any, name: str, batch: object) -> dict[str, Any]:
        """Find out which servers a rotation of a site goes to, in which order, and why it cannot start.

        Args:
            client: Salt's LocalClient.
            name: The site.
            batch: How many mail servers go at a time, see `_ispmail_sites.batch_size`.

        Returns:
            As the runner ``ispmail.sites`` does, for one site.
        """
        site = self.site(name)
        roles = {role: self.matching(site, role) for role in ("database", "mail", "canary")}
        up = _ispmail_fleet.present(client, sorted({server for servers in roles.values() for server in servers}))
        mail = [server for server in roles["mail"] if server in up]
        canary = [server for server in roles["canary"] if server in up]
        faults = unmatched(site, roles)
        faults += [f"the database server {server} does not answer" for server in roles["database"] if server not in up]
        faults += _canary_faults(site, roles, canary)
        if not site.get("canary"):
            canary = mail[:1]
            if roles["mail"] and not mail:
                faults.append("no mail server answers")
        rest = [server for server in mail if server not in canary]
        size = _ispmail_sites.batch_size(batch, len(rest))
        return {
            "database": roles["database"],
            "canary": canary,
            "batches": [rest[start : start + size] for start in range(0, len(rest), size)],
            "down": [server for server in roles["mail"] if server not in up],
            "faults": [said_of(name, fault) for fault in faults],
        }

    def preview(self, client: Any, name: str) -> dict[str, list[str]]:
        """Tell what a rotation of a site would do, and what would stop it: ``would`` and ``stops``, sentences."""
        who = self.targets(client, name, 1)
        rest = [server for batch in who["batches"] for server in batch]
        up = [*who["database"], *who["canary"], *rest]
        stops = absent(who)
        if not who["faults"]:
            stops += _ispmail_fleet.would_stop(client, self.servers(self.site(name)), up)
        would = [f"accept the new password next to the one in use: {', '.join(who['database'])}"]
        would += [f"apply it, and wait for old processes: {', '.join(each)}" for each in (who["canary"], rest) if each]
        would.append(f"prove that all use it, then drop the old one: {', '.join(who['database'])}")
        return {"would": would, "stops": list(dict.fromkeys(stops))}


def of(opts: Mapping[str, Any], functions: Mapping[str, Any], minions: Callable[[Any], Any]) -> Master:
    """Tell what this master knows.

    Args:
        opts: Its configuration.
        functions: Salt's functions in a runner.
        minions: salt.utils.minions.CkMinions.
    """

    def match(target: Any, tgt_type: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = minions(opts).check_minions(target, tgt_type)
        return found

    return Master(opts.get("ispmail"), match, functions["cache.grains"])


def unmatched(site: Mapping[str, Any], found: Mapping[str, Sequence[str]]) -> list[str]:
    """Tell what a proof needs of a site and has not: its database server, and mail servers.

    Args:
        site: Its targets.
        found: ``database`` and ``mail`` to the servers that match.
    """
    return [
        f"{role}, {site[role]}, matches no server" if site.get(role) else f"it has no {role}, {_ELSEWHERE}"
        for role in ("database", "mail")
        if not found[role]
    ]


def said_of(site: str, fault: str) -> str:
    """A sentence on what is wrong with a site's targets."""
    return f"ispmail:sites:{site}: {fault}"


def absent(who: Mapping[str, Any]) -> list[str]:
    """Tell why a rotation to these servers would be stopped before any of them is asked more than whether it is there.

    Args:
        who: What `Master.targets` returned.
    """
    return [*who["faults"], *(f"{server}: does not answer" for server in who["down"])]


def _canary_faults(site: Mapping[str, Any], roles: Mapping[str, Sequence[str]], canary: Sequence[str]) -> list[str]:
    faults = []
    outside = [server for server in roles["canary"] if server not in roles["mail"]]
    if outside:
        faults.append(
            f"the canary {', '.join(outside)} is not one of the servers of mail: no proof would be asked of it"
        )
    if site.get("canary") and not canary:
        faults.append(f"the canary, {site['canary']}, does not answer: repair it, or name another one")
    return faults
