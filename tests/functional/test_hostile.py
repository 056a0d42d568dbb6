"""Whatever pillar says, a server refuses it with a clear error, or does what it is for; see hostile.py."""

import contextlib
import re
import subprocess

import pytest

from lab import small_disk
from lab.postfix import write_cold

from .hostile import CANARY, Seen, called, changed, look, run_some, site

FILE = ("maps", "virtual_alias_maps", "file")


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
        ("empty.cf", "no table file"),
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
        ("immutable.cf", "/immutable.cf is immutable or append-only"),
        ("sealed/x.cf", "/sealed is immutable, or on a read-only file system"),
        ("nowhere/x.cf", "is in a directory that does not exist"),
    ],
)
def test_a_dry_run_sees_what_cannot_be_written(server, name, reason):
    assert look(server, [(FILE, name)]) == ("refused", [])
    assert reason in called(server.minion.caller(), "postfix_map.apply", test=True).text


def test_a_dry_run_sees_a_full_disk(server):
    with small_disk(server.directory / "small", "size=1M,mode=755") as folder:
        made = [(FILE, f"{folder}/x.cf")]
        assert look(server, made) == ("done", [])
        with open(folder / "filler", "wb", buffering=0) as filler, contextlib.suppress(OSError):
            while True:
                filler.write(b"x" * 4096)
        assert look(server, made) == ("refused", [])
        said = called(server.minion.caller(), "postfix_map.apply", test=True).text
        assert f"{folder} is on a full file system" in said
        assert [file.name for file in folder.iterdir()] == ["filler"]


@pytest.mark.parametrize("suffix", ["new", "old"])
def test_a_directory_with_the_name_of_a_work_file(server, suffix):
    """The change failed, and each one after it."""
    folder = server.directory / "work"
    side = folder / f".x.cf.{suffix}"
    side.mkdir(parents=True)
    try:
        assert look(server, [(FILE, f"{folder}/x.cf")]) == ("refused", [])
        assert "needed for a moment" in called(server.minion.caller(), "postfix_map.apply", test=True).text
    finally:
        side.rmdir()
        folder.rmdir()


def test_a_file_that_is_mounted(server):
    """It cannot be renamed over."""
    folder = server.directory / "bound"
    folder.mkdir()
    (folder / "x.cf").write_text("hosts = a\ndbname = b\nquery = SELECT 1\n")
    subprocess.run(["mount", "--bind", server.elsewhere, folder / "x.cf"], check=True)
    try:
        assert look(server, [(FILE, f"{folder}/x.cf")])[0] == "refused"
        assert "is a mount point" in called(server.minion.caller(), "postfix_map.apply", test=True).text
    finally:
        subprocess.run(["umount", folder / "x.cf"], check=True)
        (folder / "x.cf").unlink()
        folder.rmdir()


def test_a_live_table_of_another_parameter_is_not_replaced(server):
    """It was: its answers were gone, without a word."""
    server.restore()
    table = server.config / "other.cf"
    write_cold(table, "hosts = 127.0.0.1\ndbname = mailserver\nquery = SELECT 1\n")
    server.postfix.command("postconf", "-e", f"relay_domains = mysql:{table}")
    server.minion.pillar = {"ispmail": changed(server.base, [(FILE, "other.cf")])}
    for test in (True, False):
        said = called(server.minion.caller(), "postfix_map.apply", test=test)
        assert said.kind == "refused"
        assert re.search(r"other\.cf, which is asked by relay_domains.* and not by virtual_alias_maps", said.text)


def test_a_damaged_table_file_that_main_cf_names_is_mended(server):
    server.restore()
    server.minion.pillar = {"ispmail": server.base}
    assert called(server.minion.caller(), "postfix_map.apply").kind == "done"
    table = server.config / "mariadb-virtual-alias-maps.cf"
    whole = table.read_bytes()
    # (A line that is fatal stops postconf itself.)
    for damaged in (b"", b"".join(whole.splitlines(keepends=True)[:2])):
        write_cold(table, damaged.decode(), 0o640, "postfix")
        said = called(server.minion.caller(), "postfix_map.apply")
        assert said.kind == "done", said.text
        assert table.read_bytes() == whole


def test_a_share_of_hostile_pillars(server):
    seen = Seen()
    run_some(server, 200, seen)
    assert not seen.violations, "\n".join(seen.violations)
    assert seen.outcomes["refused"] > 100 and seen.outcomes["done"] > 10


def test_the_harness_sees_what_is_wrong(server, monkeypatch):
    """A change behind the server's back, and a value in a message, are violations."""

    def read(*_):
        server.victim.write_text("changed")
        raise RuntimeError(CANARY)

    monkeypatch.setattr("_ispmail_files.read", read)
    outcome, wrong = look(server, [])
    assert outcome == "unforeseen"
    assert any("it changed" in each for each in wrong) and any("it shows a value" in each for each in wrong)
    assert changed({"a": 1}, [(("a", "b"), 2)]) == {"a": {"b": 2}}
