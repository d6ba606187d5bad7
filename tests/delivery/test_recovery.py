"""
Trying again: at the old place in the order, only what can't do harm, and only as often as the settings say.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from safepulsar.broker.outcomes import Phase
from safepulsar.errors import BrokerUnavailable, ProducerGone, SendFailed
from safepulsar.message import Certainty, Fate
from safepulsar.settings import PoolSettings, RetrySettings, TopicSettings
from safepulsar.testing import FakeBroker
from tests.senders import AT_ONCE, TOPIC, Recording, sender_of
from tests.waiting import wait_until

if TYPE_CHECKING:
    from safepulsar.books.handle import SendHandle
    from safepulsar.delivery.group import Delivery
    from safepulsar.sender import RetryingSender

RESEND = RetrySettings(first_delay_seconds=0, jitter_seconds=0, resend_maybe_stored=True)


@pytest.fixture
def broker() -> FakeBroker:
    """
    A fake broker whose answers come at once, from a thread.
    """
    return FakeBroker()


def failure(handle: SendHandle) -> SendFailed:
    """
    Wait for a message's failure.
    """
    error = handle.exception()
    assert isinstance(error, SendFailed), handle
    return error


def in_flight_with(
    broker: FakeBroker, sender: RetryingSender, *messages: tuple[str, str | None], first_id: int | None = None
) -> list[SendHandle]:
    """
    Submit with their keys, each in a group of its own, and return when the broker has all of them and holds the answers.
    """
    handles: list[SendHandle] = []
    for number, (payload, key) in enumerate(messages):
        sequence_id = None if first_id is None else first_id + number
        handles.append(sender.submit("orders", payload, partition_key=key, sequence_id=sequence_id))
        broker.wait_until(lambda: broker.held == len(handles))
    return handles


# -- order ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_no_retry_overtakes(broker: FakeBroker, seed: int) -> None:
    """
    Whatever fails at random, inline or later, the messages of each key stand in the topic in the order of acceptance.
    """
    choice = random.Random(seed)  # noqa: S311  # guards nothing
    retry = RetrySettings(max_retries=50, first_delay_seconds=0, jitter_seconds=0)
    sender = sender_of(broker, retry=retry).open()
    recording = Recording(sender, lambda: broker.messages(TOPIC))
    for number in range(400):
        if choice.random() < 0.1:
            phase = choice.choice([Phase.INLINE, Phase.LATER])
            code = choice.choice(
                ["ProducerQueueIsFull", "AlreadyClosed"] if phase is Phase.INLINE else ["MemoryBufferIsFull"]
            )
            broker.fail_next(choice.randint(1, 3), code, phase=phase)
        if choice.random() < 0.02:
            wait_until(lambda: sender.stats().counts.in_flight < 20, "some room")
        recording.submit(str(number), choice.choice(["a", "b", "c"]))
    sender.close()
    report = recording.judge()
    assert report.counts.delivered > 200
    assert report.counts.maybe_stored == 0


def test_a_failure_waits_for_all_that_is_on_its_way(broker: FakeBroker) -> None:
    """
    While a later group has no answer, the earlier failure is not sent again; then it goes before everything that waits.
    """
    with sender_of(broker) as sender:
        sender.send("orders", b"0", partition_key="k")
        broker.hold()
        broker.fail_next(1, "MemoryBufferIsFull")
        first, second = in_flight_with(broker, sender, ("1", "a"), ("2", "b"))
        broker.release(1)
        wait_until(lambda: any(each.finished for each in _flying(sender)), "the first has failed")
        third = sender.submit("orders", "3", partition_key="a")
        assert broker.counts.messages == 3
        assert not first.done()
        broker.release()
        assert [handle.result().attempts for handle in (first, second, third)] == [2, 1, 1]
    assert broker.payloads("orders") == [b"0", b"2", b"1", b"3"]


def test_what_was_overtaken_is_not_sent_again(broker: FakeBroker) -> None:
    """
    If a later message of its key is stored, a failed one is kept in place of being sent behind it; other keys go on.
    """
    with sender_of(broker) as sender:
        sender.send("orders", b"0", partition_key="k")
        broker.hold()
        broker.fail_next(2, "MemoryBufferIsFull")
        first, other, later = in_flight_with(broker, sender, ("1", "a"), ("2", "b"), ("3", "a"))
        broker.release()
        assert failure(first).certainty is Certainty.NOT_STORED
        assert isinstance(first.exception().__cause__, BrokerUnavailable)  # type: ignore[union-attr]
        assert (later.result().attempts, other.result().attempts) == (1, 2)
    assert broker.payloads("orders") == [b"0", b"3", b"2"]


def test_what_may_have_been_overtaken_is_not_sent_again(broker: FakeBroker) -> None:
    """
    A later message of the key whose fate is unknown may be stored: the failed one is kept, whatever the policy.
    """
    with sender_of(broker) as sender:
        sender.send("orders", b"0", partition_key="k")
        broker.hold()
        broker.fail_next(1, "MemoryBufferIsFull")
        broker.fail_next(1, "UnknownError", stored=True)
        first, later = in_flight_with(broker, sender, ("1", "a"), ("2", "a"))
        broker.release()
        assert failure(first).certainty is Certainty.NOT_STORED
        assert failure(later).certainty is Certainty.MAYBE_STORED
    assert broker.payloads("orders") == [b"0", b"2"]


def test_two_doubtful_ones_are_sent_again_in_order(broker: FakeBroker) -> None:
    """
    Where duplicates are accepted, both go again, the earlier one first.
    """
    with sender_of(broker, retry=RESEND) as sender:
        sender.send("orders", b"0", partition_key="k")
        broker.hold()
        broker.fail_next(2, "Timeout", stored=True)
        handles = in_flight_with(broker, sender, ("1", "a"), ("2", "a"))
        broker.release()
        assert [handle.result().attempts for handle in handles] == [2, 2]
    assert broker.payloads("orders") == [b"0", b"1", b"2", b"1", b"2"]


def test_without_a_key_nothing_is_overtaken(broker: FakeBroker) -> None:
    """
    Messages without a key are in no order, so each is sent again whatever came behind it.
    """
    topics = {"orders": TopicSettings(batch_max_messages=1)}
    with sender_of(broker, topics=topics) as sender:
        sender.send("orders", b"0")
        broker.hold()
        broker.fail_next(1, "MemoryBufferIsFull")
        handles = in_flight_with(broker, sender, ("1", None), ("2", None))
        broker.release()
        assert [handle.result().attempts for handle in handles] == [2, 1]
    assert broker.payloads("orders") == [b"0", b"2", b"1"]


def test_a_sequence_id_is_never_sent_behind_a_higher_one() -> None:
    """
    The broker would drop it and call that success: it is kept, surely not stored, and nothing is lost silently.
    """
    broker = FakeBroker(deduplication=True)
    topics = {"orders": TopicSettings(producer_name="shop")}
    with sender_of(broker, topics=topics) as sender:
        sender.send("orders", b"0", sequence_id=1)
        broker.hold()
        broker.fail_next(1, "MemoryBufferIsFull")
        first, later = in_flight_with(broker, sender, ("1", None), ("2", None), first_id=2)
        broker.release()
        assert failure(first).certainty is Certainty.NOT_STORED
        assert later.result().fate is Fate.DELIVERED
    assert broker.payloads("orders") == [b"0", b"2"]


def test_a_sequence_id_is_sent_again_before_any_higher_one() -> None:
    """
    With deduplication a message that may be stored goes again with its id, and the broker resolves the doubt.
    """
    broker = FakeBroker(deduplication=True)
    topics = {"orders": TopicSettings(producer_name="shop")}
    with sender_of(broker, topics=topics, retry=RESEND) as sender:
        sender.send("orders", b"0", sequence_id=1)
        broker.hold()
        broker.fail_next(1, "Timeout", stored=True)
        broker.fail_next(1, "Timeout")
        first, second = in_flight_with(broker, sender, ("1", None), ("2", None), first_id=2)
        broker.release()
        assert [handle.result().fate for handle in (first, second)] == [Fate.DUPLICATE, Fate.DELIVERED]
    assert broker.payloads("orders") == [b"0", b"1", b"2"]


# -- how often, how long -------------------------------------------------------------------------------------------


def test_attempts_come_to_an_end(broker: FakeBroker) -> None:
    """
    After the retries of the settings the message is kept, with every attempt and the pause behind it.
    """
    retry = RetrySettings(max_retries=2, first_delay_seconds=0.001, jitter_seconds=0)
    with sender_of(broker, retry=retry) as sender:
        sender.send("orders", b"0")
        broker.fail_next(100, "AlreadyClosed", phase=Phase.INLINE)
        error = failure(sender.submit("orders", b"1"))
        broker.forget_faults()
        assert isinstance(error.__cause__, ProducerGone)
        assert [(each.code, each.maybe_stored, each.delay_seconds) for each in error.attempts] == [
            ("AlreadyClosed", False, 0.001),
            ("AlreadyClosed", False, 0.002),
            ("AlreadyClosed", False, None),
        ]
        assert error.certainty is Certainty.NOT_STORED
        started = [each.started_at for each in error.attempts]
        assert started == sorted(started)
        assert sender.send("orders", b"2").attempts == 1


def test_a_dead_producer_is_replaced(broker: FakeBroker) -> None:
    """
    After a failure of the producer the next attempt has another one, also under the same name.
    """
    topics = {"orders": TopicSettings(producer_name="shop")}
    with sender_of(broker, topics=topics) as sender:
        for number in range(3):
            broker.fail_next(1, "AlreadyClosed", phase=Phase.INLINE)
            result = sender.send("orders", str(number))
            assert result.attempts == 2
        assert broker.counts.producers_created == 4
        assert broker.counts.producers_open == 1
    assert {each.producer_name for each in broker.messages("orders")} == {"shop"}


def test_a_healthy_producer_stays(broker: FakeBroker) -> None:
    """
    A message that is refused for itself costs nobody the producer.
    """
    with sender_of(broker) as sender:
        sender.send("orders", b"0")
        broker.fail_next(1, "CryptoError")
        failure(sender.submit("orders", b"1"))
        sender.send("orders", b"2")
        assert broker.counts.producers_created == 1


def test_an_error_that_does_not_pass_is_final_at_once(broker: FakeBroker) -> None:
    """
    What is not retriable is kept after one attempt.
    """
    with sender_of(broker, retry=AT_ONCE) as sender:
        sender.send("orders", b"0")
        broker.fail_next(1, "TopicTerminated", phase=Phase.INLINE)
        error = failure(sender.submit("orders", b"1"))
        assert [each.code for each in error.attempts] == ["TopicTerminated"]
        assert error.certainty is Certainty.NOT_STORED


# -- producers that cannot be opened -------------------------------------------------------------------------------


def test_opening_is_tried_again_for_everyone_who_waits(broker: FakeBroker) -> None:
    """
    Failed creations are attempts of every message that waits, surely not stored, and then all go in order.
    """
    broker.fail_next(2, "ServiceUnitNotReady", phase=Phase.CREATE)
    broker.freeze()
    with sender_of(broker, pool=_no_backoff()) as sender:
        handles = [sender.submit("orders", text) for text in "abc"]
        broker.wait_until(lambda: broker.counts.creating == 1)
        broker.thaw()
        assert [handle.result().attempts for handle in handles] == [3, 3, 3]
    assert broker.payloads("orders") == [b"a", b"b", b"c"]


def test_opening_in_vain_keeps_the_messages(broker: FakeBroker) -> None:
    """
    When the attempts are used up, or the error does not pass, messages are kept with the broker's verdict.
    """
    for code, attempts in (("ConnectError", 4), ("AuthorizationError", 1)):
        broker.fail_next(attempts, code, phase=Phase.CREATE)
        with sender_of(broker, pool=_no_backoff()) as sender:
            error = failure(sender.submit("orders", b"x"))
            assert [(each.code, each.maybe_stored) for each in error.attempts] == [(code, False)] * attempts
            assert error.certainty is Certainty.NOT_STORED
            assert sender.send("orders", b"y").fate is Fate.DELIVERED
    assert broker.payloads("orders") == [b"y", b"y"]


def test_the_attempts_of_a_message_are_told_in_their_order(broker: FakeBroker) -> None:
    """
    A failed hand-over and the failed creation behind it stand in the story as they happened.
    """
    with sender_of(
        broker, pool=_no_backoff(), retry=RetrySettings(max_retries=1, first_delay_seconds=0, jitter_seconds=0)
    ) as sender:
        sender.send("orders", b"0")
        broker.fail_next(1, "AlreadyClosed", phase=Phase.INLINE)
        broker.fail_next(1, "ServiceUnitNotReady", phase=Phase.CREATE)
        error = failure(sender.submit("orders", b"1"))
        assert [each.code for each in error.attempts] == ["AlreadyClosed", "ServiceUnitNotReady"]


def _no_backoff() -> PoolSettings:
    return PoolSettings(creation_backoff_seconds=0, creation_backoff_max_seconds=0)


def _flying(sender: RetryingSender) -> list[Delivery]:
    (queue,) = [each for each in sender._started().queues() if each.topic == TOPIC]
    return list(queue.flying)
