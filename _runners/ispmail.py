"""What the master does: rotate passwords, re-apply, and prove which password each server uses."""

import logging
import math
import re
import secrets
import time

import ispmail_stamp

ispmail_stamp.require("dc25b6953b5b")

import salt.client
import salt.utils.minions
from salt.exceptions import CommandExecutionError, SaltInvocationError

from ispmail_errors import Failed, kind_of, listed
from ispmail_queue import merged
from ispmail_salt import cache_folder

log = logging.getLogger(__name__)

# How long a server may take to say that it is there, and to read its pillar anew. In seconds.
_PING_SECONDS, _PILLAR_SECONDS = 5, 30
_KEYS = ("database", "mail", "canary", "tgt_type", "without")
_NEEDED = ("database", "mail")
_TARGETS = ("glob", "list", "compound", "grain", "grain_pcre", "pcre", "pillar", "pillar_pcre", "nodegroup", "ipcidr")
_FAILED = "ispmail/rotation/failed"


def rotate():
    """
    Rotate the password of every site. Calls that come at the same time are merged: one runs, one waits, the others
    return at once. At least one rotation is guaranteed to start after this call.

    Takes no arguments: ``ispmail:sites`` in the master's configuration says which servers there are.

    Returns what ``state.orchestrate orch.rotate`` returns, or a sentence where another call does it. Where it failed,
    the event ``ispmail/rotation/failed`` reports it, with the reasons as ``comment``.

    Raises SaltInvocationError where the configuration is wrong, CommandExecutionError where the cache directory cannot
    be written, or Salt itself fails.

    Source: salt.runners.state.orchestrate

    CLI Example:

    .. code-block:: bash

        salt-run ispmail.rotate
    """
    try:
        _sites()
    except SaltInvocationError as err:
        __salt__["event.send"](_FAILED, {"comment": str(err)})
        raise
    try:
        done = merged(cache_folder(__opts__), "rotate", _orchestrate)
    except Exception as err:  # pylint: disable=broad-except
        # Salt's own work (its caches, its event bus) may raise anything, with any text.
        comment = str(err) if isinstance(err, Failed) else f"the rotation ended with {kind_of(err)}"
        __salt__["event.send"](_FAILED, {"comment": comment})
        raise CommandExecutionError(comment) from None
    return "another rotation is about to start" if done is None else done


def reapply():
    """
    Have every mail server apply what pillar has now. Each server merges calls that come at the same time.

    Takes no arguments: ``ispmail:sites`` in the master's configuration says which servers they are.

    Returns a dict: site to the id of its job.

    Raises SaltInvocationError where the configuration is wrong.

    Source: salt.modules.state.apply

    CLI Example:

    .. code-block:: bash

        salt-run ispmail.reapply
    """
    with salt.client.get_local_client(__opts__["conf_file"]) as client:
        return {
            name: client.cmd_async(site["mail"], "ispmail.reapply", tgt_type=site["tgt_type"])
            for name, site in _sites().items()
        }


def sites(batch="25%"):
    """
    List the servers that a rotation would go to, and have those that answer refresh their pillar:
    ``ispmail:sites`` in the master's configuration says which servers there are.

    batch : 25%
        How many mail servers go at a time after the canary: a number or a share of them.

    Returns a dict: site to a dict of ``database`` and ``canary`` (lists of servers that answer), ``batches`` (a list
    of such lists, all other mail servers), ``down`` (a list of those that do not answer) and ``faults``, a list of
    sentences: why a rotation cannot start.

    Raises SaltInvocationError where the configuration is wrong, or for another kind of batch.

    Source: salt.modules.saltutil.refresh_pillar

    CLI Example:

    .. code-block:: bash

        salt-run ispmail.sites
    """
    with salt.client.get_local_client(__opts__["conf_file"]) as client:
        return {name: _resolve_targets(client, name, site, batch) for name, site in _sites().items()}


