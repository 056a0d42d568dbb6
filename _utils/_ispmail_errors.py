"""The errors of the library, and the faults of pillar. Every text is for an admin and holds no secret."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

# A port, other hosts behind a comma, a path and parameters, as in //h:5432,h2:5433/d?user=a@b: no password.
_PORT = r"[0-9]{1,5}(?:,[^,:/?@]*(?::[0-9]{1,5})?)*/[^:?@]*\?"
# A login in a word that ends at its last @, so that the search takes linear time. Before its colon it has no slash and
# no comma; behind it may be anything, also what a program cannot use. In //%s:x@y Postfix fills in the user.
_LOGIN = re.compile(rf"(?s)(?<=://)(?!%[sSuUdD1-9]:)[^:/,]*(?::(?!{_PORT}).*)?@")
_BLANKS = r" \t\n\v\f\r"
_WORD = re.compile(rf"[^{_BLANKS}]+")
# The name of a password, up to the value: one look at each word, so that this takes linear time too.
_NAMED = rf"\b(?=\w*(?:pass|pwd))\w+[{_BLANKS}]*[=:]"
_NAMES_PASSWORD = re.compile(rf"(?i){_NAMED}")
_PARAMETER = re.compile(rf"(?i)[?&]{_NAMED}")
# With its value. A parameter of a URI ends at &; else as in a connect string of libpq, with quotes of both kinds.
_PASSWORD = re.compile(
    rf"(?is)(([?&])?{_NAMED}[{_BLANKS}]*)"
    rf"(?(2)[^&{_BLANKS}]+"
    rf"""|(?:[^'"\\{_BLANKS}]+|\\.?|'(?:[^'\\]+|\\.?)*'?|"(?:[^"\\]+|\\.?)*"?)+)"""
)


class IspmailError(Exception):
    """The base of all errors of the library."""


class InvalidInput(IspmailError):
    """An argument or pillar is wrong. Salt gets it as SaltInvocationError."""


class Failed(IspmailError):
    """What was asked for could not be done. Salt gets it, and all below, as CommandExecutionError."""


class CannotAsk(Failed):
    """A program, a file or a server could not be asked."""


class ChangedMeanwhile(Failed):
    """Somebody else has changed a file since it was read; nothing was written."""


class NotPutBack(Failed):
    """A change failed, and the server could not be put back as it was: mail may be affected."""


class DatabaseError(CannotAsk):
    """The database server, or the way to it, refused.

    `number` is the server's error number, or the SQLSTATE of a PostgreSQL; 0 or empty where there is none.
    """

    def __init__(self, text: str, number: int | str = 0) -> None:
        super().__init__(text)
        self.number = number


class Fault(NamedTuple):
    """One fault of one key: the reason, and what to do about it."""

    key: str
    reason: str
    fix: str = ""

    def __str__(self) -> str:
        sentence = f"{self.key} {self.reason}"
        return f"{sentence}: {self.fix}" if self.fix else sentence

    def at(self, key: str) -> Fault:
        """The same fault of another key, such as the pillar key that a table's key comes from."""
        return self._replace(key=key)


def has_uri(value: object) -> bool:
    """Tell whether a value of pillar is a URI of Salt's sdb, or a list that holds one."""
    if isinstance(value, (list, tuple)):
        return any(map(has_uri, value))
    return isinstance(value, str) and value.startswith("sdb://")


class PillarFault(InvalidInput):
    """Pillar is wrong: lists all faults at once."""

    def __init__(self, pillar_key: str, faults: Iterable[Fault]) -> None:
        self.faults = tuple(dict.fromkeys(faults))
        super().__init__(listed("Pillar has errors, nothing was changed", below(pillar_key, self.faults)))


def besides(known: Iterable[Fault], more: Iterable[Fault]) -> list[Fault]:
    """Add faults to known ones, without those of a key that has one already, by itself or by an item of its list.

    So a value that sdb does not have is not told as a missing one too.
    """
    found = list(known)
    return [*found, *(fault for fault in more if not any(f"{each.key}:".startswith(f"{fault.key}:") for each in found))]


def below(pillar_key: str, faults: Iterable[Fault]) -> list[str]:
    """Write faults as sentences: the only place that puts the pillar key before a fault's own key."""
    return [f"{pillar_key}:{fault}" for fault in faults]


def kind_of(err: BaseException) -> str:
    """Say of an unforeseen error what it is, and the system's reason for it; the rest of its text may hold anything."""
    reason = err.strerror if isinstance(err, OSError) else None
    return f"{type(err).__name__} ({reason})" if reason else type(err).__name__


def repr_without(value: NamedTuple, *secret: str) -> str:
    """Write a value without its fields that hold a secret: a traceback, or a careless log line, may print any value."""
    shown = ", ".join(f"{name}={part!r}" for name, part in zip(value._fields, value) if name not in secret)
    return f"{type(value).__name__}({shown})"


def listed(head: str, lines: Iterable[str]) -> str:
    """Write a heading and a list, one line each."""
    return "\n- ".join([f"{head}:", *lines])


def plural(number: int, noun: str) -> str:
    """Write a number of things: ``1 map``, ``3 maps``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def has_been(number: int, done: str, test: bool) -> str:
    """Say what was done with a number of things: ``has been set``, ``have been set``; in a dry run ``would be set``."""
    verb = "would be" if test else "has been" if number == 1 else "have been"
    return f"{verb} {done}"


def printable(text: str) -> str:
    """Make one line of a text that others chose. What a terminal would act on becomes a blank or a ``?``."""
    return "".join(char if char.isprintable() else "?" for char in " ".join(text.splitlines()))


def readable(text: str) -> str:
    """Replace what was not UTF-8 where it was read, and is kept as surrogates: a text with these cannot be sent."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


def escaped(text: str) -> str:
    """Write a path for programs: what cannot be printed, or is no UTF-8, with backslashes."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def without_logins(text: str) -> str:
    """Put ``***`` in place of each login in a URI, with or without a password, and of each password that has a name."""
    return _PASSWORD.sub(r"\1***", without_uri_logins(text))


def without_uri_logins(text: str) -> str:
    """Put ``***`` in place of each login in a URI."""
    return _WORD.sub(_without_login, text)


def _without_login(word: re.Match[str]) -> str:
    before, at, rest = word[0].rpartition("@")
    return _LOGIN.sub("***@", before + at) + rest


def holds_login(text: str) -> bool:
    """Tell whether a text has a URI that may hold a password, in its login or as a parameter."""
    heads = ("".join(word.rpartition("@")[:2]) for word in _WORD.findall(text))
    return any(":" in login for head in heads for login in _LOGIN.findall(head)) or _PARAMETER.search(text) is not None


def names_password(text: str) -> bool:
    """Tell whether a text has a password by its name, as in ``password = x`` and ``PassWd: x``."""
    return _NAMES_PASSWORD.search(text) is not None
