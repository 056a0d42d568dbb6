"""The first hour: only what docs/quickstart.md says is typed on a fresh machine, until mail is taken for an alias."""

import re

import pytest

from lab.machine import Machine
from lab.minion import REPOSITORY

from .. import pages
from .salted import CHECKOUT


@pytest.mark.parametrize("release", ["bookworm", "trixie"])
def test_what_the_quick_start_says_is_enough(root_of, network, release):
    prepare, database, maps, ask, look = [block.text for block in pages.blocks("docs/quickstart.md")]
    with Machine("first", root_of(release), network) as server:
        server.copy_in(REPOSITORY, CHECKOUT)

        def type_(commands):
            return server.run(["bash", "-euxc", commands], timeout=300).stdout

        type_(prepare)
        assert server.run(["stat", "-c", "%U %a", "/srv/pillar/ispmail.sls"]).stdout == "root 600\n"
        # The step that is forgotten is named, and nothing has happened.
        before = server.run(["sha256sum", "/etc/postfix/main.cf"]).stdout
        refused = server.run(["bash", "-euc", maps], check=False, timeout=300)
        assert "Access denied" in refused.stdout and "state.apply ispmail.database" in refused.stdout, refused.stdout
        assert server.run(["sha256sum", "/etc/postfix/main.cf"]).stdout == before
        type_(database)
        assert "Failed:    0" in type_(maps)
        goes_to, taken = type_(ask).splitlines()
        assert (goes_to, taken) == ("john@example.org", "{}")
        refused = server.run(["bash", "-euc", ask.replace("jack", "nobody")], check=False)
        assert refused.returncode and not refused.stdout
        assert re.search(r"fault", type_(look)) is None
