"""
Which failed messages are meant: one filter, understood alike by every store.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from safepulsar.errors import InvalidInput
from safepulsar.message import Certainty
from safepulsar.topics import TopicNames

if TYPE_CHECKING:
    from safepulsar.message import FailedMessage


class FailedMessageState(str, Enum):
    """
    Where a failed message stands.

    Legal: KEPT → CLAIMED (a replayer leased it), CLAIMED → KEPT (given back, failed again, or the lease ran out),
    KEPT or CLAIMED → DELIVERED (replayed, or acknowledged late). Illegal: anything out of DELIVERED, because the
    payload is gone then and sending it again would be a duplicate.
    """

    KEPT = "KEPT"  # waits for a replay
    CLAIMED = "CLAIMED"  # a replayer holds it under a lease that has not run out
    DELIVERED = "DELIVERED"  # in the topic; only what became of it is still recorded


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedMessageFilter:
    """
    Every condition that is given must hold; without any, everything that may still be replayed is meant.

    Ages are counted from the first failure, so a message that is tried every hour still grows old.

    Args:
        topic: as given to `send`: `orders` means `persistent://public/default/orders`.
        key: the lane's key: the ordering key, or else the partition key.
        error: the last code, exactly, e.g. `ProducerFenced`.
        older_than_seconds: first failed at least so long ago.
        newer_than_seconds: first failed at most so long ago.
        certainty: `NOT_STORED` or `MAYBE_STORED`.
        state: None means kept or claimed, but never delivered.
        ids: only these; an empty tuple means none.
    """

    topic: str | None = None
    key: str | None = None
    error: str | None = None
    older_than_seconds: float | None = None
    newer_than_seconds: float | None = None
    certainty: Certainty | None = None
    state: FailedMessageState | None = None
    ids: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """
        Refuse what would match nothing without saying so.
        """
        if self.topic is not None:
            TopicNames().full(self.topic)
        for name in ("key", "error"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise InvalidInput(name, f"must be text, not {type(value).__name__}")
        for name in ("older_than_seconds", "newer_than_seconds"):
            value = getattr(self, name)
            if value is not None and not _is_age(value):
                raise InvalidInput(name, f"must be a number of seconds of at least 0, not {value!r:.80}")
        if self.certainty is not None and not isinstance(self.certainty, Certainty):
            raise InvalidInput("certainty", f"must be a Certainty, not {self.certainty!r:.80}")
        if self.state is not None and not isinstance(self.state, FailedMessageState):
            raise InvalidInput("state", f"must be a FailedMessageState, not {self.state!r:.80}")
        if self.ids is not None and not (
            isinstance(self.ids, tuple) and all(type(number) is int for number in self.ids)
        ):
            raise InvalidInput("ids", "must be a tuple of whole numbers such as (7, 8)")

    @property
    def full_topic(self) -> str | None:
        """
        The topic as messages carry it.
        """
        return None if self.topic is None else TopicNames().full(self.topic)

    def first_failed_between(self, now: float) -> tuple[float, float]:
        """
        The two ages as Unix times, both inclusive.
        """
        oldest = -math.inf if self.newer_than_seconds is None else now - self.newer_than_seconds
        newest = math.inf if self.older_than_seconds is None else now - self.older_than_seconds
        return oldest, newest

    def fits(self, failed: FailedMessage, now: float) -> bool:
        """
        Whether every condition holds for a message, but for the one on its state.
        """
        oldest, newest = self.first_failed_between(now)
        return (
            self.full_topic in (None, failed.message.topic)
            and self.key in (None, failed.message.lane_key)
            and self.error in (None, failed.error)
            and self.certainty in (None, failed.certainty)
            and (self.ids is None or failed.id in self.ids)
            and oldest <= failed.first_failed_at <= newest
        )

    def needs_a_payload(self) -> FailedMessageFilter:
        """
        Itself, for a use that hands out messages.

        Raises:
            InvalidInput: it asks for delivered messages, whose payloads are gone.
        """
        if self.state is FailedMessageState.DELIVERED:
            raise InvalidInput("state", "delivered messages can be counted, purged and asked for by status(), not read")
        return self


def _is_age(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < math.inf


EVERYTHING = FailedMessageFilter()
