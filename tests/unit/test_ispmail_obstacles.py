"""What keeps files from being written or deleted: on file systems, and with flags, that are made for it."""

import os
import subprocess

import pytest

from _ispmail_obstacles import obstacles
from lab import scratch, small_disk

OLD = b"old\n"


def obstacle(path, room=0):
    return obstacles({str(path): room})


def test_what_is_in_the_way(tmp_path):
    path = tmp_path / "a"
    assert obstacle(path, 1000) == [] and obstacle(tmp_path / "none" / "deeper" / "a", 1000) == []
    (tmp_path / ".a.old").mkdir()
    assert obstacle(path) == [f"{tmp_path}/.a.old is a directory, and needed for a moment: move it away"]
    (full,) = obstacle(tmp_path / "b", 2**60)
    assert full == f"{tmp_path} is on a full file system: see df and df -i"


def test_a_fifo_in_place_of_a_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a")
    assert obstacle(tmp_path / "a") == []


def test_a_file_may_take_all_the_room_that_is_left(tmp_path):
    with small_disk(tmp_path / "disk", "size=64k") as disk:
        status = os.statvfs(disk)
        left = status.f_bfree * status.f_frsize
        assert obstacle(disk / "a", left) == []
        assert obstacle(disk / "a", left + 1) == [f"{disk} is on a full file system: see df and df -i"]
        # Together they need more than there is, also in a directory that is still to be made.
        (disk / "other").mkdir()
        for second in (disk / "none" / "b", disk / "other" / "b"):
            both = {str(disk / "a"): left, str(second): 1}
            assert obstacles(both) == [f"{disk} is on a full file system: see df and df -i"]
        # Each on its own disk: there is room for both.
        assert obstacles({str(disk / "a"): left, str(tmp_path / "b"): 1}) == []


def test_of_a_directory_that_is_closed_nothing_else_is_said(tmp_path):
    """A file system that is read-only has no free room either, and a link may lead to none at all."""
    (tmp_path / "link").symlink_to("none")
    closed = "is immutable, or on a read-only file system: see lsattr -d and findmnt -T"
    assert obstacle(tmp_path / "link" / "a", 1) == [f"{tmp_path}/link {closed}"]
    with small_disk(tmp_path / "disk", "size=64k") as disk:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        assert obstacle(disk / "a", 2**20) == [f"{disk} {closed}"]


def test_without_a_free_inode_nothing_can_be_written_but_all_be_deleted(tmp_path):
    with small_disk(tmp_path / "disk", "nr_inodes=2") as disk:
        assert obstacle(disk / "a", 1) == []
        (disk / "other").write_bytes(b"")
        assert obstacle(disk / "a", 1) == [f"{disk} is on a full file system: see df and df -i"]
        assert obstacle(disk / "other", 0) == []


@pytest.mark.parametrize("flag", ["i", "a"])
@pytest.mark.parametrize("name", ["a", ".a.new", ".a.old"])
def test_what_is_immutable_or_append_only(flag, name):
    """Root may write there, says access(2). Not in tmp_path: some file systems have no flags."""
    with scratch() as folder:
        path = folder / name
        path.write_bytes(OLD)
        if subprocess.run(["chattr", f"+{flag}", str(path)], capture_output=True, check=False).returncode:
            assert obstacle(folder / "a") == []
            return
        try:
            assert obstacle(folder / "a") == [f"{path} is immutable or append-only: see lsattr -d"]
        finally:
            subprocess.run(["chattr", f"-{flag}", str(path)], check=True)


def test_what_else_lsattr_shows_is_in_nobodys_way():
    """Such as s, secure deletion, and d, no dump."""
    with scratch() as folder:
        (folder / "a").write_bytes(OLD)
        for flag in "sd":
            subprocess.run(["chattr", f"+{flag}", str(folder / "a")], capture_output=True, check=False)
            assert obstacle(folder / "a") == []


@pytest.mark.usefixtures("ascii_locale")
@pytest.mark.parametrize("name", ["with blank", "caf\xe9", "\udcff"])
def test_a_mount_point_cannot_be_renamed_over(tmp_path, name):
    """Whatever it is called, and whatever the locale is."""
    folder = tmp_path / name
    folder.mkdir()
    for name in ("a", "b"):
        (folder / name).write_bytes(OLD)
    subprocess.run(["mount", "--bind", str(folder / "b"), str(folder / "a")], check=True)
    try:
        assert obstacle(folder / "a") == [f"{folder}/a is a mount point: mount its directory instead"]
        assert obstacle(folder / "b") == []
    finally:
        subprocess.run(["umount", str(folder / "a")], check=True)


@pytest.mark.parametrize(
    ("flag", "reason"),
    [
        ("i", "is immutable, or on a read-only file system: see lsattr -d and findmnt -T"),
        ("a", "is immutable or append-only: see lsattr -d"),
    ],
)
def test_a_directory_in_which_nothing_can_be_replaced(flag, reason):
    with scratch() as folder:
        if subprocess.run(["chattr", f"+{flag}", str(folder)], capture_output=True, check=False).returncode:
            assert obstacle(folder / "a") == []
            return
        try:
            assert obstacle(folder / "a") == [f"{folder} {reason}"]
        finally:
            subprocess.run(["chattr", f"-{flag}", str(folder)], check=True)


def test_no_descriptor_stays_open(tmp_path):
    """A minion lives for months. Other threads of this process may open some of their own meanwhile."""
    (tmp_path / "a").write_bytes(OLD)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(40):
        assert obstacle(tmp_path / "a") == []
    assert len(os.listdir("/proc/self/fd")) < before + 40
