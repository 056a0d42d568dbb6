"""What the last changes of one Postfix instance replaced: kept with its secrets, for root only, to go back to it.

An entry is written aside before its change begins, and gets its name by a rename once that is live and checked. So a
full disk stops a change before it is live, one that was put back leaves no entry, and no entry is half-written.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

import _ispmail_files
from _ispmail_errors import Failed, repr_without
from _ispmail_files import File
from _ispmail_maincf import same

_ASIDE = "pending"
_Kind = TypeVar("_Kind", int, str, bool)


class Replaced(NamedTuple):
    """A file as it was before a change, and after it."""

    before: File
    after: File
    between: tuple[bytes | None, ...] = ()  # what changes that were cut off may have left in it

    def __repr__(self) -> str:
        return repr_without(self, "between")

    @property
    def differs(self) -> bool:
        """Whether the change changes it."""
        return self.before != self.after and not self.before.content is self.after.content is None


class Values(NamedTuple):
    """A parameter of main.cf before a change, and after it; None: not set."""

    before: str | None
    after: str | None
    between: tuple[str | None, ...] = ()  # what changes that were cut off may have set it to

    def __repr__(self) -> str:
        return repr_without(self, "before", "after", "between")

    @property
    def differs(self) -> bool:
        """Whether the change changes it."""
        return not same(self.before, self.after)


class Entry(NamedTuple):
    """What one change replaced."""

    number: int  # by which an admin names it; the newest has the highest
    made: int  # when, in seconds since 1970
    act: str  # such as apply
    of_postfix: bool  # False: only files of other programs
    files: tuple[Replaced, ...]
    parameters: Mapping[str, Values]
    interrupted: bool = False  # the change was cut off, and the next one finishes it

    def __repr__(self) -> str:
        return repr_without(self, "parameters")

    @property
    def differing(self) -> Entry:
        """The entry without what the change has left as it was."""
        files = tuple(each for each in self.files if each.differs)
        parameters = {name: each for name, each in self.parameters.items() if each.differs}
        return self._replace(files=files, parameters=parameters)


def replaced(
    new: Iterable[File],
    parameters: Mapping[str, Values],
    earlier: Entry | None,
    held: Callable[[], Mapping[str, str]],
) -> tuple[tuple[Replaced, ...], dict[str, Values]]:
    """Tell what a change replaces. One that finishes an earlier one replaces what was there before that.

    Args:
        new: What files become.
        parameters: The same of main.cf, with what they are now.
        earlier: What the change that was cut off was to replace.
        held: Reads what main.cf sets now.
    """
    files = {each.path: Replaced(_ispmail_files.read(each.path), each) for each in new}
    values = dict(parameters)
    for was in earlier.files if earlier else ():
        path = was.before.path
        now = files.get(path) or _as_it_is(path)
        # Else somebody else has written it since: that is what is replaced.
        if now.before.content in (was.before.content, was.after.content, *was.between):
            files[path] = Replaced(was.before, now.after, (was.after.content, *was.between))
    set_now = held() if earlier and earlier.parameters else {}
    for name, value in earlier.parameters.items() if earlier else ():
        current = values.get(name) or Values(set_now.get(name), set_now.get(name))
        if any(same(current.before, one) for one in (value.before, value.after, *value.between)):
            values[name] = Values(value.before, current.after, (value.after, *value.between))
    return (
        tuple(each for each in files.values() if each.differs or each.between),
        {name: value for name, value in values.items() if value.differs or value.between},
    )


def _as_it_is(path: str) -> Replaced:
    file = _ispmail_files.read(path)
    return Replaced(file, file)


class History:
    """The entries of one instance, in a directory of its own."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._aside = os.path.join(directory, _ASIDE)
        self._is_kept = False

    @property
    def path(self) -> str:
        """What is written before a change."""
        return self._aside

    def entries(self, interrupted: bool) -> list[Entry]:
        """Read all entries, the newest first.

        Args:
            interrupted: Whether a change was cut off: what it was to replace is an entry too.

        Raises:
            Failed: One cannot be read.
        """
        numbers = self._numbers()
        newest = self.interrupted(numbers) if interrupted else None
        found = (_read(os.path.join(self._directory, str(number)), number) for number in numbers)
        # One may have been deleted since they were listed.
        return [*filter(None, [newest]), *(each.differing for each in found if each)]

    def interrupted(self, numbers: Iterable[int] = ()) -> Entry | None:
        """Read what a change that was cut off was to replace; None where that is not known.

        Args:
            numbers: Those of the other entries.
        """
        # A damaged history is no reason to refuse the apply that mends all else.
        with contextlib.suppress(Failed):
            found = _read(self._aside, max(numbers, default=0) + 1)
            return found and found._replace(interrupted=True)
        return None

    def prepare(self, entry: Entry, keep: int) -> None:
        """Write down what is about to be replaced, where anything is and is to be kept.

        Raises:
            Failed: It cannot be written.
        """
        changed = entry.differing
        self._is_kept = keep > 0 and bool(changed.files or changed.parameters)
        try:
            # Until the end also where a change goes back to what was there before another one that was cut off.
            if keep and (entry.files or entry.parameters):
                if not os.path.isdir(self._directory):
                    os.mkdir(self._directory, 0o700)
                    _ispmail_files.sync_directories([self._directory])
                _ispmail_files.write_aside(self._aside, json.dumps(_as_json(entry)).encode("ascii"))
            else:
                self._forget()
        except OSError as err:
            raise Failed(f"Nothing was changed: {self._aside} cannot be written: {err.strerror}") from err

    def commit(self, keep: int) -> None:
        """Make an entry of what was prepared, and delete all but the newest ones.

        Raises:
            Failed: It cannot be renamed, or an older one not be deleted.
        """
        numbers = self._numbers()
        try:
            if not self._is_kept:
                self._forget()
            else:
                numbers.insert(0, max(numbers, default=0) + 1)
                os.rename(self._aside, os.path.join(self._directory, str(numbers[0])))
                self._is_kept = False
            for number in numbers[keep:]:
                os.unlink(os.path.join(self._directory, str(number)))
            if numbers:
                _ispmail_files.sync_directories([self._aside])
        except OSError as err:
            raise Failed(f"the history in {self._directory} cannot be written: {err.strerror}") from err

    def drop(self) -> None:
        """Forget what was prepared.

        Raises:
            Failed: It cannot be removed.
        """
        self._is_kept = False
        try:
            self._forget()
        except OSError as err:
            raise Failed(f"{self._aside}, which may hold a password, cannot be removed: {err.strerror}") from err

    def _forget(self) -> None:
        for path in (self._aside, _ispmail_files.aside(self._aside)):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    def _numbers(self) -> list[int]:
        """The numbers of the entries, the highest first."""
        try:
            names = os.listdir(self._directory)
        except FileNotFoundError:
            return []
        except OSError as err:
            raise Failed(f"{self._directory} cannot be read: {err.strerror}") from err
        return sorted((int(name) for name in names if re.fullmatch("[1-9][0-9]{0,8}", name)), reverse=True)


