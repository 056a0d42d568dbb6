"""What the master does for ispmail: rotate once for many events, re-apply, and prove who uses which password."""

import contextlib
import fcntl
import math
import os
import re
import secrets

import salt.client
import salt.utils.minions
from salt.exceptions import SaltInvocationError

# How long a server may take to say that it is there, and to read its pillar anew. In seconds.
_PING_SECONDS, _PILLAR_SECONDS = 5, 30
_KEYS = ("database", "mail", "canary", "tgt_type", "without")
_NEEDED = ("database", "mail")
_TARGETS = ("glob", "list", "compound", "grain", "grain_pcre", "pcre", "pillar", "pillar_pcre", "nodegroup", "ipcidr")
_FAILED = "ispmail/rotation/failed"


def rotate():
    """
    Rotate the password of every site, once for however many ask at the same time: one rotation is
    under way, one waits for it, and who finds one waiting returns.

    Takes no arguments: ``ispmail:sites`` in the master's configuration says who is who.

    Returns what ``state.orchestrate orch.rotate`` returns, or a sentence where another one does it. Where it failed
    the event ``ispmail/rotation/failed`` says so, with the reasons as ``comment``.

    Raises SaltInvocationError where the configuration lacks something.

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
    return _once("rotate", _orchestrate)


def reapply():
    """
    Have every mail server apply what pillar has now. They do it once for however many ask.

    Takes no arguments: ``ispmail:sites`` in the master's configuration says who they are.

    Returns a dict: site to the id of its job.

    Raises SaltInvocationError where the configuration lacks something.

    Source: salt.modules.state.apply

    CLI Example:

    .. code-block:: bash

        salt-run ispmail.reapply
    """
    with salt.client.get_local_client(__opts__["conf_file"]) as client:
        return {
            site: client.cmd_async(who["mail"], "ispmail.reapply", tgt_type=who["tgt_type"])
            for site, who in _sites().items()
        }


def sites(batch="25%"):
    """
    Tell which servers a rotation would go to, and have those that are there read their pillar anew:
    ``ispmail:sites`` in the master's configuration says who is who.

    batch : 25%
        How many mail servers go at a time after the canary: a number or a share of them.

    Returns a dict: site to a dict of ``database`` and ``canary`` (lists of servers that are there), ``batches`` (a list
    of such lists, all other mail servers), ``down`` (a list of those that are not there) and ``faults``, a list of
    sentences: why a rotation cannot begin.

    Raises SaltInvocationError where the configuration lacks something, or for another kind of batch.

    Source: salt.modules.saltutil.refresh_pillar

    CLI Example:

    .. code-block:: bash

        salt-run ispmail.sites
    """
    with salt.client.get_local_client(__opts__["conf_file"]) as client:
        return {site: _who(client, site, who, batch) for site, who in _sites().items()}


def prove(site, timeout=60):
    """
    Prove that every mail server of a site uses the password that the database server's pillar has, in every map, with
    no database host that refuses it (one that is down does not) and no process left on another one.

    site
        A name below ``ispmail:sites`` in the master's configuration.

    timeout : 60
        How many seconds to wait for a server's answer.

    Returns a dict: server to the number of its maps. Where it cannot be proved a list of sentences that name every
    server which is down, has another password in pillar or in a table file, is refused by a database host, or has a
    process with an older one; the run then counts as failed.

    Raises SaltInvocationError where the configuration lacks something or has no such site.

    Source: postfix_map.fingerprints, postfix_database.refused

    CLI Example:

    .. code-block:: bash

        salt-run ispmail.prove main
    """
    known = _sites()
    if site not in known:
        raise SaltInvocationError(f"the master's configuration has no site {site}: it has {', '.join(known)}")
    who, nonce = known[site], secrets.token_hex(16)
    with salt.client.get_local_client(__opts__["conf_file"]) as client:
        database, mail = (_matching(who, role) for role in _NEEDED)
        up = _present(client, [*database, *mail])

        def ask(servers, functions):
            """Server to what it returned, for each of the functions, in one job."""
            there = [server for server in servers if server in up]
            jobs = list(functions), list(functions.values())
            said = client.cmd(there, *jobs, timeout=timeout, tgt_type="list") if there else {}
            told = {server: said[server] if isinstance(said.get(server), dict) else {} for server in servers}
            return [{server: told[server].get(name) for server in servers} for name in functions]

        (wanted,) = ask(database, {"postfix_map.fingerprints": [nonce, False]})
        used, refused, old = ask(
            mail, {"postfix_map.fingerprints": [nonce], "postfix_database.refused": [], "postfix_map.old_processes": []}
        )
    matched = zip(_NEEDED, (database, mail))
    faults = [f"ispmail:sites:{site}:{role} matches no server" for role, servers in matched if not servers]
    # Each for itself: a server may be both, and one answer is not another.
    faults += [*_silent(wanted, dict), *_silent(used, dict), *_silent(refused, list), *_silent(old, list)]
    faults += _others(wanted, used)
    for server in mail:
        for login in refused[server] if isinstance(refused[server], list) else []:
            faults.append(f"{server}: {login['host']} refuses the login of {', '.join(login['maps'])}")
        for process in old[server] if isinstance(old[server], list) else []:
            faults.append(f"{server}: {process} still asks with an older table file")
    if faults:
        # An exception would come with Salt's traceback around it.
        __context__["retcode"] = 1
        head = "The old password is still accepted, for not every server is seen on the new one:"
        return [head, *dict.fromkeys(faults)]
    return {server: len(used[server]["live"]) for server in mail}


def _orchestrate():
    done = __salt__["state.orchestrate"]("orch.rotate")
    reasons = [reason for states in (done.get("data") or {}).values() for reason in _reasons(states)]
    if reasons:
        __salt__["event.send"](_FAILED, {"comment": "\n".join(dict.fromkeys(reasons))})
    return done


def _reasons(returned):
    """Why states failed, from what a run of them returned: those of an orchestration hold those of its servers."""
    if not isinstance(returned, dict):
        return [str(line) for line in returned if line] if isinstance(returned, list) else []
    reasons = []
    for state in returned.values():
        if not isinstance(state, dict):
            continue
        if state.get("result") is False:
            changes = state.get("changes") or {}
            inner = _reasons(changes.get("return"))
            for server, states in (changes.get("ret") or {}).items():
                inner += [f"{server}: {reason}" for reason in _reasons(states) or ["does not answer"]]
            # What only waited for it has nothing to add.
            outer = [] if "One or more requisite failed" in state["comment"] else [state["comment"]]
            reasons += inner or outer
    return reasons


def _others(wanted, used):
    """Sentences on the passwords that are not the one that the database servers' pillar has."""
    answered = [said for said in wanted.values() if isinstance(said, dict)]
    passwords = {value for said in answered for value in said["pillar"].values()}
    if answered and (len(passwords) != 1 or None in passwords):
        return [f"{', '.join(wanted)}: pillar has not one password for all maps of the account"]
    faults = []
    for server, said in used.items():
        for what, told in (("pillar", "pillar has"), ("live", "the table file has")):
            values = said[what].items() if isinstance(said, dict) else []
            others = [name for name, value in values if value not in passwords]
            if others:
                faults.append(f"{server}: {told} another password for {', '.join(others)}, or none")
        if isinstance(said, dict) and not said["live"]:
            faults.append(f"{server}: none of its maps logs in with the account of ispmail:database")
    return faults if answered else []


