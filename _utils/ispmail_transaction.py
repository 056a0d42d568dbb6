"""Change one Postfix instance, all or nothing: table files, main.cf, reload, and put back."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TextIO

import ispmail_files
import ispmail_postconf
import ispmail_postfix
from ispmail_errors import ChangedMeanwhile, Failed, IspmailError, NotPutBack
from ispmail_files import Replacement
from ispmail_maincf import same

log = logging.getLogger(__name__)

_LOCK_SECONDS = 60


@dataclass(frozen=True)
class Change:
    """What one change of a Postfix instance consists of."""

    config_directory: str
    cache_directory: str  # where the journal is
    files: tuple[Replacement, ...] = ()
    parameters: Mapping[str, str | None] | None = None  # None takes a parameter out of main.cf
    expected: Mapping[str, str | None] | None = None  # what each parameter must still have, None for not set
    reload: bool = True  # False: nothing in it is Postfix's, which need not be there


def make(change: Change, check: Callable[[bool], None] | None = None) -> list[str]:
    """Replace files and set parameters together, reload Postfix if it runs, check, and put all back if any of it fails.

    Args:
        check: Called last, with whether Postfix runs. It raises an error of ours to have everything put back.

    Returns:
        The processes that still use what they have read before, as `ispmail_postfix.reload` does.

    Raises:
        Failed: Says why, and that everything was put back.
        NotPutBack: It could not be put back.
    """
    directory = change.config_directory
    with _journal(change) as journal:
        old_values = _old_values(change)
        replacements = list(change.files)
        if change.parameters:
            replacements.append(ispmail_postconf.edited(change.parameters, directory))
        before: list[Replacement] = []
        old_processes: list[str] = []
        journal.seek(0)
        ispmail_files.remove_leftovers(journal.read().splitlines())
        _mark(journal, "".join(f"{replacement.path}\n" for replacement in replacements) or "at work\n")
        try:
            before = ispmail_files.replace(replacements)
            running = change.reload and ispmail_postfix.running(directory)
            if running:
                old_processes = ispmail_postfix.reload(directory)
            if check:
                check(running)
        except BaseException as err:
            outcome = _put_back(before, change, old_values)
            if before or isinstance(err, Exception):
                # Otherwise a signal interrupted replace(), perhaps after its renames: the next apply finishes it.
                _mark(journal, "")
            if not isinstance(err, Exception):
                raise
            # The text of an unforeseen error may hold anything.
            reason = str(err) if isinstance(err, IspmailError) else f"unforeseen {type(err).__name__}"
            raise Failed(f"{reason}\n{outcome}") from (err if isinstance(err, IspmailError) else None)
        _mark(journal, "")
    return old_processes


def interrupted(config_directory: str, cache_directory: str) -> bool:
    """Tell whether a change was cut off between its first write and its end (power cut, kill).

    Postfix may not have been reloaded then.
    """
    path = _journal_path(config_directory, cache_directory)
    try:
        return os.path.getsize(path) > 0
    except FileNotFoundError:
        return False
    except OSError as err:
        raise Failed(f"Nothing was changed: {path} cannot be read: {err.strerror}") from err


def _old_values(change: Change) -> dict[str, str | None]:
    """What the parameters of a change have now; refuses one that somebody else has set meanwhile."""
    if not change.parameters:
        return {}
    found = ispmail_postconf.get(list(change.parameters), change.config_directory)
    for name, value in (change.expected or {}).items():
        if not any(same(found.get(name), allowed) for allowed in (value, change.parameters[name])):
            raise ChangedMeanwhile(
                f"{name} in {change.config_directory}/main.cf was changed by somebody else meanwhile, "
                "nothing was written: try again"
            )
    return {name: found.get(name) for name in change.parameters}


def _journal_path(config_directory: str, cache_directory: str) -> str:
    name = urllib.parse.quote(os.path.realpath(config_directory), safe="")
    return os.path.join(cache_directory, "postfix_change", name)


@contextlib.contextmanager
def _journal(change: Change) -> Iterator[TextIO]:
    """One change at a time; yields the journal, which is empty when all is well."""
    path = _journal_path(change.config_directory, change.cache_directory)
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        stream = open(path, "a+", encoding="utf-8", errors="surrogateescape")  # noqa: SIM115  closed below
    except OSError as err:
        raise Failed(f"Nothing was changed: {path} cannot be written: {err.strerror}") from err
    with stream:
        until = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as err:
                if time.monotonic() > until:
                    raise Failed(
                        f"another apply has been at work for {_LOCK_SECONDS} s, nothing was changed: "
                        f"see who holds it with fuser {path}"
                    ) from err
                time.sleep(0.1)
        yield stream


def _mark(journal: TextIO, text: str) -> None:
    journal.truncate(0)
    journal.write(text)
    journal.flush()
    os.fsync(journal.fileno())


def _put_back(before: Sequence[Replacement], change: Change, old_values: Mapping[str, str | None]) -> str:
    """Put everything back as it was, and say so."""
    config_directory = change.config_directory
    if not before:
        return "Nothing was changed, Postfix answers as before."
    began = time.monotonic()
    paths = ", ".join(each.path for each in before)
    replacements = []
    try:
        for each in before:
            now = ispmail_files.read(each.path).content
            # Where somebody else has edited main.cf since, undo our parameters only.
            edited = each.lock and each.still is not None and now not in each.still
            replacements.append(ispmail_postconf.edited(old_values, config_directory) if edited else each)
        ispmail_files.replace(replacements)
        if change.reload and ispmail_postfix.running(config_directory):
            ispmail_postfix.reload(config_directory)
            outcome = "Everything was put back as it was, and Postfix reloaded: it answers as before."
        else:
            outcome = "Everything was put back as it was."
        log.warning("put back in %s: %s, in %.2f s", config_directory, paths, time.monotonic() - began)
        return outcome
    except IspmailError as err:
        log.error("could not put back in %s: %s", config_directory, paths)
        raise NotPutBack(f"It could not be put back ({err}): mail may be affected, look at {paths} now") from err
