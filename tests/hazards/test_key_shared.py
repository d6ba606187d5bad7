"""
Batches that mix keys, before a Key_Shared subscription, which promises each key to one consumer at a time, in order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from tests.hazards.trial import told

if TYPE_CHECKING:
    from tests.hazards.trial import Trial

# Two consumers of one subscription, and a key of each. A message of the second one's key is not done with.
_CONSUMERS: Final = """
import pulsar

readers = pulsar.Client(url, logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error))
consumers = [
    readers.subscribe(topic, "orders", consumer_type=pulsar.ConsumerType.KeyShared, consumer_name=f"consumer {number}")
    for number in range(2)
]

def received(number, milliseconds=20_000):
    try:
        return consumers[number].receive(milliseconds)
    except pulsar.Timeout:
        return None

def keys_by_consumer(send):
    # Sent one by one, each key goes where it belongs. Which keys these are is the broker's matter.
    keys = [f"key {number}" for number in range(10)]
    for key in keys:
        send(key)
    found = {}
    while len(found) < len(keys):
        for number, consumer in enumerate(consumers):
            message = received(number, 100)
            if message is not None:
                consumer.acknowledge(message)
                found[message.partition_key()] = number
    return [next(key for key in keys if found[key] == number) for number in range(2)]

def show(entries):
    # Where the batch went, as [key, payload], while the first message of the second key is still being worked on.
    got = [[], []]
    while sum(map(len, got)) < 2:
        for number in range(2):
            message = received(number, 100)
            if message is not None:
                got[number].append([message.partition_key(), message.data().decode()])
    tell(got=got, mine=mine, theirs=theirs, entries=entries)
    readers.close()
"""


def test_control_a_batch_of_mixed_keys_goes_to_one_consumer(real_trial: Trial) -> None:
    """
    The official client puts both keys into a batch: one consumer gets the second message of a key whose first another has.
    """
    facts = told(
        real_trial.raw(
            """
            producer = client.create_producer(topic, batching_enabled=True, batching_max_publish_delay_ms=60_000)

            def send(key, payload=b"0"):
                producer.send_async(payload, lambda *_: None, partition_key=key)

            def send_alone(key):
                send(key)
                producer.flush()

            mine, theirs = keys_by_consumer(send_alone)
            send_alone(theirs)
            assert received(1).partition_key() == theirs
            send(mine, b"1")
            send(theirs, b"1")
            producer.flush()
            show(None)
            client.close()
            """,
            before=_CONSUMERS,
        )
    )
    assert facts["got"] == [[[facts["mine"], "1"], [facts["theirs"], "1"]], []]


_TOGETHER: Final = """
def begin():
    global mine, theirs
    with make_sender() as sender:
        mine, theirs = keys_by_consumer(lambda key: sender.send(topic, b"0", partition_key=key))
        sender.send(topic, b"0", partition_key=theirs)
        assert received(1).partition_key() == theirs

def send_together(sender):
    # What is submitted before the producer is open makes one group.
    handles = [sender.submit(topic, b"1", partition_key=key) for key in (mine, theirs)]
    show([list(handle.result().message_id[:2]) for handle in handles])
"""


def test_with_mix_keys_a_batch_goes_to_one_consumer(real_trial: Trial) -> None:
    """
    A sender does so only where `mix_keys` says so: then it is as with the official client, for several times the speed.
    """
    facts = told(
        real_trial.safe(
            """
            begin()
            with make_sender(topic_defaults=TopicSettings(mix_keys=True)) as sender:
                send_together(sender)
            """,
            before=_CONSUMERS + _TOGETHER,
        )
    )
    assert facts["entries"][0] == facts["entries"][1]
    assert facts["got"] == [[[facts["mine"], "1"], [facts["theirs"], "1"]], []]


def test_each_key_goes_to_its_consumer(real_trial: Trial) -> None:
    """
    By default the second message of a key goes to the consumer that has the first, however many keys wait together.
    """
    facts = told(
        real_trial.safe(
            """
            begin()
            with make_sender() as sender:
                send_together(sender)
            """,
            before=_CONSUMERS + _TOGETHER,
        )
    )
    assert facts["entries"][0] != facts["entries"][1]
    assert facts["got"] == [[[facts["mine"], "1"]], [[facts["theirs"], "1"]]]


@pytest.mark.parametrize("key", ["partition_key", "ordering_key"])
def test_each_key_is_in_order_at_one_consumer(real_trial: Trial, key: str) -> None:
    """
    Thousands of messages of many keys from many threads: each key is at one consumer, in the order of acceptance.
    """
    facts = told(
        real_trial.safe(
            f"""
            def work(sender, number):
                for turn in range(100):
                    for of_mine in range(5):
                        sender.submit(topic, b"%d" % turn, {key}=f"{{number}} {{of_mine}}")

            def read(number):
                while len(seen) < 4000:
                    message = received(number, 200)
                    if message is not None:
                        consumers[number].acknowledge(message)
                        seen.append((message.{key}(), number, int(message.data())))

            seen = []
            readings = [threading.Thread(target=read, args=(number,)) for number in range(2)]
            with make_sender() as sender:
                threads = [threading.Thread(target=work, args=(sender, number)) for number in range(8)]
                for thread in (*threads, *readings):
                    thread.start()
                for thread in (*threads, *readings):
                    thread.join()
            readers.close()
            by_key = collections.defaultdict(list)
            for each, number, turn in seen:
                by_key[each].append((number, turn))
            tell(
                keys=len(by_key),
                consumers=len({{number for _, number, _ in seen}}),
                at_one=sum(len({{number for number, _ in places}}) == 1 for places in by_key.values()),
                in_order=sum([turn for _, turn in places] == list(range(100)) for places in by_key.values()),
            )
            """,
            before=_CONSUMERS,
        )
    )
    assert facts == {"keys": 40, "consumers": 2, "at_one": 40, "in_order": 40}
