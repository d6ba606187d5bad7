"""
Partitioned topics: the same partition for the same key as Java's producers, and a message's own partition in its id.
"""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from safepulsar.broker.pulsar_client import PartitionedProducer, PulsarProducer, connect
from safepulsar.broker.pulsar_client.partitions import java_string_hash
from safepulsar.errors import ProducerBusy
from safepulsar.message import Message, MessageId
from safepulsar.settings import ClientSettings, ProducerSettings
from tests.brokers import read_topic
from tests.partitions import changes_of_partitions
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from safepulsar.broker.transport import Slot, TransportClient, TransportProducer
    from tests.brokers import RealBroker

pytestmark = pytest.mark.timeout(60)

_PARTITIONS = 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # By Java's own String.hashCode() & Integer.MAX_VALUE.
        ("", 0),
        ("a", 97),
        ("hello", 99_162_322),
        ("customer-7", 566_298_120),
        ("polygenelubricants", 0),  # its hash is the smallest number, all of it sign
        ("käse", 3_410_411),
        ("\U0001f600", 1_772_899),  # two units of UTF-16
    ],
)
def test_the_hash_is_javas(text: str, expected: int) -> None:
    """
    Keys go where the producers of the Java client, and its users, expect them.
    """
    assert java_string_hash(text) == expected


@pytest.fixture
def client(pulsar_broker: RealBroker) -> Iterator[TransportClient]:
    """
    A client of the shared broker.
    """
    client = connect(ClientSettings(url=pulsar_broker.url))
    yield client
    client.close()


@pytest.fixture
def partitioned(pulsar_broker: RealBroker, topic: str) -> str:
    """
    A topic of three partitions.
    """
    name = topic.replace("-partition-", "-")  # which the broker does not allow in the names of such topics
    pulsar_broker.admin.create_partitioned_topic(name, _PARTITIONS)
    return name


def _send(producer: TransportProducer, *messages: Message) -> list[MessageId]:
    slots: list[Slot] = [{} for _ in messages]

    def work() -> None:
        for message, slot in zip(messages, slots, strict=True):
            producer.send_batch([message], slot.setdefault)
        producer.flush()

    with ThreadPoolExecutor(1) as threads:
        threads.submit(work).result(30)
    wait_until(lambda: all(slots), "all answers")
    answers = [producer.read(slot) for slot in slots]
    assert all(isinstance(answer, MessageId) for answer in answers)
    return [answer for answer in answers if isinstance(answer, MessageId)]


def test_each_key_keeps_to_its_partition_in_order(
    client: TransportClient, pulsar_broker: RealBroker, partitioned: str
) -> None:
    """
    The partition follows from the partition key, the ids tell which it is, and each holds its keys in order.
    """
    producer = client.create_producer(ProducerSettings(topic=partitioned))
    assert isinstance(producer, PartitionedProducer)
    assert producer.batch_max_messages == 1
    assert producer.is_connected()
    messages = [
        Message(topic=partitioned, payload=b"%d" % i, partition_key=f"key-{i % 10}", ordering_key=f"{i}")
        for i in range(60)
    ]
    ids = _send(producer, *messages)
    producer.close()
    assert not producer.is_connected()
    expected = [java_string_hash(f"key-{i % 10}") % _PARTITIONS for i in range(60)]
    assert [message_id.partition for message_id in ids] == expected
    assert len(set(expected)) == _PARTITIONS
    for partition in range(_PARTITIONS):
        mine = [b"%d" % i for i in range(60) if expected[i] == partition]
        records = read_topic(pulsar_broker, f"{partitioned}-partition-{partition}", until=len(mine))
        assert [record.payload for record in records] == mine


def test_an_ordering_key_keeps_to_a_partition_where_there_is_no_other(
    client: TransportClient, partitioned: str
) -> None:
    """
    The messages of an ordering key would lose their order in several partitions.
    """
    producer = client.create_producer(ProducerSettings(topic=partitioned))
    messages = [Message(topic=partitioned, payload=b"x", ordering_key=f"key-{i % 5}") for i in range(20)]
    expected = [java_string_hash(f"key-{i % 5}") % _PARTITIONS for i in range(20)]
    assert [message_id.partition for message_id in _send(producer, *messages)] == expected
    producer.close()


def test_messages_without_a_key_take_turns(client: TransportClient, partitioned: str) -> None:
    """
    They are spread evenly.
    """
    producer = client.create_producer(ProducerSettings(topic=partitioned))
    ids = _send(producer, *[Message(topic=partitioned, payload=b"x")] * 30)
    assert Counter(message_id.partition for message_id in ids) == {0: 10, 1: 10, 2: 10}
    producer.close()


