"""
Plain ASGI: the life of the application, disconnects, and answers that a message belongs to.
"""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from safepulsar.adapters.asgi import SafePulsarMiddleware, request_scope
from safepulsar.async_sender import AsyncSender
from safepulsar.errors import NoCurrentSender, QueueFull, SendCancelled, SenderClosed, StoreUnavailable
from safepulsar.failed_messages import InMemoryFailedMessages
from safepulsar.message import Fate
from safepulsar.request_context import ContextStep, RequestContext, current_context
from safepulsar.sender import RetryingSender
from safepulsar.settings import SenderSettings, WhenFull
from tests.senders import LONG_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from safepulsar.adapters.asgi import Receive, Scope, Send
    from safepulsar.broker.client_registry import ClientRegistry
    from safepulsar.testing import FakeBroker

_PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def sender(broker: FakeBroker, registry: ClientRegistry) -> Iterator[AsyncSender]:
    """
    A sender, closed after the test.
    """
    settings = SenderSettings(drain_on_sigterm=False)
    sync = RetryingSender(broker.url, settings=settings, registry=registry, steps=[ContextStep()])
    yield AsyncSender(sync)
    sync.close()


class _Client:
    """
    A server with one client, who sends a body and then goes away when told to.
    """

    def __init__(self, *body: bytes, headers: dict[str, str] | None = None) -> None:
        self.scope: dict[str, Any] = {
            "type": "http",
            "headers": [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()],
        }
        self.gone = asyncio.Event()
        self.answers: list[Any] = []
        pieces = body or (b"",)
        self._coming: list[dict[str, Any]] = [
            {"type": "http.request", "body": piece, "more_body": place + 1 < len(pieces)}
            for place, piece in enumerate(pieces)
        ]
        self.receiving = 0

    async def receive(self) -> dict[str, Any]:
        assert not self.receiving, "two at once read what the server has"
        if self._coming:
            return self._coming.pop(0)
        self.receiving += 1
        try:
            await self.gone.wait()
        finally:
            self.receiving -= 1
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:  # noqa: ANN401 - as ASGI has it
        self.answers.append(message)

    @property
    def status(self) -> int:
        """
        Of the answer.
        """
        status: int = self.answers[0]["status"]
        return status


async def _answer(send: Send, status: int = 200) -> None:
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def _until(fact: Callable[[], object]) -> None:
    async def look() -> None:
        while not fact():  # noqa: ASYNC110 - whatever it is, and not in this loop alone
            await asyncio.sleep(0.002)

    await asyncio.wait_for(look(), LONG_SECONDS)


# -- requests ------------------------------------------------------------------------------------------------------


def test_a_request_has_its_context_and_its_sender(sender: AsyncSender, broker: FakeBroker) -> None:
    """
    Also a websocket; and nothing is left when it is over.
    """
    seen: list[RequestContext | None] = []

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        seen.append(current_context())
        await request_scope(scope).sender.send("orders", b"x")
        if scope["type"] == "http":
            await _answer(send)

    async def main() -> None:
        middleware = SafePulsarMiddleware(app, sender)
        client = _Client(headers={"TraceParent": _PARENT})
        await middleware(client.scope, client.receive, client.send)
        assert client.status == 200
        client.scope["type"] = "websocket"
        await middleware(client.scope, client.receive, client.send)
        assert current_context() is None

    asyncio.run(main())
    assert [each.traceparent if each else None for each in seen] == [_PARENT, _PARENT]
    assert [message.properties for message in broker.messages("orders")] == [{"traceparent": _PARENT}] * 2


def test_without_the_middleware_it_is_said(sender: AsyncSender) -> None:
    """
    A typed error, with the remedy.
    """
    assert sender is not None
    with pytest.raises(NoCurrentSender, match="put SafePulsarMiddleware"):
        request_scope({"type": "http"})


