"""
Medians and how sure they are: no mean, because one slow moment of a shared machine would move it.
"""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_CONFIDENCE = 0.9


def median(values: Sequence[float]) -> float:
    """
    Return the median.
    """
    return statistics.median(values)


def median_interval(values: Sequence[float], confidence: float = _CONFIDENCE) -> tuple[float, float]:
    """
    Return the shortest pair of values, alike from both ends, that has the true median between them with `confidence`.

    By counting alone, whatever the distribution: each value lies above the true median with probability 1/2. Of few
    values it is the lowest and the highest, which is then less sure: 94 % of 5, 75 % of 3.
    """
    ordered = sorted(values)
    count = len(ordered)
    outside = 0.0  # the chance that fewer than `cut` values are below the true median
    cut = 0
    while cut < (count - 1) // 2:
        outside += math.comb(count, cut) / 2**count
        if 1 - 2 * (outside + math.comb(count, cut + 1) / 2**count) < confidence:
            break
        cut += 1
    return ordered[cut], ordered[count - 1 - cut]


def slope(points: Sequence[tuple[float, float]]) -> float:
    """
    Return the median slope between all pairs of points (Theil and Sen): one odd point does not tilt it.

    Raises:
        ValueError: fewer than two places on the x axis.
    """
    slopes = [
        (later[1] - earlier[1]) / (later[0] - earlier[0])
        for number, earlier in enumerate(points)
        for later in points[number + 1 :]
        if later[0] != earlier[0]
    ]
    if not slopes:
        raise ValueError("a slope needs points at two places at least")
    return statistics.median(slopes)


def percentile(values: Sequence[float], percent: float) -> float:
    """
    Return the smallest value that at least `percent` % of all are not above.
    """
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]
