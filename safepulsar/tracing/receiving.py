"""
The other end: what a receiver does for a message goes on in the trace of the one that sent it.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from safepulsar.tracing import names
from safepulsar.tracing.context import context_with, parse

# Behind our own, which says what is missing if it is.
from opentelemetry.trace import (  # isort: skip
    Link,
    SpanKind,
    get_current_span,
    get_tracer_provider,
    use_span,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.context import Context
    from opentelemetry.trace import Span, TracerProvider


def context_of(message: object) -> Context | None:
    """
    The context that a message carries, None if it carries none.

    Args:
        message: its properties, or anything that has them as `properties`, such as what a consumer receives.
    """
    span = parse(_properties(message))
    return None if span is None else context_with(span)


@contextmanager
def continue_trace(
    message: object,
    *,
    topic: str | None = None,
    subscription: str | None = None,
    tracer_provider: TracerProvider | None = None,
) -> Iterator[Span]:
    """
    A span `process {topic}` around this block, which is the current one in it and continues the message's trace.

        with continue_trace(message, subscription="billing"):
            handle(message)

    Inside a span that is current already it belongs to that one, and links to the message's. What the block raises is
    recorded and raised.

    Args:
        message: as for `context_of`.
        topic: its own by default, if it says so (`topic_name()` or `topic`).
        subscription: the name of the consumer's.
        tracer_provider: the application's own by default.
    """
    sent = parse(_properties(message))
    topic = topic or _text(message, "topic_name") or _text(message, "topic") or "(anonymous)"
    attributes = {
        names.SYSTEM: names.PULSAR,
        names.OPERATION_NAME: "process",
        names.OPERATION_TYPE: "process",
        names.DESTINATION_NAME: topic,
    }
    if subscription is not None:
        attributes[names.DESTINATION_SUBSCRIPTION_NAME] = subscription
    message_id = getattr(message, "message_id", None)
    if message_id is not None:
        attributes[names.MESSAGE_ID] = str(message_id() if callable(message_id) else message_id)
    inside = get_current_span().get_span_context().is_valid
    tracer = (tracer_provider or get_tracer_provider()).get_tracer("safepulsar", schema_url=names.SCHEMA)
    span = tracer.start_span(
        f"process {topic}",
        context_with(sent) if sent is not None and not inside else None,
        SpanKind.CONSUMER,
        attributes,
        None if sent is None else [Link(sent)],
    )
    with use_span(span, end_on_exit=True):
        try:
            yield span
        except BaseException as error:
            span.set_attribute(names.ERROR_TYPE, type(error).__name__)
            raise


def _properties(message: object) -> Mapping[str, str] | None:
    found = message if isinstance(message, Mapping) else getattr(message, "properties", None)
    if callable(found):
        found = found()
    return found if isinstance(found, Mapping) else None


def _text(message: object, name: str) -> str | None:
    found = getattr(message, name, None)
    if callable(found):
        found = found()
    return found if isinstance(found, str) else None
