"""Change one Postfix instance, all or nothing: files, main.cf, reload, check, deletions, and put back.

The order is such that main.cf never names a table that is not there, wherever a change is cut off: new files, main.cf,
reload, check, deletions. The way back is the same in reverse, and new files go last, after the reload. By which steps
main.cf goes, `_ispmail_steps` says.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

import _ispmail_files
import _ispmail_inventory
import _ispmail_obstacles
import _ispmail_postconf
import _ispmail_postfix
import _ispmail_replaced
import _ispmail_steps
from _ispmail_command import hot_file
from _ispmail_errors import CannotAsk, ChangedMeanwhile, Failed, IspmailError, NotPutBack, kind_of, listed, repr_without
from _ispmail_files import Exchange, Replacement
from _ispmail_history import History
from _ispmail_journal import Journal
from _ispmail_locks import postconf_lock
from _ispmail_maincf import MEANWHILE, READABLE, differing, same
from _ispmail_programs import ASKERS
from _ispmail_replaced import Entry, Values
from _ispmail_steps import Step

log = logging.getLogger(__name__)

# How long to wait for another program that writes main.cf.
_COLD_SECONDS = 5
# How long a session may go on that asks through proxymap what it may not be asked any more.
_LEAVING_SECONDS = 10
# Bytes that two small files may take.
_BLOCKS = 2 * 4096


class Change(NamedTuple):
    """What one change of a Postfix instance consists of."""

    config_directory: str
    cache_directory: str  # where the journal is
    files: tuple[Replacement, ...] = ()  # deletions too
    parameters: Mapping[str, str | None] | None = None  # None takes a parameter out of main.cf
    expected: Mapping[str, str | None] | None = None  # what main.cf must still set, None for not set
    queue_directory: str = ""  # the instance's; empty: nothing of it is Postfix's, which need not be there
    act: str = "apply"  # how the history calls it
    keep: int = 0  # how many entries the history has
    pillar_key: str = ""  # of the instance, for the history
    named: tuple[str, ...] = ()  # table files that main.cf will name, and that are there already
    owned: tuple[str, ...] = ()  # all files of the instance that changes replace, beside main.cf
    asked: frozenset[str] = frozenset()  # table files that something led to before it
    programs: frozenset[str] = ASKERS  # those that read the table files, before or after it

    def __repr__(self) -> str:
        return repr_without(self, "parameters", "expected")


class _Way(NamedTuple):
    """How main.cf gets to what it becomes, and back; empty where it stays."""

    there: tuple[Step, ...]  # without the end
    main_cf: tuple[Replacement, ...]  # of each step, and of the end
    back: tuple[Step, ...]  # as many


def named(tables: Iterable[str], files: Iterable[Replacement]) -> tuple[str, ...]:
    """Those of the tables that are there, and stay as they are."""
    replaced = {each.path for each in files}
    return tuple(path for path in dict.fromkeys(tables) if path not in replaced and os.path.exists(path))


def make(
    change: Change, check: Callable[[bool], None] | None = None, answers: Callable[[], str] | None = None
) -> list[str]:
    """Replace files and set parameters together, reload Postfix if it runs, check, and put all back if any of it fails.

    A change that was cut off before is finished by it: what that one left beside the files is removed, and Postfix is
    reloaded. A change without files and parameters does just that.

    Args:
        check: Called after the reload and before deletions, with whether Postfix runs; twice where proxymap allows
            less in the end. It raises an error of ours to have everything put back.
        answers: Called where everything was put back and Postfix reloaded: says how Postfix answers then.

    Returns:
        Warnings: which processes still use what they have read before, or end when they ask for it.

    Raises:
        Failed: Says why, and what is there now: nothing was changed, all was put back, or all is live and checked.
        NotPutBack: It could not be put back.
    """
    journal = Journal(change.config_directory, change.cache_directory, change.owned)
    history = History(journal.history)
    with journal.locked(), contextlib.ExitStack() as edit:
        due = journal.due()
        change = _with_settling(change)
        _refuse_unwritable(change, journal, due)
        _remove_leftovers(journal, due)
        if change.parameters:
            # From the reading to the renames: what another postconf sets meanwhile would be a reason to give up.
            edit.enter_context(postconf_lock(_path(change)))
        _refuse_gone(change)
        old_values = _old_values(change)
        way = _way(change, old_values, journal.workspace)
        for each in way.main_cf[-1:]:
            _ispmail_postconf.refuse_broken(each, change.parameters or {}, change.config_directory, journal.workspace)
        exchange = Exchange([*change.files, *way.main_cf[:1]])
        # What a change that was cut off has replaced is known from before the journal was.
        earlier = history.interrupted() if due is not None else None
        history.prepare(_entry(change, old_values, earlier), change.keep)
        journal.write([*(due or ()), *exchange.paths])
        try:
            exchange.put()
            edit.close()
            warnings = _forward(change, exchange, way, due is not None, check)
        except BaseException as err:
            edit.close()
            try:
                _step_back(change, exchange, way, journal.workspace)
                outcome, reloaded = _put_back(change, exchange, journal, history, due, old_values)
            except NotPutBack as second:
                raise NotPutBack(f"{_reason(err)}\n{second}") from err
            if not isinstance(err, Exception):
                raise
            if reloaded and answers:
                outcome += f" {answers()}"
            raise Failed(f"{_reason(err)}\n{outcome}") from (err if isinstance(err, IspmailError) else None)
        _finish(change, exchange, journal, history)
    return warnings


def rehearse(change: Change) -> None:
    """See that the files can be written, and have Postfix check main.cf, as `make` does; change nothing.

    Raises:
        Failed: A file cannot be written, or Postfix refuses main.cf.
    """
    journal = Journal(change.config_directory, change.cache_directory, change.owned)
    _refuse_unwritable(change, journal, journal.due())
    if change.parameters:
        edited = _ispmail_postconf.edited(change.parameters, change.config_directory)
        _ispmail_postconf.refuse_broken(edited, change.parameters, change.config_directory)


def _refuse_unwritable(change: Change, journal: Journal, due: list[str] | None) -> None:
    rooms = dict.fromkeys(due or (), 0)
    # Two copies of each, in whole blocks.
    rooms |= {each.path: 2 * len(each.new.content) + _BLOCKS if each.new.content else 0 for each in change.files}
    if change.parameters:
        rooms[_path(change)] = 2 * os.path.getsize(_path(change)) + _BLOCKS
    if change.keep:
        rooms[History(journal.history).path] = sum(rooms.values())
    rooms[journal.workspace] = _BLOCKS
    reasons = _ispmail_obstacles.obstacles(rooms)
    if reasons:
        raise Failed(listed("Nothing was changed, these cannot be written", reasons))


def _path(change: Change) -> str:
    """The instance's main.cf, symbolic links resolved."""
    return os.path.realpath(os.path.join(change.config_directory, "main.cf"))


