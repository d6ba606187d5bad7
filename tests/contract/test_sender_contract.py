"""
What a sender promises on every broker: the fake, pulsar-lite and Apache Pulsar answer the same expectations.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from safepulsar.broker.client_registry import ClientRegistry
from safepulsar.broker_process import BrokerState
from safepulsar.errors import MessageTooBig, ProducerBusy, SendFailed
from safepulsar.failed_messages import EVERYTHING, InMemoryFailedMessages
from safepulsar.message import Certainty, Fate
from safepulsar.sender import RetryingSender
from safepulsar.sending.replay import replay
from safepulsar.settings import ClientSettings, RetrySettings, SenderSettings, TopicSettings
from tests.contract.systems import FakeSystem
from tests.history import Rules
from tests.senders import Recording, within

if TYPE_CHECKING:
    from collections.abc import Callable

    from safepulsar.failed_messages import FailedMessageStore
    from tests.contract.systems import System

LONG_SECONDS = 60.0


def sender_on(
    system: System,
    store: FailedMessageStore | None = None,
    **settings: Any,  # noqa: ANN401  # as SenderSettings, which checks them
) -> RetryingSender:
    """
    A sender with a client of its own.
    """
    registry = ClientRegistry(system.broker.connect) if isinstance(system, FakeSystem) else ClientRegistry()
    return RetryingSender(
        ClientSettings(url=system.broker.url, operation_timeout_seconds=5),
        failed_messages=store,
        settings=SenderSettings(**{"deadline_seconds": LONG_SECONDS, "drain_on_sigterm": False, **settings}),
        registry=registry,
    )


# -- a broker that runs --------------------------------------------------------------------------------------------


def test_everything_arrives_as_it_was_given(system: System, topic: str) -> None:
    """
    Payloads, keys, properties and event times are the same at the other end, also of an empty message and a tombstone.
    """
    with sender_on(system) as sender:
        sender.send(topic, b"\x00\xff", partition_key="p", ordering_key="ö", properties={"a": "ß"})
        sender.send(topic, {"n": [1, None]}, event_timestamp_ms=1_700_000_000_000)
        sender.send(topic, b"")
        sender.send(topic, None, partition_key="gone")
    seen = [
        (each.payload, each.partition_key, each.ordering_key, each.properties, each.event_timestamp_ms)
        for each in system.seen(topic, 4)
    ]
    assert seen == [
        (b"\x00\xff", "p", "ö", {"a": "ß"}, None),
        (b'{"n":[1,null]}', None, None, {}, 1_700_000_000_000),
        (b"", None, None, {}, None),
        (b"", "gone", None, {}, None),
    ]
    assert system.tombstones(topic, 4) == [False, False, False, True]


@pytest.mark.parametrize("key", [None, "k"], ids=["batches", "one by one"])
def test_every_message_id_is_the_one_in_the_topic(system: System, topic: str, key: str | None) -> None:
    """
    Under load, each result names the entry, and the place in it, where a reader finds that message.
    """
    with sender_on(system) as sender:
        handles = [sender.submit(topic, b"%d" % number, partition_key=key) for number in range(5000)]
        told = [handle.result().message_id for handle in handles]
    seen = system.seen(topic, 5000)
    assert [each.payload for each in seen] == [b"%d" % number for number in range(5000)]
    assert [(each.ledger_id, each.entry_id) for each in told] == [each.entry for each in seen]
    assert [each.batch_index for each in told] == [each.batch_index for each in seen]


def test_each_key_keeps_its_order(system: System, topic: str) -> None:
    """
    Messages of four threads stand in the topic once each, every key's in the order of its thread.
    """
    with sender_on(system, max_in_flight_messages=100) as sender:

        def work(name: str) -> None:
            for number in range(200):
                send: Callable[..., object] = sender.submit if number % 20 else sender.send
                send(topic, f"{name}/{number}", partition_key=name)

        threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LONG_SECONDS)
    seen = system.seen(topic, 800)
    assert len(seen) == 800
    for name in "abcd":
        mine = [each.payload for each in seen if each.partition_key == name]
        assert mine == [f"{name}/{number}".encode() for number in range(200)]


def test_a_sequence_id_that_was_sent_before(system: System, topic: str) -> None:
    """
    A broker that deduplicates keeps the first and says so; one that does not stores both.
    """
    topics = {topic: TopicSettings(producer_name=f"shop of {topic}")}
    fates = []
    for _ in range(2):
        with sender_on(system, topics=topics) as sender:
            fates.append(sender.send(topic, b"x", sequence_id=1).fate)
            fates.append(sender.send(topic, b"y", sequence_id=2).fate)
    if system.deduplication:
        assert fates == [Fate.DELIVERED, Fate.DELIVERED, Fate.DUPLICATE, Fate.DUPLICATE]
        assert [each.payload for each in system.seen(topic, 2)] == [b"x", b"y"]
    else:
        assert fates == [Fate.DELIVERED] * 4
        assert [each.payload for each in system.seen(topic, 4)] == [b"x", b"y", b"x", b"y"]


def test_a_name_that_is_in_use(system: System, topic: str) -> None:
    """
    Where a producer name belongs to one producer, the second sender's message is kept, surely not stored.
    """
    if not system.access_modes:
        pytest.skip("this broker lets several producers have one name")
    topics = {topic: TopicSettings(producer_name=f"shop of {topic}")}
    retry = RetrySettings(max_retries=1, first_delay_seconds=0.01)
    with sender_on(system, topics=topics) as first, sender_on(system, topics=topics, retry=retry) as second:
        first.send(topic, b"x")
        error = second.submit(topic, b"y").exception()
        assert isinstance(error, SendFailed)
        assert isinstance(error.__cause__, ProducerBusy)
        assert error.certainty is Certainty.NOT_STORED
        first.send(topic, b"z")
    assert [each.payload for each in system.seen(topic, 2)] == [b"x", b"z"]


@pytest.mark.parametrize("key", [None, "k"], ids=["batches", "one by one"])
def test_a_message_over_the_brokers_limit_fails_alone(system: System, topic: str, key: str | None) -> None:
    """
    It is surely not stored, and those around it are delivered in order.
    """
    with sender_on(system, max_message_bytes=8 * 1024 * 1024) as sender:
        handles = [sender.submit(topic, payload, partition_key=key) for payload in (b"a", b"x" * 6_000_000, b"b")]
        error = handles[1].exception()
        assert isinstance(error, SendFailed)
        assert isinstance(error.__cause__, MessageTooBig)
        assert error.certainty is Certainty.NOT_STORED
        assert [handles[place].result().fate for place in (0, 2)] == [Fate.DELIVERED, Fate.DELIVERED]
    assert [each.payload for each in system.seen(topic, 2)] == [b"a", b"b"]


def test_what_is_kept_can_be_replayed(system: System, topic: str) -> None:
    """
    Messages that never left are delivered from the store, as they were and in order.
    """
    with InMemoryFailedMessages() as store, sender_on(system, store) as sender:
        sender.send(topic, b"0", partition_key="k")
        with sender._started().ledger.lock:  # so that nothing is handed over before they are too late
            handles = [
                sender.submit(topic, str(number), partition_key="k", deadline_seconds=0.000_001) for number in (1, 2, 3)
            ]
        assert all(isinstance(handle.exception(), SendFailed) for handle in handles)
        report = replay(store, sender)
        assert (report.delivered, store.count(EVERYTHING)) == (3, 0)
    assert [each.payload for each in system.seen(topic, 4)] == [b"0", b"1", b"2", b"3"]


# -- a broker that does not answer, or is gone ---------------------------------------------------------------------


@pytest.mark.parametrize("key", [None, "k"], ids=["batches", "one by one"])
def test_a_frozen_broker(breakable: System, topic: str, key: str | None) -> None:
    """
    A call ends in time, MAYBE_STORED and kept; when the broker is back, messages go on, and the history is valid.
    """
    sender = sender_on(breakable).open()
    recording = Recording(sender, lambda: breakable.records(topic, 1), topic)
    recording.submit("before", key).result()
    breakable.broker.freeze()
    with within(1.0):
        handles = [recording.submit(str(number), key, deadline_seconds=1.0) for number in range(3)]
        errors = [handle.exception() for handle in handles]
    breakable.broker.thaw()
    assert all(isinstance(error, SendFailed) for error in errors)
    assert isinstance(errors[0], SendFailed)
    assert errors[0].certainty is Certainty.MAYBE_STORED
    assert recording.submit("after", key).result().fate is Fate.DELIVERED
    assert sender.close().clean
    recording.judge(Rules(connection_broken=True))


@pytest.mark.parametrize("key", [None, "k"], ids=["batches", "one by one"])
def test_closing_on_a_frozen_broker(breakable: System, topic: str, key: str | None) -> None:
    """
    Closing takes as long as it was told to, keeps the rest, and leaves nothing open.
    """
    sender = sender_on(breakable).open()
    recording = Recording(sender, lambda: breakable.records(topic, 1), topic)
    recording.submit("before", key).result()
    breakable.broker.freeze()
    for number in range(20):
        recording.submit(str(number), key)
    with within(3.0):
        report = sender.close(0.5)
    breakable.broker.thaw()
    assert (report.drained, report.clean) == (False, True)
    assert (report.counts.delivered, report.counts.failed, report.counts.in_flight) == (1, 20, 0)
    recording.judge(Rules(connection_broken=True))


@pytest.mark.parametrize("key", [None, "k"], ids=["batches", "one by one"])
def test_a_broker_that_is_killed_and_comes_back(breakable: System, topic: str, key: str | None) -> None:
    """
    Messages before, during and after the outage are all in the topic, in order per key, and none is lost.

    Whose acknowledgement was lost is a duplicate for a broker that deduplicates, when the client library sends it again.
    """
    again = RetrySettings(max_retries=1000)  # a busy machine's Apache Pulsar takes half a minute to be back
    sender = sender_on(breakable, max_in_flight_messages=2000, retry=again).open()
    recording = Recording(sender, lambda: breakable.records(topic, 600), topic)
    for number in range(200):
        recording.submit(str(number), key)
    recording.history.broken()
    breakable.broker.kill()
    for number in range(200, 400):
        recording.submit(str(number), key)
    breakable.broker.start()
    recording.history.healed()
    for number in range(400, 600):
        recording.submit(str(number), key)
    assert sender.flush(LONG_SECONDS) == 0
    report = sender.close()
    assert (report.drained, report.clean, report.counts.failed) == (True, True, 0)
    assert report.counts.delivered + report.counts.duplicate == 600
    assert report.counts.duplicate == 0 or breakable.deduplication
    recording.judge(Rules(connection_broken=not breakable.deduplication))


def test_a_broker_that_is_away_at_first(breakable: System, topic: str) -> None:
    """
    A sender that begins while the broker is down delivers when it is up, if that is in time.
    """
    breakable.broker.kill()
    retry = RetrySettings(max_retries=1000, max_delay_seconds=0.5)
    with sender_on(breakable, retry=retry) as sender:
        handle = sender.submit(topic, b"x")
        breakable.broker.start()
        assert handle.result().fate is Fate.DELIVERED
    assert [each.payload for each in breakable.seen(topic, 1)] == [b"x"]
    assert breakable.broker.state is BrokerState.RUNNING
