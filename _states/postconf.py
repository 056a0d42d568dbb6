"""Keep main.cf parameters at their values, see postconf(5)."""

import _ispmail_stamp

_ispmail_stamp.require("a425983357b9")

from _ispmail_errors import has_been
from _ispmail_salt import state


def managed(name, parameters, config_directory="/etc/postfix"):
    """
    Parameters have these values in main.cf. Postfix is not reloaded for it.

    name
        A sentence, for people.

    parameters
        A mapping: name to value. A list is joined by a comma and a blank; null takes the parameter out of main.cf.

    config_directory : /etc/postfix
        The directory of main.cf: the default one, one that pillar names, or one that the default main.cf names
        (multi_instance_directories, alternate_config_directories).

    Returns the usual dict of a state, changes being name to ``{"old": …, "new": …}``.

    Raises nothing: a failure is in the comment, and main.cf is as before then.

    Source: postconf(1) -e, postconf(5)

    CLI Example:

    .. code-block:: bash

        salt '*' state.single postconf.managed size parameters='{message_size_limit: 20480000}'
    """
    return _change(name, "set", parameters, config_directory)


def absent(name, parameters, config_directory="/etc/postfix"):
    """
    Parameters are not set in main.cf, so that they have their defaults. Postfix is not reloaded for it.

    name
        A sentence, for people.

    parameters
        A list of names.

    config_directory : /etc/postfix
        The directory of main.cf: the default one, one that pillar names, or one that the default main.cf names
        (multi_instance_directories, alternate_config_directories).

    Returns the usual dict of a state, changes being name to ``{"old": …, "new": None}``.

    Raises nothing: a failure is in the comment, and main.cf is as before then.

    Source: postconf(1) -X, postconf(5)

    CLI Example:

    .. code-block:: bash

        salt '*' state.single postconf.absent 'no limit' parameters='[message_size_limit]'
    """
    names = parameters if isinstance(parameters, (list, tuple)) else [parameters]
    return _change(name, "removed", dict.fromkeys(map(str, names)), config_directory)


def _change(name, done, parameters, config_directory):
    test = __opts__["test"]

    def act():
        return {"changes": __salt__["postconf.set"](parameters, config_directory, test=test)}

    def describe(outcome):
        if not outcome["changes"]:
            return "The parameters are in the correct state"
        names = outcome["changes"]
        return f"{', '.join(names)} {has_been(len(names), done, test)}"

    return state(name, test, act, describe)
