"""Calls that come at the same time: one runs, one waits for it, the others return; none is lost."""

import threading
import time

import pytest

import ispmail_queue
from ispmail_errors import Failed


def test_many_calls_are_two_runs(tmp_path):
    """The first runs at once. Of those that come meanwhile one runs after it, with what is true by then."""
    started, results, release = [], [], threading.Event()

    def work():
        started.append(time.monotonic())
        release.wait(10)
        return "done"

    def call():
        results.append(ispmail_queue.merged(str(tmp_path / "locks"), "apply", work))

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
            thread = threading.Thread(target=lambda: ispmail_queue.merged(str(tmp_path), "x", work))
            thread.start()
            threads.append(thread)
        return True

    threads = []
    assert ispmail_queue.merged(str(tmp_path), "x", work) is True
    threads[0].join(10)
    assert runs == [0, 1]


def test_names_do_not_wait_for_each_other(tmp_path):
    assert ispmail_queue.merged(str(tmp_path), "a", lambda: ispmail_queue.merged(str(tmp_path), "b", lambda: 5)) == 5


def test_an_error_frees_the_place(tmp_path):
    with pytest.raises(ZeroDivisionError):
        ispmail_queue.merged(str(tmp_path), "a", lambda: 1 / 0)
    assert ispmail_queue.merged(str(tmp_path), "a", lambda: 5) == 5


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Failed, match=r"file/cache cannot be written: Not a directory"):
        ispmail_queue.merged(str(tmp_path / "file" / "cache"), "a", lambda: 5)
