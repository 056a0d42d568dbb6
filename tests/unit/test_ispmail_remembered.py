"""Which files an apply left with an older password: remembered until they have gone or changed."""

import json
import os
import stat

import pytest

from _ispmail_errors import CannotAsk, Failed, NotPutBack
from _ispmail_remembered import added, paths


@pytest.fixture
def folder(tmp_path):
    return str(tmp_path / "cache" / "ispmail")


@pytest.fixture
def script(tmp_path):
    found = tmp_path / "script-\udcff"
    found.write_text("old")
    return found


def test_files_are_remembered_by_root_alone(folder, script, tmp_path):
    assert paths(folder) == []
    for _ in range(2):
        with added(folder, [str(script), str(tmp_path / "gone")]):
            pass
        assert paths(folder) == [str(script)]
    (name,) = os.listdir(folder)
    assert stat.S_IMODE(os.stat(os.path.join(folder, name)).st_mode) == 0o600


def test_later_ones_come_to_the_earlier_ones(folder, script, tmp_path):
    other = tmp_path / "other"
    other.write_text("older")
    for path in (script, other):
        with added(folder, [str(path)]):
            pass
    with added(folder, []):
        pass
    assert set(paths(folder)) == {str(script), str(other)}


def changed(script):
    script.write_text("new one")


def touched(script):
    os.utime(script, (1, 1))


def replaced(script):
    status = script.stat()
    aside = script.with_name("aside")
    aside.write_text("new")
    os.utime(aside, ns=(status.st_atime_ns, status.st_mtime_ns))
    aside.rename(script)


@pytest.mark.parametrize("act", [changed, touched, replaced, os.unlink])
def test_a_file_that_has_changed_is_forgotten(folder, script, act):
    with added(folder, [str(script)]):
        pass
    act(script)
    assert paths(folder) == []


@pytest.mark.parametrize(("error", "kept"), [(Failed, False), (NotPutBack, True), (KeyboardInterrupt, True)])
def test_after_a_change_that_was_put_back_nothing_is_remembered(folder, script, error, kept):
    with pytest.raises(error), added(folder, [str(script)]):
        assert paths(folder) == [str(script)]
        raise error("no")
    assert paths(folder) == ([str(script)] if kept else [])


NO_ASCII = '[{"path": "/gone/\xe9", "mtime": 1, "size": 1, "inode": 1}]'


@pytest.mark.parametrize("text", ["", "{", "7", "[7]", '[{"path": 1}]', NO_ASCII])
def test_what_is_damaged_is_an_error(folder, script, text):
    """Not an empty list: then the old password would be dropped."""
    with added(folder, [str(script)]):
        pass
    (name,) = os.listdir(folder)
    with open(os.path.join(folder, name), "w", encoding="utf-8") as stream:
        stream.write(text)
    with pytest.raises(CannotAsk, match="it is damaged"):
        paths(folder)


def test_where_it_cannot_be_written_nothing_is_changed(folder, script, tmp_path):
    (tmp_path / "cache").write_text("")
    with pytest.raises(Failed, match="cannot be"), added(folder, [str(script)]):
        raise AssertionError("the change was begun")


NAME = "left_with_an_older_password"


def test_what_an_earlier_release_has_written_is_read(folder, script):
    status = script.stat()
    entry = {"path": str(script), "mtime": status.st_mtime_ns, "size": status.st_size, "inode": status.st_ino}
    os.makedirs(folder)
    with open(os.path.join(folder, NAME), "w", encoding="ascii") as stream:
        json.dump([entry], stream)
    assert paths(folder) == [str(script)]


def test_where_nothing_is_found_nothing_is_written(folder, tmp_path):
    with added(folder, []):
        pass
    assert not os.path.exists(folder)
    with added(folder, [str(tmp_path / "gone")]):
        pass
    assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700


def test_what_cannot_be_read_is_told(folder):
    os.makedirs(os.path.join(folder, NAME))
    with pytest.raises(CannotAsk) as caught:
        paths(folder)
    assert str(caught.value) == (
        f"which files were left with an older password is not known: {folder}/{NAME} cannot be read: Is a directory: "
        "correct the files of this server that hold one, then delete it"
    )


def test_all_is_on_the_disk_before_it_takes_the_place_of_the_old_one(folder, script, monkeypatch):
    """After a power cut it was empty, and the old password was dropped. What a cut left beside it does not matter."""
    os.makedirs(folder)
    with open(os.path.join(folder, f"{NAME}.new"), "w", encoding="ascii") as stream:
        stream.write("[")
    synced = []

    def fsync(descriptor):
        synced.append((os.fstat(descriptor).st_ino, os.fstat(descriptor).st_size, os.listdir(folder)))

    monkeypatch.setattr("_ispmail_remembered.os.fsync", fsync)
    with added(folder, [str(script)]):
        pass
    status = os.stat(os.path.join(folder, NAME))
    assert synced == [(status.st_ino, status.st_size, [f"{NAME}.new"])] and status.st_size
    assert os.listdir(folder) == [NAME]


def test_a_folder_that_cannot_be_made_stops_the_change(folder, script, tmp_path):
    (tmp_path / "cache").symlink_to("nowhere")
    with pytest.raises(Failed) as caught, added(str(tmp_path / "cache"), [str(script)]):
        raise AssertionError("the change was begun")
    assert str(caught.value) == f"Nothing was changed: {tmp_path}/cache/{NAME} cannot be written: File exists"
