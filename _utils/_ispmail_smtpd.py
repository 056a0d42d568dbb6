"""Ask smtpd itself, as a client that sends a mail: the one question that has everything in it."""

from __future__ import annotations

import re
import socket
import time
from typing import Any, NamedTuple

from _ispmail_errors import Failed
from _ispmail_expand import expand
from _ispmail_inventory import Inventory
from _ispmail_maincf import overrides, words

# A recipient of a domain that nobody has: smtpd and its helpers ask the maps for it.
NOBODY = "probe@probe.invalid"
_PROTOCOL = "smtpd_upstream_proxy_protocol"
_SECONDS = 10.0
# How long to wait for a process that master(8) does not start yet, however long that would take.
_PATIENCE_SECONDS = 120.0
# Postfix's own default of service_throttle_time.
_THROTTLE_SECONDS = 60.0
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


class Reply(NamedTuple):
    """What smtpd said to a question. `code` is None where there was no reply, `text` then says why."""

    server: str | None  # host:port; None where no smtpd listens without TLS
    code: int | None
    text: str
    connected: bool = True  # False: nothing listens there, or not for us

    @property
    def is_silent(self) -> bool:
        """Whether master(8) has our connection and no program answers, as after one of them has died."""
        return self.server is not None and self.code is None and self.connected

    @property
    def cannot_ask(self) -> bool:
        """Whether smtpd says that it cannot ask its maps."""
        return self.code == 451 and ("lookup failure" in self.text or "configuration error" in self.text)

    @property
    def was_not_asked(self) -> bool:
        """Whether smtpd refuses our client itself, before it asks any map."""
        refuses = (
            self.code is not None and self.code >= 500 and re.search("Access denied|Client host rejected", self.text)
        )
        return self.code in (None, 421, 530) or bool(refuses)

    def __str__(self) -> str:
        return f"{self.code or ''} {self.text}".strip()


def ask(inventory: Inventory, recipient: str = NOBODY, timeout: float = _SECONDS) -> Reply:
    """Ask an smtpd whether it takes mail for a recipient. No mail is sent.

    Args:
        timeout: How many seconds to wait for each reply.
    """
    import smtplib  # noqa: PLC0415  an apply that has nothing to do need not load it

    listening = _listening(inventory)
    if listening is None:
        return Reply(None, None, "no smtpd listens without TLS", connected=False)
    behind_proxy = listening.behind_proxy
    connected = False

    class Client(smtplib.SMTP):
        """Says first for whom it speaks, as a load balancer does, where smtpd waits for that."""

        def _get_socket(self, *arguments: Any) -> Any:
            nonlocal connected
            connection = super()._get_socket(*arguments)  # type: ignore[misc]
            connected = True
            if behind_proxy:
                connection.sendall(_on_behalf_of(connection))
            return connection

    def begin(client: smtplib.SMTP) -> tuple[int, bytes]:
        # With strict_smtputf8 smtpd takes a recipient such as jürgen@example.org in no other mail, see SMTPUTF8_README.
        is_utf8 = not recipient.isascii() and client.has_extn("smtputf8")
        return client.docmd("MAIL FROM:<> SMTPUTF8" if is_utf8 else "MAIL FROM:<>")

    server = f"{listening.host}:{listening.port}"
    try:
        with Client(listening.host, listening.port, local_hostname="localhost", timeout=timeout) as client:
            client.command_encoding = "utf-8"
            client.ehlo_or_helo_if_needed()
            code, text = begin(client)
            if code == 530 and client.has_extn("starttls"):
                # submission with smtpd_tls_security_level=encrypt; whose certificate it is does not matter here.
                client.starttls()
                client.ehlo()
                code, text = begin(client)
            if code == 250:
                code, text = client.docmd(f"RCPT TO:<{recipient}>")
    except smtplib.SMTPResponseException as err:
        said = err.smtp_error
        code, text = err.smtp_code, said if isinstance(said, bytes) else said.encode()
    except (OSError, UnicodeError) as err:
        # All errors of smtplib are OSErrors too; and a recipient may be no text at all.
        return Reply(server, None, getattr(err, "strerror", None) or type(err).__name__, connected)
    return Reply(server, code, text.decode(errors="replace"))


class _Listening(NamedTuple):
    """Where an smtpd listens."""

    host: str
    port: int
    behind_proxy: bool  # it waits for the line of a load balancer


