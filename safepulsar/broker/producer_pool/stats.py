"""
The numbers of a pool.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStats:
    """
    A pool at one moment.

    Args:
        open: producers that are open, also those that close when their last lease ends.
        leased: of these, how many somebody has.
        created: opened so far.
        evicted: closed so far because they were idle, or to make room.
        waiting: calls of `lease` that wait, for a producer to open or for room.
        wait_timeouts: such calls so far that waited in vain.
        mean_lease_seconds: of the last 1,000 leases that ended; 0 before the first.
        oldest_lease_seconds: of those that last; 0 if there is none.
    """

    open: int
    leased: int
    created: int
    evicted: int
    waiting: int
    wait_timeouts: int
    mean_lease_seconds: float
    oldest_lease_seconds: float
