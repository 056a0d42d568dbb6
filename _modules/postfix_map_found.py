"""Print the pillar that describes the SQL lookup maps that one Postfix instance has.

The part of `postfix_map` that no apply needs.
"""

import _ispmail_stamp

_ispmail_stamp.require("a425983357b9")

import _ispmail_found
import _ispmail_postconf
from _ispmail_salt import for_salt, named_directories

__virtualname__ = "postfix_map"


def __virtual__():
    return __virtualname__


@for_salt
def found(config_directory="/etc/postfix"):
    """
    Describe the SQL tables that main.cf names now, whoever made them, as the pillar that would make them.

    config_directory : /etc/postfix
        The directory of main.cf: the default one, one that pillar names, or one that the default main.cf names
        (multi_instance_directories, alternate_config_directories).

    Returns a text in YAML: ``ispmail``, the pillar, with a placeholder for each password; and ``left_out``, a list of
    sentences on what pillar cannot hold, with the reasons. Pillar is not read, but for the directories that it names.

    Raises SaltInvocationError for a directory that is not a Postfix instance, CommandExecutionError where there is no
    Postfix or no main.cf.

    Source: mysql_table(5), pgsql_table(5), sqlite_table(5), postconf(1)

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_map.found
    """
    directory = _ispmail_postconf.known_directory(config_directory, named_directories(__pillar__))
    return _ispmail_found.text(_ispmail_found.found(directory), directory)
