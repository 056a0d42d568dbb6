"""Names and texts in PostgreSQL's statements."""

import pytest

from _ispmail_errors import InvalidInput
from _ispmail_postgresql_text import literal, quote


def test_names_and_texts_cannot_end_early():
    assert quote('a"; DROP') == '"a""; DROP"'
    assert literal("it's") == "'it''s'"
    assert literal("a\\'b") == "E'a\\\\''b'"
    with pytest.raises(InvalidInput):
        literal("a\0b")
