"""Look for all that is wrong, or will be, between Postfix on this server and its database. Nothing is changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import _ispmail_doctor_holders
import _ispmail_doctor_login
import _ispmail_doctor_postfix
import _ispmail_doctor_postgresql
import _ispmail_doctor_server
import _ispmail_instances
import _ispmail_table_users
from _ispmail_config_database import MYSQL, PGSQL
from _ispmail_doctor_postfix import LiveMap, Target
from _ispmail_doctor_server import Live
from _ispmail_inventory import Inventory
from _ispmail_report import Finding
from _ispmail_scope import Scope
from _ispmail_table_users import Users

# The database's own server does not see by which accounts mail servers ask it.
_OF_OTHERS = Users(frozenset(), ("no table file of a map is on this server, those of others are not seen from here",))


def check(targets: Sequence[Target], addresses: Sequence[str], scope: Callable[[], Scope]) -> Iterator[Finding]:
    """Check all instances of Postfix on this server, then the databases that their table files name.

    Args:
        targets: The main instance first.
        addresses: The IPv4 addresses of this machine.
        scope: Reads what pillar says of the account, secrets too.

    Raises:
        CannotAsk: Postfix cannot be asked. A database that cannot be asked is a finding, and a server with pillar's
            database, or with all maps set to null, needs no Postfix.
    """
    maps: list[LiveMap] = []
    inventories: list[Inventory] = []
    elsewhere = [target for target in targets if _ispmail_doctor_postfix.is_elsewhere(target)]
    for target in targets:
        if target in elsewhere:
            continue
        postfix = _ispmail_doctor_postfix.read_postfix(target)
        found = _ispmail_doctor_postfix.read_maps(postfix)
        yield from _ispmail_doctor_postfix.check(postfix, found)
        maps += found
        inventories.append(postfix.inventory)
    others = _ispmail_instances.others(inventories)
    inventories += others.read
    unknown = Users(frozenset(), tuple(others.unread.values()))
    yield from _ispmail_doctor_login.check(maps)
    yield from _ispmail_doctor_postgresql.check(maps)
    live = {}
    for table_type in (MYSQL, PGSQL):
        hosts = [host for each in maps if each.map.type == table_type for host in each.hosts]
        users = [*(_ispmail_table_users.of_inventory(each, table_type) for each in inventories), unknown]
        live[table_type] = Live(hosts, _ispmail_table_users.together(users if hosts else [*users, _OF_OTHERS]))
    asked = _ispmail_doctor_server.asked(targets, live, addresses)
    for target in [] if asked else elsewhere:
        # A server that has no database either should have the Postfix of pillar's maps: this tells what is missing.
        if target.instance.wanted:
            _ispmail_doctor_postfix.read_postfix(target)
    yield from _ispmail_doctor_server.check(asked, live)
    yield from _ispmail_doctor_holders.check(scope)
