"""
Closes an exactly-once producer as soon as it has lost its connection, before the client library connects again.

Else the library would send once more what was under way, and a broker that does not deduplicate would store it twice. It
waits for a tenth of a second at least before it connects, and can't be told not to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from safepulsar.books.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable

    from safepulsar.delivery.send_queue import SendQueue

_LOOK_SECONDS = 0.01


class ConnectionGuard:
    """
    One thread, which looks while something is on its way and sleeps else.

    Args:
        queue: whose producers are looked at.
        needed: whether the broker would store something twice.
        idle: called when nothing is on its way any more; in how many seconds again, None for not before there was.
    """

    def __init__(self, queue: SendQueue, *, needed: Callable[[], bool], idle: Callable[[], float | None]) -> None:
        self._queue = queue
        self._needed = needed
        self._idle = idle
        self._worker = Worker(
            f"safepulsar-connection {queue.topic}",
            queue.ledger,
            step=self._step,
            done_locked=lambda: queue.closing.is_open,
        )

    def start_locked(self) -> None:
        """
        Have the thread; see `Worker.start_locked`.
        """
        self._worker.start_locked()

    def ring(self) -> None:
        """
        Look: something is about to be handed over, or the sender closes.
        """
        self._worker.ring()

    def ended(self, deadline: float) -> bool:
        """
        Wait for the thread's end, after the queue's; False if it has not ended at the deadline.
        """
        self._worker.ring()
        return self._worker.ended(deadline)

    def _step(self) -> None:
        producers = self._queue.producers()
        if not producers:
            self._worker.wait(self._idle())
            return
        for producer in producers:
            if self._needed() and not producer.is_connected():
                self._queue.pool.abandon(producer)
        self._worker.wait(_LOOK_SECONDS)
