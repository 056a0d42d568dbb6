"""Read and edit main.cf by postconf(1), and read master.cf."""

from __future__ import annotations

import logging
import os
import re
import secrets
import tempfile
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import _ispmail_files
import _ispmail_maincf
import _ispmail_tablefile
from _ispmail_command import Name, lines, output, run, safe
from _ispmail_config import DEFAULT_DIRECTORY
from _ispmail_errors import CannotAsk, Failed, InvalidInput, repr_without
from _ispmail_expand import referred
from _ispmail_files import Replacement
from _ispmail_locks import alone, postconf_lock
from _ispmail_maincf import (
    BLANKS,
    INSTANCES,
    SECRET_PARAMETERS,
    checked_names,
    checked_values,
    differing,
    overrides,
    parts,
    settled,
    values_of,
    words,
)

log = logging.getLogger(__name__)

# A parameter that nobody sets. postconf exits with 0 also where it could not print: asked for with each question, this
# one tells "is not set" from "was not printed".
_WITNESS = "mail_release_date"
# One of the last that it prints of all parameters.
_LAST = "virtual_uid_maps"
# What Postfix says behind the file that it speaks of. An unused parameter is printed too, with any name and value.
_DEPRECATED = re.compile(r"\S+: (?:support for [a-z ]+ \"[^\"]*\" will be removed|hash/btree support is deprecated)")
# How many fields of a service in master.cf stand before its command.
_COMMAND = 7


class Service(NamedTuple):
    """A service of master.cf, see master(5)."""

    name: str
    type: str
    chroot: str
    command: str

    def __repr__(self) -> str:
        # Its options may hold what main.cf may hold.
        return repr_without(self, "command")

    @property
    def program(self) -> str:
        """The daemon's name, without its options."""
        return self.command.partition(" ")[0]


def known_directory(directory: object, named: Collection[str] = ()) -> str:
    """Refuse a configuration directory that is no Postfix instance's: else a caller could have any file edited.

    Args:
        named: Those that pillar names, beside the default one and those that main.cf there names, see postmulti(1).

    Raises:
        InvalidInput: It is none of them.
    """
    known = [DEFAULT_DIRECTORY, *named]
    directory = os.path.normpath(directory) if isinstance(directory, str) and directory else ""
    if directory not in known and os.path.isfile(os.path.join(DEFAULT_DIRECTORY, "main.cf")):
        values = get(INSTANCES, DEFAULT_DIRECTORY)
        known += [os.path.normpath(word) for value in values.values() for word in words(value)]
    if directory not in known:
        raise InvalidInput(
            f"config_directory must be {DEFAULT_DIRECTORY}, one that pillar names (ispmail:postfix:config_directory), "
            f"or one that {DEFAULT_DIRECTORY}/main.cf names ({', '.join(INSTANCES)})"
        )
    return directory


def get(parameters: Sequence[str] | None, config_directory: str, defaults: bool = False) -> dict[str, str]:
    """Read parameters as main.cf has them, ``$name`` not expanded.

    Args:
        parameters: Their names; None for all.
        defaults: Whether to give the default of a parameter that main.cf does not set; else it is left out.

    Raises:
        InvalidInput: A name cannot be one.
        CannotAsk: There is no Postfix, or no main.cf.
    """
    names = checked_names(parameters or [])
    if parameters is not None and not names:
        return {}
    _main_cf(config_directory)  # is there; postconf says less of that
    # What is set with -o is printed by -n too.
    flags = [] if defaults else ["-n", "-o", f"{_WITNESS}=1"]
    values = _printed(config_directory, *flags, *([*names, _WITNESS] if names else []))
    if defaults and not names and _LAST not in values:
        raise CannotAsk(f"postconf did not print all parameters: run postconf -c {config_directory}")
    missing = [name for name in names if name not in values]
    if missing:
        # postconf does not print a parameter of the admin's own until another one uses it.
        own = explicit(config_directory)
        values.update({name: own[name] for name in missing if name in own})
    return values


def explicit(config_directory: str) -> dict[str, str]:
    """Read what main.cf sets, ``$name`` not expanded: without postconf, and as it is at this moment.

    Raises:
        CannotAsk: main.cf cannot be read.
    """
    return settled(_held(config_directory))


def unsettled(config_directory: str) -> dict[str, str]:
    """Read what main.cf sets only until a change that is under way, or was cut off, has ended; see `explicit`."""
    found = _held(config_directory)
    return {name: found[name] for name in differing(settled(found), found)}


def _held(config_directory: str) -> dict[str, str]:
    content = _ispmail_files.content(_main_cf(config_directory))
    return {name: " ".join(parts(value)) for name, value in _ispmail_tablefile.parse(content).items()}


def shown(values: Mapping[str, str | None], config_directory: str) -> dict[str, str | None]:
    """Values for people: no password that stands in main.cf itself, or in a parameter that one of those refers to."""
    secret_names = _secret_names(config_directory, values)
    return {name: _ispmail_maincf.shown(name, value, secret_names) for name, value in values.items()}


