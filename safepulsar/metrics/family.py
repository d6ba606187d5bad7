"""
One number with its labels, as every way out needs it: a name, what it means, and samples.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from typing_extensions import Self

# As OpenTelemetry has them for the duration of messaging operations, in seconds.
BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)


class Kind(str, Enum):
    """
    How a number behaves.
    """

    COUNTER = "counter"  # only rises
    GAUGE = "gauge"  # rises and falls; those of several processes add up
    MAXIMUM = "maximum"  # a gauge of which the largest of several processes counts
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """
    How many values fell into each bucket.

    Args:
        counts: one for each of `BUCKETS`, up to and with it, and one more for what is above; not cumulative.
        total: of all values.
    """

    counts: tuple[int, ...] = (0,) * (len(BUCKETS) + 1)
    total: float = 0.0

    @classmethod
    def of(cls, spread: Sequence[float]) -> Self:
        """
        From the counts with the sum behind them.
        """
        return cls(counts=tuple(map(int, spread[:-1])), total=spread[-1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """
    One number by its labels.

    Args:
        name: in Prometheus' manner, with its unit, and `_total` where it only rises.
        kind: see `Kind`.
        text: what it means, in one sentence.
        labels: their names.
        samples: the values by the labels' values; a `Distribution` for a histogram.
    """

    name: str
    kind: Kind
    text: str
    labels: tuple[str, ...] = ()
    samples: dict[tuple[str, ...], float | Distribution] = field(default_factory=dict)

    def of(self, values: Mapping[tuple[str, ...], float] | Mapping[tuple[str, ...], Distribution]) -> Self:
        """
        Take these samples.
        """
        self.samples.update(values)
        return self

    def at(self, value: float) -> Self:
        """
        Take this value, the only one where there are no labels.
        """
        self.samples[()] = float(value)
        return self