@pytest.mark.parametrize("reads_body", [True, False])
def test_a_client_that_goes_away_cancels(sender: AsyncSender, broker: FakeBroker, *, reads_body: bool) -> None:
    """
    What was not handed over is surely not sent; the endpoint is told where it waits, and the server is spared the error.
    """
    handles: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if reads_body:
            assert (await receive())["type"] == "http.request"
        here = request_scope(scope)
        handles.append(await here.sender.submit("orders", b"1"))
        handles.append(await here.sender.submit("orders", b"2"))
        await handles[0]
        await _answer(send)

    async def main() -> None:
        client = _Client(b"body")
        broker.freeze()
        task = asyncio.create_task(SafePulsarMiddleware(app, sender)(client.scope, client.receive, client.send))
        await _until(lambda: client.receiving)
        client.gone.set()
        await task
        assert not client.answers

    asyncio.run(main())
    broker.thaw()
    assert all(isinstance(handle.exception(), SendCancelled) for handle in handles)
    sender.sync.flush()
    assert broker.payloads("orders") == []
    assert sender.stats().counts.cancelled == 2


def test_a_client_that_goes_away_changes_nothing_for_what_was_handed_over(
    sender: AsyncSender, broker: FakeBroker
) -> None:
    """
    It is delivered, and the endpoint goes on.
    """

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        result = await request_scope(scope).sender.send("orders", b"x")
        assert result.fate is Fate.DELIVERED
        assert (await receive())["type"] == "http.disconnect"  # the application's own look sees it, too
        await _answer(send)

    async def main() -> None:
        client = _Client(b"body")
        broker.hold()
        task = asyncio.create_task(SafePulsarMiddleware(app, sender)(client.scope, client.receive, client.send))
        await _until(lambda: broker.held and client.receiving)
        client.gone.set()
        await _until(lambda: not client.receiving)
        broker.release()
        await task

    asyncio.run(main())
    assert broker.payloads("orders") == [b"x"]


def test_once_it_is_answered_nothing_is_cancelled(sender: AsyncSender, broker: FakeBroker) -> None:
    """
    A client that goes away with its answer has been promised what it says.
    """

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await request_scope(scope).sender.submit("orders", b"x")
        await asyncio.sleep(0)
        await send({"type": "http.response.start", "status": 202, "headers": []})
        assert (await receive())["type"] == "http.disconnect"
        await send({"type": "http.response.body", "body": b""})

    async def main() -> None:
        client = _Client(b"body")
        broker.freeze()
        task = asyncio.create_task(SafePulsarMiddleware(app, sender)(client.scope, client.receive, client.send))
        await _until(lambda: client.answers)
        client.gone.set()
        await task

    asyncio.run(main())
    broker.thaw()
    sender.sync.flush()
    assert broker.payloads("orders") == [b"x"]


def test_a_body_in_pieces_is_read_by_the_application(sender: AsyncSender, broker: FakeBroker) -> None:
    """
    Looking for a disconnect takes nothing from the body, though it is read after a message was sent.
    """
    read: list[bytes] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await request_scope(scope).sender.send("orders", b"x")
        more = True
        while more:
            message = await receive()
            read.append(message["body"])
            more = message["more_body"]
        await request_scope(scope).sender.send("orders", b"y")
        await _answer(send)

    async def main() -> None:
        client = _Client(b"1", b"2", b"3")
        await SafePulsarMiddleware(app, sender)(client.scope, client.receive, client.send)
        assert client.status == 200
        await asyncio.sleep(0)
        assert not client.receiving  # nobody waits for this client any more

    asyncio.run(main())
    assert read == [b"1", b"2", b"3"]
    assert broker.payloads("orders") == [b"x", b"y"]


def test_a_cancelled_send_of_a_client_that_is_there_is_an_error(sender: AsyncSender, broker: FakeBroker) -> None:
    """
    Only a disconnect excuses it.
    """

    async def app(scope: Scope, _receive: Receive, _send: Send) -> None:
        handle = await request_scope(scope).sender.submit("orders", b"x")
        handle.cancel()
        await handle

    async def main() -> None:
        client = _Client()
        broker.freeze()
        with pytest.raises(SendCancelled):
            await SafePulsarMiddleware(app, sender)(client.scope, client.receive, client.send)

    asyncio.run(main())
    broker.thaw()


