"""
The buffer: what comes in whatever order goes out in order, each once; bounds, gaps and bad input have one clear answer.
"""

from __future__ import annotations

import logging
from itertools import permutations
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safepulsar.errors import InvalidInput, InvalidSettings, SafePulsarError
from safepulsar.receiving import (
    BufferFull,
    Gap,
    GapPolicy,
    InvalidSequence,
    ReorderBuffer,
    ReorderSettings,
    SequenceGap,
    TooManyLanes,
)
from tests.receiving.fakes import ManualClock

if TYPE_CHECKING:
    from collections.abc import Callable

SKIP = GapPolicy.SKIP_WITH_REPORT


def _add_all(buffer: ReorderBuffer[int], *sequences: int, lane: str = "a") -> list[int]:
    return [item for sequence in sequences for item in buffer.add(lane, sequence, sequence)]


@pytest.mark.parametrize("order", list(permutations(range(1, 6))))
def test_every_permutation_comes_out_in_order(order: tuple[int, ...]) -> None:
    """
    However five items of a lane come, they go out as 1 to 5.
    """
    assert _add_all(ReorderBuffer(), *order) == [1, 2, 3, 4, 5]


@given(st.lists(st.integers(min_value=1, max_value=30), max_size=80))
def test_duplicates_and_losses(sequences: list[int]) -> None:
    """
    What comes out is the run from 1 up to the first that never came; all else is a duplicate or still waits.
    """
    buffer: ReorderBuffer[int] = ReorderBuffer()
    released = _add_all(buffer, *sequences)
    come = set(sequences)
    run = next(number for number in range(1, 32) if number not in come) - 1
    assert released == list(range(1, run + 1))
    stats = buffer.stats()
    assert stats.duplicates == len(sequences) - len(come)
    assert stats.waiting_messages == len(come) - run


def test_lanes_do_not_hold_up_each_other() -> None:
    """
    A gap in one lane leaves the others alone.
    """
    buffer: ReorderBuffer[int] = ReorderBuffer()
    assert _add_all(buffer, 2, 3, lane="a") == []
    assert _add_all(buffer, 1, 2, lane="b") == [1, 2]
    assert _add_all(buffer, 1, lane="a") == [1, 2, 3]


@pytest.mark.parametrize(("first", "expected"), [(1, []), (5, [5, 6]), (None, [5, 6])])
def test_where_a_lane_begins(first: int | None, expected: list[int]) -> None:
    """
    A new lane begins with the sequence of the settings, or with whatever comes first.
    """
    assert _add_all(ReorderBuffer(ReorderSettings(first_sequence=first)), 5, 6, 4) == expected


def test_a_full_buffer_that_waits_refuses_and_still_takes_what_is_in_order() -> None:
    """
    Under WAIT one too many is refused and changes nothing, and the missing one gets through and frees the rest.
    """
    buffer: ReorderBuffer[int] = ReorderBuffer(ReorderSettings(max_messages=2))
    _add_all(buffer, 2, 3)
    with pytest.raises(BufferFull, match="2 messages of 0 bytes wait in 1 lanes"):
        buffer.add("a", 4, 4)
    assert _add_all(buffer, 1) == [1, 2, 3]
    assert _add_all(buffer, 4) == [4]
    assert (buffer.stats().refused, buffer.stats().released) == (1, 4)


def test_bytes_are_bounded_too() -> None:
    """
    The sizes of what waits add up, and go down again when it comes out.
    """
    buffer: ReorderBuffer[int] = ReorderBuffer(ReorderSettings(max_bytes=10))
    buffer.add("a", 2, 2, size_bytes=6)
    with pytest.raises(BufferFull):
        buffer.add("a", 3, 3, size_bytes=5)
    buffer.add("a", 3, 3, size_bytes=4)
    assert buffer.stats().waiting_bytes == 10
    assert buffer.add("a", 1, 1, size_bytes=1000) == [1, 2, 3]
    assert buffer.stats().waiting_bytes == 0


