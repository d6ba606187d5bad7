"""
Faults of the fake broker come when they are ordered, and do what they do on a real broker.
"""

from __future__ import annotations

import pytest

from safepulsar.broker_process import BrokerState
from safepulsar.errors import BrokerError, InvalidInput
from safepulsar.settings import ClientSettings
from safepulsar.testing import FakeBroker, Phase
from tests.testing.producers import OTHER, InThread, Sent, client_of, outcomes, refusal, settings

# -- ordered faults ----------------------------------------------------------------------------------------------


def test_creations_fail_as_often_as_ordered(fake: FakeBroker) -> None:
    """
    The next n creations of the named topic fail; the others, and those after it, don't.
    """
    client = client_of(fake)
    fake.fail_next(2, "ServiceUnitNotReady", phase=Phase.CREATE, topic="orders")
    client.create_producer(settings(OTHER))
    assert [refusal(client), refusal(client)] == ["ServiceUnitNotReady"] * 2
    client.create_producer(settings())
    assert (fake.counts.creations_failed, fake.counts.producers_created) == (2, 2)


def test_an_inline_error_is_raised_and_answered(fake: FakeBroker) -> None:
    """
    The call raises, the slot has the error as well, and nothing of the call is sent.
    """
    producer = client_of(fake).create_producer(settings(batch=2))
    fake.fail_next(1, "ProducerQueueIsFull", phase=Phase.INLINE)
    failed, fine = Sent(producer, "a", "b"), Sent(producer, "c", "d")
    assert failed.raised is not None
    assert (failed.raised.code, failed.raised.maybe_stored) == ("ProducerQueueIsFull", False)
    assert failed.outcome == "ProducerQueueIsFull"
    producer.flush()
    assert fine.outcome == "0:0:-1:1"
    assert fake.payloads("orders") == [b"c", b"d"]


@pytest.mark.parametrize(("stored", "payloads"), [(False, [b"b"]), (True, [b"a", b"b"])], ids=["not stored", "stored"])
def test_a_later_error_takes_the_place_of_the_acknowledgement(
    fake: FakeBroker, payloads: list[bytes], *, stored: bool
) -> None:
    """
    The batch fails from the network, whether it is stored or not, and the producer goes on.
    """
    producer = client_of(fake).create_producer(settings())
    fake.fail_next(1, "UnknownError", stored=stored)
    failed, fine = Sent(producer, "a"), Sent(producer, "b")
    assert failed.outcome == "waiting"
    producer.flush()
    assert failed.outcome == "UnknownError"
    assert isinstance(failed.answer, BrokerError)
    assert failed.answer.maybe_stored
    assert fine.outcome.startswith("0:")
    assert fake.payloads("orders") == payloads


@pytest.mark.parametrize("code", ["AlreadyClosed", "ProducerFenced", "TopicTerminated"])
def test_some_errors_end_the_producer(fake: FakeBroker, code: str) -> None:
    """
    After them everything pending fails alike, later calls fail inline, and the name is free again.
    """
    client = client_of(fake)
    producer = client.create_producer(settings(name="shop", batch=2))
    before = Sent(producer, "a", "b")
    fake.freeze()
    failed, behind, open_batch = Sent(producer, "c", "d"), Sent(producer, "e", "f"), Sent(producer, "g")
    fake.fail_next(1, code)
    fake.thaw()
    late = Sent(producer, "i", "j")
    assert outcomes(before, failed, behind, open_batch) == ["waiting"] * 4
    fake.pump()
    assert outcomes(before, failed, behind, open_batch, late) == ["0:0:-1:1", code, code, code, code]
    assert not producer.is_connected()
    Sent(client.create_producer(settings(name="shop")), "h")
    assert fake.payloads("orders") == [b"a", b"b", b"h"]


def test_faults_are_used_up_in_the_order_in_which_they_came(fake: FakeBroker) -> None:
    """
    An older fault goes first; what is left can be taken back.
    """
    producer = client_of(fake).create_producer(settings())
    fake.fail_next(1, "ChecksumError", topic="invoices")
    fake.fail_next(1, "UnknownError")
    fake.fail_next(2, "ChecksumError")
    sent = [Sent(producer, "a"), Sent(producer, "b")]
    fake.forget_faults()
    sent.append(Sent(producer, "c"))
    producer.flush()
    assert outcomes(*sent) == ["UnknownError", "ChecksumError", "0:0:-1:-1"]


