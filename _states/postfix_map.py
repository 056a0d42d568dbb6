"""Keep the SQL lookup maps of a Postfix instance as pillar says.

No secret is an argument here: each state reads pillar itself, or the module does.
"""

import logging
import math
import time

import _ispmail_stamp

_ispmail_stamp.require("a425983357b9")

from salt.exceptions import CommandExecutionError, SaltInvocationError

import _ispmail_applied
import _ispmail_compare
from _ispmail_errors import Failed, has_been, listed, plural
from _ispmail_salt import cache_folder, check_state, salt_errors, state, wanted

log = logging.getLogger(__name__)


def managed(name, pillar="ispmail"):
    """
    The table files, the parameters that point at them, and the option files of consumers are as pillar says. All of it
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
    test = __opts__["test"]

    def act():
        found = _compare(pillar)
        if not found.is_due:
            return found.outcome().describe()
        if "postfix_map.apply" not in __salt__:
            raise CommandExecutionError("postfix_map.apply cannot be loaded, perhaps a sync is under way: apply again")
        return __salt__["postfix_map.apply"](pillar=pillar, test=test, compared=found)

    done = state(name, test, act, lambda outcome: _described(outcome, "applied", test))
    if done["result"] and not test:
        _note(pillar)
    return done


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
    test = __opts__["test"]

    def act():
        return __salt__["postfix_map.remove"](maps=maps, pillar=pillar, test=test)

    return state(name, test, act, lambda outcome: _described(outcome, "removed", test))


def answers(name, pillar="ispmail"):
    """
    The live maps give the answers that pillar expects.

    name
        A sentence, for people.

    pillar : ispmail
        The pillar key that holds the configuration.

    Returns the usual dict of a state; it never has changes. With ``test=True`` a failure is no failure yet where it is
    of maps that an apply would change.

    Raises nothing: a failure is in the comment.

    Source: postmap(1)

    CLI Example:

    .. code-block:: bash

        salt '*' state.single postfix_map.answers 'the mail maps answer'
    """

    wrong = []

    def check():
        wrong.extend(__salt__["postfix_map.answers"](pillar))
        return listed("The live maps do not answer as expected", wrong) if wrong else None

    ret = check_state(name, "The live maps answer as expected", check)
    is_open = __opts__["test"] and not ret["result"] and _is_open(pillar, wrong)
    return {**ret, "result": None} if is_open else ret


def consumers(name, pillar="ispmail"):
    """
    The other programs that log in with the maps' account use the password that pillar has.

    name
        A sentence, for people.

    pillar : ispmail
        The pillar key that holds the configuration.

    Returns the usual dict of a state; it never has changes. With ``test=True`` a failure is no
    failure yet: an apply may write what is missing.

    Raises nothing: a failure is in the comment.

    Source: doveconf(1), mariadb(1)

    CLI Example:

    .. code-block:: bash

        salt '*' state.single postfix_map.consumers 'the other programs have the password'
    """

    def check():
        wrong = __salt__["postfix_map.consumers"](pillar)
        return listed("Not every program uses the password that pillar has", wrong) if wrong else None

    ret = check_state(name, "The other programs use the password that pillar has", check)
    # What an apply would write is not there yet.
    return {**ret, "result": None} if __opts__["test"] and not ret["result"] else ret


def drained(name, timeout=60, pillar="ispmail"):
    """
    No process of Postfix uses an older table file any more.

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
    is_number = isinstance(timeout, (int, float)) and not isinstance(timeout, bool) and 0 <= timeout < math.inf
    until = time.monotonic() + (timeout if is_number and not __opts__["test"] else 0)

    def check():
        if not is_number:
            return "timeout must be a number of seconds, see ispmail:rotation:drain in pillar"
        while old := __salt__["postfix_map.old_processes"](pillar):
            if time.monotonic() > until:
                processes = ", ".join(old)
                return (
                    f"After {timeout} s these processes still use an older table file: {processes}. "
                    "They end with their sessions: try again"
                )
            time.sleep(0.2)
        return None

    return check_state(name, "No process uses an older table file", check)


def _note(pillar):
    """Write down that all is well now: `salt-run ispmail.status` tells when that was last so."""
    try:
        _ispmail_applied.note(cache_folder(__opts__), pillar)
    except Failed as err:
        log.warning("when this apply has succeeded will not be known: %s", err)


def _compare(pillar):
    """What differs between pillar and this server."""
    with salt_errors():
        return _ispmail_compare.compare(*wanted(__pillar__, __opts__, pillar), __opts__["cachedir"])


def _is_open(pillar, wrong):
    """Whether only an apply can tell: it would change all the maps that these sentences are of."""
    try:
        found = _compare(pillar)
    except (CommandExecutionError, SaltInvocationError):
        return False
    stays = tuple(f"{each}: " for each in found.settled)
    return (found.concerns_postfix or found.lacks_postfix) and not any(each.startswith(stays) for each in wrong)


def _described(outcome, done, test):
    things = [plural(outcome["maps"], "map")] if outcome["maps"] or not outcome["consumers"] else []
    if outcome["consumers"]:
        things.append(plural(outcome["consumers"], "consumer"))
    text = " and ".join(things)
    if not outcome["changes"]:
        text += ": in the correct state"
    else:
        text += f" {has_been(outcome['maps'] + outcome['consumers'], done, test)}"
    if outcome["reloaded"]:
        text += f"\nPostfix {has_been(1, 'reloaded', test)}"
    return text