def test_waiting_for_ever_never_expires() -> None:
    """
    Under WAIT no time is too long, and there is no moment at which something would expire.
    """
    clock = ManualClock()
    buffer: ReorderBuffer[int] = ReorderBuffer(clock=clock)
    _add_all(buffer, 2)
    clock.now += 1e6
    assert buffer.expire() == []
    assert buffer.expires_in() is None
    assert buffer.gaps()[0].waiting_seconds == 1e6


def test_a_gap_is_skipped_after_the_time_and_reported(caplog: pytest.LogCaptureFixture) -> None:
    """
    Exactly when the first behind it has waited long enough, a gap is given up, reported and logged without its lane.
    """
    clock, skipped = ManualClock(), list[Gap]()
    settings = ReorderSettings(gap_policy=SKIP, max_wait_seconds=10)
    buffer: ReorderBuffer[int] = ReorderBuffer(settings, clock=clock, on_skip=skipped.append)
    _add_all(buffer, 1, 4, lane="secret")
    clock.now += 4
    _add_all(buffer, 5, 7, lane="secret")
    assert buffer.expires_in() == 6
    assert buffer.expire(clock.now + 5.9) == []
    clock.now += 6
    with caplog.at_level(logging.WARNING, "safepulsar"):
        assert buffer.expire() == [4, 5]
    gap = Gap(lane="secret", first_missing=2, last_missing=3, waiting_messages=3, waiting_seconds=10)
    assert skipped == [gap]
    assert gap.missing == 2
    assert [record.message for record in caplog.records] == ["safepulsar.gap_skipped"]
    assert "secret" not in repr(gap) + str([vars(record) for record in caplog.records])
    assert _add_all(buffer, 2, 3, lane="secret") == []  # too late: as duplicates
    assert buffer.expires_in() == 4
    stats = buffer.stats()
    assert (stats.skipped_gaps, stats.skipped_sequences, stats.duplicates) == (1, 2, 2)


def test_room_is_made_where_something_waits_longest() -> None:
    """
    Under SKIP_WITH_REPORT a full buffer gives up the oldest gap, of whatever lane, and takes the item.
    """
    skipped: list[Gap] = []
    buffer: ReorderBuffer[int] = ReorderBuffer(
        ReorderSettings(gap_policy=SKIP, max_messages=2), on_skip=skipped.append, clock=ManualClock()
    )
    _add_all(buffer, 3, lane="a")
    _add_all(buffer, 30, lane="b")
    assert _add_all(buffer, 31, lane="b") == [3]
    assert [(gap.lane, gap.first_missing, gap.last_missing) for gap in skipped] == [("a", 1, 2)]


@pytest.mark.parametrize(
    ("waiting", "added", "released", "skipped"),
    [
        ([5], 3, [3], [(1, 2)]),  # itself before the first that waits: it needs no room
        ([5], 6, [5, 6], [(1, 4)]),  # right behind what its own skip releases
        ([5], 8, [5], [(1, 4)]),  # there is room then, and it waits
        ([2, 9], 8, [2], [(1, 1)]),
    ],
)
def test_room_is_made_in_the_lane_itself(
    waiting: list[int], added: int, released: list[int], skipped: list[tuple[int, int]]
) -> None:
    """
    Where the oldest gap is the item's own, no more is skipped than must be, and the item is never skipped itself.
    """
    gaps: list[Gap] = []
    settings = ReorderSettings(gap_policy=SKIP, max_messages=len(waiting))
    buffer: ReorderBuffer[int] = ReorderBuffer(settings, on_skip=gaps.append)
    _add_all(buffer, *waiting)
    assert _add_all(buffer, added) == released
    assert [(gap.first_missing, gap.last_missing) for gap in gaps] == skipped


def test_an_item_that_is_too_large_to_wait_skips_its_own_gap() -> None:
    """
    Under SKIP_WITH_REPORT even an item over `max_bytes` in an empty buffer is released, and its gap reported.
    """
    gaps: list[Gap] = []
    buffer: ReorderBuffer[int] = ReorderBuffer(ReorderSettings(gap_policy=SKIP, max_bytes=1), on_skip=gaps.append)
    assert buffer.add("a", 3, 3, size_bytes=2) == [3]
    assert [(gap.first_missing, gap.last_missing, gap.waiting_messages) for gap in gaps] == [(1, 2, 1)]