def test_nonsense_is_refused(fake: FakeBroker) -> None:
    """
    A fault that can't be is refused with the argument's name.
    """
    with pytest.raises(InvalidInput, match="count: must be at least 1, not 0"):
        fake.fail_next(0, "UnknownError")
    with pytest.raises(InvalidInput, match="stored: only what fails later can be stored, not CREATE"):
        fake.fail_next(1, "UnknownError", phase=Phase.CREATE, stored=True)


# -- frozen, broken, gone ----------------------------------------------------------------------------------------


def test_a_frozen_broker_stores_and_answers_at_thaw(fake: FakeBroker) -> None:
    """
    While frozen nothing is stored or answered, and connections stay; at thaw everything comes, in order.
    """
    producer = client_of(fake).create_producer(settings())
    fake.freeze()
    sent = [Sent(producer, "a"), Sent(producer, "b")]
    assert (fake.state, producer.is_connected()) == (BrokerState.FROZEN, True)
    assert (fake.payloads("orders"), fake.pump()) == ([], 0)
    fake.thaw()
    assert fake.payloads("orders") == [b"a", b"b"]
    fake.pump()
    assert outcomes(*sent) == ["0:0:-1:-1", "0:1:-1:-1"]


def test_a_frozen_broker_stores_also_for_a_producer_that_was_closed(fake: FakeBroker) -> None:
    """
    What was on the wire is stored at thaw although its producer failed it as `AlreadyClosed`: it may be stored.
    """
    producer = client_of(fake).create_producer(settings())
    fake.freeze()
    sent = Sent(producer, "a")
    producer.close()
    assert (sent.outcome, fake.payloads("orders")) == ("AlreadyClosed", [])
    fake.thaw()
    fake.pump()
    assert (sent.outcome, fake.payloads("orders")) == ("AlreadyClosed", [b"a"])


def test_a_cut_connection_takes_with_it_what_was_sent_to_a_frozen_broker(fake: FakeBroker) -> None:
    """
    It is not stored at thaw from the old connection; the client sends it again on the new one, once.
    """
    client = client_of(fake)
    producer, closed = client.create_producer(settings()), client.create_producer(settings())
    fake.freeze()
    sent, lost = Sent(producer, "a"), Sent(closed, "b")
    fake.cut()
    assert not producer.is_connected()
    closed.close()
    fake.thaw()
    fake.pump()
    assert outcomes(sent, lost) == ["0:0:-1:-1", "AlreadyClosed"]
    assert fake.payloads("orders") == [b"a"]
    assert fake.counts.resent_batches == 1


def test_one_topic_may_be_frozen(fake: FakeBroker) -> None:
    """
    A frozen topic delays no other, neither messages nor creations.
    """
    client = client_of(fake)
    producer, other = client.create_producer(settings()), client.create_producer(settings(OTHER))
    fake.freeze("orders")
    frozen, free = Sent(producer, "a"), Sent(other, "b")
    creation = InThread(lambda: client.create_producer(settings()))
    fake.wait_until(lambda: fake.counts.creating == 1)
    client.create_producer(settings(OTHER))
    fake.pump()
    assert outcomes(frozen, free) == ["waiting", "1:0:-1:-1"]
    assert creation.running
    fake.thaw("orders")
    creation.result()
    fake.pump()
    assert frozen.outcome == "0:0:-1:-1"


@pytest.mark.parametrize(
    ("act", "code"),
    [(FakeBroker.kill, "ConnectError"), (None, "AlreadyClosed")],
    ids=["broker killed", "client closed"],
)
def test_a_creation_that_hangs_ends_with_its_client_or_broker(fake: FakeBroker, act: object, code: str) -> None:
    """
    Killing the broker, or closing the client from another thread, ends a creation on a frozen broker.
    """
    client = client_of(fake)
    fake.freeze()
    creation = InThread(lambda: client.create_producer(settings()))
    fake.wait_until(lambda: fake.counts.creating == 1)
    if act is None:
        client.close()
    else:
        fake.kill()
    error = creation.result()
    assert isinstance(error, BrokerError)
    assert error.code == code


