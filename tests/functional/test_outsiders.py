"""What `python -m tests.functional.outsiders` prints: somebody else changes the credentials, on two kinds of server."""

import pytest

from .database import needs_machines
from .outsiders import WATCHED, WAYS, row
from .servers import DATABASES


@pytest.fixture(scope="module", params=WATCHED)
def database(request, directory):
    if "mysql" in request.param:
        needs_machines()
    with DATABASES[request.param](directory / request.param) as found:
        yield found


@pytest.mark.parametrize("who", WAYS)
def test_only_an_order_that_says_so_loses_lookups(database, who):
    found = row(database, who)
    print(found)
    # What may lose some does: else the load sees nothing.
    assert (found.report.failed > 0) is found.may_lose, found.report.examples
    assert found.report.count > 100
