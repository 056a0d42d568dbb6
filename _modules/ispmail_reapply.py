"""Apply the formula once for many events: the part of the module `ispmail` that changes a server."""

import _ispmail_stamp

_ispmail_stamp.require("a425983357b9")

from salt.exceptions import CommandExecutionError, SaltInvocationError

import _ispmail_queue
import _ispmail_told
from _ispmail_errors import Failed, kind_of
from _ispmail_events import APPLY_FAILED
from _ispmail_salt import cache_folder

__virtualname__ = "ispmail"

_SLS = "ispmail"
# How many state runs may wait behind the one that is under way.
_QUEUE = 100


def __virtual__():
    return __virtualname__


def reapply(refresh=True):
    """
    Apply the SLS ``ispmail`` with fresh pillar, and ask the live maps. Calls that come at the same time are merged: one
    runs, one waits, the others return at once. At least one apply is guaranteed to start after this call.

    refresh : True
        Whether to refresh pillar before the apply. Only a master with ``pillar_cache`` needs that, and the runner
        ``ispmail.reapply`` says so: any other one compiles pillar for the apply. Then what the minion itself keeps is
        refreshed after it.

    Returns a dict: ``applied`` (False where another call does it), ``comment``, what the failed states said, and where
    it was applied ``result``, True or False. Where it failed, the event ``ispmail/apply/failed`` reports it, once as
    long as it fails in the same way.

    Raises nothing: where the cache directory cannot be written, that is the comment of a failed apply.

    Source: salt.modules.state.apply

    CLI Example:

    .. code-block:: bash

        salt '*' ispmail.reapply
    """
    try:
        failed = _ispmail_queue.merged(cache_folder(__opts__), "apply", lambda: _apply(refresh))
        if failed is None:
            return {"applied": False, "comment": "another apply is about to start"}
        # That there was nothing to change proves nothing: pillar may be as old as the table files.
        failed = failed or _unaskable()
    except (Failed, CommandExecutionError, SaltInvocationError) as err:
        failed = [f"It could not be applied: {err}"]
    except Exception as err:  # pylint: disable=broad-except
        # Salt's own work (its caches, its event bus) may raise anything, with any text.
        failed = [f"It could not be applied: state.apply {_SLS} ended with {kind_of(err)}"]
    comment = "\n".join(failed)
    _report(comment)
    if failed:
        __context__["retcode"] = 2
    return {"applied": True, "result": not failed, "comment": comment}


def _apply(refresh):
    """Apply with fresh pillar; return sentences on what failed."""
    has_master = __opts__.get("file_client") == "remote"
    if has_master and refresh:
        __salt__["saltutil.refresh_pillar"](wait=True)
    states = __salt__["state.apply"](_SLS, queue=_QUEUE)
    if has_master and not refresh:
        # The next job would begin with the pillar that the minion's main process has, which may hold the old password.
        __salt__["saltutil.refresh_pillar"](wait=False)
    if not isinstance(states, dict):
        return [str(line) for line in states]
    return [state["comment"] for state in states.values() if state["result"] is False]


def _unaskable():
    """Sentences on the maps that cannot be asked, although pillar and the table files agree."""
    try:
        return [f"Pillar and the table files agree, but {reason}" for reason in __salt__["postfix_map.probe"]()]
    except (CommandExecutionError, SaltInvocationError) as err:
        return [str(err)]


def _report(comment):
    """Report by event what failed, unless that was reported last; an empty text is remembered only."""
    data = {"sls": _SLS, "comment": comment}
    send = __salt__["event.send"]
    _ispmail_told.once(cache_folder(__opts__), "failed", comment, lambda: comment and send(APPLY_FAILED.tag, data))
