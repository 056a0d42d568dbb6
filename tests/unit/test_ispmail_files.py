"""Where root may write, and how files take the place of others. What that does to mail is tested on real servers."""

import grp
import os
import pwd
import re
import resource
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import _ispmail_files
import _ispmail_locks
from _ispmail_errors import CannotAsk, ChangedMeanwhile, Failed
from _ispmail_files import (
    Exchange,
    File,
    Replacement,
    read,
    remove_leftovers,
    replace,
    require_root,
    unsafe_directory,
    write_aside,
)
from _ispmail_locks import postconf_lock
from lab import scratch, small_disk


@pytest.fixture
def roots(scratch_directory):
    """A directory of root's below /tmp, which has the sticky bit."""
    path = scratch_directory / os.urandom(4).hex() / "b"
    path.mkdir(parents=True)
    return path


def test_only_root_begins(monkeypatch):
    require_root()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(
        CannotAsk, match=r"^only root can read and replace table files: run the minion \(or salt-call\)"
    ):
        require_root()


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


@pytest.mark.parametrize("mode, gid", [(0o775, 0), (0o755, 5)])
def test_a_group_that_cannot_write_is_no_danger(roots, mode, gid):
    """Nor is root's own group: some distributions let it write."""
    os.chown(roots, 0, gid)
    roots.chmod(mode)
    assert unsafe_directory(str(roots)) is None


def test_a_link_is_followed(roots):
    link = roots / "link"
    link.symlink_to("/tmp")
    assert "/tmp" in unsafe_directory(str(link))


# Replacing files, on this disk; what a cut in the middle leaves is in tests/functional/killed.py.


OLD, NEW = b"old\n", b"new\n"
NOBODY = pwd.getpwnam("nobody")


def file(path, content, mode=0o640, uid=0, gid=0):
    return File(str(path), content, uid, gid, mode)


def written(path):
    """Which file it is, and when it was changed: not when it was read, another test may look through all files."""
    status = os.stat(path)
    return status.st_ino, status.st_mtime_ns, status.st_ctime_ns


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def three(tmp_path):
    """A file to be replaced, one that is new, and one to be deleted."""
    for name in ("a", "c"):
        (tmp_path / name).write_bytes(OLD)
    replaced = Replacement(file(tmp_path / "a", NEW, 0o604, NOBODY.pw_uid, NOBODY.pw_gid), still=(OLD,))
    return Exchange([replaced, Replacement(file(tmp_path / "b", NEW)), Replacement(file(tmp_path / "c", None))])


def test_files_are_replaced_then_deleted_and_nothing_is_left_beside_them(three, tmp_path):
    a, b, c = (str(tmp_path / name) for name in "abc")
    assert three.paths == [a, b, c] and three.begun == []
    three.put()
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == NEW
    assert (tmp_path / "c").read_bytes() == OLD and three.begun == [a, b]
    assert names(tmp_path) == [".a.old", ".c.old", "a", "b", "c"]
    three.delete()
    assert three.begun == [a, b, c] and not (tmp_path / "c").exists()
    three.forget()
    assert names(tmp_path) == ["a", "b"]
    assert read(a) == file(a, NEW, 0o604, NOBODY.pw_uid, NOBODY.pw_gid) and read(b) == file(b, NEW)
    # Postfix waits while a file is less than 2 s old.
    assert 4 < time.time() - os.stat(a).st_mtime < 60


@pytest.mark.parametrize("deleted", [True, False])
def test_all_is_as_before_after_the_way_back(three, tmp_path, deleted):
    before = {name: read(str(tmp_path / name)) for name in "abc"}
    three.put()
    if deleted:
        three.delete()
    three.restore()
    # What Postfix may still ask stays until the reload.
    assert three.begun == [str(tmp_path / "b")] and (tmp_path / "b").read_bytes() == NEW
    three.drop()
    assert three.begun == []
    three.forget()
    assert {name: read(str(tmp_path / name)) for name in "abc"} == before and names(tmp_path) == ["a", "c"]


def test_only_what_is_new_is_dropped(three, tmp_path):
    """Whatever was not put back before: a file that was there is never removed."""
    three.put()
    three.drop()
    assert names(tmp_path) == [".a.old", ".c.old", "a", "c"] and three.begun == [str(tmp_path / "a")]


