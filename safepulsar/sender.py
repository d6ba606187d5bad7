"""
`RetryingSender`: the one object that an application holds.

    with RetryingSender("pulsar://localhost:6650", failed_messages="failed/orders.db") as sender:
        sender.send("orders", {"id": 7}, partition_key="customer-7")

A call makes bytes and checks them (`intake.py`), waits for room, and joins the queue of the topic's producer; from there
`send_queue.py` and `delivery.py` carry the message on, and `keeper.py` keeps it if it fails.
"""

from __future__ import annotations

import logging
import os
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from safepulsar.bulk import SendReport, send_many
from safepulsar.checks import check_timeout
from safepulsar.client_registry import ClientRegistry
from safepulsar.engine import CloseReport, Engine
from safepulsar.errors import DeadlineExceeded, InvalidSettings, SenderClosed
from safepulsar.failed_messages import InMemoryFailedMessages, SqliteFailedMessages
from safepulsar.handle import SendHandle, now
from safepulsar.intake import prepare
from safepulsar.process import Stage, process
from safepulsar.settings import ClientSettings, SenderSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from types import TracebackType

    from typing_extensions import Self

    from safepulsar.failed_messages import FailedMessageStore
    from safepulsar.ledger import Counts
    from safepulsar.message import FailedMessage, SendResult
    from safepulsar.producer_pool import PoolStats
    from safepulsar.serialization import Sendable

log = logging.getLogger("safepulsar")


@dataclass(frozen=True, slots=True, kw_only=True)
class SenderStats:
    """
    The sender at one moment.

    Args:
        counts: the books; see `Counts`.
        queues: producers with messages waiting or lately sent.
        pool: see `PoolStats`.
    """

    counts: Counts
    queues: int
    pool: PoolStats


