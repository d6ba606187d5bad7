"""
`assert_sent` passes where a topic holds what it should, and else says what it holds.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from safepulsar.broker.client_registry import ClientRegistry
from safepulsar.errors import InvalidInput, InvalidMessage
from safepulsar.sender import RetryingSender
from safepulsar.testing import FakeBroker, assert_sent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from safepulsar.serialization import Sendable


@pytest.fixture
def broker() -> FakeBroker:
    """
    As an application's test would make it.
    """
    return FakeBroker()


@pytest.fixture
def sender(broker: FakeBroker) -> Iterator[RetryingSender]:
    """
    A sender on it.
    """
    with RetryingSender(broker.url, registry=ClientRegistry(broker.connect)) as sender:
        yield sender


@pytest.mark.parametrize(
    ("sent", "asked"),
    [
        (b"\xff\x00", b"\xff\x00"),
        (b"abc", bytearray(b"abc")),
        (b"abc", "abc"),
        ("Grüße", "Grüße".encode()),
        (None, None),
        ({"id": 7, "lines": [1, 2]}, {"lines": [1, 2], "id": 7}),
        ('{ "id" : 7 }', {"id": 7}),
        ([1, {"a": None}], [1, {"a": None}]),
        ("anything", ...),
        (None, ...),
    ],
)
def test_a_value_is_found_as_it_was_sent(
    broker: FakeBroker, sender: RetryingSender, sent: Sendable, asked: Sendable
) -> None:
    """
    Bytes and text by their bytes, data as data, a tombstone as one, and `...` is anything.
    """
    result = sender.send("orders", sent)
    (message,) = assert_sent(broker, "orders", asked)
    assert message.message_id == result.message_id


@pytest.mark.parametrize(
    ("asked", "keys"),
    [
        (b"other", {}),
        ({"id": "7"}, {}),
        ([{"id": 7}], {}),
        (None, {}),
        ('{ "id": 7 }', {}),
        (..., {"partition_key": "c2"}),
        (..., {"ordering_key": "c1"}),
        (..., {"properties": {"source": "app"}}),
        (..., {"properties": {"source": "web", "more": ""}}),
    ],
)
def test_what_is_not_there_is_not_found(
    broker: FakeBroker, sender: RetryingSender, asked: Sendable, keys: dict[str, str]
) -> None:
    """
    Another value, type, key or property is another message, and the text shows what is there.
    """
    sender.send("orders", {"id": 7}, partition_key="c1", properties={"source": "web"})
    with pytest.raises(AssertionError) as raised:
        assert_sent(broker, "orders", asked, timeout_seconds=0, **keys)  # type: ignore[arg-type]  # parametrized
    text = str(raised.value)
    assert text.startswith("topic 'orders' holds 0 of 1 messages like this, not 1: ")
    assert """b'{"id":7}', partition_key='c1'""" in text
    assert "{'source': 'web'}" in text


def test_keys_and_properties_are_found(broker: FakeBroker, sender: RetryingSender) -> None:
    """
    Keys exactly, of the properties those that are named.
    """
    sender.send("orders", b"x", partition_key="c1", ordering_key="o1", properties={"a": "1", "b": "2"})
    assert_sent(broker, "orders", b"x", partition_key="c1", ordering_key="o1", properties={"a": "1"})


def test_a_message_too_many_is_a_failure(broker: FakeBroker, sender: RetryingSender) -> None:
    """
    The number is exact: a duplicate is found out, at once.
    """
    for _ in range(3):
        sender.send("orders", b"x")
    sender.send("orders", b"y")
    assert len(assert_sent(broker, "orders", b"x", times=3)) == 3
    with pytest.raises(AssertionError, match="holds 3 of 4 messages like this, not 1: payload b'x'"):
        assert_sent(broker, "orders", b"x", timeout_seconds=60)
    assert_sent(broker, "orders", b"z", times=0)
    with pytest.raises(AssertionError, match="holds 1 of 4 messages like this, not 0"):
        assert_sent(broker, "orders", b"y", times=0)


def test_it_waits_for_what_is_on_its_way(broker: FakeBroker, sender: RetryingSender) -> None:
    """
    It may stand right behind `submit`: what comes later is waited for.
    """
    sender.send("orders", b"first")
    broker.freeze()
    sender.submit("orders", b"late")
    asked = threading.Event()
    original = broker.messages

    def messages(topic: str) -> list[object]:
        asked.set()
        return list(original(topic))

    broker.messages = messages  # type: ignore[method-assign,assignment]  # to know that it has looked in vain

    def thaw_once_asked() -> None:
        asked.wait(10)
        broker.thaw()

    thread = threading.Thread(target=thaw_once_asked)
    thread.start()
    assert_sent(broker, "orders", b"late")
    thread.join()


def test_a_long_topic_is_shown_in_part(broker: FakeBroker, sender: RetryingSender) -> None:
    """
    A failure stays readable.
    """
    sender.send_many("orders", [b"%d" % number for number in range(25)])
    with pytest.raises(AssertionError, match="any message") as raised:
        assert_sent(broker, "orders", timeout_seconds=0)
    lines = str(raised.value).splitlines()
    assert len(lines) == 22
    assert lines[-1] == "  and 5 more"


def test_nonsense_is_refused(broker: FakeBroker) -> None:
    """
    What could never be true is no failure of the application.
    """
    with pytest.raises(InvalidInput, match="times"):
        assert_sent(broker, "orders", times=-1)
    with pytest.raises(InvalidInput, match="timeout"):
        assert_sent(broker, "orders", timeout_seconds=-1)
    with pytest.raises(InvalidMessage):
        assert_sent(broker, "orders", {"at": float("nan")})
