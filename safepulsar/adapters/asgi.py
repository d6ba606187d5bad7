"""
ASGI: a middleware that opens and closes the sender with the application, and gives each request its context.

    sender = AsyncSender("pulsar://localhost:6650", failed_messages="failed/orders.db", steps=[ContextStep()])
    app = SafePulsarMiddleware(app, sender)

Plain ASGI, so that it fits Starlette, Quart, Litestar or an application without any framework, and needs no extra. The
application's own lifespan runs inside: it may send while it starts and while it ends.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from safepulsar.adapters.after_response import AfterResponse
from safepulsar.async_sender import AsyncSender
from safepulsar.errors import NoCurrentSender, SafePulsarError, SendCancelled
from safepulsar.request_context import RequestContext, reset_context, set_context
from safepulsar.request_headers import RequestContextSettings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping
    from typing import TypeAlias

    from safepulsar.books.handle import SendHandle
    from safepulsar.sending.engine import Engine

    Scope: TypeAlias = MutableMapping[str, Any]  # as ASGI has it
    Message: TypeAlias = MutableMapping[str, Any]
    Receive: TypeAlias = Callable[[], Awaitable[Message]]
    Send: TypeAlias = Callable[[Message], Awaitable[None]]
    Application: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

_KEY: Final = "safepulsar"  # in the scope


class SafePulsarMiddleware:
    """
    Around an application: its sender, and what each request needs of it.

    Args:
        app: the application inside.
        sender: opened when the server starts the application and closed when it ends it. A server without lifespan support
            opens it with the first message, and the process closes it at its end.
        request: what is taken from each request.
    """

    def __init__(self, app: Application, sender: AsyncSender, request: RequestContextSettings | None = None) -> None:
        self._app = app
        self.sender = sender
        self._request = request or RequestContextSettings()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """
        Serve one request, one websocket, or the life of the application.
        """
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
            return
        context = RequestContext.from_headers(_Headers(scope["headers"]), self._request)
        here = RequestScope(self.sender, receive)
        scope[_KEY] = here

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                await here.begin_response(message["status"])
            await send(message)

        is_http = scope["type"] == "http"
        token = set_context(context)
        try:
            await self._app(scope, here.receive if is_http else receive, answer)
        except SendCancelled:
            if not here.disconnected:
                raise
        finally:
            here.end()
            reset_context(token)

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def open_first() -> Message:
            message = await receive()
            if message["type"] == "lifespan.startup":
                try:
                    await self.sender.open()
                except SafePulsarError as error:
                    await send({"type": "lifespan.startup.failed", "message": f"safepulsar: {error}"})
                    raise
            return message

        async def close_last(message: Message) -> None:
            if message["type"] in ("lifespan.shutdown.complete", "lifespan.shutdown.failed", "lifespan.startup.failed"):
                await self.sender.close()
            await send(message)

        await self._app(scope, open_first, close_last)


class RequestScope:
    """
    What one request has of the sender. It holds the handles of messages that are not handed over, and nothing of the request.

    Most requests send nothing, and so everything here is made when it is first needed.

    Attributes:
        disconnected: whether the client went away before it was answered.
    """

    __slots__ = (
        "_after",
        "_all",
        "_body_complete",
        "_handles",
        "_messages",
        "_reads",
        "_receive",
        "_sender",
        "_watch",
        "disconnected",
    )

    _messages: asyncio.Queue[Message]  # once somebody watches

    def __init__(self, sender: AsyncSender, receive: Receive) -> None:
        self.disconnected = False
        self._all = sender
        self._receive = receive
        self._body_complete = False
        self._reads = False
        self._handles: list[SendHandle] | None = []  # None once nothing is cancelled any more
        self._sender: AsyncSender | None = None
        self._after: AfterResponse | None = None
        self._watch: asyncio.Task[None] | None = None

    @property
    def sender(self) -> AsyncSender:
        """
        For this request: if the client goes away before it is answered, what was not handed over is cancelled.
        """
        if self._sender is None:
            self._sender = _RequestSender(self._all, self)
        return self._sender

    @property
    def after(self) -> AfterResponse:
        """
        Sent if the request succeeds.
        """
        if self._after is None:
            self._after = AfterResponse(self._all.sync)
        return self._after

    async def receive(self) -> Message:
        """
        The application's `receive`.
        """
        if self._watch is not None and not (self._watch.done() and self._messages.empty()):
            return await self._messages.get()
        self._reads = True
        try:
            message = self._note(await self._receive())
        finally:
            self._reads = False
        self._begin_watch()
        return message

    async def after_response(self) -> AfterResponse:
        """
        `after`, once the sender is open, which it is nearly always.

        Raises:
            StoreError: the store cannot be opened.
            SenderClosed: it takes no more messages.
        """
        if self._all.sync._engine is None:
            await self._all.open()
        return self.after

    def track(self, handle: SendHandle) -> None:
        """
        Cancel `handle` if the client goes away first.
        """
        if self.disconnected:
            handle.cancel()
        elif self._handles is not None:
            self._handles.append(handle)
            if len(self._handles) == 1:
                # In the next round of the loop: most endpoints have answered by then, and a task costs more than a message.
                asyncio.get_running_loop().call_soon(self._begin_watch)

    async def begin_response(self, status: int) -> None:
        """
        The answer goes out: accept what belongs to it, and cancel nothing any more.
        """
        self._handles = None
        if self._after:
            engine = self._all.sync._started()
            for handle in self._after.take(status):
                await self._all._accept(asyncio.get_running_loop(), engine, handle)

    def end(self) -> None:
        """
        The request is over.
        """
        self._handles = None
        if self._watch is not None:
            self._watch.cancel()

    def _begin_watch(self) -> None:
        # Only one may read what the server has: the application, or else the watch.
        if self._handles and not self._reads and (self._watch is None or self._watch.done()):
            self._messages = asyncio.Queue()
            self._watch = asyncio.create_task(self._wait_for_disconnect())

    def _note(self, message: Message) -> Message:
        self._body_complete = not message.get("more_body", False)
        if message["type"] == "http.disconnect" and self._handles is not None:
            self.disconnected = True
            for handle in self._handles:
                handle.cancel()
            self._handles = None
        return message

    async def _wait_for_disconnect(self) -> None:
        # The application may wait for what is read here. A body that it has not read is read up to its first piece only.
        while True:
            self._messages.put_nowait(self._note(await self._receive()))
            if self._handles is None or not self._body_complete:
                return


class _RequestSender(AsyncSender):
    """
    An `AsyncSender` that tells its request what it accepted.
    """

    def __init__(self, sender: AsyncSender, scope: RequestScope) -> None:
        # All of the other one's, but for being closed with it.
        self._owned = False
        self.sync = sender.sync
        self._rooms = sender._rooms
        self._scope = scope

    async def _accept(self, loop: asyncio.AbstractEventLoop, engine: Engine, handle: SendHandle) -> None:
        await super()._accept(loop, engine, handle)
        self._scope.track(handle)


def request_scope(scope: Scope) -> RequestScope:
    """
    What the request of an ASGI scope has of the sender.

    Raises:
        NoCurrentSender: no `SafePulsarMiddleware` is around the application.
    """
    found = scope.get(_KEY)
    if not isinstance(found, RequestScope):
        msg = "this application has no sender: put SafePulsarMiddleware, or SafePulsar(app) with FastAPI, around it"
        raise NoCurrentSender(msg)
    return found


class _Headers:
    """
    The headers of a scope by their names.
    """

    __slots__ = ("_pairs",)

    def __init__(self, pairs: list[tuple[bytes, bytes]]) -> None:
        self._pairs = pairs

    def get(self, name: str, /) -> str | None:
        """
        The first one's value.
        """
        wanted = name.lower().encode("latin-1", "replace")
        for key, value in self._pairs:
            if key == wanted:
                return value.decode("latin-1")
        return None
