"""A bounded share of `python -m tests.functional.servers`: two rotations on each server, by each reader of its maps."""

import os

import pytest

from lab.images import missing_requirements

from .servers import DATABASES, READERS, ROTATIONS, row


@pytest.fixture(scope="module", params=DATABASES)
def database(request, directory):
    # The root that MySQL comes from needs what machines need; in CI it has to run.
    if request.param == "mysql" and (reason := missing_requirements()) and os.environ.get("CI") != "true":
        pytest.skip(reason)
    with DATABASES[request.param](directory / request.param) as found:
        yield found


@pytest.mark.parametrize("reader", READERS)
def test_rotations_lose_nothing(database, reader):
    found = row(database, reader, rcpts=200)
    print(found)
    if (database.name.partition(" ")[0], reader) == ("MySQL", READERS[0]):
        assert "smtpd's chroot has no such plugin: set proxy: true, or switch the chroot off" in found.refused
        return
    assert found.rotations >= ROTATIONS and found.ours.count >= 200
    assert found.ours.failed == 0, found.ours.examples
    # What the same load sees of the other order.
    assert found.naive.failed > 20
