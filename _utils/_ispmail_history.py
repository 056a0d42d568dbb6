"""What the last changes of one Postfix instance replaced: kept with its secrets, for root only, to go back to it.

An entry is written aside before its change begins, and gets its name by a rename once that is live and checked. So a
full disk stops a change before it is live, one that was put back leaves no entry, and no entry is half-written.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import _ispmail_files
from _ispmail_errors import CannotAsk, Failed
from _ispmail_files import File
from _ispmail_replaced import SEAL, Entry, Replaced, Values

_ASIDE = "pending"
_Kind = TypeVar("_Kind", int, str, bool)
# Greater ones are no IDs of users and groups, and no time that can be shown.
_LAST_ID, _LAST_TIME = 2**32 - 1, 2**36


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
        found = (_read(self._path(number), number) for number in numbers)
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
            self._make_way()
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
                while os.path.lexists(self._path(numbers[0])):
                    numbers[0] += 1
                # Not synced: the journal is deleted later, so a power cut that takes this back leaves the journal too.
                os.rename(self._aside, self._path(numbers[0]))
                self._is_kept = False
            for number in numbers[keep:]:
                os.unlink(self._path(number))
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

    def _make_way(self) -> None:
        """Give a directory that is in our way another name: no file can take its place."""
        for path in (self._aside, _ispmail_files.aside(self._aside)):
            if os.path.isdir(path) and not os.path.islink(path):
                os.rename(path, tempfile.mkdtemp(prefix=f"{_ASIDE}-", dir=self._directory))

    def _path(self, number: int) -> str:
        return os.path.join(self._directory, str(number))

    def _numbers(self) -> list[int]:
        """The numbers of the entries, the highest first; what is no regular file is none."""
        try:
            with os.scandir(self._directory) as found:
                names = [each.name for each in found if each.is_file(follow_symlinks=False)]
        except FileNotFoundError:
            return []
        except OSError as err:
            raise Failed(f"{self._directory} cannot be read: {err.strerror}") from err
        return sorted((int(name) for name in names if re.fullmatch("[1-9][0-9]*", name)), reverse=True)


def _read(path: str, number: int) -> Entry | None:
    """Read an entry; None where it is not there.

    Raises:
        Failed: It cannot be read.
    """
    if os.path.islink(path):
        raise Failed(f"{path} is a link, so that it may be forged: move it away")
    try:
        file = _ispmail_files.read(path)
    except CannotAsk as err:
        raise Failed(f"{err}: move it away") from err
    if file.content is None:
        return None
    # Root writes what is in it where it says: whoever can write it could have any file written.
    if file.uid != os.geteuid() or file.mode & 0o022:
        raise Failed(f"{path} is not of this user alone, so that it may be forged: move it away")
    try:
        return _from_json(json.loads(file.content), number)
    except (AttributeError, ValueError, KeyError, TypeError, RecursionError):
        # No reason is given: it would quote what is in it.
        raise Failed(f"{path} is not as this version writes it: move it away") from None


def _as_json(entry: Entry) -> dict[str, Any]:
    return {
        "made": entry.made,
        "act": entry.act,
        "pillar_key": entry.pillar_key,
        "of_postfix": entry.of_postfix,
        "files": [[_file_as_json(each.before), *each[1:]] for each in entry.files],
        "parameters": entry.parameters,
    }


def _file_as_json(file: File) -> dict[str, Any]:
    text = None if file.content is None else file.content.decode("utf-8", "surrogateescape")
    return {**file._asdict(), "content": text}


def _from_json(found: Mapping[str, Any], number: int) -> Entry:
    """Check an entry as a whole: what is wrong with it would be an error in the middle of a rollback."""
    return Entry(
        number=number,
        made=_whole(found["made"], _LAST_TIME),
        act=_text(found["act"]),
        pillar_key=_text(found["pillar_key"]),
        of_postfix=_of(bool, found["of_postfix"]),
        files=tuple(_replaced_from_json(*each) for each in found["files"]),
        parameters={
            _text(name): Values(_value(before), _value(after), tuple(map(_value, between)))
            for name, (before, after, between) in found["parameters"].items()
        },
    )


def _replaced_from_json(
    before: Mapping[str, Any], after: object, owned: object, told: Mapping[str, Any], between: Iterable[object]
) -> Replaced:
    shown = {_text(name): {which: _value(each[which]) for which in ("old", "new")} for name, each in told.items()}
    return Replaced(_file_from_json(before), _seal(after), _owned(owned), shown, tuple(map(_seal, between)))


def _file_from_json(found: Mapping[str, Any]) -> File:
    path, text = _text(found["path"]), _value(found["content"])
    if not os.path.isabs(path) or "\0" in path:
        raise ValueError
    content = None if text is None else text.encode("utf-8", "surrogateescape")
    return File(path, content, *_owned([found[name] for name in ("uid", "gid", "mode")]))


def _owned(found: Any) -> tuple[int, int, int]:
    uid, gid, mode = found
    return _whole(uid, _LAST_ID), _whole(gid, _LAST_ID), _whole(mode, 0o7777)


def _whole(found: object, last: int) -> int:
    number = _of(int, found)
    if not 0 <= number <= last:
        raise ValueError
    return number


def _seal(found: object) -> str | None:
    seal = _value(found)
    if seal is not None and not re.fullmatch(SEAL, seal):
        raise ValueError
    return seal


def _value(found: object) -> str | None:
    return None if found is None else _text(found)


def _text(found: object) -> str:
    text = _of(str, found)
    # What is no text of ours could be neither shown nor written.
    text.encode("utf-8", "surrogateescape")
    return text


def _of(kind: type[_Kind], found: object) -> _Kind:
    # No truth value is a number.
    if type(found) is not kind:
        raise TypeError
    return found
