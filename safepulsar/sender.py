"""
`RetryingSender`: the one object that an application holds.

    with RetryingSender("pulsar://localhost:6650", failed_messages="failed/orders.db") as sender:
        sender.send("orders", {"id": 7}, partition_key="customer-7")

A call makes bytes and checks them (`intake.py`), waits for room, and joins the queue of the topic's producer; from there
`send_queue.py` and `delivery.py` carry the message on, and `keeper.py` keeps it if it fails.
"""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from safepulsar.books.handle import SendHandle, now
from safepulsar.checks import check_timeout
from safepulsar.errors import DeadlineExceeded
from safepulsar.sending import sequence_lane
from safepulsar.sending.bulk import Intake, SendReport, send_many
from safepulsar.sending.intake import prepare
from safepulsar.sending.sender_life import SenderLife
from safepulsar.sending.sequence_lane import SequenceLane

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from safepulsar.delivery.lanes import Lane
    from safepulsar.message import FailedMessage, SendResult
    from safepulsar.sending.engine import SenderStats
    from safepulsar.serialization import Sendable

log = logging.getLogger("safepulsar")


class RetryingSender(SenderLife):
    """
    Sends messages and accounts for every one of them. Safe to share between threads, and after a fork.

    Make one per process and keep it. Nothing is opened before the first use or `open()`.

    Args:
        client: the cluster: a URL, or `ClientSettings` for authentication and TLS.
        failed_messages: where messages go that could not be confirmed: a path (SQLite, survives the process), a
            store of your own, or None: kept in memory and gone with the process, which is logged at closing.
        settings: see `SenderSettings`.
        registry: shares clients between senders; the process's own by default.
        steps: what every message passes on its way in, see `Step`.
        topic_steps: what those of single topics pass before.
        observers: are told what became of each message, see `Observer`.
    """

    def flush(self, timeout: float | None = None) -> int:
        """
        Wait until everything accepted before this call is final; return how many are not.

        Args:
            timeout: seconds; None waits as long as the messages' own deadlines allow.

        Raises:
            InvalidInput: the timeout is no number of seconds.
        """
        engine = self._started()
        until = None if timeout is None else now() + check_timeout(timeout)
        pending = [handle for handle in engine.pending() if not handle.done()]
        for handle in pending:
            waiter = threading.Lock()
            waiter.acquire()
            if handle._watch(waiter):
                last = handle._deadline + 1.0 if until is None else until
                waiter.acquire(timeout=max(0.0, last - now()))
        return sum(not handle.done() for handle in pending)

    def stats(self) -> SenderStats:
        """
        The books, the queues and the pool at this moment.
        """
        return self._started().stats()

    def stats_if_open(self) -> SenderStats | None:
        """
        As `stats`, or None before its first use: looking opens nothing.
        """
        engine = self._engine
        return None if engine is None else engine.stats()

    # -- lanes -----------------------------------------------------------------------------------------------

    def lane(self, topic: str, ordering_key: str) -> SequenceLane:
        """
        The lane of a topic and ordering key; making one costs nothing.
        """
        return SequenceLane(self, topic, ordering_key)

    def lanes(self) -> list[Lane]:
        """
        Every lane that is stopped or has something in flight, those that wait longest first.
        """
        return sequence_lane.lanes(self._started())

    def resume(self, lane: Lane | SequenceLane, *, skip: bool = False) -> None:
        """
        Let a paused lane go on. What the store keeps of it is to be replayed or purged before.

        Args:
            lane: of `lanes()`, or a `SequenceLane`.
            skip: True goes on although the store keeps some, which then come late, by a replay.

        Raises:
            LaneNotPaused: it is not paused.
            LanePaused: the store keeps messages of it.
            StoreError: the store could not be asked.
        """
        sequence_lane.resume(self._started(), self.failed_messages, lane, skip=skip)

    def resume_all(self, *, skip: bool = False) -> list[Lane]:
        """
        Let go on what can, and return the lanes that stay paused, because the store keeps messages of them.
        """
        return sequence_lane.resume_all(self._started(), self.failed_messages, skip=skip)

    # -- sending ---------------------------------------------------------------------------------------------

    def send(
        self,
        topic: str,
        value: Sendable,
        *,
        partition_key: str | None = None,
        ordering_key: str | None = None,
        properties: Mapping[str, str] | None = None,
        sequence_id: int | None = None,
        event_timestamp_ms: int | None = None,
        deliver_at_ms: int | None = None,
        deadline_seconds: float | None = None,
    ) -> SendResult:
        """
        Send one message and wait for its fate.

        Args:
            topic: a name, `tenant/namespace/name` or a full name.
            value: bytes, text, a dict or list (JSON), or None for a tombstone.
            partition_key: messages of one key keep their order and, on a partitioned topic, go to one partition.
            ordering_key: as the partition key for Key_Shared subscriptions, where it beats it.
            properties: text to text; copied.
            sequence_id: for deduplication, rising from 1; needs a producer name in the topic's settings.
            event_timestamp_ms: the application's time of the event, Unix milliseconds.
            deliver_at_ms: not before (Shared and Key_Shared subscriptions), Unix milliseconds.
            deadline_seconds: for everything together; None is `SenderSettings.deadline_seconds`.

        Raises:
            SendFailed: accepted, and not confirmed in time. The message is with the error and in the store.
            InvalidInput: refused; nothing was sent.
            QueueFull: no room until the deadline; nothing was sent.
            SenderClosed: nothing was sent.
        """
        handle = self._prepare(
            self._engine or self._start(), topic, value, partition_key, ordering_key, properties, sequence_id,
            event_timestamp_ms, deliver_at_ms, deadline_seconds,
        )  # fmt: skip
        waiter = threading.Lock()
        waiter.acquire()
        handle._watchers = [waiter]
        self._accept(handle)
        handle._wait_on(waiter)
        return handle._final()

    def submit(
        self,
        topic: str,
        value: Sendable,
        *,
        partition_key: str | None = None,
        ordering_key: str | None = None,
        properties: Mapping[str, str] | None = None,
        sequence_id: int | None = None,
        event_timestamp_ms: int | None = None,
        deliver_at_ms: int | None = None,
        deadline_seconds: float | None = None,
    ) -> SendHandle:
        """
        Accept one message and return at once with a handle on its fate; arguments as for `send`.

        Waits only while the bound on what is in flight is reached; see `WhenFull`.

        Raises:
            InvalidInput: refused; nothing was sent.
            QueueFull: no room until the deadline; nothing was sent.
            SenderClosed: nothing was sent.
        """
        handle = self._prepare(
            self._engine or self._start(), topic, value, partition_key, ordering_key, properties, sequence_id,
            event_timestamp_ms, deliver_at_ms, deadline_seconds,
        )  # fmt: skip
        self._accept(handle)
        return handle

    def send_many(
        self,
        topic: str,
        values: Iterable[Sendable],
        *,
        partition_key: Callable[[Any], str | None] | str | None = None,
        ordering_key: Callable[[Any], str | None] | str | None = None,
        properties: Mapping[str, str] | None = None,
        deadline_seconds: float | None = None,
    ) -> SendReport:
        """
        Send all of `values` and wait for every fate.

        Args:
            topic: as for `send`.
            values: taken one by one as room allows, so it may be a generator without end in sight.
            partition_key: a key for all, or a function of the value.
            ordering_key: likewise.
            properties: for all.
            deadline_seconds: of each message, from its own acceptance.

        Raises:
            InvalidInput: a value is refused; the field names its place (`values[17].partition_key`). Those before
                it are sent and accounted for, those behind it are not taken.
            QueueFull: see `submit`; those accepted before are accounted for.
            SenderClosed: likewise.
        """
        return send_many(
            self._many,
            Intake(self._started(), self._prepare, self._accept),
            topic,
            values,
            partition_key=partition_key,
            ordering_key=ordering_key,
            properties=properties,
            deadline_seconds=deadline_seconds,
        )

    def resend(self, failed: FailedMessage) -> SendHandle:
        """
        Accept a failed message of this sender's own store once more; `replay` uses it.

        If it fails again its error names the same failed message, and nothing new is kept: whoever claimed it
        tells the store. A deadline of its own begins.

        Raises:
            InvalidInput: the sender's settings or its steps refuse it now; `SealBroken` if it is not what was sealed.
            QueueFull: see `submit`.
            SenderClosed: nothing was sent.
        """
        message = failed.message
        self._check_kept(message)
        handle = prepare(
            self._started(), message.topic, message.payload, message.partition_key, message.ordering_key,
            message.properties, message.sequence_id, message.event_timestamp_ms, message.deliver_at_ms, None,
            reserved=True,
        )  # fmt: skip
        handle.trace_id = failed.trace_id
        handle._failed_id = failed.id
        self._accept(handle)
        return handle

    # -- inside ----------------------------------------------------------------------------------------------

    def _accept(self, handle: SendHandle) -> None:
        engine = self._engine or self._start()
        try:
            queued = engine.accept(handle)
        except Exception as error:
            engine.observers.refused(handle, error)
            raise
        if not queued:
            # It goes to the store. Whoever sends waits for that, and so can't run ahead of the disk.
            with suppress(DeadlineExceeded):
                handle.exception()
