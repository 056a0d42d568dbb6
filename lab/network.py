"""Networks for machines: one without a way out for several machines, and one with a way out for a single machine."""

from __future__ import annotations

import atexit
import os
import subprocess
import uuid
from collections.abc import Sequence
from typing import Any, Protocol

from lab.cleanup import NAMESPACES
from lab.processes import PREFIX, control_group, end, in_control_group, remove_control_group, run

SUBNET = "198.18.0"  # of 198.18.0.0/15, reserved for test networks (RFC 2544)


class Member(Protocol):
    """What a network needs of a machine, see lab.machine.Machine."""

    name: str
    address: str

    def write(self, path: str, data: str) -> None:
        """Write a file on it."""

    def unit(self, name: str, text: str) -> None:
        """Add a systemd service."""

    def close(self) -> None:
        """Stop it and remove its disk."""


class Network:
    """A network namespace with a bridge and no way out.

    Creating a machine gives it an address, and each machine's /etc/hosts names all others that exist by then: create
    all machines first, then start them. Commands of the host use the network by `run`, with the address 198.18.0.1.
    """

    def __init__(self, name: str = "lab") -> None:
        self.namespace = f"{PREFIX}{os.getpid()}-{name}"
        self.enter = ["nsenter", f"--net={NAMESPACES / self.namespace}", "--"]
        self.options = ["--network-bridge=br0"]  # of systemd-nspawn
        self.resolver = ""  # of /etc/resolv.conf: with no name server all other names fail at once
        self.machines: dict[str, Member] = {}
        self._last = 9
        atexit.register(self.close)
        subprocess.run(["ip", "netns", "add", self.namespace], check=True)
        self._set_up()

    def _set_up(self) -> None:
        for command in (
            "ip link set lo up",
            "ip link add br0 type bridge",
            f"ip address add {SUBNET}.1/15 dev br0",
            "ip link set br0 up",
        ):
            self.run(command.split())

    def __enter__(self) -> Network:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, command: Sequence[object], check: bool = True, **options: Any) -> subprocess.CompletedProcess:
        """Run a command of this host in the network, such as a load generator; its output is captured as text."""
        return run([*self.enter, *command], check, shown=command, **options)

    def popen(self, command: Sequence[str], **options: Any) -> subprocess.Popen:
        """Start a command of this host in the network."""
        return subprocess.Popen([*self.enter, *command], start_new_session=True, **options)

    def join(self, machine: Member) -> None:
        """Give a machine an address, and write the new /etc/hosts of all machines."""
        self._last += 1
        machine.address = f"{SUBNET}.{self._last}"
        self.machines[machine.name] = machine
        hosts = "".join(f"{each.address} {each.name}\n" for each in self.machines.values())
        for each in self.machines.values():
            each.write("/etc/hosts", f"127.0.0.1 localhost\n::1 localhost\n{hosts}")
        machine.unit(
            "lab-network",
            "[Unit]\nDefaultDependencies=no\nBefore=network.target\n"
            f"[Service]\nType=oneshot\nExecStart=ip address replace {machine.address}/15 dev host0\n"
            "ExecStart=ip link set host0 up\n[Install]\nWantedBy=multi-user.target\n",
        )

    def leave(self, machine: Member) -> None:
        """Forget a machine. The others keep its name in /etc/hosts until the next machine joins."""
        self.machines.pop(machine.name, None)

    def close(self) -> None:
        """Close the machines of this network, then remove it."""
        for machine in list(self.machines.values()):
            machine.close()
        if (NAMESPACES / self.namespace).exists():
            subprocess.run(["ip", "netns", "delete", self.namespace], check=True)
        atexit.unregister(self.close)


class Outlet(Network):
    """A network namespace for one machine, with a way out through this host by slirp4netns(1).

    The machine has its own ports. The host's routes and firewall are not changed.
    """

    def _set_up(self) -> None:
        self.options, self.resolver = [], "nameserver 10.0.2.3\n"
        self._group = control_group(f"{os.getpid()}-outlet-{uuid.uuid4().hex[:8]}")
        ready, write_end = os.pipe()
        command = ["slirp4netns", "--configure", "--mtu=1400", "--disable-host-loopback", f"--ready-fd={write_end}"]
        command += ["--netns-type=path", str(NAMESPACES / self.namespace), "tap0"]
        self._slirp = subprocess.Popen(
            [*in_control_group(self._group), *command],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            pass_fds=[write_end], start_new_session=True,
        )  # fmt: skip
        os.close(write_end)
        with open(ready) as pipe:
            if not pipe.read(1):
                raise RuntimeError("slirp4netns did not start")

    def join(self, machine: Member) -> None:
        """Take the machine in: slirp4netns has set up the only address there is."""
        self.machines[machine.name] = machine

    def close(self) -> None:
        """Close the machine, then remove the network."""
        for machine in list(self.machines.values()):
            machine.close()
        if hasattr(self, "_slirp"):
            end(self._slirp)
            remove_control_group(self._group)
        super().close()
