"""
The store on disk: what `keep` returned survives kill -9 and a power cut, and several processes may share it.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from safepulsar.errors import StoreCorrupted
from safepulsar.failed_messages import claims, codec, deliveries, many, rows
from safepulsar.failed_messages.filter import EVERYTHING, FailedMessageState
from safepulsar.failed_messages.group_commit import GroupCommit
from safepulsar.failed_messages.status import FailedMessageStatus, StoreStats, absence
from safepulsar.failed_messages.store_file import StoreFile
from safepulsar.failed_messages.stored_payload import StoredPayloads
from safepulsar.failed_messages.transitions import (
    CLAIM_MAX_BYTES,
    check_claim,
    check_lease,
    check_owner,
    failed_again,
    is_live,
    left_behind,
)
from safepulsar.message import Certainty

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from safepulsar.failed_messages.database import Transaction
    from safepulsar.failed_messages.encryption import PayloadEncryption
    from safepulsar.failed_messages.filter import FailedMessageFilter
    from safepulsar.failed_messages.group_commit import Batch
    from safepulsar.failed_messages.transitions import FailedAgain
    from safepulsar.integrity import Seal
    from safepulsar.message import FailedMessage, MessageId

log = logging.getLogger("safepulsar")

# What one look at the file reads at most, so that neither memory nor the others' waiting grows with the store.
_PAGE_ROWS = 500
_PAGE_BYTES = 8 * 1024 * 1024
_PURGE_ROWS = 1_000


class SqliteFailedMessages(StoreFile):
    """
    A `FailedMessageStore` in one file, which holds payloads: it and its folder belong to this user alone.

    One write to disk takes some milliseconds, so messages are kept many at a time: 10,000 in one call, or those
    of many threads together, cost little more than one.

    Args:
        path: of the file; made with its folders where they are missing. A relative one counts from the folder
            that is current now. On a local disk: SQLite's locks don't work on network drives.
        busy_timeout_seconds: how long to wait while another process writes; then `StoreUnavailable`.
        max_bytes: keep nothing more when so much is in use, `StoreFull` then; SQLite's log beside the file may take
            as much again for a while. None leaves it to the disk.
        encryption: encrypts payloads, see `safepulsar.failed_messages.encryption`; None writes them as they are.
        seal: sealed messages are checked when they are read, and one whose seal is broken counts as corrupted.
        clock: Unix time in seconds; shared by all processes that use the file.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        busy_timeout_seconds: float = 5.0,
        max_bytes: int | None = None,
        encryption: PayloadEncryption | None = None,
        seal: Seal | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(
            path,
            busy_timeout_seconds=busy_timeout_seconds,
            max_bytes=max_bytes,
            payloads=StoredPayloads(encryption, seal),
            clock=clock,
        )
        self._group_commit: GroupCommit[codec.Encoded] = GroupCommit(self._write)
        self._last = 0  # the last id given, if no other process has given one; changed by one thread at a time
        self._corrupted: set[int] = set()  # added to under no lock: single set operations are atomic

    @property
    def journal_store(self) -> SqliteFailedMessages:
        """
        Where a sender with this store keeps what it knows about its producer names: here.
        """
        return self

    def after_fork(self) -> None:
        """
        See `FailedMessageStore.after_fork`: the child goes on with the same file, opened anew.
        """
        self.database.after_fork()
        self._group_commit.after_fork()

    def keep(self, messages: Sequence[FailedMessage]) -> list[int]:
        """
        See `FailedMessageStore.keep`.
        """
        # Encoded by each caller for itself: what cannot be stored must not spoil the others' transaction.
        encoded = [codec.encode(message) for message in messages]
        return self._group_commit.commit(encoded) if encoded else []

    def get(self, failed_message_id: int) -> FailedMessage:
        """
        See `FailedMessageStore.get`.
        """
        now = self.clock()
        parameters = rows.parameters(EVERYTHING, now, after=failed_message_id - 1, page=1)
        with self.database.reading() as connection:
            found = connection.execute(rows.SELECT_PAGE, parameters).fetchone()
            if found is None or found[1] != failed_message_id:
                raise absence(failed_message_id, deliveries.fate(connection, failed_message_id))
        return self._decode(found, now)

    def status(self, failed_message_id: int) -> FailedMessageStatus:
        """
        See `FailedMessageStore.status`.
        """
        now = self.clock()
        with self.database.reading() as connection:
            found = connection.execute(rows.STANDING, (failed_message_id,)).fetchone()
            if found is None:
                fate = deliveries.fate(connection, failed_message_id)
                if fate is None:
                    raise absence(failed_message_id, None)
                return fate
        topic, owner, lease_ends_at = found
        claimed = owner is not None and is_live(lease_ends_at, now)
        return FailedMessageStatus(
            id=failed_message_id,
            topic=topic.decode(errors="replace"),
            state=FailedMessageState.CLAIMED if claimed else FailedMessageState.KEPT,
            owner=owner.decode(errors="replace") if claimed else None,
            lease_ends_at=lease_ends_at if claimed else None,
        )

    def find(
        self, where: FailedMessageFilter = EVERYTHING, *, limit: int | None = None, after: int = 0
    ) -> Iterator[FailedMessage]:
        """
        See `FailedMessageStore.find`.
        """
        return self._find(where.needs_a_payload(), limit, after)

    def _find(self, where: FailedMessageFilter, limit: int | None, after: int) -> Iterator[FailedMessage]:
        left = limit
        while left is None or left > 0:
            now = self.clock()
            page = self._read_page(rows.parameters(where, now, after=after, page=_PAGE_ROWS))
            if not page:
                return
            for row in page:
                after = cast("int", row[1])
                try:
                    message = self._decode(row, now)
                except StoreCorrupted:
                    continue  # it is reported by now
                yield message
                if left is not None:
                    left -= 1
                    if left == 0:
                        return

    def _read_page(self, parameters: dict[str, object]) -> list[codec.Row]:
        page: list[codec.Row] = []
        size = 0
        with self.database.reading() as connection:
            cursor = connection.execute(rows.SELECT_PAGE, parameters)
            for row in cursor:
                page.append(row)
                size += len(row[-1] or b"")
                if size > _PAGE_BYTES:
                    break
            cursor.close()
        return page

    def count(self, where: FailedMessageFilter = EVERYTHING) -> int:
        """
        See `FailedMessageStore.count`.
        """
        return self._count(deliveries.COUNT if where.state is FailedMessageState.DELIVERED else rows.COUNT, where)

    def _count(self, statement: str, where: FailedMessageFilter) -> int:
        with self.database.reading() as connection:
            return int(connection.execute(statement, rows.parameters(where, self.clock())).fetchone()[0])

    def stopped_lanes(self, topic: str) -> dict[str, int]:
        """
        See `FailedMessageStore.stopped_lanes`.
        """
        with self.database.reading() as connection:
            found = connection.execute(rows.STOPPED_LANES, (topic,)).fetchall()
        return {key.decode(errors="replace"): number for key, number in found}

    def stats(self) -> StoreStats:
        """
        See `FailedMessageStore.stats`; `bytes` are those in use in the file, without its free space and its log.
        """
        now = self.clock()
        with self.database.reading() as connection:
            messages = connection.execute("SELECT count(*) FROM failed_messages").fetchone()[0]
            delivered = connection.execute("SELECT count(*) FROM deliveries").fetchone()[0]
            ends = connection.execute("SELECT lease_ends_at FROM claims").fetchall()
            first = connection.execute("SELECT first_failed_at FROM failed_messages ORDER BY id LIMIT 1").fetchone()
            used = rows.bytes_in_use(connection)
        claimed = sum(is_live(lease_ends_at, now) for (lease_ends_at,) in ends)
        return StoreStats(
            kept=messages - claimed,
            claimed=claimed,
            delivered=delivered,
            corrupted=len(self._corrupted),
            oldest_age_seconds=0.0 if first is None else max(0.0, now - first[0]),
            bytes=used,
        )

    def corrupted_ids(self) -> tuple[int, ...]:
        """
        See `FailedMessageStore.corrupted_ids`.
        """
        return tuple(sorted(self._corrupted.copy()))

    def claim(
        self,
        owner: str,
        where: FailedMessageFilter = EVERYTHING,
        *,
        limit: int,
        lease_seconds: float,
        max_bytes: int = CLAIM_MAX_BYTES,
    ) -> list[FailedMessage]:
        """
        See `FailedMessageStore.claim`.
        """
        check_claim(owner, limit, lease_seconds, max_bytes)
        where.needs_a_payload()
        with self.database.writing() as connection:
            now = self.clock()  # read under the write lock: waiting for it must not shorten the lease
            return claims.claim(
                connection,
                owner,
                where,
                limit=limit,
                max_bytes=max_bytes,
                lease_ends_at=now + lease_seconds,
                now=now,
                report=self._report,
                reveal=self.payloads.reveal,
            )

    def extend(self, owner: str, ids: Iterable[int], lease_seconds: float) -> list[int]:
        """
        See `FailedMessageStore.extend`.
        """
        check_owner(owner)
        check_lease(lease_seconds)
        with self.database.writing() as connection:
            now = self.clock()
            return claims.extend(connection, owner, ids, lease_ends_at=now + lease_seconds, now=now)

    def delivered(self, owner: str, message_ids: Mapping[int, MessageId]) -> list[int]:
        """
        See `FailedMessageStore.delivered`.
        """
        check_owner(owner)
        with self.database.writing() as connection:
            now = self.clock()
            mine = claims.held(connection, owner, message_ids)
            deliveries.record_all(connection, {number: message_ids[number] for number in mine}, owner=owner, now=now)
        return mine

    def confirm(self, failed_message_id: int, message_id: MessageId) -> bool:
        """
        See `FailedMessageStore.confirm`.
        """
        with self.database.writing() as connection:
            return deliveries.record(connection, failed_message_id, message_id, owner=None, now=self.clock())

    def refute(self, ids: Iterable[int]) -> None:
        """
        See `FailedMessageStore.refute`.
        """
        with self.database.writing() as connection:
            for number in ids:
                row = connection.execute(rows.SELECT_ROW, (number,)).fetchone()
                with suppress(codec.RowDamaged):  # it is found and reported by whoever wants it
                    if row is not None:
                        rows.update(connection, replace(codec.decode(row), certainty=Certainty.NOT_STORED))

    def failed_again(self, owner: str, failures: Sequence[FailedAgain]) -> list[int]:
        """
        See `FailedMessageStore.failed_again`. A row that was damaged since the claim is given back and reported.
        """
        check_owner(owner)
        by_id = {failure.id: failure for failure in failures}
        with self.database.writing() as connection:
            now = self.clock()
            mine = claims.held(connection, owner, by_id)
            for number in mine:
                row = connection.execute(rows.SELECT_ROW, (number,)).fetchone()
                try:
                    rows.update(connection, failed_again(codec.decode(row), by_id[number], now))
                except codec.RowDamaged:
                    self._report(number)
            claims.give_back(connection, mine)
        return mine

    def release(self, owner: str, ids: Iterable[int] | None = None) -> list[int]:
        """
        See `FailedMessageStore.release`.
        """
        check_owner(owner)
        with self.database.writing() as connection:
            mine = claims.held(connection, owner, ids)
            claims.give_back(connection, mine)
        return mine

    def purge(self, where: FailedMessageFilter, *, dry_run: bool = False) -> int:
        """
        See `FailedMessageStore.purge`; in many small transactions, so that others are not held up.
        """
        delivered = where.state is FailedMessageState.DELIVERED
        if dry_run:
            return self._count(deliveries.COUNT if delivered else rows.COUNT_PURGEABLE, where)
        after = purged = 0
        while True:
            with self.database.writing() as connection:
                parameters = rows.parameters(where, self.clock(), after=after, page=_PURGE_ROWS)
                statement = deliveries.SELECT if delivered else rows.SELECT_PURGEABLE
                ids = [number for (number,) in connection.execute(statement, parameters)]
                (deliveries.forget if delivered else rows.delete)(connection, ids)
            if not ids:
                return purged
            if not delivered:
                self._corrupted.difference_update(ids)
            after, purged = ids[-1], purged + len(ids)

    def _write(self, group: Sequence[Batch[codec.Encoded]], transaction: Transaction) -> None:
        messages = [message for batch in group for message in batch.items]
        last = self._last
        if len(messages) <= many.AT_ONCE and self.max_bytes is None:
            _number(group, last)
            if rows.insert_if_last(self.database, rows.values(messages, last, self.payloads), last, transaction):
                self._last = last + len(messages)
                return
            # Another process has kept something.
        with self.database.writing(transaction) as connection:
            self.check_room(connection, sum(len(payload or b"") for _, payload, _ in messages))
            last = rows.last_id(connection)
            rows.insert(connection, rows.values(messages, last, self.payloads))
            _number(group, last)
        self._last = last + len(messages)

    def _decode(self, row: codec.Row, now: float) -> FailedMessage:
        lease_ends_at, *stored = row
        try:
            message = self.payloads.reveal(codec.decode(tuple(stored)))
        except codec.RowDamaged:
            number = int(stored[0] or 0)
            self._report(number)
            raise StoreCorrupted(
                f"failed message {number} in {str(self._path)!r} fails its checksum and cannot be trusted; the others are "
                f"unharmed. Restore a backup, or purge it by its id so that its lane can go on"
            ) from None
        if isinstance(lease_ends_at, float) and not is_live(lease_ends_at, now):
            return left_behind(message)
        return message

    def _report(self, failed_message_id: int) -> None:
        if failed_message_id not in self._corrupted:
            self._corrupted.add(failed_message_id)
            fields = {"failed_message_id": failed_message_id, "path": str(self._path)}
            log.error("safepulsar.failed_message_corrupted", extra=fields)


def _number(group: Sequence[Batch[codec.Encoded]], last: int) -> None:
    for batch in group:
        batch.ids = list(range(last + 1, last + 1 + len(batch.items)))
        last += len(batch.ids)
