"""
Lanes, and exactly-once, under anything in any order: each lane is where a plain model says, and nothing is lost or repeated.
"""

# a rule is named for what it does

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from hypothesis import HealthCheck
from hypothesis import Phase as Stage
from hypothesis import settings as example_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tenacity import wait_none

from safepulsar.books.handle import State
from safepulsar.broker.outcomes import Phase
from safepulsar.broker_process import BrokerState
from safepulsar.delivery.lanes import LaneState
from safepulsar.errors import LaneNotPaused, LanePaused, SendFailed
from safepulsar.failed_messages import (
    EVERYTHING,
    FailedMessageFilter,
    FailedMessageState,
    InMemoryFailedMessages,
    SqliteFailedMessages,
)
from safepulsar.message import ID_PROPERTY, Certainty
from safepulsar.sending.replay import replay
from safepulsar.settings import LanePolicy, PoolSettings, RetrySettings, TopicSettings
from safepulsar.testing import FakeBroker
from tests.history import Rules
from tests.senders import LONG_SECONDS, TOPIC, Recording, sender_of
from tests.waiting import wait_until

if TYPE_CHECKING:
    from safepulsar.books.handle import SendHandle
    from safepulsar.failed_messages import FailedMessageStore
    from safepulsar.sender import RetryingSender

IMPATIENT_SECONDS = 0.03
LANES = st.sampled_from(["a", "b"])
INLINE = st.sampled_from(["ProducerQueueIsFull", "AlreadyClosed", "NotConnected", "InvalidMessage", "TopicTerminated"])
# As on a real connection, nothing behind is stored if the one before is not.
IN_ORDER = st.sampled_from(["AlreadyClosed", "ProducerFenced", "TopicTerminated"])
# What a broker may also answer, of a single message.
OF_ONE = st.sampled_from(["Timeout", "Disconnected", "UnknownError", "ServiceUnitNotReady", "MessageTooBig"])
READS = st.sampled_from(["ServiceUnitNotReady", "ConnectError", "Timeout"])
AT_ONCE = RetrySettings(max_retries=5, first_delay_seconds=0, jitter_seconds=0)
NO_BACKOFF = PoolSettings(creation_backoff_seconds=0, creation_backoff_max_seconds=0)
EXAMPLES = example_settings(
    deadline=None,
    max_examples=60,
    stateful_step_count=25,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    # Threads make shrinking a matter of luck, and each wrong turn waits for its time to be over.
    phases=[Stage.explicit, Stage.generate],
)


def hurry(sender: RetryingSender) -> None:
    """
    No waiting between tries. Hypothesis takes it ill, too, if threads draw from the same source of randomness.
    """
    sender._started().topics._retry._wait = wait_none()  # type: ignore[assignment]


class Faults(RuleBasedStateMachine):
    """
    What happens to a broker, and how it ends.
    """

    broker: FakeBroker

    @rule()
    def hold(self) -> None:
        self.broker.hold()

    @rule(count=st.integers(1, 5))
    def release_some(self, count: int) -> None:
        if self.broker.held:
            self.broker.release(min(count, self.broker.held))

    @rule()
    def release(self) -> None:
        self.broker.release()

    @rule(code=INLINE, count=st.integers(1, 3))
    def fail_inline(self, code: str, count: int) -> None:
        self.broker.fail_next(count, code, phase=Phase.INLINE)

    @rule(code=IN_ORDER, stored=st.booleans())
    def end_the_producer(self, code: str, *, stored: bool) -> None:
        self.broker.fail_next(1, code, stored=stored)

    @rule()
    def freeze(self) -> None:
        self.broker.freeze()

    @rule()
    def thaw(self) -> None:
        if self.broker.state is BrokerState.FROZEN:
            self.broker.thaw()

    def heal(self) -> None:
        """
        From here on all is well.
        """
        self.broker.forget_faults()
        self.broker.start()
        self.broker.thaw()
        self.broker.release()


