"""What a table file is on one server."""

import pytest

import _ispmail_release
import _ispmail_tablefile


def table_file(**keys):
    return {"user": "u", "password": "p #x", **keys, "dbname": "d", "query": "SELECT '%s'"}


@pytest.mark.parametrize(
    "type_, hosts, version, after",
    [
        ("mysql", "127.0.0.1", "3.7.11", "127.0.0.1 127.0.0.1"),
        ("pgsql", "unix:/x", "3.9.0", "unix:/x unix:/x"),
        # From 3.10 on Postfix asks the host again by itself.
        ("mysql", "127.0.0.1", "3.10.13", "127.0.0.1"),
        ("mysql", "127.0.0.1", "4.0.0", "127.0.0.1"),
        # Two are two already.
        ("mysql", "a b", "3.7.11", "a b"),
        ("mysql", "a a", "3.7.11", "a a"),
    ],
)
def test_a_single_host_stands_twice_for_an_old_postfix(type_, hosts, version, after):
    keys = _ispmail_release.for_release(type_, table_file(hosts=hosts), version)
    assert list(keys.items()) == list(table_file(hosts=after).items())


@pytest.mark.parametrize(
    ("key", "version", "known"),
    [("query", "2.3", True), ("charset", "3.8.9", False), ("charset", "3.9.0", True), ("charset", "3.10.1", True)],
)
def test_which_release_reads_a_key(key, version, known):
    assert _ispmail_release.knows(key, version) is known


def test_that_it_stands_twice_is_seen_by_nobody():
    twice, once = (table_file(hosts=value) for value in ("h:1 h:1", "h:1"))
    assert _ispmail_tablefile.diff(twice, once) == {}
    assert _ispmail_tablefile.redact(twice)["hosts"] == "h:1"
    other = table_file(hosts="k")
    assert _ispmail_tablefile.diff(twice, other) == {"hosts": {"old": "h:1", "new": "k"}}


def test_what_is_opened_inside_a_chroot():
    keys = {"hosts": "localhost, unix:/a 127.0.0.1", "tls_CAfile": "/ca", "tls_key_file": "", "password": "/p"}
    assert _ispmail_release.inside_chroot("mysql", keys, "/jail{}".format) == {
        "hosts": "unix:/jail/run/mysqld/mysqld.sock, unix:/jail/a, 127.0.0.1",
        "tls_CAfile": "/jail/ca",
        "tls_key_file": "",
        "password": "/p",
    }
    keys = dict.fromkeys(("tls_CAfile", "tls_CApath", "tls_cert_file", "tls_key_file", "option_file"), "/x")
    assert _ispmail_release.inside_chroot("mysql", {**keys, "hosts": "a b"}, "/jail{}".format) == {
        **dict.fromkeys(keys, "/jail/x"),
        "hosts": "a b",
    }
    socket = {"hosts": "unix:/run/postgresql"}
    assert _ispmail_release.inside_chroot("pgsql", socket, "/jail{}".format) == {"hosts": "unix:/jail/run/postgresql"}
    # To libpq localhost is a host; an sqlite file is opened before.
    assert _ispmail_release.inside_chroot("pgsql", {"hosts": "localhost"}, "/jail{}".format) == {"hosts": "localhost"}
    assert _ispmail_release.inside_chroot("sqlite", {"dbpath": "/x"}, "/jail{}".format) == {"dbpath": "/x"}
