"""
Finds an exactly-once producer's messages in its topic, by the numbers that they carry.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from safepulsar.errors import BrokerUnavailable
from safepulsar.message import ID_PROPERTY

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from safepulsar.broker.transport import TransportClient
    from safepulsar.message import MessageId

log = logging.getLogger("safepulsar")
READ_SECONDS = 5.0  # for one step of reading, which then goes on where it was
# What a connection that died had on its way comes into the topic within a quarter of a second, as measured under load.
_SETTLED_SECONDS = 1.0


def begin_at(topic: str, recorded: Mapping[int, MessageId], ends: Collection[int]) -> dict[int, MessageId | None]:
    """
    Where an earlier run's messages are looked for, by partition: behind what it recorded, in new ones from the beginning.

    Args:
        topic: the full name.
        recorded: by partition, where everything before is confirmed.
        ends: the partitions that there are now.
    """
    if 0 < len(recorded) < len(ends):
        fields = {"topic": topic, "before": len(recorded), "now": len(ends)}
        log.warning("safepulsar.partitions_changed", extra=fields)
    return {partition: recorded.get(partition) for partition in ends}


class Search:
    """
    Reads a topic back, step by step; what it has seen stays seen.

    Args:
        client: reads back.
        topic: the full name.
        producer_name: of whose messages are looked for; other stores may have used it, too.
        after: by partition, where it begins.
        numbers: of these messages.
        marks: and with one of these.

    Attributes:
        found: by number, where it is stored.
        seen: so many messages were read.
    """

    def __init__(
        self,
        client: Callable[[], TransportClient],
        topic: str,
        producer_name: str,
        after: dict[int, MessageId | None],
        numbers: Collection[int],
        marks: Collection[str],
    ) -> None:
        self.found: dict[int, MessageId] = {}
        self.seen = 0
        self._client = client
        self._topic = topic
        self._producer_name = producer_name
        self._after = after
        self._numbers = numbers
        self._marks = marks

    def run(self) -> Mapping[int, MessageId]:
        """
        Read up to the end, and a moment later what came meanwhile; again, after an error, from where it was.

        Raises:
            BrokerError: the topic cannot be read now.
        """
        for again in (False, True):
            if again:  # what is not there yet may be on its way
                if self._all_found():
                    break
                threading.Event().wait(_SETTLED_SECONDS)
            for partition, end in self._client().last_message_ids(self._topic, timeout_seconds=READ_SECONDS).items():
                if end is not None and end != self._after.get(partition):
                    self._read(partition)
        return self.found

    def run_on(self) -> Mapping[int, MessageId]:
        """
        Run, and again as long as that gets further.

        Raises:
            BrokerError: see `run`.
        """
        while True:
            seen = self.seen
            try:
                return self.run()
            except BrokerUnavailable:
                if self.seen == seen:
                    raise

    def _all_found(self) -> bool:
        return not isinstance(self._numbers, range) and len(self.found) == len(self._numbers)

    def _read(self, partition: int) -> None:
        after = self._after
        messages = self._client().read_back(self._topic, partition, after.get(partition), timeout_seconds=READ_SECONDS)
        for message_id, producer_name, properties in messages:
            self.seen += 1
            after[partition] = message_id
            number, _, mark = properties.get(ID_PROPERTY, "").partition("-")
            ours = producer_name == self._producer_name and mark in self._marks
            if ours and number.isdecimal() and int(number) in self._numbers:
                self.found.setdefault(int(number), message_id)
