"""Go back to what Postfix had before an earlier change: all or nothing, asked first, checked, and put back."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import _ispmail_answers
import _ispmail_apply
import _ispmail_files
import _ispmail_inventory
import _ispmail_journal
import _ispmail_logins
import _ispmail_optionfile
import _ispmail_postconf
import _ispmail_postfix
import _ispmail_remove
import _ispmail_replaced
import _ispmail_transaction
from _ispmail_answers import staged, unaskable, wrong_answers
from _ispmail_config import Answer, CompleteInstance, CompleteMap, Instance
from _ispmail_config_consumers import Consumers
from _ispmail_errors import Failed, InvalidInput, listed
from _ispmail_files import File, Replacement
from _ispmail_history import History
from _ispmail_inventory import Inventory
from _ispmail_maincf import differing, same
from _ispmail_plan import Outcome, finished, ownership_changes
from _ispmail_replaced import Entry, Keys, Replaced, Values
from _ispmail_transaction import Change

log = logging.getLogger(__name__)

_GOES_FORWARD = (
    "pillar was not changed: the next apply of it goes forward again, also one that nobody types (the reactor after a "
    "change or refusal of credentials, a schedule, a highstate): change pillar now, or stop those"
)


class _Back(NamedTuple):
    """A file as it is, and as it will be."""

    now: File
    then: File


@dataclass(frozen=True)
class _KeptMap(CompleteMap):
    """A map with a table file that was kept, whatever is in it."""

    content: bytes = field(default=b"", repr=False)

    @property
    def text(self) -> str:
        """The table file."""
        return self.content.decode("utf-8", "surrogateescape")


def last_changed_by(pillar_key: str, cache_directory: str) -> list[str]:
    """The directories of the Postfix instances whose last change was by this pillar key.

    Raises:
        CannotAsk: We are not root.
        Failed: A history cannot be read.
    """
    _ispmail_files.require_root()
    newest = {each: _entries(each, cache_directory)[:1] for each in _ispmail_journal.with_history(cache_directory)}
    return [directory for directory, entries in newest.items() for each in entries if each.pillar_key == pillar_key]


def history(instance: Instance, consumers: Consumers, cache_directory: str) -> list[dict[str, Any]]:
    """Tell what the last changes replaced, the newest first, without secrets.

    Args:
        consumers: Other programs that log in with the maps' account.
        cache_directory: Where the journal and the history are.

    Raises:
        CannotAsk: We are not root.
        Failed: It cannot be read.
    """
    names = _names(instance, consumers)
    return [
        {
            "entry": str(each.number),
            "when": _when(each),
            "act": f"{each.act} (cut off)" if each.interrupted else each.act,
            "changes": _described(each.files, each.parameters, names, instance.config_directory),
        }
        for each in (entry.differing for entry in _entries(instance.config_directory, cache_directory))
    ]


def rollback(
    instance: Instance,
    consumers: Consumers,
    answers: Sequence[Answer],
    entry: object,
    cache_directory: str,
    test: bool = False,
    *,
    directories: Collection[str] = (),
) -> Outcome:
    """Bring table files, main.cf and option files to what they were before an earlier change, and all since.

    Each table file is asked before it goes live, and each login of an option file is tried.

    Args:
        consumers: Other programs that log in with the maps' account, and where.
        answers: What pillar expects: it speaks of what is undone, so another answer is a warning.
        entry: The number of the change; None for the newest one.
        cache_directory: Where the journal and the history are.
        test: Whether only to tell what would be done.
        directories: Those of all instances of pillar: another one may ask a table file that goes.

    Raises:
        InvalidInput: There is no such entry.
        Failed: Somebody else has changed what would be replaced, a map could not be asked, a login is refused, or a
            file could not be written. Everything is as before then.
    """
    began = time.monotonic()
    entries = _entries(instance.config_directory, cache_directory)
    chosen = _chosen(entries, entry, instance.config_directory)
    undone = entries[: entries.index(chosen) + 1]
    values = _values_to_be(undone, instance.config_directory)
    files, left = _files_to_be(undone)
    warnings = [*left, *_probe_logins(files, consumers)]
    keys = Keys()
    replaced = [_ispmail_replaced.kept(each.now, each.then, keys) for each in files]
    owned = tuple(_names(instance, consumers))
    interrupted = _ispmail_journal.interrupted(instance.config_directory, cache_directory, owned)
    parameters = {name: value.after for name, value in values.items()}
    change = Change(
        instance.config_directory,
        cache_directory,
        tuple(Replacement(each.then, still=(each.now.content,)) for each in files),
        parameters,
        {name: value.before for name, value in values.items()},
        act=f"rollback to {chosen.number}",
        keep=instance.history,
        pillar_key=instance.pillar_key,
        owned=owned,
    )
    changes = _described(replaced, values, _names(instance, consumers), instance.config_directory)
    running = False
    if not files and not values and not interrupted:
        warnings.append(f"nothing was changed, all is as it was before change {chosen.number}")
    else:
        if any(each.of_postfix for each in undone) or (
            interrupted and _ispmail_postfix.is_there(instance.config_directory)
        ):
            warned, running = _change_postfix(instance, answers, change, files, test, directories)
            warnings += warned
        elif test:
            _ispmail_transaction.rehearse(change)
        else:
            _ispmail_transaction.make(change)
        if not test:
            log.info("%s in %s, in %.2f s", change.act, change.config_directory, time.monotonic() - began)
        warnings.append(_GOES_FORWARD)
    if interrupted:
        changes["postfix"] = finished(running)
    return Outcome(changes, 0, tuple(dict.fromkeys(warnings)), running)


def _entries(config_directory: str, cache_directory: str) -> list[Entry]:
    _ispmail_files.require_root()
    journal = _ispmail_journal.Journal(config_directory, cache_directory)
    return History(journal.history).entries(journal.due() is not None)


def _chosen(entries: Sequence[Entry], entry: object, config_directory: str) -> Entry:
    if not entries:
        raise InvalidInput(
            f"there is nothing to go back to: the history of the Postfix in {config_directory} is empty "
            "(it begins with the next change; with ispmail:history 0 in pillar nothing is kept)"
        )
    if entry is None:
        return entries[0]
    for each in entries:
        # Not to compare texts: that of a long number is an error.
        if entry == str(each.number) or (entry == each.number and not isinstance(entry, bool)):
            return each
    known = ", ".join(f"{each.number} ({each.act}, {_when(each)})" for each in entries)
    raise InvalidInput(f"the history has no such entry, nothing was changed: it has {known}")


def _when(entry: Entry) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(entry.made))


def _files_to_be(undone: Sequence[Entry]) -> tuple[list[_Back], list[str]]:
    """The files that differ from what they were before these changes, as they are and as they will be.

    Returns:
        Them, and warnings of new option files: their programs log in by them.

    Raises:
        Failed: Somebody else has changed one, or could change one meanwhile.
    """
    found: dict[str, tuple[File, Replaced, bool]] = {}
    for entry in undone:
        for each in entry.files:
            # From the newest to the oldest: what was there first, and what was left last.
            _, newest, is_half_done = found.get(each.before.path, (None, each, entry.interrupted))
            found[each.before.path] = (each.before, newest, is_half_done)
    files, warnings, foreign = [], [], []
    for path, (before, newest, is_half_done) in found.items():
        now = _ispmail_files.read(path)
        if now == before or now.content is before.content is None:
            continue
        is_ours = newest.may_hold if is_half_done else newest.left
        if now.path != path:
            foreign.append(f"{path} leads to {now.path} since: put a file in place of that link")
        elif before.content is None and _ispmail_optionfile.logins(now.content):
            warnings.append(f"{path} was left, because a program may log in by it: delete it when nothing names it")
        elif now.content != before.content and not is_ours(now.content):
            foreign.append(f"{path} was changed or deleted by somebody else since: an apply of pillar takes that back")
        elif reason := _ispmail_files.unsafe_directory(os.path.dirname(path)):
            foreign.append(f"{path} cannot be written safely by root: {reason}")
        else:
            files.append(_Back(now, before))
            if before.mode & ~now.mode & 0o007 and before.content is not None:
                warnings.append(f"{path} gets mode {before.mode:04o} again: every user of this server can read it")
    if foreign:
        raise _changed(foreign)
    return files, warnings


def _values_to_be(undone: Sequence[Entry], config_directory: str) -> dict[str, Values]:
    """The same of parameters.

    Raises:
        Failed: Somebody else has changed one.
    """
    found: dict[str, Values] = {}
    half_done = {}
    for entry in undone:
        for name, value in entry.parameters.items():
            found[name] = Values(value.before, found.get(name, value).after)
            if entry.interrupted:
                half_done[name] = (value.before, *value.between)
    if not found:
        return {}
    now = _ispmail_postconf.explicit(config_directory)
    foreign = [
        f"{name} in {config_directory}/main.cf was changed by somebody else since: set it back by hand, "
        "the history has its values"
        for name, value in found.items()
        if not any(same(now.get(name), one) for one in (value.before, value.after, *half_done.get(name, ())))
    ]
    if foreign:
        raise _changed(foreign)
    due = differing(now, {name: value.before for name, value in found.items()})
    return {name: Values(now.get(name), found[name].before) for name in due}


def _changed(foreign: Iterable[str]) -> Failed:
    return Failed(listed("Nothing was changed, a rollback would overwrite what is not ours", foreign))


def _probe_logins(files: Iterable[_Back], consumers: Consumers) -> list[str]:
    """Try the logins of option files before they come back, and return warnings.

    Raises:
        Failed: The database refuses one.
    """
    warnings = []
    for each in files:
        for login in _ispmail_optionfile.logins(each.then.content):
            if "hosts" in consumers.keys:
                warnings += _ispmail_logins.probe(Consumers("", (), {**consumers.keys, **login}))
            else:
                path = each.then.path
                warnings.append(f"the login in {path} was not tried, because pillar has no hosts that can be read here")
    return warnings


def _change_postfix(
    instance: Instance,
    answers: Sequence[Answer],
    change: Change,
    files: Sequence[_Back],
    test: bool,
    directories: Collection[str],
) -> tuple[list[str], bool]:
    """Ask what comes back as an apply does, make the change, and return the warnings and whether Postfix runs."""
    parameters = change.parameters or {}
    inventory = _ispmail_inventory.read(change.config_directory)
    after = _ispmail_inventory.changed(inventory, parameters)
    known = inventory.settings
    running = _ispmail_postfix.running(known.queue_directory)
    maps = _maps(instance, files, inventory, after)
    wanted = tuple(each for each in answers if each.map in {one.name for one in maps})
    warnings = _refuse_unaskable(maps, parameters, inventory, after, running)
    warnings += [
        f"pillar expects another answer: {each}"
        for each in wrong_answers(_complete(instance, maps, wanted), staged(maps, after))
    ]
    gone = {each.then.path for each in files if each.then.content is None}
    _ispmail_remove.refuse_in_use(inventory, after, parameters, gone, gone, directories)
    if running:
        _ispmail_postfix.refuse_reload(after.settings.expanded)
    else:
        warnings.append("Postfix is not running, so there was nothing to reload")
    expected = {**known.relied_on([]), **(change.expected or {})}
    named = _ispmail_transaction.named((each.path for each in after.tables), change.files)
    paths = [each.path for each in (*inventory.tables, *after.tables)]
    change = change._replace(
        expected=expected,
        queue_directory=known.queue_directory,
        named=named,
        asked=frozenset(each.path for each in inventory.tables),
        programs=inventory.programs(paths) | after.programs(paths),
    )
    if test:
        _ispmail_transaction.rehearse(change)
    else:
        checked = _complete(instance, maps, ())
        warnings += _ispmail_apply.make(checked, change, {each.name for each in maps}, inventory, after, running)
    return warnings, running


def _refuse_unaskable(
    maps: Sequence[CompleteMap],
    parameters: Collection[str],
    inventory: Inventory,
    after: Inventory,
    running: bool,
) -> list[str]:
    """Ask each table file that comes back, and the tables of others that main.cf would name again.

    Returns:
        Warnings.

    Raises:
        Failed: One cannot be asked.
    """
    failures, doubts = unaskable(staged(maps, after), after.settings.config_directory)
    broken = _ispmail_answers.broken_others(maps, after, running, parameters)
    if broken:
        broken_now = {each.table for each in _ispmail_answers.broken_others(maps, inventory, running, parameters)}
        failures += [str(each) for each in broken if each.table not in broken_now]
    if failures:
        head = "Nothing was changed, Postfix answers as before. What was there then cannot be asked any more"
        raise Failed(listed(head, failures))
    doubts += _ispmail_answers.unasked_others(maps, after, parameters)
    return [*doubts, *_ispmail_apply.refuse_before_a_reload(broken, inventory, running)]


def _maps(instance: Instance, files: Iterable[_Back], inventory: Inventory, after: Inventory) -> list[_KeptMap]:
    """The maps whose table files come back, or that Postfix will ask again, by their names in pillar where it has them.

    A proxymap that has not read the new main.cf cannot be asked for a table of it.
    """
    asked = {each.table for each in inventory.tables}
    again = [_ispmail_files.read(each.path) for each in after.tables if each.table not in asked]
    coming = [*again, *(each.then for each in files)]
    contents = {each.path: each.content for each in coming if each.content is not None}
    names = {after.settings.real_path(each.path): each.name for each in instance.maps}
    found: dict[str, _KeptMap] = {}
    for each in after.tables:
        if each.path in contents:
            name = names.get(each.path, each.path)
            # One that is read in two ways is asked in both.
            name = f"{name} ({each.table})" if name in found else name
            content = contents[each.path]
            parameter = each.places[0].name
            found[name] = _KeptMap(name, parameter, each.type, each.proxied, each.path, content=content)
    return list(found.values())


def _complete(instance: Instance, maps: Sequence[CompleteMap], answers: tuple[Answer, ...]) -> CompleteInstance:
    return CompleteInstance(instance.pillar_key, instance.config_directory, tuple(maps), answers, ())


def _names(instance: Instance, consumers: Consumers) -> dict[str, str]:
    """How people call files: path to the map, or ``consumer:dovecot``."""
    names = {os.path.realpath(each.path): each.name for each in instance.maps}
    options = {os.path.realpath(each.option_file or ""): each.name for each in consumers.with_option_file}
    return names | {path: f"consumer:{name}" for path, name in options.items()}


def _described(
    files: Iterable[Replaced], parameters: Mapping[str, Values], names: Mapping[str, str], config_directory: str
) -> dict[str, dict[str, Any]]:
    """What a change changes, without secrets, as an apply tells it."""
    changes = {names.get(each.before.path, each.before.path): _difference(each) for each in files}
    if parameters:
        before = {name: value.before for name, value in parameters.items()}
        after = {name: value.after for name, value in parameters.items()}
        changes["main.cf"] = _ispmail_postconf.differences(before, after, config_directory)
    return changes


def _difference(replaced: Replaced) -> dict[str, Any]:
    before = replaced.before
    if replaced.after is None:
        return {"file": {"old": before.path, "new": None}}
    if before.content is None:
        return {"file": {"old": None, "new": before.path}, **replaced.told}
    return {**ownership_changes(before, File(before.path, None, *replaced.owned)), **replaced.told}
