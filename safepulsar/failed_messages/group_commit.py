"""
Many threads, one write: whoever comes first writes for all who wait, so that they share one fsync.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Generic, TypeVar

from safepulsar.errors import StoreError, StoreFull
from safepulsar.failed_messages.database import Transaction

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Item = TypeVar("Item")


class Batch(Generic[Item]):
    """
    What one caller wants written, and what became of it.
    """

    __slots__ = ("error", "ids", "items", "transaction")

    def __init__(self, items: Sequence[Item]) -> None:
        self.items = items
        self.ids: list[int] = []
        self.transaction: Transaction | None = None
        self.error: StoreError | None = None

    @property
    def settled(self) -> bool:
        """
        Whether its fate is known.
        """
        return self.error is not None or (self.transaction is not None and self.transaction.committed)


class GroupCommit(Generic[Item]):
    """
    Writes batches in the order in which they came, as many as there are in one transaction. Thread-safe.

    No thread of its own: one that waits alone writes at once, and while it does the next ones gather.

    Args:
        write: writes all batches in the transaction and sets their ids, or raises and has written nothing.
    """

    def __init__(self, write: Callable[[Sequence[Batch[Item]], Transaction], None]) -> None:
        self._write = write
        self.after_fork()

    def after_fork(self) -> None:
        """
        Forget what waits: in a child it belongs to threads of the parent.
        """
        self._pid = os.getpid()
        self._queue_lock = threading.Lock()  # guards _queue
        self._queue: list[Batch[Item]] = []
        self._turn = threading.Lock()  # held by the thread that writes

    def commit(self, items: Sequence[Item]) -> list[int]:
        """
        Write `items`, all or none, and return their ids when they are safe.

        Raises:
            StoreError: why they were not written.
        """
        if self._pid != os.getpid():
            self.after_fork()
        batch = Batch(items)
        with self._queue_lock:
            self._queue.append(batch)
        try:
            with self._turn:
                if not batch.settled:
                    self._write_all_that_wait()
        except BaseException:
            # Interrupted (Ctrl-C): the caller won't hear an id, so nobody else shall write it later.
            with self._queue_lock:
                if batch in self._queue:
                    self._queue.remove(batch)
            raise
        if batch.error is not None:
            # One each: threads must not share a traceback.
            raise type(batch.error)(str(batch.error)) from batch.error.__cause__
        return batch.ids

    def _write_all_that_wait(self) -> None:
        with self._queue_lock:
            group, self._queue = self._queue, []
        try:
            self._write_group(group)
        except BaseException:
            # This thread was interrupted while it wrote for all. What is not on disk waits for the next one.
            with self._queue_lock:
                self._queue[:0] = [batch for batch in group if not batch.settled]
            raise

    def _write_group(self, group: list[Batch[Item]]) -> None:
        transaction = Transaction()
        for batch in group:
            batch.transaction = transaction
        try:
            self._write(group, transaction)
        except StoreError as error:
            if isinstance(error, StoreFull) and len(group) > 1:
                # There may be room for the small ones.
                for batch in group:
                    self._write_group([batch])
                return
            for batch in group:
                batch.error = error
