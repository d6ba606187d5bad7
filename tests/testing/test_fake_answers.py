"""
The fake broker answers when it should, from where it should, and never when the test holds it back.
"""

from __future__ import annotations

import threading

import pytest

from safepulsar.errors import BrokerError, InvalidInput
from safepulsar.message import Message, MessageId
from safepulsar.testing import FakeBroker
from tests.testing.producers import OTHER, SECONDS, TOPIC, InThread, Sent, client_of, settings


def test_answers_wait_for_flush_or_pump(fake: FakeBroker) -> None:
    """
    Without threads nothing is answered by itself, and `pump` says how many batches were.
    """
    producer = client_of(fake).create_producer(settings())
    sent = [Sent(producer, "a"), Sent(producer, "b")]
    assert [each.outcome for each in sent] == ["waiting", "waiting"]
    assert fake.pump() == 2
    assert [each.outcome for each in sent] == ["0:0:-1:-1", "0:1:-1:-1"]
    assert fake.pump() == 0


def test_early_answers_come_before_the_call_returns() -> None:
    """
    With `early_answers` the slot is filled when `send_batch` returns, on the caller's thread.
    """
    fake = FakeBroker(threaded=False, early_answers=True)
    threads = []
    producer = client_of(fake).create_producer(settings())
    producer.send_batch([Message(topic=TOPIC, payload=b"a")], lambda *_: threads.append(threading.current_thread()))
    assert threads == [threading.current_thread()]
    fake.hold()
    held = Sent(producer, "b")
    assert held.outcome == "waiting"
    with pytest.raises(InvalidInput, match="early_answers: needs threaded=False"):
        FakeBroker(early_answers=True)


def test_answers_come_from_a_thread_of_the_client() -> None:
    """
    By default a thread makes the callbacks, in the order of the calls; it ends with its client.
    """
    fake = FakeBroker()
    before = threading.active_count()
    client = client_of(fake)
    assert threading.active_count() == before
    producer = client.create_producer(settings())
    seen: list[tuple[object, str]] = []
    for _ in range(100):
        producer.send_batch(
            [Message(topic=TOPIC, payload=b"")],
            lambda _code, message_id: seen.append((message_id, threading.current_thread().name)),
        )
    producer.flush()
    assert seen == [(MessageId(0, number), "safepulsar-fake-network") for number in range(100)]
    client.close()
    assert threading.active_count() == before


def test_many_threads_share_a_client() -> None:
    """
    Producers of many threads at once lose nothing, and each one's messages stay in order.
    """
    fake = FakeBroker()
    client = client_of(fake)

    def send(number: int) -> None:
        producer = client.create_producer(settings(batch=5))
        for start in range(0, 50, 5):
            Sent(producer, *(f"{number} {start + offset}" for offset in range(5)))
        producer.flush()
        producer.close()

    calls = [InThread(lambda number=number: send(number)) for number in range(8)]  # type: ignore[misc]
    for call in calls:
        call.result()
    for number in range(8):
        mine = [payload for payload in fake.payloads("orders") if (payload or b"").startswith(b"%d " % number)]
        assert mine == [b"%d %d" % (number, count) for count in range(50)]
    counts = fake.counts
    assert (counts.producers_created, counts.producers_open) == (8, 0)
    assert (counts.batches, counts.messages, counts.answers, counts.flushes) == (80, 400, 80, 8)
    client.close()


def test_close_fails_what_is_pending_though_it_may_be_stored(fake: FakeBroker) -> None:
    """
    A closed producer's pending messages fail with `AlreadyClosed`, maybe stored; later calls raise.
    """
    producer = client_of(fake).create_producer(settings(batch=2))
    fake.hold()
    stored, unsent = Sent(producer, "a", "b"), Sent(producer, "c")
    producer.close()
    producer.close()
    late = Sent(producer, "d")
    for sent in (stored, unsent, late):
        assert sent.outcome == "AlreadyClosed"
    assert isinstance(stored.answer, BrokerError)
    assert stored.answer.maybe_stored
    assert late.raised is not None
    assert not late.raised.maybe_stored
    fake.release()
    fake.pump()
    assert stored.outcome == "AlreadyClosed"
    assert fake.payloads("orders") == [b"a", b"b"]
    producer.flush()


