"""
A sender under random sends, faults and outages: whatever comes in whatever order, the history is valid.
"""

# a rule is named for what it does

from __future__ import annotations

from hypothesis import HealthCheck
from hypothesis import settings as example_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tenacity import wait_none

from safepulsar.broker.outcomes import Phase
from safepulsar.broker_process import BrokerState
from safepulsar.failed_messages import EVERYTHING, InMemoryFailedMessages
from safepulsar.sending.replay import replay
from safepulsar.settings import PoolSettings, RetrySettings, TopicSettings
from safepulsar.testing import FakeBroker
from tests.history import Rules
from tests.senders import LONG_SECONDS, TOPIC, Recording, sender_of

IMPATIENT_SECONDS = 0.03
KEYS = st.sampled_from([None, "a", "b"])
INLINE = st.sampled_from(["ProducerQueueIsFull", "AlreadyClosed", "NotConnected", "InvalidMessage", "TopicTerminated"])
# What the client library or the broker refuses before it stores anything, and what leaves it open.
REFUSED_LATER = st.sampled_from(["MemoryBufferIsFull", "MessageTooBig", "CryptoError"])
DOUBTFUL_LATER = st.sampled_from(["Timeout", "AlreadyClosed", "ProducerFenced", "UnknownError", "ServiceUnitNotReady"])
CREATION = st.sampled_from(["ConnectError", "ServiceUnitNotReady", "ProducerBusy", "AuthorizationError"])


class SenderUnderFaults(RuleBasedStateMachine):
    """
    A sender on the fake broker, with a record of everything that is judged in the end.

    Beside the history it keeps one number by itself: how many messages were accepted.
    """

    @initialize(
        resend=st.booleans(),
        mix_keys=st.booleans(),
        batch=st.sampled_from([1, 3, 500]),
        deduplication=st.booleans(),
        breaks=st.booleans(),
    )
    def begin(self, *, resend: bool, mix_keys: bool, batch: int, deduplication: bool, breaks: bool) -> None:
        # A message that is sent again after its connection broke is not refused for itself: it was not the first time.
        self.breaks = breaks
        self.broker = FakeBroker(deduplication=deduplication)
        self.store = InMemoryFailedMessages()
        self.resend = resend
        self.sender = sender_of(
            self.broker,
            self.store,
            deadline_seconds=LONG_SECONDS,
            retry=RetrySettings(max_retries=5, first_delay_seconds=0, jitter_seconds=0, resend_maybe_stored=resend),
            pool=PoolSettings(creation_backoff_seconds=0, creation_backoff_max_seconds=0),
            topic_defaults=TopicSettings(mix_keys=mix_keys, batch_max_messages=batch),
        ).open()
        # Hypothesis draws from the same source of randomness, and takes it ill if a thread does so at the same time.
        self.sender._started().topics._retry._wait = wait_none()  # type: ignore[assignment]
        self.recording = Recording(self.sender, lambda: self.broker.messages(TOPIC))
        self.accepted = 0
        self.closed = False

    # -- messages --------------------------------------------------------------------------------------------------

    @precondition(lambda self: not self.closed)
    @rule(keys=st.lists(KEYS, min_size=1, max_size=8))
    def submit(self, keys: list[str | None]) -> None:
        for key in keys:
            self.recording.submit(str(self.accepted), key)
            self.accepted += 1

    @precondition(lambda self: not self.closed)
    @rule(key=KEYS)
    def submit_impatiently(self, key: str | None) -> None:
        self.recording.submit(str(self.accepted), key, deadline_seconds=IMPATIENT_SECONDS)
        self.accepted += 1

    @precondition(lambda self: not self.closed and self.recording.handles)
    @rule(data=st.data())
    def wait_for_one(self, data: st.DataObject) -> None:
        # Of the impatient ones each has its fate in time, whatever the broker does.
        handles = [each for each in self.recording.handles.values() if each._deadline - each._accepted_at < 1]
        if handles:
            handle = data.draw(st.sampled_from(handles))
            handle.exception()
            assert handle.done()

    # -- the broker ------------------------------------------------------------------------------------------------

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

    @precondition(lambda self: not self.breaks)
    @rule(code=REFUSED_LATER, count=st.integers(1, 3))
    def refuse_later(self, code: str, count: int) -> None:
        self.broker.fail_next(count, code)

    @rule(code=DOUBTFUL_LATER, count=st.integers(1, 3), stored=st.booleans())
    def fail_later(self, code: str, count: int, *, stored: bool) -> None:
        # Where both are sent again: of two in doubt on one connection, only the earlier one can be stored alone.
        self.broker.fail_next(count, code, stored=stored or self.resend)

    @rule(code=CREATION, count=st.integers(1, 3))
    def fail_creation(self, code: str, count: int) -> None:
        self.broker.fail_next(count, code, phase=Phase.CREATE)

    @rule()
    def freeze(self) -> None:
        self.broker.freeze()

    @rule()
    def thaw(self) -> None:
        if self.broker.state is BrokerState.FROZEN:
            self.broker.thaw()

    @precondition(lambda self: self.breaks and self.broker.state is not BrokerState.STOPPED)
    @rule()
    def kill(self) -> None:
        self.recording.history.broken()
        self.broker.kill()

    @precondition(lambda self: self.broker.state is BrokerState.STOPPED)
    @rule()
    def start(self) -> None:
        self.broker.start()
        self.recording.history.healed()

    @precondition(lambda self: self.breaks and self.broker.state is not BrokerState.STOPPED)
    @rule()
    def cut(self) -> None:
        self.recording.history.broken()
        self.broker.cut()
        self.recording.history.healed()

    # -- the end ---------------------------------------------------------------------------------------------------

    @precondition(lambda self: not self.closed)
    @rule()
    def close_at_once(self) -> None:
        report = self.sender.close(0)
        assert report.clean
        assert report.counts.in_flight == 0
        self.closed = True

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
        self._heal()
        if not self.closed:
            assert self.sender.flush(LONG_SECONDS) == 0
            report = self.sender.close()
            assert (report.drained, report.clean) == (True, True)
        self.recording.judge(Rules(connection_broken=True))
        self._everything_can_be_replayed()

    def _heal(self) -> None:
        self.broker.forget_faults()
        if self.broker.state is BrokerState.STOPPED:
            self.start()
        self.broker.thaw()
        self.broker.release()

    def _everything_can_be_replayed(self) -> None:
        with self.store.open(), sender_of(self.broker, self.store) as sender:
            selected = self.store.count(EVERYTHING)
            report = replay(self.store, sender)
            assert (report.delivered, report.failed, report.skipped) == (selected, 0, 0)
        stored = {each.properties["id"] for each in self.broker.messages(TOPIC)}
        assert stored == {str(number) for number in range(self.accepted)}, "every message that was ever accepted"


SenderUnderFaults.TestCase.settings = example_settings(
    deadline=None,
    max_examples=60,
    stateful_step_count=25,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestSenderUnderFaults = SenderUnderFaults.TestCase
