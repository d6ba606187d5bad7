"""
What each step of the chain adds to the thread that sends, up to the acceptance, without a broker.

What a step costs later, because a message with more properties is longer, is in `pipeline`.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING

from benchmarks.case import Case, Goal, Kind, NotHereError, Sample
from benchmarks.measuring import nanoseconds_per_call
from safepulsar import ClientRegistry, Fate, RetryingSender
from safepulsar.observing import Finished
from safepulsar.testing import FakeBroker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from benchmarks.case import Contender, Scene
    from safepulsar.steps import Draft, Step

_NOTHING, _IDLE = "no step", "a step that does nothing"
_FLAT, _NESTED = "JSON of an order", "JSON of an order with lines"
_SEAL, _METRICS = "seal", "seal and metrics"
_OWN, _REQUEST = "traces, each its own", "traces, in a request"
_GROUP = 100  # that metrics are told of at once
# 200 bytes each.
_ORDER = {
    "number": 4711,
    "customer": "c-0815-2342",
    "placed": "2026-11-27T08:15:00Z",
    "article": "compact disc",
    "pieces": 3,
    "cents": 4497,
    "currency": "EUR",
    "street": "Bahnhofstrasse 12",
    "remark": "leave it at the door, or next door",
}
_ORDER_WITH_LINES = {
    "number": 4711,
    "customer": "c-0815-2342",
    "placed": "2026-11-27T08:15:00Z",
    "lines": [
        {"article": "compact disc", "pieces": 3, "cents": 4497},
        {"article": "vinyl", "pieces": 1, "cents": 2399},
    ],
    "remark": "leave it there",
}


class _Idle:
    def before_send(self, draft: Draft) -> Draft:
        return draft


@contextmanager
def steps(scene: Scene) -> Iterator[dict[str, Contender]]:
    """
    Messages are made ready for acceptance, and let go of. Nothing is sampled.
    """
    try:
        from opentelemetry import context, trace  # noqa: PLC0415 - extras that may be missing
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased  # noqa: PLC0415

        from safepulsar.integrity import Seal  # noqa: PLC0415
        from safepulsar.metrics import Metrics  # noqa: PLC0415
        from safepulsar.tracing import Tracing  # noqa: PLC0415

        seal = Seal()
    except ImportError as error:
        raise NotHereError(f"the chain needs a part that is missing: {error}") from error
    provider = TracerProvider(sampler=ParentBased(ALWAYS_OFF))
    request = trace.set_span_in_context(provider.get_tracer("bench").start_span("request"))
    broker = FakeBroker()
    topic = scene.topic("steps")
    with ExitStack() as opened:

        def ready(value: bytes | Mapping[str, object], *steps: Step) -> Callable[[], object]:
            registry = ClientRegistry(broker.connect)
            sender = opened.enter_context(RetryingSender(broker.url, registry=registry, steps=steps))
            sender.send(topic, b"x")
            rest: Sequence[None] = (None,) * 7
            return partial(sender._prepare, sender._started(), topic, value, *rest)  # noqa: SLF001 - what `submit` calls

        def sample(call: Callable[[], object], messages: int = 1) -> Sample:
            nanoseconds = nanoseconds_per_call(call, scene.effort.seconds) / messages
            return Sample(figures={"call_us": nanoseconds / 1000})

        def in_request(call: Callable[[], object]) -> Sample:
            context.attach(request)  # of the copied context, which ends with the call
            return sample(call)

        sealed, metrics = ready(scene.payload, seal), Metrics()
        sender = opened.enter_context(RetryingSender(broker.url, registry=ClientRegistry(broker.connect)))
        group = [sender.submit(topic, scene.payload) for _ in range(_GROUP)]
        sender.flush()
        fact = Finished(topic=group[0].topic, fate=Fate.DELIVERED, handles=group)

        def sealed_and_counted() -> None:
            for _ in group:
                sealed()
            metrics.observe(fact)

        traced = ready(scene.payload, Tracing(tracer_provider=provider))
        yield {
            _NOTHING: partial(sample, ready(scene.payload)),
            _IDLE: partial(sample, ready(scene.payload, _Idle())),
            _FLAT: partial(sample, ready(_ORDER)),
            _NESTED: partial(sample, ready(_ORDER_WITH_LINES)),
            _SEAL: partial(sample, sealed),
            _METRICS: partial(sample, sealed_and_counted, _GROUP),
            _OWN: partial(sample, traced),
            _REQUEST: lambda: copy_context().run(in_request, traced),
        }


def _added(name: str, more: str, at_most: float | None = None) -> Goal:
    return Goal(name=name, ours=more, against=(_NOTHING,), kind=Kind.DIFFERENCE, figure="call_us", at_most=at_most)


CASES = [
    Case(
        name="steps",
        title="added to the thread that sends",
        subject="steps",
        prepare=steps,
        goals=(
            _added("a step that does nothing", _IDLE),
            _added("JSON of an order of 200 bytes, by msgspec", _FLAT, at_most=1.0),
            _added("the same of one with lines", _NESTED),
            _added("a CRC32C seal", _SEAL),
            _added("a CRC32C seal and metrics", _METRICS, at_most=2.0),
            _added("traces that are not sampled, each its own", _OWN, at_most=6.0),
            _added("traces that are not sampled, in a request's", _REQUEST, at_most=6.0),
        ),
        sizes=(100,),
        needs_broker=False,
    ),
]