def test_a_gap_raises_until_it_is_filled_or_skipped() -> None:
    """
    Under RAISE a gap that is too old raises at each call and changes nothing; filling or skipping it ends that.
    """
    clock = ManualClock()
    settings = ReorderSettings(gap_policy=GapPolicy.RAISE, max_wait_seconds=10, max_messages=2)
    buffer: ReorderBuffer[int] = ReorderBuffer(settings, clock=clock)
    _add_all(buffer, 3, lane="secret")
    clock.now += 10
    for _ in range(2):
        with pytest.raises(SequenceGap, match="sequences 1 to 2 of a lane are missing") as caught:
            buffer.expire()
        assert caught.value.gap.lane == "secret"
        assert "secret" not in str(caught.value)
    assert buffer.skip("secret") == [3]
    assert (buffer.expire(), buffer.skip("secret"), buffer.skip("other")) == ([], [], [])
    _add_all(buffer, 6, 7, lane="secret")
    with pytest.raises(SequenceGap, match="4 to 5"):
        buffer.add("secret", 8, 8)
    assert _add_all(buffer, 4, 5, lane="secret") == [4, 5, 6, 7]


def test_an_item_that_is_too_large_to_wait_raises_its_own_gap() -> None:
    """
    Under RAISE an item over `max_bytes` in an empty buffer names the gap before it, and is not taken.
    """
    buffer: ReorderBuffer[int] = ReorderBuffer(ReorderSettings(gap_policy=GapPolicy.RAISE, max_bytes=1))
    with pytest.raises(SequenceGap, match="1 to 2"):
        buffer.add("a", 3, 3, size_bytes=2)
    assert buffer.is_new("a", 3)


def test_a_report_that_raises_loses_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """
    An error of `on_skip` is logged, and what was released comes out all the same.
    """

    def fail(_: Gap) -> None:
        raise RuntimeError

    buffer: ReorderBuffer[int] = ReorderBuffer(on_skip=fail)
    _add_all(buffer, 2)
    assert buffer.skip("a") == [2]
    assert "safepulsar.on_skip_failed" in caplog.text


def test_a_report_may_use_the_buffer() -> None:
    """
    When `on_skip` is called the buffer has moved on, so that it may be asked.
    """
    seen: list[bool] = []
    buffer: ReorderBuffer[int] = ReorderBuffer(
        ReorderSettings(gap_policy=SKIP, max_messages=1), on_skip=lambda gap: seen.append(buffer.is_new(gap.lane, 3))
    )
    _add_all(buffer, 9)
    assert _add_all(buffer, 3) == [3]
    assert seen == [False]


def test_a_lane_is_never_forgotten_silently() -> None:
    """
    At the bound on lanes a new one is refused; a lane that waits can't be forgotten; a forgotten one is told and recalled.
    """
    kept: dict[str, int] = {}
    buffer: ReorderBuffer[int] = ReorderBuffer(ReorderSettings(max_lanes=3), recall=kept.get)
    for lane in "abc":
        _add_all(buffer, 1, 2, lane=lane)
    _add_all(buffer, 4, lane="b")
    with pytest.raises(TooManyLanes, match="max_lanes=3"):
        _add_all(buffer, 1, lane="d")
    with pytest.raises(InvalidInput, match="wait behind a gap"):
        buffer.forget("b")
    _add_all(buffer, 3, lane="a")
    assert buffer.forget_idle(keep=1, but={"a"}) == {"c": 3}  # used least recently; b waits
    kept.update(c=3)
    assert buffer.forget("a") == 4
    assert buffer.forget("a") is None
    assert _add_all(buffer, 2, 3, lane="c") == [3]  # 2 is a duplicate still
    assert buffer.forget_idle(keep=5) == {}


