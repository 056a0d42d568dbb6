"""Where root may write. Replacing files is tested on real servers."""

import os

import pytest

from ispmail_files import unsafe_directory


@pytest.fixture
def roots(scratch_directory):
    """A directory of root's below /tmp, which has the sticky bit."""
    path = scratch_directory / os.urandom(4).hex() / "b"
    path.mkdir(parents=True)
    return path


def test_a_directory_of_roots_is_safe(roots):
    assert unsafe_directory(str(roots)) is None
    assert unsafe_directory("/etc") is None


@pytest.mark.parametrize("which", ["itself", "above"])
@pytest.mark.parametrize("mode, uid, gid", [(0o757, 0, 0), (0o775, 0, 5), (0o755, 5, 0)])
def test_where_others_can_put_a_link(roots, which, mode, uid, gid):
    """Root would write where the link leads to."""
    path = roots if which == "itself" else roots.parent
    os.chown(path, uid, gid)
    path.chmod(mode)
    assert str(path) in unsafe_directory(str(roots))


def test_a_sticky_directory_itself_is_not_safe(roots):
    """Nobody can replace a file there, but anybody can make one first."""
    roots.chmod(0o1777)
    assert unsafe_directory(str(roots))
    below = roots / "c"
    below.mkdir()
    assert unsafe_directory(str(below)) is None


def test_a_link_is_followed(roots):
    link = roots / "link"
    link.symlink_to("/tmp")
    assert "/tmp" in unsafe_directory(str(link))