class LanesUnderFaults(Faults):
    """
    The model of a lane: it is stopped from its first failure on until it is resumed.
    """

    @initialize(policy=st.sampled_from(LanePolicy), mix_keys=st.booleans(), deduplication=st.booleans())
    def begin(self, *, policy: LanePolicy, mix_keys: bool, deduplication: bool) -> None:
        self.broker = FakeBroker(deduplication=deduplication)
        self.store = InMemoryFailedMessages()
        self.policy = policy
        self.sender = sender_of(
            self.broker,
            self.store,
            deadline_seconds=LONG_SECONDS,
            retry=AT_ONCE,
            pool=NO_BACKOFF,
            topic_defaults=TopicSettings(mix_keys=mix_keys, lane_policy=policy),
        ).open()
        hurry(self.sender)
        self.recording = Recording(self.sender, lambda: self.broker.messages(TOPIC))
        self.accepted: dict[str, list[str]] = {"a": [], "b": []}
        self.resumed = {"a": 0, "b": 0}  # what was accepted before a lane was resumed does not stop it any more
        self.number = 0
        self.closed = False

    # -- the application -------------------------------------------------------------------------------------------

    @precondition(lambda self: not self.closed)
    @rule(lanes=st.lists(LANES, min_size=1, max_size=6), impatient=st.booleans())
    def submit(self, lanes: list[str], *, impatient: bool) -> None:
        deadline = IMPATIENT_SECONDS if impatient else None
        for lane in lanes:
            self.number += 1
            identity = str(self.number)
            try:
                self.recording.submit(identity, ordering_key=lane, deadline_seconds=deadline)
            except LanePaused:
                assert self.policy is LanePolicy.PAUSE
                wait_until(lambda: self.failed(lane), "the failure that it is refused for")  # noqa: B023  # at once
            else:
                self.accepted[lane].append(identity)

    @precondition(lambda self: not self.closed)
    @rule(lane=LANES, skip=st.booleans())
    def resume(self, lane: str, *, skip: bool) -> None:
        self.settle()
        kept = self.store.count(FailedMessageFilter(topic=TOPIC, key=lane))
        stopped = self.is_stopped(lane)
        skip = skip and self.policy is LanePolicy.SKIP  # it would give up the order, which is judged in the end
        try:
            self.sender.resume(self.sender.lane(TOPIC, lane), skip=skip)
        except LaneNotPaused:
            assert not stopped
        except LanePaused:
            assert stopped
            assert kept
        else:
            assert stopped
            assert not kept
            self.was_resumed(lane)

    @precondition(lambda self: not self.closed)
    @rule()
    def replay(self) -> None:
        self.settle()
        self.replay_all()
        for lane in ("a", "b"):
            assert self.is_stopped(lane) == self.must_be_stopped(lane), "a replay resumes nothing"
        assert self.sender.resume_all() == []
        for lane in ("a", "b"):
            self.was_resumed(lane)

    @precondition(lambda self: not self.closed)
    @rule()
    def look(self) -> None:
        self.settle()
        for lane in ("a", "b"):
            assert self.is_stopped(lane) == self.must_be_stopped(lane)
        paused = {lane.ordering_key for lane in self.sender.lanes() if lane.state is LaneState.PAUSED}
        assert paused == {lane for lane in ("a", "b") if self.is_stopped(lane)}
        assert self.sender.stats().paused_lanes == len(paused)

    @precondition(lambda self: self.broker.state is not BrokerState.STOPPED)
    @rule()
    def kill(self) -> None:
        self.recording.history.broken()
        self.broker.kill()

    @precondition(lambda self: self.broker.state is BrokerState.STOPPED)
    @rule()
    def start(self) -> None:
        self.broker.start()
        self.recording.history.healed()

    @precondition(lambda self: self.broker.state is not BrokerState.STOPPED)
    @rule()
    def cut(self) -> None:
        self.recording.history.broken()
        self.broker.cut()
        self.recording.history.healed()

    @precondition(lambda self: not self.closed)
    @rule()
    def close_at_once(self) -> None:
        report = self.sender.close(0)
        assert report.clean
        assert report.counts.in_flight == 0
        self.closed = True
        assert {self.sender_state(lane) for lane in ("a", "b")} <= {LaneState.CLOSED}

    # -- the model -------------------------------------------------------------------------------------------------

    def failed(self, lane: str) -> bool:
        """
        Whether any of its messages failed since it was resumed.
        """
        handles = [self.recording.handles[each] for each in self.accepted[lane][self.resumed[lane] :]]
        return any(each.done() and isinstance(each.exception(), SendFailed) for each in handles)

    def must_be_stopped(self, lane: str) -> bool:
        """
        Whether the model says so.
        """
        return self.policy is not LanePolicy.SKIP and self.failed(lane)

    def is_stopped(self, lane: str) -> bool:
        """
        Whether the sender says so.
        """
        return self.sender_state(lane) is LaneState.PAUSED

    def sender_state(self, lane: str) -> LaneState:
        """
        What the sender says.
        """
        return self.sender.lane(TOPIC, lane).state()

    def was_resumed(self, lane: str) -> None:
        """
        From here on only what comes, or what waited behind, can stop it.
        """
        handles = [self.recording.handles[each] for each in self.accepted[lane]]
        first_open = next((place for place, each in enumerate(handles) if not each.done()), len(handles))
        self.resumed[lane] = first_open
        self.settle()

    def settle(self) -> None:
        """
        Let the broker be well, and wait until everything has its fate that can have one.
        """
        self.heal()
        for lane, identities in self.accepted.items():
            for identity in identities:
                self.wait_for(lane, self.recording.handles[identity])

    def wait_for(self, lane: str, handle: SendHandle) -> None:
        """
        Wait for its fate, unless it waits behind another in a blocked lane.
        """
        blocked = self.policy is LanePolicy.BLOCK and not self.closed

        def settled() -> bool:
            return handle.done() or (blocked and handle._state == State.QUEUED and self.is_stopped(lane))

        wait_until(settled, "a fate", timeout_seconds=LONG_SECONDS)

    def replay_all(self) -> None:
        """
        Send what is kept, and note it.
        """
        kept = {row.id: (row.message.properties or {})["id"] for row in self.store.find(EVERYTHING)}
        with sender_of(self.broker, self.store) as other:  # so that the books of the first are its own
            report = replay(self.store, other)
        assert (report.failed, report.skipped) == (0, 0), report
        self.note_replayed(kept)

    def note_replayed(self, kept: dict[int | None, str]) -> None:
        """
        Those that are delivered now.
        """
        for failed_id, identity in kept.items():
            assert failed_id is not None
            if self.store.status(failed_id).state is FailedMessageState.DELIVERED:
                self.recording.replayed(identity)

    @invariant()
    def the_books_balance(self) -> None:
        if hasattr(self, "sender"):
            counts = self.sender.stats().counts
            assert counts.balanced
            assert counts.accepted == sum(map(len, self.accepted.values()))
            assert counts.not_kept == 0

    def teardown(self) -> None:
        if not hasattr(self, "sender"):
            return
        if not self.closed:
            self.settle()
            self.sender.close(0.5)
        else:
            self.heal()
        kept: dict[int | None, str] = {
            row.id: (row.message.properties or {})["id"] for row in self.store.open().find(EVERYTHING)
        }
        with sender_of(self.broker, self.store) as sender:
            report = replay(self.store, sender)
            assert (report.failed, report.skipped) == (0, 0), report
        self.note_replayed(kept)
        # A lane whose failures are never passed over keeps its order, over replays, too.
        self.recording.judge(
            Rules(connection_broken=True, replay_keeps_order=self.policy in (LanePolicy.PARK, LanePolicy.PAUSE))
        )
        stored = {each.properties["id"] for each in self.broker.messages(TOPIC)}
        assert stored == {identity for each in self.accepted.values() for identity in each}