def _silent(answers, kind):
    """Sentences on the servers that did not answer, or not what was asked."""
    return [
        f"{server}: {said if isinstance(said, str) else 'does not answer'}"
        for server, said in answers.items()
        if not isinstance(said, kind)
    ]


def _sites():
    """Who is who, from the master's configuration, valid."""
    configured = __opts__.get("ispmail")
    configured = configured.get("sites") if isinstance(configured, dict) else None
    if not isinstance(configured, dict) or not configured:
        raise SaltInvocationError("the master's configuration lacks ispmail:sites: see docs/master.conf")
    faults, found = [], {}
    for site, given in configured.items():
        if not isinstance(given, dict) or not re.fullmatch(r"[A-Za-z0-9_.-]+", str(site)):
            faults.append(f"ispmail:sites:{site} must be a mapping, its name of letters, digits, _, . and -")
            continue
        who = {"tgt_type": "glob", "without": [], **given}
        unknown = [key for key in who if key not in _KEYS]
        faults += [f"ispmail:sites:{site}:{key} is missing" for key in _NEEDED if not who.get(key)]
        faults += [f"ispmail:sites:{site}:{key} is not a key: known are {', '.join(_KEYS)}" for key in unknown]
        if who["tgt_type"] not in _TARGETS:
            faults.append(f"ispmail:sites:{site}:tgt_type must be one of {', '.join(_TARGETS)}")
        if not isinstance(who["without"], list) or not all(isinstance(name, str) for name in who["without"]):
            faults.append(f"ispmail:sites:{site}:without must be a list of servers")
        found[str(site)] = who
    if faults:
        raise SaltInvocationError(
            "\n- ".join(["the master's configuration is at fault, see docs/master.conf:", *faults])
        )
    return found


