"""The journal of changes: what it says of work that is due, also where it was cut off itself."""

import os
import threading
from pathlib import Path

import pytest

import _ispmail_locks
from _ispmail_errors import Failed
from _ispmail_journal import Journal, interrupted, with_history


@pytest.fixture(params=["an instance", "no Postfix"])
def journal(request, tmp_path):
    directory = tmp_path / "postfix"
    if request.param == "an instance":
        directory.mkdir()
    return Journal(str(directory), str(tmp_path))


def path_of(journal):
    return Path(journal.workspace.removesuffix(".work"))


def files(tmp_path):
    return {path.name: path.read_bytes() for path in (tmp_path / "postfix_change").iterdir() if path.is_file()}


def test_what_is_written_is_due_until_it_is_cleared(journal):
    assert journal.due() is None
    with journal.locked():
        for paths in (["/etc/postfix/a.cf", "/etc/postfix/\udcff.cf", "/etc/postfix/caf\xe9.cf"], []):
            journal.write(paths)
            assert journal.due() == paths
        journal.clear()
        assert journal.due() is None
        journal.clear()


ANY_NAMES = ["/etc/postfix/caf\xe9.cf", "/etc/postfix/\udcff.cf"]


def test_what_is_due_does_not_depend_on_the_locale(journal, request):
    """A minion and a salt-call may have different ones: a file that has another name there keeps its leftovers."""
    with journal.locked():
        journal.write(ANY_NAMES)
        request.getfixturevalue("ascii_locale")
        assert journal.due() == ANY_NAMES
        before = path_of(journal).read_bytes()
        journal.write(ANY_NAMES)
        assert path_of(journal).read_bytes() == before


@pytest.mark.parametrize(("content", "due"), [("", None), ("/etc/postfix/a.cf\n", ["/etc/postfix/a.cf"]), ("x\n", [])])
def test_the_journal_of_another_version(journal, content, due):
    """Version 0.1.0 left an empty file where nothing was due, and had no first line."""
    with journal.locked():
        path_of(journal).write_text(content)
    assert journal.due() == due


def test_a_journal_that_cannot_be_written_is_as_before(journal, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    with journal.locked():
        journal.write(["/etc/postfix/a.cf"])
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(Failed, match=r"Nothing was changed: .* cannot be written: No space left on device"):
            journal.write(["/etc/postfix/b.cf"])
    assert journal.due() == ["/etc/postfix/a.cf"]


def test_a_journal_that_cannot_be_read_is_not_empty(journal):
    path_of(journal).mkdir(parents=True)
    with pytest.raises(Failed, match="cannot be read"):
        journal.due()


def test_one_at_a_time_with_an_empty_workspace(journal, monkeypatch):
    monkeypatch.setattr(_ispmail_locks, "_CHANGE_SECONDS", 0.3)
    with journal.locked():
        (Path(journal.workspace) / "copy").write_text("a password")
        found = []

        def other():
            with pytest.raises(Failed, match=r"another apply has been at work .* fuser "), journal.locked():
                found.append("inside")

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert found == []
    with journal.locked():
        assert os.listdir(journal.workspace) == []
    assert os.stat(journal.workspace).st_mode & 0o777 == 0o700


def test_a_directory_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(Failed, match=r"Nothing was changed: .* cannot be written: Not a directory"),
        Journal("/nowhere", str(tmp_path / "file")).locked(),
    ):
        pass


def test_minions_that_manage_the_same_instance_wait_for_each_other(tmp_path, monkeypatch):
    monkeypatch.setattr(_ispmail_locks, "_CHANGE_SECONDS", 0.3)
    (tmp_path / "postfix").mkdir()
    one, other = (Journal(str(tmp_path / "postfix"), str(tmp_path / name)) for name in ("one", "other"))
    with one.locked(), pytest.raises(Failed, match="another apply has been at work"), other.locked():
        pass


def test_what_is_due_is_on_the_disk_before_anything_is_changed(journal, monkeypatch):
    """After a power cut it says what to clean up: first the whole content, then the name."""
    path, fsync, synced = path_of(journal), os.fsync, []

    def note(descriptor):
        found = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        synced.append(found.read_text() if found.is_file() else found)
        fsync(descriptor)
        assert path.exists() is found.is_dir()

    with journal.locked():
        monkeypatch.setattr(os, "fsync", note)
        journal.write(["/etc/postfix/a.cf"])
    assert synced == ["work is due\n/etc/postfix/a.cf\n", path.parent]


