"""Who else holds the password of the maps' account: files, programs, tables and servers that nobody has named.

A rotation asks this before it changes anything: afterwards nobody knows the old password, and so nobody can search for
it. What is found is told without the password.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import _ispmail_connections
import _ispmail_consumers
import _ispmail_files
import _ispmail_hosts
import _ispmail_instances
import _ispmail_inventory
import _ispmail_postfix
import _ispmail_remembered
import _ispmail_search
import _ispmail_session
import _ispmail_sockets
import _ispmail_table_users
import _ispmail_tablefile
from _ispmail_config import CompleteInstance
from _ispmail_config_consumers import Consumers
from _ispmail_config_database import MYSQL, PGSQL, DatabaseConfig
from _ispmail_connections import Client, Listed, Unknown
from _ispmail_errors import (
    CannotAsk,
    DatabaseError,
    InvalidInput,
    PillarFault,
    escaped,
    plural,
    printable,
    repr_without,
)
from _ispmail_inventory import Inventory, Table
from _ispmail_scope import Scope
from _ispmail_sockets import Process, Programs
from _ispmail_table_users import Users

FILE, PROGRAM, TABLE, SERVER = "file", "program", "table", "server"
# Which passwords files are searched for: all in use, those in use that pillar does not have any more, or none.
ALL, OLD, NONE = "all", "old", "none"

# A connection of another server, as the database lists it.
_CONNECTION = re.compile(r"\S+:[0-9]{1,5}")
# How many files are told, and how long an apply asks hosts for connections.
_MOST_FILES, _APPLY_SECONDS = 50, 10

_HOW = "name it in ispmail:consumers, or give it an account of its own (docs/consumers.md)"
_MAKE_IT = "make it a map of pillar, or name it in ispmail:consumers (docs/consumers.md)"
_OWN_KEY = "give that Postfix a pillar key of its own (ispmail:instances)"
_NAME_INSTANCE = f"{_OWN_KEY} with that map, or name the table in ispmail:consumers (docs/sites.md, docs/consumers.md)"
_SHARED = (
    "with a table file of its own, or name the file in holds of a consumer that reloads that Postfix (docs/sites.md)"
)


class Holder(NamedTuple):
    """One that would lose its login if the password in use were dropped."""

    kind: str  # file, program, table or server
    where: str  # the path (what cannot be printed with backslashes), the program's name, or the address
    text: str  # a sentence: what was found, and how to name it


class Site(NamedTuple):
    """What the database server is asked for, as its admin."""

    hosts: Sequence[str]  # the names and addresses of the site's servers
    # Tells who is connected as users, once for each group of them.
    listed: Callable[[DatabaseConfig, Sequence[Collection[str]]], list[Listed]]


class Holders:
    """What a search has found."""

    def __init__(
        self,
        unnamed: Sequence[Holder] = (),
        unsearchable: Sequence[str] = (),
        unseen: Sequence[str] = (),
        notes: Sequence[str] = (),
    ) -> None:
        """All that was found until now; `find` adds to it."""
        self.unnamed = list(unnamed)
        self.unsearchable = list(unsearchable)  # sentences: why no file can be searched for the password
        self.unseen = list(unseen)  # sentences: whose connections are not known
        self.notes = list(notes)  # sentences: what else was left out, and why that is no fault
        self.files: dict[str, str] = {}  # path to a sentence: all that hold the password, or may
        self.connections: list[str] = []  # of the pair's other account, as the database lists them

    def describe(self) -> dict[str, Any]:
        """For people and programs."""
        notes = list(dict.fromkeys([*self.unsearchable, *self.unseen, *self.notes]))
        found: dict[str, Any] = {"unnamed": [holder._asdict() for holder in self.unnamed], "notes": notes}
        return {**found, "connections": self.connections} if self.connections else found


class _LiveLogin(NamedTuple):
    path: str  # of the table file or option file, symbolic links resolved
    keys: Mapping[str, str]  # as a table file has them

    def __repr__(self) -> str:
        return repr_without(self, "keys")

    @property
    def user(self) -> str:
        """Who logs in."""
        return self.keys.get("user", "")

    @property
    def password(self) -> str:
        """By what."""
        return self.keys.get("password", "")


def find(
    scope: Scope,
    site: Site | None = None,
    search: str = ALL,
    connections: Sequence[str] = (),
    within: float = math.inf,
) -> Holders:
    """Find who else holds the password, or is connected by the account.

    Args:
        site: On the database server: its admin is asked then.
        search: ``all`` passwords in use, the ``old`` ones that pillar does not have any more, or ``none``.
        connections: Those of the pair's other account, as `Holders.connections` has them: a server without its password
            cannot ask for them.
        within: After so many seconds no further host is asked.

    Raises:
        InvalidInput: The hosts of the site or `connections` are no such list, or `search` is none of these.
        CannotAsk: This server, or the database as its admin, cannot be asked. A host of a table file that cannot be
            asked is a note.
    """
    if site and not (isinstance(site.hosts, list) and all(isinstance(one, str) for one in site.hosts)):
        raise InvalidInput("site_hosts must be a list of names and addresses")
    if search not in (ALL, OLD, NONE):
        raise InvalidInput(f"search must be one of {ALL}, {OLD}, {NONE}")
    if not isinstance(connections, (list, tuple)) or not all(map(_is_connection, connections)):
        raise InvalidInput("connections must be a list of texts such as 192.0.2.1:40000")
    found = Holders()
    logins = _all_logins(scope)
    live = [login for login in logins if login.user in scope.accounts]
    inventories = _inventories(scope)
    foreign = _foreign_tables(scope, inventories, found)
    old = [login for login in live if (login.user, login.password) != (scope.database.user, scope.database.password)]
    passwords = {login.password for login in {ALL: live, OLD: old, NONE: []}[search]}
    if search != NONE and not live:
        found.notes.append("files were not searched: no table file or option file here has the password in use")
    if search == OLD and logins and not live:
        found.unnamed.append(_with_other_users(scope, logins))
    left_out = _left_out(scope, [*(login.path for login in live), *foreign])
    _search_files(passwords, left_out, live, found)
    _recall(scope, left_out, found)
    is_known = _known_programs(scope, inventories)
    others = [_ispmail_connections.read_client(one) for one in connections]
    _ask_hosts(scope, live, others, is_known, found, within)
    if site:
        _ask_as_admin(scope, site, is_known, found)
    found.unnamed = list(dict.fromkeys(found.unnamed))
    return found


@contextlib.contextmanager
def left_behind(
    wanted: CompleteInstance, consumers: Consumers, scope: Callable[[], Scope], test: bool
) -> Iterator[list[str]]:
    """Look for those that an apply leaves with the old password, and remember the files among them.

    Args:
        scope: Reads what pillar says of the account; the admin's login is not needed.
        test: Whether nothing is to be written.

    Yields:
        Sentences, before the table files are replaced: afterwards nobody knows the old password.
    """
    replaced = _replaced_users(wanted, consumers)
    head = "the password changes"
    cache, files, warnings = "", list[str](), list[str]()
    # A fault of the apply itself comes in where this yields.
    try:
        known = scope() if replaced else None
        if known is not None and not replaced.isdisjoint(known.accounts):
            found = find(known, search=OLD, within=_APPLY_SECONDS)
            cache, files = known.cache, [] if test else list(found.files)
            warnings = [f"{head}: {holder.text}" for holder in found.unnamed]
    except (CannotAsk, InvalidInput) as err:
        reason = "; ".join(map(str, err.faults)) if isinstance(err, PillarFault) else str(err)
        warnings = [f"{head}, and whether others hold it could not be found out: {reason}"]
    with _ispmail_remembered.added(cache, files):
        yield warnings


def _replaced_users(wanted: CompleteInstance, consumers: Consumers) -> set[str]:
    """The users whose logins an apply would replace in live table files or option files."""
    found: set[str] = set()
    for each in wanted.maps:
        keys = _ispmail_tablefile.parse(_content(each.path)) if each.type in (MYSQL, PGSQL) else {}
        found.update(_replaced(keys, each.keys))
    for consumer in consumers.with_option_file:
        found.update(_replaced(_ispmail_consumers.login_in(consumer), consumers.keys))
    return found


def _replaced(live: Mapping[str, str], wanted: Mapping[str, object]) -> list[str]:
    """The user of a login that is to be another one."""
    same = all(live.get(key) == wanted.get(key) for key in ("user", "password"))
    return [] if same or "user" not in live else [live["user"]]


def _content(path: str) -> bytes | None:
    """What a table file holds; nothing where something else is there, which the apply refuses."""
    with contextlib.suppress(CannotAsk):
        return _ispmail_files.content(path)
    return None


def _is_connection(text: object) -> bool:
    return isinstance(text, str) and _CONNECTION.fullmatch(text) is not None


def _all_logins(scope: Scope) -> list[_LiveLogin]:
    """The logins in the table files of pillar's maps, and in the option files of consumers."""
    found = {}
    for instance in scope.instances.values():
        for each in instance.wanted:
            file = _ispmail_files.read(each.path) if each.type == scope.database.type else None
            if file and file.content is not None:
                found[file.path] = _LiveLogin(file.path, _ispmail_tablefile.parse(file.content))
    for some in scope.consumers:
        for consumer in some.with_option_file:
            path = os.path.realpath(consumer.option_file or "")
            found[path] = _LiveLogin(path, {**some.keys, **_ispmail_consumers.login_in(consumer)})
    return [login for login in found.values() if login.user]


