"""
A producer on loan: who has it, since when, and where it was taken.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from types import CodeType, TracebackType

    from safepulsar.broker.transport import TransportProducer
    from safepulsar.settings import ProducerSettings

# Why a lease has no producer in time. The client library tries on behind both, and tells them apart in its log alone.
STILL_OPENING: Final = "it is still being opened: the broker does not answer, or it refuses the credentials (`safepulsar doctor` tells which)"


class Lender(Protocol):
    """
    Where a lease goes back to.
    """

    def release(self, lease: Lease) -> None:
        """
        Take it back.
        """


class PooledProducer:
    """
    A producer in the pool, with its leases.

    Its leases are a set that threads change without a lock, which is what makes a loan cheap. Whoever lends adds the
    lease first and then looks whether the producer is `open`; whoever closes it clears `open` first and then looks for
    leases. So at least one of the two sees the other.

    Attributes:
        open: whether it may be lent. Cleared and, if a lease is found then, set again with the pool's lock held.
        doomed: it is not lent again and closes with its last lease. Never undone.
        retiring: one thread flushes and closes it. Never undone.
        idle_since: when its last lease came back, by the pool's clock.
    """

    __slots__ = ("doomed", "idle_since", "leases", "open", "producer", "retiring", "settings")

    def __init__(self, settings: ProducerSettings, producer: TransportProducer, moment: float) -> None:
        self.settings = settings
        self.producer = producer
        self.leases: set[Lease] = set()
        self.open = True
        self.doomed = False
        self.retiring = False
        self.idle_since = moment


class Lease:
    """
    A loan of a shared producer. Use it in a `with` block, which gives the producer and takes it back at its end.

    While it lasts the pool does not close the producer, unless it is told to or closes itself. It ends when everything
    that was handed over is answered or given up. Giving it back twice does no harm.

    Attributes:
        taken_at: when it was granted, by the pool's clock.
        reported: the pool has logged that it takes too long.
    """

    __slots__ = ("_lender", "_place", "pooled", "reported", "taken_at")

    def __init__(self, lender: Lender, place: tuple[CodeType, int] | None) -> None:
        self._lender = lender
        self._place = place
        self.pooled: PooledProducer | None = None  # until it is granted
        self.reported = False
        self.taken_at = 0.0

    def __repr__(self) -> str:
        return f"<Lease {self.topic!r}, taken at {self.place}>" if self.pooled is not None else "<Lease not granted>"

    def __enter__(self) -> TransportProducer:
        """
        Return the producer.
        """
        return self.producer

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """
        Give it back.
        """
        self._lender.release(self)

    @property
    def producer(self) -> TransportProducer:
        """
        The producer on loan.
        """
        if self.pooled is None:
            raise RuntimeError("this lease was not granted; take one with ProducerPool.lease()")
        return self.pooled.producer

    @property
    def topic(self) -> str:
        """
        Of the producer on loan; empty if it was not granted.
        """
        return self.pooled.settings.topic if self.pooled is not None else ""

    @property
    def place(self) -> str:
        """
        Where it was taken: file, line and function; `unknown` unless `PoolSettings.leak_seconds` is set.
        """
        if self._place is None:
            return "unknown"
        code, line = self._place
        return f"{code.co_filename}:{line} in {code.co_name}"

    def release(self) -> None:
        """
        Give it back.
        """
        self._lender.release(self)

    def grant(self, pooled: PooledProducer, moment: float) -> None:
        """
        Begin it. By the pool only.
        """
        self.pooled = pooled
        self.taken_at = moment
        pooled.leases.add(self)


class Creation:
    """
    A producer that is being opened, and the leases that wait for it; the pool's lock guards both.

    Attributes:
        waiting: granted as soon as it is open.
        done: it is open, or failed, or the pool closed meanwhile.
        error: why it failed.
    """

    def __init__(self, lease: Lease) -> None:
        self.waiting = [lease]
        self.done = threading.Event()
        self.error: Exception | None = None