def _refuse_gone(change: Change) -> None:
    """Refuse where another change has deleted meanwhile what main.cf would name."""
    if gone := [path for path in change.named if not os.path.exists(path)]:
        raise ChangedMeanwhile(
            f"{', '.join(gone)} was deleted by somebody else meanwhile, nothing was written: try again"
        )


def _old_values(change: Change) -> dict[str, str | None]:
    """What the parameters of a change have now; refuses where somebody else has set what it relies on meanwhile."""
    if not change.expected and not change.parameters:
        return {}
    parameters = change.parameters or {}
    # Another program may be about to write it: Postfix's own programs wait too.
    if not _gets_cold(_path(change)):
        raise CannotAsk(f"Nothing was changed: {hot_file(_path(change))}")
    found = _ispmail_postconf.explicit(change.config_directory)
    for name, value in (change.expected or {}).items():
        if not any(same(found.get(name), allowed) for allowed in (value, parameters.get(name, value))):
            raise ChangedMeanwhile(
                f"{name} in {change.config_directory}/main.cf was changed by somebody else meanwhile, "
                "nothing was written: try again"
            )
    return {name: found.get(name) for name in parameters}


def _entry(change: Change, old_values: Mapping[str, str | None], earlier: Entry | None) -> Entry:
    """What the history gets once the change is live."""
    parameters = {name: Values(old_values[name], value) for name, value in (change.parameters or {}).items()}
    files, values = _ispmail_replaced.replaced(
        (each.new for each in change.files),
        parameters,
        earlier,
        lambda: _ispmail_postconf.explicit(change.config_directory),
    )
    of_postfix = bool(change.queue_directory) or (earlier is not None and earlier.of_postfix)
    return Entry(0, int(time.time()), change.act, change.pillar_key, of_postfix, files, values)


