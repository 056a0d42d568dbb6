"""What is kept of a change: how it is written, what becomes of it, and what a second change makes of a cut-off one."""

import json
import os
import stat
from pathlib import Path

import pytest

import _ispmail_files
import _ispmail_replaced
from _ispmail_errors import Failed
from _ispmail_files import File
from _ispmail_history import History
from _ispmail_replaced import Entry, Keys, Values

OLD, NEW = b"password = old\xff\n", b"password = new\n"


@pytest.fixture
def history(tmp_path):
    return History(str(tmp_path / "history"))


def entry(*files, act="apply", parameters=None, of_postfix=True):
    return Entry(0, 1_700_000_000, act, "ispmail", of_postfix, tuple(files), parameters or {})


def replaced(path="/etc/postfix/a\udcff.cf", before=OLD, after=NEW, between=()):
    new = File(path, after, 0, 8, 0o600)
    keys = Keys()
    seals = tuple(keys.seal(path, each, None) for each in between)
    return _ispmail_replaced.kept(File(path, before, 0, 7, 0o640), new, keys, seals)


FULL = entry(replaced(), replaced("/b", None), replaced("/c", OLD, None), parameters={"x": Values(None, "y")})


def kept(history, *entries, keep=5):
    for each in entries:
        history.prepare(each, keep)
        history.commit(keep)


def names(history):
    folder = os.path.dirname(history.path)
    return sorted(os.listdir(folder)) if os.path.isdir(folder) else None


def test_what_is_written_is_read(history):
    """Any byte, any name, a file that is not there, and a parameter that is not set."""
    kept(history, FULL)
    assert history.entries(interrupted=False) == [FULL._replace(number=1)]
    assert repr(FULL) == repr(history.entries(interrupted=True)[0]._replace(number=0))
    first, second, third = history.entries(interrupted=False)[0].files
    assert [first.left(each) for each in (NEW, OLD, None)] == [True, False, False]
    assert [second.left(each) for each in (NEW, OLD, None)] == [True, False, False]
    assert [third.left(each) for each in (NEW, OLD, None)] == [False, False, True]


def test_no_secret_of_what_is_new_is_kept(history):
    """The password in use would stand in one more place. Two of the same are not to be seen as such either."""
    folder = os.path.dirname(history.path)
    before = entry(replaced("/a", None, b"password = secret-1\n"), replaced("/b", None, b"password = secret-1\n"))
    after = entry(replaced("/a", b"password = secret-1\n", b"password = secret-2\n", [b"password = secret-3\n"]))
    history.prepare(before, 5)
    assert b"secret" not in Path(history.path).read_bytes()
    history.commit(5)
    kept(history, after)
    written = {name: Path(folder, name).read_bytes() for name in names(history)}
    assert b"secret" not in written["1"] and b"secret-1" in written["2"]
    assert b"secret-2" not in written["2"] and b"secret-3" not in written["2"]
    assert before.files[0].after != before.files[1].after
    assert before.files[0].told == {"password": {"old": None, "new": "***"}}
    assert after.files[0].told == {"password": {"old": "***", "new": "***"}}


def test_only_root_may_read_it(history, tmp_path):
    before = os.umask(0)
    try:
        kept(history, FULL)
        history.prepare(FULL, 5)
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(os.stat(path).st_mode) for path in tmp_path.rglob("*") if path.is_file()}
    assert modes == {0o600} and stat.S_IMODE((tmp_path / "history").stat().st_mode) == 0o700


@pytest.mark.parametrize(("keep", "left"), [(5, "23456"), (2, "56"), (1, "6"), (0, "")])
def test_only_the_newest_are_kept(history, keep, left):
    kept(history, *[FULL] * 5, keep=10)
    kept(history, FULL, keep=keep or 10)
    history.commit(keep)
    assert names(history) == list(left)


def test_the_highest_number_is_the_newest(history):
    kept(history, *[FULL] * 11, keep=3)
    assert [each.number for each in history.entries(interrupted=False)] == [11, 10, 9]


