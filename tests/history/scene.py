"""
A history under construction, for the checker's own tests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from safepulsar.message import Message, MessageId
from safepulsar.testing import StoredMessage
from tests.history import History, check

if TYPE_CHECKING:
    from tests.history import Rules
    from tests.history.recorder import Readable

TOPIC: Final = "persistent://public/default/orders"
_LEDGER: Final = 7


def identify(message: Readable) -> str | None:
    """
    The property `id` names a message.
    """
    return message.properties.get("id")


class Scene:
    """
    A history under construction, with the topic beside it that a reader is going to find.
    """

    def __init__(self) -> None:
        self.history = History()
        self.topic: list[StoredMessage] = []
        self.messages: dict[str, Message] = {}

    def attempt(self, identity: str, *, key: str | None = "customer-1") -> None:
        """
        Attempt a message.
        """
        message = Message(
            topic=TOPIC, payload=f"order {identity}".encode(), properties={"id": identity}, partition_key=key
        )
        self.messages[identity] = message
        self.history.attempted(identity, TOPIC, message)

    def accept(self, identity: str, *, key: str | None = "customer-1") -> None:
        """
        Attempt a message and have it accepted.
        """
        self.attempt(identity, key=key)
        self.history.accepted(identity)

    def store(self, identity: str) -> MessageId:
        """
        The topic gets a copy.
        """
        message = self.messages[identity]
        stored = StoredMessage(
            topic=TOPIC,
            message_id=MessageId(_LEDGER, len(self.topic)),
            payload=message.payload,
            properties=dict(message.properties or {}),
            partition_key=message.partition_key,
            ordering_key=None,
            sequence_id=len(self.topic),
            producer_name="shop",
            event_timestamp_ms=None,
            deliver_at_ms=None,
        )
        self.topic.append(stored)
        return stored.message_id

    def deliver(self, *identities: str, key: str | None = "customer-1") -> None:
        """
        Accept, store and acknowledge each.
        """
        for identity in identities:
            self.accept(identity, key=key)
            self.history.acked(identity, self.store(identity))

    def read(self) -> History:
        """
        A reader reads the topic: the history is complete.
        """
        self.history.found(TOPIC, self.topic, identify)
        return self.history

    def kinds(self, rules: Rules | None = None) -> list[tuple[str, str]]:
        """
        Read the topic and judge: each violation's kind and message.
        """
        return [(violation.kind.value, violation.identity) for violation in check(self.read(), rules).violations]
