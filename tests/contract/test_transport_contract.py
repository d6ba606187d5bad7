"""
What the sender may rely on at its seam when it sends, flushes and closes, the same on every system.

Expectations stand here as literals. Where brokers differ, what differs is a fact of `System`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from safepulsar.errors import BrokerError
from safepulsar.message import Message, MessageId
from tests.contract.systems import Call, message, opened
from tests.history import History, assert_valid

if TYPE_CHECKING:
    from safepulsar.broker.transport import TransportClient
    from tests.contract.systems import System
    from tests.history.recorder import Readable

pytestmark = pytest.mark.timeout(60)

MEBIBYTE = 1024 * 1024


# -- batches -----------------------------------------------------------------------------------------------------


def test_a_full_call_is_one_entry_with_consecutive_indices(system: System, client: TransportClient, topic: str) -> None:
    """
    A call of the full count is stored as one entry, and the answer is its last message's id.
    """
    producer = opened(client, topic, 3)
    calls = [Call(producer, *(message(topic, text) for text in texts)) for texts in ("abc", "def")]
    producer.flush()
    ids = [call.message_id() for call in calls]
    assert [message_id.batch_index for message_id in ids] == [2, 2]
    seen = system.seen(topic, 6)
    assert [each.payload for each in seen] == [b"a", b"b", b"c", b"d", b"e", b"f"]
    assert [each.batch_index for each in seen] == [0, 1, 2, 0, 1, 2]
    first, second = ((message_id.ledger_id, message_id.entry_id) for message_id in ids)
    assert first < second
    assert [each.entry for each in seen] == [first, first, first, second, second, second]


@pytest.mark.parametrize(("count", "index"), [(1, 0), (2, 1)], ids=["one", "two"])
def test_a_partial_call_is_one_entry_after_a_flush(
    system: System, client: TransportClient, topic: str, count: int, index: int
) -> None:
    """
    Fewer messages than a batch takes wait for `flush`, which makes them one entry; also one message alone.
    """
    producer = opened(client, topic, 3)
    call = Call(producer, *(message(topic, text) for text in "ab"[:count]))
    assert not call.slot
    producer.flush()
    message_id = call.message_id()
    assert message_id.batch_index == index
    seen = system.seen(topic, count)
    assert [(each.payload, each.batch_index) for each in seen] == [(b"a", 0), (b"b", 1)][:count]
    assert {each.entry for each in seen} == {(message_id.ledger_id, message_id.entry_id)}


def test_without_batching_each_message_is_an_entry(system: System, client: TransportClient, topic: str) -> None:
    """
    With a batch size of 1 each message is stored by itself, and its id has no index.
    """
    producer = opened(client, topic)
    calls = [Call(producer, message(topic, text)) for text in "ab"]
    producer.flush()
    ids = [call.message_id() for call in calls]
    assert [message_id.batch_index for message_id in ids] == [-1, -1]
    seen = system.seen(topic, 2)
    assert [(each.payload, each.batch_index) for each in seen] == [(b"a", -1), (b"b", -1)]
    assert [each.entry for each in seen] == [(message_id.ledger_id, message_id.entry_id) for message_id in ids]


def test_calls_without_a_flush_between_them_share_an_entry(system: System, client: TransportClient, topic: str) -> None:
    """
    What comes before the full count or a flush joins the open batch; each answer tells its message's index.
    """
    producer = opened(client, topic, 3)
    first = Call(producer, message(topic, "a"))
    second = Call(producer, message(topic, "b"), message(topic, "c"), message(topic, "d"))
    producer.flush()
    assert [call.message_id().batch_index for call in (first, second)] == [0, 0]
    seen = system.seen(topic, 4)
    assert [(each.payload, each.batch_index) for each in seen] == [(b"a", 0), (b"b", 1), (b"c", 2), (b"d", 0)]
    assert seen[0].entry == seen[1].entry == seen[2].entry < seen[3].entry


def test_a_delayed_message_of_a_batching_producer_travels_alone(
    system: System, client: TransportClient, topic: str
) -> None:
    """
    A message with a delivery time is sent at once, without a flush, and is no part of a batch.
    """
    producer = opened(client, topic, 3)
    call = Call(producer, Message(topic=topic, payload=b"a", deliver_at_ms=1))
    assert call.message_id().batch_index == -1
    assert [each.payload for each in system.seen(topic, 1)] == [b"a"]


def test_a_delayed_message_overtakes_an_open_batch(system: System, client: TransportClient, topic: str) -> None:
    """
    It is sent before the batch that was open, whose ids are lower: a broker that deduplicates drops that batch.

    A trap that the sender must avoid, by a flush before each delayed message.
    """
    producer = opened(client, topic, 3, producer_name="shop")
    open_batch = Call(producer, message(topic, "a", 1))
    Call(producer, Message(topic=topic, payload=b"b", sequence_id=2, deliver_at_ms=1)).message_id()
    producer.flush()
    answer = open_batch.message_id()
    if system.deduplication:
        assert answer == MessageId(-1, -1, batch_index=0)
        assert [each.payload for each in system.seen(topic, 1)] == [b"b"]
    else:
        assert answer.ledger_id >= 0
        assert [each.payload for each in system.seen(topic, 2)] == [b"b", b"a"]


# -- what is stored ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 5])
def test_everything_arrives_as_it_was_sent(system: System, client: TransportClient, topic: str, batch: int) -> None:
    """
    Payload, keys, properties and event time are the reader's, byte by byte; what was not given is not there.
    """
    producer = opened(client, topic, batch, producer_name="shop")
    everything = Message(
        topic=topic,
        payload=bytes(range(256)),
        properties={"kind": "test", "größe": "ß\n\t", "empty": ""},
        partition_key="ключ",
        ordering_key="order-ü",
        event_timestamp_ms=1_700_000_000_123,
    )
    nothing = Message(topic=topic, payload=b"")
    large = Message(topic=topic, payload=b"x" * MEBIBYTE)
    for each in (everything, nothing, large):
        Call(producer, each)
        producer.flush()
    first, second, third = system.seen(topic, 3)
    assert first.payload == bytes(range(256))
    assert first.properties == {"kind": "test", "größe": "ß\n\t", "empty": ""}
    assert (first.partition_key, first.ordering_key) == ("ключ", "order-ü")
    assert (first.event_timestamp_ms, first.producer_name) == (1_700_000_000_123, "shop")
    assert (second.payload, second.properties) == (b"", {})
    assert (second.partition_key, second.ordering_key, second.event_timestamp_ms) == (None, None, None)
    assert third.payload == b"x" * MEBIBYTE


def test_a_tombstone_is_not_an_empty_payload(system: System, client: TransportClient, topic: str) -> None:
    """
    A payload of None is stored as a null value, an empty one is not.
    """
    producer = opened(client, topic)
    for payload in (None, b"", None):
        Call(producer, Message(topic=topic, payload=payload, partition_key="customer-1"))
    producer.flush()
    assert system.tombstones(topic, 3) == [True, False, True]


@pytest.mark.parametrize("batch", [1, 50])
def test_messages_are_stored_in_the_order_of_the_calls(
    system: System, client: TransportClient, topic: str, batch: int
) -> None:
    """
    Whatever their keys, all messages of a producer are acknowledged, there once, intact and in order.
    """
    history = History()
    producer = opened(client, topic, batch)
    calls: list[tuple[list[Message], Call]] = []
    for start in range(0, 500, batch):
        messages = [
            Message(topic=topic, payload=str(number).encode(), partition_key=f"customer-{number % 7}")
            for number in range(start, start + batch)
        ]
        for each in messages:
            history.attempted(_number(each), topic, each, lane="all")
            history.accepted(_number(each))
        calls.append((messages, Call(producer, *messages)))
    producer.flush()
    for messages, call in calls:
        last = call.message_id()
        for index, each in enumerate(messages):
            index_in_entry = -1 if batch == 1 else index
            history.acked(_number(each), MessageId(last.ledger_id, last.entry_id, batch_index=index_in_entry))
    history.found(topic, system.records(topic, 500), _number)
    report = assert_valid(history)
    assert (report.counts.delivered, report.counts.found) == (500, 500)


def _number(readable: Readable | Message) -> str:
    return (readable.payload or b"").decode()


# -- flush and close ---------------------------------------------------------------------------------------------


def test_flush_of_nothing_returns(client: TransportClient, topic: str) -> None:
    """
    A flush without anything handed over, also after a close, returns at once.
    """
    producer = opened(client, topic, 3)
    producer.flush()
    producer.close()
    producer.flush()


def test_flush_closes_the_open_batch_and_waits(client: TransportClient, topic: str) -> None:
    """
    After a flush every call before it has its answer.
    """
    producer = opened(client, topic, 3)
    calls = [Call(producer, *(message(topic, text) for text in texts)) for texts in ("abc", "def", "g")]
    producer.flush()
    assert [call.message_id().batch_index for call in calls] == [2, 2, 0]


def test_close_fails_what_is_pending(system: System, client: TransportClient, topic: str) -> None:
    """
    Closing gives what is not answered its error before it returns, as maybe stored; an open batch never leaves.
    """
    producer = opened(client, topic, 3)
    answered = Call(producer, *(message(topic, text) for text in "abc"))
    producer.flush()
    pending = Call(producer, message(topic, "d"))
    producer.close()
    assert pending.slot
    failure = pending.failure()
    assert (failure.code, failure.maybe_stored) == ("AlreadyClosed", True)
    assert answered.message_id().batch_index == 2
    assert [each.payload for each in system.seen(topic, 3)] == [b"a", b"b", b"c"]


def test_a_closed_producer_refuses(client: TransportClient, topic: str) -> None:
    """
    A call after the close is refused before it returns, surely not stored; closing again does nothing.
    """
    producer = opened(client, topic)
    assert producer.is_connected()
    producer.close()
    producer.close()
    refusal = Call(producer, message(topic, "a")).refusal()
    assert (refusal.code, refusal.maybe_stored) == ("AlreadyClosed", False)
    assert not producer.is_connected()


def test_a_closed_client_refuses(system: System, topic: str) -> None:
    """
    A closed client opens no producer; closing again does nothing, and before the first use neither.
    """
    unused = system.connect()
    unused.close()
    client = system.connect()
    producer = opened(client, topic)
    producer.close()
    client.close()
    client.close()
    with pytest.raises(BrokerError) as raised:
        opened(client, topic)
    assert (raised.value.code, raised.value.maybe_stored) == ("AlreadyClosed", False)


def test_a_leaked_producer_goes_on(system: System, topic: str) -> None:
    """
    Leaking keeps things from being destroyed, and changes nothing else.
    """
    client = system.connect()
    producer = opened(client, topic)
    producer.leak()
    client.leak()
    call = Call(producer, message(topic, "a"))
    producer.flush()
    assert call.message_id().batch_index == -1
    producer.close()
    client.close()
