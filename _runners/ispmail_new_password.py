"""Make a new password for a site: the part of the runner `ispmail` that writes sdb on the master."""

import logging

import _ispmail_stamp

_ispmail_stamp.require("a425983357b9")

import salt.client
import salt.utils.minions
import salt.utils.sdb
from salt.exceptions import CommandExecutionError, SaltInvocationError

import _ispmail_master
import _ispmail_new_password
import _ispmail_stored
from _ispmail_errors import Failed, IspmailError, kind_of
from _ispmail_events import ROTATION_FAILED
from _ispmail_new_password import GOES_ON, STAYS, Site
from _ispmail_queue import bounded, merged
from _ispmail_salt import cache_folder, salt_errors

log = logging.getLogger(__name__)

__virtualname__ = "ispmail"

_SAID = {
    _ispmail_new_password.MADE: "a new one is in sdb and in pillar",
    GOES_ON: "no new one: the rotation to the one that is in pillar has not ended, and goes on; then call this again",
    STAYS: "no new one: the login in use stays in sdb and in pillar, and nothing was changed at the database",
}
# How long an answer of sdb may take.
_SDB_SECONDS = 30
_WAITS = "a rotation waits for another one to end: call this again after it"


def __virtual__():
    return __virtualname__


def new_password(site, test=False, watch=30, timeout=3600):
    """
    Make a new password for the account of a site, write it to sdb, see that the pillar of all servers of the site has
    it, and of no other ones, and start ``ispmail.rotate``. Nobody sees the password: it has 24 letters and digits, 142
    bits, and needs no quotes in any file or command.

    If something would stop the rotation, the old password is put back before anything has changed at the database.
    If a rotation to the password in pillar has not ended (a call of this was cut off, a server was down), it goes on,
    and no other password is made.

    site
        A name below ``ispmail:sites`` in the master's configuration. There ``sdb_password`` is what pillar looks up
        after ``sdb://``, on the master or on the minions. For a rotation by two accounts ``sdb_user`` is the same of
        the user; the other one of the two is written there. The driver has to be one that can write.

    test : False
        Whether only to tell what would be done, and what would stop it. Nothing is written.

    watch : 30
        As for ``ispmail.rotate``.

    timeout : 3600
        As for ``ispmail.rotate``.

    Returns a dict: ``password`` (a sentence on what became of it) and what ``ispmail.rotate`` returns; ``rotation`` is
    a sentence where another call does that. Where it was stopped, ``reasons`` and ``retcode``, and the event
    ``ispmail/rotation/failed`` has the reasons too. With ``test=True`` a dict of ``password``, ``would`` and ``stops``
    (lists of sentences), and ``retcode``.

    Raises SaltInvocationError where the configuration is wrong or has no such site, CommandExecutionError where sdb
    cannot be read, or Salt itself fails.

    Source: salt.utils.sdb

    CLI Example:

    .. code-block:: bash

        salt-run ispmail.new_password main test=True
    """
    try:
        with salt_errors():
            _ispmail_master.require_seconds(watch=watch, timeout=timeout)
            # No rotation may begin between the two values that are written, or before it is known that one can.
            found = merged(cache_folder(__opts__), "rotate", lambda: _prepare(site, test))
    except (CommandExecutionError, SaltInvocationError) as err:
        if not test:
            __salt__["event.send"](ROTATION_FAILED.tag, {"comment": str(err)})
        raise
    if found is None:
        return {"password": _WAITS, "reasons": [_WAITS], "retcode": _failed(1)}
    if test:
        would = [] if found.what == STAYS else [_first_step(found.what), *found.would]
        said = f"test=True: {_SAID[found.what].replace('is in', 'would be in')}"
        return {"password": said, "would": would, "stops": found.stops, "retcode": _failed(int(bool(found.stops)))}
    log.info("site %s: %s", site, _SAID[found.what])
    if found.what == STAYS:
        __salt__["event.send"](
            ROTATION_FAILED.tag, {"comment": "\n".join([f"site {site}: {_SAID[STAYS]}", *found.stops])}
        )
        return {"password": _SAID[STAYS], "reasons": found.stops, "retcode": _failed(1)}
    done = __salt__["ispmail.rotate"](watch=watch, timeout=timeout)
    return {"password": _SAID[found.what], **(done if isinstance(done, dict) else {"rotation": done, "retcode": 0})}


def _prepare(site, test):
    master = _master()
    store = _ispmail_stored.store(site, master.site(site), __opts__, _get, _put)
    try:
        with salt.client.get_local_client(__opts__["conf_file"]) as client:
            return _ispmail_new_password.prepare(Site(client, master, site, store), test)
    except IspmailError:
        raise
    except Exception as err:  # pylint: disable=broad-except
        # Salt's own work may raise anything, with any text.
        raise Failed(f"no new password was made: it ended with {kind_of(err)}") from None


def _master():
    return _ispmail_master.of(__opts__, __salt__, salt.utils.minions.CkMinions)


def _get(uri):
    return _in_time(lambda: salt.utils.sdb.sdb_get(uri, __opts__, None, True))


def _put(uri, value):
    return _in_time(lambda: salt.utils.sdb.sdb_set(uri, value, __opts__))


def _in_time(ask):
    """Nobody else can rotate meanwhile, and a driver may wait for its server without end."""
    found = bounded(lambda: (ask(),), _SDB_SECONDS)
    if found is None:
        raise TimeoutError
    return found[0]


def _first_step(what):
    return "finish the rotation to the password that is in pillar" if what == GOES_ON else "write a new password to sdb"


def _failed(code):
    """What the run ends with. An exception would come with Salt's traceback around it."""
    if code:
        __context__["retcode"] = code
    return code
