"""The values of main.cf parameters, see postconf(5). Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

from _ispmail_errors import InvalidInput, without_logins

# What separates the words of a value. Python's own split() also splits at Unicode's blanks.
BLANKS = " \t\r\n"
_BETWEEN = re.compile(f"[{BLANKS}]+")

# Passwords and keys are looked up by these: their answers are never shown.
SECRET_PARAMETERS = ("smtp_sasl_password_maps", "lmtp_sasl_password_maps", "tls_server_sni_maps")

_NAME = r"\$(?:\w+|\{\w+\}|\(\w+\))"
# What of a value is shown to people: $name, and tables in files or elsewhere, by their paths and addresses.
_SHOWN = re.compile(
    r"check_\w+|!?(?:(?:proxy|debug):)*"
    rf"(?:(?:(?!static|inline|randmap)[a-z][a-z0-9_]*:)?(?:\.{{0,2}}/|{_NAME})(?:[^\s,{{}}$]|{_NAME})*"
    r"|(?:ldap|memcache|mongodb|mysql|nis|pgsql|socketmap|sqlite|tcp|unix):[^\s,{}$]+)"
)
_SEVERAL = re.compile(r"(?s)(!?(?:(?:proxy|debug):)*(?:unionmap|pipemap):\{|!?\{)(.*)(\})")
_CHOICE = re.compile(rf"(?s)(\$\{{[{BLANKS}]*\w+[{BLANKS}]*[?:])(.*)(\}})")
_HOLDS_ANSWERS = re.compile(r"!?(?:(?:proxy|debug):)*(?:static|inline|randmap|regexp|pcre|cidr):")

# An option of a daemon that takes a value, behind others that take none: see the main functions of master(3).
_OPTION_WITH_VALUE = re.compile(r"(?s)-[^imnorst]*([imnorst])(.*)")

# What proxymap may open: that a table stands there asks nothing.
READABLE = "proxy_read_maps"
PERMITS = (READABLE, "proxy_write_maps")
# These name the directories of other instances, see postmulti(1).
INSTANCES = ("multi_instance_directories", "alternate_config_directories")
# Ours: what else proxymap may open while a change is under way, for processes that have read another main.cf.
MEANWHILE = "ispmail_meanwhile"


def same(old: str | None, new: str | None) -> bool:
    """Tell whether two values are the same to Postfix: any white space counts as one blank, None is "not set"."""
    if old is None or new is None:
        return old is new
    return parts(old) == parts(new)


def differing(held: Mapping[str, str | None], wanted: Mapping[str, str | None]) -> list[str]:
    """The names of the wanted parameters that have other values; one that is not there is "not set"."""
    return [name for name, value in wanted.items() if not same(held.get(name), value)]


def parts(value: str, most: int = 0) -> list[str]:
    """Split a value at white space; where `most` is given, so often at the most."""
    return _BETWEEN.split(value.strip(BLANKS), most)


def words(value: str, separators: str = "," + BLANKS) -> list[str]:
    """Split a value into its words, at commas and white space; what stands in braces stays together."""
    if "{" not in value:
        for char in separators[1:]:
            value = value.replace(char, separators[0])
        return [word for word in value.split(separators[0]) if word]
    found, depth = [""], 0
    for char in value:
        if char == "{":
            depth += 1
        elif char == "}":
            depth = max(0, depth - 1)
        if depth == 0 and char in separators:
            found.append("")
        else:
            found[-1] += char
    return [word for word in found if word]


def with_meanwhile(readable: str | None) -> str:
    """The value of proxy_read_maps that also allows what is set by MEANWHILE."""
    return f"${MEANWHILE}" if readable is None else f"{readable}, ${MEANWHILE}"


def settled(values: Mapping[str, str]) -> dict[str, str]:
    """Values without MEANWHILE, which a change that is under way, or was cut off, has set.

    Where somebody else has put more around it in proxy_read_maps, what it stood for is a part of their value.
    """
    found = dict(values)
    meanwhile = found.pop(MEANWHILE, "")
    if found.get(READABLE) == with_meanwhile(None):
        del found[READABLE]
    elif READABLE in found:
        found[READABLE] = found[READABLE].removesuffix(with_meanwhile("")).replace(with_meanwhile(None), meanwhile)
    return found


def path_of(word: str) -> str:
    """The path in a table such as ``proxy:mysql:/etc/postfix/a.cf``."""
    return word.rpartition(":")[2]


def shown(name: str, value: str | None, secret_names: Collection[str]) -> str | None:
    """A parameter's value for people: passwords that stand in main.cf itself, and logins in a URI, as ***.

    A table may have its keys in main.cf, see mysql_table(5).

    Args:
        secret_names: SECRET_PARAMETERS, and those that they refer to.
    """
    if value is None:
        return None
    if re.search(r"(?i)pass(w|$|_)|pwd|(^|_)pw($|_)|secret", name) and not name.endswith("_maps"):
        return "***"
    return without_inline(value) if name in secret_names else without_logins(value)


def without_inline(value: str) -> str:
    """A value without what it holds itself, which may be passwords: tables by their paths, and each $name, are left."""
    found, rest = "", value
    for word in words(value):
        before, _, rest = rest.partition(word)
        found += before + _without_answers(word)
    return found + rest


def _without_answers(word: str) -> str:
    if _SHOWN.fullmatch(word):
        return without_logins(word)
    if found := _SEVERAL.fullmatch(word) or _CHOICE.fullmatch(word):
        return found[1] + without_inline(found[2]) + found[3]
    holds = _HOLDS_ANSWERS.match(word)
    return f"{holds[0] if holds else ''}***"


def without_holders(table: str) -> list[str]:
    """A table, or those in its braces where these hold answers themselves, which may be passwords."""
    several = _SEVERAL.fullmatch(table)
    if without_inline(table) == table or not several or "proxy:" in several[1]:
        return [table]
    return [each for word in words(several[2]) for each in without_holders(word)]


def overrides(command: str) -> dict[str, str]:
    """The parameters that a command of master.cf sets by ``-o name=value``, ``-oname=value``, ``{-oname = value}``, …

    As master(8) splits the command, and the daemon takes its options by getopt(3): they end at the first argument that
    is none, such as ``flags=`` of pipe(8).
    """
    found = {}
    arguments = map(_without_braces, words(command, BLANKS)[1:])
    for argument in arguments:
        if not argument.startswith("-") or argument in ("-", "--"):
            break
        if option := _OPTION_WITH_VALUE.fullmatch(argument):
            name, _, value = (option[2] or next(arguments, "")).partition("=")
            if option[1] == "o" and name:
                found[name.strip(BLANKS)] = value.strip(BLANKS)
    return found


def _without_braces(argument: str) -> str:
    in_braces = argument.startswith("{") and argument.endswith("}")
    return argument[1:-1].strip(BLANKS) if in_braces else argument


def values_of(printed: str) -> dict[str, str]:
    """Read what postconf(1) printed: name to value. The name of a service may hold ``=``, but no blank."""
    found = {}
    for line in printed.split("\n"):
        name, equals, value = line.partition(" =")
        if equals:
            found[name] = value.strip(BLANKS)
    return found


def checked_names(names: Iterable[object]) -> list[str]:
    """Refuse what cannot be the name of a parameter.

    Raises:
        InvalidInput: Names all that cannot.
    """
    given = list(names)
    texts = [name for name in given if isinstance(name, str)]
    bad = [name for name in texts if not re.fullmatch(r"[A-Za-z0-9_.][A-Za-z0-9_.-]*", name)]
    faults = [f"not the name of a parameter: {', '.join(map(repr, bad))}"] if bad else []
    if others := [repr(name) for name in given if not isinstance(name, str)]:
        # YAML reads no, on and 5 so.
        faults.append(f"not a text in YAML, but the name of a parameter must be: put it in quotes: {', '.join(others)}")
    if faults:
        raise InvalidInput("; ".join(faults))
    return texts


def checked_values(parameters: Mapping[str, object]) -> dict[str, str | None]:
    """Bring values into the form in which main.cf has them: lists are joined, true and false become yes and no.

    Raises:
        InvalidInput: Names all parameters whose value main.cf cannot hold.
    """
    values: dict[str, str | None] = {}
    faults = []
    for name in checked_names(parameters):
        value = parameters[name]
        if isinstance(value, (list, tuple)):
            value = ", ".join(map(str, value))
        elif isinstance(value, bool):
            value = "yes" if value else "no"
        elif isinstance(value, (int, float)):
            value = str(value)
        if value is not None and not isinstance(value, str):
            faults.append(f"{name}: must be a text, a number, a list, true or false")
        elif value and re.search(r"[\n\0]", value):
            faults.append(f"{name}: has a newline or NUL character, which main.cf cannot hold: take it out")
        else:
            values[name] = value and value.strip(BLANKS)
    if faults:
        raise InvalidInput("; ".join(faults))
    return values
