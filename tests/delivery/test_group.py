"""
One group on its way: every message gets the answer of its own entry, and what is said of it is exactly what is known.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from safepulsar.broker.outcomes import Phase
from safepulsar.errors import BrokerError, DeadlineExceeded, SendFailed
from safepulsar.failed_messages import EVERYTHING, FailedMessageState
from safepulsar.message import Certainty, Fate
from safepulsar.settings import RetrySettings, TopicSettings
from safepulsar.testing import FakeBroker
from safepulsar.testing.client import FakeProducer
from tests.senders import AT_ONCE, OVER_SECONDS, sender_of
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from safepulsar.books.handle import SendHandle
    from safepulsar.broker.transport import OnResult, Slot
    from safepulsar.message import Outgoing
    from safepulsar.sender import RetryingSender


@pytest.fixture
def broker() -> FakeBroker:
    """
    A fake broker whose answers come at once, from a thread.
    """
    return FakeBroker()


def gathered(
    broker: FakeBroker, sender: RetryingSender, payloads: Sequence[str], key: str | None = None
) -> list[SendHandle]:
    """
    Submit so that all go in one group: while the topic is frozen no producer can be opened, and so all of them wait.
    """
    broker.freeze("orders")
    handles = [sender.submit("orders", payload, partition_key=key) for payload in payloads]
    broker.wait_until(lambda: broker.counts.creating == 1)
    return handles


def failure(handle: SendHandle) -> SendFailed:
    """
    Wait for a message's failure.
    """
    error = handle.exception()
    assert isinstance(error, SendFailed), handle
    return error


# -- message ids ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [None, "k"], ids=["batches", "one by one"])
def test_every_message_id_is_the_one_in_the_topic(broker: FakeBroker, key: str | None) -> None:
    """
    Under load, with groups and batches of all sizes, each result names exactly the place where its message is.
    """
    with sender_of(broker) as sender:
        handles = {b"%d" % n: sender.submit("orders", b"%d" % n, partition_key=key) for n in range(20_000)}
        told = {payload: handle.result().message_id for payload, handle in handles.items()}
    assert told == {each.payload: each.message_id for each in broker.messages("orders")}


def test_a_batch_is_closed_before_the_next_group_is_handed_over(broker: FakeBroker) -> None:
    """
    No two groups share a batch: the second one waits until the first has its answer, and so boundaries are known.
    """
    with sender_of(broker) as sender:
        broker.hold()
        first = gathered(broker, sender, ["1", "2", "3"])
        broker.thaw()
        broker.wait_until(lambda: broker.held == 1)
        second = [sender.submit("orders", payload) for payload in ("4", "5")]
        assert broker.counts.messages == 3
        broker.release()
        ids = [handle.result().message_id for handle in first + second]
    assert [(each.entry_id, each.batch_index) for each in ids] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]


def test_a_batch_that_was_split_is_not_claimed(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """
    If the answer covers a part of the batch only, nothing is said of the rest: all is MAYBE_STORED and logged.
    """
    send_batch = FakeProducer.send_batch

    def split(self: FakeProducer, messages: Sequence[Outgoing], on_result: OnResult) -> None:
        unread: Slot = {}
        send_batch(self, messages[:2], unread.setdefault)
        self.flush()
        send_batch(self, messages[2:], on_result)

    with sender_of(broker) as sender:
        handles = gathered(broker, sender, ["1", "2", "3", "4"])
        monkeypatch.setattr(FakeProducer, "send_batch", split)
        with caplog.at_level(logging.ERROR, logger="safepulsar"):
            broker.thaw()
            errors = [failure(handle) for handle in handles]
    assert {error.certainty for error in errors} == {Certainty.MAYBE_STORED}
    assert {error.attempts[-1].code for error in errors} == {"BatchSplit"}
    assert "safepulsar.batch_split" in [record.message for record in caplog.records]


def test_batches_are_cut_by_count_and_bytes(broker: FakeBroker) -> None:
    """
    A batch has at most as many messages and bytes as the topic's settings say, and order and ids stay right.
    """
    topics = {"orders": TopicSettings(batch_max_messages=4, batch_max_bytes=10)}
    with sender_of(broker, topics=topics) as sender:
        handles = gathered(broker, sender, ["a", "b", "c", "d", "e", "f" * 6, "g" * 4, "h" * 20, "i"])
        broker.thaw()
        ids = [handle.result().message_id for handle in handles]
    assert [(each.entry_id, each.batch_index) for each in ids] == [
        (0, 0),
        (0, 1),
        (0, 2),
        (0, 3),
        (1, 0),
        (1, 1),
        (2, 0),
        (3, 0),
        (4, 0),
    ]


def test_a_delayed_message_goes_alone_and_in_its_place(broker: FakeBroker) -> None:
    """
    The batch before it is closed first, so that ids stay right and nothing overtakes.
    """
    with sender_of(broker) as sender:
        broker.freeze()
        handles = [
            sender.submit("orders", text, deliver_at_ms=at) for text, at in (("a", None), ("b", 10**12), ("c", None))
        ]
        broker.wait_until(lambda: broker.counts.creating == 1)
        broker.thaw()
        told = [handle.result().message_id for handle in handles]
    assert broker.payloads("orders") == [b"a", b"b", b"c"]
    assert told == [each.message_id for each in broker.messages("orders")]


def test_a_delivered_message_gives_its_memory_back(broker: FakeBroker) -> None:
    """
    A handle that is kept for long holds no payload once its message is delivered.
    """
    with sender_of(broker) as sender:
        handle = sender.submit("orders", b"x" * 1000)
        handle.result()
        assert handle.payload is None


# -- refused while it was handed over ------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [None, "k"], ids=["batches", "one by one"])
def test_a_message_that_is_refused_does_not_take_its_neighbours_along(broker: FakeBroker, key: str | None) -> None:
    """
    One message that the client library does not take fails alone; those around it are delivered, in order.
    """
    with sender_of(broker) as sender:
        handles = gathered(broker, sender, list("abcde"), key)
        # In a batch first the batch is refused, then the first of its messages.
        broker.fail_next(1 if key else 2, "InvalidMessage", phase=Phase.INLINE)
        broker.thaw()
        error = failure(handles[0])
        assert (error.certainty, [each.code for each in error.attempts]) == (Certainty.NOT_STORED, ["InvalidMessage"])
        assert [handle.result().attempts for handle in handles[1:]] == [1, 1, 1, 1]
    assert broker.payloads("orders") == [b"b", b"c", b"d", b"e"]


def test_what_is_refused_once_goes_again_at_its_place(broker: FakeBroker) -> None:
    """
    A refusal that passes by itself is one attempt of the refused batch; nothing behind it was tried or overtakes.
    """
    with sender_of(broker) as sender:
        handles = gathered(broker, sender, list("abc"), "k")
        broker.fail_next(1, "ProducerQueueIsFull", phase=Phase.INLINE)
        broker.thaw()
        assert [handle.result().attempts for handle in handles] == [2, 1, 1]
    assert broker.payloads("orders") == [b"a", b"b", b"c"]


def test_a_batch_over_the_brokers_limit_goes_message_by_message() -> None:
    """
    Messages that are only together too big are delivered; one that is too big by itself fails alone, not stored.
    """
    broker = FakeBroker(max_message_bytes=100)
    with sender_of(broker) as sender:
        handles = gathered(broker, sender, ["a" * 60, "b" * 60, "c" * 101, "d" * 60])
        broker.thaw()
        error = failure(handles[2])
        assert (error.certainty, [each.code for each in error.attempts]) == (Certainty.NOT_STORED, ["MessageTooBig"])
        assert [handles[i].result().fate for i in (0, 1, 3)] == [Fate.DELIVERED] * 3
        assert sender.send_many("orders", ["e"] * 50).delivered == 50, "and batches go on"
    assert [each[:1] for each in broker.payloads("orders") if each] == [b"a", b"b", b"d"] + [b"e"] * 50
    assert broker.messages("orders")[-1].message_id.batch_index > 0


# -- answered afterwards -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "certainty", "stored"),
    [
        ("Timeout", Certainty.MAYBE_STORED, True),
        ("Timeout", Certainty.MAYBE_STORED, False),
        ("AlreadyClosed", Certainty.MAYBE_STORED, True),
        ("AlreadyClosed", Certainty.MAYBE_STORED, False),
        ("ProducerFenced", Certainty.MAYBE_STORED, False),
        ("UnknownError", Certainty.MAYBE_STORED, True),
        ("SomethingNew", Certainty.MAYBE_STORED, False),
        ("MessageTooBig", Certainty.NOT_STORED, False),
        ("CryptoError", Certainty.NOT_STORED, False),
    ],
)
def test_an_error_afterwards_says_what_is_known(
    broker: FakeBroker,
    code: str,
    certainty: Certainty,
    stored: bool,  # noqa: FBT001 - pytest passes it by name
) -> None:
    """
    What may be stored is kept as MAYBE_STORED and not sent again; what the client library refused itself is not stored.
    """
    with sender_of(broker) as sender:
        sender.send("orders", b"0", partition_key="k")
        broker.fail_next(1, code, stored=stored)
        error = failure(sender.submit("orders", b"1", partition_key="k"))
        assert error.certainty is certainty
        assert [(each.code, each.maybe_stored) for each in error.attempts] == [
            (code, certainty is Certainty.MAYBE_STORED)
        ]
        assert sender.send("orders", b"2", partition_key="k").fate is Fate.DELIVERED, "the next one finds a producer"
    assert broker.payloads("orders") == ([b"0", b"1", b"2"] if stored else [b"0", b"2"])


@pytest.mark.parametrize("stored", [False, True])
def test_what_may_be_stored_is_sent_again_if_the_settings_say_so(broker: FakeBroker, *, stored: bool) -> None:
    """
    `resend_maybe_stored` accepts a duplicate in place of a message that somebody has to decide about.
    """
    retry = RetrySettings(first_delay_seconds=0, jitter_seconds=0, resend_maybe_stored=True)
    with sender_of(broker, retry=retry) as sender:
        sender.send("orders", b"0")
        broker.fail_next(1, "Timeout", stored=stored)
        result = sender.send("orders", b"1")
        assert (result.fate, result.attempts) == (Fate.DELIVERED, 2)
        assert result.message_id == broker.messages("orders")[-1].message_id
    assert broker.payloads("orders") == [b"0", b"1", b"1"][: 3 if stored else 2]


def test_a_doubt_stays_when_the_next_attempt_surely_fails(broker: FakeBroker) -> None:
    """
    A message that may be stored by its first attempt is MAYBE_STORED, whatever the last one says.
    """
    retry = RetrySettings(first_delay_seconds=0, jitter_seconds=0, resend_maybe_stored=True)
    with sender_of(broker, retry=retry) as sender:
        sender.send("orders", b"0")
        broker.fail_next(1, "Timeout")
        broker.fail_next(1, "MessageTooBig")
        error = failure(sender.submit("orders", b"1"))
    assert [each.maybe_stored for each in error.attempts] == [True, False]
    assert error.certainty is Certainty.MAYBE_STORED


# -- nothing answered ----------------------------------------------------------------------------------------------


def test_what_never_left_is_not_stored(broker: FakeBroker) -> None:
    """
    A message whose deadline passes before it is handed over is surely not stored.
    """
    with sender_of(broker, deadline_seconds=0.1) as sender:
        (handle,) = gathered(broker, sender, ["x"])
        error = failure(handle)
        assert error.certainty is Certainty.NOT_STORED
        assert not any(each.maybe_stored for each in error.attempts)
        assert isinstance(error.__cause__, DeadlineExceeded)
        broker.thaw()
    assert broker.payloads("orders") == []


def test_what_left_without_an_answer_may_be_stored(broker: FakeBroker) -> None:
    """
    A message whose deadline passes after it was handed over is MAYBE_STORED, with the attempt in its story.
    """
    with sender_of(broker) as sender:
        sender.send("orders", b"0")
        broker.hold()
        error = failure(sender.submit("orders", b"1", deadline_seconds=0.1))
        assert error.certainty is Certainty.MAYBE_STORED
        assert [(each.code, each.maybe_stored) for each in error.attempts] == [("DeadlineExceeded", True)]
        assert 0.09 <= error.attempts[0].elapsed_seconds < 0.1 + OVER_SECONDS + 1
        broker.release()
    assert broker.payloads("orders") == [b"0", b"1"]


def test_behind_a_refusal_all_that_is_known_is_said(broker: FakeBroker) -> None:
    """
    While an earlier message is without its answer, one that was refused and one behind it stay surely not stored.
    """
    with sender_of(broker) as sender:
        sender.send("orders", b"0", partition_key="k")
        broker.hold()
        sent = sender.submit("orders", b"1", partition_key="k", deadline_seconds=0.5)
        broker.wait_until(lambda: broker.held == 1)
        broker.fail_next(1, "ProducerQueueIsFull", phase=Phase.INLINE)
        with sender._started().ledger.lock:  # so that both go in one group
            refused = sender.submit("orders", b"2", partition_key="k", deadline_seconds=0.5)
            behind = sender.submit("orders", b"3", partition_key="k", deadline_seconds=0.5)
        stories = [
            (error.certainty, [each.code for each in error.attempts])
            for error in (failure(sent), failure(refused), failure(behind))
        ]
        assert stories == [
            (Certainty.MAYBE_STORED, ["DeadlineExceeded"]),
            (Certainty.NOT_STORED, ["ProducerQueueIsFull"]),
            (Certainty.NOT_STORED, []),
        ]
        broker.release()
    assert broker.payloads("orders") == [b"0", b"1"]


def test_a_late_acknowledgement_takes_the_message_out_of_the_store(broker: FakeBroker) -> None:
    """
    When the broker answers after the deadline, the fate stays as it was told, and there is nothing left to replay.
    """
    with sender_of(broker) as sender:
        sender.send("orders", b"0", partition_key="k")
        broker.hold()
        impatient = sender.submit("orders", b"1", partition_key="k", deadline_seconds=0.1)
        patient = sender.submit("orders", b"2", partition_key="k")
        error = failure(impatient)
        store, number = sender.failed_messages, error.failed_message_id
        assert number is not None
        assert store.get(number).certainty is Certainty.MAYBE_STORED
        broker.release()
        assert patient.result().fate is Fate.DELIVERED
        wait_until(lambda: store.count(EVERYTHING) == 0, "the store was told")
        status = store.status(number)
        assert status.state is FailedMessageState.DELIVERED
        assert status.message_id == broker.messages("orders")[1].message_id
        assert failure(impatient) is error
    assert sender.close().counts.failed == 1


def test_a_late_duplicate_is_not_counted_twice() -> None:
    """
    The books count each message by its own fate, also when the answers of a group mix fates with what came too late.
    """
    broker = FakeBroker(deduplication=True)
    topics = {"orders": TopicSettings(producer_name="shop")}
    with sender_of(broker, topics=topics) as sender:
        sender.send("orders", b"1", sequence_id=1)
    with sender_of(broker, topics=topics) as sender:
        broker.hold()
        broker.freeze()
        late = sender.submit("orders", b"1", sequence_id=1, deadline_seconds=0.5)
        fresh = sender.submit("orders", b"2", sequence_id=2)
        broker.wait_until(lambda: broker.counts.creating == 1)
        broker.thaw()
        broker.wait_until(lambda: broker.held == 2)
        assert failure(late).certainty is Certainty.MAYBE_STORED
        broker.release()
        assert fresh.result().fate is Fate.DELIVERED
    counts = sender.close().counts
    assert (counts.delivered, counts.duplicate, counts.failed) == (1, 0, 1)


# -- what must never happen ----------------------------------------------------------------------------------------


def test_an_unexpected_error_of_the_transport_leaves_nobody_waiting(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Whatever a transport raises, its messages get a fate in doubt, and the queue goes on with a new producer.
    """

    def fail(*_: object) -> None:
        raise LookupError("canary")

    with sender_of(broker, retry=AT_ONCE) as sender:
        sender.send("orders", b"0")
        for name in ("send_batch", "read", "flush"):
            with monkeypatch.context() as patch:
                patch.setattr(FakeProducer, name, fail)
                error = failure(sender.submit("orders", b"1"))
            assert error.certainty is Certainty.MAYBE_STORED, name
            assert "canary" not in str(error)
            assert sender.send("orders", b"2").fate is Fate.DELIVERED, name
    assert sender.close().clean


def test_the_errors_of_a_batch_are_all_the_same(broker: FakeBroker) -> None:
    """
    One answer is everyone's: each message of a failed batch fails with the broker's one error as its cause.
    """
    with sender_of(broker) as sender:
        handles = gathered(broker, sender, list("abc"))
        broker.fail_next(1, "TopicTerminated")
        broker.thaw()
        causes = [failure(handle).__cause__ for handle in handles]
    assert len({id(cause) for cause in causes}) == 1
    assert isinstance(causes[0], BrokerError)
    assert causes[0].code == "TopicTerminated"
