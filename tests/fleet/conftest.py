"""Real Debian machines: systemd, a Postfix of Debian's own in its chroot, a MariaDB, Salt."""

import os

import pytest

from lab.machine import FLEET_SCRIPT, Machine, Network, base, image, lacking
from lab.minion import REPOSITORY

CHECKOUT = "/srv/salt-ispmail"


def pytest_collection_modifyitems(items):
    """Where there can be no machines these tests are left out, with the reason; in CI that is a failure."""
    reason = lacking()
    if reason and os.environ.get("CI") != "true":
        for item in items:
            if item.path.is_relative_to(os.path.dirname(__file__)):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def root():
    """The root of a trixie machine with Postfix, MariaDB and Salt: a few minutes to make, the first time."""
    return image("fleet", base("trixie"), FLEET_SCRIPT)


@pytest.fixture(scope="module")
def network():
    with Network() as lab:
        yield lab


@pytest.fixture(scope="module")
def machine(root, network):
    """One mail server that Salt has not touched, with this checkout on it."""
    with Machine("mx", root, network) as mx:
        mx.copy_in(REPOSITORY, CHECKOUT)
        yield mx
