"""
A gate that opens once and for ever: who waits at it goes on, who comes later passes.
"""

from __future__ import annotations

import threading


class Gate:
    """
    As `threading.Event`, which Ctrl-C, should it come just where `set` takes its lock, leaves locked for ever.

    Safe to use from any thread and in a signal handler. Whatever interrupts `open`, the next call does the rest.
    """

    def __init__(self) -> None:
        # Held while it is closed. Not a SimpleQueue, whose `get` can wait for ever where its timeout is over at once.
        self._bar = threading.Lock()
        self._bar.acquire()
        self.is_open = False

    def open(self) -> None:
        """
        Let everybody through. Idempotent.
        """
        self.is_open = True
        self._lift()

    def wait(self, seconds: float) -> None:
        """
        Wait until it opens, so long at most. Not for the thread that signals interrupt.
        """
        if self._bar.acquire(timeout=max(0.0, seconds)):
            self._lift()  # for the next one

    def _lift(self) -> None:
        try:
            self._bar.release()
        except RuntimeError:
            return  # somebody else did it
