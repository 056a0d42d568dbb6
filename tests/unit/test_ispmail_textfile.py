"""The file for node_exporter: whole or as before, in a directory that is root's, and through no link."""

import os
import shutil
import tempfile
import threading
from pathlib import Path

import pytest

import _ispmail_textfile
from _ispmail_errors import CannotAsk, Failed
from lab import small_disk


@pytest.fixture
def folder():
    """A directory of root's, as Debian's package has it: the one above it belongs to another user."""
    above = Path(tempfile.mkdtemp())
    (above / "node-exporter").mkdir(mode=0o755)
    os.chown(above, 65534, 65534)
    yield above / "node-exporter"
    shutil.rmtree(above)


@pytest.fixture
def path(folder):
    return folder / "ispmail.prom"


def test_it_is_readable_for_all_and_nothing_is_left(path):
    for text in ("one\n", "t\N{LATIN SMALL LETTER U WITH DIAERESIS}\n"):
        assert _ispmail_textfile.obstacle(str(path)) == ""
        before = os.umask(0o077)
        try:
            _ispmail_textfile.write(str(path), text)
        finally:
            os.umask(before)
        assert path.read_text(encoding="utf-8") == text and path.stat().st_mode & 0o7777 == 0o644
        assert [each.name for each in path.parent.iterdir()] == ["ispmail.prom"]


def test_the_root_directory_is_one_too():
    assert _ispmail_textfile.obstacle("/ispmail.prom") == ""


def test_who_reads_it_sees_one_whole_text(path):
    texts = [letter * 100_000 for letter in "ab"]
    _ispmail_textfile.write(str(path), texts[0])
    seen, done = set(), threading.Event()

    def read():
        while not done.is_set():
            seen.add(path.read_text())

    thread = threading.Thread(target=read)
    thread.start()
    for number in range(200):
        _ispmail_textfile.write(str(path), texts[number % 2])
    done.set()
    thread.join()
    assert seen <= set(texts)


def test_what_a_kill_has_left_is_no_obstacle(path):
    (path.parent / ".ispmail.prom.new").write_text("half")
    _ispmail_textfile.write(str(path), "all")
    assert [each.name for each in path.parent.iterdir()] == ["ispmail.prom"]


def group_may_write(path):
    path.parent.chmod(0o775)
    return "must be root's, and writable for nobody else"


def others_may_write(path):
    path.parent.chmod(0o757)
    return "must be root's, and writable for nobody else"


def another_owner(path):
    os.chown(path.parent, 65534, 0)
    return "must be root's, and writable for nobody else"


def no_directory(path):
    path.parent.rmdir()
    return "is no directory that can be used (No such file or directory): install prometheus-node-exporter, or name"


def a_file_in_its_place(path):
    path.parent.rmdir()
    path.parent.write_text("")
    return "is no directory that can be used (Not a directory)"


def a_link_in_its_place(path):
    """Who owns the directory above can do that."""
    path.parent.rmdir()
    path.parent.symlink_to("/etc")
    return "is no directory that can be used (Not a directory)"


def a_link(path):
    path.symlink_to("/etc/passwd")
    return "is no regular file: remove it, or name another one"


def a_dead_link(path):
    path.symlink_to("/etc/not-there")
    return "is no regular file: remove it, or name another one"


def a_directory(path):
    path.mkdir()
    return "is no regular file: remove it, or name another one"


def a_pipe(path):
    os.mkfifo(path)
    return "is no regular file: remove it, or name another one"


CASES = [group_may_write, others_may_write, another_owner, no_directory, a_file_in_its_place, a_link_in_its_place]
CASES += [a_link, a_dead_link, a_directory, a_pipe]


@pytest.mark.parametrize("case", CASES)
def test_where_it_cannot_be(path, case):
    reason = case(path)
    above = path.parent.parent
    before = sorted(str(each) for each in above.rglob("*"))
    passwd = Path("/etc/passwd").read_bytes()
    assert reason in _ispmail_textfile.obstacle(str(path))
    with pytest.raises(CannotAsk) as err:
        _ispmail_textfile.write(str(path), "x")
    assert str(err.value) == _ispmail_textfile.obstacle(str(path))
    assert sorted(str(each) for each in above.rglob("*")) == before
    assert Path("/etc/passwd").read_bytes() == passwd and not Path("/etc/ispmail.prom").exists()


def test_a_link_further_up(path):
    above = path.parent.parent
    link = above.with_name(f"{above.name}-link")
    link.symlink_to(above)
    try:
        assert "Not a directory" in _ispmail_textfile.obstacle(str(link / "node-exporter" / "ispmail.prom"))
    finally:
        link.unlink()


def test_a_full_disk_leaves_the_file_as_it_was(path):
    with small_disk(path.parent / "small", "size=64k,mode=755") as disk:
        path = disk / "ispmail.prom"
        _ispmail_textfile.write(str(path), "before")
        with pytest.raises(Failed, match="cannot be written: No space left on device"):
            _ispmail_textfile.write(str(path), "x" * 200_000)
        assert path.read_text() == "before" and [each.name for each in path.parent.iterdir()] == ["ispmail.prom"]
