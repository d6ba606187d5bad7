"""
A client that goes away, with a real server and a real connection.
"""

from __future__ import annotations

import json
import socket
import urllib.request
from typing import Any

import pytest

from tests.subprocesses import Script
from tests.waiting import wait_until

_APPLICATION = """
    import asyncio, socket, sys
    import uvicorn
    from fastapi import FastAPI
    from safepulsar import ClientRegistry
    from safepulsar.adapters.fastapi import After, SafePulsar, SafePulsarSettings, Sender
    from safepulsar.testing import FakeBroker

    broker = FakeBroker()
    app = FastAPI()
    pulsar = SafePulsar(app, SafePulsarSettings(url=broker.url), registry=ClientRegistry(broker.connect))
    seen = []

    @app.post("/orders/{name}")
    async def order(name: str, body: dict, sender: Sender) -> str:
        seen.append(name)
        return (await sender.send("orders", name, deadline_seconds=60)).fate.value

    @app.get("/get/{name}")
    async def get(name: str, sender: Sender) -> str:
        seen.append(name)
        return (await sender.send("orders", name, deadline_seconds=60)).fate.value

    @app.post("/after/{name}")
    async def after(name: str, after: After) -> str:
        seen.append(name)
        after.send("orders", name)
        await asyncio.sleep(0.5)
        return "accepted"

    @app.get("/freeze")
    async def freeze() -> None:
        broker.freeze()

    @app.get("/thaw")
    async def thaw() -> None:
        broker.thaw()

    @app.get("/state")
    async def state() -> dict:
        counts = pulsar.sender.stats().counts if pulsar.sender.sync._engine else None
        return {
            "seen": seen,
            "accepted": counts.accepted if counts else 0,
            "cancelled": counts.cancelled if counts else 0,
            "in_flight": counts.in_flight if counts else 0,
            "stored": [(payload or b"").decode() for payload in broker.payloads("orders")],
        }

    listening = socket.socket()
    listening.bind(("127.0.0.1", int(sys.argv[1])))
    listening.listen()
    print("listens", flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listening])
"""


def _get(port: int, path: str) -> Any:  # noqa: ANN401 - JSON
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
        return json.load(answer)


def _leave(port: int, method: str, path: str, seen: str) -> None:
    """
    Ask for something, and go away once the endpoint is at it.
    """
    body = b"{}" if method == "POST" else b""
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(head.encode() + body)
        wait_until(lambda: seen in _get(port, "/state")["seen"], "the endpoint is called")


@pytest.mark.timeout(90)
def test_a_client_that_goes_away() -> None:
    """
    What was not handed over is cancelled and surely not sent, what belongs to the answer is sent, and the server goes on.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with Script(_APPLICATION, port) as script:
        script.wait_for("listens")
        _get(port, "/freeze")
        _leave(port, "POST", "/orders/posted", "posted")
        wait_until(lambda: _get(port, "/state")["cancelled"] == 1, "the first is cancelled")
        _leave(port, "GET", "/get/gotten", "gotten")
        wait_until(lambda: _get(port, "/state")["cancelled"] == 2, "the second is cancelled")
        _leave(port, "POST", "/after/after", "after")
        wait_until(lambda: _get(port, "/state")["in_flight"] == 1, "what belongs to the answer is accepted")
        _get(port, "/thaw")
        wait_until(lambda: _get(port, "/state")["stored"] == ["after"], "it is delivered")
        assert _get(port, "/get/stays") == "DELIVERED"
        state = _get(port, "/state")
        assert (state["accepted"], state["cancelled"], state["in_flight"]) == (4, 2, 0)
        assert state["stored"] == ["after", "stays"]
        assert "Traceback" not in script.finish(timeout_seconds=0.1).stderr