def test_two_minions_make_the_directory_for_journals_at_the_same_time(journal, tmp_path, monkeypatch):
    mkdir = os.mkdir

    def the_other_was_faster(path, mode=0o777):
        if str(path) == str(tmp_path / "postfix_change"):
            mkdir(path, mode)
        mkdir(path, mode)

    monkeypatch.setattr(os, "mkdir", the_other_was_faster)
    with journal.locked():
        journal.write([])
    assert journal.due() == []


def test_a_new_directory_for_journals_is_on_the_disk(journal, tmp_path, monkeypatch):
    """After a power cut in the first change of all the journal would not be there."""
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    with journal.locked():
        assert synced == [str(tmp_path)]
    with journal.locked():
        assert synced == [str(tmp_path)]


def test_nobody_else_may_enter(journal, tmp_path):
    before = os.umask(0)
    try:
        with journal.locked():
            for path in (tmp_path / "postfix_change", Path(journal.workspace)):
                assert path.stat().st_mode & 0o777 == 0o700
    finally:
        os.umask(before)


def test_what_an_earlier_change_has_left_in_the_workspace_is_gone(journal):
    with journal.locked():
        (Path(journal.workspace) / "main.cf").write_text("a password")
    with journal.locked():
        assert list(Path(journal.workspace).iterdir()) == []


@pytest.mark.parametrize("where", ["its directory", "its workspace"])
def test_a_place_that_cannot_be_written_is_named(journal, tmp_path, where):
    if where == "its directory":
        path = tmp_path / "postfix_change"
    else:
        with journal.locked():
            path = Path(journal.workspace)
        path.rmdir()
    path.write_text("a file in place of the directory")
    with pytest.raises(Failed, match=rf"Nothing was changed: {path} cannot be written: File exists"), journal.locked():
        pytest.fail("nothing is locked")


def test_a_journal_that_cannot_be_removed_is_named(journal):
    with journal.locked():
        path_of(journal).mkdir()
        with pytest.raises(Failed, match=rf"{path_of(journal)} cannot be removed: Is a directory"):
            journal.clear()


def test_a_change_that_was_cut_off_is_due(tmp_path):
    directory, cache = str(tmp_path / "postfix"), str(tmp_path)
    assert interrupted(directory, cache, ()) is False
    journal = Journal(directory, cache)
    with journal.locked():
        journal.write([])
    assert interrupted(directory, cache, ()) is True


@pytest.mark.parametrize("left", [".main.cf.old", ".a.cf.old", ".a.cf.new", ".b.cf.new"])
def test_where_the_journal_is_lost_what_is_left_beside_the_files_tells(tmp_path, left):
    """A cache is cleared: the next apply said that all was well, without a reload, and an old password stayed."""
    directory, elsewhere = tmp_path / "postfix", tmp_path / "elsewhere"
    directory.mkdir()
    elsewhere.mkdir()
    (directory / "b.cf").symlink_to(elsewhere / "b.cf")
    (elsewhere / "b.cf").touch()
    files = [str(directory / "a.cf"), str(directory / "b.cf"), "/not/there/c.cf"]
    for name in (".other.cf.old", ".a.cf", ".a.cf.swp", "a.cf.old", ".new", ".old", ".c.cf.new"):
        (directory / name).touch()
    assert not interrupted(str(directory), str(tmp_path), files)
    found = elsewhere if left.startswith(".b") else directory
    (found / left).touch()
    due = [str(found / left[1:-4])]
    journal = Journal(str(directory), str(tmp_path), files)
    assert journal.due() == due and interrupted(str(directory), str(tmp_path), files)
    with journal.locked():
        journal.keep(due)
        (found / left).unlink()
        assert journal.due() == due
        # What is written down says more than what is left.
        journal.write([*due, "/x"])
        journal.keep(due)
        assert journal.due() == [*due, "/x"]
        journal.clear()
        journal.keep(None)
        assert journal.due() is None


def test_the_instances_that_have_a_history(tmp_path):
    """By their directories, links resolved."""
    assert with_history(str(tmp_path)) == []
    (tmp_path / "link").symlink_to(tmp_path / "postfix out%2F")
    for name in ("link", "caf\xe9", "none"):
        journal = Journal(str(tmp_path / name), str(tmp_path))
        with journal.locked():
            journal.write([])
        if name != "none":
            os.mkdir(journal.history)
    assert with_history(str(tmp_path)) == [f"{tmp_path}/caf\xe9", f"{tmp_path}/postfix out%2F"]


def test_a_cache_that_cannot_be_read_is_a_sentence(tmp_path):
    (tmp_path / "postfix_change").write_text("")
    with pytest.raises(Failed, match=r"/postfix_change cannot be read: Not a directory$"):
        with_history(str(tmp_path))
