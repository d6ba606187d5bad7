"""
The hold of the one that sends: every row of the outbox is handed out to it once, in order.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from safepulsar.errors import InvalidInput
from safepulsar.failed_messages.codec import RowDamaged
from safepulsar.failed_messages.transitions import CLAIM_MAX_BYTES, MAX_CLAIM
from safepulsar.outbox import rows

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from safepulsar.exactly_once.producer_journal import JournalClaim
    from safepulsar.failed_messages import SqliteFailedMessages
    from safepulsar.outbox.row import OutboxRow


class OutboxClaim:
    """
    What `Outbox.claim` gives. Thread-safe.

    Send nothing more once a call raises `ProducerNameInUse`. `take` renews the lease when half of it is over; call it at
    least so often, or `extend`. After a fork it belongs to the parent alone, and raises `ForkedProcess` in the child.

    Args:
        store: of the outbox.
        journal: the claim on disk.
        turn: within it nobody puts.
        report: told of damaged rows.
        clock: counts seconds.
        lease_seconds: from now on.
    """

    def __init__(
        self,
        store: SqliteFailedMessages,
        journal: JournalClaim,
        *,
        turn: Callable[[], AbstractContextManager[None]],
        report: Callable[[int], None],
        clock: Callable[[], float],
        lease_seconds: float,
    ) -> None:
        self.fencing_token = journal.fencing_token
        self.journal = journal
        self._store = store
        self._turn = turn
        self._report = report
        self._clock = clock
        self._lease_seconds = lease_seconds
        self._safe_until = clock() + lease_seconds  # nobody else can have the claim before
        self._pid = os.getpid()
        self._handed_out = 0  # every row up to here was; changed within turns only

    def __repr__(self) -> str:
        return f"<OutboxClaim, fencing token {self.fencing_token}>"

    def take(self, limit: int = 1000, *, max_bytes: int = CLAIM_MAX_BYTES) -> list[OutboxRow]:
        """
        The next rows that were not handed out, in their order; empty if there are none now.

        Damaged rows are left out, logged and listed by `Outbox.corrupted_ids()`.

        Args:
            limit: at most so many.
            max_bytes: of payload; the first row is handed out whatever its size.

        Raises:
            ProducerNameInUse: another process took the claim over, or it was released.
            StoreError: the store failed; nothing was handed out.
        """
        if type(limit) is not int or not 1 <= limit <= MAX_CLAIM:
            raise InvalidInput("limit", f"must be a whole number from 1 to {MAX_CLAIM}, not {limit!r:.80}")
        if type(max_bytes) is not int or max_bytes < 1:
            raise InvalidInput("max_bytes", f"must be a whole number of at least 1, not {max_bytes!r:.80}")
        if self._clock() >= self._safe_until - self._lease_seconds / 2:
            self.extend(self._lease_seconds)
        with self._turn():
            with self._store.database.reading() as connection:
                self.journal.held(connection)
                newest, _ = rows.last_id(connection)  # first: what comes after it is read, or next time
                page, all_of_them = rows.read(connection, self._handed_out, limit=limit, max_bytes=max_bytes)
            taken = []
            handed_out = self._handed_out
            for row in page:
                handed_out = int(row[0] or 0)
                try:
                    taken.append(rows.decode(row, self._store.payloads))
                except RowDamaged:
                    self._report(handed_out)
            self._handed_out = max(handed_out, newest) if all_of_them else handed_out
        return taken if taken or all_of_them else self.take(limit, max_bytes=max_bytes)

    def is_next(self, first: int) -> bool:
        """
        Whether everything before this row was handed out, and nobody else can have the claim. Within a turn.
        """
        return self._handed_out == first - 1 and self._clock() < self._safe_until and self._pid == os.getpid()

    def handed_out(self, last: int) -> None:
        """
        So were all rows up to this one. Within a turn.
        """
        self._handed_out = last

    def extend(self, lease_seconds: float) -> None:
        """
        Renew the lease from now on.

        Raises:
            ProducerNameInUse: another process took the claim over, or it was released.
            StoreError: the store failed.
        """
        asked = self._clock()  # before the write, which may have to wait
        self.journal.extend(lease_seconds)
        self._lease_seconds = lease_seconds
        self._safe_until = asked + lease_seconds

    def release(self) -> None:
        """
        Let another one send. Idempotent; what is not final is handed out to it.

        Raises:
            StoreError: the store failed.
        """
        self._safe_until = 0.0
        self.journal.release()
