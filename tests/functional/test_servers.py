"""A bounded share of `python -m tests.functional.servers`: two rotations on each server, by each reader of its maps."""

import itertools
import os

import pytest

from lab.images import missing_requirements

from .servers import DATABASES, METHODS, READERS, ROTATIONS, row

# What the product refuses, by the server and the first of READERS.
REFUSED = {
    "mysql": "smtpd's chroot has no such plugin: set proxy: true, or switch the chroot off",
    "mysql-socket": "is a socket, which is looked for inside the chroot",
}


@pytest.fixture(scope="module", params=DATABASES)
def database(request, directory):
    # The root that MySQL comes from needs what machines need; in CI it has to run.
    if "mysql" in request.param and (reason := missing_requirements()) and os.environ.get("CI") != "true":
        pytest.skip(reason)
    with DATABASES[request.param](directory / request.param) as found:
        yield request.param, found


@pytest.mark.parametrize(
    ("method", "reader"), [*itertools.product(METHODS[:1], READERS), *itertools.product(METHODS[1:], READERS[1:2])]
)
def test_rotations_lose_nothing(database, method, reader):
    name, server = database
    found = row(server, method, reader, rcpts=200)
    print(found)
    if reader == READERS[0] and name in REFUSED:
        assert REFUSED[name] in found.refused
        return
    assert found.rotations >= ROTATIONS and found.ours.count >= 200
    assert found.ours.failed == 0, found.ours.examples
    # What the same load sees of the other order. One process of proxymap may keep its connections all the time.
    assert found.naive.failed > 20 or reader == "proxymap"
