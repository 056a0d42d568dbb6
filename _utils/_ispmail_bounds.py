"""How long a database server may take, and how much it may send: it must not hold up an apply without end."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

from _ispmail_errors import DatabaseError

# All in seconds: for each address of a server, for all of a login, for a statement, and for one that builds an index.
CONNECT, LOGIN, _STATEMENT, _BUILD = 5.0, 10.0, 10.0, 300.0
# How much a server may send until the login has ended, and then for one statement; and what each read and each value of
# a row count beside their bytes, as they take far more memory than that.
_LOGIN_BYTES, _STATEMENT_BYTES, _READ_BYTES, _VALUE_BYTES = 2**16, 2**24, 64, 64
_CHUNK = 2**16


class Bounds:
    """The seconds and bytes of one connection, and whether another thread has ended it."""

    def __init__(self, login_within: float, lost: Callable[[], DatabaseError]) -> None:
        """Begin nothing yet.

        Args:
            login_within: Seconds for all of the login.
            lost: Makes the error for a time that is over, and for a connection that is closed.
        """
        self._login_within, self._statement_within = login_within, _STATEMENT
        self._lost = lost
        self._aborted = False
        self._until = 0.0
        self._bytes = 0

    def begin_login(self) -> None:
        """Give what follows what a login may take."""
        self._until, self._bytes = time.monotonic() + self._login_within, _LOGIN_BYTES

    def begin_statement(self) -> None:
        """Give what follows what a statement and its rows may take."""
        self._until, self._bytes = time.monotonic() + self._statement_within, _STATEMENT_BYTES

    def wait_longer(self) -> None:
        """Give statements the time that building an index takes."""
        self._statement_within = _BUILD

    def abort(self) -> None:
        """Let what another thread does on the connection fail."""
        self._aborted = True

    def left(self) -> float:
        """The seconds that are left.

        Raises:
            DatabaseError: There are none, or it was aborted.
        """
        left = self._until - time.monotonic()
        if self._aborted or left <= 0:
            raise self._lost()
        return left

    def receive(self, sock: socket.socket, count: int) -> bytes:
        """Read exactly so many bytes.

        Raises:
            DatabaseError: The time is over, the server sends too much, or it has closed the connection.
            OSError: The connection is broken.
        """
        self._take(count + _READ_BYTES)
        parts = []
        # One read of a buffered file would begin its time anew with each byte.
        while count:
            sock.settimeout(self.left())
            part = sock.recv(min(count, _CHUNK))
            if not part:
                raise self._lost()
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def take_values(self, count: int) -> None:
        """Count the values of a row that was read.

        Raises:
            DatabaseError: The server sends too much.
        """
        self._take(count * _VALUE_BYTES)

    def _take(self, count: int) -> None:
        self._bytes -= count
        if self._bytes < 0:
            raise DatabaseError("it sends more than any answer needs: check that it is the right server")
