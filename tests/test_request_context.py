"""
What of a request travels: copied, allowed, well-formed, and bounded by the time that its caller still waits.
"""

from __future__ import annotations

import gc
import math
import pickle
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from safepulsar.broker.client_registry import ClientRegistry
from safepulsar.broker.outcomes import Phase
from safepulsar.errors import DeadlineExceeded, InvalidInput, InvalidSettings, SendFailed
from safepulsar.failed_messages import EVERYTHING, InMemoryFailedMessages
from safepulsar.request_context import (
    ContextStep,
    RequestContext,
    current_context,
    reset_context,
    set_context,
    use_context,
)
from safepulsar.request_headers import MAX_BAGGAGE_BYTES, RequestContextSettings, malformed, new_traceparent
from safepulsar.sender import RetryingSender
from safepulsar.settings import SenderSettings
from safepulsar.steps import Draft
from safepulsar.testing import FakeBroker

if TYPE_CHECKING:
    from collections.abc import Iterator

_PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
_TRACE = "0af7651916cd43dd8448eb211c80319c"


class _Headers(dict[str, str]):
    """
    Headers whose names have any case, as those of a framework.
    """

    def get(self, name: str, /, _default: object = None) -> str | None:  # type: ignore[override]
        return super().get(name.lower())


@pytest.fixture
def broker() -> FakeBroker:
    """
    A fake broker.
    """
    return FakeBroker()


@pytest.fixture
def store() -> InMemoryFailedMessages:
    """
    The sender's store.
    """
    return InMemoryFailedMessages()


@pytest.fixture
def sender(broker: FakeBroker, store: InMemoryFailedMessages) -> Iterator[RetryingSender]:
    """
    A sender with the step.
    """
    settings = SenderSettings(drain_on_sigterm=False, deadline_seconds=5.0)
    with RetryingSender(
        broker.url,
        failed_messages=store,
        settings=settings,
        registry=ClientRegistry(broker.connect),
        steps=[ContextStep(deadline_seconds=5.0)],
    ) as sender:
        yield sender


def _counted(what: str) -> int:
    return malformed.counts().get(what, 0)


# -- from the headers of a request ---------------------------------------------------------------------------------


def test_a_traceparent_goes_on() -> None:
    """
    The caller's trace is this request's, with its state.
    """
    context = RequestContext.from_headers(_Headers({"traceparent": _PARENT, "tracestate": "vendor=1"}))
    assert context.traceparent == _PARENT
    assert context.trace_id == _TRACE
    assert context.tracestate == "vendor=1"
    assert context.deadline is None
    assert repr(context) == f"<RequestContext {_TRACE}>"


def test_of_a_later_version_what_this_one_knows() -> None:
    """
    A version to come may add to it; what is passed on is version 00.
    """
    later = "cc" + _PARENT[2:] + "-more"
    assert RequestContext.from_headers(_Headers({"traceparent": later})).traceparent == _PARENT


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "nonsense",
        "00-" + "0" * 32 + "-b7ad6b7169203331-01",
        "00-" + _TRACE + "-" + "0" * 16 + "-01",
        "ff" + _PARENT[2:],
        _PARENT + "-more",
        _PARENT.upper(),
        _PARENT[:-1],
        _PARENT + "\n",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0g",
        "x" * 100_000,
    ],
)
def test_a_malformed_traceparent_is_replaced_and_counted(wrong: str) -> None:
    """
    The message has a trace of its own then, well-formed, without the state of the one that was not understood.
    """
    before = _counted("traceparent")
    context = RequestContext.from_headers(_Headers({"traceparent": wrong, "tracestate": "vendor=1"}))
    assert _counted("traceparent") == before + 1
    assert context.tracestate is None
    assert RequestContext(traceparent=context.traceparent).trace_id == context.trace_id != _TRACE


def test_a_missing_traceparent_begins_a_trace_and_counts_nothing() -> None:
    """
    Each request has a trace of its own.
    """
    before = malformed.counts()
    traces = {RequestContext.from_headers(_Headers()).trace_id for _ in range(100)}
    assert len(traces) == 100
    assert malformed.counts() == before
    assert len({new_traceparent() for _ in range(100)}) == 100


