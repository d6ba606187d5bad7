"""
Lanes: what happens behind a message that fails, with each policy, and how a lane goes on.
"""

from __future__ import annotations

import gc
import threading
import tracemalloc
from typing import TYPE_CHECKING

import pytest

from safepulsar.books.handle import now
from safepulsar.broker.outcomes import Phase
from safepulsar.delivery.lanes import LaneState
from safepulsar.errors import InvalidInput, LaneNotPaused, LanePaused, SendFailed
from safepulsar.failed_messages import FailedMessageFilter, InMemoryFailedMessages, SqliteFailedMessages
from safepulsar.message import Certainty, Fate
from safepulsar.sending.replay import replay
from safepulsar.settings import LanePolicy, RetrySettings, TopicSettings
from safepulsar.testing import FakeBroker
from tests.senders import LONG_SECONDS, sender_of
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from safepulsar.books.handle import SendHandle
    from safepulsar.broker.transport import TransportProducer
    from safepulsar.failed_messages import FailedMessageStore
    from safepulsar.sender import RetryingSender

ONCE = RetrySettings(max_retries=0)


@pytest.fixture
def broker() -> FakeBroker:
    """
    A fake broker whose answers come at once, from a thread.
    """
    return FakeBroker()


def lane_sender(
    broker: FakeBroker, policy: LanePolicy, store: FailedMessageStore | None = None, *, batches: bool = False
) -> RetryingSender:
    """
    A sender that tries once, with this policy for every topic.
    """
    topic = TopicSettings(lane_policy=policy, mix_keys=batches)
    return sender_of(broker, store, retry=ONCE, topic_defaults=topic)


def error_of(handle: SendHandle) -> SendFailed:
    """
    Its failure.
    """
    error = handle.exception(LONG_SECONDS)
    assert isinstance(error, SendFailed)
    return error


def waiting_in(sender: RetryingSender) -> int:
    """
    How many messages have not been handed over.
    """
    return sum(len(queue.waiting) for queue in sender._started().queues())


def payloads(store: FailedMessageStore) -> list[bytes | None]:
    """
    What is kept, in order.
    """
    return [failed.message.payload for failed in store.find()]


@pytest.mark.parametrize("batches", [False, True], ids=["one by one", "batches"])
@pytest.mark.parametrize("policy", [LanePolicy.PAUSE, LanePolicy.PARK])
def test_those_behind_a_failure_follow_it_into_the_store(
    broker: FakeBroker, policy: LanePolicy, *, batches: bool
) -> None:
    """
    In their order, as surely not stored; another lane goes on.
    """
    store = InMemoryFailedMessages()
    with lane_sender(broker, policy, store, batches=batches) as sender:
        sender.send("orders", b"0", ordering_key="a")
        broker.freeze()
        first = sender.submit("orders", b"1", ordering_key="a", deadline_seconds=0.3)
        wait_until(lambda: not waiting_in(sender), "it is on its way")
        behind = [sender.submit("orders", str(number), ordering_key="a") for number in (2, 3)]
        other = sender.submit("orders", b"other", ordering_key="b")
        failed = error_of(first)
        assert failed.certainty is Certainty.MAYBE_STORED
        if batches:
            wait_until(lambda: payloads(store) == [b"1", b"2", b"3"], "they are kept")
        broker.thaw()
        for handle in behind:
            if batches:  # they waited in the queue
                assert error_of(handle).certainty is Certainty.NOT_STORED
                assert isinstance(error_of(handle).__cause__, LanePaused)
            else:
                handle.exception(LONG_SECONDS)
        other.exception(LONG_SECONDS)
        (lane,) = [lane for lane in sender.lanes() if lane.ordering_key == "a"]
        assert lane.state is LaneState.PAUSED
        assert lane.cause == "DeadlineExceeded"
        assert lane.failed_message_id == failed.failed_message_id
        if batches:
            assert other.result().fate is Fate.DELIVERED


