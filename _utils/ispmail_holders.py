"""Who else holds the password of the maps' account: files, programs, tables and servers that nobody has named.

A rotation asks this before it changes anything: afterwards nobody knows the old password, and so nobody can search for
it. What is found is told without the password.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import ispmail_connections
import ispmail_consumers
import ispmail_database
import ispmail_files
import ispmail_hosts
import ispmail_inventory
import ispmail_optionfile
import ispmail_search
import ispmail_sockets
import ispmail_tablefile
from ispmail_config import CompleteInstance
from ispmail_connections import Listed, Unknown
from ispmail_errors import CannotAsk, DatabaseError, InvalidInput, plural
from ispmail_scope import Scope

FILE, PROGRAM, TABLE, SERVER = "file", "program", "table", "server"
# Which passwords files are searched for: all in use, those in use that pillar does not have any more, or none.
ALL, OLD, NONE = "all", "old", "none"

_HOW = "name it in ispmail:consumers, or give it an account of its own (docs/consumers.md)"


@dataclass(frozen=True)
class Holder:
    """One that would lose its login if the password in use were dropped."""

    kind: str  # file, program, table or server
    where: str  # the path, the program's name, or the address
    text: str  # a sentence: what was found, and how to name it


@dataclass
class Holders:
    """What a search has found."""

    unnamed: list[Holder] = field(default_factory=list)
    unsearchable: list[str] = field(default_factory=list)  # sentences: why no file can be searched for the password
    notes: list[str] = field(default_factory=list)  # sentences: what else was left out, and why that is no fault

    def describe(self) -> dict[str, Any]:
        """For people and programs."""
        notes = list(dict.fromkeys([*self.unsearchable, *self.notes]))
        return {"unnamed": [asdict(holder) for holder in self.unnamed], "notes": notes}


@dataclass(frozen=True)
class _LiveLogin:
    path: str  # of the table file or option file, symbolic links resolved
    keys: Mapping[str, str] = field(repr=False)  # as a table file has them


def find(scope: Scope, site_hosts: Sequence[str] | None = None, search: str = ALL) -> Holders:
    """Find who else holds the password, or is connected by the account.

    Args:
        site_hosts: On the database server: the names and addresses of the site's servers. Its admin is asked then.
        search: ``all`` passwords in use, the ``old`` ones that pillar does not have any more, or ``none``.

    Raises:
        InvalidInput: `site_hosts` is no list of texts, or `search` is none of these.
        CannotAsk: This server, or the database as its admin, cannot be asked. A host of a table file that cannot be
            asked is a note.
    """
    if site_hosts is not None and not (
        isinstance(site_hosts, list) and all(isinstance(one, str) for one in site_hosts)
    ):
        raise InvalidInput("site_hosts must be a list of names and addresses")
    if search not in (ALL, OLD, NONE):
        raise InvalidInput(f"search must be one of {ALL}, {OLD}, {NONE}")
    found = Holders()
    live = _live_logins(scope)
    foreign = _foreign_tables(scope, found)
    passwords = {login.keys.get("password", "") for login in live} if search != NONE else set()
    if search == OLD:
        passwords.discard(scope.database.password or "")
    _search_files(scope, passwords, [*live, *foreign], found)
    _ask_hosts(scope, live, found)
    if site_hosts is not None:
        _ask_as_admin(scope, site_hosts, found)
    found.unnamed = list(dict.fromkeys(found.unnamed))
    return found


def password_changes(wanted: CompleteInstance) -> bool:
    """Whether an apply would replace a password in a live table file, its account being the same."""
    for each in wanted.maps:
        keys = ispmail_tablefile.parse(ispmail_files.read(each.path).content) if each.type == "mysql" else {}
        if keys.get("user") == each.keys.get("user") and keys.get("password") != each.keys.get("password"):
            return True
    return False


def warnings(scope: Scope) -> list[str]:
    """What an apply says of those that it leaves with the old password, before it replaces the table files."""
    head = "the password changes"
    try:
        return [f"{head}: {holder.text}" for holder in find(scope, search=OLD).unnamed]
    except CannotAsk as err:
        return [f"{head}, and whether others hold it could not be found out: {err}"]


def _live_logins(scope: Scope) -> list[_LiveLogin]:
    """The logins with the account in the table files of pillar's maps, and in the option files of consumers."""
    found = {}
    for instance in scope.instances.values():
        for each in instance.wanted:
            file = ispmail_files.read(each.path) if each.type == "mysql" else None
            if file and file.content is not None:
                found[file.path] = _LiveLogin(file.path, ispmail_tablefile.parse(file.content))
    for some in scope.consumers:
        for consumer in some.with_option_file:
            path = os.path.realpath(consumer.option_file or "")
            found[path] = _LiveLogin(path, {**some.keys, **ispmail_consumers.login_in(consumer)})
    return [login for login in found.values() if login.keys.get("user") == scope.account]


