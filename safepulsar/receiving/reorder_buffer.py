"""
Puts items back into the order of their lanes: each comes out once, when all before it in its lane have come out.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, Generic

from safepulsar.errors import InvalidInput, InvalidSettings, shown
from safepulsar.receiving.errors import BufferFull, SequenceGap, TooManyLanes
from safepulsar.receiving.gap import Gap
from safepulsar.receiving.lane_sequence import check_lane, check_sequence
from safepulsar.receiving.saved_state import numbers_of, seal, unseal
from safepulsar.receiving.settings import GapPolicy, ReorderSettings
from safepulsar.receiving.stats import ReorderStats
from safepulsar.receiving.waiting_room import Item, WaitingRoom

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from typing_extensions import Self

log = logging.getLogger("safepulsar")

_KIND: Final = "reorderbuffer"


class ReorderBuffer(Generic[Item]):
    """
    Takes items by lane and sequence in any order, and gives them back in order; lanes don't hold up each other.

    Within a lane sequences rise by 1. A second item of the same place is dropped and counted. What waits is bounded
    by number, bytes and time; `GapPolicy` says what happens at a bound. Whatever raises changes nothing.

    Belongs to one thread: between two that take items out, their order would mean nothing. Not for a fork either.

    Args:
        settings: see `ReorderSettings`.
        clock: seconds that only rise.
        on_skip: told of each gap that is given up, after the buffer has moved on. What it raises is logged and changes
            nothing. The log has a warning without the lane in any case.
        recall: asked for the sequence that a lane expects which the buffer does not know, None if it is new. So lanes
            that were forgotten go on where they were.
    """

    def __init__(
        self,
        settings: ReorderSettings | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        on_skip: Callable[[Gap], None] | None = None,
        recall: Callable[[str], int | None] | None = None,
    ) -> None:
        if settings is not None and not isinstance(settings, ReorderSettings):
            raise InvalidSettings("settings", f"must be ReorderSettings(...), not {type(settings).__name__}")
        self._settings = settings or ReorderSettings()
        self._clock = clock
        self._on_skip = on_skip
        self._recall = recall
        self._expected: OrderedDict[str, int] = OrderedDict()  # by lane, the lane used last at the end
        self._waiting: WaitingRoom[Item] = WaitingRoom()
        self._released = self._duplicates = self._refused = 0
        self._skipped_gaps = self._skipped_sequences = 0

    @classmethod
    def from_state(
        cls,
        state: bytes,
        settings: ReorderSettings | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        on_skip: Callable[[Gap], None] | None = None,
        recall: Callable[[str], int | None] | None = None,
    ) -> Self:
        """
        Return a buffer that goes on where the one of the state was, with nothing waiting.

        Raises:
            InvalidState: it is not what `state()` returned.
            TooManyLanes: it holds more lanes than the settings allow.
        """
        buffer = cls(settings, clock=clock, on_skip=on_skip, recall=recall)
        expected = numbers_of(unseal(_KIND, state).get("expected"))
        if len(expected) > buffer._settings.max_lanes:
            raise TooManyLanes(f"the state holds {len(expected)} lanes; raise max_lanes to at least that")
        buffer._expected.update(expected)
        return buffer

    def __repr__(self) -> str:
        return f"<ReorderBuffer of {len(self._expected)} lanes, {self._waiting.lanes} blocked, {len(self._waiting)} waiting>"

    def add(self, lane: str, sequence: int, item: Item, size_bytes: int = 0) -> list[Item]:
        """
        Take an item, and return what is in order now: often just this one, and often nothing.

        An item in order is always taken, however full the buffer is. Under `SKIP_WITH_REPORT` items of other lanes
        may come out too, to make room.

        Args:
            lane: any text.
            sequence: from 1.
            item: whatever the application wants back.
            size_bytes: what it counts as against `max_bytes` while it waits.

        Raises:
            InvalidSequence: a wrong lane or sequence.
            InvalidInput: a wrong size.
            BufferFull: it would have to wait, and there is no room (`GapPolicy.WAIT`).
            SequenceGap: likewise (`GapPolicy.RAISE`).
            TooManyLanes: it is the first of its lane, and no more lanes can be remembered.
        """
        expected = self._expected
        # The way of nearly every item. Without the look at the types True and 1.0 would pass for 1.
        if type(sequence) is int and type(lane) is str and expected.get(lane) == sequence and lane not in self._waiting:
            expected[lane] = sequence + 1
            expected.move_to_end(lane)
            self._released += 1
            return [item]
        return self._add_checked(check_lane(lane), check_sequence(sequence), item, _check_size(size_bytes))

    def is_new(self, lane: str, sequence: int) -> bool:
        """
        Whether `add` would not drop an item of this place as a duplicate. Changes nothing.
        """
        expected = self._look_up(check_lane(lane), check_sequence(sequence))
        return sequence >= expected and not self._waiting.has(lane, sequence)

    def expire(self, now: float | None = None) -> list[Item]:
        """
        Give up the gaps behind which something waits for longer than `max_wait_seconds`; return what is in order then.

        To be called again and again; `expires_in` says when next. Does nothing under `GapPolicy.WAIT`.

        Raises:
            SequenceGap: there is such a gap (`GapPolicy.RAISE`); at each call, until it is filled or skipped.
        """
        released: list[Item] = []
        now = self._clock() if now is None else now
        while self._expires_in(now) == 0:
            gap = self._waiting.oldest_gap(self._expected, now)
            if self._settings.gap_policy is GapPolicy.RAISE:
                raise SequenceGap(gap)
            released += self._skip_to(gap, gap.last_missing + 1)
        return released

    def expires_in(self, now: float | None = None) -> float | None:
        """
        In how many seconds `expire` has something to do, 0 if at once, None if nothing waits that could expire.
        """
        return self._expires_in(self._clock() if now is None else now)

    def skip(self, lane: str) -> list[Item]:
        """
        Give up the first gap of a lane, under any policy, and return what is in order then; nothing, if none waits.
        """
        if check_lane(lane) not in self._waiting:
            return []
        gap = self._waiting.gap_of(lane, self._expected[lane], self._clock())
        return self._skip_to(gap, gap.last_missing + 1)

    def gaps(self, now: float | None = None) -> list[Gap]:
        """
        Return the first gap of each lane in which something waits, the one that waits longest first.
        """
        return list(self._waiting.gaps(self._expected, self._clock() if now is None else now))

    def forget(self, lane: str) -> int | None:
        """
        Forget a lane that is finished, and return the sequence that it expects; None if it is unknown.

        If more of the lane comes after all, it begins anew: as `recall` says, else as a new lane, whose old messages
        are then no duplicates any more.

        Raises:
            InvalidInput: something waits in it.
        """
        if check_lane(lane) in self._waiting:
            raise InvalidInput("lane", "has messages that wait behind a gap; call skip() with it first, or let it wait")
        return self._expected.pop(lane, None)

    def forget_idle(self, keep: int, but: Collection[str] = ()) -> dict[str, int]:
        """
        Forget the lanes that were used least recently and in which nothing waits, and return what they expect.

        Nobody else knows that then: keep it where `recall` finds it, or the lanes begin anew.

        Args:
            keep: how many lanes to remember.
            but: lanes that stay in any case.

        Raises:
            InvalidInput: `keep` is no whole number from 0.
        """
        if isinstance(keep, bool) or not isinstance(keep, int) or keep < 0:
            raise InvalidInput("keep", f"must be a whole number from 0, not {shown(keep)}")
        forgotten: dict[str, int] = {}
        excess = len(self._expected) - keep
        if excess > 0:
            for lane, expected in self._expected.items():
                if lane not in self._waiting and lane not in but:
                    forgotten[lane] = expected
                    if len(forgotten) == excess:
                        break
            for lane in forgotten:
                del self._expected[lane]
        return forgotten

    def state(self, *, instead: dict[str, int] | None = None) -> bytes:
        """
        Return what a restarted consumer needs to neither skip nor repeat: which sequence each lane expects.

        It counts everything that was released as done. So save it when that is true, together with what was done, and
        acknowledge afterwards. What waits is not in it: it is not acknowledged either, and will be delivered again.

        Args:
            instead: by lane, an earlier sequence to expect, where not all that was released is done.
        """
        return seal(_KIND, {"expected": {**self._expected, **(instead or {})}})

    def stats(self) -> ReorderStats:
        """
        Return the numbers of this moment.
        """
        return ReorderStats(
            released=self._released,
            duplicates=self._duplicates,
            refused=self._refused,
            waiting_messages=len(self._waiting),
            waiting_bytes=self._waiting.size_bytes,
            lanes=len(self._expected),
            blocked_lanes=self._waiting.lanes,
            skipped_gaps=self._skipped_gaps,
            skipped_sequences=self._skipped_sequences,
        )

    def _add_checked(self, lane: str, sequence: int, item: Item, size_bytes: int) -> list[Item]:
        expected = self._expected.get(lane)
        if expected is None:
            expected = self._look_up(lane, sequence)
            if len(self._expected) >= self._settings.max_lanes:
                self._refused += 1
                raise TooManyLanes(
                    f"max_lanes={self._settings.max_lanes} lanes are remembered already; call forget() for those that "
                    f"are finished, or forget_idle(), or raise max_lanes"
                )
        if sequence < expected or self._waiting.has(lane, sequence):
            self._duplicates += 1
            return []
        if sequence == expected:
            return self._release(lane, sequence, item)
        if self._has_room(size_bytes):
            return self._wait(lane, sequence, item, size_bytes, expected)
        if self._settings.gap_policy is GapPolicy.SKIP_WITH_REPORT:
            return self._make_room(lane, sequence, item, size_bytes, expected)
        self._refused += 1
        raise self._no_room(lane, sequence, expected)

    def _look_up(self, lane: str, sequence: int) -> int:
        expected = self._expected.get(lane)
        if expected is None and self._recall is not None:
            expected = self._recall(lane)
            if expected is not None:
                check_sequence(expected)
        if expected is None:
            expected = self._settings.first_sequence
        return sequence if expected is None else expected

    def _release(self, lane: str, sequence: int, item: Item) -> list[Item]:
        released = [item, *self._waiting.take_run(lane, sequence + 1)]
        self._expect(lane, sequence + len(released))
        self._released += len(released)
        return released

    def _wait(self, lane: str, sequence: int, item: Item, size_bytes: int, expected: int) -> list[Item]:
        self._expect(lane, expected)
        self._waiting.put(lane, sequence, item, size_bytes, self._clock())
        return []

    def _expect(self, lane: str, sequence: int) -> None:
        self._expected[lane] = sequence
        self._expected.move_to_end(lane)

    def _has_room(self, size_bytes: int) -> bool:
        settings, waiting = self._settings, self._waiting
        return len(waiting) < settings.max_messages and waiting.size_bytes + size_bytes <= settings.max_bytes

    def _no_room(self, lane: str, sequence: int, expected: int) -> BufferFull | SequenceGap:
        now = self._clock()
        if self._settings.gap_policy is GapPolicy.WAIT:
            return BufferFull(
                f"{len(self._waiting)} messages of {self._waiting.size_bytes} bytes wait in {self._waiting.lanes} lanes, "
                f"and there is no room for one more; see gaps() for what is missing, or raise max_messages or max_bytes"
            )
        if len(self._waiting):
            return SequenceGap(self._waiting.oldest_gap(self._expected, now))
        return SequenceGap(_gap_before(lane, sequence, expected))

    def _make_room(self, lane: str, sequence: int, item: Item, size_bytes: int, expected: int) -> list[Item]:
        """
        Skip gaps, the oldest first, until the item can wait or is in order itself.
        """
        released: list[Item] = []
        while not self._has_room(size_bytes):
            now = self._clock()
            gap = self._waiting.oldest_gap(self._expected, now) if len(self._waiting) else None
            if gap is not None and (gap.lane != lane or gap.last_missing < sequence):
                released += self._skip_to(gap, gap.last_missing + 1)
                expected = self._expected.get(lane, expected)
                if sequence == expected:
                    return released + self._release(lane, sequence, item)
            else:
                # The gap to give up ends before this very item, which needs no room then.
                released += self._release(lane, sequence, item)
                self._report(_gap_before(lane, sequence, expected, gap))
                return released
        return released + self._wait(lane, sequence, item, size_bytes, expected)

    def _skip_to(self, gap: Gap, sequence: int) -> list[Item]:
        released = self._waiting.take_run(gap.lane, sequence)
        self._expect(gap.lane, sequence + len(released))
        self._released += len(released)
        self._report(gap)
        return released

    def _report(self, gap: Gap) -> None:
        self._skipped_gaps += 1
        self._skipped_sequences += gap.missing
        log.warning(
            "safepulsar.gap_skipped",
            extra={"first_missing": gap.first_missing, "last_missing": gap.last_missing},
        )
        if self._on_skip is not None:
            try:
                self._on_skip(gap)
            except Exception:  # whoever watches must not lose what was released
                log.exception("safepulsar.on_skip_failed")

    def _expires_in(self, now: float) -> float | None:
        oldest = self._waiting.oldest()
        if oldest is None or self._settings.gap_policy is GapPolicy.WAIT:
            return None
        return max(0.0, oldest[1] + self._settings.max_wait_seconds - now)


def _gap_before(lane: str, sequence: int, expected: int, behind: Gap | None = None) -> Gap:
    """
    The gap that an item would leave behind which itself is not in the buffer.
    """
    return Gap(
        lane=lane,
        first_missing=expected,
        last_missing=sequence - 1,
        waiting_messages=1 + (behind.waiting_messages if behind else 0),
        waiting_seconds=behind.waiting_seconds if behind else 0.0,
    )


def _check_size(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidInput("size_bytes", f"must be a whole number from 0, not {shown(value)}")
    return value
