"""Read and set main.cf parameters, see postconf(1) and postconf(5)."""

import os
import re
import tempfile
import time

from salt.exceptions import CommandExecutionError, SaltInvocationError

__func_alias__ = {"set_": "set"}

# What separates the words of a value. Python's own split() takes Unicode's blanks too.
_BLANKS = " \t\r\n"


def get(parameters=None, config_directory="/etc/postfix", defaults=False):
    """
    Read parameters.

    parameters : None
        A name or a list of names; None for all.

    config_directory : /etc/postfix
        The directory of main.cf.

    defaults : False
        Whether to give the default of a parameter that main.cf does not set.

    Returns a dict: name to value, as main.cf has it, ``$name`` not expanded. A
    parameter that main.cf does not set is there only with ``defaults``.

    Raises SaltInvocationError for a name that is none, CommandExecutionError where
    there is no Postfix or no main.cf.

    Source: postconf(1) -n

    CLI Example:

    .. code-block:: bash

        salt '*' postconf.get virtual_alias_maps
    """
    names = _names(parameters)
    if parameters is not None and not names:
        return {}
    _need_main_cf(config_directory)
    flags = [] if defaults else ["-n"]
    values = {}
    for line in __salt__["postfix_command.output"]("postconf", ["-c", config_directory, *flags, *names]).split("\n"):
        name, equals, value = line.partition("=")
        if equals and (name.strip(_BLANKS) in names or not names):
            values[name.strip(_BLANKS)] = value.strip(_BLANKS)
    if set(names) - set(values):
        # postconf keeps silent on a parameter of the admin's own until another one uses it.
        file = __salt__["postfix_files.read"](os.path.join(config_directory, "main.cf"))
        own = __salt__["postfix_table.parse"]((file["content"] or b"").decode("utf-8", "surrogateescape"))
        values.update({name: " ".join(_parts(own[name])) for name in names if name in own and name not in values})
    return values


def default(parameter, config_directory="/etc/postfix"):
    """
    Tell the default of a parameter, whatever main.cf sets.

    parameter
        A name.

    config_directory : /etc/postfix
        The directory of main.cf.

    Returns a text, ``$name`` not expanded; None for a parameter that Postfix does not know.

    Raises SaltInvocationError for a name that is none, CommandExecutionError where
    there is no Postfix.

    Source: postconf(1) -d

    CLI Example:

    .. code-block:: bash

        salt '*' postconf.default proxy_read_maps
    """
    said = __salt__["postfix_command.output"]("postconf", ["-c", config_directory, "-d", *_names([parameter])])
    return said.partition("=")[2].strip(_BLANKS) if said else None


def services(config_directory="/etc/postfix"):
    """
    Read the services of master.cf.

    config_directory : /etc/postfix
        The directory of master.cf.

    Returns a list of dicts, in the order of the file: ``name``, ``type``, ``private``, ``unprivileged``, ``chroot``,
    ``wakeup``, ``process_limit`` and ``command``, texts as master.cf has them.

    Raises CommandExecutionError where there is no Postfix, or no master.cf.

    Source: postconf(1) -F, master(5)

    CLI Example:

    .. code-block:: bash

        salt '*' postconf.services
    """
    found = {}
    for line in __salt__["postfix_command.output"]("postconf", ["-c", config_directory, "-F"]).split("\n"):
        key, equals, value = line.partition("=")
        if equals:
            name, type_, field = key.strip(_BLANKS).rsplit("/", 2)
            found.setdefault((name, type_), {"name": name, "type": type_})[field] = value.strip(_BLANKS)
    return list(found.values())


def types(config_directory="/etc/postfix"):
    """
    Tell which types of table this Postfix can open.

    config_directory : /etc/postfix
        The directory of main.cf.

    Returns a list of names, such as ``mysql``.

    Raises CommandExecutionError where there is no Postfix.

    Source: postconf(1) -m

    CLI Example:

    .. code-block:: bash

        salt '*' postconf.types
    """
    return __salt__["postfix_command.output"]("postconf", ["-c", config_directory, "-m"]).split()


