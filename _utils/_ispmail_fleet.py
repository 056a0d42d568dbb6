"""Ask the servers of a site through the master: who is there, who uses which password, who else holds it."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from _ispmail_errors import printable
from _ispmail_rotation import (
    LONGEST_LINE,
    checked,
    few,
    is_change,
    is_holders,
    is_live_prints,
    is_logins,
    is_prints,
    is_server,
    is_texts,
    mismatches,
    unanswered,
    unnamed,
)
from _ispmail_status import Answers, is_compared, is_found

# How long a server may take to say that it is there, to read its pillar anew, and to search its files. In seconds.
_PING_SECONDS, _PILLAR_SECONDS, _SEARCH_SECONDS = 5, 30, 60
# For so many servers a second more: their returns queue at the master, and one that waits there is no server down.
_PER_SECOND = 100
# How long to wait at most for a server that says again and again that it is still at work, in seconds.
_LONGEST_SECONDS = 300
# How many connections of the other account of a pair the mail servers are asked about.
_MOST_CONNECTIONS = 5000
# How often to look for returns, in seconds.
_POLL_SECONDS = 0.02

_Said = dict[str, Any]


class Servers(NamedTuple):
    """The servers of a site, whether they answer or not. One may be in both roles."""

    database: Sequence[str]
    mail: Sequence[str]
    hosts: Sequence[str]  # their names and addresses, as a database may list their connections

    @property
    def all(self) -> list[str]:
        """Each server once."""
        return sorted({*self.database, *self.mail})


def present(client: Any, servers: Sequence[str], refresh: bool = True) -> list[str]:
    """List those of the servers that answer.

    Args:
        refresh: Whether they have to refresh their pillar. For the master that costs more than all else of a job.
    """
    more = len(servers) // _PER_SECOND
    # A server that is down is waited for once, and not for long.
    waits = {"timeout": _PING_SECONDS + more, "gather_job_timeout": _PING_SECONDS + more}
    answers = _ask(client, servers, "test.ping", **waits)
    here = sorted(server for server, answer in answers.items() if answer is True)
    if not refresh:
        return here
    # How long a server itself waits for its pillar; we wait a little longer, for what it says then.
    wait = _PILLAR_SECONDS + more
    refreshed = _ask(client, here, "saltutil.refresh_pillar", [True, wait], timeout=wait + _PING_SECONDS)
    return [server for server in here if refreshed.get(server) is True]


def holders(
    client: Any, servers: Servers, up: Sequence[str], search: str = "old"
) -> tuple[list[str], dict[str, list[str]]]:
    """Ask the servers that answer who else holds the password, and is not named in pillar.

    Args:
        search: As for `_ispmail_holders.find`. A file that holds pillar's own password keeps its login.

    Returns:
        Sentences on what was found, or could not be found out; and server to its notes.
    """
    faults: list[str] = []
    notes: dict[str, list[str]] = {}
    connections: list[str] = []
    for role, options in ((servers.database, {"site_hosts": list(servers.hosts)}), (servers.mail, {})):
        there = [server for server in role if server in up]
        # A mail server that has the new account cannot list the connections of the other one itself.
        more = {"connections": connections} if connections and search == "none" and not options else {}
        said = _ask_holders(client, there, {**options, **more, "search": search})
        answers = checked({server: said.get(server) for server in there}, is_holders)
        faults += [*unnamed(answers), *unanswered(answers, dict)]
        for server, answer in answers.items():
            told = answer if isinstance(answer, Mapping) else {}
            notes.setdefault(server, []).extend(told.get("notes", []))
            found = told.get("connections", [])
            connections += found[:_MOST_CONNECTIONS]
            if search == "none" and len(found) > _MOST_CONNECTIONS:
                faults.append(
                    f"{server}: {len(found)} connections of the other account of the pair: whose they are is not "
                    f"known, as only {_MOST_CONNECTIONS} are looked at"
                )
    return _lines(faults), {server: _lines(told) for server, told in notes.items()}


def proof(client: Any, servers: Servers, up: Sequence[str], timeout: int) -> tuple[list[str], dict[str, int]]:
    """Find out why it is not proved that all mail servers use the password of the database server's pillar.

    Returns:
        Sentences, none where it is proved; and mail server to the number of its maps.
    """
    nonce = secrets.token_hex(16)
    ask = _asker(client, up, timeout)
    wanted = ask(servers.database, "postfix_map.fingerprints", [nonce, False], is_prints)
    used = ask(servers.mail, "postfix_map.fingerprints", [nonce], is_live_prints)
    refused = ask(servers.mail, "postfix_database.refused", [], is_logins)
    old = ask(servers.mail, "postfix_map.old_processes", [], is_texts)
    # Check the answers separately: one host can be both database and mail server.
    faults = [*unanswered(wanted, dict), *unanswered(used, dict), *unanswered(refused, list), *unanswered(old, list)]
    faults += mismatches(wanted, used)
    for server in servers.mail:
        for login in refused[server] if isinstance(refused[server], list) else []:
            faults.append(f"{server}: {login['host']} refuses the login of {', '.join(login['maps'])}")
        for process in old[server] if isinstance(old[server], list) else []:
            faults.append(f"{server}: {process} still uses an older table file")
    faults += holders(client, servers, up, search="none")[0]
    maps = {server: len(said["live"]) for server, said in used.items() if isinstance(said, dict)}
    return _lines(faults), maps


def prints(client: Any, servers: Sequence[str], nonce: str, live: bool = False) -> _Said:
    """Ask servers for the fingerprints of the logins in their pillar: server to what it returned, `checked`.

    Args:
        live: Whether to ask for those of the table files too.
    """
    said = _ask(client, servers, "postfix_map.fingerprints", [nonce, live], timeout=_SEARCH_SECONDS)
    return checked({server: said.get(server) for server in servers}, is_live_prints if live else is_prints)


def under_way(client: Any, database: Sequence[str]) -> tuple[bool, list[str]]:
    """Find out whether the database has still to take pillar's login, or to drop another one.

    Returns:
        That, and why it is not known.
    """
    wait = {"timeout": _SEARCH_SECONDS}
    dry = _ask(client, database, "postfix_database.credential_accepted", kwarg={"test": True}, **wait)
    read = _ask(client, database, "postfix_database.read", **wait)
    accepts: _Said = checked({server: dry.get(server) for server in database}, is_change)
    seen: _Said = checked({server: read.get(server) for server in database}, is_server)
    faults = [*unanswered(accepts, dict), *unanswered(seen, dict)]
    if faults:
        return False, _lines(faults)
    accounts = [account for said in seen.values() for account in said["accounts"].values() if account["managed"]]
    others = [account for said in seen.values() for account in said["pair"].values()]
    return (
        any(said["changes"] for said in accepts.values())
        or any(account["passwords"] not in (1, None) for account in accounts)
        or not all(account["locked"] for account in others)
    ), []


def would_stop(client: Any, servers: Servers, up: Sequence[str]) -> list[str]:
    """Find out why a rotation would stop, as far as that can be known before it."""
    database, mail = ([server for server in role if server in up] for role in (servers.database, servers.mail))
    wait = {"timeout": _SEARCH_SECONDS}
    accept = _ask(client, database, "postfix_database.credential_accepted", kwarg={"test": True}, **wait)
    said = prints(client, sorted({*database, *mail}), secrets.token_hex(16))
    wanted, used = ({server: said[server] for server in role} for role in (database, mail))
    accepted = checked({server: accept.get(server) for server in database}, lambda said: isinstance(said, Mapping))
    faults = [*unanswered(accepted, dict), *unanswered(used, dict)]
    return _lines([*faults, *mismatches(wanted, used, live=False), *holders(client, servers, up)[0]])


def status(client: Any, servers: Servers, up: Sequence[str], timeout: int) -> Answers:
    """Ask all servers of a site how they are.

    Args:
        timeout: How many seconds to wait for a server's answer.
    """
    nonce = secrets.token_hex(16)
    ask = _asker(client, up, timeout)
    return Answers(
        version=ask(servers.all, "ispmail.version", [], lambda said: isinstance(said, str)),
        wanted=ask(servers.database, "postfix_map.fingerprints", [nonce, False], is_prints),
        used=ask(servers.mail, "postfix_map.fingerprints", [nonce], is_live_prints),
        compared=ask(servers.mail, "postfix_map.compare", [], is_compared),
        found=ask(servers.all, "postfix_doctor.check", [], is_found),
    )


def refused_logins(client: Any, servers: Sequence[str]) -> dict[str, int]:
    """Ask database servers how many logins they have refused so far; those that do not tell are left out."""
    # A server that is down is not waited for; a job that runs is.
    waits = {"timeout": _PING_SECONDS, "gather_job_timeout": _PING_SECONDS}
    said = _ask(client, servers, "postfix_database.read", **waits)
    counts = {server: each.get("refused_logins") for server, each in said.items() if isinstance(each, Mapping)}
    return {server: count for server, count in counts.items() if type(count) is int}


def _ask_holders(client: Any, servers: Sequence[str], options: Mapping[str, Any]) -> dict[str, Any]:
    """Ask servers, once their modules are as new as this runner: Salt syncs them with an apply only."""
    name, wait = "postfix_database.holders", {"timeout": _SEARCH_SECONDS}
    said = _ask(client, servers, name, kwarg=options, **wait)
    older = [server for server in servers if _is_missing(said.get(server))]
    _ask(client, older, "state.apply", ["ispmail.modules"], kwarg={"queue": 100}, **wait)
    said.update(_ask(client, older, name, kwarg=options, **wait))
    return said


def _is_missing(said: object) -> bool:
    """Whether a server says that it has no such function."""
    return isinstance(said, str) and "is not available" in said


def _asker(client: Any, up: Collection[str], timeout: int) -> Callable[..., _Said]:
    """Make a function that has servers run one of theirs: server to what it returned, None for those that are down."""

    def ask(asked: Sequence[str], function: str, arguments: list[Any], is_right: Callable[[object], bool]) -> _Said:
        """Server to what it returned: what has the right shape, or a text."""
        # A job each: while one of several functions runs, Salt 3008 fails a state.apply of anybody's on that server.
        returned = _ask(client, [server for server in asked if server in up], function, arguments, timeout=timeout)
        return checked({server: returned.get(server) for server in asked}, is_right)

    return ask


def _ask(client: Any, servers: Sequence[str], *job: Any, **options: Any) -> dict[str, Any]:
    """Have servers do a job: server to what it returned, of those that were asked and have answered in time.

    Salt itself waits for a server for as long as that says that it is still at work.
    """
    if not servers:
        return {}
    found: dict[str, Any] = {}
    until = time.monotonic() + _LONGEST_SECONDS
    with contextlib.closing(client.cmd_iter_no_block(servers, *job, tgt_type="list", **options)) as returns:
        for returned in returns:
            for server, said in (returned or {}).items():
                if server in servers and isinstance(said, Mapping):
                    found.setdefault(server, said.get("ret"))
            if len(found) == len(servers) or time.monotonic() > until:
                break
            if not returned:
                time.sleep(_POLL_SECONDS)
    return found


def _lines(found: Iterable[str]) -> list[str]:
    """What servers told, each once and as one line: whoever has a server chooses its texts, and how many."""
    return few(dict.fromkeys(printable(line[:LONGEST_LINE]) for line in found))
