"""
A partitioned topic: one producer per partition, and each key always in the same one, as Java's producers do it.

The client library's own partitioned producer is not used: its hash puts keys into other partitions than Java's, it
splits batches, and its flush, router and sequence ids have hazards of their own.
"""

from __future__ import annotations

import logging
import sys
import threading
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from safepulsar.broker.transport import OnResult, Slot, TransportProducer
    from safepulsar.errors import BrokerError
    from safepulsar.message import MessageId, Outgoing
    from safepulsar.settings import ProducerSettings

log = logging.getLogger("safepulsar")

_UTF_16: Final = f"utf-16-{sys.byteorder[0]}e"  # without a byte order mark
_MOST_SLOTS: Final = 65_536


def java_string_hash(text: str) -> int:
    """
    Return Java's `String.hashCode` with its sign cleared: what the Java and Go clients route by unless told otherwise.
    """
    value = 0
    for unit in memoryview(text.encode(_UTF_16, "surrogatepass")).cast("H"):
        value = (31 * value + unit) & 0xFFFF_FFFF
    return value & 0x7FFF_FFFF


class PartitionCounts:
    """
    How many partitions each topic had when a producer was opened last: keys go elsewhere when it has others. Thread-safe.
    """

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._lock = threading.Lock()  # guards it

    def opened(self, topic: str, count: int) -> None:
        """
        A producer of a partitioned topic is open; tell the log if the one before it knew others.
        """
        with self._lock:
            before, self._counts[topic] = self._counts.get(topic, count), count
        if before != count:
            log.warning("safepulsar.partitions_changed", extra={"topic": topic, "before": before, "now": count})


class PartitionedProducer:
    """
    A `safepulsar.broker.transport.TransportProducer` of all partitions of a topic. Thread-safe as described there.

    The partition of a message follows from its partition key; without one, from its ordering key, whose messages
    would lose their order in several; without either, from its sequence id, so that a message that is sent again meets
    the deduplication that knows it. Messages with none of these take turns.

    One call carries one message: a batch is one entry of one partition, and the keys of several messages belong to
    several. A topic that gets more partitions is seen by the next producer that is opened, and `PartitionCounts` tells of
    it: so no key moves while anything of it is on its way.

    Attributes:
        settings: what it was made from.
        name: the producer name; where the broker chooses it, that of the first partition.
        batch_max_messages: 1.
    """

    batch_max_messages = 1

    def __init__(self, settings: ProducerSettings, partitions: Sequence[TransportProducer]) -> None:
        self.settings = settings
        self.name = partitions[0].name
        self._partitions = partitions
        self._turns = count()
        # Which partition a slot waits for: the answer does not tell. By identity, as a slot is a dict filled by C.
        # Slots are read soon after they were sent, so the oldest of many is nobody's any more.
        self._partition_of: dict[int, TransportProducer] = {}

    @property
    def mark(self) -> str:
        """
        See `TransportProducer`; the same for each partition.
        """
        return self._partitions[0].mark

    @mark.setter
    def mark(self, mark: str) -> None:
        for each in self._partitions:
            each.mark = mark

    def __repr__(self) -> str:
        return f"<PartitionedProducer {self.name!r} of {self.settings.topic!r}, {len(self._partitions)} partitions>"

    @staticmethod
    def settings_of_one(settings: ProducerSettings) -> ProducerSettings:
        """
        Return the settings of the producer of one partition.
        """
        return replace(settings, batch_max_messages=1)

    def send_batch(self, messages: Sequence[Outgoing], on_result: OnResult) -> None:
        """
        Hand over the one message to its partition; see `TransportProducer.send_batch`.

        Raises:
            BrokerError: refused before anything left; surely not stored.
        """
        (message,) = messages
        partition = self._partitions[self._route(message)]
        slots = self._partition_of
        slot = id(getattr(on_result, "__self__", None))
        slots.pop(slot, None)
        slots[slot] = partition
        if len(slots) > _MOST_SLOTS:
            del slots[next(iter(slots))]
        partition.send_batch(messages, on_result)

    def flush(self) -> None:
        """
        Flush every partition.
        """
        for each in self._partitions:
            each.flush()

    def read(self, slot: Slot) -> MessageId | BrokerError | None:
        """
        Say what a slot says; see `TransportProducer.read`.
        """
        return self._partition_of.get(id(slot), self._partitions[0]).read(slot)

    def is_connected(self) -> bool:
        """
        Whether every partition has a connection right now.
        """
        return all(each.is_connected() for each in self._partitions)

    @property
    def next_sequence_id(self) -> int | None:
        """
        Not known: each partition counts for itself.
        """
        return None

    def last_sequence_id(self) -> int:
        """
        Return the highest that a partition confirmed; others may be behind it. -1 if none.
        """
        return max(self.last_sequence_ids().values())

    def last_sequence_ids(self) -> dict[int, int]:
        """
        Return that of each partition.
        """
        return {index: each.last_sequence_id() for index, each in enumerate(self._partitions)}

    def close(self) -> None:
        """
        Close every partition.
        """
        for each in self._partitions:
            each.close()

    def leak(self) -> None:
        """
        Never destroy the native producer of any partition.
        """
        for each in self._partitions:
            each.leak()

    def _route(self, message: Outgoing) -> int:
        key = message.partition_key
        if key is None:
            key = message.ordering_key
        if key is not None:
            turn = java_string_hash(key)
        elif message.sequence_id is not None:
            turn = message.sequence_id
        else:
            turn = next(self._turns)
        return turn % len(self._partitions)
