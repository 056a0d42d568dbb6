"""What the master does: rotate passwords, re-apply, and prove which password each server uses."""

import contextlib
import logging
import os
import sys
import threading
import time

import _ispmail_stamp

_ispmail_stamp.require("49d203a2deaf")

import salt.client
import salt.utils.event
import salt.utils.jid
import salt.utils.minions
from salt.exceptions import CommandExecutionError, SaltInvocationError

import _ispmail_fleet
import _ispmail_sites
import _ispmail_status
from _ispmail_errors import Failed, kind_of, plural, printable
from _ispmail_events import ROTATION_FAILED, ROTATION_REFUSED, ROTATION_STEP
from _ispmail_fleet import Servers
from _ispmail_queue import bounded, merged
from _ispmail_rotation import Progress, dropped, reasons, table
from _ispmail_salt import cache_folder, salt_errors

log = logging.getLogger(__name__)

_NEEDED = ("database", "mail")
_NOTHING = "the orchestration has returned nothing, so what it did is not known: see the master's log, and rotate again"
# How often the master's bus is looked at, and how long to wait for its listener. In seconds.
_POLL_SECONDS, _READY_SECONDS = 0.1, 5
# How long after one call of `reapply` the next one is done.
_REAPPLY_SECONDS = 5


def rotate(test=False, watch=30, timeout=3600):
    """
    Rotate the password of every site, or its account and password (``ispmail:rotation:method`` in pillar). Calls that
    come at the same time are merged: one runs, one waits, the others return at once. At least one rotation is
    guaranteed to start after this call. Each step is printed as it ends (stderr), and is told by an event
    ``ispmail/rotation/step``.

    test : False
        Whether only to tell what would be done, and what would stop it.

    watch : 30
        For how many seconds after the drop the logins that the database refuses are counted. If there are any, the
        event ``ispmail/rotation/refused`` tells of them.

    timeout : 3600
        After how many seconds a rotation is stopped that has not ended, because a server says for ever that it is
        still at work. The old password stays valid then, unless the last step has begun.

    ``ispmail:sites`` in the master's configuration says which servers there are.

    Returns a dict: ``rotation`` (a table of the mail servers), ``reasons`` (why it failed, a list), ``refused`` (site
    to the number of refused logins), ``retcode``; or a sentence where another call does it. Where it failed, the event
    ``ispmail/rotation/failed`` reports it, with the reasons as ``comment``. With ``test=True`` a dict: site to a dict
    of ``would`` and ``stops``, lists of sentences; and ``retcode``.

    Raises SaltInvocationError where the configuration is wrong, CommandExecutionError where the cache directory cannot
    be written, or Salt itself fails.

    Source: salt.runners.state.orchestrate

    CLI Example:

    .. code-block:: bash

        salt-run ispmail.rotate test=True
    """
    try:
        _sites()
    except SaltInvocationError as err:
        if not test:
            __salt__["event.send"](ROTATION_FAILED.tag, {"comment": str(err)})
        raise
    if test:
        return _preview()
    try:
        done = merged(cache_folder(__opts__), "rotate", lambda: _orchestrate(timeout))
    except Exception as err:  # pylint: disable=broad-except
        # Salt's own work (its caches, its event bus) may raise anything, with any text.
        comment = str(err) if isinstance(err, Failed) else f"the rotation ended with {kind_of(err)}"
        __salt__["event.send"](ROTATION_FAILED.tag, {"comment": comment})
        raise CommandExecutionError(comment) from None
    if done is None:
        return "another rotation is about to start"
    sole, before = done.pop("dropped"), done.pop("before")
    if sole and watch:
        _print(f"counting refused logins for {watch} s")
        time.sleep(watch)
    done["refused"] = _report_refused(sole, before)
    return done


