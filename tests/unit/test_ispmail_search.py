"""The search of files: what it leaves out and tells of, and that one look says whether a spelling may follow."""

import os
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

import _ispmail_search
from _ispmail_spellings import spellings


@given(st.text(min_size=1))
def test_every_spelling_has_the_core(secret):
    """Files without it are not looked at any further."""
    assert all(_ispmail_search._core(secret) in spelling for spelling in spellings(secret))


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
    assert _ispmail_search.unsearchable(secret, ["mailserver"]).startswith(reason)
    assert bool(_ispmail_search.unsearchable(secret, ["mailserver"])) == bool(reason)


def test_files_and_what_is_left_out(tmp_path):
    for path in ("a/one", "a/b/two", "c/three", "c/four"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("x = one-Secret1;" if path != "c/four" else "nothing")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    trees = [str(tmp_path), str(tmp_path / "link"), str(tmp_path / "none")]
    found = _ispmail_search.search(["one-Secret1"], [str(tmp_path / "a" / "b")], trees)
    # The second tree is a link to one that is inside the first.
    assert set(found.found) == {str(tmp_path / "a" / "one"), str(tmp_path / "c" / "three")}
    assert (found.unsearched, found.notes) == ({}, ())


@pytest.mark.parametrize(("limit", "value"), [("_SECONDS", -1), ("_FILES", 1), ("_ALL_BYTES", 3)])
def test_a_limit_is_told(tmp_path, monkeypatch, limit, value):
    for number in range(3):
        (tmp_path / str(number)).write_text("some text")
    monkeypatch.setattr(_ispmail_search, limit, value)
    unsearched = _ispmail_search.search(["one-Secret1"], [], [str(tmp_path)]).unsearched
    assert unsearched[str(tmp_path)].startswith(f"{tmp_path} and what comes after it was not searched: more than ")


def test_what_cannot_be_read_is_told(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(_ispmail_search.os, "open", refuse)
    assert _ispmail_search.search(["one-Secret1"], [], [str(tmp_path)]).unsearched == {
        str(tmp_path / "file"): f"{tmp_path / 'file'} cannot be read: Permission denied"
    }


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    """A folder of jobs, and a function that puts one of a user into it."""
    folder = tmp_path / "jobs"
    folder.mkdir()
    monkeypatch.setattr(_ispmail_search, "JOBS", (str(folder),))

    def put(name, content, uid=1000):
        (folder / name).write_bytes(content)
        os.chown(folder / name, uid, uid)
        return str(folder / name)

    return put


def searched(tmp_path):
    return _ispmail_search.search(["one-Secret1"], [], [str(tmp_path)])


@pytest.mark.parametrize(("uid", "is_fault"), [(1000, False), (0, True)])
def test_a_large_job_of_a_user_is_a_note(tmp_path, jobs, uid, is_fault):
    """As a fault it let any local user stop every rotation."""
    path = jobs("large", b"x" * (_ispmail_search._LARGEST + 1), uid)
    found = searched(tmp_path)
    assert bool(found.unsearched) == is_fault
    if not is_fault:
        assert found.notes == (f"1 job of users too large, or too many: {path}",)


@pytest.mark.parametrize(("limit", "value"), [("_JOB_FILES", 3), ("_JOB_BYTES", 10)])
def test_jobs_of_users_do_not_use_up_the_limits(tmp_path, jobs, monkeypatch, limit, value):
    for number in range(9):
        jobs(f"a{number}", b"some text")
    mine = jobs("root", b"one-Secret1", uid=0)
    monkeypatch.setattr(_ispmail_search, limit, value)
    monkeypatch.setattr(_ispmail_search, "_FILES", 5)
    found = searched(tmp_path)
    assert (found.found, found.unsearched) == ((mine,), {})
    assert "jobs of users too large, or too many: " in found.notes[0]


def test_files_of_root_come_first(tmp_path, jobs):
    theirs = [jobs(f"a{number}", b"one-Secret1") for number in range(60)]
    mine = jobs("root", b"one-Secret1", uid=0)
    assert searched(tmp_path).found == (mine, *sorted(theirs))


def test_where_is_searched():
    """As docs/rotation.md says."""
    assert set(_ispmail_search.TREES) == {
        *("/etc", "/usr/local/bin", "/usr/local/sbin", "/usr/local/etc", "/var/spool/cron")
    }
    assert _ispmail_search.JOBS == ("/var/spool/cron",)


MOST = 16 * 2**20
SECRET = "one-Secret1"


def sized(path, size, end=b""):
    """A file of so many bytes, which takes no place on the disk."""
    with open(path, "wb") as stream:
        stream.truncate(size - len(end))
        stream.seek(0, os.SEEK_END)
        stream.write(end)
    return str(path)


@pytest.mark.parametrize(
    ("limit", "value", "said"),
    [
        ("_SECONDS", -1, "-1 s, 50,000 files or 512 MiB"),
        ("_FILES", 2, "20 s, 2 files or 512 MiB"),
        ("_ALL_BYTES", 2 * 2**20, "20 s, 50,000 files or 2 MiB"),
    ],
)
def test_the_limits_of_a_search(tmp_path, monkeypatch, limit, value, said):
    """What reaches a limit is searched, and what comes after it is not."""
    for name in "ab":
        sized(tmp_path / name, 2**20, SECRET.encode())
    monkeypatch.setattr(_ispmail_search, limit, value)
    found = _ispmail_search.search([SECRET], [], [str(tmp_path)])
    if limit != "_SECONDS":
        assert (len(found.found), found.unsearched) == (2, {})
        sized(tmp_path / "c", 2**20, SECRET.encode())
        found = _ispmail_search.search([SECRET], [], [str(tmp_path)])
        if limit == "_ALL_BYTES":
            assert (len(found.found), found.unsearched) == (3, {})
            sized(tmp_path / "d", 1)
            found = _ispmail_search.search([SECRET], [], [str(tmp_path)])
    text = f"{tmp_path} and what comes after it was not searched: more than {said}"
    assert found.unsearched == {str(tmp_path): text}


def test_a_large_file_is_searched_to_its_end_and_a_larger_one_is_told(tmp_path):
    whole = sized(tmp_path / "a", MOST, SECRET.encode())
    larger = sized(tmp_path / "b", MOST + 1, SECRET.encode())
    found = _ispmail_search.search([SECRET], [], [str(tmp_path)])
    assert (found.found, found.notes) == ((whole,), ())
    assert found.unsearched == {larger: f"{larger} is larger than 16 MiB"}


def test_what_is_compressed_or_compiled_is_a_note(tmp_path):
    names = [f"a.{suffix}" for suffix in ("bz2", "gz", "xz", "zip", "zst")]
    for name in names[:3]:
        (tmp_path / name).write_text(SECRET)
    program = tmp_path / "program"
    program.write_bytes(b"\x7fELF" + SECRET.encode())
    os.truncate(program, MOST + 1)
    shown = ", ".join(str(tmp_path / name) for name in names[:3])
    for more in ("", " and 1 more", " and 2 more"):
        if more:
            (tmp_path / names[2 + int(more.split()[1])]).write_text(SECRET)
        found = _ispmail_search.search([SECRET], [], [str(tmp_path)])
        assert (found.found, found.unsearched) == ((), {})
        assert found.notes == (
            f"{len(os.listdir(tmp_path)) - 1} compressed files cannot be searched: {shown}{more}",
            f"1 compiled program cannot be searched: {program}",
        )


def test_links_and_folders_that_have_gone_are_no_faults(tmp_path):
    (tmp_path / "file").write_text(SECRET)
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "link").symlink_to(tmp_path / "file")
    trees = [str(tmp_path / "tree"), str(tmp_path / "file")]
    assert _ispmail_search.search([SECRET], [], trees) == ((), {}, ())


def test_a_part_of_a_password_is_no_password(tmp_path):
    (tmp_path / "file").write_text("Secret1")
    assert _ispmail_search.search([SECRET], [], [str(tmp_path)]).found == ()
    assert _ispmail_search._core(SECRET) == _ispmail_search._core("Secret1-two") == b"Secret1"


def test_a_folder_that_cannot_be_read_is_told(tmp_path, monkeypatch):
    """Its path is longer than the kernel takes."""
    monkeypatch.chdir(tmp_path)
    for _ in range(45):
        os.mkdir("x" * 100)
        os.chdir("x" * 100)
    ((path, said),) = _ispmail_search.search([SECRET], [], [str(tmp_path)]).unsearched.items()
    assert len(path) > 4095 and said == f"{path} cannot be read: File name too long"


def test_a_file_that_has_become_something_else_is_not_read(tmp_path):
    """Since its folder was read: gone, a FIFO that nobody writes to, a link, a device without an end."""
    (tmp_path / "file").write_text(SECRET)
    (tmp_path / "link").symlink_to(tmp_path / "file")
    os.mkfifo(tmp_path / "fifo")
    state = _ispmail_search._State(time.monotonic() + 60)
    for path in ("/dev/zero", tmp_path / "gone", tmp_path / "fifo"):
        _ispmail_search._look(str(path), [(b"Secret1", (SECRET.encode(),))], state)
    assert (state.found, state.unsearched) == ([], {})
    _ispmail_search._look(str(tmp_path / "link"), [(b"Secret1", (SECRET.encode(),))], state)
    assert state.found == [] and "cannot be read" in state.unsearched[str(tmp_path / "link")]


def test_jobs_of_users_have_limits_of_their_own(tmp_path, jobs):
    """As docs/rotation.md says: 2,000 files and 64 MiB together."""
    for number in range(2000):
        jobs(f"a{number:04}", b"")
    assert searched(tmp_path).notes == ()
    last = jobs("b", b"")
    assert searched(tmp_path).notes == (f"1 job of users too large, or too many: {last}",)


def test_jobs_of_users_may_have_64_mib_together(tmp_path, jobs):
    for name in "abcd":
        sized(jobs(name, b""), MOST)
    found = jobs("e", SECRET.encode())
    left = jobs("f", SECRET.encode())
    assert (searched(tmp_path).found, searched(tmp_path).notes) == (
        (found,),
        (f"1 job of users too large, or too many: {left}",),
    )
