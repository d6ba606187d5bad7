"""
A process forks between the client library's calls: it waits for those that are under way, and lets none begin meanwhile.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest

from safepulsar.processes import native_calls as module
from safepulsar.processes.native_calls import NativeCalls
from tests.subprocesses import run_script
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def calls() -> NativeCalls:
    """
    Return those of a process of its own.
    """
    return NativeCalls()


@pytest.fixture
def forking(calls: NativeCalls) -> Iterator[threading.Thread]:
    """
    A thread that is about to fork, and waits for the call 1.
    """
    calls.begin(1)
    thread = threading.Thread(target=calls.before_fork)
    thread.start()
    wait_until(lambda: calls._forking, "the fork began")
    yield thread
    calls.end(1)
    thread.join()


def test_a_fork_waits_for_what_is_under_way(calls: NativeCalls, forking: threading.Thread) -> None:
    """
    Until its answer, and not for what somebody else ends.
    """
    calls.end(2)
    forking.join(0.05)
    assert forking.is_alive()
    calls.end(1)
    forking.join(5)
    assert not forking.is_alive()


def test_nothing_begins_while_the_process_forks(calls: NativeCalls, forking: threading.Thread) -> None:
    """
    It begins behind the fork, and the fork does not wait for it.
    """
    begun = threading.Event()

    def begin() -> None:
        calls.begin(2)
        begun.set()

    thread = threading.Thread(target=begin)
    thread.start()
    calls.end(1)
    forking.join(5)
    assert not forking.is_alive()
    assert not begun.wait(0.05)
    calls.after_fork_in_parent()
    assert begun.wait(5)
    thread.join()


def test_a_fork_does_not_wait_for_ever(calls: NativeCalls, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A broker that is away answers nothing; servers start their workers all the same, and wait for it once.
    """
    monkeypatch.setattr(module, "_LONGEST_SECONDS", 0.05)
    calls.begin(1)
    began = time.monotonic()
    calls.before_fork()
    assert time.monotonic() - began >= 0.05
    calls.after_fork_in_parent()
    calls.begin(2)  # waits for nothing any more
    calls.end(2)
    monkeypatch.setattr(module, "_LONGEST_SECONDS", 60)
    calls.before_fork()  # what it has waited for in vain need not end for this one
    calls.after_fork_in_parent()
    calls.end(1)
    assert not calls._late


def test_forks_wait_for_a_broker_that_is_away_once(calls: NativeCalls, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Also where more was handed over meanwhile; until it answers again.
    """
    monkeypatch.setattr(module, "_LONGEST_SECONDS", 0.05)
    calls.begin(1)
    calls.before_fork()
    calls.after_fork_in_parent()
    calls.begin(2)
    monkeypatch.setattr(module, "_LONGEST_SECONDS", 60)
    calls.before_fork()
    calls.after_fork_in_parent()
    calls.end(1)
    monkeypatch.setattr(module, "_LONGEST_SECONDS", 0.05)
    calls.begin(3)
    began = time.monotonic()
    calls.before_fork()
    assert time.monotonic() - began >= 0.05


def test_a_signal_handler_may_begin_a_call_in_the_middle_of_a_fork(
    calls: NativeCalls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    It runs in the thread that forks, which goes on only when it has returned.
    """
    monkeypatch.setattr(module, "_LONGEST_SECONDS", 0.05)
    sleep = time.sleep

    def interrupted(seconds: float) -> None:
        calls.begin(2)
        calls.end(2)
        sleep(seconds)

    calls.begin(1)
    calls.end(1)
    monkeypatch.setattr(time, "sleep", interrupted)
    calls.before_fork()
    calls.after_fork_in_parent()


def test_a_process_without_a_client_forks_at_once(calls: NativeCalls, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Nothing looks, nothing waits.
    """
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("it waited"))
    calls.before_fork()
    calls.after_fork_in_parent()


def test_a_child_begins_anew(calls: NativeCalls, forking: threading.Thread) -> None:
    """
    What is under way is the parent's, and the child does not fork itself.
    """
    calls.after_fork()
    calls.begin(2)
    assert calls._under_way == {2}
    forking.join(5)


def test_ctrl_c_in_the_wait_comes_behind_the_fork() -> None:
    """
    Python prints what hooks of forks raise, and goes on: the user's Ctrl-C would be forgotten.
    """
    result = run_script(
        """
        import os, signal, threading, time
        from safepulsar.processes.native_calls import native_calls
        from safepulsar.processes import forks

        native_calls.begin(1)  # that nobody answers
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        child = 0
        try:
            child = os.fork()
            if child == 0:
                os._exit(0)
            time.sleep(10)
        except KeyboardInterrupt:
            print("interrupted after the fork" if child else "before")
        os.waitpid(child, 0)
        """,
        timeout_seconds=20,
    )
    assert result.check() == "interrupted after the fork\n", str(result)
    assert "Traceback" not in result.stderr
