"""
What becomes of a failed message that is claimed, fails again or is left behind: pure rules, shared by every store.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from safepulsar.errors import InvalidInput
from safepulsar.message import Attempt, Certainty

if TYPE_CHECKING:
    from safepulsar.message import FailedMessage

MAX_LEASE_SECONDS = 86_400.0
MAX_CLAIM = 100_000
CLAIM_MAX_BYTES = 16 * 1024 * 1024

# A row that is replayed every hour for years must not grow for years.
_FIRST_ATTEMPTS, _LAST_ATTEMPTS = 10, 90


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedAgain:
    """
    A replay of one message that was not confirmed.

    Args:
        id: the failed message.
        attempts: what this replay tried, oldest first.
        certainty: what this replay alone knows; the store never turns `MAYBE_STORED` back.
        error: the last code.
    """

    id: int
    attempts: tuple[Attempt, ...]
    certainty: Certainty
    error: str


def is_live(lease_ends_at: float, now: float) -> bool:
    """
    Whether a lease still holds.

    One that ends later than any lease can was taken before the clock went back by more than that: it counts as
    over, so that a wrong clock locks nothing up for long.
    """
    return now < lease_ends_at <= now + MAX_LEASE_SECONDS


def left_behind(message: FailedMessage) -> FailedMessage:
    """
    The message after its lease ran out: whoever held it may have sent it and died before saying so.
    """
    return replace(message, certainty=Certainty.MAYBE_STORED)


def failed_again(message: FailedMessage, failure: FailedAgain, now: float) -> FailedMessage:
    """
    The message after one more replay: the attempts are added up, and a doubt once raised stays.

    Of more than 100 attempts, the first 10 and the last 90 remain.
    """
    attempts = message.attempts + failure.attempts
    if len(attempts) > _FIRST_ATTEMPTS + _LAST_ATTEMPTS:
        attempts = attempts[:_FIRST_ATTEMPTS] + attempts[-_LAST_ATTEMPTS:]
    doubtful = Certainty.MAYBE_STORED in (message.certainty, failure.certainty)
    return replace(
        message,
        attempts=attempts,
        certainty=Certainty.MAYBE_STORED if doubtful else Certainty.NOT_STORED,
        error=failure.error,
        last_failed_at=now,
    )


def check_owner(owner: str) -> None:
    """
    An owner needs a name that tells it from all others.

    Raises:
        InvalidInput: the owner has no name that could be told from others.
    """
    if not isinstance(owner, str) or not owner.isprintable() or not owner:
        raise InvalidInput(
            "owner", "must be printable text that no other replayer uses, e.g. host, process and a random part"
        )


def check_lease(lease_seconds: float) -> None:
    """
    A lease is finite, so that what a dead owner held comes back.

    Raises:
        InvalidInput: not a number of seconds, or longer than a lease may be.
    """
    number = isinstance(lease_seconds, (int, float)) and not isinstance(lease_seconds, bool)
    if not number or not 0 < lease_seconds <= MAX_LEASE_SECONDS:
        raise InvalidInput(
            "lease_seconds", f"must be above 0 and at most {MAX_LEASE_SECONDS:g}, not {lease_seconds!r:.80}"
        )


def check_claim(owner: str, limit: int, lease_seconds: float, max_bytes: int) -> None:
    """
    The arguments of `claim`.

    Raises:
        InvalidInput: one of them is out of its range.
    """
    check_owner(owner)
    check_lease(lease_seconds)
    if type(limit) is not int or not 1 <= limit <= MAX_CLAIM:
        raise InvalidInput("limit", f"must be a whole number from 1 to {MAX_CLAIM}, not {limit!r:.80}")
    if type(max_bytes) is not int or max_bytes < 1:
        raise InvalidInput("max_bytes", f"must be a whole number of at least 1, not {max_bytes!r:.80}")