def _with_settling(change: Change) -> Change:
    """The change, and the end of what a change that was cut off has set in main.cf for a while."""
    # Without a Postfix there is no main.cf.
    settling = _settling(change.config_directory) if change.queue_directory else {}
    return change._replace(parameters={**settling, **(change.parameters or {})})


def _settling(config_directory: str) -> dict[str, str | None]:
    """The parameters that main.cf sets for a while, with the values that they have without that."""
    settled = _ispmail_postconf.explicit(config_directory)
    return {name: settled.get(name) for name in _ispmail_postconf.unsettled(config_directory)}


def _way(change: Change, old_values: Mapping[str, str | None], workspace: str) -> _Way:
    """Prepare each main.cf on the way; those on the way back are edits of what is there then."""
    if not change.parameters:
        return _Way((), (), ())
    directory = change.config_directory
    # What a change that was cut off has allowed for a while may be asked for still.
    meanwhile = _ispmail_postconf.unsettled(directory).get(MEANWHILE)
    readable = _ispmail_postconf.explicit(directory).get(READABLE)
    now = {READABLE: readable, **old_values, MEANWHILE: meanwhile}
    then = {**now, MEANWHILE: None, **change.parameters}
    defaults = _ispmail_postconf.defaults(then, directory)
    there = _ispmail_steps.between(now, then, defaults)
    values = [{name: each.parameters[name] for name in differing(now, each.parameters)} for each in there]
    main_cf = (_ispmail_postconf.edited(each, directory, workspace) for each in (*values, change.parameters))
    return _Way(tuple(there), tuple(main_cf), tuple(_ispmail_steps.between(then, now, defaults)))


def _remove_leftovers(journal: Journal, due: list[str] | None) -> None:
    journal.keep(due)
    try:
        _ispmail_files.remove_leftovers(due or ())
    except Failed as err:
        raise Failed(f"Nothing was changed, an interrupted change is still to be finished: {err}") from err


def _forward(
    change: Change, exchange: Exchange, way: _Way, due: bool, check: Callable[[bool], None] | None
) -> list[str]:
    master = _master(change)
    running = master is not None
    try:
        return _load(change, exchange, way, due, check)
    except IspmailError as err:
        if running and _master(change) != master:
            raise Failed(
                "Postfix was stopped or restarted by another program meanwhile, such as an upgrade of its package: "
                f"try again when that has ended ({err})"
            ) from err
        raise


def _load(change: Change, exchange: Exchange, way: _Way, due: bool, check: Callable[[bool], None] | None) -> list[str]:
    """Have Postfix read what is new, step by step, check, and delete."""
    leaving: list[str] = []
    for step, following in zip(way.there, way.main_cf[1:]):
        leaving += _read_step(change, step, check)
        exchange.go_on(following)
    # It may have been started in between, with an earlier step.
    running = _master(change) is not None
    # Deletions alone are of files that main.cf does not name.
    reload_due = due or bool(exchange.begun)
    old_processes = _reload(change) if running and reload_due else []
    if check:
        check(running)
    _refuse_lost(change)
    with _unasked(change, exchange.going):
        exchange.delete()
    return _warnings(leaving, [each for each in old_processes if each not in leaving])


