"""
The receiver with the official consumer, on brokers: several producers, out of order, with copies, and restarts.
"""

from __future__ import annotations

import random
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import pulsar
import pytest

from safepulsar.receiving import (
    Acknowledge,
    Deduplicator,
    OrderedReceiver,
    ReceiverSettings,
    lane_properties,
    lane_sequence,
)
from tests.receiving.fakes import Database

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.brokers import Broker, RealBroker

_LANES: Final = ("cust-1", "cust-2", "cust-3")
_LENGTH: Final = 40
_QUIET_SECONDS: Final = 1
_PATIENCE_SECONDS: Final = 30

pytestmark = pytest.mark.timeout(90)


@contextmanager
def _connected(broker: Broker) -> Iterator[pulsar.Client]:
    """
    An official client of the broker.
    """
    client = pulsar.Client(broker.url, logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error))
    try:
        yield client
    finally:
        client.close()


@pytest.fixture
def client(broker: Broker) -> Iterator[pulsar.Client]:
    """
    An official client of each kind of broker in turn.
    """
    with _connected(broker) as client:
        yield client


def _send_shuffled(client: pulsar.Client, topic: str, seed: int) -> int:
    """
    Send every place of every lane from three producers, shuffled, one in five twice; return how many that makes.
    """
    dice = random.Random(seed)  # noqa: S311 - for a test
    places = [(lane, sequence) for lane in _LANES for sequence in range(1, _LENGTH + 1)]
    places += dice.sample(places, len(places) // 5)
    dice.shuffle(places)
    producers = [client.create_producer(topic) for _ in range(3)]
    for lane, sequence in places:
        dice.choice(producers).send(
            f"{lane}:{sequence}".encode(), partition_key=lane, properties=lane_properties(sequence)
        )
    for producer in producers:
        producer.close()
    return len(places)


def _handle(receiver: OrderedReceiver[pulsar.Message], database: Database, count: int) -> None:
    """
    Handle so many messages.
    """
    for _ in range(count):
        message = receiver.receive(_PATIENCE_SECONDS)
        assert message is not None, receiver.gaps()
        with message:
            database.write(message.message.data().decode())


def _assert_nothing_left(client: pulsar.Client, topic: str, kind: pulsar.ConsumerType) -> None:
    """
    Fail if the broker delivers anything of the subscription but what is sent now.
    """
    consumer = client.subscribe(topic, "s", kind)
    producer = client.create_producer(topic)
    producer.send(b"the end", partition_key="end")
    assert consumer.receive(_PATIENCE_SECONDS * 1000).data() == b"the end"
    producer.close()
    consumer.close()


def _restart_in_the_middle(
    client: pulsar.Client, topic: str, kind: pulsar.ConsumerType, acknowledge: Acknowledge, commit_messages: int
) -> None:
    """
    Handle what three producers sent shuffled and partly twice, by consumers that die in between.

    Each dies with messages that wait, are in order, out, and done without being saved.
    """
    settings = ReceiverSettings(acknowledge=acknowledge, commit_messages=commit_messages)
    consumer = client.subscribe(topic, "s", kind, initial_position=pulsar.InitialPosition.Earliest)
    sent = _send_shuffled(client, topic, seed=7)
    database = Database()
    received = 0
    for count in (10, 25, 25):
        receiver = OrderedReceiver(consumer, save=database.save, state=database.state, settings=settings)
        _handle(receiver, database, count)
        assert receiver.receive(_PATIENCE_SECONDS) is not None  # this one is out
        received += receiver.stats().received
        database.transaction.clear()
        consumer.close()
        consumer = client.subscribe(topic, "s", kind)
    with OrderedReceiver(consumer, save=database.save, state=database.state, settings=settings) as receiver:
        _handle(receiver, database, len(_LANES) * _LENGTH - len(database.rows))
        assert receiver.receive(_QUIET_SECONDS) is None  # copies that came last
    assert received + receiver.stats().received > sent  # so what was not acknowledged did come again
    for lane in _LANES:
        handled = [row for row in database.rows if row.startswith(lane)]
        assert handled == [f"{lane}:{sequence}" for sequence in range(1, _LENGTH + 1)]
    consumer.close()
    _assert_nothing_left(client, topic, kind)


@pytest.mark.parametrize(
    ("kind", "acknowledge", "commit_messages"),
    [
        (pulsar.ConsumerType.Exclusive, Acknowledge.CUMULATIVE, 7),
        (pulsar.ConsumerType.Failover, Acknowledge.INDIVIDUAL, 1),
        (pulsar.ConsumerType.Shared, Acknowledge.INDIVIDUAL, 1),
    ],
    ids=["exclusive", "failover", "shared"],
)
def test_a_restart_in_the_middle_neither_skips_nor_repeats(
    broker: Broker, topic: str, kind: pulsar.ConsumerType, acknowledge: Acknowledge, commit_messages: int
) -> None:
    """
    Everything is handled once and in order, and at the end the broker has nothing more to deliver.
    """
    with _connected(broker) as client:
        _restart_in_the_middle(client, topic, kind, acknowledge, commit_messages)


def test_a_restart_of_a_key_shared_consumer(pulsar_broker: RealBroker, topic: str) -> None:
    """
    The same for Key_Shared; not on pulsar-lite, which delivers nothing again to such a consumer.
    """
    with _connected(pulsar_broker) as client:
        _restart_in_the_middle(client, topic, pulsar.ConsumerType.KeyShared, Acknowledge.INDIVIDUAL, 7)


def test_a_batch_is_acknowledged_when_all_of_it_is_done(client: pulsar.Client, topic: str) -> None:
    """
    Messages of one batch that come in the wrong order are handled in the right one, and none is left at the broker.
    """
    consumer = client.subscribe(topic, "s", pulsar.ConsumerType.Shared)
    producer = client.create_producer(topic, batching_enabled=True, batching_max_publish_delay_ms=3_600_000)
    for sequence in (3, 5, 1, 2, 2, 4):
        producer.send_async(b"%d" % sequence, callback=None, partition_key="a", properties=lane_properties(sequence))
    producer.flush()
    database = Database()
    with OrderedReceiver(consumer, save=database.save) as receiver:
        _handle(receiver, database, 5)
    assert database.rows == ["1", "2", "3", "4", "5"]
    producer.close()
    consumer.close()
    _assert_nothing_left(client, topic, pulsar.ConsumerType.Shared)


def test_a_deduplicator_beside_a_consumer(client: pulsar.Client, topic: str) -> None:
    """
    Where order does not matter, copies alone are dropped, over a restart of the consumer too.
    """
    consumer = client.subscribe(topic, "s", initial_position=pulsar.InitialPosition.Earliest)
    sent = _send_shuffled(client, topic, seed=8)
    deduplicator = Deduplicator()
    handled: list[str] = []
    for number in range(sent):
        if number == sent // 2:
            consumer.close()
            consumer = client.subscribe(topic, "s")
            deduplicator = Deduplicator.from_state(deduplicator.state())
        message = consumer.receive(_PATIENCE_SECONDS * 1000)
        place = lane_sequence(message)
        assert place is not None
        if deduplicator.is_new(*place):
            handled.append(message.data().decode())
            deduplicator.add(*place)
        consumer.acknowledge(message)
    assert sorted(handled) == sorted(f"{lane}:{sequence}" for lane in _LANES for sequence in range(1, _LENGTH + 1))
    assert deduplicator.stats().beyond == 0
    consumer.close()
