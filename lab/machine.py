"""Throw-away Debian machines with systemd as PID 1, by systemd-nspawn.

No container engine is needed: root, and `apt-get install debootstrap systemd-container iproute2`; an Outlet needs
slirp4netns, too.

    with Network() as network, Machine("mx1", image("fleet", base(), FLEET_SCRIPT), network) as mx1:
        mx1.run(["postfix", "status"])

What is slow to make (a debootstrap, packages) is made once and kept in a cache folder outside the checkout. A machine
is an overlay over that and goes when it is closed: with its block, or at exit. After a SIGKILL of the Python process,
`python -m lab.machine clean` removes what is left.

On the command line, COMMAND on a bare machine that has a copy of DIR in /root:

    python -m lab.machine bare trixie . -- bash -c 'cd /root/main && bin/test'
"""

from __future__ import annotations

import argparse
import ast
import atexit
import concurrent.futures
import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.parse
import uuid
from pathlib import Path

PACKAGES = "systemd,systemd-sysv,dbus,iproute2,procps,ca-certificates,python3"
PREFIX = "salt-ispmail-lab-"  # of all we make outside the cache: folders in /tmp, network namespaces, control groups
TMP = Path(tempfile.gettempdir())
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CA_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
SUBNET = "198.18.0"  # of 198.18.0.0/15, set aside for test networks (RFC 2544)
UP = ("running", "degraded")
MASKED = ("apt-daily.timer", "apt-daily-upgrade.timer", "console-getty.service")  # only noise in a machine for minutes

# A mail server as in the ISPmail guide, before Salt has touched it, with Salt in a venv.
FLEET_SCRIPT = r"""
apt-get update -q
apt-get install -y -q postfix postfix-mysql mariadb-server python3-venv gcc libc6-dev python3-dev
echo lab.test >/etc/mailname
postconf -e inet_protocols=ipv4 inet_interfaces=all mydestination=localhost  # unanswered, Debian leaves these empty
postconf -X myhostname  # the name of the machine that built this
systemctl enable postfix mariadb
python3 -m venv /opt/salt
/opt/salt/bin/pip install -q --no-cache-dir "salt>=3008,<3009" PyMySQL
ln -s /opt/salt/bin/salt* /usr/local/bin/
"""


class CommandFailed(subprocess.CalledProcessError):
    """A command ended with another code than 0; what it said is part of the message."""

    def __str__(self) -> str:
        said = "\n".join(str(text).strip() for text in (self.stdout, self.stderr) if text)
        return f"rc {self.returncode} of {' '.join(map(str, self.cmd))}\n{said}".rstrip()


def lacking() -> str:
    """Why there can be no machines here, in words for whoever wants some; empty when there can be."""
    if os.geteuid():
        return "machines need root"
    if Path("/run/systemd/container").exists():
        return "there are no machines inside such a machine"
    commands = {
        "debootstrap": "debootstrap",
        "systemd-nspawn": "systemd-container",
        "ip": "iproute2",
        "nsenter": "util-linux",
    }
    missing = [package for command, package in commands.items() if not shutil.which(command)]
    return f"machines need: apt-get install {' '.join(missing)}" if missing else ""


def start_all(*machines: Machine) -> None:
    """Boot several machines side by side; when one fails, its RuntimeError comes once all are through."""
    with concurrent.futures.ThreadPoolExecutor(len(machines)) as pool:
        list(pool.map(Machine.start, machines))


# --- roots: built once, cached -------------------------------------------------------------------------------