def _warnings(leaving: Iterable[str], busy: Iterable[str]) -> list[str]:
    """Warnings of old processes: of those that proxymap answers no more, and of the others."""
    heads = {
        "busy processes were waited for, and end without an answer when they ask what proxymap allows no more": leaving,
        "busy processes end their sessions with the old maps": busy,
    }
    return [f"{head}: {', '.join(processes)}" for head, processes in heads.items() if processes]


def _read_step(change: Change, step: Step, check: Callable[[bool], None] | None = None) -> list[str]:
    """Have Postfix read a step of main.cf, and let the sessions end that ask what the next one does not allow.

    Returns:
        The processes whose sessions have not ended.
    """
    old = _ispmail_postfix.askers(change.queue_directory)
    running = _reloaded(change, once_more=True)
    if not step.is_complete:
        return []
    # Before anybody is waited for: what is live may be wrong.
    if check:
        check(running)
    left = _ispmail_postfix.let_end(old, change.queue_directory, _LEAVING_SECONDS)
    if left:
        log.warning("not waited for any longer in %s: %s", change.config_directory, ", ".join(left))
    return left


@contextlib.contextmanager
def _unasked(change: Change, paths: Collection[str]) -> Iterator[None]:
    """Keep postconf from main.cf while files are unlinked, having seen that nothing leads to them at this moment.

    Raises:
        ChangedMeanwhile: Something does. It would be a 451 for every RCPT.
    """
    with contextlib.ExitStack() as stack:
        if paths and change.queue_directory:
            stack.enter_context(postconf_lock(_path(change), required=False))
            if users := _ispmail_inventory.read(change.config_directory).asking(paths):
                raise ChangedMeanwhile(
                    f"another program has had the table files asked by {', '.join(users)} meanwhile: "
                    "take them out there first"
                )
        yield


def _refuse_lost(change: Change) -> None:
    """Refuse to end, and to delete what main.cf may name again, where another program has written an older main.cf."""
    if _lost(change):
        _gets_cold(_path(change))
    if lost := _lost(change):
        raise ChangedMeanwhile(
            f"another program has rewritten {_path(change)} meanwhile, without postconf's lock, and with other values "
            f"of {', '.join(lost)}: try again when it has ended"
        )


def _lost(change: Change) -> list[str]:
    """The parameters that have other values in main.cf than the change sets."""
    if not change.parameters:
        return []
    # postconf would wait until main.cf is two seconds old.
    return differing(_ispmail_postconf.explicit(change.config_directory), change.parameters)


def _gets_cold(path: str) -> bool:
    """Let another program finish: like Postfix, take a file for half-written while it is less than two seconds old.

    Returns:
        Whether it has finished; False where it writes again and again.
    """
    until = time.monotonic() + _COLD_SECONDS
    with contextlib.suppress(FileNotFoundError):
        while abs(time.time() - os.stat(path).st_mtime) < 2:
            if time.monotonic() > until:
                return False
            time.sleep(0.1)
    return True


def _finish(change: Change, exchange: Exchange, journal: Journal, history: History) -> None:
    try:
        exchange.forget()
        history.commit(change.keep)
        journal.clear()
    except Failed as err:
        raise Failed(f"The change is live and checked, but not finished: {err}. Apply again to finish it") from err


def _put_back(
    change: Change,
    exchange: Exchange,
    journal: Journal,
    history: History,
    due: list[str] | None,
    old_values: Mapping[str, str | None],
) -> tuple[str, bool]:
    """Put everything back as it was; the journal is cleared only where nothing is left to do.

    Returns:
        What there is now, as sentences, and whether Postfix was reloaded.

    Raises:
        NotPutBack: Says how far it came.
    """
    began = time.monotonic()
    changed = ", ".join(exchange.begun)
    outcome, running = "Nothing was changed, Postfix answers as before.", False
    if changed:
        _restore(change, exchange, journal.workspace, old_values)
        running, left = _reload_and_drop(change, exchange)
        # An interrupted state is not "as it was": main.cf and files may be of two changes.
        outcome = "Everything was put back as it was"
        if due is not None:
            outcome = "Everything was put back as the change that was cut off before had left it"
        if left:
            outcome += f" except {', '.join(left)}, which somebody else has written meanwhile"
        outcome += ", and Postfix reloaded." if running else "."
        if due is not None:
            outcome += " Apply again to finish that change."
        log.warning("put back in %s: %s, in %.2f s", change.config_directory, changed, time.monotonic() - began)
    try:
        exchange.forget()
        if due is None:
            history.drop()
            journal.clear()
        else:
            journal.write(due)
    except Failed as err:
        outcome += f" One thing is left to do: {err}. Apply again to have it done."
    return outcome, running