@pytest.mark.parametrize("wrong", ["a\x00b", "é=1", "x" * 513])
def test_a_malformed_tracestate_is_left_out(wrong: str) -> None:
    """
    The trace goes on without it.
    """
    before = _counted("tracestate")
    context = RequestContext.from_headers(_Headers({"traceparent": _PARENT, "tracestate": wrong}))
    assert (context.traceparent, context.tracestate) == (_PARENT, None)
    assert _counted("tracestate") == before + 1


def test_baggage_travels_by_an_allow_list() -> None:
    """
    What a client sends is not for everybody: only the named entries, decoded, without their metadata.
    """
    headers = _Headers({"baggage": "shop=de%20luxe;ttl=5, secret=1 ,tier = gold,broken,=x"})
    assert RequestContext.from_headers(headers).baggage == {}
    settings = RequestContextSettings(baggage=("shop", "tier", "broken", "absent"))
    assert RequestContext.from_headers(headers, settings).baggage == {"shop": "de luxe", "tier": "gold"}


def test_baggage_of_a_client_is_cut() -> None:
    """
    At most 8192 bytes travel: it is cut before the entry that would pass them, and counted; the request is served.
    """
    names = tuple(f"k{number}" for number in range(20))
    headers = _Headers({"baggage": ",".join(f"{name}={'v' * 1000}" for name in names)})
    before = _counted("baggage")
    context = RequestContext.from_headers(headers, RequestContextSettings(baggage=names))
    assert list(context.baggage) == [f"k{number}" for number in range(8)]
    assert _counted("baggage") == before + 1
    many = tuple(f"k{number}" for number in range(100))
    headers = _Headers({"baggage": ",".join(f"{name}=1" for name in many)})
    assert len(RequestContext.from_headers(headers, RequestContextSettings(baggage=many)).baggage) == 64


def test_baggage_with_what_no_property_holds_is_left_out() -> None:
    """
    A control character that was encoded does not come out.
    """
    settings = RequestContextSettings(baggage=("a", "b"))
    assert RequestContext.from_headers(_Headers({"baggage": "a=1%0a2,b=3"}), settings).baggage == {"b": "3"}


def test_tenant_fields_and_deadline() -> None:
    """
    Headers of the application's choice; what no property can hold is left out.
    """
    settings = RequestContextSettings(
        tenant_header="X-Tenant",
        deadline_header="X-Timeout",
        deadline_seconds=30.0,
        fields={"agent": "User-Agent", "other": "X-Other", "bad": "X-Bad"},
    )
    headers = _Headers({"x-tenant": "acme", "user-agent": "curl", "x-bad": "a\tb", "x-timeout": "1.5"})
    context = RequestContext.from_headers(headers, settings)
    assert context.tenant == "acme"
    assert context.fields == {"agent": "curl"}
    left = context.seconds_left()
    assert left is not None
    assert 1.0 < left <= 1.5
    assert context.without_deadline().seconds_left() is None
    assert context.without_deadline().tenant == "acme"


@pytest.mark.parametrize("wrong", ["soon", "-1", "nan", "inf", "1e9", ""])
def test_a_malformed_deadline_is_counted(wrong: str) -> None:
    """
    The service's own bound holds then.
    """
    before = _counted("deadline")
    settings = RequestContextSettings(deadline_header="X-Timeout", deadline_seconds=30.0)
    left = RequestContext.from_headers(_Headers({"x-timeout": wrong}), settings).seconds_left()
    assert left is not None
    assert 29.0 < left <= 30.0
    assert _counted("deadline") == before + 1


