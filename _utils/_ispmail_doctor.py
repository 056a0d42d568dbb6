"""Look for all that is wrong, or will be, between Postfix on this server and its database. Nothing is changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import _ispmail_doctor_holders
import _ispmail_doctor_login
import _ispmail_doctor_postfix
import _ispmail_doctor_server
import _ispmail_table_users
from _ispmail_doctor_postfix import LiveMap, Target
from _ispmail_report import Finding
from _ispmail_scope import Scope
from _ispmail_table_users import Users


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
        postfix = _ispmail_doctor_postfix.read_postfix(target)
        live = _ispmail_doctor_postfix.read_maps(postfix)
        yield from _ispmail_doctor_postfix.check(postfix, live)
        maps += live
        users.append(_ispmail_table_users.of_inventory(postfix.inventory))
    yield from _ispmail_doctor_login.check(maps)
    hosts = [login.host for login in _ispmail_doctor_login.logins(maps)]
    yield from _ispmail_doctor_server.check(targets, hosts, _ispmail_table_users.together(users), addresses)
    yield from _ispmail_doctor_holders.check(scope)
