"""Names and texts in statements, as PostgreSQL reads them. It takes no placeholders where we need none."""

from __future__ import annotations

from _ispmail_errors import InvalidInput


def quote(name: str) -> str:
    """Write a name as SQL has it."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Write a text as SQL has it, whatever standard_conforming_strings is.

    Raises:
        InvalidInput: It has a NUL, which no text of PostgreSQL can have.
    """
    if "\0" in text:
        raise InvalidInput("a text in PostgreSQL cannot have a NUL")
    quoted = "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"
    return f"E{quoted}" if "\\" in text else quoted
