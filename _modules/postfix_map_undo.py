"""Tell what the last changes of a Postfix instance replaced, and go back to it.

The part of `postfix_map` that only somebody needs who wants to undo a change.
"""

import _ispmail_stamp

_ispmail_stamp.require("a425983357b9")

import _ispmail_rollback
from _ispmail_salt import for_salt, named_directories, undoable

__virtualname__ = "postfix_map"


def __virtual__():
    return __virtualname__


@for_salt
def history(pillar="ispmail"):
    """
    List what the last applies, removals and rollbacks of this server replaced, the newest first, without secrets.

    pillar : ispmail
        The pillar key that holds the configuration.

    Returns a list of dicts: ``entry``, the number by which ``rollback`` goes back to what was there before that change;
    ``when``; ``act`` (``apply``, ``remove``, or ``rollback to 3``; ``(cut off)`` where the next change has to finish
    it); and ``changes``, as ``apply`` returns them. Files that pillar does not name any more stand there with their
    path. ``history`` in pillar says how many are kept.

    Raises SaltInvocationError where neither pillar nor the history tells which Postfix it is (other faults of pillar do
    not matter), CommandExecutionError where the history cannot be read.

    Source: mysql_table(5), postconf(1)

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_map.history
    """
    instance, consumers, _ = undoable(__pillar__, __opts__, pillar, _ispmail_rollback.last_changed_by)
    return _ispmail_rollback.history(instance, consumers, __opts__["cachedir"])


@for_salt
def rollback(entry=None, pillar="ispmail", test=False):
    """
    Go back to what table files, main.cf and the consumers' option files were before a change in the history, all or
    nothing. Each table file that comes back is asked before it goes live, and each login tried; Postfix is reloaded if
    it runs; and if anything fails, everything is put back. Pillar is not changed: the next apply goes forward again. A
    rollback is in the history too, so it can be undone.

    entry : None
        A number that ``history`` tells; None for the newest. That change and all after it are undone.

    pillar : ispmail
        The pillar key that holds the configuration.

    test : False
        Whether only to tell what would be done. What would come back is asked all the same, from memory.

    Returns a dict as ``apply`` does; ``maps`` and ``consumers`` are 0.

    Raises SaltInvocationError where neither pillar nor the history tells which Postfix it is (other faults of pillar do
    not matter), and for an entry that is not there (it lists those that are); CommandExecutionError where a map could
    not be asked, as after a change of the password at the database, where somebody else has changed a file or parameter
    since, or where a file could not be written; everything is as before then.

    Source: mysql_table(5), postmap(1), postconf(1), postfix(1)

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_map.rollback test=True
    """
    found = undoable(__pillar__, __opts__, pillar, _ispmail_rollback.last_changed_by)
    options = {"test": test, "directories": named_directories(__pillar__)}
    return _ispmail_rollback.rollback(*found, entry, __opts__["cachedir"], **options).describe()