def _foreign_tables(scope: Scope, found: Holders) -> list[_LiveLogin]:
    """The tables that Postfix asks with the account and that are not pillar's. Those that nobody names are reported."""
    ours = {os.path.realpath(each.path) for one in scope.instances.values() for each in one.wanted}
    foreign = []
    for instance in scope.instances.values():
        for path, places in _tables(instance.config_directory).items():
            if path in ours:
                continue
            keys = ispmail_tablefile.parse(ispmail_files.read(path).content)
            if _user_of(keys) != scope.account:
                continue
            foreign.append(_LiveLogin(path, keys))
            if not scope.names(path):
                where = f"{path}, which {', '.join(places)} asks,"
                how = "make it a map of pillar, or name it in ispmail:consumers (docs/consumers.md)"
                text = f"the table {where} logs in as {scope.account} and is not a map of pillar: {how}"
                found.unnamed.append(Holder(TABLE, path, text))
    return foreign


def _user_of(keys: Mapping[str, str]) -> str | None:
    """Who logs in by a table file: what its option file says does not count where the table itself names a user."""
    if "user" in keys or "option_file" not in keys:
        return keys.get("user")
    groups = ispmail_optionfile.parse(ispmail_files.read(keys["option_file"]).content)
    return groups.get(keys.get("option_group", "client"), {}).get("user")


def _tables(config_directory: str) -> dict[str, list[str]]:
    """The MySQL tables that main.cf or master.cf name: real path to the parameters."""
    if not os.path.isfile(os.path.join(config_directory, "main.cf")):
        return {}
    found: dict[str, list[str]] = {}
    for table in ispmail_inventory.read(config_directory).tables:
        if table.type == "mysql" and os.path.isabs(table.path):
            places = found.setdefault(table.path, [])
            places += [place.name for place in table.places if place.name not in places]
    return found


def _search_files(scope: Scope, passwords: Collection[str], known: Sequence[_LiveLogin], found: Holders) -> None:
    """Search for passwords in the files of this server, but for those that are known to hold them."""
    words = {word for login in known for word in (login.keys.get("user", ""), login.keys.get("dbname", ""))}
    secrets = []
    for secret in passwords:
        reason = ispmail_search.unsearchable(secret, words)
        if reason:
            found.unsearchable.append(f"files cannot be searched for the password in use: {reason}")
        else:
            secrets.append(secret)
    if not secrets:
        return
    left_out = [*map(os.path.realpath, (*scope.named_files, *scope.left_out)), *(login.path for login in known)]
    result = ispmail_search.search(secrets, left_out, ispmail_search.TREES)
    found.notes += result.notes
    if len(result.found) > ispmail_search.MOST_FOUND:
        number = plural(len(result.found), "file")
        reason = f"it is a part of {number}, and so a common word"
        found.unsearchable.append(f"files cannot be searched for the password in use: {reason}")
    else:
        texts = {path: f"{path} holds the password in use: {_HOW}" for path in result.found}
        found.unnamed += [Holder(FILE, path, text) for path, text in texts.items()]
    how = "name it in holds of a consumer with ignore: true if it need not be searched (docs/consumers.md)"
    for sentence in result.unsearched:
        text = f"whether it holds the password in use is not known: {sentence}: {how}"
        found.unnamed.append(Holder(FILE, sentence.partition(" ")[0], text))


def _ask_hosts(scope: Scope, live: Sequence[_LiveLogin], found: Holders) -> None:
    """Ask each host of the live table files for the account's connections, and find their programs here."""
    asked = set()
    for login in live:
        for host in ispmail_hosts.hosts(login.keys):
            target = ispmail_database.login(host, login.keys)
            if target in asked:
                continue
            asked.add(target)
            try:
                listed = ispmail_connections.listed_by_account(login.keys, host)
            except DatabaseError as err:
                found.notes.append(f"who is connected to {host} is not known: {err}")
                continue
            here = target.unix_socket is not None or ispmail_sockets.is_here(target.host or "")
            _report_programs(scope, listed, here, found)


def _ask_as_admin(scope: Scope, site_hosts: Sequence[str], found: Holders) -> None:
    """Ask the database server as its admin: for its own programs, and for hosts that are none of the site's."""
    login = scope.database.login
    with ispmail_database.admin(login) as server:
        listed = ispmail_connections.listed_by_admin(server, scope.account)
    here = login.unix_socket is not None or ispmail_sockets.is_here(login.host or "")
    _report_programs(scope, listed, here, found)
    for host in ispmail_connections.strangers(listed, site_hosts):
        text = (
            f"{host} is connected as {scope.account} and is none of the site's servers: give what runs there an account"
            " of its own, or name the server in mail or addresses of the site (docs/master.conf)"
        )
        found.unnamed.append(Holder(SERVER, host, text))


def _report_programs(scope: Scope, listed: Listed, here: bool, found: Holders) -> None:
    for unknown in ispmail_connections.unknown_programs(listed, here, scope.programs):
        found.unnamed.append(Holder(PROGRAM, unknown.program or "unknown", _program_text(scope.account, unknown)))


def _program_text(account: str, unknown: Unknown) -> str:
    how = _HOW.replace("name it in ispmail:consumers", "name it in programs of one of ispmail:consumers")
    if unknown.only_maybe:
        return f"{unknown.shown} uses the database's unix socket, perhaps as {account}: {how}"
    return f"{unknown.shown} is connected as {account}: {how}"
