"""
What the outbox hands out, and what it says about itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypedDict

if TYPE_CHECKING:
    from safepulsar.message import Message


class OutboxRow(NamedTuple):
    """
    One message that is safe on disk and not final yet.

    Args:
        id: of the row, and the sequence id under which it must be sent, now and ever again. The order of the ids is the
            order in which the rows were written, over all processes and producer names; it has gaps.
        producer_name: under which it must be sent.
        accepted_at: Unix time in seconds.
        message: what to send; without a sequence id of its own.
    """

    id: int
    producer_name: str
    accepted_at: float
    message: Message

    @property
    def sequence_id(self) -> int:
        """
        The same as the id.
        """
        return self.id


class OutboxStats(TypedDict):
    """
    An outbox in numbers; the keys are always the same.

    waiting: rows that are not final.
    oldest_age_seconds: since the first of them was accepted; 0.0 if there is none.
    bytes: of their payloads.
    corrupted: rows that this object found damaged.
    """

    waiting: int
    oldest_age_seconds: float
    bytes: int
    corrupted: int
