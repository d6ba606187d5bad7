"""
What a topic of the fake broker holds: every message that was stored, in order, and each producer's last sequence id.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from safepulsar.message import ID_PROPERTY, MessageId

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from safepulsar.message import Outgoing

_SHOWN_BYTES = 40
# How a broker with deduplication acknowledges what it had already.
_HAD_IT = MessageId(-1, -1)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredMessage:
    """
    One message in a topic, as any reader would find it.

    Args:
        topic: full topic name.
        message_id: where it is; the messages of one batch share ledger and entry.
        payload: the bytes, None for a tombstone.
        properties: text to text.
        partition_key: None where there is none.
        ordering_key: None where there is none.
        sequence_id: given by the application, or else counted by the producer.
        producer_name: of the producer that sent it.
        event_timestamp_ms: Unix milliseconds, None where there is none.
        deliver_at_ms: Unix milliseconds, None where there is none.
    """

    topic: str
    message_id: MessageId
    payload: bytes | None
    properties: Mapping[str, str]
    partition_key: str | None
    ordering_key: str | None
    sequence_id: int
    producer_name: str
    event_timestamp_ms: int | None
    deliver_at_ms: int | None

    def __repr__(self) -> str:
        # Unlike everywhere else in this package with the payload: this is test data, and what a failed assertion shows.
        if self.payload is None:
            shown = "tombstone"
        else:
            shown = repr(self.payload[:_SHOWN_BYTES]) + ("..." if len(self.payload) > _SHOWN_BYTES else "")
        keys = "".join(
            f", {name}={value!r}"
            for name, value in (("partition_key", self.partition_key), ("ordering_key", self.ordering_key))
            if value is not None
        )
        return f"<StoredMessage {self.message_id} {shown}{keys}, sequence_id={self.sequence_id}>"


class Wire(NamedTuple):
    """
    A copy of what a producer was given: later changes of the caller's objects change nothing here.
    """

    payload: bytes | None
    properties: dict[str, str]
    partition_key: str | None
    ordering_key: str | None
    sequence_id: int
    event_timestamp_ms: int | None
    deliver_at_ms: int | None

    @classmethod
    def of(cls, message: Outgoing, sequence_id: int, recognised_by: str | None = None) -> Wire:
        """
        Copy `message`, which goes by `sequence_id`, and carries what it is recognised by, if anything.
        """
        number = {} if recognised_by is None else {ID_PROPERTY: recognised_by}
        return cls(
            None if message.payload is None else bytes(message.payload),
            {**(message.properties or {}), **number},
            message.partition_key,
            message.ordering_key,
            sequence_id,
            message.event_timestamp_ms,
            message.deliver_at_ms,
        )

    def size_bytes(self) -> int:
        """
        What counts towards the broker's limit.
        """
        keys = sum(len(key.encode()) for key in (self.partition_key, self.ordering_key) if key is not None)
        properties = sum(len(name.encode()) + len(value.encode()) for name, value in self.properties.items())
        return len(self.payload or b"") + keys + properties


class TopicLog:
    """
    One topic, append-only. Not locked: the broker's lock guards it.

    Args:
        name: full topic name.
        ledger_id: of all of its message ids.
        deduplication: drop a sequence id at or below the highest of its producer name.
    """

    def __init__(self, name: str, ledger_id: int, *, deduplication: bool) -> None:
        self.name = name
        self.messages: list[StoredMessage] = []
        self._ledger_id = ledger_id
        self._entries = 0
        self._deduplication = deduplication
        self._highest: dict[str, int] = {}

    def last_sequence_id(self, producer_name: str) -> int:
        """
        The highest sequence id known of a producer name, -1 if none: without deduplication none is kept.
        """
        return self._highest.get(producer_name, -1)

    def append(self, producer_name: str, batch: Sequence[Wire], *, batched: bool) -> MessageId:
        """
        Store a batch as one entry, unless it is a duplicate; the id of its last message.

        As with the real broker and the official client, a batch is known by the sequence id of its *first* message:
        that one decides for all, and is the one that is remembered.
        """
        first = batch[0].sequence_id
        last_index = len(batch) - 1 if batched else -1
        if self._deduplication:
            if first <= self._highest.get(producer_name, -1):
                return MessageId(_HAD_IT.ledger_id, _HAD_IT.entry_id, -1, last_index)
            self._highest[producer_name] = first
        entry, self._entries = self._entries, self._entries + 1
        for index, wire in enumerate(batch):
            self.messages.append(
                StoredMessage(
                    topic=self.name,
                    message_id=MessageId(self._ledger_id, entry, -1, index if batched else -1),
                    producer_name=producer_name,
                    **wire._asdict(),
                )
            )
        return MessageId(self._ledger_id, entry, -1, last_index)
