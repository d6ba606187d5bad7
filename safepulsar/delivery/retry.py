"""
Whether and when a failed attempt is made again: a pure decision, made of tenacity's strategies.

The loop that carries it out belongs to the send queue, because a retry happens at its place in the order and
under the message's deadline.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

# Not later: a child forked while another thread imports waits for ever where it imports the same.
from tenacity import RetryCallState, Retrying, stop_after_attempt, wait_exponential, wait_random

if TYPE_CHECKING:
    from safepulsar.errors import SafePulsarError
    from safepulsar.settings import RetrySettings


@dataclass(frozen=True, slots=True)
class Again:
    """
    Try again after `delay_seconds`.
    """

    delay_seconds: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """
    Don't try again; `why` is for the error's text.
    """

    why: str


class RetryPolicy:
    """
    Decides by the error, the number of attempts made and the time left. Stateless and thread-safe.

    Args:
        settings: see `RetrySettings`.
    """

    def __init__(self, settings: RetrySettings) -> None:
        self._settings = settings
        self._stop = stop_after_attempt(settings.max_retries + 1)
        # Not wait_exponential_jitter: it cuts the sum, so that at the longest delay all senders come back at once.
        doubled = wait_exponential(multiplier=settings.first_delay_seconds, max=settings.max_delay_seconds)
        self._wait = doubled + wait_random(0, settings.jitter_seconds)
        self._clockless = Retrying(stop=self._stop, wait=self._wait)

    def decide(self, error: SafePulsarError, *, attempts: int, seconds_left: float) -> Again | GiveUp:
        """
        What to do after attempt number `attempts` (from 1) failed with `error`.
        """
        if not error.retriable:
            return GiveUp("this error does not pass by itself")
        if error.maybe_stored and not self._settings.resend_maybe_stored:
            return GiveUp("it may be stored, and sending it again could make a duplicate")
        state = RetryCallState(self._clockless, fn=None, args=(), kwargs={})
        state.attempt_number = attempts
        if self._stop(state):
            return GiveUp(f"{attempts} attempts are used up")
        delay = float(self._wait(state))
        if delay >= seconds_left:
            return GiveUp("the next attempt would begin after the deadline")
        return Again(delay)
