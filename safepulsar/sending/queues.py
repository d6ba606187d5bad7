"""
The queues of one sender: one for each producer, made when its topic is first used.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from safepulsar.books.handle import SendHandle, now
from safepulsar.delivery.desk import Desk
from safepulsar.delivery.rate_limit import RateLimit
from safepulsar.delivery.retry import RetryPolicy
from safepulsar.delivery.send_queue import SendQueue
from safepulsar.errors import InvalidSettings, StoreError
from safepulsar.exactly_once.producer_journal import ProducerJournal
from safepulsar.exactly_once.resolution import ExactlyOnce
from safepulsar.outbox.relay import OutboxRelay
from safepulsar.settings import Durability, LanePolicy
from safepulsar.topics import TopicNames

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from safepulsar.books.callbacks import Callbacks
    from safepulsar.books.keeper import Keeper
    from safepulsar.books.ledger import Ledger
    from safepulsar.broker.producer_pool import ProducerPool
    from safepulsar.broker.transport import TransportClient
    from safepulsar.failed_messages import FailedMessageStore, SqliteFailedMessages
    from safepulsar.outbox import OutboxRow
    from safepulsar.settings import ProducerSettings, SenderSettings, TopicSettings


class Queues:
    """
    Finds and makes queues. Thread-safe; what ends in `_locked` needs the ledger's lock.

    Args:
        settings: of the sender.
        store: of the failed messages.
        ledger: see `SendQueue`, as the next three.
        callbacks: see there.
        keeper: see there.
        pool: see there.
        client: the client that reads back.
        enqueue_locked: see `OutboxRelay`.
        wake_locked: see there.

    Attributes:
        keyed: by topic as the application writes it: the queue of its messages with a key. One look-up on the way of a
            message: a reader that misses a new entry takes the slow path, which looks again.
        plain: likewise, for messages without one.
        outbox: from the first topic on that wants it.
    """

    def __init__(
        self,
        settings: SenderSettings,
        store: FailedMessageStore,
        ledger: Ledger,
        callbacks: Callbacks,
        keeper: Keeper,
        pool: ProducerPool,
        *,
        client: Callable[[], TransportClient],
        enqueue_locked: Callable[[SendHandle, bool], None],
        wake_locked: Callable[[], None],
    ) -> None:
        self.keyed: dict[str, SendQueue] = {}
        self.plain: dict[str, SendQueue] = {}
        self.outbox: OutboxRelay | None = None
        self._outbox_lock = threading.Lock()  # held while it is made
        self._settings = settings
        self._store = store
        self._ledger = ledger
        self._callbacks = callbacks
        self._keeper = keeper
        self._pool = pool
        self._client = client
        self._enqueue_locked = enqueue_locked
        self._wake_locked = wake_locked
        self._names = TopicNames(settings.allowed_namespaces)
        self._topics = {self._names.full(topic): value for topic, value in settings.topics.items()}
        self._retry = RetryPolicy(settings.retry)
        self._limit = RateLimit(settings.messages_per_second, settings.bytes_per_second)
        self._desk = Desk()
        self._by_settings: dict[ProducerSettings, SendQueue] = {}
        self._looked: set[str] = set()  # topics whose stopped lanes an earlier run may have left in the store

    def open(self) -> None:
        """
        Begin with what is in the outbox, if any topic has one: what an earlier run left does not wait for a message.

        Raises:
            ProducerNameInUse: another process sends what is in it.
            StoreError: the store failed.
        """
        defaults = self._settings.topic_defaults
        if any(each.durability is Durability.OUTBOX for each in (defaults, *self._topics.values())):
            self._open_outbox()

    def get(self, topic: str, *, keyed: bool) -> SendQueue:
        """
        The queue of `topic`'s producer, made at the first use.

        Raises:
            InvalidTopic: see `TopicNames`.
            InvalidSettings: an outbox is asked for, and the store is not on disk.
            StoreError: it could not be asked what an earlier run left.
            SenderClosed: meanwhile.
        """
        full = self._names.full(topic)
        settings = self._settings_of(full)
        producer = settings.producer(full, keyed=keyed)
        kept: Mapping[str, int] = {}
        try:
            if keyed and full not in self._looked and settings.lane_policy is not LanePolicy.SKIP:
                kept = self._store.stopped_lanes(full)
            outbox = self._open_outbox() if settings.durability is Durability.OUTBOX else None
        except StoreError:
            self._ledger.check_open_locked()  # or it is closed with the sender, by somebody else or a signal handler
            raise
        with self._ledger.lock:
            queue = self._by_settings.get(producer)
            if queue is None:
                queue = self._by_settings[producer] = SendQueue(
                    producer,
                    lane_policy=settings.lane_policy,
                    exactly_once=self._exactly_once(producer, outbox) if producer.exactly_once else None,
                    outbox=outbox,
                    ledger=self._ledger,
                    callbacks=self._callbacks,
                    keeper=self._keeper,
                    pool=self._pool,
                    retry=self._retry,
                    limit=self._limit,
                    desk=self._desk,
                    retire=self._retire_locked,
                )
            if keyed and full not in self._looked:
                self._looked.add(full)
                queue.lanes.stop_kept_locked(kept)
            (self.keyed if keyed else self.plain)[topic] = queue
            return queue

    def all(self) -> list[SendQueue]:
        """
        All of them at this moment.
        """
        with self._ledger.lock:
            return list(self._by_settings.values())

    def revive_locked(self, retired: SendQueue) -> SendQueue:
        """
        The queue in the place of one that has gone, which it may be itself.
        """
        current = self._by_settings.get(retired.settings)
        if current is None:
            current = self._by_settings[retired.settings] = retired
            retired.retired = False
        return current

    def after_fork(self) -> None:
        """
        In a forked child: they are the parent's.
        """
        for queue in self._by_settings.values():
            queue.forked = True

    def _retire_locked(self, queue: SendQueue) -> None:
        # A topic that nobody uses any more costs nothing; the pool closes its producer in its own time.
        self._by_settings.pop(queue.settings, None)
        for names in (self.keyed, self.plain):
            for name in [name for name, value in names.items() if value is queue]:
                del names[name]

    def _settings_of(self, full: str) -> TopicSettings:
        return self._topics.get(full, self._settings.topic_defaults)

    # -- what outlives the process -----------------------------------------------------------------------------

    @property
    def _on_disk(self) -> SqliteFailedMessages | None:
        store: SqliteFailedMessages | None = getattr(self._store, "journal_store", None)
        return store

    def _exactly_once(self, producer: ProducerSettings, outbox: OutboxRelay | None) -> ExactlyOnce:
        journal = None if self._on_disk is None else ProducerJournal(self._on_disk)
        return ExactlyOnce(producer, self._client, self._store, journal, outbox)

    def _open_outbox(self) -> OutboxRelay:
        with self._outbox_lock:
            if self.outbox is None:
                if self._on_disk is None:
                    raise InvalidSettings("failed_messages", "must be a path where a topic has durability=OUTBOX")
                outbox = OutboxRelay(
                    self._on_disk,
                    self._ledger,
                    producer_name=lambda message: self._settings_of(message.topic).producer_name or "",
                    handle_of=self._handle_of,
                    enqueue_locked=self._enqueue_locked,
                    wake_locked=self._wake_locked,
                )
                outbox.open()
                self.outbox = outbox
            return self.outbox

    def _handle_of(self, row: OutboxRow) -> SendHandle:
        """
        The handle of a message that an earlier run, or another process, put into the outbox.
        """
        message = row.message
        moment = now()
        handle = SendHandle(
            self.get(message.topic, keyed=message.lane_key is not None),
            message.payload,
            message.partition_key,
            message.ordering_key,
            message.properties,
            len(message.payload or b""),
            moment,
            moment + self._settings.deadline_seconds,
        )
        handle.sequence_id = row.id
        handle.event_timestamp_ms, handle.deliver_at_ms = message.event_timestamp_ms, message.deliver_at_ms
        return handle
