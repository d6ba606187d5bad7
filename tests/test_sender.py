"""
The sender as an application sees it: what it sends, refuses, reports and counts.
"""

from __future__ import annotations

import json
import math
import threading
from typing import TYPE_CHECKING, Any

import pytest

from safepulsar.broker.outcomes import Phase
from safepulsar.errors import (
    DeadlineExceeded,
    InvalidInput,
    InvalidMessage,
    InvalidSettings,
    InvalidTopic,
    LanePaused,
    MessageTooBig,
    QueueFull,
    SenderClosed,
    SendFailed,
    StoreError,
)
from safepulsar.failed_messages import EVERYTHING, InMemoryFailedMessages
from safepulsar.message import Certainty, Fate, MessageId
from safepulsar.sender import RetryingSender
from safepulsar.settings import ClientSettings, TopicSettings, WhenFull
from safepulsar.testing import FakeBroker
from tests.senders import TOPIC, Call, sender_of
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from safepulsar.serialization import Sendable


@pytest.fixture
def broker() -> FakeBroker:
    """
    A fake broker whose answers come at once, from a thread.
    """
    return FakeBroker()


@pytest.fixture
def sender(broker: FakeBroker) -> Iterator[RetryingSender]:
    """
    A sender on it, closed after the test.
    """
    with sender_of(broker) as sender:
        yield sender


# -- what is sent --------------------------------------------------------------------------------------------------


def test_a_message_arrives_as_it_was_given(broker: FakeBroker, sender: RetryingSender) -> None:
    """
    Payload, keys, properties and times reach the topic unchanged, and the result says where the message is.
    """
    result = sender.send(
        "orders",
        b"\x00\xff",
        partition_key="p",
        ordering_key="o",
        properties={"a": "b"},
        event_timestamp_ms=1_700_000_000_000,
        deliver_at_ms=1_800_000_000_000,
    )
    (stored,) = broker.messages("orders")
    assert (stored.payload, stored.partition_key, stored.ordering_key) == (b"\x00\xff", "p", "o")
    assert stored.properties == {"a": "b"}
    assert (stored.event_timestamp_ms, stored.deliver_at_ms) == (1_700_000_000_000, 1_800_000_000_000)
    assert (result.topic, result.fate, result.message_id) == (TOPIC, Fate.DELIVERED, stored.message_id)
    assert result.attempts == 1
    assert 0 < result.elapsed_seconds < 30


@pytest.mark.parametrize(
    ("value", "payload"),
    [("é", "é".encode()), ({"a": [1, None]}, b'{"a":[1,null]}'), (None, None), (b"", b""), (bytearray(b"x"), b"x")],
    ids=["text", "data", "tombstone", "empty", "bytearray"],
)
def test_values_become_bytes(
    broker: FakeBroker, sender: RetryingSender, value: Sendable, payload: bytes | None
) -> None:
    """
    Text, data and tombstones are sent as the bytes that the documentation names.
    """
    sender.send("orders", value)
    assert broker.payloads("orders") == [payload]


def test_data_are_copied_at_the_call(broker: FakeBroker, sender: RetryingSender) -> None:
    """
    What the caller changes after `submit` returned does not reach the message.
    """
    broker.freeze()
    value, properties, order = bytearray(b"before"), {"a": "before"}, {"n": 1}
    handles = [
        sender.submit("orders", value, properties=properties),
        sender.submit("orders", order),
    ]
    value[:] = b"after!"
    properties["a"] = "after"
    order["n"] = 2
    broker.thaw()
    for handle in handles:
        handle.result()
    first, second = broker.messages("orders")
    assert (first.payload, first.properties, second.payload) == (b"before", {"a": "before"}, b'{"n":1}')


def test_every_name_of_a_topic_is_one_topic(broker: FakeBroker, sender: RetryingSender) -> None:
    """
    Short and full names share one queue, one producer and one order.
    """
    for name in ("orders", "public/default/orders", TOPIC):
        sender.send(name, name)
    assert broker.topics() == [TOPIC]
    assert broker.payloads("orders") == [b"orders", b"public/default/orders", TOPIC.encode()]
    assert broker.counts.producers_created == 1
    assert sender.stats().queues == 1


