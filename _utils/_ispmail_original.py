"""The copy that is kept of a table file that somebody else wrote, without its passwords. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection

import _ispmail_tablefile
from _ispmail_hosts import BLANKS
from _ispmail_tablefile import OBSOLETE, SCHEMA, SECRET, shown_key

SUFFIX = ".before-ispmail"
_TELLS_A_SECRET = re.compile(r"(?i)pass|pw|secret")


def is_handmade(content: bytes) -> bool:
    """Tell whether a table file has comments, keys or a layout that no apply has written."""
    keys = _ispmail_tablefile.parse(content)
    lines = [f"{key} = {keys[key]}".rstrip(" ") for key in SCHEMA if key in keys]
    written = "".join(f"{line}\n" for line in lines)
    return written.encode("utf-8", "surrogateescape") != content


def comments(content: bytes) -> int:
    """Count the lines that are comments."""
    return sum(line.lstrip(BLANKS.encode()).startswith(b"#") for line in content.split(b"\n"))


def without_secrets(content: bytes) -> bytes:
    """Put a comment in place of each line that holds, or may hold, a secret."""
    text = content.decode("utf-8", "surrogateescape")
    logical = _ispmail_tablefile.logical_lines(text)
    passwords = {
        found[1] for _, line in logical if (found := _ispmail_tablefile.assignment(line)) and _is_password(found)
    }
    passwords.discard("")
    starts = {number: _left_out(line, passwords) for number, line in logical}
    kept: list[str] = []
    # What is indented before the first key may be anything.
    left_out = "a line"
    for number, line in enumerate(text.split("\n"), 1):
        bare = line.strip(BLANKS)
        if number in starts:
            left_out = starts[number]
            kept.append(f"# {left_out} was left out of this copy" if left_out else line)
        elif bare.startswith("#"):
            tells = _TELLS_A_SECRET.search(bare) or any(password in bare for password in passwords)
            kept.append("# a comment that may hold a password was left out of this copy" if tells else line)
        elif not bare or not left_out:
            kept.append(line)
    return "\n".join(kept).encode("utf-8", "surrogateescape")


def _is_password(assignment: tuple[str, str]) -> bool:
    return assignment[0] in SCHEMA and SCHEMA[assignment[0]].secret


def _left_out(line: str, passwords: Collection[str]) -> str:
    """Name what a logical line holds, if a copy may not hold it; else nothing."""
    found = _ispmail_tablefile.assignment(line)
    if not found:
        return "a line"
    key, value = found
    is_secret = any(password in value for password in passwords)
    is_secret = is_secret or _ispmail_tablefile.redact({key: value})[key] == SECRET
    is_secret = is_secret or (key in OBSOLETE and _TELLS_A_SECRET.search(value) is not None)
    return shown_key(key) if is_secret else ""
