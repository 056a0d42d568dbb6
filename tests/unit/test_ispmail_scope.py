"""Which files pillar's consumers name."""

import pytest

from _ispmail_config_consumers import Consumers
from _ispmail_scope import Scope

from .consumer_values import consumer
from .doctor_values import database

SCOPE = Scope(
    {},
    database(user="postfix"),
    (
        Consumers("ispmail", (consumer("dovecot", "/etc/dovecot/ispmail.cnf"), consumer("web", holds=["/srv/web"]))),
        Consumers("second", (consumer("none"), consumer("other", holds=["/etc/other", "/etc/more"]))),
    ),
    (),
    "/var/cache/salt/minion",
)


def test_what_all_pillar_keys_name():
    assert SCOPE.accounts == ("postfix",)
    assert [each.name for each in SCOPE.each_consumer] == ["dovecot", "web", "none", "other"]
    assert SCOPE.named_files == {"/etc/dovecot/ispmail.cnf", "/srv/web", "/etc/other", "/etc/more"}


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("/srv/web", True),
        ("/srv/web/config.php", True),
        ("/srv/web/deep/config.php", True),
        ("/srv/website", False),
        ("/srv", False),
        ("/etc/dovecot/ispmail.cnf", True),
        ("/etc/dovecot/another.cnf", False),
    ],
)
def test_a_directory_stands_for_all_that_is_in_it(path, named):
    assert SCOPE.names(path) is named