def cache() -> Path:
    """The folder that keeps what is slow to make."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "salt-ispmail" / "lab"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def base(release: str = "trixie") -> Path:
    """The root of a bare Debian `release`, by debootstrap: a minute or two the first time."""

    def build(root: Path, log: Path) -> None:
        with log.open("ab") as out:
            subprocess.run(
                ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", release, str(root)],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, check=True,
            )  # fmt: skip
        for left in [*root.glob("var/cache/apt/archives/*.deb"), root / "etc/resolv.conf", root / "etc/hostname"]:
            left.unlink(missing_ok=True)  # the last two are this host's

    return _once(cache() / f"{release}-base", build)


def image(name: str, base: Path, script: str) -> Path:
    """A root made from `base` by a shell script that runs inside it as root, with the host's network and registries.

    Made anew when `base` or `script` is another one. No service starts meanwhile, and of the settings for the
    registries nothing stays in it.
    """
    key = hashlib.sha256(f"{base.name}\0{script}".encode()).hexdigest()[:12]

    def build(root: Path, log: Path) -> None:
        subprocess.run(["cp", "-a", "--reflink=auto", str(base), str(root)], check=True)
        policy = root / "usr/sbin/policy-rc.d"
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
        with _Registries() as registries:
            binds = {**registries.binds, "/etc/resolv.conf": Path("/etc/resolv.conf").resolve()}
            mountpoints = _missing(root, binds)
            env = {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8", **registries.env}
            options = ["--as-pid2", "--console=pipe", "--resolv-conf=off", *_binds(binds)]
            options += [f"--setenv={key}={value}" for key, value in env.items()]
            group = _control_group(f"{os.getpid()}-{name}")
            process = _nspawn(root, "build", group, log, [*options, "sh", "-euxc", script])
            try:
                if process.wait():
                    raise RuntimeError(f"the script of image {name} failed, rc {process.returncode}")
            finally:
                _end(process)
                _remove_control_group(group)
        policy.unlink()
        subprocess.run(["rm", "-rf", *map(str, root.glob("var/cache/apt/archives/*.deb")),
                        *map(str, root.glob("var/lib/apt/lists/*"))], check=True)  # fmt: skip
        for path in mountpoints:
            path.rmdir() if path.is_dir() else path.unlink()

    return _once(cache() / f"{name}-{key}", build)


def _once(target: Path, build) -> Path:
    """`target`, built by `build(aside, log)` and then renamed, if it is not there; one process builds, others wait."""
    with target.with_name(target.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if target.is_dir():
            return target
        clean()  # a build that was killed may still be at work in there
        aside, log = target.with_name(target.name + ".tmp"), target.with_name(target.name + ".log")
        _remove(aside)
        log.write_bytes(b"")
        try:
            build(aside, log)
            aside.rename(target)
        except (OSError, RuntimeError, subprocess.CalledProcessError) as err:
            raise RuntimeError(f"{target.name} could not be made: {err}\n{_tail(log)}") from err
        finally:
            _remove(aside)
    return target


# --- the settings by which this host reaches its package registries ------------------------------------------


class _Registries:
    """What apt and pip inside need in order to reach what they reach here: `env`, and `binds` {path inside: path here}.

    Found by asking apt and pip, so that nothing of it stands in this repository.
    """

    ENV = re.compile(r"(?i)(https?|ftp|all|no)_proxy|SSL_CERT_FILE|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE|GIT_SSL_CAINFO")
    APT = re.compile(r"Acquire::(http|https|ftp|Check-|Retries)")
    PIP = ("index-url", "extra-index-url", "find-links", "no-index", "cert", "trusted-host", "proxy", "timeout",
           "default-timeout", "retries")  # fmt: skip

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-registries-"))
        atexit.register(_remove, self.folder)
        self.env = {key: value for key, value in os.environ.items() if self.ENV.fullmatch(key)}
        pip = self._pip()
        self.binds = {
            path: Path(path).resolve() for path in self._paths([CA_BUNDLE, *self.env.values(), *pip.values()])
        }
        self._file("/etc/pip.conf", "[global]\n" + "".join(f"{key} = {value}\n" for key, value in pip.items()))
        dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True).stdout
        self._file("/etc/apt/apt.conf.d/99registries", "".join(filter(self.APT.match, dump.splitlines(keepends=True))))

    def __enter__(self) -> _Registries:
        return self

    def __exit__(self, *_) -> None:
        _remove(self.folder)

    def _file(self, inside: str, text: str) -> None:
        path = self.folder / Path(inside).name
        path.write_text(text)
        self.binds[inside] = path

    def _pip(self) -> dict[str, str]:
        """pip's effective settings, of those that say where packages come from."""
        listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True).stdout
        if not listed and shutil.which("pip3"):  # a Python without pip, as in a venv made by others than venv
            listed = subprocess.run(["pip3", "config", "list"], capture_output=True, text=True).stdout
        found: dict[str, str] = {}
        for line in sorted(listed.splitlines(), reverse=True):  # global. before :env:, which wins
            key, _, value = line.partition("=")
            if key.rpartition(".")[2] in self.PIP:
                found[key.rpartition(".")[2]] = " ".join(ast.literal_eval(value).split())
        return found

    @staticmethod
    def _paths(values) -> list[str]:
        """The files and folders here that such values name. An index has its packages beside its folder `simple`."""
        found = []
        for word in " ".join(values).split():
            path = urllib.parse.unquote(word.removeprefix("file://")).rstrip("/").removesuffix("/simple")
            if path.startswith("/") and os.path.exists(path) and path not in found:
                found.append(path)
        return found


