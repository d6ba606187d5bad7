"""
The desk: one thread at a time, and nobody waits for one that hangs.
"""

from __future__ import annotations

import threading

import pytest

from safepulsar.delivery import desk as desk_module
from safepulsar.delivery.desk import Desk
from tests.waiting import wait_until

_LONG_SECONDS = 30.0


def test_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Many threads that count in two steps lose nothing.
    """
    monkeypatch.setattr(desk_module, "_PATIENCE_SECONDS", _LONG_SECONDS)  # whatever the machine does meanwhile
    desk = Desk()
    counted = [0]

    def count() -> None:
        for _ in range(500):
            with desk:
                before = counted[0]
                threading.Event().wait(0)  # gives the interpreter's lock away
                counted[0] = before + 1

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(_LONG_SECONDS)
    assert counted == [4000]


def test_who_stays_too_long_is_passed_by_and_does_no_harm_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Two that wait go on while the first is still there; once it leaves, it is one at a time again.
    """
    desk = Desk()
    inside, leave, passed = threading.Event(), threading.Event(), threading.Semaphore(0)

    def stay() -> None:
        with desk:
            inside.set()
            leave.wait(_LONG_SECONDS)

    def pass_by() -> None:
        with desk:
            passed.release()

    threads = [threading.Thread(target=stay)]
    threads[0].start()
    assert inside.wait(_LONG_SECONDS)
    threads += [threading.Thread(target=pass_by) for _ in range(2)]
    for thread in threads[1:]:
        thread.start()
    assert passed.acquire(timeout=_LONG_SECONDS)
    assert passed.acquire(timeout=_LONG_SECONDS)
    monkeypatch.setattr(desk_module, "_PATIENCE_SECONDS", _LONG_SECONDS)
    with desk:
        leave.set()
        threads[0].join(_LONG_SECONDS)
        last = threading.Thread(target=pass_by)
        last.start()
        wait_until(last.is_alive, "it waits")
        assert not passed.acquire(timeout=0.05)  # what the first left behind does not let it in
    assert passed.acquire(timeout=_LONG_SECONDS)
    for thread in [*threads, last]:
        thread.join(_LONG_SECONDS)


def test_an_error_leaves_the_desk() -> None:
    """
    As the end of the block does.
    """
    desk = Desk()
    with pytest.raises(ValueError, match="inside"), desk:
        raise ValueError("inside")
    assert desk._free.qsize() == 1
