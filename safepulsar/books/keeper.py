"""
Where messages go that are given up: into the store first, and only then is the application told.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from safepulsar.books.callbacks import Callbacks, tell
from safepulsar.books.handle import SendHandle, State, now
from safepulsar.books.observers import Observers
from safepulsar.books.worker import Worker
from safepulsar.errors import BrokerError, SafePulsarError, SenderClosed, SendFailed, StoreError
from safepulsar.message import Attempt, Certainty, FailedMessage, MessageId

if TYPE_CHECKING:
    from collections.abc import Sequence

    from safepulsar.books.ledger import Ledger
    from safepulsar.failed_messages import FailedMessageStore

log = logging.getLogger("safepulsar")
_AT_ONCE = 1000  # messages of one transaction: large enough to share the fsync, small enough for the deadline


@dataclass(frozen=True, slots=True)
class GivenUp:
    """
    A message in state FAILING, with what is known.

    Args:
        handle: the message.
        cause: why it is given up.
        attempts: all that were made; none if it was never handed over.
    """

    handle: SendHandle
    cause: SafePulsarError
    attempts: tuple[Attempt, ...] = ()

    @property
    def in_outbox(self) -> bool:
        """
        Whether it is on disk already, from before it was accepted.
        """
        # Without a number it never got there: it was kept because there was no room, or its lane is parked.
        return self.handle._queue.outbox is not None and self.handle.sequence_id is not None

    @property
    def stays_in_outbox(self) -> bool:
        """
        Whether the next run sends it, because only this one ends.
        """
        return self.in_outbox and self.handle._failed_id is None and isinstance(self.cause, SenderClosed)

    @property
    def certainty(self) -> Certainty:
        """
        What the attempts say: one that may have stored it leaves a doubt for good.
        """
        doubtful = any(each.maybe_stored for each in self.attempts)
        return Certainty.MAYBE_STORED if doubtful else Certainty.NOT_STORED


class Keeper:
    """
    Keeps given-up messages in the store, many at a time, on the thread `safepulsar-keeper`.

    A thread of its own, because a disk can hang: whoever finds that a message failed (a queue's thread, the
    watch over deadlines) goes on at once.

    Args:
        store: where to; it is open.
        ledger: books the fate.
        callbacks: tells the application.
        observers: are told of every fate and delay, by whoever has this keeper.
    """

    def __init__(
        self, store: FailedMessageStore, ledger: Ledger, callbacks: Callbacks, observers: Observers | None = None
    ) -> None:
        self.observers = Observers((), ledger) if observers is None else observers
        self._store = store
        self._ledger = ledger
        self._callbacks = callbacks
        # What follows is guarded by the ledger's lock.
        self._given_up: list[GivenUp] = []
        self._keeping: list[GivenUp] = []  # with the store right now
        self._late: list[tuple[SendHandle, MessageId]] = []
        self._closing = False
        self._worker = Worker("safepulsar-keeper", ledger, step=self._step, done_locked=self._done_locked)

    def start_locked(self) -> None:
        """
        Have the thread; see `Worker.start_locked`.
        """
        self._worker.start_locked()

    def accept_locked(self, message: GivenUp) -> None:
        """
        Count a message as accepted that is kept at once.

        Raises:
            SenderClosed: nothing is accepted any more.
        """
        ledger = self._ledger
        self._worker.ring()  # before, and so not in vain: the thread needs the lock
        if ledger.open:  # and from here straight on, see `Ledger`
            ledger.accepted += 1
            ledger.in_flight += 1
            ledger.in_flight_bytes += message.handle.size_bytes
            message.handle._state = 2  # State.FAILING
            self._given_up.append(message)
            return
        raise ledger.closed_error()

    def give_up_locked(self, messages: Sequence[GivenUp]) -> None:
        """
        Keep `messages` soon; their state is FAILING already.
        """
        if messages:
            self._given_up.extend(messages)
            self._wake_locked()

    def confirm(self, late: Sequence[tuple[SendHandle, MessageId]]) -> None:
        """
        Note late acknowledgements of messages that were given up as MAYBE_STORED.

        Their fate stays as it was reported, but the store learns that there is nothing left to replay.
        """
        with self._ledger.lock:
            self._late.extend(late)
            self._wake_locked()

    def pending(self) -> list[SendHandle]:
        """
        The handles that wait for the store.
        """
        with self._ledger.lock:
            return [message.handle for message in (*self._keeping, *self._given_up)]

    def close(self, deadline: float) -> bool:
        """
        Keep what is waiting and end; False if the store did not answer until the deadline.
        """
        self._closing = True
        self._worker.ring()
        return self._worker.ended(deadline)

    def _wake_locked(self) -> None:
        try:
            self._worker.start_locked()  # if it has ended: something came after closing
        except RuntimeError:
            log.exception("safepulsar.not_kept", extra={"messages": len(self._given_up)})
        self._worker.ring()

    def _done_locked(self) -> bool:
        return self._closing and not self._given_up and not self._late

    def _step(self) -> None:
        with self._ledger.lock:
            given_up = self._given_up[:_AT_ONCE]
            del self._given_up[:_AT_ONCE]
            self._keeping = given_up
            late: list[tuple[SendHandle, MessageId]] = []
            if not self._given_up:  # a late acknowledgement comes after its message was kept
                late, self._late = self._late, []
        self._keep(given_up)
        self._keeping = []
        for handle, message_id in late:
            self._confirm(handle, message_id)
        if not given_up and not late:
            self._worker.wait()

    def _keep(self, given_up: list[GivenUp]) -> None:
        if not given_up:
            return
        new = [each for each in given_up if each.handle._failed_id is None and not each.stays_in_outbox]
        try:
            self._keep_new(new)
        except Exception as error:  # noqa: BLE001  # whatever a store raises: these messages get their fate all the same
            log.error(  # noqa: TRY400 - the traceback could hold what the messages say
                "safepulsar.not_kept",
                extra={
                    "messages": len(new),
                    "error": type(error).__name__,
                    "remedy": str(error) if isinstance(error, StoreError) else "see the store's documentation",
                },
            )
        failures = [_failure(message) for message in given_up]
        final_at = now()
        with self._ledger.lock:
            for message, failure in zip(given_up, failures, strict=True):
                handle = message.handle
                handle._error = failure
                handle._final_at = final_at
                handle._state = State.FINAL
                self._ledger.not_kept += handle._failed_id is None and not message.in_outbox
            size = sum(message.handle.size_bytes for message in given_up)
            handles = [message.handle for message in given_up]
            self._ledger.settle_locked(size, failed=len(handles))
        tell(handles, self._callbacks)
        self.observers.failed(zip(handles, failures, strict=True))

    def _keep_new(self, new: list[GivenUp]) -> None:
        there = [message for message in new if not message.in_outbox]
        ids = self._store.keep([_record(each) for each in there]) if there else []
        for message, failed_id in zip(there, ids, strict=True):
            message.handle._failed_id = failed_id
        moving = {message.handle.sequence_id or 0: message for message in new if message.in_outbox}
        outbox = next((message.handle._queue.outbox for message in moving.values()), None)
        if outbox is not None:  # a sender has one
            moved = outbox.fail({number: _record(message) for number, message in moving.items()})
            for number, failed_id in moved.items():
                moving[number].handle._failed_id = failed_id

    def _confirm(self, handle: SendHandle, message_id: MessageId) -> None:
        failed_id = handle._failed_id
        if failed_id is None:
            return
        try:
            self._store.confirm(failed_id, message_id)
        except Exception as error:  # noqa: BLE001  # as above
            # The row stays replayable as MAYBE_STORED, which is true of it: a duplicate at worst, no loss.
            why = str(error) if isinstance(error, StoreError) else type(error).__name__
            log.warning("safepulsar.late_ack_not_noted", extra={"failed_message_id": failed_id, "error": why})


def _record(message: GivenUp) -> FailedMessage:
    wall, handle = time.time(), message.handle
    return FailedMessage(
        message=handle.message(),
        certainty=message.certainty,
        error=_code(message.cause),
        attempts=message.attempts,
        accepted_at=wall - (now() - handle._accepted_at),
        first_failed_at=wall,
        last_failed_at=wall,
        producer_name=handle._queue.settings.producer_name,
        trace_id=handle.trace_id,
    )


def _failure(message: GivenUp) -> SendFailed:
    failure = SendFailed(
        message.handle.message(),
        attempts=message.attempts,
        certainty=message.certainty,
        failed_message_id=message.handle._failed_id,
        cause=str(message.cause),
        # Also if it could not be moved from there to the failed messages.
        in_outbox=message.in_outbox and message.handle._failed_id is None,
    )
    failure.__cause__ = message.cause
    return failure


def _code(error: SafePulsarError) -> str:
    return error.code if isinstance(error, BrokerError) else type(error).__name__
