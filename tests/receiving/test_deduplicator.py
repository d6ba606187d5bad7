"""
The deduplicator: exact on lanes in any order, bounded, and as good as its window on ids of the application's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safepulsar.errors import InvalidInput, InvalidSettings
from safepulsar.receiving import (
    BufferFull,
    Deduplicator,
    DeduplicatorSettings,
    DeduplicatorStats,
    InvalidSequence,
    TooManyLanes,
)

if TYPE_CHECKING:
    from collections.abc import Callable

_places = st.tuples(st.sampled_from("ab"), st.integers(min_value=1, max_value=12))


@given(st.lists(st.one_of(_places, st.none()), max_size=80))
def test_it_knows_what_a_set_knows(places: list[tuple[str, int] | None]) -> None:
    """
    In any order, with duplicates, and over restarts (None) at any point, it says new exactly the first time.
    """
    deduplicator, seen = Deduplicator(), set[tuple[str, int]]()
    for place in places:
        if place is None:
            state = deduplicator.state()
            deduplicator = Deduplicator.from_state(state)
            assert deduplicator.state() == state
            continue
        assert deduplicator.is_new(*place) == (place not in seen)
        assert deduplicator.add(*place) == (place not in seen)
        seen.add(place)
        runs = {lane: next(n for n in range(1, 14) if (lane, n) not in seen) - 1 for lane in "ab"}
        assert deduplicator.stats().beyond == len(seen) - sum(runs.values())


def test_what_is_in_order_costs_nothing() -> None:
    """
    Of a lane without a gap only one number is remembered.
    """
    deduplicator = Deduplicator(DeduplicatorSettings(max_beyond=0))
    assert all(deduplicator.add("a", sequence) for sequence in range(1, 1001))
    assert deduplicator.stats() == DeduplicatorStats(
        seen=1000, duplicates=0, refused=0, lanes=1, beyond=0, ids=0, forgotten_ids=0
    )


def test_too_much_is_refused_rather_than_forgotten() -> None:
    """
    At a bound nothing changes, and what was remembered stays known.
    """
    deduplicator = Deduplicator(DeduplicatorSettings(max_beyond=2, max_lanes=2))
    deduplicator.add("a", 3)
    deduplicator.add("b", 5)
    with pytest.raises(BufferFull, match="max_beyond=2"):
        deduplicator.add("a", 5)
    with pytest.raises(TooManyLanes, match="max_lanes=2"):
        deduplicator.add("c", 1)
    with pytest.raises(TooManyLanes, match="max_lanes=2"):
        deduplicator.settle("c", 1)
    assert deduplicator.is_new("a", 5)
    assert not deduplicator.is_new("a", 3)
    assert deduplicator.stats().refused == 2


def test_settling_counts_the_missing_as_come() -> None:
    """
    All up to the sequence are known then, what they cost is free again, and what lies directly behind joins them.
    """
    deduplicator = Deduplicator()
    for sequence in (3, 5, 6, 9):
        deduplicator.add("a", sequence)
    deduplicator.settle("a", 4)
    assert deduplicator.stats().beyond == 1
    assert [sequence for sequence in range(1, 11) if deduplicator.is_new("a", sequence)] == [7, 8, 10]
    deduplicator.settle("a", 2)  # settled long ago
    assert not deduplicator.is_new("a", 6)
    deduplicator.settle("b", 7)
    assert not deduplicator.is_new("b", 7)


def test_a_forgotten_lane_begins_anew() -> None:
    """
    What was remembered of it is free again, beyond a gap too.
    """
    deduplicator = Deduplicator()
    deduplicator.add("a", 1)
    deduplicator.add("a", 3)
    deduplicator.forget("a")
    deduplicator.forget("unknown")
    assert deduplicator.is_new("a", 1)
    assert (deduplicator.stats().lanes, deduplicator.stats().beyond) == (0, 0)


def test_ids_are_remembered_as_far_back_as_bounded() -> None:
    """
    The id that was used longest ago is forgotten for one too many, and counted.
    """
    deduplicator = Deduplicator(DeduplicatorSettings(max_ids=2))
    assert [deduplicator.add_id(each) for each in ("x", "y", "x", "z")] == [True, True, False, True]
    assert [deduplicator.is_new_id(each) for each in "xyz"] == [False, True, False]
    restored = Deduplicator.from_state(deduplicator.state(), DeduplicatorSettings(max_ids=2))
    assert restored.add_id("v")
    assert [restored.is_new_id(each) for each in "xz"] == [True, False]  # the order is restored too
    assert deduplicator.stats().forgotten_ids == 1


@pytest.mark.parametrize(
    "call",
    [
        lambda each: each.add("a", 0),
        lambda each: each.add(b"a", 1),
        lambda each: each.is_new("a", 1.0),
        lambda each: each.is_new(None, 1),
        lambda each: each.settle("a", "1"),
        lambda each: each.settle(1, 1),
        lambda each: each.forget(1),
    ],
)
def test_a_wrong_place_is_refused(call: Callable[[Deduplicator], object]) -> None:
    """
    Lanes are text, and sequences whole numbers from 1.
    """
    with pytest.raises(InvalidSequence):
        call(Deduplicator())


@pytest.mark.parametrize("message_id", ["", None, 1, b"x"])
def test_a_wrong_id_is_refused(message_id: object) -> None:
    """
    Ids are text of at least one character.
    """
    with pytest.raises(InvalidInput, match="message_id: must be text"):
        Deduplicator().add_id(message_id)  # type: ignore[arg-type]


def test_wrong_settings_are_refused() -> None:
    """
    Only settings, with bounds that make sense.
    """
    with pytest.raises(InvalidSettings):
        Deduplicator(5)  # type: ignore[arg-type]
    with pytest.raises(InvalidSettings):
        DeduplicatorSettings(max_ids=0)
    assert repr(Deduplicator()) == "<Deduplicator of 0 lanes and 0 ids>"
