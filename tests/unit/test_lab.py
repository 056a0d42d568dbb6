"""What others change meanwhile."""

import shutil
from pathlib import Path

from lab import contents


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
