"""
FastAPI's own test client: dependencies, the application's own lifespan, answers, probes and settings.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, File, HTTPException, Request, UploadFile
from fastapi.testclient import TestClient
from starlette.responses import StreamingResponse

from safepulsar.adapters.fastapi import (
    After,
    BlockingSender,
    SafePulsar,
    SafePulsarSettings,
    Sender,
    get_after_response,
    get_blocking_sender,
    get_sender,
    health_router,
)
from safepulsar.async_sender import AsyncSender
from safepulsar.broker.client_registry import ClientRegistry
from safepulsar.errors import InvalidMessage, InvalidSettings, NoCurrentSender, QueueFull, SafePulsarError, SenderClosed
from safepulsar.failed_messages import EVERYTHING, SqliteFailedMessages
from safepulsar.message import Fate
from safepulsar.request_headers import RequestContextSettings
from safepulsar.sender import RetryingSender
from safepulsar.settings import SenderSettings
from safepulsar.testing import FakeBroker
from tests.waiting import wait_until

_PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def _settings(**sender: Any) -> SafePulsarSettings:  # noqa: ANN401 - as SenderSettings
    return SafePulsarSettings(url=FakeBroker.url, sender={"drain_on_sigterm": False, **sender})


@pytest.fixture
def app(registry: ClientRegistry) -> Iterator[FastAPI]:
    """
    An application with a sender, which is closed after the test.
    """
    app = FastAPI()
    extension = SafePulsar(app, _settings(), registry=registry)

    @app.post("/await")
    async def awaits(order: dict[str, int], sender: Sender) -> dict[str, str]:
        result = await sender.send("orders", order, partition_key="k")
        return {"fate": result.fate.value}

    @app.post("/submit", status_code=202)
    async def submits(order: dict[str, int], sender: Sender) -> None:
        await sender.submit("orders", order)

    @app.post("/sync")
    def in_a_thread(order: dict[str, int], sender: BlockingSender) -> dict[str, str]:
        return {"fate": sender.send("orders", order).fate.value}

    yield app
    extension.sender.sync.close()


# -- endpoints -----------------------------------------------------------------------------------------------------


def test_async_and_sync_endpoints_send(app: FastAPI, broker: FakeBroker) -> None:
    """
    By one client and one producer for each kind of message, with the context of the request in both.
    """
    with TestClient(app) as client:
        for number in range(5):
            headers = {"traceparent": _PARENT}
            assert client.post("/await", json={"id": number}, headers=headers).json() == {"fate": "DELIVERED"}
            assert client.post("/sync", json={"id": number}, headers=headers).json() == {"fate": "DELIVERED"}
            assert client.post("/submit", json={"id": number}, headers=headers).status_code == 202
        assert (broker.counts.clients_open, broker.counts.producers_open) == (1, 2)
    stored = broker.messages("orders")
    assert len(stored) == 15
    assert {message.properties["traceparent"] for message in stored if message.properties} == {_PARENT}
    assert all(message.properties for message in stored)


def test_the_dependencies_are_typed_functions(registry: ClientRegistry, broker: FakeBroker) -> None:
    """
    They work with `Depends` written out, and can be overridden in tests.
    """
    app = FastAPI()
    extension = SafePulsar(app, _settings(), registry=registry)
    seen: list[object] = []

    @app.get("/")
    async def look(
        sender: Annotated[AsyncSender, Depends(get_sender)],
        blocking: Annotated[RetryingSender, Depends(get_blocking_sender)],
        after: After,
    ) -> None:
        seen.extend([type(sender).__mro__[1], blocking is extension.sender.sync, len(after)])

    with TestClient(app) as client:
        client.get("/")
        assert seen == [AsyncSender, True, 0]
        other = AsyncSender(broker.url, registry=registry)
        app.dependency_overrides[get_sender] = lambda: other
        client.get("/")
        assert seen[3] is object
    assert get_after_response is not None


def test_a_mounted_application_has_the_sender(app: FastAPI, broker: FakeBroker) -> None:
    """
    Also one that knows nothing of it.
    """
    inner = FastAPI()

    @inner.post("/orders")
    async def order(sender: Sender) -> str:
        return (await sender.send("orders", b"x")).fate.value

    app.mount("/shop", inner)
    with TestClient(app) as client:
        assert client.post("/shop/orders").json() == "DELIVERED"
    assert broker.payloads("orders") == [b"x"]


def test_without_a_sender_it_is_said() -> None:
    """
    A typed error, with the remedy.
    """
    app = FastAPI()

    @app.get("/")
    async def order(sender: Sender) -> None:
        await sender.send("orders", b"x")

    with TestClient(app) as client, pytest.raises(NoCurrentSender, match=r"SafePulsar\(app\)"):
        client.get("/")


def test_what_is_no_data_is_refused(app: FastAPI) -> None:
    """
    A request, its headers or a file as payload or properties is a typed error that names the field to pass instead.
    """
    problems: list[str] = []

    @app.post("/wrong")
    async def wrong(request: Request, file: Annotated[UploadFile, File()], sender: Sender) -> None:
        body: Any = request.body()
        things: list[Any] = [request, file, request.query_params, await request.form(), request.state, body]
        for thing in things:
            with pytest.raises(InvalidMessage) as caught:
                await sender.submit("orders", thing)
            problems.append(str(caught.value))
        with pytest.raises(InvalidMessage, match="properties: is all headers"):
            await sender.submit("orders", b"x", properties=request.headers)
        body.close()

    with TestClient(app) as client:
        assert client.post("/wrong", files={"file": b"x"}).status_code == 200
    assert [problem.partition(";")[0].removeprefix("value: is ") for problem in problems] == [
        "a request",
        "an uploaded file",
        "the form or the parameters of a request",
        "the form or the parameters of a request",
        "a context that ends with its request",
        "a coroutine that was not awaited",
    ]


# -- the application's life ----------------------------------------------------------------------------------------


def test_the_applications_own_lifespan_runs_inside(registry: ClientRegistry, broker: FakeBroker) -> None:
    """
    It may send while it starts and while it ends, and its state is its own.
    """

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[dict[str, str]]:
        await extension.sender.send("life", b"starts")
        yield {"mine": "state"}
        await extension.sender.submit("life", b"ends")

    app = FastAPI(lifespan=lifespan)
    extension = SafePulsar(app, _settings(), registry=registry)

    @app.get("/")
    async def look(request: Request) -> str:
        state: str = request.state.mine
        return state

    closed = []
    with TestClient(app) as client:
        assert client.get("/").json() == "state"
        closed.append(extension.sender.sync.closed)
    closed.append(extension.sender.sync.closed)
    assert closed == [False, True]
    assert broker.payloads("life") == [b"starts", b"ends"]
    assert broker.counts.clients_open == 0


def test_after_its_end_it_is_closed(app: FastAPI) -> None:
    """
    An application that ended takes no more messages; a new one is made.
    """
    with TestClient(app) as client:
        client.post("/submit", json={})
    with pytest.raises(SenderClosed, match="make a new one"), TestClient(app):
        pass
    with pytest.raises(SenderClosed):
        TestClient(app).post("/submit", json={})


def test_a_test_client_without_lifespan(app: FastAPI, broker: FakeBroker) -> None:
    """
    The first message opens the sender.
    """
    assert TestClient(app).post("/await", json={"id": 1}).json() == {"fate": "DELIVERED"}
    assert broker.payloads("orders") == [b'{"id":1}']


def test_init_twice(app: FastAPI, registry: ClientRegistry) -> None:
    """
    The same again does nothing; another one is a typed error.
    """
    extension = app.state.safepulsar
    before = list(app.user_middleware)
    extension.init_app(app)
    assert app.user_middleware == before
    with pytest.raises(InvalidSettings, match="has the sender of another SafePulsar already"):
        SafePulsar(app, _settings(), registry=registry)


def test_a_store_that_cannot_be_opened_fails_the_start(registry: ClientRegistry, tmp_path: Path) -> None:
    """
    Nothing is served by an application that could keep nothing.
    """
    app = FastAPI()
    settings = SafePulsarSettings(url=FakeBroker.url, failed_messages=tmp_path)  # a folder
    SafePulsar(app, settings, registry=registry)
    with pytest.raises(SafePulsarError, match=str(tmp_path)), TestClient(app):
        pass


# -- after the response --------------------------------------------------------------------------------------------


def _after(app: FastAPI) -> None:
    @app.post("/after/{status}")
    async def after(status: int, after: After) -> None:
        after.send("after", {"status": status}, partition_key="k")
        if status != 200:
            raise HTTPException(status)

    @app.post("/after-sync")
    def after_sync(after: After) -> None:
        after.send("after", b"sync")

    @app.post("/after-fails")
    async def after_fails(after: After) -> None:
        after.send("after", b"fails")
        raise ValueError

    @app.post("/after-stream")
    async def after_stream(after: After) -> StreamingResponse:
        after.send("after", b"stream")

        async def body() -> AsyncIterator[bytes]:
            yield b"1"
            await asyncio.sleep(0)
            yield b"2"

        return StreamingResponse(body())


def test_messages_of_a_success_are_sent(app: FastAPI, broker: FakeBroker) -> None:
    """
    In place of background tasks, which are lost with the process: accepted before the answer, delivered or kept after.
    """
    _after(app)
    with TestClient(app, raise_server_exceptions=False) as client:
        assert [client.post(f"/after/{status}").status_code for status in (200, 404, 503)] == [200, 404, 503]
        assert client.post("/after-sync").status_code == 200
        assert client.post("/after-fails").status_code == 500
        assert client.post("/after-stream").text == "12"
    # With and without a key are different producers, and have no common order.
    assert sorted(payload or b"" for payload in broker.payloads("after")) == [b"stream", b"sync", b'{"status":200}']


def test_messages_of_a_success_survive_the_end(registry: ClientRegistry, broker: FakeBroker, tmp_path: Path) -> None:
    """
    The application ends, as by a reload, while the broker does not answer: they are kept.
    """
    path = tmp_path / "store" / "failed.db"
    app = FastAPI()
    settings = SafePulsarSettings(
        url=FakeBroker.url, failed_messages=path, sender={"drain_on_sigterm": False, "close_seconds": 0.2}
    )
    SafePulsar(app, settings, registry=registry)
    _after(app)
    with TestClient(app) as client:
        broker.freeze()
        assert client.post("/after/200").status_code == 200
    broker.thaw()
    with SqliteFailedMessages(path) as store:
        assert store.count(EVERYTHING) == 1
    assert broker.payloads("after") == []


def test_without_room_a_success_is_not_promised(registry: ClientRegistry, broker: FakeBroker) -> None:
    """
    The answer is an error then.
    """
    app = FastAPI()
    SafePulsar(app, _settings(max_in_flight_messages=1, when_full="RAISE"), registry=registry)
    _after(app)
    with TestClient(app) as client:
        broker.hold()
        assert client.post("/after/200").status_code == 200
        with pytest.raises(QueueFull):
            client.post("/after/200")
        broker.release()
    assert TestClient(app, raise_server_exceptions=False).post("/after/200").status_code == 500  # it is closed by now
    assert len(broker.payloads("after")) == 1


# -- probes --------------------------------------------------------------------------------------------------------


def test_the_probes_say_why(registry: ClientRegistry, broker: FakeBroker) -> None:
    """
    Live, ready and started, with their reasons, and an OpenAPI schema that says so.
    """
    app = FastAPI()
    extension = SafePulsar(app, _settings(max_in_flight_messages=1), registry=registry)
    app.include_router(health_router())
    client = TestClient(app)  # without its lifespan, so that it is not opened yet
    assert client.get("/health/live").json() == {"status": "ok", "reasons": [], "notes": []}
    for path in ("/health/started", "/health/ready"):
        answer = client.get(path)
        assert answer.status_code == 503
        assert "not opened yet" in answer.json()["reasons"][0]
    sender = extension.sender.sync
    assert sender.send("orders", b"x").fate is Fate.DELIVERED
    assert {client.get(f"/health/{name}").status_code for name in ("live", "ready", "started")} == {200}
    broker.hold()
    handle = sender.submit("orders", b"x")
    assert client.get("/health/ready").json()["reasons"] == ["full: 1 of 1 messages are in flight"]
    broker.release()
    handle.result()
    sender.close()
    assert client.get("/health/live").status_code == 503
    schema = client.get("/openapi.json").json()
    for name in ("live", "ready", "started"):
        answers = schema["paths"][f"/health/{name}"]["get"]["responses"]
        for code in ("200", "503"):
            assert answers[code]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Health"}
    assert set(schema["components"]["schemas"]["Health"]["required"]) == {"status", "reasons", "notes"}


def test_a_hanging_store_is_no_reason_to_be_ready(registry: ClientRegistry, broker: FakeBroker) -> None:
    """
    Messages that could not be kept would be lost with the process.
    """
    from safepulsar import health  # noqa: PLC0415
    from tests.senders import HangingStore  # noqa: PLC0415

    store = HangingStore()
    settings = SenderSettings(drain_on_sigterm=False)
    with RetryingSender(broker.url, failed_messages=store, settings=settings, registry=registry) as sender:
        broker.freeze()
        sender.submit("orders", b"x", deadline_seconds=0.1)
        wait_until(lambda: not health.ready(sender).ok, "it is noticed")
        assert health.ready(sender).reasons == ("the store of failed messages does not answer; see its disk",)
        store.answer.set()
        broker.thaw()


# -- settings ------------------------------------------------------------------------------------------------------


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Each by its variable, parts by their names or as JSON; numbers become numbers.
    """
    variables = {
        "URL": "pulsar://localhost:6650",
        "TOKEN": "secret",
        "FAILED_MESSAGES": "failed/orders.db",
        "SENDER__DEADLINE_SECONDS": "2.5",
        "SENDER__WHEN_FULL": "RAISE",
        "SENDER__RETRY": '{"max_retries": 5}',
        "SENDER__TOPICS": '{"Clicks": {"mix_keys": true}}',
        "REQUEST": '{"baggage": ["shop"], "fields": {"Agent": "User-Agent"}}',
        "CLIENT__IO_THREADS": "2",
    }
    for name, value in variables.items():
        monkeypatch.setenv(f"SAFEPULSAR_{name}", value)
    settings = SafePulsarSettings()
    assert "secret" not in repr(settings)
    found = settings.configuration()
    assert found.client.url == "pulsar://localhost:6650"
    assert found.client.token == "secret"  # noqa: S105
    assert found.client.io_threads == 2
    assert found.failed_messages == "failed/orders.db"
    assert found.sender.deadline_seconds == 2.5
    assert found.sender.when_full.value == "RAISE"
    assert found.sender.retry.max_retries == 5
    assert list(found.sender.topics) == ["Clicks"]
    assert found.request == RequestContextSettings(baggage=("shop",), fields={"Agent": "User-Agent"})


