"""
Contenders take turns, and goals are judged within rounds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from benchmarks.case import Goal, Kind, Sample
from benchmarks.measuring import for_seconds, nanoseconds_per_call, repeat, side_by_side
from benchmarks.results import judge
from benchmarks.rounds import take_turns

if TYPE_CHECKING:
    from collections.abc import Callable


def _contender(turns: list[str], name: str, values: list[float]) -> Callable[[], Sample]:
    remaining = iter(values)

    def turn() -> Sample:
        turns.append(name)
        return Sample(figures={"rate": next(remaining)}, latencies_ns=[1_000])

    return turn


def test_rounds_are_interleaved_and_the_first_does_not_count() -> None:
    """
    Each contender has its turn in each round, in an order that changes.
    """
    turns: list[str] = []
    figures, latencies = take_turns(
        {"a": _contender(turns, "a", [1, 2, 3]), "b": _contender(turns, "b", [10, 20, 30])}, rounds=2
    )
    assert turns == ["b", "a", "a", "b", "b", "a"]
    assert figures == {"a": {"rate": [2, 3]}, "b": {"rate": [20, 30]}}
    assert len(latencies["a"]) == 2


def test_a_slow_moment_does_not_change_a_ratio() -> None:
    """
    A round in which everything is ten times slower has the same ratio.
    """
    figures = {"raw": {"rate": [100.0, 10.0, 100.0]}, "safepulsar": {"rate": [250.0, 25.0, 250.0]}}
    finding = judge(Goal(name="rate", ours="safepulsar", against=("raw",), at_least=2.5), figures)
    assert finding is not None
    assert finding.rounds == [2.5, 2.5, 2.5]
    assert finding.met is True


def test_the_best_of_the_others_is_the_one_to_beat() -> None:
    """
    The one with the highest median where more is better, the lowest where less is.
    """
    figures = {
        "raw 1": {"rate": [1.0, 100.0, 1.0], "p50_us": [9.0, 9.0, 9.0]},
        "raw 2": {"rate": [2.0, 2.0, 2.0], "p50_us": [5.0, 5.0, 5.0]},
        "naive": {"rate": [1000.0] * 3, "p50_us": [0.1] * 3},
        "safepulsar": {"rate": [4.0, 4.0, 4.0], "p50_us": [10.0, 10.0, 10.0]},
    }
    rate = judge(Goal(name="rate", ours="safepulsar", against=("raw",)), figures)
    latency = judge(Goal(name="p50", ours="safepulsar", against=("raw",), figure="p50_us", at_most=1.0), figures)
    assert rate is not None
    assert (rate.against, rate.median, rate.met) == ("raw 2", 2.0, None)
    assert latency is not None
    assert (latency.against, latency.median, latency.met) == ("raw 2", 2.0, False)


def test_differences_and_values_are_judged_too() -> None:
    """
    As the goal says.
    """
    figures = {"raw": {"call_us": [5.0, 6.0]}, "safepulsar": {"call_us": [7.0, 9.0]}}
    added = judge(
        Goal(name="added", ours="safepulsar", against=("raw",), kind=Kind.DIFFERENCE, figure="call_us", at_most=3.0),
        figures,
    )
    alone = judge(Goal(name="alone", ours="safepulsar", kind=Kind.VALUE, figure="call_us", at_most=7.9), figures)
    assert added is not None
    assert (added.rounds, added.met) == ([2.0, 3.0], True)
    assert alone is not None
    assert (alone.median, alone.met) == (8.0, False)


def test_a_goal_without_its_contender_is_left_out() -> None:
    """
    A part that is not there has no finding, and is no failure.
    """
    assert judge(Goal(name="rate", ours="missing", against=("raw",)), {"raw": {"rate": [1.0]}}) is None
    assert judge(Goal(name="rate", ours="raw", against=("missing",)), {"raw": {"rate": [1.0]}}) is None


def test_every_call_is_made_by_some_thread() -> None:
    """
    Also where the number is no multiple of the threads.
    """
    calls: list[None] = []
    repeat(103, lambda: calls.append(None), threads=8)
    assert len(calls) == 103


def test_what_a_thread_raises_is_raised() -> None:
    """
    A contender that fails is never a fast one.
    """

    def work(number: int) -> None:
        if number == 2:
            raise ValueError("two")

    with pytest.raises(ValueError, match="two"):
        side_by_side(4, work)


def test_the_loop_is_taken_off_a_short_call() -> None:
    """
    Nothing costs about nothing, and something more than that.
    """
    numbers = list(range(200))
    assert nanoseconds_per_call(lambda: None, 0.01) < nanoseconds_per_call(lambda: sorted(numbers), 0.01)


def test_latencies_are_those_of_the_calls() -> None:
    """
    As many as calls, and their sum is not more than the threads had.
    """
    calls: list[None] = []
    sample = for_seconds(0.02, 2, lambda: calls.append(None))
    assert len(sample.latencies_ns) == len(calls) > 0
    assert sum(sample.latencies_ns) <= 2 * len(calls) / sample.figures["rate"] * 1e9