def test_what_somebody_else_has_changed_is_not_replaced(three, tmp_path):
    (tmp_path / "a").write_bytes(b"theirs\n")
    with pytest.raises(ChangedMeanwhile, match=r"/a was changed by somebody else meanwhile: try again"):
        three.put()
    assert three.begun == [] and (tmp_path / "a").read_bytes() == b"theirs\n" and not (tmp_path / "b").exists()


def test_a_file_that_is_already_as_it_should_be_was_not_changed_by_anybody(three, tmp_path):
    (tmp_path / "a").write_bytes(NEW)
    three.put()
    assert three.begun == [str(tmp_path / "a"), str(tmp_path / "b")]


def test_what_somebody_else_has_changed_since_is_not_put_back(three, tmp_path):
    three.put()
    (tmp_path / "a").write_bytes(b"theirs\n")
    with pytest.raises(ChangedMeanwhile, match=r"/a was changed by somebody else meanwhile$"):
        three.restore(lambda: pytest.fail("is no main.cf"))
    assert (tmp_path / "a").read_bytes() == b"theirs\n" and str(tmp_path / "a") in three.begun


@pytest.mark.parametrize("how", ["in place", "by a rename"])
def test_what_somebody_else_has_changed_since_is_not_deleted(tmp_path, how):
    """It may be the only copy. Those that were deleted before it come back."""
    for name in "abc":
        (tmp_path / name).write_bytes(OLD)
    exchange = Exchange([Replacement(file(tmp_path / name, None)) for name in "abc"])
    exchange.put()
    (tmp_path / "c").unlink()
    theirs = tmp_path / ("b" if how == "in place" else "theirs")
    theirs.write_bytes(b"theirs\n")
    theirs.rename(tmp_path / "b")
    with pytest.raises(ChangedMeanwhile, match=r"/b was changed by somebody else meanwhile: try again$"):
        exchange.delete()
    assert exchange.begun == [str(tmp_path / "a")] and names(tmp_path) == [".a.old", ".b.old", ".c.old", "b"]
    exchange.restore()
    assert exchange.drop() == []
    exchange.forget()
    assert ((tmp_path / "a").read_bytes(), (tmp_path / "b").read_bytes()) == (OLD, b"theirs\n")


def test_a_file_that_somebody_else_has_deleted_since_is_as_wished(three, tmp_path):
    three.put()
    (tmp_path / "c").unlink()
    three.delete()
    three.restore()
    assert (tmp_path / "c").read_bytes() == OLD


def test_what_somebody_else_has_put_in_place_of_a_new_file_is_not_dropped(tmp_path):
    """The others go: they may hold a password."""
    exchange = Exchange([Replacement(file(tmp_path / name, NEW)) for name in "abcd"])
    exchange.put()
    for name in "ac":
        (tmp_path / "theirs").write_bytes(b"theirs\n")
        (tmp_path / "theirs").rename(tmp_path / name)
    (tmp_path / "d").unlink()
    assert exchange.drop() == [str(tmp_path / "a"), str(tmp_path / "c")]
    assert exchange.begun == [] and names(tmp_path) == ["a", "c"]
    assert (tmp_path / "a").read_bytes() == b"theirs\n"


def test_an_edit_of_main_cf_since_is_kept(tmp_path):
    path = tmp_path / "main.cf"
    path.write_bytes(OLD)
    exchange = Exchange([Replacement(file(path, NEW), lock=True)])
    exchange.put()
    path.write_bytes(NEW + b"theirs\n")
    exchange.restore(lambda: Replacement(file(path, OLD + b"theirs\n"), still=(NEW + b"theirs\n",)))
    assert path.read_bytes() == OLD + b"theirs\n" and exchange.begun == []
    exchange.forget()
    assert names(tmp_path) == ["main.cf"]


