"""What ispmail asks of Salt itself: one apply for many events, its pillar keys, and secrets from sdb."""

import contextlib
import fcntl
import os

import salt.utils.data
import salt.utils.sdb
from salt.exceptions import CommandExecutionError, SaltInvocationError

# How many state runs may wait behind one that is under way.
_QUEUE = 100


def reapply(sls="ispmail"):
    """
    Apply an SLS with fresh pillar, and ask the live maps, once for however many ask at the same time: one run
    is under way, one waits for it, and who finds one waiting returns. An apply that
    begins after this was called is certain, and reads pillar as it is then.

    sls : ispmail
        The SLS.

    Returns a dict: ``applied`` (False where another one does it), ``comment``, what the failed states said, and
    where it was applied ``result``, True or False.

    Raises nothing: what fails is in the comment, and an event ``ispmail/apply/failed`` says so, once as
    long as it fails in the same way.

    Source: salt.modules.state.apply

    CLI Example:

    .. code-block:: bash

        salt '*' ispmail.reapply
    """
    folder = os.path.join(__opts__["cachedir"], "ispmail")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    with contextlib.ExitStack() as stack:
        running = stack.enter_context(open(os.path.join(folder, "running"), "a", encoding="ascii"))
        with open(os.path.join(folder, "waiting"), "a", encoding="ascii") as waiting:
            try:
                fcntl.flock(waiting, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return {"applied": False, "comment": "another apply is about to begin"}
            fcntl.flock(running, fcntl.LOCK_EX)
        # Nobody waits now: who asks from here on may not be served by the pillar read below.
        if __opts__.get("file_client") == "remote":
            __salt__["saltutil.refresh_pillar"](wait=True)
        states = __salt__["state.apply"](sls, queue=_QUEUE)
    if isinstance(states, dict):
        failed = [state["comment"] for state in states.values() if state["result"] is False]
        # Nothing to change is no proof: pillar may be as old as the table files.
        try:
            refused = [] if failed else __salt__["postfix_map.probe"]()
        except (CommandExecutionError, SaltInvocationError) as err:
            refused = [str(err)]
        failed += [f"Pillar has what the table files have, and {reason}" for reason in refused]
    else:
        failed = [str(line) for line in states]
    comment = "\n".join(failed)
    told = os.path.join(folder, "failed")
    with open(told, "a+", encoding="utf-8") as last:
        last.seek(0)
        if last.read() != comment:
            last.truncate(0)
            last.write(comment)
            if failed:
                __salt__["event.send"]("ispmail/apply/failed", {"sls": sls, "comment": comment})
    if failed:
        __context__["retcode"] = 2
    return {"applied": True, "result": not failed, "comment": comment}


def instances(pillar="ispmail"):
    """
    Tell which maps pillar asks for, those of the other instances of Postfix included.

    pillar : ispmail
        The pillar key that holds the configuration.

    Returns a dict: this key, then each one that its ``instances`` names, to what ``ispmail_pillar.places`` tells of it.

    Raises SaltInvocationError for faults in pillar.

    Source: pillar.example

    CLI Example:

    .. code-block:: bash

        salt '*' ispmail.instances
    """
    plan = places(pillar)
    return {pillar: plan, **{key: places(key) for key in plan["instances"]}}


def places(pillar="ispmail"):
    """
    Tell which maps pillar asks for, and where each one lives, without what needs the password.

    pillar : ispmail
        The pillar key that holds the configuration.

    Returns what ``ispmail_pillar.places`` tells of it, without ``errors``.

    Raises SaltInvocationError for faults in pillar.

    Source: pillar.example

    CLI Example:

    .. code-block:: bash

        salt '*' ispmail.places
    """
    try:
        plan = __salt__["ispmail_pillar.places"](_pillar(pillar))
    except SaltInvocationError as err:
        raise SaltInvocationError(f"{pillar}: {err}") from err
    faults = dict.fromkeys(f"{pillar}:{key} {sentence}" for key, sentence in plan.pop("errors"))
    if faults:
        raise SaltInvocationError("\n- ".join(["Pillar is at fault, nothing was changed:", *faults]))
    return plan


def config(pillar="ispmail", sections=None, **kwargs):
    """
    Read what pillar holds, and look up the sdb:// URIs in it.

    pillar : ispmail
        The pillar key that holds the configuration.

    sections : None
        A list of the keys below it that are wanted; None for all.

    Returns a list of two: the configuration with each URI replaced by what it stands for (an empty text where it could
    not be), and a list of faults, pairs ``[key, sentence]``.

    Raises SaltInvocationError where pillar has no such key, and where it is called as a job: what a job returns is
    kept, and this holds a password.

    Source: salt.utils.sdb

    CLI Example:

    .. code-block:: bash

        salt '*' ispmail.config    # refused: for other modules only
    """
    if kwargs:
        raise SaltInvocationError("this is not for the command line, as it would show secrets: use ispmail.places")
    found, faults = _pillar(pillar), []
    if sections and isinstance(found, dict):
        found = {name: value for name, value in found.items() if name in sections}
    return [_resolved(found, (), faults), faults]


def _pillar(pillar):
    found = salt.utils.data.traverse_dict_and_list(__pillar__, pillar, None)
    if found is None:
        broken = " (it could not be rendered: see the log of the master)" if "_errors" in __pillar__ else ""
        raise SaltInvocationError(
            f"pillar has no {pillar}{broken}: at least {pillar}:database:password is needed, see pillar.example"
        )
    return found


def _resolved(value, path, faults):
    if isinstance(value, dict):
        return {key: _resolved(item, (*path, str(key)), faults) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_resolved(item, (*path, str(at)), faults) for at, item in enumerate(value)]
    if not isinstance(value, str) or not value.startswith("sdb://"):
        return value
    try:
        found = salt.utils.sdb.sdb_get(value, __opts__, None, True)
    except Exception as err:  # pylint: disable=broad-except
        # Any driver, any error: its text may hold a secret.
        reason = f"could not be read from sdb ({type(err).__name__}): check the sdb profile of the minion"
        faults.append([":".join(path), reason])
        return ""
    if found is None or found == value:
        faults.append([":".join(path), "is not there in sdb: store it under that name, or check the sdb profile"])
        return ""
    return found
