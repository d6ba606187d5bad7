"""
The signatures of the adapters and of coroutines' senders. Type-checked, never run, as `api.py`.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from threading import Thread
from typing import TYPE_CHECKING

from typing_extensions import assert_type

from safepulsar import CloseReport, RetryingSender, SendHandle, SendResult
from safepulsar.adapters.after_response import AfterResponse
from safepulsar.adapters.asgi import SafePulsarMiddleware, request_scope
from safepulsar.adapters.fastapi import After, BlockingSender, SafePulsarSettings, Sender
from safepulsar.adapters.flask import after_response, current_sender, get_sender
from safepulsar.adapters.threads import ThreadSender, carry_context
from safepulsar.async_sender import AsyncSender, AwaitCancelled
from safepulsar.health import Health, live, ready, started
from safepulsar.request_context import ContextStep, RequestContext, current_context, use_context
from safepulsar.request_headers import RequestContextSettings, malformed

if TYPE_CHECKING:
    from safepulsar import Step
    from safepulsar.adapters.asgi import Application, Scope


async def coroutines(sender: AsyncSender) -> None:
    """
    One face for coroutines.
    """
    async with AsyncSender("pulsar://localhost:6650", steps=[ContextStep()]) as own:
        assert_type(own, AsyncSender)
    assert_type(await sender.send("t", {"a": [1, 2.5, None]}, partition_key="k"), SendResult)
    handle = await sender.submit("t", b"x", deadline_seconds=1.5)
    assert_type(handle, SendHandle)
    assert_type(await handle, SendResult)
    assert_type(handle.cancel(), bool)
    assert_type(sender.sync, RetryingSender)
    assert_type(await sender.close(), CloseReport)


def cancelled(error: AwaitCancelled) -> None:
    """
    What became of it.
    """
    assert_type(error.surely_not_sent, bool)
    assert_type(error.handle, SendHandle | None)
    assert_type(error.within(ValueError()), AwaitCancelled | None)


def requests(context: RequestContext) -> None:
    """
    Contexts.
    """
    step: Step = ContextStep(deadline_seconds=5.0)
    assert step is not None
    with use_context(context.without_deadline()):
        assert_type(current_context(), RequestContext | None)
    assert_type(RequestContext.from_headers({}, RequestContextSettings(baggage=("a",))), RequestContext)
    assert_type(context.trace_id, str | None)
    assert_type(context.seconds_left(), float | None)
    assert_type(malformed.counts(), dict[str, int])


def flask_views() -> None:
    """
    In a view.
    """
    assert_type(current_sender.send("t", "x"), SendResult)
    assert_type(get_sender(), RetryingSender)
    assert_type(after_response(), AfterResponse)
    after_response().send("t", [1], properties={"a": "b"})


async def fastapi_endpoint(sender: Sender, blocking: BlockingSender, after: After) -> None:
    """
    The dependencies are what they are named for.
    """
    assert_type(sender, AsyncSender)
    assert_type(blocking, RetryingSender)
    assert_type(after, AfterResponse)
    assert_type(SafePulsarSettings(url="pulsar://localhost:6650").url, str | None)


def asgi(app: Application, scope: Scope, sender: AsyncSender) -> None:
    """
    Any ASGI application.
    """
    wrapped: Application = SafePulsarMiddleware(app, sender)
    assert wrapped is not None
    assert_type(request_scope(scope).sender, AsyncSender)
    assert_type(request_scope(scope).after, AfterResponse)


def threads(sender: RetryingSender) -> None:
    """
    Workers.
    """
    own = ThreadSender(sender)
    assert_type(ThreadSender(lambda: sender), ThreadSender)
    assert_type(own.submit_nowait("t", b"x"), Future[SendResult])
    assert_type(own.pool(4), ThreadPoolExecutor)
    assert_type(own.thread(print, "x"), Thread)
    assert_type(carry_context(len)("x"), int)


def probes(sender: RetryingSender) -> None:
    """
    Health.
    """
    for answer in (live(sender), started(sender), ready(sender, broker_required=True)):
        assert_type(answer, Health)
        assert_type(answer.reasons, tuple[str, ...])
