"""
One group of messages on its way: handed over in batches, flushed, and settled by what the broker answered.

Where ambiguity is decided:
- what `send_batch` refuses is surely not stored, and nothing behind it is handed over;
- a batch has one fate, because it is one entry in the topic: the answer for its last message is everyone's. That
  holds as long as nobody flushes or hands over in the middle of it, and so a group with batches is waited for
  before the next one is handed over;
- no answer until the deadline, or an error later, is `MAYBE_STORED` as the table in `outcomes` says;
- what is sent again, and what must not be, is decided in `recovery.py`, once all that was handed over is answered.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from safepulsar.books.callbacks import tell
from safepulsar.books.handle import SendHandle, State, now
from safepulsar.books.keeper import GivenUp
from safepulsar.broker.outcomes import Phase, classify
from safepulsar.delivery.lanes import late_because
from safepulsar.errors import BrokerError, SafePulsarError
from safepulsar.message import Attempt, MessageId
from safepulsar.processes.native_calls import native_calls

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from safepulsar.broker.producer_pool import Lease
    from safepulsar.broker.transport import Slot
    from safepulsar.delivery.send_queue import SendQueue

log = logging.getLogger("safepulsar")
_FIRST_LOOK_SECONDS, _LAST_LOOK_SECONDS = 0.0001, 0.05


class Delivery:
    """
    One group.

    `hand_over`, `wait` and `settle` are called once each, by one of the queue's threads; the `_locked` methods by
    whoever holds the ledger's lock.

    Args:
        queue: of the messages.
        lease: of the producer that sends them.
        group: the messages, in order.

    Attributes:
        group: the messages, in order.
        lease: of the producer that sends them.
        batched: whether a flush, or a message handed over by somebody else, could come into the middle of a batch.
        failed: batches with an error, in order.
        unsent: the rest of the group, behind a batch that was refused.
        waiting: how many threads and coroutines waited for the acknowledged ones.
        finished: whether every answer is there.
    """

    def __init__(self, queue: SendQueue, lease: Lease, group: list[SendHandle]) -> None:
        self.group = group
        self.lease = lease
        self.producer = lease.producer
        self.batched = self.producer.batch_max_messages > 1
        self.failed: list[tuple[Sequence[SendHandle], BrokerError]] = []
        self.unsent: Sequence[SendHandle] = ()
        self.waiting = 0
        self.finished = False
        self.started_at = time.time()
        self.began = now()
        self._queue = queue
        self._sent: list[tuple[Sequence[SendHandle], Slot]] = []
        self._first_ids: list[int | None] = []  # on the wire, of each batch, where it matters
        self._open = len(group)  # of these not given up by the watch; guarded by the ledger's lock
        # What is not acknowledged, by the handles' ids: the error of a batch, or None where there was no answer.
        self._errors: dict[int, BrokerError | None] = {}
        self._unsent: frozenset[int] = frozenset()

    # -- what is known of one message ------------------------------------------------------------------------

    def stored(self, handle: SendHandle) -> bool:
        """
        Whether the broker acknowledged it. Once this is finished.
        """
        return id(handle) not in self._errors and id(handle) not in self._unsent

    def maybe_stored(self, handle: SendHandle) -> bool:
        """
        Whether it could be in the topic, by what is known now.
        """
        error = self._errors.get(id(handle))
        return id(handle) not in self._unsent and (error is None or error.maybe_stored)

    def attempt(self, error: SafePulsarError) -> Attempt:
        """
        What this delivery was for one of its messages.
        """
        known = isinstance(error, BrokerError)
        return Attempt(
            started_at=self.started_at,
            elapsed_seconds=now() - self.began,
            code=error.code if isinstance(error, BrokerError) else type(error).__name__,
            maybe_stored=error.maybe_stored if known else True,
        )

    def doubtful(self) -> list[SendHandle]:
        """
        Those of which it is not known whether they are stored. Once this is finished.
        """
        return [
            handle
            for handle in self.group
            if id(handle) in self._errors and ((error := self._errors[id(handle)]) is None or error.maybe_stored)
        ]

    def pushed(self, last_id: int) -> set[int]:
        """
        The numbers of those that a broker has taken which deduplicates and names `last_id` as its last.
        """
        return {
            handle.sequence_id or 0
            for (batch, _), first_id in zip(self._sent, self._first_ids, strict=False)
            if first_id is not None and first_id <= last_id
            for handle in batch
        }

    def last_ids(self) -> Iterable[MessageId]:
        """
        The answers, in order: of each batch its last message's.
        """
        answers = (self.producer.read(slot) for _, slot in self._sent)
        return (answer for answer in answers if isinstance(answer, MessageId) and answer.ledger_id >= 0)

    def resolve(self, found: Mapping[int, MessageId]) -> list[SendHandle]:
        """
        Settle what is doubtful by what was found in the topic, by number: the rest is surely not stored.

        Returns:
            Those of both kinds that were given up before.
        """
        doubtful = self.doubtful()
        given_up = [handle for handle in doubtful if handle._state != State.HANDED_OVER]
        failed, self.failed = self.failed, []
        for batch, error in failed:
            rest = [handle for handle in batch if handle.sequence_id not in found] if error.maybe_stored else batch
            if rest:
                known = error
                if error.maybe_stored:
                    known = classify(
                        error.code, Phase.INLINE, self._queue.topic, detail="read back, and not in the topic"
                    )
                self._fail(rest, known)
        stored = [handle for handle in doubtful if handle.sequence_id in found]
        for handle in stored:
            self._errors.pop(id(handle), None)
        self._acknowledge([([handle], found[handle.sequence_id or 0]) for handle in stored], confirm=False)
        return given_up

    # -- with the ledger's lock held, by the watch -----------------------------------------------------------

    def expire_locked(self, late: Collection[int], reason: SafePulsarError, *, everything: bool) -> list[GivenUp]:
        """
        Give up what is late: it was handed over, so it may be stored, unless more is known by now.
        """
        over = [
            handle for handle in self.group if handle._state == State.HANDED_OVER and (everything or id(handle) in late)
        ]
        for handle in over:
            handle._state = State.FAILING
        self._open -= len(over)
        return [GivenUp(handle, late_because(handle, reason), self._attempts(handle, reason)) for handle in over]

    def abandoned_locked(self) -> bool:
        """
        Whether nobody waits for this group any more.
        """
        return self.finished or self._open == 0

    def _attempts(self, handle: SendHandle, reason: SafePulsarError) -> tuple[Attempt, ...]:
        if id(handle) in self._unsent:
            return handle._attempts
        return (*handle._attempts, self.attempt(self._errors.get(id(handle)) or reason))

    # -- the thread with the turn ----------------------------------------------------------------------------

    def hand_over(self) -> None:
        """
        Hand over batch by batch, up to the first that is refused. A partial last batch is open until `wait`.
        """
        native_calls.begin(id(self))  # up to the end of `wait`
        send, most, sent = self.producer.send_batch, self.producer.batch_max_messages, self._sent
        partial = False
        for batch in self._batches():
            slot: Slot = {}
            if self._queue.exactly_once is not None:
                self._first_ids.append(self.producer.next_sequence_id)
            try:
                if partial:
                    self.producer.flush()  # closes the batch before, whose boundary is here and not at the full count
                send(batch, slot.setdefault)
            except BrokerError as error:
                self._refused(batch, error)
                return
            except Exception as error:  # not expected; this group must come to an end all the same
                log.exception("safepulsar.hand_over_failed", extra={"topic": self._queue.topic})
                code = f"InternalError({type(error).__name__})"
                self._refused(batch, BrokerError(code, topic=self._queue.topic, maybe_stored=True))
                return
            sent.append((batch, slot))
            partial = len(batch) < most

    def _refused(self, batch: Sequence[SendHandle], error: BrokerError) -> None:
        handed_over = sum(len(sent) for sent, _ in self._sent) + len(batch)
        self.unsent = self.group[handed_over:]
        self._unsent = frozenset(map(id, self.unsent))
        self._fail(batch, error)

    def _fail(self, batch: Sequence[SendHandle], error: BrokerError) -> None:
        self.failed.append((batch, error))
        self._errors.update((id(handle), error) for handle in batch)

    def _batches(self) -> Iterable[Sequence[SendHandle]]:
        alone = self._queue.alone
        if len(self.group) == 1 and not alone:
            return (self.group,)
        if self.batched and not alone:
            return self._cut(self.producer.batch_max_messages, self.producer.settings.batch_max_bytes)
        self._queue.alone = max(0, alone - len(self.group))
        return ((handle,) for handle in self.group)

    def _cut(self, most: int, most_bytes: int) -> Iterator[Sequence[SendHandle]]:
        """
        Cut the group at the full count, before it grows over the bytes, and around a delayed message.

        The client library sends a delayed message by itself at once, whatever waits in an open batch.
        """
        batch: list[SendHandle] = []
        size = 0
        for handle in self.group:
            delayed = handle.deliver_at_ms is not None
            if batch and (len(batch) == most or size + handle.size_bytes > most_bytes or delayed):
                yield batch
                batch, size = [], 0
            batch.append(handle)
            size += handle.size_bytes
            if delayed:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch

    # -- the same thread -------------------------------------------------------------------------------------

    def wait(self) -> None:
        """
        Wait until every batch is answered: with the turn if it is `batched`, or else without.

        `flush` returns with the last answer, which may need a moment more to reach its slot, and early where the
        producer is closed or between two connections; so this looks again at growing intervals, as long as anybody
        waits.
        """
        pause = _FIRST_LOOK_SECONDS
        try:
            while True:
                self.producer.flush()
                for _, slot in self._sent:
                    if not slot:
                        break
                else:
                    return
                if self._open == 0:
                    return
                time.sleep(pause)
                pause = min(pause * 2, _LAST_LOOK_SECONDS)
        finally:
            native_calls.end(id(self))

    def settle(self) -> None:
        """
        Settle what was acknowledged, and list what failed.
        """
        read = self.producer.read
        acknowledged: list[tuple[Sequence[SendHandle], MessageId]] = []
        refused, self.failed = self.failed, []  # the last in the order of the group
        for batch, slot in self._sent:
            answer = read(slot)
            if answer is None:
                self._errors.update((id(handle), None) for handle in batch)
            elif isinstance(answer, BrokerError):
                self._fail(batch, answer)
            elif len(batch) > 1 and answer.batch_index != len(batch) - 1:
                log.error("safepulsar.batch_split", extra={"topic": self._queue.topic, "messages": len(batch)})
                self._fail(batch, classify("BatchSplit", Phase.LATER, self._queue.topic))
            elif answer.ledger_id < 0 and self._queue.exactly_once is not None:
                # The library has connected again and sent once more. What the broker has under these ids may be another
                # producer's that had the name meanwhile, so this is no answer: it is looked for.
                self._fail(batch, classify("Disconnected", Phase.LATER, self._queue.topic))
            else:
                acknowledged.append((batch, answer))
        self.failed += refused
        self._acknowledge(acknowledged)

    def _acknowledge(
        self, acknowledged: Sequence[tuple[Sequence[SendHandle], MessageId]], *, confirm: bool = True
    ) -> None:
        ledger = self._queue.ledger
        done: list[SendHandle] = []
        late: list[tuple[SendHandle, MessageId]] = []
        duplicates = size = 0
        final_at = now()
        with ledger.lock:
            for batch, last in acknowledged:
                index = last.batch_index - len(batch)
                before = len(done)
                for handle in batch:
                    index += 1
                    if handle._state != 1:  # given up by the watch while the answer was on its way
                        late.append((handle, last))
                        continue
                    handle._message_id = last
                    handle._index = index
                    handle._final_at = final_at
                    handle._state = 3  # State.FINAL
                    handle.payload = None  # that memory is not needed any more
                    size += handle.size_bytes
                    done.append(handle)
                if last.ledger_id == -1 == last.entry_id:
                    duplicates += len(done) - before
            if self._queue.outbox is not None:
                self._queue.outbox.final_locked(handle.sequence_id or 0 for handle in done)
            ledger.settle_locked(size, delivered=len(done) - duplicates, duplicate=duplicates)
            self._open -= len(done)
        self.waiting = tell(done, self._queue.callbacks)
        self._queue.keeper.observers.delivered(self._queue.topic, done, duplicates)
        if late and confirm:
            self._queue.keeper.confirm(late)
