"""
A sender runs on the fake broker as an application's own tests would have it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from safepulsar.broker.client_registry import ClientRegistry
from safepulsar.errors import SendFailed
from safepulsar.message import Certainty
from safepulsar.sender import RetryingSender
from safepulsar.testing import FakeBroker

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def broker() -> FakeBroker:
    """
    A fake broker with threads, as an application's test would make it.
    """
    return FakeBroker()


@pytest.fixture
def sender(broker: FakeBroker) -> Iterator[RetryingSender]:
    """
    A sender on it.
    """
    with RetryingSender(broker.url, registry=ClientRegistry(broker.connect)) as sender:
        yield sender


def test_what_is_sent_is_in_the_topic(broker: FakeBroker, sender: RetryingSender) -> None:
    """
    A send returns where the message is, and the test finds it there.
    """
    result = sender.send("orders", {"id": 7}, partition_key="customer-7")
    (stored,) = broker.messages("orders")
    assert (stored.payload, stored.partition_key) == (b'{"id":7}', "customer-7")
    assert stored.message_id == result.message_id


def test_an_application_sees_its_failure(broker: FakeBroker, sender: RetryingSender) -> None:
    """
    A fault ordered by the test reaches the application as the error that it would get from a real broker.
    """
    broker.fail_next(1, "TopicTerminated", stored=True)
    with pytest.raises(SendFailed) as raised:
        sender.send("orders", b"ambiguous")
    assert raised.value.certainty is Certainty.MAYBE_STORED
    assert raised.value.failed_message_id is not None
    assert broker.payloads("orders") == [b"ambiguous"]


def test_a_test_decides_the_moment_of_an_acknowledgement(broker: FakeBroker, sender: RetryingSender) -> None:
    """
    While answers are held a handle is not done, and it is when they are released.
    """
    broker.hold()
    handle = sender.submit("orders", b"late")
    broker.wait_until(lambda: broker.held == 1)
    assert not handle.done()
    broker.release()
    assert handle.result(10).message_id == broker.messages("orders")[0].message_id
