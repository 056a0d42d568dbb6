"""The SQL queries of table files: Postfix's expansions, a scanner, and what EXPLAIN says of them."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from _ispmail_errors import Fault

# For these parameters Postfix looks up bare domains only, never user@domain.
BARE_DOMAIN_PARAMETERS = ("virtual_mailbox_domains", "virtual_alias_domains", "relay_domains", "mydestination")

_EXPANSIONS = "sudSUD123456789"
_EXPANSION = re.compile(f"%[%{_EXPANSIONS}]")
_DOMAIN_PART = re.compile("%[dD1-9]")
_QUOTED = re.compile(r"(['\"]).*\1", re.DOTALL)
# What isspace(3) knows in the C locale.
_BLANKS = r" \t\n\v\f\r"

_NO_EXPANSION = "has a % that is no expansion, which is fatal to Postfix"
_WRITE_PERCENT = "write %% for a percent sign"


class Findings(NamedTuple):
    """Errors can never work; warnings may not be meant. No text holds a value."""

    errors: tuple[Fault, ...] = ()
    warnings: tuple[Fault, ...] = ()


def all_of(found: Sequence[Findings]) -> Findings:
    """Put several findings together, in their order."""
    return Findings(
        tuple(fault for each in found for fault in each.errors),
        tuple(fault for each in found for fault in each.warnings),
    )


class _Token(NamedTuple):
    """Something in a query that a rule looks at."""

    kind: str  # the name of its group in the patterns below, or "open" for a quote or comment that never closes
    text: str
    place: str  # "code", "end" (after a semicolon), "comment", "line", "executed", or what opened the quotes around it
    start: int  # where in the query it is


# A query is read as a sequence of places. Each has a pattern for all that matters in it; the rest is passed over.
# Postfix fills in its expansions before the server sees a quote, so a % counts everywhere.
_PERCENT = rf"(?P<doubled>%%)|(?P<expansion>%[{_EXPANSIONS}])|(?P<percent>%)"
_LINE_COMMENT = {"mysql": r"\#|--(?=[\0-\x20\x7f]|$)"}
# For pgsql: in E'…' a backslash escapes, and $tag$…$tag$ is a string. Both begin where no name goes on.
_WORD = r"\w$\x80-\U0010ffff"
_QUOTE = {
    "mysql": "['\"`]",
    "pgsql": rf"['\"]|(?<![{_WORD}])(?:[eE]'|[uU]&['\"]|\$(?:[A-Za-z_\x80-\U0010ffff][\w\x80-\U0010ffff]*)?\$)",
    "sqlite": "['\"`\\[]",
}
_E_STRINGS = frozenset({"E'", "e'"})
_U_STRINGS = frozenset({"U&'", "u&'"})
# Neither semicolons nor comments after a semicolon are a second statement.
_STATEMENT = rf"(?P<statement>[^{_BLANKS};])"
# A backslash before a % escapes what the expansion begins with.
_ESCAPE = rf"(?P<backslash>\\(?=%[{_EXPANSIONS}]))|(?P<escaped>\\(?!%).?)|"
_LINE_ENDS = {"pgsql": r"\n\r"}


@functools.lru_cache
def _pattern(place: str, table_type: str) -> re.Pattern[str]:
    """The pattern of a place. Most are never needed: each takes its time."""
    executed = r"(?P<executed>/\*M?!)|" if table_type == "mysql" else ""
    comments = rf"{executed}(?P<block>/\*)|(?P<line>{_LINE_COMMENT.get(table_type, '--')})"
    line_ends = _LINE_ENDS.get(table_type, r"\n")
    e_string = rf"{_PERCENT}|(?P<doubled_quote>'')|{_ESCAPE}(?P<close>')"
    patterns = {
        "code": rf"{_PERCENT}|{comments}|(?P<quote>{_QUOTE[table_type]})|(?P<semicolon>;)",
        "end": rf"{comments}|{_STATEMENT}",
        # PostgreSQL's comments nest.
        "comment": rf"{_PERCENT}|(?P<close>\*/){'|(?P<block>/[*])' if table_type == 'pgsql' else ''}",
        # Whether MySQL runs it depends on its version, and so does what quotes and comments in it mean.
        "executed": rf"{_PERCENT}|(?P<close>\*/)|(?P<ambiguous>['\"`]|/(?=\*))",
        "line": rf"{_PERCENT}|(?P<close>[{line_ends}])",
        "[": rf"{_PERCENT}|(?P<close>\])",
        **dict.fromkeys(_E_STRINGS, e_string),
        **{place: rf"{_PERCENT}|(?P<close>{place[-1]})" for place in (*_U_STRINGS, 'U&"', 'u&"')},
    }
    # A doubled quote closes one place and opens the next: the same in the end.
    escape = _ESCAPE if table_type == "mysql" and place in ("'", '"') else ""
    return re.compile(patterns.get(place) or rf"{_PERCENT}|{escape}(?P<close>{re.escape(place)})", re.DOTALL)


def _scan(query: str, table_type: str) -> list[_Token]:
    """Read an SQL query with Postfix's expansions in it."""
    tokens, places, at = [], ["code"], 0
    while match := _pattern(places[-1], table_type).search(query, at):
        kind, at = match.lastgroup or "", match.end()
        tokens.append(_Token(kind, match[0], places[-1], match.start()))
        if kind == "close":
            places.pop()
        elif kind == "semicolon":
            places[-1] = "end"
        elif kind == "statement":
            # It is read again, as code.
            places[-1], at = "code", match.start()
        elif kind in ("quote", "block", "executed", "line"):
            places.append({"quote": match[0], "block": "comment"}.get(kind, kind))
    last = places[-1]
    if last not in ("code", "end", "line"):
        tokens.append(_Token("open", "", last, len(query)))
    return tokens


