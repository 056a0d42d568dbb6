"""The search for other holders: what needs no server of it."""

import math
from types import SimpleNamespace

import pytest

import ispmail_holders
from ispmail_connections import Listed
from ispmail_holders import Holders, _LiveLogin


@pytest.mark.parametrize(("within", "asked"), [(math.inf, ["192.0.2.1", "192.0.2.2"]), (-1, [])])
def test_an_apply_asks_hosts_for_a_limited_time(monkeypatch, within, asked):
    """Each silent host takes seconds, and pillar may name many."""
    found, called = Holders(), []

    def listed(keys, host):
        called.append(host)
        return Listed((), 3306, "")

    monkeypatch.setattr(ispmail_holders.ispmail_connections, "listed_by_account", listed)
    live = [_LiveLogin("/x.cf", {"user": "mailserver", "hosts": "192.0.2.1, 192.0.2.2"})] * 2
    ispmail_holders._ask_hosts(SimpleNamespace(account="mailserver"), live, lambda process: True, found, within)
    assert called == asked
    assert len(found.notes) == 2 - len(asked)
