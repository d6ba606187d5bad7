"""
A gate that opens once and for ever: who waits at it goes on, who comes later passes.
"""

from __future__ import annotations

from contextlib import suppress
from queue import Empty, SimpleQueue


class Gate:
    """
    As `threading.Event`, which Ctrl-C, should it come just where `set` takes its lock, leaves locked for ever.

    Safe to use from any thread and in a signal handler. Whatever interrupts `open`, the next call does the rest.
    """

    def __init__(self) -> None:
        self._bell: SimpleQueue[None] = SimpleQueue()  # in C: a ring is there or it is not
        self.is_open = False

    def open(self) -> None:
        """
        Let everybody through. Idempotent.
        """
        self.is_open = True
        self._bell.put(None)

    def wait(self, seconds: float) -> None:
        """
        Wait until it opens, so long at most. Not for the thread that signals interrupt.
        """
        with suppress(Empty):
            self._bell.get(timeout=max(0.0, seconds))
            self._bell.put(None)  # for the next one
