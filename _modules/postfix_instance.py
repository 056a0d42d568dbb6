"""Ask and reload one Postfix instance, see postfix(1) and master(5)."""

import contextlib
import os
import smtplib
import socket
import time

# The programs that open lookup tables, and run in Debian's default chroot.
_READERS = ("smtpd", "cleanup", "trivial-rewrite")
_PROXIES = ("proxymap",)


def facts(config_directory="/etc/postfix"):
    """
    Tell what decides which table files an instance can read.

    config_directory : /etc/postfix
        The directory of main.cf and master.cf.

    Returns a dict: ``version`` (text), ``queue_directory`` (path) and ``chroot`` (whether
    smtpd, cleanup or trivial-rewrite run in one).

    Raises CommandExecutionError where postconf cannot tell.

    Source: postconf(1), master(5)

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_instance.facts
    """
    asked = ["mail_version", "compatibility_level", "queue_directory"]
    values = __salt__["postconf.get"](asked, config_directory, defaults=True)
    old = values["compatibility_level"].split(".")[0] == "0"
    in_chroot = ("y", "-") if old else ("y",)
    return {
        "version": values["mail_version"],
        "queue_directory": values["queue_directory"],
        "chroot": any(
            service["chroot"] in in_chroot and service["command"].split(" ")[0] in _READERS
            for service in __salt__["postconf.services"](config_directory)
        ),
    }


def running(config_directory="/etc/postfix"):
    """
    Tell whether an instance runs.

    config_directory : /etc/postfix
        The directory of main.cf.

    Returns True or False.

    Raises CommandExecutionError where there is no postfix command.

    Source: postfix(1) status

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_instance.running
    """
    return __salt__["postfix_command.run"]("postfix", ["-c", config_directory, "status"])["retcode"] == 0


def reload(config_directory="/etc/postfix", drain=2):
    """
    Make a running instance read its configuration anew. No mail is refused for it: a
    process that is busy ends its session first, an idle one is gone within a second.

    config_directory : /etc/postfix
        The directory of main.cf.

    drain : 2
        How many seconds to wait for the processes that have read the old table files.

    Returns a list of those that are left, such as ``smtpd 4711``: they still ask with
    what they have read before.

    Raises CommandExecutionError with what Postfix said where it refused.

    Source: postfix(1) reload, master(8)

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_instance.reload drain=30
    """
    began = time.clock_gettime(time.CLOCK_BOOTTIME)
    __salt__["postfix_command.output"]("postfix", ["-c", config_directory, "reload"])
    queue = _queue_directory(config_directory)
    until = time.monotonic() + drain
    while True:
        old = _older_than(began, queue)
        if not old or time.monotonic() > until:
            return old
        time.sleep(0.02)


def old_processes(files, config_directory="/etc/postfix"):
    """
    Tell which processes of an instance have begun before its table files were replaced.

    files
        A list of paths.

    config_directory : /etc/postfix
        The directory of main.cf.

    Returns a list such as ``smtpd 4711``: they ask with what they have read before, and end with their sessions.

    Raises CommandExecutionError where postconf cannot tell the queue directory.

    Source: proc(5), stat(2)

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_instance.old_processes '[/etc/postfix/mariadb-virtual-alias-maps.cf]'
    """
    # A rename sets the status change time; the modification time is set back.
    changed = [os.stat(path).st_ctime for path in files if os.path.exists(path)]
    if not changed:
        return []
    began = time.clock_gettime(time.CLOCK_BOOTTIME) - (time.time() - max(changed))
    return _older_than(began, _queue_directory(config_directory))


def rcpt(recipient, config_directory="/etc/postfix", timeout=10):
    """
    Ask an instance's own smtpd whether it takes mail for a recipient. No mail is sent.

    recipient
        An address.

    config_directory : /etc/postfix
        The directory of main.cf and master.cf.

    timeout : 10
        How many seconds to wait for each reply.

    Returns a dict: ``server`` (``host:port``, None where no smtpd listens without TLS), ``code`` (of the
    reply, None where there was none) and ``text``, the reply or why there is none.

    Raises CommandExecutionError where postconf cannot tell where smtpd listens.

    Source: smtpd(8), RFC 5321

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_instance.rcpt jack@example.org
    """
    server = _smtpd(config_directory)
    if server is None:
        return {"server": None, "code": None, "text": "no smtpd listens without TLS"}
    host, _, port = server.rpartition(":")
    try:
        with smtplib.SMTP(host, int(port), local_hostname="localhost", timeout=timeout) as client:
            client.ehlo_or_helo_if_needed()
            code, text = client.docmd("MAIL FROM:<>")
            if code == 530 and client.has_extn("starttls"):
                # submission(s) with smtpd_tls_security_level=encrypt; whose certificate it is does not matter here.
                client.starttls()
                client.ehlo()
                code, text = client.docmd("MAIL FROM:<>")
            if code == 250:
                code, text = client.docmd(f"RCPT TO:<{recipient}>")
    except smtplib.SMTPResponseException as err:
        code, text = err.smtp_code, err.smtp_error
    except (OSError, smtplib.SMTPException) as err:
        return {"server": server, "code": None, "text": getattr(err, "strerror", None) or type(err).__name__}
    return {"server": server, "code": code, "text": text.decode(errors="replace") if isinstance(text, bytes) else text}


def _smtpd(config_directory):
    """Where an smtpd listens that speaks first and without TLS, as host:port."""
    for service in __salt__["postconf.services"](config_directory):
        command = service["command"]
        if service["type"] == "inet" and command.split(" ")[0] == "smtpd" and "wrappermode" not in command:
            host, _, port = service["name"].rpartition(":")
            break
    else:
        return None
    if not host:
        value = __salt__["postconf.get"]("inet_interfaces", config_directory, defaults=True)["inet_interfaces"]
        host = next(iter(__salt__["postconf.words"](value)), "all")
        host = {"all": "127.0.0.1", "loopback-only": "127.0.0.1", "$myhostname": "127.0.0.1"}.get(host, host)
    if not port.isdigit():
        try:
            port = socket.getservbyname(port, "tcp")
        except OSError:
            return None
    return f"{host.strip('[]')}:{port}"


def _queue_directory(config_directory):
    return __salt__["postconf.get"]("queue_directory", config_directory, defaults=True)["queue_directory"]


def _older_than(began, queue_directory):
    """The processes of an instance that opened their table files before that moment since boot."""
    ticks = os.sysconf("SC_CLK_TCK")
    with contextlib.suppress(OSError, ValueError), open(os.path.join(queue_directory, "pid", "master.pid")) as file:
        master = int(file.read())
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as stat:
                name, _, rest = stat.read().partition("(")[2].rpartition(")")
                fields = rest.split()
                # proc(5): ppid is field 4, starttime field 22; rest begins with field 3.
                ours = int(fields[1]) == master
                if ours and name in _READERS + _PROXIES and int(fields[19]) / ticks < began:
                    found.append(f"{name} {pid}")
        return found
    return []
