"""
What of a request travels with its messages: copied text and numbers, never the request.

    context = RequestContext.from_headers(request.headers, RequestContextSettings(baggage=("shop",)))
    with use_context(context):
        sender.send("orders", order)  # with traceparent, tracestate and baggage, inside the request's deadline

A sender writes it into its messages if `ContextStep` is among its steps; the adapters see to both.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from safepulsar.checks import check_key, check_properties
from safepulsar.errors import DeadlineExceeded, InvalidInput, shown
from safepulsar.request_headers import (
    MAX_BAGGAGE_BYTES,
    RequestContextSettings,
    allowed_baggage,
    baggage_text,
    deadline_of,
    header_text,
    is_traceparent,
    is_tracestate,
    malformed,
    new_traceparent,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextvars import Token

    from typing_extensions import Self

    from safepulsar.request_headers import Headers
    from safepulsar.steps import Draft


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestContext:
    """
    Copied values of one request.

    Args:
        traceparent: W3C trace context, version 00; its trace id goes into the store with a failed message.
        tracestate: of the same trace.
        baggage: the entries that may travel on.
        deadline: when the caller stops waiting, on the clock of `time.monotonic`; None for never.
        tenant: whose request it is.
        fields: properties of your own.

    Raises:
        InvalidInput: something is not text, or the baggage has over 8192 bytes.
    """

    traceparent: str | None = None
    tracestate: str | None = None
    baggage: Mapping[str, str] = field(default_factory=dict, hash=False)
    deadline: float | None = None
    tenant: str | None = None
    fields: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """
        Copy and check, so that nothing of the request is held.
        """
        if self.traceparent is not None and not is_traceparent(self.traceparent):
            raise InvalidInput("traceparent", "must be 00-<32 hex>-<16 hex>-<2 hex>, not all zeros, in lower case")
        if self.tracestate is not None and not is_tracestate(self.tracestate):
            raise InvalidInput("tracestate", "must be 1 to 512 printable ASCII characters")
        if self.tenant is not None:
            check_key("tenant", self.tenant)
        if self.deadline is not None and (
            isinstance(self.deadline, bool) or not isinstance(self.deadline, (int, float))
        ):
            raise InvalidInput("deadline", f"must be a time.monotonic() number, not {shown(self.deadline)}")
        if self.baggage != {}:
            object.__setattr__(self, "baggage", _frozen("baggage", self.baggage))
            size = len(baggage_text(self.baggage))
            if size > MAX_BAGGAGE_BYTES:
                problem = (
                    f"has {size} bytes, encoded; at most {MAX_BAGGAGE_BYTES} are allowed: send a reference instead"
                )
                raise InvalidInput("baggage", problem)
        if self.fields != {}:
            object.__setattr__(self, "fields", _frozen("fields", self.fields))

    @property
    def trace_id(self) -> str | None:
        """
        The 32 hexadecimal digits that name the trace.
        """
        return None if self.traceparent is None else self.traceparent[3:35]

    @classmethod
    def from_headers(cls, headers: Headers, settings: RequestContextSettings | None = None) -> Self:
        """
        Take from a request's headers what `settings` allow. Never raises for what a client sent.

        A traceparent that is missing or malformed is replaced by a new one. Baggage is cut to the allowed names, and
        left out from the entry on that would pass 8192 bytes; other values that no property can hold are left out. What
        was malformed is counted, see `malformed`.
        """
        settings = settings or RequestContextSettings()
        traceparent = headers.get("traceparent")
        tracestate = None
        if traceparent is not None and is_traceparent(traceparent):
            traceparent = f"00-{traceparent[3:55]}"  # of a later version, what this one knows of it
            tracestate = headers.get("tracestate")
            if tracestate is not None and not is_tracestate(tracestate):
                malformed.count("tracestate")
                tracestate = None
        else:
            if traceparent is not None:
                malformed.count("traceparent")
            traceparent = new_traceparent()
        fields = {}
        for name, header in settings.fields.items():
            value = header_text(name, headers.get(header))
            if value is not None:
                fields[name] = value
        # All of it is checked here, and every request pays for this: so not by `__init__`, which would check it again.
        context = cls.__new__(cls)
        put = object.__setattr__
        put(context, "traceparent", traceparent)
        put(context, "tracestate", tracestate)
        put(context, "baggage", allowed_baggage(headers.get("baggage"), settings.baggage) if settings.baggage else {})
        put(context, "deadline", deadline_of(headers, settings))
        tenant = header_text("tenant", headers.get(settings.tenant_header)) if settings.tenant_header else None
        put(context, "tenant", tenant)
        put(context, "fields", fields)
        return context

    def without_deadline(self) -> Self:
        """
        The same for work that goes on after the answer.
        """
        return replace(self, deadline=None)

    def seconds_left(self) -> float | None:
        """
        How long the caller still waits, below 0 if it is over; None if it does not say.
        """
        return None if self.deadline is None else self.deadline - time.monotonic()

    def __repr__(self) -> str:
        """
        Which request; no baggage, no tenant: they may be private.
        """
        return f"<RequestContext {self.trace_id}>"


_current: ContextVar[RequestContext | None] = ContextVar("safepulsar_request_context", default=None)


def current_context() -> RequestContext | None:
    """
    The context of the request that is served here, or None.
    """
    return _current.get()


def set_context(context: RequestContext | None) -> Token[RequestContext | None]:
    """
    As `use_context`, for those who can't have a block; give the token to `reset_context`.
    """
    return _current.set(context)


def reset_context(token: Token[RequestContext | None]) -> None:
    """
    Undo `set_context`, also where another context of the interpreter than then is the current one.
    """
    try:
        _current.reset(token)
    except ValueError:
        _current.set(None)


@contextmanager
def use_context(context: RequestContext | None) -> Iterator[None]:
    """
    Serve a request in this block: what is sent here, by this thread or coroutine, carries `context`.
    """
    token = set_context(context)
    try:
        yield
    finally:
        reset_context(token)


class ContextStep:
    """
    The step that writes the current context into each message. What the application set itself is left as it is.

    But for a malformed `traceparent`: it is replaced by the context's, and counted, see
    `safepulsar.request_headers.malformed`.

    Properties: `traceparent`, `tracestate`, `baggage`, `tenant`, and those of `fields`.

    Args:
        deadline_seconds: of the sender, for calls that name none: a request's remaining time only shortens it.
        bound_sends: see `RequestContextSettings`.
    """

    def __init__(self, *, deadline_seconds: float = 10.0, bound_sends: bool = True) -> None:
        self._deadline_seconds = deadline_seconds
        self._bound_sends = bound_sends

    def before_send(self, draft: Draft) -> Draft:
        """
        Write it.

        Raises:
            DeadlineExceeded: the request's time is over; nothing was sent.
        """
        context = _current.get()
        if context is None:
            return draft
        if self._bound_sends and context.deadline is not None:
            left = context.deadline - time.monotonic()
            if left <= 0:
                msg = f"the request's time is over; nothing was sent to {draft.topic!r}"
                raise DeadlineExceeded(msg)
            own = draft.deadline_seconds
            draft.deadline_seconds = min(left, self._deadline_seconds if own is None else own)
        given = draft.properties or {}
        if "traceparent" in given and context.traceparent is not None and not is_traceparent(given["traceparent"]):
            malformed.count("traceparent")
            given = {name: value for name, value in given.items() if name not in ("traceparent", "tracestate")}
        draft.properties = {**_properties(context, given), **given} or None
        draft.trace_id = draft.trace_id or context.trace_id
        return draft


def _properties(context: RequestContext, given: Mapping[str, str]) -> dict[str, str]:
    properties: dict[str, str] = {}
    if context.traceparent is not None and "traceparent" not in given:  # the state belongs to its parent
        properties["traceparent"] = context.traceparent
        if context.tracestate is not None:
            properties["tracestate"] = context.tracestate
    if context.baggage:
        properties["baggage"] = baggage_text(context.baggage)
    if context.tenant is not None:
        properties["tenant"] = context.tenant
    properties.update(context.fields)
    return properties


def _frozen(name: str, values: Mapping[str, str]) -> Mapping[str, str]:
    try:
        return check_properties(values)[0]
    except InvalidInput as error:
        raise InvalidInput(name, str(error).partition(": ")[2]) from error