# -- by hand -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"traceparent": "nonsense"}, "traceparent"),
        ({"traceparent": 7}, "traceparent"),
        ({"tracestate": "a\nb"}, "tracestate"),
        ({"tenant": ""}, "tenant"),
        ({"tenant": object()}, "tenant"),
        ({"deadline": "soon"}, "deadline"),
        ({"deadline": True}, "deadline"),
        ({"baggage": {"a": 1}}, "baggage"),
        ({"baggage": [1]}, "baggage"),
        ({"fields": {"a": "b\x00"}}, "fields"),
        ({"fields": {"a": object()}}, "fields"),
        ({"baggage": {"a": "v" * MAX_BAGGAGE_BYTES}}, "baggage"),
        ({"baggage": {"a": " " * 3000}}, "baggage"),  # three bytes each, encoded
    ],
)
def test_bad_input_by_hand_is_refused(values: dict[str, Any], field: str) -> None:
    """
    The application's own mistakes are typed errors that name the field, and quote nothing.
    """
    with pytest.raises(InvalidInput) as caught:
        RequestContext(**values)
    assert caught.value.field == field
    assert "vvv" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"baggage": ["a"]}, "baggage"),
        ({"baggage": ("",)}, "baggage"),
        ({"tenant_header": 7}, "tenant_header"),
        ({"deadline_header": ""}, "deadline_header"),
        ({"deadline_seconds": 0}, "deadline_seconds"),
        ({"deadline_seconds": math.nan}, "deadline_seconds"),
        ({"fields": ["a"]}, "fields"),
        ({"fields": {"a": 1}}, "fields"),
        ({"bound_sends": "no"}, "bound_sends"),
    ],
)
def test_bad_settings_are_refused(values: dict[str, Any], field: str) -> None:
    """
    As all settings.
    """
    with pytest.raises(InvalidSettings) as caught:
        RequestContextSettings(**values)
    assert caught.value.field == f"RequestContextSettings.{field}"


def test_it_is_copied_and_can_be_pickled() -> None:
    """
    It holds none of the objects that it was made of.
    """
    fields = {"a": "b"}
    context = RequestContext(traceparent=_PARENT, fields=fields, baggage=fields)
    fields["a"] = "changed"
    assert context.fields == context.baggage == {"a": "b"}
    assert pickle.loads(pickle.dumps(context)) == context  # noqa: S301 - our own
    settings = RequestContextSettings(fields=fields)
    fields["c"] = "d"
    assert settings.fields == {"a": "changed"}


# -- on a message --------------------------------------------------------------------------------------------------


def test_a_message_carries_the_context(broker: FakeBroker, sender: RetryingSender) -> None:
    """
    As properties, each under its own name; without a context there are none.
    """
    context = RequestContext(
        traceparent=_PARENT, tracestate="v=1", baggage={"shop": "de luxe"}, tenant="acme", fields={"agent": "curl"}
    )
    with use_context(context):
        assert current_context() is context
        sender.send("orders", b"x", properties={"own": "1"})
    assert current_context() is None
    sender.send("orders", b"y")
    first, second = broker.messages("orders")
    assert first.properties == {
        "traceparent": _PARENT,
        "tracestate": "v=1",
        "baggage": "shop=de%20luxe",
        "tenant": "acme",
        "agent": "curl",
        "own": "1",
    }
    assert not second.properties


def test_what_the_application_set_stays(broker: FakeBroker, sender: RetryingSender) -> None:
    """
    A property of the call beats the request's; another parent does not get this one's state.
    """
    mine = new_traceparent()
    with use_context(RequestContext(traceparent=_PARENT, tracestate="v=1", tenant="acme")):
        sender.send("orders", b"x", properties={"traceparent": mine, "tenant": "other"})
    (stored,) = broker.messages("orders")
    assert stored.properties == {"traceparent": mine, "tenant": "other"}


def test_a_failed_message_keeps_its_trace(
    broker: FakeBroker, sender: RetryingSender, store: InMemoryFailedMessages
) -> None:
    """
    The store says which request sent it.
    """
    broker.fail_next(1, "AuthorizationError", phase=Phase.CREATE)
    with use_context(RequestContext(traceparent=_PARENT)), pytest.raises(SendFailed):
        sender.send("orders", b"x")
    (kept,) = list(store.find(EVERYTHING))
    assert kept.trace_id == _TRACE
    assert kept.message.properties == {"traceparent": _PARENT}