def _listening(inventory: Inventory) -> _Listening | None:
    """Where an smtpd listens that speaks first and without TLS; None: nowhere."""
    for service in inventory.services:
        if service.type == "inet" and service.program == "smtpd" and "wrappermode" not in service.command:
            host, _, port = service.name.rpartition(":")
            break
    else:
        return None
    if not host:
        host = next(iter(words(inventory.settings.expanded("inet_interfaces"))), "all")
        host = "127.0.0.1" if host in ("all", "loopback-only") else host
    if not port.isdigit():
        try:
            port = str(socket.getservbyname(port, "tcp"))
        except OSError:
            return None
    protocol = overrides(service.command).get(_PROTOCOL, inventory.settings.values.get(_PROTOCOL, ""))
    is_haproxy = expand(protocol, inventory.settings.values) == "haproxy"
    return _Listening(host.removeprefix("[").removesuffix("]"), int(port), is_haproxy)


def _on_behalf_of(connection: socket.socket) -> bytes:
    """The line of HAProxy's PROXY protocol, version 1, for this very connection."""
    (host, port), (server, server_port) = connection.getsockname()[:2], connection.getpeername()[:2]
    family = "TCP6" if ":" in host else "TCP4"
    return f"PROXY {family} {host} {server} {port} {server_port}\r\n".encode("ascii")


def refuse_if_worse(before: Reply | None, inventory: Inventory) -> list[str]:
    """Ask after a change, and refuse what postmap cannot see: smtpd does not answer, or cannot ask its maps.

    Where smtpd did not answer before either, the reason may be gone: a program that has died, such as trivial-rewrite,
    is not started again for a while. So smtpd is asked until that is over. No answer at all is never taken for a yes.

    Args:
        before: What smtpd said before the change; None where Postfix did not run then.
        inventory: Postfix as it is now.

    Returns:
        A warning where smtpd could not ask its maps before either: that is not of this change.

    Raises:
        Failed: Says what smtpd said.
    """
    was_silent = before is not None and before.is_silent
    after = _ask_until_restarted(inventory) if was_silent else ask(inventory)
    has_no_reply = after.server is not None and after.code is None
    # Nobody has reached it before, nor now: no program that has died looks like that.
    never_reached = before is not None and before.code is None and not (was_silent or after.is_silent)
    if not after.cannot_ask and (never_reached or not has_no_reply):
        return []
    see = f"({after}): see the mail log, which names the table"
    if before is not None and before.cannot_ask and after.cannot_ask:
        return [f"smtpd on {after.server} could not ask its maps before this change, and cannot now {see}"]
    if was_silent:
        seconds = f"{_restarted_after(inventory):g} s"
        now = "cannot ask its maps now" if after.cannot_ask else f"not within {seconds} after it either"
        raise Failed(f"smtpd on {after.server} did not answer before this change, and {now} {see}")
    cannot = "does not answer, or cannot ask its maps" if before is None else "can no longer ask its maps"
    raise Failed(f"smtpd on {after.server} {cannot}, though postmap can {see}")


def describe_now(before: Reply | None, inventory: Inventory) -> str:
    """Say how Postfix answers after a change was put back and Postfix reloaded, compared with before the change.

    Args:
        before: What smtpd said before the change; None where Postfix did not run then.
    """
    now = ask(inventory)
    if now.is_silent:
        also = ", nor did it before the change" if before is not None and before.is_silent else ""
        return (
            f"smtpd on {now.server} does not answer yet ({now}){also}: master(8) starts a program that has died again "
            f"after {_throttled(inventory):g} s (service_throttle_time); postfix stop and postfix start do so at once."
        )
    answered = before is not None and before.code is not None
    if now.was_not_asked:
        if answered and now.code is None and now.server is not None:
            return f"smtpd on {now.server} does not answer any more ({now}): see the mail log."
        return f"smtpd itself was not asked ({now})."
    if now.cannot_ask:
        also = ", nor could it before the change" if before is not None and before.cannot_ask else ""
        return f"smtpd on {now.server} cannot ask its maps ({now}){also}: see the mail log, which names the table."
    return "It answers as before." if answered and before and not before.cannot_ask else "It answers now."


def _ask_until_restarted(inventory: Inventory) -> Reply:
    """Ask for as long as master(8) may not start a program again that has died."""
    until = time.monotonic() + _restarted_after(inventory)
    while True:
        # One question waits as long as it has to: master keeps its connection, and the next process takes it.
        reply = ask(inventory, timeout=max(until - time.monotonic(), 1))
        if reply.code is not None or time.monotonic() > until:
            return reply
        time.sleep(0.5)


def _restarted_after(inventory: Inventory) -> float:
    return min(_throttled(inventory) + _SECONDS, _PATIENCE_SECONDS)


def _throttled(inventory: Inventory) -> float:
    """For how many seconds master(8) does not start a program that has died, see service_throttle_time."""
    found = re.fullmatch(r"(\d+)([smhdw]?)", inventory.settings.expanded("service_throttle_time"))
    return float(found[1]) * _UNITS[found[2] or "s"] if found else _THROTTLE_SECONDS
