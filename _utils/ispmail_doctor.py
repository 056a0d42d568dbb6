"""Look for all that is wrong, or will be, between Postfix on this server and its database. Nothing is changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import ispmail_doctor_holders
import ispmail_doctor_login
import ispmail_doctor_postfix
import ispmail_doctor_server
import ispmail_table_users
from ispmail_doctor_postfix import LiveMap, Target
from ispmail_report import Finding
from ispmail_scope import Scope
from ispmail_table_users import Users


def check(targets: Sequence[Target], addresses: Sequence[str], scope: Callable[[], Scope]) -> Iterator[Finding]:
    """Check all instances of Postfix on this server, then the databases that their table files name.

    Args:
        targets: The main instance first.
        addresses: The IPv4 addresses of this machine.
        scope: Reads what pillar says of the account, secrets too.

    Raises:
        CannotAsk: Postfix cannot be asked. A database that cannot be asked is a finding.
    """
    maps: list[LiveMap] = []
    users: list[Users] = []
    for target in targets:
        postfix = ispmail_doctor_postfix.read_postfix(target)
        live = ispmail_doctor_postfix.read_maps(postfix)
        yield from ispmail_doctor_postfix.check(postfix, live)
        maps += live
        users.append(ispmail_table_users.of_inventory(postfix.inventory))
    yield from ispmail_doctor_login.check(maps)
    hosts = [login.host for login in ispmail_doctor_login.logins(maps)]
    yield from ispmail_doctor_server.check(targets, hosts, ispmail_table_users.together(users), addresses)
    yield from ispmail_doctor_holders.check(scope)