@pytest.mark.parametrize(("keep", "change"), [(0, FULL), (5, entry())])
def test_nothing_is_written_where_nothing_is_to_be_kept(history, keep, change):
    kept(history, change, keep=keep)
    assert names(history) is None and history.entries(interrupted=True) == []
    history.prepare(FULL, 5)
    history.prepare(change, keep)
    assert names(history) == []


def test_what_was_prepared_is_no_entry_until_its_change_is_live(history):
    history.prepare(FULL, 5)
    assert names(history) == ["pending"] and history.entries(interrupted=False) == []
    assert history.entries(interrupted=True) == [FULL._replace(number=1, interrupted=True)]
    history.drop()
    assert names(history) == []
    history.drop()
    history.commit(5)
    assert history.entries(interrupted=True) == []


def test_what_a_kill_has_left_half_written_is_removed(history):
    history.prepare(FULL, 5)
    half = f"{history.path}.new"
    os.rename(history.path, half)
    assert history.entries(interrupted=True) == []
    history.drop()
    assert names(history) == []


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "{}", "[" * 10**5, '{"made": 1, "act": "x", "pillar_key": "x", "of_postfix": true, "files": 5}'],
)
def test_a_damaged_entry_is_named_and_not_quoted(history, content):
    """One that is damaged is no reason to refuse an apply, which asks only for the pending one."""
    kept(history, FULL)
    folder = os.path.dirname(history.path)
    for name in ("1", "pending"):
        with open(os.path.join(folder, name), "w") as stream:
            stream.write(content)
    with pytest.raises(Failed, match=r"history/1 is not as this version writes it: move it away$"):
        history.entries(interrupted=True)
    assert history.interrupted() is None


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (["made"], "x"),
        (["made"], 10**30),
        (["made"], 2**36 + 1),
        (["made"], -1),
        (["made"], True),
        (["made"], 1.5),
        (["act"], [1]),
        (["act"], "\ud800"),
        (["pillar_key"], None),
        (["of_postfix"], 1),
        (["files", 0, 0, "path"], 5),
        (["files", 0, 0, "path"], "etc/passwd"),
        (["files", 0, 0, "path"], "/etc/\0"),
        (["files", 0, 0, "path"], "/etc/\ud800"),
        (["files", 0, 0, "content"], 5),
        (["files", 0, 0, "content"], "\ud800"),
        (["files", 0, 0, "mode"], "rw"),
        (["files", 0, 0, "mode"], 0o10000),
        (["files", 0, 0, "uid"], -1),
        (["files", 0, 0, "gid"], 2**32),
        (["files", 0, 1], "0" * 63),
        (["files", 0, 1], "x" * 64),
        (["files", 0, 2], [0, 0]),
        (["files", 0, 2, 0], None),
        (["files", 0, 3], []),
        (["files", 0, 3], {"query": {"old": "x"}}),
        (["files", 0, 3], {"query": {"old": 5, "new": "x"}}),
        (["files", 0, 4], [5]),
        (["files", 0], []),
        (["parameters", "x", 0], 5),
        (["parameters", "x", 2], [5]),
    ],
    ids=str,
)
def test_a_value_of_another_kind_is_damage_too(history, where, value):
    """Found later it would be a traceback, in the middle of a rollback."""
    kept(history, FULL)
    path = os.path.join(os.path.dirname(history.path), "1")
    with open(path) as stream:
        found = inner = json.load(stream)
    for key in where[:-1]:
        inner = inner[key]
    inner[where[-1]] = value
    with open(path, "w") as stream:
        json.dump(found, stream)
    with pytest.raises(Failed, match="history/1 is not as this version writes it"):
        history.entries(interrupted=False)