def test_a_restored_buffer_goes_on_where_the_other_was() -> None:
    """
    A state holds what each lane expects, and nothing of what waits.
    """
    buffer: ReorderBuffer[int] = ReorderBuffer()
    _add_all(buffer, 1, 2, 4, lane="\ud800 ä")
    restored: ReorderBuffer[int] = ReorderBuffer.from_state(buffer.state())
    assert restored.state() == buffer.state()
    assert _add_all(restored, 1, 2, 4, 3, lane="\ud800 ä") == [3, 4]
    with pytest.raises(TooManyLanes, match="the state holds 2 lanes"):
        ReorderBuffer.from_state(_two_lanes().state(), ReorderSettings(max_lanes=1))


def _two_lanes() -> ReorderBuffer[int]:
    buffer: ReorderBuffer[int] = ReorderBuffer()
    _add_all(buffer, 1, lane="a")
    _add_all(buffer, 1, lane="b")
    return buffer


def test_the_largest_sequence() -> None:
    """
    The last sequence there can be is taken, saved and restored, and a gap of any size costs nothing.
    """
    last = 2**63 - 1
    buffer: ReorderBuffer[int] = ReorderBuffer()
    assert buffer.add("a", last, 7) == []
    assert buffer.gaps()[0].missing == last - 1
    assert buffer.skip("a") == [7]
    assert not ReorderBuffer.from_state(buffer.state()).is_new("a", last)


@pytest.mark.parametrize("sequence", [0, -1, 2**63, 1.0, True, "1", None])
@pytest.mark.parametrize(
    "call", [lambda buffer, each: buffer.add("a", each, 0), lambda buffer, each: buffer.is_new("a", each)]
)
def test_a_wrong_sequence_is_refused(call: Callable[[ReorderBuffer[int], object], object], sequence: object) -> None:
    """
    Only a whole number from 1 is a sequence; anything else is a typed error, and nothing changes.
    """
    buffer: ReorderBuffer[int] = ReorderBuffer()
    with pytest.raises(InvalidSequence, match="sequence: must be a whole number from 1"):
        call(buffer, sequence)
    assert _add_all(buffer, 1) == [1]


@pytest.mark.parametrize("lane", [b"a", None, 1])
def test_a_wrong_lane_is_refused(lane: object) -> None:
    """
    Only text is a lane.
    """
    buffer: ReorderBuffer[int] = ReorderBuffer()
    calls: list[Callable[[object], object]] = [
        lambda lane: buffer.add(lane, 1, 0),  # type: ignore[arg-type]
        lambda lane: buffer.is_new(lane, 1),  # type: ignore[arg-type]
        buffer.skip,  # type: ignore[list-item]
        buffer.forget,  # type: ignore[list-item]
    ]
    for call in calls:
        with pytest.raises(InvalidSequence, match="lane: must be text"):
            call(lane)


@pytest.mark.parametrize(
    "call",
    [
        lambda: ReorderBuffer[int]().add("a", 2, 0, -1),
        lambda: ReorderBuffer[int]().add("a", 2, 0, size_bytes=True),
        lambda: ReorderBuffer[int]().forget_idle(-1),
        lambda: ReorderBuffer[int]({}),  # type: ignore[arg-type]
        lambda: ReorderSettings(max_messages=0),
        lambda: ReorderSettings(max_bytes=0),
        lambda: ReorderSettings(max_lanes=0),
        lambda: ReorderSettings(max_wait_seconds=-1),
        lambda: ReorderSettings(first_sequence=0),
        lambda: ReorderSettings(gap_policy="SKIP"),  # type: ignore[arg-type]
        lambda: ReorderBuffer[int](recall=lambda _: 0).add("a", 1, 0),
    ],
)
def test_other_bad_input_is_refused(call: Callable[[], object]) -> None:
    """
    Sizes, bounds and settings that make no sense are typed errors.
    """
    with pytest.raises((InvalidInput, InvalidSettings)):
        call()


def test_it_says_what_it_is() -> None:
    """
    The repr has numbers and no keys, and every error is one of the package's.
    """
    buffer: ReorderBuffer[int] = ReorderBuffer()
    _add_all(buffer, 1, 3, lane="secret")
    assert repr(buffer) == "<ReorderBuffer of 1 lanes, 1 blocked, 1 waiting>"
    assert issubclass(BufferFull, SafePulsarError)
    assert (BufferFull.retriable, SequenceGap.retriable) == (True, True)
