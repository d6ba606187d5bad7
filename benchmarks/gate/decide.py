"""
The decision: did it get worse by more than is allowed, as far as the noise lets anybody know?
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from benchmarks.statistics import median, median_interval

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Verdict(str, Enum):
    """
    What is known of a ratio.
    """

    HOLDS = "holds"  # its median is within the bound
    WORSE = "worse"  # its median is beyond the bound, and the noise does not explain it
    UNDECIDED = "undecided"  # its median is beyond the bound, and that may be noise: measure on


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """
    How far a ratio may go.

    Args:
        baseline: what it was.
        allowed: how much worse it may get, as a share: 0.1 is 10 %.
        more_is_better: or less is.
    """

    baseline: float
    allowed: float
    more_is_better: bool = True

    @property
    def limit(self) -> float:
        """
        The worst that holds: throughput that falls by 10 % is cost that rises by 1 / 0.9.
        """
        return self.baseline * (1 - self.allowed) if self.more_is_better else self.baseline / (1 - self.allowed)

    def within(self, value: float) -> bool:
        """
        Whether a value is good enough.
        """
        return value >= self.limit if self.more_is_better else value <= self.limit


def decide(rounds: Sequence[float], bound: Bound, *, last: bool) -> Verdict:
    """
    Decide by the ratios of all rounds so far.

    Args:
        rounds: at least one.
        bound: see `Bound`.
        last: there will be no more rounds, so the median decides.
    """
    if bound.within(median(rounds)):
        return Verdict.HOLDS
    low, high = median_interval(rounds)
    if last or not bound.within(high if bound.more_is_better else low):
        return Verdict.WORSE
    return Verdict.UNDECIDED


# Taken by threads that also wait for each other, now and then once more; and the application wakes the watch once a tick.
_SLACK = {
    "locks taken by the sender": 0.05,
    "calls of ours by the sender": 0.05,
    "calls of ours by the application": 0.5,
}


def worse_counts(baseline: Mapping[str, float], counts: Mapping[str, float], allowed: float) -> dict[str, str]:
    """
    Return the counts that rose by more than that share, or are missing, and what happened to each.
    """
    found = {}
    for name, was in baseline.items():
        limit = was * (1 + allowed) + _SLACK.get(name.rpartition(": ")[2], 0.0)
        if name not in counts:
            found[name] = "is not counted any more; if that is meant, make a new baseline"
        elif counts[name] > limit:
            found[name] = f"{counts[name]:.4g}, was {was:.4g}"
    return found
