"""Ask and reload one Postfix instance, see postfix(1) and master(5)."""

import subprocess

from salt.exceptions import CommandExecutionError

_SECONDS = 30
# The programs that open lookup tables, and run in Debian's default chroot.
_READERS = ("smtpd", "cleanup", "trivial-rewrite")


def facts(config_directory="/etc/postfix"):
    """
    Tell what decides which table files an instance can read.

    config_directory : /etc/postfix
        The directory of main.cf and master.cf.

    Returns a dict: ``version`` (text), ``queue_directory`` (path), ``proxy_read_maps`` (text, not
    expanded), ``chroot`` (whether smtpd, cleanup or trivial-rewrite run in one) and
    ``types`` (a list of the table types that can be opened).

    Raises CommandExecutionError where postconf cannot tell.

    Source: postconf(1) -F, -m, master(5)

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_instance.facts
    """
    base = ["postconf", "-c", config_directory]
    asked = ["mail_version", "compatibility_level", "queue_directory", "proxy_read_maps"]
    lines = _run(base + asked).splitlines()
    values = {name.strip(): value.strip() for name, _, value in (line.partition("=") for line in lines)}
    fields = {}
    for line in _run([*base, "-F"]).splitlines():
        name, _, value = line.partition("=")
        service, _, field = name.strip().rpartition("/")
        fields.setdefault(service, {})[field] = value.strip()
    old = values["compatibility_level"].split(".")[0] == "0"
    in_chroot = ("y", "-") if old else ("y",)
    return {
        "version": values["mail_version"],
        "queue_directory": values["queue_directory"],
        "proxy_read_maps": values["proxy_read_maps"],
        "chroot": any(
            service.get("chroot") in in_chroot and service.get("command", "").split(" ")[0] in _READERS
            for service in fields.values()
        ),
        "types": _run([*base, "-m"]).split(),
    }


def running(config_directory="/etc/postfix"):
    """
    Tell whether an instance runs.

    config_directory : /etc/postfix
        The directory of main.cf.

    Returns True or False.

    Raises CommandExecutionError where there is no postfix command, or it does not end.

    Source: postfix(1) status

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_instance.running
    """
    return _done(["postfix", "-c", config_directory, "status"]).returncode == 0


def reload(config_directory="/etc/postfix"):
    """
    Make a running instance read its configuration anew. No mail is refused for it.

    config_directory : /etc/postfix
        The directory of main.cf.

    Returns True.

    Raises CommandExecutionError with what Postfix said where it refused.

    Source: postfix(1) reload

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_instance.reload
    """
    _run(["postfix", "-c", config_directory, "reload"])
    return True


def _done(command):
    try:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except FileNotFoundError as err:
        raise CommandExecutionError(f"{command[0]} is not there: install the package postfix") from err
    except subprocess.TimeoutExpired as err:
        raise CommandExecutionError(f"{' '.join(command)} did not end within {_SECONDS} s") from err


def _run(command):
    done = _done(command)
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise CommandExecutionError(f"{' '.join(command)} failed: {said[-1] if said else done.returncode}")
    return done.stdout
