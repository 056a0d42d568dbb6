"""As which users Postfix logs in to its databases by its tables, see mysql_table(5) and pgsql_table(5).

`user` and `password` of the table count first. A table without a user leaves it to the client library: it takes the
user of an option file, and where there is none, the name of the user that its process runs as. The password is the
table's in any case: where it has none, Postfix hands over an empty one, and the library does not look for another.
That of PostgreSQL has no such files, and takes the name of the user that its process runs as. It gets no user of the
table where a host is a URI: then it is the URI's.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import _ispmail_files
import _ispmail_hosts
import _ispmail_option_users
import _ispmail_tablefile
from _ispmail_errors import CannotAsk
from _ispmail_inventory import Inventory, Settings, Table


class Users(NamedTuple):
    """As whom Postfix logs in by one table or several."""

    names: frozenset[str]  # all that are known
    unknown: tuple[str, ...] = ()  # sentences: why there may be others; empty where there are none


def together(several: Iterable[Users]) -> Users:
    """The users of all."""
    known = list(several)
    reasons = dict.fromkeys(reason for each in known for reason in each.unknown)
    return Users(frozenset().union(*(each.names for each in known)), tuple(reasons))


def of_inventory(inventory: Inventory, server: str = "mysql") -> Users:
    """Find the users of all tables that one Postfix reaches, pillar's or not, of one kind of server: see `of`."""
    return together(of(table, inventory.settings, server) for table in inventory.tables)


def of(table: Table, known: Settings, server: str = "mysql") -> Users:
    """Find as whom a table may log in: the user that it names, else each one that the client library may take.

    Args:
        table: Of any type: one of another database has no user of this one.
        known: The settings of its Postfix.
        server: Whose users: ``mysql`` or ``pgsql``.
    """
    if table.type != server:
        return Users(frozenset())
    try:
        keys = _keys(table, known)
        if table.type == "pgsql":
            return Users(frozenset(user or known.expanded("mail_owner") for user in _of_hosts(table, keys)))
        if user := keys.get("user"):
            return Users(frozenset([user]))
        return Users(frozenset([known.expanded("mail_owner"), *_in_option_files(keys, known.queue_directory)]))
    except CannotAsk as err:
        return Users(frozenset(), (str(err),))


def _keys(table: Table, known: Settings) -> Mapping[str, str]:
    """The keys of a table. Those of a table whose name is no path are parameters of main.cf."""
    if not os.path.isabs(table.path):
        given = {key: f"{table.path}_{key}" for key in _ispmail_tablefile.SCHEMA}
        return {key: known.expanded(name) for key, name in given.items() if name in known.explicit}
    content = _ispmail_files.content(table.path)
    if not content:
        # Processes that have read it before, or what is written there next, may log in as anybody.
        raise CannotAsk(f"{table.path} is missing or empty")
    return _ispmail_tablefile.parse(content)


def _of_hosts(table: Table, keys: Mapping[str, str]) -> set[str]:
    """The users by which a table of a PostgreSQL logs in to its hosts; the empty one is that of the process."""
    found = set()
    for host in _ispmail_hosts.hosts(keys):
        user: str | None = keys.get("user", "")
        if _ispmail_hosts.is_read_by_libpq(host, table.type):
            user = _ispmail_hosts.uri_user(host)
        if user is None:
            raise CannotAsk(f"{table.path} has a URI with a service and no user: pg_service.conf says which user it is")
        found.add(user)
    return found


def _in_option_files(keys: Mapping[str, str], queue_directory: str) -> set[str]:
    """The users that option files name: as programs outside the chroot see them, and those inside."""
    file, group = keys.get("option_file"), keys.get("option_group")
    if not file and group == "":
        return set()
    found: set[str] = set()
    for chroot in ("", queue_directory):
        found |= _ispmail_option_users.users(file, group or "", chroot, queue_directory)
    return found
