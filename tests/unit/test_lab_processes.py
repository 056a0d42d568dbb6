"""What the lab reads of this machine."""

import os
import subprocess

import pytest

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