def set_(parameters, config_directory="/etc/postfix", test=False):
    """
    Set parameters, many in one go, and only where they differ.

    parameters
        A dict: name to value. A list is joined by ``, ``, true and false become ``yes``
        and ``no``.

    config_directory : /etc/postfix
        The directory of main.cf.

    test : False
        Whether only to tell what would be done.

    Returns a dict: name to ``{"old": …, "new": …}`` of what was changed; ``old`` is None for
    a parameter that was not set. A running Postfix is not told: reload it.

    Raises SaltInvocationError that lists all bad names and values, CommandExecutionError
    where main.cf cannot be written; it is as before then.

    Source: postconf(1) -e

    CLI Example:

    .. code-block:: bash

        salt '*' postconf.set '{message_size_limit: 20480000}'
    """
    return _change(_values(parameters), config_directory, test)


def unset(parameters, config_directory="/etc/postfix", test=False):
    """
    Take parameters out of main.cf, so that Postfix takes their defaults.

    parameters
        A name or a list of names.

    config_directory : /etc/postfix
        The directory of main.cf.

    test : False
        Whether only to tell what would be done.

    Returns a dict: name to ``{"old": …, "new": None}`` of what was taken out.

    Raises SaltInvocationError for a name that is none, CommandExecutionError where
    main.cf cannot be written; it is as before then.

    Source: postconf(1) -X

    CLI Example:

    .. code-block:: bash

        salt '*' postconf.unset '[virtual_alias_domains]'
    """
    return _change(dict.fromkeys(_names(parameters)), config_directory, test)


def edited(parameters, config_directory="/etc/postfix"):
    """
    Tell what main.cf would be with other parameters, by a postconf that works on a copy.

    parameters
        A dict: name to value, None to take the parameter out.

    config_directory : /etc/postfix
        The directory of main.cf.

    Returns a dict as ``postfix_files.replace`` takes it: path, content, owner and mode of
    main.cf, what it must still hold, and that it needs postconf's lock.

    Raises SaltInvocationError for a bad name or value, CommandExecutionError where main.cf
    cannot be read.

    Source: postconf(1) -e, -X

    CLI Example:

    .. code-block:: bash

        salt '*' postconf.edited '{message_size_limit: 20480000}'
    """
    parameters = _values(parameters)
    _need_main_cf(config_directory)
    file = __salt__["postfix_files.read"](os.path.join(config_directory, "main.cf"))
    content = file["content"]
    if content and not content.endswith(b"\n"):
        # postconf 3.7 would glue the new parameter to the last line.
        content += b"\n"
    edits = [f"{name}={value}" for name, value in parameters.items() if value is not None]
    removals = [name for name, value in parameters.items() if value is None]
    try:
        after = _on_a_copy(content, edits, removals)
    except OSError as err:
        raise CommandExecutionError(f"{tempfile.gettempdir()} cannot hold a copy of main.cf: {err.strerror}") from err
    return {
        "path": file["path"],
        "content": after,
        "expected": file["content"],
        "uid": file["uid"],
        "gid": file["gid"],
        "mode": file["mode"],
        "lock": True,
    }


def same(old, new):
    """
    Tell whether two values of a parameter are the same to Postfix.

    old, new
        Texts, None for a parameter that is not set.

    Returns True or False: white space counts as one blank.

    Raises nothing.

    Source: postconf(5)

    CLI Example:

    .. code-block:: bash

        salt '*' postconf.same 'a, b' 'a,  b'
    """
    if old is None or new is None:
        return old is new
    return _parts(old) == _parts(new)


def words(value):
    """
    Split a parameter's value into its words; what stands in braces stays together.

    value
        A text, as main.cf has it.

    Returns a list of texts, without the commas and blanks between them.

    Raises nothing.

    Source: postconf(5)

    CLI Example:

    .. code-block:: bash

        salt '*' postconf.words 'hash:/etc/aliases, inline:{{a = b}}'
    """
    found, depth = [""], 0
    for char in value:
        depth = max(0, depth + (char == "{") - (char == "}"))
        if depth == 0 and char in "," + _BLANKS:
            found.append("")
        else:
            found[-1] += char
    return [word for word in found if word]


