"""Ask smtpd itself, as a client that sends a mail: the one question that has everything in it."""

from __future__ import annotations

import re
import socket
from typing import Any, NamedTuple

from ispmail_errors import Failed
from ispmail_expand import expand
from ispmail_inventory import Inventory
from ispmail_maincf import overrides, words

# A recipient of a domain that nobody has: smtpd and its helpers ask the maps for it.
NOBODY = "probe@probe.invalid"
_PROTOCOL = "smtpd_upstream_proxy_protocol"


class Reply(NamedTuple):
    """What smtpd said to a question. `code` is None where there was no reply, `text` then says why."""

    server: str | None  # host:port; None where no smtpd listens without TLS
    code: int | None
    text: str

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


def ask(inventory: Inventory, recipient: str = NOBODY, timeout: float = 10) -> Reply:
    """Ask an smtpd whether it takes mail for a recipient. No mail is sent.

    Args:
        timeout: How many seconds to wait for each reply.
    """
    import smtplib  # noqa: PLC0415  an apply that has nothing to do need not load it

    listening = _listening(inventory)
    if listening is None:
        return Reply(None, None, "no smtpd listens without TLS")
    behind_proxy = listening.behind_proxy

    class Client(smtplib.SMTP):
        """Says first for whom it speaks, as a load balancer does, where smtpd waits for that."""

        def _get_socket(self, *arguments: Any) -> Any:
            connection = super()._get_socket(*arguments)  # type: ignore[misc]
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
        return Reply(server, None, getattr(err, "strerror", None) or type(err).__name__)
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


def refuse_if_worse(before: Reply | None, after: Reply) -> list[str]:
    """Refuse what postmap cannot see: smtpd answered before, and now it does not, or cannot ask its maps.

    Args:
        before: None where Postfix did not run then.

    Returns:
        A warning where smtpd could not ask its maps before either: that is not of this change.

    Raises:
        Failed: Says what smtpd said.
    """
    answered_before = before is None or before.code is not None
    is_silent = after.server is not None and after.code is None
    if not after.cannot_ask and not (is_silent and answered_before):
        return []
    see = f"({after}): see the mail log, which names the table"
    if before is not None and before.cannot_ask and after.cannot_ask:
        return [f"smtpd on {after.server} could not ask its maps before this change, and cannot now {see}"]
    cannot = "does not answer, or cannot ask its maps" if before is None else "can no longer ask its maps"
    raise Failed(f"smtpd on {after.server} {cannot}, though postmap can {see}")
