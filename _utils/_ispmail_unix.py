"""Who is connected to a unix socket of this server, see sock_diag(7).

The kernel is asked itself: ss(8) prints paths as they are, and any local user may bind one with a line break in it.
Where the kernel tells no peers, ss lists nobody.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

import _ispmail_sockets
from _ispmail_errors import CannotAsk

_SECONDS = 10
# Of <linux/netlink.h>, <linux/sock_diag.h> and <linux/unix_diag.h>.
_SOCK_DIAG, _BY_FAMILY, _DUMP = 4, 20, 0x301
_ERROR, _DONE = 2, 3
_SHOW_NAME_AND_PEER, _NAME, _PEER = 1 | 4, 0, 2
# States of <net/tcp_states.h>.
_ESTABLISHED, _LISTEN = 1, 10
_HEADER, _REQUEST, _MESSAGE, _ATTRIBUTE = (struct.Struct(each) for each in ("=IHHII", "=BBHIIIII", "=BBBBIII", "=HH"))


class _End(NamedTuple):
    """One socket."""

    state: int
    inode: int
    name: bytes  # the path that it is bound to, as it was when it was bound; empty where there is none
    peer: int  # the inode of the other end, 0 where there is none


def clients(path: str) -> list[int]:
    """List the sockets, by their inodes, that are connected to a unix socket of this server.

    A PostgreSQL may have its socket in more directories than one: those of the others are listed too.

    Args:
        path: Where the socket is. It may have been bound by another path, by way of symbolic links.

    Raises:
        CannotAsk: The kernel does not tell.
    """
    found = [end for end in _ends() if end.name]
    place = _place(_name(os.path.realpath(path) if path.startswith("/") else path))
    names = {end.name for end in found if end.name == _name(path) or _place(end.name) == place}
    file = os.path.basename(_name(path))
    if file.startswith(b".s.PGSQL."):
        listening = [end for end in found if end.state == _LISTEN and os.path.basename(end.name) == file]
        # All of /proc is read for that.
        beside = not names.issuperset(end.name for end in listening)
        owners = _ispmail_sockets.owners([end.inode for end in listening] if beside else [])
        pids = {end.inode: {process.pid for process in owners.get(end.inode, [])} for end in listening}
        servers = {pid for end in listening if end.name in names for pid in pids[end.inode]}
        names |= {end.name for end in listening if not servers.isdisjoint(pids[end.inode])}
    return [end.peer for end in found if end.state == _ESTABLISHED and end.peer and end.name in names]


def _name(path: str) -> bytes:
    """How the kernel names a socket of a path. One that is in no directory begins with a zero there, see unix(7)."""
    name = os.fsencode(path)
    return b"\0" + name[1:] if name.startswith(b"@") else name


def _place(name: bytes) -> bytes:
    """Where a socket is that was bound by a path: its directory, symbolic links resolved, and its name."""
    if not name.startswith(b"/"):
        # Nobody knows what it was relative to.
        return name
    directory, file = os.path.split(name)
    return os.path.join(os.path.realpath(directory), file)


def _ends() -> list[_End]:
    """The sockets of this server that listen, or are connected.

    Raises:
        CannotAsk: The kernel does not tell.
    """
    what = _REQUEST.pack(socket.AF_UNIX, 0, 0, 1 << _ESTABLISHED | 1 << _LISTEN, 0, _SHOW_NAME_AND_PEER, 0, 0)
    found: list[_End] = []
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG) as kernel:
            kernel.settimeout(_SECONDS)
            kernel.send(_HEADER.pack(_HEADER.size + len(what), _BY_FAMILY, _DUMP, 0, 0) + what)
            while True:
                for kind, body in _messages(kernel.recv(1 << 16)):
                    if kind == _DONE:
                        return found
                    if kind == _ERROR:
                        raise OSError(-struct.unpack_from("=i", body)[0], "")
                    found.append(_end(body))
    except OSError as err:
        reason = os.strerror(err.errno) if err.errno else "it does not answer"
        if err.errno == errno.ENOENT:
            reason = "load its module unix_diag"
        raise CannotAsk(f"the kernel does not tell who uses a unix socket: {reason}") from err


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The messages of a datagram: what they are, and what follows their headers."""
    while data:
        length, kind, *_ = _HEADER.unpack_from(data)
        yield kind, data[_HEADER.size : length]
        data = data[_aligned(length) :]


def _end(body: bytes) -> _End:
    _, _, state, _, inode, *_ = _MESSAGE.unpack_from(body)
    attributes: dict[int, bytes] = {}
    rest = body[_MESSAGE.size :]
    while rest:
        length, kind = _ATTRIBUTE.unpack_from(rest)
        attributes[kind] = rest[_ATTRIBUTE.size : length]
        rest = rest[_aligned(length) :]
    name = attributes.get(_NAME, b"")
    peer = struct.unpack("=I", attributes.get(_PEER, bytes(4)))[0]
    return _End(state, inode, name if name.startswith(b"\0") else name.rstrip(b"\0"), peer)


def _aligned(length: int) -> int:
    return (length + 3) & ~3