@pytest.mark.parametrize("lock", [True, False])
@pytest.mark.parametrize("steps", [[NEW], [NEW, b"third\n", b"both\n", NEW]])
def test_a_file_that_goes_by_steps_and_back(tmp_path, lock, steps):
    path = tmp_path / "main.cf"
    path.write_bytes(OLD)
    first = file(path, b"both\n")
    exchange = Exchange([Replacement(file(tmp_path / "a", NEW)), Replacement(first, lock=lock)])
    exchange.put()
    assert path.read_bytes() == b"both\n"
    in_one_step = written(tmp_path / "a")
    for content in steps:
        # What an edit of it has found does not matter: it has to hold what was written last.
        exchange.go_on(Replacement(first._replace(content=content), still=(b"other\n",), lock=lock))
        assert path.read_bytes() == content
    assert written(tmp_path / "a") == in_one_step, "it was written once more"
    exchange.restore()
    assert path.read_bytes() == OLD
    exchange.drop()
    exchange.forget()
    assert names(tmp_path) == ["main.cf"]


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("theirs", [b"theirs\n", OLD, NEW])
def test_no_step_over_what_somebody_else_has_written(tmp_path, steps, theirs):
    """Nor over what was there before: who has put that back may have a reason. Nor what is there to be: it was lost."""
    path = tmp_path / "main.cf"
    path.write_bytes(OLD)
    exchange = Exchange([Replacement(file(path, b"first\n"))])
    exchange.put()
    if steps == 2:
        exchange.go_on(Replacement(file(path, b"second\n")))
    path.write_bytes(theirs)
    with pytest.raises(ChangedMeanwhile):
        exchange.go_on(Replacement(file(path, NEW), still=(theirs,)))
    assert path.read_bytes() == theirs and exchange.went_on == steps - 1


