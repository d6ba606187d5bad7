"""
Every message passes the steps of its topic and of its sender; a step may change it, refuse it, and never lose it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from safepulsar.broker.client_registry import ClientRegistry
from safepulsar.errors import InvalidMessage, InvalidSettings, InvalidTopic, QueueFull, SendFailed, StepFailed
from safepulsar.failed_messages import InMemoryFailedMessages
from safepulsar.sender import RetryingSender
from safepulsar.sending.intake import prepare, preparing
from safepulsar.sending.replay import replay
from safepulsar.serialization import JsonSerializer, Serializers
from safepulsar.settings import SenderSettings, TopicSettings
from safepulsar.steps import Chain, Draft
from safepulsar.testing import FakeBroker

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from safepulsar.message import Message
    from safepulsar.steps import Step


class _Do:
    """
    A step that does what the test says.
    """

    def __init__(self, what: Callable[[Draft], Any]) -> None:
        self._what = what

    def before_send(self, draft: Draft) -> Draft:
        result = self._what(draft)
        return draft if result is None else result


def _sender(
    broker: FakeBroker, steps: Sequence[Step] = (), topic_steps: Mapping[str, Sequence[Step]] | None = None
) -> RetryingSender:
    return RetryingSender(
        broker.url,
        failed_messages=InMemoryFailedMessages(),
        registry=ClientRegistry(broker.connect),
        steps=steps,
        topic_steps=topic_steps,
    )


def _mark(name: str) -> _Do:
    def do(draft: Draft) -> None:
        draft.value = f"{draft.value}{name}"

    return _Do(do)


def test_the_steps_of_the_topic_come_first_and_then_those_of_the_sender() -> None:
    """
    The order is the documented one, whichever way the topic is written, and other topics pass the sender's steps only.
    """
    broker = FakeBroker()
    with _sender(broker, [_mark("c"), _mark("d")], {"orders": [_mark("a"), _mark("b")]}) as sender:
        sender.send("orders", "-")
        sender.send("persistent://public/default/orders", "+")
        sender.send("others", "-")
        report = sender.send_many("orders", ["1", "2"])
    assert broker.payloads("orders") == [b"-abcd", b"+abcd", b"1abcd", b"2abcd"]
    assert broker.payloads("others") == [b"-cd"]
    assert report.delivered == 2


def test_a_step_sees_everything_and_may_change_everything() -> None:
    """
    What a step leaves in the draft is what is sent.
    """
    seen: list[Draft] = []

    def change(draft: Draft) -> Draft:
        seen.append(draft)
        new = Draft("others", [draft.value], partition_key="new", properties={"safepulsar-mine": "1"})
        new.event_timestamp_ms = 7
        return new

    broker = FakeBroker()
    with _sender(broker, [_Do(change)]) as sender:
        properties = {"a": "b"}
        sender.send(
            "orders", "1", partition_key="k", ordering_key="o", properties=properties, event_timestamp_ms=5,
            deliver_at_ms=6, deadline_seconds=3,
        )  # fmt: skip
    (draft,) = seen
    assert draft.topic == "persistent://public/default/orders"
    assert (draft.value, draft.partition_key, draft.ordering_key) == ("1", "k", "o")
    assert (draft.event_timestamp_ms, draft.deliver_at_ms, draft.deadline_seconds) == (5, 6, 3)
    assert draft.properties == properties
    assert draft.properties is not properties
    (message,) = broker.messages("others")
    assert (message.payload, message.partition_key, message.event_timestamp_ms) == (b'["1"]', "new", 7)
    assert message.properties == {"safepulsar-mine": "1"}
    assert broker.messages("orders") == []


def _raise(error: Exception) -> Callable[[Draft], None]:
    def do(_: Draft) -> None:
        raise error

    return do


@pytest.mark.parametrize(
    ("what", "expected", "told"),
    [
        (_raise(ValueError("canary")), StepFailed, "step _Do: raised ValueError"),
        (_raise(InvalidMessage("value", "is not liked")), InvalidMessage, "value: is not liked"),
        (_raise(QueueFull("the step's own")), QueueFull, "the step's own"),
        (lambda _: "no draft", StepFailed, "step _Do: must return the draft that it was given, not str"),
        (lambda draft: setattr(draft, "value", {1, 2}), InvalidMessage, "value: must be bytes"),
        (lambda draft: draft.set_property("a", "\x00"), InvalidMessage, "holds the control character U+0000"),
        (lambda draft: draft.set_property("a", 1), InvalidMessage, "must be text, not int"),
        (lambda draft: setattr(draft, "topic", "a/b"), InvalidTopic, "must be a name"),
        (lambda draft: setattr(draft, "partition_key", ""), InvalidMessage, "must not be empty"),
    ],
)
def test_what_a_step_refuses_is_not_accepted(
    what: Callable[[Draft], Any], expected: type[Exception], told: str
) -> None:
    """
    The caller gets a typed error; nothing was sent, and the books know nothing of it.
    """
    broker = FakeBroker()
    with _sender(broker, [_Do(what)]) as sender:
        with pytest.raises(expected) as caught:
            sender.send("orders", b"...")
        assert told in str(caught.value)
        assert "canary" not in str(caught.value)
        assert sender.stats().counts.accepted == 0
        with pytest.raises(expected, match=None if expected is QueueFull else r"values\[0\]"):
            sender.send_many("orders", [b"..."])
        assert sender.stats().counts.accepted == 0
    assert broker.payloads("orders") == []


def test_what_a_step_raised_is_the_cause() -> None:
    """
    Whoever looks for the reason finds it.
    """
    cause = KeyError("x")
    with _sender(FakeBroker(), [_Do(_raise(cause))]) as sender, pytest.raises(StepFailed) as caught:
        sender.submit("orders", b"...")
    assert caught.value.__cause__ is cause


def test_a_trace_id_goes_into_the_store_and_a_replay_runs_no_steps() -> None:
    """
    A failed message has the trace id of its request, and is sent again as it was: serialised, sealed and marked once.
    """
    calls: list[str] = []

    def mark(draft: Draft) -> None:
        calls.append(draft.topic)
        draft.trace_id = "4bf92f3577b34da6"
        draft.set_property("safepulsar-mark", "1")

    broker = FakeBroker()
    with _sender(broker, [Serializers(default=JsonSerializer()), _Do(mark)]) as sender:
        broker.fail_next(1, "TopicTerminated")
        with pytest.raises(SendFailed):
            sender.send("orders", {"a": 1})
        (kept,) = sender.failed_messages.find()
        assert kept.trace_id == "4bf92f3577b34da6"
        assert replay(sender.failed_messages, sender).delivered == 1
        assert len(calls) == 1
        broker.fail_next(1, "TopicTerminated")
        handle = sender.submit("orders", None)
        assert handle.trace_id == "4bf92f3577b34da6"
        assert isinstance(handle.exception(10), SendFailed)
        (kept,) = sender.failed_messages.find()
        again = sender.resend(kept)
        assert again.trace_id == kept.trace_id
        again.result(10)
    first, second = broker.messages("orders")
    assert first.payload == b'{"a":1}'
    assert first.properties == {"content-type": "application/json", "safepulsar-mark": "1"}
    assert (second.payload, second.properties) == (None, {"safepulsar-mark": "1"})


class _Guard:
    """
    A step that looks at what is sent again.
    """

    def __init__(self, error: Exception | None) -> None:
        self._error = error

    def before_send(self, draft: Draft) -> Draft:
        return draft

    def before_resend(self, message: Message) -> None:
        if self._error is not None and message.payload == b"bad":
            raise self._error


@pytest.mark.parametrize(
    "error", [InvalidMessage("value", "is not liked"), KeyError("canary")], ids=["ours", "another"]
)
def test_a_step_may_refuse_what_is_sent_again(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """
    The message stays in the store, its lane waits behind it, and the others are sent.
    """
    broker = FakeBroker()
    with _sender(broker, topic_steps={"orders": [_Guard(error)]}) as sender:
        for payload, key in ((b"bad", "k"), (b"behind", "k"), (b"good", None)):
            broker.fail_next(1, "TopicTerminated")
            with pytest.raises(SendFailed):
                sender.send("orders", payload, partition_key=key)
        bad = next(sender.failed_messages.find())
        expected = type(error) if isinstance(error, InvalidMessage) else StepFailed
        with pytest.raises(expected):
            sender.resend(bad)
        report = replay(sender.failed_messages, sender)
        assert (report.delivered, report.skipped) == (1, 2)
        assert [each.message.payload for each in sender.failed_messages.find()] == [b"bad", b"behind"]
        assert sender.stats().counts.balanced
    assert broker.payloads("orders") == [b"good"]
    assert [record.message for record in caplog.records].count("safepulsar.not_replayed") == 1
    assert "canary" not in caplog.text


def test_what_is_surely_too_big_is_not_encoded() -> None:
    """
    The least size of a value is checked before its encoding, the real one after it; chunking has no limit.
    """
    settings = SenderSettings(max_message_bytes=100, topics={"big": TopicSettings(chunking=True)})
    broker = FakeBroker()
    with RetryingSender(broker.url, registry=ClientRegistry(broker.connect), settings=settings) as sender:
        for value in ([0] * 51, dict.fromkeys(map(str, range(21))), "x" * 101, bytearray(101)):
            with pytest.raises(InvalidMessage, match=r"has at least 10[0-9] bytes .* at most 100 are allowed"):
                sender.send("orders", value)
        with pytest.raises(InvalidMessage, match=r"has 1[0-9]{2} bytes"):
            sender.send("orders", ["long text"] * 10)
        with pytest.raises(InvalidMessage, match=r"has 102 bytes"):
            sender.send("orders", "é" * 51)
        sender.send("big", [0] * 51)
    assert broker.payloads("big") == [b"[" + b",".join([b"0"] * 51) + b"]"]
    assert broker.payloads("orders") == []


@pytest.mark.parametrize(
    ("steps", "topic_steps", "field"),
    [
        ([object()], None, "steps[0]"),
        ([_mark("a"), _Do], None, "steps[1]"),
        (_mark("a"), None, "steps"),
        ("steps", None, "steps"),
        ([], {"orders": [3]}, "topic_steps['orders'][0]"),
        ([], {"orders": _mark("a")}, "topic_steps['orders']"),
    ],
)
def test_what_is_no_step_is_refused_when_the_sender_is_made(steps: Any, topic_steps: Any, field: str) -> None:  # noqa: ANN401 - anything
    """
    A forgotten pair of brackets is found at the start.
    """
    with pytest.raises(InvalidSettings) as caught:
        _sender(FakeBroker(), steps, topic_steps)
    assert caught.value.field == field


def test_a_topic_name_of_steps_is_checked() -> None:
    """
    A misspelt topic name is found at the start, too.
    """
    with pytest.raises(InvalidTopic):
        Chain(topic_steps={"a/b": [_mark("a")]})


def test_without_steps_there_is_no_chain_on_the_way() -> None:
    """
    An empty chain is not run: what prepares a message is the same function as without any.
    """
    assert preparing(Chain()) is prepare
    assert preparing(Chain([], {})) is prepare
    assert preparing(Chain([_mark("a")])) is not prepare


def test_a_draft_says_where_it_goes_and_not_what_it_holds() -> None:
    """
    Its repr may be logged.
    """
    assert repr(Draft("persistent://public/default/orders", "canary", partition_key="canary")) == (
        "<Draft for 'persistent://public/default/orders'>"
    )
