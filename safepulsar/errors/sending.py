"""
What becomes of messages, and of calls that concern them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from safepulsar.errors.base import SafePulsarError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from safepulsar.message import Attempt, Certainty, Message


class SendFailed(SafePulsarError):
    """
    An accepted message was not confirmed: here it is, with what is known about it.

    Attributes:
        message: the message as it was accepted, or None where only its fate is known.
        attempts: what was tried, in order; empty if nothing could be tried in time.
        certainty: `NOT_STORED` or `MAYBE_STORED`.
        failed_message_id: its id in the store of failed messages, or None if it could not be kept there.
        in_outbox: it is in the outbox, from where the next run sends it.
    """

    def __init__(
        self,
        message: Message,
        *,
        attempts: Sequence[Attempt],
        certainty: Certainty,
        failed_message_id: int | None,
        cause: str,
        in_outbox: bool = False,
    ) -> None:
        kept = "NOT kept in a store: this exception holds the only copy"
        if failed_message_id is not None:
            kept = f"kept as failed message {failed_message_id}; replay it"
        elif in_outbox:
            kept = "it stays in the outbox, and the next run sends it"
        tried = f"after {len(attempts)} attempt{'' if len(attempts) == 1 else 's'}"
        super().__init__(f"message for topic {message.topic!r} is {certainty.value} {tried}: {cause} ({kept})")
        self.message = message
        self.attempts = tuple(attempts)
        self.certainty = certainty
        self.failed_message_id = failed_message_id
        self.in_outbox = in_outbox

    @property
    def maybe_stored(self) -> bool:  # type: ignore[override]  # a fact of the instance here
        """
        True if the broker could have stored the message.
        """
        return self.certainty.value == "MAYBE_STORED"


class DeadlineExceeded(SafePulsarError):
    """
    The time allowed is over. As the cause of a `SendFailed`, the certainty there says what is known.
    """

    retriable = True


class QueueFull(SafePulsarError):
    """
    The bound on messages or bytes in flight is reached; the message was not accepted and is not stored.
    """

    retriable = True


class SendCancelled(SafePulsarError):
    """
    The message was taken back, by `cancel()`, before it was handed over: it is not stored, and not kept.
    """


class LanePaused(SafePulsarError):
    """
    A message of this ordering key failed, and what comes later must not overtake it.

    Raised by a call, the message was not accepted and is not stored. As the cause of a `SendFailed`, it stood behind the
    one that failed, and follows it in the store.

    Attributes:
        topic: the full name.
        failed_message_id: the one that stopped the lane, in the store; None if it is not kept yet.
    """

    retriable = True

    def __init__(self, topic: str, *, cause: str, failed_message_id: int | None) -> None:
        which = "a message" if failed_message_id is None else f"failed message {failed_message_id}"
        super().__init__(
            f"its lane on topic {topic!r} is paused behind {which} ({cause}): replay or purge what is kept of the lane, "
            "then resume it"
        )
        self.topic = topic
        self.failed_message_id = failed_message_id


class LaneNotPaused(SafePulsarError):
    """
    Only a lane that is paused can be resumed; this one goes, or was resumed before.
    """


class SenderClosed(SafePulsarError):
    """
    The sender takes no more messages; the message was not accepted and is not stored.
    """


class PoolClosed(SafePulsarError):
    """
    The producer pool is closed and lends no more producers.
    """


class CreationBackoff(SafePulsarError):
    """
    Creating this producer failed a moment ago; it is not tried again before `retry_after_seconds`.

    Attributes:
        retry_after_seconds: how long the pool still waits before it asks the broker again.
    """

    retriable = True

    def __init__(self, topic: str, retry_after_seconds: float) -> None:
        super().__init__(f"topic {topic!r}: the last creation failed; next try in {retry_after_seconds:.2f} s")
        self.retry_after_seconds = retry_after_seconds


class ForkedProcess(SafePulsarError):
    """
    The object belongs to the parent process: only the parent learns the fate of its messages.
    """


class NoRunningLoop(SafePulsarError, RuntimeError):
    """
    An `AsyncSender` was used in a thread where no event loop runs.
    """


class NoCurrentSender(SafePulsarError, RuntimeError):
    """
    An adapter was asked for its sender where there is none: outside a request, or before it was given to the application.
    """