def _with_other_users(scope: Scope, logins: Sequence[_LiveLogin]) -> Holder:
    """A rotation would leave the account behind that all files log in with."""
    users = " and ".join(sorted({_ispmail_session.shown(login.user) for login in logins}))
    what = f"{printable(logins[0].path)} logs in as {users}, and pillar has {' or '.join(scope.accounts)}"
    how = (
        "a rotation changes the user only from one of two accounts to the other: set rotation:method to two_accounts, "
        "and name both in rotation:accounts (docs/rotation.md)"
    )
    return Holder(TABLE, escaped(logins[0].path), f"{what}: {how}")


def _inventories(scope: Scope) -> list[Inventory]:
    """What each Postfix of pillar has; a server with other programs only needs none."""
    folders = [one.config_directory for one in scope.instances.values()]
    return [_ispmail_inventory.read(folder) for folder in folders if _ispmail_postfix.is_there(folder)]


def _foreign_tables(scope: Scope, own: Sequence[Inventory], found: Holders) -> list[str]:
    """The files of tables that Postfix asks, perhaps with the account, and that are not pillar's.

    Those that nobody names are reported, and so are pillar's where another instance than theirs asks them.

    Args:
        own: The instances of pillar. Those that pillar does not name are looked for.
    """
    others = _ispmail_instances.others(own)
    for folder, sentence in others.unread.items():
        found.unnamed.append(Holder(TABLE, escaped(folder), sentence))
    owners = {
        os.path.realpath(each.path): os.path.realpath(one.config_directory)
        for one in scope.instances.values()
        for each in one.wanted
    }
    foreign = []
    inventories = [*((each, True) for each in own), *((each, False) for each in others.read)]
    for inventory, is_pillars, (table, places) in (
        (*each, item) for each in inventories for item in _tables(each[0], scope.database.type)
    ):
        settings, owner = inventory.settings, owners.get(table.path)
        users = _ispmail_table_users.of(table, settings, scope.database.type)
        named = [user for user in scope.accounts if user in users.names]
        if owner == os.path.realpath(settings.config_directory) or not (named or users.unknown):
            continue
        # A table without a path is in main.cf.
        path, shown = table.path, printable(table.path)
        if not os.path.isabs(path):
            path = os.path.join(settings.config_directory, "main.cf")
            shown = f"{table.type}:{shown} in {printable(path)}"
        foreign += [] if owner else [path]
        # What is started later reads what pillar's file has then.
        if not scope.names(path) and (not owner or is_pillars or _ispmail_instances.may_run(inventory)):
            asker = "" if is_pillars and not owner else f" {_ispmail_instances.of(inventory)}"
            what = (
                f"the table {shown}, which {', '.join(places)}{asker} asks, {_logs_in(named or scope.accounts, users)}"
            )
            found.unnamed.append(Holder(TABLE, escaped(path), f"{what} {_whose(owner, is_pillars)}"))
    return foreign