def test_a_malformed_traceparent_in_the_properties_is_replaced() -> None:
    """
    With its state, and counted: receivers would begin a trace of their own. A sound one is the application's.
    """
    context = RequestContext(traceparent=_PARENT, tracestate="a=1")
    other = _PARENT.replace(_TRACE, "1" * 32)
    before = _counted("traceparent")
    for given, expected in [
        ({"traceparent": "00-nonsense", "tracestate": "b=2"}, {"traceparent": _PARENT, "tracestate": "a=1"}),
        ({"traceparent": other, "tracestate": "b=2"}, {"traceparent": other, "tracestate": "b=2"}),
    ]:
        draft = Draft("t", b"x", properties=given)
        with use_context(context):
            ContextStep().before_send(draft)
        assert draft.properties == expected
    assert _counted("traceparent") == before + 1


def test_a_requests_time_bounds_its_sends(broker: FakeBroker, sender: RetryingSender) -> None:
    """
    Whichever is shorter: what is left of the request, what the call says, what the sender's settings say.
    """
    step = ContextStep(deadline_seconds=5.0)
    for left, own, expected in [
        (2.0, None, 2.0),
        (2.0, 1.0, 1.0),
        (2.0, 30.0, 2.0),
        (60.0, None, 5.0),
        (60.0, 30.0, 30.0),
    ]:
        draft = Draft("t", b"x", deadline_seconds=own)
        began = time.monotonic()
        with use_context(RequestContext(deadline=began + left)):
            step.before_send(draft)
        assert draft.deadline_seconds is not None
        assert expected - (time.monotonic() - began) <= draft.deadline_seconds <= expected + 0.001
    broker.freeze()
    began = time.monotonic()
    with use_context(RequestContext(deadline=began + 0.3)), pytest.raises(SendFailed, match="NOT_STORED"):
        sender.send("orders", b"x")
    assert time.monotonic() - began < 1.2
    broker.thaw()


def test_a_request_whose_time_is_over_sends_nothing(broker: FakeBroker, sender: RetryingSender) -> None:
    """
    A typed error, before anything is accepted.
    """
    over = RequestContext(deadline=time.monotonic() - 1)
    with use_context(over), pytest.raises(DeadlineExceeded, match="time is over; nothing was sent to 'persistent"):
        sender.send("orders", b"x")
    assert sender.stats().counts.accepted == 0
    assert broker.payloads("orders") == []


def test_the_bound_can_be_lifted() -> None:
    """
    By a setting, for all; by `without_deadline`, for what goes on after the answer.
    """
    over = RequestContext(traceparent=_PARENT, deadline=time.monotonic() - 1)
    draft = Draft("t", b"x")
    with use_context(over):
        ContextStep(bound_sends=False).before_send(draft)
    with use_context(over.without_deadline()):
        ContextStep().before_send(draft)
    assert draft.deadline_seconds is None
    assert draft.properties == {"traceparent": _PARENT}


# -- where it holds ------------------------------------------------------------------------------------------------


def test_each_thread_has_its_own() -> None:
    """
    A context is that of the thread or coroutine that serves the request, and of no other.
    """
    seen: list[RequestContext | None] = []
    with use_context(RequestContext(tenant="acme")):
        thread = threading.Thread(target=lambda: seen.append(current_context()))
        thread.start()
        thread.join()
        with use_context(None):
            assert current_context() is None
        current = current_context()
        assert current is not None
        assert current.tenant == "acme"
    assert seen == [None]


def test_a_token_of_another_context_is_no_harm() -> None:
    """
    Some servers end a request elsewhere than where it began.
    """
    tokens = []
    thread = threading.Thread(target=lambda: tokens.append(set_context(RequestContext(tenant="acme"))))
    thread.start()
    thread.join()
    with use_context(RequestContext(tenant="other")):
        reset_context(tokens[0])
        assert current_context() is None


def test_a_request_is_not_held(broker: FakeBroker, sender: RetryingSender) -> None:
    """
    While its messages are under way, nothing refers to the request that sent them.
    """

    class Request:
        def __init__(self) -> None:
            self.headers = _Headers({"traceparent": _PARENT, "baggage": "shop=1"})

    broker.hold()
    request = Request()
    gone = weakref.ref(request)
    with use_context(RequestContext.from_headers(request.headers, RequestContextSettings(baggage=("shop",)))):
        handle = sender.submit("orders", {"of": "the request"})
    del request
    gc.collect()
    assert gone() is None
    broker.release()
    handle.result()
