"""
The two kinds of broker that the tests run on, what each can do, and reading a topic back.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, TypeAlias

import pulsar

from safepulsar.local_broker import LocalBroker
from tools.pulsar.apache_pulsar import ApachePulsar

if TYPE_CHECKING:
    import _pulsar

_EMPTY_SECONDS: Final = 0.5
_STALLED_SECONDS: Final = 5.0
_LITE_IDLE_SECONDS: Final = 0.3  # pulsar-lite says too early that there is no more


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """
    What a kind of broker can do beyond storing what it is sent.

    Attributes:
        deduplication: drops a sequence id that its producer name has sent already; on in `public/default`.
        access_modes: keeps producers off a topic that another has exclusively, and fences.
        admin: has an admin interface, `RealBroker.admin`.
    """

    deduplication: bool
    access_modes: bool
    admin: bool


class LiteBroker(LocalBroker):
    """
    pulsar-lite: starts in 0.05 s.
    """

    features: ClassVar[Features] = Features(deduplication=False, access_modes=False, admin=False)


class RealBroker(ApachePulsar):
    """
    Apache Pulsar: starts in 5 s, after a kill in 6 s, on a busy machine in twice that or more.
    """

    features: ClassVar[Features] = Features(deduplication=True, access_modes=True, admin=True)


# Either kind; what is common to both is `BrokerProcess` and `features`.
Broker: TypeAlias = LiteBroker | RealBroker


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """
    One message as a reader found it. The client library shows readers no sequence id.

    Attributes:
        position: of its message id, see `position_of`.
        partition_key: empty where there is none, like the ordering key.
        event_timestamp: in milliseconds, 0 where there is none.
        publish_timestamp: in milliseconds.
    """

    position: tuple[int, int, int, int]
    payload: bytes
    properties: dict[str, str]
    partition_key: str
    ordering_key: str
    producer_name: str
    event_timestamp: int
    publish_timestamp: int


def position_of(message_id: _pulsar.MessageId) -> tuple[int, int, int, int]:
    """
    Return a message id as ledger, entry, batch index and partition: comparable and, unlike the id, hashable.
    """
    return message_id.ledger_id(), message_id.entry_id(), message_id.batch_index(), message_id.partition()


def read_topic(
    broker: Broker,
    topic: str,
    *,
    until: int = 0,
    idle_seconds: float = 0.0,
    timeout_seconds: float = 30.0,
) -> list[Record]:
    """
    Return everything that a topic holds, from the earliest message on, by a client of its own.

    Reads on after `until`, to the end, so that duplicates are found too. A partitioned topic is read by partition.

    Args:
        broker: must run, and not be frozen.
        topic: not partitioned; one that is missing is made, and is empty.
        until: wait for at least so many.
        idle_seconds: go on until so long none came, for what may still be under way. The default ends where the broker
            says that there is no more.
        timeout_seconds: for all of it.

    Raises:
        AssertionError: the topic did not hold `until` messages in the time allowed, or never came to an end.
    """
    if isinstance(broker, LiteBroker):
        idle_seconds = max(idle_seconds, _LITE_IDLE_SECONDS)
    client = pulsar.Client(broker.url, logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error))
    try:
        records = _read(client, topic, until, idle_seconds, time.monotonic() + timeout_seconds)
        # By their places in the topic, because pulsar-lite hands a longer one to a reader in pieces that overlap.
        return sorted(records, key=lambda record: record.position)
    finally:
        client.close()


def listening_on(broker: LocalBroker | ApachePulsar) -> list[str]:
    """
    Return the addresses and ports that a broker's process listens on, as Linux shows them in `/proc/net`.
    """
    sockets = set()
    for descriptor in Path(f"/proc/{broker.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            sockets.add(str(descriptor.readlink()))
    rows = [row.split() for table in ("tcp", "tcp6") for row in Path(f"/proc/net/{table}").read_text().splitlines()[1:]]
    return [row[1] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets]


def _read(client: pulsar.Client, topic: str, until: int, idle_seconds: float, deadline: float) -> list[Record]:
    last: _pulsar.MessageId = pulsar.MessageId.earliest
    reader = client.create_reader(topic, last)
    records: list[Record] = []
    seen: set[tuple[int, int, int, int]] = set()
    while True:
        enough = len(records) >= until
        # pulsar-lite answers that question about an empty topic with an error, so there the first read has to tell.
        if enough and records and not idle_seconds and not reader.has_message_available():
            return records
        seconds = deadline - time.monotonic()
        if seconds <= 0:
            raise AssertionError(
                f"{reader.topic()} held {len(records)} messages, not {until}, or did not come to an end"
            )
        if enough and (idle_seconds or not records):
            seconds = min(seconds, idle_seconds or _EMPTY_SECONDS)
        try:
            message = reader.read_next(max(1, round(min(seconds, _STALLED_SECONDS) * 1000)))
        except pulsar.Timeout:
            if enough:
                return records
            # pulsar-lite sometimes stops handing out in the middle: another reader goes on from there.
            reader.close()
            reader = client.create_reader(topic, last)
        else:
            last = message.message_id()
            record = _record(message)
            # pulsar-lite hands some messages to a reader more than once: the same place in the topic is no duplicate.
            if record.position not in seen:
                seen.add(record.position)
                records.append(record)


def _record(message: pulsar.Message) -> Record:
    return Record(
        position=position_of(message.message_id()),
        payload=message.data(),
        properties=message.properties(),
        partition_key=message.partition_key(),
        ordering_key=message.ordering_key(),
        producer_name=message.producer_name(),
        event_timestamp=message.event_timestamp(),
        publish_timestamp=message.publish_timestamp(),
    )
