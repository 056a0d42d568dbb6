"""Which files an apply left with an older password: remembered until they have gone or changed."""

import os
import stat

import pytest

from ispmail_errors import CannotAsk, Failed, NotPutBack
from ispmail_remembered import added, paths


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


@pytest.mark.parametrize("text", ["", "{", "7", "[7]", '[{"path": 1}]'])
def test_what_is_damaged_is_an_error(folder, script, text):
    """Not an empty list: then the old password would be dropped."""
    with added(folder, [str(script)]):
        pass
    (name,) = os.listdir(folder)
    with open(os.path.join(folder, name), "w", encoding="ascii") as stream:
        stream.write(text)
    with pytest.raises(CannotAsk, match="it is damaged"):
        paths(folder)


def test_where_it_cannot_be_written_nothing_is_changed(folder, script, tmp_path):
    (tmp_path / "cache").write_text("")
    with pytest.raises(Failed, match="cannot be"), added(folder, [str(script)]):
        raise AssertionError("the change was begun")
