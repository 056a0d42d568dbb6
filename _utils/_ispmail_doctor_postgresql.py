"""The doctor's checks of a PostgreSQL, by the logins in the live table files of pgsql maps."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import _ispmail_doctor_login
import _ispmail_hosts
import _ispmail_postgresql
import _ispmail_query
import _ispmail_session
from _ispmail_config_database import PGSQL
from _ispmail_doctor_login import Login, MapAnswers
from _ispmail_doctor_postfix import LiveMap
from _ispmail_doctor_server import expiry
from _ispmail_errors import DatabaseError, IspmailError, plural
from _ispmail_postgresql import Self
from _ispmail_report import Finding, fault_if, warning_if
from _ispmail_session import Rows
from _ispmail_sqlstates import UNPROVEN

_CAPITALS_CHECK = "the map's rows are in lower case"


class _Answers(NamedTuple):
    """What one host said of one map."""

    asked: MapAnswers
    capitals: Mapping[str, Rows]  # column to how many of its values have capital letters


def check(maps: Sequence[LiveMap]) -> Iterator[Finding]:
    """Yield what the logins in the table files can find out, and what could not be looked at."""
    answers: list[MapAnswers] = []
    yield from _not_tried(maps)
    for login in _ispmail_doctor_login.logins(maps, PGSQL):
        if _reason(login):
            continue
        where = f"{login.host} for {', '.join(live.name for live in login.maps)}"
        try:
            with _ispmail_session.understood(login.host, PGSQL):
                account, found = _ask(login)
                findings = [*_check_account(login, account), *(each for one in found for each in _check_query(one))]
        except DatabaseError as err:
            if err.number == UNPROVEN:
                text = f"it was not tried, and nothing behind it was looked at: {err}"
                yield warning_if(text, _ispmail_doctor_login.LOGIN_CHECK, where)
            else:
                yield fault_if(str(err), _ispmail_doctor_login.LOGIN_CHECK, where)
            continue
        except IspmailError as err:
            yield fault_if(str(err), _ispmail_doctor_login.LOGIN_CHECK, where)
            continue
        yield fault_if("", _ispmail_doctor_login.LOGIN_CHECK, where)
        yield from findings
        answers += [each.asked for each in found]
    yield from _ispmail_doctor_login.same_answers(answers)


def _not_tried(maps: Sequence[LiveMap]) -> Iterator[Finding]:
    """Maps whose login only Postfix itself can try."""
    for live in maps:
        if live.map.type == PGSQL and not live.keys.get("user"):
            text = "it was not tried: the table file names no user, so libpq takes one: write it"
            yield warning_if(text, _ispmail_doctor_login.LOGIN_CHECK, live.name)
    for login in _ispmail_doctor_login.logins(maps, PGSQL):
        if reason := _reason(login):
            where = ", ".join(live.name for live in login.maps)
            yield warning_if(f"it was not tried: {reason}", _ispmail_doctor_login.LOGIN_CHECK, where)


def _reason(login: Login) -> str:
    """Why a login is not tried; empty where it is. What the table file has as host is not shown if it is a URI."""
    if _ispmail_hosts.is_read_by_libpq(login.host, PGSQL):
        return "a host is a URI, which only libpq reads: write host:port"
    if not login.maps[0].keys.get("password"):
        return "there is no password, so the server may ask who the process is (peer), and that is Postfix"
    return ""


def _ask(login: Login) -> tuple[Rows, list[_Answers]]:
    """Log in once, as Postfix does, and ask all that is to be known.

    Raises:
        DatabaseError: The login does not work.
    """
    texts = [_ispmail_postgresql.READ_SELF]
    plans = []
    for live in login.maps:
        template = live.keys.get("query", "")
        query, *others = [
            (probe.kind, _ispmail_query.fill(template, probe.question) or template) for probe in _ispmail_query.probes()
        ]
        tables = _ispmail_query.tables(template)
        asked = {
            "query": {"": query[1]},
            "plan": {"": _ispmail_postgresql.explain(query[1])},
            "compared": _ispmail_doctor_login.compared_statements(live, '"') if len(live.hosts) > 1 else {},
            "probes": dict(others),
            "capitals": {
                column: _ispmail_postgresql.read_capitals(tables[0], column)
                for column in _ispmail_query.compared_columns(template)
            },
        }
        plans.append((live, asked))
        texts += [text for part in asked.values() for text in part.values()]
    account, *rest = _ispmail_session.ask(login.maps[0].keys, login.host, texts, PGSQL).answers
    answers = iter(rest)
    found = []
    for live, asked in plans:
        # Taken in the order in which they were asked.
        got = {part: {name: next(answers) for name in statements} for part, statements in asked.items()}
        maps = MapAnswers(live, login.host, got["query"][""], got["plan"][""], got["compared"], got["probes"])
        found.append(_Answers(maps, got["capitals"]))
    return account, found


def _check_account(login: Login, answer: Rows) -> Iterator[Finding]:
    if answer.reason:
        yield fault_if(answer.reason, "the server answers", login.where)
        return
    account = _ispmail_postgresql.self_of(answer.rows[0])
    name = _ispmail_session.shown(account.name)
    where = f"{name} on {login.where}"
    yield warning_if(_more_than_reading(account, name), _ispmail_doctor_login.READS_CHECK, where)
    expires = None if account.expires is None else {"seconds": account.expires, "date": account.date}
    yield expiry(where, expires, PGSQL)
    idle = _ispmail_doctor_login.closes_idle("idle_session_timeout", account.idle, login) if account.idle else ""
    yield fault_if(idle, _ispmail_doctor_login.IDLE_CHECK, login.where)
    too_few = [
        _ispmail_doctor_login.too_few(limit, value, login.maps if limit.endswith("role") else login.neighbours)
        for limit, value in account.connections.items()
    ]
    fix = "; ".join(filter(None, too_few))
    yield warning_if(fix, _ispmail_doctor_login.CONNECTIONS_CHECK, login.where)


def _more_than_reading(account: Self, name: str) -> str:
    if account.is_superuser:
        return f"{name} is a superuser: give the maps a role of their own"
    if not account.writable:
        return ""
    tables = ", ".join(map(_ispmail_session.shown, account.writable))
    return (
        f"{name} may change {tables}: give the program that needs it a role of its own, then revoke it, or set "
        "server:revoke_other_grants and apply ispmail.database"
    )


def _check_query(found: _Answers) -> Iterator[Finding]:
    """Yield whether a map's query works, takes every address, uses an index, and finds all rows."""
    asked = found.asked
    where = f"{asked.map.name} on {asked.host}"
    yield fault_if(asked.query.reason or "", _ispmail_doctor_login.QUERY_CHECK, where)
    if asked.query.reason:
        return
    failing = _ispmail_doctor_login.failing_probes(asked)
    yield fault_if(failing, _ispmail_doctor_login.ADDRESS_CHECK, where)
    if asked.plan.reason:
        text = f"EXPLAIN does not work: {asked.plan.reason}"
        yield warning_if(text, _ispmail_doctor_login.INDEX_CHECK, where)
    else:
        plan = json.loads(next(iter(asked.plan.rows[0].values())))
        scans = _ispmail_query.sequential_scans(asked.map.keys.get("query", ""), plan)
        scans = [_ispmail_session.shown(text) for text in scans]
        yield fault_if("; ".join(scans), _ispmail_doctor_login.INDEX_CHECK, where)
    yield from _capitals(found, where)


def _capitals(found: _Answers, where: str) -> Iterator[Finding]:
    """A MariaDB compares without regard to case. Here rows with capital letters are never found."""
    reasons = [
        f"{column} could not be looked at: {rows.reason}" for column, rows in found.capitals.items() if rows.reason
    ]
    for column, rows in found.capitals.items():
        number = 0 if rows.reason else int(rows.rows[0]["n"])
        if number:
            table = _ispmail_query.tables(found.asked.map.keys.get("query", ""))[0]
            what = f"{table}.{column} has capital letters in {plural(number, 'row')}, which are never found"
            reasons.append(f"{what}, as Postfix asks in lower case: write them in lower case")
    if found.capitals:
        yield warning_if("; ".join(reasons), _CAPITALS_CHECK, where)
