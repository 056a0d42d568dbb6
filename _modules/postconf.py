"""Read and set main.cf parameters, see postconf(1) and postconf(5)."""

import _ispmail_stamp

_ispmail_stamp.require("a425983357b9")

import _ispmail_postconf
from _ispmail_errors import InvalidInput
from _ispmail_salt import for_salt, named_directories

__func_alias__ = {"set_": "set"}


@for_salt
def get(parameters=None, config_directory="/etc/postfix", defaults=False):
    """
    Read parameters.

    parameters : None
        A name or a list of names; None for all.

    config_directory : /etc/postfix
        The directory of main.cf: the default one, one that pillar names, or one that the default main.cf names
        (multi_instance_directories, alternate_config_directories).

    defaults : False
        Whether to give the default of a parameter that main.cf does not set.

    Returns a dict: name to value, as main.cf has it, ``$name`` not expanded. A parameter that main.cf does not set is
    there only with ``defaults``. A password that stands in main.cf itself is shown as ``***``.

    Raises SaltInvocationError for a name that cannot be a parameter, or a directory that is not a Postfix instance;
    CommandExecutionError where there is no Postfix or no main.cf.

    Source: postconf(1) -n

    CLI Example:

    .. code-block:: bash

        salt '*' postconf.get virtual_alias_maps
    """
    names = None if parameters is None else _names(parameters)
    directory = _known(config_directory)
    return _ispmail_postconf.shown(_ispmail_postconf.get(names, directory, defaults), directory)


@for_salt
def set_(parameters, config_directory="/etc/postfix", test=False):
    """
    Set parameters, all of them in one edit of main.cf. White space in a value counts as one blank.

    parameters
        A dict: name to value. A list is joined by ``, ``, true and false become ``yes`` and ``no``, None (null in YAML)
        takes the parameter out of main.cf, so that Postfix uses its default.

    config_directory : /etc/postfix
        The directory of main.cf: the default one, one that pillar names, or one that the default main.cf names
        (multi_instance_directories, alternate_config_directories).

    test : False
        Whether only to tell what would be done.

    Returns a dict: name to ``{"old": …, "new": …}`` of what changed. Postfix is not reloaded: reload it for a change
    that has to be in use at once.

    Raises SaltInvocationError that lists all bad names and values, CommandExecutionError where main.cf cannot be
    written; it is as before then.

    Source: postconf(1) -e, -X

    CLI Example:

    .. code-block:: bash

        salt '*' postconf.set '{message_size_limit: 20480000}'
    """
    if not isinstance(parameters, dict):
        raise InvalidInput("the parameters must be a mapping of names to values")
    return _ispmail_postconf.change(parameters, _known(config_directory), test)


def _names(parameters):
    if isinstance(parameters, str):
        return [parameters]
    if not isinstance(parameters, (list, tuple)):
        raise InvalidInput("the parameters must be a name or a list of names")
    return list(parameters)


def _known(config_directory):
    return _ispmail_postconf.known_directory(config_directory, named_directories(__pillar__))
