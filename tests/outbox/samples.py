"""
Messages for an outbox, and one that sends them without a broker.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from safepulsar.message import Certainty, FailedMessage, Message

if TYPE_CHECKING:
    from collections.abc import Sequence

    from safepulsar.outbox import OutboxRow

ORDERS = "persistent://public/default/orders"
PAYMENTS = "persistent://public/default/payments"


def name_of(message: Message) -> str:
    """
    The producer name of a message: one for each topic.
    """
    return f"shop-{message.topic.rpartition('/')[2]}"


def order(payload: bytes | None = b"order", *, topic: str = ORDERS, key: str | None = None) -> Message:
    """
    A message with little in it.
    """
    return Message(topic=topic, payload=payload, partition_key=key)


def orders(*payloads: str) -> list[Message]:
    """
    Messages with these payloads.
    """
    return [order(payload.encode()) for payload in payloads]


def failure(message: Message, sequence_id: int) -> FailedMessage:
    """
    What the sender keeps of a row that could not be sent.
    """
    return FailedMessage(
        message=Message(topic=message.topic, payload=message.payload, sequence_id=sequence_id),
        certainty=Certainty.MAYBE_STORED,
        error="SendTimeout",
        accepted_at=1.0,
        first_failed_at=2.0,
        last_failed_at=2.0,
        producer_name=name_of(message),
    )


class Sender:
    """
    Notes what it is handed out.
    """

    def __init__(self) -> None:
        self.sent: list[int] = []
        self.not_yet: list[int] = []
        self.payloads: dict[int, str] = {}

    def __call__(self, rows: Sequence[OutboxRow], is_next: bool) -> None:  # noqa: FBT001 - as the outbox calls it
        """
        For `put`.
        """
        (self.sent if is_next else self.not_yet).extend(row.id for row in rows)
        self.payloads.update((row.id, (row.message.payload or b"").decode()) for row in rows)
