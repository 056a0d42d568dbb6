"""Ask Postfix's lookup tables by postmap(1): an answer, no answer, or could not ask."""

from __future__ import annotations

import concurrent.futures
import contextlib
import fcntl
import functools
import glob
import itertools
import os
import pwd
import re
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import _ispmail_files
import _ispmail_hosts
import _ispmail_query
import _ispmail_release
import _ispmail_tablefile
from _ispmail_command import Done, lines, run, safe
from _ispmail_errors import CannotAsk, readable
from _ispmail_maincf import path_of
from _ispmail_query import PROBE_DOMAIN, probes

ANSWER, NO_ANSWER, COULD_NOT_ASK = "answer", "no answer", "could not ask"

_AFTER_A_FAILED_QUERY = (
    "anybody can send mail to such an address, and after a failed query Postfix does not ask that database for a minute"
)

# What to do about each reason, by what Postfix or the database server says.
_FIXES = (
    # Hosts were tried then: what each of them said is no reason for another fix.
    ("no answer within .*: ", "check hosts, and the database there"),
    (
        "Access denied .* to database",
        "that database is not there, or not for this account: check dbname and the grants",
    ),
    (
        "Access denied",
        "check user and password, and that the account is allowed from this host; where there is none yet, run "
        "state.apply ispmail.database on the database server",
    ),
    ("Unknown database", "check dbname, or run state.apply ispmail.database on the database server"),
    (r"Table '.*' doesn't exist|no such table|relation .* does not exist", "check the query, or create the table"),
    ("Unknown column|no such column|column .* does not exist", "check the query"),
    ("command denied", "grant SELECT on that table"),
    (
        "Plugin .* could not be loaded",
        "smtpd's chroot has no such plugin: set proxy: true, or switch the chroot off in master.cf, or copy the plugin "
        "to the same path below the chroot, or use mysql_native_password where the server has it",
    ),
    (
        r"Can't connect to local .*\(13\b",
        "Postfix's user may not use that socket: check its directories, which virtual(8) and local(8) enter without "
        "the user's supplementary groups",
    ),
    (
        r"socket \W?/[^ ]*->",
        "a link that leads to itself, as none leads out of a chroot: write 127.0.0.1, set proxy: true, or mount the "
        "socket's directory there",
    ),
    (
        "self.signed certificate|unable to get local issuer|certificate verify failed",
        "check tls_CAfile and tls_CApath, and links in them: no link leads out of a chroot",
    ),
    ("Can't connect|Connection refused|could not connect", "check hosts, and that the database runs"),
    ("Application error", "proxymap could not ask: the mail log says why; it reads as user mail_owner"),
    ("Too many connections", "raise the server's max_connections, or set proxy: true"),
    (
        "unsupported dictionary type|not supported|is not configured",
        "install the package of this table type, such as postfix-mysql",
    ),
    (
        "missing '=' after|missing attribute name|must not start with whitespace|bad (string|numerical|boolean)",
        "the table file is damaged: write it anew, by hand or, after moving it away, by state.apply ispmail",
    ),
    ("not allowed to open|is not approved|proxy_read_maps", "add the table to proxy_read_maps"),
)


class Asker(NamedTuple):
    """As whom a table is asked: as the process of Postfix that will ask it."""

    user: str | None = None  # None: as ourselves
    chroot: str | None = None  # where it looks for sockets, certificates and plugins
    plugins: str | None = None  # the directory of these plugins, as it is seen from outside; None: as ourselves
    descriptors: tuple[int, ...] = ()  # open files that a table's path ``/proc/self/fd/N`` stands for
    primary_group_only: bool = False  # without the user's supplementary groups


ROOT = Asker()

# The question by which postmap reads questions from stdin.
_STDIN = "-"
# How many connections a probe has to databases at once: what it takes is not there for mail.
_CONNECTIONS = 16
# The path of an open file, before its number.
_DESCRIPTOR = "/proc/self/fd/"
# A postmap that another user runs needs a main.cf that all may read.
_CANNOT_START = re.compile(r"fatal: open \S+/(main|dynamicmaps)\.cf: Permission denied")
_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


class Group(NamedTuple):
    """Maps that are asked in the same way: the name of each to its table, and as whom."""

    tables: Mapping[str, str]
    as_: Asker
    domains: Mapping[str, str] = MappingProxyType({})  # table to the domain that it is asked for, where known


class Lookup(NamedTuple):
    """What a table said to one question.

    `answer` is a text where the result is ANSWER. `reason` and `table` (None where that is not known) say what failed
    where it is COULD_NOT_ASK.
    """

    result: str
    warnings: tuple[str, ...] = ()
    answer: str | None = None
    reason: str | None = None
    table: str | None = None


