"""What a change replaces, what a second change makes of one that was cut off, and what a seal tells."""

import os
import re
import time

import pytest

import _ispmail_files
import _ispmail_replaced
from _ispmail_files import File
from _ispmail_replaced import Entry, Keys, Values

OLD, NEW, OTHER, FIRST = b"password = old\xff\n", b"password = new\n", b"password = third\n", b""


def kept(content):
    """What is kept of a table file that is new."""
    return _ispmail_replaced.kept(File("/a", None), File("/a", content), Keys())


def seal(keys, path, content):
    return _ispmail_replaced.kept(File(path, None), File(path, content), keys).after


def test_to_guess_what_is_new_takes_long():
    """As long as many hashes, for whoever has read an entry; to write it takes one."""
    found = kept(b"password = secret\n")
    began = time.process_time()
    assert not found.left(b"password = guess\n")
    guess, began = time.process_time() - began, time.process_time()
    kept(b"password = secret\n")
    assert guess > 20 * (time.process_time() - began)


def test_to_know_many_files_again_takes_no_longer_than_one():
    """A rollback of 300 maps took ten seconds for that alone. One that was changed since is told as fast."""
    keys, before = Keys(), File("/etc/postfix/a.cf", None, 0, 7, 0o640)
    contents = [b"password = secret\nquery = %d\n" % number for number in range(300)]
    files = [_ispmail_replaced.kept(before, before._replace(content=each), keys) for each in contents]
    began = time.process_time()
    assert not kept(NEW).left(b"password = guess\n")
    guess, began = time.process_time() - began, time.process_time()
    assert all(each.left(content) for each, content in zip(files, contents))
    assert not any(each.left(content + b"#") for each, content in zip(files, contents))
    assert time.process_time() - began < 3 * guess


def test_what_is_in_one_file_does_not_help_to_guess_what_is_in_another_one():
    """Its key is found by that: only files that hold the same password have one."""
    keys = Keys()
    contents = [b"password = secret\n", b"password = other\n", b"dbpath = /x\n", b"dbpath = /y\n", b"password =\n", b""]
    assert len({seal(keys, "/a", each)[:32] for each in contents}) == len(contents)
    assert seal(keys, "/b", contents[0])[:32] == seal(keys, "/a", b"[client]\npassword = secret\n")[:32]
    assert seal(keys, "/b", contents[0]) != seal(keys, "/a", contents[0])
    assert seal(Keys(), "/a", contents[0])[:32] != seal(keys, "/a", contents[0])[:32]


OPTIONS = b'user = x\n[client]\nuser = "u"\npassword = "p"\n'


def test_a_seal_has_the_form_that_is_kept():
    """Of an entry that was written by another version, too. It is of the path, and of a key of its own."""
    seals = [seal(Keys(), "/a", OLD), seal(Keys(), "/a", OLD), seal(Keys(), "/b", OLD)]
    assert all(re.fullmatch("[0-9a-f]{64}", each) and re.fullmatch(_ispmail_replaced.SEAL, each) for each in seals)
    assert not re.fullmatch(_ispmail_replaced.SEAL, seals[0][1:]) and not re.fullmatch(_ispmail_replaced.SEAL, "x" * 64)
    assert len({each[32:] for each in seals}) == 3
    keys = Keys()
    assert keys.seal("/a", b"b", "password")[32:] != keys.seal("/ab", b"", "password")[32:]


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (None, b"user = u\n", {"user": {"old": None, "new": "u"}}),
        (b"user = u\n", b"user = v\npassword = x\n", {"user": {"old": "u", "new": "v"}, "password": "***"}),
        (OPTIONS, OPTIONS.replace(b"u", b"v", 1), {"layout": {"old": "another", "new": "another"}}),
        (OPTIONS, OPTIONS.replace(b'"u"', b"v"), {"user": {"old": "u", "new": "v"}}),
        (b"user = u\n", b"# more\nuser = u\n", {"layout": {"old": "another", "new": "another"}}),
        (b"user = u\n", b"user = u\n", {}),
        (None, b"", {}),
        (b"user = u\n", None, {}),
    ],
)
def test_what_people_are_told_of_a_file(before, after, told):
    """Without a secret, and that something differs also where no key does."""
    found = _ispmail_replaced.kept(File("/a", before), File("/a", after), Keys()).told
    assert found == {key: {"old": None, "new": each} if each == "***" else each for key, each in told.items()}


