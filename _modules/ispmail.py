"""Tell which version of these modules is here. Each apply asks, so the other functions are in `ispmail_reapply`."""

import _ispmail_stamp

_ispmail_stamp.require("a425983357b9")

# The module itself, imported above, is the older one where require() has dropped the library.
from _ispmail_stamp import version as _version


def version():
    """
    Tell which version of these modules a minion has.

    Takes no arguments.

    Returns the version and the stamp of all synced files, such as ``0.2.0+1f3a5c7e9b02``: the formula syncs where it is
    another one than the master's.

    Raises nothing.

    Source: `_utils/_ispmail_stamp.py`

    CLI Example:

    .. code-block:: bash

        salt '*' ispmail.version
    """
    return _version()
