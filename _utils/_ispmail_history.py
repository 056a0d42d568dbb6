"""What the last changes of one Postfix instance replaced: kept with its secrets, for root only, to go back to it.

Of what a change has written no secret is kept, only what tells whether a file is still as the change left it. An entry
is written aside before its change begins, and gets its name by a rename once that is live and checked. So a full disk
stops a change before it is live, one that was put back leaves no entry, and no entry is half-written.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

import _ispmail_files
import _ispmail_optionfile
import _ispmail_tablefile
from _ispmail_errors import CannotAsk, Failed, repr_without
from _ispmail_files import File
from _ispmail_maincf import same

_ASIDE = "pending"
_Kind = TypeVar("_Kind", int, str, bool)
# Bytes of a seal: of its key, of the part of the key that is not kept, and of the hash.
_KEY, _LOST, _HASH = 16, 2, 16
# Greater ones are no IDs of users and groups, and no time that can be shown.
_LAST_ID, _LAST_TIME = 2**32 - 1, 2**36


class Replaced(NamedTuple):
    """A file as it was before a change, and what is known of it after that."""

    before: File
    after: str | None  # the seal of what is in it, None where there is no file
    owned: tuple[int, int, int]  # its user, group and mode then
    told: Mapping[str, Mapping[str, str | None]]  # what of its content differs, as people are told it: without secrets
    between: tuple[str | None, ...] = ()  # the seals of what changes that were cut off may have left in it

    def __repr__(self) -> str:
        return repr_without(self, "after", "between")

    @property
    def differs(self) -> bool:
        """Whether the change changes it."""
        if self.before.content is None or self.after is None:
            return (self.before.content is None) != (self.after is None)
        return bool(self.told) or self.owned != (self.before.uid, self.before.gid, self.before.mode)

    def left(self, content: bytes | None) -> bool:
        """Whether the change left the file like that. None: there is none."""
        return _is_sealed(self.before.path, content, self.after)

    def may_hold(self, content: bytes | None) -> bool:
        """Whether the file may be like that if the change was cut off."""
        before = self.before
        return content == before.content or any(
            _is_sealed(before.path, content, seal) for seal in (self.after, *self.between)
        )


class Keys:
    """The keys of the seals of one change: files with the same password have one, so that a reader finds it once."""

    def __init__(self) -> None:
        self._of_passwords: dict[str, bytes] = {}

    def seal(self, path: str, content: bytes | None, password: str | None) -> str | None:
        """What tells content again, and does not tell what it is; None where there is no file.

        Args:
            password: The one in the content, if any.

        A part of the key is thrown away. So this takes one hash, and each guess, ours included, up to 65,536 of them:
        whoever reads an entry and tries passwords would else try a thousand million a second.
        """
        if content is None:
            return None
        key = os.urandom(_KEY + _LOST)
        # Only those: who knew what is in one file would know the key of the others.
        if password:
            key = self._of_passwords.setdefault(password, key)
        return (key[:_KEY] + _hashed(path, content, key)).hex()


# The whole keys that were found in this process, by the part that is kept.
_found: dict[bytes, bytes] = {}


def _is_sealed(path: str, content: bytes | None, seal: str | None) -> bool:
    if content is None or seal is None:
        return content is None and seal is None
    key, wanted = bytes.fromhex(seal[: 2 * _KEY]), bytes.fromhex(seal[2 * _KEY :])
    every = (key + lost.to_bytes(_LOST, "big") for lost in range(256**_LOST))
    for each in [_found[key]] if key in _found else every:
        if _hashed(path, content, each) == wanted:
            _found[key] = each
            return True
    return False


def _hashed(path: str, content: bytes, key: bytes) -> bytes:
    # With the path: else two of the same content would be seen as such.
    return hashlib.blake2b(os.fsencode(path) + b"\0" + content, digest_size=_HASH, key=key).digest()


def kept(before: File, after: File, keys: Keys, between: tuple[str | None, ...] = ()) -> Replaced:
    """What is kept of a file that becomes another one.

    Args:
        keys: Those of the change.
        between: The seals of what changes that were cut off may have left in it.
    """
    told: dict[str, dict[str, str | None]] = {}
    now = _shown_keys(after.content)
    if after.content is not None and before.content != after.content:
        told = _ispmail_tablefile.diff(_shown_keys(before.content), now)
        if before.content is not None and not told:
            told = {"layout": {"old": "another", "new": "another"}}
    seal = keys.seal(before.path, after.content, now.get("password"))
    return Replaced(before, seal, (after.uid, after.gid, after.mode), told, between)


def _shown_keys(content: bytes | None) -> dict[str, str]:
    """The keys of a table file, or the login of an option file."""
    if logins := _ispmail_optionfile.logins(content):
        return {key: value for login in logins for key, value in login.items()}
    return _ispmail_tablefile.parse(content)


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
    pillar_key: str  # of the instance
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
    nothing: tuple[str | None, ...] = ()
    files = {each.path: (_ispmail_files.on_disk(each), each, nothing) for each in new}
    values = dict(parameters)
    for was in earlier.files if earlier else ():
        path = was.before.path
        now = _ispmail_files.on_disk(was.before)
        _, then, _ = files.get(path, (now, now, nothing))
        # Else somebody else has written it since: that is what is replaced.
        if was.may_hold(now.content):
            files[path] = (was.before, then, (was.after, *was.between))
    set_now = held() if earlier and earlier.parameters else {}
    for name, value in earlier.parameters.items() if earlier else ():
        current = values.get(name) or Values(set_now.get(name), set_now.get(name))
        if any(same(current.before, one) for one in (value.before, value.after, *value.between)):
            values[name] = Values(value.before, current.after, (value.after, *value.between))
    keys = Keys()
    every = [kept(before, after, keys, between) for before, after, between in files.values()]
    return (
        tuple(each for each in every if each.differs or each.between),
        {name: value for name, value in values.items() if value.differs or value.between},
    )


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
    if seal is not None and not re.fullmatch(f"[0-9a-f]{{{2 * (_KEY + _HASH)}}}", seal):
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
