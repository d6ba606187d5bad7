"""
The rate limit: whatever is taken in whatever rhythm, the average holds in every window, and nothing waits too long.
"""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import settings as example_settings
from hypothesis import strategies as st

from safepulsar.delivery.rate_limit import RateLimit

_BURST_SECONDS = 0.1


class _Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


_rates = st.none() | st.floats(min_value=0.1, max_value=1e6)
_takes = st.lists(
    st.tuples(
        st.floats(min_value=0, max_value=2),  # the time that passes before
        st.integers(min_value=1, max_value=2000),
        st.integers(min_value=0, max_value=2_000_000),
    ),
    max_size=30,
)


@example_settings(deadline=None)
@given(rates=st.tuples(_rates, _rates), takes=_takes)
def test_the_average_holds_in_every_window(
    rates: tuple[float | None, float | None], takes: list[tuple[float, int, int]]
) -> None:
    """
    Between any two sends there go no more messages or bytes than the rate allows for that time, and one burst.

    What is sent last in the window counts only with what is sent after it, as one take goes through whole.
    """
    clock = _Clock()
    limit = RateLimit(*rates, clock=clock)
    sent: list[tuple[float, tuple[int, int]]] = []
    for pause, messages, size_bytes in takes:
        clock.now += pause
        wait = limit.take(messages, size_bytes)
        assert wait >= 0
        sent.append((clock.now + wait, (messages, size_bytes)))
    assert sent == sorted(sent, key=lambda each: each[0])
    for which, rate in enumerate(rates):
        if rate is None:
            continue
        for first in range(len(sent)):
            amount = 0
            for moment, taken in sent[first:]:
                allowed = rate * (moment - sent[first][0] + _BURST_SECONDS)
                assert amount <= allowed * (1 + 1e-9) + 1e-6
                amount += taken[which]


@example_settings(deadline=None)
@given(rates=st.tuples(_rates, _rates), takes=_takes)
def test_nothing_waits_longer_than_what_was_taken_before(
    rates: tuple[float | None, float | None], takes: list[tuple[float, int, int]]
) -> None:
    """
    A wait ends when all that was taken before is paid for at both rates, one after the other.
    """
    clock = _Clock()
    limit = RateLimit(*rates, clock=clock)
    debt = 0.0
    for pause, messages, size_bytes in takes:
        clock.now += pause
        debt = max(0.0, debt - pause)
        assert limit.take(messages, size_bytes) <= debt + 1e-6
        debt += sum(amount / rate for rate, amount in zip(rates, (messages, size_bytes), strict=True) if rate)


def test_no_rate_means_no_wait() -> None:
    """
    Without rates nothing is limited and nothing waits.
    """
    limit = RateLimit(None, None)
    assert not limit.limits
    assert limit.largest_burst() is None
    assert limit.take(1_000_000, 1_000_000_000) == 0.0


def test_a_burst_goes_at_once_and_the_next_waits_for_it() -> None:
    """
    A tenth of a second's worth goes at once, again and again if it is paid for; what is more is borrowed.
    """
    clock = _Clock()
    limit = RateLimit(100.0, None, clock=clock)
    assert limit.limits
    assert limit.largest_burst() == 10
    assert limit.take(10, 0) == 0.0
    assert limit.take(20, 0) == pytest.approx(0.0)
    assert limit.take(1, 0) == pytest.approx(0.2)
    clock.now += 10.0
    assert limit.take(10, 0) == 0.0
    assert limit.take(1, 0) == pytest.approx(0.0)
    assert limit.take(1, 0) == pytest.approx(0.01)


def test_a_slow_rate_still_lets_one_message_through() -> None:
    """
    However low the rate, a burst is at least one message.
    """
    assert RateLimit(0.5, None).largest_burst() == 1


def test_waiting_for_one_rate_does_not_refill_the_other() -> None:
    """
    Large messages that wait for the message rate don't go out in a lump faster than the byte rate.
    """
    clock = _Clock()
    limit = RateLimit(1.0, 1_000_000.0, clock=clock)
    assert limit.take(10, 10) == 0.0
    first = limit.take(1, 5_000_000)
    second = limit.take(1, 5_000_000)
    third = limit.take(1, 5_000_000)
    assert first == pytest.approx(9.9)
    assert second - first == pytest.approx(4.9)
    assert third - second == pytest.approx(5.0)


def test_threads_that_take_at_once_take_one_after_the_other() -> None:
    """
    Eight threads together get what one thread would get: each taken message is charged exactly once.
    """
    clock = _Clock()
    limit = RateLimit(100.0, None, clock=clock)
    threads = [threading.Thread(target=lambda: [limit.take(1, 1) for _ in range(100)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert limit.take(1, 1) == pytest.approx(8.0 - _BURST_SECONDS)


@pytest.mark.parametrize(
    ("rates", "sizes", "count"),
    [
        ((None, None), [1] * 7, 7),
        ((50.0, None), [1] * 7, 5),
        ((50.0, None), [1] * 3, 3),
        ((0.5, None), [1] * 7, 1),
        ((None, 100.0), [4] * 7, 2),
        ((None, 100.0), [10, 1], 1),
        ((None, 100.0), [5_000_000, 1], 1),
        ((30.0, 1e9), [4] * 7, 3),
        ((1e9, 100.0), [4] * 7, 2),
        ((30.0, 100.0), [], 0),
    ],
)
def test_a_burst_is_a_tenth_of_a_second_of_both_rates(
    rates: tuple[float | None, float | None], sizes: list[int], count: int
) -> None:
    """
    As many messages go together as both rates pay for in that time, and one at least if there is one.
    """
    assert RateLimit(*rates).burst(sizes) == count