def prove(site, timeout=60):
    """
    Prove that every mail server of a site uses the password that the database server's pillar has, in every map; that
    no database host refuses it (one that is down does not refuse); and that no process uses an older table file.

    site
        A name below ``ispmail:sites`` in the master's configuration.

    timeout : 60
        How many seconds to wait for a server's answer.

    Returns a dict: server to the number of its maps. Where it cannot be proved, a list of sentences that name every
    server which is down, has another password in pillar or in a table file, is refused by a database host, or has a
    process with an older table file; the run then counts as failed.

    Raises SaltInvocationError where the configuration is wrong or has no such site.

    Source: postfix_map.fingerprints, postfix_database.refused

    CLI Example:

    .. code-block:: bash

        salt-run ispmail.prove main
    """
    known = _sites()
    if site not in known:
        raise SaltInvocationError(f"the master's configuration has no site {site}: it has {', '.join(known)}")
    nonce = secrets.token_hex(16)
    with salt.client.get_local_client(__opts__["conf_file"]) as client:
        database, mail = (_matching(known[site], role) for role in _NEEDED)
        up = _present(client, [*database, *mail])

        def ask(servers, functions):
            """Server to what it returned, for each of the functions, in one job."""
            there = [server for server in servers if server in up]
            jobs = list(functions), list(functions.values())
            returned = client.cmd(there, *jobs, timeout=timeout, tgt_type="list") if there else {}
            found = {server: returned[server] if isinstance(returned.get(server), dict) else {} for server in servers}
            return [{server: found[server].get(name) for server in servers} for name in functions]

        (wanted,) = ask(database, {"postfix_map.fingerprints": [nonce, False]})
        used, refused, old = ask(
            mail, {"postfix_map.fingerprints": [nonce], "postfix_database.refused": [], "postfix_map.old_processes": []}
        )
    matched = zip(_NEEDED, (database, mail))
    faults = [f"ispmail:sites:{site}:{role} matches no server" for role, servers in matched if not servers]
    # Check the four answers separately: one host can be both database and mail server.
    faults += [*_unanswered(wanted, dict), *_unanswered(used, dict)]
    faults += [*_unanswered(refused, list), *_unanswered(old, list)]
    faults += _mismatches(wanted, used)
    for server in mail:
        for login in refused[server] if isinstance(refused[server], list) else []:
            faults.append(f"{server}: {login['host']} refuses the login of {', '.join(login['maps'])}")
        for process in old[server] if isinstance(old[server], list) else []:
            faults.append(f"{server}: {process} still uses an older table file")
    if faults:
        # An exception would come with Salt's traceback around it.
        __context__["retcode"] = 1
        log.warning("site %s: not every server is proved to use the new password", site)
        head = "The old password is still accepted, because not every server is seen to use the new one:"
        return [head, *dict.fromkeys(faults)]
    log.info("site %s: %s use the new password", site, ", ".join(mail))
    return {server: len(used[server]["live"]) for server in mail}


def _orchestrate():
    began = time.monotonic()
    log.info("rotation of %s started", ", ".join(_sites()))
    done = __salt__["state.orchestrate"]("orch.rotate")
    reasons = [reason for states in (done.get("data") or {}).values() for reason in _reasons(states)]
    ended = "failed" if reasons else "succeeded"
    log.log(logging.WARNING if reasons else logging.INFO, "rotation %s in %.1f s", ended, time.monotonic() - began)
    if reasons:
        __salt__["event.send"](_FAILED, {"comment": "\n".join(dict.fromkeys(reasons))})
    return done


def _reasons(returned):
    """Why states failed, from what a run of them returned: those of an orchestration hold those of its servers."""
    if not isinstance(returned, dict):
        return [str(line) for line in returned if line] if isinstance(returned, list) else []
    reasons: list[str] = []
    for state in returned.values():
        if not isinstance(state, dict):
            continue
        if state.get("result") is False:
            changes = state.get("changes") or {}
            inner = _reasons(changes.get("return"))
            for server, states in (changes.get("ret") or {}).items():
                inner += [f"{server}: {reason}" for reason in _reasons(states) or ["does not answer"]]
            # A state that only waited for a failed one has nothing to add.
            outer = [] if "One or more requisite failed" in state["comment"] else [state["comment"]]
            reasons += inner or outer
    return reasons


def _mismatches(wanted, used):
    """Sentences on the passwords that differ from the one in the database servers' pillar."""
    answered = [said for said in wanted.values() if isinstance(said, dict)]
    passwords = {value for said in answered for value in said["pillar"].values()}
    if answered and (len(passwords) != 1 or None in passwords):
        return [f"{', '.join(wanted)}: pillar does not have one password for all maps of the account"]
    faults = []
    for server, said in used.items():
        for where, subject in (("pillar", "pillar has"), ("live", "the table file has")):
            values = said[where].items() if isinstance(said, dict) else []
            others = [name for name, value in values if value not in passwords]
            if others:
                faults.append(f"{server}: {subject} another password for {', '.join(others)}, or none")
        if isinstance(said, dict) and not said["live"]:
            faults.append(f"{server}: none of its maps logs in with the account of ispmail:database")
    return faults if answered else []


