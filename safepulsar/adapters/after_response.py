"""
Messages that belong to a successful answer: checked and copied in the view, accepted just before the answer goes out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from safepulsar.books.handle import now
from safepulsar.request_context import current_context, use_context

if TYPE_CHECKING:
    from collections.abc import Mapping

    from safepulsar.books.handle import SendHandle
    from safepulsar.sender import RetryingSender
    from safepulsar.serialization import Sendable

_FIRST_ERROR = 400


class AfterResponse:
    """
    The messages of one request that are sent if it succeeds.

    Whoever gets an answer below 400 may rely on it: the messages are accepted by then, so they are delivered or kept also if
    the client goes away or the process is told to end. An error sends nothing. They are not bound by the request's deadline.

    Args:
        sender: accepts them.
    """

    __slots__ = ("_handles", "_sender")

    def __init__(self, sender: RetryingSender) -> None:
        self._sender = sender
        self._handles: list[SendHandle] = []

    def send(
        self,
        topic: str,
        value: Sendable,
        *,
        partition_key: str | None = None,
        ordering_key: str | None = None,
        properties: Mapping[str, str] | None = None,
        sequence_id: int | None = None,
        event_timestamp_ms: int | None = None,
        deliver_at_ms: int | None = None,
        deadline_seconds: float | None = None,
    ) -> None:
        """
        Send one message if the request succeeds; arguments as for `RetryingSender.send`. Copied here, and never blocks.

        Raises:
            InvalidInput: refused, here and now.
            SenderClosed: nothing was sent.
        """
        context = current_context()
        with use_context(None if context is None else context.without_deadline()):
            handle = self._sender._prepare(
                self._sender._started(), topic, value, partition_key, ordering_key, properties, sequence_id,
                event_timestamp_ms, deliver_at_ms, deadline_seconds,
            )  # fmt: skip
        self._handles.append(handle)

    def take(self, status: int) -> list[SendHandle]:
        """
        What is to be accepted before an answer with `status` goes out, once; their deadlines begin now.
        """
        handles, self._handles = self._handles, []
        if status >= _FIRST_ERROR:
            return []
        for handle in handles:
            waited = now() - handle._accepted_at
            handle._accepted_at += waited
            handle._deadline += waited
        return handles

    def __len__(self) -> int:
        """
        How many are not accepted yet.
        """
        return len(self._handles)
