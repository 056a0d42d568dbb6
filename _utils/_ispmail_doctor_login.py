"""The doctor's checks of the database, by the logins in the live table files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import _ispmail_collations
import _ispmail_database
import _ispmail_lookup
import _ispmail_query
import _ispmail_session
import _ispmail_tablefile
from _ispmail_config_database import MYSQL
from _ispmail_doctor_postfix import LiveMap
from _ispmail_errors import IspmailError, plural
from _ispmail_plugins import CACHING_SHA2, NATIVE
from _ispmail_report import Finding, fault_if, warning_if
from _ispmail_session import Rows
from _ispmail_sql import Grant

# The keys of a table file that decide how Postfix logs in. Maps that agree in all of them share one login.
_LOGIN_KEYS = (
    "user",
    "password",
    "dbname",
    "tls_CAfile",
    "tls_CApath",
    "tls_cert_file",
    "tls_key_file",
    "tls_ciphers",
    "tls_verify_cert",
)
# Postfix's own default of idle_interval, in seconds.
_IDLE = 60
_ACCOUNT = "SELECT CURRENT_USER() AS account"
_GRANTS = "SHOW GRANTS"
_LIMITS = (
    "SELECT @@global.wait_timeout AS wait_timeout, @@global.max_connections AS max_connections,"
    " @@global.max_user_connections AS max_user_connections"
)
# The default format of MySQL 9 has no columns.
_EXPLAIN = "EXPLAIN FORMAT=TRADITIONAL"

LOGIN_CHECK = "the login works"
IDLE_CHECK, CONNECTIONS_CHECK = "the server keeps idle connections", "the server takes enough connections"
READS_CHECK = "the account may only read"
QUERY_CHECK, ADDRESS_CHECK, INDEX_CHECK = "the query works", "the query takes every address", "the query uses an index"
_PLUGIN_CHECK = "smtpd's chroot has the login plugin"


class Login(NamedTuple):
    """One way in which Postfix logs in to one host, and the maps that do so."""

    host: str  # as the table files have it
    maps: tuple[LiveMap, ...]
    neighbours: tuple[LiveMap, ...]  # all maps that ask this host, by whichever login

    @property
    def where(self) -> str:
        """How findings about the server name it: with the pillar key, where all maps are of one other instance."""
        prefixes = {live.postfix.prefix for live in self.maps}
        return f"{prefixes.pop()}{self.host}" if len(prefixes) == 1 else self.host


class Statements(NamedTuple):
    """What the database is asked for one map."""

    query: str
    plan: str
    compared: Mapping[str, str]  # what all hosts should answer alike, by its name
    probes: Mapping[str, str]  # the query with other addresses, by what is special about them
    collations: str  # the columns of the query's tables


@dataclass(frozen=True)
class MapAnswers:
    """What one host said to the statements of one map."""

    map: LiveMap
    host: str
    query: Rows
    plan: Rows
    compared: Mapping[str, Rows] = field(default_factory=dict)
    probes: Mapping[str, Rows] = field(default_factory=dict)
    collations: Rows = field(default_factory=lambda: Rows([]))


class LoginAccount(NamedTuple):
    """Which account the server takes a login for, and the limits that it sets."""

    name: str  # user@host
    grants: tuple[Grant, ...]
    wait_timeout: int
    max_connections: int
    max_user_connections: int  # 0: no limit


class LoginAnswers(NamedTuple):
    """What one host said after one login."""

    login: Login
    plugin: str
    account: LoginAccount | None  # None: the server did not tell, see `reasons`
    reasons: tuple[str, ...]
    maps: tuple[MapAnswers, ...]


def logins(maps: Sequence[LiveMap], table_type: str = MYSQL) -> list[Login]:
    """Group the maps of one type by host and login. Those whose table file does not tell who logs in are left out."""
    by_login: dict[tuple[str, tuple[str | None, ...]], list[LiveMap]] = {}
    by_host: dict[str, list[LiveMap]] = {}
    for live in maps:
        if live.map.type != table_type or not _ispmail_tablefile.tells_login(live.keys):
            continue
        settings = tuple(live.keys.get(key) for key in _LOGIN_KEYS)
        for host in live.hosts:
            by_login.setdefault((host, settings), []).append(live)
            by_host.setdefault(host, []).append(live)
    return [Login(host, tuple(some), tuple(by_host[host])) for (host, _), some in by_login.items()]


def statements(live: LiveMap) -> Statements:
    """Write what a map's hosts are asked: its query and plan, and with several hosts what they should agree in."""
    template = live.keys.get("query", "")
    query, *others = [(probe.kind, _filled(template, probe.question)) for probe in _ispmail_query.probes()]
    compared = {}
    if len(live.hosts) > 1:
        compared = compared_statements(live, "`")
    return Statements(query[1], f"{_EXPLAIN} {query[1]}", compared, dict(others), _collations(template))


