"""What the edge shares: Salt's two errors, pillar with its sdb:// URIs, and the shape of a state.

The only file of the library that imports Salt. What Salt puts into a module (`__pillar__`, `__opts__`) comes as an
argument.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import salt.utils.data
import salt.utils.sdb
from salt.exceptions import CommandExecutionError, SaltInvocationError

import _ispmail_config
import _ispmail_config_consumers
import _ispmail_config_database
import _ispmail_presets
from _ispmail_config import MAIN, Answer, CompleteInstance, Instance
from _ispmail_config_consumers import Consumers
from _ispmail_config_database import DatabaseConfig
from _ispmail_errors import Fault, InvalidInput, IspmailError, PillarFault, besides, has_uri, readable
from _ispmail_scope import Scope
from _ispmail_tablefile import shown_key


@contextlib.contextmanager
def salt_errors() -> Iterator[None]:
    """Turn the library's errors into Salt's two: bad input, and the world said no."""
    try:
        yield
    except InvalidInput as err:
        raise SaltInvocationError(readable(str(err))) from None
    except IspmailError as err:
        raise CommandExecutionError(readable(str(err))) from None


def for_salt(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function one of Salt's: it raises only Salt's two errors, and what it returns can be sent."""

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        with salt_errors():
            return sendable(function(*args, **kwargs))

    return called