def test_a_second_failure_is_told_too(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(OLD)
    (tmp_path / ".a.new").mkdir()
    with pytest.raises(Failed, match=r"\.a\.new cannot be written: Is a directory; .*\.a\.new, which may hold a pass"):
        replace(Replacement(file(path, NEW)))
    (tmp_path / ".a.new").rmdir()
    replace(Replacement(file(path, NEW)))
    assert path.read_bytes() == NEW and names(tmp_path) == ["a"]


def test_a_replacement_that_fails_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(OLD)
    with pytest.raises(ChangedMeanwhile):
        replace(Replacement(file(path, NEW), still=(b"another\n",)))
    assert path.read_bytes() == OLD and names(tmp_path) == ["a"]


def test_a_second_name_that_an_earlier_change_has_left_is_in_nobodys_way(tmp_path):
    (tmp_path / "a").write_bytes(OLD)
    (tmp_path / ".a.old").write_bytes(b"older\n")
    (tmp_path / ".a.new").write_bytes(b"half")
    exchange = Exchange([Replacement(file(tmp_path / "a", NEW))])
    exchange.put()
    exchange.restore()
    assert (tmp_path / "a").read_bytes() == OLD


def test_what_cannot_be_removed_is_named_and_the_rest_goes(tmp_path):
    (tmp_path / ".a.old").mkdir()
    (tmp_path / ".b.new").write_bytes(b"secret")
    with pytest.raises(Failed, match=r"\.a\.old, which may hold a password, cannot be removed: Is a directory$"):
        remove_leftovers([str(tmp_path / "a"), str(tmp_path / "b"), "/nowhere/c"])
    assert names(tmp_path) == [".a.old"]


def test_nothing_is_left_beside_a_file_whose_directory_is_gone(tmp_path):
    """An admin may have removed it after a change that was cut off."""
    remove_leftovers([str(tmp_path / "gone" / "a")])


@pytest.mark.parametrize("what", ["directory", "fifo", "large", "under a file"])
def test_what_is_no_file_is_not_read(tmp_path, what):
    path = tmp_path / "a"
    if what == "directory":
        path.mkdir()
    elif what == "fifo":
        os.mkfifo(path)
    elif what == "large":
        with path.open("wb") as stream:
            stream.truncate(2**24 + 1)
    else:
        path.write_bytes(b"")
        path /= "b"
    no_file = r"/a is no regular file, or larger than 16 MiB$"
    with pytest.raises(CannotAsk, match="Not a directory" if what == "under a file" else no_file):
        read(str(path))


@pytest.mark.parametrize("size", [0, 1, 2**16, 2**16 + 1, 2**20, 2**24])
def test_a_file_of_any_size_is_read_whole(tmp_path, size):
    held = os.urandom(size)
    (tmp_path / "a").write_bytes(held)
    assert read(str(tmp_path / "a")).content == held


def test_a_file_that_comes_in_small_pieces_is_read_whole(tmp_path, monkeypatch):
    """A file system may give less than is asked for."""
    some = os.read
    (tmp_path / "a").write_bytes(b"x" * 1000 + b"end")
    monkeypatch.setattr(os, "read", lambda descriptor, size: some(descriptor, min(size, 3)))
    assert read(str(tmp_path / "a")).content == b"x" * 1000 + b"end"


def test_a_file_that_grows_for_ever_is_read_to_a_bound(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"x")
    monkeypatch.setattr(os, "read", lambda descriptor, size: b"x" * size)
    assert len(read(str(tmp_path / "a")).content) == 2**24


def test_a_file_of_our_own_is_written_aside(tmp_path, synced):
    """On the disk before it has its name, and for root alone, whatever was there under the other one."""
    path, aside = tmp_path / "a", tmp_path / "a.new"
    path.write_bytes(OLD)
    aside.write_bytes(b"left by a kill")
    aside.chmod(0o666)
    with aside.open("rb") as theirs:
        write_aside(str(path), NEW)
        assert theirs.read() == b"left by a kill"
    assert path.read_bytes() == NEW and names(tmp_path) == ["a"] and stat.S_IMODE(path.stat().st_mode) == 0o600
    assert synced == [("a.new", NEW), ["a"]]


def test_what_cannot_be_written_aside_is_as_before(tmp_path):
    path, target = tmp_path / "a", tmp_path / "target"
    for each in (path, target):
        each.write_bytes(OLD)
    with small_disk(tmp_path / "disk", "size=8k") as disk:
        (disk / "a").write_bytes(OLD)
        with pytest.raises(OSError, match="No space left"):
            write_aside(str(disk / "a"), b"x" * 2**14)
        assert (disk / "a").read_bytes() == OLD
    Path(_ispmail_files.aside(str(path))).symlink_to(target)
    write_aside(str(path), NEW)
    assert target.read_bytes() == OLD and path.read_bytes() == NEW


def test_more_files_than_are_open_at_once(tmp_path):
    """All are written, whole, and none stays open: also where one of them cannot be."""
    new = [file(tmp_path / f"{number}.cf", b"%d\n" % number, 0o640) for number in range(150)]
    is_open = set(os.listdir("/proc/self/fd"))
    exchange = Exchange([Replacement(each) for each in new])
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = [number for number in range(1000) if str(number) not in is_open]
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[64], hard))
    try:
        exchange.put()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    exchange.forget()
    assert [read(each.path) for each in new] == new and len(os.listdir(tmp_path)) == len(new)
    (tmp_path / ".140.cf.new").mkdir()
    with pytest.raises(Failed, match=r"/\.140\.cf\.new cannot be written"):
        Exchange([Replacement(each) for each in new]).put()
    assert set(os.listdir("/proc/self/fd")) == is_open


@pytest.fixture(scope="module")
def linked(tmp_path_factory):
    """Directories a and a/b with files and links: to a file, to a directory, to a link, to nothing."""
    root = tmp_path_factory.mktemp("linked")
    (root / "a" / "b").mkdir(parents=True)
    for path in ("f", "a/f", "a/b/f"):
        (root / path).write_bytes(OLD)
    for path, target in (("l", "a/b"), ("a/l", "../f"), ("a/b/l", "none"), ("m", "a/l")):
        (root / path).symlink_to(target)
    return str(root)


@given(parts=st.lists(st.sampled_from(["a", "b", "f", "l", "m", ".", "..", "", "none"]), max_size=6))
def test_where_a_path_leads_is_what_realpath_says(linked, parts):
    resolve = _ispmail_files.resolver()
    for path in ("/".join([linked, *parts]), "/".join(["/", *parts]), "/".join(parts)):
        assert resolve(path) == resolve(path) == os.path.realpath(path)
    assert resolve("/a" * 2000) == "/a" * 2000