def differences(
    old: Mapping[str, str | None], new: Mapping[str, str | None], config_directory: str
) -> dict[str, dict[str, str | None]]:
    """The new values for people, each with its ``old`` and ``new`` one; see `shown`."""
    secret_names = _secret_names(config_directory, old, new)
    return {
        name: {
            "old": _ispmail_maincf.shown(name, old.get(name), secret_names),
            "new": _ispmail_maincf.shown(name, value, secret_names),
        }
        for name, value in new.items()
    }


def _secret_names(config_directory: str, *values: Mapping[str, str | None]) -> set[str]:
    """The parameters that may hold passwords, as main.cf and master.cf are, and with each of these values too."""
    main_cf, master_cf = (
        _ispmail_files.content(os.path.join(config_directory, name)) or b"" for name in ("main.cf", "master.cf")
    )
    given = _ispmail_tablefile.parse(main_cf)
    for number, fields in _entries(master_cf):
        given |= {f"{number}/{name}": value for name, value in overrides(fields[-1]).items()}
    for number, each in enumerate(values):
        given |= {f"values {number}/{name}": value or "" for name, value in each.items()}
    return referred(SECRET_PARAMETERS, given)


def defaults(parameters: Iterable[str], config_directory: str) -> dict[str, str]:
    """Read the defaults of parameters, whatever main.cf sets; those that Postfix does not know are left out."""
    names = checked_names(dict.fromkeys(parameters))
    return _printed(config_directory, "-d", *names, _WITNESS) if names else {}


def services(config_directory: str) -> list[Service]:
    """Read the services of master.cf, in the order of the file; the last of two with one name and type counts.

    Without postconf, which cuts ``-oname=value`` at each ``o`` of the name and value.

    Raises:
        CannotAsk: There is no master.cf, or master(8) could not read it.
    """
    path = os.path.join(config_directory, "master.cf")
    content = _ispmail_files.content(path)
    if content is None:
        raise CannotAsk(f"there is no {path}: is Postfix installed and configured there?")
    found: dict[tuple[str, str], Service] = {}
    for number, fields in _entries(content):
        if len(fields) <= _COMMAND:
            raise CannotAsk(f"{path} has a line without a command: line {number}")
        service = _service(fields)
        found[service.name, service.type] = service
    if not found:
        raise CannotAsk(f"{path} has no service")
    return list(found.values())


def _entries(master_cf: bytes) -> list[tuple[int, list[str]]]:
    """The entries of a master.cf: the number of each line, and its fields, of which the last one is the command."""
    text = master_cf.decode("utf-8", "surrogateescape")
    return [(number, parts(line, _COMMAND)) for number, line in _ispmail_tablefile.logical_lines(text)]


def _service(fields: Sequence[str]) -> Service:
    name, service_type, _, _, chroot, _, _, command = fields
    return Service(name, service_type, chroot, " ".join(words(command, BLANKS)))


def table_types(config_directory: str) -> list[str]:
    """Read which types of table this Postfix can open.

    Raises:
        CannotAsk: postconf cannot tell.
    """
    types = output("postconf", ["-c", config_directory, "-m"]).split()
    if not types:
        raise CannotAsk("postconf printed no type of table: run postconf -m")
    return types


def deprecated(config_directory: str, tables: Iterable[str]) -> list[str]:
    """What Postfix says of parameters in main.cf and master.cf, and of tables, that a later release will not have.

    Args:
        tables: Such as ``hash:/etc/aliases``; each is opened.
    """
    # Postfix 3.9 and newer tell of parameters; Debian's 3.11 tells of hash and btree where one is opened.
    commands: list[tuple[Name, list[str]]] = [("postconf", ["-n"])]
    commands += [("postmap", ["-q", "postmaster", table]) for table in tables]
    said = [run(name, ["-c", config_directory, *arguments]).stderr for name, arguments in commands]
    warnings = [line.partition(": warning: ")[2] for line in lines("".join(said))]
    return list(dict.fromkeys(safe(each) for each in warnings if _DEPRECATED.match(each)))


def edited(parameters: Mapping[str, object], config_directory: str, workspace: str | None = None) -> Replacement:
    """Prepare a main.cf with other values: postconf edits a copy of it, and sees no value, which may be a password.

    Args:
        parameters: Name to value, None to take the parameter out.
        workspace: Where the copy is for that time; None for the directory of temporary files.

    Raises:
        InvalidInput: A name or a value cannot be one.
        CannotAsk: main.cf cannot be read.
    """
    values = checked_values(parameters)
    file = _ispmail_files.read(_main_cf(config_directory))
    content = file.content or b""
    if content and not content.endswith(b"\n"):
        # postconf 3.7 would glue the new parameter to the last line.
        content += b"\n"
    edits = {name: value for name, value in values.items() if value is not None}
    removals = [name for name, value in values.items() if value is None]
    try:
        after = _on_a_copy(content, edits, removals, workspace)
    except OSError as err:
        raise Failed(f"{workspace or tempfile.gettempdir()} cannot hold a copy of main.cf: {err.strerror}") from err
    new = file._replace(content=after)
    return Replacement(new, still=(file.content,), lock=True)


