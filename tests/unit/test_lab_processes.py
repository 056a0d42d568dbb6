"""What the lab reads of this machine."""

import os
import subprocess
import sys

import pytest

from lab import free_port, is_free
from lab.private import Private
from lab.processes import mounts


@pytest.mark.parametrize("name", [b"caf\xe9", "a\u2028b\u0085c".encode(), b"with blank"])
def test_any_path_may_have_something_mounted_on_it(tmp_path, name):
    """No machine of the lab started next to a test that mounts on such a path."""
    point = os.fsencode(tmp_path) + b"/" + name
    os.mkdir(point)
    subprocess.run(["mount", "-t", "tmpfs", "none", point], check=True)
    try:
        fields = next(mounts())
        assert os.fsencode(fields[4]) == point.replace(b" ", b"\\040")
        assert fields[fields.index("-") + 1] == "tmpfs"
    finally:
        subprocess.run(["umount", point], check=True)


def test_a_server_that_was_stopped_has_let_go_of_its_port(tmp_path):
    """A child that lives on, and takes its time to die, took the connections that were meant for the next one."""
    stays = Family(tmp_path)
    with stays:
        assert not is_free(stays.port)
    assert is_free(stays.port)


class Family(Private):
    """A server whose first process ends at once when asked to; its child listens, and needs a while to be gone."""

    CHILD = """
import os, signal, socket, sys
held = bytearray(os.urandom(1) * 800_000_000)
listening = socket.create_server(("127.0.0.1", int(sys.argv[1])))
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.pause()
"""

    def __init__(self, directory):
        super().__init__(directory / "log")
        self.port = free_port()

    def _command(self):
        return ["sh", "-c", '"$@" & exec sleep 600', "sh", sys.executable, "-c", self.CHILD, str(self.port)]

    def _answers(self):
        return not is_free(self.port)