def _whose(owner: str | None, is_pillars: bool) -> str:
    """Why a table is reported, and what to do.

    Args:
        owner: The directory of the instance that has it as a map of pillar.
        is_pillars: Whether pillar names the instance that asks it.
    """
    if owner:
        own_file = f"{'give its pillar key that map' if is_pillars else _OWN_KEY} {_SHARED}"
        return f"and is a map of {printable(owner)}, whose changes do not reload that Postfix: {own_file}"
    return f"and is not a map of pillar: {_MAKE_IT if is_pillars else _NAME_INSTANCE}"


def _logs_in(accounts: Sequence[str], users: Users) -> str:
    account = " or ".join(accounts)
    if users.unknown:
        return f"may log in as {account} ({users.unknown[0]})"
    return f"logs in as {account}" if len(users.names) == 1 else f"may log in as {account}"


def _tables(inventory: Inventory, table_type: str) -> list[tuple[Table, list[str]]]:
    """The tables of a type that main.cf or master.cf reach, each path once, with the parameters."""
    found: dict[str, tuple[Table, dict[str, None]]] = {}
    for table in inventory.tables:
        if table.type == table_type:
            found.setdefault(table.path, (table, {}))[1].update(dict.fromkeys(place.name for place in table.places))
    return [(table, list(names)) for table, names in found.values()]