def test_a_path_and_its_directory_are_looked_up_once(linked, monkeypatch):
    resolve, looked = _ispmail_files.resolver(), []
    resolve(f"{linked}/a/b/f")
    monkeypatch.setattr(os, "lstat", lambda path: looked.append(path) or os.stat(path))
    assert resolve(f"{linked}/a/b/other") == f"{linked}/a/b/other" and looked == [f"{linked}/a/b/other"]
    assert resolve(f"{linked}/a/b/f") == f"{linked}/a/b/f" and len(looked) == 1


def test_a_link_is_read_where_it_leads(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 2**24)
    (tmp_path / "a").chmod(0o600)
    (tmp_path / "link").symlink_to("a")
    assert read(str(tmp_path / "link")) == file(tmp_path / "a", b"x" * 2**24, 0o600)
    assert read(str(tmp_path / "none")) == (str(tmp_path / "none"), None, 0, 0, 0)


@pytest.mark.parametrize("spelling", ["link", "a/", "a/.", "a/../b"])
def test_a_file_is_read_only_where_postfix_can_open_it(tmp_path, spelling):
    """A link to a/, where a is a file, was read: Postfix cannot open it."""
    (tmp_path / "link").symlink_to("a/")
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(OLD)
    with pytest.raises(CannotAsk, match=f"^{re.escape(f'{tmp_path}/{spelling}')} cannot be read: Not a directory$"):
        read(f"{tmp_path}/{spelling}")
    assert read(f"{tmp_path}/none/../b").content is None


def test_a_disk_that_gets_full_meanwhile(tmp_path):
    """The system does not say of which file. Nothing was replaced, and what was begun can be removed."""
    with small_disk(tmp_path / "disk", "size=64k") as disk:
        (disk / "a").write_bytes(OLD)
        large = b"x" * 2**17
        exchange = Exchange([Replacement(file(disk / "a", large)), Replacement(file(disk / "b", large))])
        with pytest.raises(Failed, match=rf"^{disk}/a, {disk}/b cannot be written: No space left on device$"):
            exchange.put()
        assert exchange.begun == []
        exchange.forget()
        assert names(disk) == ["a"] and (disk / "a").read_bytes() == OLD


def test_no_descriptor_stays_open(tmp_path):
    """A minion lives for months. Other threads of this process may open some of their own meanwhile."""
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(40):
        replace(Replacement(file(tmp_path / "a", NEW)))
        read(str(tmp_path / "a"))
    assert len(os.listdir("/proc/self/fd")) < before + 40


def test_no_content_is_in_a_traceback():
    """It holds a password."""
    shown = repr(Replacement(file("/etc/a", b"secret"), still=(b"secret", None), lock=True))
    assert "secret" not in shown and "/etc/a" in shown and "lock=True" in shown
    assert "secret" not in repr(file("/etc/a", b"secret")) and "mode=416" in repr(file("/etc/a", b"secret"))


@pytest.mark.parametrize("step", ["go_on", "restore"])
@pytest.mark.parametrize("lock", [True, False])
def test_main_cf_is_not_changed_while_a_postconf_does(tmp_path, monkeypatch, step, lock):
    monkeypatch.setattr(_ispmail_locks, "_POSTCONF_SECONDS", 0.1)
    path = tmp_path / "main.cf"
    path.write_bytes(OLD)
    exchange = Exchange([Replacement(file(path, b"both\n"), lock=lock)])
    exchange.put()
    before = path.read_bytes()
    arguments = [Replacement(file(path, NEW), lock=lock)] if step == "go_on" else []
    with postconf_lock(str(path)):
        if lock:
            with pytest.raises(Failed, match="another postconf has held"):
                getattr(exchange, step)(*arguments)
            assert path.read_bytes() == before and exchange.begun == [str(path)]
        else:
            getattr(exchange, step)(*arguments)
            assert path.read_bytes() != before


def test_main_cf_is_put_back_on_a_full_disk(tmp_path):
    """Without room for a lock file: a rename needs none."""
    with small_disk(tmp_path / "disk", "nr_inodes=8") as disk:
        path = disk / "main.cf"
        path.write_bytes(OLD)
        exchange = Exchange([Replacement(file(path, NEW), lock=True)])
        exchange.put()
        with pytest.raises(OSError, match="No space left"):
            for number in range(8):
                (disk / str(number)).touch()
        exchange.restore()
        assert path.read_bytes() == OLD and not exchange.begun