def test_an_entry_has_only_what_its_change_changes():
    same, new = (_ispmail_replaced.kept(File("/a", OLD), File("/a", each), Keys()) for each in (OLD, NEW))
    found = Entry(1, 2, "apply", "x", True, (same, new), {"x": Values("a", "a"), "y": Values("a", "b")})
    assert found.differing == found._replace(files=(new,), parameters={"y": Values("a", "b")})
    assert not found.interrupted


def test_no_value_is_in_a_traceback():
    """main.cf may hold a password, and a seal is one to guess at."""
    file = _ispmail_replaced.kept(File("/a", OLD), File("/a", NEW), Keys(), ("5ea1",))
    value = Values("secret-1", "secret-2", ("secret-3",))
    shown = repr([file, value, Entry(1, 2, "apply", "x", True, (file,), {"p": value})])
    assert "secret" not in shown and "5ea1" not in shown and file.after not in shown
    assert "/a" in shown and "apply" in shown and "'p'" not in shown


@pytest.fixture
def files(tmp_path):
    """A function that writes a file and gives its path."""

    def write(name, content):
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        return str(path)

    return write


def becomes(path, content):
    return File(path, content, os.getuid(), os.getgid(), 0o644)


def told(new=(), parameters=None, earlier=None, held=None):
    found, values = _ispmail_replaced.replaced(new, parameters or {}, earlier, lambda: held or {})
    return [(each.before.content, content_of(each)) for each in found], values


def test_main_cf_is_read_only_where_a_change_that_was_cut_off_had_to_do_with_it():
    def held():
        pytest.fail("it is read")

    for earlier in (None, Entry(1, 2, "apply", "x", True, (), {})):
        assert _ispmail_replaced.replaced([], {}, earlier, held) == ((), {})


def content_of(each):
    """What a seal is of, of all that is here."""
    (content,) = [one for one in (OLD, NEW, OTHER, FIRST, None) if each.left(one)]
    return content


def test_what_a_change_replaces(files):
    """Not what it leaves as it is."""
    same = _ispmail_files.read(files("same", OLD))
    new = [becomes(files("a", OLD), NEW), same, becomes(files("b", None), NEW), becomes(files("c", OLD), None)]
    new += [same._replace(mode=same.mode ^ 0o040), File(files("gone", None), None, 1, 1, 1)]
    values = {"x": Values("a,  b", "a, b"), "y": Values("a", "b"), "z": Values(None, None)}
    assert told(new, values) == ([(OLD, NEW), (OLD, OLD), (None, NEW), (OLD, None)], {"y": Values("a", "b")})


@pytest.mark.parametrize(
    ("now", "then", "before"),
    [
        # The change that was cut off had replaced it, and this one finishes that, or does not touch it, or goes back;
        # or an even earlier one that was cut off had.
        (NEW, OTHER, (OLD, OTHER)),
        (NEW, NEW, (OLD, NEW)),
        (NEW, None, (OLD, NEW)),
        (NEW, OLD, (OLD, OLD)),
        (FIRST, NEW, (OLD, NEW)),
        (FIRST, None, (OLD, FIRST)),
        # It had not come so far.
        (OLD, NEW, (OLD, NEW)),
        (OLD, None, (OLD, OLD)),
        # Somebody else has written it since.
        (OTHER, NEW, (OTHER, NEW)),
        (OTHER, None, None),
    ],
)
def test_a_change_that_finishes_another_one(files, now, then, before):
    """Files and parameters alike: to go back is to go to what was there before either. None: not touched."""
    path = files("a", now)
    owned = _ispmail_files.read(path)
    first = seal(Keys(), path, FIRST)
    file = _ispmail_replaced.kept(owned._replace(content=OLD), owned._replace(content=NEW), Keys(), (first,))
    value = Values(str(OLD), str(NEW), (str(FIRST),))
    earlier = Entry(0, 1_700_000_000, "apply", "ispmail", True, (file,), {"x": value})
    new = [] if then is None else [owned._replace(content=then)]
    values = {} if then is None else {"x": Values(str(now), str(then))}
    found, values = told(new, values, earlier, {"x": str(now)})
    assert found == ([before] if before else [])
    between = () if now == OTHER else (str(NEW), str(FIRST))
    assert values == ({"x": Values(*map(str, before), between)} if before else {})
