"""Read the SQL lookup maps of one Postfix instance, and compare them with pillar.

A *map* is what a main.cf parameter points at; its *table file* says how to ask the database. All functions read pillar
themselves: no secret is ever an argument.

Salt loads the other parts of the module, postfix_map_ask, _change, _found and _undo, when one of their functions is
called.
"""

import _ispmail_stamp

_ispmail_stamp.require("a425983357b9")

import _ispmail_applied
import _ispmail_compare
import _ispmail_consumers
import _ispmail_files
import _ispmail_instances
import _ispmail_inventory
import _ispmail_plan
import _ispmail_postfix
import _ispmail_tablefile
from _ispmail_salt import cache_folder, for_salt, instance, instances, wanted


@for_salt
def read(pillar="ispmail"):
    """
    Read the maps that pillar names as they are on this server, without secrets.

    pillar : ispmail
        The pillar key that holds the configuration.

    Returns a dict: name of the map to a dict of ``parameter``, ``table`` (``type:path`` as main.cf has it),
    ``in_parameter`` (whether the parameter points at it), ``owner``, ``group`` and ``mode`` of the table file, and
    ``keys``, its content with ``***`` for secrets (None: no such file).

    Raises SaltInvocationError for faults in pillar, CommandExecutionError where main.cf or a file cannot be read.

    Source: mysql_table(5), postconf(1)

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_map.read
    """
    found = instance(__pillar__, pillar)
    known = _ispmail_inventory.settings(found.config_directory) if found.wanted else None
    return {each.name: _described(each, known) for each in found.wanted}


@for_salt
def compare(pillar="ispmail"):
    """
    Compare the table files, main.cf and the consumers' option files of this server with pillar. No table is asked.

    pillar : ispmail
        The pillar key that holds the configuration.

    Returns a dict as ``apply`` does, with ``faults``, a list of sentences on what it would refuse (as far as that can
    be seen without asking), and ``due``, whether it would do or refuse anything. ``reloaded`` is False, because a
    comparison reloads nothing; where a change was cut off, it is whether Postfix would be reloaded to finish that.
    ``applied`` is how many seconds ago the state ``postfix_map.managed`` has succeeded last, None where nobody knows.

    Raises SaltInvocationError for faults in pillar, CommandExecutionError where a file or main.cf cannot be read, or a
    consumer would not use its option file.

    Source: mysql_table(5), postconf(1)

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_map.compare
    """
    found = _ispmail_compare.compare(*wanted(__pillar__, __opts__, pillar), __opts__["cachedir"])
    reloads = False
    if found.maps is not None and found.interrupted:
        reloads = _ispmail_postfix.running(found.maps.settings.queue_directory)
    said = {**found.outcome(reloaded=reloads).describe(), "faults": found.faults, "due": found.is_due}
    return {**said, "applied": _ispmail_applied.ago(cache_folder(__opts__), pillar)}


@for_salt
def consumers(pillar="ispmail"):
    """
    See whether the other programs that log in with the maps' account use the password that pillar has.

    pillar : ispmail
        The pillar key that holds the configuration.

    Returns a list of sentences, empty where all do: option files that differ from pillar, a configuration of Dovecot
    that does not name its option file (with the lines to write), and files in ``holds`` without the password. A
    consumer with ``ignore: true`` is left out.

    Raises SaltInvocationError for faults in pillar, CommandExecutionError where a file cannot be read, or doveconf
    fails.

    Source: doveconf(1), mariadb(1)

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_map.consumers
    """
    return _ispmail_consumers.unready(wanted(__pillar__, __opts__, pillar)[1])


@for_salt
def old_processes(pillar="ispmail"):
    """
    List the processes of Postfix that still use older table files than the live ones.

    pillar : ispmail
        The pillar key that holds the configuration; the ``instances`` that it names are included.

    Returns a list such as ``smtpd 4711``; empty where all have read the live ones. Of an instance that pillar does not
    name, and that asks these table files too, it is ``smtpd 4711 of the Postfix in /etc/postfix-out``.

    Raises SaltInvocationError for faults in pillar, CommandExecutionError where postconf cannot tell the queue
    directory, or which tables another instance asks that a main.cf names.

    Source: master(8), proc(5)

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_map.old_processes
    """
    return _ispmail_instances.old_processes(instances(__pillar__, pillar).values())


def _described(each, known):
    """A map as it is on this server, without secrets."""
    file = _ispmail_files.read(each.path)
    reached = [one for word in known.words(each.parameter) for one in word.references if one.path == file.path]
    found = {
        "parameter": each.parameter,
        "table": reached[0].table if reached else each.table(),
        "in_parameter": bool(reached),
        "keys": None,
    }
    if file.content is not None:
        keys = _ispmail_tablefile.redact(_ispmail_tablefile.parse(file.content))
        found.update(_ispmail_plan.ownership(file), keys=keys)
    return found
