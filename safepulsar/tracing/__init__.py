"""
OpenTelemetry traces (extra `otel`; of OpenTelemetry the API alone): one span for each message, and its context inside.

    sender = RetryingSender(url, steps=[Tracing()])

Without OpenTelemetry the context of a request travels all the same: see `safepulsar.request_context.ContextStep`.
"""

from safepulsar.tracing.receiving import context_of, continue_trace
from safepulsar.tracing.step import Tracing

__all__ = ["Tracing", "context_of", "continue_trace"]