def test_a_paused_lane_refuses_at_once_and_names_what_it_waits_for(broker: FakeBroker) -> None:
    """
    Nothing is accepted, and nothing of the key is told.
    """
    with lane_sender(broker, LanePolicy.PAUSE) as sender:
        broker.fail_next(1, "TopicTerminated")
        failed = error_of(sender.submit("orders", b"1", ordering_key="secret-key"))
        accepted = sender.stats().counts.accepted
        with pytest.raises(LanePaused, match=f"failed message {failed.failed_message_id} .TopicTerminated") as caught:
            sender.submit("orders", b"2", ordering_key="secret-key")
        assert "secret-key" not in str(caught.value)
        assert caught.value.failed_message_id == failed.failed_message_id
        assert sender.stats().counts.accepted == accepted
        assert "secret-key" not in repr(sender.lanes())
        assert "secret-key" not in repr(sender.lane("orders", "secret-key"))
        sender.send("orders", b"3", ordering_key="other")
        sender.send("orders", b"4", partition_key="secret-key")  # no lane


def test_a_lane_goes_on_once_what_is_kept_is_replayed(broker: FakeBroker) -> None:
    """
    Not before: what comes later must not overtake. Resuming twice is an error.
    """
    store = InMemoryFailedMessages()
    with lane_sender(broker, LanePolicy.PAUSE, store) as sender:
        lane = sender.lane("orders", "a")
        broker.fail_next(1, "TopicTerminated")
        error_of(lane.submit(b"1"))
        assert lane.state() is LaneState.PAUSED
        with pytest.raises(LanePaused):
            lane.resume()
        assert sender.resume_all() == [lane.look()]
        assert replay(store, sender).delivered == 1
        lane.resume()
        assert lane.state() is LaneState.OPEN
        with pytest.raises(LaneNotPaused):
            lane.resume()
        assert lane.send(b"2").fate is Fate.DELIVERED
        assert broker.payloads("orders")[-2:] == [b"1", b"2"]
        assert sender.lanes() == []


def test_a_lane_can_leave_behind_what_is_kept(broker: FakeBroker) -> None:
    """
    By choice: `skip` goes on, and what is kept comes late.
    """
    store = InMemoryFailedMessages()
    with lane_sender(broker, LanePolicy.PAUSE, store) as sender:
        broker.fail_next(1, "TopicTerminated")
        error_of(sender.submit("orders", b"1", ordering_key="a"))
        assert sender.resume_all(skip=True) == []
        sender.send("orders", b"2", ordering_key="a")
        assert payloads(store) == [b"1"]


def test_a_blocked_lane_holds_what_comes_until_it_is_resumed(broker: FakeBroker) -> None:
    """
    In order, with a depth and an age that can be seen; other lanes go on.
    """
    store = InMemoryFailedMessages()
    with lane_sender(broker, LanePolicy.BLOCK, store) as sender:
        broker.fail_next(1, "TopicTerminated")
        error_of(sender.submit("orders", b"1", ordering_key="a"))
        waiting = [sender.submit("orders", str(number), ordering_key="a") for number in (2, 3)]
        sender.send("orders", b"other", ordering_key="b")
        assert not any(handle.done() for handle in waiting)
        (lane,) = sender.lanes()
        assert (lane.depth, lane.state) == (2, LaneState.PAUSED)
        assert lane.oldest_age_seconds > 0
        store.purge(FailedMessageFilter(key="a"))
        sender.resume(lane)
        assert [handle.result(LONG_SECONDS).fate for handle in waiting] == [Fate.DELIVERED] * 2
        assert broker.payloads("orders")[-2:] == [b"2", b"3"]


def test_what_a_blocked_lane_holds_has_its_deadline(broker: FakeBroker) -> None:
    """
    It follows the one that failed, as surely not stored.
    """
    store = InMemoryFailedMessages()
    with lane_sender(broker, LanePolicy.BLOCK, store) as sender:
        broker.fail_next(1, "TopicTerminated")
        error_of(sender.submit("orders", b"1", ordering_key="a"))
        error = error_of(sender.submit("orders", b"2", ordering_key="a", deadline_seconds=0.1))
        assert error.certainty is Certainty.NOT_STORED
        assert payloads(store) == [b"1", b"2"]
        kept = sender.submit("orders", b"3", ordering_key="a")
        assert not sender.close(0.0).drained
    assert error_of(kept).certainty is Certainty.NOT_STORED  # closing keeps it, too
    assert sender.close().counts.balanced


