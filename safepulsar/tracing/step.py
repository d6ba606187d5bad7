"""
The step that gives each message a span, and the observer that ends it with the message's fate: the same object.
"""

from __future__ import annotations

import os
import time
from contextvars import ContextVar
from random import getrandbits, random  # ids of traces, no secrets
from typing import TYPE_CHECKING, Final

from safepulsar.errors import InvalidSettings
from safepulsar.message import Fate
from safepulsar.observing import Cancelled, Finished, outcome_of
from safepulsar.request_context import current_context
from safepulsar.request_headers import malformed
from safepulsar.settings.base import check_number
from safepulsar.tracing import names
from safepulsar.tracing.context import (
    BAGGAGE,
    TRACEPARENT,
    TRACESTATE,
    baggage_text,
    context_with,
    parse,
    texts_of,
)

# Behind our own, which says what is missing if it is.
from opentelemetry.context import get_current  # isort: skip
from opentelemetry.trace import (  # isort: skip
    INVALID_SPAN_CONTEXT,
    Link,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    get_current_span,
    get_tracer_provider,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer, TracerProvider

    from safepulsar.books.handle import SendHandle
    from safepulsar.observing import Fact
    from safepulsar.request_context import RequestContext
    from safepulsar.sender import RetryingSender
    from safepulsar.sending.bulk import SendReport
    from safepulsar.steps import Draft

_MOST_TOPICS: Final = 10_000  # of which the span's name and attributes are kept
_OK: Final = Status(StatusCode.OK)
# An enum's attribute costs more than a name.
_PRODUCER: Final = SpanKind.PRODUCER
_CLIENT: Final = SpanKind.CLIENT
# The `send` span of the `send_many` that is going on here, if it wants each message to have one of its own.
_batch: ContextVar[Span | None] = ContextVar("safepulsar_batch", default=None)


class Tracing:
    """
    A span `send {topic}` for each message, from the call to its fate, and its context in the message's properties.

    Retries are events of the span, the fate is its status. A context that the application has set itself in the
    properties `traceparent` and `tracestate` is left as it is, and linked to; a malformed one is replaced and counted
    (`safepulsar.request_headers.malformed`).

    Where no span is current, the trace of the request that is served here goes on (`RequestContext`).

    Args:
        tracer_provider: the application's own by default.
        baggage: names of the entries of the current baggage that travel on, as many as fit into 8192 bytes.
        create_spans: whether each message of a `send_many` has a span `create {topic}`, which the one span of the call
            links to; if not, all of them carry the context of that span.
        follow_parent: whether a message sent inside a trace that is not sampled has no span, which costs least; False
            asks the sampler each time.
        roots: the share of the messages outside of any trace that begin one, from 0 to 1; all others carry a trace that
            is not sampled. That costs a fifth of asking the sampler, which has its say about the rest.

    Raises:
        InvalidSettings: an argument has the wrong kind or is out of bounds.
    """

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        baggage: Sequence[str] = (),
        create_spans: bool = True,
        follow_parent: bool = True,
        roots: float = 1.0,
    ) -> None:
        self._provider = tracer_provider
        self._tracer: Tracer | None = None
        if isinstance(baggage, str) or not all(isinstance(name, str) and name for name in baggage):
            raise InvalidSettings("Tracing.baggage", "must be a sequence of names of entries")
        self._baggage = tuple(baggage)
        self._create_spans = create_spans
        self._follow_parent = follow_parent
        check_number("Tracing", "roots", roots, 0, 1)
        self._roots = roots
        self._server: dict[str, str | int] = {}
        self._topics: dict[str, tuple[str, str, dict[str, str | int]]] = {}

    def watch(self, sender: RetryingSender) -> None:
        """
        Tell spans where the sender sends to.
        """
        host, _, port = sender.client_settings.url.partition("://")[2].partition(",")[0].rstrip("/").rpartition(":")
        if host and port.isdigit():
            self._server = {names.SERVER_ADDRESS: host.strip("[]"), names.SERVER_PORT: int(port)}

    # -- a message comes -------------------------------------------------------------------------------------

    def before_send(self, draft: Draft) -> Draft:
        """
        Begin its span, and put the span's context into its properties.
        """
        properties = draft.properties
        given = None if properties is None or TRACEPARENT not in properties else self._given(properties)
        text, state = self._context(draft, given)
        if given is not None:
            draft.trace_id = f"{given.trace_id:032x}"
        elif text is not None:
            if properties is None:
                draft.properties = properties = {}
            properties[TRACEPARENT] = text
            if state:
                properties[TRACESTATE] = state
            draft.trace_id = text[3:35]
        if self._baggage and BAGGAGE not in (draft.properties or ()):
            value = baggage_text(self._baggage)
            if value is not None:
                draft.set_property(BAGGAGE, value)
        return draft

    def _context(self, draft: Draft, given: SpanContext | None) -> tuple[str | None, str | None]:  # noqa: PLR0911 - one for each way
        """
        The context that the message carries, as traceparent and tracestate; its span, if it has one, has begun.
        """
        batch = _batch.get()
        if batch is not None and not self._create_spans:
            return texts_of(batch.get_span_context())
        # Looked up once, and named wherever it is asked for. Outside of any request it is empty: then it has no span.
        context = get_current()
        ambient = get_current_span(context).get_span_context() if context else INVALID_SPAN_CONTEXT
        if ambient.is_valid:
            if self._follow_parent and not ambient.trace_flags & 1:
                return texts_of(ambient)
            return texts_of(self._begin(draft, context, given, batch))
        request = current_context()
        if request is not None and request.traceparent is not None:
            if self._follow_parent and not int(request.traceparent[-2:], 16) & 1:
                return request.traceparent, request.tracestate
            return texts_of(self._begin(draft, _parent(request) or context, given, batch))
        if self._roots < 1 and random() >= self._roots:  # noqa: S311 - as said
            # A trace that begins with this message, and that nobody records.
            return f"00-{getrandbits(128) | 1:032x}-{getrandbits(64) | 1:016x}-00", None
        return texts_of(self._begin(draft, context, given, batch))

    @staticmethod
    def _given(properties: dict[str, str]) -> SpanContext | None:
        """
        The context that the application has set itself; what is no context is taken out.
        """
        request = current_context()
        if request is None or properties[TRACEPARENT] != request.traceparent:  # that is `ContextStep`'s, not the user's
            given = parse(properties)
            if given is not None:
                return given
            malformed.count(TRACEPARENT)
        del properties[TRACEPARENT]
        properties.pop(TRACESTATE, None)
        return None

    def _begin(self, draft: Draft, parent: Context, given: SpanContext | None, batch: Span | None) -> SpanContext:
        send, create, attributes = self._topics.get(draft.topic) or self._of(draft.topic)
        if batch is not None:
            name, kind = create, _PRODUCER
            attributes = {**attributes, names.OPERATION_NAME: "create", names.OPERATION_TYPE: "create"}
        else:
            name, kind = send, _PRODUCER if given is None else _CLIENT
        links = None if given is None else [Link(given)]
        span = (self._tracer or self._started()).start_span(name, parent, kind, attributes, links)
        context = span.get_span_context()
        if span.is_recording():
            draft.span = _OpenSpan(span)
            if batch is not None:
                batch.add_link(context)
        return context

    def _of(self, topic: str) -> tuple[str, str, dict[str, str | int]]:
        if len(self._topics) >= _MOST_TOPICS:
            self._topics.clear()
        attributes: dict[str, str | int] = {
            names.SYSTEM: names.PULSAR,
            names.OPERATION_NAME: "send",
            names.OPERATION_TYPE: "send",
            names.DESTINATION_NAME: topic,
            **self._server,
        }
        made = self._topics[topic] = f"send {topic}", f"create {topic}", attributes
        return made

    def _started(self) -> Tracer:
        # At the first message, because an application may set its provider after it has made its sender.
        if self._tracer is None:
            provider = self._provider or get_tracer_provider()
            self._tracer = provider.get_tracer("safepulsar", schema_url=names.SCHEMA)
        return self._tracer

    # -- many messages in one call ---------------------------------------------------------------------------

    def begin_many(self, topic: str) -> Callable[[SendReport | None], None]:
        """
        Begin the span of a `send_many`, and return what ends it with its report.
        """
        name, _, attributes = self._topics.get(topic) or self._of(topic)
        parent = None if get_current_span().get_span_context().is_valid else _parent(current_context())
        kind = _CLIENT if self._create_spans else _PRODUCER
        span = self._started().start_span(name, parent, kind, attributes)
        token = _batch.set(span)

        def end(report: SendReport | None) -> None:
            _batch.reset(token)
            if report is not None:
                span.set_attribute(names.BATCH_MESSAGE_COUNT, report.read)
                for fate in ("delivered", "duplicate", "failed"):
                    span.set_attribute(f"{names.OUTCOME}.{fate}", getattr(report, fate))
            failed = report is None or report.failed
            span.set_status(Status(StatusCode.ERROR, "not all were delivered") if failed else _OK)
            span.end()

        return end

    # -- what became of it -----------------------------------------------------------------------------------

    def observe(self, fact: Fact) -> None:
        """
        End the spans of messages that got their fate.
        """
        if isinstance(fact, Finished):
            for handle in fact.handles:
                if handle.span is not None:
                    opened, handle.span = handle.span, None
                    if isinstance(opened, _OpenSpan):
                        opened.end(handle)
        elif isinstance(fact, Cancelled):
            opened, fact.handle.span = fact.handle.span, None
            if isinstance(opened, _OpenSpan):
                opened.cancel()


