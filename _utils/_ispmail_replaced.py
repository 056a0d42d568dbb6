"""What a change replaces: what is kept of it, and seals that tell whether a file is still as it left it.

Of what a change has written no secret is kept, only a seal: that tells it again, and a guess at it takes long.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import _ispmail_files
import _ispmail_optionfile
import _ispmail_tablefile
from _ispmail_errors import repr_without
from _ispmail_files import File
from _ispmail_maincf import same

# Bytes of a seal: of its key, of the part of the key that is not kept, and of the hash.
_KEY, _LOST, _HASH = 16, 2, 16
# What a seal is written as.
SEAL = f"[0-9a-f]{{{2 * (_KEY + _HASH)}}}"


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
