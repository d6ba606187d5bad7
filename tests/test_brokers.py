"""
The brokers of the tests do what the tests rely on, both kinds alike where they promise the same.
"""

from __future__ import annotations

import sys
import threading
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import pulsar
import pytest

from safepulsar.broker_process import BrokerState
from tests.brokers import Broker, LiteBroker, RealBroker, listening_on, position_of, read_topic
from tests.subprocesses import run_script
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROOT = Path(__file__).parents[1]


@contextmanager
def _client(broker: Broker) -> Iterator[pulsar.Client]:
    client = pulsar.Client(broker.url, logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error))
    try:
        yield client
    finally:
        client.close()


def _send(broker: Broker, topic: str, *payloads: bytes) -> None:
    with _client(broker) as client:
        producer = client.create_producer(topic)
        for payload in payloads:
            producer.send(payload)


def test_reading_a_topic_back_shows_every_field(broker: Broker, topic: str) -> None:
    """
    A record has the bytes, keys, properties, times and message id that were sent and acknowledged.
    """
    with _client(broker) as client:
        producer = client.create_producer(topic, producer_name=f"{topic}-producer")
        message_id = producer.send(
            b"\x00payload",
            properties={"name": "value"},
            partition_key="partition",
            ordering_key="ordering",
            event_timestamp=1_234,
        )
    [record] = read_topic(broker, topic, until=1)
    assert record.payload == b"\x00payload"
    assert record.properties == {"name": "value"}
    assert (record.partition_key, record.ordering_key) == ("partition", "ordering")
    assert record.event_timestamp == 1_234
    assert record.publish_timestamp > 0
    assert record.position == position_of(message_id)
    assert isinstance(broker, LiteBroker) or record.producer_name == f"{topic}-producer"


def test_reading_goes_on_to_the_end(broker: Broker, topic: str) -> None:
    """
    A topic is read to its end and in order, beyond the number that was waited for, batched or not.
    """
    _send(broker, topic, b"0", b"1")
    with _client(broker) as client:
        producer = client.create_producer(topic, batching_enabled=True, batching_max_publish_delay_ms=1)
        for number in range(2, 50):
            producer.send_async(b"%d" % number, None)
        producer.flush()
    everything = [b"%d" % number for number in range(50)]
    for until in (0, 1, 50):
        assert [record.payload for record in read_topic(broker, topic, until=until)] == everything


def test_reading_an_empty_topic_finds_nothing(broker: Broker, topic: str) -> None:
    """
    A topic without messages is read as empty.
    """
    assert read_topic(broker, topic) == []


def test_reading_waits_for_what_is_under_way(broker: Broker, topic: str) -> None:
    """
    A reader that waits for a message gets one that is sent later.
    """
    sender = threading.Thread(target=_send, args=(broker, topic, b"later"))
    sender.start()
    assert [record.payload for record in read_topic(broker, topic, until=1)] == [b"later"]
    sender.join()


def test_reading_in_vain_says_what_was_there(broker: Broker, topic: str) -> None:
    """
    A reader that waits for more than comes fails and says how many there were.
    """
    _send(broker, topic, b"only")
    with pytest.raises(AssertionError, match="held 1 messages, not 2"):
        read_topic(broker, topic, until=2, timeout_seconds=0.5)


def test_what_was_acknowledged_survives_a_kill(own_broker: Broker, topic: str) -> None:
    """
    A broker that is killed and started again has the same URL and every message, and takes new topics at once.
    """
    url, pid = own_broker.url, own_broker.pid
    payloads = [b"%d" % number for number in range(100)]
    _send(own_broker, topic, *payloads)
    own_broker.kill()
    assert own_broker.state is BrokerState.STOPPED
    own_broker.start()
    assert own_broker.url == url
    assert own_broker.pid != pid
    assert [record.payload for record in read_topic(own_broker, topic, until=100)] == payloads
    for number in range(5):
        _send(own_broker, f"{topic}-{number}", b"new")


def test_a_frozen_broker_answers_only_when_it_is_thawed(own_broker: Broker, topic: str) -> None:
    """
    A send to a frozen broker hangs without an error, and is acknowledged after the thaw.
    """
    acknowledged = threading.Event()
    with _client(own_broker) as client:
        producer = client.create_producer(topic)
        producer.send(b"before")
        own_broker.freeze()
        assert own_broker.state is BrokerState.FROZEN
        producer.send_async(b"while frozen", lambda *_: acknowledged.set())
        assert not acknowledged.wait(0.2)
        own_broker.thaw()
        assert acknowledged.wait(20)
    assert [record.payload for record in read_topic(own_broker, topic, until=2)] == [b"before", b"while frozen"]


@pytest.mark.parametrize("way", ["kill", "freeze"])
def test_a_test_may_leave_its_broker_in_any_state(own_broker: Broker, way: str) -> None:
    """
    A broker of one's own is running at the start of each test, whatever the last one did to it.
    """
    assert own_broker.state is BrokerState.RUNNING
    getattr(own_broker, way)()


