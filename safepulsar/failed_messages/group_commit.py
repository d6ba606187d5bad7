"""
Many threads, one write: whoever comes first writes for all who wait, so that they share one fsync.

Who waits sleeps on a lock of its own. The one that wrote wakes first the next one that writes, and then those for whom
it has written: would all wait for one lock, each would have to get it before the next write could begin.
"""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Generic, TypeVar

from safepulsar.errors import StoreError, StoreFull
from safepulsar.failed_messages.database import Transaction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

# How long one may sleep whom nobody wakes, because the one that had to was interrupted between two instructions.
_FORGOTTEN_SECONDS = 1.0

Item = TypeVar("Item")


class Batch(Generic[Item]):
    """
    What one caller wants written, and what became of it.
    """

    __slots__ = ("_asleep", "done", "error", "ids", "items", "on_committed", "told", "transaction")

    def __init__(self, items: Sequence[Item], on_committed: Callable[[Batch[Item]], None] | None = None) -> None:
        self.items = items
        self.ids: list[int] = []
        self.transaction: Transaction | None = None
        self.error: StoreError | None = None
        self.on_committed = on_committed
        self.told = False  # whether `on_committed` was called: never twice, so it says so before the call
        self.done = False  # whether its caller may hear of it: everybody's `on_committed` has returned
        self._asleep = threading.Lock()
        self._asleep.acquire()

    @property
    def settled(self) -> bool:
        """
        Whether its fate is known.
        """
        return self.error is not None or (self.transaction is not None and self.transaction.committed)

    def sleep(self) -> None:
        """
        Return once somebody has called `wake`, or after a while.
        """
        self._asleep.acquire(timeout=_FORGOTTEN_SECONDS)

    def wake(self) -> None:
        """
        Make the thread that sleeps, or will, go on. Once more does no harm.
        """
        try:  # noqa: SIM105 - suppress() costs more than all the rest, and this is done for every message
            self._asleep.release()
        except RuntimeError:
            pass  # woken already, and has not gone on yet


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
        # Whose thread writes. Nobody else waits for the turn: who did would, once written, have to get it all the same.
        self._writer: Batch[Item] | None = None
        self._turn = threading.Lock()  # held by the thread that writes

    def commit(self, items: Sequence[Item], on_committed: Callable[[Batch[Item]], None] | None = None) -> list[int]:
        """
        Write `items`, all or none, and return their ids when they are safe.

        Args:
            items: at least one.
            on_committed: called once they are safe, before anybody hears of it; in the order of the ids of all
                batches, one at a time. It must not come back here.

        Raises:
            StoreError: why they were not written.
        """
        if self._pid != os.getpid():
            self.after_fork()
        batch = Batch(items, on_committed)
        with self._queue_lock:
            self._queue.append(batch)
        try:
            while not batch.done:
                with self._queue_lock:
                    if self._writer is None:
                        self._writer = batch
                if self._writer is not batch:
                    batch.sleep()
                    continue
                group: Sequence[Batch[Item]] = ()
                with self._turn:
                    if batch.told:  # nobody is called now, so whoever called was interrupted
                        batch.done = True
                    else:
                        group = self._write_all_that_wait()
                self._writer = None
                self._wake_next()
                _wake(group)
        except BaseException:
            # Interrupted (Ctrl-C): the caller won't hear an id, so nobody else shall write it later.
            with self._queue_lock:
                if batch in self._queue:
                    self._queue.remove(batch)
                if self._writer is batch:
                    self._writer = None
            self._wake_next()
            raise
        if batch.error is not None:
            # One each: threads must not share a traceback.
            raise type(batch.error)(str(batch.error)) from batch.error.__cause__
        return batch.ids

    @contextmanager
    def turn(self) -> Iterator[None]:
        """
        Nothing is written and nobody is called within the block.
        """
        if self._pid != os.getpid():
            self.after_fork()
        try:
            with self._turn:
                yield
        finally:
            self._wake_next()

    def _wake_next(self) -> None:
        """
        Let the one that has waited longest write.
        """
        with self._queue_lock:
            first = self._queue[0] if self._queue else None
        if first is not None:
            first.wake()

    def _write_all_that_wait(self) -> Sequence[Batch[Item]]:
        with self._queue_lock:
            group, self._queue = self._queue, []
        try:
            # What is settled was written by one who was interrupted before everybody knew.
            self._write_group([batch for batch in group if not batch.settled])
            for batch in group:
                batch.told = True
                if batch.error is None and batch.on_committed is not None:
                    batch.on_committed(batch)
            for batch in group:
                batch.done = True
        except BaseException:
            # This thread was interrupted while it wrote for all. What is not done waits for the next one.
            with self._queue_lock:
                self._queue[:0] = [batch for batch in group if not batch.told]
            _wake(group)
            raise
        return group

    def _write_group(self, group: list[Batch[Item]]) -> None:
        if not group:
            return
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


def _wake(batches: Iterable[Batch[Item]]) -> None:
    for batch in batches:
        batch.wake()