def _filled(template: str, question: str) -> str:
    return _ispmail_query.fill(template, question) or template


def compared_statements(live: LiveMap, quote: str) -> dict[str, str]:
    """Statements whose answers all hosts of a map should have alike.

    They count the rows of each table of its query, but for those of another database, and ask what pillar's answers
    ask of it.

    Args:
        quote: What stands around a name in SQL.
    """
    template = live.keys.get("query", "")
    counts = {
        f"rows of {table}": f"SELECT COUNT(*) AS n FROM {quote}{table}{quote}"  # noqa: S608
        for table in _ispmail_query.tables(template)
    }
    return {**counts, **_expected_answers(live, template)}


def _collations(template: str) -> str:
    """The statement that reads the collations of the columns of a query's tables."""
    names = ", ".join(f"'{table}'" for table in _ispmail_query.tables(template)) or "''"
    return (
        "SELECT TABLE_NAME AS t, COLUMN_NAME AS c, COLLATION_NAME AS o FROM information_schema.COLUMNS"  # noqa: S608
        f" WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME IN ({names}) AND COLLATION_NAME IS NOT NULL"
    )


def _expected_answers(live: LiveMap, template: str) -> dict[str, str]:
    """Statements that ask what pillar's answers ask of this map."""
    found = {}
    for entry in live.postfix.target.answers:
        if isinstance(entry, Mapping) and str(entry.get("map")) == live.map.name:
            question = str(entry.get("question"))
            statement = _ispmail_query.fill(template, question)
            if statement is not None:
                found[f"answers to {question}"] = statement
    return found


def ask(login: Login) -> LoginAnswers:
    """Log in once, as Postfix does, and ask all that is to be known.

    Raises:
        DatabaseError: The login does not work.
    """
    wanted = [statements(live) for live in login.maps]
    texts = [_ACCOUNT, _GRANTS, _LIMITS]
    for each in wanted:
        texts += [each.query, each.plan, *each.compared.values(), *each.probes.values(), each.collations]
    asked = _ispmail_session.ask(login.maps[0].keys, login.host, texts)
    account, grants, limits, *rest = asked.answers
    answers = iter(rest)
    # Taken in the order in which they were asked.
    maps = tuple(
        MapAnswers(
            live,
            login.host,
            next(answers),
            next(answers),
            {name: next(answers) for name in each.compared},
            {kind: next(answers) for kind in each.probes},
            next(answers),
        )
        for live, each in zip(login.maps, wanted)
    )
    reasons = {rows.reason for rows in (account, grants, limits) if rows.reason}
    return LoginAnswers(
        login=login,
        plugin=asked.plugin,
        account=None if reasons else _account(account, grants, limits),
        reasons=tuple(sorted(reasons)),
        maps=maps,
    )


def _account(account: Rows, grants: Rows, limits: Rows) -> LoginAccount:
    numbers = {name: int(value) for name, value in limits.rows[0].items()}
    name = _ispmail_session.shown(account.rows[0]["account"])
    return LoginAccount(name=name, grants=tuple(_ispmail_database.grants(grants.rows)), **numbers)


def check(maps: Sequence[LiveMap]) -> Iterator[Finding]:
    """Yield what the logins in the table files can find out."""
    answers: list[MapAnswers] = []
    for login in logins(maps):
        where = f"{login.host} for {', '.join(live.name for live in login.maps)}"
        try:
            with _ispmail_session.understood(login.host):
                found = ask(login)
                findings = list(check_login(found))
        except IspmailError as err:
            yield fault_if(str(err), LOGIN_CHECK, where)
            continue
        yield fault_if("", LOGIN_CHECK, where)
        yield from findings
        answers += found.maps
    yield from same_answers(answers)


