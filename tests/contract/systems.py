"""
The transports under the contract, each with the broker behind it and a way to look into its topics.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import pulsar
import pytest

from safepulsar.broker import pulsar_client
from safepulsar.errors import BrokerError
from safepulsar.message import Message
from safepulsar.settings import ClientSettings, ProducerSettings
from tests.brokers import read_topic
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from safepulsar.broker.transport import Slot, TransportClient, TransportProducer
    from safepulsar.message import MessageId
    from safepulsar.testing import FakeBroker, StoredMessage
    from tests.brokers import Broker, Record

_TIMEOUT_SECONDS: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """
    A message in a topic, in words that all systems share; None where the sender gave nothing.
    """

    entry: tuple[int, int]
    batch_index: int
    payload: bytes
    properties: dict[str, str]
    partition_key: str | None
    ordering_key: str | None
    producer_name: str
    event_timestamp_ms: int | None


def message(topic: str, payload: str, sequence_id: int | None = None) -> Message:
    """
    A message that is nothing but its payload.
    """
    return Message(topic=topic, payload=payload.encode(), sequence_id=sequence_id)


def opened(client: TransportClient, topic: str, batch: int = 1, **fields: object) -> TransportProducer:
    """
    A producer of the topic.
    """
    return client.create_producer(replace(ProducerSettings(topic=topic, batch_max_messages=batch), **fields))  # type: ignore[arg-type]


class System(ABC):
    """
    A transport and its broker.

    Attributes:
        deduplication: the broker drops sequence ids that it has.
        access_modes: the broker knows who may produce.
        namespaces: the broker refuses topics of namespaces that don't exist.
        broker: can be killed, frozen and started again.
    """

    deduplication: bool
    access_modes: bool
    namespaces: bool
    broker: FakeBroker | Broker

    @abstractmethod
    def connect(self) -> TransportClient:
        """
        Make a client.
        """

    @abstractmethod
    def records(self, topic: str, until: int) -> Sequence[StoredMessage | Record]:
        """
        Everything in the topic, which holds at least so many.
        """

    @abstractmethod
    def seen(self, topic: str, until: int) -> list[Seen]:
        """
        The same in shared words.
        """

    @abstractmethod
    def tombstones(self, topic: str, until: int) -> list[bool]:
        """
        Of each message, whether it is a tombstone.
        """


class FakeSystem(System):
    """
    The fake broker.
    """

    access_modes = True
    namespaces = False

    def __init__(self, broker: FakeBroker, *, deduplication: bool) -> None:
        self.deduplication = deduplication
        self.broker: FakeBroker = broker

    def connect(self) -> TransportClient:
        """
        As `System.connect`.
        """
        return self.broker.connect(ClientSettings(url=self.broker.url, operation_timeout_seconds=_TIMEOUT_SECONDS))

    def records(self, topic: str, until: int) -> Sequence[StoredMessage]:
        """
        As `System.records`.
        """
        self.broker.wait_until(lambda: len(self.broker.messages(topic)) >= until)
        return self.broker.messages(topic)

    def seen(self, topic: str, until: int) -> list[Seen]:
        """
        As `System.seen`.
        """
        return [
            Seen(
                entry=(stored.message_id.ledger_id, stored.message_id.entry_id),
                batch_index=stored.message_id.batch_index,
                payload=stored.payload or b"",
                properties=dict(stored.properties),
                partition_key=stored.partition_key,
                ordering_key=stored.ordering_key,
                producer_name=stored.producer_name,
                event_timestamp_ms=stored.event_timestamp_ms,
            )
            for stored in self.records(topic, until)
        ]

    def tombstones(self, topic: str, until: int) -> list[bool]:
        """
        As `System.tombstones`.
        """
        return [stored.payload is None for stored in self.records(topic, until)]


class RealSystem(System):
    """
    The official client and a broker that it reaches over the network.
    """

    def __init__(self, broker: Broker) -> None:
        self.deduplication = broker.features.deduplication
        self.access_modes = broker.features.access_modes
        self.namespaces = broker.features.admin
        self.broker: Broker = broker

    def connect(self) -> TransportClient:
        """
        As `System.connect`.
        """
        return pulsar_client.connect(ClientSettings(url=self.broker.url, operation_timeout_seconds=_TIMEOUT_SECONDS))

    def records(self, topic: str, until: int) -> Sequence[Record]:
        """
        As `System.records`.
        """
        return read_topic(self.broker, topic, until=until)

    def seen(self, topic: str, until: int) -> list[Seen]:
        """
        As `System.seen`.
        """
        return [
            Seen(
                entry=record.position[:2],
                batch_index=record.position[2],
                payload=record.payload,
                properties=record.properties,
                partition_key=record.partition_key or None,
                ordering_key=record.ordering_key or None,
                producer_name=record.producer_name,
                event_timestamp_ms=record.event_timestamp or None,
            )
            for record in self.records(topic, until)
        ]

    def tombstones(self, topic: str, until: int) -> list[bool]:
        """
        As `System.tombstones`.
        """
        client = pulsar.Client(self.broker.url, logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error))
        try:
            reader = client.create_reader(topic, pulsar.MessageId.earliest)
            return [reader.read_next(_TIMEOUT_SECONDS * 1000).has_null_value() for _ in range(until)]
        finally:
            client.close()


class Call:
    """
    One call of `send_batch`: what it raised, and what its slot says.
    """

    def __init__(self, producer: TransportProducer, *messages: Message) -> None:
        self.slot: Slot = {}
        self.raised: BrokerError | None = None
        self._producer = producer
        try:
            producer.send_batch(messages, self.slot.setdefault)
        except BrokerError as error:
            self.raised = error

    def answer(self) -> MessageId | BrokerError:
        """
        The answer, which the slot gets soon.
        """
        wait_until(lambda: bool(self.slot), "an answer in the slot")
        answer = self._producer.read(self.slot)
        assert answer is not None
        return answer

    def message_id(self) -> MessageId:
        """
        The id, which the slot gets soon.
        """
        answer = self.answer()
        if isinstance(answer, BrokerError):
            pytest.fail(f"expected an id, not {answer!r}")
        return answer

    def refusal(self) -> BrokerError:
        """
        The error that the call raised.
        """
        if self.raised is None:
            pytest.fail("the call was not refused")
        return self.raised

    def failure(self) -> BrokerError:
        """
        The error, which the slot gets soon.
        """
        answer = self.answer()
        if not isinstance(answer, BrokerError):
            pytest.fail(f"expected an error, not {answer!r}")
        return answer