class RetryingSender:
    """
    Sends messages and accounts for every one of them. Safe to share between threads, and after a fork.

    Make one per process and keep it. Nothing is opened before the first use or `open()`.

    Args:
        client: the cluster: a URL, or `ClientSettings` for authentication and TLS.
        failed_messages: where messages go that could not be confirmed: a path (SQLite, survives the process), a
            store of your own, or None: kept in memory and gone with the process, which is logged at closing.
        settings: see `SenderSettings`.
        registry: shares clients between senders; the process's own by default.
    """

    def __init__(
        self,
        client: str | ClientSettings,
        *,
        failed_messages: str | os.PathLike[str] | FailedMessageStore | None = None,
        settings: SenderSettings | None = None,
        registry: ClientRegistry | None = None,
    ) -> None:
        if not isinstance(client, ClientSettings):
            client = ClientSettings(url=client)
        if settings is None:
            settings = SenderSettings()
        elif not isinstance(settings, SenderSettings):
            raise InvalidSettings("settings", f"must be SenderSettings, not {type(settings).__name__}")
        self._client_settings = client
        self._settings = settings
        self._registry = registry
        self._owns_store = failed_messages is None or isinstance(failed_messages, (str, os.PathLike))
        self.failed_messages: FailedMessageStore = _store(failed_messages)
        self._lock = threading.RLock()  # guards _engine and _report
        self._engine: Engine | None = None
        self._report: CloseReport | None = None

    # -- life ------------------------------------------------------------------------------------------------

    def open(self) -> Self:
        """
        Open the store and stand by for exit, fork and SIGTERM; the first use does it too.

        Raises:
            StoreError: the store cannot be opened. Nothing is sent by a sender that could keep nothing.
            SenderClosed: it was closed before.
        """
        self._start()
        return self

    def close(self, timeout: float | None = None) -> CloseReport:
        """
        Stop intake, wait for what is in flight, keep the rest in the store, and close everything.

        Idempotent and safe in any thread, in a done callback and in a signal handler.

        Args:
            timeout: seconds for what is in flight; None is `SenderSettings.close_seconds`. Keeping the rest
                may take a little longer, because what is not kept then is lost.

        Raises:
            InvalidInput: the timeout is no number of seconds.
        """
        seconds = self._settings.close_seconds if timeout is None else check_timeout(timeout)
        with self._lock:
            if self._report is not None:
                return self._report
            engine = self._engine
            if engine is None:
                engine = self._engine = self._make_engine()
        report = engine.close(seconds)
        if engine.closed:  # not so for a done callback or a signal handler that closes while closing is under way
            self._end(engine, report)
        return report

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """
        Close, also if the block raised.
        """
        self.close()

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
        engine = self._started()
        return SenderStats(counts=engine.ledger.counts(), queues=len(engine.queues()), pool=engine.pool.stats())

    @property
    def settings(self) -> SenderSettings:
        """
        What it was made with.
        """
        return self._settings

    def __repr__(self) -> str:
        """
        Where to and how it stands.
        """
        engine = self._engine
        if self._report is not None:
            state = "closed"
        elif engine is None:
            state = "not opened yet"
        else:
            state = f"{engine.ledger.in_flight} in flight"
        return f"<RetryingSender {self._client_settings.url!r}, {state}>"

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
        handle = prepare(
            self._started(), topic, value, partition_key, ordering_key, properties, sequence_id,
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
        handle = prepare(
            self._started(), topic, value, partition_key, ordering_key, properties, sequence_id,
            event_timestamp_ms, deliver_at_ms, deadline_seconds,
        )  # fmt: skip
        self._accept(handle)
        return handle

    def send_many(
        self,
        topic: str,
        values: Iterable[Sendable],
        *,
        partition_key: Callable[[Sendable], str | None] | str | None = None,
        ordering_key: Callable[[Sendable], str | None] | str | None = None,
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
            self.submit,
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
            InvalidInput: the sender's settings refuse it now.
            QueueFull: see `submit`.
            SenderClosed: nothing was sent.
        """
        message = failed.message
        handle = prepare(
            self._started(), message.topic, message.payload, message.partition_key, message.ordering_key,
            message.properties, message.sequence_id, message.event_timestamp_ms, message.deliver_at_ms, None,
        )  # fmt: skip
        handle._failed_id = failed.id
        self._accept(handle)
        return handle

    # -- inside ----------------------------------------------------------------------------------------------

    def _accept(self, handle: SendHandle) -> None:
        if not self._started().accept(handle):
            # It goes to the store. Whoever sends waits for that, and so can't run ahead of the disk.
            with suppress(DeadlineExceeded):
                handle.exception()

    def _started(self) -> Engine:
        return self._engine or self._start()

    def _start(self) -> Engine:
        # Before the lock is taken: a child that is forked while another thread opens must get a lock of its own.
        process.watch(self, Stage.SENDERS)
        with self._lock:
            try:
                if self._report is not None:
                    raise SenderClosed("the sender is closed; make a new one")  # noqa: TRY301  # told with the lock
                if self._engine is None:
                    self.failed_messages.open()
                    self._engine = self._make_engine()
                    process.watch(self, Stage.SENDERS)  # again: who failed to open it at the same time forgot it
                    if self._settings.drain_on_sigterm:
                        process.drain_on_sigterm()
            except Exception:
                if self._engine is None or self._report is not None:
                    process.forget(self, Stage.SENDERS)
                raise
            return self._engine

    def _make_engine(self) -> Engine:
        registry = self._registry or ClientRegistry.shared()
        return Engine(self._client_settings, self._settings, self.failed_messages, registry)

    def _end(self, engine: Engine, report: CloseReport) -> None:
        with self._lock:
            if self._report is not None or engine is not self._engine:
                return
            self._report = report
        process.forget(self, Stage.SENDERS)
        if isinstance(self.failed_messages, InMemoryFailedMessages) and report.counts.failed:
            log.warning("safepulsar.kept_in_memory_only", extra={"messages": report.counts.failed})
        if self._owns_store and engine.store_answers:
            self.failed_messages.close()

    def at_exit(self) -> None:
        """
        The process ends: as `close`. Ctrl-C ends the wait for the broker, and what is in flight is kept.
        """
        try:
            self.close()
        except KeyboardInterrupt:
            self.close(0.0)
            raise

    def after_fork(self) -> None:
        """
        In a forked child: start afresh at the next use. What the parent had accepted stays the parent's.
        """
        self._lock = threading.RLock()
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.after_fork()
        self.failed_messages.after_fork()


def _store(where: str | os.PathLike[str] | FailedMessageStore | None) -> FailedMessageStore:
    if where is None:
        return InMemoryFailedMessages()
    return SqliteFailedMessages(where) if isinstance(where, (str, os.PathLike)) else where