LanesUnderFaults.TestCase.settings = EXAMPLES
TestLanesUnderFaults = LanesUnderFaults.TestCase


class OnceUnderFaults(Faults):
    """
    The model of an exactly-once topic: what was accepted, once.
    """

    @initialize(mix_keys=st.booleans(), batch=st.sampled_from([1, 3, 500]), deduplication=st.booleans())
    def begin(self, *, mix_keys: bool, batch: int, deduplication: bool) -> None:
        self.broker = FakeBroker(deduplication=deduplication)
        self.deduplication = deduplication
        self.folder = tempfile.TemporaryDirectory()
        self.topic = TopicSettings(
            producer_name="shop",
            exactly_once=True,
            mix_keys=mix_keys,
            batch_max_messages=batch,
            lane_policy=LanePolicy.SKIP,
        )
        self.keys: dict[str, str | None] = {}
        self.delivered: set[str] = set()
        self.handles: dict[str, SendHandle] = {}
        self.orderly = True  # no answer was of one message alone
        self.open()

    def open(self) -> None:
        """
        A run of the application.
        """
        self.store: FailedMessageStore = SqliteFailedMessages(Path(self.folder.name) / "failed.db")
        self.sender = sender_of(
            self.broker,
            self.store,
            deadline_seconds=LONG_SECONDS,
            retry=AT_ONCE,
            pool=NO_BACKOFF,
            topic_defaults=self.topic,
        ).open()
        hurry(self.sender)
        self.accepted = 0

    @rule(keys=st.lists(st.sampled_from([None, "a", "b"]), min_size=1, max_size=8), impatient=st.booleans())
    def submit(self, keys: list[str | None], *, impatient: bool) -> None:
        for key in keys:
            identity = str(len(self.keys))
            self.keys[identity] = key
            self.accepted += 1
            self.handles[identity] = self.sender.submit(
                TOPIC,
                f"order {identity}",
                partition_key=key,
                properties={"id": identity},
                deadline_seconds=IMPATIENT_SECONDS if impatient else None,
            )

    @rule(code=OF_ONE, count=st.integers(1, 3), stored=st.booleans())
    def fail_one(self, code: str, count: int, *, stored: bool) -> None:
        self.orderly = self.orderly and stored and code != "MessageTooBig"
        self.broker.fail_next(count, code, stored=stored and code != "MessageTooBig")

    @rule(code=READS, count=st.integers(1, 2))
    def fail_reads(self, code: str, count: int) -> None:
        self.broker.fail_next_reads(count, code)

    @precondition(lambda self: self.broker.state is not BrokerState.STOPPED)
    @rule()
    def kill(self) -> None:
        self.broker.kill()

    @precondition(lambda self: self.broker.state is BrokerState.STOPPED)
    @rule()
    def start(self) -> None:
        # The client library waits a tenth of a second before it connects again, and by then it is closed.
        wait_until(lambda: not self.on_their_way(), "closed producers")
        self.broker.start()

    @precondition(lambda self: self.deduplication and self.broker.state is not BrokerState.STOPPED)
    @rule()
    def cut(self) -> None:
        self.broker.cut()

    @rule()
    def run_again(self) -> None:
        report = self.sender.close(0)
        assert report.counts.balanced
        assert report.counts.in_flight == 0
        self.note()
        self.open()

    @rule()
    def replay(self) -> None:
        self.heal()
        assert self.sender.flush(LONG_SECONDS) == 0
        report = replay(self.store, self.sender)
        assert (report.failed, report.skipped) == (0, 0), report
        self.accepted += report.delivered + report.duplicate

    def on_their_way(self) -> bool:
        """
        Whether anything was handed over by a producer that would go on by itself.
        """
        return any(
            not delivery.finished and not getattr(delivery.producer, "is_closed", True)
            for queue in self.sender._started().queues()
            for delivery in queue.flying
        )

    def note(self) -> None:
        """
        What a run has told.
        """
        for identity, handle in self.handles.items():
            assert handle.done()
            if not isinstance(handle.exception(), SendFailed):
                self.delivered.add(identity)
        self.handles.clear()

    def heal(self) -> None:
        if self.broker.state is BrokerState.STOPPED:
            self.start()
        super().heal()

    @invariant()
    def the_books_balance(self) -> None:
        if hasattr(self, "sender"):
            counts = self.sender.stats().counts
            assert counts.balanced
            assert counts.accepted == self.accepted
            assert counts.not_kept == 0

    def teardown(self) -> None:
        if not hasattr(self, "sender"):
            return
        with contextlib.ExitStack() as end:
            end.callback(self.folder.cleanup)
            self.heal()
            assert self.sender.flush(LONG_SECONDS) == 0
            assert self.sender.close().drained
            self.note()
            stored = self.stored()
            assert self.delivered <= set(stored)
            self.open()
            end.callback(self.sender.close)
            report = replay(self.store, self.sender)
            assert (report.failed, report.skipped) == (0, 0), report
            assert self.store.count(FailedMessageFilter(certainty=Certainty.MAYBE_STORED)) == self.store.count() == 0
            stored = self.stored()
            assert sorted(stored, key=int) == sorted(self.keys, key=int), "each once, whatever became of it meanwhile"
            numbers = [
                int(message.properties[ID_PROPERTY].partition("-")[0]) for message in self.broker.messages(TOPIC)
            ]
            assert len(set(numbers)) == len(numbers)
            if self.orderly:
                for key in ("a", "b"):
                    lane = [int(each) for each in stored if self.keys[each] == key and each in self.delivered]
                    assert lane == sorted(lane)

    def stored(self) -> list[str]:
        """
        What the topic holds.
        """
        return [message.properties["id"] for message in self.broker.messages(TOPIC)]


OnceUnderFaults.TestCase.settings = EXAMPLES
TestOnceUnderFaults = OnceUnderFaults.TestCase