def refuse_broken(
    after: Replacement, parameters: Mapping[str, str | None], config_directory: str, workspace: str | None = None
) -> None:
    """Have Postfix read a main.cf before it goes live.

    Args:
        after: What `edited` returned.
        parameters: What was asked for; it is read back.
        workspace: Where the copy is for that time; None for the directory of temporary files.

    Raises:
        Failed: A program of Postfix would not start with it, or it does not hold what was asked for.
        CannotAsk: postmap could not tell.
    """
    content = after.new.content or b""
    try:
        reason = _refused(content, config_directory, workspace)
    except OSError as err:
        raise Failed(f"{workspace or tempfile.gettempdir()} cannot hold a copy of main.cf: {err.strerror}") from err
    if reason:
        raise Failed(
            f"Nothing was changed: Postfix refuses main.cf as it would be: {reason}. "
            f"These parameters would change: {', '.join(parameters)}"
        )
    if unset := differing(_ispmail_tablefile.parse(content), parameters):
        names = ", ".join(unset)
        raise Failed(f"Nothing was changed: postconf did not set {names} in main.cf as asked: edit it by hand")


def _refused(main_cf: bytes, config_directory: str, workspace: str | None) -> str | None:
    """Why Postfix would not work with a main.cf; None where it would.

    Each of its programs first reads the parameters that all of them share, and ends where a value cannot be: postmap
    does that for us. (What only one daemon reads, it does not see.) Not `postfix check`: that makes missing
    directories, goes through all mail in the queue, and says the reason only to the mail log.
    """
    with tempfile.TemporaryDirectory(prefix="postconf-", dir=workspace) as directory:
        _write_copy(directory, "main.cf", main_cf)
        done = run("postmap", ["-c", directory, "-q", "any", "static:any"])
    if done.returncode == 0:
        return None
    if done.returncode is None or done.returncode < 0:
        why = done.stderr if done.returncode is None else f"it was ended by signal {-done.returncode}"
        raise CannotAsk(f"Nothing was changed: postmap could not read main.cf as it would be: {why}")
    said = safe((lines(done.stderr.strip()) or [f"postmap ended with {done.returncode}"])[-1])
    return said.replace(directory, config_directory)


def change(parameters: Mapping[str, object], config_directory: str, test: bool) -> dict[str, dict[str, str | None]]:
    """Set parameters in one edit of main.cf; Postfix is not reloaded.

    Args:
        parameters: Name to value, None to take the parameter out.
        test: Whether only to tell what would be changed.

    Returns:
        Name to its ``old`` and ``new`` value, of those that differ; passwords as ***.
    """
    values = checked_values(parameters)
    current = get(list(values), config_directory)
    changed = {name: values[name] for name in differing(current, values)}
    if not changed:
        return {}
    told = differences(current, changed, config_directory)
    if not test:
        path = os.path.realpath(_main_cf(config_directory))
        with alone(config_directory), postconf_lock(path):
            _ispmail_files.replace(edited(changed, config_directory))
        log.info("set in %s: %s", path, ", ".join(changed))
    return told


def _printed(config_directory: str, *arguments: str) -> dict[str, str]:
    """What postconf prints of parameters, the witness among them."""
    values = values_of(output("postconf", ["-c", config_directory, *arguments]))
    if values.pop(_WITNESS, None) is None:
        raise CannotAsk(f"postconf did not print all that it was asked for: run postconf -c {config_directory} -n")
    return values


def _on_a_copy(content: bytes, edits: Mapping[str, str], removals: Sequence[str], workspace: str | None) -> bytes:
    """What postconf makes of a main.cf. It sets words in place of the values: anybody can read its arguments."""
    in_place = {f"ispmail-{secrets.token_hex(16)}": value for value in edits.values()}
    arguments = [f"{name}={word}" for name, word in zip(edits, in_place)]
    with tempfile.TemporaryDirectory(prefix="postconf-", dir=workspace) as directory:
        copy = _write_copy(directory, "main.cf", content)
        for flag, some in (("-e", arguments), ("-X", removals)):
            if some:
                _set_back(copy)
                output("postconf", ["-c", directory, flag, *some])
        with open(copy, "rb") as stream:
            after = stream.read()
    for word, value in in_place.items():
        after = after.replace(word.encode(), value.encode("utf-8", "surrogateescape"))
    return after


def _write_copy(directory: str, name: str, content: bytes) -> str:
    path = os.path.join(directory, name)
    with open(path, "wb") as stream:
        os.fchmod(stream.fileno(), 0o600)
        stream.write(content)
    _set_back(path)
    return path


def _set_back(path: str) -> None:
    """Postfix's programs pause while a configuration file is less than two seconds old."""
    os.utime(path, (time.time() - _ispmail_files.BACKDATED,) * 2)


def _main_cf(config_directory: str) -> str:
    path = os.path.join(config_directory, "main.cf")
    if not os.path.isfile(path):
        raise CannotAsk(f"there is no {path}: is Postfix installed and configured there?")
    return path
