"""
Latencies as HdrHistograms: every percentile to three digits, in a few kilobytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hdrh.histogram import HdrHistogram

if TYPE_CHECKING:
    from collections.abc import Sequence

_LONGEST_NS = 120 * 10**9
_DIGITS = 3
_A_ROUND = 20_000  # of more calls every so manieth is recorded: recording costs more than some of them took
PERCENTILES = (50.0, 90.0, 99.0, 99.9)


class Latencies:
    """
    Durations of calls, in nanoseconds.
    """

    def __init__(self, encoded: str | None = None) -> None:
        self._histogram = HdrHistogram(1, _LONGEST_NS, _DIGITS)
        if encoded is not None:
            self._histogram.decode_and_add(encoded.encode())

    def __len__(self) -> int:
        return int(self._histogram.get_total_count())

    def add(self, latencies_ns: Sequence[int]) -> None:
        """
        Record them, or an even choice of them.
        """
        for value in latencies_ns[:: 1 + len(latencies_ns) // _A_ROUND]:
            self._histogram.record_value(min(max(1, value), _LONGEST_NS))

    def percentile_us(self, percent: float) -> float:
        """
        Return what `percent` % of the calls did not exceed, in µs.
        """
        return float(self._histogram.get_value_at_percentile(percent)) / 1000

    def as_json(self) -> dict[str, float | str]:
        """
        Percentiles in µs, the number of calls, and the whole histogram in HdrHistogram's own encoding.
        """
        found: dict[str, float | str] = {f"p{percent:g}_us": self.percentile_us(percent) for percent in PERCENTILES}
        found["max_us"] = float(self._histogram.get_max_value()) / 1000
        found["calls"] = len(self)
        found["histogram"] = self._histogram.encode().decode()
        return found