def _left_out(scope: Scope, known: Sequence[str]) -> frozenset[str]:
    """What is not searched. A user can make a link of a file that is named: it leads to one file, and to no folder."""
    files = filter(os.path.isfile, map(os.path.realpath, scope.named_files))
    folders = map(os.path.realpath, scope.left_out)
    own = [name for path in known for name in (path, *_ispmail_files.side_names(path))]
    return frozenset((*scope.named_files, *files, *folders, *own))


def _search_files(
    passwords: Collection[str], left_out: Collection[str], known: Sequence[_LiveLogin], found: Holders
) -> None:
    """Search for passwords in the files of this server, but for those that are known to hold them."""
    words = {word for login in known for word in (login.user, login.keys.get("dbname", ""))}
    secrets = []
    for secret in passwords:
        reason = _ispmail_search.unsearchable(secret, words)
        if reason:
            found.unsearchable.append(f"files cannot be searched for the password in use: {reason}")
        else:
            secrets.append(secret)
    if not secrets:
        return
    result = _ispmail_search.search(secrets, left_out, _ispmail_search.TREES)
    found.notes += result.notes
    how = "name it in holds of a consumer with ignore: true if it need not be searched (docs/consumers.md)"
    found.files = {path: f"{printable(path)} holds the password in use: {_HOW}" for path in result.found}
    shown = list(found.files)[:_MOST_FILES]
    for path, sentence in result.unsearched.items():
        found.files[path] = f"whether it holds the password in use is not known: {sentence}: {how}"
        shown.append(path)
    found.unnamed += [Holder(FILE, escaped(path), found.files[path]) for path in shown]
    more = len(result.found) - _MOST_FILES
    if more > 0:
        text = f"{plural(more, 'more file')} hold the password in use: {_HOW}"
        found.unnamed.append(Holder(FILE, "", text))


def _recall(scope: Scope, left_out: Collection[str], found: Holders) -> None:
    """Report the files that an earlier apply left with an older password."""
    for each in _ispmail_remembered.paths(scope.cache):
        is_named = any(each == path or each.startswith(f"{path}/") for path in left_out)
        if each not in found.files and not is_named:
            text = (
                f"{printable(each)} was left by an apply with an older password, or perhaps with one, and has not"
                f" changed since: correct or delete it, or {_HOW}"
            )
            found.unnamed.append(Holder(FILE, escaped(each), text))