class _Scanned(NamedTuple):
    """A query and what the scanner found in it."""

    query: str
    table_type: str
    kinds: frozenset[str]  # of all tokens
    places: frozenset[str]  # of the expansions


class _Rule(NamedTuple):
    breaks: Callable[[_Scanned], bool]
    reason: str
    fix: str


_READS = re.compile(r"(select|with|call|values|table)\b", re.IGNORECASE)
_COMMENT_ENDS = re.compile(r"/\*|\*/")


def _reads(query: str, table_type: str) -> bool:
    """Whether a query begins like one that reads, behind blanks, parentheses and comments."""
    at, depth = 0, 0
    while at < len(query):
        if depth:
            end = _COMMENT_ENDS.search(query, at)
            if not end:
                return False
            at = end.end()
            # PostgreSQL's comments nest.
            depth += -1 if end[0] == "*/" else table_type == "pgsql"
        elif query[at].isspace() or query[at] == "(":
            at += 1
        # What MySQL runs (/*! … */) is no comment.
        elif query.startswith("/*", at) and not query.startswith(("/*!", "/*M!"), at):
            at, depth = at + 2, 1
        else:
            return _READS.match(query, at) is not None
    return False


# What compares with a regular expression; in PostgreSQL ~~ is LIKE.
_MATCHES = {"mysql": r"\b(?:regexp|rlike)\b", "pgsql": r"(?<!~)~(?!~)|\bsimilar\s+to\b", "sqlite": r"\bregexp\b"}
_MATCH_FUNCTION = re.compile(r"\bregexp_\w+\s*$", re.IGNORECASE)
_MAY_MATCH = re.compile(r"regexp|rlike|similar|~", re.IGNORECASE)
# What ends an operand; a sign for a string with an expansion in it, and one for any other.
_OPERAND_ENDS = r",|&&|\b(?:and|or|xor|then|else|end|as|from|where|group|having|order|limit|union|on|join)\b"
_FILLED, _FIXED = "'%'", "''"


