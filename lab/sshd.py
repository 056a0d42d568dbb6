"""A private sshd on loopback in a sandbox, where root logs in with a key, see sshd(8). bin/setup --sshd unpacks it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import TracebackType

from lab import HOST, START_SECONDS, free_port, is_free, program, tail, wait_until
from lab.processes import end, run
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


class Sshd:
    """One server on 127.0.0.1:`port`, with its keys and log in `directory`: `client` is the key that it takes."""

    def __init__(self, sandbox: Sandbox, directory: Path) -> None:
        """Start nothing yet."""
        self.sandbox, self.directory = sandbox, directory
        self.port = free_port()
        self.client = directory / "client"
        self.known_hosts = directory / "known_hosts"
        self.log_file = directory / "log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Sshd:
        self.directory.mkdir(mode=0o700)
        for name in ("host", "client"):
            command = [program("ssh-keygen", "openssh-client"), "-q", "-t", "ed25519", "-N", "", "-C", name, "-f"]
            subprocess.run([*command, str(self.directory / name)], check=True)
        public = (self.directory / "host.pub").read_text()
        self.known_hosts.write_text(f"[{HOST}]:{self.port} {public}")
        self.sandbox.run(_PREPARE.format(directory=self.directory))
        (self.directory / "config").write_text(_CONFIG.format(directory=self.directory))
        sshd = ["/usr/sbin/sshd", "-D", "-e", "-f", str(self.directory / "config"), "-o"]
        with self.log_file.open("wb") as log:
            self._process = subprocess.Popen(
                [*self.sandbox.enter, *sshd, f"ListenAddress={HOST}:{self.port}"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        listens = wait_until(lambda: self._ended or not is_free(self.port), START_SECONDS)
        if self._ended or not listens:
            self.__exit__(None, None, None)
            raise RuntimeError(f"sshd does not start (bin/setup --sshd unpacks it):\n{tail(self.log_file)}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        process, self._process = self._process, None
        if process:
            end(process)

    @property
    def _ended(self) -> bool:
        return self._process is None or self._process.poll() is not None
