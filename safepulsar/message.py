"""
What is sent and what became of it: plain, frozen data, detached from any request, thread or client.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping


# Where a message of an exactly-once producer carries its number, so that it is recognised in the topic.
ID_PROPERTY: Final = "safepulsar-id"


def numbered(number: int, mark: str) -> str:
    """
    The value of `ID_PROPERTY`: the number, and the mark of whoever counts, because others count from 1, too.
    """
    return f"{number}-{mark}" if mark else str(number)


class Fate(str, Enum):
    """
    How an accepted message ended; each ends in exactly one of these.
    """

    DELIVERED = "DELIVERED"  # acknowledged by the broker, with its message id
    DUPLICATE = "DUPLICATE"  # the broker says that it had stored this sequence id already
    FAILED = "FAILED"  # not confirmed; `Certainty` says what is known


class Certainty(str, Enum):
    """
    What is known of a failed message.
    """

    NOT_STORED = "NOT_STORED"  # surely not in the topic: sending it again makes no duplicate
    MAYBE_STORED = "MAYBE_STORED"  # handed over, answer unknown: look, or accept a duplicate


class MessageId(NamedTuple):
    """
    Where the broker stored a message. Hashable, comparable, picklable (the client's own is not).

    `ledger_id == entry_id == -1` is how a broker with deduplication acknowledges what it had already.
    """

    ledger_id: int
    entry_id: int
    partition: int = -1
    batch_index: int = -1

    def __str__(self) -> str:
        """
        Pulsar's usual notation.
        """
        return f"{self.ledger_id}:{self.entry_id}:{self.partition}:{self.batch_index}"


class Outgoing(Protocol):
    """
    What a transport reads of a message: the attributes of `Message` that go on the wire.

    The sender's handles have them too, so that the way of a message needs one object, not two.
    """

    @property
    def payload(self) -> bytes | None: ...  # noqa: D102 - see Message
    @property
    def properties(self) -> Mapping[str, str] | None: ...  # noqa: D102
    @property
    def partition_key(self) -> str | None: ...  # noqa: D102
    @property
    def ordering_key(self) -> str | None: ...  # noqa: D102
    @property
    def sequence_id(self) -> int | None: ...  # noqa: D102
    @property
    def event_timestamp_ms(self) -> int | None: ...  # noqa: D102
    @property
    def deliver_at_ms(self) -> int | None: ...  # noqa: D102


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """
    One message as accepted: everything needed to send it again exactly.

    Args:
        topic: full topic name, `persistent://tenant/namespace/name`.
        payload: the bytes, or None for a tombstone (deletes the key in a compacted topic).
        properties: text to text; copied.
        partition_key: routes to a partition and names the key of the message.
        ordering_key: orders within a Key_Shared subscription; beats the partition key there.
        sequence_id: set by the application for deduplication, from 1; None lets the client count.
        event_timestamp_ms: the application's time of the event, Unix milliseconds.
        deliver_at_ms: not before this time (Shared and Key_Shared subscriptions), Unix milliseconds.
    """

    topic: str
    payload: bytes | None
    properties: Mapping[str, str] | None = None
    partition_key: str | None = None
    ordering_key: str | None = None
    sequence_id: int | None = None
    event_timestamp_ms: int | None = None
    deliver_at_ms: int | None = None

    @property
    def lane_key(self) -> str | None:
        """
        The key whose messages keep their order: the ordering key, or else the partition key.
        """
        return self.ordering_key if self.ordering_key is not None else self.partition_key

    def __repr__(self) -> str:
        """
        Says which message it is without its payload, keys or property values: they may be private.
        """
        size = "tombstone" if self.payload is None else f"{len(self.payload)} bytes"
        return f"<Message for {self.topic!r}, {size}, {len(self.properties or ())} properties>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """
    One try to get a message stored.

    Args:
        started_at: Unix time in seconds.
        elapsed_seconds: until the answer, or until waiting ended.
        code: Pulsar's name of the result, or the name of our error; never a text that could quote a payload.
        maybe_stored: whether this try could have stored the message.
        delay_seconds: the wait before the next try, None if there was none.
    """

    started_at: float
    elapsed_seconds: float
    code: str
    maybe_stored: bool
    delay_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SendResult:
    """
    A message that is in the topic.

    Args:
        topic: as sent.
        fate: `DELIVERED`, or `DUPLICATE` if the broker had this sequence id already.
        message_id: where; (-1, -1) for a duplicate.
        attempts: how many tries it took, at least 1.
        elapsed_seconds: from the call to the acknowledgement.
    """

    topic: str
    fate: Fate
    message_id: MessageId
    attempts: int
    elapsed_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedMessage:
    """
    A message that was accepted and not confirmed, as the store keeps it.

    Args:
        message: what to send again.
        certainty: whether it may be in the topic all the same.
        error: the last code, e.g. `ProducerFenced` or `DeadlineExceeded`.
        attempts: everything that was tried, oldest first, over all replays.
        accepted_at: Unix time in seconds.
        first_failed_at: Unix time in seconds.
        last_failed_at: Unix time in seconds.
        producer_name: of the producer that tried, where it was named.
        trace_id: of the request that sent it, where there was one.
        id: the store's number, rising in the order of keeping; None before it is kept.
    """

    message: Message
    certainty: Certainty
    error: str
    attempts: tuple[Attempt, ...] = field(default=())
    accepted_at: float
    first_failed_at: float
    last_failed_at: float
    producer_name: str | None = None
    trace_id: str | None = None
    id: int | None = None
