"""
Any sequence of calls by two allocators of one name hands out what a plain model says, and no id twice.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from safepulsar.errors import ProducerNameInUse
from safepulsar.exactly_once.sequence_allocator import SequenceAllocator
from safepulsar.failed_messages import SqliteFailedMessages
from tests.failed_messages.samples import ManualClock

_WHO = st.integers(0, 1)
_LEASE_SECONDS = 30.0
_BLOCK = 5
_NOBODY = -1  # holds the name until its lease is over


class AllocatorMachine(RuleBasedStateMachine):
    """
    Two allocators of one producer name, in two stores on one file.
    """

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(prefix="safepulsar-allocator-")
        self.clock = ManualClock()
        path = Path(self.folder.name) / "store.db"
        self.stores = [SqliteFailedMessages(path, clock=self.clock).open() for _ in range(2)]
        self.allocators = [self._new(who) for who in range(2)]
        self.open = [False, False]
        self.holder: int | None = None  # who claimed the name last and has not closed
        self.lease_ends_at = 0.0
        self.left: list[int] = []  # of the holder's block
        self.reserved = 0  # the highest id on disk
        self.given: list[int] = []

    def _new(self, who: int) -> SequenceAllocator:
        return SequenceAllocator(
            self.stores[who], "shop", "orders", block=_BLOCK, lease_seconds=_LEASE_SECONDS, clock=self.clock
        )

    def teardown(self) -> None:
        """
        Close the files.
        """
        for store in self.stores:
            store.close()
        self.folder.cleanup()

    @rule(who=_WHO)
    def open_one(self, who: int) -> None:
        """
        Take the name, if nobody has it.
        """
        if self.open[who]:
            assert self.allocators[who].open() is self.allocators[who]
            return
        if self.holder is not None and self.clock.now < self.lease_ends_at:
            with pytest.raises(ProducerNameInUse):
                self.allocators[who].open()
            return
        self.allocators[who].open()
        self.open[who] = True
        self.holder, self.lease_ends_at, self.left = who, self.clock.now + _LEASE_SECONDS, []

    @rule(who=_WHO)
    def close_one(self, who: int) -> None:
        """
        Let go of it; what is left of the block is gone.
        """
        self.allocators[who].close()
        self.open[who] = False
        if self.holder == who:
            self.holder, self.left = None, []

    @rule(who=_WHO)
    def forget_one(self, who: int) -> None:
        """
        The allocator is gone without a word, as after a kill.
        """
        self.allocators[who] = self._new(who)
        self.open[who] = False
        if self.holder == who:
            self.holder, self.left = _NOBODY, []

    @rule(who=_WHO, count=st.integers(1, 12))
    def allocate(self, who: int, count: int) -> None:
        """
        Ask for ids.
        """
        if not self.open[who] or self.holder != who:
            # One that was taken over from may be sure of its block only until its lease ended, which it has.
            with pytest.raises(ProducerNameInUse):
                self.allocators[who].allocate(count)
            return
        ids = list(self.allocators[who].allocate(count))
        if self.clock.now >= self.lease_ends_at:
            self.lease_ends_at = self.clock.now + _LEASE_SECONDS
        if len(self.left) < count:
            if self.clock.now >= self.lease_ends_at - _LEASE_SECONDS / 2:
                self.lease_ends_at = self.clock.now + _LEASE_SECONDS
            fresh = max(count - len(self.left), _BLOCK)
            if self.left and self.left[-1] != self.reserved:
                self.left = []
                fresh = max(count, _BLOCK)
            self.left += range(self.reserved + 1, self.reserved + fresh + 1)
            self.reserved += fresh
        assert ids == self.left[:count]
        self.left = self.left[count:]
        self.given += ids

    @rule(who=_WHO, beyond=st.integers(0, 12))
    def advance(self, who: int, beyond: int) -> None:
        """
        The broker knows a higher id.
        """
        last = (self.given or [0])[-1] + beyond
        if not self.open[who] or self.holder != who:
            with pytest.raises(ProducerNameInUse):
                self.allocators[who].advance(last)
            return
        self.allocators[who].advance(last)
        if self.clock.now >= self.lease_ends_at:
            self.lease_ends_at = self.clock.now + _LEASE_SECONDS
        self.reserved = max(self.reserved, last)
        self.left = [number for number in self.left if number > last]

    @rule(seconds=st.sampled_from([1.0, 14.0, 16.0, 40.0]))
    def wait(self, seconds: float) -> None:
        """
        Time goes by.
        """
        self.clock.now += seconds

    @rule(who=_WHO)
    def reopen_the_file(self, who: int) -> None:
        """
        The store is closed and opened again.
        """
        self.stores[who].close()
        self.stores[who].open()

    @invariant()
    def ids_only_rise(self) -> None:
        """
        Over all allocators, in the order in which they were handed out.
        """
        assert self.given == sorted(set(self.given))


TestAllocator = AllocatorMachine.TestCase
TestAllocator.settings = settings(
    max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