def test_settings_of_a_topic_are_found_by_either_name(broker: FakeBroker) -> None:
    """
    `SenderSettings.topics` may name a topic in short or in full, however `send` names it.
    """
    topics = {
        "orders": TopicSettings(producer_name="a"),
        "persistent://public/default/bills": TopicSettings(producer_name="b"),
    }
    with sender_of(broker, topics=topics) as sender:
        sender.send("orders", b"1")
        sender.send("bills", b"2")
        assert [broker.messages(topic)[0].producer_name for topic in ("orders", "bills")] == ["a", "b"]


def test_a_deduplicated_message_is_a_duplicate() -> None:
    """
    Where the broker has the sequence id already, the fate is DUPLICATE, and the books say so.
    """
    broker = FakeBroker(deduplication=True)
    for fate in (Fate.DELIVERED, Fate.DUPLICATE):
        with sender_of(broker, topics={"orders": TopicSettings(producer_name="shop")}) as each:
            result = each.send("orders", b"x", sequence_id=1)
            assert result.fate is fate
    assert result.message_id == MessageId(-1, -1)
    counts = each.close().counts
    assert (counts.accepted, counts.delivered, counts.duplicate) == (1, 0, 1)


# -- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "error", "text"),
    [
        ({"topic": ""}, InvalidTopic, "topic: .*not empty"),
        ({"topic": None}, InvalidTopic, "topic: .*not NoneType"),
        ({"topic": []}, InvalidTopic, "topic: .*not list"),
        ({"topic": "a/b"}, InvalidTopic, "topic"),
        ({"value": 7}, InvalidMessage, "value: must be bytes.*not int"),
        ({"value": "\ud800"}, InvalidMessage, "value: .*lone surrogate"),
        ({"partition_key": ""}, InvalidMessage, "partition_key: must not be empty"),
        ({"partition_key": 7}, InvalidMessage, "partition_key: must be text"),
        ({"ordering_key": "a\nb"}, InvalidMessage, "ordering_key: .*control character"),
        ({"properties": {"a": 1}}, InvalidMessage, "properties.*must be text"),
        ({"properties": [("a", "b")]}, InvalidMessage, "properties: must be a mapping"),
        ({"event_timestamp_ms": 0}, InvalidMessage, "event_timestamp_ms: .*from 1"),
        ({"deliver_at_ms": 1.5}, InvalidMessage, "deliver_at_ms: .*whole number"),
        ({"deadline_seconds": 0}, InvalidMessage, "deadline_seconds: .*above 0"),
        ({"deadline_seconds": math.inf}, InvalidMessage, "deadline_seconds: .*at most"),
        ({"deadline_seconds": math.nan}, InvalidMessage, "deadline_seconds"),
        ({"deadline_seconds": "5"}, InvalidMessage, "deadline_seconds"),
        ({"deadline_seconds": True}, InvalidMessage, "deadline_seconds"),
        ({"sequence_id": 1}, InvalidMessage, "sequence_id: needs a producer_name"),
    ],
)
def test_bad_input_is_refused_before_anything_is_sent(
    broker: FakeBroker, sender: RetryingSender, fields: dict[str, Any], error: type[InvalidInput], text: str
) -> None:
    """
    Each wrong argument raises a typed error that names it, and nothing is accepted or opened.
    """
    arguments = {"topic": "orders", "value": b"x", **fields}
    for send in (sender.send, sender.submit):
        with pytest.raises(error, match=text):
            send(**arguments)
    assert sender.stats().counts.accepted == 0
    assert broker.counts.clients_created == 0


def test_a_message_over_the_limit_is_refused(broker: FakeBroker) -> None:
    """
    Payload, keys and properties together count, and the error has the size, the limit and the remedy.
    """
    with sender_of(broker, max_message_bytes=10) as sender:
        sender.send("orders", b"1234567", partition_key="k", properties={"a": "b"})
        with pytest.raises(InvalidMessage, match=r"value: the message has 11 bytes.*at most 10 .*send a reference"):
            sender.send("orders", b"12345678", partition_key="k", properties={"a": "b"})
    assert len(broker.messages("orders")) == 1


