"""
What a store says about itself and about single messages.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, TypedDict

from safepulsar.errors import NoSuchFailedMessage

if TYPE_CHECKING:
    from safepulsar.failed_messages.filter import FailedMessageState
    from safepulsar.message import MessageId


class StoreStats(TypedDict):
    """
    A store in numbers; the keys are always the same.

    kept: wait for a replay.
    claimed: held by a replayer.
    delivered: replayed or acknowledged late, and not purged yet.
    corrupted: rows that this object found damaged and that were not purged since.
    oldest_age_seconds: since the first failure of the one kept first; 0.0 if there is none.
    bytes: in use, on disk or in memory.
    """

    kept: int
    claimed: int
    delivered: int
    corrupted: int
    oldest_age_seconds: float
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedMessageStatus:
    """
    What became of one failed message, also after its payload is gone.

    Args:
        id: of the failed message.
        topic: full name.
        state: see `FailedMessageState`.
        owner: who holds it if claimed; who replayed it if delivered, None if the acknowledgement came late.
        lease_ends_at: Unix time in seconds, if claimed.
        delivered_at: Unix time in seconds, if delivered.
        message_id: where it is in the topic, if delivered.
    """

    id: int
    topic: str
    state: FailedMessageState
    owner: str | None = None
    lease_ends_at: float | None = None
    delivered_at: float | None = None
    message_id: MessageId | None = None


def absence(failed_message_id: int, status: FailedMessageStatus | None) -> NoSuchFailedMessage:
    """
    The error for a message that is not here any more, with what is known of it.
    """
    if status is None or status.delivered_at is None:
        return NoSuchFailedMessage(f"there is no failed message {failed_message_id}: never kept here, or purged")
    how = "acknowledged late" if status.owner is None else "replayed"
    when = datetime.fromtimestamp(status.delivered_at, timezone.utc).isoformat(timespec="seconds")
    return NoSuchFailedMessage(
        f"failed message {failed_message_id} is in topic {status.topic!r}: {how} at {when} as message id "
        f"{status.message_id}; its payload is not kept any more"
    )
