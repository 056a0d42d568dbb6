"""A server of one's own that ends with the process that started it."""

from __future__ import annotations

import atexit
import signal
import subprocess
from pathlib import Path
from typing import Any, TypeVar

from lab import START_SECONDS, tail, wait_until
from lab.processes import kill_group

Kind = TypeVar("Kind", bound="Private")


class Private:
    """What starts one program in the foreground, waits until it answers, and stops it. A context manager."""

    # What asks it to end, and what it gets that does not.
    ends, kills = signal.SIGTERM, signal.SIGKILL

    def __init__(self, log_file: Path) -> None:
        """Nothing is started yet. `log_file`: what it prints."""
        self.log_file = log_file
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self: Kind) -> Kind:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        """Whether the server's process is alive."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """The server's process id, None when stopped."""
        return self._process.pid if self._process and self.running else None

    @property
    def log(self) -> str:
        """The text of its log so far."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def start(self: Kind) -> Kind:
        """Start it and wait until it answers. RuntimeError with the end of its log if it does not in START_SECONDS."""
        if self.running:
            return self
        self._prepare()
        atexit.register(self.stop)
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **self._options(),
            )
        if not wait_until(lambda: self._answers() or not self.running, START_SECONDS) or not self.running:
            self.stop()
            raise RuntimeError(f"{type(self).__name__} does not answer:\n{tail(self.log_file, 20)}")
        return self

    def stop(self, patience: float = 15) -> None:
        """End it; after `patience` seconds, kill it, and all that it has started. Its data stay, its ports are free."""
        atexit.unregister(self.stop)
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(self.ends)
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.send_signal(self.kills)
            process.wait()
        kill_group(process.pid)

    def restart(self: Kind) -> Kind:
        """Stop it and start it again, with the same data on the same port."""
        self.stop()
        return self.start()

    def _prepare(self) -> None:
        """Make what has to be there before it starts."""

    def _command(self) -> list[str]:
        """The command line of the server."""
        raise NotImplementedError

    def _options(self) -> dict[str, Any]:
        """More for subprocess.Popen."""
        return {}

    def _answers(self) -> bool:
        """Whether it does its work."""
        raise NotImplementedError
