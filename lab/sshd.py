"""A private sshd on loopback in a sandbox, where root logs in with a key, see sshd(8). bin/setup --sshd unpacks it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from lab import HOST, free_port, is_free, program
from lab.private import Private
from lab.processes import run
from lab.sandbox import Sandbox

_SETUP = Path(__file__).resolve().parent.parent / "bin" / "setup"
_CONFIG = """
HostKey {directory}/host
AuthorizedKeysFile /etc/ssh/lab_keys
PermitRootLogin prohibit-password
PasswordAuthentication no
Subsystem sftp internal-sftp
PidFile none
"""
# A user for its processes that have no rights yet; a root account that is not locked, with a shell that reads nothing.
_PREPARE = """
mkdir -p /etc/ssh /run/sshd
grep -q ^sshd: /etc/passwd || echo sshd:x:998:65534::/run/sshd:/usr/sbin/nologin >>/etc/passwd
sed -i 's/^root:!*/root:/' /etc/shadow
rm -f /root/.bashrc /root/.bash_profile /root/.profile /etc/nologin
cp {directory}/client.pub /etc/ssh/lab_keys
chmod 600 /etc/ssh/lab_keys
"""


def layers() -> dict[str, Path]:
    """What a sandbox needs to have an sshd: nothing where it is installed. The first call on a machine unpacks it."""
    folder = run([_SETUP, "--sshd"], timeout=600).stdout.strip()
    return {"usr": Path(folder) / "usr"} if folder else {}


class Sshd(Private):
    """One server on 127.0.0.1:`port`, with its keys and log in `directory`: `client` is the key that it takes."""

    def __init__(self, sandbox: Sandbox, directory: Path) -> None:
        """Start nothing yet. bin/setup --sshd unpacks its program."""
        super().__init__(directory / "log")
        self.sandbox, self.directory = sandbox, directory
        self.port = free_port()
        self.client = directory / "client"
        self.known_hosts = directory / "known_hosts"

    def _prepare(self) -> None:
        self.directory.mkdir(mode=0o700)
        for name in ("host", "client"):
            command = [program("ssh-keygen", "openssh-client"), "-q", "-t", "ed25519", "-N", "", "-C", name, "-f"]
            subprocess.run([*command, str(self.directory / name)], check=True)
        public = (self.directory / "host.pub").read_text()
        self.known_hosts.write_text(f"[{HOST}]:{self.port} {public}")
        self.sandbox.run(_PREPARE.format(directory=self.directory))
        (self.directory / "config").write_text(_CONFIG.format(directory=self.directory))

    def _command(self) -> list[str]:
        sshd = ["/usr/sbin/sshd", "-D", "-e", "-f", str(self.directory / "config")]
        return [*self.sandbox.enter, *sshd, "-o", f"ListenAddress={HOST}:{self.port}"]

    def _answers(self) -> bool:
        return not is_free(self.port)
