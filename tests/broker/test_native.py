"""
Waiting for the native library's answers: until a deadline of ours, whatever happens meanwhile.
"""

from __future__ import annotations

import functools
import os
import signal
import threading
import time
from typing import Final

import _pulsar
import pytest

from safepulsar.broker.pulsar_client.native import Answer, Closings
from tests.subprocesses import Script

pytestmark = pytest.mark.timeout(60)

# Where the answer is not there and the deadline is over, again and again.
_IN_VAIN: Final = """
    import signal
    import time
    from safepulsar.broker.pulsar_client.native import Answer

    deadline = time.monotonic()
    asked = []
    signal.signal(signal.SIGUSR1, lambda *_: asked.append(1))
    print("waiting")
    while not asked:
        assert Answer().wait(deadline) is None
    print("asked")
"""


def test_an_answer_is_the_result_and_the_value() -> None:
    """
    As the library calls it: with a value, or without one.
    """
    opened, closed = Answer(), Answer()
    opened(_pulsar.Result.Ok, "a producer")
    closed(_pulsar.Result.AlreadyClosed)
    assert opened.wait(time.monotonic() + 10) == (_pulsar.Result.Ok, "a producer")
    assert closed.wait(0) == (_pulsar.Result.AlreadyClosed, None)
    assert opened.wait(0) == (_pulsar.Result.Ok, "a producer")


def test_an_answer_from_another_thread_ends_the_wait() -> None:
    """
    Whoever waits goes on at once, not at the deadline.
    """
    answer = Answer()
    threading.Timer(0.05, answer, (_pulsar.Result.Ok, 1)).start()
    started = time.monotonic()
    assert answer.wait(started + 30) == (_pulsar.Result.Ok, 1)
    assert time.monotonic() - started < 10


def test_no_answer_is_none_at_the_deadline() -> None:
    """
    And what comes later is still there for who asks again.
    """
    answer = Answer()
    started = time.monotonic()
    assert answer.wait(started + 0.05) is None
    assert 0.05 <= time.monotonic() - started < 10
    answer(_pulsar.Result.Ok, 1)
    assert answer.wait(0) == (_pulsar.Result.Ok, 1)


def test_a_wait_whose_time_is_over_ends_although_the_process_was_stopped_in_it() -> None:
    """
    On Python 3.10 a `SimpleQueue` waits for ever if it loses the processor between two looks at the clock.
    """
    with Script(_IN_VAIN) as script:
        script.wait_for("waiting")
        for _ in range(500):
            script.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, script.pid, os.WSTOPPED)
            script.send_signal(signal.SIGCONT)
            os.waitid(os.P_PID, script.pid, os.WCONTINUED)
        script.send_signal(signal.SIGUSR1)
        script.wait_for("asked", timeout_seconds=10)


def test_closings_wait_for_every_function_that_the_library_has() -> None:
    """
    Those that it was given to call at the end, and those that are only watched.
    """
    closings = Closings()
    assert closings.wait(0)
    given = closings.add()
    watched = functools.partial(print)
    closings.watch(watched)
    del given
    assert not closings.wait(0.01)
    del watched
    assert closings.wait(10)