def check_login(found: LoginAnswers) -> Iterator[Finding]:
    """Yield what one login has found out."""
    login = found.login
    yield from _plugin_of_login(found)
    if found.account is None:
        yield fault_if("; ".join(found.reasons), "the server answers", login.where)
    else:
        yield from _managed_account(login, found.account)
        yield from _reads_only(login, found.account)
        yield from idle_connections(login, found.account)
        yield from enough_connections(login, found.account)
    for answers in found.maps:
        yield from check_query(answers)


def _plugin_of_login(found: LoginAnswers) -> Iterator[Finding]:
    fix = ""
    chroots = {live.chroot for live in found.login.maps if live.chroot}
    missing = [each for each in chroots if not _ispmail_lookup.has_plugin(each, found.plugin)]
    if found.plugin != NATIVE and missing:
        others = f"use {NATIVE}"
        if found.plugin == CACHING_SHA2:
            # MySQL 9 has no other plugin.
            file = f"{_ispmail_lookup.plugin_directory()}/{CACHING_SHA2}.so"
            others = f"switch the chroot off in master.cf, or copy {file} to the same path below it"
        fix = (
            f"the account logs in by {found.plugin}, which is missing in smtpd's chroot {', '.join(sorted(missing))}: "
            f"set proxy: true for the maps, or {others}"
        )
    yield fault_if(fix, _PLUGIN_CHECK, found.login.where)


def _managed_account(login: Login, account: LoginAccount) -> Iterator[Finding]:
    user, _, host = account.name.rpartition("@")
    configs = [live.postfix.target.database for live in login.maps]
    managed = any(host.lower() in config.managed_hosts([host.lower()]) for config in configs)
    fix = ""
    if user != login.maps[0].keys.get("user") or not managed:
        fix = (
            f"logins from here use the account {account.name}, which a rotation does not change: "
            "drop it, or add its host to server:accounts_host"
        )
    yield warning_if(fix, "the login uses the managed account", f"{account.name} on {login.where}")


def _reads_only(login: Login, account: LoginAccount) -> Iterator[Finding]:
    more = [
        grant for grant in account.grants if grant.privileges != ("SELECT",) or grant.option or grant.object == "*.*"
    ]
    fix = ""
    if more:
        described = "; ".join(_ispmail_database.shown_grants(more))
        fix = (
            f"{account.name} has {described}: give the program that needs it an account of its own, then revoke it, "
            "or set server:revoke_other_grants and apply ispmail.database"
        )
    yield warning_if(fix, READS_CHECK, f"{account.name} on {login.where}")


def idle_connections(login: Login, account: LoginAccount) -> Iterator[Finding]:
    """The server must not close a connection that Postfix still keeps: Postfix would ignore the host for a minute."""
    fix = closes_idle("wait_timeout", account.wait_timeout, login)
    yield fault_if(fix, IDLE_CHECK, login.where)


def enough_connections(login: Login, account: LoginAccount) -> Iterator[Finding]:
    """The server must take as many connections as Postfix can open. One limit counts all logins, the other each."""
    fix = too_few("max_connections", account.max_connections, login.neighbours) or too_few(
        "max_user_connections", account.max_user_connections, login.maps
    )
    yield warning_if(fix, CONNECTIONS_CHECK, login.where)


def closes_idle(setting: str, seconds: int, login: Login) -> str:
    """What to do where the server closes idle connections earlier than Postfix."""
    intervals = [live.keys.get("idle_interval", "") for live in login.maps]
    kept = max(int(text) if text.isdigit() else _IDLE for text in intervals)
    if seconds >= kept:
        return ""
    return f"{setting} is {seconds} s, but Postfix keeps idle connections for {kept} s: raise {setting}"


