"""What pillar says of the consumers: the other programs that log in with the maps' account. Pure."""

from __future__ import annotations

import os.path
import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple, TypeGuard

import _ispmail_optionfile
import _ispmail_tablefile
from _ispmail_config import DATABASE, SEE_EXAMPLE, owner_of, told_as_uris, unknown_keys
from _ispmail_config_database import PGSQL, accounts, server_type
from _ispmail_errors import Fault, PillarFault, has_uri, repr_without
from _ispmail_tablefile import shown_key

CHOOSE_ANOTHER = "choose another file"
# A consumer that is known by its name: `dovecot: {}` is enough.
_BUILT_IN: dict[str, dict[str, object]] = {
    "dovecot": {
        "option_file": "/etc/dovecot/ispmail.cnf",
        "group": "dovecot",
        "programs": ["auth"],
        "config_file": "/etc/dovecot/dovecot.conf",
    },
}
# What only an option file has.
_OF_OPTION_FILE = ("option_group", "user", "group", "mode", "config_file")
_KEYS = ("option_file", *_OF_OPTION_FILE, "sls", "holds", "programs", "ignore")
# By any spelling; a name that begins with a dot is taken from where it is included, as salt/ispmail/consumers.sls does.
_OWN_SLS = re.compile(r"[./]|ispmail(?:[./]|\Z)")
# The keys of a table file that say how to log in.
_LOGIN_KEYS = (
    *("user", "password", "hosts", "dbname"),
    *("tls_CAfile", "tls_CApath", "tls_cert_file", "tls_key_file", "tls_verify_cert"),
)
# The kernel cuts the name of a process after so many bytes, see proc(5).
_LONGEST_NAME = 15


class Consumer(NamedTuple):
    """A program other than Postfix that logs in with the maps' account."""

    name: str
    option_file: str | None  # a my.cnf file that we write, see mysql(1); None where somebody else writes its password
    option_group: str
    user: str  # owner of that file
    group: str
    mode: int
    sls: str | None  # the admin's own SLS that writes what `holds` names
    holds: tuple[str, ...]  # files that hold the password
    programs: tuple[str, ...]  # names of processes whose database connections are this consumer's, as in /proc/*/comm
    ignore: bool  # known, and allowed to break
    config_file: str | None = None  # the dovecot.conf that has to name the option file; None: no Dovecot


class Consumers(NamedTuple):
    """The consumers of one pillar key, and how they log in."""

    pillar_key: str
    consumers: tuple[Consumer, ...]
    keys: Mapping[str, str] = MappingProxyType({})  # those of a table file, without its query
    accounts: tuple[str, ...] = ()  # the users that stand for the maps' account: that of `keys`, the other of a pair

    def __repr__(self) -> str:
        return repr_without(self, "keys")

    @property
    def with_option_file(self) -> tuple[Consumer, ...]:
        """Those whose option file we write."""
        return tuple(each for each in self.consumers if each.option_file)


NONE = Consumers("", ())


def consumers(pillar_key: str, section: object) -> tuple[Consumer, ...]:
    """Read the consumers that pillar names.

    Args:
        pillar_key: The pillar key, such as ``ispmail``.
        section: What pillar holds under it.

    Raises:
        PillarFault: Lists all faults of the consumers.
    """
    found, faults = _consumers(section)
    if faults:
        raise PillarFault(pillar_key, faults)
    return found


def logins(pillar_key: str, section: object) -> Consumers:
    """Read the consumers that pillar names, and where they log in. Needs no password and no sdb.

    Keys that are wrong or in sdb are left out. Without `hosts` there is nowhere to log in.

    Raises:
        PillarFault: Lists all faults of the consumers.
    """
    found = consumers(pillar_key, section)
    keys = {name: value for name, value in _shared(section).items() if name not in ("user", "password")}
    known = {name: value for name, value in keys.items() if not has_uri(value)}
    usable = {name: value for name, value in known.items() if not _key_faults({name: value})}
    return Consumers(pillar_key, found, _canonical(usable))


