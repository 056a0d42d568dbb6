"""Root folders of Debian machines: built once by debootstrap and a script, then cached outside the checkout."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

from lab import tail
from lab.cleanup import clean, remove
from lab.processes import control_group, end, nspawn, remove_control_group
from lab.registries import Registries

PACKAGES = "systemd,systemd-sysv,dbus,iproute2,procps,ca-certificates,python3"

_FLEET = r"""
apt-get update -q
apt-get install -y -q postfix postfix-mysql mariadb-server python3-venv gcc libc6-dev python3-dev
apt-get install -y -q --no-install-recommends dovecot-core dovecot-imapd dovecot-lmtpd dovecot-mysql
systemctl disable dovecot  # for the tests that want it
echo lab.test >/etc/mailname
postconf -e inet_protocols=ipv4 inet_interfaces=all mydestination=localhost  # unanswered, Debian leaves these empty
postconf -X myhostname  # the name of the machine that built this
systemctl enable postfix mariadb
python3 -m venv /opt/salt
/opt/salt/bin/pip install -q --no-cache-dir "salt==SERIES.*" PyMySQL
ln -s /opt/salt/bin/salt* /usr/local/bin/
"""


def missing_requirements() -> str:
    """Why machines cannot run here, as a sentence for the user; empty if they can."""
    if os.geteuid():
        return "machines need root"
    if Path("/run/systemd/container").exists():
        return "machines cannot run inside another such machine"
    commands = {
        "debootstrap": "debootstrap",
        "systemd-nspawn": "systemd-container",
        "ip": "iproute2",
        "nsenter": "util-linux",
    }
    missing = [package for command, package in commands.items() if not shutil.which(command)]
    return f"machines need: apt-get install {' '.join(missing)}" if missing else ""


def cache() -> Path:
    """The folder that keeps what takes long to build."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "salt-ispmail" / "lab"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def base(release: str = "trixie") -> Path:
    """The root of a bare Debian `release`. The first call runs debootstrap: one or two minutes."""

    return _debootstrap(f"{release}-base", release, PACKAGES)


def with_packages(name: str, release: str, *packages: str) -> Path:
    """The root of a bare Debian `release` with some packages, whose programs run from there without a machine."""
    return _debootstrap(f"{release}-{name}", release, ",".join(packages))


def _debootstrap(name: str, release: str, packages: str) -> Path:
    """The root that debootstrap makes, with packages besides those that each Debian has."""

    def build(root: Path, log: Path) -> None:
        with log.open("ab") as out:
            subprocess.run(
                # Its scripts for all newer releases are links to sid's; it has none yet for those newer than itself.
                ["debootstrap", "--variant=minbase", f"--include={packages}", release, str(root), "", "sid"],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, check=True,
            )  # fmt: skip
        for left in [*root.glob("var/cache/apt/archives/*.deb"), root / "etc/resolv.conf", root / "etc/hostname"]:
            left.unlink(missing_ok=True)  # debootstrap copies the last two from this host

    return _once(cache() / name, build)


def fleet(release: str = "trixie", series: str = "3008") -> Path:
    """The root of a mail server as in the ISPmail guide, with Salt in a venv, which has not configured anything yet.

    The first call takes a few minutes.
    """
    return image("fleet", base(release), _FLEET.replace("SERIES", series))


def image(name: str, base: Path, script: str) -> Path:
    """The root that a shell script makes from `base`. It runs inside as root, with the host's network and registries.

    It is built again when `base` or `script` changes. No service starts during the build, and the settings for the
    registries are removed afterwards.
    """
    key = hashlib.sha256(f"{base.name}\0{script}".encode()).hexdigest()[:12]

    def build(root: Path, log: Path) -> None:
        subprocess.run(["cp", "-a", "--reflink=auto", str(base), str(root)], check=True)
        policy = root / "usr/sbin/policy-rc.d"  # Debian's switch that keeps services from starting
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
        mountpoints = _run_script(root, name, script, log)
        policy.unlink()
        downloads = [*root.glob("var/cache/apt/archives/*.deb"), *root.glob("var/lib/apt/lists/*")]
        subprocess.run(["rm", "-rf", *map(str, downloads)], check=True)
        for path in mountpoints:
            path.rmdir() if path.is_dir() else path.unlink()

    return _once(cache() / f"{name}-{key}", build)


def _run_script(root: Path, name: str, script: str, log: Path) -> list[Path]:
    """Run a shell script in a root. Returns the mount points that systemd-nspawn created there, deepest first."""
    with Registries() as registries:
        binds = {**registries.binds, "/etc/resolv.conf": Path("/etc/resolv.conf").resolve()}
        mountpoints = _missing_paths(root, binds)
        env = {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8", **registries.env}
        options = ["--as-pid2", "--console=pipe", "--resolv-conf=off"]
        options += [f"--setenv={key}={value}" for key, value in env.items()]
        group = control_group(f"{os.getpid()}-{name}")
        process = nspawn(root, "build", group, log, [*options, "sh", "-euxc", script], binds)
        try:
            if process.wait():
                raise RuntimeError(f"the script of image {name} failed with exit code {process.returncode}")
        finally:
            end(process)
            remove_control_group(group)
    return mountpoints


def _missing_paths(root: Path, inside: Iterable[str]) -> list[Path]:
    """Those of the paths inside `root`, and of their parents, that do not exist, deepest first."""
    paths = {path for each in inside for path in [root / each.lstrip("/"), *(root / each.lstrip("/")).parents]}
    return sorted((path for path in paths if not path.exists() and root in path.parents), reverse=True)


def _once(target: Path, build: Callable[[Path, Path], None]) -> Path:
    """`target`; if it does not exist yet, `build(folder, log)` builds it. Other processes wait meanwhile."""
    with target.with_name(target.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if target.is_dir():
            return target
        clean()  # the processes of a killed build may still be at work in the folder
        unfinished, log = target.with_name(target.name + ".tmp"), target.with_name(target.name + ".log")
        remove(unfinished)
        log.write_bytes(b"")
        try:
            build(unfinished, log)
            unfinished.rename(target)
        except (OSError, RuntimeError, subprocess.CalledProcessError) as err:
            raise RuntimeError(f"{target.name} could not be built: {err}\n{tail(log, 30)}") from err
        finally:
            remove(unfinished)
    return target