class Probed(NamedTuple):
    """Whether a table can be asked: `reason` is None where it can."""

    reason: str | None
    warnings: tuple[str, ...]


def ask(question: str, tables: Sequence[str], config_directory: str, timeout: float = 10, as_: Asker = ROOT) -> Lookup:
    """Ask tables one question, one after the other, until one answers.

    Args:
        question: The key to look up, one line.
        tables: Such as ``mysql:/etc/postfix/a.cf``.
        timeout: How many seconds to wait for all of it.
        as_: As whom to ask.

    Raises:
        CannotAsk: There is no postmap.
    """
    asked = _asked([question], tables, config_directory, timeout, as_)
    if question == _STDIN and asked.answer is not None:
        return asked._replace(answer=asked.answer.removeprefix(f"{_STDIN}\t"))
    return asked


def found(questions: Sequence[str], table: str, config_directory: str, as_: Asker = ROOT) -> list[str]:
    """Ask a table several questions, and return those that it has an answer to; none if it cannot be asked."""
    if not questions:
        return []
    asked = _asked(questions, [table], config_directory, 10, as_)
    if len(questions) == 1:
        return list(questions) if asked.result == ANSWER else []
    return [line.partition("\t")[0] for line in lines(asked.answer or "")]


def probe(
    tables: Sequence[str],
    config_directory: str,
    timeout: float = 8,
    as_: Asker = ROOT,
    domains: Mapping[str, str] = MappingProxyType({}),
    special: bool = True,
) -> dict[str, Probed]:
    """Find out which tables can be asked, by questions that run each one's query.

    One postmap asks many tables. Only where that fails each of them is asked by itself. What fails only for a special
    key is a warning.

    Args:
        timeout: How many seconds to wait for all tables together. Where that is not enough, half as long again to find
            out which of them, and which host, does not answer.
        as_: As for `ask`.
        domains: Table to the domain that it is asked for, see `probe_domain`; the files of others are read for it.
        special: Whether to ask for special keys too.
    """
    first_end = time.monotonic() + timeout
    end = first_end + timeout / 2
    results: dict[str, Lookup] = {}
    # Table to its domain. They are asked after all batches, so that one that is silent takes no time of the others.
    doubtful: dict[str, str] = {}
    by_domain: dict[str, list[str]] = {}
    for table in tables:
        by_domain.setdefault(domains.get(table) or probe_domain(_keys(table)), []).append(table)

    def ask_some(questions: Sequence[str], some: Sequence[str], until: float) -> Lookup:
        left = min(timeout if len(some) > 1 else timeout / 2, until - time.monotonic())
        if left <= 0:
            return _failure(None, "not asked, the time for probes was used up by other tables", ())
        return _asked(questions, some, config_directory, left, as_)

    def asked(domain: str) -> Sequence[_ispmail_query.Probe]:
        return probes(domain) if special else probes(domain)[:1]

    def ask_one(domain: str, table: str) -> Lookup:
        first, *others = asked(domain)
        plain = ask_some([first.question], [table], end)
        if plain.result == COULD_NOT_ASK:
            return plain
        failed = [each.kind for each in others if ask_some([each.question], [table], end).result == COULD_NOT_ASK]
        doubts = [f"{table} cannot be asked for {kind}: {_AFTER_A_FAILED_QUERY}" for kind in failed]
        return plain._replace(warnings=(*plain.warnings, *doubts))

    for domain, every in by_domain.items():
        questions = [each.question for each in asked(domain)]
        # With one question postmap closes each table before it asks the next. With several it keeps all of them open.
        size = len(every) if len(questions) == 1 else _CONNECTIONS
        for some in (every[start : start + size] for start in range(0, len(every), size)):
            together = ask_some(questions, some, first_end)
            if together.result == NO_ANSWER:
                results.update(_each_with_its_own(together, some))
            else:
                # One answered, or one failed: only asking each by itself tells which.
                doubtful.update(dict.fromkeys(some, domain))
    with concurrent.futures.ThreadPoolExecutor(_CONNECTIONS) as pool:
        results.update(zip(doubtful, pool.map(ask_one, doubtful.values(), doubtful)))
    return {table: Probed(results[table].reason, results[table].warnings) for table in tables}


def _each_with_its_own(together: Lookup, tables: Sequence[str]) -> dict[str, Lookup]:
    """What one question to several tables says of each: a warning is on the tables that it names, or on their host.

    One that names neither may be on any of them.
    """
    found: dict[str, list[str]] = {table: [] for table in tables}
    for line in together.warnings:
        named = [table for table in tables if _is_named(table, line)]
        named = named or [table for table in tables if _names_host(line, table)]
        for table in named or tables:
            found[table].append(line)
    return {table: together._replace(warnings=tuple(warnings)) for table, warnings in found.items()}


