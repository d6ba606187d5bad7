"""
Each message has a span with the names of the semantic conventions, its context travels, and its fate ends it.
"""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest
from opentelemetry import baggage, context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from opentelemetry.semconv._incubating.attributes import messaging_attributes
from opentelemetry.semconv.attributes import error_attributes, server_attributes
from opentelemetry.semconv.schemas import Schemas
from opentelemetry.trace import SpanKind, StatusCode

from safepulsar.errors import InvalidMessage, InvalidSettings, QueueFull, SendFailed
from safepulsar.request_context import ContextStep, RequestContext, use_context
from safepulsar.request_headers import malformed
from safepulsar.settings import RetrySettings, WhenFull
from safepulsar.testing import FakeBroker, Phase
from safepulsar.tracing import Tracing, context_of, continue_trace, names
from tests.observability.observed import AT_ONCE, TOPIC, observed
from tests.subprocesses import run_script

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.sdk.trace import ReadableSpan

    from safepulsar.steps import Step

GIVEN = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Traced:
    """
    A provider that keeps its spans.
    """

    def __init__(self, **settings: object) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(**settings)  # type: ignore[arg-type]  # as the SDK's
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    @property
    def spans(self) -> Sequence[ReadableSpan]:
        """
        Those that have ended.
        """
        return self._exporter.get_finished_spans()


@pytest.fixture
def broker() -> FakeBroker:
    """
    One of its own for each test.
    """
    return FakeBroker()


@pytest.fixture
def traced() -> Traced:
    """
    Everything is sampled.
    """
    return Traced()


def attributes(span: ReadableSpan) -> dict[str, object]:
    """
    As a dict of their own.
    """
    return dict(span.attributes or {})


def traceparent(span: ReadableSpan) -> str:
    """
    What a message of this span carries.
    """
    assert span.context is not None
    return f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-{span.context.trace_flags:02x}"


def test_a_send_has_a_span_as_the_conventions_say(broker: FakeBroker, traced: Traced) -> None:
    """
    Its name, kind and attributes, from the call to the acknowledgement, below the current span; its context inside.
    """
    tracer = traced.provider.get_tracer("app")
    with (
        observed(broker, steps=[Tracing(tracer_provider=traced.provider)]) as sender,
        tracer.start_as_current_span("request") as request,
    ):
        result = sender.send("orders", b"x", partition_key="k")
    outer, span = sorted(traced.spans, key=lambda each: each.start_time or 0)
    assert (span.name, span.kind) == (f"send {TOPIC}", SpanKind.PRODUCER)
    assert attributes(span) == {
        "messaging.system": "pulsar",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": TOPIC,
        "messaging.message.id": str(result.message_id),
        "server.address": "fake",
        "server.port": 6650,
        "safepulsar.outcome": "DELIVERED",
        "safepulsar.attempt": 1,
    }
    assert span.parent == request.get_span_context() == outer.context
    assert span.status.status_code is StatusCode.OK
    assert span.start_time is not None
    assert span.end_time is not None
    assert (span.end_time - span.start_time) / 1e9 == pytest.approx(result.elapsed_seconds, abs=0.05)
    assert span.instrumentation_scope is not None
    assert span.instrumentation_scope.schema_url == names.SCHEMA == Schemas.V1_44_0.value
    (stored,) = broker.messages("orders")
    assert stored.properties == {"traceparent": traceparent(span)}


def test_one_topic_alone_may_be_traced(broker: FakeBroker, traced: Traced) -> None:
    """
    As a step of that topic; its spans say as much as any.
    """
    tracing = Tracing(tracer_provider=traced.provider)
    with observed(broker, topic_steps={"orders": [tracing]}) as sender:
        sender.send("orders", b"x")
        sender.send("others", b"x")
    (span,) = traced.spans
    assert attributes(span)["server.address"] == "fake"
    assert not broker.messages("others")[0].properties


def test_our_names_are_those_of_the_conventions() -> None:
    """
    Copied, so that their package is not needed; equal, and none that is deprecated.
    """
    for module in (messaging_attributes, error_attributes, server_attributes):
        for name, value in vars(module).items():
            here = name.removeprefix("MESSAGING_")
            if isinstance(value, str) and name.isupper() and hasattr(names, here):
                assert getattr(names, here) == value, name
    assert names.PULSAR == "pulsar"
    known = {
        value
        for module in (messaging_attributes, error_attributes, server_attributes)
        for value in vars(module).values()
        if isinstance(value, str)
    }
    ours = {value for name, value in vars(names).items() if name.isupper() and isinstance(value, str)}
    assert {value for value in ours if value.startswith(("messaging.", "error.", "server."))} <= known


