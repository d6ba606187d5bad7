"""
What reading back has found in the topic, and what still waits to be sent: an outbox's messages, and replayed ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from safepulsar.books.handle import State, now
from safepulsar.message import MessageId

if TYPE_CHECKING:
    from collections.abc import Mapping

    from safepulsar.books.handle import SendHandle
    from safepulsar.delivery.send_queue import SendQueue

_DUPLICATE = MessageId(-1, -1)


class Found:
    """
    Messages of one producer name that are in the topic and must not be sent.

    Attributes:
        rows: failed messages that the store kept as `MAYBE_STORED`, by their ids there.
        numbers: messages of the outbox, by their numbers.
    """

    def __init__(self) -> None:
        self.rows: dict[int, MessageId] = {}
        self.numbers: Mapping[int, MessageId] = {}

    def settle_locked(self, queue: SendQueue) -> list[SendHandle]:
        """
        Take them out of the waiting line, as duplicates; the ledger's lock is held.
        """
        if not self.rows and not self.numbers:
            return []
        known = [handle for handle in queue.waiting if self._has(handle)]
        if known:
            rest = [handle for handle in queue.waiting if not self._has(handle)]
            queue.waiting.clear()
            queue.waiting.extend(rest)
            moment = now()
            for handle in known:
                handle._message_id, handle._index, handle._final_at = _DUPLICATE, -1, moment
                handle._state = State.FINAL
            queue.ledger.settle_locked(sum(handle.size_bytes for handle in known), duplicate=len(known))
            if queue.outbox is not None:
                queue.outbox.final_locked(handle.sequence_id or 0 for handle in known if handle._failed_id is None)
        return known

    def _has(self, handle: SendHandle) -> bool:
        if handle._state != State.QUEUED:  # cancelled
            return False
        if handle._failed_id is not None:
            return handle._failed_id in self.rows
        return handle.sequence_id in self.numbers