def _names_host(line: str, table: str) -> bool:
    """Whether a line that postmap wrote is on one of the hosts of a table."""
    asked = [_ispmail_hosts.parse_host(text, _type(table)) for text in _ispmail_hosts.hosts(_keys(table))]
    names = {re.escape(name) for host in asked for name in (host.text, host.name, host.socket) if name}
    return re.search(rf"\b(?:server|host) (?:{'|'.join(names)})(?=:|$)", line) is not None


@contextlib.contextmanager
def in_memory(texts: Mapping[str, tuple[str, bytes]], as_: Asker) -> Iterator[Group]:
    """Hold table files where postmap can read them, with nothing on disk.

    Args:
        texts: Name of a map to its type, and the content of its table file.
        as_: Who will ask.

    Yields:
        The maps' tables, and `as_` with the descriptors that postmap has to inherit.
    """
    with contextlib.ExitStack() as stack:
        tables, descriptors, domains = {}, [], {}
        owner = pwd.getpwnam(as_.user).pw_uid if as_.user else -1
        inside = functools.cache(functools.partial(_inside, as_.chroot, stack)) if as_.chroot else None
        for name, (table_type, content) in texts.items():
            keys = _ispmail_tablefile.parse(content)
            try:
                descriptor = _memory(_seen_from(inside, table_type, keys, content), owner, stack)
            except OSError as err:
                raise CannotAsk(f"no memory to ask the new table file of {name} from: {err.strerror}") from err
            descriptors.append(descriptor)
            tables[name] = f"{table_type}:{_DESCRIPTOR}{descriptor}"
            domains[tables[name]] = probe_domain(keys)
        plugins = inside(plugin_directory()) if inside else None
        yield Group(tables, as_._replace(plugins=plugins, descriptors=tuple(descriptors)), domains)