def reapply():
    """
    Have every mail server apply what pillar has now. Calls that come within seconds are merged, here and on each
    server. At least one job for each site is guaranteed to start after this call.

    Takes no arguments: ``ispmail:sites`` in the master's configuration says which servers they are.

    Returns a dict: site to the id of its job; or a sentence where another call does it.

    Raises SaltInvocationError where the configuration is wrong, CommandExecutionError where the cache directory cannot
    be written.

    Source: salt.modules.state.apply

    CLI Example:

    .. code-block:: bash

        salt-run ispmail.reapply
    """
    _sites()
    folder = cache_folder(__opts__)
    # Compiling pillar costs a master more than all else of a job.
    caches_pillar = bool(__opts__.get("pillar_cache"))

    def publish():
        _wait_since_the_last(os.path.join(folder, "reapplied"))
        with salt.client.get_local_client(__opts__["conf_file"]) as client:
            return {
                name: client.cmd_async(
                    site["mail"], "ispmail.reapply", tgt_type=site["tgt_type"], kwarg={"refresh": caches_pillar}
                )
                for name, site in _sites().items()
            }

    with salt_errors():
        return merged(folder, "reapply", publish) or "another call is about to do it"


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


def holders(site, refresh=True):
    """
    Find who else holds the password of a site's account and is not named in pillar: files, programs, tables of Postfix
    on each of its servers, and other servers in the database's list of connections. A rotation asks this first, and
    changes nothing if there is anybody.

    site
        A name below ``ispmail:sites`` in the master's configuration.

    refresh : True
        Whether the servers refresh their pillar first. In a rotation they have just done so.

    Returns a dict: server to a list of notes, on what could not be searched there. If somebody is found, a list of
    sentences that name file, program or server and tell how to name it; the run then counts as failed. Servers that
    do not answer are left out: the proof of a rotation names them.

    Raises SaltInvocationError where the configuration is wrong or has no such site.

    Source: postfix_database.holders

    CLI Example:

    .. code-block:: bash

        salt-run ispmail.holders main
    """
    targets = _site(site)
    with salt.client.get_local_client(__opts__["conf_file"]) as client:
        servers = _servers(targets)
        up = _ispmail_fleet.present(client, servers.all, refresh)
        faults, notes = _ispmail_fleet.holders(client, servers, up)
    if faults:
        __context__["retcode"] = 1
        log.warning("site %s: the password is also held by what pillar does not name", site)
        head = "Nothing was changed, because these would lose their login to the database:"
        return [head, *faults]
    return notes


