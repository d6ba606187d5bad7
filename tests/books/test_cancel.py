"""
Taking a message back: before it is handed over surely not sent, afterwards too late, and the books balance either way.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from safepulsar.books.handle import State
from safepulsar.broker.outcomes import Phase
from safepulsar.errors import SendCancelled, SendFailed
from safepulsar.failed_messages import EVERYTHING, InMemoryFailedMessages
from safepulsar.message import Fate
from safepulsar.settings import RetrySettings, WhenFull
from safepulsar.testing import FakeBroker
from tests.senders import LONG_SECONDS, Call, sender_of
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from safepulsar.books.handle import SendHandle
    from safepulsar.sender import RetryingSender


@pytest.fixture
def broker() -> FakeBroker:
    """
    A fake broker.
    """
    return FakeBroker()


@pytest.fixture
def sender(broker: FakeBroker) -> Iterator[RetryingSender]:
    """
    A sender on it, closed after the test.
    """
    with sender_of(broker) as sender:
        yield sender


def _stuck(broker: FakeBroker, sender: RetryingSender, topic: str = "orders") -> SendHandle:
    """
    Freeze the broker while it opens the producer: whatever is sent to `topic` now waits, and is not handed over.
    """
    broker.freeze()
    return sender.submit(topic, b"first")


def _wait_for(handles: list[SendHandle], number: int) -> None:
    wait_until(lambda: number < len(handles), "it is accepted")


def test_what_was_not_handed_over_is_surely_not_sent(broker: FakeBroker, sender: RetryingSender) -> None:
    """
    The message is in no topic and in no store, whoever waits is told, and the books have it as cancelled.
    """
    first = _stuck(broker, sender)
    handle = sender.submit("orders", b"second")
    waiting = Call(handle.result)
    wait_until(lambda: bool(handle._watchers), "somebody waits")
    told = threading.Event()
    handle.add_done_callback(lambda _: told.set())
    assert handle.cancel()
    assert handle.cancel()  # and again
    assert handle.done()
    assert repr(handle).endswith("cancelled>")
    assert isinstance(waiting.outcome(), SendCancelled)
    assert told.wait(LONG_SECONDS)
    with pytest.raises(SendCancelled, match="'persistent://public/default/orders' was cancelled before it was handed"):
        handle.result()
    broker.thaw()
    assert first.result().fate is Fate.DELIVERED
    assert broker.payloads("orders") == [b"first"]
    assert sender.failed_messages.count(EVERYTHING) == 0
    counts = sender.close().counts
    assert (counts.accepted, counts.delivered, counts.cancelled, counts.in_flight) == (2, 1, 1, 0)
    assert counts.balanced


def test_what_was_handed_over_goes_on(broker: FakeBroker, sender: RetryingSender) -> None:
    """
    Too late is told, and changes nothing: the message is delivered.
    """
    broker.hold()
    handle = sender.submit("orders", b"x")
    broker.wait_until(lambda: broker.held == 1)
    assert not handle.cancel()
    broker.release()
    assert handle.result().fate is Fate.DELIVERED
    assert not handle.cancel()
    assert sender.stats().counts.cancelled == 0


def test_what_failed_stays_failed(broker: FakeBroker, sender: RetryingSender) -> None:
    """
    A message that is kept has its fate.
    """
    broker.fail_next(1, "AuthorizationError", phase=Phase.CREATE)
    handle = sender.submit("orders", b"x")
    assert isinstance(handle.exception(), SendFailed)
    assert not handle.cancel()
    assert isinstance(handle.exception(), SendFailed)


def test_its_room_is_free_at_once(broker: FakeBroker) -> None:
    """
    A cancelled message counts for no bound, and whoever waits for room goes on.
    """
    with sender_of(broker, max_in_flight_messages=1) as sender:
        first = _stuck(broker, sender)
        waiting = Call(sender.submit, "orders", b"second")
        wait_until(lambda: bool(sender._started().ledger._waiters), "it waits for room")
        assert first.cancel()
        second = waiting.outcome()
        broker.thaw()
        assert second.result().fate is Fate.DELIVERED
        assert broker.payloads("orders") == [b"second"]


def test_without_room_a_cancelled_message_makes_some(broker: FakeBroker) -> None:
    """
    The bound on bytes is freed, too.
    """
    with sender_of(broker, max_in_flight_bytes=10, when_full=WhenFull.RAISE) as sender:
        first = _stuck(broker, sender)
        assert first.cancel()
        assert sender.stats().counts.in_flight_bytes == 0
        second = sender.submit("orders", b"0123456789")
        broker.thaw()
        assert second.result().fate is Fate.DELIVERED


def test_cancelled_messages_leave_the_line(broker: FakeBroker, sender: RetryingSender) -> None:
    """
    While nothing can be sent, what is cancelled does not pile up: the watch takes it out of the line.
    """
    _stuck(broker, sender)
    engine = sender._started()
    for _ in range(5):
        handles = [sender.submit("orders", b"x") for _ in range(1000)]
        assert all(handle.cancel() for handle in handles)
    (queue,) = engine.queues()
    wait_until(lambda: len(queue.waiting) <= 1, "the line holds what is not cancelled")
    broker.thaw()
    sender.flush()
    assert broker.payloads("orders") == [b"first"]
    assert sender.stats().counts.balanced


def test_what_waits_for_its_next_attempt_is_taken_back(broker: FakeBroker) -> None:
    """
    A message whose attempt surely stored nothing was handed over once, and is surely not sent all the same.
    """
    with sender_of(broker, retry=RetrySettings(first_delay_seconds=5.0)) as sender:
        assert sender.send("orders", b"zero").fate is Fate.DELIVERED
        broker.fail_next(1, "ConnectError", phase=Phase.INLINE)
        handle = sender.submit("orders", b"x")
        wait_until(lambda: len(handle._attempts) == 1 and handle._state == State.QUEUED, "it waits again")
        assert handle.cancel()
        assert isinstance(handle.exception(), SendCancelled)
        assert broker.payloads("orders") == [b"zero"]
        assert sender.close().counts.balanced


def test_what_stands_in_the_store_is_not_cancelled(broker: FakeBroker) -> None:
    """
    A message that a replay sends belongs to the store: it is delivered or stays there.
    """
    store = InMemoryFailedMessages()
    with sender_of(broker, store) as sender:
        broker.fail_next(1, "AuthorizationError", phase=Phase.CREATE)
        assert sender.submit("orders", b"x").exception() is not None
        broker.freeze()
        (failed,) = list(store.find(EVERYTHING))
        handle = sender.resend(failed)
        assert not handle.cancel()
        broker.thaw()
        assert handle.result().fate is Fate.DELIVERED


def test_cancelling_races_with_sending(broker: FakeBroker, sender: RetryingSender) -> None:
    """
    Each of many messages that are sent and cancelled at the same time is in the topic, or surely is not: never both.
    """
    handles = [_stuck(broker, sender)]
    taken_back: set[int] = set()

    def cancel_half() -> None:
        for number in range(2, 3000, 2):
            _wait_for(handles, number)
            if number == 500:
                broker.thaw()
            if handles[number].cancel():
                taken_back.add(number)

    canceller = threading.Thread(target=cancel_half)
    canceller.start()
    handles.extend(sender.submit("orders", str(number)) for number in range(1, 3000))
    canceller.join(LONG_SECONDS)
    assert not canceller.is_alive()
    sender.flush()
    assert len(taken_back) >= 240
    assert broker.payloads("orders") == [b"first"] + [
        str(number).encode() for number in range(1, 3000) if number not in taken_back
    ]
    counts = sender.close().counts
    assert counts.cancelled == len(taken_back)
    assert counts.balanced
    assert counts.in_flight_bytes == 0
