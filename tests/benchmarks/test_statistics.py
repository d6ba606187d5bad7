"""
Medians, how sure they are, and slopes.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.statistics import median, median_interval, percentile, slope

_NUMBERS = st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=40)


@pytest.mark.parametrize(("count", "cut"), [(1, 0), (2, 0), (5, 0), (7, 0), (8, 1), (11, 2), (25, 7)])
def test_the_interval_is_the_one_of_the_sign_test(count: int, cut: int) -> None:
    """
    The ranks are those that tables of the sign test have for 90 %.
    """
    assert median_interval(range(count)) == (cut, count - 1 - cut)


@given(_NUMBERS)
def test_the_median_lies_in_its_interval(values: list[float]) -> None:
    """
    And the interval in the values, whatever they are and in whatever order.
    """
    low, high = median_interval(values)
    assert min(values) <= low <= median(values) <= high <= max(values)


def test_the_interval_holds_the_true_median_as_often_as_it_says() -> None:
    """
    In 90 % of the samples at least, here from a lopsided distribution; in many more it would be of no use.
    """
    chance = random.Random(7)
    held = 0
    for _ in range(2_000):
        low, high = median_interval([chance.expovariate(1.0) for _ in range(15)])
        held += low <= 0.6931 <= high
    assert 0.9 <= held / 2_000 <= 0.98


def test_a_slope_is_found_through_an_odd_point() -> None:
    """
    One of ten points far off changes little.
    """
    points = [(float(x), 3.0 * x + 1) for x in range(10)]
    points[4] = (4.0, 1000.0)
    assert slope(points) == pytest.approx(3.0, abs=0.01)


def test_a_slope_needs_two_places() -> None:
    """
    Rather than a division by zero.
    """
    with pytest.raises(ValueError, match="two places"):
        slope([(1.0, 2.0), (1.0, 3.0)])


@pytest.mark.parametrize(("percent", "value"), [(0, 1), (1, 1), (50, 50), (99, 99), (99.5, 100), (100, 100)])
def test_a_percentile_is_one_of_the_values(percent: float, value: int) -> None:
    """
    The smallest that so many do not exceed.
    """
    assert percentile(range(1, 101), percent) == value
