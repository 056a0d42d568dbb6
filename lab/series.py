"""A master and minions of one Salt series, as processes of their own on loopback."""

import contextlib
import fcntl
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from lab import HOST, free_port, is_free, tail, wait_until
from lab.images import cache
from lab.processes import kill_group

# Series to the newest Python that it runs on.
SERIES = {"3006": (3, 11), "3008": (3, 14)}
# The series of this process. A client of one does not hear the events of a master of another.
INSTALLED = version("salt").partition(".")[0]
_START_SECONDS = 120


def runs_here(series: str) -> bool:
    """Whether this machine's Python can run a series."""
    return sys.version_info[:2] <= SERIES[series]


def programs(series: str) -> Path:
    """The folder of a series' commands; where this Python has another one, a venv in the cache, made once."""
    if series == INSTALLED:
        return Path(sys.executable).parent
    venv = cache().parent / f"salt-{series}-{sys.version_info[0]}.{sys.version_info[1]}"
    with open(f"{venv}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (venv / ".complete").exists():
            wanted = [f"salt=={series}.*", "PyMySQL>=1.1,<1.3"]
            for command in (
                [sys.executable, "-m", "venv", "--clear", str(venv)],
                [str(venv / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-input", *wanted],
            ):
                done = subprocess.run(command, check=False, capture_output=True, text=True)
                if done.returncode:
                    raise RuntimeError(f"Salt {series} could not be installed:\n{done.stdout}{done.stderr}")
            (venv / ".complete").touch()
    return venv / "bin"


class Salt:
    """One master, a minion, and others if wanted, with all that is theirs in `directory`."""

    def __init__(
        self,
        series: str,
        directory: Path,
        file_roots: list[str],
        more_of_master: Mapping[str, Any] | None = None,
        launcher: tuple[list[str], int] = ([], -1),
        patience: float = 20,
        others: Sequence[str] = (),
        name: str = "lab",
        **minion: Any,
    ) -> None:
        """Write all configurations.

        Args:
            more_of_master: More keys of the master's.
            launcher: A command that runs each of them, and a descriptor that it inherits, -1 for none.
            patience: How many seconds all have to end by themselves; a minion often takes eight.
            others: The ids of more minions.
            name: The id of the minion.
            minion: More keys of the minions'.
        """
        self.programs = programs(series)
        self.directory = directory
        publish, self._port = free_port(), free_port()
        self.pillar = directory / "pillar"
        self.pillar.mkdir(parents=True)
        shared = {"user": "root", "publish_port": publish, "log_level_logfile": "debug"}
        shared |= {"enable_fqdns_grains": False, "enable_gpu_grains": False}
        master = {
            **self._paths("master"),
            **shared,
            "interface": HOST,
            "ret_port": self._port,
            "auto_accept": True,
            "worker_threads": 2,  # each takes seconds to start
            "gather_job_timeout": 30,  # what a minion may take on a busy machine to say that a job goes on
            "file_roots": {"base": file_roots},
            "pillar_roots": {"base": [str(self.pillar)]},
            **(more_of_master or {}),
        }
        self._launcher = launcher
        # One that needs no descriptor runs commands, too.
        self._enter = launcher[0] if launcher[1] < 0 else []
        self._patience = patience
        own = {"master": HOST, "master_port": self._port, "acceptance_wait_time": 1}
        # The folder of each minion, to its id.
        self.minions = {"minion": name, **{each: each for each in others}}
        configs = {"master": master}
        for name, id_ in self.minions.items():
            configs[name] = {**self._paths(name), **shared, **own, **minion, "id": id_}
        for name, config in configs.items():
            (directory / name).mkdir()
            (directory / name / ("master" if name == "master" else "minion")).write_text(yaml.safe_dump(config))
        self._processes: list[subprocess.Popen[bytes]] = []

    def _paths(self, name: str) -> dict[str, str]:
        root = self.directory / name
        return {
            "root_dir": str(root),
            "pki_dir": str(root / "pki"),
            "cachedir": str(root / "cache"),
            "sock_dir": str(root / "run"),
            "pidfile": str(root / "pid"),
            "log_file": str(root / "log"),
        }

    def __enter__(self) -> "Salt":
        try:
            self._start("master")
            # A minion that comes too early waits for much longer than that.
            self.wait_until(lambda: not is_free(self._port), "the master listens", _START_SECONDS)
            for name in self.minions:
                self._start(name)
            # A question that comes too early is waited for in vain, seven seconds each.
            self.wait_until(lambda: all(map(self._is_ready, self.minions)), "the minions are ready", _START_SECONDS)
            everybody = dict.fromkeys(self.minions.values(), True)
            self.wait_until(lambda: self.ask("*", "test.ping", timeout=5) == everybody, "they answer", _START_SECONDS)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _start(self, name: str) -> None:
        launch, descriptor = self._launcher
        daemon = "salt-master" if name == "master" else "salt-minion"
        command = [*launch, str(self.programs / daemon), "-c", str(self.directory / name)]
        with open(self.directory / f"{name}.out", "wb") as out:
            self._processes.append(
                subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    start_new_session=True,
                    pass_fds=[] if descriptor < 0 else [descriptor],
                )
            )

    def _is_ready(self, name: str) -> bool:
        log = self.directory / name / "log"
        return log.exists() and b"Minion is ready to receive requests" in log.read_bytes()

    def stop(self) -> None:
        """End them all, and the processes that they have started."""
        for process in reversed(self._processes):
            process.terminate()
        for process in reversed(self._processes):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(self._patience)
            kill_group(process.pid)
            process.wait()
        self._processes.clear()

    @property
    def master(self) -> int:
        """The process id of the master, and of the session that its processes are in."""
        return self._processes[0].pid

    def call(self, function: str, *arguments: str, timeout: int = 60) -> Any:
        """What `salt MINION FUNCTION …` returned; None where nothing did."""
        minion = self.minions["minion"]
        return self.ask(minion, function, *arguments, timeout=timeout).get(minion)

    def ask(
        self, target: str, function: str, *arguments: str, timeout: int = 60, static: bool = True
    ) -> dict[str, Any]:
        """What `salt TARGET FUNCTION …` returned, by minion; empty where nothing did.

        Args:
            static: Whether by `salt --static`, which asks who is there first, in a job of its own.
        """
        command = [*self._enter, str(self.programs / "salt"), "-c", str(self.directory / "master"), "--out=json"]
        command += [*(["--static"] if static else []), f"--timeout={timeout}", target, function, *arguments]
        done = subprocess.run(command, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        # A document for each minion, or one for all.
        answers, decoder, rest = {}, json.JSONDecoder(), done.stdout.lstrip()
        with contextlib.suppress(ValueError):
            while rest:
                found, end = decoder.raw_decode(rest)
                answers.update(found if isinstance(found, dict) else {})
                rest = rest[end:].lstrip()
        return answers

    def run(self, function: str, *arguments: str) -> Any:
        """What `salt-run FUNCTION …` printed; None where nothing did."""
        command = [str(self.programs / "salt-run"), "-c", str(self.directory / "master"), "--out=json"]
        done = subprocess.run(
            [*self._enter, *command, function, *arguments],
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        try:
            return json.loads(done.stdout)
        except ValueError:
            return None

    def wait_until(self, condition: Callable[[], object], what: str, seconds: float) -> None:
        """Wait for a condition; RuntimeError with the ends of the logs where it does not come."""
        if not wait_until(condition, seconds):
            logs = "\n".join(f"{name}:\n{tail(self.directory / name / 'log')}" for name in ("master", *self.minions))
            raise RuntimeError(f"not within {seconds} s: {what}\n{logs}")
