"""
What a sender runs on in one process: queues, pool, keeper and watch, opened and closed together.

A forked child never touches its parent's engine; its sender makes a new one at the next use.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from safepulsar.books.callbacks import Callbacks
from safepulsar.books.handle import SendHandle, now
from safepulsar.books.keeper import GivenUp, Keeper
from safepulsar.books.ledger import Counts, Ledger
from safepulsar.books.observers import Observers
from safepulsar.broker.producer_pool import ProducerPool
from safepulsar.errors import QueueFull, SafePulsarError, SenderClosed
from safepulsar.sending.queues import Queues
from safepulsar.sending.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from safepulsar.broker.client_registry import ClientRegistry
    from safepulsar.broker.producer_pool import PoolStats
    from safepulsar.broker.transport import TransportClient, TransportProducer
    from safepulsar.delivery.send_queue import SendQueue
    from safepulsar.failed_messages import FailedMessageStore
    from safepulsar.observing import Observer
    from safepulsar.outbox.relay import OutboxRelay
    from safepulsar.settings import ClientSettings, ProducerSettings, SenderSettings

log = logging.getLogger("safepulsar")
_KEEP_SECONDS = 10.0  # the most that closing waits for the disk: what is not kept then is lost with the process
_NATIVE_SECONDS = 2.0  # the most that closing waits for a native call that does not end by itself
_LOOK_SECONDS = 0.05
_LAST_FACTS_SECONDS = 0.5  # what observers have for what happened last, when the time is over


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseReport:
    """
    What closing found.

    Args:
        counts: the sender's books over its whole life; `counts.in_flight` is 0 unless the store hangs.
        drained: whether everything in flight got its answer in time; if not, the rest was kept in the store.
        clean: whether every thread and native handle was closed too; if not, some were left alone.
    """

    counts: Counts
    drained: bool
    clean: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SenderStats:
    """
    The sender at one moment.

    Args:
        counts: the books; see `Counts`.
        queues: producers with messages waiting or lately sent.
        pool: see `PoolStats`.
        paused_lanes: stopped behind a message that failed.
        facts_dropped: messages that observers were too slow to be told of.
    """

    counts: Counts
    queues: int
    pool: PoolStats
    paused_lanes: int
    facts_dropped: int


class Engine:
    """
    The running parts of one sender in one process. Thread-safe.
    """

    def __init__(
        self,
        client: ClientSettings,
        settings: SenderSettings,
        store: FailedMessageStore,
        registry: ClientRegistry,
        observers: Sequence[Observer] = (),
    ) -> None:
        self.ledger = Ledger(settings)
        self.callbacks = Callbacks()
        self.observers = Observers(observers, self.ledger)
        self.keeper = Keeper(store, self.ledger, self.callbacks, self.observers)
        self.pool = ProducerPool(self._create_producer, settings.pool)
        self.topics = Queues(
            settings,
            store,
            self.ledger,
            self.callbacks,
            self.keeper,
            self.pool,
            client=self._transport,
            enqueue_locked=self._enqueue_locked,
            wake_locked=self._wake_locked,
        )
        # What every message asks for, by the shortest way.
        self.keyed, self.plain, self.queue = self.topics.keyed, self.topics.plain, self.topics.get
        self.watch = Watch(self._watched, self.ledger, self.pool, settings.pool.idle_seconds)
        self._client_settings = client
        self.settings = settings
        self._registry = registry
        self._client: TransportClient | None = None
        self._client_lock = threading.Lock()  # guards _client: acquired once, released once
        # Held by the one that closes. Re-entrant, because a signal handler may close in the middle of closing.
        self._closing = threading.RLock()
        self._closing_now = False
        self._report: CloseReport | None = None
        self.store_answers = True  # False once closing has found that the store hangs

    # -- the way of a message --------------------------------------------------------------------------------

    def accept(self, handle: SendHandle, *, wait: bool = True) -> bool:  # noqa: C901 - each call less is time for all
        """
        Count `handle` as accepted and put it into its queue; False if there is no room and it is being kept instead.

        Blocks while there is no room, if the settings say so and unless `wait` is False.

        Whatever it raises, also Ctrl-C: either the message is not accepted, or it goes its way and is accounted for.

        Raises:
            QueueFull: see `WhenFull`.
            LanePaused: its lane takes none.
            SenderClosed: nothing is accepted any more.
            InvalidMessage: its sequence id.
            RuntimeError: no thread can be had.
        """
        ledger = self.ledger
        size = handle.size_bytes
        if ledger.wanting and wait and handle._watchers is None:
            ledger.make_way()
        ledger.wanting += 1
        with ledger.lock:
            ledger.wanting -= 1
            if not ledger.open:
                raise ledger.closed_error()
            if (
                ledger.in_flight >= ledger.max_messages or ledger.in_flight_bytes + size > ledger.max_bytes
            ) and not ledger.wait_for_room_locked(size, handle._deadline if wait else 0.0):
                full = QueueFull("the bound on what is in flight was reached, and the settings say to keep")
                return self._keep_locked(GivenUp(handle, full))
            queue = handle._queue
            if queue.retired:
                queue = handle._queue = self.topics.revive_locked(queue)
            stop = None
            if queue.lanes.stops:
                stop = queue.lanes.stop_of(handle)
                parked = None if stop is None else queue.lanes.admit_locked(handle, stop)
                if parked is not None:
                    return self._keep_locked(parked)
            if queue.outbox is None or handle._failed_id is not None:
                queue.rouse_locked(hurry=handle._watchers is not None)
                if not self.watch.awake:
                    self._wake_locked()
                if queue.named and queue.exactly_once is None:
                    queue.sequence.check(handle.sequence_id)
                if ledger.open:  # again, and from here straight on, see `Ledger`
                    ledger.accepted += 1
                    ledger.in_flight += 1
                    ledger.in_flight_bytes += size
                    queue.waiting.append(handle)
                    if stop is not None:
                        queue.lanes.hold_locked(handle, stop)
                    return True
                raise ledger.closed_error()
        queue.outbox.put([handle])  # it writes to disk, and so without the lock
        return True

    def accept_together(self, handles: Sequence[SendHandle]) -> bool:
        """
        As `accept`, for many in one go: under one lock, or with one write to disk.

        False, and nothing is done, where each has to be looked at: there is no room for all, a lane is stopped, or they
        go different ways. Interrupted by Ctrl-C, it has accepted all of them or, without an outbox, none.

        Raises:
            SenderClosed: nothing is accepted any more.
            StoreError: they could not be written.
            RuntimeError: no thread can be had.
        """
        ledger, count = self.ledger, len(handles)
        size = sum([handle.size_bytes for handle in handles])
        queues = {handle._queue for handle in handles}
        queue = handles[0]._queue
        with ledger.lock:
            ledger.check_open_locked()
            fit = ledger.in_flight + count <= ledger.max_messages and ledger.in_flight_bytes + size <= ledger.max_bytes
            if not fit or any(each.retired or each.lanes.stops for each in queues):
                return False
            if queue.outbox is None:
                if len(queues) > 1 or (queue.named and queue.exactly_once is None):
                    return False
                queue.rouse_locked(hurry=False)
                self._wake_locked()
                if ledger.open:  # again, and from here straight on, see `Ledger`
                    ledger.accepted += count
                    ledger.in_flight += count
                    ledger.in_flight_bytes += size
                    queue.waiting.extend(handles)
                    return True
                raise ledger.closed_error()
        queue.outbox.put(handles)
        return True

    def _wake_locked(self) -> None:
        if not self.watch.awake:
            self.keeper.start_locked()
            self.watch.wake_locked()

    def _enqueue_locked(self, handle: SendHandle, counted: bool) -> None:  # noqa: FBT001  # as the outbox calls it
        """
        Put a message from the outbox into its queue.
        """
        ledger, queue = self.ledger, handle._queue
        queue.rouse_locked()
        self._wake_locked()
        if ledger.open:
            ledger.accepted += not counted
            ledger.in_flight += not counted
            ledger.in_flight_bytes += 0 if counted else handle.size_bytes
            queue.waiting.append(handle)
            if queue.lanes.stops:
                self.keeper.give_up_locked(queue.lanes.sweep_locked())
            return
        raise ledger.closed_error()

    def _keep_locked(self, message: GivenUp) -> bool:
        self.keeper.start_locked()
        self.keeper.accept_locked(message)
        message.handle._queue.lanes.stop_locked(message.handle, message.cause)
        return False

    def stats(self) -> SenderStats:
        """
        The numbers at this moment.
        """
        queues = self.queues()
        return SenderStats(
            counts=self.ledger.counts(),
            queues=len(queues),
            pool=self.pool.stats(),
            paused_lanes=sum(len(queue.lanes.stops) for queue in queues),
            facts_dropped=self.observers.dropped,
        )

    def _watched(self) -> list[SendQueue | OutboxRelay]:
        outbox = self.topics.outbox
        return [*self.topics.all(), *([] if outbox is None else [outbox])]

    def queues(self) -> list[SendQueue]:
        """
        All queues at this moment.
        """
        return self.topics.all()

    def pending(self) -> list[SendHandle]:
        """
        The handles of everything in flight at this moment.
        """
        with self.ledger.lock:  # so that nothing moves from a queue to the keeper between the two looks
            queued = [handle for queue in self.topics.all() for handle in queue.pending()]
            expected = [] if self.topics.outbox is None else self.topics.outbox.pending()
            return queued + expected + self.keeper.pending()

    def _create_producer(self, settings: ProducerSettings) -> TransportProducer:
        return self._transport().create_producer(settings)

    def _transport(self) -> TransportClient:
        client = self._client
        if client is None:
            with self._client_lock:
                client = self._client
                if client is None:
                    client = self._client = self._registry.acquire(self._client_settings)
        return client

    # -- the end ---------------------------------------------------------------------------------------------

    def close(self, timeout: float) -> CloseReport:
        """
        Stop intake, wait for what is in flight, keep the rest, and close everything, in this order.

        Idempotent: a second call, also from another thread, waits for the first and returns its report. Where the
        first one waits for the second (in a done callback, or in a signal handler that interrupts it), the second
        returns at once what is known; `closed` tells.
        """
        deadline = now() + timeout
        with self.ledger.lock:
            self.ledger.stop_intake_locked()
        seconds = 0.0 if self.callbacks.runs_here() else timeout + _KEEP_SECONDS + 2 * _NATIVE_SECONDS
        known = None
        if self._closing.acquire(timeout=seconds):
            try:
                if self._report is None and not self._closing_now:
                    self._report = self._close(deadline)
                known = self._report
            finally:
                self._closing.release()
        return known or CloseReport(counts=self.ledger.counts(), drained=False, clean=False)

    @property
    def closed(self) -> bool:
        """
        Whether closing is done.
        """
        return self._report is not None

    def _close(self, deadline: float) -> CloseReport:
        self._closing_now = True
        try:
            drained = self.ledger.wait_until_empty(deadline)
            keep_deadline = now() + _KEEP_SECONDS
            if not drained:
                self._keep_the_rest(keep_deadline)
            clean = self._close_parts(max(deadline, now() + _NATIVE_SECONDS), keep_deadline)
        finally:
            self._closing_now = False
        counts = self.ledger.counts()
        if not counts.balanced:
            msg = f"internal error: the books don't balance: {counts}"
            raise SafePulsarError(msg)
        return CloseReport(counts=counts, drained=drained, clean=clean)

    def _keep_the_rest(self, deadline: float) -> None:
        reason = SenderClosed("the sender was closed before the broker answered")
        if self.topics.outbox is not None:
            self.topics.outbox.stop(deadline)
        while self.ledger.in_flight and now() < deadline:
            for queue in self._watched():  # again and again: what is just being recovered comes back into its queue
                queue.expire(now(), reason)
            self.ledger.wait_until_empty(min(now() + _LOOK_SECONDS, deadline))

    def _close_parts(self, native_deadline: float, keep_deadline: float) -> bool:
        queues = self.queues()
        for queue in queues:
            queue.crew.close()
        clean = self.watch.close(native_deadline)
        clean &= self.pool.close(max(0.0, native_deadline - now()))  # first, because it wakes who waits for a producer
        for queue in queues:
            clean &= queue.crew.join(native_deadline)
            if queue.guard is not None:
                clean &= queue.guard.ended(native_deadline)
            if queue.exactly_once is not None:
                queue.exactly_once.close()
        if self.topics.outbox is not None:
            clean &= self.topics.outbox.stop(native_deadline)
        self.store_answers = self.keeper.close(keep_deadline)
        if self.topics.outbox is not None:
            self.topics.outbox.close()
        clean &= self.store_answers
        clean &= self.observers.close(max(native_deadline, now() + _LAST_FACTS_SECONDS))
        clean &= self.callbacks.close(max(0.0, native_deadline - now()))
        client, self._client = self._client, None
        if client is not None:
            self._registry.release(self._client_settings)
        return clean

    def after_fork(self) -> None:
        """
        In a forked child: let go of the parent's engine without touching anything native.
        """
        self.topics.after_fork()
        self.pool.after_fork()
