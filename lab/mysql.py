"""A private MySQL on loopback that ends with the process that started it, see mysqld(8).

Debian has MySQL in sid only. Its program runs from a root of sid in the cache, by that root's own dynamic linker: no
chroot, no machine, and this machine needs no package but debootstrap.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from lab.images import with_packages
from lab.mariadb import PrivateServer, template, version_of, whoami

SMALL_AND_FAST = (
    "--skip-name-resolve",  # a login from 127.0.0.1 is 'u'@'127.0.0.1', not 'u'@'localhost'
    "--skip-log-bin",
    "--mysqlx=OFF",
    "--innodb-buffer-pool-size=32M",
    "--innodb-flush-log-at-trx-commit=2",
    "--innodb-buffer-pool-dump-at-shutdown=OFF",
    "--innodb-buffer-pool-load-at-startup=OFF",
    "--performance-schema=OFF",
)


class MySQL(PrivateServer):
    """A MySQL, as Debian sid has it. The first call builds its root, in one or two minutes. Needs root."""

    def _program(self) -> list[str]:
        # The process that started it may be killed.
        return ["setpriv", "--pdeathsig", "TERM", *_mysqld(), *SMALL_AND_FAST]

    def template(self) -> Path:
        return template(f"mysql-{version_of(_mysqld())}", _initialise)


def _mysqld() -> list[str]:
    root = with_packages("mysql", "sid", "mysql-server-core")
    (linker,) = root.glob("lib*/ld-linux*.so.*")
    libraries = ":".join(str(path) for path in [*root.glob("usr/lib/*-linux-*"), root / "usr/lib/mysql/private"])
    command = [str(linker), "--library-path", libraries, str(root / "usr/sbin/mysqld"), "--no-defaults"]
    share = root / "usr/share/mysql"
    command += [f"--lc-messages-dir={share}", f"--character-sets-dir={share}/charsets"]
    return [*command, f"--plugin-dir={root}/usr/lib/mysql/plugin", "--secure-file-priv=NULL"]


def _initialise(data: Path) -> None:
    """Create a data directory with one account: root, who needs no password on the socket."""
    command = [*_mysqld(), "--initialize-insecure", f"--datadir={data}", f"--user={whoami()}"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise RuntimeError(f"mysqld --initialize-insecure failed:\n{(done.stdout + done.stderr)[-3000:]}")
