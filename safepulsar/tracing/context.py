"""
Trace context as text in a message's properties, and back; the W3C's format, as the clients for Java and Go have it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from urllib.parse import quote_plus

try:
    from opentelemetry import baggage
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState, set_span_in_context
except ImportError as error:
    msg = "tracing needs the API of OpenTelemetry: pip install 'safepulsar[otel]'"
    raise ImportError(msg) from error

from safepulsar.request_headers import MAX_BAGGAGE_BYTES, malformed

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from opentelemetry.context import Context

TRACEPARENT: Final = "traceparent"
TRACESTATE: Final = "tracestate"
BAGGAGE: Final = "baggage"
_FLAGS: Final = tuple(f"-{flags:02x}" for flags in range(256))
_FORMAT: Final = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


def texts_of(span: SpanContext) -> tuple[str | None, str | None]:
    """
    The properties of a message that belongs to `span`, traceparent and tracestate; none if it is no valid one.
    """
    # The tuple that it is: each of its properties would cost a call.
    trace_id, span_id, _, flags, state, valid = span
    if not valid:
        return None, None
    # By the bytes: half the time of a format.
    text = f"00-{trace_id.to_bytes(16, 'big').hex()}-{span_id.to_bytes(8, 'big').hex()}{_FLAGS[flags]}"
    return text, state.to_header() if state else None


def parse(properties: Mapping[str, str] | None) -> SpanContext | None:
    """
    The span that a message's properties name; None if they name none, or what they have is malformed.
    """
    text = (properties or {}).get(TRACEPARENT)
    found = _FORMAT.fullmatch(text) if isinstance(text, str) else None
    if found is None or (found[4] is not None and found[0].startswith("00")):
        return None
    state = (properties or {}).get(TRACESTATE)
    return SpanContext(
        int(found[1], 16),
        int(found[2], 16),
        is_remote=True,
        trace_flags=TraceFlags(int(found[3], 16)),
        trace_state=TraceState.from_header([state]) if state else None,
    )


def context_with(span: SpanContext, base: Context | None = None) -> Context:
    """
    A context in which `span`, of another process, is the current one.
    """
    return set_span_in_context(NonRecordingSpan(span), base)


def baggage_text(names: Collection[str], context: Context | None = None) -> str | None:
    """
    The named entries of the current baggage as a property, as many from the first as fit into 8192 bytes.

    What is left out is counted, see `safepulsar.request_headers.malformed`.
    """
    parts: list[str] = []
    size = 0
    for name in names:
        value = baggage.get_baggage(name, context)
        if value is None:
            continue
        part = f"{name}={quote_plus(str(value))}"
        size += len(part) + 1
        if size > MAX_BAGGAGE_BYTES:
            malformed.count("baggage")
            break
        parts.append(part)
    return ",".join(parts) or None