def _matched(query: str, table_type: str) -> bool:
    """Whether an expansion is part of a regular expression. To be what one is compared with is no harm."""
    if not _MAY_MATCH.search(query):
        return False
    code = _code(query, table_type)
    operand = rf"(?:{_MATCHES[table_type]})(?:(?!{_OPERAND_ENDS}).)*{_FILLED}"
    compares = re.compile(operand, re.IGNORECASE | re.DOTALL)
    # From the innermost parentheses outwards: each is one operand of what is around it.
    while group := re.search(r"\(([^()]*)\)", code):
        inside, before = group[1], code[: group.start()]
        if compares.search(inside) or (_MATCH_FUNCTION.search(before) and _FILLED in "".join(inside.split(",")[1:2])):
            return True
        code = f"{before}{_FILLED if _FILLED in inside else _FIXED}{code[group.end() :]}"
    return compares.search(code) is not None


def _code(query: str, table_type: str) -> str:
    """A query with a sign for each of its strings and comments."""
    parts, at, depth, sign = [], 0, 0, _FIXED
    for token in _scan(query, table_type):
        if token.kind in ("quote", "block", "executed", "line"):
            if not depth:
                parts.append(query[at : token.start])
                sign = _FIXED
            depth += 1
        elif token.kind == "expansion":
            sign = _FILLED
        elif token.kind == "close":
            depth -= 1
            if not depth:
                parts.append(sign)
                at = token.start + len(token.text)
    return "".join(parts) + ("" if depth else query[at:])


_ERRORS = (
    _Rule(
        lambda found: found.table_type == "pgsql" and "\r" in found.query,
        "has a carriage return, by which PostgreSQL makes two strings one, and ends a comment",
        "write a blank in its place",
    ),
    _Rule(
        lambda found: not _reads(found.query, found.table_type),
        "is not a query that reads",
        "write one beginning with SELECT, without quotes around it",
    ),
    _Rule(lambda found: "percent" in found.kinds, _NO_EXPANSION, _WRITE_PERCENT),
    _Rule(lambda found: not found.places, "has no expansion, so it answers every question alike", "use '%s'"),
    _Rule(
        # Postfix escapes for '…' (and for "…" of MySQL), and for no other quotes.
        lambda found: bool(found.places - {"'", '"', *_E_STRINGS, *_U_STRINGS, "comment", "executed", "line"}),
        "has an expansion outside quotes, by which a sender could inject SQL",
        "write '%s', with the quotes",
    ),
    _Rule(
        lambda found: bool(found.places & {"comment", "executed", "line"}),
        "has an expansion inside an SQL comment",
        "take the comment out",
    ),
    _Rule(
        lambda found: '"' in found.places and found.table_type == "pgsql",
        "has an expansion in double quotes, which name a column",
        "write '%s'",
    ),
    _Rule(
        lambda found: '"' in found.places and found.table_type == "sqlite",
        "has an expansion in double quotes, which Postfix does not escape, so a sender could inject SQL",
        "write '%s'",
    ),
    _Rule(
        lambda found: bool(found.places & (_E_STRINGS | _U_STRINGS)),
        "has an expansion in an E'…' or U&'…' string, where a sender's backslash escapes",
        "write '%s', with nothing before it",
    ),
    _Rule(
        lambda found: "ambiguous" in found.kinds,
        "has a quote or a comment inside a comment that some servers run (/*! … */)",
        "take the comment out",
    ),
    _Rule(
        lambda found: "backslash" in found.kinds,
        "has a backslash before an expansion, which undoes its quoting",
        "take it out",
    ),
    _Rule(
        lambda found: "statement" in found.kinds,
        "has a second statement after a semicolon, where one is asked",
        "take it out",
    ),
    _Rule(lambda found: "open" in found.kinds, "has a quote or comment that does not close", "close it"),
)

_WARNINGS = (
    _Rule(
        lambda found: '"' in found.places and found.table_type == "mysql",
        "has an expansion in double quotes, which fails where ANSI_QUOTES is set, and lets a sender inject SQL where "
        "NO_BACKSLASH_ESCAPES is",
        "write '%s'",
    ),
    _Rule(
        lambda found: "line" in found.kinds,
        "has a -- or # comment, and everything after it is not read",
        "take it out, unless that is meant",
    ),
    _Rule(
        lambda found: _matched(found.query, found.table_type),
        "has an expansion in a regular expression, where a sender's * or ( makes the query fail (Postfix then does not "
        "ask that database for a minute), and a dot stands for any character",
        "compare with =",
    ),
)


