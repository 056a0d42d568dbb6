"""The sites in the master's configuration: which servers share one account of one database. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from _ispmail_errors import InvalidInput, listed, printable

_KEYS = ("database", "mail", "canary", "tgt_type", "without", "addresses", "sdb_password", "sdb_user", "accounts")
_TARGETS = ("glob", "list", "compound", "grain", "grain_pcre", "pcre", "pillar", "pillar_pcre", "nodegroup", "ipcidr")
# The grains by which a database may list a server's connections.
_ADDRESSES = ("ipv4", "ipv6", "fqdn", "host", "fqdns")
# How many of them are taken of one grain of a server, and how long a name of a host is at most.
_MOST_ADDRESSES, _LONGEST_NAME = 100, 255


def sites(configuration: object) -> dict[str, dict[str, Any]]:
    """Read the sites: name to targets, with their defaults.

    Args:
        configuration: What the master's configuration has as ``ispmail``.

    Raises:
        InvalidInput: Lists all faults.
    """
    configured = configuration.get("sites") if isinstance(configuration, Mapping) else None
    if not isinstance(configured, Mapping) or not configured:
        raise InvalidInput("the master's configuration has no ispmail:sites: see docs/master.conf")
    faults: list[str] = []
    found: dict[str, dict[str, Any]] = {}
    for site, given in configured.items():
        if not isinstance(given, Mapping) or not re.fullmatch(r"[A-Za-z0-9_.-]+", str(site)):
            faults.append(f"ispmail:sites:{_shown(site)} must be a mapping, its name of letters, digits, _, . and -")
            continue
        targets: dict[str, Any] = {"tgt_type": "glob", "without": [], "addresses": [], **given}
        unknown = [key for key in targets if key not in _KEYS]
        if not targets.get("mail"):
            faults.append(f"ispmail:sites:{site}:mail is missing")
        if "database" in given and not given["database"]:
            fix = "leave the key out where Salt does not manage the database"
            faults.append(f"ispmail:sites:{site}:database names no server: {fix}")
        faults += [
            f"ispmail:sites:{site}:{key} is not a key: known are {', '.join(_KEYS)}" for key in map(_shown, unknown)
        ]
        if targets["tgt_type"] not in _TARGETS:
            faults.append(f"ispmail:sites:{site}:tgt_type must be one of {', '.join(_TARGETS)}")
        for key in ("database", "mail", "canary"):
            given_targets = targets.get(key) or ""
            if not isinstance(given_targets, str) and not _are_texts(given_targets):
                faults.append(f"ispmail:sites:{site}:{key} must be a text, or a list of texts, see tgt_type")
        for key, what in (("without", "servers"), ("addresses", "addresses or names of hosts")):
            if not _are_texts(targets[key]):
                faults.append(f"ispmail:sites:{site}:{key} must be a list of {what}")
        faults += [f"ispmail:sites:{site}:{fault}" for fault in _login_faults(targets)]
        found[str(site)] = targets
    if faults:
        raise InvalidInput(listed("the master's configuration has errors, see docs/master.conf", faults))
    return found


def _login_faults(targets: Mapping[str, Any]) -> list[str]:
    """What is wrong with the keys that say where sdb has the login. Their values are never shown: one may be it."""
    faults = [
        f"{key} must be profile and key, such as myvault/secret/mail/main, without sdb://: Salt replaces a URI by its "
        "value"
        for key in ("sdb_password", "sdb_user")
        if key in targets and not (isinstance(targets[key], str) and re.fullmatch(r"(?!sdb:)[^/\s]+/\S+", targets[key]))
    ]
    if "sdb_user" in targets and "sdb_password" not in targets:
        faults.append("sdb_user is of no use without sdb_password")
    accounts = targets.get("accounts", ["a", "b"])
    if not _are_texts(accounts) or len(accounts) != 2 or accounts[0] == accounts[1]:
        faults.append("accounts must be a list of two different users, as rotation:accounts in pillar")
    if "accounts" in targets and "sdb_user" not in targets:
        faults.append("accounts is of no use without sdb_user")
    return faults


def _shown(key: object) -> str:
    return printable(str(key)[:_LONGEST_NAME])


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def batch_size(batch: object, number: int) -> int:
    """Tell how many of a number of servers go at a time.

    Args:
        batch: A number of servers, or a share of them such as 25%.

    Raises:
        InvalidInput: It is neither.
    """
    is_huge = isinstance(batch, int) and abs(batch) >= 10**6
    share = None if is_huge else re.fullmatch(r"([0-9]{1,6})(%?)", str(batch))
    if not share or not int(share[1]):
        raise InvalidInput("ispmail:rotation:batch must be a number of servers, or a share such as 25%")
    return max(1, math.ceil(number * int(share[1]) / 100)) if share[2] else int(share[1])


def hosts(grains: Mapping[str, object], addresses: Iterable[str]) -> list[str]:
    """List the names and addresses of a site's servers.

    Args:
        grains: Server to its grains.
        addresses: What else the master's configuration names, such as an address behind which the servers are.
    """
    found = {*grains, *addresses}
    for known in grains.values():
        # A server that the master has never heard of has none.
        named = known if isinstance(known, Mapping) else {}
        for key in _ADDRESSES:
            value = named.get(key)
            values = value[:_MOST_ADDRESSES] if isinstance(value, list) else [value]
            # Each server chooses its grains.
            found |= {host for host in values if isinstance(host, str) and 0 < len(host) <= _LONGEST_NAME}
    return sorted(found)
