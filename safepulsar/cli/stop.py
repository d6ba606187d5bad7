"""
Ctrl-C and SIGTERM as a fact to look at and to wait for, so that a command ends in order.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Final

from safepulsar.cli.terminal import say

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType, TracebackType

    from typing_extensions import Self

    from safepulsar.sender import RetryingSender

_GRACE_SECONDS: Final = 5.0
_SAME_WISH_SECONDS: Final = 0.3
_SHOW_CURSOR: Final = b"\x1b[?25h"  # a progress bar hides it


class Stopped(Exception):
    """
    What was going on was given up because a signal asked to stop.
    """


class StopSignals:
    """
    In a `with` block, the first SIGINT, SIGTERM or SIGHUP sets `requested`; a second one ends the process at once.

    The handler raises nothing, because an exception could arise anywhere, also between the acceptance of a message
    and its handle. What waits is woken: `wait`, and whoever selects on `fileno()`. To be entered in the main thread.

    A second signal that follows at once is taken for the first: some tools signal a process and then its group.
    """

    def __enter__(self) -> Self:
        """
        Take over the signals.
        """
        self.requested = False
        self._requested_at = 0.0
        self._incoming, self._outgoing = os.pipe()
        self._previous = {number: signal.signal(number, self._on_signal) for number in _signals()}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """
        Give them back.
        """
        for number, previous in self._previous.items():
            signal.signal(number, previous)
        os.close(self._incoming)
        os.close(self._outgoing)

    def fileno(self) -> int:
        """
        Ready to be read from when there is nothing more to wait for.
        """
        return self._incoming

    def wait(self, seconds: float | None = None) -> bool:
        """
        Wait for a signal or for `release`, at most so long; whether one of them came.
        """
        return bool(select.select([self._incoming], [], [], seconds)[0])

    def release(self) -> None:
        """
        Wake whoever waits, without a signal.
        """
        os.write(self._outgoing, b".")

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if not self.requested:
            self.requested = True
            self._requested_at = time.monotonic()
            self.release()
        elif time.monotonic() - self._requested_at > _SAME_WISH_SECONDS:
            if sys.stderr.isatty():
                os.write(sys.stderr.fileno(), _SHOW_CURSOR)
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


@contextlib.contextmanager
def close_on_signal(sender: RetryingSender, stop: StopSignals) -> Iterator[None]:
    """
    In a `with` block, a signal closes the sender: what is in flight gets some seconds, the rest is kept.

    On a thread of its own, because the main one may be waiting for room, and closing is what wakes it.
    """

    def wait_and_close() -> None:
        stop.wait()
        if stop.requested:
            say(
                f"stopping: up to {_GRACE_SECONDS:g} s for what is in flight, the rest is kept; Ctrl-C again ends at once and keeps nothing"
            )
            sender.close(_GRACE_SECONDS)

    closer = threading.Thread(target=wait_and_close, name="safepulsar-stop")
    closer.start()
    try:
        yield
    finally:
        stop.release()
        closer.join()


def _signals() -> list[signal.Signals]:
    numbers = [signal.SIGINT, signal.SIGTERM]
    # Ignored under nohup, whose purpose is just that.
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    return numbers