def test_a_request_is_not_held(sender: AsyncSender, broker: FakeBroker) -> None:
    """
    While its messages are under way, nothing of ours refers to its scope.
    """

    class OwnScope(dict[str, Any]):
        pass

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        here = request_scope(scope)
        await here.sender.submit("orders", b"x")
        here.after.send("orders", b"y")
        await _answer(send)

    async def main() -> None:
        client = _Client(headers={"traceparent": _PARENT})
        scope = OwnScope(client.scope)
        gone = weakref.ref(scope)
        await SafePulsarMiddleware(app, sender)(scope, client.receive, client.send)
        del scope
        await asyncio.sleep(0.01)
        gc.collect()
        assert gone() is None
        assert sender.stats().counts.in_flight == 2

    broker.hold()
    asyncio.run(main())
    broker.release()
    sender.sync.flush()


# -- after the response --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "sent"), [(200, [b"x"]), (302, [b"x"]), (404, []), (500, [])])
def test_what_belongs_to_the_answer(sender: AsyncSender, broker: FakeBroker, status: int, sent: list[bytes]) -> None:
    """
    It is accepted before a success goes out, and not at all with an error.
    """
    accepted: list[int] = []

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        request_scope(scope).after.send("orders", b"x")
        assert sender.stats().counts.accepted == 0
        await _answer(send, status)

    async def main() -> None:
        client = _Client()

        async def send(message: Any) -> None:  # noqa: ANN401 - as ASGI has it
            accepted.append(sender.stats().counts.accepted)
            await client.send(message)

        await SafePulsarMiddleware(app, sender)(client.scope, client.receive, send)
        assert client.status == status

    asyncio.run(main())
    assert accepted[0] == len(sent)
    sender.sync.flush()
    assert broker.payloads("orders") == sent


def test_a_client_that_goes_away_does_not_cancel_what_belongs_to_the_answer(
    sender: AsyncSender, broker: FakeBroker
) -> None:
    """
    The application did its work and answered, though nobody is there: the messages are sent.
    """

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        assert (await receive())["type"] == "http.disconnect"
        request_scope(scope).after.send("orders", b"x")
        await _answer(send)

    async def main() -> None:
        client = _Client(b"body")
        client.gone.set()
        await SafePulsarMiddleware(app, sender)(client.scope, client.receive, client.send)

    asyncio.run(main())
    sender.sync.flush()
    assert broker.payloads("orders") == [b"x"]


def test_what_belongs_to_the_answer_waits_for_room(broker: FakeBroker, registry: ClientRegistry) -> None:
    """
    The answer waits with it, and the loop does not; without room in time the answer is an error.
    """
    settings = SenderSettings(drain_on_sigterm=False, max_in_flight_messages=1)

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        request_scope(scope).after.send("orders", b"x", deadline_seconds=scope["seconds"])
        try:
            await _answer(send)
        except QueueFull:
            await _answer(send, 503)
            raise

    async def main(sync: RetryingSender) -> None:
        middleware = SafePulsarMiddleware(app, AsyncSender(sync))
        first, second, third = clients = [_Client(), _Client(), _Client()]
        for client, seconds in zip(clients, (20.0, 20.0, 0.3), strict=True):
            client.scope["seconds"] = seconds
        await middleware(first.scope, first.receive, first.send)
        broker.wait_until(lambda: broker.held == 1)
        task = asyncio.create_task(middleware(second.scope, second.receive, second.send))
        await asyncio.sleep(0.05)
        assert not second.answers
        broker.release(1)
        await task
        with pytest.raises(QueueFull):
            await middleware(third.scope, third.receive, third.send)
        assert [each.status for each in clients] == [200, 200, 503]
        broker.release()

    with RetryingSender(broker.url, settings=settings, registry=registry) as sync:
        broker.hold()
        asyncio.run(main(sync))
    assert len(broker.payloads("orders")) == 2
    assert settings.when_full is WhenFull.BLOCK


# -- the life of the application -----------------------------------------------------------------------------------