def test_a_creation_on_a_frozen_broker_ends_by_its_timeout(fake: FakeBroker) -> None:
    """
    The operation timeout bounds it, as on a real broker.
    """
    client = fake.connect(ClientSettings(url=fake.url, operation_timeout_seconds=1))
    fake.freeze()
    assert refusal(client) == "Timeout"


def test_what_was_not_acknowledged_is_sent_again_after_a_restart(fake: FakeBroker) -> None:
    """
    A kill takes the answers under way: their messages are stored a second time, in order, behind what was there.
    """
    producer = client_of(fake).create_producer(settings(batch=2))
    acknowledged = Sent(producer, "a", "b")
    producer.flush()
    fake.hold()
    stored, open_batch = Sent(producer, "c", "d"), Sent(producer, "e")
    fake.kill()
    assert (fake.state, producer.is_connected(), fake.held) == (BrokerState.STOPPED, False, 0)
    assert refusal(client_of(fake)) == "ConnectError"
    fake.release()
    fake.restart()
    producer.flush()
    assert outcomes(acknowledged, stored, open_batch) == ["0:0:-1:1", "0:2:-1:1", "0:3:-1:0"]
    assert fake.payloads("orders") == [b"a", b"b", b"c", b"d", b"c", b"d", b"e"]
    assert fake.counts.resent_batches == 1


def test_deduplication_recognises_what_is_sent_again() -> None:
    """
    With deduplication a resend after a cut is acknowledged as a duplicate and stored once.
    """
    fake = FakeBroker(deduplication=True, threaded=False)
    producer = client_of(fake).create_producer(settings(name="shop"))
    fake.hold()
    sent = [Sent(producer, "a"), Sent(producer, "b")]
    fake.cut()
    fake.release()
    fake.pump()
    assert outcomes(*sent) == ["-1:-1:-1:-1", "-1:-1:-1:-1"]
    assert fake.payloads("orders") == [b"a", b"b"]


def test_answers_that_were_not_delivered_break_with_the_connection(fake: FakeBroker) -> None:
    """
    An answer under way when the connection breaks is heard once, from the resend.
    """
    producer = client_of(fake).create_producer(settings())
    sent = Sent(producer, "a")
    fake.cut()
    assert fake.pump() == 1
    assert sent.outcome == "0:1:-1:-1"
    assert fake.payloads("orders") == [b"a", b"a"]


def test_a_dead_producers_errors_do_not_break_with_the_connection(fake: FakeBroker) -> None:
    """
    The client library's own verdict reaches the callbacks although the broker is gone.
    """
    producer = client_of(fake).create_producer(settings())
    fake.fail_next(1, "ProducerFenced")
    sent = [Sent(producer, "a"), Sent(producer, "b")]
    fake.kill()
    fake.pump()
    assert outcomes(*sent) == ["ProducerFenced", "ProducerFenced"]


def test_flush_waits_through_a_restart() -> None:
    """
    `flush` blocks while the broker is down, and returns when what was pending is answered.
    """
    fake = FakeBroker()
    client = client_of(fake)
    producer = client.create_producer(settings())
    fake.kill()
    sent = Sent(producer, "a")
    flush = InThread(producer.flush)
    fake.wait_until(lambda: fake.counts.flushes == 1)
    assert flush.running
    fake.start()
    flush.result()
    assert sent.outcome == "0:0:-1:-1"
    client.close()


def test_controls_out_of_place_do_nothing(fake: FakeBroker) -> None:
    """
    Starting what runs, thawing what is not frozen and freezing what is gone change nothing.
    """
    producer = client_of(fake).create_producer(settings())
    fake.start()
    fake.thaw()
    fake.thaw("orders")
    fake.release()
    fake.kill()
    fake.kill()
    fake.freeze()
    fake.freeze("orders")
    fake.cut()
    fake.thaw()
    assert (fake.state, producer.is_connected()) == (BrokerState.STOPPED, False)
    fake.start()
    assert (fake.state, producer.is_connected()) == (BrokerState.RUNNING, True)