@pytest.fixture
def synced(monkeypatch):
    """What was written to the disk, in order: a file by the name that it has then, a directory by all that is in it."""
    found, fsync = [], os.fsync

    def note(descriptor):
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        found.append(names(path) if path.is_dir() else (path.name, path.read_bytes()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    return found


def test_each_step_is_on_the_disk_before_the_next(tmp_path, synced):
    """After a power cut main.cf names no table that is not there: content goes first, then its name."""
    for name in ("c", "main.cf"):
        (tmp_path / name).write_bytes(OLD)
    main_cf = Replacement(file(tmp_path / "main.cf", b"both\n"))
    exchange = Exchange([Replacement(file(tmp_path / "a", NEW)), main_cf, Replacement(file(tmp_path / "c", None))])
    exchange.put()
    second_names = [".c.old", ".main.cf.old"]
    assert sorted(synced[:2]) == [(".a.new", NEW), (".main.cf.new", b"both\n")]
    assert synced[2:] == [[*second_names, "a", "c", "main.cf"]]
    synced.clear()
    exchange.go_on(Replacement(file(tmp_path / "main.cf", NEW)))
    assert synced == [(".main.cf.new", NEW), [*second_names, "a", "c", "main.cf"]]
    synced.clear()
    exchange.delete()
    assert synced == [[*second_names, "a", "main.cf"]]
    synced.clear()
    exchange.forget()
    assert synced == [["a", "main.cf"]]


def test_a_password_is_not_readable_by_others_for_a_moment(tmp_path, monkeypatch):
    """Owner and mode are those of the end before anything is in the file; until then it is root's alone."""
    seen, fchown, fsync = [], os.fchown, os.fsync

    def look(descriptor):
        status = os.fstat(descriptor)
        seen.append((stat.S_IMODE(status.st_mode), status.st_uid, status.st_size))

    def change_owner(descriptor, uid, gid):
        look(descriptor)
        fchown(descriptor, uid, gid)

    def sync(descriptor):
        look(descriptor)
        fsync(descriptor)

    monkeypatch.setattr(os, "fchown", change_owner)
    monkeypatch.setattr(os, "fsync", sync)
    Exchange([Replacement(file(tmp_path / "a", NEW, 0o604, NOBODY.pw_uid))]).put()
    assert seen[:2] == [(0o600, 0, 0), (0o604, NOBODY.pw_uid, len(NEW))]


def test_what_was_renamed_is_put_back_where_it_does_not_reach_the_disk(tmp_path, monkeypatch):
    def fails(paths):
        raise OSError(5, "Input/output error", str(tmp_path))

    (tmp_path / "a").write_bytes(OLD)
    for name in "ab":
        with monkeypatch.context() as patch:
            patch.setattr(_ispmail_files, "sync_directories", fails)
            with pytest.raises(Failed, match=f"{tmp_path} cannot be written: Input/output error"):
                replace(Replacement(file(tmp_path / name, NEW)))
    assert names(tmp_path) == ["a"] and (tmp_path / "a").read_bytes() == OLD


def test_an_error_of_the_disk_names_the_directory(tmp_path, monkeypatch):
    def fails(descriptor):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="Input/output error") as raised:
        _ispmail_files.sync_directories([str(tmp_path / "a"), str(tmp_path / "b")])
    assert raised.value.filename == str(tmp_path)


def test_a_directory_that_cannot_be_looked_at_is_not_safe():
    assert unsafe_directory("/nowhere/deeper") == "/nowhere/deeper cannot be read: No such file or directory"


# Who may open what.


@pytest.mark.parametrize(
    ("access", "group", "mode", "groups", "result"),
    [
        ("r", "nogroup", 0o640, None, True),
        ("r", "nogroup", 0o600, None, False),
        ("r", "root", 0o640, None, False),
        ("r", "root", 0o644, None, True),
        ("x", "root", 0o755, None, True),
        ("x", "root", 0o744, None, False),
        ("x", "nogroup", 0o710, None, True),
        # A user may be in further groups.
        ("r", "mail", 0o640, ["nogroup", "mail"], True),
    ],
)
def test_what_a_user_may_open(monkeypatch, access, group, mode, groups, result):
    if groups:
        monkeypatch.setattr(os, "getgrouplist", lambda *_: [grp.getgrnam(name).gr_gid for name in groups])
    with scratch() as folder:
        path = folder / "a"
        path.touch() if access == "r" else path.mkdir()
        os.chown(path, 0, grp.getgrnam(group).gr_gid)
        path.chmod(mode)
        assert _ispmail_files.permits("nobody", access, str(path)) is result
        folder.chmod(0o700)
        assert _ispmail_files.permits("nobody", access, str(path)) is False


def test_what_a_user_may_open_that_is_none():
    with pytest.raises(CannotAsk, match=r"^there is no user no-such: check mail_owner in main\.cf$"):
        _ispmail_files.permits("no-such", "r", "/x")


def test_a_file_system_that_does_not_answer(monkeypatch):
    monkeypatch.setattr(_ispmail_files, "_SECONDS", 0.2)
    with scratch() as folder:
        (folder / "test").write_text("#!/bin/sh\nexec sleep 5\n")
        (folder / "test").chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        with pytest.raises(CannotAsk, match=r"^/x could not be opened within 0\.2 s: check its file system$"):
            _ispmail_files.permits("nobody", "r", "/x")


# What a jail has, and what each path is to a process in it; None: nothing.
LINKS = {
    "absolute": "/a/file",
    "relative": "a/file",
    "dir": "/a",
    "a/up": "../../../../a/file",
    "out": "OUTSIDE/file",
    "chain": "absolute",
    "loop": "/loop",
    "one": "two",
    "two": "/one",
    "dangling": "gone",
    "deep": "/dir/up",
}
PATHS = (*LINKS, "a/file", "/a/file", "/dir/file", "//a/./file", "/../../a/file", "/a/../a/file", "/gone/../a/file")
PATHS += (
    "/a/file/../file",
    "/loop/file",
    "/dir/../a/file",
    "/out/../a/file",
    "OUTSIDE/file",
    "",
    "/",
    "..",
    "l40",
    "l41",
)
# Linux follows so many.
CHAIN = {f"l{number}": f"/l{number - 1}" if number > 1 else "/a/file" for number in range(1, 42)}
OPEN = """
import os, sys
os.chroot(sys.argv[1])
os.chdir("/")
for path in sys.argv[2:]:
    try:
        status = os.stat(path or ".")
        print(status.st_dev, status.st_ino)
    except OSError:
        print(None)
"""


def test_where_a_path_leads_inside_a_chroot(tmp_path):
    """As the kernel has it: what is opened from outside is what a process in there opens, or there is nothing."""
    jail, outside = tmp_path / "jail", tmp_path / "outside"
    for directory in (jail / "a", outside):
        directory.mkdir(parents=True)
        (directory / "file").touch()
    for name, target in {**LINKS, **CHAIN}.items():
        (jail / name).symlink_to(target.replace("OUTSIDE", str(outside)))
    (tmp_path / "spelled").symlink_to("jail")
    paths = [path.replace("OUTSIDE", str(outside)) for path in PATHS]
    command = [sys.executable, "-I", "-S", "-c", OPEN, str(jail), *paths]
    by_kernel = subprocess.check_output(command, text=True).splitlines()
    assert len(set(by_kernel)) == 4 and by_kernel.count("None") == 11
    for root in (jail, tmp_path / "spelled"):
        for path, expected in zip(paths, by_kernel, strict=True):
            found = _ispmail_files.inside(str(root), path)
            there = f"{os.stat(found).st_dev} {os.stat(found).st_ino}" if os.path.exists(found) else "None"
            assert there == expected, (path, found)
    assert _ispmail_files.inside(str(jail), "/loop/file") == f"{jail}/loop->/loop"
    assert _ispmail_files.inside(str(jail), "/dangling") == f"{jail}/gone"
    assert _ispmail_files.inside(str(jail), "/gone/x/y") == f"{jail}/gone/x/y"
