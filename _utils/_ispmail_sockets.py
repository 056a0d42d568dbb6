"""Which process of this server owns a connection, see proc(5)."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from _ispmail_errors import CannotAsk, printable

# The state of an established connection in /proc/net/tcp.
_ESTABLISHED = "01"
_SECONDS = 10
# Resolve names as a daemon of Postfix does: the user is looked up first, which reads nsswitch.conf, and all other files
# and libraries are those of the chroot. A name as bytes needs no module of Python there.
_RESOLVE = """
import _socket, os, pwd, sys
root, user, *names = sys.argv[1:]
entry = pwd.getpwnam(user)
os.initgroups(user, entry.pw_gid)
os.chroot(root)
os.chdir("/")
os.setgid(entry.pw_gid)
os.setuid(entry.pw_uid)
for name in names:
    try:
        _socket.getaddrinfo(name.encode(), None, 0, _socket.SOCK_STREAM)
        print()
    except _socket.gaierror as err:
        print(err.args[1])
"""
# PF_EXITING of the kernel: a thread that is ending, or a zombie.
_EXITING = 0x4
# The first user id of a person, see adduser(8) and login.defs(5).
_FIRST_PERSON = 1000
# What to do where a name is not known inside a chroot.
KNOWN_IN_CHROOT = (
    "restart Postfix, by which Debian copies /etc/hosts and resolv.conf there (a reload does not), write the address, "
    "or set proxy: true"
)


class Connection(NamedTuple):
    """An established TCP connection, seen from this end."""

    address: str
    port: int
    peer: str
    peer_port: int
    inode: int


class Programs(NamedTuple):
    """Where the programs of one Postfix are, symbolic links resolved."""

    daemons: str
    commands: str


class Process(NamedTuple):
    """A process that runs now. Its command line is not read: a password may stand in it."""

    pid: int
    name: str  # as in /proc/PID/comm
    parent: int
    executable: str  # empty where it cannot be read
    started: float  # seconds since 1970
    unit: str  # of systemd, such as report.service; empty where there is none
    uid: int  # the real one: a program that is setuid is still its caller's

    def describe(self) -> str:
        """Write it for people."""
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.started))
        return f"{self.name} (pid {self.pid}{f', {self.unit}' if self.unit else ''}, since {since})"


def tcp_connections() -> list[Connection]:
    """Read the established TCP connections of this server.

    Raises:
        CannotAsk: /proc cannot be read.
    """
    found: list[Connection] = []
    for name in ("tcp", "tcp6"):
        try:
            with open(f"/proc/net/{name}", encoding="ascii") as stream:
                found += parse_tcp(stream.read())
        except FileNotFoundError:
            pass  # a kernel without IPv6
        except OSError as err:
            raise CannotAsk(f"/proc/net/{name} cannot be read: {err.strerror}") from err
    return found


def parse_tcp(text: str) -> list[Connection]:
    """Read what /proc/net/tcp or tcp6 holds: the established connections."""
    found = []
    for line in text.splitlines():
        fields = line.split()
        if len(fields) > 9 and fields[3] == _ESTABLISHED:
            address, port = fields[1].split(":")
            peer, peer_port = fields[2].split(":")
            ends = (_address(address), int(port, 16), _address(peer), int(peer_port, 16))
            found.append(Connection(*ends, int(fields[9])))
    return found


def owners(inodes: Collection[int]) -> dict[int, list[Process]]:
    """Find the processes that hold sockets; a socket that nobody holds any more is left out."""
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    found: dict[int, list[Process]] = {}
    for pid in _pids() if wanted else ():
        held = {wanted[target] for target in _descriptors(pid) if target in wanted}
        process = read_process(pid) if held else None
        if process:
            for inode in held:
                found.setdefault(inode, []).append(process)
    return found


def read_process(pid: int) -> Process | None:
    """Read what there is to say of a process; None where it has ended."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stream:
            name, _, rest = stream.read().partition("(")[2].rpartition(")")
        with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="replace") as stream:
            units = re.findall(r"[^/\n]+\.(?:service|scope)(?=$|/)", stream.read(), re.MULTILINE)
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as stream:
            uid = re.search(r"^Uid:\s+(\d+)", stream.read(), re.MULTILINE)
    except OSError:
        return None
    thread = _living_thread(pid)
    executable = _link(f"{thread}/exe") if thread else ""
    # Without it, is it a program that cannot be read, or has the process ended meanwhile?
    if uid is None or (not executable and _living_thread(pid) is None):
        return None
    fields = rest.split()
    # proc(5): ppid is field 4, starttime field 22; rest begins with field 3.
    since_boot = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    started = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + since_boot
    unit = printable(units[-1]) if units else ""
    return Process(pid, printable(name), int(fields[1]), executable, started, unit, int(uid[1]))


def own_processes() -> dict[int, Process]:
    """This process and those that it descends from, by their pids."""
    found: dict[int, Process] = {}
    process = read_process(os.getpid())
    while process and process.pid > 1:
        found[process.pid] = process
        process = read_process(process.parent)
    return found


def is_own(process: Process, own: Mapping[int, Process]) -> bool:
    """Whether a process is this one, an ancestor of it, or another job of the same minion."""
    if process.pid in own:
        return True
    return process.parent in own and process.executable == own[process.parent].executable


def is_postfix(process: Process, installed: Collection[Programs]) -> bool:
    """Whether a process is a daemon of a Postfix on this server, or postmap that an admin or Postfix runs.

    Anybody can give an own program a name, or a path that looks like Postfix's.
    """
    executable = process.executable.removesuffix(" (deleted)")
    if is_systems(process) and any(executable == f"{each.commands}/postmap" for each in installed):
        return True
    daemons = [each.daemons for each in installed if os.path.dirname(executable) == each.daemons]
    parent = read_process(process.parent) if daemons else None
    return (
        parent is not None
        and parent.uid == 0
        and parent.executable.removesuffix(" (deleted)") == f"{daemons[0]}/master"
    )


