"""What processes run and write while something is watched: each exec with its environment, each file that is closed.

Execs are handed to us by the kernel before they run (seccomp_unotify(2)), of processes that `launcher` starts and of
all that they start. Files are those of all processes of this machine (fanotify(7)): one that is gone again is seen too.
Needs root, and Linux 5.5 or newer.
"""

import contextlib
import ctypes
import fcntl
import math
import os
import select
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..functional.tracer import ARCHITECTURE, COLUMN, SECCOMP

# execve, execveat: x86_64, aarch64.
_EXECS = {(59, 221)[COLUMN]: 0, (322, 281)[COLUMN]: 1}
_NOTIFY, _ALLOW = 0x7FC00000, 0x7FFF0000
_RECEIVE, _SEND, _CONTINUE = 0xC0502100, 0xC0182101, 1
# FAN_MARK_ADD and FAN_MARK_FILESYSTEM; FAN_CLOSE_WRITE.
_MARK, _CLOSED = 0x1 | 0x100, 0x8
_EVENT = struct.Struct("IBBHQii")
_LARGEST = 16 * 2**20


@dataclass
class Exec:
    """One program that was started."""

    argv: list[bytes]
    environment: list[bytes]
    pid: int


class Execs(threading.Thread):
    """Takes down each program that is started; `on_exec` is called before it runs."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.seen: list[Exec] = []
        self.on_exec: Callable[[Exec], None] = lambda _: None
        self._ours, self._theirs = socket.socketpair()
        self._poll = select.poll()
        self._end = threading.Event()

    def launcher(self) -> tuple[list[str], int]:
        """The command that runs a command under our eyes, and the descriptor that it inherits."""
        code = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r})"
        code += "; from tests.integration.audit import launch; launch(sys.argv[1:])"
        return [sys.executable, "-c", code, str(self._theirs.fileno())], self._theirs.fileno()

    def run(self) -> None:
        self._poll.register(self._ours.fileno(), select.POLLIN)
        while not self._end.is_set():
            for descriptor, event in self._poll.poll(200):
                if descriptor == self._ours.fileno():
                    _, descriptors, _, _ = socket.recv_fds(self._ours, 2, 1)
                    for each in descriptors:
                        self._poll.register(each, select.POLLIN)
                elif event & select.POLLIN:
                    self._answer(descriptor)
                elif event & select.POLLHUP:
                    self._poll.unregister(descriptor)
                    os.close(descriptor)

    def stop(self) -> None:
        """Only after all that was launched has ended."""
        self._end.set()
        self.join()

    def _answer(self, listener: int) -> None:
        request = bytearray(80)
        try:
            fcntl.ioctl(listener, _RECEIVE, request, True)
        except FileNotFoundError:
            return
        identity, caller, _, call, _, _, *arguments = struct.unpack("QIIiIQ6Q", request)
        with contextlib.suppress(OSError):
            first = _EXECS[call]
            with open(f"/proc/{caller}/mem", "rb", buffering=0) as memory:
                texts = [_texts(memory.fileno(), address) for address in arguments[first + 1 : first + 3]]
            found = Exec(*texts, caller)
            self.seen.append(found)
            self.on_exec(found)
        with contextlib.suppress(FileNotFoundError):
            fcntl.ioctl(listener, _SEND, struct.pack("QqiI", identity, 0, 0, _CONTINUE))


def _texts(memory: int, address: int) -> list[bytes]:
    """What a NULL-terminated array of pointers points at."""
    found: list[bytes] = []
    while address:
        (pointer,) = struct.unpack("Q", os.pread(memory, 8, address))
        if not pointer:
            break
        text = b""
        while b"\0" not in text:
            # A page at a time: the next one may not be there.
            text += os.pread(memory, 4096 - (pointer + len(text)) % 4096, pointer + len(text))
        found.append(text.partition(b"\0")[0])
        address += 8
    return found


def launch(arguments: Sequence[str]) -> None:
    """Have each exec of this process and its children handed over, then become the program. Never returns."""
    descriptor, *command = arguments
    program = [(0x20, 0, 0, 4), (0x15, 1, 0, ARCHITECTURE), (0x06, 0, 0, _ALLOW), (0x20, 0, 0, 0)]
    for number in _EXECS:
        program += [(0x15, 0, 1, number), (0x06, 0, 0, _NOTIFY)]
    program.append((0x06, 0, 0, _ALLOW))
    buffer = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *instruction) for instruction in program))
    filtered = ctypes.c_char_p(struct.pack("HxxxxxxP", len(program), ctypes.addressof(buffer)))
    # SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER
    listener = ctypes.CDLL(None, use_errno=True).syscall(SECCOMP, 1, 8, filtered)
    if listener < 0:
        raise OSError(ctypes.get_errno(), "seccomp")
    with socket.socket(fileno=int(descriptor)) as ours:
        socket.send_fds(ours, [b"fd"], [listener])
    os.close(listener)
    os.execv(command[0], command)


@dataclass
class Written:
    """A file that was closed after writing, as it was when it was looked at."""

    path: str
    mode: int
    owner: tuple[int, int]
    pid: int


@dataclass
class Writes:
    """Looks at each file that any process of this machine closes after writing, and keeps those that hold something."""

    holds: Callable[[bytes], bool]
    found: list[Written] = field(default_factory=list)
    count: int = 0

    def __enter__(self) -> "Writes":
        libc = ctypes.CDLL(None, use_errno=True)
        # FAN_CLOEXEC, FAN_NONBLOCK, FAN_UNLIMITED_QUEUE
        self._group = libc.fanotify_init(0x1 | 0x2 | 0x10, os.O_RDONLY | os.O_CLOEXEC)
        if self._group < 0:
            raise OSError(ctypes.get_errno(), "fanotify")
        devices = {}
        for path in ("/", "/tmp", "/var/tmp", "/run", "/dev/shm", "/var/cache", "/var/log", "/etc"):
            devices.setdefault(os.stat(path).st_dev, path)
        for path in devices.values():
            if libc.fanotify_mark(self._group, _MARK, ctypes.c_uint64(_CLOSED), -100, path.encode()) < 0:
                raise OSError(ctypes.get_errno(), f"fanotify {path}")
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        os.close(self._group)

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._group, select.POLLIN)
        until = math.inf
        # Other programs of the machine may write without end.
        while time.monotonic() < until and (poll.poll(200) or until == math.inf):
            if self._end.is_set() and until == math.inf:
                until = time.monotonic() + 3
            with contextlib.suppress(BlockingIOError):
                events = os.read(self._group, 65536)
                while events:
                    length, _, _, _, _, descriptor, pid = _EVENT.unpack_from(events)
                    events = events[length:]
                    if descriptor >= 0:
                        self._look(descriptor, pid)

    def _look(self, descriptor: int, pid: int) -> None:
        try:
            with contextlib.suppress(OSError):
                status = os.fstat(descriptor)
                self.count += 1
                if pid != os.getpid() and status.st_size <= _LARGEST and self.holds(os.pread(descriptor, _LARGEST, 0)):
                    path = os.readlink(f"/proc/self/fd/{descriptor}")
                    owner = (status.st_uid, status.st_gid)
                    self.found.append(Written(path, status.st_mode & 0o7777, owner, pid))
        finally:
            os.close(descriptor)
