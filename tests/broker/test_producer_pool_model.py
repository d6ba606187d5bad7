"""
The pool against a plain model of it, over random histories.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import settings, target
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from safepulsar.broker.producer_pool import ProducerPool
from safepulsar.errors import BrokerUnavailable, CreationBackoff, DeadlineExceeded
from safepulsar.settings import PoolSettings
from tests.opening import Clock, Opened, Opener, settings_of

if TYPE_CHECKING:
    from hypothesis.stateful import MultipleResults

    from safepulsar.broker.producer_pool import Lease
    from safepulsar.settings import ProducerSettings

_MOST: Final = 3
_IDLE_SECONDS: Final = 60.0
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 4.0
_TOPICS: Final = [settings_of(f"topic-{i}") for i in range(_MOST + 2)]


@dataclass(eq=False)
class _Known:
    """
    What the model knows of a producer.
    """

    producer: Any
    idle_since: float
    leases: int = 0


@dataclass(eq=False)
class _Loan:
    """
    A lease, and of what.
    """

    lease: Lease
    of: _Known


class PoolMachine(RuleBasedStateMachine):
    """
    Leases and their ends, deaths, failures and time, in any order, by one thread.
    """

    loans = Bundle("loans")

    def __init__(self) -> None:
        super().__init__()
        self.opener = Opener()
        self.clock = Clock()
        self.pool = ProducerPool(
            self.opener,
            PoolSettings(
                max_producers=_MOST,
                idle_seconds=_IDLE_SECONDS,
                creation_backoff_seconds=_FIRST_PAUSE,
                creation_backoff_max_seconds=_LONGEST_PAUSE,
            ),
            self.clock,
        )
        self.lent: dict[ProducerSettings, _Known] = {}
        self.dying: list[_Known] = []  # discarded, and still leased
        self.failures: dict[ProducerSettings, tuple[float, float]] = {}  # pause, and when to try again
        self.created = self.timeouts = 0
        self.evicted: list[Opened] = []

    @rule(target=loans, topic=st.sampled_from(_TOPICS))
    def lease(self, topic: ProducerSettings) -> _Loan | MultipleResults[_Loan]:
        """
        Ask for a producer.
        """
        known = self.lent.get(topic)
        pause, retry_at = self.failures.get(topic, (0.0, 0.0))
        if known is None:
            if retry_at > self.clock.now:
                with pytest.raises(CreationBackoff) as caught:
                    self.pool.lease(topic, 0)
                assert caught.value.retry_after_seconds == pytest.approx(retry_at - self.clock.now)
                return multiple()
            if not self._make_room():
                with pytest.raises(DeadlineExceeded):
                    self.pool.lease(topic, 0)
                self.timeouts += 1
                return multiple()
            if topic.topic in self.opener.failing:
                with pytest.raises(BrokerUnavailable):
                    self.pool.lease(topic, 10)
                pause = min(pause * 2, _LONGEST_PAUSE) or _FIRST_PAUSE
                self.failures[topic] = pause, self.clock.now + pause
                return multiple()
        lease = self.pool.lease(topic, 10)
        if known is None:
            self.failures.pop(topic, None)
            self.created += 1
            known = self.lent[topic] = _Known(self.opener.opened[-1], self.clock.now)
        assert lease.producer is known.producer
        known.leases += 1
        return _Loan(lease, known)

    @rule(loan=consumes(loans), twice=st.booleans())
    def release(self, loan: _Loan, *, twice: bool) -> None:
        """
        End a lease.
        """
        for _ in range(2 if twice else 1):
            loan.lease.release()
        loan.of.leases -= 1
        loan.of.idle_since = self.clock.now
        self.dying = [each for each in self.dying if each.leases]

    @rule(loan=loans)
    def discard(self, loan: _Loan) -> None:
        """
        Say that a producer is dead; perhaps again, perhaps long after it was closed.
        """
        self.pool.discard(loan.lease.producer)
        if self._remove(loan.of):
            self.dying.append(loan.of)

    @rule(loan=loans)
    def abandon(self, loan: _Loan) -> None:
        """
        Close a producer at once.
        """
        self.pool.abandon(loan.lease.producer)
        self._remove(loan.of)
        self.dying = [each for each in self.dying if each is not loan.of]

    @rule(topic=st.sampled_from(_TOPICS), fails=st.booleans())
    def broker(self, topic: ProducerSettings, *, fails: bool) -> None:
        """
        Let the broker refuse a topic, or serve it again.
        """
        if fails:
            self.opener.failing[topic.topic] = BrokerUnavailable("ConnectError")
        else:
            self.opener.failing.pop(topic.topic, None)

    @rule(seconds=st.sampled_from([0.5, 2.0, _IDLE_SECONDS / 2, _IDLE_SECONDS]))
    def time_passes(self, seconds: float) -> None:
        """
        Let time pass.
        """
        self.clock.now += seconds

    @rule()
    def evict_idle(self) -> None:
        """
        Look for idle producers.
        """
        limit = self.clock.now - _IDLE_SECONDS
        idle = [key for key, each in self.lent.items() if not each.leases and each.idle_since <= limit]
        assert self.pool.evict_idle() == len(idle)
        for key in idle:
            self._evict(key)
        for topic, (_, retry_at) in list(self.failures.items()):
            if retry_at + _LONGEST_PAUSE < self.clock.now:
                del self.failures[topic]

    @invariant()
    def what_is_open_is_what_the_model_says(self) -> None:
        """
        Exactly those producers are open that may be lent or still are, never too many, and the numbers agree.
        """
        mine = [*self.lent.values(), *self.dying]
        assert {id(each) for each in self.opener.open()} == {id(each.producer) for each in mine}
        assert self.opener.most <= _MOST
        assert all(each.calls == ["flush", "close"] for each in self.evicted)
        stats = self.pool.stats()
        assert (stats.open, stats.leased) == (len(mine), sum(each.leases > 0 for each in mine))
        assert (stats.created, stats.evicted) == (self.created, len(self.evicted))
        assert (stats.waiting, stats.wait_timeouts) == (0, self.timeouts)

    def teardown(self) -> None:
        """
        Close; whatever the history was, nothing stays open.
        """
        busy = any(each.leases for each in [*self.lent.values(), *self.dying])
        assert self.pool.close(0 if busy else 10) is not busy
        assert self.opener.open() == []
        target(float(self.created), label="created")

    def _make_room(self) -> bool:
        if len(self.lent) + len(self.dying) < _MOST:
            return True
        idle = [key for key, each in self.lent.items() if not each.leases]
        if not idle:
            return False
        self._evict(min(idle, key=lambda key: self.lent[key].idle_since))
        return True

    def _evict(self, key: ProducerSettings) -> None:
        self.evicted.append(self.lent.pop(key).producer)

    def _remove(self, known: _Known) -> bool:
        for key, each in self.lent.items():
            if each is known:
                del self.lent[key]
                return True
        return False


PoolMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestPoolMachine = pytest.mark.timeout(120)(PoolMachine.TestCase)
