"""Change the SQL lookup maps of one Postfix instance.

The part of `postfix_map` that most applies do not need: they begin with a comparison, and end there.
"""

import functools

import _ispmail_stamp

_ispmail_stamp.require("a425983357b9")

import _ispmail_apply
import _ispmail_compare
import _ispmail_consumers
import _ispmail_holders
import _ispmail_remove
from _ispmail_errors import InvalidInput
from _ispmail_salt import consumer_logins, for_salt, instance, named_directories, scope, wanted

__virtualname__ = "postfix_map"


def __virtual__():
    return __virtualname__


@for_salt
def apply(pillar="ispmail", test=False, compared=None):
    """
    Bring the table files, main.cf and the consumers' option files of this server to what pillar says, all or nothing.

    Each new table file is asked before it goes live; the answers that pillar expects are compared before and after;
    main.cf and the files are replaced together; Postfix is reloaded if it runs; and if anything fails, everything is
    put back.

    pillar : ispmail
        The pillar key that holds the configuration.

    test : False
        Whether only to tell what would be done. New table files are asked all the same, from memory.

    compared : None
        Only the state gives this: what it has just found, so that nothing is compared twice. A job leaves it out.

    Returns a dict: ``changes`` (name of a map, or ``main.cf``, to what changed, secrets as ``***``), ``maps`` (how many
    there are), ``consumers`` (the same), ``warnings`` (a list of sentences) and ``reloaded`` (whether Postfix was, or
    would be, reloaded). The key of a consumer in ``changes`` is such as ``consumer:dovecot``.

    Raises SaltInvocationError that lists all faults of pillar, CommandExecutionError where a map could not be asked or
    gave another answer, or where a file could not be written; everything is as before then.

    Source: mysql_table(5), postmap(1), postconf(1), postfix(1)

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_map.apply test=True
    """
    found = _compared(compared, pillar)
    known = functools.partial(scope, __pillar__, __opts__, pillar, as_admin=False)
    with _ispmail_holders.left_behind(found.instance, found.consumers, known, test) as warnings:
        return _ispmail_apply.apply(found, __opts__["cachedir"], test).describe(warnings)


def _compared(given, pillar):
    """What a state hands over, or a comparison."""
    if isinstance(given, _ispmail_compare.Comparison):
        return given
    # One of another library: it was synced since the state has loaded.
    if given is None or type(given).__name__ == _ispmail_compare.Comparison.__name__:
        return _ispmail_compare.compare(*wanted(__pillar__, __opts__, pillar), __opts__["cachedir"])
    raise InvalidInput("compared is for the state postfix_map.managed: leave it out")


@for_salt
def remove(maps=None, pillar="ispmail", test=False):
    """
    Take maps out of main.cf, reload Postfix if it runs, ask smtpd, then remove their table files. If any of that fails,
    everything is put back. A change that was cut off before is finished. Option files of consumers are left: their
    programs log in by them.

    maps : None
        A list of names of maps in pillar; None for all. One that is null is not ours.

    pillar : ispmail
        The pillar key that holds the configuration.

    test : False
        Whether only to tell what would be done.

    Returns a dict as ``apply`` does.

    Raises SaltInvocationError for a map that pillar does not name, CommandExecutionError where main.cf or a file cannot
    be written, Postfix cannot be reloaded, or smtpd cannot ask its maps any more; it says what is there then.

    Source: postconf(1), postfix(1)

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_map.remove '[virtual_alias_maps]' test=True
    """
    consumers = consumer_logins(__pillar__, pillar)
    directories = named_directories(__pillar__)
    found = _ispmail_remove.remove(instance(__pillar__, pillar), maps, __opts__["cachedir"], test, directories)
    return found.describe(_ispmail_consumers.left_behind(consumers) if maps is None else ())