def _known_programs(scope: Scope, inventories: Sequence[Inventory]) -> Callable[[Process], bool]:
    """Whether a process is Postfix's or a consumer's. A name alone is not enough: anybody can take one."""
    owners: dict[str, set[int]] = {}
    for consumer in scope.each_consumer:
        uids = set()
        for path in (*consumer.holds, *filter(None, [consumer.option_file])):
            with contextlib.suppress(OSError):
                uids.add(os.lstat(path).st_uid)
        for program in consumer.programs:
            owners.setdefault(program, set()).update(uids)
    installed = {
        Programs(*(os.path.realpath(each.settings.expanded(f"{kind}_directory")) for kind in ("daemon", "command")))
        for each in inventories
    }

    def is_known(process: Process) -> bool:
        if process.name in owners and (_ispmail_sockets.is_systems(process) or process.uid in owners[process.name]):
            return True
        return _ispmail_sockets.is_postfix(process, installed)

    return is_known


def _ask_hosts(
    scope: Scope,
    live: Sequence[_LiveLogin],
    others: Sequence[Client],
    is_known: Callable[[Process], bool],
    found: Holders,
    within: float,
) -> None:
    """Ask each host of the live table files for the account's connections, and find their programs here.

    Args:
        others: Connections of the pair's other account, whose programs are found too.
    """
    asked = set()
    until = time.monotonic() + within
    for login, host in ((one, host) for one in live for host in _ispmail_hosts.hosts(one.keys)):
        if _ispmail_hosts.is_read_by_libpq(host, scope.database.type):
            found.unseen.append("who is connected to a host that is a URI is not known: only libpq reads it")
            continue
        target = _ispmail_session.login(host, login.keys, scope.database.type)
        if target in asked:
            continue
        asked.add(target)
        if time.monotonic() > until:
            found.unseen.append(f"who is connected to {host} is not known: other hosts took more than {within} s")
            continue
        ask = functools.partial(_ispmail_connections.listed_by_account, login.keys, host, scope.database.type)
        here = target.unix_socket is not None or _ispmail_sockets.is_here(target.host)
        try:
            listed = ask()
            _report_programs(login.user, listed, here, is_known, found, ask)
        except DatabaseError as err:
            found.unseen.append(f"who is connected to {host} is not known: {err}")
            continue
        if others and scope.database.other:
            _report_programs(scope.database.other, listed._replace(clients=tuple(others)), here, is_known, found)


def _ask_as_admin(scope: Scope, site: Site, is_known: Callable[[Process], bool], found: Holders) -> None:
    """Ask the database server as its admin: for its own programs, and for hosts that are none of the site's."""
    login = scope.database.login
    users = [scope.accounts, *([[scope.database.other]] if scope.database.other else [])]
    listed, *others = site.listed(scope.database, users)
    for of_other in others:
        found.connections = [client.describe() for client in of_other.clients if client.port is not None]
        portless = {client.host for client in of_other.clients if client.port is None and not client.over_socket}
        found.unseen += [
            f"{_ispmail_session.shown(host)} is connected as {scope.database.other}, and by which program is not known:"
            " the database lists no port of so long a name"
            for host in sorted(portless)
        ]
    account = " or ".join(scope.accounts)
    here = login.unix_socket is not None or _ispmail_sockets.is_here(login.host)
    _report_programs(account, listed, here, is_known, found, lambda: site.listed(scope.database, users[:1])[0])
    for host in _ispmail_connections.strangers(listed, site.hosts):
        text = (
            f"{host} is connected as {account} and is none of the site's servers: give what runs there an account"
            " of its own, or name the server in mail or addresses of the site (docs/master.conf)"
        )
        found.unnamed.append(Holder(SERVER, host, text))


def _report_programs(
    account: str,
    listed: Listed,
    here: bool,
    is_known: Callable[[Process], bool],
    found: Holders,
    again: Callable[[], Listed] | None = None,
) -> None:
    for unknown in _ispmail_connections.unknown_programs(listed, here, is_known, again):
        text = _program_text(account, unknown)
        if unknown.excuse:
            (found.notes if unknown.program else found.unseen).append(f"{text}: {unknown.excuse}")
        else:
            how = _HOW.replace("name it in ispmail:consumers", "name it in programs of one of ispmail:consumers")
            found.unnamed.append(Holder(PROGRAM, unknown.program or "unknown", f"{text}: {how}"))


def _program_text(account: str, unknown: Unknown) -> str:
    if unknown.perhaps:
        return f"{unknown.shown} uses {unknown.perhaps}, perhaps as {account}"
    return f"{unknown.shown} is connected as {account}"
