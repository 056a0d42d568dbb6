"""Read, ask and compare the SQL lookup maps of one Postfix instance.

A *map* is what a main.cf parameter points at; its *table file* says how to ask the database. All functions read pillar
themselves: no secret is ever an argument.
"""

import ispmail_stamp

ispmail_stamp.require("3ce112f43c11")

import ispmail_answers
import ispmail_classes
import ispmail_compare
import ispmail_consumers
import ispmail_files
import ispmail_inventory
import ispmail_plan
import ispmail_postfix
import ispmail_proof
import ispmail_tablefile
from ispmail_salt import account, complete, instance, instances, salt_errors, wanted


def read(pillar="ispmail"):
    """
    Read the maps that pillar names as they are on this server, without secrets.

    pillar : ispmail
        The pillar key that holds the configuration.

    Returns a dict: name of the map to a dict of ``parameter``, ``table`` (``type:path`` as main.cf has it),
    ``in_parameter`` (whether the parameter points at it), ``user``, ``group`` and ``mode`` of the table file, and
    ``keys``, its content with ``***`` for secrets (None: no such file).

    Raises SaltInvocationError for faults in pillar, CommandExecutionError where main.cf or a file cannot be read.

    Source: mysql_table(5), postconf(1)

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_map.read
    """
    with salt_errors():
        found = instance(__pillar__, pillar)
        known = ispmail_inventory.settings(found.config_directory) if found.wanted else None
        return {each.name: _described(each, known) for each in found.wanted}


def lookup(map, question, pillar="ispmail"):
    """
    Ask one map one question, as Postfix would.

    map
        The name of a map in pillar, or a table that pillar or main.cf names, such as ``mysql:/etc/postfix/x.cf``.

    question
        The key to look up, one line.

    pillar : ispmail
        The pillar key that holds the configuration.

    Returns a dict, within 10 seconds: ``result`` is ``answer``, with the text as ``answer`` (``***`` for a map of
    passwords, such as smtp_sasl_password_maps); ``no answer``; or ``could not ask``, with ``reason`` and ``table``.
    ``warnings`` lists what else postmap said.

    Raises SaltInvocationError for a map or table that neither pillar nor main.cf names, CommandExecutionError where
    there is no postmap.

    Source: postmap(1) -q

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_map.lookup virtual_alias_maps jack@example.org
    """
    with salt_errors():
        found = ispmail_answers.lookup(instance(__pillar__, pillar), str(map), str(question))
    result = {"result": found.result, "warnings": list(found.warnings)}
    if found.answer is not None:
        return {**result, "answer": found.answer}
    return result if found.reason is None else {**result, "reason": found.reason, "table": found.table}


def compare(pillar="ispmail"):
    """
    Compare the table files, main.cf and the consumers' option files of this server with pillar. No table is asked.

    pillar : ispmail
        The pillar key that holds the configuration.

    Returns a dict as ``apply`` does, with ``faults``, a list of sentences on what it would refuse (as far as that can
    be seen without asking), and ``due``, whether it would do or refuse anything.

    Raises SaltInvocationError for faults in pillar, CommandExecutionError where a file or main.cf cannot be read, or a
    consumer would not use its option file.

    Source: mysql_table(5), postconf(1)

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_map.compare
    """
    with salt_errors():
        maps, others = wanted(__pillar__, __opts__, pillar)
        found = ispmail_compare.compare(maps, __opts__["cachedir"], others)
        running = found.concerns_postfix and ispmail_postfix.running(maps.config_directory)
        return {**found.outcome(reloaded=running).describe(), "faults": found.faults, "due": found.is_due}


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
    with salt_errors():
        return ispmail_consumers.unready(wanted(__pillar__, __opts__, pillar)[1])


def answers(pillar="ispmail"):
    """
    Ask the live maps what ``answers`` in pillar asks, and compare.

    pillar : ispmail
        The pillar key that holds the configuration.

    Returns a list of sentences, one for each answer that is not as pillar expects; empty where all are.

    Raises SaltInvocationError for faults in pillar, CommandExecutionError where there is no postmap.

    Source: postmap(1) -q

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_map.answers
    """
    with salt_errors():
        found = complete(__pillar__, __opts__, pillar)
        return ispmail_classes.wrong_answers(found)


def probe(pillar="ispmail"):
    """
    Ask each live map a question that runs its query, whatever the answer.

    pillar : ispmail
        The pillar key that holds the configuration; the ``instances`` that it names are asked too.

    Returns a list of sentences, one for each reason why maps cannot be asked; empty where all can.

    Raises SaltInvocationError for faults in pillar, CommandExecutionError where there is no postmap.

    Source: postmap(1) -q

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_map.probe
    """
    with salt_errors():
        return [
            reason for each in instances(__pillar__, pillar).values() for reason in ispmail_answers.unaskable_live(each)
        ]


def fingerprints(nonce, live=True, pillar="ispmail"):
    """
    Compare passwords without telling them: equal fingerprints are equal passwords.

    nonce
        A text of 16 characters or more, drawn at random by whoever compares and used once, so that no fingerprint can
        be looked up.

    live : True
        Whether to read the live table files too; a database server has none.

    pillar : ispmail
        The pillar key that holds the configuration; the ``instances`` that it names are included.

    Returns a dict: ``pillar`` and, where asked for, ``live``, each name of a map (with the pillar key before it, for
    another instance) that logs in to MySQL or MariaDB as the ``user`` of ``database`` to scrypt(password, nonce), None
    where there is no password, or no table file. Maps of other accounts are left out. Consumers are there as
    ``consumer:dovecot``, by their option file, or by whether the files in ``holds`` have pillar's password (None: not).

    Raises SaltInvocationError for a short nonce or faults in pillar, CommandExecutionError where a table file cannot be
    read.

    Source: RFC 7914 (scrypt)

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_map.fingerprints 7f3a9c41d6e25b08
    """
    with salt_errors():
        keys = instances(__pillar__, pillar)
        found = [wanted(__pillar__, __opts__, key) for key in keys]
        maps, consumers = zip(*found)
        return ispmail_proof.fingerprints(maps, account(__pillar__, __opts__, pillar), nonce, live, consumers)


def old_processes(pillar="ispmail"):
    """
    List the processes of Postfix that still use older table files than the live ones.

    pillar : ispmail
        The pillar key that holds the configuration; the ``instances`` that it names are included.

    Returns a list such as ``smtpd 4711``; empty where all have read the live ones.

    Raises SaltInvocationError for faults in pillar, CommandExecutionError where postconf cannot tell the queue
    directory.

    Source: master(8), proc(5)

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_map.old_processes
    """
    with salt_errors():
        return [
            process
            for each in instances(__pillar__, pillar).values()
            for process in ispmail_postfix.old_processes([one.path for one in each.wanted], each.config_directory)
        ]


def _described(each, known):
    """A map as it is on this server, without secrets."""
    file = ispmail_files.read(each.path)
    reached = [one for word in known.words(each.parameter) for one in word.references if one.path == file.path]
    found = {
        "parameter": each.parameter,
        "table": reached[0].table if reached else each.table(),
        "in_parameter": bool(reached),
        "keys": None,
    }
    if file.content is not None:
        keys = ispmail_tablefile.redact(ispmail_tablefile.parse(file.content))
        found.update(ispmail_plan.ownership(file), keys=keys)
    return found