def test_chunked_messages_have_no_limit(broker: FakeBroker) -> None:
    """
    With chunking a message over the limit is sent.
    """
    with sender_of(broker, max_message_bytes=10, topics={"orders": TopicSettings(chunking=True)}) as sender:
        assert sender.send("orders", b"x" * 11).fate is Fate.DELIVERED


def test_what_a_sender_is_made_of_is_checked(broker: FakeBroker, tmp_path: Path) -> None:
    """
    A wrong URL, wrong settings, and a store that cannot be opened are typed errors, before anything is sent.
    """
    with pytest.raises(InvalidSettings, match="url"):
        RetryingSender("http://localhost")
    with pytest.raises(InvalidSettings, match=r"settings: must be SenderSettings, not dict"):
        RetryingSender(broker.url, settings={})  # type: ignore[arg-type]
    sender = RetryingSender(broker.url, failed_messages=tmp_path)
    with pytest.raises(StoreError):
        sender.open()
    with pytest.raises(StoreError):
        sender.send("orders", b"x")
    assert not sender.close().counts.accepted


def test_nothing_is_opened_before_the_first_use(broker: FakeBroker) -> None:
    """
    Making a sender starts no thread and makes no client; opening it makes no client yet.
    """
    before = threading.active_count()
    sender = sender_of(broker)
    assert threading.active_count() == before
    assert repr(sender) == "<RetryingSender 'pulsar://fake:6650', not opened yet>"
    with sender:
        assert repr(sender) == "<RetryingSender 'pulsar://fake:6650', 0 in flight>"
        assert broker.counts.clients_created == 0
    assert repr(sender) == "<RetryingSender 'pulsar://fake:6650', closed>"


def test_a_sender_shows_no_secret() -> None:
    """
    The repr has the URL, and nothing of the credentials.
    """
    sender = RetryingSender(ClientSettings(url="pulsar+ssl://fake:6651", token="canary"))  # noqa: S106  # a secret on purpose
    assert "canary" not in repr(sender)


# -- flush, send_many ----------------------------------------------------------------------------------------------


def test_flush_waits_for_what_was_accepted_before(broker: FakeBroker, sender: RetryingSender) -> None:
    """
    `flush` returns when everything accepted before the call is final, and does not wait for what comes later.
    """
    sender.send("orders", b"0")
    broker.hold()
    before = [sender.submit("orders", b"1"), sender.submit("orders", b"2", partition_key="k")]
    broker.wait_until(lambda: broker.held == 2)
    flush = Call(sender.flush)
    wait_until(lambda: any(handle._watchers for handle in before), "flush waits")
    later = sender.submit("orders", b"3", partition_key="k")
    broker.release(2)
    assert flush.outcome() == 0
    assert all(handle.done() for handle in before)
    assert not later.done()
    broker.release()


def test_flush_says_how_many_are_not_final(broker: FakeBroker, sender: RetryingSender) -> None:
    """
    After its timeout `flush` returns the number of messages whose fate is not known.
    """
    broker.hold()
    for _ in range(3):
        sender.submit("orders", b"x")
    assert sender.flush(0.01) == 3
    broker.release()
    assert sender.flush() == 0


def test_flush_waits_for_what_is_being_kept(broker: FakeBroker, sender: RetryingSender) -> None:
    """
    A message that failed counts as not final until it is in the store.
    """
    broker.fail_next(1, "AuthorizationError", phase=Phase.CREATE)
    handle = sender.submit("orders", b"x")
    assert sender.flush() == 0
    assert isinstance(handle.exception(), SendFailed)


@pytest.mark.parametrize("timeout", [-1, math.inf, math.nan, "1", True])
def test_a_timeout_is_a_number_of_seconds(sender: RetryingSender, timeout: object) -> None:
    """
    `flush` and `close` refuse what no timer takes, and go on working.
    """
    for call in (sender.flush, sender.close):
        with pytest.raises(InvalidInput, match="timeout: must be a number of seconds from 0 to"):
            call(timeout)  # type: ignore[arg-type]
    assert sender.send("orders", b"x").fate is Fate.DELIVERED


