"""
What watching costs: measured beside a plain loop in the same run, so that a slow machine is slow for both.
"""

from __future__ import annotations

import timeit
from typing import TYPE_CHECKING, Final

import pytest
from opentelemetry import context
from opentelemetry.sdk.trace import TracerProvider

from safepulsar.metrics import Metrics
from safepulsar.observing import Finished
from safepulsar.steps import Draft
from safepulsar.testing import FakeBroker
from safepulsar.tracing import Tracing, context_of
from tests.observability.observed import TOPIC, Listener, observed

if TYPE_CHECKING:
    from collections.abc import Callable

_ROUNDS: Final = 7
# A loop that takes about a microsecond where the bounds were chosen.
_PLAIN: Final = "for _ in range(80): pass"
_METRICS_US: Final = 1.0
_UNSAMPLED_US: Final = 6.0


def microseconds(call: Callable[[], object], number: int, messages: int = 1) -> float:
    """
    Of one message, in units of the plain loop; the best of some rounds, each beside that loop.
    """
    best = float("inf")
    for _ in range(_ROUNDS):
        plain = timeit.timeit(_PLAIN, number=2000) / 2000
        took = timeit.timeit(call, number=number) / number / messages
        best = min(best, took / plain)
    return best


def finished(count: int) -> Finished:
    """
    A group that was really sent.
    """
    listener = Listener()
    with observed(FakeBroker(), listener) as sender:
        sender.send_many("orders", [b"x" * 200] * count)
    handles = [handle for fact in listener.facts if isinstance(fact, Finished) for handle in fact.handles]
    fate = next(fact.fate for fact in listener.facts if isinstance(fact, Finished))
    return Finished(topic=TOPIC, fate=fate, handles=handles)


@pytest.mark.parametrize("count", [50, 2000])
def test_metrics_cost_little(count: int) -> None:
    """
    In groups, as messages come under load.
    """
    metrics, fact = Metrics(topics=["orders"]), finished(count)
    assert microseconds(lambda: metrics.observe(fact), max(1, 4000 // count), count) < _METRICS_US


def test_tracing_costs_little_where_it_is_not_sampled() -> None:
    """
    Inside a request whose trace is not sampled: no span, and the context travels.
    """
    tracing = Tracing(tracer_provider=TracerProvider())
    token = context.attach(context_of({"traceparent": f"00-{'1' * 32}-{'2' * 16}-00"}) or context.Context())
    try:
        assert microseconds(lambda: tracing.before_send(Draft(TOPIC, b"x")), 3000) < _UNSAMPLED_US
    finally:
        context.detach(token)


def test_tracing_few_roots_costs_little() -> None:
    """
    Outside of any trace: no span, and a context of its own.
    """
    tracing = Tracing(tracer_provider=TracerProvider(), roots=0.0)
    assert microseconds(lambda: tracing.before_send(Draft(TOPIC, b"x")), 3000) < _UNSAMPLED_US


def test_without_observers_a_group_costs_a_look() -> None:
    """
    One look for a whole group, whatever its size: nothing for a message.
    """
    fact = finished(2000)
    with observed(FakeBroker()) as sender:
        hub = sender._started().observers
        assert microseconds(lambda: hub.delivered(TOPIC, fact.handles, 0), 3000) < 0.5