def _step_back(change: Change, exchange: Exchange, way: _Way, workspace: str) -> None:
    """Go back the steps that main.cf has gone, as far as they go: the end of them is what `_restore` does."""
    # They end early on a full disk, or where another program has written it since.
    with contextlib.suppress(IspmailError):
        for step in way.back[len(way.back) - exchange.went_on :]:
            exchange.go_on(_ispmail_postconf.edited(step.parameters, change.config_directory, workspace))
            _read_step(change, step)


def _restore(change: Change, exchange: Exchange, workspace: str, old_values: Mapping[str, str | None]) -> None:
    directory = change.config_directory
    try:
        exchange.restore(lambda: _old_main_cf(change, workspace, old_values))
    except IspmailError as err:
        paths = ", ".join(exchange.begun)
        log.error("could not put back in %s: %s", directory, paths)
        # What runs is to agree with what is on disk, as far as that goes.
        with contextlib.suppress(IspmailError):
            _reloaded(change)
        raise NotPutBack(f"It could not be put back ({err}): mail may be affected, look at {paths} now") from err


def _old_main_cf(change: Change, workspace: str, old_values: Mapping[str, str | None]) -> Replacement:
    """The main.cf that another program has written since, with old values in place of ours; what that one set stays."""
    _gets_cold(_path(change))
    theirs = _lost(change)
    ours = {name: value for name, value in old_values.items() if name not in theirs}
    values = {**_settling(change.config_directory), **ours}
    return _ispmail_postconf.edited(values, change.config_directory, workspace)


def _reload_and_drop(change: Change, exchange: Exchange) -> tuple[bool, list[str]]:
    """Reload Postfix if it runs, then remove the new files, which it asks no more.

    Returns:
        Whether it runs, and the new files that are somebody else's now, and were left.
    """
    try:
        try:
            running = _reloaded(change)
        except IspmailError:
            # Processes with different configurations may accept what they should not: worth a second try.
            running = _reloaded(change)
        with _unasked(change, [path for path in exchange.coming if path not in change.asked]):
            return running, exchange.drop()
    except IspmailError as err:
        directory = change.config_directory
        new = f" except {', '.join(exchange.begun)}, which were not there before" if exchange.begun else ""
        log.error("files are put back in %s, the rest is not done", directory)
        raise NotPutBack(
            f"All files are as before{new}. The rest could not be done ({err}): "
            f"processes of Postfix may still use the new files. Run postfix -c {directory} reload, or apply again"
        ) from err


def _reloaded(change: Change, once_more: bool = False) -> bool:
    """Reload Postfix if it runs and the change is Postfix's, and return whether it was."""
    running = _master(change) is not None
    if running:
        _reload(change, once_more)
    return running


def _master(change: Change) -> int | None:
    """The process of the Postfix that a change is for; None where it does not run, or the change is not Postfix's."""
    return _ispmail_postfix.master(change.queue_directory) if change.queue_directory else None


def _reload(change: Change, once_more: bool = False) -> list[str]:
    return _ispmail_postfix.reload(
        change.config_directory, change.queue_directory, once_more=once_more, programs=change.programs
    )


def _reason(err: BaseException) -> str:
    return str(err) if isinstance(err, IspmailError) else f"unforeseen {kind_of(err)}"
