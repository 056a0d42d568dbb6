"""Apply the formula once for many events, and tell which version of these modules is here.

Each apply asks for the version, so `reapply` is in a file of its own.
"""

import _ispmail_stamp

_ispmail_stamp.require("29ff722fa2e9")

# The module itself, imported above, is the older one where require() has dropped the library.
from _ispmail_stamp import version as _version


def version():
    """
    Tell which version of these modules a minion has.

    Takes no arguments.

    Returns the version and the stamp of all synced files, such as ``0.2.0+1f3a5c7e9b02``: the formula syncs where it is
    another one than the master's.

    Raises nothing.

    Source: CHANGELOG.md

    CLI Example:

    .. code-block:: bash

        salt '*' ispmail.version
    """
    return _version()