def test_the_brokers_run_side_by_side(own_broker: Broker, broker: Broker, topic: str) -> None:
    """
    A test's own broker is another than the shared one, of the same kind too.
    """
    assert own_broker.url != broker.url
    _send(broker, topic, b"shared")
    assert read_topic(own_broker, topic) == []


def test_access_modes_hold_where_the_features_say_so(broker: Broker, topic: str) -> None:
    """
    A producer that has a topic exclusively keeps others off it, exactly where the broker's features say so.
    """
    with _client(broker) as client:
        client.create_producer(topic, access_mode=pulsar.ProducerAccessMode.Exclusive)
        refused = pytest.raises(pulsar.ProducerFenced) if broker.features.access_modes else nullcontext()
        with refused:
            client.create_producer(topic, access_mode=pulsar.ProducerAccessMode.Exclusive)


def test_deduplication_is_on_where_the_features_say_so(broker: Broker, topic: str) -> None:
    """
    The broker drops a sequence id that it has already, exactly where its features say so.
    """
    with _client(broker) as client:
        producer = client.create_producer(topic, producer_name=f"{topic}-producer")
        producer.send(b"first", sequence_id=5)
        again = producer.send(b"again", sequence_id=5)
    expected = [b"first"] if broker.features.deduplication else [b"first", b"again"]
    assert [record.payload for record in read_topic(broker, topic)] == expected
    assert (position_of(again) == (-1, -1, -1, -1)) is broker.features.deduplication


def test_deduplication_can_be_switched_by_topic_and_namespace(pulsar_broker: RealBroker, topic: str) -> None:
    """
    On the real broker a topic, or a namespace, deduplicates or not as it is told, and at once.
    """
    admin = pulsar_broker.admin
    admin.set_deduplication(topic, enabled=False)
    admin.create_namespace("public/no-deduplication", deduplication=False)
    admin.create_namespace("public/no-deduplication", deduplication=False)
    elsewhere = topic.replace("/default/", "/no-deduplication/")
    for plain in (topic, elsewhere):
        with _client(pulsar_broker) as client:
            producer = client.create_producer(plain, producer_name="same")
            producer.send(b"first", sequence_id=5)
            producer.send(b"again", sequence_id=5)
        assert len(read_topic(pulsar_broker, plain)) == 2


def test_the_admin_counts_producers_and_unloads(pulsar_broker: RealBroker, topic: str) -> None:
    """
    The admin interface knows how many producers a topic has; unloaded, the topic gets them back.
    """
    admin = pulsar_broker.admin
    assert admin.producer_count(topic) == 0
    with _client(pulsar_broker) as client:
        producers = [client.create_producer(topic) for _ in range(2)]
        assert admin.producer_count(topic) == 2
        admin.unload(topic)
        for producer in producers:
            producer.send(b"after")
        assert admin.topic_stats(topic)["msgInCounter"] == 2
    wait_until(lambda: admin.producer_count(topic) == 0, "the producers to be closed")


def test_the_admin_makes_partitions_and_terminates(pulsar_broker: RealBroker, topic: str) -> None:
    """
    A partitioned topic has as many partitions as it was made with; a terminated one takes no more.
    """
    pulsar_broker.admin.create_partitioned_topic(topic, 3)
    with _client(pulsar_broker) as client:
        assert len(client.get_topic_partitions(topic)) == 3
        producer = client.create_producer(f"{topic}-ended")
        producer.send(b"last")
        pulsar_broker.admin.terminate(f"{topic}-ended")
        with pytest.raises(pulsar.TopicTerminated):
            client.create_producer(f"{topic}-ended")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_real_broker_listens_on_the_loopback_interface_only(pulsar_broker: RealBroker) -> None:
    """
    Broker, admin interface and bookie listen on 127.0.0.1 and on nothing else.
    """
    listening = listening_on(pulsar_broker)
    assert len(listening) == 3
    assert {address.partition(":")[0] for address in listening} <= {"0100007F", "0000000000000000FFFF00000100007F"}


@pytest.mark.parametrize(("required", "outcome"), [("", "1 skipped"), ("1", "1 error")])
def test_a_missing_real_broker_is_skipped_or_an_error(required: str, outcome: str) -> None:
    """
    Without Java a test on the real broker is skipped with the reason, unless the run requires it: then it fails.
    """
    source = """
    import sys, pytest
    sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "--rootdir", sys.argv[1], sys.argv[2]]))
    """
    test = f"{__file__}::{test_the_real_broker_listens_on_the_loopback_interface_only.__name__}"
    environment = {"JAVA_HOME": "/nonexistent", "SAFEPULSAR_REQUIRE_REAL_BROKER": required}
    result = run_script(source, _ROOT, test, environment=environment)
    output = result.check(1 if required else 0)
    assert outcome in output
    assert "Apache Pulsar needs Java 17 or newer, and there is no java in JAVA_HOME=/nonexistent" in output