def assemble(pillar_key: str, section: object) -> tuple[Consumers, list[Fault]]:
    """Read the consumers that pillar names and how they log in, and tell the faults. Then they are not complete.

    Args:
        pillar_key: The pillar key, such as ``ispmail``.
        section: What pillar holds under it, sdb:// URIs already looked up.
    """
    found, faults = _consumers(section)
    if not found and not faults:
        return Consumers(pillar_key, ()), []
    faults += _not_for_postgresql(found, section)
    keys = _shared(section)
    wrong = _key_faults(keys)
    faults += [fault.at(f"database:{fault.key}") for fault in wrong]
    if "password" not in keys:
        faults.append(Fault("database:password", "is missing", "it has no default"))
    elif not any(fault.key in ("user", "password") for fault in wrong):
        faults += _ispmail_optionfile.faults(str(keys.get("user", "")), str(keys["password"]))
    return Consumers(pillar_key, found, {} if faults else _canonical(keys), accounts(section)), faults


def _consumers(section: object) -> tuple[tuple[Consumer, ...], list[Fault]]:
    given = section.get("consumers") if isinstance(section, Mapping) else None
    if given is None:
        return (), []
    if not isinstance(given, Mapping):
        return (), [Fault("consumers", "must be a mapping", SEE_EXAMPLE)]
    found, faults = [], []
    for name, entry in given.items():
        if entry is None:
            continue
        consumer, wrong = _consumer(name, entry)
        faults += wrong
        if consumer:
            found.append(consumer)
    return tuple(found), faults + _shared_files(found)


def _not_for_postgresql(found: Iterable[Consumer], section: object) -> list[Fault]:
    """Only the client library of MariaDB and MySQL reads a my.cnf file."""
    if server_type(section) != PGSQL:
        return []
    return [
        Fault(
            f"consumers:{each.name}:option_file",
            "is a file of MariaDB's and MySQL's clients, and pillar's database is a PostgreSQL",
            "set sls and holds, which name the SLS that writes the password and the files that hold it",
        )
        for each in found
        if each.option_file
    ]


def _shared(section: object) -> dict[str, object]:
    """What pillar's `database` says of a login."""
    given = section.get("database") if isinstance(section, Mapping) else None
    shared = {**DATABASE, **(given if isinstance(given, Mapping) else {})}
    return {key: value for key, value in shared.items() if key in _LOGIN_KEYS and value is not None}


def _key_faults(keys: Mapping[str, object]) -> list[Fault]:
    return [fault for fault in _ispmail_tablefile.validate("mysql", keys).errors if fault.key in keys]


def _canonical(keys: Mapping[str, object]) -> dict[str, str]:
    query = _ispmail_tablefile.canonicalize("mysql", {"dbname": "x", **keys, "query": "SELECT 1 FROM x WHERE y='%s'"})
    return {key: value for key, value in query.items() if key in keys}


def _consumer(name: object, entry: object) -> tuple[Consumer | None, list[Fault]]:
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
        return None, [Fault(f"consumers:{shown_key(name)}", "must be a text of letters, digits, _, . and -")]
    key = f"consumers:{name}"
    section = {"consumers": {name: entry}}
    if not isinstance(entry, Mapping):
        return None, told_as_uris(section, [Fault(key, "must be a mapping, or null to leave the consumer out")])
    fields = {**_defaults(name, entry), **entry}
    faults = _way_faults(key, fields)
    faults += _option_file_faults(key, fields)
    holds, programs = _texts(fields.get("holds")), _texts(fields.get("programs"))
    if holds is None or not all(map(_is_path, holds)):
        faults.append(Fault(f"{key}:holds", "must be a list of absolute paths of files"))
    if programs is None or not all(map(_is_process_name, programs)):
        faults.append(Fault(f"{key}:programs", "must be a list of names of processes, such as auth or php-fpm8.2"))
    sls = fields.get("sls")
    if sls is not None and (not isinstance(sls, str) or not re.fullmatch(r"[A-Za-z0-9_./-]+", sls)):
        faults.append(Fault(f"{key}:sls", "must be the name of an SLS, such as webmail.config"))
    elif sls and _OWN_SLS.match(sls):
        reason = "is an SLS of this formula, which would wait for itself"
        faults.append(Fault(f"{key}:sls", reason, "name the one of yours that writes the files in holds"))
    if not isinstance(fields.get("ignore", False), bool):
        faults.append(Fault(f"{key}:ignore", "must be true or false"))
    if faults := [*unknown_keys(entry, _KEYS, f"{key}:"), *told_as_uris(section, faults)]:
        return None, faults
    option_file, config_file = fields.get("option_file"), fields.get("config_file")
    return Consumer(
        name=name,
        option_file=None if option_file is None else os.path.normpath(str(option_file)),
        option_group=str(fields.get("option_group", "client")),
        user=str(fields.get("user", "root")),
        group=str(fields.get("group", "root")),
        mode=int(str(fields.get("mode", "0640")), 8),
        sls=None if sls is None else str(sls),
        holds=tuple(os.path.normpath(each) for each in holds or ()),
        programs=tuple(map(_as_process_name, programs or ())),
        ignore=fields.get("ignore") is True,
        config_file=None if config_file is None else os.path.normpath(str(config_file)),
    ), []