def test_send_many_reports_every_fate(broker: FakeBroker, sender: RetryingSender) -> None:
    """
    All values arrive in order, and the report's numbers add up.
    """
    report = sender.send_many("orders", (str(number) for number in range(12_000)))
    assert (report.read, report.delivered, report.duplicate, report.failed, report.errors) == (12_000, 12_000, 0, 0, ())
    assert broker.payloads("orders") == [str(number).encode() for number in range(12_000)]
    assert 0 < report.seconds < 60


@pytest.mark.parametrize("make", [list, tuple, iter])
@pytest.mark.parametrize("bound", [7, 150, 100_000])
def test_send_many_keeps_the_order_of_all_kinds_of_values(
    broker: FakeBroker, make: Callable[[list[Sendable]], Iterable[Sendable]], bound: int
) -> None:
    """
    A list is taken a hundred at a time: bytes and others in turn, with keys for some, and more than there is room for.
    """
    values: list[Sendable] = [b"%d" % number if number % 9 else {"n": number} for number in range(1_050)]
    with sender_of(broker, max_in_flight_messages=bound) as sender:
        assert sender.send_many("orders", make(values)).delivered == 1_050
        assert [json.loads(each or b"") for each in broker.payloads("orders")] == [
            n if n % 9 else {"n": n} for n in range(1_050)
        ]
        report = sender.send_many(
            "others", make(values), partition_key=lambda value: "k" if isinstance(value, dict) else None
        )
        assert (report.read, report.delivered) == (1_050, 1_050)
    keyed = [json.loads(each.payload or b"") for each in broker.messages("others") if each.partition_key]
    others = [json.loads(each.payload or b"") for each in broker.messages("others") if not each.partition_key]
    assert keyed == [{"n": number} for number in range(0, 1_050, 9)]
    assert others == [number for number in range(1_050) if number % 9]


def test_send_many_of_a_list_takes_a_lane_that_is_stopped_into_account(broker: FakeBroker) -> None:
    """
    Behind a message that failed the lane takes none, and nothing of another lane waits for that.
    """
    with sender_of(broker) as sender:
        broker.fail_next(1, "AuthorizationError", phase=Phase.CREATE)
        with pytest.raises(SendFailed):
            sender.send("orders", b"first", ordering_key="a")
        with pytest.raises(LanePaused):
            sender.send_many("orders", [b"0", b"1", b"2"], ordering_key=lambda value: "a" if value == b"2" else "b")
        assert broker.payloads("orders") == [b"0", b"1"]


def test_send_many_takes_a_key_for_all_or_of_each(broker: FakeBroker, sender: RetryingSender) -> None:
    """
    Keys are one text, or a function of the value; properties are for all.
    """
    sender.send_many("orders", ["a", "b"], partition_key="k", ordering_key=str, properties={"p": "q"})
    sender.send_many("orders", ["c"], partition_key=lambda value: f"key of {value!r}")
    seen = [
        (each.payload, each.partition_key, each.ordering_key, dict(each.properties))
        for each in broker.messages("orders")
    ]
    assert seen == [
        (b"a", "k", "a", {"p": "q"}),
        (b"b", "k", "b", {"p": "q"}),
        (b"c", "key of 'c'", None, {}),
    ]


def test_send_many_counts_and_shows_failures(broker: FakeBroker) -> None:
    """
    Failed messages are counted, the first 100 are shown, and all are in the store.
    """
    store = InMemoryFailedMessages()
    with sender_of(broker, store) as sender:
        broker.fail_next(1, "AuthorizationError", phase=Phase.CREATE)
        report = sender.send_many("orders", [b"x"] * 150)
        assert report.read == 150 == report.delivered + report.failed
        assert report.failed > 0
        assert len(report.errors) == min(report.failed, 100)
        assert store.count(EVERYTHING) == report.failed
    counts = sender.close().counts
    assert (counts.delivered, counts.failed) == (report.delivered, report.failed)


