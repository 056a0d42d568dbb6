"""Ask the SQL lookup maps of one Postfix instance.

The part of `postfix_map` that puts questions to live maps, and compares their passwords.
"""

import _ispmail_stamp

_ispmail_stamp.require("a425983357b9")

import _ispmail_answers
import _ispmail_classes
import _ispmail_proof
from _ispmail_salt import accounts, complete, for_salt, instance, instances, server_type, wanted

__virtualname__ = "postfix_map"


def __virtual__():
    return __virtualname__


@for_salt
def lookup(map, question, pillar="ispmail"):
    """
    Ask one map one question, as Postfix would.

    map
        The name of a map in pillar, or a table that pillar or main.cf names, such as ``mysql:/etc/postfix/x.cf``.

    question
        The key to look up, one line.

    pillar : ispmail
        The pillar key that holds the configuration.

    Returns a dict, within 12 seconds: ``result`` is ``answer``, with the text as ``answer`` (``***`` for a map of
    passwords, such as smtp_sasl_password_maps); ``no answer``; or ``could not ask``, with ``reason`` and ``table``.
    ``warnings`` lists what else postmap said.

    Raises SaltInvocationError for a map or table that neither pillar nor main.cf names, CommandExecutionError where
    there is no postmap.

    Source: postmap(1) -q

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_map.lookup virtual_alias_maps jack@example.org
    """
    found = _ispmail_answers.lookup(instance(__pillar__, pillar), str(map), str(question))
    result = {"result": found.result, "warnings": list(found.warnings)}
    if found.answer is not None:
        return {**result, "answer": found.answer}
    return result if found.reason is None else {**result, "reason": found.reason, "table": found.table}


@for_salt
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
    found = complete(__pillar__, __opts__, pillar)
    return _ispmail_classes.wrong_answers(found)


@for_salt
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
    return [
        reason for each in instances(__pillar__, pillar).values() for reason in _ispmail_answers.unaskable_live(each)
    ]


@for_salt
def fingerprints(nonce, live=True, pillar="ispmail"):
    """
    Compare logins without telling them: equal fingerprints are equal users with equal passwords.

    nonce
        A text of 16 characters or more, drawn at random by whoever compares and used once, so that no fingerprint can
        be looked up.

    live : True
        Whether to read the live table files too; a database server has none.

    pillar : ispmail
        The pillar key that holds the configuration; the ``instances`` that it names are included.

    Returns a dict: ``pillar`` and, where asked for, ``live``, each name of a map (with the pillar key before it, for
    another instance) that logs in to the database server as the ``user`` of ``database``, or as the other account of a
    pair, to scrypt(user and password, nonce), None where there is no password, or no table file. Maps of other accounts
    are left out. Consumers are there as ``consumer:dovecot``, by their option file, or by whether the files in
    ``holds`` have pillar's password (None: not).

    Raises SaltInvocationError for a short nonce or faults in pillar, CommandExecutionError where a table file cannot be
    read.

    Source: RFC 7914 (scrypt)

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_map.fingerprints 7f3a9c41d6e25b08
    """
    keys = instances(__pillar__, pillar)
    found = [wanted(__pillar__, __opts__, key) for key in keys]
    maps, consumers = zip(*found)
    users, kind = accounts(__pillar__, __opts__, pillar), server_type(__pillar__, pillar)
    return _ispmail_proof.fingerprints(maps, users, nonce, live, consumers, kind)