def too_few(limit: str, value: int, maps: Sequence[LiveMap]) -> str:
    """What to do where Postfix may open more connections than a limit allows; each process opens one for a map.

    Args:
        limit: Its name.
        value: 0 where there is none.
        maps: Those that it counts.
    """
    direct: dict[tuple[str, int], int] = {}
    for live in maps:
        if not live.map.proxy:
            key = (live.postfix.prefix, live.postfix.process_limit)
            direct[key] = direct.get(key, 0) + 1
    possible = sum(processes * number for (_, processes), number in direct.items())
    if not value or possible <= value:
        return ""
    openers = " and ".join(
        f"{prefix}{processes} processes with {plural(number, 'map')} each"
        for (prefix, processes), number in direct.items()
    )
    return (
        f"{openers} may open {possible} connections, but {limit} is {value}: "
        f"set proxy: true for the maps, or raise {limit}"
    )


def check_query(answers: MapAnswers) -> Iterator[Finding]:
    """Yield whether a map's query works, and uses an index."""
    where = f"{answers.map.name} on {answers.host}"
    yield fault_if(answers.query.reason or "", QUERY_CHECK, where)
    if answers.query.reason:
        return
    yield fault_if(_failing_probes(answers), ADDRESS_CHECK, where)
    if answers.plan.reason:
        yield warning_if(f"EXPLAIN does not work: {answers.plan.reason}", INDEX_CHECK, where)
        return
    # The table is None where the plan has none.
    plan = [{**row, "table": row["table"] and _ispmail_session.shown(row["table"])} for row in answers.plan.rows]
    scans = _ispmail_query.full_scans(answers.map.keys.get("query", ""), plan)
    yield fault_if("; ".join(scans), INDEX_CHECK, where)


def failing_probes(answers: MapAnswers) -> str:
    """Which addresses make the query fail, and what that does; empty where none does."""
    failing = [f"{kind} makes it fail ({rows.reason})" for kind, rows in answers.probes.items() if rows.reason]
    effect = "any sender can use one, and Postfix then ignores this host for a minute"
    return f"{'; '.join(failing)}: {effect}" if failing else ""


def _failing_probes(answers: MapAnswers) -> str:
    """Which addresses make the query fail, and what to do about it."""
    failing = failing_probes(answers)
    if not failing:
        return ""
    collations: dict[str, dict[str, str]] = {}
    for row in answers.collations.rows:
        columns = collations.setdefault(_ispmail_session.shown(row["t"]), {})
        columns[_ispmail_session.shown(row["c"])] = _ispmail_session.shown(row["o"])
    cures = [_cure(table, columns) for table, columns in collations.items() if _ispmail_collations.narrow(columns)]
    return f"{failing}. {'; '.join(cures) or 'Check the query and the character sets'}"


def _cure(table: str, columns: Mapping[str, str]) -> str:
    collation = _ispmail_collations.conversion(columns)
    if not collation:
        return f"{table}: {_ispmail_collations.by_hand(columns)}"
    names = ", ".join(f"{column} is {columns[column]}" for column in _ispmail_collations.narrow(columns))
    return f"In {table}, {names}: ALTER TABLE {table} {_ispmail_collations.convert_clause(collation)}"


def same_answers(answers: Sequence[MapAnswers]) -> Iterator[Finding]:
    """Yield whether all hosts of a map hold the same: Postfix takes them in random order."""
    by_map: dict[str, list[MapAnswers]] = {}
    for each in answers:
        by_map.setdefault(each.map.name, []).append(each)
    for name, (first, *others) in by_map.items():
        if others:
            differences = "; ".join(text for other in others for text in _differences(first, other))
            fix = f"{differences}: check that replication works" if differences else ""
            yield warning_if(fix, "all hosts give the same answers", name)


def _differences(one: MapAnswers, other: MapAnswers) -> Iterator[str]:
    ours, theirs = _comparable(one), _comparable(other)
    for name in dict.fromkeys([*ours, *theirs]):
        if ours.get(name) != theirs.get(name):
            yield f"{name} differ on {one.host} and {other.host}"


def _comparable(answers: MapAnswers) -> dict[str, list[str]]:
    """The rows of what could be asked, sorted: a server gives them in any order."""
    return {
        name: sorted(str(list(row.values())) for row in answer.rows)
        for name, answer in answers.compared.items()
        if not answer.reason
    }
