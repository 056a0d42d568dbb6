"""Interfere with the N-th system call that changes something, in a process, its threads and its children.

The kernel hands such calls to us before they run (seccomp_unotify(2)): we let a call run, let it fail, or kill its
process. Other calls run at full speed. Needs root, and Linux 5.5 or newer.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import platform
import re
import select
import signal
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field

# Number of each call: x86_64, aarch64 (None where it has none). Those in CREATING count only where they create a file.
CALLS: dict[str, tuple[int, int | None]] = {
    "open": (2, None),
    "openat": (257, 56),
    "creat": (85, None),
    "memfd_create": (319, 279),
    "write": (1, 64),
    "pwrite64": (18, 68),
    "writev": (20, 66),
    "fsync": (74, 82),
    "fdatasync": (75, 83),
    "rename": (82, None),
    "renameat": (264, 38),
    "renameat2": (316, 276),
    "link": (86, None),
    "linkat": (265, 37),
    "unlink": (87, None),
    "unlinkat": (263, 35),
    "rmdir": (84, None),
    "mkdir": (83, None),
    "mkdirat": (258, 34),
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "chown": (92, None),
    "fchown": (93, 55),
    "fchownat": (260, 54),
    "utimensat": (280, 88),
    "ftruncate": (77, 46),
    "execve": (59, 221),
    "flock": (73, 32),
}
CREATING = {"open": 1, "openat": 2}  # which argument has the flags
# Which argument names the file; the first is a descriptor where none is listed.
NAMING = {
    "openat": 1,
    "renameat": 1,
    "renameat2": 1,
    "linkat": 1,
    "unlinkat": 1,
    "mkdirat": 1,
    "fchmodat": 1,
    "fchownat": 1,
}
NAMING |= dict.fromkeys(["open", "creat", "memfd_create", "rename", "link", "unlink", "rmdir", "mkdir"], 0)
NAMING |= dict.fromkeys(["chmod", "chown", "execve"], 0)
TAKES_ROOM = ("open", "openat", "creat", "write", "pwrite64", "writev", "link", "linkat", "mkdir", "mkdirat")
DISKS = ("/tmp", "/var", "/etc", "/root")  # not pipes, /dev, /proc
MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
ARCHITECTURE, COLUMN = MACHINES.get(platform.machine(), (0, 0))
NUMBERS = {numbers[COLUMN]: name for name, numbers in CALLS.items() if numbers[COLUMN] is not None}

SECCOMP = {"x86_64": 317, "aarch64": 277}.get(platform.machine(), 0)
_NOTIFY, _ALLOW = 0x7FC00000, 0x7FFF0000
_RECEIVE, _SEND, _CONTINUE = 0xC0502100, 0xC0182101, 1
_LONGEST = 120  # seconds that a traced process may take


@dataclass
class Traced:
    """What happened: the calls in their order, and what the function returned; None where it was killed."""

    calls: list[str] = field(default_factory=list)  # such as "rename /etc/postfix/.x.cf.new"
    returned: str | None = None
    hit: str = ""  # the call that was interfered with


@dataclass(frozen=True)
class _Plan:
    way: str
    number: int | str
    every: bool
    look: Callable[[str], None] | None = None

    def is_it(self, found: Traced) -> bool:
        """Whether the last call is the one."""
        if isinstance(self.number, int):
            return len(found.calls) == self.number
        return (self.every or not found.hit) and re.search(self.number, found.calls[-1]) is not None


def traced(
    function: Callable[[], str],
    way: str = "",
    number: int | str = 0,
    every: bool = False,
    look: Callable[[str], None] | None = None,
) -> Traced:
    """Run a function in a forked process, and interfere with its calls.

    Args:
        way: "kill" kills the process that makes the call, "cut" all of them; "EIO" and "ENOSPC" let the call fail;
            "full" lets each call from there on fail that needs room on the disk.
        number: Which call, from 1, 0 for none; or a regular expression, for the first call that it is found in.
        every: Whether each call that the regular expression is found in.
        look: Called with each call, before the call runs: what is on the disk then is what the calls before have left.
    """
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            pid = os.fork()
            if pid == 0:
                _child(function, theirs)
        listener = _received_descriptor(ours)
        found = Traced()
        try:
            ours.sendall(b"go")
            _supervise(listener, pid, _Plan(way, number, every, look), found)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            os.close(listener)
            os.waitpid(pid, 0)
        ours.setblocking(False)
        with contextlib.suppress(BlockingIOError, ConnectionResetError):
            found.returned = ours.recv(1 << 20).decode() or None
    return found


def _child(function: Callable[[], str], theirs: socket.socket) -> None:
    """Never returns."""
    try:
        os.setpgid(0, 0)
        for each in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(each, signal.SIG_DFL)
        listener = _install_filter()
        socket.send_fds(theirs, [b"fd"], [listener])
        os.close(listener)
        theirs.recv(2)
        try:
            text = function()
        except BaseException as err:  # pylint: disable=broad-except
            text = f"{type(err).__name__}: {err}"
        theirs.send(text.encode())
    finally:
        os._exit(0)


def _received_descriptor(ours: socket.socket) -> int:
    _, descriptors, _, _ = socket.recv_fds(ours, 2, 1)
    if not descriptors:
        raise RuntimeError("the kernel took no filter: are you root, and is Linux 5.5 or newer?")
    return descriptors[0]


def _install_filter() -> int:
    """Have the listed calls of this process and its children handed to the one that holds the descriptor returned."""
    tests = [(number, CREATING.get(name)) for number, name in NUMBERS.items()]
    program = [(0x20, 0, 0, 4), (0x15, 1, 0, ARCHITECTURE), (0x06, 0, 0, _ALLOW), (0x20, 0, 0, 0)]
    for number, flags in tests:
        if flags is None:
            program += [(0x15, 0, 1, number), (0x06, 0, 0, _NOTIFY)]
        else:
            program += [(0x15, 0, 4, number), (0x20, 0, 0, 16 + 8 * flags), (0x45, 0, 1, os.O_CREAT)]
            program += [(0x06, 0, 0, _NOTIFY), (0x06, 0, 0, _ALLOW)]
    program.append((0x06, 0, 0, _ALLOW))
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code)
    filtered = struct.pack("HxxxxxxP", len(program), ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    # SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER
    listener = libc.syscall(SECCOMP, 1, 8, ctypes.c_char_p(filtered))
    if listener < 0:
        raise OSError(ctypes.get_errno(), "seccomp")
    return int(listener)


def _supervise(listener: int, pid: int, plan: _Plan, found: Traced) -> None:
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    until = time.monotonic() + _LONGEST
    while time.monotonic() < until:
        events = poll.poll(1000)
        if any(event & select.POLLIN for _, event in events):
            _handle(listener, pid, plan, found)
        elif any(event & select.POLLHUP for _, event in events):
            return
    raise TimeoutError(f"no end within {_LONGEST} s after {found.calls[-3:]}, {plan.way} at {found.hit}")


def _handle(listener: int, pid: int, plan: _Plan, found: Traced) -> None:
    """Answer one call."""
    request = bytearray(80)
    try:
        fcntl.ioctl(listener, _RECEIVE, request, True)
    except FileNotFoundError:
        return  # its process was killed meanwhile
    identity, caller, _, call, _, _, *arguments = struct.unpack("QIIiIQ6Q", request)
    name = NUMBERS[call]
    named = _named(name, caller, arguments)
    found.calls.append(f"{name} {named}")
    if plan.look:
        plan.look(found.calls[-1])
    error, flags = 0, _CONTINUE
    is_it = plan.is_it(found)
    if is_it:
        found.hit = found.calls[-1]
    way = plan.way
    if is_it and way != "full":
        if way in ("kill", "cut"):
            os.kill(caller, signal.SIGKILL)
            if way == "cut":
                os.killpg(pid, signal.SIGKILL)
            return
        error, flags = -getattr(errno, way), 0
    elif way == "full" and found.hit and name in TAKES_ROOM and named.startswith(DISKS):
        error, flags = -errno.ENOSPC, 0
    with contextlib.suppress(FileNotFoundError):
        fcntl.ioctl(listener, _SEND, struct.pack("QqiI", identity, 0, error, flags))


def _named(name: str, caller: int, arguments: list[int]) -> str:
    """The file that a call is about."""
    with contextlib.suppress(OSError):
        if name not in NAMING:
            return os.readlink(f"/proc/{caller}/fd/{arguments[0]}")
        with open(f"/proc/{caller}/mem", "rb", buffering=0) as memory:
            text = os.pread(memory.fileno(), 256, arguments[NAMING[name]])
            return text.partition(b"\0")[0].decode(errors="replace")
    return ""
