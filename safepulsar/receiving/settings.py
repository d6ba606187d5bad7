"""
The settings of the receiving side: its bounds, its patience, and what happens when either ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from safepulsar.errors import InvalidSettings
from safepulsar.settings.base import YEAR_SECONDS, Settings, check_enum, check_number

MAX_SEQUENCE = 2**63 - 1


class GapPolicy(str, Enum):
    """
    What becomes of a lane in which a message is missing.
    """

    WAIT = "WAIT"  # for ever; when a bound is reached, what has to wait is refused with BufferFull
    SKIP_WITH_REPORT = "SKIP_WITH_REPORT"  # after the waiting time, or for room, go on without it, and report the gap
    RAISE = "RAISE"  # after the waiting time, or when a bound is reached, SequenceGap; nothing is skipped


class Unsequenced(str, Enum):
    """
    What an `OrderedReceiver` does with a message that has no sequence, or one that is no number from 1.
    """

    RAISE = "RAISE"  # InvalidSequence; the broker is told to deliver the message again later
    HAND_OUT = "HAND_OUT"  # at once, in no lane; its sequence is None


class Acknowledge(str, Enum):
    """
    How an `OrderedReceiver` acknowledges.
    """

    INDIVIDUAL = "INDIVIDUAL"  # each message; for every type of subscription
    CUMULATIVE = "CUMULATIVE"  # up to a message wherever that is possible; for Exclusive and Failover only


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ReorderSettings(Settings):
    """
    How a `ReorderBuffer` waits.

    Args:
        gap_policy: see `GapPolicy`. The default neither loses nor reorders anything, and stops a lane whose
            message never comes.
        max_wait_seconds: how long a message waits behind a gap before `SKIP_WITH_REPORT` or `RAISE` act.
        max_messages: how many may wait, over all lanes.
        max_bytes: likewise, as the sum of the sizes that were given with them.
        max_lanes: how many lanes are remembered, each with the sequence that it expects: some 250 bytes and its
            name. One more is refused with `TooManyLanes` rather than forgotten silently.
        first_sequence: what a lane begins with that nothing is known of. None: with whatever comes first, so
            that an earlier message which was overtaken on its way counts as a duplicate, and is lost.
    """

    gap_policy: GapPolicy = GapPolicy.WAIT
    max_wait_seconds: float = 30.0
    max_messages: int = 10_000
    max_bytes: int = 64 * 1024 * 1024
    max_lanes: int = 100_000
    first_sequence: int | None = 1

    def __post_init__(self) -> None:
        """
        Check every value.
        """
        me = "ReorderSettings"
        check_enum(me, "gap_policy", self.gap_policy, GapPolicy)
        check_number(me, "max_wait_seconds", self.max_wait_seconds, 0, YEAR_SECONDS)
        check_number(me, "max_messages", self.max_messages, 1, 1_000_000_000, whole=True)
        check_number(me, "max_bytes", self.max_bytes, 1, 1 << 50, whole=True)
        check_number(me, "max_lanes", self.max_lanes, 1, 1_000_000_000, whole=True)
        if self.first_sequence is not None:
            check_number(me, "first_sequence", self.first_sequence, 1, MAX_SEQUENCE, whole=True)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ReceiverSettings(Settings):
    """
    How an `OrderedReceiver` works.

    Args:
        reorder: see `ReorderSettings`. Its `max_messages` also bounds what is in order and not yet handed out.
        acknowledge: see `Acknowledge`.
        unsequenced: see `Unsequenced`.
        commit_messages: progress is saved and acknowledged after so many messages are done, and whenever none
            comes. More than 1 saves less often, and a crash repeats more unless what they did is saved with it.
    """

    reorder: ReorderSettings = ReorderSettings()
    acknowledge: Acknowledge = Acknowledge.INDIVIDUAL
    unsequenced: Unsequenced = Unsequenced.RAISE
    commit_messages: int = 1

    def __post_init__(self) -> None:
        """
        Check every value.
        """
        me = "ReceiverSettings"
        _check_part(me, "reorder", self.reorder)
        check_enum(me, "acknowledge", self.acknowledge, Acknowledge)
        check_enum(me, "unsequenced", self.unsequenced, Unsequenced)
        check_number(me, "commit_messages", self.commit_messages, 1, 1_000_000, whole=True)


def _check_part(owner: str, name: str, value: object) -> None:
    if not isinstance(value, ReorderSettings):
        raise InvalidSettings(f"{owner}.{name}", f"must be ReorderSettings(...), not {type(value).__name__}")