def test_retries_are_events_and_a_failure_is_the_status(broker: FakeBroker, traced: Traced) -> None:
    """
    Each failed attempt that was made again, at its time, with its code; the last one is the error of the span.
    """
    retry = RetrySettings(max_retries=2, first_delay_seconds=0.01, jitter_seconds=0)
    with observed(broker, steps=[Tracing(tracer_provider=traced.provider)], retry=retry) as sender:
        broker.fail_next(2, "ProducerBusy", phase=Phase.CREATE)
        sender.send("orders", b"x")
        broker.fail_next(9, "ProducerBusy", phase=Phase.CREATE, topic="busy")
        with pytest.raises(SendFailed) as failed:
            sender.send("busy", b"x")
    good, bad = traced.spans
    for span in (good, bad):
        assert [event.name for event in span.events] == ["safepulsar.retry"] * 2
        first, second = (dict(event.attributes or {}) for event in span.events)
        assert first == {
            "safepulsar.attempt": 1,
            "error.type": "ProducerBusy",
            "safepulsar.maybe_stored": False,
            "safepulsar.delay_seconds": pytest.approx(0.01),
        }
        assert second["safepulsar.attempt"] == 2
        assert span.start_time is not None
        assert span.end_time is not None
        times = [span.start_time, *(event.timestamp for event in span.events), span.end_time]
        assert times == sorted(times)
    assert attributes(good)["safepulsar.attempt"] == 3
    assert bad.status.status_code is StatusCode.ERROR
    assert bad.status.description == attributes(bad)["error.type"] == "ProducerBusy"
    assert attributes(bad)["safepulsar.certainty"] == "NOT_STORED"
    assert attributes(bad)["safepulsar.failed_message_id"] == failed.value.failed_message_id


def test_a_context_that_was_set_is_left_alone(broker: FakeBroker, traced: Traced) -> None:
    """
    The message carries the application's own; the span links to it, and is none of its kind's context.
    """
    with observed(broker, steps=[Tracing(tracer_provider=traced.provider)]) as sender:
        handle = sender.submit("orders", b"x", properties={"traceparent": GIVEN, "tracestate": "a=b"})
        handle.result()
    (span,) = traced.spans
    (stored,) = broker.messages("orders")
    assert stored.properties == {"traceparent": GIVEN, "tracestate": "a=b"}
    assert span.kind is SpanKind.CLIENT
    (link,) = span.links
    assert f"{link.context.trace_id:032x}" == GIVEN[3:35]
    assert link.context.trace_state.get("a") == "b"
    assert handle.trace_id == GIVEN[3:35]


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "00",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01 ",
        "é" * 55,
    ],
)
def test_a_malformed_context_is_replaced_and_counted(broker: FakeBroker, traced: Traced, wrong: str) -> None:
    """
    With its tracestate, which belongs to it.
    """
    before = malformed.counts().get("traceparent", 0)
    with observed(broker, steps=[Tracing(tracer_provider=traced.provider)]) as sender:
        sender.send("orders", b"x", properties={"traceparent": wrong, "tracestate": "a=b", "mine": "1"})
    (span,) = traced.spans
    (stored,) = broker.messages("orders")
    assert stored.properties == {"traceparent": traceparent(span), "mine": "1"}
    assert malformed.counts()["traceparent"] == before + 1


def test_a_later_version_is_read_as_far_as_it_is_known(broker: FakeBroker, traced: Traced) -> None:
    """
    As the W3C asks: whatever it has more.
    """
    later = f"cc{GIVEN[2:]}-what-the-future-brings"
    with observed(broker, steps=[Tracing(tracer_provider=traced.provider)]) as sender:
        sender.send("orders", b"x", properties={"traceparent": later})
    assert broker.messages("orders")[0].properties == {"traceparent": later}
    assert context_of({"traceparent": later}) is not None