# It fills every expansion, %1 to %9 too, and nobody has an address there.
PROBE_DOMAIN = "a.b.c.d.e.f.g.h.probe.invalid"
PROBE = f"probe@{PROBE_DOMAIN}"


class Probe(NamedTuple):
    """A question that nobody has an answer to, and what is special about it."""

    kind: str
    question: str


def probes(domain: str = PROBE_DOMAIN) -> tuple[Probe, ...]:
    """Questions that any sender can have Postfix ask. A query that fails for one of them stops the mail of all.

    Args:
        domain: For a table with `domain`, one of those.
    """
    wide = "\U0001f602"
    return (
        Probe("a plain address", f"probe@{domain}"),
        Probe("an address with a 4-byte character", f"probe{wide}@{domain}"),
        Probe("an address in upper case", f"PROBE@{domain.upper()}"),
        Probe("a long address", f"{'probe' * 100}@{domain}"),
        # Postfix asks for a quoted local part as it is sent, and without the quotes and backslashes around its text.
        Probe("an address with special characters", f"probe'\"([*?{{\\@{domain}"),
    )


def query_findings(query: str, table_type: str, parameter: str | None = None) -> Findings:
    """Find what is wrong or doubtful in a query. `parameter`: the main.cf parameter that points at the map."""
    tokens = _scan(query, table_type)
    scanned = _Scanned(
        query,
        table_type,
        kinds=frozenset(token.kind for token in tokens),
        places=frozenset(token.place for token in tokens if token.kind == "expansion"),
    )
    return Findings(
        (*_broken(_ERRORS, scanned), *_bare_domain_faults(tokens, parameter)), tuple(_broken(_WARNINGS, scanned))
    )


def _broken(rules: Sequence[_Rule], scanned: _Scanned) -> list[Fault]:
    return [Fault("query", rule.reason, rule.fix) for rule in rules if rule.breaks(scanned)]


def _bare_domain_faults(tokens: Sequence[_Token], parameter: str | None) -> list[Fault]:
    """A bare domain has no domain part, and Postfix does not ask where a part is missing."""
    parts = sorted({token.text for token in tokens if _DOMAIN_PART.fullmatch(token.text)})
    if not parts or parameter not in BARE_DOMAIN_PARAMETERS:
        return []
    return [
        Fault("query", f"has {', '.join(parts)}, for which Postfix never asks {parameter}'s bare domains", "write '%s'")
    ]


def format_faults(value: str) -> list[Fault]:
    """Find what is wrong in a result_format."""
    faults = []
    if "%" in _EXPANSION.sub("", value):
        faults.append(Fault("result_format", _NO_EXPANSION, _WRITE_PERCENT))
    if not value:
        faults.append(
            Fault("result_format", "is empty, so every answer is empty, which means not found", "take it out")
        )
    if _QUOTED.fullmatch(value):
        faults.append(
            Fault("result_format", "has quotes around it, which would be part of the answer", "take them out")
        )
    return faults


def fill(query: str, question: str) -> str | None:
    """Fill in the expansions of a query as Postfix does for one question. None: Postfix does not ask it."""
    parts = _parts(question)
    wanted = re.findall(f"%(?:%|([{_EXPANSIONS}]))", query)
    if any(letter and letter.lower() not in parts for letter in wanted):
        return None

    def part(match: re.Match[str]) -> str:
        if match[0] == "%%":
            return "%"
        # A doubled quote is one in every sql_mode.
        return re.sub(r"([\"\\])", r"\\\1", parts[match[0][1].lower()]).replace("'", "''")

    return _EXPANSION.sub(part, query)


def _parts(question: str) -> dict[str, str]:
    """What each expansion stands for; a part that the question does not have is not there."""
    # Without an @, all of the question is in `domain`.
    local, at, domain = question.rpartition("@")
    labels = reversed(domain.split("."))
    parts = {"s": question, "u": local if at else question}
    if at:
        parts["d"] = domain
    return parts | {str(number): label for number, label in enumerate(labels, 1)}


