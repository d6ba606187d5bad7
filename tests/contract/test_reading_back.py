"""
What the sender may rely on when it reads a topic back: where it ends, and every message behind a place, once, in order.

Expectations stand here as literals. Where brokers differ, what differs is a fact of `System`.
"""

from __future__ import annotations

import threading
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from safepulsar.broker.transport import Stored
from safepulsar.errors import BrokerError, InvalidInput
from safepulsar.message import Message, MessageId
from safepulsar.testing import FakeBroker
from tests.contract.systems import Call, FakeSystem, RealSystem, message, opened
from tests.subprocesses import run_script
from tests.waiting import wait_until

if TYPE_CHECKING:
    from safepulsar.broker.transport import TransportClient
    from tests.brokers import Broker, LiteBroker, RealBroker
    from tests.contract.systems import System

pytestmark = pytest.mark.timeout(120)  # a broker starts in some

_SECONDS: Final = 20.0


def sent(client: TransportClient, topic: str, text: str, batch: int = 1, **fields: object) -> list[MessageId]:
    """
    The ids of messages, one per character of the text and with it as a property, in batches of so many.
    """
    producer = opened(client, topic, batch, **fields)
    calls = [
        Call(producer, *(Message(topic=topic, payload=b"x", properties={"letter": letter}) for letter in some))
        for some in (text[start : start + batch] for start in range(0, len(text), batch))
    ]
    producer.flush()
    ids = [call.message_id() for call in calls]
    producer.close()
    return ids


def read(client: TransportClient, topic: str, after: MessageId | None, partition: int = -1) -> str:
    """
    The letters behind a place.
    """
    return "".join(each.properties["letter"] for each in all_of(client, topic, after, partition))


def all_of(client: TransportClient, topic: str, after: MessageId | None = None, partition: int = -1) -> list[Stored]:
    """
    What stands behind a place.
    """
    return list(client.read_back(topic, partition, after, timeout_seconds=_SECONDS))


# -- where it ends -----------------------------------------------------------------------------------------------


def test_a_topic_that_nobody_knows_is_empty(client: TransportClient, topic: str) -> None:
    """
    A topic that does not exist has no end and nothing to read.
    """
    assert client.last_message_ids(topic, timeout_seconds=_SECONDS) == {-1: None}
    assert all_of(client, topic) == []


def test_a_topic_without_messages_is_empty(client: TransportClient, topic: str) -> None:
    """
    A topic that only has a producer has no end and nothing to read, behind a place of long ago neither.
    """
    opened(client, topic)
    assert client.last_message_ids(topic, timeout_seconds=_SECONDS) == {-1: None}
    assert all_of(client, topic) == []
    assert all_of(client, topic, MessageId(0, 5)) == []


@pytest.mark.parametrize(
    ("text", "batch"), [("a", 1), ("abc", 1), ("ab", 2), ("abcde", 2), ("a", 2)], ids=["1", "1 1 1", "2", "2 2 1", "+1"]
)
def test_a_topic_ends_at_its_last_message(client: TransportClient, topic: str, text: str, batch: int) -> None:
    """
    The end is the id that the last message's acknowledgement had, with its place in its batch.
    """
    ids = sent(client, topic, text, batch)
    assert client.last_message_ids(topic, timeout_seconds=_SECONDS) == {-1: ids[-1]}
    assert [each.message_id for each in all_of(client, topic)][-1] == ids[-1]


def test_the_end_is_that_of_now(client: TransportClient, topic: str) -> None:
    """
    Asked again, it is the new one.
    """
    for text in ("a", "bc"):
        (last,) = sent(client, topic, text, 2)
        assert client.last_message_ids(topic, timeout_seconds=_SECONDS) == {-1: last}


# -- what stands in it -------------------------------------------------------------------------------------------


def test_what_is_read_has_its_id_its_producer_and_its_properties(client: TransportClient, topic: str) -> None:
    """
    As they were sent, text beyond ASCII, an empty value and no properties at all included.
    """
    properties = {"id": "7", "Größe": "ü", "none": ""}
    producer = opened(client, topic, producer_name="shop")
    calls = [
        Call(producer, Message(topic=topic, payload=b"x", properties=properties)),
        Call(producer, Message(topic=topic, payload=None, partition_key="k")),
    ]
    producer.flush()
    ids = [call.message_id() for call in calls]
    assert all_of(client, topic) == [Stored(ids[0], "shop", properties), Stored(ids[1], "shop", {})]