def _matching(who, role):
    """The servers of a site in a role, whether they are there or not, without those that are gone for good."""
    if not who.get(role):
        return []
    found = salt.utils.minions.CkMinions(__opts__).check_minions(who[role], who["tgt_type"])
    # Of a list also those whose keys are not there: they are down, not forgotten.
    return sorted({*found["minions"], *found.get("missing", [])} - set(who["without"]))


def _present(client, servers):
    """Those of the servers that answer; they have read their pillar anew then."""
    # One that is down is waited for once, and shortly.
    waits = {"timeout": _PING_SECONDS, "gather_job_timeout": _PING_SECONDS}
    here = client.cmd(servers, "test.ping", tgt_type="list", **waits) if servers else {}
    here = sorted(server for server, said in here.items() if said is True)
    if not here:
        return []
    said = client.cmd(here, "saltutil.refresh_pillar", [True], timeout=_PILLAR_SECONDS, tgt_type="list")
    return [server for server in here if said.get(server) is True]


def _who(client, site, who, batch):
    roles = {role: _matching(who, role) for role in ("database", "mail", "canary")}
    up = _present(client, sorted({server for servers in roles.values() for server in servers}))
    faults = [f"{role}, {who[role]}, matches no server" for role in _NEEDED if not roles[role]]
    faults += [f"the database server {server} does not answer" for server in roles["database"] if server not in up]
    mail = [server for server in roles["mail"] if server in up]
    canary = [server for server in roles["canary"] if server in up]
    strange = [server for server in roles["canary"] if server not in roles["mail"]]
    faults += [f"the canary {', '.join(strange)} is none of the servers of mail: no proof would be asked of it"] * bool(
        strange
    )
    if who.get("canary") and not canary:
        faults.append(f"the canary, {who['canary']}, does not answer: mend it, or name another one")
    elif not who.get("canary"):
        canary = mail[:1]
        faults += ["no mail server answers"] * (bool(roles["mail"]) and not mail)
    rest = [server for server in mail if server not in canary]
    size = _size(batch, len(rest))
    return {
        "database": roles["database"],
        "canary": canary,
        "batches": [rest[start : start + size] for start in range(0, len(rest), size)],
        "down": [server for server in roles["mail"] if server not in up],
        "faults": [f"ispmail:sites:{site}: {fault}" for fault in faults],
    }


def _size(batch, number):
    """How many of a number of servers go at a time."""
    share = re.fullmatch(r"(\d+)(%?)", str(batch))
    if not share or not int(share[1]):
        raise SaltInvocationError("ispmail:rotation:batch must be a number of servers, or a share such as 25%")
    return max(1, math.ceil(number * int(share[1]) / 100)) if share[2] else int(share[1])


def _once(name, function):
    """Run a function that reads its input anew; who comes while one waits to begin need not."""
    folder = os.path.join(__opts__["cachedir"], "ispmail")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    with contextlib.ExitStack() as stack:
        running = stack.enter_context(open(os.path.join(folder, f"{name}.running"), "a", encoding="ascii"))
        with open(os.path.join(folder, f"{name}.waiting"), "a", encoding="ascii") as waiting:
            try:
                fcntl.flock(waiting, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return "another one is about to begin"
            fcntl.flock(running, fcntl.LOCK_EX)
        return function()
