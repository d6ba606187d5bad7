"""
Deadlines: no call exceeds its own by more than 250 ms, whatever hangs; and idle producers go.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from safepulsar.books.handle import now
from safepulsar.books.ledger import Ledger
from safepulsar.broker.producer_pool import ProducerPool
from safepulsar.delivery.send_queue import SendQueue
from safepulsar.errors import DeadlineExceeded, QueueFull, SendFailed
from safepulsar.message import Certainty, Fate
from safepulsar.sending.watch import Watch
from safepulsar.settings import PoolSettings, SenderSettings, WhenFull
from safepulsar.testing import FakeBroker
from tests.senders import LONG_SECONDS, HangingStore, sender_of, within
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from safepulsar.sender import RetryingSender

DEADLINE_SECONDS = 0.4


@pytest.fixture
def broker() -> FakeBroker:
    """
    A fake broker whose answers come at once, from a thread.
    """
    return FakeBroker()


def _send(sender: RetryingSender, key: str | None = None) -> None:
    sender.send("orders", b"x", deadline_seconds=DEADLINE_SECONDS, partition_key=key)


def _submit(sender: RetryingSender, key: str | None = None) -> None:
    sender.submit("orders", b"x", deadline_seconds=DEADLINE_SECONDS, partition_key=key).result()


def _await(sender: RetryingSender, key: str | None = None) -> None:
    async def main() -> None:
        await sender.submit("orders", b"x", deadline_seconds=DEADLINE_SECONDS, partition_key=key)

    asyncio.run(main())


def _send_many(sender: RetryingSender, key: str | None = None) -> None:
    report = sender.send_many("orders", [b"x"] * 20, deadline_seconds=DEADLINE_SECONDS, partition_key=key)
    assert report.failed == 20
    raise report.errors[0]


CALLS = pytest.mark.parametrize(
    "call", [_send, _submit, _await, _send_many], ids=["send", "submit", "await", "send_many"]
)
KEYS = pytest.mark.parametrize("key", [None, "k"], ids=["batches", "one by one"])


@CALLS
@KEYS
@pytest.mark.parametrize("fault", ["freeze", "kill", "hold"])
def test_a_broker_that_does_not_answer(
    broker: FakeBroker, fault: str, key: str | None, call: Callable[..., None]
) -> None:
    """
    Frozen, dead or silent: the call ends with SendFailed in time, and what was handed over may be stored.
    """
    with sender_of(broker, max_in_flight_messages=100) as sender:
        sender.send("orders", b"0", partition_key=key)
        getattr(broker, fault)()
        with within(DEADLINE_SECONDS), pytest.raises(SendFailed) as caught:
            call(sender, key)
        assert caught.value.certainty is Certainty.MAYBE_STORED
        assert caught.value.failed_message_id is not None
        assert isinstance(caught.value.__cause__, DeadlineExceeded)
        broker.start()
        broker.thaw()
        broker.release()
        assert sender.send("orders", b"1", partition_key=key).fate is Fate.DELIVERED


@CALLS
def test_a_creation_that_hangs(broker: FakeBroker, call: Callable[..., None]) -> None:
    """
    While the producer cannot be opened, the call ends in time, and nothing is stored.
    """
    with sender_of(broker) as sender:
        broker.freeze()
        with within(DEADLINE_SECONDS), pytest.raises(SendFailed) as caught:
            call(sender)
        assert caught.value.certainty is Certainty.NOT_STORED
        broker.thaw()
        assert sender.send("orders", b"1").fate is Fate.DELIVERED
    assert broker.payloads("orders") == [b"1"]


@CALLS
def test_a_store_that_hangs(broker: FakeBroker, call: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """
    While the store of failed messages does not answer, the call ends in time and says so; the fate comes later.

    `send_many` needs every fate and so gives the store longer.
    """
    monkeypatch.setattr("safepulsar.books.handle._KEEP_SECONDS", 0.2)
    store = HangingStore()
    with sender_of(broker, store) as sender:
        sender.send("orders", b"0")
        broker.freeze()
        with within(DEADLINE_SECONDS), pytest.raises(DeadlineExceeded, match="is not known after"):
            call(sender)
        assert sender.stats().counts.in_flight > 0
        store.answer.set()
        assert sender.flush() == 0
        broker.thaw()


@pytest.mark.parametrize("call", [_send, _submit, _await], ids=["send", "submit", "await"])
def test_a_full_queue(broker: FakeBroker, call: Callable[..., None]) -> None:
    """
    Without room until the deadline the call ends in time, and nothing was accepted.
    """
    with sender_of(broker, max_in_flight_messages=1) as sender:
        broker.hold()
        sender.submit("orders", b"0", deadline_seconds=LONG_SECONDS)
        with within(DEADLINE_SECONDS), pytest.raises(QueueFull):
            call(sender)
        assert sender.stats().counts.accepted == 1
        broker.release()


@pytest.mark.parametrize("call", [_send, _submit, _await], ids=["send", "submit", "await"])
def test_a_rate_limit(broker: FakeBroker, call: Callable[..., None]) -> None:
    """
    A message whose turn would come after its deadline fails in time, surely not stored.
    """
    with sender_of(broker, messages_per_second=0.5) as sender:
        for _ in range(2):
            sender.submit("orders", b"0", deadline_seconds=LONG_SECONDS)
        with within(DEADLINE_SECONDS), pytest.raises(SendFailed) as caught:
            call(sender)
        assert caught.value.certainty is Certainty.NOT_STORED
        sender.close(0)


def test_a_full_store_that_hangs_holds_nobody_up(broker: FakeBroker) -> None:
    """
    With KEEP and a disk that does not answer, `submit` returns in time with a handle whose fate comes later.
    """
    store = HangingStore()
    with sender_of(broker, store, max_in_flight_messages=1, when_full=WhenFull.KEEP) as sender:
        broker.hold()
        sender.submit("orders", b"0", deadline_seconds=LONG_SECONDS)
        with within(DEADLINE_SECONDS):
            handle = sender.submit("orders", b"1", deadline_seconds=DEADLINE_SECONDS)
        assert not handle.done()
        store.answer.set()
        assert isinstance(handle.exception(timeout=LONG_SECONDS), SendFailed)
        broker.release()


def test_each_message_has_its_own_deadline(broker: FakeBroker) -> None:
    """
    An impatient message fails alone; the patient ones around it are delivered when the broker is back.
    """
    with sender_of(broker) as sender:
        sender.send("orders", b"0", partition_key="k")
        broker.freeze()
        first = sender.submit("orders", b"1", partition_key="k")
        impatient = sender.submit("orders", b"2", partition_key="k", deadline_seconds=0.1)
        last = sender.submit("orders", b"3", partition_key="k")
        assert isinstance(impatient.exception(), SendFailed)
        assert not first.done()
        broker.thaw()
        assert [first.result().fate, last.result().fate] == [Fate.DELIVERED] * 2


def test_a_sender_that_slept_looks_again(broker: FakeBroker) -> None:
    """
    After a time without messages, deadlines hold as before.
    """
    with sender_of(broker) as sender:
        for _ in range(3):
            sender.send("orders", b"0")
            wait_until(lambda: not sender._started().watch.awake, "the watch sleeps")
            broker.freeze()
            with within(0.1), pytest.raises(SendFailed):
                sender.send("orders", b"1", deadline_seconds=0.1)
            broker.thaw()


def test_a_busy_application_does_not_make_it_look_on_and_on() -> None:
    """
    What is accepted while it looks is seen at the next tick, and not at once, and then once more.
    """
    ledger = Ledger(SenderSettings())
    looks: list[float] = []

    class Busy:
        topic = "orders"

        def expire(self, moment: float) -> bool:
            looks.append(moment)
            with ledger.lock:  # as the application does in the middle of the look
                watch.wake_locked()
            return True

    pool = ProducerPool(lambda settings: pytest.fail(f"nothing is opened: {settings}"), PoolSettings())
    watch = Watch(lambda: [Busy()], ledger, pool, idle_seconds=LONG_SECONDS)
    with ledger.lock:
        watch.wake_locked()
    wait_until(lambda: len(looks) > 5, "it looks")
    assert watch.close(now() + LONG_SECONDS)
    assert min(later - earlier for earlier, later in pairwise(looks[1:])) > 0.02


def test_one_queue_that_fails_does_not_keep_others_from_their_deadlines(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """
    An error in looking after one topic is logged, and all others are looked after all the same.
    """
    expire = SendQueue.expire

    def fail(queue: SendQueue, moment: float, cause: Exception | None = None) -> bool:
        if queue.topic.endswith("orders") and cause is None:
            raise LookupError("not expected")
        return expire(queue, moment, cause)  # type: ignore[arg-type]

    with sender_of(broker) as sender, caplog.at_level(logging.ERROR, logger="safepulsar"):
        broker.freeze()
        sender.submit("orders", b"x")
        with monkeypatch.context() as patch:
            patch.setattr(SendQueue, "expire", fail)
            with within(DEADLINE_SECONDS), pytest.raises(SendFailed):
                sender.send("bills", b"x", deadline_seconds=DEADLINE_SECONDS)
        assert "safepulsar.watch_failed" in [record.message for record in caplog.records]
        broker.thaw()


def test_idle_producers_are_closed(broker: FakeBroker) -> None:
    """
    A producer that nobody uses any more is flushed and closed, and the next message opens another.
    """
    with sender_of(broker, pool=PoolSettings(idle_seconds=0.1)) as sender:
        sender.send("orders", b"0")
        broker.wait_until(lambda: broker.counts.producers_open == 0)
        assert sender.send("orders", b"1").fate is Fate.DELIVERED
        assert sender.stats().pool.evicted >= 1
    assert not [
        each for each in threading.enumerate() if each.name.startswith("safepulsar") and "sigterm" not in each.name
    ]
