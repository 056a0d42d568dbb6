"""Keep the database that Postfix's maps read as pillar says: tables, account, accepted passwords.

No secret is an argument here: the modules read pillar themselves.
"""

from salt.exceptions import CommandExecutionError, SaltInvocationError


def tables(name, pillar="ispmail"):
    """
    The database and the guide's tables are there, with the indexes that the maps need; data are kept.

    name
        A sentence, for people.

    pillar : ispmail
        The pillar key that holds the configuration.

    Returns the usual dict of a state.

    Raises nothing: a failure is in the comment.

    Source: CREATE TABLE, ALTER TABLE

    CLI Example:

    .. code-block:: bash

        salt '*' state.single postfix_database.tables 'the tables' test=True
    """
    return _act(name, "The database and its tables", "postfix_database.tables", pillar)


def account(name, pillar="ispmail"):
    """
    The maps' account is there, and may SELECT on the database and do nothing else.

    name
        A sentence, for people.

    pillar : ispmail
        The pillar key that holds the configuration.

    Returns the usual dict of a state.

    Raises nothing: a failure is in the comment.

    Source: CREATE USER, GRANT, REVOKE

    CLI Example:

    .. code-block:: bash

        salt '*' state.single postfix_database.account 'the account' test=True
    """
    return _act(name, "The account of the maps", "postfix_database.account", pillar)


def credential_accepted(name, pillar="ispmail"):
    """
    The account accepts pillar's password, beside the one that it accepted before.

    name
        A sentence, for people.

    pillar : ispmail
        The pillar key that holds the configuration.

    Returns the usual dict of a state.

    Raises nothing: a failure is in the comment, and nothing is changed then.

    Source: ALTER USER

    CLI Example:

    .. code-block:: bash

        salt '*' state.single postfix_database.credential_accepted 'the new password' test=True
    """
    return _act(name, "Pillar's password beside the old one", "postfix_database.credential_accepted", pillar)


def credential_sole(name, pillar="ispmail"):
    """
    The account accepts pillar's password only.

    name
        A sentence, for people.

    pillar : ispmail
        The pillar key that holds the configuration.

    Returns the usual dict of a state.

    Raises nothing: a failure is in the comment, and nothing is changed then.

    Source: ALTER USER

    CLI Example:

    .. code-block:: bash

        salt '*' state.single postfix_database.credential_sole 'no old password' test=True
    """
    return _act(name, "Pillar's password as the only one", "postfix_database.credential_sole", pillar)


def _act(name, what, function, pillar):
    ret = {"name": name, "changes": {}, "result": True, "comment": ""}
    test = __opts__["test"]
    try:
        result = __salt__[function](pillar, test=test)
    except (CommandExecutionError, SaltInvocationError) as err:
        ret.update(result=False, comment=str(err))
        return ret
    ret["changes"] = result["changes"]
    said = [f"{what}: in the correct state"]
    if ret["changes"]:
        ret["result"] = None if test else True
        said = [f"{what}: {', '.join(ret['changes'])} {'would be' if test else 'has been'} changed"]
    ret["comment"] = "\n".join(said + [f"warning: {warning}" for warning in result["warnings"]])
    return ret