def prove(site, timeout=60):
    """
    Prove that every mail server of a site uses the user and password that the database server's pillar has, in every
    map; that nobody whom pillar does not name is connected by the account, or by either of two; that no database host
    refuses the login (one that is down does not refuse); and that no process uses an older table file.

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
    targets = _site(site)
    with salt.client.get_local_client(__opts__["conf_file"]) as client:
        servers = _servers(targets)
        up = _ispmail_fleet.present(client, servers.all)
        faults, maps = _ispmail_fleet.proof(client, servers, up, timeout)
    matched = zip(_NEEDED, (servers.database, servers.mail))
    faults = [*(f"ispmail:sites:{site}:{role} matches no server" for role, found in matched if not found), *faults]
    if faults:
        # An exception would come with Salt's traceback around it.
        __context__["retcode"] = 1
        log.warning("site %s: not every server is proved to use the new password", site)
        head = "The old password is still accepted, because not every server is seen to use the new one:"
        return [head, *dict.fromkeys(faults)]
    log.info("site %s: %s use the new password", site, ", ".join(maps))
    return maps


def status(timeout=60):
    """
    Tell how all servers of all sites are, in one table: version of the modules, number of maps, whether they use the
    user and password that the database server's pillar has, whether an apply would change anything, when the last good
    one was, and how many faults and warnings the doctor finds.

    timeout : 60
        How many seconds to wait for a server's answer.

    ``ispmail:sites`` in the master's configuration says which servers there are.

    Returns a dict: ``status`` (the table), ``reasons`` (what is wrong, a list of sentences) and ``retcode``, 1 where
    anything is.

    Raises SaltInvocationError where the configuration is wrong.

    Source: postfix_doctor.check, postfix_map.compare, postfix_map.fingerprints

    CLI Example:

    .. code-block:: bash

        salt-run ispmail.status
    """
    found = {}
    with salt.client.get_local_client(__opts__["conf_file"]) as client:
        for name, targets in _sites().items():
            servers = _servers(targets)
            found[name] = _ispmail_fleet.status(client, servers, _ispmail_fleet.present(client, servers.all), timeout)
    faults = _ispmail_status.reasons(found)
    __context__["retcode"] = int(bool(faults))
    return {"status": _ispmail_status.table(found), "reasons": faults, "retcode": int(bool(faults))}


def _wait_since_the_last(path):
    """Wait until some seconds after the last call, and write down this one: any minion can cause very many calls."""
    with contextlib.suppress(FileNotFoundError):
        since = time.time() - os.stat(path).st_mtime
        if 0 <= since < _REAPPLY_SECONDS:
            time.sleep(_REAPPLY_SECONDS - since)
    try:
        with open(path, "w", encoding="ascii"):
            os.utime(path)
    except OSError as err:
        raise Failed(f"{path} cannot be written: {err.strerror}") from err


def _orchestrate(timeout):
    """Run the orchestration, and tell of each step as it ends."""
    began = time.monotonic()
    known = _sites()
    before = _refused_logins()
    job = salt.utils.jid.gen_jid(__opts__)
    mail = {name: _matching(site, "mail") for name, site in known.items()}
    log.info("rotation of %s started", ", ".join(known))
    progress = Progress(job, mail)
    orchestrate = __salt__["state.orchestrate"]
    with _listening(progress):
        done = bounded(lambda: orchestrate("orch.rotate", orchestration_jid=job), timeout)
    if done is None:
        returned = [_unended(progress, timeout)]
    else:
        # One entry, the master's own. Only the lines meanwhile are from events: any minion can forge those.
        returned = next(iter((done.get("data") or {}).values()), []) or [_NOTHING]
    failures = list(dict.fromkeys(reasons(returned)))
    ended = "failed" if failures else "succeeded"
    log.log(logging.WARNING if failures else logging.INFO, "rotation %s in %.1f s", ended, time.monotonic() - began)
    if failures:
        # An exception would come with Salt's traceback around it.
        __context__["retcode"] = 1
        __salt__["event.send"](ROTATION_FAILED.tag, {"comment": "\n".join(failures)})
    return {
        "rotation": table(mail, returned),
        "reasons": failures,
        "retcode": 1 if failures else 0,
        "dropped": dropped(mail, returned),
        "before": before,
    }


def _unended(progress, timeout):
    """Why a rotation was stopped."""
    waiting = ", ".join(progress.waiting[:10]) or "nobody known"
    return (
        f"the rotation has not ended within {timeout} s and was stopped; still at work: {waiting}. The old password "
        'is still accepted, unless the step "The old password is dropped" has begun: look at these servers, and rotate '
        "again"
    )


@contextlib.contextmanager
def _listening(progress):
    """Print what ends meanwhile, and send an event for it. Where the bus is silent the rotation runs all the same."""
    ready, ended = threading.Event(), threading.Event()

    def listen():
        with (
            salt.utils.event.get_event("master", sock_dir=__opts__["sock_dir"], opts=__opts__, listen=True) as bus,
            # One that listened too would keep each event, which nobody takes from it.
            salt.utils.event.get_event("master", sock_dir=__opts__["sock_dir"], opts=__opts__, listen=False) as sender,
        ):
            bus.connect_pub()
            ready.set()
            while True:
                # Read before the wait: what was sent until then is still heard.
                last = ended.is_set()
                event = bus.get_event(wait=_POLL_SECONDS, full=True)
                now = time.monotonic()
                over = event is None and last
                for step in progress.finish(now) if over else _heard(progress, event, now):
                    _print(step.describe())
                    sender.fire_event(step.event(), ROTATION_STEP.tag)
                if over:
                    break

    thread = threading.Thread(target=listen, name="ispmail-rotation", daemon=True)
    thread.start()
    ready.wait(_READY_SECONDS)
    try:
        yield
    finally:
        ended.set()
        thread.join(_READY_SECONDS)


def _heard(progress, event, now):
    """What has ended by an event. Anybody's event may have any shape: what is wrong with one must not end the rest."""
    try:
        return progress.hear(event["tag"], event["data"], now) if event else []
    except Exception as err:  # pylint: disable=broad-except
        log.warning("an event of the master's bus was left out: %s", kind_of(err))
        return []


