"""Which way an address takes through Postfix: trivial-rewrite(8) itself is asked, by its socket."""

from __future__ import annotations

import os.path
import socket
from collections.abc import Mapping
from typing import NamedTuple

from _ispmail_errors import CannotAsk

# RESOLVE_CLASS_* and RESOLVE_FLAG_FAIL of Postfix's resolve_clnt.h, and the parameter of each address class.
_CLASSES = {
    1 << 8: "mydestination",
    1 << 9: "virtual_alias_domains",
    1 << 10: "virtual_mailbox_domains",
    1 << 11: "relay_domains",
}
_COULD_NOT_RESOLVE = 1 << 3
_SECONDS = 10
_LARGEST = 64 * 1024


class Route(NamedTuple):
    """What trivial-rewrite makes of a recipient."""

    address_class: str | None  # the parameter that takes its domain, such as virtual_mailbox_domains; None: none does
    transport: str


def resolve(recipient: str, queue_directory: str) -> Route:
    """Ask which address class takes a recipient, see ADDRESS_CLASS_README.

    Raises:
        CannotAsk: trivial-rewrite does not answer, or could not ask its own tables.
    """
    path = os.path.join(queue_directory, "private", "rewrite")
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_SECONDS)
            connection.connect(path)
            request = {"request": "resolve", "sender": "", "address": recipient}
            connection.sendall(_attributes(request))
            transport, flags = _answer(connection)
    except (OSError, ValueError) as err:
        reason = getattr(err, "strerror", None) or "no answer that can be read"
        raise CannotAsk(f"trivial-rewrite cannot be asked by {path}: {reason}") from err
    if flags & _COULD_NOT_RESOLVE:
        raise CannotAsk(f"trivial-rewrite could not find out the way of {recipient}: see the mail log")
    return Route(next((name for bit, name in _CLASSES.items() if flags & bit), None), transport)


def is_there(queue_directory: str) -> bool:
    """Tell whether the trivial-rewrite of a running Postfix can be asked.

    Raises:
        CannotAsk: That cannot be told.
    """
    path = os.path.join(queue_directory, "private", "rewrite")
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_SECONDS)
            connection.connect(path)
    except (FileNotFoundError, ConnectionRefusedError):
        return False
    except OSError as err:
        raise CannotAsk(f"trivial-rewrite cannot be asked by {path}: {err.strerror or 'no answer'}") from err
    return True


def _attributes(values: Mapping[str, str]) -> bytes:
    """Postfix's attr_print0(3): names and values, each ended by NUL, and an empty name at the end."""
    return b"".join(f"{name}\0{value}\0".encode("utf-8", "surrogateescape") for name, value in values.items()) + b"\0"


def _answer(connection: socket.socket) -> tuple[str, int]:
    """Transport and flags of the answer. Newer releases name their protocol before it."""
    received = b""
    while len(received) < _LARGEST and (part := connection.recv(4096)):
        received += part
        texts = received.decode("utf-8", "surrogateescape").split("\0")
        if texts[0] == "protocol":
            texts = texts[3:]
        # Five names, each with its value, and an empty name at the end.
        if len(texts) > 11 and texts[0:10:2] == ["flags", "transport", "nexthop", "recipient", "flags"]:
            return texts[3], int(texts[9])
    raise ValueError("no answer")
