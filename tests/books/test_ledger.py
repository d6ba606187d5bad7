"""
The books: they balance at every moment, the bounds hold, and nobody waits in vain for room.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings as example_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from safepulsar.books.ledger import Counts, Ledger
from safepulsar.errors import QueueFull, SenderClosed
from safepulsar.message import Fate
from safepulsar.settings import SenderSettings, WhenFull
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

_LONG_SECONDS = 30.0


def _ledger(*, messages: int = 10, size_bytes: int = 1000, when_full: WhenFull = WhenFull.BLOCK) -> Ledger:
    return Ledger(SenderSettings(max_in_flight_messages=messages, max_in_flight_bytes=size_bytes, when_full=when_full))


def _accept(ledger: Ledger, size_bytes: int = 1, *, deadline_seconds: float = 0.0) -> bool:
    """
    What a sender does with the books for each message.
    """
    with ledger.lock:
        ledger.check_open_locked()
        if ledger.full_locked(size_bytes) and not ledger.wait_for_room_locked(
            size_bytes, time.monotonic() + deadline_seconds
        ):
            return False
        ledger.accepted += 1
        ledger.in_flight += 1
        ledger.in_flight_bytes += size_bytes
        return True


def _settle(ledger: Ledger, fate: Fate = Fate.DELIVERED, *, count: int = 1, size_bytes: int = 1) -> None:
    with ledger.lock:
        ledger.settle_locked(size_bytes, **{fate.value.lower(): count})


def _wait_for_accepted(ledger: Ledger, count: int) -> None:
    wait_until(lambda: ledger.counts().accepted == count, f"{count} messages are accepted")


class _Waiter:
    """
    A thread that runs a function, and what came of it.
    """

    def __init__(self, ledger: Ledger, function: Callable[[], object]) -> None:
        self.outcome: object = None
        self._function = function
        waiting = len(ledger._waiters)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        wait_until(lambda: len(ledger._waiters) > waiting or not self._thread.is_alive(), "the thread waits")

    def _run(self) -> None:
        try:
            self.outcome = self._function()
        except (QueueFull, SenderClosed) as error:
            self.outcome = error

    def join(self) -> object:
        self._thread.join(_LONG_SECONDS)
        assert not self._thread.is_alive()
        return self.outcome


class _Books(RuleBasedStateMachine):
    """
    A ledger beside a model that keeps every message in flight in a list.
    """

    @initialize(messages=st.integers(1, 5), size_bytes=st.integers(1, 50))
    def begin(self, messages: int, size_bytes: int) -> None:
        self.ledger = _ledger(messages=messages, size_bytes=size_bytes, when_full=WhenFull.RAISE)
        self.bounds = (messages, size_bytes)
        self.in_flight: list[int] = []
        self.final: dict[Fate, int] = dict.fromkeys(Fate, 0)

    @rule(size_bytes=st.integers(0, 60))
    def accept(self, size_bytes: int) -> None:
        messages, most_bytes = self.bounds
        room = len(self.in_flight) < messages and (not self.in_flight or sum(self.in_flight) + size_bytes <= most_bytes)
        if room:
            assert _accept(self.ledger, size_bytes)
            self.in_flight.append(size_bytes)
        else:
            with pytest.raises(QueueFull):
                _accept(self.ledger, size_bytes)

    @precondition(lambda self: self.in_flight)
    @rule(fate=st.sampled_from(Fate), data=st.data())
    def settle(self, fate: Fate, data: st.DataObject) -> None:
        count = data.draw(st.integers(1, len(self.in_flight)))
        done, self.in_flight = self.in_flight[:count], self.in_flight[count:]
        _settle(self.ledger, fate, count=count, size_bytes=sum(done))
        self.final[fate] += count

    @invariant()
    def the_books_say_so(self) -> None:
        counts = self.ledger.counts()
        assert counts.balanced
        assert counts == Counts(
            accepted=sum(self.final.values()) + len(self.in_flight),
            delivered=self.final[Fate.DELIVERED],
            duplicate=self.final[Fate.DUPLICATE],
            failed=self.final[Fate.FAILED],
            in_flight=len(self.in_flight),
            in_flight_bytes=sum(self.in_flight),
            not_kept=0,
        )

    @invariant()
    def the_bounds_hold(self) -> None:
        messages, most_bytes = self.bounds
        assert len(self.in_flight) <= messages
        assert sum(self.in_flight) <= most_bytes or len(self.in_flight) == 1


_Books.TestCase.settings = example_settings(deadline=None, max_examples=50)
TestBooks = _Books.TestCase


def test_books_that_do_not_balance_say_so() -> None:
    """
    A message that is neither final nor in flight is found.
    """
    books = {"delivered": 1, "duplicate": 1, "failed": 1, "in_flight": 1, "in_flight_bytes": 9, "not_kept": 0}
    assert Counts(accepted=4, **books).balanced
    assert not Counts(accepted=5, **books).balanced


def test_a_message_over_the_bound_on_bytes_goes_alone() -> None:
    """
    What could never fit beside others is accepted when nothing else is in flight.
    """
    for when_full in (WhenFull.BLOCK, WhenFull.RAISE):
        ledger = _ledger(size_bytes=10, when_full=when_full)
        assert _accept(ledger, 1000)
        with pytest.raises(QueueFull):
            _accept(ledger, 0)


def test_what_is_too_many_is_kept_if_the_settings_say_so() -> None:
    """
    With KEEP nobody waits, and no error is raised: what does not fit goes to the store.
    """
    ledger = _ledger(messages=1, when_full=WhenFull.KEEP)
    assert _accept(ledger)
    assert not _accept(ledger, deadline_seconds=_LONG_SECONDS)


@pytest.mark.parametrize("when_full", WhenFull)
def test_where_there_is_room_nobody_waits(when_full: WhenFull) -> None:
    """
    Whatever is to happen when full, what fits is accepted.
    """
    ledger = _ledger(size_bytes=10, when_full=when_full)
    with ledger.lock:
        assert ledger.wait_for_room_locked(5, time.monotonic())
        assert ledger.wait_for_room_locked(1000, time.monotonic()), "alone, it fits"


def test_a_full_queue_says_how_full_and_what_to_do() -> None:
    """
    The error has the numbers, the bounds, and both remedies.
    """
    ledger = _ledger(messages=1, size_bytes=100)
    _accept(ledger, 7)
    with pytest.raises(QueueFull) as caught:
        _accept(ledger)
    assert str(caught.value) == (
        "1 messages with 7 bytes are in flight until the deadline (at most 1 and 100); this one was not accepted: "
        "send slower, or raise max_in_flight_messages or max_in_flight_bytes"
    )


def test_who_waits_for_room_goes_on_when_there_is_some() -> None:
    """
    One fate makes room for one of those that wait, and the rest go on waiting.
    """
    ledger = _ledger(messages=2)
    assert _accept(ledger)
    assert _accept(ledger)
    waiters = [_Waiter(ledger, lambda: _accept(ledger, deadline_seconds=_LONG_SECONDS)) for _ in range(3)]
    for accepted in (3, 4, 5):
        _settle(ledger)
        _wait_for_accepted(ledger, accepted)
        assert ledger.counts().in_flight == 2
    assert [waiter.join() for waiter in waiters] == [True] * 3


def test_room_must_be_large_enough() -> None:
    """
    Who waits for more bytes than became free waits on, while one that fits goes ahead.
    """
    ledger = _ledger(size_bytes=10)
    for _ in range(2):
        _accept(ledger, 5)
    large = _Waiter(ledger, lambda: _accept(ledger, 10, deadline_seconds=_LONG_SECONDS))
    small = _Waiter(ledger, lambda: _accept(ledger, 5, deadline_seconds=_LONG_SECONDS))
    _settle(ledger, size_bytes=5)
    assert small.join() is True
    assert large.outcome is None
    _settle(ledger, count=2, size_bytes=10)
    assert large.join() is True


def test_who_waits_is_told_at_the_deadline() -> None:
    """
    Without room the wait ends with QueueFull when the deadline passes, and nothing was accepted.
    """
    ledger = _ledger(messages=1)
    _accept(ledger)
    waiter = _Waiter(ledger, lambda: _accept(ledger, deadline_seconds=0.05))
    assert isinstance(waiter.join(), QueueFull)
    assert ledger.counts().accepted == 1


def test_who_waits_is_told_of_the_end() -> None:
    """
    Closing ends every wait for room with SenderClosed, and nothing is accepted afterwards.
    """
    ledger = _ledger(messages=1)
    _accept(ledger)
    waiters = [_Waiter(ledger, lambda: _accept(ledger, deadline_seconds=_LONG_SECONDS)) for _ in range(3)]
    with ledger.lock:
        ledger.stop_intake_locked()
    assert [type(waiter.join()) for waiter in waiters] == [SenderClosed] * 3
    with pytest.raises(SenderClosed, match="takes no more messages; make a new one"):
        _accept(ledger)
    assert ledger.counts().accepted == 1


def test_waiting_for_the_last_fate() -> None:
    """
    The wait ends with the last message in flight, at once if there is none, and otherwise at the deadline.
    """
    ledger = _ledger()
    assert ledger.wait_until_empty(time.monotonic())
    _accept(ledger)
    _accept(ledger)
    assert not ledger.wait_until_empty(time.monotonic() + 0.01)
    waiter = _Waiter(ledger, lambda: ledger.wait_until_empty(time.monotonic() + _LONG_SECONDS))
    _settle(ledger)
    assert waiter.outcome is None
    _settle(ledger, Fate.FAILED)
    assert waiter.join() is True


def test_many_threads_stay_within_the_bounds() -> None:
    """
    Eight threads that accept and settle as fast as they can never see unbalanced books or more than is allowed.
    """
    ledger = _ledger(messages=3)
    wrong: list[Counts] = []

    def work() -> None:
        for _ in range(200):
            _accept(ledger, deadline_seconds=_LONG_SECONDS)
            counts = ledger.counts()
            if not counts.balanced or counts.in_flight > 3:
                wrong.append(counts)
            _settle(ledger)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(_LONG_SECONDS)
    assert not wrong
    counts = ledger.counts()
    assert (counts.accepted, counts.delivered, counts.in_flight) == (1600, 1600, 0)


def test_a_signal_handler_may_close_while_its_thread_holds_the_books() -> None:
    """
    The lock is re-entrant: closing from a handler in the middle of an acceptance does not deadlock.
    """
    ledger = _ledger()
    with ledger.lock:
        _accept(ledger)
        with ledger.lock:
            ledger.stop_intake_locked()
        assert ledger.counts().balanced


def test_waiting_for_any_fact_of_the_books() -> None:
    """
    Whoever waits for a fact is asked to look again when something changed, also by another than a fate.
    """
    ledger = _ledger()
    facts: list[str] = []
    waiter = _Waiter(
        ledger, lambda: ledger.wait_until(lambda: "it happened" in facts, time.monotonic() + _LONG_SECONDS)
    )
    with ledger.lock:
        ledger.changed_locked()
    assert waiter.outcome is None
    with ledger.lock:
        facts.append("it happened")
        ledger.changed_locked()
    assert waiter.join() is True
    assert not ledger.wait_until(lambda: False, time.monotonic() + 0.01)


# -- many who want the lock ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("counted", [1, -1])
def test_a_wrong_count_of_those_who_want_the_lock_is_set_right(counted: int) -> None:
    """
    Ctrl-C while somebody waits for the lock leaves a count that nobody takes back: it costs a moment, once.
    """
    ledger = _ledger()
    ledger.wanting = counted
    ledger.make_way()
    assert ledger.wanting == 0


def test_who_makes_way_goes_on_as_soon_as_nobody_wants_the_lock() -> None:
    """
    And leaves the count alone.
    """
    ledger = _ledger()
    ledger.wanting = 1
    waiter = threading.Thread(target=ledger.make_way)
    waiter.start()
    ledger.wanting -= 1
    waiter.join(_LONG_SECONDS)
    assert not waiter.is_alive()
    assert ledger.wanting == 0
