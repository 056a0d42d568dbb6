"""Calls that come at the same time: one runs, one waits for it, the others return; none is lost."""

import errno
import multiprocessing
import os
import signal
import stat
import threading
import time

import pytest

import _ispmail_queue
from _ispmail_errors import Failed
from lab import wait_until


def test_many_calls_are_two_runs(tmp_path):
    """The first runs at once. Of those that come meanwhile one runs after it, with what is true by then."""
    started, results, release = [], [], threading.Event()

    def work():
        started.append(time.monotonic())
        release.wait(10)
        return "done"

    def call():
        results.append(_ispmail_queue.merged(str(tmp_path / "locks"), "apply", work))

    first = threading.Thread(target=call)
    first.start()
    while not started:
        time.sleep(0.01)
    others = [threading.Thread(target=call) for _ in range(20)]
    for thread in others:
        thread.start()
    while len(results) < 19:
        time.sleep(0.01)
    last_call = time.monotonic()
    assert results == [None] * 19 and len(started) == 1
    release.set()
    for thread in [first, *others]:
        thread.join(10)
    assert sorted(results, key=str) == [None] * 19 + ["done"] * 2
    assert len(started) == 2 and started[1] > last_call, "the last caller was not served"


def test_a_call_after_the_wait_is_over_starts_another_run(tmp_path):
    """The one that waited has read its input by then: a later caller needs newer input."""
    runs = []

    def work():
        runs.append(len(runs))
        if len(runs) == 1:
            # While this one runs, nobody waits: another call has to wait, not to return.
            thread = threading.Thread(target=lambda: _ispmail_queue.merged(str(tmp_path), "x", work))
            thread.start()
            threads.append(thread)
        return True

    threads = []
    assert _ispmail_queue.merged(str(tmp_path), "x", work) is True
    threads[0].join(10)
    assert runs == [0, 1]


def test_names_do_not_wait_for_each_other(tmp_path):
    assert _ispmail_queue.merged(str(tmp_path), "a", lambda: _ispmail_queue.merged(str(tmp_path), "b", lambda: 5)) == 5


def test_an_error_frees_the_place(tmp_path):
    with pytest.raises(ZeroDivisionError):
        _ispmail_queue.merged(str(tmp_path), "a", lambda: 1 / 0)
    assert _ispmail_queue.merged(str(tmp_path), "a", lambda: 5) == 5


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Failed, match=r"file/cache cannot be written: Not a directory"):
        _ispmail_queue.merged(str(tmp_path / "file" / "cache"), "a", lambda: 5)


def test_the_lock_files_are_roots_alone_and_keep_their_names(tmp_path):
    """A job that has the library of an earlier release waits for the same files."""
    folder = tmp_path / "cache" / "ispmail"
    assert _ispmail_queue.merged(str(folder), "apply", lambda: sorted(os.listdir(folder))) == [
        "apply.running",
        "apply.waiting",
    ]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(_ispmail_queue.fcntl, "flock", refuse)
    with pytest.raises(Failed) as caught:
        _ispmail_queue.merged(str(tmp_path), "a", lambda: 5)
    assert str(caught.value) == f"{tmp_path}: its files cannot be locked: No locks available"


def test_what_a_bounded_call_returns_and_raises():
    """Salt logs the name of its process."""
    assert _ispmail_queue.bounded(lambda: {"a": multiprocessing.current_process().name}, 30) == {"a": "ispmail-bounded"}
    with pytest.raises(Failed, match=r"^the reason$"):
        _ispmail_queue.bounded(lambda: raised(Failed("the reason")), 30)
    with pytest.raises(Failed, match=r"^its process ended without a result$"):
        _ispmail_queue.bounded(lambda: os._exit(1), 30)


def raised(error):
    raise error


def test_a_bounded_call_may_end_what_it_has_begun(tmp_path):
    """Its result is here already, and a thread of it closes a connection."""

    def act():
        threading.Thread(target=write_later, args=[tmp_path / "closed"]).start()
        return True

    assert _ispmail_queue.bounded(act, 30) is True
    assert (tmp_path / "closed").exists()


def write_later(path):
    time.sleep(0.3)
    path.write_text("")


@pytest.fixture
def on_sigterm():
    """Set what SIGTERM does: a child that is forked has it from its first moment."""
    before = signal.getsignal(signal.SIGTERM)
    yield lambda act: signal.signal(signal.SIGTERM, act)
    signal.signal(signal.SIGTERM, before)


def test_a_call_that_takes_too_long_is_asked_to_end(tmp_path, on_sigterm):
    def end(*_):
        write_later(tmp_path / "ended")
        os._exit(0)

    on_sigterm(end)
    assert _ispmail_queue.bounded(lambda: time.sleep(60), 0.1) is None
    assert (tmp_path / "ended").exists()


def test_a_call_that_does_not_end_is_killed(monkeypatch, on_sigterm):
    on_sigterm(signal.SIG_IGN)
    monkeypatch.setattr(_ispmail_queue, "_END_SECONDS", 0.1)
    assert _ispmail_queue.bounded(lambda: time.sleep(60), 0.1) is None
    assert wait_until(lambda: not multiprocessing.active_children(), 10)