def is_systems(process: Process) -> bool:
    """Whether a process is root's or a system account's, and not a person's."""
    return process.uid < _FIRST_PERSON


def same_address(one: str, other: str) -> bool:
    """Whether two texts are the same IP address, ``::ffff:192.0.2.1`` and ``192.0.2.1`` too."""
    first, second = _parsed(one), _parsed(other)
    return first is not None and first == second


def is_address(text: str) -> bool:
    """Whether a text is an IP address, and not a name."""
    return _parsed(text) is not None


def is_loopback(text: str) -> bool:
    """Whether a text is an address by which each machine means itself."""
    address = _parsed(text)
    return address is not None and address.is_loopback


def is_here(host: str | None) -> bool:
    """Whether a host is this machine: by any of the addresses that its name stands for."""
    return host == "localhost" or any(map(is_own_address, addresses(host)))


def is_own_address(text: str) -> bool:
    """Whether an IP address is one of this machine, see proc_pid_net(5).

    Not whether it can be bound: with ip_nonlocal_bind, as beside keepalived(8), any can.
    """
    address = _parsed(text)
    return address is not None and (address.is_loopback or str(address) in _own_addresses())


def _own_addresses() -> set[str]:
    found = set()
    with contextlib.suppress(FileNotFoundError), open("/proc/net/fib_trie", encoding="ascii") as lines:
        address = ""
        for line in lines:
            if "|--" in line:
                address = line.split()[-1]
            elif "host LOCAL" in line:
                found.add(address)
    # It is not there where IPv6 is switched off.
    with contextlib.suppress(FileNotFoundError), open("/proc/net/if_inet6", encoding="ascii") as lines:
        found |= {str(ipaddress.IPv6Address(int(line.split()[0], 16))) for line in lines}
    return found


def is_service(name: str) -> bool:
    """Whether this machine knows a TCP service of that name, see services(5)."""
    with contextlib.suppress(OSError, UnicodeError):
        return bool(socket.getaddrinfo(None, name, socket.AF_INET, socket.SOCK_STREAM))
    return False


def addresses(host: str | None) -> tuple[str, ...]:
    """The IP addresses of a host; none for None, and where its name cannot be resolved."""
    with contextlib.suppress(OSError, UnicodeError):
        return tuple(dict.fromkeys(str(found[4][0]) for found in socket.getaddrinfo(host, None)))
    return ()


def unknown_in_chroot(names: Collection[str], chroot: str, user: str) -> dict[str, str]:
    """Which names of hosts a program in a chroot cannot resolve, although one outside of it can: name to reason.

    Raises:
        CannotAsk: Could not tell.
    """
    inside = _resolve(names, chroot, user)
    failed = {name: reason for name, reason in inside.items() if reason}
    outside = _resolve(failed, "/", user) if failed else {}
    known = [name for name in failed if not outside[name]]
    # A name server that was slow to answer would have answered by now.
    again = _resolve(known, chroot, user) if known else {}
    return {name: reason for name, reason in again.items() if reason}


def _resolve(names: Collection[str], root: str, user: str) -> dict[str, str]:
    """Names of hosts to the reason why they cannot be resolved; empty where they can."""
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _RESOLVE, root, user, *names],
            capture_output=True,
            timeout=_SECONDS,
            env={"LC_ALL": "C"},
            cwd="/",
            text=True,
            errors="replace",
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise CannotAsk(f"{', '.join(names)} could not be resolved in {root} within {_SECONDS} s") from None
    except OSError as err:
        raise CannotAsk(f"{', '.join(names)} could not be resolved in {root}: {err.strerror}") from err
    said = done.stdout.splitlines()
    if done.returncode != 0 or len(said) != len(names):
        raise CannotAsk(f"{', '.join(names)} could not be resolved in {root}: {(done.stderr.splitlines() or [''])[-1]}")
    return dict(zip(names, said))


def _parsed(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        found = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return mapped or found


def _address(text: str) -> str:
    """An address as /proc/net/tcp has it: words of four bytes, each in the byte order of this machine."""
    words = [int(text[start : start + 8], 16) for start in range(0, len(text), 8)]
    return str(ipaddress.ip_address(b"".join(word.to_bytes(4, sys.byteorder) for word in words)))


def _pids() -> Iterator[int]:
    return map(int, filter(str.isdigit, os.listdir("/proc")))


def _living_thread(pid: int) -> str | None:
    """The folder in /proc of a thread of a process; None where it has ended, or is ending.

    Where its first thread has ended, only those of the others tell its program and its open files.
    """
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{thread}/stat", "rb") as stream:
                # proc(5): flags is field 9; what follows the name begins with field 3.
                flags = int(stream.read().rpartition(b")")[2].split()[6])
                if not flags & _EXITING:
                    return f"/proc/{pid}/task/{thread}"
    return None


def _descriptors(pid: int) -> list[str]:
    """What the open files of a process are; none where it has ended."""
    thread = _living_thread(pid)
    if thread is None:
        return []
    folder = f"{thread}/fd"
    with contextlib.suppress(OSError):
        return [target for descriptor in os.listdir(folder) if (target := _link(f"{folder}/{descriptor}"))]
    return []


def _link(path: str) -> str:
    """Where a link in /proc leads; empty where that cannot be read."""
    try:
        return os.readlink(path)
    except OSError:
        return ""
