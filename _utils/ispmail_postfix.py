"""Ask and reload one Postfix instance, see postfix(1) and master(5)."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass

import ispmail_postconf
from ispmail_command import output, run
from ispmail_maincf import words
from ispmail_postconf import Service

log = logging.getLogger(__name__)

# The programs that open lookup tables. The first three run in Debian's default chroot.
_IN_CHROOT = ("smtpd", "cleanup", "trivial-rewrite")
_READERS = (*_IN_CHROOT, "proxymap")


@dataclass(frozen=True)
class Facts:
    """What decides which table files an instance can read."""

    version: str
    queue_directory: str
    chroot: bool  # whether smtpd, cleanup or trivial-rewrite run in one
    smtpd: str | None  # host:port of an smtpd that speaks first and without TLS; None: nowhere


@dataclass(frozen=True)
class Reply:
    """What smtpd said to a question. `code` is None where there was no reply, `text` then says why."""

    server: str | None  # host:port; None where no smtpd listens without TLS
    code: int | None
    text: str


def facts(config_directory: str) -> Facts:
    """Read what decides which table files an instance can read.

    Raises:
        CannotAsk: postconf cannot tell.
    """
    asked = ["mail_version", "compatibility_level", "queue_directory", "inet_interfaces"]
    values = ispmail_postconf.get(asked, config_directory, defaults=True)
    old_defaults = values["compatibility_level"].split(".")[0] == "0"
    in_chroot = ("y", "-") if old_defaults else ("y",)
    services = ispmail_postconf.services(config_directory)
    chroot = any(service.chroot in in_chroot and service.program in _IN_CHROOT for service in services)
    smtpd = _smtpd(services, values["inet_interfaces"])
    return Facts(values["mail_version"], values["queue_directory"], chroot, smtpd)


def installed() -> bool:
    """Tell whether there is a Postfix. A server that has only other programs with the maps' account needs none."""
    return shutil.which("postfix", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin") is not None


def running(config_directory: str) -> bool:
    """Tell whether an instance runs, see postfix(1) status."""
    return run("postfix", ["-c", config_directory, "status"]).returncode == 0


def reload(config_directory: str, drain: float = 2) -> list[str]:
    """Make a running instance read its configuration again; no mail is refused.

    A busy process ends its session first, an idle one ends within a second.

    Args:
        drain: How many seconds to wait for the processes that have read the old table files.

    Returns:
        Those that are left, such as ``smtpd 4711``: they still use what they have read before.

    Raises:
        CannotAsk: Postfix refused; says what Postfix said.
    """
    began = time.clock_gettime(time.CLOCK_BOOTTIME)
    started = time.monotonic()
    output("postfix", ["-c", config_directory, "reload"])
    queue = _queue_directory(config_directory)
    until = time.monotonic() + drain
    while True:
        old = _started_before(began, queue)
        if not old or time.monotonic() > until:
            log.info("reloaded Postfix in %s in %.2f s", config_directory, time.monotonic() - started)
            return old
        time.sleep(0.02)


def old_processes(files: Sequence[str], config_directory: str) -> list[str]:
    """Tell which processes of an instance started before its table files were replaced.

    Returns:
        A list such as ``smtpd 4711``: they use what they have read before, and end with their sessions.
    """
    # A rename sets the status change time; the modification time is set back.
    changed = [os.stat(path).st_ctime for path in files if os.path.exists(path)]
    if not changed:
        return []
    began = time.clock_gettime(time.CLOCK_BOOTTIME) - (time.time() - max(changed))
    return _started_before(began, _queue_directory(config_directory))


def rcpt(recipient: str, server: str | None, timeout: float = 10) -> Reply:
    """Ask an smtpd whether it takes mail for a recipient. No mail is sent.

    Args:
        server: `Facts.smtpd`.
        timeout: How many seconds to wait for each reply.
    """
    import smtplib  # noqa: PLC0415  an apply that has nothing to do need not load it

    if server is None:
        return Reply(None, None, "no smtpd listens without TLS")
    host, _, port = server.rpartition(":")
    try:
        with smtplib.SMTP(host, int(port), local_hostname="localhost", timeout=timeout) as client:
            client.ehlo_or_helo_if_needed()
            code, text = client.docmd("MAIL FROM:<>")
            if code == 530 and client.has_extn("starttls"):
                # submission with smtpd_tls_security_level=encrypt; whose certificate it is does not matter here.
                client.starttls()
                client.ehlo()
                code, text = client.docmd("MAIL FROM:<>")
            if code == 250:
                code, text = client.docmd(f"RCPT TO:<{recipient}>")
    except smtplib.SMTPResponseException as err:
        said = err.smtp_error
        code, text = err.smtp_code, said if isinstance(said, bytes) else said.encode()
    except (OSError, smtplib.SMTPException) as err:
        return Reply(server, None, getattr(err, "strerror", None) or type(err).__name__)
    return Reply(server, code, text.decode(errors="replace"))


def _smtpd(services: Sequence[Service], inet_interfaces: str) -> str | None:
    """Where an smtpd listens that speaks first and without TLS, as host:port; None: nowhere."""
    for service in services:
        if service.type == "inet" and service.program == "smtpd" and "wrappermode" not in service.command:
            host, _, port = service.name.rpartition(":")
            break
    else:
        return None
    if not host:
        host = next(iter(words(inet_interfaces)), "all")
        host = {"all": "127.0.0.1", "loopback-only": "127.0.0.1", "$myhostname": "127.0.0.1"}.get(host, host)
    if not port.isdigit():
        try:
            port = str(socket.getservbyname(port, "tcp"))
        except OSError:
            return None
    return f"{host.strip('[]')}:{port}"


def _queue_directory(config_directory: str) -> str:
    return ispmail_postconf.get(["queue_directory"], config_directory, defaults=True)["queue_directory"]


def _started_before(began: float, queue_directory: str) -> list[str]:
    """The processes of an instance that open table files and started before that second since boot."""
    ticks = os.sysconf("SC_CLK_TCK")
    found = []
    with contextlib.suppress(OSError, ValueError), open(os.path.join(queue_directory, "pid", "master.pid")) as file:
        master = int(file.read())
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as stat:
                name, _, rest = stat.read().partition("(")[2].rpartition(")")
                fields = rest.split()
                # proc(5): ppid is field 4, starttime field 22; rest begins with field 3.
                is_child = int(fields[1]) == master
                if is_child and name in _READERS and int(fields[19]) / ticks < began:
                    found.append(f"{name} {pid}")
    return found
