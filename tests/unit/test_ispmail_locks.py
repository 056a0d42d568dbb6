"""The locks of a change and of postconf: one at a time, whoever waits goes on, and nothing stays open."""

import fcntl
import os
import stat
import threading
import time
from pathlib import Path

import pytest

import _ispmail_locks
from _ispmail_errors import Failed
from _ispmail_locks import alone, postconf_lock
from lab import small_disk


def test_one_change_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(_ispmail_locks, "_CHANGE_SECONDS", 0.2)
    monkeypatch.setattr(_ispmail_locks, "_FOLDER", str(tmp_path / "run"))
    (tmp_path / "link").symlink_to(tmp_path / "postfix")
    with alone(str(tmp_path / "postfix")):
        (lock,) = (tmp_path / "run").iterdir()
        # Who can open it can lock it, and stop every change.
        assert [stat.S_IMODE(path.stat().st_mode) for path in (lock.parent, lock)] == [0o700, 0o600]
        said = rf"another apply .* nothing was changed: .* fuser -v {lock}$"
        with pytest.raises(Failed, match=said), alone(str(tmp_path / "link")):
            pytest.fail("two at once")
        with alone(str(tmp_path / "another")):
            pass
    assert os.listdir(tmp_path / "run") == []
    with alone(str(tmp_path / "postfix")):
        pass
    monkeypatch.setattr(_ispmail_locks, "_FOLDER", str(tmp_path / "file"))
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Failed, match=r"Nothing was changed: .* cannot be locked: File exists"), alone("/x"):
        pytest.fail("nothing is locked")


def test_postconfs_lock(tmp_path, monkeypatch):
    """It is the file that postconf -e opens, locks and renames; gone afterwards."""
    monkeypatch.setattr(_ispmail_locks, "_POSTCONF_SECONDS", 0.2)
    path = str(tmp_path / "main.cf")
    with postconf_lock(path):
        assert os.listdir(tmp_path) == ["main.cf.tmp"]
        # Who can open it can lock it, and stop every change.
        assert stat.S_IMODE(os.stat(f"{path}.tmp").st_mode) == 0o600
        held = r"another postconf has held .*main\.cf\.tmp .*, nothing was written"
        with pytest.raises(Failed, match=held), postconf_lock(path):
            pytest.fail("two at once")
    assert os.listdir(tmp_path) == []
    (tmp_path / "main.cf.tmp").mkdir()
    with pytest.raises(Failed, match=r"main\.cf\.tmp cannot be written: Is a directory"), postconf_lock(path):
        pytest.fail("nothing is locked")


def test_a_lock_that_cannot_be_had_and_need_not(tmp_path, monkeypatch):
    """To put main.cf back goes on without room for the lock file; not while a postconf writes."""
    monkeypatch.setattr(_ispmail_locks, "_POSTCONF_SECONDS", 0.2)
    path = str(tmp_path / "main.cf")
    with small_disk(tmp_path / "disk", "nr_inodes=1") as disk:
        with pytest.raises(Failed, match="No space left on device"), postconf_lock(str(disk / "main.cf")):
            pytest.fail("nothing is locked")
        with postconf_lock(str(disk / "main.cf"), required=False):
            assert os.listdir(disk) == []
    with postconf_lock(path), pytest.raises(Failed, match="has held"), postconf_lock(path, required=False):
        pytest.fail("two at once")
    with pytest.raises(OSError, match="theirs"), postconf_lock(path, required=False):
        raise OSError("theirs")


def test_a_postconf_that_finishes_just_now(tmp_path, monkeypatch):
    """It has renamed the lock file to main.cf: a lock on that would stop no other postconf."""
    lock, locked = tmp_path / "main.cf.tmp", _ispmail_locks._locked
    finished = []

    def just_then(descriptor):
        found = locked(descriptor)
        if not finished:
            finished.append(lock.rename(tmp_path / "main.cf"))
        elif len(finished) == 1:
            finished.append(lock.replace(tmp_path / "main.cf"))
            lock.write_bytes(b"the next one's")
        return found

    monkeypatch.setattr(_ispmail_locks, "_locked", just_then)
    with postconf_lock(str(tmp_path / "main.cf")):
        assert len(finished) == 2 and lock.read_bytes() == b"the next one's"
        with lock.open() as stream, pytest.raises(BlockingIOError):
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_lock_that_is_waited_for_is_open_once(tmp_path, monkeypatch):
    """Each look at it opened it, and a minion lives for months."""
    monkeypatch.setattr(_ispmail_locks, "_POSTCONF_SECONDS", 0.2)
    path = str(tmp_path / "main.cf")
    with postconf_lock(path):
        with pytest.raises(Failed), postconf_lock(path):
            pytest.fail("two at once")
        open_files = [os.readlink(each) for each in Path("/proc/self/fd").iterdir() if each.is_symlink()]
        assert open_files.count(f"{path}.tmp") == 1


def test_no_descriptor_stays_open(tmp_path):
    """A minion lives for months. Other threads of this process may open some of their own meanwhile."""
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(40):
        with postconf_lock(str(tmp_path / "main.cf")), alone(str(tmp_path)):
            pass
    assert len(os.listdir("/proc/self/fd")) < before + 40


@pytest.mark.parametrize("lock", [alone, postconf_lock], ids=["of a change", "of postconf"])
def test_who_waits_goes_on_when_the_other_has_finished(tmp_path, monkeypatch, lock):
    """It looks several times a second, and uses no processor in between."""
    sleep, naps, here = time.sleep, [], threading.get_ident()

    def nap(seconds):
        if threading.get_ident() == here:
            naps.append(seconds)
        sleep(seconds)

    monkeypatch.setattr(time, "sleep", nap)
    path, order = str(tmp_path / "main.cf") if lock is postconf_lock else str(tmp_path), []
    begun = threading.Event()

    def first():
        with lock(path):
            begun.set()
            sleep(0.3)
            order.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    assert begun.wait(5)
    with lock(path):
        order.append("second")
    thread.join()
    assert order == ["first", "second"]
    assert naps and 0.01 <= min(naps) <= max(naps) <= 0.5
