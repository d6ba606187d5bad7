"""
The pool: who gets which producer, who waits, and what is closed when.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Final

from safepulsar.broker.producer_pool.backoff import Backoff
from safepulsar.broker.producer_pool.closing import flush_and_close
from safepulsar.broker.producer_pool.lease import STILL_OPENING, Creation, Lease, PooledProducer
from safepulsar.broker.producer_pool.shelf import Shelf
from safepulsar.broker.producer_pool.stats import PoolStats
from safepulsar.errors import DeadlineExceeded, PoolClosed, SafePulsarError
from safepulsar.settings import PoolSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from safepulsar.broker.transport import TransportProducer
    from safepulsar.settings import ProducerSettings

log = logging.getLogger("safepulsar")

_FLUSH_SECONDS: Final = 1.0  # for all that one call of ours flushes: a frozen broker would hold it up for ever
_FLUSHES: Final = 16  # at once
_MEAN_OF: Final = 1000


class ProducerPool:
    """
    Lends shared producers, one for all equal `ProducerSettings`. Thread-safe.

    - A producer that is open is lent without a lock. Otherwise one thread opens it while all who want the same one
      wait for that, each as long as it likes; those who want another are not held up. Opening goes on when nobody
      waits any more, for the next one who asks.
    - At most `max_concurrent_creations` are opened at once. Where so many topics hang at the same time, others wait
      for them, up to the operation timeout.
    - A failure is told to everyone who waited, and is no answer for those who come later: after a pause, doubled each
      time, the next call tries again.
    - What is leased is not evicted. Eviction stops lending, flushes, and closes; a flush is given a second.
    - It has no thread of its own to look after it: its owner calls `evict_idle` now and then.

    Args:
        open_producer: opens one, such as `TransportClient.create_producer`; may block.
        settings: see `PoolSettings`.
        clock: seconds, never going back.
    """

    def __init__(
        self,
        open_producer: Callable[[ProducerSettings], TransportProducer],
        settings: PoolSettings = PoolSettings(),  # noqa: B008  # frozen
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._open_producer = open_producer
        self._settings = settings
        self._clock = clock
        self._traced = settings.leak_seconds is not None
        self._begin()

    def _begin(self) -> None:
        # Guards everything below; never held while anything is opened, flushed or closed. Re-entrant, because a signal
        # handler may close in the middle of another call. Taken itself, because Ctrl-C just where a condition takes it
        # would leave it held.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)  # told when there may be room, and when the pool closes
        self._shelf = Shelf()
        self._creations: dict[ProducerSettings, Creation] = {}
        self._backoff = Backoff(self._settings)
        self._closed = False
        self._created = self._evicted = self._wait_timeouts = 0
        self._waiting = 0  # also read without the lock: as long as it is not 0, whoever gives back a lease notifies
        self._lease_seconds: deque[float] = deque(maxlen=_MEAN_OF)

    def __repr__(self) -> str:
        return f"<ProducerPool {'closed' if self._closed else 'open'}, {len(self._shelf)} producers>"

    # -- lending ---------------------------------------------------------------------------------------------

    def lease(self, settings: ProducerSettings, timeout_seconds: float) -> Lease:
        """
        Borrow the producer of `settings`.

        Args:
            settings: of the producer.
            timeout_seconds: how long to wait while it opens, or for room.

        Raises:
            CreationBackoff: opening it failed a moment ago.
            DeadlineExceeded: not ready in time.
            PoolClosed: the pool lends no more.
            SafePulsarError: opening it failed; the error of `open_producer`.
        """
        place = None
        if self._traced:
            caller = sys._getframe(1)  # noqa: SLF001  # documented, and a hundred times as fast as `inspect`
            place = caller.f_code, caller.f_lineno
        lease = Lease(self, place)
        pooled = self._shelf.get(settings)
        if pooled is not None:
            lease.grant(pooled, self._clock())
            if pooled.open:
                return lease
            self.release(lease)
            lease.pooled = None
        return self._lease_slowly(lease, settings, timeout_seconds)

    def release(self, lease: Lease) -> None:
        """
        Take a lease back; `Lease.release` and the end of its `with` block call this.
        """
        pooled = lease.pooled
        if pooled is None:
            return
        pooled.idle_since = moment = self._clock()
        try:
            pooled.leases.remove(lease)
        except KeyError:
            return  # it came back before
        self._lease_seconds.append(moment - lease.taken_at)
        if self._waiting or not pooled.open:
            self._returned(pooled)

    def discard(self, producer: TransportProducer) -> None:
        """
        Lend this producer no more: it is dead, and the next lease opens another. It closes with its last lease.

        Does nothing for a producer that is not the pool's any more.
        """
        with self._lock:
            pooled = self._shelf.find(producer)
            if pooled is None:
                return
            self._shelf.doom(pooled)
        self._returned(pooled)

    def abandon(self, producer: TransportProducer) -> None:
        """
        Close this producer now, whoever has it: nobody waits any more for what it may still send.
        """
        with self._lock:
            pooled = self._shelf.drop(producer)
            if pooled is not None:
                self._shelf.doom(pooled)
                self._changed.notify_all()
        producer.close()

    # -- looking after it ------------------------------------------------------------------------------------

    def evict_idle(self) -> int:
        """
        Close what nobody has leased for `idle_seconds`, and log what is leased for longer than `leak_seconds`.

        To be called every few seconds, by a thread that may wait a second or two for a flush.

        Returns:
            How many were closed.
        """
        self._report_leaks()
        count = 0
        until = time.monotonic() + _FLUSH_SECONDS
        while time.monotonic() < until:  # what is left then is looked at next time
            with self._lock:
                moment = self._clock()
                self._backoff.forget_old(moment)
                idle = self._shelf.withdraw_idle(moment - self._settings.idle_seconds, _FLUSHES)
                self._evicted += len(idle)
            if not idle:
                break
            self._retire(idle, until)
            count += len(idle)
        return count

    def stats(self) -> PoolStats:
        """
        Return the numbers of this moment.
        """
        with self._lock:
            moment = self._clock()
            leases = [tuple(each.leases) for each in self._shelf.everyone()]
            ended = tuple(self._lease_seconds)
            return PoolStats(
                open=len(leases),
                leased=sum(map(bool, leases)),
                created=self._created,
                evicted=self._evicted,
                waiting=self._waiting,
                wait_timeouts=self._wait_timeouts,
                mean_lease_seconds=sum(ended) / len(ended) if ended else 0.0,
                oldest_lease_seconds=max((moment - lease.taken_at for each in leases for lease in each), default=0.0),
            )

    def close(self, timeout_seconds: float = 10.0) -> bool:
        """
        Lend no more, flush and close what is idle, wait for leases to end, and then close the rest all the same.

        Calls that wait raise `PoolClosed` at once. What is being opened closes as soon as it is open. Idempotent.

        Args:
            timeout_seconds: for the flushes and the leases.

        Returns:
            Whether every producer came back in time.
        """
        until = time.monotonic() + timeout_seconds
        with self._lock:
            self._closed = True
            self._shelf.withdraw_all()
            for creation in self._creations.values():
                creation.done.set()
            self._changed.notify_all()
        while idle := self._next_to_close(until):
            self._retire(idle, until)
        with self._lock:
            rest = [each.producer for each in self._shelf.everyone()]
        for producer in rest:
            self.abandon(producer)
        return not rest

    def after_fork(self) -> None:
        """
        Begin anew in a forked child, without the parent's producers. A lease that was inherited gives back nothing.
        """
        for pooled in self._shelf.everyone():
            pooled.open = False
            pooled.producer.leak()
        self._begin()

    # -- waiting for a producer ------------------------------------------------------------------------------

    def _lease_slowly(self, lease: Lease, settings: ProducerSettings, timeout_seconds: float) -> Lease:
        deadline = self._clock() + timeout_seconds
        with self._lock:
            self._waiting += 1
        try:
            creation = self._join(lease, settings, deadline)
            if creation is None:
                return lease
            creation.done.wait(max(0.0, deadline - self._clock()))
            with self._lock:
                if lease.pooled is not None:
                    return lease
                if creation.error is not None:
                    raise creation.error.with_traceback(None)  # everyone who waited raises it
                self._check_open_locked()
                creation.waiting.remove(lease)
                raise self._timeout_locked(settings, STILL_OPENING)
        finally:
            with self._lock:
                self._waiting -= 1

    def _join(self, lease: Lease, settings: ProducerSettings, deadline: float) -> Creation | None:
        """
        Return what opens the producer, begun here if need be; None if it is open already and `lease` is granted.
        """
        while True:
            with self._lock:
                self._check_open_locked()
                pooled = self._shelf.get(settings)
                if pooled is not None:
                    lease.grant(pooled, self._clock())
                    return None
                creation = self._creations.get(settings)
                if creation is not None:
                    creation.waiting.append(lease)
                    return creation
                self._backoff.check(settings, self._clock())
                lack, victim = self._room_locked()
                if lack is None:
                    creation = self._creations[settings] = Creation(lease)
                    break
                if victim is None:
                    remaining = deadline - self._clock()
                    if remaining <= 0:
                        raise self._timeout_locked(settings, lack)
                    self._changed.wait(remaining)
                    continue
            # Its flush is at the expense of the one who needs the room, and of nobody else.
            self._retire([victim], time.monotonic() + min(_FLUSH_SECONDS, max(0.0, deadline - self._clock())))
        thread = threading.Thread(target=self._create, args=(settings, creation), name="safepulsar-open", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no more threads; Python 3.12 gives none at its exit, where a last message may need this
            self._create(settings, creation)
        return creation

    def _room_locked(self) -> tuple[str | None, PooledProducer | None]:
        """
        Say what is lacking for one more producer, None for nothing; and which one goes to make room, withdrawn already.
        """
        if len(self._creations) >= self._settings.max_concurrent_creations:
            return "too many others are being opened; see PoolSettings.max_concurrent_creations", None
        if len(self._shelf) + len(self._creations) < self._settings.max_producers:
            return None, None
        victim = self._shelf.withdraw_oldest()
        if victim is None:
            return "all that may be open are leased; see PoolSettings.max_producers", None
        self._evicted += 1
        return "room", victim

    def _create(self, settings: ProducerSettings, creation: Creation) -> None:
        try:
            producer = self._open_producer(settings)
        except Exception as error:  # noqa: BLE001  # whoever waits raises it
            self._failed(settings, creation, error)
            return
        except BaseException:
            self._failed(settings, creation, SafePulsarError("opening the producer was interrupted; try again"))
            raise
        with self._lock:
            self._created += 1
            self._backoff.succeeded(settings)
            closed = self._closed
            if not closed:
                moment = self._clock()
                pooled = PooledProducer(settings, producer, moment)
                for lease in creation.waiting:
                    lease.grant(pooled, moment)
                self._shelf.put(pooled)
            self._created_locked(settings, creation)
        if closed:
            producer.close()

    def _failed(self, settings: ProducerSettings, creation: Creation, error: Exception) -> None:
        with self._lock:
            self._backoff.failed(settings, error, self._clock())
            creation.error = error
            self._created_locked(settings, creation)

    def _created_locked(self, settings: ProducerSettings, creation: Creation) -> None:
        del self._creations[settings]
        creation.done.set()
        self._changed.notify_all()

    def _check_open_locked(self) -> None:
        if self._closed:
            raise PoolClosed("the producer pool is closed and lends no more; make another")

    def _timeout_locked(self, settings: ProducerSettings, why: str) -> DeadlineExceeded:
        self._wait_timeouts += 1
        return DeadlineExceeded(f"topic {settings.topic!r}: no producer in time: {why}")

    # -- closing producers -----------------------------------------------------------------------------------

    def _returned(self, pooled: PooledProducer) -> None:
        """
        Close it if it is doomed and that was its last lease; and wake whoever waits for room.
        """
        with self._lock:
            last = pooled.doomed and not pooled.leases and not pooled.retiring
            close = last and self._shelf.drop(pooled.producer) is not None
            self._changed.notify_all()
        if close:
            pooled.producer.close()

    def _next_to_close(self, until: float) -> list[PooledProducer]:
        """
        Return some that nobody has any more, waiting for them; none if the time is over or all are closed.
        """
        with self._lock:
            while len(self._shelf):
                returned = self._shelf.take_returned(_FLUSHES)
                if returned:
                    return returned
                remaining = until - time.monotonic()
                if remaining <= 0 or not self._changed.wait(remaining):
                    break
            return []

    def _retire(self, retired: Sequence[PooledProducer], until: float) -> None:
        try:
            flush_and_close([each.producer for each in retired], until)
        finally:
            # Also if Ctrl-C ended the flush: what is retired is nobody else's to close, and `close` waits for it.
            for each in retired:
                each.producer.close()
            with self._lock:
                for each in retired:
                    self._shelf.drop(each.producer)
                self._changed.notify_all()

    def _report_leaks(self) -> None:
        bound = self._settings.leak_seconds
        if bound is None:
            return
        with self._lock:
            moment = self._clock()
            leases = [lease for pooled in self._shelf.everyone() for lease in tuple(pooled.leases)]
        for lease in leases:
            held = moment - lease.taken_at
            if held > bound and not lease.reported:
                lease.reported = True
                fields = {"topic": lease.topic, "held_seconds": round(held, 3), "place": lease.place}
                log.warning("safepulsar.lease_overdue", extra=fields)
