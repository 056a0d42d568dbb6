"""The search of files: what it leaves out and tells of, and that one look says whether a spelling may follow."""

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
    assert (found.unsearched, found.notes) == ((), ())


@pytest.mark.parametrize(("limit", "value"), [("_SECONDS", -1), ("_FILES", 1), ("_ALL_BYTES", 3)])
def test_a_limit_is_told(tmp_path, monkeypatch, limit, value):
    for number in range(3):
        (tmp_path / str(number)).write_text("some text")
    monkeypatch.setattr(ispmail_search, limit, value)
    (sentence,) = ispmail_search.search(["one-Secret1"], [], [str(tmp_path)]).unsearched
    assert sentence.startswith(f"{tmp_path} and what comes after it was not searched: more than ")


def test_what_cannot_be_read_is_told(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(ispmail_search, "_content", refuse)
    assert ispmail_search.search(["one-Secret1"], [], [str(tmp_path)]).unsearched == (
        f"{tmp_path / 'file'} cannot be read: Permission denied",
    )
