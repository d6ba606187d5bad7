"""
Looks after deadlines while anything is in flight, and after idle producers always.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Protocol

from safepulsar.books.handle import now
from safepulsar.books.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from safepulsar.books.ledger import Ledger
    from safepulsar.broker.producer_pool import ProducerPool

log = logging.getLogger("safepulsar")
_TICK_SECONDS = 0.05  # with the store's write, well inside the 250 ms by which a call may pass its deadline


class Expiring(Protocol):
    """
    What has deadlines to look after: a queue, or the outbox.
    """

    @property
    def topic(self) -> str:
        """
        For the log.
        """

    def expire(self, moment: float) -> bool:
        """
        See `SendQueue.expire`.
        """


class Watch:
    """
    One thread, `safepulsar-watch`, which every tick gives up what is past its deadline.

    It does so also while a queue's own thread is held up in a native call, and sleeps when nothing is in flight.

    Args:
        queues: the sender's queues, and its outbox, at the moment of the call.
        ledger: of the sender.
        pool: whose idle producers are closed now and then.
        idle_seconds: how long a producer may be idle.

    Attributes:
        awake: it is going to look once more at everything that is in flight by now.
    """

    def __init__(
        self, queues: Callable[[], Iterable[Expiring]], ledger: Ledger, pool: ProducerPool, idle_seconds: float
    ) -> None:
        self._queues = queues
        self._pool = pool
        self._evict_every = max(_TICK_SECONDS, idle_seconds / 4)
        self._evict_at = now() + self._evict_every
        self._evicting: threading.Thread | None = None
        self.awake = False
        self._closing = False
        self._worker = Worker("safepulsar-watch", ledger, step=self._step, done_locked=lambda: self._closing)

    def wake_locked(self) -> None:
        """
        Look from now on: something is about to be accepted.

        `awake` tells when there is no need to: who looks at the queues needs the ledger's lock, too, and looks afterwards.

        Raises:
            RuntimeError: no thread can be had.
        """
        if not self._closing:
            self._worker.start_locked()
        self._worker.ring()
        self.awake = True

    def close(self, deadline: float) -> bool:
        """
        End the thread; False if it has not ended at the deadline.
        """
        self._closing = True
        self._worker.ring()
        ended = self._worker.ended(deadline)
        evicting = self._evicting
        if evicting is not None:
            evicting.join(max(0.0, deadline - now()))
        return ended and not (evicting is not None and evicting.is_alive())

    def _step(self) -> None:
        if self.awake:
            self._worker.hush()  # rung while it looked: seen at the next tick, or a busy application would have it look on and on
        if not self._closing:
            self._worker.wait(_TICK_SECONDS if self.awake else max(_TICK_SECONDS, self._evict_at - now()))
        if self._closing:
            return
        self.awake = False  # before looking: whoever comes after the look wakes again
        moment = now()
        for queue in self._queues():
            try:
                if queue.expire(moment):
                    self.awake = True
            except Exception:  # the watch must go on, or the deadlines of all others no longer hold
                self.awake = True
                log.exception("safepulsar.watch_failed", extra={"topic": queue.topic})
        if moment >= self._evict_at:
            self._evict_at = moment + self._evict_every
            self._evict()

    def _evict(self) -> None:
        if self._evicting is not None and self._evicting.is_alive():
            return
        # On a thread of its own: a flush asks the broker, and deadlines can't wait for that.
        self._evicting = threading.Thread(target=self._pool.evict_idle, name="safepulsar-evict", daemon=True)
        try:
            self._evicting.start()
        except RuntimeError:  # no more threads; later perhaps
            self._evicting = None