# A text up to the first expansion in it; %% is a percent sign.
_EXPANDED = rf"(?:[^'\"%]|%%)*%[{_EXPANSIONS}]"
_COLUMN = r"(?:`?(?P<owner>\w+)`?\s*\.\s*)?`?(?P<column>\w+)`?"
# column = '…%s…', and the other way round.
_COMPARED = (
    rf"(?i){_COLUMN}\s*(?:=|<=>|\blike\b)\s*['\"]{_EXPANDED}",
    rf"(['\"]){_EXPANDED}[^'\"]*\1\s*=\s*{_COLUMN}",
)


# The list of tables after FROM or JOIN, up to what follows it; a query in parentheses has a FROM of its own.
_SOURCES = (
    r"\b(?:FROM|JOIN)\s([^();]*?)(?=[();]|$|\b(?:WHERE|ON|USING|GROUP|HAVING|ORDER|LIMIT|UNION|(?:STRAIGHT_)?JOIN)\b)"
)
_SOURCE = r"\s*`?(\w+)`?(?![\w`]*\s*\.)"


def tables(query: str) -> list[str]:
    """The tables that a query names; those of another database are left out."""
    sources = [source for each in re.findall(_SOURCES, query, re.IGNORECASE) for source in each.split(",")]
    return list(dict.fromkeys(found[1] for source in sources if (found := re.match(_SOURCE, source))))


def full_scans(query: str, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Find the tables that a query reads in full, from the rows of its EXPLAIN: a sentence each, with the fix."""
    return [_scan_sentence(query, row["table"]) for row in rows if _is_full_scan(row)]


def _is_full_scan(row: Mapping[str, Any]) -> bool:
    # The server may read a small table in full although it has an index.
    has_index = row["possible_keys"]
    # A name such as <derived2> is no table that could get an index.
    is_table = re.fullmatch(r"\w+", row["table"] or "")
    return row["type"] in ("ALL", "index") and not has_index and bool(is_table)


def sequential_scans(query: str, plan: Sequence[Mapping[str, Any]]) -> list[str]:
    """Find the tables that a query of PostgreSQL reads in full although it was told not to, from its plan.

    Args:
        query: The query.
        plan: What EXPLAIN (FORMAT JSON) gave, with enable_seqscan off: a small table is else read in full in any case.

    Returns:
        A sentence each, with the fix.
    """
    nodes = [each["Plan"] for each in plan]
    found: dict[str, None] = {}
    while nodes:
        node = nodes.pop()
        nodes += node.get("Plans", [])
        if node["Node Type"] == "Seq Scan":
            found.setdefault(str(node["Relation Name"]))
    return [
        f"reads all of {table} for each question: {_index_advice(query, table, 'CREATE INDEX ON {0} ({1})')}"
        for table in found
    ]


def compared_columns(query: str) -> list[str]:
    """The columns that a query of one table compares with what is asked, as they are; none for a query of several."""
    if len(tables(query)) != 1 or len(re.findall(r"\b(?:FROM|JOIN)\s", query, re.IGNORECASE)) != 1:
        return []
    compared = [match for pattern in _COMPARED for match in re.finditer(pattern, query)]
    return list(dict.fromkeys(match["column"] for match in compared))


def _scan_sentence(query: str, alias: str) -> str:
    renamed = re.search(rf"\b(?:FROM|JOIN)\s+`?(\w+)`?\s+(?:AS\s+)?`?{alias}\b", query, re.IGNORECASE)
    table = renamed[1] if renamed else alias
    advice = _index_advice(query, alias, f"ALTER TABLE {table} ADD INDEX ({{1}})")
    return f"reads all of {table} for each question: {advice}"


def _index_advice(query: str, alias: str, statement: str) -> str:
    """The statement that adds the index which a query needs, with {0} for the table and {1} for the column."""
    compared = [match for pattern in _COMPARED for match in re.finditer(pattern, query)]
    columns = [match["column"] for match in compared if match["owner"] in (None, alias)]
    return statement.format(alias, columns[0]) if columns else "compare a column that has an index"
