"""
Where a message says which lane it belongs to and where in it: two properties, written by senders, read by receivers.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from safepulsar.checks import check_key
from safepulsar.errors import InvalidMessage, shown
from safepulsar.receiving.errors import InvalidSequence
from safepulsar.receiving.settings import MAX_SEQUENCE

if TYPE_CHECKING:
    from safepulsar.receiving.consumer import ReceivedMessage

LANE_PROPERTY: Final = "safepulsar-lane"
SEQUENCE_PROPERTY: Final = "safepulsar-sequence"
# Digits only: `int` would also take signs, spaces, underscores and the digits of other scripts.
_SEQUENCE: Final = re.compile("[1-9][0-9]{0,18}")


class LaneSequence(NamedTuple):
    """
    The place of a message: the lane, and the number in it, from 1.
    """

    lane: str
    sequence: int


def lane_properties(sequence: int, lane: str | None = None) -> dict[str, str]:
    """
    Return the properties by which a receiver puts a message in order.

    For senders, who give each message of a lane the next sequence, from 1, without leaving one out.

    Args:
        sequence: the number of the message in its lane.
        lane: None for the ordering key or else the partition key of the message, which is the usual lane.

    Raises:
        InvalidSequence: no whole number from 1, or a lane that is not text of at least one character.
    """
    properties = {SEQUENCE_PROPERTY: str(check_sequence(sequence))}
    if lane is not None:
        try:
            check_key("lane", lane)
        except InvalidMessage as exc:
            raise InvalidSequence("lane", str(exc).removeprefix("lane: ")) from exc
        properties[LANE_PROPERTY] = lane
    return properties


def lane_sequence(message: ReceivedMessage) -> LaneSequence | None:
    """
    Return the place of a received message, or None if it has no sequence.

    Without a property for it, the lane is the ordering key or else the partition key; messages without either are one
    lane of their own, named "". Topics are not part of it: whoever receives from several topics gives lanes names that
    differ.

    Raises:
        InvalidSequence: the property for the sequence is no whole number from 1.
    """
    properties = message.properties()
    text = properties.get(SEQUENCE_PROPERTY)
    if text is None:
        return None
    if not _SEQUENCE.fullmatch(text) or int(text) > MAX_SEQUENCE:
        problem = f"the property must be a whole number from 1 to {MAX_SEQUENCE} in plain digits; use lane_properties()"
        raise InvalidSequence(SEQUENCE_PROPERTY, problem)
    lane = properties.get(LANE_PROPERTY) or message.ordering_key() or message.partition_key()
    return LaneSequence(lane, int(text))


def check_sequence(value: object) -> int:
    """
    A place in a lane.

    Raises:
        InvalidSequence: no whole number from 1.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_SEQUENCE:
        problem = f"must be a whole number from 1 to {MAX_SEQUENCE}, not {shown(value)}; sequences begin with 1"
        raise InvalidSequence("sequence", problem)
    return value


def check_lane(value: object) -> str:
    """
    The name of a lane: any text, also none.

    Raises:
        InvalidSequence: not text.
    """
    if not isinstance(value, str):
        raise InvalidSequence("lane", f"must be text, not {type(value).__name__}; decode bytes first")
    return value
