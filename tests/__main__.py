"""One process of bin/test: pytest, which a signal interrupts like Ctrl-C, and which ends when its tests have ended."""

import atexit
import os
import signal
import sys
import threading
from collections.abc import Sequence

import pytest

# How long others' threads may take to end after the last test.
_SECONDS = 20


def main(arguments: Sequence[str]) -> None:
    """Run pytest, and exit with its code. Fixtures and atexit stop the servers that tests have started."""
    me, ended_by = os.getpid(), []

    def end(number: int, _: object) -> None:
        if os.getpid() != me:  # a forked child before its exec
            os._exit(128 + number)
        for each in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(each, signal.SIG_IGN)
        ended_by.append(number)
        raise KeyboardInterrupt

    for each in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, end)
    code = int(pytest.main(["--durations=15", "--durations-min=0.1", *arguments]))
    _exit(128 + ended_by[0] if ended_by else code)


def _exit(code: int) -> None:
    """Exit as sys.exit does, but do not wait for ever for a thread that does not end, as Python does.

    salt-factories' own has not ended once, on Python 3.14: it waited for connections that were closed already.
    """
    others = [each for each in threading.enumerate() if each is not threading.main_thread() and not each.daemon]
    for thread in others:
        thread.join(_SECONDS)
    if left := [thread.name for thread in others if thread.is_alive()]:
        print(f"not waited for any longer: {', '.join(left)}", flush=True)
        atexit._run_exitfuncs()
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    main(sys.argv[1:])
