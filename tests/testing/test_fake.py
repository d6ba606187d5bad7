"""
The fake broker stores, answers and counts as a broker and its client library do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from safepulsar.broker_process import BrokerState
from safepulsar.errors import InvalidTopic
from safepulsar.message import Message, MessageId
from safepulsar.testing import FakeBroker, Phase
from tests.testing.producers import OTHER, TOPIC, Sent, client_of, nobody, settings

if TYPE_CHECKING:
    from safepulsar.broker.transport import Connect, TransportClient, TransportProducer


def test_a_batch_is_one_entry_with_consecutive_indices(fake: FakeBroker) -> None:
    """
    The messages of one call are stored as one entry; the slot gets the last one's id.
    """
    producer = client_of(fake).create_producer(settings(batch=3))
    full, partial = Sent(producer, "a", "b", "c"), Sent(producer, "d", "e")
    producer.flush()
    assert (full.outcome, partial.outcome) == ("0:0:-1:2", "0:1:-1:1")
    assert [str(message.message_id) for message in fake.messages("orders")] == [
        "0:0:-1:0",
        "0:0:-1:1",
        "0:0:-1:2",
        "0:1:-1:0",
        "0:1:-1:1",
    ]
    assert fake.payloads("orders") == [b"a", b"b", b"c", b"d", b"e"]


def test_a_message_outside_of_a_batch_has_no_index(fake: FakeBroker) -> None:
    """
    Without batching each message is an entry of its own.
    """
    producer = client_of(fake).create_producer(settings())
    first, second = Sent(producer, "a"), Sent(producer, "b")
    producer.flush()
    assert (first.outcome, second.outcome) == ("0:0:-1:-1", "0:1:-1:-1")


def test_a_partial_batch_waits_for_flush(fake: FakeBroker) -> None:
    """
    No timer closes a batch: it is stored at its full count or at a flush.
    """
    producer = client_of(fake).create_producer(settings(batch=2))
    Sent(producer, "a")
    assert fake.payloads("orders") == []
    producer.flush()
    assert fake.payloads("orders") == [b"a"]


def test_calls_that_share_a_batch_are_told_by_their_index(fake: FakeBroker) -> None:
    """
    Two calls without a flush between them make one batch; the index in each answer shows it.
    """
    producer = client_of(fake).create_producer(settings(batch=3))
    first, second = Sent(producer, "a"), Sent(producer, "b", "c")
    producer.flush()
    assert (first.outcome, second.outcome) == ("0:0:-1:0", "0:0:-1:2")


def test_a_delayed_message_overtakes_an_open_batch(fake: FakeBroker) -> None:
    """
    A message with a delivery time travels at once and alone, whatever waits in an open batch.
    """
    producer = client_of(fake).create_producer(settings(batch=3))
    early, delayed = Sent(producer, "a"), Sent(producer, "b", deliver_at_ms=1)
    producer.flush()
    assert fake.payloads("orders") == [b"b", b"a"]
    assert (early.outcome, delayed.outcome) == ("0:1:-1:0", "0:0:-1:-1")


def test_everything_that_was_sent_is_stored(fake: FakeBroker) -> None:
    """
    Payload, keys, properties, times and ids are stored as given, and what the caller changes later changes nothing.
    """
    producer = client_of(fake).create_producer(settings(name="shop"))
    properties = {"kind": "test"}
    message = Message(
        topic=TOPIC,
        payload=b"\x00\xff",
        properties=properties,
        partition_key="p",
        ordering_key="o",
        sequence_id=7,
        event_timestamp_ms=5,
        deliver_at_ms=6,
    )
    producer.send_batch([message], nobody())
    producer.send_batch([Message(topic=TOPIC, payload=None)], nobody())
    properties.clear()
    stored, tombstone = fake.messages(TOPIC)
    assert (stored.topic, stored.message_id) == (TOPIC, MessageId(0, 0))
    assert (stored.payload, stored.properties) == (b"\x00\xff", {"kind": "test"})
    assert (stored.partition_key, stored.ordering_key) == ("p", "o")
    assert (stored.sequence_id, stored.producer_name) == (7, "shop")
    assert (stored.event_timestamp_ms, stored.deliver_at_ms) == (5, 6)
    assert tombstone.payload is None
    assert tombstone.properties == {}
    assert (tombstone.partition_key, tombstone.ordering_key) == (None, None)


def test_sequence_ids_are_counted_where_none_is_given(fake: FakeBroker) -> None:
    """
    The producer counts from 0, without regard to ids that are given, as the official client does.
    """
    producer = client_of(fake).create_producer(settings())
    for sequence_id in (None, 5, None):
        producer.send_batch([Message(topic=TOPIC, payload=b"", sequence_id=sequence_id)], nobody())
    assert [message.sequence_id for message in fake.messages("orders")] == [0, 5, 1]
    continued = client_of(fake).create_producer(settings(initial_sequence_id=41))
    assert continued.last_sequence_id() == 41
    Sent(continued, "a")
    assert fake.messages("orders")[-1].sequence_id == 42


def test_without_deduplication_an_id_is_stored_again(fake: FakeBroker) -> None:
    """
    A broker that does not deduplicate stores every sequence id as often as it comes, and remembers none.
    """
    client = client_of(fake)
    producer = client.create_producer(settings(name="shop"))
    answers = [Sent(producer, payload, sequence_id=5) for payload in "ab"]
    producer.flush()
    assert [sent.outcome for sent in answers] == ["0:0:-1:-1", "0:1:-1:-1"]
    assert producer.last_sequence_id() == 5
    producer.close()
    assert client.create_producer(settings(name="shop")).last_sequence_id() == -1


def test_deduplication_drops_ids_at_or_below_the_highest() -> None:
    """
    Such an id is acknowledged with (-1, -1) and dropped, with a new payload too; per topic and producer name.
    """
    fake = FakeBroker(deduplication=True, threaded=False)
    client = client_of(fake)
    shop = client.create_producer(settings(name="shop"))
    others = [client.create_producer(settings(name="warehouse")), client.create_producer(settings(OTHER, name="shop"))]
    answers = [Sent(shop, f"shop {number}", sequence_id=number) for number in (5, 5, 4, 6)]
    answers += [Sent(other, f"other {other.name}", sequence_id=1) for other in others]
    shop.flush()
    fake.pump()
    assert [sent.outcome for sent in answers] == [
        "0:0:-1:-1",
        "-1:-1:-1:-1",
        "-1:-1:-1:-1",
        "0:1:-1:-1",
        "0:2:-1:-1",
        "1:0:-1:-1",
    ]
    assert fake.payloads("orders") == [b"shop 5", b"shop 6", b"other warehouse"]
    assert shop.last_sequence_id() == 6
    shop.close()
    assert client.create_producer(settings(name="shop")).last_sequence_id() == 6
    assert fake.counts.duplicate_batches == 2


def test_deduplication_knows_a_batch_by_its_first_id() -> None:
    """
    The same batch again is dropped whole; with other boundaries it is stored again, or lost: as on a real broker.
    """
    fake = FakeBroker(deduplication=True, threaded=False)
    client = client_of(fake)
    producer = client.create_producer(settings(name="shop", batch=2))
    Sent(producer, "a", "b", sequence_id=1)
    Sent(producer, "c", "d", sequence_id=3)
    producer.close()
    again = client.create_producer(settings(name="shop", batch=2))
    assert again.last_sequence_id() == 3
    same, shifted = Sent(again, "c", "d", sequence_id=3), Sent(again, "d", "e", sequence_id=4)
    again.flush()
    assert (same.outcome, shifted.outcome) == ("-1:-1:-1:1", "0:2:-1:1")
    assert fake.payloads("orders") == [b"a", b"b", b"c", b"d", b"d", b"e"]
    assert again.last_sequence_id() == 5


def test_a_message_over_the_limit_is_refused_by_the_client_library() -> None:
    """
    A single message fails before the call returns, a batch as a whole when it is closed; nothing is sent.
    """
    fake = FakeBroker(threaded=False, max_message_bytes=10)
    client = client_of(fake)
    alone = Sent(client.create_producer(settings()), "x" * 11)
    batching = client.create_producer(settings(batch=3))
    full = Sent(batching, "1234", "1234", "1234")
    partial = Sent(batching, "123456", "123456")
    assert (alone.outcome, full.outcome, partial.outcome) == ("MessageTooBig", "MessageTooBig", "waiting")
    batching.flush()
    assert partial.outcome == "MessageTooBig"
    fits = Sent(client.create_producer(settings(chunking=True)), "x" * 11)
    fake.pump()
    assert fits.outcome == "0:0:-1:-1"
    assert (fake.counts.batches, fake.counts.messages) == (1, 1)


def test_topics_are_named_in_short_or_in_full(fake: FakeBroker) -> None:
    """
    A short name means the default namespace; a bad one is refused; one that nobody opened is empty.
    """
    client_of(fake).create_producer(settings())
    assert fake.topics() == [TOPIC]
    assert fake.messages("orders") == fake.messages(TOPIC) == fake.messages("nobody") == []
    with pytest.raises(InvalidTopic):
        fake.messages("a/b")


def test_reprs_say_what_a_failed_assertion_needs(fake: FakeBroker) -> None:
    """
    The broker, producers and stored messages show their state.
    """
    client = client_of(fake)
    producer = client.create_producer(settings(name="shop"))
    producer.send_batch([Message(topic=TOPIC, payload=b"x" * 50, partition_key="p")], nobody())
    producer.send_batch([Message(topic=TOPIC, payload=None)], nobody())
    fake.hold()
    Sent(producer, "a")
    fake.fail_next(2, "MetadataError")
    fake.freeze()
    assert repr(fake) == (
        "<FakeBroker FROZEN, 3 messages in 1 topics, 1 clients, 1 producers, 1 answers held, 2 faults to come>"
    )
    assert repr(producer) == f"<FakeProducer 'shop' of {TOPIC!r}, open, 3 pending>"
    long, tombstone, _ = fake.messages("orders")
    assert repr(long) == f"<StoredMessage 0:0:-1:-1 {b'x' * 40!r}..., partition_key='p', sequence_id=0>"
    assert repr(tombstone) == "<StoredMessage 0:1:-1:-1 tombstone, sequence_id=1>"
    assert repr(client) == "<FakeClient open>"
    client.close()
    assert repr(client) == "<FakeClient closed>"
    assert "AlreadyClosed, 0 pending" in repr(producer)


def test_leaks_are_counted(fake: FakeBroker) -> None:
    """
    A producer or client that was given up is still open, and counted as leaked.
    """
    client = client_of(fake)
    client.create_producer(settings()).leak()
    client.leak()
    assert (fake.counts.leaked, fake.counts.producers_open, fake.counts.clients_open) == (2, 1, 1)


def test_the_fake_is_a_transport(fake: FakeBroker) -> None:
    """
    The broker's `connect` is a `Connect`; its clients and producers are a transport's (mypy checks these lines).
    """
    connect: Connect = fake.connect
    client: TransportClient = client_of(fake)
    producer: TransportProducer = client.create_producer(settings())
    assert connect is not None
    assert producer.is_connected()
    assert fake.state is BrokerState.RUNNING
    assert Phase.LATER in Phase