def test_a_bad_value_in_the_middle_names_its_place(broker: FakeBroker, sender: RetryingSender) -> None:
    """
    The error names the value's place; those before it are sent and final, those behind it are not taken.
    """
    values = iter(["a", "b", 7, "d"])
    with pytest.raises(InvalidMessage, match=r"^values\[2\]\.value: must be bytes") as caught:
        sender.send_many("orders", values)  # type: ignore[arg-type]
    assert caught.value.field == "values[2].value"
    assert broker.payloads("orders") == [b"a", b"b"]
    assert next(values) == "d"
    assert sender.stats().counts.delivered == 2


@pytest.mark.parametrize("bad", [0, 99, 100, 250])
def test_a_bad_value_of_a_list_stops_nothing_before_it(broker: FakeBroker, sender: RetryingSender, bad: int) -> None:
    """
    Wherever it stands in those that are taken together.
    """
    values: list[Any] = [b"%d" % number for number in range(300)]
    values[bad] = 7
    with pytest.raises(InvalidMessage, match=rf"^values\[{bad}\]\.value: must be bytes"):
        sender.send_many("orders", values)
    assert broker.payloads("orders") == [b"%d" % number for number in range(bad)]
    assert sender.stats().counts.delivered == bad


@pytest.mark.parametrize("values", [b"abc", "abc", {"a": 1}], ids=["bytes", "text", "mapping"])
def test_one_value_is_not_many(broker: FakeBroker, sender: RetryingSender, values: Iterable[Sendable]) -> None:
    """
    A single text, payload or mapping in place of an iterable of them is refused: its parts were surely not meant.
    """
    with pytest.raises(InvalidInput, match=r"values: must be an iterable of values, .*send\(\)"):
        sender.send_many("orders", values)
    assert broker.payloads("orders") == []


def test_an_iterable_that_raises_leaves_nobody_behind(broker: FakeBroker, sender: RetryingSender) -> None:
    """
    Whatever the iterable or a key function raises goes to the caller, once all that was accepted is final.
    """

    def broken() -> Iterator[str]:
        yield "a"
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        sender.send_many("orders", broken())
    counts = sender.stats().counts
    assert (counts.accepted, counts.delivered) == (1, 1)
    assert broker.payloads("orders") == [b"a"]


# -- the bounds ----------------------------------------------------------------------------------------------------


def test_the_number_in_flight_is_bounded(broker: FakeBroker) -> None:
    """
    With the bound reached, `submit` waits until a message is final, and then goes on.
    """
    broker.hold()
    with sender_of(broker, max_in_flight_messages=2) as sender:
        for _ in range(2):
            sender.submit("orders", b"x", partition_key="k")
        third = Call(sender.submit, "orders", b"y", partition_key="k")
        wait_until(lambda: bool(sender._started().ledger._waiters), "the third waits for room")
        assert sender.stats().counts.in_flight == 2
        broker.release()
        assert third.outcome().result().fate is Fate.DELIVERED


def test_the_bytes_in_flight_are_bounded(broker: FakeBroker) -> None:
    """
    Payloads, keys and properties count; a message over the bound goes alone.
    """
    broker.hold()
    with sender_of(broker, max_in_flight_bytes=10, when_full=WhenFull.RAISE) as sender:
        sender.submit("orders", b"1234", partition_key="k", properties={"a": "b"})
        assert sender.stats().counts.in_flight_bytes == 7
        with pytest.raises(QueueFull):
            sender.submit("orders", b"1234")
        sender.submit("orders", b"123")
        broker.release()
        assert sender.flush() == 0
        assert sender.send("orders", b"x" * 100).fate is Fate.DELIVERED
        assert sender.stats().counts.in_flight_bytes == 0


