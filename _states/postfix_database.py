"""Keep the database that Postfix's maps read as pillar says: tables, account, accepted passwords.

No secret is an argument here: the modules read pillar themselves.
"""

import _ispmail_stamp

_ispmail_stamp.require("a425983357b9")

from _ispmail_errors import has_been
from _ispmail_salt import state


def tables(name, pillar="ispmail"):
    """
    The database and the guide's tables exist, with the indexes that the maps need; data are kept.

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
    return _change(name, "The database and its tables", __salt__["postfix_database.tables"], pillar)


def account(name, pillar="ispmail"):
    """
    The maps' account exists and may SELECT on the database; and, with ``server:revoke_other_grants``, nothing else.

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
    return _change(name, "The account of the maps", __salt__["postfix_database.account"], pillar)


def credential_accepted(name, pillar="ispmail"):
    """
    The account accepts pillar's password, beside the one that it accepted before; or, of two accounts, pillar's user is
    open.

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
    function = __salt__["postfix_database.credential_accepted"]
    return _change(name, "Pillar's password beside the old one", function, pillar)


def credential_sole(name, pillar="ispmail"):
    """
    The account accepts pillar's password only; or, of two accounts, the other one is locked, and dropped once
    ``rotation:keep`` is over.

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
    function = __salt__["postfix_database.credential_sole"]
    return _change(name, "Pillar's password as the only one", function, pillar)


def _change(name, what, function, pillar):
    test = __opts__["test"]

    def describe(outcome):
        if not outcome["changes"]:
            return f"{what}: in the correct state"
        names = outcome["changes"]
        return f"{what}: {', '.join(names)} {has_been(len(names), 'changed', test)}"

    return state(name, test, lambda: function(pillar, test=test), describe)
