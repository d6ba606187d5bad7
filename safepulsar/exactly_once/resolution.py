"""
Exactly-once for a producer name: every message has a number, and what is stored is found out when an answer is missing.

    an answer is missing ─> the queue is frozen ─> fence: the producer is closed, and opened again under its name
       ─> read the topic back from the last confirmed message ─> stored: settled / missing: surely not stored

Nothing is ever sent again to find out. Each message carries its number in a property, with a mark (`mark.py`), and keeps
it whenever it is sent again; sequence ids on the wire only rise. The broker lets one producer have a name at a time: once
the next one is open, the one before can hand over nothing more. What it had handed over may still be on its way to the
disk. A broker that deduplicates says so, and is waited for; else a second look a second later must do.

Without deduplication the client library itself would send twice what was under way when a connection broke; see
`connection_guard.py`.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from safepulsar.books.handle import State, now
from safepulsar.errors import (
    AuthorizationFailed,
    BrokerError,
    CreationBackoff,
    ProducerFenced,
    SafePulsarError,
    StoreError,
)
from safepulsar.exactly_once.found import Found
from safepulsar.exactly_once.mark import mark_of, source_of
from safepulsar.exactly_once.search import READ_SECONDS, Search, begin_at
from safepulsar.failed_messages import FailedMessageFilter
from safepulsar.message import Certainty, MessageId
from safepulsar.processes.process import name_of_process

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from safepulsar.books.handle import SendHandle
    from safepulsar.broker.transport import TransportClient, TransportProducer
    from safepulsar.delivery.group import Delivery
    from safepulsar.delivery.send_queue import SendQueue
    from safepulsar.exactly_once.producer_journal import JournalClaim, ProducerJournal
    from safepulsar.failed_messages import FailedMessageStore
    from safepulsar.outbox.relay import OutboxRelay
    from safepulsar.settings import ProducerSettings

log = logging.getLogger("safepulsar")
_BLOCK = 100_000  # ids reserved on disk at once; what is left of them at the end is a gap, which does no harm
_READY = 10_000  # so many are there before a group is taken, which is never larger
_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.05, 2.0
_RECORD_SECONDS = 1.0
_ALL_BEYOND = 2**63
_BEYOND_ROWS = 2**62
_TAKEN_SECONDS = 3.0  # for what the broker has taken to come into the topic
_KEEP_SECONDS = 10.0  # for the store to keep what was given up
_LEASE_SECONDS = 86_400.0  # a holder that died is noticed by its process, not by its lease


class ExactlyOnce:
    """
    The numbers of one producer name, and the resolver. Used by the thread of its queue that has the turn, or has it alone.

    Args:
        settings: of the producer.
        client: the client that reads back.
        store: of the failed messages, some of which may be this name's from an earlier run.
        journal: where numbers and positions survive the process, None if the store is not on disk.
        outbox: gives the numbers, if there is one, and may have messages of an earlier run.

    Attributes:
        deduplicates: whether the broker is known to drop what it has already; then the library may send again by itself.
        numbered_by_caller: numbers are the application's own, such as those of rows, handed over in their order.
        source: with those, a fingerprint of the input, None for none.
        confirmed: with those, everything up to this number is stored.
        stored: and these beyond it.
        found: waits to be sent, and is in the topic.
        gap: the first number that was left out, None if none was. It may come in a later run.
    """

    def __init__(
        self,
        settings: ProducerSettings,
        client: Callable[[], TransportClient],
        store: FailedMessageStore,
        journal: ProducerJournal | None,
        outbox: OutboxRelay | None = None,
    ) -> None:
        self.deduplicates = False
        self.numbered_by_caller = False
        self.source: str | None = None
        self.confirmed = 0
        self.stored: frozenset[int] = frozenset()
        self.gap: int | None = None
        self.claim: JournalClaim | None = None
        self._settings = settings
        self._client = client
        self._store = store
        self._journal = journal
        self._outbox = outbox
        self._adopted: TransportProducer | None = None
        self._mark: str | None = None
        # An outbox numbers what is in it. What comes from elsewhere, by a replay, must not meet those.
        self._next = 1 if outbox is None else _BEYOND_ROWS + time.time_ns()
        self._reserved = 0  # ids up to here are this process's
        # By partition, a message that stands before everything that is not confirmed; None: the topic was empty. Not
        # known before the first producer is open.
        self._positions: dict[int, MessageId | None] | None = None
        self._record_at = 0.0
        self._recording = threading.Lock()
        self._unrecorded = False
        self.found = Found()
        self._rows_unresolved = False  # then what the journal says is where they are looked for

    # -- before a group is taken -------------------------------------------------------------------------------

    def adopt(self, producer: TransportProducer) -> None:
        """
        Get to know a producer that was just opened, and have numbers enough for a group.

        Raises:
            BrokerError: the topic could not be asked.
            StoreError: the journal; `ProducerNameInUse` if another process has the name.
        """
        if producer is not self._adopted:
            self._meet(producer)
            if self._positions is None:
                try:
                    self._begin()
                except BaseException:
                    self._positions = None  # all of it again, or what is stored would be sent once more
                    raise
            self._adopted = producer
        ours = not self.numbered_by_caller and self._outbox is None
        if ours and self._next + _READY > self._reserved + 1 and self.claim is not None:
            ids = self.claim.allocate(_BLOCK)
            self._next = max(self._next, ids[0])
            self._reserved = ids[-1]

    def _meet(self, producer: TransportProducer) -> int:
        """
        Give a new producer the mark, and return the last sequence id that the broker knows of its name, -1 if none.
        """
        producer.mark = self._marked()
        last = max(producer.last_sequence_ids().values(), default=-1)
        self.deduplicates = self.deduplicates or last >= 0
        return last

    def _marked(self) -> str:
        if self._mark is None:
            self._mark = mark_of(self.source if self.numbered_by_caller else source_of(self.claim))
        return self._mark

    def number(self, handles: Sequence[SendHandle]) -> None:
        """
        Give each its number, unless it has it from before.
        """
        number = self._next
        for handle in handles:
            if handle.sequence_id is None:
                handle.sequence_id = number
                number += 1
        self._next = number

    def idle(self, queue: SendQueue) -> float | None:
        """
        Nothing is on its way: what was final last leaves the outbox soon, and not with the next message.

        Returns:
            In how many seconds to come back, None if there is nothing to do: with each message it would cost a write.
        """
        if self._outbox is None or not self._unrecorded:
            return None
        if (left := self._record_at - now()) > 0:
            return left
        self.record(queue)
        return None if not self._unrecorded else _RECORD_SECONDS

    def open_journal(self) -> None:
        """
        Take the name in the journal, before the broker is asked for it: `ProducerNameInUse` tells who has it.
        """
        if self._journal is not None and self.claim is None:
            name = self._settings.producer_name or ""
            self.claim = self._journal.claim(
                name, self._settings.topic, owner=name_of_process(), lease_seconds=_LEASE_SECONDS
            )

    def _begin(self) -> None:
        """
        The first producer of this process is open, so an earlier one's messages are all there: find those it left.
        """
        claim = self.claim
        ends = self._client().last_message_ids(self._settings.topic, timeout_seconds=READ_SECONDS)
        if claim is not None and claim.fencing_token > 1:
            self._positions = begin_at(self._settings.topic, claim.positions, ends)
            if self.numbered_by_caller:
                self._look_for_numbers(claim.confirmed)
            else:
                self._resolve_rows()
                if self._outbox is not None:
                    # What it has from an earlier run waits in the queue, or comes there; what is found does not go.
                    self.found.numbers = self.search(range(1, _ALL_BEYOND)).run_on()
                    # Should this process die just behind the position below, the next one does not find it any more.
                    self._outbox.forget(self.found.numbers)
        if self._positions is None or not self.stored:
            self._positions = dict(ends)
        self._record(self.confirmed, self._positions)

    def _look_for_numbers(self, confirmed: int) -> None:
        found = self.search(range(confirmed + 1, _ALL_BEYOND)).run_on()
        while confirmed + 1 in found:
            confirmed += 1
        self.confirmed = confirmed
        self.stored = frozenset(number for number in found if number > confirmed)

    def _resolve_rows(self) -> None:
        """
        Settle what earlier runs kept as `MAYBE_STORED` under this name.
        """
        where = FailedMessageFilter(topic=self._settings.topic, certainty=Certainty.MAYBE_STORED)
        rows = {
            row.message.sequence_id: row.id
            for row in self._store.find(where)
            if row.producer_name == self._settings.producer_name
            and row.message.sequence_id is not None
            and row.id is not None
        }
        if not rows:
            return
        try:
            found = self.search(rows).run_on()
        except AuthorizationFailed:
            self._rows_unresolved = True  # they stay as they are
            return
        self._write({row: found.get(number) for number, row in rows.items()})

    # -- after it ----------------------------------------------------------------------------------------------

    def delivered(self, delivery: Delivery) -> None:
        """
        Everything up to the end of `delivery` is stored.
        """
        positions = self._positions
        self._unrecorded = True
        if self.numbered_by_caller:
            last = delivery.group[-1].sequence_id or 0
            if self.gap is not None and last > self.gap:
                return  # the next run finds it by reading from further back
            self.confirmed = max(self.confirmed, last)
        if positions is not None:
            for message_id in delivery.last_ids():
                positions[message_id.partition] = message_id

    def record(self, queue: SendQueue) -> None:
        """
        Have the journal know, now and then, where reading back may begin. Never raises.
        """
        if now() < self._record_at or not self._recording.acquire(blocking=False):
            return
        try:
            with queue.ledger.lock:
                confirmed, positions = self.confirmed, dict(self._positions or {})
                self._unrecorded = False
            if self._outbox is not None:
                # Before, and in the same file: what stands before a recorded position is never looked for again.
                self._outbox.settle()
            self._record(confirmed, positions)
        except StoreError as error:
            # Reading back begins further back then, and finds the same.
            self._unrecorded = True
            self._record_at = now() + _RECORD_SECONDS
            log.warning("safepulsar.position_not_recorded", extra={"topic": queue.topic, "error": str(error)})
        finally:
            self._recording.release()

    def _record(self, confirmed: int, positions: Mapping[int, MessageId | None]) -> None:
        self._record_at = now() + _RECORD_SECONDS
        claim = self.claim
        if claim is not None and not self._rows_unresolved and not self.stored:
            # Also of empty partitions, so that the next run knows how many there were.
            places = {partition: at or MessageId(-1, -1, partition) for partition, at in positions.items()}
            claim.record(confirmed=max(confirmed, claim.confirmed), positions=places)

    def resolve(self, queue: SendQueue, deliveries: Sequence[Delivery]) -> None:
        """
        Find out what is stored of what has no answer, and let `deliveries`, which are all finished, know.

        Goes on until it knows, or the sender closes. If it may not read the topic, everything stays `MAYBE_STORED`.
        """
        doubtful = {
            handle.sequence_id for each in deliveries for handle in each.doubtful() if handle.sequence_id is not None
        }
        if not doubtful:
            return
        log.warning("safepulsar.resolving", extra={"topic": queue.topic, "messages": len(doubtful)})
        found = self._find(queue, deliveries, doubtful)
        if found is None:
            self._rows_unresolved = True  # the next run looks for them, from where the journal stands now
        else:
            given_up = [handle for each in deliveries for handle in each.resolve(found)]
            if given_up:
                self._note(queue, given_up, found)
            log.info(
                "safepulsar.resolved",
                extra={"topic": queue.topic, "stored": len(found), "not_stored": len(doubtful) - len(found)},
            )

    def _find(
        self, queue: SendQueue, deliveries: Sequence[Delivery], doubtful: Collection[int]
    ) -> Mapping[int, MessageId] | None:
        search = self.search(doubtful)
        fenced = any(isinstance(error, ProducerFenced) for each in deliveries for _, error in each.failed)
        for producer in {id(each.producer): each.producer for each in deliveries}.values():
            queue.pool.abandon(producer)
        pause, until = _PAUSE_SECONDS, now() + _TAKEN_SECONDS
        while not queue.closing.is_open:
            try:
                if fenced:  # by somebody else: nothing more of ours can arrive, and the name is theirs
                    return search.run()
                with queue.pool.lease(queue.settings, timeout_seconds=_LONGEST_PAUSE_SECONDS) as producer:
                    last = self._meet(producer)
                    taken = {number for each in deliveries for number in each.pushed(last)} & set(doubtful)
                    found = search.run()
                    if taken <= found.keys() or now() > until:
                        self._adopted = producer
                        return found
                # What a broker that deduplicates has taken is in the topic in a moment, unless its disk failed.
                queue.closing.wait(pause)
            except CreationBackoff as error:
                queue.closing.wait(error.retry_after_seconds)
            except AuthorizationFailed:
                log.warning("safepulsar.may_not_read_back", extra={"topic": queue.topic})
                return None
            except SafePulsarError as error:
                code = error.code if isinstance(error, BrokerError) else type(error).__name__
                log.warning("safepulsar.not_resolved_yet", extra={"topic": queue.topic, "error_code": code})
                queue.closing.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
        return None

    def search(self, numbers: Collection[int]) -> Search:
        """
        A search for those of `numbers` that are stored. The producer that sent them is closed, or fenced.
        """
        settings, positions = self._settings, dict(self._positions or {})
        # Rows were sent without a mark where the input had no fingerprint yet, because its first row could not be read.
        marks = {self._marked(), ""} if self.numbered_by_caller else {self._marked()}
        return Search(self._client, settings.topic, settings.producer_name or "", positions, numbers, marks)

    # -- what was kept as MAYBE_STORED -----------------------------------------------------------------------

    def _note(self, queue: SendQueue, given_up: Sequence[SendHandle], found: Mapping[int, MessageId]) -> None:
        """
        Have the store know what became of messages that were given up before.

        Before the queue goes on, so that no replay sends what is stored.
        """
        queue.ledger.wait_until(
            lambda: all(handle._state == State.FINAL for handle in given_up) or queue.closing.is_open,
            now() + _KEEP_SECONDS,
        )
        rows = {handle._failed_id: found.get(handle.sequence_id or 0) for handle in given_up}
        try:
            self._write(rows)
        except StoreError as error:
            # They stay MAYBE_STORED, and what the journal says stays before them, so that the next run finds out.
            self._rows_unresolved = True
            log.warning("safepulsar.resolution_not_noted", extra={"topic": queue.topic, "error": str(error)})

    def _write(self, rows: Mapping[int | None, MessageId | None]) -> None:
        missing: list[int] = []
        for row, message_id in rows.items():
            if row is not None and message_id is not None:
                self.found.rows[row] = message_id
                self._store.confirm(row, message_id)
            elif row is not None:
                missing.append(row)
        self._store.refute(missing)

    def close(self) -> None:
        """
        Let go of the name in the journal.
        """
        claim = self.claim
        if claim is None:
            return
        try:
            if self._outbox is not None:
                self._outbox.settle()
            if self._positions is not None:
                self._record(self.confirmed, self._positions)
            claim.release()
        except StoreError as error:  # the next run reads back from further on, and sees that this process is gone
            log.warning("safepulsar.position_not_recorded", extra={"topic": self._settings.topic, "error": str(error)})