def _memory(content: bytes, owner: int, stack: contextlib.ExitStack) -> int:
    """A file in memory that its owner (-1: we) can read, as a descriptor that is closed with the stack."""
    # The name is for /proc only, and a long one is refused.
    descriptor = os.memfd_create("table", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    stack.callback(os.close, descriptor)
    os.fchmod(descriptor, 0o600)
    os.fchown(descriptor, owner, -1)
    with open(descriptor, "wb", closefd=False) as stream:
        stream.write(content)
    # Postfix pauses on a file that is less than two seconds old.
    os.utime(descriptor, (time.time() - _ispmail_files.BACKDATED,) * 2)
    # Other processes of the asker could change it, and with it what is asked.
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    return descriptor


def has_plugin(chroot: str, plugin: str) -> bool:
    """Tell whether a chroot has the client's file of a login plugin, such as client_ed25519.so for ed25519."""
    directory = plugin_directory()
    names = glob.glob(f"*{glob.escape(plugin)}*.so", root_dir=_ispmail_files.inside(chroot, directory))
    return any(os.path.exists(_ispmail_files.inside(chroot, f"{directory}/{name}")) for name in names)


def _seen_from(inside: Callable[[str], str] | None, table_type: str, keys: Mapping[str, str], content: bytes) -> bytes:
    """A table file with the paths that a reader in a chroot will open, written as they are seen from outside."""
    seen = _ispmail_release.inside_chroot(table_type, keys, inside) if inside else keys
    if seen == keys:
        return content
    return _ispmail_tablefile.text_of(seen).encode("utf-8", "surrogateescape")


def _inside(chroot: str, stack: contextlib.ExitStack, path: str) -> str:
    """Where a path leads inside a chroot, as it is seen from outside.

    Where that is a directory with links that lead elsewhere from outside, it is one of ours, for as long as the stack,
    with links to what they lead to inside.
    """
    there = _ispmail_files.inside(chroot, path)
    names = os.listdir(there) if os.path.isdir(there) else []
    seen = {name: _ispmail_files.inside(chroot, f"{path}/{name}") for name in names}
    if all(os.path.realpath(os.path.join(there, name)) == real for name, real in seen.items()):
        return there
    ours = stack.enter_context(tempfile.TemporaryDirectory())
    os.chmod(ours, 0o755)  # noqa: S103  it holds links only
    for name, real in seen.items():
        os.symlink(real, os.path.join(ours, name))
    return ours


def _asked(
    questions: Sequence[str], tables: Sequence[str], config_directory: str, timeout: float, as_: Asker
) -> Lookup:
    """Ask tables several questions; the answer is what postmap prints: by stdin, each question before its own."""
    one = len(questions) == 1 and questions[0] != _STDIN
    arguments = ["-c", config_directory, "-q", questions[0] if one else _STDIN, *tables]
    stdin = "".join(f"{question}\n" for question in questions)
    done = run(
        "postmap",
        arguments,
        timeout,
        {"MARIADB_PLUGIN_DIR": as_.plugins} if as_.plugins else None,
        as_.descriptors,
        user=as_.user,
        primary_group_only=as_.primary_group_only,
        stdin=stdin,
    )
    if as_.user and _CANNOT_START.search(done.stderr):
        # Daemons of Postfix read it before they give up root's rights, so they can start.
        found = _asked(questions, tables, config_directory, timeout, as_._replace(user=None))
        doubt = f"asked as root, because user {as_.user} cannot read main.cf: whether it can read TLS keys is not known"
        return found._replace(warnings=(*found.warnings, doubt))
    if done.returncode is None:
        table = tables[0] if len(tables) == 1 else None
        return _failure(table, f"{done.stderr.replace('end', 'answer')}{_silent_hosts(table)}", ())
    warnings, fatal = _complaints(done)
    # Nothing is never an answer: then postmap could not print it.
    if done.returncode == 0 and done.stdout:
        return Lookup(ANSWER, warnings, answer=readable(done.stdout).removesuffix("\n"))
    if fatal or done.returncode != 1:
        failed = next((table for table in tables if any(_is_named(table, line) for line in fatal)), None)
        # Postfix takes the hosts in random order; the reason must not change with it.
        causes = sorted({line for line in warnings if "connect to" in line or "query failed" in line})
        return _failure(failed, "; ".join(causes) or [f"postmap ended with {done.returncode}", *fatal][-1], warnings)
    return Lookup(NO_ANSWER, warnings)


def plugin_directory() -> str:
    """Where the client library of MariaDB looks for login plugins."""
    return next(glob.iglob("/usr/lib/*/libmariadb3/plugin"), "/nonexistent")


def _complaints(done: Done) -> tuple[tuple[str, ...], list[str]]:
    """What postmap wrote to stderr: warnings, and what was fatal. The raw text decides, and no secret is shown."""
    warnings, fatal = [], []
    for line in lines(done.stderr):
        kind, _, said = line.removeprefix("postmap: ").partition(": ")
        if kind in ("fatal", "panic"):
            fatal.append(safe(said))
        else:
            warnings.append(safe(said if kind in ("warning", "error") else line))
    return tuple(warnings), fatal


def probe_domain(keys: Mapping[str, str]) -> str:
    """The domain that a table is asked for: a domain list stops all other questions, so one that is in it."""
    items = _ispmail_hosts.split_list(keys.get("domain", ""))
    plain = [item for item in items if not re.search(r"[:/!]", item)]
    return plain[0] if plain else PROBE_DOMAIN


def _keys(table: str) -> Mapping[str, str]:
    """What the file of a table holds, secrets included."""
    return _ispmail_tablefile.parse(_ispmail_files.content(path_of(table)))


def _type(table: str) -> str:
    return table.split(":")[-2]


def _silent_hosts(table: str | None) -> str:
    """Which of a table's hosts do not answer, as the end of a sentence."""
    if table is None:
        return ""
    table_type = _type(table)
    texts = _ispmail_hosts.split_list(_keys(table).get("hosts", ""))
    hosts = [_ispmail_hosts.parse_host(text, table_type) for text in texts if table_type != "sqlite"]
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        found = [silence for silence in pool.map(_silence, hosts, itertools.repeat(table_type)) if silence]
    return f": {', '.join(found)}" if found else ""


def _silence(host: _ispmail_hosts.Host, table_type: str) -> str | None:
    """Why a host does not answer; None where it does, or is reached by a socket."""
    if host.name is None or host.port is None:
        return None
    try:
        # A service's name is looked up.
        with socket.create_connection((host.name, host.port), timeout=2) as connection:  # type: ignore[arg-type]
            if table_type == "mysql" and not connection.recv(1):
                return f"{host.name}:{host.port} closes the connection"
    except TimeoutError:
        return f"{host.name}:{host.port} does not speak"
    except OSError as err:
        return f"{host.name}:{host.port}: {err.strerror}"
    return None


def renamed(text: str, table: str, name: str) -> str:
    """What Postfix said, with a name for a table, and for its file where that is in memory."""
    path = path_of(table)
    spellings = [table, path] if path.startswith(_DESCRIPTOR) else [table]
    return re.sub(rf"({'|'.join(map(re.escape, spellings))})(?![0-9])", lambda _: name, text)


def _is_named(table: str, line: str) -> bool:
    return re.search(rf"{re.escape(path_of(table))}(?![0-9])", line) is not None


def _failure(table: str | None, reason: str, warnings: tuple[str, ...]) -> Lookup:
    fix = next((fix for pattern, fix in _FIXES if re.search(pattern, reason)), None)
    return Lookup(COULD_NOT_ASK, warnings, reason=f"{reason} ({fix})" if fix else reason, table=table)
