"""Passwords of every kind, end to end: right where they are right, refused where they are wrong, never told."""

import pytest

from .passwords import CLASSES, MAPS, WORDS, Seen, cannot_be_written, of_classes, run, site
from .test_apply import everything, managed


def test_a_share_of_all_passwords():
    """
    A password of each class, and pieces of what our tools themselves say.

    `fatal`, `:`, `a`, `p`, `t` and `postmap` once hid that they are wrong, and `1` showed itself: `***27.0.0.***`.
    """
    classes = list(of_classes(len(CLASSES)))
    refused = [each for each in classes if cannot_be_written(each)]
    count = 2 * (MAPS + 1)
    usable = [each for each in dict.fromkeys([*classes, *WORDS]) if not cannot_be_written(each)][:count]
    seen = Seen()
    with site() as found:
        run(found, [*refused, *refused[::-1], *usable], seen, with_doctor=False)
    assert not seen.violations, "\n".join(seen.violations)
    assert seen.outcomes["right where right"] == seen.outcomes["refused where wrong"] == count
    assert seen.outcomes["refused as such"] >= 3


@pytest.mark.parametrize("password", [123456, 1.5, True, None, ["a"], "*" * 10], ids=str)
def test_what_is_no_text_is_refused(minion, postfix, pillar, password):
    """YAML reads 0123 as 83 and yes as True; Salt 3008 hands ********** to a module that asks in the wrong way."""
    before = everything(postfix)
    minion.pillar = pillar(database={"password": password})
    result = managed(minion)
    assert "ispmail:database:password is " in result["comment"]
    assert password is None or str(password) not in result["comment"].replace("database:password", "")
    assert result["result"] is False
    assert everything(postfix) == before