@pytest.mark.parametrize(("where", "value"), [("uid", 2**32 - 1), ("gid", 0), ("mode", 0o7777), ("made", 2**36)])
def test_the_greatest_and_least_values_are_no_damage(history, where, value):
    kept(history, FULL)
    path = os.path.join(os.path.dirname(history.path), "1")
    found = json.loads(Path(path).read_text())
    (found if where == "made" else found["files"][0][0])[where] = value
    Path(path).write_text(json.dumps(found))
    (entry,) = history.entries(interrupted=False)
    assert getattr(entry if where == "made" else entry.files[0].before, where) == value


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_an_entry_that_others_can_write_is_not_believed(history, mode):
    """Root writes what it says, wherever it says."""
    kept(history, FULL)
    os.chmod(os.path.join(os.path.dirname(history.path), "1"), mode)
    with pytest.raises(Failed, match="history/1 is not of this user alone, so that it may be forged: move it away"):
        history.entries(interrupted=False)


def test_an_entry_that_others_can_only_read_is_believed(history):
    kept(history, FULL)
    os.chmod(os.path.join(os.path.dirname(history.path), "1"), 0o755)
    assert len(history.entries(interrupted=False)) == 1


def test_a_link_is_not_followed(history):
    """Whoever can write in the directory could have root believe a file of theirs."""
    kept(history, FULL)
    os.symlink("1", history.path)
    assert history.interrupted() is None
    assert [each.number for each in history.entries(interrupted=True)] == [1]


def test_a_new_history_has_nothing_to_commit(history):
    history.commit(5)
    assert names(history) is None


def test_a_new_directory_is_on_the_disk_before_a_change_begins(history, monkeypatch):
    """After a power cut what is kept would be gone with its directory."""
    synced, sync = [], _ispmail_files.sync_directories
    monkeypatch.setattr(_ispmail_files, "sync_directories", lambda paths: (synced.extend(paths), sync(paths)))
    folder = os.path.dirname(history.path)
    history.prepare(FULL, 5)
    history.prepare(FULL, 5)
    assert synced == [folder, history.path, history.path]


def test_the_next_number_that_is_free_is_taken(history):
    kept(history, FULL)
    os.mkdir(os.path.join(os.path.dirname(history.path), "2"))
    kept(history, FULL)
    assert [each.number for each in history.entries(interrupted=False)] == [3, 1]


def test_what_cannot_be_renamed_is_a_sentence(history):
    history.prepare(FULL, 5)
    os.unlink(history.path)
    with pytest.raises(Failed, match=r"^the history in .*history cannot be written: No such file or directory$"):
        history.commit(5)


def test_an_entry_of_somebody_else_is_not_believed(history, monkeypatch):
    kept(history, FULL)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(Failed, match="may be forged"):
        history.entries(interrupted=False)


def test_nobody_can_have_opened_what_is_written_aside(history):
    """Else it would be open to whom it was open before, whatever mode it gets."""
    history.prepare(FULL, 5)
    history.drop()
    aside = _ispmail_files.aside(history.path)
    with open(aside, "w+") as theirs:
        os.chmod(aside, 0o666)
        history.prepare(FULL, 5)
        assert theirs.read() == ""
    assert stat.S_IMODE(os.stat(history.path).st_mode) == 0o600


def test_files_of_others_are_no_entries(history):
    kept(history, FULL)
    folder = os.path.dirname(history.path)
    for name in ("0", "01", "1.bak", "x", "-1"):
        with open(os.path.join(folder, name), "w"):
            pass
    assert [each.number for each in history.entries(interrupted=True)] == [1]


THINGS = {
    "directory": os.mkdir,
    "full directory": lambda path: os.makedirs(os.path.join(path, "x")),
    "link": lambda path: os.symlink("1", path),
    "link to itself": lambda path: os.symlink(path, path),
    "FIFO": os.mkfifo,
}


