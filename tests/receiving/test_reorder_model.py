"""
Any sequence of calls, under a clock that jumps, makes every buffer release what a plain model says, in its order.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from safepulsar.receiving import BufferFull, Gap, GapPolicy, ReorderBuffer, ReorderSettings, SequenceGap
from tests.receiving.fakes import ManualClock

MAX_MESSAGES, MAX_BYTES, MAX_WAIT = 4, 10, 10.0
LANES = st.sampled_from("abc")
Item = tuple[str, int]


@dataclass
class Waiting:
    """
    What the model knows of one item that waits.
    """

    lane: str
    sequence: int
    size_bytes: int
    arrived: float


@dataclass
class Model:
    """
    A buffer as slow and as plain as can be.
    """

    policy: GapPolicy
    expected: dict[str, int] = field(default_factory=dict)
    waiting: list[Waiting] = field(default_factory=list)  # in the order of their coming
    skipped: list[tuple[str, int, int]] = field(default_factory=list)
    duplicates: int = 0

    def add(self, lane: str, sequence: int, size_bytes: int, now: float) -> list[Item] | None:
        """
        What comes out; None if it is refused.
        """
        expected = self.expected.get(lane, 1)
        if sequence < expected or any((each.lane, each.sequence) == (lane, sequence) for each in self.waiting):
            self.duplicates += 1
            return []
        item = Waiting(lane, sequence, size_bytes, now)
        out: list[Item] = []
        while sequence != self.expected.get(lane, 1) and not self._has_room(size_bytes):
            if self.policy is not GapPolicy.SKIP_WITH_REPORT:
                return None
            oldest = self.waiting[0].lane if self.waiting else lane
            there = [*self.waiting, item]
            first = min(each.sequence for each in there if each.lane == oldest)
            out += self.skip(oldest, first)
        self.waiting.append(item)
        return out + self._run(lane)

    def expire(self, now: float) -> list[Item] | None:
        """
        What comes out; None if a gap is raised.
        """
        out: list[Item] = []
        while self.policy is not GapPolicy.WAIT and self.waiting and now - self.waiting[0].arrived >= MAX_WAIT:
            if self.policy is GapPolicy.RAISE:
                return None
            lane = self.waiting[0].lane
            out += self.skip(lane, min(each.sequence for each in self.waiting if each.lane == lane))
        return out

    def skip(self, lane: str, to: int) -> list[Item]:
        """
        What comes out when a lane goes on with this sequence.
        """
        self.skipped.append((lane, self.expected.get(lane, 1), to - 1))
        self.expected[lane] = to
        return self._run(lane)

    def _has_room(self, size_bytes: int) -> bool:
        return (
            len(self.waiting) < MAX_MESSAGES and sum(each.size_bytes for each in self.waiting) + size_bytes <= MAX_BYTES
        )

    def _run(self, lane: str) -> list[Item]:
        out: list[Item] = []
        self.expected.setdefault(lane, 1)
        while found := [each for each in self.waiting if (each.lane, each.sequence) == (lane, self.expected[lane])]:
            self.waiting.remove(found[0])
            out.append((lane, self.expected[lane]))
            self.expected[lane] += 1
        return out


class BufferMachine(RuleBasedStateMachine):
    """
    A buffer and its model, side by side.
    """

    @initialize(policy=st.sampled_from(GapPolicy))
    def start(self, policy: GapPolicy) -> None:
        """
        A new buffer.
        """
        self.clock = ManualClock()
        self.gaps: list[Gap] = []
        self.settings = ReorderSettings(
            gap_policy=policy, max_messages=MAX_MESSAGES, max_bytes=MAX_BYTES, max_wait_seconds=MAX_WAIT
        )
        self.buffer: ReorderBuffer[Item] = ReorderBuffer(self.settings, clock=self.clock, on_skip=self.gaps.append)
        self.model = Model(policy)
        self.released: list[Item] = []

    @rule(lane=LANES, ahead=st.integers(-3, 6), size_bytes=st.integers(0, 12))
    def add(self, lane: str, ahead: int, size_bytes: int) -> None:
        """
        An item comes, early, in time or again.
        """
        sequence = max(1, self.model.expected.get(lane, 1) + ahead)
        new = self.buffer.is_new(lane, sequence)
        duplicates = self.model.duplicates
        expected = self.model.add(lane, sequence, size_bytes, self.clock.now)
        assert new == (self.model.duplicates == duplicates)
        if expected is None:
            with pytest.raises((BufferFull, SequenceGap)):
                self.buffer.add(lane, sequence, (lane, sequence), size_bytes)
        else:
            self._came_out(self.buffer.add(lane, sequence, (lane, sequence), size_bytes), expected)

    @rule(seconds=st.floats(0, 12))
    def expire(self, seconds: float) -> None:
        """
        Time passes.
        """
        self.clock.now += seconds
        expected = self.model.expire(self.clock.now)
        if expected is None:
            with pytest.raises(SequenceGap):
                self.buffer.expire()
        else:
            self._came_out(self.buffer.expire(), expected)

    @precondition(lambda self: self.model.waiting)
    @rule(data=st.data())
    def skip(self, data: st.DataObject) -> None:
        """
        Somebody gives a gap up.
        """
        lane = data.draw(st.sampled_from(sorted({each.lane for each in self.model.waiting})))
        to = min(each.sequence for each in self.model.waiting if each.lane == lane)
        self._came_out(self.buffer.skip(lane), self.model.skip(lane, to))

    @rule()
    def restart(self) -> None:
        """
        The consumer dies and goes on from the saved state: what waited is gone, to be delivered again.
        """
        state = self.buffer.state()
        self.buffer = ReorderBuffer.from_state(state, self.settings, clock=self.clock, on_skip=self.gaps.append)
        self.model.waiting.clear()
        self.model.duplicates = 0

    @invariant()
    def each_lane_comes_out_in_order_and_once(self) -> None:
        """
        Over all restarts, the sequences of a lane only rise.
        """
        for lane in "abc":
            sequences = [sequence for each, sequence in self.released if each == lane]
            assert sequences == sorted(set(sequences))

    @invariant()
    def the_numbers_are_those_of_the_model(self) -> None:
        """
        What waits, what was dropped, what is missing, and what was given up.
        """
        stats, model = self.buffer.stats(), self.model
        assert stats.waiting_messages == len(model.waiting) <= MAX_MESSAGES
        assert stats.waiting_bytes == sum(each.size_bytes for each in model.waiting) <= MAX_BYTES
        assert stats.duplicates == model.duplicates
        assert [(gap.lane, gap.first_missing, gap.last_missing) for gap in self.gaps] == model.skipped
        first: dict[str, tuple[float, int, int]] = {}
        for each in model.waiting:
            arrived, lowest, count = first.get(each.lane, (each.arrived, each.sequence, 0))
            first[each.lane] = arrived, min(lowest, each.sequence), count + 1
        assert [
            (gap.lane, gap.first_missing, gap.last_missing, gap.waiting_messages, gap.waiting_seconds)
            for gap in self.buffer.gaps()
        ] == [
            (lane, model.expected.get(lane, 1), lowest - 1, count, self.clock.now - arrived)
            for lane, (arrived, lowest, count) in first.items()
        ]

    def _came_out(self, released: list[Item], expected: list[Item]) -> None:
        assert released == expected
        self.released += released


BufferMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestBuffer = BufferMachine.TestCase
