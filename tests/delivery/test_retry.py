"""
Retry decisions: by the error, the attempts made and the time left; never too often, never too late.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import settings as example_settings
from hypothesis import strategies as st

from safepulsar.delivery.retry import Again, GiveUp, RetryPolicy
from safepulsar.errors import (
    AuthorizationFailed,
    BrokerUnavailable,
    CreationBackoff,
    ProducerFenced,
    SafePulsarError,
    SendTimeout,
)
from safepulsar.settings import RetrySettings

_DOWN = BrokerUnavailable("ConnectError")
_seconds = st.floats(min_value=0, max_value=3600)


def _settings(**changes: float) -> RetrySettings:
    return RetrySettings.from_mapping(changes)


@st.composite
def _any_settings(draw: st.DrawFn) -> RetrySettings:
    first = draw(_seconds)
    return RetrySettings(
        max_retries=draw(st.integers(min_value=0, max_value=5000)),
        first_delay_seconds=first,
        max_delay_seconds=draw(st.floats(min_value=first, max_value=86_400)),
        jitter_seconds=draw(_seconds),
        resend_maybe_stored=draw(st.booleans()),
    )


_errors = st.builds(
    BrokerUnavailable, st.just("ConnectError"), retriable=st.booleans(), maybe_stored=st.booleans()
) | st.just(SendTimeout("Timeout"))


@example_settings(deadline=None)
@given(
    settings=_any_settings(),
    error=_errors,
    attempts=st.integers(min_value=1, max_value=10_000),
    seconds_left=st.floats(min_value=-10, max_value=100_000),
)
def test_no_retry_too_often_too_late_or_against_the_verdict(
    settings: RetrySettings, error: SafePulsarError, attempts: int, seconds_left: float
) -> None:
    """
    A retry is made only of what may pass, only if it can't duplicate unless allowed, within number, delays and deadline.
    """
    decision = RetryPolicy(settings).decide(error, attempts=attempts, seconds_left=seconds_left)
    if isinstance(decision, Again):
        assert error.retriable
        assert settings.resend_maybe_stored or not error.maybe_stored
        assert attempts <= settings.max_retries
        assert decision.delay_seconds < seconds_left
        longest = settings.max_delay_seconds + settings.jitter_seconds
        assert settings.first_delay_seconds <= decision.delay_seconds <= longest
    else:
        assert decision.why


@example_settings(deadline=None)
@given(settings=_any_settings())
def test_a_message_is_never_tried_more_often_than_allowed(settings: RetrySettings) -> None:
    """
    With all the time in the world there are exactly `max_retries` retries.
    """
    policy = RetryPolicy(settings)
    assert settings.max_retries == 0 or isinstance(
        policy.decide(_DOWN, attempts=settings.max_retries, seconds_left=1e9), Again
    )
    last = policy.decide(_DOWN, attempts=settings.max_retries + 1, seconds_left=1e9)
    assert last == GiveUp(f"{settings.max_retries + 1} attempts are used up")


def test_delays_double_up_to_the_longest() -> None:
    """
    Without jitter the delays are first, twice, four times, and then the longest.
    """
    policy = RetryPolicy(_settings(max_retries=5, first_delay_seconds=0.5, max_delay_seconds=3.0, jitter_seconds=0.0))
    decisions = [policy.decide(_DOWN, attempts=n, seconds_left=60.0) for n in range(1, 7)]
    assert decisions == [Again(0.5), Again(1.0), Again(2.0), Again(3.0), Again(3.0), GiveUp("6 attempts are used up")]


def test_jitter_spreads_the_longest_delay_too() -> None:
    """
    Senders that have all reached the longest delay still don't come back at once.
    """
    policy = RetryPolicy(_settings(max_retries=100, first_delay_seconds=1.0, max_delay_seconds=1.0, jitter_seconds=1.0))
    delays = {
        decision.delay_seconds
        for _ in range(50)
        if isinstance(decision := policy.decide(_DOWN, attempts=50, seconds_left=60.0), Again)
    }
    assert len(delays) > 1
    assert all(1.0 <= delay <= 2.0 for delay in delays)


def test_the_defaults_are_three_retries_a_tenth_of_a_second_apart_and_doubling() -> None:
    """
    The default policy retries three times, after 0.1, 0.2 and 0.4 s, each with up to 0.1 s more.
    """
    policy = RetryPolicy(RetrySettings())
    for attempts, shortest in ((1, 0.1), (2, 0.2), (3, 0.4)):
        decision = policy.decide(_DOWN, attempts=attempts, seconds_left=10.0)
        assert isinstance(decision, Again)
        assert shortest <= decision.delay_seconds <= shortest + 0.1
    assert policy.decide(_DOWN, attempts=4, seconds_left=10.0) == GiveUp("4 attempts are used up")


@pytest.mark.parametrize("error", [AuthorizationFailed("AuthorizationError"), ProducerFenced("ProducerFenced")])
def test_what_does_not_pass_is_not_tried_again(error: SafePulsarError) -> None:
    """
    A missing right or a lost fight over the topic is final.
    """
    decision = RetryPolicy(RetrySettings()).decide(error, attempts=1, seconds_left=10.0)
    assert decision == GiveUp("this error does not pass by itself")


def test_what_may_be_stored_is_sent_again_only_if_the_settings_say_so() -> None:
    """
    By default an ambiguous attempt is the last one; `resend_maybe_stored` accepts the duplicate.
    """
    timeout = SendTimeout("Timeout")
    decision = RetryPolicy(RetrySettings()).decide(timeout, attempts=1, seconds_left=10.0)
    assert decision == GiveUp("it may be stored, and sending it again could make a duplicate")
    resending = RetryPolicy(RetrySettings(resend_maybe_stored=True))
    assert isinstance(resending.decide(timeout, attempts=1, seconds_left=10.0), Again)


def test_an_attempt_that_would_begin_at_the_deadline_is_not_made() -> None:
    """
    The last moment belongs to the deadline.
    """
    policy = RetryPolicy(_settings(first_delay_seconds=1.0, jitter_seconds=0.0))
    late = GiveUp("the next attempt would begin after the deadline")
    assert policy.decide(_DOWN, attempts=1, seconds_left=1.0) == late
    assert policy.decide(_DOWN, attempts=1, seconds_left=1.01) == Again(1.0)
    assert policy.decide(_DOWN, attempts=1, seconds_left=-5.0) == late


def test_any_error_of_ours_can_be_decided_on() -> None:
    """
    Errors that no broker sent, such as a pause after a failed creation, are decided on by the same answers.
    """
    policy = RetryPolicy(RetrySettings())
    assert isinstance(policy.decide(CreationBackoff("t", 0.1), attempts=1, seconds_left=10.0), Again)
    assert isinstance(policy.decide(SafePulsarError("?"), attempts=1, seconds_left=10.0), GiveUp)
