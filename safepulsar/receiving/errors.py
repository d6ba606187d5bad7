"""
What can go wrong with putting received messages in order.

    SafePulsarError
    ├── InvalidInput
    │   ├── InvalidMessage
    │   │   └── InvalidSequence   a lane or a sequence that is missing or malformed
    │   └── InvalidState          a saved state that is damaged, of something else, or of a newer version
    ├── BufferFull                no room for what would have to wait
    │   └── TooManyLanes
    ├── SequenceGap               a message is missing, and the policy is to say so
    └── NotHandedOut              done() of a message that is done or was taken back

Their texts name no lane, because it is a key and may be private; where one matters, it is an attribute.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from safepulsar.errors import InvalidInput, InvalidMessage, SafePulsarError

if TYPE_CHECKING:
    from safepulsar.receiving.gap import Gap


class InvalidSequence(InvalidMessage):
    """
    A lane that is not text, or a sequence that is not a whole number from 1.
    """


class InvalidState(InvalidInput):
    """
    A saved state that cannot be used; nothing of it was taken over.
    """

    def __init__(self, problem: str) -> None:
        super().__init__("state", problem)


class BufferFull(SafePulsarError):
    """
    A bound is reached, and what was offered was not taken: leave it unacknowledged and offer it again later.
    """

    retriable = True


class TooManyLanes(BufferFull):
    """
    One more lane would have to be remembered than `max_lanes` allows.
    """


class SequenceGap(SafePulsarError):
    """
    A message is missing for longer than allowed, or too many wait for it. Nothing was skipped and nothing is lost.

    Attributes:
        gap: what is missing, and how much waits behind it.
    """

    retriable = True

    def __init__(self, gap: Gap) -> None:
        super().__init__(
            f"sequences {gap.first_missing} to {gap.last_missing} of a lane are missing, and {gap.waiting_messages} "
            f"messages wait behind them; wait on, or call skip() with the lane, which is `gap.lane`"
        )
        self.gap = gap


class NotHandedOut(SafePulsarError):
    """
    A message was called done, or given back, that the receiver has not handed out, or has taken back since.
    """