def _defaults(name: str, fields: Mapping[object, object]) -> dict[str, object]:
    """The defaults of a consumer that is built in. One that may break, or has its password elsewhere, gets no file."""
    known = _BUILT_IN.get(name, {})
    if any(fields.get(key) is not None for key in ("sls", "holds")):
        return {key: value for key, value in known.items() if key == "programs"}
    if fields.get("ignore") is True and known:
        # An earlier apply may have written it.
        return {"programs": known["programs"], "holds": [known["option_file"]]}
    return dict(known)


def _way_faults(key: str, fields: Mapping[str, object]) -> list[Fault]:
    """A consumer gets its password in exactly one way, unless it may break."""
    has_file = fields.get("option_file") is not None
    faults = []
    if has_file and (fields.get("sls") is not None or fields.get("holds") is not None):
        reason = "is there beside sls or holds"
        faults.append(Fault(f"{key}:option_file", reason, "a consumer reads its password from one place"))
    if fields.get("sls") is not None and not fields.get("holds"):
        faults.append(Fault(f"{key}:holds", "is missing", "name the files that the SLS writes the password to"))
    if fields.get("ignore") is True:
        reason, fix = "is there beside ignore: true", "a program that may break gets no password: take out one of them"
        faults += [
            Fault(f"{key}:{name}", reason, fix) for name in ("option_file", "sls") if fields.get(name) is not None
        ]
    elif not has_file and not fields.get("sls") and not fields.get("holds"):
        fix = "set option_file, or sls and holds, or ignore: true"
        faults.append(Fault(key, "does not say where its password is", fix))
    if not has_file:
        reason = "belongs to an option_file, which is not there"
        faults += [Fault(f"{key}:{name}", reason) for name in _OF_OPTION_FILE if fields.get(name) is not None]
    return faults


def _option_file_faults(key: str, fields: Mapping[str, object]) -> list[Fault]:
    faults = []
    for name in ("option_file", "config_file"):
        if fields.get(name) is not None and not _is_path(fields[name]):
            faults.append(Fault(f"{key}:{name}", "must be the absolute path of a file, without blanks or quotes"))
    option_file = fields.get("option_file")
    if isinstance(option_file, str) and (whose := owner_of(os.path.basename(option_file))):
        faults.append(Fault(f"{key}:option_file", f"is a file of {whose}", "choose another name"))
    for name in ("option_group", "user", "group"):
        value = fields.get(name, "root")
        if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", value):
            faults.append(Fault(f"{key}:{name}", "must be a name"))
    if fields.get("mode", "0640") not in ("0400", "0440", "0600", "0640"):
        fix = "in quotes; nobody but owner and group may read a password"
        faults.append(Fault(f"{key}:mode", "must be '0640', '0600', '0440' or '0400'", fix))
    return faults


def _shared_files(found: Iterable[Consumer]) -> list[Fault]:
    """Faults of consumers that name an option file which another one has."""
    owners: dict[str, str] = {}
    return [
        Fault(f"consumers:{each.name}:option_file", f"is the file of {owners[each.option_file]} too", CHOOSE_ANOTHER)
        for each in found
        if each.option_file and owners.setdefault(each.option_file, each.name) != each.name
    ]


def _texts(value: object) -> list[str] | None:
    """A list of texts; None for what is none."""
    given = [] if value is None else value
    return given if isinstance(given, list) and all(isinstance(each, str) for each in given) else None


def _is_path(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and value.isprintable() and bool(re.fullmatch(r"/[^\s\0'\"{}]*[^\s\0'\"{}/]", value))


def _is_process_name(value: str) -> bool:
    return value.isprintable() and bool(re.fullmatch(r"[^\s/]+", value))


def _as_process_name(name: str) -> str:
    """The name as the kernel cuts it, and as we read it: half a character becomes U+FFFD."""
    return name.encode()[:_LONGEST_NAME].decode(errors="replace")
