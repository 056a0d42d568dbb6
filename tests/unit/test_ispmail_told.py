"""What is told once."""

import pytest

import _ispmail_told


@pytest.fixture
def tell(tmp_path):
    """A function that has a text to tell, and gives how often that was done so far."""
    told = []

    def once(text, folder=tmp_path / "folder", name="name"):
        _ispmail_told.once(str(folder), name, text, lambda: told.append(text))
        return len(told)

    return once


def test_a_text_is_told_once_and_an_empty_one_is_where_it_begins(tell):
    assert [tell(text) for text in ("", "one", "one", "two", "", "", "two")] == [0, 1, 1, 2, 3, 3, 4]


def test_each_name_has_a_text_of_its_own(tell):
    assert tell("one") == 1 and tell("one", name="other") == 2 and tell("one") == 2


def test_it_is_kept_for_root_and_in_utf_8(tell, tmp_path):
    tell("\N{LATIN SMALL LETTER U WITH DIAERESIS}")
    folder = tmp_path / "folder"
    assert folder.stat().st_mode & 0o777 == 0o700 and (folder / "name").read_bytes() == b"\xc3\xbc"
    (folder / "name").write_bytes(b"\xc3")  # as a full disk cuts it off
    assert tell("one") == 2


def test_no_name_leads_out_of_the_folder(tell, tmp_path):
    assert tell("one", name="faults-../../x") == 1
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["faults-..%2F..%2Fx"]


def test_what_cannot_be_remembered_is_told_again(tell, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    assert tell("one", tmp_path / "file") == 1 and tell("one", tmp_path / "file") == 2
    assert "cannot be read, a failure may be reported twice: NotADirectoryError" in caplog.text
    assert "cannot be written, a failure may be reported twice: " in caplog.text


def test_what_cannot_be_told_is_told_the_next_time(tmp_path):
    def fail():
        raise OSError

    with pytest.raises(OSError):
        _ispmail_told.once(str(tmp_path), "name", "one", fail)
    told = []
    _ispmail_told.once(str(tmp_path), "name", "one", lambda: told.append(1))
    assert told == [1]
