"""The search of files: what it leaves out and tells of, and that one look says whether a spelling may follow."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ispmail_search
from ispmail_spellings import spellings


@given(st.text(min_size=1))
def test_every_spelling_has_the_core(secret):
    """Files without it are not looked at any further."""
    assert all(ispmail_search._core(secret) in spelling for spelling in spellings(secret))


@pytest.mark.parametrize(
    ("secret", "reason"),
    [
        ("", "it has less than 6 characters"),
        ("abc12", "it has less than 6 characters"),
        ("mailserver", "it is the name of the account or of the database"),
        ("abc123", ""),
    ],
)
def test_what_cannot_be_searched_for(secret, reason):
    assert ispmail_search.unsearchable(secret, ["mailserver"]).startswith(reason)
    assert bool(ispmail_search.unsearchable(secret, ["mailserver"])) == bool(reason)


def test_files_and_what_is_left_out(tmp_path):
    for path in ("a/one", "a/b/two", "c/three", "c/four"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("x = one-Secret1;" if path != "c/four" else "nothing")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    trees = [str(tmp_path), str(tmp_path / "link"), str(tmp_path / "none")]
    found = ispmail_search.search(["one-Secret1"], [str(tmp_path / "a" / "b")], trees)
    # The second tree is a link to one that is inside the first.
    assert set(found.found) == {str(tmp_path / "a" / "one"), str(tmp_path / "c" / "three")}
    assert (found.unsearched, found.notes) == ({}, ())


@pytest.mark.parametrize(("limit", "value"), [("_SECONDS", -1), ("_FILES", 1), ("_ALL_BYTES", 3)])
def test_a_limit_is_told(tmp_path, monkeypatch, limit, value):
    for number in range(3):
        (tmp_path / str(number)).write_text("some text")
    monkeypatch.setattr(ispmail_search, limit, value)
    unsearched = ispmail_search.search(["one-Secret1"], [], [str(tmp_path)]).unsearched
    assert unsearched[str(tmp_path)].startswith(f"{tmp_path} and what comes after it was not searched: more than ")


def test_what_cannot_be_read_is_told(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(ispmail_search.os, "open", refuse)
    assert ispmail_search.search(["one-Secret1"], [], [str(tmp_path)]).unsearched == {
        str(tmp_path / "file"): f"{tmp_path / 'file'} cannot be read: Permission denied"
    }


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    """A folder of jobs, and a function that puts one of a user into it."""
    folder = tmp_path / "jobs"
    folder.mkdir()
    monkeypatch.setattr(ispmail_search, "JOBS", (str(folder),))

    def put(name, content, uid=1000):
        (folder / name).write_bytes(content)
        os.chown(folder / name, uid, uid)
        return str(folder / name)

    return put


def searched(tmp_path):
    return ispmail_search.search(["one-Secret1"], [], [str(tmp_path)])


@pytest.mark.parametrize(("uid", "is_fault"), [(1000, False), (0, True)])
def test_a_large_job_of_a_user_is_a_note(tmp_path, jobs, uid, is_fault):
    """As a fault it let any local user stop every rotation."""
    path = jobs("large", b"x" * (ispmail_search._LARGEST + 1), uid)
    found = searched(tmp_path)
    assert bool(found.unsearched) == is_fault
    if not is_fault:
        assert found.notes == (f"1 job of users too large, or too many: {path}",)


@pytest.mark.parametrize(("limit", "value"), [("_JOB_FILES", 3), ("_JOB_BYTES", 10)])
def test_jobs_of_users_do_not_use_up_the_limits(tmp_path, jobs, monkeypatch, limit, value):
    for number in range(9):
        jobs(f"a{number}", b"some text")
    mine = jobs("root", b"one-Secret1", uid=0)
    monkeypatch.setattr(ispmail_search, limit, value)
    monkeypatch.setattr(ispmail_search, "_FILES", 5)
    found = searched(tmp_path)
    assert (found.found, found.unsearched) == ((mine,), {})
    assert "jobs of users too large, or too many: " in found.notes[0]


def test_files_of_root_come_first(tmp_path, jobs):
    theirs = [jobs(f"a{number}", b"one-Secret1") for number in range(60)]
    mine = jobs("root", b"one-Secret1", uid=0)
    assert searched(tmp_path).found == (mine, *sorted(theirs))
