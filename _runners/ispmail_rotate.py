"""Rotate the passwords of the sites: the part of the runner `ispmail` that changes them."""

import contextlib
import logging
import sys
import threading
import time

import _ispmail_stamp

_ispmail_stamp.require("a425983357b9")

import salt.client
import salt.utils.event
import salt.utils.jid
import salt.utils.minions
from salt.exceptions import CommandExecutionError, SaltInvocationError

import _ispmail_fleet
import _ispmail_master
from _ispmail_errors import Failed, kind_of, plural, printable
from _ispmail_events import ROTATION_FAILED, ROTATION_LISTENING, ROTATION_REFUSED, ROTATION_STEP
from _ispmail_queue import bounded, merged
from _ispmail_rotation import Progress, dropped, reasons, table
from _ispmail_salt import cache_folder, salt_errors

log = logging.getLogger(__name__)

__virtualname__ = "ispmail"

_NOTHING = "the orchestration has returned nothing, so what it did is not known: see the master's log, and rotate again"
# How often the master's bus is looked at, and how long to wait for its listener. In seconds.
_POLL_SECONDS, _READY_SECONDS = 0.1, 5


def __virtual__():
    return __virtualname__


def rotate(test=False, watch=30, timeout=3600):
    """
    Rotate the password of every site whose database Salt manages, or its account and password
    (``ispmail:rotation:method`` in pillar). Calls that come at the same time are merged: one runs, one waits, the
    others return at once. At least one rotation is guaranteed to start after this call. Each step is printed as it ends
    (stderr), and is told by an event ``ispmail/rotation/step``.

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
    to the number of refused logins, None where a database server does not count them, did not answer, or was
    restarted), ``retcode``; or a sentence where another call does it. Where it failed, the event
    ``ispmail/rotation/failed`` reports it, with the reasons as ``comment``. With ``test=True`` a dict: site to a dict
    of ``would`` and ``stops``, lists of sentences; and ``retcode``.

    Raises SaltInvocationError where the configuration is wrong or no site has a database, CommandExecutionError where
    the cache directory cannot be written, or Salt itself fails.

    Source: salt.runners.state.orchestrate

    CLI Example:

    .. code-block:: bash

        salt-run ispmail.rotate test=True
    """
    try:
        with salt_errors():
            _ispmail_master.require_seconds(watch=watch, timeout=timeout)
            _master().rotated()
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


def _orchestrate(timeout):
    """Run the orchestration, and tell of each step as it ends."""
    began = time.monotonic()
    master = _master()
    known = master.rotated()
    before = _refused_logins()
    job = salt.utils.jid.gen_jid(__opts__)
    mail = {name: master.matching(site, "mail") for name, site in known.items()}
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
            _hear_oneself(bus, sender)
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


def _hear_oneself(bus, sender):
    """Wait until the bus hands over what is sent: it takes a listener in some time after that one has connected."""
    for _ in range(round(_READY_SECONDS / _POLL_SECONDS)):
        sender.fire_event({}, ROTATION_LISTENING.tag)
        if bus.get_event(wait=_POLL_SECONDS, tag=ROTATION_LISTENING.tag):
            break


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
    master = _master()
    with salt_errors(), salt.client.get_local_client(__opts__["conf_file"]) as client:
        found = {name: master.preview(client, name) for name in master.rotated()}
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
        counts = {server: _more(before[site].get(server), count) for server, count in after[site].items()}
        uncounted = [server for server, count in counts.items() if count is None]
        found[site] = None if uncounted else sum(counts.values())
        for server in uncounted:
            _print(f"{site}: how many logins {server} has refused is not known: it does not tell, or was restarted")
        for server, count in counts.items():
            if count:
                refused = plural(count, "login")
                comment = f"{server} has refused {refused} since the rotation began: see the log of the database"
                data = {"site": site, "server": server, "refused": count, "comment": comment}
                __salt__["event.send"](ROTATION_REFUSED.tag, data)
                _print(f"{site}: {comment}")
    return found


def _more(before, after):
    """How many logins a server has refused since; None where it does not tell. A count that falls begins anew."""
    return None if before is None or after is None or after < before else after - before


def _refused_logins():
    """Site to its database servers, and how many logins each has refused so far; None where it does not tell."""
    master = _master()
    found = {}
    with salt.client.get_local_client(__opts__["conf_file"]) as client:
        for name, site in master.rotated().items():
            servers = master.matching(site, "database")
            found[name] = {**dict.fromkeys(servers), **_ispmail_fleet.refused_logins(client, servers)}
    return found


def _master():
    return _ispmail_master.of(__opts__, __salt__, salt.utils.minions.CkMinions)