def _print(line):
    """Tell the person at the terminal. Not on stdout, where the result may be read by a program."""
    if not __opts__.get("quiet"):
        sys.stderr.write(f"{printable(line)}\n")
        sys.stderr.flush()


def _preview():
    """What a rotation would do in each site, and what would stop it."""
    found = {}
    with salt.client.get_local_client(__opts__["conf_file"]) as client:
        for name, targets in _sites().items():
            who = _resolve_targets(client, name, targets, 1)
            rest = [server for batch in who["batches"] for server in batch]
            up = [*who["database"], *who["canary"], *rest]
            stops = [*who["faults"], *(f"{server}: does not answer" for server in who["down"])]
            if not who["faults"]:
                stops += _ispmail_fleet.would_stop(client, _servers(targets), up)
            would = [f"accept the new password next to the one in use: {', '.join(who['database'])}"]
            would += [
                f"apply it, and wait for old processes: {', '.join(each)}" for each in (who["canary"], rest) if each
            ]
            would.append(f"prove that all use it, then drop the old one: {', '.join(who['database'])}")
            found[name] = {"would": would, "stops": list(dict.fromkeys(stops))}
    failed = any(each["stops"] for each in found.values())
    if failed:
        __context__["retcode"] = 1
    return {**found, "retcode": 1 if failed else 0}


def _report_refused(dropped, before):
    """Tell how many logins were refused since the counts before, of the sites whose old password was dropped."""
    if not dropped:
        return {}
    found = {}
    after = _refused_logins()
    for site in dropped:
        # A count that has fallen is that of a server that was restarted.
        counts = {
            server: max(0, count - before[site][server])
            for server, count in after[site].items()
            if server in before[site]
        }
        found[site] = sum(counts.values())
        for server, count in counts.items():
            if count > 0:
                refused = plural(count, "login")
                comment = f"{server} has refused {refused} since the rotation began: see the log of the database"
                data = {"site": site, "server": server, "refused": count, "comment": comment}
                __salt__["event.send"](ROTATION_REFUSED.tag, data)
                _print(f"{site}: {comment}")
    return found


def _refused_logins():
    """Site to its database servers, and how many logins each has refused so far."""
    with salt.client.get_local_client(__opts__["conf_file"]) as client:
        return {
            name: _ispmail_fleet.refused_logins(client, _matching(site, "database")) for name, site in _sites().items()
        }


def _sites():
    """The sites in the master's configuration, checked: name to targets."""
    with salt_errors():
        return _ispmail_sites.sites(__opts__.get("ispmail"))


def _servers(targets):
    """The servers of a site, and the names by which its database may list their connections."""
    database, mail = (_matching(targets, role) for role in _NEEDED)
    # From the master's cache: a server that is down is one of the site's too.
    grains = __salt__["cache.grains"](sorted({*database, *mail}), tgt_type="list")
    return Servers(database, mail, _ispmail_sites.hosts(grains, targets["addresses"]))


def _site(name):
    """The targets of one site."""
    known = _sites()
    if name not in known:
        raise SaltInvocationError(f"the master's configuration has no site {name}: it has {', '.join(known)}")
    return known[name]


def _matching(site, role):
    """The servers of a site in a role, whether they answer or not, except those that are gone for good."""
    if not site.get(role):
        return []
    found = salt.utils.minions.CkMinions(__opts__).check_minions(site[role], site["tgt_type"])
    # Names in a list whose keys are missing count too: those servers are down, not forgotten.
    return sorted({*found["minions"], *found.get("missing", [])} - set(site["without"]))


def _resolve_targets(client, name, site, batch):
    """Which servers a rotation of a site goes to, in which order, and why it cannot start."""
    roles = {role: _matching(site, role) for role in ("database", "mail", "canary")}
    up = _ispmail_fleet.present(client, sorted({server for servers in roles.values() for server in servers}))
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
    with salt_errors():
        size = _ispmail_sites.batch_size(batch, len(rest))
    return {
        "database": roles["database"],
        "canary": canary,
        "batches": [rest[start : start + size] for start in range(0, len(rest), size)],
        "down": [server for server in roles["mail"] if server not in up],
        "faults": [f"ispmail:sites:{name}: {fault}" for fault in faults],
    }