class _OpenSpan:
    """
    The span of a message that has no fate yet. A message that is refused never gets one: then its span ends with it.
    """

    __slots__ = ("_process", "_span")

    def __init__(self, span: Span) -> None:
        self._span: Span | None = span
        self._process = os.getpid()

    def end(self, handle: SendHandle) -> None:
        """
        Say what became of it.
        """
        span, self._span = self._span, None
        if span is None:
            return
        outcome = outcome_of(handle)
        failed = outcome.fate is Fate.FAILED
        retried = outcome.attempts[: outcome.attempt_count - 1] if failed else outcome.attempts
        for number, attempt in enumerate(retried, start=1):
            fields: dict[str, str | int | float | bool] = {
                names.ATTEMPT: number,
                names.ERROR_TYPE: attempt.code,
                names.MAYBE_STORED: attempt.maybe_stored,
            }
            if attempt.delay_seconds is not None:
                fields[names.DELAY_SECONDS] = attempt.delay_seconds
            span.add_event(names.RETRY_EVENT, fields, _nanoseconds(attempt.started_at + attempt.elapsed_seconds))
        span.set_attribute(names.OUTCOME, outcome.fate.value)
        span.set_attribute(names.ATTEMPT, outcome.attempt_count)
        if outcome.message_id is not None:
            span.set_attribute(names.MESSAGE_ID, str(outcome.message_id))
            if outcome.message_id.partition >= 0:
                span.set_attribute(names.DESTINATION_PARTITION_ID, str(outcome.message_id.partition))
        if outcome.certainty is not None:
            span.set_attribute(names.ERROR_TYPE, outcome.error_code)
            span.set_attribute(names.CERTAINTY, outcome.certainty.value)
            if outcome.failed_message_id is not None:
                span.set_attribute(names.FAILED_MESSAGE_ID, outcome.failed_message_id)
        span.set_status(Status(StatusCode.ERROR, outcome.error_code) if failed else _OK)
        span.end(_nanoseconds(time.time() - (time.monotonic() - outcome.finished_at)))

    def cancel(self) -> None:
        """
        Say that the application took it back, which is no error.
        """
        span, self._span = self._span, None
        if span is not None:
            span.set_attribute(names.OUTCOME, "CANCELLED")
            span.end()

    def __del__(self) -> None:
        span, self._span = self._span, None
        if span is not None and self._process == os.getpid():  # a forked child leaves the parent's alone
            span.set_attribute(names.ERROR_TYPE, "refused")
            span.set_status(Status(StatusCode.ERROR, "not accepted"))
            span.end()


def _parent(request: RequestContext | None) -> Context | None:
    """
    The trace of the request that is served here.
    """
    if request is None or request.traceparent is None:
        return None
    properties = {TRACEPARENT: request.traceparent}
    if request.tracestate is not None:
        properties[TRACESTATE] = request.tracestate
    span = parse(properties)
    return None if span is None else context_with(span)


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
