"""Dovecot's configuration: which databases it logs in to, and by which option file. Dovecot 2.3 and 2.4. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import NamedTuple

from _ispmail_config_consumers import Consumer

# Words of a connect string that can be repeated in a message: none of them holds a secret.
_SHOWN = (
    *("host", "hostaddr", "port", "dbname", "client_flags", "connect_timeout", "read_timeout", "write_timeout"),
    "maxconns",
    *("ssl_ca", "ssl_ca_path", "ssl_cert", "ssl_key", "ssl_cipher", "ssl_verify_server_cert"),
)
# What Dovecot 2.3 strips, and splits at, in a file with SQL settings.
_BLANKS = " \t"
# Patterns for lines of such a file; compiled where there is one, as each apply imports this file.
# Up to the comment: # in quotes begins none. A quote that is not closed goes to the end of the line.
_BARE = r"""(?s)(?:[^'"#]|"(?:[^"\\]|\\.)*"?|'(?:[^'\\]|\\.)*'?)*"""
_SETTING = r"(?s)([^ \t=]*)[ \t]*=[ \t]*(.*)"
_BEGIN = r"(?s)[^ \t=]*[ \t]+(?:[^ \t{][^ \t]*[ \t]+)?\{.*"
_INCLUDE = r"!include(_try)?(?![^ \t=])"
_ENVIRONMENT = r"(?:^|[ \t])\$ENV:"
# What Dovecot 2.4 replaces by something else when it reads a setting.
_REPLACED = r"^<|\$(?:ENV|SET):|%\{"

# The names of the blocks around a setting, from the outside in.
_Path = tuple[str, ...]


class Connection(NamedTuple):
    """How Dovecot logs in to one MySQL or MariaDB."""

    where: str  # file, or block of dovecot.conf
    user: str | None  # None: the client library takes that of an option file
    has_password: bool
    option_file: str | None
    option_group: str
    lines: str  # what to write there; %s stands for the options that name the option file
    elsewhere: tuple[str, ...] = ()  # which settings of user and password stand in another place


def is_old(doveconf: str) -> bool:
    """Whether `doveconf -n` is that of a release before 2.4, which keeps its SQL settings in files of their own."""
    found = re.match(r"# (\d+)\.(\d+)", doveconf)
    return found is not None and (int(found[1]), int(found[2])) < (2, 4)


def sql_files(doveconf: str) -> list[str]:
    """The files with SQL settings that Dovecot 2.3 reads, from what `doveconf -n` printed.

    Raises:
        ValueError: It names one by no absolute path, or somewhere else. Says where.
    """
    found: dict[str, str] = {}
    blocks: dict[_Path, dict[str, str]] = {}
    for block, name, value in _settings(doveconf):
        blocks.setdefault(block, {})[name] = value
    for block, values in blocks.items():
        kind = re.sub(r"#\d+$", "", block[-1]) if block else ""
        if kind in ("passdb", "userdb"):
            driver = _in_place(values.get("driver", ""), "driver", kind)
            if driver == "sql":
                found.setdefault(_in_place(values.get("args", ""), "args", kind), f"args in a block {kind}")
        elif kind == "dict":
            for name, value in values.items():
                if _in_place(value, name, kind).startswith("mysql:"):
                    found.setdefault(value.partition(":")[2], f"{name} in a block {kind}")
    for path, where in found.items():
        if not path.startswith("/"):
            # What stands there instead may be a login.
            raise ValueError(f"{where} has no absolute path")
    return list(found)


def _in_place(value: str, name: str, kind: str) -> str:
    """A value that doveconf printed.

    Raises:
        ValueError: Dovecot takes it from a file, or from its environment.
    """
    if value.startswith(("<", "$ENV:")):
        raise ValueError(f"{name} in a block {kind} takes its value from elsewhere: write it there")
    return value


def old_connections(path: str, content: str) -> list[Connection]:
    """The logins in a file with SQL settings of Dovecot 2.3, see its dovecot-sql.conf.ext.

    Raises:
        ValueError: Which logins it has cannot be told. Says why.
    """
    values = _sql_settings(content)
    if values.get("driver", "mysql") != "mysql" or "connect" not in values:
        return []
    # Dovecot splits at blanks alone, quotes mean nothing, and the last of two counts.
    words = [word.partition("=") for word in values["connect"].split(" ") if word]
    options = {name: value for name, _, value in words}
    # A value that holds more than one may hold a secret.
    shown = " ".join(f"{name}={value}" for name, _, value in words if name in _SHOWN and not re.search(r"[=\s]", value))
    return [
        Connection(
            path,
            options.get("user") or None,
            "password" in options,
            options.get("option_file") or None,
            options.get("option_group", "client"),
            f"connect = {shown} %s" if shown else "connect = %s",
        )
    ]


def new_connections(doveconf: str) -> list[Connection]:
    """The logins in what `doveconf -n` of Dovecot 2.4 printed: its blocks ``mysql HOST { … }``.

    Settings around such a block, as ``mysql_user``, count where it has none of its own. Those in another block, such as
    ``passdb sql { … }``, count for who asks by that one. Whether they go before those of the block itself depends on
    which were written last, which doveconf does not tell: both are logins. A block ``group @NAME LABEL { … }`` counts
    where ``@NAME = LABEL`` stands.

    Raises:
        ValueError: Which logins it has cannot be told. Says why.
    """
    blocks: dict[_Path, dict[str, str]] = {}
    others: dict[_Path, dict[str, str]] = {}
    used: set[str] = set()
    for block, name, value in _settings(doveconf):
        if name.startswith("@"):
            used.add(f"group {name} {value}")
        elif block and block[-1].startswith("mysql "):
            blocks.setdefault(block, {})[name.removeprefix("mysql_")] = value
        elif name.startswith("mysql_"):
            others.setdefault(block, {})[name.removeprefix("mysql_")] = value
    for path in (*blocks, *others):
        if path and path[0] in used:
            raise ValueError(f"the block {path[0]} has settings of a login: write them where it is used")
    blocks, others = (
        {path: values for path, values in each.items() if not path or not path[0].startswith("group @")}
        for each in (blocks, others)
    )
    found = []
    for block, own in blocks.items():
        above = block[:-1]
        around = {path: values for path, values in others.items() if path == above[: len(path)]}
        found.append(_new_connection(block, own, [*around.items(), (block, own)]))
        for path in others:
            if path not in around and path[: len(above)] == above:
                below = [(each, others[each]) for each in others if each == path[: len(each)] and each not in around]
                found.append(_new_connection(block, own, [*around.items(), (block, own), *below]))
    return list(dict.fromkeys(found))


def _new_connection(block: _Path, own: dict[str, str], given: list[tuple[_Path, dict[str, str]]]) -> Connection:
    """The login by a block of Dovecot 2.4, with the settings that count for it, by where they are; later ones win."""
    values: dict[str, str] = {}
    places: dict[str, _Path] = {}
    for path, settings in given:
        values.update(settings)
        places.update(dict.fromkeys(settings, path))
    where = f"the block {_shown_path(block)}"
    if any(re.search(_REPLACED, values.get(name, "")) for name in ("user", "option_file", "option_group")):
        raise ValueError(f"{where} takes a value from elsewhere: write it there")
    shown = "".join(f"  {name} = {value}\n" for name, value in own.items() if name in _SHOWN)
    return Connection(
        where,
        values.get("user") or None,
        bool(values.get("password")),
        values.get("option_file") or None,
        values.get("option_group") or "client",
        f"{block[-1]} {{\n{shown}%s}}",
        tuple(
            f"mysql_{name} {f'in the block {_shown_path(places[name])}' if places[name] else 'outside of all blocks'}"
            for name in ("user", "password")
            if values.get(name) and places[name] != block
        ),
    )


def _shown_path(path: _Path) -> str:
    """Blocks for people, from the inside out."""
    return " in ".join(re.sub(r"#\d+$", "", name) for name in reversed(path))


def faults(consumer: Consumer, accounts: Collection[str], connections: list[Connection], old: bool) -> list[str]:
    """What is wrong with Dovecot's logins for the accounts, each with the lines to write; empty if nothing is.

    A login that names neither the option file nor one of the accounts is not looked at: it is somebody else's.
    """
    found, named = [], False
    for each in connections:
        names_it = each.option_file == consumer.option_file and each.option_group == consumer.option_group
        if names_it and each.user is None and not each.has_password:
            named = True
        elif names_it or each.option_file == consumer.option_file or each.user in accounts:
            reason = (
                "has a user or password of its own, which goes before the option file"
                if names_it
                else f"does not log in by {consumer.option_file}"
            )
            take = "".join(f"\nTake out {setting}." for setting in each.elsewhere)
            found.append(f"{each.where} {reason}. Write there:\n{_lines(each.lines, consumer, old)}{take}")
    if not named and not found:
        lines = (
            "connect = host=127.0.0.1 dbname=mailserver %s" if old else "mysql 127.0.0.1 {\n  dbname = mailserver\n%s}"
        )
        where = "the file with its SQL settings" if old else f"{consumer.config_file}"
        found.append(
            f"Dovecot does not log in by {consumer.option_file}. Write in {where}:\n{_lines(lines, consumer, old)}"
        )
    return found


def _lines(template: str, consumer: Consumer, old: bool) -> str:
    """Lines of Dovecot's configuration, indented, that name the option file and neither user nor password."""
    options = {"option_file": consumer.option_file}
    if consumer.option_group != "client":
        options["option_group"] = consumer.option_group
    if old:
        text = template.replace("%s", " ".join(f"{name}={value}" for name, value in options.items()))
    else:
        text = template.replace("%s", "".join(f"  {name} = {value}\n" for name, value in options.items()))
    return "\n".join(f"    {line}" for line in text.splitlines())


def _sql_settings(content: str) -> dict[str, str]:
    """The settings of a file with SQL settings of Dovecot 2.3, without those in its blocks; the last of two counts.

    Lines are cut at their comments, then joined where they end in a backslash: neither an empty line nor one that is a
    comment ends what is joined.

    Raises:
        ValueError: Dovecot cannot read it, or it takes something from elsewhere.
    """
    found: dict[str, str] = {}
    depth, begun = 0, ""
    for number, text in enumerate(content.split("\n"), 1):
        line = _bare(text)
        if line.endswith("\\"):
            begun += f"{line[:-1].rstrip(_BLANKS)} "
            continue
        if not line:
            continue
        line, begun = begun + line, ""
        if re.match(_INCLUDE, line):
            raise ValueError(f"line {number} includes another file: write what that says in this one")
        if setting := re.fullmatch(_SETTING, line):
            if not depth:
                found[setting[1]] = _value(setting[2], number)
            continue
        if re.fullmatch(_BEGIN, line):
            depth += 1
        elif line == "}" and depth:
            depth -= 1
        else:
            raise ValueError(
                f"line {number} is no setting, and neither begins nor ends a block: Dovecot cannot read it"
            )
    return found


def _bare(text: str) -> str:
    """A line without its comment and the blanks at its ends."""
    line = text.removesuffix("\r").partition("\0")[0].lstrip(_BLANKS)
    return str(re.findall(_BARE, line)[0]).rstrip(_BLANKS)


def _value(text: str, line: int) -> str:
    """What the value of a setting stands for: one pair of quotes is taken off, with the escapes between them.

    Raises:
        ValueError: It is in the environment of Dovecot.
    """
    value = _unquoted(text)
    if value == text and re.search(_ENVIRONMENT, text):
        raise ValueError(f"line {line} takes a value from Dovecot's environment: write it there")
    return value


def _unquoted(text: str) -> str:
    """A text without the quotes around it, and with its escapes replaced; as it is where there are none."""
    if text[:1] not in ("'", '"') or text[-1] != text[0]:
        return text
    return re.sub(r"\\(.?)", r"\1", text[1:-1], flags=re.DOTALL)


def _settings(doveconf: str) -> Iterator[tuple[_Path, str, str]]:
    """Each setting that doveconf printed: the blocks around it, its name and its value, without quotes.

    A block begins with a setting that has neither name nor value. Blocks of one name, such as several passdbs of
    Dovecot 2.3, are told apart by a number.
    """
    blocks: list[str] = []
    number = 0
    for line in doveconf.split("\n"):
        bare = line.strip()
        if bare.startswith("#") or not bare:
            continue
        if bare.endswith("{"):
            number += 1
            name = bare.removesuffix("{").strip()
            blocks.append(f"{name}#{number}" if " " not in name else name)
            yield tuple(blocks), "", ""
        elif bare == "}":
            blocks = blocks[:-1]
        else:
            name, _, value = bare.partition("=")
            yield tuple(blocks), name.strip(), _unquoted(value.strip())
