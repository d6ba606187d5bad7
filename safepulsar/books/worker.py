"""
One thread that works for a sender: started before it is needed, woken by a bell, and ended with the sender.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from safepulsar.books.ledger import Ledger


class Worker:
    """
    Runs `step` again and again on a thread of this name, until `done_locked` says that it may end.

    Everything is guarded by the ledger's lock, and nothing here keeps or loses it when Ctrl-C comes, see `Ledger`.

    Args:
        name: of the thread.
        ledger: of the sender.
        step: one piece of work, or a `wait` if there is none.
        done_locked: asked with the lock held before each step.
    """

    def __init__(self, name: str, ledger: Ledger, *, step: Callable[[], None], done_locked: Callable[[], bool]) -> None:
        self._name = name
        self._ledger = ledger
        self._step = step
        self._done_locked = done_locked
        # Free from a ring on until somebody hears it. Not a SimpleQueue, whose `get` can wait for ever where its timeout
        # is over at once.
        self._bell = threading.Lock()
        self._bell.acquire()
        self._thread: threading.Thread | None = None
        self._up = False  # its start was not interrupted; not `is_alive`, which can go wrong for good when it is

    def start_locked(self) -> None:
        """
        Have the thread, before anything is accepted: at its exit Python 3.12 may start none any more.

        Raises:
            RuntimeError: no thread can be had.
        """
        if not self._up:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            start_thread(self._thread)
            self._up = True

    @property
    def up(self) -> bool:
        """
        Whether it has a thread.
        """
        return self._up

    def ring(self) -> None:
        """
        End the `wait` that is going on, or else the next one.
        """
        try:
            self._bell.release()
        except RuntimeError:
            return  # it was rung before

    def hush(self) -> None:
        """
        Forget a ring that nobody has heard.
        """
        self._bell.acquire(blocking=False)

    def wait(self, seconds: float | None = None) -> None:
        """
        In a step: wait for `ring`, so long at most.
        """
        self._bell.acquire(timeout=-1 if seconds is None else max(0.0, seconds))

    def ended(self, deadline: float) -> bool:
        """
        Wait until it has no thread any more; False if it still has one at the deadline. Not for its own thread.
        """
        if self._thread is threading.current_thread():
            return True
        return self._ledger.wait_until(lambda: not self._up, deadline)

    def _run(self) -> None:
        me = threading.current_thread()
        while True:
            with self._ledger.lock:
                if self._thread is not me:
                    self.ring()  # its start was interrupted, and another took its place: what it heard is for that one
                    return
                self._up = True
                if self._done_locked():
                    self._up = False
                    self._ledger.changed_locked()
                    return
            self._step()


def start_thread(thread: threading.Thread) -> None:
    """
    Start it. Ctrl-C that comes meanwhile is raised as such.

    Raises:
        RuntimeError: no thread can be had.
    """
    try:
        thread.start()
    except RuntimeError as error:
        # The standard library waits for the thread with a Condition; interrupted there, it fails to release its lock.
        interrupt = error.__context__
        if interrupt is not None and "thread" not in str(error):
            raise interrupt from None
        raise
