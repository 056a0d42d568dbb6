"""Keep main.cf parameters as told, see postconf(5)."""

from salt.exceptions import CommandExecutionError, SaltInvocationError


def managed(name, parameters, config_directory="/etc/postfix"):
    """
    Parameters have these values in main.cf. Postfix is not reloaded for it.

    name
        A sentence, for people.

    parameters
        A mapping: name to value. A list is joined by ``, ``.

    config_directory : /etc/postfix
        The directory of main.cf.

    Returns the usual dict of a state, changes being name to ``{"old": …, "new": …}``.

    Raises nothing: a failure is in the comment, and main.cf is as before then.

    Source: postconf(1) -e, postconf(5)

    CLI Example:

    .. code-block:: bash

        salt '*' state.single postconf.managed size parameters='{message_size_limit: 20480000}'
    """
    return _act(name, "set", "postconf.set", parameters, config_directory)


def absent(name, parameters, config_directory="/etc/postfix"):
    """
    Parameters are not set in main.cf, so that they have their defaults. Postfix is not
    reloaded for it.

    name
        A sentence, for people.

    parameters
        A list of names.

    config_directory : /etc/postfix
        The directory of main.cf.

    Returns the usual dict of a state, changes being name to ``{"old": …, "new": None}``.

    Raises nothing: a failure is in the comment, and main.cf is as before then.

    Source: postconf(1) -X, postconf(5)

    CLI Example:

    .. code-block:: bash

        salt '*' state.single postconf.absent 'no limit' parameters='[message_size_limit]'
    """
    return _act(name, "taken out", "postconf.unset", parameters, config_directory)


def _act(name, done, function, parameters, config_directory):
    ret = {"name": name, "changes": {}, "result": True, "comment": ""}
    test = __opts__["test"]
    try:
        ret["changes"] = __salt__[function](parameters, config_directory, test=test)
    except (CommandExecutionError, SaltInvocationError) as err:
        ret.update(result=False, comment=str(err))
        return ret
    if not ret["changes"]:
        ret["comment"] = "The parameters are in the correct state"
        return ret
    ret["result"] = None if test else True
    ret["comment"] = f"{', '.join(ret['changes'])} {'would be' if test else 'has been'} {done}"
    return ret
