"""What others change meanwhile."""

import fcntl
import shutil
from pathlib import Path

from lab import contents, scratch
from lab.postfix import Postfix


def test_what_goes_while_one_looks_is_not_there(tmp_path, monkeypatch):
    """Before it is looked at, between that and the reading, and a whole folder: a mail queue does all of that."""
    for name in ("kept", "gone", "going", "left/out", "folder/in it", "whole/folder"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "link").symlink_to("kept")
    look = Path.lstat

    def lstat(path):
        if path.name in ("gone", "in it"):
            path.unlink()
        if path.name == "kept":
            shutil.rmtree(tmp_path / "whole")
        found = look(path)
        if path.name == "going":
            path.unlink()
        return found

    monkeypatch.setattr(Path, "lstat", lstat)
    assert list(contents(tmp_path, without=[tmp_path / "left"])) == [(tmp_path / "kept", b"kept")]


def test_a_postfix_whose_lock_is_held_cannot_be_started_yet():
    """By a child that master(8) was just making when it was ended: `postfix start` failed then, and said nothing."""
    with scratch() as directory:
        postfix = Postfix(directory)
        assert postfix._has_ended()
        file = postfix.queue_directory / "pid" / "master.pid"
        file.parent.mkdir(exist_ok=True)
        with file.open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            assert not postfix._has_ended()
        assert postfix._has_ended()
