"""Whatever pillar says, a server refuses it with a clear error, or does what it is for; see hostile.py."""

import contextlib
import subprocess

import pytest

from .hostile import CANARY, Seen, called, changed, look, run_some, site

FILE = ("maps", "virtual_alias_maps", "file")


@contextlib.contextmanager
def full_disk(folder):
    """A file system without room, there."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=755", "tmpfs", str(folder)], check=True)
    try:
        (folder / "filler").write_bytes(b"x" * 61440)
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)
        folder.rmdir()


@pytest.fixture(scope="module")
def server():
    with site() as found:
        yield found


@pytest.mark.parametrize(
    "name, reason",
    [
        ("victim.cf", "no table file"),
        ("link.cf", "no table file"),
        ("foreign.cf", "no table file"),
        ("credentials.cf", "no table file"),
        ("settings.cf", "no table file"),
        ("comments.cf", "no table file"),
        ("dangling.cf", "a link to"),
        ("fifo.cf", "no regular file"),
        ("directory.cf", "no regular file"),
        ("/dev/null", "no regular file"),
        ("/dev/full", "no regular file"),
        ("/proc/self/mem", "cannot be read"),
        ("master.cf", "a file of Postfix's own"),
        ("main.cf.tmp", "a file of each change's own"),
        (".main.cf.new", "a file of each change's own"),
        (".mariadb-virtual-mailbox-maps.cf.new", "a file of each change's own"),
        (".mariadb-virtual-mailbox-maps.cf.old", "a file of each change's own"),
        ("mariadb-virtual-mailbox-maps.cf.before-ispmail", "a file of each change's own"),
        ("x" * 241, "at most 240 bytes"),
        ("\u202e.cf", "must be a file name"),
    ],
)
def test_what_is_no_table_file_is_refused(server, name, reason):
    """It was: the file of another program was replaced, and a removal deleted it."""
    made = [(FILE, name)]
    assert look(server, made) == ("refused", [])
    said = called(server.minion.caller(), "postfix_map.apply").text
    assert "ispmail:maps:virtual_alias_maps:file " in said and reason in said


@pytest.mark.parametrize(
    "name, reason",
    [
        ("immutable.cf", "/immutable.cf is immutable, or on a read-only file system"),
        ("sealed/x.cf", "/sealed is immutable, or on a read-only file system"),
        ("nowhere/x.cf", "is in a directory that does not exist"),
    ],
)
def test_a_dry_run_sees_what_cannot_be_written(server, name, reason):
    assert look(server, [(FILE, name)]) == ("refused", [])
    assert reason in called(server.minion.caller(), "postfix_map.apply", test=True).text


def test_a_dry_run_sees_a_full_disk(server):
    with full_disk(server.directory / "full") as folder:
        assert look(server, [(FILE, f"{folder}/x.cf")]) == ("refused", [])
        said = called(server.minion.caller(), "postfix_map.apply", test=True).text
        assert f"{folder} is on a full file system" in said
        assert [file.name for file in folder.iterdir()] == ["filler"]


def test_a_share_of_hostile_pillars(server):
    seen = Seen()
    run_some(server, 200, seen)
    assert not seen.violations, "\n".join(seen.violations)
    assert seen.outcomes["refused"] > 100 and seen.outcomes["done"] > 10


def test_the_harness_sees_what_is_wrong(server, monkeypatch):
    """A change behind the server's back, and a value in a message, are violations."""

    def read(path):
        server.victim.write_text("changed")
        raise RuntimeError(CANARY)

    monkeypatch.setattr("ispmail_files.read", read)
    outcome, wrong = look(server, [])
    assert outcome == "unforeseen"
    assert any("it changed" in each for each in wrong) and any("it shows a value" in each for each in wrong)
    assert changed({"a": 1}, [(("a", "b"), 2)]) == {"a": {"b": 2}}