def _binds(binds: dict) -> list[str]:
    return [f"--bind-ro={source}:{inside}" for inside, source in binds.items()]


def _missing(root: Path, binds: dict) -> list[Path]:
    """What systemd-nspawn will make in `root` to have something to mount on, deepest first."""
    paths = {path for inside in binds for path in [root / inside.lstrip("/"), *(root / inside.lstrip("/")).parents]}
    return sorted((path for path in paths if not path.exists() and root in path.parents), reverse=True)


# --- networks ------------------------------------------------------------------------------------------------


class Network:
    """A network namespace with a bridge and no way out.

    A machine gets an address on it when it is made, and all know each other by name: make them all, then start them.
    The host is on it too, by `run`, as 198.18.0.1.
    """

    def __init__(self, name: str = "lab") -> None:
        self.namespace = f"{PREFIX}{os.getpid()}-{name}"
        self.enter = ["nsenter", f"--net=/var/run/netns/{self.namespace}", "--"]
        self.options = ["--network-bridge=br0"]
        self.resolver = ""  # no name server: names come from /etc/hosts, others are refused at once
        self.machines: dict[str, Machine] = {}
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

    def __exit__(self, *_) -> None:
        self.close()

    def run(self, command: list, check: bool = True, **options) -> subprocess.CompletedProcess:
        """Run a command of this host in the network, such as a load generator; output is captured as text."""
        return _run([*self.enter, *command], check, shown=command, **options)

    def popen(self, command: list, **options) -> subprocess.Popen:
        """Start a command of this host in the network."""
        return subprocess.Popen([*self.enter, *command], start_new_session=True, **options)

    def join(self, machine: Machine) -> None:
        """Give the machine an address, and all machines the new /etc/hosts."""
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

    def leave(self, machine: Machine) -> None:
        """Forget a machine; the others keep its name until the next one joins."""
        self.machines.pop(machine.name, None)

    def close(self) -> None:
        """Close the machines that are on it, then remove it."""
        for machine in list(self.machines.values()):
            machine.close()
        if Path("/var/run/netns", self.namespace).exists():
            subprocess.run(["ip", "netns", "delete", self.namespace], check=True)
        atexit.unregister(self.close)