def test_a_parked_lane_keeps_what_comes(broker: FakeBroker) -> None:
    """
    Behind the one that failed, so that a replay sends all of it in order.
    """
    store = InMemoryFailedMessages()
    with lane_sender(broker, LanePolicy.PARK, store) as sender:
        broker.fail_next(1, "TopicTerminated")
        error_of(sender.submit("orders", b"1", ordering_key="a"))
        assert isinstance(error_of(sender.submit("orders", b"2", ordering_key="a")).__cause__, LanePaused)
        assert payloads(store) == [b"1", b"2"]
        assert replay(store, sender).delivered == 2
        sender.resume(sender.lane("orders", "a"))
        sender.send("orders", b"3", ordering_key="a")
        assert broker.payloads("orders")[-3:] == [b"1", b"2", b"3"]


def test_a_lane_goes_on_while_others_are_told_of_its_failure(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Whoever knows the fate and has replayed need not wait for observers: nothing is kept any more.
    """
    store = InMemoryFailedMessages()
    with lane_sender(broker, LanePolicy.PAUSE, store) as sender:
        told = threading.Event()
        observers = sender._started().keeper.observers
        monkeypatch.setattr(observers, "failed", lambda *_: told.wait(LONG_SECONDS))
        broker.fail_next(1, "TopicTerminated")
        error_of(sender.submit("orders", b"1", ordering_key="a"))
        assert replay(store, sender).delivered == 1
        sender.resume(sender.lane("orders", "a"))
        told.set()


def test_a_skipping_lane_goes_on(broker: FakeBroker) -> None:
    """
    The failed one is kept, and nothing stops.
    """
    with lane_sender(broker, LanePolicy.SKIP) as sender:
        broker.fail_next(1, "TopicTerminated")
        error_of(sender.submit("orders", b"1", ordering_key="a"))
        assert sender.send("orders", b"2", ordering_key="a").fate is Fate.DELIVERED
        assert sender.lanes() == []


def test_a_deadline_that_passes_in_the_queue_stops_the_lane(broker: FakeBroker) -> None:
    """
    Those before it in the lane are given up with it, and those behind it; all stand in the store in their order.
    """
    store = InMemoryFailedMessages()
    with lane_sender(broker, LanePolicy.PAUSE, store, batches=True) as sender:
        sender.send("orders", b"0", ordering_key="x")
        broker.hold()
        held = sender.submit("orders", b"held", ordering_key="x")
        broker.wait_until(lambda: broker.held == 1)  # and with batches, nothing else is handed over meanwhile
        before = sender.submit("orders", b"before", ordering_key="a")
        late = sender.submit("orders", b"late", ordering_key="a", deadline_seconds=0.1)
        behind = sender.submit("orders", b"behind", ordering_key="a")
        assert error_of(late).certainty is Certainty.NOT_STORED
        assert "behind it in its lane" in str(error_of(before))
        assert isinstance(error_of(behind).__cause__, LanePaused)
        broker.release()
        assert held.result(LONG_SECONDS).fate is Fate.DELIVERED
        assert payloads(store) == [b"before", b"late", b"behind"]


def test_an_impatient_message_does_not_go_to_the_store_before_one_that_is_on_its_way(broker: FakeBroker) -> None:
    """
    The one before it may come there, too, and would stand behind it for ever: it is given up first, as MAYBE_STORED.
    """
    store = InMemoryFailedMessages()
    with lane_sender(broker, LanePolicy.PAUSE, store) as sender:
        sender.send("orders", b"0", ordering_key="a")
        broker.freeze()
        patient = sender.submit("orders", b"patient", ordering_key="a")
        other = sender.submit("orders", b"other", ordering_key="b")
        impatient = sender.submit("orders", b"impatient", ordering_key="a", deadline_seconds=0.2)
        error_of(impatient)
        assert error_of(patient).certainty is Certainty.MAYBE_STORED
        assert not other.done()
        assert payloads(store) == [b"patient", b"impatient"]
        broker.thaw()
        assert other.result(LONG_SECONDS).fate is Fate.DELIVERED


def test_a_lane_is_parked_behind_what_is_still_on_its_way(broker: FakeBroker) -> None:
    """
    While the fate of one before it is open, a new message does not go to the store, but behind it, wherever that goes.
    """
    store = InMemoryFailedMessages()
    with lane_sender(broker, LanePolicy.PARK, store) as sender:
        sender.send("orders", b"0", ordering_key="a")
        broker.hold()
        first = sender.submit("orders", b"first", ordering_key="a", deadline_seconds=0.2)
        broker.wait_until(lambda: broker.held == 1)
        second = sender.submit("orders", b"second", ordering_key="a")
        broker.wait_until(lambda: broker.held == 2)
        error_of(first)
        third = sender.submit("orders", b"third", ordering_key="a")
        assert payloads(store) == [b"first"]
        sender.close(0)
        assert error_of(second).certainty is Certainty.MAYBE_STORED
        assert error_of(third).certainty is Certainty.NOT_STORED
        assert payloads(store) == [b"first", b"second", b"third"]
        broker.release()


def test_what_would_go_again_is_given_up_before_a_later_one_of_its_lane(broker: FakeBroker) -> None:
    """
    Of two that failed together only the second has no time left: the first goes to the store before it.
    """
    store = InMemoryFailedMessages()
    retry = RetrySettings(first_delay_seconds=1.0, jitter_seconds=0)
    topic = TopicSettings(lane_policy=LanePolicy.PAUSE)
    with sender_of(broker, store, retry=retry, topic_defaults=topic) as sender:
        sender.send("orders", b"0", ordering_key="a")
        broker.hold()
        broker.fail_next(2, "MemoryBufferIsFull")
        patient = sender.submit("orders", b"patient", ordering_key="a")
        broker.wait_until(lambda: broker.held == 1)
        impatient = sender.submit("orders", b"impatient", ordering_key="a", deadline_seconds=0.9)
        broker.wait_until(lambda: broker.held == 2)
        broker.release()
        for handle in (patient, impatient):
            assert error_of(handle).certainty is Certainty.NOT_STORED
        assert payloads(store) == [b"patient", b"impatient"]


def test_no_message_is_given_up_for_want_of_a_producer_while_one_before_it_is_open(broker: FakeBroker) -> None:
    """
    Attempts to open it may be over before that one's deadline is: the later one waits, and stands behind it in the store.
    """
    store = InMemoryFailedMessages()
    with lane_sender(broker, LanePolicy.PARK, store) as sender:
        sender.send("orders", b"0", ordering_key="a")
        broker.hold()
        first = sender.submit("orders", b"first", ordering_key="a", deadline_seconds=0.5)
        broker.wait_until(lambda: broker.held == 1)
        pool, queue = sender._started().pool, sender._started().queue("orders", keyed=True)
        broker.fail_next(100, "AuthorizationError", phase=Phase.CREATE)
        pool.discard(queue.producers()[0])
        second = sender.submit("orders", b"second", ordering_key="a")
        assert error_of(first).certainty is Certainty.MAYBE_STORED
        error_of(second)
        assert payloads(store) == [b"first", b"second"]
        broker.release()


def test_an_earlier_run_leaves_its_lanes_paused(broker: FakeBroker, tmp_path: Path) -> None:
    """
    What it kept of a lane comes first in the next run, too. Asked once, so that `skip` stays.
    """
    path = tmp_path / "failed.db"
    with lane_sender(broker, LanePolicy.PAUSE, SqliteFailedMessages(path)) as sender:
        broker.fail_next(1, "TopicTerminated")
        failed = error_of(sender.submit("orders", b"1", ordering_key="a"))
    store = SqliteFailedMessages(path)
    with lane_sender(broker, LanePolicy.PAUSE, store) as sender:
        with pytest.raises(LanePaused, match="KeptBefore"):
            sender.send("orders", b"2", ordering_key="a")
        assert [lane.failed_message_id for lane in sender.lanes()] == [failed.failed_message_id]
        sender.send("orders", b"3", ordering_key="b")
        assert replay(store, sender).delivered == 1
        sender.resume(sender.lane("orders", "a"))
        sender.send("orders", b"4", ordering_key="a")


@pytest.mark.slow  # tracing memory takes its time
def test_finished_lanes_cost_nothing() -> None:
    """
    100,000 keys leave no more behind in the sender than 1,000: nothing is remembered of a lane that is well.
    """
    broker = FakeBroker()
    topic = TopicSettings(mix_keys=True)
    with sender_of(broker, topic_defaults=topic, max_in_flight_messages=1_000) as sender:

        def run(count: int) -> int:
            for number in range(count):
                sender.submit("orders", None, ordering_key=f"key {number}")
            sender.flush()
            gc.collect()
            own = tracemalloc.Filter(True, "*/safepulsar/*")  # noqa: FBT003  # inclusive; positional only in its docs
            fake = tracemalloc.Filter(False, "*/safepulsar/testing/*")  # noqa: FBT003  # what the topic holds
            snapshot = tracemalloc.take_snapshot().filter_traces([own, fake])
            return sum(trace.size for trace in snapshot.traces)

        tracemalloc.start()
        try:
            few = run(1_000)
            many = run(100_000)
        finally:
            tracemalloc.stop()
        assert many < few + 200_000, f"{many - few} bytes more for 100,000 lanes"
        assert sender.lanes() == []


def test_lanes_shows_what_is_on_its_way(broker: FakeBroker) -> None:
    """
    Open lanes with something in flight, and those whose fate is being found out.
    """
    with lane_sender(broker, LanePolicy.PAUSE) as sender:
        broker.hold()
        handle = sender.submit("orders", b"1", ordering_key="a")
        broker.wait_until(lambda: broker.held == 1)
        (lane,) = sender.lanes()
        assert (lane.state, lane.depth) == (LaneState.OPEN, 1)
        broker.release()
        handle.result(LONG_SECONDS)
        wait_until(lambda: sender.lanes() == [], "the lane is done")


def test_resume_wants_a_lane(broker: FakeBroker) -> None:
    """
    Anything else is named.
    """
    with lane_sender(broker, LanePolicy.PAUSE) as sender:
        with pytest.raises(InvalidInput, match=r"lane: must be a Lane or a SequenceLane, not str"):
            sender.resume("a")  # type: ignore[arg-type]
        with pytest.raises(InvalidInput, match="ordering_key"):
            sender.lane("orders", b"a")  # type: ignore[arg-type]


def test_a_probe_resumes_a_lane_once_the_broker_is_well(broker: FakeBroker) -> None:
    """
    After what is kept of it, and not while the broker is away.
    """
    store = InMemoryFailedMessages()
    topic = TopicSettings(lane_policy=LanePolicy.BLOCK)
    with sender_of(broker, store, retry=ONCE, topic_defaults=topic, lane_probe_seconds=0.05) as sender:
        sender.send("orders", b"0", ordering_key="a")
        broker.fail_next(3, "ProducerBlockedQuotaExceededException", phase=Phase.INLINE)
        error_of(sender.submit("orders", b"1", ordering_key="a"))
        assert sender.submit("orders", b"2", ordering_key="a").result(LONG_SECONDS).fate is Fate.DELIVERED
        assert broker.payloads("orders") == [b"0", b"1", b"2"]
        assert store.count() == 0


def test_a_probe_leaves_a_lane_whose_message_may_be_stored(broker: FakeBroker) -> None:
    """
    To send that again could make a duplicate; other lanes go on.
    """
    store = InMemoryFailedMessages()
    with sender_of(broker, store, retry=ONCE, lane_probe_seconds=0.05) as sender:
        broker.fail_next(1, "Timeout")
        error_of(sender.submit("orders", b"1", ordering_key="a"))
        broker.fail_next(1, "ProducerQueueIsFull", phase=Phase.INLINE)
        error_of(sender.submit("orders", b"2", ordering_key="b"))
        wait_until(lambda: sender.lane("orders", "b").state() is LaneState.OPEN, "the other lane goes on")
        assert sender.lane("orders", "a").state() is LaneState.PAUSED
        assert payloads(store) == [b"1"]


def test_a_deadline_that_passes_while_others_go_back_keeps_the_order(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    What is about to be sent again is given up before what waits behind it, though it is in neither line at that moment.
    """
    store = InMemoryFailedMessages()
    topic = TopicSettings(lane_policy=LanePolicy.PARK)
    with sender_of(broker, store, topic_defaults=topic) as sender:
        sender.send("orders", b"0", ordering_key="a")
        pool, queue = sender._started().pool, sender._started().queue("orders", keyed=True)
        discard = pool.discard
        handles: list[SendHandle] = []

        def discard_late(producer: TransportProducer) -> None:
            handles.append(sender.submit("orders", b"2", ordering_key="a"))
            queue.expire(now() + 3600)
            discard(producer)

        monkeypatch.setattr(pool, "discard", discard_late)
        broker.fail_next(1, "NotConnected", phase=Phase.INLINE)
        error_of(sender.submit("orders", b"1", ordering_key="a"))
        error_of(handles[0])
        assert payloads(store) == [b"1", b"2"]
        assert [failed.certainty for failed in store.find()] == [Certainty.NOT_STORED] * 2
