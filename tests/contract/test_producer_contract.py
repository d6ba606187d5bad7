"""
What the sender may rely on at its seam about producers: names, sequence ids, who may produce, what is refused.

Expectations stand here as literals. Where brokers differ, what differs is a fact of `System`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from safepulsar.errors import BrokerError
from safepulsar.message import Message, MessageId
from safepulsar.settings import AccessMode, ProducerSettings
from tests.contract.systems import Call, message, opened
from tests.waiting import wait_until

if TYPE_CHECKING:
    from safepulsar.broker.transport import TransportClient
    from tests.contract.systems import System

pytestmark = pytest.mark.timeout(60)

MEBIBYTE = 1024 * 1024


# -- names and sequence ids --------------------------------------------------------------------------------------


def test_a_producer_has_its_settings_and_a_name(client: TransportClient, topic: str) -> None:
    """
    The name is the one given, or one of the broker's; the settings are those that it was made from.
    """
    settings = ProducerSettings(topic=topic, producer_name="shop", batch_max_messages=7)
    named = client.create_producer(settings)
    unnamed = [opened(client, topic), opened(client, topic)]
    assert (named.name, named.settings, named.batch_max_messages) == ("shop", settings, 7)
    assert len({producer.name for producer in unnamed} - {"shop", ""}) == 2


def test_ids_that_are_given_are_confirmed(client: TransportClient, topic: str) -> None:
    """
    The last sequence id is the last one that was acknowledged; before that there is none.
    """
    producer = opened(client, topic, producer_name="shop")
    assert producer.last_sequence_id() == -1
    for sequence_id in (1, 2, 7):
        Call(producer, message(topic, str(sequence_id), sequence_id))
    producer.flush()
    wait_until(lambda: producer.last_sequence_id() == 7, "the last id")


def test_counting_goes_on_after_the_initial_id(client: TransportClient, topic: str) -> None:
    """
    Messages without an id are counted from the id after the initial one.
    """
    producer = opened(client, topic, producer_name="shop", initial_sequence_id=41)
    assert producer.last_sequence_id() == 41
    Call(producer, message(topic, "a")).message_id()
    wait_until(lambda: producer.last_sequence_id() == 42, "the last id")


def test_an_id_that_the_broker_has_is_acknowledged_and_dropped(
    system: System, client: TransportClient, topic: str
) -> None:
    """
    Where the broker deduplicates, an id at or below the last is a duplicate with id (-1, -1), with a new payload too.
    """
    producer = opened(client, topic, producer_name="shop")
    calls = []
    for sequence_id, payload in ((5, "first 5"), (5, "second 5"), (4, "late 4"), (6, "first 6")):
        calls.append(Call(producer, message(topic, payload, sequence_id)))
        producer.flush()  # the broker refuses to judge an id while a higher one is on its way to its storage
    stored = [call.message_id().ledger_id >= 0 for call in calls]
    payloads = [each.payload for each in system.seen(topic, 2)]
    if system.deduplication:
        assert stored == [True, False, False, True]
        assert calls[1].message_id() == MessageId(-1, -1)
        assert payloads == [b"first 5", b"first 6"]
    else:
        assert stored == [True, True, True, True]
        assert payloads == [b"first 5", b"second 5", b"late 4", b"first 6"]


def test_a_name_that_comes_back_learns_its_last_id(system: System, client: TransportClient, topic: str) -> None:
    """
    Where the broker deduplicates, a producer reopened under its name knows the first id of its last batch.
    """
    producer = opened(client, topic, 3, producer_name="shop")
    Call(producer, *(message(topic, str(number), number) for number in (1, 2, 3)))
    Call(producer, *(message(topic, str(number), number) for number in (4, 5, 6)))
    producer.flush()
    producer.close()
    again = opened(client, topic, 3, producer_name="shop")
    assert again.last_sequence_id() == (4 if system.deduplication else -1)


def test_a_batch_sent_again_with_its_boundaries_is_a_duplicate(
    system: System, client: TransportClient, topic: str
) -> None:
    """
    Where the broker deduplicates, the same batch with the same ids is acknowledged whole and not stored again.
    """
    producer = opened(client, topic, 2, producer_name="shop")
    calls = []
    for first in (1, 3, 3, 5):
        calls.append(Call(producer, message(topic, str(first), first), message(topic, str(first + 1), first + 1)))
        producer.flush()
    ids = [call.message_id() for call in calls]
    payloads = [each.payload for each in system.seen(topic, 6)]
    if system.deduplication:
        assert ids[2] == MessageId(-1, -1, batch_index=1)
        assert payloads == [b"1", b"2", b"3", b"4", b"5", b"6"]
    else:
        assert ids[2].batch_index == 1
        assert payloads == [b"1", b"2", b"3", b"4", b"3", b"4", b"5", b"6"]


# -- who may produce ---------------------------------------------------------------------------------------------


def refused(client: TransportClient, topic: str, **fields: object) -> str:
    """
    The code with which a producer is refused, which surely stores nothing.
    """
    with pytest.raises(BrokerError) as raised:
        opened(client, topic, **fields)  # type: ignore[arg-type]
    assert not raised.value.maybe_stored
    return raised.value.code


def test_a_name_is_busy_until_its_producer_is_closed(system: System, client: TransportClient, topic: str) -> None:
    """
    A second producer of a name is refused until the first is closed; pulsar-lite does not mind.
    """
    first = opened(client, topic, producer_name="shop")
    if not system.access_modes:
        assert opened(client, topic, producer_name="shop").name == "shop"
        return
    assert refused(client, topic, producer_name="shop") == "ProducerBusy"
    first.close()
    assert opened(client, topic, producer_name="shop").name == "shop"


def test_an_exclusive_producer_keeps_others_off(system: System, client: TransportClient, topic: str) -> None:
    """
    Others are busy or fenced as long as one has the topic for itself; pulsar-lite does not mind.
    """
    first = opened(client, topic, access_mode=AccessMode.EXCLUSIVE)
    if not system.access_modes:
        opened(client, topic, access_mode=AccessMode.EXCLUSIVE)
        return
    assert refused(client, topic) == "ProducerBusy"
    assert refused(client, topic, access_mode=AccessMode.EXCLUSIVE) == "ProducerFenced"
    first.close()
    opened(client, topic)
    assert refused(client, topic, access_mode=AccessMode.EXCLUSIVE) == "ProducerFenced"


def test_a_fencing_producer_takes_over(system: System, client: TransportClient, topic: str) -> None:
    """
    A fenced producer stores nothing any more, and is told so from then on; pulsar-lite does not fence.
    """
    old = opened(client, topic, producer_name="shop", access_mode=AccessMode.EXCLUSIVE_WITH_FENCING)
    Call(old, message(topic, "before")).message_id()
    new = opened(client, topic, producer_name="shop", access_mode=AccessMode.EXCLUSIVE_WITH_FENCING)
    if not system.access_modes:
        Call(old, message(topic, "not fenced")).message_id()
        return
    fenced = Call(old, message(topic, "fenced"))
    wait_until(lambda: bool(fenced.slot), "the verdict on the fenced message")
    assert (fenced.raised or fenced.failure()).code == "ProducerFenced"
    refusal = Call(old, message(topic, "late")).refusal()
    assert (refusal.code, refusal.maybe_stored) == ("ProducerFenced", False)
    Call(new, message(topic, "after")).message_id()
    assert [each.payload for each in system.seen(topic, 2)] == [b"before", b"after"]


# -- refusals ----------------------------------------------------------------------------------------------------


def test_a_malformed_topic_is_refused(client: TransportClient) -> None:
    """
    A topic name without its parts is refused for good.
    """
    with pytest.raises(BrokerError) as raised:
        opened(client, "persistent://public")
    error = raised.value
    assert (error.code, error.retriable, error.maybe_stored) == ("InvalidTopicName", False, False)


def test_a_namespace_that_does_not_exist_is_refused(system: System, client: TransportClient) -> None:
    """
    A topic in a namespace that is not there is not found, for good, where the broker knows its namespaces.
    """
    if not system.namespaces:
        opened(client, "persistent://public/nowhere/orders")
        return
    with pytest.raises(BrokerError) as raised:
        opened(client, "persistent://public/nowhere/orders")
    error = raised.value
    assert (error.code, error.retriable, error.maybe_stored) == ("TopicNotFound", False, False)


def test_a_message_that_is_too_big_is_refused_and_the_producer_goes_on(
    system: System, client: TransportClient, topic: str
) -> None:
    """
    A message over 5 MiB is answered before the call returns, surely not stored, and alone.
    """
    producer = opened(client, topic)
    too_big = Call(producer, Message(topic=topic, payload=b"x" * (5 * MEBIBYTE + 1)))
    assert too_big.slot
    failure = too_big.failure()
    assert (failure.code, failure.retriable, failure.maybe_stored) == ("MessageTooBig", False, False)
    call = Call(producer, message(topic, "a"))
    producer.flush()
    call.message_id()
    assert [each.payload for each in system.seen(topic, 1)] == [b"a"]


@pytest.mark.parametrize("count", [2, 3], ids=["partial", "full"])
def test_a_batch_that_is_too_big_fails_as_a_whole(
    system: System, client: TransportClient, topic: str, count: int
) -> None:
    """
    A batch over 5 MiB fails once it is closed, surely not stored, whatever its messages' sizes are.
    """
    producer = opened(client, topic, 3)
    call = Call(producer, *[Message(topic=topic, payload=b"x" * (3 * MEBIBYTE))] * count)
    assert bool(call.slot) is (count == 3)
    producer.flush()
    failure = call.failure()
    assert (failure.code, failure.retriable, failure.maybe_stored) == ("MessageTooBig", False, False)
    after = Call(producer, message(topic, "a"))
    producer.flush()
    after.message_id()
    assert [each.payload for each in system.seen(topic, 1)] == [b"a"]