def test_a_full_sender_that_raises_accepts_nothing(broker: FakeBroker) -> None:
    """
    With RAISE the call fails at once, and the message is nowhere.
    """
    broker.hold()
    with sender_of(broker, max_in_flight_messages=1, when_full=WhenFull.RAISE) as sender:
        sender.submit("orders", b"x")
        for call in (sender.send, sender.submit):
            with pytest.raises(QueueFull, match="at most 1 and"):
                call("orders", b"y")
        broker.release()
    assert broker.payloads("orders") == [b"x"]
    assert sender.close().counts.accepted == 1


def test_a_full_sender_that_keeps_puts_the_message_into_the_store(broker: FakeBroker) -> None:
    """
    With KEEP the message is accepted, in the store when `submit` returns, and surely not in the topic.
    """
    store = InMemoryFailedMessages()
    broker.hold()
    with sender_of(broker, store, max_in_flight_messages=1, when_full=WhenFull.KEEP) as sender:
        sender.submit("orders", b"x")
        handle = sender.submit("orders", b"y", partition_key="k")
        (kept,) = store.find(EVERYTHING)
        assert (kept.message.payload, kept.message.partition_key) == (b"y", "k")
        assert (kept.certainty, kept.error, kept.attempts) == (Certainty.NOT_STORED, "QueueFull", ())
        with pytest.raises(SendFailed) as caught:
            handle.result()
        assert caught.value.failed_message_id == kept.id
        assert isinstance(caught.value.__cause__, QueueFull)
        with pytest.raises(SendFailed):
            sender.send("orders", b"z")
        broker.release()
    counts = sender.close().counts
    assert (counts.accepted, counts.delivered, counts.failed, counts.not_kept) == (3, 1, 2, 0)
    assert broker.payloads("orders") == [b"x"]


def test_keeping_is_for_what_does_not_fit_and_nothing_else(broker: FakeBroker) -> None:
    """
    With KEEP a message over the bound on bytes is sent when nothing else is in flight.
    """
    with sender_of(broker, max_in_flight_bytes=10, when_full=WhenFull.KEEP) as sender:
        assert sender.send("orders", b"x" * 100).fate is Fate.DELIVERED


# -- failures ------------------------------------------------------------------------------------------------------


def test_a_failure_carries_the_message_and_its_story(broker: FakeBroker, sender: RetryingSender) -> None:
    """
    `SendFailed` has the message, the attempts, the certainty and the number in the store; its cause is the broker's error.
    """
    sender.send("orders", b"first")
    broker.fail_next(1, "MessageTooBig")
    with pytest.raises(SendFailed, match="NOT_STORED after 1 attempt: MessageTooBig") as caught:
        sender.send("orders", b"second", partition_key="k", properties={"a": "b"})
    error = caught.value
    assert isinstance(error.__cause__, MessageTooBig)
    assert error.message.payload == b"second"
    assert (error.message.partition_key, error.message.properties) == ("k", {"a": "b"})
    assert (error.certainty, error.maybe_stored) == (Certainty.NOT_STORED, False)
    assert [(each.code, each.maybe_stored) for each in error.attempts] == [("MessageTooBig", False)]
    kept = sender.failed_messages.get(error.failed_message_id or 0)
    assert kept.message == error.message
    assert kept.attempts == error.attempts


def test_a_closed_sender_takes_nothing(broker: FakeBroker) -> None:
    """
    After closing every way of sending raises SenderClosed, and `open` too.
    """
    sender = sender_of(broker)
    with sender:
        pass
    for call in (sender.send, sender.submit):
        with pytest.raises(SenderClosed, match="make a new one"):
            call("orders", b"x")
    with pytest.raises(SenderClosed):
        sender.send_many("orders", [b"x"])
    with pytest.raises(SenderClosed):
        sender.open()
    assert broker.payloads("orders") == []


def test_waiting_for_a_result_in_vain_changes_nothing(broker: FakeBroker, sender: RetryingSender) -> None:
    """
    A timeout of `result` leaves the message on its way.
    """
    broker.hold()
    handle = sender.submit("orders", b"x")
    for _ in range(3):
        with pytest.raises(DeadlineExceeded, match="it goes on"):
            handle.result(timeout=0.001)
    assert not handle._watchers, "nothing is left behind"
    broker.release()
    assert handle.result().fate is Fate.DELIVERED
