"""The format of option files (my.cnf), as MariaDB's client libraries read them, see mysql(1) and mariadb(1)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from _ispmail_errors import Fault

# libmariadb reads a line into a buffer of 4096 bytes. A longer line would become two.
_LONGEST_LINE = 4000
# What it strips: isspace(3) in the C locale. Python's own strip() takes more.
_BLANKS = " \t\n\v\f\r"
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "s": " ", '"': '"', "'": "'", "\\": "\\"}
# The groups that MariaDB's library reads for every client.
_CLIENT_GROUPS = ("client", "client-server", "client-mariadb")
# The group of lines that belong to no group, such as !include.
NO_GROUP = ""
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,40}")


def render(group: str, user: str, password: str) -> str:
    """Write an option file with a login. Newlines and NUL, which pillar may not have either, are not escaped."""
    return f'[{group}]\nuser="{_escaped(user)}"\npassword="{_escaped(password)}"\n'


def faults(user: str, password: str) -> list[Fault]:
    """List what an option file cannot hold."""
    return [
        Fault(f"database:{key}", "is too long for an option file", f"take {_LONGEST_LINE} bytes at the most")
        for key, value in (("user", user), ("password", password))
        if len(_escaped(value).encode("utf-8", "surrogateescape")) > _LONGEST_LINE
    ]


def parse(content: bytes | None) -> dict[str, dict[str, str]]:
    """Read the groups of an option file, each option to its value. The last of two wins. None: there is no file."""
    groups: dict[str, dict[str, str]] = {}
    for group, name, value in _lines(content):
        groups.setdefault(group, {})
        if name:
            groups[group][name] = _unquoted(value or "")
    return groups


def logins(content: bytes | None) -> list[dict[str, str]]:
    """The logins in an option file, each with its ``user`` and ``password``; none in anything else."""
    found: dict[str, dict[str, str]] = {}
    for group, name, value in _lines(content):
        if group != NO_GROUP and name in ("user", "password"):
            found.setdefault(group, {})[name] = _unquoted(value or "")
    return [each for each in found.values() if len(each) == 2]


def login_steps(content: bytes | None, group: str) -> Iterator[tuple[str, str]]:
    """Yield what decides which user a client library takes, in the order of the file.

    Args:
        content: That of an option file. None: there is no file.
        group: The group that is read beside those of all clients.

    Yields:
        ``user`` with its value, or ``include`` and ``includedir`` with their path.
    """
    for owner, name, value in _lines(content):
        how, _, path = name.partition(" ")
        if how in ("!include", "!includedir"):
            yield how[1:], path.strip()
        elif owner != NO_GROUP and owner in (*_CLIENT_GROUPS, group) and name == "user" and value is not None:
            yield "user", _unquoted(value)


def other_settings(content: bytes | None, group: str) -> list[str]:
    """Name what an option file sets beside user and password of one group, as ``[group] option``.

    A line that sets nothing may be anything, a password too: it is not shown.
    """
    found = []
    for owner, name, value in _lines(content):
        if not name or (owner == group and name in ("user", "password") and value is not None):
            continue
        shown = name if value is not None and _NAME.fullmatch(name) else "a line"
        shown = name.split()[0] if name.split()[0] in ("!include", "!includedir") else shown
        place = f"[{owner if _NAME.fullmatch(owner) else '***'}] " if owner else ""
        found.append(f"{place}{shown}")
    return list(dict.fromkeys(found))


def _lines(content: bytes | None) -> Iterator[tuple[str, str, str | None]]:
    """Group, option and value of each line; an empty option where a group begins, None where there is no value."""
    group = NO_GROUP
    for line in (content or b"").decode("utf-8", "surrogateescape").split("\n"):
        bare = line.partition("\0")[0].strip(_BLANKS)
        if not bare or bare[0] in "#;":
            continue
        if bare[0] == "[":
            group = bare[1:].partition("]")[0].rstrip(_BLANKS)
            yield group, "", None
            continue
        if bare[0] == "!":
            # What includes other files belongs to no group.
            yield NO_GROUP, bare, None
            continue
        name, equals, value = bare.partition("=")
        yield group, name.strip(_BLANKS).replace("-", "_"), value.strip(_BLANKS) if equals else None


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"')


def _unquoted(value: str) -> str:
    """What a value stands for: one pair of quotes is taken off, escapes are replaced."""
    if value[:1] in ("'", '"'):
        value = value[1:-1] if len(value) > 1 and value[-1] in "'\"" else value[1:]
    found = []
    characters = iter(value)
    for character in characters:
        if character != "\\":
            found.append(character)
            continue
        escape = next(characters, "")
        found.append(_ESCAPES.get(escape, f"\\{escape}"))
    return "".join(found)
