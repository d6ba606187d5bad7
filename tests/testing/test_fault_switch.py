"""
One fault switch for every broker: what a test orders happens alike in memory and on a real broker.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from safepulsar.broker.client_registry import ClientRegistry
from safepulsar.broker.outcomes import Phase
from safepulsar.broker_process import BrokerState
from safepulsar.errors import BrokerError, DeadlineExceeded, InvalidInput, SendFailed
from safepulsar.message import Certainty, Fate, Message, MessageId
from safepulsar.sender import RetryingSender
from safepulsar.settings import ClientSettings, LogLevel, ProducerSettings, RetrySettings, SenderSettings
from safepulsar.testing import EmbeddedPulsar, FakeBroker
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TOPIC: Final = "persistent://public/default/orders"
SETTINGS: Final = SenderSettings(
    retry=RetrySettings(first_delay_seconds=0, jitter_seconds=0), drain_on_sigterm=False, deadline_seconds=20
)

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(params=["fake", pytest.param("pulsar-lite", marks=pytest.mark.broker)])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FakeBroker | EmbeddedPulsar]:
    """
    Each kind of broker that an application's tests can have.
    """
    if request.param == "fake":
        yield FakeBroker()
    else:
        with EmbeddedPulsar(tmp_path / "broker") as embedded:
            yield embedded


@pytest.fixture
def sender(broker: FakeBroker | EmbeddedPulsar) -> Iterator[RetryingSender]:
    """
    A sender on it.
    """
    registry = ClientRegistry(broker.connect)
    with RetryingSender("pulsar://nowhere.example:6650", settings=SETTINGS, registry=registry) as sender:
        yield sender


def failure_of(sender: RetryingSender, payload: bytes = b"order") -> SendFailed:
    """
    What a send raises.
    """
    with pytest.raises(SendFailed) as raised:
        sender.send("orders", payload)
    return raised.value


def test_a_topic_shows_what_was_sent(broker: FakeBroker | EmbeddedPulsar, sender: RetryingSender) -> None:
    """
    Payload, keys, properties, time and place of every message, in order, also of tombstones.
    """
    first = sender.send(
        "orders", b"first", partition_key="c1", ordering_key="o1", properties={"a": "b"}, event_timestamp_ms=17
    )
    second = sender.send("orders", None)
    one, two = broker.messages("orders")
    assert (one.topic, one.payload, one.partition_key, one.ordering_key) == (TOPIC, b"first", "c1", "o1")
    assert (dict(one.properties), one.event_timestamp_ms, one.deliver_at_ms) == ({"a": "b"}, 17, None)
    assert (two.payload, two.partition_key, two.ordering_key, two.event_timestamp_ms) == (None, None, None, None)
    assert one.message_id[:2] == first.message_id[:2]
    assert two.message_id[:2] == second.message_id[:2]
    assert one.producer_name
    assert broker.payloads("orders") == [b"first", None]
    assert broker.messages("nobody-sent-here") == []


def test_opening_a_producer_fails(broker: FakeBroker | EmbeddedPulsar, sender: RetryingSender) -> None:
    """
    CREATE: the message is surely not stored, and the next one finds a producer.
    """
    broker.fail_next(1, "AuthorizationError", phase=Phase.CREATE)
    failed = failure_of(sender)
    assert failed.certainty is Certainty.NOT_STORED
    assert [attempt.code for attempt in failed.attempts] == ["AuthorizationError"]
    assert broker.payloads("orders") == []


def test_the_hand_over_is_refused(broker: FakeBroker | EmbeddedPulsar, sender: RetryingSender) -> None:
    """
    INLINE: as often as ordered, and a code that may go away is tried again until it has.
    """
    broker.fail_next(2, "ProducerQueueIsFull", phase=Phase.INLINE)
    result = sender.send("orders", b"order")
    assert (result.fate, result.attempts) == (Fate.DELIVERED, 3)
    broker.fail_next(1, "InvalidMessage", phase=Phase.INLINE)
    assert failure_of(sender).certainty is Certainty.NOT_STORED
    assert broker.payloads("orders") == [b"order"]


@pytest.mark.parametrize("stored", [False, True])
def test_the_answer_is_a_failure(broker: FakeBroker | EmbeddedPulsar, sender: RetryingSender, *, stored: bool) -> None:
    """
    LATER: nobody can know whether it is stored, and it is if the test said so.
    """
    broker.fail_next(1, "UnknownError", stored=stored)
    failed = failure_of(sender)
    assert (failed.certainty, failed.attempts[-1].code) == (Certainty.MAYBE_STORED, "UnknownError")
    assert sender.failed_messages.count() == 1
    assert broker.payloads("orders") == ([b"order"] if stored else [])


def test_a_producer_that_is_fenced_is_dead(broker: FakeBroker | EmbeddedPulsar) -> None:
    """
    After a code that ends a producer it refuses everything, whatever is sent by it.
    """
    client = broker.connect(ClientSettings(url="pulsar://nowhere.example:6650", log_level=LogLevel.ERROR))
    producer = client.create_producer(ProducerSettings(topic=TOPIC, batch_max_messages=1))
    broker.fail_next(1, "ProducerFenced")
    slot: dict[object, object] = {}
    producer.send_batch([_message(b"fenced")], slot.setdefault)
    wait_until(lambda: bool(slot), "the answer")
    answer = producer.read(slot)
    assert isinstance(answer, BrokerError)
    assert (answer.code, answer.maybe_stored) == ("ProducerFenced", True)
    refused: dict[object, object] = {}
    with pytest.raises(BrokerError) as raised:
        producer.send_batch([_message(b"after")], refused.setdefault)
    assert (raised.value.code, raised.value.maybe_stored) == ("ProducerFenced", False)
    assert not producer.is_connected()
    producer.close()
    client.close()
    assert broker.payloads("orders") == []


def test_what_is_stored_and_denied_has_its_own_answer(broker: FakeBroker | EmbeddedPulsar) -> None:
    """
    With stored=True the answers of other batches are true, and no answer comes before the broker's own.
    """
    client = broker.connect(ClientSettings(url="pulsar://nowhere.example:6650"))
    producer = client.create_producer(ProducerSettings(topic=TOPIC, batch_max_messages=1))
    broker.fail_next(1, "UnknownError", stored=True)
    slots: list[dict[object, object]] = [{}, {}]
    assert producer.read(slots[0]) is None
    for slot in slots:
        producer.send_batch([_message(b"x")], slot.setdefault)
    producer.flush()
    wait_until(lambda: all(slots), "both answers")
    denied, true = (producer.read(slot) for slot in slots)
    assert isinstance(denied, BrokerError)
    assert isinstance(true, MessageId)
    assert producer.last_sequence_id() >= 0
    producer.close()
    client.close()
    assert broker.payloads("orders") == [b"x", b"x"]


def test_faults_concern_one_topic_and_can_be_taken_back(
    broker: FakeBroker | EmbeddedPulsar, sender: RetryingSender
) -> None:
    """
    A fault of one topic waits for it; what nothing has used up can be forgotten; nonsense is refused.
    """
    broker.fail_next(3, "UnknownError", topic="orders")
    assert sender.send("invoices", b"invoice").fate is Fate.DELIVERED
    failure_of(sender)
    broker.forget_faults()
    assert sender.send("orders", b"order").fate is Fate.DELIVERED
    with pytest.raises(InvalidInput, match="count"):
        broker.fail_next(0, "UnknownError")
    with pytest.raises(InvalidInput, match="stored"):
        broker.fail_next(1, "UnknownError", phase=Phase.INLINE, stored=True)


def test_a_broker_is_frozen_killed_and_healed(broker: FakeBroker | EmbeddedPulsar, sender: RetryingSender) -> None:
    """
    The same words break every broker, and everything accepted meanwhile is delivered once it is back.
    """
    sender.send("orders", b"0")
    broker.freeze()
    frozen = sender.submit("orders", b"1")
    with pytest.raises(DeadlineExceeded):
        frozen.result(0.05)
    broker.thaw()
    assert frozen.result().fate is Fate.DELIVERED
    broker.kill()
    assert broker.state is BrokerState.STOPPED
    killed = sender.submit("orders", b"2")
    broker.start()
    assert killed.result().fate is Fate.DELIVERED
    broker.restart()
    assert sender.send("orders", b"3").fate is Fate.DELIVERED
    assert broker.payloads("orders") == [b"0", b"1", b"2", b"3"]


def _message(payload: bytes) -> Message:
    return Message(topic=TOPIC, payload=payload)
