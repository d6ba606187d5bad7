"""
What a sender runs on in one process: queues, pool, keeper and watch, opened and closed together.

A forked child never touches its parent's engine; its sender makes a new one at the next use.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from safepulsar.callbacks import Callbacks
from safepulsar.errors import QueueFull, SafePulsarError, SenderClosed
from safepulsar.handle import now
from safepulsar.keeper import GivenUp, Keeper
from safepulsar.ledger import Counts, Ledger
from safepulsar.producer_pool import ProducerPool
from safepulsar.rate_limit import RateLimit
from safepulsar.retry import RetryPolicy
from safepulsar.send_queue import SendQueue
from safepulsar.topics import TopicNames
from safepulsar.watch import Watch

if TYPE_CHECKING:
    from safepulsar.client_registry import ClientRegistry
    from safepulsar.failed_messages import FailedMessageStore
    from safepulsar.handle import SendHandle
    from safepulsar.settings import ClientSettings, ProducerSettings, SenderSettings
    from safepulsar.transport import TransportClient, TransportProducer

log = logging.getLogger("safepulsar")
_KEEP_SECONDS = 10.0  # the most that closing waits for the disk: what is not kept then is lost with the process
_NATIVE_SECONDS = 2.0  # the most that closing waits for a native call that does not end by itself
_LOOK_SECONDS = 0.05


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


class Engine:
    """
    The running parts of one sender in one process. Thread-safe.
    """

    def __init__(
        self, client: ClientSettings, settings: SenderSettings, store: FailedMessageStore, registry: ClientRegistry
    ) -> None:
        self.ledger = Ledger(settings)
        self.callbacks = Callbacks()
        self.keeper = Keeper(store, self.ledger, self.callbacks)
        self.pool = ProducerPool(self._create_producer, settings.pool)
        self.watch = Watch(self.queues, self.ledger, self.pool, settings.pool.idle_seconds)
        self._client_settings = client
        self.settings = settings
        self._registry = registry
        self._client: TransportClient | None = None
        self._client_lock = threading.Lock()  # guards _client: acquired once, released once
        self._names = TopicNames(settings.allowed_namespaces)
        self._topics = {self._names.full(topic): value for topic, value in settings.topics.items()}
        self._retry = RetryPolicy(settings.retry)
        self._limit = RateLimit(settings.messages_per_second, settings.bytes_per_second)
        # By the topic as the application writes it: one look-up on the way of a message. Guarded by ledger.lock
        # when written; a reader that misses a new entry takes the slow path, which looks again.
        self.keyed: dict[str, SendQueue] = {}
        self.plain: dict[str, SendQueue] = {}
        self._by_settings: dict[ProducerSettings, SendQueue] = {}
        # Held by the one that closes. Re-entrant, because a signal handler may close in the middle of closing.
        self._closing = threading.RLock()
        self._closing_now = False
        self._report: CloseReport | None = None
        self.store_answers = True  # False once closing has found that the store hangs

    # -- the way of a message --------------------------------------------------------------------------------

    def queue(self, topic: str, *, keyed: bool) -> SendQueue:
        """
        The queue of `topic`'s producer, made at the first use.

        Raises:
            InvalidTopic: see `TopicNames`.
        """
        full = self._names.full(topic)
        producer = self._topics.get(full, self.settings.topic_defaults).producer(full, keyed=keyed)
        with self.ledger.lock:
            queue = self._by_settings.get(producer)
            if queue is None:
                queue = self._by_settings[producer] = SendQueue(
                    producer,
                    ledger=self.ledger,
                    callbacks=self.callbacks,
                    keeper=self.keeper,
                    pool=self.pool,
                    retry=self._retry,
                    limit=self._limit,
                    retire=self._retire_locked,
                )
            (self.keyed if keyed else self.plain)[topic] = queue
            return queue

    def accept(self, handle: SendHandle) -> bool:
        """
        Count `handle` as accepted and put it into its queue; False if there is no room and it is being kept instead.

        Whatever it raises, also Ctrl-C: either the message is not accepted, or it goes its way and is accounted for.

        Raises:
            QueueFull: see `WhenFull`.
            SenderClosed: nothing is accepted any more.
            InvalidMessage: its sequence id.
            RuntimeError: no thread can be had.
        """
        ledger = self.ledger
        size = handle.size_bytes
        with ledger.lock:
            if not ledger.open:
                raise ledger.closed_error()
            if (
                ledger.in_flight >= ledger.max_messages or ledger.in_flight_bytes + size > ledger.max_bytes
            ) and not ledger.wait_for_room_locked(size, handle._deadline):
                full = QueueFull("the bound on what is in flight was reached, and the settings say to keep")
                self.keeper.start_locked()
                self.keeper.accept_locked(GivenUp(handle, full))
                return False
            queue = handle._queue
            if queue.retired:
                queue = handle._queue = self._revive_locked(queue)
            queue.rouse_locked()
            if not self.watch.awake:
                self.keeper.start_locked()
                self.watch.wake_locked()
            if queue.named:
                queue.sequence.check(handle.sequence_id)
            if ledger.open:  # again, and from here straight on, see `Ledger`
                ledger.accepted += 1
                ledger.in_flight += 1
                ledger.in_flight_bytes += size
                queue.waiting.append(handle)
                return True
            raise ledger.closed_error()

    def queues(self) -> list[SendQueue]:
        """
        All queues at this moment.
        """
        with self.ledger.lock:
            return list(self._by_settings.values())

    def pending(self) -> list[SendHandle]:
        """
        The handles of everything in flight at this moment.
        """
        with self.ledger.lock:  # so that nothing moves from a queue to the keeper between the two looks
            queued = [handle for queue in self._by_settings.values() for handle in queue.pending()]
            return queued + self.keeper.pending()

    def _revive_locked(self, retired: SendQueue) -> SendQueue:
        current = self._by_settings.get(retired.settings)
        if current is None:
            current = self._by_settings[retired.settings] = retired
            retired.retired = False
        return current

    def _retire_locked(self, queue: SendQueue) -> None:
        # A topic that nobody uses any more costs nothing; the pool closes its producer in its own time.
        self._by_settings.pop(queue.settings, None)
        for names in (self.keyed, self.plain):
            for name in [name for name, value in names.items() if value is queue]:
                del names[name]

    def _create_producer(self, settings: ProducerSettings) -> TransportProducer:
        client = self._client
        if client is None:
            with self._client_lock:
                client = self._client
                if client is None:
                    client = self._client = self._registry.acquire(self._client_settings)
        return client.create_producer(settings)

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
        while self.ledger.in_flight and now() < deadline:
            for queue in self.queues():  # again and again: what is just being recovered comes back into its queue
                queue.expire(now(), reason)
            self.ledger.wait_until_empty(min(now() + _LOOK_SECONDS, deadline))

    def _close_parts(self, native_deadline: float, keep_deadline: float) -> bool:
        queues = self.queues()
        for queue in queues:
            queue.close()
        clean = self.watch.close(native_deadline)
        clean &= self.pool.close(max(0.0, native_deadline - now()))  # first, because it wakes who waits for a producer
        for queue in queues:
            clean &= queue.join(native_deadline)
        self.store_answers = self.keeper.close(keep_deadline)
        clean &= self.store_answers
        clean &= self.callbacks.close(max(0.0, native_deadline - now()))
        client, self._client = self._client, None
        if client is not None:
            self._registry.release(self._client_settings)
        return clean

    def after_fork(self) -> None:
        """
        In a forked child: let go of the parent's engine without touching anything native.
        """
        for queue in self._by_settings.values():
            queue.forked = True
        self.pool.after_fork()