@pytest.mark.parametrize("thing", THINGS.values(), ids=THINGS)
def test_what_is_no_file_is_neither_followed_nor_in_the_way(history, thing):
    """A directory of that name made each change end with "not finished"."""
    kept(history, FULL)
    folder = os.path.dirname(history.path)
    for name in ("2", "3", "12345678901"):
        thing(os.path.join(folder, name))
    kept(history, *[FULL] * 3, keep=2)
    assert [each.number for each in history.entries(interrupted=False)] == [6, 5]
    for each in (history.path, _ispmail_files.aside(history.path)):
        thing(each)
        assert history.entries(interrupted=True)[0].number == 6 and history.interrupted() is None
    kept(history, FULL, keep=1)
    assert [each.number for each in history.entries(interrupted=True)] == [7]
    # A directory is not ours to delete: it gets another name.
    moved = set(names(history)) - {"2", "3", "12345678901", "7"}
    assert len(moved) == (2 if os.path.isdir(os.path.join(folder, "3")) else 0)


@pytest.mark.parametrize("keep", [0, 5])
def test_what_is_in_the_way_is_no_reason_to_stop_either(history, keep):
    """Also where nothing is kept."""
    folder = os.path.dirname(history.path)
    os.makedirs(os.path.join(history.path, "theirs"))
    history.prepare(FULL, keep)
    history.commit(keep)
    (moved,) = [name for name in names(history) if name.startswith("pending-")]
    assert os.listdir(os.path.join(folder, moved)) == ["theirs"]


def test_a_number_of_any_length_is_one(history):
    kept(history, FULL)
    folder = os.path.dirname(history.path)
    os.rename(os.path.join(folder, "1"), os.path.join(folder, "9" * 20))
    kept(history, FULL, FULL)
    assert [each.number for each in history.entries(interrupted=False)] == [10**20 + 1, 10**20, 10**20 - 1]


def test_one_that_is_too_large_is_named(history):
    kept(history, FULL)
    path = os.path.join(os.path.dirname(history.path), "1")
    os.truncate(path, 2**40)
    with pytest.raises(Failed, match=r"history/1 is no regular file, or larger than 16 MiB: move it away$"):
        history.entries(interrupted=False)
    kept(history, FULL, keep=1)
    assert [each.number for each in history.entries(interrupted=False)] == [2]


@pytest.mark.parametrize("act", ["prepare", "commit", "drop", "entries"])
def test_an_error_of_the_system_is_a_sentence(history, tmp_path, act):
    (tmp_path / "history").write_text("")
    does = {
        "prepare": lambda: history.prepare(FULL, 5),
        "commit": lambda: history.commit(5),
        "drop": history.drop,
        "entries": lambda: history.entries(interrupted=False),
    }
    with pytest.raises(Failed, match=r"cannot be (written|removed|read): (Not a directory|File exists)$"):
        does[act]()


def test_an_entry_that_goes_meanwhile_is_left_out(history, monkeypatch):
    kept(history, FULL, FULL)
    monkeypatch.setattr(history, "_numbers", lambda: [3, 2, 1])
    assert [each.number for each in history.entries(interrupted=False)] == [2, 1]


def test_a_change_that_goes_back_leaves_no_entry(history):
    """Until it is at its end what was cut off stays known: it may be cut off too."""
    back = _ispmail_replaced.kept(FULL.files[0].before, FULL.files[0].before, Keys(), (FULL.files[0].after,))
    history.prepare(FULL, 5)
    history.prepare(entry(back, parameters={"x": Values("a", "a", ("b", None))}), 5)
    (kept,) = history.entries(interrupted=True)
    assert kept.files == (back,) and kept.parameters == {"x": Values("a", "a", ("b", None))}
    history.commit(5)
    assert names(history) == []


def test_an_entry_has_only_what_its_change_has_changed(history):
    back = _ispmail_replaced.kept(FULL.files[0].before, FULL.files[0].before, Keys(), (FULL.files[0].after,))
    kept(history, entry(back, FULL.files[1], parameters={"x": Values("a", "a", ("b",)), "y": Values("a", "b")}))
    (found,) = history.entries(interrupted=True)
    assert (found.files, found.parameters) == ((FULL.files[1],), {"y": Values("a", "b")})