def test_closing_the_client_closes_its_producers(fake: FakeBroker) -> None:
    """
    A closed client has no open producers and makes none.
    """
    client = client_of(fake)
    fake.hold()
    sent = Sent(client.create_producer(settings()), "a")
    client.close()
    client.close()
    assert sent.outcome == "AlreadyClosed"
    assert (fake.counts.clients_open, fake.counts.producers_open) == (0, 0)
    with pytest.raises(BrokerError) as raised:
        client.create_producer(settings())
    assert raised.value.code == "AlreadyClosed"


def test_flush_waits_until_closed_by_another_thread() -> None:
    """
    `flush` blocks while answers are held, and returns when the producer is closed.
    """
    fake = FakeBroker()
    producer = client_of(fake).create_producer(settings(batch=2))
    fake.hold()
    sent = Sent(producer, "a")
    flush = InThread(producer.flush)
    fake.wait_until(lambda: fake.held == 1)
    assert flush.running
    producer.close()
    flush.result()
    assert sent.outcome == "AlreadyClosed"


def test_flush_does_not_wait_for_what_comes_later() -> None:
    """
    `flush` waits for what was handed over before it, and for nothing else.
    """
    fake = FakeBroker()
    producer = client_of(fake).create_producer(settings())
    fake.hold()
    first = Sent(producer, "a")
    flush = InThread(producer.flush)
    fake.wait_until(lambda: fake.counts.flushes == 1)
    second = Sent(producer, "b")
    fake.release(1)
    flush.result()
    assert (first.outcome, second.outcome) == ("0:0:-1:-1", "waiting")
    producer.close()


def test_flush_without_threads_goes_on_when_another_thread_releases(fake: FakeBroker) -> None:
    """
    Without threads, `flush` itself delivers what another thread lets go.
    """
    producer = client_of(fake).create_producer(settings())
    fake.hold()
    sent = Sent(producer, "a")
    flush = InThread(producer.flush)
    fake.wait_until(lambda: fake.counts.flushes == 1)
    assert flush.running
    fake.release()
    flush.result()
    assert sent.outcome == "0:0:-1:-1"


def test_held_answers_go_one_by_one_or_all(fake: FakeBroker) -> None:
    """
    `release(n)` lets the n oldest go and holds on; `release()` ends the hold. What is held is stored already.
    """
    client = client_of(fake)
    producer, other = client.create_producer(settings()), client.create_producer(settings(OTHER))
    fake.hold()
    sent = [Sent(producer, "a"), Sent(producer, "b"), Sent(other, "c"), Sent(producer, "d")]
    assert fake.payloads("orders") == [b"a", b"b", b"d"]
    assert (fake.held, fake.pump()) == (4, 0)
    fake.release(1)
    fake.release(1, topic="invoices")
    fake.pump()
    assert [each.outcome for each in sent] == ["0:0:-1:-1", "waiting", "1:0:-1:-1", "waiting"]
    with pytest.raises(ValueError, match="3 answers can't be released, 2 are held"):
        fake.release(3)
    fake.release()
    sent.append(Sent(producer, "e"))
    fake.pump()
    assert [each.outcome for each in sent[3:]] == ["0:2:-1:-1", "0:3:-1:-1"]


def test_one_topic_may_be_held(fake: FakeBroker) -> None:
    """
    A hold of one topic leaves the others alone.
    """
    client = client_of(fake)
    held, free = client.create_producer(settings()), client.create_producer(settings(OTHER))
    fake.hold("orders")
    sent = [Sent(held, "a"), Sent(free, "b")]
    fake.pump()
    assert [each.outcome for each in sent] == ["waiting", "1:0:-1:-1"]
    fake.release(topic="orders")
    fake.pump()
    assert sent[0].outcome == "0:0:-1:-1"


def test_wait_until_returns_with_the_change_or_says_what_is_there() -> None:
    """
    `wait_until` sees each change, and after its time it fails with the broker's state.
    """
    fake = FakeBroker()
    client = client_of(fake)
    producer = client.create_producer(settings())
    waiting = InThread(lambda: fake.wait_until(lambda: len(fake.messages("orders")) == 1, timeout_seconds=SECONDS))
    Sent(producer, "a")
    waiting.result()
    producer.flush()
    with pytest.raises(AssertionError, match=r"waited 0 s in vain; <FakeBroker RUNNING, 1 messages in 1 topics"):
        fake.wait_until(lambda: False, timeout_seconds=0)
    client.close()
