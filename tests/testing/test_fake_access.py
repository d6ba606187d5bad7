"""
The fake broker knows who may produce to a topic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from safepulsar.errors import BrokerError
from safepulsar.settings import AccessMode
from tests.testing.producers import OTHER, InThread, Sent, client_of, outcomes, refusal, settings

if TYPE_CHECKING:
    from safepulsar.testing import FakeBroker


def test_a_producer_name_is_used_once_at_a_time(fake: FakeBroker) -> None:
    """
    A second producer of a name is refused until the first is closed; other topics and names are free.
    """
    client = client_of(fake)
    first = client.create_producer(settings(name="shop"))
    assert refusal(client_of(fake), name="shop") == "ProducerBusy"
    client.create_producer(settings(name="warehouse"))
    client.create_producer(settings(OTHER, name="shop"))
    names = {client.create_producer(settings()).name for _ in range(3)}
    assert len(names) == 3
    first.close()
    assert client.create_producer(settings(name="shop")).name == "shop"


def test_exclusive_keeps_others_off(fake: FakeBroker) -> None:
    """
    A topic that is taken exclusively refuses shared producers as busy and exclusive ones as fenced.
    """
    client = client_of(fake)
    owner = client.create_producer(settings(mode=AccessMode.EXCLUSIVE))
    assert refusal(client) == "ProducerBusy"
    assert refusal(client, mode=AccessMode.EXCLUSIVE) == "ProducerFenced"
    owner.close()
    client.create_producer(settings())
    assert refusal(client, mode=AccessMode.EXCLUSIVE) == "ProducerFenced"


def test_fencing_takes_the_topic_over(fake: FakeBroker) -> None:
    """
    What the earlier owner sent before is stored and acknowledged; what it sends later fails as fenced.
    """
    client = client_of(fake)
    old = client.create_producer(settings(name="shop", mode=AccessMode.EXCLUSIVE_WITH_FENCING))
    acknowledged = Sent(old, "a")
    old.flush()
    fake.freeze()
    in_time = Sent(old, "b")
    creation = InThread(lambda: client.create_producer(settings(name="shop", mode=AccessMode.EXCLUSIVE_WITH_FENCING)))
    fake.wait_until(lambda: fake.counts.creating == 1)
    fake.thaw()
    creation.result()
    fake.pump()
    assert outcomes(acknowledged, in_time, Sent(old, "c")) == ["0:0:-1:-1", "0:1:-1:-1", "ProducerFenced"]
    assert fake.payloads("orders") == [b"a", b"b"]


def test_a_fenced_producers_pending_messages_fail(fake: FakeBroker) -> None:
    """
    What is not stored yet when another producer takes the topic over fails as fenced, and is not sent any more.
    """
    client = client_of(fake)
    old = client.create_producer(settings(mode=AccessMode.EXCLUSIVE, batch=2))
    open_batch = Sent(old, "a")
    client.create_producer(settings(mode=AccessMode.EXCLUSIVE_WITH_FENCING))
    fake.pump()
    old.flush()
    assert open_batch.outcome == "ProducerFenced"
    assert isinstance(open_batch.answer, BrokerError)
    assert open_batch.answer.maybe_stored
    assert fake.payloads("orders") == []


def test_a_displaced_shared_producer_comes_back(fake: FakeBroker) -> None:
    """
    A shared producer whose topic is taken over waits, and sends what it has when the topic is free again.
    """
    client = client_of(fake)
    shared = client.create_producer(settings(name="shop"))
    owner = client.create_producer(settings(mode=AccessMode.EXCLUSIVE_WITH_FENCING))
    waiting = Sent(shared, "a")
    assert not shared.is_connected()
    assert (fake.pump(), waiting.outcome) == (0, "waiting")
    owner.close()
    assert shared.is_connected()
    fake.pump()
    assert waiting.outcome == "0:0:-1:-1"