def sendable(value: Any) -> Any:
    """What leaves for Salt, with readable texts: of what is on a server any byte is kept, and Salt sends UTF-8 only."""
    if isinstance(value, str):
        return readable(value)
    if isinstance(value, dict):
        return {sendable(key): sendable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return getattr(value, "_make", type(value))(map(sendable, value))
    return value


def section(pillar: Mapping[str, Any], key: str) -> Any:
    """Read what pillar holds under a key, with its preset written out.

    Raises:
        InvalidInput: Pillar has no such key.
    """
    if not isinstance(key, str):
        raise InvalidInput("pillar must be the name of a pillar key, such as ispmail")
    found = _held(pillar, key)
    if found is None:
        what = (
            f"pillar has no {key}{_not_rendered(pillar)}"
            if pillar
            else "pillar is empty (salt-ssh gives it to states only)"
        )
        raise InvalidInput(f"{what}: at least {key}:database:password is needed, see pillar.example")
    return _ispmail_presets.expanded(found)


def _held(pillar: Mapping[str, Any], key: str) -> Any:
    first = key.partition(":")[0]
    if first in pillar:
        # By get: where the name of an item is in brackets, Salt 3008 copies all of pillar first.
        pillar = {first: pillar.get(first)}
    return salt.utils.data.traverse_dict_and_list(pillar, key, None)


def instance(pillar: Mapping[str, Any], key: str) -> Instance:
    """Read which maps pillar asks for; needs no password.

    Raises:
        PillarFault: Lists all faults.
    """
    found = _ispmail_config.instance(key, section(pillar, key))
    _refuse_shared(pillar, found)
    return found


def _refuse_shared(pillar: Mapping[str, Any], found: Instance) -> None:
    """Refuse an instance whose directory or table file is another one's too: each apply would undo the other's.

    Raises:
        PillarFault: Lists all faults.
    """
    faults = []
    for other in _others(pillar, found):
        if os.path.realpath(other.config_directory) == os.path.realpath(found.config_directory):
            reason = f"is the one of {other.pillar_key} too"
            faults.append(Fault("postfix:config_directory", reason, "each instance needs its own"))
        theirs = {os.path.realpath(each.path): each.name for each in other.wanted}
        faults += [
            Fault(f"maps:{each.name}:file", f"is the file of {other.pillar_key}:{owner} too", "each map needs its own")
            for each in found.wanted
            if (owner := theirs.get(os.path.realpath(each.path)))
        ]
    if faults:
        raise PillarFault(found.pillar_key, faults)


def _others(pillar: Mapping[str, Any], found: Instance) -> list[Instance]:
    """The other instances on the same server."""
    main = found
    if not found.others and found.pillar_key != MAIN and MAIN in pillar:
        main = _ispmail_config.instance(MAIN, section(pillar, MAIN))
    keys = [main.pillar_key, *main.others]
    if found.pillar_key not in keys:
        return []
    return [_named(pillar, main, key) for key in keys if key != found.pillar_key]


def _named(pillar: Mapping[str, Any], main: Instance, key: str) -> Instance:
    """An instance that `instances` of another one names.

    Raises:
        PillarFault: Pillar has no such key: all that are missing are listed. Or the instance has faults.
    """
    missing = [each for each in main.others if _held(pillar, each) is None]
    if missing:
        reason = f"names what pillar does not have{_not_rendered(pillar)}: {', '.join(missing)}"
        fix = "write these pillar keys, or take them out of instances"
        raise PillarFault(main.pillar_key, [Fault("instances", reason, fix)])
    return _ispmail_config.instance(key, section(pillar, key))


def _not_rendered(pillar: Mapping[str, Any]) -> str:
    return " (it could not be rendered: see the log of the master)" if "_errors" in pillar else ""


def _shared_option_files(pillar: Mapping[str, Any], found: Instance, consumers: Consumers) -> list[Fault]:
    """Faults of option files that are another consumer's too, or a map's, by whatever spelling."""
    owners: dict[str, str] = {}
    of_other_instances: set[str] = set()
    for one in (found, *_others(pillar, found)) if consumers.with_option_file else ():
        owners |= {os.path.realpath(each.path): f"{one.pillar_key}:maps:{each.name}" for each in one.wanted}
        # What is wrong with another instance is told by its own apply.
        with contextlib.suppress(PillarFault):
            theirs = consumer_logins(pillar, one.pillar_key).with_option_file if one is not found else ()
            paths = {
                os.path.realpath(each.option_file or ""): f"{one.pillar_key}:consumers:{each.name}" for each in theirs
            }
            owners |= paths
            of_other_instances |= set(paths.values())
    faults = []
    for each in consumers.with_option_file:
        own = f"{consumers.pillar_key}:consumers:{each.name}"
        owner = owners.setdefault(os.path.realpath(each.option_file or ""), own)
        if owner != own:
            shared = "a program that serves all instances is named under one of them only"
            fix = shared if owner in of_other_instances else _ispmail_config_consumers.CHOOSE_ANOTHER
            faults.append(Fault(f"consumers:{each.name}:option_file", f"is the file of {owner} too", fix))
    return faults


def instances(pillar: Mapping[str, Any], key: str) -> dict[str, Instance]:
    """Read the same of a pillar key and of each other instance that it names, by their keys."""
    main = instance(pillar, key)
    return {key: main, **{other: instance(pillar, other) for other in main.others}}


def complete(pillar: Mapping[str, Any], opts: Mapping[str, Any], key: str) -> CompleteInstance:
    """Read the maps and answers that pillar asks for, with the keys of each table file.

    Raises:
        PillarFault: Lists all faults.
    """
    return wanted(pillar, opts, key)[0]


def wanted(pillar: Mapping[str, Any], opts: Mapping[str, Any], key: str) -> tuple[CompleteInstance, Consumers]:
    """Read all that an apply brings a server to: maps and answers, and the consumers of their account.

    Raises:
        PillarFault: Lists all faults.
    """
    given = section(pillar, key)
    others = given
    if isinstance(given, Mapping):
        # Not the admin's login to the database server: a mail server may have no key to it.
        others = {name: value for name, value in given.items() if name != "server"}
    found, faults = _looked_up(others, opts)
    if isinstance(given, Mapping):
        found = {**given, **found}
    consumers, wrong = _ispmail_config_consumers.assemble(key, found)
    result = _ispmail_config.complete(key, found, besides(faults, wrong))
    # Which maps there are, and where, is read from pillar itself: no URI of sdb may stand for any of that.
    if shared := _shared_option_files(pillar, instance(pillar, key), consumers):
        raise PillarFault(key, shared)
    return result, consumers


def undoable(
    pillar: Mapping[str, Any], opts: Mapping[str, Any], key: str, known: Callable[[str, str], Sequence[str]]
) -> tuple[Instance, Consumers, tuple[Answer, ...]]:
    """Read what a rollback has to know, whatever else is wrong with pillar: that may be why it is wanted.

    Args:
        known: Gives the directories of the Postfix instances that were changed by a pillar key, as the minion's cache
            tells: asked where pillar could not be rendered, or does not tell which one it is.

    Raises:
        InvalidInput: Which Postfix it is cannot be told.
    """
    is_lost = isinstance(key, str) and "_errors" in pillar and _held(pillar, key) is None
    given = {} if is_lost else section(pillar, key)
    found = _ispmail_config.legible(key, None if is_lost else given, lambda: known(key, opts["cachedir"]))
    expected = {name: given.get(name) for name in ("answers", "maps")}
    answers = _ispmail_config.assemble(key, _looked_up(expected, opts)[0])[0].answers
    try:
        consumers = _ispmail_config_consumers.logins(key, given)
    except PillarFault:
        # Where they log in can be read all the same.
        consumers = _ispmail_config_consumers.logins(key, {**given, "consumers": None})
    return found, consumers, answers


def consumer_logins(pillar: Mapping[str, Any], key: str) -> Consumers:
    """Read the consumers that pillar names, and where they log in; needs no password.

    Raises:
        PillarFault: Lists all faults.
    """
    return _ispmail_config_consumers.logins(key, section(pillar, key))


def database(
    pillar: Mapping[str, Any], opts: Mapping[str, Any], key: str, password_needed: bool = False
) -> DatabaseConfig:
    """Read what pillar says of the database server's side. Only its own sections are looked up in sdb.

    Raises:
        PillarFault: Lists all faults.
    """
    return _database(pillar, opts, key, ("database", "server", "rotation"), password_needed)


def _database(
    pillar: Mapping[str, Any], opts: Mapping[str, Any], key: str, names: Collection[str], password_needed: bool = False
) -> DatabaseConfig:
    given = section(pillar, key)
    found = {name: given.get(name) for name in names} if isinstance(given, Mapping) else given
    found, faults = _looked_up(found, opts)
    if isinstance(given, Mapping):
        # What the others have in sdb is not needed, nor is the admin's login by those who do not ask for it.
        found = {**given, "server": None, **found}
    return _ispmail_config_database.database(key, found, faults, password_needed)


def accounts(pillar: Mapping[str, Any], opts: Mapping[str, Any], key: str) -> Collection[str]:
    """Read the users that stand for the maps' account, whatever else is wrong with the database server's side."""
    found = section(pillar, key)
    known: dict[str, Any] = {"database": {"user": _ispmail_config_database.user(found)}}
    if isinstance(found, Mapping):
        known["rotation"] = found.get("rotation")
    resolved = _looked_up(known, opts)[0]
    if isinstance(found, Mapping):
        resolved["maps"] = found.get("maps")
    return _ispmail_config_database.accounts(resolved)


def server_type(pillar: Mapping[str, Any], key: str) -> str:
    """Read the table type of the database server: ``mysql`` or ``pgsql``."""
    return _ispmail_config_database.server_type(section(pillar, key))


def scope(pillar: Mapping[str, Any], opts: Mapping[str, Any], key: str, *, as_admin: bool) -> Scope:
    """Read what pillar says of the maps' account and of all that may use it, in all instances.

    Args:
        as_admin: Whether the admin's login is needed. A mail server may have none, or one that it cannot look up.

    Raises:
        PillarFault: Lists all faults.
    """
    found = instances(pillar, key)
    consumers = [consumer_logins(pillar, name) for name in found]
    # Where there is no master, or with sdb, pillar's own password is in files of this server.
    roots = [path for paths in opts.get("pillar_roots", {}).values() for path in paths]
    left_out = (opts["cachedir"], os.path.dirname(opts["conf_file"]), *roots)
    config = _database(pillar, opts, key, ("database", "rotation", *(["server"] if as_admin else [])))
    return Scope(found, config, tuple(consumers), left_out, cache_folder(opts))


def named_directories(pillar: Mapping[str, Any]) -> Collection[str]:
    """The configuration directories that pillar names; none where pillar is wrong or holds nothing of ours."""
    try:
        return [each.config_directory for each in instances(pillar, "ispmail").values()]
    except InvalidInput:
        return []


def cache_folder(opts: Mapping[str, Any]) -> str:
    """Where the lock files and the memory of what was reported are, on a minion or master."""
    return os.path.join(opts["cachedir"], "ispmail")


def state(
    name: str,
    test: bool,
    act: Callable[[], Mapping[str, Any]],
    describe: Callable[[Mapping[str, Any]], str],
) -> dict[str, Any]:
    """Do what a state does, and return its dict.

    Args:
        act: An execution function: returns a dict with ``changes`` and perhaps ``warnings`` (a list of sentences).
        describe: Says in a sentence what was done, or would be, from what `act` returned.
    """
    try:
        done = act()
    except (CommandExecutionError, SaltInvocationError) as err:
        return _told(name, False, str(err))
    warnings = [f"warning: {warning}" for warning in done.get("warnings", ())]
    result = None if done["changes"] and test else True
    return _told(name, result, "\n".join([describe(done), *warnings]), done["changes"])


def check_state(name: str, good: str, check: Callable[[], str | None]) -> dict[str, Any]:
    """Return the dict of a state that only looks: `check` returns None, or a sentence on what is wrong."""
    try:
        wrong = check()
    except (CommandExecutionError, SaltInvocationError) as err:
        wrong = str(err)
    return _told(name, True, good) if wrong is None else _told(name, False, wrong)


def _told(name: str, result: bool | None, comment: str, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The one place that has the shape of a state."""
    return {"name": name, "changes": sendable(changes or {}), "result": result, "comment": readable(comment)}


def _looked_up(value: Any, opts: Mapping[str, Any]) -> tuple[Any, list[Fault]]:
    """What pillar holds, with each sdb:// URI replaced by what it stands for, and the faults of those."""
    faults: list[Fault] = []
    return _resolved(value, (), faults, opts), faults


def _resolved(value: Any, path: tuple[object, ...], faults: list[Fault], opts: Mapping[str, Any]) -> Any:
    if isinstance(value, dict):
        return {key: _resolved(item, (*path, key), faults, opts) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_resolved(item, (*path, number), faults, opts) for number, item in enumerate(value)]
    if not has_uri(value) or not _ispmail_config.takes_uri(path):
        return value
    key = ":".join(map(shown_key, path))
    try:
        found = salt.utils.sdb.sdb_get(value, opts, None, True)
    except Exception as err:  # pylint: disable=broad-except
        # Any driver, any error: its text may hold a secret.
        reason = f"could not be read from sdb ({type(err).__name__})"
        faults.append(Fault(key, reason, "check the sdb profile of the minion"))
        return ""
    if found is None or found == value:
        faults.append(Fault(key, "is not there in sdb", "store it under that name, or check the sdb profile"))
        return ""
    if reason := _odd_in_sdb(found):
        faults.append(Fault(key, reason, "store it as a text of one line"))
        return ""
    return found


_KINDS_IN_SDB = {bool: "true or false", int: "a number", float: "a number", dict: "a mapping", list: "a list"}


def _odd_in_sdb(found: object) -> str:
    """What is wrong with what an sdb URI stands for, whatever key has it; its value is not shown."""
    if isinstance(found, str):
        return "ends with a newline in sdb" if found.endswith(("\n", "\r")) else ""
    if isinstance(found, (list, tuple)) and all(isinstance(item, str) for item in found):
        return ""
    return f"is no text in sdb, but {_KINDS_IN_SDB.get(type(found), 'something else')}"