class Outlet(Network):
    """A network namespace of one machine's own with a way out through this host, by slirp4netns(1).

    The machine's ports are its own, and nothing is changed in the host's routes or firewall.
    """

    def _set_up(self) -> None:
        self.options, self.resolver = [], "nameserver 10.0.2.3\n"
        self._group = _control_group(f"{os.getpid()}-outlet-{uuid.uuid4().hex[:8]}")
        ready, told = os.pipe()
        command = ["slirp4netns", "--configure", "--mtu=1400", "--disable-host-loopback", f"--ready-fd={told}"]
        self._slirp = subprocess.Popen(
            [*_joining(self._group), *command, "--netns-type=path", f"/var/run/netns/{self.namespace}", "tap0"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            pass_fds=[told], start_new_session=True,
        )  # fmt: skip
        os.close(told)
        with open(ready) as pipe:
            if not pipe.read(1):
                raise RuntimeError("slirp4netns did not start")

    def join(self, machine: Machine) -> None:
        self.machines[machine.name] = machine

    def close(self) -> None:
        for machine in list(self.machines.values()):
            machine.close()
        if hasattr(self, "_slirp"):
            _end(self._slirp)
            _remove_control_group(self._group)
        super().close()


# --- machines ------------------------------------------------------------------------------------------------


class Machine:
    """A Debian machine of its own over a root that stays as it is; started when its `with` block begins.

    :param name: its host name, at most 12 characters, as the name of its link has to hold it.
    :param root: what `base` or `image` returned.
    :param network: a Network; an Outlet; or None to share the host's network, ports included.
    :param registries: whether apt and pip inside get the host's settings for package registries.
    """

    def __init__(self, name: str, root: Path, network: Network | None = None, registries: bool = False) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9-]{0,11}", name):
            raise ValueError(f"{name!r} cannot name a machine")
        self.name, self.network, self.address = name, network, None
        self._registries = None
        self._process: subprocess.Popen | None = None
        self._leader: int | None = None
        self.folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-{name}-"))
        self.root, self.log = self.folder / "root", self.folder / "console.log"
        self._group = _control_group(self.folder.name.removeprefix(PREFIX))
        atexit.register(self.close)
        for part in ("root", "upper", "work"):
            (self.folder / part).mkdir()
        layers = f"lowerdir={root},upperdir={self.folder / 'upper'},workdir={self.folder / 'work'}"
        subprocess.run(["mount", "-t", "overlay", self.folder.name, "-o", layers, str(self.root)], check=True)
        self._registries = _Registries() if registries else None
        self._first_settings()

    def _first_settings(self) -> None:
        """What differs from machine to machine, and from one in a rack."""
        self.write("/etc/hostname", f"{self.name}\n")
        self.write("/etc/machine-id", f"{uuid.uuid4().hex}\n", 0o444)
        self.write("/etc/hosts", f"127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {self.name}\n")
        resolver = self.network.resolver if self.network else Path("/etc/resolv.conf").read_text()
        self.write("/etc/resolv.conf", resolver)
        self._inside_now(["systemctl", "mask", "-q", *MASKED])
        if self.network:
            self.network.join(self)

    def unit(self, name: str, text: str) -> None:
        """Add a systemd service, enabled; before `start`."""
        self.write(f"/etc/systemd/system/{name}.service", text)
        self._inside_now(["systemctl", "enable", "-q", name])

    # - life and death

    def __enter__(self) -> Machine:
        return self.start()

    def __exit__(self, *_) -> None:
        self.close()

    def start(self, timeout: float = 60) -> Machine:
        """Boot, and wait until systemd is done with it. RuntimeError with the end of the console when it does not."""
        if self.alive:
            raise RuntimeError(f"{self.name} runs already")
        options = ["--boot", "--resolv-conf=off", "--link-journal=no", f"--hostname={self.name}"]
        options += self.network.options if self.network else []
        options += _binds(self._registries.binds) if self._registries else []
        enter = self.network.enter if self.network else []
        self._process = _nspawn(self.root, self.name, self._group, self.log, options, enter)
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline and self._process.poll() is None:
            if self._find_leader() and self.state(deadline - time.monotonic()) in UP:
                return self
            time.sleep(0.05)
        state = "it ended" if self._process.poll() is not None else f"state after {timeout} s: {self.state(5)}"
        self.kill()
        raise RuntimeError(f"{self.name} did not boot, {state}\n{_tail(self.log)}")

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def state(self, timeout: float) -> str:
        """What systemd says of itself once its start is over: running, degraded (a unit failed), …; or '' so far."""
        try:
            asked = self.run(["systemctl", "is-system-running", "--wait"], check=False, timeout=max(timeout, 0.1))
            return asked.stdout.strip()
        except (RuntimeError, subprocess.TimeoutExpired):
            return ""

    def stop(self, timeout: float = 30) -> None:
        """Shut down cleanly; after `timeout` seconds, hard. The disk is kept."""
        if self.alive:
            self._process.terminate()  # systemd-nspawn then asks systemd to power off
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout)
        self.kill()

    def kill(self) -> None:
        """Power cut: all processes gone at once. The disk is kept, as the machine last wrote it."""
        leader, self._leader = self._leader, None
        if self.alive and leader:
            with contextlib.suppress(ProcessLookupError):
                os.kill(leader, signal.SIGKILL)  # PID 1 takes its whole PID namespace along
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(10)  # systemd-nspawn removes its links and ends
        if self._process:
            _end(self._process)

    def close(self) -> None:
        """Stop it without ceremony and remove its disk."""
        self.kill()
        if self.network:
            self.network.leave(self)
        if self._registries:
            _remove(self._registries.folder)
        _remove_control_group(self._group)
        _remove(self.folder)
        atexit.unregister(self.close)

    def partition(self) -> None:
        """Pull its network plug: what it sends and what is sent to it is lost without a word."""
        self.network.run(["ip", "link", "set", f"vb-{self.name}", "down"])

    def heal(self) -> None:
        """Plug it in again."""
        self.network.run(["ip", "link", "set", f"vb-{self.name}", "up"])

    # - what one does on it

    def run(
        self,
        command: list,
        check: bool = True,
        input: str | bytes | None = None,
        timeout: float = 120,
        env: dict | None = None,
        **options,
    ) -> subprocess.CompletedProcess:
        """Run a command on it as root, with a clean environment and `env`; output is captured as text.

        :param timeout: seconds, then it is killed and subprocess.TimeoutExpired raised; None for no limit.
        :param options: more for subprocess.Popen, such as `text=False`, or `stdout=None` to let output through.
        """
        command = list(map(str, command))
        return _run(self._inside(command, env), check, input, timeout, shown=[f"{self.name}:", *command], **options)

    def popen(self, command: list, env: dict | None = None, **options) -> subprocess.Popen:
        """Start a command on it, for one that takes long; to end it, os.killpg(process.pid, …)."""
        return subprocess.Popen(self._inside(command, env), start_new_session=True, **options)

    def read(self, path: str) -> str:
        """A file's text; also while the machine is off."""
        return self._inside_now(["cat", path]).stdout.decode()

    def write(self, path: str, data: str | bytes, mode: int = 0o644) -> None:
        """Write a file, its folders included; also while the machine is off."""
        script = 'umask 077 && mkdir -p "${1%/*}" && cat >"$1" && chmod "$2" "$1"'
        self._inside_now(
            ["sh", "-c", script, "sh", path, f"{mode:o}"], data.encode() if isinstance(data, str) else data
        )

    def copy_in(self, local: str | Path, inside: str) -> None:
        """Copy a file, or a folder's contents, to the path `inside`.

        Of a git checkout, what a clone with the work of the day would hold: .git and all that git does not ignore.
        """
        local = Path(local)
        if local.is_file():
            self.write(inside, local.read_bytes(), local.stat().st_mode & 0o7777)
            return
        names = ["."]
        if (local / ".git").exists():
            listing = ["git", "-c", "safe.directory=*", "-C", str(local)]
            listing += ["ls-files", "-z", "--cached", "--others", "--exclude-standard"]
            listed = subprocess.run(listing, stdout=subprocess.PIPE, check=True, text=True).stdout.split("\0")
            names = [".git", *(name for name in dict.fromkeys(listed) if name and os.path.lexists(local / name))]
        pack = ["tar", "-C", str(local), "--owner=0", "--group=0", "--null", "-T", "-", "-cf", "-"]
        packed = subprocess.run(pack, input="\0".join(names).encode(), stdout=subprocess.PIPE)
        if packed.returncode > 1:  # 1: a file changed meanwhile
            raise RuntimeError(f"{local} could not be read: tar rc {packed.returncode}")
        self._inside_now(["mkdir", "-p", inside])
        self._inside_now(["tar", "-C", inside, "-xf", "-"], packed.stdout)

    def _inside(self, command: list, env: dict | None = None) -> list[str]:
        if not self.alive or not self._leader:
            raise RuntimeError(f"{self.name} is not running")
        return ["nsenter", "-t", str(self._leader), "-a", "--", *self._environment(env), *map(str, command)]

    def _inside_now(self, command: list, data: bytes | None = None) -> subprocess.CompletedProcess:
        """Run a short command on it, or on its disk while it is off."""
        off = ["chroot", str(self.root), *self._environment(None), *command]
        return _run(self._inside(command) if self.alive else off, True, data, 60, command, text=False)

    def _environment(self, env: dict | None) -> list[str]:
        settings = {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8"}
        settings |= (self._registries.env if self._registries else {}) | (env or {})
        return ["env", "-i", *(f"{key}={value}" for key, value in settings.items())]

    def _find_leader(self) -> int | None:
        """PID 1 of the machine as the host numbers it: systemd-nspawn's child that is systemd, in a PID namespace."""
        nspawn = self._process.pid
        with contextlib.suppress(OSError):
            for child in Path(f"/proc/{nspawn}/task/{nspawn}/children").read_text().split():
                numbers = re.search(r"^NSpid:(.*)$", Path(f"/proc/{child}/status").read_text(), re.M)
                if len(numbers[1].split()) > 1 and Path(f"/proc/{child}/comm").read_text() == "systemd\n":
                    self._leader = int(child)
        return self._leader


# --- below: processes, control groups, removal ---------------------------------------------------------------


def _run(command: list, check=True, input=None, timeout=120, shown=None, **options):
    """subprocess.run, but what is killed at the end of the time is the whole process group: nsenter forks."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
    if isinstance(input, bytes):
        options["text"] = False
    stdin = subprocess.DEVNULL if input is None else subprocess.PIPE
    with subprocess.Popen(list(map(str, command)), stdin=stdin, start_new_session=True, **options) as process:
        try:
            out, err = process.communicate(input, timeout)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    done = subprocess.CompletedProcess(command, process.returncode, out, err)
    if check and done.returncode:
        raise CommandFailed(process.returncode, shown or command, out, err)
    return done


def _nspawn(root: Path, name: str, group: Path, log: Path, options: list, enter: list | tuple = ()):
    """Start systemd-nspawn, detached from this session, in a control group of its own.

    Without it all machines would share one, as --keep-unit makes systemd-nspawn work below the one it was started in;
    systemd would then wait for, and kill, processes of other machines.
    """
    command = ["systemd-nspawn", "-q", "-D", str(root), "-M", name, "--register=no", "--keep-unit", *options]
    env = {**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"}  # also where the host mounts cgroup v1
    with log.open("ab") as out:
        return subprocess.Popen(
            [*_joining(group), *enter, *command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=env,
            start_new_session=True,
        )


def _end(process: subprocess.Popen) -> None:
    """End a process that we started, if it has not ended."""
    for end in (process.terminate, process.kill):
        with contextlib.suppress(subprocess.TimeoutExpired):
            if process.poll() is None:
                end()
                process.wait(5)


def _mounts() -> list[list[str]]:
    """The mounts there are, last one first: [..., root, mount point, ..., type, source, ...], see proc(5)."""
    return [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()][::-1]


def _control_group(name: str) -> Path:
    """A new control group (v2) of ours."""
    mounted = next(Path(mount[4]) for mount in _mounts() if "cgroup2" in mount[mount.index("-") :])
    group = mounted / f"{PREFIX}{name}"
    group.mkdir(exist_ok=True)
    return group


def _joining(group: Path) -> list[str]:
    """What a command is prefixed with to run in the group."""
    return ["sh", "-c", 'echo $$ >"$0/cgroup.procs" && exec "$@"', str(group)]


def _remove_control_group(group: Path) -> None:
    """Remove a control group and kill what is left in it."""
    for _ in range(100 if group.is_dir() else 0):  # what is in it takes a moment to be gone
        with contextlib.suppress(OSError):
            (group / "cgroup.kill").write_text("1")
            for folder, _dirs, _files in os.walk(group, topdown=False):
                os.rmdir(folder)
            return
        time.sleep(0.02)


def _remove(folder: Path) -> None:
    """Remove a folder of ours, after what is mounted in it; nothing that is still mounted is touched."""
    for point in [Path(mount[4]) for mount in _mounts()]:
        if folder in (point, *point.parents):
            for _ in range(50):  # busy while the last processes go
                if subprocess.run(["umount", str(point)], stderr=subprocess.DEVNULL).returncode == 0:
                    break
                time.sleep(0.1)
    if folder.exists():
        subprocess.run(["rm", "-rf", "--one-file-system", str(folder)], check=True)


def _tail(log: Path, lines: int = 30) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else ""


def clean() -> None:
    """Remove what Python processes that are no longer there have left: machines, mounts, namespaces, control groups."""

    def orphans(folder: Path) -> list[Path]:
        found = [(path, re.match(PREFIX + r"(\d+)-", path.name)) for path in folder.glob(PREFIX + "*")]
        return [path for path, match in found if match and not Path("/proc", match[1]).exists()]

    group = _control_group("clean")
    for orphan in orphans(group.parent):
        _remove_control_group(orphan)
    _remove_control_group(group)
    for folder in orphans(TMP):
        _remove(folder)
    for namespace in orphans(Path("/var/run/netns")):
        subprocess.run(["ip", "netns", "delete", namespace.name], check=False)


def bare(release: str, folder: Path, command: list, host_network: bool = False) -> int:
    """Run a command on a bare machine that has a copy of `folder` in /root; output passes through, rc is returned."""
    with contextlib.ExitStack() as stack:
        network = None if host_network else stack.enter_context(Outlet("bare"))
        machine = stack.enter_context(Machine("bare", base(release), network, registries=True))
        machine.copy_in(folder, f"/root/{folder.name}")
        return machine.run(command, check=False, timeout=None, stdout=None, stderr=None).returncode


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m lab.machine", description=__doc__.partition("\n")[0])
    jobs = parser.add_subparsers(dest="job", required=True)
    job = jobs.add_parser("bare", help="run a command on a bare machine")
    job.add_argument("--host-network", action="store_true", help="share this host's network, ports included")
    job.add_argument("release", help="trixie or bookworm")
    job.add_argument("folder", type=Path, help="copied to /root/<its name>")
    job.add_argument("command", nargs=argparse.REMAINDER, metavar="-- command")
    jobs.add_parser("clean", help="remove what killed processes have left")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if options.job == "clean":
        clean()
        return 0
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    return bare(options.release, options.folder.resolve(), command or ["true"], options.host_network)


if __name__ == "__main__":
    sys.exit(main())