@pytest.mark.parametrize("tracing_first", [True, False])
def test_a_request_s_trace_goes_on(broker: FakeBroker, traced: Traced, *, tracing_first: bool) -> None:
    """
    Where no span is current the parent is the request's, in whatever order the two steps are given.
    """
    tracing = Tracing(tracer_provider=traced.provider)
    steps: list[Step] = [tracing, ContextStep()] if tracing_first else [ContextStep(), tracing]
    request = RequestContext(traceparent=GIVEN, tracestate="a=b")
    with observed(broker, steps=steps) as sender, use_context(request):
        sender.send("orders", b"x")
    (span,) = traced.spans
    assert span.context is not None
    assert f"{span.context.trace_id:032x}" == GIVEN[3:35]
    assert span.parent is not None
    assert f"{span.parent.span_id:016x}" == GIVEN[36:52]
    assert broker.messages("orders")[0].properties == {"traceparent": traceparent(span), "tracestate": "a=b"}


def test_a_request_that_is_not_sampled_has_no_span(broker: FakeBroker, traced: Traced) -> None:
    """
    Its trace travels all the same; `follow_parent=False` asks the sampler.
    """
    request = RequestContext(traceparent=f"{GIVEN[:-1]}0", tracestate="a=b")
    for follow in (True, False):
        tracing = Tracing(tracer_provider=traced.provider, follow_parent=follow)
        with observed(broker, steps=[tracing]) as sender, use_context(request):
            sender.send("orders", b"x")
    assert not traced.spans  # the SDK's own sampler follows the parent, too
    for message in broker.messages("orders"):
        assert (message.properties or {})["traceparent"][:36] == GIVEN[:36]
        assert (message.properties or {})["tracestate"] == "a=b"


def test_what_is_not_sampled_still_travels(broker: FakeBroker) -> None:
    """
    No span is made where the trace is not sampled, and the message says so to whoever receives it.
    """
    traced = Traced(sampler=ParentBased(ALWAYS_OFF))
    tracer = traced.provider.get_tracer("app")
    with observed(broker, steps=[Tracing(tracer_provider=traced.provider)]) as sender:
        with tracer.start_as_current_span("request") as request:
            handle = sender.submit("orders", b"x")
            handle.result()
        sender.send("roots", b"x")
    assert not traced.spans
    ours = request.get_span_context()
    carried = f"00-{ours.trace_id:032x}-{ours.span_id:016x}-{ours.trace_flags:02x}"
    assert not ours.trace_flags & 1
    assert broker.messages("orders")[0].properties == {"traceparent": carried}
    assert handle.trace_id == carried[3:35]
    flags = (broker.messages("roots")[0].properties or {})["traceparent"][-2:]
    assert not int(flags, 16) & 1


def test_a_sampler_of_ones_own_may_be_asked_each_time(broker: FakeBroker, traced: Traced) -> None:
    """
    `follow_parent=False`: also inside a trace that is not sampled.
    """
    request = context_of({"traceparent": GIVEN[:-1] + "0"})
    token = context.attach(request or context.Context())
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON  # noqa: PLC0415 - for this test alone

    provider = Traced(sampler=ALWAYS_ON)
    try:
        for follow in (True, False):
            with observed(broker, steps=[Tracing(tracer_provider=provider.provider, follow_parent=follow)]) as sender:
                sender.send("orders", b"x")
    finally:
        context.detach(token)
    assert len(provider.spans) == 1
    assert not traced.spans


def test_few_roots_may_begin_a_trace(broker: FakeBroker, traced: Traced) -> None:
    """
    The others carry one that is not sampled, each its own; what belongs to a trace is not concerned.
    """
    tracer = traced.provider.get_tracer("app")
    with observed(broker, steps=[Tracing(tracer_provider=traced.provider, roots=0.0)]) as sender:
        handles = [sender.submit("orders", b"x") for _ in range(100)]
        with tracer.start_as_current_span("request"):
            sender.send("orders", b"x")
    assert len({handle.trace_id for handle in handles}) == 100
    assert {span.name for span in traced.spans} == {"request", f"send {TOPIC}"}
    carried = [(message.properties or {})["traceparent"] for message in broker.messages("orders")]
    assert all(context_of({"traceparent": text}) is not None for text in carried)
    assert sum(text.endswith("-00") for text in carried) == 100
    with observed(broker, steps=[Tracing(tracer_provider=traced.provider, roots=0.5)]) as sender:
        sender.send_many("halves", [b"x"] * 400)
    begun = sum(span.name == "create persistent://public/default/halves" for span in traced.spans)
    assert 120 < begun < 280