class _Server:
    """
    A server that starts and ends an application.
    """

    def __init__(self, app: Any) -> None:  # noqa: ANN401 - an application
        self._app = app
        self._coming: asyncio.Queue[dict[str, str]] = asyncio.Queue()
        self.answers: list[Any] = []

    async def run(self) -> None:
        self._task = asyncio.create_task(self._app({"type": "lifespan"}, self._coming.get, self._send))
        await self._ask("lifespan.startup")

    async def stop(self) -> None:
        await self._ask("lifespan.shutdown")
        await self._task

    async def _ask(self, what: str) -> None:
        before = len(self.answers)
        self._coming.put_nowait({"type": what})
        await _until(lambda: len(self.answers) > before or self._task.done())

    async def _send(self, message: Any) -> None:  # noqa: ANN401 - as ASGI has it
        self.answers.append(message)


def test_the_sender_lives_around_the_application(sender: AsyncSender, broker: FakeBroker) -> None:
    """
    It is open before the application starts, and closed after it has ended: both may send.
    """
    order: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "lifespan"
        assert (await receive())["type"] == "lifespan.startup"
        order.append("open" if sender.sync._engine is not None else "not open")
        await sender.send("life", b"started")
        await send({"type": "lifespan.startup.complete"})
        assert (await receive())["type"] == "lifespan.shutdown"
        await sender.submit("life", b"ended")
        await send({"type": "lifespan.shutdown.complete"})
        order.append("closed" if sender.sync.closed else "open")

    async def main() -> None:
        server = _Server(SafePulsarMiddleware(app, sender))
        await server.run()
        await server.stop()
        assert [each["type"] for each in server.answers] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
        with pytest.raises(SenderClosed):
            await sender.send("life", b"x")

    asyncio.run(main())
    assert order == ["open", "closed"]
    assert broker.payloads("life") == [b"started", b"ended"]


def test_a_store_that_cannot_be_opened_fails_the_start(broker: FakeBroker, registry: ClientRegistry) -> None:
    """
    The server is told why, and does not serve.
    """

    class Broken(InMemoryFailedMessages):
        def open(self) -> Broken:
            msg = "the folder is read-only"
            raise StoreUnavailable(msg)

    async def app(_scope: Scope, receive: Receive, _send: Send) -> None:
        await receive()

    async def main() -> None:
        sender = AsyncSender(broker.url, failed_messages=Broken(), registry=registry)
        server = _Server(SafePulsarMiddleware(app, sender))
        await server.run()
        assert server.answers == [{"type": "lifespan.startup.failed", "message": "safepulsar: the folder is read-only"}]
        with pytest.raises(StoreUnavailable):
            await server._task

    asyncio.run(main())


def test_an_application_that_fails_to_start_closes_the_sender(sender: AsyncSender) -> None:
    """
    And its reason goes through.
    """

    async def app(_scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no"})

    async def main() -> None:
        server = _Server(SafePulsarMiddleware(app, sender))
        await server.run()
        assert server.answers == [{"type": "lifespan.startup.failed", "message": "no"}]

    asyncio.run(main())
    assert sender.sync.closed


def test_a_server_without_lifespan(sender: AsyncSender, broker: FakeBroker) -> None:
    """
    The first message opens the sender.
    """

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        await request_scope(scope).sender.send("orders", b"x")
        await _answer(send)

    async def main() -> None:
        client = _Client()
        await SafePulsarMiddleware(app, sender)(client.scope, client.receive, client.send)

    asyncio.run(main())
    assert broker.payloads("orders") == [b"x"]


def test_an_application_that_reads_meanwhile(sender: AsyncSender, broker: FakeBroker) -> None:
    """
    One that waits for a disconnect itself is not read over, and its client's leaving cancels as well.
    """
    handles: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "http.request"
        looking = asyncio.ensure_future(receive())
        await asyncio.sleep(0)
        handles.append(await request_scope(scope).sender.submit("orders", b"x"))
        await asyncio.sleep(0.02)
        assert (await looking)["type"] == "http.disconnect"
        await _answer(send)

    async def main() -> None:
        client = _Client(b"body")
        broker.freeze()
        task = asyncio.create_task(SafePulsarMiddleware(app, sender)(client.scope, client.receive, client.send))
        await _until(lambda: client.receiving and handles)
        client.gone.set()
        await task

    asyncio.run(main())
    broker.thaw()
    assert isinstance(handles[0].exception(), SendCancelled)
    sender.sync.flush()
    assert broker.payloads("orders") == []