def _read(path: str, number: int) -> Entry | None:
    """Read an entry; None where it is not there.

    Raises:
        Failed: It cannot be read.
    """
    file = _ispmail_files.read(path)
    if file.content is None:
        return None
    # Root writes what is in it where it says: whoever can write it could have any file written.
    if file.uid != os.geteuid() or file.mode & 0o022:
        raise Failed(f"{path} is not of this user alone, so that it may be forged: move it away")
    try:
        return _from_json(json.loads(file.content), number)
    except (AttributeError, ValueError, KeyError, TypeError):
        # No reason is given: it would quote what is in it.
        raise Failed(f"{path} is not as this version writes it: move it away") from None


def _as_json(entry: Entry) -> dict[str, Any]:
    return {
        "made": entry.made,
        "act": entry.act,
        "of_postfix": entry.of_postfix,
        "files": [
            [_file_as_json(each.before), _file_as_json(each.after), [_text(one) for one in each.between]]
            for each in entry.files
        ],
        "parameters": entry.parameters,
    }


def _file_as_json(file: File) -> dict[str, Any]:
    return {**file._asdict(), "content": _text(file.content)}


def _text(content: bytes | None) -> str | None:
    return None if content is None else content.decode("utf-8", "surrogateescape")


def _from_json(found: Mapping[str, Any], number: int) -> Entry:
    return Entry(
        number=number,
        made=_of(int, found["made"]),
        act=_of(str, found["act"]),
        of_postfix=_of(bool, found["of_postfix"]),
        files=tuple(
            Replaced(_file_from_json(before), _file_from_json(after), tuple(map(_content, between)))
            for before, after, between in found["files"]
        ),
        parameters={
            name: Values(_value(before), _value(after), tuple(map(_value, between)))
            for name, (before, after, between) in found["parameters"].items()
        },
    )


def _file_from_json(found: Mapping[str, Any]) -> File:
    return File(
        _of(str, found["path"]), _content(found["content"]), *(_of(int, found[key]) for key in ("uid", "gid", "mode"))
    )


def _content(text: str | None) -> bytes | None:
    value = _value(text)
    return None if value is None else value.encode("utf-8", "surrogateescape")


def _value(found: object) -> str | None:
    return None if found is None else _of(str, found)


def _of(kind: type[_Kind], found: object) -> _Kind:
    if not isinstance(found, kind):
        raise TypeError
    return found
