"""
Sequence ids of one producer name that rise for ever, for applications that number their messages themselves.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

from safepulsar.errors import ForkedProcess, InvalidInput, ProducerNameInUse
from safepulsar.exactly_once.producer_journal import ProducerJournal
from safepulsar.failed_messages.transitions import check_lease
from safepulsar.topics import TopicNames

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Self

    from safepulsar.exactly_once.producer_journal import JournalClaim
    from safepulsar.failed_messages import SqliteFailedMessages

_MAX_BLOCK = 1_000_000


class SequenceAllocator:
    """
    Hands out each id of a producer name once, from 1, rising, also across kill -9, restarts and processes.

    Thread-safe. One allocator at a time has a name; another one that is opened for it, here or in another process,
    is refused until this one is closed, its process is gone, or its lease has run out. A broker drops an id that is not
    above the last one it stored, and calls that success: so send in the order of the ids, and never use a name without
    its allocator. In a forked child, open another one for another name.

    Ids are reserved on disk a block at a time. What was reserved and not handed out when the process ends is never
    used: a gap, which no broker minds.

    Args:
        store: open as long as this is.
        producer_name: as in `ProducerSettings`.
        topic: the one that it sends to. A name belongs to one topic.
        block: how many ids one write to disk reserves.
        lease_seconds: after so long without a call, another allocator may take the name. This one then raises.
        clock: counts seconds.
    """

    def __init__(
        self,
        store: SqliteFailedMessages,
        producer_name: str,
        topic: str,
        *,
        block: int = 1000,
        lease_seconds: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if isinstance(block, bool) or not isinstance(block, int) or not 1 <= block <= _MAX_BLOCK:
            raise InvalidInput("block", f"must be a whole number from 1 to {_MAX_BLOCK}")
        check_lease(lease_seconds)
        self._store = store
        self._producer_name = producer_name
        self._topic = TopicNames().full(topic)
        self._block = block
        self._lease_seconds = lease_seconds
        self._clock = clock
        self._lock = threading.Lock()  # guards all below; held over the write, because all who wait need its ids
        self._claim: JournalClaim | None = None
        self._left = range(0)  # reserved and not handed out
        self._safe_until = 0.0  # until then nobody else can have the name
        self._pid = os.getpid()

    def __repr__(self) -> str:
        state = "closed" if self._claim is None else "open"
        return f"<SequenceAllocator {self._producer_name!r} of {self._topic!r} {state}>"

    def open(self) -> Self:
        """
        Take the producer name. Returns itself; repeated calls do nothing.

        Raises:
            ProducerNameInUse: somebody else has it; the text says who, and until when.
            StoreOfAnotherProducer: it belongs to another topic in this store.
            StoreError: the store failed.
        """
        self._refuse_in_child()
        with self._lock:
            if self._claim is None:
                asked = self._clock()
                self._claim = ProducerJournal(self._store).claim(
                    self._producer_name,
                    self._topic,
                    owner=f"{os.uname().nodename}-{os.getpid()}",
                    lease_seconds=self._lease_seconds,
                )
                self._pid = os.getpid()
                self._left = range(0)
                self._safe_until = asked + self._lease_seconds
        return self

    def close(self) -> None:
        """
        Let go of the name. Idempotent.
        """
        if self._is_the_parents():
            return
        with self._lock:
            claim, self._claim = self._claim, None
            if claim is not None:
                claim.release()

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(self, *exc: object) -> None:
        self.close()

    def next(self) -> int:
        """
        The next id.

        Raises:
            ProducerNameInUse: another allocator took the name over, or this one is closed.
            ForkedProcess: it belongs to the parent of this process.
            StoreError: the store failed; nothing was handed out.
        """
        return self.allocate(1)[0]

    def allocate(self, count: int) -> range:
        """
        The next `count` ids, without a gap.

        Raises:
            InvalidInput: not a whole number of at least 1, or there are not so many left.
            ProducerNameInUse: see `next`.
            ForkedProcess: see `next`.
            StoreError: see `next`.
        """
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise InvalidInput("count", "must be a whole number of at least 1")
        self._refuse_in_child()
        with self._lock:
            claim = self._open_claim()
            if len(self._left) < count:
                # A new block begins where the last one ends, as nobody else allocates: what is left need not be lost.
                missing = count - len(self._left)
                if self._clock() >= self._safe_until - self._lease_seconds / 2:
                    self._renew(claim)
                fresh = claim.allocate(max(missing, self._block))
                first = self._left.start if self._left and self._left.stop == fresh.start else fresh.start
                self._left = range(first, fresh.stop)
                if len(self._left) < count:  # somebody advanced it meanwhile
                    self._left = claim.allocate(max(count, self._block))
            given, self._left = self._left[:count], self._left[count:]
            return given

    def advance(self, beyond: int) -> None:
        """
        Hand out nothing up to `beyond`, because it was used already: by another store, or before there was one.

        Raises:
            InvalidInput: not a whole number from 0 to 2**63 - 1.
            ProducerNameInUse: see `next`.
            StoreError: see `next`.
        """
        self._refuse_in_child()
        with self._lock:
            self._open_claim().advance(beyond)
            self._left = self._left[max(0, beyond + 1 - self._left.start) :]

    def _open_claim(self) -> JournalClaim:
        if self._claim is None:
            raise ProducerNameInUse(
                f"the allocator of {self._producer_name!r} is closed; call open() first, or use it in a with block"
            )
        if self._clock() >= self._safe_until:
            # What is left of the block is only good while nobody else can have been given higher ids.
            self._renew(self._claim)
        return self._claim

    def _is_the_parents(self) -> bool:
        return self._claim is not None and self._pid != os.getpid()

    def _refuse_in_child(self) -> None:
        # Before the lock, which a thread of the parent may have held at the fork.
        if self._is_the_parents():
            raise ForkedProcess(
                f"the allocator of {self._producer_name!r} belongs to the parent of this process; open one for another "
                "producer name here"
            )

    def _renew(self, claim: JournalClaim) -> None:
        asked = self._clock()
        claim.extend(self._lease_seconds)
        self._safe_until = asked + self._lease_seconds