def with_tables(value, tables, paths):
    """
    Tell a parameter's value with some tables in it, and all else that it holds.

    value
        The value, as main.cf has it.

    tables
        A list of tables, ``type:path`` or ``proxy:type:path``, in their order.

    paths
        The paths of all tables that are ours: others of these are taken out.

    Returns the value as it is where the tables stand in it in this order, else with them
    where the first of them stood, or at the end.

    Raises nothing.

    Source: postconf(5), DATABASE_README

    CLI Example:

    .. code-block:: bash

        salt '*' postconf.with_tables 'hash:/etc/aliases' '[mysql:/etc/postfix/a.cf]' '[/etc/postfix/a.cf]'
    """
    found = words(value)
    at = [number for number, word in enumerate(found) if word.rpartition(":")[2] in paths]
    if [found[number] for number in at] == tables:
        return value
    others = [word for number, word in enumerate(found) if number not in at]
    start = at[0] if at else len(others)
    between = " " if len(others) > 1 and "," not in value else ", "
    return between.join([*others[:start], *tables, *others[start:]])


def _on_a_copy(content, edits, removals):
    """What postconf makes of a main.cf."""
    with tempfile.TemporaryDirectory(prefix="postconf-") as directory:
        copy = os.path.join(directory, "main.cf")
        with open(copy, "wb") as stream:
            os.fchmod(stream.fileno(), 0o600)
            stream.write(content)
        for flag, arguments in (("-e", edits), ("-X", removals)):
            if arguments:
                # postconf waits on a main.cf younger than two seconds.
                os.utime(copy, (time.time() - 5,) * 2)
                __salt__["postfix_command.output"]("postconf", ["-c", directory, flag, *arguments])
        with open(copy, "rb") as stream:
            return stream.read()


def _parts(value):
    return re.split(f"[{_BLANKS}]+", value.strip(_BLANKS))


def _change(parameters, config_directory, test):
    current = get(list(parameters), config_directory)
    changes = {
        name: {"old": current.get(name), "new": value}
        for name, value in parameters.items()
        if not same(current.get(name), value)
    }
    if changes and not test:
        file = edited({name: change["new"] for name, change in changes.items()}, config_directory)
        __salt__["postfix_files.replace"]([file])
    return changes


def _names(parameters):
    if parameters is None:
        return []
    names = [parameters] if isinstance(parameters, str) else list(parameters)
    bad = [str(name) for name in names if not re.fullmatch(r"[A-Za-z0-9_.-]+", str(name)) or str(name)[0] == "-"]
    if bad:
        raise SaltInvocationError(f"not the name of a parameter: {', '.join(map(repr, bad))}")
    return names


def _values(parameters):
    if not isinstance(parameters, dict):
        raise SaltInvocationError("the parameters must be a mapping of names to values")
    values, faults = {}, []
    for name in _names(parameters):
        value = parameters[name]
        if isinstance(value, (list, tuple)):
            value = ", ".join(map(str, value))
        elif isinstance(value, bool):
            value = "yes" if value else "no"
        elif isinstance(value, (int, float)):
            value = str(value)
        if isinstance(value, str) and re.search(r"[\n\0]", value):
            faults.append(f"{name}: has a newline or NUL character, which main.cf cannot hold: take it out")
        elif value is not None and not isinstance(value, str):
            faults.append(f"{name}: must be a text, a number, a list, true or false")
        else:
            values[name] = value.strip(_BLANKS) if value else value
    if faults:
        raise SaltInvocationError("; ".join(faults))
    return values


def _need_main_cf(config_directory):
    path = os.path.join(config_directory, "main.cf")
    if not os.path.isfile(path):
        raise CommandExecutionError(f"there is no {path}: is Postfix installed and configured there?")
