"""Keep the SQL lookup maps of a Postfix instance as pillar says.

No secret is an argument here: the modules read pillar themselves.
"""

import time

from salt.exceptions import CommandExecutionError, SaltInvocationError


def managed(name, pillar="ispmail"):
    """
    The table files, and the parameters that point at them, are as pillar says. All of it
    or nothing, see ``postfix_map.apply``.

    name
        A sentence, for people.

    pillar : ispmail
        The pillar key that holds the configuration.

    Returns the usual dict of a state. With ``test=True`` new table files are asked too.

    Raises nothing: a failure is in the comment, and everything is as before then.

    Source: mysql_table(5), postconf(5)

    CLI Example:

    .. code-block:: bash

        salt '*' state.single postfix_map.managed 'the mail maps' test=True
    """
    return _act(name, "applied", "postfix_map.apply", pillar=pillar)


def absent(name, maps=None, pillar="ispmail"):
    """
    No parameter points at these maps, and their table files are gone.

    name
        A sentence, for people.

    maps : None
        A list of names of maps in pillar; None for all.

    pillar : ispmail
        The pillar key that holds the configuration.

    Returns the usual dict of a state.

    Raises nothing: a failure is in the comment, and everything is as before then.

    Source: postconf(5)

    CLI Example:

    .. code-block:: bash

        salt '*' state.single postfix_map.absent 'no mail maps' test=True
    """
    return _act(name, "removed", "postfix_map.remove", maps=maps, pillar=pillar)


def answers(name, pillar="ispmail"):
    """
    The live maps give the answers that pillar expects.

    name
        A sentence, for people.

    pillar : ispmail
        The pillar key that holds the configuration.

    Returns the usual dict of a state; it never has changes, nor does ``test=True`` differ.

    Raises nothing: a failure is in the comment.

    Source: postmap(1)

    CLI Example:

    .. code-block:: bash

        salt '*' state.single postfix_map.answers 'the mail maps answer'
    """
    ret = {"name": name, "changes": {}, "result": True, "comment": "The live maps answer as expected"}
    try:
        wrong = __salt__["postfix_map.answers"](pillar)
    except (CommandExecutionError, SaltInvocationError) as err:
        ret.update(result=False, comment=str(err))
        return ret
    if wrong:
        ret.update(result=False, comment="\n- ".join(["The live maps do not answer as expected:", *wrong]))
    return ret


def _act(name, done, function, **arguments):
    ret = {"name": name, "changes": {}, "result": True, "comment": ""}
    test = __opts__["test"]
    try:
        result = __salt__[function](test=test, **arguments)
    except (CommandExecutionError, SaltInvocationError) as err:
        ret.update(result=False, comment=str(err))
        return ret
    ret["changes"] = result["changes"]
    maps = f"{result['maps']} map{'s' * (result['maps'] != 1)}"
    if not ret["changes"]:
        said = [f"{maps}: in the correct state"]
    elif test:
        ret["result"] = None
        said = [f"{maps} would be {done}"]
    else:
        said = [f"{maps} {'has' if result['maps'] == 1 else 'have'} been {done}"]
    if result["reloaded"]:
        said.append(f"Postfix {'would be' if test else 'has been'} reloaded")
    said += [f"warning: {warning}" for warning in result["warnings"]]
    ret["comment"] = "\n".join(said)
    return ret


def drained(name, timeout=60, pillar="ispmail"):
    """
    No process of Postfix asks with an older table file any more.

    name
        A sentence, for people.

    timeout : 60
        How many seconds to wait for busy processes to end their sessions.

    pillar : ispmail
        The pillar key that holds the configuration.

    Returns the usual dict of a state; it never has changes.

    Raises nothing: a failure names the processes in the comment.

    Source: master(8)

    CLI Example:

    .. code-block:: bash

        salt '*' state.single postfix_map.drained 'no old processes' timeout=5
    """
    ret = {"name": name, "changes": {}, "result": True, "comment": "No process asks with an older table file"}
    until = time.monotonic() + (0 if __opts__["test"] else timeout)
    try:
        while old := __salt__["postfix_map.old_processes"](pillar):
            if time.monotonic() > until:
                comment = f"After {timeout} s these still ask with an older table file: {', '.join(old)}"
                ret.update(result=False, comment=f"{comment}. They end with their sessions: try again")
                break
            time.sleep(0.2)
    except (CommandExecutionError, SaltInvocationError) as err:
        ret.update(result=False, comment=str(err))
    return ret
