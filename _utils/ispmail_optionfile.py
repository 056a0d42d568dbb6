"""The format of option files (my.cnf), as MariaDB's client libraries read them, see mysql(1) and mariadb(1)."""

from __future__ import annotations

from ispmail_errors import Fault

# libmariadb reads a line into a buffer of 4096 bytes. A longer line would become two.
_LONGEST_LINE = 4000
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "s": " ", '"': '"', "'": "'", "\\": "\\"}
# The group of lines that belong to no group, such as !include.
NO_GROUP = ""


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
    text = (content or b"").decode("utf-8", "surrogateescape")
    groups: dict[str, dict[str, str]] = {}
    group = NO_GROUP
    for line in text.split("\n"):
        bare = line.strip()
        if not bare or bare[0] in "#;":
            continue
        if bare[0] == "[":
            group = bare[1:].partition("]")[0].strip()
            groups.setdefault(group, {})
            continue
        name, _, value = bare.partition("=")
        # What includes other files belongs to no group.
        owner = NO_GROUP if bare[0] == "!" else group
        groups.setdefault(owner, {})[name.strip().replace("-", "_")] = _unquoted(value.strip())
    return groups


def other_settings(content: bytes | None, group: str) -> list[str]:
    """Name what an option file sets beside user and password of one group, as ``[group] option``."""
    return [
        f"[{name}] {option.split()[0]}" if name else option.split()[0]
        for name, options in parse(content).items()
        for option in options
        if name != group or option not in ("user", "password")
    ]


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