@pytest.mark.parametrize("roots", [-0.1, 1.1, float("nan"), "1", True])
def test_a_share_is_a_share(roots: object) -> None:
    """
    From none to all.
    """
    with pytest.raises(InvalidSettings, match=r"Tracing\.roots"):
        Tracing(roots=roots)  # type: ignore[arg-type]  # that is the test


def test_many_in_one_call_have_one_send_that_links_to_each(broker: FakeBroker, traced: Traced) -> None:
    """
    A `create` for each message, which carries it, and one `send` for the call, with its count.
    """
    with observed(broker, steps=[Tracing(tracer_provider=traced.provider)]) as sender:
        sender.send_many("orders", [b"x"] * 3)
        sender.send("orders", b"alone")
    created = [span for span in traced.spans if span.name == f"create {TOPIC}"]
    sent = [span for span in traced.spans if span.name == f"send {TOPIC}"]
    (many,) = (span for span in sent if span.kind is SpanKind.CLIENT)
    (alone,) = (span for span in sent if span.kind is SpanKind.PRODUCER)
    assert {span.kind for span in created} == {SpanKind.PRODUCER}
    assert {attributes(span)["messaging.operation.type"] for span in created} == {"create"}
    assert [link.context for link in many.links] == [
        span.context for span in sorted(created, key=lambda s: s.start_time or 0)
    ]
    assert attributes(many)["messaging.batch.message_count"] == attributes(many)["safepulsar.outcome.delivered"] == 3
    assert "messaging.batch.message_count" not in attributes(alone)
    stored = {(message.properties or {})["traceparent"] for message in broker.messages("orders")}
    assert stored == {traceparent(span) for span in (*created, alone)}


def test_create_spans_can_be_left_out(broker: FakeBroker, traced: Traced) -> None:
    """
    Then all messages of a call carry the context of its one span; and one that fails is its error.
    """
    with observed(
        broker, steps=[Tracing(tracer_provider=traced.provider, create_spans=False)], retry=AT_ONCE
    ) as sender:
        broker.fail_next(9, "TopicTerminated", phase=Phase.CREATE)
        report = sender.send_many("orders", [b"x"] * 3)
        broker.forget_faults()
        sender.send_many("orders", [b"x"] * 2)
    assert report.failed == 3
    bad, good = traced.spans
    assert (bad.kind, bad.status.status_code) == (SpanKind.PRODUCER, StatusCode.ERROR)
    assert good.status.status_code is StatusCode.OK
    assert {(m.properties or {})["traceparent"] for m in broker.messages("orders")} == {traceparent(good)}


def test_a_call_that_raises_leaves_no_batch_behind(broker: FakeBroker, traced: Traced) -> None:
    """
    What is sent afterwards in the same thread is a `send` of its own.
    """
    with observed(broker, steps=[Tracing(tracer_provider=traced.provider)]) as sender:
        with pytest.raises(InvalidMessage):
            sender.send_many("orders", [b"x", object()])  # type: ignore[list-item]  # that is the test
        sender.send("orders", b"x")
    last = traced.spans[-1]
    assert (last.name, last.kind) == (f"send {TOPIC}", SpanKind.PRODUCER)


def test_the_span_of_a_refused_message_ends_with_it(broker: FakeBroker, traced: Traced) -> None:
    """
    Refused for what it is, by a full sender, or by a later step: no span stays open for ever.
    """
    with observed(
        broker,
        steps=[Tracing(tracer_provider=traced.provider)],
        max_in_flight_messages=1,
        when_full=WhenFull.RAISE,
    ) as sender:
        with pytest.raises(InvalidMessage):
            sender.send("orders", b"x", sequence_id=-1)
        broker.hold()
        sender.submit("orders", b"x")
        with pytest.raises(QueueFull):
            sender.submit("orders", b"x")
        gc.collect()
        refused = list(traced.spans)
        broker.release()
    assert [attributes(span)["error.type"] for span in refused] == ["refused", "refused"]
    assert all(span.status.status_code is StatusCode.ERROR for span in refused)
    assert len(traced.spans) == 3


def test_the_span_of_a_cancelled_message_is_no_error(broker: FakeBroker, traced: Traced) -> None:
    """
    It ends with the message, and says so.
    """
    with observed(broker, steps=[Tracing(tracer_provider=traced.provider)]) as sender:
        broker.freeze()
        while not sender.submit("orders", b"x").cancel():
            pass
        broker.thaw()
    (span,) = (each for each in traced.spans if attributes(each)["safepulsar.outcome"] == "CANCELLED")
    assert span.status.status_code is StatusCode.UNSET
    assert "error.type" not in attributes(span)


