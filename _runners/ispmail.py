"""What the master does: have servers re-apply, and find out who holds and who uses which password."""

import contextlib
import logging
import os
import time

import _ispmail_stamp

_ispmail_stamp.require("a425983357b9")

import salt.client
import salt.utils.minions

import _ispmail_fleet
import _ispmail_master
import _ispmail_status
from _ispmail_errors import Failed
from _ispmail_queue import merged
from _ispmail_salt import cache_folder, salt_errors

log = logging.getLogger(__name__)

# How long after one call of `reapply` the next one is done, in seconds.
_REAPPLY_SECONDS = 5


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
    with salt_errors():
        _master().sites()
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
                for name, site in _master().sites().items()
            }

    with salt_errors():
        return merged(folder, "reapply", publish) or "another call is about to do it"


def sites(batch="25%"):
    """
    List the servers that a rotation would go to, and have those that answer refresh their pillar:
    ``ispmail:sites`` in the master's configuration says which servers there are.

    batch : 25%
        How many mail servers go at a time after the canary: a number or a share of them.

    Returns a dict: site that has a database to a dict of ``database`` and ``canary`` (lists of servers that answer),
    ``batches`` (a list of such lists, all other mail servers), ``down`` (a list of those that do not answer) and
    ``faults``, a list of sentences: why a rotation cannot start.

    Raises SaltInvocationError where the configuration is wrong or no site has a database, or for another kind of batch.

    Source: salt.modules.saltutil.refresh_pillar

    CLI Example:

    .. code-block:: bash

        salt-run ispmail.sites
    """
    master = _master()
    with salt_errors(), salt.client.get_local_client(__opts__["conf_file"]) as client:
        return {name: master.targets(client, name, batch) for name in master.rotated()}


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
    master = _master()
    with salt_errors(), salt.client.get_local_client(__opts__["conf_file"]) as client:
        servers = master.servers(master.site(site))
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
    master = _master()
    with salt_errors(), salt.client.get_local_client(__opts__["conf_file"]) as client:
        _ispmail_master.require_seconds(timeout=timeout)
        targets = master.site(site)
        servers = master.servers(targets)
        up = _ispmail_fleet.present(client, servers.all)
        faults, maps = _ispmail_fleet.proof(client, servers, up, timeout)
    unmatched = _ispmail_master.unmatched(targets, servers._asdict())
    faults = [*(_ispmail_master.said_of(site, fault) for fault in unmatched), *faults]
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
    master = _master()
    with salt_errors(), salt.client.get_local_client(__opts__["conf_file"]) as client:
        _ispmail_master.require_seconds(timeout=timeout)
        for name, targets in master.sites().items():
            servers = master.servers(targets)
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


def _master():
    return _ispmail_master.of(__opts__, __salt__, salt.utils.minions.CkMinions)
