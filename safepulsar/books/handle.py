"""
The handle of one accepted message: its place in the queue, and what the application waits on.

One object serves as both, so that a message costs one allocation on its way.
"""

from __future__ import annotations

import threading
import time
from enum import IntEnum
from typing import TYPE_CHECKING

from safepulsar.errors import DeadlineExceeded, ForkedProcess, InvalidInput, SendCancelled
from safepulsar.message import Fate, Message, MessageId, SendResult

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Future
    from collections.abc import Callable, Generator, Mapping
    from typing import TypeAlias

    from safepulsar.delivery.send_queue import SendQueue
    from safepulsar.errors import SafePulsarError
    from safepulsar.message import Attempt

    # A thread's lock to release, a coroutine's loop and future to resolve, or a callback.
    Watcher: TypeAlias = "threading.Lock | tuple[AbstractEventLoop, Future[None]] | Callable[[SendHandle], object]"

now = time.monotonic  # the clock of deadlines
_KEEP_SECONDS = 10.0  # how long whoever needs every fate waits for the store
GRACE_SECONDS = 0.2  # beyond the deadline, for keeping a failed message
_LONGEST_SECONDS = 365 * 86_400.0  # what the timers of every system take


class State(IntEnum):
    """
    Where a message is. Every change happens under the ledger's lock.

    QUEUED -> HANDED_OVER   the queue's thread took it; from here on it may be stored
    QUEUED -> FAILING       its deadline passed, or the sender closed: surely not stored
    QUEUED -> FINAL         cancelled by the application: surely not stored, and not kept
    HANDED_OVER -> QUEUED   the attempt surely stored nothing and is made again, at its old place
    HANDED_OVER -> FINAL    acknowledged
    HANDED_OVER -> FAILING  given up; the certainty says what is known
    FAILING -> FINAL        kept in the store, or found that it cannot be

    Illegal: FAILING -> HANDED_OVER (what was reported as failing is never sent by the queue again, or a replay
    would make a duplicate), FINAL -> anything (one fate each), HANDED_OVER -> QUEUED of what may be stored.
    """

    QUEUED = 0
    HANDED_OVER = 1
    FAILING = 2
    FINAL = 3