def test_bad_settings_are_typed_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    No URL, or a value that is wrong: the same errors as everywhere.
    """
    monkeypatch.delenv("SAFEPULSAR_URL", raising=False)
    with pytest.raises(InvalidSettings, match="SAFEPULSAR_URL: is missing: set it to the broker"):
        SafePulsar(FastAPI())
    monkeypatch.setenv("SAFEPULSAR_URL", "http://x")
    with pytest.raises(InvalidSettings, match="must begin with 'pulsar://'"):
        SafePulsar(FastAPI())
    with pytest.raises(InvalidSettings, match=r"SenderSettings\.deadline: is not a setting"):
        SafePulsar(FastAPI(), SafePulsarSettings(url=FakeBroker.url, sender={"deadline": 1}))


def test_requests_at_once(app: FastAPI, broker: FakeBroker) -> None:
    """
    Many at the same time, in coroutines and threads, lose and mix up nothing.
    """
    from httpx2 import ASGITransport, AsyncClient  # noqa: PLC0415

    async def main() -> None:
        async with AsyncClient(transport=ASGITransport(app), base_url="http://shop") as client:
            answers = await asyncio.gather(
                *(client.post("/sync" if number % 2 else "/await", json={"id": number}) for number in range(200))
            )
            assert {answer.json()["fate"] for answer in answers} == {"DELIVERED"}

    asyncio.run(main())
    assert sorted(json.loads(payload or b"")["id"] for payload in broker.payloads("orders")) == list(range(200))
