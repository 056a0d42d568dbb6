"""Change one Postfix instance, all or nothing: table files, main.cf, reload, and undo."""

import contextlib
import fcntl
import os
import time
import urllib.parse

from salt.exceptions import CommandExecutionError

_LOCK_SECONDS = 60


def make(config_directory, files, parameters=None, check=None, expected=None):
    """
    Replace files and set parameters together, reload Postfix if it runs, check, and put
    everything back if any of it fails.

    config_directory
        The directory of main.cf.

    files
        A list of dicts as ``postfix_files.replace`` takes it.

    parameters : None
        A dict: name of a parameter to its value, None to take it out of main.cf.

    check : None
        A function that is called last, with whether Postfix runs. It raises
        CommandExecutionError to have everything put back.

    expected : None
        A dict: name of a parameter to the value, None for not set, that it must still
        have for anything to be done.

    Returns a list of the processes that still ask with what they have read before, as
    ``postfix_instance.reload`` does.

    Raises CommandExecutionError with the reason, and whether everything was put back.

    Source: postfix(1) reload, postconf(1)

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_change.make /etc/postfix '[]' '{message_size_limit: 20480000}'
    """
    with _lock(config_directory) as journal:
        names = list(parameters or {})
        old = dict.fromkeys(names, None)
        if parameters:
            old.update(__salt__["postconf.get"](names, config_directory))
            for name, value in (expected or {}).items():
                if not any(__salt__["postconf.same"](old.get(name), good) for good in (value, parameters[name])):
                    raise CommandExecutionError(
                        f"{name} in {config_directory}/main.cf was changed by somebody else meanwhile, "
                        "nothing was written: try again"
                    )
            files = [*files, __salt__["postconf.edited"](parameters, config_directory)]
        before, old_processes = [], []
        journal.seek(0)
        __salt__["postfix_files.tidy"](journal.read().splitlines())
        _mark(journal, "".join(f"{file['path']}\n" for file in files) or "at work\n")
        try:
            before = __salt__["postfix_files.replace"](files)
            running = __salt__["postfix_instance.running"](config_directory)
            if running:
                old_processes = __salt__["postfix_instance.reload"](config_directory)
            if check:
                check(running)
        except BaseException as err:
            said = _put_back(before, config_directory, old)
            if before or isinstance(err, Exception):
                # Else a signal cut replace() off, perhaps after its renames: the next apply finishes it.
                _mark(journal, "")
            if not isinstance(err, Exception):
                raise
            # The text of an unforeseen error may hold anything.
            why = err if isinstance(err, CommandExecutionError) else f"unforeseen {type(err).__name__}"
            raise CommandExecutionError(f"{why}\n{said}") from (err if why is err else None)
        _mark(journal, "")
    return old_processes


def interrupted(config_directory="/etc/postfix"):
    """
    Tell whether a change was cut off between its first write and its end (the machine
    went down, the process was killed): then Postfix may not have been reloaded.

    config_directory : /etc/postfix
        The directory of main.cf.

    Returns True or False.

    Raises nothing.

    Source: ``make``, which keeps a journal in the minion's cachedir

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_change.interrupted
    """
    with contextlib.suppress(FileNotFoundError):
        return os.path.getsize(_journal(config_directory)) > 0
    return False


def _journal(config_directory):
    name = urllib.parse.quote(os.path.realpath(config_directory), safe="")
    return os.path.join(__opts__["cachedir"], "postfix_change", name)


@contextlib.contextmanager
def _lock(config_directory):
    """One change at a time; yields the journal, which is empty when all is well."""
    path = _journal(config_directory)
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    with open(path, "a+", encoding="utf-8", errors="surrogateescape") as journal:
        until = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as err:
                if time.monotonic() > until:
                    raise CommandExecutionError(
                        f"another apply has been at work for {_LOCK_SECONDS} s, nothing was changed: "
                        f"see who holds it with fuser {path}"
                    ) from err
                time.sleep(0.1)
        yield journal


def _mark(journal, text):
    journal.truncate(0)
    journal.write(text)
    journal.flush()
    os.fsync(journal.fileno())


def _put_back(before, config_directory, old):
    if not before:
        return "Nothing was changed, Postfix answers as before."
    files = []
    try:
        for file in before:
            now = __salt__["postfix_files.read"](file["path"])["content"]
            # Where somebody else has edited main.cf since, undo our parameters only.
            edited = file["lock"] and now != file["expected"]
            files.append(__salt__["postconf.edited"](old, config_directory) if edited else file)
        __salt__["postfix_files.replace"](files)
        if __salt__["postfix_instance.running"](config_directory):
            __salt__["postfix_instance.reload"](config_directory)
            return "Everything was put back as it was, and Postfix reloaded: it answers as before."
        return "Everything was put back as it was."
    except CommandExecutionError as err:
        paths = ", ".join(file["path"] for file in before)
        raise CommandExecutionError(
            f"It could not be put back ({err}): mail may be affected, look at {paths} now"
        ) from err
