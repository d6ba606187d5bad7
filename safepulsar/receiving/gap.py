"""
What is missing in a lane.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """
    A run of sequences that did not come, though later ones of their lane did.

    Args:
        lane: not in the repr, because it is a key and may be private.
        first_missing: the sequence that the lane expects.
        last_missing: the one before the first that is there.
        waiting_messages: how many of the lane wait behind it, also behind further gaps.
        waiting_seconds: how long the first of these to come has waited.
    """

    lane: str = field(repr=False)
    first_missing: int
    last_missing: int
    waiting_messages: int
    waiting_seconds: float

    @property
    def missing(self) -> int:
        """
        How many sequences are missing.
        """
        return self.last_missing - self.first_missing + 1
