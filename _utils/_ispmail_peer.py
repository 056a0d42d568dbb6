"""Connect to a unix socket as another user of this system: PostgreSQL's login by peer asks who has connected.

See unix(7), SO_PEERCRED: what counts is who called connect(). So a child does that, and passes the connection on; the
process itself, which other threads use, stays who it is.
"""

from __future__ import annotations

import pwd
import socket
import subprocess
import sys

_CHILD = """
import os, socket, sys
path, uid, gid = sys.argv[1:]
os.setgroups([])
os.setgid(int(gid))
os.setuid(int(uid))
connection = socket.socket(socket.AF_UNIX)
connection.connect(path)
with socket.socket(fileno=0) as parent:
    socket.send_fds(parent, [b"x"], [connection.fileno()])
"""


def connect(path: str, user: str, within: float) -> socket.socket:
    """Connect to a socket as a user; needs root.

    Args:
        path: Of the socket.
        user: The name of the user.
        within: Seconds that it may take.

    Raises:
        OSError: There is no such user, or he cannot connect.
    """
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise OSError("there is no such user") from None
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command = [sys.executable, "-I", "-S", "-c", _CHILD, path, str(entry.pw_uid), str(entry.pw_gid)]
        try:
            done = subprocess.run(
                command, stdin=theirs.fileno(), capture_output=True, check=False, timeout=within, cwd="/"
            )
        except subprocess.TimeoutExpired:
            raise OSError("it takes too long") from None
        if done.returncode:
            raise OSError("the user cannot connect")
        _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
    connection = socket.socket(fileno=descriptors[0])
    connection.set_inheritable(False)
    return connection
