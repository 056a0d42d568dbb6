"""Run Postfix's own commands, see postconf(1), postfix(1) and postmap(1)."""

import os
import subprocess

from salt.exceptions import CommandExecutionError, SaltInvocationError

_COMMANDS = ("postconf", "postfix", "postmap")


def run(name, arguments, timeout=10, environment=None, pass_fds=()):
    """
    Run one of them, without a shell, bounded in time.

    name
        ``postconf``, ``postfix`` or ``postmap``.

    arguments
        A list of texts.

    timeout : 10
        How many seconds it may take; then it is killed.

    environment : None
        A dict of variables to set for it.

    pass_fds : ()
        Open files that it inherits.

    Returns a dict: ``retcode`` (None where it was killed), ``stdout`` and ``stderr``, texts in which bytes
    that are no UTF-8 are kept as surrogates.

    Raises SaltInvocationError for another command, CommandExecutionError where it is not installed.

    Source: postconf(1), postfix(1), postmap(1)

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_command.run postconf '[mail_version]'
    """
    if name not in _COMMANDS:
        raise SaltInvocationError(f"the command must be one of {', '.join(_COMMANDS)}")
    # MAIL_CONFIG and MAIL_VERBOSE would change what is asked and told; a plain user's PATH has no sbin.
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("MAIL_")}
    path = f"{inherited.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    try:
        done = subprocess.run(
            [name, *arguments],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=timeout,
            env={**inherited, "LC_ALL": "C", "PATH": path, **(environment or {})},
            pass_fds=tuple(pass_fds),
            check=False,
        )
    except FileNotFoundError as err:
        raise CommandExecutionError(f"{name} is not there: install the package postfix") from err
    except subprocess.TimeoutExpired:
        return {"retcode": None, "stdout": "", "stderr": f"no end within {timeout:.0f} s"}
    return {
        "retcode": done.returncode,
        "stdout": done.stdout.decode("utf-8", "surrogateescape"),
        "stderr": done.stderr.decode("utf-8", "surrogateescape"),
    }


def output(name, arguments):
    """
    Run one of them that has to succeed.

    name, arguments
        As for ``run``.

    Returns what it printed.

    Raises CommandExecutionError with the last line of its complaints where it failed, or did not end within
    10 seconds, and as ``run`` does.

    Source: postconf(1), postfix(1), postmap(1)

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_command.output postconf '[-m]'
    """
    done = run(name, arguments)
    if done["retcode"] != 0:
        said = done["stderr"].encode("utf-8", "surrogateescape").decode("utf-8", "replace").strip().splitlines()
        command = f"{name} {arguments[-1]}" if name == "postfix" else name
        raise CommandExecutionError(f"{command} failed: {said[-1] if said else done['retcode']}")
    return done["stdout"]