def _unanswered(answers, kind):
    """Sentences on the servers that did not answer, or not what was asked."""
    return [
        f"{server}: {said if isinstance(said, str) else 'does not answer'}"
        for server, said in answers.items()
        if not isinstance(said, kind)
    ]


def _sites():
    """The sites in the master's configuration, checked: name to targets."""
    configured = __opts__.get("ispmail")
    configured = configured.get("sites") if isinstance(configured, dict) else None
    if not isinstance(configured, dict) or not configured:
        raise SaltInvocationError("the master's configuration has no ispmail:sites: see docs/master.conf")
    faults, found = [], {}
    for site, given in configured.items():
        if not isinstance(given, dict) or not re.fullmatch(r"[A-Za-z0-9_.-]+", str(site)):
            faults.append(f"ispmail:sites:{site} must be a mapping, its name of letters, digits, _, . and -")
            continue
        targets = {"tgt_type": "glob", "without": [], **given}
        unknown = [key for key in targets if key not in _KEYS]
        faults += [f"ispmail:sites:{site}:{key} is missing" for key in _NEEDED if not targets.get(key)]
        faults += [f"ispmail:sites:{site}:{key} is not a key: known are {', '.join(_KEYS)}" for key in unknown]
        if targets["tgt_type"] not in _TARGETS:
            faults.append(f"ispmail:sites:{site}:tgt_type must be one of {', '.join(_TARGETS)}")
        if not isinstance(targets["without"], list) or not all(isinstance(name, str) for name in targets["without"]):
            faults.append(f"ispmail:sites:{site}:without must be a list of servers")
        found[str(site)] = targets
    if faults:
        raise SaltInvocationError(listed("the master's configuration has errors, see docs/master.conf", faults))
    return found


def _matching(site, role):
    """The servers of a site in a role, whether they answer or not, except those that are gone for good."""
    if not site.get(role):
        return []
    found = salt.utils.minions.CkMinions(__opts__).check_minions(site[role], site["tgt_type"])
    # Names in a list whose keys are missing count too: those servers are down, not forgotten.
    return sorted({*found["minions"], *found.get("missing", [])} - set(site["without"]))


def _present(client, servers):
    """Those of the servers that answer; they have refreshed their pillar then."""
    # A server that is down is waited for once, and not for long.
    waits = {"timeout": _PING_SECONDS, "gather_job_timeout": _PING_SECONDS}
    answers = client.cmd(servers, "test.ping", tgt_type="list", **waits) if servers else {}
    here = sorted(server for server, answer in answers.items() if answer is True)
    if not here:
        return []
    refreshed = client.cmd(here, "saltutil.refresh_pillar", [True], timeout=_PILLAR_SECONDS, tgt_type="list")
    return [server for server in here if refreshed.get(server) is True]


def _resolve_targets(client, name, site, batch):
    """Which servers a rotation of a site goes to, in which order, and why it cannot start."""
    roles = {role: _matching(site, role) for role in ("database", "mail", "canary")}
    up = _present(client, sorted({server for servers in roles.values() for server in servers}))
    mail = [server for server in roles["mail"] if server in up]
    canary = [server for server in roles["canary"] if server in up]
    faults = [f"{role}, {site[role]}, matches no server" for role in _NEEDED if not roles[role]]
    faults += [f"the database server {server} does not answer" for server in roles["database"] if server not in up]
    outside = [server for server in roles["canary"] if server not in roles["mail"]]
    if outside:
        faults.append(
            f"the canary {', '.join(outside)} is not one of the servers of mail: no proof would be asked of it"
        )
    if site.get("canary") and not canary:
        faults.append(f"the canary, {site['canary']}, does not answer: repair it, or name another one")
    elif not site.get("canary"):
        canary = mail[:1]
        if roles["mail"] and not mail:
            faults.append("no mail server answers")
    rest = [server for server in mail if server not in canary]
    size = _size(batch, len(rest))
    return {
        "database": roles["database"],
        "canary": canary,
        "batches": [rest[start : start + size] for start in range(0, len(rest), size)],
        "down": [server for server in roles["mail"] if server not in up],
        "faults": [f"ispmail:sites:{name}: {fault}" for fault in faults],
    }


def _size(batch, number):
    """How many of a number of servers go at a time."""
    share = re.fullmatch(r"(\d+)(%?)", str(batch))
    if not share or not int(share[1]):
        raise SaltInvocationError("ispmail:rotation:batch must be a number of servers, or a share such as 25%")
    return max(1, math.ceil(number * int(share[1]) / 100)) if share[2] else int(share[1])