def test_a_message_that_is_sent_again_meets_its_own_deduplication(client: TransportClient, partitioned: str) -> None:
    """
    Without a key the partition follows from the sequence id, so that a second sending is a duplicate.
    """
    producer = client.create_producer(ProducerSettings(topic=partitioned, producer_name="again"))
    messages = [Message(topic=partitioned, payload=b"x", sequence_id=i) for i in range(1, 7)]
    first = _send(producer, *messages)
    assert producer.last_sequence_id() == 6
    again = _send(producer, *messages)
    assert [message_id.partition for message_id in first] == [1, 2, 0, 1, 2, 0]
    assert [message_id.partition for message_id in again] == [1, 2, 0, 1, 2, 0]
    assert {(message_id.ledger_id, message_id.entry_id) for message_id in again} == {(-1, -1)}
    producer.close()


def test_a_topic_of_one_partition_takes_batches(client: TransportClient, pulsar_broker: RealBroker, topic: str) -> None:
    """
    With nothing to choose from, a call may carry as many messages as the settings say.
    """
    topic = topic.replace("-partition-", "-")
    pulsar_broker.admin.create_partitioned_topic(topic, 1)
    producer = client.create_producer(ProducerSettings(topic=topic, batch_max_messages=5))
    assert isinstance(producer, PulsarProducer)
    slot: Slot = {}
    producer.send_batch([Message(topic=topic, payload=b"x")] * 5, slot.setdefault)
    wait_until(lambda: bool(slot), "the answer")
    answer = producer.read(slot)
    assert isinstance(answer, MessageId)
    assert (answer.partition, answer.batch_index) == (0, 4)
    producer.close()


def test_more_partitions_are_told_once(
    client: TransportClient, pulsar_broker: RealBroker, partitioned: str, caplog: pytest.LogCaptureFixture
) -> None:
    """
    A producer keeps to those that it knows, so that no key moves under way; the next one has all, and says so.
    """
    settings = ProducerSettings(topic=partitioned, producer_name="grows")
    producer = client.create_producer(settings)
    messages = [Message(topic=partitioned, payload=b"x", partition_key=f"key-{i}") for i in range(20)]
    _send(producer, *messages)
    pulsar_broker.admin.add_partitions(partitioned, 5)
    assert {message_id.partition for message_id in _send(producer, *messages)} == {0, 1, 2}
    producer.close()
    assert changes_of_partitions(caplog) == []
    for _ in range(2):
        producer = client.create_producer(settings)
        expected = [java_string_hash(f"key-{i}") % 5 for i in range(20)]
        assert [message_id.partition for message_id in _send(producer, *messages)] == expected
        producer.close()
    assert changes_of_partitions(caplog) == [(partitioned, 3, 5)]


def test_one_partition_that_becomes_more_is_told(
    client: TransportClient, pulsar_broker: RealBroker, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    """
    Of a topic that had one, and took batches, too; of one that is not partitioned there is nothing to tell.
    """
    client.create_producer(ProducerSettings(topic=topic)).close()
    client.create_producer(ProducerSettings(topic=topic)).close()
    grown = topic.replace("-partition-", "-") + "-grown"
    pulsar_broker.admin.create_partitioned_topic(grown, 1)
    client.create_producer(ProducerSettings(topic=grown)).close()
    pulsar_broker.admin.add_partitions(grown, 2)
    client.create_producer(ProducerSettings(topic=grown)).close()
    assert changes_of_partitions(caplog) == [(grown, 1, 2)]


def test_a_partition_that_cannot_be_opened_leaves_none_open(
    client: TransportClient, pulsar_broker: RealBroker, partitioned: str
) -> None:
    """
    All partitions or none: with one producer name taken on one partition, the others are closed again.
    """
    settings = ProducerSettings(topic=partitioned, producer_name="taken")
    other = client.create_producer(ProducerSettings(topic=f"{partitioned}-partition-1", producer_name="taken"))
    with pytest.raises(ProducerBusy):
        client.create_producer(settings)
    names = [f"{partitioned}-partition-{partition}" for partition in range(_PARTITIONS)]
    wait_until(lambda: [*map(pulsar_broker.admin.producer_count, names)] == [0, 1, 0], "the others are closed")
    other.close()
    client.create_producer(settings).close()
