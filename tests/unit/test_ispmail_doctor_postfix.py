"""What the doctor says of Postfix's side without asking it."""

import dataclasses

import pytest

from ispmail_doctor_postfix import only_host_is_asked_again

from .doctor_values import NOTHING, live_map


def found(version, type_="mysql", **keys):
    live = live_map(type_=type_, **keys)
    known = NOTHING.settings._replace(values={"mail_version": version})
    inventory = NOTHING._replace(settings=known)
    live = dataclasses.replace(live, postfix=live.postfix._replace(inventory=inventory))
    return [(each.result, each.fix) for each in only_host_is_asked_again(live)]


@pytest.mark.parametrize(
    "version, type_, keys, advised",
    [
        ("3.10.13", "mysql", {"hosts": "127.0.0.1"}, True),
        ("3.10.13", "pgsql", {"hosts": "127.0.0.1"}, True),
        ("3.9.0", "mysql", {"hosts": "a a"}, True),
        ("3.10.13", "mysql", {"hosts": "127.0.0.1", "retry_interval": "60"}, True),
        ("3.10.13", "mysql", {"hosts": "127.0.0.1", "retry_interval": "1"}, False),
    ],
)
def test_a_single_host_with_a_long_pause(version, type_, keys, advised):
    ((result, fix),) = found(version, type_, **keys)
    assert result == ("warning" if advised else "ok")
    assert ("set retry_interval: 1" in fix) is advised


@pytest.mark.parametrize(
    "version, type_, keys",
    [
        # Two hosts; a release that does not know the key; no host at all.
        ("3.10.13", "mysql", {"hosts": "a b"}),
        ("3.7.11", "mysql", {"hosts": "a a"}),
        ("3.10.13", "sqlite", {}),
    ],
)
def test_nothing_to_advise(version, type_, keys):
    assert found(version, type_, **keys) == []