class SendHandle:
    """
    One accepted message. `result()` waits for its fate; `await` does the same without blocking the loop.

    Safe to use from any thread. Waiting with a timeout, or cancelling the task that awaits, changes nothing for
    the message: it goes on and is accounted for.
    """

    __slots__ = (
        "_accepted_at",
        "_attempts",
        "_deadline",
        "_error",
        "_failed_id",
        "_final_at",
        "_index",
        "_message_id",
        "_queue",
        "_state",
        "_watchers",
        "deliver_at_ms",
        "event_timestamp_ms",
        "ordering_key",
        "partition_key",
        "payload",
        "properties",
        "sequence_id",
        "size_bytes",
        "span",
        "trace_id",
    )

    # Set before the state is FINAL, and read only afterwards; the first two of what is not failed.
    _message_id: MessageId  # of the last message of its batch
    _index: int
    _final_at: float

    def __init__(
        self,
        queue: SendQueue,
        payload: bytes | None,
        partition_key: str | None,
        ordering_key: str | None,
        properties: Mapping[str, str] | None,
        size_bytes: int,
        accepted_at: float,
        deadline: float,
    ) -> None:
        self._queue = queue
        self.payload = payload
        self.partition_key = partition_key
        self.ordering_key = ordering_key
        self.properties = properties
        self.sequence_id: int | None = None
        self.event_timestamp_ms: int | None = None
        self.deliver_at_ms: int | None = None
        self.size_bytes = size_bytes
        self.trace_id: str | None = None
        self.span: object = None  # see `Draft.span`
        self._accepted_at = accepted_at  # monotonic
        self._deadline = deadline  # monotonic
        self._state: int = 0  # State.QUEUED; plain numbers, because an enum's attribute costs more than the rest
        self._attempts: tuple[Attempt, ...] = ()  # that failed
        self._failed_id: int | None = None  # already in the store under this number
        self._watchers: list[Watcher] | None = None
        self._error: SafePulsarError | None = None

    @property
    def topic(self) -> str:
        """
        The full name of the topic.
        """
        return self._queue.topic

    def done(self) -> bool:
        """
        Whether the fate is known.
        """
        return self._state == State.FINAL

    def result(self, timeout: float | None = None) -> SendResult:
        """
        Wait for the fate.

        Args:
            timeout: seconds to wait; None waits until the message's own deadline, and at most 0.2 s more for
                its being kept.

        Raises:
            SendFailed: not confirmed; the message is with it, and in the store.
            SendCancelled: `cancel` took it back.
            DeadlineExceeded: not known within `timeout`. The message goes on.
            ForkedProcess: the message was accepted by the parent process, which alone learns its fate.
        """
        if self._state != State.FINAL:
            self._wait(timeout)
        return self._final()

    def exception(self, timeout: float | None = None) -> SafePulsarError | None:
        """
        Wait as `result` does and return the `SendFailed` instead of raising it, None if delivered.
        """
        if self._state != State.FINAL:
            self._wait(timeout)
        return self._error

    def exception_once_kept(self) -> SafePulsarError | None:
        """
        As `exception`, for whoever needs every fate: where much fails at once, keeping all of it takes a while.

        Raises:
            DeadlineExceeded: the store has not answered 10 s after the deadline.
            ForkedProcess: see `result`.
        """
        return self.exception(max(0.0, self._deadline - now()) + _KEEP_SECONDS)

    def cancel(self) -> bool:
        """
        Take the message back, unless it was handed over: True if it is surely not sent, by this call or an earlier one.

        Whoever waits for it gets `SendCancelled`. False where that is too late, and the message goes on; also for one that
        stands on the disk already, in the store or in an outbox.

        Raises:
            ForkedProcess: see `result`.
        """
        queue = self._queue
        if queue.forked:
            raise self._forked()
        ledger = queue.ledger
        error = SendCancelled(f"this message for topic {self.topic!r} was cancelled before it was handed over")
        moment = now()
        with ledger.lock:
            if self._state != State.QUEUED or self._failed_id is not None or queue.outbox is not None:
                return isinstance(self._error, SendCancelled)
            # From here straight on, see `Ledger`; the queue drops it from its line by itself.
            queue.cancelled += 1
            ledger.cancelled += 1
            ledger.in_flight -= 1
            ledger.in_flight_bytes -= self.size_bytes
            self.payload = None
            self._error = error
            self._final_at = moment
            self._state = 3  # State.FINAL
            ledger.changed_locked()
        queue.callbacks.tell(self)
        queue.keeper.observers.cancelled(self)
        return True

    def add_done_callback(self, callback: Callable[[SendHandle], object]) -> None:
        """
        Call `callback(handle)` once the fate is known, at once if it is known already.

        It runs on a thread of the sender, never on the client library's, so it may block, raise (logged) and
        send. All callbacks of a sender share that thread: what takes long belongs elsewhere.

        Raises:
            InvalidInput: it cannot be called.
            ForkedProcess: see `result`.
        """
        if not callable(callback):
            raise InvalidInput("callback", f"must be callable with the handle, not {type(callback).__name__}")
        if not self._queue.forked:
            self._queue.callbacks.start()
        if not self._watch(callback):
            self._queue.callbacks.put(callback, self)

    def __await__(self) -> Generator[object, None, SendResult]:
        """
        Wait in a coroutine, as long as `result` does.

        Cancelling the wait does not cancel the message, which `AwaitCancelled` says; see also `AsyncSender`.
        """
        if self._state != State.FINAL:
            from safepulsar.books.awaiting import wait_in_loop  # noqa: PLC0415 - asyncio takes long to import, and threads need none

            began = now()
            yield from wait_in_loop(self, self._deadline + GRACE_SECONDS)
            if self._state != State.FINAL:
                raise self._unknown(now() - began, None)
        return self._final()

    def __repr__(self) -> str:
        """
        Where it is; no payload, no keys.
        """
        if self._state == State.FINAL:
            error = self._error
            ended = "cancelled" if isinstance(error, SendCancelled) else "failed"
            state = ended if error is not None else self._fate().value.lower()
        else:
            state = State(self._state).name.lower().replace("_", " ")
        return f"<SendHandle for {self.topic!r}, {state}>"

    # -- for the sender --------------------------------------------------------------------------------------

    def message(self) -> Message:
        """
        The message as it was accepted; without its payload once it is delivered (that memory is given back).
        """
        return Message(
            topic=self.topic,
            payload=self.payload,
            properties=dict(self.properties) if self.properties else None,
            partition_key=self.partition_key,
            ordering_key=self.ordering_key,
            sequence_id=self.sequence_id,
            event_timestamp_ms=self.event_timestamp_ms,
            deliver_at_ms=self.deliver_at_ms,
        )

    def _fate(self) -> Fate:
        stored = self._message_id
        return Fate.DUPLICATE if stored.ledger_id == -1 == stored.entry_id else Fate.DELIVERED

    def _final(self) -> SendResult:
        if self._error is not None:
            raise self._error
        last = self._message_id
        # The slot holds the id of the batch's last message; the others stand before it in the same entry.
        batched = last.batch_index >= 0
        return SendResult(
            topic=self.topic,
            fate=self._fate(),
            message_id=MessageId(last.ledger_id, last.entry_id, last.partition, self._index) if batched else last,
            attempts=len(self._attempts) + 1,
            elapsed_seconds=self._final_at - self._accepted_at,
        )

    def _wait(self, timeout: float | None) -> None:
        waiter = threading.Lock()
        waiter.acquire()
        if self._watch(waiter):
            try:
                self._wait_on(waiter, timeout)
            finally:
                self._unwatch(waiter)

    def _wait_on(self, waiter: threading.Lock, timeout: float | None = None) -> None:
        """
        Wait until `waiter` is released, as `result` waits; on a plain lock, so that Ctrl-C gets through.
        """
        seconds = self._deadline + GRACE_SECONDS - now() if timeout is None else timeout
        seconds = min(max(0.0, seconds), _LONGEST_SECONDS)
        if not waiter.acquire(timeout=seconds) and self._state != State.FINAL:
            raise self._unknown(seconds, timeout)

    def _unknown(self, seconds: float, timeout: float | None) -> DeadlineExceeded:
        why = "the store of failed messages does not answer" if timeout is None else "it goes on"
        return DeadlineExceeded(
            f"the fate of this message for topic {self.topic!r} is not known after {seconds:.3g} s; {why}"
        )

    def _watch(self, watcher: Watcher) -> bool:
        """
        Have `watcher` told of the fate; False if it is known already.
        """
        queue = self._queue
        if queue.forked:
            raise self._forked()
        with queue.ledger.lock:
            if self._state == State.FINAL:
                return False
            if self._watchers is None:
                self._watchers = []
            self._watchers.append(watcher)
            if self._state == State.QUEUED:
                queue.crew.hurry_locked()
            return True

    def _forked(self) -> ForkedProcess:
        return ForkedProcess("this message was accepted by the parent process, which alone learns its fate")

    def _unwatch(self, watcher: Watcher) -> None:
        # Whoever asks again and again before the fate is known must not leave more behind each time. Once it is known,
        # the list belongs to the one who tells.
        if self._state == State.FINAL:
            return
        with self._queue.ledger.lock:
            if self._state != State.FINAL and self._watchers is not None and watcher in self._watchers:
                self._watchers.remove(watcher)
