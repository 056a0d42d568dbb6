"""End on SIGINT, SIGTERM and SIGHUP by SystemExit, so that all that was started is stopped."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def exit_on_signals() -> None:
    """From here on a signal raises SystemExit with the exit code 128 + its number."""
    for number in SIGNALS:
        signal.signal(number, _exit)


def ignore_signals() -> None:
    """From here on no signal has an effect: what was started is being stopped."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def delayed_signals() -> Iterator[None]:
    """A signal takes effect only after the block: by then a server that the block has started can be stopped."""
    received: list[int] = []
    for number in SIGNALS:
        signal.signal(number, lambda number, _frame: received.append(number))
    try:
        yield
    finally:
        exit_on_signals()
        if received:
            _exit(received[0], None)


def _exit(number: int, _frame: FrameType | None) -> None:
    ignore_signals()
    raise SystemExit(128 + number)