@pytest.mark.parametrize("batch", [1, 2, 3, 7])
def test_reading_goes_on_behind_any_message(client: TransportClient, topic: str, batch: int) -> None:
    """
    Nothing is skipped and nothing comes twice, wherever in a batch the place is.
    """
    sent(client, topic, "abcdefg", batch)
    stored = all_of(client, topic)
    assert [each.properties["letter"] for each in stored] == list("abcdefg")
    for index, each in enumerate(stored):
        assert read(client, topic, each.message_id) == "abcdefg"[index + 1 :]


def test_a_place_that_is_no_message_is_between_two(client: TransportClient, topic: str) -> None:
    """
    An entry without an index is before its batch, an index beyond it behind it; the id of a duplicate is before all.
    """
    first, second = sent(client, topic, "abcdef", 3)
    assert read(client, topic, MessageId(second.ledger_id, second.entry_id)) == "def"
    assert read(client, topic, MessageId(first.ledger_id, first.entry_id, -1, 99)) == "def"
    assert read(client, topic, MessageId(-1, -1, -1, 2)) == "abcdef"
    assert read(client, topic, MessageId(second.ledger_id, second.entry_id + 5)) == ""
    assert read(client, topic, MessageId(second.ledger_id + 1_000_000, 0)) == ""


def test_messages_of_several_producers_are_told_apart(client: TransportClient, topic: str) -> None:
    """
    Each has the name of the producer that sent it.
    """
    sent(client, topic, "ab", 2, producer_name="shop")
    sent(client, topic, "c", producer_name="bank")
    assert [each.producer_name for each in all_of(client, topic)] == ["shop", "shop", "bank"]


def test_reading_ends_where_the_topic_ended_when_it_began(client: TransportClient, topic: str) -> None:
    """
    What another producer sends meanwhile is not read: who reads comes to an end.
    """
    sent(client, topic, "abc", 3)
    reading = client.read_back(topic, -1, None, timeout_seconds=_SECONDS)
    assert next(reading).properties["letter"] == "a"
    sent(client, topic, "def", 3)
    assert [each.properties["letter"] for each in reading] == ["b", "c"]
    assert read(client, topic, None) == "abcdef"


def test_reading_that_is_given_up_leaves_nothing_behind(client: TransportClient, topic: str) -> None:
    """
    It can be begun again, several can go on at the same time, and the client closes all the same.
    """
    sent(client, topic, "abc", 3)
    some = [client.read_back(topic, -1, None, timeout_seconds=_SECONDS) for _ in range(3)]
    assert [next(each).properties["letter"] for each in some] == ["a", "a", "a"]
    del some[0]
    assert [next(each).properties["letter"] for each in some] == ["b", "b"]
    client.close()


def long_topic(client: TransportClient, topic: str, count: int, batch: int) -> None:
    """
    Fill the topic with so many messages, numbered in a property.
    """
    producer = opened(client, topic, batch)
    messages = [Message(topic=topic, payload=b"x" * 100, properties={"n": str(n)}) for n in range(count)]
    for start in range(0, count, batch):
        Call(producer, *messages[start : start + batch])
        if start % 5000 == 0:
            producer.flush()
    producer.flush()


def numbers(stored: list[Stored]) -> list[int]:
    """
    Their numbers.
    """
    return [int(each.properties["n"]) for each in stored]


