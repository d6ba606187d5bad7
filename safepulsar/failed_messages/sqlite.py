"""
The store on disk: what `keep` returned survives kill -9 and a power cut, and several processes may share it.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, cast

from safepulsar.errors import InvalidSettings, StoreCorrupted, StoreFull
from safepulsar.failed_messages import claims, codec, deliveries, files, rows
from safepulsar.failed_messages.database import Database
from safepulsar.failed_messages.filter import EVERYTHING, FailedMessageState
from safepulsar.failed_messages.group_commit import GroupCommit
from safepulsar.failed_messages.status import FailedMessageStatus, StoreStats, absence
from safepulsar.failed_messages.transitions import (
    CLAIM_MAX_BYTES,
    check_claim,
    check_lease,
    check_owner,
    failed_again,
    is_live,
    left_behind,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from typing_extensions import Self

    from safepulsar.failed_messages.database import Transaction
    from safepulsar.failed_messages.filter import FailedMessageFilter
    from safepulsar.failed_messages.group_commit import Batch
    from safepulsar.failed_messages.transitions import FailedAgain
    from safepulsar.message import FailedMessage, MessageId

log = logging.getLogger("safepulsar")

# What one look at the file reads at most, so that neither memory nor the others' waiting grows with the store.
_PAGE_ROWS = 500
_PAGE_BYTES = 8 * 1024 * 1024
_PURGE_ROWS = 1_000
_SMALLEST_BYTES = 64 * 1024
_LONGEST_SECONDS = 3600.0


class SqliteFailedMessages:
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
        clock: Unix time in seconds; shared by all processes that use the file.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        busy_timeout_seconds: float = 5.0,
        max_bytes: int | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._path = files.checked_path(path)
        if not _is_number(busy_timeout_seconds) or not 0 <= busy_timeout_seconds <= _LONGEST_SECONDS:
            msg = f"must be a number of seconds from 0 to {_LONGEST_SECONDS:g}, not {busy_timeout_seconds!r:.80}"
            raise InvalidSettings("busy_timeout_seconds", msg)
        if max_bytes is not None and (type(max_bytes) is not int or max_bytes < _SMALLEST_BYTES):
            msg = f"must be a whole number of at least {_SMALLEST_BYTES}, or None, not {max_bytes!r:.80}"
            raise InvalidSettings("max_bytes", msg)
        self._max_bytes = max_bytes
        self._clock = clock
        self._database = Database(self._path, busy_timeout_seconds=busy_timeout_seconds)
        self._group_commit: GroupCommit[codec.Encoded] = GroupCommit(self._write)
        self._corrupted: set[int] = set()  # added to under no lock: single set operations are atomic

    def __repr__(self) -> str:
        state = "open" if self._database.is_open else "closed"
        return f"<SqliteFailedMessages {str(self._path)!r} {state}>"

    def open(self) -> Self:
        """
        See `FailedMessageStore.open`; makes the file, checks who may reach it, and that it can be written.

        Raises:
            StoreInsecure: others could read or replace it.
            StoreTooNew: a later version wrote it.
            StoreUnavailable: it cannot be made or written, or is not a store.
            StoreFull: there is no space even for an empty one.
            StoreCorrupted: its structure is damaged.
        """
        self._database.open()
        return self

    def close(self) -> None:
        """
        See `FailedMessageStore.close`.
        """
        self._database.close()

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(self, *exc: object) -> None:
        self.close()

    def after_fork(self) -> None:
        """
        See `FailedMessageStore.after_fork`: the child goes on with the same file, opened anew.
        """
        self._database.after_fork()
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
        now = self._clock()
        parameters = rows.parameters(EVERYTHING, now, after=failed_message_id - 1, page=1)
        with self._database.reading() as connection:
            found = connection.execute(rows.SELECT_PAGE, parameters).fetchone()
            if found is None or found[1] != failed_message_id:
                raise absence(failed_message_id, deliveries.fate(connection, failed_message_id))
        return self._decode(found, now)

    def status(self, failed_message_id: int) -> FailedMessageStatus:
        """
        See `FailedMessageStore.status`.
        """
        now = self._clock()
        with self._database.reading() as connection:
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
            now = self._clock()
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
        with self._database.reading() as connection:
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
        with self._database.reading() as connection:
            return int(connection.execute(statement, rows.parameters(where, self._clock())).fetchone()[0])

    def stats(self) -> StoreStats:
        """
        See `FailedMessageStore.stats`; `bytes` are those in use in the file, without its free space and its log.
        """
        now = self._clock()
        with self._database.reading() as connection:
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
        with self._database.writing() as connection:
            now = self._clock()  # read under the write lock: waiting for it must not shorten the lease
            return claims.claim(
                connection,
                owner,
                where,
                limit=limit,
                max_bytes=max_bytes,
                lease_ends_at=now + lease_seconds,
                now=now,
                report=self._report,
            )

    def extend(self, owner: str, ids: Iterable[int], lease_seconds: float) -> list[int]:
        """
        See `FailedMessageStore.extend`.
        """
        check_owner(owner)
        check_lease(lease_seconds)
        with self._database.writing() as connection:
            now = self._clock()
            return claims.extend(connection, owner, ids, lease_ends_at=now + lease_seconds, now=now)

    def delivered(self, owner: str, message_ids: Mapping[int, MessageId]) -> list[int]:
        """
        See `FailedMessageStore.delivered`.
        """
        check_owner(owner)
        with self._database.writing() as connection:
            now = self._clock()
            mine = claims.held(connection, owner, message_ids)
            for number in mine:
                deliveries.record(connection, number, message_ids[number], owner=owner, now=now)
        return mine

    def confirm(self, failed_message_id: int, message_id: MessageId) -> bool:
        """
        See `FailedMessageStore.confirm`.
        """
        with self._database.writing() as connection:
            return deliveries.record(connection, failed_message_id, message_id, owner=None, now=self._clock())

    def failed_again(self, owner: str, failures: Sequence[FailedAgain]) -> list[int]:
        """
        See `FailedMessageStore.failed_again`. A row that was damaged since the claim is given back and reported.
        """
        check_owner(owner)
        by_id = {failure.id: failure for failure in failures}
        with self._database.writing() as connection:
            now = self._clock()
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
        with self._database.writing() as connection:
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
            with self._database.writing() as connection:
                parameters = rows.parameters(where, self._clock(), after=after, page=_PURGE_ROWS)
                statement = deliveries.SELECT if delivered else rows.SELECT_PURGEABLE
                ids = [number for (number,) in connection.execute(statement, parameters)]
                (deliveries.forget if delivered else rows.delete)(connection, ids)
            if not ids:
                return purged
            if not delivered:
                self._corrupted.difference_update(ids)
            after, purged = ids[-1], purged + len(ids)

    def _write(self, group: Sequence[Batch[codec.Encoded]], transaction: Transaction) -> None:
        with self._database.writing(transaction) as connection:
            if self._max_bytes is not None:
                size = sum(len(payload or b"") for batch in group for _, payload, _ in batch.items)
                if rows.bytes_in_use(connection) + size > self._max_bytes:
                    raise StoreFull(
                        f"the store {str(self._path)!r} has reached max_bytes={self._max_bytes}: replay or purge what it "
                        "holds, or allow more; what was kept before is safe"
                    )
            for batch in group:
                batch.ids = rows.insert(connection, batch.items)

    def _decode(self, row: codec.Row, now: float) -> FailedMessage:
        lease_ends_at, *stored = row
        try:
            message = codec.decode(tuple(stored))
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


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
