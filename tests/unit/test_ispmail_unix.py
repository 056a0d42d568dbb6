"""Who is connected to a unix socket: what the kernel tells."""

import contextlib
import errno
import os
import socket
import struct

import pytest

import _ispmail_unix
from _ispmail_errors import CannotAsk

# Relative to our folder: another run of these tests may have the same at the same time.
A = f"a{os.getpid()}.sock"


@contextlib.contextmanager
def connected(bound, way=None):
    """A server that is bound to a path, and a client by that or another one: the client's inode."""
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(bound)
        server.listen()
        client.connect(way or bound)
        with server.accept()[0]:
            yield os.fstat(client.fileno()).st_ino
    if bound[:1] not in (b"\0", "\0"):
        os.unlink(bound)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder, in which we are: the path of a socket must be short."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def linked(folder):
    """A folder with a name of its own and by a link, both short, and with another one."""
    short = os.path.join("/tmp", f"u{os.getpid()}")
    os.symlink(folder, short)
    for name in ("real", "other"):
        (folder / name).mkdir()
    (folder / "link").symlink_to("real")
    yield short
    os.unlink(short)


def test_the_clients_of_a_socket(folder):
    with connected(A) as inode:
        assert _ispmail_unix.clients(A) == [inode]
        assert _ispmail_unix.clients("/run/none") == _ispmail_unix.clients("none") == []
    assert _ispmail_unix.clients(A) == []


@pytest.mark.parametrize("bound", ["link", "real"])
@pytest.mark.parametrize("asked", ["link", "real"])
def test_a_socket_is_found_by_any_way_to_its_folder(linked, bound, asked):
    """Debian's PostgreSQL binds below /var/run, a link to /run: who used the socket was nobody."""
    with connected(f"{linked}/{bound}/d.sock") as inode:
        assert _ispmail_unix.clients(f"{linked}/{asked}/d.sock") == [inode]
        assert _ispmail_unix.clients(f"{linked}/other/d.sock") == []
        assert _ispmail_unix.clients(f"{linked}/real/e.sock") == []


def test_a_path_that_is_a_link_to_the_socket(linked):
    os.symlink("real/d.sock", f"{linked}/way.sock")
    with connected(f"{linked}/link/d.sock") as inode:
        assert _ispmail_unix.clients(f"{linked}/way.sock") == [inode]


@pytest.mark.parametrize(
    "name",
    [b"\xff.sock", f"x\nu_str 0 0 {A} 7 * 8\n".encode(), b"\n * 1 * 2", f"@{A}".encode()],
    ids=["no UTF-8", "a line", "line break", "at"],
)
def test_any_user_may_bind_any_path(folder, name):
    """A byte that is no UTF-8 ended every apply with a traceback; a line break made a line of ss of its own."""
    with connected(name), connected(A) as inode:
        assert _ispmail_unix.clients(A) == [inode]
        assert _ispmail_unix.clients(f"@{A}") == _ispmail_unix.clients(f"\0{A}") == []
    with connected(name) as inode:
        # More than one run of these tests may have it.
        assert (inode in _ispmail_unix.clients(os.fsdecode(name))) is not name.startswith(b"@")


def test_a_socket_that_is_in_no_directory():
    with connected(f"\0{A}\0".encode()) as inode:
        assert _ispmail_unix.clients(f"@{A}\0") == [inode]
        assert _ispmail_unix.clients(f"@{A}") == []


def test_a_path_relative_to_another_folder_is_none_of_ours(folder):
    """Nobody knows to which: it stands for no path but itself."""
    with connected(A):
        assert _ispmail_unix.clients(f"{folder}/{A}") == []