@pytest.mark.parametrize(("count", "batch"), [(5_000, 1), (20_000, 1000)])
def test_a_long_topic_is_read_once_and_in_order(client: TransportClient, topic: str, count: int, batch: int) -> None:
    """
    Every message comes once and in order, where the broker hands some of them over twice as well.
    """
    long_topic(client, topic, count, batch)
    stored = all_of(client, topic)
    assert numbers(stored) == list(range(count))
    middle = stored[count // 2 + 1].message_id
    assert numbers(all_of(client, topic, middle)) == list(range(count // 2 + 2, count))


def test_a_broker_that_goes_silent_is_asked_again(lite_broker: LiteBroker, topic: str) -> None:
    """
    pulsar-lite sends a reader nothing any more in about one of five longer topics: who reads hardly notices.
    """
    client = RealSystem(lite_broker).connect()
    long_topic(client, topic, 8_000, 1000)
    for _ in range(15):
        assert numbers(all_of(client, topic)) == list(range(8_000))
    client.close()


def test_a_topic_of_several_partitions_is_read_by_partition(pulsar_broker: RealBroker) -> None:
    """
    Each partition has an end and a content of its own, and its number is in the ids.
    """
    topic = f"persistent://public/default/parts-{uuid.uuid4().hex}"
    pulsar_broker.admin.create_partitioned_topic(topic, 3)
    client = RealSystem(pulsar_broker).connect()
    producer = opened(client, topic, producer_name="shop")
    assert producer.last_sequence_ids() == {0: -1, 1: -1, 2: -1}
    # Without a key the sequence id chooses the partition.
    calls = [Call(producer, message(topic, "x", number)) for number in (3, 4, 6)]
    producer.flush()
    ids = [call.message_id() for call in calls]
    assert client.last_message_ids(topic, timeout_seconds=_SECONDS) == {0: ids[2], 1: ids[1], 2: None}
    assert [each.message_id for each in all_of(client, topic, None, 0)] == [ids[0], ids[2]]
    assert [each.message_id for each in all_of(client, topic, ids[0], 0)] == [ids[2]]
    assert [each.message_id for each in all_of(client, topic, None, 1)] == [ids[1]]
    assert all_of(client, topic, None, 2) == []
    wait_until(lambda: producer.last_sequence_ids() == {0: 6, 1: 4, 2: -1}, "each partition's last id")
    assert producer.last_sequence_id() == 6
    producer.close()
    again = opened(client, topic, producer_name="shop")
    assert again.last_sequence_ids() == {0: 6, 1: 4, 2: -1}
    client.close()


def test_a_topic_of_one_partition_has_the_number_0(pulsar_broker: RealBroker) -> None:
    """
    One partition is a partitioned topic, too.
    """
    topic = f"persistent://public/default/part-{uuid.uuid4().hex}"
    pulsar_broker.admin.create_partitioned_topic(topic, 1)
    client = RealSystem(pulsar_broker).connect()
    assert client.last_message_ids(topic, timeout_seconds=_SECONDS) == {0: None}
    first, second = sent(client, topic, "ab")
    assert client.last_message_ids(topic, timeout_seconds=_SECONDS) == {0: second}
    assert [each.message_id for each in all_of(client, topic, first, 0)] == [second]
    client.close()


def test_what_was_thrown_away_is_not_waited_for(pulsar_broker: RealBroker, topic: str) -> None:
    """
    A place in a part of the topic that is gone is before all that is left, and a topic may lose all that it had.
    """
    client = RealSystem(pulsar_broker).connect()
    places = [sent(client, topic, "abc", 3)[0]]
    pulsar_broker.admin.unload(topic)  # begins a new ledger
    pulsar_broker.admin.truncate(topic)
    assert client.last_message_ids(topic, timeout_seconds=_SECONDS) == {-1: None}
    assert read(client, topic, places[0]) == ""
    places += sent(client, topic, "def", 3)
    assert [read(client, topic, place) for place in [None, *places]] == ["def", "def", ""]
    pulsar_broker.admin.delete(topic)
    assert client.last_message_ids(topic, timeout_seconds=_SECONDS) == {-1: None}
    places += sent(client, topic, "g")
    assert [read(client, topic, place) for place in [None, *places]] == ["g", "g", "g", ""]
    client.close()


_KEYS: Final = Path(__file__).parents[1] / "keys"
_ENCRYPTED: Final[dict[str, Any]] = {
    "encryption_key": "k",
    "crypto_key_files": (str(_KEYS / "encryption.public.pem"), str(_KEYS / "encryption.private.pem")),
}


def test_encrypted_messages_are_recognised(broker: Broker, topic: str) -> None:
    """
    Their ids and properties are not encrypted.
    """
    client = RealSystem(broker).connect()
    last = sent(client, topic, "abc", **_ENCRYPTED)[-1]
    assert client.last_message_ids(topic, timeout_seconds=_SECONDS) == {-1: last}
    assert read(client, topic, None) == "abc"
    client.close()


def test_an_encrypted_batch_is_not_taken_for_a_message(broker: Broker, topic: str) -> None:
    """
    What is in it cannot be told, which is an error and not an end.
    """
    client = RealSystem(broker).connect()
    sent(client, topic, "abc", 3, **_ENCRYPTED)
    with pytest.raises(BrokerError, match="batch_max_messages=1") as raised:
        client.last_message_ids(topic, timeout_seconds=_SECONDS)
    assert (raised.value.code, raised.value.retriable) == ("CryptoError", False)
    with pytest.raises(BrokerError, match="batch_max_messages=1"):
        all_of(client, topic)
    client.close()


# -- faults ------------------------------------------------------------------------------------------------------


def test_what_another_wrote_with_a_producer_of_ours_open_is_read(client: TransportClient, topic: str) -> None:
    """
    Reading does not disturb an open producer, nor a producer the reading.
    """
    producer = opened(client, topic, 2, producer_name="shop")
    call = Call(producer, *(Message(topic=topic, payload=b"x", properties={"letter": letter}) for letter in "ab"))
    producer.flush()
    last = call.message_id()
    assert read(client, topic, None) == "ab"
    Call(producer, *(Message(topic=topic, payload=b"x", properties={"letter": letter}) for letter in "cd"))
    producer.flush()
    assert read(client, topic, last) == "cd"


def test_a_frozen_broker_is_waited_for_so_long_at_most(breakable: System, topic: str) -> None:
    """
    Both calls end at their time with `Timeout`, and work again when the broker does.
    """
    client = breakable.connect()
    sent(client, topic, "ab", 2)
    breakable.broker.freeze()
    try:
        for call in (
            lambda: client.last_message_ids(topic, timeout_seconds=0.5),
            lambda: list(client.read_back(topic, -1, None, timeout_seconds=0.5)),
        ):
            with pytest.raises(BrokerError) as raised:
                call()
            assert (raised.value.code, raised.value.retriable, raised.value.maybe_stored) == ("Timeout", True, False)
    finally:
        breakable.broker.thaw()
    assert read(client, topic, None) == "ab"
    client.close()


def test_what_was_stored_is_read_after_a_kill(breakable: System, topic: str) -> None:
    """
    A broker that is killed and started again has what it acknowledged, in its places.
    """
    client = breakable.connect()
    first, second = sent(client, topic, "abcd", 2)
    breakable.broker.kill()
    breakable.broker.start()
    client.close()
    client = breakable.connect()
    assert client.last_message_ids(topic, timeout_seconds=_SECONDS) == {-1: second}
    assert read(client, topic, first) == "cd"
    third = sent(client, topic, "ef", 2)[-1]
    assert client.last_message_ids(topic, timeout_seconds=_SECONDS) == {-1: third}
    assert read(client, topic, MessageId(first.ledger_id, first.entry_id, -1, 0)) == "bcdef"
    client.close()


@pytest.mark.parametrize("code", ["AuthorizationError", "Timeout", "ConnectError"])
def test_the_fake_fails_to_read_on_command(topic: str, code: str) -> None:
    """
    So many calls fail with the code that the test wants, and then work again.
    """
    broker = FakeBroker()
    client = FakeSystem(broker, deduplication=False).connect()
    sent(client, topic, "a")
    broker.fail_next_reads(2, code)
    with pytest.raises(BrokerError) as raised:
        client.last_message_ids(topic, timeout_seconds=_SECONDS)
    assert (raised.value.code, raised.value.maybe_stored) == (code, False)
    with pytest.raises(BrokerError):
        all_of(client, topic)
    assert read(client, topic, None) == "a"
    broker.fail_next_reads(1, code)
    broker.forget_faults()
    assert read(client, topic, None) == "a"
    with pytest.raises(InvalidInput, match="count"):
        broker.fail_next_reads(0, code)
    client.close()


def test_a_client_that_closes_ends_the_reading(client: TransportClient, topic: str) -> None:
    """
    A thread that reads while the client is closed gets an error or what was there, and ends.
    """
    sent(client, topic, "a" * 5000, 500)
    ended: list[object] = []
    begun = threading.Event()

    def run() -> None:
        try:
            while True:
                for _ in client.read_back(topic, -1, None, timeout_seconds=_SECONDS):
                    begun.set()
        except BrokerError as error:
            ended.append(error.code)

    thread = threading.Thread(target=run)
    thread.start()
    assert begun.wait(_SECONDS)
    client.close()
    thread.join(_SECONDS)
    assert ended == ["AlreadyClosed"]
    with pytest.raises(BrokerError):
        client.last_message_ids(topic, timeout_seconds=_SECONDS)


_SIBLINGS: Final = """
import os, sys

from safepulsar.broker.pulsar_client import connect
from safepulsar.settings import ClientSettings

url, topic = sys.argv[1:]


def read(told, go_on):
    client = connect(ClientSettings(url=url))
    messages = client.read_back(topic, -1, None, timeout_seconds=20.0)
    next(messages)
    os.write(told, b"1")
    os.read(go_on, 1)  # the reader stays open until both have one
    count = 1 + sum(1 for _ in messages)
    client.close()
    return count


told, tell = os.pipe()
go_on, let_go = os.pipe()
children = []
for _ in range(2):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if read(tell, go_on) == 3 else 2
        finally:
            os.write(tell, b"1")  # or the parent would wait for what failed
            os._exit(code)
    children.append(child)
    os.read(told, 1)
os.write(let_go, b"11")
print([os.waitpid(child, 0)[1] for child in children])
"""


def test_forked_siblings_may_read_at_the_same_time(broker: Broker, topic: str) -> None:
    """
    The client library gives the readers of all children of one process the same names, and a name has one reader.
    """
    client = RealSystem(broker).connect()
    sent(client, topic, "abc")
    client.close()
    assert run_script(_SIBLINGS, broker.url, topic, timeout_seconds=60).check() == "[0, 0]\n"