def test_named_baggage_travels_up_to_its_limit(broker: FakeBroker, traced: Traced) -> None:
    """
    Nothing unless it is named; what would pass 8192 bytes is left out and counted; what the application set stays.
    """
    token = context.attach(
        baggage.set_baggage("big", "x" * 8100, baggage.set_baggage("tenant", "é 1", baggage.set_baggage("user", "me")))
    )
    before = malformed.counts().get("baggage", 0)
    try:
        for names_of, own in (
            ((), {}),
            (("tenant", "nobody"), {}),
            (("tenant", "big", "user"), {}),
            (("user",), {"baggage": "mine=1"}),
        ):
            with observed(broker, steps=[Tracing(tracer_provider=traced.provider, baggage=names_of)]) as sender:
                sender.send("orders", b"x", properties=own)
    finally:
        context.detach(token)
    carried = [(message.properties or {}).get("baggage") for message in broker.messages("orders")]
    assert carried[0] is None
    assert carried[1] == "tenant=%C3%A9+1"
    assert carried[2] is not None
    assert carried[2].startswith("tenant=%C3%A9+1,big=")
    assert "user=" not in carried[2] or len(carried[2]) <= 8192
    assert carried[3] == "mine=1"
    assert malformed.counts().get("baggage", 0) == before + ("user=" not in carried[2])


@pytest.mark.parametrize("wrong", ["tenant", [1], [""]])
def test_names_of_baggage_are_checked(wrong: object) -> None:
    """
    When they are given.
    """
    with pytest.raises(InvalidSettings, match=r"Tracing\.baggage"):
        Tracing(baggage=wrong)  # type: ignore[arg-type]  # that is the test


def test_a_receiver_continues_the_trace(broker: FakeBroker, traced: Traced) -> None:
    """
    As a span of its own: below the sender's where no span is current, else linked to it; with what the block raised.
    """
    with observed(broker, steps=[Tracing(tracer_provider=traced.provider)]) as sender:
        sender.send("orders", b"x")
    (sent,) = traced.spans
    (message,) = broker.messages("orders")
    with continue_trace(message, topic=TOPIC, subscription="billing", tracer_provider=traced.provider):
        pass
    tracer = traced.provider.get_tracer("app")
    with (
        tracer.start_as_current_span("batch") as batch,
        pytest.raises(ZeroDivisionError),
        continue_trace(message, topic=TOPIC, tracer_provider=traced.provider),
    ):
        raise ZeroDivisionError
    with continue_trace({"traceparent": "rubbish"}, topic=TOPIC, tracer_provider=traced.provider):
        pass
    first, second, _, third = traced.spans[1:]
    assert (first.name, first.kind) == (f"process {TOPIC}", SpanKind.CONSUMER)
    assert first.parent is not None
    assert sent.context is not None
    assert (first.parent.trace_id, first.parent.span_id) == (sent.context.trace_id, sent.context.span_id)
    assert attributes(first)["messaging.destination.subscription.name"] == "billing"
    assert attributes(first)["messaging.operation.type"] == "process"
    assert second.parent == batch.get_span_context()
    assert [link.context.span_id for link in second.links] == [sent.context.span_id]
    assert (second.status.status_code, attributes(second)["error.type"]) == (StatusCode.ERROR, "ZeroDivisionError")
    assert third.parent is None
    assert not third.links


def test_without_an_sdk_the_parent_s_context_travels(broker: FakeBroker) -> None:
    """
    The API alone makes no spans: what is current goes on, and where nothing is, nothing is put into the message.
    """
    token = context.attach(context_of({"traceparent": GIVEN}) or context.Context())
    try:
        with observed(broker, steps=[Tracing()]) as sender:
            sender.send("orders", b"x")
    finally:
        context.detach(token)
    with observed(broker, steps=[Tracing()]) as sender:
        sender.send("orders", b"x")
    first, second = broker.messages("orders")
    assert (first.properties, second.properties) == ({"traceparent": GIVEN}, {})


def test_without_opentelemetry_the_extra_is_named() -> None:
    """
    What to install is said.
    """
    result = run_script(
        "import sys; sys.modules['opentelemetry'] = None; import safepulsar.tracing", timeout_seconds=30
    )
    result.check(1)
    assert "pip install 'safepulsar[otel]'" in result.stderr
