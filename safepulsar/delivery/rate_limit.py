"""
A token bucket over messages and bytes: says how long to wait, and never waits itself.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class RateLimit:
    """
    At most so many messages and bytes a second, with a burst of one tenth of a second's worth.

    What is taken beyond the burst is borrowed from the future, and the next one waits for it: a message over
    the burst size goes through whole, and the average holds. Thread-safe.

    Args:
        messages_per_second: None does not limit messages.
        bytes_per_second: None does not limit bytes.
        clock: seconds, never going back.

    Attributes:
        limits: whether anything is limited at all.
    """

    _BURST_SECONDS = 0.1

    def __init__(
        self,
        messages_per_second: float | None,
        bytes_per_second: float | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rates = (messages_per_second, bytes_per_second)
        self.limits = self._rates != (None, None)
        self._clock = clock
        self._lock = threading.Lock()  # guards _free_at
        start = clock() - self._BURST_SECONDS
        self._free_at = [start, start]  # when everything taken so far is paid for, per rate

    def largest_burst(self) -> int | None:
        """
        How many messages may be taken at once without making a lump; None for any number.
        """
        rate = self._rates[0]
        return None if rate is None else max(1, int(rate * self._BURST_SECONDS))

    def burst(self, sizes: Sequence[int]) -> int:
        """
        How many of messages of these sizes may be taken at once without making a lump: one at least.
        """
        most = self.largest_burst() or len(sizes)
        rate = self._rates[1]
        if rate is None:
            return min(most, len(sizes))
        count, left = 0, rate * self._BURST_SECONDS
        for size in sizes[:most]:
            left -= size
            if count and left < 0:
                break
            count += 1
        return count

    def take(self, messages: int, size_bytes: int) -> float:
        """
        Take them, and return the seconds to wait before sending them (0.0 for at once).
        """
        with self._lock:
            now = self._clock()
            # Both rates are charged for the moment of sending: were the one that waits less charged for this moment,
            # the wait for the other would refill it, and what waited would go out in one lump.
            sent_at = max(now, *self._free_at)
            for i, (rate, amount) in enumerate(zip(self._rates, (messages, size_bytes), strict=True)):
                if rate is not None:
                    self._free_at[i] = max(self._free_at[i], sent_at - self._BURST_SECONDS) + amount / rate
            return sent_at - now
