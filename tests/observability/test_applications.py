"""
What the adapters make can be watched as any sender: observers reach it, in Flask, in FastAPI and in coroutines.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from flask import Flask
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from safepulsar.adapters import fastapi as fastapi_adapter
from safepulsar.adapters import flask as flask_adapter
from safepulsar.adapters.fastapi import Sender  # noqa: TC001 - FastAPI reads it at run time
from safepulsar.async_sender import AsyncSender
from safepulsar.broker.client_registry import ClientRegistry
from safepulsar.errors import QueueFull
from safepulsar.message import Fate
from safepulsar.metrics import Metrics
from safepulsar.observing import Refused
from safepulsar.settings import SenderSettings, WhenFull
from safepulsar.testing import FakeBroker
from safepulsar.tracing import Tracing
from tests.observability.observed import Listener

if TYPE_CHECKING:
    from pathlib import Path

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def broker() -> FakeBroker:
    """
    One of its own for each test.
    """
    return FakeBroker()


def test_flask_is_watched(broker: FakeBroker) -> None:
    """
    A request's message is counted, and its span continues the trace of the request.
    """
    exporter, provider, metrics = InMemorySpanExporter(), TracerProvider(), Metrics()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    app = Flask("shop")
    app.config["SAFEPULSAR_URL"] = broker.url
    app.config["SAFEPULSAR_SENDER"] = {"drain_on_sigterm": False}
    extension = flask_adapter.SafePulsar(
        app,
        steps=[Tracing(tracer_provider=provider)],
        observers=[metrics],
        registry=ClientRegistry(broker.connect),
    )

    @app.post("/")
    def order() -> str:
        return str(flask_adapter.current_sender.send("orders", b"x").message_id)

    assert app.test_client().post("/", headers={"traceparent": TRACEPARENT}).status_code == 200
    extension.close()
    (span,) = exporter.get_finished_spans()
    assert span.context is not None
    assert f"{span.context.trace_id:032x}" == TRACEPARENT[3:35]
    (books,) = (family for family in metrics.collect() if family.name == "safepulsar_messages_total")
    assert books.samples["delivered",] == 1


def test_fastapi_is_watched(broker: FakeBroker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """
    Likewise.
    """
    monkeypatch.setenv("SAFEPULSAR_URL", broker.url)
    monkeypatch.chdir(tmp_path)
    listener = Listener()
    app = FastAPI()
    fastapi_adapter.SafePulsar(app, observers=[listener], registry=ClientRegistry(broker.connect))

    @app.post("/")
    async def order(sender: Sender) -> str:
        return str((await sender.send("orders", b"x")).message_id)

    with TestClient(app) as client:
        assert client.post("/").status_code == 200
    assert listener.finished(Fate.DELIVERED) == 1


def test_coroutines_are_watched(broker: FakeBroker) -> None:
    """
    Also what is refused there.
    """
    listener = Listener()

    async def main() -> None:
        settings = SenderSettings(max_in_flight_messages=1, when_full=WhenFull.RAISE, drain_on_sigterm=False)
        registry = ClientRegistry(broker.connect)
        async with AsyncSender(broker.url, settings=settings, registry=registry, observers=[listener]) as sender:
            await sender.send("orders", b"x")
            broker.hold()
            first = asyncio.ensure_future(sender.send("orders", b"x"))
            await asyncio.to_thread(broker.wait_until, lambda: broker.held)
            with pytest.raises(QueueFull):
                await sender.send("orders", b"x")
            broker.release()
            await first

    asyncio.run(main())
    assert listener.finished(Fate.DELIVERED) == 2
    assert [fact.error_code for fact in listener.facts if isinstance(fact, Refused)] == ["QueueFull"]
