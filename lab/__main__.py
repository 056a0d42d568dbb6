"""Run a command on a bare Debian machine, or remove what killed processes have left behind.

    python -m lab bare trixie . -- bash -c 'cd /root/*/ && bin/test'
    python -m lab clean

`bare` copies a folder to /root/<its name> on a new machine. It passes the output through and ends with the command's
exit code.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from lab.cleanup import clean
from lab.images import base, missing_requirements
from lab.machine import Machine
from lab.network import Outlet


def bare(release: str, folder: Path, command: Sequence[str], host_network: bool = False) -> int:
    """Run a command on a bare machine that has a copy of `folder` in /root. Returns the exit code."""
    with contextlib.ExitStack() as stack:
        network = None if host_network else stack.enter_context(Outlet("bare"))
        machine = stack.enter_context(Machine("bare", base(release), network, registries=True))
        machine.copy_in(folder, f"/root/{folder.name}")
        return machine.run(command, check=False, timeout=None, stdout=None, stderr=None).returncode


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and do what it says. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m lab", description=__doc__.partition("\n")[0])
    jobs = parser.add_subparsers(dest="job", required=True)
    job = jobs.add_parser("bare", help="run a command on a bare machine")
    job.add_argument("--host-network", action="store_true", help="share this host's network with its ports")
    job.add_argument("release", help="bookworm, trixie or forky")
    job.add_argument("folder", type=Path, help="copied to /root/<its name>")
    job.add_argument("command", nargs=argparse.REMAINDER, metavar="-- command")
    jobs.add_parser("clean", help="remove what killed processes have left behind")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if options.job == "clean":
        clean()
        return 0
    if missing := missing_requirements():
        parser.error(missing)
    if not options.host_network and not shutil.which("slirp4netns"):
        parser.error("a network of its own needs: apt-get install slirp4netns; or use --host-network")
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    return bare(options.release, options.folder.resolve(), command or ["true"], options.host_network)


if __name__ == "__main__":
    sys.exit(main())