def test_a_postgresql_with_its_socket_in_two_directories(linked, monkeypatch):
    """Whoever used the one that was not asked was not counted. Another server's of the same name is another one."""
    first, second, third = (f"{linked}/{name}/.s.PGSQL.5999" for name in ("real", "other", "third"))
    os.mkdir(f"{linked}/third")
    own = {}

    def owners(inodes):
        known = _ispmail_unix._ispmail_sockets.Process(7, "postgres", 1, "", 0.0, "", 0)
        return {inode: [known._replace(pid=8 if inode == own["third"] else 7)] for inode in inodes}

    monkeypatch.setattr("_ispmail_sockets.owners", owners)
    # With one alone nothing is looked for: all of /proc would be read each time.
    with connected(first) as one:
        assert _ispmail_unix.clients(first) == [one]
    with connected(first) as one, connected(second) as two, connected(third) as three:
        listening = {end.name: end.inode for end in _ispmail_unix._ends() if end.state == 10}
        own["third"] = listening[third.encode()]
        assert sorted(_ispmail_unix.clients(first)) == sorted([one, two])
        assert _ispmail_unix.clients(third) == [three]
        # A MariaDB has one socket.
    with connected(f"{linked}/real/d.sock") as one, connected(f"{linked}/other/d.sock"):
        assert _ispmail_unix.clients(f"{linked}/real/d.sock") == [one]


def test_who_is_not_connected_yet_and_who_is_not_any_more(folder):
    """A pair without a name has no socket of a server; what nobody has accepted is no login."""
    here, there = socket.socketpair()
    with here, there, socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(A)
        server.listen()
        client.connect(A)
        assert _ispmail_unix.clients(A) == []
        with server.accept()[0]:
            client.close()
            assert _ispmail_unix.clients(A) == []
        assert _ispmail_unix.clients("") == []


class Kernel:
    """A socket of netlink(7) that answers what it is given."""

    def __init__(self, *answers):
        self.answers = list(answers)

    def __call__(self, family, kind, protocol):
        assert (family, kind, protocol) == (socket.AF_NETLINK, socket.SOCK_RAW, 4)
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def settimeout(self, seconds):
        assert seconds == 10

    def send(self, data):
        assert len(data) == 40

    def recv(self, size):
        assert size == 65536
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def message(kind, body):
    body += bytes(-len(body) % 4)
    return struct.pack("=IHHII", 16 + len(body), kind, 2, 0, 0) + body


def end(inode, *attributes):
    body = struct.pack("=BBBBIII", 1, 1, 1, 0, inode, 0, 0)
    for kind, value in attributes:
        body += struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)
    return message(20, body)


def test_what_the_kernel_tells_is_read(monkeypatch):
    """In several answers; attributes in any order, with more than was asked for."""
    peer = struct.pack("=I", 7)
    answers = (
        end(1, (0, b"/a.sock\0"), (2, peer)) + end(2, (2, peer)) + end(3),
        end(4, (6, b"\0"), (2, struct.pack("=I", 8)), (9, b"12345"), (0, b"/a.sock\0")),
        end(5, (0, b"/a.sock\0")) + end(6, (0, b"/a.sock2\0"), (2, peer)),
        message(3, bytes(4)),
    )
    monkeypatch.setattr(socket, "socket", Kernel(*answers))
    assert _ispmail_unix.clients("/a.sock") == [7, 8]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (TimeoutError("timed out"), "it does not answer"),
        (PermissionError(errno.EACCES, "x"), "Permission denied"),
        (message(2, struct.pack("=i", -errno.ENOENT)), "load its module unix_diag"),
        (message(2, struct.pack("=i", -errno.EPERM)), "Operation not permitted"),
    ],
)
def test_a_kernel_that_does_not_tell_is_an_error(monkeypatch, answer, reason):
    """Not an empty list: whoever uses the socket would be nobody, as ss has it."""
    monkeypatch.setattr(socket, "socket", Kernel(end(1), answer))
    with pytest.raises(CannotAsk) as caught:
        _ispmail_unix.clients("/a.sock")
    assert str(caught.value) == f"the kernel does not tell who uses a unix socket: {reason}"
