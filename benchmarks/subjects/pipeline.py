"""
The whole chain: a CRC32C seal, Prometheus metrics and traces of which 1 % are sampled, beside the raw client without any.
"""

from __future__ import annotations

import itertools
from contextlib import ExitStack, contextmanager
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING

from benchmarks import ours, raw
from benchmarks.case import Case, Goal, Kind, NotHereError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from opentelemetry.sdk.trace import TracerProvider

    from benchmarks.case import Contender, Sample, Scene
    from safepulsar import RetryingSender
    from safepulsar.observing import Observer
    from safepulsar.steps import Step

_RAW = "raw send_async, batched"
_NOTHING, _SEAL, _METRICS = "safepulsar, empty chain", "safepulsar, seal", "safepulsar, seal and metrics"
_OWN, _REQUESTS = "safepulsar, all, each message a trace", "safepulsar, all, in requests"
_SAMPLED = 0.01
_IN_A_REQUEST = 10


@contextmanager
def chain(scene: Scene) -> Iterator[dict[str, Contender]]:
    """
    Senders with more and more in their chain; each sends without a key.
    """
    count = scene.effort.messages
    seal, metrics, tracing, provider = _parts()
    with ExitStack() as opened:
        client = opened.enter_context(raw.client(scene.url))
        to = opened.enter_context(raw.producer(client, scene.topic("raw")))
        contenders: dict[str, Contender] = {_RAW: lambda: raw.send_async(to, scene.payload, count)}
        for name, steps, observers in (
            (_NOTHING, [], []),
            (_SEAL, [seal], []),
            (_METRICS, [seal], [metrics()]),
            (_OWN, [seal, tracing()], [metrics()]),
            (_REQUESTS, [seal, tracing()], [metrics()]),
        ):
            sender = opened.enter_context(ours.sender(scene, steps=steps, observers=observers))
            call: Callable[[], object] = partial(sender.submit, scene.topic("ours"), scene.payload)
            contenders[name] = partial(ours.submit, sender, count, call)
            if name == _REQUESTS:
                contenders[name] = partial(_submit_in_requests, provider, sender, count, call)
        yield contenders


def _parts() -> tuple[Step, Callable[[], Observer], Callable[[], Step], TracerProvider]:
    """
    A seal, what makes metrics that Prometheus could read, what makes tracing, and whose tracer.
    """
    try:
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415 - extras that may be missing
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased  # noqa: PLC0415
        from prometheus_client import CollectorRegistry  # noqa: PLC0415

        from safepulsar.integrity import Seal, SealKind  # noqa: PLC0415
        from safepulsar.metrics import Metrics  # noqa: PLC0415
        from safepulsar.metrics.prometheus import export  # noqa: PLC0415
        from safepulsar.tracing import Tracing  # noqa: PLC0415

        seal = Seal(SealKind.CRC32C)
    except ImportError as error:
        raise NotHereError(f"the chain needs a part that is missing: {error}") from error
    provider = TracerProvider(sampler=ParentBased(TraceIdRatioBased(_SAMPLED)))

    def metrics() -> Observer:
        made = Metrics()
        export(made, CollectorRegistry())
        return made

    return seal, metrics, partial(Tracing, tracer_provider=provider), provider


def _submit_in_requests(
    provider: TracerProvider, sender: RetryingSender, count: int, call: Callable[[], object]
) -> Sample:
    """
    Have `call` made as a service makes it: within a span of its request, of which 1 % are sampled, a few in each.
    """
    from opentelemetry import context, trace  # noqa: PLC0415 - an extra

    tracer = provider.get_tracer("bench")
    turns = itertools.count()
    token: object = None

    def in_request() -> None:
        nonlocal token
        if not next(turns) % _IN_A_REQUEST:
            if token is not None:
                context.detach(token)  # type: ignore[arg-type]
            token = context.attach(trace.set_span_in_context(tracer.start_span("request")))
        call()

    # The last request is open when this returns; whatever runs afterwards is none of its spans.
    return copy_context().run(ours.submit, sender, count, in_request)


CASES = [
    Case(
        name="pipeline",
        title="submit with seal, metrics and traces",
        subject="pipeline",
        prepare=chain,
        goals=(
            Goal(name="empty chain", ours=_NOTHING, against=("raw",)),
            Goal(name="seal", ours=_SEAL, against=("raw",)),
            Goal(name="seal, metrics", ours=_METRICS, against=("raw",)),
            Goal(name="all, each message a trace, 1 % sampled", ours=_OWN, against=("raw",), at_least=1.3),
            Goal(name="all, in requests, 1 % sampled", ours=_REQUESTS, against=("raw",), at_least=1.3),
            *(
                Goal(name=f"CPU added by {what}", ours=more, against=(less,), kind=Kind.DIFFERENCE, figure="cpu_us")
                for what, more, less in (
                    ("the seal", _SEAL, _NOTHING),
                    ("metrics", _METRICS, _SEAL),
                    ("traces, each its own", _OWN, _METRICS),
                )
            ),
        ),
    )
]
