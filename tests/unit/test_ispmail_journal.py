"""The journal of changes: what it says of work that is due, also where it was cut off itself."""

import os
import threading

import pytest

import ispmail_journal
from ispmail_errors import Failed
from ispmail_journal import Journal


@pytest.fixture
def journal(tmp_path):
    return Journal("/etc/postfix", str(tmp_path))


def files(tmp_path):
    return {path.name: path.read_bytes() for path in (tmp_path / "postfix_change").iterdir() if path.is_file()}


def test_what_is_written_is_due_until_it_is_cleared(journal):
    assert journal.due() is None
    with journal.locked():
        for paths in (["/etc/postfix/a.cf", "/etc/postfix/\udcff.cf"], []):
            journal.write(paths)
            assert journal.due() == paths
        journal.clear()
        assert journal.due() is None
        journal.clear()


@pytest.mark.parametrize(("content", "due"), [("", None), ("/etc/postfix/a.cf\n", ["/etc/postfix/a.cf"]), ("x\n", [])])
def test_the_journal_of_another_version(journal, tmp_path, content, due):
    """Version 0.1.0 left an empty file where nothing was due, and had no first line."""
    with journal.locked():
        (tmp_path / "postfix_change" / "%2Fetc%2Fpostfix").write_text(content)
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


def test_a_journal_that_cannot_be_read_is_not_empty(journal, tmp_path):
    (tmp_path / "postfix_change" / "%2Fetc%2Fpostfix").mkdir(parents=True)
    with pytest.raises(Failed, match="cannot be read"):
        journal.due()


def test_one_at_a_time_with_an_empty_workspace(journal, tmp_path, monkeypatch):
    monkeypatch.setattr(ispmail_journal, "_LOCK_SECONDS", 0.3)
    with journal.locked():
        (tmp_path / "postfix_change" / "%2Fetc%2Fpostfix.work" / "copy").write_text("a password")
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
        Journal("/etc/postfix", str(tmp_path / "file")).locked(),
    ):
        pass
