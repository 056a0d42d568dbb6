"""A table file on one server: for its release of Postfix, and from inside a chroot. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from _ispmail_hosts import hosts, parse_host, split_list
from _ispmail_tablefile import SCHEMA, release_of

# Paths that are read whenever a process connects; the table file itself is read when it starts.
READ_WHEN_CONNECTING = ("tls_CAfile", "tls_CApath", "tls_cert_file", "tls_key_file", "option_file")
# The first release that connects to a single host again when it has closed the connection.
_ASKS_AGAIN = (3, 10)


def knows(key: str, version: str) -> bool:
    """Tell whether a release of Postfix reads a key of a table file."""
    since = SCHEMA[key].since
    return since is None or release_of(version) >= release_of(since)


def for_release(table_type: str, keys: Mapping[str, str], version: str) -> Mapping[str, str]:
    """The keys of a table file for one release of Postfix: a single host stands in it twice before 3.10.

    There, Postfix does not ask a host for a minute when it has closed a connection; the same host named twice is asked
    at once. mysql_table(5)
    """
    given = split_list(keys.get("hosts", ""))
    if table_type not in ("mysql", "pgsql") or len(given) != 1 or release_of(version) >= _ASKS_AGAIN:
        return keys
    return {**keys, "hosts": f"{given[0]} {given[0]}"}


def inside_chroot(table_type: str, keys: Mapping[str, str], inside: Callable[[str], str]) -> dict[str, str]:
    """The keys of a table with the paths that a program in a chroot opens, written as they are seen from outside it.

    The file of an sqlite table is opened before the chroot is entered.

    Args:
        inside: A path as that program spells it to the same seen from outside.
    """
    found = {key: inside(value) if key in READ_WHEN_CONNECTING and value else value for key, value in keys.items()}
    sockets = [parse_host(text, table_type).socket for text in hosts(keys)]
    if any(sockets):
        found["hosts"] = ", ".join(
            f"unix:{inside(socket)}" if socket else text for text, socket in zip(hosts(keys), sockets)
        )
    return found
