"""
The sender's side of the outbox: to disk before a message is accepted, off the disk once its fate is final.

    submit ─> put (one fsync for many threads) ─> accepted, in the order of the rows ─> queue ─> delivered ─> removed
                                                                ^
    rows of a run that died, or of another process ─> take ─────┘

Nothing that was left is sent before it is known whether it is stored: `exactly_once.py` looks for it when its producer
opens.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

from safepulsar.books.handle import SendHandle, State, now
from safepulsar.books.keeper import GivenUp
from safepulsar.books.worker import Worker
from safepulsar.errors import (
    DeadlineExceeded,
    InvalidInput,
    InvalidSettings,
    ProducerNameInUse,
    SafePulsarError,
    SenderClosed,
    StoreError,
)
from safepulsar.outbox import Outbox
from safepulsar.processes.process import name_of_process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from safepulsar.books.ledger import Ledger
    from safepulsar.failed_messages import SqliteFailedMessages
    from safepulsar.message import FailedMessage, Message
    from safepulsar.outbox import OutboxClaim, OutboxRow

log = logging.getLogger("safepulsar")
_LOOK_SECONDS = 0.2  # for what other processes put
_PAUSE_SECONDS = 1.0  # after an error of the store
_AT_ONCE = 500
_LEASE_SECONDS = 86_400.0  # a holder that died is noticed by its process, not by its lease
_YEAR_SECONDS = 365 * 86_400.0


class OutboxRelay:
    """
    The outbox of one sender, which is the one that sends what is in it.

    Args:
        store: where it is.
        ledger: of the sender.
        producer_name: of a message.
        handle_of: makes the handle of a row that is not this process's, or that an earlier run left.
        enqueue_locked: puts a handle into its queue; its second argument says whether it is counted already. Raises
            SenderClosed.
        wake_locked: has deadlines looked after.

    Attributes:
        topic: names it in the log, where queues are named by their topics.
    """

    topic = "(the outbox)"

    def __init__(
        self,
        store: SqliteFailedMessages,
        ledger: Ledger,
        *,
        producer_name: Callable[[Message], str],
        handle_of: Callable[[OutboxRow], SendHandle],
        enqueue_locked: Callable[[SendHandle, bool], None],
        wake_locked: Callable[[], None],
    ) -> None:
        self._wake_locked = wake_locked
        self._outbox = Outbox(store, producer_name=producer_name)
        self._ledger = ledger
        self._handle_of = handle_of
        self._enqueue_locked = enqueue_locked
        self._claim: OutboxClaim | None = None
        # What follows is guarded by the ledger's lock.
        self._expected: dict[int, SendHandle] = {}  # counted; their rows wait behind others
        # While what was taken is on its way into the queues, the next ones wait here for it, and are in _expected, too.
        self._taking = False
        self._behind: deque[int] = deque()
        self._given_up: set[int] = set()  # their rows go to the failed messages, and are not handed out
        self._final: list[int] = []
        self._settling = threading.Lock()  # held while they leave the disk: who comes then must not run ahead of that
        self._closing = False
        self._taken: deque[OutboxRow] = deque()  # the thread's own
        self._worker = Worker("safepulsar-outbox", ledger, step=self._step, done_locked=lambda: self._closing)

    def open(self) -> None:
        """
        Become the one that sends, and begin with what is there. Once is enough.

        Raises:
            ProducerNameInUse: another process sends; it may `put` into the same outbox all the same.
            StoreError: the store failed.
        """
        if self._claim is None:
            self._claim = self._outbox.claim(name_of_process(), lease_seconds=_LEASE_SECONDS)
            with self._ledger.lock:
                self._worker.start_locked()

    def put(self, handles: Sequence[SendHandle]) -> None:
        """
        Accept all of `handles` or none: they are on disk when this returns, and in their queue or on the way there.

        Raises:
            SenderClosed: nothing is accepted any more.
            StoreError: it could not be written; nothing was accepted.
            SafePulsarError: they are in the outbox and are sent, but the call was interrupted before they had their places.
        """
        accepted: list[int] = []
        refused: list[SenderClosed] = []

        def accept(rows: Sequence[OutboxRow], is_next: bool) -> None:  # noqa: FBT001  # as the outbox calls it
            with self._ledger.lock:
                if not self._ledger.open:  # it stays as it is as long as the lock is held
                    refused.append(self._ledger.closed_error())
                    return
                for row, handle in zip(rows, handles, strict=True):
                    number = handle.sequence_id = row.id
                    if is_next and not self._taking:
                        self._enqueue_locked(handle, False)  # noqa: FBT003  # not counted yet
                    else:
                        self._ledger.count_locked(handle.size_bytes)
                        self._expected[number] = handle
                        self._wake_locked()
                        if is_next:
                            self._behind.append(number)
                    accepted.append(number)

        ids = self._outbox.put([handle.message() for handle in handles], accept)
        if refused:
            # Should this process die just here, the row is sent by the next run: the caller, who never got an answer,
            # can't tell the difference.
            self._outbox.remove(ids)
            raise refused[0]
        if len(accepted) < len(handles):  # whoever wrote for all was interrupted; `take` hands the row out
            raise SafePulsarError("what was given is in the outbox and is sent, but this call can't tell you its fate")
        if accepted[-1] in self._expected:
            self._worker.ring()

    def final_locked(self, ids: Iterable[int]) -> None:
        """
        These are stored; their rows go with the next `settle`.
        """
        self._final.extend(ids)

    def settle(self) -> None:
        """
        Take off the disk what is final by now. Before any position behind it is recorded.

        Raises:
            StoreError: they stay; the next run finds out that they are stored.
        """
        with self._settling:
            with self._ledger.lock:
                final, self._final = self._final, []
            try:
                self._outbox.remove(final)
            except BaseException:
                with self._ledger.lock:
                    self._final += final
                raise

    def forget(self, ids: Iterable[int]) -> None:
        """
        Take off the disk what an earlier run left and reading back has found. As for `settle`.

        Raises:
            StoreError: they stay.
        """
        self._outbox.remove(ids)

    def fail(self, failed: Mapping[int, FailedMessage]) -> dict[int, int]:
        """
        Move rows to the failed messages; see `Outbox.fail`.
        """
        return self._outbox.fail(failed)

    def pending(self) -> list[SendHandle]:
        """
        The handles whose rows wait behind others.
        """
        with self._ledger.lock:
            return list(self._expected.values())

    def expire(self, moment: float, cause: SafePulsarError | None = None) -> bool:
        """
        Give up what waits here past its deadline at `moment`, or everything if `cause` says why; see `SendQueue.expire`.
        """
        reason = cause or DeadlineExceeded("the deadline passed before it was handed over")
        with self._ledger.lock:
            late = [
                number for number, handle in self._expected.items() if cause is not None or handle._deadline <= moment
            ]
            self._given_up.update(late)
            for number in late:
                handle = self._expected.pop(number)
                handle._state = State.FAILING
                handle._queue.lanes.give_up_locked([GivenUp(handle, reason)])
            return bool(self._expected)

    def stop(self, deadline: float) -> bool:
        """
        Hand out nothing more; False if the store did not answer until the deadline.
        """
        self._closing = True
        self._worker.ring()
        return self._worker.ended(deadline)

    def close(self) -> None:
        """
        Let another process send. What is not final stays, and is sent by the next one.
        """
        claim = self._claim
        if claim is None:
            return
        try:
            self.settle()
            claim.release()
        except StoreError as error:  # the next one finds out what is stored, and that this process is gone
            log.warning("safepulsar.outbox_not_settled", extra={"error": str(error)})

    # -- the thread --------------------------------------------------------------------------------------------

    def _step(self) -> None:
        try:
            self._hand_out_next()
        except ProducerNameInUse as error:
            log.error("safepulsar.outbox_lost", extra={"error": str(error)})  # noqa: TRY400  # it says all
            self._worker.wait(_PAUSE_SECONDS)
        except StoreError as error:
            log.warning("safepulsar.outbox_not_read", extra={"error": str(error)})
            self._worker.wait(_PAUSE_SECONDS)

    def _hand_out_next(self) -> None:
        """
        Take what is next, and put it into the queues. What an error leaves over is next again.

        Raises:
            StoreError: the store failed.
        """
        if not self._taken:
            with self._ledger.lock:
                self._taking = True
            try:
                self._taken.extend(self._claim.take(_AT_ONCE) if self._claim is not None else ())
            finally:
                if not self._taken:
                    self._let_on()
            if not self._taken:
                self._worker.wait(_LOOK_SECONDS)
                return
        while self._taken:
            if not self._hand_out(self._taken[0]):
                return
            self._taken.popleft()
        self._let_on()

    def _let_on(self) -> None:
        """
        Put into the queues what came while others were on their way there; the next ones go there by themselves.
        """
        with suppress(SenderClosed), self._ledger.lock:  # closed: they are expected, as they were
            while self._behind:
                handle = self._expected.get(self._behind[0])
                if handle is not None:
                    self._enqueue_locked(handle, True)  # noqa: FBT003  # counted
                    del self._expected[self._behind[0]]
                self._given_up.discard(self._behind[0])
                del self._behind[0]
            self._taking = False

    def _hand_out(self, row: OutboxRow) -> bool:
        """
        Put one into its queue, False if nothing is accepted any more.

        Raises:
            StoreError: its queue could not be made.
        """
        with self._ledger.lock:
            if row.id in self._given_up:  # and in the failed messages by now, or about to be
                self._given_up.discard(row.id)
                return True
        try:
            made = None if row.id in self._expected else self._made(row)
        except InvalidInput as error:  # the settings have changed since it was put
            fields = {"topic": row.message.topic, "producer_name": row.producer_name, "error": str(error)}
            log.error("safepulsar.outbox_row_left", extra=fields)  # noqa: TRY400  # it says all
            return True
        with suppress(SenderClosed), self._ledger.lock:
            if made is not None:
                # However long it takes: the row is safe, and those behind it wait for it.
                while self._ledger.full_locked(made.size_bytes):
                    self._ledger.wait_for_change_locked(now() + _YEAR_SECONDS)
                    self._ledger.check_open_locked()
                self._enqueue_locked(made, False)  # noqa: FBT003  # not counted yet
            elif row.id in self._expected:  # or it was given up just now
                self._enqueue_locked(self._expected[row.id], True)  # noqa: FBT003  # counted
                del self._expected[row.id]
            return True
        return False

    def _made(self, row: OutboxRow) -> SendHandle:
        handle = self._handle_of(row)
        queue = handle._queue
        if queue.settings.producer_name != row.producer_name or queue.outbox is not self:
            raise InvalidSettings("producer_name", "is not the one that it was put with, or its topic has no outbox")
        return handle
