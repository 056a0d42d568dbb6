"""Merge calls that come at the same time: one runs, one waits, the others return at once. Bound a call in time."""

from __future__ import annotations

import contextlib
import fcntl
import multiprocessing
import os
from collections.abc import Callable
from typing import TypeVar

from _ispmail_errors import Failed

T = TypeVar("T")
# How long a process has to end when it is told to, in seconds.
_END_SECONDS = 5


def merged(folder: str, name: str, function: Callable[[], T]) -> T | None:
    """Run a function that reads its input anew, unless another call waits to do just that.

    At least one run is guaranteed to start after this call.

    Args:
        folder: Where the two lock files are; made if it is not there.
        name: What is run: calls of one name are merged.

    Returns:
        What the function returns; None where another call that waits does it.

    Raises:
        Failed: The lock files cannot be written.
    """
    with contextlib.ExitStack() as stack:
        try:
            os.makedirs(folder, mode=0o700, exist_ok=True)
            running = stack.enter_context(open(os.path.join(folder, f"{name}.running"), "a", encoding="ascii"))
            waiting = stack.enter_context(open(os.path.join(folder, f"{name}.waiting"), "a", encoding="ascii"))
        except OSError as err:
            raise Failed(f"{folder} cannot be written: {err.strerror}") from err
        try:
            fcntl.flock(waiting, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(running, fcntl.LOCK_EX)
        except BlockingIOError:
            return None
        except OSError as err:
            raise Failed(f"{folder}: its files cannot be locked: {err.strerror}") from err
        # Release the waiting slot before reading any input: a later caller needs newer input than we are about to read.
        waiting.close()
        return function()


def bounded(function: Callable[[], T], seconds: float) -> T | None:
    """Run a function in a forked process, and stop it there at the end of its time.

    Returns:
        What the function returns, which can be pickled; None where it had to be stopped.

    Raises:
        Exception: What it has raised.
        Failed: The process ended without a result.
    """
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)

    def run() -> None:
        try:
            theirs.send((function(), None))
        except Exception as err:  # pylint: disable=broad-except
            theirs.send((None, err))

    process = context.Process(target=run, name="ispmail-bounded")
    with ours:
        with theirs:
            process.start()
        try:
            if not ours.poll(seconds):
                return None
            answer: tuple[T, Exception | None] = ours.recv()
            process.join(_END_SECONDS)
        except EOFError as err:
            raise Failed("its process ended without a result") from err
        finally:
            process.terminate()
            process.join(_END_SECONDS)
            process.kill()
    if answer[1] is not None:
        raise answer[1]
    return answer[0]
