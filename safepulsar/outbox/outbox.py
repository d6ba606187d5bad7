"""
The outbox: what `put` returned is on disk, has its place in the order, and stays until its fate is final.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from safepulsar.errors import ProducerNameInUse, StoreCorrupted, StoreOfAnotherProducer
from safepulsar.exactly_once.producer_facts import OUTBOX
from safepulsar.exactly_once.producer_journal import JournalClaim
from safepulsar.failed_messages import codec, many
from safepulsar.failed_messages import rows as failed_rows
from safepulsar.failed_messages.group_commit import GroupCommit
from safepulsar.outbox import rows
from safepulsar.outbox.claim import OutboxClaim
from safepulsar.outbox.row import OutboxRow, OutboxStats
from safepulsar.settings.base import check_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from safepulsar.failed_messages import SqliteFailedMessages
    from safepulsar.failed_messages.database import Transaction
    from safepulsar.failed_messages.group_commit import Batch
    from safepulsar.message import FailedMessage, Message
    from safepulsar.outbox.rows import Encoded

log = logging.getLogger("safepulsar")


class _Put:
    """
    One call of `put`: all of its messages are written or none.
    """

    __slots__ = ("messages", "names")

    def __init__(self, messages: Sequence[Encoded]) -> None:
        self.messages = messages
        self.names = {(encoded.producer_name, encoded.message.topic) for encoded in messages}


class Outbox:
    """
    Accepted messages in the file of a store, each with its sequence id. Thread-safe; processes share it.

    Any process may put. One at a time sends what was put: the one that holds the `claim`. Rows have one order over all
    processes, that of their ids, which are their sequence ids too: whoever sends them in this order never sends an id
    below one that the broker has.

    Args:
        store: open whenever the outbox is used.
        producer_name: says under which name a message must be sent. The same message must always get the same name,
            also after a restart, and a name belongs to one topic.
        clock: counts seconds; how long the claim surely holds.
    """

    def __init__(
        self,
        store: SqliteFailedMessages,
        *,
        producer_name: Callable[[Message], str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._producer_name = producer_name
        self._clock = clock
        self._group_commit: GroupCommit[_Put] = GroupCommit(self._write)
        self._claim: OutboxClaim | None = None  # set and read in turns of _group_commit
        # The producer names, with their topics, whose messages the outbox surely numbers; changed in turns.
        self._entered: set[tuple[str, str]] = set()
        self._last = 0  # the highest id that was ever given, if no other process has given one; changed in turns
        self._believed = 0  # see rows.last_id; changed in turns
        self._corrupted: set[int] = set()  # added to under no lock: single set operations are atomic

    def __repr__(self) -> str:
        return f"<Outbox in {self._store!r}>"

    def put(
        self, messages: Sequence[Message], on_committed: Callable[[Sequence[OutboxRow], bool], None] | None = None
    ) -> list[int]:
        """
        Write all of them or none, safely when it returns; several threads share one write.

        Args:
            messages: as accepted, without sequence ids.
            on_committed: called once they are safe and before any `put` of the group returns, one call at a time and in
                the order of the ids, in whichever thread wrote. Its first argument are the rows. Its second says
                whether they are the next ones to send in this process: True if this outbox has the claim and everything
                before them was handed out. If it is False, `take` will hand them out when it is their turn. It must
                be quick, and call nothing of this outbox. If it raises, the rows are handed out by `take`.

        Returns:
            The ids of the rows, rising in the order given.

        Raises:
            InvalidMessage: a field that could not be stored unchanged, or a sequence id; nothing is written.
            StoreOfAnotherProducer: a producer name belongs to another topic here; nothing is written.
            StoreError: the store failed; nothing is written.
        """
        if not messages:
            return []
        now = self._store.clock()
        # By each caller for itself: what cannot be stored must not spoil the others' transaction.
        put = _Put([rows.encode(message, self._name(message), now) for message in messages])

        def tell(batch: Batch[_Put]) -> None:
            assert on_committed is not None  # noqa: S101 - or this is not called
            claim = self._claim
            is_next = claim is not None and claim.is_next(batch.ids[0])
            handed_out = [
                OutboxRow(number, encoded.producer_name, encoded.accepted_at, encoded.message)
                for number, encoded in zip(batch.ids, put.messages, strict=True)
            ]
            try:
                on_committed(handed_out, is_next)
            except Exception:  # it may be another thread's: this one's put has succeeded
                log.exception("safepulsar.outbox_callback_failed")
                return
            if claim is not None and is_next:
                claim.handed_out(batch.ids[-1])

        return self._group_commit.commit([put], tell if on_committed else None)

    def remove(self, ids: Iterable[int]) -> None:
        """
        These are final: delivered, or known as duplicates. Those that are not there do no harm.

        It does not wait for the disk. A power cut may bring a row back, never a kill: it is then handed out again, under
        the same producer name and sequence id, and the broker knows it.

        Raises:
            StoreError: the store failed; they stay.
        """
        numbers = list(ids)
        if numbers:
            with self._store.database.writing(lazily=True) as connection:
                rows.delete(connection, numbers)
            self._corrupted.difference_update(numbers)

    def fail(self, failed: Mapping[int, FailedMessage]) -> dict[int, int]:
        """
        Move rows to the failed messages, all of them or none, safely when it returns.

        Args:
            failed: by the id of the row, what to keep in its place. Its message carries the sequence id of the row, and
                it names the producer, so that a replay sends it under the same.

        Returns:
            By the id of the row, the id of the failed message. A row that is not there any more was settled before: it is
            left out, and nothing was kept for it.

        Raises:
            InvalidMessage: a field that could not be stored unchanged; nothing is moved.
            ProducerNameInUse: this outbox has no claim, or another process took it over.
            StoreError: the store failed; nothing is moved.
        """
        claim = self._held_claim()
        encoded = {number: codec.encode(message) for number, message in failed.items()}
        with self._store.database.writing() as connection:
            claim.journal.held(connection)
            there = rows.there(connection, encoded)
            if not there:
                return {}
            last = failed_rows.last_id(connection)
            messages = [encoded[number] for number in there]
            failed_rows.insert(connection, failed_rows.values(messages, last, self._store.payloads))
            rows.delete(connection, there)
        return dict(zip(there, range(last + 1, last + 1 + len(there)), strict=True))

    def claim(self, owner: str, *, lease_seconds: float) -> OutboxClaim:
        """
        Become the one that sends. Everything that was put and is not final is handed out anew, oldest first, by `take`.

        What another one sent before it died may be among it: find out what is stored before anything else is sent. The
        claim of another process is free when that is gone, where the system can tell; else when its lease ends.

        Raises:
            ProducerNameInUse: another one sends; the text says who, and until when.
            InvalidInput: the owner or the lease is none.
            StoreError: the store failed.
        """
        with self._group_commit.turn():
            journal = JournalClaim(self._store, OUTBOX, "", owner=owner, lease_seconds=lease_seconds)
            self._claim = OutboxClaim(
                self._store,
                journal,
                turn=self._group_commit.turn,
                report=self._report,
                clock=self._clock,
                lease_seconds=lease_seconds,
            )
            return self._claim

    def stats(self) -> OutboxStats:
        """
        The outbox in numbers. It looks at every row that waits.

        Raises:
            StoreError: the store failed.
        """
        with self._store.database.reading() as connection:
            waiting, size, first = rows.stats(connection)
        return OutboxStats(
            waiting=waiting,
            oldest_age_seconds=0.0 if first is None else max(0.0, self._store.clock() - first),
            bytes=size,
            corrupted=len(self._corrupted),
        )

    def corrupted_ids(self) -> tuple[int, ...]:
        """
        The rows that this object found damaged. They are never handed out; `remove` them once they are given up.
        """
        return tuple(sorted(self._corrupted.copy()))

    def _name(self, message: Message) -> str:
        name = self._producer_name(message)
        if (name, message.topic) not in self._entered:
            check_text("Outbox", "producer_name", name, optional=False)
        return name

    def _held_claim(self) -> OutboxClaim:
        if self._claim is None:
            raise ProducerNameInUse("only the one that sends may settle what is in the outbox; claim() it first")
        return self._claim

    def _write(self, group: Sequence[Batch[_Put]], transaction: Transaction) -> None:
        messages = [encoded for batch in group for encoded in batch.items[0].messages]
        plain = len(messages) <= many.AT_ONCE and self._store.max_bytes is None
        if plain and all(batch.items[0].names <= self._entered for batch in group):
            last = self._last
            _number(group, last)
            written = rows.values(messages, last, self._store.payloads)
            if rows.insert_if_last(self._store.database, written, last, transaction):
                self._last = last + len(messages)
                return
            # Another process has put something, or the last ones were removed.
        self._write_step_by_step(group, transaction)

    def _write_step_by_step(self, group: Sequence[Batch[_Put]], transaction: Transaction) -> None:
        entered: set[tuple[str, str]] = set()
        with self._store.database.writing(transaction) as connection:
            last, self._believed = rows.last_id(connection, self._believed)
            if last < self._last:
                self._entered = set()  # another file has taken the place of the one that knew them
            for batch in group:
                try:
                    for name_and_topic in batch.items[0].names - self._entered - entered:
                        rows.enter(connection, *name_and_topic)
                        entered.add(name_and_topic)
                except (StoreOfAnotherProducer, StoreCorrupted) as error:
                    batch.error = error
            messages = [encoded for batch in group if batch.error is None for encoded in batch.items[0].messages]
            self._store.check_room(connection, sum(len(encoded.message.payload or b"") for encoded in messages))
            if entered:
                last, self._believed = rows.last_id(connection, self._believed)  # their names may have been used before
            if messages:
                rows.insert(connection, rows.values(messages, last, self._store.payloads))
                _number(group, last)
        self._last = last + len(messages)
        self._entered |= entered

    def _report(self, number: int) -> None:
        if number not in self._corrupted:
            self._corrupted.add(number)
            log.error("safepulsar.outbox_row_corrupted", extra={"outbox_id": number})


def _number(group: Sequence[Batch[_Put]], last: int) -> None:
    """
    Give the ids behind `last` to those that are written.
    """
    for batch in group:
        if batch.error is None:
            batch.ids = list(range(last + 1, last + 1 + len(batch.items[0].messages)))
            last += len(batch.ids)
