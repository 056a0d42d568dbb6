"""When an apply has succeeded last."""

import os
import stat
import time

import pytest

import _ispmail_applied
from _ispmail_errors import Failed


def test_it_is_remembered_for_each_pillar_key(tmp_path):
    folder = tmp_path / "ispmail"
    assert _ispmail_applied.ago(str(folder), "ispmail") is None
    _ispmail_applied.note(str(folder), "ispmail")
    assert 0 <= _ispmail_applied.ago(str(folder), "ispmail") < 10
    assert _ispmail_applied.ago(str(folder), "other") is None
    _ispmail_applied.note(str(folder), "../other")
    found = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    assert found == ["applied-..%2Fother", "applied-ispmail"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_the_last_one_counts(tmp_path):
    _ispmail_applied.note(str(tmp_path), "ispmail")
    hours = time.time() - 7200
    os.utime(tmp_path / "applied-ispmail", (hours, hours))
    assert 7200 <= _ispmail_applied.ago(str(tmp_path), "ispmail") < 7300
    _ispmail_applied.note(str(tmp_path), "ispmail")
    assert _ispmail_applied.ago(str(tmp_path), "ispmail") < 10


def test_a_clock_that_was_set_back(tmp_path):
    _ispmail_applied.note(str(tmp_path), "ispmail")
    later = time.time() + 7200
    os.utime(tmp_path / "applied-ispmail", (later, later))
    assert _ispmail_applied.ago(str(tmp_path), "ispmail") == 0


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Failed, match="applied-ispmail cannot be written: Not a directory"):
        _ispmail_applied.note(str(tmp_path / "file"), "ispmail")
    assert _ispmail_applied.ago(str(tmp_path / "file"), "ispmail") is None


def test_a_password_is_no_apply(tmp_path):
    _ispmail_applied.note(str(tmp_path), "ispmail", _ispmail_applied.PASSWORD)
    assert [path.name for path in tmp_path.iterdir()] == ["password-ispmail"]
    assert _ispmail_applied.ago(str(tmp_path), "ispmail") is None
    os.utime(tmp_path / "password-ispmail", (1000, 1000.5))
    assert _ispmail_applied.when(str(tmp_path), "ispmail", _ispmail_applied.PASSWORD) == 1000.5
